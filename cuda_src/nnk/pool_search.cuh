// Maxima of large windows with their labels, for a block of one thread: along rows first.
//
// The maximum of every window's taps in one row of the image, and which tap it is, serve all
// windows that see this row: those of k rows are kept, and compared with each other. So a window of
// k by k taps costs k comparisons along a row, which windows below each other share, and k more.
#pragma once
#include "nnk/pool_rows.cuh"

namespace nnk {

// Adjacent  whether N planes lie element beside element: a vector is of one window in all of them;
//           else it is of N windows side by side
// Step      of all operands, along what makes a vector; the rest as of PoolWindows
template <class T, class U, class S, int Step, int N, class Index, bool Adjacent, bool Streaming>
struct PoolSearch {
  using V = Vec<S, N>;
  using I = PoolLabel<S>;
  using VI = Vec<I, N>;
  using Window = PoolWindow<Index>;
  static constexpr NNK_FN Index vectors_of(Index windows) {
    return Adjacent ? windows : (windows + N - 1) / N;
  }

  struct Args {
    const void* x;
    void* y;       // null where labels alone are wanted
    void* labels;  // null where they are not
    int64 units;   // pieces of rows of windows, of groups of planes
    int64 tile;
    Index piece;    // windows of a piece
    Index length;   // scratch elements that a piece sees
    Index ring[2];  // depths and rows that are kept
    Index lanes;    // planes along a vector
    Divisor<Index> by_groups, by_pieces, by_planes;
    PoolAxis<Index, false> axis[3];
    PoolStrides<Index> at[3];
    PoolLabels<Index> names;
  };

  // Windows [first, first + count) of some planes, and which of the elements they see are there.
  struct Piece {
    Index first, count, start, low, high;
    Index bytes[3];  // of the planes
    int lanes;       // how many they are
    S* row;          // what windows see of a row
    S* best;         // of each row that is kept, and each window
    I* label;
    I* column;      // label of the first tap inside of each window, or -1
    Index* kept;    // which row is where, or -1
    Index* places;  // where the rows are that windows see
    I* row_labels;  // and the label of their first tap
    Index size;     // elements of best for a row
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 begin = group.block() * args.tile;
    const int64 end = lesser_of(begin + args.tile, args.units);
    Piece piece = scratch_of(group, args);
    Index current = -1;
    for (Index unit = Index(begin); unit < Index(end); ++unit) {
      // Numbered by (plane, plane, group, piece, depth, height).
      const Index depth = args.axis[1].by_out.divide(unit);
      const Index outer = args.axis[0].by_out.divide(depth);
      if (outer != current) begin_piece(args, piece, outer);
      current = outer;
      const Index d = depth - outer * args.axis[0].out, h = unit - depth * args.axis[1].out;
      const Window wd = args.axis[0].window(d), wh = args.axis[1].window(h);
      const Index rows = find_rows(args, piece, wd, wh);
      const Index name = args.names.of_window(wd.start, wh.start, piece.start);
      for (Index v = 0; v < vectors_of(piece.count); ++v) make(args, piece, rows, d, h, v, name);
    }
  }

 private:
  template <class G> static NNK_FN Piece scratch_of(G& group, const Args& args) {
    Piece piece{};
    const Index rows = args.ring[0] * args.ring[1];
    piece.size = vectors_of(args.piece) * N;
    piece.row = group.template dynamic_shared<S>(0, int(args.length)).data;
    piece.best = piece.row + args.length;
    piece.label = reinterpret_cast<I*>(piece.best + rows * piece.size);
    piece.column = piece.label + rows * piece.size;
    piece.row_labels = piece.column + piece.size;
    piece.kept = reinterpret_cast<Index*>(piece.row_labels + rows);
    piece.places = piece.kept + rows;
    return piece;
  }

