// Gradients of grid_sample.cuh, with w_t(p) the weights and i_t(p) the elements of point p:
//
//   dgrid[n, p, a] = sum_c dy[n, c, p] sum_t (dw_t(p) / dgrid_a) x[n, c, i_t(p)]
//   dx[n, c, i] = sum over all p and t with i_t(p) = i of w_t(p) dy[n, c, p]
//
// dgrid is a gather: lanes are points, which go through all channels. dx is a scatter. It takes no
// atomics, and adds in the order of points: a thread owns a range of elements of a plane (n, c),
// goes through all points of the image, and takes what is for its range. All threads of a block
// read the taps that it computes together, a tile at a time. That is work for each range of a
// plane over again, so a GPU is well used only where there are many channels.
#pragma once
#include "nnk/axis_tables.cuh"
#include "nnk/grid_taps_vectors.cuh"

namespace nnk {

// T, TG: types of x and dy, and of the grid;  S: in which all is computed
// Planes: a thread goes through x plane by plane (of a CPU, where elements of a row are adjacent)
// Paired: taps that are neighbours are loaded together, as in grid_sample.cuh (Planes)
// UnitDy: points of dy are adjacent (Planes)
// Neighbours: all channels, which are adjacent in x and dy, are loaded together (of a CPU, of
// float), or 0
template <class T, class TG, class S, int Rank, int Mode, int Outside, int N, int Points,
          class Index, bool Planes = false, bool Paired = false, bool UnitDy = false,
          int Neighbours = 0>
struct GridSampleBackwardGrid {
  static constexpr int taps = all_taps(Mode, Rank);
  using V = Vec<S, N>;
  static constexpr int register_budget = sizeof(S) > 4 || sizeof(Index) > 4 ? 128 : 96;
  struct OffsetTag {};
  struct SlopeTag {};
  struct DyTag {};
  struct ThereTag {};
  struct TotalTag {};

  struct Args {
    TG* dgrid;
    const T* dy;
    const T* x;
    const TG* grid;
    Index tiles, channels;
    Divisor<Index> by_tiles;
    Index dgrid_batch, dgrid_stride[Rank], dgrid_last;
    Index dy_batch, dy_channel, dy_stride[Rank], dy_plane_low;
    Index x_batch, x_channel, x_stride[Rank], x_plane_low;
    GridPoints<TG, Rank, Index> grid_points;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const auto offsets = group.template shared<Index, taps * Points, OffsetTag>();
    const auto slopes = group.template shared<S, Rank * taps * Points, SlopeTag>();
    const auto dy_offsets = group.template shared<Index, Points, DyTag>();
    const Index image = args.by_tiles.divide(Index(group.block()));
    const Index first = (Index(group.block()) - image * args.tiles) * Points;
    const int count =
        args.grid_points.points - first < Points ? int(args.grid_points.points - first) : Points;
    if constexpr (by_vectors<G>) {
      for (int p = 0; p < count; p += N)
        find_vectors(group, args, image, first + p, count - p, offsets, slopes, dy_offsets, p);
    } else {
      const int points = G::threads == 1 ? (count + N - 1) / N * N : Points;
      for (int p = group.rank(); p < points; p += G::threads) {
        const Index point = first + (p < count ? p : count - 1);
        const auto found =
            args.grid_points.template taps<Mode, Outside, S>(args.grid, image, point);
        if constexpr (Paired) {
          find_pairs(args, found, offsets, slopes, there_of(group), p);
        } else {
          NNK_UNROLL
          for (int t = 0; t < taps; ++t) {
            const Index offset = found.offset(t, args.x_stride, args.x_plane_low);
            offsets.store(t * Points + p, offset);
            NNK_UNROLL
            for (int a = 0; a < Rank; ++a)
              slopes.store((a * taps + t) * Points + p, offset < 0 ? S(0) : found.slope(t, a));
          }
        }
        dy_offsets.store(p, args.grid_points.at(point, args.dy_stride) - args.dy_plane_low);
      }
    }
    group.barrier();
    if constexpr (Planes) {
      sum_planes(group, args, offsets, slopes, dy_offsets, image, first, count);
    } else if constexpr (Neighbours > 0) {
      sum_neighbours(args, offsets, slopes, dy_offsets, image, first, count);
    } else {
      for (int p = group.rank() * N; p < count; p += G::threads * N) {
        V total[Rank];
        NNK_UNROLL
        for (int a = 0; a < Rank; ++a) total[a] = V::splat(S(0));
        const auto at_dy = dy_offsets.template load_vec<N>(p);
        for (Index c = 0; c < args.channels; ++c) {
          const T* plane =
              byte_offset(args.x, image * args.x_batch + c * args.x_channel + args.x_plane_low);
          V sum[Rank];
          NNK_UNROLL
          for (int a = 0; a < Rank; ++a) sum[a] = V::splat(S(0));
          for (int t = 0; t < taps; ++t) {
            const V x =
                convert<S>(load_or_zero(plane, offsets.template load_vec<N>(t * Points + p)));
            NNK_UNROLL
            for (int a = 0; a < Rank; ++a)
              sum[a] =
                  fma_always(slopes.template load_vec<N>((a * taps + t) * Points + p), x, sum[a]);
          }
          const T* of_dy =
              byte_offset(args.dy, image * args.dy_batch + c * args.dy_channel + args.dy_plane_low);
          const V dy = convert<S>(load_or_zero(of_dy, at_dy));
          NNK_UNROLL
          for (int a = 0; a < Rank; ++a) total[a] = fma_always(dy, sum[a], total[a]);
        }
        write(args, image, first, p, count, total);
      }
    }
  }

