// Activation functions and their gradients, one functor for each.
//
// A functor computes one Vec of results from one Vec of each operand and its run-time
// scalars p[0], p[1], ... (`parameters` of them), without branches.
//
// The rules that all of them keep:
// - NaN in x gives NaN in y. The gradient of a piecewise linear function passes dy where x
//   is NaN, as in PyTorch: its tests read "x <= 0", not "!(x > 0)".
// - An infinite x gives the limit of the formula, never inf / inf or 0 * inf. For that, a
//   factor x is clamped at a point where the other factor has long underflowed to zero.
// - exp may overflow to infinity only in a denominator.
// - At a kink the derivative is the one that PyTorch takes.
#pragma once
#include "nnk/results.cuh"

namespace nnk {

// ---- pieces shared by several functors -------------------------------------------------

// A constant of the computing type (complex numbers convert from nothing by themselves).
template <class S> struct Number {
  static constexpr NNK_FN S of(double x) { return S(x); }
};
template <class T> struct Number<Complex<T>> {
  static constexpr NNK_FN Complex<T> of(double x) { return {T(x), T(0)}; }
};

template <class S> constexpr NNK_FN S largest_finite() {
  if constexpr (sizeof(S) == 4) return S(3.40282346638528859812e+38f);
  else return S(1.79769313486231570815e+308);
}

template <class V, class S> NNK_FN V clamp(const V& x, S low, S high) {
  return min(max(x, V::splat(low)), V::splat(high));
}

// 1 / x for x of at most 2^126.
template <class T, int N> NNK_FN Vec<T, N> inverse(const Vec<T, N>& x) {
  if constexpr (is_same<T, Brief>) return reciprocal(x);
  else return T(1) / x;
}

// 1 / (1 + exp(-z)) of one complex number, with the exponential on the side where it is at
// most 1: infinity would turn the complex division into NaN.
template <class T> NNK_FN Complex<T> sigmoid(Complex<T> z) {
  const bool left = z.re < T(0);
  const Complex<T> e = exp(left ? z : -z);
  const Complex<T> one = {T(1), T(0)};
  return (left ? e : one) / (one + e);
}

template <class T, int N> NNK_FN Vec<T, N> sigmoid(const Vec<T, N>& x) {
  if constexpr (is_complex<T>) {
    Vec<T, N> y;
    NNK_UNROLL
    for (int i = 0; i < N; ++i) y.set(i, sigmoid(x[i]));
    return y;
  } else {
    return inverse(T(1) + exp(-x));
  }
}

// sigmoid(x) and sigmoid(-x) = 1 - sigmoid(x), both to full relative precision from one
// exponential: the difference 1 - sigmoid(x) loses all its digits for large x.
template <class V> struct Logistic { V value, complement; };
template <class T, int N> NNK_FN Logistic<Vec<T, N>> logistic(const Vec<T, N>& x) {
  if constexpr (is_complex<T>) {
    return {sigmoid(x), sigmoid(-x)};
  } else {
    const auto e = exp(-abs(x));
    const auto near_one = inverse(T(1) + e), near_zero = e * near_one;
    const auto right = x >= T(0);
    return {where(right, near_one, near_zero), where(right, near_zero, near_one)};
  }
}

// exp(x) underflows, and sigmoid(x) with it, long before x = -10000 in either precision.
constexpr double sigmoid_far = 1e4;

// exp(-x^2 / 2)
template <class V> NNK_FN V normal_bell(const V& x) {
  using S = typename V::value_type;
  return exp(x * x * S(-0.5));
}

// exp(a^2 / 2) times the normal distribution function of -a, for a >= 0: a polynomial in
// t = 1 / (1 + 0.3 a) that is 0 for an infinite a. Relative error 1.8e-6 up to a = 5.8, beyond
// which halves are subnormal, and 4.4e-5 up to 13.4, beyond which bfloat16s are (a minimax fit by
// iterated weighted least squares).
template <class V> NNK_FN V normal_tail_ratio(const V& a) {
  using S = typename V::value_type;
  const V t = inverse(S(1) + S(0.3) * a);
  V p = V::splat(S(-0.08172134349337393));
  p = fma(p, t, V::splat(S(0.23000673288688422)));
  p = fma(p, t, V::splat(S(-0.03300879000866915)));
  p = fma(p, t, V::splat(S(0.15290972523802884)));
  p = fma(p, t, V::splat(S(0.11153248576052241)));
  p = fma(p, t, V::splat(S(0.12028119322943255)));
  return p * t;
}

// The normal distribution function. erfc keeps the left tail: 1 + erf(x / sqrt 2) is
// exactly 0 in float32 from x = -5.6 on, where the result is still 1e-8.
template <class V> NNK_FN V normal_cdf(const V& x) {
  using S = typename V::value_type;
  if constexpr (is_same<S, Brief>) {
    const V tail = normal_tail_ratio(abs(x)) * normal_bell(x);
    return where(x > S(0), S(1) - tail, tail);
  } else {
    return S(0.5) * erfc(x * S(-0.70710678118654752440));
  }
}

// Its density exp(-x^2 / 2) / sqrt(2 pi).
template <class V> NNK_FN V normal_pdf(const V& x) {
  using S = typename V::value_type;
  return S(0.39894228040143267794) * normal_bell(x);
}

// normal_cdf(x) and exp(-x^2 / 2) are 0 or 1 in either precision beyond |x| = 100.
constexpr double normal_far = 100;

// ---- rectifiers ------------------------------------------------------------------------

struct Relu {  // y = max(x, 0)
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V x) {
    if constexpr (is_same<S, int32> && NNK_HIDES_INTEGERS) {
      // Of relu(min(x, c)) == c, ptxas made the same wrong code: see within().
      V y;
      NNK_UNROLL
      for (int i = 0; i < V::size; ++i) y.set(i, without_negative(x[i]));
      return y;
    } else if constexpr (lanes_are_simd) {
      // 0 > x ? 0 : x, which leaves NaN, and a sum that makes 0 of -0: a comparison takes the place
      // of a product on some CPUs, while these two cost nothing beside products.
      return greater(V::splat(S(0)), x) + S(0);
    } else {
      return max(x, V::splat(S(0)));
    }
  }
};

