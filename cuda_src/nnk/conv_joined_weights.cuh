// Weights for phases of a transposed convolution that are joined to one product (conv_joined.py),
// by the threads of a block, of which a CPU has one.
//
// Elements of the result whose indices have one remainder by the strides are a phase, and see some
// of the taps. Rows of the product are those of all phases, and their windows are so large that
// what each phase sees is in it; a weight is zero where a phase sees nothing.
#pragma once
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// T: type of weights
template <class T> struct ConvJoinedWeights {
  // Strides in bytes.
  struct Args {
    T* to;  // [group][phase][row][terms], dense
    const T* from;
    int64 phases[3], rows;    // rows of a phase
    int64 channels, taps[3];  // which are the terms
    // Tap j of phase r is tap r + start - j stride of the kernel, if there is one.
    int64 start[3], stride[3], kernel[3];
    int64 of_group, of_row, of_channel, of_tap[3];
    int64 taps_first;  // whether terms are in order of taps and then channels
  };

  // A block has a row.
  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 all = args.phases[0] * args.phases[1] * args.phases[2] * args.rows;
    int64 left = group.block();
    const int64 of_group = left / all;
    left -= of_group * all;
    const int64 row = left % args.rows;
    left /= args.rows;
    int64 first[3];
    NNK_UNROLL
    for (int axis = 2; axis >= 0; --axis) {
      first[axis] = left % args.phases[axis] + args.start[axis];
      left /= args.phases[axis];
    }
    const int64 taps = args.taps[0] * args.taps[1] * args.taps[2];
    T* to = args.to + group.block() * taps * args.channels;
    const T* const from = byte_offset(args.from, of_group * args.of_group + row * args.of_row);
    const int64 next_tap = args.taps_first ? args.channels : 1;
    const int64 next_channel = args.taps_first ? 1 : taps;
    for (int64 i = 0; i < taps; ++i, to += next_tap) {
      const int64 at[3] = {first[0] - i / args.taps[2] / args.taps[1] * args.stride[0],
                           first[1] - i / args.taps[2] % args.taps[1] * args.stride[1],
                           first[2] - i % args.taps[2] * args.stride[2]};
      bool there = true;
      int64 offset = 0;
      NNK_UNROLL
      for (int axis = 0; axis < 3; ++axis) {
        there = there && 0 <= at[axis] && at[axis] < args.kernel[axis];
        offset += at[axis] * args.of_tap[axis];
      }
      for (int64 c = group.rank(); c < args.channels; c += group.size())
        to[c * next_channel] = there ? *byte_offset(from, offset + c * args.of_channel) : T();
    }
  }
};

}  // namespace nnk
