// Gradients of pooling for a block of one thread, elements of a row side by side.
//
// Element s q + r of a row (s the stride) is seen by tap c of window q - k, where k and r are
// quotient and remainder of the place of the tap: the elements of one remainder have neighbouring
// windows. So each remainder is gathered from neighbours in a row of windows, which has margins
// in scratch memory, and then the remainders are put between each other. Windows of many taps, and
// those that divide the image, are spread over a row instead, one after the other.
#pragma once
#include "nnk/pool_rows.cuh"

namespace nnk {

// Template parameters as of PoolGather; Step along the last axis.
template <class Mode, class T, class U, class S, int Step, int N, class Index, bool Adaptive,
          bool Streaming>
struct PoolRowsGather {
  using V = Vec<S, N>;
  using I = PoolLabel<S>;
  using VI = Vec<I, N>;
  static constexpr bool by_labels = is_same<Mode, PoolMax>;
  static constexpr bool reads_y = !by_labels && !Mode::counts;
  using Second = conditional<by_labels, U, T>;
  // Rows of windows that are kept for the next row of elements: a power of two.
  static constexpr int kept = by_labels ? 4 : 1;

  struct Args {
    void* dx;
    const void* dy;
    const void* second;  // numbers of taps, or y
    const void* x;
    int64 units;  // pieces of rows of elements
    int64 tile;
    Index piece;    // elements of a piece: a multiple of the stride
    Index length;   // scratch elements for the windows of a piece and their margins
    Index margin;   // those before the first window
    Index phase;    // elements of a piece with one remainder, rounded up to Vecs
    Index spreads;  // whether windows are spread over rows, of sums
    Index include_pad;
    Divisor<Index> by_pieces, by_planes;
    PoolAxis<Index, Adaptive> axis[3];
    PoolStrides<Index> at[4];
    Index taps[2];
    S parameters[4];
  };

  // A tap: its number, and how far from a quotient its window is.
  struct Tap { Index number, distance; };

  // Elements [first, first + count) and the windows [window, window + windows) that may see them.
  struct Piece {
    Index first, count, window, windows;
    S* scratch;
    S* counts;
    S* phases;             // sums, one remainder after the other
    S* row;                // sums in order
    Tap* taps;             // by remainder, the last tap first
    Index kept_row[kept];  // which row of windows is where, or -1
    Index* begin;          // of the taps of each remainder
  };

  // What sums of a row depend on besides the piece: its plane, and the windows that see it.
  struct Seen {
    Index plane;
    PoolCover<Index> depths, rows;
    NNK_FN bool operator==(const Seen& other) const {
      return plane == other.plane && depths.first == other.depths.first &&
             depths.last == other.depths.last && rows.first == other.rows.first &&
             rows.last == other.rows.last;
    }
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 begin = group.block() * args.tile;
    const int64 end = lesser_of(begin + args.tile, args.units);
    Piece piece = scratch_of(group, args);
    // Without dilation all windows between the first and the last see a row: rows with the same
    // windows have the same sums.
    const bool repeats = !by_labels && args.axis[0].step() == 1 && args.axis[1].step() == 1;
    Index current = -1;
    Seen before{-1, {}, {}};
    for (Index unit = Index(begin); unit < Index(end); ++unit) {
      const Index depth = args.axis[1].by_size.divide(unit);
      const Index outer = args.axis[0].by_size.divide(depth);
      const Index plane = args.by_pieces.divide(outer);
      const Index number = outer - plane * args.by_pieces.divisor;
      if (number != current) {
        begin_piece(args, piece, number);
        before.plane = -1;
      }
      current = number;
      const Index a = args.by_planes.divide(plane), b = plane - a * args.by_planes.divisor;
      const Index d = depth - outer * args.axis[0].size, h = unit - depth * args.axis[1].size;
      Index at[4];
      NNK_UNROLL
      for (int i = 0; i < 4; ++i) at[i] = args.at[i].of_plane(a, b);
      const Seen seen{plane, args.axis[0].cover(d), args.axis[1].cover(h)};
      if (!repeats || !(seen == before)) gather(args, piece, plane, at, d, h, seen);
      before = seen;
      write(args, piece, at[0] + args.at[0].at(d, h, piece.first),
            at[3] + args.at[3].at(d, h, piece.first));
    }
  }

