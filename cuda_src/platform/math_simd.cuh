// The functions of the CPU platform under the names that Vec and the scalars use.
#pragma once
#include "platform/math_simd_double.cuh"
#include "platform/math_simd_float.cuh"

namespace nnk {

template <class T, int N> struct RegisterMathImpl;
template <int N> struct RegisterMathImpl<float, N> { using type = FloatMath<N>; };
template <int N> struct RegisterMathImpl<double, N> { using type = DoubleMath<N>; };
template <class T, int N> using RegisterMath = typename RegisterMathImpl<T, N>::type;

template <class T, int N> NNK_FN RegisterMath<T, N> math_of(const Vec<T, N>&) { return {}; }

// A function of a Vec works on a few registers at a time: each is a chain of dependent
// instructions, and chains side by side hide part of each other's latency (5 to 10 %
// measured with 4 against 1), as long as they fit into the registers.
#if NNK_AVX512 || defined(__aarch64__)
constexpr int math_registers = 4;  // of 32
#else
constexpr int math_registers = 2;  // of 16
#endif

template <int Registers, class T, int N, class F>
NNK_FN Vec<T, N> apply_math(const Vec<T, N>& x, F f) {
  constexpr int lanes = Vec<T, N>::lanes, registers = Vec<T, N>::registers;
  if constexpr (registers <= Registers) {
    return f(x);
  } else if constexpr (registers % Registers != 0) {
    return apply_math<Registers - 1>(x, f);
  } else {
    using Part = Vec<T, Registers * lanes>;
    Vec<T, N> r;
    NNK_UNROLL
    for (int k = 0; k < registers; k += Registers) {
      Part part;
      NNK_UNROLL
      for (int i = 0; i < Registers; ++i) part.reg[i] = x.reg[k + i];
      part = f(part);
      NNK_UNROLL
      for (int i = 0; i < Registers; ++i) r.reg[k + i] = part.reg[i];
    }
    return r;
  }
}

// What math_scalar.cuh takes for a mathematics library (NNK_LIBM): the same functions on
// one lane. Sines and cosines, which only complex numbers need, and which are not
// vectorised, come from the compiler's library.
namespace libm {

#define NNK_LIBM_FUNCTION(name)                                                            \
  NNK_FN float name##f(float x) { return FloatMath<1>::name(Vec<float, 1>::splat(x))[0]; } \
  NNK_FN double name(double x) { return DoubleMath<1>::name(Vec<double, 1>::splat(x))[0]; }
NNK_LIBM_FUNCTION(exp)
NNK_LIBM_FUNCTION(expm1)
NNK_LIBM_FUNCTION(log)
NNK_LIBM_FUNCTION(log1p)
NNK_LIBM_FUNCTION(tanh)
NNK_LIBM_FUNCTION(erf)
NNK_LIBM_FUNCTION(erfc)
#undef NNK_LIBM_FUNCTION

NNK_FN float sqrtf(float x) { return __builtin_sqrtf(x); }
NNK_FN double sqrt(double x) { return __builtin_sqrt(x); }
NNK_FN float sinf(float x) { return __builtin_sinf(x); }
NNK_FN double sin(double x) { return __builtin_sin(x); }
NNK_FN float cosf(float x) { return __builtin_cosf(x); }
NNK_FN double cos(double x) { return __builtin_cos(x); }
// The same for what nnk/fused_math.cuh takes lane by lane.
NNK_FN float tanf(float x) { return __builtin_tanf(x); }
NNK_FN double tan(double x) { return __builtin_tan(x); }
NNK_FN float exp2f(float x) { return __builtin_exp2f(x); }
NNK_FN double exp2(double x) { return __builtin_exp2(x); }
NNK_FN float log2f(float x) { return __builtin_log2f(x); }
NNK_FN double log2(double x) { return __builtin_log2(x); }
NNK_FN float powf(float x, float y) { return __builtin_powf(x, y); }
NNK_FN double pow(double x, double y) { return __builtin_pow(x, y); }
NNK_FN float fmodf(float x, float y) { return __builtin_fmodf(x, y); }
NNK_FN double fmod(double x, double y) { return __builtin_fmod(x, y); }
NNK_FN float copysignf(float x, float y) { return __builtin_copysignf(x, y); }
NNK_FN double copysign(double x, double y) { return __builtin_copysign(x, y); }
NNK_FN float fabsf(float x) { return __builtin_fabsf(x); }
NNK_FN double fabs(double x) { return __builtin_fabs(x); }
// One rounding where the machine has the instruction, else two: a software fma would take
// a hundred times as long.
NNK_FN float fmaf(float a, float b, float c) { return a * b + c; }
NNK_FN double fma(double a, double b, double c) { return a * b + c; }

}  // namespace libm
}  // namespace nnk

#include "platform/math_scalar.cuh"

namespace nnk {

#define NNK_VEC_FUNCTION(name)                                                         \
  template <class T, int N> NNK_FN Vec<T, N> name(const Vec<T, N>& a) {                \
    if constexpr (is_complex<T>)                                                       \
      return map_registers<Vec<T, N>>([](T x) NNK_INLINE { return nnk::name(x); }, a); \
    else                                                                               \
      return apply_math<math_registers>(                                               \
          a, [](const auto& x) NNK_INLINE { return math_of(x).name(x); });             \
  }
NNK_VEC_FUNCTION(exp)
NNK_VEC_FUNCTION(expm1)
NNK_VEC_FUNCTION(log)
NNK_VEC_FUNCTION(log1p)
NNK_VEC_FUNCTION(tanh)
NNK_VEC_FUNCTION(erf)
NNK_VEC_FUNCTION(erfc)
#undef NNK_VEC_FUNCTION

// The functions below are for fused functions: nnk/fused_math.cuh.

// 2^x = 2^n e^((x - n) ln 2), n the nearest whole number.
template <class T, int N> NNK_FN Vec<T, N> exp2(const Vec<T, N>& x) {
  return apply_math<math_registers>(x, [](const auto& part) NNK_INLINE {
    const auto math = math_of(part);
    constexpr T most = sizeof(T) == 4 ? 130 : 1030, least = sizeof(T) == 4 ? -152 : -1078;
    const auto y = math.at_least(math.at_most(part, most), least), n = math.shifted_round(y);
    const auto r = (y - math.unshifted(n)) * T(0.693147180559945309417);
    return math.scale(math.exp_polynomial(r), n);
  });
}
// The exponent is added last, so that powers of two are exact.
template <class T, int N> NNK_FN Vec<T, N> log2(const Vec<T, N>& x) {
  return apply_math<math_registers>(x, [](const auto& part) NNK_INLINE {
    const auto math = math_of(part);
    const auto m = math.mantissa_of(part + T(0)), n = math.exponent_of(part, m);  // +0 for -0
    const auto fraction = math.log_polynomial(m - T(1), math.splat(T(0)));
    return math.log_special(part, fraction * T(1.44269504088896340736) + n);
  });
}
template <class T, int N> NNK_FN Vec<T, N> copysign(const Vec<T, N>& x, const Vec<T, N>& sign) {
  return math_of(x).copysign(x, sign);
}

}  // namespace nnk
