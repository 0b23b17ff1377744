// A tile of C = A B by the threads of a block, inside a user's kernel.
//
//   using Tile = nnk::SimtTile<float, float, float, 64, 64>;              ordinary arithmetic
//   using Tile = nnk::TensorTile<nnk::MatrixCore<nnk::half>, float, 64, 64>;   matrix cores
//   nnk::gemm_tile<Tile>(group, a, b, c, row, column);
//   nnk::gemm_tile<Tile>(group, a, b, c, row, column, [=](float sum, int i, int j) { ... });
//
// a is m x k, b is k x n and c is m x n: views of any strides (part.cuh: matrix(), transposed()).
// The block makes the tile_m x tile_n elements of c from (row * tile_m, column * tile_n) on, of
// which those that do not exist are left out. It has Tile::threads threads. The last argument, if
// there is one, gives what is written for the sum of element (i, j) of c. Sums are float32 for
// half, bfloat16 and float.
//
// Shared memory: Tile::shared_bytes bytes of the dynamic shared memory of the launch, from byte
// `first_byte` on, the last argument after the function, a multiple of 16. They are free again
// after the next barrier.
//
// It is the kernel of nnkernels.matmul (nnk/matmul_simt.cuh, nnk/matmul_tensor.cuh), and
// nnk/block/part.cuh has the rules of calls.
#pragma once
#include "nnk/block/part.cuh"
#include "nnk/matmul_simt.cuh"
#include "nnk/matmul_tensor.cuh"