  template <class G> static NNK_FN Piece scratch_of(G& group, const Args& args) {
    const Index stride = args.axis[2].stride;
    Piece piece{};
    piece.scratch = group.template dynamic_shared<S>(0, int(args.length)).data;
    piece.counts = piece.scratch + args.length;
    // Where numbers of taps are read, there is a row of them beside each row of terms.
    piece.phases = piece.scratch + 2 * kept * args.length;
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
    for (int k = 0; k < kept; ++k) {
      piece.kept_row[k] = -1;
      for (Index i = 0; i < args.length; ++i) {
        terms_of(args, piece, k)[i] = S(0);
        if constexpr (by_labels) labels_of(args, piece, k)[i] = I(-1);
        if constexpr (Mode::counts) piece.counts[i] = S(1);
      }
    }
    if constexpr (Mode::counts) {
      for (Index i = 0; i < piece.windows; ++i) {
        const auto w = axis.window(piece.window + i);
        piece.counts[args.margin + i] = S(args.include_pad ? w.padded : w.inside());
      }
    }
    if (args.spreads) return;
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
  static NNK_FN S* terms_of(const Args& args, const Piece& piece, int k) {
    return piece.scratch + 2 * k * args.length;
  }
  static NNK_FN I* labels_of(const Args& args, const Piece& piece, int k) {
    return reinterpret_cast<I*>(terms_of(args, piece, k) + args.length);
  }

  // ---- the sums of one row
  // -----------------------------------------------------------------------

  static NNK_FN void gather(const Args& args, Piece& piece, Index plane, const Index (&at)[4],
                            Index d, Index h, const Seen& seen) {
    const auto &deep = args.axis[0], &high = args.axis[1];
    const auto &cover_d = seen.depths, &cover_h = seen.rows;
    if constexpr (by_labels) clear(piece.phases, args.axis[2].stride * args.phase);
    else clear(terms_of(args, piece, 0) + args.margin, piece.windows);
    if (piece.windows == 0) {
      clear(piece.phases, args.axis[2].stride * args.phase);
      clear(piece.row, args.axis[2].stride * args.phase);
      return;
    }
    for (Index o = cover_d.first; o < cover_d.last; ++o) {
      const Index a = deep.tap(d, o);
      if (a < 0) continue;
      for (Index u = cover_h.first; u < cover_h.last; ++u) {
        const Index b = high.tap(h, u);
        if (b < 0) continue;
        if constexpr (by_labels) {
          const int k = int(u % kept);
          const Index row = (plane * deep.out + o) * high.out + u;
          if (piece.kept_row[k] != row) copy_windows(args, piece, k, at, o, u);
          piece.kept_row[k] = row;
          add_phases(args, piece, k, I((a * args.taps[0] + b) * args.taps[1]));
        } else {
          const auto wd = deep.window(o), wh = high.window(u);
          add_terms(args, piece, at, o, u,
                    args.include_pad ? S(wd.padded * wh.padded) : S(wd.inside() * wh.inside()));
        }
      }
    }
    if (args.spreads) {
      spread(args, piece);
    } else {
      if constexpr (!by_labels) add_phases(args, piece, 0, I(0));
      join_phases(args, piece);
    }
  }

  // Windows give what they have to vectors of elements, one after the other.
  static NNK_FN void spread(const Args& args, const Piece& piece) {
    clear(piece.row, args.axis[2].stride * args.phase);
    const S* terms = terms_of(args, piece, 0) + args.margin;
    for (Index i = 0; i < piece.windows; ++i) {
      const auto w = args.axis[2].window(piece.window + i);
      const Index first = greater_of(w.start + w.first - piece.first, Index(0));
      const Index last = lesser_of(w.start + w.last - piece.first, piece.count);
      const V term = V::splat(terms[i]);
      for (Index e = first; e < last; e += N) {
        const V sum = nnk::load<N>(piece.row + e) + term;
        if (last - e >= N) nnk::store(piece.row + e, sum);
        else nnk::store_partial(piece.row + e, sum, int(last - e));
      }
    }
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
    for (; i + N <= line.length; i += N) {
      prefetch<1>(byte_offset(line.at(i), pool_rows_ahead));
      f(i, line.template load<N>(i), N);
    }
    if (i < line.length) {
      const int left = int(line.length - i);
      f(i, line.template load_partial<N>(i, left, From()), left);
    }
  }

  static NNK_FN void copy_windows(const Args& args, const Piece& piece, int k, const Index (&at)[4],
                                  Index o, Index u) {
    S* terms = terms_of(args, piece, k) + args.margin;
    I* labels = labels_of(args, piece, k) + args.margin;
    // What a partial vector lacks are zeros: nothing, whatever the label beside it.
    each(windows_of<1, T>(args, piece, args.dy, at, o, u),
         [&](Index i, const auto& dy, int) NNK_INLINE { nnk::store(terms + i, convert<S>(dy)); });
    each(windows_of<2, U>(args, piece, args.second, at, o, u),
         [&](Index i, const auto& label, int)
             NNK_INLINE { nnk::store(labels + i, convert<I>(label)); });
  }

  static NNK_FN void add_terms(const Args& args, const Piece& piece, const Index (&at)[4], Index o,
                               Index u, S rows) {
    S* terms = terms_of(args, piece, 0) + args.margin;
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
           nnk::store(terms + i, sum);
         });
  }

