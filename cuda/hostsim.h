// The device language on the CPU, for tests: kernel sources compiled as C++ run under run(), a
// block's threads as fibers or as threads, barriers as barriers, blocks one after the other (those
// of a cluster together), shared memory filled with 0xff, which is NaN, before and after every
// block. What it cannot show: how warps diverge, how fast anything is, and the order in which a
// GPU's stores become visible beyond the barriers. Never part of a GPU build.
//
// Environment:
//   DLCORE_HOSTSIM_THREADS=1       threads of the operating system, so that ThreadSanitizer sees
//                                  what no barrier orders; a build for a sanitizer always takes
//                                  them
//   DLCORE_HOSTSIM_ORDER=reverse   fibers and blocks run from the last to the first: results whose
//                                  bits change depend on an order that nothing guarantees
//   DLCORE_HOSTSIM_WITHOUT=a.cu:7  the barrier of that line does nothing; a test of the tests

#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(4) uchar4 {
  unsigned char x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace dlcore::hostsim {

[[noreturn]] inline void fail(const char* sentence) {
  std::fprintf(stderr, "hostsim: %s\n", sentence);
  std::abort();
}

constexpr int kWarp = 32;
constexpr std::size_t kStaticShared = std::size_t{48} << 10;

/// What a barrier counts. Fibers look at `generation`; threads also sleep on `changed`.
struct Barrier {
  int expected = 0, arrived = 0, exited = 0;
  std::uint64_t generation = 0;
  std::mutex mutex;
  std::condition_variable changed;
};

/// What a lane hands to the others of its warp.
struct Slot {
  alignas(16) unsigned char bytes[64];
};

struct Warp {
  Barrier barrier;
  Slot slot[kWarp];
};

struct Cluster;

/// A running block.
struct Block {
  dim3 grid, size;
  int threads = 0;
  bool independent = false;
  std::unique_ptr<float4[]> dynamic_shared, static_shared;
  std::size_t dynamic_bytes = 0;
  Barrier barrier;
  std::vector<std::unique_ptr<Warp>> warps;
  Cluster* cluster = nullptr;
  int rank = 0;  ///< in it
  std::atomic<int> running = 0;

  void begin() {
    std::memset(dynamic_shared.get(), 0xff, dynamic_bytes);
    std::memset(static_shared.get(), 0xff, kStaticShared);
    barrier.expected = running = threads;
    barrier.arrived = barrier.exited = 0;
    for (auto& w : warps) w->barrier.arrived = w->barrier.exited = 0;
  }
  /// Of one thread. Shared memory of a block that has ended is gone for its cluster too.
  void end() {
    if (--running == 0) std::memset(dynamic_shared.get(), 0xff, dynamic_bytes);
  }
};

/// Blocks that run at the same time: one, unless the launch says otherwise.
struct Cluster {
  std::vector<std::unique_ptr<Block>> blocks;
  Barrier barrier;
};

/// One thread of a running block. Static shared arrays get their places in the order in which a
/// thread first meets them, which is the same for all threads; so no lock is needed here, and no
/// lock hides a race from ThreadSanitizer.
struct Thread {
  uint3 index{}, block_index{};
  int linear = 0;
  Block* block = nullptr;
  struct Static {
    const void* tag;
    std::size_t offset;
  };
  std::vector<Static> statics;
  std::size_t static_bytes = 0;
};

inline thread_local Thread* current = nullptr;

/// Fibers: a stack each, switched by hand, all on the calling thread.
class Fibers {
 public:
  static constexpr std::size_t kStack = std::size_t{128} << 10;

  /// Runs body once for every thread until all have ended.
  void run(std::vector<Thread>& threads, bool reverse, const std::function<void()>& body) {
    threads_ = &threads;
    body_ = &body;
    const std::size_t n = threads.size();
    if (fibers_.size() < n) fibers_.resize(n);
    for (std::size_t i = 0; i < n; ++i) {
      Fiber& f = fibers_[i];
      if (f.stack == nullptr) f.stack = std::make_unique<unsigned char[]>(kStack);
      f.waits_for = nullptr;
      f.done = false;
      prepare(f);
    }
    live_ = n;
    reverse_ = reverse;
    Fibers* const outer = active;
    Thread* const outer_thread = current;
    active = this;
    running_ = reverse ? n - 1 : 0;
    current = &threads[running_];
    switch_to(main_, fibers_[running_].context);
    current = outer_thread;
    active = outer;
  }

  void wait(Barrier& barrier) {
    if (++barrier.arrived == barrier.expected) {
      barrier.arrived = 0;
      ++barrier.generation;
      return;
    }
    Fiber& f = fibers_[running_];
    f.waits_for = &barrier;
    f.generation = barrier.generation;
    next(f.context);
    fibers_[running_].waits_for = nullptr;
  }

  static inline thread_local Fibers* active = nullptr;

 private:
#if defined(__x86_64__)
  using Context = void*;  ///< the stack pointer; everything else lies on the stack

  __attribute__((naked, noinline)) static void switch_stacks([[maybe_unused]] void** from,
                                                             [[maybe_unused]] void* to) {
    asm volatile(
        "pushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
        "movq %rsp, (%rdi)\n\tmovq %rsi, %rsp\n\t"
        "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\tret");
  }
  static void switch_to(Context& from, Context& to) { switch_stacks(&from, to); }
#else
  using Context = ucontext_t;
  static void switch_to(Context& from, Context& to) { swapcontext(&from, &to); }
#endif

  struct Fiber {
    Context context{};
    std::unique_ptr<unsigned char[]> stack;
    Barrier* waits_for = nullptr;
    std::uint64_t generation = 0;
    bool done = false;
  };

  static void prepare(Fiber& f) {
#if defined(__x86_64__)
    const auto end = reinterpret_cast<std::uintptr_t>(f.stack.get() + kStack) & ~std::uintptr_t{15};
    // Six registers, then the address that `ret` takes: the stack then is as after a call.
    auto* top = reinterpret_cast<void**>(end) - 8;
    std::fill_n(top, 8, nullptr);
    top[6] = reinterpret_cast<void*>(&entry);
    f.context = top;
#else
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.get();
    f.context.uc_stack.ss_size = kStack;
    f.context.uc_link = nullptr;
    makecontext(&f.context, &entry, 0);
#endif
  }

  static void entry() {
    Fibers& self = *active;
    (*self.body_)();
    Fiber& f = self.fibers_[self.running_];
    f.done = true;
    if (--self.live_ == 0) {
      switch_to(f.context, self.main_);
    } else {
      self.next(f.context);
    }
    fail("a fiber that has ended went on");
  }

  /// Goes on with the next fiber that can run.
  void next(Context& from) {
    const std::size_t n = threads_->size();
    for (std::size_t tried = 1; tried <= n; ++tried) {
      const std::size_t i = (running_ + (reverse_ ? n - tried : tried)) % n;
      Fiber& f = fibers_[i];
      if (f.done || (f.waits_for != nullptr && f.waits_for->generation == f.generation)) continue;
      running_ = i;
      current = &(*threads_)[i];
      if (&f.context != &from) switch_to(from, f.context);
      return;
    }
    fail("threads wait at a barrier that the others of their block or warp never reach");
  }

  std::vector<Fiber> fibers_;
  std::vector<Thread>* threads_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  Context main_{};
  std::size_t running_ = 0, live_ = 0;
  bool reverse_ = false;
};

/// A barrier among threads of the operating system.
inline void wait_as_thread(Barrier& barrier) {
  std::unique_lock lock(barrier.mutex);
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    ++barrier.generation;
    barrier.changed.notify_all();
    return;
  }
  const std::uint64_t generation = barrier.generation;
  while (barrier.generation == generation) {
    if (barrier.exited > 0 && barrier.arrived + barrier.exited == barrier.expected) {
      fail("threads wait at a barrier that the others of their block or warp never reach");
    }
    barrier.changed.wait(lock);
  }
}

