// Matrix product C = epilogue(A B) on matrix cores, two-dimensional or batched, over any strides:
// one form for every instruction set, which an atom (nnk/mma_*.cuh) describes.
//
// A block makes a TileM x TileN tile of C, a warp WarpM x WarpN of it, in registers. Slices of
// TileK terms of A and B pass through a ring of `Stages` stages of shared memory
// (matmul_tensor_operand.cuh): while one is multiplied, later ones are under way. Fragments for the
// next step of Atom::k terms are read while one step is multiplied; for the first step of a slice
// that happens before the last step of the slice before, so the multiplications of a warp never
// wait for a slice to begin.
//
// Where K is no multiple of TileK, the first slice begins with zeros: all later ones are whole, and
// the loop asks for no edge. Which terms are multiplied in one step follows from K alone, so that
// tiles of any size, and operands of any strides, give the same bits. Rows past an edge are copies
// of others; what is made of them is not written.
#pragma once
#include "nnk/matmul_args.cuh"
#include "nnk/matmul_epilogue.cuh"
#include "nnk/matmul_operands.cuh"
#include "nnk/matmul_tensor_operand.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"
#include "nnk/warpgroup.cuh"

namespace nnk {

// A product of plain matrices: no operand is gathered, and C is a matrix.
struct TensorForm {
  static constexpr bool scatters_rows = false, scatters_columns = false, is_large = false;
  template <class Product, class Index> using Args = Product;
  template <class Base, class Index> using A = Base;
  template <class Base, class Index> using B = Base;
};

// TA, TB, TC: element types; S: type of the sums for the epilogue, of the bits of Atom::Sum
// WayA, BytesA, WayB, BytesB: see matmul_tensor_operand.cuh
// WideC: whether every row of C is whole 16-byte accesses
// Form: what else the operands and C may be: see TensorForm, and conv_tensor_form.cuh
template <class TA, class TB, class TC, class S, class Index, int BatchRank, class Atom, int TileM,
          int TileN, int TileK, int WarpM, int WarpN, int Stages, int WayA, int BytesA, int WayB,
          int BytesB, bool WideC, class Epilogue, class Form = TensorForm>
struct MatmulTensor {
  using Element = typename Atom::Element;
  using Sum = typename Atom::Sum;
  static_assert(sizeof(TA) == sizeof(Element) && sizeof(TB) == sizeof(Element),
                "operands are copied bit by bit");
  static constexpr int warps_n = TileN / WarpN, warps = TileM / WarpM * warps_n;
  // Threads that make sums, after which others, if there are any, copy slices for them. Then the
  // first ones have nothing to do between two slices but to begin the next one.
  static constexpr int multipliers = warps * Atom::lanes, copiers = copiers_of<Atom>;
  static constexpr int threads = multipliers + copiers, copying = copiers > 0 ? copiers : threads;
  static constexpr int parts_m = WarpM / Atom::m, parts_n = WarpN / Atom::n;
  static constexpr int steps = TileK / Atom::k;
  static_assert(steps >= 2 && steps % 2 == 0, "two sets of fragments take turns within a slice");
  // Beside 64 x 32 sums of 8 bytes there are registers for one set: it is read again as soon as it
  // has been multiplied.
  static constexpr int sets = sizeof(Sum) == 8 && WarpM * WarpN >= 64 * 32 ? 1 : 2;
  // Whether four warps multiply together what lies in shared memory. There are no fragments then.
  static constexpr bool by_warpgroup = of_warpgroup<Atom>;
  static_assert(!by_warpgroup || (WarpM == Atom::m && WarpN == TileN && Stages >= 3 &&
                                  TileM % warpgroup_rows == 0),
                "a warpgroup has 64 rows and all columns");
  template <int Rows, int Way, int Bytes>
  using Operand = TensorOperand<Element, Index, Rows, TileK, copying, Way, Bytes, by_warpgroup>;
  using A = typename Form::template A<Operand<TileM, WayA, BytesA>, Index>;
  using B = typename Form::template B<Operand<TileN, WayB, BytesB>, Index>;
  static constexpr int stage = A::elements + B::elements;
  static constexpr bool any_asynchronous = A::asynchronous || B::asynchronous;
  static_assert(Stages >= 2, "one slice is read while another one is written");
  static_assert(copiers == 0 || (by_warpgroup && A::asynchronous && B::asynchronous),
                "those that copy do so without registers, and without others");
  // Left alone, a compiler saves registers for warps that shared memory has no room for, and
  // spills: three blocks of 128 threads, or two with 64 x 64 sums of a warp, or one of 256. Where
  // there are no fragments, and few addresses, 64 sums leave room for four.
  static constexpr bool few_registers =
      by_warpgroup && A::asynchronous && B::asynchronous && BytesA == 16 && BytesB == 16;
  // What comes through registers beside them, of both operands or byte by byte, leaves room for
  // two.
  static constexpr bool many_registers =
      by_warpgroup && !few_registers && (!any_asynchronous || sizeof(Element) == 1);
  static constexpr int register_budget = copiers > 0 ? 65536 / threads / 8 * 8
                                         : WarpM * WarpN * int(sizeof(Sum)) > 64 * 32 * 4 ? 255
                                         : few_registers                                  ? 128
                                         : many_registers                                 ? 200
                                                                                          : 168;

