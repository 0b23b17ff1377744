// An operand of a product on matrix cores that is seen through windows, element by element: the
// image where its channels are no chunks, and an array of pixels that has no single step.
//
// Neighbouring threads read neighbouring pixels, which in memory are neighbours too where the
// stride is 1. What the other axis of the tile is to the addresses is the same for whole warps, and
// in a table in shared memory.
#pragma once
#include "nnk/conv_tensor_operand.cuh"
#include "nnk/conv_tensor_places.cuh"
#include "nnk/conv_windows.cuh"
#include "nnk/matmul_tensor_operand.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// N numbers of a table, in accesses of 16 bytes at most.
template <int N, class Index>
NNK_FN Vec<Index, N> from_table(const Shared<Index>& table, int at, Site site) {
  constexpr int most = 16 / int(sizeof(Index)), step = N < most ? N : most;
  Vec<Index, N> x;
  NNK_UNROLL
  for (int i = 0; i < N; i += step) {
    const auto part = table.template load_vec<step>(at + i, site);
    NNK_UNROLL
    for (int j = 0; j < step; ++j) x.set(i + j, part[j]);
  }
  return x;
}

// ---- rows are pixels, terms are taps ------------------------------------------------------------

// Base: TensorOperand of way single_rows
// Vector: channels of a tap that are read at once
//
// The table has the terms of a slice: bytes from the place of tap 0, and the tap. There are three
// of them in turn. Every load but the first one writes that of the next slice, to where the last
// but one was read from: between the two is a barrier.
template <class Base, class Index, bool ChannelsFast, bool FewTaps, int Vector>
struct GatheredTaps : Base {
  using T = typename Base::Value;
  using Geometry = WindowGeometry<Index>;
  using Seen = SeenTaps<Index, FewTaps>;
  static constexpr bool gathers = true;
  static constexpr int chunk = Base::chunk, units = Base::units_of_thread;
  static constexpr int terms = Base::terms_of_tile, threads = Base::threads;
  static_assert(Base::way == single_rows && threads >= Base::rows_of_tile, "a row for a thread");
  static constexpr int words = FewTaps ? 2 : 4;  // of a term
  static constexpr int table_words = 3 * terms * words;
  static constexpr int share = (terms + threads - 1) / threads;
  static_assert(Vector == 1 || ChannelsFast, "neighbouring terms are neighbours in memory");
  // Terms of one access to the table: those of 16 bytes.
  static constexpr int entry = words * int(sizeof(Index));
  static constexpr int together = Vector == 1 && entry < 16 ? 16 / entry : 1;

  const Geometry* geometry;
  const char* image;
  Seen seen;
  Radix<Index> radix;
  Digits<Index> next[share], by_tile;  // the thread's part of the next table
  Shared<Index> table;
  int now, first_missing;

  NNK_FN void begin(const Geometry& g, unsigned thread, const void* data, Index first,
                    Index row_count, Index first_term, int missing) {
    this->rank = thread;
    this->first_row = first, this->rows = row_count;
    geometry = &g;
    const auto pixel = Pixel<Index>::of(g, this->read_row(this->row_of(0)));
    image = static_cast<const char*>(data) + int64(pixel.in_image(g));
    seen = Seen(g, pixel);
    radix = Radix<Index>::template taps<ChannelsFast>(g);
    by_tile = radix.of(terms);
    first_missing = missing;
    NNK_UNROLL
    for (int s = 0; s < share; ++s) {
      const int t = int(thread) + s * threads;
      next[s] = radix.of(first_term + (t - missing + (t < missing ? terms : 0)));
    }
  }
  // Writes the tables of the first two slices. A barrier follows.
  NNK_FN void write_tables(const Shared<Index>& memory) {
    table = memory;
    now = 0;
    NNK_UNROLL
    for (int s = 0; s < share; ++s) {
      const int t = int(this->rank) + s * threads;
      if (t >= terms) continue;
      if (t >= first_missing) {
        write(t, next[s]);
        radix.add(next[s], by_tile);
      } else {
        write_none(t);
      }
      write(t + terms, next[s]);
      radix.add(next[s], by_tile);
    }
  }

  template <bool Partial> NNK_FN void load(int, Site site = NNK_HERE) {
    NNK_UNROLL
    for (int i = 0; i < units; ++i) {
      if (!this->is_there(i)) continue;
      auto x = Vec<T, chunk>::splat(T());
      NNK_UNROLL
      for (int e = 0; e < chunk; e += together * Vector) {
        const auto entries =
            from_table<together * words>(table, (now + this->term_of(i) + e) * words, site);
        NNK_UNROLL
        for (int j = 0; j < together; ++j) {
          if (!seen(*geometry, tap_of(entries, j * words))) continue;
          const auto y =
              nnk::load<Vector>(reinterpret_cast<const T*>(image + int64(entries[j * words])));
          NNK_UNROLL
          for (int v = 0; v < Vector; ++v) x.set(e + j + v, y[v]);
        }
      }
      this->waiting[i] = bit_cast<Registers<4>>(x);
    }
    now = now == 2 * terms ? 0 : now + terms;
    if constexpr (!Partial) {
      NNK_UNROLL
      for (int s = 0; s < share; ++s) {
        const int t = int(this->rank) + s * threads;
        if (t >= terms) continue;
        write(now + t, next[s]);
        radix.add(next[s], by_tile);
      }
    }
  }

