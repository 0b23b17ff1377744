// Gradients of pooling, gathered: every element looks up the windows that contain it, in a fixed
// order, so that no two threads add to one place.
//
// As in pool.cuh, a thread makes N elements along an axis without windows, or one;
// pool_rows_backward.cuh is for elements side by side in a row.
#pragma once
#include "nnk/pool_axis.cuh"

namespace nnk {

// Mode    PoolMax: the second operand has the number of the tap that was the maximum of each
//         window, and dx = sum of dy over the windows whose maximum this is; or a mode of sums
// T       of x, dx, dy and y; U of the numbers of taps
template <class Mode, class T, class U, class S, int Step, int N, class Index, bool Adaptive,
          bool Streaming>
struct PoolGather {
  using V = Vec<S, N>;
  using I = PoolLabel<S>;
  using Window = PoolWindow<Index>;
  // Left alone, ptxas spills to keep six blocks on a multiprocessor.
  static constexpr int register_budget = 128;
  static constexpr bool by_labels = is_same<Mode, PoolMax>;
  static constexpr bool reads_y = !by_labels && !Mode::counts;
  using Second = conditional<by_labels, U, T>;

  struct Args {
    void* dx;
    const void* dy;
    const void* second;
    const void* x;
    int64 units;  // rows of elements for a block of one thread, else Vecs of elements
    int64 tile;
    Index lanes, lane_vectors;
    Index include_pad;
    Divisor<Index> by_lane_vectors, by_planes;
    PoolAxis<Index, Adaptive> axis[3];
    PoolStrides<Index> at[4];
    Index taps[2];  // number of a tap: (a taps[0] + b) taps[1] + c
    S parameters[4];
  };

  struct Place {
    Index p[3];
    PoolCover<Index> cover[3];
    Index plane[4];
    Index rows;  // from p[1] on, which the same windows see
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 first = group.block() * args.tile;
    const int64 last = lesser_of(first + args.tile, args.units);
    if constexpr (G::threads == 1) {
      for (Index row = Index(first); row < Index(last);) row += walk_rows(args, row, Index(last));
    } else {
      for (int64 unit = first + group.rank(); unit < last; unit += G::threads)
        make_one(args, Index(unit));
    }
  }

  // A row of elements, with those after it whose sums are the same: how many.
  static NNK_FN Index walk_rows(const Args& args, Index row, Index last) {
    Place place;
    begin_row(args, row, place);
    place.rows = 1;
    if constexpr (!by_labels) {
      const auto& axis = args.axis[1];
      const Index most = lesser_of(last - row, axis.size - place.p[1]);
      if (axis.step() == 1)
        while (place.rows < most && axis.cover(place.p[1] + place.rows) == place.cover[1])
          ++place.rows;
    }
    walk_row(args, place);
    return place.rows;
  }
  static NNK_FN void walk_row(const Args& args, Place& place) {
    if constexpr (!Adaptive)
      if (args.axis[2].dilation == 1 && walk_windows(args, place)) return;
    if constexpr (!by_labels) return walk_runs(args, place);
    for (place.p[2] = 0; place.p[2] < args.axis[2].size; ++place.p[2]) {
      place.cover[2] = args.axis[2].cover(place.p[2]);
      const Index whole = args.lanes / N;
      for (Index v = 0; v < whole; ++v) make<true>(args, place, v * N, N);
      if (whole < args.lane_vectors)
        make<false>(args, place, whole * N, int(args.lanes - whole * N));
    }
  }

  // The windows of one row that may see the elements of a row: the number of their first tap, or
  // how many taps of a column each has.
  struct Windows {
    const T* dy;
    const Second* second;
    I number;
    Index count;
  };
  static constexpr int most_rows = 8;  // of windows
  struct SeenRows {
    Windows row[most_rows];
    int count;
  };

