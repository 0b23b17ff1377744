// Matrix instructions and atoms in the simulator, and bugs planted around them. test_mma.py looks
// for the lines marked `at: name`.
#include "sim_test.cuh"
#include "nnk/mma_sm80.cuh"
#include "nnk/mma_gfx90a.cuh"
#include "nnk/mma_gfx1100.cuh"
#include "mma_product.cuh"

using nnk::bfloat16;
using nnk::half;
using nnk::int8;
using nnk::Shared;
using nnk::Tf32;
using nnk::uint16;
using nnk::uint32;
using nnk::uint8;

struct Tag;

// ---- one instruction -----------------------------------------------------------------------

// Of each lane: its registers of A, of B and its sums, one after another.
template <class I> struct Raw {
  using Args = TestArgs;
  struct Lane {
    nnk::Registers<I::a_registers> a;
    nnk::Registers<I::b_registers> b;
    typename I::Sum c[I::sums];
  };
  template <class G> static void run(G& group, const Args& args) {
    Lane lane;
    __builtin_memcpy(&lane, reinterpret_cast<const Lane*>(args.in) + group.rank(), sizeof(Lane));
    multiply_matrices(I(), lane.a, lane.b, lane.c);
    __builtin_memcpy(reinterpret_cast<Lane*>(args.out) + group.rank(), &lane, sizeof(Lane));
  }
};

// Row and column of every sum of every lane, then what the atom says of itself.
template <class Atom> struct Facts {
  using Args = TestArgs;
  template <class G> static void run(G& group, const Args& args) {
    int* out = reinterpret_cast<int*>(args.out);
    for (int i = 0; i < Atom::sums; ++i) {
      out[(group.rank() * Atom::sums + i) * 2] = Atom::row_of(group.rank(), i);
      out[(group.rank() * Atom::sums + i) * 2 + 1] = Atom::column_of(group.rank(), i);
    }
    const int facts[] = {Atom::m,      Atom::n,    Atom::k,        Atom::chunk,
                         Atom::chunks, Atom::sums, Atom::together, Atom::transposes};
    if (group.rank() == 0)
      __builtin_memcpy(out + 2 * Atom::sums * Atom::lanes, facts, sizeof(facts));
  }
};

