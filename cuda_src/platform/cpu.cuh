// The platform names on CPUs, compiled by the system's C++ compiler into a shared library.
//
// A block is one thread, and the lanes of a Vec are SIMD lanes: barriers vanish, a warp is
// one lane. The host hands ranges of blocks to its worker threads (see NNK_ENTRY). Nothing
// is included from the standard library: every header costs compile time.
#pragma once

#define NNK_INLINE __attribute__((always_inline))  // of a lambda
#define NNK_FN inline NNK_INLINE
// A function with the registers to itself.
#define NNK_APART __attribute__((noinline))
#if defined(__clang__)
#define NNK_UNROLL _Pragma("clang loop unroll(full)")
#define NNK_NO_UNROLL _Pragma("clang loop unroll(disable) vectorize(disable)")
#else
#define NNK_UNROLL _Pragma("GCC unroll 128")
#define NNK_NO_UNROLL _Pragma("GCC unroll 1")
#endif
#define NNK_UNROLL_SOME
#define NNK_LIBM(name) nnk::libm::name

#include "nnk/types.cuh"

#include "platform/simd_convert.cuh"
#include "platform/math_simd.cuh"
#include "platform/simd_dot.cuh"
#include "platform/simd_gather.cuh"
#include "platform/tile_registers.cuh"
#include "platform/vec_simd_memory.cuh"

