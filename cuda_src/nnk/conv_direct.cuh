// Convolutions with few channels in a group (depthwise ones above all), and their gradients by the
// image: every result is a sum over channels and taps of what its window sees times a weight.
//
// A product of matrices of one row would leave most of a tile empty, and move as many bytes. Here
// a thread has N lanes times R pixels along an axis in registers: R rows of an image, whose
// neighbours along a row are lanes; or R pixels of a row, where lanes are groups. For each tap it
// reads one weight (N of them, where lanes are groups) and R vectors of the image.
//
// A block has one row of one group, or (AlongGroups) of a slab of groups, whose weights are in
// shared memory, and a range of the *items* of the slab: what a thread has in registers at once.
#pragma once
#include "nnk/conv_direct_geometry.cuh"
#include "nnk/fused_epilogue.cuh"
#include "nnk/matmul_epilogue.cuh"

namespace nnk {

// What a function adds to the arguments.
template <class Function, class Base> struct DirectFunction {
  static constexpr bool is_there = true;
  static constexpr int count = Function::arrays > 0 ? Function::arrays : 1;
  using Operands = FusedOperands<Function, Base>;
};
template <class Base> struct DirectFunction<void, Base> {
  static constexpr bool is_there = false;
  static constexpr int count = 1;
  using Operands = Base;
};

// TX, TW, TY, TD: element types of image, weights, result and bias (void for none)
// S: type of the sums; TR: type in which they are activated
// R: pixels of a thread along the axis before the last one, or (AlongGroups) along the last one
// Step: from one to the next of them, 1 or 2, if taps along that axis see neighbours; else 0
// UnitX, UnitY: lanes are adjacent in the image and the result (on a GPU, and aligned)
// Conjugate: weights are taken so
// Streaming: results go past the caches
// Function: a FusedFunction that is applied instead of an activation, or void
template <class TX, class TW, class TY, class TD, class S, class TR, class Activation, class Index,
          bool AlongGroups, int N, int R, int Step, int Threads, bool UnitX, bool UnitY,
          bool Conjugate, bool Streaming, class Function = void>
struct ConvDirect {
  using V = Vec<S, N>;
  using Geometry = DirectGeometry<Index>;
  static constexpr int register_budget = 128;
  static constexpr bool has_bias = Addend<TD>::operands > 0;
  static constexpr int parameters = Activation::parameters > 0 ? Activation::parameters : 1;
  static constexpr int axis = AlongGroups ? 2 : 1;   // of the R pixels
  static constexpr int width = AlongGroups ? N : 1;  // weights that are read at once

  using Fused = DirectFunction<Function, typename Addend<TD>::Operands>;

  struct PlainArgs : Fused::Operands {
    const TW* weights;
    const TX* image;
    TY* result;
    Index items;  // of a slab
    int32 items_of_block;
    int32 vectors;  // of N groups, of a slab; else 1
    Divisor<Index> blocks_of_slab, rows;
    // Items are in order of images, axes before that of the R pixels, this, and lanes.
    Divisor<Index> lane_tiles, register_tiles, before[2];
    Index bias_stride;
    alignas(16) TR parameter[parameters];
    alignas(16) Geometry geometry;
  };
  // Of every array of a function its strides, as those of the result.
  struct FusedArgs : PlainArgs { alignas(16) Index more[Fused::count][6]; };
  using Args = conditional<Fused::is_there, FusedArgs, PlainArgs>;

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    ConvDirect(group, args).work(group);
  }

 private:
  const Args& args;
  const Geometry& g;
  Shared<S> weights;  // [channel][tap][lanes of the slab], and the bias
  int stride;         // from tap to tap
  Index terms;
  Index row, first_group;
  int64 block_of_slab;

  template <class G>
  NNK_FN ConvDirect(const G& group, const Args& a)
      : args(a), g(a.geometry), stride(a.vectors * width), terms(g.channels * g.taps()) {
    weights = group.template dynamic_shared<S>(0, int(terms + 1) * stride);
    const Index block = Index(group.block());
    const Index slab = args.blocks_of_slab.divide(block);
    block_of_slab = block - slab * args.blocks_of_slab.divisor;
    const Index line = args.rows.divide(slab);
    row = slab - line * args.rows.divisor;
    first_group = line * stride;
  }

