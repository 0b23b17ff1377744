// Gradients of pooling for a block of one thread, elements of a row side by side.
//
// Element s q + r of a row (s the stride) is seen by tap c of window q - k, where k and r are
// quotient and remainder of the place of the tap: the elements of one remainder have neighbouring
// windows. So each remainder is gathered from neighbours in a row of windows, which has margins
// in scratch memory, and then the remainders are put between each other.
#pragma once
#include "nnk/pool_rows.cuh"

namespace nnk {

// Template parameters as of PoolGather; Step along the last axis.
template <class Mode, class T, class U, class S, int Step, int N, class Index, bool Streaming>
struct PoolRowsGather {
  using V = Vec<S, N>;
  using I = PoolLabel<S>;
  using VI = Vec<I, N>;
  static constexpr bool by_labels = is_same<Mode, PoolMax>;
  static constexpr bool reads_y = !by_labels && !Mode::counts;
  using Second = conditional<by_labels, U, T>;

  struct Args {
    void* dx;
    const void* dy;
    const void* second;  // numbers of taps, or y
    const void* x;
    int64 units;  // pieces of rows of elements
    int64 tile;
    Index piece;   // elements of a piece: a multiple of the stride
    Index length;  // scratch elements for the windows of a piece and their margins
    Index margin;  // those before the first window
    Index phase;   // elements of a piece with one remainder, rounded up to Vecs
    Index include_pad;
    Divisor<Index> by_pieces, by_planes;
    PoolAxis<Index, false> axis[3];
    PoolStrides<Index> at[4];
    Index taps[2];
    S parameters[4];
  };

  // A tap: its number, and how far from a quotient its window is.
  struct Tap { Index number, distance; };

  // Elements [first, first + count) and the windows [window, window + windows) that may see them.
  struct Piece {
    Index first, count, window, windows;
    S* terms;   // of the windows
    I* labels;  // their second operand
    S* counts;
    S* phases;     // sums, one remainder after the other
    S* row;        // sums in order
    Tap* taps;     // by remainder, the last tap first
    Index* begin;  // of the taps of each remainder
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 begin = group.block() * args.tile;
    const int64 end = lesser_of(begin + args.tile, args.units);
    Piece piece = scratch_of(group, args);
    Index current = -1;
    for (Index unit = Index(begin); unit < Index(end); ++unit) {
      const Index depth = args.axis[1].by_size.divide(unit);
      const Index outer = args.axis[0].by_size.divide(depth);
      const Index plane = args.by_pieces.divide(outer);
      const Index number = outer - plane * args.by_pieces.divisor;
      if (number != current) begin_piece(args, piece, number);
      current = number;
      const Index a = args.by_planes.divide(plane), b = plane - a * args.by_planes.divisor;
      const Index d = depth - outer * args.axis[0].size, h = unit - depth * args.axis[1].size;
      Index at[4];
      NNK_UNROLL
      for (int i = 0; i < 4; ++i) at[i] = args.at[i].of_plane(a, b);
      gather(args, piece, at, d, h);
      write(args, piece, at[0] + args.at[0].at(d, h, piece.first),
            at[3] + args.at[3].at(d, h, piece.first));
    }
  }

  template <class G> static NNK_FN Piece scratch_of(G& group, const Args& args) {
    const Index stride = args.axis[2].stride;
    Piece piece{};
    piece.terms = group.template dynamic_shared<S>(0, int(args.length)).data;
    piece.labels = reinterpret_cast<I*>(piece.terms + args.length);
    piece.counts = piece.terms + args.length;  // no mode needs both
    piece.phases = piece.counts + args.length;
    piece.row = piece.phases + stride * args.phase;
    piece.taps = reinterpret_cast<Tap*>(piece.row + stride * args.phase);
    piece.begin = reinterpret_cast<Index*>(piece.taps + args.axis[2].kernel);
    return piece;
  }

