// The weights of Winograd's convolution at its points, by a block of one thread.
#pragma once
#include "nnk/conv_winograd_tiles.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// Panel 0: as [point][output][term], lanes are channels, and a block has one output. Else as
// [point][panel of so many outputs][term][output], lanes are outputs, and a block has a register
// of them. Outputs past the last one, which are multiplied as well, are zeros: in whatever was in
// memory there may be subnormal numbers, which take a hundred times as long.
// Terms are channels of the first tap along the depth, then of the next one.
// S: type of numbers
template <class S, int Lanes, int Panel> struct WinogradWeights {
  using V = Vec<S, Lanes>;
  static_assert(Panel % Lanes == 0, "a register is in one panel");

  struct Args {
    S* to;
    const S* weights;
    int64 outputs, channels, depth;
    int64 point;                                         // elements from point to point
    int64 stride_output, stride_channel, stride_tap[3];  // in bytes
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 output = Panel == 0 ? group.block() : group.block() * Lanes;
    const int64 terms = args.depth * args.channels;
    const S* from = byte_offset(args.weights, output * args.stride_output);
    S* to =
        args.to + (Panel == 0 ? output * terms : output / Panel * Panel * terms + output % Panel);
    for (int64 d = 0; d < args.depth; ++d) {
      if constexpr (Panel == 0) {
        for (int64 c = 0; c < args.channels; c += Lanes)
          transform(args, byte_offset(from, c * args.stride_channel), args.stride_channel,
                    output < args.outputs ? args.channels - c : 0, to + c, args.channels - c);
      } else {
        for (int64 c = 0; c < args.channels; ++c)
          transform(args, byte_offset(from, c * args.stride_channel), args.stride_output,
                    args.outputs - output, to + c * Panel, Lanes);
      }
      from = byte_offset(from, args.stride_tap[0]);
      to += args.channels * (Panel == 0 ? 1 : Panel);
    }
  }

 private:
  // Of `there` lanes, `step` bytes apart; the first `written` are stored.
  static NNK_FN void transform(const Args& args, const S* from, int64 step, int64 there, S* to,
                               int64 written) {
    const uint32 bits = lanes_from<Lanes>(0, there), all = lanes_from<Lanes>(0, written);
    V half[6][3];
    NNK_UNROLL
    for (int j = 0; j < 3; ++j) {
      V g[3], u[6];
      NNK_UNROLL
      for (int i = 0; i < 3; ++i)
        g[i] = load_lanes<Lanes>(byte_offset(from, i * args.stride_tap[1] + j * args.stride_tap[2]),
                                 step, bits, V::splat(S()));
      Winograd<S>::weights(g, u);
      NNK_UNROLL
      for (int i = 0; i < 6; ++i) half[i][j] = u[i];
    }
    NNK_UNROLL
    for (int i = 0; i < 6; ++i) {
      V u[6];
      Winograd<S>::weights(half[i], u);
      NNK_UNROLL
      for (int j = 0; j < 6; ++j)
        store_lanes(to + (i * 6 + j) * args.point, int64(sizeof(S)), u[j], all);
    }
  }
};

}  // namespace nnk
