// What a matrix product does with a sum before it is written: the epilogues.
//
// An epilogue is a struct with
//     static constexpr int operands;         how many arrays it reads beside A and B
//     struct Operands;                       their pointers; the arguments of a kernel begin with
//                                            them (derive from it), so it is empty for none
//     template <class Index> struct Args;    what else the host packs for it
//     template <class Index> struct Of;      it, in one batch:
//         Of(operands, args, offsets of the operands in this batch in bytes, m, n)
//         Vec<_, N> operator()(sums, row, column, count)
//         void fetch<N, Rows>(row, column, rows)   on a CPU: N columns of that many rows, of Rows
//                                                  at most, are soon read and written
// where `sums` are N sums of one row, from `column` on, of which the first `count` exist.
#pragma once
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// Brings `rows` runs of Bytes bytes, `stride` apart, into the caches.
template <int Bytes, int Rows, class Index>
NNK_FN void fetch_rows(const void* first, Index stride, int rows) {
  NNK_UNROLL
  for (int r = 0; r < Rows; ++r) {
    if (r == rows) break;
    NNK_UNROLL
    for (int byte = 0; byte < Bytes; byte += 64)
      prefetch(static_cast<const char*>(first) + r * stride + byte);
  }
}

// Nothing.
struct PlainEpilogue {
  static constexpr int operands = 0;
  struct Operands {};
  template <class Index> struct Args {};
  template <class Index> struct Of {
    NNK_FN Of(const Operands&, const Args<Index>&, const Index*, Index, Index) {}
    template <class V> NNK_FN const V& operator()(const V& sums, Index, Index, int) const {
      return sums;
    }
    template <int N, int Rows> NNK_FN void fetch(Index, Index, int) const {}
  };
};

// The array that is added to the products; void for none.
template <class TD> struct Addend {
  static constexpr int operands = 1;
  struct Operands { const TD* addend; };
};
template <> struct Addend<void> {
  static constexpr int operands = 0;
  struct Operands {};
};

// The activation that is none.
struct Identity {
  static constexpr int parameters = 0;
  template <class V, class S> static NNK_FN V apply(const S*, V x) { return x; }
};

// activation(alpha sum + beta d): d of any strides, those of a broadcast axis being 0.
// TD: element type of d, or void; S: type of the sums; TR: type in which the result is activated
// (for integers the signed type, where S is unsigned)
template <class TD, class S, class TR, class Activation> struct AffineEpilogue {
  static constexpr bool adds = Addend<TD>::operands > 0;
  static constexpr int operands = Addend<TD>::operands;
  static constexpr int parameters = Activation::parameters > 0 ? Activation::parameters : 1;
  using Operands = typename Addend<TD>::Operands;

  template <class Index> struct Args {
    S alpha, beta;
    TR parameter[parameters];
    Index stride[2];  // of d, in bytes
  };

  template <class Index> struct Of {
    const Args<Index>& args;
    View<const conditional<adds, TD, S>, 2, Index> d;

    NNK_FN Of(const Operands& arrays, const Args<Index>& a, const Index* offset, Index m, Index n)
        : args(a), d{start(arrays, offset), {m, n}, {a.stride[0], a.stride[1]}} {}

    template <class V>
    NNK_FN auto operator()(const V& sums, Index row, Index column, int count) const {
      V y = V::splat(args.alpha) * sums;
      if constexpr (adds) y = fma(V::splat(args.beta), line<V::size>(row, column, count), y);
      return Activation::apply(args.parameter, convert<TR>(y));
    }

    template <int N, int Rows> NNK_FN void fetch(Index row, Index column, int rows) const {
      if constexpr (adds)
        if (d.stride[0] != 0 && d.stride[1] == Index(sizeof(TD)))
          fetch_rows<N* int(sizeof(TD)), Rows>(d.at(NNK_HERE, row, column), d.stride[0], rows);
    }

   private:
    static NNK_FN const conditional<adds, TD, S>* start(const Operands& arrays,
                                                        const Index* offset) {
      if constexpr (adds) return byte_offset(arrays.addend, offset[0]);
      else return nullptr;
    }
    template <int N> NNK_FN Vec<S, N> line(Index row, Index column, int count) const {
      const TD* from = d.at(NNK_HERE, row, column);
      const Index step = d.stride[1];
      if (lanes_are_simd && step == 0) return Vec<S, N>::splat(convert<S>(nnk::load<1>(from))[0]);
      // Lanes of a SIMD register load from any address; threads of a GPU from aligned ones.
      if (lanes_are_simd && step == Index(sizeof(TD)) && count == N) {
        const Line<const TD, Index, unit_step> elements{from, Index(count), step};
        return convert<S>(elements.template load<N>(0));
      }
      const Line<const TD, Index> elements{from, Index(count), step};
      return convert<S>(elements.template load_partial<N>(0, count, TD()));
    }
  };
};

}  // namespace nnk
