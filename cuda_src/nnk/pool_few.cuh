// Pooling for a block of one thread, where a row has fewer windows than a vector has lanes: lanes
// are rows of windows, of one plane or of several.
//
// The rows that the windows of a lane see are added up in scratch memory, in the order in which
// they lie in memory. The columns of all lanes then change places with the lanes, so that each is
// a vector, and windows add these.
#pragma once
#include "nnk/pool_rows.cuh"

namespace nnk {

// Template parameters as of PoolWindows; Step along the last axis.
template <class Mode, class T, class S, int Step, int N, class Index, bool Adaptive>
struct PoolFewWindows {
  using V = Vec<S, N>;
  using Window = PoolWindow<Index>;
  // Rows of an image that are added up at once.
  static constexpr int together = 4;

  struct Args {
    const void* x;
    void* y;
    int64 units;  // rows of windows
    int64 tile;
    Index padded;  // elements of a row, rounded up to Vecs
    Index include_pad;
    Divisor<Index> by_planes;
    PoolAxis<Index, Adaptive> axis[3];
    PoolStrides<Index> at[2];
    S parameters[4];
  };

  // The rows of windows of a vector.
  struct Lanes {
    S* sums;      // of each lane, a row
    S* columns;   // of each column, a vector
    S rows[N];    // rows of the image by which an average divides
    Index to[N];  // bytes to the first result
    int count;
    bool adjacent;  // whether results of neighbouring lanes are neighbours
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 first = group.block() * args.tile;
    const int64 last = lesser_of(first + args.tile, args.units);
    Lanes lanes{};
    lanes.sums = group.template dynamic_shared<S>(0, int(2 * N * args.padded)).data;
    lanes.columns = lanes.sums + N * args.padded;
    const auto &deep = args.axis[0], &high = args.axis[1];
    // Numbered by (plane, plane, depth, height).
    const Index row = Index(first), depth = high.by_out.divide(row);
    const Index plane = deep.by_out.divide(depth);
    Index a = args.by_planes.divide(plane), b = plane - a * args.by_planes.divisor;
    Index d = depth - plane * deep.out, h = row - depth * high.out;
    for (int64 unit = first; unit < last; unit += N) {
      lanes.count = int(lesser_of(int64(N), last - unit));
      for (int l = 0; l < lanes.count; ++l) {
        const Window wd = deep.window(d), wh = high.window(h);
        add_rows(args, args.at[0].of_plane(a, b), wd, wh, lanes.sums + l * args.padded);
        lanes.rows[l] = args.include_pad ? S(wd.padded * wh.padded) : S(wd.inside() * wh.inside());
        lanes.to[l] = args.at[1].of_plane(a, b) + args.at[1].at(d, h, 0);
        if (++h < high.out) continue;
        h = 0;
        if (++d < deep.out) continue;
        d = 0;
        if (++b < args.by_planes.divisor) continue;
        b = 0;
        ++a;
      }
      lanes.adjacent = lanes.count == N;
      for (int l = 1; l < lanes.count; ++l)
        lanes.adjacent = lanes.adjacent && lanes.to[l] - lanes.to[l - 1] == Index(sizeof(T));
      turn(args, lanes);
      add_columns(args, lanes);
    }
  }

 private:
  static NNK_FN void add_rows(const Args& args, Index bytes, const Window& wd, const Window& wh,
                              S* sums) {
    const auto& axis = args.axis;
    using Row = Line<const T, Index, Step>;
    Row rows[together];
    int found = 0;
    bool fresh = true;
    for (Index a = wd.first; a < wd.last; ++a) {
      for (Index b = wh.first; b < wh.last; ++b) {
        const Index d = wd.start + a * axis[0].step(), h = wh.start + b * axis[1].step();
        const T* from = byte_offset(static_cast<const T*>(args.x), bytes + args.at[0].at(d, h, 0));
        rows[found++] = {from, axis[2].size, args.at[0].space[2]};
        if (found < together) continue;
        combine<together>(args, rows, fresh, sums);
        fresh = false;
        found = 0;
      }
    }
    if (found == 3) combine<3>(args, rows, fresh, sums);
    else if (found == 2) combine<2>(args, rows, fresh, sums);
    else if (found == 1) combine<1>(args, rows, fresh, sums);
    else if (fresh) combine<0>(args, rows, fresh, sums);
  }
  template <int Rows, class Row>
  static NNK_FN void combine(const Args& args, const Row* rows, bool fresh, S* sums) {
    const Index width = args.axis[2].size;
    const V identity = V::splat(Mode::template identity<T, S>());
    Index i = 0;
    for (; i + N <= width; i += N) {
      V column = fresh ? identity : nnk::load<N>(sums + i);
      NNK_UNROLL
      for (int r = 0; r < Rows; ++r) {
        prefetch<1>(byte_offset(rows[r].at(i), pool_rows_ahead));
        column = Mode::add(args.parameters, column, convert<S>(rows[r].template load<N>(i)));
      }
      nnk::store(sums + i, column);
    }
    if (i == width) return;
    const int left = int(width - i);
    V column = fresh ? identity : nnk::load<N>(sums + i);
    NNK_UNROLL
    for (int r = 0; r < Rows; ++r) {
      prefetch<1>(byte_offset(rows[r].at(i), pool_rows_ahead));
      const auto x = rows[r].template load_partial<N>(i, left, T());
      column = Mode::add(args.parameters, column, convert<S>(x));
    }
    nnk::store(sums + i, column);
  }

  // Columns become vectors: squares of as many rows as a register has lanes.
  static NNK_FN void turn(const Args& args, const Lanes& lanes) {
    constexpr int L = transposed_lanes<S, N>();
    for (Index i = 0; i < args.padded; i += L) {
      NNK_UNROLL
      for (int l = 0; l < N; l += L) {
        Vec<S, L> square[L];
        NNK_UNROLL
        for (int k = 0; k < L; ++k)
          square[k] = nnk::load<L>(lanes.sums + (l + k) * args.padded + i);
        transpose(square);
        NNK_UNROLL
        for (int k = 0; k < L; ++k) nnk::store(lanes.columns + (i + k) * N + l, square[k]);
      }
    }
  }

  static NNK_FN void add_columns(const Args& args, const Lanes& lanes) {
    const auto& axis = args.axis[2];
    const V rows = nnk::load<N>(lanes.rows);
    for (Index o = 0; o < axis.out; ++o) {
      const Window w = axis.window(o);
      V total = V::splat(Mode::template identity<T, S>());
      for (Index c = w.first; c < w.last; ++c)
        total = Mode::merge(total, nnk::load<N>(lanes.columns + (w.start + c * axis.step()) * N));
      const S columns = S(args.include_pad ? w.padded : w.inside());
      const V count = Mode::counts ? rows * columns : V::splat(S(1));
      const auto y = convert<T>(Mode::finish(args.parameters, total, count));
      T* to = byte_offset(static_cast<T*>(args.y), o * args.at[1].space[2]);
      if (lanes.adjacent) {
        nnk::store(byte_offset(to, lanes.to[0]), y);
      } else {
        T lane[N];
        nnk::store(static_cast<T*>(lane), y);
        for (int l = 0; l < lanes.count; ++l)
          nnk::store(byte_offset(to, lanes.to[l]), nnk::load<1>(lane + l));
      }
    }
  }
};

}  // namespace nnk
