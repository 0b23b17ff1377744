// The simulator's matrix cores: executes the raw instructions of the GPUs from their layout
// tables (nnk/mma_sm80.cuh and its neighbours).
//
// Every lane stops with its registers, and the last one to come computes for all: the elements of
// A and B are put where the table says, and each sum of each lane is one row times one column.
#pragma once

namespace nnk {

// The nearest Tf32, ties away from zero. An instruction would cut the other bits off.
NNK_FN Tf32 float_to_tf32(float x) {
  const uint32 bits = bit_cast<uint32>(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return {bits};
  return {(bits + 0x1000u) & ~0x1fffu};
}

namespace sim {

// ---- loads from shared memory -----------------------------------------------------------------

struct MatrixRow { uint16 unit[8]; };

// Lane l gets 2 neighbours of row l / 4 of each matrix, of the transpose if Transposed.
template <int Count, bool Transposed> inline void distribute_rows(Simulation&, Fiber* lanes) {
  for (int lane = 0; lane < 32; ++lane) {
    uint16 units[2 * Count];
    for (int matrix = 0; matrix < Count; ++matrix)
      for (int i = 0; i < 2; ++i) {
        const int row = Transposed ? lane % 4 * 2 + i : lane / 4;
        const int column = Transposed ? lane / 4 : lane % 4 * 2 + i;
        const void* from = lanes[8 * matrix + row].exchange.value;
        units[2 * matrix + i] = static_cast<const MatrixRow*>(from)->unit[column];
      }
    __builtin_memcpy(lanes[lane].exchange.result, units, sizeof(units));
  }
}

// ---- products -----------------------------------------------------------------------------------

// What the cores compute with. A product of two 16-bit floats is exact in a float, and so is one
// of Tf32.
inline float matrix_value(half x) { return half_to_float(x); }
inline float matrix_value(bfloat16 x) { return bit_cast<float>(uint32(x.bits) << 16); }
inline float matrix_value(Tf32 x) { return bit_cast<float>(x.bits & ~0x1fffu); }
inline float matrix_value(float x) { return x; }
inline double matrix_value(double x) { return x; }
inline int32 matrix_value(int8 x) { return x; }
inline int32 matrix_value(uint8 x) { return x; }

template <class T, class V> inline V multiply_add(V a, V b, V c) {
  if constexpr (is_same<T, float>) return __builtin_fmaf(a, b, c);
  else if constexpr (is_same<T, double>) return __builtin_fma(a, b, c);
  else if constexpr (sizeof(T) == 1) return int32(uint32(a) * uint32(b) + uint32(c));  // wraps
  else return c + a * b;  // the product is exact
}

inline float flush_subnormal(float x, float smallest) {
  return x < smallest && x > -smallest ? 0.0f : x;
}

// A or B as its lanes hold it. An element that several lanes hold must be the same in all.
template <class T, int Size> struct MatrixOperand {
  using Value = decltype(matrix_value(T()));
  Value value[Size];
  int owner[Size];

  MatrixOperand() {
    for (int& lane : owner) lane = -1;
  }
  void put(Simulation& s, const Fiber& fiber, int lane, const void* registers, int e, int place) {
    T x;
    __builtin_memcpy(&x, static_cast<const char*>(registers) + e * int(sizeof(T)), sizeof(T));
    const Value v = matrix_value(x);
    if (owner[place] >= 0 && __builtin_memcmp(&v, &value[place], sizeof(v)) != 0)
      NNK_SIM_FAIL(s, fiber.site, "%s: lanes %d and %d hold different copies of one element",
                   fiber.exchange.name, owner[place], lane);
    owner[place] = lane;
    value[place] = v;
  }
};

struct MatrixRegisters {
  const void* a;
  const void* b;
};

template <class I> inline void multiply_together(Simulation& s, Fiber* lanes) {
  using T = typename I::Element;
  constexpr int a_elements = I::a_registers * 4 / int(sizeof(T));
  constexpr int b_elements = I::b_registers * 4 / int(sizeof(T));
  MatrixOperand<T, I::m * I::k> a;  // row after row
  MatrixOperand<T, I::n * I::k> b;  // column after column
  for (int lane = 0; lane < I::lanes; ++lane) {
    const auto* registers = static_cast<const MatrixRegisters*>(lanes[lane].exchange.value);
    for (int e = 0; e < a_elements; ++e)
      a.put(s, lanes[lane], lane, registers->a, e, I::a_row(lane, e) * I::k + I::a_term(lane, e));
    for (int e = 0; e < b_elements; ++e)
      b.put(s, lanes[lane], lane, registers->b, e,
            I::b_column(lane, e) * I::k + I::b_term(lane, e));
  }
  if constexpr (I::flushes_subnormals) {
    const float smallest = is_same<T, half> ? 6.103515625e-05f : 1.17549435e-38f;
    for (auto& x : a.value) x = flush_subnormal(x, smallest);
    for (auto& x : b.value) x = flush_subnormal(x, smallest);
  }
  for (int lane = 0; lane < I::lanes; ++lane) {
    auto* c = static_cast<typename I::Sum*>(lanes[lane].exchange.result);
    for (int i = 0; i < I::sums; ++i) {
      const auto* row = a.value + I::c_row(lane, i) * I::k;
      const auto* column = b.value + I::c_column(lane, i) * I::k;
      // The manuals leave the order of the additions open; this is one that they allow.
      for (int k = 0; k < I::k; ++k) c[i] = multiply_add<T>(row[k], column[k], c[i]);
      if constexpr (I::flushes_subnormals) c[i] = flush_subnormal(c[i], 1.17549435e-38f);
    }
  }
}

}  // namespace sim

// ldmatrix: Count matrices of 8 rows of 16 bytes. Lane l gives the element index of row l % 8 of
// matrix l / 8 (lanes beyond the last matrix give none), and gets 4 bytes of each matrix: row
// l / 4, columns from 2 (l % 4) in units of 2 bytes; of its transpose if Transposed.
template <int Count, bool Transposed, class T>
NNK_FN Registers<Count> load_matrices(const Shared<T>& memory, int i, Site site = NNK_HERE) {
  static_assert(Count == 1 || Count == 2 || Count == 4, "ldmatrix loads 1, 2 or 4 matrices");
  static_assert(!Transposed || sizeof(T) == 2, "ldmatrix transposes elements of 2 bytes");
  static_assert(Count > 0 && warp_width == 32, "a warp of NVIDIA GPUs has 32 lanes");
  const int lane = sim::current->running->rank % warp_width;
  sim::MatrixRow row{};
  if (lane < 8 * Count)  // the lane that gives the address stands for the reader
    __builtin_memcpy(
        &row, sim::touch_array(memory.array, i, 16 / int(sizeof(T)), 16, sim::Touch::read, site),
        sizeof(row));
  Registers<Count> result;
  sim::exchange_lanes({Transposed ? "ldmatrix.trans" : "ldmatrix", &row, &result, 0,
                       int(sizeof(result)), warp_width, sim::distribute_rows<Count, Transposed>},
                      site);
  return result;
}

// 16 bytes of shared memory in registers.
template <class T>
NNK_FN Registers<4> load_chunk(const Shared<T>& memory, int i, Site site = NNK_HERE) {
  Registers<4> r;
  __builtin_memcpy(
      &r, sim::touch_array(memory.array, i, 16 / int(sizeof(T)), 16, sim::Touch::read, site),
      sizeof(r));
  return r;
}

// One matrix instruction: C += A B, where I says which element of which lane is what.
template <class I>
NNK_FN void multiply_matrices(I, const Registers<I::a_registers>& a,
                              const Registers<I::b_registers>& b, typename I::Sum* c,
                              Site site = NNK_HERE) {
  static_assert(I::lanes == warp_width, "the instruction is of another warp width");
  const sim::MatrixRegisters operands{&a, &b};
  sim::exchange_lanes({I::name, &operands, c, 0, int(sizeof(typename I::Sum)) * I::sums, warp_width,
                       sim::multiply_together<I>},
                      site);
}

}  // namespace nnk