  static NNK_FN void begin_piece(const Args& args, Piece& piece, Index outer) {
    const auto& axis = args.axis[2];
    const Index groups = args.by_pieces.divide(outer);
    const Index planes = args.by_groups.divide(groups), a = args.by_planes.divide(planes);
    const Index b = planes - a * args.by_planes.divisor;
    const Index lane = (groups - planes * args.by_groups.divisor) * N;
    NNK_UNROLL
    for (int i = 0; i < 3; ++i)
      piece.bytes[i] = args.at[i].of_plane(a, b) + (Adjacent ? lane * args.at[i].lane : 0);
    piece.lanes = Adjacent ? int(lesser_of(Index(N), args.lanes - lane)) : N;
    piece.first = (outer - groups * args.by_pieces.divisor) * args.piece;
    piece.count = lesser_of(args.piece, axis.out - piece.first);
    piece.start = piece.first * axis.stride - axis.low;
    piece.low = lesser_of(greater_of(-piece.start, Index(0)), args.length);
    piece.high = greater_of(lesser_of(axis.size - piece.start, args.length), piece.low);
    for (Index i = 0; i < args.length; i += N) nnk::store(piece.row + i, lowest());
    for (Index i = 0; i < args.ring[0] * args.ring[1]; ++i) piece.kept[i] = -1;
    for (Index i = 0; i < piece.size; ++i) {
      const Index window = piece.first + (Adjacent ? i / N : i);
      const Window w = axis.window(lesser_of(window, axis.out - 1));
      piece.column[i] = w.inside() > 0 ? I(w.first * args.names.tap[2]) : I(-1);
    }
  }
  static NNK_FN V lowest() { return V::splat(pool_lowest<T, S>()); }

  // Where the rows are that windows see; how many.
  static NNK_FN Index find_rows(const Args& args, Piece& piece, const Window& wd,
                                const Window& wh) {
    Index found = 0;
    if (!Adjacent && piece.high == piece.low) return 0;
    const Index step[2] = {args.axis[0].dilation, args.axis[1].dilation};
    const Index height = wh.start + wh.first * step[1], begin = height % args.ring[1];
    Index deep = (wd.start + wd.first * step[0]) % args.ring[0];
    for (Index a = wd.first; a < wd.last; ++a) {
      const Index d = wd.start + a * step[0];
      Index h = height, high = begin;
      for (Index b = wh.first; b < wh.last; ++b) {
        const Index place = deep * args.ring[1] + high, number = d * args.axis[1].size + h;
        if (piece.kept[place] != number) search_row(args, piece, place, d, h);
        piece.kept[place] = number;
        piece.places[found] = place * piece.size;
        piece.row_labels[found++] = I(a * args.names.tap[0] + b * args.names.tap[1]);
        h += step[1];
        high += step[1];
        if (high >= args.ring[1]) high -= args.ring[1];
      }
      deep += step[0];
      if (deep >= args.ring[0]) deep -= args.ring[0];
    }
    return found;
  }

  // ---- one row of the image --------------------------------------------------------------------

