// Arguments of the kernels of matrix products, and which part of a product a block makes.
#pragma once
#include "nnk/matmul_epilogue.cuh"
#include "nnk/matmul_operands.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// What the host packs. Grid: how the blocks of a launch share the work
template <class TA, class TB, class TC, class Index, int BatchRank, class Epilogue, class Grid>
struct ProductArgs : Epilogue::Operands {
  using EpilogueOf = typename Epilogue::template Of<Index>;
  static constexpr int arrays = 3 + Epilogue::operands;  // a, b, c and its own

  const TA* a;
  const TB* b;
  TC* c;
  Grid grid;
  Index m, n, k, terms;  // those of one split
  Divisor<Index> batch[BatchRank];
  Index batch_stride[arrays][BatchRank];  // in bytes
  Index stride_a[2], stride_b[2], stride_c[2];
  typename Epilogue::template Args<Index> epilogue;

  // The matrices that begin at some byte offsets, and the epilogue there.
  NNK_FN View<const TA, 2, Index> matrix_a(const Index* offset, Index terms_there) const {
    return {byte_offset(a, offset[0]), {m, terms_there}, {stride_a[0], stride_a[1]}};
  }
  NNK_FN View<const TB, 2, Index> matrix_b(const Index* offset, Index terms_there) const {
    return {byte_offset(b, offset[1]), {terms_there, n}, {stride_b[0], stride_b[1]}};
  }
  // Columns of B as lines of terms, like the rows of A.
  NNK_FN View<const TB, 2, Index> lines_of_b(const Index* offset, Index terms_there) const {
    return {byte_offset(b, offset[1]), {n, terms_there}, {stride_b[1], stride_b[0]}};
  }
  NNK_FN View<TC, 2, Index> matrix_c(const Index* offset) const {
    return {byte_offset(c, offset[2]), {m, n}, {stride_c[0], stride_c[1]}};
  }
  NNK_FN EpilogueOf epilogue_of(const Index* offset) const {
    return EpilogueOf(*this, epilogue, offset + 3, m, n);
  }
};

// The form of a product of plain matrices: it has no part in packing, and none in writing results.
struct MatrixForm {
  static constexpr bool packs_a = false, packs_b = false, scatters = false, looks_up_terms = false;
  template <class Product, class Index> using Args = Product;
  template <class S, class Index, int N, class...> struct Of {
    template <class Group, class A> NNK_FN Of(const Group&, const A&, int, int) {}
    NNK_FN void find(Index, int) const {}
  };
};

// ---- blocks of a CPU --------------------------------------------------------------------------

// A block makes a tile of C, in slices of terms.
struct TileGrid {
  int64 tiles_m, tiles_n, blocks_of_split;
  int32 tile_m, tile_n;
  int32 rows_at_once;  // of A that are packed
  int32 tile_k;        // terms of a slice
};

template <class Index> NNK_FN int extent(Index left, int tile) {
  return left < tile ? int(left) : tile;
}

// Where the tile of a block lies.
template <class Index> struct TilePlace {
  Index batch, split, first_m, first_n;
  int rows, columns;

  // down: blocks that follow each other have columns in common, else rows.
  template <class Args>
  static NNK_FN TilePlace of(const Args& args, int64 block, bool down = false) {
    const TileGrid& grid = args.grid;
    const int64 tiles = grid.tiles_m * grid.tiles_n;
    const int64 batch = block / tiles, tile = block - batch * tiles;
    const int64 line = tile / (down ? grid.tiles_m : grid.tiles_n);
    const int64 in_line = tile - line * (down ? grid.tiles_m : grid.tiles_n);
    const int64 row = down ? in_line : line;
    const Index first_m = Index(row) * grid.tile_m;
    const Index first_n = Index(down ? line : in_line) * grid.tile_n;
    return {Index(batch),
            Index(block / grid.blocks_of_split),
            first_m,
            first_n,
            extent(Index(args.m - first_m), grid.tile_m),
            extent(Index(args.n - first_n), grid.tile_n)};
  }
};

// ---- blocks of a GPU --------------------------------------------------------------------------

// Blocks go through tiles of C in bands of a few rows of tiles.
struct BandGrid {
  Divisor<int32> tiles;          // of a matrix
  Divisor<int32> tiles_of_band;  // of `band` rows of tiles
  Divisor<int32> batches_of_split;
  int32 tiles_m, band, batches;  // of all splits together

  // The blocks of a band go down its columns, so that those that run at the same time share what
  // they read of A and of B, and find it in the level-2 cache.
  NNK_FN void place(int tile, int& row, int& column) const {
    const int band_number = tiles_of_band.divide(tile);
    const int in_band = tile - band_number * tiles_of_band.divisor;
    const int rows_left = tiles_m - band_number * band;
    const int rows = rows_left < band ? rows_left : band;
    column = in_band / rows;
    row = band_number * band + in_band - column * rows;
  }
};

}  // namespace nnk
