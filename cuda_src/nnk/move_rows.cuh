// Elements moved along tables of axes, as in gather_move.cuh, by the one thread of a block.
//
// The host has cut a row into segments: equal steps through x, one value, offsets from a table, or
// vectors that are picked from registers at some places of x (nnkernels/dispatch/axis_picks.py). An
// item is a segment of a row.
#pragma once
#include "nnk/axis_tables.cuh"

namespace nnk {

// How far ahead elements a few steps apart are fetched into the cache, in bytes.
constexpr int move_ahead = 4096;

// What a segment says about itself.
enum : int {
  segment_to,
  segment_from,
  segment_count,
  segment_step,
  segment_offsets,     // where in the table; or negative
  segment_pairs,       // of registers for each vector; or 0
  segment_first_pair,  // number of the first of them
  segment_size
};

// UnitOut: elements along the row are adjacent in y
// Streaming: segments are whole vectors at whole vectors of y, which go past the caches
template <class T, int N, int Plain, int Mapped, class Index, bool UnitOut, bool Streaming = false>
struct MoveRows {
  using V = Vec<T, N>;
  using Outer = OuterAxes<Plain, Mapped, Index>;

  struct Args {
    T* out;
    const T* in;
    const Index* table;
    const int8* lanes;  // of each pair of registers
    int64 items;        // segments of all rows
    int64 tile;         // of one block
    Index segments;
    Index at;         // where in the table the segments are
    Index registers;  // and the places of pairs of registers
    Index out_step;
    Divisor<Index> by_segments;
    Outer outer;
    T fill;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 first = group.block() * args.tile;
    const int64 last = first + args.tile < args.items ? first + args.tile : args.items;
    Index row_number = args.by_segments.divide(Index(first));
    Index s = Index(first) - row_number * args.segments;
    for (int64 item = first; item < last; ++row_number, s = 0) {
      const auto row = args.outer.row_at(row_number);
      Index out = row.out, in = row.in;
      bool there = true;
      NNK_UNROLL
      for (int m = 0; m < Mapped; ++m) {
        out += args.table[row.entry[m]];
        const Index source = args.table[row.entry[m] + 1];
        there = there && source != missing<Index>;
        in += source;
      }
      for (; s < args.segments && item < last; ++s, ++item)
        move(args, args.table + args.at + s * segment_size, out, in, there);
    }
  }

 private:
  static NNK_FN void move(const Args& args, const Index* segment, Index out, Index in, bool there) {
    T* to = byte_offset(args.out, out + segment[segment_to]);
    const T* from = byte_offset(args.in, in + segment[segment_from]);
    const Index count = segment[segment_count], step = segment[segment_step];
    if (!there || segment[segment_from] == missing<Index>) {
      const V value = V::splat(args.fill);
      each(args, to, count, [&](Index, int) NNK_INLINE { return value; });
    } else if (segment[segment_offsets] >= 0) {
      const Index* offset = args.table + segment[segment_offsets];
      each(args, to, count,
           [&](Index i, int n) NNK_INLINE { return load_offsets<N>(from, offset + i, n); });
    } else if (segment[segment_pairs] == 1) {  // so that there is no loop
      each(args, to, count,
           [&](Index i, int) NNK_INLINE { return picked(args, segment, from, i, Index(1)); });
    } else if (segment[segment_pairs] > 0) {
      const Index pairs = segment[segment_pairs];
      each(args, to, count,
           [&](Index i, int) NNK_INLINE { return picked(args, segment, from, i, pairs); });
    } else if (step == Index(sizeof(T))) {
      each(args, to, count, [&](Index i, int n) NNK_INLINE {
        const T* p = byte_offset(from, i * Index(sizeof(T)));
        return n == N ? nnk::load<N>(p) : nnk::load_partial<N>(p, n, T());
      });
    } else if (step == 0) {
      const V value = V::splat(nnk::load<1>(from)[0]);
      each(args, to, count, [&](Index, int) NNK_INLINE { return value; });
    } else if (step == Index(2 * sizeof(T))) {
      move_every<2>(args, to, from, count);
    } else if (step == Index(3 * sizeof(T))) {
      move_every<3>(args, to, from, count);
    } else if (step == Index(4 * sizeof(T))) {
      move_every<4>(args, to, from, count);
    } else {
      each(args, to, count, [&](Index i, int n) NNK_INLINE {
        return nnk::load_strided<N>(byte_offset(from, i * step), step, n, T());
      });
    }
  }
  // The vector that begins with element i of a segment; the last one begins anywhere.
  static NNK_FN V picked(const Args& args, const Index* segment, const T* from, Index i,
                         Index pairs) {
    const Index first = segment[segment_first_pair] + (i + N - 1) / N * pairs;
    const Index* place = args.table + args.registers + 2 * first;
    const int8* lanes = args.lanes + N * first;
    V v = V::splat(args.fill);
    for (Index p = 0; p < pairs; ++p, place += 2, lanes += N)
      v = load_picked(byte_offset(from, place[0]), byte_offset(from, place[1]), lanes, v);
    return v;
  }
  // Every Step-th of neighbours: with the step a constant, what a short segment begins with is not
  // half of its time.
  template <int Step>
  static NNK_FN void move_every(const Args& args, T* to, const T* from, Index count) {
    constexpr Index step = Step * Index(sizeof(T));
    each(args, to, count, [&](Index i, int n) NNK_INLINE {
      const T* p = byte_offset(from, i * step);
      NNK_UNROLL
      for (Index b = 0; b < N * step; b += cache_line) prefetch<1>(byte_offset(p, b + move_ahead));
      return nnk::load_strided<N>(p, step, n, T());
    });
  }

  // Stores what `values(i, n)` gives for elements [i, i + n). The last vector overlaps the one
  // before it: whole vectors take a fraction of the time of parts. (Where rows do not begin at
  // cache lines, none goes past the caches: 26 MB of padded images took 3 ms instead of 2.)
  template <class F> static NNK_FN void each(const Args& args, T* to, Index count, F values) {
    if (count < N) {
      store_at(args, to, 0, values(0, int(count)), int(count));
      return;
    }
    Index i = 0;
    for (; i + N <= count; i += N) store_at(args, to, i, values(i, N), N);
    if (i < count) store_at(args, to, count - N, values(count - N, N), N);
  }
  static NNK_FN void store_at(const Args& args, T* to, Index i, const V& v, int n) {
    T* p = byte_offset(to, i * (UnitOut ? Index(sizeof(T)) : args.out_step));
    if constexpr (!UnitOut) nnk::store_strided(p, args.out_step, v, n);
    else if (n < N) nnk::store_partial(p, v, n);
    else if constexpr (Streaming) nnk::store_streaming(p, v);
    else nnk::store(p, v);
  }
};

}  // namespace nnk
