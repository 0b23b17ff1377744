// Weighted sums along tables of axes, as in gather_sum.cuh, where rows lie along the last mapped
// axis: for the one thread of a block.
//
// First the sums over the other axes, for those elements of x that the row needs ("columns"):
// whole registers of neighbours. Then the sums along the row, of columns in scratch memory: the
// host has cut the row into groups of N elements of y, and each group has a list of vectors of
// terms, one term for each element. Mostly N terms of a vector are N columns in a row, or lie
// among N columns, which one load and a permutation of lanes bring.
#pragma once
#include "nnk/gather_sum.cuh"

namespace nnk {

// How the columns of a vector of terms lie.
enum : int {
  columns_in_a_row,  // first, first + 1, ...
  columns_near,      // first + lane[i], less than N apart
  columns_far,       // first + lane[i]; none where that is negative
};
// Numbers of a part of a row, of columns in a run, of a group, of a vector of terms.
enum : int { part_runs, part_runs_end, part_groups, part_groups_end, part_size };
enum : int { run_from, run_column, run_count, run_size };
enum : int { group_to, group_count, group_terms, group_size };
enum : int { terms_first, terms_kind, terms_size };

// N: lanes of one register of S.  UnitIn: columns of a run are adjacent in x
template <class T, class S, int N, int Plain, int Mapped, class Index, bool Weighted, int Terms,
          bool UnitOut, bool UnitIn>
struct ResampleRows {
  using V = Vec<S, N>;
  static constexpr int wide = 2 * N;  // columns that are summed at once

  struct Args {
    T* out;
    const T* in;
    const Index* table;
    const Index* from;
    const S* weights;    // of the terms of outer axes
    const int32* lanes;  // of the vectors of terms
    const S* lane_weights;
    int64 items;                                          // parts of all rows
    int64 tile;                                           // of one block
    Index parts, parts_at, runs_at, groups_at, terms_at;  // where they are in the table
    Index out_step, in_step;
    int32 columns;  // scratch memory
    Divisor<Index> by_parts;
    OuterAxes<Plain, Mapped, Index> outer;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 first = group.block() * args.tile;
    const int64 last = first + args.tile < args.items ? first + args.tile : args.items;
    S* columns = group.template dynamic_shared<S>(0, args.columns).data;
    for (int64 item = first; item < last; ++item) {
      const Index row_number = args.by_parts.divide(Index(item));
      const auto row = args.outer.row_at(row_number);
      Index out = row.out;
      Entries<(Mapped > 0 ? Mapped : 1), Index> entries{};
      NNK_UNROLL
      for (int m = 0; m < Mapped; ++m) {
        out += args.table[row.entry[m]];
        entries.begin[m] = args.table[row.entry[m] + 1];
        entries.end[m] = args.table[row.entry[m] + 3];
      }
      const Index* part =
          args.table + args.parts_at + (Index(item) - row_number * args.parts) * part_size;
      for (Index r = part[part_runs]; r < part[part_runs_end]; ++r)
        sum_columns(args, args.table + args.runs_at + r * run_size, row.in, entries, columns);
      for (Index g = part[part_groups]; g < part[part_groups_end]; ++g)
        sum_terms(args, args.table + args.groups_at + g * group_size, out, columns);
    }
  }

 private:
  template <class E>
  static NNK_FN void sum_columns(const Args& args, const Index* run, Index in, const E& entries,
                                 S* columns) {
    in += run[run_from];
    S* to = columns + run[run_column];
    const Index count = run[run_count];
    Index i = 0;
    for (; i + wide <= count; i += wide)
      nnk::store(to + i, columns_at<wide>(args, entries, in + i * args.in_step, wide));
    if (i < count) {
      const int n = int(count - i);
      nnk::store_partial(to + i, columns_at<wide>(args, entries, in + i * args.in_step, n), n);
    }
  }
  template <int W, class E>
  static NNK_FN Vec<S, W> columns_at(const Args& args, const E& entries, Index in, int count) {
    return nested_sum<Weighted, Terms, Mapped, Vec<S, W>>(
        entries, args.from, args.weights, in, [&](Index offset) NNK_INLINE {
          const T* p = byte_offset(args.in, offset);
          if constexpr (!UnitIn)
            return convert<S>(nnk::load_strided<W>(p, args.in_step, count, T()));
          else if (count == W) return convert<S>(nnk::load<W>(p));
          else return convert<S>(nnk::load_partial<W>(p, count, T()));
        });
  }

  static NNK_FN void sum_terms(const Args& args, const Index* group, Index out, const S* columns) {
    const Index last = group[group_size + group_terms];
    V sum = V::splat(S());
    for (Index v = group[group_terms]; v < last; ++v) {
      const Index* terms = args.table + args.terms_at + v * terms_size;
      const S* first = columns + terms[terms_first];
      const int32* lanes = args.lanes + v * N;
      V x;
      if (terms[terms_kind] == columns_in_a_row) x = nnk::load<N>(first);
      else if (terms[terms_kind] == columns_near)
        x = permuted(nnk::load<N>(first), nnk::load<N>(lanes));
      else x = load_columns<N>(first, lanes);
      if constexpr (Weighted) sum = fma_always(nnk::load<N>(args.lane_weights + v * N), x, sum);
      else sum = sum + x;
    }
    out += group[group_to];
    const int count = int(group[group_count]);
    const auto y = convert<T>(sum);
    T* to = byte_offset(args.out, out);
    if constexpr (!UnitOut) nnk::store_strided(to, args.out_step, y, count);
    else if (count == N) nnk::store(to, y);
    else nnk::store_partial(to, y, count);
  }
};

}  // namespace nnk
