// x86 instructions that the vector extensions cannot express, one function each.
//
// Inline assembler, because <immintrin.h> adds 0.5 s (g++ 12) to the compilation of every
// kernel and the compilers' own __builtin_ia32 names differ and change. The statements are
// pure functions of their operands, so the compiler still moves, merges and drops them.
// Where an instruction set is absent, the callers take portable code.
#pragma once
#include "platform/simd_register.cuh"

namespace nnk {

namespace x86 {

// A memory operand of Bytes bytes at any address, of any type.
template <int Bytes> struct __attribute__((packed, may_alias)) Memory { char bytes[Bytes]; };
template <class R> NNK_FN auto& memory_at(void* p) {
  static_assert(sizeof(Memory<sizeof(R)>) == sizeof(R),
                "completes the type, as Clang's operands need");
  return *static_cast<Memory<sizeof(R)>*>(p);
}
template <class R> NNK_FN const auto& memory_at(const void* p) {
  return memory_at<R>(const_cast<void*>(p));
}

#if NNK_AVX512

// An integer for the mask register of `lanes` lanes.
template <int Lanes>
using LaneBits = conditional<(Lanes <= 16), uint16, conditional<(Lanes <= 32), uint32, uint64>>;

// Lanes whose bit is set come from memory, the others from `otherwise`; memory under a bit
// that is not set is not touched.
template <int ElementBytes, class R>
NNK_FN R masked_load(const void* p, LaneBits<sizeof(R) / ElementBytes> bits, R otherwise) {
  const auto& m = memory_at<R>(p);
  if constexpr (ElementBytes == 1)
    asm("vmovdqu8 %2, %0%{%1%}" : "+v"(otherwise) : "Yk"(bits), "m"(m));
  else if constexpr (ElementBytes == 2)
    asm("vmovdqu16 %2, %0%{%1%}" : "+v"(otherwise) : "Yk"(bits), "m"(m));
  else if constexpr (ElementBytes == 4)
    asm("vmovups %2, %0%{%1%}" : "+v"(otherwise) : "Yk"(bits), "m"(m));
  else asm("vmovupd %2, %0%{%1%}" : "+v"(otherwise) : "Yk"(bits), "m"(m));
  return otherwise;
}
template <int ElementBytes, class R>
NNK_FN void masked_store(void* p, LaneBits<sizeof(R) / ElementBytes> bits, R x) {
  auto& m = memory_at<R>(p);
  if constexpr (ElementBytes == 1) asm("vmovdqu8 %2, %0%{%1%}" : "+m"(m) : "Yk"(bits), "v"(x));
  else if constexpr (ElementBytes == 2)
    asm("vmovdqu16 %2, %0%{%1%}" : "+m"(m) : "Yk"(bits), "v"(x));
  else if constexpr (ElementBytes == 4) asm("vmovups %2, %0%{%1%}" : "+m"(m) : "Yk"(bits), "v"(x));
  else asm("vmovupd %2, %0%{%1%}" : "+m"(m) : "Yk"(bits), "v"(x));
}

// Lanes of x whose bit is set, else those of `otherwise`.
template <int ElementBytes, class R>
NNK_FN R masked_move(R x, LaneBits<sizeof(R) / ElementBytes> bits, R otherwise) {
  if constexpr (ElementBytes == 1)
    asm("vmovdqu8 %2, %0%{%1%}" : "+v"(otherwise) : "Yk"(bits), "v"(x));
  else if constexpr (ElementBytes == 2)
    asm("vmovdqu16 %2, %0%{%1%}" : "+v"(otherwise) : "Yk"(bits), "v"(x));
  else if constexpr (ElementBytes == 4)
    asm("vmovaps %2, %0%{%1%}" : "+v"(otherwise) : "Yk"(bits), "v"(x));
  else asm("vmovapd %2, %0%{%1%}" : "+v"(otherwise) : "Yk"(bits), "v"(x));
  return otherwise;
}

// Lane i from the address p + offset[i] bytes, where its bit is set. The instruction clears
// the mask register as it goes.
template <class R, class Offsets>
NNK_FN R gather32(const void* p, Offsets offset, uint16 bits, R otherwise) {
  asm("vgatherdps (%2,%3), %0%{%1%}"
      : "+&v"(otherwise), "+&Yk"(bits)
      : "r"(p), "v"(offset)
      : "memory");
  return otherwise;
}
template <class R, class Offsets>
NNK_FN R gather64(const void* p, Offsets offset, uint16 bits, R otherwise) {
  asm("vgatherqpd (%2,%3), %0%{%1%}"
      : "+&v"(otherwise), "+&Yk"(bits)
      : "r"(p), "v"(offset)
      : "memory");
  return otherwise;
}

// x * 2^n for whole n, rounded once; n may be any size.
template <class T, class R> NNK_FN R scale(R x, R n) {
  R r;
  if constexpr (sizeof(R) == 4) asm("vscalefss %2, %1, %0" : "=v"(r) : "v"(x), "v"(n));
  else if constexpr (sizeof(R) == 8) asm("vscalefsd %2, %1, %0" : "=v"(r) : "v"(x), "v"(n));
  else if constexpr (sizeof(T) == 4) asm("vscalefps %2, %1, %0" : "=v"(r) : "v"(x), "v"(n));
  else asm("vscalefpd %2, %1, %0" : "=v"(r) : "v"(x), "v"(n));
  return r;
}
// The same, and 0 where a < least.
template <class T, class R> NNK_FN R scale_above(R x, R n, R a, R least) {
  R r;
  uint16 there;
#define NNK_SCALE_ABOVE(compare, scale)             \
  asm(compare " $21, %5, %4, %1\n\t" /* not less */ \
      scale " %3, %2, %0%{%1%}%{z%}"                \
      : "=v"(r), "=&Yk"(there)                      \
      : "v"(x), "v"(n), "v"(a), "v"(least))
  if constexpr (sizeof(R) == 4) NNK_SCALE_ABOVE("vcmpss", "vscalefss");
  else if constexpr (sizeof(R) == 8) NNK_SCALE_ABOVE("vcmpsd", "vscalefsd");
  else if constexpr (sizeof(T) == 4) NNK_SCALE_ABOVE("vcmpps", "vscalefps");
  else NNK_SCALE_ABOVE("vcmppd", "vscalefpd");
#undef NNK_SCALE_ABOVE
  return r;
}
// floor(log2 |x|), also of subnormal x; -inf for 0, inf for inf.
template <class T, class R> NNK_FN R exponent(R x) {
  R r;
  if constexpr (sizeof(R) == 4) asm("vgetexpss %1, %1, %0" : "=v"(r) : "v"(x));
  else if constexpr (sizeof(R) == 8) asm("vgetexpsd %1, %1, %0" : "=v"(r) : "v"(x));
  else if constexpr (sizeof(T) == 4) asm("vgetexpps %1, %0" : "=v"(r) : "v"(x));
  else asm("vgetexppd %1, %0" : "=v"(r) : "v"(x));
  return r;
}
// x over a power of two, in [0.75, 1.5); 1 for 0 and inf; NaN for x < 0.
template <class T, class R> NNK_FN R mantissa(R x) {
  R r;
  if constexpr (sizeof(R) == 4) asm("vgetmantss $11, %1, %1, %0" : "=v"(r) : "v"(x));
  else if constexpr (sizeof(R) == 8) asm("vgetmantsd $11, %1, %1, %0" : "=v"(r) : "v"(x));
  else if constexpr (sizeof(T) == 4) asm("vgetmantps $11, %1, %0" : "=v"(r) : "v"(x));
  else asm("vgetmantpd $11, %1, %0" : "=v"(r) : "v"(x));
  return r;
}
// table[index % 16], lane by lane, of 32-bit lanes.
template <class R, class I> NNK_FN R look_up(R table, I index) {
  R r;
  asm("vpermps %1, %2, %0" : "=v"(r) : "v"(table), "v"(index));
  return r;
}
// a * b - c with one rounding, of float lanes. The compiler contracts such expressions too,
// but not if it has a * b already.
template <class R> NNK_FN R fused_subtract(R a, R b, R c) {
  asm("vfmsub213ps %2, %1, %0" : "+v"(a) : "v"(b), "v"(c));
  return a;
}
// 1 / x with a relative error under 2^-14.
template <class T, class R> NNK_FN R reciprocal14(R x) {
  R r;
  if constexpr (sizeof(R) == 4) asm("vrcp14ss %1, %1, %0" : "=v"(r) : "v"(x));
  else if constexpr (sizeof(R) == 8) asm("vrcp14sd %1, %1, %0" : "=v"(r) : "v"(x));
  else if constexpr (sizeof(T) == 4) asm("vrcp14ps %1, %0" : "=v"(r) : "v"(x));
  else asm("vrcp14pd %1, %0" : "=v"(r) : "v"(x));
  return r;
}
#endif

#if defined(__AVX2__)
// As masked_load and masked_store, for 4- and 8-byte elements; other lanes of a load are 0.
template <int ElementBytes, class R, class M> NNK_FN R masked_load_avx(const void* p, M mask) {
  const auto& m = memory_at<R>(p);
  R r;
  if constexpr (ElementBytes == 4) asm("vmaskmovps %2, %1, %0" : "=x"(r) : "x"(mask), "m"(m));
  else asm("vmaskmovpd %2, %1, %0" : "=x"(r) : "x"(mask), "m"(m));
  return r;
}
template <int ElementBytes, class R, class M> NNK_FN void masked_store_avx(void* p, M mask, R x) {
  auto& m = memory_at<R>(p);
  if constexpr (ElementBytes == 4) asm("vmaskmovps %2, %1, %0" : "+m"(m) : "x"(mask), "x"(x));
  else asm("vmaskmovpd %2, %1, %0" : "+m"(m) : "x"(mask), "x"(x));
}
#endif

#if defined(__AVX2__)
// 16-bit lanes with zeros above them; g++ 12 makes three instructions of it.
template <class R, class H> NNK_FN R widen_uint16(H x) {
  R r;
  asm("vpmovzxwd %1, %0" : "=v"(r) : "v"(x));
  return r;
}
// Lanes of 8 or 16 bits T with zeros above them.
template <class R, class T, class H> NNK_FN R zero_extend(H x) {
  R r;
  if constexpr (sizeof(T) == 1) asm("vpmovzxbd %1, %0" : "=v"(r) : "v"(x));
  else asm("vpmovzxwd %1, %0" : "=v"(r) : "v"(x));
  return r;
}
#endif

#if defined(__F16C__)
// Registers of half bits (16-bit integers) and of float; rounding to nearest even.
template <class F, class H> NNK_FN F half_to_float(H x) {
  F r;
  asm("vcvtph2ps %1, %0" : "=v"(r) : "v"(x));
  return r;
}
template <class H, class F> NNK_FN H float_to_half(F x) {
  H r;
  asm("vcvtps2ph $8, %1, %0" : "=v"(r) : "v"(x));
  return r;
}
#endif

#if defined(__AVX__)
// a < b ? a : b and a > b ? a : b, which are b where either is NaN. GCC makes a comparison
// and a blend of that expression when one side is a constant.
template <class T, class R> NNK_FN R lesser(R a, R b) {
  R r;
  if constexpr (sizeof(R) == 4) asm("vminss %2, %1, %0" : "=v"(r) : "v"(a), "v"(b));
  else if constexpr (sizeof(R) == 8) asm("vminsd %2, %1, %0" : "=v"(r) : "v"(a), "v"(b));
  else if constexpr (sizeof(T) == 4) asm("vminps %2, %1, %0" : "=v"(r) : "v"(a), "v"(b));
  else asm("vminpd %2, %1, %0" : "=v"(r) : "v"(a), "v"(b));
  return r;
}
template <class T, class R> NNK_FN R greater(R a, R b) {
  R r;
  if constexpr (sizeof(R) == 4) asm("vmaxss %2, %1, %0" : "=v"(r) : "v"(a), "v"(b));
  else if constexpr (sizeof(R) == 8) asm("vmaxsd %2, %1, %0" : "=v"(r) : "v"(a), "v"(b));
  else if constexpr (sizeof(T) == 4) asm("vmaxps %2, %1, %0" : "=v"(r) : "v"(a), "v"(b));
  else asm("vmaxpd %2, %1, %0" : "=v"(r) : "v"(a), "v"(b));
  return r;
}
#endif

#if defined(__SSE2__)
template <class T, class R> NNK_FN R sqrt(R x) {
  R r;
#if defined(__AVX__)
  if constexpr (sizeof(T) == 4) asm("vsqrtps %1, %0" : "=v"(r) : "v"(x));
  else asm("vsqrtpd %1, %0" : "=v"(r) : "v"(x));
#else
  if constexpr (sizeof(T) == 4) asm("sqrtps %1, %0" : "=x"(r) : "x"(x));
  else asm("sqrtpd %1, %0" : "=x"(r) : "x"(x));
#endif
  return r;
}

#if defined(__FMA__)
// a b + c; R a register or one number.
template <class T, class R> NNK_FN R fused(R a, R b, R c) {
  if constexpr (sizeof(R) == 4) asm("vfmadd231ss %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
  else if constexpr (sizeof(R) == 8) asm("vfmadd231sd %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
  else if constexpr (sizeof(T) == 4) asm("vfmadd231ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
  else asm("vfmadd231pd %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
  return c;
}
#endif

// Past the caches; p must be a multiple of sizeof(R), 16 to 64.
template <class R> NNK_FN void store_nontemporal(void* p, R x) {
#if defined(__AVX__)
  asm("vmovntps %1, %0" : "=m"(memory_at<R>(p)) : "v"(x));
#else
  asm("movntps %1, %0" : "=m"(memory_at<R>(p)) : "x"(x));
#endif
}
// Orders the stores past the caches before those that follow.
NNK_FN void store_fence() { asm volatile("sfence" ::: "memory"); }
#endif

}  // namespace x86

// ---- the same names with portable forms ---------------------------------------------

template <class T, class R> NNK_FN R lesser_register(R a, R b) {
#if defined(__AVX__)
  if constexpr (is_floating<T> && (sizeof(R) == sizeof(T) || sizeof(R) >= 16))
    return x86::lesser<T>(a, b);
#endif
  return a < b ? a : b;
}
template <class T, class R> NNK_FN R greater_register(R a, R b) {
#if defined(__AVX__)
  if constexpr (is_floating<T> && (sizeof(R) == sizeof(T) || sizeof(R) >= 16))
    return x86::greater<T>(a, b);
#endif
  return a > b ? a : b;
}

template <class T, class R> NNK_FN R fused_register(R a, R b, R c) {
#if defined(__FMA__)
  if constexpr (sizeof(R) == sizeof(T) || sizeof(R) >= 16) return x86::fused<T>(a, b, c);
#endif
  return a * b + c;
}

NNK_FN float sqrt_scalar(float x) { return __builtin_sqrtf(x); }
NNK_FN double sqrt_scalar(double x) { return __builtin_sqrt(x); }
template <class T, int L> NNK_FN Register<T, L> sqrt_register(Register<T, L> x) {
  if constexpr (L == 1) return sqrt_scalar(x);
#if defined(__SSE2__)
  else if constexpr (sizeof(x) >= 16) return x86::sqrt<T>(x);
#endif
  else {
    NNK_UNROLL
    for (int i = 0; i < L; ++i) x[i] = sqrt_scalar(x[i]);
    return x;
  }
}

}  // namespace nnk
