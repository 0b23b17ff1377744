// One planted bug in each kernel. test_sim.py looks for the lines marked `at: name`.
#include "sim_test.cuh"

struct Tag;
struct OtherTag;

// ---- missing barriers -------------------------------------------------------------------

SIM_TEST(read_before_barrier, 64) {
  const auto values = group.template shared<float, 64, Tag>();
  values.store(group.rank(), args.in[group.rank()]);                        // at: neighbour write
  args.out[group.rank()] = values.load((group.rank() + 1) % group.size());  // at: neighbour read
}

// The lanes of one warp only: they too run in any order.
SIM_TEST(read_before_barrier_in_a_warp, 32) {
  const auto values = group.template shared<float, 32, Tag>();
  values.store(group.rank(), args.in[group.rank()]);                        // at: lane write
  args.out[group.rank()] = values.load((group.rank() + 1) % group.size());  // at: lane read
}

SIM_TEST(write_before_barrier, 64) {
  const auto values = group.template shared<float, 64, Tag>();
  values.store(group.rank(), args.in[group.rank()]);
  group.barrier();
  const float x = values.load((group.rank() + 1) % group.size());  // at: shift read
  values.store(group.rank(), x);                                   // at: shift write
  group.barrier();
  args.out[group.rank()] = values.load(group.rank());
}

// nnk::reduce without its first barrier: the second call may overwrite what the first one
// still has to read, if a warp gets five shuffles ahead of another.
SIM_TEST(reduce_without_first_barrier, 256) {
  const auto partial = group.template shared<float, 256 / nnk::warp_width, Tag>();
  for (int call = 0; call < 2; ++call) {
    float x = args.in[(group.rank() + call) % group.size()] * float(call + 1);
    x = nnk::reduce_lanes<nnk::Sum<float>, nnk::warp_width>(x);
    if (group.rank() % nnk::warp_width == 0)
      partial.store(group.rank() / nnk::warp_width, x);  // at: partial write
    group.barrier();
    float total = 0;
    for (int i = 0; i < group.size() / nnk::warp_width; ++i)
      total += partial.load(i);  // at: partial read
    args.out[call * group.size() + group.rank()] = total;
  }
}

SIM_TEST(all_write_one_value, 64) {
  const auto flag = group.template shared<int, 1, Tag>();
  flag.store(0, 1);  // at: same value
}

// A shuffle orders the lanes of a warp, not two warps.
SIM_TEST(shuffle_as_barrier, 128) {
  const auto values = group.template shared<float, 128, Tag>();
  values.store(group.rank(), args.in[group.rank()]);  // at: other warp write
  Warp<32>::shuffle_xor(1, 1);
  args.out[group.rank()] = values.load((group.rank() + 64) % group.size());  // at: other warp read
}

// Thread 0 has read the place itself before the other warps did.
SIM_TEST(write_after_read_by_all, 128) {
  const auto values = group.template shared<float, 1, Tag>();
  if (group.rank() == 0) values.store(0, 1.0f);
  group.barrier();
  const float x = values.load(0);  // at: read by all
  Warp<32>::shuffle_xor(x, 1);
  if (group.rank() == 0) values.store(0, x + 1);  // at: write by one
}

// Two lanes that both read the place before one of them writes it.
SIM_TEST(write_after_own_read, 2) {
  const auto values = group.template shared<float, 1, Tag>();
  if (group.rank() == 0) values.store(0, 1.0f);
  Warp<2>::shuffle_xor(1, 1);
  const float x = values.load(0);                 // at: read of both
  if (group.rank() == 0) values.store(0, x + 1);  // at: write of one
}

// Two reads of one warp, of which the second only is in conflict with the write.
SIM_TEST(write_after_second_read, 32) {
  const auto values = group.template shared<float, 1, Tag>();
  if (group.rank() == 0) values.store(0, 1.0f);
  Warp<32>::shuffle_xor(1, 1);
  if (group.rank() == 0) values.load(0);
  Warp<32>::shuffle_xor(1, 1);
  if (group.rank() == 1) values.load(0);         // at: second read
  if (group.rank() == 0) values.store(0, 2.0f);  // at: write after it
}

// The dynamic memory read as another type than it was written as.
SIM_TEST(reused_as_another_type, 64) {
  const auto halves = group.template dynamic_shared<nnk::half>(0, 64);
  halves.store(group.rank(), nnk::float_to_half(args.in[group.rank()]));  // at: half write
  const auto floats = group.template dynamic_shared<float>(64, 16);
  if (group.rank() == 0) args.out[0] = floats.load(5);  // at: float read
}

