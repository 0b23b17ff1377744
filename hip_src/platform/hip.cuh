// The platform names on AMD GPUs, compiled by hipRTC (or hipcc).
//
// As platform/cuda.cuh: one GPU thread is one thread of a Group. What differs is the warp
// (64 threads on the data-centre chips, 32 on the others), the float16 type, and that there are
// no asynchronous copies.
#pragma once

#if defined(__HIPCC_RTC__)
// hipRTC has the headers built in, and refuses to include them on ROCm 5.
#elif __has_include(<hip/hip_runtime.h>)
#include <hip/hip_runtime.h>
#else
#include "platform/hip_bare.cuh"
#endif

#define NNK_FN __device__ __forceinline__
#define NNK_UNROLL _Pragma("unroll")
#define NNK_NO_UNROLL _Pragma("unroll 1")
#define NNK_UNROLL_SOME _Pragma("unroll 4")
#define NNK_LIBM(name) ::name

#include "nnk/types.cuh"

namespace nnk {

NNK_FN float half_to_float(half x) { return float(bit_cast<_Float16>(x)); }
NNK_FN half float_to_half(float x) { return bit_cast<half>(_Float16(x)); }
// The upper half of the bits, rounded to nearest with ties to even. A NaN is cut off instead
// (rounding could carry it into infinity) and made quiet, so that it stays one.
NNK_FN bfloat16 float_to_bfloat16(float x) {
  const uint32 bits = bit_cast<uint32>(x);
  const uint32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return bfloat16{uint16(x != x ? (bits >> 16) | 0x40u : rounded)};
}

// See platform/math_brief.cuh.
NNK_FN float brief_exp2(float x) { return ::exp2f(x); }
NNK_FN float brief_reciprocal(float x) { return __builtin_amdgcn_rcpf(x); }
NNK_FN float brief_quotient(float a, float b) { return a / b; }

// The compiler's own vectors: HIP's uint4 is a class, which hides from the optimiser that it is
// one 16-byte access. Before vec_array.cuh, which names RawVector<16>.
template <int Bytes> struct RawVector;
template <> struct RawVector<1> { using type = unsigned char; };
template <> struct RawVector<2> { using type = unsigned short; };
template <> struct RawVector<4> { using type = unsigned int; };
template <> struct RawVector<8> { typedef unsigned int type __attribute__((ext_vector_type(2))); };
template <> struct RawVector<16> { typedef unsigned int type __attribute__((ext_vector_type(4))); };

}  // namespace nnk

#include "platform/math_scalar.cuh"
#include "platform/math_brief.cuh"
#include "platform/vec_array.cuh"

namespace nnk {

// GFX9 (CDNA) has no other width. __AMDGCN_WAVEFRONT_SIZE tells of -mwavefrontsize64 on the
// others; newer compilers do without that macro.
#if defined(__GFX9__)
constexpr int warp_width = 64;
#elif defined(__AMDGCN_WAVEFRONT_SIZE)
constexpr int warp_width = __AMDGCN_WAVEFRONT_SIZE;
#else
constexpr int warp_width = 32;
#endif
constexpr bool lanes_are_simd = false;  // a Vec is several elements of one thread
// Terms of a product in shared memory for which code is laid out in a row: the compiler
// moves the loads of all of them to the beginning, where they spill.
constexpr int terms_in_a_row = 4;
// Whether an address is made of a part that all threads of a warp share and a short one of each of
// them, at no cost: a scalar register holds the former.
constexpr bool addresses_have_parts = true;
// Whether an access may lie at an address that is no multiple of its size: in the mode in which HIP
// runs kernels (unaligned-access-mode in LLVM's user guide for AMDGPU).
constexpr bool reads_unaligned = true;
// See platform/cuda.cuh.
template <class T> NNK_FN T opaque(T x) { return x; }

// See platform/cuda.cuh. There is no such instruction.
NNK_FN void fetch_ahead(const void*) {}

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
    alignas(16) __shared__ unsigned char bytes[Count * sizeof(T)];
    return {reinterpret_cast<T*>(bytes)};
  }
  // `count` elements of the dynamic shared memory of the launch, `offset` bytes into it.
  template <class T> NNK_FN Shared<T> dynamic_shared(int offset, int count) const {
    extern __shared__ typename RawVector<16>::type nnk_dynamic_shared[];
    return {reinterpret_cast<T*>(reinterpret_cast<char*>(nnk_dynamic_shared) + offset)};
  }
};

