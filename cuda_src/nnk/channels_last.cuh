// Images (N, C, pixels), whose pixels are adjacent, written with adjacent channels; and weights, of
// which rows and channels change places so. Tiles are transposed through shared memory, so that
// both are read and written in accesses of 16 bytes.
#pragma once
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// N: pixels of an access; their number is a multiple of it, as that of channels is one of 16 bytes
//
// A tile is 128 bytes of pixels by as many channels. Its rows are channels, in chunks of 16 bytes.
// These are exchanged by a pattern of which any 8 rows a chunk apart have another number each: the
// threads that read one pixel of 8 chunks of channels touch banks of their own.
// Listed: images lie where lists of their steps say, not along two axes
template <class T, class Index, int N, int Threads, bool Listed = false> struct ChannelsLast {
  static constexpr int chunk = 16 / int(sizeof(T)), side = 8 * chunk;
  static constexpr int units = side * 8;  // chunks of a tile, and of a thread
  static constexpr int share = (units + Threads - 1) / Threads;
  static_assert(chunk % N == 0, "a chunk is whole accesses");

  // Images are numbered along two axes. Steps of `from` in bytes: along these, and from channel to
  // channel; of `to` in elements: along these, and from pixel to pixel.
  struct Args {
    T* to;
    const T* from;
    Index channels, pixels;
    Index stride[3], stride_to[3];
    Divisor<Index> tiles_of_image, tiles_of_channels, inner;
    // Of every image: where it is, where its copy is, and from pixel to pixel of that.
    static constexpr int most_listed = 32;
    struct List { Index from[most_listed], to[most_listed], pixel[most_listed]; };
    struct NoList {};
    conditional<Listed, List, NoList> list;
  };

  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const auto memory = group.template dynamic_shared<T>(0, side * side);
    const Index block = Index(group.block());
    const Index image = args.tiles_of_image.divide(block);
    const Index tile = block - image * args.tiles_of_image.divisor;
    const Index row = args.tiles_of_channels.divide(tile);  // of tiles of pixels
    const Index pixel = row * side;
    const Index channel = (tile - row * args.tiles_of_channels.divisor) * side;
    const Place place(args, image);
    Vec<T, chunk> held[share];
    NNK_UNROLL
    for (int i = 0; i < share; ++i) {
      const int u = group.rank() + i * Threads;
      if (is_there(u)) held[i] = fetch(args, place.from, channel + u / 8, pixel + u % 8 * chunk);
    }
    NNK_UNROLL
    for (int i = 0; i < share; ++i) {
      const int u = group.rank() + i * Threads;
      if (is_there(u)) memory.store_vec(at(u / 8, u % 8), held[i]);
    }
    group.barrier();
    NNK_UNROLL
    for (int i = 0; i < share; ++i) {
      const int u = group.rank() + i * Threads, p = u / 8, c = u % 8 * chunk;
      if (!is_there(u) || pixel + p >= args.pixels || channel + c >= args.channels) continue;
      Vec<T, chunk> x;
      NNK_UNROLL
      for (int j = 0; j < chunk; ++j) x.set(j, memory.load(at(c + j, p / chunk) + p % chunk));
      nnk::store(place.to + int64(pixel + p) * place.next_pixel + channel + c, x);
    }
  }

 private:
  // Of an image.
  struct Place {
    const T* from;
    T* to;
    Index next_pixel;
    NNK_FN Place(const Args& args, Index image) {
      if constexpr (Listed) {
        from = byte_offset(args.from, int64(args.list.from[image]));
        to = args.to + int64(args.list.to[image]);
        next_pixel = args.list.pixel[image];
      } else {
        const Index outer = args.inner.divide(image), inner = image - outer * args.inner.divisor;
        from =
            byte_offset(args.from, int64(outer) * args.stride[0] + int64(inner) * args.stride[1]);
        to = args.to + int64(outer) * args.stride_to[0] + int64(inner) * args.stride_to[1];
        next_pixel = args.stride_to[2];
      }
    }
  };
  static NNK_FN bool is_there(int unit) { return units % Threads == 0 || unit < units; }
  // Where a chunk of pixels of a channel is in the tile.
  static NNK_FN int at(int channel, int number) {
    return channel * side + (number ^ channel / chunk % 8) * chunk;
  }
  // A chunk of pixels; those past the last one are not written.
  static NNK_FN Vec<T, chunk> fetch(const Args& args, const T* image, Index channel, Index pixel) {
    auto x = Vec<T, chunk>::splat(T());
    if (channel >= args.channels) return x;
    const T* const line = byte_offset(image, int64(channel) * args.stride[2]);
    NNK_UNROLL
    for (int i = 0; i < chunk; i += N) {
      if (pixel + i >= args.pixels) continue;
      const auto part = nnk::load<N>(line + pixel + i);
      NNK_UNROLL
      for (int j = 0; j < N; ++j) x.set(i + j, part[j]);
    }
    return x;
  }
};

}  // namespace nnk
