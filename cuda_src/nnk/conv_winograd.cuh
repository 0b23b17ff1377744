// Convolution of 3x3 windows, or those of a few such slices, one pixel apart, by Winograd's
// transforms, by a block of one thread.
//
// An image's pixels are cut into tiles of 4x4, which see 6x6 inputs. A block has some tiles and
// outputs. What its tiles see is transformed once, and stays in a level-2 cache while a few outputs
// after the other are made: for each of the 36 points the product of their transformed weights with
// the tiles', and then what the transform makes of these. Neither lies in memory. Where what is
// seen of all terms does not fit into scratch memory, it is made of some after the other, and
// products of all outputs of the block wait for them. Which tiles a block has, and how many terms
// at once, changes no result.
#pragma once
#include "nnk/conv_winograd_lanes.cuh"
#include "nnk/fused_epilogue.cuh"
#include "nnk/matmul_epilogue.cuh"

namespace nnk {

// Along a third axis, the depth, products are added up as those of more channels: a term is a
// channel of a tap along it.
//
// S: type of numbers; Layout: LanesAreTiles or LanesAreChannels; N, MicroM: columns and rows of
// products whose sums stay in registers
template <class S, class Layout, int N, int MicroM, class Epilogue> struct ConvWinograd {
  using Geometry = WinogradGeometry;
  static constexpr int points = Winograd<S>::points;
  // So that what follows by powers of two does not meet in a few sets of the caches.
  static constexpr int pad = 16;

  struct Args : Epilogue::Operands {
    const S* from;  // weights at the points
    const S* x;
    S* y;
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
    Shared<S> lines, seen, made;  // inputs on the way to the points, and there; products
    int seen_step, made_step;     // from point to point
    int made_row;                 // from row to row
    int64 first_term;             // of those whose inputs are there
    int terms;                    // how many these are

    NNK_FN const Geometry& geometry() const { return args.geometry; }
    NNK_FN const S* weights(int point) const { return args.from + point * geometry().point; }
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const Geometry& g = args.geometry;
    const int64 tile_block = group.block() / g.output_blocks;
    const int64 first_tile = tile_block * g.tile_n;
    const int64 first = g.first_output + (group.block() - tile_block * g.output_blocks) * g.tile_m;
    const int lines = (g.tile_n * int(sizeof(TileRun)) + 63) / 64 * 64;
    const int seen = lines + Layout::line_numbers(g) * int(sizeof(S));
    const int seen_step = Layout::seen_numbers(g) + pad, made_step = Layout::made_numbers(g) + pad;
    const int all = points * points;
    const int64 offset = 0;
    Block block{
        args,
        {args, args.epilogue, &offset, g.outputs, int64(1)},
        first_tile,
        int(g.tiles - first_tile < g.tile_n ? g.tiles - first_tile : g.tile_n),
        0,
        group.template dynamic_shared<TileRun>(0, g.tile_n),
        group.template dynamic_shared<S>(lines, Layout::line_numbers(g)),
        group.template dynamic_shared<S>(seen, seen_step * all),
        group.template dynamic_shared<S>(seen + seen_step * all * int(sizeof(S)), made_step * all),
        seen_step,
        made_step,
        Layout::made_row(g),
        0,
        0};
    block.runs = find_tile_runs(g, first_tile, block.tiles, block.run);
    const int outputs = int(g.outputs - first < g.tile_m ? g.outputs - first : g.tile_m);
    for (; block.first_term < g.terms; block.first_term += block.terms) {
      const int64 left = g.terms - block.first_term;
      block.terms = int(left < g.terms_at_once ? left : g.terms_at_once);
      // Inputs of all terms are those of the next block as well.
      const int64 needed = block.terms == g.terms ? 1 + tile_block : 0;
      if (needed == 0 || group.kept() != needed) Layout::transform_inputs(block);
      group.kept() = needed;
      add_outputs(block, first, outputs);
    }
  }

 private:
  // What some terms add to products, and the results where they are the last ones.
  static NNK_FN void add_outputs(const Block& block, int64 first, int outputs) {
    const Geometry& g = block.geometry();
    for (int i = 0; i < outputs; i += g.outputs_at_once) {
      const int some = outputs - i < g.outputs_at_once ? outputs - i : g.outputs_at_once;
      for (int point = 0; point < points * points; ++point)
        multiply(block, Layout::factors(block, point, first + i, some),
                 block.made.data + point * block.made_step);
      if (block.first_term + block.terms == g.terms) Layout::make_results(block, first + i, some);
    }
  }
  static NNK_FN void multiply(const Block& block, const WinogradFactors<S>& factors, S* made) {
    const bool begins = block.first_term == 0;
    for (int j = 0; j < factors.column_count; j += N) {
      const S* const panel = factors.panels + int64(j) * factors.panel_step;
      const bool narrow = factors.column_count - j <= N / 2;
      for (int i = 0; i < factors.row_count; i += MicroM) {
        const S* const rows = factors.rows + int64(i) * factors.row_step;
        S* const to = made + i * block.made_row + j;
        const bool few = factors.row_count - i <= MicroM / 2;
        (few      ? narrow ? multiply_rows<N / 2, MicroM / 2> : multiply_rows<N, MicroM / 2>
         : narrow ? multiply_rows<N / 2, MicroM>
                  : multiply_rows<N, MicroM>)(rows, factors.row_step, panel, to, block.terms,
                                              block.made_row, begins);
      }
    }
  }
  // A function of its own, and a pointer that moves on: see matmul_packed.cuh.
  // begins: nothing was added up before
  template <int Columns, int Rows>
  static NNK_APART void multiply_rows(const S* rows, int row_step, const S* panel, S* to, int terms,
                                      int to_step, bool begins) {
    Vec<S, Columns> sum[Rows];
    const S* a[Rows];
    NNK_UNROLL
    for (int r = 0; r < Rows; ++r) {
      sum[r] = begins ? Vec<S, Columns>::splat(S()) : nnk::load<Columns>(to + r * to_step);
      a[r] = rows + r * row_step;
    }
    constexpr int piece = cache_line / int(sizeof(S));
    const int next = Rows * row_step;
    int k = 0;
    for (; k + piece <= terms; k += piece, panel += piece * N) {
      NNK_UNROLL
      for (int r = 0; r < Rows; ++r) prefetch(a[r] + k + next);
      NNK_UNROLL
      for (int i = 0; i < piece; ++i) add_products(a, k + i, panel + i * N, sum);
    }
    NNK_NO_UNROLL
    for (; k < terms; ++k, panel += N) add_products(a, k, panel, sum);
    NNK_UNROLL
    for (int r = 0; r < Rows; ++r) nnk::store(to + r * to_step, sum[r]);
  }
  template <int Columns, int Rows>
  static NNK_FN void add_products(const S* const (&a)[Rows], int k, const S* panel,
                                  Vec<S, Columns> (&sum)[Rows]) {
    const auto b = nnk::load<Columns>(panel);
    NNK_UNROLL
    for (int r = 0; r < Rows; ++r) sum[r] = fma_always(Vec<S, Columns>::splat(a[r][k]), b, sum[r]);
  }
};

}  // namespace nnk
