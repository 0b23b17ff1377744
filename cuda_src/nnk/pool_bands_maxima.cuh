// Gradients of maxima where rows lie in memory element by element, for blocks of many threads: see
// pool_bands.cuh.
//
// A block has a band of rows of some planes. Every window that may see an element of it writes dy
// and the place of its maximum in the band to shared memory: a division for each window, not for
// each window of each element. Then a thread looks up the windows that may see one of N M elements
// beside and above each other, in order, and adds dy to the one that is its maximum.
#pragma once
#include "nnk/pool_axis.cuh"

namespace nnk {

// What the elements of some rows share, which are M of one plane: bytes to the first of them in dx,
// where it begins in its plane of the band, the first of the windows that the first row of windows
// has in shared memory that sees them, and how many rows of windows there are.
template <class Index> struct alignas(16) PoolBandLine { Index dx, place, windows, rows; };
// What the windows of one row share: bytes to it in dy and in the labels, and where in the band
// the first tap of its first window is.
template <class Index> struct alignas(16) PoolBandWindowRow { Index dy, labels, place, there; };
// dy of a window, and its maximum: its place in the plane of the band, or -1.
template <class S> struct alignas(2 * sizeof(S)) PoolBandTerm {
  PoolLabel<S> place;
  S dy;
};
template <class Index> struct alignas(2 * sizeof(Index)) PoolBandWindows { PoolCover<Index> of; };

// T  of dx and dy;  U  of the numbers of taps;  N  neighbours in a row, which divide rows of dx and
// what is before them in memory, and M rows of them are a thread's.
template <class T, class U, class S, int N, int M, class Index> struct PoolBandsMaxima {
  using I = PoolLabel<S>;
  using ElementRows = PoolBandLine<Index>;
  using WindowRow = PoolBandWindowRow<Index>;
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
    Divisor<int32> by_width, by_sets;     // N elements of a row; sets of M rows of a band
    Divisor<int32> by_high, by_deep;      // the most windows along either axis that see a band
    Divisor<Index> by_tap_rows, by_taps;  // number of a tap: (a tap rows + b) taps + c
    PoolAxis<Index, false> axis[3];
    PoolStrides<Index> at[3];  // of dx, dy and labels
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const PoolBandsMaxima band(group, args);
    band.fill_tables(group);
    group.barrier();
    band.take_windows(group);
    group.barrier();
    const int units = band.count * args.by_sets.divisor * args.by_width.divisor;
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
  Shared<ElementRows> lines;
  Shared<WindowRow> window_rows;
  Shared<Windows> covers;  // of N elements of a row
  Shared<Index> offsets;   // from the first tap of a window to each of them, in a plane
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
    const int planes = int(args.group), width = args.by_width.divisor;
    int bytes = 0;
    lines = group.template dynamic_shared<ElementRows>(bytes, planes * args.by_sets.divisor);
    bytes += planes * args.by_sets.divisor * int(sizeof(ElementRows));
    window_rows = group.template dynamic_shared<WindowRow>(bytes, planes * rows_of_a_plane());
    bytes += planes * rows_of_a_plane() * int(sizeof(WindowRow));
    covers = group.template dynamic_shared<Windows>(bytes, width);
    bytes += (width * int(sizeof(Windows)) + 15) / 16 * 16;
    offsets = group.template dynamic_shared<Index>(bytes, int(args.taps));
    bytes += (int(args.taps) * int(sizeof(Index)) + 15) / 16 * 16;
    const int windows = planes * rows_of_a_plane() * int(args.axis[2].out);
    terms = group.template dynamic_shared<Term>(bytes, windows);
  }
  NNK_FN int rows_of_a_plane() const { return args.by_deep.divisor * args.by_high.divisor; }

  template <class G> NNK_FN void fill_tables(const G& group) const {
    NNK_NO_UNROLL
    for (int l = group.rank(); l < count * args.by_sets.divisor; l += G::threads)
      lines.store(l, element_rows(l));
    NNK_NO_UNROLL
    for (int l = group.rank(); l < count * rows_of_a_plane(); l += G::threads)
      window_rows.store(l, window_row(l));
    NNK_NO_UNROLL
    for (int w = group.rank(); w < args.by_width.divisor; w += G::threads)
      covers.store(w, {{args.axis[2].cover(w * N).first, args.axis[2].cover(w * N + N - 1).last}});
    NNK_NO_UNROLL
    for (int t = group.rank(); t < int(args.taps); t += G::threads) {
      const Index row = args.by_taps.divide(t), slice = args.by_tap_rows.divide(row);
      offsets.store(t, flat(slice * args.axis[0].dilation,
                            (row - slice * args.by_tap_rows.divisor) * args.axis[1].dilation,
                            (t - row * args.by_taps.divisor) * args.axis[2].dilation));
    }
  }
  NNK_FN Index flat(Index d, Index h, Index w) const {
    return (d * args.axis[1].size + h) * args.axis[2].size + w;
  }
  NNK_FN ElementRows element_rows(int number) const {
    const int p = args.by_sets.divide(number), row = (number - p * args.by_sets.divisor) * M;
    const Index outer = args.by_planes.divide(first + p);
    const Index inner = first + p - outer * args.by_planes.divisor;
    const Index begin = lesser_of(args.axis[1].cover(from + row).first, high.last);
    const Index last = args.axis[1].cover(lesser_of(from + row + M, to) - 1).last;
    const Index skipped = p * rows_of_a_plane() + begin - high.first;
    return {args.at[0].of_plane(outer, inner) + args.at[0].at(depth, from + row, 0),
            row * args.axis[2].size, skipped * args.axis[2].out, last - begin};
  }
  NNK_FN WindowRow window_row(int number) const {
    const int slice = args.by_high.divide(number), p = args.by_deep.divide(slice);
    const Index outer = args.by_planes.divide(first + p);
    const Index inner = first + p - outer * args.by_planes.divisor;
    const Index a = deep.first + (slice - p * args.by_deep.divisor);
    const Index b = high.first + (number - slice * args.by_high.divisor);
    const Index place = flat(a * args.axis[0].stride - args.axis[0].low - depth,
                             b * args.axis[1].stride - args.axis[1].low - from, -args.axis[2].low);
    return {args.at[1].of_plane(outer, inner) + args.at[1].at(a, b, 0),
            args.at[2].of_plane(outer, inner) + args.at[2].at(a, b, 0), place,
            Index(a < deep.last && b < high.last)};
  }

