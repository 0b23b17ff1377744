// Accesses to memory by pointers, in a user's kernel in the simulator.
//
// Compiled with -fsanitize=kernel-address, each calls a function: those below, since nothing of a
// sanitizer is linked. Shared memory with a name goes to the race detector, and global memory must
// be that of an array that the kernel was given.
#pragma once
#include "platform/sim_cuda_launch.cuh"

namespace nnk {
namespace sim {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool watches = true;
#elif defined(__has_feature)
constexpr bool watches = __has_feature(address_sanitizer);
#else
constexpr bool watches = false;
#endif

// Where memory is that the simulator itself gave to the kernel, or keeps.
NNK_SIM_UNWATCHED inline bool is_own(const Simulation& s, const char* p) {
  const auto within = [p](const void* begin, long long bytes) NNK_SIM_UNWATCHED {
    return p >= begin && p < static_cast<const char*>(begin) + bytes;
  };
  const NamedMemory& named = *s.named;
  if (within(named.image, named.image_end - named.image)) return true;
  if (within(&s, sizeof(s)) || within(&cuda_launch(), sizeof(CudaLaunch))) return true;
  if (within(s.fibers, s.threads * static_cast<long long>(sizeof(Fiber)))) return true;
  for (const Segment* segment = s.segments; segment != nullptr; segment = segment->next)
    if (within(segment->bytes, segment->size)) return true;
  return false;
}
NNK_SIM_UNWATCHED inline bool is_given(const char* p, long long bytes) {
  const CudaLaunch& launch = cuda_launch();
  for (int i = 0; i < launch.array_count; ++i)
    if (p >= launch.arrays[i].begin && p + bytes <= launch.arrays[i].end) return true;
  return false;
}

// A place in the code instead of one in the text: the host knows the line (addr2line).
NNK_SIM_UNWATCHED inline void watch(const void* address, long long bytes, bool writes,
                                    const void* code) {
  Simulation* const s = current;
  if (s == nullptr || s->named == nullptr || s->named->watched == nullptr) return;
  const char* const p = static_cast<const char*>(address);
  if (p >= s->stacks && p < s->stacks + (s->threads + 1) * stack_bytes) return;
  const NamedMemory& named = *s->named;
  const Site site{"@", int(static_cast<const char*>(code) - named.image) - 1};
  if (p >= named.all && p < named.all + named.bytes) {
    if (address == &current) return;
    const long long in_dynamic = p - named.dynamic, size = s->launch->shared_bytes;
    if (in_dynamic >= 0 && in_dynamic < named.dynamic_bytes && in_dynamic + bytes > size)
      NNK_SIM_FAIL(*s, site, "thread %d %s bytes %lld to %lld of %lld of dynamic shared memory",
                   s->running->rank, writes ? "writes" : "reads", in_dynamic,
                   in_dynamic + bytes - 1, size);
    const bool dynamic = in_dynamic >= 0 && in_dynamic < named.dynamic_bytes;
    Segment& segment = dynamic ? *named.watched_dynamic : *named.watched;
    refine(segment, int(bytes));
    record(*s, segment, p - segment.bytes, int(bytes), writes ? Touch::write : Touch::read, site);
    return;
  }
#ifndef NNK_SIM_NO_BOUNDS
  if (!is_given(p, bytes) && !is_own(*s, p))
    NNK_SIM_FAIL(*s, site, "thread %d %s %lld bytes at an address outside of all arguments",
                 s->running->rank, writes ? "writes" : "reads", bytes);
#endif
}

}  // namespace sim
}  // namespace nnk

#define NNK_SIM_HOOK(name, writes)                                        \
  extern "C" __attribute__((visibility("hidden"))) NNK_SIM_UNWATCHED void \
  __asan_##name##N_noabort(void* p, long bytes) {                         \
    nnk::sim::watch(p, bytes, writes, __builtin_return_address(0));       \
  }                                                                       \
  NNK_SIM_HOOK_OF(name, writes, 1)                                        \
  NNK_SIM_HOOK_OF(name, writes, 2)                                        \
  NNK_SIM_HOOK_OF(name, writes, 4)                                        \
  NNK_SIM_HOOK_OF(name, writes, 8)                                        \
  NNK_SIM_HOOK_OF(name, writes, 16)
#define NNK_SIM_HOOK_OF(name, writes, bytes)                              \
  extern "C" __attribute__((visibility("hidden"))) NNK_SIM_UNWATCHED void \
  __asan_##name##bytes##_noabort(void* p) {                               \
    nnk::sim::watch(p, bytes, writes, __builtin_return_address(0));       \
  }
NNK_SIM_HOOK(load, false)
NNK_SIM_HOOK(store, true)
#undef NNK_SIM_HOOK
#undef NNK_SIM_HOOK_OF
extern "C" __attribute__((visibility("hidden"))) NNK_SIM_UNWATCHED void __asan_handle_no_return() {}
