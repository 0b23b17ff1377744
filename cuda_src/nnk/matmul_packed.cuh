// Matrix product C = epilogue(A B) by a block of one thread, at the speed of its SIMD registers.
//
// After Goto and van de Geijn (ACM TOMS 34(3), 2008): for every slice of TileK terms, a block packs
// its part of B into panels that are read in order, whatever the strides of B are. Rows of A are
// read where they lie if they have the right type and their terms are adjacent, else they are
// packed, as many at once as stay in a level-2 cache. A micro-tile of MicroM rows and N columns
// stays in registers for the whole slice: few rows and many columns, since an element of A costs a
// load of its own. The sums of a slice wait in C itself where C has their type (InPlace), else in
// scratch memory.
//
// How C is cut into blocks does not change an element of it: each is a chain of fused
// multiply-adds in order of the terms.
#pragma once
#include "nnk/matmul_epilogue.cuh"
#include "nnk/matmul_operands.cuh"
#include "nnk/matmul_words.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// TA, TB, TC: element types; S: the accumulator's
// Micro: how terms are packed and multiplied: see matmul_words.cuh
// TileK: words of a slice
// FastA, FastB: rows_fast or columns_fast; UnitA, UnitB: elements along that axis are adjacent
// ReadA: A is read where it lies (its terms are adjacent, and words as they are)
template <class TA, class TB, class TC, class S, class Index, int BatchRank, class Micro, int TileK,
          int MicroM, int N, int FastA, int FastB, bool UnitA, bool UnitB, bool ReadA, bool InPlace,
          class Epilogue>
struct MatmulPacked {
  using Word = typename Micro::Word;
  using WordsA = typename Micro::A;
  using WordsB = typename Micro::B;
  static constexpr int terms = Micro::terms, slice = TileK * terms;
  // Rows of A whose terms are adjacent are multiplied as rows, the others as panels [k][row].
  static constexpr bool a_by_rows = FastA == columns_fast;
  // Some more than a slice, or all packed rows would share few sets of a level-1 cache.
  static constexpr int row_pad = 16;
  static constexpr int packed_row = TileK + row_pad;
  // Rows of N words of a panel of B: a slice, and what its sums begin with.
  static constexpr int panel_b = TileK + (Micro::corrects ? 1 : 0);
  // MicroM rows of A at one k are stored as a whole vector, whose end the next k overwrites; the
  // last one reaches past the panel.
  static constexpr int row_vector = next_power_of_two(MicroM);
  static constexpr int panel_a =
      a_by_rows ? MicroM * packed_row : MicroM * TileK + row_vector - MicroM;
  // Half a micro-tile, for the edges.
  static constexpr int half_m = MicroM > 1 ? MicroM / 2 : 1, half_n = N > 1 ? N / 2 : 1;
  // Whether sums go straight from registers to C and back.
  static constexpr bool direct = InPlace && is_same<Epilogue, PlainEpilogue>;

  struct Args : Epilogue::Operands {
    const TA* a;
    const TB* b;
    TC* c;
    int64 tiles_m, tiles_n;
    int32 tile_m, tile_n;  // multiples of MicroM and N
    int32 rows_at_once;    // of A that are packed; a multiple of MicroM
    Index m, n, k;
    Divisor<Index> batch[BatchRank];
    Index batch_stride[3 + Epilogue::operands][BatchRank];  // of a, b, c and its own, in bytes
    Index stride_a[2], stride_b[2], stride_c[2];
    typename Epilogue::template Args<Index> epilogue;
  };

  using EpilogueOf = typename Epilogue::template Of<Index>;