  // Without dilation along a row the windows of an element are those of the one before it, but for
  // some at either end, and nothing is divided. False where they are in too many rows.
  static NNK_FN bool walk_windows(const Args& args, const Place& place) {
    SeenRows rows;
    if (!find_rows(args, place, rows)) return false;
    const auto& axis = args.axis[2];
    const Index whole = args.lanes / N;
    Index first = 0, last = 0, end = 0;
    for (Index w = 0; w < axis.size; w = end) {
      const Index at = w + axis.low;
      while (last < axis.out && last * axis.stride <= at) ++last;
      while (first < last && at - first * axis.stride >= axis.kernel) ++first;
      end = w + 1;
      if constexpr (!by_labels) {  // the same windows see the elements up to `end`
        end = axis.size;
        if (last < axis.out) end = lesser_of(end, last * axis.stride - axis.low);
        if (first < last) end = lesser_of(end, first * axis.stride + axis.kernel - axis.low);
      }
      for (Index v = 0; v < whole; ++v)
        make_seen<true>(args, place, rows, first, last, w, end, v * N, N);
      if (whole < args.lane_vectors)
        make_seen<false>(args, place, rows, first, last, w, end, whole * N,
                         int(args.lanes - whole * N));
    }
    return true;
  }
  static NNK_FN bool find_rows(const Args& args, const Place& place, SeenRows& rows) {
    rows.count = 0;
    Index o[3] = {0, 0, 0};
    for (o[0] = place.cover[0].first; o[0] < place.cover[0].last; ++o[0]) {
      const Index a = args.axis[0].tap(place.p[0], o[0]);
      for (o[1] = place.cover[1].first; o[1] < place.cover[1].last; ++o[1]) {
        const Index b = args.axis[1].tap(place.p[1], o[1]);
        if (a < 0 || b < 0) continue;
        if (rows.count == most_rows) return false;
        Windows& row = rows.row[rows.count++];
        row.dy = byte_offset(static_cast<const T*>(args.dy), offset<1>(args, place, o));
        if constexpr (by_labels || reads_y)
          row.second =
              byte_offset(static_cast<const Second*>(args.second), offset<2>(args, place, o));
        row.number = I((a * args.taps[0] + b) * args.taps[1]);
        if constexpr (Mode::counts) {
          const Window wd = args.axis[0].window(o[0]), wh = args.axis[1].window(o[1]);
          row.count = args.include_pad ? wd.padded * wh.padded : wd.inside() * wh.inside();
        }
      }
    }
    return true;
  }
  // The elements [begin, end) of a row, which the windows [first, last) of some rows see.
  template <bool Whole>
  static NNK_FN void make_seen(const Args& args, const Place& place, const SeenRows& rows,
                               Index first, Index last, Index begin, Index end, Index lane,
                               int count) {
    V total = V::splat(S(0));
    if constexpr (by_labels) {
      for (int r = 0; r < rows.count; ++r) {
        for (Index o = first; o < last; ++o) {
          const V dy = seen<1, Whole>(args, rows.row[r].dy, o, lane, count);
          const auto best = seen<2, Whole, I>(args, rows.row[r].second, o, lane, count);
          const Index tap = begin + args.axis[2].low - o * args.axis[2].stride;
          const auto is_here = bit_cast<Mask<S, N>>(best == rows.row[r].number + I(tap));
          total = total + where(is_here, dy, V::splat(S(0)));
        }
      }
    } else {  // columns first, as in `sums`
      for (Index o = first; o < last; ++o) {
        Index taps = 1;
        if constexpr (Mode::counts) {
          const Window w = args.axis[2].next_window(o);
          taps = args.include_pad ? w.padded : w.inside();
        }
        V column = V::splat(S(0));
        for (int r = 0; r < rows.count; ++r) {
          const V dy = seen<1, Whole>(args, rows.row[r].dy, o, lane, count);
          V y = dy, n = V::splat(S(1));
          if constexpr (reads_y) y = seen<2, Whole>(args, rows.row[r].second, o, lane, count);
          if constexpr (Mode::counts) n = V::splat(S(rows.row[r].count * taps));
          column = column + Mode::term(args.parameters, dy, y, n);
        }
        total = total + column;
      }
    }
    write_alike<Whole>(args, place, begin, end, lane, count, total);
  }
  // One sum, for the elements [begin, end) of all rows that have it.
  template <bool Whole>
  static NNK_FN void write_alike(const Args& args, const Place& place, Index begin, Index end,
                                 Index lane, int count, const V& total) {
    Index at[3] = {place.p[0], place.p[1], begin};
    for (; at[1] < place.p[1] + place.rows; ++at[1])
      for (at[2] = begin; at[2] < end; ++at[2]) write<Whole>(args, place, at, lane, count, total);
  }
  // What a row of windows has for window o, in some lanes.
  template <int Operand, bool Whole, class To = S, class From>
  static NNK_FN Vec<To, N> seen(const Args& args, const From* row, Index o, Index lane, int count) {
    const Line<const From, Index, Step> line{byte_offset(row, o * args.at[Operand].space[2]),
                                             args.lanes, args.at[Operand].lane};
    return convert<To>(some<Whole>(line, lane, count));
  }

