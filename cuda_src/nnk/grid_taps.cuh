// Places in an image that a grid names by numbers from -1 to 1, and the elements around them.
//
// For each axis: a place among the elements, then one, two or four elements ("taps") with their
// weights, and with the derivatives of the weights by the number of the grid.
#pragma once
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

enum : int { grid_nearest = 0, grid_linear = 1, grid_cubic = 2 };
enum : int { outside_zeros = 0, outside_border = 1, outside_reflection = 2 };

// Taps of an axis, and of a place in an image of some axes: 1, 2 or 4 for each.
constexpr NNK_FN int axis_taps(int mode) { return 1 << mode; }
constexpr NNK_FN int all_taps(int mode, int rank) { return 1 << (mode * rank); }

// A place along an axis, and its derivative by the number of the grid.
template <class S> struct GridPlace { S at, slope; };

// Of numbers below 2^30.
template <class S> NNK_FN int floor_int(S x) {
  const int below = int(x);
  return S(below) > x ? below - 1 : below;
}

// g = -1 and 1 are the centres of the first and the last element (align), or their outer edges.
template <class S> NNK_FN GridPlace<S> place_of(S g, int size, bool align) {
  if (align) return {(g + S(1)) * (S(0.5) * S(size - 1)), S(0.5) * S(size - 1)};
  return {((g + S(1)) * S(size) - S(1)) * S(0.5), S(0.5) * S(size)};
}

// Between the first and the last element; there the derivative is 0. NaN becomes the first.
template <class S> NNK_FN GridPlace<S> clipped(GridPlace<S> p, int size) {
  const S top = S(size - 1);
  if (!(p.at > S(0))) return {S(0), S(0)};
  if (p.at >= top) return {top, S(0)};
  return p;
}

// Mirrored at the centres of the outer elements (align) or at their edges, as often as needed.
template <class S> NNK_FN GridPlace<S> reflected(GridPlace<S> p, int size, bool align) {
  const S low = align ? S(0) : S(-0.5), span = align ? S(size - 1) : S(size);
  S from = p.at - low, sign = S(1);
  if (from < S(0)) {
    from = -from;
    sign = S(-1);
  }
  // Nothing is left of the position of such a place, nor of one that is infinite or NaN.
  if (!(from < S(1 << 29)) || span == S(0)) return {S(0), S(0)};
  int flips = floor_int(from / span);
  S rest = from - S(flips) * span;
  if (rest < S(0)) {  // the quotient was rounded up
    rest = rest + span;
    --flips;
  }
  if (flips % 2 != 0) {
    rest = span - rest;
    sign = -sign;
  }
  return clipped(GridPlace<S>{rest + low, p.slope * sign}, size);
}

// An element outside, by the rule for what is there; -1 for none.
template <int Outside> NNK_FN int bounded_tap(int i, int size, bool align) {
  if constexpr (Outside == outside_zeros) return i < 0 || i >= size ? -1 : i;
  if constexpr (Outside == outside_border) return within(i, size - 1);
  const int period = align ? 2 * (size - 1) : 2 * size;
  if (period == 0) return 0;
  i %= period;
  if (i < 0) i += period;
  return i < size ? i : period - i - (align ? 0 : 1);
}

template <int Mode, class S> struct AxisTaps {
  static constexpr int count = axis_taps(Mode);
  int at[count];  // -1: none, which counts as 0
  S weight[count], slope[count];
};

// Weights of the cubic convolution with a = -0.75, for a place at t in [0, 1) after the second of
// four elements; R. Keys, IEEE Trans. ASSP 29(6), 1981.
template <class S> NNK_FN void cubic_taps(S t, S slope, S (&weight)[4], S (&derivative)[4]) {
  const S a = S(-0.75);
  NNK_UNROLL
  for (int k = 0; k < 4; ++k) {
    const S distance = k == 0 ? S(1) + t : k == 1 ? t : k == 2 ? S(1) - t : S(2) - t;
    const S d = distance, sign = k < 2 ? slope : -slope;
    if (k == 1 || k == 2) {
      weight[k] = ((a + S(2)) * d - (a + S(3))) * d * d + S(1);
      derivative[k] = (S(3) * (a + S(2)) * d - S(2) * (a + S(3))) * d * sign;
    } else {
      weight[k] = ((a * d - S(5) * a) * d + S(8) * a) * d - S(4) * a;
      derivative[k] = ((S(3) * a * d - S(10) * a) * d + S(8) * a) * sign;
    }
  }
}

