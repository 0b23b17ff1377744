// Element types, traits and the few pieces of the standard library that run-time
// compilers lack (NVRTC ships no <cstdint> or <type_traits>).
//
// A platform header defines NNK_FN (the qualifiers of a function that device code may
// call) and then includes this file; algorithms never include it themselves first.
#pragma once

// NVRTC has no __builtin_memcpy: its platform header names another.
#ifndef NNK_MEMCPY
#define NNK_MEMCPY __builtin_memcpy
#endif

// A function that is not inlined, where a platform says how: see matmul_packed.cuh.
#ifndef NNK_APART
#define NNK_APART NNK_FN
#endif

// Of a lambda in an inner loop, where a platform's compiler has to be told to inline it.
#ifndef NNK_INLINE
#define NNK_INLINE
#endif

// Hides from the compiler how a 32-bit integer was computed, where that matters: see within().
#ifdef NNK_OPAQUE
#define NNK_HIDES_INTEGERS true
#else
#define NNK_OPAQUE(x)
#define NNK_HIDES_INTEGERS false
#endif

namespace nnk {

using int8 = signed char;
using int16 = short;
using int32 = int;
using int64 = long long;
using uint8 = unsigned char;
using uint16 = unsigned short;
using uint32 = unsigned int;
using uint64 = unsigned long long;

// ---- type traits -----------------------------------------------------------------

template <class A, class B> struct IsSame { static constexpr bool value = false; };
template <class A> struct IsSame<A, A> { static constexpr bool value = true; };
template <class A, class B> constexpr bool is_same = IsSame<A, B>::value;

template <bool C, class A, class B> struct Conditional { using type = A; };
template <class A, class B> struct Conditional<false, A, B> { using type = B; };
template <bool C, class A, class B> using conditional = typename Conditional<C, A, B>::type;

template <bool C, class T = void> struct EnableIf {};
template <class T> struct EnableIf<true, T> { using type = T; };
template <bool C, class T = void> using enable_if = typename EnableIf<C, T>::type;

// A list of types, and the I-th of them.
template <class... T> struct Types { static constexpr int size = sizeof...(T); };
template <int I, class L> struct TypeAtImpl;
template <int I, class H, class... T> struct TypeAtImpl<I, Types<H, T...>> {
  using type = typename TypeAtImpl<I - 1, Types<T...>>::type;
};
template <class H, class... T> struct TypeAtImpl<0, Types<H, T...>> { using type = H; };
template <int I, class L> using type_at = typename TypeAtImpl<I, L>::type;

// A list of integers (compile-time options of each operand, for example).
template <int... I> struct Ints { static constexpr int size = sizeof...(I); };
template <int I, class L> struct IntAtImpl;
template <int I, int H, int... T> struct IntAtImpl<I, Ints<H, T...>> {
  static constexpr int value = IntAtImpl<I - 1, Ints<T...>>::value;
};
template <int H, int... T> struct IntAtImpl<0, Ints<H, T...>> { static constexpr int value = H; };
template <int I, class L> constexpr int int_at = IntAtImpl<I, L>::value;

// Ints<0, 1, ..., N-1>, to expand a pack over operands.
template <int N, int... I> struct RangeImpl : RangeImpl<N - 1, N - 1, I...> {};
template <int... I> struct RangeImpl<0, I...> { using type = Ints<I...>; };
template <int N> using range = typename RangeImpl<N>::type;

constexpr NNK_FN int next_power_of_two(int n) {
  int p = 1;
  while (p < n) p *= 2;
  return p;
}
constexpr NNK_FN int least_common_multiple(int a, int b) {
  int multiple = a;
  while (multiple % b != 0) multiple += a;
  return multiple;
}
constexpr NNK_FN bool is_power_of_two(int n) { return n > 0 && (n & (n - 1)) == 0; }

// max(n, 0) by a mask, of which the compiler does not know.
NNK_FN int without_negative(int n) {
  int sign = n >> 31;
  NNK_OPAQUE(sign);
  return n & ~sign;
}
// n, but not less than 0 and at most `most`.
//
// Of max(min(n, most), 0) ptxas makes one instruction for sm_90 (VIMNMX.RELU), and before CUDA 13.4
// a comparison of its result with `most` becomes a predicate of it, which is wrong: threads that
// had nothing to load then loaded whole vectors. So what is negative is masked out.
template <class T> NNK_FN int within(T n, int most) {
  if constexpr (sizeof(T) > 4) {
    return n <= 0 ? 0 : n < most ? int(n) : most;
  } else {
    const int left = without_negative(int(n));
    return left < most ? left : most;
  }
}

// ---- element types ---------------------------------------------------------------

// Storage formats only: arithmetic is done in float (see Accumulator).
struct alignas(2) half { uint16 bits; };
struct alignas(2) bfloat16 { uint16 bits; };
// A float of which a matrix core sees the leading 19 bits (10 of the significand).
struct alignas(4) Tf32 { uint32 bits; };

template <class T> struct alignas(2 * sizeof(T)) Complex {
  using value_type = T;
  T re, im;
};
template <class T> NNK_FN Complex<T> operator+(Complex<T> a, Complex<T> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class T> NNK_FN Complex<T> operator-(Complex<T> a, Complex<T> b) {
  return {a.re - b.re, a.im - b.im};
}
template <class T> NNK_FN Complex<T> operator-(Complex<T> a) { return {-a.re, -a.im}; }
template <class T> NNK_FN Complex<T> operator*(Complex<T> a, Complex<T> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
// Smith's division (Communications of the ACM 5(8), 1962): no overflow for |b|^2.
template <class T> NNK_FN Complex<T> operator/(Complex<T> a, Complex<T> b) {
  const T abs_re = b.re < 0 ? -b.re : b.re, abs_im = b.im < 0 ? -b.im : b.im;
  if (abs_re >= abs_im) {
    const T r = b.im / b.re, d = b.re + b.im * r;
    return {(a.re + a.im * r) / d, (a.im - a.re * r) / d};
  }
  const T r = b.re / b.im, d = b.re * r + b.im;
  return {(a.re * r + a.im) / d, (a.im * r - a.re) / d};
}
template <class T> NNK_FN bool operator==(Complex<T> a, Complex<T> b) {
  return a.re == b.re && a.im == b.im;
}
template <class T> NNK_FN bool operator!=(Complex<T> a, Complex<T> b) { return !(a == b); }
template <class T> NNK_FN T conj(T x) { return x; }
template <class T> NNK_FN Complex<T> conj(Complex<T> x) { return {x.re, -x.im}; }

template <class T> struct IsComplex { static constexpr bool value = false; };
template <class T> struct IsComplex<Complex<T>> { static constexpr bool value = true; };
template <class T> constexpr bool is_complex = IsComplex<T>::value;
// Types that every machine converts to and from float alone.
template <class T> constexpr bool is_narrow = is_same<T, half> || is_same<T, bfloat16>;
template <class T>
constexpr bool is_floating =
    is_same<T, float> || is_same<T, double> || is_same<T, half> || is_same<T, bfloat16>;

// The type in which values of T are computed and summed.
template <class T> struct AccumulatorImpl { using type = T; };
template <> struct AccumulatorImpl<half> { using type = float; };
template <> struct AccumulatorImpl<bfloat16> { using type = float; };
template <class T> using Accumulator = typename AccumulatorImpl<T>::type;

template <class To, class From> NNK_FN To bit_cast(From x) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs two types of one size");
  To y;
  NNK_MEMCPY(&y, &x, sizeof(To));
  return y;
}

// A float whose result is rounded to a narrow type, on GPUs alone: see platform/math_brief.cuh.
struct Brief;

// Registers of one lane, as matrix instructions take them.
template <int N> struct Registers { uint32 word[N]; };

// infinity() and lowest() of the computing types.
template <class T> struct Limits {  // integers
  static NNK_FN T lowest() { return T(-1) < T(0) ? T(T(1) << (8 * sizeof(T) - 1)) : T(0); }
};
template <> struct Limits<float> {
  static NNK_FN float infinity() { return bit_cast<float>(0x7f800000u); }
  static NNK_FN float lowest() { return -bit_cast<float>(0x7f800000u); }
};
template <> struct Limits<double> {
  static NNK_FN double infinity() { return bit_cast<double>(0x7ff0000000000000ull); }
  static NNK_FN double lowest() { return -bit_cast<double>(0x7ff0000000000000ull); }
};

// ---- small helpers ---------------------------------------------------------------

template <class I> NNK_FN I ceil_div(I a, I b) { return (a + b - 1) / b; }

}  // namespace nnk
