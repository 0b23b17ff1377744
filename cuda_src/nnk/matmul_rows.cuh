// Matrix product C = epilogue(A B) of few rows by a block of one thread: the work is one reading of
// B, and packing it would take as long again.
//
// B has adjacent columns. A few of its rows at once, one after the other in memory for the length
// of a tile, are multiplied by all rows of A; the sums of the tile wait in scratch memory, small
// enough for a level-2 cache. A sum is one chain of fused multiply-adds in order of the terms, as
// that of matmul_packed.cuh: how B lies, which decides between the two, changes no bit.
#pragma once
#include "nnk/matmul_args.cuh"
#include "nnk/matmul_epilogue.cuh"
#include "nnk/matmul_operands.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// TA, TB, TC: element types; S: the accumulator's
// TileK: terms of A that are packed at once; Terms: rows of B that are read at once; N: columns
// UnitA: terms of A are adjacent
template <class TA, class TB, class TC, class S, class Index, int BatchRank, int TileK, int Terms,
          int N, bool UnitA, bool ConjugateA, bool ConjugateB, class Epilogue>
struct MatmulRows {
  using V = Vec<S, N>;
  static_assert(TileK % Terms == 0, "whole groups of terms");
  using Args = ProductArgs<TA, TB, TC, Index, BatchRank, Epilogue, TileGrid>;

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const TileGrid& grid = args.grid;
    const auto place = TilePlace<Index>::of(args, group.block());
    const Index terms = terms_of_split(args, place.split);
    Index offset[Args::arrays];
    decode_batch(args.batch, args.batch_stride, place.batch, offset);
    const auto a = args.matrix_a(offset, terms);
    const auto b = args.matrix_b(offset, terms);
    const auto c = args.matrix_c(offset);
    const auto epilogue = args.epilogue_of(offset);
    const auto packed = group.template dynamic_shared<S>(0, grid.tile_m * TileK);
    const auto sums = group.template dynamic_shared<S>(grid.tile_m * TileK * int(sizeof(S)),
                                                       grid.tile_m * grid.tile_n);
    for (int i = 0; i < place.rows * grid.tile_n; i += N) sums.store_vec(i, V::splat(S()));
    for (Index first_k = 0; first_k < terms; first_k += TileK) {
      const int depth = extent(Index(terms - first_k), TileK);
      pack(a, place, first_k, depth, packed);
      for (int k = 0; k < depth; k += Terms) {
        const int left = depth - k;
        if (left >= Terms) add<Terms>(b, place, first_k + k, k, grid.tile_n, packed, sums);
        else
          for (int t = 0; t < left; ++t)
            add<1>(b, place, first_k + k + t, k + t, grid.tile_n, packed, sums);
      }
    }
    for (int i = 0; i < place.rows; ++i)
      for (int j = 0; j < place.columns; j += N) {
        const int columns = place.columns - j < N ? place.columns - j : N;
        const Index row = place.first_m + i, column = place.first_n + j;
        const auto y =
            epilogue(sums.template load_vec<N>(i * grid.tile_n + j), row, column, columns);
        store_row(c, row, column, columns, convert<TC>(y));
      }
  }

 private:
  static NNK_FN void pack(const View<const TA, 2, Index>& a, const TilePlace<Index>& place,
                          Index first_k, int depth, const Shared<S>& packed) {
    static_assert(TileK % N == 0, "whole vectors in a packed row");
    for (int i = 0; i < place.rows; ++i) {
      const Line<const TA, Index, UnitA ? unit_step : any_step> row{
          a.at(NNK_HERE, place.first_m + i, first_k), Index(depth), a.stride[1]};
      for (int k = 0; k < depth; k += N)
        packed.store_vec(i * TileK + k, loaded<S, ConjugateA, N>(row, k, depth - k));
    }
  }

  // Adds `Count` rows of B, from `term` on, times elements of A, from k of its slice on.
  template <int Count>
  static NNK_FN void add(const View<const TB, 2, Index>& b, const TilePlace<Index>& place,
                         Index term, int k, int pitch, const Shared<S>& packed,
                         const Shared<S>& sums) {
    const TB* row[Count];
    NNK_UNROLL
    for (int t = 0; t < Count; ++t) row[t] = b.at(NNK_HERE, term + t, place.first_n);
    for (int j = 0; j < place.columns; j += N) {
      V x[Count];
      NNK_UNROLL
      for (int t = 0; t < Count; ++t) {
        const Line<const TB, Index, unit_step> line{row[t], Index(place.columns), b.stride[1]};
        x[t] = loaded<S, ConjugateB, N>(line, j, place.columns - j);
      }
      NNK_NO_UNROLL
      for (int i = 0; i < place.rows; ++i) {
        V sum = sums.template load_vec<N>(i * pitch + j);
        NNK_UNROLL
        for (int t = 0; t < Count; ++t)
          sum = fma(V::splat(packed.load(i * TileK + k + t)), x[t], sum);
        sums.store_vec(i * pitch + j, sum);
      }
    }
  }
};

}  // namespace nnk
