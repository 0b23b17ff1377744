// Vec<T, N> on SIMD registers: the names of vec_array.cuh, for the CPU.
//
// A Vec is a few whole registers of one size (see lanes_of); every operation is a loop over
// them that the compiler unrolls. Where no register fits (Complex, odd N) a "register" is
// one scalar, and the same loops remain right.
#pragma once
#include "platform/simd_x86.cuh"

namespace nnk {

template <class T, int N> struct Vec {
  static constexpr int size = N;
  static constexpr int lanes = lanes_of<T, N>();
  static constexpr int registers = N / lanes;
  using value_type = T;
  using Reg = Register<T, lanes>;
  Reg reg[registers];

  static NNK_FN Vec splat(T x) {
    Vec v;
    const Reg r = splat_register<T, lanes>(x);
    NNK_UNROLL
    for (int k = 0; k < registers; ++k) v.reg[k] = r;
    return v;
  }
  NNK_FN T operator[](int i) const {
    if constexpr (lanes == 1) return bit_cast<T>(reg[i]);
    else return bit_cast<T>(Stored<T>(reg[i / lanes][i % lanes]));
  }
  NNK_FN void set(int i, T x) {
    if constexpr (lanes == 1) reg[i] = bit_cast<Stored<T>>(x);
    else reg[i / lanes][i % lanes] = bit_cast<Stored<T>>(x);
  }
};

// One truth value for each lane of a Vec<T, N>.
template <class T, int N> struct Mask {
  static constexpr int size = N;
  static constexpr int lanes = lanes_of<T, N>();
  static constexpr int registers = N / lanes;
  using Reg = RegisterMask<T, lanes>;
  Reg reg[registers];
  NNK_FN bool operator[](int i) const {
    if constexpr (lanes == 1) return reg[i];
    else return reg[i / lanes][i % lanes] != 0;
  }
};

// ---- arithmetic, comparison, selection -------------------------------------------

#define NNK_VEC_BINARY(op)                                                                         \
  template <class T, int N> NNK_FN Vec<T, N> operator op(const Vec<T, N>& a, const Vec<T, N>& b) { \
    Vec<T, N> r;                                                                                   \
    NNK_UNROLL                                                                                     \
    for (int k = 0; k < Vec<T, N>::registers; ++k) r.reg[k] = a.reg[k] op b.reg[k];                \
    return r;                                                                                      \
  }                                                                                                \
  template <class T, int N>                                                                        \
  NNK_FN Vec<T, N> operator op(const Vec<T, N>& a, typename Vec<T, N>::value_type b) {             \
    return a op Vec<T, N>::splat(b);                                                               \
  }                                                                                                \
  template <class T, int N>                                                                        \
  NNK_FN Vec<T, N> operator op(typename Vec<T, N>::value_type a, const Vec<T, N>& b) {             \
    return Vec<T, N>::splat(a) op b;                                                               \
  }
NNK_VEC_BINARY(+)
NNK_VEC_BINARY(-)
NNK_VEC_BINARY(*)
NNK_VEC_BINARY(/)
#undef NNK_VEC_BINARY

#define NNK_VEC_COMPARE(op)                                                             \
  template <class T, int N>                                                             \
  NNK_FN Mask<T, N> operator op(const Vec<T, N>& a, const Vec<T, N>& b) {               \
    Mask<T, N> r;                                                                       \
    NNK_UNROLL                                                                          \
    for (int k = 0; k < Vec<T, N>::registers; ++k) r.reg[k] = a.reg[k] op b.reg[k];     \
    return r;                                                                           \
  }                                                                                     \
  template <class T, int N>                                                             \
  NNK_FN Mask<T, N> operator op(const Vec<T, N>& a, typename Vec<T, N>::value_type b) { \
    return a op Vec<T, N>::splat(b);                                                    \
  }
NNK_VEC_COMPARE(<)
NNK_VEC_COMPARE(>)
NNK_VEC_COMPARE(<=)
NNK_VEC_COMPARE(>=)
NNK_VEC_COMPARE(==)
NNK_VEC_COMPARE(!=)
#undef NNK_VEC_COMPARE

#define NNK_MASK_BINARY(op)                                                          \
  template <class T, int N>                                                          \
  NNK_FN Mask<T, N> operator op(const Mask<T, N>& a, const Mask<T, N>& b) {          \
    Mask<T, N> r;                                                                    \
    NNK_UNROLL                                                                       \
    for (int k = 0; k < Mask<T, N>::registers; ++k) r.reg[k] = a.reg[k] op b.reg[k]; \
    return r;                                                                        \
  }
NNK_MASK_BINARY(&)
NNK_MASK_BINARY(|)
#undef NNK_MASK_BINARY

template <class T, int N> NNK_FN Mask<T, N> operator!(const Mask<T, N>& a) {
  Mask<T, N> r;
  NNK_UNROLL
  for (int k = 0; k < Mask<T, N>::registers; ++k) {
    if constexpr (Mask<T, N>::lanes == 1) r.reg[k] = !a.reg[k];
    else r.reg[k] = ~a.reg[k];
  }
  return r;
}
template <class T, int N> NNK_FN bool any(const Mask<T, N>& a) {
  auto r = a.reg[0];
  NNK_UNROLL
  for (int k = 1; k < Mask<T, N>::registers; ++k) r = r | a.reg[k];
  if constexpr (Mask<T, N>::lanes == 1) {
    return r;
  } else {
    bool found = false;
    NNK_UNROLL
    for (int i = 0; i < Mask<T, N>::lanes; ++i) found |= r[i] != 0;
    return found;
  }
}

template <class T, int N> NNK_FN Vec<T, N> operator-(const Vec<T, N>& a) {
  Vec<T, N> r;
  NNK_UNROLL
  for (int k = 0; k < Vec<T, N>::registers; ++k) r.reg[k] = -a.reg[k];
  return r;
}
template <class T, int N>
NNK_FN Vec<T, N> where(const Mask<T, N>& m, const Vec<T, N>& a, const Vec<T, N>& b) {
  Vec<T, N> r;
  NNK_UNROLL
  for (int k = 0; k < Vec<T, N>::registers; ++k) r.reg[k] = m.reg[k] ? a.reg[k] : b.reg[k];
  return r;
}

// Register by register: f(a.reg[0], b.reg[0], ...), f(a.reg[1], b.reg[1], ...), ...
template <class R, class F, class... V> NNK_FN R map_registers(F f, const V&... v) {
  R r;
  NNK_UNROLL
  for (int k = 0; k < R::registers; ++k) r.reg[k] = f(v.reg[k]...);
  return r;
}

// a < b ? a : b and a > b ? a : b, which are b where either is NaN: one instruction on x86.
template <class T, int N> NNK_FN Vec<T, N> lesser(const Vec<T, N>& a, const Vec<T, N>& b) {
  return map_registers<Vec<T, N>>(
      [](auto x, auto y) NNK_INLINE { return lesser_register<T>(x, y); }, a, b);
}
template <class T, int N> NNK_FN Vec<T, N> greater(const Vec<T, N>& a, const Vec<T, N>& b) {
  return map_registers<Vec<T, N>>(
      [](auto x, auto y) NNK_INLINE { return greater_register<T>(x, y); }, a, b);
}
// max and min return NaN if either operand is NaN (std::max and fmax do not).
template <class T, int N> NNK_FN Vec<T, N> max(const Vec<T, N>& a, const Vec<T, N>& b) {
  return where(a == a, greater(a, b), a);
}
template <class T, int N> NNK_FN Vec<T, N> min(const Vec<T, N>& a, const Vec<T, N>& b) {
  return where(a == a, lesser(a, b), a);
}

// One rounding where the machine has a fused instruction (all but x86 before AVX2), else two.
template <class T, int N>
NNK_FN Vec<T, N> fma(const Vec<T, N>& a, const Vec<T, N>& b, const Vec<T, N>& c) {
  return a * b + c;
}

// The same with one rounding whatever stands around it: compilers fuse a product and a sum only
// where they end up in one basic block, which a store of single lanes may prevent.
template <class T, int N>
NNK_FN Vec<T, N> fma_always(const Vec<T, N>& a, const Vec<T, N>& b, const Vec<T, N>& c) {
  return map_registers<Vec<T, N>>(
      [](auto x, auto y, auto z) NNK_INLINE { return fused_register<T>(x, y, z); }, a, b, c);
}

// ---- bits ---------------------------------------------------------------------------

// Of unsigned integers.
#define NNK_VEC_BITWISE(op)                                                                        \
  template <class T, int N> NNK_FN Vec<T, N> operator op(const Vec<T, N>& a, const Vec<T, N>& b) { \
    return map_registers<Vec<T, N>>([](auto x, auto y) NNK_INLINE { return x op y; }, a, b);       \
  }                                                                                                \
  template <class T, int N>                                                                        \
  NNK_FN Vec<T, N> operator op(const Vec<T, N>& a, typename Vec<T, N>::value_type b) {             \
    return a op Vec<T, N>::splat(b);                                                               \
  }
NNK_VEC_BITWISE(&)
NNK_VEC_BITWISE(|)
NNK_VEC_BITWISE(^)
#undef NNK_VEC_BITWISE
template <class T, int N> NNK_FN Vec<T, N> operator<<(const Vec<T, N>& a, int bits) {
  return map_registers<Vec<T, N>>([bits](auto x) NNK_INLINE { return x << bits; }, a);
}
template <class T, int N> NNK_FN Vec<T, N> operator>>(const Vec<T, N>& a, int bits) {
  return map_registers<Vec<T, N>>([bits](auto x) NNK_INLINE { return x >> bits; }, a);
}

// The same bits as lanes of another type of that size.
template <class U, class T, int N> NNK_FN Vec<U, N> bits_as(const Vec<T, N>& a) {
  static_assert(sizeof(U) == sizeof(T), "bits_as keeps the lanes");
  using R = Vec<U, N>;
  return map_registers<R>([](auto x) NNK_INLINE { return bit_cast<typename R::Reg>(x); }, a);
}

// ---- functions of one argument that need no approximation ---------------------------

template <class T, int N> NNK_FN Vec<T, N> abs(const Vec<T, N>& a) {
  if constexpr (is_same<T, float> || is_same<T, double>) {
    using Bits = conditional<is_same<T, float>, uint32, uint64>;
    return bits_as<T>(bits_as<Bits>(a) & (~Bits(0) >> 1));
  } else {
    return where(a < T(0), -a, a);
  }
}
template <class T, int N> NNK_FN Vec<T, N> conj(const Vec<T, N>& a) {
  if constexpr (!is_complex<T>) return a;
  else return map_registers<Vec<T, N>>([](T x) NNK_INLINE { return nnk::conj(x); }, a);
}
template <class T, int N> NNK_FN Vec<T, N> sqrt(const Vec<T, N>& a) {
  return map_registers<Vec<T, N>>(
      [](auto x) NNK_INLINE { return sqrt_register<T, Vec<T, N>::lanes>(x); }, a);
}
template <class T, int N> NNK_FN Vec<T, N> rsqrt(const Vec<T, N>& a) { return T(1) / sqrt(a); }

// ---- halves -----------------------------------------------------------------------

// Lanes [First, First + N / 2).
template <int First, class T, int N> NNK_FN Vec<T, N / 2> half_from(const Vec<T, N>& a) {
  using V = Vec<T, N>;
  using Half = Vec<T, N / 2>;
  Half r;
  if constexpr (Half::lanes == V::lanes) {
    NNK_UNROLL
    for (int k = 0; k < Half::registers; ++k) r.reg[k] = a.reg[First / V::lanes + k];
  } else if constexpr (V::registers == 1) {
    r.reg[0] = part_of<T, Half::lanes, First, V::lanes>(a.reg[0], range<Half::lanes>());
  } else {
    NNK_UNROLL
    for (int i = 0; i < N / 2; ++i) r.set(i, a[First + i]);
  }
  return r;
}
template <class T, int N> NNK_FN Vec<T, N / 2> lower_half(const Vec<T, N>& a) {
  return half_from<0>(a);
}
template <class T, int N> NNK_FN Vec<T, N / 2> upper_half(const Vec<T, N>& a) {
  return half_from<N / 2>(a);
}

// ---- two vectors as one -----------------------------------------------------------------

// Lanes of both halves of x in turn.
template <class T, int L, int... I>
NNK_FN Register<T, L> spread(const Register<T, L>& x, Ints<I...>) {
  return shuffle<T, L>(x, x, Ints<(I / 2 + I % 2 * (L / 2))...>());
}
// Lanes of the lower halves of a and b in turn, or of the upper ones.
template <class T, int L, int Upper, int... I>
NNK_FN Register<T, L> merged(const Register<T, L>& a, const Register<T, L>& b, Ints<I...>) {
  if constexpr (L == 1) return Upper ? b : a;
  else return shuffle<T, L>(a, b, Ints<(Upper * (L / 2) + I / 2 + I % 2 * L)...>());
}

// a[0], b[0], a[1], b[1], ...
template <class T, int N> NNK_FN Vec<T, 2 * N> interleaved(const Vec<T, N>& a, const Vec<T, N>& b) {
  constexpr int L = Vec<T, N>::lanes;
  Vec<T, 2 * N> r;
  if constexpr (Vec<T, 2 * N>::lanes > L) {  // a register holds both
    r.reg[0] = spread<T, 2 * L>(join<T, L>(a.reg[0], b.reg[0], range<2 * L>()), range<2 * L>());
  } else {
    NNK_UNROLL
    for (int k = 0; k < Vec<T, N>::registers; ++k) {
      r.reg[2 * k] = merged<T, L, 0>(a.reg[k], b.reg[k], range<L>());
      r.reg[2 * k + 1] = merged<T, L, 1>(a.reg[k], b.reg[k], range<L>());
    }
  }
  return r;
}

// The other way round: a[First], a[First + 2], ...
template <int First, class T, int N, int... I>
NNK_FN Vec<T, N / 2> every_second(const Vec<T, N>& a, Ints<I...>) {
  constexpr int L = Vec<T, N>::lanes;
  Vec<T, N / 2> r;
  if constexpr (Vec<T, N>::registers == 1) {
    Vec<T, N> both;
    both.reg[0] = shuffle<T, L>(a.reg[0], a.reg[0], Ints<((2 * I + First) % L)...>());
    r = lower_half(both);
  } else {
    NNK_UNROLL
    for (int k = 0; k < Vec<T, N / 2>::registers; ++k)
      r.reg[k] = shuffle<T, L>(a.reg[2 * k], a.reg[2 * k + 1], Ints<(2 * I + First)...>());
  }
  return r;
}
template <int First, class T, int N> NNK_FN Vec<T, N / 2> every_second(const Vec<T, N>& a) {
  return every_second<First>(a, range<Vec<T, N>::lanes>());
}

// ---- transposition --------------------------------------------------------------------

// Side of the squares of a Vec<T, N> that are transposed at once: a register's lanes.
template <class T, int N> constexpr int transposed_lanes() { return Vec<T, N>::lanes; }

// One of two exchanges between rows `Distance` apart: of a, the lanes whose number lacks the bit
// `Distance`, each followed by its counterpart of b; or the others.
template <int Distance, bool Upper, class T, int L, int... I>
NNK_FN Register<T, L> exchanged(const Register<T, L>& a, const Register<T, L>& b, Ints<I...>) {
  if constexpr (Upper)
    return shuffle<T, L>(a, b, Ints<((I & Distance) ? L + I : I + Distance)...>());
  else return shuffle<T, L>(a, b, Ints<((I & Distance) ? L + I - Distance : I)...>());
}
template <int Distance, class T, int L> NNK_FN void transpose_blocks(Vec<T, L> (&x)[L]) {
  if constexpr (Distance > 0) {
    NNK_UNROLL
    for (int i = 0; i < L; ++i) {
      if ((i & Distance) == 0) {
        const auto low =
            exchanged<Distance, false, T, L>(x[i].reg[0], x[i + Distance].reg[0], range<L>());
        x[i + Distance].reg[0] =
            exchanged<Distance, true, T, L>(x[i].reg[0], x[i + Distance].reg[0], range<L>());
        x[i].reg[0] = low;
      }
    }
    transpose_blocks<Distance / 2>(x);
  }
}
// Lane j of row i and lane i of row j change places: blocks of half the side first, then those
// within them.
template <class T, int L> NNK_FN void transpose(Vec<T, L> (&x)[L]) {
  static_assert(Vec<T, L>::registers == 1, "a row is one register");
  if constexpr (L > 1) transpose_blocks<L / 2>(x);
}

}  // namespace nnk
