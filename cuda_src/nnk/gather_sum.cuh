// Weighted sums along tables of axes: y[p] = sum over the terms of p along every mapped axis of
// the product of their weights times x. Interpolation, fold, and the gradients of padding and of
// interpolation, which are the transposed maps.
//
// Sums are nested: the first mapped axis innermost, the last one outermost. Resampling rows
// (resample_rows.cuh) adds in the same order, so that results do not depend on the layout. A
// vector is of a row along a plain axis, or of one element where every axis is mapped.
#pragma once
#include "nnk/axis_tables.cuh"

namespace nnk {

// The sum over the terms of the first Levels mapped axes, of what `at(offset)` gives. Terms: how
// many there are of every element along every axis; 0: as many as there happen to be.
template <bool Weighted, int Terms, int Levels, class V, class S, class Index, class Entries,
          class F>
NNK_FN V nested_sum(const Entries& entries, const Index* from, const S* weights, Index offset,
                    F at) {
  if constexpr (Levels == 0) {
    return at(offset);
  } else {
    V sum = V::splat(S());
    const auto add = [&](Index e) NNK_INLINE {
      const V term =
          nested_sum<Weighted, Terms, Levels - 1, V>(entries, from, weights, offset + from[e], at);
      if constexpr (Weighted) sum = fma_always(V::splat(weights[e]), term, sum);
      else sum = sum + term;
    };
    const Index first = entries.begin[Levels - 1];
    if constexpr (Terms > 0) {
      NNK_UNROLL
      for (int t = 0; t < Terms; ++t) add(first + t);
    } else {
      const Index last = entries.end[Levels - 1];
      for (Index e = first; e < last; ++e) add(e);
    }
    return sum;
  }
}

// The terms of each mapped axis at the position of a row.
template <int Mapped, class Index> struct Entries { Index begin[Mapped], end[Mapped]; };

// T: type of x and y;  S: in which they are added
// Weighted, Terms: see nested_sum
template <class T, class S, int N, int Plain, int Mapped, class Index, bool Weighted, int Terms,
          bool UnitOut, bool UnitIn>
struct GatherSum {
  static_assert(Mapped >= 1, "the host adds an axis of one element");
  using V = Vec<S, N>;
  static constexpr int register_budget = sizeof(S) > 4 || sizeof(Index) > 4 ? 128 : 64;

  struct Args {
    T* out;
    const T* in;
    const Index* table;  // of a mapped axis: bytes to the element of y, and its first term
    const Index* from;   // of each term: bytes to the element of x
    const S* weights;
    int64 vectors;  // of all rows
    int64 tile;     // vectors of one block
    Index inner, row_vectors, out_step, in_step;
    Index entries;  // of the table
    Index out_low, out_extent, in_low, in_extent;
    Divisor<Index> by_row_vectors;
    OuterAxes<Plain, Mapped, Index> outer;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 first = group.block() * args.tile;
    const int64 last = first + args.tile < args.vectors ? first + args.tile : args.vectors;
    if constexpr (G::threads == 1) walk(args, Index(first), Index(last));
    else
      for (int64 v = first + group.rank(); v < last; v += G::threads) {
        const Index row =
            N == 1 && args.row_vectors == 1 ? Index(v) : args.by_row_vectors.divide(Index(v));
        const Position at = position(args, row);
        sum(args, at, (Index(v) - row * args.row_vectors) * N);
      }
  }

 private:
  struct Position {
    Index out, in;
    Entries<Mapped, Index> entries;
  };

  // One thread has the whole tile. It decodes a position once for all rows that differ along the
  // last mapped axis alone: from there it goes on to the next entry.
  static NNK_FN void walk(const Args& args, Index v, Index last) {
    constexpr int m = Mapped - 1;
    Index row = args.by_row_vectors.divide(v);
    Index k = v - row * args.row_vectors;
    while (v < last) {
      const Index size = args.outer.by_mapped[m].divisor;
      Index left = size - (row - args.outer.by_mapped[m].divide(row) * size);
      Position at = position(args, row);
      const Index* entry = args.table + args.outer.row_at(row).entry[m];
      for (;;) {
        for (; k < args.row_vectors && v < last; ++k, ++v) sum(args, at, k * N);
        ++row;
        k = 0;
        if (v >= last || --left == 0) break;
        at.out += entry[2] - entry[0];
        at.entries.begin[m] = at.entries.end[m];
        entry += 2;
        at.entries.end[m] = entry[3];
      }
    }
  }

  static NNK_FN Position position(const Args& args, Index row_number) {
    const Line<const Index, Index, unit_step> table{args.table, args.entries, Index(sizeof(Index))};
    const auto row = args.outer.row_at(row_number);
    Position at{row.out, row.in, {}};
    NNK_UNROLL
    for (int m = 0; m < Mapped; ++m) {
      at.out += table.template load<1>(row.entry[m])[0];
      at.entries.begin[m] = table.template load<1>(row.entry[m] + 1)[0];
      at.entries.end[m] = table.template load<1>(row.entry[m] + 3)[0];
    }
    return at;
  }

  static NNK_FN void sum(const Args& args, const Position& at, Index i) {
    const int count = args.inner - i < N ? int(args.inner - i) : N;
    const Reached<const T, Index> in{args.in, args.in_low, args.in_extent};
    const Reached<T, Index> out{args.out, args.out_low, args.out_extent};
    const V total = nested_sum<Weighted, Terms, Mapped, V>(
        at.entries, args.from, args.weights, at.in + i * args.in_step,
        [&](Index offset) NNK_INLINE {
          return convert<S>(in.template load<N, UnitIn>(offset, args.in_step, count));
        });
    out.template store<N, UnitOut>(at.out + i * args.out_step, args.out_step, count,
                                   convert<T>(total));
  }
};

}  // namespace nnk
