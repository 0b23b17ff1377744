// Matrix products of AMD's RDNA3 (gfx1100 and its family) in waves of 32 lanes: which element of
// which lane is what, and the atom that a tiled product is made of.
#pragma once
#include "nnk/types.cuh"

namespace nnk {

// ---- the instruction ----------------------------------------------------------------------------

// The fragments of v_wmma 16 x 16 x 16: "RDNA3 Instruction Set Architecture", section "Wave
// Matrix Multiply Accumulate", and AMD's matrix instruction calculator
// (github.com/ROCm/amd_matrix_instruction_calculator). Lane l holds all terms of row l % 16 of A
// and of that column of B; so both halves of the wave hold the same, as the instruction needs.
template <class T> struct Wmma {
  using Element = T;
  using Sum = conditional<is_same<T, int8>, int32, float>;
  static constexpr const char* name = "v_wmma";
  static constexpr int lanes = 32;
  static constexpr int m = 16, n = 16, k = 16;
  static constexpr int a_registers = k * int(sizeof(T)) / 4, b_registers = a_registers;
  static constexpr int sums = 8;
  static constexpr bool flushes_subnormals = false;

  static constexpr NNK_FN int a_row(int lane, int /*e*/) { return lane % 16; }
  static constexpr NNK_FN int a_term(int /*lane*/, int e) { return e; }
  static constexpr NNK_FN int b_term(int /*lane*/, int e) { return e; }
  static constexpr NNK_FN int b_column(int lane, int /*e*/) { return lane % 16; }
  static constexpr NNK_FN int c_row(int lane, int i) { return i * 2 + lane / 16; }
  static constexpr NNK_FN int c_column(int lane, int /*i*/) { return lane % 16; }
};

// ---- the atom
// -------------------------------------------------------------------------------------

// One instruction. T: half, bfloat16, int8.
template <class T> struct MmaGfx1100 {
  using Element = T;
  using Instruction = Wmma<T>;
  using Sum = typename Instruction::Sum;
  static constexpr int lanes = 32;
  static constexpr int m = 16, n = 16, k = 16;
  static constexpr int chunk = 16 / int(sizeof(T));
  static constexpr int chunks = k / chunk;
  static constexpr int sums = 8;
  // Sums of a lane are two rows apart, or two columns with A and B exchanged. As they are, 16
  // lanes store 16 neighbours of a row.
  static constexpr int together = 1;
  static constexpr bool transposes = sizeof(T) >= 2;

  struct A { Registers<4 * chunks> registers; };
  struct B { Registers<4 * chunks> registers; };
  struct C { Sum x[sums]; };

  static constexpr NNK_FN int row_of(int lane, int i) { return Instruction::c_row(lane, i); }
  static constexpr NNK_FN int column_of(int lane, int i) { return Instruction::c_column(lane, i); }

  template <class Tile>
  static NNK_FN A load_a(const Shared<Element>& memory, const Tile& tile, int row, int first_chunk,
                         int lane, Site site = NNK_HERE) {
    return {load(memory, tile, row, first_chunk, lane, site)};
  }
  template <class Tile>
  static NNK_FN B load_b(const Shared<Element>& memory, const Tile& tile, int column,
                         int first_chunk, int lane, Site site = NNK_HERE) {
    return {load(memory, tile, column, first_chunk, lane, site)};
  }
  template <class Tile>
  static NNK_FN A load_a_transposed(const Shared<Element>& memory, const Tile& tile, int row,
                                    int term, int lane, Site site = NNK_HERE) {
    return {load_transposed(memory, tile, row, term, lane, site)};
  }
  template <class Tile>
  static NNK_FN B load_b_transposed(const Shared<Element>& memory, const Tile& tile, int column,
                                    int term, int lane, Site site = NNK_HERE) {
    return {load_transposed(memory, tile, column, term, lane, site)};
  }

  static NNK_FN void multiply(const A& a, const B& b, C& c, Site site = NNK_HERE) {
    multiply_matrices(Instruction(), a.registers, b.registers, c.x, site);
  }

 private:
  // A and B alike: a row or column of the tile.
  template <class Tile>
  static NNK_FN Registers<4 * chunks> load(const Shared<Element>& memory, const Tile& tile, int row,
                                           int first_chunk, int lane, Site site) {
    Registers<4 * chunks> registers;
    NNK_UNROLL
    for (int j = 0; j < chunks; ++j) {
      const Registers<4> r = load_chunk(memory, tile(row + lane % 16, first_chunk + j), site);
      NNK_MEMCPY(registers.word + 4 * j, &r, sizeof(r));
    }
    return registers;
  }
  // There is no transposing load: element by element, neighbouring lanes neighbouring elements.
  template <class Tile>
  static NNK_FN Registers<4 * chunks> load_transposed(const Shared<Element>& memory,
                                                      const Tile& tile, int row, int term, int lane,
                                                      Site site) {
    Element x[k];
    const int r = lane % 16;
    NNK_UNROLL
    for (int e = 0; e < k; ++e)
      x[e] = memory.load(tile(term + e, row / chunk + r / chunk) + r % chunk, site);
    Registers<4 * chunks> registers;
    NNK_MEMCPY(&registers, x, sizeof(registers));
    return registers;
  }
};

}  // namespace nnk
