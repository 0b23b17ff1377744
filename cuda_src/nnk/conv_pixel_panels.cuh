// Panels of pixels, the columns of a product, whose terms are taps: see conv_form.cuh.
//
// Pixels are in groups of as many as a register has lanes, and those of a group in runs in which
// they follow each other in the image. A group of few runs is loaded run over run (MergedLanes),
// from places that are found once for all channels; others by the lanes of each run.
#pragma once
#include "nnk/conv_packed_words.cuh"
#include "nnk/conv_windows.cuh"

namespace nnk {

// What a block keeps of the pixels that it sees.
// S: type of the sums; N: columns of a panel; Conjugate: whether the image is packed so
template <class S, class Index, int N, bool Conjugate> struct PixelPanels {
  using Words = PackedWords<S, N>;
  using Word = typename Words::Word;
  static constexpr int G = Words::G;
  using Geometry = WindowGeometry<Index>;
  static constexpr int groups_of_panel = N / G;
  // More runs are loaded one by one.
  static constexpr int most_runs = 4;

  const Geometry& g;
  PixelRuns<Index, G> image;
  WindowMasks<Index, G> masks;
  Shared<Index> tap_offsets;  // bytes from the place of tap 0 to that of every tap
  Shared<uint32> combined;    // for every tap, what the groups of a panel see
  // Where pixels are columns, of a group, for every tap and run: bytes to lane 0, and what is
  // loaded from there.
  Shared<Index> run_offsets;
  Shared<uint32> run_masks;

  // `at`: bytes of scratch memory that are taken. most: pixels that are looked up at once
  template <class Group>
  NNK_FN PixelPanels(const Group& group, const Geometry& geometry, int at, int most)
      : g(geometry),
        image(group, at, most, g.stride[3] * g.step[2]),
        masks(group, g, at + PixelRuns<Index, G>::bytes(most), most) {
    const int taps = g.spatial_taps();
    at += PixelRuns<Index, G>::bytes(most) + masks.bytes(g);
    tap_offsets = group.template dynamic_shared<Index>(at, taps);
    at += taps * int(sizeof(Index));
    combined = group.template dynamic_shared<uint32>(at, taps * groups_of_panel);
    at += taps * 4 * groups_of_panel;
    run_offsets = group.template dynamic_shared<Index>(at, taps * most_runs);
    at += taps * most_runs * int(sizeof(Index));
    run_masks = group.template dynamic_shared<uint32>(at, taps * most_runs);
  }
  // Looks up `count` pixels from u on.
  NNK_FN void find(Index u, int count) const {
    image.find(g, u, count, [this](const Pixel<Index>& p) { return p.in_image(g); });
    masks.find(g, u, count);
  }

  // Columns are pixels, from `first` on, terms are taps.
  template <class T, class P>
  NNK_FN void pack(const T* from, const Shared<P>& packed, int to, int first, int columns,
                   Index first_k, int depth) const {
    const int group = first / G, there = (columns - first + G - 1) / G;  // groups
    const int64 step = image.step;
    if (step == int64(sizeof(T)) && pack_merged<1>(from, packed, to, group, there, first_k, depth))
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
        Words::put_columns(packed, to + k * N, group * G,
                           Words::template converted<Conjugate>(x.lanes()));
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
    const bool fetches = g.channel_stride >= far_apart;
    const auto each_term = [&](auto load_group) NNK_INLINE {
      int tap = int(first_k % taps);
      const T* channel = byte_offset(from, (first_k / taps) * g.channel_stride);
      for (int k = 0; k < depth; ++k) {
        const T* const base = byte_offset(channel, tap_offsets.load(tap));
        if (fetches && k + fetched_ahead * taps < depth) {
          const T* const later = byte_offset(base, fetched_ahead * g.channel_stride);
          NNK_UNROLL
          for (int i = 0; i < groups_of_panel; ++i)
            prefetch<1>(byte_offset(later + (G - 1), offset[i]));
        }
        const int wanted = tap * groups_of_panel;
        NNK_UNROLL
        for (int i = 0; i < groups_of_panel; ++i)
          Words::put_columns(
              packed, to + k * N, i * G,
              Words::template converted<Conjugate>(load_group(base, i, combined.load(wanted + i))));
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
};

}  // namespace nnk
