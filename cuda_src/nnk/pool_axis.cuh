// Pooling, what all its kernels share: where windows lie, how operands lie, what becomes of taps.
#pragma once
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

template <class I> NNK_FN I lesser_of(I a, I b) { return a < b ? a : b; }
template <class I> NNK_FN I greater_of(I a, I b) { return a > b ? a : b; }

// One window along one axis: tap t is at element start + t * dilation. The taps [first, last) see
// the image; those under `padded` see it or its padding.
template <class Index> struct PoolWindow {
  Index start, first, last, padded;
  NNK_FN Index inside() const { return last > first ? last - first : 0; }
};

// The windows [first, last) that may contain one element.
template <class Index> struct PoolCover {
  Index first, last;
  NNK_FN bool operator==(const PoolCover& other) const {
    return first == other.first && last == other.last;
  }
};

// The windows along one axis. Adaptive ones divide the image: window o sees the elements from
// floor(o size / out) to ceil((o + 1) size / out).
template <class Index, bool Adaptive> struct PoolAxis {
  Index size, out, kernel, stride, dilation;
  Index low;     // padding before the first element
  Index padded;  // size and the padding after the last element
  Index reach;   // elements between the first tap and the last
  Divisor<Index> by_stride, by_dilation, by_out, by_size;

  NNK_FN PoolWindow<Index> window(Index o) const {
    PoolWindow<Index> w;
    if constexpr (Adaptive) {
      w.start = by_out.divide(o * size);
      w.first = 0;
      w.last = w.padded = by_out.divide((o + 1) * size + out - 1) - w.start;
    } else {
      w.start = o * stride - low;
      w.first = w.start >= 0 ? 0 : taps_before(-w.start);
      w.last = taps_before(size - w.start);
      w.padded = taps_before(padded - w.start);
    }
    return w;
  }
  // The same, with nothing divided for a window inside the image: for one thread, which goes from
  // window to window.
  NNK_FN PoolWindow<Index> next_window(Index o) const {
    if constexpr (!Adaptive) {
      const Index start = o * stride - low;
      if (start >= 0 && start + reach < size) return {start, 0, kernel, kernel};
    }
    return window(o);
  }
  NNK_FN Index step() const { return Adaptive ? Index(1) : dilation; }

  NNK_FN PoolCover<Index> cover(Index p) const {
    if constexpr (Adaptive) {
      return {by_size.divide(p * out), by_size.divide((p + 1) * out + size - 1)};
    } else {
      const Index lowest = p + low - reach;
      return {lowest <= 0 ? Index(0) : by_stride.divide(lowest + stride - 1),
              lesser_of(out, by_stride.divide(p + low) + 1)};
    }
  }
  // The tap of window o that sees element p, or -1; o is one of cover(p).
  NNK_FN Index tap(Index p, Index o) const {
    if constexpr (Adaptive) {
      return p - by_out.divide(o * size);
    } else {
      const Index distance = p + low - o * stride, t = by_dilation.divide(distance);
      return t * dilation == distance ? t : Index(-1);
    }
  }

 private:
  // How many taps lie before an element `distance` after the first tap.
  NNK_FN Index taps_before(Index distance) const {
    if (distance <= 0) return 0;
    return lesser_of(kernel, by_dilation.divide(distance + dilation - 1));
  }
};

// Byte strides of one operand: of two axes of planes, of space, and of what makes a Vec.
template <class Index> struct PoolStrides {
  Index plane[2], space[3], lane;
  NNK_FN Index of_plane(Index a, Index b) const { return a * plane[0] + b * plane[1]; }
  NNK_FN Index at(Index d, Index h, Index w) const {
    return d * space[0] + h * space[1] + w * space[2];
  }
};

// What names a tap: sum of start[a] times the start of the window and tap[a] times the tap along
// every axis. The flat index of an element in its plane and the number of the tap in its window are
// both of this form.
template <class Index> struct PoolLabels {
  Index start[3], tap[3];
  NNK_FN Index of_window(Index d, Index h, Index w) const {
    return d * start[0] + h * start[1] + w * start[2];
  }
};

// Integers in as many lanes as a register has of S.
template <class S> using PoolLabel = conditional<sizeof(S) == 8, int64, int32>;

template <class I, int N> NNK_FN Vec<I, N> lanes_in_order() {
  Vec<I, N> r = Vec<I, N>::splat(I(0));
  NNK_UNROLL
  for (int i = 0; i < N; ++i) r.set(i, I(i));
  return r;
}

// `where` for lanes of another type of the same size than those that were compared.
template <class I, class T, int N>
NNK_FN Vec<I, N> where_labels(const Mask<T, N>& m, const Vec<I, N>& a, const Vec<I, N>& b) {
  return where(bit_cast<Mask<I, N>>(m), a, b);
}

// What every element of type T is at least, in the computing type.
template <class T, class S> NNK_FN S pool_lowest() {
  if constexpr (is_floating<T>) return Limits<S>::lowest();
  else return S(Limits<T>::lowest());
}

