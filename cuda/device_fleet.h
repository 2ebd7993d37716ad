#pragma once

#include <functional>
#include <vector>

#include "fleet.h"

namespace dlcore::cuda {

/// Trains every member on its network's GPU and returns their results in the order given: the
/// population engine takes those it can when there are enough of them, and the others are fitted
/// one after the other. FitResult::engine says which it was.
///
/// The environment variable DLCORE_FLEET_ENGINE names one engine for all: population (for those
/// that it supports) or graph.
std::vector<FitResult> train_device_fleet(
    std::vector<Member>& members, Call& call,
    const std::function<void(const FleetProgress&)>& on_progress);

}  // namespace dlcore::cuda
