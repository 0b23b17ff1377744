// Pooling for a block of one thread, where neighbours in memory are neighbours along the last axis:
// results of a row are made side by side.
//
// The rows that a window sees are added up in scratch memory first (or, for indices, taken one
// after the other), with margins for the padding, so that nothing after that looks at an edge.
#pragma once
#include "nnk/pool_axis.cuh"

namespace nnk {

// Every `stride`-th element of a row in scratch memory; Every is the stride, or 0 for any.
template <int N, int Every, class S> NNK_FN Vec<S, N> load_every(const S* p, int64 stride) {
  if constexpr (Every == 1) return nnk::load<N>(p);
  else if constexpr (Every == 2) return nnk::load_strided<N>(p, int64(2 * sizeof(S)), N, S());
  else if (stride == 1) return nnk::load<N>(p);
  else return nnk::load_strided<N>(p, stride * int64(sizeof(S)), N, S());
}

// How far ahead rows of an image are fetched into the cache, in bytes: on two cores of an Emerald
// Rapids Xeon the maxima of 3x3 of 32x64x112x112 take 3.5 ms, and 7.6 ms without.
constexpr int pool_rows_ahead = 2048;

// f(constant) with the stride where it is 1 or 2, else with 0.
template <int I> struct Constant { static constexpr int value = I; };
template <class F> NNK_FN void with_stride(int64 stride, F f) {
  if (stride == 1) f(Constant<1>());
  else if (stride == 2) f(Constant<2>());
  else f(Constant<0>());
}

// Template parameters as of PoolWindows; Step along the last axis. A row is cut into pieces.
template <class Mode, class T, class U, class S, int Step, int N, class Index, bool Streaming>
struct PoolRows {
  using V = Vec<S, N>;
  using I = PoolLabel<S>;
  using VI = Vec<I, N>;
  using Window = PoolWindow<Index>;
  // Rows of an image that are added up at once.
  static constexpr int together = 3;
  // Rows in scratch memory, for indices: those of the last windows too. A power of two.
  static constexpr int kept = Mode::indexed ? 4 : 1;

  struct Args {
    const void* x;
    void* y;
    void* labels;
    int64 units;  // pieces of rows of windows
    int64 tile;
    Index piece;   // windows of a piece
    Index length;  // scratch elements that a piece sees: a multiple of N
    Index slots;   // the same of a piece of results
    Index include_pad;
    Divisor<Index> by_pieces, by_planes;
    PoolAxis<Index, false> axis[3];
    PoolStrides<Index> at[3];
    PoolLabels<Index> names;
    S parameters[4];
  };

  // A piece: windows [first, first + count), and which of the elements they see are in the image.
  struct Piece {
    Index first, count, start, low, high;
    S* scratch;
    S* row;   // what the windows see, element after element; for indices, the first such row
    S* best;  // of each window
    I* label;
    I* column;             // the first tap inside, or -1
    Index kept_row[kept];  // which row of the image is where, or -1
    S* counts;             // taps by which an average divides
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 begin = group.block() * args.tile;
    const int64 end = lesser_of(begin + args.tile, args.units);
    Piece piece = scratch_of(group, args);
    Index current = -1;
    for (Index unit = Index(begin); unit < Index(end); ++unit) {
      // Numbered by (plane, plane, piece, depth, height).
      const Index depth = args.axis[1].by_out.divide(unit);
      const Index outer = args.axis[0].by_out.divide(depth);
      const Index plane = args.by_pieces.divide(outer), number = outer - plane * pieces(args);
      if (number != current) begin_piece(args, piece, number);
      current = number;
      const Index a = args.by_planes.divide(plane), b = plane - a * args.by_planes.divisor;
      const Index d = depth - outer * args.axis[0].out, h = unit - depth * args.axis[1].out;
      const Window wd = args.axis[0].window(d), wh = args.axis[1].window(h);
      const Index y = args.at[1].of_plane(a, b) + args.at[1].at(d, h, piece.first);
      if constexpr (Mode::indexed) {
        const Index labels = args.at[2].of_plane(a, b) + args.at[2].at(d, h, piece.first);
        search(args, piece, plane, args.at[0].of_plane(a, b), wd, wh,
               {y, labels, args.names.of_window(wd.start, wh.start, piece.start)});
      } else {
        add_rows(args, piece, args.at[0].of_plane(a, b), wd, wh);
        const S rows = args.include_pad ? S(wd.padded * wh.padded) : S(wd.inside() * wh.inside());
        with_stride(args.axis[2].stride,
                    [&](auto every) NNK_INLINE { add_columns<every.value>(args, piece, y, rows); });
      }
    }
  }

