// The gradient by the weights of a convolution with few channels in a group: for every tap of every
// row and channel of a group, the sum over pixels of what the tap sees times the pixel's gradient.
//
// A block sums a tile of 3 x 3 taps over a range of pixels, with a register (a vector) for each
// tap: a gradient is read once for all of them. What the lanes of a vector are is said in
// conv_direct_geometry.cuh. Where they are groups, a block has a slab of vectors, whose memory is
// adjacent: threads of a GPU one each, and that of a CPU one after the other. If ranges are
// several, a second launch adds their sums in order (matmul_splits.cuh).
#pragma once
#include "nnk/conv_direct_geometry.cuh"
#include "nnk/reduce.cuh"

namespace nnk {

// TY, TX, TC: element types of gradients, image and result, which is S where it is to be added up
// Sliding: pixels of a run, and taps along it, are neighbours
// UnitX, UnitY: lanes are adjacent in the image and the gradients (on a GPU, and aligned)
template <class TY, class TX, class TC, class S, class Index, bool AlongGroups, int N, int Threads,
          bool Sliding, bool UnitX, bool UnitY, bool ConjugateY, bool ConjugateX>
struct ConvDirectWeight {
  using V = Vec<S, N>;
  using Geometry = DirectGeometry<Index>;
  static constexpr int register_budget = 128;
  static constexpr int side = 3;
  static constexpr bool takes_turns = AlongGroups && lanes_are_simd;    // vectors of a slab do
  static constexpr int along = AlongGroups ? 2 : 1, other = 3 - along;  // axes of runs, and across

  struct Args {
    const TY* gradients;
    const TX* image;
    TC* result;
    Index items, items_of_split;
    Index split_stride;       // of the result, in bytes
    int32 run;                // pixels of an item, at most
    int32 vectors;            // of N groups, of a block; else 1
    Divisor<Index> parts[3];  // items along every axis; they are in order of images and axes
    // Blocks are in order of slabs of groups, rows, channels, taps of the first axis, tiles of the
    // others, and splits.
    Divisor<Index> splits, tiles[2], taps, channels, rows;
    Index tile[2];  // taps of a tile along the last two axes: up to three
    alignas(16) Geometry geometry;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    ConvDirectWeight block(group, args);
    if constexpr (takes_turns) {
      block.add_up_slab(group);
    } else {
      V sums[side][side];
      each_sum([&](int a, int b) NNK_INLINE { sums[a][b] = V::splat(S()); });
      block.add_up(sums);
      block.finish(group, sums);
    }
  }

 private:
  const Args& args;
  const Geometry& g;
  Index split, tap[3], channel, row, first_group;
  int taps[2];        // of the tile
  int teams, team;    // of threads that share pixels
  Index slab;         // of groups, or the group
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
    teams = takes_turns ? 1 : Threads / args.vectors;
    team = takes_turns ? 0 : group.rank() / args.vectors;
    slab = block;
    take(group.rank() - team * args.vectors);
  }
  // Sees to one vector of the slab.
  NNK_FN void take(int of_slab) {
    vector = of_slab;
    first_group = AlongGroups ? (slab * args.vectors + vector) * N : slab;
    const Index left = g.groups - first_group;
    count = !AlongGroups || left >= N ? N : left > 0 ? int(left) : 0;
    image = byte_offset(args.image, first_group * g.image[1] + channel * g.image[2]);
    gradients = byte_offset(args.gradients, first_group * g.other[1] + row * g.other[2]);
  }
  template <class F> static NNK_FN void each_sum(F each) {
    NNK_UNROLL
    for (int a = 0; a < side; ++a) {
      NNK_UNROLL
      for (int b = 0; b < side; ++b) each(a, b);
    }
  }
  // Of i, which becomes the quotient.
  static NNK_FN Index remainder(Index& i, const Divisor<Index>& by) {
    const Index next = by.divide(i), rest = i - next * by.divisor;
    i = next;
    return rest;
  }