inline void wait(Barrier& barrier) {
  if (current->block->independent) fail("a kernel launched as independent has a barrier");
  if (Fibers::active != nullptr) {
    Fibers::active->wait(barrier);
  } else {
    wait_as_thread(barrier);
  }
}

inline void leave(Barrier& barrier) {
  const std::lock_guard lock(barrier.mutex);
  ++barrier.exited;
  barrier.changed.notify_all();
}

inline Warp& warp() {
  if (current->block->independent) fail("a kernel launched as independent talks to its warp");
  return *current->block->warps[static_cast<std::size_t>(current->linear / kWarp)];
}

/// Hands a value to the warp and calls take(values of all lanes, lanes).
template <class T, class F>
auto exchange(const T& value, F take) {
  static_assert(sizeof(T) <= sizeof(Slot::bytes));
  Warp& w = warp();
  std::memcpy(w.slot[current->linear % kWarp].bytes, &value, sizeof(T));
  wait(w.barrier);
  const auto result = take([&](int lane) {
    T other;
    std::memcpy(&other, w.slot[lane].bytes, sizeof(T));
    return other;
  });
  wait(w.barrier);
  return result;
}

/// The value of lane `from` of this thread's warp; its own where there is no such lane.
template <class T>
T shuffle(unsigned mask, T value, int from) {
  if (mask != 0xffffffffu) fail("a shuffle among a part of a warp");
  const int lanes = warp().barrier.expected, lane = current->linear % kWarp;
  const bool exists = from >= 0 && from < lanes;
  return exchange(value, [&](auto of) { return of(exists ? from : lane); });
}

