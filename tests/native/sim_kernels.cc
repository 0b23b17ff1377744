// Correct kernels that test_sim.py checks against NumPy, on every seed and warp width.
#include "sim_test.cuh"

struct Tag;

// ---- order --------------------------------------------------------------------------------

// out[k] is the k-th thread that came by, over all blocks, twice per block.
SIM_TEST(order_log, 64) {
  int* counter = reinterpret_cast<int*>(args.out);
  for (int i = 0; i < 2; ++i) {
    counter[1 + nnk::atomic_add(counter, 1)] = int(group.block()) * group.size() + group.rank();
    group.barrier();
  }
}

SIM_TEST(grid, 96) {
  const long long i = group.block() * group.size() + group.rank();
  if (i < args.n) args.out[i] = float(group.blocks() * 1000 + group.block());
}

SIM_TEST(atomics, 64) {
  nnk::atomic_add(args.out, args.in[group.rank()]);
  nnk::atomic_add(reinterpret_cast<int*>(args.out) + 1, 0x7fffffff);  // wraps
  nnk::atomic_add(reinterpret_cast<unsigned long long*>(args.out) + 1, 1ull << 40);
}

// ---- warp operations ------------------------------------------------------------------------

template <int Width, class G> void shuffle_row(const G& group, const TestArgs& args, int row) {
  const float x = float(group.rank());
  const int size = group.size();
  for (int mask = 0; mask < nnk::warp_width; ++mask)
    args.out[(row * 128 + mask) * size + group.rank()] = Warp<Width>::shuffle_xor(x, mask);
  for (int source = 0; source < nnk::warp_width; ++source)
    args.out[(row * 128 + 64 + source) * size + group.rank()] = Warp<Width>::shuffle(x, source);
}
// 72 threads: the last warp has 8 lanes.
SIM_TEST(shuffles, 72) {
  shuffle_row<1>(group, args, 0);
  shuffle_row<2>(group, args, 1);
  shuffle_row<8>(group, args, 2);
  shuffle_row<16>(group, args, 3);
  shuffle_row<32>(group, args, 4);
  shuffle_row<nnk::warp_width>(group, args, 5);
}

SIM_TEST(shuffle_of_a_struct, 64) {
  struct Triple {
    double a;
    float b;
    int c;
  };
  const int r = group.rank();
  const Triple t = Warp<32>::shuffle_xor(Triple{double(r), float(2 * r), 3 * r}, 5);
  args.out[r] =
      t.a == double(r ^ 5) && t.b == float(2 * (r ^ 5)) && t.c == 3 * (r ^ 5) ? 1.0f : 0.0f;
}

template <int Width, class G> void reduce_row(const G& group, const TestArgs& args, int row) {
  args.out[row * group.size() + group.rank()] =
      nnk::reduce_lanes<nnk::Sum<float>, Width>(args.in[group.rank()]);
}
SIM_TEST(lane_sums, 128) {
  reduce_row<1>(group, args, 0);
  reduce_row<2>(group, args, 1);
  reduce_row<4>(group, args, 2);
  reduce_row<8>(group, args, 3);
  reduce_row<16>(group, args, 4);
  reduce_row<32>(group, args, 5);
  reduce_row<nnk::warp_width>(group, args, 6);
}

// Shared memory within a warp, ordered by warp operations alone.
SIM_TEST(warp_synchronous, 128) {
  const auto values = group.template shared<float, 128, Tag>();
  const int lane = group.rank() % nnk::warp_width, warp = group.rank() - lane;
  float x = args.in[group.rank()];
  for (int step = 0; step < 3; ++step) {
    values.store(group.rank(), x);
    Warp<nnk::warp_width>::shuffle_xor(0, 1);
    x = values.load(warp + (lane + 1) % nnk::warp_width);
    Warp<nnk::warp_width>::shuffle_xor(0, 1);
  }
  args.out[group.rank()] = x;
}

// ---- shared memory --------------------------------------------------------------------------

