// Gradients of layer and RMS normalisation (and of group and instance normalisation, which are
// layer normalisation of other rows) over the rows of RowTeam. With h = (x - mean) rstd, where
// rstd = 1 / sqrt(variance + eps), and g = dy weight, in a row of n elements
//
//   layer   dx = rstd (g - sum(g) / n - h sum(g h) / n)
//   RMS     dx = rstd (g - h sum(g h) / n)                mean = 0, g = dy (weight + offset)
//
// and, over all rows that share a parameter, dweight = sum(dy h), dbias = sum(dy). Mean and
// deviation are computed from x again: the row is on the chip anyway.
//
// Where the parameters lie along the row and all rows share them, a block works on a range of rows
// one after the other and adds up what these give for dweight and dbias: in registers, if the row
// is there, else in its own piece of memory. Where rows are cut into parts, a block of the second
// launch has a part of a range of rows, and keeps the sums in registers. NormSums (norm_sums.cuh)
// adds those of all blocks. In any other case the mean and deviation of every row are saved, and
// NormSums reads x and dy again.
#pragma once
#include "nnk/norm_backward_row.cuh"

namespace nnk {

// What is kept for the gradients of parameters.
enum : int {
  no_sums = 0,
  row_values = 1,      // rstd, mean and low (see RowStats) of every row
  weight_sums = 2,     // sums over the rows of this block: dweight
  parameter_sums = 3,  // dweight and dbias
};

// T  type of x, added and dx;  D  type of dy;  W  type of the weight;  operands of the geometry: x,
// dy, weight, added, dx. Weighted, Added: whether there is a weight, and something to add to dx.
template <int Kind, class T, class D, class W, class S, class Geometry, int Layout, class Steps,
          int N, int Columns, int Threads, int Team, int Keep, int Depth, int Stage, bool Streaming,
          bool Weighted, bool Added, int Sums>
struct NormBackward {
  using Index = typename Geometry::index_type;
  using Rows = RowTeam<Geometry, Layout, Steps, S, N, Columns, Threads, Team>;
  using V = Vec<S, N>;
  using Args = NormBackwardArgs<T, D, W, S, Geometry>;
  using Row = NormBackwardRow<Kind, Args, Rows, Weighted, Keep == keep_shared>;
  using Pair = typename Row::Pair;
  using Stats = typename Row::Stats;
  using Totals = typename Row::Totals;
  // Numbers that are read one by one have an address each.
  static constexpr int register_budget = N == 1 && Threads <= 128 ? 168 : 128;
  static constexpr bool centred = Kind == layer_kind;
  static constexpr bool sums_here = Sums >= weight_sums;
  static constexpr bool in_registers = Keep == keep_registers;
  static constexpr bool sums_of_parts = sums_here && Stage == finish_row;
  static_assert(!sums_here || (Layout == along && Stage != part_of_row), "a block owns columns");
  static_assert(!sums_here || in_registers || (Columns == 1 && Team == Threads),
                "a thread owns its columns");

  // Sums over rows for the columns of a thread.
  static constexpr int owned = sums_here && (in_registers || sums_of_parts) ? Depth : 1;
  struct Owned { V weight[owned], bias[owned]; };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    if constexpr (Stage == whole_row) {
      const int64 first = group.block() * args.tiles_of_block;
      const int64 end = first + args.tiles_of_block;
      const int64 last = end < args.tiles ? end : args.tiles;
      Owned own = nothing_owned();
      for (int64 tile = first; tile < last; ++tile) {
        const Rows rows(group, args.geometry, tile);
        if constexpr (in_registers) {
          const bool more = !lanes_are_simd && tile + 1 < last;
          if (lanes_are_simd && rows.template all_whole<Depth>())
            registers<true>(group, rows, args, tile, own, more);
          else registers<false>(group, rows, args, tile, own, more);
        } else if constexpr (Keep == keep_shared) {
          shared(group, rows, args, tile, first);
        } else {
          const auto load = [&](Index g, int c, bool full)
                                NNK_INLINE { return Row::read(rows, args, g, c, full); };
          const auto load_x = [&](Index g, int c, bool full) NNK_INLINE {
            return rows.template load<0>(args.x, g, c, full, S(0));
          };
          Stats stats;
          Row::measure_row(rows, args, load_x, load, stats);
          save(rows, args, tile, stats);
          const Rows ahead(group, args.geometry, tile + 1 < last ? tile + 1 : tile);
          const auto load_ahead = [&](Index g, int c, bool full) NNK_INLINE {
            fetch(ahead, args, g);
            return Row::read(rows, args, g, c, full);
          };
          if (tile == first) clear_sums(group, rows, args);
          write(rows, args, load_ahead, stats, 0, rows.groups, sums_of(group, rows, args));
        }
      }
      if constexpr (sums_here && in_registers)
        save_owned(group, args, own, group.block(), 0, (args.geometry.length + N - 1) / N);
    } else if constexpr (sums_of_parts) {
      finish_parts(group, args);
    } else {
      parts(group, args);
    }
  }

