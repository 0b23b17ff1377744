// What lanes of a register are to the transforms of Winograd's convolution: tiles, where what
// follows each other in memory is a row of the image, or channels, where it is these.
//
// Both write the inputs of a block at the points, [point]..., as one operand of the products, say
// which matrices these are, and make results of them, [point][row][column]. They do the same
// operations in the same order, so that an image gives the same results however it lies.
#pragma once
#include "nnk/conv_winograd_tiles.cuh"

namespace nnk {

// The columns of some outputs from products, which begin at `from`: half of the way to results.
template <class S, int Lanes, class Block>
NNK_FN void sum_columns(const Block& block, int from,
                        Vec<S, Lanes> (&half)[4][Winograd<S>::points]) {
  constexpr int points = Winograd<S>::points;
  NNK_UNROLL
  for (int j = 0; j < points; ++j) {
    Vec<S, Lanes> m[points], y[4];
    NNK_UNROLL
    for (int i = 0; i < points; ++i)
      m[i] = block.made.template load_vec<Lanes>((i * points + j) * block.made_step + from);
    Winograd<S>::sums(m, y);
    NNK_UNROLL
    for (int i = 0; i < 4; ++i) half[i][j] = y[i];
  }
}

// What a block's epilogue does with results at a position (image, output, depth, row, column), if
// it has arrays of its own: along an axis, so many lanes.
template <class Block, class S, int N>
NNK_FN Vec<S, N> placed(const Block& block, const Vec<S, N>& x, const int64 (&position)[5],
                        int axis, int count) {
  if constexpr (Block::is_placed)
    return convert<S>(block.epilogue.finish(x, position, axis, count));
  else return x;
}

// ---- tiles ------------------------------------------------------------------------------------

// Tiles that follow each other, images and rows of tiles included. Inputs are first transformed
// along columns, where lanes are neighbours in memory, and written to lines, in which tiles of four
// numbers follow each other. Products are of rows of outputs and columns of tiles.
// N: columns of a panel
template <class S, int Lanes, int N> struct LanesAreTiles {
  using V = Vec<S, Lanes>;
  using Geometry = WinogradGeometry;
  static constexpr int points = Winograd<S>::points;
  static constexpr int slack = 2 * Lanes > 16 ? 2 * Lanes : 16;

  // Numbers of a block's scratch memory; see Block of conv_winograd.cuh.
  static NNK_FN int line_step(const Geometry& g) { return 4 * g.tile_n + 2 * slack; }
  static NNK_FN int line_numbers(const Geometry& g) { return 2 * points * line_step(g); }
  static NNK_FN int seen_numbers(const Geometry& g) { return g.tile_n * g.terms_at_once; }
  static NNK_FN int made_row(const Geometry& g) { return g.tile_n; }
  static NNK_FN int made_numbers(const Geometry& g) { return g.outputs_at_once * g.tile_n; }

  // Lines: transformed along columns, [point][tile][4], and the same from 4 columns on.
  template <class Block> static NNK_FN void transform_inputs(const Block& block) {
    const Geometry& g = block.geometry();
    int tap = int(block.first_term / g.channels);
    int64 channel = block.first_term - tap * g.channels;
    for (int term = 0; term < block.terms; ++term) {
      transform_columns(block, channel, tap);
      transform_rows(block, term);
      if (++channel == g.channels) channel = 0, ++tap;
    }
  }
  // Of outputs from `first` on.
  template <class Block>
  static NNK_FN WinogradFactors<S> factors(const Block& block, int point, int64 first, int count) {
    const int terms = int(block.geometry().terms);
    return {block.weights(point) + first * terms + block.first_term,
            block.seen.data + point * block.seen_step,
            terms,
            block.terms,
            count,
            block.tiles};
  }
  template <class Block>
  static NNK_FN void make_results(const Block& block, int64 first, int count) {
    for (int i = 0; i < count; ++i) make_output(block, first + i, i);
  }

 private:
  // Where the inputs of a term, from a tile on, are at point 0: panels of N tiles.
  template <class Block> static NNK_FN int seen_at(const Block& block, int term, int tile) {
    return (tile / N * block.terms + term) * N + tile % N;
  }
  // Of one channel of a tap along the depth.
  template <class Block>
  static NNK_APART void transform_columns(const Block& block, int64 channel, int tap) {
    const Geometry& g = block.geometry();
    const V zero = V::splat(S());
    const int step = line_step(g);
    const Shared<S> shifted{block.lines.data + points * step};
    for (int i = 0; i < block.runs; ++i) {
      const TileRun run = block.run.load(i);
      const S* const from = byte_offset(
          block.args.x, run.image + channel * g.stride[1] + tap * g.depth[2] * g.stride[2]);
      const bool there = is_in_depth(g, run, tap);
      const int end = 4 * run.count + 2;
      for (int j = 0; j < end; j += Lanes) {
        const uint32 bits = there ? lanes_from<Lanes>(-run.left - j, run.columns - j) : 0u;
        V d[points], v[points];
        NNK_UNROLL
        for (int r = 0; r < points; ++r)
          d[r] =
              load_lanes<Lanes>(byte_offset(from, r * g.stride[3] + j * g.stride[4]), g.stride[4],
                                run.rows[0] <= r && r < run.rows[1] ? bits : 0u, zero);
        Winograd<S>::input(d, v);
        const int at = slack + 4 * run.first + j;
        NNK_UNROLL
        for (int r = 0; r < points; ++r) {
          const int line = r * step + at;
          block.lines.store_vec(line, v[r]);
          // The first four belong to the run before: its last ones.
          const auto before = shifted.template load_vec<4>(line - 4);
          shifted.store_vec(line - 4, v[r]);
          if (j == 0) shifted.store_vec(line - 4, before);
        }
      }
    }
  }
  // Tiles past the last one are whatever was there: what they give is not written.
  template <class Block> static NNK_APART void transform_rows(const Block& block, int term) {
    const Geometry& g = block.geometry();
    const int step = line_step(g);
    for (int t = 0; t < block.tiles; t += Lanes) {
      const int to = seen_at(block, term, t);
      NNK_NO_UNROLL
      for (int r = 0; r < points; ++r) {
        const int at = r * step + slack + 4 * t;
        const auto own = block.lines.template load_vec<4 * Lanes>(at);
        const auto next = block.lines.template load_vec<4 * Lanes>(at + points * step);
        const auto even = every_second<0>(own), odd = every_second<1>(own);
        const V d[points] = {every_second<0>(even),
                             every_second<0>(odd),
                             every_second<1>(even),
                             every_second<1>(odd),
                             every_second<0>(every_second<0>(next)),
                             every_second<0>(every_second<1>(next))};
        V v[points];
        Winograd<S>::input(d, v);
        NNK_UNROLL
        for (int j = 0; j < points; ++j)
          block.seen.store_vec((r * points + j) * block.seen_step + to, v[j]);
      }
    }
  }

  // Of one output, whose products are in the row `row`.
  template <class Block>
  static NNK_APART void make_output(const Block& block, int64 output, int row) {
    const Geometry& g = block.geometry();
    const int step = line_step(g);
    for (int t = 0; t < block.tiles; t += Lanes) {
      const int from = row * block.made_row + t;
      V half[4][points];
      sum_columns<S, Lanes>(block, from, half);
      NNK_UNROLL
      for (int i = 0; i < 4; ++i) {
        V y[4];
        Winograd<S>::sums(half[i], y);
        const auto sums = interleaved(interleaved(y[0], y[2]), interleaved(y[1], y[3]));
        block.lines.store_vec(i * step + slack + 4 * t,
                              block.epilogue(sums, output, int64(0), 4 * Lanes));
      }
    }
    for (int i = 0; i < block.runs; ++i) {
      const TileRun run = block.run.load(i);
      S* const to = byte_offset(block.args.y, run.result + output * g.result[1]);
      const auto place = TilePosition::of(g, block.first_tile + run.first);
      for (int r = 0; r < run.results[0]; ++r) {
        const int at = r * step + slack + 4 * run.first;
        for (int j = 0; j < run.results[1]; j += Lanes) {
          const int count = run.results[1] - j < Lanes ? run.results[1] - j : Lanes;
          const int64 position[5] = {place.image, output, place.depth, place.row + r,
                                     place.column + j};
          store_lanes(
              byte_offset(to, r * g.result[3] + j * g.result[4]), g.result[4],
              placed(block, block.lines.template load_vec<Lanes>(at + j), position, 4, count),
              lanes_from<Lanes>(0, count));
        }
      }
    }
  }
};

// ---- channels ---------------------------------------------------------------------------------

// Channels of the image, and outputs. Products are of rows of tiles and columns of outputs.
// N: columns of a panel; MicroM: rows whose products are made at once
template <class S, int Lanes, int N, int MicroM> struct LanesAreChannels {
  using V = Vec<S, Lanes>;
  using Geometry = WinogradGeometry;
  static constexpr int points = Winograd<S>::points;

  static NNK_FN int seen_row(const Geometry& g) {
    return (g.terms_at_once + Lanes - 1) / Lanes * Lanes + row_pad;
  }
  static NNK_FN int rows(const Geometry& g) { return (g.tile_n + MicroM - 1) / MicroM * MicroM; }
  static NNK_FN int line_numbers(const Geometry&) { return 0; }
  static NNK_FN int seen_numbers(const Geometry& g) { return rows(g) * seen_row(g); }
  static NNK_FN int made_row(const Geometry& g) { return g.outputs_at_once; }
  static NNK_FN int made_numbers(const Geometry& g) { return rows(g) * g.outputs_at_once; }

  template <class Block> static NNK_APART void transform_inputs(const Block& block) {
    const Geometry& g = block.geometry();
    const int row = seen_row(g);
    clear_rows(block);
    for (int i = 0; i < block.runs; ++i) {
      const TileRun run = block.run.load(i);
      for (int t = 0; t < run.count; ++t) transform_tile(block, run, t, (run.first + t) * row);
    }
  }
  // Of outputs from `first` on, a multiple of N.
  template <class Block>
  static NNK_FN WinogradFactors<S> factors(const Block& block, int point, int64 first, int count) {
    const Geometry& g = block.geometry();
    return {block.seen.data + point * block.seen_step,
            block.weights(point) + first * g.terms + block.first_term * N,
            seen_row(g),
            int(g.terms),
            block.tiles,
            count};
  }
  template <class Block>
  static NNK_APART void make_results(const Block& block, int64 first, int count) {
    const Geometry& g = block.geometry();
    for (int i = 0; i < block.runs; ++i) {
      const TileRun run = block.run.load(i);
      const auto place = TilePosition::of(g, block.first_tile + run.first);
      for (int t = 0; t < run.count; ++t) {
        const int columns = run.results[1] - 4 * t;
        const TilePosition there{place.image, place.depth, place.row, place.column + 4 * t};
        S* const to = byte_offset(block.args.y, run.result + 4 * t * g.result[4]);
        for (int o = 0; o < count; o += Lanes)
          make_tile(block, (run.first + t) * block.made_row + o, first + o, count - o,
                    run.results[0], columns < 4 ? columns : 4, to, there);
      }
    }
  }

 private:
  // So that rows that follow by powers of two do not meet in a few sets of a level-1 cache.
  static constexpr int row_pad = 16;

  // Rows past the last tile, which are multiplied as well, are zeros: see WinogradWeights.
  template <class Block> static NNK_FN void clear_rows(const Block& block) {
    const Geometry& g = block.geometry();
    const int from = block.tiles * seen_row(g), end = rows(g) * seen_row(g);
    for (int point = 0; point < points * points; ++point)
      for (int at = from; at < end; at += Lanes)
        block.seen.store_vec(point * block.seen_step + at, V::splat(S()));
  }
  // What the taps along the depth see of a tile.
  template <class Block>
  static NNK_FN void transform_tile(const Block& block, const TileRun& run, int t, int to) {
    const Geometry& g = block.geometry();
    int tap = int(block.first_term / g.channels);
    int64 channel = block.first_term - tap * g.channels;
    for (int term = 0; term < block.terms; ++tap, channel = 0) {
      const int64 left = g.channels - channel;
      const int count = int(left < block.terms - term ? left : block.terms - term);
      transform_channels(block, run, t, tap, channel, count, to + term);
      term += count;
    }
  }
  // Of some channels of a tap. The zeros past the last one are what the next tap takes the place
  // of, or what a row has to spare.
  template <class Block>
  static NNK_FN void transform_channels(const Block& block, const TileRun& run, int t, int tap,
                                        int64 channel, int count, int to) {
    const Geometry& g = block.geometry();
    const uint32 rows =
        is_in_depth(g, run, tap) ? lanes_from<points>(run.rows[0], run.rows[1]) : 0u;
    const uint32 columns = lanes_from<points>(-run.left - 4 * t, run.columns - 4 * t);
    const bool inside = (rows & columns) == (1u << points) - 1;
    const bool adjacent = g.stride[1] == int64(sizeof(S));
    const S* from =
        byte_offset(block.args.x, run.image + channel * g.stride[1] +
                                      tap * g.depth[2] * g.stride[2] + 4 * t * g.stride[4]);
    for (int left = count; left > 0; left -= Lanes, to += Lanes) {
      const auto wanted = [&](int r, int j) NNK_INLINE {
        return (rows >> r & columns >> j & 1) != 0 ? lanes_from<Lanes>(0, left) : 0u;
      };
      const auto at = [&](int r, int j) NNK_INLINE {
        return byte_offset(from, r * g.stride[3] + j * g.stride[4]);
      };
      const V zero = V::splat(S());
      if (inside && adjacent && left >= Lanes) {
        transform(block, to, [&](int r, int j) NNK_INLINE { return nnk::load<Lanes>(at(r, j)); });
      } else if (adjacent) {
        transform(block, to, [&](int r, int j) NNK_INLINE {
          return load_lanes<Lanes>(at(r, j), int64(sizeof(S)), wanted(r, j), zero);
        });
      } else {
        // A loop by way of memory: unrolled, loads of any strides took 3 s to compile.
        V seen[points * points];
        NNK_NO_UNROLL
        for (int i = 0; i < points * points; ++i) {
          const int r = i / points, j = i - r * points;
          seen[i] = load_lanes<Lanes>(at(r, j), g.stride[1], wanted(r, j), zero);
        }
        transform(block, to, [&](int r, int j) NNK_INLINE { return seen[r * points + j]; });
      }
      from = byte_offset(from, Lanes * g.stride[1]);
    }
  }
  // Of a tile and a register of channels. get: the input of a row and column
  template <class Block, class Get>
  static NNK_FN void transform(const Block& block, int to, Get get) {
    V half[points][points];
    NNK_UNROLL
    for (int j = 0; j < points; ++j) {
      V d[points], v[points];
      NNK_UNROLL
      for (int r = 0; r < points; ++r) d[r] = get(r, j);
      Winograd<S>::input(d, v);
      NNK_UNROLL
      for (int r = 0; r < points; ++r) half[r][j] = v[r];
    }
    NNK_UNROLL
    for (int r = 0; r < points; ++r) {
      V v[points];
      Winograd<S>::input(half[r], v);
      NNK_UNROLL
      for (int j = 0; j < points; ++j)
        block.seen.store_vec((r * points + j) * block.seen_step + to, v[j]);
    }
  }
  // Of a tile and outputs from `output` on, whose products are from `from` on.
  template <class Block>
  static NNK_FN void make_tile(const Block& block, int from, int64 output, int count, int rows,
                               int columns, S* to, const TilePosition& place) {
    const Geometry& g = block.geometry();
    V half[4][points];
    sum_columns<S, Lanes>(block, from, half);
    count = count < Lanes ? count : Lanes;
    const uint32 bits = lanes_from<Lanes>(0, count);
    to = byte_offset(to, output * g.result[1]);
    NNK_NO_UNROLL
    for (int i = 0; i < rows; ++i) {
      V y[4];
      Winograd<S>::sums(half[i], y);
      NNK_UNROLL
      for (int j = 0; j < 4; ++j)
        if (j < columns) {
          const int64 position[5] = {place.image, output, place.depth, place.row + i,
                                     place.column + j};
          store_lanes(
              byte_offset(to, i * g.result[3] + j * g.result[4]), g.result[1],
              placed(block, block.epilogue(y[j], int64(0), output, count), position, 1, count),
              bits);
        }
    }
  }
};

}  // namespace nnk
