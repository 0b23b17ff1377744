// Product of a vector and a matrix, c = epilogue(x B): x has k terms, B is k x n; in a batch.
//
// The work is one reading of B, so its memory order decides. GemvAlong: the terms of a sum are
// neighbours; a team of threads takes a few columns of B at once, so that x is read once for them.
// GemvAcross: the columns are neighbours; every thread has columns of its own and walks down them.
//
// How many columns a block takes changes no result.
#pragma once
#include "nnk/matmul_epilogue.cuh"
#include "nnk/matmul_operands.cuh"
#include "nnk/reduce.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// What the host packs for both.
template <class TX, class TB, class TC, class Index, int BatchRank, class Epilogue>
struct GemvArgs : Epilogue::Operands {
  const TX* x;
  const TB* b;
  TC* c;
  int64 tiles, blocks_of_split;
  int32 columns;      // of a tile
  Index n, k, terms;  // those of one split
  Divisor<Index> batch[BatchRank];
  Index batch_stride[3 + Epilogue::operands][BatchRank];  // of x, b, c and its own, in bytes
  Index stride_x, stride_b[2], stride_c;
  typename Epilogue::template Args<Index> epilogue;
};

// What a block works on.
template <class TX, class TB, class TC, class Index, class Epilogue> struct GemvTile {
  View<const TX, 1, Index> x;
  View<const TB, 2, Index> b;
  View<TC, 1, Index> c;
  typename Epilogue::template Of<Index> epilogue;
  Index first;
  int columns;

  template <int BatchRank>
  static NNK_FN GemvTile of(const GemvArgs<TX, TB, TC, Index, BatchRank, Epilogue>& args,
                            int64 block) {
    const int64 batch = block / args.tiles, tile = block - batch * args.tiles;
    Index offset[3 + Epilogue::operands];
    decode_batch(args.batch, args.batch_stride, Index(batch), offset);
    const Index first = Index(tile) * args.columns;
    const Index terms = terms_of_split(args, Index(block / args.blocks_of_split));
    return {
        {byte_offset(args.x, offset[0]), {terms}, {args.stride_x}},
        {byte_offset(args.b, offset[1]), {terms, args.n}, {args.stride_b[0], args.stride_b[1]}},
        {byte_offset(args.c, offset[2]), {args.n}, {args.stride_c}},
        typename Epilogue::template Of<Index>(args, args.epilogue, offset + 3, Index(1), args.n),
        first,
        args.n - first < args.columns ? int(args.n - first) : args.columns};
  }

  // The sums of `count` columns from `column` on, counted from the first of the tile.
  template <class V> NNK_FN void write(int column, int count, const V& sums) const {
    const Index at = first + column;
    const auto y = convert<TC>(epilogue(sums, Index(0), at, count));
    if (lanes_are_simd && c.stride[0] == Index(sizeof(TC)) && count == V::size) {
      Line<TC, Index, unit_step>{c.at(NNK_HERE, at), Index(count), c.stride[0]}.store(Index(0), y);
    } else {
      const Line<TC, Index> line{c.at(NNK_HERE, at), Index(count), c.stride[0]};
      line.store_partial(Index(0), y, count);
    }
  }
};

// Brings the lines of some bytes to the cache of a level; any address will do.
template <int Level, int Bytes> NNK_FN void fetch(const char* p) {
  NNK_UNROLL
  for (int line = 0; line + cache_line <= Bytes; line += cache_line) prefetch<Level>(p + line);
}
// How far ahead of itself a stream of terms is fetched: of several streams, a processor fetches too
// little by itself (a tenth of the time of a matrix in memory).
constexpr int bytes_ahead = 512;

// S: type of the sums; N: terms that are loaded at once; Team: threads that share a sum, those of
// a warp or of the block; Sums: columns at once
// UnitX, UnitB: terms are adjacent, and lie at multiples of N of them where that matters
template <class TX, class TB, class TC, class S, class Index, int BatchRank, int N, int Threads,
          int Team, int Sums, bool UnitX, bool UnitB, bool ConjugateX, bool ConjugateB,
          class Epilogue>
