// Convolution of 3x3 windows, one pixel apart, by Winograd's transforms, by a block of one thread.
//
// An image's pixels are cut into tiles of 4x4, which see 6x6 inputs. A block has some tiles and
// outputs. What its tiles see is transformed once, and stays in a level-2 cache while a few outputs
// after the other are made: for each of the 36 points the product of their transformed weights with
// the tiles', and then what the transform makes of these. Neither lies in memory.
//
// Lanes of a register are tiles that follow each other, images and rows of tiles included. Inputs
// are first transformed along columns, where lanes are neighbours in memory, and written to lines,
// in which tiles of four numbers follow each other. Which tiles a block has changes no result.
#pragma once
#include "nnk/matmul_epilogue.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"
#include "nnk/winograd_transforms.cuh"

namespace nnk {

// ---- weights ----------------------------------------------------------------------------------

// Transformed weights [point][output][channel]; a block makes those of one output.
template <int Lanes> struct WinogradWeights {
  struct Args {
    float* to;
    const float* weights;
    int64 outputs, channels;
    int64 point;                                         // elements from point to point
    int64 stride_output, stride_channel, stride_tap[2];  // in bytes
  };
  template <class G> static NNK_FN void run(G& group, const Args& args) {
    using V = Vec<float, Lanes>;
    const int64 output = group.block();
    for (int64 c = 0; c < args.channels; c += Lanes) {
      const int64 left = args.channels - c;
      const uint32 bits = left >= Lanes ? ~0u >> (32 - Lanes) : (1u << left) - 1;
      const float* const from =
          byte_offset(args.weights, output * args.stride_output + c * args.stride_channel);
      V half[6][3];
      NNK_UNROLL
      for (int j = 0; j < 3; ++j) {
        V g[3], u[6];
        NNK_UNROLL
        for (int i = 0; i < 3; ++i)
          g[i] =
              load_lanes<Lanes>(byte_offset(from, i * args.stride_tap[0] + j * args.stride_tap[1]),
                                args.stride_channel, bits, V::splat(0.0f));
        Winograd::weights(g, u);
        NNK_UNROLL
        for (int i = 0; i < 6; ++i) half[i][j] = u[i];
      }
      float* const to = args.to + output * args.channels + c;
      NNK_UNROLL
      for (int i = 0; i < 6; ++i) {
        V u[6];
        Winograd::weights(half[i], u);
        NNK_UNROLL
        for (int j = 0; j < 6; ++j)
          store_lanes(to + (i * 6 + j) * args.point, int64(sizeof(float)), u[j], bits);
      }
    }
  }
};

// ---- the convolution ----------------------------------------------------------------------------

// What the host packs. Strides in bytes.
struct WinogradGeometry {
  int64 tiles, tiles_of_image, tiles_of_row;
  int64 channels, outputs;
  int64 point;              // elements from point to point of the weights
  int64 pixels[2];          // of an image of results
  int64 start[2], size[2];  // what the first window sees first, and how many elements there are
  int64 stride[4];          // of the image: images, channels, rows, columns
  int64 result[4];          // of the result
  int64 output_blocks;      // into which the outputs of a tile are divided
  int32 tile_n;             // tiles of a block
  int32 tile_m;             // outputs of a block
  int32 rows_at_once;       // outputs whose products wait to be transformed
  int32 padding;
};

// Tiles of a block that are neighbours in one row.
struct TileRun {
  int64 image, result;  // bytes to the first input of the first tile, and to its first result
  int32 first, count;
  int32 left;        // column of that input
  int32 columns;     // of the image, from there on, that are in it: may be more than are seen
  int32 rows[2];     // first and end of the six rows that are in the image
  int32 results[2];  // rows and columns of results
};

// Lanes: tiles whose inputs are transformed at once, a register; N, MicroM: tiles and outputs whose
// sums stay in registers
template <int Lanes, int N, int MicroM, class Epilogue> struct ConvWinograd {
  using V = Vec<float, Lanes>;
  using Wide = Vec<float, 4 * Lanes>;
  using Geometry = WinogradGeometry;
  static constexpr int points = Winograd::points;
  // So that what follows by powers of two does not meet in a few sets of the caches.
  static constexpr int pad = 16;

  struct Args : Epilogue::Operands {
    const float* weights;
    const float* x;
    float* y;
    Geometry geometry;
    typename Epilogue::template Args<int64> epilogue;
  };

  struct Block {
    const Args& args;
    typename Epilogue::template Of<int64> epilogue;
    int tiles, runs;  // of this block
    Shared<TileRun> run;
    Shared<float> line, shifted;  // transformed along columns: [point][tile][4], from 4 columns on
    Shared<float> seen, made;     // transformed inputs and products: [point][panel or row]...
    int line_step, seen_step, made_step;  // from point to point

    NNK_FN const Geometry& geometry() const { return args.geometry; }
    // Where the inputs of a channel, from a tile on, are at point 0: panels of N tiles.
    NNK_FN int seen_at(int64 channel, int tile) const {
      return int((tile / N * geometry().channels + channel) * N) + tile % N;
    }
  };

  // Floats of a block's scratch memory, after its runs.
  static NNK_FN int line_size(const Geometry& g) { return 4 * g.tile_n + 2 * slack; }
  static constexpr int slack = 2 * Lanes > 16 ? 2 * Lanes : 16;

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const Geometry& g = args.geometry;
    const int64 tile_block = group.block() / g.output_blocks;
    const int64 first_tile = tile_block * g.tile_n;
    const int64 first_row = (group.block() - tile_block * g.output_blocks) * g.tile_m;
    const int runs_bytes = (g.tile_n * int(sizeof(TileRun)) + 63) / 64 * 64;
    const int lines = points * line_size(g);
    const int seen = g.tile_n * int(g.channels) + pad, made = g.rows_at_once * g.tile_n + pad;
    const int64 offset = 0;
    const int floats = runs_bytes;
    Block block{args,
                {args, args.epilogue, &offset, g.outputs, int64(1)},
                int(g.tiles - first_tile < g.tile_n ? g.tiles - first_tile : g.tile_n),
                0,
                group.template dynamic_shared<TileRun>(0, g.tile_n),
                group.template dynamic_shared<float>(floats, lines),
                group.template dynamic_shared<float>(floats + lines * 4, lines),
                group.template dynamic_shared<float>(floats + lines * 8, seen * 36),
                group.template dynamic_shared<float>(floats + lines * 8 + seen * 144, made * 36),
                line_size(g),
                seen,
                made};
    const int64 needed = 1 + tile_block;
    block.runs = find_runs(block, first_tile);
    if (group.kept() != needed)
      for (int64 c = 0; c < g.channels; ++c) {
        transform_columns(block, c);
        transform_rows(block, c);
      }
    group.kept() = needed;
    const int rows = int(g.outputs - first_row < g.tile_m ? g.outputs - first_row : g.tile_m);
    for (int i = 0; i < rows; i += g.rows_at_once) {
      const int some = rows - i < g.rows_at_once ? rows - i : g.rows_at_once;
      multiply_rows(block, first_row + i, some);
      for (int r = 0; r < some; ++r) make_results(block, first_row + i + r, r);
    }
  }

