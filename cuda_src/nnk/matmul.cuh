// Matrix product C = epilogue(A B), two-dimensional or batched, over any strides: the plain tiled
// form of GPUs (that of a CPU is matmul_packed.cuh).
//
// A block makes a tile_m x tile_n tile of C. For every slice of tile_k it copies what there is of a
// tile of A and of B to shared memory, in the accumulator's type; then every thread multiplies its
// micro-tiles of micro_m x N. A micro-tile at an edge multiplies whatever lies past it, and does
// not write that. A thread with one micro-tile keeps it in registers; with several (few threads)
// they wait in shared memory between the slices.
#pragma once
#include "nnk/matmul_epilogue.cuh"
#include "nnk/matmul_operands.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// TA, TB, TC: element types; S: the accumulator's
// FastA, FastB: rows_fast or columns_fast
// ConjugateA, ConjugateB: for gradients of complex products
template <class TA, class TB, class TC, class S, class Index, int BatchRank, int TileM, int TileN,
          int TileK, int MicroM, int N, int Threads, int FastA, int FastB, bool ConjugateA,
          bool ConjugateB, class Epilogue>
struct Matmul {
  using V = Vec<S, N>;
  static constexpr int register_budget = sizeof(S) > 4 ? 128 : 0;
  static constexpr int micro_rows = TileM / MicroM, micro_columns = TileN / N;
  static constexpr int micro_tiles = micro_rows * micro_columns;
  static constexpr int tiles_of_thread = (micro_tiles + Threads - 1) / Threads;
  static constexpr int elements_a = TileK * TileM, elements_b = TileK * TileN;
  static constexpr int elements_waiting = tiles_of_thread > 1 ? TileM * TileN : 0;

  struct Args : Epilogue::Operands {
    const TA* a;
    const TB* b;
    TC* c;
    int64 tiles_m, tiles_n, blocks_of_split;
    Index m, n, k, terms;  // those of one split
    Divisor<Index> batch[BatchRank];
    Index batch_stride[3 + Epilogue::operands][BatchRank];  // of a, b, c and its own, in bytes
    Index stride_a[2], stride_b[2], stride_c[2];
    typename Epilogue::template Args<Index> epilogue;
  };

  struct Accumulator { V row[MicroM]; };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const auto tile_a = group.template dynamic_shared<S>(0, elements_a);
    const auto tile_b = group.template dynamic_shared<S>(elements_a * int(sizeof(S)), elements_b);
    const auto waiting = group.template dynamic_shared<S>(
        (elements_a + elements_b) * int(sizeof(S)), elements_waiting);

    const Index terms = terms_of_block(args, group.block());
    const int64 tiles = args.tiles_m * args.tiles_n;
    const int64 batch = group.block() / tiles, tile = group.block() - batch * tiles;
    const Index first_m = Index(tile / args.tiles_n) * TileM;
    const Index first_n = Index(tile - tile / args.tiles_n * args.tiles_n) * TileN;
    Index offset[3 + Epilogue::operands];
    decode_batch(args.batch, args.batch_stride, Index(batch), offset);
    const View<const TA, 2, Index> a{
        byte_offset(args.a, offset[0]), {args.m, terms}, {args.stride_a[0], args.stride_a[1]}};
    const View<const TB, 2, Index> b{
        byte_offset(args.b, offset[1]), {terms, args.n}, {args.stride_b[0], args.stride_b[1]}};
    const View<TC, 2, Index> c{
        byte_offset(args.c, offset[2]), {args.m, args.n}, {args.stride_c[0], args.stride_c[1]}};
    const typename Epilogue::template Of<Index> epilogue(args, args.epilogue, offset + 3, args.m,
                                                         args.n);

