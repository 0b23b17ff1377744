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
// Neither the blocks nor the slices change an element of C: each is a chain of fused multiply-adds
// in the order of the terms.
#pragma once
#include "nnk/matmul_args.cuh"
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
// Form: what operands and results are beside plain matrices: see MatrixForm and conv_form.cuh
template <class TA, class TB, class TC, class S, class Index, int BatchRank, class Micro, int TileK,
          int MicroM, int N, int FastA, int FastB, bool UnitA, bool UnitB, bool ReadA, bool InPlace,
          class Epilogue, class Form = MatrixForm>
struct MatmulPacked {
  using Word = typename Micro::Word;
  using WordsA = typename Micro::A;
  using WordsB = typename Micro::B;
  static constexpr int word_terms = Micro::terms, slice = TileK * word_terms;
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
  static_assert(!(ReadA && Form::packs_a) && !(InPlace && Form::scatters));

  // Whether the first rows of a block are multiplied by B where it lies, which is packed meanwhile:
  // its stores cost next to nothing beside the multiply-adds. (Panels that are not whole are packed
  // before.)
  static constexpr bool packs_along =
      FastB == columns_fast && UnitB && word_terms == 1 && !Form::packs_b;

  using Args =
      typename Form::template Args<ProductArgs<TA, TB, TC, Index, BatchRank, Epilogue, TileGrid>,
                                   Index>;
  using FormOf = typename Form::template Of<S, Index, N, WordsA, WordsB>;

  // What a block works on. A and B are lines of terms: rows and columns.
  struct Block {
    using Result = TC;
    View<const TA, 2, Index> a;
    View<const TB, 2, Index> b;
    View<TC, 2, Index> c;
    Shared<Word> packed_a, packed_b;
    Shared<S> micro, waiting;
    int waiting_columns;
    typename Args::EpilogueOf epilogue;
    Index first_m, first_n;
    int rows, columns;
    FormOf form;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const TileGrid& grid = args.grid;
    // A slice that all blocks share stays packed from one to the next below it.
    const auto place = TilePlace<Index>::of(args, group.block(), args.terms <= slice);
    const Index terms = terms_of_split(args, place.split);
    Index offset[Args::arrays];
    decode_batch(args.batch, args.batch_stride, place.batch, offset);
    const int elements_a = ReadA ? 0 : grid.rows_at_once / MicroM * panel_a;
    const int elements_b = grid.tile_n * panel_b;
    const int elements = elements_a + elements_b + MicroM * N;
    const int waiting = InPlace || args.terms <= slice ? 0 : grid.tile_m * grid.tile_n;
    const Block block{
        args.matrix_a(offset, terms),
        args.lines_of_b(offset, terms),
        args.matrix_c(offset),
        group.template dynamic_shared<Word>(elements_b * int(sizeof(S)), elements_a),
        group.template dynamic_shared<Word>(0, elements_b),
        group.template dynamic_shared<S>((elements_a + elements_b) * int(sizeof(S)), MicroM * N),
        group.template dynamic_shared<S>(elements * int(sizeof(S)), waiting),
        grid.tile_n,
        args.epilogue_of(offset),
        place.first_m,
        place.first_n,
        place.rows,
        place.columns,
        FormOf(group, args, (elements + waiting) * int(sizeof(S)),
               Form::looks_up_terms ? slice : grid.tile_n)};
    if constexpr (!Form::looks_up_terms) block.form.find(block.first_n, block.columns);
    const int64 columns_before = place.batch * grid.tiles_n + place.first_n / grid.tile_n;
    Index first_k = 0;
    do {  // once for an empty sum too: its zeros go through the epilogue
      const int depth = extent(terms - first_k, slice);
      const int64 needed = 1 + first_k / slice + (args.terms / slice + 1) * columns_before;
      const bool packs = group.kept() != needed;
      group.kept() = needed;
      if (!packs_along && packs) pack_b(block, 0, block.columns, first_k, depth);
      for (int i = 0; i < block.rows; i += grid.rows_at_once) {
        const int rows = extent(block.rows - i, grid.rows_at_once);
        if constexpr (!ReadA) pack_a(block, i, rows, first_k, depth);
        multiply_rows(block, i, rows, first_k, depth, packs_along && packs && i == 0);
      }
      first_k += slice;
    } while (first_k < terms);
  }

 private:
  // ---- packing ----------------------------------------------------------------------------
  // What is called once for a slice or a micro-tile is a function of its own: as one function, an
  // instance took a third longer to compile.

