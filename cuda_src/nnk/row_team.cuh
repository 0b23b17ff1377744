// RowTeam: how the threads of a block share the rows of a reduction.
//
// A row is everything that is reduced to one value: one axis, or several that could not be
// merged. A row is walked in groups of N elements. Two layouts:
//   along   a group is N neighbours in the row; `Team` threads share a row, or Columns rows at
//           once (short rows: one row alone would wait for itself), and a block of Threads has
//           Threads / Team * Columns rows. Lanes and threads are folded together.
//   across  a group is one element of each of N neighbouring rows (the row itself is strided,
//           the next row is the next element in memory). A thread has Columns such groups
//           side by side; Threads / Team threads lie side by side, `Team` share a row. Only
//           threads are folded, every lane keeps its own result.
// Algorithms are written once against each(), load(), store() and reduce().
#pragma once
#include "nnk/reduce.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

enum : int { along = 0, across = 1 };

// n / d for numbers of blocks, of which a GPU has at most 2^31 - 1: there a 64-bit division is a
// function of a hundred instructions.
NNK_FN int64 divide_blocks(int64 n, int64 d) {
  if constexpr (lanes_are_simd) return n / d;
  else return int64(uint32(n) / uint32(d));
}

// 0, 1, 2, ...
template <class S, int N> NNK_FN Vec<S, N> numbered_lanes() {
  Vec<S, N> v;
  NNK_UNROLL
  for (int i = 0; i < N; ++i) v.set(i, S(i));
  return v;
}
// The first `count` lanes of v, and those of `rest` from there on.
template <class S, int N>
NNK_FN Vec<S, N> join_lanes(const Vec<S, N>& v, const Vec<S, N>& rest, int count) {
  if constexpr (lanes_are_simd) {
    return where(numbered_lanes<S, N>() < S(count), v, rest);
  } else {
    Vec<S, N> r = v;
    NNK_UNROLL
    for (int i = 0; i < N; ++i)
      if (i >= count) r.set(i, rest[i]);
    return r;
  }
}
// The first `count` lanes of v, and 0 in the others.
template <class S, int N> NNK_FN Vec<S, N> first_lanes(const Vec<S, N>& v, int count) {
  return join_lanes(v, Vec<S, N>::splat(S(0)), count);
}

// A step of parameters: one for each of so many neighbours in a row (see load_parameter).
enum : int { period_step = 3 };

// Shape and byte strides of the rows of several operands, made by the host.
// WholeGroups: each group of N elements is there with all of them, or not at all. Then a load is
// one instruction with a predicate, and many are under way; else it is a branch between the group's
// one access and an access for each element.
template <int Operands, int OuterRank, int InnerRank, class Index, bool WholeGroups = false>
struct RowGeometry {
  static constexpr int operands = Operands;
  static constexpr bool whole_groups = WholeGroups;
  static constexpr int outer_rank = OuterRank;
  static constexpr int inner_rank = InnerRank;
  using index_type = Index;
  int64 rows;        // across: positions of the outer axes without the last
  Index length;      // elements of a row
  Index neighbours;  // across: length of the last outer axis
  Index tiles;       // across: blocks that this length is cut into
  Divisor<Index> outer[OuterRank];
  Divisor<Index> inner[InnerRank];
  Index outer_stride[Operands][OuterRank];
  Index inner_stride[Operands][InnerRank];
};

// Steps: of each operand between the lanes of a group (along: inside the row; across: to the
// next row).
template <class Geometry, int Layout, class Steps, class S, int N, int Columns, int Threads,
          int Team>
struct RowTeam {
  using Index = typename Geometry::index_type;
  using V = Vec<S, N>;
  static constexpr int operands = Geometry::operands;
  static constexpr int layout = Layout, columns = Columns, team = Team;
  static constexpr int side_by_side = Threads / Team;
  static constexpr int lanes = Layout == along ? 1 : N;  // rows of a thread and column
  static_assert(Threads % Team == 0, "a whole number of teams in a block");

  const Group<Threads>& group;
  const Geometry& geometry;
  static constexpr int bases = Layout == along ? Columns : 1;
  Index base[bases][operands];  // byte offsets of this thread's rows; across: of the first
  Index groups;                 // groups of a row
  int present;                  // rows of this thread that exist
  int member;                   // rank within the team
  Index result_row;             // along: the first row; across: its position on the last outer axis