  using Product = ProductArgs<TA, TB, TC, Index, BatchRank, Epilogue, BandGrid>;
  using Args = typename Form::template Args<Product, Index>;

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const Work work(args, int32(group.block()));
    const Place place = work.place;
    const Index* const offset = work.offset;
    const Index split = Index(args.grid.batches_of_split.divide(work.batch));
    const Index terms = terms_of_split(args, split);
    const Index slices = ceil_div(terms, Index(TileK));
    const int missing = int(slices * TileK - terms);
    if constexpr (copiers > 0) {
      if (group.rank() < multipliers) {
        Sums sums;
        clear(sums);
        if (slices > 0) multiply_slices(group, slices, sums);
        finish(group, args, Work(args, opaque(int32(group.block()))), sums);
        return;
      }
    }
    A a;
    B b;
    const unsigned rank = unsigned(group.rank() - (copiers > 0 ? multipliers : 0));
    const TA* const from_a = byte_offset(args.a, offset[0]);
    const TB* const from_b = byte_offset(args.b, offset[1]);
    if constexpr (A::gathers)
      a.begin(Form::geometry_a(args), rank, from_a, place.m, args.m, split * args.terms, missing);
    else a.begin(rank, from_a, place.m, args.m, terms, args.stride_a[0], args.stride_a[1], missing);
    if constexpr (B::gathers)
      b.begin(Form::geometry_b(args), rank, from_b, place.n, args.n, split * args.terms, missing);
    else b.begin(rank, from_b, place.n, args.n, terms, args.stride_b[1], args.stride_b[0], missing);
    if constexpr (copiers > 0) {
      if (slices > 0) copy_slices(group, a, b, slices, missing);
      if constexpr (WideC) wait_for_results(group);
    } else {
      Sums sums;
      clear(sums);
      if (slices > 0) {
        if constexpr (by_warpgroup) accumulate_together(group, a, b, slices, missing, sums);
        else accumulate(group, a, b, slices, missing, sums);
      }
      // Where the sums go is found once more: from before the loop, registers would have to hold
      // it.
      finish(group, args, Work(args, opaque(int32(group.block()))), sums);
    }
  }

 private:
  struct Sums { typename Atom::C part[parts_m][parts_n]; };
  struct Fragments {
    typename Atom::A a[sets][parts_m];
    typename Atom::B b[sets][parts_n];
  };

  struct Place { Index m, n; };
  // What a block makes: the tile at a place, of matrices that begin at some offsets.
  struct Work {
    int batch;
    Place place;
    Index offset[Args::arrays];
    NNK_FN Work(const Args& args, int32 block) : batch(args.grid.tiles.divide(block)) {
      int row, column;
      args.grid.place(block - batch * args.grid.tiles.divisor, row, column);
      place = {Index(row) * TileM, Index(column) * TileN};
      decode_batch(args.batch, args.batch_stride, Index(batch), offset);
    }
  };
  struct Warp {
    int lane, m, n;  // of the block's tile, its first row and column
    NNK_FN explicit Warp(unsigned rank)
        : lane(int(rank % Atom::lanes)),
          m(int(rank / Atom::lanes / warps_n * WarpM)),
          n(int(rank / Atom::lanes % warps_n * WarpN)) {}
  };

  // ---- the sums ---------------------------------------------------------------------------------

  static NNK_FN void clear(Sums& sums) {
    NNK_UNROLL
    for (int i = 0; i < parts_m; ++i) {
      NNK_UNROLL
      for (int j = 0; j < parts_n; ++j) {
        NNK_UNROLL
        for (int e = 0; e < Atom::sums; ++e) sums.part[i][j].x[e] = Sum();
      }
    }
  }

