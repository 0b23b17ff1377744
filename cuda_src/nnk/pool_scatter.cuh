// Gradients of maxima, scattered: every window adds its dy to the element that was its maximum.
// For a block of one thread, which has whole planes, or bands of their rows, for itself.
//
// Here a window is one step, where to look up the windows of every element (pool_backward.cuh)
// takes as many steps as there are. Windows come in order, so that the terms of an element are
// added as they are where it gathers them: to the same bits.
#pragma once
#include "nnk/pool_axis.cuh"

namespace nnk {

// T         of dx and dy; U of the labels: the number of the tap that was each maximum
// S         the computing type
// Adjacent  whether all planes of the lanes lie element beside element, in all operands: they are
//           one plane here, of elements as wide; else Lanes planes are made at once
// Direct    whether sums are made in dx itself, of type S: its elements lie in C order, also those
//           that are adjacent; else in scratch memory, from where they are written
// Places are found for N windows at once, whose terms are then added one by one. Neighbouring
// windows often have one maximum, and each sum waits for the one before it: several planes at once
// give the processor something else to do meanwhile.
template <class T, class U, class S, int Lanes, int N, class Index, bool Adjacent, bool Adaptive,
          bool Streaming, bool Direct = false>
struct PoolScatter {
  static_assert(!Adjacent || Lanes == 1, "adjacent planes are one");
  static_assert(!Direct || (is_same<T, S> && !Streaming), "dx has its sums, and stays in a cache");
  using V = Vec<S, N>;
  using I = PoolLabel<S>;
  using VI = Vec<I, N>;

  struct Args {
    void* dx;
    const void* dy;
    const void* labels;
    int64 units;  // bands of groups of Lanes planes
    int64 tile;
    Index lanes;      // planes along the lanes
    Index extent[2];  // depths and rows of a band: all rows where there are several depths
    Index capacity;   // sums of a band, rounded up to Vecs; Direct: from one plane to the next
    Index run[2];     // rows of windows that follow each other in dy and labels; windows of them
    Divisor<Index> by_groups, by_planes;
    Divisor<Index> by_depths, by_rows;    // bands of a plane along either axis
    Divisor<Index> by_tap_rows, by_taps;  // number of a tap: (a tap rows + b) taps + c
    Index taps;
    PoolAxis<Index, Adaptive> axis[3];
    PoolStrides<Index> at[3];
  };

  // What all bands have: sums, where the first tap of each window of a run is (in elements from
  // that of the first window), and how far a tap is from the next one along each axis.
  struct Plan {
    S* sums;
    I* starts;
    I nowhere;  // the sum of what no element of a band has (Direct: any one, to which 0 is added)
    I step[3];
    I share[2];  // 2^16 by the rows of taps, and by the taps of a row
  };
  // Some planes, and the elements [low, low + size) of each: depths and rows from `from` to `to`.
  struct Band {
    Index from[2], to[2], low, size;
    Index bytes[3];  // to the first of the planes, in each operand
    int count;       // of planes
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 first = group.block() * args.tile;
    const int64 last = lesser_of(first + args.tile, args.units);
    Plan plan = plan_of(group, args);
    for (Index unit = Index(first); unit < Index(last); ++unit) {
      const Band band = band_of(args, unit);
      if constexpr (Direct) {
        plan.sums = byte_offset(static_cast<S*>(args.dx), band.bytes[0]) + band.low;
        for (int l = 0; l < band.count; ++l) clear(plan.sums + l * args.capacity, band.size);
      } else {
        clear(plan.sums, args.capacity * Lanes);
      }
      if (band.count == Lanes) add_windows<true>(args, plan, band);
      else add_windows<false>(args, plan, band);
      if constexpr (!Direct) write(args, plan, band);
    }
  }

 private:
  static NNK_FN void clear(S* sums, Index count) {
    Index e = 0;
    for (; e + N <= count; e += N) nnk::store(sums + e, V::splat(S(0)));
    if (e < count) nnk::store_partial(sums + e, V::splat(S(0)), int(count - e));
  }

  // Numbers that lie beside each other for one element.
  static NNK_FN Index beside(const Args& args) { return Adjacent ? args.lanes : Index(1); }

