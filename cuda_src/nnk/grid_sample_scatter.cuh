// The gradient of the image of grid_sample.cuh, for the one thread of a block (as
// GridSampleBackwardX in grid_sample_backward.cuh is for many): lanes are channels.
//
// A block owns N channels of an image. Their sums lie in scratch memory, element after element, so
// that a tap of a point is one vector to add to, where planes one by one would have N sums, each of
// which waits for that of the point before it. Points come in order: results have the same bits.
#pragma once
#include "nnk/axis_tables.cuh"
#include "nnk/grid_taps_vectors.cuh"

namespace nnk {

// How a plane of dx or dy lies: channels are adjacent, or its elements are in C order, or neither.
enum : int { planes_apart, channels_adjacent, elements_adjacent };

// T, TG: types of dx and dy, and of the grid;  S: in which all is computed
// OfDx, OfDy: how these lie
template <class T, class TG, class S, int Rank, int Mode, int Outside, int N, int Points,
          class Index, int OfDx, int OfDy>
struct GridSampleScatter {
  static constexpr int taps = all_taps(Mode, Rank);
  using V = Vec<S, N>;
  struct ElementTag {};
  struct WeightTag {};
  struct DyTag {};

  struct Args {
    T* dx;
    const void* unused;
    const T* dy;
    const TG* grid;
    Index channel_groups, channels;
    Index elements;  // of a plane
    Divisor<Index> by_channel_groups;
    Index dx_batch, dx_channel, dx_stride[Rank];
    Index dy_batch, dy_channel, dy_stride[Rank];
    Divisor<Index> by_size[Rank];
    Index row[Rank];  // elements from one position to the next
    GridPoints<TG, Rank, Index> grid_points;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    S* elements_sums = group.template dynamic_shared<S>(0, int(padded(args)) * N).data;
    const Index image = args.by_channel_groups.divide(Index(group.block()));
    const Index channel = (Index(group.block()) - image * args.channel_groups) * N;
    const int channels = args.channels - channel < N ? int(args.channels - channel) : N;
    const T* dy = byte_offset(args.dy, image * args.dy_batch + channel * args.dy_channel);
    for (Index e = 0; e < padded(args); ++e) nnk::store(elements_sums + e * N, V::splat(S(0)));
    for (Index first = 0; first < args.grid_points.points; first += Points) {
      const Index left = args.grid_points.points - first;
      add_tile(group, args, image, dy, first, left < Points ? int(left) : Points, channels,
               elements_sums);
    }
    T* dx = byte_offset(args.dx, image * args.dx_batch + channel * args.dx_channel);
    if constexpr (OfDx == elements_adjacent) write_planes(args, dx, channels, elements_sums);
    else write_elements(args, dx, channels, elements_sums);
  }

 private:
  // Elements of a plane in scratch memory: squares of N by N are turned.
  static NNK_FN Index padded(const Args& args) { return (args.elements + N - 1) / N * N; }

  // Taps are found for so many points at once.
  static constexpr int lanes = 64 / int(sizeof(S));
  static constexpr bool by_vectors =
      Points % lanes == 0 && sizeof(Index) == sizeof(S) && has_tap_vectors(Mode, Outside);

  static NNK_FN void find_vectors(const Args& args, Index image, Index point, int left,
                                  Index* elements, S* weights) {
    using VI = Vec<Index, lanes>;
    const PointVector<lanes, TG, Rank, Index> points{args.grid_points, point,
                                                     left < lanes ? left : lanes};
    const auto places = points.template places<Outside, S>(args.grid, image);
    NNK_UNROLL
    for (int t = 0; t < taps; ++t) {
      const auto tap = places.template tap<Rank>(t, args.row, Index(0));
      nnk::store(elements + t * Points, where(tap.there(), tap.bytes, VI::splat(-1)));
      nnk::store(weights + t * Points, tap.weight);
    }
  }

