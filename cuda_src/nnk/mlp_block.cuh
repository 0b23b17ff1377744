// A multilayer perceptron on rows that a block has in shared memory: h <- activation(h W^T + b),
// one layer after the other, for widths up to 128, with nothing but weights read from global
// memory.
//
// For kernels of your own. A block works on `Rows` rows of up to `Width` columns (inputs, hidden
// widths and outputs each from 1 to Width):
//
//     using Math = nnk::MlpMath<float, 64, 64, 128>;      // T, Rows, Width, threads of the block
//     const auto memory = Math::memory(group, 0, layers);  // from byte 0 of dynamic shared memory
//     nnk::MlpNet<float, 3> net = {{{weight0, bias0, 8, 64, {32, 4}, 4}, ...}};
//     Math::load(group, memory, net);                      // once: all weights to shared memory
//     // the threads write the rows: column c of row r is element Math::slot(r, c) of memory.rows
//     nnk::mlp_block<Math, nnk::Relu, nnk::Identity>(group, memory, net);
//     // the threads read the results at the same places
//
// The contract:
// - Every thread of the block calls memory(), load() and mlp_block(), with the same arguments. The
//   block has Math::threads threads (one on a CPU), and room for Math::rows rows: Rows, on a CPU
//   rounded up to what is multiplied at once.
// - Dynamic shared memory: Math::bytes(layers) bytes from `offset` on, a multiple of 16. The rows
//   come first and are Math::row_bytes long.
// - Elements of rows are of type Math::Element: T itself on matrix cores; else the type of the sums
//   (float for half and bfloat16).
// - Before mlp_block(), columns [0, inputs) of all rows hold the inputs, and columns
//   [inputs, Math::padded(inputs)) zeros. `count`: how many rows are there; others may hold
//   anything. No barrier is needed: mlp_block() begins with one.
// - After it, columns [0, outputs) hold the results, and every thread may read all of them: it ends
//   with a barrier. Columns up to Math::padded(outputs) hold zeros or, on a CPU, anything.
// - Rows may be written again once all threads have read them: put a barrier between.
// - Weights and biases are read by load(), or, where weights are not kept (the template argument
//   Kept), by each mlp_block(); then load() does nothing, and shared memory holds one layer at a
//   time, or a slice of its terms. Either may have any strides.
// - Sums are in float for half, bfloat16 and float, in double for double. They begin at zero, in
//   the order of the terms (on matrix cores in the order of the instruction); bias and activation
//   come after.
//
// On matrix cores: MlpTensor of nnk/mlp_tensor.cuh in place of MlpMath, with an atom of nnk/mma_*.
// The activations are functors of nnk/activations.cuh; Identity is none.
#pragma once
#include "nnk/matmul_epilogue.cuh"
#include "nnk/mlp_simd.cuh"
#include "nnk/mlp_simt.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// Layers by value. (The argument struct of nnk/mlp.cuh is another such network.)
template <class T, int Layers, class Index = int32> struct MlpNet {
  MlpLayer<T, Index> layers[Layers];
  static constexpr NNK_FN int count() { return Layers; }
  NNK_FN const MlpLayer<T, Index>& layer(int i) const { return layers[i]; }
};

// A layer whose weights (outputs, inputs) are dense.
template <class T>
NNK_FN MlpLayer<T> dense_layer(const T* weight, const T* bias, int inputs, int outputs) {
  const int size = int(sizeof(T));
  return {weight, bias, inputs, outputs, {inputs * size, size}, size};
}

// Multiplications without matrix cores: a thread of a GPU has some sums, a CPU its SIMD registers.
// T: of weights and biases; Kept: whether the weights of all layers stay in shared memory
template <class T, int Rows, int Width, int Threads, bool Kept = true>
using MlpMath = conditional<
    lanes_are_simd,
    MlpSimd<T, Rows, Width, MlpSimdTile<T, Width>::rows, MlpSimdTile<T, Width>::columns, Kept>,
    MlpSimt<T, Rows, Width, Width, Threads, Kept>>;

// What is done between layers: nothing. (nnk/mlp.cuh writes activations for the gradient there.)
struct MlpNoObserver {
  template <class Functor, bool Last> using SumsOf = Functor;
  template <bool Last, class G, class Math>
  NNK_FN void after(G&, const typename Math::Memory&, int /*layer*/, int /*outputs*/) const {}
};

// All layers. Hidden, Output: activations of all but the last layer, and of that; `hidden` and
// `output` are their parameters, which may be null where there are none.
template <class Math, class Hidden, class Output = Identity, class G, class Net,
          class Observer = MlpNoObserver>
NNK_FN void mlp_block(G& group, const typename Math::Memory& memory, const Net& net,
                      const typename Math::Sum* hidden = nullptr,
                      const typename Math::Sum* output = nullptr, int count = Math::rows,
                      const Observer& observer = Observer()) {
  group.barrier();
  const int last = net.count() - 1;
  NNK_NO_UNROLL
  for (int i = 0; i < last; ++i) {
    const auto layer = net.layer(i);
    Math::template apply<typename Observer::template SumsOf<Hidden, false>>(group, memory, layer, i,
                                                                            hidden, count);
    observer.template after<false, G, Math>(group, memory, i, layer.outputs);
  }
  const auto layer = net.layer(last);
  Math::template apply<typename Observer::template SumsOf<Output, true>>(group, memory, layer, last,
                                                                         output, count);
  observer.template after<true, G, Math>(group, memory, last, layer.outputs);
}

}  // namespace nnk
