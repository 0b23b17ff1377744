// An operand of a product on matrix cores that is seen through windows (conv_windows.cuh), where
// the channels of a tap are whole chunks of 16 bytes: tiles as in matmul_tensor_operand.cuh,
// gathered chunk by chunk from the image. Others: conv_tensor_gather.cuh.
#pragma once
#include "nnk/conv_tensor_places.cuh"
#include "nnk/conv_windows.cuh"
#include "nnk/matmul_tensor_operand.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// ---- rows are pixels, terms are taps ------------------------------------------------------------

// A pixel, and which taps it sees. Few: 32 at most, whose bits are in a word
template <class Index, bool Few> struct SeenTaps;
template <class Index> struct SeenTaps<Index, true> {
  uint32 seen;

  SeenTaps() = default;
  NNK_FN SeenTaps(const WindowGeometry<Index>& g, const Pixel<Index>& pixel) {
    using Unsigned = conditional<sizeof(Index) == 4, uint32, uint64>;
    uint32 along[3];
    NNK_UNROLL
    for (int axis = 0; axis < 3; ++axis) {
      along[axis] = 0;
      Index at = pixel.position(g, axis);
      for (int t = 0; t < int(g.kernel[axis]); ++t, at += g.tap[axis])
        if (Unsigned(at) < Unsigned(g.size[axis])) along[axis] |= 1u << t;
    }
    seen = 0;
    int first = 0;
    for (int t = 0; t < int(g.kernel[0]); ++t) {
      for (int u = 0; u < int(g.kernel[1]); ++u, first += int(g.kernel[2]))
        if ((along[0] >> t & along[1] >> u & 1u) != 0) seen |= along[2] << first;
    }
  }
  // A tap, and whether it is seen.
  struct Tap { uint32 bit; };
  static NNK_FN Tap tap(const WindowGeometry<Index>& g, Index t, Index u, Index v) {
    return {1u << int((t * g.kernel[1] + u) * g.kernel[2] + v)};
  }
  NNK_FN bool operator()(const WindowGeometry<Index>&, const Tap& tap) const {
    return (seen & tap.bit) != 0;
  }
};
template <class Index> struct SeenTaps<Index, false> {
  Index position[3];  // of tap 0

  SeenTaps() = default;
  NNK_FN SeenTaps(const WindowGeometry<Index>& g, const Pixel<Index>& pixel) {
    NNK_UNROLL
    for (int axis = 0; axis < 3; ++axis) position[axis] = pixel.position(g, axis);
  }
  struct Tap { Index position[3]; };  // from there
  static NNK_FN Tap tap(const WindowGeometry<Index>& g, Index t, Index u, Index v) {
    return {{t * g.tap[0], u * g.tap[1], v * g.tap[2]}};
  }
  NNK_FN bool operator()(const WindowGeometry<Index>& g, const Tap& tap) const {
    using Unsigned = conditional<sizeof(Index) == 4, uint32, uint64>;
    bool there = true;
    NNK_UNROLL
    for (int axis = 0; axis < 3; ++axis)
      there &= Unsigned(position[axis] + tap.position[axis]) < Unsigned(g.size[axis]);
    return there;
  }
};

// Base: TensorOperand of way async_terms or vector_terms
template <class Base, class Index, bool FewTaps> struct WindowTaps : Base {
  using T = typename Base::Value;
  using Geometry = WindowGeometry<Index>;
  using Seen = SeenTaps<Index, FewTaps>;
  static constexpr bool gathers = true;
  static constexpr int chunk = Base::chunk, units = Base::units_of_thread;
  static_assert(Base::way == async_terms || Base::way == vector_terms, "chunks of terms");
  static_assert(Base::threads >= Base::units_aside, "units of a thread are of the same terms");

  const Geometry* geometry;
  const char* image;
  Index offset[units];
  Seen seen[units];
  Places<Index, 1, 1, 0, Base::terms_of_tile> places;  // of chunks, first terms count

  // `first_term`: of the operand, before which the first tile begins `missing` terms
  NNK_FN void begin(const Geometry& g, unsigned thread, const void* data, Index first,
                    Index row_count, Index first_term, int missing) {
    this->rank = thread;
    this->first_row = first, this->rows = row_count;
    geometry = &g;
    image = static_cast<const char*>(data);
    NNK_UNROLL
    for (int i = 0; i < units; ++i) {
      const auto pixel = Pixel<Index>::of(g, this->read_row(this->row_of(i)));
      offset[i] = pixel.in_image(g);
      seen[i] = Seen(g, pixel);
    }
    places.begin(Radix<Index>::template taps<true>(g), this->term_of(0), first_term, missing);
  }

  template <bool Partial>
  NNK_FN void copy(const Shared<T>& memory, int first, int missing, bool wanted = true,
                   Site site = NNK_HERE) {
    const auto tap = tap_here();
    const bool whole = !Partial || this->term_of(0) >= missing;
    NNK_UNROLL
    for (int i = 0; i < units; ++i) {
      const bool copied = wanted && this->is_there(i), there = whole && seen[i](*geometry, tap);
      if (copied && there) check(site);
      copy_async_if<chunk>(copied, memory, first + this->place(i), source(i), there, site);
    }
    if (whole) places.advance(0, 0);
  }

  template <bool Partial> NNK_FN void load(int missing, Site site = NNK_HERE) {
    const auto tap = tap_here();
    const bool whole = !Partial || this->term_of(0) >= missing;
    NNK_UNROLL
    for (int i = 0; i < units; ++i) {
      if (!this->is_there(i)) continue;
      auto x = Vec<T, chunk>::splat(T());
      if (whole && seen[i](*geometry, tap)) {
        check(site);
        x = nnk::load<chunk>(source(i));
      }
      this->waiting[i] = bit_cast<Registers<4>>(x);
    }
    if (whole) places.advance(0, 0);
  }

 private:
  NNK_FN typename Seen::Tap tap_here() const {
    const Index(&at)[4] = places.here.at;
    return Seen::tap(*geometry, at[3], at[2], at[1]);
  }
  NNK_FN const T* source(int i) const {
    return reinterpret_cast<const T*>(image + int64(offset[i] + places.here.offset));
  }
  NNK_FN void check(Site site) const {
    check_access(places.here.at[0], chunk, geometry->channels, site);
    check_access(places.here.at[3], 1, geometry->kernel[0], site);
  }
};

