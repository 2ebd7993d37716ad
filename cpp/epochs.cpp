#include "epochs.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <string>
#include <utility>

#include "check.h"
#include "random.h"

namespace dlcore {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Epochs::Epochs(const FitOptions& options, Index examples, Index steps_per_epoch, const char* engine)
    : options_(options),
      examples_(examples),
      steps_per_epoch_(steps_per_epoch),
      last_call_(now()),
      next_checkpoint_(last_call_ + options.checkpoint_seconds) {
  result_.engine = engine;
}

void Epochs::order(Index step, Index* rows) const {
  if (options_.rows == nullptr) {
    std::iota(rows, rows + examples_, Index{0});
  } else {
    std::copy_n(options_.rows, examples_, rows);
  }
  if (!options_.shuffle) return;
  philox::shuffle(options_.seed, static_cast<std::uint64_t>(step), rows, examples_);
}

void Epochs::begin() { begun_ = now(); }

void Epochs::report(Index epoch, Index steps_done) {
  if (!options_.on_progress || now() - last_call_ < kCallSeconds) return;
  last_call_ = now();
  options_.on_progress(epoch, steps_done, steps_per_epoch_);
}

EpochRecord Epochs::record(double learning_rate) const {
  EpochRecord record;
  record.epoch = current_;
  record.learning_rate = learning_rate;
  record.seconds = now() - begun_;
  record.examples_per_second = static_cast<double>(examples_) / std::max(record.seconds, 1e-9);
  return record;
}

void Epochs::end(EpochRecord record, const ops::LossSums& sums, const ops::LossSums* validation,
                 const std::function<void()>& keep_best) {
  const bool counts = options_.loss.kind == ops::LossKind::cross_entropy ||
                      options_.loss.kind == ops::LossKind::binary_cross_entropy;
  double watched = record.loss = sums.mean_loss();
  if (counts) record.accuracy = sums.mean_correct();
  if (validation != nullptr) {
    record.val_loss = watched = validation->mean_loss();
    if (counts) record.val_accuracy = validation->mean_correct();
  }
  result_.epochs.push_back(record);
  if (options_.early_stopping.has_value()) {
    const EarlyStopping& early = *options_.early_stopping;
    // min_delta decides about patience; the best weights are the best of all.
    waited_ = watched < best_loss_ - early.min_delta ? 0 : waited_ + 1;
    if (watched < best_loss_) {
      best_loss_ = watched;
      result_.best_epoch = current_;
      if (early.restore_best) keep_best();
    }
    if (waited_ >= early.patience) {
      result_.stop = Stop::early_stopping;
      result_.message = sentence("fit: no improvement in ", early.patience, " epochs");
    }
  }
  if (options_.on_epoch && !options_.on_epoch(record) && result_.stop == Stop::completed) {
    result_.stop = Stop::callback;
    result_.message = "fit: stopped by on_epoch";
  }
  ++current_;
}

bool Epochs::kept_best() const {
  return options_.early_stopping.has_value() && options_.early_stopping->restore_best &&
         result_.best_epoch >= 0;
}

void Epochs::diverge(EpochRecord record, Index steps,
                     const std::function<bool()>& parameters_finite,
                     const std::function<void(Index, Index)>& replay) {
  const std::string where =
      sentence("fit: the loss is no longer finite at step ", steps + 1, " of epoch ", current_ + 1,
               " (learning rate ", record.learning_rate, "); ");
  result_.stop = Stop::diverged;
  // Weights are updated in place, so the last good ones come from a snapshot and the steps since
  // then once more. Where that would undo the only step of the fit, its result stays if it is
  // finite.
  const Index all_steps = current_ * steps_per_epoch_ + steps;
  Index epoch = current_;
  if (steps == 0 && epoch > 0) {
    --epoch;
    steps = steps_per_epoch_;
  }
  Index kept = all_steps;
  if (all_steps > 1 || !parameters_finite()) {
    do {
      steps = std::max<Index>(steps - 1, 0);
      if (all_steps > 0) replay(epoch, steps);
    } while (steps > 0 && !parameters_finite());
    kept = epoch * steps_per_epoch_ + steps;
  }
  result_.message =
      sentence(where, "the weights are those after ", kept, " of ", all_steps,
               " steps; try a smaller learning rate, clip_norm=1.0 or standardised data");
  result_.epochs.push_back(std::move(record));
}

bool Epochs::wants_checkpoint() {
  asked_ = now();
  return options_.on_checkpoint && go_on() && checkpoint_epoch_ != current_ &&
         asked_ >= next_checkpoint_;
}

void Epochs::hand_out(Checkpoint c) {
  checkpoint_epoch_ = current_;
  c.epoch = current_;
  c.best = best_loss_;
  c.waited = waited_;
  c.best_epoch = result_.best_epoch;
  c.epochs = result_.epochs;
  options_.on_checkpoint(c);
  if (options_.checkpoint_seconds == 0) return;
  // Where writing takes long it is done less often, so that it takes a twentieth of the time.
  next_checkpoint_ = now() + std::max(options_.checkpoint_seconds, 19 * (now() - asked_));
}

void Epochs::resume(const Checkpoint& c) {
  check(c.epoch >= 0 && c.epoch < options_.epochs && c.step >= 0 && c.optimizer_step >= 0 &&
            c.waited >= 0 && c.best_epoch < c.epoch &&
            static_cast<Index>(c.epochs.size()) == c.epoch,
        "fit: the checkpoint is at epoch ", c.epoch, " of ", options_.epochs, " with ",
        c.epochs.size(), " records");
  current_ = c.epoch;
  best_loss_ = c.best;
  waited_ = c.waited;
  result_.best_epoch = c.best_epoch;
  result_.epochs = c.epochs;
}

}  // namespace dlcore