 private:
  // Brings a group of a row to the caches: memory has little else to do while results are written.
  // Rows of which several fit go to level 1 at once: 1.6 ms in place of 2.0 ms for 4096 of 1024
  // float32 numbers; for 256 of 32768, level 2 takes 3.6 ms and level 1 7.0 ms (2 cores of a
  // Sapphire Rapids Xeon).
  static NNK_FN void fetch(const Rows& ahead, const Args& args, Index g) {
    if constexpr (lanes_are_simd && Layout == along && Geometry::inner_rank == 1) {
      constexpr Index close = 8192 / sizeof(T);
      const auto& step = args.geometry.inner_stride;
      const T* x = byte_offset(args.x, Index(ahead.base[0][0] + g * N * step[0][0]));
      const D* dy = byte_offset(args.dy, Index(ahead.base[0][1] + g * N * step[1][0]));
      if (args.geometry.length <= close) {
        prefetch<1>(x);
        prefetch<1>(dy);
      } else {
        prefetch<2>(x);
        prefetch<2>(dy);
      }
    }
  }
  static NNK_FN void fetch_tile(const Rows& rows, const Args& args, int c) {
    NNK_UNROLL
    for (int i = 0; i < Depth; ++i) {
      rows.template fetch<0>(args.x, rows.member + i * Team, c);
      rows.template fetch<1>(args.dy, rows.member + i * Team, c);
    }
  }
  // ---- a row in registers --------------------------------------------------------------------

