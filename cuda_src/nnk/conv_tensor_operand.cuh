// An operand of a product on matrix cores that is seen through windows (conv_windows.cuh): tiles as
// in matmul_tensor_operand.cuh, gathered from the image.
//
// What a thread copies is the same in every tile but for a constant number of terms. So its place
// among the terms is a number in mixed radix (channels and taps, or pixels along their axes), found
// by divisions before the first tile and then advanced by additions, with carries by comparison.
//
// As in other products on matrix cores, the first tile begins with the zeros that K lacks to a
// multiple of TileK. A place does not advance over them: it begins with the first term that is
// there.
#pragma once
#include "nnk/conv_windows.cuh"
#include "nnk/matmul_tensor_operand.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// A number in mixed radix, digit 0 first, and the bytes to where it leads.
template <class Index, int N> struct Digits {
  Index at[N];
  Index offset;
};

// What its digits count: how many there are (of the last one that is not asked), and their steps.
template <class Index, int N> struct Radix {
  Index size[N], stride[N];

  // Divides, and so belongs before loops.
  NNK_FN Digits<Index, N> of(Index n) const {
    Digits<Index, N> d;
    d.offset = 0;
    NNK_UNROLL
    for (int j = 0; j < N; ++j) {
      const Index next = j + 1 < N ? n / size[j] : 0;
      d.at[j] = n - next * size[j];
      d.offset += d.at[j] * stride[j];
      n = next;
    }
    return d;
  }
  NNK_FN void add(Digits<Index, N>& d, const Digits<Index, N>& more) const {
    d.offset += more.offset;
    NNK_UNROLL
    for (int j = 0; j < N; ++j) d.at[j] += more.at[j];
    carry(d);
  }
  NNK_FN void increment(Digits<Index, N>& d) const {
    d.offset += stride[0];
    ++d.at[0];
    carry(d);
  }

 private:
  NNK_FN void carry(Digits<Index, N>& d) const {
    NNK_UNROLL
    for (int j = 0; j + 1 < N; ++j) {
      if (d.at[j] >= size[j]) {
        d.at[j] -= size[j];
        ++d.at[j + 1];
        d.offset += stride[j + 1] - size[j] * stride[j];
      }
    }
  }
};

// The places of a thread in a tile: units of `Run` terms that follow each other, `Apart` terms from
// one to the next; the same ones in the next tile, TileK terms on.
template <class Index, int Units, int Run, int Apart, int TileK> struct Places {
  static constexpr int to_unit = Apart - Run + 1;
  static constexpr int to_tile = TileK - (Units - 1) * Apart - Run + 1;
  static constexpr bool same = Units == 1 || to_unit == to_tile;

  Radix<Index, 4> radix;
  Digits<Index, 4> here, of_unit, of_tile;

  // `unit`: the first one's first term in the tile; `first`: term of the operand that the first
  // tile begins with, but for the `missing` ones.
  NNK_FN void begin(int unit, Index first, int missing) {
    int there = unit + TileK;
    NNK_UNROLL
    for (int i = Units - 1; i >= 0; --i) {
      const int begins = unit + i * Apart, seen = begins < missing ? missing : begins;
      if (seen < begins + Run) there = seen;
    }
    here = radix.of(first + (there - missing));
    of_tile = radix.of(to_tile);
    if constexpr (!same) of_unit = radix.of(to_unit);
  }
  // From term t of unit i on.
  NNK_FN void advance(int i, int t) {
    if (t + 1 < Run) radix.increment(here);
    else if (same || i + 1 == Units) radix.add(here, of_tile);
    else radix.add(here, of_unit);
  }
};

// ---- rows are pixels, terms are taps ------------------------------------------------------------

