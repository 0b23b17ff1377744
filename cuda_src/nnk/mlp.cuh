// A multilayer perceptron on all rows of an array, in one kernel.
//
// A block takes tiles of rows to shared memory, where they pass through all layers
// (nnk/mlp_block.cuh), and writes the last one's. What a gradient needs of each layer may be
// written on the way: the results of the activations, or what they are applied to.
#pragma once
#include "nnk/matmul_operands.cuh"
#include "nnk/mlp_block.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// What of a layer is written for the gradient: nothing, the result of the activation, or its
// operand.
enum : int { keep_nothing = 0, keep_result = 1, keep_operand = 2 };

// Two arrays of rows: x and y, or dy and dx.
template <class Index, int BatchRank> struct MlpPlaces {
  Index rows;
  Divisor<Index> batch[BatchRank];
  Index stride[2][BatchRank];
  Index step[2];  // between columns

  // The rows of one of them from some row on.
  template <int Array, class T> struct Rows {
    const MlpPlaces& places;
    T* data;
    Index first;

    NNK_FN T* at(int row) const {
      check_access(first + row, 1, places.rows, NNK_HERE);
      Index offset[2];
      decode_batch(places.batch, places.stride, Index(first + row), offset);
      return byte_offset(data, offset[Array]);
    }
    NNK_FN Index step() const { return places.step[Array]; }
    NNK_FN Index between() const { return places.stride[Array][BatchRank - 1]; }
    // Whether neighbouring threads had better take neighbouring rows.
    NNK_FN bool by_rows() const {
      const auto size = [](Index x) { return x < 0 ? -x : x; };
      return size(between()) < size(step());
    }
  };
  template <int Array, class T> NNK_FN Rows<Array, T> of(T* data, Index first) const {
    return {*this, data, first};
  }
};

// How an array of rows is read and written. Step: unit_step where the elements of a row are
// adjacent; Vector: elements at once, to which rows are aligned then (on a GPU); Streaming: whether
// whole vectors are written past the caches
template <class T, class Index, int Step, int Vector, bool Streaming = false> struct MlpRows {
  // Calls f(row, column) for the first column of each vector of some rows. by_rows: neighbouring
  // threads take neighbouring rows
  template <class Math, class G, class F>
  static NNK_FN void each(G& group, int rows, int columns, bool by_rows, F f) {
    constexpr int vectors = (Math::width + Vector - 1) / Vector;
    NNK_NO_UNROLL
    for (int unit = group.rank(); unit < rows * vectors; unit += Math::threads) {
      const bool turned = Step != unit_step && by_rows;
      const int row = turned ? unit % rows : unit / vectors;
      const int column = (turned ? unit / rows : unit % vectors) * Vector;
      if (column < columns) f(row, column);
    }
  }
  static NNK_FN Vec<T, Vector> load(const T* row, Index step, int column, int columns) {
    const Line<const T, Index, Step> line{row, Index(columns), step};
    const int left = columns - column;
    if (left >= Vector) return line.template load<Vector>(column, NNK_HERE);
    return line.template load_partial<Vector>(column, left < 0 ? 0 : left, T(), NNK_HERE);
  }
  static NNK_FN void store(T* row, Index step, int column, int columns, const Vec<T, Vector>& x) {
    const Line<T, Index, Step> line{row, Index(columns), step};
    const int left = columns - column;
    if (left >= Vector && Streaming) line.store_streaming(Index(column), x, NNK_HERE);
    else if (left >= Vector) line.store(Index(column), x, NNK_HERE);
    else line.store_partial(Index(column), x, left < 0 ? 0 : left, NNK_HERE);
  }

  // To shared memory, with the zeros that its products need.
  template <class Math, class G, class Rows>
  static NNK_FN void read(G& group, const typename Math::Memory& memory, const Rows& rows,
                          int columns, int count) {
    each<Math>(group, count, Math::padded(columns), rows.by_rows(), [&](int row, int column) {
      const auto x = load(rows.at(row), rows.step(), column, columns);
      memory.rows.store_vec(Math::slot(row, column), convert<typename Math::Element>(x));
    });
  }
  template <class Math, class G, class Rows>
  static NNK_FN void write(G& group, const typename Math::Memory& memory, const Rows& rows,
                           int columns, int count) {
    each<Math>(group, count, columns, rows.by_rows(), [&](int row, int column) {
      const auto y = memory.rows.template load_vec<Vector>(Math::slot(row, column));
      store(rows.at(row), rows.step(), column, columns, convert<T>(y));
    });
  }
};

