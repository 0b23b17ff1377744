// Vec<T, N>: N values handled together, as an array with unrolled loops.
//
// This is the form for GPUs (N elements make one 16-byte access of a thread) and for the
// simulator. On the CPU platform vec_simd.cuh gives the same names on SIMD registers.
// Everything an algorithm may do with a Vec stands in this file; math.cuh adds exp & co.
#pragma once
#include "nnk/types.cuh"

namespace nnk {

template <class T, int N> struct Mask;

template <class T, int N> struct Vec {
  static constexpr int size = N;
  using value_type = T;
  T lane[N];

  static NNK_FN Vec splat(T x) {
    Vec v;
    NNK_UNROLL
    for (int i = 0; i < N; ++i) v.lane[i] = x;
    return v;
  }
  NNK_FN T operator[](int i) const { return lane[i]; }
  NNK_FN void set(int i, T x) { lane[i] = x; }
};

// One truth value for each lane of a Vec<T, N>.
template <class T, int N> struct Mask {
  static constexpr int size = N;
  bool lane[N];
  NNK_FN bool operator[](int i) const { return lane[i]; }
};

template <class T, int N, class F> NNK_FN Vec<T, N> map_lanes(const Vec<T, N>& a, F f) {
  Vec<T, N> r;
  NNK_UNROLL
  for (int i = 0; i < N; ++i) r.lane[i] = f(a.lane[i]);
  return r;
}
template <class T, int N, class F>
NNK_FN Vec<T, N> map_lanes(const Vec<T, N>& a, const Vec<T, N>& b, F f) {
  Vec<T, N> r;
  NNK_UNROLL
  for (int i = 0; i < N; ++i) r.lane[i] = f(a.lane[i], b.lane[i]);
  return r;
}

// ---- arithmetic, comparison, selection -------------------------------------------

#define NNK_VEC_BINARY(op)                                                                         \
  template <class T, int N> NNK_FN Vec<T, N> operator op(const Vec<T, N>& a, const Vec<T, N>& b) { \
    Vec<T, N> r;                                                                                   \
    NNK_UNROLL                                                                                     \
    for (int i = 0; i < N; ++i) r.lane[i] = a.lane[i] op b.lane[i];                                \
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
    for (int i = 0; i < N; ++i) r.lane[i] = a.lane[i] op b.lane[i];                     \
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

#define NNK_MASK_BINARY(op)                                                 \
  template <class T, int N>                                                 \
  NNK_FN Mask<T, N> operator op(const Mask<T, N>& a, const Mask<T, N>& b) { \
    Mask<T, N> r;                                                           \
    NNK_UNROLL                                                              \
    for (int i = 0; i < N; ++i) r.lane[i] = a.lane[i] op b.lane[i];         \
    return r;                                                               \
  }
NNK_MASK_BINARY(&)
NNK_MASK_BINARY(|)
#undef NNK_MASK_BINARY

template <class T, int N> NNK_FN Mask<T, N> operator!(const Mask<T, N>& a) {
  Mask<T, N> r;
  NNK_UNROLL
  for (int i = 0; i < N; ++i) r.lane[i] = !a.lane[i];
  return r;
}
template <class T, int N> NNK_FN bool any(const Mask<T, N>& a) {
  bool r = false;
  NNK_UNROLL
  for (int i = 0; i < N; ++i) r = r || a.lane[i];
  return r;
}

template <class T, int N> NNK_FN Vec<T, N> operator-(const Vec<T, N>& a) {
  return map_lanes(a, [](T x) { return T(-x); });
}
template <class T, int N>
NNK_FN Vec<T, N> where(const Mask<T, N>& m, const Vec<T, N>& a, const Vec<T, N>& b) {
  Vec<T, N> r;
  NNK_UNROLL
  for (int i = 0; i < N; ++i) r.lane[i] = m.lane[i] ? a.lane[i] : b.lane[i];
  return r;
}

// max and min return NaN if either operand is NaN (std::max and fmax do not).
template <class T, int N> NNK_FN Vec<T, N> max(const Vec<T, N>& a, const Vec<T, N>& b) {
  return map_lanes(a, b, [](T x, T y) { return nnk::max(x, y); });
}
template <class T, int N> NNK_FN Vec<T, N> min(const Vec<T, N>& a, const Vec<T, N>& b) {
  return map_lanes(a, b, [](T x, T y) { return nnk::min(x, y); });
}
template <class T, int N>
NNK_FN Vec<T, N> fma(const Vec<T, N>& a, const Vec<T, N>& b, const Vec<T, N>& c) {
  Vec<T, N> r;
  NNK_UNROLL
  for (int i = 0; i < N; ++i) r.lane[i] = nnk::fma(a.lane[i], b.lane[i], c.lane[i]);
  return r;
}

// Fused whatever stands around it: see vec_simd.cuh.
template <class T, int N>
NNK_FN Vec<T, N> fma_always(const Vec<T, N>& a, const Vec<T, N>& b, const Vec<T, N>& c) {
  return fma(a, b, c);
}

// ---- functions of one argument, lane by lane --------------------------------------

#define NNK_VEC_FUNCTION(name)                                          \
  template <class T, int N> NNK_FN Vec<T, N> name(const Vec<T, N>& a) { \
    return map_lanes(a, [](T x) { return nnk::name(x); });              \
  }
NNK_VEC_FUNCTION(abs)
NNK_VEC_FUNCTION(exp)
NNK_VEC_FUNCTION(expm1)
NNK_VEC_FUNCTION(log)
NNK_VEC_FUNCTION(log1p)
NNK_VEC_FUNCTION(tanh)
NNK_VEC_FUNCTION(erf)
NNK_VEC_FUNCTION(erfc)
NNK_VEC_FUNCTION(sqrt)
NNK_VEC_FUNCTION(rsqrt)
NNK_VEC_FUNCTION(conj)
NNK_VEC_FUNCTION(exp2)
NNK_VEC_FUNCTION(log2)
#undef NNK_VEC_FUNCTION
template <int N> NNK_FN Vec<Brief, N> reciprocal(const Vec<Brief, N>& a) {
  return map_lanes(a, [](Brief x) { return nnk::reciprocal(x); });
}
// The magnitude of x with the sign of `sign`, also of a zero.
template <class T, int N> NNK_FN Vec<T, N> copysign(const Vec<T, N>& x, const Vec<T, N>& sign) {
  return map_lanes(x, sign, [](T a, T b) { return nnk::copysign(a, b); });
}

// ---- conversion -------------------------------------------------------------------

// half and bfloat16 convert to and from float (rounding to nearest, ties to even); any
// other pair as static_cast.
template <class U, class T, int N> NNK_FN Vec<U, N> convert(const Vec<T, N>& a) {
  Vec<U, N> r;
  NNK_UNROLL
  for (int i = 0; i < N; ++i) r.lane[i] = nnk::convert_scalar<U>(a.lane[i]);
  return r;
}

// The same bits as lanes of another type of that size.
template <class U, class T, int N> NNK_FN Vec<U, N> bits_as(const Vec<T, N>& a) {
  Vec<U, N> r;
  NNK_UNROLL
  for (int i = 0; i < N; ++i) r.lane[i] = bit_cast<U>(a.lane[i]);
  return r;
}

// ---- halves -----------------------------------------------------------------------

template <class T, int N> NNK_FN Vec<T, N / 2> lower_half(const Vec<T, N>& a) {
  Vec<T, N / 2> r;
  NNK_UNROLL
  for (int i = 0; i < N / 2; ++i) r.lane[i] = a.lane[i];
  return r;
}
template <class T, int N> NNK_FN Vec<T, N / 2> upper_half(const Vec<T, N>& a) {
  Vec<T, N / 2> r;
  NNK_UNROLL
  for (int i = 0; i < N / 2; ++i) r.lane[i] = a.lane[N / 2 + i];
  return r;
}

// ---- memory -----------------------------------------------------------------------
// Raw pointers here; algorithms go through View and Line (nnk/view.cuh), which add the
// bounds checks of the simulator.

template <int Bytes> struct RawVector;  // the platform's integer vector of that many bytes

// What a Vec is stored as. Lanes narrower than a word are put together by shifts: the compiler of
// ROCm 5.2 does not take an array of 2-byte numbers apart that is read as a vector of words (LLVM's
// pass SROA), and leaves it in private memory.
template <class T> using BitsOf = conditional<sizeof(T) == 1, uint8, uint16>;
template <class T, int Words> NNK_FN void put_together(const T* lanes, uint32 (&word)[Words]) {
  constexpr int count = int(4 / sizeof(T));
  NNK_UNROLL
  for (int w = 0; w < Words; ++w) {
    word[w] = 0;
    NNK_UNROLL
    for (int i = 0; i < count; ++i)
      word[w] |= uint32(bit_cast<BitsOf<T>>(lanes[w * count + i])) << (32 / count * i);
  }
}
template <class Raw, class T> NNK_FN Raw to_raw(const T* lanes) {
  Raw raw;
  if constexpr (sizeof(T) < 4 && sizeof(Raw) >= 4) {
    uint32 word[sizeof(Raw) / 4];
    put_together(lanes, word);
    NNK_MEMCPY(&raw, word, sizeof(Raw));
  } else {
    NNK_MEMCPY(&raw, lanes, sizeof(Raw));
  }
  return raw;
}
// N adjacent elements, aligned to min(N * sizeof(T), 16) bytes.
template <int N, class T> NNK_FN Vec<T, N> load(const T* p) {
  constexpr int bytes = N * int(sizeof(T));
  Vec<T, N> v;
  if constexpr (is_power_of_two(bytes) && bytes <= 16) {
    using Raw = typename RawVector<bytes>::type;
    const Raw raw = *reinterpret_cast<const Raw*>(p);
    NNK_MEMCPY(&v, &raw, bytes);
  } else if constexpr (bytes % 16 == 0) {
    using Raw = typename RawVector<16>::type;
    NNK_UNROLL
    for (int i = 0; i < bytes / 16; ++i) {
      const Raw raw = reinterpret_cast<const Raw*>(p)[i];
      NNK_MEMCPY(v.lane + 16 / int(sizeof(T)) * i, &raw, 16);
    }
  } else {
    NNK_UNROLL
    for (int i = 0; i < N; ++i) v.lane[i] = p[i];
  }
  return v;
}
template <class T, int N> NNK_FN void store(T* p, const Vec<T, N>& v) {
  constexpr int bytes = N * int(sizeof(T));
  if constexpr (is_power_of_two(bytes) && bytes <= 16) {
    using Raw = typename RawVector<bytes>::type;
    *reinterpret_cast<Raw*>(p) = to_raw<Raw>(v.lane);
  } else if constexpr (bytes % 16 == 0) {
    using Raw = typename RawVector<16>::type;
    NNK_UNROLL
    for (int i = 0; i < bytes / 16; ++i)
      reinterpret_cast<Raw*>(p)[i] = to_raw<Raw>(v.lane + 16 / int(sizeof(T)) * i);
  } else {
    NNK_UNROLL
    for (int i = 0; i < N; ++i) p[i] = v.lane[i];
  }
}

// The first `count` (0 to N) of N adjacent elements; the other lanes get `fill`. (Not
// `i < count ? p[i] : fill`: of a struct, such as half, clang selects the address, and `fill` has
// one in memory only.)
template <int N, class T> NNK_FN Vec<T, N> load_partial(const T* p, int count, T fill) {
  Vec<T, N> v;
  NNK_UNROLL
  for (int i = 0; i < N; ++i) {
    v.lane[i] = fill;
    if (i < count) v.lane[i] = p[i];
  }
  return v;
}
// All of them, or `fill` if they are not `there`: a predicated load, after which code goes on.
// Words are chosen as memory has them, since to take lanes out of them is work that waits for the
// load: behind a branch, no later load would begin before it.
template <int N, class T> NNK_FN Vec<T, N> load_if(bool there, const T* p, T fill) {
  constexpr int bytes = N * int(sizeof(T));
  Vec<T, N> v = Vec<T, N>::splat(fill);
  if constexpr (sizeof(T) < 4 && bytes % 4 == 0 && is_power_of_two(bytes) && bytes <= 16) {
    using Raw = typename RawVector<bytes>::type;
    uint32 word[bytes / 4];
    put_together(v.lane, word);
    if (there) {
      const Raw raw = *reinterpret_cast<const Raw*>(p);
      NNK_MEMCPY(word, &raw, bytes);
    }
    NNK_MEMCPY(&v, word, bytes);
  } else {
    if (there) v = load<N>(p);
  }
  return v;
}
template <class T, int N> NNK_FN void store_partial(T* p, const Vec<T, N>& v, int count) {
  NNK_UNROLL
  for (int i = 0; i < N; ++i)
    if (i < count) p[i] = v.lane[i];
}

// Elements `step` bytes apart, the first `count` of them.
template <int N, class T, class Index>
NNK_FN Vec<T, N> load_strided(const T* p, Index step, int count, T fill) {
  Vec<T, N> v;
  NNK_UNROLL
  for (int i = 0; i < N; ++i) {
    v.lane[i] = fill;
    if (i < count)
      v.lane[i] = *reinterpret_cast<const T*>(reinterpret_cast<const char*>(p) + i * step);
  }
  return v;
}
template <class T, int N, class Index>
NNK_FN void store_strided(T* p, Index step, const Vec<T, N>& v, int count) {
  NNK_UNROLL
  for (int i = 0; i < N; ++i)
    if (i < count) *reinterpret_cast<T*>(reinterpret_cast<char*>(p) + i * step) = v.lane[i];
}

// Elements at p + offset[i] bytes, the first `count` of them.
template <int N, class T, class Index>
NNK_FN Vec<T, N> load_offsets(const T* p, const Index* offset, int count) {
  Vec<T, N> v;
  NNK_UNROLL
  for (int i = 0; i < N; ++i) {
    v.lane[i] = T();
    if (i < count)
      v.lane[i] = *reinterpret_cast<const T*>(reinterpret_cast<const char*>(p) + offset[i]);
  }
  return v;
}
// p[index[i]], or 0 where the index is negative.
template <int N, class T> NNK_FN Vec<T, N> load_columns(const T* p, const int32* index) {
  Vec<T, N> v;
  NNK_UNROLL
  for (int i = 0; i < N; ++i) v.lane[i] = index[i] < 0 ? T() : p[index[i]];
  return v;
}
// Elements at p + offset[i] bytes, or 0 where the offset is negative.
template <class T, class Index, int N>
NNK_FN Vec<T, N> load_or_zero(const T* p, const Vec<Index, N>& offset) {
  Vec<T, N> v;
  NNK_UNROLL
  for (int i = 0; i < N; ++i) {
    v.lane[i] = T();
    if (offset.lane[i] >= 0)
      v.lane[i] = *reinterpret_cast<const T*>(reinterpret_cast<const char*>(p) + offset.lane[i]);
  }
  return v;
}
// Whether an instruction does this: not here.
template <class T, int N> constexpr bool permutes = false;
// Lane i is table[index[i]], or 0 where the index is negative.
template <class T, int N>
NNK_FN Vec<T, N> permuted(const Vec<T, N>& table, const Vec<int32, N>& index) {
  return load_columns<N>(table.lane, index.lane);
}
// a[First], a[First + 2], ...
template <int First, class T, int N> NNK_FN Vec<T, N / 2> every_second(const Vec<T, N>& a) {
  Vec<T, N / 2> r;
  NNK_UNROLL
  for (int i = 0; i < N / 2; ++i) r.lane[i] = a.lane[First + 2 * i];
  return r;
}

// Those of N elements, `step` bytes apart, whose bits are set; the other lanes are those of `fill`.
template <int N, class T>
NNK_FN Vec<T, N> load_lanes(const T* p, int64 step, uint32 bits, const Vec<T, N>& fill) {
  Vec<T, N> v = fill;
  NNK_UNROLL
  for (int i = 0; i < N; ++i)
    if (bits >> i & 1u)
      v.lane[i] = *reinterpret_cast<const T*>(reinterpret_cast<const char*>(p) + i * step);
  return v;
}
template <class T, int N>
NNK_FN void store_lanes(T* p, int64 step, const Vec<T, N>& v, uint32 bits) {
  NNK_UNROLL
  for (int i = 0; i < N; ++i)
    if (bits >> i & 1u) *reinterpret_cast<T*>(reinterpret_cast<char*>(p) + i * step) = v.lane[i];
}

// Lanes that are put together from registers, on a machine that has these.
template <int Step, class T, int N> struct MergedLanes {
  static constexpr bool is_possible = false;
};

// Past-the-cache store, where the platform has one; a plain store here.
template <class T, int N> NNK_FN void store_streaming(T* p, const Vec<T, N>& v) { store(p, v); }

// ---- fetching into a cache: for processors that wait for memory, not for a GPU -------------

constexpr int cache_line = 64;
template <int Level = 2> NNK_FN void prefetch(const void*) {}

// ---- addresses that a compiler must not compute otherwise: see platform/cpu.cuh --------------

template <class T> NNK_FN T* opaque(T* p) { return p; }

// ---- transposition --------------------------------------------------------------------

// Side of the squares of a Vec<T, N> that are transposed at once.
template <class T, int N> constexpr int transposed_lanes() { return N % 4 == 0 ? 4 : 1; }

// Lane j of row i and lane i of row j change places.
template <class T, int L> NNK_FN void transpose(Vec<T, L> (&x)[L]) {
  NNK_UNROLL
  for (int i = 1; i < L; ++i) {
    NNK_UNROLL
    for (int j = 0; j < i; ++j) {
      const T lane = x[i][j];
      x[i].set(j, x[j][i]);
      x[j].set(i, lane);
    }
  }
}

}  // namespace nnk
