#include "device_fleet.h"

#include <algorithm>
#include <cstdlib>
#include <iomanip>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <utility>

#include "check.h"
#include "device_network.h"
#include "device_trainer.h"
#include "population.h"

namespace dlcore::cuda {
namespace {

// A population trains each network on one multiprocessor, or on a few; for fewer networks the graph
// engine, which has all of them, is expected to be faster (an estimate, not a measurement).
constexpr std::size_t kFewest = 8;
// A group has as many: what the device can hold, and its grids allow.
constexpr std::size_t kMostTogether = 1024;

/// The engine asked for by name, or nothing.
std::string engine_asked_for() {
  const char* given = std::getenv("DLCORE_FLEET_ENGINE");
  const std::string name = given == nullptr ? "" : given;
  check(name.empty() || name == "population" || name == "group" || name == "graph",
        "DLCORE_FLEET_ENGINE=", name, " is not one of population, group, graph");
  return name;
}

DeviceNetwork& network_of(const Member& member) {
  return static_cast<DeviceNetwork&>(*member.network);
}

bool keeps_checkpoint(const Member& member) {
  return member.options.on_checkpoint || member.options.resume.has_value();
}
constexpr const char* kKeepsCheckpoint = "it keeps a checkpoint";

/// Bytes that rows take on the device beside what lies there.
Index bytes_to_send(const RowsView& x) {
  return x.on_device ? 0 : x.rows * x.features * item_size(x.dtype);
}

/// What stands against training this member beside others, or nothing.
std::string refusal_of_group(const Member& member, const DeviceInfo& device) {
  if (keeps_checkpoint(member)) return kKeepsCheckpoint;
  if (member.options.statistics) return "statistics are asked for";
  if (bytes_to_send(member.data.x) > device.free_memory / 10 * 9) {
    return "its data does not fit on the device";
  }
  return "";
}

/// What has to be the same in all networks of a group: everything that a recorded step or a plan
/// holds. Rows, weights, seeds, schedules, coefficients of the optimizer and numbers of steps and
/// epochs lie in tables.
std::string kind_of(const Member& member) {
  const DeviceNetwork& network = network_of(member);
  const FitOptions& options = member.options;
  std::ostringstream kind;
  kind << std::setprecision(17) << network.device() << ' ' << static_cast<int>(network.precision())
       << ' ' << options.batch(member.data) << ' ' << static_cast<int>(options.loss.kind) << ' '
       << options.loss.delta << ' ' << static_cast<int>(options.optimizer.rule) << ' '
       << options.optimizer.states() << ' ' << options.clip_norm << ' '
       << static_cast<int>(member.data.x.dtype) << ' '
       << (options.validation.has_value() ? options.validation->x.rows : 0);
  for (const Node& node : network.graph().nodes) {
    kind << ';' << static_cast<int>(node.op) << node.shape << ' ' << node.units << ' ' << node.bias
         << ' ' << static_cast<int>(node.activation) << ' ' << node.alpha << ' ' << node.p;
    for (const int input : node.inputs) kind << ' ' << input;
  }
  return kind.str();
}

Index steps_of(const Member& member) {
  return member.options.steps_per_epoch(member.data) * member.options.epochs;
}

void add_reason(const std::string& reason, std::string* reasons) {
  if (*reasons != reason) *reasons += (reasons->empty() ? "" : "; ") + reason;
}

/// How a fleet tells what it has done.
class Listener {
 public:
  Listener(const std::vector<FitResult>& results,
           const std::function<void(const FleetProgress&)>& on_progress)
      : results_(results), on_progress_(on_progress) {}

  void operator()(std::vector<std::size_t> latest) {
    finished_ += static_cast<Index>(latest.size());
    if (!on_progress_ || (latest.empty() && now() - last_call_ < kCallSeconds)) return;
    last_call_ = now();
    on_progress_({finished_, std::move(latest), results_});
  }

 private:
  const std::vector<FitResult>& results_;
  const std::function<void(const FleetProgress&)>& on_progress_;
  Index finished_ = 0;
  double last_call_ = now();
};

/// Networks of one kind that train side by side, with what they need.
template <class S>
class TrainingGroup {
 public:
  TrainingGroup(std::vector<Member>& members, const std::vector<std::size_t>& chosen,
                SharedData& shared, Context& context) {
    std::vector<Trainee*> slots;
    for (const std::size_t i : chosen) {
      name_member(i, [&] {
        Member& member = members[i];
        DeviceNetwork& network = network_of(member);
        network.check_place("fit", member.data.x);
        trainees_.push_back(std::make_unique<Trainee>(network, member.data, member.options, i));
      });
      slots.push_back(trainees_.back().get());
    }
    trainer_ = std::make_unique<DeviceTrainer<S>>(std::move(slots), shared, context);
  }

  void run(const std::vector<std::string>& why, std::vector<FitResult>* results, Listener& tell) {
    trainer_->run(
        [&](Trainee& t) {
          FitResult& result = (*results)[*t.number];
          result = t.epochs.take_result();
          result.engine_reason = why[*t.number];
          tell({*t.number});
        },
        [&] { tell({}); });
  }

