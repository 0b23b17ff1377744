// A fused function as the epilogue of a product: see matmul_epilogue.cuh for what that is.
//
// Its operands, and its results but the first, are arrays of two axes as the product is, and lie
// with steps of their own. The pixels of a convolution, which are one axis of its product, may be
// several of theirs: then their positions are found by division, once for a vector.
#pragma once
#include "nnk/fused_operand.cuh"
#include "nnk/matmul_epilogue.cuh"

namespace nnk {

// Which axis of the product are pixels with several axes.
enum : int { no_pixel_axes = 0, rows_have_axes = 1, columns_have_axes = 2 };

// Those axes, the outermost first; the first length is not used. Strides in bytes.
template <class Index, int Count, int Rank> struct PixelAxes {
  Divisor<Index> length[Rank];
  Index pixel_stride[Count > 0 ? Count : 1][Rank];

  // Adds the bytes to a pixel to the offset of every array; how many follow in its run, and itself.
  NNK_FN Index find(Index pixel, Index* offset) const {
    Index left = 0;
    NNK_UNROLL
    for (int axis = Rank - 1; axis >= 0; --axis) {
      const Index next = axis == 0 ? 0 : length[axis].divide(pixel);
      const Index position = pixel - next * length[axis].divisor;
      if (axis == Rank - 1) left = length[axis].divisor - position;
      NNK_UNROLL
      for (int k = 0; k < Count; ++k) offset[k] += position * pixel_stride[k][axis];
      pixel = next;
    }
    return left;
  }
};
template <class Index, int Count> struct PixelAxes<Index, Count, 1> {};

// Lanes that are pixels of several runs, from the pixel `first` on.
template <class Index, int Count, int Rank> struct OperandRuns {
  void* const* data;
  const PixelAxes<Index, Count, Rank>& axes;
  Index start[Count > 0 ? Count : 1];  // bytes to pixel 0
  Index first;
  int count;

  template <int K, class T, int Step, int N> NNK_FN Vec<Accumulator<T>, N> load() const {
    using S = Accumulator<T>;
    alignas(64) S lanes[N];
    walk<K, N>([&](int i, Index bytes) NNK_INLINE {
      lanes[i] = i < count ? one<T>(byte_offset(static_cast<const T*>(data[K]), bytes)) : S();
    });
    Vec<S, N> x;
    if constexpr (lanes_are_simd) {
      x = nnk::load<N>(lanes);
    } else {
      NNK_UNROLL
      for (int i = 0; i < N; ++i) x.set(i, lanes[i]);
    }
    return x;
  }
  template <int K, class T, int Step, int N> NNK_FN void store(const Vec<T, N>& y) const {
    walk<K, N>([&](int i, Index bytes) NNK_INLINE {
      if (i < count)
        nnk::store(byte_offset(static_cast<T*>(data[K]), bytes), Vec<T, 1>::splat(y[i]));
    });
  }

 private:
  template <class T> static NNK_FN Accumulator<T> one(const T* p) {
    return convert<Accumulator<T>>(nnk::load<1>(p))[0];
  }
  // Every lane with its bytes; those that are not there have no use for them.
  template <int K, int N, class Do> NNK_FN void walk(Do f) const {
    Index left = 0, bytes = 0;
    NNK_UNROLL
    for (int i = 0; i < N; ++i) {
      if (left == 0 && i < count) {
        Index offset[Count > 0 ? Count : 1] = {};
        left = axes.find(first + i, offset);
        bytes = start[K] + offset[K];
      }
      f(i, bytes);
      bytes += axes.pixel_stride[K][Rank - 1];
      --left;
    }
  }
};

// A function of lanes along one of the axes of its arrays, from a position on.
template <class Function, class Operands, class Strides, class V, class Index, int Axes>
NNK_FN auto apply_at(const Operands& given, const Strides& stride, const V& x,
                     const Index (&position)[Axes], int axis, int lanes) {
  OperandLines<Index, Function::arrays> lines{given.arrays(), {}, {}, lanes};
  NNK_UNROLL
  for (int k = 0; k < Function::arrays; ++k) {
    lines.offset[k] = 0;
    NNK_UNROLL
    for (int a = 0; a < Axes; ++a) lines.offset[k] += position[a] * stride[k][a];
    lines.step[k] = stride[k][axis];
  }
  return Function::apply(given.numbers, x, lines);
}

// Function: a FusedFunction; Base: what comes before it, whose results are its first values
// Pixels, Rank: which axis of the product has axes of its own in the arrays, and how many
template <class Function, class Base, int Pixels = no_pixel_axes, int Rank = 1>
struct FusedEpilogue {
  static constexpr int count = Function::arrays;
  static constexpr int operands = Base::operands + count;
  using Value = typename Function::Value;
  using Operands = FusedOperands<Function, typename Base::Operands>;

