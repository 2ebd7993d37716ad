#pragma once

#include <functional>
#include <limits>
#include <utility>

#include "network.h"

namespace dlcore {

/// Seconds of a clock that only goes forward.
double now();

/// Seconds between calls of progress: Ctrl-C must be answered within 100 ms, and nobody needs more.
inline constexpr double kCallSeconds = 0.05;

/// How a fit goes from epoch to epoch, whatever trains it: its history, early stopping, callbacks,
/// checkpoints, and where it ends when its loss is no longer finite.
class Epochs {
 public:
  Epochs(const FitOptions& options, Index examples, Index steps_per_epoch, const char* engine);

  /// Whether there is another epoch; current() says which.
  bool go_on() const { return current_ < options_.epochs && result_.stop == Stop::completed; }
  Index current() const { return current_; }

  /// The examples in the order of an epoch that begins at this step of the network's life.
  void order(Index step, Index* rows) const;
  /// Starts the clock of an epoch.
  void begin();
  /// Learning rate of a step of an epoch.
  double learning_rate(Index epoch, Index step) const {
    return options_.schedule.at(epoch * steps_per_epoch_ + step, steps_per_epoch_, options_.epochs);
  }
  /// Calls on_progress, at most every kCallSeconds.
  void report(Index epoch, Index steps_done);

  /// What the epoch that has been running since begin() is recorded with.
  EpochRecord record(double learning_rate) const;
  /// Ends the epoch with its record, its sums and those of the validation, where there is any, and
  /// asks whoever listens. `keep_best` keeps the weights, before they can change.
  void end(EpochRecord record, const ops::LossSums& sums, const ops::LossSums* validation,
           const std::function<void()>& keep_best);
  /// Whether weights have been kept; they are to be taken back at the end.
  bool kept_best() const;

  /// Ends the fit, whose loss was not finite in the step after `steps` of the epoch, at the last
  /// weights that gave a finite loss: those before the latest update. `replay(epoch, steps)` takes
  /// the weights to those after so many steps of the epoch that was last begun with a finite loss.
  void diverge(EpochRecord record, Index steps, const std::function<bool()>& parameters_finite,
               const std::function<void(Index, Index)>& replay);

  /// Whether a checkpoint of the current epoch's beginning is wanted now.
  bool wants_checkpoint();
  /// Hands one out, which has its state already.
  void hand_out(Checkpoint checkpoint);
  /// Goes on after a checkpoint's last epoch; whoever trains takes the state.
  void resume(const Checkpoint& checkpoint);

  FitResult take_result() { return std::move(result_); }

 private:
  const FitOptions& options_;
  const Index examples_, steps_per_epoch_;
  FitResult result_;
  Index current_ = 0;
  double begun_ = 0, last_call_ = 0, asked_ = 0, next_checkpoint_ = 0;
  double best_loss_ = std::numeric_limits<double>::infinity();
  Index waited_ = 0;             ///< epochs since the loss was better by min_delta
  Index checkpoint_epoch_ = -1;  ///< the last one that was handed out
};

}  // namespace dlcore
