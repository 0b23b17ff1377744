// Matrix product C = epilogue(A B) of bfloat16, float16 or 8-bit integers by a block of one thread
// with tile registers (platform/tile_registers.cuh), for a CPU.
//
// For every slice of tile_k terms, a block packs its part of B into panels of 32 columns, as
// words [terms / word][column]. A micro-tile of 32 x 32 sums stays in four tiles for the whole
// slice, while two tiles of A and two of B pass: two loads of 1 KiB for two multiplications, which
// take twice as long. 32 rows of A are read where they lie if their terms are adjacent and the
// rows begin at cache lines; otherwise they are packed as the tiles that are loaded. Between two
// slices, sums wait in scratch memory.
//
// A word of float16 is one term, as two bfloat16 whose sum it is (SplitHalves). A times B
// multiplies the larger parts and the smaller ones; A with its parts exchanged, which is packed
// beside it, adds the mixed products. So products are exact, and four times as many multiplications
// as those of bfloat16 are still a quarter of those of float32. In both, what is added first does
// not depend on which operand is A, so that a transposed product has the same bits.
//
// How C is cut into blocks does not change an element of it: each is the sum of the results of
// tiles in order.
#pragma once
#include "nnk/matmul_args.cuh"
#include "nnk/matmul_epilogue.cuh"
#include "nnk/matmul_operands.cuh"
#include "nnk/matmul_words.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// TA, TB, TC: element types; S: the accumulator's, float or uint32
// FastA, FastB: rows_fast or columns_fast; UnitA, UnitB: elements along that axis are adjacent
// Tiles: the registers
// Form: what operands and results are beside plain matrices: see MatrixForm and conv_words_form.cuh
template <class TA, class TB, class TC, class S, class Index, int BatchRank, int FastA, int FastB,
          bool UnitA, bool UnitB, class Tiles, class Epilogue, class Form = MatrixForm>
struct MatmulTiles {
  static_assert(sizeof(TA) == sizeof(TB) && sizeof(S) == 4, "words of one kind, sums of 32 bits");
  template <int I> using Tile = typename Tiles::template Tile<I>;
  static constexpr bool splits = is_same<TA, half>;
  static_assert(splits == is_same<TB, half> && !(splits && Form::packs_b), "plain matrices");
  using WordsA = conditional<splits, SplitHalves<TA>, Words<TA, TA>>;
  using WordsB = conditional<splits, SplitHalves<TB>, Words<TB, TB>>;
  // What the instruction takes them for, and how often A is packed.
  using MultipliedA = conditional<splits, bfloat16, TA>;
  using MultipliedB = conditional<splits, bfloat16, TB>;
  static constexpr int forms = splits ? 2 : 1;
  static constexpr int word_terms = WordsA::terms;  // of a word
  static constexpr int side = Tiles::side, micro = 2 * side;
  static constexpr int chunk = side * word_terms;   // terms of a tile
  static constexpr int chunk_words = side * micro;  // of two tiles side by side
  static constexpr int chunk_a = forms * chunk_words;
  static constexpr bool terms_fast_a = FastA == columns_fast, terms_fast_b = FastB == rows_fast;

  // Terms that a form writes past the end of a row of A, and what keeps rows of 4096 bytes out of
  // the same sets of a level-1 cache.
  static constexpr int pad = Form::packs_a ? chunk : 0;

  using Args =
      typename Form::template Args<ProductArgs<TA, TB, TC, Index, BatchRank, Epilogue, TileGrid>,
                                   Index>;
  using FormOf = typename Form::template Of<S, Index, micro, WordsA, WordsB>;