// ---- divergence -------------------------------------------------------------------------

SIM_TEST(two_barriers, 64) {
  if (group.rank() < 40) group.barrier();  // at: barrier of some
  else group.barrier();                    // at: barrier of others
}

SIM_TEST(return_before_barrier, 64) {
  const Line<float, int, nnk::unit_step> out{args.out, 64, 4};
  out.store(group.rank(), Vec<float, 1>::splat(1.0f));  // at: last seen
  if (group.rank() >= 40) return;
  group.barrier();  // at: barrier of the rest
}

SIM_TEST(return_before_shuffle, 64) {
  if (group.rank() == 37) return;
  args.out[group.rank()] = Warp<32>::shuffle_xor(1.0f, 1);  // at: shuffle of the rest
}

SIM_TEST(barrier_against_shuffle, 64) {
  if (group.rank() % 8 < 5)
    args.out[group.rank()] = Warp<8>::shuffle(1.0f, 0);  // at: shuffle of five
  group.barrier();                                       // at: barrier of three
}

SIM_TEST(two_shuffles, 32) {
  float x = 1;
  if (group.rank() < 16) x = Warp<16>::shuffle_xor(x, 1);  // at: shuffle of some
  else x = Warp<16>::shuffle_xor(x, 1);                    // at: shuffle of others
  args.out[group.rank()] = x;
}

// ---- out of bounds ----------------------------------------------------------------------

SIM_TEST(view_out_of_bounds, 1) {
  const View<float, 2, int> view{args.out, {4, 6}, {24, 4}};
  *view.at(NNK_HERE, 3, 5) = 1;
  *view.at(NNK_HERE, 2, 6) = 1;  // at: view
}

SIM_TEST(line_load_out_of_bounds, 1) {
  const Line<const float, int, nnk::unit_step> line{args.in, 10, 4};
  line.template load<4>(4);
  line.template load<4>(8);  // at: line load
}

SIM_TEST(line_load_partial_out_of_bounds, 1) {
  const Line<const float, long long> line{args.in, 10, 4};
  line.template load_partial<4>(8, 2, 0.0f);
  line.template load_partial<4>(8, 3, 0.0f);  // at: line load_partial
}

SIM_TEST(line_store_out_of_bounds, 1) {
  const Line<float, int> line{args.out, 10, 8};
  line.store(-1, Vec<float, 2>::splat(0.0f));  // at: line store
}

SIM_TEST(line_store_partial_out_of_bounds, 1) {
  const Line<float, int, nnk::unit_step> line{args.out, 10, 4};
  line.store_partial(8, Vec<float, 4>::splat(0.0f), 4);  // at: line store_partial
}

SIM_TEST(line_store_streaming_out_of_bounds, 1) {
  const Line<float, int, nnk::unit_step> line{args.out, 10, 4};
  line.store_streaming(10, Vec<float, 1>::splat(0.0f));  // at: line store_streaming
}

SIM_TEST(shared_load_out_of_bounds, 1) {
  const auto values = group.template shared<float, 10, Tag>();
  values.load(int(args.n));  // at: shared load
}

SIM_TEST(shared_store_out_of_bounds, 1) {
  const auto values = group.template shared<float, 10, Tag>();
  values.store(int(args.n), 1.0f);  // at: shared store
}

SIM_TEST(shared_load_vec_out_of_bounds, 1) {
  const auto values = group.template dynamic_shared<float>(16, 10);
  values.template load_vec<4>(8);  // at: shared load_vec
}

SIM_TEST(shared_store_vec_out_of_bounds, 1) {
  const auto values = group.template shared<float, 10, Tag>();
  values.store_vec(-4, Vec<float, 4>::splat(1.0f));  // at: shared store_vec
}

SIM_TEST(copy_async_out_of_bounds, 1) {
  const auto values = group.template shared<float, 10, Tag>();
  nnk::copy_async<4>(values, 8, args.in);  // at: copy_async
}

SIM_TEST(dynamic_shared_out_of_bounds, 1) {
  group.template dynamic_shared<float>(16, 61);  // at: dynamic_shared
}

// ---- too much shared memory -------------------------------------------------------------

SIM_TEST(static_and_dynamic_shared, 32) {         // at: entry
  group.template shared<float, 100, Tag>();       // at: first array
  group.template shared<float, 100, OtherTag>();  // at: second array
}

