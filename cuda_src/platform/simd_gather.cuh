// Registers from elements at places that are numbers in memory: gathers and permutations.
#pragma once
#include "platform/vec_simd_memory.cuh"

namespace nnk {

namespace x86 {

#if NNK_AVX512
// Lane i from the address p + Scale offset[i] bytes, where its bit is set; 32-bit offsets.
template <int Scale, class R, class Offsets>
NNK_FN R gather_scaled(const void* p, Offsets offset, uint16 bits, R otherwise) {
  if constexpr (sizeof(R) == sizeof(Offsets))
    asm("vgatherdps (%2,%3,%c4), %0%{%1%}"
        : "+&v"(otherwise), "+&Yk"(bits)
        : "r"(p), "v"(offset), "n"(Scale)
        : "memory");
  else
    asm("vgatherdpd (%2,%3,%c4), %0%{%1%}"
        : "+&v"(otherwise), "+&Yk"(bits)
        : "r"(p), "v"(offset), "n"(Scale)
        : "memory");
  return otherwise;
}
// A bit for each negative lane.
template <class I> NNK_FN uint16 negative_lanes(I x) {
  uint16 bits;
  asm("vpmovd2m %1, %0" : "=Yk"(bits) : "v"(x));
  return bits;
}
// table[index % 8], lane by lane, of 64-bit lanes.
template <class R, class I> NNK_FN R look_up_64(R table, I index) {
  R r;
  asm("vpermpd %1, %2, %0" : "=v"(r) : "v"(table), "v"(index));
  return r;
}
// table[index], lane by lane, of 16 bytes or of 32 lanes of 16 bits.
template <int Bytes, class R, class I> NNK_FN R look_up_narrow(R table, I index) {
  R r;
  if constexpr (Bytes == 1) asm("vpshufb %2, %1, %0" : "=v"(r) : "v"(table), "v"(index));
  else asm("vpermw %1, %2, %0" : "=v"(r) : "v"(table), "v"(index));
  return r;
}
// Four elements in memory, for the lanes of each group of four whose bits are set; the others stay.
// What no lane wants is not touched.
template <class R> NNK_FN R load_group(const void* p, uint16 bits, R otherwise) {
  const auto& m = memory_at<Register<float, 4>>(p);
  asm("vbroadcastf32x4 %2, %0%{%1%}" : "+v"(otherwise) : "Yk"(bits), "m"(m));
  return otherwise;
}
// Signed bytes in memory as lanes of a register.
template <class I, int L> NNK_FN Register<I, L> load_bytes_as(const int8* p) {
  Register<I, L> r;
  const auto& m = memory_at<Register<int8, L>>(p);
  if constexpr (sizeof(I) == 1) r = load_register<I, L>(p);
  else if constexpr (sizeof(I) == 2) asm("vpmovsxbw %1, %0" : "=v"(r) : "m"(m));
  else if constexpr (sizeof(I) == 4) asm("vpmovsxbd %1, %0" : "=v"(r) : "m"(m));
  else asm("vpmovsxbq %1, %0" : "=v"(r) : "m"(m));
  return r;
}
// Lane index[i] of two registers laid end to end; the bits of the index above are not looked at.
template <int ElementBytes, class R, class I> NNK_FN R pick(R low, R high, I index) {
  if constexpr (ElementBytes == 1) asm("vpermi2b %2, %1, %0" : "+v"(index) : "v"(low), "v"(high));
  else if constexpr (ElementBytes == 2)
    asm("vpermi2w %2, %1, %0" : "+v"(index) : "v"(low), "v"(high));
  else if constexpr (ElementBytes == 4)
    asm("vpermi2d %2, %1, %0" : "+v"(index) : "v"(low), "v"(high));
  else asm("vpermi2q %2, %1, %0" : "+v"(index) : "v"(low), "v"(high));
  return bit_cast<R>(index);
}
#endif

}  // namespace x86

// Whether one instruction gathers a register of T by 32-bit offsets.
template <class T, int L>
constexpr bool gathers = NNK_AVX512 && is_native<T> && (sizeof(T) == 4 || sizeof(T) == 8) &&
                         L * sizeof(T) == register_bytes;

// Elements at p + offset[i] bytes, the first `count` of them.
template <int N, class T, class Index>
NNK_FN Vec<T, N> load_offsets(const T* p, const Index* offset, int count) {
  using V = Vec<T, N>;
  const char* bytes = reinterpret_cast<const char*>(p);
#if NNK_AVX512
  if constexpr (gathers<T, N> && is_same<Index, int32>) {
    const auto offsets =
        load_register_partial<int32, N>(offset, count, splat_register<int32, N>(0));
    return V{{x86::gather_scaled<1>(bytes, offsets, uint16(low_bits(count)), typename V::Reg{})}};
  }
#endif
  V v = V::splat(T());
  if (count == N) {
    NNK_UNROLL
    for (int i = 0; i < N; ++i) v.set(i, bit_cast<T>(load_register<T, 1>(bytes + offset[i])));
  } else {
    T lane[N] = {};
    NNK_NO_UNROLL
    for (int i = 0; i < count; ++i) lane[i] = bit_cast<T>(load_register<T, 1>(bytes + offset[i]));
    v = load<N>(static_cast<const T*>(lane));
  }
  return v;
}

// p[index[i]], or 0 where the index is negative.
template <int N, class T> NNK_FN Vec<T, N> load_columns(const T* p, const int32* index) {
#if NNK_AVX512
  if constexpr (gathers<T, N>) {
    const auto at = load_register<int32, N>(index);
    const uint16 there = uint16(~x86::negative_lanes(at) & low_bits(N));
    return {{x86::gather_scaled<int(sizeof(T))>(p, at, there, typename Vec<T, N>::Reg{})}};
  }
#endif
  T lane[N];
  NNK_UNROLL
  for (int i = 0; i < N; ++i) lane[i] = index[i] < 0 ? T() : p[index[i]];
  return load<N>(static_cast<const T*>(lane));
}

// Elements at p + offset[i] bytes, or 0 where the offset is negative.
template <class T, class Index, int N>
NNK_FN Vec<T, N> load_or_zero(const T* p, const Vec<Index, N>& offset) {
  const char* bytes = reinterpret_cast<const char*>(p);
#if NNK_AVX512
  if constexpr (gathers<T, N> && is_same<Index, int32>) {
    const uint16 there = uint16(~x86::negative_lanes(offset.reg[0]) & low_bits(N));
    return {{x86::gather_scaled<1>(bytes, offset.reg[0], there, typename Vec<T, N>::Reg{})}};
  }
#endif
  T lane[N];
  NNK_UNROLL
  for (int i = 0; i < N; ++i) {
    lane[i] = T();
    if (offset[i] >= 0) lane[i] = bit_cast<T>(load_register<T, 1>(bytes + offset[i]));
  }
  return load<N>(static_cast<const T*>(lane));
}

// Whether one instruction picks lanes of two registers.
template <class T, int N>
constexpr bool picks =
#if defined(__AVX512VBMI__)
    NNK_AVX512 && is_native<T> && N * sizeof(T) == register_bytes;
#else
    NNK_AVX512 && is_native<T> && sizeof(T) > 1 && N * sizeof(T) == register_bytes;
#endif
template <int Bytes> struct SignedImpl;
template <> struct SignedImpl<1> { using type = int8; };
template <> struct SignedImpl<2> { using type = int16; };
template <> struct SignedImpl<4> { using type = int32; };
template <> struct SignedImpl<8> { using type = int64; };

// Lane i is lane[i] of N elements at `low` and N at `high`, laid end to end, or otherwise[i] where
// it is negative.
template <class T, int N>
NNK_FN Vec<T, N> load_picked(const T* low, const T* high, const int8* lane,
                             const Vec<T, N>& otherwise) {
#if NNK_AVX512
  if constexpr (picks<T, N>) {
    using I = typename SignedImpl<sizeof(T)>::type;
    const auto index = x86::load_bytes_as<I, N>(lane);
    const auto found =
        x86::pick<sizeof(T)>(load_register<T, N>(low), load_register<T, N>(high), index);
    return {{index < 0 ? otherwise.reg[0] : found}};
  }
#endif
  T found[N];
  store(static_cast<T*>(found), otherwise);
  NNK_UNROLL
  for (int i = 0; i < N; ++i)
    if (lane[i] >= 0)
      found[i] = bit_cast<T>(load_register<T, 1>(lane[i] < N ? lane_address(low, lane[i])
                                                             : lane_address(high, lane[i] - N)));
  return load<N>(static_cast<const T*>(found));
}

// Lanes First, First + 2, ... of two registers laid end to end.
template <class T, int L, int First, int... I>
NNK_FN Register<T, L> every_second(const Register<T, L>& low, const Register<T, L>& high,
                                   Ints<I...>) {
  return shuffle<T, L>(low, high, Ints<(2 * I + First)...>());
}
// Two floats each from p + offset[i] bytes, laid end to end.
template <int L, class Index, int... I>
NNK_FN Register<float, L> load_twos(const char* p, const Index* offset, Ints<I...>) {
  const Register<double, L / 2> twos{load_register<double, 1>(p + offset[I])...};
  return bit_cast<Register<float, L>>(twos);
}

// Elements at p + offset[i] bytes, and those that follow them: one access for two of them, and
// shuffles. On Zen 4 a gather of 16 elements takes some 55 cycles, which is 110 for the same.
template <class Index, int N>
NNK_FN void load_pairs(const float* p, const Index* offset, Vec<float, N>& first,
                       Vec<float, N>& second) {
  const char* bytes = reinterpret_cast<const char*>(p);
  constexpr int L = Vec<float, N>::lanes;
  static_assert(L % 2 == 0, "pairs fill registers");
  NNK_UNROLL
  for (int i = 0; i < N; i += L) {
    const auto low = load_twos<L>(bytes, offset + i, range<L / 2>());
    const auto high = load_twos<L>(bytes, offset + i + L / 2, range<L / 2>());
    first.reg[i / L] = every_second<float, L, 0>(low, high, range<L>());
    second.reg[i / L] = every_second<float, L, 1>(low, high, range<L>());
  }
}

// Lane Channel of each group of four, of four registers laid end to end.
template <int Channel, int... I>
NNK_FN Register<float, 16> every_fourth(const Register<float, 16> (&four)[4], Ints<I...>) {
  const auto low = shuffle<float, 16>(four[0], four[1], Ints<(4 * (I % 8) + Channel)...>());
  const auto high = shuffle<float, 16>(four[2], four[3], Ints<(4 * (I % 8) + Channel)...>());
  return shuffle<float, 16>(low, high, Ints<(I < 8 ? I : I + 8)...>());
}
#if NNK_AVX512
template <int C, int... K>
NNK_FN Register<float, 16> load_groups(const char* p, const int32* offset, Ints<K...>) {
  Register<float, 16> r{};
  ((r = x86::load_group(p + offset[K], uint16(low_bits(C) << 4 * K), r)), ...);
  return r;
}
template <int C, int N, int... K>
NNK_FN void each_of_groups(const Register<float, 16> (&four)[4], Vec<float, N> (&x)[C],
                           Ints<K...>) {
  ((x[K].reg[0] = every_fourth<K>(four, range<16>())), ...);
}
#endif

// Of C elements from p + offset[i] bytes on, x[c] has the c-th.
template <class Index, int N, int C>
NNK_FN void load_neighbours(const float* p, const Index* offset, Vec<float, N> (&x)[C]) {
  const char* bytes = reinterpret_cast<const char*>(p);
  if constexpr (C == 2) {
    load_pairs(p, offset, x[0], x[1]);
    return;
  }
#if NNK_AVX512
  if constexpr (C > 2 && C <= 4 && N == 16 && is_same<Index, int32>) {
    Register<float, 16> four[4];
    NNK_UNROLL
    for (int i = 0; i < 4; ++i) four[i] = load_groups<C>(bytes, offset + 4 * i, range<4>());
    each_of_groups(four, x, range<C>());
    return;
  }
#endif
  float lane[C][N];
  for (int i = 0; i < N; ++i) {
    NNK_UNROLL
    for (int c = 0; c < C; ++c) lane[c][i] = load_register<float, 1>(bytes + offset[i] + 4 * c);
  }
  NNK_UNROLL
  for (int c = 0; c < C; ++c) x[c] = load<N>(static_cast<const float*>(lane[c]));
}
// The other way round, of the first `count` lanes.
template <class Index, int N, int C>
NNK_FN void store_neighbours(float* p, const Index* offset, const Vec<float, N> (&x)[C],
                             int count) {
  float lane[C][N];
  NNK_UNROLL
  for (int c = 0; c < C; ++c) store(static_cast<float*>(lane[c]), x[c]);
  for (int i = 0; i < count; ++i) {
    NNK_UNROLL
    for (int c = 0; c < C; ++c)
      store_register<float, 1>(reinterpret_cast<char*>(p) + offset[i] + 4 * c, lane[c][i]);
  }
}

// Whether an instruction does this.
template <class T, int N>
constexpr bool permutes = NNK_AVX512 && is_native<T> && N * sizeof(T) == (sizeof(T) == 1 ? 16 : 64);
// Lane i is table[index[i]], or 0 where the index is negative.
template <class T, int N>
NNK_FN Vec<T, N> permuted(const Vec<T, N>& table, const Vec<int32, N>& index) {
#if NNK_AVX512
  if constexpr (sizeof(T) == 4 && is_native<T> && N == 16) {
    const auto r = x86::look_up(table.reg[0], index.reg[0]);
    return {{index.reg[0] < 0 ? typename Vec<T, N>::Reg{} : r}};
  } else if constexpr (sizeof(T) == 8 && is_native<T> && N == 8) {
    const auto wide = convert<int64>(index);
    const auto r = x86::look_up_64(table.reg[0], wide.reg[0]);
    return {{wide.reg[0] < 0 ? typename Vec<T, N>::Reg{} : r}};
  } else if constexpr (permutes<T, N>) {
    const auto narrow = convert<conditional<sizeof(T) == 1, int8, int16>>(index);
    const auto r = x86::look_up_narrow<sizeof(T)>(table.reg[0], narrow.reg[0]);
    return {{narrow.reg[0] < 0 ? typename Vec<T, N>::Reg{} : r}};
  }
#endif
  T lane[N], from[N];
  store(static_cast<T*>(from), table);
  NNK_UNROLL
  for (int i = 0; i < N; ++i) lane[i] = index[i] < 0 ? T() : from[index[i] & (N - 1)];
  return load<N>(static_cast<const T*>(lane));
}

}  // namespace nnk