struct GemvAlong {
  static_assert(Team == Threads || Team == warp_width, "a team is a warp or a block");
  using V = Vec<S, N>;
  // Vectors of eight terms that are read one by one, four of them in flight: left alone, ptxas
  // makes do with 40 or 64 registers for some of them, and spills.
  static constexpr bool one_by_one = !(UnitX && UnitB) && N > 4 && Sums == 1;
  static constexpr int register_budget = sizeof(S) > 4 ? 128 : one_by_one ? 80 : 0;
  using Args = GemvArgs<TX, TB, TC, Index, BatchRank, Epilogue>;
  using Tile = GemvTile<TX, TB, TC, Index, Epilogue>;

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const Tile tile = Tile::of(args, group.block());
    const int team = group.rank() / Team, lane = group.rank() % Team;
    for (int j = team * Sums; j < tile.columns; j += Threads / Team * Sums) {
      const int count = tile.columns - j < Sums ? tile.columns - j : Sums;
      V sums[Sums];
      multiply(tile, lane, j, count, sums);
      Vec<S, Sums> totals = Vec<S, Sums>::splat(S());
      NNK_UNROLL
      for (int s = 0; s < Sums; ++s) totals.set(s, together(group, fold<Sum<S>>(sums[s])));
      if (lane == 0) tile.write(j, count, totals);
    }
  }

 private:
  template <class G> static NNK_FN S together(G& group, S sum) {
    if constexpr (Team == Threads) return reduce<Sum<S>>(group, sum);
    else return reduce_lanes<Sum<S>, Team>(sum);
  }

  using LineX = Line<const TX, Index, UnitX ? unit_step : any_step>;
  using LineB = Line<const TB, Index, UnitB ? unit_step : any_step>;

  static NNK_FN void multiply(const Tile& tile, int lane, int j, int count, V (&sums)[Sums]) {
    const Index k = tile.b.shape[0];
    NNK_UNROLL
    for (int s = 0; s < Sums; ++s) sums[s] = V::splat(S());
    if (k == 0) return;
    const LineX x{tile.x.data, k, tile.x.stride[0]};
    LineB b[Sums];
    NNK_UNROLL
    for (int s = 0; s < Sums; ++s)  // past the last column, any other will do
      b[s] = LineB{tile.b.at(NNK_HERE, Index(0), tile.first + j + (s < count ? s : 0)), k,
                   tile.b.stride[0]};
    Index i = Index(lane) * N;
    if constexpr (in_flight > 1) {
      for (; i + (in_flight - 1) * Team * N + N <= k; i += in_flight * Team * N)
        add<in_flight>(x, b, i, sums);
    }
    for (; i + N <= k; i += Team * N) {
      const V terms = conjugated<ConjugateX>(convert<S>(x.template load<N>(i)));
      NNK_UNROLL
      for (int s = 0; s < Sums; ++s) {
        if constexpr (UnitB)
          fetch<1, N* int(sizeof(TB))>(reinterpret_cast<const char*>(b[s].at(i)) + bytes_ahead);
        sums[s] = fma(terms, conjugated<ConjugateB>(convert<S>(b[s].template load<N>(i))), sums[s]);
      }
    }
    if (i < k) {  // zeros times zeros follow
      const int left = int(k - i);
      const V terms = conjugated<ConjugateX>(convert<S>(x.template load_partial<N>(i, left, TX())));
      NNK_UNROLL
      for (int s = 0; s < Sums; ++s)
        sums[s] = fma(
            terms, conjugated<ConjugateB>(convert<S>(b[s].template load_partial<N>(i, left, TB()))),
            sums[s]);
    }
  }

  // Vectors of a column that a thread of a GPU loads before it uses them: four in all columns.
  static constexpr int in_flight = lanes_are_simd || Sums >= 4 ? 1 : 4 / Sums;
  template <int Count>
  static NNK_FN void add(const LineX& x, const LineB (&b)[Sums], Index i, V (&sums)[Sums]) {
    V terms[Count], matrix[Count][Sums];
    NNK_UNROLL
    for (int t = 0; t < Count; ++t) {
      const Index at = i + t * Team * N;
      terms[t] = conjugated<ConjugateX>(convert<S>(x.template load<N>(at)));
      NNK_UNROLL
      for (int s = 0; s < Sums; ++s)
        matrix[t][s] = conjugated<ConjugateB>(convert<S>(b[s].template load<N>(at)));
    }
    NNK_UNROLL
    for (int t = 0; t < Count; ++t) {
      NNK_UNROLL
      for (int s = 0; s < Sums; ++s) sums[s] = fma(terms[t], matrix[t][s], sums[s]);
    }
  }

  template <bool Conjugate> static NNK_FN V conjugated(const V& x) {
    return Conjugate ? conj(x) : x;
  }
};

