// Dot products of words of 32 bits, which hold 2 or 4 elements: sums + a . b, lane by lane.
#pragma once
#include "platform/vec_simd_memory.cuh"

namespace nnk {

// The same bits, in lanes of 32.
template <class T, int M> NNK_FN Vec<uint32, M* int(sizeof(T)) / 4> words_of(const Vec<T, M>& x) {
  using R = Vec<uint32, M* int(sizeof(T)) / 4>;
  static_assert(sizeof(R) == sizeof(x), "whole words");
  return bit_cast<R>(x);
}

// Every element in a word of its own, zeros above it.
template <class T, int N> NNK_FN Vec<uint32, N> zero_extended(const Vec<T, N>& x) {
  using V = Vec<T, N>;
  using Bits = conditional<sizeof(typename V::value_type) == 1, uint8, uint16>;
#if defined(__AVX2__)
  // g++ 12 makes several instructions of the conversion.
  if constexpr (V::lanes >= 8 && V::lanes == Vec<uint32, N>::lanes) {
    return map_registers<Vec<uint32, N>>(
        [](auto r) NNK_INLINE { return x86::zero_extend<Register<uint32, V::lanes>, T>(r); }, x);
  }
#endif
  return convert<uint32>(bits_as<Bits>(x));
}

// Vectors of a register each, laid end to end.
template <class T, int N, int Count>
NNK_FN Vec<T, N * Count> joined(const Vec<T, N> (&part)[Count]) {
  static_assert(Vec<T, N>::registers == 1 && (Count & (Count - 1)) == 0);
  if constexpr (Count == 1) {
    return part[0];
  } else {
    Vec<T, 2 * N> pairs[Count / 2];
    NNK_UNROLL
    for (int i = 0; i < Count / 2; ++i)
      pairs[i].reg[0] = join<T, N>(part[2 * i].reg[0], part[2 * i + 1].reg[0], range<2 * N>());
    return joined(pairs);
  }
}

// Lanes that are a quarter of all apart follow each other.
#if !defined(__AVX512VBMI__)
template <int N, int... I>
NNK_FN Register<uint32, N> in_turns(const Register<uint32, N>& x, Ints<I...>) {
  return shuffle<uint32, N>(x, x, Ints<(I / 4 + I % 4 * (N / 4))...>());
}
#endif

// Byte N t + i of a register to place 4 i + t.
template <int N, int... I>
NNK_FN Register<uint8, 4 * N> bytes_in_words(const Register<uint8, 4 * N>& x, Ints<I...>) {
#if defined(__AVX512VBMI__)
  return shuffle<uint8, 4 * N>(x, x, Ints<(I / 4 + I % 4 * N)...>());
#else
  // Fours of bytes first, and then within 16 bytes, which every machine has an instruction for.
  const auto fours = bit_cast<Register<uint32, N>>(x);
  const auto in_turn = bit_cast<Register<uint8, 4 * N>>(in_turns<N>(fours, range<N>()));
  return shuffle<uint8, 4 * N>(in_turn, in_turn, Ints<(I / 16 * 16 + I % 4 * 4 + I % 16 / 4)...>());
#endif
}

// Words of the lanes of vectors, which are their elements, the lowest one first.
template <class T, int N, int Terms>
NNK_FN Vec<uint32, N> words_of_terms(const Vec<T, N> (&x)[Terms]) {
  static_assert(sizeof(T) * Terms == 4, "whole words");
  if constexpr (Terms == 2) {
    return words_of(interleaved(x[0], x[1]));
  } else {
    const auto all = joined(x);
    return words_of(Vec<T, 4 * N>{{bytes_in_words<N>(all.reg[0], range<4 * N>())}});
  }
}

// ---- by instructions ---------------------------------------------------------------------------

namespace x86 {

// sum + a b of pairs of bfloat16: both products and sums rounded to nearest, subnormals as zero.
#if defined(__AVX512BF16__) && NNK_AVX512
#define NNK_DOT_BFLOAT16 1
template <class F, class R> NNK_FN F dot_bfloat16(R a, R b, F sum) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}
#endif

// VNNI: of four unsigned and signed bytes, or of two int16, added without saturation.
#if defined(__AVX512VNNI__) && NNK_AVX512
#define NNK_VNNI(name) name " %2, %1, %0"
#elif defined(__AVXVNNI__)
#define NNK_VNNI(name) "{vex} " name " %2, %1, %0"
#endif
#if defined(NNK_VNNI)
template <class R> NNK_FN R dot_uint8_int8(R a, R b, R sum) {
  asm(NNK_VNNI("vpdpbusd") : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}
template <class R> NNK_FN R dot_int16(R a, R b, R sum) {
  asm(NNK_VNNI("vpdpwssd") : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}
#endif

// a b of two int16.
#if defined(__AVX2__)
#define NNK_MADD 1
template <class R> NNK_FN R dot_int16(R a, R b) {
  asm("vpmaddwd %2, %1, %0" : "=v"(a) : "v"(a), "v"(b));
  return a;
}
#elif defined(__SSE2__) && !defined(__AVX__)
#define NNK_MADD 1
template <class R> NNK_FN R dot_int16(R a, R b) {
  asm("pmaddwd %1, %0" : "+x"(a) : "x"(b));
  return a;
}
#endif

}  // namespace x86

// ---- any machine -------------------------------------------------------------------------------

// Element t of each word, at the upper end of the word: a signed one, or an unsigned one.
template <class E> constexpr int bits_of = 8 * int(sizeof(E));
template <class E, class R> NNK_FN auto element_of(R words, int t) {
  using Lanes = conditional<E(-1) < E(0), int32, uint32>;
  constexpr int lanes = int(sizeof(R) / 4);
  return bit_cast<Register<uint32, lanes>>(
      bit_cast<Register<Lanes, lanes>>(words << (32 - bits_of<E> * (t + 1))) >> (32 - bits_of<E>));
}
// Modulo 2^32.
template <class EA, class EB, class R> NNK_FN R plain_dot(R a, R b, R sum) {
  NNK_UNROLL
  for (int t = 0; t < 4 / int(sizeof(EA)); ++t) sum += element_of<EA>(a, t) * element_of<EB>(b, t);
  return sum;
}

template <int N>
NNK_FN Vec<float, N> dot_bfloat16(const Vec<uint32, N>& a, const Vec<uint32, N>& b,
                                  const Vec<float, N>& sum) {
#if defined(NNK_DOT_BFLOAT16)
  if constexpr (sizeof(sum.reg[0]) >= 16)
    return map_registers<Vec<float, N>>(
        [](auto x, auto y, auto s) NNK_INLINE { return x86::dot_bfloat16(x, y, s); }, a, b, sum);
#endif
  const uint32 upper = 0xffff0000u;
  const auto odd = fma(bits_as<float>(a & upper), bits_as<float>(b & upper), sum);
  return fma(bits_as<float>(a << 16), bits_as<float>(b << 16), odd);
}

template <int N>
NNK_FN Vec<uint32, N> dot_uint8_int8(const Vec<uint32, N>& a, const Vec<uint32, N>& b,
                                     const Vec<uint32, N>& sum) {
  return map_registers<Vec<uint32, N>>(
      [](auto x, auto y, auto s) NNK_INLINE {
#if defined(NNK_VNNI)
        if constexpr (sizeof(s) >= 16) return x86::dot_uint8_int8(x, y, s);
#endif
        return plain_dot<uint8, int8>(x, y, s);
      },
      a, b, sum);
}

// By one instruction where the machine has it, and by two.
template <int N>
NNK_FN Vec<uint32, N> dot_int16(const Vec<uint32, N>& a, const Vec<uint32, N>& b,
                                const Vec<uint32, N>& sum) {
  return map_registers<Vec<uint32, N>>(
      [](auto x, auto y, auto s) NNK_INLINE {
#if defined(NNK_VNNI)
        if constexpr (sizeof(s) >= 16) return x86::dot_int16(x, y, s);
#endif
        return plain_dot<int16, int16>(x, y, s);
      },
      a, b, sum);
}
template <int N>
NNK_FN Vec<uint32, N> dot_int16_added(const Vec<uint32, N>& a, const Vec<uint32, N>& b,
                                      const Vec<uint32, N>& sum) {
  return map_registers<Vec<uint32, N>>(
      [](auto x, auto y, auto s) NNK_INLINE {
#if defined(NNK_MADD)
        if constexpr (sizeof(s) >= 16) return s + x86::dot_int16(x, y);
#endif
        return plain_dot<int16, int16>(x, y, s);
      },
      a, b, sum);
}

}  // namespace nnk
