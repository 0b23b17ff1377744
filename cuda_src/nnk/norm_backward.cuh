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
// is there, else in its own piece of memory. NormSums (norm_sums.cuh) adds those of all blocks. In
// any other case the mean and deviation of every row are saved, and NormSums reads x and dy again.
#pragma once
#include "nnk/norm.cuh"

namespace nnk {

// What is kept for the gradients of parameters.
enum : int {
  no_sums = 0,
  row_values = 1,      // rstd, mean and low (see RowStats) of every row
  weight_sums = 2,     // sums over the rows of this block: dweight
  parameter_sums = 3,  // dweight and dbias
};

// A part of a row: a mean, and sums over d = x - mean (which add up to `sum`, by rounding).
template <class S> struct NormPart { S mean, sum, squares, products, cotangents; };

// Sums of a row that are found in one pass: of d, d^2, g d and g.
template <class V> struct NormSumsOfRow { V sum, squares, products, cotangents; };
template <class S> struct SumNormRow {
  using type = NormSumsOfRow<S>;
  static constexpr bool lanewise = false;
  static NNK_FN type identity() { return {S(0), S(0), S(0), S(0)}; }
  static NNK_FN type combine(const type& a, const type& b) {
    return {a.sum + b.sum, a.squares + b.squares, a.products + b.products,
            a.cotangents + b.cotangents};
  }
};

// T  type of x, dy, added and dx;  W  type of the weight;  operands of the geometry: x, dy, weight,
// added, dx. Weighted, Added: whether there is a weight, and something to add to dx.
template <int Kind, class T, class W, class S, class Geometry, int Layout, class Steps, int N,
          int Columns, int Threads, int Team, int Keep, int Depth, int Stage, bool Streaming,
          bool Weighted, bool Added, int Sums>
struct NormBackward {
  using Index = typename Geometry::index_type;
  using Rows = RowTeam<Geometry, Layout, Steps, S, N, Columns, Threads, Team>;
  using V = Vec<S, N>;
  static constexpr int register_budget = 128;
  static constexpr bool centred = Kind == layer_kind;
  static constexpr bool sums_here = Sums >= weight_sums;
  static constexpr bool in_registers = Keep == keep_registers;
  static_assert(!sums_here || (Layout == along && Stage == whole_row), "a block owns columns");
  static_assert(!sums_here || in_registers || (Columns == 1 && Team == Threads),
                "a thread owns its columns");

  struct Args {
    const T* x;
    const T* dy;
    const W* weight;
    const T* added;
    T* dx;
    S* sums;  // row_values: [rstd, mean, low][rows]; else [blocks][dweight, dbias][width]
    NormPart<S>* workspace;  // rows x parts, for part_of_row and finish_row
    int64 rows;
    int64 tiles;           // in which a block takes the rows, all of them,
    int64 tiles_of_block;  // and of one block
    S eps, offset;
    int64 parts;
    Index part_groups;
    int32 kept;  // elements of shared memory: twice those of a row, for x and dy
    Geometry geometry;
  };

