// exp, log, tanh, erf and their relatives for float registers.
//
// Every function is straight-line code: each lane computes the general formula, and lanes
// with special arguments are selected afterwards. No step depends on fused multiply-add,
// so that machines without it stay within the stated errors.
//
// Polynomials: minimax fits by the Remez exchange in 45 digits, for the error relative to
// the function, coefficients rounded to float one after another and the rest fitted again.
// "fit 2^-28" is the largest relative error of the polynomial alone.
//
// Largest errors found, in units of the last place, over 16 million arguments spread over all
// floats, with and without fused multiply-add:
//     exp 0.86, 1.14   expm1 1.5, 1.6   log 0.85   log1p 1.3   tanh 1.9, 2.0
//     erf 1.5, 1.9     erfc 3.2 (by the table of AVX-512 2.8)   sqrt 0.5   rsqrt 1.5
#pragma once
#include "platform/math_simd_common.cuh"
#include "platform/math_simd_table.cuh"

namespace nnk {

template <int N> struct FloatMath : MathCommon<float, N> {
  using Common = MathCommon<float, N>;
  using Common::at_least, Common::at_most, Common::bits_of, Common::copysign, Common::exponent_for,
      Common::exponent_of, Common::from_bits, Common::mantissa_of, Common::power_of_two,
      Common::remainder_for, Common::scale, Common::splat;
  using typename Common::F;

  // e^r on |r| <= ln(2) / 2: degree 6, fit 2^-28.2.
  static NNK_FN F exp_polynomial(const F& r) {
    F p = r * 0x1.6ab6eap-10f + 0x1.123d5ep-7f;
    p = p * r + 0x1.55585ap-5f;
    p = p * r + 0x1.55548cp-3f;
    p = p * r + 0x1.fffffcp-2f;
    p = p * r + 1.0f;
    return p * r + 1.0f;
  }
  // e^r - 1 on |r| <= ln(2) / 2: degree 6, fit 2^-26.1.
  static NNK_FN F expm1_polynomial(const F& r) {
    F p = r * 0x1.6acb12p-10f + 0x1.122bf2p-7f;
    p = p * r + 0x1.555798p-5f;
    p = p * r + 0x1.5554aap-3f;
    p = p * r + 0x1.fffffep-2f;
    return p * (r * r) + r;
  }

  static NNK_FN F exp(const F& x) {
    constexpr float least = -104.0f;
    const F below = at_most(x, 89.0f);  // inf beyond
    const F y = Common::use_avx512 ? below : at_least(below, least), n = exponent_for(y);
    return Common::scale_above(exp_polynomial(remainder_for(y, n)), n, x, least);
  }

  static NNK_FN F expm1(const F& x) {
    const F y = at_least(at_most(x, 89.0f), -20.0f), n = exponent_for(y);
    // 2^n (q + 1) - 1 as 2 (2^(n-1) q + (2^(n-1) - 1/2)), since n may be 128.
    const F s = power_of_two(bits_of(n) - 1);
    const F r = (s * expm1_polynomial(remainder_for(y, n)) + (s - 0.5f)) * 2.0f;
    return where(abs(x) < 0x1p-60f, x, r);  // -0, and subnormal numbers that s would halve
  }

  // tanh |x| = q / (2 - q) with q = -expm1(-2 |x|), which cannot overflow. The residual of
  // the quotient is that of the unrounded 2 - q, and its first difference is exact.
  static NNK_FN F tanh(const F& x) {
    const F y = at_least(abs(x) * -2.0f, -20.0f), n = exponent_for(y);
    const F s = power_of_two(bits_of(n));
    const F q = (1.0f - s) - s * expm1_polynomial(remainder_for(y, n));
    const F r = Common::rough_reciprocal(2.0f - q), t = q * r;
    return copysign(t + ((q - t * 2.0f) + t * q) * r, x);
  }

  // ---- logarithm ----------------------------------------------------------------------

  // log(1 + f) + n ln 2 for f in [-1/4, 1/2]: f - f^2/2 + f^3 P(f), P of degree 7,
  // fit 2^-27.5. Both parts of ln 2 are positive, so that n = -inf and n = inf pass.
  static NNK_FN F log_polynomial(const F& f, const F& n) {
    F p = f * -0x1.6cb67ep-5f + 0x1.aa6c6p-4f;
    p = p * f + -0x1.0d6878p-3f;
    p = p * f + 0x1.28a1a8p-3f;
    p = p * f + -0x1.54f5aep-3f;
    p = p * f + 0x1.9968c6p-3f;
    p = p * f + -0x1.00002cp-2f;
    p = p * f + 0x1.5555a4p-2f;
    const F f2 = f * f;
    F r = p * (f2 * f) + n * 0x1.0bfbe8p-15f;
    r = f2 * -0.5f + r;
    return (f + r) + n * 0x1.62ep-1f;
  }
  static NNK_FN F log(const F& x) {
    const F m = mantissa_of(x);
    return Common::log_special(x, log_polynomial(m - 1.0f, exponent_of(x, m)));
  }
  static NNK_FN F log1p(const F& x) {
    const F u = x + 1.0f, m = mantissa_of(u), n = exponent_of(u, m);
    const F f = (m - 1.0f) + Common::lost_of_one_plus(x, u, n);
    return copysign(Common::log_special(u, log_polynomial(f, n)), x);
  }

  // ---- error function -------------------------------------------------------------------

  // erf(x) for |x| < 0.85: x + x P(x^2), P of degree 5, fit 2^-27.1.
  static NNK_FN F erf_small(const F& x) {
    const F z = x * x;
    F p = z * -0x1.4cd86p-11f + 0x1.4b763p-8f;
    p = p * z + -0x1.b735eap-6f;
    p = p * z + 0x1.ce256ap-4f;
    p = p * z + -0x1.812726p-2f;
    p = p * z + 0x1.06eba8p-3f;
    return x * p + x;
  }
  // Beyond 0.85: 1 - 2^T(|x|), where T has degree 6 and the result fit 2^-28.7; at 4 it is 1.
  static NNK_FN F erf(const F& x) {
    const F a = abs(x);
    const F y = at_most(a, 4.0f);
    F t = y * 0x1.341f08p-12f + -0x1.26ca26p-8f;
    t = t * y + 0x1.0a249cp-5f;
    t = t * y + -0x1.34d62p-3f;
    t = t * y + -0x1.d62bc8p-1f;
    t = t * y + -0x1.a0a06ep0f;
    t = t * y + -0x1.3c45cp-13f;
    const F n = Common::shifted_round(t), r = t - Common::unshifted(n);
    // 2^r on |r| <= 1/2: degree 5, fit 2^-23.3, and at most 0.23 of the result.
    F q = r * 0x1.5cd8cap-10f + 0x1.3cf732p-7f;
    q = q * r + 0x1.c6b576p-5f;
    q = q * r + 0x1.ebf99cp-3f;
    q = q * r + 0x1.62e42ap-1f;
    q = q * r + 1.0f;
    const F large = copysign(1.0f - q * power_of_two(bits_of(n)), x);
    return where(a < 0.85f, erf_small(x), large);
  }

  // erfc(|x|) = exp(-x^2) erfcx(|x|); for x < 0: 2 - that. Where no table serves, the rational
  // erfcx has an error of 4.6 ulp near 0: there 1 - erf(x).
  static NNK_FN F erfc(const F& x) {
    const F a = at_most(abs(x), 10.2f);  // beyond it is 0
    // x^2 = square + rest exactly: an error of x^2 is one of the exponent.
#if NNK_AVX512
    if constexpr (F::lanes == 16) {
      const F square = a * a, n = Common::exponent_for_minus(square);
      const F rest = map_registers<F>(
          [](auto y, auto z) NNK_INLINE { return x86::fused_subtract(y, y, z); }, a, square);
      const F positive = scale(
          exp_polynomial(Common::remainder_for_minus(square, rest, n)) * erfcx_by_table(a), n);
      return where(x < 0.0f, 2.0f - positive, positive);
    }
#endif
    const F high = from_bits(bits_of(a) & 0xfffff000u), square = high * high,
            rest = (a - high) * (a + high);
    const F n = Common::exponent_for_minus(square + rest);
    const F positive =
        scale(exp_polynomial(Common::remainder_for_minus(square, rest, n)) * erfcx(a), n);
    return where(a < 0.5f, 1.0f - erf_small(x), where(x < 0.0f, 2.0f - positive, positive));
  }

 private:
  // exp(a^2) erfc(a) = P(u) / (1 + 2 a) with u = (a - 3) / (a + 3), after Shepherd & Laframboise,
  // Mathematics of Computation 36 (1981); P of degree 10, fit 2^-28.4.
  static NNK_FN F erfcx(const F& a) {
    const F r = Common::rough_reciprocal(a + 3.0f), v = (a - 3.0f) * r;
    const F u = v + r * ((a - (v + 1.0f) * 3.0f) - a * v);  // the residual (a - 3) - v (a + 3)
    F p = u * -0x1.1a48p-12f + -0x1.97c4f4p-11f;
    p = p * u + 0x1.06e01p-9f;
    p = p * u + 0x1.50dc8cp-9f;
    p = p * u + -0x1.85ec4p-6f;
    p = p * u + 0x1.17bbfap-4f;
    p = p * u + -0x1.e8887cp-4f;
    p = p * u + 0x1.098426p-3f;
    p = p * u + -0x1.85a19ap-5f;
    p = p * u + -0x1.15c08ap-3f;
    p = p * u + 0x1.8a45b8p-9f;
    p = p + 1.25f;  // the leading coefficient in two parts, for its digits
    const F s = Common::rough_reciprocal(a * 2.0f + 1.0f), w = p * s;
    return w + s * ((p - w) - (a * 2.0f) * w);  // p / (1 + 2 a)
  }
};

}  // namespace nnk
