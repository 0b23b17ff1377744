// Pooling: y = reduction over the taps of a window, for every window of every plane.
//
// A thread makes N results that lie side by side along an axis without windows (channels of a
// channels-last image, or planes), or one. Its window has one position then: which taps are inside
// the image is known before the first of them is read. pool_rows.cuh is for windows side by side.
#pragma once
#include "nnk/pool_axis.cuh"

namespace nnk {

// How far ahead images are fetched into the cache, in bytes.
constexpr int pool_ahead = 2048;

// Mode      one of pool_axis.cuh
// T         of x and y; U of the labels that are written: indices, or numbers of taps
// S         the computing type
// Step      unit_step or any_step: of all operands along the lanes
// Streaming results go past the caches
// Fetches   images are fetched ahead (by a block of one thread)
template <class Mode, class T, class U, class S, int Step, int N, class Index, bool Adaptive,
          bool Streaming, bool Fetches = true>
struct PoolWindows {
  using V = Vec<S, N>;
  using I = PoolLabel<S>;
  using Window = PoolWindow<Index>;
  // Left alone, ptxas spills to keep six blocks on a multiprocessor, and takes as many registers
  // as it may for loops that it unrolls: a thread has a few loads under way, and blocks hide them.
  static constexpr bool wide = sizeof(S) > 4 || sizeof(Index) > 4 || is_same<Mode, PoolPower>;
  static constexpr int register_budget = wide ? 128 : is_same<Mode, PoolSquare> ? 80 : 64;

  struct Args {
    const void* x;
    void* y;       // null where labels alone are wanted
    void* labels;  // null where they are not
    int64 units;   // rows of windows for a block of one thread, else Vecs of results
    int64 tile;    // units of a block
    Index lanes, lane_vectors;
    Index include_pad;
    Divisor<Index> by_lane_vectors, by_planes;  // of the second axis of planes
    PoolAxis<Index, Adaptive> axis[3];
    PoolStrides<Index> at[3];  // of x, y and labels
    PoolLabels<Index> names;
    S parameters[4];
  };

  // The windows of a result, and where its planes begin.
  struct Place {
    Window window[3];
    Index x, y, labels, name;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 first = group.block() * args.tile;
    const int64 last = lesser_of(first + args.tile, args.units);
    if constexpr (G::threads == 1) {
      for (Index row = Index(first); row < Index(last); ++row) walk_row(args, row);
    } else {
      for (int64 unit = first + group.rank(); unit < last; unit += G::threads)
        make_one(args, Index(unit));
    }
  }

  // All results of a row of windows.
  static NNK_FN void walk_row(const Args& args, Index row) {
    Index o[3];
    Place place;
    begin_row(args, row, o, place);
    for (o[2] = 0; o[2] < args.axis[2].out; ++o[2]) {
      place.window[2] = args.axis[2].next_window(o[2]);
      const Place here = at_window(args, o, place);
      if constexpr (Step == unit_step && Fetches) fetch_ahead(args, here);
      const Index whole = args.lanes / N;
      for (Index v = 0; v < whole; ++v) make<true>(args, here, v * N, N);
      if (whole < args.lane_vectors)
        make<false>(args, here, whole * N, int(args.lanes - whole * N));
    }
  }

  // Brings what windows further along the row see, and no window before them, to the cache.
  static NNK_FN void fetch_ahead(const Args& args, const Place& place) {
    const Window* w = place.window;
    const Index columns = lesser_of(args.axis[2].stride, w[2].inside());
    const Index rows = lesser_of(args.axis[1].stride, w[1].inside());
    if (columns == 0 || w[0].inside() == 0) return;
    const Index first = w[2].start + (w[2].last - columns) * args.axis[2].step();
    const Index bytes = columns * args.lanes * Index(sizeof(T));
    for (Index b = w[1].last - rows; b < w[1].last; ++b) {
      const Index h = w[1].start + b * args.axis[1].step();
      const Index d = w[0].start + (w[0].last - 1) * args.axis[0].step();
      const T* from =
          byte_offset(static_cast<const T*>(args.x), place.x + args.at[0].at(d, h, first));
      for (Index i = 0; i < bytes; i += cache_line) prefetch<1>(byte_offset(from, i + pool_ahead));
    }
  }

  static NNK_FN void make_one(const Args& args, Index unit) {
    const Index outer = args.by_lane_vectors.divide(unit);
    const Index lane = (unit - outer * args.lane_vectors) * N;
    const Index row = args.axis[2].by_out.divide(outer);
    Index o[3];
    Place place;
    begin_row(args, row, o, place);
    o[2] = outer - row * args.axis[2].out;
    place.window[2] = args.axis[2].window(o[2]);
    const Place here = at_window(args, o, place);
    const Index left = args.lanes - lane;
    if (N == 1 || left >= N) make<true>(args, here, lane, N);
    else make<false>(args, here, lane, int(left));
  }

