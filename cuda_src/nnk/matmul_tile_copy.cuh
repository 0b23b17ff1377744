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
  // Where a piece is 32 bytes by itself and outer indices do not fill the circle, a row is longer
  // by an N-th: the rows of the next piece begin where the outer indices of this one end.
  static constexpr int wanted = 32 / (N * int(sizeof(S)));
  static constexpr int side_by_side =
      AlongTerms && wanted > 1 && Terms / N % wanted == 0 ? wanted : 1;
  static constexpr bool fills_banks = Outer * int(sizeof(S)) >= 128;
  static constexpr bool is_vector = Outer / N * int(sizeof(S)) % 16 == 0;
  static constexpr int padding = wanted == 1 && !fills_banks && is_vector ? Outer / N : 4;
  static constexpr int row = Outer + (AlongTerms ? padding : 0);
  static_assert(Outer * int(sizeof(S)) % 16 != 0 || row * int(sizeof(S)) % 16 == 0,
                "rows that may be read 16 bytes at a time stay so");
  static constexpr int elements = (Terms * row + 3) / 4 * 4;  // a multiple of 16 bytes

  static NNK_FN int term(int piece) {
    if constexpr (AlongTerms)
      return (piece % side_by_side + piece / (side_by_side * Outer) * side_by_side) * N;
    else return piece / (Outer / N);
  }
  static NNK_FN int outer(int piece) {
    if constexpr (AlongTerms) return piece / side_by_side % Outer;
    else return piece % (Outer / N) * N;
  }

  // The pieces of a thread are Threads apart, which is regular if it leads around all outer indices
  // a whole number of times, or after some pieces once: from one of these `outers` to the next,
  // `next_outer` indices; and after them `next_term` terms.
  static constexpr int around = AlongTerms ? side_by_side * Outer : Outer / N;
  static constexpr int around_terms = AlongTerms ? side_by_side * N : 1;
  static constexpr bool at_once = Threads % around == 0;
  static constexpr bool regular = at_once || (around % Threads == 0 && Threads % side_by_side == 0);
  static constexpr int outers = at_once || !regular ? 1 : around / Threads;
  static constexpr int next_outer = AlongTerms ? Threads / side_by_side : Threads * N;
  static constexpr int next_term = at_once ? Threads / around * around_terms : around_terms;
};

// Writes a piece to a tile that begins at element `at`.
template <class Layout, bool Conjugate, class S, class T, int N>
NNK_FN void store_piece(const Shared<S>& memory, int at, int piece, const Vec<T, N>& held) {
  const Vec<S, N> converted = convert<S>(held);
  const Vec<S, N> x = Conjugate ? conj(converted) : converted;
  const int slot = at + Layout::term(piece) * Layout::row + Layout::outer(piece);
  if constexpr (Layout::along_terms) {
    NNK_UNROLL
    for (int i = 0; i < N; ++i) memory.store(slot + i * Layout::row, x[i]);
  } else {
    memory.store_vec(slot, x);
  }
}

