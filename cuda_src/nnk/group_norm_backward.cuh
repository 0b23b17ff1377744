// Gradients of group and instance normalisation where each channel of a group lies by itself in
// memory: x and dy are read once for all sums, and once more, from caches or shared memory, for dx.
//
// A row of RowTeam is a channel of one batch element here, and gives its moments and those of dy
// (PairStats). With the weights these make all that the group needs: for h = (x - mean) rstd and
// g = dy weight,
//
//   dx = rstd (g - mean(g) - h mean(g h))         means over the group, of n elements
//   sum(g) = sum over channels c of w_c sum_c(dy)
//   sum(g h) = rstd sum over channels c of w_c sum_c(dy (x - mean))
//
// and the parts of this batch element in dweight and dbias: sum_c(dy h) and sum_c(dy). NormSums
// adds these of all batch elements, in order.
//
//   whole_row                 a block has a group: its teams of threads take the channels in turn
//   part_of_row, finish_row   few groups: a block has a channel, in two launches
#pragma once
#include "nnk/norm_backward_row.cuh"
#include "nnk/pair_stats.cuh"

namespace nnk {

// What is known of a channel.
template <class S> struct ChannelMoments {
  PairMoments<S> of;
  S weight;
};

// T  type of x, added and dx;  D  type of dy;  W  type of the weight;  operands of the geometry: x,
// dy, weight, added, dx. Weighted, Added: whether there is a weight, and something to add to dx.
// Outputs: how many gradients of parameters there are: none, that of the weight, or both.
template <class T, class D, class W, class S, class Geometry, int Layout, class Steps, int N,
          int Columns, int Threads, int Team, int Keep, int Stage, bool Streaming, bool Weighted,
          bool Added, int Outputs>
struct GroupNormBackward {
  using Index = typename Geometry::index_type;
  using Rows = RowTeam<Geometry, Layout, Steps, S, N, Columns, Threads, Team>;
  using V = Vec<S, N>;
  using Channels = PairStats<Rows>;
  using Pair = typename Channels::Pair;
  using Moments = ChannelMoments<S>;
  static constexpr int register_budget = 128;
  static constexpr bool kept = Keep == keep_shared;
  static_assert(Layout == along && Columns == 1, "a team has one channel at a time");
  static_assert(Stage == whole_row || Team == Threads, "a block has one channel");

  struct Args {
    const T* x;
    const D* dy;
    const W* weight;
    const T* added;
    T* dx;
    S* sums;             // [dweight, dbias][rows]: by batch element and channel
    Moments* workspace;  // of every row, for part_of_row and finish_row
    S eps;
    int64 parts;        // channels of a group
    Index part_groups;  // groups of elements in a channel
    int32 kept;         // elements of shared memory
    Geometry geometry;
  };
  // What the channels of a group have in common: see above; mean + low is the mean of x.
  struct Stats { S mean, low, rstd, mean_g, mean_gh; };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    if constexpr (Stage == whole_row) {
      whole(group, args);
    } else {
      const int64 row = group.block();
      const Rows rows(group, args.geometry, row);
      const auto load = [&](Index g, bool full) NNK_INLINE { return read(rows, args, g, full); };
      if constexpr (Stage == part_of_row) {
        const Moments m = measure(rows, args, rows.groups, load);
        if (rows.member == 0) args.workspace[row] = m;
      } else {
        const Moments* first = args.workspace + divide_blocks(row, args.parts) * args.parts;
        const Stats stats = fold_channels(group, args, [&](int k) { return first[k]; });
        finish(rows, args, stats, args.workspace[row], rows.groups, load);
      }
    }
  }

 private:
  template <class G> static NNK_FN void whole(G& group, const Args& args) {
    // Moments of all channels, and behind them, from whole vectors on, x and dy.
    const int channels = int(args.parts);
    const auto moments = group.template dynamic_shared<Moments>(0, channels);
    const int64 first = group.block() * args.parts;
    const int own = Team == Threads ? 0 : group.rank() / Team;
    for (int start = 0; start < channels; start += Rows::side_by_side) {
      const int k = start + own;
      const Rows rows(group, args.geometry, first + k, k < channels);
      const Moments m =
          measure(rows, args, k < channels ? rows.groups : 0, first_loader(group, rows, args, k));
      if (k < channels && rows.member == 0) moments.store(k, m);
    }
    group.barrier();
    const Stats stats = fold_channels(group, args, [&](int k) { return moments.load(k); });
    for (int start = 0; start < channels; start += Rows::side_by_side) {
      const int k = start + own;
      if (k >= channels) break;  // no barrier follows
      const Rows rows(group, args.geometry, first + k, true);
      finish(rows, args, stats, moments.load(k), rows.groups, again(group, rows, args, k));
    }
  }

  // ---- elements ------------------------------------------------------------------------------

