// How the threads of a GPU bring tiles of the windows of an image to shared memory: gathered, by
// way of registers, as tiles of matrices are (matmul_tile_copy.cuh). No matrix of windows is in
// memory.
//
// What pixel u sees through tap t lies at bytes(u) + bytes(t), and is there if position(u) +
// position(t) is inside the image along every axis: a *place* is these four numbers. The pieces of
// a thread have the same outer index, or few of them, in every slice, so that their places are
// known before the first one. Those of the terms of a slice are in a table in shared memory, which
// a thread for every term writes: it goes on by a slice's terms with additions and carries, digit
// by digit, so that no loop divides. Slices have two tables in turn: one is written while the other
// is read, between the barriers that there are anyway.
//
// It does not matter which of pixels and taps are terms.
#pragma once
#include "nnk/conv_windows.cuh"
#include "nnk/matmul_tile_copy.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// Where a pixel or a tap lies in an image, apart from the other one.
template <class Index> struct Place {
  Index offset, at[3];

  static NNK_FN Place of(const WindowGeometry<Index>& g, const Pixel<Index>& pixel) {
    return {pixel.in_image(g), {pixel.position(g, 0), pixel.position(g, 1), pixel.position(g, 2)}};
  }
  template <bool TapsFirst>
  static NNK_FN Place of(const WindowGeometry<Index>& g, const Tap<Index, TapsFirst>& tap) {
    return {tap.offset(g), {tap.at[0] * g.tap[0], tap.at[1] * g.tap[1], tap.at[2] * g.tap[2]}};
  }
};

// Indices that go on by the terms of a slice.
template <class Index> NNK_FN bool add_digit(Index& digit, Index more, bool carry, Index radix) {
  digit += more + Index(carry);
  const bool over = digit >= radix;
  if (over) digit -= radix;
  return over;
}
template <class Index>
NNK_FN void advance(const WindowGeometry<Index>& g, Pixel<Index>& pixel, const Pixel<Index>& by) {
  bool carry = false;
  NNK_UNROLL
  for (int axis = 3; axis > 0; --axis)
    carry = add_digit(pixel.at[axis], by.at[axis], carry, g.pixels[axis]);
  pixel.at[0] += by.at[0] + Index(carry);
}
template <class Index, bool TapsFirst>
NNK_FN void advance(const WindowGeometry<Index>& g, Tap<Index, TapsFirst>& tap,
                    const Tap<Index, TapsFirst>& by) {
  bool carry = false;
  if constexpr (TapsFirst) carry = add_digit(tap.channel, by.channel, carry, g.channels);
  NNK_UNROLL
  for (int axis = 2; axis >= 0; --axis)
    carry = add_digit(tap.at[axis], by.at[axis], carry, int(g.kernel[axis]));
  if constexpr (!TapsFirst) tap.channel += by.channel + Index(carry);
}

// The copies of one thread; see TileCopy. `Windows`: whether elements are those of an image, some
// of which are zeros of the padding; else a table has the offsets of terms alone.
template <class T, class S, class Index, class Layout, bool Conjugate, bool Windows>
struct GatherCopy {
  static_assert(Layout::regular, "a thread has few outer indices");
  static constexpr int count = Layout::pieces_of_thread, N = Layout::size;
  static constexpr int outers = Layout::outers, groups = count / outers;
  static_assert(count % outers == 0, "as many terms of each of them");
  static constexpr bool whole = count * Layout::threads == Layout::pieces;
  static constexpr int words = Windows ? 4 : 1;  // of a term in the table

  const WindowGeometry<Index>& g;
  const T* from;
  Place<Index> outer[outers];
  Shared<Index> table;  // of two slices
  Index left;           // terms from the thread's first one of the next slice on
  int term, at;         // its number in a slice; where the table of the slice begins
  bool here;            // whether the thread has pieces
  int rank;
  Vec<T, N> held[count];