  static NNK_FN void begin_piece(const Args& args, Piece& piece, Index number) {
    const auto& axis = args.axis[2];
    piece.first = number * args.piece;
    piece.count = lesser_of(args.piece, axis.size - piece.first);
    piece.window = axis.cover(piece.first).first;
    piece.windows =
        greater_of(axis.cover(piece.first + piece.count - 1).last - piece.window, Index(0));
    for (Index i = 0; i < args.length; ++i) {
      piece.terms[i] = S(0);
      if constexpr (by_labels) piece.labels[i] = I(-1);
      if constexpr (Mode::counts) piece.counts[i] = S(1);
    }
    if constexpr (Mode::counts) {
      for (Index i = 0; i < piece.windows; ++i) {
        const auto w = axis.window(piece.window + i);
        piece.counts[args.margin + i] = S(args.include_pad ? w.padded : w.inside());
      }
    }
    Index found = 0;
    for (Index remainder = 0; remainder < axis.stride; ++remainder) {
      piece.begin[remainder] = found;
      for (Index c = axis.kernel - 1; c >= 0; --c) {
        // Where the tap of the first window lies, from the first element on; made positive.
        const Index place = c * axis.dilation - axis.low - piece.first +
                            piece.window * axis.stride + args.margin * axis.stride;
        const Index quotient = axis.by_stride.divide(place);
        if (place - quotient * axis.stride == remainder)
          piece.taps[found++] = {c, quotient - args.margin};
      }
    }
    piece.begin[axis.stride] = found;
  }

  // ---- the sums of one row
  // -----------------------------------------------------------------------

  static NNK_FN void gather(const Args& args, const Piece& piece, const Index (&at)[4], Index d,
                            Index h) {
    const auto &deep = args.axis[0], &high = args.axis[1];
    const auto cover_d = deep.cover(d), cover_h = high.cover(h);
    if constexpr (by_labels) clear(piece.phases, args.axis[2].stride * args.phase);
    else clear(piece.terms + args.margin, piece.windows);
    if (piece.windows == 0) {
      if constexpr (!by_labels) clear(piece.phases, args.axis[2].stride * args.phase);
      return;
    }
    for (Index o = cover_d.first; o < cover_d.last; ++o) {
      const Index a = deep.tap(d, o);
      if (a < 0) continue;
      for (Index u = cover_h.first; u < cover_h.last; ++u) {
        const Index b = high.tap(h, u);
        if (b < 0) continue;
        if constexpr (by_labels) {
          copy_windows(args, piece, at, o, u);
          add_phases(args, piece, I((a * args.taps[0] + b) * args.taps[1]));
        } else {
          const auto wd = deep.window(o), wh = high.window(u);
          add_terms(args, piece, at, o, u,
                    args.include_pad ? S(wd.padded * wh.padded) : S(wd.inside() * wh.inside()));
        }
      }
    }
    if constexpr (!by_labels) add_phases(args, piece, I(0));
  }

  static NNK_FN void clear(S* to, Index count) {
    for (Index i = 0; i < count; i += N) {
      if (count - i >= N) nnk::store(to + i, V::splat(S(0)));
      else nnk::store_partial(to + i, V::splat(S(0)), int(count - i));
    }
  }

  // The windows of a piece in one row of an operand.
  template <int Operand, class From>
  static NNK_FN auto windows_of(const Args& args, const Piece& piece, const void* data,
                                const Index (&at)[4], Index o, Index u) {
    return Line<const From, Index, Step>{
        byte_offset(static_cast<const From*>(data),
                    at[Operand] + args.at[Operand].at(o, u, piece.window)),
        piece.windows, args.at[Operand].space[2]};
  }
  // f(i, vector of the line from i on, how many of it are there)
  template <class L, class F> static NNK_FN void each(const L& line, F f) {
    using From = typename L::value_type;
    Index i = 0;
    for (; i + N <= line.length; i += N) f(i, line.template load<N>(i), N);
    if (i < line.length) {
      const int left = int(line.length - i);
      f(i, line.template load_partial<N>(i, left, From()), left);
    }
  }

  static NNK_FN void copy_windows(const Args& args, const Piece& piece, const Index (&at)[4],
                                  Index o, Index u) {
    S* terms = piece.terms + args.margin;
    I* labels = piece.labels + args.margin;
    each(windows_of<1, T>(args, piece, args.dy, at, o, u),
         [&](Index i, const auto& dy, int count)
             NNK_INLINE { nnk::store_partial(terms + i, convert<S>(dy), count); });
    each(windows_of<2, U>(args, piece, args.second, at, o, u),
         [&](Index i, const auto& label, int count)
             NNK_INLINE { nnk::store_partial(labels + i, convert<I>(label), count); });
  }