// dx = dy where y > 0, else 0
struct ReluBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V dy, V y) {
    return where(y <= S(0), V::splat(S(0)), dy);
  }
};

struct Relu6 {  // y = min(max(x, 0), 6)
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V x) { return clamp(x, S(0), S(6)); }
};

// dx = dy where 0 < y < 6, else 0
struct Relu6Backward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V dy, V y) {
    return where((y <= S(0)) | (y >= S(6)), V::splat(S(0)), dy);
  }
};

struct LeakyRelu {  // y = x if x > 0 else slope x
  static constexpr int parameters = 1;
  template <class V, class S> static NNK_FN V apply(const S* p, V x) {
    return where(x > S(0), x, p[0] * x);
  }
};

// dx = dy where x > 0, else slope dy
struct LeakyReluBackward {
  static constexpr int parameters = 1;
  template <class V, class S> static NNK_FN V apply(const S* p, V dy, V x) {
    return where(x > S(0), dy, p[0] * dy);
  }
};

struct Prelu {  // y = x if x > 0 else weight x
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V x, V weight) {
    return where(x > S(0), x, weight * x);
  }
};

// dx = dy where x > 0, else weight dy
// dweight = the sum of dy min(x, 0) over the elements that share a weight; here its terms
struct PreluBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN Results<V, 2> apply(const S*, V dy, V x, V weight) {
    const auto positive = x > S(0);
    return {{where(positive, dy, weight * dy), where(positive, V::splat(S(0)), dy * x)}};
  }
};

struct ThresholdRelu {  // y = x if x > theta else 0
  static constexpr int parameters = 1;
  template <class V, class S> static NNK_FN V apply(const S* p, V x) {
    return where(x <= p[0], V::splat(S(0)), x);
  }
};

// dx = dy where x > theta, else 0
struct ThresholdReluBackward {
  static constexpr int parameters = 1;
  template <class V, class S> static NNK_FN V apply(const S* p, V dy, V x) {
    return where(x <= p[0], V::splat(S(0)), dy);
  }
};

// ---- exponential linear units ----------------------------------------------------------

struct Elu {  // y = x if x > 0 else alpha (exp(x) - 1)
  static constexpr int parameters = 1;
  template <class V, class S> static NNK_FN V apply(const S* p, V x) {
    return where(x > S(0), x, p[0] * expm1(x));
  }
};

// dx = dy where x > 0, else dy alpha exp(x)
struct EluBackward {
  static constexpr int parameters = 1;
  template <class V, class S> static NNK_FN V apply(const S* p, V dy, V x) {
    return where(x > S(0), dy, dy * (p[0] * exp(x)));
  }
};

