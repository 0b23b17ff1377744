// Matrix products of NVIDIA's matrix cores (compute capability 8.0 and later): which element of
// which lane is what, and the atom that a tiled product is made of.
#pragma once
#include "nnk/types.cuh"

namespace nnk {

// ---- the instruction ----------------------------------------------------------------------------

// The fragments of mma.sync m16n8k(32 / size of T): PTX ISA, "Matrix Fragments for mma.m16n8k16
// with floating point type" and its neighbours for the other types, which are all this one in units
// of 4-byte registers; m16n8k4 of double is a half of it in units of 8-byte registers. Elements
// count through the registers of a lane.
template <class T> struct MmaSync {
  using Element = T;
  using Sum = conditional<sizeof(T) == 1, int32, conditional<sizeof(T) == 8, double, float>>;
  static constexpr const char* name = "mma.sync";
  static constexpr int lanes = 32;
  static constexpr int m = 16, n = 8, k = 32 / int(sizeof(T));
  static constexpr int a_registers = 4, b_registers = 2, sums = 4;
  static constexpr bool flushes_subnormals = false;

  static constexpr NNK_FN int a_row(int lane, int e) { return lane / 4 + e / packed % 2 * 8; }
  static constexpr NNK_FN int a_term(int lane, int e) {
    return e / (2 * packed) * (4 * packed) + lane % 4 * packed + e % packed;
  }
  static constexpr NNK_FN int b_term(int lane, int e) {
    return e / packed * (4 * packed) + lane % 4 * packed + e % packed;
  }
  static constexpr NNK_FN int b_column(int lane, int /*e*/) { return lane / 4; }
  static constexpr NNK_FN int c_row(int lane, int i) { return lane / 4 + i / 2 * 8; }
  static constexpr NNK_FN int c_column(int lane, int i) { return lane % 4 * 2 + i % 2; }

 private:
  static constexpr int packed = sizeof(T) == 8 ? 1 : 4 / int(sizeof(T));  // elements of a register
};

// On the machines that have them: ldmatrix and the conversion (platform/cuda_mma.cuh).
template <int Count, bool Transposed, class T>
NNK_FN Registers<Count> load_matrices(const Shared<T>& memory, int i, Site site);
NNK_FN Tf32 float_to_tf32(float x);

// ---- the atom -----------------------------------------------------------------------------------

// 16 x 16 sums of two chunks of 16 bytes: two instructions for the two halves of the columns, of
// which one ldmatrix brings A and one B. T: half, bfloat16, Tf32 (of float data), int8, uint8.
template <class T> struct MmaSm80 {
  using Element = conditional<is_same<T, Tf32>, float, T>;  // in shared memory
  using Instruction = MmaSync<T>;
  using Sum = typename Instruction::Sum;
  static constexpr int lanes = 32;
  static constexpr int m = 16, n = 16, k = Instruction::k;
  static constexpr int chunk = 16 / int(sizeof(T));
  static constexpr int chunks = 2;
  static constexpr int sums = 8;
  static constexpr int together = 2;
  static constexpr bool transposes = sizeof(T) >= 2;

  struct A { Registers<4> registers; };
  struct B { Registers<2> half[2]; };  // columns 0 to 7 and 8 to 15
  struct C { Sum x[sums]; };

  static constexpr NNK_FN int row_of(int lane, int i) { return Instruction::c_row(lane, i % 4); }
  static constexpr NNK_FN int column_of(int lane, int i) {
    return i / 4 * 8 + Instruction::c_column(lane, i % 4);
  }

  template <class Tile>
  static NNK_FN A load_a(const Shared<Element>& memory, const Tile& tile, int row, int first_chunk,
                         int lane, Site site = NNK_HERE) {
    // Matrices: rows 0 to 7 and 8 to 15 of the first chunk, then of the second.
    const int i = tile(row + lane % 16, first_chunk + lane / 16);
    return {rounded(load_matrices<4, false>(memory, i, site))};
  }
  template <class Tile>
  static NNK_FN B load_b(const Shared<Element>& memory, const Tile& tile, int column,
                         int first_chunk, int lane, Site site = NNK_HERE) {
    // Matrices: both chunks of columns 0 to 7, then of 8 to 15.
    const int i = tile(column + lane / 16 * 8 + lane % 8, first_chunk + lane / 8 % 2);
    return halves(rounded(load_matrices<4, false>(memory, i, site)));
  }
  template <class Tile>
  static NNK_FN A load_a_transposed(const Shared<Element>& memory, const Tile& tile, int row,
                                    int term, int lane, Site site = NNK_HERE) {
    if constexpr (sizeof(T) == 2) {
      const int i = tile(term + lane / 16 * 8 + lane % 8, row / chunk + lane / 8 % 2);
      return {load_matrices<4, true>(memory, i, site)};
    } else {
      return {load_elements(
          memory, tile, row, term, [=](int e) { return Instruction::a_row(lane, e); },
          [=](int e) { return Instruction::a_term(lane, e); }, site)};
    }
  }
  template <class Tile>
  static NNK_FN B load_b_transposed(const Shared<Element>& memory, const Tile& tile, int column,
                                    int term, int lane, Site site = NNK_HERE) {
    if constexpr (sizeof(T) == 2) {
      const int i = tile(term + lane % 16, column / chunk + lane / 16);
      return halves(load_matrices<4, true>(memory, i, site));
    } else {
      return halves(load_elements(
          memory, tile, column, term,
          [=](int e) { return e / 2 * 8 + Instruction::b_column(lane, e % 2); },
          [=](int e) { return Instruction::b_term(lane, e % 2); }, site));
    }
  }

  static NNK_FN void multiply(const A& a, const B& b, C& c, Site site = NNK_HERE) {
    NNK_UNROLL
    for (int h = 0; h < 2; ++h)
      multiply_matrices(Instruction(), a.registers, b.half[h], c.x + 4 * h, site);
  }

 private:
  static NNK_FN B halves(const Registers<4>& r) {
    return {{{{r.word[0], r.word[1]}}, {{r.word[2], r.word[3]}}}};
  }
  // ldmatrix transposes elements of 2 bytes alone; floats are read one by one, 8 rows of 4 terms at
  // once. There is no bank conflict if chunks of neighbouring terms are XORed with multiples of 2.
  template <class Tile, class Row, class Term>
  static NNK_FN Registers<4> load_elements(const Shared<Element>& memory, const Tile& tile, int row,
                                           int term, const Row& row_at, const Term& term_at,
                                           Site site) {
    Registers<4> r;
    NNK_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int i = row + row_at(e);
      const Element x = memory.load(tile(term + term_at(e), i / chunk) + i % chunk, site);
      r.word[e] = bit_cast<uint32>(x);
    }
    return rounded(r);
  }
  static NNK_FN Registers<4> rounded(Registers<4> r) {
    if constexpr (is_same<T, Tf32>) {
      NNK_UNROLL
      for (int i = 0; i < 4; ++i) r.word[i] = float_to_tf32(bit_cast<float>(r.word[i])).bits;
    }
    return r;
  }
};

