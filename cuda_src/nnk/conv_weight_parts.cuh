// What gradients by the weights on a CPU have in common: gradients of pixels, packed, and the
// results.
#pragma once
#include "nnk/conv_windows.cuh"
#include "nnk/matmul_operands.cuh"

namespace nnk {

// sum + a b, for all outputs of a register.
template <class S, int N>
NNK_FN Vec<S, N> add_product(S a, const Vec<S, N>& b, const Vec<S, N>& sum) {
  const auto all = Vec<S, N>::splat(a);
  if constexpr (is_floating<S>) return fma_always(all, b, sum);
  else return fma(all, b, sum);
}

// Gradients of pixels as [pixel][output], of N outputs. After the last one there is room for a
// register of pixels.
template <class TA, class S, int N> struct WeightPixels {
  using Geometry = WindowGeometry<int64>;
  static constexpr int G = Vec<S, N>::lanes;
  // Outputs are as many streams, too many for a processor to look ahead in.
  static constexpr int bytes_ahead = 4 * cache_line;
  const TA* gradients;  // of the first output
  int64 next_output;    // bytes from output to output
  int64 outputs;        // that there are
  Shared<S> packed;

  // Those from u on, as those from the one numbered `to` on. Rows of pixels that follow each other
  // in memory are one.
  NNK_FN void pack(const Geometry& g, int64 u, int depth, int to = 0) const {
    auto pixel = Pixel<int64>::of(g, u);
    const int64 step = g.other[3];
    int first = to, count = 0;
    int64 from = 0;
    for (int i = 0; i < depth;) {
      const int n = in_row(g, pixel, depth - i);
      const int64 here = pixel.in_other(g);
      if (here != from + count * step) {
        pack_run(byte_offset(gradients, from), step, first, count);
        from = here;
        first = to + i;
        count = 0;
      }
      count += n;
      pixel.advance(g, n);
      i += n;
    }
    pack_run(byte_offset(gradients, from), step, first, count);
  }
  // Pixels that are left of a row, up to `most`.
  static NNK_FN int in_row(const Geometry& g, const Pixel<int64>& pixel, int most) {
    const int64 left = g.pixels[3] - pixel.at[3];
    return left < most ? int(left) : most;
  }

 private:
  // `count` pixels, `step` bytes apart, become those from the one numbered `first` on.
  NNK_FN void pack_run(const TA* from, int64 step, int first, int count) const {
    if (next_output == int64(sizeof(TA)) && step != int64(sizeof(TA))) {
      const int there = outputs < N ? int(outputs) : N;
      for (int i = 0; i < count; ++i) {
        const TA* const pixel = byte_offset(from, i * step);
        const auto x = there == N ? nnk::load<N>(pixel) : nnk::load_partial<N>(pixel, there, TA());
        packed.store_vec((first + i) * N, convert<S>(x));
      }
      return;
    }
    for (int j = 0; j < N; j += G)
      for (int i = 0; i < count; i += G)
        pack_square(byte_offset(from, i * step + j * next_output), step, j, first + i, count - i);
  }
  // G outputs of G pixels, of which `left` are there, and zeros.
  NNK_FN void pack_square(const TA* from, int64 step, int j, int first, int left) const {
    const int count = left < G ? left : G;
    const uint32 wanted = ~0u >> (32 - count);
    const auto zeros = Vec<TA, G>::splat(TA());
    Vec<S, G> x[G];
    const auto lanes = [&](int i) NNK_INLINE { return j + i < outputs ? wanted : 0u; };
    if (step == int64(sizeof(TA))) {
      const bool all = count == G && outputs - j >= G;
      NNK_UNROLL
      for (int i = 0; i < G; ++i) {
        const TA* const row = byte_offset(from, i * next_output);
        prefetch(byte_offset(row, int64(bytes_ahead)));
        x[i] = convert<S>(all ? nnk::load<G>(row)
                              : load_lanes<G>(row, int64(sizeof(TA)), lanes(i), zeros));
      }
    } else {
      NNK_NO_UNROLL
      for (int i = 0; i < G; ++i)
        x[i] = convert<S>(load_lanes<G>(byte_offset(from, i * next_output), step, lanes(i), zeros));
    }
    transpose(x);
    NNK_UNROLL
    for (int i = 0; i < G; ++i) packed.store_vec((first + i) * N + j, x[i]);
  }
};

// Where the weights of N outputs are written.
template <class TC, class S, int N> struct WeightResults {
  static constexpr int G = Vec<S, N>::lanes;
  TC* first_weight;
  int64 next_output, step;  // bytes from output to output, and along channels and taps
  int64 outputs;            // that there are

  // Some weights that follow each other, from the one numbered `first` on, of all outputs. Their
  // sums are `apart` numbers apart, and after each `inner` ones begin anew, `outer` numbers on.
  NNK_FN void write(int64 first, int count, const S* sums, int apart, int inner, int outer) const {
    TC* const line = byte_offset(first_weight, first * step);
    int at = 0, number = 0;
    for (int i = 0; i < count; i += G) {
      const int some = count - i < G ? count - i : G;
      const S* from[G];
      NNK_NO_UNROLL
      for (int k = 0; k < G; ++k) {
        from[k] = sums + at;
        // Past the last one, any other will do: what it gives is not written.
        if (i + k + 1 >= count) continue;
        at += apart;
        if (++number == inner) number = 0, at = 0, sums += outer;
      }
      TC* const to = byte_offset(line, i * step);
      for (int j = 0; j < N && j < outputs; j += G)
        write_square(byte_offset(to, j * next_output), from, j, some);
    }
  }

 private:
  NNK_FN void write_square(TC* to, const S* const (&from)[G], int j, int count) const {
    Vec<S, G> x[G];
    NNK_UNROLL
    for (int k = 0; k < G; ++k) x[k] = nnk::load<G>(from[k] + j);
    transpose(x);
    if (count == G && outputs - j >= G && step == int64(sizeof(TC))) {
      NNK_UNROLL
      for (int k = 0; k < G; ++k) nnk::store(byte_offset(to, k * next_output), convert<TC>(x[k]));
      return;
    }
    NNK_NO_UNROLL
    for (int k = 0; k < G && j + k < outputs; ++k)
      store_elements(byte_offset(to, k * next_output), step, count, convert<TC>(x[k]));
  }
};

// What the host packs first. Strides in bytes.
template <class TA, class TB, class TC> struct WeightArrays {
  const TA* pixels;
  const TB* image;
  TC* result;
  int64 outputs;       // of a group
  int64 of_pixels[2];  // from group to group and output to output
  int64 image_group;
  int64 of_result[3];  // from group to group, output to output, and along channels and taps
  int64 panels;        // of N outputs
  int64 taps_first;    // whether the result is in order of taps and then channels
};

// N outputs of a group, of which each of some blocks makes a part.
template <class TA, class TB, class TC, class S, int N> struct WeightPanel {
  int64 number, part;
  const TB* image;  // of the group
  WeightPixels<TA, S, N> pixels;
  WeightResults<TC, S, N> results;

  // packed: numbers of scratch memory from its beginning on
  template <class Group>
  static NNK_FN WeightPanel of(const Group& group, const WeightArrays<TA, TB, TC>& arrays,
                               int64 parts, int packed) {
    const int64 panel = group.block() / parts, of_group = panel / arrays.panels;
    const int64 output = (panel - of_group * arrays.panels) * N, left = arrays.outputs - output;
    const int64* const p = arrays.of_pixels;
    const int64* const r = arrays.of_result;
    return {panel,
            group.block() - panel * parts,
            byte_offset(arrays.image, of_group * arrays.image_group),
            {byte_offset(arrays.pixels, of_group * p[0] + output * p[1]), p[1], left,
             group.template dynamic_shared<S>(0, packed)},
            {byte_offset(arrays.result, of_group * r[0] + output * r[1]), r[1], r[2], left}};
  }
};

}  // namespace nnk
