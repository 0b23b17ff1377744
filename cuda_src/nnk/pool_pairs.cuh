// Pooling for a block of one thread where a window has two neighbours of each of its rows, and no
// element is seen by two windows: the elements of a vector of windows are the even and the odd
// lanes of vectors of their rows, and nothing waits in scratch memory.
#pragma once
#include "nnk/pool_rows.cuh"

namespace nnk {

// The rows that windows (d, h) see of one plane of one operand; both neighbours of windows
// [i, i + N) of such a row, even ones first.
template <class T, class Index> struct PoolPairRows {
  T* first;
  Index step[2];  // in bytes, between depths and between rows
  Index length;

  NNK_FN Line<T, Index, unit_step> at(Index a, Index b) const {
    return {byte_offset(first, a * step[0] + b * step[1]), length, Index(sizeof(T))};
  }
  template <int N, bool Fetches> NNK_FN auto load(Index a, Index b, Index i, Index left) const {
    const auto row = at(a, b);
    if (left < N) return row.template load_partial<2 * N>(2 * i, int(2 * left), Element());
    if constexpr (Fetches) prefetch<1>(byte_offset(row.at(2 * i), pool_rows_ahead));
    return row.template load<2 * N>(2 * i);
  }

 private:
  using Element = typename Line<T, Index, unit_step>::value_type;
};

// Those of one operand; `at` are the offsets of its plane and those of others.
template <class T, class Args, class Index, int Operands>
NNK_FN PoolPairRows<T, Index> pair_rows(const Args& args, T* data, int operand,
                                        const Index (&at)[Operands], Index d, Index h) {
  const auto& strides = args.at[operand];
  const Index first = at[operand] + strides.at(d * args.axis[0].kernel, h * args.axis[1].kernel, 0);
  return {byte_offset(data, first), {strides.space[0], strides.space[1]}, args.axis[2].size};
}
// What an operand has of the windows themselves.
template <class T, class Args, class Index, int Operands>
NNK_FN Line<T, Index, unit_step> window_row(const Args& args, T* data, int operand,
                                            const Index (&at)[Operands], Index d, Index h) {
  return {byte_offset(data, at[operand] + args.at[operand].at(d, h, 0)), args.axis[2].out,
          Index(sizeof(T))};
}
// The first `left` of a vector, or all of it.
template <bool Streaming, class L, class V, class Index>
NNK_FN void store_some(const L& line, Index i, Index left, const V& v) {
  if (left < V::size) line.store_partial(i, v, int(left));
  else if constexpr (Streaming) line.store_streaming(i, v);
  else line.store(i, v);
}

// Windows in order: f(offsets of the planes of operands, d, h).
template <int Operands, class Args, class F>
NNK_FN void each_row_of_windows(const Args& args, int64 block, F f) {
  using Index = decltype(args.axis[0].out + 0);
  const int64 begin = block * args.tile, end = lesser_of(begin + args.tile, args.units);
  const Index depths = args.axis[0].out, heights = args.axis[1].out;
  Index left = Index(end - begin);
  const Index depth = args.axis[1].by_out.divide(Index(begin));
  Index plane = args.axis[0].by_out.divide(depth);
  Index d = depth - plane * depths, h = Index(begin) - depth * heights;
  for (; left > 0; ++plane, d = 0) {
    const Index a = args.by_planes.divide(plane), b = plane - a * args.by_planes.divisor;
    Index at[Operands];
    NNK_UNROLL
    for (int i = 0; i < Operands; ++i) at[i] = args.at[i].of_plane(a, b);
    for (; d < depths && left > 0; ++d, h = 0)
      for (; h < heights && left > 0; ++h, --left) f(at, d, h);
  }
}

// The greatest of each of N windows and the label of its tap: `label` of the first one, and further
// ones for depths, rows and the neighbour.
template <class T, class S, int N, bool Fetches, class Index> struct PoolPairSearch {
  using V = Vec<S, N>;
  using I = PoolLabel<S>;
  using VI = Vec<I, N>;
  V best = V::splat(pool_lowest<T, S>());
  VI label;

  NNK_FN PoolPairSearch(const PoolPairRows<const T, Index>& rows, const Index (&kernel)[2],
                        const Index (&tap)[3], const VI& first, Index i, Index left)
      : label(first) {
    for (Index a = 0; a < kernel[0]; ++a) {
      for (Index b = 0; b < kernel[1]; ++b) {
        const auto x = convert<S>(rows.template load<N, Fetches>(a, b, i, left));
        const VI even = first + VI::splat(I(a * tap[0] + b * tap[1]));
        take(every_second<0>(x), even);
        take(every_second<1>(x), even + VI::splat(I(tap[2])));
      }
    }
  }

 private:
  NNK_FN void take(const V& x, const VI& name) {
    const auto better = is_better(x, best);
    best = where(better, x, best);
    label = where_labels(better, name, label);
  }
};

// Mode        one of pool_axis.cuh, without indices
// T, S        of x and y, and the computing type
// Streaming   results go past the caches
// Fetches     images are fetched ahead
template <class Mode, class T, class S, int N, class Index, bool Streaming, bool Fetches>
struct PoolPairs {
  using V = Vec<S, N>;