  // What a block works on. A and B are lines of terms: rows and columns.
  struct Block {
    using Result = TC;
    View<const TA, 2, Index> a;
    View<const TB, 2, Index> b;
    View<TC, 2, Index> c;
    Shared<uint32> packed_a, packed_b;
    Shared<S> sums, waiting;
    int waiting_columns;
    typename Args::EpilogueOf epilogue;
    Index first_m, first_n;
    int rows, columns;
    FormOf form;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const TileGrid& grid = args.grid;
    const auto place = TilePlace<Index>::of(args, group.block());
    const Index terms = terms_of_split(args, place.split);
    Index offset[Args::arrays];
    decode_batch(args.batch, args.batch_stride, place.batch, offset);
    const int words_a = (grid.tile_k + pad) / word_terms * grid.rows_at_once * forms,
              words_b = grid.tile_k / word_terms * grid.tile_n;
    const int waiting = args.terms > grid.tile_k ? grid.tile_m * grid.tile_n : 0;
    const Block block{
        args.matrix_a(offset, terms),
        args.lines_of_b(offset, terms),
        args.matrix_c(offset),
        group.template dynamic_shared<uint32>(0, words_a),
        group.template dynamic_shared<uint32>(words_a * 4, words_b),
        group.template dynamic_shared<S>((words_a + words_b) * 4, micro * micro),
        group.template dynamic_shared<S>((words_a + words_b + micro * micro) * 4, waiting),
        grid.tile_n,
        args.epilogue_of(offset),
        place.first_m,
        place.first_n,
        place.rows,
        place.columns,
        FormOf(group, args, (words_a + words_b + micro * micro + waiting) * 4,
               Form::looks_up_terms ? grid.tile_k : grid.tile_n)};
    if constexpr (!Form::looks_up_terms) block.form.find(block.first_n, block.columns);
    Tiles::begin();
    Index first_k = 0;
    do {  // once for an empty sum too: its zeros go through the epilogue
      const int depth = extent(terms - first_k, grid.tile_k);
      pack_b(block, first_k, depth);
      for (int i = 0; i < block.rows; i += grid.rows_at_once) {
        const int rows = extent(block.rows - i, grid.rows_at_once);
        // Across its terms, A is read in long pieces of lines, or most of the time goes into pages.
        if constexpr (!terms_fast_a && !Form::packs_a) pack_a(block, i, rows, first_k, depth);
        for (int panel = 0; panel < rows; panel += micro)
          multiply_rows(block, i, panel, first_k, depth);
      }
      first_k += grid.tile_k;
    } while (first_k < terms);
    Tiles::end();
  }

 private:
  static NNK_FN int chunks_of(int depth) { return (depth + chunk - 1) / chunk; }

  // ---- packing ----------------------------------------------------------------------------

  // The square that is transposed in registers.
  static constexpr int square = transposed_lanes<uint32, side>();

  // Panels of `micro` columns, each as [word][column]; zeros follow the last term.
  static NNK_APART void pack_b(const Block& block, Index first_k, int depth) {
    const int words = chunks_of(depth) * side;
    if constexpr (Form::looks_up_terms) block.form.find(first_k, depth);
    if constexpr (Form::packs_b) {
      block.form.pack_b(block.b, block.packed_b, words, block.first_n, block.columns, first_k,
                        depth);
      for (int j = 0; j < block.columns; j += micro)
        for (int w = (depth + word_terms - 1) / word_terms; w < words; ++w)
          block.packed_b.store_vec(slot_b(j, w, words), Vec<uint32, micro>::splat(0));
    } else if constexpr (terms_fast_b && UnitB) {
      for (int j = 0; j < block.columns; j += square)
        for (int w = 0; w < words; w += square) pack_b_square(block, first_k, depth, j, w, words);
    } else {
      for (int w = 0; w < words; ++w)
        for (int j = 0; j < block.columns; j += side) {
          if constexpr (UnitB && !terms_fast_b) fetch_b(block, j, first_k + w * word_terms);
          block.packed_b.store_vec(
              slot_b(j, w, words), WordsB::template across < side,
              UnitB && !terms_fast_b > (block.b, block.first_n + j, block.columns - j,
                                        first_k + w * word_terms, depth - w * word_terms));
        }
    }
  }
  // Fetches what lies eight words ahead of those that are packed at `column`: each term of a panel
  // is a short piece of memory far from the next one. (1.39 ms in place of 1.51 for 1024^3.)
  static NNK_FN void fetch_b(const Block& block, int column, Index term) {
    if (column * int(sizeof(TB)) % cache_line != 0) return;
    const char* const there = reinterpret_cast<const char*>(block.b.data) +
                              int64(block.first_n + column) * block.b.stride[0];
    NNK_UNROLL
    for (int t = 0; t < word_terms; ++t)
      prefetch(there + int64(term + 8 * word_terms + t) * block.b.stride[1]);
  }
  static NNK_FN int slot_b(int j, int w, int words) {
    return j / micro * micro * words + w * micro + j % micro;
  }
  static NNK_FN void pack_b_square(const Block& block, Index first_k, int depth, int j, int w,
                                   int words) {
    Vec<uint32, square> x[square];
    NNK_UNROLL
    for (int i = 0; i < square; ++i) {
      // Past the last column, any other will do: what it gives is not written.
      const int column = j + i < block.columns ? j + i : j;
      x[i] = WordsB::template along<square, true>(block.b, block.first_n + column,
                                                  first_k + w * word_terms, depth - w * word_terms);
    }
    transpose(x);
    NNK_UNROLL
    for (int i = 0; i < square; ++i) block.packed_b.store_vec(slot_b(j, w + i, words), x[i]);
  }

