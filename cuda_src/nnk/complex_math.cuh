// exp and tanh of a complex number, from the platform's real functions.
#pragma once
#include "nnk/types.cuh"

namespace nnk {

template <class T> NNK_FN Complex<T> exp(Complex<T> z) {
  const T scale = nnk::exp(z.re);
  if (z.im == T(0)) return {scale, z.im};  // keeps inf + 0i free of inf * 0
  return {scale * nnk::cos(z.im), scale * nnk::sin(z.im)};
}

// tanh(x + iy) = (tanh x (1 + t^2) + i t (1 - tanh^2 x)) / (1 + tanh^2 x t^2), t = tan y,
// written with sin and cos so that no pole of tan is met (Abramowitz & Stegun 4.5.51).
template <class T> NNK_FN Complex<T> tanh(Complex<T> z) {
  const T h = nnk::tanh(z.re), s = nnk::sin(z.im), c = nnk::cos(z.im);
  // 1 - tanh^2 loses all its digits for large |x|: there it is 4 exp(-2|x|).
  const T a = nnk::abs(z.re);
  const T e = nnk::exp(-a), e2 = e * e;
  const T sech2 = T(4) * e2 / ((T(1) + e2) * (T(1) + e2));
  const T d = c * c + h * h * s * s;
  return {h / d, s * c * sech2 / d};
}

}  // namespace nnk