  static NNK_FN void search_row(const Args& args, const Piece& piece, Index place, Index d,
                                Index h) {
    S* best = piece.best + place * piece.size;
    I* label = piece.label + place * piece.size;
    const auto& axis = args.axis[2];
    const Index bytes = piece.bytes[0] + args.at[0].at(d, h, 0);
    if constexpr (Adjacent) {
      for (Index v = 0; v < piece.count; ++v) {
        const Window w = axis.window(piece.first + v);
        search_taps(
            args, piece.column + v * N, best + v * N, label + v * N, w.first, w.last,
            [&](Index c) NNK_INLINE {
              const Index at = w.start + c * axis.dilation;
              const Line<const T, Index, Step> line{
                  byte_offset(static_cast<const T*>(args.x), bytes + at * args.at[0].space[2]),
                  Index(piece.lanes), args.at[0].lane};
              return convert<S>(some(line, 0, piece.lanes));
            });
      }
    } else {
      copy_row(args, piece, bytes);
      with_stride(axis.stride, [&](auto every) NNK_INLINE {
        for (Index i = 0; i < piece.count; i += N) {
          const S* from = piece.row + i * axis.stride;
          search_taps(args, piece.column + i, best + i, label + i, Index(0), axis.kernel,
                      [&](Index c) NNK_INLINE {
                        return load_every<N, every.value>(from + c * axis.dilation, axis.stride);
                      });
        }
      });
    }
  }
  template <class F>
  static NNK_FN void search_taps(const Args& args, const I* column, S* to, I* to_label, Index first,
                                 Index last, F tap) {
    V best = lowest();
    VI label = nnk::load<N>(column);
    for (Index c = first; c < last; ++c) {
      const V x = tap(c);
      const auto better = is_better(x, best);
      best = where(better, x, best);
      label = where_labels(better, VI::splat(I(c * args.names.tap[2])), label);
    }
    nnk::store(to, best);
    nnk::store(to_label, label);
  }
  static NNK_FN void copy_row(const Args& args, const Piece& piece, Index bytes) {
    const Line<const T, Index, Step> from{
        byte_offset(static_cast<const T*>(args.x),
                    bytes + (piece.start + piece.low) * args.at[0].space[2]),
        piece.high - piece.low, args.at[0].space[2]};
    for (Index i = 0; i < from.length; i += N) {
      const int left = int(lesser_of(Index(N), from.length - i));
      const V x = convert<S>(some(from, i, left));
      S* to = piece.row + piece.low + i;
      if (left == N) nnk::store(to, x);
      else nnk::store_partial(to, x, left);
    }
  }
  template <class L> static NNK_FN auto some(const L& line, Index i, int count) {
    if (count == N) return line.template load<N>(i);
    return line.template load_partial<N>(i, count, T());
  }

  // ---- one vector of windows -------------------------------------------------------------------

  static NNK_FN void make(const Args& args, const Piece& piece, Index rows, Index d, Index h,
                          Index v, Index name) {
    V best = lowest();
    const VI none = VI::splat(I(-1)), column = nnk::load<N>(piece.column + v * N);
    VI label = none;
    if (rows > 0) label = where(column < I(0), none, column + piece.row_labels[0]);
    for (Index r = 0; r < rows; ++r) {
      const Index from = piece.places[r] + v * N;
      const V x = nnk::load<N>(piece.best + from);
      const auto better = is_better(x, best);
      best = where(better, x, best);
      label = where_labels(better, nnk::load<N>(piece.label + from) + piece.row_labels[r], label);
    }
    const Index window = Adjacent ? v : v * N;
    const int count = Adjacent ? piece.lanes : int(lesser_of(Index(N), piece.count - window));
    if (args.y != nullptr) store<1, T>(args, args.y, piece, d, h, window, count, best);
    if (args.labels == nullptr) return;
    // Labels so far count from the window; `name` is that of the first one of the piece.
    const Index step = args.axis[2].stride * args.names.start[2];
    VI first = VI::splat(I(name + window * step));
    if constexpr (!Adjacent) first = lanes_in_order<I, N>() * I(step) + first;
    label = where(label < I(0), none, label + first);
    store<2, U>(args, args.labels, piece, d, h, window, count, label);
  }
  template <int Operand, class To, class Value>
  static NNK_FN void store(const Args& args, void* data, const Piece& piece, Index d, Index h,
                           Index window, int count, const Value& value) {
    const auto& at = args.at[Operand];
    const Index bytes = piece.bytes[Operand] + at.at(d, h, piece.first + window);
    const Line<To, Index, Step> line{byte_offset(static_cast<To*>(data), bytes), Index(count),
                                     Adjacent ? at.lane : at.space[2]};
    const auto v = convert<To>(value);
    if (count < N) line.store_partial(0, v, count);
    else if constexpr (Streaming) line.store_streaming(0, v);
    else line.store(0, v);
  }
};

}  // namespace nnk