struct Celu {  // y = x if x > 0 else alpha (exp(x / alpha) - 1)
  static constexpr int parameters = 1;
  template <class V, class S> static NNK_FN V apply(const S* p, V x) {
    return where(x > S(0), x, p[0] * expm1(x / p[0]));
  }
};

// dx = dy where x > 0, else dy exp(x / alpha)
struct CeluBackward {
  static constexpr int parameters = 1;
  template <class V, class S> static NNK_FN V apply(const S* p, V dy, V x) {
    return where(x > S(0), dy, dy * exp(x / p[0]));
  }
};

// The fixed point of Klambauer et al. 2017: activations keep mean 0 and variance 1.
constexpr double selu_scale = 1.0507009873554804934193349852946;
constexpr double selu_alpha = 1.6732632423543772848170429916717;

struct Selu {  // y = scale (x if x > 0 else alpha (exp(x) - 1))
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V x) {
    return where(x > S(0), S(selu_scale) * x, S(selu_scale * selu_alpha) * expm1(x));
  }
};

// dx = scale dy where x > 0, else scale alpha exp(x) dy
struct SeluBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V dy, V x) {
    return dy * where(x > S(0), V::splat(S(selu_scale)), S(selu_scale * selu_alpha) * exp(x));
  }
};

// ---- sigmoid, tanh and their relatives -------------------------------------------------

struct Sigmoid {  // y = 1 / (1 + exp(-x))
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V x) { return sigmoid(x); }
};

// dx = dy conj(y (1 - y))
struct SigmoidBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V dy, V y) {
    return dy * conj(y * (Number<S>::of(1) - y));
  }
};

struct LogSigmoid {  // y = log(1 / (1 + exp(-x))) = min(x, 0) - log(1 + exp(-|x|))
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V x) {
    return min(x, V::splat(S(0))) - log1p(exp(-abs(x)));
  }
};

// dx = dy / (1 + exp(x))
struct LogSigmoidBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V dy, V x) {
    return dy * sigmoid(-x);
  }
};

struct HardSigmoid {  // y = min(max(alpha x + beta, 0), 1)
  static constexpr int parameters = 2;
  template <class V, class S> static NNK_FN V apply(const S* p, V x) {
    return clamp(fma(x, V::splat(p[0]), V::splat(p[1])), S(0), S(1));
  }
};

// dx = alpha dy where 0 < alpha x + beta < 1, else 0
// p = alpha and the two x between which that holds: a test of alpha x + beta itself would
// hang on its rounding at the kinks.
struct HardSigmoidBackward {
  static constexpr int parameters = 3;
  template <class V, class S> static NNK_FN V apply(const S* p, V dy, V x) {
    return where((x <= p[1]) | (x >= p[2]), V::splat(S(0)), p[0] * dy);
  }
};

// y = log(1 + exp(beta x)) / beta = max(x, 0) + log(1 + exp(-|beta x|)) / beta
struct Softplus {
  static constexpr int parameters = 1;
  template <class V, class S> static NNK_FN V apply(const S* p, V x) {
    return max(x, V::splat(S(0))) + log1p(exp(-abs(p[0] * x))) / p[0];
  }
};

// dx = dy / (1 + exp(-beta x))
struct SoftplusBackward {
  static constexpr int parameters = 1;
  template <class V, class S> static NNK_FN V apply(const S* p, V dy, V x) {
    return dy * sigmoid(p[0] * x);
  }
};

struct Tanh {  // y = tanh(x)
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V x) { return tanh(x); }
};

// dx = dy conj(1 - y^2), as a product: 1 - y is exact where y is near 1
struct TanhBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V dy, V y) {
    const S one = Number<S>::of(1);
    return dy * conj((one - y) * (one + y));
  }
};

struct HardTanh {  // y = min(max(x, low), high)
  static constexpr int parameters = 2;
  template <class V, class S> static NNK_FN V apply(const S* p, V x) {
    return clamp(x, p[0], p[1]);
  }
};

// dx = dy where low < x < high, else 0
struct HardTanhBackward {
  static constexpr int parameters = 2;
  template <class V, class S> static NNK_FN V apply(const S* p, V dy, V x) {
    return where((x <= p[0]) | (x >= p[1]), V::splat(S(0)), dy);
  }
};

