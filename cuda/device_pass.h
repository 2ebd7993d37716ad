#pragma once

#include "device_data.h"
#include "device_plan.h"

namespace dlcore::cuda {

/// A plan taken over examples in order, batch by batch, with the memory that this needs: made once
/// for any number of calls.
template <class S>
class DevicePass final : public KeptPass {
 public:
  using Kind = typename DevicePlan<S>::Kind;

  DevicePass(const Graph& graph, const DeviceLayout& layout, Index batch, Kind kind,
             lt::Precision precision, cudaStream_t stream);

  /// What one call works on; all of it is borrowed.
  struct Call {
    const DeviceData& data;
    const Floats& parameters;
    Context& context;
    double share = 0;  ///< factor of the gradients
    Index random_step = 0;
    std::uint64_t seed = 0;
    bool drop = false;
  };
  /// Goes to the first batch of a call; `call` has to live until wait().
  void begin(const Call& call);
  Index count() const { return (call_->data.view.rows + plan_.batch() - 1) / plan_.batch(); }
  /// Examples of batch i.
  Index rows(Index i) const;
  Step step() const { return {state_.data(), table_.data(), source_.data()}; }
  DevicePlan<S>& plan() { return plan_; }

  /// Outputs of batch i, for each in turn.
  void forward(Index i);
  /// Losses of the batch, and the derivative by the outputs in a plan that trains.
  void loss(const Targets& targets);
  /// Gradients of the batch, added to those of the batches before.
  void backward(Index i, float* gradients);
  /// What the batches have left, once all of them have run. Refuses data that is not finite as
  /// `operation`.
  StepState wait(const char* operation);

  /// Sums of a loss over the call's data.
  ops::LossSums evaluate(const Call& call, const ops::Loss& loss, const char* operation);

  // Memory for whoever calls, kept with the plan.
  DeviceData data;
  DeviceMemory<float> result;
  DeviceMemory<double> scratch;

 private:
  const Graph* graph_;
  bool trains_;
  // What begin() copies to the device, which may read it until wait(); freed after what is there.
  std::vector<StepInput> host_table_;
  StepState host_state_;
  Source host_source_;
  DevicePlan<S> plan_;
  DeviceMemory<Bf16> rounded_;  ///< the weights
  DeviceMemory<StepState> state_;
  DeviceMemory<StepInput> table_;
  DeviceMemory<Source> source_;
  DeviceMemory<std::byte> chunk_;  ///< one batch of data that stays on the host
  Weights<S> weights_;
  const Call* call_ = nullptr;
};

/// Targets of a loss on a graph's output.
Targets targets_of(const Graph& graph, const ops::Loss& loss);

}  // namespace dlcore::cuda
