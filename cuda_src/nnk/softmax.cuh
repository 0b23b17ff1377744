// softmax, log_softmax, logsumexp over the rows of RowTeam, and the gradients of the first two.
//
//   softmax      y_i = exp(x_i - m) / s       m = max_j x_j,  s = sum_j exp(x_j - m)
//   log_softmax  y_i = x_i - m - log s
//   logsumexp    y   = m + log s
//
// A row is read from memory once where it fits on the chip (`Keep`), and twice where it does
// not or where several blocks share it (`Stage`).
//
// x may be a fused function of what is read, and y goes through another: see row_function.cuh.
#pragma once
#include "nnk/reduce.cuh"
#include "nnk/row_function.cuh"
#include "nnk/row_team.cuh"
#include "nnk/types.cuh"

namespace nnk {

enum : int { softmax_kind = 0, log_softmax_kind = 1, logsumexp_kind = 2 };

enum : int {
  keep_none = 0,       // read again from memory (or, on a CPU, from its caches)
  keep_registers = 1,  // up to Depth groups a thread
  keep_shared = 2,     // the block's shared memory holds the row
  keep_exp = 3,        // only the exponentials are kept: x is re-read from a CPU's cache
};

enum : int {
  whole_row = 0,    // one block does everything
  part_of_row = 1,  // first of two launches: (max, sum of exp) of each part to a workspace
  finish_row = 2,   // second: every block folds the parts of its row and writes its own
};

// T  type of x;  U  type of y;  S  computing type
// operands of the geometry: x, those of prologue and epilogue, further results of the prologue, y
template <int Kind, class T, class U, class S, class Geometry, int Layout, class Steps, int N,
          int Columns, int Threads, int Team, int Keep, int Depth, int Stage, bool Streaming,
          class Prologue = NoPrologue, class Epilogue = NoEpilogue>
struct SoftmaxForward {
  using Index = typename Geometry::index_type;
  using Rows = RowTeam<Geometry, Layout, Steps, S, N, Columns, Threads, Team>;
  using V = Vec<S, N>;
  static constexpr bool is_plain = is_same<Prologue, NoPrologue> && is_same<Epilogue, NoEpilogue>;
  // 64 leave room for twice 512 threads: of what is read again, one block reads while the other
  // writes. Rows that are read number by number have an address for each that is kept.
  static constexpr int register_budget = sizeof(S) > 4 ||
                                                 sizeof(typename Geometry::index_type) > 4 ||
                                                 !is_plain
                                             ? 128
                                         : N == 1 && Keep == keep_registers ? 96
                                                                            : 64;
  using Stats = MaxSumExpValue<S>;
  static constexpr int y_at = 1 + Prologue::inputs + Epilogue::inputs + Prologue::outputs;

  struct PlainArgs {
    const T* x;
    U* y;
    Stats* workspace;  // rows x parts, for part_of_row and finish_row
    int64 parts;
    Index part_groups;
    int32 kept;  // elements of shared memory
    Geometry geometry;
  };
  using Args = FusedArgs<PlainArgs, Prologue, Epilogue>;

  // What softmax is of: `First` where it is met for the first time.
  template <bool First>
  static NNK_FN V take(const Rows& rows, const Args& args, Index g, int c, bool full, S fill) {
    return Prologue::template take<First, Streaming>(rows, args, args.x, g, c, full, fill,
                                                     NoPeriod());
  }
  static NNK_FN void put(const Rows& rows, const Args& args, Index g, int c, bool full,
                         const V& y) {
    Epilogue::template put<y_at, Streaming>(rows, args, args.y, g, c, full, y, NoPeriod());
  }

  // max and sum of every lane of every column, the same in all threads of a team.
  struct RowStats { V max[Columns], sum[Columns]; };

