// What the gradients of a norm need of a row: see norm_backward.cuh.
//
// A mean of its elements first, then in one pass the sums over d = x - mean: of d (what the mean
// was off by), of d^2, of g d and of g. Where several blocks share a row, each saves those of its
// part.
#pragma once
#include "nnk/norm.cuh"

namespace nnk {

// A part of a row: a mean, and sums over d = x - mean (which add up to `sum`, by rounding).
template <class S> struct NormPart { S mean, sum, squares, products, cotangents; };

// Sums of a row that are found in one pass: of d, d^2, g d and g.
template <class V> struct NormSumsOfRow { V sum, squares, products, cotangents; };
template <class S> struct SumNormRow {
  using type = NormSumsOfRow<S>;
  static constexpr bool lanewise = false;
  static NNK_FN type identity() { return {S(0), S(0), S(0), S(0)}; }
  static NNK_FN type combine(const type& a, const type& b) {
    return {a.sum + b.sum, a.squares + b.squares, a.products + b.products,
            a.cotangents + b.cotangents};
  }
};

template <class T, class D, class W, class S, class Geometry> struct NormBackwardArgs {
  using Index = typename Geometry::index_type;
  const T* x;
  const D* dy;
  const W* weight;
  const T* added;
  T* dx;
  S* sums;  // row_values: [rstd, mean, low][rows]; else [blocks][dweight, dbias][width]
  NormPart<S>* workspace;  // rows x parts, for part_of_row and finish_row
  int64 rows;
  int64 tiles;           // in which a block takes the rows, all of them,
  int64 tiles_of_block;  // and of one block
  S eps, offset;
  int64 parts;
  Index part_groups;
  int32 kept;  // elements of shared memory: twice those of a row, for x and dy
  Geometry geometry;
};

// Weighted: whether there is a weight. Kept: whether the first pass over a row keeps it.
template <int Kind, class Args, class Rows, bool Weighted, bool Kept> struct NormBackwardRow {
  using V = typename Rows::V;
  using S = typename V::value_type;
  using Index = typename Rows::Index;
  static constexpr int N = V::size, Columns = Rows::columns, Layout = Rows::layout;
  static constexpr bool centred = Kind == layer_kind;

  struct Pair { V x, dy; };
  // dx = rstd (g - mean_g - h mean_gh), h = (x - mean - low) rstd
  struct Stats { V mean[Columns], low[Columns], rstd[Columns], mean_g[Columns], mean_gh[Columns]; };
  using Totals = NormSumsOfRow<V>;

  static NNK_FN Pair read(const Rows& rows, const Args& args, Index g, int c, bool full) {
    return {rows.template load<0>(args.x, g, c, full, S(0)),
            rows.template load<1>(args.dy, g, c, full, S(0))};
  }
  static NNK_FN V weighted(const Rows& rows, const Args& args, const V& dy, Index g, int c,
                           bool full) {
    if constexpr (Weighted) {
      const V w = rows.template load<2>(args.weight, g, c, full, S(0));
      return dy * (Kind == rms_kind ? w + args.offset : w);
    } else {
      return dy;
    }
  }
  // x - mean, or 0 where there is no x.
  static NNK_FN V deviation(const Rows& rows, const V& x, const V& mean, Index g, int c,
                            bool full) {
    if constexpr (!centred) return x;
    const int n = full ? N : rows.count(g, c);
    return n == N ? x - mean : first_lanes(x - mean, n);
  }
  static NNK_FN void add(Totals& t, const V& d, const V& g) {
    if constexpr (centred) {
      t.sum = t.sum + d;
      t.cotangents = t.cotangents + g;
    }
    t.squares = fma(d, d, t.squares);
    t.products = fma(g, d, t.products);
  }
  static NNK_FN Totals nothing() {
    const V zero = V::splat(S(0));
    return {zero, zero, zero, zero};
  }

  // ---- statistics --------------------------------------------------------------------------

  // Over the team; along: over the lanes as well.
  static NNK_FN void reduce(const Rows& rows, Totals& t) {
    if constexpr (Layout == along && Rows::side_by_side * Rows::team > 1) {
      const auto all = rows.template reduce_value<SumNormRow<S>>(
          {fold<Sum<S>>(t.sum), fold<Sum<S>>(t.squares), fold<Sum<S>>(t.products),
           fold<Sum<S>>(t.cotangents)});
      t = {V::splat(all.sum), V::splat(all.squares), V::splat(all.products),
           V::splat(all.cotangents)};
    } else {
      if constexpr (centred) {
        t.sum = rows.template reduce<Sum<S>>(t.sum);
        t.cotangents = rows.template reduce<Sum<S>>(t.cotangents);
      }
      t.squares = rows.template reduce<Sum<S>>(t.squares);
      t.products = rows.template reduce<Sum<S>>(t.products);
    }
  }
  // From the sums over a whole row: what the mean was off by is taken from the others.
  static NNK_FN void finish(const Rows& rows, const Args& args, const Totals& t, const V& mean,
                            int c, Stats& stats) {
    if constexpr (Layout == along) {
      // All lanes are the same: one division and root for all of them.
      using One = Vec<S, 1>;
      finish_as<One>(rows, args, One::splat(t.sum[0]), One::splat(t.squares[0]),
                     One::splat(t.products[0]), One::splat(t.cotangents[0]), c, stats);
    } else {
      finish_as<V>(rows, args, t.sum, t.squares, t.products, t.cotangents, c, stats);
    }
    stats.mean[c] = mean;
  }
  template <class X>
  static NNK_FN void finish_as(const Rows& rows, const Args& args, X sum, X squares, X products,
                               X cotangents, int c, Stats& stats) {
    const S share = S(1) / S(rows.geometry.length);
    const X low = centred ? sum * share : X::splat(S(0));
    if constexpr (centred) {
      squares = max(squares - low * sum, X::splat(S(0)));
      products = products - low * cotangents;
    }
    X rstd = S(1) / sqrt(squares * share + args.eps);
    // A row that is not there adds nothing, also where eps is 0.
    if (Layout == along && c >= rows.present) rstd = X::splat(S(0));
    spread(stats.low[c], low);
    spread(stats.rstd[c], rstd);
    spread(stats.mean_g[c], centred ? cotangents * share : X::splat(S(0)));
    spread(stats.mean_gh[c], products * rstd * share);
  }
  static NNK_FN void spread(V& to, const V& x) { to = x; }
  template <int M> static NNK_FN void spread(V& to, const Vec<S, M>& x) { to = V::splat(x[0]); }

  // The mean over groups [first, last), which have `elements` elements. Where no mean is taken,
  // load_x is called all the same if it keeps the row.
  template <class F>
  static NNK_FN void find_mean(const Rows& rows, F load_x, Index first, Index last, S elements,
                               V (&mean)[Columns]) {
    if constexpr (centred) {
      rows.sum(mean, first, last, load_x);
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) mean[c] = mean[c] * (S(1) / elements);
    } else {
      rows.clear(mean);
      if constexpr (Kept) {
        rows.each(first, last, [&](Index g, bool full, int) NNK_INLINE {
          NNK_UNROLL
          for (int c = 0; c < Columns; ++c) load_x(g, c, full);
        });
      }
    }
  }
  template <class F>
  static NNK_FN void find_sums(const Rows& rows, const Args& args, F load, Index first, Index last,
                               const V (&mean)[Columns], Totals (&total)[Columns]) {
    Totals partial[Rows::partials][Columns];
    for (int p = 0; p < Rows::partials; ++p) {
      for (int c = 0; c < Columns; ++c) partial[p][c] = nothing();
    }
    rows.each(first, last, [&](Index g, bool full, int p) NNK_INLINE {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) {
        const Pair v = load(g, c, full);
        add(partial[p][c], deviation(rows, v.x, mean[c], g, c, full),
            weighted(rows, args, v.dy, g, c, full));
      }
    });
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      total[c] = partial[0][c];
      for (int p = 1; p < Rows::partials; ++p) {
        const Totals& more = partial[p][c];
        total[c] = {total[c].sum + more.sum, total[c].squares + more.squares,
                    total[c].products + more.products, total[c].cotangents + more.cotangents};
      }
      reduce(rows, total[c]);
    }
  }
  template <class F, class E>
  static NNK_FN void measure_row(const Rows& rows, const Args& args, F load_x, E load,
                                 Stats& stats) {
    V mean[Columns];
    Totals total[Columns];
    find_mean(rows, load_x, 0, rows.groups, S(rows.geometry.length), mean);
    find_sums(rows, args, load, 0, rows.groups, mean, total);
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) finish(rows, args, total[c], mean[c], c, stats);
  }

  // ---- several blocks for a row -------------------------------------------------------------

  static NNK_FN S elements_of(const Rows& rows, const Args& args, int64 part) {
    const Index whole = args.part_groups * (Layout == along ? N : 1);
    const Index left = rows.geometry.length - Index(part) * whole;
    return S(left < whole ? left : whole);
  }
  static NNK_FN void save_part(const Rows& rows, const Args& args, int64 tile, int64 part,
                               const V (&mean)[Columns], const Totals (&t)[Columns]) {
    if (rows.member != 0) return;  // no barrier follows
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      NNK_UNROLL
      for (int i = 0; i < Rows::lanes; ++i) {
        const int row = c * Rows::lanes + i;
        if (row < rows.present)
          args.workspace[(rows.row_number(tile) + row) * args.parts + part] = {
              mean[c][i], t[c].sum[i], t[c].squares[i], t[c].products[i], t[c].cotangents[i]};
      }
    }
  }
  // f(lane, saved, elements) for the parts of column c that this thread takes.
  template <class F>
  static NNK_FN void each_part(const Rows& rows, const Args& args, int64 tile, int c, F f) {
    NNK_UNROLL
    for (int i = 0; i < Rows::lanes; ++i) {
      const int row = c * Rows::lanes + i;
      if (row >= rows.present) continue;
      const NormPart<S>* saved = args.workspace + (rows.row_number(tile) + row) * args.parts;
      // A few steps, which would take many registers if they overlapped.
      const int count = int(args.parts);
      NNK_NO_UNROLL
      for (int p = rows.member; p < count; p += Rows::team)
        f(i, saved[p], elements_of(rows, args, p));
    }
  }
  static NNK_FN void fold_parts(const Rows& rows, const Args& args, int64 tile, Stats& stats) {
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      V mean = V::splat(S(0));
      if constexpr (centred) {
        each_part(rows, args, tile, c, [&](int i, const NormPart<S>& p, S elements) NNK_INLINE {
          mean.set(i, mean[i] + (elements * p.mean + p.sum));
        });
        mean = rows.template reduce<Sum<S>>(mean) * (S(1) / S(rows.geometry.length));
      }
      Totals t = nothing();
      each_part(rows, args, tile, c, [&](int i, const NormPart<S>& p, S elements) NNK_INLINE {
        // Sums around the mean of the part, moved to that of the row.
        const S off = p.mean - mean[i];
        t.sum.set(i, t.sum[i] + (p.sum + elements * off));
        t.squares.set(i, t.squares[i] + (p.squares + off * (S(2) * p.sum + elements * off)));
        t.products.set(i, t.products[i] + (p.products + off * p.cotangents));
        t.cotangents.set(i, t.cotangents[i] + p.cotangents);
      });
      reduce(rows, t);
      finish(rows, args, t, mean, c, stats);
    }
  }
};

}  // namespace nnk
