// What undoes a pooling that kept the indices of its maxima: y is 0 but for y[indices[i]] = x[i] in
// every plane. And its gradient, dx[i] = dy[indices[i]]. An index outside of the plane names
// nothing.
//
// Where indices repeat, the last one counts. So a block has a plane for itself; each of its threads
// takes one element at a time, and gives way to later ones with its index.
#pragma once
#include "nnk/pool_axis.cuh"

namespace nnk {

// One element at any address that the machine can read.
template <class T> NNK_FN T get_element(const T* p) { return nnk::load<1>(p)[0]; }
template <class T> NNK_FN void put_element(T* p, T x) { nnk::store(p, Vec<T, 1>::splat(x)); }

template <class Index> struct UnpoolArgs {
  void* plane;          // y, or dy
  void* pooled;         // x, or dx
  const void* indices;  // int64
  int64 units, tile;
  Divisor<Index> by_planes, by_rows;  // second axis of planes; rows of a pooled plane
  // For vectors (max_unpool_vectors.cuh): of planes, and how many of them are a unit, whether
  // places are multiples of numbers, and the least place of a vector.
  Divisor<Index> by_groups;
  Index lanes, group, linear, low;
  Index sides[2][3];  // of the plane and of what is pooled
  Divisor<Index> by_height[2], by_width[2];
  PoolStrides<Index> at[3];

  template <int Operand> static constexpr int kind = Operand == 0 ? 0 : 1;
  template <int Operand> NNK_FN Index size() const {
    constexpr int k = kind<Operand>;
    return sides[k][0] * sides[k][1] * sides[k][2];
  }
  // Bytes from the beginning of a plane to an element by its number.
  template <int Operand> NNK_FN Index offset(Index number) const {
    constexpr int k = kind<Operand>;
    check_access(number, 1, size<Operand>(), NNK_HERE);
    const Index row = by_width[k].divide(number), depth = by_height[k].divide(row);
    return at[Operand].at(depth, row - depth * sides[k][1], number - row * sides[k][2]);
  }
  template <int Operand> NNK_FN Index of_plane(Index number) const {
    const Index a = by_planes.divide(number);
    return at[Operand].of_plane(a, number - a * by_planes.divisor);
  }
  // An index, or -1 for one that names nothing.
  NNK_FN Index index_at(Index bytes) const {
    const int64 index = get_element(byte_offset(static_cast<const int64*>(indices), bytes));
    return index >= 0 && index < int64(size<0>()) ? Index(index) : Index(-1);
  }
};

// A unit is a plane.
template <class T, class Index> struct MaxUnpool {
  using Args = UnpoolArgs<Index>;

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 first = group.block() * args.tile;
    const int64 last = lesser_of(first + args.tile, args.units);
    for (int64 unit = first; unit < last; ++unit) {
      T* plane = byte_offset(static_cast<T*>(args.plane), args.template of_plane<0>(Index(unit)));
      const T* pooled =
          byte_offset(static_cast<const T*>(args.pooled), args.template of_plane<1>(Index(unit)));
      const Index indices = args.template of_plane<2>(Index(unit));
      for (Index i = group.rank(); i < args.template size<0>(); i += G::threads)
        put_element(byte_offset(plane, args.template offset<0>(i)), T());
      group.barrier();
      put_in_turns(group, args, plane, pooled, indices);
    }
  }

  struct Turn {};
  template <class G>
  static NNK_FN void put_in_turns(G& group, const Args& args, T* plane, const T* pooled,
                                  Index indices) {
    const auto turn = group.template shared<Index, G::threads, Turn>();
    const Index count = args.template size<1>();
    for (Index base = 0; base < count; base += G::threads) {
      const Index i = base + group.rank();
      Index at = -1;
      if (i < count) at = args.index_at(indices + args.template offset<2>(i));
      turn.store(group.rank(), at);
      group.barrier();
      const Index together = lesser_of(Index(G::threads), count - base);
      bool counts = at >= 0;
      for (Index t = group.rank() + 1; t < together; ++t)
        counts = counts && turn.load(int(t)) != at;
      if (counts)
        put_element(byte_offset(plane, args.template offset<0>(at)),
                    get_element(byte_offset(pooled, args.template offset<1>(i))));
      group.barrier();
    }
  }
};

// A unit is an element of what is pooled.
template <class T, class Index> struct MaxUnpoolBackward {
  using Args = UnpoolArgs<Index>;

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 first = group.block() * args.tile;
    const int64 last = lesser_of(first + args.tile, args.units);
    for (int64 unit = first + group.rank(); unit < last; unit += G::threads) {
      const Index row = args.by_width[1].divide(Index(unit)), plane = args.by_rows.divide(row);
      take(args, plane, Index(unit) - plane * args.template size<1>());
    }
  }

  static NNK_FN void take(const Args& args, Index plane, Index i) {
    const Index index =
        args.index_at(args.template of_plane<2>(plane) + args.template offset<2>(i));
    const T* from = static_cast<const T*>(args.plane);
    T value = T();
    if (index >= 0)
      value = get_element(
          byte_offset(from, args.template of_plane<0>(plane) + args.template offset<0>(index)));
    put_element(byte_offset(static_cast<T*>(args.pooled),
                            args.template of_plane<1>(plane) + args.template offset<1>(i)),
                value);
  }
};

}  // namespace nnk