 private:
  // Whether taps are found for vectors of points.
  template <class G>
  static constexpr bool by_vectors = G::threads == 1 && N > 1 && Points % N == 0 &&
                                     sizeof(Index) == sizeof(S) && has_tap_vectors(Mode, Outside);

  static NNK_FN void write(const Args& args, Index image, Index first, int p, int count,
                           const V (&total)[Rank]) {
    if constexpr (Planes || Neighbours > 0) {
      if (follow(args.grid_points.by_shape, args.dgrid_stride)) {
        const Index step = args.dgrid_stride[Rank - 1];
        TG* to = byte_offset(args.dgrid, image * args.dgrid_batch + (first + p) * step);
        NNK_UNROLL
        for (int a = 0; a < Rank; ++a)
          nnk::store_strided(byte_offset(to, Index(Rank - 1 - a) * args.dgrid_last), step,
                             convert<TG>(total[a]), count - p < N ? count - p : N);
        return;
      }
    }
    for (int i = 0; i < N && p + i < count; ++i) {
      TG* to = byte_offset(args.dgrid, image * args.dgrid_batch +
                                           args.grid_points.at(first + p + i, args.dgrid_stride));
      NNK_UNROLL
      for (int a = 0; a < Rank; ++a) {
        Vec<TG, 1> one;
        one.set(0, convert_scalar<TG>(total[a][i]));
        nnk::store(byte_offset(to, Index(Rank - 1 - a) * args.dgrid_last), one);
      }
    }
  }

  // All channels of N points at once, for one thread; sums have the order of those by planes.
  template <class Offsets, class Slopes>
  static NNK_FN void sum_neighbours(const Args& args, const Offsets& offsets, const Slopes& slopes,
                                    const Offsets& dy_offsets, Index image, Index first,
                                    int count) {
    const T* plane = byte_offset(args.x, image * args.x_batch + args.x_plane_low);
    const T* of_dy = byte_offset(args.dy, image * args.dy_batch + args.dy_plane_low);
    for (int p = 0; p < count; p += N) {
      V sum[Rank][Neighbours], total[Rank];
      NNK_UNROLL
      for (int a = 0; a < Rank; ++a) {
        NNK_UNROLL
        for (int c = 0; c < Neighbours; ++c) sum[a][c] = V::splat(S(0));
        total[a] = V::splat(S(0));
      }
      NNK_UNROLL
      for (int t = 0; t < taps; ++t) {
        V x[Neighbours];
        load_taps(plane, offsets.template load_vec<N>(t * Points + p), x);
        NNK_UNROLL
        for (int a = 0; a < Rank; ++a) {
          const auto slope = slopes.template load_vec<N>((a * taps + t) * Points + p);
          NNK_UNROLL
          for (int c = 0; c < Neighbours; ++c) sum[a][c] = fma_always(slope, x[c], sum[a][c]);
        }
      }
      V dy[Neighbours];
      load_neighbours(of_dy, dy_offsets.data + p, dy);
      NNK_UNROLL
      for (int a = 0; a < Rank; ++a) {
        NNK_UNROLL
        for (int c = 0; c < Neighbours; ++c) total[a] = fma_always(dy[c], sum[a][c], total[a]);
      }
      write(args, image, first, p, count, total);
    }
  }

