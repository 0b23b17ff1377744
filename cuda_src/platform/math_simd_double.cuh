// exp, log, tanh, erf and their relatives for double registers: the forms of
// math_simd_float.cuh with longer polynomials.
//
// Largest errors found, in units of the last place, over 6 million arguments, with and without
// fused multiply-add:
//     exp 1.0, 1.2   expm1 1.9, 2.0   log 0.95   log1p 0.95   tanh 2.1, 2.3
//     erf 1.1, 1.4   erfc 3.4, 3.9    sqrt 0.5   rsqrt 1.5
#pragma once
#include "platform/math_simd_common.cuh"

namespace nnk {

template <int N> struct DoubleMath : MathCommon<double, N> {
  using Common = MathCommon<double, N>;
  using Common::at_least, Common::at_most, Common::bits_of, Common::copysign, Common::exponent_for,
      Common::exponent_of, Common::from_bits, Common::mantissa_of, Common::power_of_two,
      Common::remainder_for, Common::scale, Common::splat;
  using typename Common::F;

  // e^r on |r| <= ln(2) / 2: degree 11, fit 2^-57.9.
  static NNK_FN F exp_polynomial(const F& r) {
    F p = r * 0x1.adc43a648e7d4p-26 + 0x1.28aef43078599p-22;
    p = p * r + 0x1.71deffdbb92e4p-19;
    p = p * r + 0x1.a0199875f87b9p-16;
    p = p * r + 0x1.a01a013862542p-13;
    p = p * r + 0x1.6c16c184bbdd6p-10;
    p = p * r + 0x1.1111111125a9dp-7;
    p = p * r + 0x1.55555555505f4p-5;
    p = p * r + 0x1.55555555555p-3;
    p = p * r + 0x1.000000000000ap-1;
    p = p * r + 1.0;
    return p * r + 1.0;
  }
  // e^r - 1 on |r| <= ln(2) / 2: degree 12, fit 2^-59.7.
  static NNK_FN F expm1_polynomial(const F& r) {
    F p = r * 0x1.1ee8493b49476p-29 + 0x1.af5ee74d02792p-26;
    p = p * r + 0x1.27e53687a6054p-22;
    p = p * r + 0x1.71ddf842a5aep-19;
    p = p * r + 0x1.a01a017b83ef6p-16;
    p = p * r + 0x1.a01a01afe95ddp-13;
    p = p * r + 0x1.6c16c16c1f19ap-10;
    p = p * r + 0x1.111111110f6aap-7;
    p = p * r + 0x1.555555555553ep-5;
    p = p * r + 0x1.5555555555559p-3;
    p = p * r + 0.5;
    return p * (r * r) + r;
  }

  static NNK_FN F exp(const F& x) {
    constexpr double least = -746.0;
    const F below = at_most(x, 710.0);  // inf beyond
    const F y = Common::use_avx512 ? below : at_least(below, least), n = exponent_for(y);
    return Common::scale_above(exp_polynomial(remainder_for(y, n)), n, x, least);
  }
  static NNK_FN F expm1(const F& x) {
    const F y = at_least(at_most(x, 710.0), -40.0), n = exponent_for(y);
    const F s = power_of_two(bits_of(n) - 1);
    const F r = (s * expm1_polynomial(remainder_for(y, n)) + (s - 0.5)) * 2.0;
    return where(abs(x) < 0x1p-80, x, r);
  }
  static NNK_FN F tanh(const F& x) {
    const F y = at_least(abs(x) * -2.0, -40.0), n = exponent_for(y);
    const F s = power_of_two(bits_of(n));
    const F q = (1.0 - s) - s * expm1_polynomial(remainder_for(y, n));
    const F r = Common::rough_reciprocal(2.0 - q), t = q * r;
    return copysign(t + ((q - t * 2.0) + t * q) * r, x);
  }

  // ---- logarithm ----------------------------------------------------------------------

  // log(1 + f) + n ln 2 for f in [-1/4, 1/2]: with s = f / (2 + f) and z = s^2,
  // log(1 + f) = 2 atanh(s) = 2 s + s z R(z), R of degree 6, fit 2^-55.9; the leading terms
  // are taken as f - (f^2/2 - s (f^2/2 + z R)), which keeps f exact.
  static NNK_FN F log_polynomial(const F& f, const F& n) {
    const F r = Common::rough_reciprocal(f + 2.0), v = f * r;
    const F s = v + r * ((f - v * 2.0) - v * f), z = s * s, half_square = f * f * 0.5;
    F p = z * 0x1.3ad6dc012f991p-3 + 0x1.384fb572093bbp-3;
    p = p * z + 0x1.74750a1de679cp-3;
    p = p * z + 0x1.c71c007329ba3p-3;
    p = p * z + 0x1.249249b392f59p-2;
    p = p * z + 0x1.99999998eec4dp-2;
    p = p * z + 0x1.555555555577dp-1;
    const F low = s * (half_square + z * p) + n * 0x1.a39ef35793c76p-33;
    return n * 0x1.62e42feep-1 - ((half_square - low) - f);
  }
  static NNK_FN F log(const F& x) {
    const F m = mantissa_of(x + 0.0);  // -0 would have the mantissa -1
    return Common::log_special(x, log_polynomial(m - 1.0, exponent_of(x, m)));
  }
  static NNK_FN F log1p(const F& x) {
    const F u = x + 1.0, m = mantissa_of(u), n = exponent_of(u, m);
    const F f = (m - 1.0) + Common::lost_of_one_plus(x, u, n);
    return copysign(Common::log_special(u, log_polynomial(f, n)), x);
  }

  // ---- error function -------------------------------------------------------------------

  // erfc(a) for 0 <= a <= 27.3: exp(-a^2) P(u) / (1 + 2 a) with u = (a - 3.75) / (a + 3.75)
  // (Shepherd & Laframboise, Mathematics of Computation 36, 1981); degree 22, fit 2^-55.4.
  static NNK_FN F erfc_positive(const F& a) {
    const F r = Common::rough_reciprocal(a + 3.75), v = (a - 3.75) * r;
    const F u = v + r * ((a - (v + 1.0) * 3.75) - a * v);  // the residual (a - k) - v (a + k)
    F p = u * -0x1.34419f6a81a92p-29 + -0x1.c7a2809079812p-32;
    p = p * u + 0x1.1961d85589c06p-25;
    p = p * u + 0x1.fa5309d25b5fbp-27;
    p = p * u + -0x1.0fd0f975da051p-22;
    p = p * u + -0x1.915af98e49343p-25;
    p = p * u + 0x1.d5858cb798d5fp-20;
    p = p * u + -0x1.0759528a2ac98p-20;
    p = p * u + -0x1.7ffd4a501ed5dp-17;
    p = p * u + 0x1.7799ea554a049p-16;
    p = p * u + 0x1.b143f4cfdcefep-15;
    p = p * u + -0x1.303fe5f8e031ep-12;
    p = p * u + 0x1.33fb22dd3aa54p-12;
    p = p * u + 0x1.cc3a11706680fp-10;
    p = p * u + -0x1.3f603c2e64814p-7;
    p = p * u + 0x1.d0b00377eaae3p-6;
    p = p * u + -0x1.e0d0fa6e2b46bp-5;
    p = p * u + 0x1.7a14188ab0ffbp-4;
    p = p * u + -0x1.bda9309a276a8p-4;
    p = p * u + 0x1.510169d095d4fp-4;
    p = p * u + 0x1.d5f2948159284p-9;
    p = p * u + -0x1.1f367683f899bp-3;
    p = p * u + -0x1.992fa51511ec1p-7;
    p = p + 1.25;  // the leading coefficient in two parts, for its digits

    // a^2 = high^2 + rest with high^2 exact: an error of a^2 is one of the exponent.
    const F high = from_bits(bits_of(a) & 0xfffffffff8000000ull), rest = (a - high) * (a + high);
    const F square = high * high, n = Common::exponent_for_minus(square + rest);
    const F r2 = Common::rough_reciprocal(a * 2.0 + 1.0), w = p * r2;
    const F scaled = w + r2 * ((p - w) - (a * 2.0) * w);  // p / (1 + 2 a)
    return scale(exp_polynomial(Common::remainder_for_minus(square, rest, n)) * scaled, n);
  }
  static NNK_FN F erfc(const F& x) {
    const F a = abs(x), positive = erfc_positive(at_most(a, 27.3));
    return where(a < 0.5, 1.0 - erf_small(x), where(x < 0.0, 2.0 - positive, positive));
  }

  // erf(x) for |x| < 1: x + x P(x^2), P of degree 11, fit 2^-55.4.
  static NNK_FN F erf_small(const F& x) {
    const F z = x * x;
    F p = z * -0x1.abae3feb3b204p-31 + 0x1.d71b0b5920279p-27;
    p = p * z + -0x1.5c07264d1fc82p-23;
    p = p * z + 0x1.b97fd3bb893c9p-20;
    p = p * z + -0x1.f4ca4d6bfcba6p-17;
    p = p * z + 0x1.f9a2baa8c9e11p-14;
    p = p * z + -0x1.c02db03dd562ap-11;
    p = p * z + 0x1.565bccf92b2dcp-8;
    p = p * z + -0x1.b82ce311fa949p-6;
    p = p * z + 0x1.ce2f21a040d17p-4;
    p = p * z + -0x1.812746b0379bdp-2;
    p = p * z + 0x1.06eba8214db68p-3;
    return x * p + x;
  }
  static NNK_FN F erf(const F& x) {
    const F a = abs(x), large = copysign(1.0 - erfc_positive(at_most(a, 6.0)), x);
    return where(a < 1.0, erf_small(x), large);
  }
};

}  // namespace nnk