  // ---- windows ---------------------------------------------------------------------------------

  // What a thread takes at once: so many loads are under way.
  static constexpr int at_once = 2;

  template <class G> NNK_FN void take_windows(const G& group) const {
    const int all = count * rows_of_a_plane() * int(args.axis[2].out);
    NNK_NO_UNROLL
    for (int start = group.rank(); start < all; start += at_once * G::threads) {
      Vec<U, 1> tap[at_once];
      Vec<T, 1> dy[at_once];
      Index begin[at_once];
      bool there[at_once];
      NNK_UNROLL
      for (int i = 0; i < at_once; ++i) {
        const int w = start + i * G::threads, row = int(args.axis[2].by_out.divide(w));
        const Index c = w - row * int(args.axis[2].out);
        there[i] = w < all;
        if (!there[i]) continue;
        const WindowRow of = window_rows.load(row);
        there[i] = of.there != 0;
        begin[i] = of.place + c * args.axis[2].stride;
        if (!there[i]) continue;
        tap[i] = load<U>(args.labels, of.labels, c);
        dy[i] = load<T>(args.dy, of.dy, c);
      }
      NNK_UNROLL
      for (int i = 0; i < at_once; ++i)
        if (there[i])
          terms.store(start + i * G::threads,
                      {I(place(begin[i], Index(tap[i][0]))), convert<S>(dy[i])[0]});
    }
  }
  template <class From> NNK_FN auto load(const void* data, Index offset, Index c) const {
    const Line<const From, Index, unit_step> line{
        byte_offset(static_cast<const From*>(data), offset), args.axis[2].out, Index(sizeof(From))};
    return line.template load<1>(c);
  }
  // Where in the band a tap of a window is, or -1. Elements of a plane before and behind the band
  // are before and behind it here, since the tap is one inside the image.
  NNK_FN Index place(Index begin, Index tap) const {
    if (tap < 0 || tap >= args.taps) return -1;
    const Index found = begin + offsets.load(int(tap));
    return found < 0 || found >= (to - from) * args.axis[2].size ? Index(-1) : found;
  }

  // ---- elements --------------------------------------------------------------------------------

  NNK_FN void make(int unit) const {
    const int set = args.by_width.divide(unit), w = unit - set * args.by_width.divisor;
    const int row = (set - args.by_sets.divide(set) * args.by_sets.divisor) * M;
    if (from + row >= to) return;
    const ElementRows of = lines.load(set);
    const PoolCover<Index> cover = covers.load(w).of;
    const int out = int(args.axis[2].out);
    const I place = I(of.place + w * N), width = I(args.axis[2].size);
    Vec<S, N> total[M];
    NNK_UNROLL
    for (int i = 0; i < M; ++i) total[i] = Vec<S, N>::splat(S(0));
    int slice = int(of.windows);
    NNK_NO_UNROLL
    for (Index a = deep.first; a < deep.last; ++a) {
      int line = slice;
      NNK_NO_UNROLL
      for (Index b = 0; b < of.rows; ++b) {
        NNK_NO_UNROLL
        for (Index c = cover.first; c < cover.last; ++c) {
          const Term term = terms.load(line + int(c));
          const I e = term.place - place;
          NNK_UNROLL
          for (int i = 0; i < M; ++i) {
            NNK_UNROLL
            for (int k = 0; k < N; ++k)
              if (e == I(i) * width + I(k)) total[i].set(k, total[i][k] + term.dy);
          }
        }
        line += out;
      }
      slice += args.by_high.divisor * out;
    }
    T* to_row = byte_offset(static_cast<T*>(args.dx), of.dx);
    const int there = int(to - from) - row;
    NNK_UNROLL
    for (int i = 0; i < M; ++i) {
      const Line<T, Index, unit_step> line{to_row, args.axis[2].size, Index(sizeof(T))};
      if (i < there) line.store(Index(w) * N, convert<T>(total[i]));
      to_row = byte_offset(to_row, args.at[0].space[1]);
    }
  }
};

}  // namespace nnk
