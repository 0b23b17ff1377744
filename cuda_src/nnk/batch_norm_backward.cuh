// Gradients of batch normalisation, from dy and x alone: mean and deviation are taken anew in the
// one reading that the sums need anyway.
//
//   dbias = sum dy         dweight = sum dy xhat        xhat = (x - mean) rstd
//   training:   dx = weight rstd (dy - dbias / n - xhat dweight / n)
//   inference:  dx = weight rstd dy, mean and rstd from the running statistics
//
// Four numbers for each channel make dx an fma of an fma:  dx = a dy + b (x - mean) + c.
#pragma once
#include "nnk/batch_norm_apply.cuh"
#include "nnk/channel_team.cuh"
#include "nnk/pair_stats.cuh"

namespace nnk {

// T           type of x and dx;  D  type of dy;  S  computing type
// Parameters  Types<weight, running mean, running variance>, void for what is not given
// Gradients   Types<dweight, dbias>, void for what is not wanted
// operands of the geometry: x, dy, dx
template <class T, class D, class S, class Parameters, class Gradients, bool Training,
          class Geometry, int Layout, class Steps, int N, int Columns, int Threads, int Team,
          bool Crosses, int Stage, bool Streaming>
struct BatchNormBackward {
  using Index = typename Geometry::index_type;
  using Rows = ChannelTeam<Geometry, Layout, Steps, S, N, Columns, Threads, Team, Crosses>;
  using Stats = PairStats<Rows>;
  using V = Vec<S, N>;
  // As many as four blocks on a multiprocessor may have, where these have all of a call's parts.
  static constexpr int register_budget =
      Layout == across && N * int(sizeof(S)) <= 16 && Stage != channel_statistics ? 64 : 128;

  struct Args {
    const T* x;
    const D* dy;
    T* dx;
    const void* parameter[3];
    void* gradient[2];
    S* coefficients;            // mean, a, b and c: [4][coefficient_row]
    PairMoments<S>* workspace;  // channels x parts, for channel_part and channel_finish
    int64 parts;
    Index part_groups;
    Index channels;
    Index coefficient_row;
    Index parameter_step[3];  // in bytes
    S eps;
    Geometry geometry;
  };
  // mean, a, b and c
  struct Coefficients {
    S number[4];
    NNK_FN S operator[](int i) const { return number[i]; }
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    if constexpr (Stage == channel_finish) {
      finish(group, args);
    } else {
      const bool split = Stage == channel_part || Stage == channel_apply;
      const int64 tile = split ? divide_blocks(group.block(), args.parts) : group.block();
      const int64 part = split ? group.block() - tile * args.parts : 0;
      const Rows rows(group, args.geometry, tile);
      const Index first = Index(part) * args.part_groups;
      const Index last =
          rows.groups - first < args.part_groups ? rows.groups : first + args.part_groups;
      if constexpr (Stage == channel_apply) return apply_part(rows, args, first, last);
      Stats stats;
      stats.online(rows, first, last,
                   [&](Index g, int c, bool full) { return load(rows, args, g, c, full); });
      rows.each_row([&](int i, int c) {
        const Index channel = rows.result_row + c * Rows::lanes + i;
        if constexpr (Stage == channel_part)
          args.workspace[int64(channel) * args.parts + part] = stats.at(i, c);
        else write_channel(args, channel, stats.at(i, c));
      });
      if constexpr (Stage == channel_whole) apply(rows, args, stats);
    }
  }

 private:
  static NNK_FN typename Stats::Pair load(const Rows& rows, const Args& args, Index g, int c,
                                          bool full) {
    return {rows.template load<0>(args.x, g, c, full, S(0)),
            rows.template load<1>(args.dy, g, c, full, S(0))};
  }

