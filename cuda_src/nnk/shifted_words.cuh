// 16 bytes at any address. On a machine that reads at multiples of the size of an access alone: the
// aligned words that hold them, and a shift for each of the four words that they are.
//
// Every word that is read has at least one wanted byte, so none lies in a page where there is
// nothing of the array. The shifts wait until the bytes are used: loads are long under way.
#pragma once
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// On a machine that reads at any address.
template <int N, class T> NNK_FN Vec<T, N> load_unaligned(const char* from) {
  Vec<T, N> x;
  NNK_MEMCPY(&x, from, N * sizeof(T));
  return x;
}

// ---- and on the others --------------------------------------------------------------------------

// The words of 16 bytes that begin `past` bytes after one does, of which [first, last] are wanted.
// What others hold is not known.
// From0, To15: whether byte 0, or 15, is known to be wanted
template <bool From0, bool To15>
NNK_FN Registers<5> load_words(const char* from, int past, int first, int last) {
  const int low = From0 ? 0 : (past + first) / 4, high = (past + (To15 ? 15 : last)) / 4;
  const auto* words = reinterpret_cast<const uint32*>(from - past);
  Registers<5> read;
  NNK_UNROLL
  for (int w = 0; w < 5; ++w) {
    int at = w;
    if (!(To15 && w < 4) && at > high) at = high;
    if (!From0 && at < low) at = low;
    read.word[w] = nnk::load<1>(words + at)[0];
  }
  return read;
}

NNK_FN Registers<4> shifted_words(const Registers<5>& read, int past) {
  const int shift = 8 * past;
  Registers<4> bytes;
  NNK_UNROLL
  for (int w = 0; w < 4; ++w)
    bytes.word[w] = uint32((uint64(read.word[w + 1]) << 32 | read.word[w]) >> shift);
  return bytes;
}

}  // namespace nnk