// The tiles of a block, which follow each other: f(first row, rows, rows of the next tile).
template <class Math, class Index, class G, class F>
NNK_FN void each_tile(G& group, Index rows, F f) {
  const int64 tiles = ceil_div(rows, Index(Math::rows));
  const Index begin = Index(group.block() * tiles / group.blocks()) * Math::rows;
  const Index last = Index((group.block() + 1) * tiles / group.blocks()) * Math::rows;
  const Index end = last < rows ? last : rows;
  NNK_NO_UNROLL
  for (Index first = begin; first < end; first += Math::rows) {
    if (first != begin) group.barrier();  // the results before have been written
    const Index left = end - first;
    f(first, within(left, Math::rows), within(left - Math::rows, Math::rows));
  }
}

// On a CPU: has `coming` rows after those of a tile brought to the cache while it is multiplied.
template <class Math, class Memory, class Rows>
NNK_FN void look_ahead(const Memory& memory, const Rows& rows, int coming, int columns,
                       int layers) {
  if constexpr (lanes_are_simd) {
    const auto* const next = rows.at(coming > 0 ? Math::rows : 0);
    const int64 stride = rows.between();
    const int bytes = columns * int(sizeof(*next)), lines = (bytes + cache_line - 1) / cache_line;
    const int fetches = layers * (Math::rows / Math::micro_rows);
    *memory.ahead = {reinterpret_cast<const char*>(next),         stride, coming, lines, 0,
                     (Math::rows * lines + fetches - 1) / fetches};
  }
}

// Where the rows of a tile are multiplied or written as they lie, so that they need no copy: whole
// micro-tiles of them, not all in one place of the nearest cache. Else null
template <class Math, bool Alike, class T, class Rows>
NNK_FN MlpLines<T> rows_in_place(const Rows& rows, int count) {
  if constexpr (Alike) {
    constexpr int page = 4096;
    if (count % Math::micro_rows == 0 && rows.between() % page != 0)
      return {rows.at(0), rows.between()};
  }
  return {nullptr, 0};
}

// What the host packs of a layer, beside its pointers.
template <class Index> struct MlpShape {
  int32 inputs, outputs;
  Index weight_stride[2], bias_stride, kept_stride;  // of rows that are kept; in bytes
};

// With zeros past the last column.
template <class Element, class V> NNK_FN auto filled(const V& y, int column, int outputs) {
  auto x = convert<Element>(y);
  if (outputs - column < V::size) {
    NNK_UNROLL
    for (int i = 0; i < V::size; ++i)
      if (column + i >= outputs) x.set(i, Element());
  }
  return x;
}

template <class Functor>
constexpr int scalars_of = Functor::parameters > 0 ? Functor::parameters : 1;

// Writes what is kept of each layer.
template <class T, class Index, class Args, class Hidden, class Output, int KeepHidden,
          int KeepOutput, bool Streaming>
struct MlpKeeper {
  const Args& args;
  Index first;  // row of the tile
  int count;

  template <bool Last> static constexpr int keeps = Last ? KeepOutput : KeepHidden;
  template <class Functor, bool Last>
  using SumsOf = conditional<keeps<Last> == keep_operand, Identity, Functor>;

