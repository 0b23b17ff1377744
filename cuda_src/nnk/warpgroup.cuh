// What four warps multiply together, a warpgroup of compute capability 9.0 (`wgmma`): 64 rows of A
// and N columns of B, both read where they lie in shared memory, while the threads go on.
//
// In shared memory an operand is lines of 128 bytes, 8 of which follow each other; chunks of 16
// bytes of a line are exchanged by XOR with the number of the line (the swizzle of 128 bytes in PTX
// ISA, "Shared Memory Matrix Layout" of wgmma). A line is the terms of a row; or, `turned`, rows of
// one term. More rows than a line has are further columns of lines.
#pragma once
#include "nnk/types.cuh"

namespace nnk {

constexpr int warpgroup_threads = 128;
constexpr int warpgroup_rows = 64;

// Whether an atom is of a warpgroup, to which operands stay in shared memory.
template <class Atom> constexpr bool of_warpgroup = false;
// Threads that copy for it, after those that multiply.
template <class Atom> constexpr int copiers_of = 0;

// Where the operands of one step lie, in chunks of 16 bytes: the first one of each, and so many
// from one column of lines to the next, which counts where they are turned.
struct TilesOfStep { int a, b, column_a, column_b; };

// What all threads of a warpgroup do together, on the machines that have it
// (platform/cuda_warpgroup.cuh). T: half, bfloat16, int8, uint8
//
//   memory<Element>(group, count)
//                       the first elements of the dynamic shared memory, at a multiple of 1024
//                       bytes
//   publish()           what this thread stored or copied to shared memory is there for products
//                       that begin after the next barrier of the block
//   begin()             sums are in place, and products may begin
//   add<N, TurnedA, TurnedB>(memory, at, sums)
//                       sums += A B for one step of 32 bytes of terms. The sums of a thread are
//                       those of mma.sync m16n8 (mma_sm80.cuh), N / 8 times side by side, of rows
//                       16 w to 16 w + 15 for warp w; they are not touched until all products are
//                       waited for
//   commit()            the products since the last call are a group
//   wait<Pending>()     until at most so many of the newest groups are still under way
template <class T> struct Warpgroup;

}  // namespace nnk
