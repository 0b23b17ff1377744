// Pooling of images whose rows lie in memory element by element, for blocks of many threads.
//
// A block has a band of rows of windows. First the taps of every column are reduced, N columns by
// one access, to shared memory; then every window reduces its columns from there. So x is read in
// wide accesses whatever strides are, an element is converted and reduced once for all windows of a
// row, and what is found by divisions is found once for a row of windows and once for a column of
// them: both are tables in shared memory.
#pragma once
#include "nnk/pool_axis.cuh"

namespace nnk {

// Taps whose loads are under way at once.
constexpr int pool_taps_at_once = 4;

// What the windows of one row share: bytes to it in each operand, and where it is.
template <class Index> struct alignas(16) PoolBandRow {
  Index x, y, labels, name;
  PoolWindow<Index> depth, height;
};
// A window as one access of shared memory has it.
template <class Index> struct alignas(16) PoolBandWindow { PoolWindow<Index> of; };

// Mode, T, U, S as in pool.cuh; N  columns of one access, which divide rows and what is before them
// in memory;  M  rows of windows of a thread.
template <class Mode, class T, class U, class S, int N, int M, class Index> struct PoolBands {
  using I = PoolLabel<S>;
  using Row = PoolBandRow<Index>;
  using Window = PoolWindow<Index>;
  using Column = Vec<S, N>;
  static constexpr bool crowded = Mode::indexed || sizeof(T) == 1 || (Mode::counts && N == 1);
  static constexpr int register_budget = sizeof(S) > 4 || sizeof(Index) > 4 ? 128
                                         : crowded                          ? 64
                                                                            : 50;

  struct Args {
    const void* x;
    void* y;       // null where labels alone are wanted
    void* labels;  // null where they are not
    int64 rows;    // of windows, in all planes
    Index tile;    // rows of a block
    Index piece;   // windows of a row that a block has
    Index length;  // elements of a row in shared memory
    Index include_pad;
    Divisor<Index> by_blocks;               // for one piece of all rows
    Divisor<int32> by_vectors, by_results;  // of a row of elements, of a row of windows
    Divisor<Index> by_planes;               // of the second axis of planes
    PoolAxis<Index, false> axis[3];
    PoolStrides<Index> at[3];  // of x, y and labels
    PoolLabels<Index> names;
    S parameters[4];
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const PoolBands band(group, args);
    band.fill_tables(group);
    group.barrier();
    const int vectors = band.count * args.by_vectors.divisor;
    NNK_NO_UNROLL
    for (int unit = group.rank(); unit < vectors; unit += G::threads) band.reduce_column(unit);
    group.barrier();
    const int results = (band.count + M - 1) / M * args.by_results.divisor;
    NNK_NO_UNROLL
    for (int unit = group.rank(); unit < results; unit += G::threads) band.make(unit);
  }

 private:
  const Args& args;
  Index first;    // row of windows
  Index window;   // the first window of each row, and the first element that it may see
  Index element;  // at a multiple of N
  int count;      // of rows
  Shared<Row> rows;
  Shared<PoolBandWindow<Index>> windows;
  Shared<S> columns;
  Shared<I> labels;

  template <class G> NNK_FN PoolBands(const G& group, const Args& a) : args(a) {
    const Index block = Index(group.block()), number = args.by_blocks.divide(block);
    first = (block - number * args.by_blocks.divisor) * args.tile;
    count = int(lesser_of(args.tile, Index(args.rows) - first));
    window = number * args.piece;
    const Index start = window * args.axis[2].stride - args.axis[2].low;
    element = start > 0 ? start / N * N : Index(0);
    const int tile = int(args.tile), piece = int(args.piece), size = tile * int(args.length);
    int bytes = 0;
    rows = group.template dynamic_shared<Row>(bytes, tile);
    bytes += tile * int(sizeof(Row));
    windows = group.template dynamic_shared<PoolBandWindow<Index>>(bytes, piece);
    bytes += piece * int(sizeof(PoolBandWindow<Index>));
    columns = group.template dynamic_shared<S>(bytes, size);
    bytes += size * int(sizeof(S));
    if constexpr (Mode::indexed) labels = group.template dynamic_shared<I>(bytes, size);
  }

  template <class G> NNK_FN void fill_tables(const G& group) const {
    NNK_NO_UNROLL
    for (int r = group.rank(); r < count; r += G::threads) rows.store(r, row(first + r));
    NNK_NO_UNROLL
    for (int o = group.rank(); o < int(args.piece); o += G::threads)
      windows.store(o, {args.axis[2].window(window + o)});
  }
  // Rows are numbered by (plane, plane, depth, height).
  NNK_FN Row row(Index number) const {
    const Index depth = args.axis[1].by_out.divide(number);
    const Index plane = args.axis[0].by_out.divide(depth);
    const Index outer = args.by_planes.divide(plane);
    const Index inner = plane - outer * args.by_planes.divisor;
    const Index h = number - depth * args.axis[1].out, d = depth - plane * args.axis[0].out;
    Row r;
    r.depth = args.axis[0].window(d);
    r.height = args.axis[1].window(h);
    r.x = args.at[0].of_plane(outer, inner);
    r.y = args.at[1].of_plane(outer, inner) + args.at[1].at(d, h, 0);
    r.labels = args.at[2].of_plane(outer, inner) + args.at[2].at(d, h, 0);
    r.name = args.names.of_window(r.depth.start, r.height.start, 0);
    return r;
  }

  // ---- columns ---------------------------------------------------------------------------------

  NNK_FN void reduce_column(int unit) const {
    const int r = args.by_vectors.divide(unit), v = (unit - r * args.by_vectors.divisor) * N;
    const Index w = element + v;
    if (w >= args.axis[2].size) return;
    const Row place = rows.load(r);
    const int at = r * int(args.length) + v;
    if constexpr (Mode::indexed) search_column(place, w, at);
    else add_column(place, w, at);
  }
  NNK_FN void add_column(const Row& place, Index w, int at) const {
    Column total = Column::splat(Mode::template identity<T, S>());
    each_tap(place, w, [&](Index, Index, const Column& x) NNK_INLINE {
      total = Mode::add(args.parameters, total, x);
    });
    columns.store_vec(at, total);
  }
  NNK_FN void search_column(const Row& place, Index w, int at) const {
    Column best = Column::splat(pool_lowest<T, S>());
    const Index lowest =
        place.name + place.depth.first * args.names.tap[0] + place.height.first * args.names.tap[1];
    auto label = Vec<I, N>::splat(I(lowest));
    each_tap(place, w, [&](Index a, Index b, const Column& x) NNK_INLINE {
      const I name = I(place.name + a * args.names.tap[0] + b * args.names.tap[1]);
      if constexpr (N == 1) {  // a mask of one lane would be a byte in memory on gfx90a
        const bool better = bool(int(x[0] > best[0]) | int(x[0] != x[0]));
        best.set(0, better ? x[0] : best[0]);
        label.set(0, better ? name : label[0]);
      } else {
        const auto better = is_better(x, best);
        best = where(better, x, best);
        label = where_labels(better, Vec<I, N>::splat(name), label);
      }
    });
    columns.store_vec(at, best);
    labels.store_vec(at, label);
  }
  // f(a, b, N elements) for the taps of columns, in order.
  template <class F> NNK_FN void each_tap(const Row& place, Index w, F f) const {
    const Index step = args.axis[1].step() * args.at[0].space[1];
    NNK_NO_UNROLL
    for (Index a = place.depth.first; a < place.depth.last; ++a) {
      const Index d = place.depth.start + a * args.axis[0].step();
      const Index start = place.x + args.at[0].at(d, place.height.start, w);
      check_access(d, 1, args.axis[0].size, NNK_HERE);
      check_access(w, N, args.axis[2].size, NNK_HERE);
      NNK_NO_UNROLL
      for (Index b = place.height.first; b < place.height.last; b += pool_taps_at_once) {
        Vec<T, N> x[pool_taps_at_once];
        NNK_UNROLL
        for (int i = 0; i < pool_taps_at_once; ++i)
          if (b + i < place.height.last) x[i] = tap(place, start, step, b + i);
        NNK_UNROLL
        for (int i = 0; i < pool_taps_at_once; ++i)
          if (b + i < place.height.last) f(a, b + i, convert<S>(x[i]));
      }
    }
  }
  NNK_FN Vec<T, N> tap(const Row& place, Index start, Index step, Index b) const {
    check_access(place.height.start + b * args.axis[1].step(), 1, args.axis[1].size, NNK_HERE);
    return nnk::load<N>(byte_offset(static_cast<const T*>(args.x), start + b * step));
  }

  // ---- windows ---------------------------------------------------------------------------------

  // One window of each of M rows: neighbouring threads have neighbouring windows, whose columns are
  // in banks of their own, and what is found for a window is for all its rows.
  NNK_FN void make(int unit) const {
    const int set = args.by_results.divide(unit), j = unit - set * args.by_results.divisor;
    const Index o = window + j;
    if (o >= args.axis[2].out) return;
    const Window w = windows.load(j).of;
    int row[M];  // the last one again for those that are not there
    NNK_UNROLL
    for (int i = 0; i < M; ++i) row[i] = lesser_of(set * M + i, count - 1);
    if constexpr (Mode::indexed) search(row, set * M, w, o);
    else reduce(row, set * M, w, o);
  }
  // f(c, where it is in a row of shared memory) for the columns of a window, in order.
  template <class F> NNK_FN void each_column(const Window& w, F f) const {
    NNK_NO_UNROLL
    for (Index c = w.first; c < w.last; ++c) f(c, int(w.start + c * args.axis[2].step() - element));
  }
  NNK_FN void reduce(const int (&row)[M], int first_row, const Window& w, Index o) const {
    using V = Vec<S, M>;
    V total = V::splat(Mode::template identity<T, S>()), taps = V::splat(S(1));
    each_column(w, [&](Index, int at) NNK_INLINE {
      V x;
      NNK_UNROLL
      for (int i = 0; i < M; ++i) x.set(i, columns.load(row[i] * int(args.length) + at));
      total = Mode::merge(total, x);
    });
    if constexpr (Mode::counts) {
      NNK_UNROLL
      for (int i = 0; i < M; ++i) taps.set(i, window_count(rows.load(row[i]), w));
    }
    const V y = Mode::finish(args.parameters, total, taps);
    NNK_UNROLL
    for (int i = 0; i < M; ++i)
      if (first_row + i < count) store<T>(args.y, rows.load(row[i]).y, o, y[i]);
  }
  // The number by which an average divides.
  NNK_FN S window_count(const Row& place, const Window& w) const {
    if (args.include_pad) return S(place.depth.padded * place.height.padded * w.padded);
    return S(place.depth.inside() * place.height.inside() * w.inside());
  }

  // Of equal numbers that with the lowest label, of several NaN that with the highest: columns come
  // one after the other, but labels are in order of rows. (No branches: they would be several for
  // each of a few instructions.)
  NNK_FN void search(const int (&row)[M], int first_row, const Window& w, Index o) const {
    const I last = ~Limits<I>::lowest();
    S best[M];
    I best_label[M];
    NNK_UNROLL
    for (int i = 0; i < M; ++i) {
      best[i] = pool_lowest<T, S>();
      best_label[i] = last;
    }
    const Index start = w.start * args.names.start[2];
    each_column(w, [&](Index c, int at) NNK_INLINE {
      const I name = I(start + c * args.names.tap[2]);
      NNK_UNROLL
      for (int i = 0; i < M; ++i) {
        const int from = row[i] * int(args.length) + at;
        const S x = columns.load(from);
        const I label = labels.load(from) + name;
        const bool before = label < best_label[i];
        bool better = bool(int(x > best[i]) | (int(x == best[i]) & int(before)));
        if constexpr (is_floating<S>)
          better = bool(int(better) | (int(x != x) & (int(best[i] == best[i]) | int(!before))));
        best[i] = better ? x : best[i];
        best_label[i] = better ? label : best_label[i];
      }
    });
    NNK_UNROLL
    for (int i = 0; i < M; ++i) {
      if (first_row + i >= count) continue;
      const Row place = rows.load(row[i]);
      const bool any = place.depth.inside() > 0 && place.height.inside() > 0;
      if (!any || best_label[i] == last) best_label[i] = I(-1);
      if (args.y != nullptr) store<T>(args.y, place.y, o, best[i]);
      if (args.labels != nullptr) store<U>(args.labels, place.labels, o, best_label[i]);
    }
  }
  template <class To, class Value>
  NNK_FN void store(void* data, Index offset, Index o, Value value) const {
    const Line<To, Index, unit_step> line{byte_offset(static_cast<To*>(data), offset),
                                          args.axis[2].out, Index(sizeof(To))};
    line.store(o, convert<To>(Vec<Value, 1>::splat(value)));
  }
};

}  // namespace nnk
