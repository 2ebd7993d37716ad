#include "statistics.h"

#include <algorithm>
#include <cmath>

namespace dlcore {
namespace {

// A sigmoid this near to 0 or 1, or a tanh this near to -1 or 1, passes on less than 4 % of the
// largest gradient it can.
constexpr double kSaturated = 0.01;

/// Share of units whose result is not positive for any row; alive is scratch of n.
template <class T>
double dead_fraction(const T* y, Index ld, Index rows, Index n, T* alive) {
  std::copy_n(y, n, alive);
  for (Index i = 1; i < rows; ++i) {
    for (Index j = 0; j < n; ++j) alive[j] = std::max(alive[j], y[i * ld + j]);
  }
  const auto dead = std::count_if(alive, alive + n, [](T best) { return !(best > 0); });
  return static_cast<double>(dead) / static_cast<double>(n);
}

/// Share of results within kSaturated of the range's ends.
template <class T>
double saturated_fraction(const T* y, Index ld, Index rows, Index n, T low) {
  const T margin = static_cast<T>(kSaturated) * (T{1} - low);
  Index saturated = 0;
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < n; ++j) {
      saturated += y[i * ld + j] < low + margin || y[i * ld + j] > T{1} - margin ? 1 : 0;
    }
  }
  return static_cast<double>(saturated) / static_cast<double>(rows * n);
}

}  // namespace

template <class T>
Statistics<T>::Statistics(const Graph& graph, const Layout<T>& layout)
    : layout_(layout), parameters_(layout.size) {
  Index most = 0;
  for (const DenseSlot& slot : layout.slots) {
    most = std::max(most, slot.out_features);
    names_.push_back({graph.nodes[static_cast<std::size_t>(slot.node)].name});
  }
  sums_ = names_;
  alive_ = Buffer<T>(most);
}

template <class T>
void Statistics<T>::before(const T* parameters) {
  std::copy_n(parameters, layout_.size, parameters_.data());
}

template <class T>
void Statistics<T>::after(const Plan<T>& plan, const T* gradients, const T* parameters, Index m) {
  const auto& kernels = plan.kernels().template of<T>();
  const auto length = [&](const T* x, Index n) { return std::sqrt(kernels.sum_squares(x, n)); };
  ++steps_;
  T* change = parameters_.data();
  for (Index i = 0; i < layout_.size; ++i) change[i] = parameters[i] - change[i];
  for (std::size_t s = 0; s < layout_.slots.size(); ++s) {
    const DenseSlot& slot = layout_.slots[s];
    const Index size = slot.panels * slot.panel_stride;
    LayerStatistics& sum = sums_[s];
    sum.gradient_norm += length(gradients + slot.weight, size);
    const double weight = length(parameters + slot.weight, size);
    sum.weight_norm += weight;
    if (weight > 0) sum.update_ratio += length(change + slot.weight, size) / weight;
    const auto result = plan.result_of(slot.node, m);
    switch (result.activation) {
      case Activation::relu:
        sum.dead += dead_fraction(result.y, result.ld, result.rows, result.n, alive_.data());
        sum.saturated = kNone;
        break;
      case Activation::sigmoid:
      case Activation::tanh:
        sum.dead = kNone;
        sum.saturated +=
            saturated_fraction(result.y, result.ld, result.rows, result.n,
                               result.activation == Activation::sigmoid ? T{0} : T{-1});
        break;
      default: sum.dead = sum.saturated = kNone;
    }
  }
}

template <class T>
std::vector<LayerStatistics> Statistics<T>::take() {
  std::vector<LayerStatistics> means = sums_;
  const double steps = steps_ > 0 ? static_cast<double>(steps_) : kNone;
  for (LayerStatistics& mean : means) {
    for (double* value : {&mean.gradient_norm, &mean.weight_norm, &mean.update_ratio, &mean.dead,
                          &mean.saturated}) {
      *value /= steps;
    }
  }
  sums_ = names_;
  steps_ = 0;
  return means;
}

template class Statistics<float>;
template class Statistics<double>;

}  // namespace dlcore
