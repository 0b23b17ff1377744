// Strided memory: View (any rank) and Line (one axis), with byte strides as in NumPy.
//
// Strides may be zero, negative or no multiple of the element size. Index is int32 or
// int64, chosen by the caller from the byte span of the array. The simulator checks every
// access that goes through these types.
#pragma once
#include "nnk/types.cuh"

namespace nnk {

template <class T, class Index> NNK_FN T* byte_offset(T* p, Index bytes) {
  return reinterpret_cast<T*>(
      reinterpret_cast<conditional<is_same<T, const T>, const char, char>*>(p) + bytes);
}

// How the elements of a Line lie, known at compile time.
enum : int {
  any_step = 0,   // any distance
  unit_step = 1,  // adjacent
  zero_step = 2,  // one element, seen by every index (broadcast)
  // Adjacent, at an address that is a multiple of fewer bytes than a whole vector has: of
  // Step - narrow_step, which are 1, 2, 4 or 8, and one access takes no more.
  narrow_step = 16,
};
constexpr bool is_adjacent(int step) { return step == unit_step || step >= narrow_step; }

// `length` elements, `step` bytes apart.
template <class T, class Index, int Step = any_step> struct Line {
  using value_type = T;
  T* data;
  Index length;
  Index step;

  NNK_FN T* at(Index i) const {
    if constexpr (is_adjacent(Step)) return data + i;
    else if constexpr (Step == zero_step) return data;
    else return byte_offset(data, i * step);
  }
  // Elements [i, i + N), all of them there.
  template <int N> NNK_FN auto load(Index i, Site site = NNK_HERE) const {
    check_access(i, N, length, site);
    if constexpr (Step == unit_step) return nnk::load<N>(at(i));
    else if constexpr (is_adjacent(Step)) return load_pieces<N>(at(i));
    else if constexpr (Step == zero_step) return splat_of<N>(nnk::load<1>(at(i))[0]);
    else return nnk::load_strided<N>(at(i), step, N, T());
  }
  // Elements [i, i + N) of which only the first `count` are there; the rest is `fill`.
  template <int N, class U>
  NNK_FN auto load_partial(Index i, int count, U fill, Site site = NNK_HERE) const {
    if (count > 0) check_access(i, count, length, site);
    if constexpr (is_adjacent(Step)) return nnk::load_partial<N>(at(i), count, fill);
    else if constexpr (Step == zero_step)
      return splat_of<N>(count > 0 ? nnk::load<1>(at(i))[0] : fill);
    else return nnk::load_strided<N>(at(i), step, count, fill);
  }
  // All of them or, if they are not `there`, `fill`.
  template <int N, class U>
  NNK_FN auto load_if(bool there, Index i, U fill, Site site = NNK_HERE) const {
    if constexpr (Step == unit_step) {
      if (there) check_access(i, N, length, site);
      return nnk::load_if<N>(there, at(i), fill);
    } else {
      auto v = splat_of<N>(fill);
      if (there) v = load<N>(i, site);
      return v;
    }
  }
  template <int N> NNK_FN void store(Index i, const Vec<T, N>& v, Site site = NNK_HERE) const {
    check_access(i, N, length, site);
    if constexpr (Step == unit_step) nnk::store(at(i), v);
    else if constexpr (is_adjacent(Step)) store_pieces(at(i), v);
    else nnk::store_strided(at(i), step, v, N);
  }
  // A store that leaves the caches alone where the platform has such a thing: for results
  // larger than the last-level cache.
  template <int N>
  NNK_FN void store_streaming(Index i, const Vec<T, N>& v, Site site = NNK_HERE) const {
    check_access(i, N, length, site);
    if constexpr (Step == unit_step) nnk::store_streaming(at(i), v);
    else store(i, v, site);
  }
  template <int N>
  NNK_FN void store_partial(Index i, const Vec<T, N>& v, int count, Site site = NNK_HERE) const {
    if (count > 0) check_access(i, count, length, site);
    if constexpr (is_adjacent(Step)) nnk::store_partial(at(i), v, count);
    else nnk::store_strided(at(i), step, v, count);
  }

 private:
  template <int N, class U> static NNK_FN auto splat_of(U x) { return Vec<U, N>::splat(x); }

  // Elements of one access, of N.
  template <int N> static constexpr int piece() {
    constexpr int most = (Step - narrow_step) / int(sizeof(T));
    return most < 1 ? 1 : most < N ? most : N;
  }
  template <int N, class U> static NNK_FN auto load_pieces(const U* p) {
    Vec<U, N> v;
    NNK_UNROLL
    for (int i = 0; i < N; i += piece<N>()) {
      const auto part = nnk::load<piece<N>()>(p + i);
      NNK_UNROLL
      for (int k = 0; k < piece<N>(); ++k) v.set(i + k, part[k]);
    }
    return v;
  }
  template <int N> static NNK_FN void store_pieces(T* p, const Vec<T, N>& v) {
    NNK_UNROLL
    for (int i = 0; i < N; i += piece<N>()) {
      Vec<T, piece<N>()> part;
      NNK_UNROLL
      for (int k = 0; k < piece<N>(); ++k) part.set(k, v[i + k]);
      nnk::store(p + i, part);
    }
  }
};

// A whole array: pointer, shape and byte strides by value.
template <class T, int Rank, class Index> struct View {
  static_assert(Rank >= 1, "a View has at least one axis");
  T* data;
  Index shape[Rank];
  Index stride[Rank];

  template <class... I> NNK_FN T* at(Site site, I... index) const {
    static_assert(sizeof...(I) == Rank, "one index for each axis");
    const Index position[Rank] = {Index(index)...};
    Index offset = 0;
    NNK_UNROLL
    for (int axis = 0; axis < Rank; ++axis) {
      check_access(position[axis], 1, shape[axis], site);
      offset += position[axis] * stride[axis];
    }
    return byte_offset(data, offset);
  }
};

// Division by a number known before the launch: one high multiplication and a shift.
// The host computes `magic` and `shift` (Granlund & Montgomery, PLDI 1994, for 31-bit
// dividends); 64-bit indices divide as they are.
template <class Index> struct Divisor;
template <> struct Divisor<int32> {
  int32 divisor;
  uint32 magic;
  int32 shift;
  int32 unused;
  NNK_FN int32 divide(int32 n) const {
    return int32((uint32((uint64(uint32(n)) * magic) >> 32) + uint32(n)) >> shift);
  }
};
template <> struct Divisor<int64> {
  int64 divisor;
  int64 unused;
  NNK_FN int64 divide(int64 n) const { return n / divisor; }
};

}  // namespace nnk
