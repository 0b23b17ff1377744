// One functor over broadcast, strided operands of any types: y = f(a, b, ...).
//
// The host merges the axes, so that the last one (`inner`) is as long as it can be; N
// elements of it make a vector, and the vectors of all rows are numbered through. A block
// takes `tile` of them in a row.
#pragma once
#include "nnk/types.cuh"
#include "nnk/results.cuh"
#include "nnk/view.cuh"

namespace nnk {

// F       functor: F::apply(parameters, Vec<S, N>...) -> Vec<S, N> or Results<Vec<S, N>, n>
// S       the type in which it computes, or OwnTypes: then each operand comes in the computing type
//         of its own elements, the parameters are the struct F::Parameters, and several results
//         are a Several<...> (see nnk/fused.cuh)
// Outs    Types<...> of the results, Ins of the inputs
// Steps   Ints<...>: any_step, unit_step or zero_step of each operand along the inner axis,
//         results first
// Unroll  vectors of a thread that are loaded before the first is stored
// Rank    number of merged axes, the inner one included
// Streaming  results go past the caches (they are larger than these)
template <class F, class S, class Outs, class Ins, class Steps, int N, int Unroll, int Rank,
          class Index, bool Streaming>
struct Elementwise;

struct OwnTypes {};

// The arguments of a functor that are no arrays.
template <class F, class S> struct FunctorParameters {
  using type = S[F::parameters > 0 ? F::parameters : 1];
};
template <class F> struct FunctorParameters<F, OwnTypes> { using type = typename F::Parameters; };

// One Vec of each operand, all of one type.
template <class S, int N, class... T> struct OperandVecs {
  Vec<S, N> value[sizeof...(T)];
  template <int I> NNK_FN auto& at() { return value[I]; }
  template <int I> NNK_FN const auto& at() const { return value[I]; }
};
// Or each of the computing type of its elements.
template <int N, class... T> struct OperandVecs<OwnTypes, N, T...> {
  Several<Vec<Accumulator<T>, N>...> value;
  template <int I> NNK_FN auto& at() { return value.template at<I>(); }
  template <int I> NNK_FN const auto& at() const { return value.template at<I>(); }
};

template <class F, class S, class... Out, class... In, class Steps, int N, int Unroll, int Rank,
          class Index, bool Streaming>
struct Elementwise<F, S, Types<Out...>, Types<In...>, Steps, N, Unroll, Rank, Index, Streaming> {
  static constexpr int outputs = sizeof...(Out);
  static constexpr int inputs = sizeof...(In);
  static constexpr int operands = outputs + inputs;
  static constexpr bool own_types = is_same<S, OwnTypes>;
  // In what the functor computes: results of 11 bits or 8 need no better instructions.
  static constexpr bool is_brief = !lanes_are_simd && is_same<S, float> && (is_narrow<Out> && ...);
  using C = conditional<is_brief, Brief, S>;
  static constexpr int register_budget = sizeof(S) > 4 || own_types ? 128 : 0;

  struct Args {
    void* data[operands];
    int64 vectors;      // of all rows
    int64 tile;         // vectors of one block
    Index inner;        // elements of a row
    Index row_vectors;  // ceil(inner / N)
    Divisor<Index> by_row_vectors;
    Divisor<Index> by_shape[Rank];  // of the outer axes; the last entry is not used
    Index stride[operands][Rank];   // in bytes
    typename FunctorParameters<F, C>::type parameters;
  };

  // The rows of all operands at one outer position.
  struct Row { Index offset[operands]; };

  static NNK_FN Row row_at(const Args& args, Index row) {
    Row r;
    NNK_UNROLL
    for (int o = 0; o < operands; ++o) r.offset[o] = 0;
    NNK_UNROLL
    for (int axis = Rank - 2; axis >= 0; --axis) {
      const Index next = axis == 0 ? 0 : args.by_shape[axis].divide(row);
      const Index position = row - next * args.by_shape[axis].divisor;
      NNK_UNROLL
      for (int o = 0; o < operands; ++o) r.offset[o] += position * args.stride[o][axis];
      row = next;
    }
    return r;
  }

  template <int O> using Element = type_at<O, Types<Out..., In...>>;
  template <int O> static NNK_FN auto line(const Args& args, const Row& row) {
    using T = Element<O>;
    return Line<T, Index, int_at<O, Steps>>{
        byte_offset(static_cast<T*>(args.data[O]), row.offset[O]), args.inner,
        args.stride[O][Rank - 1]};
  }

  using Inputs = OperandVecs<C, N, In...>;
  template <int I> using Computed = conditional<own_types, Accumulator<Element<outputs + I>>, C>;

