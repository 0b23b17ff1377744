// Complex matrix product C = epilogue(A B) by a block of one thread, in real SIMD arithmetic.
//
// Rows of B are packed as two: their real parts, and their imaginary parts. So each product of an
// element of A and a register of columns is four fused multiply-adds, of both parts of the one and
// both of the other, and nothing is shuffled but what is read and what is written. Elements of A
// are read where they lie, or packed, with their parts side by side. For the rest this is
// matmul_packed.cuh, to which the names here are owed. Conjugates are taken by turning signs, those
// of A as it is multiplied, those of B as it is packed.
#pragma once
#include "nnk/matmul_args.cuh"
#include "nnk/matmul_epilogue.cuh"
#include "nnk/matmul_operands.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// TA, TB, TC: element types; S: the accumulator's, complex
// TileK: terms of a slice; MicroM: rows of a micro-tile; N: real numbers in one of them, of half
// as many columns
// UnitB: columns of B are adjacent, and of the type S
// ReadA: A is read where it lies: its terms are adjacent, and of the type S
// InPlace: sums wait in C, whose columns are adjacent, and of the type S
// Form: what operands and results are beside plain matrices: see MatrixForm and conv_form.cuh
template <class TA, class TB, class TC, class S, class Index, int BatchRank, int TileK, int MicroM,
          int N, bool UnitB, bool ConjugateA, bool ConjugateB, bool ReadA, bool InPlace,
          class Epilogue, class Form = MatrixForm>
struct MatmulComplex {
  using R = typename S::value_type;
  using V = Vec<R, N>;
  // Columns of a panel of B, and real numbers of it.
  static constexpr int panel_columns = N / 2, panel_b = TileK * N;
  // Some more than a slice, or all packed rows would share few sets of a level-1 cache.
  static constexpr int packed_row = 2 * TileK + 16;
  // Half a micro-tile, for the edges.
  static constexpr int half_m = MicroM > 1 ? MicroM / 2 : 1;
  static constexpr int half_columns = panel_columns > 1 ? panel_columns / 2 : 1;
  // Complex numbers that an epilogue is given at once.
  static constexpr int finished = panel_columns < 4 ? panel_columns : 4;
  // Whether sums go straight from registers to C and back.
  static constexpr bool direct = InPlace && is_same<Epilogue, PlainEpilogue>;

  static_assert(!(ReadA && Form::packs_a) && !(InPlace && Form::scatters));

  using Args =
      typename Form::template Args<ProductArgs<TA, TB, TC, Index, BatchRank, Epilogue, TileGrid>,
                                   Index>;
  using FormOf = typename Form::template Of<S, Index, panel_columns>;

