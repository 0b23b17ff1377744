// Layers of a multilayer perceptron on matrix cores, over the atoms of nnk/mma_*.cuh.
//
// A warp makes WarpM x WarpN sums of the block's Rows x Width, in registers; the rows that it
// multiplies, and the weights, are in shared memory, where the results replace the rows. Weights
// are lines of terms as they are in memory, so fragments are read without transposing.
#pragma once
#include "nnk/mlp_layer.cuh"
#include "nnk/types.cuh"

namespace nnk {

template <class T, class Atom, int Rows, int Width, int Slice, int WarpM, int WarpN>
struct MlpTensorCore {
  static_assert(sizeof(T) == sizeof(typename Atom::Element), "rows are of the type of the weights");
  using Element = T;
  using Sum = typename Atom::Sum;
  static constexpr int term_multiple = Atom::k, output_multiple = Atom::n;
  static constexpr int warps_n = Width / WarpN, warps = Rows / WarpM * warps_n;
  static constexpr int threads = warps * Atom::lanes;
  static constexpr int parts_m = WarpM / Atom::m, parts_n = WarpN / Atom::n;
  static_assert(parts_m * Atom::m * (Rows / WarpM) == Rows &&
                    parts_n * Atom::n * warps_n == Width && Slice % Atom::k == 0,
                "a block is whole steps of its warps");
  static constexpr int chunk = 16 / int(sizeof(Element));
  static constexpr int pitch = Width + chunk;

  // What activations compute in: results of 11 bits or 8 need no better instructions.
  using Wide = conditional<is_same<Sum, float> && is_narrow<Element>, Brief, Sum>;

  struct Sums { typename Atom::C part[parts_m][parts_n]; };

  static NNK_FN void clear(Sums& sums) {
    NNK_UNROLL
    for (int i = 0; i < parts_m; ++i) {
      NNK_UNROLL
      for (int j = 0; j < parts_n; ++j) {
        NNK_UNROLL
        for (int e = 0; e < Atom::sums; ++e) sums.part[i][j].x[e] = Sum();
      }
    }
  }

  // Adds the products of some terms: of rows from column `first` on, and of weights that begin at
  // element `from` of shared memory.
  template <class Memory>
  static NNK_FN void multiply(const Memory& memory, int thread, int from, int first, int terms,
                              int outputs, int count, Sums& sums) {
    const Warp warp(thread);
    if (warp.m >= count) return;
    if (terms > Slice - Atom::k && outputs - warp.n > WarpN - Atom::n)
      add<true>(memory, warp, from, first, terms, outputs, sums);
    else add<false>(memory, warp, from, first, terms, outputs, sums);
  }

  template <class Activation, class Memory>
  static NNK_FN void write(const Memory& memory, int thread, int bias, int outputs, int count,
                           const Sums& sums, const Sum* parameters) {
    constexpr int together = Atom::together;
    const Warp warp(thread);
    if (warp.m >= count) return;
    // Of all columns, with nothing to ask.
    if (outputs - warp.n >= WarpN)
      put<Activation, true>(memory, warp, bias, outputs, sums, parameters);
    else put<Activation, false>(memory, warp, bias, outputs, sums, parameters);
  }

 private:
  struct Warp {
    int lane, m, n;  // of the block's sums, its first row and column
    NNK_FN explicit Warp(int thread)
        : lane(thread % Atom::lanes),
          m(thread / Atom::lanes / warps_n * WarpM),
          n(thread / Atom::lanes % warps_n * WarpN) {}
  };
  // Where chunks of lines are.
  struct Lines {
    int first, pitch;
    NNK_FN int operator()(int line, int at) const { return first + line * pitch + at * chunk; }
  };

  template <class Activation, bool Whole, class Memory>
  static NNK_FN void put(const Memory& memory, const Warp& warp, int bias, int outputs,
                         const Sums& sums, const Sum* parameters) {
    constexpr int together = Atom::together;
    NNK_UNROLL
    for (int j = 0; j < parts_n; ++j) {
      if (!Whole && warp.n + j * Atom::n >= outputs) break;
      NNK_UNROLL
      for (int e = 0; e < Atom::sums; e += together) {
        const int column = warp.n + j * Atom::n + Atom::column_of(warp.lane, e);
        const auto b = memory.bias.template load_vec<together>(bias + column);
        NNK_UNROLL
        for (int i = 0; i < parts_m; ++i) {
          const int row = warp.m + i * Atom::m + Atom::row_of(warp.lane, e);
          Vec<Sum, together> sum;
          NNK_UNROLL
          for (int t = 0; t < together; ++t) sum.set(t, sums.part[i][j].x[e + t]);
          auto y =
              Activation::apply(reinterpret_cast<const Wide*>(parameters), convert<Wide>(sum + b));
          // Before they are rounded: two numbers become halves in one instruction.
          if constexpr (!Whole) {
            NNK_UNROLL
            for (int t = 0; t < together; ++t)
              if (column + t >= outputs) y.set(t, Wide(0));
          }
          memory.rows.store_vec(row * pitch + column, convert<Element>(y));
        }
      }
    }
  }

  // Whole: all terms of a slice, and all columns of the warp.
  template <bool Whole, class Memory>
  static NNK_FN void add(const Memory& memory, const Warp& warp, int from, int first, int terms,
                         int outputs, Sums& sums) {
    const Lines rows{first, pitch}, weights{from, Memory::weight_pitch};
    NNK_UNROLL
    for (int step = 0; step < Slice / Atom::k; ++step) {
      if (!Whole && step * Atom::k >= terms) break;
      typename Atom::A a[parts_m];
      NNK_UNROLL
      for (int i = 0; i < parts_m; ++i)
        a[i] = Atom::load_a(memory.rows, rows, warp.m + i * Atom::m, step * Atom::chunks, warp.lane,
                            NNK_HERE);
      NNK_UNROLL
      for (int j = 0; j < parts_n; ++j) {
        const int column = warp.n + j * Atom::n;
        if (!Whole && column >= outputs) break;
        const auto b =
            Atom::load_b(memory.weights, weights, column, step * Atom::chunks, warp.lane, NNK_HERE);
        NNK_UNROLL
        for (int i = 0; i < parts_m; ++i) Atom::multiply(a[i], b, sums.part[i][j], NNK_HERE);
      }
    }
  }
};

template <class T, class Atom, int Rows, int Width, int Slice, int WarpM, int WarpN, bool Kept>
using MlpTensor =
    MlpShared<T, MlpTensorCore<T, Atom, Rows, Width, Slice, WarpM, WarpN>, Rows, Width, Slice,
              MlpTensorCore<T, Atom, Rows, Width, Slice, WarpM, WarpN>::threads, Kept>;

}  // namespace nnk
