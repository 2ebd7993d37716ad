#include "ops/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "check.h"
#include "parallel.h"

namespace dlcore::ops {
namespace {

constexpr Index kPiece = Index{1} << 15;

}  // namespace

Rule rule_named(const std::string& name) {
  if (name == "sgd") return Rule::sgd;
  if (name == "adam") return Rule::adam;
  check(name == "adamw", "optimizer: \"", name, "\" is not one of sgd, adam, adamw");
  return Rule::adamw;
}

Schedule::Kind schedule_named(const std::string& name) {
  if (name == "constant") return Schedule::Kind::constant;
  if (name == "step") return Schedule::Kind::step;
  check(name == "cosine", "schedule: \"", name, "\" is not one of constant, step, cosine");
  return Schedule::Kind::cosine;
}

double Schedule::at(Index step, Index steps_per_epoch, Index fit_epochs) const {
  const double t = static_cast<double>(step) / static_cast<double>(steps_per_epoch);
  double rate = learning_rate;
  if (kind == Kind::step) {
    rate *= std::pow(factor, std::floor(t / epochs));
  } else if (kind == Kind::cosine) {
    const double length = epochs > 0 ? epochs : static_cast<double>(fit_epochs);
    const double angle = std::numbers::pi * std::min(t / length, 1.0);
    rate = final + (learning_rate - final) * (1 + std::cos(angle)) / 2;
  }
  if (warmup_epochs > 0) {
    const double steps = warmup_epochs * static_cast<double>(steps_per_epoch);
    rate *= std::min(1.0, static_cast<double>(step + 1) / steps);
  }
  return rate;
}

template <class T>
Update<T> update_of(const Optimizer& optimizer, double learning_rate, double gradient_scale,
                    Index step) {
  Update<T> update;
  update.rule = optimizer.rule;
  update.nesterov = optimizer.nesterov;
  update.learning_rate = static_cast<T>(learning_rate);
  update.weight_decay = static_cast<T>(optimizer.weight_decay);
  update.momentum = static_cast<T>(optimizer.momentum);
  update.beta1 = static_cast<T>(optimizer.beta1);
  update.beta2 = static_cast<T>(optimizer.beta2);
  update.complement1 = static_cast<T>(1 - optimizer.beta1);
  update.complement2 = static_cast<T>(1 - optimizer.beta2);
  update.epsilon = static_cast<T>(optimizer.epsilon);
  const auto t = static_cast<double>(step);
  update.step_size = static_cast<T>(learning_rate / (1 - std::pow(optimizer.beta1, t)));
  update.inverse_root = static_cast<T>(1 / std::sqrt(1 - std::pow(optimizer.beta2, t)));
  update.decay = static_cast<T>(learning_rate * optimizer.weight_decay);
  update.gradient_scale = static_cast<T>(gradient_scale);
  return update;
}

template <class T>
void optimizer_step(const KernelsOf<T>& kernels, int threads, const Update<T>& update, T* w,
                    const T* dw, T* state1, T* state2, Index n) {
  const Index tasks = std::max<Index>(1, n / kPiece);
  parallel_for(threads, tasks, [&](Index task) {
    const Part p = part(task, tasks, n, kPanel<T>);
    kernels.update(update, w + p.begin, dw + p.begin, state1 == nullptr ? state1 : state1 + p.begin,
                   state2 == nullptr ? state2 : state2 + p.begin, p.end - p.begin);
  });
}

Index norm_pieces(Index n) { return (n + kPiece - 1) / kPiece; }

template <class T>
double norm(const KernelsOf<T>& kernels, int threads, const T* x, Index n, double* scratch) {
  const Index tasks = norm_pieces(n);
  parallel_for(threads, tasks, [&](Index task) {
    const Index begin = task * kPiece;
    scratch[task] = kernels.sum_squares(x + begin, std::min(kPiece, n - begin));
  });
  double sum = 0;
  for (Index i = 0; i < tasks; ++i) sum += scratch[i];
  return std::sqrt(sum);
}

double clip_factor(double norm, double clip_norm) {
  return clip_norm > 0 ? std::min(1.0, clip_norm / (norm + 1e-6)) : 1.0;
}

#define DLCORE_INSTANTIATE(T)                                                                    \
  template Update<T> update_of(const Optimizer&, double, double, Index);                         \
  template void optimizer_step(const KernelsOf<T>&, int, const Update<T>&, T*, const T*, T*, T*, \
                               Index);                                                           \
  template double norm(const KernelsOf<T>&, int, const T*, Index, double*);
DLCORE_INSTANTIATE(float)
DLCORE_INSTANTIATE(double)
#undef DLCORE_INSTANTIATE

}  // namespace dlcore::ops
