// Sum of each row of RowTeam: what the gradient of a broadcast operand is made of.
#pragma once
#include "nnk/softmax.cuh"

namespace nnk {

// T  type of x;  U  type of the sums;  operands of the geometry: x, sums
template <class T, class U, class S, class Geometry, int Layout, class Steps, int N, int Columns,
          int Threads, int Team, int Stage>
struct RowSum {
  using Index = typename Geometry::index_type;
  using Rows = RowTeam<Geometry, Layout, Steps, S, N, Columns, Threads, Team>;
  using V = Vec<S, N>;
  static constexpr int register_budget = sizeof(S) > 4 || sizeof(typename Geometry::index_type) > 4
                                             ? 128
                                             : 80;

  struct Args {
    const T* x;
    U* y;
    S* workspace;  // rows x parts, for part_of_row and finish_row
    int64 parts;
    Index part_groups;
    int32 kept;
    Geometry geometry;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    // The last of two launches has one block for the parts of a row, not one for each.
    const bool split = Stage == part_of_row;
    const int64 tile = split ? divide_blocks(group.block(), args.parts) : group.block();
    const Rows rows(group, args.geometry, tile);
    V total[Columns];
    if constexpr (Stage == finish_row) {
      rows.template fold_parts<Sum<S>>(args.workspace, args.parts, tile, total);
    } else {
      const int64 part = split ? group.block() - tile * args.parts : 0;
      const Index first = split ? Index(part) * args.part_groups : 0;
      const Index last =
          !split || rows.groups - first < args.part_groups ? rows.groups : first + args.part_groups;
      rows.sum(total, first, last, [&](Index g, int c, bool full) {
        return rows.template load<0>(args.x, g, c, full, S());
      });
      if constexpr (Stage == part_of_row)
        rows.save_parts(args.workspace, args.parts, tile, part, total);
    }
    if constexpr (Stage != part_of_row) {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) rows.template store_result<1>(args.y, c, total[c]);
    }
  }
};

}  // namespace nnk
