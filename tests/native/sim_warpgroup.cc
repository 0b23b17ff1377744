// Products of a warpgroup in the simulator, and bugs planted around them. test_warpgroup.py looks
// for the lines marked `at: name`.
#include "sim_test.cuh"
#include "nnk/mma_sm90.cuh"

using nnk::half;
using nnk::int32;
using nnk::int8;

// ---- one product ---------------------------------------------------------------------------

// args.in: bytes of shared memory, n of them, then for TilesOfStep; out: the sums of each thread.
template <class T, int N, bool TurnedA, bool TurnedB> struct Raw {
  using Args = TestArgs;
  template <class G> static void run(G& group, const Args& args) {
    using Team = nnk::Warpgroup<T>;
    using Sum = typename nnk::MmaSm90<T>::Sum;
    const int count = int(args.n) / int(sizeof(T));
    const auto memory = Team::template memory<T>(group, count);
    const auto* from = reinterpret_cast<const T*>(args.in);
    for (int i = group.rank(); i < count; i += group.size()) memory.store(i, from[i]);
    nnk::TilesOfStep at;
    __builtin_memcpy(&at, reinterpret_cast<const char*>(args.in) + args.n, sizeof(at));
    Team::publish();
    group.barrier();
    Sum sums[N / 2];
    for (Sum& sum : sums) sum = 1;
    Team::begin(NNK_HERE);
    Team::template add<N, TurnedA, TurnedB>(memory, at, sums, NNK_HERE);
    Team::commit(NNK_HERE);
    Team::template wait<0>(NNK_HERE);
    for (int i = 0; i < N / 2; ++i)
      reinterpret_cast<Sum*>(args.out)[group.rank() * (N / 2) + i] = sums[i];
  }
};
NNK_ENTRY(half_terms_terms, 128, Raw<half, 64, false, false>)
NNK_ENTRY(half_terms_rows, 128, Raw<half, 128, false, true>)
NNK_ENTRY(half_rows_terms, 128, Raw<half, 64, true, false>)
NNK_ENTRY(half_rows_rows, 128, Raw<half, 256, true, true>)
NNK_ENTRY(int8_terms_terms, 128, Raw<int8, 128, false, false>)

// ---- bugs ----------------------------------------------------------------------------------

// Zeros in shared memory, and sums of ones.
struct Begun {
  nnk::Shared<half> memory;
  float sums[32];
};
using Team = nnk::Warpgroup<half>;
constexpr int tile = 64 * 64, chunk = 8;  // elements; there are two tiles
constexpr nnk::TilesOfStep first_step{0, tile / chunk, tile / chunk, tile / chunk};

template <class G> Begun begun(G& group) {
  Begun b{Team::memory<half>(group, 2 * tile), {}};
  for (int i = group.rank(); i < 2 * tile; i += group.size()) b.memory.store(i, half{});
  for (float& sum : b.sums) sum = 1;
  Team::publish();
  group.barrier();
  Team::begin(NNK_HERE);
  return b;
}
template <class G> void end(G& group, const TestArgs& args, const Begun& b) {
  args.out[group.rank()] = b.sums[0];
}

SIM_TEST(right, 128) {
  Begun b = begun(group);
  for (int i = 0; i < 2; ++i) {
    Team::add<64, false, false>(b.memory, first_step, b.sums, NNK_HERE);
    Team::commit(NNK_HERE);
    Team::wait<1>(NNK_HERE);
  }
  Team::wait<0>(NNK_HERE);
  end(group, args, b);
}
SIM_TEST(sums_before_the_wait, 128) {
  Begun b = begun(group);
  Team::add<64, false, false>(b.memory, first_step, b.sums, NNK_HERE);
  Team::commit(NNK_HERE);
  Team::wait<1>(NNK_HERE);
  end(group, args, b);
  Team::wait<0>(NNK_HERE);
}
SIM_TEST(never_waited_for, 128) {
  Begun b = begun(group);
  Team::add<64, false, false>(b.memory, first_step, b.sums, NNK_HERE);  // at: unwaited
  Team::commit(NNK_HERE);
}
SIM_TEST(never_committed, 128) {
  Begun b = begun(group);
  Team::add<64, false, false>(b.memory, first_step, b.sums, NNK_HERE);  // at: uncommitted
  Team::wait<0>(NNK_HERE);
}
SIM_TEST(two_sets_of_sums, 128) {
  Begun b = begun(group);
  float others[32] = {};
  Team::add<64, false, false>(b.memory, first_step, b.sums, NNK_HERE);
  Team::add<64, false, false>(b.memory, first_step, others, NNK_HERE);  // at: other sums
  Team::commit(NNK_HERE);
  Team::wait<0>(NNK_HERE);
}
SIM_TEST(different_tiles, 128) {
  Begun b = begun(group);
  nnk::TilesOfStep at = first_step;
  at.b += group.rank() == 77 ? 2 : 0;
  Team::add<64, false, false>(b.memory, at, b.sums, NNK_HERE);  // at: different tiles
  Team::commit(NNK_HERE);
  Team::wait<0>(NNK_HERE);
}
SIM_TEST(overwritten_too_early, 128) {
  Begun b = begun(group);
  Team::add<64, false, false>(b.memory, first_step, b.sums, NNK_HERE);
  Team::commit(NNK_HERE);
  group.barrier();
  if (group.rank() == 0) b.memory.store(5, half{});  // at: overwriting
  Team::wait<0>(NNK_HERE);
}
SIM_TEST(out_of_bounds, 128) {
  Begun b = begun(group);
  nnk::TilesOfStep at = first_step;
  at.b += tile / 2 / chunk;
  Team::add<64, false, false>(b.memory, at, b.sums, NNK_HERE);  // at: beyond the end
  Team::commit(NNK_HERE);
  Team::wait<0>(NNK_HERE);
}