  // One thread goes from plane to plane, of which it reads what is adjacent then.
  template <class G, class Offsets, class Slopes>
  static NNK_FN void sum_planes(G& group, const Args& args, const Offsets& offsets,
                                const Slopes& slopes, const Offsets& dy_offsets, Index image,
                                Index first, int count) {
    const auto totals = group.template shared<S, Rank * Points, TotalTag>();
    for (int i = 0; i < Rank * Points; i += N) totals.store_vec(i, V::splat(S(0)));
    for (Index c = 0; c < args.channels; ++c) {
      const T* plane =
          byte_offset(args.x, image * args.x_batch + c * args.x_channel + args.x_plane_low);
      const T* of_dy =
          byte_offset(args.dy, image * args.dy_batch + c * args.dy_channel + args.dy_plane_low);
      for (int p = 0; p < count; p += N) {
        V sum[Rank];
        NNK_UNROLL
        for (int a = 0; a < Rank; ++a) sum[a] = V::splat(S(0));
        const auto add = [&](int t, const V& x) NNK_INLINE {
          NNK_UNROLL
          for (int a = 0; a < Rank; ++a)
            sum[a] =
                fma_always(slopes.template load_vec<N>((a * taps + t) * Points + p), x, sum[a]);
        };
        if constexpr (Paired) {
          const auto there = there_of(group);
          NNK_UNROLL
          for (int t = 0; t < taps; t += 2) {
            V x[2];
            load_pairs(plane, offsets.data + t / 2 * Points + p, x[0], x[1]);
            NNK_UNROLL
            for (int e = 0; e < 2; ++e) {
              const auto bits = there.template load_vec<N>((t + e) * Points + p);
              add(t + e, bits_as<S>(bits_as<uint32>(x[e]) & bits));
            }
          }
        } else {
          for (int t = 0; t < taps; ++t)
            add(t, convert<S>(load_or_zero(plane, offsets.template load_vec<N>(t * Points + p))));
        }
        const V dy = dy_at(of_dy, dy_offsets, p, count);
        NNK_UNROLL
        for (int a = 0; a < Rank; ++a)
          totals.store_vec(a * Points + p,
                           fma_always(dy, sum[a], totals.template load_vec<N>(a * Points + p)));
      }
    }
    for (int p = 0; p < count; p += N) {
      V total[Rank];
      NNK_UNROLL
      for (int a = 0; a < Rank; ++a) total[a] = totals.template load_vec<N>(a * Points + p);
      write(args, image, first, p, count, total);
    }
  }
  template <class Offsets>
  static NNK_FN V dy_at(const T* of_dy, const Offsets& dy_offsets, int p, int count) {
    if constexpr (UnitDy) {
      const T* from = byte_offset(of_dy, dy_offsets.load(p));
      return convert<S>(p + N <= count ? nnk::load<N>(from)
                                       : nnk::load_partial<N>(from, count - p, T()));
    } else {
      return convert<S>(load_or_zero(of_dy, dy_offsets.template load_vec<N>(p)));
    }
  }
  // The taps of N points from `point` on, of which there are `left`, for one thread.
  template <class G, class Offsets, class Slopes>
  static NNK_FN void find_vectors(G& group, const Args& args, Index image, Index point, int left,
                                  const Offsets& offsets, const Slopes& slopes,
                                  const Offsets& dy_offsets, int p) {
    using VI = Vec<Index, N>;
    const PointVector<N, TG, Rank, Index> points{args.grid_points, point, left < N ? left : N};
    points.offsets(args.dy_stride, dy_offsets.data + p);
    for (int i = 0; i < N; ++i) dy_offsets.data[p + i] -= args.dy_plane_low;
    const auto places = points.template places<Outside, S>(args.grid, image);
    const V none = V::splat(S(0));
    if constexpr (Paired) {
      const auto pair = places.pair();
      NNK_UNROLL
      for (int t = 0; t < taps; t += 2) {
        const auto row = places.template tap<Rank - 1>(t / 2, args.x_stride, args.x_plane_low);
        nnk::store(offsets.data + t / 2 * Points + p,
                   where(row.there(), row.bytes + pair.first * Index(sizeof(T)), VI::splat(0)));
        NNK_UNROLL
        for (int e = 0; e < 2; ++e) {
          const auto is_tap = (row.outside | pair.outside[e]) > Index(-1);
          nnk::store(there_of(group).data + (t + e) * Points + p,
                     bits_as<uint32>(where(is_tap, VI::splat(-1), VI::splat(0))));
          NNK_UNROLL
          for (int a = 0; a < Rank; ++a) {
            const V of_row = places.template slope<Rank - 1>(t / 2, a);
            const V slope = of_row * (a == Rank - 1 ? pair.slope[e] : pair.weight[e]);
            nnk::store(slopes.data + (a * taps + t + e) * Points + p,
                       where(bit_cast<Mask<S, N>>(is_tap), slope, none));
          }
        }
      }
    } else {
      NNK_UNROLL
      for (int t = 0; t < taps; ++t) {
        const auto tap = places.template tap<Rank>(t, args.x_stride, args.x_plane_low);
        nnk::store(offsets.data + t * Points + p, where(tap.there(), tap.bytes, VI::splat(-1)));
        NNK_UNROLL
        for (int a = 0; a < Rank; ++a)
          nnk::store(
              slopes.data + (a * taps + t) * Points + p,
              where(bit_cast<Mask<S, N>>(tap.there()), places.template slope<Rank>(t, a), none));
      }
    }
  }
  template <class G> static NNK_FN auto there_of(G& group) {
    return group.template shared<uint32, taps * Points, ThereTag>();
  }
  template <class Found, class Offsets, class Slopes, class Flags>
  static NNK_FN void find_pairs(const Args& args, const Found& found, const Offsets& offsets,
                                const Slopes& slopes, const Flags& there, int p) {
    NNK_UNROLL
    for (int t = 0; t < taps; t += 2) {
      const TapPair<Index> pair(found.offset(t, args.x_stride, args.x_plane_low),
                                found.offset(t + 1, args.x_stride, args.x_plane_low),
                                Index(sizeof(T)));
      offsets.store(t / 2 * Points + p, pair.from);
      NNK_UNROLL
      for (int e = 0; e < 2; ++e) {
        there.store((t + e) * Points + p, bits_if(pair.there[e]));
        NNK_UNROLL
        for (int a = 0; a < Rank; ++a)
          slopes.store((a * taps + t + e) * Points + p,
                       pair.there[e] ? found.slope(t + pair.tap[e], a) : S(0));
      }
    }
  }
};

// Sums are made in memory of their own, [n][c][element], where T is not S or the elements of a
// plane of dx are no one axis (Apart); else in dx itself.
template <class T, class TG, class S, int Rank, int Mode, int Outside, int Points, class Index,
          bool Apart>
struct GridSampleBackwardX {
  static constexpr int taps = all_taps(Mode, Rank);
  static constexpr int register_budget = sizeof(S) > 4 || sizeof(Index) > 4 ? 128 : 96;
  struct ElementTag {};
  struct WeightTag {};
  struct DyTag {};