  template <class G> NNK_FN void work(G& group) const {
    fetch_weights(group.rank());
    group.barrier();
    const Index first = Index(block_of_slab * args.items_of_block);
    const Index left = args.items - first;
    const Index end = first + (left < args.items_of_block ? left : args.items_of_block);
    Item item = decode(first + group.rank());
    for (Index i = first + group.rank(); i < end; i += Threads) {
      make(item);
      if constexpr (Threads == 1) advance(item);
      else item = decode(i + Threads);
    }
  }

  // ---- weights ------------------------------------------------------------------------------

  // Neighbouring threads fetch weights of neighbouring groups of a term, others those of others.
  NNK_FN void fetch_weights(int rank) const {
    const int across = args.vectors < Threads ? args.vectors : Threads;
    const int teams = Threads / across, team = rank / across;
    if (team >= teams) return;
    const TW* const from = byte_offset(args.weights, first_group * g.weight[0] + row * g.weight[1]);
    DirectTap<Index> tap{};
    if (Index(team) < terms) tap = DirectTap<Index>::of(g, team);  // there may be no taps
    for (Index k = team; k < terms; k += teams) {
      fetch_line(byte_offset(from, tap.in_weights(g)), g.weight[0], int(k), rank - team * across,
                 across);
      if constexpr (Threads == 1) tap.advance(g);
      else tap = DirectTap<Index>::of(g, k + teams);
    }
    if constexpr (has_bias) {
      if (team == 0)
        fetch_line(byte_offset(args.addend, (first_group * g.rows + row) * args.bias_stride),
                   g.rows * args.bias_stride, int(terms), rank, across);
    }
  }
  template <class T>
  NNK_FN void fetch_line(const T* from, Index step, int term, int first, int by) const {
    for (int v = first; v < args.vectors; v += by) {
      const auto x = load_some<S, width, false>(byte_offset(from, v * width * step), step,
                                                {0, there(v * width, width)});
      weights.template store_vec<width>(term * stride + v * width, Conjugate ? conj(x) : x);
    }
  }
  // How many of `count` groups of the slab there are from one of them on.
  NNK_FN int there(int at, int count) const {
    const Index left = g.groups - first_group - at;
    return left < count ? left > 0 ? int(left) : 0 : count;
  }
  NNK_FN V weight(int term, int lane) const {
    if constexpr (AlongGroups) return weights.template load_vec<N>(term * stride + lane);
    else return V::splat(weights.load(term));
  }

  // ---- items --------------------------------------------------------------------------------

  struct Item {
    Index lanes, tile, before[2], image;  // numbers of them
  };

  NNK_FN Item decode(Index i) const {
    Item item;
    item.lanes = split(i, args.lane_tiles);
    item.tile = split(i, args.register_tiles);
    item.before[1] = AlongGroups ? split(i, args.before[1]) : 0;
    item.before[0] = split(i, args.before[0]);
    item.image = i;
    return item;
  }
  // The remainder of i, which becomes the quotient.
  static NNK_FN Index split(Index& i, const Divisor<Index>& by) {
    const Index next = by.divide(i), rest = i - next * by.divisor;
    i = next;
    return rest;
  }
  NNK_FN void advance(Item& item) const {
    if (++item.lanes < args.lane_tiles.divisor) return;
    item.lanes = 0;
    if (++item.tile < args.register_tiles.divisor) return;
    item.tile = 0;
    if (++item.before[1] < args.before[1].divisor) return;
    item.before[1] = 0;
    if (++item.before[0] < args.before[0].divisor) return;
    item.before[0] = 0;
    ++item.image;
  }

