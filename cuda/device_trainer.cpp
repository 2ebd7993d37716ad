#include "device_trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <type_traits>

#include "check.h"
#include "random.h"
#include "trainer.h"

namespace dlcore::cuda {
namespace {

// Ctrl-C must be answered within 100 ms, callbacks need no more.
constexpr double kCallSeconds = 0.05;
// Slices take this long: two of them are under way when Ctrl-C comes.
constexpr double kShortSlice = 0.005, kLongSlice = 0.02;
constexpr Index kMostSteps = 1024;
// Steps in one graph: launching one costs the host some microseconds.
constexpr Index kSeveral = 8;
// Bytes of one slice of data that does not fit on the device.
constexpr Index kChunkBytes = Index{64} << 20;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Index slice_capacity(Index steps_per_epoch) { return std::min(kMostSteps, steps_per_epoch); }

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
DeviceTrainer<S>::DeviceTrainer(DeviceNetwork& network, const Dataset& data,
                                const FitOptions& options, Context& context)
    : network_(network),
      state_(network.state()),
      given_(data),
      options_(options),
      context_(context),
      stream_(context.stream()),
      examples_(options.rows == nullptr ? data.x.rows : options.row_count),
      batch_(std::min(options.batch_size, examples_)),
      steps_per_epoch_((examples_ + batch_ - 1) / batch_),
      targets_(targets_of(network.graph(), options.loss)),
      plan_(network.graph(), network.layout(), batch_, DevicePlan<S>::Kind::training,
            network.precision(), context.stream()),
      gradients_(network.layout().size),
      scratch_(squares_scratch(network.layout().size)),
      norm_(1),
      step_state_(1),
      table_(slice_capacity(steps_per_epoch_)),
      order_(examples_),
      order_of_epoch_(static_cast<std::size_t>(examples_)),
      pinned_order_(examples_) {
  check(data.x.rows <= Index{1} << 32, "fit: ", data.x.rows,
        " examples are more than the 2**32 that one fit on a GPU can order");
  const Index size = network.layout().size;
  const auto like = [](const Floats& memory) { return DeviceMemory<float>(memory.size()); };
  set_zero(gradients_.data(), size, stream_);
  epoch_start_.parameters = like(state_.parameters);
  epoch_start_.moment1 = like(state_.moment1);
  epoch_start_.moment2 = like(state_.moment2);
  if (options.early_stopping.has_value() && options.early_stopping->restore_best) {
    best_ = like(state_.parameters);
  }
  if constexpr (std::is_same_v<S, Bf16>) rounded_ = DeviceMemory<Bf16>(size);
  // What is left is for the data, but for a tenth of it: others allocate too.
  const Index free = device_info(network.device()).free_memory / 10 * 9;
  const Graph& graph = network.graph();
  data_ = upload(data, graph, options.loss, free, stream_);
  if (options.validation.has_value()) {
    const Index left = device_info(network.device()).free_memory / 10 * 9;
    validation_ = upload(*options.validation, graph, options.loss, left, stream_);
    validates_ = std::make_unique<DevicePass<S>>(
        graph, network.layout(), device_batch(validation_.view.rows),
        DevicePass<S>::Kind::inference, network.precision(), stream_);
  }
  slice_steps_ = slice_capacity(steps_per_epoch_);
  const Index row_bytes = data.x.features * item_size(data.x.dtype);
  if (streams()) {
    slice_steps_ = std::clamp<Index>(kChunkBytes / (batch_ * row_bytes), 1, slice_steps_);
    chunks_ = DeviceMemory<std::byte>(2 * slice_steps_ * batch_ * row_bytes);
  }
  for (Slice& slice : slices_) {
    slice.table = PinnedMemory<StepInput>(slice_steps_);
    slice.state = PinnedMemory<StepState>(1);
    if (streams()) slice.x = PinnedMemory<std::byte>(slice_steps_ * batch_ * row_bytes);
  }
  source_ = DeviceMemory<Source>(1);
  Source source = data_.source(order_.data(), options.seed);
  if (streams()) {
    source.x = chunks_.data();
    source.x_order = nullptr;
  }
  copy(source_.data(), &source, 1, stream_);
  if (options.statistics) {
    for (const DeviceSlot& slot : network.layout().slots) {
      sums_.push_back({graph.nodes[static_cast<std::size_t>(slot.node)].name});
    }
  }
  round_weights();
}

template <class S>
DeviceTrainer<S>::~DeviceTrainer() {
  // Nothing may be freed that work under way still uses.
  cudaStreamSynchronize(copies_);
  cudaStreamSynchronize(stream_);
}

template <class S>
Weights<S> DeviceTrainer<S>::weights() const {
  if constexpr (std::is_same_v<S, float>) {
    return {state_.parameters.data(), state_.parameters.data()};
  } else {
    return {state_.parameters.data(), rounded_.data()};
  }
}

template <class S>
void DeviceTrainer<S>::round_weights() {
  if constexpr (std::is_same_v<S, Bf16>) {
    convert(state_.parameters.data(), rounded_.data(), rounded_.size(), stream_);
  }
}

// --- One step ------------------------------------------------------------------------------------

template <class S>
void DeviceTrainer<S>::enqueue_forward() {
  const Step step = this->step();
  const Node& input = network_.graph().input();
  gather(step, data_.view.dtype, plan_.input(), batch_, input.rows(), input.features(),
         plan_.input_ld(), stream_);
  plan_.forward(step, weights(), context_, true);
  loss_rows(step, targets_, plan_.output(), plan_.output_ld(), plan_.loss(), plan_.correct(),
            plan_.output_gradient(), plan_.output_ld(), batch_, stream_);
  finish(step, targets_, plan_.loss(), plan_.correct(), batch_, stream_);
}

template <class S>
void DeviceTrainer<S>::enqueue_backward() {
  const Step step = this->step();
  const Index size = gradients_.size();
  plan_.backward(step, weights(), gradients_.data(), false, context_, true);
  if (options_.clip_norm > 0) {
    clip(step, gradients_.data(), size, options_.clip_norm, scratch_.data(), stream_);
  }
  update(step, options_.optimizer.rule, state_.parameters.data(), gradients_.data(),
         state_.moment1.data(), state_.moment2.data(), rounded_.data(), size, stream_);
}

template <class S>
void DeviceTrainer<S>::enqueue_first_step() {
  enqueue_forward();
  // Not before the epoch's first loss is known to be finite: until then the snapshot of the epoch
  // before can still take back its last update.
  const Step step = this->step();
  const auto keep = [&](const Floats& from, DeviceMemory<float>& to) {
    if (from.size() > 0) keep_epoch_start(step, from.data(), to.data(), from.size(), stream_);
  };
  keep(state_.parameters, epoch_start_.parameters);
  keep(state_.moment1, epoch_start_.moment1);
  keep(state_.moment2, epoch_start_.moment2);
  enqueue_backward();
}

template <class S>
void DeviceTrainer<S>::launch(Index steps) {
  // The first step of the first epoch was not recorded: whatever is loaded at first use, is.
  if (steps > 0 && step_.empty()) {
    const auto record = [&] {
      enqueue_forward();
      enqueue_backward();
    };
    step_ = Recording(stream_, record);
    several_ = Recording(stream_, [&] {
      for (Index i = 0; i < kSeveral; ++i) record();
    });
  }
  for (; steps >= kSeveral; steps -= kSeveral) several_.launch(stream_);
  for (; steps > 0; --steps) step_.launch(stream_);
}

// --- Slices --------------------------------------------------------------------------------------

template <class S>
void DeviceTrainer<S>::fill(Slice& slice, Index epoch, Index begin, Index count, Index parity) {
  const double width = static_cast<double>(targets_.shape.width);
  for (Index i = 0; i < count; ++i) {
    StepInput& input = slice.table.data()[i];
    input = {};
    input.number = begin + i;
    input.begin = input.number * batch_;
    input.rows = static_cast<std::int32_t>(std::min(batch_, examples_ - input.begin));
    input.x_begin = (parity * slice_steps_ + i) * batch_;
    input.random_step = static_cast<std::uint64_t>(state_.step + input.number);
    double weight = static_cast<double>(input.rows);
    if (!data_.host_weight.empty()) {
      weight = 0;
      for (Index j = input.begin; j < input.begin + input.rows; ++j) {
        const Index row = order_of_epoch_[static_cast<std::size_t>(j)];
        weight += data_.host_weight[static_cast<std::size_t>(row)];
      }
    }
    input.share = weight > 0 ? 1 / (weight * width) : 0;
    const double rate = options_.schedule.at(epoch * steps_per_epoch_ + input.number,
                                             steps_per_epoch_, options_.epochs);
    input.update = ops::update_of<float>(options_.optimizer, rate, 1,
                                         state_.optimizer_step + input.number + 1);
  }
}

template <class S>
void DeviceTrainer<S>::fetch(Slice& slice, Index begin, Index count, Index parity) {
  const Index first = begin * batch_;
  const Index rows = std::min(count * batch_, examples_ - first);
  const Index bytes = data_.view.features * item_size(data_.view.dtype);
  pack_rows(data_.view, order_of_epoch_.data() + first, 0, rows, slice.x.data());
  // By a stream of its own, so that it overlaps with the slice before; the slice before that one
  // has ended, so its half of the memory is free.
  copy(chunks_.data() + parity * slice_steps_ * batch_ * bytes, slice.x.data(), rows * bytes,
       copies_);
  slice.copied.record(copies_);
  slice.copied.hold(stream_);
}

template <class S>
Index DeviceTrainer<S>::run_steps(Index epoch, Index count) {
  const StepState zero;
  copy(step_state_.data(), &zero, 1, stream_);
  for (Index i = 0; i < examples_; ++i) {
    pinned_order_.data()[i] =
        static_cast<std::uint32_t>(order_of_epoch_[static_cast<std::size_t>(i)]);
  }
  copy(order_.data(), pinned_order_.data(), examples_, stream_);
  before_ = {{}, {}, {}, epoch_start_.optimizer_step, epoch_start_.step, epoch_start_.taken};

  Index enqueued = 0;
  const auto settle = [&] {
    StepState last;
    copy(&last, step_state_.data(), 1, stream_);
    check_cuda(cudaStreamSynchronize(stream_), "the work on the GPU failed");
    *slices_[0].state.data() = last;
    const Index done = last.stopped != 0 ? last.stopped_step : enqueued;
    if (count > 0 && done == 0) take_counters(before_);
    state_.step += done;
    state_.optimizer_step += done;
    return done;
  };
  try {
    Index steps =
        std::min<Index>(options_.statistics ? Statistics<float>::kEvery : 16, slice_steps_);
    double last = now();
    for (Index turn = 0; enqueued < count; ++turn) {
      Slice& slice = slices_[turn % 2];
      // Two slices ago: then the slice's buffers are free, and what it left can be read.
      slice.done.wait();
      if (turn >= 2 && slice.state.data()->stopped != 0) break;
      if (turn >= 2) offer_checkpoint(epoch);
      report_progress(epoch, enqueued);
      if (turn >= 3) {
        const double passed = now() - last;
        if (passed < kShortSlice) steps = std::min(2 * steps, slice_steps_);
        if (passed > kLongSlice) steps = std::max<Index>(steps / 2, 1);
      }
      last = now();
      const Index begin = enqueued;
      Index some = std::min(steps, count - begin);
      if (options_.statistics)
        some = std::min(some, Statistics<float>::kEvery - begin % Statistics<float>::kEvery);
      fill(slice, epoch, begin, some, turn % 2);
      copy(table_.data(), slice.table.data(), some, stream_);
      rewind(step(), stream_);
      if (streams()) fetch(slice, begin, some, turn % 2);
      const bool measured = options_.statistics && begin % Statistics<float>::kEvery == 0;
      if (begin == 0) {
        epoch_start_.step = state_.step;
        epoch_start_.optimizer_step = state_.optimizer_step;
        epoch_start_.taken = true;
      }
      if (measured) {
        measure(begin);
      } else if (begin == 0) {
        enqueue_first_step();
      }
      const Index rest = measured || begin == 0 ? some - 1 : some;
      enqueued = begin + some;
      launch(rest);
      copy(slice.state.data(), step_state_.data(), 1, stream_);
      slice.done.record(stream_);
    }
    prepare_order(count);
    // Waiting in pieces, so that Ctrl-C is answered.
    for (const Slice& slice : slices_) slice.done.wait();
    report_progress(epoch, enqueued);
  } catch (...) {
    settle();
    throw;
  }
  return settle();
}

template <class S>
void DeviceTrainer<S>::report_progress(Index epoch, Index steps_done) {
  if (!options_.on_progress || now() - last_call_ < kCallSeconds) return;
  last_call_ = now();
  options_.on_progress(epoch, steps_done, steps_per_epoch_);
}

template <class S>
void DeviceTrainer<S>::offer_checkpoint(Index epoch) {
  const double begin = now();
  if (!options_.on_checkpoint || offered_ || begin < next_checkpoint_) return;
  offered_ = true;
  const auto read = [&](const DeviceMemory<float>& memory) {
    std::vector<float> values(static_cast<std::size_t>(memory.size()));
    copy(values.data(), memory.data(), memory.size(), stream_);
    return values;
  };
  const std::vector<float> parameters = read(epoch_start_.parameters);
  const std::vector<float> moment1 = read(epoch_start_.moment1);
  const std::vector<float> moment2 = read(epoch_start_.moment2);
  const std::vector<float> best = result_.best_epoch < 0 ? std::vector<float>{} : read(best_);
  check_cuda(cudaStreamSynchronize(stream_), "the work on the GPU failed");
  const auto numbers = [](const std::vector<float>& values) {
    return Numbers{values.data(), static_cast<Index>(values.size())};
  };
  Checkpoint c;
  c.epoch = epoch;
  c.step = epoch_start_.step;
  c.optimizer_step = epoch_start_.optimizer_step;
  c.parameters = numbers(parameters);
  c.moment1 = numbers(moment1);
  c.moment2 = numbers(moment2);
  c.best_parameters = numbers(best);
  c.best = best_loss_;
  c.waited = waited_;
  c.best_epoch = result_.best_epoch;
  c.epochs = result_.epochs;
  options_.on_checkpoint(c);
  if (options_.checkpoint_seconds == 0) return;
  // Where writing takes long it is done less often, so that it takes a twentieth of the time.
  next_checkpoint_ = now() + std::max(options_.checkpoint_seconds, 19 * (now() - begin));
}

template <class S>
Index DeviceTrainer<S>::resume() {
  const Checkpoint& c = *options_.resume;
  const auto take = [&](const Numbers& from, const auto& to, const char* what) {
    check(from.size == to.size(), "fit: the checkpoint holds ", from.size, " ", what, ", not ",
          to.size());
    copy(to.data(), static_cast<const float*>(from.data), from.size, stream_);
  };
  check(c.epoch >= 0 && c.epoch < options_.epochs && c.step >= 0 && c.optimizer_step >= 0 &&
            c.waited >= 0 && c.best_epoch < c.epoch &&
            static_cast<Index>(c.epochs.size()) == c.epoch,
        "fit: the checkpoint is at epoch ", c.epoch, " of ", options_.epochs, " with ",
        c.epochs.size(), " records");
  take(c.parameters, state_.parameters, "parameters");
  take(c.moment1, state_.moment1, "first moments");
  take(c.moment2, state_.moment2, "second moments");
  if (c.best_parameters.size > 0) take(c.best_parameters, best_, "parameters of the best epoch");
  check_cuda(cudaStreamSynchronize(stream_), "the work on the GPU failed");
  round_weights();
  state_.step = c.step;
  state_.optimizer_step = c.optimizer_step;
  best_loss_ = c.best;
  waited_ = c.waited;
  result_.best_epoch = c.best_epoch;
  result_.epochs = c.epochs;
  return c.epoch;
}

template <class S>
void DeviceTrainer<S>::shuffle(std::vector<Index>* order, Index step) const {
  order->resize(static_cast<std::size_t>(examples_));
  if (options_.rows == nullptr) {
    std::iota(order->begin(), order->end(), Index{0});
  } else {
    std::copy_n(options_.rows, examples_, order->begin());
  }
  if (!options_.shuffle) return;
  philox::shuffle(options_.seed, static_cast<std::uint64_t>(step), order->data(), examples_);
}

template <class S>
void DeviceTrainer<S>::prepare_order(Index steps) {
  if (steps < steps_per_epoch_ || !options_.shuffle) return;
  next_order_step_ = state_.step + steps;
  shuffle(&next_order_, next_order_step_);
}

template <class S>
void DeviceTrainer<S>::begin_epoch() {
  if (next_order_step_ == state_.step) {
    std::swap(order_of_epoch_, next_order_);
    next_order_step_ = -1;
  } else {
    shuffle(&order_of_epoch_, state_.step);
  }
}

// --- Back to a finite state ----------------------------------------------------------------------

template <class S>
void DeviceTrainer<S>::take_counters(const Snapshot& snapshot) {
  epoch_start_.step = snapshot.step;
  epoch_start_.optimizer_step = snapshot.optimizer_step;
  epoch_start_.taken = snapshot.taken;
}

template <class S>
void DeviceTrainer<S>::restore() {
  copy(state_.parameters.data(), epoch_start_.parameters.data(), state_.parameters.size(), stream_);
  copy(state_.moment1.data(), epoch_start_.moment1.data(), state_.moment1.size(), stream_);
  copy(state_.moment2.data(), epoch_start_.moment2.data(), state_.moment2.size(), stream_);
  state_.step = epoch_start_.step;
  state_.optimizer_step = epoch_start_.optimizer_step;
  round_weights();
  check_cuda(cudaStreamSynchronize(stream_), "the weights cannot be taken back");
}

template <class S>
void DeviceTrainer<S>::refuse_data() {
  // Before the first step there is no snapshot, and nothing to take back.
  if (epoch_start_.taken) restore();
  refuse_device_data("fit", given_.x, options_.rows, examples_, stream_);
}

template <class S>
bool DeviceTrainer<S>::parameters_finite() {
  sum_squares(state_.parameters.data(), state_.parameters.size(), scratch_.data(), norm_.data(), 1,
              stream_);
  double sum = 0;
  copy(&sum, norm_.data(), 1, stream_);
  check_cuda(cudaStreamSynchronize(stream_), "the work on the GPU failed");
  return std::isfinite(sum);
}

template <class S>
void DeviceTrainer<S>::replay(Index epoch, Index steps) {
  restore();
  begin_epoch();
  offered_ = true;  // of the epoch that has diverged since
  run_steps(epoch, steps);
}

template <class S>
std::string DeviceTrainer<S>::diverged(Index epoch, Index steps_done) {
  const std::string where =
      sentence("fit: the loss is no longer finite at step ", steps_done + 1, " of epoch ",
               epoch + 1, " (learning rate ", learning_rate_, "); ");
  // As in cpp/trainer.cpp: back to the last weights that gave a finite loss.
  const Index all_steps = epoch * steps_per_epoch_ + steps_done;
  if (steps_done == 0 && epoch > 0) {
    --epoch;
    steps_done = steps_per_epoch_;
  }
  Index kept = all_steps;
  if (all_steps > 1 || !parameters_finite()) {
    Index steps = steps_done;
    do {
      steps = std::max<Index>(steps - 1, 0);
      if (all_steps > 0) replay(epoch, steps);
    } while (steps > 0 && !parameters_finite());
    kept = epoch * steps_per_epoch_ + steps;
  }
  return sentence(where, "the weights are those after ", kept, " of ", all_steps,
                  " steps; try a smaller learning rate, clip_norm=1.0 or standardised data");
}

// --- Statistics ----------------------------------------------------------------------------------

template <class S>
void DeviceTrainer<S>::measure(Index step_in_epoch) {
  const Index size = gradients_.size();
  std::vector<float> before(static_cast<std::size_t>(size)), after(before), gradients(before);
  copy(before.data(), state_.parameters.data(), size, stream_);
  if (step_in_epoch == 0) {
    enqueue_first_step();
  } else {
    enqueue_forward();
    enqueue_backward();
  }
  copy(after.data(), state_.parameters.data(), size, stream_);
  copy(gradients.data(), gradients_.data(), size, stream_);
  StepState state;
  copy(&state, step_state_.data(), 1, stream_);
  check_cuda(cudaStreamSynchronize(stream_), "the work on the GPU failed");
  if (state.stopped != 0) return;
  ++measured_;
  const Index rows_used = std::min(batch_, examples_ - step_in_epoch * batch_);
  for (Index i = 0; i < size; ++i) {
    const auto at = static_cast<std::size_t>(i);
    before[at] = after[at] - before[at];
  }
  for (std::size_t s = 0; s < sums_.size(); ++s) {
    const DeviceSlot& slot = network_.layout().slots[s];
    const Index count = slot.out_features * slot.ld;
    LayerStatistics& sum = sums_[s];
    sum.gradient_norm += length(gradients.data() + slot.weight, count);
    const double weight = length(after.data() + slot.weight, count);
    sum.weight_norm += weight;
    if (weight > 0) sum.update_ratio += length(before.data() + slot.weight, count) / weight;
    const auto result = plan_.result_of(slot.node);
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

// --- The fit -------------------------------------------------------------------------------------

template <class S>
typename DeviceTrainer<S>::Outcome DeviceTrainer<S>::run_epoch(Index epoch, EpochRecord* record,
                                                               Index* steps_done) {
  const double start = now();
  begin_epoch();
  offered_ = false;
  const Index done = run_steps(epoch, steps_per_epoch_);
  const StepState state = *slices_[0].state.data();
  if (state.bad_input != 0) refuse_data();
  *steps_done = done;
  if (done > 0) {
    offer_checkpoint(epoch);
    learning_rate_ = options_.schedule.at(epoch * steps_per_epoch_ + done - 1, steps_per_epoch_,
                                          options_.epochs);
  }
  record->epoch = epoch;
  record->learning_rate = learning_rate_;
  record->seconds = now() - start;
  record->examples_per_second = static_cast<double>(examples_) / std::max(record->seconds, 1e-9);
  if (state.stopped != 0 || !parameters_finite()) return Outcome::diverged;
  if (options_.statistics) record->layers = take_statistics();
  record->loss = state.weight > 0 ? state.loss / state.weight : 0;
  if (options_.loss.kind == ops::LossKind::cross_entropy ||
      options_.loss.kind == ops::LossKind::binary_cross_entropy) {
    record->accuracy = state.weight > 0 ? state.correct / state.weight : 0;
  }
  return Outcome::finished;
}

template <class S>
ops::LossSums DeviceTrainer<S>::validate(Index epoch) {
  try {
    return validates_->evaluate(
        {.data = validation_, .parameters = state_.parameters, .context = context_}, options_.loss,
        "fit: validation_data");
  } catch (const std::invalid_argument&) {
    // Bad data is found in the first pass over it and leaves the weights as they were.
    if (epoch == 0) restore();
    throw;
  }
}

template <class S>
FitResult DeviceTrainer<S>::run() {
  result_.engine = "graph";
  last_call_ = now();
  next_checkpoint_ = last_call_ + options_.checkpoint_seconds;
  const auto& early = options_.early_stopping;
  Index epoch = options_.resume.has_value() ? resume() : 0;
  for (; epoch < options_.epochs && result_.stop == Stop::completed; ++epoch) {
    EpochRecord record;
    Index done = 0;
    if (run_epoch(epoch, &record, &done) == Outcome::diverged) {
      result_.stop = Stop::diverged;
      result_.message = diverged(epoch, done);
      result_.epochs.push_back(record);
      break;
    }
    double watched = record.loss;
    if (options_.validation.has_value()) {
      const ops::LossSums sums = validate(epoch);
      record.val_loss = watched = sums.mean_loss();
      if (!std::isnan(record.accuracy)) record.val_accuracy = sums.mean_correct();
    }
    result_.epochs.push_back(record);
    if (early.has_value()) {
      // min_delta decides about patience; the best weights are the best of all.
      waited_ = watched < best_loss_ - early->min_delta ? 0 : waited_ + 1;
      if (watched < best_loss_) {
        best_loss_ = watched;
        result_.best_epoch = epoch;
        if (early->restore_best) {
          copy(best_.data(), state_.parameters.data(), best_.size(), stream_);
        }
      }
      if (waited_ >= early->patience) {
        result_.stop = Stop::early_stopping;
        result_.message = sentence("fit: no improvement in ", early->patience, " epochs");
      }
    }
    if (options_.on_epoch && !options_.on_epoch(record) && result_.stop == Stop::completed) {
      result_.stop = Stop::callback;
      result_.message = "fit: stopped by on_epoch";
    }
  }
  if (early.has_value() && early->restore_best && result_.best_epoch >= 0) {
    copy(state_.parameters.data(), best_.data(), best_.size(), stream_);
  }
  context_.stream().synchronize();
  return result_;
}

template class DeviceTrainer<float>;
template class DeviceTrainer<Bf16>;

}  // namespace dlcore::cuda
