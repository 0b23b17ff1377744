// Gradient of logsumexp, an elementwise functor: dy and y are broadcast along the row.
#pragma once
#include "nnk/types.cuh"

namespace nnk {

// dx = dy exp(x - y)
struct LogSumExpBackward {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V dy, V x, V y) {
    return dy * exp(x - y);
  }
};

}  // namespace nnk
