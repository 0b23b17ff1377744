// Transforms of Winograd's convolution of tiles: F(4x4, 3x3).
//
// Four sums of three products each need six multiplications instead of twelve, if what the six
// inputs and the three weights are as polynomials is evaluated at six points, multiplied there, and
// interpolated (S. Winograd, "Arithmetic complexity of computations", SIAM 1980; A. Lavin and
// S. Gray, "Fast algorithms for convolutional neural networks", CVPR 2016). In two dimensions, 36
// take the place of 144.
//
// The points are 0, p, -p, q, -q and infinity. Pairs of opposite ones share half of the work. With
// p = 1 and q = 2, as is usual, the sums of 512 channels are off by four times the rounding errors
// of the direct sum (root mean square; normal numbers), and by 1.6 times with 5/8 and 3/2, whose
// powers here all have an exact float (how much points matter: B. Barabasz et al., "Error analysis
// and improving the accuracy of Winograd convolution for deep neural networks", ACM TOMS 46(4),
// 2020).
#pragma once
#include "nnk/types.cuh"

namespace nnk {

// S: type of numbers
template <class S> struct Winograd {
  static constexpr int tile = 4, taps = 3, points = tile + taps - 1;

  static constexpr S p = S(0.625), q = S(1.5);
  static constexpr S pp = p * p, qq = q * q;
  // M(x) / (x^2 - p^2) and so on, where M(x) = x (x^2 - p^2) (x^2 - q^2).
  static constexpr S weight_0 = 1 / (pp * qq), weight_p = 1 / (2 * pp * (pp - qq)),
                     weight_q = 1 / (2 * qq * (qq - pp));

  // Six inputs at the points.
  template <class V> static NNK_FN void input(const V (&d)[6], V (&v)[6]) {
    const V even_p = fma_always(all<V>(-qq), d[2], d[4]),
            odd_p = fma_always(all<V>(-qq), d[1], d[3]);
    const V even_q = fma_always(all<V>(-pp), d[2], d[4]),
            odd_q = fma_always(all<V>(-pp), d[1], d[3]);
    v[0] = fma_always(all<V>(pp * qq), d[0], fma_always(all<V>(-(pp + qq)), d[2], d[4]));
    v[1] = fma_always(all<V>(p), odd_p, even_p);
    v[2] = fma_always(all<V>(-p), odd_p, even_p);
    v[3] = fma_always(all<V>(q), odd_q, even_q);
    v[4] = fma_always(all<V>(-q), odd_q, even_q);
    v[5] = fma_always(all<V>(pp * qq), d[1], fma_always(all<V>(-(pp + qq)), d[3], d[5]));
  }
  // Three weights at the points.
  template <class V> static NNK_FN void weights(const V (&g)[3], V (&u)[6]) {
    const V even_p = fma_always(all<V>(weight_p * pp), g[2], all<V>(weight_p) * g[0]);
    const V even_q = fma_always(all<V>(weight_q * qq), g[2], all<V>(weight_q) * g[0]);
    u[0] = all<V>(weight_0) * g[0];
    u[1] = fma_always(all<V>(weight_p * p), g[1], even_p);
    u[2] = fma_always(all<V>(-weight_p * p), g[1], even_p);
    u[3] = fma_always(all<V>(weight_q * q), g[1], even_q);
    u[4] = fma_always(all<V>(-weight_q * q), g[1], even_q);
    u[5] = g[2];
  }
  // Four sums from the products.
  template <class V> static NNK_FN void sums(const V (&m)[6], V (&y)[4]) {
    const V even_p = m[1] + m[2], odd_p = m[1] - m[2];
    const V even_q = m[3] + m[4], odd_q = m[3] - m[4];
    y[0] = (even_p + even_q) + m[0];
    y[1] = fma_always(all<V>(p), odd_p, all<V>(q) * odd_q);
    y[2] = fma_always(all<V>(pp), even_p, all<V>(qq) * even_q);
    y[3] = fma_always(all<V>(p * pp), odd_p, fma_always(all<V>(q * qq), odd_q, m[5]));
  }

 private:
  template <class V> static NNK_FN V all(S x) { return V::splat(x); }
};

}  // namespace nnk
