// Where convolutions find their operands: pixels, and the windows that see an image.
//
// A *pixel* is an index over images and three spatial axes (of which the first ones may have size
// 1). A window's *taps* are its places along the spatial axes, times the channels of a group. Pixel
// u of tap t is the element u step + t tap + start of the image along every spatial axis, or zero
// where there is none: padding takes no memory. Forward convolutions, their gradients by the image
// (with the image of gradients as image, one launch for every phase of the strides) and by the
// weights (with pixels as terms) are this with other numbers.
#pragma once
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// What pixels are to a product over windows: columns or rows of the result, or terms of the sums.
enum : int { pixels_are_columns, pixels_are_rows, pixels_are_terms };

// What the host packs. Strides in bytes.
template <class Index> struct WindowGeometry {
  Index pixels[4];  // images, and windows along each spatial axis
  Index step[3], tap[3], start[3], size[3], kernel[3];
  Index channels;
  Index stride[4];  // of the image: images and spatial axes
  Index channel_stride;
  Index other[4];  // of the array that has an element for each pixel: the result, or the gradient
  Index weight_channel, weight_tap[3];  // of weights that have no single step from term to term
  Index adjacent;  // taps along the last axis whose channels follow each other in memory: all, or 1
  Divisor<Index> divisor[3];  // windows along each spatial axis

  NNK_FN int spatial_taps() const { return int(kernel[0] * kernel[1] * kernel[2]); }
};

// Rows of several phases that are one product: see conv_joined_weights.cuh. Strides in bytes.
template <class Index> struct JoinedRows {
  Index rows;                // of a phase
  Index phases[3], step[3];  // along each axis, and from one to the next in the result
  Index row_step;

  NNK_FN bool is_one_phase() const { return phases[0] * phases[1] * phases[2] == 1; }
  // Bytes to a row in the result; `row` becomes that of its phase.
  NNK_FN Index offset(Index& row) const {
    Index phase = row / rows;
    row -= phase * rows;
    Index bytes = row * row_step;
    NNK_UNROLL
    for (int axis = 2; axis >= 0; --axis) {
      const Index next = phase / phases[axis];
      bytes += (phase - next * phases[axis]) * step[axis];
      phase = next;
    }
    return bytes;
  }
};

// A pixel.
template <class Index> struct Pixel {
  Index at[4];

  static NNK_FN Pixel of(const WindowGeometry<Index>& g, Index u) {
    Pixel p;
    NNK_UNROLL
    for (int axis = 2; axis >= 0; --axis) {
      const Index next = g.divisor[axis].divide(u);
      p.at[axis + 1] = u - next * g.divisor[axis].divisor;
      u = next;
    }
    p.at[0] = u;
    return p;
  }
  // `count` pixels on, no more than are left of the row.
  NNK_FN void advance(const WindowGeometry<Index>& g, int count = 1) {
    at[3] += count;
    NNK_UNROLL
    for (int axis = 3; axis > 0; --axis) {
      if (at[axis] < g.pixels[axis]) return;
      at[axis] = 0;
      ++at[axis - 1];
    }
  }
  // Along a spatial axis, the element of the image that tap 0 sees.
  NNK_FN Index position(const WindowGeometry<Index>& g, int axis) const {
    return at[axis + 1] * g.step[axis] + g.start[axis];
  }
  // Bytes to that element.
  NNK_FN Index in_image(const WindowGeometry<Index>& g) const {
    Index offset = at[0] * g.stride[0];
    NNK_UNROLL
    for (int axis = 0; axis < 3; ++axis) offset += position(g, axis) * g.stride[axis + 1];
    return offset;
  }
  NNK_FN Index in_other(const WindowGeometry<Index>& g) const {
    Index offset = 0;
    NNK_UNROLL
    for (int axis = 0; axis < 4; ++axis) offset += at[axis] * g.other[axis];
    return offset;
  }
};

