// Matrix product C = epilogue(A B) of a small matrix, or of many: one a block, of one thread.
//
// Nothing is packed that can be read where it lies, for in a matrix of 32 x 32 each element is used
// 32 times and no more: B by rows of SIMD registers where its columns are adjacent (else as packed
// panels), A an element at a time whatever its strides. MicroM rows of N sums stay in registers for
// all terms: each sum is a chain of fused multiply-adds in order, as in matmul_packed.cuh.
//
// Matrices come from memory faster than a processor asks for them by itself, so those of a later
// block are fetched while the sums of this one are made. Results that go past the caches wait in
// scratch memory until some rows of C are done, and are then written by whole cache lines, wherever
// those begin: a line that is written in pieces is read from memory first.
#pragma once
#include "nnk/matmul_args.cuh"
#include "nnk/matmul_epilogue.cuh"
#include "nnk/matmul_operands.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// TA, TB, TC: element types; S: the accumulator's
// MicroM: a power of two; N: two SIMD registers, or one
// PackB: B is packed; then FastB is rows_fast or columns_fast, and UnitB says whether elements
// along that axis are adjacent
// Streaming: C, of which the elements of a row are adjacent, goes past the caches
template <class TA, class TB, class TC, class S, class Index, int BatchRank, int MicroM, int N,
          bool PackB, int FastB, bool UnitB, bool Streaming, class Epilogue>
struct MatmulSmall {
  static_assert(is_power_of_two(MicroM), "rows are left over by halves");
  static constexpr int register_lanes = Vec<S, N>::lanes;
  static constexpr bool is_plain = is_same<Epilogue, PlainEpilogue>;

  struct Grid {
    int32 ahead;        // how many blocks later what is fetched now is used; 0: nothing is
    int32 staged_rows;  // of C that are written together
  };
  using Args = ProductArgs<TA, TB, TC, Index, BatchRank, Epilogue, Grid>;

  // What a block works on.
  struct Block {
    View<const TA, 2, Index> a;
    View<const TB, 2, Index> b;
    View<TC, 2, Index> c;
    int first_row;  // of C, to which c.data belongs
    Shared<S> packed_b, micro;
    typename Args::EpilogueOf epilogue;
    bool rows_of_c_adjacent;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    Index offset[Args::arrays];
    decode_batch(args.batch, args.batch_stride, Index(group.block()), offset);
    const int packed = PackB ? int(args.k) * round_up(int(args.n)) : 0;
    const int sums = packed * int(sizeof(S)), stage = sums + MicroM * N * int(sizeof(S));
    Block block{args.matrix_a(offset, args.k),
                args.matrix_b(offset, args.k),
                args.matrix_c(offset),
                0,
                group.template dynamic_shared<S>(0, packed),
                group.template dynamic_shared<S>(sums, MicroM * N),
                args.epilogue_of(offset),
                args.stride_c[1] == Index(sizeof(TC))};
    Fetch fetch;
    if (args.grid.ahead > 0 && group.block() + args.grid.ahead < group.blocks()) {
      Index later[Args::arrays];
      decode_batch(args.batch, args.batch_stride, Index(group.block() + args.grid.ahead), later);
      if (later[0] != offset[0]) fetch.add(block.a, later[0] - offset[0]);
      if (later[1] != offset[1]) fetch.add(block.b, later[1] - offset[1]);
      if constexpr (Streaming) fetch_ends(block.c, later[2] - offset[2]);
    }
    if constexpr (PackB) pack_b(block);
    const int m = int(args.m), n = int(args.n);
    if constexpr (Streaming) {
      const auto c = block.c;
      const int most = args.grid.staged_rows;
      const auto staged = group.template dynamic_shared<TC>(stage, most * n);
      block.c.data = staged.data;
      block.c.stride[0] = Index(n) * Index(sizeof(TC));
      for (int i = 0; i < m; i += most) {
        const int rows = m - i < most ? m - i : most;
        block.first_row = i;
        make_rows(block, i, i + rows, n, fetch);
        write_staged(c, staged.data, i, rows);
      }
    } else {
      make_rows(block, 0, m, n, fetch);
    }
  }

 private:
  static NNK_FN int round_up(int n) { return (n + N - 1) / N * N; }

  // ---- fetching ---------------------------------------------------------------------------

  // Cache lines, from two places in turn.
  struct Lines {
    const char *next, *after;
    int64 step;
    NNK_FN void fetch() {
      prefetch<1>(next);
      const char* const then = next + step;
      next = after;
      after = then;
    }
  };
  // The memory that is still to be fetched into the cache: at most two pieces, a line of each in
  // turn: with one after the other, 1024 products of 32 x 32 in float32 took 405 us, by turns 358.
  struct Fetch {
    const char *next[2] = {nullptr, nullptr}, *end[2] = {nullptr, nullptr};

