// What the kernels of matrix products share: how operands lie, where a batch begins, and loads.
#pragma once
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// Which axis of an operand's tile is read by neighbouring threads (or SIMD lanes).
enum : int { rows_fast = 0, columns_fast = 1 };

// Byte offsets of the arrays of one batch: a, b, c and the epilogue's.
template <class Index, int Rank, int Count>
NNK_FN void decode_batch(const Divisor<Index> (&shape)[Rank], const Index (&stride)[Count][Rank],
                         Index batch, Index (&offset)[Count]) {
  NNK_UNROLL
  for (int o = 0; o < Count; ++o) offset[o] = 0;
  NNK_UNROLL
  for (int axis = Rank - 1; axis >= 0; --axis) {
    const Index next = axis == 0 ? 0 : shape[axis].divide(batch);
    const Index position = batch - next * shape[axis].divisor;
    NNK_UNROLL
    for (int o = 0; o < Count; ++o) offset[o] += position * stride[o][axis];
    batch = next;
  }
}

// How many terms of the sums a split adds. Each split is a batch of its own, whose batch strides
// lead to its terms; but the last may have fewer than `terms`.
template <class Args, class Index> NNK_FN Index terms_of_split(const Args& args, Index split) {
  const Index left = args.k - split * args.terms;
  return left < args.terms ? left : args.terms;
}

// N elements of a line from `first` on, of which `left` are there, in the type S; zeros follow.
template <class S, bool Conjugate, int N, class L>
NNK_FN Vec<S, N> loaded(const L& line, int first, int left) {
  using T = decltype(line.template load<1>(0)[0]);
  const auto x = left >= N ? line.template load<N>(first)
                           : line.template load_partial<N>(first, left < 0 ? 0 : left, T());
  const Vec<S, N> y = convert<S>(x);
  return Conjugate ? conj(y) : y;
}

// The first `count` elements of y, `step` bytes apart.
template <class T, class Index, int N>
NNK_FN void store_elements(T* to, Index step, int count, const Vec<T, N>& y) {
  if (step == Index(sizeof(T))) {
    const Line<T, Index, unit_step> line{to, Index(count), step};
    if (count == N) line.store(Index(0), y);
    else line.store_partial(Index(0), y, count);
  } else {
    const Line<T, Index> line{to, Index(count), step};
    line.store_partial(Index(0), y, count);
  }
}

// The first `columns` elements of y to a row of C, from `column` on.
template <class T, class Index, int N>
NNK_FN void store_row(const View<T, 2, Index>& c, Index row, Index column, int columns,
                      const Vec<T, N>& y) {
  store_elements(c.at(NNK_HERE, row, column), c.stride[1], columns, y);
}

}  // namespace nnk
