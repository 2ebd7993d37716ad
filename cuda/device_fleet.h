#pragma once

#include <functional>
#include <vector>

#include "fleet.h"

namespace dlcore::cuda {

/// Trains every member on its network's GPU and returns their results in the order given. The
/// population engine takes those it can when there are enough of them; the others train in groups
/// of networks that are alike, side by side in one recorded step; what is left is fitted one after
/// the other. FitResult::engine says which it was: population, group or graph.
///
/// The environment variable DLCORE_FLEET_ENGINE names one engine for all that it can train.
std::vector<FitResult> train_device_fleet(
    std::vector<Member>& members, Call& call,
    const std::function<void(const FleetProgress&)>& on_progress);

}  // namespace dlcore::cuda