namespace nnk {

constexpr int warp_width = 1;
constexpr bool lanes_are_simd = true;
// For kernels of GPUs: see platform/cuda.cuh.
constexpr int terms_in_a_row = 1;
constexpr bool addresses_have_parts = false;
constexpr bool reads_unaligned = true;
// See platform/cuda.cuh.
template <class T> NNK_FN T opaque(T x) { return x; }

// ---- where a check failed: nothing is checked on this machine -----------------------
struct Site {};
#define NNK_HERE nnk::Site()
NNK_FN void check_access(int64, int64, int64, Site) {}

// ---- shared memory: plain memory of the one thread ------------------------------------
template <class T> struct Shared {
  T* data;
  NNK_FN T load(int i, Site = NNK_HERE) const { return data[i]; }
  NNK_FN void store(int i, T x, Site = NNK_HERE) const { data[i] = x; }
  template <int N> NNK_FN Vec<T, N> load_vec(int i, Site = NNK_HERE) const {
    return nnk::load<N>(data + i);
  }
  template <int N> NNK_FN void store_vec(int i, const Vec<T, N>& v, Site = NNK_HERE) const {
    nnk::store(data + i, v);
  }
};

// ---- the block ----------------------------------------------------------------------
template <int Threads> struct Group {
  static_assert(Threads == 1, "a block is one thread on a CPU");
  static constexpr int threads = Threads;
  int64 block_index, block_count;
  void* scratch;  // dynamic shared memory, 64-byte aligned

  static constexpr NNK_FN int rank() { return 0; }
  static constexpr NNK_FN int size() { return 1; }
  NNK_FN int64 block() const { return block_index; }
  NNK_FN int64 blocks() const { return block_count; }
  NNK_FN void barrier(Site = NNK_HERE) const {}

  // Static shared memory: one array for each Tag and worker thread.
  template <class T, int Count, class Tag> NNK_FN Shared<T> shared() const {
    alignas(64) static thread_local unsigned char bytes[Count * sizeof(T)];
    return {reinterpret_cast<T*>(bytes)};
  }
  // `count` elements of the dynamic shared memory of the launch, `offset` bytes into it.
  template <class T> NNK_FN Shared<T> dynamic_shared(int offset, int /*count*/) const {
    return {reinterpret_cast<T*>(static_cast<char*>(scratch) + offset)};
  }
  // A number, 0 at first, that stays with the dynamic shared memory from one block to the next of
  // this launch on this thread: which of several things is in there.
  NNK_FN int64& kept() const { return static_cast<int64*>(scratch)[-8]; }
};

// ---- the warp: one lane -----------------------------------------------------------------
template <int Width> struct Warp {
  static_assert(Width == 1, "a warp is one lane on a CPU");
  template <class T> static NNK_FN T shuffle_xor(T x, int /*mask*/, Site = NNK_HERE) { return x; }
  template <class T> static NNK_FN T shuffle(T x, int /*source*/, Site = NNK_HERE) { return x; }
};

// ---- asynchronous copy: done at once ------------------------------------------------------
template <int N, class T>
NNK_FN void copy_async(const Shared<T>& to, int i, const T* from, Site = NNK_HERE) {
  nnk::store(to.data + i, nnk::load<N>(from));
}
// The same, or zeros if the data is not `there`.
template <int N, class T>
NNK_FN void copy_async(const Shared<T>& to, int i, const T* from, bool there, Site = NNK_HERE) {
  nnk::store(to.data + i, there ? nnk::load<N>(from) : Vec<T, N>::splat(T{}));
}
template <int N, class T>
NNK_FN void copy_async_if(bool wanted, const Shared<T>& to, int i, const T* from, Site = NNK_HERE) {
  if (wanted) copy_async<N>(to, i, from);
}
NNK_FN void copy_async_commit(Site = NNK_HERE) {}
template <int Pending> NNK_FN void copy_async_wait(Site = NNK_HERE) {}

// ---- an address of which the compiler does not know where it comes from ---------------------
template <class T> NNK_FN T* opaque(T* p) {
  asm("" : "+r"(p));
  return p;
}

// ---- caches: brings the line of any address to level 1 or 2 --------------------------------
constexpr int cache_line = 64;
template <int Level = 2> NNK_FN void prefetch(const void* p) {
  __builtin_prefetch(p, 0, Level == 1 ? 3 : 2);
}

// ---- atomics: for opt-in paths only; the order of additions is not fixed -------------------
template <class T> NNK_FN T atomic_add(T* p, T x) {
  if constexpr (is_same<T, float> || is_same<T, double>) {
    using Bits = conditional<is_same<T, float>, uint32, uint64>;
    Bits* bits = reinterpret_cast<Bits*>(p);
    Bits expected = __atomic_load_n(bits, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(bits, &expected, bit_cast<Bits>(bit_cast<T>(expected) + x),
                                        true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return bit_cast<T>(expected);
  } else {
    return __atomic_fetch_add(p, x, __ATOMIC_RELAXED);
  }
}

}  // namespace nnk

// ---- the library ------------------------------------------------------------------------
#if defined(__linux__) && defined(__ELF__) && defined(__LP64__)
namespace nnk {

// ELF-64, "ELF Header" and "Program Header": what is read here.
struct ElfHeader {
  unsigned char ident[16];
  uint16 type, machine;
  uint32 version;
  uint64 entry, segments, sections;
  uint32 flags;
  uint16 size, segment_size, segment_count;
};
struct ElfSegment {
  uint32 type, flags;
  uint64 offset, address, physical, file_bytes;
};
// Linkers define it: the beginning of the library in memory.
extern "C" __attribute__((weak, visibility("hidden"))) const ElfHeader __ehdr_start;

// Reads a byte of each page when the library is loaded. A load whose mask leaves all of a page out
// that was never read, as one of constants may be, costs some 400 cycles every time: the processor
// begins a fault, which the mask then forbids, so that the page stays away.
__attribute__((constructor)) static void read_pages() {
  const char* const begin = reinterpret_cast<const char*>(&__ehdr_start);
  if (begin == nullptr) return;
  const ElfHeader& header = __ehdr_start;
  for (int i = 0; i < header.segment_count; ++i) {
    const auto& segment = *reinterpret_cast<const ElfSegment*>(begin + header.segments +
                                                               uint64(i) * header.segment_size);
    constexpr uint32 loaded = 1, readable = 4;
    if (segment.type != loaded || (segment.flags & readable) == 0) continue;
    for (uint64 at = 0; at < segment.file_bytes; at += 4096)
      (void)*static_cast<const volatile char*>(begin + segment.address + at);
  }
}

}  // namespace nnk
#endif

// The one line of a generated text: an entry for one template instance. It runs the blocks
// [begin, end) of `blocks`. The copy of the arguments tells the compiler that no store of
// the kernel changes them.
#define NNK_ENTRY(name, threads, ...)                                                      \
  extern "C" __attribute__((visibility("default"))) void name(                             \
      const void* args, long long begin, long long end, long long blocks, void* scratch) { \
    const __VA_ARGS__::Args copy = *static_cast<const __VA_ARGS__::Args*>(args);           \
    for (long long block = begin; block < end; ++block) {                                  \
      nnk::Group<threads> group{block, blocks, scratch};                                   \
      __VA_ARGS__::run(group, copy);                                                       \
    }                                                                                      \
    nnk::finish_streaming_stores();                                                        \
  }