  // Neighbours that the same windows see have one sum. (Without dilation all windows between the
  // first and the last see an element.)
  static NNK_FN void walk_runs(const Args& args, Place& place) {
    const auto& axis = args.axis[2];
    const Index whole = args.lanes / N;
    Index end = 0;
    for (place.p[2] = 0; place.p[2] < axis.size; place.p[2] = end) {
      const auto cover = place.cover[2] = axis.cover(place.p[2]);
      for (end = place.p[2] + 1; end < axis.size && axis.step() == 1; ++end) {
        if (!(axis.cover(end) == cover)) break;
      }
      for (Index v = 0; v < whole; ++v) make_run<true>(args, place, end, v * N, N);
      if (whole < args.lane_vectors)
        make_run<false>(args, place, end, whole * N, int(args.lanes - whole * N));
    }
  }
  template <bool Whole>
  static NNK_FN void make_run(const Args& args, const Place& place, Index end, Index lane,
                              int count) {
    const V total = sums<Whole>(args, place, lane, count);
    write_alike<Whole>(args, place, place.p[2], end, lane, count, total);
  }

  static NNK_FN void make_one(const Args& args, Index unit) {
    const Index outer = args.by_lane_vectors.divide(unit);
    const Index lane = (unit - outer * args.lane_vectors) * N;
    const Index row = args.axis[2].by_size.divide(outer);
    Place place;
    begin_row(args, row, place);
    place.p[2] = outer - row * args.axis[2].size;
    place.cover[2] = args.axis[2].cover(place.p[2]);
    const Index left = args.lanes - lane;
    if (N == 1 || left >= N) make<true>(args, place, lane, N);
    else make<false>(args, place, lane, int(left));
  }

  static NNK_FN void begin_row(const Args& args, Index row, Place& place) {
    const Index depth = args.axis[1].by_size.divide(row);
    const Index plane = args.axis[0].by_size.divide(depth);
    const Index outer = args.by_planes.divide(plane);
    place.p[1] = row - depth * args.axis[1].size;
    place.p[0] = depth - plane * args.axis[0].size;
    place.cover[0] = args.axis[0].cover(place.p[0]);
    place.cover[1] = args.axis[1].cover(place.p[1]);
    NNK_UNROLL
    for (int i = 0; i < 4; ++i)
      place.plane[i] = args.at[i].of_plane(outer, plane - outer * args.by_planes.divisor);
  }

  template <bool Whole>
  static NNK_FN void make(const Args& args, const Place& place, Index lane, int count) {
    V total;
    if constexpr (by_labels) total = maxima<Whole>(args, place, lane, count);
    else total = sums<Whole>(args, place, lane, count);
    write<Whole>(args, place, place.p, lane, count, total);
  }
  template <bool Whole>
  static NNK_FN void write(const Args& args, const Place& place, const Index (&at)[3], Index lane,
                           int count, V total) {
    if constexpr (!by_labels) {
      V x = total;
      if constexpr (reads_y) x = load<3, T, Whole>(args, args.x, place, at, lane, count);
      total = Mode::gradient(args.parameters, total, x);
    }
    const Line<T, Index, Step> line{
        byte_offset(static_cast<T*>(args.dx), offset<0>(args, place, at)), args.lanes,
        args.at[0].lane};
    const auto v = convert<T>(total);
    if constexpr (!Whole) line.store_partial(lane, v, count);
    else if constexpr (Streaming) line.store_streaming(lane, v);
    else line.store(lane, v);
  }

