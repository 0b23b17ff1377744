// The thread pool of the `cpu` machine: runs the blocks of one launch on several threads.
//
// Its own, because two OpenMP runtimes in one process (PyTorch's and ours) spin against each
// other. Idle workers spin for a few microseconds and then sleep on a futex, so that they leave
// the processor to everybody else.
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

using Entry = void (*)(const void* args, long long begin, long long end, long long blocks,
                       void* scratch);

// The same layout as Launch in nnkernels/launch/cpu.py.
struct Launch {
  Entry entry;
  int64_t blocks;
  int64_t scratch_bytes;
  int64_t threads;
};

constexpr int max_threads = 255;
constexpr int64_t kept_bytes = 64;  // of a thread, before its scratch memory: see Group::kept
constexpr int spin_rounds = 2000;   // some 20 microseconds of pause instructions

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Waits until *word is no longer `seen`.
inline void wait_change(int32_t* word, int32_t seen) {
  for (int i = 0; i < spin_rounds; ++i) {
    if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != seen) return;
    pause_cpu();
  }
  while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == seen) {
#if defined(__linux__)
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
#else
    sched_yield();
#endif
  }
}
inline void wake_all(int32_t* word) {
#if defined(__linux__)
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, max_threads, nullptr, nullptr, 0);
#else
  (void)word;
#endif
}

// ---- scratch memory: one buffer a thread, kept and grown ------------------------------------

// With NNK_GUARD_SCRATCH, for tests: so many bytes after it, which no kernel may touch.
#ifdef NNK_GUARD_SCRATCH
constexpr int64_t guard_bytes = 4096;
#else
constexpr int64_t guard_bytes = 0;
#endif
constexpr unsigned char guard = 0xa5;

struct Scratch {
  void* data = nullptr;
  int64_t bytes = 0;
  ~Scratch() { free(data); }
  // For a launch: `launch_bytes`, after a line for what blocks keep for those that follow on the
  // same thread, which begins as zeros.
  void* get(int64_t launch_bytes) {
    if (launch_bytes == 0) return nullptr;
    const int64_t wanted = launch_bytes + kept_bytes;
    if (wanted + guard_bytes > bytes) {
      free(data);
      data = nullptr;
      bytes = 0;
      if (posix_memalign(&data, 64, size_t(wanted + guard_bytes)) != 0) return data = nullptr;
      bytes = wanted + guard_bytes;
    }
    memset(data, 0, size_t(kept_bytes));
    if (guard_bytes > 0) memset(static_cast<char*>(data) + wanted, guard, size_t(guard_bytes));
    return static_cast<char*>(data) + kept_bytes;
  }
  // Whether a launch kept to its bytes.
  bool is_whole(int64_t launch_bytes) const {
    if (launch_bytes == 0) return true;
    const auto* const end = static_cast<unsigned char*>(data) + launch_bytes + kept_bytes;
    for (int64_t i = 0; i < guard_bytes; ++i)
      if (end[i] != guard) return false;
    return true;
  }
};
thread_local Scratch scratch;

// ---- one launch at a time on the pool ----------------------------------------------------------

// The blocks of one thread: the same ones in every launch of a size, since what they read and write
// may still be in its cache. Threads that are done help the others.
struct alignas(64) Share {
  int64_t next;  // first block that nobody has taken
  int64_t end;
};

struct Pool {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;  // held during a parallel launch
  int workers = 0;
  // 256 * (number of the launch) + (workers that take part in it), in one word: a worker that
  // is late to look must not take the next launch's number of workers for this one's.
  int32_t generation = 0;
  int32_t running = 0;  // workers that have not finished it
  int32_t failed = 0;   // what a worker's part ended with, if not with 0
  const Launch* launch = nullptr;
  const void* args = nullptr;
  int64_t chunk = 1;
  int shares = 0;
  Share share[max_threads];
  pthread_t threads[max_threads];
  int placed = 0;        // workers that were told where they may run
  int avoided_cpu = -1;  // and that this is where they may not
};
Pool pool;

// What a launch ends with.
enum : int { done = 0, no_memory = 1, overrun = 2 };

// By the thread of a number: the one that launches is 0.
int work(int thread) {
  const Launch& launch = *pool.launch;
  void* memory = scratch.get(launch.scratch_bytes);
  if (memory == nullptr && launch.scratch_bytes > 0) return no_memory;
  for (int i = 0; i < pool.shares; ++i) {
    Share& share = pool.share[(thread + i) % pool.shares];
    while (__atomic_load_n(&share.next, __ATOMIC_RELAXED) < share.end) {
      const int64_t begin = __atomic_fetch_add(&share.next, pool.chunk, __ATOMIC_RELAXED);
      if (begin >= share.end) break;
      const int64_t end = begin + pool.chunk < share.end ? begin + pool.chunk : share.end;
      launch.entry(pool.args, begin, end, launch.blocks, memory);
    }
  }
  return scratch.is_whole(launch.scratch_bytes) ? done : overrun;
}

