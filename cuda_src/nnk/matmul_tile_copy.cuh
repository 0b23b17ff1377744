// How the threads of a GPU bring tiles of the operands of a product to shared memory: by way of
// registers, so that the next slice is on its way while this one is multiplied.
//
// An operand is seen as [term][outer]: the outer indices are rows of A, or columns of B.
#pragma once
#include "nnk/matmul_operands.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// How a tile of Terms x Outer elements of type S lies in shared memory, and who writes which of it.
// It is copied in pieces of N neighbours: terms of one outer index (AlongTerms), or outer indices.
template <class S, int Terms, int Outer, int N, bool AlongTerms, int Threads> struct TileLayout {
  static constexpr int terms = Terms, size = N, threads = Threads;
  static constexpr bool along_terms = AlongTerms;
  static constexpr int pieces = Terms * Outer / N;
  static_assert((AlongTerms ? Terms : Outer) % N == 0, "a tile is whole pieces");
  static constexpr int pieces_of_thread = (pieces + Threads - 1) / Threads;
  // What are neighbours along the terms is written one by one, a row of the tile apart. Four
  // elements of padding, and 32 bytes of terms side by side, put the writes of a warp into banks of
  // their own: a row is an odd multiple of 4 elements, so that whichever rows N elements apart
  // those are begin 8 N elements of 4 bytes apart in the circle of banks, and outer indices fill
  // what lies between.
  static constexpr int row = Outer + (AlongTerms ? 4 : 0);
  static constexpr int elements = (Terms * row + 3) / 4 * 4;  // a multiple of 16 bytes
  static constexpr int wanted = 32 / (N * int(sizeof(S)));
  static constexpr int side_by_side =
      AlongTerms && wanted > 1 && Terms / N % wanted == 0 ? wanted : 1;

  static NNK_FN int term(int piece) {
    if constexpr (AlongTerms)
      return (piece % side_by_side + piece / (side_by_side * Outer) * side_by_side) * N;
    else return piece / (Outer / N);
  }
  static NNK_FN int outer(int piece) {
    if constexpr (AlongTerms) return piece / side_by_side % Outer;
    else return piece % (Outer / N) * N;
  }
};

// The copies of one thread. Whatever does not change from slice to slice is found out once.
//
// An outer index past the last one is taken for the last: what is multiplied there is not written.
// Terms past the last one are zeros. The host takes N > 1 only where both extents are multiples of
// it where it matters, so that a piece is there or is not.
template <class T, class S, class Index, class Layout, bool Conjugate> struct TileCopy {
  static constexpr int count = Layout::pieces_of_thread, N = Layout::size;
  static constexpr bool whole = count * Layout::threads == Layout::pieces;
  static constexpr int terms_at_once = Layout::along_terms ? N : 1;

  const T* from;        // the next slice
  Index left, advance;  // its terms and those after it; bytes to the one after it
  Index offset[count];
  int rank;
  Vec<T, N> held[count];

  // A tile from outer index `first` on of `outers`, in a matrix of `terms` terms.
  NNK_FN TileCopy(const T* matrix, int thread, Index first, Index outers, Index terms,
                  Index outer_step, Index term_step)
      : from(byte_offset(matrix, first * outer_step)),
        left(terms),
        advance(term_step * Layout::terms),
        rank(thread) {
    constexpr int outers_at_once = Layout::along_terms ? 1 : N;
    const Index last = outers - first - outers_at_once;
    NNK_UNROLL
    for (int p = 0; p < count; ++p) {
      const Index outer = Layout::outer(piece(p)) < last ? Layout::outer(piece(p)) : last;
      check_access(first + outer, outers_at_once, outers, NNK_HERE);
      offset[p] = outer * outer_step + Layout::term(piece(p)) * term_step;
    }
  }

  // Fetches the next slice to registers.
  NNK_FN void load() {
    NNK_UNROLL
    for (int p = 0; p < count; ++p) {
      held[p] = Vec<T, N>::splat(T());
      if (is_there(p) && Layout::term(piece(p)) < left) {
        check_access(Layout::term(piece(p)), terms_at_once, left, NNK_HERE);
        held[p] = nnk::load<N>(byte_offset(from, offset[p]));
      }
    }
    from = byte_offset(from, advance);
    left -= Layout::terms;
  }
  // Writes it to shared memory, from element `at` on.
  NNK_FN void store(const Shared<S>& memory, int at) const {
    NNK_UNROLL
    for (int p = 0; p < count; ++p) {
      if (!is_there(p)) continue;
      const Vec<S, N> converted = convert<S>(held[p]);
      const Vec<S, N> x = Conjugate ? conj(converted) : converted;
      const int slot = at + Layout::term(piece(p)) * Layout::row + Layout::outer(piece(p));
      if constexpr (Layout::along_terms) {
        NNK_UNROLL
        for (int i = 0; i < N; ++i) memory.store(slot + i * Layout::row, x[i]);
      } else {
        memory.store_vec(slot, x);
      }
    }
  }

 private:
  NNK_FN int piece(int p) const { return rank + p * Layout::threads; }
  NNK_FN bool is_there(int p) const { return whole || piece(p) < Layout::pieces; }
};

}  // namespace nnk
