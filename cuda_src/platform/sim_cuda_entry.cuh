// How the host starts a user's kernel in the simulator, and what it learns of its parameters.
#pragma once
#include <link.h>

#include "platform/sim_cuda_watch.cuh"

namespace nnk {
namespace sim {

// What the host checks arguments by. Letters: f floating, h half, b bfloat16, i and u integers,
// ? bool, * any element, s a struct.
struct CudaParameter {
  char kind;    // of a value, or p for a pointer
  char target;  // what a pointer points to
  char constant;
  int bytes, target_bytes;
};

template <class T>
constexpr bool is_integer =
    is_same<T, bool> || is_same<T, char> || is_same<T, int8> || is_same<T, uint8> ||
    is_same<T, int16> || is_same<T, uint16> || is_same<T, int32> || is_same<T, uint32> ||
    is_same<T, long> || is_same<T, unsigned long> || is_same<T, int64> || is_same<T, uint64>;
template <class T> constexpr char kind_of() {
  if constexpr (is_same<T, float> || is_same<T, double>) return 'f';
  else if constexpr (is_same<T, half>) return 'h';
  else if constexpr (is_same<T, bfloat16>) return 'b';
  else if constexpr (is_same<T, bool>) return '?';
  else if constexpr (is_integer<T>) return T(-1) < T(0) ? 'i' : 'u';
  else return 's';
}
template <class T> struct Bare { using type = T; };
template <class T> struct Bare<const T> { using type = T; };
template <class T> struct DescribeParameter {
  static constexpr CudaParameter value{kind_of<T>(), 0, 0, int(sizeof(T)), 0};
};
template <class T> struct DescribeParameter<T*> {
  using Target = typename Bare<T>::type;
  static constexpr char target() {
    // Pointers to bytes, void and structs are to memory of any kind.
    if constexpr (is_same<Target, void> || is_same<Target, char> || is_same<Target, uint8>)
      return '*';
    else return kind_of<Target>() == 's' ? '*' : kind_of<Target>();
  }
  static constexpr int target_bytes() {
    if constexpr (is_same<Target, void>) return 1;
    else return int(sizeof(Target));
  }
  static constexpr CudaParameter value{'p', target(), !is_same<T, Target>, int(sizeof(T*)),
                                       target_bytes()};
};

// Shared memory that the text declares lies in the thread-local memory of its library.
NNK_SIM_UNWATCHED inline int find_library(dl_phdr_info* info, size_t, void* found) {
  NamedMemory& memory = *static_cast<NamedMemory*>(found);
  const char* const own = reinterpret_cast<const char*>(&current);
  char* const begin = static_cast<char*>(info->dlpi_tls_data);
  long long bytes = 0;
  const char* image_end = nullptr;
  const char* const image = reinterpret_cast<const char*>(info->dlpi_addr);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& header = info->dlpi_phdr[i];
    if (header.p_type == PT_TLS) bytes = static_cast<long long>(header.p_memsz);
    const char* const end = image + header.p_vaddr + header.p_memsz;
    if (header.p_type == PT_LOAD && end > image_end) image_end = end;
  }
  if (begin == nullptr || own < begin || own >= begin + bytes) return 0;
  memory.all = begin, memory.bytes = bytes, memory.image = image, memory.image_end = image_end;
  return 1;
}

template <auto Function> struct CudaEntry;
template <class... P, void (*Function)(P...)> struct CudaEntry<Function> {
  static constexpr int count = sizeof...(P);
  static constexpr CudaParameter parameters[count + 1] = {
      DescribeParameter<typename Bare<P>::type>::value..., CudaParameter{0, 0, 0, 0, 0}};

  template <int... I> NNK_SIM_UNWATCHED static void call(const void* const* args, Ints<I...>) {
    (void)args;
    Function(*static_cast<const typename Bare<P>::type*>(args[I])...);
  }
  NNK_SIM_UNWATCHED static void body(const void* launch) {
    call(static_cast<const CudaLaunch*>(launch)->args, range<count>());
  }
  NNK_SIM_UNWATCHED static int run(const CudaLaunch& launch, Site site, char* dynamic,
                                   long long dynamic_bytes) {
    NamedMemory memory{};
    memory.all = memory.dynamic = dynamic;
    memory.bytes = memory.dynamic_bytes = dynamic_bytes;
    current = nullptr;  // makes the memory of this thread, if it is the first time
    dl_iterate_phdr(find_library, &memory);
    Segment all{}, of_launch{};
    if (watches && begin_watching(all, memory.all, memory.bytes) &&
        begin_watching(of_launch, dynamic, dynamic_bytes)) {
      all.key = &all;  // static
      memory.watched = &all, memory.watched_dynamic = &of_launch;
    }
    const int threads = int(launch.block[0] * launch.block[1] * launch.block[2]);
    const int failed = nnk::sim::run(launch.launch, threads, site, body, &launch, &memory);
    __builtin_free(all.granules);
    __builtin_free(of_launch.granules);
    return failed;
  }

 private:
  NNK_SIM_UNWATCHED static bool begin_watching(Segment& segment, char* bytes, long long size) {
    segment.bytes = bytes, segment.size = size, segment.granule_bytes = 4;
    // For the finest granules at once; pages that stay unused cost nothing.
    segment.granules = static_cast<Granule*>(__builtin_calloc(size_t(size + 1), sizeof(Granule)));
    return segment.granules != nullptr;
  }
};

}  // namespace sim
}  // namespace nnk

// What the host writes behind the text: entry `name` for a kernel, with dynamic shared memory of so
// many bytes at `dynamic`.
#define NNK_SIM_CUDA_ENTRY(name, dynamic, bytes, ...)                                         \
  extern "C" __attribute__((visibility("default"))) const nnk::sim::CudaParameter*            \
  name##_parameters() {                                                                       \
    return nnk::sim::CudaEntry<&__VA_ARGS__>::parameters;                                     \
  }                                                                                           \
  extern "C" __attribute__((visibility("default"))) int name(const nnk::sim::CudaLaunch& l) { \
    return nnk::sim::CudaEntry<&__VA_ARGS__>::run(l, NNK_SIM_SITE, dynamic, bytes);           \
  }
