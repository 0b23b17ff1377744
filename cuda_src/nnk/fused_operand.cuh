// A fused function inside another kernel, which has the first value in registers: its operands are
// loaded, and its results but the first one stored, where that kernel says.
//
// Operands have any types and steps. What is known of a step at compile time (a Step of view.cuh)
// decides how wide the accesses of a GPU's threads are; on a CPU, whose registers load from any
// address, it is looked at when the kernel runs, so that one kernel serves all of them.
#pragma once
#include "nnk/fused.cuh"
#include "nnk/view.cuh"

namespace nnk {

// The first `count` of N elements, `step` bytes apart, in their computing type. The others are
// whatever is handy.
template <int N, int Step = any_step, class T, class Index>
NNK_FN Vec<Accumulator<T>, N> load_operand(const T* from, Index step, int count,
                                           Site site = NNK_HERE) {
  using S = Accumulator<T>;
  if constexpr (Step == zero_step) {
    return Vec<S, N>::splat(convert<S>(nnk::load<1>(from))[0]);
  } else if constexpr (Step != any_step) {
    const Line<const T, Index, Step> line{from, Index(count), step};
    if (count == N) return convert<S>(line.template load<N>(Index(0), site));
    return convert<S>(line.template load_partial<N>(Index(0), count, T(), site));
  } else {
    if constexpr (lanes_are_simd) {
      if (step == 0) return load_operand<N, zero_step>(from, step, count, site);
      if (step == Index(sizeof(T))) return load_operand<N, unit_step>(from, step, count, site);
    }
    const Line<const T, Index> line{from, Index(count), step};
    return convert<S>(line.template load_partial<N>(Index(0), count, T(), site));
  }
}

// Stores the first `count` of N elements, `step` bytes apart.
template <int Step = any_step, class T, class Index, int N>
NNK_FN void store_operand(T* to, Index step, int count, const Vec<T, N>& y, Site site = NNK_HERE) {
  if constexpr (Step != any_step) {
    const Line<T, Index, Step> line{to, Index(count), step};
    if (count == N) line.store(Index(0), y, site);
    else line.store_partial(Index(0), y, count, site);
  } else {
    if constexpr (lanes_are_simd)
      if (step == Index(sizeof(T)) && count == N)
        return store_operand<unit_step>(to, step, count, y, site);
    const Line<T, Index> line{to, Index(count), step};
    line.store_partial(Index(0), y, count, site);
  }
}

// Where the operands and further results of a function are for some lanes: `count` of N, each array
// from a byte offset on, at steps of its own. What FusedFunction needs of such a type is load and
// store.
template <class Index, int Count> struct OperandLines {
  void* const* data;
  Index offset[Count > 0 ? Count : 1], step[Count > 0 ? Count : 1];
  int count;

  template <int K, class T, int Step, int N> NNK_FN Vec<Accumulator<T>, N> load() const {
    return load_operand<N, Step>(byte_offset(static_cast<const T*>(data[K]), offset[K]), step[K],
                                 count);
  }
  template <int K, class T, int Step, int N> NNK_FN void store(const Vec<T, N>& y) const {
    store_operand<Step>(byte_offset(static_cast<T*>(data[K]), offset[K]), step[K], count, y);
  }
};

// A vector in a computing type, which is itself where that is its own: g++ 12 keeps a copy in
// memory.
template <class T, class U, int N> NNK_FN decltype(auto) in_type(const Vec<U, N>& x) {
  if constexpr (is_same<T, U>) return (x);
  else return convert<T>(x);
}

// F       generated functor: see fused.cuh
// First   computing type of its first value
// Ins     Types<...> of its operands; More: of its results but the first
// Steps   Ints<...>: what is known of the steps of operands, and then of these results
template <class F, class First, class Ins, class More, class Steps> struct FusedFunction;
template <class F, class First, class... In, class... Out, class Steps>
struct FusedFunction<F, First, Types<In...>, Types<Out...>, Steps> {
  static constexpr int inputs = sizeof...(In);
  static constexpr int more = sizeof...(Out);
  static constexpr int arrays = inputs + more;
  using Value = First;
  using Numbers = typename F::Parameters;

  // Bytes of an element of operand or further result K.
  template <int K> static constexpr int itemsize() {
    constexpr int sizes[] = {int(sizeof(In))..., int(sizeof(Out))..., 0};
    return sizes[K];
  }

  // The first result, in its computing type; the others are stored.
  template <int N, class Arrays>
  static NNK_FN auto apply(const Numbers& numbers, const Vec<First, N>& first,
                           const Arrays& operands) {
    return apply_to(numbers, first, operands, range<inputs>(), range<more>());
  }

 private:
  template <int K> static constexpr int step = int_at<K, Steps>;

  template <int N, class Arrays, int... I, int... O>
  static NNK_FN auto apply_to(const Numbers& numbers, const Vec<First, N>& first,
                              [[maybe_unused]] const Arrays& operands, Ints<I...>, Ints<O...>) {
    const auto results = F::apply(numbers, first, operands.template load<I, In, step<I>, N>()...);
    if constexpr (more == 0) {
      return results;
    } else {
      (operands.template store<inputs + O, Out, step<inputs + O>, N>(
           convert<Out>(results.template at<1 + O>())),
       ...);
      return results.template at<0>();
    }
  }
};

// Pointers of these arrays and the numbers of a call: the arguments of a kernel begin with them, or
// with those of `Base` and then them.
struct NoPointers {};
template <class Function, class Base = NoPointers, int Count = Function::arrays>
struct FusedOperands : Base {
  void* data[Count];
  typename Function::Numbers numbers;

  NNK_FN void* const* arrays() const { return data; }
};
template <class Function, class Base> struct FusedOperands<Function, Base, 0> : Base {
  typename Function::Numbers numbers;

  NNK_FN void* const* arrays() const { return nullptr; }
};

}  // namespace nnk
