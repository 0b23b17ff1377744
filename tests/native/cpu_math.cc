// What the CPU platform offers, over arrays, for tests/test_cpu_math.py. Every symbol ends in
// its types and the width of the Vec.
#include "platform/cpu.cuh"

using nnk::int64;

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using nnk::Vec;

// ---- functions of one argument -------------------------------------------------------

// n is a multiple of N.
template <int N, class T, class F> NNK_FN void map_array(const T* x, T* y, int64 n, F f) {
  for (int64 i = 0; i < n; i += N) nnk::store(y + i, f(nnk::load<N>(x + i)));
}

#define FUNCTION(name, T, N)                                                      \
  EXPORT void name##_##T##_##N(const T* x, T* y, int64 n) {                       \
    map_array<N>(x, y, n, [](const auto& v) NNK_INLINE { return nnk::name(v); }); \
  }
#define SCALAR_FUNCTION(name, T)                               \
  EXPORT void name##_##T##_scalar(const T* x, T* y, int64 n) { \
    for (int64 i = 0; i < n; ++i) y[i] = nnk::name(x[i]);      \
  }
// 64 bytes (one to four registers), and scalars.
#define FUNCTIONS(name)     \
  FUNCTION(name, float, 16) \
  SCALAR_FUNCTION(name, float) FUNCTION(name, double, 8) SCALAR_FUNCTION(name, double)
FUNCTIONS(exp)
FUNCTIONS(expm1)
FUNCTIONS(log)
FUNCTIONS(log1p)
FUNCTIONS(tanh)
FUNCTIONS(erf)
FUNCTIONS(erfc)
FUNCTIONS(sqrt)
FUNCTIONS(rsqrt)
FUNCTIONS(abs)
// More registers than a function takes at a time, and a remainder.
FUNCTION(exp, float, 40)
// Small registers, in functions that use all the x86 instructions between them.
#define SMALL_FUNCTIONS(name) \
  FUNCTION(name, float, 2) FUNCTION(name, float, 4) FUNCTION(name, double, 2)
SMALL_FUNCTIONS(exp)
SMALL_FUNCTIONS(log)
SMALL_FUNCTIONS(tanh)
SMALL_FUNCTIONS(sqrt)

// ---- arithmetic, comparison and selection ----------------------------------------------

// Writes 15 rows of n results.
template <int N, class T> void operations(const T* a, const T* b, T* out, int64 n) {
  for (int64 i = 0; i < n; i += N) {
    const auto x = nnk::load<N>(a + i), y = nnk::load<N>(b + i);
    const auto one = Vec<T, N>::splat(T(1)), zero = Vec<T, N>::splat(T(0));
    const Vec<T, N> results[] = {x + y,
                                 x - y,
                                 x * y,
                                 nnk::max(x, y),
                                 nnk::min(x, y),
                                 nnk::fma(x, y, x),
                                 T(3) - x * T(2),
                                 nnk::where(x < y, one, zero),
                                 nnk::where(x > y, one, zero),
                                 nnk::where(x <= y, one, zero),
                                 nnk::where(x >= y, one, zero),
                                 nnk::where(x == y, one, zero),
                                 nnk::where(x != y, one, zero),
                                 nnk::where((x < y) & !(x == zero), x, y),
                                 nnk::where((x < y) | (y > T(2)), x, y)};
    int64 row = 0;
    for (const auto& result : results) nnk::store(out + n * row++ + i, result);
  }
}
#define OPERATIONS(T, N)                                                                     \
  EXPORT void operations_##T##_##N(const nnk::T* a, const nnk::T* b, nnk::T* out, int64 n) { \
    operations<N>(a, b, out, n);                                                             \
  }
}  // namespace
namespace nnk {
using float32 = float;
using float64 = double;
using float16 = half;
}  // namespace nnk
OPERATIONS(float32, 1)
OPERATIONS(float32, 3)
OPERATIONS(float32, 48)
OPERATIONS(float64, 2)
OPERATIONS(float64, 16)
OPERATIONS(int8, 64)
OPERATIONS(uint8, 6)
OPERATIONS(int16, 32)
OPERATIONS(uint16, 24)
OPERATIONS(int32, 16)
OPERATIONS(uint32, 4)
OPERATIONS(int64, 12)
OPERATIONS(uint64, 1)

