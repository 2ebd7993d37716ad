#pragma once

#include <string>
#include <vector>

#include "network.h"
#include "parameters.h"
#include "plan.h"

namespace dlcore {

/// Health of each dense layer in training, measured at every 64th step, whose gradients are kept
/// and not spent at once on the weights; the weights get the same bits either way.
template <class T>
class Statistics {
 public:
  Statistics(const Graph& graph, const Layout<T>& layout);

  static constexpr Index kEvery = 64;

  /// Before the optimizer's step.
  void before(const T* parameters);
  /// After it, with the gradient that went into it and the values of its batch of m examples.
  void after(const Plan<T>& plan, const T* gradients, const T* parameters, Index m);
  /// Means over the steps since the last call.
  std::vector<LayerStatistics> take();

 private:
  const Layout<T>& layout_;
  std::vector<LayerStatistics> sums_, names_;
  Index steps_ = 0;
  Buffer<T> parameters_, alive_;
};

}  // namespace dlcore
