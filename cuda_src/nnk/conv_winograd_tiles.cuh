// The tiles of an image for Winograd's convolution, and where a block finds what they see.
#pragma once
#include "nnk/types.cuh"
#include "nnk/view.cuh"
#include "nnk/winograd_transforms.cuh"

namespace nnk {

// What the host packs. Strides in bytes.
struct WinogradGeometry {
  int64 tiles, tiles_of_image, tiles_of_row;
  int64 channels, outputs;
  int64 terms;      // channels times taps along the depth
  int64 point;      // elements from point to point of the weights
  int64 depth[3];   // windows along the depth, elements from one to the next and from tap to tap
  int64 pixels[2];  // of an image of results, or a slice of one
  int64 start[3], size[3];  // what the first window sees first, and how many elements there are
  int64 stride[5];          // of the image: images, channels, depth, rows, columns
  int64 result[5];          // of the result
  int64 first_output;       // of this launch
  int64 output_blocks;      // into which the outputs of a tile are divided
  int32 tile_n;             // tiles of a block
  int32 tile_m;             // outputs of a block
  int32 outputs_at_once;    // whose products wait to be transformed
  int32 terms_at_once;      // of which inputs wait to be multiplied
};

// Tiles of a block that are neighbours in one row.
struct TileRun {
  int64 image, result;  // bytes to the first input of the first tile, and to its first result
  int32 first, count;
  int32 left;        // column of that input
  int32 columns;     // of the image, from there on, that are in it: may be more than are seen
  int32 depth;       // what is seen by the first tap along the depth
  int32 rows[2];     // first and end of the six rows that are in the image
  int32 results[2];  // rows and columns of results
};

// The runs of `tiles` tiles from `tile` on; how many they are.
NNK_FN int find_tile_runs(const WinogradGeometry& g, int64 tile, int tiles,
                          const Shared<TileRun>& run) {
  const auto least = [](int64 a, int64 b) { return int32(a < b ? a : b); };
  int count = 0;
  for (int first = 0; first < tiles; ++count) {
    const int64 slice = tile / g.tiles_of_image, in_image = tile - slice * g.tiles_of_image;
    const int64 image = slice / g.depth[0], at = slice - image * g.depth[0];
    const int64 row = in_image / g.tiles_of_row, column = in_image - row * g.tiles_of_row;
    const int some = least(tiles - first, g.tiles_of_row - column);
    const int64 depth = at * g.depth[1] + g.start[0];
    const int64 top = row * 4 + g.start[1], left = column * 4 + g.start[2];
    run.store(
        count,
        {image * g.stride[0] + depth * g.stride[2] + top * g.stride[3] + left * g.stride[4],
         image * g.result[0] + at * g.result[2] + row * 4 * g.result[3] + column * 4 * g.result[4],
         first,
         some,
         int32(left),
         int32(g.size[2] - left),
         int32(depth),
         {-least(0, top), least(6, g.size[1] - top)},
         {least(4, g.pixels[0] - row * 4), least(4 * some, g.pixels[1] - column * 4)}});
    first += some;
    tile += some;
  }
  return count;
}

// Image, depth, row and column of the first pixel of a tile.
struct TilePosition {
  int64 image, depth, row, column;

  static NNK_FN TilePosition of(const WinogradGeometry& g, int64 tile) {
    const int64 slice = tile / g.tiles_of_image, in_image = tile - slice * g.tiles_of_image;
    const int64 image = slice / g.depth[0], row = in_image / g.tiles_of_row;
    const int64 column = in_image - row * g.tiles_of_row;
    return {image, slice - image * g.depth[0], row * 4, column * 4};
  }
};

// Those of `count` lanes whose number is at least `low`.
template <int Lanes> NNK_FN uint32 lanes_from(int64 low, int64 count) {
  low = low < 0 ? 0 : low;
  count = count > Lanes ? Lanes : count;
  return count > low ? (~0u >> (32 - count)) & (~0u << low) : 0u;
}

// Whether a tap along the depth sees a slice of the image.
NNK_FN bool is_in_depth(const WinogradGeometry& g, const TileRun& run, int tap) {
  const int64 at = run.depth + tap * g.depth[2];
  return 0 <= at && at < g.size[0];
}

// For one point, a matrix of rows times panels [panel][term][column].
template <class S> struct WinogradFactors {
  const S *rows, *panels;
  int row_step;    // elements from row to row
  int panel_step;  // and from panel to panel, for a column
  int row_count, column_count;
};

}  // namespace nnk
