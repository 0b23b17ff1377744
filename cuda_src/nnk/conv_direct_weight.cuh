// The gradient by the weights of a convolution with few channels in a group: for every tap of every
// row and channel of a group, the sum over pixels of what the tap sees times the pixel's gradient.
//
// A block sums a tile of 3 x 3 taps over a range of pixels, with a register (a vector) for each
// tap: a gradient is read once for all of them. What the lanes of a vector are is said in
// conv_direct_geometry.cuh. If ranges are several, a second launch adds their sums in order
// (matmul_splits.cuh).
#pragma once
#include "nnk/conv_direct_geometry.cuh"
#include "nnk/reduce.cuh"

namespace nnk {

// TY, TX, TC: element types of gradients, image and result, which is S where it is to be added up
// UnitX, UnitY: lanes are adjacent in the image and the gradients (on a GPU, and aligned)
template <class TY, class TX, class TC, class S, class Index, bool AlongGroups, int N, int Threads,
          bool UnitX, bool UnitY, bool ConjugateY, bool ConjugateX>
struct ConvDirectWeight {
  using V = Vec<S, N>;
  using Geometry = DirectGeometry<Index>;
  static constexpr int side = 3;

  struct Args {
    const TY* gradients;
    const TX* image;
    TC* result;
    // Items are segments of pixels along the last axis, in order of images and axes.
    Index items, items_of_split;
    Index split_stride;  // of the result, in bytes
    int32 segment;
    int32 vectors;  // of N groups, of a block; else 1
    Divisor<Index> segments, before[2];
    // Blocks are in order of slabs of groups, rows, channels, taps of the first axis, tiles of the
    // others, and splits.
    Divisor<Index> splits, tiles[2], taps, channels, rows;
    Index tile[2];  // taps of a tile along the last two axes: up to three
    alignas(16) Geometry geometry;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const ConvDirectWeight block(group, args);
    V sums[side][side];
    NNK_UNROLL
    for (int a = 0; a < side; ++a) {
      NNK_UNROLL
      for (int b = 0; b < side; ++b) sums[a][b] = V::splat(S());
    }
    block.add_up(sums);
    block.finish(group, sums);
  }

 private:
  const Args& args;
  const Geometry& g;
  Index split, tap[3], channel, row, first_group;
  int taps[2];        // of the tile
  int teams, team;    // of threads that share pixels
  int vector, count;  // which one of the slab, and its lanes
  const TX* image;    // of image 0, and the group
  const TY* gradients;

  template <class G>
  NNK_FN ConvDirectWeight(const G& group, const Args& a) : args(a), g(a.geometry) {
    Index block = Index(group.block());
    split = remainder(block, args.splits);
    tap[2] = remainder(block, args.tiles[1]) * args.tile[1];
    tap[1] = remainder(block, args.tiles[0]) * args.tile[0];
    tap[0] = remainder(block, args.taps);
    channel = remainder(block, args.channels);
    row = remainder(block, args.rows);
    NNK_UNROLL
    for (int i = 0; i < 2; ++i) {
      const Index left = g.kernel[1 + i] - tap[1 + i];
      taps[i] = int(left < args.tile[i] ? left : args.tile[i]);
    }
    teams = Threads / args.vectors;
    team = group.rank() / args.vectors;
    vector = group.rank() - team * args.vectors;
    first_group = AlongGroups ? (block * args.vectors + vector) * N : block;
    const Index left = g.groups - first_group;
    count = !AlongGroups || left >= N ? N : left > 0 ? int(left) : 0;
    image = byte_offset(args.image, first_group * g.image[1] + channel * g.image[2]);
    gradients = byte_offset(args.gradients, first_group * g.other[1] + row * g.other[2]);
  }
  // Of i, which becomes the quotient.
  static NNK_FN Index remainder(Index& i, const Divisor<Index>& by) {
    const Index next = by.divide(i), rest = i - next * by.divisor;
    i = next;
    return rest;
  }

