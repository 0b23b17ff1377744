// CUDA C++ for the simulator: enough of the language that the text of a user's kernel is C++ as it
// stands (nnkernels/launch/simulated_cuda.py compiles and runs it).
//
// threadIdx and its relatives, __shared__ and dynamic shared memory, barriers, shuffles and votes
// of whole warps, atomics, vector types, and mathematics. Shared memory that a kernel declares
// itself is poisoned for each block. Where the compiler has -fsanitize=kernel-address, accesses by
// its name and by pointers are checked as those through nnk::Shared are, and those to global memory
// must be to arrays that the kernel was given; NNK_SIM_NO_RACES and NNK_SIM_NO_BOUNDS let them be.
#pragma once
#include <math.h>

#include "platform/sim_cuda_entry.cuh"

extern "C" int printf(const char* format, ...);

// ---- words of the language --------------------------------------------------------------------

#define __global__ __attribute__((visibility("default"), noinline))
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
// All threads of a block are fibers of one thread of the system. At block scope `thread_local` is
// static, and `extern thread_local T x[];` declares what the host defines behind the text.
#define __shared__ thread_local

// ---- the launch
// -----------------------------------------------------------------------------------

#define threadIdx (nnk::sim::thread_index())
#define blockIdx (nnk::sim::block_index())
#define blockDim (nnk::sim::shape_of(nnk::sim::cuda_launch().block))
#define gridDim (nnk::sim::shape_of(nnk::sim::cuda_launch().grid))
#define warpSize (nnk::warp_width)

// ---- synchronisation, and exchange within a warp ----------------------------------------------

namespace nnk {
namespace sim {

NNK_SIM_UNWATCHED inline int lane() { return current->running->rank % warp_width; }

// Threads beyond the last one are in the masks of CUDA programs, and do not count.
NNK_SIM_UNWATCHED inline void require_whole_warp(unsigned mask, const char* name, Site site) {
  const int count = current->lanes[current->running->rank / warp_width].count;
  const unsigned all = count >= 32 ? 0xffffffffu : (1u << count) - 1u;
  if ((mask & all) != all)
    NNK_SIM_FAIL(*current, site, "%s of a part of a warp: the simulator knows whole ones", name);
}
template <class T>
inline T shuffled(const char* name, unsigned mask, T x, int source, int width, Site site) {
  require_whole_warp(mask, name, site);
  T result;
  exchange_lanes({name, &x, &result, source, int(sizeof(T)), width, nullptr}, site);
  return result;
}
// Lane `source` of the own segment of a warp, or the own lane where there is none.
inline int in_segment(int source, int width) {
  const int first = lane() / width * width;
  return source < first || source >= first + width ? lane() : source;
}

NNK_SIM_UNWATCHED inline void sync_warp(Site site) {
  char nothing = 0, result;
  exchange_lanes({"__syncwarp", &nothing, &result, lane(), 1, warp_width, nullptr}, site);
}

// A bit for each lane of the warp whose predicate is true.
inline unsigned long long votes(unsigned mask, bool predicate, const char* name, Site site) {
  require_whole_warp(mask, name, site);
  unsigned long long bits = predicate ? 1ull << lane() : 0;
  const int count = current->lanes[current->running->rank / warp_width].count;
  unsigned long long all = 0;
  for (int i = 0; i < count; ++i) {
    unsigned long long other;
    exchange_lanes({name, &bits, &other, i, int(sizeof(bits)), warp_width, nullptr}, site);
    all |= other;
  }
  return all;
}

template <class T> NNK_SIM_UNWATCHED inline T exchanged(T* p, T x) {
  const T old = *p;
  *p = x;
  return old;
}

}  // namespace sim
}  // namespace nnk

// Macros where a place in the user's text is wanted for messages.
#define NNK_SIM_SITE (nnk::Site{__FILE__, __LINE__})
#define __syncthreads() nnk::sim::wait_at_barrier(*nnk::sim::current, NNK_SIM_SITE)
#define __syncwarp(...) nnk::sim::sync_warp(NNK_SIM_SITE)