  static NNK_FN V result(const V& x_or_exp, const V& m, const V& s, bool is_exp) {
    if constexpr (Kind == softmax_kind) return (is_exp ? x_or_exp : exp(x_or_exp - m)) * s;
    else return x_or_exp - m - s;
  }
  static NNK_FN void write_logsumexp(const Rows& rows, const Args& args, const RowStats& stats) {
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      const V m = stats.max[c];
      // A maximum of +-inf is the answer itself: inf - inf would make it NaN.
      const V infinite = V::splat(Limits<S>::infinity());
      const V y = where((m == infinite) | (m == -infinite), m, m + log(stats.sum[c]));
      Epilogue::template put_result<y_at>(rows, args, args.y, c, y);
    }
  }

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int64 tile =
        Stage == whole_row ? group.block() : divide_blocks(group.block(), args.parts);
    const Rows rows(group, args.geometry, tile);
    if constexpr (Stage == whole_row) {
      if constexpr (Keep == keep_registers) {
        // No tails to look for: that halves the time of short rows on a CPU.
        if (lanes_are_simd && rows.template all_whole<Depth>()) registers<true>(rows, args);
        else registers<false>(rows, args);
      } else if constexpr (Keep == keep_none) reread(rows, args);
      else shared(group, rows, args);
    } else {
      const int64 part = group.block() - tile * args.parts;
      const Index first = Index(part) * args.part_groups;
      const Index last =
          rows.groups - first < args.part_groups ? rows.groups : first + args.part_groups;
      if constexpr (Stage == part_of_row)
        save_part(rows, args, online(rows, args, first, last), tile, part);
      else finish(rows, args, fold_parts(rows, args, tile), first, last, part);
    }
  }

  template <bool Whole> static NNK_FN void registers(const Rows& rows, const Args& args) {
    V kept[Depth][Columns];
    RowStats stats;
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      NNK_UNROLL
      for (int d = 0; d < Depth; ++d) {
        kept[d][c] = take<true>(rows, args, rows.member + d * Team, c, Whole, Limits<S>::lowest());
        stats.max[c] = d == 0 ? kept[d][c] : max(stats.max[c], kept[d][c]);
      }
    }
    reduce_max(rows, stats);
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      NNK_UNROLL
      for (int d = 0; d < Depth; ++d) {
        const V e = exp(kept[d][c] - stats.max[c]);
        if constexpr (Kind == softmax_kind) kept[d][c] = e;
        stats.sum[c] = d == 0 ? e : stats.sum[c] + e;
      }
    }
    reduce_sum(rows, stats);
    if constexpr (Kind == logsumexp_kind) {
      write_logsumexp(rows, args, stats);
    } else {
      finish_sums(stats);
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) {
        NNK_UNROLL
        for (int d = 0; d < Depth; ++d)
          put(rows, args, rows.member + d * Team, c, Whole,
              result(kept[d][c], stats.max[c], stats.sum[c], true));
      }
    }
  }

  // keep_shared and keep_exp.
  template <class G> static NNK_FN void shared(G& group, const Rows& rows, const Args& args) {
    const auto kept = group.template dynamic_shared<S>(0, args.kept);
    constexpr int P = Rows::partials;
    V partial[P][Columns];
    RowStats stats;
    fill(partial, Limits<S>::lowest());
    rows.each(0, rows.groups, [&](Index g, bool full, int p) {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) {
        const V x = take<true>(rows, args, g, c, full, Limits<S>::lowest());
        if constexpr (Keep == keep_shared) kept.store_vec(rows.slot(g, c), x);
        partial[p][c] = max(partial[p][c], x);
      }
    });
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      stats.max[c] = partial[0][c];
      for (int p = 1; p < P; ++p) stats.max[c] = max(stats.max[c], partial[p][c]);
    }
    reduce_max(rows, stats);

    fill(partial, S(0));
    rows.each(0, rows.groups, [&](Index g, bool full, int p) {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) {
        const V x = Keep == keep_shared ? kept.template load_vec<N>(rows.slot(g, c))
                                        : take<false>(rows, args, g, c, full, Limits<S>::lowest());
        const V e = exp(x - stats.max[c]);
        if constexpr (Kind == softmax_kind) kept.store_vec(rows.slot(g, c), e);
        partial[p][c] = partial[p][c] + e;
      }
    });
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      stats.sum[c] = partial[0][c];
      for (int p = 1; p < P; ++p) stats.sum[c] = stats.sum[c] + partial[p][c];
    }
    reduce_sum(rows, stats);

    if constexpr (Kind == logsumexp_kind) {
      write_logsumexp(rows, args, stats);
    } else {
      finish_sums(stats);
      rows.each(0, rows.groups, [&](Index g, bool full, int) {
        NNK_UNROLL
        for (int c = 0; c < Columns; ++c) {
          const bool from_memory = Keep == keep_exp && Kind == log_softmax_kind;
          const V v = from_memory ? take<false>(rows, args, g, c, full, S(0))
                                  : kept.template load_vec<N>(rows.slot(g, c));
          put(rows, args, g, c, full, result(v, stats.max[c], stats.sum[c], true));
        }
      });
    }
  }

  static NNK_FN void reread(const Rows& rows, const Args& args) {
    const RowStats stats = online(rows, args, 0, rows.groups);
    finish(rows, args, stats, 0, rows.groups, 0);
  }

  // The results of groups [first, last); part 0 writes what there is one of for a row.
  static NNK_FN void finish(const Rows& rows, const Args& args, RowStats stats, Index first,
                            Index last, int64 part) {
    if constexpr (Kind == logsumexp_kind) {
      if (part == 0) write_logsumexp(rows, args, stats);
    } else {
      finish_sums(stats);
      rows.each(first, last, [&](Index g, bool full, int) {
        NNK_UNROLL
        for (int c = 0; c < Columns; ++c) {
          const V x = take<false>(rows, args, g, c, full, S(0));
          put(rows, args, g, c, full, result(x, stats.max[c], stats.sum[c], false));
        }
      });
    }
  }

  // Maximum and sum in one reading, `chunk` groups at a time: the sum is rescaled once a chunk,
  // so an element costs 1 + 1 / chunk exponentials.
  static NNK_FN RowStats online(const Rows& rows, const Args& args, Index first, Index last) {
    // Eight numbers in each of four groups would leave a GPU thread no registers to compute with.
    constexpr int chunk = lanes_are_simd || N <= 4 ? 4 : 2;
    RowStats stats;
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      stats.max[c] = V::splat(Limits<S>::lowest());
      stats.sum[c] = V::splat(S(0));
    }
    for (Index g = first + rows.member; g < last; g += chunk * Team) {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) {
        V x[chunk];
        V m = stats.max[c];
        NNK_UNROLL
        for (int k = 0; k < chunk; ++k) {
          const Index at = g + k * Team;
          x[k] = at < last ? take<true>(rows, args, at, c, false, Limits<S>::lowest())
                           : V::splat(Limits<S>::lowest());
          m = max(m, x[k]);
        }
        // Nothing but -inf so far: any finite number does in its place, and -inf - -inf is NaN.
        const V shift = where(m == Limits<S>::lowest(), V::splat(S(0)), m);
        V sum = stats.sum[c] * exp(stats.max[c] - shift);
        NNK_UNROLL
        for (int k = 0; k < chunk; ++k) sum = sum + exp(x[k] - shift);
        stats.max[c] = m;
        stats.sum[c] = sum;
      }
    }
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) merge(rows, stats.max[c], stats.sum[c]);
    return stats;
  }

  // Brings the lanes (along) and threads of a team to one maximum and sum.
  static NNK_FN void merge(const Rows& rows, V& m, V& s) {
    const V top = rows.template reduce<Max<S>>(m);
    const V shift = where(top == Limits<S>::lowest(), V::splat(S(0)), top);
    s = rows.template reduce<Sum<S>>(s * exp(m - shift));
    m = top;
  }

  static NNK_FN void save_part(const Rows& rows, const Args& args, const RowStats& stats,
                               int64 tile, int64 part) {
    if (rows.member != 0) return;  // no barrier follows
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      NNK_UNROLL
      for (int i = 0; i < Rows::lanes; ++i) {
        if (c * Rows::lanes + i < rows.present)
          args.workspace[(rows.row_number(tile) + c * Rows::lanes + i) * args.parts + part] = {
              stats.max[c][i], stats.sum[c][i]};
      }
    }
  }

  static NNK_FN RowStats fold_parts(const Rows& rows, const Args& args, int64 tile) {
    RowStats stats;
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      stats.max[c] = V::splat(Limits<S>::lowest());
      stats.sum[c] = V::splat(S(0));
      NNK_UNROLL
      for (int i = 0; i < Rows::lanes; ++i) {
        Stats total = MaxSumExp<S>::identity();
        if (c * Rows::lanes + i < rows.present) {
          const Stats* parts =
              args.workspace + (rows.row_number(tile) + c * Rows::lanes + i) * args.parts;
          // A few steps, which would take many registers if they overlapped.
          const int count = int(args.parts);
          NNK_NO_UNROLL
          for (int p = rows.member; p < count; p += Team)
            total = MaxSumExp<S>::combine(total, parts[p]);
        }
        stats.max[c].set(i, total.max);
        stats.sum[c].set(i, total.sum);
      }
      merge(rows, stats.max[c], stats.sum[c]);
    }
    return stats;
  }

  static NNK_FN void reduce_max(const Rows& rows, RowStats& stats) {
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) stats.max[c] = rows.template reduce<Max<S>>(stats.max[c]);
  }
  static NNK_FN void reduce_sum(const Rows& rows, RowStats& stats) {
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) stats.sum[c] = rows.template reduce<Sum<S>>(stats.sum[c]);
  }
  // What result() wants of the sums: 1 / s or log s.
  static NNK_FN void finish_sums(RowStats& stats) {
    if constexpr (Layout == across) {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) stats.sum[c] = finish_sum(stats.sum[c]);
    } else if constexpr (Kind == log_softmax_kind && lanes_are_simd && Columns > 1 &&
                         Columns <= N) {
      // One logarithm for the rows of all columns, a lane for each.
      V sums = V::splat(S(1));
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) sums.set(c, stats.sum[c][0]);
      const V logs = log(sums);
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) stats.sum[c] = V::splat(logs[c]);
    } else {
      // All lanes are the same.
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c)
        stats.sum[c] = V::splat(finish_sum(Vec<S, 1>::splat(stats.sum[c][0]))[0]);
    }
  }
  template <class W> static NNK_FN W finish_sum(const W& s) {
    if constexpr (Kind == softmax_kind) return W::splat(S(1)) / s;
    else return log(s);
  }
  template <int P> static NNK_FN void fill(V (&partial)[P][Columns], S x) {
    NNK_UNROLL
    for (int p = 0; p < P; ++p) {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) partial[p][c] = V::splat(x);
    }
  }
};

}  // namespace nnk