inline int lane() { return current->linear % kWarp; }

template <class T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(current->block->dynamic_shared.get());
}

template <class T>
T* static_shared(const void* tag, std::size_t count) {
  Thread& t = *current;
  auto* const statics = reinterpret_cast<unsigned char*>(t.block->static_shared.get());
  for (const Thread::Static& s : t.statics) {
    if (s.tag == tag) return reinterpret_cast<T*>(statics + s.offset);
  }
  const std::size_t offset = (t.static_bytes + 15) / 16 * 16;
  t.static_bytes = offset + count * sizeof(T);
  if (t.static_bytes > kStaticShared) fail("a block has more than 48 KB of static shared memory");
  t.statics.push_back({tag, offset});
  return reinterpret_cast<T*>(statics + offset);
}

inline bool environment_is(const char* name, const char* value) {
  const char* given = std::getenv(name);
  return given != nullptr && std::strcmp(given, value) == 0;
}

/// Whether the barrier of this line is to be left out.
inline bool left_out(const char* file, int line) {
  static const char* const where = std::getenv("DLCORE_HOSTSIM_WITHOUT");
  if (where == nullptr) return false;
  const char* colon = std::strrchr(where, ':');
  if (colon == nullptr || std::atoi(colon + 1) != line) return false;
  const auto length = static_cast<std::size_t>(colon - where);
  const std::size_t all = std::strlen(file);
  return all >= length && std::strncmp(file + all - length, where, length) == 0;
}

inline int cluster_size() { return static_cast<int>(current->block->cluster->blocks.size()); }
inline int cluster_rank() { return current->block->rank; }

/// Where something in this block's dynamic shared memory lies in that of a rank of its cluster.
template <class T>
const T* in_block(const T* p, int rank) {
  const Block& own = *current->block;
  if (rank < 0 || rank >= cluster_size()) fail("a cluster has no block of this rank");
  const auto offset = reinterpret_cast<const unsigned char*>(p) -
                      reinterpret_cast<const unsigned char*>(own.dynamic_shared.get());
  const Block& there = *own.cluster->blocks[static_cast<std::size_t>(rank)];
  return reinterpret_cast<const T*>(
      reinterpret_cast<const unsigned char*>(there.dynamic_shared.get()) + offset);
}

/// Where it is left out, the threads of each block still wait for each other.
inline void cluster_barrier(const char* file, int line) {
  Block& own = *current->block;
  wait(left_out(file, line) ? own.barrier : own.cluster->barrier);
}

inline bool as_threads() {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  return true;
#else
  return environment_is("DLCORE_HOSTSIM_THREADS", "1");
#endif
}

