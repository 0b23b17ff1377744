// Layers of a multilayer perceptron by a block of one thread, at the speed of its SIMD registers:
// what nnk/mlp_block.cuh calls on a CPU.
//
// Weights are packed as panels of N columns, in the order in which they are read. A micro-tile of
// MicroM rows and N columns stays in registers for a whole sum. If that is all columns of the
// layer, the sums become the next activations in place, as nothing else needs the old ones: the
// cheapest of them without leaving the registers. Of wider layers one panel after the other
// multiplies all rows, so that it stays in the nearest cache, and their sums wait.
#pragma once
#include "nnk/matmul_epilogue.cuh"
#include "nnk/mlp_layer.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// Micro-tiles that fill the registers: four of the widest ones beside six rows where there are 32,
// else two; fewer columns and more rows for narrow layers.
template <class T, int Width> struct MlpSimdTile {
  using S = Accumulator<T>;
  static constexpr int lanes = transposed_lanes<S, 16>();
  static constexpr bool many = lanes * int(sizeof(S)) == 64;
  static constexpr int fit(int registers) {
    while (registers > 1 && Width <= registers * lanes / 2) registers /= 2;
    return registers;
  }
  static constexpr int registers = fit(many ? 4 : 2);
  static constexpr int columns = registers * lanes;
  static constexpr int rows = registers == (many ? 4 : 2) ? 6 : registers == 2 ? 12 : 12;
};

struct Relu;
// Activations that are an instruction: code for each row of a micro-tile costs little to compile.
template <class Functor>
constexpr bool is_instruction = is_same<Functor, Identity> || is_same<Functor, Relu>;

// What is brought to the cache while a tile is multiplied: rows of the next one.
struct MlpAhead {
  const char* row;
  int64 stride;
  int rows, lines, line, at_once;  // left; of a row, and the next of them; in one go

  NNK_FN void fetch() {
    for (int i = 0; i < at_once && rows > 0; ++i) {
      prefetch(row + line * cache_line);
      if (++line < lines) continue;
      line = 0;
      row += stride;
      --rows;
    }
  }
};

// Rows of a matrix, whose elements are adjacent, at a distance in bytes.
template <class T> struct MlpLines {
  T* first;
  int64 between;
  NNK_FN T* at(int row) const { return byte_offset(first, row * between); }
  NNK_FN MlpLines from(int row) const { return {at(row), between}; }
};

// Where rows of a tile come from and go to, if that is not the tile itself (null): the first layer
// may read them where they are, and the last one, whose columns fill its panels, write the results.
template <class Sum> struct MlpEnds {
  MlpLines<const Sum> source;
  MlpLines<Sum> result;
  int last;  // layer
};

