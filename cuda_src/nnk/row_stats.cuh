// Mean and variance of the rows of RowTeam.
//
// A mean of many float32 numbers is off by some units in the last place, and where the numbers
// are large beside their deviations, so is every deviation: with mean 1e4 and deviation 1e-2 the
// last place is a tenth of the deviation. So a mean is two numbers here, `mean` and the small
// `low` that it lacks, and x - mean - low is the deviation: the first difference is exact or
// nearly so. Sums of squares are taken of deviations alone (T. F. Chan, G. H. Golub, R. J.
// LeVeque, "Algorithms for Computing the Sample Variance", The American Statistician 37(3),
// 1983), and corrected for what the mean was off by.
//
//   kept()    of a row that is in registers or shared memory: mean, then deviations
//   online()  of groups that are read once: a few at a time, each chunk merged into what the
//             lane has so far; then lanes and threads
//   save_parts(), fold_parts()   of rows that several blocks share
#pragma once
#include "nnk/reduce.cuh"
#include "nnk/row_team.cuh"
#include "nnk/types.cuh"

namespace nnk {

// What a part of a row saves: its mean (in two numbers) and its sum of squared deviations.
template <class S> struct MomentsValue { S mean, low, m2; };

template <class T> struct PairValue { T first, second; };
template <class T> struct SumPair {
  using type = PairValue<T>;
  static constexpr bool lanewise = false;
  static NNK_FN type identity() { return {T(0), T(0)}; }
  static NNK_FN type combine(type a, type b) { return {a.first + b.first, a.second + b.second}; }
};

// Of every row of a thread (lane i of column c; along: every lane has that of column c), the same
// in all threads of a team.
template <class Rows> struct RowStats {
  using V = typename Rows::V;
  using S = typename V::value_type;
  using Index = typename Rows::Index;
  static constexpr int columns = Rows::columns, N = V::size;
  static constexpr bool is_along = Rows::layout == along;

  V mean[columns];  // of the numbers
  V low[columns];   // what `mean` lacks
  V m2[columns];    // sum of squared deviations

  // 1 / sqrt(variance + eps), where the variance is that of all elements of the row, or of so many
  // rows together.
  NNK_FN V reciprocal_deviation(const Rows& rows, int c, S eps, Index siblings = 1) const {
    return reciprocal_root(rows, m2[c], eps, siblings);
  }
  // 1 / sqrt(sum / length + eps)
  static NNK_FN V reciprocal_root(const Rows& rows, const V& sum, S eps, Index siblings = 1) {
    const S length = S(rows.geometry.length) * S(siblings);
    if constexpr (is_along) {  // all lanes are the same: once for all of them
      using One = Vec<S, 1>;
      return V::splat((S(1) / sqrt(One::splat(sum[0] / length + eps)))[0]);
    } else {
      return S(1) / sqrt(sum / length + eps);
    }
  }

  // The sums over the team of two numbers of every lane (along: of all lanes).
  static NNK_FN void reduce_both(const Rows& rows, V& a, V& b) {
    if constexpr (is_along) {
      const PairValue<S> sums =
          rows.template reduce_value<SumPair<S>>({fold<Sum<S>>(a), fold<Sum<S>>(b)});
      a = V::splat(sums.first);
      b = V::splat(sums.second);
    } else {
      a = rows.template reduce<Sum<S>>(a);
      b = rows.template reduce<Sum<S>>(b);
    }
  }

  // ---- rows that are on the chip ----------------------------------------------------------

  // Of column c, from `sum`, this thread's sum of its elements. `deviations(mean)` gives the sum
  // of this thread's deviations from a mean and that of their squares, in a PairValue<V>; lanes
  // that are not there count 0 in both (first_lanes).
  template <class F> NNK_FN void kept(const Rows& rows, int c, const V& sum, F deviations) {
    const S length = S(rows.geometry.length), share = S(1) / length;
    mean[c] = rows.template reduce<Sum<S>>(sum) * share;  // near enough: `low` has the rest
    PairValue<V> d = deviations(mean[c]);
    finish(rows, c, share, d.first, d.second);
  }

  // ---- rows that are read -----------------------------------------------------------------

  // Eight numbers in each of four groups would leave a GPU thread no registers to compute with.
  static constexpr int chunk = lanes_are_simd ? 8 : N <= 4 ? 4 : 2;

  // Of the elements that one lane has seen: they lie around `pivot`, the mean of the first few,
  // and `mean` is relative to it. Numbers near the pivot are so kept to their own last place.
  struct Lanes { V pivot, mean, m2; };

  // Of the groups [first, last) alone: load(g, c, full) gives group g of column c, with 0 in the
  // lanes that are not there.
  template <class F> NNK_FN void online(const Rows& rows, Index first, Index last, F load) {
    Lanes lanes[columns];
    NNK_UNROLL
    for (int c = 0; c < columns; ++c) lanes[c] = {V::splat(S(0)), V::splat(S(0)), V::splat(S(0))};
    const Index whole = !is_along                         ? last
                        : rows.geometry.length / N < last ? rows.geometry.length / N
                                                          : last;
    const bool full = is_along || rows.present == N * columns;
    Index g = first + rows.member;
    S seen = S(0);
    // A GPU asks what is whole once: between two loads, a branch would wait for the first of them.
    if constexpr (is_along || lanes_are_simd) add_chunks(rows, lanes, g, whole, full, seen, load);
    else if (full) add_chunks(rows, lanes, g, whole, true, seen, load);
    else add_chunks(rows, lanes, g, whole, false, seen, load);
    // Fewer than a chunk is left, and along the very last group may be cut.
    V count = V::splat(seen);
    for (; g < last; g += Rows::team) {
      const int there = !is_along || g < whole ? N : rows.count_of_row(g);
      const V one = first_lanes(V::splat(S(1)), there);
      const V sum = count + one;
      const V share = one / where(sum == S(0), V::splat(S(1)), sum);
      NNK_UNROLL
      for (int c = 0; c < columns; ++c) add_one(lanes[c], load(g, c, false), count, one, share);
      count = sum;
    }
    const S elements = is_along && last * N > rows.geometry.length
                           ? S(rows.geometry.length - first * N)
                           : S((last - first) * (is_along ? N : 1));
    const S share = S(1) / elements;
    NNK_UNROLL
    for (int c = 0; c < columns; ++c) {
      const Lanes& l = lanes[c];
      mean[c] = rows.template reduce<Sum<S>>(count * (l.pivot + l.mean)) * share;
      const V off = (l.pivot - mean[c]) + l.mean;
      const V weighted = count * off;
      finish(rows, c, share, weighted, l.m2 + weighted * off);
    }
  }

  // ---- rows that several blocks share -----------------------------------------------------

  NNK_FN void save_parts(const Rows& rows, MomentsValue<S>* workspace, int64 parts, int64 tile,
                         int64 part) const {
    if (rows.member != 0) return;  // no barrier follows
    NNK_UNROLL
    for (int c = 0; c < columns; ++c) {
      NNK_UNROLL
      for (int i = 0; i < Rows::lanes; ++i) {
        if (c * Rows::lanes + i < rows.present)
          workspace[(rows.row_number(tile) + c * Rows::lanes + i) * parts + part] = {
              mean[c][i], low[c][i], m2[c][i]};
      }
    }
  }

  // part_groups: groups of every part but the last, which may have fewer. So many `siblings`, rows
  // that are numbered one after the other, are taken together.
  NNK_FN void fold_parts(const Rows& rows, const MomentsValue<S>* workspace, int64 parts,
                         int64 tile, Index part_groups, Index siblings = 1) {
    const Index whole = part_groups * (is_along ? N : 1);  // elements of a part
    const S share = S(1) / (S(rows.geometry.length) * S(siblings));
    NNK_UNROLL
    for (int c = 0; c < columns; ++c) {
      V sum = V::splat(S(0)), off_sum = V::splat(S(0)), squares = V::splat(S(0));
      each_part(rows, c, workspace, parts, tile, whole, siblings,
                [&](int i, const MomentsValue<S>& part, S elements) {
                  sum.set(i, sum[i] + elements * part.mean);
                });
      mean[c] = rows.template reduce<Sum<S>>(sum) * share;
      each_part(rows, c, workspace, parts, tile, whole, siblings,
                [&](int i, const MomentsValue<S>& part, S elements) {
                  const S off = (part.mean - mean[c][i]) + part.low;
                  off_sum.set(i, off_sum[i] + elements * off);
                  squares.set(i, squares[i] + (part.m2 + elements * off * off));
                });
      finish(rows, c, share, off_sum, squares);
    }
  }

 private:
  // `sum` and `squares` of deviations from mean[c], of this thread, become `low` and `m2`; share is
  // 1 / number of elements.
  NNK_FN void finish(const Rows& rows, int c, S share, V sum, V squares) {
    reduce_both(rows, sum, squares);
    low[c] = sum * share;
    m2[c] = max(squares - low[c] * sum, V::splat(S(0)));
  }

  // From group g on, as long as there are whole chunks.
  template <class F>
  static NNK_FN void add_chunks(const Rows& rows, Lanes (&lanes)[columns], Index& g, Index whole,
                                bool full, S& seen, F load) {
    for (; g + (chunk - 1) * Rows::team < whole; g += chunk * Rows::team) {
      const S share = S(chunk) / (seen + S(chunk));
      NNK_UNROLL
      for (int c = 0; c < columns; ++c) {
        V x[chunk];
        NNK_UNROLL
        for (int k = 0; k < chunk; ++k) x[k] = load(g + k * Rows::team, c, full);
        add_chunk(lanes[c], x, seen, share);
      }
      seen = seen + S(chunk);
    }
  }
  static NNK_FN void add_chunk(Lanes& l, const V (&x)[chunk], S seen, S share) {
    if (seen == S(0)) {
      V sum = x[0];
      NNK_UNROLL
      for (int k = 1; k < chunk; ++k) sum = sum + x[k];
      l.pivot = sum * S(1.0 / chunk);
    }
    V d[chunk];
    V sum = d[0] = x[0] - l.pivot;
    NNK_UNROLL
    for (int k = 1; k < chunk; ++k) {
      d[k] = x[k] - l.pivot;
      sum = sum + d[k];
    }
    const V own = sum * S(1.0 / chunk);
    V squares = (d[0] - own) * (d[0] - own);
    NNK_UNROLL
    for (int k = 1; k < chunk; ++k) squares = fma(d[k] - own, d[k] - own, squares);
    const V off = own - l.mean;
    l.mean = fma(off, V::splat(share), l.mean);
    l.m2 = fma(off * off, V::splat(seen * share), l.m2 + squares);
  }
  // One more number for the lanes that have one (`one` is 1 there, and share 1 / (count + 1)).
  static NNK_FN void add_one(Lanes& l, const V& x, const V& count, const V& one, const V& share) {
    l.pivot = where(count == S(0), x, l.pivot);
    const V off = first_or_zero((x - l.pivot) - l.mean, one);
    l.mean = fma(off, share, l.mean);
    l.m2 = fma(off * off, count * share, l.m2);
  }
  // Lanes without a number were loaded as 0, from which a pivot may be far away.
  static NNK_FN V first_or_zero(const V& v, const V& one) {
    if constexpr (is_along) return where(one == S(0), V::splat(S(0)), v);
    else return v;
  }

  template <class F>
  static NNK_FN void each_part(const Rows& rows, int c, const MomentsValue<S>* workspace,
                               int64 parts, int64 tile, Index whole, Index siblings, F f) {
    NNK_UNROLL
    for (int i = 0; i < Rows::lanes; ++i) {
      if (c * Rows::lanes + i < rows.present) {
        int64 row = rows.row_number(tile) + c * Rows::lanes + i;
        if (siblings > 1) row = row / siblings * siblings;
        const MomentsValue<S>* saved = workspace + row * parts;
        // A few steps, which would take many registers if they overlapped.
        const int count = int(parts) * int(siblings);
        NNK_NO_UNROLL
        for (int p = rows.member; p < count; p += Rows::team) {
          const Index part = siblings > 1 ? p % int(parts) : p;
          const Index left = rows.geometry.length - part * whole;
          f(i, saved[p], S(left < whole ? left : whole));
        }
      }
    }
  }
};

}  // namespace nnk