  struct Pair { V x, dy; };
  // dx = rstd (g - mean_g - h mean_gh), h = (x - mean - low) rstd
  struct Stats { V mean[Columns], low[Columns], rstd[Columns], mean_g[Columns], mean_gh[Columns]; };
  using Totals = NormSumsOfRow<V>;
  // Sums over rows for the columns of a thread.
  static constexpr int owned = sums_here && in_registers ? Depth : 1;
  struct Owned { V weight[owned], bias[owned]; };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    if constexpr (Stage == whole_row) {
      const int64 first = group.block() * args.tiles_of_block;
      const int64 end = first + args.tiles_of_block;
      const int64 last = end < args.tiles ? end : args.tiles;
      Owned own;
      NNK_UNROLL
      for (int i = 0; i < owned; ++i) own.weight[i] = own.bias[i] = V::splat(S(0));
      for (int64 tile = first; tile < last; ++tile) {
        const Rows rows(group, args.geometry, tile);
        if constexpr (in_registers) {
          if (lanes_are_simd && rows.template all_whole<Depth>())
            registers<true>(rows, args, tile, own);
          else registers<false>(rows, args, tile, own);
        } else if constexpr (Keep == keep_shared) {
          shared(group, rows, args, tile, first);
        } else {
          const auto load = [&](Index g, int c, bool full)
                                NNK_INLINE { return read(rows, args, g, c, full); };
          const auto load_x = [&](Index g, int c, bool full) NNK_INLINE {
            return rows.template load<0>(args.x, g, c, full, S(0));
          };
          Stats stats;
          measure_row(rows, args, load_x, load, stats);
          save(rows, args, tile, stats);
          const Rows ahead(group, args.geometry, tile + 1 < last ? tile + 1 : tile);
          const auto load_ahead = [&](Index g, int c, bool full) NNK_INLINE {
            fetch(ahead, args, g);
            return read(rows, args, g, c, full);
          };
          if (tile == first) clear_sums(group, rows, args);
          write(rows, args, load_ahead, stats, 0, rows.groups, sums_of(group, rows, args));
        }
      }
      if constexpr (sums_here && in_registers) save_owned(group, args, own);
    } else {
      parts(group, args);
    }
  }

 private:
  static NNK_FN Pair read(const Rows& rows, const Args& args, Index g, int c, bool full) {
    return {rows.template load<0>(args.x, g, c, full, S(0)),
            rows.template load<1>(args.dy, g, c, full, S(0))};
  }
  // Brings a group of a row to the caches: memory has little else to do while results are written.
  // Rows of which several fit go to level 1 at once: 1.6 ms in place of 2.0 ms for 4096 of 1024
  // float32 numbers; for 256 of 32768, level 2 takes 3.6 ms and level 1 7.0 ms (2 cores of a
  // Sapphire Rapids Xeon).
  static NNK_FN void fetch(const Rows& ahead, const Args& args, Index g) {
    if constexpr (lanes_are_simd && Layout == along && Geometry::inner_rank == 1) {
      constexpr Index close = 8192 / sizeof(T);
      const auto& step = args.geometry.inner_stride;
      const T* x = byte_offset(args.x, Index(ahead.base[0][0] + g * N * step[0][0]));
      const T* dy = byte_offset(args.dy, Index(ahead.base[0][1] + g * N * step[1][0]));
      if (args.geometry.length <= close) {
        prefetch<1>(x);
        prefetch<1>(dy);
      } else {
        prefetch<2>(x);
        prefetch<2>(dy);
      }
    }
  }
  static NNK_FN V weighted(const Rows& rows, const Args& args, const V& dy, Index g, int c,
                           bool full) {
    if constexpr (Weighted) {
      const V w = rows.template load<2>(args.weight, g, c, full, S(0));
      return dy * (Kind == rms_kind ? w + args.offset : w);
    } else {
      return dy;
    }
  }
  // x - mean, or 0 where there is no x.
  static NNK_FN V deviation(const Rows& rows, const V& x, const V& mean, Index g, int c,
                            bool full) {
    if constexpr (!centred) return x;
    const int n = full ? N : rows.count(g, c);
    return n == N ? x - mean : first_lanes(x - mean, n);
  }
  static NNK_FN void add(Totals& t, const V& d, const V& g) {
    if constexpr (centred) {
      t.sum = t.sum + d;
      t.cotangents = t.cotangents + g;
    }
    t.squares = fma(d, d, t.squares);
    t.products = fma(g, d, t.products);
  }
  static NNK_FN Totals nothing() {
    const V zero = V::splat(S(0));
    return {zero, zero, zero, zero};
  }

  // ---- statistics --------------------------------------------------------------------------

