// max_unpool.cuh for a block of one thread: vectors of what is pooled, along a row, or along planes
// that lie element beside element. Where elements of a plane are at multiples of their numbers
// ("linear"), nothing is divided.
#pragma once
#include "nnk/max_unpool.cuh"

namespace nnk {

// Across  whether a vector is of N planes, and a unit of some vectors; else a unit is of one plane
// Step    unit_step or any_step: of what is pooled and of its indices along a vector
template <class T, class Index, int N, int Step, bool Across> struct UnpoolVectors {
  using Args = UnpoolArgs<Index>;
  using V = Vec<T, N>;

  // One plane or some of them: bytes to the first one in each operand, and how many they are.
  struct Planes {
    Index bytes[3];
    int count;
  };
  static NNK_FN Planes planes_of(const Args& args, Index number) {
    const Index outer = Across ? args.by_groups.divide(number) : number;
    const Index a = args.by_planes.divide(outer), b = outer - a * args.by_planes.divisor;
    const Index lane = Across ? (number - outer * args.by_groups.divisor) * args.group : 0;
    Planes planes;
    NNK_UNROLL
    for (int i = 0; i < 3; ++i)
      planes.bytes[i] = args.at[i].of_plane(a, b) + lane * args.at[i].lane;
    planes.count = Across ? int(lesser_of(args.group, args.lanes - lane)) : 1;
    return planes;
  }
  // Numbers of elements from indices in a vector, below 0 where they are none of the plane.
  static NNK_FN Vec<Index, N> numbers_at(const Args& args, Index from, int count) {
    const Line<const int64, Index, Step> names{
        byte_offset(static_cast<const int64*>(args.indices), from), Index(count),
        Across ? args.at[2].lane : args.at[2].space[2]};
    const Vec<int64, N> given = count == N ? names.template load<N>(0)
                                           : names.template load_partial<N>(0, count, int64(-1));
    const int64 size = args.template size<0>();
    const auto none = Vec<int64, N>::splat(-1);
    return convert<Index>(where(given < size, max(given, none), none));
  }
  // Where they are, if linear: bytes from the lowest one on, or -1.
  static NNK_FN Vec<Index, N> places_of(const Args& args, const Vec<Index, N>& number, Index lane) {
    const Vec<Index, N> place =
        number * args.at[0].space[2] + (lanes_in_order<Index, N>() * lane - args.low);
    return where(number < Index(0), Vec<Index, N>::splat(-1), place);
  }
  static NNK_FN Index row_of(const Args& args, int operand, Index row) {
    const Index depth = args.by_height[1].divide(row);
    return args.at[operand].at(depth, row - depth * args.sides[1][1], 0);
  }
};

// y: a unit is a plane, or some vectors of them, and its elements are written in order of their
// indices. Of all planes that lie element beside element, memory is then written in order.
template <class T, class Index, int N, int Step, bool Across>
struct MaxUnpoolVectors : UnpoolVectors<T, Index, N, Step, Across> {
  using Base = UnpoolVectors<T, Index, N, Step, Across>;
  using typename Base::Args;
  using typename Base::Planes;

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 first = group.block() * args.tile;
    const int64 last = lesser_of(first + args.tile, args.units);
    for (int64 unit = first; unit < last; ++unit) {
      const Planes planes = Base::planes_of(args, Index(unit));
      clear(args, planes);
      put(args, planes);
    }
  }

 private:
  static NNK_FN void clear(const Args& args, const Planes& planes) {
    const auto& at = args.at[0];
    Index height = args.sides[0][1], width = args.sides[0][2], depth = args.sides[0][0];
    if (args.linear) {
      width *= depth * height;
      depth = height = 1;
    }
    for (Index d = 0; d < depth; ++d) {
      for (Index h = 0; h < height; ++h) {
        T* row = byte_offset(static_cast<T*>(args.plane), planes.bytes[0] + at.at(d, h, 0));
        if constexpr (Across) {
          for (Index w = 0; w < width; ++w) {
            T* pixel = byte_offset(row, w * at.space[2]);
            for (int l = 0; l < planes.count; l += N)
              zeros(byte_offset(pixel, l * at.lane), at.lane, lesser_of(N, planes.count - l));
          }
        } else {
          for (Index w = 0; w < width; w += N)
            zeros(byte_offset(row, w * at.space[2]), at.space[2],
                  int(lesser_of(Index(N), width - w)));
        }
      }
    }
  }
  static NNK_FN void zeros(T* to, Index step, int count) {
    const Vec<T, N> zero = Vec<T, N>::splat(T());
    if (step != Index(sizeof(T))) nnk::store_strided(to, step, zero, count);
    else if (count == N) nnk::store(to, zero);
    else nnk::store_partial(to, zero, count);
  }