 private:
  static NNK_FN int least(int64 a, int64 b) { return int(a < b ? a : b); }
  static NNK_FN int most(int64 a, int64 b) { return int(a > b ? a : b); }

  // ---- inputs -----------------------------------------------------------------------------

  static NNK_FN int find_runs(const Block& block, int64 tile) {
    const Geometry& g = block.geometry();
    int count = 0;
    for (int first = 0; first < block.tiles; ++count) {
      const int64 image = tile / g.tiles_of_image, in_image = tile - image * g.tiles_of_image;
      const int64 row = in_image / g.tiles_of_row, column = in_image - row * g.tiles_of_row;
      const int some = least(block.tiles - first, g.tiles_of_row - column);
      const int64 top = row * 4 + g.start[0], left = column * 4 + g.start[1];
      block.run.store(
          count, {image * g.stride[0] + top * g.stride[2] + left * g.stride[3],
                  image * g.result[0] + row * 4 * g.result[2] + column * 4 * g.result[3],
                  first,
                  some,
                  int32(left),
                  int32(g.size[1] - left),
                  {most(0, -top), least(points, g.size[0] - top)},
                  {least(4, g.pixels[0] - row * 4), least(4 * some, g.pixels[1] - column * 4)}});
      first += some;
      tile += some;
    }
    return count;
  }