  // What the windows of one row share; rows are numbered by (plane, plane, depth, height).
  static NNK_FN void begin_row(const Args& args, Index row, Index (&o)[3], Place& place) {
    const Index depth = args.axis[1].by_out.divide(row);
    const Index plane = args.axis[0].by_out.divide(depth);
    const Index outer = args.by_planes.divide(plane);
    o[1] = row - depth * args.axis[1].out;
    o[0] = depth - plane * args.axis[0].out;
    place.window[0] = args.axis[0].window(o[0]);
    place.window[1] = args.axis[1].window(o[1]);
    const Index inner = plane - outer * args.by_planes.divisor;
    place.x = args.at[0].of_plane(outer, inner);
    place.y = args.at[1].of_plane(outer, inner);
    place.labels = args.at[2].of_plane(outer, inner);
  }
  static NNK_FN Place at_window(const Args& args, const Index (&o)[3], Place place) {
    place.y += args.at[1].at(o[0], o[1], o[2]);
    place.labels += args.at[2].at(o[0], o[1], o[2]);
    place.name =
        args.names.of_window(place.window[0].start, place.window[1].start, place.window[2].start);
    return place;
  }

  // ---- one Vec of results ----------------------------------------------------------------------

  template <bool Whole>
  static NNK_FN void make(const Args& args, const Place& place, Index lane, int count) {
    if constexpr (Mode::indexed) {
      V best;
      Vec<I, N> label;
      search<Whole>(args, place, lane, count, best, label);
      if (args.y != nullptr) store<1, T, Whole>(args, args.y, place.y, lane, count, best);
      if (args.labels != nullptr)
        store<2, U, Whole>(args, args.labels, place.labels, lane, count, label);
    } else {
      const V total = reduce<Whole>(args, place, lane, count);
      V y;
      if constexpr (Mode::counts) y = Mode::share(total, window_count(args, place.window));
      else y = Mode::finish(args.parameters, total, V::splat(S(1)));
      store<1, T, Whole>(args, args.y, place.y, lane, count, y);
    }
  }

  // The number by which an average divides.
  static NNK_FN S window_count(const Args& args, const Window (&w)[3]) {
    if (args.include_pad) return S(w[0].padded * w[1].padded * w[2].padded);
    return S(w[0].inside() * w[1].inside() * w[2].inside());
  }

  template <bool Whole>
  static NNK_FN V reduce(const Args& args, const Place& place, Index lane, int count) {
    const S identity = Mode::template identity<T, S>();
    V total = V::splat(identity);
    for (Index c = place.window[2].first; c < place.window[2].last; ++c) {
      V column = V::splat(identity);
      for (Index a = place.window[0].first; a < place.window[0].last; ++a) {
        for (Index b = place.window[1].first; b < place.window[1].last; ++b)
          column =
              Mode::add(args.parameters, column, tap<Whole>(args, place, a, b, c, lane, count));
      }
      total = Mode::merge(total, column);
    }
    return total;
  }

  template <bool Whole>
  static NNK_FN void search(const Args& args, const Place& place, Index lane, int count, V& best,
                            Vec<I, N>& label) {
    const Window* w = place.window;
    const bool any = w[0].inside() > 0 && w[1].inside() > 0 && w[2].inside() > 0;
    best = V::splat(pool_lowest<T, S>());
    label =
        Vec<I, N>::splat(any ? I(name(args, place, w[0].first, w[1].first, w[2].first)) : I(-1));
    for (Index a = w[0].first; a < w[0].last; ++a) {
      for (Index b = w[1].first; b < w[1].last; ++b) {
        for (Index c = w[2].first; c < w[2].last; ++c) {
          const V x = tap<Whole>(args, place, a, b, c, lane, count);
          const auto better = is_better(x, best);
          best = where(better, x, best);
          label = where_labels(better, Vec<I, N>::splat(I(name(args, place, a, b, c))), label);
        }
      }
    }
  }
  static NNK_FN Index name(const Args& args, const Place& place, Index a, Index b, Index c) {
    return place.name + a * args.names.tap[0] + b * args.names.tap[1] + c * args.names.tap[2];
  }

  // ---- memory ----------------------------------------------------------------------------------

  template <bool Whole>
  static NNK_FN V tap(const Args& args, const Place& place, Index a, Index b, Index c, Index lane,
                      int count) {
    const auto& axis = args.axis;
    const Index d = place.window[0].start + a * axis[0].step();
    const Index h = place.window[1].start + b * axis[1].step();
    const Index w = place.window[2].start + c * axis[2].step();
    check_access(d, 1, axis[0].size, NNK_HERE);
    check_access(h, 1, axis[1].size, NNK_HERE);
    check_access(w, 1, axis[2].size, NNK_HERE);
    const Line<const T, Index, Step> line{
        byte_offset(static_cast<const T*>(args.x), place.x + args.at[0].at(d, h, w)), args.lanes,
        args.at[0].lane};
    if constexpr (Whole) return convert<S>(line.template load<N>(lane));
    else return convert<S>(line.template load_partial<N>(lane, count, T()));
  }
  template <int Operand, class To, bool Whole, class Value>
  static NNK_FN void store(const Args& args, void* data, Index offset, Index lane, int count,
                           const Value& value) {
    const Line<To, Index, Step> line{byte_offset(static_cast<To*>(data), offset), args.lanes,
                                     args.at[Operand].lane};
    const auto v = convert<To>(value);
    if constexpr (!Whole) line.store_partial(lane, v, count);
    else if constexpr (Streaming) line.store_streaming(lane, v);
    else line.store(lane, v);
  }
};

}  // namespace nnk