/// Runs body as every thread of every block, `cluster_size` blocks at the same time. In an
/// `independent` kernel threads neither meet nor share memory, and a loop does.
inline void run(dim3 grid, dim3 size, std::size_t shared, bool independent, int cluster_size,
                const std::function<void()>& body) {
  const bool reverse = environment_is("DLCORE_HOSTSIM_ORDER", "reverse");
  const auto threads_of_block = static_cast<int>(size.x * size.y * size.z);
  if (threads_of_block < 1 || threads_of_block > 1024) fail("a block has 1 to 1024 threads");
  if (shared > std::size_t{227} << 10) fail("a block has at most 227 KB of shared memory");
  if (cluster_size < 1 || cluster_size > 8) fail("a cluster has 1 to 8 blocks");
  if (grid.x % static_cast<unsigned>(cluster_size) != 0) fail("a grid has whole clusters");
  Cluster cluster;
  for (int rank = 0; rank < cluster_size; ++rank) {
    cluster.blocks.push_back(std::make_unique<Block>());
    Block& block = *cluster.blocks.back();
    block.grid = grid;
    block.size = size;
    block.threads = threads_of_block;
    block.independent = independent;
    block.cluster = &cluster;
    block.rank = rank;
    if (independent) continue;
    // Exactly as much as was asked for, so that AddressSanitizer sees an index beyond it.
    block.dynamic_bytes = shared;
    block.dynamic_shared = std::make_unique<float4[]>((shared + 15) / 16);
    block.static_shared = std::make_unique<float4[]>(kStaticShared / 16);
    for (int first = 0; first < block.threads; first += kWarp) {
      block.warps.push_back(std::make_unique<Warp>());
      block.warps.back()->barrier.expected = std::min(kWarp, block.threads - first);
    }
  }

  const auto place = [&](Thread& t, int linear, std::uint64_t b, Block& block) {
    const auto i = static_cast<unsigned>(linear);
    t.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    t.block_index = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                     static_cast<unsigned>(b / (std::uint64_t{grid.x} * grid.y))};
    t.linear = linear;
    t.block = &block;
    t.statics.clear();
    t.static_bytes = 0;
  };
  std::vector<Thread> threads(
      static_cast<std::size_t>(independent ? 1 : threads_of_block * cluster_size));
  const std::function<void()> whole = [&] {
    body();
    current->block->end();
  };
  static thread_local Fibers fibers;
  const std::uint64_t turns =
      std::uint64_t{grid.x} * grid.y * grid.z / static_cast<unsigned>(cluster_size);
  for (std::uint64_t passed = 0; passed < turns; ++passed) {
    const std::uint64_t turn = reverse ? turns - 1 - passed : passed;
    if (independent) {
      Thread* const outer = current;
      current = &threads[0];
      for (int i = 0; i < threads_of_block; ++i) {
        place(threads[0], reverse ? threads_of_block - 1 - i : i, turn, *cluster.blocks[0]);
        body();
      }
      current = outer;
      continue;
    }
    cluster.barrier.expected = threads_of_block * cluster_size;
    cluster.barrier.arrived = cluster.barrier.exited = 0;
    auto thread = threads.begin();
    for (auto& block : cluster.blocks) {
      block->begin();
      const std::uint64_t b =
          turn * static_cast<unsigned>(cluster_size) + static_cast<unsigned>(block->rank);
      for (int i = 0; i < threads_of_block; ++i) place(*thread++, i, b, *block);
    }
    if (!as_threads()) {
      fibers.run(threads, reverse, whole);
      continue;
    }
    std::vector<std::thread> workers;
    for (Thread& t : threads) {
      workers.emplace_back([&] {
        current = &t;
        whole();
        leave(warp().barrier);
        leave(t.block->barrier);
        leave(cluster.barrier);
      });
    }
    for (std::thread& worker : workers) worker.join();
  }
}

}  // namespace dlcore::hostsim

#define threadIdx (::dlcore::hostsim::current->index)
#define blockIdx (::dlcore::hostsim::current->block_index)
#define blockDim (::dlcore::hostsim::current->block->size)
#define gridDim (::dlcore::hostsim::current->block->grid)

#define DLCORE_SHARED(type, name, count) \
  static const char name##_tag = 0;      \
  type* const name = ::dlcore::hostsim::static_shared<type>(&name##_tag, count)
#define DLCORE_SHARED_DYNAMIC(type, name) \
  type* const name = ::dlcore::hostsim::dynamic_shared<type>()

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (dlcore::hostsim::left_out(file, line)) return;
  dlcore::hostsim::wait(dlcore::hostsim::current->block->barrier);
}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  if (mask != 0xffffffffu) dlcore::hostsim::fail("__syncwarp of a part of a warp");
  dlcore::hostsim::wait(dlcore::hostsim::warp().barrier);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int from) {
  return dlcore::hostsim::shuffle(mask, value, from % dlcore::hostsim::kWarp);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return dlcore::hostsim::shuffle(mask, value, dlcore::hostsim::lane() ^ bits);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by) {
  return dlcore::hostsim::shuffle(mask, value, dlcore::hostsim::lane() + static_cast<int>(by));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by) {
  return dlcore::hostsim::shuffle(mask, value, dlcore::hostsim::lane() - static_cast<int>(by));
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  if (mask != 0xffffffffu) dlcore::hostsim::fail("a ballot among a part of a warp");
  const int lanes = dlcore::hostsim::warp().barrier.expected;
  return dlcore::hostsim::exchange(predicate, [&](auto of) {
    unsigned bits = 0;
    for (int i = 0; i < lanes; ++i) bits |= of(i) != 0 ? 1u << i : 0u;
    return bits;
  });
}
inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate == 0 ? 1 : 0) == 0 ? 1 : 0;
}

using std::max;
using std::min;

template <class T>
T __ldg(const T* p) {
  return *p;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((std::uint64_t{a} * b) >> 32);
}
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
