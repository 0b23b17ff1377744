// The matrix cores of AMD GPUs: MFMA of CDNA (gfx90a, gfx942) and WMMA of RDNA3 (gfx11), one
// function each. All lanes of a warp call together.
#pragma once

namespace nnk {

// The compiler's vectors, as its built-in functions take them.
template <class T, int N> struct NativeVector {
  typedef T type __attribute__((ext_vector_type(N)));
};
template <class T> struct NativeVector<T, 1> { using type = T; };

// The first elements of an array as a vector, and back.
template <class V, class T> NNK_FN V as_vector(const T* x) {
  V v;
  __builtin_memcpy(&v, x, sizeof(v));
  return v;
}

// 16 bytes of shared memory in registers. Not by way of a Vec: Clang 19 takes one of 2-byte
// elements apart and puts the words together again, with loads of 4 bytes and moves between them.
template <class T> NNK_FN Registers<4> load_chunk(const Shared<T>& memory, int i, Site = NNK_HERE) {
  typedef uint32 Words __attribute__((ext_vector_type(4), may_alias));
  Words words = *reinterpret_cast<const Words*>(memory.data + i);
  // Both halves of it are operands of the int8 instruction of gfx942; the compiler would load the
  // second one again.
  if constexpr (is_same<T, int8>) asm("" : "+v"(words));
  return bit_cast<Registers<4>>(words);
}

#if defined(__GFX9__)

// MFMA: C += A B, where I (nnk/mma_gfx90a.cuh) says which element of which lane is what.
template <class I>
NNK_FN void multiply_matrices(I, const Registers<I::a_registers>& a,
                              const Registers<I::b_registers>& b, typename I::Sum* c,
                              Site = NNK_HERE) {
  using T = typename I::Element;
  using Sums = typename NativeVector<typename I::Sum, I::sums>::type;
  Sums d = as_vector<Sums>(c);
  // The last three operands broadcast and permute blocks: not used.
#define NNK_MFMA(function, ...)                                        \
  d = __builtin_amdgcn_mfma_##function(as_vector<__VA_ARGS__>(a.word), \
                                       as_vector<__VA_ARGS__>(b.word), d, 0, 0, 0)
  if constexpr (is_same<T, half>) {
    static_assert(I::m == 32 && I::n == 32 && I::k == 8, "the shape that is here");
    NNK_MFMA(f32_32x32x8f16, typename NativeVector<_Float16, 4>::type);
  } else if constexpr (is_same<T, bfloat16>) {
    static_assert(I::m == 32 && I::n == 32 && I::k == 8, "the shape that is here");
    NNK_MFMA(f32_32x32x8bf16_1k, typename NativeVector<short, 4>::type);
  } else if constexpr (is_same<T, float>) {
    static_assert(I::m == 32 && I::n == 32 && I::k == 2, "the shape that is here");
    NNK_MFMA(f32_32x32x2f32, float);
  } else if constexpr (is_same<T, double>) {
    static_assert(I::m == 16 && I::n == 16 && I::k == 4, "the shape that is here");
    NNK_MFMA(f64_16x16x4f64, double);
  } else {
    static_assert(is_same<T, int8>, "no MFMA of this element type is here");
#if defined(__gfx90a__) || defined(__gfx908__)
    static_assert(I::m == 32 && I::n == 32 && I::k == 8, "the shape that is here");
    NNK_MFMA(i32_32x32x8i8, int);
#else
    static_assert(I::m == 32 && I::n == 32 && I::k == 16, "the shape that is here");
    NNK_MFMA(i32_32x32x16_i8, long);
#endif
  }
#undef NNK_MFMA
  __builtin_memcpy(c, &d, sizeof(d));
}

#elif defined(__GFX11__)

// WMMA: C += A B, where I (nnk/mma_gfx1100.cuh) says which element of which lane is what.
template <class I>
NNK_FN void multiply_matrices(I, const Registers<I::a_registers>& a,
                              const Registers<I::b_registers>& b, typename I::Sum* c,
                              Site = NNK_HERE) {
  using T = typename I::Element;
  static_assert(I::m == 16 && I::n == 16 && I::k == 16, "the shape that is here");
  using Sums = typename NativeVector<typename I::Sum, I::sums>::type;
  Sums d = as_vector<Sums>(c);
  if constexpr (is_same<T, half>) {
    using Operand = typename NativeVector<_Float16, 16>::type;
    d = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(as_vector<Operand>(a.word),
                                                   as_vector<Operand>(b.word), d);
  } else if constexpr (is_same<T, bfloat16>) {
    using Operand = typename NativeVector<short, 16>::type;
    d = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(as_vector<Operand>(a.word),
                                                    as_vector<Operand>(b.word), d);
  } else {
    static_assert(is_same<T, int8>, "no WMMA of this element type is here");
    using Operand = typename NativeVector<int, 4>::type;
    // Both signed; sums wrap.
    d = __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32(true, as_vector<Operand>(a.word), true,
                                                   as_vector<Operand>(b.word), d, false);
  }
  __builtin_memcpy(c, &d, sizeof(d));
}

#endif

}  // namespace nnk
