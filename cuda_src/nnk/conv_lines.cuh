// Convolution from rows of the image that taps share, by a block of one thread, at the speed of its
// SIMD registers.
//
// Taps along a row see the same elements, each shifted by some of them, and so do taps along a
// column, shifted by rows. So a *band* of windows is packed once for all of these: a *line* for
// each channel, which has what a tap sees of window after window, row after row, and what later
// taps see beyond the last one. A tap is another place in it to begin at. With strides, taps whose
// elements have different remainders by them have lines of their own, of every second element, say;
// and so have taps along the first axis.
//
// A micro-tile of MicroM rows of weights and N windows stays in registers for all terms: loads that
// are not aligned take the place of packing.
//
// Rows of windows follow each other with the padding between them, whose columns are computed for
// nothing: to the host, a row has as many windows more (conv_lines.py).
//
// Results are those of ConvForm: chains of multiply-adds in the order of the terms.
#pragma once
#include "nnk/conv_packed_words.cuh"
#include "nnk/conv_windows.cuh"
#include "nnk/matmul_epilogue.cuh"

namespace nnk {

// TA, TB, TC, S: types of weights, image, result and sums
// ReadA: weights are read where they lie, since they have the type of the sums and are adjacent in
// the order of the terms
// ChannelsFast: channels of the image are adjacent
template <class TA, class TB, class TC, class S, int MicroM, int N, bool ReadA, bool ChannelsFast,
          class Epilogue>
struct ConvLines {
  static constexpr int G = Vec<S, N>::lanes;
  static constexpr int half_m = MicroM > 1 ? MicroM / 2 : 1;
  // Packed rows of weights are whole cache lines, and would otherwise share few sets of a level-1
  // cache.
  static constexpr int row_pad = 16;
  using Geometry = WindowGeometry<int64>;
  using Words = PackedWords<S, N>;

  // Strides in bytes.
  struct Args : Epilogue::Operands {
    const TA* weights;
    const TB* image;
    TC* result;
    int64 rows;     // of weights, in a group
    int64 slices;   // of a group: images, and in each the windows along the first axis
    int64 columns;  // of a slice: windows up to the last one, with those between rows
    int64 written;  // of a row of them, those that are written
    int64 bands;    // of a slice
    int64 panels_of_band;
    int64 weight_group, weight_row, weight_channel, weight_tap[3];
    int64 image_group, result_group, result_row;
    int32 lines[3];  // of a channel: along each axis, the first taps, which share none
    int32 shift[3];  // windows from a tap to the next one of the same line
    int32 reach;     // the same from the first tap to the last one, along all axes
    int32 width;     // of a line: more than a band and its reach, by a register that is stored
    alignas(16) Geometry windows;
    JoinedRows<int64> joined;
    typename Epilogue::template Args<int64> epilogue;
  };

  template <class Group> static NNK_FN void run(Group& group, const Args& args) {
    const Geometry& g = args.windows;
    const int64 every_slice = group.block() / args.bands;
    const int64 band = group.block() - every_slice * args.bands;
    const int64 of_group = every_slice / args.slices, slice = every_slice - of_group * args.slices;
    const int terms = int(g.channels) * g.spatial_taps();
    const int lines = int(g.channels) * args.lines[0] * args.lines[1] * args.lines[2];
    const int row_words = (terms + row_pad - 1) / row_pad * row_pad + row_pad;
    const int words_a = ReadA ? 0 : int(args.rows) * row_words, words_b = lines * args.width;
    const int words = words_a + words_b + MicroM * N, bytes = int(sizeof(S));
    const int64 none = 0;
    const Block block{
        args,
        g,
        of_group,
        slice,
        terms,
        row_words,
        group.template dynamic_shared<S>(0, words_a),
        group.template dynamic_shared<S>(words_a * bytes, words_b),
        group.template dynamic_shared<S>((words_a + words_b) * bytes, MicroM * N),
        group.template dynamic_shared<Run>(words * bytes, N),
        group.template dynamic_shared<int32>(words * bytes + N * int(sizeof(Run)), terms),
        {args, args.epilogue, &none, args.rows, args.columns}};
    // Both stay for the next block.
    if (group.kept() == 0) find_places(block);
    if (!ReadA && group.kept() != of_group + 1) pack_weights(block);
    group.kept() = of_group + 1;
    const int64 first = band * args.panels_of_band * N, left = args.columns - first;
    const int64 most = args.panels_of_band * N, columns = left < most ? left : most;
    pack_band(block, first, int(columns));
    for (int64 i = 0; i < columns; i += N)
      make_panel<N / G>(block, first + i, block.band.data + i,
                        columns - i < N ? int(columns - i) : N);
  }