 private:
  std::vector<std::unique_ptr<Trainee>> trainees_;
  std::unique_ptr<DeviceTrainer<S>> trainer_;
};

/// How many networks like this one there is room for, beside its data.
template <class S>
std::size_t room_for(const Member& member) {
  const DeviceNetwork& network = network_of(member);
  Index free = device_info(network.device()).free_memory / 10 * 9 - bytes_to_send(member.data.x);
  if (member.options.validation.has_value()) {
    const RowsView& x = member.options.validation->x;
    free -= bytes_to_send(x) + DevicePlan<S>::bytes(network.graph(), network.layout(),
                                                    device_batch(x.rows),
                                                    DevicePlan<S>::Kind::inference);
  }
  const Index most = free / DeviceTrainer<S>::bytes_each(member);
  return static_cast<std::size_t>(std::clamp<Index>(most, 1, kMostTogether));
}

/// Trains members of one kind in groups as large as there is room for, those that take about as
/// many steps together. Returns those that there is no room for beside others.
template <class S>
std::vector<std::size_t> train_groups(std::vector<Member>& members, std::vector<std::size_t> left,
                                      const std::vector<std::string>& why,
                                      std::vector<FitResult>* results, Listener& tell) {
  std::stable_sort(left.begin(), left.end(), [&](std::size_t a, std::size_t b) {
    return steps_of(members[a]) > steps_of(members[b]);
  });
  const auto context = Context::take(network_of(members[left.front()]).device());
  SharedData shared(context->stream());
  std::size_t most = room_for<S>(members[left.front()]);
  while (left.size() > 1 && most > 1) {
    // Groups of about the same size, not a full one and a rest.
    const std::size_t groups = (left.size() + most - 1) / most;
    const auto end =
        left.begin() + static_cast<std::ptrdiff_t>((left.size() + groups - 1) / groups);
    const std::vector<std::size_t> chosen(left.begin(), end);
    std::unique_ptr<TrainingGroup<S>> group;
    try {
      group = std::make_unique<TrainingGroup<S>>(members, chosen, shared, *context);
    } catch (const OutOfMemory&) {
      most = chosen.size() / 2;
      continue;
    }
    try {
      group->run(why, results, tell);
    } catch (const OutOfMemory& e) {
      const Index bytes = DeviceTrainer<S>::bytes_each(members[chosen.front()]);
      throw std::runtime_error(sentence("fit_many: ", chosen.size(), " networks of ",
                                        megabytes(bytes), " each do not fit on the GPU: ", e.what(),
                                        "; train fewer at once or use a smaller batch_size"));
    }
    left.erase(left.begin(), end);
  }
  return left;
}

}  // namespace

std::vector<FitResult> train_device_fleet(
    std::vector<Member>& members, Call&,
    const std::function<void(const FleetProgress&)>& on_progress) {
  const std::string asked = engine_asked_for();
  std::vector<FitResult> results(members.size());
  Listener tell(results, on_progress);
  std::vector<std::string> why(members.size());
  std::map<int, DeviceInfo> devices;
  const auto device_of = [&](std::size_t i) -> const DeviceInfo& {
    const int device = network_of(members[i]).device();
    if (!devices.contains(device)) devices[device] = device_info(device);
    return devices[device];
  };
  std::vector<std::size_t> left;                        // not yet trained
  std::map<int, std::vector<std::size_t>> populations;  // by device
  for (std::size_t i = 0; i < members.size(); ++i) {
    const bool tried = asked.empty() || asked == "population";
    if (tried && keeps_checkpoint(members[i])) {
      why[i] = kKeepsCheckpoint;
    } else if (tried && population_supports(members[i], device_of(i), &why[i])) {
      populations[network_of(members[i]).device()].push_back(i);
      continue;
    }
    left.push_back(i);
  }
  for (const auto& [device, chosen] : populations) {
    if (chosen.size() >= kFewest || asked == "population") {
      train_population(members, chosen, &results,
                       [&](std::vector<std::size_t> latest) { tell(std::move(latest)); });
      continue;
    }
    for (const std::size_t i : chosen) {
      why[i] = sentence("it is one of fewer than ", kFewest, " that the population engine takes");
      left.push_back(i);
    }
  }

  std::map<std::string, std::vector<std::size_t>> kinds;
  std::vector<std::size_t> alone;
  for (const std::size_t i : left) {
    const std::string refusal = refusal_of_group(members[i], device_of(i));
    if (asked != "graph" && refusal.empty()) {
      kinds[kind_of(members[i])].push_back(i);
      continue;
    }
    alone.push_back(i);
    if (asked != "graph") add_reason(refusal, &why[i]);
  }
  for (const auto& [_, chosen] : kinds) {
    const auto rest = with_storage(network_of(members[chosen.front()]).precision(), [&]<class S>() {
      return train_groups<S>(members, chosen, why, &results, tell);
    });
    for (const std::size_t i : rest) {
      alone.push_back(i);
      if (chosen.size() > 1) add_reason("there is no room for it beside others like it", &why[i]);
    }
  }
  std::sort(alone.begin(), alone.end());
  for (const std::size_t i : alone) {
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
