#pragma once

#include <string>

#include "kernels/kernels.h"
#include "tensor.h"

namespace dlcore::ops {

enum class LossKind { cross_entropy, binary_cross_entropy, mse, huber };

struct Loss {
  LossKind kind = LossKind::cross_entropy;
  double delta = 1;  ///< huber

  bool has_labels() const { return kind == LossKind::cross_entropy; }
  ElementLoss element() const;
};

Loss loss_named(const std::string& name, double delta);

/// What the rows of one example are compared with: one class label a row, or one number an element.
struct TargetShape {
  Index rows = 1;      ///< rows an example makes
  Index features = 1;  ///< of the network's output
  Index width = 1;     ///< elements its loss is the mean of: rows for labels, else rows * features
};
TargetShape target_shape(const Loss& loss, const Shape& output);

/// Labels lie in 0..classes-1; ValueError names the first that does not.
void check_labels(const char* operation, const Index* labels, Index count, Index classes);

/// Sums over one batch, from which means follow.
struct LossSums {
  double loss = 0;     ///< sum over examples of weight * mean loss of the example
  double correct = 0;  ///< the same of right answers; stays 0 for mse and huber
  double weight = 0;   ///< sum of the weights

  void add(const LossSums& other);
  double mean_loss() const { return weight > 0 ? loss / weight : 0; }
  double mean_correct() const { return weight > 0 ? correct / weight : 0; }
};

/// Scratch of the losses of one batch, rows elements each.
template <class T>
struct LossScratch {
  T* value;
  T* correct;
  T* row_weight;
};

/// Loss of m examples: x (m * rows, features) logits or predictions, labels or target in the same
/// order, weight (m,) or null. dx, where not null, gets the derivative of loss / total_weight.
template <class T>
LossSums loss_forward_backward(const KernelsOf<T>& kernels, int threads, const Loss& loss,
                               const TargetShape& shape, const T* x, Index ldx, const Index* labels,
                               const T* target, Index ldt, const double* weight,
                               double total_weight, const LossScratch<T>& scratch, T* dx,
                               Index lddx, Index m);

}  // namespace dlcore::ops
