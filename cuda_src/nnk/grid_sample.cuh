// Values of an image at the places that a grid names: y[n, c, p] = sum_t w_t(p) x[n, c, i_t(p)].
//
// A block has a tile of points: their taps are computed once, into shared memory, for all of its
// channels. Neighbouring threads (SIMD lanes) are neighbouring points, or neighbouring channels
// where these are adjacent in memory.
#pragma once
#include "nnk/axis_tables.cuh"
#include "nnk/grid_taps_vectors.cuh"

namespace nnk {

// T, TG: types of x and y, and of the grid;  S: in which all is computed
// Across: lanes are points, else channels, which are adjacent then
// UnitY: points of y are adjacent (Across)
// Paired: taps that are neighbours are loaded together (of a CPU, Across, linear, of float)
// Neighbours: all channels, which are adjacent in x and y, are loaded together (so, too), or 0
template <class T, class TG, class S, int Rank, int Mode, int Outside, int N, bool Across,
          int Points, class Index, bool UnitY, bool Paired = false, int Neighbours = 0>
struct GridSample {
  static_assert(!Paired || (Across && Mode == grid_linear), "the two taps of the last axis");
  static constexpr int taps = all_taps(Mode, Rank);
  using V = Vec<S, N>;
  static constexpr int register_budget = sizeof(S) > 4 || sizeof(Index) > 4 ? 128 : 96;
  struct OffsetTag {};
  struct WeightTag {};
  struct TargetTag {};
  struct ThereTag {};

  struct Args {
    T* y;
    const T* x;
    const TG* grid;
    Index tiles, channel_groups, channels_of_group, channels;
    Divisor<Index> by_tiles, by_channel_groups;
    Index y_batch, y_channel, y_stride[Rank];
    Index x_batch, x_channel, x_stride[Rank];
    Index x_plane_low;  // the lowest byte of a plane of x
    Index y_low, y_extent, x_low, x_extent;
    GridPoints<TG, Rank, Index> grid_points;
  };
  struct Tile {
    Shared<Index> offset;
    Shared<S> weight;
    Shared<Index> target;
    Index image, first, channel, channels;
    int count;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const Index images_and_tiles = args.by_channel_groups.divide(Index(group.block()));
    const Index channel_group =
        Index(group.block()) - images_and_tiles * args.by_channel_groups.divisor;
    const Index image = args.by_tiles.divide(images_and_tiles);
    Tile tile{group.template shared<Index, taps * Points, OffsetTag>(),
              group.template shared<S, taps * Points, WeightTag>(),
              group.template shared<Index, Points, TargetTag>(),
              image,
              (images_and_tiles - image * args.tiles) * Points,
              channel_group * args.channels_of_group,
              args.channels_of_group,
              Points};
    if (args.channels - tile.channel < tile.channels) tile.channels = args.channels - tile.channel;
    if (args.grid_points.points - tile.first < Points)
      tile.count = int(args.grid_points.points - tile.first);
    if constexpr (Paired) {
      const auto there = group.template shared<uint32, taps * Points, ThereTag>();
      if constexpr (by_vectors<G>) {
        for (int p = 0; p < tile.count; p += N) find_pair_vectors(args, tile, there, p);
      } else {
        const int points = (tile.count + N - 1) / N * N;
        for (int p = 0; p < points; ++p) find_pairs(args, tile, there, p);
      }
      sample_pairs(args, tile, there);
      return;
    }
    if constexpr (by_vectors<G>) {
      for (int p = 0; p < tile.count; p += N) find_tap_vectors(args, tile, p);
    } else {
      for (int p = group.rank(); p < Points; p += G::threads) find_taps(args, tile, p);
    }
    group.barrier();
    if constexpr (Neighbours > 0) sample_neighbours(args, tile);
    else if constexpr (Across) sample_points(group, args, tile);
    else sample_channels(group, args, tile);
  }

 private:
  // Whether taps are found for vectors of points.
  template <class G>
  static constexpr bool by_vectors = G::threads == 1 && N > 1 && Points % N == 0 &&
                                     sizeof(Index) == sizeof(S) && has_tap_vectors(Mode, Outside);

  static NNK_FN void find_taps(const Args& args, const Tile& tile, int p) {
    // Lanes past the last point repeat it, and are not written.
    const Index point = tile.first + (p < tile.count ? p : tile.count - 1);
    const auto found =
        args.grid_points.template taps<Mode, Outside, S>(args.grid, tile.image, point);
    NNK_UNROLL
    for (int t = 0; t < taps; ++t) {
      const Index offset = found.offset(t, args.x_stride, args.x_plane_low);
      tile.offset.store(t * Points + p, offset);
      tile.weight.store(t * Points + p, offset < 0 ? S(0) : found.weight(t));
    }
    tile.target.store(p, args.grid_points.at(point, args.y_stride));
  }

