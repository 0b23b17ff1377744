// Layers of a multilayer perceptron by the ordinary arithmetic of a GPU.
//
// A thread has MicroM x MicroN sums: rows and columns that are as far apart as there are threads
// along the axis. So neighbouring threads read lines that follow each other, from banks of their
// own, and as many terms at once as 16 bytes hold.
#pragma once
#include "nnk/mlp_layer.cuh"
#include "nnk/types.cuh"

namespace nnk {

// T: of weights and biases
template <class T, int Rows, int Width, int Slice, int Threads> struct MlpSimtCore {
  using Sum = Accumulator<T>;
  using Element = Sum;
  using Wide = Sum;
  static constexpr int chunk = 16 / int(sizeof(Element));
  static constexpr int term_multiple = chunk, output_multiple = 1;
  static constexpr int micro_n = Width >= 64 ? 8 : Width / 8;
  static constexpr int threads_n = Width / micro_n, threads_m = Threads / threads_n;
  static constexpr int micro_m = Rows / threads_m;
  static_assert(threads_n * threads_m == Threads && micro_m * threads_m == Rows,
                "the threads of a block share its sums evenly");
  static constexpr int pitch = Width + chunk;

  struct Sums { Sum x[micro_m][micro_n]; };

  static NNK_FN void clear(Sums& sums) {
    NNK_UNROLL
    for (int i = 0; i < micro_m; ++i) {
      NNK_UNROLL
      for (int j = 0; j < micro_n; ++j) sums.x[i][j] = Sum();
    }
  }

  // Adds the products of some terms: of rows from column `first` on, and of weights that begin at
  // element `from` of shared memory.
  template <class Memory>
  static NNK_FN void multiply(const Memory& memory, int thread, int from, int first, int terms,
                              int outputs, int /*count*/, Sums& sums) {
    if (outputs == Width) add<true>(memory, thread, from, first, terms, outputs, sums);
    else add<false>(memory, thread, from, first, terms, outputs, sums);
  }

  template <class Activation, class Memory>
  static NNK_FN void write(const Memory& memory, int thread, int bias, int outputs, int /*count*/,
                           const Sums& sums, const Sum* parameters) {
    const int m = thread / threads_n, n = thread % threads_n;
    NNK_UNROLL
    for (int j = 0; j < micro_n; ++j) {
      const int column = n + j * threads_n;
      const Sum b = memory.bias.load(bias + column);
      NNK_UNROLL
      for (int i = 0; i < micro_m; ++i) {
        const auto y = Activation::apply(parameters, Vec<Sum, 1>::splat(sums.x[i][j] + b));
        memory.rows.store((m + i * threads_m) * pitch + column, column < outputs ? y[0] : Sum());
      }
    }
  }

 private:
  template <bool Whole, class Memory>
  static NNK_FN void add(const Memory& memory, int thread, int from, int first, int terms,
                         int outputs, Sums& sums) {
    constexpr int line = Memory::weight_pitch;
    const int m = thread / threads_n, n = thread % threads_n;
    NNK_NO_UNROLL
    for (int k = 0; k < terms; k += chunk) {
      Vec<Sum, chunk> w[micro_n];
      NNK_UNROLL
      for (int j = 0; j < micro_n; ++j)
        if (Whole || j * threads_n < outputs)
          w[j] = memory.weights.template load_vec<chunk>(from + (n + j * threads_n) * line + k);
      NNK_UNROLL
      for (int i = 0; i < micro_m; ++i) {
        const auto h =
            memory.rows.template load_vec<chunk>((m + i * threads_m) * pitch + first + k);
        NNK_UNROLL
        for (int j = 0; j < micro_n; ++j) {
          // No break: Clang then indexes the sums in private memory.
          if (!Whole && j * threads_n >= outputs) continue;
          NNK_UNROLL
          for (int t = 0; t < chunk; ++t) sums.x[i][j] = nnk::fma(h[t], w[j][t], sums.x[i][j]);
        }
      }
    }
  }
};

template <class T, int Rows, int Width, int Slice, int Threads, bool Kept>
using MlpSimt =
    MlpShared<T, MlpSimtCore<T, Rows, Width, Slice, Threads>, Rows, Width, Slice, Threads, Kept>;

}  // namespace nnk
