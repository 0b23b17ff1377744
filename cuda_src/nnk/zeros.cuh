// Zeros, over memory that begins at a multiple of 16 bytes.
#pragma once
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// Unroll: accesses of a thread
template <class T, int Unroll> struct Zeros {
  static constexpr int N = sizeof(T) < 16 ? 16 / int(sizeof(T)) : 1;

  struct Args {
    T* to;
    int64 elements;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 first = (group.block() * (Unroll * G::threads) + group.rank()) * N;
    NNK_UNROLL
    for (int u = 0; u < Unroll; ++u) {
      const int64 at = first + int64(u) * (G::threads * N), left = args.elements - at;
      if (left >= N) {
        nnk::store(args.to + at, Vec<T, N>::splat(T()));
      } else {
        for (int i = 0; i < int(left); ++i) args.to[at + i] = T();
      }
    }
  }
};

}  // namespace nnk
