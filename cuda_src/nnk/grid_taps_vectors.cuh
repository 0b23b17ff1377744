// grid_taps.cuh for a block of one thread: linear taps of N points at once, one in each lane.
#pragma once
#include "nnk/grid_taps.cuh"

namespace nnk {

// Whether this file knows the taps. Mirrored places take a division by the size of the image.
constexpr NNK_FN bool has_tap_vectors(int mode, int outside) {
  return mode == grid_linear && outside != outside_reflection;
}

// Along one axis: the first of two taps, which may be no element, the weight of the second, and its
// derivative by the number of the grid.
template <class S, int N> struct LinearTaps {
  using V = Vec<S, N>;
  using I = conditional<sizeof(S) == 8, int64, int32>;
  using VI = Vec<I, N>;
  VI low;
  V after, slope;

  template <int Outside> static NNK_FN LinearTaps of(const V& g, int size, bool align) {
    const S top = S(size - 1);
    V at = align ? (g + S(1)) * (S(0.5) * top) : ((g + S(1)) * S(size) - S(1)) * S(0.5);
    V slope = V::splat(S(0.5) * (align ? top : S(size)));
    if constexpr (Outside == outside_border) {
      const V none = V::splat(S(0));
      slope = where(at > S(0), where(at >= top, none, slope), none);
      at = where(at > S(0), at, none);  // also for NaN
      at = where(at >= top, V::splat(top), at);
    }
    // Far outside one place is as good as another: there is no element.
    at = where(at > S(-8), at, V::splat(S(-8)));
    at = where(at > S(size) + S(8), V::splat(S(size) + S(8)), at);
    const VI down = convert<I>(at);
    LinearTaps taps;
    taps.low = where(bit_cast<Mask<I, N>>(convert<S>(down) > at), down - I(1), down);
    taps.after = at - convert<S>(taps.low);
    taps.slope = slope;
    return taps;
  }
  NNK_FN V weight(int k) const { return k == 0 ? V::splat(S(1)) - after : after; }
  NNK_FN V slope_of(int k) const { return k == 0 ? -slope : slope; }
};

// Along all axes.
template <int Rank, int Outside, class S, int N> struct LinearPlaces {
  using V = Vec<S, N>;
  using I = typename LinearTaps<S, N>::I;
  using VI = Vec<I, N>;
  using There = Mask<I, N>;
  LinearTaps<S, N> axis[Rank];
  int32 size[Rank];

  // `number(axis)` has the numbers of the grid for an axis of the image.
  template <class F> NNK_FN LinearPlaces(F number, const int32 (&sizes)[Rank], bool align) {
    NNK_UNROLL
    for (int a = 0; a < Rank; ++a) {
      size[a] = sizes[a];
      axis[a] = LinearTaps<S, N>::template of<Outside>(number(a), sizes[a], align);
    }
  }

  // A combination of taps of the first `Axes` axes: bytes to it, its weight, and a number that is
  // negative if it is not there. (Of masks that come from several comparisons, g++ 12 makes "and"
  // and "or" bit by bit.)
  struct Tap {
    VI bytes;
    V weight;
    VI outside;
    NNK_FN There there() const { return outside > I(-1); }
  };
  template <int Axes> NNK_FN Tap tap(int i, const I (&stride)[Rank], I low) const {
    Tap found{VI::splat(-low), V::splat(S(1)), VI::splat(I(0))};
    NNK_UNROLL
    for (int a = 0; a < Axes; ++a) {
      const int k = i >> (Axes - 1 - a) & 1;
      const VI at = axis[a].low + I(k);
      found.bytes = found.bytes + at * stride[a];
      found.weight = a == 0 ? axis[a].weight(k) : found.weight * axis[a].weight(k);
      found.outside = found.outside | at | (I(size[a] - 1) - at);
    }
    return found;
  }

  // The derivative of the weight of a combination of the taps of the first `Axes` axes by the
  // number of the grid for one of all axes; without that axis, the weight.
  template <int Axes> NNK_FN V slope(int i, int by) const {
    V product = V::splat(S(1));
    NNK_UNROLL
    for (int a = 0; a < Axes; ++a) {
      const int k = i >> (Axes - 1 - a) & 1;
      product = product * (a == by ? axis[a].slope_of(k) : axis[a].weight(k));
    }
    return product;
  }

  // Two elements side by side along the last axis, of which the taps are one or both, or neither:
  // the first one, and for either whether it is a tap (as of `Tap`) and the weight and slope that
  // it has then.
  struct Pair {
    VI first;
    V weight[2], slope[2];
    VI outside[2];
  };
  NNK_FN Pair pair() const {
    const auto& last = axis[Rank - 1];
    Pair found;
    found.first = max(min(last.low, VI::splat(I(size[Rank - 1] - 2))), VI::splat(I(0)));
    NNK_UNROLL
    for (int e = 0; e < 2; ++e) {
      const VI number = found.first + I(e) - last.low;  // of the tap: 0 or 1
      const auto first = bit_cast<Mask<S, N>>(number == I(0));
      found.weight[e] = where(first, last.weight(0), last.weight(1));
      found.slope[e] = where(first, last.slope_of(0), last.slope_of(1));
      found.outside[e] = number | (I(1) - number);
    }
    return found;
  }
};

// All C channels of the taps of N points, which are adjacent from an offset on; 0 where that is
// negative.
template <class T, int C, int N, class Index>
NNK_FN void load_taps(const T* plane, const Vec<Index, N>& offset, Vec<T, N> (&x)[C]) {
  Index from[N];
  nnk::store(&from[0], max(offset, Vec<Index, N>::splat(0)));
  load_neighbours(plane, &from[0], x);
  const auto there = bit_cast<Mask<T, N>>(offset > Index(-1));
  NNK_UNROLL
  for (int c = 0; c < C; ++c) x[c] = where(there, x[c], Vec<T, N>::splat(T(0)));
}

// Whether points follow each other at one distance, whatever axes they have.
template <int Rank, class Index>
NNK_FN bool follow(const Divisor<Index> (&by_shape)[Rank], const Index (&stride)[Rank]) {
  bool linear = true;
  NNK_UNROLL
  for (int a = 1; a < Rank; ++a)
    linear = linear && stride[a - 1] == stride[a] * by_shape[a].divisor;
  return linear;
}

// Of N points from `first` on, `count` of them: lanes past the last one repeat it.
template <int N, class TG, int Rank, class Index> struct PointVector {
  const GridPoints<TG, Rank, Index>& points;
  Index first;
  int count;

  NNK_FN Index point(int i) const { return first + (i < count ? i : count - 1); }

  // Where they are in the grid.
  template <int Outside, class S>
  NNK_FN LinearPlaces<Rank, Outside, S, N> places(const TG* grid, Index image) const {
    const bool whole = count >= N && follow(points.by_shape, points.stride);
    const TG* of_image = byte_offset(grid, image * points.batch);
    const auto number = [&](int a) NNK_INLINE {
      const Index from = Index(Rank - 1 - a) * points.last, step = points.stride[Rank - 1];
      if (whole)
        return convert<S>(
            nnk::load_strided<N>(byte_offset(of_image, from + first * step), step, N, TG()));
      TG lane[N];
      for (int i = 0; i < N; ++i)
        lane[i] = nnk::load<1>(byte_offset(of_image, from + points.at(point(i), points.stride)))[0];
      return convert<S>(nnk::load<N>(&lane[0]));
    };
    return {number, points.size, points.align != 0};
  }

  // The sums of their positions times strides.
  NNK_FN void offsets(const Index (&stride)[Rank], Index* to) const {
    if (follow(points.by_shape, stride)) {
      const Index step = stride[Rank - 1];
      NNK_UNROLL
      for (int i = 0; i < N; ++i) to[i] = point(i) * step;
    } else {
      for (int i = 0; i < N; ++i) to[i] = points.at(point(i), stride);
    }
  }
};

}  // namespace nnk
