// Gradients of sums over windows where rows lie in memory element by element, for blocks of many
// threads: see pool_bands.cuh.
//
// A block has a band of rows of elements. First the terms of each window column are added for every
// row of elements, N windows by one access, to shared memory; then an element adds the columns of
// the windows that contain it. That is the order of pool_backward.cuh, to the same bits.
#pragma once
#include "nnk/pool_axis.cuh"

namespace nnk {

// What the elements of one row share: bytes to it in dx and x, to its plane in dy and y; where it
// is, and the windows that see it.
template <class Index> struct alignas(16) PoolBandElements {
  Index dx, dy, y, x;
  Index depth, height;
  PoolCover<Index> deep, high;
};
template <class Index> struct alignas(2 * sizeof(Index)) PoolBandCover { PoolCover<Index> of; };

// Mode, T, S as in pool_backward.cuh; N  windows of one access, which divide rows and what is
// before them in memory;  M  rows of elements of a thread.
template <class Mode, class T, class S, int N, int M, class Index> struct PoolBandsBackward {
  using Row = PoolBandElements<Index>;
  using Cover = PoolBandCover<Index>;
  using Column = Vec<S, N>;
  static constexpr int register_budget = sizeof(S) > 4 || sizeof(Index) > 4 ? 128 : N > 4 ? 64 : 50;
  static constexpr bool reads_y = !Mode::counts;

  struct Args {
    void* dx;
    const void* dy;
    const void* y;
    const void* x;
    int64 rows;    // of elements, in all planes
    Index tile;    // rows of a block
    Index piece;   // elements of a row that a block has
    Index length;  // windows of a row in shared memory
    Index include_pad;
    Divisor<Index> by_blocks;               // for one piece of all rows
    Divisor<int32> by_vectors, by_results;  // of a row of windows, of a row of elements
    Divisor<Index> by_planes;
    PoolAxis<Index, false> axis[3];
    PoolStrides<Index> at[4];  // of dx, dy, y and x
    S parameters[4];
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const PoolBandsBackward band(group, args);
    band.fill_tables(group);
    group.barrier();
    const int vectors = band.count * args.by_vectors.divisor;
    NNK_NO_UNROLL
    for (int unit = group.rank(); unit < vectors; unit += G::threads) band.add_column(unit);
    group.barrier();
    const int results = (band.count + M - 1) / M * args.by_results.divisor;
    NNK_NO_UNROLL
    for (int unit = group.rank(); unit < results; unit += G::threads) band.make(unit);
  }

 private:
  const Args& args;
  Index first;    // row of elements
  Index element;  // the first element of each row, and the first window that may contain it
  Index window;   // at a multiple of N
  int count;      // of rows
  Shared<Row> rows;
  Shared<Cover> covers;   // of the elements of a row
  Shared<Index> windows;  // how many elements of a row are counted in each window
  Shared<S> columns;

  template <class G> NNK_FN PoolBandsBackward(const G& group, const Args& a) : args(a) {
    const Index block = Index(group.block()), number = args.by_blocks.divide(block);
    first = (block - number * args.by_blocks.divisor) * args.tile;
    count = int(lesser_of(args.tile, Index(args.rows) - first));
    element = number * args.piece;
    window = args.axis[2].cover(element).first / N * N;
    const int tile = int(args.tile), piece = int(args.piece), length = int(args.length);
    int bytes = 0;
    rows = group.template dynamic_shared<Row>(bytes, tile);
    bytes += tile * int(sizeof(Row));
    columns = group.template dynamic_shared<S>(bytes, tile * length);
    bytes += (tile * length * int(sizeof(S)) + 15) / 16 * 16;
    covers = group.template dynamic_shared<Cover>(bytes, piece);
    bytes += (piece * int(sizeof(Cover)) + 15) / 16 * 16;
    windows = group.template dynamic_shared<Index>(bytes, length);
  }

  template <class G> NNK_FN void fill_tables(const G& group) const {
    NNK_NO_UNROLL
    for (int r = group.rank(); r < count; r += G::threads) rows.store(r, row(first + r));
    NNK_NO_UNROLL
    for (int e = group.rank(); e < int(args.piece); e += G::threads)
      covers.store(e, {args.axis[2].cover(element + e)});
    if constexpr (Mode::counts) {
      NNK_NO_UNROLL
      for (int o = group.rank(); o < int(args.length); o += G::threads)
        windows.store(o, counted(2, window + o));
    }
  }
  // Rows are numbered by (plane, plane, depth, height).
  NNK_FN Row row(Index number) const {
    const Index depth = args.axis[1].by_size.divide(number);
    const Index plane = args.axis[0].by_size.divide(depth);
    const Index outer = args.by_planes.divide(plane);
    const Index inner = plane - outer * args.by_planes.divisor;
    Row r;
    r.depth = depth - plane * args.axis[0].size;
    r.height = number - depth * args.axis[1].size;
    r.deep = args.axis[0].cover(r.depth);
    r.high = args.axis[1].cover(r.height);
    r.dx = args.at[0].of_plane(outer, inner) + args.at[0].at(r.depth, r.height, 0);
    r.dy = args.at[1].of_plane(outer, inner);
    r.y = args.at[2].of_plane(outer, inner);
    r.x = args.at[3].of_plane(outer, inner) + args.at[3].at(r.depth, r.height, 0);
    return r;
  }
  NNK_FN Index counted(int axis, Index o) const {
    const PoolWindow<Index> w = args.axis[axis].window(o);
    return args.include_pad ? w.padded : w.inside();
  }

  // ---- columns of windows ----------------------------------------------------------------------

  NNK_FN void add_column(int unit) const {
    const int r = args.by_vectors.divide(unit), v = (unit - r * args.by_vectors.divisor) * N;
    const Index o = window + v;
    if (o >= args.axis[2].out) return;
    const Row place = rows.load(r);
    Column column = Column::splat(S(0));
    NNK_NO_UNROLL
    for (Index a = place.deep.first; a < place.deep.last; ++a) {
      if (args.axis[0].tap(place.depth, a) < 0) continue;
      const Index deep = Mode::counts ? counted(0, a) : Index(1);
      NNK_NO_UNROLL
      for (Index b = place.high.first; b < place.high.last; ++b) {
        if (args.axis[1].tap(place.height, b) < 0) continue;
        const Column dy = load(args.dy, place.dy + args.at[1].at(a, b, 0), o);
        Column y = dy, taps = Column::splat(S(1));
        if constexpr (reads_y) y = load(args.y, place.y + args.at[2].at(a, b, 0), o);
        if constexpr (Mode::counts) {
          const Index plane = deep * counted(1, b);
          const Vec<Index, N> along = windows.template load_vec<N>(v);
          NNK_UNROLL
          for (int i = 0; i < N; ++i) taps.set(i, S(plane * along[i]));
        }
        column = column + Mode::term(args.parameters, dy, y, taps);
      }
    }
    columns.store_vec(r * int(args.length) + v, column);
  }
  NNK_FN Column load(const void* data, Index offset, Index o) const {
    const Line<const T, Index, unit_step> line{byte_offset(static_cast<const T*>(data), offset),
                                               args.axis[2].out, Index(sizeof(T))};
    return convert<S>(line.template load<N>(o));
  }

  // ---- elements --------------------------------------------------------------------------------

  // One element of each of M rows, as in pool_bands.cuh.
  NNK_FN void make(int unit) const {
    const int set = args.by_results.divide(unit), j = unit - set * args.by_results.divisor;
    const Index e = element + j;
    if (e >= args.axis[2].size) return;
    const PoolCover<Index> cover = covers.load(j).of;
    const bool dilated = args.axis[2].dilation != 1;
    int row[M];  // the last one again for those that are not there
    NNK_UNROLL
    for (int i = 0; i < M; ++i) row[i] = lesser_of(set * M + i, count - 1);
    Vec<S, M> total = Vec<S, M>::splat(S(0));
    NNK_NO_UNROLL
    for (Index o = cover.first; o < cover.last; ++o) {
      if (dilated && args.axis[2].tap(e, o) < 0) continue;
      Vec<S, M> column;
      NNK_UNROLL
      for (int i = 0; i < M; ++i)
        column.set(i, columns.load(row[i] * int(args.length) + int(o - window)));
      total = total + column;
    }
    NNK_UNROLL
    for (int i = 0; i < M; ++i)
      if (set * M + i < count) write(rows.load(row[i]), e, Vec<S, 1>::splat(total[i]));
  }
  NNK_FN void write(const Row& place, Index e, const Vec<S, 1>& total) const {
    Vec<S, 1> x = total;
    if constexpr (reads_y) {
      const Line<const T, Index, unit_step> from{
          byte_offset(static_cast<const T*>(args.x), place.x), args.axis[2].size, Index(sizeof(T))};
      x = convert<S>(from.template load<1>(e));
    }
    const Line<T, Index, unit_step> line{byte_offset(static_cast<T*>(args.dx), place.dx),
                                         args.axis[2].size, Index(sizeof(T))};
    line.store(e, convert<T>(Mode::gradient(args.parameters, total, x)));
  }
};

}  // namespace nnk
