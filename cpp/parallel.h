#pragma once

#include <memory>
#include <type_traits>

#include "types.h"

namespace dlcore {

/// Threads to use where none are asked for: DLCORE_NUM_THREADS, else OMP_NUM_THREADS, but never
/// more than the allowed CPUs (cpus.h), which it is without the two.
int default_threads();

/// 1 for element-wise work on so few elements that it is not worth asking how many CPUs there are,
/// else default_threads().
int threads_for(Index elements);

/// Limits default_threads() from now on; 0 takes the limit away.
void set_threads(int threads);

/// Threads the pool holds at present, the caller's own not counted.
int pool_threads();

/// A call that computes, from its start to its end, on the thread that made it.
///
/// A number of threads that is asked for is obeyed. Without one a call gets default_threads(), and
/// its loops that many less one for each thread that other calls of the process run at that moment:
/// several of them, in a pool of Python threads for example, together do not have more threads
/// running than there are CPUs, as long as they are not more themselves.
class Call {
 public:
  /// `given` is 0 for the default. The threads of a fleet, which has members, count as running all
  /// the time: it starts with those that are free, and then takes more or gives back.
  explicit Call(int given, Index members = 0);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  int threads() const { return threads_; }

  /// Whether a fleet gets one thread more; from the calling thread or under a lock.
  bool take_thread();
  /// Whether a fleet has to give one back, because others have started; as above.
  bool give_thread_back();

  /// How many of `threads` a loop may use now on the calling thread; may be below 1.
  static int available(int threads);
  /// Threads that the calls in progress on the calling thread count for.
  static int counted_here();

 private:
  const Call* outer_;
  bool obeyed_;
  int threads_, counted_, added_;
};

namespace detail {
void run(int threads, Index tasks, void (*call)(const void*, Index), const void* body);
}

/// Calls body(i) for i in 0..tasks, on the calling thread and at most threads - 1 of the pool, in
/// no fixed order; returns when all are done. What a task computes must depend on i alone, so that
/// results are the same bits at any number of threads. Inside a task, or while another thread uses
/// the pool, it runs serially. The body must not throw.
template <class F>
void parallel_for(int threads, Index tasks, const F& body) {
  if (threads <= 1 || tasks <= 1) {
    for (Index i = 0; i < tasks; ++i) body(i);
    return;
  }
  detail::run(
      threads, tasks, [](const void* f, Index i) { (*static_cast<const F*>(f))(i); },
      std::addressof(body));
}

/// Part i of `parts` nearly equal runs of 0..size whose bounds are multiples of `unit`.
struct Part {
  Index begin, end;
};
constexpr Part part(Index i, Index parts, Index size, Index unit) {
  const Index units = (size + unit - 1) / unit;
  const Index begin = units * i / parts * unit, end = units * (i + 1) / parts * unit;
  return {begin, end < size ? end : size};
}

}  // namespace dlcore