  struct Args {
    T* dx;
    S* sums;
    const T* dy;
    const TG* grid;
    Index channel_groups, channels_of_group, channels;
    Index range_groups, ranges_of_group, range, elements;  // of a plane
    Divisor<Index> by_channel_groups, by_range_groups, by_channels;
    Index sums_batch, sums_channel, sums_element;
    Index dx_batch, dx_channel, dx_stride[Rank];
    Index dy_batch, dy_channel, dy_stride[Rank];
    Divisor<Index> by_size[Rank];
    Index row[Rank];  // elements from one position to the next
    GridPoints<TG, Rank, Index> grid_points;
  };

  // What a thread owns: elements [first, last) of a plane.
  struct Owned {
    Index channel, first, last;
    S* sums;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const auto elements = group.template shared<Index, taps * Points, ElementTag>();
    const auto weights = group.template shared<S, taps * Points, WeightTag>();
    const auto dy_offsets = group.template shared<Index, Points, DyTag>();
    const Index upper = args.by_range_groups.divide(Index(group.block()));
    const Index range_group = Index(group.block()) - upper * args.range_groups;
    const Index image = args.by_channel_groups.divide(upper);
    const Index channel = (upper - image * args.channel_groups) * args.channels_of_group;
    const Index items = args.channels_of_group * args.ranges_of_group;
    const Index range = range_group * args.ranges_of_group;
    for (Index item = group.rank(); item < items; item += G::threads) {
      const Owned own = owned(args, image, channel, range, item);
      for (Index e = own.first; e < own.last; ++e) *sum_at(args, own, e) = S(0);
    }
    for (Index first = 0; first < args.grid_points.points; first += Points) {
      const Index left = args.grid_points.points - first;
      const int count = left < Points ? int(left) : Points;
      group.barrier();  // all have read the tile before
      for (int p = group.rank(); p < count; p += G::threads) {
        const auto found =
            args.grid_points.template taps<Mode, Outside, S>(args.grid, image, first + p);
        NNK_UNROLL
        for (int t = 0; t < taps; ++t) {
          elements.store(t * Points + p, found.offset(t, args.row, Index(0)));
          weights.store(t * Points + p, found.weight(t));
        }
        dy_offsets.store(p, args.grid_points.at(first + p, args.dy_stride));
      }
      group.barrier();
      for (Index item = group.rank(); item < items; item += G::threads)
        add(args, owned(args, image, channel, range, item), image, elements, weights, dy_offsets,
            count);
    }
    if constexpr (Apart) {
      for (Index item = group.rank(); item < items; item += G::threads)
        write(args, owned(args, image, channel, range, item), image);
    }
  }

