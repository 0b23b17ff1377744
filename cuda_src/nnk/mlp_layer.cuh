// One layer of a multilayer perceptron in memory, and how the threads of a GPU bring it to shared
// memory.
#pragma once
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

template <class T, class Index = int32> struct MlpLayer {
  const T* weight;  // (outputs, inputs)
  const T* bias;    // (outputs,); null for none
  int inputs, outputs;
  Index weight_stride[2], bias_stride;  // in bytes

  NNK_FN const T* weight_at(int output, int input) const {
    check_access(output, 1, outputs, NNK_HERE);
    check_access(input, 1, inputs, NNK_HERE);
    return byte_offset(weight, output * weight_stride[0] + input * weight_stride[1]);
  }
  NNK_FN const T* bias_at(int output) const {
    check_access(output, 1, outputs, NNK_HERE);
    return byte_offset(bias, output * bias_stride);
  }
};

// Shared memory of a block of a GPU, and all that is done there but the multiplications.
//
// Rows lie [row][column], and weights as in memory, [output][input], each line 16 bytes longer than
// it has to be: then the same 16 bytes of eight lines lie in banks of their own.
//
// Core: what multiplies (nnk/mlp_simt.cuh, nnk/mlp_tensor.cuh). Of it are used
//     Element, Sum            types of what is multiplied, and of sums
//     Wide                    in which activations compute
//     padded, padded_outputs  multiples to which terms and outputs are filled up with zeros
//     Sums, clear, multiply, write
// Slice: terms of weights that are in shared memory at once, where they are not kept
template <class T, class Core, int Rows, int Width, int Slice, int Threads, bool Kept>
struct MlpShared {
  using Element = typename Core::Element;
  using Sum = typename Core::Sum;
  using Wide = typename Core::Wide;
  static constexpr int threads = Threads, rows = Rows, width = Width;
  static constexpr int chunk = 16 / int(sizeof(Element));
  static constexpr int vector = chunk;
  static constexpr int pitch = Width + chunk;
  static_assert(Width % chunk == 0 && Slice % chunk == 0, "lines are whole chunks");

  struct Memory {
    static constexpr int weight_pitch = (Kept ? Width : Slice) + chunk;
    Shared<Element> rows, weights;
    Shared<Sum> bias;
  };

  static constexpr NNK_FN int slot(int row, int column) { return row * pitch + column; }
  static constexpr NNK_FN int padded(int columns) { return round_up(columns, Core::term_multiple); }
  static constexpr int layer_elements = Width * Memory::weight_pitch;
  static constexpr int row_bytes = Rows * pitch * int(sizeof(Element));
  static constexpr NNK_FN int bytes(int layers) {
    const int held = Kept ? layers : 1;
    return row_bytes + held * (layer_elements * int(sizeof(Element)) + Width * int(sizeof(Sum)));
  }
  template <class G> static NNK_FN Memory memory(G& group, int offset, int layers) {
    const int held = Kept ? layers : 1, weights = offset + row_bytes;
    const int bias = weights + held * layer_elements * int(sizeof(Element));
    return {group.template dynamic_shared<Element>(offset, Rows * pitch),
            group.template dynamic_shared<Element>(weights, held * layer_elements),
            group.template dynamic_shared<Sum>(bias, held * Width)};
  }

  template <class G, class Net>
  static NNK_FN void load(G& group, const Memory& memory, const Net& net) {
    if constexpr (Kept) {
      NNK_NO_UNROLL
      for (int i = 0; i < net.count(); ++i) {
        const auto layer = net.layer(i);
        load_weights(group, memory, layer, i, 0);
        load_bias(group, memory, layer, i);
      }
    }
  }

  // h <- Activation(h W^T + b). The block has come past a barrier since the rows were written, and
  // comes past one after this has written them.
  template <class Activation, class G, class Layer>
  static NNK_FN void apply(G& group, const Memory& memory, const Layer& layer, int number,
                           const Sum* parameters, int count) {
    const int held = Kept ? number : 0;
    typename Core::Sums sums;
    Core::clear(sums);
    const int thread = group.rank();
    if constexpr (Kept) {
      Core::multiply(memory, thread, held * layer_elements, 0, layer.inputs, layer.outputs, count,
                     sums);
    } else {
      NNK_NO_UNROLL
      for (int first = 0; first < layer.inputs; first += Slice) {
        if (first > 0) group.barrier();
        else load_bias(group, memory, layer, 0);
        load_weights(group, memory, layer, 0, first);
        group.barrier();
        const int left = layer.inputs - first;
        Core::multiply(memory, thread, 0, first, left < Slice ? left : Slice, layer.outputs, count,
                       sums);
      }
    }
    group.barrier();
    Core::template write<Activation>(memory, thread, held * Width, layer.outputs, count, sums,
                                     parameters);
    group.barrier();
  }

 private:
  static constexpr NNK_FN int round_up(int n, int multiple) {
    return (n + multiple - 1) / multiple * multiple;
  }

  // Up to Slice terms from `first` on, with zeros past the last term and the last output.
  template <class G, class Layer>
  static NNK_FN void load_weights(G& group, const Memory& memory, const Layer& layer, int held,
                                  int first) {
    constexpr int terms = Kept ? Width : Slice, chunks = terms / chunk;
    const int lines = round_up(layer.outputs, Core::output_multiple);
    const int left = padded(layer.inputs) - first, end = left < terms ? left : terms;
    const auto stride = layer.weight_stride;
    // 16 bytes of T at once, if they are adjacent and aligned.
    constexpr int bytes = chunk * int(sizeof(T));
    const bool adjacent = stride[1] == decltype(stride[1] + 0)(sizeof(T)) &&
                          stride[0] % bytes == 0 &&
                          reinterpret_cast<uint64>(layer.weight) % bytes == 0;
    const auto step = [](auto x) { return x < 0 ? -x : x; };
    const bool by_lines = step(stride[0]) < step(stride[1]);  // neighbours are outputs
    NNK_NO_UNROLL
    for (int unit = group.rank(); unit < lines * chunks; unit += Threads) {
      const int line = by_lines ? unit % lines : unit / chunks;
      const int at = (by_lines ? unit / lines : unit % chunks) * chunk;
      if (at >= end) continue;
      auto w = Vec<T, chunk>::splat(T());
      const int there = layer.inputs - first - at;
      if (line < layer.outputs && there > 0) {
        const T* const from = layer.weight_at(line, first + at);
        if (adjacent && there >= chunk) w = nnk::load<chunk>(from);
        else w = nnk::load_strided<chunk>(from, stride[1], there < chunk ? there : chunk, T());
      }
      memory.weights.store_vec(held * layer_elements + line * Memory::weight_pitch + at,
                               convert<Element>(w));
    }
  }
  template <class G, class Layer>
  static NNK_FN void load_bias(G& group, const Memory& memory, const Layer& layer, int held) {
    for (int i = group.rank(); i < Width; i += Threads) {
      Sum b = Sum();
      if (layer.bias != nullptr && i < layer.outputs) b = convert_scalar<Sum>(*layer.bias_at(i));
      memory.bias.store(held * Width + i, b);
    }
  }
};

}  // namespace nnk
