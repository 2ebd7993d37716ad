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

  /// The optimizer's step, with the norms of the weights, their gradients and their changes.
  void step(const KernelsOf<T>& kernels, int threads, const Update<T>& update, T* parameters,
            const T* gradients, T* moment1, T* moment2);
  /// Dead and saturated units in the values of the same batch, of m examples.
  void look_at_units(const Plan<T>& plan, Index m);
  /// Means over the steps since the last call.
  std::vector<LayerStatistics> take();

 private:
  /// A run of parameters that is updated and measured while it is in the first-level cache.
  struct Piece {
    Index begin, size;
    Index slot;                       ///< whose weights these are; -1 for biases
    double gradient, weight, change;  ///< sums of squares
  };
  static constexpr Index kPieceSize = 4096;

  const Layout<T>& layout_;
  std::vector<Piece> pieces_;
  std::vector<LayerStatistics> sums_, names_;
  Index steps_ = 0;
  Buffer<T> alive_;
};

}  // namespace dlcore
