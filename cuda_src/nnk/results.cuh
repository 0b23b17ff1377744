// What a functor with several outputs returns: one Vec for each of them.
#pragma once
#include "nnk/types.cuh"

namespace nnk {

template <class V, int N> struct Results {
  static constexpr int size = N;
  V value[N];
  template <int I> NNK_FN const V& at() const { return value[I]; }
};

// The same, each of a type of its own.
template <class... V> struct Several;
template <class First, class... Rest> struct Several<First, Rest...> {
  First first;
  Several<Rest...> rest;
  template <int I> NNK_FN auto& at() {
    if constexpr (I == 0) return first;
    else return rest.template at<I - 1>();
  }
  template <int I> NNK_FN const auto& at() const {
    if constexpr (I == 0) return first;
    else return rest.template at<I - 1>();
  }
};
template <> struct Several<> {};

template <class First, class... Rest>
NNK_FN Several<First, Rest...> several(const First& first, const Rest&... rest) {
  if constexpr (sizeof...(Rest) == 0) return {first, {}};
  else return {first, several(rest...)};
}

}  // namespace nnk
