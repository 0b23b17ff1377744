// What the templates for kernels of users (nnk/block) have in common: how a kernel becomes a part
// of another one, and matrices by pointer and shape.
//
// All of them keep these rules:
//   * The block is one-dimensional, and `Threads` of Group<Threads> are all of its threads.
//   * All threads call, with the same arguments, in the same order: there are barriers inside.
//   * A call begins with a barrier, so that it sees what any thread of the block wrote before, to
//     shared or global memory, and may use shared memory that others were reading. It ends without
//     one: before a thread reads what others wrote, or writes over what they may still read, the
//     caller has group.barrier() or __syncthreads(), or calls another of the templates.
//   * Arrays may be in global or in shared memory where nothing else is said. Elements are float,
//     double, half or bfloat16 (a pointer to __half is cast to one to nnk::half); half and bfloat16
//     are computed, and summed, in float32.
//   * Strides and offsets are 32-bit numbers of bytes.
#pragma once
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// The block as a kernel that had a launch to itself would see it: its block `number`, whose dynamic
// shared memory begins `first_byte` bytes into that of the real launch. So a user's kernel runs the
// very code of the library's kernels.
template <int Threads> struct PartOfBlock : Group<Threads> {
  int number, first_byte;

  NNK_FN PartOfBlock(const Group<Threads>& group, int block_number, int byte)
      : Group<Threads>(group), number(block_number), first_byte(byte) {}
  NNK_FN int64 block() const { return number; }
  template <class T> NNK_FN Shared<T> dynamic_shared(int offset, int count) const {
    return Group<Threads>::template dynamic_shared<T>(first_byte + offset, count);
  }
};

template <class T> struct WithoutConst { using type = T; };
template <class T> struct WithoutConst<const T> { using type = T; };
template <class T> using without_const = typename WithoutConst<T>::type;

// A matrix whose columns are adjacent elements, and whose rows are `row_step` elements apart.
template <class T> NNK_FN View<T, 2, int32> matrix(T* data, int rows, int columns, int row_step) {
  return {data, {rows, columns}, {row_step * int(sizeof(T)), int(sizeof(T))}};
}
template <class T> NNK_FN View<T, 2, int32> matrix(T* data, int rows, int columns) {
  return matrix(data, rows, columns, columns);
}
template <class T> NNK_FN View<T, 2, int32> transposed(const View<T, 2, int32>& x) {
  return {x.data, {x.shape[1], x.shape[0]}, {x.stride[1], x.stride[0]}};
}
// For reading alone.
template <class T> NNK_FN View<const T, 2, int32> read_only(const View<T, 2, int32>& x) {
  return {x.data, {x.shape[0], x.shape[1]}, {x.stride[0], x.stride[1]}};
}

}  // namespace nnk