  // ---- N points at once, for one thread ---------------------------------------------------

  using VI = Vec<Index, N>;

  // Of the points of a tile from p on.
  static NNK_FN auto places_of(const Args& args, const Tile& tile, int p) {
    const int left = tile.count - p;
    const PointVector<N, TG, Rank, Index> points{args.grid_points, tile.first + p,
                                                 left < N ? left : N};
    if constexpr (UnitY) tile.target.store(p, args.grid_points.at(points.first, args.y_stride));
    else points.offsets(args.y_stride, tile.target.data + p);
    return points.template places<Outside, S>(args.grid, tile.image);
  }

  static NNK_FN void find_tap_vectors(const Args& args, const Tile& tile, int p) {
    const auto places = places_of(args, tile, p);
    NNK_UNROLL
    for (int t = 0; t < taps; ++t) {
      const auto tap = places.template tap<Rank>(t, args.x_stride, args.x_plane_low);
      nnk::store(tile.offset.data + t * Points + p,
                 where(tap.there(), tap.bytes, VI::splat(Index(-1))));
      nnk::store(tile.weight.data + t * Points + p,
                 where(bit_cast<Mask<S, N>>(tap.there()), tap.weight, V::splat(S(0))));
    }
  }
  template <class Flags>
  static NNK_FN void find_pair_vectors(const Args& args, const Tile& tile, const Flags& there,
                                       int p) {
    const auto places = places_of(args, tile, p);
    const auto pair = places.pair();
    NNK_UNROLL
    for (int t = 0; t < taps; t += 2) {
      const auto row = places.template tap<Rank - 1>(t / 2, args.x_stride, args.x_plane_low);
      const VI from = row.bytes + pair.first * Index(sizeof(T));
      nnk::store(tile.offset.data + t / 2 * Points + p,
                 where(row.there(), from, VI::splat(Index(0))));
      NNK_UNROLL
      for (int e = 0; e < 2; ++e) {
        const auto is_tap = (row.outside | pair.outside[e]) > Index(-1);
        nnk::store(
            tile.weight.data + (t + e) * Points + p,
            where(bit_cast<Mask<S, N>>(is_tap), row.weight * pair.weight[e], V::splat(S(0))));
        nnk::store(there.data + (t + e) * Points + p,
                   bits_as<uint32>(where(is_tap, VI::splat(Index(-1)), VI::splat(Index(0)))));
      }
    }
  }

  // ---- pairs of taps, for one thread ------------------------------------------------------

  // Offsets are those of pairs, weights those of elements.
  template <class Flags>
  static NNK_FN void find_pairs(const Args& args, const Tile& tile, const Flags& there, int p) {
    const Index point = tile.first + (p < tile.count ? p : tile.count - 1);
    const auto found =
        args.grid_points.template taps<Mode, Outside, S>(args.grid, tile.image, point);
    NNK_UNROLL
    for (int t = 0; t < taps; t += 2) {
      const TapPair<Index> pair(found.offset(t, args.x_stride, args.x_plane_low),
                                found.offset(t + 1, args.x_stride, args.x_plane_low),
                                Index(sizeof(T)));
      tile.offset.store(t / 2 * Points + p, pair.from);
      NNK_UNROLL
      for (int e = 0; e < 2; ++e) {
        tile.weight.store((t + e) * Points + p,
                          pair.there[e] ? found.weight(t + pair.tap[e]) : S(0));
        there.store((t + e) * Points + p, bits_if(pair.there[e]));
      }
    }
    tile.target.store(p, args.grid_points.at(point, args.y_stride));
  }
  template <class Flags>
  static NNK_FN void sample_pairs(const Args& args, const Tile& tile, const Flags& there) {
    for (Index c = 0; c < tile.channels; ++c) {
      const T* plane =
          byte_offset(args.x, tile.image * args.x_batch + (tile.channel + c) * args.x_channel +
                                  args.x_plane_low);
      for (int p = 0; p < tile.count; p += N) {
        V sum = V::splat(S(0));
        NNK_UNROLL
        for (int t = 0; t < taps; t += 2) {
          V x[2];
          load_pairs(plane, tile.offset.data + t / 2 * Points + p, x[0], x[1]);
          NNK_UNROLL
          for (int e = 0; e < 2; ++e) {
            const int at = (t + e) * Points + p;
            const auto bits = there.template load_vec<N>(at);
            sum = fma_always(tile.weight.template load_vec<N>(at),
                             bits_as<S>(bits_as<uint32>(x[e]) & bits), sum);
          }
        }
        store(args, tile, c, p, sum);
      }
    }
  }

