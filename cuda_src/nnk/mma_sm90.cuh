// Matrix products of a warpgroup of NVIDIA's compute capability 9.0: the atom that a tiled product
// is made of. It is compiled for sm_90a.
#pragma once
#include "nnk/mma_sm80.cuh"
#include "nnk/warpgroup.cuh"

namespace nnk {

// What a warp has of the sums of its warpgroup: 16 of the 64 rows, in registers as those of
// mma.sync. T: half, bfloat16, int8, uint8. Copiers: threads of a block that make no sums, but copy
// for those that do.
template <class T, int Copiers = 0> struct MmaSm90 : MmaSm80<T> { using Team = Warpgroup<T>; };
template <class T, int Copiers> constexpr bool of_warpgroup<MmaSm90<T, Copiers>> = true;
template <class T, int Copiers> constexpr int copiers_of<MmaSm90<T, Copiers>> = Copiers;

}  // namespace nnk
