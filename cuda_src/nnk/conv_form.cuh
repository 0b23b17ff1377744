// How the operands of a convolution come to the matrix product of a CPU (matmul_packed.cuh): what
// is packed is gathered from the image by the packing, and no matrix of its windows is in memory.
//
// The form says what pixels are to the product: columns or rows of the result, or terms of the
// sums. Where the channels of the image are adjacent (ChannelsFast), those of a tap are copied
// together; else pixels are loaded as they follow each other in memory.
#pragma once
#include "nnk/conv_windows.cuh"
#include "nnk/matmul_operands.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// What is packed of a number of the type S, and handled in registers: of a complex one of 64 bits
// these, since registers have no lanes for it, and of bfloat16, which is not converted, its bits.
template <class S> struct PackedWord { using type = S; };
template <> struct PackedWord<Complex<float>> { using type = uint64; };
template <> struct PackedWord<bfloat16> { using type = uint16; };

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

  // What a block keeps. S: type of the sums; N: columns of a panel of B
  template <class S, class Index, int N> struct Of {
    using Word = typename PackedWord<S>::type;
    static constexpr int G = Vec<Word, N>::lanes;
    using Geometry = WindowGeometry<Index>;
    using Taps = Tap<Index, ChannelsFast>;
    static constexpr bool has_image = !ChannelsFast;  // loads pixels of it together
    static constexpr bool has_other =
        Scattered && (Pixels == pixels_are_columns || Pixels == pixels_are_terms);

    static constexpr int groups_of_panel = N / G;

    const Geometry& g;
    const JoinedRows<Index>& joined;
    PixelRuns<Index, G> image, other;
    WindowMasks<Index, G> masks;
    Shared<Index> tap_offsets;     // bytes from the place of tap 0 to that of every tap
    Shared<uint32> combined;       // for every tap, what the groups of a panel see
    Shared<Index> weight_offsets;  // bytes to the weight of every tap
    // Of a group of pixels, for every tap and run: bytes to lane 0, and what is loaded from there.
    Shared<Index> run_offsets;
    Shared<uint32> run_masks;
    // More runs are loaded one by one.
    static constexpr int most_runs = 4;

    // `at`: bytes of scratch memory that are taken. most: pixels that are looked up at once
    template <class Group, class A>
    NNK_FN Of(const Group& group, const A& args, int at, int most)
        : g(args.windows),
          joined(args.rows),
          image(group, at, most, g.stride[3] * g.step[2]),
          other(group, at + PixelRuns<Index, G>::bytes(most), most, g.other[3]),
          masks(group, g, at + 2 * PixelRuns<Index, G>::bytes(most), most) {
      const int taps = g.spatial_taps();
      at += 2 * PixelRuns<Index, G>::bytes(most) + masks.bytes(g);
      tap_offsets = group.template dynamic_shared<Index>(at, taps);
      combined = group.template dynamic_shared<uint32>(at + taps * int(sizeof(Index)),
                                                       taps * groups_of_panel);
      at += taps * int(sizeof(Index) + 4 * groups_of_panel);
      weight_offsets = group.template dynamic_shared<Index>(at, taps);
      at += taps * int(sizeof(Index));
      if constexpr (Pixels == pixels_are_columns) {
        run_offsets = group.template dynamic_shared<Index>(at, taps * most_runs);
        at += taps * most_runs * int(sizeof(Index));
        run_masks = group.template dynamic_shared<uint32>(at, taps * most_runs);
      }
      if constexpr (Pixels == pixels_are_columns || ChannelsFast) {
        auto tap = Taps::of(g, 0);
        for (int t = 0; t < taps; ++t) {
          tap_offsets.store(t, tap.offset(g));
          if constexpr (gathers_a) weight_offsets.store(t, tap.in_weights(g));
          tap.next_tap(g);
        }
      }
    }

    // Looks up `count` pixels from u on.
    NNK_FN void find(Index u, int count) const {
      if constexpr (has_image) {
        image.find(g, u, count, [this](const Pixel<Index>& p) { return p.in_image(g); });
        masks.find(g, u, count);
      }
      if constexpr (has_other)
        other.find(g, u, count, [this](const Pixel<Index>& p) { return p.in_other(g); });
    }

    // ---- B ----------------------------------------------------------------------------------

    // Panels of N columns, each as [term][column], `panel` numbers apart. b: of columns and terms
    template <class T, class P>
    NNK_FN void pack_b(const View<const T, 2, Index>& b, const Shared<P>& packed, int panel,
                       Index first_n, int columns, Index first_k, int depth) const {
      const auto* const from = words_at(b.data);
      if constexpr (gathers_b) {
        for (int j = 0; j < columns; j += N)
          pack_weights(byte_offset(from, (first_n + j) * b.stride[0]), b.stride[0], packed,
                       j * panel, columns - j, first_k, depth);
      } else if constexpr (Pixels == pixels_are_columns) {
        for (int j = 0; j < columns; j += N)
          pack_pixels(from, packed, j * panel, j, columns, first_k, depth);
      } else if constexpr (ChannelsFast) {
        auto pixel = Pixel<Index>::of(g, first_k);
        const auto first = Place::of(g, first_n);
        for (int k = 0; k < depth; ++k) {
          copy_taps<N>(from, pixel, first, columns, [&](int j, const auto& x, int count) {
            put_columns(packed, j / N * N * panel + k * N, j % N, x, count);
          });
          pixel.advance(g);
        }
      } else {
        for (int j = 0; j < columns; j += G)
          pack_taps(from, packed, j / N * N * panel, j % N, first_n + j, columns - j, depth);
      }
    }
    // Some columns of a row of a panel that begins at the number `row`, from column `i` on.
    template <class P, int Count>
    static NNK_FN void put_columns(const Shared<P>& packed, int row, int i,
                                   const Vec<Word, Count>& x) {
      if constexpr (is_complex<S>) {
        P* const to = packed.data + 2 * row + i;
        nnk::store(to, part_of<false, P>(x));
        nnk::store(to + N, part_of<true, P>(x));
      } else {
        packed.store_vec(row + i, x);
      }
    }
    // The first `count` of them.
    template <class P, int Count>
    static NNK_FN void put_columns(const Shared<P>& packed, int row, int i,
                                   const Vec<Word, Count>& x, int count) {
      if constexpr (is_complex<S>) {
        P* const to = packed.data + 2 * row + i;
        nnk::store_partial(to, part_of<false, P>(x), count);
        nnk::store_partial(to + N, part_of<true, P>(x), count);
      } else {
        nnk::store_partial(packed.data + row + i, x, count);
      }
    }
    // Real or imaginary parts.
    template <bool Imaginary, class R, int Count>
    static NNK_FN Vec<R, Count> part_of(const Vec<Word, Count>& x) {
      if constexpr (is_same<Word, uint64>) {
        return bits_as<R>(convert<uint32>(Imaginary ? x >> 32 : x));
      } else {
        Vec<R, Count> part;
        NNK_UNROLL
        for (int i = 0; i < Count; ++i) part.set(i, Imaginary ? x[i].im : x[i].re);
        return part;
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
          put_columns(packed, to + k * N, i, converted<ConjugateA>(x));
        }
        tap.advance(g);
      }
    }
    // Columns are pixels, from `first` on, terms are taps.
    template <class T, class P>
    NNK_FN void pack_pixels(const T* from, const Shared<P>& packed, int to, int first, int columns,
                            Index first_k, int depth) const {
      const int group = first / G, there = (columns - first + G - 1) / G;  // groups
      const int64 step = image.step;
      if (step == int64(sizeof(T)) &&
          pack_merged<1>(from, packed, to, group, there, first_k, depth))
        return;
      if (step == 2 * int64(sizeof(T)) &&
          pack_merged<2>(from, packed, to, group, there, first_k, depth))
        return;
      pack_loaded(from, packed, to, group, there, first_k, depth);
    }
    // Some groups of a panel, whose pixels are Step elements apart. False if they have many runs,
    // or the machine does not load them so.
    template <int Step, class T, class P>
    NNK_FN bool pack_merged(const T* from, const Shared<P>& packed, int to, int group, int there,
                            Index first_k, int depth) const {
      if constexpr (MergedLanes<Step, T, G>::is_possible) {
        if (there > groups_of_panel) there = groups_of_panel;
        for (int i = group; i < group + there; ++i)
          if (image.runs_of(i) > most_runs) return false;
        for (int i = 0; i < groups_of_panel; ++i) {
          // Past the last column there is nothing to see.
          const int runs = i < there ? image.runs_of(group + i) : 0;
          if (runs > 0) find_runs<Step, T>(group + i, runs);
          if (runs == 1) pack_runs<Step, 1>(from, packed, to, i, first_k, depth);
          else if (runs == 2) pack_runs<Step, 2>(from, packed, to, i, first_k, depth);
          else if (runs == 3) pack_runs<Step, 3>(from, packed, to, i, first_k, depth);
          else if (runs == 4) pack_runs<Step, 4>(from, packed, to, i, first_k, depth);
          else pack_runs<Step, 0>(from, packed, to, i, first_k, depth);
        }
        return true;
      } else {
        return false;
      }
    }
    template <int Step, class T> NNK_FN void find_runs(int group, int runs) const {
      const int first = image.first.load(group);
      int to = 0;
      Tap<Index, false> tap = Tap<Index, false>::of(g, 0);
      for (int t = 0; t < g.spatial_taps(); ++t) {
        const uint32 seen = masks.of(tap, group);
        for (int r = first; r < first + runs; ++r, ++to) {
          run_offsets.store(to, image.offset.load(r) + tap_offsets.load(t));
          run_masks.store(to, MergedLanes<Step, T, G>::mask_of(image.lanes.load(r) & seen));
        }
        tap.next_tap(g);
      }
    }
    // Channels that far apart share few lines of a cache, and a processor does not look ahead from
    // one to the next: later ones are fetched.
    static constexpr int far_apart = 4096, fetched_ahead = 6;
    template <int Step, int Runs, class T, class P>
    NNK_FN void pack_runs(const T* from, const Shared<P>& packed, int to, int group, Index first_k,
                          int depth) const {
      const int taps = g.spatial_taps();
      const Index first = first_k / taps;
      const T* channel = byte_offset(from, first * g.channel_stride);
      const bool fetches = g.channel_stride >= far_apart;
      int tap = int(first_k - first * taps);
      for (int k = 0; k < depth;) {
        if (fetches && k + fetched_ahead * taps < depth) {
          const T* const later = byte_offset(channel, fetched_ahead * g.channel_stride);
          for (int at = 0; at < taps * Runs; at += int(g.kernel[2]) * Runs) {
            NNK_UNROLL
            for (int r = 0; r < Runs; ++r) {
              NNK_UNROLL
              for (int line = 0; line <= Step; ++line)
                prefetch<1>(byte_offset(later, run_offsets.load(at + r) + line * cache_line));
            }
          }
        }
        const int end = taps - tap < depth - k ? k + taps - tap : depth;
        for (int at = tap * Runs; k < end; ++k) {
          MergedLanes<Step, T, G> x;
          NNK_UNROLL
          for (int r = 0; r < Runs; ++r, ++at)
            x.load(byte_offset(channel, run_offsets.load(at)), run_masks.load(at));
          put_columns(packed, to + k * N, group * G, converted<ConjugateImage>(x.lanes()));
        }
        tap = 0;
        channel = byte_offset(channel, g.channel_stride);
      }
    }
    template <class T, class P>
    NNK_FN void pack_loaded(const T* from, const Shared<P>& packed, int to, int group, int there,
                            Index first_k, int depth) const {
      const int taps = g.spatial_taps();
      Index offset[groups_of_panel];
      bool are_runs = true;
      NNK_UNROLL
      for (int i = 0; i < groups_of_panel; ++i) {
        const int seen = group + (i < there ? i : 0);
        are_runs = are_runs && image.is_one(seen);
        offset[i] = image.offset.load(image.first.load(seen));
      }
      combine_masks(group, there);
      const auto each_term = [&](auto load_group) NNK_INLINE {
        int tap = int(first_k % taps);
        const T* channel = byte_offset(from, (first_k / taps) * g.channel_stride);
        for (int k = 0; k < depth; ++k) {
          const T* const base = byte_offset(channel, tap_offsets.load(tap));
          const int wanted = tap * groups_of_panel;
          NNK_UNROLL
          for (int i = 0; i < groups_of_panel; ++i)
            put_columns(packed, to + k * N, i * G,
                        converted<ConjugateImage>(load_group(base, i, combined.load(wanted + i))));
          if (++tap == taps) {
            tap = 0;
            channel = byte_offset(channel, g.channel_stride);
          }
        }
      };
      const auto zeros = Vec<T, G>::splat(T());
      const int64 step = image.step;
      if (are_runs && step == int64(sizeof(T)))
        each_term([&](const T* base, int i, uint32 wanted) NNK_INLINE {
          return load_lanes<G>(byte_offset(base, offset[i]), int64(sizeof(T)), wanted, zeros);
        });
      else if (are_runs)
        each_term([&](const T* base, int i, uint32 wanted) NNK_INLINE {
          return load_lanes<G>(byte_offset(base, offset[i]), step, wanted, zeros);
        });
      else
        each_term([&](const T* base, int i, uint32 wanted) NNK_INLINE {
          return image.template load<T>(base, group + (i < there ? i : 0), wanted);
        });
    }
    // For every tap, what the groups of a panel see; of those past the last one, nothing.
    NNK_FN void combine_masks(int group, int there) const {
      const int taps[3] = {int(g.kernel[0]), int(g.kernel[1]), int(g.kernel[2])};
      int to = 0;
      for (int d = 0; d < taps[0]; ++d)
        for (int h = 0; h < taps[1]; ++h) {
          uint32 rows[groups_of_panel];
          NNK_UNROLL
          for (int i = 0; i < groups_of_panel; ++i)
            rows[i] = i < there ? masks.along(0, d, group + i) & masks.along(1, h, group + i) : 0;
          for (int w = 0; w < taps[2]; ++w) {
            NNK_UNROLL
            for (int i = 0; i < groups_of_panel; ++i)
              combined.store(to++, i < there ? rows[i] & masks.along(2, w, group + i) : 0);
          }
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
        for (int i = 0; i < G; ++i) put_columns(packed, panel + (k + i) * N, j, x[i]);
      }
    }
    template <class T> NNK_FN Vec<Word, G> load(const T* base, int group, const Taps& tap) const {
      return converted<ConjugateImage>(image.template load<T>(base, group, masks.of(tap, group)));
    }
    // Elements of the type of the sums as words.
    template <class T> static NNK_FN auto words_at(const T* p) {
      if constexpr (is_same<T, S>) return reinterpret_cast<const Word*>(p);
      else return p;
    }
    template <bool Conjugate, class T, int Count>
    static NNK_FN Vec<Word, Count> converted(const Vec<T, Count>& x) {
      if constexpr (is_same<Word, S>) {
        const Vec<S, Count> y = convert<S>(x);
        return Conjugate ? conj(y) : y;
      } else if constexpr (is_same<T, Word>) {
        if constexpr (Conjugate) return x ^ uint64(1) << 63;
        else return x;
      } else {  // a real number
        Vec<Word, Count> y;
        NNK_UNROLL
        for (int i = 0; i < Count; ++i) y.set(i, bit_cast<Word>(convert_scalar<S>(x[i])));
        return y;
      }
    }

    // ---- A ----------------------------------------------------------------------------------

    // Rows, each of them `row` words apart: pixels of taps, or what has an element for each pixel.
    template <class T, class P>
    NNK_FN void pack_a(const View<const T, 2, Index>& a, const Shared<P>& packed, int row,
                       Index first_m, int rows, Index first_k, int depth) const {
      const auto* const from = words_at(a.data);
      if constexpr (Pixels == pixels_are_rows) {
        auto pixel = Pixel<Index>::of(g, first_m);
        const auto first = Place::of(g, first_k);
        for (int i = 0; i < rows; ++i) {
          copy_taps<0>(from, pixel, first, depth,
                       [&](int k, const auto& x, int) { put_terms(packed, i * row + k, x); });
          pixel.advance(g);
        }
      } else if constexpr (gathers_a) {
        gather_weights(byte_offset(from, first_m * a.stride[0]), a.stride[0], packed, row, rows,
                       first_k, depth);
      } else {
        for (int i = 0; i < rows; ++i)
          for (int k = 0; k < depth; k += G)
            put_terms(packed, i * row + k,
                      converted<ConjugateA>(
                          load_terms(byte_offset(from, (first_m + i) * a.stride[0]), k / G)));
      }
    }
    template <class T> NNK_FN Vec<T, G> load_terms(const T* base, int group) const {
      return other.template load<T>(base, group, ~0u);
    }
    // Words of a row of A, from the one numbered `i` of all on.
    template <class P, int Count>
    static NNK_FN void put_terms(const Shared<P>& packed, int i, const Vec<Word, Count>& x) {
      if constexpr (is_complex<S>) nnk::store(reinterpret_cast<Word*>(packed.data + 2 * i), x);
      else packed.store_vec(i, x);
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
            put_terms(
                packed, i * row + k,
                permuted(converted<ConjugateA>(nnk::load_partial<G>(base, span, T())), order));
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
                    converted<ConjugateA>(nnk::load_partial<piece>(
                        base + first + t, count - t < piece ? count - t : piece, T())));
      } else {
        for (int t = 0; t < count; ++t)
          put_terms(packed, to + t,
                    converted<ConjugateA>(
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
    // Elements at once, no more than a packed row has to spare. What is written past the last one
    // is written again, or not looked at.
    static constexpr int piece = is_complex<S> ? 8 : sizeof(Word) == 2 ? 32 : 16;
    // Where a term is: element `at` of a run of channels, of one tap or all along the last axis.
    struct Place {
      int run, at;
      int d, h, w;  // the run along the axes

      static NNK_FN Place of(const Geometry& g, Index term) {
        const int elements = int(g.adjacent * g.channels);
        const int run = int(term / elements), places = int(g.kernel[2] / g.adjacent);
        return {run, int(term - Index(run) * elements), run / places / int(g.kernel[1]),
                run / places % int(g.kernel[1]), run % places};
      }
    };
    // `count` taps of one pixel from a place on, in pieces that do not cross a multiple of Side.
    template <int Side, class T, class Put>
    NNK_FN void copy_taps(const T* from, const Pixel<Index>& pixel, const Place& first, int count,
                          Put put) const {
      from = byte_offset(from, pixel.in_image(g));
      bool inside = true;
      NNK_UNROLL
      for (int axis = 0; axis < 3; ++axis) {
        const Index at = pixel.position(g, axis);
        inside = inside && is_inside(at, axis) &&
                 is_inside(at + (g.kernel[axis] - 1) * g.tap[axis], axis);
      }
      if (inside) copy_all_taps<Side>(from, first, count, put);
      else copy_some_taps<Side>(from, pixel, first, count, put);
    }
    // Of a pixel whose window is all inside the image.
    template <int Side, class T, class Put>
    NNK_FN void copy_all_taps(const T* from, const Place& first, int count, Put put) const {
      const int adjacent = int(g.adjacent), run = adjacent * int(g.channels);
      int at = first.at, tap = first.run * adjacent;
      for (int k = 0; k < count; tap += adjacent, at = 0) {
        const int n = run - at < count - k ? run - at : count - k;
        const T* const there = byte_offset(from, tap_offsets.load(tap)) + at;
        if (Side == 0 && n >= piece) {
          for (int i = 0; i + piece < n; i += piece)
            put(k + i, converted<ConjugateImage>(nnk::load<piece>(there + i)), piece);
          put(k + n - piece, converted<ConjugateImage>(nnk::load<piece>(there + n - piece)), piece);
        } else {
          copy_pieces<Side>(there, k, 0, n, put);
        }
        k += n;
      }
    }
    template <int Side, class T, class Put>
    NNK_FN void copy_pieces(const T* there, int k, int low, int high, Put put) const {
      for (int i = low; i < high;) {
        const int some = pieces<Side>(k + i, high - i);
        put(k + i,
            converted<ConjugateImage>(some == piece
                                          ? nnk::load<piece>(there + i)
                                          : nnk::load_partial<piece>(there + i, some, T())),
            some);
        i += some;
      }
    }
    template <int Side, class T, class Put>
    NNK_FN void copy_some_taps(const T* from, const Pixel<Index>& pixel, const Place& first,
                               int count, Put put) const {
      const int run = int(g.adjacent * g.channels);
      const int places = int(g.kernel[2] / g.adjacent);  // of runs along the last axis
      int at = first.at, w = first.w, h = first.h, d = first.d;
      const Index of_w = pixel.position(g, 2);
      for (int k = 0; k < count;) {
        const int n = run - at < count - k ? run - at : count - k;
        const Index place = of_w + w * g.tap[2];
        // Those of the run that are inside the image along the last axis.
        int low = 0, high = run;
        if (place < 0) low = place + g.adjacent > 0 ? int(-place * g.channels) : run;
        if (place + g.adjacent > g.size[2])
          high = place < g.size[2] ? int((g.size[2] - place) * g.channels) : 0;
        if (!is_inside(pixel.position(g, 0) + d * g.tap[0], 0) ||
            !is_inside(pixel.position(g, 1) + h * g.tap[1], 1))
          high = 0;
        low = within(low - at, n), high = within(high - at, n);
        if (low > high) low = high;
        const T* const there =
            byte_offset(from, d * g.tap[0] * g.stride[1] + h * g.tap[1] * g.stride[2] +
                                  w * g.tap[2] * g.stride[3]) +
            at;
        put_zeros<Side>(k, low, put);
        copy_pieces<Side>(there, k, low, high, put);
        put_zeros<Side>(k + high, n - high, put);
        k += n;
        at = 0;
        if (++w == places) {
          w = 0;
          if (++h == int(g.kernel[1])) h = 0, ++d;
        }
      }
    }
    NNK_FN bool is_inside(Index at, int axis) const { return 0 <= at && at < g.size[axis]; }
    template <int Side> static NNK_FN int pieces(int at, int left) {
      int some = left < piece ? left : piece;
      if constexpr (Side > 0) {
        const int border = Side - at % Side;
        if (border < some) some = border;
      }
      return some;
    }
    template <int Side, class Put> static NNK_FN void put_zeros(int at, int count, Put put) {
      for (int i = 0; i < count;) {
        const int some = pieces<Side>(at + i, count - i);
        put(at + i, Vec<Word, piece>::splat(Word()), some);
        i += some;
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
};

}  // namespace nnk
