// How the operands of a convolution come to the matrix product of a CPU (matmul_packed.cuh): what
// is packed is gathered from the image by the packing, and no matrix of its windows is in memory.
//
// The form says what pixels are to the product: columns or rows of the result, or terms of the
// sums. Where the channels of the image are adjacent (ChannelsFast), those of a tap are copied
// together; else pixels are loaded as they follow each other in memory.
#pragma once
#include "nnk/conv_pixel_panels.cuh"
#include "nnk/conv_tap_copies.cuh"
#include "nnk/matmul_operands.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// Scattered: the array with an element for each pixel (the result; of pixels that are terms, A) has
// no single step from pixel to pixel; GatherWeights: weights have none from term to term
// ConjugateA, ConjugateImage: whether A, or weights where pixels are rows, and the image are packed
// as conjugates
template <int Pixels, bool ChannelsFast, bool Scattered, bool GatherWeights, bool ConjugateA,
          bool ConjugateImage>
struct ConvForm {
  static constexpr bool gathers_a = GatherWeights && Pixels == pixels_are_columns,
                        gathers_b = GatherWeights && Pixels == pixels_are_rows;
  static_assert(Pixels != pixels_are_columns || !ChannelsFast, "rows of pixels copy channels");
  static_assert(Pixels != pixels_are_rows || ChannelsFast, "columns of pixels are loaded together");
  static constexpr bool packs_a =
      Pixels == pixels_are_rows || (Pixels == pixels_are_terms && Scattered) || gathers_a;
  static constexpr bool packs_b = Pixels != pixels_are_rows || gathers_b;
  static constexpr bool scatters = Scattered && Pixels != pixels_are_terms;
  // Pixels are looked up for every slice of terms, or once for the columns of a block.
  static constexpr bool looks_up_terms = Pixels == pixels_are_terms;

  // After those of the product.
  template <class Product, class Index> struct Args : Product {
    alignas(16) WindowGeometry<Index> windows;
    JoinedRows<Index> rows;
  };

