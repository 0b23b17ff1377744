// Matrix products of AMD's matrix cores in CDNA2 and CDNA3 (gfx90a, gfx942): which element of
// which lane is what, and the atoms that a tiled product is made of.
#pragma once
#include "nnk/types.cuh"

namespace nnk {

// ---- the instruction ----------------------------------------------------------------------------

// The fragments of v_mfma with one block, 32 x 32 sums or 16 x 16 of double: "AMD Instinct MI200
// Instruction Set Architecture", chapter "Matrix Arithmetic Instructions", and AMD's matrix
// instruction calculator (github.com/ROCm/amd_matrix_instruction_calculator). A lane holds `Terms`
// consecutive terms of one row of A and of one column of B.
template <class T, int Terms, bool Flushes> struct Mfma {
  using Element = T;
  using Sum = conditional<is_same<T, int8>, int32, conditional<is_same<T, double>, double, float>>;
  static constexpr const char* name = "v_mfma";
  static constexpr int lanes = 64;
  static constexpr int m = is_same<T, double> ? 16 : 32, n = m, k = lanes / m * Terms;
  static constexpr int a_registers = Terms * int(sizeof(T)) / 4, b_registers = a_registers;
  static constexpr int sums = m * n / lanes;
  static constexpr bool flushes_subnormals = Flushes;

  static constexpr NNK_FN int a_row(int lane, int /*e*/) { return lane % m; }
  static constexpr NNK_FN int a_term(int lane, int e) { return lane / m * Terms + e; }
  static constexpr NNK_FN int b_term(int lane, int e) { return lane / n * Terms + e; }
  static constexpr NNK_FN int b_column(int lane, int /*e*/) { return lane % n; }
  static constexpr NNK_FN int c_row(int lane, int i) {
    return m == 32 ? i / 4 * 8 + lane / 32 * 4 + i % 4 : i * 4 + lane / 16;
  }
  static constexpr NNK_FN int c_column(int lane, int /*i*/) { return lane % n; }
};

template <class T> constexpr int mfma_terms = sizeof(T) <= 2 ? 4 : 1;
// v_mfma_f32_32x32x8f16, f32_32x32x8bf16_1k, i32_32x32x8i8, f32_32x32x2f32, f64_16x16x4f64. With
// 2-byte types gfx90a takes subnormal inputs and results for zeros (ROCm documentation, "MI200
// MFMA behavior specifics").
template <class T> using MfmaGfx90a = Mfma<T, mfma_terms<T>, sizeof(T) == 2>;
// The same without that, and i32_32x32x16_i8.
template <class T> using MfmaGfx942 = Mfma<T, is_same<T, int8> ? 8 : mfma_terms<T>, false>;

// ---- the atom
// -------------------------------------------------------------------------------------

// 32 x 32 sums (16 x 16 of double). A lane reads one chunk of 16 bytes of its row of A and its
// column of B and feeds it to as many instructions as it holds operands for. So an instruction
// does not multiply the terms that its table numbers, but A and B are permuted alike, and the sum
// does not see that.
//
// Consecutive sums of a lane lie in one column of the instruction. With A and B exchanged they
// lie in one row, and can be stored together; those of double do not.
template <class I> struct MfmaAtom {
  using Element = typename I::Element;
  using Instruction = I;
  using Sum = typename I::Sum;
  static constexpr int lanes = 64;
  static constexpr int chunk = 16 / int(sizeof(Element));
  static constexpr int chunks = lanes / I::m;
  static constexpr int m = I::m, n = I::n, k = chunks * chunk;
  static constexpr int sums = I::sums;
  static constexpr bool exchanged = m == 32;
  static constexpr int together = exchanged ? 4 : 1;
  static constexpr bool transposes = sizeof(Element) >= 2;

  struct A { Registers<4> registers; };
  struct B { Registers<4> registers; };
  struct C { Sum x[sums]; };

  static constexpr NNK_FN int row_of(int lane, int i) {
    return exchanged ? I::c_column(lane, i) : I::c_row(lane, i);
  }
  static constexpr NNK_FN int column_of(int lane, int i) {
    return exchanged ? I::c_row(lane, i) : I::c_column(lane, i);
  }

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
    NNK_UNROLL
    for (int first = 0; first < 4; first += I::a_registers) {
      const auto x = part(a.registers, first), y = part(b.registers, first);
      if constexpr (exchanged) multiply_matrices(I(), y, x, c.x, site);
      else multiply_matrices(I(), x, y, c.x, site);
    }
  }

 private:
  // A and B alike: a row or column of the tile.
  template <class Tile>
  static NNK_FN Registers<4> load(const Shared<Element>& memory, const Tile& tile, int row,
                                  int first_chunk, int lane, Site site) {
    return load_chunk(memory, tile(row + lane % m, first_chunk + lane / m), site);
  }
  // There is no transposing load: element by element, neighbouring lanes neighbouring elements.
  template <class Tile>
  static NNK_FN Registers<4> load_transposed(const Shared<Element>& memory, const Tile& tile,
                                             int row, int term, int lane, Site site) {
    Element x[chunk];
    const int r = lane % m;
    NNK_UNROLL
    for (int e = 0; e < chunk; ++e)
      x[e] =
          memory.load(tile(term + lane / m * chunk + e, row / chunk + r / chunk) + r % chunk, site);
    Registers<4> registers;
    NNK_MEMCPY(&registers, x, sizeof(registers));
    return registers;
  }
  static NNK_FN Registers<I::a_registers> part(const Registers<4>& registers, int first) {
    Registers<I::a_registers> r;
    NNK_MEMCPY(&r, registers.word + first, sizeof(r));
    return r;
  }
};

// T: half, bfloat16, int8, float, double.
template <class T> struct MmaGfx90a : MfmaAtom<MfmaGfx90a<T>> {};
template <class T> struct MmaGfx942 : MfmaAtom<MfmaGfx942<T>> {};

}  // namespace nnk
