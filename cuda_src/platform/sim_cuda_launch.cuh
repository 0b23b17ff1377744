// The launch of a user's kernel in the simulator, as its threads see it, and CUDA's vectors.
#pragma once

// Functions of the simulator itself, and atomics, are not watched.
#define NNK_SIM_UNWATCHED __attribute__((no_sanitize("kernel-address"), no_sanitize("address")))
#define inline inline NNK_SIM_UNWATCHED
#include "platform/sim_memory.cuh"
#include "platform/sim_scheduler.cuh"
#undef inline
#include "platform/sim.cuh"

#define NNK_SIM_VECTORS(name, T)                                                     \
  struct name##1 { T x; };                                                           \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                 \
  struct name##3 { T x, y, z; };                                                     \
  struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; }; \
  inline name##1 make_##name##1(T x) { return {x}; }                                 \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                         \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                 \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
NNK_SIM_VECTORS(char, signed char)
NNK_SIM_VECTORS(uchar, unsigned char)
NNK_SIM_VECTORS(short, short)
NNK_SIM_VECTORS(ushort, unsigned short)
NNK_SIM_VECTORS(int, int)
NNK_SIM_VECTORS(uint, unsigned int)
NNK_SIM_VECTORS(longlong, long long)
NNK_SIM_VECTORS(ulonglong, unsigned long long)
NNK_SIM_VECTORS(float, float)
NNK_SIM_VECTORS(double, double)
#undef NNK_SIM_VECTORS

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
  operator uint3() const { return {x, y, z}; }
};

namespace nnk {
namespace sim {

struct Extent { const char *begin, *end; };

// What the host gives, in the layout of nnkernels/launch/simulated_cuda.py.
struct CudaLaunch {
  SimLaunch launch;
  const void* const* args;  // where the value of each parameter lies
  unsigned grid[3], block[3];
  int array_count;
  const Extent* arrays;  // that the kernel was given
};

NNK_SIM_UNWATCHED inline const CudaLaunch& cuda_launch() {
  return *static_cast<const CudaLaunch*>(current->args);
}

// Number i of a box of so many, x first.
NNK_SIM_UNWATCHED inline uint3 place_in(const unsigned (&shape)[3], unsigned long long i) {
  return {unsigned(i % shape[0]), unsigned(i / shape[0] % shape[1]),
          unsigned(i / shape[0] / shape[1])};
}
NNK_SIM_UNWATCHED inline uint3 thread_index() {
  return place_in(cuda_launch().block, static_cast<unsigned long long>(current->running->rank));
}
NNK_SIM_UNWATCHED inline uint3 block_index() {
  return place_in(cuda_launch().grid, static_cast<unsigned long long>(current->block));
}
NNK_SIM_UNWATCHED inline dim3 shape_of(const unsigned (&shape)[3]) {
  return {shape[0], shape[1], shape[2]};
}

}  // namespace sim
}  // namespace nnk
