// Reductions over the lanes of a Vec, over some lanes of a warp, and over a block.
//
// An operation is a struct with
//     using type = ...;                          what is reduced
//     static type identity();                    neutral element
//     static type combine(type a, type b);       associative
//     static constexpr bool lanewise;            whether combine also takes two Vec
// The order in which values meet depends on the number of threads alone, so a result is the
// same in every run.
#pragma once
#include "nnk/types.cuh"

namespace nnk {

template <class T> struct Sum {
  using type = T;
  static constexpr bool lanewise = true;
  static NNK_FN T identity() { return T(); }
  template <class X> static NNK_FN X combine(const X& a, const X& b) { return a + b; }
};

// NaN wins.
template <class T> struct Max {
  using type = T;
  static constexpr bool lanewise = true;
  static NNK_FN T identity() { return Limits<T>::lowest(); }
  template <class X> static NNK_FN X combine(const X& a, const X& b) { return nnk::max(a, b); }
};

// Maximum m of some x and the sum of exp(x - m), as one value: what an online softmax
// carries (Milakov & Gimelshein, arXiv 1805.02867).
template <class T> struct MaxSumExpValue { T max, sum; };
template <class T> struct MaxSumExp {
  using type = MaxSumExpValue<T>;
  static constexpr bool lanewise = false;
  static NNK_FN type identity() { return {Limits<T>::lowest(), T(0)}; }
  static NNK_FN type combine(type a, type b) {
    const T m = nnk::max(a.max, b.max);
    // exp(-inf - -inf) is NaN; equal maxima need no scaling.
    const T scale_a = a.max == m ? T(1) : nnk::exp(a.max - m);
    const T scale_b = b.max == m ? T(1) : nnk::exp(b.max - m);
    return {m, a.sum * scale_a + b.sum * scale_b};
  }
};

// Count, mean and sum of squared deviations (Welford; merged after Chan, Golub & LeVeque 1979).
template <class T> struct WelfordValue { T count, mean, m2; };
template <class T> struct Welford {
  using type = WelfordValue<T>;
  static constexpr bool lanewise = false;
  static NNK_FN type identity() { return {T(0), T(0), T(0)}; }
  static NNK_FN type combine(type a, type b) {
    const T n = a.count + b.count;
    if (n == T(0)) return a;
    const T d = b.mean - a.mean, f = b.count / n;
    return {n, a.mean + d * f, a.m2 + b.m2 + d * d * a.count * f};
  }
};

// All lanes of a Vec, folded as a tree: lane i with lane i + N/2, and so on.
template <class Op, int N> NNK_FN typename Op::type fold(const Vec<typename Op::type, N>& v) {
  if constexpr (N == 1) {
    return v[0];
  } else if constexpr (Op::lanewise && is_power_of_two(N)) {
    return fold<Op>(Op::combine(lower_half(v), upper_half(v)));
  } else {
    typename Op::type x[N];
    NNK_UNROLL
    for (int i = 0; i < N; ++i) x[i] = v[i];
    NNK_UNROLL
    for (int half_size = next_power_of_two(N) / 2; half_size > 0; half_size /= 2) {
      NNK_UNROLL
      for (int i = 0; i < half_size; ++i)
        if (i + half_size < N) x[i] = Op::combine(x[i], x[i + half_size]);
    }
    return x[0];
  }
}

// Over segments of Width lanes (a power of two): every lane of a segment gets its result.
// combine(a, b): any associative and commutative function of two values
template <int Width, class T, class F> NNK_FN T reduce_lanes_by(T x, const F& combine) {
  NNK_UNROLL
  for (int mask = Width / 2; mask > 0; mask /= 2) x = combine(x, Warp<Width>::shuffle_xor(x, mask));
  return x;
}
template <class Op, int Width> NNK_FN typename Op::type reduce_lanes(typename Op::type x) {
  using T = typename Op::type;
  return reduce_lanes_by<Width>(
      x, [](const T& a, const T& b) NNK_INLINE { return Op::combine(a, b); });
}

// Over all threads of the block, for any number of threads: every thread calls, with a value, and
// gets the result. combine(a, b): any associative and commutative function of two values, and so
// the same function in all threads.
// There is a barrier at the start, so a call may follow another at once, and one before the
// results are read; none after: shared memory written by the caller needs its own. Static shared
// memory: a value for each warp (for each thread, where threads are no whole warps).
template <int Threads, class T, class F>
NNK_FN T reduce(const Group<Threads>& group, T x, const F& combine) {
  struct Storage;
  if constexpr (Threads == 1) {
    return x;
  } else if constexpr (is_power_of_two(Threads) && Threads <= warp_width) {
    return reduce_lanes_by<Threads>(x, combine);
  } else if constexpr (Threads % warp_width == 0) {
    constexpr int warps = Threads / warp_width;
    const auto partial = group.template shared<T, warps, Storage>();
    x = reduce_lanes_by<warp_width>(x, combine);
    group.barrier();
    if (group.rank() % warp_width == 0) partial.store(group.rank() / warp_width, x);
    group.barrier();
    T total = partial.load(0);
    NNK_UNROLL
    for (int i = 1; i < warps; ++i) total = combine(total, partial.load(i));
    return total;
  } else {
    // Sizes that are not whole warps: a tree in shared memory.
    const auto partial = group.template shared<T, Threads, Storage>();
    group.barrier();
    partial.store(group.rank(), x);
    group.barrier();
    NNK_UNROLL
    for (int half_size = next_power_of_two(Threads) / 2; half_size > 0; half_size /= 2) {
      if (group.rank() < half_size && group.rank() + half_size < Threads)
        partial.store(group.rank(),
                      combine(partial.load(group.rank()), partial.load(group.rank() + half_size)));
      group.barrier();
    }
    return partial.load(0);
  }
}
// The same with an operation of those above: reduce<Sum<float>>(group, x).
template <class Op, int Threads>
NNK_FN typename Op::type reduce(const Group<Threads>& group, typename Op::type x) {
  using T = typename Op::type;
  return reduce(group, x, [](const T& a, const T& b) NNK_INLINE { return Op::combine(a, b); });
}

}  // namespace nnk
