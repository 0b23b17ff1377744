// Fused functions inside the kernels of rows: what a row is made of, and what becomes of its
// results, without a pass over memory of their own.
//
//   prologue   x = f(x, operands...), between the load of x and all that is done with it; further
//              results of f are written where x is met for the first time
//   epilogue   y = f(y, operands...), between the finished, unrounded y and its store; further
//              results of f are written beside it
//
// The arrays of a function are operands of the geometry as x and y are, so that they lie, are
// shared and are cut as these are. Where there is no function, a kernel is what it is without.
#pragma once
#include "nnk/fused_operand.cuh"
#include "nnk/row_team.cuh"

namespace nnk {

// Where no operand has the step period_step.
struct NoPeriod {};

// inputs, outputs: arrays that are read, and written beside y.
struct NoPrologue {
  static constexpr int inputs = 0, outputs = 0;
  struct Args {};
  template <bool First, bool Streaming, class Rows, class T, class Index, class S, class Period>
  static NNK_FN auto take(const Rows& rows, const Args&, const T* x, Index g, int c, bool full,
                          S fill, const Period&) {
    return rows.template load<0>(x, g, c, full, fill);
  }
  template <class Rows, class Index>
  static NNK_FN void prefetch(const Rows&, const Args&, Index, int, Index) {}
};

struct NoEpilogue {
  static constexpr int inputs = 0, outputs = 0;
  struct Args {};
  template <int Place, bool Streaming, class Rows, class U, class Index, class V, class Period>
  static NNK_FN void put(const Rows& rows, const Args&, U* y, Index g, int c, bool full, const V& v,
                         const Period&) {
    rows.template store<Place, Streaming>(y, g, c, full, v);
  }
  template <int Place, class Rows, class U, class V>
  static NNK_FN void put_result(const Rows& rows, const Args&, U* y, int c, const V& v) {
    rows.template store_result<Place>(y, c, v);
  }
};

// Group g, column c of the arrays of a function: what FusedFunction loads and stores. Further
// results are written only where that is said.
template <class Rows, class Period, int Inputs, int In0, int Out0, bool Writes, bool Streaming>
struct RowArrays {
  using Index = typename Rows::Index;
  const Rows& rows;
  void* const* data;
  Index g;
  int c;
  bool full;
  const Period& period;

  template <int K, class T, int Step, int N> NNK_FN Vec<Accumulator<T>, N> load() const {
    return load_from<In0 + K>(static_cast<const T*>(data[K]));
  }
  // Operand O of the geometry, in the computing type of its elements.
  template <int O, class T> NNK_FN auto load_from(const T* from) const {
    using C = Accumulator<T>;
    if constexpr (is_same<Period, NoPeriod>)
      return rows.template load_as<O>(from, g, c, full, C(0));
    else return rows.template load_parameter<O, C>(from, g, c, full, period);
  }
  template <int K, class T, int Step, int N> NNK_FN void store(const Vec<T, N>& y) const {
    if constexpr (Writes)
      rows.template store<Out0 + K - Inputs, Streaming>(static_cast<T*>(data[K]), g, c, full, y);
  }
};

// The same of arrays with one element for each row.
template <class Rows, int Inputs, int In0, int Out0> struct RowResultArrays {
  const Rows& rows;
  void* const* data;
  int c;

  template <int K, class T, int Step, int N> NNK_FN Vec<Accumulator<T>, N> load() const {
    return rows.template load_result<In0 + K, Accumulator<T>>(static_cast<const T*>(data[K]), c);
  }
  template <int K, class T, int Step, int N> NNK_FN void store(const Vec<T, N>& y) const {
    rows.template store_result<Out0 + K - Inputs>(static_cast<T*>(data[K]), c, y);
  }
};

// Types<...> of the operands of a FusedFunction.
template <class Function> struct InputsOf;
template <class F, class First, class Ins, class More, class Steps>
struct InputsOf<FusedFunction<F, First, Ins, More, Steps>> {
  using type = Ins;
};

// Function    FusedFunction<...>
// In0, Out0   places of its first operand and of its second result in the geometry
// IsPrologue  tells two functions of a kernel apart that are the same
template <class Function, int In0, int Out0, bool IsPrologue> struct RowFunction {
  static constexpr int inputs = Function::inputs, outputs = Function::more;

  // They end the arguments of a kernel, since the numbers differ from call to call.
  struct Args : FusedOperands<Function> {};

  template <bool First, bool Streaming, class Rows, class T, class Index, class S, class Period>
  static NNK_FN auto take(const Rows& rows, const Args& args, const T* x, Index g, int c, bool full,
                          S fill, const Period& period) {
    static_assert(IsPrologue, "a prologue");
    const RowArrays<Rows, Period, inputs, In0, Out0, First, Streaming> arrays{
        rows, args.arrays(), g, c, full, period};
    const auto v = Function::apply(args.numbers, arrays.template load_from<0>(x), arrays);
    // Of what is not there the function has made anything.
    return full ? v : join_lanes(v, Rows::V::splat(fill), rows.count(g, c));
  }
  template <class Rows, class Index>
  static NNK_FN void prefetch(const Rows& rows, const Args& args, Index g, int c, Index ahead) {
    prefetch_each(rows, args, g, c, ahead, range<inputs>());
  }

  template <int Place, bool Streaming, class Rows, class U, class Index, class V, class Period>
  static NNK_FN void put(const Rows& rows, const Args& args, U* y, Index g, int c, bool full,
                         const V& v, const Period& period) {
    static_assert(!IsPrologue, "an epilogue");
    const RowArrays<Rows, Period, inputs, In0, Out0, true, Streaming> arrays{
        rows, args.arrays(), g, c, full, period};
    const auto result = Function::apply(args.numbers, v, arrays);
    rows.template store<Place, Streaming>(y, g, c, full, result);
  }
  // Of what there is one of for each row.
  template <int Place, class Rows, class U, class V>
  static NNK_FN void put_result(const Rows& rows, const Args& args, U* y, int c, const V& v) {
    static_assert(!IsPrologue, "an epilogue");
    const RowResultArrays<Rows, inputs, In0, Out0> arrays{rows, args.arrays(), c};
    rows.template store_result<Place>(y, c, Function::apply(args.numbers, v, arrays));
  }

 private:
  template <class Rows, class Index, int... I>
  static NNK_FN void prefetch_each(const Rows& rows, const Args& args, Index g, int c, Index ahead,
                                   Ints<I...>) {
    using Ins = typename InputsOf<Function>::type;
    (rows.template prefetch_next<In0 + I>(static_cast<const type_at<I, Ins>*>(args.arrays()[I]), g,
                                          c, ahead),
     ...);
  }
};

// The arguments of a kernel: its own, and those of its functions. What is empty takes no room.
template <class Plain, class Prologue, class Epilogue>
struct FusedArgs : Plain, Prologue::Args, Epilogue::Args {};

}  // namespace nnk
