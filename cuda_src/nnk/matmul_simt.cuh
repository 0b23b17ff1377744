// Matrix product C = epilogue(A B) by the ordinary arithmetic of a GPU, over any strides: what its
// matrix cores do not take.
//
// A block makes a tile of C, or each of its teams of threads that of another matrix of a batch of
// small ones. Slices of TileK terms of A and B pass through registers to one of two buffers of
// shared memory, so that one barrier a slice is enough and loads have the time of a slice. A
// thread keeps MicroM x MicroN sums in registers, as groups of 16 bytes by 16 bytes a group's width
// of all threads apart: what a warp reads of a row of shared memory lies side by side.
//
// The terms of every sum are added in order, whatever the tile and the strides.
#pragma once
#include "nnk/matmul_args.cuh"
#include "nnk/matmul_epilogue.cuh"
#include "nnk/matmul_operands.cuh"
#include "nnk/matmul_tile_copy.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// Which of the threads of a warp are neighbours along m and n: 4 x 8 of 32, so that they read as
// little of both tiles as can be.
template <int ThreadsM, int ThreadsN> struct ThreadGrid {
  static constexpr bool in_warps = is_power_of_two(ThreadsM) && is_power_of_two(ThreadsN);
  static constexpr int least(int a, int b) { return a < b ? a : b; }
  static constexpr int few_n = least(ThreadsN, 8);
  static constexpr int lanes_m = in_warps ? least(ThreadsM, warp_width / few_n) : ThreadsM;
  static constexpr int lanes_n = in_warps ? least(ThreadsN, warp_width / lanes_m) : ThreadsN;
  static constexpr int warps_m = ThreadsM / lanes_m;

  static NNK_FN int m(int rank) {
    const int warp = rank / (lanes_m * lanes_n), lane = rank % (lanes_m * lanes_n);
    return warp % warps_m * lanes_m + lane / lanes_n;
  }
  static NNK_FN int n(int rank) {
    const int warp = rank / (lanes_m * lanes_n), lane = rank % (lanes_m * lanes_n);
    return warp / warps_m * lanes_n + lane % lanes_n;
  }
};

// TA, TB, TC: element types; S: the accumulator's
// VectorA, VectorB: neighbours that are loaded at once, along the axis FastA, FastB
// UnitC: columns of C are adjacent, and lie at multiples of a group of them
// ConjugateA, ConjugateB: for gradients of complex products
// Form: where tiles come from and sums go: matrices, or windows (conv_tile_copy.cuh)
template <class TA, class TB, class TC, class S, class Index, int BatchRank, int TileM, int TileN,
          int TileK, int MicroM, int MicroN, int Teams, int VectorA, int VectorB, int FastA,
          int FastB, bool UnitC, bool ConjugateA, bool ConjugateB, class Epilogue,
          class Form = MatrixTiles>
struct MatmulSimt {
  static constexpr int threads_m = TileM / MicroM, threads_n = TileN / MicroN;
  static constexpr int team = threads_m * threads_n, threads = Teams * team;
  // Two blocks of 256 threads at once, or as many registers as threads of smaller ones need: the
  // more for long addresses and many single elements.
  static constexpr int register_budget = threads >= 256                               ? 128
                                         : sizeof(Index) > 4 || VectorA* VectorB == 1 ? 232
                                                                                      : 168;
  using Grid = ThreadGrid<threads_m, threads_n>;
  using LayoutA = TileLayout<S, TileK, TileM, VectorA, FastA == columns_fast, team>;
  using LayoutB = TileLayout<S, TileK, TileN, VectorB, FastB == rows_fast, team>;
  static constexpr int buffer = LayoutA::elements + LayoutB::elements;
  // Several teams of a warp read vectors that begin in banks of their own: the buffers of a team
  // are as many words apart as it has threads, counted around the 32 banks.
  static constexpr int words = sizeof(S) / 4;
  static constexpr int apart = (team / 4 * 4 + 32 - 2 * buffer * words % 32) % 32 / words;
  static constexpr int of_team = 2 * buffer + (Teams > 1 && team < 32 ? apart : 0);

  // Sums that lie side by side: 16 bytes of them, if the micro-tile has so many.
  static constexpr int side(int micro) {
    int n = sizeof(S) < 16 ? 16 / int(sizeof(S)) : 1;
    while (micro % n != 0) n /= 2;
    return n;
  }
  static constexpr int side_m = side(MicroM), side_n = side(MicroN);
  static constexpr int groups_m = MicroM / side_m, groups_n = MicroN / side_n;
  using V = Vec<S, side_n>;

  using Args =
      typename Form::template Args<ProductArgs<TA, TB, TC, Index, BatchRank, Epilogue, BandGrid>,
                                   Index>;
  using Tables = typename Form::template Tables<Index, TileK, team>;

  struct Sums { V of[MicroM][groups_n]; };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const auto memory = group.template dynamic_shared<S>(0, Teams * of_team);
    const int own_team = Teams > 1 ? group.rank() / team : 0;
    const int rank = Teams > 1 ? group.rank() % team : group.rank();
    const int stack = args.grid.tiles.divide(int32(group.block()));
    int tile_row, tile_column;
    args.grid.place(int32(group.block()) - stack * args.grid.tiles.divisor, tile_row, tile_column);
    const Index first_m = Index(tile_row) * TileM, first_n = Index(tile_column) * TileN;
    // Beyond the last matrix, a team makes the last one again, and does not write it.
    const int wanted = stack * Teams + own_team;
    const bool idle = Teams > 1 && wanted >= args.grid.batches;
    const int batch = idle ? args.grid.batches - 1 : wanted;
    Index offset[Args::arrays];
    decode_batch(args.batch, args.batch_stride, Index(batch), offset);