  template <int... I>
  static NNK_FN Inputs load(const Args& args, const Row& row, Index i, int count, Ints<I...>) {
    Inputs in;
    if (count == N) {
      ((in.template at<I>() =
            convert<Computed<I>>(line<outputs + I>(args, row).template load<N>(i))),
       ...);
    } else {
      ((in.template at<I>() =
            convert<Computed<I>>(line<outputs + I>(args, row).template load_partial<N>(
                i, count, Element<outputs + I>()))),
       ...);
    }
    return in;
  }

  template <int O, class V>
  static NNK_FN void store_one(const Args& args, const Row& row, Index i, int count, const V& v) {
    const auto y = convert<Element<O>>(v);
    const auto to = line<O>(args, row);
    if (count != N) to.store_partial(i, y, count);
    else if constexpr (Streaming) to.store_streaming(i, y);
    else to.store(i, y);
  }

  template <int... I, int... O>
  static NNK_FN void apply_and_store(const Args& args, const Row& row, Index i, int count,
                                     const Inputs& in, Ints<I...>, Ints<O...>) {
    if constexpr (outputs == 1) {
      store_one<0>(args, row, i, count, F::apply(args.parameters, in.template at<I>()...));
    } else {
      const auto result = F::apply(args.parameters, in.template at<I>()...);
      (store_one<O>(args, row, i, count, result.template at<O>()), ...);
    }
  }

  static NNK_FN int count_at(const Args& args, Index i) {
    const Index left = args.inner - i;
    return left < N ? int(left) : N;
  }

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 first = group.block() * args.tile;
    const int64 last = first + args.tile < args.vectors ? first + args.tile : args.vectors;
    if constexpr (G::threads == 1) walk_rows(args, Index(first), Index(last));
    else stride_threads(group, args, Index(first), Index(last));
  }

  // One thread has the whole tile: it walks along the rows, and decodes a position once a row.
  static NNK_FN void walk_rows(const Args& args, Index v, Index last) {
    while (v < last) {
      const Index row_index = Rank == 1 ? 0 : args.by_row_vectors.divide(v);
      const Index k = v - row_index * args.row_vectors;
      const Index row_end = args.row_vectors - k < last - v ? args.row_vectors - k : last - v;
      const Row row = row_at(args, row_index);
      const Index whole = args.inner / N - k < row_end ? args.inner / N - k : row_end;
      Index i = k * N;
      for (Index n = 0; n < whole; ++n, i += N) {
        const Inputs in = load(args, row, i, N, range<inputs>());
        apply_and_store(args, row, i, N, in, range<inputs>(), range<outputs>());
      }
      if (whole < row_end) {
        const int count = count_at(args, i);
        const Inputs in = load(args, row, i, count, range<inputs>());
        apply_and_store(args, row, i, count, in, range<inputs>(), range<outputs>());
      }
      v += row_end;
    }
  }

  // Neighbouring threads take neighbouring vectors.
  template <class G>
  static NNK_FN void stride_threads(G& group, const Args& args, Index first, Index last) {
    for (Index base = first; base < last; base += Unroll * G::threads) {
      if (all_whole(args, base, last, Unroll * G::threads)) {
        take_whole<G::threads>(args, base + group.rank());
      } else {
        const Index end = base + Unroll * G::threads < last ? base + Unroll * G::threads : last;
        NNK_NO_UNROLL
        for (Index v = base + group.rank(); v < end; v += G::threads) take_one(args, v);
      }
    }
  }
  // Whether so many vectors are there, none of them cut.
  static NNK_FN bool all_whole(const Args& args, Index base, Index last, Index vectors) {
    if constexpr (Rank == 1) return args.inner / N - base >= vectors;
    else return last - base >= vectors && args.row_vectors * N == args.inner;
  }
  // Without a branch: the loads of all vectors are under way at once.
  template <int Threads> static NNK_FN void take_whole(const Args& args, Index first) {
    Row row[Unroll];
    Index i[Unroll];
    Inputs in[Unroll];
    NNK_UNROLL
    for (int u = 0; u < Unroll; ++u) {
      row[u] = find(args, first + u * Threads, i[u]);
      in[u] = load(args, row[u], i[u], N, range<inputs>());
    }
    NNK_UNROLL
    for (int u = 0; u < Unroll; ++u)
      apply_and_store(args, row[u], i[u], N, in[u], range<inputs>(), range<outputs>());
  }
  static NNK_FN void take_one(const Args& args, Index v) {
    Index i;
    const Row row = find(args, v, i);
    const int count = count_at(args, i);
    const Inputs in = load(args, row, i, count, range<inputs>());
    apply_and_store(args, row, i, count, in, range<inputs>(), range<outputs>());
  }
  // The row of vector v, and where in it v begins.
  static NNK_FN Row find(const Args& args, Index v, Index& i) {
    const Index row_index = Rank == 1 ? 0 : args.by_row_vectors.divide(v);
    i = (v - row_index * args.row_vectors) * N;
    return row_at(args, row_index);
  }
};

}  // namespace nnk