 private:
  // Results of a panel that follow each other: those of some lanes of the register that begins with
  // the window numbered `first`, from where lane 0 would be on.
  struct Run {
    int64 offset;
    int32 first;
    uint32 lanes;
  };
  struct Block {
    const Args& args;
    const Geometry& g;
    int64 group, slice;
    int terms, row_words;
    Shared<S> weights, band, micro;
    Shared<Run> runs;
    Shared<int32> places;  // of terms in the band
    typename Epilogue::template Of<int64> epilogue;

    NNK_FN int lines_of_channel() const { return args.lines[0] * args.lines[1] * args.lines[2]; }
  };

  static NNK_FN void find_places(const Block& block) {
    const Args& args = block.args;
    auto tap = Tap<int64, false>::of(block.g, 0);
    for (int k = 0; k < block.terms; ++k) {
      int line = int(tap.channel), shifted = 0;
      NNK_UNROLL
      for (int axis = 0; axis < 3; ++axis) {
        const int before = tap.at[axis] / args.lines[axis];
        line = line * args.lines[axis] + tap.at[axis] - before * args.lines[axis];
        shifted += before * args.shift[axis];
      }
      block.places.store(k, line * args.width + shifted);
      tap.advance(block.g);
    }
  }
  static NNK_FN void pack_weights(const Block& block) {
    const Args& args = block.args;
    const Geometry& g = block.g;
    const TA* const from = byte_offset(args.weights, block.group * args.weight_group);
    for (int64 row = 0; row < args.rows; ++row) {
      const TA* const of_row = byte_offset(from, row * args.weight_row);
      const int to = int(row) * block.row_words;
      auto tap = Tap<int64, false>::of(g, 0);
      for (int k = 0; k < block.terms; ++k) {
        int64 offset = tap.channel * args.weight_channel;
        NNK_UNROLL
        for (int axis = 0; axis < 3; ++axis) offset += tap.at[axis] * args.weight_tap[axis];
        block.weights.store(to + k, convert_scalar<S>(*byte_offset(of_row, offset)));
        tap.advance(g);
      }
    }
  }

  // ---- the band -------------------------------------------------------------------------------

  // Part of a row of a line.
  struct Piece {
    int at, count;  // where it is packed, from the line's first place on, and how much
    int low, end;   // of it, what is in the image
    int64 offset;   // bytes to its first element
  };

