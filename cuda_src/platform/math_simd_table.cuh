// erfcx by a table of polynomials, where one instruction looks up a coefficient for each of
// 16 lanes: half as long as the rational form, and gelu stands on it.
#pragma once
#include "platform/simd_memory.cuh"
#include "platform/vec_simd.cuh"

#if NNK_AVX512
namespace nnk {

// Row j: the coefficients of t^(6 - j) on 16 intervals, in the order of their index (see
// below). Degree 6, fitted as in math_simd_float.cuh to 2^-24, which is the rounding of the
// last row.
constexpr float erfcx_coefficients[7][16] = {
    {0x1.d57f8cp-9f, 0x1.14d48cp-10f, 0x1.708524p-12f, 0x1.150296p-13f, 0x1.3fb168p-15f,
     0x1.1f223ep-17f, 0x1.4dcca4p-19f, 0x1.cc5a8ap-21f, 0x1.e88cc2p-23f, 0x1.ae85fcp-25f, 0, 0,
     0x1.b7c5cap-4f, 0x1.79c97ap-5f, 0x1.567672p-6f, 0x1.464664p-7f},
    {-0x1.de9996p-7f, -0x1.3085e4p-8f, -0x1.b8fab8p-10f, -0x1.66affap-11f, -0x1.1f024ap-12f,
     -0x1.25518p-14f, -0x1.7a952ap-16f, -0x1.1faa34p-17f, -0x1.b4e6cep-19f, -0x1.b7ad2p-21f, 0, 0,
     -0x1.20d734p-2f, -0x1.05154cp-3f, -0x1.f246a2p-5f, -0x1.f3cc26p-6f},
    {0x1.2e5f9ap-5f, 0x1.b1412ap-7f, 0x1.616204p-8f, 0x1.413ea4p-9f, 0x1.38e44cp-10f,
     0x1.7dacb8p-12f, 0x1.1e6584p-13f, 0x1.f281c4p-15f, 0x1.da0822p-16f, 0x1.20326cp-17f, 0, 0,
     0x1.fcd2cp-2f, 0x1.ee255ep-3f, 0x1.fa7956p-4f, 0x1.10a196p-4f},
    {-0x1.440e1ap-4f, -0x1.0d917ep-5f, -0x1.fa57bap-7f, -0x1.061ae2p-7f, -0x1.24fe26p-8f,
     -0x1.b8262cp-10f, -0x1.8a761p-11f, -0x1.90dd4ep-12f, -0x1.be3b62p-13f, -0x1.5353fap-14f, 0, 0,
     -0x1.81043p-1f, -0x1.977d9p-2f, -0x1.c695fep-3f, -0x1.09dd14p-3f},
    {0x1.3c2268p-3f, 0x1.37e858p-4f, 0x1.56714cp-5f, 0x1.989496p-6f, 0x1.043b42p-6f, 0x1.e93b4cp-8f,
     0x1.08ce14p-8f, 0x1.3c768cp-9f, 0x1.9699aap-10f, 0x1.875fp-11f, 0, 0, 0x1.fffe8ap-1f,
     0x1.2b48eap-1f, 0x1.6ff7e4p-2f, 0x1.d90026p-3f},
    {-0x1.17c4d2p-2f, -0x1.4f1984p-3f, -0x1.b5703p-4f, -0x1.3086d6p-4f, -0x1.bd6ad6p-5f,
     -0x1.094916p-5f, -0x1.5d842ep-6f, -0x1.ed7f64p-7f, -0x1.6e4b26p-7f, -0x1.c04658p-8f, 0, 0,
     -0x1.20dd72p0f, -0x1.7c857ap-1f, -0x1.067f26p-1f, -0x1.78cdd4p-2f},
    {0x1.b5d878p-2f, 0x1.494dbp-2f, 0x1.058672p-2f, 0x1.afbb4p-3f, 0x1.6e9828p-3f, 0x1.18932cp-3f,
     0x1.c5723ap-4f, 0x1.7c0348p-4f, 0x1.46dc6cp-4f, 0x1.fe6cc4p-5f, 0, 0, 0x1p0f, 0x1.8a6adcp-1f,
     0x1.3b3bc4p-1f, 0x1.038d54p-1f}};

// exp(a^2) erfc(a) for 0 <= a < 11. The intervals of a + 1 are quarters of [1, 2), [2, 4),
// [4, 8) and [8, 16): the two upper bits of the mantissa and the exponent number them. They
// wrap around, so that [1, 1.25) has index 12.
template <int N> NNK_FN Vec<float, N> erfcx_by_table(const Vec<float, N>& a) {
  const auto start = bits_as<uint32>(a + 1.0f) & 0xffe00000u, index = start >> 21;
  const auto t = a - (bits_as<float>(start) - 1.0f);  // exact
  const auto coefficient = [&](int j) NNK_INLINE {
    const auto row = load_register<float, 16>(erfcx_coefficients[j]);
    return map_registers<Vec<float, N>>([row](auto i) NNK_INLINE { return x86::look_up(row, i); },
                                        index);
  };
  auto p = coefficient(0);
  NNK_UNROLL
  for (int j = 1; j < 7; ++j) p = p * t + coefficient(j);
  return p;
}

}  // namespace nnk
#endif