  // What a block keeps. S: what numbers are packed as: the type of the sums; N: columns of a panel
  // of B; Flip: what bits of packed A are combined with by exclusive or
  template <class S, class Index, int N, uint32 Flip = 0> struct Gather {
    using Words = PackedWords<S, N>;
    using Word = typename Words::Word;
    static constexpr int G = Words::G, piece = Words::piece;
    using Geometry = WindowGeometry<Index>;
    using Copies = TapCopies<S, Index, N, ConjugateImage>;
    using Place = typename Copies::Place;
    using Taps = Tap<Index, ChannelsFast>;
    static constexpr bool has_image = !ChannelsFast;  // loads pixels of it together
    static constexpr bool has_other =
        Scattered && (Pixels == pixels_are_columns || Pixels == pixels_are_terms);

    const Geometry& g;
    const JoinedRows<Index>& joined;
    PixelRuns<Index, G> other;
    Shared<Index> weight_offsets;  // bytes to the weight of every tap
    PixelPanels<S, Index, N, ConjugateImage> seen;

    // `at`: bytes of scratch memory that are taken. most: pixels that are looked up at once
    template <class Group, class A>
    NNK_FN Gather(const Group& group, const A& args, int at, int most)
        : g(args.windows),
          joined(args.rows),
          other(group, at, most, g.other[3]),
          weight_offsets(group.template dynamic_shared<Index>(at + PixelRuns<Index, G>::bytes(most),
                                                              g.spatial_taps())),
          seen(group, g,
               at + PixelRuns<Index, G>::bytes(most) + g.spatial_taps() * int(sizeof(Index)),
               most) {
      if constexpr (Pixels == pixels_are_columns || ChannelsFast) {
        auto tap = Taps::of(g, 0);
        for (int t = 0; t < g.spatial_taps(); ++t) {
          seen.tap_offsets.store(t, tap.offset(g));
          if constexpr (gathers_a) weight_offsets.store(t, tap.in_weights(g));
          tap.next_tap(g);
        }
      }
    }

    // Looks up `count` pixels from u on.
    NNK_FN void find(Index u, int count) const {
      if constexpr (has_image) seen.find(u, count);
      if constexpr (has_other)
        other.find(g, u, count, [this](const Pixel<Index>& p) { return p.in_other(g); });
    }

    // ---- B ----------------------------------------------------------------------------------

    // Panels of N columns, each as [term][column], `panel` numbers apart. b: of columns and terms
    template <class T, class P>
    NNK_FN void pack_b(const View<const T, 2, Index>& b, const Shared<P>& packed, int panel,
                       Index first_n, int columns, Index first_k, int depth) const {
      const auto* const from = Words::words_at(b.data);
      if constexpr (gathers_b) {
        for (int j = 0; j < columns; j += N)
          pack_weights(byte_offset(from, (first_n + j) * b.stride[0]), b.stride[0], packed,
                       j * panel, columns - j, first_k, depth);
      } else if constexpr (Pixels == pixels_are_columns) {
        for (int j = 0; j < columns; j += N)
          seen.pack(from, packed, j * panel, j, columns, first_k, depth);
      } else if constexpr (ChannelsFast) {
        auto pixel = Pixel<Index>::of(g, first_k);
        const auto first = Place::of(g, first_n);
        for (int k = 0; k < depth; ++k) {
          copies().template copy<N>(
              from, pixel, first, columns, [&](int j, const auto& x, int count) {
                Words::put_columns(packed, j / N * N * panel + k * N, j % N, x, count);
              });
          pixel.advance(g);
        }
      } else {
        for (int j = 0; j < columns; j += G)
          pack_taps(from, packed, j / N * N * panel, j % N, first_n + j, columns - j, depth);
      }
    }
    // Columns are rows of weights, `step` bytes apart.
    template <class T, class P>
    NNK_FN void pack_weights(const T* from, Index step, const Shared<P>& packed, int to,
                             int columns, Index first_k, int depth) const {
      auto tap = Taps::of(g, first_k);
      for (int k = 0; k < depth; ++k) {
        const T* const base = byte_offset(from, tap.in_weights(g));
        NNK_UNROLL
        for (int i = 0; i < N; i += G) {
          const int left = columns - i;
          const uint32 wanted = left >= G ? ~0u >> (32 - G) : left > 0 ? (1u << left) - 1 : 0u;
          const auto x = load_lanes<G>(byte_offset(base, Index(i) * step), int64(step), wanted,
                                       Vec<T, G>::splat(T()));
          Words::put_columns(packed, to + k * N, i, Words::template converted<ConjugateA>(x));
        }
        tap.advance(g);
      }
    }
    // The taps of Count columns, of which the first `columns` exist, and the elements of the first
    // pixel that they see.
    template <class T, int Count>
    NNK_FN void find_taps(const T* from, Index first, int columns, const T* (&base)[Count],
                          Taps (&taps)[Count]) const {
      auto tap = Taps::of(g, first);
      NNK_NO_UNROLL
      for (int i = 0; i < Count; ++i) {
        taps[i] = tap;
        base[i] = byte_offset(from, tap.offset(g));
        // Past the last column, any other will do: what it gives is not written.
        if (i + 1 < columns) tap.advance(g);
      }
    }
    // Columns are taps, terms are pixels: squares that are transposed in registers.
    template <class T, class P>
    NNK_FN void pack_taps(const T* from, const Shared<P>& packed, int panel, int j, Index first,
                          int columns, int depth) const {
      const T* base[G];
      Taps taps[G];
      find_taps(from, first, columns, base, taps);
      for (int k = 0; k < depth; k += G) {
        Vec<Word, G> x[G];
        NNK_UNROLL
        for (int i = 0; i < G; ++i) x[i] = load(base[i], k / G, taps[i]);
        transpose(x);
        NNK_UNROLL
        for (int i = 0; i < G; ++i) Words::put_columns(packed, panel + (k + i) * N, j, x[i]);
      }
    }
    template <class T> NNK_FN Vec<Word, G> load(const T* base, int group, const Taps& tap) const {
      return Words::template converted<ConjugateImage>(
          seen.image.template load<T>(base, group, seen.masks.of(tap, group)));
    }
    NNK_FN Copies copies() const { return {g, seen.tap_offsets}; }

    // ---- A ----------------------------------------------------------------------------------

    // Words of a row of A.
    template <class P, int Count>
    static NNK_FN void put_terms(const Shared<P>& packed, int i, const Vec<Word, Count>& x) {
      if constexpr (Flip == 0) Words::put_terms(packed, i, x);
      else Words::put_terms(packed, i, x ^ Word(Flip));
    }
    // Rows, each of them `row` words apart: pixels of taps, or what has an element for each pixel.
    template <class T, class P>
    NNK_FN void pack_a(const View<const T, 2, Index>& a, const Shared<P>& packed, int row,
                       Index first_m, int rows, Index first_k, int depth) const {
      const auto* const from = Words::words_at(a.data);
      if constexpr (Pixels == pixels_are_rows) {
        auto pixel = Pixel<Index>::of(g, first_m);
        const auto first = Place::of(g, first_k);
        for (int i = 0; i < rows; ++i) {
          copies().template copy<0>(from, pixel, first, depth, [&](int k, const auto& x, int) {
            put_terms(packed, i * row + k, x);
          });
          pixel.advance(g);
        }
      } else if constexpr (gathers_a) {
        gather_weights(byte_offset(from, first_m * a.stride[0]), a.stride[0], packed, row, rows,
                       first_k, depth);
      } else {
        for (int i = 0; i < rows; ++i)
          for (int k = 0; k < depth; k += G)
            put_terms(packed, i * row + k,
                      Words::template converted<ConjugateA>(
                          load_terms(byte_offset(from, (first_m + i) * a.stride[0]), k / G)));
      }
    }
    template <class T> NNK_FN Vec<T, G> load_terms(const T* base, int group) const {
      return other.template load<T>(base, group, ~0u);
    }
    // Rows of weights, `step` bytes apart: of one channel after the other, since those of several
    // rows are near each other.
    template <class T, class P>
    NNK_FN void gather_weights(const T* from, Index step, const Shared<P>& packed, int row,
                               int rows, Index first_k, int depth) const {
      const int taps = g.spatial_taps();
      bool adjacent = true;
      Index low = weight_offsets.load(0), high = low;
      for (int t = 0; t < taps; ++t) {
        const Index at = weight_offsets.load(t);
        adjacent = adjacent && at == Index(t * int(sizeof(T)));
        low = at < low ? at : low;
        high = at > high ? at : high;
      }
      // Those of a row and channel are loaded as one register, and put in order.
      const bool together = permutes<Word, G> && taps > 1 && taps <= G && !adjacent &&
                            high - low < Index(G * int(sizeof(T)));
      const int span = together ? int((high - low) / Index(sizeof(T))) + 1 : 0;
      auto order = Vec<int32, G>::splat(0);
      if (together)
        for (int t = 0; t < taps; ++t)
          order.set(t, int32((weight_offsets.load(t) - low) / Index(sizeof(T))));
      const Index channel = first_k / taps;
      int first = int(first_k - channel * taps);
      from = byte_offset(from, channel * g.weight_channel);
      for (int k = 0; k < depth;) {
        const int count = taps - first < depth - k ? taps - first : depth - k;
        if (k + channels_ahead * taps < depth)
          fetch_weights(byte_offset(from, channels_ahead * g.weight_channel), step, rows);
        if (together && first == 0) {
          const T* base = byte_offset(from, low);
          for (int i = 0; i < rows; ++i, base = byte_offset(base, step))
            put_terms(packed, i * row + k,
                      permuted(Words::template converted<ConjugateA>(
                                   nnk::load_partial<G>(base, span, T())),
                               order));
        } else {
          for (int i = 0; i < rows; ++i)
            put_weights(byte_offset(from, Index(i) * step), packed, i * row + k, first, count,
                        adjacent);
        }
        k += count;
        first = 0;
        from = byte_offset(from, g.weight_channel);
      }
    }
    // Some taps of a row and channel.
    template <class T, class P>
    NNK_FN void put_weights(const T* base, const Shared<P>& packed, int to, int first, int count,
                            bool adjacent) const {
      if (adjacent) {
        for (int t = 0; t < count; t += piece)
          put_terms(packed, to + t,
                    Words::template converted<ConjugateA>(nnk::load_partial<piece>(
                        base + first + t, count - t < piece ? count - t : piece, T())));
      } else {
        for (int t = 0; t < count; ++t)
          put_terms(packed, to + t,
                    Words::template converted<ConjugateA>(
                        nnk::load<1>(byte_offset(base, weight_offsets.load(first + t)))));
      }
    }
    // Brings the weights of a channel into the caches, where rows are near each other: a run that
    // is far from the next channel's, and too short for a processor to look ahead by itself.
    static constexpr int channels_ahead = 6;
    template <class T> static NNK_FN void fetch_weights(const T* from, Index step, int rows) {
      if (step < 0) from = byte_offset(from, Index(rows - 1) * step), step = -step;
      if (step > 4 * cache_line) return;
      for (Index byte = 0; byte < Index(rows) * step; byte += cache_line)
        prefetch<1>(byte_offset(from, byte));
    }
    // ---- C ----------------------------------------------------------------------------------

    // Writes `columns` sums of a row from column `j` of the block on.
    template <class Block, class Sum>
    NNK_FN void scatter(const Block& block, const Sum* sums, Index row, int j, int columns) const {
      using T = typename Block::Result;
      const Index column = block.first_n + j;
      if constexpr (Pixels == pixels_are_rows) {
        T* const to = byte_offset(block.c.data, Pixel<Index>::of(g, row).in_other(g));
        if (!joined.is_one_phase()) {
          scatter_joined<at_once>(block, sums, to, row, column, columns);
          return;
        }
        for (int i = 0; i < columns; i += at_once) {
          const int count = columns - i < at_once ? columns - i : at_once;
          const auto y =
              convert<T>(block.epilogue(nnk::load<at_once>(sums + i), row, column + i, count));
          store_elements(byte_offset(to, (column + i) * block.c.stride[1]), block.c.stride[1],
                         count, y);
        }
      } else {
        T* const to = byte_offset(block.c.data, row_in_result(row, block.c.stride[0]));
        for (int i = 0; i < columns; i += G) {
          const int count = columns - i < G ? columns - i : G;
          const auto x = nnk::load<G>(sums + i);
          other.store(to, (j + i) / G, convert<T>(block.epilogue(x, row, column + i, count)));
        }
      }
    }
    // Bytes to a row, which becomes that of its phase.
    NNK_FN Index row_in_result(Index& row, Index step) const {
      return joined.is_one_phase() ? row * step : joined.offset(row);
    }
    // The columns of a pixel, at most Count of one phase at once.
    template <int Count, class Block, class Sum>
    NNK_FN void scatter_joined(const Block& block, const Sum* sums, typename Block::Result* to,
                               Index row, Index column, int columns) const {
      for (int i = 0; i < columns;) {
        Index first = column + i;
        auto* const there = byte_offset(to, joined.offset(first));
        int count = columns - i < Count ? columns - i : Count;
        if (joined.rows - first < count) count = int(joined.rows - first);
        const auto x = nnk::load_partial<Count>(sums + i, count, Sum());
        store_elements(there, joined.row_step, count,
                       convert<typename Block::Result>(block.epilogue(x, row, first, count)));
        i += count;
      }
    }
    // Results of adjacent columns: complex ones are handled one by one.
    static constexpr int at_once = is_complex<S> && N > 4 ? 4 : N;
  };

  template <class S, class Index, int N, class...> using Of = Gather<S, Index, N>;
};

}  // namespace nnk