  // All channels of N points, for one thread.
  static NNK_FN void sample_neighbours(const Args& args, const Tile& tile) {
    const T* plane = byte_offset(args.x, tile.image * args.x_batch + args.x_plane_low);
    T* y = byte_offset(args.y, tile.image * args.y_batch);
    for (int p = 0; p < tile.count; p += N) {
      V sum[Neighbours];
      NNK_UNROLL
      for (int c = 0; c < Neighbours; ++c) sum[c] = V::splat(S(0));
      NNK_UNROLL
      for (int t = 0; t < taps; ++t) {
        V x[Neighbours];
        load_taps(plane, tile.offset.template load_vec<N>(t * Points + p), x);
        const auto weight = tile.weight.template load_vec<N>(t * Points + p);
        NNK_UNROLL
        for (int c = 0; c < Neighbours; ++c) sum[c] = fma_always(weight, x[c], sum[c]);
      }
      const int left = tile.count - p;
      store_neighbours(y, tile.target.data + p, sum, left < N ? left : N);
    }
  }

  template <class G>
  static NNK_FN void sample_points(G& group, const Args& args, const Tile& tile) {
    constexpr int vectors = Points / N;
    for (Index item = group.rank(); item < tile.channels * vectors; item += G::threads) {
      const Index c = item / vectors;
      const int p = int(item - c * vectors) * N;
      if (p >= tile.count) continue;
      const Index plane =
          tile.image * args.x_batch + (tile.channel + c) * args.x_channel + args.x_plane_low;
      V sum = V::splat(S(0));
      for (int t = 0; t < taps; ++t) {
        const auto offset = tile.offset.template load_vec<N>(t * Points + p);
        sum = fma_always(tile.weight.template load_vec<N>(t * Points + p),
                         convert<S>(elements(args, plane, offset)), sum);
      }
      store(args, tile, c, p, sum);
    }
  }
  static NNK_FN void store(const Args& args, const Tile& tile, Index c, int p, const V& sum) {
    const Reached<T, Index> y{args.y, args.y_low, args.y_extent};
    const Index to = tile.image * args.y_batch + (tile.channel + c) * args.y_channel;
    const auto value = convert<T>(sum);
    const int count = tile.count - p < N ? tile.count - p : N;
    if constexpr (UnitY) {
      y.template store<N, true>(to + tile.target.load(p), Index(sizeof(T)), count, value);
    } else {
      for (int i = 0; i < count; ++i) {
        Vec<T, 1> one;
        one.set(0, value[i]);
        y.template store<1, true>(to + tile.target.load(p + i), Index(sizeof(T)), 1, one);
      }
    }
  }
  static NNK_FN Vec<T, N> elements(const Args& args, Index plane, const Vec<Index, N>& offset) {
    const Reached<const T, Index> x{args.x, args.x_low, args.x_extent};
    if constexpr (N == 1) {
      if (offset[0] < 0) return Vec<T, 1>::splat(T());
      return nnk::load<1>(x.at(plane + offset[0], 1));
    } else {
      return load_or_zero(byte_offset(args.x, plane), offset);
    }
  }

  template <class G>
  static NNK_FN void sample_channels(G& group, const Args& args, const Tile& tile) {
    const Index vectors = (tile.channels + N - 1) / N;
    const Reached<T, Index> y{args.y, args.y_low, args.y_extent};
    const Reached<const T, Index> x{args.x, args.x_low, args.x_extent};
    int p = 0;
    Index v = group.rank();
    for (;;) {
      while (v >= vectors) {  // the next point
        v -= vectors;
        ++p;
      }
      if (p >= tile.count) return;
      const Index c = v * N;
      const int count = tile.channels - c < N ? int(tile.channels - c) : N;
      const Index channel = (tile.channel + c) * Index(sizeof(T));
      const Index plane = tile.image * args.x_batch + args.x_plane_low + channel;
      V sum = V::splat(S(0));
      for (int t = 0; t < taps; ++t) {
        const Index offset = tile.offset.load(t * Points + p);
        if (offset < 0) continue;
        const V weight = V::splat(tile.weight.load(t * Points + p));
        sum = fma_always(
            weight, convert<S>(x.template load<N, true>(plane + offset, Index(sizeof(T)), count)),
            sum);
      }
      y.template store<N, true>(tile.image * args.y_batch + tile.target.load(p) + channel,
                                Index(sizeof(T)), count, convert<T>(sum));
      v += G::threads;
    }
  }
};

}  // namespace nnk
