#pragma once

#include <functional>
#include <string>
#include <vector>

#include "fleet.h"
#include "runtime.h"

namespace dlcore::cuda {

/// Whether the population engine can train this member of a fleet, whose network is a DeviceNetwork
/// on `device`; if not, *why says what stands against it.
bool population_supports(const Member& member, const DeviceInfo& device, std::string* why);

/// Trains the chosen members of a fleet, all on one device and supported, a block of threads each
/// or a cluster of them, and puts their results in their places. A member's numbers are those of
/// this engine's own order of summation, the same bits whatever trains beside it. Calls `tell` with
/// those that have finished, or none, after every few steps of all; it may throw, which stops all.
void train_population(std::vector<Member>& members, const std::vector<std::size_t>& chosen,
                      std::vector<FitResult>* results,
                      const std::function<void(std::vector<std::size_t> finished)>& tell);

}  // namespace dlcore::cuda