    // All that a matrix spans, `later` bytes on from it, unless most of that is gaps.
    template <class T> NNK_FN void add(const View<const T, 2, Index>& matrix, Index later) {
      int64 low = 0, high = 0;
      NNK_UNROLL
      for (int axis = 0; axis < 2; ++axis) {
        const int64 last = int64(matrix.shape[axis] - 1) * matrix.stride[axis];
        (last < 0 ? low : high) += last;
      }
      if (high - low >= 2 * int64(matrix.shape[0]) * matrix.shape[1] * int64(sizeof(T))) return;
      const int piece = next[0] == nullptr ? 0 : 1;
      next[piece] = reinterpret_cast<const char*>(matrix.data) + later + low;
      end[piece] = next[piece] + (high - low);
    }
    // The next `lines` of them; where there are none left, those at `there` again and again.
    NNK_FN Lines take(int lines, const char* there) {
      const bool has[2] = {next[0] < end[0], next[1] < end[1]};
      if (has[0] && has[1]) {
        const Lines taken{next[0], next[1], cache_line};
        next[0] += lines / 2 * cache_line;
        next[1] += lines / 2 * cache_line;
        return taken;
      }
      if (!has[0] && !has[1]) return {there, there, 0};
      const char*& left = next[has[0] ? 0 : 1];
      left += lines * cache_line;
      return {left - lines * cache_line, left - (lines - 1) * cache_line, 2 * cache_line};
    }
  };

  // ---- packing ----------------------------------------------------------------------------

  // Panels of N columns, each as [k][column].
  static NNK_FN void pack_b(const Block& block) {
    const auto& b = block.b;
    const int depth = int(b.shape[0]), n = int(b.shape[1]);
    if constexpr (FastB == columns_fast || !UnitB) {
      for (int j = 0; j < n; j += N)
        for (int k = 0; k < depth; ++k) {
          const Line<const TB, Index, UnitB ? unit_step : any_step> row{b.at(NNK_HERE, k, j),
                                                                        Index(n - j), b.stride[1]};
          block.packed_b.store_vec(j * depth + k * N, loaded<S, false, N>(row, 0, n - j));
        }
    } else {
      for (int j = 0; j < n; j += square)
        for (int k = 0; k < depth; k += square) pack_transposed(block, k, j);
    }
  }
  // The square that is transposed in registers.
  static constexpr int square = transposed_lanes<S, N>();
  static NNK_FN void pack_transposed(const Block& block, int k, int j) {
    const auto& b = block.b;
    const int depth = int(b.shape[0]), n = int(b.shape[1]);
    Vec<S, square> x[square];
    NNK_UNROLL
    for (int i = 0; i < square; ++i) {
      // Past the last column, any other will do: what it gives is not written.
      const Line<const TB, Index, unit_step> line{b.at(NNK_HERE, k, j + i < n ? j + i : j),
                                                  Index(depth - k), b.stride[0]};
      x[i] = loaded<S, false, square>(line, 0, depth - k);
    }
    transpose(x);
    const int panel = j / N * N, at = panel * depth + k * N + j - panel;
    const int rows = depth - k < square ? depth - k : square;
    if (rows == square) {
      NNK_UNROLL
      for (int i = 0; i < square; ++i) block.packed_b.store_vec(at + i * N, x[i]);
    } else {
      NNK_UNROLL
      for (int i = 0; i < square; ++i)
        if (i < rows) block.packed_b.store_vec(at + i * N, x[i]);
    }
  }

  // ---- multiplying ------------------------------------------------------------------------

  // Rows [first, end) of C.
  static NNK_FN void make_rows(const Block& block, int first, int end, int n, Fetch& fetch) {
    for (int j = 0; j < n; j += N) {
      const int columns = n - j < N ? n - j : N;
      for (int i = first, rows; i < end; i += rows) {
        rows = multiply_rows<MicroM>(block, i, end, j, columns, fetch);
        if (!is_plain || !block.rows_of_c_adjacent) write(block, i, j, rows, columns);
      }
    }
  }

  // As many rows as there are, a power of two; how many.
  template <int Rows>
  static NNK_FN int multiply_rows(const Block& block, int i, int end, int j, int columns,
                                  Fetch& fetch) {
    if constexpr (Rows > 1)
      if (end - i < Rows) return multiply_rows<Rows / 2>(block, i, end, j, columns, fetch);
    if (columns == N) multiply<Rows, N, true>(block, i, j, columns, fetch);
    else if (N == register_lanes || columns > register_lanes)
      multiply<Rows, N, false>(block, i, j, columns, fetch);
    else multiply<Rows, register_lanes, false>(block, i, j, columns, fetch);
    return Rows;
  }

