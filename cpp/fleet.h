#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "check.h"
#include "network.h"
#include "parallel.h"

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
  Index finished = 0;                     ///< members done so far
  std::vector<std::size_t> latest;        ///< which finished since the last call
  const std::vector<FitResult>& results;  ///< in the order given; of finished members alone
};

/// Calls f, which fits network i of a fleet or checks for it, and lets its errors name the network.
template <class F>
void name_member(std::size_t i, F f) {
  constexpr std::string_view kFit = "fit: ";
  const auto named = [&](std::string_view what) {
    return sentence("fit_many: network ", i, ": ", what.substr(kFit.size()));
  };
  const auto fits = [&](const std::exception& e) {
    return std::string_view(e.what()).starts_with(kFit);
  };
  try {
    f();
  } catch (const std::invalid_argument& e) {
    if (fits(e)) throw std::invalid_argument(named(e.what()));
    throw;
  } catch (const TypeError& e) {
    if (fits(e)) throw TypeError(named(e.what()));
    throw;
  } catch (const std::runtime_error& e) {
    if (fits(e)) throw std::runtime_error(named(e.what()));
    throw;
  }
}

/// Trains every member alone on one core, as many at a time as the call has threads, the longest
/// first, and returns their results in the order given. A member gives the same bits as its own fit
/// would.
std::vector<FitResult> train_fleet(std::vector<Member>& members, Call& call,
                                   const std::function<void(const FleetProgress&)>& on_progress);

}  // namespace dlcore
