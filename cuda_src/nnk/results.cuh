// What a functor with several outputs returns: one Vec for each of them.
#pragma once
#include "nnk/types.cuh"

namespace nnk {

template <class V, int N> struct Results {
  static constexpr int size = N;
  V value[N];
};

}  // namespace nnk
