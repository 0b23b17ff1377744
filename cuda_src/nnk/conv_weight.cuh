// The gradient of a convolution by its weights, by a block of one thread, at the speed of its SIMD
// registers.
//
// A weight's gradient is a sum over all pixels, of which there are many, and each gradient of a
// pixel is used for every channel and tap. So it is these that are packed, once for all of them:
// for a slab of pixels, as [pixel][output], N outputs at once. The image is read where it lies,
// whatever its strides: a micro-tile is one tap of MicroM channels, an element of which is loaded
// into all lanes, so that a tap is another place to begin at and nothing is gathered. What a tap
// does not see is left out: runs of pixels in the rows of an image, which are found once for a tap
// and a slab. The sums of a block wait in scratch memory from slab to slab.
//
// Neither blocks nor slabs change a result: each is a chain of fused multiply-adds in the order of
// the pixels.
#pragma once
#include "nnk/conv_weight_parts.cuh"
#include "nnk/conv_windows.cuh"

namespace nnk {

// TA, TB, TC: types of pixels, image and result; S: of the sums
// MicroM, N: channels and outputs whose sums stay in registers
template <class TA, class TB, class TC, class S, int MicroM, int N> struct ConvWeight {
  using V = Vec<S, N>;
  using Geometry = WindowGeometry<int64>;
  // Half a micro-tile, for the last channels.
  static constexpr int half_m = MicroM > 1 ? MicroM / 2 : 1;

  struct Args : WeightArrays<TA, TB, TC> {
    int64 pixel_count;
    int64 tiles;  // of MicroM channels
    int64 parts;  // into which the units of a panel, a tap of a tile each, are divided
    int32 depth;  // pixels of a slab
    int32 units;  // most of a part
    Geometry windows;
  };

  // Pixels that follow each other in a row of an image, all of which a tap sees.
  struct Run {
    int64 offset;  // bytes to what the first one sees
    int32 first, count;
  };

  struct Block {
    const Args& args;
    const WeightPanel<TA, TB, TC, S, N>& panel;
    int64 first_unit, end_unit;  // tile times taps plus tap
    Shared<S> sums;              // [unit][channel][output]
    Shared<Run> runs;

    NNK_FN const Geometry& geometry() const { return args.windows; }
    NNK_FN S* sums_of(int64 unit) const { return sums.data + (unit - first_unit) * (MicroM * N); }
    // The tiles whose units with a tap begin before some unit.
    NNK_FN int64 tiles_before(int64 unit, int tap) const {
      const int taps = geometry().spatial_taps();
      return (unit - tap + taps - 1) / taps;
    }
  };

  template <class Group> static NNK_FN void run(Group& group, const Args& args) {
    const int64 units = args.tiles * args.windows.spatial_taps();
    const int packed = (args.depth + V::lanes) * N, sums = args.units * (MicroM * N);
    const auto panel = WeightPanel<TA, TB, TC, S, N>::of(group, args, args.parts, packed);
    const Block block{
        args,
        panel,
        units * panel.part / args.parts,
        units * (panel.part + 1) / args.parts,
        group.template dynamic_shared<S>(packed * int(sizeof(S)), sums),
        group.template dynamic_shared<Run>((packed + sums) * int(sizeof(S)), args.depth)};
    if (args.pixel_count == 0)
      for (int i = 0; i < sums; i += N) block.sums.store_vec(i, V::splat(S()));
    const int64 needed = 1 + panel.number;
    // A slab that is all there is stays packed for the next part.
    bool packs = args.pixel_count > args.depth || group.kept() != needed;
    group.kept() = needed;
    for (int64 u = 0; u < args.pixel_count; u += args.depth) {
      const int depth = args.pixel_count - u < args.depth ? int(args.pixel_count - u) : args.depth;
      if (packs) block.panel.pixels.pack(args.windows, u, depth);
      const int taps = args.windows.spatial_taps();
      auto tap = Tap<int64, false>::of(args.windows, 0);
      for (int t = 0; t < taps; ++t) {
        add_tap(block, tap, t, u, depth);
        tap.next_tap(args.windows);
      }
    }
    write(block);
  }

 private:
  // ---- sums -------------------------------------------------------------------------------

  // The pixels of a slab that a tap sees; how many runs there are.
  static NNK_FN int find_runs(const Block& block, const Tap<int64, false>& tap, int64 u,
                              int depth) {
    const Geometry& g = block.geometry();
    // What is seen along a row of pixels.
    const int64 start = g.start[2] + tap.at[2] * g.tap[2], step = g.step[2];
    const int64 low = start < 0 ? ceil_div(-start, step) : 0;
    const int64 end = start < g.size[2] ? ceil_div(g.size[2] - start, step) : 0;
    const int64 next = g.step[2] * g.stride[3], tap_offset = tap.offset(g);
    auto pixel = Pixel<int64>::of(g, u);
    int runs = 0;
    Run last{0, 0, 0};
    for (int i = 0; i < depth;) {
      const int n = WeightPixels<TA, S, N>::in_row(g, pixel, depth - i);
      const int64 at = pixel.at[3];
      const int64 from = at < low ? low : at, to = at + n < end ? at + n : end;
      if (from < to && is_inside(g, pixel, tap, 0) && is_inside(g, pixel, tap, 1)) {
        const Run run{pixel.in_image(g) + tap_offset + (from - at) * next, i + int(from - at),
                      int(to - from)};
        if (runs > 0 && last.first + last.count == run.first &&
            last.offset + last.count * next == run.offset) {
          last.count += run.count;
        } else {
          ++runs;
          last = run;
        }
        block.runs.store(runs - 1, last);
      }
      pixel.advance(g, n);
      i += n;
    }
    return runs;
  }
  static NNK_FN bool is_inside(const Geometry& g, const Pixel<int64>& pixel,
                               const Tap<int64, false>& tap, int axis) {
    const int64 at = pixel.position(g, axis) + tap.at[axis] * g.tap[axis];
    return 0 <= at && at < g.size[axis];
  }

  static NNK_FN void add_tap(const Block& block, const Tap<int64, false>& tap, int t, int64 u,
                             int depth) {
    const Geometry& g = block.geometry();
    const int taps = g.spatial_taps();
    const int64 end = block.tiles_before(block.end_unit, t);
    int64 tile = block.tiles_before(block.first_unit, t);
    if (tile >= end) return;
    const int runs = find_runs(block, tap, u, depth);
    for (; tile < end; ++tile) {
      const int64 left = g.channels - tile * MicroM;
      const TB* const image = byte_offset(block.panel.image, tile * MicroM * g.channel_stride);
      S* const sums = block.sums_of(tile * taps + t);
      if (u + depth >= block.args.pixel_count) fetch_results(block, tile, t);
      if (left <= half_m) add_products<half_m>(block, image, int(left), u == 0, runs, sums);
      else
        add_products<MicroM>(block, image, left < MicroM ? int(left) : MicroM, u == 0, runs, sums);
    }
  }

  // Brings where the unit's share of results will be written into the caches.
  static NNK_FN void fetch_results(const Block& block, int64 tile, int tap) {
    const Geometry& g = block.geometry();
    const int64 taps = g.spatial_taps(), first = tile * MicroM;
    const bool taps_first = block.args.taps_first;
    const int64 channels = g.channels - first < MicroM ? g.channels - first : MicroM;
    const int64 at = taps_first ? tap * g.channels + first : first * taps;
    const TC* const to =
        byte_offset(block.panel.results.first_weight, at * block.args.of_result[2]);
    const int64 bytes = channels * (taps_first ? 1 : taps) * block.args.of_result[2];
    const int each = taps_first ? 1 : int(taps);
    for (int j = taps_first ? 0 : tap; j < N && j < block.panel.results.outputs; j += each)
      for (int64 byte = 0; byte < bytes; byte += cache_line)
        prefetch(byte_offset(to, j * block.args.of_result[1] + byte));
  }

  static constexpr int pixels_ahead = 12;
  // first: nothing was summed before
  template <int Count>
  static NNK_APART void add_products(const Block& block, const TB* image, int channels, bool first,
                                     int runs, S* sums) {
    const Geometry& g = block.geometry();
    const int64 step = g.step[2] * g.stride[3];
    const TB* row[Count];
    V sum[Count];
    NNK_UNROLL
    for (int r = 0; r < Count; ++r) {
      // Past the last channel, any other will do: what it gives is not written.
      row[r] = byte_offset(image, (r < channels ? r : 0) * g.channel_stride);
      sum[r] = first ? V::splat(S()) : nnk::load<N>(sums + r * N);
    }
    for (int i = 0; i < runs; ++i) {
      const Run run = block.runs.load(i);
      const S* b = block.panel.pixels.packed.data + run.first * N;
      const S* const end = b + run.count * N;
      NNK_NO_UNROLL
      for (int64 at = run.offset; b != end; b += N, at += step) {
        const V y = nnk::load<N>(b);
        // Of adjacent channels, each pixel's are in a line of their own.
        prefetch<1>(byte_offset(row[0], at + pixels_ahead * step));
        NNK_UNROLL
        for (int r = 0; r < Count; ++r)
          sum[r] = add_product(convert<S>(nnk::load<1>(byte_offset(row[r], at)))[0], y, sum[r]);
      }
    }
    NNK_UNROLL
    for (int r = 0; r < Count; ++r) nnk::store(sums + r * N, sum[r]);
  }

  // ---- results ----------------------------------------------------------------------------

  static NNK_FN void write(const Block& block) {
    const Geometry& g = block.geometry();
    const int taps = g.spatial_taps();
    for (int64 unit = block.first_unit; unit < block.end_unit;) {
      const int64 tile = unit / taps, channel = tile * MicroM;
      const int tap = int(unit - tile * taps);
      const int64 left = block.end_unit - unit, there = g.channels - channel;
      const int some = left < taps - tap ? int(left) : taps - tap;
      const int channels = there < MicroM ? int(there) : MicroM;
      const S* const sums = block.sums_of(unit);
      if (block.args.taps_first) {
        for (int t = 0; t < some; ++t)
          block.panel.results.write((tap + t) * g.channels + channel, channels,
                                    sums + t * (MicroM * N), N, channels, 0);
      } else if (some == taps) {
        block.panel.results.write(channel * taps, channels * taps, sums, MicroM * N, taps, N);
      } else {
        for (int c = 0; c < channels; ++c)
          block.panel.results.write((channel + c) * taps + tap, some, sums + c * N, MicroM * N,
                                    some, 0);
      }
      unit += some;
    }
  }
};

}  // namespace nnk
