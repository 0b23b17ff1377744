// What the test kernels of the simulator share.
#pragma once
#include "platform/sim.cuh"
#include "nnk/reduce.cuh"
#include "nnk/view.cuh"

using nnk::Line;
using nnk::Vec;
using nnk::View;
using nnk::Warp;

struct TestArgs {
  float* out;
  const float* in;
  long long n;
};

// SIM_TEST(name, threads) { body } is a kernel and its entry; the body sees `group` and `args`.
#define SIM_TEST(name, threads)                                     \
  struct name##_kernel {                                            \
    using Args = TestArgs;                                          \
    template <class G> static void run(G& group, const Args& args); \
  };                                                                \
  NNK_ENTRY(name, threads, name##_kernel)                           \
  template <class G>                                                \
  void name##_kernel::run([[maybe_unused]] G& group, [[maybe_unused]] const Args& args)
