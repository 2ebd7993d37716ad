#include "fleet.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>

#include "epochs.h"

namespace dlcore {
namespace {

/// Stops a member between two steps when the whole fleet is to stop.
struct Cancelled {};

double cost(const Member& member) {
  return static_cast<double>(member.network->graph().flops_per_example()) *
         static_cast<double>(member.options.examples(member.data)) *
         static_cast<double>(member.options.epochs);
}

/// What workers and the calling thread share.
struct Shared {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::size_t> finished;  ///< not yet reported
  std::exception_ptr error;
  std::atomic<std::size_t> next{0};
  std::atomic<bool> cancel{false};
  int running = 0;
};

void train_member(Member& member, Shared& shared, FitResult* result) {
  member.options.threads = 1;
  const auto on_progress = member.options.on_progress;
  member.options.on_progress = [&](Index epoch, Index done, Index steps) {
    if (shared.cancel.load(std::memory_order_relaxed)) throw Cancelled{};
    if (on_progress) on_progress(epoch, done, steps);
  };
  *result = member.network->fit(member.data, member.options);
}

}  // namespace

std::vector<FitResult> train_fleet(std::vector<Member>& members, Call& call,
                                   const std::function<void(const FleetProgress&)>& on_progress) {
  std::vector<FitResult> results(members.size());
  std::vector<std::size_t> order(members.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  // Longest first, so that no thread is left alone with a long one at the end.
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return cost(members[a]) > cost(members[b]);
  });

  Shared shared;
  const auto work = [&] {
    for (;;) {
      const std::size_t turn = shared.next.fetch_add(1);
      if (turn >= order.size() || shared.cancel.load()) break;
      const std::size_t i = order[turn];
      std::exception_ptr error;
      try {
        name_member(i, [&] { train_member(members[i], shared, &results[i]); });
      } catch (const Cancelled&) {
        break;
      } catch (...) {
        error = std::current_exception();
      }
      const std::lock_guard lock(shared.mutex);
      if (error) {
        if (!shared.error) shared.error = error;
        shared.cancel.store(true);
      } else {
        shared.finished.push_back(i);
      }
      shared.changed.notify_one();
      if (shared.running > 1 && call.give_thread_back()) break;
    }
    const std::lock_guard lock(shared.mutex);
    --shared.running;
    shared.changed.notify_one();
  };

  // Threads of its own: the calling one must stay free to answer Ctrl-C and to report.
  std::vector<std::thread> workers;
  shared.running = members.empty() ? 0 : call.threads();
  for (int i = shared.running; i > 0; --i) workers.emplace_back(work);
  Index finished = 0;
  std::unique_lock lock(shared.mutex);
  while (shared.running > 0 || !shared.finished.empty()) {
    shared.changed.wait_for(lock, std::chrono::duration<double>(kCallSeconds),
                            [&] { return shared.running == 0 || !shared.finished.empty(); });
    // Others have ended, or gave their threads back in vain.
    while (shared.running > 0 && shared.next.load() < order.size() && call.take_thread()) {
      ++shared.running;
      workers.emplace_back(work);
    }
    finished += static_cast<Index>(shared.finished.size());
    const FleetProgress progress{finished, std::exchange(shared.finished, {}), results};
    lock.unlock();
    try {
      if (on_progress && !shared.cancel.load()) on_progress(progress);
    } catch (...) {
      shared.cancel.store(true);
      const std::lock_guard again(shared.mutex);
      if (!shared.error) shared.error = std::current_exception();
    }
    lock.lock();
  }
  lock.unlock();
  for (std::thread& worker : workers) worker.join();
  if (shared.error) std::rethrow_exception(shared.error);
  return results;
}

}  // namespace dlcore