struct Start {
  int index;
  int32_t generation;
};

void* worker(void* argument) {
  const Start start = *static_cast<Start*>(argument);
  delete static_cast<Start*>(argument);
  int32_t seen = start.generation;
  while (true) {
    wait_change(&pool.generation, seen);
    seen = __atomic_load_n(&pool.generation, __ATOMIC_ACQUIRE);
    if (start.index < (seen & 255)) {
      const int failed = work(start.index + 1);
      if (failed != done) __atomic_store_n(&pool.failed, failed, __ATOMIC_RELAXED);
      if (__atomic_sub_fetch(&pool.running, 1, __ATOMIC_ACQ_REL) == 0) wake_all(&pool.running);
    }
  }
  return nullptr;
}

// After a fork the child has none of the workers, whatever the pool says, and the thread that
// held the mutex is not there to release it.
void forget_workers() { pool = Pool(); }

// When the library is loaded: before any launch of which a fork could catch the mutex held.
__attribute__((constructor)) void watch_forks() {
  pthread_atfork(nullptr, nullptr, forget_workers);
}

// A new thread has the signal mask of its creator. Signals for the process, such as an interrupt
// from the keyboard, are the business of the program's own threads; faults stay where they are.
void block_signals(sigset_t* before) {
  sigset_t all;
  sigfillset(&all);
  const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
  for (int fault : faults) sigdelset(&all, fault);
  pthread_sigmask(SIG_BLOCK, &all, before);
}

void grow(int wanted) {
  if (pool.workers >= wanted) return;
  sigset_t before;
  block_signals(&before);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  while (pool.workers < wanted) {
    pthread_t thread;
    Start* start = new Start{pool.workers, pool.generation};
    if (pthread_create(&thread, &attributes, worker, start) != 0) {
      delete start;  // a limit on threads: go on with those there are
      break;
    }
#if defined(__linux__)
    pthread_setname_np(thread, "nnkernels");  // for debuggers and top
#endif
    pool.threads[pool.workers++] = thread;
  }
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

// Keeps the workers off the processor on which the launching thread runs. A wake-up tends to put
// them there, behind it; on virtual machines, whose processors seem to share no cache, they then
// wait for milliseconds until the scheduler moves them, and two threads take as long as one.
void place_workers() {
#if defined(__linux__)
  const int cpu = sched_getcpu();
  if (cpu < 0 || (cpu == pool.avoided_cpu && pool.placed == pool.workers)) return;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  CPU_CLR(cpu, &allowed);
  if (CPU_COUNT(&allowed) == 0) return;
  for (int i = 0; i < pool.workers; ++i)
    pthread_setaffinity_np(pool.threads[i], sizeof(allowed), &allowed);
  pool.placed = pool.workers;
  pool.avoided_cpu = cpu;
#endif
}

int run_here(const Launch& launch, const void* args) {
  void* memory = scratch.get(launch.scratch_bytes);
  if (memory == nullptr && launch.scratch_bytes > 0) return no_memory;
  launch.entry(args, 0, launch.blocks, launch.blocks, memory);
  return scratch.is_whole(launch.scratch_bytes) ? done : overrun;
}

}  // namespace

// `done`; `no_memory` for the scratch buffers; `overrun`, where those are guarded.
extern "C" __attribute__((visibility("default"))) int nnk_run(const Launch* launch,
                                                              const void* args) {
  int64_t threads = launch->threads < launch->blocks ? launch->threads : launch->blocks;
  if (threads > max_threads) threads = max_threads;
  // While another thread's launch has the pool, this one does its work itself.
  if (threads <= 1 || pthread_mutex_trylock(&pool.mutex) != 0) return run_here(*launch, args);
  grow(int(threads) - 1);
  place_workers();
  const int helpers = int(threads) - 1 < pool.workers ? int(threads) - 1 : pool.workers;
  pool.launch = launch;
  pool.args = args;
  // Chunks small enough to even out a slow processor, large enough to keep neighbours together.
  pool.chunk = launch->blocks / (threads * 4) > 0 ? launch->blocks / (threads * 4) : 1;
  pool.failed = 0;
  pool.shares = int(threads);
  for (int i = 0; i < pool.shares; ++i)
    pool.share[i] = {launch->blocks * i / threads, launch->blocks * (i + 1) / threads};
  __atomic_store_n(&pool.running, helpers, __ATOMIC_RELAXED);
  const uint32_t number = (uint32_t(pool.generation) & ~255u) + 256u;
  __atomic_store_n(&pool.generation, int32_t(number | uint32_t(helpers)), __ATOMIC_RELEASE);
  wake_all(&pool.generation);
  int failed = work(0);
  for (int32_t left; (left = __atomic_load_n(&pool.running, __ATOMIC_ACQUIRE)) != 0;)
    wait_change(&pool.running, left);
  if (failed == done) failed = pool.failed;
  pthread_mutex_unlock(&pool.mutex);
  return failed;
}
