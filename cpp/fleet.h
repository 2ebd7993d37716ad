#pragma once

#include <functional>
#include <vector>

#include "network.h"

namespace dlcore {

/// One network of a fleet and how it is trained; options.threads is 1 in effect.
struct Member {
  Network* network = nullptr;
  Dataset data;
  FitOptions options;
};

/// How a fleet goes on: called on the calling thread whenever members have finished, and at most
/// every 50 ms besides. It may throw, which stops all members after their running step.
struct FleetProgress {
  Index finished = 0;               ///< members done so far
  std::vector<std::size_t> latest;  ///< which finished since the last call
};

/// Trains every member alone on one core, `threads` of them at a time, the longest first, and
/// returns their results in the order given. A member gives the same bits as its own fit would.
std::vector<FitResult> train_fleet(std::vector<Member>& members, int threads,
                                   const std::function<void(const FleetProgress&)>& on_progress);

}  // namespace dlcore
