// Layer, RMS, group and instance norm over the rows of RowTeam.
//
//   layer_kind   y_i = act((x_i - mean) r w_i + b_i)      r = 1 / sqrt(variance + eps)
//   rms_kind     y_i = act(x_i r (w_i + offset))          r = 1 / sqrt(mean of x^2 + eps)
//
// The variance is that of the row, divided by its length. Group norm is layer_kind with an x of
// axes (batch, group, channel of the group, space...): the weights are an operand of the
// geometry like any other, with stride 0 along the axes that do not vary them.
//
// With a residual, x_i is x_i + residual_i, rounded to the type of x and written as well. Or x_i is
// a fused function of what is read, and y goes through another: see row_function.cuh.
//
// A row is read from memory once where it fits on the chip (`Keep`), and twice where it does
// not or where several blocks share it (`Stage`).
#pragma once
#include "nnk/matmul_epilogue.cuh"
#include "nnk/row_stats.cuh"
#include "nnk/softmax.cuh"

namespace nnk {

enum : int { layer_kind = 0, rms_kind = 1 };

// T           type of x, residual and sum;  U  type of y;  S  computing type
// W, B        types of weight and bias, void for none
// Activation  functor, Identity for none
// operands of the geometry, of those that there are: x, residual, weight, bias, those of prologue
// and epilogue, sum, further results of the prologue, y, those of the epilogue
template <int Kind, class T, class U, class S, class W, class B, bool Residual, class Activation,
          class Geometry, int Layout, class Steps, int N, int Columns, int Threads, int Team,
          int Keep, int Depth, int Stage, bool Streaming, class Prologue = NoPrologue,
          class Epilogue = NoEpilogue>
struct NormForward {
  using Index = typename Geometry::index_type;
  using Rows = RowTeam<Geometry, Layout, Steps, S, N, Columns, Threads, Team>;
  using Stats = RowStats<Rows>;
  using V = Vec<S, N>;
  // Of what is read twice, two blocks of 384 threads fit a multiprocessor: one reads while the
  // other writes.
  static constexpr int register_budget = Keep == keep_none && Threads == 384 ? 80 : 128;
  static constexpr bool has_weight = !is_same<W, void>, has_bias = !is_same<B, void>;
  // Places of the operands in the geometry.
  static constexpr int residual_at = 1, weight_at = residual_at + Residual,
                       bias_at = weight_at + has_weight,
                       sum_at = bias_at + has_bias + Prologue::inputs + Epilogue::inputs,
                       y_at = sum_at + Residual + Prologue::outputs;
  static_assert(Geometry::operands == y_at + 1 + Epilogue::outputs,
                "the geometry has all operands");
  static constexpr int parameters = Activation::parameters > 0 ? Activation::parameters : 1;

  struct PlainArgs {
    const T* x;
    const T* residual;
    const conditional<has_weight, W, S>* weight;
    const conditional<has_bias, B, S>* bias;
    T* sum;
    U* y;
    S* workspace;  // rows x parts, for part_of_row and finish_row
    int64 parts;
    Index part_groups;
    int32 kept;  // elements of shared memory
    Geometry geometry;
    Index siblings;         // rows that have one mean and variance: the channels of a group
    Divisor<Index> period;  // of weight and bias, where their steps are period_step
    S eps, offset;
    S parameter[parameters];
  };
  using Args = FusedArgs<PlainArgs, Prologue, Epilogue>;

  // How many times further on the rows are that are fetched while some are written: 8 KiB or the
  // next. At 2 times, 4096 rows of 1024 float32 numbers take 1.1 ms, and 1.3 ms at 1 (2 cores of an
  // Emerald Rapids Xeon).
  static NNK_FN Index ahead(const Rows& rows) {
    constexpr int most = 8192;
    if constexpr (!lanes_are_simd) return 0;
    else if constexpr (Keep == keep_registers) {
      constexpr int bytes = Depth * N * Columns * int(sizeof(T));
      return Columns * (bytes < most ? most / bytes : 1);
    } else {
      return Columns * (1 + most / (rows.geometry.length * Index(sizeof(T))));
    }
  }

