// Gated linear units: one operand scaled by an activation of the other.
#pragma once
#include "nnk/activations.cuh"

namespace nnk {

struct Glu {  // y = a sigmoid(b), a and b the two halves of x
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V a, V b) {
    return a / (S(1) + exp(-b));
  }
};

// da = dy s, db = dy a s (1 - s), s = sigmoid(b)
struct GluBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN Results<V, 2> apply(const S*, V dy, V a, V b) {
    const auto s = logistic(b);
    return {{dy * s.value, dy * (a * (s.value * s.complement))}};
  }
};

struct Swiglu {  // y = x silu(gate)
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V x, V gate) {
    return x * silu(gate, S(1));
  }
};

// dx = dy silu(gate), dgate = dy x (s + gate s (1 - s)), s = sigmoid(gate)
struct SwigluBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN Results<V, 2> apply(const S*, V dy, V x, V gate) {
    const V low = max(gate, V::splat(S(-sigmoid_far))), t = min(low, V::splat(S(sigmoid_far)));
    const auto s = logistic(t);
    return {{dy * (low * s.value), dy * (x * (s.value + t * (s.value * s.complement)))}};
  }
};

struct Geglu {  // y = x gelu(gate)
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V x, V gate) {
    return x * gelu(gate);
  }
};

// dx = dy gelu(gate), dgate = dy x (cdf(gate) + gate pdf(gate)) with the normal distribution
struct GegluBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN Results<V, 2> apply(const S*, V dy, V x, V gate) {
    const V low = max(gate, V::splat(S(-normal_far))), t = min(low, V::splat(S(normal_far)));
    const V cdf = normal_cdf(t);
    return {{dy * (low * cdf), dy * (x * (cdf + t * normal_pdf(t)))}};
  }
};

}  // namespace nnk