 private:
  static NNK_FN Owned owned(const Args& args, Index image, Index channel, Index range, Index item) {
    // Neighbouring threads have neighbouring channels.
    const Index r = args.by_channels.divide(item);
    Owned own;
    own.channel = channel + item - r * args.by_channels.divisor;
    own.first = (range + r) * args.range;
    own.last = own.first + args.range < args.elements ? own.first + args.range : args.elements;
    if (own.channel >= args.channels) own.last = own.first;
    own.sums = byte_offset(args.sums, image * args.sums_batch + own.channel * args.sums_channel);
    return own;
  }
  static NNK_FN S* sum_at(const Args& args, const Owned& own, Index e) {
    return byte_offset(own.sums, e * args.sums_element);
  }
  template <class Elements, class Weights>
  static NNK_FN void add(const Args& args, const Owned& own, Index image, const Elements& elements,
                         const Weights& weights, const Elements& dy_offsets, int count) {
    if (own.first >= own.last) return;
    const T* dy = byte_offset(args.dy, image * args.dy_batch + own.channel * args.dy_channel);
    for (int p = 0; p < count; ++p) {
      const S g = convert_scalar<S>(nnk::load<1>(byte_offset(dy, dy_offsets.load(p)))[0]);
      NNK_UNROLL
      for (int t = 0; t < taps; ++t) {
        const Index e = elements.load(t * Points + p);
        if (e >= own.first && e < own.last) {
          S* to = sum_at(args, own, e);
          *to = fma_always(Vec<S, 1>::splat(weights.load(t * Points + p)), Vec<S, 1>::splat(g),
                           Vec<S, 1>::splat(*to))[0];
        }
      }
    }
  }
  static NNK_FN void write(const Args& args, const Owned& own, Index image) {
    T* plane = byte_offset(args.dx, image * args.dx_batch + own.channel * args.dx_channel);
    for (Index e = own.first; e < own.last; ++e) {
      Index rest = e, offset = 0;
      NNK_UNROLL
      for (int a = Rank - 1; a >= 0; --a) {
        const Index next = a == 0 ? 0 : args.by_size[a].divide(rest);
        offset += (rest - next * args.by_size[a].divisor) * args.dx_stride[a];
        rest = next;
      }
      Vec<T, 1> one;
      one.set(0, convert_scalar<T>(*sum_at(args, own, e)));
      nnk::store(byte_offset(plane, offset), one);
    }
  }
};

}  // namespace nnk