  NNK_FN void add_up(V (&sums)[side][side]) const {
    if (team >= teams || count == 0) return;
    const Index first = split * args.items_of_split, left = args.items - first;
    const Index end = first + (left < args.items_of_split ? left : args.items_of_split);
    for (Index item = first + team; item < end; item += teams) {
      Index i = item;
      const Index u2 = remainder(i, args.segments) * args.segment;
      const Index u1 = remainder(i, args.before[1]);
      const Index u0 = remainder(i, args.before[0]);
      const Index p0 = g.position(0, u0) + tap[0] * g.tap[0];
      if (g.is_inside(0, p0)) add_segment(sums, i, u0, u1, u2, p0);
    }
  }
  NNK_FN void add_segment(V (&sums)[side][side], Index n, Index u0, Index u1, Index u2,
                          Index p0) const {
    const Index end = g.pixels[2] - u2 < args.segment ? g.pixels[2] : u2 + args.segment;
    const Index p1 = g.position(1, u1) + tap[1] * g.tap[1];
    bool inside[side], all = taps[0] == side && taps[1] == side && count == N;
    NNK_UNROLL
    for (int a = 0; a < side; ++a) {
      inside[a] = a < taps[0] && g.is_inside(1, p1 + a * g.tap[1]);
      all = all && inside[a];
    }
    Index p2 = g.position(2, u2) + tap[2] * g.tap[2];
    const TX* x =
        byte_offset(image, n * g.image[0] + p0 * g.image[3] + p1 * g.image[4] + p2 * g.image[5]);
    const TY* y = byte_offset(gradients,
                              n * g.other[0] + u0 * g.other[3] + u1 * g.other[4] + u2 * g.other[5]);
    constexpr int pixels = AlongGroups ? 1 : N;
    // Elements of the image from the first one that the tile sees to the last one.
    const Index seen = (pixels - 1) * g.step[2] + (side - 1) * g.tap[2];
    for (; u2 < end; u2 += pixels) {
      const int lanes = AlongGroups ? count : end - u2 < N ? int(end - u2) : N;
      if (all && lanes == N && p2 >= 0 && p2 + seen < g.size[2])
        add_all(sums, load_all<S, N, UnitY>(y, lane_step(g.other, 1)), x);
      else
        add_some(sums, load_some<S, N, UnitY>(y, lane_step(g.other, 1), {0, lanes}), x, inside, p2,
                 lanes);
      p2 += pixels * g.step[2];
      x = byte_offset(x, pixels * g.step[2] * g.image[5]);
      y = byte_offset(y, pixels * g.other[5]);
    }
  }
  // From lane to lane of an array with such strides.
  NNK_FN Index lane_step(const Index (&stride)[6], Index step) const {
    return AlongGroups ? stride[1] : step * stride[5];
  }
  NNK_FN void add_all(V (&sums)[side][side], const V& y, const TX* x) const {
    const V dy = ConjugateY ? conj(y) : y;
    NNK_UNROLL
    for (int a = 0; a < side; ++a) {
      NNK_UNROLL
      for (int b = 0; b < side; ++b)
        add(sums[a][b], dy, load_all<S, N, UnitX>(at_tap(x, a, b), lane_step(g.image, g.step[2])));
    }
  }
  NNK_FN void add_some(V (&sums)[side][side], const V& y, const TX* x, const bool (&inside)[side],
                       Index p2, int lanes) const {
    const V dy = ConjugateY ? conj(y) : y;
    NNK_UNROLL
    for (int b = 0; b < side; ++b) {
      if (b >= taps[1]) break;
      const Index p = p2 + b * g.tap[2];
      LaneRange seen{0, lanes};
      if constexpr (!AlongGroups) seen = lanes_inside<N>(g, p, lanes);
      if (AlongGroups ? !g.is_inside(2, p) : seen.is_empty()) continue;
      NNK_UNROLL
      for (int a = 0; a < side; ++a)
        if (inside[a])
          add(sums[a][b], dy,
              load_some<S, N, UnitX>(at_tap(x, a, b), lane_step(g.image, g.step[2]), seen));
    }
  }
  NNK_FN const TX* at_tap(const TX* x, int a, int b) const {
    return byte_offset(x, a * (g.tap[1] * g.image[4]) + b * (g.tap[2] * g.image[5]));
  }
  static NNK_FN void add(V& sum, const V& dy, const V& x) {
    sum = fma(dy, ConjugateX ? conj(x) : x, sum);
  }

  // ---- the sums of all threads ----------------------------------------------------------------

  template <class G> NNK_FN void finish(G& group, const V (&sums)[side][side]) const {
    TC* const to = byte_offset(args.result, split * args.split_stride + first_group * g.weight[0] +
                                                row * g.weight[1] + channel * g.weight[2] +
                                                tap[0] * g.weight[3] + tap[1] * g.weight[4] +
                                                tap[2] * g.weight[5]);
    NNK_UNROLL
    for (int a = 0; a < side; ++a) {
      NNK_UNROLL
      for (int b = 0; b < side; ++b)
        if (a < taps[0] && b < taps[1])
          finish(group, sums[a][b], byte_offset(to, a * g.weight[4] + b * g.weight[5]));
    }
  }
  // Every thread comes here.
  template <class G> NNK_FN void finish(G& group, const V& sum, TC* to) const {
    if constexpr (!AlongGroups) {
      const S total = reduce<Sum<S>>(group, fold<Sum<S>>(sum));
      if (group.rank() == 0) nnk::store(to, convert<TC>(Vec<S, 1>::splat(total)));
    } else if constexpr (Threads == 1) {
      nnk::store_strided(to, g.weight[0], convert<TC>(sum), count);
    } else {
      const auto parts = group.template dynamic_shared<S>(0, Threads * N);
      group.barrier();
      parts.template store_vec<N>(group.rank() * N, sum);
      group.barrier();
      if (team > 0) return;
      V total = sum;
      for (int other = 1; other < teams; ++other)
        total = total + parts.template load_vec<N>((other * args.vectors + vector) * N);
      nnk::store_strided(to, g.weight[0], convert<TC>(total), count);
    }
  }
};

}  // namespace nnk
