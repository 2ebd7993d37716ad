#include "statistics.h"

#include <algorithm>
#include <cmath>

#include "parallel.h"

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
Statistics<T>::Statistics(const Graph& graph, const Layout<T>& layout) : layout_(layout) {
  Index most = 0, done = 0;
  const auto cut = [&](Index end, Index slot) {
    for (; done < end; done += pieces_.back().size) {
      pieces_.push_back({done, std::min(kPieceSize, end - done), slot, 0, 0, 0});
    }
  };
  for (std::size_t s = 0; s < layout.slots.size(); ++s) {
    const DenseSlot& slot = layout.slots[s];
    most = std::max(most, slot.out_features);
    names_.push_back({graph.nodes[static_cast<std::size_t>(slot.node)].name});
    cut(slot.weight, -1);
    cut(slot.weight + slot.panels * slot.panel_stride, static_cast<Index>(s));
  }
  cut(layout.size, -1);
  sums_ = names_;
  alive_ = Buffer<T>(most);
}

template <class T>
void Statistics<T>::step(const KernelsOf<T>& kernels, int threads, const Update<T>& update,
                         T* parameters, const T* gradients, T* moment1, T* moment2) {
  parallel_for(threads, static_cast<Index>(pieces_.size()), [&](Index i) {
    Piece& piece = pieces_[static_cast<std::size_t>(i)];
    const Index at = piece.begin, n = piece.size;
    T* w = parameters + at;
    T change[kPieceSize];
    std::copy_n(w, n, change);
    kernels.update(update, w, gradients + at, moment1 == nullptr ? moment1 : moment1 + at,
                   moment2 == nullptr ? moment2 : moment2 + at, n);
    if (piece.slot < 0) return;
    for (Index j = 0; j < n; ++j) change[j] = w[j] - change[j];
    piece.gradient = kernels.sum_squares(gradients + at, n);
    piece.weight = kernels.sum_squares(w, n);
    piece.change = kernels.sum_squares(change, n);
  });
  // Added in order, so that the bits do not depend on the threads.
  std::size_t next = 0;
  for (std::size_t s = 0; s < sums_.size(); ++s) {
    double gradient = 0, weight = 0, change = 0;
    for (; next < pieces_.size() && pieces_[next].slot <= static_cast<Index>(s); ++next) {
      if (pieces_[next].slot < 0) continue;
      gradient += pieces_[next].gradient;
      weight += pieces_[next].weight;
      change += pieces_[next].change;
    }
    sums_[s].gradient_norm += std::sqrt(gradient);
    sums_[s].weight_norm += std::sqrt(weight);
    if (weight > 0) sums_[s].update_ratio += std::sqrt(change) / std::sqrt(weight);
  }
}

template <class T>
void Statistics<T>::look_at_units(const Plan<T>& plan, Index m) {
  ++steps_;
  for (std::size_t s = 0; s < layout_.slots.size(); ++s) {
    LayerStatistics& sum = sums_[s];
    const auto result = plan.result_of(layout_.slots[s].node, m);
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