  // Where copies are asynchronous, the code of all stages is laid out in a row, in which the places
  // of a stage are numbers; where code for loads, or for many places, is there too, it would be too
  // much. (With ptxas 13.0 each slice of 64 x 128 sums over pixels moved 104 registers to local
  // memory and back, beside 32 steps of the matrix core.)
  static constexpr int in_a_row = any_asynchronous && !Form::is_large ? Stages : 1;

  template <class G>
  static NNK_FN void accumulate(G& group, A& a, B& b, Index slices, int missing, Sums& sums) {
    const auto memory = group.template dynamic_shared<Element>(0, Stages * stage);
    if constexpr (A::table_words + B::table_words > 0) write_tables(group, a, b);
    fill(memory, a, b, missing, slices);
    if constexpr (any_asynchronous) copy_async_wait<Stages - 2>();
    group.barrier();
    const Warp warp(unsigned(group.rank()));
    Fragments fragments;
    load(memory, warp, 0, 0, fragments);
    int next = 0;
    NNK_NO_UNROLL
    for (Index left = slices; left != 0;) {
      NNK_UNROLL
      for (int s = 0; s < in_a_row; ++s) {
        const int now = in_a_row > 1 ? s * stage : next;
        next = now == (Stages - 1) * stage ? 0 : now + stage;
        add_slice(group, memory, warp, a, b, now, next, left, fragments, sums);
        if (--left == 0) return;
      }
    }
  }

  // After the stages: what operands look up.
  template <class G> static NNK_FN void write_tables(G& group, A& a, B& b) {
    constexpr int first = Stages * stage * int(sizeof(Element));
    constexpr int second = first + A::table_words * int(sizeof(Index));
    if constexpr (A::table_words > 0)
      a.write_tables(group.template dynamic_shared<Index>(first, A::table_words));
    if constexpr (B::table_words > 0)
      b.write_tables(group.template dynamic_shared<Index>(second, B::table_words));
    group.barrier();
  }

  // The slice in the stage that begins at `now`; the next one is `then`. `left`: slices not yet
  // done, this one among them
  template <class G>
  static NNK_FN void add_slice(G& group, const Shared<Element>& memory, const Warp& warp, A& a,
                               B& b, int now, int then, Index left, Fragments& fragments,
                               Sums& sums) {
    NNK_UNROLL
    for (int step = 0; step < steps; ++step) {
      const int next = step + 1 < steps ? now : then;
      if constexpr (sets > 1) load(memory, warp, next, (step + 1) % steps, fragments);
      if (step == 0) {
        const int free = now == 0 ? (Stages - 1) * stage : now - stage;
        copy(memory, a, b, free, left >= Stages);
      }
      multiply(fragments, step % sets, sums);
      if constexpr (sets == 1) load(memory, warp, next, (step + 1) % steps, fragments);
      if (step == steps - 2) {
        pass_on(memory, a, b, then, left);
        if constexpr (any_asynchronous) copy_async_wait<Stages - 2>();
        group.barrier();
      }
    }
  }

  // Slices that are under way when the first one is multiplied, that one among them.
  static constexpr int ahead = by_warpgroup ? Stages - 2 : Stages - 1;
  // The first slice to the first stage, and the next ones under way.
  static NNK_FN void fill(const Shared<Element>& memory, A& a, B& b, int missing, Index slices) {
    if constexpr (A::asynchronous) a.template copy<true>(memory, 0, missing);
    else a.template load<true>(missing);
    if constexpr (B::asynchronous) b.template copy<true>(memory, A::elements, missing);
    else b.template load<true>(missing);
    if constexpr (any_asynchronous) copy_async_commit();
    NNK_UNROLL
    for (int i = 1; i < ahead; ++i) copy(memory, a, b, i * stage, i < slices);
    if constexpr (!A::asynchronous) {
      a.template store<true>(memory, 0, missing);
      if (slices > 1) a.template load<false>(0);
    }
    if constexpr (!B::asynchronous) {
      b.template store<true>(memory, A::elements, missing);
      if (slices > 1) b.template load<false>(0);
    }
  }
  // Begins the asynchronous copies of a slice, if there is one.
  static NNK_FN void copy(const Shared<Element>& memory, A& a, B& b, int to, bool there) {
    if constexpr (A::asynchronous) a.template copy<false>(memory, to, 0, there);
    if constexpr (B::asynchronous) b.template copy<false>(memory, to + A::elements, 0, there);
    if constexpr (any_asynchronous) copy_async_commit();
  }
  // Stores the next slice from registers, and loads the one after it. `left`: slices not yet done
  static NNK_FN void pass_on(const Shared<Element>& memory, A& a, B& b, int to, Index left) {
    if constexpr (!A::asynchronous) {
      if (left > 1) a.template store<false>(memory, to, 0);
      if (left > 2) a.template load<false>(0);
    }
    if constexpr (!B::asynchronous) {
      if (left > 1) b.template store<false>(memory, to + A::elements, 0);
      if (left > 2) b.template load<false>(0);
    }
  }

