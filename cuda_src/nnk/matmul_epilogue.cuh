// What a matrix product does with a sum before it is written: the epilogues.
//
// An epilogue is a struct with
//     template <class Index> struct Args;    what the host packs for it; may be empty
//     template <class V, class Index>        of N sums, those of row `row` and the columns from
//     static V apply(args, sums, row,        `column` on, of which the first `count` exist
//                    column, count);
#pragma once
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// Nothing.
struct PlainEpilogue {
  template <class Index> struct Args {};
  template <class V, class Index>
  static NNK_FN V apply(const Args<Index>&, const V& sums, Index, Index, int) {
    return sums;
  }
};

}  // namespace nnk