  static NNK_FN void pack_band(const Block& block, int64 first, int columns) {
    const Args& args = block.args;
    const Geometry& g = block.g;
    const TB* const from = byte_offset(args.image, block.group * args.image_group);
    const int64 step = g.step[2] * g.stride[3];
    if constexpr (ChannelsFast) {
      each_piece_of_lines(block, first, columns, [&](int line, const Piece& piece) {
        for (int i = 0; i < piece.count; i += G)
          pack_squares(block, byte_offset(from, piece.offset + i * step), step, lanes_of(piece, i),
                       line * args.width + piece.at + i);
      });
    } else {
      const int all = block.lines_of_channel() * args.width;
      for (int64 c = 0; c < g.channels; ++c) {
        const TB* const channel = byte_offset(from, c * g.channel_stride);
        S* const to = block.band.data + c * all;
        if (step == int64(sizeof(TB)))
          each_piece_of_lines(block, first, columns, [&](int line, const Piece& piece) NNK_INLINE {
            pack_row(byte_offset(channel, piece.offset), int64(sizeof(TB)), piece,
                     to + line * args.width);
          });
        else
          each_piece_of_lines(block, first, columns, [&](int line, const Piece& piece) NNK_INLINE {
            pack_row(byte_offset(channel, piece.offset), step, piece, to + line * args.width);
          });
      }
    }
  }
  // Calls each(line, piece) for the lines of a channel.
  template <class F>
  static NNK_FN void each_piece_of_lines(const Block& block, int64 first, int columns, F each) {
    const Args& args = block.args;
    const Geometry& g = block.g;
    const int64 pitch = g.pixels[3], row = first / pitch, column = first - row * pitch;
    const int64 image = block.slice / g.pixels[1], depth = block.slice - image * g.pixels[1];
    const int64 step = g.step[2];
    // What the rest of the last register sees is not written, but multiplied.
    const int needed = (columns + G - 1) / G * G + args.reach;
    int line = 0;
    for (int z = 0; z < args.lines[0]; ++z)
      for (int y = 0; y < args.lines[1]; ++y)
        for (int x = 0; x < args.lines[2]; ++x, ++line) {
          const int64 at_z = g.start[0] + depth * g.step[0] + z * g.tap[0];
          const int64 start = g.start[2] + x * g.tap[2];
          // Columns of a row that see an element.
          const int64 low = start < 0 ? ceil_div(-start, step) : 0;
          const int64 end = start < g.size[2] ? ceil_div(g.size[2] - start, step) : 0;
          int64 at_y = g.start[1] + row * g.step[1] + y * g.tap[1], from = column;
          int64 offset =
              image * g.stride[0] + at_z * g.stride[1] + at_y * g.stride[2] + start * g.stride[3];
          for (int i = 0; i < needed; from = 0) {
            const int count = most(pitch - from, needed - i);
            const bool inside = 0 <= at_z && at_z < g.size[0] && 0 <= at_y && at_y < g.size[1];
            each(line,
                 Piece{i, count, most(low - from, count), inside ? most(end - from, count) : 0,
                       offset + from * step * g.stride[3]});
            i += count;
            at_y += g.step[1];
            offset += g.step[1] * g.stride[2];
          }
        }
  }
  static NNK_FN int most(int64 i, int limit) { return i < 0 ? 0 : i < limit ? int(i) : limit; }
  // Of a register of a piece, what is in the image.
  static NNK_FN uint32 lanes_of(const Piece& piece, int i) {
    const uint32 before_end = (1u << most(piece.end - i, G)) - 1;
    return before_end & ~((1u << most(piece.low - i, G)) - 1);
  }
  static NNK_FN void pack_row(const TB* from, int64 step, const Piece& piece, S* line) {
    const auto zeros = Vec<TB, G>::splat(TB());
    NNK_NO_UNROLL
    for (int i = 0; i < piece.count; i += G) {
      const TB* const here = byte_offset(from, i * step);
      prefetch<1>(byte_offset(here, int64(1024)));
      const auto x = load_lanes<G>(here, step, lanes_of(piece, i), zeros);
      nnk::store(line + piece.at + i, Words::template converted<false>(x));
    }
  }
  // All adjacent channels of G pixels, each to its line.
  static NNK_FN void pack_squares(const Block& block, const TB* from, int64 step, uint32 seen,
                                  int to) {
    const Geometry& g = block.g;
    const int of_channel = block.lines_of_channel() * block.args.width;
    for (int c = 0; c < int(g.channels); c += G) {
      const int count = int(g.channels) - c < G ? int(g.channels) - c : G;
      const bool all = count == G && seen == ~0u >> (32 - G);
      Vec<S, G> x[G];
      NNK_UNROLL
      for (int i = 0; i < G; ++i) {
        const TB* const p = byte_offset(from, i * step + c * g.channel_stride);
        x[i] = Words::template converted<false>(
            all ? nnk::load<G>(p) : nnk::load_partial<G>(p, seen >> i & 1 ? count : 0, TB()));
      }
      transpose(x);
      NNK_UNROLL
      for (int i = 0; i < G; ++i)
        if (all || i < count) block.band.store_vec((c + i) * of_channel + to, x[i]);
    }
  }

  // ---- multiplying ----------------------------------------------------------------------------

