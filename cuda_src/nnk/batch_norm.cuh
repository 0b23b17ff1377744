// Batch normalisation in training: statistics of each channel, and y where a block has all of it.
//
//   y = activation((x - mean) / sqrt(variance + eps) weight + bias)
//   running = (1 - momentum) running + momentum batch, with the unbiased variance
//
// What follows from the statistics is written as three numbers for each channel, so that y is one
// fma after a difference whatever there is of weight and bias:
//   y = activation((x - mean) scale + shift)   shift has what the rounded mean lacks
#pragma once
#include "nnk/batch_norm_apply.cuh"
#include "nnk/channel_team.cuh"
#include "nnk/row_function.cuh"
#include "nnk/row_stats.cuh"

namespace nnk {

// T           type of x;  U  type of y;  S  computing type
// Parameters  Types<weight, bias, running mean, running variance>, void for what is not given
// operands of the geometry: x, those of prologue and epilogue, further results of the prologue, y
template <class T, class U, class S, class Parameters, class Activation, class Geometry, int Layout,
          class Steps, int N, int Columns, int Threads, int Team, bool Crosses, int Stage,
          bool Streaming, class Prologue = NoPrologue, class Epilogue = NoEpilogue>
struct BatchNormForward {
  using Index = typename Geometry::index_type;
  using Rows = ChannelTeam<Geometry, Layout, Steps, S, N, Columns, Threads, Team, Crosses>;
  using V = Vec<S, N>;
  static constexpr int register_budget = 128;
  static constexpr int y_at = 1 + Prologue::inputs + Epilogue::inputs + Prologue::outputs;

  struct PlainArgs {
    const T* x;
    U* y;
    const void* parameter[4];
    void* running[2];            // the new ones
    S* coefficients;             // mean, scale and shift: [3][coefficient_row]
    MomentsValue<S>* workspace;  // channels x parts, for channel_part and channel_finish
    int64 parts;
    Index part_groups;
    Index channels;
    Index coefficient_row;
    Index parameter_step[4];  // in bytes
    S eps, momentum;
    S unbiased;  // n / (n - 1)
    S activation[Activation::parameters > 0 ? Activation::parameters : 1];
    Geometry geometry;
  };
  using Args = FusedArgs<PlainArgs, Prologue, Epilogue>;
  // mean, scale and shift
  struct Coefficients {
    S number[3];
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
      RowStats<Rows> stats;
      stats.online(rows, first, last,
                   [&](Index g, int c, bool full) { return take<true>(rows, args, g, c, full); });
      if constexpr (split_stage) {
        stats.save_parts(rows, args.workspace, args.parts, tile, part);
      } else {
        rows.each_row([&](int i, int c) {
          write_channel(args, rows.result_row + c * Rows::lanes + i, moments(stats, i, c));
        });
        if constexpr (Stage == channel_whole) apply(rows, args, stats);
      }
    }
  }

 private:
  static constexpr bool split_stage = Stage == channel_part;

  template <bool First>
  static NNK_FN V take(const Rows& rows, const Args& args, Index g, int c, bool full) {
    return Prologue::template take<First, Streaming>(rows, args, args.x, g, c, full, S(0),
                                                     NoPeriod());
  }
  template <int I> static NNK_FN S value(const Args& args, Index c, S otherwise) {
    return channel_value<type_at<I, Parameters>>(args.parameter[I], args.channels,
                                                 args.parameter_step[I], c, otherwise);
  }
  static NNK_FN MomentsValue<S> moments(const RowStats<Rows>& stats, int i, int c) {
    return {stats.mean[c][i], stats.low[c][i], stats.m2[c][i]};
  }
  static NNK_FN Coefficients coefficients(const Args& args, Index c, const MomentsValue<S>& m) {
    const S scale =
        reciprocal_root(m.m2 / S(args.geometry.length) + args.eps) * value<0>(args, c, S(1));
    return {{m.mean, scale, value<1>(args, c, S(0)) - m.low * scale}};
  }
  static NNK_FN void write_channel(const Args& args, Index c, const MomentsValue<S>& m) {
    if constexpr (Stage != channel_whole) {
      const Coefficients k = coefficients(args, c, m);
      NNK_UNROLL
      for (int i = 0; i < 3; ++i) args.coefficients[i * args.coefficient_row + c] = k[i];
    }
    const S variance = m.m2 / S(args.geometry.length) * args.unbiased;
    const S mean = value<2>(args, c, S(0)), old = value<3>(args, c, S(0));
    const S keep = S(1) - args.momentum;
    store_channel<type_at<2, Parameters>>(args.running[0], args.channels, c,
                                          keep * mean + args.momentum * m.mean);
    store_channel<type_at<3, Parameters>>(args.running[1], args.channels, c,
                                          keep * old + args.momentum * variance);
  }

  static NNK_FN void apply(const Rows& rows, const Args& args, const RowStats<Rows>& stats) {
    V k[Columns][3];
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      rows.spread(c, k[c], [&](int i) {
        return coefficients(args, rows.result_row + c * Rows::lanes + i, moments(stats, i, c));
      });
    }
    rows.each(0, rows.groups, [&](Index g, bool full, int) {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) {
        const V x = take<false>(rows, args, g, c, full);
        Epilogue::template put<y_at, Streaming>(
            rows, args, args.y, g, c, full,
            BatchNormApply<Activation>::apply(args.activation, x, k[c][0], k[c][1], k[c][2]),
            NoPeriod());
      }
    });
  }

  // From the coefficients that another launch wrote.
  static NNK_FN void apply_part(const Rows& rows, const Args& args, Index first, Index last) {
    V k[Columns][3];
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      rows.spread(c, k[c], [&](int i) {
        const S* of = args.coefficients + rows.result_row + c * Rows::lanes + i;
        return Coefficients{{of[0], of[args.coefficient_row], of[2 * args.coefficient_row]}};
      });
    }
    rows.template each_from_last<channel_depth>(
        first, last,
        [&](Index g, int c, bool full) { return rows.template load<0>(args.x, g, c, full, S(0)); },
        [&](Index g, int c, bool full, const V& x) {
          rows.template store<y_at>(
              args.y, g, c, full,
              BatchNormApply<Activation>::apply(args.activation, x, k[c][0], k[c][1], k[c][2]));
        });
  }

  template <class G> static NNK_FN void finish(const G& group, const Args& args) {
    const ChannelParts<MomentsValue<S>, S, Index> parts(group, args, Layout == along ? N : 1);
    if (parts.channel >= int64(args.channels)) return;  // whole warps
    MomentsValue<S> m;
    parts.fold(m);
    if (parts.lane == 0) write_channel(args, Index(parts.channel), m);
  }
};

}  // namespace nnk