  static NNK_FN Pair read(const Rows& rows, const Args& args, Index g, bool full) {
    return {rows.template load<0>(args.x, g, 0, full, S(0)),
            rows.template load<1>(args.dy, g, 0, full, S(0))};
  }
  // Where x and dy of channel k are kept: a thread reads what it wrote itself.
  struct Places {
    Shared<S> x, dy;
    int first;
    NNK_FN int at(Index g) const { return (first + int(g)) * N; }
  };
  template <class G>
  static NNK_FN Places places(G& group, const Rows& rows, const Args& args, int k) {
    // Moments are 6 numbers; x begins at a multiple of 16.
    const int channels = int(args.parts), start = (6 * channels + 15) / 16 * 16;
    const int elements = channels * int(rows.groups) * N, bytes = int(sizeof(S));
    return {group.template dynamic_shared<S>(start * bytes, elements),
            group.template dynamic_shared<S>((start + elements) * bytes, elements),
            k * int(rows.groups)};
  }
  // For the first pass: keeps what it reads.
  template <class G>
  static NNK_FN auto first_loader(G& group, const Rows& rows, const Args& args, int k) {
    static_assert(sizeof(Moments) == 6 * sizeof(S), "see places");
    if constexpr (kept) {
      const Places to = places(group, rows, args, k);
      return [=, &rows, &args](Index g, bool full) NNK_INLINE {
        const Pair v = read(rows, args, g, full);
        to.x.store_vec(to.at(g), v.x);
        to.dy.store_vec(to.at(g), v.dy);
        return v;
      };
    } else {
      return [&rows, &args](Index g, bool full) NNK_INLINE {
        if (g % 2 == 0) fetch(rows, args, g / 2);
        return read(rows, args, g, full);
      };
    }
  }
  // For the second.
  template <class G> static NNK_FN auto again(G& group, const Rows& rows, const Args& args, int k) {
    if constexpr (kept) {
      const Places from = places(group, rows, args, k);
      return [=](Index g, bool) NNK_INLINE {
        return Pair{from.x.template load_vec<N>(from.at(g)),
                    from.dy.template load_vec<N>(from.at(g))};
      };
    } else {
      return [&rows, &args](Index g, bool full) NNK_INLINE { return read(rows, args, g, full); };
    }
  }

  // ---- statistics ----------------------------------------------------------------------------

  // Of a channel; in a team that has none, of nothing.
  template <class F>
  static NNK_FN Moments measure(const Rows& rows, const Args& args, Index last, F load) {
    Channels channel;
    channel.online(rows, 0, last,
                   [&](Index g, int, bool full) NNK_INLINE { return load(g, full); });
    S weight = S(1);
    if constexpr (Weighted) weight = rows.template load<2>(args.weight, 0, 0, false, S(0))[0];
    return {channel.at(0, 0), weight};
  }
  // What the mean of the group is off from that of a channel.
  static NNK_FN S off_by(const PairMoments<S>& of, S mean) { return (of.mean - mean) + of.low; }

  template <class G, class F>
  static NNK_FN Stats fold_channels(const G& group, const Args& args, F moments) {
    const int channels = int(args.parts);
    const S elements = S(args.geometry.length), share = S(1) / (elements * S(channels));
    S mean = S(0);
    NNK_NO_UNROLL
    for (int k = group.rank(); k < channels; k += Threads) mean = mean + moments(k).of.mean;
    mean = reduce<Sum<S>>(group, mean) / S(channels);
    NormSumsOfRow<S> t = SumNormRow<S>::identity();
    NNK_NO_UNROLL
    for (int k = group.rank(); k < channels; k += Threads) {
      const Moments m = moments(k);
      const S off = off_by(m.of, mean), moved = elements * off, sum = elements * m.of.other;
      t = SumNormRow<S>::combine(
          t, {moved, m.of.m2 + moved * off, m.weight * (m.of.co + off * sum), m.weight * sum});
    }
    t = reduce<SumNormRow<S>>(group, t);
    const S low = t.sum * share;
    using One = Vec<S, 1>;
    const One squares = max(One::splat(t.squares - low * t.sum), One::splat(S(0)));
    const S rstd = (S(1) / sqrt(squares * share + args.eps))[0];
    return {mean, low, rstd, t.cotangents * share,
            (t.products - low * t.cotangents) * rstd * share};
  }

  // ---- results -------------------------------------------------------------------------------

  // dx of a channel, and its parts of dweight and dbias.
  template <class F>
  static NNK_FN void finish(const Rows& rows, const Args& args, const Stats& stats,
                            const Moments& m, Index last, F load) {
    if constexpr (Outputs > 0) {
      if (rows.member == 0) {
        const S sum = S(args.geometry.length) * m.of.other;
        const S deviations = m.of.co + (off_by(m.of, stats.mean) - stats.low) * sum;
        args.sums[rows.result_row] = deviations * stats.rstd;
        if constexpr (Outputs == 2) args.sums[args.geometry.rows + rows.result_row] = sum;
      }
    }
    const V mean = V::splat(stats.mean), weight = V::splat(m.weight), rstd = V::splat(stats.rstd);
    const V low = V::splat(stats.low * stats.rstd), mean_gh = V::splat(-stats.mean_gh),
            mean_g = V::splat(-stats.mean_g);
    rows.each(0, last, [&](Index g, bool full, int) NNK_INLINE {
      const Pair v = load(g, full);
      if (g % 2) fetch(rows, args, (rows.groups + g) / 2);
      const V h = fma_always(v.x - mean, rstd, -low);
      V dx = fma_always(v.dy, weight, fma_always(h, mean_gh, mean_g)) * rstd;
      if constexpr (Added) dx = dx + rows.template load<3>(args.added, g, 0, full, S(0));
      rows.template store<4, Streaming>(args.dx, g, 0, full, dx);
    });
  }
  // The group after this one most likely lies behind it: memory has little else to do while a
  // channel is written.
  static NNK_FN void fetch(const Rows& rows, const Args& args, Index g) {
    if constexpr (Stage == whole_row && lanes_are_simd && Geometry::inner_rank == 1) {
      constexpr int channel = Geometry::outer_rank - 1;
      const auto& step = args.geometry.inner_stride;
      const auto& next = args.geometry.outer_stride;
      const Index ahead = Index(args.parts);
      prefetch<2>(byte_offset(
          args.x, Index(rows.base[0][0] + g * N * step[0][0] + ahead * next[0][channel])));
      prefetch<2>(byte_offset(
          args.dy, Index(rows.base[0][1] + g * N * step[1][0] + ahead * next[1][channel])));
    }
  }
};

}  // namespace nnk