  template <int I> static NNK_FN S value(const Args& args, Index c, S otherwise) {
    return channel_value<type_at<I, Parameters>>(args.parameter[I], args.channels,
                                                 args.parameter_step[I], c, otherwise);
  }
  static NNK_FN S rstd_of(const Args& args, Index c, const PairMoments<S>& m) {
    const S variance = Training ? m.m2 / S(args.geometry.length) : value<2>(args, c, S(1));
    return reciprocal_root(variance + args.eps);
  }
  static NNK_FN Coefficients coefficients(const Args& args, Index c, const PairMoments<S>& m) {
    const S rstd = rstd_of(args, c, m), a = value<0>(args, c, S(1)) * rstd;
    if constexpr (!Training) return {{S(0), a, S(0), S(0)}};
    const S b = -(a * rstd) * (m.co * rstd / S(args.geometry.length));
    return {{m.mean, a, b, -(a * m.other) - b * m.low}};
  }
  static NNK_FN void write_channel(const Args& args, Index c, const PairMoments<S>& m) {
    if constexpr (Stage != channel_whole) {
      const Coefficients k = coefficients(args, c, m);
      NNK_UNROLL
      for (int i = 0; i < 4; ++i) args.coefficients[i * args.coefficient_row + c] = k[i];
    }
    const S sum = S(args.geometry.length) * m.other;
    S deviations = m.co;  // sum of dy (x - mean)
    if constexpr (!Training) deviations = m.co + sum * ((m.mean - value<1>(args, c, S(0))) + m.low);
    store_channel<type_at<0, Gradients>>(args.gradient[0], args.channels, c,
                                         deviations * rstd_of(args, c, m));
    store_channel<type_at<1, Gradients>>(args.gradient[1], args.channels, c, sum);
  }

  static NNK_FN void apply(const Rows& rows, const Args& args, const Stats& stats) {
    V k[Columns][4];
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      rows.spread(c, k[c], [&](int i) {
        return coefficients(args, rows.result_row + c * Rows::lanes + i, stats.at(i, c));
      });
    }
    rows.each(0, rows.groups, [&](Index g, bool full, int) {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) {
        V dx;
        if constexpr (Training) {
          const auto v = load(rows, args, g, c, full);
          dx = BatchNormGradient::apply(&args.eps, v.dy, v.x, k[c][0], k[c][1], k[c][2], k[c][3]);
        } else {
          dx = k[c][1] * rows.template load<1>(args.dy, g, c, full, S(0));
        }
        rows.template store<2, Streaming>(args.dx, g, c, full, dx);
      }
    });
  }

  // From the coefficients that another launch wrote.
  static NNK_FN void apply_part(const Rows& rows, const Args& args, Index first, Index last) {
    V k[Columns][4];
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      rows.spread(c, k[c], [&](int i) {
        const S* of = args.coefficients + rows.result_row + c * Rows::lanes + i;
        const Index next = args.coefficient_row;
        return Coefficients{{of[0], of[next], of[2 * next], of[3 * next]}};
      });
    }
    rows.template each_from_last<channel_depth>(
        first, last,
        [&](Index g, int c, bool full) {
          if constexpr (Training) return load(rows, args, g, c, full);
          else return rows.template load<1>(args.dy, g, c, full, S(0));
        },
        [&](Index g, int c, bool full, const auto& v) {
          V dx;
          if constexpr (Training)
            dx = BatchNormGradient::apply(&args.eps, v.dy, v.x, k[c][0], k[c][1], k[c][2], k[c][3]);
          else dx = BatchNormScale::apply(&args.eps, v, k[c][1]);
          rows.template store<2>(args.dx, g, c, full, dx);
        });
  }

  template <class G> static NNK_FN void finish(const G& group, const Args& args) {
    using Part = PairMoments<S>;
    const ChannelParts<Part, S, Index> parts(group, args, Layout == along ? N : 1);
    if (parts.channel >= int64(args.channels)) return;  // whole warps
    Part m;
    parts.fold(m);
    m.other = parts.sum([&](const Part& p, S n) { return n * p.other; }) / S(parts.length);
    m.co = parts.sum(
        [&](const Part& p, S n) { return p.co + n * parts.off(p, m) * (p.other - m.other); });
    if (parts.lane == 0) write_channel(args, Index(parts.channel), m);
  }
};

}  // namespace nnk
