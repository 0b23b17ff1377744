// Places among the terms of a product over windows, which go on from tile to tile by additions.
//
// What a thread copies is the same in every tile but for a constant number of terms. So its place
// is a number in mixed radix (channels and taps, or pixels along their axes), found by divisions
// before the first tile and then advanced by additions, with carries by comparison.
//
// As in other products on matrix cores, the first tile begins with the zeros that K lacks to a
// multiple of TileK. A place does not advance over them: it begins with the first term that is
// there.
#pragma once
#include "nnk/conv_windows.cuh"
#include "nnk/types.cuh"

namespace nnk {

// A number in mixed radix, digit 0 first, and the bytes to where it leads.
template <class Index> struct Digits {
  Index at[4];
  Index offset;
};

// What its digits count: how many there are (of the last one that is not asked), and their steps.
template <class Index> struct Radix {
  Index size[4], stride[4];

  // Channels of a group and taps, in order of taps and then channels or the other way round.
  template <bool ChannelsFast> static NNK_FN Radix taps(const WindowGeometry<Index>& g) {
    Radix radix;
    radix.size[channel_digit<ChannelsFast>()] = g.channels;
    radix.stride[channel_digit<ChannelsFast>()] = g.channel_stride;
    NNK_UNROLL
    for (int axis = 0; axis < 3; ++axis) {
      radix.size[tap_digit<ChannelsFast>(axis)] = g.kernel[axis];
      radix.stride[tap_digit<ChannelsFast>(axis)] = g.tap[axis] * g.stride[axis + 1];
    }
    return radix;
  }
  template <bool ChannelsFast> static constexpr NNK_FN int channel_digit() {
    return ChannelsFast ? 0 : 3;
  }
  template <bool ChannelsFast> static constexpr NNK_FN int tap_digit(int axis) {
    return (ChannelsFast ? 3 : 2) - axis;
  }
  // Pixels, the last axis first.
  static NNK_FN Radix pixels(const WindowGeometry<Index>& g) {
    Radix radix;
    radix.size[3] = g.pixels[0], radix.stride[3] = g.stride[0];
    NNK_UNROLL
    for (int axis = 0; axis < 3; ++axis) {
      radix.size[2 - axis] = g.pixels[axis + 1];
      radix.stride[2 - axis] = g.step[axis] * g.stride[axis + 1];
    }
    return radix;
  }

  // Divides, and so belongs before loops.
  NNK_FN Digits<Index> of(Index n) const {
    Digits<Index> d;
    d.offset = 0;
    NNK_UNROLL
    for (int j = 0; j < 4; ++j) {
      const Index next = j < 3 ? n / size[j] : 0;
      d.at[j] = n - next * size[j];
      d.offset += d.at[j] * stride[j];
      n = next;
    }
    return d;
  }
  NNK_FN void add(Digits<Index>& d, const Digits<Index>& more) const {
    d.offset += more.offset;
    NNK_UNROLL
    for (int j = 0; j < 4; ++j) d.at[j] += more.at[j];
    carry(d);
  }
  NNK_FN void increment(Digits<Index>& d) const {
    d.offset += stride[0];
    ++d.at[0];
    carry(d);
  }

 private:
  NNK_FN void carry(Digits<Index>& d) const {
    NNK_UNROLL
    for (int j = 0; j < 3; ++j) {
      if (d.at[j] >= size[j]) {
        d.at[j] -= size[j];
        ++d.at[j + 1];
        d.offset += stride[j + 1] - size[j] * stride[j];
      }
    }
  }
};

// The places of a thread in a tile: units of `Run` terms that follow each other, `Apart` terms from
// one to the next; the same ones in the next tile, TileK terms on.
template <class Index, int Units, int Run, int Apart, int TileK> struct Places {
  static constexpr int to_unit = Apart - Run + 1;
  static constexpr int to_tile = TileK - (Units - 1) * Apart - Run + 1;
  static constexpr bool same = Units == 1 || to_unit == to_tile;

  Radix<Index> radix;
  Digits<Index> here, by_unit, by_tile;

  // `unit`: the first one's first term in the tile. `first`: term of the operand that the first
  // tile begins with, but for the `missing` ones
  NNK_FN void begin(const Radix<Index>& of, int unit, Index first, int missing) {
    radix = of;
    int there = unit + TileK;
    NNK_UNROLL
    for (int i = Units - 1; i >= 0; --i) {
      const int begins = unit + i * Apart, seen = begins < missing ? missing : begins;
      if (seen < begins + Run) there = seen;
    }
    here = radix.of(first + (there - missing));
    by_tile = radix.of(to_tile);
    if constexpr (!same) by_unit = radix.of(to_unit);
  }
  // From term t of unit i on.
  NNK_FN void advance(int i, int t) {
    if (t + 1 < Run) radix.increment(here);
    else if (same || i + 1 == Units) radix.add(here, by_tile);
    else radix.add(here, by_unit);
  }
};

}  // namespace nnk
