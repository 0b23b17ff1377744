// Kernels of a user, each a call or two of a template of nnk/block.
#include "platform/gpu.cuh"

#include "nnk/block/fourier_features.cuh"
#include "nnk/block/gemm_tile.cuh"
#include "nnk/block/layer_norm_row.cuh"
#include "nnk/block/softmax_row.cuh"
#include "nnk/reduce.cuh"

constexpr int threads = 96;  // not a power of two

// ---- rows ---------------------------------------------------------------------------------------

template <int Team, int Most, int Kind>
__device__ void softmax_of(const float* x, float* y, int rows, int length, int step) {
  const nnk::Group<threads> group;
  const int columns = Kind == nnk::logsumexp_kind ? 1 : length;
  nnk::softmax_rows<Team, Most, Kind>(group, nnk::matrix(x, rows, length, step),
                                      nnk::matrix(y, rows, columns));
}
extern "C" __global__ void __launch_bounds__(threads)
    softmax_by_threads(const float* x, float* y, int rows, int length, int step) {
  softmax_of<1, 0, nnk::softmax_kind>(x, y, rows, length, step);
}
extern "C" __global__ void __launch_bounds__(threads)
    softmax_by_lanes(const float* x, float* y, int rows, int length, int step) {
  softmax_of<8, 64, nnk::softmax_kind>(x, y, rows, length, step);
}
extern "C" __global__ void __launch_bounds__(threads)
    log_softmax_by_warps(const float* x, float* y, int rows, int length, int step) {
  softmax_of<32, 0, nnk::log_softmax_kind>(x, y, rows, length, step);
}
extern "C" __global__ void __launch_bounds__(threads)
    logsumexp_by_blocks(const float* x, float* y, int rows, int length, int step) {
  softmax_of<threads, 0, nnk::logsumexp_kind>(x, y, rows, length, step);
}

// A row in shared memory, in place; and 16 bytes at once.
extern "C" __global__ void __launch_bounds__(threads)
    softmax_of_a_row(const nnk::half* x, nnk::half* y, int length) {
  extern __shared__ nnk::half memory[];
  const nnk::Group<threads> group;
  for (int i = threadIdx.x; i < length; i += blockDim.x) memory[i] = x[blockIdx.x * length + i];
  nnk::softmax_row(group, memory, memory, length);
  __syncthreads();
  for (int i = threadIdx.x; i < length; i += blockDim.x) y[blockIdx.x * length + i] = memory[i];
}
extern "C" __global__ void __launch_bounds__(threads)
    softmax_of_a_wide_row(const float* x, float* y, int length) {
  const nnk::Group<threads> group;
  const int first = blockIdx.x * length;
  nnk::softmax_row<1024, nnk::softmax_kind, 4>(group, x + first, y + first, length);
}

extern "C" __global__ void __launch_bounds__(threads)
    layer_norm(const float* x, float* y, const float* weight, const nnk::bfloat16* bias, int rows,
               int length, int step) {
  const nnk::Group<threads> group;
  const auto from = nnk::matrix(x, rows, length, step);
  const auto to = nnk::matrix(y, rows, length);
  nnk::layer_norm_rows<8>(group, from, to, 1e-5f, weight, bias);
}
extern "C" __global__ void __launch_bounds__(threads)
    rms_norm(const double* x, double* y, const float* weight, int length) {
  const nnk::Group<threads> group;
  const int first = blockIdx.x * length;
  nnk::rms_norm_row<200>(group, x + first, y + first, length, 1e-6f, weight);
}
// One template after the other, in place: each begins with a barrier.
extern "C" __global__ void __launch_bounds__(threads)
    norm_and_softmax(const float* x, float* y, int rows, int length) {
  __shared__ float memory[1024];
  const nnk::Group<threads> group;
  const auto kept = nnk::matrix(memory, rows, length);
  nnk::layer_norm_rows<4>(group, nnk::matrix(x, rows, length), kept, 1e-5f);
  nnk::softmax_rows<2>(group, kept, nnk::matrix(y, rows, length));
}