  struct Rows { const S* row[MicroM]; };
  static NNK_FN Rows rows_from(const Block& block, int64 row) {
    Rows rows;
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r) {
      // Past the last row, any other will do: what it gives is not written.
      const int64 there = row + r < block.args.rows ? row + r : block.args.rows - 1;
      if constexpr (ReadA)
        rows.row[r] = reinterpret_cast<const S*>(
            byte_offset(block.args.weights,
                        block.group * block.args.weight_group + there * block.args.weight_row));
      else rows.row[r] = block.weights.data + there * block.row_words;
    }
    return rows;
  }
  // A panel of so many registers, or fewer, of a slice; seen: what its first tap sees.
  template <int Registers>
  static NNK_FN void make_panel(const Block& block, int64 first, const S* seen, int columns) {
    if constexpr (Registers > 1)
      if (columns <= (Registers - 1) * G)
        return make_panel<Registers - 1>(block, first, seen, columns);
    const int runs = find_runs(block, first, columns);
    for (int64 row = 0; row < block.args.rows; row += MicroM)
      make_rows<Registers>(block, row, seen, runs);
  }
  // Between rows nothing is written.
  static NNK_FN int find_runs(const Block& block, int64 first, int columns) {
    const Geometry& g = block.g;
    int runs = 0;
    each_piece<G>(g, block.slice * g.pixels[2] * g.pixels[3] + first, columns,
                  [&](const Pixel<int64>& pixel, int i, int n) NNK_INLINE {
                    const int64 there = block.args.written - pixel.at[3];
                    if (there <= 0) return;
                    const int lane = i % G;
                    block.runs.store(runs++,
                                     Run{pixel.in_other(g) - lane * g.other[3], i - lane,
                                         lane_bits(lane, lane + (there < n ? int(there) : n))});
                  });
    return runs;
  }
  template <int Registers>
  static NNK_FN void make_rows(const Block& block, int64 row, const S* seen, int runs) {
    const int64 left = block.args.rows - row;
    const int count = left < MicroM ? int(left) : MicroM;
    const Rows rows = rows_from(block, row), next = rows_from(block, row + MicroM);
    TC* results[MicroM];
    int64 channel[MicroM];
    for (int r = 0; r < count; ++r) {
      channel[r] = row + r;
      results[r] = results_of(block, channel[r]);
      channel[r] += block.group * block.args.joined.rows;
      for (int i = 0; i < runs; ++i) prefetch(byte_offset(results[r], block.runs.load(i).offset));
    }
    if (left <= half_m) multiply<half_m, Registers * G>(block, rows, next, seen);
    else multiply<MicroM, Registers * G>(block, rows, next, seen);
    for (int i = 0; i < runs; ++i) {
      const Run run = block.runs.load(i);
      for (int r = 0; r < count; ++r) {
        const auto sums = block.micro.template load_vec<G>(r * N + run.first);
        store_lanes(byte_offset(results[r], run.offset), block.g.other[3],
                    convert<TC>(block.epilogue(sums, channel[r], int64(0), G)), run.lanes);
      }
    }
  }
  // A function of its own, and a pointer that moves on: see matmul_packed.cuh.
  template <int Count, int Columns>
  static NNK_APART void multiply(const Block& block, const Rows& rows, const Rows& next,
                                 const S* seen) {
    using V = Vec<S, Columns>;
    V sum[Count];
    NNK_UNROLL
    for (int r = 0; r < Count; ++r) sum[r] = V::splat(S());
    const Rows a = rows;
    const int32* place = block.places.data;
    int ahead = 0;
    NNK_NO_UNROLL
    for (int k = 0; k < block.terms; ++k, ++place) {
      // Of one of the next rows of weights at each term.
      prefetch(next.row[ahead] + k);
      ahead = ahead + 1 < Count ? ahead + 1 : 0;
      const auto x = nnk::load<Columns>(seen + *place);
      NNK_UNROLL
      for (int r = 0; r < Count; ++r) {
        const auto w = V::splat(nnk::load<1>(a.row[r] + k)[0]);
        if constexpr (is_floating<S>) sum[r] = fma_always(w, x, sum[r]);
        else sum[r] = fma(w, x, sum[r]);
      }
    }
    NNK_UNROLL
    for (int r = 0; r < Count; ++r) block.micro.store_vec(r * N, sum[r]);
  }
  // Where the results of a row of the product are, which becomes a row of its phase.
  static NNK_FN TC* results_of(const Block& block, int64& row) {
    const Args& args = block.args;
    TC* const to = byte_offset(args.result, block.group * args.result_group);
    return byte_offset(
        to, args.joined.is_one_phase() ? row * args.result_row : args.joined.offset(row));
  }
};

}  // namespace nnk
