// nnk::reduce with every operation, one entry for each number of threads. The calls follow
// each other with no barrier but their own.
#include "sim_test.cuh"

template <int Threads> struct ReduceAll {
  using Args = TestArgs;
  template <class G> static void run(G& group, const Args& args) {
    const int rank = group.rank();
    const float x = args.in[group.block() * Threads + rank];
    const float sum = nnk::reduce<nnk::Sum<float>, Threads>(group, x);
    const float again = nnk::reduce<nnk::Sum<float>, Threads>(group, float(rank));
    const float largest = nnk::reduce<nnk::Max<float>, Threads>(group, x);
    const auto soft = nnk::reduce<nnk::MaxSumExp<float>, Threads>(group, {x, 1.0f});
    const auto moments = nnk::reduce<nnk::Welford<double>, Threads>(group, {1.0, double(x), 0.0});
    const float row[] = {sum,
                         again,
                         largest,
                         soft.max,
                         soft.sum,
                         float(moments.count),
                         float(moments.mean),
                         float(moments.m2)};
    for (int i = 0; i < 8; ++i) args.out[(group.block() * Threads + rank) * 8 + i] = row[i];
  }
};
NNK_ENTRY(reduce_1, 1, ReduceAll<1>)
NNK_ENTRY(reduce_2, 2, ReduceAll<2>)
NNK_ENTRY(reduce_7, 7, ReduceAll<7>)
NNK_ENTRY(reduce_8, 8, ReduceAll<8>)
NNK_ENTRY(reduce_32, 32, ReduceAll<32>)
NNK_ENTRY(reduce_33, 33, ReduceAll<33>)
NNK_ENTRY(reduce_64, 64, ReduceAll<64>)
NNK_ENTRY(reduce_65, 65, ReduceAll<65>)
NNK_ENTRY(reduce_96, 96, ReduceAll<96>)
NNK_ENTRY(reduce_128, 128, ReduceAll<128>)
NNK_ENTRY(reduce_256, 256, ReduceAll<256>)
NNK_ENTRY(reduce_1024, 1024, ReduceAll<1024>)