  template <class G> static NNK_FN Plan plan_of(G& group, const Args& args) {
    const auto &high = args.axis[1], &wide = args.axis[2];
    Plan plan{};
    const Index sums = Direct ? 0 : args.capacity * Lanes;
    plan.sums = group.template dynamic_shared<S>(0, int(sums)).data;
    plan.nowhere = I(sums);
    plan.starts = reinterpret_cast<I*>(plan.sums + sums + N);
    plan.step[2] = I(wide.step() * beside(args));
    plan.step[1] = I(high.step() * wide.size * beside(args));
    plan.step[0] = I(args.axis[0].step() * high.size * wide.size * beside(args));
    const Index number[2] = {args.by_tap_rows.divisor, args.by_taps.divisor};
    for (int i = 0; i < 2; ++i) plan.share[i] = I((65536 + number[i] - 1) / number[i]);
    const VI order = lanes_in_order<I, N>();
    I* to = plan.starts;
    for (Index r = 0; r < args.run[0]; ++r) {
      for (Index v = 0; v < wide.out; ++v) {
        const Index start = (r * high.stride * wide.size + wide.window(v).start) * beside(args);
        for (Index c = 0; c < beside(args); c += N) nnk::store(to + c, order + I(start + c));
        to += beside(args);
      }
    }
    return plan;
  }

  // Numbered by (plane, plane, group, depths, rows).
  static NNK_FN Band band_of(const Args& args, Index unit) {
    const Index depths = args.by_rows.divide(unit);
    const Index planes = args.by_depths.divide(depths);
    const Index outer = args.by_groups.divide(planes);
    const Index a = args.by_planes.divide(outer), b = outer - a * args.by_planes.divisor;
    const Index lane = (planes - outer * args.by_groups.divisor) * Lanes;
    const Index number[2] = {depths - planes * args.by_depths.divisor,
                             unit - depths * args.by_rows.divisor};
    Band band;
    for (int i = 0; i < 2; ++i) {
      band.from[i] = number[i] * args.extent[i];
      band.to[i] = lesser_of(band.from[i] + args.extent[i], args.axis[i].size);
    }
    const Index width = args.axis[2].size * beside(args);
    band.low = (band.from[0] * args.axis[1].size + band.from[1]) * width;
    band.size = (band.to[0] - band.from[0]) * (band.to[1] - band.from[1]) * width;
    for (int i = 0; i < 3; ++i) band.bytes[i] = args.at[i].of_plane(a, b) + lane * args.at[i].lane;
    band.count = Adjacent ? 1 : int(lesser_of(Index(Lanes), args.lanes - lane));
    return band;
  }

  // ---- sums ------------------------------------------------------------------------------------