// The same of double, whose elements are read one by one, 8 rows of 4 terms at once. There is no
// bank conflict if 4 lines that follow each other, read at 2 chunks in a row, have none.
template <class T> struct MmaSm80Wide {
  using Element = T;
  using Instruction = MmaSync<T>;
  using Sum = T;
  static constexpr int lanes = 32;
  static constexpr int m = 16, n = 16, k = Instruction::k;
  static constexpr int chunk = 2, chunks = 2;
  static constexpr int sums = 8;
  static constexpr int together = 2;
  static constexpr bool transposes = true;

  struct A { Registers<4> registers; };
  struct B { Registers<2> half[2]; };  // columns 0 to 7 and 8 to 15
  struct C { T x[sums]; };

  static constexpr NNK_FN int row_of(int lane, int i) { return Instruction::c_row(lane, i % 4); }
  static constexpr NNK_FN int column_of(int lane, int i) {
    return i / 4 * 8 + Instruction::c_column(lane, i % 4);
  }

  template <class Tile>
  static NNK_FN A load_a(const Shared<T>& memory, const Tile& tile, int row, int first_chunk,
                         int lane, Site site = NNK_HERE) {
    return {both(upright(memory, tile, row, first_chunk, lane, site),
                 upright(memory, tile, row + 8, first_chunk, lane, site))};
  }
  template <class Tile>
  static NNK_FN B load_b(const Shared<T>& memory, const Tile& tile, int column, int first_chunk,
                         int lane, Site site = NNK_HERE) {
    return {{upright(memory, tile, column, first_chunk, lane, site),
             upright(memory, tile, column + 8, first_chunk, lane, site)}};
  }
  template <class Tile>
  static NNK_FN A load_a_transposed(const Shared<T>& memory, const Tile& tile, int row, int term,
                                    int lane, Site site = NNK_HERE) {
    return {both(turned(memory, tile, row, term, lane, site),
                 turned(memory, tile, row + 8, term, lane, site))};
  }
  template <class Tile>
  static NNK_FN B load_b_transposed(const Shared<T>& memory, const Tile& tile, int column, int term,
                                    int lane, Site site = NNK_HERE) {
    return {{turned(memory, tile, column, term, lane, site),
             turned(memory, tile, column + 8, term, lane, site)}};
  }

  static NNK_FN void multiply(const A& a, const B& b, C& c, Site site = NNK_HERE) {
    NNK_UNROLL
    for (int h = 0; h < 2; ++h)
      multiply_matrices(Instruction(), a.registers, b.half[h], c.x + 4 * h, site);
  }

 private:
  // Term lane % 4 of row lane / 4 of eight.
  template <class Tile>
  static NNK_FN Registers<2> upright(const Shared<T>& memory, const Tile& tile, int row,
                                     int first_chunk, int lane, Site site) {
    const int i = tile(row + lane / 4, first_chunk + lane % 4 / chunk) + lane % chunk;
    return bit_cast<Registers<2>>(memory.load(i, site));
  }
  template <class Tile>
  static NNK_FN Registers<2> turned(const Shared<T>& memory, const Tile& tile, int row, int term,
                                    int lane, Site site) {
    const int r = row + lane / 4;
    const int i = tile(term + lane % 4, r / chunk) + r % chunk;
    return bit_cast<Registers<2>>(memory.load(i, site));
  }
  static NNK_FN Registers<4> both(const Registers<2>& upper, const Registers<2>& lower) {
    return {{upper.word[0], upper.word[1], lower.word[0], lower.word[1]}};
  }
};
template <> struct MmaSm80<double> : MmaSm80Wide<double> {};

}  // namespace nnk