  NNK_FN void add_up(V (&sums)[side][side]) const {
    if (team >= teams || count == 0) return;
    each_item([&](const Item& item) NNK_INLINE { add_item(sums, item); });
  }
  // What vectors of a slab see of a run of pixels is adjacent in memory, and so they take turns at
  // each run; their sums wait in scratch memory, as [vector][tap].
  template <class G> NNK_FN void add_up_slab(G& group) {
    const auto waiting = group.template dynamic_shared<S>(0, args.vectors * side * side * N);
    V sums[side][side];
    each_sum([&](int a, int b) NNK_INLINE { sums[a][b] = V::splat(S()); });
    const auto at = [&](int a, int b) NNK_INLINE { return ((vector * side + a) * side + b) * N; };
    const auto keep = [&](int a, int b) NNK_INLINE { waiting.store_vec(at(a, b), sums[a][b]); };
    const auto resume = [&](int a, int b)
                            NNK_INLINE { sums[a][b] = waiting.template load_vec<N>(at(a, b)); };
    for (int v = 0; v < args.vectors; ++v) {
      take(v);
      each_sum(keep);
    }
    each_item([&](const Item& item) NNK_INLINE {
      for (int v = 0; v < args.vectors; ++v) {
        take(v);
        if (count == 0) break;
        each_sum(resume);
        add_item(sums, item);
        each_sum(keep);
      }
    });
    for (int v = 0; v < args.vectors; ++v) {
      take(v);
      each_sum(resume);
      finish(group, sums);
    }
  }
  // A run of pixels of an image, of which the first one's tap 0 sees p0 along the first axis.
  struct Item { Index n, u0, u1, u2, p0; };
  template <class F> NNK_FN void each_item(F each) const {
    const Index first = split * args.items_of_split, left = args.items - first;
    const Index end = first + (left < args.items_of_split ? left : args.items_of_split);
    for (Index item = first + team; item < end; item += teams) {
      Index i = item;
      const Index u2 = remainder(i, args.parts[2]) * (AlongGroups ? args.run : N);
      const Index u1 = remainder(i, args.parts[1]) * (AlongGroups ? 1 : args.run);
      const Index u0 = remainder(i, args.parts[0]);
      const Index p0 = g.position(0, u0) + tap[0] * g.tap[0];
      if (g.is_inside(0, p0)) each(Item{i, u0, u1, u2, p0});
    }
  }
  NNK_FN void add_item(V (&sums)[side][side], const Item& item) const {
    const auto [n, u0, u1, u2, p0] = item;
    const Index p1 = g.position(1, u1) + tap[1] * g.tap[1];
    const Index p2 = g.position(2, u2) + tap[2] * g.tap[2];
    const int lanes = AlongGroups ? count : g.pixels[2] - u2 < N ? int(g.pixels[2] - u2) : N;
    // What taps of the tile along the other axis see is the same for the whole run.
    LaneRange seen[side];
    bool all = taps[other - 1] == side && lanes == N;
    NNK_UNROLL
    for (int o = 0; o < side; ++o) {
      const Index p = (AlongGroups ? p1 : p2) + o * g.tap[other];
      if constexpr (AlongGroups) seen[o] = {0, g.is_inside(other, p) ? lanes : 0};
      else seen[o] = lanes_inside<N>(g, p, lanes);
      if (o >= taps[other - 1]) seen[o] = {0, 0};
      all = all && seen[o].template is_all<N>();
    }
    const Index left = g.pixels[along] - (AlongGroups ? u2 : u1);
    const Run run{left < args.run ? int(left) : args.run, AlongGroups ? p2 : p1, {0, lanes}};
    const TX* x =
        byte_offset(image, n * g.image[0] + p0 * g.image[3] + p1 * g.image[4] + p2 * g.image[5]);
    const TY* y = byte_offset(gradients,
                              n * g.other[0] + u0 * g.other[3] + u1 * g.other[4] + u2 * g.other[5]);
    if (all) add_run<false>(sums, x, y, run, seen);
    else add_run<true>(sums, x, y, run, seen);
  }

