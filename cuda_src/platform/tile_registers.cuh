// Tile registers: eight of 16 rows of 64 bytes, and the instruction that multiplies two of them.
//
// AMX of x86 (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1 chapter 18):
// C (16 x 16 sums of 32 bits) += A (16 rows of 16 words) B (16 rows of 16 words), where a word
// holds 2 bfloat16 or 4 int8 that follow each other in a sum, of a row of A and of a column of B.
// Without it, the same by loops, for tests and old compilers. The operating system must have
// allowed the process to use the registers: see nnkernels/launch/cpu.py.
#pragma once
#include "platform/simd_register.cuh"

namespace nnk {

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__)
#define NNK_TILES 1
#else
#define NNK_TILES 0
#endif

struct TileRegisters {
  static constexpr int side = 16;
  static constexpr int row_bytes = 64;

  // Brings a line to the nearest cache; any address will do.
  static NNK_FN void fetch(const void* p) { __builtin_prefetch(p, 0, 3); }

#if NNK_TILES

  // As LDTILECFG reads it: palette 1, all tiles of full size.
  struct alignas(64) Shapes {
    uint8 palette = 1, start_row = 0, unused[14] = {};
    uint16 row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8 rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  // Before the first use of a tile on a thread, and after the last: registers in use make every
  // switch of threads slower.
  static NNK_FN void begin() {
    const Shapes shapes;
    asm volatile("ldtilecfg %0" ::"m"(shapes) : "memory");
  }
  static NNK_FN void end() { asm volatile("tilerelease" ::: "memory"); }

  template <int I> struct Tile {
    static NNK_FN void zero() { asm volatile("tilezero %%tmm%c0" ::"i"(I)); }
    // Rows `stride` bytes apart.
    static NNK_FN void load(const void* p, int64 stride) {
      asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(I) : "memory");
    }
    static NNK_FN void store(void* p, int64 stride) {
      asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(I) : "memory");
    }
  };
  template <class TA, class TB, int C, int A, int B> static NNK_FN void multiply() {
#define NNK_TILE_MULTIPLY(name) \
  asm volatile(name " %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B))
    if constexpr (is_same<TA, bfloat16>) NNK_TILE_MULTIPLY("tdpbf16ps");
    else if constexpr (is_same<TA, int8> && is_same<TB, int8>) NNK_TILE_MULTIPLY("tdpbssd");
    else if constexpr (is_same<TA, int8>) NNK_TILE_MULTIPLY("tdpbsud");
    else if constexpr (is_same<TB, int8>) NNK_TILE_MULTIPLY("tdpbusd");
    else NNK_TILE_MULTIPLY("tdpbuud");
#undef NNK_TILE_MULTIPLY
  }

#else

  // Not inlined, since only compile time counts.
  static NNK_FN void begin() {}
  static NNK_FN void end() {}
  static inline thread_local uint32 memory[8][side][side];

  template <int I> struct Tile {
    static NNK_FN void zero() { __builtin_memset(memory[I], 0, sizeof(memory[I])); }
    static NNK_APART void load(const void* p, int64 stride) {
      for (int r = 0; r < side; ++r)
        __builtin_memcpy(memory[I][r], static_cast<const char*>(p) + r * stride, row_bytes);
    }
    static NNK_APART void store(void* p, int64 stride) {
      for (int r = 0; r < side; ++r)
        __builtin_memcpy(static_cast<char*>(p) + r * stride, memory[I][r], row_bytes);
    }
  };
  // Term t of a word, as the sums have it.
  template <class T> static NNK_FN auto term_of(uint32 word, int t) {
    if constexpr (is_same<T, bfloat16>)
      return bit_cast<float>((t == 0 ? word << 16 : word >> 16 << 16));
    else return uint32(int32(T(word >> (8 * t))));
  }
  template <class TA, class TB, int C, int A, int B> static NNK_APART void multiply() {
    using S = decltype(term_of<TA>(0, 0));
    constexpr int terms = int(4 / sizeof(TA));
    for (int i = 0; i < side; ++i) {
      for (int j = 0; j < side; ++j) {
        S sum[terms] = {};
        for (int k = 0; k < side; ++k)
          for (int t = 0; t < terms; ++t)
            sum[t] += term_of<TA>(memory[A][i][k], t) * term_of<TB>(memory[B][k][j], t);
        S all = sum[0];
        for (int t = 1; t < terms; ++t) all += sum[t];
        uint32& c = memory[C][i][j];
        c = bit_cast<uint32>(S(bit_cast<S>(c) + all));
      }
    }
  }

#endif
};

}  // namespace nnk