namespace nnk {

// By a function of the user, of one sum and its row and column in C.
template <class F> struct FunctionEpilogue {
  static constexpr int operands = 0;
  struct Operands {};
  template <class Index> struct Args {
    const F* function;
    Index first_row, first_column;  // of the tile
  };
  template <class Index> struct Of {
    const Args<Index>& args;
    NNK_FN Of(const Operands&, const Args<Index>& a, const Index*, Index, Index) : args(a) {}
    template <class V>
    NNK_FN V operator()(const V& sums, Index row, Index column, int count) const {
      V y = sums;
      NNK_UNROLL
      for (int i = 0; i < V::size; ++i)
        if (i < count)
          y.set(i, (*args.function)(sums[i], int(args.first_row + row),
                                    int(args.first_column + column) + i));
      return y;
    }
  };
};

// By the ordinary arithmetic, for all floating types. A thread makes MicroM x MicroN sums; slices
// of TileK terms go through shared memory.
// FastA, FastB: columns_fast where the columns of an operand are adjacent in memory, rows_fast
//               where its rows are (transposed()): right either way, and faster so
// VectorA, VectorB: so many neighbours along that axis are read at once, if operands are aligned to
//                   that and the extents along it are multiples
template <class TA, class TB, class TC, int TileM, int TileN, int TileK = 16, int MicroM = 4,
          int MicroN = 4, int FastA = columns_fast, int FastB = columns_fast, int VectorA = 1,
          int VectorB = 1>
struct SimtTile {
  using A = TA;
  using B = TB;
  using C = TC;
  using Sum = Accumulator<TA>;
  template <class Epilogue>
  using Product = MatmulSimt<TA, TB, TC, Sum, int32, 1, TileM, TileN, TileK, MicroM, MicroN, 1,
                             VectorA, VectorB, FastA, FastB, false, false, false, Epilogue>;
  static constexpr int tile_m = TileM, tile_n = TileN;
  static constexpr int threads = Product<PlainEpilogue>::threads;
  static constexpr int shared_bytes = Product<PlainEpilogue>::of_team * int(sizeof(Sum));
};

// On matrix cores, with operands of one type: nnk::MatrixCore<nnk::half> (or bfloat16) of
// platform/gpu.cuh, for the GPU that the kernel is compiled for. A warp makes WarpM x WarpN sums.
// WayA, WayB: how an operand comes to shared memory (nnk/matmul_tensor_operand.cuh).
//   single_terms, the default: element by element, from any memory, of any strides
//   vector_terms, Bytes 16: from any memory, of adjacent terms, whose lines are aligned to 16 bytes
//                           and whole multiples of them
//   async_terms, Bytes 16:  the same, asynchronously, from global memory alone
//   vector_rows, async_rows: the same of adjacent rows of A, or columns of B
// Terms are the columns of A, and the rows of B.
template <class Core, class TC, int TileM, int TileN, int TileK = 32, int WarpM = 32,
          int WarpN = 32, int Stages = 2, int WayA = single_terms, int WayB = single_terms,
          int Bytes = 16>
struct TensorTile {
  using A = typename Core::Element;
  using B = typename Core::Element;
  using C = TC;
  using Sum = typename Core::Sum;
  template <class Epilogue>
  using Product = MatmulTensor<A, B, TC, Sum, int32, 1, Core, TileM, TileN, TileK, WarpM, WarpN,
                               Stages, WayA, Bytes, WayB, Bytes, false, Epilogue>;
  static constexpr int tile_m = TileM, tile_n = TileN;
  static constexpr int threads = Product<PlainEpilogue>::threads;
  static constexpr int shared_bytes = Stages * Product<PlainEpilogue>::stage * int(sizeof(A));
};

// The same with an epilogue of nnk/matmul_epilogue.cuh.
template <class Tile, class Epilogue, int Threads>
NNK_FN void gemm_tile_with(const Group<Threads>& group,
                           const View<const typename Tile::A, 2, int32>& a,
                           const View<const typename Tile::B, 2, int32>& b,
                           const View<typename Tile::C, 2, int32>& c, int row, int column,
                           const typename Epilogue::template Args<int32>& epilogue,
                           int first_byte) {
  static_assert(Threads == Tile::threads, "the block has Tile::threads threads");
  using Product = typename Tile::template Product<Epilogue>;
  check_access(0, a.shape[1], b.shape[0], NNK_HERE);
  check_access(0, c.shape[0], a.shape[0], NNK_HERE);
  check_access(0, c.shape[1], b.shape[1], NNK_HERE);
  const int first_m = row * Tile::tile_m, first_n = column * Tile::tile_n;
  group.barrier();
  if (first_m >= c.shape[0] || first_n >= c.shape[1]) return;
  typename Product::Args args{};
  args.a = byte_offset(a.data, first_m * a.stride[0]);
  args.b = byte_offset(b.data, first_n * b.stride[1]);
  args.c = byte_offset(c.data, first_m * c.stride[0] + first_n * c.stride[1]);
  args.m = c.shape[0] - first_m;
  args.n = c.shape[1] - first_n;
  args.k = args.terms = a.shape[1];
  NNK_UNROLL
  for (int axis = 0; axis < 2; ++axis) {
    args.stride_a[axis] = a.stride[axis];
    args.stride_b[axis] = b.stride[axis];
    args.stride_c[axis] = c.stride[axis];
  }
  // A grid of one tile.
  args.grid.tiles.divisor = args.grid.tiles_of_band.divisor = 1;
  args.grid.batches_of_split.divisor = args.batch[0].divisor = 1;
  args.grid.tiles_m = args.grid.band = args.grid.batches = 1;
  args.epilogue = epilogue;
  PartOfBlock<Threads> part(group, 0, first_byte);
  Product::run(part, args);
}

template <class Tile, int Threads, class TA, class TB>
NNK_FN void gemm_tile(const Group<Threads>& group, const View<TA, 2, int32>& a,
                      const View<TB, 2, int32>& b, const View<typename Tile::C, 2, int32>& c,
                      int row, int column) {
  gemm_tile_with<Tile, PlainEpilogue>(group, read_only(a), read_only(b), c, row, column, {}, 0);
}
template <class Tile, int Threads, class TA, class TB, class F>
NNK_FN void gemm_tile(const Group<Threads>& group, const View<TA, 2, int32>& a,
                      const View<TB, 2, int32>& b, const View<typename Tile::C, 2, int32>& c,
                      int row, int column, const F& function, int first_byte = 0) {
  gemm_tile_with<Tile, FunctionEpilogue<F>>(group, read_only(a), read_only(b), c, row, column,
                                            {&function, row * Tile::tile_m, column * Tile::tile_n},
                                            first_byte);
}

}  // namespace nnk