#define ATOM(name, lanes, ...)                                \
  NNK_ENTRY(raw_##name, lanes, Raw<__VA_ARGS__::Instruction>) \
  NNK_ENTRY(facts_##name, lanes, Facts<__VA_ARGS__>)          \
  NNK_ENTRY(product_##name, 2 * lanes, MmaProduct<__VA_ARGS__>)

// The lanes of mma.sync and of the other sums in one place, for the planted bugs.
template <class I, class G> void multiply_ones(G& group, const TestArgs& args) {
  nnk::Registers<I::a_registers> a{};
  nnk::Registers<I::b_registers> b{};
  typename I::Sum c[I::sums] = {};
  multiply_matrices(I(), a, b, c);  // at: multiply
  args.out[group.rank()] = float(c[0]);
}

#if NNK_SIM_WARP == 32

ATOM(sm80_half, 32, nnk::MmaSm80<half>)
ATOM(sm80_bfloat16, 32, nnk::MmaSm80<bfloat16>)
ATOM(sm80_tf32, 32, nnk::MmaSm80<Tf32>)
ATOM(sm80_int8, 32, nnk::MmaSm80<int8>)
ATOM(sm80_uint8, 32, nnk::MmaSm80<uint8>)
ATOM(sm80_double, 32, nnk::MmaSm80<double>)
ATOM(gfx1100_half, 32, nnk::MmaGfx1100<half>)
ATOM(gfx1100_bfloat16, 32, nnk::MmaGfx1100<bfloat16>)
ATOM(gfx1100_int8, 32, nnk::MmaGfx1100<int8>)

// The rows of ldmatrix in a mixed order: lane l gives row 5 l mod 32 of 32 rows of 16 bytes. It
// writes as many words a lane as there are matrices.
template <int Count, bool Transposed, class T> struct LoadMatrices {
  using Args = TestArgs;
  template <class G> static void run(G& group, const Args& args) {
    constexpr int length = 16 / int(sizeof(T));
    const auto rows = group.template shared<T, 32 * length, Tag>();
    const T* in = reinterpret_cast<const T*>(args.in);
    for (int i = 0; i < length; ++i)
      rows.store(group.rank() * length + i, in[group.rank() * length + i]);
    group.barrier();
    // Lanes whose address is not asked for may give any.
    const int row = group.rank() < 8 * Count ? group.rank() * 5 % 32 : 1000;
    const auto r = nnk::load_matrices<Count, Transposed>(rows, row * length);
    __builtin_memcpy(args.out + group.rank() * Count, &r, sizeof(r));
  }
};
#define LOAD_MATRICES(count)                                           \
  NNK_ENTRY(ldmatrix_x##count, 32, LoadMatrices<count, false, uint16>) \
  NNK_ENTRY(ldmatrix_x##count##_trans, 32, LoadMatrices<count, true, uint16>)
LOAD_MATRICES(1)
LOAD_MATRICES(2)
LOAD_MATRICES(4)
NNK_ENTRY(ldmatrix_of_floats, 32, LoadMatrices<4, false, float>)
NNK_ENTRY(ldmatrix_of_bytes, 32, LoadMatrices<4, false, uint8>)

SIM_TEST(rounded_to_tf32, 32) {
  for (long long i = group.rank(); i < args.n; i += group.size())
    args.out[i] = nnk::bit_cast<float>(nnk::float_to_tf32(args.in[i]));
}

// n floats of 128, the others zeros; element by element.
SIM_TEST(zero_filled, 32) {
  const auto values = group.template shared<float, 128, Tag>();
  for (int i = 0; i < 4; ++i) values.store(4 * group.rank() + i, 1.0f);
  const int first = 4 * group.rank();
  nnk::copy_async<4>(values, first, args.in + (first < args.n ? first : 0), first < args.n);
  nnk::copy_async_commit();
  nnk::copy_async_wait<0>();
  for (int i = 0; i < 4; ++i) args.out[first + i] = values.load(first + i);
}

// ---- planted bugs -----------------------------------------------------------------------------

using Mma = nnk::MmaSync<half>;

SIM_TEST(mma_by_half_a_warp, 32) {
  if (group.rank() < 16) multiply_ones<Mma>(group, args);
}

SIM_TEST(mma_at_two_places, 32) {
  nnk::Registers<4> a{};
  nnk::Registers<2> b{};
  float c[4] = {};
  if (group.rank() % 2 == 0) multiply_matrices(Mma(), a, b, c);  // at: even lanes multiply
  else multiply_matrices(Mma(), a, b, c);                        // at: odd lanes multiply
}

SIM_TEST(mma_of_two_types, 32) {
  if (group.rank() < 31) multiply_ones<Mma>(group, args);
  else multiply_ones<nnk::MmaSync<bfloat16>>(group, args);
}

SIM_TEST(mma_in_part_of_a_warp, 48) { multiply_ones<Mma>(group, args); }

SIM_TEST(mma_against_barrier, 32) {
  nnk::Registers<4> a{};
  nnk::Registers<2> b{};
  float c[4] = {};
  if (group.rank() > 0) multiply_matrices(Mma(), a, b, c);  // at: all but one multiply
  group.barrier();                                          // at: one waits
}

SIM_TEST(ldmatrix_by_half_a_warp, 32) {
  const auto tile = group.template shared<half, 512, Tag>();
  for (int i = group.rank(); i < 512; i += 32) tile.store(i, half{0});
  group.barrier();
  if (group.rank() < 16) nnk::load_matrices<2, false>(tile, 8 * group.rank());  // at: half load
}

SIM_TEST(ldmatrix_out_of_bounds, 32) {
  const auto tile = group.template shared<half, 248, Tag>();
  nnk::load_matrices<4, false>(tile, 8 * group.rank());  // at: row out of bounds
}

SIM_TEST(ldmatrix_misaligned, 32) {
  const auto tile = group.template shared<half, 512, Tag>();
  nnk::load_matrices<4, false>(tile, 12 * group.rank());  // at: misaligned row
}

SIM_TEST(ldmatrix_before_wait, 32) {
  const auto tile = group.template shared<half, 512, Tag>();
  const half* in = reinterpret_cast<const half*>(args.in);
  for (int i = 0; i < 2; ++i) {
    nnk::copy_async<8>(tile, 256 * i + 8 * group.rank(), in + 8 * group.rank());  // at: copy
    nnk::copy_async_commit();
  }
  nnk::copy_async_wait<1>();
  group.barrier();
  nnk::load_matrices<4, false>(tile, 8 * group.rank());
  nnk::load_matrices<4, false>(tile, 256 + 8 * group.rank());  // at: load before wait
  nnk::copy_async_wait<0>();
}

// Zeros are under way as data are.
SIM_TEST(ldmatrix_before_wait_for_zeros, 32) {
  const auto tile = group.template shared<half, 256, Tag>();
  const half* in = reinterpret_cast<const half*>(args.in);
  nnk::copy_async<8>(tile, 8 * group.rank(), in, false);  // at: copy of zeros
  nnk::copy_async_commit();
  nnk::load_matrices<4, false>(tile, 8 * group.rank());  // at: load before wait for zeros
  nnk::copy_async_wait<0>();
}

SIM_TEST(ldmatrix_before_barrier, 64) {
  const auto tile = group.template shared<half, 512, Tag>();
  const half* in = reinterpret_cast<const half*>(args.in);
  nnk::copy_async<8>(tile, 8 * group.rank(), in + 8 * group.rank());  // at: copy of a warp
  nnk::copy_async_commit();
  nnk::copy_async_wait<0>();
  nnk::load_matrices<4, false>(tile, 504 - 8 * group.rank());  // at: load by another warp
}

// Rows are read by the lane that gives the address, and by no other.
SIM_TEST(store_before_barrier_after_ldmatrix, 64) {
  const auto tile = group.template shared<half, 512, Tag>();
  for (int i = group.rank(); i < 512; i += 64) tile.store(i, half{0});
  group.barrier();
  nnk::load_matrices<2, false>(tile, group.rank() < 16 ? 8 * group.rank() : 256);  // at: load
  if (group.rank() == 63) tile.store(8 * 11 + 3, half{1});  // at: store into a row
}

// RDNA3 wants the same rows in both halves of the wave.
SIM_TEST(wmma_of_two_copies, 32) {
  using I = nnk::Wmma<half>;
  nnk::Registers<8> a{}, b{};
  float c[8] = {};
  if (group.rank() == 21) b.word[3] = 1;
  multiply_matrices(I(), a, b, c);  // at: different copies
}

#else

ATOM(gfx90a_half, 64, nnk::MmaGfx90a<half>)
ATOM(gfx90a_bfloat16, 64, nnk::MmaGfx90a<bfloat16>)
ATOM(gfx90a_float, 64, nnk::MmaGfx90a<float>)
ATOM(gfx90a_double, 64, nnk::MmaGfx90a<double>)
ATOM(gfx90a_int8, 64, nnk::MmaGfx90a<int8>)
ATOM(gfx942_half, 64, nnk::MmaGfx942<half>)
ATOM(gfx942_int8, 64, nnk::MmaGfx942<int8>)

SIM_TEST(mfma_by_half_a_warp, 64) {
  if (group.rank() < 32) multiply_ones<nnk::MfmaGfx90a<half>>(group, args);
}

#endif