struct TanhShrink {  // y = x - tanh(x)
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V x) { return x - tanh(x); }
};

// dx = dy conj(tanh(x)^2)
struct TanhShrinkBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V dy, V x) {
    const V t = tanh(x);
    return dy * conj(t * t);
  }
};

struct Lisht {  // y = x tanh(x)
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V x) { return x * tanh(x); }
};

// dx = dy (tanh(x) + x / cosh(x)^2), 1 / cosh^2 = 4 e / (1 + e)^2 with e = exp(-2|x|): taken as
// 1 - tanh^2 it would be a difference of two numbers near 1, and its error multiplied by x
struct LishtBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V dy, V x) {
    const V e = exp(S(-2) * abs(x)), r = inverse(S(1) + e);
    return dy * (tanh(x) + clamp(x, S(-sigmoid_far), S(sigmoid_far)) * (S(4) * e * r * r));
  }
};

// y = log(cosh(x)). With m = exp(-2|x|) - 1 it is |x| + log(1 + m / 2), which cancels for
// small x; there it is half of log(1 + sinh^2 x), sinh^2 x = m^2 / (4 (1 + m)).
struct LogCosh {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V x) {
    const V a = abs(x), m = expm1(S(-2) * a);
    const auto small = a < S(1);
    const V l = log1p(where(small, m * m / (S(4) + S(4) * m), S(0.5) * m));
    return where(small, S(0.5) * l, a + l);
  }
};

// dx = dy tanh(x)
struct LogCoshBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V dy, V x) { return dy * tanh(x); }
};

struct Softsign {  // y = x / (1 + |x|)
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V x) {
    const V a = clamp(x, -largest_finite<S>(), largest_finite<S>());
    return a / (S(1) + abs(a));
  }
};

// dx = dy / (1 + |x|)^2
struct SoftsignBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V dy, V x) {
    const V r = inverse(S(1) + abs(x));
    return dy * (r * r);
  }
};

// ---- gated by their own argument: x times a step that is smooth --------------------------

// x sigmoid(beta x). Where exp(-beta x) is infinite the quotient is 0 for every finite x.
template <class V, class S> NNK_FN V silu(const V& x, S beta) {
  if constexpr (is_complex<S>) {
    return x * sigmoid(beta * x);
  } else if constexpr (is_same<S, Brief>) {
    // 2^-12 times numerator and denominator: that the reciprocal is 0 is right then. Where it is
    // not small, it is multiplied first, as x may be.
    constexpr double scale = 1.0 / 4096, log2_of_scale = -12, log2_of_e = 1.44269504088896340736;
    const V a = clamp(x, -largest_finite<S>(), largest_finite<S>());  // beta = 0, x = inf
    const V e = exp2(fma(a, V::splat(beta * S(-log2_of_e)), V::splat(S(log2_of_scale))));
    const V r = reciprocal(e + S(scale));
    const auto far = e > S(1);
    const V y = where(far, x * S(scale), x) * where(far, r, r * S(scale));
    return where(e == Limits<S>::infinity(), V::splat(S(0)), y);
  } else {
    const V t = beta * clamp(x, -largest_finite<S>(), largest_finite<S>());  // beta = 0, x = inf
    const V d = S(1) + exp(-t);
    return where(d == Limits<S>::infinity(), V::splat(S(0)), x / d);
  }
}

// s + t s (1 - s) with s = sigmoid(t), t = beta x: the derivative of x sigmoid(beta x).
template <class V, class S> NNK_FN V silu_derivative(const V& x, S beta) {
  V t;
  if constexpr (is_complex<S>) t = beta * x;
  else
    t = clamp(beta * clamp(x, -largest_finite<S>(), largest_finite<S>()), S(-sigmoid_far),
              S(sigmoid_far));
  const auto s = logistic(t);
  return s.value + t * (s.value * s.complement);
}

struct Silu {  // y = x / (1 + exp(-beta x))
  static constexpr int parameters = 1;
  template <class V, class S> static NNK_FN V apply(const S* p, V x) { return silu(x, p[0]); }
};

// dx = dy conj(s + beta x s (1 - s)), s = sigmoid(beta x)
struct SiluBackward {
  static constexpr int parameters = 1;
  template <class V, class S> static NNK_FN V apply(const S* p, V dy, V x) {
    return dy * conj(silu_derivative(x, p[0]));
  }
};

