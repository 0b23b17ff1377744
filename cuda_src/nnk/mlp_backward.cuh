// Gradient of a multilayer perceptron, in one kernel, as far as rows have nothing to do with each
// other.
//
// With z_l = h_{l-1} W_l^T + b_l and h_l = f_l(z_l), and dy as dh of the last layer:
//     dz_l = dh_l f_l'(z_l),   dh_{l-1} = dz_l W_l
// and dx is dh_0. So a tile of rows passes through the transposed layers from the last to the first
// as it does forward (nnk/mlp_block.cuh), and between two of them is multiplied by a derivative. dz
// of each layer is written for the sums over rows, which are products of matrices:
//     dW_l = dz_l^T h_{l-1},   db_l = sum of dz_l
// Where z_l was kept, and not h_l, that is computed once more and written for these.
#pragma once
#include "nnk/mlp.cuh"

namespace nnk {

// The derivative where there is no activation.
struct IdentityBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V dy, V) { return dy; }
};

// Between the layers: see nnk/mlp_block.cuh.
template <class T, class Index, class Args, class Hidden, class HiddenBackward,
          class OutputBackward, int KeepHidden, int KeepOutput, bool Streaming>
struct MlpDerivatives {
  const Args& args;
  Index first;  // row of the tile
  int count;

  template <class Functor, bool Last> using SumsOf = Functor;

  // After product i, of layer layers - 1 - i.
  template <bool Last, class G, class Math>
  NNK_FN void after(G& group, const typename Math::Memory& memory, int i, int) const {
    if constexpr (!Last) {
      constexpr int keep = KeepHidden;
      multiply<HiddenBackward, keep, keep == keep_operand, G, Math>(
          group, memory, args.layers - 2 - i, args.hidden_backward);
    }
  }
  template <class G, class Math>
  NNK_FN void begin(G& group, const typename Math::Memory& memory) const {
    multiply<OutputBackward, KeepOutput, false, G, Math>(group, memory, args.layers - 1,
                                                         args.output_backward);
  }

 private:
  // dh of a layer becomes dz.
  template <class Backward, int Keep, bool Again, class G, class Math>
  NNK_FN void multiply(G& group, const typename Math::Memory& memory, int layer,
                       const typename Math::Sum* parameters) const {
    constexpr int N = Math::vector;
    using Wide = typename Math::Wide;
    using Rows = MlpRows<T, Index, unit_step, N, Streaming>;
    const int outputs = args.shapes[layer].outputs;
    const Index stride = args.shapes[layer].kept_stride, size = Index(sizeof(T));
    Rows::template each<Math>(group, count, Math::padded(outputs), false, [&](int row, int column) {
      const int slot = Math::slot(row, column);
      const Index offset = (first + row) * stride;
      auto dz = convert<Wide>(memory.rows.template load_vec<N>(slot));
      if constexpr (Keep != keep_nothing) {
        const T* const kept = byte_offset(args.kept[layer], offset);
        const auto z = convert<Wide>(Rows::load(kept, size, column, outputs));
        dz = Backward::apply(reinterpret_cast<const Wide*>(parameters), dz, z);
        if constexpr (Again) {
          const auto* const scalars = reinterpret_cast<const Wide*>(args.hidden);
          Rows::store(byte_offset(args.results[layer], offset), size, column, outputs,
                      convert<T>(Hidden::apply(scalars, z)));
        }
      }
      const auto x = filled<typename Math::Element>(dz, column, outputs);
      memory.rows.store_vec(slot, x);
      Rows::store(byte_offset(args.dz[layer], offset), size, column, outputs, convert<T>(x));
    });
    group.barrier();
  }
};

// Capacity, StepX...: see nnk/mlp.cuh; X is dy here, and Y is dx. Streaming: of all that is written
template <class T, class Index, int BatchRank, int Capacity, class Math, class Hidden,
          class HiddenBackward, class OutputBackward, int StepX, int VectorX, int StepY,
          int VectorY, int KeepHidden, int KeepOutput, bool Streaming = false>
struct MlpBackward {
  using Sum = typename Math::Sum;
  struct Args {
    const T* x;
    T* y;
    const T* weight[Capacity];
    const T* kept[Capacity];  // by the forward kernel
    T* results[Capacity];     // h, where z was kept
    T* dz[Capacity];
    MlpPlaces<Index, BatchRank> places;
    int32 layers;
    MlpShape<Index> shapes[Capacity];
    Sum hidden[scalars_of<Hidden>], hidden_backward[scalars_of<HiddenBackward>],
        output_backward[scalars_of<OutputBackward>];

    NNK_FN int count() const { return layers; }
    // The products, in order: of the last layer, transposed, first.
    NNK_FN MlpLayer<T, Index> layer(int i) const {
      const int l = layers - 1 - i;
      const MlpShape<Index>& s = shapes[l];
      return {weight[l], nullptr, s.outputs, s.inputs, {s.weight_stride[1], s.weight_stride[0]}, 0};
    }
  };
  using X = MlpRows<T, Index, StepX, VectorX>;
  using Y = MlpRows<T, Index, StepY, VectorY, Streaming>;
  using Derivatives = MlpDerivatives<T, Index, Args, Hidden, HiddenBackward, OutputBackward,
                                     KeepHidden, KeepOutput, Streaming>;

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const auto memory = Math::memory(group, 0, args.layers);
    Math::load(group, memory, args);
    const int outputs = args.shapes[args.layers - 1].outputs, inputs = args.shapes[0].inputs;
    each_tile<Math, Index>(group, args.places.rows, [&](Index first, int count, int) {
      X::template read<Math>(group, memory, args.places.template of<0>(args.x, first), outputs,
                             count);
      group.barrier();
      const Derivatives derivatives{args, first, count};
      derivatives.template begin<G, Math>(group, memory);
      mlp_block<Math, Identity, Identity>(group, memory, args, nullptr, nullptr, count,
                                          derivatives);
      Y::template write<Math>(group, memory, args.places.template of<1>(args.y, first), inputs,
                              count);
    });
  }
};

}  // namespace nnk