// Base: TensorOperand of way async_terms or vector_terms (chunks of channels), or single_rows
// ChannelsFast: terms are in order of taps and then channels
// FewTaps: 32 at most, so that those that a pixel sees fit in a word
template <class Base, class Index, bool ChannelsFast, bool FewTaps> struct WindowTaps : Base {
  using T = typename Base::Value;
  using Geometry = WindowGeometry<Index>;
  using Unsigned = typename Base::Offset;
  static constexpr bool gathers = true;
  static constexpr int chunk = Base::chunk, units = Base::units_of_thread;
  static constexpr bool chunks = Base::way == async_terms || Base::way == vector_terms;
  static_assert(chunks || Base::way == single_rows, "pixels come in one of these ways");
  static_assert(chunks ? ChannelsFast : Base::threads >= Base::rows_of_tile,
                "units of a thread are of one row, or of the same terms");
  // Of chunks, which are of one tap, only the first term counts.
  static constexpr int run = chunks ? 1 : chunk;
  static constexpr int pixels = chunks ? units : 1;
  static constexpr int apart =
      chunks ? 0 : Base::threads / Base::rows_of_tile * chunk;  // terms from unit to unit

  const Geometry* geometry;
  const char* image;
  Index pixel_offset[pixels];
  uint32 seen[FewTaps ? pixels : 1];        // taps that are in the image
  Index position[FewTaps ? 1 : pixels][3];  // of tap 0
  Places<Index, chunks ? 1 : units, run, apart, Base::terms_of_tile> places;

  // The first tile begins `missing` terms before term `first_term`.
  NNK_FN void begin(const Geometry& g, unsigned thread, const void* data, Index first,
                    Index row_count, Index first_term, int missing) {
    this->rank = thread;
    this->first_row = first, this->rows = row_count;
    geometry = &g;
    image = static_cast<const char*>(data);
    NNK_UNROLL
    for (int i = 0; i < pixels; ++i) {
      const auto pixel = Pixel<Index>::of(g, this->clamped(this->row_of(i)));
      pixel_offset[i] = pixel.in_image(g);
      if constexpr (FewTaps) {
        seen[i] = taps_seen(g, pixel);
      } else {
        NNK_UNROLL
        for (int axis = 0; axis < 3; ++axis) position[i][axis] = pixel.position(g, axis);
      }
    }
    places.radix.size[channel_digit] = g.channels;
    places.radix.stride[channel_digit] = g.channel_stride;
    NNK_UNROLL
    for (int axis = 0; axis < 3; ++axis) {
      places.radix.size[tap_digit(axis)] = g.kernel[axis];
      places.radix.stride[tap_digit(axis)] = g.tap[axis] * g.stride[axis + 1];
    }
    places.begin(this->term_of(0), first_term, missing);
  }

  template <bool Partial>
  NNK_FN void copy(const Shared<T>& memory, int first, int missing, bool wanted = true,
                   Site site = NNK_HERE) {
    const uint32 tap = tap_bit();
    const bool whole = !Partial || this->term_of(0) >= missing;
    NNK_UNROLL
    for (int i = 0; i < units; ++i) {
      if (!this->is_there(i)) continue;
      copy_async_if<chunk>(wanted, memory, first + this->place(i), source(i), whole && sees(i, tap),
                           site);
    }
    if (whole) places.advance(0, 0);
  }

  template <bool Partial> NNK_FN void load(int missing, Site site = NNK_HERE) {
    if constexpr (chunks) {
      const uint32 tap = tap_bit();
      const bool whole = !Partial || this->term_of(0) >= missing;
      NNK_UNROLL
      for (int i = 0; i < units; ++i) {
        if (!this->is_there(i)) continue;
        auto x = Vec<T, chunk>::splat(T());
        if (whole && sees(i, tap)) {
          check(site);
          x = nnk::load<chunk>(source(i));
        }
        this->waiting[i] = bit_cast<Registers<4>>(x);
      }
      if (whole) places.advance(0, 0);
    } else {
      NNK_UNROLL
      for (int i = 0; i < units; ++i) {
        if (!this->is_there(i)) continue;
        auto x = Vec<T, chunk>::splat(T());
        NNK_UNROLL
        for (int e = 0; e < chunk; ++e) {
          if (Partial && this->term_of(i) + e < missing) continue;
          if (sees(0, tap_bit())) {
            check(site);
            x.set(e, *source(0));
          }
          places.advance(i, e);
        }
        this->waiting[i] = bit_cast<Registers<4>>(x);
      }
    }
  }

 private:
  static constexpr int channel_digit = ChannelsFast ? 0 : 3;
  static constexpr NNK_FN int tap_digit(int axis) { return (ChannelsFast ? 3 : 2) - axis; }

  // A bit for every tap that a pixel sees, in their order.
  static NNK_FN uint32 taps_seen(const Geometry& g, const Pixel<Index>& pixel) {
    uint32 along[3];
    NNK_UNROLL
    for (int axis = 0; axis < 3; ++axis) {
      along[axis] = 0;
      Index at = pixel.position(g, axis);
      for (int t = 0; t < int(g.kernel[axis]); ++t, at += g.tap[axis])
        if (Unsigned(at) < Unsigned(g.size[axis])) along[axis] |= 1u << t;
    }
    uint32 all = 0;
    int first = 0;
    for (int t = 0; t < int(g.kernel[0]); ++t) {
      for (int u = 0; u < int(g.kernel[1]); ++u, first += int(g.kernel[2]))
        if ((along[0] >> t & along[1] >> u & 1u) != 0) all |= along[2] << first;
    }
    return all;
  }
  // The tap here, as one of those bits.
  NNK_FN uint32 tap_bit() const {
    if constexpr (!FewTaps) return 0;
    const Index(&at)[4] = places.here.at;
    const Index tap =
        (at[tap_digit(0)] * geometry->kernel[1] + at[tap_digit(1)]) * geometry->kernel[2] +
        at[tap_digit(2)];
    return 1u << int(tap);
  }
  NNK_FN bool sees(int pixel, uint32 tap) const {
    if constexpr (FewTaps) return (seen[pixel] & tap) != 0;
    bool there = true;
    NNK_UNROLL
    for (int axis = 0; axis < 3; ++axis) {
      const Index at =
          position[pixel][axis] + places.here.at[tap_digit(axis)] * geometry->tap[axis];
      there &= Unsigned(at) < Unsigned(geometry->size[axis]);
    }
    return there;
  }
  NNK_FN const T* source(int pixel) const {
    return reinterpret_cast<const T*>(image + int64(pixel_offset[pixel] + places.here.offset));
  }
  NNK_FN void check(Site site) const {
    check_access(places.here.at[channel_digit], chunks ? chunk : 1, geometry->channels, site);
    check_access(places.here.at[tap_digit(0)], 1, geometry->kernel[0], site);
  }
};