  // `more`: another tile follows, which a GPU fetches while it waits for this one: it would read
  // nothing else from its first barrier to its last result.
  template <bool Whole, class G>
  static NNK_FN void registers(G& group, const Rows& rows, const Args& args, int64 tile, Owned& own,
                               bool more) {
    Pair kept[Depth][Columns];
    Stats stats;
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      V mean = V::splat(S(0));
      NNK_UNROLL
      for (int i = 0; i < Depth; ++i) {
        kept[i][c] = Row::read(rows, args, rows.member + i * Team, c, Whole);
        mean = mean + kept[i][c].x;
      }
      if (more) fetch_tile(Rows(group, args.geometry, tile + 1), args, c);
      if constexpr (centred)
        mean = rows.template reduce<Sum<S>>(mean) * (S(1) / S(rows.geometry.length));
      else mean = V::splat(S(0));
      Totals t = Row::nothing();
      NNK_UNROLL
      for (int i = 0; i < Depth; ++i) {
        const Index g = rows.member + i * Team;
        Pair& v = kept[i][c];
        v.x = Row::deviation(rows, v.x, mean, g, c, Whole);
        Row::add(t, v.x, Row::weighted(rows, args, v.dy, g, c, Whole));
      }
      Row::reduce(rows, t);
      Row::finish(rows, args, t, mean, c, stats);
    }
    save(rows, args, tile, stats);
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      NNK_UNROLL
      for (int i = 0; i < Depth; ++i) {
        const Pair& v = kept[i][c];
        const V h = write_group(rows, args, v.x, v.dy, stats, rows.member + i * Team, c, Whole);
        if constexpr (sums_here) own.weight[i] = fma(v.dy, h, own.weight[i]);
        if constexpr (Sums == parameter_sums) own.bias[i] = own.bias[i] + v.dy;
      }
    }
  }

  // ---- a row in shared memory, or read again ---------------------------------------------------

  template <class G>
  static NNK_FN void shared(G& group, const Rows& rows, const Args& args, int64 tile,
                            int64 first_tile) {
    const int half_size = args.kept / 2;
    const auto kept_x = group.template dynamic_shared<S>(0, half_size);
    const auto kept_dy = group.template dynamic_shared<S>(half_size * int(sizeof(S)), half_size);
    const auto load_x = [&](Index g, int c, bool full) NNK_INLINE {
      const Pair v = Row::read(rows, args, g, c, full);
      kept_x.store_vec(rows.slot(g, c), v.x);
      kept_dy.store_vec(rows.slot(g, c), v.dy);
      return v.x;
    };
    const auto load = [&](Index g, int c, bool) NNK_INLINE {
      const int slot = rows.slot(g, c);
      return Pair{kept_x.template load_vec<N>(slot), kept_dy.template load_vec<N>(slot)};
    };
    Stats stats;
    Row::measure_row(rows, args, load_x, load, stats);
    save(rows, args, tile, stats);
    if (tile == first_tile) clear_sums(group, rows, args);
    write(rows, args, load, stats, 0, rows.groups, sums_of(group, rows, args));
  }

  // ---- results ---------------------------------------------------------------------------------

  // Writes dx of a group from d = x - mean and dy; gives h.
  static NNK_FN V write_group(const Rows& rows, const Args& args, const V& d, const V& dy,
                              const Stats& stats, Index g, int c, bool full) {
    const V h = (centred ? d - stats.low[c] : d) * stats.rstd[c];
    V inside = Row::weighted(rows, args, dy, g, c, full) - h * stats.mean_gh[c];
    if constexpr (centred) inside = inside - stats.mean_g[c];
    V dx = inside * stats.rstd[c];
    if constexpr (Added) dx = dx + rows.template load<3>(args.added, g, c, full, S(0));
    rows.template store<4, Streaming>(args.dx, g, c, full, dx);
    return h;
  }
  // `own`: where this block adds up dweight and dbias.
  template <class F>
  static NNK_FN void write(const Rows& rows, const Args& args, F load, const Stats& stats,
                           Index first, Index last, S* own) {
    rows.each(first, last, [&](Index g, bool full, int) NNK_INLINE {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) {
        const Pair v = load(g, c, full);
        const V d = centred ? v.x - stats.mean[c] : v.x;
        const V h = write_group(rows, args, d, v.dy, stats, g, c, full);
        if constexpr (sums_here) add_to(rows, own, g, v.dy * h);
        if constexpr (Sums == parameter_sums) add_to(rows, own + int64(rows.groups) * N, g, v.dy);
      }
    });
  }
  static NNK_FN void add_to(const Rows& rows, S* sums, Index g, const V& v) {
    const Line<S, Index, unit_step> line{sums, Index(rows.groups * N), Index(sizeof(S))};
    line.store(g * N, line.template load<N>(g * N) + v);
  }

  // rstd, mean and low of every row, for NormSums.
  static NNK_FN void save(const Rows& rows, const Args& args, int64 tile, const Stats& stats) {
    if constexpr (Sums == row_values) {
      if (rows.member != 0) return;
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) {
        NNK_UNROLL
        for (int i = 0; i < Rows::lanes; ++i) {
          if (c * Rows::lanes + i >= rows.present) continue;
          S* at = args.sums + (rows.row_number(tile) + c * Rows::lanes + i);
          at[0] = stats.rstd[c][i];
          if constexpr (centred) {
            at[args.rows] = stats.mean[c][i];
            at[2 * args.rows] = stats.low[c][i];
          }
        }
      }
    }
  }

  // ---- the sums of a block -----------------------------------------------------------------

  template <class G> static NNK_FN S* sums_of(const G& group, const Rows& rows, const Args& args) {
    if constexpr (!sums_here) return nullptr;
    return args.sums + group.block() * (int64(rows.groups) * N * (Sums - weight_sums + 1));
  }
  template <class G>
  static NNK_FN void clear_sums(const G& group, const Rows& rows, const Args& args) {
    if constexpr (sums_here) {
      const Index width = Index(rows.groups * N) * (Sums - weight_sums + 1);
      const Line<S, Index, unit_step> line{sums_of(group, rows, args), width, Index(sizeof(S))};
      rows.each(0, rows.groups, [&](Index g, bool, int) NNK_INLINE {
        line.store(g * N, V::splat(S(0)));
        if constexpr (Sums == parameter_sums)
          line.store(Index(rows.groups + g) * N, V::splat(S(0)));
      });
    }
  }
  // Of groups [first, last), as those of block number `block`.
  template <class G>
  static NNK_FN void save_owned(G& group, const Args& args, const Owned& own, int64 block,
                                Index first, Index last) {
    const Index groups = (args.geometry.length + N - 1) / N;
    const int member = Team == Threads ? group.rank() : group.rank() % Team;
    S* to = args.sums + block * (int64(groups) * N * (Sums - weight_sums + 1));
    NNK_UNROLL
    for (int which = 0; which < Sums - weight_sums + 1; ++which) {
      const Line<S, Index, unit_step> line{to + which * (int64(groups) * N), Index(groups * N),
                                           Index(sizeof(S))};
      NNK_UNROLL
      for (int i = 0; i < owned; ++i) {
        const V v = over_teams(group, which == 0 ? own.weight[i] : own.bias[i], member);
        const Index g = first + member + i * Team;
        if (group.rank() < Team && g < last) line.store(g * N, v);
      }
    }
  }
  static NNK_FN Owned nothing_owned() {
    Owned own;
    NNK_UNROLL
    for (int i = 0; i < owned; ++i) own.weight[i] = own.bias[i] = V::splat(S(0));
    return own;
  }
  // The sum over the teams of a block, in those threads that are its first team.
  template <class G> static NNK_FN V over_teams(G& group, V v, int member) {
    if constexpr (Team < Threads) {
      struct Storage;
      const auto all = group.template shared<S, Threads * N, Storage>();
      group.barrier();
      all.store_vec(group.rank() * N, v);
      group.barrier();
      if (group.rank() < Team) {
        NNK_UNROLL
        for (int t = 1; t < Threads / Team; ++t)
          v = v + all.template load_vec<N>((t * Team + member) * N);
      }
    }
    return v;
  }

  // ---- several blocks for a row -------------------------------------------------------------

  // The second launch where the sums are taken here: a part of each of a range of rows.
  template <class G> static NNK_FN void finish_parts(G& group, const Args& args) {
    const int64 range = divide_blocks(group.block(), args.parts);
    const int64 part = group.block() - range * args.parts;
    const int64 first_tile = range * args.tiles_of_block, end = first_tile + args.tiles_of_block;
    const int64 last_tile = end < args.tiles ? end : args.tiles;
    const Index groups = (args.geometry.length + N - 1) / N;
    const Index first = Index(part) * args.part_groups;
    const Index last = groups - first < args.part_groups ? groups : first + args.part_groups;
    Owned own = nothing_owned();
    for (int64 tile = first_tile; tile < last_tile; ++tile) {
      const Rows rows(group, args.geometry, tile);
      // While the sums of the row are found, its part comes to the cache.
      NNK_UNROLL
      for (int i = 0; i < Depth; ++i) {
        const Index g = first + rows.member + i * Team;
        if (g >= last) continue;
        rows.template fetch<0>(args.x, g, 0);
        rows.template fetch<1>(args.dy, g, 0);
      }
      Stats stats;
      Row::fold_parts(rows, args, tile, stats);
      NNK_UNROLL
      for (int i = 0; i < Depth; ++i) {
        const Index g = first + rows.member + i * Team;
        if (g >= last) continue;
        const Pair v = Row::read(rows, args, g, 0, false);
        const V d = centred ? v.x - stats.mean[0] : v.x;
        const V h = write_group(rows, args, d, v.dy, stats, g, 0, false);
        own.weight[i] = fma(v.dy, h, own.weight[i]);
        if constexpr (Sums == parameter_sums) own.bias[i] = own.bias[i] + v.dy;
      }
    }
    save_owned(group, args, own, range, first, last);
  }

  template <class G> static NNK_FN void parts(G& group, const Args& args) {
    const int64 tile = divide_blocks(group.block(), args.parts);
    const int64 part = group.block() - tile * args.parts;
    const Rows rows(group, args.geometry, tile);
    const Index first = Index(part) * args.part_groups;
    const Index last =
        rows.groups - first < args.part_groups ? rows.groups : first + args.part_groups;
    const auto load = [&](Index g, int c, bool full)
                          NNK_INLINE { return Row::read(rows, args, g, c, full); };
    if constexpr (Stage == part_of_row) {
      const auto load_x = [&](Index g, int c, bool full) NNK_INLINE {
        return rows.template load<0>(args.x, g, c, full, S(0));
      };
      V mean[Columns];
      Totals total[Columns];
      Row::find_mean(rows, load_x, first, last, Row::elements_of(rows, args, part), mean);
      Row::find_sums(rows, args, load, first, last, mean, total);
      Row::save_part(rows, args, tile, part, mean, total);
    } else {
      Stats stats;
      Row::fold_parts(rows, args, tile, stats);
      if (part == 0) save(rows, args, tile, stats);
      write(rows, args, load, stats, first, last, nullptr);
    }
  }
};

}  // namespace nnk