// A tap of a window, in order of channels and then taps, or (TapsFirst) the other way round.
template <class Index, bool TapsFirst> struct Tap {
  Index channel;
  int at[3];

  static NNK_FN Tap of(const WindowGeometry<Index>& g, Index k) {
    const Index taps = g.spatial_taps();
    Tap t;
    const Index inner = TapsFirst ? g.channels : taps;
    const Index outer = k / inner, rest = k - outer * inner;
    t.channel = TapsFirst ? rest : outer;
    int tap = int(TapsFirst ? outer : rest);
    NNK_UNROLL
    for (int axis = 2; axis >= 0; --axis) {
      const int n = int(g.kernel[axis]);
      t.at[axis] = tap % n;
      tap /= n;
    }
    return t;
  }
  NNK_FN void advance(const WindowGeometry<Index>& g) {
    if constexpr (TapsFirst) {
      if (++channel < g.channels) return;
      channel = 0;
      next_tap(g);
    } else if (next_tap(g)) {
      ++channel;
    }
  }
  // To the next place; whether it is the first one again.
  NNK_FN bool next_tap(const WindowGeometry<Index>& g) {
    NNK_UNROLL
    for (int axis = 2; axis >= 0; --axis) {
      if (++at[axis] < int(g.kernel[axis])) return false;
      at[axis] = 0;
    }
    return true;
  }
  // Bytes to its weight.
  NNK_FN Index in_weights(const WindowGeometry<Index>& g) const {
    return channel * g.weight_channel + Index(at[0]) * g.weight_tap[0] +
           Index(at[1]) * g.weight_tap[1] + Index(at[2]) * g.weight_tap[2];
  }
  // Bytes from what tap 0 and channel 0 see.
  NNK_FN Index offset(const WindowGeometry<Index>& g) const {
    Index bytes = channel * g.channel_stride;
    NNK_UNROLL
    for (int axis = 0; axis < 3; ++axis)
      bytes += Index(at[axis]) * g.tap[axis] * g.stride[axis + 1];
    return bytes;
  }
};

// ---- runs of pixels, for a machine whose lanes are SIMD registers -----------------------------

// Calls each(pixel, i, n) for pieces of `count` pixels from u on: the first pixel of the piece, its
// number, and how many there are, in one row of pixels and one group of G.
template <int G, class Index, class F>
NNK_FN void each_piece(const WindowGeometry<Index>& g, Index u, int count, F each) {
  auto pixel = Pixel<Index>::of(g, u);
  for (int i = 0; i < count;) {
    int n = G - i % G;
    if (count - i < n) n = count - i;
    if (g.pixels[3] - pixel.at[3] < n) n = int(g.pixels[3] - pixel.at[3]);
    each(pixel, i, n);
    pixel.advance(g, n);
    i += n;
  }
}
// Bits of the lanes [first, end).
NNK_FN uint32 lane_bits(int first, int end) {
  return end <= first ? 0u : ~0u >> (32 - (end - first)) << first;
}