  static NNK_FN void fetch(const Rows& rows, const Args& args, Index g, int c, Index far) {
    rows.template prefetch_next<0>(args.x, g, c, far);
    Prologue::prefetch(rows, args, g, c, far);
    if constexpr (Residual) rows.template prefetch_next<residual_at>(args.residual, g, c, far);
  }

  // What a row becomes: (x - mean) scale + shift; and how far on the next rows are fetched.
  struct Affine {
    V mean[Columns], scale[Columns], shift[Columns];
    Index ahead;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 tile =
        Stage == whole_row ? group.block() : divide_blocks(group.block(), args.parts);
    const Rows rows(group, args.geometry, tile);
    if constexpr (Stage == whole_row) {
      if constexpr (Keep == keep_registers) {
        // No tails to look for: that halves the time of short rows on a CPU.
        if (lanes_are_simd && rows.template all_whole<Depth>()) registers<true>(rows, args);
        else registers<false>(rows, args);
      } else if constexpr (Keep == keep_shared) {
        shared(group, rows, args);
      } else {
        write(rows, args, online(rows, args), 0, rows.groups);
      }
    } else {
      const int64 part = group.block() - tile * args.parts;
      const Index first = Index(part) * args.part_groups;
      const Index last =
          rows.groups - first < args.part_groups ? rows.groups : first + args.part_groups;
      if constexpr (Stage == part_of_row) save_part(rows, args, tile, part, first, last);
      else write(rows, args, fold_parts(rows, args, tile), first, last);
    }
  }

  // ---- rows that are on the chip ------------------------------------------------------------