  static NNK_FN Index pieces(const Args& args) { return args.by_pieces.divisor; }

  template <class G> static NNK_FN Piece scratch_of(G& group, const Args& args) {
    Piece piece{};
    piece.scratch = group.template dynamic_shared<S>(0, int(args.length)).data;
    piece.counts = piece.scratch + kept * args.length;
    piece.best = piece.counts;  // no mode needs both
    piece.label = reinterpret_cast<I*>(piece.best + args.slots);
    piece.column = piece.label + args.slots;
    return piece;
  }

  // Margins, and what depends on the place along the row alone.
  static NNK_FN void begin_piece(const Args& args, Piece& piece, Index number) {
    const auto& axis = args.axis[2];
    piece.first = number * args.piece;
    piece.count = lesser_of(args.piece, axis.out - piece.first);
    piece.start = piece.first * axis.stride - axis.low;
    const Index seen = args.length - N;
    piece.low = lesser_of(greater_of(-piece.start, Index(0)), seen);
    piece.high = greater_of(lesser_of(axis.size - piece.start, seen), piece.low);
    // The first element of the image is where a vector begins.
    piece.row = piece.scratch + (N - piece.low % N) % N;
    const V margin = V::splat(Mode::template identity<T, S>());
    for (S* e = piece.scratch; e < piece.counts; e += N) nnk::store(e, margin);
    for (int k = 0; k < kept; ++k) piece.kept_row[k] = -1;
    for (Index i = 0; i < args.slots; ++i) {
      const Window w = axis.window(lesser_of(piece.first + i, axis.out - 1));
      if constexpr (Mode::indexed) piece.column[i] = w.inside() > 0 ? I(w.first) : I(-1);
      else if constexpr (Mode::counts)
        piece.counts[i] = S(args.include_pad ? w.padded : w.inside());
    }
  }

  // ---- sums and maxima: columns, then rows -----------------------------------------------------

  static NNK_FN auto image_row(const Args& args, const Piece& piece, Index plane, Index d,
                               Index h) {
    const Index first = piece.start + piece.low;
    return Line<const T, Index, Step>{
        byte_offset(static_cast<const T*>(args.x), plane + args.at[0].at(d, h, first)),
        piece.high - piece.low, args.at[0].space[2]};
  }

  // The elements of all rows that the windows see, added up column by column.
  static NNK_FN void add_rows(const Args& args, const Piece& piece, Index plane, const Window& wd,
                              const Window& wh) {
    if (piece.high == piece.low) return;
    using Row = decltype(image_row(args, piece, plane, 0, 0));
    Row rows[together];
    int found = 0;
    bool fresh = true;
    for (Index a = wd.first; a < wd.last; ++a) {
      for (Index b = wh.first; b < wh.last; ++b) {
        rows[found++] = image_row(args, piece, plane, wd.start + a * args.axis[0].dilation,
                                  wh.start + b * args.axis[1].dilation);
        if (found == together) {
          combine<together>(args, piece, rows, fresh);
          fresh = false;
          found = 0;
        }
      }
    }
    if (found == 1) combine<1>(args, piece, rows, fresh);
    else if (found == 2) combine<2>(args, piece, rows, fresh);
    else if (fresh) combine<0>(args, piece, rows, fresh);
  }