  // All windows that may see an element of the band. Whole: all of Lanes planes are there.
  template <bool Whole>
  static NNK_FN void add_windows(const Args& args, const Plan& plan, const Band& band) {
    const auto &deep = args.axis[0], &high = args.axis[1], &wide = args.axis[2];
    const Index depth = deep.cover(band.to[0] - 1).last, row = high.cover(band.to[1] - 1).last;
    for (Index o = deep.cover(band.from[0]).first; o < depth; ++o) {
      for (Index u = high.cover(band.from[1]).first; u < row; u += args.run[0]) {
        const T* dy =
            byte_offset(static_cast<const T*>(args.dy), band.bytes[1] + args.at[1].at(o, u, 0));
        const U* labels =
            byte_offset(static_cast<const U*>(args.labels), band.bytes[2] + args.at[2].at(o, u, 0));
        const Index place = (deep.window(o).start * high.size + high.window(u).start) * wide.size;
        const I begin = I(place * beside(args) - band.low);
        const Index count = lesser_of(args.run[0], row - u) * wide.out * beside(args);
        Index i = 0;
        for (; i + N <= count; i += N) add<Whole, true>(args, plan, band, dy, labels, begin, i, N);
        if (i < count) add<Whole, false>(args, plan, band, dy, labels, begin, i, int(count - i));
      }
    }
  }
  // N windows from the i-th on, of which `count` are there. All: they are.
  template <bool Whole, bool All>
  static NNK_FN void add(const Args& args, const Plan& plan, const Band& band, const T* dy,
                         const U* labels, I begin, Index i, int count) {
    const Index step[2] = {Adjacent ? args.at[1].lane : args.at[1].space[2],
                           Adjacent ? args.at[2].lane : args.at[2].space[2]};
    I places[Lanes][N];
    S terms[Lanes][N];
    const VI start = nnk::load<N>(plan.starts + i) + begin;
    NNK_UNROLL
    for (int l = 0; l < Lanes; ++l) {
      if (!Whole && l >= band.count) break;
      const VI tap = convert<I>(
          some<All>(byte_offset(labels, i * step[1] + l * args.at[2].lane), step[1], count));
      const VI e = start + offsets_of(args, plan, tap);
      const auto inside = (e > I(-1)) & (e < I(band.size));
      const auto there = inside & (tap > I(-1)) & (tap < I(args.taps));
      nnk::store(&places[l][0], where(there, e + I(l * args.capacity), VI::splat(plan.nowhere)));
      const V term =
          convert<S>(some<All>(byte_offset(dy, i * step[0] + l * args.at[1].lane), step[0], count));
      if constexpr (Direct)
        nnk::store(&terms[l][0], where(bit_cast<Mask<S, N>>(there), term, V::splat(S(0))));
      else nnk::store(&terms[l][0], term);
    }
    const auto add_one = [&](int k) NNK_INLINE {
      NNK_UNROLL
      for (int l = 0; l < Lanes; ++l) {
        if (!Whole && l >= band.count) break;
        plan.sums[places[l][k]] += terms[l][k];
      }
    };
    if constexpr (All) {
      NNK_UNROLL
      for (int k = 0; k < N; ++k) add_one(k);
    } else {
      for (int k = 0; k < count; ++k) add_one(k);
    }
  }
  // From the first tap of a window to others, by their numbers.
  static NNK_FN VI offsets_of(const Args& args, const Plan& plan, const VI& tap) {
    const I rows = I(args.by_tap_rows.divisor), columns = I(args.by_taps.divisor);
    VI row, slice;
    if constexpr (sizeof(U) == 1) {  // exact for what a byte holds
      row = (tap * plan.share[1]) >> 16;
      slice = (row * plan.share[0]) >> 16;
    } else {
      NNK_UNROLL
      for (int k = 0; k < N; ++k) {
        const Index r = args.by_taps.divide(greater_of(Index(tap[k]), Index(0)));
        row.set(k, I(r));
        slice.set(k, I(args.by_tap_rows.divide(r)));
      }
    }
    return tap * plan.step[2] + row * (plan.step[1] - columns * plan.step[2]) +
           slice * (plan.step[0] - rows * plan.step[1]);
  }
  // N elements `step` bytes apart, or the first `count` of them.
  template <bool All, class From>
  static NNK_FN Vec<From, N> some(const From* p, Index step, int count) {
    if (step != Index(sizeof(From))) return nnk::load_strided<N>(p, step, count, From());
    if constexpr (All) return nnk::load<N>(p);
    else return nnk::load_partial<N>(p, count, From());
  }

  // ---- results ---------------------------------------------------------------------------------

  static NNK_FN void write(const Args& args, const Plan& plan, const Band& band) {
    const auto& space = args.at[0].space;
    const Index step = Adjacent ? args.at[0].lane : space[2];
    Index width = args.axis[2].size * beside(args), rows = band.to[1] - band.from[1];
    Index depths = band.to[0] - band.from[0];
    // Rows that follow each other in dx are one.
    if (space[1] == width * step && (depths == 1 || space[0] == rows * space[1])) {
      width = band.size;
      rows = depths = 1;
    }
    const S* sums = plan.sums;
    for (Index d = 0; d < depths; ++d) {
      for (Index h = 0; h < rows; ++h) {
        const Index bytes = band.bytes[0] + args.at[0].at(band.from[0] + d, band.from[1] + h, 0);
        for (int l = 0; l < band.count; ++l) {
          for (Index w = 0; w < width; w += N)
            put(args, bytes + l * args.at[0].lane + w * step, sums + l * args.capacity + w,
                lesser_of(Index(N), width - w), step);
        }
        sums += width;
      }
    }
  }
  // The first `count` of N sums, `step` bytes apart in dx.
  static NNK_FN void put(const Args& args, Index bytes, const S* sums, Index count, Index step) {
    T* to = byte_offset(static_cast<T*>(args.dx), bytes);
    const auto v = convert<T>(nnk::load<N>(sums));
    if (step == Index(sizeof(T))) {
      const Line<T, Index, unit_step> line{to, count, Index(sizeof(T))};
      if (count < N) line.store_partial(0, v, int(count));
      else if constexpr (Streaming) line.store_streaming(0, v);
      else line.store(0, v);
    } else {
      const Line<T, Index> line{to, count, step};
      line.store_partial(0, v, int(count));
    }
  }
};

}  // namespace nnk