  // Panels of `micro` rows of A as tiles: chunk after chunk, each as [form][row][word].
  template <int N>
  static NNK_FN void store_a(const Block& block, int to, const Vec<uint32, N>& words) {
    block.packed_a.store_vec(to, words);
    if constexpr (splits) block.packed_a.store_vec(to + chunk_words, WordsA::exchanged(words));
  }
  static NNK_APART void pack_a(const Block& block, int first_i, int rows, Index first_k,
                               int depth) {
    const int words = chunks_of(depth) * side;
    const Index first_m = block.first_m + first_i;
    if constexpr (terms_fast_a) {
      for (int i = 0; i < rows; ++i)
        for (int w = 0; w < words; w += side)
          store_a(block, w / side * chunk_a + i * side,
                  WordsA::template along<side, UnitA>(
                      block.a, first_m + i, first_k + w * word_terms, depth - w * word_terms));
    } else {
      for (int w = 0; w < words; w += square)
        for (int i = 0; i < rows; i += square)
          pack_a_square(block, first_m, i, rows, first_k, depth, w);
    }
  }
  static NNK_FN void pack_a_square(const Block& block, Index first_m, int i, int rows,
                                   Index first_k, int depth, int w) {
    Vec<uint32, square> x[square];
    NNK_UNROLL
    for (int r = 0; r < square; ++r)
      x[r] = WordsA::template across<square, UnitA>(block.a, first_m + i, rows - i,
                                                    first_k + (w + r) * word_terms,
                                                    depth - (w + r) * word_terms);
    transpose(x);
    const int to = (i / micro * chunks_of(depth) + w / side) * chunk_a + w % side;
    NNK_UNROLL
    for (int r = 0; r < square; ++r) store_a(block, to + (i % micro + r) * side, x[r]);
  }

  // ---- multiplying ------------------------------------------------------------------------

  // `micro` rows of A: `chunks` pairs of tiles, `step` bytes apart, their rows `stride` bytes, and
  // packed at the end what is less than a chunk.
  struct Rows {
    const char* data;
    const char* rest;
    int64 stride;
    int step, chunks;
  };
  static NNK_FN Rows rows_of(const Block& block, int i, int panel, int rows, Index first_k,
                             int depth) {
    if constexpr (Form::packs_a) return packed_rows(block, i, rows, first_k, depth);
    const char* const packed = reinterpret_cast<const char*>(
        block.packed_a.data + (terms_fast_a ? 0 : panel / micro * chunks_of(depth) * chunk_a));
    if constexpr (terms_fast_a && UnitA && !splits) {
      const char* const there =
          reinterpret_cast<const char*>(block.a.at(NNK_HERE, block.first_m + i, first_k));
      const int64 stride = block.a.stride[0];
      const int whole = depth / chunk;
      if (rows % side == 0 && (reinterpret_cast<__UINTPTR_TYPE__>(there) | stride) % 64 == 0) {
        const int left = depth - whole * chunk;
        if (left > 0) pack_a(block, i, rows, first_k + whole * chunk, left);
        return {there, left > 0 ? packed : nullptr, stride, Tiles::row_bytes, whole};
      }
    }
    if constexpr (terms_fast_a) pack_a(block, i, rows, first_k, depth);
    return {packed, nullptr, Tiles::row_bytes, chunk_a * 4, chunks_of(depth)};
  }

  // Rows that a form packs, one after the other; zeros follow the last term.
  static NNK_APART Rows packed_rows(const Block& block, int i, int rows, Index first_k, int depth) {
    const int row = chunks_of(depth) * side + pad / word_terms;  // words
    block.form.pack_a(block.a, block.packed_a, row, block.first_m + i, rows, first_k, depth);
    return {reinterpret_cast<const char*>(block.packed_a.data), nullptr,
            row * int64(sizeof(uint32)), Tiles::row_bytes, chunks_of(depth)};
  }