  template <bool Last, class G, class Math>
  NNK_FN void after(G& group, const typename Math::Memory& memory, int layer, int outputs) const {
    if constexpr (keeps<Last> != keep_nothing) {
      using Rows = MlpRows<T, Index, unit_step, Math::vector, Streaming>;
      T* const kept = args.kept[layer];
      const Index stride = args.shapes[layer].kept_stride;
      Rows::template each<Math>(group, count, outputs, false, [&](int row, int column) {
        const int slot = Math::slot(row, column);
        const auto z = convert<T>(memory.rows.template load_vec<Math::vector>(slot));
        T* const to = byte_offset(kept, (first + row) * stride);
        Rows::store(to, Index(sizeof(T)), column, outputs, z);
        if constexpr (keeps<Last> == keep_operand) {
          using Functor = conditional<Last, Output, Hidden>;
          using Wide = typename Math::Wide;
          const auto* const parameters =
              reinterpret_cast<const Wide*>(Last ? args.output : args.hidden);
          const auto y = Functor::apply(parameters, convert<Wide>(z));
          memory.rows.store_vec(slot, filled<typename Math::Element>(y, column, outputs));
        }
      });
      if constexpr (keeps<Last> == keep_operand) group.barrier();
    }
  }
};

// Capacity: layers that the arguments have room for
// StepX, VectorX, StepY, VectorY, Streaming: see MlpRows
template <class T, class Index, int BatchRank, int Capacity, class Math, class Hidden, class Output,
          int StepX, int VectorX, int StepY, int VectorY, bool Streaming, int KeepHidden,
          int KeepOutput>
struct MlpForward {
  using Sum = typename Math::Sum;
  struct Args {
    const T* x;
    T* y;
    const T* weight[Capacity];
    const T* bias[Capacity];
    T* kept[Capacity];
    MlpPlaces<Index, BatchRank> places;
    int32 layers;
    MlpShape<Index> shapes[Capacity];
    Sum hidden[scalars_of<Hidden>], output[scalars_of<Output>];

    NNK_FN int count() const { return layers; }
    NNK_FN MlpLayer<T, Index> layer(int i) const {
      const MlpShape<Index>& s = shapes[i];
      return {weight[i],    bias[i], s.inputs, s.outputs, {s.weight_stride[0], s.weight_stride[1]},
              s.bias_stride};
    }
  };
  using X = MlpRows<T, Index, StepX, VectorX>;
  using Y = MlpRows<T, Index, StepY, VectorY, Streaming>;
  using Keeper = MlpKeeper<T, Index, Args, Hidden, Output, KeepHidden, KeepOutput, Streaming>;
  static constexpr bool alike = lanes_are_simd && is_same<T, Sum> && BatchRank == 1;
  static constexpr bool reads = alike && StepX == unit_step;
  static constexpr bool writes =
      alike && StepY == unit_step && !Streaming && KeepOutput == keep_nothing;

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    auto memory = Math::memory(group, 0, args.layers);
    Math::load(group, memory, args);
    MlpAhead ahead;
    MlpEnds<Sum> ends;
    if constexpr (lanes_are_simd) memory.ahead = &ahead, memory.ends = &ends;
    const int inputs = args.shapes[0].inputs, outputs = args.shapes[args.layers - 1].outputs;
    each_tile<Math, Index>(group, args.places.rows, [&](Index first, int count, int coming) {
      const auto x = args.places.template of<0>(args.x, first);
      if constexpr (lanes_are_simd) {
        const auto y = args.places.template of<1>(args.y, first);
        ends = {rows_in_place<Math, reads, const Sum>(x, count), {nullptr, 0}, args.layers - 1};
        if (outputs == Math::width) ends.result = rows_in_place<Math, writes, Sum>(y, count);
      }
      if (!lanes_are_simd || ends.source.first == nullptr)
        X::template read<Math>(group, memory, x, inputs, count);
      look_ahead<Math>(memory, x, coming, inputs, args.layers);
      mlp_block<Math, Hidden, Output>(group, memory, args, args.hidden, args.output, count,
                                      Keeper{args, first, count});
      if (!lanes_are_simd || ends.result.first == nullptr)
        Y::template write<Math>(group, memory, args.places.template of<1>(args.y, first), outputs,
                                count);
    });
  }
};

}  // namespace nnk