  template <int Rows, class Row>
  static NNK_FN void combine(const Args& args, const Piece& piece, const Row* rows, bool fresh) {
    S* to = piece.row + piece.low;
    const Index length = piece.high - piece.low;
    const V identity = V::splat(Mode::template identity<T, S>());
    Index i = 0;
    for (; i + N <= length; i += N) {
      V column = fresh ? identity : nnk::load<N>(to + i);
      NNK_UNROLL
      for (int r = 0; r < Rows; ++r) {
        prefetch<1>(byte_offset(rows[r].at(i), pool_rows_ahead));
        column = Mode::add(args.parameters, column, convert<S>(rows[r].template load<N>(i)));
      }
      nnk::store(to + i, column);
    }
    if (i < length) {
      const int left = int(length - i);
      V column = fresh ? identity : nnk::load<N>(to + i);
      NNK_UNROLL
      for (int r = 0; r < Rows; ++r)
        column = Mode::add(args.parameters, column,
                           convert<S>(rows[r].template load_partial<N>(i, left, T())));
      nnk::store(to + i, first_lanes(column, left, identity));
    }
  }
  // A vector whose lanes behind the first `count` hold a margin: a whole store, which the loads
  // that follow need not wait for.
  static NNK_FN V first_lanes(const V& v, int count, const V& margin) {
    const auto there = lanes_in_order<I, N>() < I(count);
    return where(bit_cast<Mask<S, N>>(there), v, margin);
  }

  template <int Every>
  static NNK_FN void add_columns(const Args& args, const Piece& piece, Index y, S rows) {
    const auto& axis = args.axis[2];
    for (Index i = 0; i < piece.count; i += N) {
      const S* from = piece.row + i * axis.stride;
      V total = load_every<N, Every>(from, axis.stride);
      for (Index c = 1; c < axis.kernel; ++c)
        total = Mode::merge(total, load_every<N, Every>(from + c * axis.dilation, axis.stride));
      V count = V::splat(S(1));
      if constexpr (Mode::counts) count = nnk::load<N>(piece.counts + i) * rows;
      store_result(args, piece, y, i, Mode::finish(args.parameters, total, count));
    }
  }

  static NNK_FN void store_result(const Args& args, const Piece& piece, Index y, Index i,
                                  const V& value) {
    const Line<T, Index, Step> line{byte_offset(static_cast<T*>(args.y), y), piece.count,
                                    args.at[1].space[2]};
    const auto v = convert<T>(value);
    if (piece.count - i < N) line.store_partial(i, v, int(piece.count - i));
    else if constexpr (Streaming) line.store_streaming(i, v);
    else line.store(i, v);
  }

  // ---- maxima with the labels of their taps: row after row, of each tap after tap --------------

  // Bytes to the results of a row of windows, and the label of the first tap of its first one.
  struct Results { Index y, labels, name; };
  // Rows of the image in scratch memory, and the labels of their first taps.
  struct Found {
    const S* rows[together];
    I labels[together];
    int count;
    bool is_first;  // whether none was searched before
    I first;        // label of the first tap inside, but for the column
    bool any;       // whether there is one
  };

  static NNK_FN void search(const Args& args, Piece& piece, Index plane, Index bytes,
                            const Window& wd, const Window& wh, const Results& to) {
    const auto& names = args.names;
    // Neighbouring rows of one depth stay, each in a place of its own.
    const bool stay =
        args.axis[0].kernel == 1 && args.axis[1].dilation == 1 && args.axis[1].kernel <= together;
    Found found{};
    found.is_first = true;
    found.any = wd.inside() > 0 && wh.inside() > 0;
    found.first = I(wd.first * names.tap[0] + wh.first * names.tap[1]);
    const bool sees = piece.high > piece.low;
    for (Index a = wd.first; a < wd.last && sees; ++a) {
      for (Index b = wh.first; b < wh.last; ++b) {
        if (found.count == together) {
          search_found<false>(args, piece, found, to);
          found.count = 0;
          found.is_first = false;
        }
        const Index d = wd.start + a * args.axis[0].dilation;
        const Index h = wh.start + b * args.axis[1].dilation;
        const int k = stay ? int(h % kept) : found.count;
        const Index number = (plane * args.axis[0].size + d) * args.axis[1].size + h;
        S* row = piece.row + k * args.length;
        if (!stay || piece.kept_row[k] != number)
          copy_row(piece, row, image_row(args, piece, bytes, d, h));
        piece.kept_row[k] = number;
        found.rows[found.count] = row;
        found.labels[found.count++] = I(a * names.tap[0] + b * names.tap[1]);
      }
    }
    search_found<true>(args, piece, found, to);
  }