// The copies of one thread. Where its pieces lie is computed anew for every slice, from few
// numbers: a register for each would be too many.
//
// Past the last term, and the last outer index, are zeros. (Of a thread with one outer index, the
// last one takes the place of those past it: what is multiplied there is not written.) The host
// takes N > 1 only where the extents along which pieces lie are multiples of it, so that a piece is
// there or is not.
template <class T, class S, class Index, class Layout, bool Conjugate> struct TileCopy {
  static constexpr int count = Layout::pieces_of_thread, N = Layout::size;
  static constexpr bool whole = count * Layout::threads == Layout::pieces;
  static constexpr bool clamped = Layout::regular && Layout::outers == 1;

  const T* from;  // the thread's first piece of the next slice; if irregular, the slice
  Index left;     // terms from there on
  Index outer_step, term_step, outers;  // steps in bytes; outer indices from there on
  int rank;
  Vec<T, N> held[count];

  // A tile from outer index `first` on of `end`, in a matrix of `terms` terms.
  NNK_FN TileCopy(const T* matrix, int thread, Index first, Index end, Index terms,
                  Index step_of_outer, Index step_of_term)
      : from(byte_offset(matrix, first * step_of_outer)),
        left(terms),
        outer_step(step_of_outer),
        term_step(step_of_term),
        outers(end - first),
        rank(thread) {
    if constexpr (Layout::regular) {
      const Index last = outers - (Layout::along_terms ? 1 : N), own = Layout::outer(rank);
      const Index start = clamped && last < own ? last : own;
      from = byte_offset(from, start * outer_step + Layout::term(rank) * term_step);
      outers -= start;
      left -= Layout::term(rank);
    }
  }

  // Fetches the next slice to registers.
  NNK_FN void load() {
    NNK_UNROLL
    for (int p = 0; p < count; ++p) {
      held[p] = Vec<T, N>::splat(T());
      if (is_there(p) && term(p) < left && (clamped || outer(p) < outers)) {
        check_access(term(p), Layout::along_terms ? N : 1, left, NNK_HERE);
        check_access(outer(p), Layout::along_terms ? 1 : N, outers, NNK_HERE);
        held[p] = nnk::load<N>(byte_offset(from, outer(p) * outer_step + term(p) * term_step));
      }
    }
    from = byte_offset(from, Index(Layout::terms) * term_step);
    left -= Layout::terms;
  }
  // Writes it to shared memory, from element `at` on.
  NNK_FN void store(const Shared<S>& memory, int at) const {
    NNK_UNROLL
    for (int p = 0; p < count; ++p) {
      if (!is_there(p)) continue;
      store_piece<Layout, Conjugate>(memory, at, piece(p), held[p]);
    }
  }

 private:
  NNK_FN int piece(int p) const { return rank + p * Layout::threads; }
  NNK_FN bool is_there(int p) const { return whole || piece(p) < Layout::pieces; }
  // Of a piece, from where `from` is.
  NNK_FN int outer(int p) const {
    if constexpr (Layout::regular) return p % Layout::outers * Layout::next_outer;
    else return Layout::outer(piece(p));
  }
  NNK_FN int term(int p) const {
    if constexpr (Layout::regular) return p / Layout::outers * Layout::next_term;
    else return Layout::term(piece(p));
  }
};

// The form of a product of matrices. A form says what its kernel is given besides, keeps what a
// block has to know of the terms of a slice (here nothing), copies tiles, and knows where rows and
// columns of the result lie if that is no step from each to the next.
struct MatrixTiles {
  template <class Product, class Index> using Args = Product;
  static constexpr bool scatters_columns = false;

  template <class Index, int Terms, int Threads> struct Tables {
    static constexpr int bytes = 0;
    int thread;

    template <class Group, class A>
    NNK_FN Tables(const Group&, const A&, int, int rank) : thread(rank) {}

    template <class S, class Layout, bool Conjugate, class A, class T>
    NNK_FN auto copy_a(const A& args, const T* from, Index first, Index terms) const {
      return TileCopy<T, S, Index, Layout, Conjugate>(from, thread, first, args.m, terms,
                                                      args.stride_a[0], args.stride_a[1]);
    }
    template <class S, class Layout, bool Conjugate, class A, class T>
    NNK_FN auto copy_b(const A& args, const T* from, Index first, Index terms) const {
      return TileCopy<T, S, Index, Layout, Conjugate>(from, thread, first, args.n, terms,
                                                      args.stride_b[1], args.stride_b[0]);
    }
    template <class Group> NNK_FN void begin(const Group&, Index) const {}
    NNK_FN void look_up() const {}

    NNK_FN Index place_of_row(Index) const { return 0; }
    template <int Groups, int Wide, int Side> struct Columns {
      NNK_FN Columns(const Tables&, Index, int) {}
    };
  };
};

}  // namespace nnk