  // ---- what a warpgroup does ------------------------------------------------------------------

  // Products of a slice go on while those of the next one begin. So of the stages one is
  // multiplied, one may still be read by a warpgroup that is behind, and the others are on their
  // way.
  template <class G>
  static NNK_FN void accumulate_together(G& group, A& a, B& b, Index slices, int missing,
                                         Sums& sums) {
    using Team = typename Atom::Team;
    const auto memory = Team::template memory<Element>(group, Stages * stage);
    if constexpr (A::table_words + B::table_words > 0) write_tables(group, a, b);
    fill(memory, a, b, missing, slices);
    const int row = group.rank() / warpgroup_threads * warpgroup_rows;
    int now = 0, free = ahead * stage;
    NNK_NO_UNROLL
    for (Index left = slices; left != 0; --left) {
      if constexpr (any_asynchronous) copy_async_wait<ahead - 1>();
      Team::publish();
      group.barrier();
      multiply_slice(memory, now, row, sums);
      now = after(now);
      copy(memory, a, b, free, left > ahead);
      free = after(free);
      pass_on(memory, a, b, now, left);
      Team::template wait<1>(NNK_HERE);
    }
    Team::template wait<0>(NNK_HERE);
  }
  // The same by threads that copy, and threads that multiply. They meet at barriers that stand in
  // different places.
  static NNK_FN Site between_slices() { return NNK_HERE; }
  static NNK_FN Site between_results() { return NNK_HERE; }
  template <class G>
  static NNK_FN void copy_slices(G& group, A& a, B& b, Index slices, int missing) {
    using Team = typename Atom::Team;
    const auto memory = Team::template memory<Element>(group, Stages * stage);
    static_assert(A::table_words + B::table_words == 0, "what is looked up is for all threads");
    fill(memory, a, b, missing, slices);
    int free = ahead * stage;
    NNK_NO_UNROLL
    for (Index left = slices; left != 0; --left) {
      copy_async_wait<ahead - 1>();
      Team::publish();
      group.barrier(between_slices());
      copy(memory, a, b, free, left > ahead);
      free = after(free);
    }
    copy_async_wait<0>();
  }
  template <class G> static NNK_FN void multiply_slices(G& group, Index slices, Sums& sums) {
    using Team = typename Atom::Team;
    const auto memory = Team::template memory<Element>(group, Stages * stage);
    const int row = group.rank() / warpgroup_threads * warpgroup_rows;
    int now = 0;
    NNK_NO_UNROLL
    for (Index left = slices; left != 0; --left) {
      group.barrier(between_slices());
      multiply_slice(memory, now, row, sums);
      now = after(now);
      Team::template wait<1>(NNK_HERE);
    }
    Team::template wait<0>(NNK_HERE);
  }
  static NNK_FN int after(int at) { return at == (Stages - 1) * stage ? 0 : at + stage; }

  static NNK_FN void multiply_slice(const Shared<Element>& memory, int from, int row, Sums& sums) {
    Atom::Team::begin(NNK_HERE);
    NNK_UNROLL
    for (int step = 0; step < steps; ++step) {
      const int row_at = A::turned ? row / A::column_line * A::column : row * TileK;
      const int a = chunks(from) + chunks(row_at) + chunks(term_at<A>(step));
      const int b = chunks(from) + chunks(A::elements + term_at<B>(step));
      const TilesOfStep at{a, b, chunks(A::column), chunks(B::column)};
      Atom::Team::template add<TileN, A::turned, B::turned>(memory, at, sums.part[0][0].x,
                                                            NNK_HERE);
    }
    Atom::Team::commit(NNK_HERE);
  }
  static constexpr NNK_FN int chunks(int elements) { return int(unsigned(elements) / A::chunk); }
  // The first term of a step.
  template <class Operand> static constexpr NNK_FN int term_at(int step) {
    return step * Atom::k * (Operand::turned ? Operand::column_line : 1);
  }

