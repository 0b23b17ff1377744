// The elementwise half of batch normalisation: functors over operands that broadcast.
#pragma once
#include "nnk/matmul_epilogue.cuh"
#include "nnk/results.cuh"

namespace nnk {

// y = activation((x - mean) scale + shift): the difference first, since it is small and exact.
template <class Activation> struct BatchNormApply {
  static constexpr int parameters = Activation::parameters;
  template <class V, class S> static NNK_FN V apply(const S* p, V x, V mean, V scale, V shift) {
    return Activation::apply(p, fma_always(x - mean, scale, shift));
  }
};

// scale and shift from the running variance, [weight] and [bias]; p[0] is eps.
template <bool Weight, bool Bias> struct BatchNormCoefficients {
  static constexpr int parameters = 1;
  template <class V, class S, class... In>
  static NNK_FN Results<V, 2> apply(const S* p, V variance, In... in) {
    const V given[] = {in..., V::splat(S(0))};
    const V deviation = sqrt(variance + p[0]);
    return {
        {(Weight ? given[0] : V::splat(S(1))) / deviation, Bias ? given[Weight] : V::splat(S(0))}};
  }
};

// dx = a dy + b (x - mean) + c, see batch_norm_backward.cuh.
struct BatchNormGradient {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V dy, V x, V mean, V a, V b, V c) {
    return fma_always(a, dy, fma_always(b, x - mean, c));
  }
};
// The same where the statistics are constants.
struct BatchNormScale {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V dy, V a) { return a * dy; }
};

}  // namespace nnk
