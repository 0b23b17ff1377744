// Convolution of 3x3 windows, one pixel apart, by Winograd's transforms, by a block of one thread.
//
// An image's pixels are cut into tiles of 4x4, which see 6x6 inputs. A block has some tiles and
// outputs. What its tiles see is transformed once, and stays in a level-2 cache while a few outputs
// after the other are made: for each of the 36 points the product of their transformed weights with
// the tiles', and then what the transform makes of these. Neither lies in memory. Which tiles a
// block has changes no result.
#pragma once
#include "nnk/conv_winograd_lanes.cuh"
#include "nnk/fused_epilogue.cuh"
#include "nnk/matmul_epilogue.cuh"

namespace nnk {

// Layout: LanesAreTiles or LanesAreChannels; N, MicroM: columns and rows of products whose sums
// stay in registers
template <class Layout, int N, int MicroM, class Epilogue> struct ConvWinograd {
  using Geometry = WinogradGeometry;
  static constexpr int points = Winograd::points;
  // So that what follows by powers of two does not meet in a few sets of the caches.
  static constexpr int pad = 16;

  struct Args : Epilogue::Operands {
    const float* from;  // weights at the points
    const float* x;
    float* y;
    Geometry geometry;
    typename Epilogue::template Args<int64> epilogue;
  };

  struct Block {
    static constexpr bool is_placed = nnk::is_placed<Epilogue>;
    const Args& args;
    typename Epilogue::template Of<int64> epilogue;
    int64 first_tile;
    int tiles, runs;  // of this block
    Shared<TileRun> run;
    Shared<float> lines, seen, made;  // inputs on the way to the points, and there; products
    int seen_step, made_step;         // from point to point
    int made_row;                     // from row to row

    NNK_FN const Geometry& geometry() const { return args.geometry; }
    NNK_FN const float* weights(int point) const { return args.from + point * geometry().point; }
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const Geometry& g = args.geometry;
    const int64 tile_block = group.block() / g.output_blocks;
    const int64 first_tile = tile_block * g.tile_n;
    const int64 first = (group.block() - tile_block * g.output_blocks) * g.tile_m;
    const int lines = (g.tile_n * int(sizeof(TileRun)) + 63) / 64 * 64;
    const int seen = lines + Layout::line_floats(g) * 4;
    const int seen_step = Layout::seen_floats(g) + pad, made_step = Layout::made_floats(g) + pad;
    const int all = points * points;
    const int64 offset = 0;
    Block block{args,
                {args, args.epilogue, &offset, g.outputs, int64(1)},
                first_tile,
                int(g.tiles - first_tile < g.tile_n ? g.tiles - first_tile : g.tile_n),
                0,
                group.template dynamic_shared<TileRun>(0, g.tile_n),
                group.template dynamic_shared<float>(lines, Layout::line_floats(g)),
                group.template dynamic_shared<float>(seen, seen_step * all),
                group.template dynamic_shared<float>(seen + seen_step * all * 4, made_step * all),
                seen_step,
                made_step,
                Layout::made_row(g)};
    const int64 needed = 1 + tile_block;
    block.runs = find_tile_runs(g, first_tile, block.tiles, block.run);
    if (group.kept() != needed) Layout::transform_inputs(block);
    group.kept() = needed;
    const int outputs = int(g.outputs - first < g.tile_m ? g.outputs - first : g.tile_m);
    for (int i = 0; i < outputs; i += g.outputs_at_once) {
      const int some = outputs - i < g.outputs_at_once ? outputs - i : g.outputs_at_once;
      for (int point = 0; point < all; ++point)
        multiply(block, Layout::factors(block, point, first + i, some),
                 block.made.data + point * made_step);
      Layout::make_results(block, first + i, some);
    }
  }

 private:
  static NNK_FN void multiply(const Block& block, const WinogradFactors& factors, float* made) {
    const int channels = int(block.geometry().channels);
    for (int j = 0; j < factors.column_count; j += N) {
      const float* const panel = factors.panels + j * channels;
      const bool narrow = factors.column_count - j <= N / 2;
      for (int i = 0; i < factors.row_count; i += MicroM) {
        const float* const rows = factors.rows + int64(i) * factors.row_step;
        float* const to = made + i * block.made_row + j;
        const bool few = factors.row_count - i <= MicroM / 2;
        (few      ? narrow ? multiply_rows<N / 2, MicroM / 2> : multiply_rows<N, MicroM / 2>
         : narrow ? multiply_rows<N / 2, MicroM>
                  : multiply_rows<N, MicroM>)(rows, factors.row_step, panel, to, channels,
                                              block.made_row);
      }
    }
  }
  // A function of its own, and a pointer that moves on: see matmul_packed.cuh.
  template <int Columns, int Rows>
  static NNK_APART void multiply_rows(const float* rows, int row_step, const float* panel,
                                      float* to, int channels, int to_step) {
    Vec<float, Columns> sum[Rows];
    const float* a[Rows];
    NNK_UNROLL
    for (int r = 0; r < Rows; ++r) {
      sum[r] = Vec<float, Columns>::splat(0.0f);
      a[r] = rows + r * row_step;
    }
    constexpr int piece = cache_line / int(sizeof(float));
    const int next = Rows * row_step;
    int c = 0;
    for (; c + piece <= channels; c += piece, panel += piece * N) {
      NNK_UNROLL
      for (int r = 0; r < Rows; ++r) prefetch(a[r] + c + next);
      NNK_UNROLL
      for (int k = 0; k < piece; ++k) add_products(a, c + k, panel + k * N, sum);
    }
    NNK_NO_UNROLL
    for (; c < channels; ++c, panel += N) add_products(a, c, panel, sum);
    NNK_UNROLL
    for (int r = 0; r < Rows; ++r) nnk::store(to + r * to_step, sum[r]);
  }
  template <int Columns, int Rows>
  static NNK_FN void add_products(const float* const (&a)[Rows], int c, const float* panel,
                                  Vec<float, Columns> (&sum)[Rows]) {
    const auto b = nnk::load<Columns>(panel);
    NNK_UNROLL
    for (int r = 0; r < Rows; ++r)
      sum[r] = fma_always(Vec<float, Columns>::splat(a[r][c]), b, sum[r]);
  }
};

}  // namespace nnk
