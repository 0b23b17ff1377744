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
// A product with a power of two is exact, and quarters of a turn are taken off before pi comes in,
// so high octaves are as exact as low ones. nnk/block/part.cuh has the rules of calls. No shared
// memory.
#pragma once
#include "nnk/block/part.cuh"
#include "nnk/fused_math.cuh"

namespace nnk {

// The sine and cosine of pi x, by their Taylor series up to pi / 4: no table, and no function of a
// library with its care for large angles.
template <class S> struct SineAndCosine { Vec<S, 1> sine, cosine; };
template <class S> NNK_FN SineAndCosine<S> sine_and_cosine_of_half_turns(const Vec<S, 1>& x) {
  using V = Vec<S, 1>;
  constexpr int terms = sizeof(S) == 4 ? 6 : 10;
  constexpr double pi = 3.14159265358979324;
  const V rest = x - round_even(x * S(0.5)) * S(2);  // whole turns change nothing
  const V quarters = round_even(rest * S(2));        // -2 to 2
  const V angle = (rest - quarters * S(0.5)) * S(pi), square = angle * angle;
  V sine = V::splat(S(1)), cosine = sine;
  NNK_UNROLL
  for (int i = terms - 1; i > 0; --i) {
    sine = fma(sine, square * S(-1.0 / (2 * i * (2 * i + 1))), V::splat(S(1)));
    cosine = fma(cosine, square * S(-1.0 / ((2 * i - 1) * 2 * i)), V::splat(S(1)));
  }
  sine = sine * angle;
  const int turned = int(quarters[0]) & 3;
  const V s = turned % 2 ? cosine : sine, c = turned % 2 ? sine : cosine;
  return {turned >= 2 ? -s : s, turned == 1 || turned == 2 ? -c : c};
}

template <int Threads, class T, class U>
NNK_FN void fourier_features(const Group<Threads>& group, const View<T, 2, int32>& x,
                             const View<U, 2, int32>& y, int octaves) {
  using S = Accumulator<without_const<T>>;
  const int rows = x.shape[0], pairs = x.shape[1] * octaves;
  group.barrier();
  for (int i = group.rank(); i < rows * pairs; i += Threads) {
    const int row = i / pairs, pair = i % pairs, octave = pair % octaves;
    const auto coordinate = nnk::load<1>(x.at(NNK_HERE, row, pair / octaves));
    const auto found =
        sine_and_cosine_of_half_turns<S>(convert<S>(coordinate) * S(int64(1) << octave));
    nnk::store(y.at(NNK_HERE, row, 2 * pair), convert<U>(found.sine));
    nnk::store(y.at(NNK_HERE, row, 2 * pair + 1), convert<U>(found.cosine));
  }
}

}  // namespace nnk
