// Convolution of windows whose neighbours along a row are one element apart, by a block of one
// thread, at the speed of its SIMD registers.
//
// Taps along a row see the same elements, each shifted by some of them. So a row of pixels is
// packed once for all of these: a *line* for each channel and tap along the other axes, of a panel
// of N pixels and what the last taps see beyond them. A micro-tile of MicroM rows of weights and N
// pixels stays in registers for all terms, of which each begins at another element of a line: a
// load that is not aligned takes the place of packing.
//
// Rows of pixels follow each other in a panel with the padding between them, whose columns are
// computed for nothing: to the host, a row has as many windows more (conv_lines.py). What a line
// has is gathered by the packing of panels of pixels, with one tap along a row.
//
// Results are those of ConvForm: chains of multiply-adds in the order of the terms.
#pragma once
#include "nnk/conv_pixel_panels.cuh"
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
  // Of a line. Windows reach no further than a register beyond their first element.
  static constexpr int width = N + G;
  static constexpr int half_m = MicroM > 1 ? MicroM / 2 : 1;
  // Packed rows of weights are whole cache lines, and would otherwise share few sets of a level-1
  // cache.
  static constexpr int row_pad = 16;
  using Panels = PixelPanels<S, int64, width, false>;
  using Runs = PixelRuns<int64, G>;

  // Strides in bytes.
  struct Args : Epilogue::Operands {
    const TA* weights;
    const TB* image;
    TC* result;
    int64 columns;  // pixels of all images, with those between rows
    int64 written;  // of a row of them, those that are written
    int64 rows;     // of weights, in a group
    int64 panels;   // of columns
    int64 blocks;   // of a group, of so many panels each
    int64 panels_of_block;
    int64 weight_group, weight_row, weight_channel, weight_tap[3];
    int64 image_group, result_group, result_row;
    int32 taps, spacing;                        // along a row, and elements from one to the next
    alignas(16) WindowGeometry<int64> windows;  // of lines
    JoinedRows<int64> joined;
    typename Epilogue::template Args<int64> epilogue;
  };

  template <class Group> static NNK_FN void run(Group& group, const Args& args) {
    const int64 of_group = group.block() / args.blocks;
    const int64 first = (group.block() - of_group * args.blocks) * args.panels_of_block;
    const int64 end = first + args.panels_of_block;
    const int lines = int(args.windows.channels) * args.windows.spatial_taps();
    const int row_words = (lines * args.taps + row_pad - 1) / row_pad * row_pad + row_pad;
    const int words_a = ReadA ? 0 : int(args.rows) * row_words, words_b = lines * width;
    const int words = words_a + words_b + MicroM * N, bytes = int(sizeof(S));
    const int64 none = 0;
    const Block block{args,
                      args.windows,
                      of_group,
                      lines,
                      row_words,
                      group.template dynamic_shared<S>(0, words_a),
                      group.template dynamic_shared<S>(words_a * bytes, words_b),
                      group.template dynamic_shared<S>((words_a + words_b) * bytes, MicroM * N),
                      Runs(group, words * bytes, N, args.windows.other[3]),
                      Panels(group, args.windows, words * bytes + Runs::bytes(N), width),
                      {args, args.epilogue, &none, args.rows, args.columns}};
    // Weights stay for the next block.
    if (!ReadA && group.kept() != of_group + 1) pack_weights(block);
    group.kept() = of_group + 1;
    for (int64 panel = first; panel < end && panel < args.panels; ++panel)
      make_panel(block, panel * N);
  }

 private:
  struct Block {
    const Args& args;
    const WindowGeometry<int64>& g;
    int64 group;
    int lines, row_words;
    Shared<S> weights, panel, micro;
    Runs other;  // where results are
    Panels seen;
    typename Epilogue::template Of<int64> epilogue;
  };

  static NNK_FN void pack_weights(const Block& block) {
    const Args& args = block.args;
    const WindowGeometry<int64>& g = block.g;
    const TA* const from = byte_offset(args.weights, block.group * args.weight_group);
    for (int64 row = 0; row < args.rows; ++row) {
      const TA* const of_row = byte_offset(from, row * args.weight_row);
      int to = int(row) * block.row_words;
      auto line = Tap<int64, false>::of(g, 0);
      for (int k = 0; k < block.lines; ++k) {
        const TA* w = byte_offset(of_row, line.channel * args.weight_channel +
                                              line.at[0] * args.weight_tap[0] +
                                              line.at[1] * args.weight_tap[1]);
        for (int t = 0; t < args.taps; ++t, ++to) {
          block.weights.store(to, convert_scalar<S>(*w));
          w = byte_offset(w, args.weight_tap[2]);
        }
        line.advance(g);
      }
    }
  }

  // ---- the panel ------------------------------------------------------------------------------

  // Looks up what a panel sees, and where its results are; how many columns it has.
  static NNK_FN int find(const Block& block, int64 first) {
    const WindowGeometry<int64>& g = block.g;
    auto tap = Tap<int64, false>::of(g, 0);
    for (int t = 0; t < g.spatial_taps(); ++t) {
      block.seen.tap_offsets.store(t, tap.offset(g));
      tap.next_tap(g);
    }
    block.seen.find(first, seen_from(block, first));
    const int64 left = block.args.columns - first;
    const int columns = left < N ? int(left) : N;
    block.other.find(g, first, columns,
                     [&g](const Pixel<int64>& pixel) NNK_INLINE { return pixel.in_other(g); });
    // Between rows nothing is written.
    each_piece<G>(g, first, columns, [&](const Pixel<int64>& pixel, int i, int n) NNK_INLINE {
      const int64 there = block.args.written - pixel.at[3];
      if (there >= n) return;
      const int lane = i % G;
      const uint32 none = lane_bits(lane + (there > 0 ? int(there) : 0), lane + n);
      for (int run = block.other.first.load(i / G); run < block.other.first.load(i / G + 1); ++run)
        block.other.lanes.store(run, block.other.lanes.load(run) & ~none);
    });
    return columns;
  }
  // Pixels of lines from one on: no more than there are.
  static NNK_FN int seen_from(const Block& block, int64 first) {
    const int64 left = block.args.columns - first;
    return left < width ? int(left) : width;
  }
  static NNK_FN void pack_lines(const Block& block, int64 first) {
    const Args& args = block.args;
    const TB* const from = byte_offset(args.image, block.group * args.image_group);
    const int columns = seen_from(block, first);
    if constexpr (ChannelsFast) block.seen.pack_channels(from, block.panel, columns);
    else if (block.seen.template are_neighbours<TB>(columns))
      block.seen.pack_loaded(from, block.panel, 0, 0, (columns + G - 1) / G, 0, block.lines);
    else block.seen.pack(from, block.panel, 0, 0, columns, 0, block.lines);
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
  static NNK_FN void make_panel(const Block& block, int64 first) {
    const int columns = find(block, first);
    pack_lines(block, first);
    const int64 rows = block.args.rows;
    for (int64 row = 0; row < rows; row += MicroM) {
      if constexpr (!ChannelsFast)
        fetch_image(block, first + N, int(block.lines * row / rows),
                    int(block.lines * (row + MicroM) / rows));
      make_rows(block, row, columns);
    }
  }
  // What some lines of the next panel are of, while this one is multiplied: each is a short run of
  // memory. (Between rows that is about the same.)
  static NNK_FN void fetch_image(const Block& block, int64 first, int line, int end) {
    const WindowGeometry<int64>& g = block.g;
    const TB* const from =
        byte_offset(block.args.image,
                    block.group * block.args.image_group + Pixel<int64>::of(g, first).in_image(g));
    auto tap = Tap<int64, false>::of(g, line);
    for (; line < end && line < block.lines; ++line) {
      const TB* const there = byte_offset(from, tap.offset(g));
      NNK_UNROLL
      for (int byte = 0; byte <= N * int(sizeof(TB)); byte += cache_line)
        prefetch(byte_offset(there, int64(byte)));
      tap.advance(g);
    }
  }
  static NNK_FN void make_rows(const Block& block, int64 row, int columns) {
    const Args& args = block.args;
    const int64 left = args.rows - row;
    const Rows rows = rows_from(block, row), next = rows_from(block, row + MicroM);
    for (int r = 0; r < MicroM && r < left; ++r) fetch_results(block, row + r, columns);
    if (left <= half_m) multiply<half_m>(block, rows, next);
    else multiply<MicroM>(block, rows, next);
    for (int r = 0; r < MicroM && r < left; ++r) scatter(block, row + r, r, columns);
  }
  // A function of its own, and a pointer that moves on: see matmul_packed.cuh.
  template <int Count>
  static NNK_APART void multiply(const Block& block, const Rows& rows, const Rows& next) {
    Vec<S, N> sum[Count];
    NNK_UNROLL
    for (int r = 0; r < Count; ++r) sum[r] = Vec<S, N>::splat(S());
    const Rows a = rows;
    const int taps = block.args.taps, spacing = block.args.spacing, lines = block.lines;
    const S* line = block.panel.data;
    int k = 0;
    for (int i = 0; i < lines; ++i, line += width) {
      NNK_UNROLL
      for (int r = 0; r < Count; ++r) prefetch(next.row[r] + k);
      const S* from = line;
      NNK_NO_UNROLL
      for (int t = 0; t < taps; ++t, ++k, from += spacing) {
        const auto x = nnk::load<N>(from);
        NNK_UNROLL
        for (int r = 0; r < Count; ++r) {
          const auto w = Vec<S, N>::splat(nnk::load<1>(a.row[r] + k)[0]);
          if constexpr (is_floating<S>) sum[r] = fma_always(w, x, sum[r]);
          else sum[r] = fma(w, x, sum[r]);
        }
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
  static NNK_FN void fetch_results(const Block& block, int64 row, int columns) {
    const TC* const to = results_of(block, row);
    for (int i = 0; i < columns; i += G)
      prefetch(byte_offset(to, block.other.offset.load(block.other.first.load(i / G))));
  }
  // Writes a row, whose sums are those of a row of the micro-tile.
  static NNK_FN void scatter(const Block& block, int64 row, int of_tile, int columns) {
    TC* const to = results_of(block, row);
    row += block.group * block.args.joined.rows;
    for (int i = 0; i < columns; i += G) {
      const int count = columns - i < G ? columns - i : G;
      const auto sums = block.micro.template load_vec<G>(of_tile * N + i);
      block.other.store(to, i / G, convert<TC>(block.epilogue(sums, row, int64(0), count)));
    }
  }
};

}  // namespace nnk