template <class T>
inline T __shfl_sync(unsigned mask, T x, int source, int width = nnk::warp_width,
                     nnk::Site site = NNK_HERE) {
  const int first = nnk::sim::lane() / width * width;
  return nnk::sim::shuffled("__shfl_sync", mask, x, first + (source & (width - 1)), width, site);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T x, int lanes, int width = nnk::warp_width,
                         nnk::Site site = NNK_HERE) {
  const int source = nnk::sim::lane() ^ lanes;
  const int end = (nnk::sim::lane() / width + 1) * width;
  return nnk::sim::shuffled("__shfl_xor_sync", mask, x, source < end ? source : nnk::sim::lane(),
                            width, site);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T x, unsigned delta, int width = nnk::warp_width,
                          nnk::Site site = NNK_HERE) {
  const int source = nnk::sim::in_segment(nnk::sim::lane() + int(delta), width);
  return nnk::sim::shuffled("__shfl_down_sync", mask, x, source, width, site);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T x, unsigned delta, int width = nnk::warp_width,
                        nnk::Site site = NNK_HERE) {
  const int source = nnk::sim::in_segment(nnk::sim::lane() - int(delta), width);
  return nnk::sim::shuffled("__shfl_up_sync", mask, x, source, width, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, nnk::Site site = NNK_HERE) {
  return unsigned(nnk::sim::votes(mask, predicate != 0, "__ballot_sync", site));
}
inline int __any_sync(unsigned mask, int predicate, nnk::Site site = NNK_HERE) {
  return nnk::sim::votes(mask, predicate != 0, "__any_sync", site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, nnk::Site site = NNK_HERE) {
  return nnk::sim::votes(mask, predicate == 0, "__all_sync", site) == 0;
}
inline unsigned __activemask() { return 0xffffffffu; }
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- atomics: one fiber runs at a time, so plain operations are atomic
// ---------------------------

template <class T, class U> NNK_SIM_UNWATCHED inline T atomicAdd(T* p, U x) {
  return nnk::sim::exchanged(p, T(*p + T(x)));
}
template <class T, class U> NNK_SIM_UNWATCHED inline T atomicSub(T* p, U x) {
  return nnk::sim::exchanged(p, T(*p - T(x)));
}
template <class T, class U> NNK_SIM_UNWATCHED inline T atomicExch(T* p, U x) {
  return nnk::sim::exchanged(p, T(x));
}
template <class T, class U> NNK_SIM_UNWATCHED inline T atomicMax(T* p, U x) {
  return nnk::sim::exchanged(p, *p > T(x) ? *p : T(x));
}
template <class T, class U> NNK_SIM_UNWATCHED inline T atomicMin(T* p, U x) {
  return nnk::sim::exchanged(p, *p < T(x) ? *p : T(x));
}
template <class T, class U> NNK_SIM_UNWATCHED inline T atomicAnd(T* p, U x) {
  return nnk::sim::exchanged(p, T(*p & T(x)));
}
template <class T, class U> NNK_SIM_UNWATCHED inline T atomicOr(T* p, U x) {
  return nnk::sim::exchanged(p, T(*p | T(x)));
}
template <class T, class U> NNK_SIM_UNWATCHED inline T atomicXor(T* p, U x) {
  return nnk::sim::exchanged(p, T(*p ^ T(x)));
}
template <class T, class U, class V> NNK_SIM_UNWATCHED inline T atomicCAS(T* p, U expected, V x) {
  return *p == T(expected) ? nnk::sim::exchanged(p, T(x)) : *p;
}

// ---- functions ----------------------------------------------------------------------------------

#define NNK_SIM_MIN_MAX(T)                         \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
NNK_SIM_MIN_MAX(int)
NNK_SIM_MIN_MAX(unsigned int)
NNK_SIM_MIN_MAX(long)
NNK_SIM_MIN_MAX(unsigned long)
NNK_SIM_MIN_MAX(long long)
NNK_SIM_MIN_MAX(unsigned long long)
#undef NNK_SIM_MIN_MAX
inline unsigned int min(unsigned int a, int b) { return min(a, unsigned(b)); }
inline unsigned int min(int a, unsigned int b) { return min(unsigned(a), b); }
inline unsigned int max(unsigned int a, int b) { return max(a, unsigned(b)); }
inline unsigned int max(int a, unsigned int b) { return max(unsigned(a), b); }
// A NaN loses, as in fminf.
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __saturatef(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }
inline float sinpif(float x) { return sinf((x - 2.0f * rintf(0.5f * x)) * 3.14159265f); }
inline float cospif(float x) { return cosf((x - 2.0f * rintf(0.5f * x)) * 3.14159265f); }
inline void sincospif(float x, float* s, float* c) { *s = sinpif(x), *c = cospif(x); }
template <class T> inline T __ldg(const T* p) { return *p; }
template <class T> inline T __ldcs(const T* p) { return *p; }
template <class T> inline void __stcs(T* p, T x) { *p = x; }
inline int __float_as_int(float x) { return nnk::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return nnk::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return nnk::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return nnk::bit_cast<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return unsigned(static_cast<unsigned long long>(a) * b >> 32);
}
inline void __trap() { NNK_SIM_FAIL(*nnk::sim::current, nnk::sim::current->running->seen, "trap"); }
