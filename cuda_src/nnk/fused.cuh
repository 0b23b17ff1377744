// What generated functors of fused functions are made of: truth values, casts, small functions.
//
// A fused functor is
//     struct Parameters;                     its run-time scalars
//     static auto apply(const Parameters&, const Vec<T0, N>& x0, const Vec<T1, N>& x1, ...)
// where T0, T1, ... are the computing types of the operands (float for half and bfloat16; uint8
// for bool). It gives one Vec, or Several of them, each of the computing type of its result. It
// loads and stores nothing: the elementwise kernel, or the epilogue of another, does.
#pragma once
#include "nnk/fused_math.cuh"
#include "nnk/results.cuh"

namespace nnk {

// The scalars of an activation, side by side.
template <class S, int N> struct Numbers { S value[N]; };

// ---- truth values ---------------------------------------------------------------------------

template <class T, int N> NNK_FN Mask<T, N> is_true(const Vec<T, N>& x) { return x != T(0); }
// A mask for lanes of another type.
template <class U, class T, int N> NNK_FN Mask<U, N> mask_as(const Mask<T, N>& m) {
  if constexpr (is_same<U, T>) {
    return m;
  } else {
    return convert<U>(where(m, Vec<T, N>::splat(T(1)), Vec<T, N>::splat(T(0)))) != U(0);
  }
}
// 1 for true, 0 for false.
template <class U, class T, int N> NNK_FN Vec<U, N> number_of(const Mask<T, N>& m) {
  return convert<U>(where(m, Vec<T, N>::splat(T(1)), Vec<T, N>::splat(T(0))));
}
template <class T, int N> NNK_FN Mask<T, N> exclusive_or(const Mask<T, N>& a, const Mask<T, N>& b) {
  return (a & !b) | (b & !a);
}

template <class T, int N> NNK_FN Mask<T, N> isnan(const Vec<T, N>& x) { return x != x; }
template <class T, int N> NNK_FN Mask<T, N> isinf(const Vec<T, N>& x) {
  return abs(x) == Limits<T>::infinity();
}
template <class T, int N> NNK_FN Mask<T, N> isfinite(const Vec<T, N>& x) {
  return abs(x) < Limits<T>::infinity();
}

// ---- numbers ----------------------------------------------------------------------------------

// Rounded to a narrow type, for an `astype` that asks for it.
template <class U, class T, int N> NNK_FN Vec<T, N> rounded_to(const Vec<T, N>& x) {
  return convert<T>(convert<U>(x));
}
template <class T, int N> NNK_FN Vec<T, N> sign(const Vec<T, N>& x) {
  const auto zero = Vec<T, N>::splat(T(0)), one = Vec<T, N>::splat(T(1));
  if constexpr (is_floating<T>) {
    return where(x > T(0), one, where(x < T(0), -one, where(x == T(0), zero, x)));
  } else if constexpr (T(-1) < T(0)) {
    return where(x > T(0), one, where(x < T(0), -one, zero));
  } else {
    return where(x > T(0), one, zero);
  }
}
template <class T, int N> NNK_FN Vec<T, N> square(const Vec<T, N>& x) { return x * x; }
template <class T, int N> NNK_FN Vec<T, N> cube(const Vec<T, N>& x) { return x * x * x; }
template <class T, int N> NNK_FN Vec<T, N> fourth_power(const Vec<T, N>& x) {
  return square(square(x));
}
template <class T, int N> NNK_FN Vec<T, N> reciprocal(const Vec<T, N>& x) { return T(1) / x; }

}  // namespace nnk
