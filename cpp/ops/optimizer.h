#pragma once

#include <string>

#include "kernels/kernels.h"
#include "tensor.h"

namespace dlcore::ops {

/// An optimizer's settings; the learning rate comes from the schedule.
struct Optimizer {
  Rule rule = Rule::sgd;
  double momentum = 0;
  bool nesterov = false;
  double weight_decay = 0;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;

  /// Arrays of state, each as large as the parameters.
  int states() const { return rule == Rule::sgd ? (momentum != 0 ? 1 : 0) : 2; }
  /// Whether the state kept for one serves the other.
  bool shares_state(const Optimizer& other) const {
    return rule == other.rule && states() == other.states();
  }
};

Rule rule_named(const std::string& name);

/// The learning rate over one fit, in epochs t = step / steps_per_epoch.
struct Schedule {
  enum class Kind { constant, step, cosine };
  Kind kind = Kind::constant;
  double learning_rate = 0;
  double epochs = 0;         ///< step: length of a stair; cosine: length of the half wave, 0 = fit
  double factor = 0.1;       ///< step
  double final = 0;          ///< cosine
  double warmup_epochs = 0;  ///< linear from 0 over the first of them

  /// Rate of step `step`, counted from 0 within the fit.
  double at(Index step, Index steps_per_epoch, Index fit_epochs) const;
};

Schedule::Kind schedule_named(const std::string& name);

/// Coefficients of the optimizer's step number `step`, counted from 1.
template <class T>
Update<T> update_of(const Optimizer& optimizer, double learning_rate, double gradient_scale,
                    Index step);

/// One step on n elements (whole panels); a state the rule does not use is null.
template <class T>
void optimizer_step(const KernelsOf<T>& kernels, int threads, const Update<T>& update, T* w,
                    const T* dw, T* state1, T* state2, Index n);

/// Euclidean norm of n elements: partial sums of fixed pieces, added in order; scratch holds
/// norm_pieces(n) of them.
Index norm_pieces(Index n);
template <class T>
double norm(const KernelsOf<T>& kernels, int threads, const T* x, Index n, double* scratch);

/// Factor that clips a gradient of this norm: min(1, clip_norm / (norm + 1e-6)), as PyTorch's
/// clip_grad_norm_; 1 where clip_norm is 0.
double clip_factor(double norm, double clip_norm);

}  // namespace dlcore::ops
