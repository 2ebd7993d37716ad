#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "device_pass.h"
#include "trainee.h"

namespace dlcore::cuda {

/// Steps one network through a dataset on the GPU, or several beside each other: what
/// cpp/trainer.h does, with the host some steps ahead.
///
/// A step is recorded once as a graph and launched again and again: everything that changes lies in
/// a table in device memory, one row a step with an entry for each network, which the host fills
/// for a slice of an epoch at a time. A network whose loss is not finite sets its flag, and no
/// later step moves its weights, so the host may learn of it late. One whose fit has ended rests;
/// when half of them do, the others move together.
template <class S>
class DeviceTrainer {
 public:
  /// Networks that are alike (device_fleet.cpp says in what); all arguments have to outlive it.
  DeviceTrainer(std::vector<Trainee*> trainees, SharedData& shared, Context& context);
  ~DeviceTrainer();

  /// Trains all of them. Calls on_finish with each whose fit has ended, and between slices on_tick.
  void run(const std::function<void(Trainee&)>& on_finish, const std::function<void()>& on_tick);

  /// Bytes on the device that each network of a group takes, the data of all left out.
  static Index bytes_each(const Member& member);

 private:
  using Kind = typename DevicePlan<S>::Kind;
  /// Parameters and moments, as many arrays as there are, each of all networks.
  struct Arena {
    Arena() = default;
    Arena(Index size, int states);
    DeviceMemory<float> memory;
    std::vector<float*> arrays;
  };
  /// What the host fills while the device works on the other one.
  struct Slice {
    PinnedMemory<StepInput> table;
    PinnedMemory<StepState> state;
    PinnedMemory<std::byte> x;  ///< where the data does not fit: rows in order of use
    Event done, copied;
  };

  Index networks() const { return static_cast<Index>(slots_.size()); }
  /// Where in the arenas a network's numbers begin.
  Index at(const Trainee& t) const { return t.slot * layout_.size; }
  /// For what is alike in all, and for what only a network alone can have.
  Trainee& first() const { return *slots_.front(); }
  const Graph& graph() const { return first().network.graph(); }
  Step step() const { return {step_state_.data(), table_.data(), source_.data(), networks()}; }
  bool streams() const { return first().data->x == nullptr; }
  Weights<S> weights() const;
  void round_weights();

  void take_data(Trainee& t, SharedData& shared);
  void build_plan();
  /// Lets the device know the networks by their places.
  void settle_in();
  /// Puts a network's numbers into a place of the arena, or back into its own memory.
  void place(Trainee& t, Index slot);
  void bring_back(Trainee& t);
  /// Moves those that still train together, when they are half or fewer.
  void move_together();

  void begin_epoch(Trainee& t, Index epoch);
  /// `count` steps of all that run; then their counters say how many came before one whose loss was
  /// not finite.
  void run_steps(Index count);
  /// Waits, and takes up what `enqueued` steps have left.
  void take_up(const std::vector<Trainee*>& running, Index enqueued);
  void report(const std::vector<Trainee*>& running, Index enqueued);
  void fill(Slice& slice, Index begin, Index count, Index parity);
  void fetch(Slice& slice, Index begin, Index count, Index parity);
  void enqueue_forward();
  void enqueue_backward();
  void enqueue_first_step();
  void launch(Index steps);
  /// Ends the epoch, or the fit, where the steps have come to that.
  void end_steps(Trainee& t);
  ops::LossSums validate(Trainee& t);
  void conclude(Trainee& t);

  /// Sums the squares of everybody's parameters, which tell whether all are finite.
  void look_at_parameters();
  /// Back to the epoch's start.
  void restore(Trainee& t);
  void replay(Trainee& t, Index epoch, Index steps);
  [[noreturn]] void refuse_data(Trainee& t);

  // Of a network alone:
  /// Hands out the epoch's snapshot, once its first step is known to have been finite.
  void offer_checkpoint();
  /// Takes the state from options.resume.
  void resume();
  /// One step whose gradients and values are looked at (device_statistics.cpp).
  void measure(Index step_in_epoch);
  std::vector<LayerStatistics> take_statistics();

  std::vector<Trainee*> slots_;
  Context& context_;
  const cudaStream_t stream_;
  Stream copies_;  ///< of data that does not fit
  const DeviceLayout& layout_;
  const FitOptions& options_;  ///< the first one's, for what is alike in all
  const Index batch_;
  const Targets targets_;
  Arena own_;                 ///< of a group; a network alone trains in its own memory
  std::vector<float*> live_;  ///< the arrays of either
  Arena start_;               ///< of the running epoch, or the one before until its loss is known
  DeviceMemory<float> gradients_;
  DeviceMemory<Bf16> rounded_;
  DeviceMemory<double> scratch_, norms_;
  std::vector<double> squares_;  ///< of each network's parameters
  DeviceMemory<StepState> step_state_;
  DeviceMemory<Source> source_;
  DeviceMemory<StepInput> table_;
  std::optional<DevicePlan<S>> plan_;
  std::unique_ptr<DevicePass<S>> validates_;
  DeviceMemory<std::byte> chunks_;  ///< two, of the rows of a slice
  Index slice_steps_ = 0;           ///< at most, in one slice
  Slice slices_[2];
  Recording step_, several_;
  std::function<void()> on_tick_;
  // Statistics, summed over the steps measured.
  std::vector<LayerStatistics> sums_;
  Index measured_ = 0;
};

}  // namespace dlcore::cuda