  // What a block works on. A and B are lines of terms: rows and columns.
  struct Block {
    View<const TA, 2, Index> a;
    View<const TB, 2, Index> b;
    View<TC, 2, Index> c;
    Shared<Word> packed_a, packed_b;
    Shared<S> micro, waiting;
    Index first_m, first_n;
    int rows, columns, waiting_columns;
    EpilogueOf epilogue;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 tiles = args.tiles_m * args.tiles_n;
    const int64 batch = group.block() / tiles, tile = group.block() - batch * tiles;
    const int64 tile_row = tile / args.tiles_n;
    Index offset[3 + Epilogue::operands];
    decode_batch(args.batch, args.batch_stride, Index(batch), offset);
    const int elements_a = ReadA ? 0 : args.rows_at_once / MicroM * panel_a;
    const int elements_b = args.tile_n * panel_b;
    Block block{
        {byte_offset(args.a, offset[0]), {args.m, args.k}, {args.stride_a[0], args.stride_a[1]}},
        {byte_offset(args.b, offset[1]), {args.n, args.k}, {args.stride_b[1], args.stride_b[0]}},
        {byte_offset(args.c, offset[2]), {args.m, args.n}, {args.stride_c[0], args.stride_c[1]}},
        group.template dynamic_shared<Word>(elements_b * int(sizeof(S)), elements_a),
        group.template dynamic_shared<Word>(0, elements_b),
        group.template dynamic_shared<S>((elements_a + elements_b) * int(sizeof(S)), MicroM * N),
        group.template dynamic_shared<S>((elements_a + elements_b + MicroM * N) * int(sizeof(S)),
                                         InPlace ? 0 : args.tile_m * args.tile_n),
        Index(tile_row) * args.tile_m,
        Index(tile - tile_row * args.tiles_n) * args.tile_n,
        0,
        0,
        args.tile_n,
        EpilogueOf(args, args.epilogue, offset + 3, args.m, args.n)};
    block.rows = extent(args.m - block.first_m, args.tile_m);
    block.columns = extent(args.n - block.first_n, args.tile_n);
    Index first_k = 0;
    do {  // once for an empty sum too: its zeros go through the epilogue
      const int depth = extent(args.k - first_k, slice);
      pack_b(block, first_k, depth);
      for (int i = 0; i < block.rows; i += args.rows_at_once) {
        const int rows = extent(block.rows - i, args.rows_at_once);
        if constexpr (!ReadA) pack_a(block, i, rows, first_k, depth);
        multiply_rows(block, i, rows, first_k, depth);
      }
      first_k += slice;
    } while (first_k < args.k);
  }

 private:
  static NNK_FN int extent(Index left, int tile) { return left < tile ? int(left) : tile; }

  // ---- packing ----------------------------------------------------------------------------

  // Row i and term k of packed A, for the first row of a panel or, by rows, any.
  static NNK_FN int slot_a(int i, int k) {
    if constexpr (a_by_rows) return i * packed_row + k;
    else return i / MicroM * panel_a + k * MicroM;
  }
  static NNK_FN void pack_a(const Block& block, int first_i, int rows, Index first_k, int depth) {
    const Index first_m = block.first_m + first_i;
    const int words = words_in(depth);
    if constexpr (a_by_rows) {
      for (int i = 0; i < rows; ++i)
        for (int w = 0; w < words; w += pack_vector)
          block.packed_a.store_vec(
              slot_a(i, w), WordsA::template along<pack_vector, UnitA>(
                                block.a, first_m + i, first_k + w * terms, depth - w * terms));
    } else {
      for (int w = 0; w < words; ++w)
        for (int i = 0; i < rows; i += MicroM)
          block.packed_a.store_vec(slot_a(i, w),
                                   WordsA::template across<row_vector, UnitA>(
                                       block.a, first_m + i, rows - i < MicroM ? rows - i : MicroM,
                                       first_k + w * terms, depth - w * terms));
    }
  }
  // Words that are packed at once: no more than a packed row has to spare.
  static constexpr int pack_vector = row_pad;
  static NNK_FN int words_in(int depth) { return (depth + terms - 1) / terms; }

