// The matrix cores of compute capability 9.0 as four warps use them together. sm_90a alone has
// these instructions.
#pragma once
#include "nnk/warpgroup.cuh"

namespace nnk {

// PTX ISA, "Matrix Descriptor Format" of wgmma: addresses and distances in units of 16 bytes, and
// the swizzle of 128 bytes. Eight lines are 1024 bytes.
// (Parts of a sum, so that steps differ in a number that is added: addresses are below 2^18.)
NNK_FN uint64 tile_descriptor(const void* memory, int first, int column) {
  const unsigned chunk = static_cast<unsigned>(__cvta_generic_to_shared(memory)) >> 4;
  const unsigned low = chunk + unsigned(first) + (unsigned(column) << 16);
  return uint64(1024 >> 4 | 1u << 30) << 32 | low;
}

// Operands of an asm statement: 8 sums, and the numbers of 8.
#define NNK_SUMS_8(kind, c, i)                                                                    \
  "+" kind(c[i]), "+" kind(c[i + 1]), "+" kind(c[i + 2]), "+" kind(c[i + 3]), "+" kind(c[i + 4]), \
      "+" kind(c[i + 5]), "+" kind(c[i + 6]), "+" kind(c[i + 7])
#define NNK_SUMS_32(kind, c, i)                                                    \
  NNK_SUMS_8(kind, c, i), NNK_SUMS_8(kind, c, i + 8), NNK_SUMS_8(kind, c, i + 16), \
      NNK_SUMS_8(kind, c, i + 24)
#define NNK_SUMS_64(kind, c, i) NNK_SUMS_32(kind, c, i), NNK_SUMS_32(kind, c, i + 32)
#define NNK_SUMS_128(kind, c, i) NNK_SUMS_64(kind, c, i), NNK_SUMS_64(kind, c, i + 64)
#define NNK_NUMBERS_32                                                                     \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31"
#define NNK_NUMBERS_64                                                                    \
  NNK_NUMBERS_32                                                                          \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52," \
  "%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define NNK_NUMBERS_128                                                                   \
  NNK_NUMBERS_64                                                                          \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84," \
  "%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104," \
  "%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121," \
  "%122,%123,%124,%125,%126,%127"

// The numbers of what follows the sums: both descriptors, and for 16-bit elements, which can be
// turned, whether they are.
#define NNK_WGMMA(count, kind, form, a, b, turned)                                       \
  asm volatile("{ .reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned." form \
               " {" NNK_NUMBERS_##count "}, " a ", " b ", p" turned "; }"                \
               : NNK_SUMS_##count(kind, sums, 0)                                         \
               : "l"(a_tile), "l"(b_tile), "n"(int(TurnedA)), "n"(int(TurnedB)))
#define NNK_WGMMA_OF(kind, n64, n128, n256, turned32, turned64, turned128)        \
  if constexpr (N == 64) NNK_WGMMA(32, kind, n64, "%32", "%33", turned32);        \
  else if constexpr (N == 128) NNK_WGMMA(64, kind, n128, "%64", "%65", turned64); \
  else NNK_WGMMA(128, kind, n256, "%128", "%129", turned128)
#define NNK_WGMMA_FLOAT(form)                                                              \
  NNK_WGMMA_OF("f", "m64n64k16.f32." form, "m64n128k16.f32." form, "m64n256k16.f32." form, \
               ", 1, 1, %34, %35", ", 1, 1, %66, %67", ", 1, 1, %130, %131")
#define NNK_WGMMA_INTEGER(form)                                                                    \
  NNK_WGMMA_OF("r", "m64n64k32.s32." form, "m64n128k32.s32." form, "m64n256k32.s32." form, "", "", \
               "")

template <class T> struct Warpgroup {
  template <class Element, class G> static NNK_FN Shared<Element> memory(const G&, int /*count*/) {
    extern __shared__ __align__(1024) unsigned char nnk_dynamic_tiles[];
    return {reinterpret_cast<Element*>(nnk_dynamic_tiles)};
  }
  static NNK_FN void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
  static NNK_FN void begin(Site) { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
  static NNK_FN void commit(Site) { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
  template <int Pending> static NNK_FN void wait(Site) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
  }

  template <int N, bool TurnedA, bool TurnedB, class Element, class Sum>
  static NNK_FN void add(const Shared<Element>& memory, const TilesOfStep& at, Sum* sums, Site) {
    static_assert(N == 64 || N == 128 || N == 256, "the widths that are here");
    static_assert(sizeof(T) == 2 || !(TurnedA || TurnedB), "16-bit elements alone can be turned");
    const uint64 a_tile = tile_descriptor(memory.data, at.a, at.column_a);
    const uint64 b_tile = tile_descriptor(memory.data, at.b, at.column_b);
    if constexpr (is_same<T, half>) {
      NNK_WGMMA_FLOAT("f16.f16");
    } else if constexpr (is_same<T, bfloat16>) {
      NNK_WGMMA_FLOAT("bf16.bf16");
    } else if constexpr (is_same<T, int8>) {
      NNK_WGMMA_INTEGER("s8.s8");
    } else {
      static_assert(is_same<T, uint8>, "no wgmma of this element type is here");
      NNK_WGMMA_INTEGER("u8.u8");
    }
  }
};
#undef NNK_WGMMA_INTEGER
#undef NNK_WGMMA_FLOAT
#undef NNK_WGMMA_OF
#undef NNK_WGMMA
#undef NNK_NUMBERS_128
#undef NNK_NUMBERS_64
#undef NNK_NUMBERS_32
#undef NNK_SUMS_128
#undef NNK_SUMS_64
#undef NNK_SUMS_32
#undef NNK_SUMS_8

}  // namespace nnk
