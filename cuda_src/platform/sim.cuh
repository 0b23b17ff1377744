// The platform names on the simulator: the GPU configuration of a kernel on the CPU, each
// GPU thread a fiber, to find what a block of one thread hides.
//
// For tests only. Compiled with -DNNK_SIM_WARP=32 or 64; an error ends the launch with a
// message "file:line: text". -DNNK_SIM_NO_RACES leaves the race detector out,
// -DNNK_SIM_STACK=bytes sets the stack of a fiber. No header of the system is included:
// every one costs compile time, and the suite compiles some hundred kernels.
#pragma once

#define NNK_FN inline
#define NNK_UNROLL
#define NNK_NO_UNROLL
#define NNK_UNROLL_SOME
#define NNK_LIBM(name) __builtin_##name
#define NNK_OPAQUE(x) asm("" : "+r"(x))  // the way of CUDA

#ifndef NNK_SIM_WARP
#define NNK_SIM_WARP 32
#endif

#include "nnk/types.cuh"
#include "platform/sim_memory.cuh"
#include "platform/sim_scheduler.cuh"

namespace nnk {

// ---- float16 and bfloat16, rounding to nearest, ties to even --------------------------------

NNK_FN float half_to_float(half x) {
  const uint32 sign = uint32(x.bits & 0x8000u) << 16, magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) {  // infinity and NaN; a NaN becomes quiet
    const uint32 quiet = magnitude > 0x7c00u ? 0x00400000u : 0u;
    return bit_cast<float>(sign | 0x7f800000u | quiet | (magnitude & 0x3ffu) << 13);
  }
  if (magnitude < 0x0400u) {  // zero and subnormal: a multiple of 2^-24
    const float value = float(magnitude) * 5.9604644775390625e-08f;
    return bit_cast<float>(sign | bit_cast<uint32>(value));
  }
  return bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));
}