  // To every remainder, the terms of its taps: all of them, or those that were maxima.
  static NNK_FN void add_phases(const Args& args, const Piece& piece, int k, I label) {
    const S* terms = terms_of(args, piece, k);
    const I* labels = labels_of(args, piece, k);
    for (Index r = 0; r < args.axis[2].stride; ++r) {
      S* sums = piece.phases + r * args.phase;
      const Tap *first = piece.taps + piece.begin[r], *last = piece.taps + piece.begin[r + 1];
      for (Index q = 0; q < args.phase; q += N) {
        V total = by_labels ? nnk::load<N>(sums + q) : V::splat(S(0));
        for (const Tap* tap = first; tap < last; ++tap) {
          const Index i = args.margin + q - tap->distance;
          const V term = nnk::load<N>(terms + i);
          if constexpr (by_labels) {
            const auto best = nnk::load<N>(labels + i) == I(label + tap->number);
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
    const Line<T, Index, Step> line{byte_offset(static_cast<T*>(args.dx), to), piece.count,
                                    args.at[0].space[2]};
    const Line<const T, Index, Step> image{byte_offset(static_cast<const T*>(args.x), from),
                                           piece.count, args.at[3].space[2]};
    const Index stride = args.axis[2].stride;
    if (stride == 2 && !args.spreads) {
      for (Index q = 0; 2 * q < piece.count; q += N) {
        const Vec<S, 2 * N> both = interleaved(nnk::load<N>(piece.phases + q),
                                               nnk::load<N>(piece.phases + args.phase + q));
        write_vector(args, line, image, 2 * q, lower_half(both));
        if (2 * q + N < piece.count) write_vector(args, line, image, 2 * q + N, upper_half(both));
      }
      return;
    }
    const S* sums = stride == 1 && !args.spreads ? piece.phases : piece.row;
    for (Index i = 0; i < piece.count; i += N)
      write_vector(args, line, image, i, nnk::load<N>(sums + i));
  }

  // Remainders between each other, where `write` does not do so itself.
  static NNK_FN void join_phases(const Args& args, const Piece& piece) {
    const Index stride = args.axis[2].stride;
    if (stride <= 2) return;
    for (Index r = 0; r < stride; ++r) {
      for (Index q = 0; q < args.phase; ++q)
        piece.row[q * stride + r] = piece.phases[r * args.phase + q];
    }
  }

  template <class To, class Image>
  static NNK_FN void write_vector(const Args& args, const To& line, const Image& image, Index i,
                                  V dx) {
    const Index left = line.length - i;
    if constexpr (reads_y) {
      const V x = left < N ? convert<S>(image.template load_partial<N>(i, int(left), T()))
                           : convert<S>(image.template load<N>(i));
      dx = Mode::gradient(args.parameters, dx, x);
    }
    const auto v = convert<T>(dx);
    if (left < N) line.store_partial(i, v, int(left));
    else if constexpr (Streaming) line.store_streaming(i, v);
    else line.store(i, v);
  }
};

}  // namespace nnk
