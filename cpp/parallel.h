#pragma once

#include <memory>
#include <type_traits>

#include "types.h"

namespace dlcore {

/// CPUs this process may use: DLCORE_NUM_THREADS, else OMP_NUM_THREADS, else the affinity mask
/// limited by the cgroup's quota; the two variables never raise it above the allowed CPUs.
int default_threads();

/// 1 for element-wise work on so few elements that it is not worth asking how many CPUs there are,
/// else default_threads().
int threads_for(Index elements);

/// Limits default_threads() from now on; 0 takes the limit away.
void set_threads(int threads);

/// Threads the pool holds at present, the caller's own not counted.
int pool_threads();

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
