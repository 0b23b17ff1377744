// How operands of a product are packed and multiplied, on machines whose lanes are SIMD registers.
//
// Packed operands consist of words: one element each, converted to the type of the sums, or, for
// dot-product instructions, 32 bits of some terms that follow each other in a sum. An operand is
// seen as lines of terms, which are the rows of A and the columns of B: a View of [line][term],
// whatever its strides.
//
// A way to multiply is a struct with
//     using Word, A, B;             of packed operands; how words of A and of B are loaded
//     static constexpr int terms;   of a word
//     multiply_add(a, b, sums)      adds the products of a word of A and words of B
//     static constexpr bool corrects;   whether `correction` times the sum of a column of B, which
//                                       is what `ones` as A gives, is to be added to each sum
#pragma once
#include "nnk/matmul_operands.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// Words of elements T, multiplied as E: 2 bfloat16, 2 int16, or 4 int8 or uint8.
// Flip: what the bits of a word are combined with by exclusive or
template <class T, class E, uint32 Flip = 0> struct Words {
  static constexpr int terms = int(4 / sizeof(E));
  static constexpr uint32 flip = Flip;
  // bfloat16 travels as the integer of its bits.
  using Raw = conditional<is_same<T, bfloat16>, uint16, T>;
  using Element = conditional<is_same<E, bfloat16>, uint16, E>;

  // N words of one line from `term` on, of which `left` terms are there; zeros follow.
  template <int N, bool Unit, class Index>
  static NNK_FN Vec<uint32, N> along(const View<const T, 2, Index>& x, Index line, Index term,
                                     int left) {
    if (left <= 0) return flipped(Vec<uint32, N>::splat(0));
    const Line<const Raw, Index, Unit ? unit_step : any_step> terms_of_line{
        reinterpret_cast<const Raw*>(x.at(NNK_HERE, line, term)), Index(left), x.stride[1]};
    constexpr int count = N * terms;
    const auto raw = left >= count ? terms_of_line.template load<count>(0)
                                   : terms_of_line.template load_partial<count>(0, left, Raw());
    return flipped(words_of(convert<Element>(raw)));
  }

  // The word at `term`, of which `left` terms are there, of N lines, of which `lines` are there.
  template <int N, bool Unit, class Index>
  static NNK_FN Vec<uint32, N> across(const View<const T, 2, Index>& x, Index line, int lines,
                                      Index term, int left) {
    // A register of words at a time: its elements then are one of a smaller size, which is loaded
    // and widened by one instruction.
    constexpr int lanes = Vec<uint32, N>::lanes;
    if constexpr (N > lanes) {
      Vec<uint32, N> all;
      NNK_UNROLL
      for (int r = 0; r < N / lanes; ++r)
        all.reg[r] = across<lanes, Unit>(x, line + r * lanes, lines - r * lanes, term, left).reg[0];
      return all;
    }
    auto words = Vec<uint32, N>::splat(0);
    if (lines <= 0) return flipped(words);
    NNK_UNROLL
    for (int t = 0; t < terms; ++t) {
      if (t >= left) break;
      const Line<const Raw, Index, Unit ? unit_step : any_step> lines_at_term{
          reinterpret_cast<const Raw*>(x.at(NNK_HERE, line, term + t)), Index(lines), x.stride[0]};
      const auto raw = lines >= N ? lines_at_term.template load<N>(0)
                                  : lines_at_term.template load_partial<N>(0, lines, Raw());
      const auto element = zero_extended(convert<Element>(raw));
      words = t == 0 ? element : words | element << int(8 * sizeof(E) * t);
    }
    return flipped(words);
  }

 private:
  template <int N> static NNK_FN Vec<uint32, N> flipped(const Vec<uint32, N>& words) {
    if constexpr (Flip == 0) return words;
    else return words ^ Flip;
  }
};

// A float16 as two bfloat16 whose sum it is exactly: the lower half of a word is the larger part,
// the upper half what that leaves. 11 bits of x are 8 and at most 4, and the parts of the smallest
// subnormal are 2^-24 and 2^-32, of which no product is subnormal as a float. The larger part is
// always a little less than x, so that both have the sign of x and neither is 0 unless x is:
// infinity, whose parts are the largest bfloat16 and infinity, then gives by every y what it
// should.
template <class T> struct SplitHalves {
  static constexpr int terms = 1;

  template <int N, bool Unit, class Index>
  static NNK_FN Vec<uint32, N> along(const View<const T, 2, Index>& x, Index line, Index term,
                                     int left) {
    if (left <= 0) return Vec<uint32, N>::splat(0);
    const Line<const T, Index, Unit ? unit_step : any_step> terms_of_line{
        x.at(NNK_HERE, line, term), Index(left), x.stride[1]};
    return split(loaded<float, false, N>(terms_of_line, 0, left));
  }
  template <int N, bool Unit, class Index>
  static NNK_FN Vec<uint32, N> across(const View<const T, 2, Index>& x, Index line, int lines,
                                      Index term, int left) {
    if (left <= 0) return Vec<uint32, N>::splat(0);
    const Line<const T, Index, Unit ? unit_step : any_step> lines_at_term{
        x.at(NNK_HERE, line, term), Index(lines), x.stride[0]};
    return split(loaded<float, false, N>(lines_at_term, 0, lines));
  }
  // The parts in each other's place.
  template <int N> static NNK_FN Vec<uint32, N> exchanged(const Vec<uint32, N>& words) {
    return words << 16 | words >> 16;
  }

 private:
  template <int N> static NNK_FN Vec<uint32, N> split(const Vec<float, N>& x) {
    constexpr uint32 upper_half = 0xffff0000u;
    const auto bits = bits_as<uint32>(x);
    const auto larger = where(bits << 1 == 0u, bits, bits - 1u) & upper_half;
    return larger >> 16 | (bits_as<uint32>(x - bits_as<float>(larger)) & upper_half);
  }
};