  template <class Row> static NNK_FN void copy_row(const Piece& piece, S* row, const Row& from) {
    S* to = row + piece.low;
    const Index length = piece.high - piece.low;
    Index i = 0;
    for (; i + N <= length; i += N) {
      prefetch<1>(byte_offset(from.at(i), pool_rows_ahead));
      nnk::store(to + i, convert<S>(from.template load<N>(i)));
    }
    if (i < length) {
      const int left = int(length - i);
      const V margin = V::splat(pool_lowest<T, S>());
      nnk::store(to + i, first_lanes(convert<S>(from.template load_partial<N>(i, left, T())), left,
                                     margin));
    }
  }

  // Last: whether no row follows, and the results are written.
  template <bool Last>
  static NNK_FN void search_found(const Args& args, const Piece& piece, const Found& found,
                                  const Results& to) {
    with_stride(args.axis[2].stride, [&](auto every) NNK_INLINE {
      constexpr int e = every.value;
      if (!Last || found.count == 3) search_rows<e, 3, Last>(args, piece, found, to);
      else if (found.count == 2) search_rows<e, 2, Last>(args, piece, found, to);
      else if (found.count == 1) search_rows<e, 1, Last>(args, piece, found, to);
      else search_rows<e, 0, Last>(args, piece, found, to);
    });
  }
  template <int Every, int Rows, bool Last>
  static NNK_FN void search_rows(const Args& args, const Piece& piece, const Found& found,
                                 const Results& to) {
    const auto& axis = args.axis[2];
    const VI none = VI::splat(I(-1));
    for (Index i = 0; i < piece.count; i += N) {
      V best;
      VI label;
      if (found.is_first) {
        const VI column = nnk::load<N>(piece.column + i);
        best = V::splat(pool_lowest<T, S>());
        label = found.any ? where(column < I(0), none, column * I(args.names.tap[2]) + found.first)
                          : none;
      } else {
        best = nnk::load<N>(piece.best + i);
        label = nnk::load<N>(piece.label + i);
      }
      NNK_UNROLL
      for (int r = 0; r < Rows; ++r) {
        const S* from = found.rows[r] + i * axis.stride;
        for (Index c = 0; c < axis.kernel; ++c) {
          const V x = load_every<N, Every>(from + c * axis.dilation, axis.stride);
          const auto better = is_better(x, best);
          best = where(better, x, best);
          const I tap = I(found.labels[r] + c * args.names.tap[2]);
          label = where_labels(better, VI::splat(tap), label);
        }
      }
      if constexpr (Last) {
        if (args.labels != nullptr) store_labels(args, piece, to, i, label);
        if (args.y != nullptr) store_result(args, piece, to.y, i, best);
      } else {
        nnk::store(piece.best + i, best);
        nnk::store(piece.label + i, label);
      }
    }
  }

  // Labels so far count from the window.
  static NNK_FN void store_labels(const Args& args, const Piece& piece, const Results& to, Index i,
                                  VI label) {
    const Index step = args.axis[2].stride * args.names.start[2];
    const VI window = lanes_in_order<I, N>() * I(step) + I(to.name + i * step);
    const VI none = VI::splat(I(-1));
    const auto v = convert<U>(where(label < I(0), none, label + window));
    const Line<U, Index, Step> line{byte_offset(static_cast<U*>(args.labels), to.labels),
                                    piece.count, args.at[2].space[2]};
    if (piece.count - i < N) line.store_partial(i, v, int(piece.count - i));
    else line.store(i, v);
  }
};

}  // namespace nnk