  // Row i and term k of packed A, for the first row of a panel or, by rows, any.
  static NNK_FN int slot_a(int i, int k) {
    if constexpr (a_by_rows) return i * packed_row + k;
    else return i / MicroM * panel_a + k * MicroM;
  }
  static NNK_APART void pack_a(const Block& block, int first_i, int rows, Index first_k,
                               int depth) {
    const Index first_m = block.first_m + first_i;
    const int words = words_in(depth);
    if constexpr (Form::packs_a) {
      static_assert(a_by_rows, "a form packs rows");
      block.form.pack_a(block.a, block.packed_a, packed_row, first_m, rows, first_k, depth);
    } else if constexpr (a_by_rows) {
      for (int i = 0; i < rows; ++i)
        for (int w = 0; w < words; w += pack_vector)
          block.packed_a.store_vec(slot_a(i, w), WordsA::template along<pack_vector, UnitA>(
                                                     block.a, first_m + i, first_k + w * word_terms,
                                                     depth - w * word_terms));
    } else if constexpr (word_terms > 1) {
      const View<const TA, 2, Index> a = block.a;
      for (int w = 0; w < words; w += words_at_once) {
        if constexpr (UnitA)
          for (int ahead = 0; ahead < words_at_once; ++ahead)
            fetch_terms_of_a(a, first_m, rows, first_k + (w + ahead) * word_terms + terms_ahead,
                             depth - (w + ahead) * word_terms - terms_ahead);
        for (int i = 0; i < rows; i += rows_of_words)
          pack_words_of_a(block, i, rows, first_m, first_k, w, depth);
      }
    } else {
      // Copies, which stores to packed A cannot change.
      const View<const TA, 2, Index> a = block.a;
      const Shared<Word> packed = block.packed_a;
      for (int w = 0; w < words; ++w) {
        const Index term = first_k + w;
        if constexpr (UnitA)
          fetch_terms_of_a(a, first_m, rows, term + terms_ahead, depth - w - terms_ahead);
        int i = 0, to = w * MicroM;
        for (; i + MicroM <= rows; i += MicroM, to += panel_a)
          packed.store_vec(
              to, WordsA::template across<row_vector, UnitA>(a, first_m + i, MicroM, term, 1));
        if (i < rows)
          packed.store_vec(
              to, WordsA::template across<row_vector, UnitA>(a, first_m + i, rows - i, term, 1));
      }
    }
  }
  // Words of several terms are made of many rows at once, whole registers of them, and cut into
  // panels by way of a small buffer: of some words, or a panel would be read while the registers
  // that it is in two of are still on their way to memory.
  static constexpr int rows_of_words = least_common_multiple(MicroM, 16), words_at_once = 8;
  static NNK_FN void pack_words_of_a(const Block& block, int first_i, int rows, Index first_m,
                                     Index first_k, int first_w, int depth) {
    alignas(cache_line) Word buffer[words_at_once * rows_of_words + row_vector];
    const int words = extent(words_in(depth) - first_w, words_at_once);
    const int there = extent(rows - first_i, rows_of_words);
    for (int w = 0; w < words; ++w) {
      const int term = (first_w + w) * word_terms;
      nnk::store(buffer + w * rows_of_words,
                 WordsA::template across<rows_of_words, UnitA>(block.a, first_m + first_i, there,
                                                               first_k + term, depth - term));
    }
    for (int i = 0; i < there; i += MicroM) {
      const int to = slot_a(first_i + i, first_w);
      for (int w = 0; w < words; ++w)
        block.packed_a.store_vec(to + w * MicroM,
                                 nnk::load<row_vector>(buffer + w * rows_of_words + i));
    }
  }
  // Of the terms of a word of panels, `left` of which are there: each is a short run in memory, far
  // from the next one, and a whole one is as many instructions as a processor looks ahead.
  static constexpr int terms_ahead = 8 * word_terms;
  static NNK_FN void fetch_terms_of_a(const View<const TA, 2, Index>& a, Index row, int rows,
                                      Index term, int left) {
    for (int t = 0; t < word_terms && t < left; ++t) {
      const TA* const first = a.at(NNK_HERE, row, term + t);
      // From the end of its first line on, which the rows before have in part.
      for (int byte = cache_line - 1; byte < rows * int(sizeof(TA)) + cache_line - 1;
           byte += cache_line)
        prefetch<1>(byte_offset(first, Index(byte)));
    }
  }
  // Words that are packed at once: no more than a packed row has to spare.
  static constexpr int pack_vector = row_pad;
  static NNK_FN int words_in(int depth) { return (depth + word_terms - 1) / word_terms; }