 private:
  NNK_FN void write(int at, const Digits<Index>& term) const {
    const Index(&d)[4] = term.at;
    constexpr int last = Radix<Index>::template tap_digit<ChannelsFast>(2);
    put(at, term.offset, Seen::tap(*geometry, d[last + 2], d[last + 1], d[last]));
  }
  // A term that no pixel sees.
  NNK_FN void write_none(int at) const {
    if constexpr (FewTaps) put(at, 0, {0});
    else put(at, 0, {{Index(typename Base::Offset(1) << (8 * sizeof(Index) - 1)), 0, 0}});
  }
  NNK_FN void put(int at, Index offset, const typename Seen::Tap& tap) const {
    table.store(at * words, offset);
    if constexpr (FewTaps) {
      table.store(at * words + 1, Index(tap.bit));
    } else {
      NNK_UNROLL
      for (int axis = 0; axis < 3; ++axis) table.store(at * words + 1 + axis, tap.position[axis]);
    }
  }
  template <int N>
  static NNK_FN typename Seen::Tap tap_of(const Vec<Index, N>& entries, int first) {
    if constexpr (FewTaps) return {uint32(entries[first + 1])};
    else return {{entries[first + 1], entries[first + 2], entries[first + 3]}};
  }
};

// ---- rows are taps, terms are pixels ------------------------------------------------------------

// Base: TensorOperand of way single_terms
// SeesAll: whether no window reaches beyond the image
//
// A thread has the same few pixels of a slice for several rows; the table has the taps of all rows.
template <class Base, class Index, bool ChannelsFast, bool SeesAll> struct GatheredPixels : Base {
  using T = typename Base::Value;
  using Geometry = WindowGeometry<Index>;
  using Unsigned = typename Base::Offset;
  static constexpr bool gathers = true;
  static constexpr int chunk = Base::chunk, terms = Base::terms_of_tile, threads = Base::threads;
  static_assert(Base::way == single_terms, "element by element");
  static constexpr int run = sizeof(T) < 4 ? 4 / int(sizeof(T)) : 1;  // pixels of a thread
  static constexpr int aside = terms / run;
  static_assert(threads >= aside, "the pixels of a thread are the same in all rows");
  static constexpr int apart = threads / aside;  // rows
  static constexpr int units = apart < Base::rows_of_tile ? Base::rows_of_tile / apart : 1;
  static constexpr int words = SeesAll ? 1 : 4;  // of a row
  static constexpr int table_words = Base::rows_of_tile * words;

  const Geometry* geometry;
  const char* image;
  Places<Index, 1, run, 0, terms> places;
  Shared<Index> table;
  Vec<T, run> held[units];

  NNK_FN void begin(const Geometry& g, unsigned thread, const void* data, Index first,
                    Index row_count, Index first_term, int missing) {
    this->rank = thread;
    this->first_row = first, this->rows = row_count;
    geometry = &g;
    image = static_cast<const char*>(data);
    places.begin(Radix<Index>::pixels(g), term_of(), first_term, missing);
  }
  // A barrier follows.
  NNK_FN void write_tables(const Shared<Index>& memory) {
    table = memory;
    const Geometry& g = *geometry;
    for (int row = int(this->rank); row < Base::rows_of_tile; row += threads) {
      const auto tap = Tap<Index, ChannelsFast>::of(g, this->read_row(row));
      Index offset = tap.offset(g);
      NNK_UNROLL
      for (int axis = 0; axis < 3; ++axis) {
        offset += g.start[axis] * g.stride[axis + 1];
        if constexpr (!SeesAll)
          table.store(row * words + 1 + axis, g.start[axis] + Index(tap.at[axis]) * g.tap[axis]);
      }
      table.store(row * words, offset);
    }
  }

  template <bool Partial> NNK_FN void load(int missing, Site site = NNK_HERE) {
    if (!is_there()) return;
    Seen pixel[run];
    NNK_UNROLL
    for (int e = 0; e < run; ++e) {
      pixel[e] = Seen();
      pixel[e].there = !Partial || term_of() + e >= missing;
      if (!pixel[e].there) continue;
      pixel[e].offset = places.here.offset;
      NNK_UNROLL
      for (int axis = 0; axis < 3; ++axis)
        pixel[e].at[axis] = places.here.at[2 - axis] * geometry->step[axis];
      places.advance(0, e);
    }
    NNK_UNROLL
    for (int i = 0; i < units; ++i) {
      const auto tap = from_table<words>(table, row_of(i) * words, site);
      held[i] = Vec<T, run>::splat(T());
      NNK_UNROLL
      for (int e = 0; e < run; ++e) {
        if (sees(pixel[e], tap))
          held[i].set(e, *reinterpret_cast<const T*>(image + int64(pixel[e].offset + tap[0])));
      }
    }
  }
  template <bool Partial>
  NNK_FN void store(const Shared<T>& memory, int first, int, Site site = NNK_HERE) const {
    if (!is_there()) return;
    NNK_UNROLL
    for (int i = 0; i < units; ++i) memory.template store_vec<run>(first + place(i), held[i], site);
  }
  // Where in the tile the pixels of a thread begin in its i-th row.
  NNK_FN int place(int i) const {
    return Base::slot(row_of(i), term_of() / chunk) + term_of() % chunk;
  }

 private:
  struct Seen {
    Index offset, at[3];
    bool there;
  };
  NNK_FN bool is_there() const {
    return apart <= Base::rows_of_tile || int(this->rank) / aside < Base::rows_of_tile;
  }
  NNK_FN int row_of(int i) const { return int(this->rank / aside) + i * apart; }
  NNK_FN int term_of() const { return int(this->rank % aside) * run; }
  NNK_FN bool sees(const Seen& pixel, const Vec<Index, words>& tap) const {
    bool there = pixel.there;
    if constexpr (!SeesAll) {
      NNK_UNROLL
      for (int axis = 0; axis < 3; ++axis)
        there &= Unsigned(pixel.at[axis] + tap[1 + axis]) < Unsigned(geometry->size[axis]);
    }
    return there;
  }
};

}  // namespace nnk