  // Pixels one after the other along an axis: how many, what the first tap of the tile sees of the
  // first one, and their lanes.
  struct Run {
    int pixels;
    Index at;
    LaneRange lanes;
  };
  template <bool Masked>
  NNK_FN void add_run(V (&sums)[side][side], const TX* x, const TY* y, const Run& run,
                      const LaneRange (&seen)[side]) const {
    if constexpr (Sliding) slide<Masked>(sums, x, y, run, seen);
    else walk<Masked>(sums, x, y, run, seen);
  }
  // Neighbouring taps see neighbours: each element of the image is read once, and is the one that
  // tap t of the pixel t before the last one sees.
  template <bool Masked>
  NNK_FN void slide(V (&sums)[side][side], const TX* x, const TY* y, const Run& run,
                    const LaneRange (&seen)[side]) const {
    V dy[side];
    NNK_UNROLL
    for (int t = 0; t < side; ++t) dy[t] = V::splat(S());
    const int elements = run.pixels + taps[along - 1] - 1;
    for (int q = 0; q < elements; ++q) {
      NNK_UNROLL
      for (int t = side - 1; t > 0; --t) dy[t] = dy[t - 1];
      if (q < run.pixels) dy[0] = load_gradient<Masked>(y, run.lanes);
      if (g.is_inside(along, run.at + q)) {
        const bool whole = q >= side - 1 && q < run.pixels;
        NNK_UNROLL
        for (int o = 0; o < side; ++o) {
          if (Masked && seen[o].is_empty()) continue;
          const V v = load_image<Masked>(byte_offset(x, o * other_step()), seen[o]);
          NNK_UNROLL
          for (int t = 0; t < side; ++t)
            if (whole || (q >= t && q - t < run.pixels))
              sums[t][o] = fma_in_register(dy[t], v, sums[t][o]);
        }
      }
      if constexpr (AlongGroups && lanes_are_simd) {
        // Of the next row: pixels are too far apart for a processor to look ahead.
        prefetch(byte_offset(x, g.step[other] * g.image[3 + other] + (side - 1) * other_step()));
        prefetch(byte_offset(y, g.other[3 + other]));
      }
      x = byte_offset(x, g.image[3 + along]);
      y = byte_offset(y, g.other[3 + along]);
    }
  }
  template <bool Masked>
  NNK_FN void walk(V (&sums)[side][side], const TX* x, const TY* y, const Run& run,
                   const LaneRange (&seen)[side]) const {
    Index at = run.at;
    for (int q = 0; q < run.pixels; ++q) {
      const V dy = load_gradient<Masked>(y, run.lanes);
      NNK_UNROLL
      for (int t = 0; t < side; ++t) {
        if (t >= taps[along - 1] || !g.is_inside(along, at + t * g.tap[along])) continue;
        const TX* const from = byte_offset(x, t * (g.tap[along] * g.image[3 + along]));
        NNK_UNROLL
        for (int o = 0; o < side; ++o)
          if (!Masked || !seen[o].is_empty())
            sums[t][o] = fma(dy, load_image<Masked>(byte_offset(from, o * other_step()), seen[o]),
                             sums[t][o]);
      }
      at += g.step[along];
      x = byte_offset(x, g.step[along] * g.image[3 + along]);
      y = byte_offset(y, g.other[3 + along]);
    }
  }
  NNK_FN Index other_step() const { return g.tap[other] * g.image[3 + other]; }
  template <bool Masked> NNK_FN V load_gradient(const TY* y, LaneRange lanes) const {
    const Index step = AlongGroups ? g.other[1] : g.other[5];
    const V dy = Masked ? load_some<S, N, UnitY, whole_vectors<AlongGroups>>(y, step, lanes)
                        : load_all<S, N, UnitY>(y, step);
    return ConjugateY ? conj(dy) : dy;
  }
  template <bool Masked> NNK_FN V load_image(const TX* x, LaneRange lanes) const {
    const Index step = AlongGroups ? g.image[1] : g.step[2] * g.image[5];
    const V v = Masked ? load_some<S, N, UnitX, whole_vectors<AlongGroups>>(x, step, lanes)
                       : load_all<S, N, UnitX>(x, step);
    return ConjugateX ? conj(v) : v;
  }

  // ---- the sums of all threads ----------------------------------------------------------------

  template <class G> NNK_FN void finish(G& group, const V (&sums)[side][side]) const {
    TC* const to = byte_offset(args.result, split * args.split_stride + first_group * g.weight[0] +
                                                row * g.weight[1] + channel * g.weight[2] +
                                                tap[0] * g.weight[3] + tap[1] * g.weight[4] +
                                                tap[2] * g.weight[5]);
    NNK_UNROLL
    for (int t = 0; t < side; ++t) {
      NNK_UNROLL
      for (int o = 0; o < side; ++o)
        if (t < taps[along - 1] && o < taps[other - 1])
          finish(group, sums[t][o],
                 byte_offset(to, t * g.weight[3 + along] + o * g.weight[3 + other]));
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
