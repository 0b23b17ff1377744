// What the float and the double functions share: signs, exponents, argument reduction.
#pragma once
#include "platform/vec_simd.cuh"

namespace nnk {

template <class T> struct FloatFormat;
template <> struct FloatFormat<float> {
  using Integer = uint32;
  static constexpr int fraction_bits = 23, bias = 127;
  static constexpr float round_shift = 0x1.8p23f;  // adding it leaves no room for a fraction
  static constexpr float smallest_normal = 0x1p-126f;
  // ln 2 in two parts; the high one has 15 bits, so that it times an exponent is exact.
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f, log2_e = 0x1.715476p0f;
};
template <> struct FloatFormat<double> {
  using Integer = uint64;
  static constexpr int fraction_bits = 52, bias = 1023;
  static constexpr double round_shift = 0x1.8p52;
  static constexpr double smallest_normal = 0x1p-1022;
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;  // 32 bits
  static constexpr double log2_e = 0x1.71547652b82fep0;
};

template <class T, int N> struct MathCommon {
  using F = Vec<T, N>;
  using Format = FloatFormat<T>;
  using Int = typename Format::Integer;
  using I = Vec<Int, N>;
  static constexpr Int sign_bit = Int(1) << (8 * sizeof(T) - 1);
  static constexpr Int one_exponent = Int(1) << Format::fraction_bits;  // 1 in the exponent field
  static constexpr Int one_bits = Format::bias * one_exponent,
                       three_quarters = one_bits - one_exponent / 2;
  // The AVX-512 instructions serve scalars and registers of at least 16 bytes.
  static constexpr bool use_avx512 = NNK_AVX512 && (F::lanes == 1 || F::lanes * sizeof(T) >= 16);

  static NNK_FN F splat(T x) { return F::splat(x); }
  static NNK_FN I bits_of(const F& x) { return bits_as<Int>(x); }
  static NNK_FN F from_bits(const I& x) { return bits_as<T>(x); }
  // The magnitude of x with the sign of `sign`.
  static NNK_FN F copysign(const F& x, const F& sign) {
    return from_bits((bits_of(x) & ~sign_bit) | (bits_of(sign) & sign_bit));
  }
  // NaN stays NaN.
  static NNK_FN F at_most(const F& x, T bound) { return lesser(splat(bound), x); }
  static NNK_FN F at_least(const F& x, T bound) { return greater(splat(bound), x); }

  // ---- powers of two --------------------------------------------------------------------

  // The whole number nearest to x, "shifted": Format::round_shift added, so that it stands
  // in the low bits. (A struct of two Vecs would do, but g++ 12 writes such structs to the
  // stack.)
  static NNK_FN F shifted_round(const F& x) { return x + Format::round_shift; }
  static NNK_FN F unshifted(const F& n) { return n - Format::round_shift; }
  // 2^n for a normal result, n an integer or the bits of a shifted one.
  static NNK_FN F power_of_two(const I& n) {
    return from_bits((n << Format::fraction_bits) + one_bits);
  }
  // x 2^n (n shifted) with one rounding, also to subnormal results and to inf, for x near 1.
  static NNK_FN F scale(const F& x, const F& n) {
#if NNK_AVX512
    if constexpr (use_avx512)
      return map_registers<F>([](auto a, auto b) NNK_INLINE { return x86::scale<T>(a, b); }, x,
                              unshifted(n));
#endif
    const I half_n = bits_of(shifted_round(unshifted(n) * T(0.5)));
    return x * power_of_two(half_n) * power_of_two(bits_of(n) - half_n);
  }

  // The same, and 0 where a < least, for results that would round to 0: a product that underflows
  // takes a processor 30 times as long as others, and what attention masks is nothing else. There,
  // p and n have to be finite where AVX-512 is not used.
  static NNK_FN F scale_above(const F& p, const F& n, const F& a, T least) {
#if NNK_AVX512
    if constexpr (use_avx512)
      return map_registers<F>([](auto x, auto k, auto b, auto low)
                                  NNK_INLINE { return x86::scale_above<T>(x, k, b, low); },
                              p, unshifted(n), a, splat(least));
#endif
    const I half_n = bits_of(shifted_round(unshifted(n) * T(0.5)));
    const F first = where(a < least, splat(T(0)), power_of_two(half_n));
    return p * first * power_of_two(bits_of(n) - half_n);
  }

  // x = n ln 2 + r with |r| <= ln(2) / 2 (Cody & Waite, Software Manual for the Elementary
  // Functions, 1980): n, shifted, and r.
  static NNK_FN F exponent_for(const F& x) { return shifted_round(x * Format::log2_e); }
  static NNK_FN F remainder_for(const F& x, const F& n) {
    return x - unshifted(n) * Format::ln2_high - unshifted(n) * Format::ln2_low;
  }
  // The same for x = -(a + rest), where rest is small and kept apart for its digits.
  static NNK_FN F exponent_for_minus(const F& a) { return shifted_round(a * -Format::log2_e); }
  static NNK_FN F remainder_for_minus(const F& a, const F& rest, const F& n) {
    return ((unshifted(n) * -Format::ln2_high - a) - rest) - unshifted(n) * Format::ln2_low;
  }

  // x = mantissa * 2^exponent, mantissa in [3/4, 3/2); of positive x, inf or NaN. On AVX-512
  // also of +0 (exponent -inf) and of x < 0 (mantissa NaN).
  static NNK_FN F mantissa_of(const F& x) {
#if NNK_AVX512
    if constexpr (use_avx512)
      return map_registers<F>([](auto a) NNK_INLINE { return x86::mantissa<T>(a); }, x);
#endif
    const F y = normal_of(x);
    return from_bits(bits_of(y) -
                     ((biased_exponent(y) - Int(exponent_offset)) << Format::fraction_bits));
  }
  static NNK_FN F exponent_of(const F& x, [[maybe_unused]] const F& mantissa) {
#if NNK_AVX512
    if constexpr (use_avx512) {
      const auto exponent = [](auto a) NNK_INLINE { return x86::exponent<T>(a); };
      return map_registers<F>(exponent, x) - map_registers<F>(exponent, mantissa);
    }
#endif
    // As the low bits of 2^fraction_bits the integer becomes a T.
    constexpr Int power = Int(Format::bias + Format::fraction_bits) << Format::fraction_bits;
    const F n =
        from_bits(biased_exponent(normal_of(x)) | power) - T(one_exponent + exponent_offset);
    return where(x < Format::smallest_normal, n - T(Format::fraction_bits + 1), n);
  }
  // The logarithm r, replaced for x = 0, x < 0, inf and NaN where mantissa_of and exponent_of
  // do not serve them.
  static NNK_FN F log_special(const F& x, const F& r) {
    if constexpr (use_avx512) return r;
    const F infinity = splat(Limits<T>::infinity()), nan = splat(T(__builtin_nanf("")));
    return where(x > T(0), where(x < infinity, r, x), where(x == T(0), -infinity, nan));
  }
  // What the rounding of u = 1 + x lost, over 2^n, the exponent of u.
  static NNK_FN F lost_of_one_plus(const F& x, const F& u, const F& n) {
    const F back = u - T(1), lost = (T(1) - (u - back)) + (x - back);  // Knuth's two-sum
    // Beyond the bound nothing of x is lost; u <= 0 and inf must not make a NaN.
    const auto tame = (u > T(0)) & (u < T(one_exponent * 4));
    return where(tame, lost * power_of_two(bits_of(shifted_round(-n))), splat(T(0)));
  }

  // ---- division -------------------------------------------------------------------------

  // 1 / x for 2^-100 < |x| < 2^100, with half of the digits at least: the callers correct a
  // quotient q = n r by r times its residual, which squares the error. A division
  // instruction takes the time of ten multiplications.
  static NNK_FN F rough_reciprocal(const F& x) {
#if NNK_AVX512
    if constexpr (use_avx512) {
      const F r = map_registers<F>([](auto a) NNK_INLINE { return x86::reciprocal14<T>(a); }, x);
      if constexpr (sizeof(T) == 4) return r;
      else return r * (T(1) - x * r) + r;
    }
#endif
    return T(1) / x;
  }

 private:
  static constexpr int exponent_offset = Format::bias + 1;
  static NNK_FN F normal_of(const F& x) {
    return where(x < Format::smallest_normal, x * T(one_exponent * 2), x);
  }
  // exponent_of + exponent_offset, which is positive: AVX2 has no arithmetic 64-bit shift.
  static NNK_FN I biased_exponent(const F& x) {
    return (bits_of(x) + (one_bits + one_exponent - three_quarters)) >> Format::fraction_bits;
  }
};

}  // namespace nnk