// ---- the warp -----------------------------------------------------------------------
// Segments of Width lanes (a power of two up to warp_width); all lanes of the warp that
// exist must call together.
template <int Width> struct Warp {
  // No lane leaves its segment, so HIP's __shfl_xor, which checks that, is not needed.
  template <class T> static NNK_FN T shuffle_xor(T x, int mask, Site = NNK_HERE) {
    return exchange(x, lane() ^ mask);
  }
  template <class T> static NNK_FN T shuffle(T x, int source, Site = NNK_HERE) {
    return exchange(x, (lane() & ~(Width - 1)) | (source & (Width - 1)));
  }

 private:
  // Lanes below this one: its number in the warp.
  static NNK_FN int lane() {
    const unsigned low = __builtin_amdgcn_mbcnt_lo(0xffffffffu, 0u);
    return int(warp_width == 64 ? __builtin_amdgcn_mbcnt_hi(0xffffffffu, low) : low);
  }
  template <class T> static NNK_FN T exchange(T x, int from) {
    constexpr int words = (sizeof(T) + 3) / 4;
    int buffer[words] = {};
    __builtin_memcpy(buffer, &x, sizeof(T));
    NNK_UNROLL
    for (int i = 0; i < words; ++i) buffer[i] = __builtin_amdgcn_ds_bpermute(from * 4, buffer[i]);
    __builtin_memcpy(&x, buffer, sizeof(T));
    return x;
  }
};

// ---- copies from global to shared memory ----------------------------------------------
// There is no asynchronous copy: it is done when issued. The barrier after the wait is the
// caller's, as everywhere.
template <int N, class T>
NNK_FN void copy_async(const Shared<T>& to, int i, const T* from, Site = NNK_HERE) {
  constexpr int bytes = N * int(sizeof(T));
  static_assert(bytes == 4 || bytes == 8 || bytes == 16,
                "an asynchronous copy moves 4, 8 or 16 bytes");
  to.store_vec(i, nnk::load<N>(from));
}
// The same, or zeros if the data is not `there`.
template <int N, class T>
NNK_FN void copy_async(const Shared<T>& to, int i, const T* from, bool there, Site = NNK_HERE) {
  Vec<T, N> v = Vec<T, N>::splat(T{});
  if (there) v = nnk::load<N>(from);
  to.store_vec(i, v);
}
// The same, or nothing if it is not `wanted`.
template <int N, class T>
NNK_FN void copy_async_if(bool wanted, const Shared<T>& to, int i, const T* from, Site = NNK_HERE) {
  if (wanted) copy_async<N>(to, i, from);
}
NNK_FN void copy_async_commit(Site = NNK_HERE) {}
template <int Pending> NNK_FN void copy_async_wait(Site = NNK_HERE) {}

// ---- atomics: for opt-in paths only; the order of additions is not fixed ---------------
template <class T> NNK_FN T atomic_add(T* p, T x) { return ::atomicAdd(p, x); }

}  // namespace nnk

#include "platform/hip_mma.cuh"

// ---- entries ------------------------------------------------------------------------------
namespace nnk {

// Waves that a SIMD unit must hold: two where a kernel says how many registers it needs
// (`Kernel::register_budget`), which leaves 256 to each of the 512 of CDNA. Without it the compiler
// takes all of them, and nothing hides what a wave waits for. (Not the second argument of
// __launch_bounds__: a macro here, it would be cut at the commas of a template.)
template <class Kernel, class = void> struct LeastWaves { static constexpr int value = 1; };
template <class Kernel> struct LeastWaves<Kernel, enable_if<(Kernel::register_budget > 0)>> {
  static constexpr int value = 2;
};

}  // namespace nnk

// The one line of a generated text: an entry for one template instance.
#define NNK_ENTRY(name, threads, ...)                                                 \
  extern "C" __global__ void __launch_bounds__(threads)                               \
      __attribute__((amdgpu_waves_per_eu(nnk::LeastWaves<__VA_ARGS__>::value))) name( \
          const __VA_ARGS__::Args args) {                                             \
    nnk::Group<threads> group;                                                        \
    __VA_ARGS__::run(group, args);                                                    \
  }
