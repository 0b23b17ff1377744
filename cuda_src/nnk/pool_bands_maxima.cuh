// Gradients of maxima where rows lie in memory element by element, for blocks of many threads: see
// pool_bands.cuh.
//
// A block has a band of rows of some planes. Every window that may see an element of it writes dy
// and the place of its maximum in the band to shared memory: a division for each window, not for
// each window of each element. Then a thread looks up the windows that may see one of M neighbours,
// in order, and adds dy to the one that is its maximum.
#pragma once
#include "nnk/pool_axis.cuh"

namespace nnk {

// What the elements of one row share: bytes to it in dx, where it begins in its plane of the band,
// the first of the windows that its plane has in shared memory, and the rows of these that see it.
template <class Index> struct alignas(16) PoolBandLine {
  Index dx, place, windows;
  PoolCover<Index> high;
};
// dy of a window, and its maximum: its place in the plane of the band, or -1.
template <class S> struct alignas(2 * sizeof(S)) PoolBandTerm {
  PoolLabel<S> place;
  S dy;
};
template <class Index> struct alignas(2 * sizeof(Index)) PoolBandWindows { PoolCover<Index> of; };

// T  of dx and dy;  U  of the numbers of taps;  M  elements of one store, which divide rows and
// what is before them in memory.
template <class T, class U, class S, int M, class Index> struct PoolBandsMaxima {
  using I = PoolLabel<S>;
  using Line1 = PoolBandLine<Index>;
  using Windows = PoolBandWindows<Index>;
  using Term = PoolBandTerm<S>;
  static constexpr int register_budget = sizeof(S) > 4 || sizeof(Index) > 4 ? 128 : 40;

  struct Args {
    void* dx;
    const void* dy;
    const void* labels;
    Index planes;  // all of them
    Index group;   // planes of a block
    Index extent;  // rows of elements of a block, in each plane
    Index taps;    // of a window
    Divisor<Index> by_bands, by_depths, by_planes;
    Divisor<int32> by_vectors, by_extent;  // of a row of elements; rows of a band
    Divisor<int32> by_high, by_deep;       // the most windows along either axis that see a band
    Divisor<Index> by_tap_rows, by_taps;   // number of a tap: (a tap rows + b) taps + c
    PoolAxis<Index, false> axis[3];
    PoolStrides<Index> at[3];  // of dx, dy and labels
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const PoolBandsMaxima band(group, args);
    band.fill_tables(group);
    band.take_windows(group);
    group.barrier();
    const int units = band.count * args.by_extent.divisor * args.by_vectors.divisor;
    NNK_NO_UNROLL
    for (int unit = group.rank(); unit < units; unit += G::threads) band.make(unit);
  }

 private:
  const Args& args;
  Index first;                  // plane
  int count;                    // of planes
  Index depth;                  // of the elements
  Index from, to;               // their rows
  PoolCover<Index> deep, high;  // the windows that see them
  Shared<Line1> lines;
  Shared<Windows> covers;  // of M elements of a row
  Shared<Term> terms;

  template <class G> NNK_FN PoolBandsMaxima(const G& group, const Args& a) : args(a) {
    const Index block = Index(group.block()), slice = args.by_bands.divide(block);
    const Index number = args.by_depths.divide(slice);
    first = number * args.group;
    count = int(lesser_of(args.group, args.planes - first));
    depth = slice - number * args.by_depths.divisor;
    from = (block - slice * args.by_bands.divisor) * args.extent;
    to = lesser_of(from + args.extent, args.axis[1].size);
    deep = args.axis[0].cover(depth);
    high = {args.axis[1].cover(from).first, args.axis[1].cover(to - 1).last};
    const int planes = int(args.group), vectors = args.by_vectors.divisor;
    int bytes = 0;
    lines = group.template dynamic_shared<Line1>(bytes, planes * int(args.extent));
    bytes += planes * int(args.extent) * int(sizeof(Line1));
    covers = group.template dynamic_shared<Windows>(bytes, vectors);
    bytes += (vectors * int(sizeof(Windows)) + 15) / 16 * 16;
    terms = group.template dynamic_shared<Term>(bytes, planes * windows_of_a_plane());
  }
  NNK_FN int windows_of_a_plane() const {
    return args.by_deep.divisor * args.by_high.divisor * int(args.axis[2].out);
  }

  template <class G> NNK_FN void fill_tables(const G& group) const {
    NNK_NO_UNROLL
    for (int l = group.rank(); l < count * int(args.extent); l += G::threads)
      lines.store(l, line(l));
    NNK_NO_UNROLL
    for (int v = group.rank(); v < args.by_vectors.divisor; v += G::threads) {
      covers.store(v, {{args.axis[2].cover(Index(v) * M).first,
                        args.axis[2].cover(Index(v) * M + M - 1).last}});
    }
  }
  NNK_FN Line1 line(int number) const {
    const int p = args.by_extent.divide(number), row = number - p * args.by_extent.divisor;
    const Index outer = args.by_planes.divide(first + p);
    const Index inner = first + p - outer * args.by_planes.divisor;
    Line1 l;
    l.dx = args.at[0].of_plane(outer, inner) + args.at[0].at(depth, from + row, 0);
    l.place = row * args.axis[2].size;
    l.windows = p * windows_of_a_plane();
    l.high = args.axis[1].cover(from + row);
    return l;
  }

  // ---- windows ---------------------------------------------------------------------------------

  template <class G> NNK_FN void take_windows(const G& group) const {
    const int all = count * windows_of_a_plane();
    NNK_NO_UNROLL
    for (int w = group.rank(); w < all; w += G::threads) {
      const int row = int(args.axis[2].by_out.divide(w)), slice = args.by_high.divide(row);
      const int p = args.by_deep.divide(slice);
      const Index a = deep.first + (slice - p * args.by_deep.divisor);
      const Index b = high.first + (row - slice * args.by_high.divisor);
      if (a >= deep.last || b >= high.last) continue;
      terms.store(w, term(p, a, b, Index(w - row * int(args.axis[2].out))));
    }
  }
  NNK_FN Term term(int p, Index a, Index b, Index c) const {
    const Index outer = args.by_planes.divide(first + p);
    const Index inner = first + p - outer * args.by_planes.divisor;
    const Index dy = args.at[1].of_plane(outer, inner) + args.at[1].at(a, b, 0);
    const Index labels = args.at[2].of_plane(outer, inner) + args.at[2].at(a, b, 0);
    return {I(place(a, b, c, Index(load<U>(args.labels, labels, c)[0]))),
            convert<S>(load<T>(args.dy, dy, c))[0]};
  }
  template <class From> NNK_FN auto load(const void* data, Index offset, Index c) const {
    const Line<const From, Index, unit_step> line{
        byte_offset(static_cast<const From*>(data), offset), args.axis[2].out, Index(sizeof(From))};
    return line.template load<1>(c);
  }
  // Where in the band a tap of a window is, or -1.
  NNK_FN Index place(Index a, Index b, Index c, Index tap) const {
    if (tap < 0 || tap >= args.taps) return -1;
    const Index row = args.by_taps.divide(tap), slice = args.by_tap_rows.divide(row);
    const Index d = at(0, a, slice), h = at(1, b, row - slice * args.by_tap_rows.divisor);
    if (d != depth || h < from || h >= to) return -1;
    return (h - from) * args.axis[2].size + at(2, c, tap - row * args.by_taps.divisor);
  }
  NNK_FN Index at(int axis, Index window, Index tap) const {
    const auto& along = args.axis[axis];
    return window * along.stride - along.low + tap * along.dilation;
  }

  // ---- elements --------------------------------------------------------------------------------

  NNK_FN void make(int unit) const {
    const int l = args.by_vectors.divide(unit), v = unit - l * args.by_vectors.divisor;
    const int p = args.by_extent.divide(l);
    if (from + (l - p * args.by_extent.divisor) >= to) return;
    const Line1 row = lines.load(l);
    const PoolCover<Index> cover = covers.load(v).of;
    const int width = int(args.axis[2].out);
    const I place = I(row.place + Index(v) * M);
    Vec<S, M> total = Vec<S, M>::splat(S(0));
    NNK_NO_UNROLL
    for (Index a = 0; a < deep.last - deep.first; ++a) {
      NNK_NO_UNROLL
      for (Index b = row.high.first - high.first; b < row.high.last - high.first; ++b) {
        const int line = int(row.windows) + (int(a) * args.by_high.divisor + int(b)) * width;
        NNK_NO_UNROLL
        for (Index c = cover.first; c < cover.last; ++c) {
          const Term term = terms.load(line + int(c));
          const I e = term.place - place;
          NNK_UNROLL
          for (int i = 0; i < M; ++i)
            if (e == I(i)) total.set(i, total[i] + term.dy);
        }
      }
    }
    const Line<T, Index, unit_step> line{byte_offset(static_cast<T*>(args.dx), row.dx),
                                         args.axis[2].size, Index(sizeof(T))};
    line.store(Index(v) * M, convert<T>(total));
  }
};

}  // namespace nnk
