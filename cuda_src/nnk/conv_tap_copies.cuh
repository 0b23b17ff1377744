// Copies of what a pixel sees through taps whose channels are adjacent: see conv_form.cuh.
#pragma once
#include "nnk/conv_packed_words.cuh"
#include "nnk/conv_windows.cuh"

namespace nnk {

// S: type of the sums; N: columns of a panel of B; Conjugate: whether conjugates are copied
template <class S, class Index, int N, bool Conjugate> struct TapCopies {
  using Words = PackedWords<S, N>;
  using Word = typename Words::Word;
  using Geometry = WindowGeometry<Index>;
  static constexpr int piece = Words::piece;

  const Geometry& g;
  Shared<Index> tap_offsets;  // bytes from the place of tap 0 to that of every tap

  // Where a term is: element `at` of a run of channels, of one tap or all along the last axis.
  struct Place {
    int run, at;
    int d, h, w;  // the run along the axes

    static NNK_FN Place of(const Geometry& g, Index term) {
      const int elements = int(g.adjacent * g.channels);
      const int run = int(term / elements), places = int(g.kernel[2] / g.adjacent);
      return {run, int(term - Index(run) * elements), run / places / int(g.kernel[1]),
              run / places % int(g.kernel[1]), run % places};
    }
  };
  // `count` taps of one pixel from a place on, in pieces that do not cross a multiple of Side.
  template <int Side, class T, class Put>
  NNK_FN void copy(const T* from, const Pixel<Index>& pixel, const Place& first, int count,
                   Put put) const {
    from = byte_offset(from, pixel.in_image(g));
    bool inside = true;
    NNK_UNROLL
    for (int axis = 0; axis < 3; ++axis) {
      const Index at = pixel.position(g, axis);
      inside =
          inside && is_inside(at, axis) && is_inside(at + (g.kernel[axis] - 1) * g.tap[axis], axis);
    }
    if (inside) copy_all<Side>(from, first, count, put);
    else copy_some<Side>(from, pixel, first, count, put);
  }
  // Of a pixel whose window is all inside the image.
  template <int Side, class T, class Put>
  NNK_FN void copy_all(const T* from, const Place& first, int count, Put put) const {
    const int adjacent = int(g.adjacent), run = adjacent * int(g.channels);
    int at = first.at, tap = first.run * adjacent;
    for (int k = 0; k < count; tap += adjacent, at = 0) {
      const int n = run - at < count - k ? run - at : count - k;
      const T* const there = byte_offset(from, tap_offsets.load(tap)) + at;
      if (Side == 0 && n >= piece) {
        for (int i = 0; i + piece < n; i += piece)
          put(k + i, Words::template converted<Conjugate>(nnk::load<piece>(there + i)), piece);
        put(k + n - piece,
            Words::template converted<Conjugate>(nnk::load<piece>(there + n - piece)), piece);
      } else {
        copy_pieces<Side>(there, k, 0, n, put);
      }
      k += n;
    }
  }
  template <int Side, class T, class Put>
  NNK_FN void copy_pieces(const T* there, int k, int low, int high, Put put) const {
    for (int i = low; i < high;) {
      const int some = pieces<Side>(k + i, high - i);
      put(k + i,
          Words::template converted<Conjugate>(
              some == piece ? nnk::load<piece>(there + i)
                            : nnk::load_partial<piece>(there + i, some, T())),
          some);
      i += some;
    }
  }
  template <int Side, class T, class Put>
  NNK_FN void copy_some(const T* from, const Pixel<Index>& pixel, const Place& first, int count,
                        Put put) const {
    const int run = int(g.adjacent * g.channels);
    const int places = int(g.kernel[2] / g.adjacent);  // of runs along the last axis
    int at = first.at, w = first.w, h = first.h, d = first.d;
    const Index of_w = pixel.position(g, 2);
    for (int k = 0; k < count;) {
      const int n = run - at < count - k ? run - at : count - k;
      const Index place = of_w + w * g.tap[2];
      // Those of the run that are inside the image along the last axis.
      int low = 0, high = run;
      if (place < 0) low = place + g.adjacent > 0 ? int(-place * g.channels) : run;
      if (place + g.adjacent > g.size[2])
        high = place < g.size[2] ? int((g.size[2] - place) * g.channels) : 0;
      if (!is_inside(pixel.position(g, 0) + d * g.tap[0], 0) ||
          !is_inside(pixel.position(g, 1) + h * g.tap[1], 1))
        high = 0;
      low = within(low - at, n), high = within(high - at, n);
      if (low > high) low = high;
      const T* const there =
          byte_offset(from, d * g.tap[0] * g.stride[1] + h * g.tap[1] * g.stride[2] +
                                w * g.tap[2] * g.stride[3]) +
          at;
      put_zeros<Side>(k, low, put);
      copy_pieces<Side>(there, k, low, high, put);
      put_zeros<Side>(k + high, n - high, put);
      k += n;
      at = 0;
      if (++w == places) {
        w = 0;
        if (++h == int(g.kernel[1])) h = 0, ++d;
      }
    }
  }
  NNK_FN bool is_inside(Index at, int axis) const { return 0 <= at && at < g.size[axis]; }
  template <int Side> static NNK_FN int pieces(int at, int left) {
    int some = left < piece ? left : piece;
    if constexpr (Side > 0) {
      const int border = Side - at % Side;
      if (border < some) some = border;
    }
    return some;
  }
  template <int Side, class Put> static NNK_FN void put_zeros(int at, int count, Put put) {
    for (int i = 0; i < count;) {
      const int some = pieces<Side>(at + i, count - i);
      put(at + i, Vec<Word, piece>::splat(Word()), some);
      i += some;
    }
  }
};

}  // namespace nnk