  struct Args {
    const void* x;
    void* y;
    int64 units;  // rows of windows
    int64 tile;
    Divisor<Index> by_planes;
    PoolAxis<Index, false> axis[3];
    PoolStrides<Index> at[2];
    S parameters[4];
  };
  using Rows = PoolPairRows<const T, Index>;

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    each_row_of_windows<2>(args, group.block(), [&](const auto& at, Index d, Index h) NNK_INLINE {
      const Rows rows = pair_rows(args, static_cast<const T*>(args.x), 0, at, d, h);
      const auto y = window_row(args, static_cast<T*>(args.y), 1, at, d, h);
      for (Index i = 0; i < y.length; i += N) {
        const Index left = y.length - i;
        store_some<Streaming>(y, i, left, convert<T>(reduced(args, rows, i, left)));
      }
    });
  }

  static NNK_FN V reduced(const Args& args, const Rows& rows, Index i, Index left) {
    const Index depths = args.axis[0].kernel, heights = args.axis[1].kernel;
    V even = V::splat(Mode::template identity<T, S>()), odd = even;
    for (Index a = 0; a < depths; ++a) {
      for (Index b = 0; b < heights; ++b) {
        const auto x = convert<S>(rows.template load<N, Fetches>(a, b, i, left));
        even = Mode::add(args.parameters, even, every_second<0>(x));
        odd = Mode::add(args.parameters, odd, every_second<1>(x));
      }
    }
    const V taps = V::splat(S(2 * depths * heights));
    return Mode::finish(args.parameters, Mode::merge(even, odd), taps);
  }
};

// Maxima and the labels of their taps, of type U.
template <class T, class U, class S, int N, class Index, bool Streaming, bool Fetches>
struct PoolPairsLabels {
  using I = PoolLabel<S>;
  using VI = Vec<I, N>;
  using Search = PoolPairSearch<T, S, N, Fetches, Index>;

  struct Args {
    const void* x;
    void* y;  // null where labels alone are wanted
    void* labels;
    int64 units;  // rows of windows
    int64 tile;
    Divisor<Index> by_planes;
    PoolAxis<Index, false> axis[3];
    PoolStrides<Index> at[3];
    PoolLabels<Index> names;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const auto &deep = args.axis[0], &high = args.axis[1];
    const auto& names = args.names;
    each_row_of_windows<3>(args, group.block(), [&](const auto& at, Index d, Index h) NNK_INLINE {
      const auto rows = pair_rows(args, static_cast<const T*>(args.x), 0, at, d, h);
      const auto y = window_row(args, static_cast<T*>(args.y), 1, at, d, h);
      const auto labels = window_row(args, static_cast<U*>(args.labels), 2, at, d, h);
      for (Index i = 0; i < labels.length; i += N) {
        const Index left = labels.length - i;
        const Index first = names.of_window(d * deep.kernel, h * high.kernel, 2 * i);
        const VI window = lanes_in_order<I, N>() * I(2 * names.start[2]) + VI::splat(I(first));
        const Search found(rows, {deep.kernel, high.kernel}, names.tap, window, i, left);
        if (args.y != nullptr) store_some<Streaming>(y, i, left, convert<T>(found.best));
        store_some<Streaming>(labels, i, left, convert<U>(found.label));
      }
    });
  }
};

// The gradient of an average, or of maxima: of their taps, or of the image, in which they are
// searched again.
//
// U  of the numbers of taps
template <class Mode, class T, class U, class S, int N, class Index, bool Labelled, bool Streaming,
          bool Fetches>
struct PoolPairsGradient {
  using V = Vec<S, N>;
  using I = PoolLabel<S>;
  using VI = Vec<I, N>;
  using Search = PoolPairSearch<T, S, N, Fetches, Index>;
  static constexpr bool of_maxima = is_same<Mode, PoolMax>;

