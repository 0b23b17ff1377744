// The few names of HIP's headers that the platform uses, for Clang without these headers: to see
// the machine code of architectures that an installed hipRTC does not know.
//
//   clang++ -x hip --cuda-device-only -nogpuinc -nogpulib --offload-arch=gfx1100 -S
//
// Not a HIP of its own: of its mathematical library there is what the compiler knows; the rest is
// declared, and remains calls.
#pragma once

#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(threads) __attribute__((amdgpu_flat_work_group_size(1, threads)))

namespace nnk_bare {

#define NNK_BARE(index, function)                                                  \
  struct index {                                                                   \
    __device__ operator unsigned() const { return __builtin_amdgcn_##function(); } \
  };
NNK_BARE(ThreadX, workitem_id_x)
NNK_BARE(ThreadY, workitem_id_y)
NNK_BARE(ThreadZ, workitem_id_z)
NNK_BARE(BlockX, workgroup_id_x)
NNK_BARE(BlockY, workgroup_id_y)
NNK_BARE(BlockZ, workgroup_id_z)
#undef NNK_BARE
// The first of the hidden arguments from version 5 of code objects, and behind them, of 2 bytes,
// the threads of a block: LLVM, "User Guide for AMDGPU Backend", "Code Object V5 Metadata".
template <class T, int Number> struct Hidden {
  __device__ operator unsigned() const {
    using Argument = const T __attribute__((address_space(4)));
    return ((Argument*)__builtin_amdgcn_implicitarg_ptr())[Number];
  }
};
template <class X, class Y, class Z> struct Dimensions {
  X x;
  Y y;
  Z z;
};

}  // namespace nnk_bare

constexpr nnk_bare::Dimensions<nnk_bare::ThreadX, nnk_bare::ThreadY, nnk_bare::ThreadZ> threadIdx{};
constexpr nnk_bare::Dimensions<nnk_bare::BlockX, nnk_bare::BlockY, nnk_bare::BlockZ> blockIdx{};
template <class T, int First>
using BareShape = nnk_bare::Dimensions<nnk_bare::Hidden<T, First>, nnk_bare::Hidden<T, First + 1>,
                                       nnk_bare::Hidden<T, First + 2>>;
constexpr BareShape<unsigned, 0> gridDim{};
constexpr BareShape<unsigned short, 6> blockDim{};

__device__ __forceinline__ void __syncthreads() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
template <class T> __device__ __forceinline__ T atomicAdd(T* p, T x) {
  return __hip_atomic_fetch_add(p, x, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}

// What the compiler makes itself: in one instruction, or a few of float.
#define NNK_BARE(type, name, builtin) \
  __device__ __forceinline__ type name(type x) { return __builtin_elementwise_##builtin(x); }
NNK_BARE(float, fabsf, abs)
NNK_BARE(double, fabs, abs)
NNK_BARE(float, sqrtf, sqrt)
NNK_BARE(double, sqrt, sqrt)
NNK_BARE(float, expf, exp)
NNK_BARE(float, exp2f, exp2)
NNK_BARE(float, logf, log)
NNK_BARE(float, log2f, log2)
#undef NNK_BARE
#define NNK_BARE(type, suffix)                                          \
  __device__ __forceinline__ type copysign##suffix(type x, type y) {    \
    return __builtin_elementwise_copysign(x, y);                        \
  }                                                                     \
  __device__ __forceinline__ type fma##suffix(type a, type b, type c) { \
    return __builtin_elementwise_fma(a, b, c);                          \
  }
NNK_BARE(float, f)
NNK_BARE(double, )
#undef NNK_BARE

// Other functions of the mathematical library.
#define NNK_BARE(name)                          \
  extern "C" __device__ float name##f(float x); \
  extern "C" __device__ double name(double x);
NNK_BARE(expm1)
NNK_BARE(log1p)
NNK_BARE(tanh)
NNK_BARE(erf)
NNK_BARE(erfc)
NNK_BARE(sin)
NNK_BARE(cos)
NNK_BARE(tan)
#undef NNK_BARE
#define NNK_BARE(name) extern "C" __device__ double name(double x);
NNK_BARE(exp)
NNK_BARE(exp2)
NNK_BARE(log)
NNK_BARE(log2)
#undef NNK_BARE
#define NNK_BARE(name)                                   \
  extern "C" __device__ float name##f(float x, float y); \
  extern "C" __device__ double name(double x, double y);
NNK_BARE(pow)
NNK_BARE(fmod)
#undef NNK_BARE
