#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "epochs.h"
#include "network.h"
#include "statistics.h"

namespace dlcore {

/// Parameters and what the optimizer keeps of them.
template <class T>
struct State {
  Buffer<T> parameters;
  Buffer<T> moment1, moment2;  ///< as many as the optimizer needs, else empty
  Index optimizer_step = 0;    ///< steps since the state began
  Index step = 0;              ///< steps in the network's life: random numbers are keyed by it

  void copy_from(const State& other);
};

/// Takes a plan over a dataset: shuffled epochs of batches, each gathered, passed forward and
/// backward, and followed by one optimizer step.
template <class T>
class Trainer {
 public:
  Trainer(const Graph& graph, const Layout<T>& layout, State<T>& state, const Dataset& data,
          const FitOptions& options);

  FitResult run();

 private:
  void run_epoch();
  /// Rows of one step in the epoch's order; `known` of them, m or more, say what comes next.
  struct Batch {
    const Index* rows = nullptr;
    Index known = 0, m = 0;
  };
  /// No rows where the epoch has no such step.
  Batch batch_of(Index step_in_epoch) const;
  /// Gathers these features of a piece of the batch to y; false where data is not finite.
  bool gather(const Batch& batch, Part piece, Part features, T* y, Index ldy);
  /// Memory of these features of the examples that come after a piece of the batch, of as many.
  Wanted after(const Batch& batch, Part piece, Part features) const;
  /// Gathers one slice of a part of the batch, or all of it, and makes the sums of the first
  /// product; false as above.
  bool begin_slice(const Batch& batch, Index slice, Part rows);
  bool begin_slices(const Batch& batch);
  /// Gradients of all parameters where the first product is made from slices, and at once the
  /// beginning of the batch that follows, where there is one: a thread goes on with its slice.
  void end_slices(const Batch& batch, const typename Plan<T>::Sink& sink, const Batch& next);
  /// Passes a piece of the batch forward and works out its loss and the derivative by its outputs.
  void forward_and_loss(const Batch& batch, Part piece, bool sliced, double weight,
                        const ops::DropoutKey& dropout, ops::LossSums* sums);
  /// One step; false where the loss is not finite, and then nothing was changed.
  bool run_step(Index epoch, Index step_in_epoch, ops::LossSums* sums);
  /// Takes the state back to the snapshot and does the first `steps` steps of the epoch again.
  void replay(Index epoch, Index steps);
  void offer_checkpoint();
  /// Takes the state from options.resume.
  void resume();
  bool parameters_finite() const;
  /// Loss on the validation data after this epoch.
  ops::LossSums validate();
  /// Throws with row and column of the first value that is not finite.
  void refuse_data();

  const Graph& graph_;
  const Layout<T>& layout_;
  State<T>& state_;
  const Dataset& data_;
  const FitOptions& options_;
  const Kernels& kernels_;
  const ops::TargetShape target_;
  const Index examples_, batch_, steps_per_epoch_;
  Epochs epochs_;
  bool fused_;
  Plan<T> plan_;
  std::unique_ptr<Plan<T>> validation_plan_;
  std::unique_ptr<Statistics<T>> statistics_;
  Buffer<T> gradients_;  ///< only where the update is not fused
  Buffer<double> norms_;
  State<T> epoch_start_, best_;
  std::vector<Index> order_;
  std::vector<Index> labels_;  ///< of one batch, gathered
  Buffer<T> targets_;
  std::vector<double> weights_;
  std::vector<ops::LossSums> loss_sums_;  ///< by piece
  /// Whether the data of the next step is finite, where that has been begun.
  std::optional<bool> begun_;
  double learning_rate_ = 0;
};

/// Loss of all examples of a dataset in pieces of the plan's batch.
template <class T>
ops::LossSums evaluate_dataset(Plan<T>& plan, const T* parameters, const Dataset& data,
                               const ops::Loss& loss, const ops::TargetShape& target, int threads,
                               const char* operation);

/// Throws "operation: x holds nan at row 3, column 7; ..." for the first such value.
[[noreturn]] void refuse_not_finite(const char* operation, const RowsView& x, const Index* rows,
                                    Index count);

}  // namespace dlcore
