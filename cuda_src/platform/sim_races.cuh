// The race detector of the simulator, for shared memory.
//
// Shadow memory holds, for each granule of 1, 2 or 4 bytes (the smallest element type seen
// in the array), the latest accesses. Two accesses by different threads, at least one of
// them a write, are a race unless a barrier of the block lies between them or, for lanes of
// one warp, a warp operation. This does not depend on the order in which the fibers ran.
#pragma once
#include "platform/sim_state.cuh"

namespace nnk {
namespace sim {

#ifdef NNK_SIM_NO_RACES  // to see what poison and the order of fibers find on their own
constexpr bool detect_races = false;
#else
constexpr bool detect_races = true;
#endif

struct Access {
  unsigned long long moment : 38;  // 0: there was none
  unsigned long long thread : 10;
  unsigned long long site : 16;
};

struct Granule {
  Access write;  // the latest
  // As many reads as it takes to find one in conflict with any later write: the first at its
  // warp's latest moment, and one by another warp. (A second read by that warp at that moment
  // need not be kept: the first reader cannot write before its moment is over.)
  Access read, other_read;
  Access copy;  // the asynchronous copy under way to this place
};

struct Segment {
  Segment* next;
  const void* key;  // of a static array; null for the dynamic memory
  char* bytes;
  long long size;
  Granule* granules;
  int granule_bytes;
};

// ---- sites as small numbers ---------------------------------------------------------------

// The slot of a site in a hash table; more sites than slots share the first one.
inline unsigned site_number(Simulation& s, Site site) {
  const auto address = reinterpret_cast<unsigned long long>(site.file);
  unsigned slot = static_cast<unsigned>((address >> 4) + static_cast<unsigned>(site.line) * 31u);
  for (unsigned tries = 0; tries < most_sites; ++tries, ++slot) {
    Site& known = s.sites[slot % most_sites];
    if (known.file == nullptr) known = site;
    if (known.file == site.file && known.line == site.line) return slot % most_sites;
  }
  return 0;
}

// ---- races ------------------------------------------------------------------------------

inline bool in_conflict(const Simulation& s, Access earlier, Access now) {
  if (earlier.moment < s.block_moment || earlier.thread == now.thread) return false;
  return earlier.thread / warp_width != now.thread / warp_width || earlier.moment == now.moment;
}

inline const char* kind(const Segment& segment) {
  return segment.key == nullptr ? "dynamic" : "static";
}

[[noreturn]] inline void report_race(Simulation& s, const Segment& segment, long long byte,
                                     Access earlier, const char* did, Access now,
                                     const char* does) {
  const Site site = s.sites[now.site], other = s.sites[earlier.site];
  const bool one_warp = earlier.thread / warp_width == now.thread / warp_width;
  NNK_SIM_FAIL(s, site,
               "data race: thread %d %s byte %lld of the %s shared memory here, thread %d %s it at "
               "%s:%d with no %s between",
               int(now.thread), does, byte, kind(segment), int(earlier.thread), did, other.file,
               other.line, one_warp ? "barrier or warp operation" : "barrier");
}

inline void record_read(Simulation& s, const Segment& segment, Granule& g, Access now,
                        long long byte) {
  if (in_conflict(s, g.write, now)) report_race(s, segment, byte, g.write, "wrote", now, "reads");
  const bool same_warp = g.read.thread / warp_width == now.thread / warp_width;
  if (g.read.moment < s.block_moment || (same_warp && g.read.moment < now.moment)) g.read = now;
  else if (!same_warp) g.other_read = now;
}

inline void record_write(Simulation& s, const Segment& segment, Granule& g, Access now,
                         long long byte) {
  if (in_conflict(s, g.write, now)) report_race(s, segment, byte, g.write, "wrote", now, "writes");
  if (in_conflict(s, g.read, now)) report_race(s, segment, byte, g.read, "read", now, "writes");
  if (in_conflict(s, g.other_read, now))
    report_race(s, segment, byte, g.other_read, "read", now, "writes");
  g.write = now;
}

enum class Touch { read, write, issue_copy, land_copy };

inline void record(Simulation& s, Segment& segment, long long offset, int bytes, Touch touch,
                   Site site) {
  if (!detect_races) return;
  const int thread = s.running->rank;
  const Access now{s.lanes[thread / warp_width].moment & ((1ull << 38) - 1),
                   unsigned(thread) & 1023u, site_number(s, site) & 0xffffu};
  const long long step = segment.granule_bytes;
  for (long long byte = offset; byte < offset + bytes; byte += step) {
    Granule& g = segment.granules[byte / step];
    if (touch == Touch::land_copy) g.copy = Access{0, 0, 0};
    if (g.copy.moment != 0) {
      const Site other = s.sites[g.copy.site];
      NNK_SIM_FAIL(s, site,
                   "thread %d %s byte %lld of the %s shared memory, which an asynchronous copy by "
                   "thread %d at %s:%d may still be filling",
                   thread, touch == Touch::read ? "reads" : "writes", byte, kind(segment),
                   int(g.copy.thread), other.file, other.line);
    }
    if (touch == Touch::read) record_read(s, segment, g, now, byte);
    else record_write(s, segment, g, now, byte);
    if (touch == Touch::issue_copy) g.copy = now;
  }
}

// Divides the granules of a segment further for elements of `bytes` bytes.
inline void refine(Segment& segment, int bytes) {
  const int lowest_bit = bytes & -bytes;
  while (segment.granule_bytes > lowest_bit) {
    segment.granule_bytes /= 2;
    if (segment.granules != nullptr)
      for (long long i = segment.size / segment.granule_bytes - 1; i > 0; --i)
        segment.granules[i] = segment.granules[i / 2];
  }
}

}  // namespace sim
}  // namespace nnk