  template <bool Whole> static NNK_FN void registers(const Rows& rows, const Args& args) {
    V kept[Depth][Columns];
    Affine affine;
    affine.ahead = ahead(rows);
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      V sum;
      NNK_UNROLL
      for (int d = 0; d < Depth; ++d) {
        kept[d][c] = take<true>(rows, args, rows.member + d * Team, c, Whole);
        sum = d == 0 ? term(kept[d][c]) : sum + term(kept[d][c]);
      }
      settle(rows, args, affine, c, sum, [&](const V& mean, V& off, V& squares) {
        NNK_UNROLL
        for (int d = 0; d < Depth; ++d)
          add_deviation(rows, rows.member + d * Team, c, Whole, kept[d][c] - mean, off, squares);
      });
    }
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      NNK_UNROLL
      for (int d = 0; d < Depth; ++d)
        put(rows, args, affine, rows.member + d * Team, c, Whole, kept[d][c]);
    }
  }

  template <class G> static NNK_FN void shared(G& group, const Rows& rows, const Args& args) {
    const auto kept = group.template dynamic_shared<S>(0, args.kept);
    V sum[Columns];
    rows.sum_alone(sum, 0, rows.groups, [&](Index g, int c, bool full) {
      const V x = take<true>(rows, args, g, c, full);
      kept.store_vec(rows.slot(g, c), x);
      return term(x);
    });
    Affine affine;
    affine.ahead = ahead(rows);
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      settle(rows, args, affine, c, sum[c], [&](const V& mean, V& off, V& squares) {
        rows.each(0, rows.groups, [&](Index g, bool full, int) {
          add_deviation(rows, g, c, full, kept.template load_vec<N>(rows.slot(g, c)) - mean, off,
                        squares);
        });
      });
    }
    rows.each(0, rows.groups, [&](Index g, bool full, int) {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c)
        put(rows, args, affine, g, c, full, kept.template load_vec<N>(rows.slot(g, c)));
    });
  }

  // What makes the mean, or the mean of squares.
  static NNK_FN V term(const V& x) {
    if constexpr (Kind == layer_kind) return x;
    else return x * x;
  }
  // Column c of `affine`, from this thread's sum of terms; deviations(mean, off, squares) adds
  // this thread's deviations and their squares.
  template <class F>
  static NNK_FN void settle(const Rows& rows, const Args& args, Affine& affine, int c, const V& sum,
                            F deviations) {
    if constexpr (Kind == layer_kind) {
      Stats stats;
      stats.kept(rows, c, sum, [&](const V& mean) {
        PairValue<V> d = {V::splat(S(0)), V::splat(S(0))};
        deviations(mean, d.first, d.second);
        return d;
      });
      set_affine(rows, args, affine, c, stats);
    } else {
      set_affine(rows, args, affine, c, rows.template reduce<Sum<S>>(sum));
    }
  }
  static NNK_FN void add_deviation(const Rows& rows, Index g, int c, bool full, const V& deviation,
                                   V& off, V& squares) {
    const V d = full ? deviation : first_lanes(deviation, rows.count(g, c));
    off = off + d;
    squares = fma(d, d, squares);
  }

  // ---- rows that are read twice, and parts of rows --------------------------------------------

  static NNK_FN Affine online(const Rows& rows, const Args& args) {
    Affine affine;
    const Index far = affine.ahead = ahead(rows);
    const auto taken = [&](Index g, int c, bool full) {
      if (g % 2 == 0) fetch(rows, args, g / 2, c, far);
      return take<true>(rows, args, g, c, full);
    };
    if constexpr (Kind == layer_kind) {
      Stats stats;
      stats.online(rows, 0, rows.groups, taken);
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) set_affine(rows, args, affine, c, stats);
    } else {
      V sum[Columns];
      rows.sum(sum, 0, rows.groups,
               [&](Index g, int c, bool full) { return term(taken(g, c, full)); });
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) set_affine(rows, args, affine, c, sum[c]);
    }
    return affine;
  }

  static NNK_FN void save_part(const Rows& rows, const Args& args, int64 tile, int64 part,
                               Index first, Index last) {
    const auto taken = [&](Index g, int c, bool full) {
      return take<true>(rows, args, g, c, full);
    };
    if constexpr (Kind == layer_kind) {
      Stats stats;
      stats.online(rows, first, last, taken);
      stats.save_parts(rows, moments(args), args.parts, tile, part);
    } else {
      V sum[Columns];
      rows.sum(sum, first, last,
               [&](Index g, int c, bool full) { return term(taken(g, c, full)); });
      rows.save_parts(args.workspace, args.parts, tile, part, sum);
    }
  }
  static NNK_FN Affine fold_parts(const Rows& rows, const Args& args, int64 tile) {
    Affine affine;
    affine.ahead = ahead(rows);
    if constexpr (Kind == layer_kind) {
      Stats stats;
      stats.fold_parts(rows, moments(args), args.parts, tile, args.part_groups, args.siblings);
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) set_affine(rows, args, affine, c, stats);
    } else {
      V sum[Columns];
      rows.template fold_parts<Sum<S>>(args.workspace, args.parts, tile, sum);
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) set_affine(rows, args, affine, c, sum[c]);
    }
    return affine;
  }
  static NNK_FN MomentsValue<S>* moments(const Args& args) {
    return reinterpret_cast<MomentsValue<S>*>(args.workspace);
  }

  static NNK_FN void write(const Rows& rows, const Args& args, const Affine& affine, Index first,
                           Index last) {
    Shared shared_by[Columns];
    rows.each(first, last, [&](Index g, bool full, int) {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) {
        const V x = Residual ? rows.template load<sum_at>(args.sum, g, c, full, S(0))
                             : take<false>(rows, args, g, c, full);
        if constexpr (keeps_parameters) {
          if (!full || (g + 1) * N > shared_by[c].end)
            shared_by[c] = parameters_at(rows, args, g, c);
          put(rows, args, affine, g, c, full, x, shared_by[c].weight, shared_by[c].bias);
        } else {
          put(rows, args, affine, g, c, full, x);
        }
      }
    });
  }

  // Weight and bias that groups have in common, up to element `end` of the row: a thread that takes
  // one group after the other need not ask for each whose they are.
  struct Shared {
    V weight, bias;
    Index end = 0;
  };
  template <int O> static constexpr bool is_shared() {
    if constexpr (O < Geometry::operands) return int_at<O, Steps> == period_step;
    else return false;
  }
  static constexpr bool keeps_parameters =
      Threads == 1 &&
      ((has_weight && is_shared<weight_at>()) || (has_bias && is_shared<bias_at>()));
  static NNK_FN Shared parameters_at(const Rows& rows, const Args& args, Index g, int c) {
    Shared s{V::splat(S(0)), V::splat(S(0))};
    if constexpr (has_weight)
      s.weight = rows.template load_parameter<weight_at>(args.weight, g, c, false, args.period);
    if constexpr (has_bias)
      s.bias = rows.template load_parameter<bias_at>(args.bias, g, c, false, args.period);
    // Of a group that a period ends within, they are its own.
    const Index end = (args.period.divide(g * N) + 1) * args.period.divisor;
    s.end = end < (g + 1) * N ? 0 : end;
    return s;
  }

  // ---- elements -------------------------------------------------------------------------------

  // What is normalised; with a residual the sum, which is written. `First`: where it is met for the
  // first time.
  template <bool First>
  static NNK_FN V take(const Rows& rows, const Args& args, Index g, int c, bool full) {
    const V x = Prologue::template take<First, Streaming>(rows, args, args.x, g, c, full, S(0),
                                                          args.period);
    if constexpr (Residual && First) {
      const V r = rows.template load<residual_at>(args.residual, g, c, full, S(0));
      const V sum = convert<S>(convert<T>(x + r));
      // Not past the caches where it is read again.
      rows.template store<sum_at, Streaming && Keep != keep_none>(args.sum, g, c, full, sum);
      return sum;
    } else {
      return x;
    }
  }
  static NNK_FN void put(const Rows& rows, const Args& args, const Affine& affine, Index g, int c,
                         bool full, const V& x) {
    V weight, bias;
    if constexpr (has_weight)
      weight = rows.template load_parameter<weight_at>(args.weight, g, c, full, args.period);
    if constexpr (has_bias)
      bias = rows.template load_parameter<bias_at>(args.bias, g, c, full, args.period);
    put(rows, args, affine, g, c, full, x, weight, bias);
  }
  static NNK_FN void put(const Rows& rows, const Args& args, const Affine& affine, Index g, int c,
                         bool full, const V& x, V weight, const V& bias) {
    V y;
    if constexpr (Kind == layer_kind)
      y = fma_always(x - affine.mean[c], affine.scale[c], affine.shift[c]);
    else y = x * affine.scale[c];
    if constexpr (has_weight && Kind == rms_kind) weight = weight + args.offset;
    if constexpr (has_weight && has_bias) y = fma_always(y, weight, bias);
    else if constexpr (has_weight) y = y * weight;
    else if constexpr (has_bias) y = y + bias;
    if constexpr (Stage == whole_row) {
      // Half of a row that is read twice was fetched while it was measured.
      if constexpr (Keep == keep_none) {
        if (g % 2) fetch(rows, args, (rows.groups + g) / 2, c, affine.ahead);
      } else {
        fetch(rows, args, g, c, affine.ahead);
      }
    }
    Epilogue::template put<y_at, Streaming>(rows, args, args.y, g, c, full,
                                            Activation::apply(args.parameter, y), args.period);
  }

  static NNK_FN void set_affine(const Rows& rows, const Args& args, Affine& affine, int c,
                                const Stats& stats) {
    affine.mean[c] = stats.mean[c];
    affine.scale[c] = stats.reciprocal_deviation(rows, c, args.eps, args.siblings);
    affine.shift[c] = -stats.low[c] * affine.scale[c];
  }
  static NNK_FN void set_affine(const Rows& rows, const Args& args, Affine& affine, int c,
                                const V& squares) {
    affine.scale[c] = Stats::reciprocal_root(rows, squares, args.eps);
  }
};

}  // namespace nnk