// What is above the best so far: a greater number, or NaN, as PyTorch has it (of several NaN the
// last one; of equal numbers the first one).
template <class S, int N> NNK_FN Mask<S, N> is_better(const Vec<S, N>& x, const Vec<S, N>& best) {
  if constexpr (is_floating<S>) return (x > best) | (x != x);
  else return x > best;
}

// ---- modes -------------------------------------------------------------------------------------
// The taps of a column (those of one place along the last axis) are added first, then the columns
// from left to right: every layout then gives the same bits.

// `a` where x is 0, else `b`. A mask of one lane would be a byte in memory on gfx90a.
template <class S, int N>
NNK_FN Vec<S, N> where_zero(const Vec<S, N>& x, const Vec<S, N>& a, const Vec<S, N>& b) {
  if constexpr (N == 1) return Vec<S, N>::splat(x[0] == S(0) ? a[0] : b[0]);
  else return where(x == S(0), a, b);
}

struct PoolMax {
  static constexpr bool indexed = false, counts = false;
  template <class T, class S> static NNK_FN S identity() { return pool_lowest<T, S>(); }
  template <class V, class S> static NNK_FN V add(const S*, const V& column, const V& x) {
    return max(column, x);
  }
  template <class V> static NNK_FN V merge(const V& total, const V& column) {
    return max(total, column);
  }
  template <class V, class S> static NNK_FN V finish(const S*, const V& total, const V&) {
    return total;
  }
};

// The maximum and the label of its tap.
struct PoolMaxIndex : PoolMax { static constexpr bool indexed = true; };

struct PoolSums {
  static constexpr bool indexed = false;
  template <class T, class S> static NNK_FN S identity() { return S(0); }
  template <class V> static NNK_FN V merge(const V& total, const V& column) {
    return total + column;
  }
};

// y = sum x / count, and 0 for nothing.  dx = sum dy / count.
struct PoolAverage : PoolSums {
  // Of one count for all lanes. (A comparison of lanes may become a load of 1 under a mask. While
  // no lane wants it, and nothing else of its page was read, that load takes 400 cycles on Zen 4.)
  template <class V, class S> static NNK_FN V share(const V& total, S count) {
    return total / V::splat(count == S(0) ? S(1) : count);
  }
  static constexpr bool counts = true;
  template <class V, class S> static NNK_FN V add(const S*, const V& column, const V& x) {
    return column + x;
  }
  template <class V, class S> static NNK_FN V finish(const S*, const V& total, const V& count) {
    return total / where_zero(count, V::splat(S(1)), count);
  }
  template <class V, class S>
  static NNK_FN V term(const S*, const V& dy, const V&, const V& count) {
    return dy / where_zero(count, V::splat(S(1)), count);
  }
  template <class V, class S> static NNK_FN V gradient(const S*, const V& total, const V&) {
    return total;
  }
};

// y = sqrt(sum x^2).  dx = x sum dy / y, and 0 where y is 0.
struct PoolSquare : PoolSums {
  static constexpr bool counts = false;
  template <class V, class S> static NNK_FN V add(const S*, const V& column, const V& x) {
    return fma_always(x, x, column);
  }
  template <class V, class S> static NNK_FN V finish(const S*, const V& total, const V&) {
    return sqrt(total);
  }
  template <class V, class S> static NNK_FN V term(const S*, const V& dy, const V& y, const V&) {
    return where_zero(y, V::splat(S(0)), dy / y);
  }
  template <class V, class S> static NNK_FN V gradient(const S*, const V& total, const V& x) {
    return total * x;
  }
};

// x^e for x >= 0; `whole` is e where that is a small integer, else 0.
template <class V, class S> NNK_FN V pool_power(V x, S e, S whole) {
  if (whole == S(0)) return exp(log(x) * e);
  V r = V::splat(S(1));
  for (int n = int(whole); n > 0; n >>= 1) {
    if (n & 1) r = r * x;
    x = x * x;
  }
  return r;
}

// y = (sum |x|^p)^(1/p).  dx = sign(x) |x|^(p-1) sum dy y^(1-p), and 0 where x or y is 0.
// Parameters: p, p if it is a small integer (else 0), p - 1 if it is one, 1 / p.
struct PoolPower : PoolSums {
  static constexpr bool counts = false;
  template <class V, class S> static NNK_FN V add(const S* p, const V& column, const V& x) {
    return column + pool_power(abs(x), p[0], p[1]);
  }
  template <class V, class S> static NNK_FN V finish(const S* p, const V& total, const V&) {
    return p[3] == S(1) ? total : exp(log(total) * p[3]);
  }
  template <class V, class S> static NNK_FN V term(const S* p, const V& dy, const V& y, const V&) {
    const V scale = pool_power(y, p[0] - S(1), p[2]);
    return where(y == S(0), V::splat(S(0)), p[0] == S(1) ? dy : dy / scale);
  }
  template <class V, class S> static NNK_FN V gradient(const S* p, const V& total, const V& x) {
    const V slope = p[0] == S(1) ? V::splat(S(1)) : pool_power(abs(x), p[0] - S(1), p[2]);
    const V zero = V::splat(S(0));
    return total * where(x > S(0), slope, where(x < S(0), -slope, where(x == S(0), zero, x)));
  }
};

}  // namespace nnk