// N: columns that are loaded at once; Lanes: threads side by side; Terms: rows of B for one reading
// of the sums
// Held: a thread has N columns and keeps their sums in registers, and the Threads / Lanes slices of
// terms meet in shared memory; else there is one slice, and the sums of all columns of the tile
// wait in shared memory
template <class TX, class TB, class TC, class S, class Index, int BatchRank, int N, int Threads,
          int Lanes, int Terms, bool Held, bool UnitB, bool ConjugateX, bool ConjugateB,
          class Epilogue>
struct GemvAcross {
  static constexpr int slices = Threads / Lanes;
  static_assert(Held || slices == 1, "sums that wait have one slice of terms");
  using V = Vec<S, N>;
  static constexpr int register_budget = sizeof(S) > 4 ? 128 : 0;
  using Args = GemvArgs<TX, TB, TC, Index, BatchRank, Epilogue>;
  using Tile = GemvTile<TX, TB, TC, Index, Epilogue>;

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const Tile tile = Tile::of(args, group.block());
    const auto waiting = group.template dynamic_shared<S>(
        0, Held ? (slices > 1 ? slices * Lanes * N : 0) : args.columns);
    const int lane = group.rank() % Lanes, slice = group.rank() / Lanes;
    if constexpr (Held) {
      V sum = V::splat(S());
      if (lane * N < tile.columns) {
        Index k = Index(slice) * Terms;
        for (; k + Terms <= tile.b.shape[0]; k += slices * Terms)
          add<Terms>(tile, k, lane * N, sum);
        // The last, cut group of terms belongs to one slice.
        for (int t = 0; t < Terms && k + t < tile.b.shape[0]; ++t)
          add<1>(tile, k + t, lane * N, sum);
      }
      if constexpr (slices > 1) {
        waiting.store_vec((slice * Lanes + lane) * N, sum);
        group.barrier();
        if (slice == 0)
          for (int other = 1; other < slices; ++other)
            sum = sum + waiting.template load_vec<N>((other * Lanes + lane) * N);
      }
      if (slice == 0 && lane * N < tile.columns) write(tile, lane * N, sum);
    } else {
      Index k = 0;
      for (int j = lane * N; j < tile.columns; j += Lanes * N) waiting.store_vec(j, V::splat(S()));
      for (; k + Terms <= tile.b.shape[0]; k += Terms) pass<Terms>(tile, k, lane, waiting);
      for (; k < tile.b.shape[0]; ++k) pass<1>(tile, k, lane, waiting);
      for (int j = lane * N; j < tile.columns; j += Lanes * N)
        write(tile, j, waiting.template load_vec<N>(j));
    }
  }

 private:
  // Adds `Count` rows of B, times their elements of x, to the sums of all columns.
  template <int Count>
  static NNK_FN void pass(const Tile& tile, Index k, int lane, const Shared<S>& waiting) {
    for (int j = lane * N; j < tile.columns; j += Lanes * N) {
      V sum = waiting.template load_vec<N>(j);
      if constexpr (UnitB) fetch_next_rows<Count>(tile, k, j);
      add<Count>(tile, k, j, sum);
      waiting.store_vec(j, sum);
    }
  }

  // Fetches what the next `Count` rows have in N columns, some 64 KiB of reading ahead. A processor
  // would see each row begin as a stream of its own, and another one in each of its pages.
  template <int Count> static NNK_FN void fetch_next_rows(const Tile& tile, Index k, int j) {
    const auto row = reinterpret_cast<const char*>(tile.b.at(NNK_HERE, k, tile.first + j));
    NNK_UNROLL
    for (int t = 0; t < Count; ++t)
      fetch<2, N* int(sizeof(TB))>(row + (Count + t) * int64(tile.b.stride[0]));
  }

  // Adds them to the sums of N columns.
  template <int Count> static NNK_FN void add(const Tile& tile, Index k, int j, V& sum) {
    const int left = tile.columns - j;
    V b[Count];
    S x[Count];
    NNK_UNROLL
    for (int t = 0; t < Count; ++t) {
      const Line<const TB, Index, UnitB ? unit_step : any_step> row{
          tile.b.at(NNK_HERE, k + t, tile.first + j), Index(left), tile.b.stride[1]};
      b[t] = loaded<S, ConjugateB, N>(row, 0, left);
      const S term = convert_scalar<S>(nnk::load<1>(tile.x.at(NNK_HERE, k + t))[0]);
      x[t] = ConjugateX ? conj(term) : term;
    }
    NNK_UNROLL
    for (int t = 0; t < Count; ++t) sum = fma(V::splat(x[t]), b[t], sum);
  }

  static NNK_FN void write(const Tile& tile, int j, const V& sum) {
    tile.write(j, tile.columns - j < N ? tile.columns - j : N, sum);
  }
};

}  // namespace nnk
