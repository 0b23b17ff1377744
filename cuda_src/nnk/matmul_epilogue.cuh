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

// activation(alpha * sum + beta * c[row, column]); c may be broadcast (stride 0), so that it is the
// bias of a linear layer too. With beta = 0 the host takes HasC = false: c is not even read.
// TC  element type of c;  F  a functor of nnk/activations.cuh
template <class TC, class S, class F, bool HasC> struct AffineEpilogue {
  template <class Index> struct Args {
    const TC* c;
    Index stride[2];  // in bytes
    S alpha, beta;
    S parameters[F::parameters > 0 ? F::parameters : 1];
  };
  template <class V, class Index>
  static NNK_FN V apply(const Args<Index>& args, const V& sums, Index row, Index column,
                        int count) {
    V y = sums * V::splat(args.alpha);
    if constexpr (HasC) {
      const TC* first = byte_offset(args.c, row * args.stride[0] + column * args.stride[1]);
      const Line<const TC, Index> line{first, Index(count), args.stride[1]};
      const V c = convert<S>(line.template load_partial<V::size>(Index(0), count, TC()));
      y = fma(c, V::splat(args.beta), y);
    }
    return F::apply(y, args.parameters);
  }
};

}  // namespace nnk
