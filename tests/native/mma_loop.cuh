// The main loop of a product on atoms, with nothing else in it, to see what compilers make of it.
// After a platform header, and the header of the atom.
#pragma once

struct LoopTagA;
struct LoopTagB;

// Of each warp Rows x Columns atoms; eight chunks of each row of A, and column of B, lie in shared
// memory, XORed with its number.
template <class Atom, int Rows, int Columns> struct MmaLoop {
  using T = typename Atom::Element;
  struct Args {
    typename Atom::Sum* out;
    int n;
  };
  static constexpr int chunks = 8;

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    constexpr int row = chunks * Atom::chunk;
    const auto a = group.template shared<T, Rows * Atom::m * row, LoopTagA>();
    const auto b = group.template shared<T, Columns * Atom::n * row, LoopTagB>();
    const int lane = group.rank() % Atom::lanes;
    typename Atom::C c[Rows][Columns] = {};
    NNK_NO_UNROLL
    for (int i = 0; i < args.n; ++i) {
      group.barrier();
      NNK_UNROLL
      for (int chunk = 0; chunk < chunks; chunk += Atom::chunks) step(a, b, chunk, lane, c);
    }
    NNK_UNROLL
    for (int i = 0; i < Rows * Columns * Atom::sums; ++i)
      args.out[group.rank() + i * group.size()] =
          c[i / Atom::sums / Columns][i / Atom::sums % Columns].x[i % Atom::sums];
  }

 private:
  static NNK_FN void step(const nnk::Shared<T>& a, const nnk::Shared<T>& b, int chunk, int lane,
                          typename Atom::C (&c)[Rows][Columns]) {
    const auto tile = [](int row, int i) { return (row * chunks + (i ^ row % 8)) * Atom::chunk; };
    typename Atom::A x[Rows];
    typename Atom::B y[Columns];
    NNK_UNROLL
    for (int r = 0; r < Rows; ++r) x[r] = Atom::load_a(a, tile, r * Atom::m, chunk, lane);
    NNK_UNROLL
    for (int s = 0; s < Columns; ++s) y[s] = Atom::load_b(b, tile, s * Atom::n, chunk, lane);
    NNK_UNROLL
    for (int i = 0; i < Rows * Columns; ++i)
      Atom::multiply(x[i / Columns], y[i % Columns], c[i / Columns][i % Columns]);
  }
};