  // Over the team; along: over the lanes as well.
  static NNK_FN void reduce(const Rows& rows, Totals& t) {
    if constexpr (Layout == along && Threads > 1) {
      const auto all = rows.template reduce_value<SumNormRow<S>>(
          {fold<Sum<S>>(t.sum), fold<Sum<S>>(t.squares), fold<Sum<S>>(t.products),
           fold<Sum<S>>(t.cotangents)});
      t = {V::splat(all.sum), V::splat(all.squares), V::splat(all.products),
           V::splat(all.cotangents)};
    } else {
      if constexpr (centred) {
        t.sum = rows.template reduce<Sum<S>>(t.sum);
        t.cotangents = rows.template reduce<Sum<S>>(t.cotangents);
      }
      t.squares = rows.template reduce<Sum<S>>(t.squares);
      t.products = rows.template reduce<Sum<S>>(t.products);
    }
  }
  // From the sums over a whole row: what the mean was off by is taken from the others.
  static NNK_FN void finish(const Rows& rows, const Args& args, const Totals& t, const V& mean,
                            int c, Stats& stats) {
    if constexpr (Layout == along) {
      // All lanes are the same: one division and root for all of them.
      using One = Vec<S, 1>;
      finish_as<One>(rows, args, One::splat(t.sum[0]), One::splat(t.squares[0]),
                     One::splat(t.products[0]), One::splat(t.cotangents[0]), c, stats);
    } else {
      finish_as<V>(rows, args, t.sum, t.squares, t.products, t.cotangents, c, stats);
    }
    stats.mean[c] = mean;
  }
  template <class X>
  static NNK_FN void finish_as(const Rows& rows, const Args& args, X sum, X squares, X products,
                               X cotangents, int c, Stats& stats) {
    const S share = S(1) / S(rows.geometry.length);
    const X low = centred ? sum * share : X::splat(S(0));
    if constexpr (centred) {
      squares = max(squares - low * sum, X::splat(S(0)));
      products = products - low * cotangents;
    }
    X rstd = S(1) / sqrt(squares * share + args.eps);
    // A row that is not there adds nothing, also where eps is 0.
    if (Layout == along && c >= rows.present) rstd = X::splat(S(0));
    spread(stats.low[c], low);
    spread(stats.rstd[c], rstd);
    spread(stats.mean_g[c], centred ? cotangents * share : X::splat(S(0)));
    spread(stats.mean_gh[c], products * rstd * share);
  }
  static NNK_FN void spread(V& to, const V& x) { to = x; }
  template <int M> static NNK_FN void spread(V& to, const Vec<S, M>& x) { to = V::splat(x[0]); }

  // ---- a row in registers --------------------------------------------------------------------

