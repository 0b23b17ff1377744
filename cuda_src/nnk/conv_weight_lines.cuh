// The gradient of a convolution of few outputs or few channels by its weights, by a block of one
// thread.
//
// Taps along a row see the same elements, each of other windows. So an element of the image, loaded
// into all lanes, is multiplied by the gradients of all these windows at once: a micro-tile is
// MicroM *lines*, rows of taps of channels, by Taps taps of N outputs, and each element is loaded
// once for as many multiply-adds. (With strides, a line is of taps whose elements have one
// remainder by them; a longer one is in chunks.)
//
// The image is read where it lies, and a row that is not there is one of zeros. Of the gradients of
// pixels N outputs are packed as they are in conv_weight.cuh, which has tiles of channels alone,
// but in pieces of rows, with zeros between them for the taps that see what no window of the piece
// does.
//
// A block sums a range of all rows of pixels; further launches add up these sums. Otherwise neither
// blocks nor slabs change a result: each is a chain of multiply-adds in the order of the pixels.
#pragma once
#include "nnk/conv_weight_parts.cuh"
#include "nnk/conv_windows.cuh"

namespace nnk {

// TA, TB, TC: types of pixels, image and result; S: of the sums
// MicroM, Taps, N: lines, taps and outputs whose sums stay in registers
template <class TA, class TB, class TC, class S, int MicroM, int Taps, int N>
struct ConvWeightLines {
  using V = Vec<S, N>;
  using Geometry = WindowGeometry<int64>;
  // Of a row of zeros, whatever one is read after the last.
  static constexpr int zeros_after = 16;

  struct Args : WeightArrays<TA, TB, TC> {
    int64 splits;         // ranges of pixels
    int64 of_split;       // bytes from the sums of one to those of the next
    int64 pieces;         // of all rows of pixels
    int64 pieces_of_row;  // a row of pixels is divided into
    int32 length;         // pixels of a piece
    int32 pieces_of_slab;
    int32 remainders;  // first taps along a row, which see no elements of each other
    int32 shift;       // windows from a tap to the next one that does
    int32 chunks;      // of Taps taps of one remainder
    int32 zeros;       // bytes of a row of the image, and more
    int32 flipped;     // whether taps along a row are in order from the last one
    Geometry windows;
  };

  struct Block {
    const Args& args;
    const WeightPanel<TA, TB, TC, S, N>& panel;
    Shared<S> sums;  // in the order of the result, of N outputs each
    const TB* none;  // a row of zeros

    NNK_FN const Geometry& geometry() const { return args.windows; }
    // Pixels of zeros before and after each piece.
    NNK_FN int margin() const { return (args.chunks * Taps - 1) * args.shift; }
    NNK_FN int pitch() const { return args.length + margin(); }
    NNK_FN int64 first_pixel(int64 piece) const {
      const int64 row = piece / args.pieces_of_row;
      return row * geometry().pixels[3] + (piece - row * args.pieces_of_row) * args.length;
    }
    NNK_FN void clear(int first, int count) const {
      for (int i = first; i < first + count; ++i)
        panel.pixels.packed.store_vec(i * N, V::splat(S()));
    }
    // What is left of a row of pixels from a piece on, up to the length of a piece.
    NNK_FN int count(int64 piece) const {
      const int64 left = geometry().pixels[3] - piece % args.pieces_of_row * int64(args.length);
      return left < args.length ? int(left) : args.length;
    }
  };
  // Lines of one remainder, and taps of them from one on.
  struct Tile { int first, remainder, tap; };

  template <class Group> static NNK_FN void run(Group& group, const Args& args) {
    const Geometry& g = args.windows;
    const int margin = (args.chunks * Taps - 1) * args.shift;
    const int packed = (args.pieces_of_slab * (args.length + margin) + margin + V::lanes) * N;
    const int terms = int(g.channels) * g.spatial_taps(), sums = terms * N;
    auto panel = WeightPanel<TA, TB, TC, S, N>::of(group, args, args.splits, packed);
    const int64 split = panel.part;
    panel.results.first_weight = byte_offset(panel.results.first_weight, split * args.of_split);
    const auto none =
        group.template dynamic_shared<char>((packed + sums) * int(sizeof(S)), args.zeros);
    const bool backwards = g.step[2] * g.stride[3] < 0;
    const Block block{
        args, panel, group.template dynamic_shared<S>(packed * int(sizeof(S)), sums),
        reinterpret_cast<const TB*>(none.data + (backwards ? args.zeros - zeros_after : 0))};
    for (int i = 0; i < args.zeros; ++i) none.store(i, 0);
    for (int i = 0; i <= args.pieces_of_slab; ++i) block.clear(i * block.pitch(), margin);
    for (int i = 0; i < sums; i += N) block.sums.store_vec(i, V::splat(S()));
    const int64 end = args.pieces * (split + 1) / args.splits;
    for (int64 piece = args.pieces * split / args.splits; piece < end;
         piece += args.pieces_of_slab) {
      const int64 there = end - piece;
      add_slab(block, piece, there < args.pieces_of_slab ? int(there) : args.pieces_of_slab);
    }
    block.panel.results.write(0, terms, block.sums.data, N, terms, 0);
  }

