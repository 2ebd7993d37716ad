#include "parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "cpus.h"

namespace dlcore {
namespace {

/// Number of a variable such as OMP_NUM_THREADS ("4" or "4,2"); 0 when unset or not a number.
int number_in_environment(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? 0 : static_cast<int>(std::clamp(std::atol(text), 0L, 4096L));
}

std::atomic<int> thread_limit{0};

/// Threads that the calls in progress account for: see Call.
std::atomic<int> running{0};
thread_local const Call* innermost = nullptr;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// The tasks of one thread that nobody has claimed yet, in one word, so that a claim is one
/// compare-and-swap and a thread that comes late can only fail it: generation of the job, end of
/// the run of tasks, and the next of them.
struct Claims {
  static constexpr int kIndexBits = 20;
  static constexpr std::uint64_t kIndexMask = (1u << kIndexBits) - 1;

  static std::uint64_t make(std::uint64_t generation, Part tasks) {
    return generation << (2 * kIndexBits) | static_cast<std::uint64_t>(tasks.end) << kIndexBits |
           static_cast<std::uint64_t>(tasks.begin);
  }
  static std::uint64_t generation(std::uint64_t c) { return c >> (2 * kIndexBits); }
  static Index end(std::uint64_t c) { return static_cast<Index>(c >> kIndexBits & kIndexMask); }
  static Index next(std::uint64_t c) { return static_cast<Index>(c & kIndexMask); }
};

/// Workers that spin for a while after a job and then sleep. Every thread has a run of tasks of its
/// own, the same at each job of the same size, so that what it wrote in one job is in its caches in
/// the next; when it is done it takes over those that others have not come to.
class Pool {
 public:
  /// Whether this thread runs a task now: parallel loops inside one are serial.
  static thread_local bool inside;
  static constexpr int kMostThreads = 256;

  void run(int threads, Index tasks, void (*call)(const void*, Index), const void* body) {
    threads = static_cast<int>(std::min<Index>(std::min(threads, kMostThreads), tasks));
    grow(threads - 1);
    call_ = call;
    body_ = body;
    done_.store(0, std::memory_order_relaxed);
    generation_ = (generation_ + 1) & kGenerations;
    for (int i = 0; i < threads; ++i) {
      claims_[i].word.store(Claims::make(generation_, part(i, threads, tasks, 1)),
                            std::memory_order_relaxed);
    }
    const std::uint64_t job = generation_ * kMostThreads + static_cast<std::uint64_t>(threads - 1);
    job_.store(job, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      wake_.fetch_add(1, std::memory_order_release);
      wake_.notify_all();
    }
    inside = true;
    help(job, 0);
    inside = false;
    for (int spin = 0; done_.load(std::memory_order_acquire) != tasks; ++spin) {
      // A worker that has a task but not a CPU needs ours.
      spin < kSpins ? pause() : std::this_thread::yield();
    }
  }

  int size() const { return size_.load(std::memory_order_relaxed); }
  bool try_lock() { return !busy_.exchange(true, std::memory_order_acquire); }
  void unlock() { busy_.store(false, std::memory_order_release); }

 private:
  // About 20 to 50 us: a training step's serial parts are shorter, waking a sleeper is not.
  static constexpr int kSpins = 1500;
  static constexpr std::uint64_t kGenerations = (1u << 24) - 1;

  static int threads_of(std::uint64_t job) { return static_cast<int>(job % kMostThreads) + 1; }

  /// Runs tasks of the job until none is left, those of `thread` first. A run of tasks is reported
  /// as one: the count is a cache line that all threads write to.
  void help(std::uint64_t job, int thread) {
    const int threads = threads_of(job);
    for (int i = 0; i < threads; ++i) {
      Index done = 0;
      while (claim_and_run(job, (thread + i) % threads)) ++done;
      if (done > 0) done_.fetch_add(done, std::memory_order_release);
    }
  }

  bool claim_and_run(std::uint64_t job, int thread) {
    std::atomic<std::uint64_t>& word = claims_[thread].word;
    std::uint64_t claims = word.load(std::memory_order_acquire);
    do {
      if (Claims::generation(claims) != job / kMostThreads) return false;
      if (Claims::next(claims) >= Claims::end(claims)) return false;
    } while (!word.compare_exchange_weak(claims, claims + 1, std::memory_order_acq_rel));
    // The job cannot end before this task is counted, so call_ and body_ are of the claimed job.
    call_(body_, Claims::next(claims));
    return true;
  }

  /// Whether there is a job that this worker has not seen and may help with.
  bool has_job(int worker, std::uint64_t* seen) const {
    const std::uint64_t job = job_.load(std::memory_order_seq_cst);
    const bool fresh = job != *seen;
    *seen = job;
    return fresh && worker + 1 < threads_of(job);
  }