// T: of weights and biases
template <class T, int Rows, int Width, int MicroM, int N, bool Kept> struct MlpSimd {
  using Sum = Accumulator<T>;
  using Element = Sum;
  using Wide = Sum;
  static constexpr int threads = 1, width = Width;
  static constexpr int rows = (Rows + MicroM - 1) / MicroM * MicroM;
  static constexpr int pitch = (Width + N - 1) / N * N;
  static constexpr int micro_rows = MicroM;
  static constexpr int vector = N;  // elements of a row that are best handled together

  struct Memory {
    Shared<Element> rows, weights;
    Shared<Sum> bias, sums;
    MlpAhead* ahead;           // or null
    const MlpEnds<Sum>* ends;  // or null
  };

  static constexpr NNK_FN int slot(int row, int column) { return row * pitch + column; }
  static constexpr NNK_FN int padded(int columns) { return columns; }
  static constexpr int layer_elements = pitch * Width;
  static constexpr bool one_panel = pitch == N;
  static constexpr int waiting_rows = one_panel ? MicroM : rows;
  static constexpr int row_bytes = rows * pitch * int(sizeof(Sum));
  static constexpr NNK_FN int bytes(int layers) {
    const int held = Kept ? layers : 1;
    return row_bytes + (held * (layer_elements + pitch) + waiting_rows * pitch) * int(sizeof(Sum));
  }
  template <class G> static NNK_FN Memory memory(G& group, int offset, int layers) {
    constexpr int size = int(sizeof(Sum));
    const int held = Kept ? layers : 1;
    const int weights = offset + row_bytes, bias = weights + held * layer_elements * size;
    return {group.template dynamic_shared<Element>(offset, rows * pitch),
            group.template dynamic_shared<Element>(weights, held * layer_elements),
            group.template dynamic_shared<Sum>(bias, held * pitch),
            group.template dynamic_shared<Sum>(bias + held * pitch * size, waiting_rows * pitch),
            nullptr,
            nullptr};
  }

  template <class G, class Net> static NNK_FN void load(G&, const Memory& memory, const Net& net) {
    if constexpr (Kept)
      for (int i = 0; i < net.count(); ++i) pack(memory, net.layer(i), i);
  }

  // h <- Activation(h W^T + b) of the first `count` rows.
  template <class Activation, class G, class Layer>
  static NNK_FN void apply(G&, const Memory& memory, const Layer& layer, int number,
                           const Sum* parameters, int count) {
    const int held = Kept ? number : 0;
    constexpr int64 distance = pitch * int64(sizeof(Sum));
    if constexpr (!Kept) pack(memory, layer, 0);
    const Sum* const weights = memory.weights.data + held * layer_elements;
    const Sum* const bias = memory.bias.data + held * pitch;
    MlpLines<const Element> input = {memory.rows.data, distance};
    MlpLines<Sum> result = {memory.rows.data, distance};
    if (memory.ends != nullptr) {
      const MlpEnds<Sum>& ends = *memory.ends;
      if (number == 0 && ends.source.first != nullptr) input = ends.source;
      if (number == ends.last && ends.result.first != nullptr) result = ends.result;
    }
    for (int j = 0; j < layer.outputs; j += N) {
      const bool narrow = N >= 4 && layer.outputs - j <= N / 4;
      for (int i = 0; i < count; i += MicroM) {
        const MlpLines<const Element> from = input.from(i);
        const Sum* const panel = weights + j * Width;
        if (memory.ahead != nullptr) memory.ahead->fetch();
        if constexpr (one_panel && is_instruction<Activation>) {
          const MlpLines<Sum> to = result.from(i);
          if (narrow) multiply<N / 4, Activation>(from, panel, layer.inputs, bias, to);
          else multiply<N, Activation>(from, panel, layer.inputs, bias, to);
        } else {
          const MlpLines<Sum> to = {memory.sums.data + (one_panel ? 0 : slot(i, j)), distance};
          if (narrow) multiply<N / 4, void>(from, panel, layer.inputs, bias, to);
          else multiply<N, void>(from, panel, layer.inputs, bias, to);
          if constexpr (one_panel)
            finish<Activation>(memory, result.from(i), MicroM, layer.outputs, bias, parameters);
        }
      }
    }
    if constexpr (!one_panel)
      finish<Activation>(memory, result, (count + MicroM - 1) / MicroM * MicroM, layer.outputs,
                         bias, parameters);
  }

 private:
  // The sums of a micro-tile, or if Functor is one, what it makes of them. A function of its own:
  // it has the registers to itself. Each third row has an address of its own, from which an
  // instruction reaches two more. The compiler does not know what they have to do with each other:
  // GCC else sees that a row ends where the next one begins, and carries terms on the stack from
  // one turn of the loop to others.
  template <int Columns, class Functor>
  static NNK_APART void multiply(MlpLines<const Element> from, const Sum* panel, int terms,
                                 const Sum* bias, MlpLines<Sum> to) {
    constexpr int width = Columns > 0 ? Columns : 1;
    Vec<Sum, width> sum[MicroM];
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r) sum[r] = Vec<Sum, width>::splat(Sum());
    const Element* third[(MicroM + 2) / 3];
    NNK_UNROLL
    for (int r = 0; r < MicroM; r += 3) third[r / 3] = opaque(from.at(r));
    const int64 between = int64(opaque(from.at(1)) - from.first) * int64(sizeof(Element));
    constexpr int piece = 8;
    int k = 0;
    for (; k + piece <= terms; k += piece, panel += piece * N) {
      NNK_UNROLL
      for (int t = 0; t < piece; ++t) add_products(third, between, t, panel + t * N, sum);
      NNK_UNROLL
      for (int r = 0; r < MicroM; r += 3) third[r / 3] += piece;
    }
    NNK_NO_UNROLL
    for (; k < terms; ++k, panel += N) {
      add_products(third, between, 0, panel, sum);
      NNK_UNROLL
      for (int r = 0; r < MicroM; r += 3) ++third[r / 3];
    }
    if constexpr (is_same<Functor, void>) {
      NNK_UNROLL
      for (int r = 0; r < MicroM; ++r) nnk::store(to.at(r), sum[r]);
    } else {
      const auto b = nnk::load<width>(bias);
      const Sum* const none = nullptr;
      NNK_UNROLL
      for (int r = 0; r < MicroM; ++r) nnk::store(to.at(r), Functor::apply(none, sum[r] + b));
    }
  }
  template <int Columns>
  static NNK_FN void add_products(const Element* const (&third)[(MicroM + 2) / 3], int64 between,
                                  int t, const Sum* panel, Vec<Sum, Columns> (&sum)[MicroM]) {
    const Vec<Sum, Columns> w = nnk::load<Columns>(panel);
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r) {
      const Element* const h = byte_offset(third[r / 3], r % 3 * between) + t;
      sum[r] = fma(Vec<Sum, Columns>::splat(nnk::load<1>(h)[0]), w, sum[r]);
    }
  }

  template <class Activation>
  static NNK_FN void finish(const Memory& memory, MlpLines<Sum> to, int count, int outputs,
                            const Sum* bias, const Sum* parameters) {
    NNK_NO_UNROLL
    for (int j = 0; j < outputs; j += N) {
      const auto b = nnk::load<N>(bias + j);
      NNK_NO_UNROLL
      for (int r = 0; r < count; ++r) {
        const auto sum = memory.sums.template load_vec<N>(slot(r, j));
        nnk::store(to.at(r) + j, Activation::apply(parameters, sum + b));
      }
    }
  }

  // Panels of N columns, each as [term][column]; zeros past the last column.
  template <class Layer>
  static NNK_FN void pack(const Memory& memory, const Layer& layer, int held) {
    const int to = held * layer_elements;
    for (int j = 0; j < layer.outputs; j += N) {
      const int left = layer.outputs - j, there = left < N ? left : N;
      for (int k = 0; k < layer.inputs; ++k) {
        const auto w =
            nnk::load_strided<N>(layer.weight_at(j, k), layer.weight_stride[0], there, T());
        memory.weights.store_vec(to + j * Width + k * N, convert<Sum>(w));
      }
      auto bias = Vec<Sum, N>::splat(Sum());
      if (layer.bias != nullptr)
        bias = convert<Sum>(nnk::load_strided<N>(layer.bias_at(j), layer.bias_stride, there, T()));
      memory.bias.store_vec(held * pitch + j, bias);
    }
  }
};

}  // namespace nnk
