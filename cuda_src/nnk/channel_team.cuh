// ChannelTeam: RowTeam for the channels of batch normalisation.
//
// A row is a channel: all elements of one position of the channel axis, in memory order of the
// other axes. The order in which elements meet depends on that order alone, not on strides: a
// group of N elements may cross the end of the last inner axis (images of 7 x 7, or a view whose
// axes are not one in memory), and is then put together element by element. So a view and its
// copy give the same bits.
#pragma once
#include "nnk/row_team.cuh"

namespace nnk {

// Crosses: whether a group of the row may cross the end of the last inner axis (along only).
template <class Geometry, int Layout, class Steps, class S, int N, int Columns, int Threads,
          int Team, bool Crosses>
struct ChannelTeam : RowTeam<Geometry, Layout, Steps, S, N, Columns, Threads, Team> {
  using Base = RowTeam<Geometry, Layout, Steps, S, N, Columns, Threads, Team>;
  using Index = typename Base::Index;
  using V = typename Base::V;
  static constexpr bool crosses = Layout == along && Crosses;

  NNK_FN ChannelTeam(const Group<Threads>& g, const Geometry& geo, int64 tile)
      : Base(g, geo, tile) {}

  template <int O, class T> NNK_FN V load(const T* data, Index g, int c, bool full, S fill) const {
    return load_as<O>(data, g, c, full, fill);
  }
  template <int O, class C, class T>
  NNK_FN Vec<C, N> load_as(const T* data, Index g, int c, bool full, C fill) const {
    if constexpr (!crosses) {
      return Base::template load_as<O>(data, g, c, full, fill);
    } else {
      if (lies_together(g)) return Base::template load_as<O>(data, g, c, true, fill);
      return gather<O>(data, g, fill);
    }
  }
  template <int O, bool Streaming = false, class T, class C>
  NNK_FN void store(T* data, Index g, int c, bool full, const Vec<C, N>& v) const {
    if constexpr (!crosses) {
      Base::template store<O, Streaming>(data, g, c, full, v);
    } else {
      if (lies_together(g)) {
        Base::template store<O, Streaming>(data, g, c, true, v);
        return;
      }
      scatter<O>(data, g, v);
    }
  }

  // f(i, c): row i of the lanes of column c, where it exists and is this thread's to write.
  template <class F> NNK_FN void each_row(F f) const {
    if (this->member != 0) return;
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      NNK_UNROLL
      for (int i = 0; i < Base::lanes; ++i)
        if (c * Base::lanes + i < this->present) f(i, c);
    }
  }

  // f(g, c, full, load(g, c, full)) for the groups [first, last) of this thread from the last one
  // on: those that were read last are still in a cache. Depth loads are under way at once.
  template <int Depth, class L, class F>
  NNK_FN void each_from_last(Index first, Index last, L load, F f) const {
    if (this->present == N * Columns) each_from_last<Depth>(first, last, true, load, f);
    else each_from_last<1>(first, last, false, load, f);
  }

  // The coefficients of every lane of column c, given those of a row of this thread by its number.
  // Coefficients has `count` numbers.
  template <int count, class F> NNK_FN void spread(int c, V (&lanes)[count], F coefficients) const {
    NNK_UNROLL
    for (int k = 0; k < count; ++k) lanes[k] = V::splat(S(0));
    NNK_UNROLL
    for (int i = 0; i < Base::lanes; ++i) {
      if (c * Base::lanes + i >= this->present) continue;
      const auto found = coefficients(i);
      NNK_UNROLL
      for (int k = 0; k < count; ++k) {
        if constexpr (Layout == along) lanes[k] = V::splat(found[k]);
        else lanes[k].set(i, found[k]);
      }
    }
  }

