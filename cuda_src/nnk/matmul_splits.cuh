// The second launch of a product whose sums were split: C = epilogue(partial sums, added up).
//
// The first launch left the sum over each range of terms in a workspace, [split][batch][m][n] of
// the accumulator's type. Here they are added in order of the splits, so that a result is the same
// bit for bit in every run.
#pragma once
#include "nnk/matmul_epilogue.cuh"
#include "nnk/matmul_operands.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// N: columns that are handled at once; for the threads of a GPU a divisor of n
// UnitC: columns of C are adjacent, and lie at multiples of N of them where that matters
template <class TC, class S, class Index, int BatchRank, int N, int Threads, bool UnitC,
          class Epilogue>
struct MatmulSplits {
  using V = Vec<S, N>;
  // Sums that a thread of a GPU waits for together; they are added one by one.
  static constexpr int at_once = lanes_are_simd ? 1 : 8;

  struct Args : Epilogue::Operands {
    const S* partial;
    TC* c;
    int64 groups;  // of N columns, in all
    int32 groups_of_block;
    int32 splits;
    Index m, n;
    Index elements;  // of a split
    Divisor<Index> groups_of_row, rows_of_batch;
    Divisor<Index> batch[BatchRank];
    Index batch_stride[1 + Epilogue::operands][BatchRank];  // of c and the epilogue's, in bytes
    Index stride_c[2];
    typename Epilogue::template Args<Index> epilogue;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 first = group.block() * args.groups_of_block;
    const int64 left = args.groups - first;
    const int count = left < args.groups_of_block ? int(left) : args.groups_of_block;
    for (int g = group.rank(); g < count; g += Threads) finish(args, Index(first) + g);
  }

 private:
  static NNK_FN void finish(const Args& args, Index g) {
    const Index line = args.groups_of_row.divide(g);  // a row of one of the matrices
    const Index column = (g - line * args.groups_of_row.divisor) * N;
    const Index batch = args.rows_of_batch.divide(line);
    const Index row = line - batch * args.m;
    const int count = args.n - column < N ? int(args.n - column) : N;
    Index offset[1 + Epilogue::operands];
    decode_batch(args.batch, args.batch_stride, batch, offset);
    const typename Epilogue::template Of<Index> epilogue(args, args.epilogue, offset + 1, args.m,
                                                         args.n);
    const View<TC, 2, Index> c{
        byte_offset(args.c, offset[0]), {args.m, args.n}, {args.stride_c[0], args.stride_c[1]}};
    store(c, row, column, count,
          convert<TC>(epilogue(sum(args, line * args.n + column, count), row, column, count)));
  }

  static NNK_FN V sum(const Args& args, Index at, int count) {
    const Line<const S, Index, unit_step> partial{args.partial, args.elements * args.splits,
                                                  Index(sizeof(S))};
    V total = loaded(partial, at, count);
    int split = 1;
    if constexpr (at_once > 1) {
      for (; split + at_once <= args.splits; split += at_once) {
        V more[at_once];
        NNK_UNROLL
        for (int i = 0; i < at_once; ++i)
          more[i] = loaded(partial, at + (split + i) * args.elements, count);
        NNK_UNROLL
        for (int i = 0; i < at_once; ++i) total = total + more[i];
      }
    }
    for (; split < args.splits; ++split)
      total = total + loaded(partial, at + split * args.elements, count);
    return total;
  }
  static NNK_FN V loaded(const Line<const S, Index, unit_step>& partial, Index at, int count) {
    if (count == N) return partial.template load<N>(at);
    return partial.template load_partial<N>(at, count, S());
  }

  template <class Y>
  static NNK_FN void store(const View<TC, 2, Index>& c, Index row, Index column, int count,
                           const Y& y) {
    const Line<TC, Index, UnitC ? unit_step : any_step> to{c.at(NNK_HERE, row, column),
                                                           Index(count), c.stride[1]};
    if (count == N) to.store(Index(0), y);
    else to.store_partial(Index(0), y, count);
  }
};

}  // namespace nnk