  // The windows in order, each with its own maximum.
  template <bool Whole>
  static NNK_FN V maxima(const Args& args, const Place& place, Index lane, int count) {
    const V zero = V::splat(S(0));
    V total = zero;
    Index o[3];
    for (o[0] = place.cover[0].first; o[0] < place.cover[0].last; ++o[0]) {
      const Index a = args.axis[0].tap(place.p[0], o[0]);
      for (o[1] = place.cover[1].first; o[1] < place.cover[1].last; ++o[1]) {
        const Index b = args.axis[1].tap(place.p[1], o[1]);
        if (a < 0 || b < 0) continue;
        const Index row = (a * args.taps[0] + b) * args.taps[1];
        for (o[2] = place.cover[2].first; o[2] < place.cover[2].last; ++o[2]) {
          const Index c = args.axis[2].tap(place.p[2], o[2]);
          if (c < 0) continue;
          const V dy = load<1, T, Whole>(args, args.dy, place, o, lane, count);
          const auto best = load_labels<Whole>(args, place, o, lane, count);
          total = total + where(bit_cast<Mask<S, N>>(best == I(row + c)), dy, zero);
        }
      }
    }
    return total;
  }

  // Columns of windows first, as pool_rows_backward.cuh does.
  template <bool Whole>
  static NNK_FN V sums(const Args& args, const Place& place, Index lane, int count) {
    V total = V::splat(S(0));
    Index o[3];
    for (o[2] = place.cover[2].first; o[2] < place.cover[2].last; ++o[2]) {
      if (args.axis[2].tap(place.p[2], o[2]) < 0) continue;
      V column = V::splat(S(0));
      for (o[0] = place.cover[0].first; o[0] < place.cover[0].last; ++o[0]) {
        if (args.axis[0].tap(place.p[0], o[0]) < 0) continue;
        for (o[1] = place.cover[1].first; o[1] < place.cover[1].last; ++o[1]) {
          if (args.axis[1].tap(place.p[1], o[1]) < 0) continue;
          const V dy = load<1, T, Whole>(args, args.dy, place, o, lane, count);
          V y = dy;
          if constexpr (reads_y) y = load<2, T, Whole>(args, args.second, place, o, lane, count);
          const V n = V::splat(window_count(args, o));
          column = column + Mode::term(args.parameters, dy, y, n);
        }
      }
      total = total + column;
    }
    return total;
  }

  static NNK_FN S window_count(const Args& args, const Index (&o)[3]) {
    if constexpr (!Mode::counts) return S(1);
    Index count = 1;
    NNK_UNROLL
    for (int i = 0; i < 3; ++i) {
      const Window w = args.axis[i].window(o[i]);
      count *= args.include_pad ? w.padded : w.inside();
    }
    return S(count);
  }

  // ---- memory ----------------------------------------------------------------------------------

  template <int Operand>
  static NNK_FN Index offset(const Args& args, const Place& place, const Index (&at)[3]) {
    NNK_UNROLL
    for (int i = 0; i < 3; ++i)
      check_access(at[i], 1, is_image<Operand> ? args.axis[i].size : args.axis[i].out, NNK_HERE);
    return place.plane[Operand] + args.at[Operand].at(at[0], at[1], at[2]);
  }
  template <int Operand> static constexpr bool is_image = Operand == 0 || Operand == 3;

  template <int Operand, class From, bool Whole>
  static NNK_FN auto read(const Args& args, const void* data, const Place& place,
                          const Index (&at)[3], Index lane, int count) {
    const Line<const From, Index, Step> line{
        byte_offset(static_cast<const From*>(data), offset<Operand>(args, place, at)), args.lanes,
        args.at[Operand].lane};
    return some<Whole>(line, lane, count);
  }
  template <bool Whole, class L> static NNK_FN auto some(const L& line, Index lane, int count) {
    if constexpr (Whole) return line.template load<N>(lane);
    else return line.template load_partial<N>(lane, count, typename L::value_type());
  }
  template <int Operand, class From, bool Whole>
  static NNK_FN V load(const Args& args, const void* data, const Place& place, const Index (&at)[3],
                       Index lane, int count) {
    return convert<S>(read<Operand, From, Whole>(args, data, place, at, lane, count));
  }
  template <bool Whole>
  static NNK_FN Vec<I, N> load_labels(const Args& args, const Place& place, const Index (&at)[3],
                                      Index lane, int count) {
    return convert<I>(read<2, U, Whole>(args, args.second, place, at, lane, count));
  }
};

}  // namespace nnk