NNK_FN half float_to_half(float x) {
  const uint32 bits = bit_cast<uint32>(x), magnitude = bits & 0x7fffffffu;
  const uint32 sign = (bits >> 16) & 0x8000u;
  uint32 result;
  if (magnitude > 0x7f800000u) {
    result = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {  // 65520 and above round to infinity
    result = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // 2^-14 and above: normal
    const uint32 even = (magnitude >> 13) & 1u;
    result = (magnitude - (112u << 23) + 0xfffu + even) >> 13;
  } else if (magnitude > 0x33000000u) {  // above 2^-25: a multiple of 2^-24
    const uint32 shift = 126u - (magnitude >> 23), mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    const uint32 even = (mantissa >> shift) & 1u;
    result = (mantissa + ((1u << (shift - 1)) - 1u) + even) >> shift;
  } else {
    result = 0;
  }
  return half{uint16(sign | result)};
}

NNK_FN bfloat16 float_to_bfloat16(float x) {
  const uint32 bits = bit_cast<uint32>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return bfloat16{uint16((bits >> 16) | 0x40u)};
  return bfloat16{uint16((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

// ---- see platform/math_brief.cuh: 22 bits, and no subnormal numbers -----------------------------

NNK_FN float brief_result(float x) {
  const uint32 bits = bit_cast<uint32>(x), magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x7f800000u) return x;
  return bit_cast<float>(magnitude < 0x00800000u ? bits & 0x80000000u : bits & ~3u);
}
NNK_FN float brief_exp2(float x) { return brief_result(__builtin_exp2f(x)); }
NNK_FN float brief_reciprocal(float x) { return brief_result(1.0f / x); }
NNK_FN float brief_quotient(float a, float b) { return brief_result(a / b); }

// ---- checks of global memory ------------------------------------------------------------------

NNK_FN void check_access(int64 first, int64 count, int64 extent, Site site) {
  sim::Simulation& s = *sim::current;
  s.running->seen = site;
  if (first < 0 || count < 0 || first > extent - count)
    NNK_SIM_FAIL(s, site, "access out of bounds: index %lld, count %lld, extent %lld, by thread %d",
                 first, count, extent, s.running->rank);
}

namespace sim {

inline void check_alignment(const void* address, int bytes) {
  if (reinterpret_cast<unsigned long long>(address) % unsigned(bytes) == 0) return;
  Simulation& s = *current;
  NNK_SIM_FAIL(s, s.running->seen,
               "misaligned access to global memory: %d bytes at address %p, by thread %d", bytes,
               address, s.running->rank);
}

// Stands for a vector register of a GPU: reading it from memory or writing it there needs an
// address that is a multiple of its size.
template <int Bytes> struct Register {
  unsigned char byte[Bytes];
  Register() = default;
  Register(const Register& from) {
    check_alignment(&from, Bytes);
    __builtin_memcpy(byte, from.byte, Bytes);
  }
  Register& operator=(const Register& from) {
    check_alignment(this, Bytes);
    __builtin_memcpy(byte, from.byte, Bytes);
    return *this;
  }
};

}  // namespace sim

template <int Bytes> struct RawVector { using type = sim::Register<Bytes>; };

}  // namespace nnk

#include "platform/math_scalar.cuh"
#include "platform/math_brief.cuh"

#pragma GCC diagnostic push
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wclass-memaccess"  // store() fills a Register with memcpy
#endif
#include "platform/vec_array.cuh"
#pragma GCC diagnostic pop

namespace nnk {

constexpr bool lanes_are_simd = false;  // a Vec is several elements of one thread
// Terms of a product in shared memory for which code is laid out in a row: nothing is unrolled.
constexpr int terms_in_a_row = 1;
// Whether an address is made of a part that all threads share and a short one: as on the GPUs of
// that width.
constexpr bool addresses_have_parts = warp_width == 64;
// Whether an access may lie at an address that is no multiple of its size: likewise.
constexpr bool reads_unaligned = warp_width == 64;
// See platform/cuda.cuh.
template <class T> NNK_FN T opaque(T x) { return x; }
NNK_FN void fetch_ahead(const void*) {}

// ---- shared memory ------------------------------------------------------------------------
// `T` may be any trivial type. There is no pointer to the data: every access is checked.
template <class T> struct Shared {
  sim::Array array;
  NNK_FN T load(int i, Site site = NNK_HERE) const {
    T x;
    __builtin_memcpy(&x, sim::touch_array(array, i, 1, alignof(T), sim::Touch::read, site),
                     sizeof(T));
    return x;
  }
  NNK_FN void store(int i, T x, Site site = NNK_HERE) const {
    __builtin_memcpy(sim::touch_array(array, i, 1, alignof(T), sim::Touch::write, site), &x,
                     sizeof(T));
  }
  template <int N> NNK_FN Vec<T, N> load_vec(int i, Site site = NNK_HERE) const {
    Vec<T, N> v;
    __builtin_memcpy(v.lane, sim::touch_array(array, i, N, alignment<N>, sim::Touch::read, site),
                     N * sizeof(T));
    return v;
  }
  template <int N> NNK_FN void store_vec(int i, const Vec<T, N>& v, Site site = NNK_HERE) const {
    __builtin_memcpy(sim::touch_array(array, i, N, alignment<N>, sim::Touch::write, site), v.lane,
                     N * sizeof(T));
  }

 private:
  template <int N>
  static constexpr int alignment = sim::vector_alignment(N * int(sizeof(T)), int(alignof(T)));
};

namespace {
template <class T, int Count, class Tag> const char shared_key = 0;  // its address names the array
}

// ---- the block ------------------------------------------------------------------------------
template <int Threads> struct Group {
  static_assert(Threads >= 1 && Threads <= sim::most_threads, "a block has 1 to 1024 threads");
  static constexpr int threads = Threads;
  sim::Simulation* simulation = sim::current;

  explicit Group(Site site = NNK_HERE) {
    if (simulation->threads != Threads)
      NNK_SIM_FAIL(*simulation, site, "a Group of %d threads in a block of %d", Threads,
                   simulation->threads);
  }
  NNK_FN int rank() const { return simulation->running->rank; }
  static constexpr NNK_FN int size() { return Threads; }
  NNK_FN int64 block() const { return simulation->block; }
  NNK_FN int64 blocks() const { return simulation->launch->blocks; }
  NNK_FN void barrier(Site site = NNK_HERE) const { sim::wait_at_barrier(*simulation, site); }

  template <class T, int Count, class Tag> NNK_FN Shared<T> shared(Site site = NNK_HERE) const {
    return {
        sim::static_array(*simulation, &shared_key<T, Count, Tag>, int(sizeof(T)), Count, site)};
  }
  template <class T>
  NNK_FN Shared<T> dynamic_shared(int offset, int count, Site site = NNK_HERE) const {
    return {sim::dynamic_array(*simulation, offset, int(sizeof(T)), count, int(alignof(T)), site)};
  }
};

// ---- the warp -------------------------------------------------------------------------------
template <int Width> struct Warp {
  static_assert(is_power_of_two(Width) && Width <= warp_width,
                "a segment is a power of two and no wider than a warp");

  // As __shfl_xor_sync: a lane of a later segment cannot be read, an earlier one can.
  template <class T> static NNK_FN T shuffle_xor(T x, int mask, Site site = NNK_HERE) {
    const int lane = sim::current->running->rank % warp_width, last = lane | (Width - 1);
    const int source = lane ^ (mask & (warp_width - 1));
    return exchange("shuffle_xor", x, source <= last ? source : lane, site);
  }
  // As __shfl_sync: `source` counts within the segment, modulo its width.
  template <class T> static NNK_FN T shuffle(T x, int source, Site site = NNK_HERE) {
    const int lane = sim::current->running->rank % warp_width;
    return exchange("shuffle", x, (lane & ~(Width - 1)) | (source & (Width - 1)), site);
  }

 private:
  template <class T> static NNK_FN T exchange(const char* name, T x, int source, Site site) {
    T result;
    sim::exchange_lanes({name, &x, &result, source, int(sizeof(T)), Width, nullptr}, site);
    return result;
  }
};

// ---- asynchronous copy: global to shared memory ------------------------------------------------
// Lands at the wait that covers it and not before: the latest moment a GPU may choose.
// The second form brings zeros if the data is not `there`.
template <int N, class T>
NNK_FN void copy_async(const Shared<T>& to, int i, const T* from, bool there,
                       Site site = NNK_HERE) {
  constexpr int bytes = N * int(sizeof(T));
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async moves 4, 8 or 16 bytes");
  sim::issue_copy(to.array, i, N, from, there, site);
}
template <int N, class T>
NNK_FN void copy_async(const Shared<T>& to, int i, const T* from, Site site = NNK_HERE) {
  copy_async<N>(to, i, from, true, site);
}
// The same, or nothing if it is not `wanted`.
template <int N, class T>
NNK_FN void copy_async_if(bool wanted, const Shared<T>& to, int i, const T* from,
                          Site site = NNK_HERE) {
  if (wanted) copy_async<N>(to, i, from, site);
}
// Zeros if the data is not `there`, and nothing if it is not `wanted`.
template <int N, class T>
NNK_FN void copy_async_if(bool wanted, const Shared<T>& to, int i, const T* from, bool there,
                          Site site = NNK_HERE) {
  if (wanted) copy_async<N>(to, i, from, there, site);
}
NNK_FN void copy_async_commit(Site site = NNK_HERE) { sim::commit_copies(site); }
template <int Pending> NNK_FN void copy_async_wait(Site site = NNK_HERE) {
  sim::wait_for_copies(Pending, site);
}

// ---- atomics: one fiber runs at a time, so a plain addition is atomic -----------------------
template <class T> NNK_FN T atomic_add(T* p, T x) {
  const T old = *p;
  if constexpr (is_floating<T>) *p = old + x;
  else (void)__builtin_add_overflow(old, x, p);  // wraps, as on a GPU
  return old;
}

}  // namespace nnk

#include "platform/sim_mma.cuh"
#include "platform/sim_warpgroup.cuh"

#define NNK_ENTRY(name, threads, ...)                                                        \
  extern "C" __attribute__((visibility("default"))) int name(const void* args,               \
                                                             const nnk::SimLaunch* launch) { \
    using Kernel = __VA_ARGS__;                                                              \
    Kernel::Args copy;                                                                       \
    __builtin_memcpy(&copy, args, sizeof(copy));                                             \
    return nnk::sim::run(                                                                    \
        *launch, threads, nnk::Site{__FILE__, __LINE__},                                     \
        [](const void* kernel_args) {                                                        \
          nnk::Group<threads> group;                                                         \
          Kernel::run(group, *static_cast<const Kernel::Args*>(kernel_args));                \
        },                                                                                   \
        &copy);                                                                              \
  }
