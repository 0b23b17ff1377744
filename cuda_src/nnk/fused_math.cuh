// Functions of Vecs that fused functions have and no other kernel needs.
//
// On a CPU they are straight-line code over registers, like those of the platform; sin, cos, tan,
// fmod and the general power go lane by lane through the compiler's library. On a GPU each lane
// calls the library.
#pragma once
#include "nnk/types.cuh"

namespace nnk {

// A function of one lane for all of them. On a CPU the loop stays one: 64 calls in a row would only
// be longer.
template <class T, int N, class F> NNK_FN Vec<T, N> each_lane(const Vec<T, N>& x, F f) {
  if constexpr (lanes_are_simd) {
    alignas(64) T lane[N];
    nnk::store(lane, x);
    NNK_NO_UNROLL
    for (int i = 0; i < N; ++i) lane[i] = f(lane[i]);
    return nnk::load<N>(lane);
  } else {
    Vec<T, N> r;
    NNK_UNROLL
    for (int i = 0; i < N; ++i) r.set(i, f(x[i]));
    return r;
  }
}
template <class T, int N, class F>
NNK_FN Vec<T, N> each_lane(const Vec<T, N>& x, const Vec<T, N>& y, F f) {
  if constexpr (lanes_are_simd) {
    alignas(64) T a[N], b[N];
    nnk::store(a, x);
    nnk::store(b, y);
    NNK_NO_UNROLL
    for (int i = 0; i < N; ++i) a[i] = f(a[i], b[i]);
    return nnk::load<N>(a);
  } else {
    Vec<T, N> r;
    NNK_UNROLL
    for (int i = 0; i < N; ++i) r.set(i, f(x[i], y[i]));
    return r;
  }
}

template <class T, int N> NNK_FN Vec<T, N> sin(const Vec<T, N>& x) {
  return each_lane(x, [](T a) NNK_INLINE { return nnk::sin(a); });
}
template <class T, int N> NNK_FN Vec<T, N> cos(const Vec<T, N>& x) {
  return each_lane(x, [](T a) NNK_INLINE { return nnk::cos(a); });
}
template <class T, int N> NNK_FN Vec<T, N> tan(const Vec<T, N>& x) {
  return each_lane(x, [](T a) NNK_INLINE { return nnk::tan(a); });
}
template <class T, int N> NNK_FN Vec<T, N> fmod(const Vec<T, N>& x, const Vec<T, N>& y) {
  return each_lane(x, y, [](T a, T b) NNK_INLINE { return nnk::fmod(a, b); });
}
template <class T, int N> NNK_FN Vec<T, N> pow(const Vec<T, N>& x, const Vec<T, N>& y) {
  return each_lane(x, y, [](T a, T b) NNK_INLINE { return nnk::pow(a, b); });
}

// ---- rounding -----------------------------------------------------------------------------

// To the nearest whole number, ties to even: 2^23 (2^52) leaves no room for a fraction. Larger
// numbers, infinities and NaN are whole already.
template <class T, int N> NNK_FN Vec<T, N> round_even(const Vec<T, N>& x) {
  constexpr T shift = sizeof(T) == 4 ? T(8388608.0) : T(4503599627370496.0);
  const auto a = abs(x);
  return copysign(where(a < shift, (a + shift) - shift, a), x);
}
template <class T, int N> NNK_FN Vec<T, N> floor(const Vec<T, N>& x) {
  const auto r = round_even(x);
  return where(r > x, r - T(1), r);
}
template <class T, int N> NNK_FN Vec<T, N> ceil(const Vec<T, N>& x) {
  const auto r = round_even(x);
  // -1 + 1 is +0, and the ceiling of -0.7 is -0.
  return where(r < x, where(x < T(0), -abs(r + T(1)), r + T(1)), r);
}

// ---- logarithms -----------------------------------------------------------

// log(e^a + e^b), the exponential taken where it is at most 1.
template <class T, int N> NNK_FN Vec<T, N> logaddexp(const Vec<T, N>& a, const Vec<T, N>& b) {
  const auto high = max(a, b);
  // Two equal infinities have no difference.
  const auto distance = where(a == b, Vec<T, N>::splat(T(0)), abs(a - b));
  return high + log1p(exp(-distance));
}

// ---- hyperbolic functions -------------------------------------------------------------------

// With m = e^|x| - 1: (m + m / (m + 1)) / 2 keeps small x. e^|x| overflows before the result does:
// there as the product of two square roots.
template <class T, int N> NNK_FN Vec<T, N> sinh(const Vec<T, N>& x) {
  const auto a = abs(x), m = expm1(min(a, Vec<T, N>::splat(T(40)))), root = exp(a * T(0.5));
  const auto small = T(0.5) * (m + m / (m + T(1)));
  const auto r = where(a < T(30), small, T(0.5) * root * root);
  return where(x < T(0), -r, where(x == T(0), x, r));
}
template <class T, int N> NNK_FN Vec<T, N> cosh(const Vec<T, N>& x) {
  const auto root = exp(abs(x) * T(0.5));
  return T(0.5) * root * root + T(0.5) / root / root;
}

// ---- quotients as Python has them ------------------------------------------------------------

// -a without the overflow of a signed number.
template <class T> NNK_FN T negated(T a) {
  if constexpr (sizeof(T) == 8) return T(uint64(0) - uint64(a));
  else return T(uint32(0) - uint32(a));
}

// x - floor(x / y) y with the sign of y.
template <class T, int N> NNK_FN Vec<T, N> remainder(const Vec<T, N>& x, const Vec<T, N>& y) {
  if constexpr (is_floating<T>) {
    const auto r = fmod(x, y);
    const auto other_sign = ((r < T(0)) & (y > T(0))) | ((r > T(0)) & (y < T(0)));
    return where(r == T(0), copysign(r, y), where(other_sign, r + y, r));
  } else {
    return each_lane(x, y, [](T a, T b) NNK_INLINE {
      // 0 for division by zero, as NumPy has it; nothing remains of a division by -1, whose
      // quotient may overflow.
      const bool trivial = b == T(0) || T(b + T(1)) == T(0);
      const T m = (T(-1) < T(0) ? trivial : b == T(0)) ? T(0) : T(a % b);
      return m != T(0) && (m < T(0)) != (b < T(0)) ? T(m + b) : m;
    });
  }
}
template <class T, int N> NNK_FN Vec<T, N> floor_divide(const Vec<T, N>& x, const Vec<T, N>& y) {
  if constexpr (is_floating<T>) {
    // Python's: of the exact multiple, so that the rounding of x / y cannot lift the quotient.
    const auto quotient = (x - remainder(x, y)) / y, low = floor(quotient);
    const auto q = where(quotient - low > T(0.5), low + T(1), low);
    return where(y == T(0), x / y, where(quotient == T(0), copysign(q, x / y), q));
  } else {
    return each_lane(x, y, [](T a, T b) NNK_INLINE {
      const bool minus_one = T(-1) < T(0) && T(b + T(1)) == T(0);
      const T d = b == T(0) || minus_one ? T(1) : b;
      const T q = T(a / d), m = T(a % d);
      const T low = m != T(0) && (m < T(0)) != (d < T(0)) ? T(q - T(1)) : q;
      return b == T(0) ? T(0) : minus_one ? negated(a) : low;
    });
  }
}

}  // namespace nnk