// ---- rows are taps, terms are pixels ------------------------------------------------------------

// Base: TensorOperand of way async_rows or vector_rows
// SeesAll: whether no window reaches beyond the image
template <class Base, class Index, bool SeesAll> struct WindowPixels : Base {
  using T = typename Base::Value;
  using Geometry = WindowGeometry<Index>;
  using Unsigned = typename Base::Offset;
  static constexpr bool gathers = true;
  static constexpr int chunk = Base::chunk, units = Base::units_of_thread, run = Base::depth;
  static_assert(Base::way == async_rows || Base::way == vector_rows, "chunks of rows");
  static_assert(Base::threads >= Base::units_aside, "units of a thread are of the same rows");
  static_assert(units == 1 || Base::units % Base::threads == 0, "threads have as many units each");
  static constexpr int apart = Base::threads / Base::units_aside * run;  // terms to the next unit

  const Geometry* geometry;
  const char* image;  // as the thread's tap sees it from pixel 0
  Index position[3];
  Places<Index, units, run, apart, Base::terms_of_tile> places;

  NNK_FN void begin(const Geometry& g, unsigned thread, const void* data, Index first,
                    Index row_count, Index first_term, int missing) {
    this->rank = thread;
    this->first_row = first, this->rows = row_count;
    geometry = &g;
    const auto tap = Tap<Index, true>::of(g, this->read_row(this->row_of(0)));
    Index offset = tap.offset(g);
    NNK_UNROLL
    for (int axis = 0; axis < 3; ++axis) {
      offset += g.start[axis] * g.stride[axis + 1];
      position[axis] = g.start[axis] + Index(tap.at[axis]) * g.tap[axis];
    }
    image = static_cast<const char*>(data) + int64(offset);
    places.begin(Radix<Index>::pixels(g), this->term_of(0), first_term, missing);
  }

  template <bool Partial>
  NNK_FN void copy(const Shared<T>& memory, int first, int missing, bool wanted = true,
                   Site site = NNK_HERE) {
    NNK_UNROLL
    for (int i = 0; i < units; ++i) {
      const bool whole = !Partial || this->term_of(i) >= missing, there = whole && sees();
      const bool copied = wanted && this->is_there(i);
      if (copied && there) check(site);
      copy_async_if<chunk>(copied, memory, first + this->place(i), source(), there, site);
      if (whole) places.advance(i, 0);
    }
  }

  template <bool Partial> NNK_FN void load(int missing, Site site = NNK_HERE) {
    NNK_UNROLL
    for (int i = 0; i < units; ++i) {
      if (!this->is_there(i)) continue;
      NNK_UNROLL
      for (int d = 0; d < run; ++d) {
        auto x = Vec<T, chunk>::splat(T());
        if (!Partial || this->term_of(i) + d >= missing) {
          if (sees()) {
            check(site);
            x = nnk::load<chunk>(source());
          }
          places.advance(i, d);
        }
        this->waiting[i * run + d] = bit_cast<Registers<4>>(x);
      }
    }
  }

 private:
  NNK_FN bool sees() const {
    if constexpr (SeesAll) return true;
    bool there = true;
    NNK_UNROLL
    for (int axis = 0; axis < 3; ++axis) {
      const Index at = places.here.at[2 - axis] * geometry->step[axis] + position[axis];
      there &= Unsigned(at) < Unsigned(geometry->size[axis]);
    }
    return there;
  }
  NNK_FN const T* source() const {
    return reinterpret_cast<const T*>(image + int64(places.here.offset));
  }
  NNK_FN void check(Site site) const {
    check_access(places.here.at[3], 1, geometry->pixels[0], site);
  }
};

}  // namespace nnk