  // Those of `count` lanes whose number is at least `low`.
  static NNK_FN uint32 lanes_from(int low, int count) {
    low = low < 0 ? 0 : low;
    count = count > Lanes ? Lanes : count;
    return count > low ? (~0u >> (32 - count)) & (~0u << low) : 0u;
  }

  // Of one channel.
  static NNK_APART void transform_columns(const Block& block, int64 channel) {
    const Geometry& g = block.geometry();
    const V zero = V::splat(0.0f);
    for (int i = 0; i < block.runs; ++i) {
      const TileRun run = block.run.load(i);
      const float* const from = byte_offset(block.args.x, run.image + channel * g.stride[1]);
      const int end = 4 * run.count + 2;
      for (int j = 0; j < end; j += Lanes) {
        const uint32 bits = lanes_from(-run.left - j, run.columns - j);
        V d[points], v[points];
        NNK_UNROLL
        for (int r = 0; r < points; ++r)
          d[r] =
              load_lanes<Lanes>(byte_offset(from, r * g.stride[2] + j * g.stride[3]), g.stride[3],
                                run.rows[0] <= r && r < run.rows[1] ? bits : 0u, zero);
        Winograd::input(d, v);
        const int at = slack + 4 * run.first + j;
        NNK_UNROLL
        for (int r = 0; r < points; ++r) {
          const int line = r * block.line_step + at;
          block.line.store_vec(line, v[r]);
          // The first four belong to the run before: its last ones.
          const auto before = block.shifted.template load_vec<4>(line - 4);
          block.shifted.store_vec(line - 4, v[r]);
          if (j == 0) block.shifted.store_vec(line - 4, before);
        }
      }
    }
  }
  // Tiles past the last one are whatever was there: what they give is not written.
  static NNK_APART void transform_rows(const Block& block, int64 channel) {
    for (int t = 0; t < block.tiles; t += Lanes) {
      const int to = block.seen_at(channel, t);
      NNK_NO_UNROLL
      for (int r = 0; r < points; ++r) {
        const int at = r * block.line_step + slack + 4 * t;
        const auto own = block.line.template load_vec<4 * Lanes>(at);
        const auto next = block.shifted.template load_vec<4 * Lanes>(at);
        const auto even = every_second<0>(own), odd = every_second<1>(own);
        const V d[points] = {every_second<0>(even),
                             every_second<0>(odd),
                             every_second<1>(even),
                             every_second<1>(odd),
                             every_second<0>(every_second<0>(next)),
                             every_second<0>(every_second<1>(next))};
        V v[points];
        Winograd::input(d, v);
        NNK_UNROLL
        for (int j = 0; j < points; ++j)
          block.seen.store_vec((r * points + j) * block.seen_step + to, v[j]);
      }
    }
  }

  // ---- products ---------------------------------------------------------------------------

