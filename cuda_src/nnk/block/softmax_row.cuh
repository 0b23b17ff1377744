// softmax, log_softmax and logsumexp of rows, by the threads of a block, inside a user's kernel.
//
//   softmax_row(group, x, y, length)     one row, by all threads
//   softmax_rows<Team>(group, x, y)      the rows of a matrix, Team threads a row
//
// It is the kernel of nnkernels.softmax (nnk/softmax.cuh), and nnk/block/part.cuh has the rules of
// calls. y may be x. A row of -inf gives NaN, as everywhere.
//
// Most: what no row is longer than. A row is then read once, and is in registers: of each thread
//       Most / Team elements, so up to some tens. With 0, the default, rows of any length are read
//       twice, maximum and sum in one reading.
// Kind: softmax_kind, log_softmax_kind or logsumexp_kind, whose y has one column
// Shared memory: some static bytes, 16 for each warp of a team; none where a team is a warp or less
#pragma once
#include "nnk/block/part.cuh"
#include "nnk/softmax.cuh"

namespace nnk {

// Step, Vector: of elements along a row, as in RowTeam
template <int Team, int Most, int Kind, int Step, int Vector, int Threads, class T, class U>
NNK_FN void softmax_of_rows(const Group<Threads>& group, const View<const T, 2, int32>& x,
                            const View<U, 2, int32>& y) {
  static_assert(Threads % Team == 0, "a block has a whole number of teams");
  static_assert(Team == Threads || (is_power_of_two(Team) && Team <= warp_width),
                "a team is the block, or a power of two of threads of a warp");
  constexpr int depth = Most > 0 ? (Most + Team * Vector - 1) / (Team * Vector) : 1;
  using Softmax = SoftmaxForward<Kind, T, U, Accumulator<T>, RowGeometry<2, 1, 1, int32>, along,
                                 Ints<Step, Step>, Vector, 1, Threads, Team,
                                 Most == 0 ? keep_none : keep_registers, depth, whole_row, false>;
  const int rows = x.shape[0], length = x.shape[1];
  if constexpr (Most > 0) check_access(0, length, Most, NNK_HERE);
  check_access(0, rows, y.shape[0], NNK_HERE);
  typename Softmax::Args args{};
  args.x = x.data;
  args.y = y.data;
  args.parts = 1;
  args.geometry.rows = rows;
  args.geometry.length = length;
  args.geometry.outer_stride[0][0] = x.stride[0], args.geometry.inner_stride[0][0] = x.stride[1];
  args.geometry.outer_stride[1][0] = y.stride[0], args.geometry.inner_stride[1][0] = y.stride[1];
  group.barrier();
  NNK_NO_UNROLL
  for (int tile = 0; tile * (Threads / Team) < rows; ++tile) {
    PartOfBlock<Threads> part(group, tile, 0);
    Softmax::run(part, args);
  }
}

// The rows of x, of any strides: row r of y is softmax of row r of x. Team: the threads that share
// a row, as many as the block has, or 1, 2, 4 ... of a warp. As many rows as there are teams are
// made at once.
template <int Team, int Most = 0, int Kind = softmax_kind, int Threads, class T, class U>
NNK_FN void softmax_rows(const Group<Threads>& group, const View<T, 2, int32>& x,
                         const View<U, 2, int32>& y) {
  softmax_of_rows<Team, Most, Kind, any_step, 1>(group, read_only(x), y);
}

// One row of adjacent elements. Vector: how many are read and written at once: x and y lie at
// multiples of that, and it is a power of two.
template <int Most = 0, int Kind = softmax_kind, int Vector = 1, int Threads, class T, class U>
NNK_FN void softmax_row(const Group<Threads>& group, const T* x, U* y, int length) {
  softmax_of_rows<Threads, Most, Kind, unit_step, Vector>(
      group, matrix(x, 1, length), matrix(y, 1, Kind == logsumexp_kind ? 1 : length));
}

}  // namespace nnk
