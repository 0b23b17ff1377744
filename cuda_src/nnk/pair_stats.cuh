// Moments of two arrays together, over the rows of RowTeam: what the gradient of a normalisation
// needs of x and dy, in one reading.
//
// As in row_stats.cuh, sums are of deviations: a chunk of groups gives its own means and sums,
// which are merged into what the lane has so far by Chan's formula, whose form for products is
//   c = c_a + c_b + (x_b - x_a) (y_b - y_a) n_a n_b / n        c = sum (x - mean x) (y - mean y)
// The mean of x need not be known before: sum dy (x - mean) is this c.
#pragma once
#include "nnk/row_stats.cuh"

namespace nnk {

// What a part of a row saves. mean + low is that of x; `other` is the mean of dy.
template <class S> struct PairMoments { S mean, low, m2, other, co; };

// The same in all threads of a team; lane i of column c, and along every lane, has its row's.
template <class Rows> struct PairStats {
  using V = typename Rows::V;
  using S = typename V::value_type;
  using Index = typename Rows::Index;
  static constexpr int columns = Rows::columns, N = V::size;
  static constexpr bool is_along = Rows::layout == along;
  // Two arrays of as many groups in registers: half of what RowStats has.
  static constexpr int chunk = lanes_are_simd ? 8 : N <= 4 ? 2 : 1;

  V mean[columns], low[columns], m2[columns], other[columns], co[columns];

  NNK_FN PairMoments<S> at(int i, int c) const {
    return {mean[c][i], low[c][i], m2[c][i], other[c][i], co[c][i]};
  }

  struct Pair { V x, dy; };

  // Of the groups [first, last): load(g, c, full) gives a Pair, with 0 in lanes that are not there.
  template <class F> NNK_FN void online(const Rows& rows, Index first, Index last, F load) {
    Lanes lanes[columns];
    const V zero = V::splat(S(0));
    NNK_UNROLL
    for (int c = 0; c < columns; ++c) lanes[c] = {zero, zero, zero, zero, zero};
    const Index whole = !is_along                         ? last
                        : rows.geometry.length / N < last ? rows.geometry.length / N
                                                          : last;
    const bool full = is_along || rows.present == N * columns;
    Index g = first + rows.member;
    S seen = S(0);
    // As RowStats has it.
    if constexpr (is_along || lanes_are_simd) add_chunks(rows, lanes, g, whole, full, seen, load);
    else if (full) add_chunks(rows, lanes, g, whole, true, seen, load);
    else add_chunks(rows, lanes, g, whole, false, seen, load);
    // Fewer than a chunk is left, and along the very last group may be cut.
    V count = V::splat(seen);
    for (; g < last; g += Rows::team) {
      const V one = first_lanes(V::splat(S(1)), !is_along || g < whole ? N : rows.count_of_row(g));
      const V sum = count + one;
      const V share = one / (N > 1 ? max(sum, V::splat(S(1))) : sum);
      NNK_UNROLL
      for (int c = 0; c < columns; ++c) add_one(lanes[c], load(g, c, false), count, one, share);
      count = sum;
    }
    const S elements = is_along && last * N > rows.geometry.length
                           ? S(rows.geometry.length - first * N)
                           : S((last - first) * (is_along ? N : 1));
    NNK_UNROLL
    for (int c = 0; c < columns; ++c) settle(rows, c, lanes[c], count, elements);
  }

 private:
  // Of the elements that one lane has seen; `mean` is relative to `pivot`.
  struct Lanes { V pivot, mean, m2, other, co; };

  template <class F>
  static NNK_FN void add_chunks(const Rows& rows, Lanes (&lanes)[columns], Index& g, Index whole,
                                bool full, S& seen, F load) {
    for (; g + (chunk - 1) * Rows::team < whole; g += chunk * Rows::team) {
      const S share = S(chunk) / (seen + S(chunk));
      NNK_UNROLL
      for (int c = 0; c < columns; ++c) {
        Pair pair[chunk];
        NNK_UNROLL
        for (int k = 0; k < chunk; ++k) pair[k] = load(g + k * Rows::team, c, full);
        add_chunk(lanes[c], pair, seen, share);
      }
      seen = seen + S(chunk);
    }
  }
  static NNK_FN void add_chunk(Lanes& l, const Pair (&pair)[chunk], S seen, S share) {
    if (seen == S(0)) {
      V sum = pair[0].x;
      NNK_UNROLL
      for (int k = 1; k < chunk; ++k) sum = sum + pair[k].x;
      l.pivot = sum * S(1.0 / chunk);
    }
    V d[chunk];
    V sum = d[0] = pair[0].x - l.pivot;
    V other_sum = pair[0].dy;
    NNK_UNROLL
    for (int k = 1; k < chunk; ++k) {
      d[k] = pair[k].x - l.pivot;
      sum = sum + d[k];
      other_sum = other_sum + pair[k].dy;
    }
    const V own = sum * S(1.0 / chunk), own_other = other_sum * S(1.0 / chunk);
    V squares = V::splat(S(0)), products = V::splat(S(0));
    NNK_UNROLL
    for (int k = 0; k < chunk; ++k) {
      const V e = d[k] - own;
      squares = fma(e, e, squares);
      products = fma(e, pair[k].dy - own_other, products);
    }
    const V off = own - l.mean, other_off = own_other - l.other;
    const V weight = V::splat(seen * share);
    l.mean = fma(off, V::splat(share), l.mean);
    l.other = fma(other_off, V::splat(share), l.other);
    l.m2 = fma(off * off, weight, l.m2 + squares);
    l.co = fma(off * other_off, weight, l.co + products);
  }
  // One more pair for the lanes that have one (`one` is 1 there, and share 1 / (count + 1)).
  static NNK_FN void add_one(Lanes& l, const Pair& p, const V& count, const V& one,
                             const V& share) {
    // A single lane has its number always; masks of one lane would be bytes in memory on gfx90a.
    if constexpr (N > 1) l.pivot = where(count == S(0), p.x, l.pivot);
    else if (count[0] == S(0)) l.pivot = p.x;
    V off = (p.x - l.pivot) - l.mean;
    V other_off = p.dy - l.other;
    if constexpr (is_along && N > 1) {
      // Lanes without a number were loaded as 0, from which a mean may be far away.
      off = where(one == S(0), V::splat(S(0)), off);
      other_off = where(one == S(0), V::splat(S(0)), other_off);
    }
    const V weight = count * share;
    l.mean = fma(off, share, l.mean);
    l.other = fma(other_off, share, l.other);
    l.m2 = fma(off * off, weight, l.m2);
    l.co = fma(off * other_off, weight, l.co);
  }

  // From the lanes of all threads of the team to their rows.
  NNK_FN void settle(const Rows& rows, int c, const Lanes& l, const V& count, S elements) {
    mean[c] = rows.template reduce<Sum<S>>(count * (l.pivot + l.mean)) / elements;
    other[c] = rows.template reduce<Sum<S>>(count * l.other) / elements;
    const V off = (l.pivot - mean[c]) + l.mean, weighted = count * off;
    const V sum = rows.template reduce<Sum<S>>(weighted);
    const V squares = rows.template reduce<Sum<S>>(fma(weighted, off, l.m2));
    co[c] = rows.template reduce<Sum<S>>(fma(weighted, l.other - other[c], l.co));
    low[c] = sum / elements;
    m2[c] = max(squares - low[c] * sum, V::splat(S(0)));
  }
};

}  // namespace nnk
