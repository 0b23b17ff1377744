// Complex matrix product C = epilogue(A B) by a block of one thread, in real SIMD arithmetic.
//
// With real and imaginary parts side by side, as they lie in memory, a complex product is a real
// one of twice the terms and twice the columns: for each term, the real part of A times a row of B,
//     re im re im ...
// plus the imaginary part of A times that row multiplied by i,
//     -im re -im re ...
// Both rows are packed; then a sum is a chain of fused multiply-adds of elements of A, read where
// they lie, and rows of packed B, as in matmul_packed.cuh, to which the names here are owed. The
// conjugate of A is taken by turning the signs of the second row.
#pragma once
#include "nnk/matmul_args.cuh"
#include "nnk/matmul_epilogue.cuh"
#include "nnk/matmul_operands.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// TA, TB, TC: element types; S: the accumulator's, complex
// TileK: terms of a slice; MicroM: rows of a micro-tile; N: its columns, of real numbers
// UnitB: columns of B are adjacent, and of the type S
// ReadA: A is read where it lies: its terms are adjacent, and of the type S
// InPlace: sums wait in C, whose columns are adjacent, and of the type S
template <class TA, class TB, class TC, class S, class Index, int BatchRank, int TileK, int MicroM,
          int N, bool UnitB, bool ConjugateA, bool ConjugateB, bool ReadA, bool InPlace,
          class Epilogue>
struct MatmulComplex {
  using R = typename S::value_type;
  using V = Vec<R, N>;
  // Complex columns of a panel of B, and real numbers of it.
  static constexpr int panel_columns = N / 2, panel_b = 2 * TileK * N;
  // Some more than a slice, or all packed rows would share few sets of a level-1 cache.
  static constexpr int packed_row = 2 * TileK + 16;
  // Half a micro-tile, for the edges.
  static constexpr int half_m = MicroM > 1 ? MicroM / 2 : 1, half_n = N / 2;
  // Complex numbers that an epilogue is given at once.
  static constexpr int finished = panel_columns < 4 ? panel_columns : 4;
  static constexpr bool direct = InPlace && is_same<Epilogue, PlainEpilogue>;

  using Args = ProductArgs<TA, TB, TC, Index, BatchRank, Epilogue, TileGrid>;

  // What a block works on.
  struct Block {
    View<const TA, 2, Index> a;
    View<const TB, 2, Index> b;
    View<TC, 2, Index> c;
    Shared<R> packed_b, packed_a, micro, waiting;
    int waiting_columns;
    typename Args::EpilogueOf epilogue;
    Index first_m, first_n;
    int rows, columns;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const TileGrid& grid = args.grid;
    const auto place = TilePlace<Index>::of(args, group.block());
    const Index terms = terms_of_split(args, place.split);
    Index offset[Args::arrays];
    decode_batch(args.batch, args.batch_stride, place.batch, offset);
    const int of_b = grid.tile_n / panel_columns * panel_b;
    const int of_a = ReadA ? 0 : grid.rows_at_once * packed_row;
    const Block block{
        args.matrix_a(offset, terms),
        args.matrix_b(offset, terms),
        args.matrix_c(offset),
        scratch(group, 0, of_b),
        scratch(group, of_b, of_a),
        scratch(group, of_b + of_a, MicroM * N),
        scratch(group, of_b + of_a + MicroM * N, InPlace ? 0 : 2 * grid.tile_m * grid.tile_n),
        2 * grid.tile_n,
        args.epilogue_of(offset),
        place.first_m,
        place.first_n,
        place.rows,
        place.columns};
    Index first_k = 0;
    do {  // once for an empty sum too: its zeros go through the epilogue
      const int depth = extent(terms - first_k, TileK);
      for (int j = 0; j < block.columns; j += panel_columns) pack_b(block, first_k, depth, j);
      for (int i = 0; i < block.rows; i += grid.rows_at_once) {
        const int rows = extent(block.rows - i, grid.rows_at_once);
        if constexpr (!ReadA) pack_a(block, i, rows, first_k, depth);
        multiply_rows(block, i, rows, first_k, depth);
      }
      first_k += TileK;
    } while (first_k < terms);
  }

 private:
  // `count` real numbers of the scratch memory, from the one numbered `first` on.
  template <class G> static NNK_FN Shared<R> scratch(G& group, int first, int count) {
    return group.template dynamic_shared<R>(first * int(sizeof(R)), count);
  }

  // ---- packing ----------------------------------------------------------------------------

  // At any address.
  template <class T> static NNK_FN S element(const T* p) {
    return convert_scalar<S>(nnk::load<1>(p)[0]);
  }
  static NNK_FN void pack_a(const Block& block, int first_i, int rows, Index first_k, int depth) {
    for (int i = 0; i < rows; ++i)
      for (int k = 0; k < depth; ++k) {
        const S x = element(block.a.at(NNK_HERE, block.first_m + first_i + i, first_k + k));
        block.packed_a.store(i * packed_row + 2 * k, x.re);
        block.packed_a.store(i * packed_row + 2 * k + 1, x.im);
      }
  }

