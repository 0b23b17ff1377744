// What the direct kernels of convolutions with few channels in a group share: conv_direct.cuh and
// conv_direct_weight.cuh.
//
// Pixels, taps and windows are those of conv_windows.cuh. The host has put the spatial axes in
// order of memory: neighbours along the last one are nearest. The lanes of a vector are neighbours
// in memory: pixels along the last spatial axis, or (AlongGroups, where the channels of the image
// are adjacent) groups.
#pragma once
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// What the host packs. Strides in bytes.
template <class Index> struct DirectGeometry {
  Index images, groups;
  Index channels, rows;  // in a group: of the image, and of the array of pixels
  Index pixels[3], step[3], tap[3], start[3], size[3], kernel[3];
  Index image[6];   // strides of images, groups, channels, and the spatial axes
  Index other[6];   // of the array of pixels: images, groups, rows, and the spatial axes
  Index weight[6];  // groups, rows, channels, and taps along the spatial axes
  Divisor<Index> last_step;

  NNK_FN Index taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  // The element of the image that tap 0 of a pixel sees along an axis.
  NNK_FN Index position(int axis, Index pixel) const { return pixel * step[axis] + start[axis]; }
  NNK_FN bool is_inside(int axis, Index at) const { return 0 <= at && at < size[axis]; }
};

// A tap of the weights of a row of a group, in order of channels and then taps.
template <class Index> struct DirectTap {
  Index channel, first, middle, last;  // along the spatial axes

  static NNK_FN DirectTap of(const DirectGeometry<Index>& g, Index k) {
    const Index lines = k / g.kernel[2], planes = lines / g.kernel[1],
                channel = planes / g.kernel[0];
    return {channel, planes - channel * g.kernel[0], lines - planes * g.kernel[1],
            k - lines * g.kernel[2]};
  }
  NNK_FN void advance(const DirectGeometry<Index>& g) {
    if (++last < g.kernel[2]) return;
    last = 0;
    if (++middle < g.kernel[1]) return;
    middle = 0;
    if (++first < g.kernel[0]) return;
    first = 0;
    ++channel;
  }
  NNK_FN Index in_weights(const DirectGeometry<Index>& g) const {
    return channel * g.weight[2] + first * g.weight[3] + middle * g.weight[4] + last * g.weight[5];
  }
};

// Those of N lanes that are there: [first, last).
struct LaneRange {
  int first, last;

  template <int N> NNK_FN bool is_all() const { return first == 0 && last == N; }
  NNK_FN bool is_empty() const { return first >= last; }
  NNK_FN uint32 bits() const {
    return is_empty() ? 0 : uint32((uint64(1) << last) - (uint64(1) << first));
  }
};

// Of `count` pixels along the last axis, those that see an element of the image, where the first of
// them sees the one at `at`.
template <int N, class Index>
NNK_FN LaneRange lanes_inside(const DirectGeometry<Index>& g, Index at, int count) {
  const Index step = g.last_step.divisor;
  if constexpr (N == 1) return {0, g.is_inside(2, at) ? count : 0};
  if (at >= 0 && at + (N - 1) * step < g.size[2]) return {0, count};
  LaneRange lanes{0, 0};
  if (at < 0) {
    const Index before = g.last_step.divide(step - 1 - at);
    lanes.first = before < N ? int(before) : N;
  }
  if (at < g.size[2]) {
    const Index there = g.last_step.divide(step - 1 + g.size[2] - at);
    lanes.last = there < count ? int(there) : count;
  }
  return lanes;
}

// Whether vectors of groups are whole: the host chooses them so for the threads of a GPU, for which
// each lane that may be missing is a branch.
template <bool AlongGroups> constexpr bool whole_vectors = AlongGroups && !lanes_are_simd;

// Lanes `step` bytes apart, zeros for those that are not there. Unit: they are adjacent
template <class S, int N, bool Unit, class T, class Index>
NNK_FN Vec<S, N> load_all(const T* from, Index step) {
  if constexpr (Unit || N == 1) return convert<S>(nnk::load<N>(from));
  else return convert<S>(nnk::load_strided<N>(from, step, N, T()));
}
template <class S, int N, bool Unit, bool Whole = false, class T, class Index>
NNK_FN Vec<S, N> load_some(const T* from, Index step, LaneRange lanes) {
  if constexpr (Whole) return load_all<S, N, Unit>(from, step);
  return convert<S>(nnk::load_lanes<N>(from, Unit ? int64(sizeof(T)) : int64(step), lanes.bits(),
                                       Vec<T, N>::splat(T())));
}

// The next address of several, from the one before: a compiler that computes each from the first
// one keeps them all in registers, of which there are not so many, from loop to loop.
template <class T, class Index> NNK_FN T* stepped(T* p, Index bytes) {
  return opaque(byte_offset(p, bytes));
}

// a b + c with all of them in registers: where b was loaded once for several of these, a compiler
// may take it from memory for each (GCC does, and loads from two cache lines are slow).
template <class S, int N>
NNK_FN Vec<S, N> fma_in_register(const Vec<S, N>& a, const Vec<S, N>& b, const Vec<S, N>& c) {
  if constexpr (is_floating<S>) return fma_always(a, b, c);
  else return fma(a, b, c);
}

}  // namespace nnk
