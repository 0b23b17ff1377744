// What convolutions are to the matrix product on matrix cores (matmul_tensor.cuh): which operand is
// gathered, and where results lie.
#pragma once
#include "nnk/conv_tensor_gather.cuh"
#include "nnk/conv_tensor_operand.cuh"
#include "nnk/conv_windows.cuh"
#include "nnk/types.cuh"
#include "nnk/view.cuh"

namespace nnk {

// Pixels: what they are to the product; ChannelsFast, FewTaps, Vector: see conv_tensor_gather.cuh
// Scattered: the array of pixels (the result, or where pixels are terms A) has no single step from
// pixel to pixel
template <int Pixels, bool ChannelsFast, bool FewTaps, bool Scattered, int Vector>
struct ConvTensorForm {
  static constexpr bool terms = Pixels == pixels_are_terms;
  static constexpr bool scatters_rows = Scattered && Pixels == pixels_are_rows;
  static constexpr bool scatters_columns = Scattered && Pixels == pixels_are_columns;
  static constexpr bool gathers_pixels = Scattered && terms;
  // Places of pixels, in the loop or after it, take many registers.
  static constexpr bool is_large = terms || scatters_columns;

  // After those of the product: the windows, and an array of pixels that is gathered as an image
  // that windows of one tap see.
  template <class Product, class Index> struct Args : Product {
    struct Windows { WindowGeometry<Index> geometry[gathers_pixels ? 2 : 1]; };
    alignas(16) Windows windows;
  };

  // Operands of which the base class says how they come to shared memory: by chunks, or not.
  template <class Base> static constexpr bool single = Base::way >= single_terms;
  template <class Base, class Index>
  using Image = conditional<
      terms,
      conditional<single<Base>, GatheredPixels<Base, Index, ChannelsFast, false>,
                  WindowPixels<Base, Index, false>>,
      conditional<single<Base>, GatheredTaps<Base, Index, ChannelsFast, FewTaps, Vector>,
                  WindowTaps<Base, Index, FewTaps>>>;
  template <class Base, class Index>
  using Scatter = conditional<single<Base>, GatheredPixels<Base, Index, true, true>,
                              WindowPixels<Base, Index, true>>;
  template <class Base, class Index>
  using A = conditional<Pixels == pixels_are_rows, Image<Base, Index>,
                        conditional<gathers_pixels, Scatter<Base, Index>, Base>>;
  template <class Base, class Index>
  using B = conditional<Pixels == pixels_are_rows, Base, Image<Base, Index>>;

  template <class Args> static NNK_FN const auto& geometry_a(const Args& args) {
    return args.windows.geometry[gathers_pixels ? 1 : 0];
  }
  template <class Args> static NNK_FN const auto& geometry_b(const Args& args) {
    return args.windows.geometry[0];
  }
  // Bytes to a pixel of the result.
  template <class Args, class Index> static NNK_FN Index pixel(const Args& args, Index u) {
    return Pixel<Index>::of(args.windows.geometry[0], u).in_other(args.windows.geometry[0]);
  }
};

}  // namespace nnk