// x times the normal distribution function of x.
template <class V> NNK_FN V gelu(const V& x) {
  using S = typename V::value_type;
  const V a = max(x, V::splat(S(-normal_far)));
  return a * normal_cdf(a);
}

struct Gelu {  // y = x (1 + erf(x / sqrt 2)) / 2
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V x) { return gelu(x); }
};

// dx = dy (cdf(x) + x pdf(x)) with the normal distribution and density
struct GeluBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V dy, V x) {
    const V a = clamp(x, S(-normal_far), S(normal_far));
    return dy * (normal_cdf(a) + a * normal_pdf(a));
  }
};

// The sigmoid form of (1 + tanh u) / 2 is 1 / (1 + exp(-2 u)): one exponential, and no
// cancellation for negative u. 2 u = gelu_slope (x + gelu_cubic x^3).
constexpr double gelu_slope = 1.59576912160573071176;  // 2 sqrt(2 / pi)
constexpr double gelu_cubic = 0.044715;

struct GeluTanh {  // y = x (1 + tanh u) / 2, u = sqrt(2 / pi) (x + 0.044715 x^3)
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V x) {
    const V a = max(x, V::splat(S(-normal_far)));
    const V t = a * (S(gelu_slope) + S(gelu_slope * gelu_cubic) * (a * a));
    return a / (S(1) + exp(-t));
  }
};

// dx = dy (s + x s (1 - s) 2 u'), s = (1 + tanh u) / 2, u' = sqrt(2 / pi) (1 + 3 * 0.044715 x^2)
struct GeluTanhBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V dy, V x) {
    const V a = clamp(x, S(-normal_far), S(normal_far)), a2 = a * a;
    const auto s = logistic(a * (S(gelu_slope) + S(gelu_slope * gelu_cubic) * a2));
    const V slope = a * (S(gelu_slope) + S(3 * gelu_slope * gelu_cubic) * a2);
    return dy * (s.value + slope * (s.value * s.complement));
  }
};

// y = x tanh(log(1 + exp(x))) = x n / (n + 2) with e = exp(x), n = e (e + 2). At x = 30 the
// quotient is 1 to 26 digits, so that e needs to grow no further.
struct Mish {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V x) {
    const V e = exp(min(x, V::splat(S(30)))), n = e * (e + S(2));
    return max(x, V::splat(S(-sigmoid_far))) * (n / (n + S(2)));
  }
};

// dx = dy (n + 4 x e (e + 1) / (n + 2)) / (n + 2), from w = tanh(log(1 + e)) = n / (n + 2),
// w' = (1 - w^2) sigmoid(x) = 4 (e + 1)^2 / (n + 2)^2 * e / (e + 1)
struct MishBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V dy, V x) {
    const V a = clamp(x, S(-sigmoid_far), S(30));
    const V e = exp(a), n = e * (e + S(2)), r = inverse(n + S(2));
    return dy * ((n + S(4) * a * (e * (e + S(1)) * r)) * r);
  }
};

struct HardSwish {  // y = x min(max(x + 3, 0), 6) / 6
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V x) {
    const V gate = clamp(x + S(3), S(0), S(6)) * S(1.0 / 6);
    return max(x, V::splat(S(-3))) * gate;
  }
};

// dx = 0 where x <= -3, dy where x >= 3, else dy (x / 3 + 1 / 2)
struct HardSwishBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V dy, V x) {
    const V between = dy * (x * S(1.0 / 3) + S(0.5));
    return where(x <= S(-3), V::splat(S(0)), where(x >= S(3), dy, between));
  }
};

// ---- shrinkage ---------------------------------------------------------------------------

struct SoftShrink {  // y = x - lambda if x > lambda, x + lambda if x < -lambda, else 0
  static constexpr int parameters = 1;
  template <class V, class S> static NNK_FN V apply(const S* p, V x) {
    return x - clamp(x, S(-p[0]), p[0]);
  }
};

struct HardShrink {  // y = x if |x| > lambda else 0
  static constexpr int parameters = 1;
  template <class V, class S> static NNK_FN V apply(const S* p, V x) {
    return where(abs(x) <= p[0], V::splat(S(0)), x);
  }
};

// dx = dy where |x| > lambda, else 0: of both
struct ShrinkBackward {
  static constexpr int parameters = 1;
  template <class V, class S> static NNK_FN V apply(const S* p, V dy, V x) {
    return where(abs(x) <= p[0], V::splat(S(0)), dy);
  }
};

}  // namespace nnk
