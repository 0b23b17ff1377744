// Pooling of large windows for a block of one thread, where planes lie element beside element: the
// rows that windows see are added up in scratch memory first, in the order in which they lie in
// memory, and the columns of a window then. Windows one by one (pool.cuh) would go down a column at
// a time, which of large images is another page with each element.
#pragma once
#include "nnk/pool_axis.cuh"

namespace nnk {

// Template parameters as of PoolWindows; Step of all operands along the planes.
template <class Mode, class T, class S, int Step, int N, class Index, bool Streaming>
struct PoolColumns {
  using V = Vec<S, N>;
  using Window = PoolWindow<Index>;

  struct Args {
    const void* x;
    void* y;
    int64 units;  // rows of windows, of groups of planes
    int64 tile;
    Index lanes, group;  // planes along the vectors, and those that are made at once
    Index padded;        // those of a group, rounded up to Vecs
    Index include_pad;
    Divisor<Index> by_groups, by_planes;
    PoolAxis<Index, false> axis[3];
    PoolStrides<Index> at[2];
    S parameters[4];
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 first = group.block() * args.tile;
    const int64 last = lesser_of(first + args.tile, args.units);
    const int elements = int(args.axis[2].size * args.padded);
    S* columns = group.template dynamic_shared<S>(0, elements).data;
    for (Index unit = Index(first); unit < Index(last); ++unit) {
      // Numbered by (plane, plane, group, depth, height).
      const Index depth = args.axis[1].by_out.divide(unit);
      const Index groups = args.axis[0].by_out.divide(depth);
      const Index planes = args.by_groups.divide(groups), a = args.by_planes.divide(planes);
      const Index b = planes - a * args.by_planes.divisor;
      const Index lane = (groups - planes * args.by_groups.divisor) * args.group;
      const Index d = depth - groups * args.axis[0].out, h = unit - depth * args.axis[1].out;
      const Window wd = args.axis[0].window(d), wh = args.axis[1].window(h);
      const Index count = lesser_of(args.group, args.lanes - lane);
      add_rows(args, args.at[0].of_plane(a, b) + lane * args.at[0].lane, wd, wh, count, columns);
      const S rows = args.include_pad ? S(wd.padded * wh.padded) : S(wd.inside() * wh.inside());
      const Index y = args.at[1].of_plane(a, b) + lane * args.at[1].lane + args.at[1].at(d, h, 0);
      add_columns(args, y, rows, count, columns);
    }
  }

 private:
  static NNK_FN void add_rows(const Args& args, Index bytes, const Window& wd, const Window& wh,
                              Index count, S* columns) {
    const auto& axis = args.axis;
    const V identity = V::splat(Mode::template identity<T, S>());
    bool fresh = true;
    for (Index a = wd.first; a < wd.last; ++a) {
      for (Index b = wh.first; b < wh.last; ++b) {
        const Index row = bytes + args.at[0].at(wd.start + a * axis[0].dilation,
                                                wh.start + b * axis[1].dilation, 0);
        for (Index w = 0; w < axis[2].size; ++w) {
          const Line<const T, Index, Step> line{
              byte_offset(static_cast<const T*>(args.x), row + w * args.at[0].space[2]), count,
              args.at[0].lane};
          S* to = columns + w * args.padded;
          Index i = 0;
          for (; i + N <= count; i += N) {
            const V column = fresh ? identity : nnk::load<N>(to + i);
            nnk::store(to + i,
                       Mode::add(args.parameters, column, convert<S>(line.template load<N>(i))));
          }
          if (i < count) {
            const V column = fresh ? identity : nnk::load<N>(to + i);
            const auto x = line.template load_partial<N>(i, int(count - i), T());
            nnk::store(to + i, Mode::add(args.parameters, column, convert<S>(x)));
          }
        }
        fresh = false;
      }
    }
    if (!fresh) return;
    for (Index i = 0; i < axis[2].size * args.padded; i += N) nnk::store(columns + i, identity);
  }

  static NNK_FN void add_columns(const Args& args, Index y, S rows, Index count, const S* columns) {
    const auto& axis = args.axis[2];
    for (Index o = 0; o < axis.out; ++o) {
      const Window w = axis.window(o);
      V number = V::splat(S(1));
      if constexpr (Mode::counts)
        number = V::splat(rows * S(args.include_pad ? w.padded : w.inside()));
      const Line<T, Index, Step> line{
          byte_offset(static_cast<T*>(args.y), y + o * args.at[1].space[2]), count,
          args.at[1].lane};
      for (Index i = 0; i < count; i += N) {
        V total = V::splat(Mode::template identity<T, S>());
        for (Index c = w.first; c < w.last; ++c) {
          const Index at = w.start + c * axis.dilation;
          total = Mode::merge(total, nnk::load<N>(columns + at * args.padded + i));
        }
        const auto v = convert<T>(Mode::finish(args.parameters, total, number));
        if (count - i < N) line.store_partial(i, v, int(count - i));
        else if constexpr (Streaming) line.store_streaming(i, v);
        else line.store(i, v);
      }
    }
  }
};

}  // namespace nnk