  template <class G>
  static NNK_FN void add_tile(G& group, const Args& args, Index image, const T* dy, Index first,
                              int count, int channels, S* sums) {
    const auto elements = group.template shared<Index, taps * Points, ElementTag>();
    const auto weights = group.template shared<S, taps * Points, WeightTag>();
    S* given = group.template shared<S, N * Points, DyTag>().data;
    if constexpr (by_vectors) {
      for (int p = 0; p < count; p += lanes)
        find_vectors(args, image, first + p, count - p, elements.data + p, weights.data + p);
    } else {
      for (int p = 0; p < count; ++p) {
        const auto found =
            args.grid_points.template taps<Mode, Outside, S>(args.grid, image, first + p);
        NNK_UNROLL
        for (int t = 0; t < taps; ++t) {
          elements.store(t * Points + p, found.offset(t, args.row, Index(0)));
          weights.store(t * Points + p, found.weight(t));
        }
      }
    }
    load_tile(args, dy, first, count, channels, given);
    for (int p = 0; p < count; ++p) {
      const V g = nnk::load<N>(given + p * N);
      NNK_UNROLL
      for (int t = 0; t < taps; ++t) {
        const Index e = elements.load(t * Points + p);
        if (e < 0) continue;
        S* to = sums + e * N;
        nnk::store(to, fma_always(V::splat(weights.load(t * Points + p)), g, nnk::load<N>(to)));
      }
    }
  }

  // The channels of each point of a tile, side by side.
  static NNK_FN void load_tile(const Args& args, const T* dy, Index first, int count, int channels,
                               S* given) {
    if constexpr (OfDy == elements_adjacent) {
      dy = byte_offset(dy, args.grid_points.at(first, args.dy_stride));
      for (int p = 0; p < count; p += N) {
        const int n = count - p < N ? count - p : N;
        V square[N];
        NNK_UNROLL
        for (int i = 0; i < N; ++i) {
          square[i] = V::splat(S(0));
          if (i < channels) {
            const T* from = byte_offset(dy + p, i * args.dy_channel);
            square[i] =
                convert<S>(n == N ? nnk::load<N>(from) : nnk::load_partial<N>(from, n, T()));
          }
        }
        transpose(square);
        NNK_UNROLL
        for (int i = 0; i < N; ++i) nnk::store(given + (p + i) * N, square[i]);
      }
    } else {
      for (int p = 0; p < count; ++p) {
        const T* from = byte_offset(dy, args.grid_points.at(first + p, args.dy_stride));
        V g;
        if constexpr (OfDy == planes_apart)
          g = convert<S>(nnk::load_strided<N>(from, args.dy_channel, channels, T()));
        else if (channels == N) g = convert<S>(nnk::load<N>(from));
        else g = convert<S>(nnk::load_partial<N>(from, channels, T()));
        nnk::store(given + p * N, g);
      }
    }
  }

  static NNK_FN void write_planes(const Args& args, T* dx, int channels, const S* sums) {
    for (Index e = 0; e < args.elements; e += N) {
      const int n = args.elements - e < N ? int(args.elements - e) : N;
      V square[N];
      NNK_UNROLL
      for (int i = 0; i < N; ++i) square[i] = nnk::load<N>(sums + (e + i) * N);
      transpose(square);
      NNK_UNROLL
      for (int i = 0; i < N; ++i) {
        if (i >= channels) continue;
        T* to = byte_offset(dx + e, i * args.dx_channel);
        const auto value = convert<T>(square[i]);
        if (n == N) nnk::store(to, value);
        else nnk::store_partial(to, value, n);
      }
    }
  }
  static NNK_FN void write_elements(const Args& args, T* dx, int channels, const S* sums) {
    for (Index e = 0; e < args.elements; ++e) {
      Index rest = e, offset = 0;
      NNK_UNROLL
      for (int a = Rank - 1; a >= 0; --a) {
        const Index next = a == 0 ? 0 : args.by_size[a].divide(rest);
        offset += (rest - next * args.by_size[a].divisor) * args.dx_stride[a];
        rest = next;
      }
      T* to = byte_offset(dx, offset);
      const auto value = convert<T>(nnk::load<N>(sums + e * N));
      if constexpr (OfDx == planes_apart) nnk::store_strided(to, args.dx_channel, value, channels);
      else if (channels == N) nnk::store(to, value);
      else nnk::store_partial(to, value, channels);
    }
  }
};

}  // namespace nnk