  template <bool Whole>
  static NNK_FN void registers(const Rows& rows, const Args& args, int64 tile, Owned& own) {
    Pair kept[Depth][Columns];
    Stats stats;
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      V mean = V::splat(S(0));
      NNK_UNROLL
      for (int i = 0; i < Depth; ++i) {
        kept[i][c] = read(rows, args, rows.member + i * Team, c, Whole);
        mean = mean + kept[i][c].x;
      }
      if constexpr (centred)
        mean = rows.template reduce<Sum<S>>(mean) * (S(1) / S(rows.geometry.length));
      else mean = V::splat(S(0));
      Totals t = nothing();
      NNK_UNROLL
      for (int i = 0; i < Depth; ++i) {
        const Index g = rows.member + i * Team;
        Pair& v = kept[i][c];
        v.x = deviation(rows, v.x, mean, g, c, Whole);
        add(t, v.x, weighted(rows, args, v.dy, g, c, Whole));
      }
      reduce(rows, t);
      finish(rows, args, t, mean, c, stats);
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
      const Pair v = read(rows, args, g, c, full);
      kept_x.store_vec(rows.slot(g, c), v.x);
      kept_dy.store_vec(rows.slot(g, c), v.dy);
      return v.x;
    };
    const auto load = [&](Index g, int c, bool) NNK_INLINE {
      const int slot = rows.slot(g, c);
      return Pair{kept_x.template load_vec<N>(slot), kept_dy.template load_vec<N>(slot)};
    };
    Stats stats;
    measure_row(rows, args, load_x, load, stats);
    save(rows, args, tile, stats);
    if (tile == first_tile) clear_sums(group, rows, args);
    write(rows, args, load, stats, 0, rows.groups, sums_of(group, rows, args));
  }

  // The mean over groups [first, last), which have `elements` elements. Where no mean is taken,
  // load_x is called all the same if it keeps the row.
  template <class F>
  static NNK_FN void find_mean(const Rows& rows, F load_x, Index first, Index last, S elements,
                               V (&mean)[Columns]) {
    if constexpr (centred) {
      rows.sum(mean, first, last, load_x);
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) mean[c] = mean[c] * (S(1) / elements);
    } else {
      rows.clear(mean);
      if constexpr (Keep == keep_shared) {
        rows.each(first, last, [&](Index g, bool full, int) NNK_INLINE {
          NNK_UNROLL
          for (int c = 0; c < Columns; ++c) load_x(g, c, full);
        });
      }
    }
  }
  template <class F>
  static NNK_FN void find_sums(const Rows& rows, const Args& args, F load, Index first, Index last,
                               const V (&mean)[Columns], Totals (&total)[Columns]) {
    Totals partial[Rows::partials][Columns];
    for (int p = 0; p < Rows::partials; ++p) {
      for (int c = 0; c < Columns; ++c) partial[p][c] = nothing();
    }
    rows.each(first, last, [&](Index g, bool full, int p) NNK_INLINE {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) {
        const Pair v = load(g, c, full);
        add(partial[p][c], deviation(rows, v.x, mean[c], g, c, full),
            weighted(rows, args, v.dy, g, c, full));
      }
    });
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      total[c] = partial[0][c];
      for (int p = 1; p < Rows::partials; ++p) {
        const Totals& more = partial[p][c];
        total[c] = {total[c].sum + more.sum, total[c].squares + more.squares,
                    total[c].products + more.products, total[c].cotangents + more.cotangents};
      }
      reduce(rows, total[c]);
    }
  }
  template <class F, class E>
  static NNK_FN void measure_row(const Rows& rows, const Args& args, F load_x, E load,
                                 Stats& stats) {
    V mean[Columns];
    Totals total[Columns];
    find_mean(rows, load_x, 0, rows.groups, S(rows.geometry.length), mean);
    find_sums(rows, args, load, 0, rows.groups, mean, total);
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) finish(rows, args, total[c], mean[c], c, stats);
  }

  // ---- results ---------------------------------------------------------------------------------

  // Writes dx of a group from d = x - mean and dy; gives h.
  static NNK_FN V write_group(const Rows& rows, const Args& args, const V& d, const V& dy,
                              const Stats& stats, Index g, int c, bool full) {
    const V h = (centred ? d - stats.low[c] : d) * stats.rstd[c];
    V inside = weighted(rows, args, dy, g, c, full) - h * stats.mean_gh[c];
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
  template <class G> static NNK_FN void save_owned(G& group, const Args& args, const Owned& own) {
    const Index groups = (args.geometry.length + N - 1) / N;
    const int member = Team == Threads ? group.rank() : group.rank() % Team;
    S* to = args.sums + group.block() * (int64(groups) * N * (Sums - weight_sums + 1));
    NNK_UNROLL
    for (int which = 0; which < Sums - weight_sums + 1; ++which) {
      const Line<S, Index, unit_step> line{to + which * (int64(groups) * N), Index(groups * N),
                                           Index(sizeof(S))};
      NNK_UNROLL
      for (int i = 0; i < owned; ++i) {
        const V v = over_teams(group, which == 0 ? own.weight[i] : own.bias[i], member);
        const Index g = member + i * Team;
        if (group.rank() < Team && g < groups) line.store(g * N, v);
      }
    }
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

  template <class G> static NNK_FN void parts(G& group, const Args& args) {
    const int64 tile = divide_blocks(group.block(), args.parts);
    const int64 part = group.block() - tile * args.parts;
    const Rows rows(group, args.geometry, tile);
    const Index first = Index(part) * args.part_groups;
    const Index last =
        rows.groups - first < args.part_groups ? rows.groups : first + args.part_groups;
    const auto load = [&](Index g, int c, bool full)
                          NNK_INLINE { return read(rows, args, g, c, full); };
    if constexpr (Stage == part_of_row) {
      const auto load_x = [&](Index g, int c, bool full) NNK_INLINE {
        return rows.template load<0>(args.x, g, c, full, S(0));
      };
      V mean[Columns];
      Totals total[Columns];
      find_mean(rows, load_x, first, last, elements_of(rows, args, part), mean);
      find_sums(rows, args, load, first, last, mean, total);
      save_part(rows, args, tile, part, mean, total);
    } else {
      Stats stats;
      fold_parts(rows, args, tile, stats);
      if (part == 0) save(rows, args, tile, stats);
      write(rows, args, load, stats, first, last, nullptr);
    }
  }
  static NNK_FN S elements_of(const Rows& rows, const Args& args, int64 part) {
    const Index whole = args.part_groups * (Layout == along ? N : 1);
    const Index left = rows.geometry.length - Index(part) * whole;
    return S(left < whole ? left : whole);
  }
  static NNK_FN void save_part(const Rows& rows, const Args& args, int64 tile, int64 part,
                               const V (&mean)[Columns], const Totals (&t)[Columns]) {
    if (rows.member != 0) return;  // no barrier follows
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      NNK_UNROLL
      for (int i = 0; i < Rows::lanes; ++i) {
        const int row = c * Rows::lanes + i;
        if (row < rows.present)
          args.workspace[(rows.row_number(tile) + row) * args.parts + part] = {
              mean[c][i], t[c].sum[i], t[c].squares[i], t[c].products[i], t[c].cotangents[i]};
      }
    }
  }
  // f(lane, saved, elements) for the parts of column c that this thread takes.
  template <class F>
  static NNK_FN void each_part(const Rows& rows, const Args& args, int64 tile, int c, F f) {
    NNK_UNROLL
    for (int i = 0; i < Rows::lanes; ++i) {
      const int row = c * Rows::lanes + i;
      if (row >= rows.present) continue;
      const NormPart<S>* saved = args.workspace + (rows.row_number(tile) + row) * args.parts;
      // A few steps, which would take many registers if they overlapped.
      const int count = int(args.parts);
      NNK_NO_UNROLL
      for (int p = rows.member; p < count; p += Team) f(i, saved[p], elements_of(rows, args, p));
    }
  }
  static NNK_FN void fold_parts(const Rows& rows, const Args& args, int64 tile, Stats& stats) {
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      V mean = V::splat(S(0));
      if constexpr (centred) {
        each_part(rows, args, tile, c, [&](int i, const NormPart<S>& p, S elements) NNK_INLINE {
          mean.set(i, mean[i] + (elements * p.mean + p.sum));
        });
        mean = rows.template reduce<Sum<S>>(mean) * (S(1) / S(rows.geometry.length));
      }
      Totals t = nothing();
      each_part(rows, args, tile, c, [&](int i, const NormPart<S>& p, S elements) NNK_INLINE {
        // Sums around the mean of the part, moved to that of the row.
        const S off = p.mean - mean[i];
        t.sum.set(i, t.sum[i] + (p.sum + elements * off));
        t.squares.set(i, t.squares[i] + (p.squares + off * (S(2) * p.sum + elements * off)));
        t.products.set(i, t.products[i] + (p.products + off * p.cotangents));
        t.cotangents.set(i, t.cotangents[i] + p.cotangents);
      });
      reduce(rows, t);
      finish(rows, args, t, mean, c, stats);
    }
  }
};

}  // namespace nnk
