// A product of two small matrices on the atoms, for every machine that has them. After a platform
// header, and the header of the atom.
#pragma once

struct MmaArgs {
  void* out;
  const void* in;
  long long form;
};

// Where chunks lie in shared memory: row after row, or XORed with the number of the row.
struct MmaTile {
  int chunk, chunks;
  bool swizzled;
  NNK_FN int operator()(int row, int first_chunk) const {
    return (row * chunks + (swizzled ? first_chunk ^ row % chunks : first_chunk)) * chunk;
  }
};

template <class Atom> struct MmaTagA {};
template <class Atom> struct MmaTagB {};

// C = A B for A of 2 m x 2 k and B of 2 k x 2 n, a warp for each half of the rows. In memory: A,
// then B transposed. Bits of `form`: 1 for swizzled tiles, 2 and 4 for A and B the other way round.
template <class Atom> struct MmaProduct {
  using Args = MmaArgs;
  using T = typename Atom::Element;
  static constexpr int rows = 2 * Atom::m, columns = 2 * Atom::n, terms = 2 * Atom::k;

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const bool swizzled = args.form & 1, turned_a = args.form & 2, turned_b = args.form & 4;
    const auto a = group.template shared<T, rows * terms, MmaTagA<Atom>>();
    const auto b = group.template shared<T, columns * terms, MmaTagB<Atom>>();
    const MmaTile tile_a = tile(turned_a ? rows : terms, swizzled);
    const MmaTile tile_b = tile(turned_b ? columns : terms, swizzled);
    const T* in = static_cast<const T*>(args.in);
    fill<rows * terms>(group, a, tile_a, in);
    fill<columns * terms>(group, b, tile_b, in + rows * terms);
    nnk::copy_async_commit();
    nnk::copy_async_wait<0>();
    group.barrier();
    const int lane = group.rank() % Atom::lanes, row = group.rank() / Atom::lanes * Atom::m;
    auto* out = static_cast<typename Atom::Sum*>(args.out);
    for (int column = 0; column < columns; column += Atom::n) {
      typename Atom::C c{};
      for (int step = 0; step < 2; ++step)
        Atom::multiply(load_a(a, tile_a, turned_a, row, step, lane),
                       load_b(b, tile_b, turned_b, column, step, lane), c);
      NNK_UNROLL
      for (int i = 0; i < Atom::sums; ++i)
        out[(row + Atom::row_of(lane, i)) * columns + column + Atom::column_of(lane, i)] = c.x[i];
    }
  }

 private:
  static NNK_FN MmaTile tile(int length, bool swizzled) {
    return {Atom::chunk, length / Atom::chunk, swizzled};
  }
  template <int Size, class G>
  static NNK_FN void fill(G& group, const nnk::Shared<T>& to, const MmaTile& tile, const T* from) {
    for (int i = group.rank(); i < Size / Atom::chunk; i += group.size())
      nnk::copy_async<Atom::chunk>(to, tile(i / tile.chunks, i % tile.chunks),
                                   from + i * Atom::chunk, true);
  }
  static NNK_FN typename Atom::A load_a(const nnk::Shared<T>& a, const MmaTile& tile, bool turned,
                                        int row, int step, int lane) {
    if constexpr (Atom::transposes)
      if (turned) return Atom::load_a_transposed(a, tile, row, step * Atom::k, lane);
    return Atom::load_a(a, tile, row, step * Atom::chunks, lane);
  }
  static NNK_FN typename Atom::B load_b(const nnk::Shared<T>& b, const MmaTile& tile, bool turned,
                                        int column, int step, int lane) {
    if constexpr (Atom::transposes)
      if (turned) return Atom::load_b_transposed(b, tile, column, step * Atom::k, lane);
    return Atom::load_b(b, tile, column, step * Atom::chunks, lane);
  }
};
