// Vec<T, N> on SIMD registers: conversion and memory.
#pragma once
#include "platform/simd_convert.cuh"
#include "platform/simd_memory.cuh"
#include "platform/vec_simd.cuh"

namespace nnk {

// ---- conversion -------------------------------------------------------------------

// Lanes [First, First + Lanes) of a, converted, as one register.
template <class U, int Lanes, int First, class T, int N>
NNK_FN Register<U, Lanes> convert_lanes(const Vec<T, N>& a) {
  constexpr int from = Vec<T, N>::lanes;
  if constexpr (Lanes <= from) {
    const auto part = part_of<T, Lanes, First % from, from>(a.reg[First / from], range<Lanes>());
    return convert_register<U, T, Lanes>(part);
  } else {
    const auto low = convert_lanes<U, Lanes / 2, First>(a),
               high = convert_lanes<U, Lanes / 2, First + Lanes / 2>(a);
    return join<U, Lanes / 2>(low, high, range<Lanes>());
  }
}
template <class U, class T, int N, int... K>
NNK_FN Vec<U, N> convert_registers(const Vec<T, N>& a, Ints<K...>) {
  constexpr int lanes = Vec<U, N>::lanes;
  return {{convert_lanes<U, lanes, K * lanes>(a)...}};
}

// half and bfloat16 convert to and from float (rounding to nearest, ties to even); any
// other pair as static_cast.
template <class U, class T, int N> NNK_FN Vec<U, N> convert(const Vec<T, N>& a) {
  if constexpr (is_same<T, U>) {
    return a;
  } else if constexpr (is_complex<T> || is_complex<U>) {
    Vec<U, N> r;
    NNK_UNROLL
    for (int i = 0; i < N; ++i) r.set(i, nnk::convert_scalar<U>(a[i]));
    return r;
  } else {
    return convert_registers<U>(a, range<Vec<U, N>::registers>());
  }
}

// ---- memory -----------------------------------------------------------------------
// Raw pointers of any alignment here; algorithms go through View and Line (nnk/view.cuh).

// The address of element i, without the arithmetic on T* that assumes alignment.
template <class T> NNK_FN auto lane_address(T* p, int i) {
  using Byte = conditional<is_same<T, const T>, const char, char>;
  return reinterpret_cast<Byte*>(p) + i * int(sizeof(T));
}
// How many of the first `count` lanes of a V lie in its register k.
template <class V> NNK_FN int part_count(int count, int k) {
  if constexpr (V::registers == 1) return count;
  const int there = count - k * V::lanes;
  return there < 0 ? 0 : there > V::lanes ? V::lanes : there;
}

// Their bits in register k.
template <class V> NNK_FN uint32 bits_of_part(uint32 bits, int k) {
  return bits >> (k * V::lanes) & uint32(low_bits(V::lanes));
}

// N adjacent elements.
template <int N, class T> NNK_FN Vec<T, N> load(const T* p) {
  using V = Vec<T, N>;
  V v;
  NNK_UNROLL
  for (int k = 0; k < V::registers; ++k)
    v.reg[k] = load_register<T, V::lanes>(lane_address(p, k * V::lanes));
  return v;
}
template <class T, int N> NNK_FN void store(T* p, const Vec<T, N>& v) {
  using V = Vec<T, N>;
  NNK_UNROLL
  for (int k = 0; k < V::registers; ++k)
    store_register<T, V::lanes>(lane_address(p, k * V::lanes), v.reg[k]);
}
// Past-the-cache store, where p is a multiple of the register size.
template <class T, int N> NNK_FN void store_streaming(T* p, const Vec<T, N>& v) {
  using V = Vec<T, N>;
  NNK_UNROLL
  for (int k = 0; k < V::registers; ++k)
    store_register_streaming<T, V::lanes>(lane_address(p, k * V::lanes), v.reg[k]);
}

// The first `count` (0 to N) of N adjacent elements; the other lanes get `fill`.
template <int N, class T> NNK_FN Vec<T, N> load_partial(const T* p, int count, T fill) {
  using V = Vec<T, N>;
  V v = V::splat(fill);
  NNK_UNROLL
  for (int k = 0; k < V::registers; ++k)
    v.reg[k] = load_register_partial<T, V::lanes>(lane_address(p, k * V::lanes),
                                                  part_count<V>(count, k), v.reg[k]);
  return v;
}
template <int N, class T> NNK_FN Vec<T, N> load_if(bool there, const T* p, T fill) {
  return there ? load<N>(p) : Vec<T, N>::splat(fill);
}
template <class T, int N> NNK_FN void store_partial(T* p, const Vec<T, N>& v, int count) {
  using V = Vec<T, N>;
  NNK_UNROLL
  for (int k = 0; k < V::registers; ++k)
    store_register_partial<T, V::lanes>(lane_address(p, k * V::lanes), v.reg[k],
                                        part_count<V>(count, k));
}

// Elements `step` bytes apart, the first `count` of them.
template <int N, class T, class Index>
NNK_FN Vec<T, N> load_strided(const T* p, Index step, int count, T fill) {
  using V = Vec<T, N>;
  V v = V::splat(fill);
  const char* bytes = reinterpret_cast<const char*>(p);
  NNK_UNROLL
  for (int k = 0; k < V::registers; ++k) {
    const char* first = bytes + int64(k * V::lanes) * step;
    const int there = part_count<V>(count, k);
    if (there == V::lanes) v.reg[k] = load_register_strided<T, V::lanes>(first, step);
    else v.reg[k] = load_register_strided_partial<T, V::lanes>(first, step, there, v.reg[k]);
  }
  return v;
}
template <class T, int N, class Index>
NNK_FN void store_strided(T* p, Index step, const Vec<T, N>& v, int count) {
  using V = Vec<T, N>;
  char* bytes = reinterpret_cast<char*>(p);
  NNK_UNROLL
  for (int k = 0; k < V::registers; ++k) {
    char* first = bytes + int64(k * V::lanes) * step;
    const int there = part_count<V>(count, k);
    if (there == V::lanes) store_register_strided<T, V::lanes>(first, step, v.reg[k]);
    else store_register_strided_partial<T, V::lanes>(first, step, v.reg[k], there);
  }
}

// Those of N elements, `step` bytes apart, whose bits are set; the other lanes are those of `fill`.
template <int N, class T>
NNK_FN Vec<T, N> load_lanes(const T* p, int64 step, uint32 bits, const Vec<T, N>& fill) {
  using V = Vec<T, N>;
  static_assert(N <= 32, "a bit for each lane");
  const char* bytes = reinterpret_cast<const char*>(p);
  V v;
  NNK_UNROLL
  for (int k = 0; k < V::registers; ++k)
    v.reg[k] = load_register_lanes<T, V::lanes>(bytes + int64(k * V::lanes) * step, step,
                                                bits_of_part<V>(bits, k), fill.reg[k]);
  return v;
}
template <class T, int N>
NNK_FN void store_lanes(T* p, int64 step, const Vec<T, N>& v, uint32 bits) {
  using V = Vec<T, N>;
  static_assert(N <= 32, "a bit for each lane");
  char* bytes = reinterpret_cast<char*>(p);
  NNK_UNROLL
  for (int k = 0; k < V::registers; ++k)
    store_register_lanes<T, V::lanes>(bytes + int64(k * V::lanes) * step, step, v.reg[k],
                                      bits_of_part<V>(bits, k));
}

// Lanes that come from several places, Step elements apart in each of them: what every place has is
// loaded over what others have, by masks, and every Step-th of it is taken once. Other lanes are 0.
template <int Step, class T, int N> struct MergedLanes {
#if NNK_AVX512 && defined(__BMI2__)
  using V = Vec<T, N>;
  static constexpr bool is_possible = V::registers == 1 && N * Step <= 32 &&
                                      (Step == 1 ? V::lanes > 1 && sizeof(typename V::Reg) >= 16
                                                 : loads_between<Step, T, V::lanes>);
  typename V::Reg part[Step] = {};

  // What `load` wants for the lanes of some bits.
  static NNK_FN uint32 mask_of(uint32 bits) { return uint32(spread_bits<Step>(bits)); }
  // p: where lane 0 would be
  NNK_FN void load(const T* p, uint32 mask) {
    NNK_UNROLL
    for (int i = 0; i < Step; ++i)
      part[i] = x86::masked_load<sizeof(T)>(lane_address(p, i * N), mask >> i * N, part[i]);
  }
  NNK_FN V lanes() const {
    if constexpr (Step == 1) return {{part[0]}};
    else return {{every_nth<Step, 1, T, N>(part, part[0], range<N>())}};
  }
#else
  static constexpr bool is_possible = false;
#endif
};

}  // namespace nnk
