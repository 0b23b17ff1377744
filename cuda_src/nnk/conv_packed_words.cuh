// Words of packed operands of a convolution: what is loaded of a type, and where it is put.
#pragma once
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// What is packed of a number of the type S, and handled in registers: of a complex one of 64 bits
// these, since registers have no lanes for it, and of bfloat16, which is not converted, its bits.
template <class S> struct PackedWord { using type = S; };
template <> struct PackedWord<Complex<float>> { using type = uint64; };
template <> struct PackedWord<bfloat16> { using type = uint16; };

// S: type of the sums; N: columns of a panel of B
template <class S, int N> struct PackedWords {
  using Word = typename PackedWord<S>::type;
  // Pixels of a group: of bytes, as many as a register has words of four of them.
  static constexpr int G = Vec<conditional<sizeof(Word) == 1, uint32, Word>, N>::lanes;
  // Elements at once, no more than a packed row has to spare. What is written past the last one
  // is written again, or not looked at.
  static constexpr int piece = is_complex<S> ? 8 : sizeof(Word) < 4 ? 64 / int(sizeof(Word)) : 16;

  // Elements of the type of the sums as words.
  template <class T> static NNK_FN auto words_at(const T* p) {
    if constexpr (is_same<T, S>) return reinterpret_cast<const Word*>(p);
    else return p;
  }
  template <bool Conjugate, class T, int Count>
  static NNK_FN Vec<Word, Count> converted(const Vec<T, Count>& x) {
    if constexpr (is_same<Word, S>) {
      const Vec<S, Count> y = convert<S>(x);
      return Conjugate ? conj(y) : y;
    } else if constexpr (is_same<T, Word>) {
      if constexpr (Conjugate) return x ^ uint64(1) << 63;
      else return x;
    } else {  // a real number
      Vec<Word, Count> y;
      NNK_UNROLL
      for (int i = 0; i < Count; ++i) y.set(i, bit_cast<Word>(convert_scalar<S>(x[i])));
      return y;
    }
  }
  // Some columns of a row of a panel that begins at the number `row`, from column `i` on.
  template <class P, int Count>
  static NNK_FN void put_columns(const Shared<P>& packed, int row, int i,
                                 const Vec<Word, Count>& x) {
    if constexpr (is_complex<S>) {
      P* const to = packed.data + 2 * row + i;
      nnk::store(to, part_of<false, P>(x));
      nnk::store(to + N, part_of<true, P>(x));
    } else {
      packed.store_vec(row + i, x);
    }
  }
  // The first `count` of them.
  template <class P, int Count>
  static NNK_FN void put_columns(const Shared<P>& packed, int row, int i, const Vec<Word, Count>& x,
                                 int count) {
    if constexpr (is_complex<S>) {
      P* const to = packed.data + 2 * row + i;
      nnk::store_partial(to, part_of<false, P>(x), count);
      nnk::store_partial(to + N, part_of<true, P>(x), count);
    } else {
      nnk::store_partial(packed.data + row + i, x, count);
    }
  }
  // Real or imaginary parts.
  template <bool Imaginary, class R, int Count>
  static NNK_FN Vec<R, Count> part_of(const Vec<Word, Count>& x) {
    if constexpr (is_same<Word, uint64>) {
      return bits_as<R>(convert<uint32>(Imaginary ? x >> 32 : x));
    } else {
      Vec<R, Count> part;
      NNK_UNROLL
      for (int i = 0; i < Count; ++i) part.set(i, Imaginary ? x[i].im : x[i].re);
      return part;
    }
  }
  // Words of a row of A, from the one numbered `i` of all on.
  template <class P, int Count>
  static NNK_FN void put_terms(const Shared<P>& packed, int i, const Vec<Word, Count>& x) {
    if constexpr (is_complex<S>) nnk::store(reinterpret_cast<Word*>(packed.data + 2 * i), x);
    else packed.store_vec(i, x);
  }
};

}  // namespace nnk
