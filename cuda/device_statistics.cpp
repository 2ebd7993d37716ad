// What a fit with statistics measures of a step: on the host, of copies.

#include <cmath>

#include "device_trainer.h"
#include "statistics.h"

namespace dlcore::cuda {
namespace {

double length(const float* x, Index n) {
  double sum = 0;
  for (Index i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return std::sqrt(sum);
}

/// Adds the share of units that are not positive in any row (ReLU), or of results within 1 % of the
/// range's ends (see cpp/statistics.cpp).
void measure_result(const float* y, Index ld, Index rows, Index n, float low, bool relu,
                    LayerStatistics* sum) {
  const float margin = 0.01f * (1.0f - low);
  Index dead = 0, saturated = 0;
  for (Index j = 0; j < n; ++j) {
    bool alive = false;
    for (Index i = 0; i < rows; ++i) {
      const float value = y[i * ld + j];
      alive = alive || value > 0;
      saturated += value < low + margin || value > 1.0f - margin ? 1 : 0;
    }
    dead += alive ? 0 : 1;
  }
  if (relu) {
    sum->dead += static_cast<double>(dead) / static_cast<double>(n);
  } else {
    sum->saturated += static_cast<double>(saturated) / static_cast<double>(rows * n);
  }
}

}  // namespace

template <class S>
void DeviceTrainer<S>::measure(Index step_in_epoch) {
  const Index size = gradients_.size();
  std::vector<float> before(static_cast<std::size_t>(size)), after(before), gradients(before);
  copy(before.data(), live_[0], size, stream_);
  if (step_in_epoch == 0) {
    enqueue_first_step();
  } else {
    enqueue_forward();
    enqueue_backward();
  }
  copy(after.data(), live_[0], size, stream_);
  copy(gradients.data(), gradients_.data(), size, stream_);
  StepState state;
  copy(&state, step_state_.data(), 1, stream_);
  check_cuda(cudaStreamSynchronize(stream_), "the work on the GPU failed");
  if (state.stopped != 0) return;
  ++measured_;
  const Index rows_used = std::min(batch_, first().examples - step_in_epoch * batch_);
  for (Index i = 0; i < size; ++i) {
    const auto at = static_cast<std::size_t>(i);
    before[at] = after[at] - before[at];
  }
  for (std::size_t s = 0; s < sums_.size(); ++s) {
    const DeviceSlot& slot = layout_.slots[s];
    const Index count = slot.out_features * slot.ld;
    LayerStatistics& sum = sums_[s];
    sum.gradient_norm += length(gradients.data() + slot.weight, count);
    const double weight = length(after.data() + slot.weight, count);
    sum.weight_norm += weight;
    if (weight > 0) sum.update_ratio += length(before.data() + slot.weight, count) / weight;
    const auto result = plan_->result_of(slot.node);
    const bool relu = result.activation == Activation::relu;
    const bool sigmoid = result.activation == Activation::sigmoid;
    sum.dead = relu ? sum.dead : kNone;
    sum.saturated = sigmoid || result.activation == Activation::tanh ? sum.saturated : kNone;
    if (std::isnan(sum.dead) && std::isnan(sum.saturated)) continue;
    const Index rows = rows_used * result.rows;
    DeviceMemory<float> values(rows * result.ld);
    if constexpr (std::is_same_v<S, float>) {
      copy(values.data(), result.y, values.size(), stream_);
    } else {
      convert(result.y, values.data(), values.size(), stream_);
    }
    std::vector<float> y(static_cast<std::size_t>(values.size()));
    copy(y.data(), values.data(), values.size(), stream_);
    check_cuda(cudaStreamSynchronize(stream_), "the work on the GPU failed");
    measure_result(y.data(), result.ld, rows, result.n, sigmoid ? 0.0f : -1.0f, relu, &sum);
  }
}

template <class S>
std::vector<LayerStatistics> DeviceTrainer<S>::take_statistics() {
  std::vector<LayerStatistics> means = sums_;
  const double steps = measured_ > 0 ? static_cast<double>(measured_) : kNone;
  for (LayerStatistics& mean : means) {
    for (double* value : {&mean.gradient_norm, &mean.weight_norm, &mean.update_ratio, &mean.dead,
                          &mean.saturated}) {
      *value /= steps;
    }
  }
  for (LayerStatistics& sum : sums_) sum = {sum.name};
  measured_ = 0;
  return means;
}

#define DLCORE_INSTANTIATE(S)                     \
  template void DeviceTrainer<S>::measure(Index); \
  template std::vector<LayerStatistics> DeviceTrainer<S>::take_statistics();
DLCORE_INSTANTIATE(float)
DLCORE_INSTANTIATE(Bf16)
#undef DLCORE_INSTANTIATE

}  // namespace dlcore::cuda
