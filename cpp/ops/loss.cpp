#include "ops/loss.h"

#include <algorithm>
#include <cstdint>

#include "check.h"
#include "parallel.h"

namespace dlcore::ops {
namespace {

/// Logits above 0 answer yes, targets above 1/2 are yes; the mean over the row.
template <class T>
T binary_accuracy(const T* x, const T* target, Index n) {
  Index right = 0;
  for (Index j = 0; j < n; ++j) right += (x[j] > 0) == (target[j] > T(0.5)) ? 1 : 0;
  return static_cast<T>(right) / static_cast<T>(n);
}

}  // namespace

ElementLoss Loss::element() const {
  switch (kind) {
    case LossKind::binary_cross_entropy: return ElementLoss::binary_cross_entropy;
    case LossKind::huber: return ElementLoss::huber;
    default: return ElementLoss::mse;
  }
}

Loss loss_named(const std::string& name, double delta) {
  if (name == "cross_entropy") return {LossKind::cross_entropy, delta};
  if (name == "binary_cross_entropy") return {LossKind::binary_cross_entropy, delta};
  if (name == "mse") return {LossKind::mse, delta};
  check(name == "huber", "loss: \"", name,
        "\" is not one of cross_entropy, binary_cross_entropy, mse, huber");
  check(delta > 0, "huber: delta must be positive, found ", delta);
  return {LossKind::huber, delta};
}

TargetShape target_shape(const Loss& loss, const Shape& output) {
  TargetShape shape;
  for (std::size_t i = 0; i + 1 < output.size(); ++i) shape.rows *= output[i];
  shape.features = output.back();
  shape.width = loss.has_labels() ? shape.rows : shape.rows * shape.features;
  return shape;
}

void check_labels(const char* operation, const Index* labels, Index count, Index classes) {
  // First without leaving the loop early: a fleet looks through the same labels for every network.
  bool good = true;
  for (Index i = 0; i < count; ++i) {
    good &= static_cast<std::uint64_t>(labels[i]) < static_cast<std::uint64_t>(classes);
  }
  if (good) return;
  for (Index i = 0; i < count; ++i) {
    check(labels[i] >= 0 && labels[i] < classes, operation, ": labels must lie in 0..", classes - 1,
          " for ", classes, " classes, found ", labels[i], " at index ", i);
  }
}

void LossSums::add(const LossSums& other) {
  loss += other.loss;
  correct += other.correct;
  weight += other.weight;
}

template <class T>
LossSums loss_forward_backward(const KernelsOf<T>& kernels, int threads, const Loss& loss,
                               const TargetShape& shape, const T* x, Index ldx, const Index* labels,
                               const T* target, Index ldt, const double* weight,
                               double total_weight, const LossScratch<T>& scratch, T* dx,
                               Index lddx, Index m) {
  const Index rows = m * shape.rows, n = shape.features;
  const double share = total_weight > 0 ? 1 / (total_weight * static_cast<double>(shape.width)) : 0;
  const Index tasks = std::clamp<Index>(rows * n / (1 << 13), 1, std::max<Index>(rows, 1));
  parallel_for(threads, tasks, [&](Index task) {
    const Part r = part(task, tasks, rows, 1);
    const Index begin = r.begin, count = r.end - r.begin;
    for (Index i = r.begin; i < r.end; ++i) {
      const double w = weight == nullptr ? 1 : weight[i / shape.rows];
      scratch.row_weight[i] = static_cast<T>(w * share);
    }
    T* gradient = dx == nullptr ? dx : dx + begin * lddx;
    if (loss.has_labels()) {
      kernels.cross_entropy(x + begin * ldx, ldx, labels + begin, scratch.row_weight + begin,
                            scratch.value + begin, scratch.correct + begin, gradient, lddx, count,
                            n);
    } else {
      kernels.element_loss(loss.element(), static_cast<T>(loss.delta), x + begin * ldx, ldx,
                           target + begin * ldt, ldt, scratch.row_weight + begin,
                           scratch.value + begin, gradient, lddx, count, n);
      for (Index i = r.begin; i < r.end; ++i) {
        scratch.correct[i] = loss.kind == LossKind::binary_cross_entropy
                                 ? binary_accuracy(x + i * ldx, target + i * ldt, n)
                                 : T{0};
      }
    }
    // A row of weight 0 counts as absent, even where its loss is not finite.
    for (Index i = r.begin; dx != nullptr && i < r.end; ++i) {
      if (scratch.row_weight[i] == 0) std::fill_n(dx + i * lddx, n, T{0});
    }
  });
  // One chain over the rows, whatever the tasks were.
  LossSums sums;
  const double per_row = 1 / static_cast<double>(shape.rows);
  const double per_element = 1 / static_cast<double>(shape.width);
  for (Index i = 0; i < rows; ++i) {
    const double w = weight == nullptr ? 1 : weight[i / shape.rows];
    if (w == 0) continue;
    sums.loss += w * static_cast<double>(scratch.value[i]) * per_element;
    sums.correct += w * static_cast<double>(scratch.correct[i]) * per_row;
    sums.weight += w * per_row;
  }
  return sums;
}

#define DLCORE_INSTANTIATE(T)                                                                   \
  template LossSums loss_forward_backward(                                                      \
      const KernelsOf<T>&, int, const Loss&, const TargetShape&, const T*, Index, const Index*, \
      const T*, Index, const double*, double, const LossScratch<T>&, T*, Index, Index);
DLCORE_INSTANTIATE(float)
DLCORE_INSTANTIATE(double)
#undef DLCORE_INSTANTIATE

}  // namespace dlcore::ops