// ---- rows are taps, terms are pixels ------------------------------------------------------------

// Base: TensorOperand of way async_rows or vector_rows (chunks of channels), or single_terms
// ChannelsFast: rows are in order of taps and then channels
// SeesAll: whether no window reaches beyond the image
template <class Base, class Index, bool ChannelsFast, bool SeesAll> struct WindowPixels : Base {
  using T = typename Base::Value;
  using Geometry = WindowGeometry<Index>;
  using Unsigned = typename Base::Offset;
  static constexpr bool gathers = true;
  static constexpr int chunk = Base::chunk, units = Base::units_of_thread;
  static constexpr bool chunks = Base::way == async_rows || Base::way == vector_rows;
  static_assert(chunks || Base::way == single_terms, "pixels come in one of these ways");
  static_assert(!chunks || ChannelsFast, "chunks are of channels");
  static_assert(Base::threads >= Base::units_aside, "chunks of a thread are of one row or term");
  static constexpr int run = chunks ? Base::depth : chunk;
  static constexpr int taps = chunks ? 1 : units;
  static constexpr int apart =
      chunks ? Base::threads / Base::units_aside * run : 0;  // terms from unit to unit

  const Geometry* geometry;
  const char* image;
  Index tap_offset[taps];
  Index position[SeesAll ? 1 : taps][3];  // that pixel 0 sees
  Places<Index, chunks ? units : 1, run, apart, Base::terms_of_tile> places;

  NNK_FN void begin(const Geometry& g, unsigned thread, const void* data, Index first,
                    Index row_count, Index first_term, int missing) {
    this->rank = thread;
    this->first_row = first, this->rows = row_count;
    geometry = &g;
    image = static_cast<const char*>(data);
    NNK_UNROLL
    for (int i = 0; i < taps; ++i) {
      const auto tap = Tap<Index, ChannelsFast>::of(g, this->clamped(this->row_of(i)));
      tap_offset[i] = tap.offset(g);
      NNK_UNROLL
      for (int axis = 0; axis < 3; ++axis) {
        tap_offset[i] += g.start[axis] * g.stride[axis + 1];
        if constexpr (!SeesAll)
          position[i][axis] = g.start[axis] + Index(tap.at[axis]) * g.tap[axis];
      }
    }
    NNK_UNROLL
    for (int axis = 0; axis < 4; ++axis) {
      places.radix.size[3 - axis] = g.pixels[axis];
      places.radix.stride[3 - axis] =
          axis == 0 ? g.stride[0] : g.step[axis > 0 ? axis - 1 : 0] * g.stride[axis];
    }
    places.begin(this->term_of(0), first_term, missing);
  }

  template <bool Partial>
  NNK_FN void copy(const Shared<T>& memory, int first, int missing, bool wanted = true,
                   Site site = NNK_HERE) {
    NNK_UNROLL
    for (int i = 0; i < units; ++i) {
      if (!this->is_there(i)) continue;
      const bool there = !Partial || this->term_of(i) >= missing;
      copy_async_if<chunk>(wanted, memory, first + this->place(i), source(0), there && sees(0),
                           site);
      if (there) places.advance(i, 0);
    }
  }

  template <bool Partial> NNK_FN void load(int missing, Site site = NNK_HERE) {
    if constexpr (chunks) {
      NNK_UNROLL
      for (int i = 0; i < units; ++i) {
        if (!this->is_there(i)) continue;
        NNK_UNROLL
        for (int d = 0; d < run; ++d) {
          auto x = Vec<T, chunk>::splat(T());
          if (!Partial || this->term_of(i) + d >= missing) {
            if (sees(0)) {
              check(site);
              x = nnk::load<chunk>(source(0));
            }
            places.advance(i, d);
          }
          this->waiting[i * run + d] = bit_cast<Registers<4>>(x);
        }
      }
    } else {
      if (!this->is_there(0)) return;
      Vec<T, chunk> x[units];
      NNK_UNROLL
      for (int i = 0; i < units; ++i) x[i] = Vec<T, chunk>::splat(T());
      NNK_UNROLL
      for (int e = 0; e < chunk; ++e) {
        if (Partial && this->term_of(0) + e < missing) continue;
        NNK_UNROLL
        for (int i = 0; i < units; ++i) {
          if (!sees(i)) continue;
          check(site);
          x[i].set(e, *source(i));
        }
        places.advance(0, e);
      }
      NNK_UNROLL
      for (int i = 0; i < units; ++i) this->waiting[i] = bit_cast<Registers<4>>(x[i]);
    }
  }

 private:
  NNK_FN bool sees(int tap) const {
    if constexpr (SeesAll) return true;
    bool there = true;
    NNK_UNROLL
    for (int axis = 0; axis < 3; ++axis) {
      const Index at = places.here.at[2 - axis] * geometry->step[axis] + position[tap][axis];
      there &= Unsigned(at) < Unsigned(geometry->size[axis]);
    }
    return there;
  }
  NNK_FN const T* source(int tap) const {
    return reinterpret_cast<const T*>(image + int64(tap_offset[tap] + places.here.offset));
  }
  NNK_FN void check(Site site) const {
    check_access(places.here.at[3], 1, geometry->pixels[0], site);
  }
};

}  // namespace nnk