// Halves, lanes and `any`: out[0] is the sum of all lanes by halves, out[1] the last lane
// after set, out[2] and out[3] whether any lane is negative or NaN.
#define LANES(N)                                              \
  EXPORT void lanes_##N(const float* x, float* out) {         \
    auto v = nnk::load<N>(x);                                 \
    const auto sum = nnk::lower_half(v) + nnk::upper_half(v); \
    out[0] = 0.0f;                                            \
    for (int i = 0; i < N / 2; ++i) out[0] += sum[i];         \
    out[2] = nnk::any(v < 0.0f);                              \
    out[3] = nnk::any(v != v);                                \
    v.set(N - 1, 5.0f);                                       \
    out[1] = v[N - 1];                                        \
  }
LANES(2)
LANES(6)
LANES(16)
LANES(48)

// ---- conversion --------------------------------------------------------------------------

#define CONVERSION(T, U, N)                                                                        \
  EXPORT void convert_##T##_##U##_##N(const nnk::T* x, nnk::U* y, int64 n) {                       \
    for (int64 i = 0; i < n; i += N) nnk::store(y + i, nnk::convert<nnk::U>(nnk::load<N>(x + i))); \
  }
#define CONVERSIONS(T, U) CONVERSION(T, U, 6) CONVERSION(T, U, 32)
CONVERSIONS(float16, float32)
CONVERSIONS(float32, float16)
CONVERSIONS(bfloat16, float32)
CONVERSIONS(float32, bfloat16)
CONVERSIONS(float32, float64)
CONVERSIONS(float64, float32)
CONVERSIONS(int8, float32)
CONVERSIONS(uint8, float32)
CONVERSIONS(float32, int8)
CONVERSIONS(float32, uint8)
CONVERSIONS(int16, float64)
CONVERSIONS(float64, int16)
CONVERSIONS(uint16, float32)
CONVERSIONS(int32, float32)
CONVERSIONS(float32, int32)
CONVERSIONS(int64, float64)
CONVERSIONS(float64, int64)
CONVERSIONS(uint64, float32)
CONVERSIONS(int8, int64)
CONVERSIONS(int64, int8)
CONVERSIONS(int32, int16)
CONVERSIONS(uint32, uint8)

#define NARROW_CONVERSIONS(T) \
  CONVERSION(T, float32, 1)   \
  CONVERSION(float32, T, 1) CONVERSION(T, float32, 4) CONVERSION(float32, T, 4)
NARROW_CONVERSIONS(float16)
NARROW_CONVERSIONS(bfloat16)

// The forms for machines without F16C, which this machine may have.
EXPORT void portable_float16_float32(const nnk::uint16* x, float* y, int64 n) {
  for (int64 i = 0; i < n; i += 4)
    nnk::store_register<float, 4>(
        y + i, nnk::half_to_float_portable<4>(nnk::load_register<nnk::uint16, 4>(x + i)));
}
EXPORT void portable_float32_float16(const float* x, nnk::uint16* y, int64 n) {
  for (int64 i = 0; i < n; i += 4)
    nnk::store_register<nnk::uint16, 4>(
        y + i, nnk::float_to_half_portable<4>(nnk::load_register<float, 4>(x + i)));
}

// ---- memory ------------------------------------------------------------------------------

// Element `fill` is x[0] of a separate array, so that every type passes one way.
#define MEMORY(T, N)                                                                             \
  EXPORT void load_partial_##T##_##N(const nnk::T* p, int count, const nnk::T* fill,             \
                                     nnk::T* out) {                                              \
    nnk::store(out, nnk::load_partial<N>(p, count, *fill));                                      \
  }                                                                                              \
  EXPORT void store_partial_##T##_##N(nnk::T* p, int count, const nnk::T* x) {                   \
    nnk::store_partial(p, nnk::load<N>(x), count);                                               \
  }                                                                                              \
  EXPORT void load_strided_##T##_##N(const nnk::T* p, int64 step, int count, const nnk::T* fill, \
                                     nnk::T* out) {                                              \
    nnk::store(out, nnk::load_strided<N>(p, step, count, *fill));                                \
  }                                                                                              \
  EXPORT void store_strided_##T##_##N(nnk::T* p, int64 step, int count, const nnk::T* x) {       \
    nnk::store_strided(p, step, nnk::load<N>(x), count);                                         \
  }                                                                                              \
  EXPORT void store_streaming_##T##_##N(nnk::T* p, const nnk::T* x) {                            \
    nnk::store_streaming(p, nnk::load<N>(x));                                                    \
    nnk::finish_streaming_stores();                                                              \
  }
