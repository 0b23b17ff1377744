// Gradients of softmax and log_softmax over the rows of RowTeam, from the result y.
//
//   softmax      dx_i = y_i (dy_i - d)        d = sum_j dy_j y_j
//   log_softmax  dx_i = dy_i - exp(y_i) d     d = sum_j dy_j
//
// (The gradient of logsumexp, dx_i = dy exp(x_i - y), has no sum: it is elementwise.)
#pragma once
#include "nnk/softmax.cuh"

namespace nnk {

// T  type of dy and y;  U  type of dx;  operands of the geometry: dy, y, dx
template <int Kind, class T, class U, class S, class Geometry, int Layout, class Steps, int N,
          int Columns, int Threads, int Team, int Keep, int Depth, int Stage, bool Streaming>
struct SoftmaxBackward {
  using Index = typename Geometry::index_type;
  using Rows = RowTeam<Geometry, Layout, Steps, S, N, Columns, Threads, Team>;
  using V = Vec<S, N>;
  // Numbers that are read one by one have an address each.
  static constexpr int register_budget = sizeof(S) > 4 || sizeof(typename Geometry::index_type) > 4
                                             ? 128
                                         : N == 1 ? 96
                                                  : 80;

  struct Args {
    const T* dy;
    const T* y;
    U* dx;
    S* workspace;  // rows x parts, for part_of_row and finish_row
    int64 parts;
    Index part_groups;
    int32 kept;  // elements of shared memory: twice those of a row, for dy and y
    Geometry geometry;
  };

  struct Pair { V dy, y; };

  static NNK_FN V term(const Pair& v) {
    if constexpr (Kind == softmax_kind) return v.dy * v.y;
    else return v.dy;
  }
  static NNK_FN V gradient(const Pair& v, const V& d) {
    if constexpr (Kind == softmax_kind) return v.y * (v.dy - d);
    else return v.dy - exp(v.y) * d;
  }
  static NNK_FN Pair load(const Rows& rows, const Args& args, Index g, int c, bool full) {
    return {rows.template load<0>(args.dy, g, c, full, S(0)),
            rows.template load<1>(args.y, g, c, full, S(0))};
  }
  // The sum over a row needs no y in log_softmax: do not read what is not used.
  static NNK_FN V load_term(const Rows& rows, const Args& args, Index g, int c, bool full) {
    if constexpr (Kind == softmax_kind) return term(load(rows, args, g, c, full));
    else return rows.template load<0>(args.dy, g, c, full, S(0));
  }

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 tile =
        Stage == whole_row ? group.block() : divide_blocks(group.block(), args.parts);
    const Rows rows(group, args.geometry, tile);
    V d[Columns];
    if constexpr (Stage == whole_row) {
      if constexpr (Keep == keep_registers) {
        if (lanes_are_simd && rows.template all_whole<Depth>()) registers<true>(rows, args);
        else registers<false>(rows, args);
      } else if constexpr (Keep == keep_shared) {
        shared(group, rows, args);
      } else {
        sum(rows, args, d, 0, rows.groups);
        write(rows, args, d, 0, rows.groups);
      }
    } else {
      const int64 part = group.block() - tile * args.parts;
      const Index first = Index(part) * args.part_groups;
      const Index last =
          rows.groups - first < args.part_groups ? rows.groups : first + args.part_groups;
      if constexpr (Stage == part_of_row) {
        sum(rows, args, d, first, last);
        rows.save_parts(args.workspace, args.parts, tile, part, d);
      } else {
        rows.template fold_parts<Sum<S>>(args.workspace, args.parts, tile, d);
        write(rows, args, d, first, last);
      }
    }
  }

  template <bool Whole> static NNK_FN void registers(const Rows& rows, const Args& args) {
    Pair kept[Depth][Columns];
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      V d = V::splat(S(0));
      NNK_UNROLL
      for (int i = 0; i < Depth; ++i) {
        kept[i][c] = load(rows, args, rows.member + i * Team, c, Whole);
        d = d + term(kept[i][c]);
      }
      d = rows.template reduce<Sum<S>>(d);
      NNK_UNROLL
      for (int i = 0; i < Depth; ++i)
        rows.template store<2, Streaming>(args.dx, rows.member + i * Team, c, Whole,
                                          gradient(kept[i][c], d));
    }
  }

  template <class G> static NNK_FN void shared(G& group, const Rows& rows, const Args& args) {
    const auto kept_dy = group.template dynamic_shared<S>(0, args.kept / 2);
    const auto kept_y =
        group.template dynamic_shared<S>(args.kept / 2 * int(sizeof(S)), args.kept / 2);
    V d[Columns];
    rows.clear(d);
    rows.each(0, rows.groups, [&](Index g, bool full, int) {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) {
        const Pair v = load(rows, args, g, c, full);
        kept_dy.store_vec(rows.slot(g, c), v.dy);
        kept_y.store_vec(rows.slot(g, c), v.y);
        d[c] = d[c] + term(v);
      }
    });
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) d[c] = rows.template reduce<Sum<S>>(d[c]);
    rows.each(0, rows.groups, [&](Index g, bool full, int) {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) {
        const int slot = rows.slot(g, c);
        const Pair v = {kept_dy.template load_vec<N>(slot), kept_y.template load_vec<N>(slot)};
        rows.template store<2, Streaming>(args.dx, g, c, full, gradient(v, d[c]));
      }
    });
  }

  static NNK_FN void sum(const Rows& rows, const Args& args, V (&d)[Columns], Index first,
                         Index last) {
    rows.sum(d, first, last,
             [&](Index g, int c, bool full) { return load_term(rows, args, g, c, full); });
  }
  static NNK_FN void write(const Rows& rows, const Args& args, const V (&d)[Columns], Index first,
                           Index last) {
    rows.each(first, last, [&](Index g, bool full, int) {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c)
        rows.template store<2, Streaming>(args.dx, g, c, full,
                                          gradient(load(rows, args, g, c, full), d[c]));
    });
  }
};

}  // namespace nnk
