// A number times an array: what is left of the gradient of a linear term.
#pragma once
#include "nnk/types.cuh"

namespace nnk {

struct Scale {  // y = p x
  static constexpr int parameters = 1;
  template <class V, class S> static NNK_FN V apply(const S* p, V x) { return p[0] * x; }
};

}  // namespace nnk