MEMORY(int8, 3)
MEMORY(int8, 64)
MEMORY(float16, 8)
MEMORY(float16, 32)
MEMORY(int16, 32)
MEMORY(float32, 1)
MEMORY(float32, 2)
MEMORY(float32, 12)
MEMORY(float32, 32)
MEMORY(float64, 2)
MEMORY(float64, 8)
namespace nnk {
using complex64 = Complex<float>;
using complex128 = Complex<double>;
}  // namespace nnk
MEMORY(complex64, 4)

// From two places. False if this machine does not load them so.
template <int Step, int N, class T>
bool merge_lanes(const T* p, const T* q, nnk::uint32 of_p, nnk::uint32 of_q, T* out) {
  using Merged = nnk::MergedLanes<Step, T, N>;
  if constexpr (Merged::is_possible) {
    Merged x;
    x.load(p, Merged::mask_of(of_p));
    x.load(q, Merged::mask_of(of_q));
    nnk::store(out, x.lanes());
  }
  return Merged::is_possible;
}
// Lanes whose bits are set.
#define CHOSEN(T, N)                                                                              \
  EXPORT void load_lanes_##T##_##N(const nnk::T* p, int64 step, nnk::uint32 bits,                 \
                                   const nnk::T* fill, nnk::T* out) {                             \
    nnk::store(out, nnk::load_lanes<N>(p, step, bits, Vec<nnk::T, N>::splat(*fill)));             \
  }                                                                                               \
  EXPORT void store_lanes_##T##_##N(nnk::T* p, int64 step, nnk::uint32 bits, const nnk::T* x) {   \
    nnk::store_lanes(p, step, nnk::load<N>(x), bits);                                             \
  }                                                                                               \
  EXPORT bool merge_lanes_##T##_##N(const nnk::T* p, const nnk::T* q, int step, nnk::uint32 of_p, \
                                    nnk::uint32 of_q, nnk::T* out) {                              \
    return step == 1 ? merge_lanes<1, N>(p, q, of_p, of_q, out)                                   \
                     : merge_lanes<2, N>(p, q, of_p, of_q, out);                                  \
  }
CHOSEN(int8, 16)
CHOSEN(float16, 16)
CHOSEN(int16, 32)
CHOSEN(float32, 4)
CHOSEN(float32, 16)
CHOSEN(float64, 8)
CHOSEN(float64, 16)

// ---- complex numbers ---------------------------------------------------------------------

template <int N, class T> void complex_operations(const T* a, const T* b, T* out, int64 n) {
  for (int64 i = 0; i < n; i += N) {
    const auto x = nnk::load<N>(a + i), y = nnk::load<N>(b + i);
    const Vec<T, N> results[] = {x + y, x * y, x / y, nnk::conj(x), nnk::exp(x), nnk::tanh(x)};
    int64 row = 0;
    for (const auto& result : results) nnk::store(out + n * row++ + i, result);
  }
}
EXPORT void complex_operations_complex64(const nnk::complex64* a, const nnk::complex64* b,
                                         nnk::complex64* out, int64 n) {
  complex_operations<4>(a, b, out, n);
}
EXPORT void complex_operations_complex128(const nnk::complex128* a, const nnk::complex128* b,
                                          nnk::complex128* out, int64 n) {
  complex_operations<2>(a, b, out, n);
}

// ---- the block and its entry ---------------------------------------------------------------

// Every block adds the float block() + 0.5 to total, counts itself in `blocks_seen`, and
// passes what it computes through all kinds of shared memory.
struct BlockKernel {
  struct Args {
    float* total;
    int* blocks_seen;
    int64* last_block_count;
  };
  struct TagA;
  struct TagB;
  template <class G> static NNK_FN void run(G& group, const Args& args) {
    static_assert(nnk::warp_width == 1 && nnk::lanes_are_simd && G::size() == 1,
                  "one thread in a block");
    const auto a = group.template shared<float, 4, TagA>();
    const auto b = group.template shared<float, 4, TagB>();
    const auto dynamic = group.template dynamic_shared<float>(64, 4);
    const float half_of_one[4] = {0.5f, 0.0f, 0.0f, 0.0f};
    nnk::copy_async<4>(a, 0, half_of_one);
    nnk::copy_async_commit();
    nnk::copy_async_wait<0>();
    b.store(group.rank(), float(group.block()));
    group.barrier();
    dynamic.store(1, nnk::Warp<1>::shuffle_xor(a.load(0), 0) + b.load(0));
    dynamic.template store_vec<2>(2, dynamic.template load_vec<2>(0));
    nnk::atomic_add(args.total, dynamic.load(3));
    nnk::atomic_add(args.blocks_seen, 1);
    *args.last_block_count = group.blocks();
  }
};
NNK_ENTRY(block_kernel, 1, BlockKernel)