  // A tile from outer index `first` on of `end`; place_of(index) is where one lies. Past the last
  // one, it takes the place of others: what is multiplied there is not written.
  template <class PlaceOf>
  NNK_FN GatherCopy(const WindowGeometry<Index>& geometry, const T* image,
                    const Shared<Index>& terms_of_slices, int thread, Index first, Index end,
                    Index terms, PlaceOf place_of)
      : g(geometry),
        from(image),
        table(terms_of_slices),
        left(terms - Layout::term(thread)),
        term(Layout::term(thread)),
        at(0),
        here(whole || thread < Layout::pieces),
        rank(thread) {
    const Index last = end - (Layout::along_terms ? 1 : N);
    NNK_UNROLL
    for (int o = 0; o < outers; ++o) {
      const Index index = first + Layout::outer(rank) + o * Layout::next_outer;
      outer[o] = place_of(index < last ? index : last);
    }
  }

  NNK_FN void load() {
    NNK_UNROLL
    for (int group = 0; group < groups; ++group) {
      const int next = group * Layout::next_term;
      const auto place = here ? table.template load_vec<words>(at + (term + next) * words)
                              : Vec<Index, words>::splat(Index());
      NNK_UNROLL
      for (int o = 0; o < outers; ++o) {
        const int p = group * outers + o;
        held[p] = Vec<T, N>::splat(T());
        if (here & (next < left) & is_inside(place, outer[o]))
          held[p] = nnk::load<N>(byte_offset(from, outer[o].offset + place[0]));
      }
    }
    at = Layout::terms * words - at;
    left -= Layout::terms;
  }
  NNK_FN void store(const Shared<S>& memory, int to) const {
    NNK_UNROLL
    for (int p = 0; p < count; ++p)
      if (here) store_piece<Layout, Conjugate>(memory, to, rank + p * Layout::threads, held[p]);
  }

 private:
  template <class V> NNK_FN bool is_inside(const V& place, const Place<Index>& own) const {
    if constexpr (!Windows) return true;
    using Unsigned = conditional<sizeof(Index) == 4, uint32, uint64>;  // below 0 is far above
    bool inside = true;  // without branches: the three are one predicate of the load
    NNK_UNROLL
    for (int axis = 0; axis < 3; ++axis)
      inside &= Unsigned(own.at[axis] + place[1 + axis]) < Unsigned(g.size[axis]);
    return inside;
  }
};

