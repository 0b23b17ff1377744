// Layer and RMS norm of rows, by the threads of a block, inside a user's kernel.
//
//   layer_norm_row(group, x, y, length, eps, weight, bias)      one row, by all threads
//   layer_norm_rows<Team>(group, x, y, eps, weight, bias)       the rows of a matrix
//   rms_norm_row(group, x, y, length, eps, weight), rms_norm_rows<Team>(group, x, y, eps, weight)
//
// weight, or bias, or both may be left out; they have an element for each column, and are of any
// floating type. It is the kernel of nnkernels.layer_norm (nnk/norm.cuh), with its care for the
// variance, and nnk/block/part.cuh has the rules of calls. y may be x.
//
// Most: what no row is longer than. A row is then read once, and is in registers: of each thread
//       Most / Team elements, so up to some tens. With 0, the default, rows of any length are read
//       twice.
// Shared memory: some static bytes, 8 for each warp of a team; none where a team is a warp or less
#pragma once
#include "nnk/block/part.cuh"
#include "nnk/norm.cuh"

namespace nnk {

// W, B: types of weight and bias, void for none; Step: of x and y along a row, as in RowTeam
template <int Kind, int Team, int Most, int Step, class W, class B, int Threads, class T, class U>
NNK_FN void norm_of_rows(const Group<Threads>& group, const View<const T, 2, int32>& x,
                         const View<U, 2, int32>& y, float eps, const W* weight, const B* bias) {
  static_assert(Threads % Team == 0, "a block has a whole number of teams");
  static_assert(Team == Threads || (is_power_of_two(Team) && Team <= warp_width),
                "a team is the block, or a power of two of threads of a warp");
  constexpr int has_weight = !is_same<W, void>, has_bias = !is_same<B, void>;
  constexpr int operands = 2 + has_weight + has_bias, y_at = operands - 1;
  using Steps =
      conditional<operands == 4, Ints<Step, unit_step, unit_step, Step>,
                  conditional<operands == 3, Ints<Step, unit_step, Step>, Ints<Step, Step>>>;
  constexpr int depth = Most > 0 ? (Most + Team - 1) / Team : 1;
  using S = Accumulator<T>;
  using Norm = NormForward<Kind, T, U, S, W, B, false, Identity, RowGeometry<operands, 1, 1, int32>,
                           along, Steps, 1, 1, Threads, Team,
                           Most == 0 ? keep_none : keep_registers, depth, whole_row, false>;
  const int rows = x.shape[0], length = x.shape[1];
  if constexpr (Most > 0) check_access(0, length, Most, NNK_HERE);
  check_access(0, rows, y.shape[0], NNK_HERE);
  typename Norm::Args args{};
  args.x = x.data;
  args.y = y.data;
  args.parts = args.siblings = 1;
  args.eps = S(eps);
  auto& geometry = args.geometry;
  geometry.rows = rows;
  geometry.length = length;
  geometry.outer_stride[0][0] = x.stride[0], geometry.inner_stride[0][0] = x.stride[1];
  geometry.outer_stride[y_at][0] = y.stride[0], geometry.inner_stride[y_at][0] = y.stride[1];
  if constexpr (has_weight) args.weight = weight, geometry.inner_stride[1][0] = int(sizeof(W));
  if constexpr (has_bias) args.bias = bias, geometry.inner_stride[y_at - 1][0] = int(sizeof(B));
  group.barrier();
  NNK_NO_UNROLL
  for (int tile = 0; tile * (Threads / Team) < rows; ++tile) {
    PartOfBlock<Threads> part(group, tile, 0);
    Norm::run(part, args);
  }
}

struct NoParameter {  // stands for a weight or bias that is not there
  NNK_FN operator const void*() const { return nullptr; }
};
template <class P> struct ParameterType;
template <class W> struct ParameterType<W*> { using type = without_const<W>; };
template <> struct ParameterType<NoParameter> { using type = void; };
template <class P> using parameter_type = typename ParameterType<P>::type;

// The rows of x, of any strides. Team: the threads that share a row, as many as the block has, or
// 1, 2, 4 ... of a warp.
template <int Team, int Most = 0, int Threads, class T, class U, class W = NoParameter,
          class B = NoParameter>
NNK_FN void layer_norm_rows(const Group<Threads>& group, const View<T, 2, int32>& x,
                            const View<U, 2, int32>& y, float eps, W weight = {}, B bias = {}) {
  norm_of_rows<layer_kind, Team, Most, any_step, parameter_type<W>, parameter_type<B>>(
      group, read_only(x), y, eps, weight, bias);
}
template <int Team, int Most = 0, int Threads, class T, class U, class W = NoParameter>
NNK_FN void rms_norm_rows(const Group<Threads>& group, const View<T, 2, int32>& x,
                          const View<U, 2, int32>& y, float eps, W weight = {}) {
  norm_of_rows<rms_kind, Team, Most, any_step, parameter_type<W>, void>(group, read_only(x), y, eps,
                                                                        weight, nullptr);
}

// One row of adjacent elements.
template <int Most = 0, int Threads, class T, class U, class W = NoParameter, class B = NoParameter>
NNK_FN void layer_norm_row(const Group<Threads>& group, const T* x, U* y, int length, float eps,
                           W weight = {}, B bias = {}) {
  norm_of_rows<layer_kind, Threads, Most, unit_step, parameter_type<W>, parameter_type<B>>(
      group, matrix(x, 1, length), matrix(y, 1, length), eps, weight, bias);
}
template <int Most = 0, int Threads, class T, class U, class W = NoParameter>
NNK_FN void rms_norm_row(const Group<Threads>& group, const T* x, U* y, int length, float eps,
                         W weight = {}) {
  norm_of_rows<rms_kind, Threads, Most, unit_step, parameter_type<W>, void>(
      group, matrix(x, 1, length), matrix(y, 1, length), eps, weight, nullptr);
}

}  // namespace nnk
