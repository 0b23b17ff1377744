// Vec as operands of dot-product instructions: words of 32 bits, of 2 or 4 elements.
#pragma once
#include "platform/vec_simd_memory.cuh"

namespace nnk {

// The same bits, in lanes of 32.
template <class T, int M> NNK_FN Vec<uint32, M * int(sizeof(T)) / 4> words_of(const Vec<T, M>& x) {
  using R = Vec<uint32, M * int(sizeof(T)) / 4>;
  static_assert(sizeof(R) == sizeof(x), "whole words");
  return bit_cast<R>(x);
}

// Every element in a word of its own, zeros above it.
template <class T, int N> NNK_FN Vec<uint32, N> zero_extended(const Vec<T, N>& x) {
  using V = Vec<T, N>;
  using Bits = conditional<sizeof(T) == 1, uint8, uint16>;
#if defined(__AVX2__)
  // g++ 12 makes several instructions of the conversion.
  if constexpr (V::lanes >= 8 && V::lanes == Vec<uint32, N>::lanes) {
    return map_registers<Vec<uint32, N>>(
        [](auto r) NNK_INLINE { return x86::zero_extend<Register<uint32, V::lanes>, T>(r); }, x);
  }
#endif
  return convert<uint32>(bits_as<Bits>(x));
}

}  // namespace nnk