  // Panels of N columns, each as [word][column].
  static NNK_FN void pack_b(const Block& block, Index first_k, int depth) {
    const int words = words_in(depth);
    if constexpr (FastB == columns_fast || !UnitB) {
      for (int w = 0; w < words; ++w)
        for (int j = 0; j < block.columns; j += N)
          block.packed_b.store_vec(
              j * panel_b + w * N,
              WordsB::template across<N, UnitB>(block.b, block.first_n + j, block.columns - j,
                                                first_k + w * terms, depth - w * terms));
    } else {
      for (int j = 0; j < block.columns; j += square)
        for (int w = 0; w < words; w += square) pack_transposed(block, first_k, depth, j, w);
    }
    if constexpr (Micro::corrects)
      for (int j = 0; j < block.columns; j += N) correct(block, j * panel_b, words);
  }
  // The square that is transposed in registers.
  static constexpr int square = transposed_lanes<Word, N>();
  static NNK_FN void pack_transposed(const Block& block, Index first_k, int depth, int j, int w) {
    Vec<Word, square> x[square];
    NNK_UNROLL
    for (int i = 0; i < square; ++i) {
      // Past the last column, any other will do: what it gives is not written.
      const int column = j + i < block.columns ? j + i : j;
      x[i] = WordsB::template along<square, true>(block.b, block.first_n + column,
                                                  first_k + w * terms, depth - w * terms);
    }
    transpose(x);
    const int panel = j / N * N;
    NNK_UNROLL
    for (int i = 0; i < square; ++i)
      block.packed_b.store_vec(panel * panel_b + (w + i) * N + j - panel, x[i]);
  }
  static NNK_FN void correct(const Block& block, int panel, int words) {
    auto sum = Vec<S, N>::splat(S());
    for (int w = 0; w < words; ++w)
      sum =
          Micro::multiply_add(Micro::ones, block.packed_b.template load_vec<N>(panel + w * N), sum);
    block.packed_b.store_vec(panel + TileK * N, sum * Micro::correction);
  }

  // ---- multiplying ------------------------------------------------------------------------

  // The rows of A of a micro-tile: each on its own, or a panel of them.
  struct Rows {
    const Word* row[a_by_rows ? MicroM : 1];
    NNK_FN Word at(int r, int k) const {
      return a_by_rows ? nnk::load<1>(row[r] + k)[0] : nnk::load<1>(row[0] + k * MicroM + r)[0];
    }
  };
  static NNK_FN Rows rows_from(const Block& block, int first_i, int i, int left, Index first_k) {
    Rows rows;
    if constexpr (ReadA) {
      NNK_UNROLL
      for (int r = 0; r < MicroM; ++r) {
        // Past the last row, any other will do: what it gives is not written.
        const Index row = block.first_m + first_i + i + (r < left ? r : 0);
        rows.row[r] = reinterpret_cast<const Word*>(block.a.at(NNK_HERE, row, first_k));
      }
    } else if constexpr (a_by_rows) {
      NNK_UNROLL
      for (int r = 0; r < MicroM; ++r) rows.row[r] = block.packed_a.data + slot_a(i + r, 0);
    } else {
      rows.row[0] = block.packed_a.data + slot_a(i, 0);
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
      for (int j = 0; j < block.columns; j += N) {
        const int columns = block.columns - j < N ? block.columns - j : N;
        const int panel_of_b = j * panel_b;
        if constexpr (direct) {
          if (left == MicroM && columns == N && block.c.stride[1] == Index(sizeof(TC))) {
            multiply_in_c(block, first_i + i, j, a, panel_of_b, depth, first);
            continue;
          }
        }
        if (!first) resume(block, first_i + i, j, left, columns);
        const bool low = left <= half_m, narrow = columns <= half_n;
        if (low && narrow) multiply<half_m, half_n>(block, a, panel_of_b, depth, first);
        else if (low) multiply<half_m, N>(block, a, panel_of_b, depth, first);
        else if (narrow) multiply<MicroM, half_n>(block, a, panel_of_b, depth, first);
        else multiply<MicroM, N>(block, a, panel_of_b, depth, first);
        if (last) write(block, first_i + i, j, left, columns);
        else suspend(block, first_i + i, j, left, columns);
      }
    }
  }

