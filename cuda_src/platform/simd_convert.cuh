// Conversion of registers between element types.
#pragma once
#include "platform/simd_x86.cuh"

namespace nnk {

template <class T> struct WiderImpl;
template <> struct WiderImpl<int8> { using type = int16; };
template <> struct WiderImpl<uint8> { using type = uint16; };
template <> struct WiderImpl<int16> { using type = int32; };
template <> struct WiderImpl<uint16> { using type = uint32; };
template <> struct WiderImpl<int32> { using type = int64; };
template <> struct WiderImpl<uint32> { using type = uint64; };

// Lane by lane as static_cast, between integers and floating-point types. In two steps where
// g++ 12 would go through general registers, one lane at a time.
template <class U, class T, int L> NNK_FN Register<U, L> cast_register(const Register<T, L>& x) {
  constexpr bool small_to_or_from_float =
      (is_floating<T> && sizeof(U) < 4) || (is_floating<U> && sizeof(T) < 4);
  if constexpr (L == 1) {
    return static_cast<U>(x);
  } else if constexpr (small_to_or_from_float) {
    return cast_register<U, int32, L>(cast_register<int32, T, L>(x));
  } else if constexpr (!is_floating<T> && sizeof(U) > 2 * sizeof(T)) {
    using Wider = typename WiderImpl<T>::type;
    return cast_register<U, Wider, L>(cast_register<Wider, T, L>(x));
  } else {
    return __builtin_convertvector(x, Register<U, L>);
  }
}

// ---- half ---------------------------------------------------------------------------
// Values travel as the 16-bit integers that hold them.

// By integer arithmetic, for machines without the instructions.
template <int L> NNK_FN Register<float, L> half_to_float_portable(Register<uint16, L> x) {
  using F = Register<float, L>;
  using I = Register<int32, L>;
  const I bits = cast_register<int32, uint16, L>(x), rest = bits & 0x7fff;
  // With the exponent field moved to its place, 2^112 makes up for the other bias; this
  // also turns subnormal numbers into normal ones.
  const I finite = bit_cast<I>(bit_cast<F>(rest << 13) * 0x1p112f);
  const I magnitude = rest >= 0x7c00 ? (rest << 13) | 0x7f800000 : finite;
  return bit_cast<F>(magnitude | ((bits & 0x8000) << 16));
}
// To nearest, ties to even.
template <int L> NNK_FN Register<uint16, L> float_to_half_portable(Register<float, L> x) {
  using F = Register<float, L>;
  using I = Register<int32, L>;
  const I bits = bit_cast<I>(x), a = bits & 0x7fffffff;
  const I normal = (a - (112 << 23) + 0xfff + ((a >> 13) & 1)) >> 13;
  // Under 2^-14: the last place of 0.5 as a float is 2^-24, the smallest half.
  const I small = bit_cast<I>(bit_cast<F>(a) + 0.5f) - 0x3f000000;
  I r = a < 0x38800000 ? small : normal;
  r = a >= 0x47800000 ? splat_register<int32, L>(0x7c00) : r;  // 65536 and more; inf
  r = a > 0x7f800000 ? splat_register<int32, L>(0x7e00) : r;   // NaN
  return cast_register<uint16, int32, L>(r | ((bits >> 16) & 0x8000));
}

template <int L> NNK_FN Register<float, L> half_to_float_register(Register<uint16, L> x) {
#if defined(__F16C__)
  if constexpr (L >= 8) {
    return x86::half_to_float<Register<float, L>>(x);
  } else {
    Register<uint16, 8> eight{};
    __builtin_memcpy(&eight, &x, sizeof(x));
    const auto four = x86::half_to_float<Register<float, 4>>(eight);
    Register<float, L> r;
    __builtin_memcpy(&r, &four, sizeof(r));
    return r;
  }
#elif defined(__aarch64__)
  if constexpr (L == 1) {
    return bit_cast<__fp16>(x);
  } else {
    typedef __fp16 Halves __attribute__((vector_size(2 * L)));
    return __builtin_convertvector(bit_cast<Halves>(x), Register<float, L>);
  }
#else
  return half_to_float_portable<L>(x);
#endif
}
template <int L> NNK_FN Register<uint16, L> float_to_half_register(Register<float, L> x) {
#if defined(__F16C__)
  if constexpr (L >= 8) {
    return x86::float_to_half<Register<uint16, L>>(x);
  } else {
    Register<float, 4> four{};
    __builtin_memcpy(&four, &x, sizeof(x));
    const auto eight = x86::float_to_half<Register<uint16, 8>>(four);
    Register<uint16, L> r;
    __builtin_memcpy(&r, &eight, sizeof(r));
    return r;
  }
#elif defined(__aarch64__)
  if constexpr (L == 1) {
    return bit_cast<uint16>(static_cast<__fp16>(x));
  } else {
    typedef __fp16 Halves __attribute__((vector_size(2 * L)));
    return bit_cast<Register<uint16, L>>(__builtin_convertvector(x, Halves));
  }
#else
  return float_to_half_portable<L>(x);
#endif
}

// ---- bfloat16: the upper half of a float -----------------------------------------------

template <int L> NNK_FN Register<float, L> bfloat16_to_float_register(Register<uint16, L> x) {
#if defined(__AVX2__)
  if constexpr (L >= 8)
    return bit_cast<Register<float, L>>(x86::widen_uint16<Register<uint32, L>>(x) << 16);
#endif
  return bit_cast<Register<float, L>>(cast_register<uint32, uint16, L>(x) << 16);
}
// To nearest, ties to even; NaN is made quiet, since its upper bits alone might be those of inf.
template <int L> NNK_FN Register<uint16, L> float_to_bfloat16_register(Register<float, L> x) {
  using U = Register<uint32, L>;
  const U bits = bit_cast<U>(x), upper = bits >> 16;
  const U rounded = (bits + 0x7fff + (upper & 1)) >> 16;
  return cast_register<uint16, uint32, L>(x != x ? upper | 0x40 : rounded);
}

NNK_FN float half_to_float(half x) { return half_to_float_register<1>(x.bits); }
NNK_FN half float_to_half(float x) { return {float_to_half_register<1>(x)}; }
NNK_FN bfloat16 float_to_bfloat16(float x) { return {float_to_bfloat16_register<1>(x)}; }

// ---- any pair ----------------------------------------------------------------------------

template <class U, class T, int L> NNK_FN Register<U, L> convert_register(Register<T, L> x) {
  if constexpr (is_same<U, T>) return x;
  else if constexpr ((is_narrow<T> && !is_same<U, float>) || (is_narrow<U> && !is_same<T, float>))
    return convert_register<U, float, L>(convert_register<float, T, L>(x));
  else if constexpr (is_same<T, half>) return half_to_float_register<L>(x);
  else if constexpr (is_same<T, bfloat16>) return bfloat16_to_float_register<L>(x);
  else if constexpr (is_same<U, half>) return float_to_half_register<L>(x);
  else if constexpr (is_same<U, bfloat16>) return float_to_bfloat16_register<L>(x);
  else return cast_register<U, T, L>(x);
}

}  // namespace nnk