  static NNK_FN void multiply_rows(const Block& block, int64 first_row, int rows) {
    const Geometry& g = block.geometry();
    const int channels = int(g.channels);
    for (int point = 0; point < points * points; ++point) {
      const float* const weights = block.args.weights + point * g.point + first_row * channels;
      float* const made = block.made.data + point * block.made_step;
      for (int t = 0; t < block.tiles; t += N) {
        const float* const seen = block.seen.data + point * block.seen_step + block.seen_at(0, t);
        const bool narrow = block.tiles - t <= N / 2;
        for (int i = 0; i < rows; i += MicroM) {
          const float* const a = weights + int64(i) * channels;
          float* const to = made + i * g.tile_n + t;
          if (narrow) multiply<N / 2>(a, seen, to, channels, g.tile_n);
          else multiply<N>(a, seen, to, channels, g.tile_n);
        }
      }
    }
  }
  // A function of its own, and a pointer that moves on: see matmul_packed.cuh.
  template <int Columns>
  static NNK_APART void multiply(const float* weights, const float* seen, float* to, int channels,
                                 int row) {
    Vec<float, Columns> sum[MicroM];
    const float* a[MicroM];
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r) {
      sum[r] = Vec<float, Columns>::splat(0.0f);
      a[r] = weights + r * channels;
    }
    constexpr int piece = cache_line / int(sizeof(float));
    const int next = MicroM * channels;
    int c = 0;
    for (; c + piece <= channels; c += piece, seen += piece * N) {
      NNK_UNROLL
      for (int r = 0; r < MicroM; ++r) prefetch(a[r] + c + next);
      NNK_UNROLL
      for (int k = 0; k < piece; ++k) add_products(a, c + k, seen + k * N, sum);
    }
    NNK_NO_UNROLL
    for (; c < channels; ++c, seen += N) add_products(a, c, seen, sum);
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r) nnk::store(to + r * row, sum[r]);
  }
  template <int Columns>
  static NNK_FN void add_products(const float* const (&a)[MicroM], int c, const float* seen,
                                  Vec<float, Columns> (&sum)[MicroM]) {
    const auto b = nnk::load<Columns>(seen);
    NNK_UNROLL
    for (int r = 0; r < MicroM; ++r)
      sum[r] = fma_always(Vec<float, Columns>::splat(a[r][c]), b, sum[r]);
  }

  // ---- results ----------------------------------------------------------------------------

  // Of one output, whose products are in the row `row`.
  static NNK_APART void make_results(const Block& block, int64 output, int row) {
    const Geometry& g = block.geometry();
    for (int t = 0; t < block.tiles; t += Lanes) {
      const int from = row * g.tile_n + t;
      V half[4][points];
      NNK_UNROLL
      for (int j = 0; j < points; ++j) {
        V m[points], y[4];
        NNK_UNROLL
        for (int i = 0; i < points; ++i)
          m[i] = block.made.template load_vec<Lanes>((i * points + j) * block.made_step + from);
        Winograd::sums(m, y);
        NNK_UNROLL
        for (int i = 0; i < 4; ++i) half[i][j] = y[i];
      }
      NNK_UNROLL
      for (int i = 0; i < 4; ++i) {
        V y[4];
        Winograd::sums(half[i], y);
        const Wide sums = interleaved(interleaved(y[0], y[2]), interleaved(y[1], y[3]));
        block.line.store_vec(i * block.line_step + slack + 4 * t,
                             block.epilogue(sums, output, int64(0), 4 * Lanes));
      }
    }
    for (int i = 0; i < block.runs; ++i) {
      const TileRun run = block.run.load(i);
      float* const to = byte_offset(block.args.y, run.result + output * g.result[1]);
      for (int r = 0; r < run.results[0]; ++r) {
        const int at = r * block.line_step + slack + 4 * run.first;
        for (int j = 0; j < run.results[1]; j += Lanes)
          store_lanes(byte_offset(to, r * g.result[2] + j * g.result[3]), g.result[3],
                      block.line.template load_vec<Lanes>(at + j),
                      lanes_from(0, run.results[1] - j));
      }
    }
  }
};

}  // namespace nnk