    Accumulator sum;
    clear(sum);
    for (Index first_k = 0; first_k < terms; first_k += TileK) {
      copy_a(group, a, first_m, first_k, tile_a);
      copy_b(group, b, first_k, first_n, tile_b);
      group.barrier();
      const int depth = terms - first_k < TileK ? int(terms - first_k) : TileK;
      for (int i = 0; i < tiles_of_thread; ++i) {
        const int micro = group.rank() + i * Threads;
        if (micro < micro_tiles && reaches(c, first_m, first_n, micro)) {
          if constexpr (tiles_of_thread > 1) restore(waiting, micro, first_k == 0, sum);
          multiply(tile_a, tile_b, micro, depth, sum);
          if constexpr (tiles_of_thread > 1) save(waiting, micro, sum);
        }
      }
      group.barrier();
    }
    for (int i = 0; i < tiles_of_thread; ++i) {
      const int micro = group.rank() + i * Threads;
      if (micro < micro_tiles && reaches(c, first_m, first_n, micro)) {
        if constexpr (tiles_of_thread > 1) restore(waiting, micro, terms == 0, sum);
        write(epilogue, c, first_m + micro / micro_columns * MicroM,
              first_n + micro % micro_columns * N, sum);
      }
    }
  }

 private:
  // Whether a micro-tile has any element of C.
  static NNK_FN bool reaches(const View<TC, 2, Index>& c, Index first_m, Index first_n, int micro) {
    return first_m + micro / micro_columns * MicroM < c.shape[0] &&
           first_n + micro % micro_columns * N < c.shape[1];
  }

  static NNK_FN void clear(Accumulator& sum) {
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r) sum.row[r] = V::splat(S());
  }

  // A's tile lies as tile[k][m]: threads multiply neighbouring m.
  static NNK_FN int slot_a(int i, int k) { return k * TileM + i; }

  template <class G>
  static NNK_FN void copy_a(G& group, const View<const TA, 2, Index>& a, Index first_m,
                            Index first_k, const Shared<S>& tile) {
    const int rows = extent<TileM>(a.shape[0] - first_m),
              depth = extent<TileK>(a.shape[1] - first_k);
    for (int e = group.rank(); e < elements_a; e += Threads) {
      const int i = FastA == rows_fast ? e % TileM : e / TileK;
      const int k = FastA == rows_fast ? e / TileM : e % TileK;
      if (i < rows && k < depth) {
        const S x = convert_scalar<S>(*a.at(NNK_HERE, first_m + i, first_k + k));
        tile.store(slot_a(i, k), ConjugateA ? conj(x) : x);
      }
    }
  }
  // B, TileK x TileN, to tile[k][n].
  template <class G>
  static NNK_FN void copy_b(G& group, const View<const TB, 2, Index>& b, Index first_k,
                            Index first_n, const Shared<S>& tile) {
    const int depth = extent<TileK>(b.shape[0] - first_k),
              columns = extent<TileN>(b.shape[1] - first_n);
    for (int e = group.rank(); e < elements_b; e += Threads) {
      const int k = FastB == rows_fast ? e % TileK : e / TileN;
      const int j = FastB == rows_fast ? e / TileK : e % TileN;
      if (k < depth && j < columns) {
        const S x = convert_scalar<S>(*b.at(NNK_HERE, first_k + k, first_n + j));
        tile.store(k * TileN + j, ConjugateB ? conj(x) : x);
      }
    }
  }
  template <int Tile> static NNK_FN int extent(Index left) {
    return left < Tile ? int(left) : Tile;
  }

  static NNK_FN void multiply(const Shared<S>& tile_a, const Shared<S>& tile_b, int micro,
                              int depth, Accumulator& sum) {
    const int at_m = micro / micro_columns * MicroM, at_n = micro % micro_columns * N;
    for (int k = 0; k < depth; ++k) {
      const V b = tile_b.template load_vec<N>(k * TileN + at_n);
      NNK_UNROLL
      for (int r = 0; r < MicroM; ++r)
        sum.row[r] = fma(V::splat(tile_a.load(slot_a(at_m + r, k))), b, sum.row[r]);
    }
  }

  static NNK_FN void restore(const Shared<S>& waiting, int micro, bool fresh, Accumulator& sum) {
    if (fresh) return clear(sum);
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r)
      sum.row[r] = waiting.template load_vec<N>((micro * MicroM + r) * N);
  }
  static NNK_FN void save(const Shared<S>& waiting, int micro, const Accumulator& sum) {
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r) waiting.store_vec((micro * MicroM + r) * N, sum.row[r]);
  }

  static NNK_FN void write(const typename Epilogue::template Of<Index>& epilogue,
                           const View<TC, 2, Index>& c, Index first_m, Index first_n,
                           const Accumulator& sum) {
    const Index left = c.shape[1] - first_n;
    if (left <= 0) return;
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r) {
      if (first_m + r < c.shape[0]) {
        const int count = left < N ? int(left) : N;
        const auto y = epilogue(sum.row[r], first_m + r, first_n, count);
        const Line<TC, Index> row{c.at(NNK_HERE, first_m + r, first_n), left, c.stride[1]};
        row.store_partial(Index(0), convert<TC>(y), count);
      }
    }
  }
};

}  // namespace nnk
