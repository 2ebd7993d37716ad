#include "device_fleet.h"

#include <cstdlib>
#include <map>
#include <string>
#include <utility>

#include "check.h"
#include "device_network.h"
#include "population.h"

namespace dlcore::cuda {
namespace {

// A population trains each network on one multiprocessor; for fewer than these the graph engine,
// which has all of them for one network, is expected to be faster (an estimate, not a measurement).
constexpr std::size_t kFewest = 8;

/// The engine asked for by name, or nothing.
std::string engine_asked_for() {
  const char* given = std::getenv("DLCORE_FLEET_ENGINE");
  const std::string name = given == nullptr ? "" : given;
  check(name.empty() || name == "population" || name == "graph", "DLCORE_FLEET_ENGINE=", name,
        " is not one of population, graph");
  return name;
}

}  // namespace

std::vector<FitResult> train_device_fleet(
    std::vector<Member>& members, Call&,
    const std::function<void(const FleetProgress&)>& on_progress) {
  const std::string asked = engine_asked_for();
  std::vector<FitResult> results(members.size());
  std::vector<std::string> why(members.size());
  std::map<int, std::vector<std::size_t>> together;  // by device
  std::map<int, DeviceInfo> devices;
  for (std::size_t i = 0; i < members.size() && asked != "graph"; ++i) {
    const int device = static_cast<DeviceNetwork&>(*members[i].network).device();
    if (!devices.contains(device)) devices[device] = device_info(device);
    if (members[i].options.on_checkpoint || members[i].options.resume.has_value()) {
      why[i] = "it keeps a checkpoint";
      continue;
    }
    if (population_supports(members[i], devices[device], &why[i])) together[device].push_back(i);
  }
  Index finished = 0;
  std::vector<bool> done(members.size(), false);
  const auto tell = [&](std::vector<std::size_t> latest) {
    finished += static_cast<Index>(latest.size());
    if (on_progress) on_progress({finished, std::move(latest), results});
  };
  for (const auto& [device, chosen] : together) {
    if (chosen.size() < kFewest && asked != "population") {
      for (const std::size_t i : chosen) {
        why[i] = sentence("it is one of fewer than ", kFewest, " that the population engine takes");
      }
      continue;
    }
    for (const std::size_t i : chosen) done[i] = true;
    train_population(members, chosen, &results, tell);
  }
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (done[i]) continue;
    Member& member = members[i];
    const auto own = member.options.on_progress;
    member.options.on_progress = [&](Index epoch, Index steps_done, Index steps) {
      if (own) own(epoch, steps_done, steps);
      tell({});
    };
    name_member(i, [&] { results[i] = member.network->fit(member.data, member.options); });
    member.options.on_progress = own;
    results[i].engine_reason = why[i];
    tell({i});
  }
  return results;
}

}  // namespace dlcore::cuda