// Neighbours of 2 bytes written by two threads, next to elements of 4 bytes; no race.
SIM_TEST(mixed_elements, 64) {
  const auto floats = group.template dynamic_shared<float>(0, 64);
  floats.store(group.rank(), args.in[group.rank()]);
  group.barrier();
  const float x = floats.load(63 - group.rank());
  const auto bytes = group.template dynamic_shared<nnk::uint8>(256, 64);
  bytes.store(group.rank(), nnk::uint8(group.rank()));
  const auto halves = group.template dynamic_shared<nnk::half>(320, 64);
  halves.store(group.rank(), nnk::float_to_half(x));
  group.barrier();
  args.out[group.rank()] =
      nnk::half_to_float(halves.load(63 - group.rank())) + float(bytes.load(group.rank()));
}

// Vectors of every width that memory can move at once.
SIM_TEST(vectors, 1) {
  const auto values = group.template shared<float, 32, Tag>();
  const Line<const float, int, nnk::unit_step> in{args.in, 32, 4};
  const Line<float, int, nnk::unit_step> out{args.out, 32, 4};
  values.store_vec(0, in.template load<8>(0));
  values.store_vec(8, in.template load<4>(8));
  values.store_vec(12, in.template load<2>(12));
  values.store_vec(14, in.template load<1>(14));
  values.store_vec(15, in.template load<3>(15));
  const Vec<float, 8> part = in.template load_partial<8>(18, 6, 0.0f);
  for (int i = 0; i < 6; ++i) values.store(18 + i, part[i]);
  values.store_vec(24, in.template load_partial<8>(24, 8, 0.0f));
  out.store_streaming(0, values.template load_vec<16>(0));
  out.store(16, values.template load_vec<8>(16));
  out.store_partial(24, values.template load_vec<8>(24), 7);
  const Line<float, int> last{args.out + 31, 1, -4};
  last.store(0, Vec<float, 1>::splat(values.load(31)));
}

// ---- asynchronous copies -----------------------------------------------------------------------

// n tiles of 64 floats through two buffers: the copy of the next tile is under way while the
// present one is read, by another thread than the one that copied it.
SIM_TEST(double_buffer, 64) {
  const auto tiles = group.template shared<float, 128, Tag>();
  const int n = int(args.n), rank = group.rank();
  const float* in = args.in + group.block() * n * 64;
  if (rank < 16 && n > 0) nnk::copy_async<4>(tiles, 4 * rank, in + 4 * rank);
  nnk::copy_async_commit();
  float total = 0;
  for (int i = 0; i < n; ++i) {
    if (rank < 16 && i + 1 < n)
      nnk::copy_async<4>(tiles, (i + 1) % 2 * 64 + 4 * rank, in + (i + 1) * 64 + 4 * rank);
    nnk::copy_async_commit();
    nnk::copy_async_wait<1>();
    group.barrier();
    total += tiles.load(i % 2 * 64 + 63 - rank) * float(i + 1);
    group.barrier();
  }
  args.out[group.block() * 64 + rank] = total;
}

// ---- numbers ----------------------------------------------------------------------------------

SIM_TEST(halves_to_floats, 256) {
  const unsigned i = unsigned(group.block()) * 256u + unsigned(group.rank());
  args.out[i] = nnk::half_to_float(nnk::half{nnk::uint16(i)});
}

// n floats to float16 (low half of the result) and bfloat16 (high half).
SIM_TEST(floats_to_halves, 256) {
  for (long long i = group.block() * 256 + group.rank(); i < args.n; i += group.blocks() * 256) {
    const nnk::uint32 low = nnk::float_to_half(args.in[i]).bits;
    const nnk::uint32 high = nnk::float_to_bfloat16(args.in[i]).bits;
    reinterpret_cast<nnk::uint32*>(args.out)[i] = low | high << 16;
  }
}

SIM_TEST(mathematics, 32) {
  using V = Vec<float, 1>;
  const V x = V::splat(args.in[group.rank()]);
  const V results[] = {nnk::exp(x),   nnk::expm1(x), nnk::log(x),      nnk::log1p(x),
                       nnk::tanh(x),  nnk::erf(x),   nnk::erfc(x),     nnk::sqrt(x),
                       nnk::rsqrt(x), nnk::abs(-x),  nnk::fma(x, x, x)};
  int row = 0;
  for (const V& y : results) args.out[32 * row++ + group.rank()] = y[0];
}
