// The matrix cores of NVIDIA GPUs of compute capability 8.0 and later, one function for each
// instruction. All 32 lanes of a warp call together.
#pragma once

namespace nnk {

// The nearest Tf32, ties away from zero. An instruction would cut the other bits off.
NNK_FN Tf32 float_to_tf32(float x) {
  Tf32 y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y.bits) : "f"(x));
  return y;
}

// ldmatrix: Count matrices of 8 rows of 16 bytes. Lane l gives the element index of row l % 8 of
// matrix l / 8 (lanes beyond the last matrix give none), and gets 4 bytes of each matrix: row
// l / 4, columns from 2 (l % 4) in units of 2 bytes; of its transpose if Transposed.
template <int Count, bool Transposed, class T>
NNK_FN Registers<Count> load_matrices(const Shared<T>& memory, int i, Site = NNK_HERE) {
  static_assert(Count == 1 || Count == 2 || Count == 4, "ldmatrix loads 1, 2 or 4 matrices");
  static_assert(!Transposed || sizeof(T) == 2, "ldmatrix transposes elements of 2 bytes");
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(memory.data + i));
  Registers<Count> r;
#define NNK_LDMATRIX(form, list, ...)                                     \
  asm volatile("ldmatrix.sync.aligned.m8n8." form ".shared.b16 " list ";" \
               : __VA_ARGS__                                              \
               : "r"(address)                                             \
               : "memory")
  if constexpr (Count == 1 && !Transposed) {
    NNK_LDMATRIX("x1", "{%0}, [%1]", "=r"(r.word[0]));
  } else if constexpr (Count == 1) {
    NNK_LDMATRIX("x1.trans", "{%0}, [%1]", "=r"(r.word[0]));
  } else if constexpr (Count == 2 && !Transposed) {
    NNK_LDMATRIX("x2", "{%0,%1}, [%2]", "=r"(r.word[0]), "=r"(r.word[1]));
  } else if constexpr (Count == 2) {
    NNK_LDMATRIX("x2.trans", "{%0,%1}, [%2]", "=r"(r.word[0]), "=r"(r.word[1]));
  } else if constexpr (!Transposed) {
    NNK_LDMATRIX("x4", "{%0,%1,%2,%3}, [%4]", "=r"(r.word[0]), "=r"(r.word[1]), "=r"(r.word[2]),
                 "=r"(r.word[3]));
  } else {
    NNK_LDMATRIX("x4.trans", "{%0,%1,%2,%3}, [%4]", "=r"(r.word[0]), "=r"(r.word[1]),
                 "=r"(r.word[2]), "=r"(r.word[3]));
  }
#undef NNK_LDMATRIX
  return r;
}

// mma.sync of double. Before compute capability 9.0 there is m8n8k4 alone, whose fragments are
// halves of these.
NNK_FN void multiply_doubles(const Registers<4>& a, const Registers<2>& b, double* c) {
  struct Two { double x[2]; };
  const auto x = bit_cast<Two>(a);
  const auto y = bit_cast<double>(b);
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "mma.sync.aligned.m16n8k4.row.col.f64.f64.f64.f64 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
      "{%0,%1,%2,%3};"
      : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
      : "d"(x.x[0]), "d"(x.x[1]), "d"(y));
#else
  NNK_UNROLL
  for (int h = 0; h < 2; ++h)
    asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
                 : "+d"(c[2 * h]), "+d"(c[2 * h + 1])
                 : "d"(x.x[h]), "d"(y));
#endif
}

// mma.sync: C += A B, where I (nnk/mma_sm80.cuh) says which element of which lane is what.
template <class I>
NNK_FN void multiply_matrices(I, const Registers<4>& a, const Registers<2>& b, typename I::Sum* c,
                              Site = NNK_HERE) {
  using T = typename I::Element;
  static_assert(I::m == 16 && I::n == 8 && I::k * sizeof(T) == 32, "the shapes that are here");
#define NNK_MMA(form, sum)                                                                       \
  asm volatile("mma.sync.aligned." form " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+" sum(c[0]), "+" sum(c[1]), "+" sum(c[2]), "+" sum(c[3])                      \
               : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b.word[0]), \
                 "r"(b.word[1]))
  if constexpr (is_same<T, double>) {
    multiply_doubles(a, b, c);
  } else if constexpr (is_same<T, half>) {
    NNK_MMA("m16n8k16.row.col.f32.f16.f16.f32", "f");
  } else if constexpr (is_same<T, bfloat16>) {
    NNK_MMA("m16n8k16.row.col.f32.bf16.bf16.f32", "f");
  } else if constexpr (is_same<T, Tf32>) {
    NNK_MMA("m16n8k8.row.col.f32.tf32.tf32.f32", "f");
  } else if constexpr (is_same<T, int8>) {
    NNK_MMA("m16n8k32.row.col.s32.s8.s8.s32", "r");
  } else {
    static_assert(is_same<T, uint8>, "no mma.sync of this element type is here");
    NNK_MMA("m16n8k32.row.col.s32.u8.u8.s32", "r");
  }
#undef NNK_MMA
}

}  // namespace nnk
