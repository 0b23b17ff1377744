// Operands of dot-product instructions: words of 32 bits, each of some terms that follow each other
// in a sum. For kernels whose lanes are SIMD registers.
//
// An operand is seen as lines of terms, which are the rows of A and the columns of B: a View of
// [line][term], whatever its strides.
#pragma once
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// Words of elements T, multiplied as E: 2 bfloat16, 2 int16, or 4 int8 or uint8.
// Flip: what the bits of a word are combined with by exclusive or
template <class T, class E, uint32 Flip = 0> struct Words {
  static constexpr int terms = int(4 / sizeof(E));
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
    const auto raw = left >= count
                         ? terms_of_line.template load<count>(0)
                         : terms_of_line.template load_partial<count>(0, left, Raw());
    return flipped(words_of(convert<Element>(raw)));
  }

  // The word at `term`, of which `left` terms are there, of N lines, of which `lines` are there.
  template <int N, bool Unit, class Index>
  static NNK_FN Vec<uint32, N> across(const View<const T, 2, Index>& x, Index line, int lines,
                                      Index term, int left) {
    auto words = Vec<uint32, N>::splat(0);
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

}  // namespace nnk