  NNK_FN RowTeam(const Group<Threads>& g, const Geometry& geo, int64 tile)
      : group(g), geometry(geo) {
    if constexpr (Layout == along) {
      // Whole teams of adjacent threads: a row is read by neighbours.
      member = Team == Threads ? g.rank() : g.rank() % Team;
      const int64 row = (tile * side_by_side + (Team == Threads ? 0 : g.rank() / Team)) * Columns;
      const int64 left = geo.rows - row;
      present = within(left, Columns);
      result_row = present ? Index(row) : Index(geo.rows - 1);
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c)  // a row that is not there is read for nothing: not at all
        decode(result_row + (c < present ? c : 0), 0, base[c]);
      groups = (geo.length + N - 1) / N;
    } else {
      // Neighbouring threads take neighbouring rows: that is what lies together in memory.
      member = Team == Threads ? g.rank() : g.rank() / side_by_side;
      const int beside = Team == Threads ? 0 : g.rank() % side_by_side;
      const Index outer_row = Index(divide_blocks(tile, geo.tiles));
      const Index in_row = Index(tile - int64(outer_row) * geo.tiles);
      result_row = (in_row * side_by_side + beside) * (N * Columns);
      const Index left = geo.neighbours - result_row;
      present = within(left, N * Columns);
      decode(outer_row, left > 0 ? result_row : 0, base[0]);
      groups = geo.length;
    }
  }

  // Along, a row at a time: a row of this thread by its number, if it is there.
  NNK_FN RowTeam(const Group<Threads>& g, const Geometry& geo, int64 row, bool there)
      : group(g), geometry(geo) {
    static_assert(Layout == along && Columns == 1, "a row at a time");
    member = Team == Threads ? g.rank() : g.rank() % Team;
    present = there;
    result_row = there ? Index(row) : Index(geo.rows - 1);
    decode(result_row, 0, base[0]);
    groups = (geo.length + N - 1) / N;
  }

  // Whether group g, column c exists, where it does so with all lanes or none.
  NNK_FN bool there(Index g, int c) const {
    return g < groups && (Layout == along ? c : c * N) < present;
  }
  // The number of lanes of group g, column c that exist.
  NNK_FN int count(Index g, int c) const {
    if constexpr (Geometry::whole_groups) {
      return there(g, c) ? N : 0;
    } else if constexpr (Layout == along) {
      const Index left = geometry.length - g * N;
      return c >= present ? 0 : within(left, N);
    } else {
      return g < groups ? within(present - c * N, N) : 0;
    }
  }

  // Along: the lanes of group g that exist in a row.
  NNK_FN int count_of_row(Index g) const {
    if constexpr (Geometry::whole_groups) return g < groups ? N : 0;
    const Index left = geometry.length - g * N;
    return within(left, N);
  }

  // Whether each of Depth groups of every team member is whole, in every row of this thread.
  template <int Depth> NNK_FN bool all_whole() const {
    return Layout == along && present == Columns && geometry.length == Index(Depth * Team * N);
  }

  // Group g, column c of operand O, as S. `full`: the caller knows that count(g, c) == N.
  template <int O, class T> NNK_FN V load(const T* data, Index g, int c, bool full, S fill) const {
    return load_as<O>(data, g, c, full, fill);
  }
  // The same in another type.
  template <int O, class C, class T>
  NNK_FN Vec<C, N> load_as(const T* data, Index g, int c, bool full, C fill) const {
    const auto at = place<O>(data, g, c);
    const int first = Layout == along ? 0 : c * N;
    const T element_fill = convert<T>(Vec<C, 1>::splat(fill))[0];
    if constexpr (Geometry::whole_groups) {
      return convert<C>(at.template load_if<N>(full || there(g, c), Index(first), element_fill));
    } else {
      const int n = full ? N : count(g, c);
      if (full || n == N) return convert<C>(at.template load<N>(Index(first)));
      return convert<C>(at.template load_partial<N>(Index(first), n, element_fill));
    }
  }
  // The same of a weight or the like, which neighbours may share: where its step is period_step,
  // `period` of them have one, and the stride of the operand is that to the next one.
  template <int O, class C = S, class T>
  NNK_FN Vec<C, N> load_parameter(const T* data, Index g, int c, bool full,
                                  const Divisor<Index>& period) const {
    if constexpr (int_at<O, Steps> != period_step) {
      return load_as<O>(data, g, c, full, C(0));
    } else {
      using W = Vec<C, N>;
      static_assert(Layout == along && Geometry::inner_rank == 1, "neighbours lie along one axis");
      const int n = full ? N : count(g, c);
      if (n == 0) return W::splat(C(0));
      const Index step = geometry.inner_stride[O][0];
      const Index number = period.divide(g * N);
      const T* at = byte_offset(data, base[c][O] + number * step);
      W v = shared_by_all<C>(at);
      for (Index seen = (number + 1) * period.divisor - g * N; seen < n; seen += period.divisor) {
        at = byte_offset(at, step);
        v = join_lanes(v, shared_by_all<C>(at), int(seen));
      }
      return v;
    }
  }
  // Has a GPU bring group g, column c of operand O to its level-2 cache, if the group is there.
  template <int O, class T> NNK_FN void fetch(const T* data, Index g, int c) const {
    if constexpr (!lanes_are_simd && Geometry::whole_groups && int_at<O, Steps> == unit_step) {
      if (there(g, c)) fetch_ahead(place<O>(data, g, c).at(0));
    }
  }
  // Streaming: past the caches, for results that are larger than these.
  template <int O, bool Streaming = false, class T, class C>
  NNK_FN void store(T* data, Index g, int c, bool full, const Vec<C, N>& v) const {
    const auto at = place<O>(data, g, c);
    const int first = Layout == along ? 0 : c * N;
    const int n = full ? N : count(g, c);
    if (full || n == N) {
      if constexpr (Streaming) at.store_streaming(Index(first), convert<T>(v));
      else at.store(Index(first), convert<T>(v));
    } else {
      at.store_partial(Index(first), convert<T>(v), n);
    }
  }
  // Has the processor fetch group g of the row `ahead` rows further on, which this thread most
  // likely takes soon: while one row is written, nothing else reads. To level 2, since what is on
  // its way to level 1 holds up stores past the caches.
  template <int O, class T>
  NNK_FN void prefetch_next(const T* data, Index g, int c, Index ahead) const {
    if constexpr (lanes_are_simd && Layout == along && int_at<O, Steps> == unit_step)
      prefetch<2>(byte_offset(place<O>(data, g, c).data,
                              geometry.outer_stride[O][Geometry::outer_rank - 1] * ahead));
  }
  // The value of each row itself, for an operand with one element for a row: lane i of column c
  // goes to row c * N + i; along has a single lane.
  template <int O, class T, class C>
  NNK_FN void store_result(T* data, int c, const Vec<C, N>& v) const {
    if constexpr (Layout == along) {
      if (c < present && member == 0) {
        const Line<T, Index> at{byte_offset(data, base[c][O]), 1, 0};
        at.store_partial(Index(0), convert<T>(Vec<C, 1>::splat(v[0])), 1);
      }
    } else {
      if (member == 0) store<O>(data, 0, c, false, v);
    }
  }
  // What store_result() would write to: along, the one value is in all lanes.
  template <int O, class C, class T> NNK_FN Vec<C, N> load_result(const T* data, int c) const {
    if constexpr (Layout == along) {
      if (c >= present) return Vec<C, N>::splat(C(0));
      const Line<const T, Index> at{byte_offset(data, base[c][O]), 1, 0};
      return Vec<C, N>::splat(convert<C>(at.template load<1>(Index(0)))[0]);
    } else {
      return load_as<O>(data, 0, c, false, C(0));
    }
  }
  // Rows numbered through, for workspaces: that of lane 0, column 0.
  NNK_FN int64 row_number(int64 tile) const {
    if constexpr (Layout == along) return result_row;
    else return divide_blocks(tile, geometry.tiles) * geometry.neighbours + result_row;
  }
  // Where a thread keeps group g, column c in the block's shared memory. Only the thread that
  // wrote a slot reads it.
  NNK_FN int slot(Index g, int c) const {
    if constexpr (Layout == along) {
      const int row = (Team == Threads ? 0 : group.rank() / Team) * Columns + c;
      return (row * int(groups) + int(g)) * N;
    }
    return ((int(g) * side_by_side + (Team == Threads ? 0 : group.rank() % side_by_side)) *
                Columns +
            c) *
           N;
  }

  // Over the team; along: over the lanes as well, and every lane gets the one result.
  template <class Op> NNK_FN V reduce(V x) const {
    if constexpr (Layout == along) {
      return V::splat(reduce_value<Op>(fold<Op>(x)));
    } else {
      return reduce_across<Op>(x);
    }
  }
  // The same for a value that is no plain number (along only: one value for a thread).
  template <class Op> NNK_FN typename Op::type reduce_value(typename Op::type x) const {
    if constexpr (Team == Threads) return nnk::reduce<Op>(group, x);
    else return reduce_lanes<Op, Team>(x);
  }

  // f(g, full, slot) for the groups g of this thread in [first, last). `full` is known where a
  // loop over whole groups can be told from the last, cut one. `slot` tells one of `partials`
  // independent partial results: on one thread a single chain of additions would wait for
  // itself.
  static constexpr int partials = Layout == along && Threads == 1 ? 4 : 1;
  template <class F> NNK_FN void each(Index first, Index last, F f) const {
    if constexpr (Layout == along && Threads == 1) {
      const Index whole = geometry.length / N < last ? geometry.length / N : last;
      Index g = first;
      for (; g + 4 <= whole; g += 4) {
        f(g, true, 0);
        f(g + 1, true, 1);
        f(g + 2, true, 2);
        f(g + 3, true, 3);
      }
      for (; g < whole; ++g) f(g, true, 0);
      for (; g < last; ++g) f(g, false, 0);
    } else if constexpr (Layout == across && Threads == 1) {
      if (present == N * Columns) {
        for (Index g = first; g < last; ++g) f(g, true, 0);
      } else {
        for (Index g = first; g < last; ++g) f(g, false, 0);
      }
    } else {
      // Loads of several groups are under way at once, where these are whole. A group of eight
      // numbers leaves registers for few of them, and two are unrolled by hand.
      Index g = first + member;
      if constexpr (N < 8) {
        NNK_UNROLL_SOME
        for (; g < last; g += Team) f(g, false, 0);
      } else {
        NNK_NO_UNROLL
        for (; g + Team < last; g += 2 * Team) {
          f(g, false, 0);
          f(g + Team, false, 0);
        }
        if (g < last) f(g, false, 0);
      }
    }
  }

  NNK_FN static void clear(V (&x)[Columns]) {
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) x[c] = V::splat(S());
  }
  // The sum of f(g, c, full) over groups [first, last), for every column, in all threads of the
  // team.
  template <class F> NNK_FN void sum(V (&total)[Columns], Index first, Index last, F f) const {
    sum_alone(total, first, last, f);
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) total[c] = reduce<Sum<S>>(total[c]);
  }
  // The same of this thread's groups alone.
  template <class F>
  NNK_FN void sum_alone(V (&total)[Columns], Index first, Index last, F f) const {
    V partial[partials][Columns];
    for (int p = 0; p < partials; ++p) clear(partial[p]);
    each(first, last, [&](Index g, bool full, int p) {
      NNK_UNROLL
      for (int c = 0; c < Columns; ++c) partial[p][c] = partial[p][c] + f(g, c, full);
    });
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      total[c] = partial[0][c];
      for (int p = 1; p < partials; ++p) total[c] = total[c] + partial[p][c];
    }
  }

  // Several blocks share a row: each saves what it has of it, [rows][parts], and a second launch
  // folds the parts in a fixed order.
  NNK_FN void save_parts(S* workspace, int64 parts, int64 tile, int64 part,
                         const V (&x)[Columns]) const {
    if (member != 0) return;
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      NNK_UNROLL
      for (int i = 0; i < lanes; ++i)
        if (c * lanes + i < present)
          workspace[(row_number(tile) + c * lanes + i) * parts + part] = x[c][i];
    }
  }
  template <class Op>
  NNK_FN void fold_parts(const S* workspace, int64 parts, int64 tile, V (&x)[Columns]) const {
    NNK_UNROLL
    for (int c = 0; c < Columns; ++c) {
      x[c] = V::splat(Op::identity());
      NNK_UNROLL
      for (int i = 0; i < lanes; ++i) {
        S total = Op::identity();
        if (c * lanes + i < present) {
          const S* saved = workspace + (row_number(tile) + c * lanes + i) * parts;
          // A few steps, which would take many registers if they overlapped.
          const int count = int(parts);
          NNK_NO_UNROLL
          for (int p = member; p < count; p += Team) total = Op::combine(total, saved[p]);
        }
        x[c].set(i, total);
      }
      x[c] = reduce<Op>(x[c]);
    }
  }

 protected:
  template <class C, class T> static NNK_FN Vec<C, N> shared_by_all(const T* at) {
    return Vec<C, N>::splat(convert<C>(nnk::load<1>(at))[0]);
  }
  NNK_FN void decode(Index row, Index along_last, Index (&offset)[operands]) const {
    constexpr int last = Layout == across ? Geometry::outer_rank - 2 : Geometry::outer_rank - 1;
    NNK_UNROLL
    for (int o = 0; o < operands; ++o)
      offset[o] =
          Layout == across ? along_last * geometry.outer_stride[o][Geometry::outer_rank - 1] : 0;
    NNK_UNROLL
    for (int axis = last; axis >= 0; --axis) {
      const Index next = axis == 0 ? 0 : geometry.outer[axis].divide(row);
      const Index position = row - next * geometry.outer[axis].divisor;
      NNK_UNROLL
      for (int o = 0; o < operands; ++o) offset[o] += position * geometry.outer_stride[o][axis];
      row = next;
    }
  }

  // Byte offset of element i of a row from its start.
  template <int O> NNK_FN Index inner_offset(Index i) const {
    Index offset = 0;
    NNK_UNROLL
    for (int axis = Geometry::inner_rank - 1; axis >= 0; --axis) {
      const Index next = axis == 0 ? 0 : geometry.inner[axis].divide(i);
      offset += (i - next * geometry.inner[axis].divisor) * geometry.inner_stride[O][axis];
      i = next;
    }
    return offset;
  }

  // The lanes of group g as a Line: along, N elements of the row from g * N on; across, the
  // element g of all rows of this thread. With several inner axes the host sees to it that N
  // divides the last, so that no group crosses its end.
  template <int O, class T> NNK_FN auto place(T* data, Index g, int c) const {
    constexpr int step_kind = int_at<O, Steps>;
    if constexpr (Layout == along) {
      // Known steps leave one product for all operands.
      constexpr bool unit = is_adjacent(step_kind);
      const Index step =
          unit ? Index(sizeof(T)) : geometry.inner_stride[O][Geometry::inner_rank - 1];
      Index offset;
      if constexpr (Geometry::inner_rank == 1) offset = g * N * step;
      else offset = inner_offset<O>(g * N);
      const Index left = geometry.length - g * N;
      return Line<T, Index, step_kind>{byte_offset(data, Index(base[c][O] + offset)), left, step};
    } else {
      const Index left = geometry.neighbours - result_row;
      return Line<T, Index, step_kind>{byte_offset(data, Index(base[0][O] + inner_offset<O>(g))),
                                       left, geometry.outer_stride[O][Geometry::outer_rank - 1]};
    }
  }

  template <class Op> NNK_FN V reduce_across(V x) const {
    if constexpr (Team == 1) {
      return x;
    } else {
      struct Storage;
      const auto partial = group.template shared<S, Threads * N, Storage>();
      const int beside = Team == Threads ? 0 : group.rank() % side_by_side;
      group.barrier();
      NNK_UNROLL
      for (int i = 0; i < N; ++i) partial.store(i * Threads + group.rank(), x[i]);
      group.barrier();
      // As a tree until few are left; these every thread reads for itself.
      constexpr int few = 8;
      static_assert(is_power_of_two(Team), "a team is halved");
      NNK_UNROLL
      for (int half_size = Team / 2; half_size >= few; half_size /= 2) {
        const int own = group.rank(), other = own + half_size * side_by_side;
        if (member < half_size) {
          NNK_UNROLL
          for (int i = 0; i < N; ++i)
            partial.store(i * Threads + own, Op::combine(partial.load(i * Threads + own),
                                                         partial.load(i * Threads + other)));
        }
        group.barrier();
      }
      V total;
      NNK_UNROLL
      for (int i = 0; i < N; ++i) {
        S sum = partial.load(i * Threads + beside);
        NNK_UNROLL
        for (int m = 1; m < (Team < few ? Team : few); ++m)
          sum = Op::combine(sum, partial.load(i * Threads + m * side_by_side + beside));
        total.set(i, sum);
      }
      return total;
    }
  }
};

}  // namespace nnk