  // Panels of N columns, each as [word][column], of the columns from first_j on.
  static NNK_APART void pack_b(const Block& block, int first_j, int end_j, Index first_k,
                               int depth) {
    const int words = words_in(depth);
    if constexpr (Form::looks_up_terms) block.form.find(first_k, depth);
    if constexpr (Form::packs_b) {
      block.form.pack_b(block.b, block.packed_b, panel_b, block.first_n, block.columns, first_k,
                        depth);
    } else if constexpr (FastB == columns_fast || !UnitB) {
      for (int w = 0; w < words; ++w) {
        if constexpr (UnitB) fetch_rows_of_b(block, first_k, depth, (w + rows_ahead) * word_terms);
        for (int j = first_j; j < end_j; j += N)
          block.packed_b.store_vec(
              j * panel_b + w * N,
              WordsB::template across<N, UnitB>(block.b, block.first_n + j, block.columns - j,
                                                first_k + w * word_terms, depth - w * word_terms));
      }
    } else {
      for (int j = first_j; j < end_j; j += square)
        for (int w = 0; w < words; w += square) pack_transposed(block, first_k, depth, j, w);
    }
    if constexpr (Micro::corrects)
      for (int j = first_j; j < end_j; j += N) correct(block, j * panel_b, words);
  }
  // Of the terms of a word, from the term k of the slice on: a row of a block is too short for a
  // processor to look ahead by itself.
  static constexpr int rows_ahead = 4;
  static NNK_FN void fetch_rows_of_b(const Block& block, Index first_k, int depth, int k) {
    for (int t = k; t < k + word_terms && t < depth; ++t) {
      const TB* const row = block.b.at(NNK_HERE, block.first_n, first_k + t);
      for (int byte = 0; byte < block.columns * int(sizeof(TB)); byte += cache_line)
        prefetch<1>(byte_offset(row, Index(byte)));
    }
  }
  // Words of A in a cache line, and those of a turn of the innermost loop: with all of a line in
  // a turn, an instance took 40 % longer to compile, and no less to run.
  static constexpr int piece = cache_line / int(sizeof(Word)), words_of_turn = 4;
  static_assert(piece % words_of_turn == 0, "turns make a line");

