// The elementwise half of batch normalisation between two fused functions, or beside one.
#pragma once
#include "nnk/batch_norm_apply.cuh"
#include "nnk/fused.cuh"

namespace nnk {

struct NoFunctor {};

// The run-time numbers of a functor; `Which` tells two apart that are the same.
template <class F, int Which> struct NumbersOf { typename F::Parameters of_function; };
template <int Which> struct NumbersOf<NoFunctor, Which> {};

// S              type of the numbers of the activation
// Prologue       functor of x and so many operands (see fused.cuh), with so many results, of which
//                the first is normalised; the others are results of this one if it `Writes` them
// Epilogue       the same of y; all of its results are results of this one
// Either may be NoFunctor, with no operands and one result.
template <class S, class Activation, class Prologue, int Before, int Made, bool Writes,
          class Epilogue, int After, int Given>
struct BatchNormFused {
  struct alignas(8) Activated {
    S numbers[Activation::parameters > 0 ? Activation::parameters : 1];
  };
  struct alignas(8) Parameters : Activated, NumbersOf<Prologue, 0>, NumbersOf<Epilogue, 1> {};

  // in: the operands of the prologue, and those of the epilogue
  template <class X, class V, class... In>
  static NNK_FN auto apply(const Parameters& p, const X& x, const V& mean, const V& scale,
                           const V& shift, const In&... in) {
    const auto operands = several(x, in...);
    const auto made = call<Prologue, 0, 1>(p, x, operands, range<Before>());
    const V y =
        BatchNormApply<Activation>::apply(p.numbers, result<0, Made>(made), mean, scale, shift);
    const auto given = call<Epilogue, 1, 1 + Before>(p, y, operands, range<After>());
    return all(made, given, range<Writes ? Made - 1 : 0>(), range<Given>());
  }

 private:
  template <class F, int Which, int First, class V, class Operands, int... I>
  static NNK_FN auto call([[maybe_unused]] const Parameters& p, const V& v,
                          [[maybe_unused]] const Operands& operands, Ints<I...>) {
    if constexpr (is_same<F, NoFunctor>) {
      return v;
    } else {
      const NumbersOf<F, Which>& numbers = p;
      return F::apply(numbers.of_function, v, operands.template at<First + I>()...);
    }
  }
  template <int I, int Count, class R> static NNK_FN const auto& result(const R& results) {
    if constexpr (Count == 1) return results;
    else return results.template at<I>();
  }
  template <class M, class G, int... I, int... O>
  static NNK_FN auto all([[maybe_unused]] const M& made, const G& given, Ints<I...>, Ints<O...>) {
    if constexpr (sizeof...(I) + sizeof...(O) == 1) return given;
    else return several(result<1 + I, Made>(made)..., result<O, Given>(given)...);
  }
};

}  // namespace nnk