  // ---- what a warp does -------------------------------------------------------------------------

  // The fragments of a step, to the set that the step uses.
  static NNK_FN void load(const Shared<Element>& memory, const Warp& warp, int from, int step,
                          Fragments& to) {
    const typename A::Tile tile_a{from};
    const typename B::Tile tile_b{from + A::elements};
    NNK_UNROLL
    for (int i = 0; i < parts_m; ++i)
      to.a[step % sets][i] = fragment_a(memory, tile_a, warp.m + i * Atom::m, step, warp.lane);
    NNK_UNROLL
    for (int j = 0; j < parts_n; ++j)
      to.b[step % sets][j] = fragment_b(memory, tile_b, warp.n + j * Atom::n, step, warp.lane);
  }
  template <class Tile>
  static NNK_FN typename Atom::A fragment_a(const Shared<Element>& memory, const Tile& tile,
                                            int row, int step, int lane) {
    if constexpr (A::turned)
      return Atom::load_a_transposed(memory, tile, row, step * Atom::k, lane, NNK_HERE);
    else return Atom::load_a(memory, tile, row, step * Atom::chunks, lane, NNK_HERE);
  }
  template <class Tile>
  static NNK_FN typename Atom::B fragment_b(const Shared<Element>& memory, const Tile& tile,
                                            int column, int step, int lane) {
    if constexpr (B::turned)
      return Atom::load_b_transposed(memory, tile, column, step * Atom::k, lane, NNK_HERE);
    else return Atom::load_b(memory, tile, column, step * Atom::chunks, lane, NNK_HERE);
  }
  static NNK_FN void multiply(const Fragments& fragments, int set, Sums& sums) {
    NNK_UNROLL
    for (int i = 0; i < parts_m; ++i) {
      NNK_UNROLL
      for (int j = 0; j < parts_n; ++j)
        Atom::multiply(fragments.a[set][i], fragments.b[set][j], sums.part[i][j], NNK_HERE);
    }
  }

  // ---- results ----------------------------------------------------------------------------------

  template <class G>
  static NNK_FN void finish(G& group, const Args& args, const Work& work, const Sums& sums) {
    const View<TC, 2, Index> c = args.matrix_c(work.offset);
    const auto epilogue = args.epilogue_of(work.offset);
    if constexpr (WideC) write_wide(group, args, epilogue, c, work.place, sums);
    else write(group, args, epilogue, c, work.place, sums);
  }

  // Straight from registers: as many adjacent columns at once as a lane has.
  template <class G>
  static NNK_FN void write(G& group, const Args& args,
                           const typename Epilogue::template Of<Index>& epilogue,
                           const View<TC, 2, Index>& c, const Place& place, const Sums& sums) {
    constexpr int together = Atom::together;
    const Warp warp(unsigned(group.rank()));
    NNK_UNROLL
    for (int i = 0; i < parts_m; ++i) {
      NNK_UNROLL
      for (int e = 0; e < Atom::sums; e += together) {
        const Index row = place.m + warp.m + i * Atom::m + Atom::row_of(warp.lane, e);
        if (row >= c.shape[0]) continue;
        const Line<TC, Index> line = row_of(args, c, row);
        NNK_UNROLL
        for (int j = 0; j < parts_n; ++j) {
          const Index column = place.n + warp.n + j * Atom::n + Atom::column_of(warp.lane, e);
          const Index left = c.shape[1] - column;
          if (left <= 0) continue;
          const int count = left < together ? int(left) : together;
          const auto y = epilogue(gathered<together>(sums.part[i][j], e), row, column, count);
          store(args, line, column, convert<TC>(y), count);
        }
      }
    }
  }
  // A row of C; what its step is where columns are scattered does not count.
  static NNK_FN Line<TC, Index> row_of(const Args& args, const View<TC, 2, Index>& c, Index row) {
    if constexpr (Form::scatters_rows)
      return {byte_offset(c.data, Form::pixel(args, row)), c.shape[1], c.stride[1]};
    else return {c.at(NNK_HERE, row, 0), c.shape[1], c.stride[1]};
  }
  // The first `count` columns of y, from `column` on.
  template <int N>
  static NNK_FN void store(const Args& args, const Line<TC, Index>& line, Index column,
                           const Vec<TC, N>& y, int count) {
    if constexpr (Form::scatters_columns) {
      NNK_UNROLL
      for (int e = 0; e < N; ++e) {
        // (With a break instead, Clang leaves a loop, and y goes to memory to be indexed.)
        if (e >= count) continue;
        check_access(column + e, 1, line.length, NNK_HERE);
        *byte_offset(line.data, Form::pixel(args, column + e)) = y[e];
      }
    } else {
      line.store_partial(column, y, count);
    }
  }
  template <int N> static NNK_FN Vec<S, N> gathered(const typename Atom::C& part, int first) {
    Vec<S, N> x;
    NNK_UNROLL
    for (int i = 0; i < N; ++i) x.set(i, convert_scalar<S>(part.x[first + i]));
    return x;
  }