// ---- asynchronous copies ----------------------------------------------------------------

SIM_TEST(copy_never_waited_for, 32) {
  const auto values = group.template shared<float, 256, Tag>();
  for (int i = 0; i < 2; ++i) {
    nnk::copy_async<4>(values, 128 * i + 4 * group.rank(), args.in);  // at: unwaited copy
    nnk::copy_async_commit();
  }
  nnk::copy_async_wait<1>();
}

SIM_TEST(copy_never_committed, 32) {
  const auto values = group.template shared<float, 128, Tag>();
  nnk::copy_async<4>(values, 4 * group.rank(), args.in);  // at: uncommitted copy
  nnk::copy_async_wait<0>();
}

SIM_TEST(copy_read_before_wait, 32) {
  const auto values = group.template shared<float, 256, Tag>();
  for (int i = 0; i < 2; ++i) {
    values.store(128 * i + 4 * group.rank(), 1.0f);  // old data, which nobody may rely on
    nnk::copy_async<4>(values, 128 * i + 4 * group.rank(), args.in);  // at: pending copy
    nnk::copy_async_commit();
  }
  nnk::copy_async_wait<1>();
  args.out[group.rank()] = values.load(4 * group.rank());
  args.out[32 + group.rank()] = values.load(128 + 4 * group.rank());  // at: early read
  nnk::copy_async_wait<0>();
}

// The wait makes the copy visible to the thread that issued it, not to the others.
SIM_TEST(copy_read_by_others_before_barrier, 64) {
  const auto values = group.template shared<float, 1, Tag>();
  if (group.rank() == 0) nnk::copy_async<1>(values, 0, args.in);  // at: landed copy
  nnk::copy_async_commit();
  group.barrier();
  nnk::copy_async_wait<0>();
  if (group.rank() == 63) args.out[0] = values.load(0);  // at: read of a landed copy
}

// ---- alignment --------------------------------------------------------------------------

SIM_TEST(misaligned_load, 1) {
  const Line<const float, int, nnk::unit_step> line{args.in + 1, 10, 4};
  line.template load<1>(0);
  line.template load<4>(0);  // at: misaligned load
}

SIM_TEST(misaligned_store, 1) {
  const Line<float, int, nnk::unit_step> line{args.out, 10, 4};
  line.store(1, Vec<float, 2>::splat(1.0f));  // at: misaligned store
}

SIM_TEST(misaligned_shared_load, 1) {
  const auto values = group.template shared<float, 32, Tag>();
  values.template load_vec<8>(4);
  values.template load_vec<4>(2);  // at: misaligned shared load
}

SIM_TEST(misaligned_shared_store, 1) {
  const auto values = group.template dynamic_shared<float>(4, 32);
  values.store_vec(0, Vec<float, 2>::splat(1.0f));  // at: misaligned shared store
}

SIM_TEST(misaligned_copy_async, 1) {
  const auto values = group.template shared<float, 32, Tag>();
  nnk::copy_async<2>(values, 2, args.in + 1);  // at: misaligned copy
}

SIM_TEST(misaligned_dynamic_shared, 1) {
  group.template dynamic_shared<double>(4, 2);  // at: misaligned array
}

// ---- the rest ---------------------------------------------------------------------------

SIM_TEST(uninitialised_shared, 32) {
  const auto values = group.template shared<float, 32, Tag>();
  const auto dynamic = group.template dynamic_shared<float>(0, 32);
  args.out[64 * group.block() + group.rank()] = values.load(group.rank());
  args.out[64 * group.block() + 32 + group.rank()] = dynamic.load(group.rank());
  values.store(group.rank(), 1.0f);  // the next block must not see this
  dynamic.store(group.rank(), 1.0f);
}

// Right on warps of 32 lanes, wrong on 64.
SIM_TEST(warp_of_32_assumed, 64) {
  const auto partial = group.template shared<float, 64 / nnk::warp_width, Tag>();
  const float x = nnk::reduce_lanes<nnk::Sum<float>, 32>(args.in[group.rank()]);
  if (group.rank() % nnk::warp_width == 0) partial.store(group.rank() / nnk::warp_width, x);
  group.barrier();
  float total = 0;
  for (int i = 0; i < group.size() / nnk::warp_width; ++i) total += partial.load(i);
  args.out[group.rank()] = total;
}

SIM_TEST(stack_overrun, 2) {
  volatile char large[NNK_SIM_STACK] = {};
  args.out[group.rank()] = large[args.n];
  group.barrier();
}
