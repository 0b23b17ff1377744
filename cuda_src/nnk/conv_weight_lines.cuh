// The gradient of a convolution of few channels by its weights, by a block of one thread.
//
// Rows of the product are channels and taps: each is the image, shifted, and its sums are over all
// pixels. For a slab of pixels, *lines* of the image are packed, with the padding around it: what
// all taps along a row of one channel see, for a piece of a row of pixels. So a row of the product
// is a place in such a line, whatever its tap sees, and a micro-tile has MicroM of any of them. Of
// the gradients of pixels N outputs are packed as they are in conv_weight.cuh, which has tiles of
// channels alone.
//
// Neither blocks nor slabs change a result: each is a chain of multiply-adds in the order of the
// pixels, with zeros for the padding.
#pragma once
#include "nnk/conv_weight_parts.cuh"
#include "nnk/conv_windows.cuh"

namespace nnk {

// TA, TB, TC: types of pixels, image and result; S: of the sums
// MicroM, N: rows and outputs whose sums stay in registers
template <class TA, class TB, class TC, class S, int MicroM, int N> struct ConvWeightLines {
  using V = Vec<S, N>;
  using Geometry = WindowGeometry<int64>;
  static constexpr int G = V::lanes;
  // Half a micro-tile, for the last rows.
  static constexpr int half_m = MicroM > 1 ? MicroM / 2 : 1;

  // Strides in bytes.
  struct Args {
    const TA* pixels;
    const TB* image;
    TC* result;
    int64 outputs;       // of a group
    int64 of_pixels[2];  // from group to group and output to output
    int64 image_group;
    int64 of_result[3];   // from group to group, output to output, and row to row
    int64 panels;         // of N outputs
    int64 rows, tiles;    // channels and taps, and tiles of MicroM
    int64 parts;          // into which the tiles of a panel are divided
    int64 pieces;         // of all rows of pixels
    int64 pieces_of_row;  // a row of pixels is divided into
    int64 taps_first;     // whether the result is in order of taps and then channels
    int32 length;         // pixels of a piece
    int32 width;          // numbers of a line
    int32 pieces_of_slab;
    int32 tiles_of_part;  // at most
    Geometry windows;
  };

  struct Block {
    const Args& args;
    const TB* image;  // of the group
    WeightPixels<TA, S, N> pixels;
    WeightResults<TC, S, N> results;
    int64 first_tile, end_tile;
    Shared<S> lines, sums;  // [piece][channel][tap along other axes][], [tile][row][output]

    NNK_FN const Geometry& geometry() const { return args.windows; }
    NNK_FN int lines_of_piece() const {
      const Geometry& g = geometry();
      return int(g.channels * g.kernel[0] * g.kernel[1]);
    }
    NNK_FN int64 first_pixel(int64 piece) const {
      const int64 row = piece / args.pieces_of_row;
      return row * geometry().pixels[3] + (piece - row * args.pieces_of_row) * args.length;
    }
    // What is left of a row of pixels from a piece on, up to the length of a piece.
    NNK_FN int count(int64 piece) const {
      const int64 left = geometry().pixels[3] - piece % args.pieces_of_row * int64(args.length);
      return left < args.length ? int(left) : args.length;
    }
    NNK_FN S* sums_of(int64 tile) const { return sums.data + (tile - first_tile) * (MicroM * N); }
  };

  template <class Group> static NNK_FN void run(Group& group, const Args& args) {
    const Geometry& g = args.windows;
    const int64 panel = group.block() / args.parts, part = group.block() - panel * args.parts;
    const int64 of_group = panel / args.panels, output = (panel - of_group * args.panels) * N;
    const int64 left = args.outputs - output;
    const int packed = args.pieces_of_slab * args.length * N;
    const int lines =
        args.pieces_of_slab * int(g.channels * g.kernel[0] * g.kernel[1]) * args.width;
    const int sums = args.tiles_of_part * (MicroM * N);
    TC* const result =
        byte_offset(args.result, of_group * args.of_result[0] + output * args.of_result[1]);
    const Block block{
        args,
        byte_offset(args.image, of_group * args.image_group),
        {byte_offset(args.pixels, of_group * args.of_pixels[0] + output * args.of_pixels[1]),
         args.of_pixels[1], left, group.template dynamic_shared<S>(0, packed)},
        {result, args.of_result[1], args.of_result[2], left},
        args.tiles * part / args.parts,
        args.tiles * (part + 1) / args.parts,
        group.template dynamic_shared<S>(packed * int(sizeof(S)), lines),
        group.template dynamic_shared<S>((packed + lines) * int(sizeof(S)), sums)};
    if (args.pieces == 0)
      for (int i = 0; i < sums; i += N) block.sums.store_vec(i, V::splat(S()));
    const int64 needed = 1 + panel;
    // A slab that is all there is stays packed for the next part.
    const bool packs = args.pieces > args.pieces_of_slab || group.kept() != needed;
    group.kept() = needed;
    for (int64 piece = 0; piece < args.pieces; piece += args.pieces_of_slab) {
      const int64 there = args.pieces - piece;
      const int pieces = there < args.pieces_of_slab ? int(there) : args.pieces_of_slab;
      if (packs) pack(block, piece, pieces);
      for (int64 tile = block.first_tile; tile < block.end_tile; ++tile) {
        if (args.rows - tile * MicroM <= half_m) add_products<half_m>(block, tile, piece, pieces);
        else add_products<MicroM>(block, tile, piece, pieces);
      }
    }
    const int64 first = block.first_tile * MicroM, end = block.end_tile * MicroM;
    const int rows = int((end < args.rows ? end : args.rows) - first);
    block.results.write(first, rows, block.sums.data, N, rows, 0);
  }

 private:
  // ---- packing ----------------------------------------------------------------------------

  // From what tap 0 sees along a row to the first element of a line, in elements of the image.
  static NNK_FN int64 before(const Geometry& g) {
    return g.tap[2] < 0 ? (1 - g.kernel[2]) * g.tap[2] : 0;
  }

  static NNK_FN void pack(const Block& block, int64 piece, int pieces) {
    const int64 first = block.first_pixel(piece), last = piece + pieces - 1;
    block.pixels.pack(block.geometry(), first,
                      int(block.first_pixel(last) - first) + block.count(last));
    for (int i = 0; i < pieces; ++i) pack_lines(block, piece + i, i);
  }
  static NNK_FN void pack_lines(const Block& block, int64 piece, int of_slab) {
    const Args& args = block.args;
    const Geometry& g = args.windows;
    const auto pixel = Pixel<int64>::of(g, block.first_pixel(piece));
    const int64 start = pixel.position(g, 2) - before(g);
    const int of_piece = block.lines_of_piece() * args.width;
    int to = of_slab * of_piece;
    // The row of pixels before has seen most of it already, by taps so many places on.
    const bool follows = of_slab >= args.pieces_of_row && pixel.at[2] > 0;
    const int64 shift = g.step[1] % g.tap[1] == 0 ? g.step[1] / g.tap[1] : g.kernel[1];
    const int seen = int(shift) * args.width - int(args.pieces_of_row) * of_piece;
    for (int64 channel = 0; channel < g.channels; ++channel)
      for (int64 z = 0; z < g.kernel[0]; ++z)
        for (int64 y = 0; y < g.kernel[1]; ++y, to += args.width) {
          if (follows && 0 <= y + shift && y + shift < g.kernel[1]) {
            for (int i = 0; i < args.width; i += G)
              block.lines.store_vec(to + i, block.lines.template load_vec<G>(to + seen + i));
            continue;
          }
          const int64 at[2] = {pixel.position(g, 0) + z * g.tap[0],
                               pixel.position(g, 1) + y * g.tap[1]};
          const bool inside = 0 <= at[0] && at[0] < g.size[0] && 0 <= at[1] && at[1] < g.size[1];
          const TB* const from = byte_offset(
              block.image, pixel.at[0] * g.stride[0] + at[0] * g.stride[1] + at[1] * g.stride[2] +
                               start * g.stride[3] + channel * g.channel_stride);
          pack_line(block, from, inside ? start : g.size[2], to);
        }
  }
  // A line that begins at an element of a row of the image, which may be before or after it.
  static NNK_FN void pack_line(const Block& block, const TB* from, int64 start, int to) {
    const Geometry& g = block.geometry();
    const auto zeros = Vec<TB, G>::splat(TB());
    for (int i = 0; i < block.args.width; i += G) {
      const int64 low = -start - i, end = g.size[2] - start - i;
      const uint32 wanted = lane_bits(low < 0   ? 0
                                      : low < G ? int(low)
                                                : G,
                                      end < 0   ? 0
                                      : end < G ? int(end)
                                                : G);
      block.lines.store_vec(to + i, convert<S>(load_lanes<G>(byte_offset(from, i * g.stride[3]),
                                                             g.stride[3], wanted, zeros)));
    }
  }

  // ---- sums -------------------------------------------------------------------------------

  // Where a row begins in the lines of a piece.
  template <bool TapsFirst> static NNK_FN int64 place(const Args& args, int64 row) {
    const Geometry& g = args.windows;
    const auto tap = Tap<int64, TapsFirst>::of(g, row);
    const int64 line = (tap.channel * g.kernel[0] + tap.at[0]) * g.kernel[1] + tap.at[1];
    return line * args.width + tap.at[2] * g.tap[2] + before(g);
  }

  template <int Count>
  static NNK_APART void add_products(const Block& block, int64 tile, int64 piece, int pieces) {
    const Args& args = block.args;
    const S* row[Count];
    V sum[Count];
    S* const sums = block.sums_of(tile);
    NNK_UNROLL
    for (int r = 0; r < Count; ++r) {
      // Past the last row, any other will do: what it gives is not written.
      const int64 k = tile * MicroM + r < args.rows ? tile * MicroM + r : args.rows - 1;
      row[r] = block.lines.data + (args.taps_first ? place<true>(args, k) : place<false>(args, k));
      sum[r] = piece == 0 ? V::splat(S()) : nnk::load<N>(sums + r * N);
    }
    const int64 step = args.windows.step[2], of_piece = block.lines_of_piece() * args.width;
    const S* b = block.pixels.packed.data;
    for (int i = 0; i < pieces; ++i) {
      const S* const end = b + block.count(piece + i) * N;
      NNK_NO_UNROLL
      for (int64 at = i * of_piece; b != end; b += N, at += step) {
        const V y = nnk::load<N>(b);
        NNK_UNROLL
        for (int r = 0; r < Count; ++r)
          sum[r] = add_product(nnk::load<1>(row[r] + at)[0], y, sum[r]);
      }
    }
    NNK_UNROLL
    for (int r = 0; r < Count; ++r) nnk::store(sums + r * N, sum[r]);
  }
};

}  // namespace nnk
