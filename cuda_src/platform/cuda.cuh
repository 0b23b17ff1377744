// The platform names on NVIDIA GPUs, compiled by NVRTC (or nvcc).
//
// One GPU thread is one thread of a Group. Nothing is included from the CUDA toolkit:
// NVRTC has no include path of its own, and every header costs compile time.
#pragma once

#define NNK_FN __device__ __forceinline__
#define NNK_UNROLL _Pragma("unroll")
#define NNK_NO_UNROLL _Pragma("unroll 1")
#define NNK_UNROLL_SOME _Pragma("unroll 4")
#define NNK_LIBM(name) ::name
#define NNK_MEMCPY memcpy
#define NNK_OPAQUE(x) asm("" : "+r"(x))

#include "nnk/types.cuh"

namespace nnk {

NNK_FN float half_to_float(half x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
NNK_FN half float_to_half(float x) {
  half y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
NNK_FN bfloat16 float_to_bfloat16(float x) {
  bfloat16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

#if __CUDA_ARCH__ >= 800
// One instruction; the comparisons of math_scalar.cuh are four. (Of several NaN this gives another
// one than they do, and of zeros the positive one.)
NNK_FN float max(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
NNK_FN float min(float a, float b) {
  float y;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
#endif

// See platform/math_brief.cuh.
NNK_FN float brief_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
NNK_FN float brief_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
NNK_FN float brief_quotient(float a, float b) {
  float y;
  asm("div.full.ftz.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

}  // namespace nnk

#include "platform/math_scalar.cuh"
#include "platform/math_brief.cuh"

namespace nnk {

// The integer vector of so many bytes: what one access of a thread moves.
template <int Bytes> struct RawVector;
template <> struct RawVector<1> { using type = unsigned char; };
template <> struct RawVector<2> { using type = unsigned short; };
template <> struct RawVector<4> { using type = unsigned int; };
template <> struct RawVector<8> { using type = uint2; };
template <> struct RawVector<16> { using type = uint4; };

}  // namespace nnk

#include "platform/vec_array.cuh"

namespace nnk {

constexpr int warp_width = 32;
constexpr bool lanes_are_simd = false;  // a Vec is several elements of one thread
// Terms of a product in shared memory for which code is laid out in a row: the compiler orders the
// loads of all of them well.
constexpr int terms_in_a_row = 64;
// Whether an address is made of a part that all threads of a warp share and a short one of each of
// them, at no cost: ptxas adds such parts in every thread, so an address is better kept whole.
constexpr bool addresses_have_parts = false;
// Whether an access may lie at an address that is no multiple of its size.
constexpr bool reads_unaligned = false;
// The same number, of which the compiler knows nothing: what is made of it is made where it stands,
// not before a loop, from where registers would have to hold it.
template <class T> NNK_FN T opaque(T x) {
  if constexpr (sizeof(T) == 8) asm volatile("" : "+l"(x));
  else asm volatile("" : "+r"(x));
  return x;
}

// Has the memory at an address brought to the level-2 cache.
NNK_FN void fetch_ahead(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// ---- where a check failed: nothing is checked on this machine -----------------------
struct Site {};
#define NNK_HERE nnk::Site()
NNK_FN void check_access(int64, int64, int64, Site) {}

// ---- shared memory ------------------------------------------------------------------
// The memory of one block. `T` may be any trivial type.
template <class T> struct Shared {
  T* data;
  NNK_FN T load(int i, Site = NNK_HERE) const { return data[i]; }
  NNK_FN void store(int i, T x, Site = NNK_HERE) const { data[i] = x; }
  template <int N> NNK_FN Vec<T, N> load_vec(int i, Site = NNK_HERE) const {
    return nnk::load<N>(data + i);
  }
  template <int N> NNK_FN void store_vec(int i, const Vec<T, N>& v, Site = NNK_HERE) const {
    nnk::store(data + i, v);
  }
};

// ---- the block ----------------------------------------------------------------------
// Threads is a compile-time number, so that loops over it unroll and single-warp blocks
// lose their barriers.
template <int Threads> struct Group {
  static constexpr int threads = Threads;
  NNK_FN int rank() const { return threadIdx.x; }
  static constexpr NNK_FN int size() { return Threads; }
  NNK_FN int64 block() const { return blockIdx.x; }
  NNK_FN int64 blocks() const { return gridDim.x; }
  // Every thread of the block must reach every barrier, the same number of times.
  NNK_FN void barrier(Site = NNK_HERE) const { __syncthreads(); }

  // Static shared memory: one array for each Tag.
  template <class T, int Count, class Tag> NNK_FN Shared<T> shared() const {
    __shared__ alignas(16) unsigned char bytes[Count * sizeof(T)];
    return {reinterpret_cast<T*>(bytes)};
  }
  // `count` elements of the dynamic shared memory of the launch, `offset` bytes into it.
  template <class T> NNK_FN Shared<T> dynamic_shared(int offset, int count) const {
    extern __shared__ uint4 nnk_dynamic_shared[];
    return {reinterpret_cast<T*>(reinterpret_cast<char*>(nnk_dynamic_shared) + offset)};
  }
};

// ---- the warp -----------------------------------------------------------------------
// Segments of Width lanes (a power of two up to warp_width); all lanes of the warp that
// exist must call together.
template <int Width> struct Warp {
  template <class T> static NNK_FN T shuffle_xor(T x, int mask, Site = NNK_HERE) {
    return exchange(x, [&](int v) { return __shfl_xor_sync(0xffffffffu, v, mask, Width); });
  }
  template <class T> static NNK_FN T shuffle(T x, int source, Site = NNK_HERE) {
    return exchange(x, [&](int v) { return __shfl_sync(0xffffffffu, v, source, Width); });
  }

 private:
  template <class T, class F> static NNK_FN T exchange(T x, F f) {
    constexpr int words = (sizeof(T) + 3) / 4;
    int buffer[words] = {};
    NNK_MEMCPY(buffer, &x, sizeof(T));
    NNK_UNROLL
    for (int i = 0; i < words; ++i) buffer[i] = f(buffer[i]);
    NNK_MEMCPY(&x, buffer, sizeof(T));
    return x;
  }
};

// ---- asynchronous copy: global to shared memory ---------------------------------------
// A copy may land at any time between its issue and the wait that covers it.
// N elements from global memory to elements [i, i + N) of a shared array; 4, 8 or 16 bytes
// in all, both sides aligned to that.
template <int N, class T>
NNK_FN void copy_async(const Shared<T>& to, int i, const T* from, Site = NNK_HERE) {
  constexpr int bytes = N * int(sizeof(T));
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async moves 4, 8 or 16 bytes");
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to.data + i));
  if constexpr (bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(address), "l"(from), "n"(bytes)
                 : "memory");
  }
}
// The same, or zeros if the data is not `there`: nothing is read then, but `from` must be aligned.
template <int N, class T>
NNK_FN void copy_async(const Shared<T>& to, int i, const T* from, bool there, Site = NNK_HERE) {
  constexpr int bytes = N * int(sizeof(T));
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async moves 4, 8 or 16 bytes");
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to.data + i));
  const int size = there ? bytes : 0;  // the rest of the bytes are zeros
  if constexpr (bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
                 "r"(size)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from),
                 "n"(bytes), "r"(size)
                 : "memory");
  }
}
// The same, or nothing if it is not `wanted`: as part of the instruction, for which no code
// branches.
template <int N, class T>
NNK_FN void copy_async_if(bool wanted, const Shared<T>& to, int i, const T* from, Site = NNK_HERE) {
  constexpr int bytes = N * int(sizeof(T));
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async moves 4, 8 or 16 bytes");
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to.data + i));
#define NNK_COPY_IF(form)                                                \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %2, 0; @p cp.async." form \
               ".shared.global [%0], [%1], %3; }" ::"r"(address),        \
               "l"(from), "r"(int(wanted)), "n"(bytes)                   \
               : "memory")
  if constexpr (bytes == 16) NNK_COPY_IF("cg");
  else NNK_COPY_IF("ca");
