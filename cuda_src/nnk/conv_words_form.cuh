// How the operands of a convolution come to the instructions of a CPU that add several products,
// of matmul_packed.cuh and matmul_tiles.cuh: as conv_form.cuh gathers them, but as words of two or
// four terms (matmul_words.cuh).
#pragma once
#include "nnk/conv_form.cuh"
#include "nnk/matmul_words.cuh"

namespace nnk {

template <int Pixels, bool ChannelsFast, bool Scattered, bool GatherWeights>
struct ConvWordsForm
    : ConvForm<Pixels, ChannelsFast, Scattered, GatherWeights, /*ConjugateA=*/false, false> {
  using Elements = ConvForm<Pixels, ChannelsFast, Scattered, GatherWeights, false, false>;

  // As what elements of words are gathered: integers of both signs alike.
  template <class W>
  using Gathered =
      conditional<is_same<typename W::Element, uint16>, bfloat16,
                  conditional<sizeof(typename W::Element) == 1, uint8, typename W::Element>>;

  // What a block keeps. S: type of the sums; N: columns of a panel of B; WordsA, WordsB: Words
  template <class S, class Index, int N, class WordsA, class WordsB>
  struct Of : Elements::template Gather<Gathered<WordsB>, Index, N, WordsA::flip> {
    using Base = typename Elements::template Gather<Gathered<WordsB>, Index, N, WordsA::flip>;
    using Base::g;
    using Base::seen;
    using typename Base::Place;
    using typename Base::Taps;
    using Element = typename Base::Word;
    using Raw = typename WordsB::Raw;
    static constexpr int G = Base::G, groups_of_panel = decltype(seen)::groups_of_panel;
    static constexpr int terms = WordsB::terms;  // of a word
    // A square of words that is transposed in registers, and groups of pixels that are a row of it.
    static constexpr int square = transposed_lanes<uint32, N>();
    static constexpr int groups_of_square = square * terms / G;
    static_assert(groups_of_square * G == square * terms && WordsB::flip == 0);

    Shared<Element> lines;  // of the columns of a block, for each term of a word
    int line;               // elements of one

    template <class Group, class A>
    NNK_FN Of(const Group& group, const A& args, int at, int most)
        : Base(group, args, end_of_lines(at, args.grid.tile_n), most),
          lines(group.template dynamic_shared<Element>(aligned(at), terms * args.grid.tile_n)),
          line(args.grid.tile_n) {}
    static constexpr bool has_lines = Pixels == pixels_are_terms && ChannelsFast;
    static NNK_FN int aligned(int at) { return (at + cache_line - 1) / cache_line * cache_line; }
    static NNK_FN int end_of_lines(int at, int columns) {
      return has_lines ? aligned(at) + terms * columns * int(sizeof(Element)) : at;
    }

    template <class T, int Count>
    static NNK_FN Vec<Element, Count> element(const Vec<T, Count>& x) {
      return Base::Words::template converted<false>(x);
    }
    static NNK_FN uint32 lanes_of(int count) {
      return count >= G ? ~0u >> (32 - G) : count > 0 ? (1u << count) - 1 : 0u;
    }

    // ---- B ----------------------------------------------------------------------------------

    // Panels of N columns, each as [word][column], `panel` words apart; what the last word lacks
    // are zeros.
    template <class T>
    NNK_FN void pack_b(const View<const T, 2, Index>& b, const Shared<uint32>& packed, int panel,
                       Index first_n, int columns, Index first_k, int depth) const {
      const Raw* const from = reinterpret_cast<const Raw*>(b.data);
      if constexpr (Elements::gathers_b) {
        for (int j = 0; j < columns; j += N)
          pack_weights(byte_offset(from, (first_n + j) * b.stride[0]), b.stride[0], packed,
                       j * panel, columns - j, first_k, depth);
      } else if constexpr (Pixels == pixels_are_columns) {
        for (int j = 0; j < columns; j += N)
          pack_pixels(from, packed, j * panel, j, columns, first_k, depth);
      } else if constexpr (ChannelsFast) {
        pack_channels(from, packed, panel, first_n, columns, first_k, depth);
      } else {
        for (int j = 0; j < columns; j += square)
          pack_taps(from, packed, j / N * N * panel + j % N, first_n + j, columns - j, depth);
      }
    }

    // Columns are rows of weights, `step` bytes apart.
    NNK_FN void pack_weights(const Raw* from, Index step, const Shared<uint32>& packed, int to,
                             int columns, Index first_k, int depth) const {
      auto tap = Taps::of(g, first_k);
      for (int k = 0; k < depth; k += terms, to += N) {
        const Raw* term[terms];
        NNK_UNROLL
        for (int t = 0; t < terms; ++t) {
          term[t] = k + t < depth ? byte_offset(from, tap.in_weights(g)) : nullptr;
          if (term[t] != nullptr) tap.advance(g);
        }
        NNK_UNROLL
        for (int i = 0; i < N; i += G) {
          const int64 at = int64(i) * step;
          Vec<Element, G> x[terms];
          NNK_UNROLL
          for (int t = 0; t < terms; ++t) {
            const uint32 wanted = term[t] == nullptr ? 0u : lanes_of(columns - i);
            x[t] = element(load_lanes<G>(byte_offset(term[t], at), int64(step), wanted,
                                         Vec<Raw, G>::splat(Raw())));
          }
          packed.store_vec(to + i, words_of_terms(x));
        }
      }
    }

    // Columns are pixels, from `first` on, terms are taps. What is past the last one does not
    // count.
    NNK_FN void pack_pixels(const Raw* from, const Shared<uint32>& packed, int to, int first,
                            int columns, Index first_k, int depth) const {
      const int group = first / G, left = (columns - first + G - 1) / G;
      const int there = left < groups_of_panel ? left : groups_of_panel;
      seen.combine_masks(group, there);
      for (int i = 0; i < there; ++i) {
        const int64 step = seen.image.step;
        if (step == int64(sizeof(Raw)) &&
            pack_merged<1>(from, packed, to, group, i, first_k, depth))
          continue;
        if (step == 2 * int64(sizeof(Raw)) &&
            pack_merged<2>(from, packed, to, group, i, first_k, depth))
          continue;
        pack_loaded(from, packed, to, group, i, first_k, depth);
      }
    }
    // A group of few runs, Step elements apart: false if it is none, or not loaded so.
    template <int Step>
    NNK_FN bool pack_merged(const Raw* from, const Shared<uint32>& packed, int to, int group, int i,
                            Index first_k, int depth) const {
      if constexpr (MergedLanes<Step, Raw, G>::is_possible) {
        const int runs = seen.image.runs_of(group + i);
        if (runs > seen.most_runs) return false;
        seen.template find_runs<Step, Raw>(group + i, runs);
        to += i * G;
        if (runs == 1) pack_runs<Step, 1>(from, packed, to, first_k, depth);
        else if (runs == 2) pack_runs<Step, 2>(from, packed, to, first_k, depth);
        else if (runs == 3) pack_runs<Step, 3>(from, packed, to, first_k, depth);
        else pack_runs<Step, 4>(from, packed, to, first_k, depth);
        return true;
      } else {
        return false;
      }
    }
    template <int Step, int Runs>
    NNK_FN void pack_runs(const Raw* from, const Shared<uint32>& packed, int to, Index first_k,
                          int depth) const {
      each_word(from, packed, to, first_k, depth, [&](const Raw* channel, int tap) NNK_INLINE {
        MergedLanes<Step, Raw, G> x;
        NNK_UNROLL
        for (int r = 0; r < Runs; ++r)
          x.load(byte_offset(channel, seen.run_offsets.load(tap * Runs + r)),
                 seen.run_masks.load(tap * Runs + r));
        return x.lanes();
      });
    }
    NNK_FN void pack_loaded(const Raw* from, const Shared<uint32>& packed, int to, int group, int i,
                            Index first_k, int depth) const {
      const auto wanted = [&](int tap)
                              NNK_INLINE { return seen.combined.load(tap * groups_of_panel + i); };
      const Index offset = seen.image.offset.load(seen.image.first.load(group + i));
      if (seen.image.is_one(group + i) && seen.image.step == int64(sizeof(Raw)))
        each_word(
            from, packed, to + i * G, first_k, depth, [&](const Raw* channel, int tap) NNK_INLINE {
              return load_lanes<G>(byte_offset(channel, offset + seen.tap_offsets.load(tap)),
                                   int64(sizeof(Raw)), wanted(tap), Vec<Raw, G>::splat(Raw()));
            });
      else
        each_word(from, packed, to + i * G, first_k, depth,
                  [&](const Raw* channel, int tap) NNK_INLINE {
                    return seen.image.template load<Raw>(
                        byte_offset(channel, seen.tap_offsets.load(tap)), group + i, wanted(tap));
                  });
    }
    // Words of a group of pixels. load_term(channel, tap): what they see.
    template <class Load>
    NNK_FN void each_word(const Raw* from, const Shared<uint32>& packed, int to, Index first_k,
                          int depth, Load load_term) const {
      const int taps = g.spatial_taps();
      int tap = int(first_k % taps);
      const Raw* channel = byte_offset(from, (first_k / taps) * g.channel_stride);
      const auto next_term = [&]() NNK_INLINE {
        const auto x = element(load_term(channel, tap));
        if (++tap == taps) {
          tap = 0;
          channel = byte_offset(channel, g.channel_stride);
        }
        return x;
      };
      Vec<Element, G> x[terms];
      int k = 0;
      NNK_NO_UNROLL
      for (; k + terms <= depth; k += terms, to += N) {
        NNK_UNROLL
        for (int t = 0; t < terms; ++t) x[t] = next_term();
        packed.store_vec(to, words_of_terms(x));
      }
      if (k < depth) {
        for (int t = 0; t < terms; ++t)
          x[t] = k + t < depth ? next_term() : Vec<Element, G>::splat(Element());
        packed.store_vec(to, words_of_terms(x));
      }
    }

    // Columns are channels of taps, terms are pixels: what the pixels of a word see is copied, each
    // to a line, and then put together.
    NNK_FN void pack_channels(const Raw* from, const Shared<uint32>& packed, int panel,
                              Index first_n, int columns, Index first_k, int depth) const {
      auto pixel = Pixel<Index>::of(g, first_k);
      const auto first = Place::of(g, first_n);
      for (int k = 0; k < depth; k += terms) {
        for (int t = 0; t < terms; ++t) {
          Element* const to = lines.data + t * line;
          if (k + t < depth) {
            Base::copies().template copy<0>(from, pixel, first, columns,
                                            [&](int j, const auto& x, int count) NNK_INLINE {
                                              if (count == Base::piece) nnk::store(to + j, x);
                                              else nnk::store_partial(to + j, x, count);
                                            });
            pixel.advance(g);
          } else {
            for (int j = 0; j < columns; j += N)
              nnk::store(to + j, Vec<Element, N>::splat(Element()));
          }
        }
        for (int j = 0; j < columns; j += G) {
          Vec<Element, G> x[terms];
          NNK_UNROLL
          for (int t = 0; t < terms; ++t) x[t] = nnk::load<G>(lines.data + t * line + j);
          packed.store_vec(j / N * N * panel + k / terms * N + j % N, words_of_terms(x));
        }
      }
    }

    // Columns are taps, terms are pixels: squares that are transposed in registers.
    NNK_FN void pack_taps(const Raw* from, const Shared<uint32>& packed, int to, Index first,
                          int columns, int depth) const {
      const Raw* base[square];
      Taps taps[square];
      Base::find_taps(from, first, columns, base, taps);
      const int64 step = seen.image.step;
      for (int k = 0; k < depth; k += square * terms) {
        const auto put = [&](auto load_group) NNK_INLINE {
          put_square(packed, to + k / terms * N, base, taps, k / G, depth, load_group);
        };
        if (step == int64(sizeof(Raw)) && MergedLanes<1, Raw, G>::is_possible)
          put([&](const Raw* p, int group, uint32 wanted)
                  NNK_INLINE { return load_merged<1>(p, group, wanted); });
        else if (step == 2 * int64(sizeof(Raw)) && MergedLanes<2, Raw, G>::is_possible)
          put([&](const Raw* p, int group, uint32 wanted)
                  NNK_INLINE { return load_merged<2>(p, group, wanted); });
        else
          put([&](const Raw* p, int group, uint32 wanted)
                  NNK_INLINE { return seen.image.template load<Raw>(p, group, wanted); });
      }
    }
    // By way of memory: code for every row of the square would leave the cache of instructions.
    template <class Load>
    NNK_FN void put_square(const Shared<uint32>& packed, int to, const Raw* const (&base)[square],
                           const Taps (&taps)[square], int group, int depth,
                           Load load_group) const {
      alignas(cache_line) Element rows[square * square * terms];
      NNK_NO_UNROLL
      for (int i = 0; i < square; ++i) {
        NNK_UNROLL
        for (int q = 0; q < groups_of_square; ++q) {
          auto x = Vec<Element, G>::splat(Element());
          if ((group + q) * G < depth)
            x = element(load_group(base[i], group + q, seen.masks.of(taps[i], group + q)));
          nnk::store(rows + (i * groups_of_square + q) * G, x);
        }
      }
      Vec<uint32, square> x[square];
      NNK_UNROLL
      for (int i = 0; i < square; ++i)
        x[i] = words_of(nnk::load<square * terms>(rows + i * square * terms));
      transpose(x);
      NNK_UNROLL
      for (int i = 0; i < square; ++i) packed.store_vec(to + i * N, x[i]);
    }
    // Pixels of a group, Step elements apart, run over run.
    template <int Step>
    NNK_FN Vec<Raw, G> load_merged(const Raw* p, int group, uint32 wanted) const {
      if constexpr (MergedLanes<Step, Raw, G>::is_possible) {
        MergedLanes<Step, Raw, G> x;
        const int end = seen.image.first.load(group + 1);
        for (int run = seen.image.first.load(group); run < end; ++run)
          x.load(byte_offset(p, seen.image.offset.load(run)),
                 x.mask_of(seen.image.lanes.load(run) & wanted));
        return x.lanes();
      } else {
        return Vec<Raw, G>::splat(Raw());
      }
    }

    // ---- A ----------------------------------------------------------------------------------

    // Rows, each of them `row` words apart; zeros follow their last term.
    template <class T, class P>
    NNK_FN void pack_a(const View<const T, 2, Index>& a, const Shared<P>& packed, int row,
                       Index first_m, int rows, Index first_k, int depth) const {
      const Shared<Element> elements{reinterpret_cast<Element*>(packed.data)};
      Base::pack_a(a, elements, row * terms, first_m, rows, first_k, depth);
      for (int r = 0; r < rows; ++r)
        elements.store_vec(r * row * terms + depth, Vec<Element, Base::piece>::splat(Element()));
    }
  };
};

}  // namespace nnk