  void work(int worker) {
    inside = true;
    std::uint64_t seen = 0;
    for (int spin = 0;; ++spin) {
      if (has_job(worker, &seen)) {
        help(seen, worker + 1);
        spin = 0;
      } else if (spin < kSpins) {
        pause();
      } else {
        const std::uint32_t before = wake_.load(std::memory_order_acquire);
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        const bool missed = has_job(worker, &seen);
        if (!missed) wake_.wait(before, std::memory_order_acquire);
        sleepers_.fetch_sub(1, std::memory_order_seq_cst);
        if (missed) help(seen, worker + 1);
        spin = 0;
      }
    }
  }

  void grow(int workers) {
    for (int i = size(); i < workers; ++i) {
      std::thread([this, i] { work(i); }).detach();
      size_.store(i + 1, std::memory_order_relaxed);
    }
  }

  struct alignas(64) Slot {
    std::atomic<std::uint64_t> word{0};
  };
  Slot claims_[kMostThreads];
  // In one line, which a worker fetches at once.
  alignas(64) std::atomic<std::uint64_t> job_{0};  ///< generation and number of threads
  void (*call_)(const void*, Index) = nullptr;
  const void* body_ = nullptr;
  alignas(64) std::atomic<Index> done_{0};
  alignas(64) std::atomic<std::uint32_t> wake_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> busy_{false};
  std::atomic<int> size_{0};
  std::uint64_t generation_ = 0;
};

thread_local bool Pool::inside = false;

std::atomic<Pool*> pool_pointer{nullptr};

/// Never destroyed: its threads live as long as the process. A forked child has none of them and
/// starts with a new pool.
Pool& pool() {
  static std::once_flag once;
  std::call_once(once, [] {
    pool_pointer.store(new Pool);
    pthread_atfork(nullptr, nullptr, [] {
      pool_pointer.store(new Pool);
      Pool::inside = false;
      // Of the calls in progress, the child has those of its only thread.
      running.store(Call::counted_here());
    });
  });
  return *pool_pointer.load(std::memory_order_acquire);
}

}  // namespace

int default_threads() {
  const int allowed = allowed_cpus();
  int threads = thread_limit.load();
  if (threads == 0) threads = number_in_environment("DLCORE_NUM_THREADS");
  if (threads == 0) threads = number_in_environment("OMP_NUM_THREADS");
  return threads == 0 ? allowed : std::min(threads, allowed);
}

int threads_for(Index elements) { return elements < (1 << 14) ? 1 : default_threads(); }

void set_threads(int threads) { thread_limit.store(std::max(0, threads)); }

int pool_threads() {
  const Pool* current = pool_pointer.load();
  return current == nullptr ? 0 : current->size();
}

Call::Call(int given, Index members) : outer_(innermost), obeyed_(given > 0) {
  pool();  // knows what to do in a forked child
  const int outer = counted_here();
  const int others = running.load(std::memory_order_relaxed) - outer;
  threads_ = obeyed_ ? given : default_threads();
  if (members > 0) {
    if (!obeyed_) threads_ = std::max(1, threads_ - others);
    threads_ = static_cast<int>(std::min<Index>(threads_, members));
  }
  // One from the callback of another counts for no more than both need.
  counted_ = std::max(outer, members > 0 || obeyed_ ? threads_ : 1);
  added_ = counted_ - outer;
  running.fetch_add(added_, std::memory_order_relaxed);
  innermost = this;
}

Call::~Call() {
  innermost = outer_;
  running.fetch_sub(added_, std::memory_order_relaxed);
}

bool Call::take_thread() {
  if (obeyed_ || running.load(std::memory_order_relaxed) >= default_threads()) return false;
  ++threads_;
  ++counted_;
  ++added_;
  running.fetch_add(1, std::memory_order_relaxed);
  return true;
}

bool Call::give_thread_back() {
  if (obeyed_ || threads_ == 1) return false;
  if (running.load(std::memory_order_relaxed) <= default_threads()) return false;
  --threads_;
  --counted_;
  --added_;
  running.fetch_sub(1, std::memory_order_relaxed);
  return true;
}

int Call::counted_here() { return innermost == nullptr ? 0 : innermost->counted_; }

int Call::available(int threads) {
  if (innermost != nullptr && innermost->obeyed_) return threads;
  return threads - (running.load(std::memory_order_relaxed) - counted_here());
}

namespace detail {

void run(int threads, Index tasks, void (*call)(const void*, Index), const void* body) {
  constexpr auto kMost = static_cast<Index>(Claims::kIndexMask) - 1;
  threads = Call::available(threads);
  if (threads <= 1 || Pool::inside || tasks > kMost || !pool().try_lock()) {
    for (Index i = 0; i < tasks; ++i) call(body, i);
    return;
  }
  Pool& held = pool();
  held.run(threads, tasks, call, body);
  held.unlock();
}

}  // namespace detail
}  // namespace dlcore