  static NNK_FN void add_terms(const Args& args, const Piece& piece, const Index (&at)[4], Index o,
                               Index u, S rows) {
    S* terms = piece.terms + args.margin;
    const S* counts = piece.counts + args.margin;
    const auto second = windows_of<2, Second>(args, piece, args.second, at, o, u);
    each(windows_of<1, T>(args, piece, args.dy, at, o, u),
         [&](Index i, const auto& given, int count) NNK_INLINE {
           const V dy = convert<S>(given);
           V y = dy, n = V::splat(S(1));
           if constexpr (reads_y)
             y = convert<S>(second.template load_partial<N>(i, count, Second()));
           if constexpr (Mode::counts) n = nnk::load<N>(counts + i) * rows;
           const V sum = nnk::load<N>(terms + i) + Mode::term(args.parameters, dy, y, n);
           nnk::store_partial(terms + i, sum, count);
         });
  }

  // To every remainder, the terms of its taps: all of them, or those that were maxima.
  static NNK_FN void add_phases(const Args& args, const Piece& piece, I label) {
    for (Index r = 0; r < args.axis[2].stride; ++r) {
      S* sums = piece.phases + r * args.phase;
      const Tap *first = piece.taps + piece.begin[r], *last = piece.taps + piece.begin[r + 1];
      for (Index q = 0; q < args.phase; q += N) {
        V total = by_labels ? nnk::load<N>(sums + q) : V::splat(S(0));
        for (const Tap* tap = first; tap < last; ++tap) {
          const Index i = args.margin + q - tap->distance;
          const V term = nnk::load<N>(piece.terms + i);
          if constexpr (by_labels) {
            const auto best = nnk::load<N>(piece.labels + i) == I(label + tap->number);
            total = total + where(bit_cast<Mask<S, N>>(best), term, V::splat(S(0)));
          } else {
            total = total + term;
          }
        }
        nnk::store(sums + q, total);
      }
    }
  }

  // ---- the row of results
  // ------------------------------------------------------------------------

  static NNK_FN void write(const Args& args, const Piece& piece, Index to, Index from) {
    const S* sums = in_order(args, piece);
    const Line<T, Index, Step> line{byte_offset(static_cast<T*>(args.dx), to), piece.count,
                                    args.at[0].space[2]};
    const Line<const T, Index, Step> image{byte_offset(static_cast<const T*>(args.x), from),
                                           piece.count, args.at[3].space[2]};
    Index i = 0;
    for (; i + N <= piece.count; i += N) {
      V dx = nnk::load<N>(sums + i);
      if constexpr (reads_y)
        dx = Mode::gradient(args.parameters, dx, convert<S>(image.template load<N>(i)));
      if constexpr (Streaming) line.store_streaming(i, convert<T>(dx));
      else line.store(i, convert<T>(dx));
    }
    if (i < piece.count) {
      const int left = int(piece.count - i);
      V dx = nnk::load<N>(sums + i);
      if constexpr (reads_y)
        dx = Mode::gradient(args.parameters, dx,
                            convert<S>(image.template load_partial<N>(i, left, T())));
      line.store_partial(i, convert<T>(dx), left);
    }
  }

  static NNK_FN const S* in_order(const Args& args, const Piece& piece) {
    const Index stride = args.axis[2].stride;
    if (stride == 1) return piece.phases;
    if (stride == 2) {
      for (Index q = 0; q < args.phase; q += N)
        nnk::store(piece.row + 2 * q, interleaved(nnk::load<N>(piece.phases + q),
                                                  nnk::load<N>(piece.phases + args.phase + q)));
      return piece.row;
    }
    for (Index r = 0; r < stride; ++r) {
      for (Index q = 0; q < args.phase; ++q)
        piece.row[q * stride + r] = piece.phases[r * args.phase + q];
    }
    return piece.row;
  }
};

}  // namespace nnk