  NNK_FN void make(const Item& item) const {
    const int lane = AlongGroups ? int(item.lanes) * N : 0;  // of the slab
    const Index u0 = item.before[0], u1 = AlongGroups ? item.before[1] : item.tile * R,
                u2 = (AlongGroups ? item.tile * R : item.lanes * N);
    const Index left = g.pixels[axis] - item.tile * R;
    const int pixels = left < R ? int(left) : R;
    const int count = AlongGroups ? there(lane, N) : clipped(g.pixels[2] - u2);
    if (AlongGroups && count == 0) return;  // the last slab has fewer groups

    V sums[R];
    const V zero = has_bias ? weight(int(terms), lane) : V::splat(S());
    NNK_UNROLL
    for (int i = 0; i < R; ++i) sums[i] = zero;

    const Index group = first_group + lane;
    const TX* const image = byte_offset(args.image, item.image * g.image[0] + group * g.image[1]);
    if constexpr (AlongGroups && lanes_are_simd)
      fetch_next_row(
          byte_offset(image, (g.position(1, u1) + (g.kernel[1] - 1) * g.tap[1]) * g.image[4] +
                                 g.position(2, u2) * g.image[5]),
          result_of(item, group, u0, u1, u2));
    add_windows(sums, image, g.position(0, u0), g.position(1, u1), g.position(2, u2), lane, count);
    TY* const to = result_of(item, group, u0, u1, u2);
    NNK_UNROLL
    for (int i = 0; i < R; ++i)
      if (i < pixels) {
        Index position[6] = {item.image, group, row, u0, u1, u2};
        position[3 + axis] += i;
        store(byte_offset(to, i * g.other[3 + axis]), sums[i], position, count);
      }
  }
  NNK_FN TY* result_of(const Item& item, Index group, Index u0, Index u1, Index u2) const {
    return byte_offset(args.result, item.image * g.other[0] + group * g.other[1] +
                                        row * g.other[2] + u0 * g.other[3] + u1 * g.other[4] +
                                        u2 * g.other[5]);
  }
  // Brings what pixels of the next row see along the last taps, and their results, into a level-2
  // cache: pixels are too far apart for a processor to look ahead.
  NNK_FN void fetch_next_row(const TX* from, const TY* to) const {
    from = byte_offset(from, g.step[1] * g.image[4]);
    to = byte_offset(to, g.other[4]);
    NNK_UNROLL
    for (int i = 0; i < R; ++i) {
      prefetch(byte_offset(from, i * g.step[2] * g.image[5]));
      if constexpr (!Streaming) prefetch(byte_offset(to, i * g.other[5]));
    }
  }
  static NNK_FN int clipped(Index n) { return n < N ? int(n) : N; }

  // All channels and taps. at0, at1, at2: what tap 0 of the first pixel sees
  NNK_FN void add_windows(V (&sums)[R], const TX* image, Index at0, Index at1, Index at2, int lane,
                          int count) const {
    constexpr int other = 3 - axis;
    // From tap to tap along the axis of the R pixels, and along the other one.
    const int term_step = AlongGroups ? 1 : int(g.kernel[2]);
    const int next_term = AlongGroups ? int(g.kernel[2]) : 1;
    const int plane = int(g.kernel[1] * g.kernel[2]);
    int term = 0;
    for (Index c = 0; c < g.channels; ++c) {
      Index p0 = at0;
      for (Index t0 = 0; t0 < g.kernel[0]; ++t0, p0 += g.tap[0], term += plane) {
        if (!g.is_inside(0, p0)) continue;
        const TX* from = byte_offset(
            image, c * g.image[2] + p0 * g.image[3] + at1 * g.image[4] + at2 * g.image[5]);
        Index p = AlongGroups ? at1 : at2;
        int row_term = term;
        for (Index t = 0; t < g.kernel[other]; ++t) {
          LaneRange lanes{0, count};
          if constexpr (!AlongGroups) lanes = lanes_inside<N>(g, p, count);
          if (AlongGroups ? g.is_inside(1, p) : !lanes.is_empty())
            add_taps(sums, from, AlongGroups ? at2 : at1, row_term, term_step, lane, lanes);
          p += g.tap[other];
          from = byte_offset(from, g.tap[other] * g.image[3 + other]);
          row_term += next_term;
        }
      }
    }
  }

