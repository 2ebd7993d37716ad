#pragma once

#include <limits>
#include <memory>
#include <vector>

#include "device_network.h"
#include "device_pass.h"
#include "launches.h"

namespace dlcore::cuda {

/// Steps through a dataset on the GPU: what cpp/trainer.h does, with the host some steps ahead.
///
/// A step is recorded once as a graph and launched again and again: everything that changes lies in
/// a table in device memory, one entry a step, which the host fills for a slice of an epoch at a
/// time. A step whose loss is not finite sets a flag, and no later one moves the weights, so the
/// host may learn of it late.
template <class S>
class DeviceTrainer {
 public:
  DeviceTrainer(DeviceNetwork& network, const Dataset& data, const FitOptions& options,
                Context& context);
  ~DeviceTrainer();

  FitResult run();

 private:
  enum class Outcome { finished, diverged };
  /// Parameters, moments and counters at one point.
  struct Snapshot {
    DeviceMemory<float> parameters, moment1, moment2;
    Index optimizer_step = 0, step = 0;
    bool taken = false;
  };
  /// What the host fills while the device works on the other one.
  struct Slice {
    PinnedMemory<StepInput> table;
    PinnedMemory<StepState> state;
    PinnedMemory<std::byte> x;  ///< where the data does not fit: rows in order of use
    Event done, copied;
  };

  bool streams() const { return data_.x == nullptr; }
  Step step() const { return {step_state_.data(), table_.data(), source_.data()}; }
  Weights<S> weights() const;
  void round_weights();
  Outcome run_epoch(Index epoch, EpochRecord* record, Index* steps_done);
  /// Steps 0 .. count of an epoch; returns how many came before one whose loss was not finite.
  Index run_steps(Index epoch, Index count);
  void fill(Slice& slice, Index epoch, Index begin, Index count, Index parity);
  void fetch(Slice& slice, Index begin, Index count, Index parity);
  void enqueue_forward();
  void enqueue_backward();
  void enqueue_first_step();
  void launch(Index steps);
  void replay(Index epoch, Index steps);
  void report_progress(Index epoch, Index steps_done);
  /// Hands out the epoch's snapshot, once its first step is known to have been finite.
  void offer_checkpoint(Index epoch);
  /// Takes the state from options.resume; returns the epoch to go on with.
  Index resume();
  std::string diverged(Index epoch, Index steps_done);
  bool parameters_finite();
  /// The order of the epoch that begins at a step of the network's life.
  void shuffle(std::vector<Index>* order, Index step) const;
  /// Shuffles for the next epoch while the device is busy with the rest of this one.
  void prepare_order(Index steps);
  void begin_epoch();
  void take_counters(const Snapshot& snapshot);
  /// Back to the epoch's start.
  void restore();
  [[noreturn]] void refuse_data();
  ops::LossSums validate(Index epoch);
  /// One step whose gradients and values are looked at.
  void measure(Index step_in_epoch);
  std::vector<LayerStatistics> take_statistics();

  DeviceNetwork& network_;
  DeviceState& state_;
  const Dataset& given_;
  const FitOptions& options_;
  Context& context_;
  const cudaStream_t stream_;
  Stream copies_;  ///< of data that does not fit
  const Index examples_, batch_, steps_per_epoch_;
  const Targets targets_;
  DevicePlan<S> plan_;
  DeviceData data_, validation_;
  std::unique_ptr<DevicePass<S>> validates_;
  DeviceMemory<Source> source_;
  DeviceMemory<float> gradients_;
  DeviceMemory<Bf16> rounded_;
  DeviceMemory<double> scratch_;
  DeviceMemory<double> norm_;
  DeviceMemory<StepState> step_state_;
  DeviceMemory<StepInput> table_;
  DeviceMemory<std::uint32_t> order_;
  DeviceMemory<std::byte> chunks_;  ///< two, of the rows of a slice
  Index slice_steps_ = 0;           ///< at most, in one slice
  Slice slices_[2];
  std::vector<Index> order_of_epoch_, next_order_;
  Index next_order_step_ = -1;  ///< step that next_order_ was shuffled for
  PinnedMemory<std::uint32_t> pinned_order_;
  Recording step_, several_;
  Snapshot epoch_start_, before_;  ///< before_: counters alone, until the first loss is known
  DeviceMemory<float> best_;
  // Statistics, summed over the steps measured.
  std::vector<LayerStatistics> sums_;
  Index measured_ = 0;
  double learning_rate_ = 0;
  double last_call_ = 0, next_checkpoint_ = 0;
  bool offered_ = false;  ///< in this epoch
  FitResult result_;
  double best_loss_ = std::numeric_limits<double>::infinity();
  Index waited_ = 0;  ///< epochs since the loss was better by min_delta
};

}  // namespace dlcore::cuda