template <int Mode, int Outside, class S>
NNK_FN AxisTaps<Mode, S> taps_at(S g, int size, bool align) {
  AxisTaps<Mode, S> taps;
  GridPlace<S> p = place_of(g, size, align);
  if constexpr (Mode != grid_cubic) {
    if constexpr (Outside == outside_border) p = clipped(p, size);
    if constexpr (Outside == outside_reflection) p = reflected(p, size, align);
  } else if constexpr (Outside == outside_reflection) {
    // Whole periods change nothing.
    const S period = align ? S(2) * S(size - 1) : S(2) * S(size);
    if (!(p.at > S(-(1 << 29)) && p.at < S(1 << 29)) || period == S(0)) p = {S(0), S(0)};
    else p.at = p.at - period * S(floor_int(p.at / period));
  }
  // Far outside one place is as good as another: all elements there are none, or the same one.
  if (!(p.at > S(-8))) p = {S(-8), S(0)};
  if (Outside != outside_reflection && p.at > S(size) + S(8)) p = {S(size) + S(8), S(0)};
  const int low = floor_int(p.at);
  const S t = p.at - S(low);
  if constexpr (Mode == grid_nearest) {
    const bool up = t > S(0.5) || (t == S(0.5) && (low & 1) != 0);  // ties to the even element
    const int i = low + (up ? 1 : 0);
    taps.at[0] = i < 0 || i >= size ? -1 : i;
    taps.weight[0] = S(1);
    taps.slope[0] = S(0);
  } else if constexpr (Mode == grid_linear) {
    NNK_UNROLL
    for (int k = 0; k < 2; ++k) {
      taps.at[k] = low + k < 0 || low + k >= size ? -1 : low + k;
      taps.weight[k] = k == 0 ? S(1) - t : t;
      taps.slope[k] = k == 0 ? -p.slope : p.slope;
    }
  } else {
    NNK_UNROLL
    for (int k = 0; k < 4; ++k) taps.at[k] = bounded_tap<Outside>(low - 1 + k, size, align);
    cubic_taps(t, p.slope, taps.weight, taps.slope);
  }
  return taps;
}

// The taps of all axes, and the i-th of their combinations, the last axis the fastest.
template <int Rank, int Mode, int Outside, class S> struct PlaceTaps {
  static constexpr int count = all_taps(Mode, Rank);
  AxisTaps<Mode, S> axis[Rank];

  // `number(axis)` is the number of the grid for an axis of the image.
  template <class F> NNK_FN PlaceTaps(F number, const int32 (&size)[Rank], bool align) {
    NNK_UNROLL
    for (int a = 0; a < Rank; ++a) axis[a] = taps_at<Mode, Outside>(number(a), size[a], align);
  }
  static constexpr NNK_FN int tap_of(int i, int a) {
    return (i >> (Mode * (Rank - 1 - a))) & (axis_taps(Mode) - 1);
  }
  // The sum of its positions times strides, or -1 if there is no such element.
  template <class Index> NNK_FN Index offset(int i, const Index (&stride)[Rank], Index low) const {
    Index sum = -low;
    bool there = true;
    NNK_UNROLL
    for (int a = 0; a < Rank; ++a) {
      const int at = axis[a].at[tap_of(i, a)];
      there = there && at >= 0;
      sum += Index(at) * stride[a];
    }
    return there ? sum : Index(-1);
  }
  NNK_FN S weight(int i) const {
    S product = axis[0].weight[tap_of(i, 0)];
    NNK_UNROLL
    for (int a = 1; a < Rank; ++a) product = product * axis[a].weight[tap_of(i, a)];
    return product;
  }
  // The derivative of the weight by the number of the grid for an axis.
  NNK_FN S slope(int i, int by) const {
    S product = S(1);
    NNK_UNROLL
    for (int a = 0; a < Rank; ++a) {
      const int k = tap_of(i, a);
      product = product * (a == by ? axis[a].slope[k] : axis[a].weight[k]);
    }
    return product;
  }
};

// Two taps that are neighbours along the last axis, as two elements that one access has. At an edge
// one of them is no tap, and if it is the other one that is there, they change places.
template <class Index> struct TapPair {
  Index from;     // of the first of the elements, in bytes
  int tap[2];     // which of the two taps each element is
  bool there[2];  // whether it is one

  // Places of the taps, -1 for none; no axis has fewer than two elements.
  NNK_FN TapPair(Index first, Index second, Index step) {
    const bool has_first = first >= 0, has_second = second >= 0;
    const bool changed = has_first != has_second;
    from = has_first ? first - (has_second ? Index(0) : step) : has_second ? second : Index(0);
    tap[0] = changed ? 1 : 0;
    tap[1] = changed ? 0 : 1;
    there[0] = changed ? has_second : has_first;
    there[1] = changed ? has_first : has_second;
  }
};
// All bits of an element that is a tap. What is none counts as 0, whatever it is.
constexpr NNK_FN uint32 bits_if(bool there) { return there ? ~uint32(0) : uint32(0); }

// Points of the result, and the numbers of the grid for each. Strides in bytes.
template <class TG, int Rank, class Index> struct GridPoints {
  Index points;  // of one image
  Divisor<Index> by_shape[Rank];
  Index batch, stride[Rank], last;
  int32 size[Rank];  // of the image that is read
  int32 align;

  // The sum of positions times strides.
  NNK_FN Index at(Index point, const Index (&strides)[Rank]) const {
    Index sum = 0;
    NNK_UNROLL
    for (int a = Rank - 1; a >= 0; --a) {
      const Index next = a == 0 ? 0 : by_shape[a].divide(point);
      sum += (point - next * by_shape[a].divisor) * strides[a];
      point = next;
    }
    return sum;
  }
  // The last number of the grid is for the first axis of the image.
  template <int Mode, int Outside, class S>
  NNK_FN PlaceTaps<Rank, Mode, Outside, S> taps(const TG* grid, Index image, Index point) const {
    const TG* numbers = byte_offset(grid, image * batch + at(point, stride));
    return {[&](int a) {
              return convert_scalar<S>(
                  nnk::load<1>(byte_offset(numbers, Index(Rank - 1 - a) * last))[0]);
            },
            size, align != 0};
  }
};

}  // namespace nnk