  struct Args {
    void* dx;
    const void* dy;
    const void* second;  // numbers of taps, or x
    int64 units;         // rows of windows
    int64 tile;
    Divisor<Index> by_planes;
    PoolAxis<Index, false> axis[3];
    PoolStrides<Index> at[3];
    S parameters[4];
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const auto &deep = args.axis[0], &high = args.axis[1];
    each_row_of_windows<3>(args, group.block(), [&](const auto& at, Index d, Index h) NNK_INLINE {
      const auto to = pair_rows(args, static_cast<T*>(args.dx), 0, at, d, h);
      write_row(args, to, at, d, h);
      // Behind the last windows, what no window sees.
      const Index depths = d == deep.out - 1 ? deep.size - d * deep.kernel : deep.kernel;
      const Index rows = h == high.out - 1 ? high.size - h * high.kernel : high.kernel;
      for (Index a = 0; a < depths; ++a)
        for (Index b = a < deep.kernel ? high.kernel : Index(0); b < rows; ++b)
          clear(to.at(a, b), 0);
    });
  }

 private:
  template <class L> static NNK_FN auto vector_of(const L& line, Index i, Index left) {
    using E = typename L::value_type;
    if (left < N) return line.template load_partial<N>(i, int(left), E());
    if constexpr (Fetches) prefetch<1>(byte_offset(line.at(i), pool_rows_ahead));
    return line.template load<N>(i);
  }
  template <class L> static NNK_FN void clear(const L& line, Index first) {
    for (Index i = first; i < line.length; ++i) line.store(i, Vec<T, 1>::splat(T()));
  }

  static NNK_FN void write_row(const Args& args, const PoolPairRows<T, Index>& to,
                               const Index (&at)[3], Index d, Index h) {
    const Index depths = args.axis[0].kernel, heights = args.axis[1].kernel;
    const Index windows = args.axis[2].out;
    const auto given = window_row(args, static_cast<const T*>(args.dy), 1, at, d, h);
    for (Index i = 0; i < windows; i += N) {
      const Index left = windows - i;
      const V dy = convert<S>(vector_of(given, i, left));
      const V zero = V::splat(S(0));  // to which terms are added: no gradient is -0
      V even = zero, odd = zero;
      VI label;
      if constexpr (of_maxima) {
        label = label_of(args, at, d, h, i, left);
      } else {
        const V taps = V::splat(S(2 * depths * heights));
        even = odd = zero + Mode::term(args.parameters, dy, dy, taps);
      }
      for (Index a = 0; a < depths; ++a) {
        for (Index b = 0; b < heights; ++b) {
          if constexpr (of_maxima) {
            const I tap = I(2 * (a * heights + b));
            even = zero + where(bit_cast<Mask<S, N>>(label == tap), dy, zero);
            odd = zero + where(bit_cast<Mask<S, N>>(label == I(tap + 1)), dy, zero);
          }
          const auto both = convert<T>(interleaved(even, odd));
          const auto row = to.at(a, b);
          if (!Streaming && left >= N) {
            row.store(2 * i, both);
            continue;
          }
          // Past the caches whole vectors are written, also those of the end of a row: where the
          // line of one is fetched between lines that are not, all take four times as long.
          store_some<Streaming>(row, 2 * i, 2 * left, lower_half(both));
          if (2 * left > N) store_some<Streaming>(row, 2 * i + N, 2 * left - N, upper_half(both));
        }
      }
    }
    for (Index a = 0; a < depths; ++a)
      for (Index b = 0; b < heights; ++b) clear(to.at(a, b), 2 * windows);
  }

  // The number of the tap that was the maximum of each window.
  static NNK_FN VI label_of(const Args& args, const Index (&at)[3], Index d, Index h, Index i,
                            Index left) {
    if constexpr (Labelled) {
      const auto labels = window_row(args, static_cast<const U*>(args.second), 2, at, d, h);
      return convert<I>(vector_of(labels, i, left));
    } else {
      const auto rows = pair_rows(args, static_cast<const T*>(args.second), 2, at, d, h);
      const Index heights = args.axis[1].kernel;
      const Search found(rows, {args.axis[0].kernel, heights}, {2 * heights, 2, 1}, VI::splat(I(0)),
                         i, left);
      return found.label;
    }
  }
};

}  // namespace nnk
