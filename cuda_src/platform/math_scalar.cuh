// Scalar functions for the platforms that take them from the compiler's mathematics
// library (cuda, hip, sim): exp and the rest for float, double and, where the function is
// defined there, complex numbers.
//
// Included after NNK_FN and half_to_float / float_to_half exist.
#pragma once
#include "nnk/types.cuh"

namespace nnk {

template <class T> NNK_FN T max(T a, T b) { return a > b || a != a ? a : b; }
template <class T> NNK_FN T min(T a, T b) { return a < b || a != a ? a : b; }
template <class T> NNK_FN T abs(T x) { return x < T(0) ? T(-x) : x; }

#define NNK_SCALAR_FUNCTION(name, float_name)                       \
  NNK_FN float name(float x) { return NNK_LIBM(float_name##f)(x); } \
  NNK_FN double name(double x) { return NNK_LIBM(float_name)(x); }
NNK_SCALAR_FUNCTION(exp, exp)
NNK_SCALAR_FUNCTION(expm1, expm1)
NNK_SCALAR_FUNCTION(log, log)
NNK_SCALAR_FUNCTION(log1p, log1p)
NNK_SCALAR_FUNCTION(tanh, tanh)
NNK_SCALAR_FUNCTION(erf, erf)
NNK_SCALAR_FUNCTION(erfc, erfc)
NNK_SCALAR_FUNCTION(sqrt, sqrt)
NNK_SCALAR_FUNCTION(sin, sin)
NNK_SCALAR_FUNCTION(cos, cos)
NNK_SCALAR_FUNCTION(tan, tan)
NNK_SCALAR_FUNCTION(exp2, exp2)
NNK_SCALAR_FUNCTION(log2, log2)
#undef NNK_SCALAR_FUNCTION

#define NNK_SCALAR_FUNCTION(name)                                         \
  NNK_FN float name(float x, float y) { return NNK_LIBM(name##f)(x, y); } \
  NNK_FN double name(double x, double y) { return NNK_LIBM(name)(x, y); }
NNK_SCALAR_FUNCTION(pow)
NNK_SCALAR_FUNCTION(fmod)
NNK_SCALAR_FUNCTION(copysign)
#undef NNK_SCALAR_FUNCTION

NNK_FN float abs(float x) { return NNK_LIBM(fabsf)(x); }
NNK_FN double abs(double x) { return NNK_LIBM(fabs)(x); }
NNK_FN float fma(float a, float b, float c) { return NNK_LIBM(fmaf)(a, b, c); }
NNK_FN double fma(double a, double b, double c) { return NNK_LIBM(fma)(a, b, c); }
template <class T> NNK_FN T fma(T a, T b, T c) { return T(a * b + c); }
template <class T> NNK_FN Complex<T> fma(Complex<T> a, Complex<T> b, Complex<T> c) {
  return {nnk::fma(-a.im, b.im, nnk::fma(a.re, b.re, c.re)),
          nnk::fma(a.im, b.re, nnk::fma(a.re, b.im, c.im))};
}
NNK_FN float rsqrt(float x) { return 1.0f / nnk::sqrt(x); }
NNK_FN double rsqrt(double x) { return 1.0 / nnk::sqrt(x); }

template <class To, class From> struct ScalarConversion {
  static NNK_FN To apply(From x) { return static_cast<To>(x); }
};
template <class T> struct ScalarConversion<T, T> {
  static NNK_FN T apply(T x) { return x; }
};
template <> struct ScalarConversion<float, half> {
  static NNK_FN float apply(half x) { return half_to_float(x); }
};
template <> struct ScalarConversion<half, float> {
  static NNK_FN half apply(float x) { return float_to_half(x); }
};
template <> struct ScalarConversion<float, bfloat16> {
  static NNK_FN float apply(bfloat16 x) { return bit_cast<float>(uint32(x.bits) << 16); }
};
template <> struct ScalarConversion<bfloat16, float> {
  static NNK_FN bfloat16 apply(float x) { return float_to_bfloat16(x); }
};
template <class To, class From> struct ScalarConversion<Complex<To>, From> {
  static NNK_FN Complex<To> apply(From x) { return {static_cast<To>(x), To(0)}; }
};
template <class To, class From> struct ScalarConversion<Complex<To>, Complex<From>> {
  static NNK_FN Complex<To> apply(Complex<From> x) {
    return {static_cast<To>(x.re), static_cast<To>(x.im)};
  }
};
template <class T> struct ScalarConversion<Complex<T>, Complex<T>> {
  static NNK_FN Complex<T> apply(Complex<T> x) { return x; }
};
template <class To, class From> NNK_FN To convert_scalar(From x) {
  if constexpr (is_narrow<From> && !is_same<To, From> && !is_same<To, float>)
    return nnk::convert_scalar<To>(nnk::convert_scalar<float>(x));
  else if constexpr (is_narrow<To> && !is_same<To, From> && !is_same<From, float>)
    return nnk::convert_scalar<To>(nnk::convert_scalar<float>(x));
  else return ScalarConversion<To, From>::apply(x);
}

}  // namespace nnk

#include "nnk/complex_math.cuh"
