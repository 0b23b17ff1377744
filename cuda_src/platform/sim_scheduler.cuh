// The scheduler of the simulator: runs the threads of a block as fibers, in an order drawn
// from the seed, and finds barriers and warp operations that not every thread reaches.
//
// A fiber runs until its next synchronisation point: a barrier, a warp operation or the end
// of the kernel.
#pragma once
#include "platform/sim_fiber.cuh"
#include "platform/sim_state.cuh"

namespace nnk {
namespace sim {

// What sim_memory.cuh does at the beginning and the end.
inline bool too_much_shared(Simulation& s, Site site);
inline void begin_block_memory(Simulation& s);
inline void end_block_memory(Simulation& s);
inline void check_copies_at_return(Simulation& s, Fiber& fiber);
inline void check_products_at_return(Simulation& s, Fiber& fiber);
inline void release_memory(Simulation& s);

// ---- order ----------------------------------------------------------------------------

// SplitMix64 (Steele, Lea & Flood, OOPSLA 2014).
inline unsigned long long random_bits(Simulation& s) {
  unsigned long long z = s.random_state += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
inline long long random_below(Simulation& s, long long n) {
  // The high half of a product is cheaper than a division; no grid has 2^32 blocks here.
  return static_cast<long long>((random_bits(s) >> 32) * static_cast<unsigned long long>(n) >> 32);
}

// A new order of warps. Half of the time the first warp in it runs as far as it can before
// the next one moves: a fair draw at each step would almost never let one warp run ahead
// through several warp operations, and only that shows some missing barriers.
inline void draw_order(Simulation& s) {
  for (int i = 0; i < s.warps; ++i) s.order[i] = i;
  for (int i = s.warps - 1; i > 0; --i) {
    const int j = int(random_below(s, i + 1)), warp = s.order[i];
    s.order[i] = s.order[j];
    s.order[j] = warp;
  }
  for (int i = 0; i < s.warps; ++i) s.position[s.order[i]] = i;
  s.one_warp_ahead = random_bits(s) & 1;
}

inline void make_ready(Simulation& s, int warp) {
  Lanes& lanes = s.lanes[warp];
  lanes.ready_count = lanes.count;
  for (int i = 0; i < lanes.count; ++i) {
    lanes.ready[i] = &s.fibers[lanes.first + i];
    lanes.ready[i]->state = State::ready;
  }
  s.warps_ready |= 1u << s.position[warp];
}

// All lanes that exist passed a barrier or began the block.
inline void make_all_ready(Simulation& s) {
  s.block_moment = ++s.moment;
  draw_order(s);
  s.warps_ready = 0;
  for (int warp = 0; warp < s.warps; ++warp) {
    s.lanes[warp].moment = s.moment;
    make_ready(s, warp);
  }
}

inline Fiber& draw_fiber(Simulation& s) {
  unsigned left = s.warps_ready;
  if (!s.one_warp_ahead)
    for (long long skip = random_below(s, __builtin_popcount(left)); skip > 0; --skip)
      left &= left - 1;
  const int position = __builtin_ctz(left);
  Lanes& lanes = s.lanes[s.order[position]];
  const int i = int(random_below(s, lanes.ready_count));
  Fiber& fiber = *lanes.ready[i];
  lanes.ready[i] = lanes.ready[--lanes.ready_count];
  if (lanes.ready_count == 0) s.warps_ready &= ~(1u << position);
  return fiber;
}

// ---- synchronisation --------------------------------------------------------------------

// All lanes of a warp are where `first` is, at a warp operation: gives each its result.
inline void exchange_values(Simulation& s, const Lanes& lanes, const Fiber& first) {
  Fiber* fibers = s.fibers + lanes.first;
  if (first.exchange.together != nullptr) {
    if (lanes.count < warp_width)
      NNK_SIM_FAIL(s, first.site, "%s needs a warp of %d lanes, and the last one has %d",
                   first.exchange.name, warp_width, lanes.count);
    first.exchange.together(s, fibers);
    return;
  }
  for (int i = 0; i < lanes.count; ++i) {
    const Exchange& exchange = fibers[i].exchange;
    // A lane beyond the end of the block has no value to give: poison.
    if (exchange.source < lanes.count)
      __builtin_memcpy(exchange.result, fibers[exchange.source].exchange.value,
                       size_t(exchange.bytes));
    else __builtin_memset(exchange.result, 0xff, size_t(exchange.bytes));
  }
}

// Every lane of a warp has stopped. If they are at one warp operation, exchanges the values.
inline void settle_warp(Simulation& s, int warp) {
  Lanes& lanes = s.lanes[warp];
  Fiber* fibers = s.fibers + lanes.first;
  const Fiber* first = nullptr;
  for (int i = 0; i < lanes.count && first == nullptr; ++i)
    if (fibers[i].state == State::at_exchange) first = &fibers[i];
  if (first == nullptr) return;
  for (int i = 0; i < lanes.count; ++i) {
    const Fiber& other = fibers[i];
    if (other.state == State::at_exchange && same_site(other.site, first->site) &&
        other.exchange.name == first->exchange.name &&
        other.exchange.width == first->exchange.width &&
        other.exchange.bytes == first->exchange.bytes &&
        other.exchange.together == first->exchange.together)
      continue;
    NNK_SIM_FAIL(s, first->site, "divergent warp operation: %s, but %s of the same warp",
                 whereabouts(*first).text, whereabouts(other).text);
  }
  exchange_values(s, lanes, *first);
  lanes.moment = ++s.moment;
  make_ready(s, warp);
}

// No fiber can run: the block has ended, or all of it is at one barrier.
inline void settle_block(Simulation& s) {
  const Fiber* waiting = nullptr;
  const Fiber* returned = nullptr;
  for (int i = 0; i < s.threads; ++i) {
    const Fiber& fiber = s.fibers[i];
    if (fiber.state == State::returned) {
      if (returned == nullptr) returned = &fiber;
    } else if (waiting == nullptr) {
      waiting = &fiber;
    } else if (!same_site(waiting->site, fiber.site)) {
      NNK_SIM_FAIL(s, waiting->site, "divergent barrier: %s, but %s", whereabouts(*waiting).text,
                   whereabouts(fiber).text);
    }
  }
  if (waiting == nullptr) stop(s);
  if (returned != nullptr)
    NNK_SIM_FAIL(s, waiting->site, "divergent barrier: %s, but %s", whereabouts(*waiting).text,
                 whereabouts(*returned).text);
  make_all_ready(s);
}

// Stacks lie one above the other, so a fiber that needs too much of its own writes over the
// top of the next lower one. A word there tells before that fiber runs again.
constexpr unsigned long long canary = 0x5afec0de5afec0deull;
inline char* stack_of(Simulation& s, int rank) { return s.stacks + (rank + 1) * stack_bytes; }

// The running fiber stops in `state`; another one goes on.
inline void suspend(Simulation& s, State state) {
  Fiber& fiber = *s.running;
  fiber.state = state;
  const int warp = fiber.rank / warp_width;
  if (s.lanes[warp].ready_count == 0) settle_warp(s, warp);
  if (s.warps_ready == 0) settle_block(s);
  Fiber& next = draw_fiber(s);
  if (&next == &fiber) return;
  if (*next.canary != canary)
    NNK_SIM_FAIL(s, s.fibers[next.rank + 1].seen,
                 "thread %d overran its stack of %lld bytes (compile with a larger NNK_SIM_STACK)",
                 next.rank + 1, stack_bytes);
  s.running = &next;
  switch_context(fiber.context, next.context);
}

inline void wait_at_barrier(Simulation& s, Site site) {
  s.running->site = s.running->seen = site;
  suspend(s, State::at_barrier);
}

inline void exchange_lanes(const Exchange& exchange, Site site) {
  Simulation& s = *current;
  s.running->site = s.running->seen = site;
  s.running->exchange = exchange;
  suspend(s, State::at_exchange);
}

// ---- launch -----------------------------------------------------------------------------

inline void run_fiber() {
  Simulation& s = *current;
  s.body(s.args);
  check_copies_at_return(s, *s.running);
  check_products_at_return(s, *s.running);
  suspend(s, State::returned);
  __builtin_unreachable();
}

inline void run_block(Simulation& s, long long block) {
  s.block = block;
  begin_block_memory(s);
  for (int i = 0; i < s.threads; ++i) {
    Fiber& fiber = s.fibers[i];
    fiber.rank = i;
    fiber.seen = s.entry;
    fiber.queue.first = fiber.queue.end = fiber.queue.group = 0;
    fiber.products.first = fiber.products.end = fiber.products.group = 0;
    fiber.products.sums = nullptr;
    // Stacks that began at equal addresses modulo 4 KiB would all use the same few cache sets.
    char* top = stack_of(s, i + 1) - 320 * (i % 13) - 16;
    fiber.canary = reinterpret_cast<unsigned long long*>(top);
    *fiber.canary = canary;
    prepare_context(fiber.context, stack_of(s, i), top, run_fiber);
  }
  make_all_ready(s);
  s.running = &draw_fiber(s);
  switch_context(s.caller, s.running->context);
}

// The blocks, one after another in an order drawn from the seed.
inline void run_blocks(Simulation& s, long long* blocks) {
  const long long n = s.launch->blocks;
  for (long long i = 0; i < n; ++i) blocks[i] = i;
  for (long long i = n - 1; i >= 0 && !s.failed; --i) {
    const long long j = random_below(s, i + 1), block = blocks[j];
    blocks[j] = blocks[i];
    run_block(s, block);
    end_block_memory(s);
  }
}

// The warps of a block of s.threads threads.
inline void divide_into_warps(Simulation& s) {
  s.warps = (s.threads + warp_width - 1) / warp_width;
  for (int warp = 0; warp < s.warps; ++warp) {
    const int first = warp * warp_width, rest = s.threads - first;
    s.lanes[warp].first = first;
    s.lanes[warp].count = rest < warp_width ? rest : warp_width;
  }
}

// What an entry does. Returns 0, or 1 with a message.
inline int run(const SimLaunch& launch, int threads, Site entry, void (*body)(const void*),
               const void* args, const NamedMemory* named = nullptr) {
  if (launch.blocks <= 0) return 0;
  Simulation* s = static_cast<Simulation*>(__builtin_calloc(1, sizeof(Simulation)));
  if (s == nullptr) return 1;
  s->launch = &launch;
  s->entry = entry;
  s->body = body;
  s->args = args;
  s->named = named;
  s->threads = threads;
  s->random_state = launch.seed;
  divide_into_warps(*s);
  // One stack more at the bottom, so that an overrun of the first one hits nothing else.
  s->stacks = static_cast<char*>(__builtin_malloc(size_t((threads + 1) * stack_bytes)));
  s->fibers = static_cast<Fiber*>(__builtin_calloc(size_t(threads), sizeof(Fiber)));
  void* blocks = __builtin_malloc(size_t(launch.blocks) * sizeof(long long));
  if (blocks == nullptr || s->stacks == nullptr || s->fibers == nullptr) {
    write_message(*s, entry, "no memory for %d stacks and %lld blocks", threads, launch.blocks);
  } else if (!too_much_shared(*s, entry)) {
    current = s;
    run_blocks(*s, static_cast<long long*>(blocks));
    release_memory(*s);
    current = nullptr;
  }
  const bool failed = s->failed;
  __builtin_free(blocks);
  __builtin_free(s->fibers);
  __builtin_free(s->stacks);
  __builtin_free(s);
  return failed ? 1 : 0;
}

}  // namespace sim
}  // namespace nnk
