// How the operands of a convolution of bfloat16 come to the tile registers of a CPU
// (matmul_tiles.cuh): as conv_form.cuh gathers them, but as words of two terms, of which nothing is
// converted.
#pragma once
#include "nnk/conv_form.cuh"
#include "nnk/matmul_words.cuh"

namespace nnk {

template <int Pixels, bool ChannelsFast, bool Scattered, bool GatherWeights>
struct ConvTilesForm
    : ConvForm<Pixels, ChannelsFast, Scattered, GatherWeights, /*ConjugateA=*/false, false> {
  using Elements = ConvForm<Pixels, ChannelsFast, Scattered, GatherWeights, false, false>;

  // What a block keeps. S: type of the sums; N: columns of a panel of B
  template <class S, class Index, int N> struct Of : Elements::template Of<bfloat16, Index, N> {
    using Gather = typename Elements::template Of<bfloat16, Index, N>;
    using Gather::g;
    using Gather::Gather;
    using Gather::other;
    using Gather::seen;
    using typename Gather::Place;
    using typename Gather::Taps;
    using typename Gather::Word;
    static constexpr int G = Gather::G, groups_of_panel = decltype(seen)::groups_of_panel;
    // A square of words that is transposed in registers: of this many columns, of twice as many
    // pixels.
    static constexpr int square = transposed_lanes<uint32, N>();
    static_assert(G == 2 * square, "a register of pixels is a register of words");
    // Of a block.
    static constexpr int most_columns = N * N;

    // ---- B ----------------------------------------------------------------------------------

    // Panels of N columns, each as [word][column], `panel` words apart; zeros follow the last term
    // up to so many words. Memory for N N sums is free meanwhile.
    NNK_FN void pack_b(const View<const bfloat16, 2, Index>& b, const Shared<uint32>& packed,
                       int panel, Index first_n, int columns, Index first_k, int depth, int words,
                       S* sums) const {
      const Word* const from = Gather::Words::words_at(b.data);
      if constexpr (Elements::gathers_b) {
        for (int j = 0; j < columns; j += N)
          pack_weights(byte_offset(from, (first_n + j) * b.stride[0]), b.stride[0], packed,
                       j / N * panel, columns - j, first_k, depth);
      } else if constexpr (Pixels == pixels_are_columns) {
        for (int j = 0; j < columns; j += N)
          pack_pixels(from, packed, j / N * panel, j, columns, first_k, depth);
      } else if constexpr (ChannelsFast) {
        pack_channels(from, packed, panel, first_n, columns, first_k, depth,
                      reinterpret_cast<Word*>(sums));
      } else {
        for (int j = 0; j < columns; j += square)
          pack_taps(from, packed, j / N * panel + j % N, first_n + j, columns - j, depth);
      }
      for (int j = 0; j < columns; j += N)
        for (int w = (depth + 1) / 2; w < words; ++w)
          packed.store_vec(j / N * panel + w * N, Vec<uint32, N>::splat(0));
    }

    // Columns are rows of weights, `step` bytes apart.
    NNK_FN void pack_weights(const Word* from, Index step, const Shared<uint32>& packed, int to,
                             int columns, Index first_k, int depth) const {
      auto tap = Taps::of(g, first_k);
      const auto zeros = Vec<Word, G>::splat(0);
      for (int k = 0; k < depth; k += 2) {
        const Word* const first = byte_offset(from, tap.in_weights(g));
        tap.advance(g);
        const bool two = k + 1 < depth;
        const Word* const second = two ? byte_offset(from, tap.in_weights(g)) : first;
        if (two) tap.advance(g);
        NNK_UNROLL
        for (int i = 0; i < N; i += G) {
          const uint32 wanted = lanes_of(columns - i);
          const int64 at = int64(i) * step;
          put(packed, to + k / 2 * N + i,
              load_lanes<G>(byte_offset(first, at), int64(step), wanted, zeros),
              load_lanes<G>(byte_offset(second, at), int64(step), two ? wanted : 0u, zeros));
        }
      }
    }
    static NNK_FN uint32 lanes_of(int count) {
      return count >= G ? ~0u >> (32 - G) : count > 0 ? (1u << count) - 1 : 0u;
    }
    // Words of two terms for some columns.
    static NNK_FN void put(const Shared<uint32>& packed, int at, const Vec<Word, G>& first,
                           const Vec<Word, G>& second) {
      packed.store_vec(at, words_of(interleaved(first, second)));
    }

    // Columns are pixels, from `first` on, terms are taps.
    NNK_FN void pack_pixels(const Word* from, const Shared<uint32>& packed, int to, int first,
                            int columns, Index first_k, int depth) const {
      const int group = first / G, there = (columns - first + G - 1) / G;  // groups
      Index offset[groups_of_panel];
      bool are_runs = true;
      NNK_UNROLL
      for (int i = 0; i < groups_of_panel; ++i) {
        const int any = group + (i < there ? i : 0);
        are_runs = are_runs && seen.image.is_one(any);
        offset[i] = seen.image.offset.load(seen.image.first.load(any));
      }
      seen.combine_masks(group, there);
      const auto zeros = Vec<Word, G>::splat(0);
      const int64 step = seen.image.step;
      if (are_runs && step == int64(sizeof(Word)))
        each_word(from, packed, to, first_k, depth,
                  [&](const Word* base, int i, uint32 wanted) NNK_INLINE {
                    return load_lanes<G>(byte_offset(base, offset[i]), int64(sizeof(Word)), wanted,
                                         zeros);
                  });
      else if (are_runs)
        each_word(from, packed, to, first_k, depth,
                  [&](const Word* base, int i, uint32 wanted) NNK_INLINE {
                    return load_lanes<G>(byte_offset(base, offset[i]), step, wanted, zeros);
                  });
      else
        each_word(from, packed, to, first_k, depth,
                  [&](const Word* base, int i, uint32 wanted) NNK_INLINE {
                    return seen.image.template load<Word>(base, group + (i < there ? i : 0),
                                                          wanted);
                  });
    }
    // load_group(address, group, wanted lanes): of one term.
    template <class Load>
    NNK_FN void each_word(const Word* from, const Shared<uint32>& packed, int to, Index first_k,
                          int depth, Load load_group) const {
      const int taps = g.spatial_taps();
      int tap = int(first_k % taps);
      const Word* channel = byte_offset(from, (first_k / taps) * g.channel_stride);
      const auto load_term = [&](Vec<Word, G>(&x)[groups_of_panel]) NNK_INLINE {
        const Word* const base = byte_offset(channel, seen.tap_offsets.load(tap));
        NNK_UNROLL
        for (int i = 0; i < groups_of_panel; ++i)
          x[i] = load_group(base, i, seen.combined.load(tap * groups_of_panel + i));
        if (++tap == taps) {
          tap = 0;
          channel = byte_offset(channel, g.channel_stride);
        }
      };
      for (int k = 0; k < depth; k += 2) {
        Vec<Word, G> low[groups_of_panel], high[groups_of_panel];
        load_term(low);
        NNK_UNROLL
        for (int i = 0; i < groups_of_panel; ++i) high[i] = Vec<Word, G>::splat(0);
        if (k + 1 < depth) load_term(high);
        NNK_UNROLL
        for (int i = 0; i < groups_of_panel; ++i)
          put(packed, to + k / 2 * N + i * G, low[i], high[i]);
      }
    }

    // Columns are channels of taps, terms are pixels: what two pixels see is copied, each to a
    // line, and then put together.
    NNK_FN void pack_channels(const Word* from, const Shared<uint32>& packed, int panel,
                              Index first_n, int columns, Index first_k, int depth,
                              Word* lines) const {
      auto pixel = Pixel<Index>::of(g, first_k);
      const auto first = Place::of(g, first_n);
      for (int k = 0; k < depth; k += 2) {
        for (int t = 0; t < 2; ++t) {
          Word* const line = lines + t * most_columns;
          if (k + t < depth) {
            Gather::copies().template copy<0>(from, pixel, first, columns,
                                              [&](int j, const auto& x, int count) NNK_INLINE {
                                                if (count == Gather::piece) nnk::store(line + j, x);
                                                else nnk::store_partial(line + j, x, count);
                                              });
            pixel.advance(g);
          } else {
            for (int j = 0; j < columns; j += N) nnk::store(line + j, Vec<Word, N>::splat(0));
          }
        }
        for (int j = 0; j < columns; j += G)
          put(packed, j / N * panel + k / 2 * N + j % N, nnk::load<G>(lines + j),
              nnk::load<G>(lines + most_columns + j));
      }
    }

    // Columns are taps, terms are pixels: squares that are transposed in registers.
    NNK_FN void pack_taps(const Word* from, const Shared<uint32>& packed, int to, Index first,
                          int columns, int depth) const {
      const Word* base[square];
      Taps taps[square];
      Gather::find_taps(from, first, columns, base, taps);
      for (int k = 0; k < depth; k += G) {
        const uint32 there = lanes_of(depth - k);
        Vec<uint32, square> x[square];
        NNK_UNROLL
        for (int i = 0; i < square; ++i)
          x[i] = words_of(seen.image.template load<Word>(base[i], k / G,
                                                         seen.masks.of(taps[i], k / G) & there));
        transpose(x);
        NNK_UNROLL
        for (int i = 0; i < square; ++i) packed.store_vec(to + (k / 2 + i) * N, x[i]);
      }
    }

    // ---- C ----------------------------------------------------------------------------------

    // Writes `columns` sums of a row from column `j` of the block on.
    template <class Block>
    NNK_FN void scatter(const Block& block, const S* sums, Index row, int j, int columns) const {
      using T = typename Block::Result;
      const Index column = block.first_n + j;
      if constexpr (Pixels == pixels_are_rows) {
        T* const to = byte_offset(block.c.data, Pixel<Index>::of(g, row).in_other(g));
        if (!Gather::joined.is_one_phase()) {
          Gather::template scatter_joined<N>(block, sums, to, row, column, columns);
          return;
        }
        const auto y = convert<T>(block.epilogue(nnk::load<N>(sums), row, column, columns));
        store_elements(byte_offset(to, column * block.c.stride[1]), block.c.stride[1], columns, y);
      } else {
        T* const to = byte_offset(block.c.data, Gather::row_in_result(row, block.c.stride[0]));
        for (int i = 0; i < columns; i += G) {
          const int count = columns - i < G ? columns - i : G;
          const auto x = nnk::load<G>(sums + i);
          other.store(to, (j + i) / G, convert<T>(block.epilogue(x, row, column + i, count)));
        }
      }
    }
  };
};

}  // namespace nnk