  static NNK_FN void put(const Args& args, const Planes& planes) {
    const auto& at = args.at;
    const Index width = args.sides[1][2];
    T* plane = byte_offset(static_cast<T*>(args.plane), planes.bytes[0]);
    for (Index row = 0; row < args.sides[1][0] * args.sides[1][1]; ++row) {
      const Index from = planes.bytes[1] + Base::row_of(args, 1, row);
      const Index names = planes.bytes[2] + Base::row_of(args, 2, row);
      for (Index w = 0; w < width; w += Across ? 1 : N) {
        const Index x = from + w * at[1].space[2], name = names + w * at[2].space[2];
        if constexpr (Across) {
          for (int l = 0; l < planes.count; l += N)
            put_vector(args, byte_offset(plane, l * at[0].lane), x + l * at[1].lane,
                       name + l * at[2].lane, lesser_of(N, planes.count - l));
        } else {
          put_vector(args, plane, x, name, int(lesser_of(Index(N), width - w)));
        }
      }
    }
  }
  // Places are those of a vector of indices at once; elements go there one by one.
  static NNK_FN void put_vector(const Args& args, T* plane, Index from, Index names, int count) {
    const auto& at = args.at;
    const Index lane = Across ? at[0].lane : Index(0);
    const Index step = Across ? at[1].lane : at[1].space[2];
    const T* pooled = byte_offset(static_cast<const T*>(args.pooled), from);
    const Vec<Index, N> number = Base::numbers_at(args, names, count);
    Index place[N];
    nnk::store(static_cast<Index*>(place), number);
    if (args.linear) nnk::store(static_cast<Index*>(place), Base::places_of(args, number, lane));
    T* low = args.linear ? byte_offset(plane, args.low) : plane;
    const auto one = [&](int l) NNK_INLINE {
      if (place[l] < 0) return;
      const Index to = args.linear ? place[l] : args.template offset<0>(place[l]) + Index(l) * lane;
      put_element(byte_offset(low, to),
                  get_element(byte_offset(
                      pooled, Index(l) * (Step == unit_step ? Index(sizeof(T)) : step))));
    };
    if (count == N) {
      NNK_UNROLL
      for (int l = 0; l < N; ++l) one(l);
    } else {
      for (int l = 0; l < count; ++l) one(l);
    }
  }
};

// dx: a unit is a row of what is pooled, in one plane or in N of them.
template <class T, class Index, int N, int Step, bool Across>
struct MaxUnpoolBackwardVectors : UnpoolVectors<T, Index, N, Step, Across> {
  using Base = UnpoolVectors<T, Index, N, Step, Across>;
  using typename Base::Args;
  using typename Base::Planes;

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 first = group.block() * args.tile;
    const int64 last = lesser_of(first + args.tile, args.units);
    for (Index unit = Index(first); unit < Index(last); ++unit) {
      const Index number = args.by_rows.divide(unit);
      const Planes planes = Base::planes_of(args, number);
      const Index row = unit - number * args.by_rows.divisor;
      const Index to = planes.bytes[1] + Base::row_of(args, 1, row);
      const Index from = planes.bytes[2] + Base::row_of(args, 2, row);
      const Index width = args.sides[1][2];
      for (Index w = 0; w < width; w += Across ? 1 : N) {
        const int count = Across ? planes.count : int(lesser_of(Index(N), width - w));
        take(args, planes, to + w * args.at[1].space[2], from + w * args.at[2].space[2], count);
      }
    }
  }

 private:
  static NNK_FN void take(const Args& args, const Planes& planes, Index to, Index from, int count) {
    const auto& at = args.at;
    const Line<T, Index, Step> line{byte_offset(static_cast<T*>(args.pooled), to), Index(count),
                                    Across ? at[1].lane : at[1].space[2]};
    const T* plane = byte_offset(static_cast<const T*>(args.plane), planes.bytes[0]);
    const Index lane = Across ? at[0].lane : Index(0);
    const Vec<Index, N> number = Base::numbers_at(args, from, count);
    Vec<T, N> value;
    if (args.linear) {
      value = load_or_zero(byte_offset(plane, args.low), Base::places_of(args, number, lane));
    } else {
      value = Vec<T, N>::splat(T());
      for (int i = 0; i < count; ++i) {
        if (number[i] < 0) continue;
        const Index place = args.template offset<0>(number[i]) + i * lane;
        value.set(i, get_element(byte_offset(plane, place)));
      }
    }
    if (count == N) line.store(0, value);
    else line.store_partial(0, value, count);
  }
};

}  // namespace nnk
