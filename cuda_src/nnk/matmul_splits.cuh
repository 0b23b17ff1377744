// The second launch of a product whose sums were split: C = epilogue(partial sums, added up).
//
// The first launch left the sum over each range of terms in a workspace, [split][batch][m][n] of
// the accumulator's type. Here they are added in order of the splits, or some by each of a few
// threads, whose sums are added in order, so that a result is the same bit for bit in every run.
#pragma once
#include "nnk/matmul_epilogue.cuh"
#include "nnk/matmul_operands.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// N: columns that are handled at once; for the threads of a GPU a divisor of n
// UnitC: columns of C are adjacent, and lie at multiples of N of them where that matters
// Teams: threads of a GPU that share the splits of some columns: each has every Teams-th, of
// which there is one
template <class TC, class S, class Index, int BatchRank, int N, int Threads, bool UnitC, int Teams,
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
    if constexpr (Teams == 1) {
      for (int g = group.rank(); g < count; g += Threads) {
        const Columns columns(args, Index(first) + g);
        finish(args, columns, sum(args, columns, 0));
      }
    } else {
      // Neighbouring threads read neighbouring columns.
      constexpr int wide = Threads / Teams;
      const int g = group.rank() % wide, team = group.rank() / wide;
      const auto memory = group.template dynamic_shared<S>(0, Threads * N);
      const Columns columns(args, Index(first) + (g < count ? g : 0));
      if (g < count) memory.store_vec(group.rank() * N, sum(args, columns, team));
      group.barrier();
      if (g >= count || team != 0) return;
      V total = memory.template load_vec<N>(g * N);
      NNK_UNROLL
      for (int t = 1; t < Teams; ++t)
        total = total + memory.template load_vec<N>((t * wide + g) * N);
      finish(args, columns, total);
    }
  }

 private:
  // Where N columns are.
  struct Columns {
    Index line, batch, row, column;
    int count;
    NNK_FN Columns(const Args& args, Index g) : line(args.groups_of_row.divide(g)) {
      column = (g - line * args.groups_of_row.divisor) * N;
      batch = args.rows_of_batch.divide(line);
      row = line - batch * args.m;
      count = args.n - column < N ? int(args.n - column) : N;
    }
  };

  static NNK_FN void finish(const Args& args, const Columns& at, const V& total) {
    Index offset[1 + Epilogue::operands];
    decode_batch(args.batch, args.batch_stride, at.batch, offset);
    const typename Epilogue::template Of<Index> epilogue(args, args.epilogue, offset + 1, args.m,
                                                         args.n);
    const View<TC, 2, Index> c{
        byte_offset(args.c, offset[0]), {args.m, args.n}, {args.stride_c[0], args.stride_c[1]}};
    store(c, at.row, at.column, at.count,
          convert<TC>(epilogue(total, at.row, at.column, at.count)));
  }

  // Of every Teams-th split from `first` on, of which there is one.
  static NNK_FN V sum(const Args& args, const Columns& columns, int first) {
    const Line<const S, Index, unit_step> partial{args.partial, args.elements * args.splits,
                                                  Index(sizeof(S))};
    const Index at = columns.line * args.n + columns.column;
    const int count = columns.count;
    V total = loaded(partial, at + first * args.elements, count);
    int split = first + Teams;
    if constexpr (at_once > 1) {
      for (; split + (at_once - 1) * Teams < args.splits; split += at_once * Teams) {
        V more[at_once];
        NNK_UNROLL
        for (int i = 0; i < at_once; ++i)
          more[i] = loaded(partial, at + (split + i * Teams) * args.elements, count);
        NNK_UNROLL
        for (int i = 0; i < at_once; ++i) total = total + more[i];
      }
    }
    for (; split < args.splits; split += Teams)
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
