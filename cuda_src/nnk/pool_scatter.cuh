// Gradients of maxima, scattered: every window adds its dy to the element that was its maximum.
// For a block of one thread, which has whole planes, or bands of their rows, for itself.
//
// An element is in many windows where they are large and overlap, and looking them all up
// (pool_backward.cuh) takes as many steps; here a window is one step. Windows come in order, so
// that the terms of an element are added as they are where it gathers them: to the same bits.
#pragma once
#include "nnk/pool_axis.cuh"

namespace nnk {

// T         of dx and dy; U of the labels: the number of the tap that was each maximum
// S         the computing type
// Adjacent  whether Lanes planes lie element beside element in dx: then N is Lanes; else N
//           elements of a row are written at once
// Neighbouring windows often have one maximum, and each sum waits for the one before it: several
// planes at once give the processor something else to do meanwhile.
template <class T, class U, class S, int Lanes, int N, class Index, bool Adjacent, bool Adaptive,
          bool Streaming>
struct PoolScatter {
  static_assert(!Adjacent || Lanes == N, "a vector is one element of all planes");
  using V = Vec<S, N>;
  // Of taps that a byte numbers, how far each is from the first one is looked up.
  static constexpr bool by_table = sizeof(U) == 1;
  static constexpr int table = by_table ? 256 : 1;

  struct Args {
    void* dx;
    const void* dy;
    const void* labels;
    int64 units;  // bands of groups of Lanes planes
    int64 tile;
    Index lanes;      // planes along the lanes
    Index extent[2];  // depths and rows of a band: all rows where there are several depths
    Index capacity;   // elements of a band, rounded up to Vecs
    Divisor<Index> by_groups, by_planes;
    Divisor<Index> by_depths, by_rows;  // bands of a plane along either axis
    Divisor<Index> by_tap_rows, by_taps;  // number of a tap: (a tap rows + b) taps + c
    Index taps;
    PoolAxis<Index, Adaptive> axis[3];
    PoolStrides<Index> at[3];
  };

  // Some planes, and the elements [low, low + size) of each: depths and rows from `from` to `to`.
  struct Band {
    S* sums;
    Index from[2], to[2], low, size;
    Index bytes[3];  // to the first of the planes, in each operand
    int count;       // of planes
    Index offsets[table];
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 first = group.block() * args.tile;
    const int64 last = lesser_of(first + args.tile, args.units);
    Band band{};
    band.sums = group.template dynamic_shared<S>(0, int(args.capacity) * Lanes).data;
    if constexpr (by_table) {
      for (Index t = 0; t < table; ++t) band.offsets[t] = t < args.taps ? offset_of(args, t) : -1;
    }
    for (Index unit = Index(first); unit < Index(last); ++unit) {
      begin_band(args, band, unit);
      for (Index e = 0; e < args.capacity * Lanes; e += N)
        nnk::store(band.sums + e, V::splat(S(0)));
      if (band.count == Lanes) add_windows<true>(args, band);
      else add_windows<false>(args, band);
      write(args, band);
    }
  }

 private:
  // Numbered by (plane, plane, group, depths, rows).
  static NNK_FN void begin_band(const Args& args, Band& band, Index unit) {
    const Index depths = args.by_rows.divide(unit);
    const Index planes = args.by_depths.divide(depths);
    const Index outer = args.by_groups.divide(planes);
    const Index a = args.by_planes.divide(outer), b = outer - a * args.by_planes.divisor;
    const Index lane = (planes - outer * args.by_groups.divisor) * Lanes;
    const Index number[2] = {depths - planes * args.by_depths.divisor,
                             unit - depths * args.by_rows.divisor};
    for (int i = 0; i < 2; ++i) {
      band.from[i] = number[i] * args.extent[i];
      band.to[i] = lesser_of(band.from[i] + args.extent[i], args.axis[i].size);
    }
    const Index width = args.axis[2].size;
    band.low = (band.from[0] * args.axis[1].size + band.from[1]) * width;
    band.size = (band.to[0] - band.from[0]) * (band.to[1] - band.from[1]) * width;
    for (int i = 0; i < 3; ++i) band.bytes[i] = args.at[i].of_plane(a, b) + lane * args.at[i].lane;
    band.count = int(lesser_of(Index(Lanes), args.lanes - lane));
  }