  // The square that is transposed in registers.
  static constexpr int square = transposed_lanes<Word, N>();
  static NNK_FN void pack_transposed(const Block& block, Index first_k, int depth, int j, int w) {
    Vec<Word, square> x[square];
    NNK_UNROLL
    for (int i = 0; i < square; ++i) {
      // Past the last column, any other will do: what it gives is not written.
      const int column = j + i < block.columns ? j + i : j;
      x[i] = WordsB::template along<square, true>(block.b, block.first_n + column,
                                                  first_k + w * word_terms, depth - w * word_terms);
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
  static constexpr int rows_apart = a_by_rows ? MicroM : 1;
  struct Rows {
    const Word* row[rows_apart];
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
                                   int depth, bool first_packs) {
    const bool first = first_k == 0, last = first_k + depth >= block.a.shape[1];
    Rows a = rows_from(block, first_i, 0, rows, first_k);
    // The rows of a micro-tile stay in the nearest cache while all of B passes.
    for (int i = 0; i < rows; i += MicroM) {
      const int left = rows - i < MicroM ? rows - i : MicroM;
      const bool more = i + MicroM < rows;
      const Rows next =
          more ? rows_from(block, first_i, i + MicroM, rows - i - MicroM, first_k) : a;
      for (int j = 0; j < block.columns; j += N) {
        const Tile tile{first_i + i, j, left, block.columns - j < N ? block.columns - j : N};
        bool fetches = ReadA && more && j == 0;
        Rows coming = next;
        if constexpr (packs_along && a_by_rows)
          if (!fetches && !last && first_i + i > 0)
            fetches = next_of_b(block, first_i + i, j, first_k + depth, words_in(depth), coming);
        bool packs = first_packs && i == 0;
        if constexpr (packs_along)
          if (packs && (left < MicroM || tile.columns < N)) {
            pack_b(block, j, j + tile.columns, first_k, depth);
            packs = false;
          }
        if constexpr (direct) {
          if (left == MicroM && tile.columns == N && block.c.stride[1] == Index(sizeof(TC))) {
            const int words = words_in(depth);
            if (packs) multiply_in_c<packs_along>(block, tile, a, coming, fetches, words, first_k);
            else multiply_in_c<false>(block, tile, a, coming, fetches, words, first_k);
            continue;
          }
        }
        const int words = words_in(depth);
        const bool low = left <= half_m, narrow = tile.columns <= half_n;
        if (!first) resume(block, tile);
        if constexpr (!Form::scatters)
          if (last) fetch_results(block, tile);
        if (packs) multiply<MicroM, N, packs_along>(block, j, a, coming, fetches, words, first_k);
        else if (low && narrow)
          multiply<half_m, half_n>(block, j, a, coming, fetches, words, first_k);
        else if (low) multiply<half_m, N>(block, j, a, coming, fetches, words, first_k);
        else if (narrow) multiply<MicroM, half_n>(block, j, a, coming, fetches, words, first_k);
        else multiply<MicroM, N>(block, j, a, coming, fetches, words, first_k);
        finish(block, tile, last);
      }
      a = next;
    }
  }

  // What of the next slice of B, from the term k on, comes into the caches along with a micro-tile:
  // a run as long as its rows of A, of as many rows. False if there is nothing left, or if such a
  // run is longer than a row of the block.
  static NNK_FN bool next_of_b(const Block& block, int i, int j, Index k, int words, Rows& rows) {
    const int run = words * int(sizeof(Word)), bytes = block.columns * int(sizeof(TB));
    if (run == 0 || run > bytes) return false;
    const int tile = (i / MicroM - 1) * ((block.columns + N - 1) / N) + j / N;
    const int runs = (bytes + run - 1) / run;
    const Index first = k + tile / runs * MicroM;
    if (first + MicroM > block.b.shape[1]) return false;
    NNK_UNROLL
    for (int r = 0; r < rows_apart; ++r)
      rows.row[r] = reinterpret_cast<const Word*>(
          byte_offset(block.b.at(NNK_HERE, block.first_n, first + r), Index(tile % runs * run)));
    return true;
  }

  // Where a micro-tile lies in its block, and what there is of it.
  struct Tile { int i, j, rows, columns; };

  // The sums of a micro-tile for one slice go to `block.micro`, from where a loop over its rows
  // writes them: written from registers, every row would be code of its own, four times, and
  // compile for seconds. A function of its own: among constants of what is around it, g++ 12 kept
  // two of the four registers of B in memory, which cost a third of the speed.
  template <int Count, int Columns, bool Packs = false>
  static NNK_APART void multiply(const Block& block, int j, const Rows& a, const Rows& next,
                                 bool fetches, int words, Index first_k) {
    Vec<S, Columns> sum[Count];
    NNK_UNROLL
    for (int r = 0; r < Count; ++r)
      sum[r] = first_k == 0 ? Vec<S, Columns>::splat(S())
                            : block.micro.template load_vec<Columns>(r * N);
    sum_products<Count, Columns, Packs>(block, j, a, next, fetches, words, first_k, sum);
    NNK_UNROLL
    for (int r = 0; r < Count; ++r) block.micro.store_vec(r * N, sum[r]);
  }
  // `fetches`: along with it, the next rows of A come into the caches. The processor itself looks
  // ahead late, since each row is a short run in memory.
  // Packs: B is read where it lies, from the term first_k on, and packed.
  template <int Count, int Columns, bool Packs>
  static NNK_FN void sum_products(const Block& block, int j, const Rows& rows, const Rows& next,
                                  bool fetches, int words, Index first_k,
                                  Vec<S, Columns> (&sum)[Count]) {
    if constexpr (Micro::corrects) {
      const auto correction = block.packed_b.template load_vec<Columns>(j * panel_b + TileK * N);
      NNK_UNROLL
      for (int r = 0; r < Count; ++r) sum[r] = sum[r] + correction;
    }
    const Rows a = rows;  // a copy, which stores to packed B cannot change
    // A pointer that moves on: of indices, g++ 12 kept one for each turn, some in memory.
    Word* b = block.packed_b.data + j * panel_b;
    Source source{nullptr, block.b.stride[1]};
    if constexpr (Packs) source.at = block.b.at(NNK_HERE, block.first_n + j, first_k);
    int k = 0;
    while (k + piece <= words) {
      if (fetches) {
        NNK_UNROLL
        for (int r = 0; r < rows_apart; ++r) prefetch(next.row[r] + k);
      }
      NNK_NO_UNROLL
      for (const int end = k + piece; k < end; k += words_of_turn, b += words_of_turn * N) {
        NNK_UNROLL
        for (int t = 0; t < words_of_turn; ++t)
          add_products<Packs>(source, b + t * N, a, k + t, sum);
      }
    }
    NNK_NO_UNROLL
    for (; k < words; ++k, b += N) add_products<Packs>(source, b, a, k, sum);
  }
  // A row of B where it lies, and how many bytes lie between rows.
  struct Source {
    const TB* at;
    Index step;
  };
  template <bool Packs, int Count, int Columns>
  static NNK_FN void add_products(Source& source, Word* packed, const Rows& a, int k,
                                  Vec<S, Columns> (&sum)[Count]) {
    Vec<Word, Columns> b;
    if constexpr (Packs) {
      const TB* const ahead = byte_offset(source.at, int64(rows_ahead) * source.step);
      NNK_UNROLL
      for (int byte = 0; byte < N * int(sizeof(TB)); byte += cache_line)
        prefetch<1>(byte_offset(ahead, Index(byte)));
      b = WordsB::template from<Columns>(source.at);
      nnk::store(packed, b);
      source.at = byte_offset(source.at, source.step);
    } else {
      b = nnk::load<Columns>(packed);
    }
    NNK_UNROLL
    for (int r = 0; r < Count; ++r) sum[r] = Micro::multiply_add(a.at(r, k), b, sum[r]);
  }

  // The same for a whole micro-tile whose sums are C's elements.
  template <bool Packs>
  static NNK_APART void multiply_in_c(const Block& block, const Tile& tile, const Rows& a,
                                      const Rows& next, bool fetches, int words, Index first_k) {
    const bool first = first_k == 0;
    TC* const c = block.c.at(NNK_HERE, block.first_m + tile.i, block.first_n + tile.j);
    Vec<S, N> sum[MicroM];
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r) {
      TC* const row = byte_offset(c, r * block.c.stride[0]);
      sum[r] = first ? Vec<S, N>::splat(S()) : nnk::load<N>(row);
      // Of the next micro-tile, or what the processor writes here.
      NNK_UNROLL
      for (int byte = 0; byte < N * int(sizeof(TC)); byte += cache_line)
        prefetch(row + N * (first ? 0 : 1) + byte / int(sizeof(TC)));
    }
    sum_products<MicroM, N, Packs>(block, tile.j, a, next, fetches, words, first_k, sum);
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r) nnk::store(byte_offset(c, r * block.c.stride[0]), sum[r]);
  }