  // The panel of rows that begins `panel` rows after the packed ones.
  static NNK_FN void multiply_rows(const Block& block, int first_i, int panel, Index first_k,
                                   int depth) {
    const int i = first_i + panel;
    const bool last = first_k + depth >= block.a.shape[1];
    const int rows = block.rows - i < micro ? block.rows - i : micro;
    const int words = chunks_of(depth) * side;
    const Rows a = rows_of(block, i, panel, rows, first_k, depth);
    for (int j = 0; j < block.columns; j += micro) {
      const int columns = block.columns - j < micro ? block.columns - j : micro;
      S* const waiting = block.waiting.data + i * block.waiting_columns + j * micro;
      const S* const from = first_k == 0 ? nullptr : waiting;
      S* const to = last ? block.sums.data : waiting;
      const uint32* const b = block.packed_b.data + slot_b(j, 0, words);
      const bool low = rows <= side, narrow = columns <= side;
      if (low && narrow) multiply<1, 1>(a, b, from, to);
      else if (low) multiply<1, 2>(a, b, from, to);
      else if (narrow) multiply<2, 1>(a, b, from, to);
      else multiply<2, 2>(a, b, from, to);
      if (last) write(block, i, j, rows, columns);
    }
  }

  // Sums are tiles 0 to 3, those of A 4 and 5, of B 6 and 7.
  template <int R, int C>
  static NNK_APART void multiply(const Rows& a, const uint32* b, const S* from, S* to) {
    begin_sum<0, 0, 0>(from);
    if constexpr (C > 1) begin_sum<1, 0, 1>(from);
    if constexpr (R > 1) begin_sum<2, 1, 0>(from);
    if constexpr (R > 1 && C > 1) begin_sum<3, 1, 1>(from);
    const char* rows = a.data;
    for (int i = 0; i < a.chunks; ++i) {
      add_products<R, C>(rows, a.stride, b);
      rows += a.step;
      b += chunk_words;
    }
    if (a.rest != nullptr) add_products<R, C>(a.rest, Tiles::row_bytes, b);
    end_sum<0, 0, 0>(to);
    if constexpr (C > 1) end_sum<1, 0, 1>(to);
    if constexpr (R > 1) end_sum<2, 1, 0>(to);
    if constexpr (R > 1 && C > 1) end_sum<3, 1, 1>(to);
  }
  template <int I, int R, int C> static NNK_FN void begin_sum(const S* from) {
    if (from == nullptr) Tile<I>::zero();
    else Tile<I>::load(from + R * side * micro + C * side, micro * 4);
  }
  template <int I, int R, int C> static NNK_FN void end_sum(S* to) {
    Tile<I>::store(to + R * side * micro + C * side, micro * 4);
  }
  template <int R, int C>
  static NNK_FN void add_products(const char* a, int64 stride, const uint32* b) {
    Tile<4>::load(a, stride);
    Tile<6>::load(b, micro * 4);
    if constexpr (C > 1) Tile<7>::load(b + side, micro * 4);
    if constexpr (R > 1) Tile<5>::load(a + side * stride, stride);
    // What follows of B, two pairs of tiles ahead: from a level-2 cache alone, it came a tenth too
    // late.
    NNK_UNROLL
    for (int i = 0; i < micro; ++i) Tiles::fetch(b + 2 * chunk_words + i * side);
    multiply_tiles<R, C>();
    if constexpr (splits) {
      Tile<4>::load(a + chunk_words * 4, stride);
      if constexpr (R > 1) Tile<5>::load(a + chunk_words * 4 + side * stride, stride);
      multiply_tiles<R, C>();
    }
  }
  template <int R, int C> static NNK_FN void multiply_tiles() {
    Tiles::template multiply<MultipliedA, MultipliedB, 0, 4, 6>();
    if constexpr (C > 1) Tiles::template multiply<MultipliedA, MultipliedB, 1, 4, 7>();
    if constexpr (R > 1) Tiles::template multiply<MultipliedA, MultipliedB, 2, 5, 6>();
    if constexpr (R > 1 && C > 1) Tiles::template multiply<MultipliedA, MultipliedB, 3, 5, 7>();
  }

  static NNK_APART void write(const Block& block, int i, int j, int rows, int columns) {
    NNK_NO_UNROLL
    for (int r = 0; r < rows; ++r) {
      const Index row = block.first_m + i + r, column = block.first_n + j;
      if constexpr (Form::scatters) {
        block.form.scatter(block, block.sums.data + r * micro, row, j, columns);
        continue;
      }
      const auto sums = block.sums.template load_vec<micro>(r * micro);
      store_row(block.c, row, column, columns,
                convert<TC>(block.epilogue(sums, row, column, columns)));
    }
  }
};

}  // namespace nnk
