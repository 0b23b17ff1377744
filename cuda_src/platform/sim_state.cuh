// What the simulator knows of a launch: its threads, their places in the source and, when a
// check fails, the message.
//
// State has internal linkage: a name shared between two loaded libraries (a static member, an
// inline variable) would be one object for both.
#pragma once
#include "platform/sim_fiber.cuh"

namespace nnk {

// Where in the source an operation stands. As a default argument, NNK_HERE is the caller's
// line; Site{__builtin_FILE(), __builtin_LINE()} would be the callee's with g++ 12.
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};
#define NNK_HERE nnk::Site::here()

struct SimLaunch {
  long long blocks;
  long long shared_bytes;  // dynamic shared memory of a block
  long long shared_limit;  // dynamic and static together
  unsigned long long seed;
  long long message_bytes;
  char* message;
};

constexpr int warp_width = NNK_SIM_WARP;
static_assert(warp_width == 32 || warp_width == 64, "a warp has 32 or 64 lanes");

namespace sim {

using size_t = decltype(sizeof(0));

#ifndef NNK_SIM_STACK
#define NNK_SIM_STACK 65536
#endif
constexpr long long stack_bytes = NNK_SIM_STACK;
constexpr int most_threads = 1024;
constexpr int most_warps = most_threads / 32;
constexpr unsigned most_sites = 1024;  // a kernel has some tens of them

enum class State { ready, at_barrier, at_exchange, returned };

struct Simulation;
struct Fiber;

// What a lane brings to a warp operation.
struct Exchange {
  const char* name;
  const void* value;
  void* result;
  int source;  // the lane whose value it gets
  int bytes, width;
  // Makes the results of all lanes from the values of all of them; null: as `source` says. Such
  // an operation needs every lane of a warp.
  void (*together)(Simulation& s, Fiber* lanes);
};

// Asynchronous copies under way, oldest first (sim_memory.cuh).
struct Copy;
struct CopyQueue {
  Copy* copies;
  int first, end, capacity;
  int group;  // the group of the next copy; smaller numbers are committed
};

// Products of a warpgroup under way, oldest first (sim_warpgroup.cuh).
struct Product;
constexpr int most_sums_bytes = 512;
struct ProductQueue {
  Product* products;
  int first, end, capacity;
  int group;                               // of the next product; smaller numbers are committed
  void* sums;                              // of the thread; null: nothing is under way
  alignas(16) char kept[most_sums_bytes];  // their values meanwhile
};

struct Fiber {
  Context context;
  unsigned long long* canary;  // just above the stack
  State state;
  int rank;
  Site site;  // where it waits
  Site seen;  // its latest checked operation
  Exchange exchange;
  CopyQueue queue;
  ProductQueue products;
};

struct Lanes {  // one warp
  Fiber* ready[warp_width];
  int ready_count;
  int first, count;  // ranks
  // Two accesses to memory by lanes of one warp are ordered if a warp operation or barrier
  // lies between them, that is, if their moments differ.
  unsigned long long moment;
};

struct Segment;  // an array of shared memory (sim_memory.cuh)

// Memory that kernels reach by pointers (sim_cuda.cuh): all thread-local memory of their library,
// where shared memory with a name is, and in it the dynamic memory of a launch.
struct NamedMemory {
  char* all;
  long long bytes;
  char* dynamic;
  long long dynamic_bytes;
  Segment *watched, *watched_dynamic;  // for the race detector; null: nothing is watched
  const char *image, *image_end;       // the library
};

struct Simulation {
  const SimLaunch* launch;
  Site entry;
  void (*body)(const void*);
  const void* args;
  int threads, warps;
  long long block;

  Fiber* running;
  Context caller;
  Fiber* fibers;
  char* stacks;
  Lanes lanes[most_warps];
  int order[most_warps];  // position -> warp
  int position[most_warps];
  unsigned warps_ready;  // a bit for each position
  bool one_warp_ahead;
  unsigned long long random_state;
  bool failed;

  unsigned long long moment, block_moment;  // now, and at the latest barrier of the block
  Segment* segments;
  const NamedMemory* named;  // null: there is none
  Site sites[most_sites];    // places of shared memory accesses (sim_races.cuh)
  long long static_bytes;
};

static thread_local Simulation* current = nullptr;

// ---- errors ---------------------------------------------------------------------------

__attribute__((format(printf, 3, 4))) inline void write_message(Simulation& s, Site site,
                                                                const char* format, ...) {
  s.failed = true;
  char* message = s.launch->message;
  const long long size = s.launch->message_bytes;
  if (message == nullptr || size <= 0) return;
  const int used = __builtin_snprintf(message, size_t(size), "%s:%d: ", site.file, site.line);
  if (used < 0 || used >= size) return;
  __builtin_va_list arguments;
  __builtin_va_start(arguments, format);
  const int more = __builtin_vsnprintf(message + used, size_t(size - used), format, arguments);
  __builtin_va_end(arguments);
  if (s.running == nullptr || more < 0 || more >= size - used) return;
  __builtin_snprintf(message + used + more, size_t(size - used - more), " (block %lld)", s.block);
}

// Ends the launch from inside a fiber. The other fibers are abandoned where they are: kernel
// code owns nothing that would need a destructor.
[[noreturn]] inline void stop(Simulation& s) {
  switch_context(s.running->context, s.caller);
  __builtin_unreachable();
}
#define NNK_SIM_FAIL(simulation, site, ...)                     \
  do {                                                          \
    nnk::sim::write_message((simulation), (site), __VA_ARGS__); \
    nnk::sim::stop(simulation);                                 \
  } while (false)

inline bool same_site(Site a, Site b) {
  return a.line == b.line && (a.file == b.file || __builtin_strcmp(a.file, b.file) == 0);
}

// Where a fiber is, in words: "waits at file:line" and so on.
struct Words { char text[512]; };
inline Words whereabouts(const Fiber& fiber) {
  Words words;
  const size_t size = sizeof(words.text);
  if (fiber.state == State::at_barrier)
    __builtin_snprintf(words.text, size, "thread %d is at the barrier at %s:%d", fiber.rank,
                       fiber.site.file, fiber.site.line);
  else if (fiber.state == State::at_exchange)
    __builtin_snprintf(words.text, size, "thread %d is at the %s<%d> of %d bytes at %s:%d",
                       fiber.rank, fiber.exchange.name, fiber.exchange.width, fiber.exchange.bytes,
                       fiber.site.file, fiber.site.line);
  else
    __builtin_snprintf(words.text, size,
                       "thread %d has returned from the kernel, last seen at %s:%d", fiber.rank,
                       fiber.seen.file, fiber.seen.line);
  return words;
}

}  // namespace sim
}  // namespace nnk