// ---- words of one term ------------------------------------------------------------------------

// Elements T in the type S.
template <class T, class S, bool Conjugate> struct Converted {
  template <int N, bool Unit, class Index>
  static NNK_FN Vec<S, N> along(const View<const T, 2, Index>& x, Index line, Index term,
                                int left) {
    const Line<const T, Index, Unit ? unit_step : any_step> terms_of_line{
        x.at(NNK_HERE, line, term), Index(left), x.stride[1]};
    return loaded<S, Conjugate, N>(terms_of_line, 0, left);
  }
  template <int N, bool Unit, class Index>
  static NNK_FN Vec<S, N> across(const View<const T, 2, Index>& x, Index line, int lines,
                                 Index term, int /*left*/) {
    const Line<const T, Index, Unit ? unit_step : any_step> lines_at_term{
        x.at(NNK_HERE, line, term), Index(lines), x.stride[0]};
    return loaded<S, Conjugate, N>(lines_at_term, 0, lines);
  }
  // The words of N elements from one on.
  template <int N> static NNK_FN Vec<S, N> from(const T* first) {
    const Vec<S, N> x = convert<S>(nnk::load<N>(first));
    return Conjugate ? conj(x) : x;
  }
};

// Fused multiply-adds.
template <class TA, class TB, class S, bool ConjugateA, bool ConjugateB> struct FusedMicro {
  using Word = S;
  using A = Converted<TA, S, ConjugateA>;
  using B = Converted<TB, S, ConjugateB>;
  static constexpr int terms = 1;
  static constexpr bool corrects = false;
  template <int N>
  static NNK_FN Vec<S, N> multiply_add(Word a, const Vec<Word, N>& b, const Vec<S, N>& sum) {
    // One instruction: around expressions, g++ 12 copied registers and kept sums in memory.
    if constexpr (is_floating<S>) return fma_always(Vec<Word, N>::splat(a), b, sum);
    else return fma(Vec<Word, N>::splat(a), b, sum);
  }
};

// ---- dot products -----------------------------------------------------------------------------

// Pairs of bfloat16, sums of float.
struct Bfloat16Pairs {
  using Word = uint32;
  using A = Words<bfloat16, bfloat16>;
  using B = A;
  static constexpr int terms = 2;
  static constexpr bool corrects = false;
  template <int N>
  static NNK_FN Vec<float, N> multiply_add(Word a, const Vec<Word, N>& b,
                                           const Vec<float, N>& sum) {
    return dot_bfloat16(Vec<Word, N>::splat(a), b, sum);
  }
};

// Pairs of integers of 8 or 16 bits, as int16.
// Accumulating: by one instruction, which adds the products to the sums
template <class TA, class TB, bool Accumulating> struct Int16Pairs {
  using Word = uint32;
  using A = Words<TA, int16>;
  using B = Words<TB, int16>;
  static constexpr int terms = 2;
  static constexpr bool corrects = false;
  template <int N>
  static NNK_FN Vec<uint32, N> multiply_add(Word a, const Vec<Word, N>& b,
                                            const Vec<uint32, N>& sum) {
    const auto all = Vec<Word, N>::splat(a);
    if constexpr (Accumulating) return dot_int16(all, b, sum);
    else return dot_int16_added(all, b, sum);
  }
};

// Four integers of 8 bits. The instruction takes unsigned ones on one side and signed ones on the
// other. Where both are of one kind, 128 is added to those of A or subtracted, by the highest bit:
// that is 128 times the sum of a column of B too much or too little, modulo 2^32.
template <class TA, class TB> struct Int8Quads {
  static constexpr bool signed_b = is_same<TB, int8>;
  using Word = uint32;
  using A = Words<TA, TA, is_same<TA, TB> ? 0x80808080u : 0u>;
  using B = Words<TB, TB>;
  static constexpr int terms = 4;
  static constexpr bool corrects = is_same<TA, TB>;
  static constexpr Word ones = 0x01010101u;
  static constexpr uint32 correction = signed_b ? uint32(-128) : 128u;
  template <int N>
  static NNK_FN Vec<uint32, N> multiply_add(Word a, const Vec<Word, N>& b,
                                            const Vec<uint32, N>& sum) {
    const auto all = Vec<Word, N>::splat(a);
    if constexpr (signed_b) return dot_uint8_int8(all, b, sum);
    else return dot_uint8_int8(b, all, sum);
  }
};

}  // namespace nnk
