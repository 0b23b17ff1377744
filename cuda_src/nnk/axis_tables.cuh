// Tables of what an op does along each axis, made by the host: which elements of x make which
// element of the result. Padding, windows and resampling are such maps along some axes ("mapped"
// ones), and nothing but a copy along all others ("plain").
//
// A row of the result is numbered through plain axes first and mapped ones after them, the last
// the fastest; positions are decoded without a division. See nnkernels/dispatch/axis_maps.py.
#pragma once
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// In a table, for an offset: there is no such element.
template <class Index>
constexpr Index missing = sizeof(Index) == 4 ? Index(-2147483647 - 1) : Index(1ull << 63);

// An array by byte offsets from its first element, which may be negative.
template <class T, class Index> struct Reached {
  T* data;
  Index low, extent;  // the lowest byte from there, and bytes from it to the end of the highest

  NNK_FN T* at(Index offset, int64 count, Site site = NNK_HERE) const {
    check_access(int64(offset) - low, count * int64(sizeof(T)), extent, site);
    return byte_offset(data, offset);
  }
  // N elements `step` bytes apart, the first `count` of them; Unit: they are adjacent.
  template <int N, bool Unit>
  NNK_FN auto load(Index offset, Index step, int count, Site site = NNK_HERE) const {
    using U = typename RemoveConst<T>::type;
    if constexpr (Unit) {
      const T* p = at(offset, count, site);
      return count == N ? nnk::load<N>(p) : nnk::load_partial<N>(p, count, U());
    } else {
      at(offset, 1, site);
      at(offset + Index(count - 1) * step, 1, site);
      return nnk::load_strided<N>(static_cast<const U*>(byte_offset(data, offset)), step, count,
                                  U());
    }
  }
  template <int N, bool Unit>
  NNK_FN void store(Index offset, Index step, int count, const Vec<T, N>& v,
                    Site site = NNK_HERE) const {
    if constexpr (Unit) {
      T* p = at(offset, count, site);
      if (count == N) nnk::store(p, v);
      else nnk::store_partial(p, v, count);
    } else {
      at(offset, 1, site);
      at(offset + Index(count - 1) * step, 1, site);
      nnk::store_strided(byte_offset(data, offset), step, v, count);
    }
  }

 private:
  template <class U> struct RemoveConst { using type = U; };
  template <class U> struct RemoveConst<const U> { using type = U; };
};

// The axes outside of a row. Plain: how many plain ones; Mapped: how many mapped ones.
template <int Plain, int Mapped, class Index> struct OuterAxes {
  static_assert(Plain >= 1, "the host adds an axis of one element");
  Divisor<Index> by_plain[Plain];
  Index out_stride[Plain], in_stride[Plain];  // in bytes
  Divisor<Index> by_mapped[Mapped > 0 ? Mapped : 1];
  Index first[Mapped > 0 ? Mapped : 1];  // where in the table the axis has its entries

  struct Row {
    Index out, in;                         // of the plain axes, in bytes
    Index entry[Mapped > 0 ? Mapped : 1];  // where in the table each mapped axis stands
  };

  // Entries of a mapped axis have two numbers.
  NNK_FN Row row_at(Index row) const {
    Row r;
    r.out = r.in = 0;
    NNK_UNROLL
    for (int m = Mapped - 1; m >= 0; --m) {
      const Index next = by_mapped[m].divide(row);
      r.entry[m] = first[m] + 2 * (row - next * by_mapped[m].divisor);
      row = next;
    }
    NNK_UNROLL
    for (int p = Plain - 1; p >= 0; --p) {
      const Index next = p == 0 ? 0 : by_plain[p].divide(row);
      const Index position = row - next * by_plain[p].divisor;
      r.out += position * out_stride[p];
      r.in += position * in_stride[p];
      row = next;
    }
    return r;
  }
};

}  // namespace nnk
