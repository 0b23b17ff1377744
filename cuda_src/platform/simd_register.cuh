// Register<T, L>: L values of a native type in one SIMD register, by the vector extensions
// of GCC and Clang, so that one text serves AVX-512, AVX2, SSE2 and AArch64.
//
// Register<T, 1> is T itself: the same expressions then serve scalars. In both forms
// + - * /, comparisons, & | and `condition ? a : b` work; a comparison gives a register of
// integers (0 or -1 in each lane), or a bool where L is 1.
#pragma once
#include "nnk/types.cuh"

namespace nnk {

// AVX-512 as all processors but the first few have it.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define NNK_AVX512 1
#else
#define NNK_AVX512 0
#endif

#if NNK_AVX512
constexpr int register_bytes = 64;
#elif defined(__AVX__)
constexpr int register_bytes = 32;
#else
constexpr int register_bytes = 16;
#endif

// The type whose bits hold a T in a register.
template <class T> struct StoredImpl { using type = T; };
template <> struct StoredImpl<half> { using type = uint16; };
template <> struct StoredImpl<bfloat16> { using type = uint16; };
template <class T> using Stored = typename StoredImpl<T>::type;

template <class T, int L> struct RegisterImpl {
  typedef Stored<T> type __attribute__((vector_size(L * sizeof(T))));
};
template <class T> struct RegisterImpl<T, 1> { using type = Stored<T>; };
template <class T, int L> using Register = typename RegisterImpl<T, L>::type;

template <class T, int L> using RegisterMask = decltype(Register<T, L>() == Register<T, L>());

template <class T> constexpr bool is_storage_only = is_same<T, half> || is_same<T, bfloat16>;
template <class T>
constexpr bool is_native =
    is_same<T, float> || is_same<T, double> || is_same<T, int8> || is_same<T, uint8> ||
    is_same<T, int16> || is_same<T, uint16> || is_same<T, int32> || is_same<T, uint32> ||
    is_same<T, int64> || is_same<T, uint64>;

// How many of N values share a register. half and bfloat16 are read as pieces of as many
// lanes as float has, so that a conversion takes one register to one register. Types that
// no register holds (Complex) have one lane.
template <class T, int N> constexpr int lanes_of() {
  int lanes = is_storage_only<T> ? register_bytes / 4
              : is_native<T>     ? register_bytes / int(sizeof(T))
                                 : 1;
  while (N % lanes != 0) lanes /= 2;
  return lanes;
}

template <class T, int L> NNK_FN Register<T, L> splat_register(T x) {
  const Stored<T> stored = bit_cast<Stored<T>>(x);
  if constexpr (L == 1) return stored;
  else return stored - Register<T, L>{};  // subtracting +0 keeps -0 and NaN as they are
}
// 0, 1, ..., L - 1.
template <class T, int L> NNK_FN Register<T, L> lane_numbers() {
  Register<T, L> r{};
  if constexpr (L > 1) {
    NNK_UNROLL
    for (int i = 0; i < L; ++i) r[i] = T(i);
  }
  return r;
}

// ---- lanes rearranged -------------------------------------------------------------------

#if defined(__clang__) || __GNUC__ >= 12
#define NNK_SHUFFLEVECTOR 1
#else
#define NNK_SHUFFLEVECTOR 0
#endif

// Lanes I of a and b laid end to end.
template <class T, int L, int... I>
NNK_FN Register<T, L> shuffle(const Register<T, L>& a, const Register<T, L>& b, Ints<I...>) {
#if NNK_SHUFFLEVECTOR
  return __builtin_shufflevector(a, b, I...);
#else
  return __builtin_shuffle(a, b, RegisterMask<T, L>{I...});
#endif
}

// Lanes [First, First + Small) of a register.
template <class T, int Small, int First, int L, int... I>
NNK_FN Register<T, Small> part_of(const Register<T, L>& x, Ints<I...>) {
  if constexpr (Small == L) {
    return x;
  } else if constexpr (Small == 1) {
    return x[First];
  } else {
#if NNK_SHUFFLEVECTOR
    return __builtin_shufflevector(x, x, (First + I)...);
#else
    Register<T, Small> r;
    __builtin_memcpy(&r, reinterpret_cast<const char*>(&x) + First * sizeof(T), sizeof(r));
    return r;
#endif
  }
}
// Two registers of L lanes as one of 2 L.
template <class T, int L, int... I>
NNK_FN Register<T, 2 * L> join(const Register<T, L>& low, const Register<T, L>& high, Ints<I...>) {
  if constexpr (L == 1) {
    return Register<T, 2>{low, high};
  } else {
#if NNK_SHUFFLEVECTOR
    return __builtin_shufflevector(low, high, I...);
#else
    Register<T, 2 * L> r;
    __builtin_memcpy(&r, &low, sizeof(low));
    __builtin_memcpy(reinterpret_cast<char*>(&r) + sizeof(low), &high, sizeof(high));
    return r;
#endif
  }
}

}  // namespace nnk