#undef NNK_COPY_IF
}
// Zeros if the data is not `there`, and nothing if it is not `wanted`.
template <int N, class T>
NNK_FN void copy_async_if(bool wanted, const Shared<T>& to, int i, const T* from, bool there,
                          Site = NNK_HERE) {
  constexpr int bytes = N * int(sizeof(T));
  static_assert(bytes == 16, "zeros are for copies that leave the level-1 cache alone");
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to.data + i));
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %2, 0; @p cp.async.cg.shared.global [%0], [%1], 16, %3; }" ::
          "r"(address),
      "l"(from), "r"(int(wanted)), "r"(there ? bytes : 0)
      : "memory");
}
NNK_FN void copy_async_commit(Site = NNK_HERE) {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most Pending of the newest groups are still under way.
template <int Pending> NNK_FN void copy_async_wait(Site = NNK_HERE) {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// ---- atomics: for opt-in paths only; the order of additions is not fixed ---------------
template <class T> NNK_FN T atomic_add(T* p, T x) { return ::atomicAdd(p, x); }

}  // namespace nnk

#include "platform/cuda_mma.cuh"
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#include "platform/cuda_warpgroup.cuh"
#endif

// ---- entries ------------------------------------------------------------------------------
namespace nnk {

// The second argument of __launch_bounds__: blocks that a multiprocessor must hold, 0 to leave it
// to the compiler. That prefers many warps to enough registers, and spills; so a kernel may say how
// many registers a thread may have (`Kernel::register_budget`).
template <class Kernel, class = void> struct LeastBlocks {
  static constexpr int of(int) { return 0; }
};
template <class Kernel> struct LeastBlocks<Kernel, enable_if<(Kernel::register_budget > 0)>> {
  static constexpr int of(int threads) {
    const int blocks = 65536 / Kernel::register_budget / threads;
    return blocks > 0 ? blocks : 1;
  }
};

}  // namespace nnk

// The one line of a generated text: an entry for one template instance.
#define NNK_ENTRY(name, threads, ...)                                                      \
  extern "C" __global__ void __launch_bounds__(threads,                                    \
                                               nnk::LeastBlocks<__VA_ARGS__>::of(threads)) \
      name(const __grid_constant__ __VA_ARGS__::Args args) {                               \
    nnk::Group<threads> group;                                                             \
    __VA_ARGS__::run(group, args);                                                         \
  }