// The form of a product over windows.
// Scattered: the array with an element for each pixel (the result; of pixels that are terms, A) has
// no single step from pixel to pixel, and strides_c or strides_a have 0 in its place
template <int Pixels, bool TapsFirst, bool Scattered> struct ConvTiles {
  static constexpr bool of_terms = Pixels == pixels_are_terms;
  static constexpr bool scatters_columns = Scattered && Pixels == pixels_are_columns;
  static constexpr bool scatters_rows = Scattered && Pixels == pixels_are_rows;

  // After those of the product.
  template <class Product, class Index> struct Args : Product {
    alignas(16) WindowGeometry<Index> windows;
  };

  // What the threads of a team know of the terms of two slices of Terms.
  template <class Index, int Terms, int Threads> struct Tables {
    static_assert(Terms <= Threads, "a thread for every term");
    static constexpr bool has_other = of_terms && Scattered;
    using Walker = conditional<of_terms, Pixel<Index>, Tap<Index, TapsFirst>>;
    using Outer = conditional<of_terms, Tap<Index, TapsFirst>, Pixel<Index>>;
    static constexpr int bytes = 2 * Terms * (has_other ? 5 : 4) * int(sizeof(Index));

    const WindowGeometry<Index>& g;
    Shared<Index> image, other;  // places, and offsets in the array of pixels
    int thread, slice;
    Walker walker, by;

    // `at`: bytes of shared memory that are taken.
    template <class Group, class A>
    NNK_FN Tables(const Group& group, const A& args, int at, int rank)
        : g(args.windows),
          image(group.template dynamic_shared<Index>(at, 2 * Terms * 4)),
          other(group.template dynamic_shared<Index>(at + 8 * Terms * int(sizeof(Index)),
                                                     has_other ? 2 * Terms : 0)),
          thread(rank),
          slice(0) {}

    template <class S, class Layout, bool Conjugate, class A, class T>
    NNK_FN auto copy_a(const A& args, const T* from, Index first, Index terms) const {
      if constexpr (Pixels == pixels_are_rows) {
        return gather<S, Layout, Conjugate>(from, first, args.m, terms);
      } else if constexpr (has_other) {
        const Index step = args.stride_a[0];
        return GatherCopy<T, S, Index, Layout, Conjugate, false>(
            g, from, other, thread, first, args.m, terms,
            [step](Index row) { return Place<Index>{row * step, {0, 0, 0}}; });
      } else {
        return TileCopy<T, S, Index, Layout, Conjugate>(from, thread, first, args.m, terms,
                                                        args.stride_a[0], args.stride_a[1]);
      }
    }
    template <class S, class Layout, bool Conjugate, class A, class T>
    NNK_FN auto copy_b(const A& args, const T* from, Index first, Index terms) const {
      if constexpr (Pixels == pixels_are_rows) {
        return TileCopy<T, S, Index, Layout, Conjugate>(from, thread, first, args.n, terms,
                                                        args.stride_b[1], args.stride_b[0]);
      } else {
        return gather<S, Layout, Conjugate>(from, first, args.n, terms);
      }
    }

    // The table of the first slice, which begins with some term.
    template <class Group> NNK_FN void begin(const Group& group, Index first) {
      walker = Walker::of(g, first + thread);
      by = Walker::of(g, Terms);
      look_up();
      group.barrier();
    }
    // That of the next slice.
    NNK_FN void look_up() {
      if (thread < Terms) {
        const auto place = Place<Index>::of(g, walker);
        Vec<Index, 4> words = Vec<Index, 4>::splat(place.offset);
        NNK_UNROLL
        for (int axis = 0; axis < 3; ++axis) words.set(1 + axis, place.at[axis]);
        image.store_vec((slice * Terms + thread) * 4, words);
        if constexpr (has_other) other.store(slice * Terms + thread, walker.in_other(g));
        advance(g, walker, by);
      }
      slice = 1 - slice;
    }

    NNK_FN Index place_of_row(Index row) const {
      if constexpr (scatters_rows) return Pixel<Index>::of(g, row).in_other(g);
      else return 0;
    }
    // Where columns lie that a thread writes: Groups of Side, of which Wide follow each other.
    template <int Groups, int Wide, int Side> struct Columns {
      static constexpr int parts = Side / Wide;
      Index place[Groups][parts];

      NNK_FN Columns(const Tables& tables, Index first, int next) {
        if constexpr (scatters_columns) {
          NNK_UNROLL
          for (int j = 0; j < Groups; ++j) {
            auto pixel = Pixel<Index>::of(tables.g, first + j * next);
            NNK_UNROLL
            for (int i = 0; i < parts; ++i) {
              place[j][i] = pixel.in_other(tables.g);
              pixel.advance(tables.g);
            }
          }
        }
      }
      // The first `count` of a group to the row that is at `to`.
      template <class T> NNK_FN void store(T* to, int j, const Vec<T, Side>& y, int count) const {
        NNK_UNROLL
        for (int i = 0; i < parts; ++i) {
          if (i * Wide >= count) continue;
          if constexpr (Wide == Side) nnk::store(byte_offset(to, place[j][i]), y);
          else nnk::store(byte_offset(to, place[j][i]), Vec<T, 1>::splat(y[i]));
        }
      }
    };

   private:
    template <class S, class Layout, bool Conjugate, class T>
    NNK_FN auto gather(const T* from, Index first, Index end, Index terms) const {
      const WindowGeometry<Index>& geometry = g;
      return GatherCopy<T, S, Index, Layout, Conjugate, true>(
          g, from, image, thread, first, end, terms,
          [&geometry](Index i) { return Place<Index>::of(geometry, Outer::of(geometry, i)); });
    }
  };
};

}  // namespace nnk