  // The taps along the axis of the R pixels, from `term` on; the first of these sees element `at`.
  NNK_FN void add_taps(V (&sums)[R], const TX* from, Index at, int term, int term_step, int lane,
                       LaneRange lanes) const {
    const int taps = int(g.kernel[axis]);
    const Index next = g.tap[axis] * g.image[3 + axis];
    int t = 0;
    if constexpr (Step > 0) {
      for (; t + together <= taps; t += together) {
        add_together(sums, from, at, term, term_step, lane, lanes);
        at += together;
        from = byte_offset(from, together * next);
        term += together * term_step;
      }
    }
    for (; t < taps; ++t) {
      const V w = weight(term, lane);
      const TX* p = from;
      Index seen = at;
      NNK_UNROLL
      for (int i = 0; i < R; ++i) {
        if (g.is_inside(axis, seen)) sums[i] = fma(w, load(p, lanes), sums[i]);
        seen += g.step[axis];
        p = stepped(p, g.step[axis] * g.image[3 + axis]);
      }
      at += g.tap[axis];
      from = byte_offset(from, next);
      term += term_step;
    }
  }

  // Three taps, which see neighbours: what is loaded is seen by several of them.
  static constexpr int together = 3;
  NNK_FN void add_together(V (&sums)[R], const TX* from, Index at, int term, int term_step,
                           int lane, LaneRange lanes) const {
    constexpr int seen = (R - 1) * Step + together;
    const Index next = g.image[3 + axis];
    V w[together];
    NNK_UNROLL
    for (int t = 0; t < together; ++t) w[t] = weight(term + t * term_step, lane);
    const bool all = at >= 0 && at + seen <= g.size[axis] && lanes.template is_all<N>();
    if (all) {
      NNK_UNROLL
      for (int j = 0; j < seen; ++j) {
        add_seen(sums, w, j, load_all<S, N, UnitX>(from, lane_step()));
        from = stepped(from, next);
      }
    } else {
      NNK_UNROLL
      for (int j = 0; j < seen; ++j) {
        if (g.is_inside(axis, at + j)) add_seen(sums, w, j, load(from, lanes));
        from = stepped(from, next);
      }
    }
  }
  static NNK_FN void add_seen(V (&sums)[R], const V (&w)[together], int j, const V& x) {
    NNK_UNROLL
    for (int t = 0; t < together; ++t) {
      const int i = (j - t) / (Step > 0 ? Step : 1);
      if (j >= t && i * Step == j - t && i < R) sums[i] = fma_in_register(w[t], x, sums[i]);
    }
  }
  NNK_FN Index lane_step() const { return AlongGroups ? g.image[1] : g.step[2] * g.image[5]; }
  NNK_FN V load(const TX* from, LaneRange lanes) const {
    return load_some<S, N, UnitX, whole_vectors<AlongGroups>>(from, lane_step(), lanes);
  }
  NNK_FN auto finished(const V& sum, [[maybe_unused]] const Index (&position)[6],
                       [[maybe_unused]] int count) const {
    if constexpr (Fused::is_there)
      return apply_at<Function>(args, args.more, convert<typename Function::Value>(sum), position,
                                AlongGroups ? 1 : 5, count);
    else return Activation::apply(args.parameter, convert<TR>(sum));
  }
  NNK_FN void store(TY* to, const V& sum, const Index (&position)[6], int count) const {
    const auto y = convert<TY>(finished(sum, position, count));
    const Index step = AlongGroups ? g.other[1] : g.other[5];
    if (count == N || whole_vectors<AlongGroups>) {
      if constexpr (UnitY && Streaming) nnk::store_streaming(to, y);
      else if constexpr (UnitY || N == 1) nnk::store(to, y);
      else nnk::store_strided(to, step, y, N);
    } else if constexpr (UnitY) {
      nnk::store_partial(to, y, count);
    } else {
      nnk::store_strided(to, step, y, count);
    }
  }
};

}  // namespace nnk