  template <int Rows, int Columns, bool Whole>
  static NNK_FN void multiply(const Block& block, int i, int j, int columns, Fetch& fetch) {
    using V = Vec<S, Columns>;
    V sum[Rows];
    NNK_UNROLL
    for (int r = 0; r < Rows; ++r) sum[r] = V::splat(S());
    const int depth = int(block.a.shape[1]);
    const char* a[(Rows + 3) / 4];
    NNK_UNROLL
    for (int r = 0; r < Rows; r += 4)
      a[r / 4] = reinterpret_cast<const char*>(block.a.at(NNK_HERE, i + r, 0));
    const char* b = reinterpret_cast<const char*>(block.b.at(NNK_HERE, 0, j));
    const int64 row_of_a = block.a.stride[0], step_of_a = block.a.stride[1],
                row_of_b = block.b.stride[0];
    Lines later = fetch.take(depth, b);
    for (int k = 0; k < depth; ++k) {
      V terms;
      if constexpr (PackB) {
        terms = block.packed_b.template load_vec<Columns>(j * depth + k * N);
      } else {
        const Line<const TB, Index, unit_step> row{reinterpret_cast<const TB*>(b), Index(columns),
                                                   Index(sizeof(TB))};
        if constexpr (Whole) terms = convert<S>(row.template load<Columns>(0));
        else terms = convert<S>(row.template load_partial<Columns>(0, columns, TB()));
        b += row_of_b;
      }
      later.fetch();  // one for each term: twice as many at once made float64 up to half slower
      NNK_UNROLL
      for (int r = 0; r < Rows; ++r) {
        const S x = convert_scalar<S>(
            nnk::load<1>(reinterpret_cast<const TA*>(a[r / 4] + r % 4 * row_of_a))[0]);
        sum[r] = fma(V::splat(x), terms, sum[r]);
      }
      NNK_UNROLL
      for (int r = 0; r < Rows; r += 4) a[r / 4] += step_of_a;
    }
    if (is_plain && block.rows_of_c_adjacent) {
      NNK_UNROLL
      for (int r = 0; r < Rows; ++r)
        store_adjacent<Whole>(block, i + r, j, columns, convert<TC>(sum[r]));
    } else {
      NNK_UNROLL
      for (int r = 0; r < Rows; ++r) block.micro.store_vec(r * N, sum[r]);
    }
  }
  template <bool Whole, int Columns>
  static NNK_FN void store_adjacent(const Block& block, int row, int column, int count,
                                    const Vec<TC, Columns>& y) {
    const Line<TC, Index, unit_step> line{block.c.at(NNK_HERE, row - block.first_row, column),
                                          Index(count), block.c.stride[1]};
    if constexpr (Whole) line.store(Index(0), y);
    else line.store_partial(Index(0), y, count);
  }

  // From `block.micro`, by a loop: an epilogue for every row of every kind of micro-tile would
  // compile for seconds.
  static NNK_FN void write(const Block& block, int i, int j, int rows, int columns) {
    NNK_NO_UNROLL
    for (int r = 0; r < rows; ++r) {
      const Index row = Index(i) + r, column = j;
      const auto y = convert<TC>(
          block.epilogue(block.micro.template load_vec<N>(r * N), row, column, columns));
      if (block.rows_of_c_adjacent && columns == N) {
        store_adjacent<true>(block, i + r, j, columns, y);
      } else if (block.rows_of_c_adjacent) {
        store_adjacent<false>(block, i + r, j, columns, y);
      } else {
        const Line<TC, Index> line{block.c.at(NNK_HERE, row - block.first_row, column),
                                   Index(columns), block.c.stride[1]};
        line.store_partial(Index(0), y, columns);
      }
    }
  }

  // ---- writing past the caches ----------------------------------------------------------------

  // Rows of C from scratch memory, where they have no gaps: as one run if C has none either.
  static NNK_FN void write_staged(const View<TC, 2, Index>& c, const TC* from, int first,
                                  int rows) {
    const int n = int(c.shape[1]);
    const bool dense = c.stride[0] == Index(n) * Index(sizeof(TC));
    const int runs = dense ? 1 : rows, length = dense ? rows * n : n;
    for (int r = 0; r < runs; ++r)
      write_run(c.at(NNK_HERE, first + r, 0), from + int64(r) * length, length);
  }
  // The lines of which a later matrix without gaps has a part: its stores would wait for them.
  static NNK_FN void fetch_ends(const View<TC, 2, Index>& c, Index later) {
    const Index row = c.shape[1] * Index(sizeof(TC));
    const TC* const first = byte_offset(c.data, later);
    if (c.stride[0] != row || reinterpret_cast<uint64>(first) % cache_line == 0) return;
    prefetch<1>(first);
    prefetch<1>(byte_offset(first, c.shape[0] * row - 1));
  }
  // Adjacent elements. Of a line of which others write a part, only what is there is written.
  static NNK_FN void write_run(TC* to, const TC* from, int count) {
    constexpr int of_line = cache_line / int(sizeof(TC));
    const int past = int(reinterpret_cast<uint64>(to) % cache_line);
    int i = (past == 0 ? 0 : cache_line - past) / int(sizeof(TC));
    if (i > count) i = count;
    if (i > 0) store_partial(to, load_partial<of_line>(from, i, TC()), i);
    for (; i + of_line <= count; i += of_line) store_streaming(to + i, load<of_line>(from + i));
    if (i < count)
      store_partial(to + i, load_partial<of_line>(from + i, count - i, TC()), count - i);
  }
};

}  // namespace nnk
