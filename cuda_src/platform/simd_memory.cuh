// Registers and memory: whole, partial, strided and past the caches.
//
// Pointers may be any address, steps any number of bytes, and no byte past the elements
// asked for is touched, except that a load may read the gaps between its elements.
#pragma once
#include "platform/simd_x86.cuh"

namespace nnk {

// A register in memory, at any address. (Of a memcpy of 64 bytes, g++ 12 makes an integer of 512
// bits, which it may carry in eight words and store as these: a load of the register then waits
// for all of them.)
template <class R> struct __attribute__((packed, may_alias)) InMemory { R r; };

template <class T, int L> NNK_FN Register<T, L> load_register(const void* p) {
  using R = Register<T, L>;
  if constexpr (__is_class(R)) {  // one element, which may be of some alignment
    R r;
    __builtin_memcpy(&r, p, sizeof(r));
    return r;
  } else {
    return static_cast<const InMemory<R>*>(p)->r;
  }
}
template <class T, int L> NNK_FN void store_register(void* p, const Register<T, L>& r) {
  if constexpr (__is_class(Register<T, L>)) __builtin_memcpy(p, &r, sizeof(r));
  else static_cast<InMemory<Register<T, L>>*>(p)->r = r;
}

// `count` bytes, 0 to Limit - 1: one move for each bit of count.
template <int Limit> NNK_FN void copy_bytes(char* to, const char* from, int count) {
  if constexpr (Limit > 1) {
    constexpr int piece = Limit / 2;
    if (count & piece) {
      __builtin_memcpy(to, from, piece);
      to += piece;
      from += piece;
    }
    copy_bytes<piece>(to, from, count);
  }
}

// ---- the first `count` lanes, 0 to L --------------------------------------------------

constexpr NNK_FN uint64 low_bits(int count) {
  return count >= 64 ? ~uint64(0) : (uint64(1) << count) - 1;
}

#if defined(__AVX2__) && !NNK_AVX512
// All bits of the lanes whose bit is set.
template <class T, int L> NNK_FN auto chosen_lanes(uint32 bits) {
  using I = conditional<sizeof(T) == 4, int32, int64>;
  return (I(bits) >> lane_numbers<I, L>() & I(1)) != I(0);
}
#endif

template <class T, int L>
NNK_FN Register<T, L> load_register_partial(const void* p, int count, Register<T, L> fill) {
  using R = Register<T, L>;
#if NNK_AVX512
  if constexpr (L > 1 && sizeof(R) >= 16)
    return x86::masked_load<sizeof(T), R>(p, low_bits(count), fill);
#elif defined(__AVX2__)
  if constexpr (L > 1 && sizeof(R) >= 16 && sizeof(T) >= 4) {
    using I = conditional<sizeof(T) == 4, int32, int64>;
    const auto there = lane_numbers<I, L>() < I(count);
    return there ? x86::masked_load_avx<sizeof(T), R>(p, there) : fill;
  }
#endif
  if (count == L) return load_register<T, L>(p);
  copy_bytes<sizeof(R)>(reinterpret_cast<char*>(&fill), static_cast<const char*>(p),
                        count * int(sizeof(T)));
  return fill;
}
template <class T, int L> NNK_FN void store_register_partial(void* p, Register<T, L> x, int count) {
#if NNK_AVX512
  if constexpr (L > 1 && sizeof(x) >= 16)
    return x86::masked_store<sizeof(T)>(p, low_bits(count), x);
#elif defined(__AVX2__)
  if constexpr (L > 1 && sizeof(x) >= 16 && sizeof(T) >= 4) {
    using I = conditional<sizeof(T) == 4, int32, int64>;
    return x86::masked_store_avx<sizeof(T)>(p, lane_numbers<I, L>() < I(count), x);
  }
#endif
  if (count == L) return store_register<T, L>(p, x);
  copy_bytes<sizeof(x)>(static_cast<char*>(p), reinterpret_cast<const char*>(&x),
                        count * int(sizeof(T)));
}

// ---- L elements, `step` bytes apart ------------------------------------------------------

// Every second of 2 L - 1 adjacent elements, from two overlapping loads that end with the
// last element.
template <class T, int L, int... I> NNK_FN Register<T, L> load_even(const char* p, Ints<I...>) {
  const Register<T, L> low = load_register<T, L>(p),
                       high = load_register<T, L>(p + (L - 1) * sizeof(T));
  return shuffle<T, L>(low, high, Ints<(2 * I < L ? 2 * I : 2 * I + 1)...>());
}

// Every Step-th of the adjacent elements from p to the last one that is wanted, from Step loads, of
// which the last one ends with it.
template <int Step, int Load, class T, int L, int... I>
NNK_FN Register<T, L> load_every_after(const char* p, Register<T, L> found, Ints<I...>) {
  if constexpr (Load == Step) {
    return found;
  } else {
    // Lanes from `begin` on are among what this load brings, and those before are found.
    constexpr int first = Load == Step - 1 ? Step * (L - 1) + 1 - L : Load * L;
    constexpr int begin = (Load * L + Step - 1) / Step;
    const auto more = load_register<T, L>(p + first * int(sizeof(T)));
    found = shuffle<T, L>(
        found, more,
        Ints<(I >= begin && Step * I < first + L && Step * I >= first ? L + Step * I - first
                                                                      : I)...>());
    return load_every_after<Step, Load + 1, T, L>(p, found, range<L>());
  }
}
template <int Step, class T, int L, int... I>
NNK_FN Register<T, L> load_every_nth(const char* p, Ints<I...>) {
  const auto low = load_register<T, L>(p);
  const auto found = shuffle<T, L>(low, low, Ints<(Step * I < L ? Step * I : I)...>());
  return load_every_after<Step, 1, T, L>(p, found, range<L>());
}

#if NNK_AVX512
template <class T, int L, int... I> NNK_FN void store_even(char* p, Register<T, L> x, Ints<I...>) {
  constexpr uint64 even = 0x5555555555555555ull;
  const Register<T, L> low = shuffle<T, L>(x, x, Ints<(I / 2)...>());
  const Register<T, L> high = shuffle<T, L>(x, x, Ints<((L + I) / 2)...>());
  x86::masked_store<sizeof(T)>(p, even & low_bits(L), low);
  // The element 2 L - 1 is a gap, and its mask bit is not set.
  x86::masked_store<sizeof(T)>(p + sizeof(x), even & low_bits(L), high);
}
#endif

template <class T, int L> NNK_FN Register<T, L> load_register_strided(const char* p, int64 step) {
  using R = Register<T, L>;
  if constexpr (L == 1) {
    return load_register<T, L>(p);
  } else {
    if (step == 2 * int(sizeof(T))) return load_even<T, L>(p, range<L>());
#if NNK_AVX512
    if constexpr (L * sizeof(T) >= 16 && sizeof(T) >= 4) {
      if (step == 3 * int(sizeof(T))) return load_every_nth<3, T, L>(p, range<L>());
      if (step == 4 * int(sizeof(T))) return load_every_nth<4, T, L>(p, range<L>());
    }
    // Measured with 16 floats on a Sapphire Rapids core: gather 0.27 ns an element, lane by
    // lane 0.44 ns.
    if constexpr (L * sizeof(T) >= 16 && sizeof(T) >= 4) {
      constexpr int64 limit = 0x7fffffff / L;  // so that 32-bit offsets hold
      if constexpr (sizeof(T) == 8)
        return x86::gather64(p, lane_numbers<int64, L>() * step, uint16(low_bits(L)), R{});
      else if (-limit < step && step < limit)
        return x86::gather32(p, lane_numbers<int32, L>() * int32(step), uint16(low_bits(L)), R{});
    }
#endif
    R r{};
    NNK_UNROLL
    for (int i = 0; i < L; ++i) r[i] = load_register<T, 1>(p + i * step);
    return r;
  }
}
template <class T, int L>
NNK_FN void store_register_strided(char* p, int64 step, Register<T, L> x) {
  if constexpr (L == 1) {
    store_register<T, L>(p, x);
  } else {
#if NNK_AVX512
    // Every second element of 2 L - 1, as two masked stores: 0.08 ns a float.
    if constexpr (sizeof(x) >= 16) {
      if (step == 2 * int(sizeof(T))) return store_even<T, L>(p, x, range<L>());
    }
#endif
    // Scatter instructions are slower than this (0.44 against 0.33 ns a float).
    NNK_UNROLL
    for (int i = 0; i < L; ++i) store_register<T, 1>(p + i * step, Stored<T>(x[i]));
  }
}

// The first `count` of them, 0 to L - 1; the other lanes of a load are those of `fill`.
template <class T, int L>
NNK_FN Register<T, L> load_register_strided_partial(const char* p, int64 step, int count,
                                                    Register<T, L> fill) {
  if constexpr (L == 1) return count > 0 ? load_register<T, 1>(p) : fill;
  Stored<T> lane[L];
  __builtin_memcpy(lane, &fill, sizeof(fill));
  NNK_NO_UNROLL
  for (int i = 0; i < count; ++i) lane[i] = load_register<T, 1>(p + i * step);
  return load_register<T, L>(lane);
}
template <class T, int L>
NNK_FN void store_register_strided_partial(char* p, int64 step, Register<T, L> x, int count) {
  if constexpr (L == 1) {
    if (count > 0) store_register<T, 1>(p, x);
    return;
  }
  Stored<T> lane[L];
  __builtin_memcpy(lane, &x, sizeof(x));
  NNK_NO_UNROLL
  for (int i = 0; i < count; ++i) store_register<T, 1>(p + i * step, lane[i]);
}

// ---- the lanes whose bits are set ---------------------------------------------------------

#if NNK_AVX512 && defined(__BMI2__)
// Whether L elements, Step of their sizes apart, are loaded as Step masked registers. (A gather of
// 16 floats takes a Zen 4 core as long as ten of these.)
template <int Step, class T, int L>
constexpr bool loads_between = L > 1 && L * sizeof(T) >= 16 && L* Step <= 64;

// Bit i at Step i.
template <int Step> NNK_FN uint64 spread_bits(uint32 bits) {
  constexpr uint64 every = Step == 1   ? ~0ull
                           : Step == 2 ? 0x5555555555555555ull
                           : Step == 3 ? 0x9249249249249249ull
                                       : 0x1111111111111111ull;
  return Step == 1 ? bits : __builtin_ia32_pdep_di(bits, every);
}
// Every Step-th lane of some registers, from the one numbered First on.
template <int Step, int First, class T, int L, int... I>
NNK_FN Register<T, L> every_nth(const Register<T, L> (&part)[Step], Register<T, L> found,
                                Ints<I...>) {
  if constexpr (First == Step) {
    return found;
  } else {
    found = shuffle<T, L>(found, part[First],
                          Ints<(Step * I / L == First ? L + Step * I - First * L
                                : First == 1          ? Step * I % L
                                                      : I)...>());
    return every_nth<Step, First + 1, T, L>(part, found, range<L>());
  }
}
template <int Step, class T, int L>
NNK_FN Register<T, L> load_between(const char* p, uint32 bits, Register<T, L> fill) {
  const uint64 wanted = spread_bits<Step>(bits);
  Register<T, L> part[Step] = {};
  NNK_UNROLL
  for (int i = 0; i < Step; ++i)
    part[i] = x86::masked_load<sizeof(T)>(p + i * int(sizeof(fill)), wanted >> i * L, part[i]);
  return x86::masked_move<sizeof(T)>(every_nth<Step, 1, T, L>(part, part[0], range<L>()), bits,
                                     fill);
}
// Every second element.
template <class T, int L, int... I>
NNK_FN void store_between(char* p, const Register<T, L>& x, uint32 bits, Ints<I...>) {
  const uint64 wanted = spread_bits<2>(bits);
  x86::masked_store<sizeof(T)>(p, wanted, shuffle<T, L>(x, x, Ints<(I / 2)...>()));
  x86::masked_store<sizeof(T)>(p + sizeof(x), wanted >> L,
                               shuffle<T, L>(x, x, Ints<((L + I) / 2)...>()));
}
#endif

// L elements, `step` bytes apart. What is not wanted is not touched, and has the lane of `fill`.
template <class T, int L>
NNK_FN Register<T, L> load_register_lanes(const char* p, int64 step, uint32 bits,
                                          Register<T, L> fill) {
  if constexpr (L == 1) {
    return bits != 0 ? load_register<T, 1>(p) : fill;
  } else {
#if NNK_AVX512
    if constexpr (sizeof(fill) >= 16) {
      if (step == int(sizeof(T))) return x86::masked_load<sizeof(T), Register<T, L>>(p, bits, fill);
      constexpr int64 limit = 0x7fffffff / L;  // so that 32-bit offsets hold
      if (bits == low_bits(L)) return load_register_strided<T, L>(p, step);
#if defined(__BMI2__)
      if constexpr (loads_between<2, T, L>)
        if (step == 2 * int(sizeof(T))) return load_between<2, T, L>(p, bits, fill);
      if constexpr (loads_between<4, T, L> && sizeof(T) >= 4) {
        if (step == 3 * int(sizeof(T))) return load_between<3, T, L>(p, bits, fill);
        if (step == 4 * int(sizeof(T))) return load_between<4, T, L>(p, bits, fill);
      }
#endif
      if constexpr (sizeof(T) == 8)
        return x86::gather64(p, lane_numbers<int64, L>() * step, uint16(bits), fill);
      else if constexpr (sizeof(T) == 4)
        if (-limit < step && step < limit)
          return x86::gather32(p, lane_numbers<int32, L>() * int32(step), uint16(bits), fill);
    }
#elif defined(__AVX2__)
    if constexpr (sizeof(fill) >= 16 && sizeof(T) >= 4)
      if (step == int(sizeof(T))) {
        const auto there = chosen_lanes<T, L>(bits);
        return there ? x86::masked_load_avx<sizeof(T), Register<T, L>>(p, there) : fill;
      }
#endif
    if (bits == low_bits(L))
      return step == int(sizeof(T)) ? load_register<T, L>(p) : load_register_strided<T, L>(p, step);
    Stored<T> lane[L];
    __builtin_memcpy(lane, &fill, sizeof(fill));
    for (; bits != 0; bits &= bits - 1) {
      const int i = __builtin_ctz(bits);
      lane[i] = load_register<T, 1>(p + i * step);
    }
    return load_register<T, L>(lane);
  }
}
template <class T, int L>
NNK_FN void store_register_lanes(char* p, int64 step, const Register<T, L>& x, uint32 bits) {
  if constexpr (L == 1) {
    if (bits != 0) store_register<T, 1>(p, x);
  } else {
#if NNK_AVX512
    if constexpr (sizeof(x) >= 16)
      if (step == int(sizeof(T))) return x86::masked_store<sizeof(T)>(p, bits, x);
#if defined(__BMI2__)
    if constexpr (loads_between<2, T, L>)
      if (step == 2 * int(sizeof(T))) return store_between<T, L>(p, x, bits, range<L>());
#endif
#elif defined(__AVX2__)
    if constexpr (sizeof(x) >= 16 && sizeof(T) >= 4)
      if (step == int(sizeof(T)))
        return x86::masked_store_avx<sizeof(T)>(p, chosen_lanes<T, L>(bits), x);
#endif
    if (bits == low_bits(L)) {
      if (step == int(sizeof(T))) store_register<T, L>(p, x);
      else store_register_strided<T, L>(p, step, x);
      return;
    }
    Stored<T> lane[L];
    __builtin_memcpy(lane, &x, sizeof(x));
    for (; bits != 0; bits &= bits - 1) {
      const int i = __builtin_ctz(bits);
      store_register<T, 1>(p + i * step, lane[i]);
    }
  }
}

// ---- past the caches -----------------------------------------------------------------------

template <class T, int L> NNK_FN void store_register_streaming(void* p, const Register<T, L>& x) {
  using R = Register<T, L>;
  if constexpr (sizeof(R) >= 16) {
    if (reinterpret_cast<__UINTPTR_TYPE__>(p) % sizeof(R) == 0) {
#if defined(__SSE2__)
      x86::store_nontemporal(p, x);
      return;
#elif defined(__clang__)
      __builtin_nontemporal_store(x, static_cast<R*>(p));
      return;
#endif
    }
  }
  store_register<T, L>(p, x);
}
// Called after the last of them.
NNK_FN void finish_streaming_stores() {
#if defined(__SSE2__)
  x86::store_fence();
#endif
}

}  // namespace nnk