 private:
  template <int Depth, class L, class F>
  NNK_FN void each_from_last(Index first, Index last, bool full, L load, F f) const {
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      Index g = last - 1 - this->member;
      for (; g - (Depth - 1) * Team >= first; g -= Depth * Team) {
        decltype(load(g, c, full)) v[Depth];
        NNK_UNROLL
        for (int k = 0; k < Depth; ++k) v[k] = load(g - k * Team, c, full);
        NNK_UNROLL
        for (int k = 0; k < Depth; ++k) f(g - k * Team, c, full, v[k]);
      }
      for (; g >= first; g -= Team) f(g, c, full, load(g, c, full));
    }
  }

  static constexpr int last_axis = Geometry::inner_rank - 1;

  NNK_FN bool lies_together(Index g) const {
    const Divisor<Index>& axis = this->geometry.inner[last_axis];
    const Index first = g * N;
    return first - axis.divide(first) * axis.divisor + N <= axis.divisor;
  }
  // Element by element. Apart, since a CPU's loops have it eight times: inlined, a kernel took four
  // times as long to compile (2.9 s for 0.7), and was no faster.
  template <int O, class C, class T>
  NNK_APART Vec<C, N> gather(const T* data, Index g, C fill) const {
    C lanes[N];
    NNK_UNROLL
    for (int i = 0; i < N; ++i) lanes[i] = fill;
    each_element<O>(data, g, [&](int i, const Line<const T, Index>& at) {
      lanes[i] = convert<C>(at.template load<1>(0))[0];
    });
    Vec<C, N> x;
    NNK_UNROLL
    for (int i = 0; i < N; ++i) x.set(i, lanes[i]);
    return x;
  }
  template <int O, class T, class C>
  NNK_APART void scatter(T* data, Index g, const Vec<C, N>& v) const {
    const auto stored = convert<T>(v);
    each_element<O>(data, g, [&](int i, const Line<T, Index>& at) {
      at.store_partial(0, Vec<T, 1>::splat(stored[i]), 1);
    });
  }
  // f(i, element) for the elements of group g that exist.
  template <int O, class T, class F> NNK_FN void each_element(T* data, Index g, F f) const {
    const Divisor<Index>& axis = this->geometry.inner[last_axis];
    const Index first = g * N;
    const Index left = this->geometry.length - first;
    Index position = first - axis.divide(first) * axis.divisor;
    Index offset = this->base[0][O] + this->template inner_offset<O>(first);
    NNK_UNROLL
    for (int i = 0; i < N; ++i) {
      if (i < left) f(i, Line<T, Index>{byte_offset(data, offset), 1, 0});
      offset += this->geometry.inner_stride[O][last_axis];
      if (++position == axis.divisor) {
        position = 0;
        offset = this->base[0][O] + this->template inner_offset<O>(first + i + 1);
      }
    }
  }
};

// ---- what there is one of for each channel -----------------------------------------------------

// Element c of an array of a type of its own; void: there is none, and it is `otherwise`.
template <class T, class S, class Index>
NNK_FN S channel_value(const void* data, Index channels, Index step, Index c, S otherwise) {
  if constexpr (is_same<T, void>) {
    return otherwise;
  } else {
    const Line<const T, Index> line{static_cast<const T*>(data), channels, step};
    return convert<S>(line.template load<1>(c))[0];
  }
}
// Element c of a dense result.
template <class T, class S, class Index>
NNK_FN void store_channel(void* data, Index channels, Index c, S value) {
  if constexpr (!is_same<T, void>) {
    const Line<T, Index> line{static_cast<T*>(data), channels, Index(sizeof(T))};
    line.store_partial(c, convert<T>(Vec<S, 1>::splat(value)), 1);
  }
}

template <class S> NNK_FN S reciprocal_root(S x) { return (S(1) / sqrt(Vec<S, 1>::splat(x)))[0]; }

// ---- several blocks for a channel --------------------------------------------------------------

// The launches of a channel.
enum : int {
  channel_whole = 0,       // one block does everything
  channel_statistics = 1,  // one block takes the statistics and writes what follows from them
  channel_part = 2,        // one block takes the statistics of a part, to a workspace
  channel_finish = 3,      // a warp for each channel folds its parts
  channel_apply = 4,       // one block writes the result of a part, from coefficients
};
// Groups of a part whose loads are under way at once while its result is written.
constexpr int channel_depth = 4;

// The parts of the channel that is this warp's to fold, one for each lane at a time. Moments has
// at least mean, low and m2: see MomentsValue.
template <class Moments, class S, class Index> struct ChannelParts {
  int64 channel;
  const Moments* saved;
  Index length, part_length;  // elements of the channel, and of every part but the last
  int lane, parts;

  // lanes: how many elements of a group are of one channel.
  template <class G, class Args>
  NNK_FN ChannelParts(const G& group, const Args& args, int lanes)
      : channel(group.block() * (group.size() / warp_width) + group.rank() / warp_width),
        saved(args.workspace + channel * args.parts),
        length(args.geometry.length),
        part_length(args.part_groups * lanes),
        lane(group.rank() % warp_width),
        parts(int(args.parts)) {}

  // The sum of f(part, its elements), in all lanes.
  template <class F> NNK_FN S sum(F f) const {
    S total = S(0);
    for (int p = lane; p < parts; p += warp_width) {
      const Index left = length - Index(p) * part_length;
      total = total + f(saved[p], S(left < part_length ? left : part_length));
    }
    return reduce_lanes<Sum<S>, warp_width>(total);
  }
  // How far the mean of a part lies from that of the channel.
  static NNK_FN S off(const Moments& part, const Moments& m) {
    return (part.mean - m.mean) + part.low;
  }
  // Mean and squared deviations of the channel.
  NNK_FN void fold(Moments& m) const {
    m.mean = sum([&](const Moments& part, S n) { return n * part.mean; }) / S(length);
    const S offs = sum([&](const Moments& part, S n) { return n * off(part, m); });
    const S squares =
        sum([&](const Moments& part, S n) { return part.m2 + n * off(part, m) * off(part, m); });
    m.low = offs / S(length);
    m.m2 = max(squares - m.low * offs, S(0));
  }
};

}  // namespace nnk