// ---- reductions
// -----------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(threads) reductions(const float* x, float* y, int n) {
  const nnk::Group<threads> group;
  float sum = 0, largest = nnk::Limits<float>::lowest(), product = 1;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    sum += x[i];
    largest = nnk::max(largest, x[i]);
    product *= x[i];
  }
  sum = nnk::reduce<nnk::Sum<float>>(group, sum);
  largest = nnk::reduce<nnk::Max<float>>(group, largest);
  product = nnk::reduce(group, product, [](float a, float b) { return a * b; });
  y[3 * threadIdx.x] = sum;
  y[3 * threadIdx.x + 1] = largest;
  y[3 * threadIdx.x + 2] = product;
}

// ---- products
// -------------------------------------------------------------------------------------

using Single = nnk::SimtTile<float, float, float, 32, 64>;
extern "C" __global__ void __launch_bounds__(Single::threads)
    product(const float* a, const float* b, float* c, int m, int n, int k) {
  const nnk::Group<Single::threads> group;
  nnk::gemm_tile<Single>(group, nnk::matrix(a, m, k), nnk::matrix(b, k, n), nnk::matrix(c, m, n),
                         blockIdx.y, blockIdx.x);
}
// With rows of B (columns of its transpose) adjacent, and a function of the place.
using Turned =
    nnk::SimtTile<double, double, double, 32, 32, 8, 4, 4, nnk::columns_fast, nnk::rows_fast>;
extern "C" __global__ void __launch_bounds__(Turned::threads)
    product_of_lines(const double* a, const double* b, double* c, const double* bias, int m, int n,
                     int k) {
  const nnk::Group<Turned::threads> group;
  nnk::gemm_tile<Turned>(
      group, nnk::matrix(a, m, k), nnk::transposed(nnk::matrix(b, n, k)), nnk::matrix(c, m, n),
      blockIdx.y, blockIdx.x,
      [=](double sum, int i, int j) { return sum > 0 ? sum + bias[j] : -1.0 * i; });
}

// On matrix cores: from global memory, element by element.
using Core = nnk::TensorTile<nnk::MatrixCore<nnk::bfloat16>, float, 64, 32>;
extern "C" __global__ void __launch_bounds__(Core::threads)
    tensor_product(const nnk::bfloat16* a, const nnk::bfloat16* b, float* c, int m, int n, int k) {
  const nnk::Group<Core::threads> group;
  nnk::gemm_tile<Core>(group, nnk::matrix(a, m, k), nnk::matrix(b, k, n), nnk::matrix(c, m, n),
                       blockIdx.y, blockIdx.x);
}
// Two products in a row: what the first makes, in shared memory, is A of the second. Lines of 64
// elements are read 16 bytes at once.
using Layer = nnk::TensorTile<nnk::MatrixCore<nnk::half>, nnk::half, 32, 64, 32, 32, 32, 2,
                              nnk::vector_terms, nnk::vector_terms>;
extern "C" __global__ void __launch_bounds__(Layer::threads)
    two_products(const nnk::half* x, const nnk::half* w, nnk::half* y) {
  __shared__ __align__(16) nnk::half hidden[32 * 64];
  const nnk::Group<Layer::threads> group;
  const auto first = nnk::transposed(nnk::matrix(w, 64, 64));
  const auto second = nnk::transposed(nnk::matrix(w + 64 * 64, 64, 64));
  const auto kept = nnk::matrix(hidden, 32, 64);
  nnk::gemm_tile<Layer>(
      group, nnk::matrix(x + blockIdx.x * 32 * 64, 32, 64), first, kept, 0, 0,
      [](float sum, int, int) { return sum > 0 ? sum : 0; }, 64);
  nnk::gemm_tile<Layer>(
      group, kept, second, nnk::matrix(y + blockIdx.x * 32 * 64, 32, 64), 0, 0,
      [](float sum, int, int) { return sum; }, 64);
}

// ---- encodings
// ------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(threads)
    encode(const float* x, float* y, int rows, int dimensions, int octaves) {
  const nnk::Group<threads> group;
  nnk::fourier_features(group, nnk::matrix(x, rows, dimensions),
                        nnk::matrix(y, rows, 2 * octaves * dimensions), octaves);
}
