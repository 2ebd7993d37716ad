#pragma once

#include <optional>
#include <vector>

#include "device_data.h"
#include "device_network.h"
#include "epochs.h"
#include "fleet.h"
#include "launches.h"

namespace dlcore::cuda {

/// One network on its way through its epochs: what the host knows of it, and the memory that is its
/// alone whoever trains beside it.
struct Trainee {
  /// `number` is that in its fleet, where it has one.
  Trainee(DeviceNetwork& network, const Dataset& data, const FitOptions& options,
          std::optional<std::size_t> number);

  /// Calls f, and lets its errors name the network.
  template <class F>
  void name(F f) const {
    number.has_value() ? name_member(*number, f) : f();
  }
  /// Steps that are left of its epoch.
  Index left() const { return steps_per_epoch - done; }
  /// The order of the epoch that begins at the network's present step.
  void order_epoch();
  /// Works out that of the epoch that begins `steps` steps from now, while the device is busy.
  void order_next(Index steps);
  /// What changes from step to step; width as in ops::TargetShape.
  StepInput input(Index step_in_epoch, double width) const;

  /// Counters at an epoch's start, and whether there has been one.
  struct Start {
    Index optimizer_step = 0, step = 0;
    bool taken = false;
  };

  DeviceNetwork& network;
  const Dataset& given;
  const FitOptions& options;
  const std::optional<std::size_t> number;
  std::optional<DeviceNetwork::Training> training;  ///< until its fit has ended
  DeviceState& state;
  const Index examples, batch, steps_per_epoch;
  Epochs epochs;
  const DeviceData* data = nullptr;
  const DeviceData* validation = nullptr;
  DeviceMemory<double> weight;  ///< of its examples
  DeviceMemory<std::uint32_t> order;
  PinnedMemory<std::uint32_t> pinned_order;
  std::vector<Index> order_of_epoch, next_order;
  Index next_order_step = -1;  ///< step that next_order was shuffled for
  DeviceMemory<float> best;
  Start start, before;  ///< before: until the epoch's first loss is known
  Index slot = 0;       ///< its place beside the others
  bool runs = false;    ///< in the steps that are being enqueued
  Index epoch = 0;      ///< that it runs
  Index done = 0;       ///< steps of it that have been done
  StepState reached;    ///< what they have left
  double learning_rate = 0;
};

}  // namespace dlcore::cuda