// How some pixels that follow each other lie in an array: groups of G, one for each lane of a
// register, each of runs of equal steps. Where rows of pixels follow each other as the pixels in
// them do (stride 1, as many windows as elements), a group is one run, whatever rows it is of.
template <class Index, int G> struct PixelRuns {
  static_assert(G <= 32, "a bit for each lane");
  Shared<Index> offset;  // of a run, to where lane 0 would be
  Shared<uint32> lanes;  // of a run
  Shared<int32> first;   // run of every group; and the end
  Index step;

  // Scratch memory for some pixels.
  static NNK_FN int bytes(int pixels) { return pixels * int(sizeof(Index) + 8) + 8; }

  template <class Group>
  NNK_FN PixelRuns(const Group& group, int at, int pixels, Index step_of_pixels)
      : offset(group.template dynamic_shared<Index>(at, pixels)),
        lanes(group.template dynamic_shared<uint32>(at + pixels * int(sizeof(Index)), pixels)),
        first(
            group.template dynamic_shared<int32>(at + pixels * int(sizeof(Index) + 4), pixels + 1)),
        step(step_of_pixels) {}

  // Those of `count` pixels from u on; offset_of(pixel) is where one lies.
  template <class OffsetOf>
  NNK_FN void find(const WindowGeometry<Index>& g, Index u, int count, OffsetOf offset_of) const {
    int run = -1;
    Index next = 0;
    each_piece<G>(g, u, count, [&](const Pixel<Index>& pixel, int i, int n) NNK_INLINE {
      const int lane = i % G;
      const Index here = offset_of(pixel);
      if (lane == 0) first.store(i / G, run + 1);
      if (lane == 0 || here != next) {
        ++run;
        offset.store(run, here - Index(lane) * step);
        lanes.store(run, 0);
      }
      lanes.store(run, lanes.load(run) | lane_bits(lane, lane + n));
      next = here + Index(n) * step;
    });
    first.store((count + G - 1) / G, run + 1);
  }
  NNK_FN int runs_of(int group) const { return first.load(group + 1) - first.load(group); }
  NNK_FN bool is_one(int group) const { return runs_of(group) == 1; }

  // A group's elements whose bits are set, from `base` on; zeros for the others.
  template <class T> NNK_FN Vec<T, G> load(const T* base, int group, uint32 wanted) const {
    auto x = Vec<T, G>::splat(T());
    const int end = first.load(group + 1);
    for (int run = first.load(group); run < end; ++run)
      x = load_lanes<G>(byte_offset(base, offset.load(run)), int64(step), lanes.load(run) & wanted,
                        x);
    return x;
  }
  template <class T> NNK_FN void store(T* base, int group, const Vec<T, G>& x) const {
    const int end = first.load(group + 1);
    for (int run = first.load(group); run < end; ++run)
      store_lanes(byte_offset(base, offset.load(run)), int64(step), x, lanes.load(run));
  }
};

// Which lanes of groups of pixels see an element of the image along each axis, for each tap.
template <class Index, int G> struct WindowMasks {
  Shared<uint32> bits;   // of axis, tap, group
  int groups, after[3];  // where the axes begin

  template <class Group>
  NNK_FN WindowMasks(const Group& group, const WindowGeometry<Index>& g, int at, int pixels)
      : groups((pixels + G - 1) / G) {
    after[0] = 0;
    after[1] = int(g.kernel[0]) * groups;
    after[2] = after[1] + int(g.kernel[1]) * groups;
    bits = group.template dynamic_shared<uint32>(at, after[2] + int(g.kernel[2]) * groups);
  }
  NNK_FN void find(const WindowGeometry<Index>& g, Index u, int count) const {
    const int all = after[2] + int(g.kernel[2]) * groups;
    for (int i = 0; i < all; ++i) bits.store(i, 0);
    each_piece<G>(g, u, count, [&](const Pixel<Index>& pixel, int i, int n) NNK_INLINE {
      const int lane = i % G;
      NNK_UNROLL
      for (int axis = 0; axis < 3; ++axis) {
        Index at = pixel.position(g, axis);
        const int taps = int(g.kernel[axis]);
        for (int t = 0; t < taps; ++t) {
          uint32 seen = 0;
          if (axis == 2) {
            // Pixels of the piece before which, and up to which, there is an element.
            const Index step = g.step[2];
            const int low = at < 0 ? clamped(ceil_div(-at, step), n) : 0;
            const Index room = g.size[2] - at;
            seen = lane_bits(lane + low, lane + (room > 0 ? clamped(ceil_div(room, step), n) : 0));
          } else if (0 <= at && at < g.size[axis]) {
            seen = lane_bits(lane, lane + n);
          }
          const int word = after[axis] + t * groups + i / G;
          bits.store(word, bits.load(word) | seen);
          at += g.tap[axis];
        }
      }
    });
  }
  static NNK_FN int clamped(Index count, int most) { return count < most ? int(count) : most; }
  NNK_FN uint32 along(int axis, int tap, int group) const {
    return bits.load(after[axis] + tap * groups + group);
  }
  // The lanes of a group for which a tap sees an element.
  template <class T> NNK_FN uint32 of(const T& tap, int group) const {
    uint32 lanes = ~0u;
    NNK_UNROLL
    for (int axis = 0; axis < 3; ++axis) lanes &= along(axis, tap.at[axis], group);
    return lanes;
  }
  // Scratch memory.
  NNK_FN int bytes(const WindowGeometry<Index>& g) const {
    return (after[2] + int(g.kernel[2]) * groups) * 4;
  }
};

}  // namespace nnk