    const Index split = Index(args.grid.batches_of_split.divide(batch));
    const Index terms = terms_of_split(args, split);
    Tables tables(group, args, Teams * of_team * int(sizeof(S)) + own_team * Tables::bytes, rank);
    auto copy_a = tables.template copy_a<S, LayoutA, ConjugateA>(
        args, byte_offset(args.a, offset[0]), first_m, terms);
    auto copy_b = tables.template copy_b<S, LayoutB, ConjugateB>(
        args, byte_offset(args.b, offset[1]), first_n, terms);
    Sums sums;
    NNK_UNROLL
    for (int i = 0; i < MicroM; ++i) {
      NNK_UNROLL
      for (int j = 0; j < groups_n; ++j) sums.of[i][j] = V::splat(S());
    }
    const int at_m = Grid::m(rank) * side_m, at_n = LayoutA::elements + Grid::n(rank) * side_n;
    const int buffers = own_team * of_team;
    // Teams of different splits have the same number of slices, some of them of zeros.
    Index left = Teams > 1 ? args.terms : terms;
    if (left > 0) {
      tables.begin(group, split * args.terms);
      fetch(copy_a, copy_b);
      put(copy_a, copy_b, memory, buffers);
      tables.look_up();
      group.barrier();
      for (int at = 0;; at = buffer - at) {
        fetch(copy_a, copy_b);  // after the last slice, zeros
        multiply(memory, buffers + at + at_m, buffers + at + at_n, sums);
        left -= TileK;
        if (left <= 0) break;
        put(copy_a, copy_b, memory, buffers + buffer - at);
        tables.look_up();
        group.barrier();
      }
    }
    if (idle) return;
    const View<TC, 2, Index> c = args.matrix_c(offset);
    const auto epilogue = args.epilogue_of(offset);
    write(tables, epilogue, c, first_m + at_m, first_n + at_n - LayoutA::elements, sums);
  }

 private:
  template <class A, class B> static NNK_FN void fetch(A& copy_a, B& copy_b) {
    copy_a.load();
    copy_b.load();
  }
  template <class A, class B>
  static NNK_FN void put(const A& copy_a, const B& copy_b, const Shared<S>& memory, int at) {
    copy_a.store(memory, at);
    copy_b.store(memory, at + LayoutA::elements);
  }

  static constexpr int in_a_row = TileK % terms_in_a_row == 0 ? terms_in_a_row : TileK;
  static NNK_FN void multiply(const Shared<S>& memory, int a, int b, Sums& sums) {
    NNK_NO_UNROLL
    for (int k = 0; k < TileK; k += in_a_row)
      multiply_terms(memory, a + k * LayoutA::row, b + k * LayoutB::row, sums);
  }
  static NNK_FN void multiply_terms(const Shared<S>& memory, int a, int b, Sums& sums) {
    NNK_UNROLL
    for (int k = 0; k < in_a_row; ++k) {
      Vec<S, side_m> rows[groups_m];
      V columns[groups_n];
      NNK_UNROLL
      for (int i = 0; i < groups_m; ++i)
        rows[i] = memory.template load_vec<side_m>(a + k * LayoutA::row + i * threads_m * side_m);
      NNK_UNROLL
      for (int j = 0; j < groups_n; ++j)
        columns[j] =
            memory.template load_vec<side_n>(b + k * LayoutB::row + j * threads_n * side_n);
      NNK_UNROLL
      for (int i = 0; i < MicroM; ++i) {
        const V row = V::splat(rows[i / side_m][i % side_m]);
        NNK_UNROLL
        for (int j = 0; j < groups_n; ++j) sums.of[i][j] = fma(row, columns[j], sums.of[i][j]);
      }
    }
  }

  static NNK_FN void write(const Tables& tables,
                           const typename Epilogue::template Of<Index>& epilogue,
                           const View<TC, 2, Index>& c, Index first_m, Index first_n,
                           const Sums& sums) {
    const typename Tables::template Columns<groups_n, UnitC ? side_n : 1, side_n> columns(
        tables, first_n, threads_n * side_n);
    NNK_UNROLL
    for (int i = 0; i < MicroM; ++i) {
      const Index row = first_m + (i / side_m * threads_m * side_m + i % side_m);
      if (row >= c.shape[0]) continue;
      const Index place = tables.place_of_row(row);
      NNK_UNROLL
      for (int j = 0; j < groups_n; ++j) {
        const Index column = first_n + j * threads_n * side_n;
        if (column >= c.shape[1]) continue;
        TC* const to = byte_offset(c.at(NNK_HERE, row, column), place);
        const Index left = c.shape[1] - column;
        const int count = UnitC || left >= side_n ? side_n : int(left);
        const auto y = convert<TC>(epilogue(sums.of[i][j], row, column, count));
        if constexpr (Form::scatters_columns) columns.store(to, j, y, count);
        else store(to, left, c.stride[1], y, count);
      }
    }
  }
  static NNK_FN void store(TC* to, Index left, Index step, const Vec<TC, side_n>& y, int count) {
    if constexpr (UnitC) {
      const Line<TC, Index, unit_step> line{to, left, step};
      line.store(Index(0), y);
    } else {
      const Line<TC, Index> line{to, left, step};
      line.store_partial(Index(0), y, count);
    }
  }
};

}  // namespace nnk