  // A micro-tile comes from `block.micro` and goes back to it, from where a loop over its rows
  // writes it: written from registers, every row would be code of its own, four times, and compile
  // for seconds. A function of its own: among constants of what is around it, g++ 12 kept two of
  // the four registers of B in memory, which cost a third of the speed.
  template <int Count, int Columns>
  static NNK_APART void multiply(const Block& block, const Rows& a, int panel_of_b, int depth,
                                 bool first) {
    using V = Vec<S, Columns>;
    V sum[Count];
    NNK_UNROLL
    for (int r = 0; r < Count; ++r)
      sum[r] = first ? V::splat(S()) : block.micro.template load_vec<Columns>(r * N);
    add_products<Count, Columns>(block, a, panel_of_b, depth, sum);
    NNK_UNROLL
    for (int r = 0; r < Count; ++r) block.micro.store_vec(r * N, sum[r]);
  }
  template <int Count, int Columns>
  static NNK_FN void add_products(const Block& block, const Rows& a, int panel_of_b, int depth,
                                  Vec<S, Columns> (&sum)[Count]) {
    if constexpr (Micro::corrects) {
      const auto start = block.packed_b.template load_vec<Columns>(panel_of_b + TileK * N);
      NNK_UNROLL
      for (int r = 0; r < Count; ++r) sum[r] = sum[r] + start;
    }
    const int words = words_in(depth);
    for (int k = 0; k < words; ++k) {
      const auto b = block.packed_b.template load_vec<Columns>(panel_of_b + k * N);
      NNK_UNROLL
      for (int r = 0; r < Count; ++r) sum[r] = Micro::multiply_add(a.at(r, k), b, sum[r]);
    }
  }

  // The same for a whole micro-tile whose sums are C's elements.
  static NNK_APART void multiply_in_c(const Block& block, int i, int j, const Rows& a,
                                      int panel_of_b, int depth, bool first) {
    using V = Vec<S, N>;
    TC* const c = block.c.at(NNK_HERE, block.first_m + i, block.first_n + j);
    V sum[MicroM];
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r)
      sum[r] = first ? V::splat(S()) : nnk::load<N>(byte_offset(c, r * block.c.stride[0]));
    add_products<MicroM, N>(block, a, panel_of_b, depth, sum);
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r) nnk::store(byte_offset(c, r * block.c.stride[0]), sum[r]);
  }

  static NNK_FN void write(const Block& block, int i, int j, int rows, int columns) {
    NNK_NO_UNROLL
    for (int r = 0; r < rows; ++r) {
      const Index row = block.first_m + i + r, column = block.first_n + j;
      const auto sum = block.micro.template load_vec<N>(r * N);
      store_row(block, row, column, columns,
                convert<TC>(block.epilogue(sum, row, column, columns)));
    }
  }
  static NNK_FN void store_row(const Block& block, Index row, Index column, int columns,
                               const Vec<TC, N>& y) {
    const auto& c = block.c;
    TC* const to = c.at(NNK_HERE, row, column);
    if (c.stride[1] == Index(sizeof(TC))) {
      const Line<TC, Index, unit_step> line{to, Index(columns), c.stride[1]};
      if (columns == N) line.store(Index(0), y);
      else line.store_partial(Index(0), y, columns);
    } else {
      const Line<TC, Index> line{to, Index(columns), c.stride[1]};
      line.store_partial(Index(0), y, columns);
    }
  }

  // Sums between two slices.
  static NNK_FN void suspend(const Block& block, int i, int j, int rows, int columns) {
    NNK_NO_UNROLL
    for (int r = 0; r < rows; ++r) {
      const auto sum = block.micro.template load_vec<N>(r * N);
      if constexpr (InPlace)
        store_row(block, block.first_m + i + r, block.first_n + j, columns, sum);
      else block.waiting.store_vec((i + r) * block.waiting_columns + j, sum);
    }
  }
  static NNK_FN void resume(const Block& block, int i, int j, int rows, int columns) {
    NNK_NO_UNROLL
    for (int r = 0; r < rows; ++r) {
      Vec<S, N> sum;
      if constexpr (InPlace) sum = load_row(block, i + r, j, columns);
      else sum = block.waiting.template load_vec<N>((i + r) * block.waiting_columns + j);
      block.micro.store_vec(r * N, sum);
    }
  }
  static NNK_FN Vec<S, N> load_row(const Block& block, int i, int j, int columns) {
    const auto& c = block.c;
    const TC* from = c.at(NNK_HERE, block.first_m + i, block.first_n + j);
    if (c.stride[1] == Index(sizeof(TC))) {
      const Line<const TC, Index, unit_step> line{from, Index(columns), c.stride[1]};
      return loaded<S, false, N>(line, 0, columns);
    }
    const Line<const TC, Index> line{from, Index(columns), c.stride[1]};
    return loaded<S, false, N>(line, 0, columns);
  }
};

}  // namespace nnk
