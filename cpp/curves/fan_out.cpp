#include "curves/fan_out.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace dlcore::curves {

bool fan_out(Index count, int threads, const std::function<void(int, Index)>& task,
             const std::function<bool()>& poll) {
  std::atomic<Index> next{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable finished;
  int running = 0;
  std::exception_ptr error;

  const auto work = [&](int worker) {
    try {
      for (Index i = next++; i < count && !stop; i = next++) task(worker, i);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
      stop = true;
    }
    const std::lock_guard lock(mutex);
    --running;
    finished.notify_one();
  };

  // The calling thread only waits and polls, so that a long task does not delay the poll.
  const int workers = static_cast<int>(std::min<Index>(std::max(threads, 1), count));
  std::vector<std::thread> pool;
  pool.reserve(workers);
  for (int worker = 0; worker < workers; ++worker) {
    {
      const std::lock_guard lock(mutex);
      ++running;
    }
    try {
      pool.emplace_back(work, worker);
    } catch (...) {  // no more threads to be had: those that run do all of it
      const std::lock_guard lock(mutex);
      --running;
      if (pool.empty()) error = std::current_exception();
      break;
    }
  }
  bool cancelled = false;
  {
    std::unique_lock lock(mutex);
    while (running > 0) {
      if (finished.wait_for(lock, std::chrono::milliseconds(100), [&] { return running == 0; })) {
        break;
      }
      lock.unlock();
      if (!cancelled && !poll()) cancelled = stop = true;
      lock.lock();
    }
  }
  for (std::thread& thread : pool) thread.join();
  if (error) std::rethrow_exception(error);
  return !cancelled;
}

}  // namespace dlcore::curves
