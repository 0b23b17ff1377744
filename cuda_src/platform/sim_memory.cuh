// Shared memory of the simulator: poisoned arrays, checks of bounds, alignment and size, and
// asynchronous copies that land as late as they may.
#pragma once
#include "platform/sim_races.cuh"
#include "platform/sim_scheduler.cuh"

namespace nnk {
namespace sim {

// ---- arrays -----------------------------------------------------------------------------

inline bool too_much_shared(Simulation& s, Site site) {
  const long long needed = s.launch->shared_bytes + s.static_bytes;
  if (needed <= s.launch->shared_limit) return false;
  write_message(
      s, site,
      "a block needs %lld bytes of shared memory (%lld dynamic, %lld static), the limit is %lld",
      needed, s.launch->shared_bytes, s.static_bytes, s.launch->shared_limit);
  return true;
}

// The segment of a static array (by key) or of the dynamic memory (key null), made at its
// first use.
inline Segment& find_segment(Simulation& s, const void* key, long long size, Site site) {
  for (Segment* segment = s.segments; segment != nullptr; segment = segment->next)
    if (segment->key == key) return *segment;
  size = (size + 15) / 16 * 16;
  if (key != nullptr) {
    s.static_bytes += size;
    if (too_much_shared(s, site)) stop(s);
  }
  Segment* segment = static_cast<Segment*>(__builtin_calloc(1, sizeof(Segment)));
  if (segment != nullptr) {
    segment->next = s.segments;
    segment->key = key;
    segment->size = size;
    segment->granule_bytes = 4;
    // Zero bytes of memory would be a null pointer on some systems.
    segment->bytes = key == nullptr && s.named != nullptr
                         ? s.named->dynamic
                         : static_cast<char*>(__builtin_malloc(size_t(size + 16)));
    // For the finest granules at once; pages that stay unused cost nothing.
    if (detect_races)
      segment->granules =
          static_cast<Granule*>(__builtin_calloc(size_t(size + 1), sizeof(Granule)));
    s.segments = segment;
  }
  if (segment == nullptr || segment->bytes == nullptr ||
      (detect_races && segment->granules == nullptr))
    NNK_SIM_FAIL(s, site, "no memory for %lld bytes of shared memory", size);
  __builtin_memset(segment->bytes, 0xff, size_t(size));
  return *segment;
}

inline void poison_named(Simulation& s) {
  Simulation* const kept = current;  // lies there too
  __builtin_memset(s.named->all, 0xff, size_t(s.named->bytes));
  current = kept;
}
// Where accesses are not watched: behind the dynamic memory of a launch there is poison still.
inline void end_block_memory(Simulation& s) {
  if (s.named == nullptr || s.failed) return;
  for (long long i = s.launch->shared_bytes; i < s.named->dynamic_bytes; ++i)
    if (s.named->dynamic[i] != char(0xff)) {
      write_message(s, s.entry, "byte %lld of %lld bytes of dynamic shared memory was written", i,
                    s.launch->shared_bytes);
      return;
    }
}

inline void begin_block_memory(Simulation& s) {
  if (s.named != nullptr) poison_named(s);
  // NaN for every floating type, and a large unsigned or negative index.
  for (Segment* segment = s.segments; segment != nullptr; segment = segment->next)
    __builtin_memset(segment->bytes, 0xff, size_t(segment->size));
}

inline void release_memory(Simulation& s) {
  while (s.segments != nullptr) {
    Segment* segment = s.segments;
    s.segments = segment->next;
    __builtin_free(segment->granules);
    if (s.named == nullptr || segment->bytes != s.named->dynamic) __builtin_free(segment->bytes);
    __builtin_free(segment);
  }
  for (int i = 0; i < s.threads; ++i) {
    __builtin_free(s.fibers[i].queue.copies);
    __builtin_free(s.fibers[i].products.products);
  }
}

// A part of a segment, seen as `count` elements of `element` bytes.
struct Array {
  Segment* segment;
  long long offset;
  int element, count;
};

inline Array static_array(Simulation& s, const void* key, int element, int count, Site site) {
  Segment& segment = find_segment(s, key, static_cast<long long>(element) * count, site);
  refine(segment, element);
  return {&segment, 0, element, count};
}

inline Array dynamic_array(Simulation& s, long long offset, int element, int count, int alignment,
                           Site site) {
  const long long size = s.launch->shared_bytes;
  if (offset < 0 || count < 0 || offset + static_cast<long long>(element) * count > size)
    NNK_SIM_FAIL(
        s, site,
        "dynamic shared memory out of bounds: %d elements of %d bytes at byte %lld of %lld", count,
        element, offset, size);
  if (offset % alignment != 0)
    NNK_SIM_FAIL(s, site,
                 "misaligned dynamic shared memory: byte %lld for elements aligned to %d bytes",
                 offset, alignment);
  Segment& segment = find_segment(s, nullptr, size, site);
  refine(segment, element);
  return {&segment, offset, element, count};
}

// The address of elements [i, i + n), checked and recorded.
inline char* touch_array(const Array& array, int i, int n, int alignment, Touch touch, Site site) {
  Simulation& s = *current;
  s.running->seen = site;
  if (i < 0 || n > array.count || i > array.count - n)
    NNK_SIM_FAIL(s, site,
                 "shared memory access out of bounds: index %d, count %d, extent %d, by thread %d",
                 i, n, array.count, s.running->rank);
  const long long offset = array.offset + static_cast<long long>(i) * array.element;
  if (offset % alignment != 0)
    NNK_SIM_FAIL(
        s, site,
        "misaligned shared memory access: %d bytes at byte %lld, no multiple of %d, by thread %d",
        n * array.element, offset, alignment, s.running->rank);
  record(s, *array.segment, offset, n * array.element, touch, site);
  return array.segment->bytes + offset;
}

// The alignment a vector access of that many bytes needs (load() and store() of vec_array.cuh).
constexpr int vector_alignment(int bytes, int element_alignment) {
  if (bytes <= 16 && (bytes & (bytes - 1)) == 0) return bytes;
  return bytes % 16 == 0 ? 16 : element_alignment;
}

// ---- asynchronous copies --------------------------------------------------------------------

struct Copy {
  Segment* segment;
  long long offset;
  const void* from;  // null: zeros
  Site site;
  int bytes, group;
};

inline void issue_copy(const Array& to, int i, int n, const void* from, bool there, Site site) {
  Simulation& s = *current;
  const int bytes = n * to.element;
  char* target = touch_array(to, i, n, bytes, Touch::issue_copy, site);
  if (reinterpret_cast<unsigned long long>(from) % unsigned(bytes) != 0)
    NNK_SIM_FAIL(s, site,
                 "misaligned asynchronous copy: %d bytes from global address %p, by thread %d",
                 bytes, from, s.running->rank);
  // From now to the wait the memory holds nothing that may be relied on.
  __builtin_memset(target, 0xff, size_t(bytes));
  CopyQueue& queue = s.running->queue;
  if (queue.end == queue.capacity) {
    const int capacity = queue.capacity == 0 ? 16 : 2 * queue.capacity;
    void* copies = __builtin_realloc(queue.copies, size_t(capacity) * sizeof(Copy));
    if (copies == nullptr) NNK_SIM_FAIL(s, site, "no memory for %d asynchronous copies", capacity);
    queue.copies = static_cast<Copy*>(copies);
    queue.capacity = capacity;
  }
  queue.copies[queue.end++] = Copy{
      to.segment, target - to.segment->bytes, there ? from : nullptr, site, bytes, queue.group};
}

inline void commit_copies(Site site) {
  current->running->seen = site;
  ++current->running->queue.group;
}

// Lands the copies of all committed groups but the `pending` newest.
inline void wait_for_copies(int pending, Site site) {
  Simulation& s = *current;
  s.running->seen = site;
  CopyQueue& queue = s.running->queue;
  while (queue.first < queue.end && queue.copies[queue.first].group < queue.group - pending) {
    const Copy& copy = queue.copies[queue.first++];
    record(s, *copy.segment, copy.offset, copy.bytes, Touch::land_copy, copy.site);
    char* target = copy.segment->bytes + copy.offset;
    if (copy.from != nullptr) __builtin_memcpy(target, copy.from, size_t(copy.bytes));
    else __builtin_memset(target, 0, size_t(copy.bytes));
  }
  if (queue.first == queue.end) queue.first = queue.end = 0;
}

inline void check_copies_at_return(Simulation& s, Fiber& fiber) {
  const CopyQueue& queue = fiber.queue;
  if (queue.first == queue.end) return;
  const Copy& copy = queue.copies[queue.first];
  NNK_SIM_FAIL(s, copy.site, "asynchronous copy never %s by thread %d",
               copy.group < queue.group ? "waited for" : "committed", fiber.rank);
}

}  // namespace sim
}  // namespace nnk