  template <class Index> struct Args : PixelAxes<Index, count, Rank> {
    Index stride[count > 0 ? count : 1][2];  // in bytes
    typename Base::template Args<Index> base;
  };

  template <class Index> struct Of {
    const Operands& given;
    const Args<Index>& args;
    typename Base::template Of<Index> base;
    Index start[count > 0 ? count : 1];

    NNK_FN Of(const Operands& arrays, const Args<Index>& a, const Index* offset, Index m, Index n)
        : given(arrays), args(a), base(arrays, a.base, offset, m, n) {
      start[0] = 0;
      NNK_UNROLL
      for (int k = 0; k < count; ++k) start[k] = offset[Base::operands + k];
    }

    template <class V>
    NNK_FN auto operator()(const V& sums, Index row, Index column, int lanes) const {
      const auto& y = base(sums, row, column, lanes);
      const auto& x = in_type<Value>(y);
      OperandLines<Index, count> lines{given.arrays(), {}, {}, lanes};
      NNK_UNROLL
      for (int k = 0; k < count; ++k) {
        lines.offset[k] = start[k];
        if constexpr (Pixels != rows_have_axes) lines.offset[k] += row * args.stride[k][0];
        if constexpr (Pixels != columns_have_axes) lines.offset[k] += column * args.stride[k][1];
        lines.step[k] = args.stride[k][1];
      }
      if constexpr (Pixels == rows_have_axes) args.find(row, lines.offset);
      if constexpr (Pixels == columns_have_axes && count > 0) {
        OperandRuns<Index, count, Rank> runs{given.arrays(), args, {}, column, lanes};
        NNK_UNROLL
        for (int k = 0; k < count; ++k) runs.start[k] = lines.offset[k];
        if (args.find(column, lines.offset) < lanes) return Function::apply(given.numbers, x, runs);
        NNK_UNROLL
        for (int k = 0; k < count; ++k) lines.step[k] = args.pixel_stride[k][Rank - 1];
      }
      return Function::apply(given.numbers, x, lines);
    }
    template <int N, int Rows> NNK_FN void fetch(Index row, Index column, int rows) const {
      base.template fetch<N, Rows>(row, column, rows);
      if constexpr (Pixels == no_pixel_axes) fetch_each<N, Rows>(row, column, rows, range<count>());
    }

   private:
    template <int N, int Rows, int... K>
    NNK_FN void fetch_each(Index row, Index column, int rows, Ints<K...>) const {
      (fetch_array<N, Rows, K>(row, column, rows), ...);
    }
    template <int N, int Rows, int K>
    NNK_FN void fetch_array(Index row, Index column, int rows) const {
      constexpr int size = Function::template itemsize<K>();
      const Index* const stride = args.stride[K];
      if (stride[0] == 0 || stride[1] != Index(size)) return;
      const void* const first = byte_offset(static_cast<const char*>(given.arrays()[K]),
                                            start[K] + row * stride[0] + column * stride[1]);
      fetch_rows<N * size, Rows>(first, stride[0], rows);
    }
  };
};

// The same where the kernel itself knows positions along `Axes` axes of the arrays, once the sums
// went through Base.
template <class Function, class Base, int Axes> struct PlacedEpilogue {
  static constexpr int count = Function::arrays;
  static constexpr int operands = Base::operands;
  using Operands = FusedOperands<Function, typename Base::Operands>;

  template <class Index> struct Args {
    Index stride[count > 0 ? count : 1][Axes];  // in bytes
    typename Base::template Args<Index> base;
  };

  template <class Index> struct Of {
    const Operands& given;
    const Args<Index>& args;
    typename Base::template Of<Index> base;

    NNK_FN Of(const Operands& arrays, const Args<Index>& a, const Index* offset, Index m, Index n)
        : given(arrays), args(a), base(arrays, a.base, offset, m, n) {}

    template <class V>
    NNK_FN auto operator()(const V& sums, Index row, Index column, int lanes) const {
      return base(sums, row, column, lanes);
    }
    // The function of what came through Base: of so many lanes along an axis.
    template <class V>
    NNK_FN auto finish(const V& x, const Index (&position)[Axes], int axis, int lanes) const {
      return apply_at<Function>(given, args.stride, convert<typename Function::Value>(x), position,
                                axis, lanes);
    }
  };
};
template <class Epilogue> constexpr bool is_placed = false;
template <class Function, class Base, int Axes>
constexpr bool is_placed<PlacedEpilogue<Function, Base, Axes>> = true;

}  // namespace nnk
