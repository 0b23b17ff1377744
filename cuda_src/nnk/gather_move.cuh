// Elements moved along tables of axes: y[p] = x[source(p)], or a value where there is no source.
//
// For the threads of a GPU: each moves a vector of a row. The row is a plain axis, or has one
// element where every axis is mapped; then neighbouring threads have neighbouring rows.
#pragma once
#include "nnk/axis_tables.cuh"

namespace nnk {

// T: any type of the elements' size.  UnitOut, UnitIn: elements of a row are adjacent
template <class T, int N, int Unroll, int Plain, int Mapped, class Index, bool UnitOut, bool UnitIn>
struct GatherMove {
  static_assert(Mapped >= 1, "the host adds an axis of one element");
  using V = Vec<T, N>;

  struct Args {
    T* out;
    const T* in;
    const Index* table;  // of a mapped axis: bytes to the element of y, and to that of x
    int64 vectors;       // of all rows
    int64 tile;          // vectors of one block
    Index inner, row_vectors, out_step, in_step;
    Index entries;  // of the table
    Index out_low, out_extent, in_low, in_extent;
    Divisor<Index> by_row_vectors;
    OuterAxes<Plain, Mapped, Index> outer;
    T fill;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 first = group.block() * args.tile;
    const int64 last = first + args.tile < args.vectors ? first + args.tile : args.vectors;
    const Reached<T, Index> out{args.out, args.out_low, args.out_extent};
    for (int64 base = first + group.rank(); base < last; base += Unroll * G::threads) {
      V moved[Unroll];
      Index to[Unroll];
      int count[Unroll];
      NNK_UNROLL
      for (int u = 0; u < Unroll; ++u) {
        count[u] = 0;
        if (base + u * G::threads < last)
          load(args, Index(base + u * G::threads), moved[u], to[u], count[u]);
      }
      NNK_UNROLL
      for (int u = 0; u < Unroll; ++u)
        if (count[u] > 0) out.template store<N, UnitOut>(to[u], args.out_step, count[u], moved[u]);
    }
  }

 private:
  static NNK_FN void load(const Args& args, Index v, V& moved, Index& to, int& count) {
    const Line<const Index, Index, unit_step> table{args.table, args.entries, Index(sizeof(Index))};
    const Index row_number = N == 1 && args.row_vectors == 1 ? v : args.by_row_vectors.divide(v);
    const Index i = (v - row_number * args.row_vectors) * N;
    const auto row = args.outer.row_at(row_number);
    bool there = true;
    Index from = row.in + i * args.in_step;
    to = row.out + i * args.out_step;
    NNK_UNROLL
    for (int m = 0; m < Mapped; ++m) {
      to += table.template load<1>(row.entry[m])[0];
      const Index source = table.template load<1>(row.entry[m] + 1)[0];
      there = there && source != missing<Index>;
      from += source;
    }
    count = args.inner - i < N ? int(args.inner - i) : N;
    const Reached<const T, Index> in{args.in, args.in_low, args.in_extent};
    moved = V::splat(args.fill);
    if (there) moved = in.template load<N, UnitIn>(from, args.in_step, count);
  }
};

}  // namespace nnk