  // Brings what the end of a micro-tile reads and writes into the caches: while it is multiplied.
  static NNK_FN void fetch_results(const Block& block, const Tile& tile) {
    const Index row = block.first_m + tile.i, column = block.first_n + tile.j;
    if (tile.columns < N) return;
    if (block.c.stride[1] == Index(sizeof(TC)))
      fetch_rows<N* int(sizeof(TC)), MicroM>(block.c.at(NNK_HERE, row, column), block.c.stride[0],
                                             tile.rows);
    block.epilogue.template fetch<N, MicroM>(row, column, tile.rows);
  }

  // Fetches the sums of earlier slices.
  static NNK_APART void resume(const Block& block, const Tile& tile) {
    NNK_NO_UNROLL
    for (int r = 0; r < tile.rows; ++r) {
      if constexpr (InPlace)
        block.micro.store_vec(r * N, load_row(block, block.first_m + tile.i + r,
                                              block.first_n + tile.j, tile.columns));
      else
        block.micro.store_vec(r * N, block.waiting.template load_vec<N>(waits_at(block, tile, r)));
    }
  }
  static NNK_FN int waits_at(const Block& block, const Tile& tile, int r) {
    return (tile.i + r) * block.waiting_columns + tile.j;
  }

  // Writes the results, or lets the sums wait.
  static NNK_APART void finish(const Block& block, const Tile& tile, bool last) {
    NNK_NO_UNROLL
    for (int r = 0; r < tile.rows; ++r) {
      const Index row = block.first_m + tile.i + r, column = block.first_n + tile.j;
      if constexpr (Form::scatters)
        if (last) {
          block.form.scatter(block, block.micro.data + r * N, row, tile.j, tile.columns);
          continue;
        }
      const auto sum = block.micro.template load_vec<N>(r * N);
      if (last)
        store_row(block.c, row, column, tile.columns,
                  convert<TC>(block.epilogue(sum, row, column, tile.columns)));
      else if constexpr (InPlace) store_row(block.c, row, column, tile.columns, sum);
      else block.waiting.store_vec(waits_at(block, tile, r), sum);
    }
  }
  static NNK_FN Vec<S, N> load_row(const Block& block, Index row, Index column, int columns) {
    const auto& c = block.c;
    const TC* from = c.at(NNK_HERE, row, column);
    if (c.stride[1] == Index(sizeof(TC))) {
      const Line<const TC, Index, unit_step> line{from, Index(columns), c.stride[1]};
      return loaded<S, false, N>(line, 0, columns);
    }
    const Line<const TC, Index> line{from, Index(columns), c.stride[1]};
    return loaded<S, false, N>(line, 0, columns);
  }
};

}  // namespace nnk
