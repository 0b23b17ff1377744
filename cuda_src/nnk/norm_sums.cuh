// Gradients of the parameters of a normalisation: dweight = sum(dy h), dbias = sum(dy), with
// h = (x - mean) rstd, over all elements that share a parameter. These are a row of RowTeam here.
//
//   of_elements   x and dy are read, with rstd, mean and low (see RowStats) of their rows
//   of_partials   what blocks of NormBackward or of the former have summed is added up, in order
//
// Where a row is cut into parts, each block writes its sums, [parts][dweight, dbias][rows], and a
// second launch adds these up.
#pragma once
#include "nnk/norm_backward.cuh"

namespace nnk {

enum : int { of_elements = 0, of_partials = 1 };

// T, D  types of x and dy, or of the partial sums;  W, B  types of dweight and dbias. Operands of
// the geometry: x or partial sums, dy, values of a row, dweight, dbias. Biased: whether there is
// dbias.
template <int Kind, int Source, class T, class D, class W, class B, class S, class Geometry,
          int Layout, class Steps, int N, int Columns, int Threads, int Team, int Stage,
          bool Biased>
struct NormSums {
  using Index = typename Geometry::index_type;
  using Rows = RowTeam<Geometry, Layout, Steps, S, N, Columns, Threads, Team>;
  using V = Vec<S, N>;
  static constexpr int register_budget = 128;
  static constexpr bool centred = Kind == layer_kind;

  struct Args {
    const T* x;       // of_partials: sums for dweight
    const D* dy;      // and for dbias
    const S* values;  // rstd, mean, low; each `stride` elements after the one before it
    W* dweight;
    B* dbias;
    S* workspace;  // [parts][dweight, dbias][parameters], for part_of_row
    int64 stride;
    int64 parameters;
    int64 parts;
    Index part_groups;
    int32 kept;
    Geometry geometry;
  };
  struct Two { V weight, bias; };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    constexpr bool split = Stage == part_of_row;
    const int64 tile = split ? divide_blocks(group.block(), args.parts) : group.block();
    const Rows rows(group, args.geometry, tile);
    const int64 part = split ? group.block() - tile * args.parts : 0;
    const Index first = split ? Index(part) * args.part_groups : 0;
    const Index last =
        !split || rows.groups - first < args.part_groups ? rows.groups : first + args.part_groups;
    Two sums[Columns];
    add_up(rows, args, first, last, sums);
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      if constexpr (split) {
        save(rows, args, tile, args.workspace + part * (Biased ? 2 : 1) * args.parameters, c,
             sums[c].weight);
        if constexpr (Biased)
          save(rows, args, tile, args.workspace + (part * 2 + 1) * args.parameters, c,
               sums[c].bias);
      } else {
        if (args.dweight) rows.template store_result<3>(args.dweight, c, sums[c].weight);
        if constexpr (Biased) {
          if (args.dbias) rows.template store_result<4>(args.dbias, c, sums[c].bias);
        }
      }
    }
  }

 private:
  static NNK_FN void add_up(const Rows& rows, const Args& args, Index first, Index last,
                            Two (&sums)[Columns]) {
    const V zero = V::splat(S(0));
    Two partial[Rows::partials][Columns];
    for (int p = 0; p < Rows::partials; ++p) {
      for (int c = 0; c < Columns; ++c) partial[p][c] = {zero, zero};
    }
    Index rest = first;
    if constexpr (Layout == across && Threads > 1) {
      // Each step of a team waits for memory: the loads of several are under way at once.
      const Index step = depth * Rows::team;
      rest = first + (last - first) / step * step;
      if (rows.present == N * Columns) add_steps(rows, args, first, rest, true, partial[0]);
      else add_steps(rows, args, first, rest, false, partial[0]);
    }
    rows.each(rest, last, [&](Index g, bool full, int p) {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) add(partial[p][c], terms(rows, args, g, c, full));
    });
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      sums[c] = partial[0][c];
      for (int p = 1; p < Rows::partials; ++p) {
        sums[c].weight = sums[c].weight + partial[p][c].weight;
        if constexpr (Biased) sums[c].bias = sums[c].bias + partial[p][c].bias;
      }
      if constexpr (Layout == along && Biased) {
        const auto all = rows.template reduce_value<SumPair<S>>(
            {fold<Sum<S>>(sums[c].weight), fold<Sum<S>>(sums[c].bias)});
        sums[c] = {V::splat(all.first), V::splat(all.second)};
      } else {
        sums[c].weight = rows.template reduce<Sum<S>>(sums[c].weight);
        if constexpr (Biased) sums[c].bias = rows.template reduce<Sum<S>>(sums[c].bias);
      }
    }
  }

  static constexpr int depth = 4;
  static NNK_FN void add_steps(const Rows& rows, const Args& args, Index first, Index last,
                               bool full, Two (&sums)[Columns]) {
    for (Index g = first + rows.member; g < last; g += depth * Rows::team) {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) {
        Two more[depth];
        NNK_UNROLL
        for (int k = 0; k < depth; ++k) more[k] = terms(rows, args, g + k * Rows::team, c, full);
        NNK_UNROLL
        for (int k = 0; k < depth; ++k) add(sums[c], more[k]);
      }
    }
  }
  static NNK_FN void add(Two& sum, const Two& more) {
    sum.weight = sum.weight + more.weight;
    if constexpr (Biased) sum.bias = sum.bias + more.bias;
  }

  static NNK_FN Two terms(const Rows& rows, const Args& args, Index g, int c, bool full) {
    const V x = rows.template load<0>(args.x, g, c, full, S(0));
    if constexpr (Source == of_partials) {
      return {x, Biased ? rows.template load<0>(args.dy, g, c, full, S(0)) : x};
    } else {
      const V dy = rows.template load<1>(args.dy, g, c, full, S(0));
      const V rstd = rows.template load<2>(args.values, g, c, full, S(0));
      V d = x;
      if constexpr (centred) {
        const V mean = rows.template load<2>(args.values + args.stride, g, c, full, S(0));
        d = x - mean - rows.template load<2>(args.values + 2 * args.stride, g, c, full, S(0));
      }
      // Lanes that are not there count nothing, also where rstd is infinite.
      const int n = full ? N : rows.count(g, c);
      const V weight = dy * (d * rstd);
      return {n == N ? weight : first_lanes(weight, n), dy};
    }
  }

  static NNK_FN void save(const Rows& rows, const Args& args, int64 tile, S* to, int c,
                          const V& v) {
    if (rows.member != 0) return;  // no barrier follows
    NNK_UNROLL
    for (int i = 0; i < Rows::lanes; ++i) {
      const int row = c * Rows::lanes + i;
      if (row < rows.present) to[rows.row_number(tile) + row] = v[i];
    }
  }
};

}  // namespace nnk
