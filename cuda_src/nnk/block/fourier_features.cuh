// Fourier features of coordinates, by the threads of a block, inside a user's kernel: the encoding
// of positions of NeRF (Mildenhall et al., arXiv 2003.08934, section 5.1).
//
//   fourier_features(group, x, y, octaves)      up to 62 octaves
//
// x is rows x dimensions, y is rows x (2 octaves dimensions), of any strides, in global or shared
// memory:
//   y[r, 2 (d octaves + o)]     = sin(2^o pi x[r, d])
//   y[r, 2 (d octaves + o) + 1] = cos(2^o pi x[r, d])
//
// A product with a power of two is exact, and whole turns are taken off before pi comes in, so high
// octaves are as exact as low ones. nnk/block/part.cuh has the rules of calls. No shared memory.
#pragma once
#include "nnk/block/part.cuh"
#include "nnk/fused_math.cuh"

namespace nnk {

template <int Threads, class T, class U>
NNK_FN void fourier_features(const Group<Threads>& group, const View<T, 2, int32>& x,
                             const View<U, 2, int32>& y, int octaves) {
  using S = Accumulator<without_const<T>>;
  using V = Vec<S, 1>;
  const int rows = x.shape[0], pairs = x.shape[1] * octaves;
  group.barrier();
  for (int i = group.rank(); i < rows * pairs; i += Threads) {
    const int row = i / pairs, pair = i % pairs, octave = pair % octaves;
    const auto coordinate = nnk::load<1>(x.at(NNK_HERE, row, pair / octaves));
    const V half_turns = convert<S>(coordinate) * S(int64(1) << octave);
    const V angle = (half_turns - round_even(half_turns * S(0.5)) * S(2)) * S(3.14159265358979324);
    nnk::store(y.at(NNK_HERE, row, 2 * pair), convert<U>(sin(angle)));
    nnk::store(y.at(NNK_HERE, row, 2 * pair + 1), convert<U>(cos(angle)));
  }
}

}  // namespace nnk