  // A panel: for each term two rows of N real numbers.
  static NNK_FN void pack_b(const Block& block, Index first_k, int depth, int j) {
    const int left = block.columns - j;
    const int columns = left < panel_columns ? left : panel_columns;
    for (int k = 0; k < depth; ++k) {
      R* const to = block.packed_b.data + j / panel_columns * panel_b + 2 * k * N;
      R row[N] = {};
      if constexpr (UnitB) {
        const R* const from =
            reinterpret_cast<const R*>(block.b.at(NNK_HERE, first_k + k, block.first_n + j));
        nnk::store(row, columns == panel_columns ? nnk::load<N>(from)
                                                 : nnk::load_partial<N>(from, 2 * columns, R()));
      } else {
        for (int c = 0; c < columns; ++c) {
          const S x = element(block.b.at(NNK_HERE, first_k + k, block.first_n + j + c));
          row[2 * c] = x.re;
          row[2 * c + 1] = x.im;
        }
      }
      for (int c = 0; c < panel_columns; ++c) {
        const R re = row[2 * c], im = ConjugateB ? -row[2 * c + 1] : row[2 * c + 1];
        to[2 * c] = re;
        to[2 * c + 1] = im;
        to[N + 2 * c] = ConjugateA ? im : -im;
        to[N + 2 * c + 1] = ConjugateA ? -re : re;
      }
    }
  }

  // ---- multiplying ------------------------------------------------------------------------

  // Rows of A, as real numbers.
  struct Rows { const R* row[MicroM]; };
  static NNK_FN Rows rows_from(const Block& block, int first_i, int i, int left, Index first_k) {
    Rows rows;
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r) {
      const int there = i + (r < left ? r : 0);  // past the last row, any other will do
      if constexpr (ReadA)
        rows.row[r] = reinterpret_cast<const R*>(
            block.a.at(NNK_HERE, block.first_m + first_i + there, first_k));
      else rows.row[r] = block.packed_a.data + there * packed_row;
    }
    return rows;
  }

  static NNK_FN void multiply_rows(const Block& block, int first_i, int rows, Index first_k,
                                   int depth) {
    const bool first = first_k == 0, last = first_k + depth >= block.a.shape[1];
    // The rows of a micro-tile stay in the nearest cache while all of B passes.
    for (int i = 0; i < rows; i += MicroM) {
      const int left = rows - i < MicroM ? rows - i : MicroM;
      const Rows a = rows_from(block, first_i, i, left, first_k);
      for (int j = 0; j < block.columns; j += panel_columns) {
        const int there = block.columns - j < panel_columns ? block.columns - j : panel_columns;
        const R* const b = block.packed_b.data + j / panel_columns * panel_b;
        R* const to = block.micro.data;
        const bool low = left <= half_m, narrow = 2 * there <= half_n;
        if (low && narrow) multiply<half_m, half_n>(a, b, 2 * depth, to);
        else if (low) multiply<half_m, N>(a, b, 2 * depth, to);
        else if (narrow) multiply<MicroM, half_n>(a, b, 2 * depth, to);
        else multiply<MicroM, N>(a, b, 2 * depth, to);
        finish(block, first_i + i, j, left, there, first, last);
      }
    }
  }

  // Not inlined, so that the registers of the loop are its own.
  template <int Count, int Columns>
  static void multiply(const Rows& a, const R* b, int depth, R* to) {
    Vec<R, Columns> sum[Count];
    NNK_UNROLL
    for (int r = 0; r < Count; ++r) sum[r] = Vec<R, Columns>::splat(R());
    for (int k = 0; k < depth; ++k) {
      const auto row = nnk::load<Columns>(b + k * N);
      NNK_UNROLL
      for (int r = 0; r < Count; ++r)
        sum[r] = fma(Vec<R, Columns>::splat(nnk::load<1>(a.row[r] + k)[0]), row, sum[r]);
    }
    NNK_UNROLL
    for (int r = 0; r < Count; ++r) nnk::store(to + r * N, sum[r]);
  }

  // Adds what waits from earlier slices; then writes the results, or lets the sums wait.
  static NNK_FN void finish(const Block& block, int i, int j, int rows, int columns, bool first,
                            bool last) {
    NNK_NO_UNROLL
    for (int r = 0; r < rows; ++r) {
      R* const micro = block.micro.data + r * N;
      R* const wait =
          InPlace
              ? reinterpret_cast<R*>(block.c.at(NNK_HERE, block.first_m + i + r, block.first_n + j))
              : block.waiting.data + (i + r) * block.waiting_columns + 2 * j;
      V sum = nnk::load<N>(micro);
      if (!first) sum = nnk::load_partial<N>(wait, 2 * columns, R()) + sum;
      if (direct || !last) {
        nnk::store_partial(wait, sum, 2 * columns);
      } else {
        nnk::store(micro, sum);
        write(block, block.first_m + i + r, block.first_n + j, columns,
              reinterpret_cast<const S*>(micro));
      }
    }
  }
  static NNK_FN void write(const Block& block, Index row, Index column, int columns,
                           const S* sums) {
    for (int c = 0; c < columns; c += finished) {
      const int count = columns - c < finished ? columns - c : finished;
      const auto y =
          convert<TC>(block.epilogue(nnk::load<finished>(sums + c), row, column + c, count));
      const Line<TC, Index> line{block.c.at(NNK_HERE, row, column + c), Index(count),
                                 block.c.stride[1]};
      line.store_partial(Index(0), y, count);
    }
  }
};

}  // namespace nnk