  // Elements from the first tap of a window to another one.
  static NNK_FN Index offset_of(const Args& args, Index tap) {
    const auto& axis = args.axis;
    const Index row = args.by_taps.divide(tap), slice = args.by_tap_rows.divide(row);
    const Index d = slice * axis[0].step(), h = (row - slice * args.by_tap_rows.divisor) * axis[1].step();
    const Index w = (tap - row * args.by_taps.divisor) * axis[2].step();
    return (d * axis[1].size + h) * axis[2].size + w;
  }

  // All windows that may see an element of the band.
  template <bool Whole> static NNK_FN void add_windows(const Args& args, const Band& band) {
    const auto &deep = args.axis[0], &high = args.axis[1], &wide = args.axis[2];
    const Index depth = deep.cover(band.to[0] - 1).last, row = high.cover(band.to[1] - 1).last;
    for (Index o = deep.cover(band.from[0]).first; o < depth; ++o) {
      for (Index u = high.cover(band.from[1]).first; u < row; ++u) {
        const T* dy =
            byte_offset(static_cast<const T*>(args.dy), band.bytes[1] + args.at[1].at(o, u, 0));
        const U* labels =
            byte_offset(static_cast<const U*>(args.labels), band.bytes[2] + args.at[2].at(o, u, 0));
        // Where the first tap of the first window would be in the band.
        const Index begin =
            (deep.window(o).start * high.size + high.window(u).start) * wide.size - band.low;
        for (Index v = 0; v < wide.out; ++v) {
          const Index place = begin + wide.window(v).start;
          if constexpr (Whole) {
            NNK_UNROLL
            for (int l = 0; l < Lanes; ++l) add(args, band, dy, labels, place, v, l);
          } else {
            for (int l = 0; l < band.count; ++l) add(args, band, dy, labels, place, v, l);
          }
        }
      }
    }
  }
  static NNK_FN void add(const Args& args, const Band& band, const T* dy, const U* labels,
                         Index place, Index v, int l) {
    const auto &from = args.at[1], &names = args.at[2];
    const Index tap =
        Index(nnk::load<1>(byte_offset(labels, v * names.space[2] + l * names.lane))[0]);
    if (tap < 0 || tap >= args.taps) return;
    const Index e = place + (by_table ? band.offsets[tap] : offset_of(args, tap));
    if (e < 0 || e >= band.size) return;
    const Vec<T, 1> term = nnk::load<1>(byte_offset(dy, v * from.space[2] + l * from.lane));
    band.sums[Adjacent ? e * Lanes + l : l * args.capacity + e] += convert<S>(term)[0];
  }

  static NNK_FN void write(const Args& args, const Band& band) {
    const auto& space = args.at[0].space;
    Index width = args.axis[2].size, rows = band.to[1] - band.from[1];
    Index depths = band.to[0] - band.from[0];
    // Rows that follow each other in dx are one.
    if (space[1] == width * space[2] && (depths == 1 || space[0] == rows * space[1])) {
      width = band.size;
      rows = depths = 1;
    }
    const S* sums = band.sums;
    for (Index d = 0; d < depths; ++d) {
      for (Index h = 0; h < rows; ++h) {
        const Index bytes = band.bytes[0] + args.at[0].at(band.from[0] + d, band.from[1] + h, 0);
        write_row(args, band, bytes, width, sums);
        sums += Adjacent ? width * Lanes : width;
      }
    }
  }
  static NNK_FN void write_row(const Args& args, const Band& band, Index bytes, Index width,
                               const S* sums) {
    const Index step = args.at[0].space[2], lane = args.at[0].lane;
    if constexpr (Adjacent) {
      for (Index w = 0; w < width; ++w)
        put(args, bytes + w * step, sums + w * Lanes, band.count, Index(sizeof(T)));
    } else {
      for (int l = 0; l < band.count; ++l) {
        for (Index w = 0; w < width; w += N)
          put(args, bytes + l * lane + w * step, sums + l * args.capacity + w,
              lesser_of(Index(N), width - w), step);
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