 private:
  static NNK_FN void add_slab(const Block& block, int64 piece, int pieces) {
    const Args& args = block.args;
    const Geometry& g = block.geometry();
    for (int i = 0; i < pieces; ++i) {
      // The last piece of a row may be shorter; zeros follow.
      const int count = block.count(piece + i), at = block.margin() + i * block.pitch();
      block.panel.pixels.pack(g, block.first_pixel(piece + i), count, at);
      block.clear(at + count, args.length - count);
    }
    const int lines = int(g.channels * g.kernel[0] * g.kernel[1]);
    for (int line = 0; line < lines; line += MicroM)
      for (int remainder = 0; remainder < args.remainders; ++remainder)
        for (int chunk = 0; chunk < args.chunks; ++chunk)
          add_products(block, {line, remainder, chunk * Taps}, lines, piece, pieces);
  }

  // Where a line and a tap of it are summed, or null for one that there is not.
  static NNK_FN S* sums_of(const Block& block, const Tile& tile, int r, int i, int lines) {
    const Geometry& g = block.geometry();
    const int line = tile.first + r, taps = int(g.kernel[2]);
    int tap = tile.remainder + (tile.tap + i) * block.args.remainders;
    if (line >= lines || tap >= taps) return nullptr;
    if (block.args.flipped) tap = taps - 1 - tap;
    if (!block.args.taps_first) return block.sums.data + (line * taps + tap) * N;
    const int others = int(g.kernel[0] * g.kernel[1]), channel = line / others;
    return block.sums.data +
           (((line - channel * others) * taps + tap) * int(g.channels) + channel) * N;
  }
  static NNK_APART void add_products(const Block& block, const Tile& tile, int lines, int64 piece,
                                     int pieces) {
    const Args& args = block.args;
    const Geometry& g = block.geometry();
    V sum[MicroM][Taps];
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r) {
      NNK_UNROLL
      for (int i = 0; i < Taps; ++i) {
        const S* const from = sums_of(block, tile, r, i, lines);
        sum[r][i] = from ? nnk::load<N>(from) : V::splat(S());
      }
    }
    // Where each line begins, from what tap 0 of channel 0 sees, and its first tap.
    int64 offset[MicroM], z[MicroM], y[MicroM];
    for (int r = 0; r < MicroM; ++r) {
      const int line = tile.first + r < lines ? tile.first + r : lines - 1;
      const int row = line / int(g.kernel[1]), channel = row / int(g.kernel[0]);
      z[r] = (row - channel * int(g.kernel[0])) * g.tap[0];
      y[r] = (line - row * int(g.kernel[1])) * g.tap[1];
      offset[r] = channel * g.channel_stride + z[r] * g.stride[1] + y[r] * g.stride[2];
    }
    const int64 start = g.start[2] + tile.remainder * g.tap[2], step = g.step[2] * g.stride[3];
    // Windows whose first tap sees an element.
    const int64 low = start < 0 ? ceil_div(-start, g.step[2]) : 0;
    const int64 high = start < g.size[2] ? ceil_div(g.size[2] - start, g.step[2]) : 0;
    const int shift = args.shift * N;
    auto pixel = Pixel<int64>::of(g, block.first_pixel(piece));
    for (int p = 0; p < pieces; ++p) {
      // Those that, or whose pixels some taps before, are of the piece.
      const int count = block.count(piece + p);
      const int64 first = pixel.at[3] + int64(tile.tap) * args.shift;
      const int64 from = first < low ? low : first;
      const int64 all = first + count + (Taps - 1) * args.shift, end = all < high ? all : high;
      const int64 at_z = pixel.position(g, 0), at_y = pixel.position(g, 1);
      const TB* const image = byte_offset(
          block.panel.image, pixel.at[0] * g.stride[0] + at_z * g.stride[1] + at_y * g.stride[2] +
                                 start * g.stride[3] + from * step);
      const TB* row[MicroM];
      NNK_UNROLL
      for (int r = 0; r < MicroM; ++r) {
        const bool there = 0 <= at_z + z[r] && at_z + z[r] < g.size[0] && 0 <= at_y + y[r] &&
                           at_y + y[r] < g.size[1];
        row[r] = there ? byte_offset(image, offset[r]) : block.none;
      }
      const S* b = block.panel.pixels.packed.data +
                   (block.margin() + p * block.pitch() + int(from - pixel.at[3])) * N -
                   tile.tap * shift;
      const S* const stop = b + (end - from) * N;
      NNK_NO_UNROLL
      for (int64 at = 0; b < stop; b += N, at += step) {
        V x[Taps];
        NNK_UNROLL
        for (int i = 0; i < Taps; ++i) x[i] = nnk::load<N>(b - i * shift);
        NNK_UNROLL
        for (int r = 0; r < MicroM; ++r) {
          const S element = convert<S>(nnk::load<1>(byte_offset(row[r], at)))[0];
          NNK_UNROLL
          for (int i = 0; i < Taps; ++i) sum[r][i] = add_product(element, x[i], sum[r][i]);
        }
      }
      pixel.advance(g, count);
    }
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r) {
      NNK_UNROLL
      for (int i = 0; i < Taps; ++i)
        if (S* const to = sums_of(block, tile, r, i, lines)) nnk::store(to, sum[r][i]);
    }
  }
};

}  // namespace nnk