  // Through shared memory, Atom::m rows of every warp at a time, for accesses of 16 bytes to C.
  static constexpr int wide = 16 / int(sizeof(TC));
  static constexpr int piece = 16 / int(sizeof(Sum));  // sums of one access to shared memory

  // Where a sum waits. Pieces of a row are exchanged by a pattern in which 8 rows of one piece, or
  // 4 rows of two, touch every bank once.
  static NNK_FN int waiting_at(int row, int column) {
    constexpr int pieces = WarpN / piece < 8 ? WarpN / piece : 8;
    const int pattern = int((unsigned(row) * 2 + unsigned(row) / 4) % pieces);
    return row * WarpN + (column / piece ^ pattern) * piece + column % piece;
  }

  template <class G>
  static NNK_FN void write_wide(G& group, const Args& args,
                                const typename Epilogue::template Of<Index>& epilogue,
                                const View<TC, 2, Index>& c, const Place& place, const Sums& sums) {
    constexpr int size = Atom::m * WarpN, wides = WarpN / wide;
    const auto memory = group.template dynamic_shared<Sum>(0, warps * size);
    const Warp warp(unsigned(group.rank()));
    const int own = group.rank() / Atom::lanes * size;
    NNK_UNROLL
    for (int i = 0; i < parts_m; ++i) {
      group.barrier(between_results());
      put(memory, own, warp.lane, sums.part[i]);
      group.barrier(between_results());
      for (int u = warp.lane; u < Atom::m * wides; u += Atom::lanes) {
        const int r = u / wides, j = u % wides * wide;
        const Index row = place.m + warp.m + i * Atom::m + r, column = place.n + warp.n + j;
        if (row >= c.shape[0] || column >= c.shape[1]) continue;
        const auto y = epilogue(get(memory, own, r, j), row, column, wide);
        const Line<TC, Index, unit_step> line{row_of(args, c, row).data, c.shape[1],
                                              Index(sizeof(TC))};
        line.store(column, convert<TC>(y));
      }
    }
  }
  // What a thread without sums does meanwhile.
  template <class G> static NNK_FN void wait_for_results(G& group) {
    for (int i = 0; i < 2 * parts_m; ++i) group.barrier(between_results());
  }
  static NNK_FN void put(const Shared<Sum>& memory, int own, int lane,
                         const typename Atom::C (&parts)[parts_n]) {
    constexpr int together = Atom::together;
    static_assert(together <= piece, "sums of a lane lie in one piece");
    NNK_UNROLL
    for (int j = 0; j < parts_n; ++j) {
      NNK_UNROLL
      for (int e = 0; e < Atom::sums; e += together) {
        Vec<Sum, together> x;
        NNK_UNROLL
        for (int i = 0; i < together; ++i) x.set(i, parts[j].x[e + i]);
        const int column = j * Atom::n + Atom::column_of(lane, e);
        memory.template store_vec<together>(own + waiting_at(Atom::row_of(lane, e), column), x);
      }
    }
  }
  static NNK_FN Vec<S, wide> get(const Shared<Sum>& memory, int own, int row, int column) {
    Vec<S, wide> x;
    NNK_UNROLL
    for (int p = 0; p < wide; p += piece) {
      const auto sums = memory.template load_vec<piece>(own + waiting_at(row, column + p));
      NNK_UNROLL
      for (int i = 0; i < piece; ++i) x.set(p + i, convert_scalar<S>(sums[i]));
    }
    return x;
  }
};

}  // namespace nnk