  // What a block works on.
  struct Block {
    using Result = TC;
    View<const TA, 2, Index> a;
    View<const TB, 2, Index> b;
    View<TC, 2, Index> c;
    Shared<R> packed_b, packed_a, micro, waiting;
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
    const int of_b = grid.tile_n / panel_columns * panel_b;
    const int of_a = ReadA ? 0 : grid.rows_at_once * packed_row;
    const int waiting = InPlace || args.terms <= TileK ? 0 : 2 * grid.tile_m * grid.tile_n;
    const int taken = of_b + of_a + MicroM * N;
    const Block block{args.matrix_a(offset, terms),
                      args.matrix_b(offset, terms),
                      args.matrix_c(offset),
                      scratch(group, 0, of_b),
                      scratch(group, of_b, of_a),
                      scratch(group, of_b + of_a, MicroM * N),
                      scratch(group, taken, waiting),
                      2 * grid.tile_n,
                      args.epilogue_of(offset),
                      place.first_m,
                      place.first_n,
                      place.rows,
                      place.columns,
                      FormOf(group, args, (taken + waiting) * int(sizeof(R)),
                             Form::looks_up_terms ? TileK : grid.tile_n)};
    if constexpr (!Form::looks_up_terms) block.form.find(block.first_n, block.columns);
    Index first_k = 0;
    do {  // once for an empty sum too: its zeros go through the epilogue
      const int depth = extent(terms - first_k, TileK);
      pack_b(block, first_k, depth);
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
  static NNK_APART void pack_a(const Block& block, int first_i, int rows, Index first_k,
                               int depth) {
    if constexpr (Form::packs_a) {
      block.form.pack_a(block.a, block.packed_a, packed_row / 2, block.first_m + first_i, rows,
                        first_k, depth);
      return;
    }
    for (int i = 0; i < rows; ++i) {
      const TA* const from = block.a.at(NNK_HERE, block.first_m + first_i + i, first_k);
      R* const to = block.packed_a.data + i * packed_row;
      if constexpr (is_same<TA, S> && sizeof(S) == sizeof(double)) {
        // Both parts at once, as one number of their size.
        for (int k = 0; k < depth; k += at_once)
          nnk::store(reinterpret_cast<double*>(to + 2 * k),
                     nnk::load_strided<at_once>(
                         reinterpret_cast<const double*>(byte_offset(from, k * block.a.stride[1])),
                         block.a.stride[1], depth - k < at_once ? depth - k : at_once, 0.0));
      } else {
        for (int k = 0; k < depth; ++k) {
          const S x = element(byte_offset(from, k * block.a.stride[1]));
          nnk::store(reinterpret_cast<S*>(to + 2 * k), splat_one(x));
        }
      }
    }
  }
  // Elements of A that are packed at once: no more than a packed row has to spare.
  static constexpr int at_once = 8;
  static NNK_FN Vec<S, 1> splat_one(S x) { return Vec<S, 1>::splat(x); }

  // Panels: for each term the real parts of a row, and then its imaginary parts.
  static NNK_APART void pack_b(const Block& block, Index first_k, int depth) {
    if constexpr (Form::looks_up_terms) block.form.find(first_k, depth);
    if constexpr (Form::packs_b) {
      const auto& b = block.b;
      const View<const TB, 2, Index> columns{
          b.data, {b.shape[1], b.shape[0]}, {b.stride[1], b.stride[0]}};
      block.form.pack_b(columns, block.packed_b, TileK, block.first_n, block.columns, first_k,
                        depth);
      return;
    }
    for (int k = 0; k < depth; ++k) {
      if constexpr (UnitB)
        if (k + rows_ahead < depth) fetch_row_of_b(block, first_k + k + rows_ahead);
      for (int j = 0; j < block.columns; j += panel_columns) {
        const int left = block.columns - j;
        pack_row(block.b.at(NNK_HERE, first_k + k, block.first_n + j),
                 UnitB ? Index(sizeof(S)) : block.b.stride[1],
                 left < panel_columns ? left : panel_columns,
                 block.packed_b.data + j / panel_columns * panel_b + k * N);
      }
    }
  }
  static constexpr int rows_ahead = 4;
  static NNK_FN void fetch_row_of_b(const Block& block, Index k) {
    const TB* const row = block.b.at(NNK_HERE, k, block.first_n);
    for (int byte = 0; byte < block.columns * int(sizeof(TB)); byte += cache_line)
      prefetch<1>(byte_offset(row, Index(byte)));
  }
  static NNK_FN void pack_row(const TB* from, Index step, int columns, R* to) {
    Vec<R, panel_columns> re, im;
    if constexpr (is_same<TB, S>) {
      const R* const parts = reinterpret_cast<const R*>(from);
      re = nnk::load_strided<panel_columns>(parts, step, columns, R());
      im = nnk::load_strided<panel_columns>(parts + 1, step, columns, R());
    } else {
      R part[2][panel_columns] = {};
      for (int c = 0; c < columns; ++c) {
        const S x = element(byte_offset(from, c * step));
        part[0][c] = x.re;
        part[1][c] = x.im;
      }
      re = nnk::load<panel_columns>(part[0]);
      im = nnk::load<panel_columns>(part[1]);
    }
    nnk::store(to, re);
    nnk::store(to + panel_columns, ConjugateB ? -im : im);
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
    Rows a = rows_from(block, first_i, 0, rows, first_k);
    // The rows of a micro-tile stay in the nearest cache while all of B passes.
    for (int i = 0; i < rows; i += MicroM) {
      const int left = rows - i < MicroM ? rows - i : MicroM;
      const bool more = i + MicroM < rows;
      const Rows next =
          more ? rows_from(block, first_i, i + MicroM, rows - i - MicroM, first_k) : a;
      for (int j = 0; j < block.columns; j += panel_columns) {
        const int there = block.columns - j < panel_columns ? block.columns - j : panel_columns;
        const Terms terms{block.packed_b.data + j / panel_columns * panel_b, depth,
                          ReadA && more && j == 0};
        if constexpr (direct) {
          if (left == MicroM && there == panel_columns) {
            multiply_in_c(block, first_i + i, j, a, next, terms, first);
            continue;
          }
        }
        R* const to = block.micro.data;
        const bool low = left <= half_m, narrow = there <= half_columns;
        if (low && narrow) multiply<half_m, half_columns>(a, next, terms, to);
        else if (low) multiply<half_m, panel_columns>(a, next, terms, to);
        else if (narrow) multiply<MicroM, half_columns>(a, next, terms, to);
        else multiply<MicroM, panel_columns>(a, next, terms, to);
        finish(block, first_i + i, j, left, there, first, last);
      }
      a = next;
    }
  }

  // A panel of B, and whether the next rows of A come into the caches along with it.
  struct Terms {
    const R* b;
    int depth;
    bool fetches;
  };
  template <int Count, int Columns> struct Sums { Vec<R, Columns> re[Count], im[Count]; };

  template <int Count, int Columns>
  static NNK_FN void sum_products(const Rows& a, const Rows& next, const Terms& terms,
                                  Sums<Count, Columns>& sum) {
    using Part = Vec<R, Columns>;
    NNK_UNROLL
    for (int r = 0; r < Count; ++r) sum.re[r] = sum.im[r] = Part::splat(R());
    constexpr int piece = cache_line / int(sizeof(S));
    for (int first = 0; first < terms.depth; first += piece) {
      if (terms.fetches) {
        NNK_UNROLL
        for (int r = 0; r < MicroM; ++r) prefetch(next.row[r] + 2 * first);
      }
      const int end = terms.depth - first < piece ? terms.depth : first + piece;
      for (int k = first; k < end; ++k) {
        const auto re = nnk::load<Columns>(terms.b + k * N),
                   im = nnk::load<Columns>(terms.b + k * N + panel_columns);
        NNK_UNROLL
        for (int r = 0; r < Count; ++r) {
          const auto x = Part::splat(nnk::load<1>(a.row[r] + 2 * k)[0]);
          sum.re[r] = fma(x, re, sum.re[r]);
          sum.im[r] = fma(x, im, sum.im[r]);
          const auto y = Part::splat(nnk::load<1>(a.row[r] + 2 * k + 1)[0]);
          if constexpr (ConjugateA) {
            sum.re[r] = fma(y, im, sum.re[r]);
            sum.im[r] = sum.im[r] - y * re;
          } else {
            sum.re[r] = sum.re[r] - y * im;
            sum.im[r] = fma(y, re, sum.im[r]);
          }
        }
      }
    }
  }
  // Not inlined, so that the registers of the loop are its own.
  template <int Count, int Columns>
  static NNK_APART void multiply(const Rows& a, const Rows& next, const Terms& terms, R* to) {
    Sums<Count, Columns> sum;
    sum_products(a, next, terms, sum);
    NNK_UNROLL
    for (int r = 0; r < Count; ++r) nnk::store(to + r * N, interleaved(sum.re[r], sum.im[r]));
  }
  // The same for a whole micro-tile whose sums are C's elements.
  static NNK_APART void multiply_in_c(const Block& block, int i, int j, const Rows& a,
                                      const Rows& next, const Terms& terms, bool first) {
    TC* const c = block.c.at(NNK_HERE, block.first_m + i, block.first_n + j);
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r) {
      NNK_UNROLL
      for (int byte = 0; byte < N * int(sizeof(R)); byte += cache_line)
        prefetch(byte_offset(c, r * block.c.stride[0] + byte));
    }
    Sums<MicroM, panel_columns> sum;
    sum_products(a, next, terms, sum);
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r) {
      R* const row = reinterpret_cast<R*>(byte_offset(c, r * block.c.stride[0]));
      V y = interleaved(sum.re[r], sum.im[r]);
      if (!first) y = nnk::load<N>(row) + y;
      nnk::store(row, y);
    }
  }

  // Adds what waits from earlier slices; then writes the results, or lets the sums wait.
  static NNK_APART void finish(const Block& block, int i, int j, int rows, int columns, bool first,
                               bool last) {
    NNK_NO_UNROLL
    for (int r = 0; r < rows; ++r) {
      R* const micro = block.micro.data + r * N;
      const Index row = block.first_m + i + r;
      R* const wait = InPlace ? reinterpret_cast<R*>(block.c.at(NNK_HERE, row, block.first_n + j))
                              : block.waiting.data + (i + r) * block.waiting_columns + 2 * j;
      V sum = nnk::load<N>(micro);
      if (!first) sum = nnk::load_partial<N>(wait, 2 * columns, R()) + sum;
      if (direct || !last) {
        nnk::store_partial(wait, sum, 2 * columns);
      } else {
        nnk::store(micro, sum);
        const S* const sums = reinterpret_cast<const S*>(micro);
        if constexpr (Form::scatters) block.form.scatter(block, sums, row, j, columns);
        else write(block, row, block.first_n + j, columns, sums);
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
