// The platform header of the GPU that a text is compiled for: what a user's own kernel includes,
// before headers of nnk/block.
//
// By NVRTC or nvcc, by hipRTC or hipcc (which need the directory hip_src as well), or for the
// simulator, in which the CUDA text of a kernel is C++ (platform/sim_cuda.cuh). Options of a
// cupy.RawModule: nnkernels.own.compile_options().
#pragma once

#if defined(NNK_SIM_CUDA)
#include "platform/sim_cuda.cuh"
#elif defined(__HIPCC__) || defined(__HIPCC_RTC__) || defined(__HIP__)
#include "platform/hip.cuh"
#elif defined(__CUDACC__) || defined(__CUDACC_RTC__)
#include "platform/cuda.cuh"
#else
#error "platform/gpu.cuh is for NVRTC, nvcc, hipRTC, hipcc and nnkernels.own"
#endif

// The matrix cores of that GPU.
#if defined(NNK_SIM_CUDA)
#ifndef NNK_SIM_MATRIX_CORE
#define NNK_SIM_MATRIX_CORE MmaSm80
#endif
#include "nnk/mma_gfx1100.cuh"
#include "nnk/mma_gfx90a.cuh"
#include "nnk/mma_sm80.cuh"
#elif defined(__HIP_PLATFORM_AMD__) || defined(__HIPCC_RTC__) || defined(__HIP__)
#if defined(__GFX9__)
#include "nnk/mma_gfx90a.cuh"
#else
#include "nnk/mma_gfx1100.cuh"
#endif
#else
#include "nnk/mma_sm80.cuh"
#endif

namespace nnk {

#if defined(NNK_SIM_CUDA)
template <class T> using MatrixCore = NNK_SIM_MATRIX_CORE<T>;
#elif defined(__gfx942__)
template <class T> using MatrixCore = MmaGfx942<T>;
#elif defined(__GFX9__)
template <class T> using MatrixCore = MmaGfx90a<T>;
#elif defined(__HIPCC__) || defined(__HIPCC_RTC__) || defined(__HIP__)
template <class T> using MatrixCore = MmaGfx1100<T>;
#else
template <class T> using MatrixCore = MmaSm80<T>;
#endif

}  // namespace nnk
