#include "device_trainer.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "check.h"
#include "statistics.h"

namespace dlcore::cuda {
namespace {

// Slices take this long: two of them are under way when Ctrl-C comes, which has to be answered
// within 100 ms.
constexpr double kShortSlice = 0.005, kLongSlice = 0.02;
constexpr Index kFirstSteps = 16, kMostSteps = 1024, kMostEntries = Index{1} << 14;
// Steps in one graph: launching one costs the host some microseconds.
constexpr Index kSeveral = 8;
// Bytes of one slice of data that does not fit on the device.
constexpr Index kChunkBytes = Index{64} << 20;

/// Rows of the table: entries for as many networks.
Index slice_capacity(Index steps_per_epoch, Index networks) {
  return std::clamp<Index>(kMostEntries / networks, 1, std::min(kMostSteps, steps_per_epoch));
}

}  // namespace

// --- Memory --------------------------------------------------------------------------------------

template <class S>
DeviceTrainer<S>::Arena::Arena(Index size, int states) : memory(size * (1 + states)) {
  for (int i = 0; i <= states; ++i) arrays.push_back(memory.data() + i * size);
}

template <class S>
DeviceTrainer<S>::DeviceTrainer(std::vector<Trainee*> trainees, SharedData& shared,
                                Context& context)
    : slots_(std::move(trainees)),
      context_(context),
      stream_(context.stream()),
      layout_(first().network.layout()),
      options_(first().options),
      batch_(first().batch),
      targets_(targets_of(graph(), options_.loss)),
      start_(networks() * layout_.size, options_.optimizer.states()),
      gradients_(networks() * layout_.size),
      rounded_(std::is_same_v<S, Bf16> ? gradients_.size() : 0),
      scratch_(networks() * squares_scratch(layout_.size)),
      norms_(networks()),
      step_state_(networks()),
      source_(networks()) {
  set_zero(gradients_.data(), gradients_.size(), stream_);
  const DeviceState& state = first().state;
  Index steps_per_epoch = 0;
  for (const Trainee* t : slots_) steps_per_epoch = std::max(steps_per_epoch, t->steps_per_epoch);
  slice_steps_ = slice_capacity(steps_per_epoch, networks());
  table_ = DeviceMemory<StepInput>(slice_steps_ * networks());
  if (networks() > 1) {
    own_ = Arena(networks() * layout_.size, options_.optimizer.states());
    live_ = own_.arrays;
  } else {
    for (const Floats* floats : {&state.parameters, &state.moment1, &state.moment2}) {
      if (floats->size() > 0) live_.push_back(floats->data());
    }
  }
  build_plan();
  if (options_.validation.has_value()) {
    validates_ = std::make_unique<DevicePass<S>>(
        graph(), layout_, device_batch(options_.validation->x.rows), DevicePass<S>::Kind::inference,
        first().network.precision(), stream_);
  }
  for (Trainee* t : slots_) take_data(*t, shared);
  const RowsView& x = first().given.x;
  const Index row_bytes = x.features * item_size(x.dtype);
  if (streams()) {
    const Index free = device_info(first().network.device()).free_memory;
    const Index bytes = std::min(kChunkBytes, free / 4);  // of two
    slice_steps_ = std::clamp<Index>(bytes / (batch_ * row_bytes), 1, slice_steps_);
    chunks_ = DeviceMemory<std::byte>(2 * slice_steps_ * batch_ * row_bytes);
  }
  for (Slice& slice : slices_) {
    slice.table = PinnedMemory<StepInput>(slice_steps_ * networks());
    slice.state = PinnedMemory<StepState>(networks());
    if (streams()) slice.x = PinnedMemory<std::byte>(slice_steps_ * batch_ * row_bytes);
  }
  if (options_.statistics) {
    for (const DeviceSlot& slot : layout_.slots) {
      sums_.push_back({graph().nodes[static_cast<std::size_t>(slot.node)].name});
    }
  }
  // Last, for what has been lent has to be brought back.
  if (networks() > 1) {
    for (Index g = 0; g < networks(); ++g) place(*slots_[static_cast<std::size_t>(g)], g);
  }
  settle_in();
}

template <class S>
DeviceTrainer<S>::~DeviceTrainer() {
  // Nothing may be freed that work under way still uses.
  cudaStreamSynchronize(copies_);
  cudaStreamSynchronize(stream_);
  try {
    for (Trainee* t : slots_) bring_back(*t);
    cudaStreamSynchronize(stream_);
  } catch (const std::runtime_error&) {
    // The device has failed, and its memory with it.
  }
}

template <class S>
Index DeviceTrainer<S>::bytes_each(const Member& member) {
  const auto& network = static_cast<const DeviceNetwork&>(*member.network);
  const FitOptions& options = member.options;
  const DeviceLayout& layout = network.layout();
  const bool best = options.early_stopping.has_value() && options.early_stopping->restore_best;
  // Parameters and moments, those of the epoch's start, gradients, and the best parameters.
  const Index arrays = 2 * (1 + options.optimizer.states()) + 1 + (best ? 1 : 0);
  return layout.size * arrays * static_cast<Index>(sizeof(float)) +
         (std::is_same_v<S, Bf16> ? layout.size * static_cast<Index>(sizeof(Bf16)) : 0) +
         DevicePlan<S>::bytes(network.graph(), layout, options.batch(member.data), Kind::training) +
         options.examples(member.data) * static_cast<Index>(sizeof(std::uint32_t)) +
         (member.data.weight == nullptr ? 0 : member.data.x.rows * Index{sizeof(double)});
}

template <class S>
void DeviceTrainer<S>::take_data(Trainee& t, SharedData& shared) {
  // What is left is for the data of a network alone, but for a tenth of it: others allocate too.
  // That of a group has to be there as a whole.
  const auto most = [&] {
    return networks() > 1 ? std::numeric_limits<Index>::max()
                          : device_info(t.network.device()).free_memory / 10 * 9;
  };
  Dataset data = t.given;
  // Each network has its own, so that those share the rest who differ in these.
  data.weight = nullptr;
  data.input_scale = 1;
  t.data = &shared.of(data, graph(), options_.loss, most());
  copy(t.weight.data(), t.given.weight, t.weight.size(), stream_);
  if (t.options.validation.has_value()) {
    t.validation = &shared.of(*t.options.validation, graph(), options_.loss, most());
  }
}

template <class S>
void DeviceTrainer<S>::place(Trainee& t, Index slot) {
  t.slot = slot;
  Floats* const floats[] = {&t.state.parameters, &t.state.moment1, &t.state.moment2};
  for (std::size_t i = 0; i < live_.size(); ++i) floats[i]->move_to(live_[i] + at(t), stream_);
}

template <class S>
void DeviceTrainer<S>::bring_back(Trainee& t) {
  for (Floats* floats : {&t.state.parameters, &t.state.moment1, &t.state.moment2}) {
    floats->bring_back(stream_);
  }
}

template <class S>
void DeviceTrainer<S>::build_plan() {
  step_ = {};
  several_ = {};
  plan_.reset();
  plan_.emplace(graph(), layout_, batch_, Kind::training, first().network.precision(), stream_,
                networks());
  plan_->settle(weights(), context_);
}

template <class S>
void DeviceTrainer<S>::settle_in() {
  std::vector<Source> sources;
  std::vector<StepState> states;
  for (const Trainee* t : slots_) {
    Source source = t->data->source(t->order.data(), t->options.seed);
    source.weight = t->weight.data();
    source.scale = static_cast<float>(t->given.input_scale);
    if (streams()) {
      source.x = chunks_.data();
      source.x_order = nullptr;
    }
    sources.push_back(source);
    states.push_back(t->reached);
  }
  copy(source_.data(), sources.data(), networks(), stream_);
  copy(step_state_.data(), states.data(), networks(), stream_);
  check_cuda(cudaStreamSynchronize(stream_), "the work on the GPU failed");
}

template <class S>
void DeviceTrainer<S>::move_together() {
  std::vector<Trainee*> left;
  for (Trainee* t : slots_) {
    if (t->epochs.go_on()) left.push_back(t);
  }
  if (left.empty() || 2 * left.size() > slots_.size()) return;
  for (Index slot = 0; slot < static_cast<Index>(left.size()); ++slot) {
    // Upwards, so that nobody's place is taken who has not moved.
    Trainee& t = *left[static_cast<std::size_t>(slot)];
    if (t.slot == slot) continue;
    const Index from = at(t);
    place(t, slot);
    for (float* start : start_.arrays) {
      copy(start + at(t), start + from, layout_.size, stream_);
    }
  }
  slots_ = left;
  build_plan();
  settle_in();
}

template <class S>
Weights<S> DeviceTrainer<S>::weights() const {
  if constexpr (std::is_same_v<S, float>) {
    return {live_[0], live_[0]};
  } else {
    return {live_[0], rounded_.data()};
  }
}

template <class S>
void DeviceTrainer<S>::round_weights() {
  if constexpr (std::is_same_v<S, Bf16>) {
    convert(live_[0], rounded_.data(), networks() * layout_.size, stream_);
  }
}

// --- One step ------------------------------------------------------------------------------------

template <class S>
void DeviceTrainer<S>::enqueue_forward() {
  const Node& input = graph().input();
  gather(step(), first().given.x.dtype, plan_->input(), batch_, input.rows(), input.features(),
         plan_->input_ld(), stream_);
  plan_->forward(step(), weights(), context_, true);
  loss_rows(step(), targets_, plan_->output(), plan_->output_ld(), plan_->loss(), plan_->correct(),
            plan_->output_gradient(), plan_->output_ld(), batch_, stream_);
  finish(step(), targets_, plan_->loss(), plan_->correct(), batch_, stream_);
}

template <class S>
void DeviceTrainer<S>::enqueue_backward() {
  plan_->backward(step(), weights(), gradients_.data(), false, context_, true);
  if (options_.clip_norm > 0) {
    clip(step(), gradients_.data(), layout_.size, options_.clip_norm, scratch_.data(), stream_);
  }
  update(step(), options_.optimizer.rule, live_[0], gradients_.data(),
         live_.size() > 1 ? live_[1] : nullptr, live_.size() > 2 ? live_[2] : nullptr,
         rounded_.data(), layout_.size, stream_);
}

template <class S>
void DeviceTrainer<S>::enqueue_first_step() {
  enqueue_forward();
  // Not before the epoch's first loss is known to be finite: until then the snapshot of the epoch
  // before can still take back its last update.
  for (std::size_t i = 0; i < live_.size(); ++i) {
    keep_epoch_start(step(), live_[i], start_.arrays[i], layout_.size, stream_);
  }
  enqueue_backward();
}

template <class S>
void DeviceTrainer<S>::launch(Index steps) {
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
void DeviceTrainer<S>::fill(Slice& slice, Index begin, Index count, Index parity) {
  const double width = static_cast<double>(targets_.shape.width);
  StepInput* input = slice.table.data();
  for (Index i = 0; i < count; ++i) {
    for (const Trainee* t : slots_) {
      *input = t->runs ? t->input(t->done + begin + i, width) : StepInput{};
      input->x_begin = (parity * slice_steps_ + i) * batch_;
      ++input;
    }
  }
}

template <class S>
void DeviceTrainer<S>::fetch(Slice& slice, Index begin, Index count, Index parity) {
  const Trainee& t = first();
  const RowsView& x = t.given.x;
  const Index from = begin * batch_;
  const Index rows = std::min(count * batch_, t.examples - from);
  const Index bytes = x.features * item_size(x.dtype);
  pack_rows(x, t.order_of_epoch.data() + from, 0, rows, slice.x.data());
  // By a stream of its own, so that it overlaps with the slice before; the slice before that one
  // has ended, so its half of the memory is free.
  copy(chunks_.data() + parity * slice_steps_ * batch_ * bytes, slice.x.data(), rows * bytes,
       copies_);
  slice.copied.record(copies_);
  slice.copied.hold(stream_);
}

template <class S>
void DeviceTrainer<S>::begin_epoch(Trainee& t, Index epoch) {
  t.epoch = epoch;
  t.order_epoch();
  t.reached = {};
  copy(t.order.data(), t.pinned_order.data(), t.examples, stream_);
  copy(step_state_.data() + t.slot, &t.reached, 1, stream_);
}

template <class S>
void DeviceTrainer<S>::run_steps(Index count) {
  bool begins = step_.empty();  // whatever is loaded at first use is not recorded
  std::vector<Trainee*> running;
  for (Trainee* t : slots_) {
    if (!t->runs) continue;
    running.push_back(t);
    if (t->done > 0) continue;
    begins = true;
    t->before = std::exchange(t->start, {t->state.optimizer_step, t->state.step, true});
  }
  round_weights();  // a callback may have set them
  Index enqueued = 0;
  try {
    Index steps = std::min<Index>(options_.statistics ? Statistics<float>::kEvery : kFirstSteps,
                                  slice_steps_);
    double last = now();
    for (Index turn = 0; enqueued < count; ++turn) {
      Slice& slice = slices_[turn % 2];
      // Two slices ago: then the slice's buffers are free, and what it left can be read.
      slice.done.wait();
      if (turn >= 2) {
        const StepState* states = slice.state.data();
        if (std::all_of(running.begin(), running.end(),
                        [&](const Trainee* t) { return states[t->slot].stopped != 0; })) {
          break;
        }
        offer_checkpoint();
      }
      report(running, enqueued);
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
      fill(slice, begin, some, turn % 2);
      copy(table_.data(), slice.table.data(), some * networks(), stream_);
      rewind(step(), stream_);
      if (streams()) fetch(slice, begin, some, turn % 2);
      const bool measured = options_.statistics && begin % Statistics<float>::kEvery == 0;
      const bool unrecorded = measured || (begin == 0 && begins);
      if (measured) {
        measure(begin);
      } else if (unrecorded) {
        enqueue_first_step();
      }
      enqueued = begin + some;
      launch(unrecorded ? some - 1 : some);
      copy(slice.state.data(), step_state_.data(), networks(), stream_);
      slice.done.record(stream_);
    }
    for (Trainee* t : running) {
      if (t->left() == count) t->order_next(count);
    }
    // Waiting in pieces, so that Ctrl-C is answered.
    for (const Slice& slice : slices_) slice.done.wait();
    report(running, enqueued);
  } catch (...) {
    take_up(running, enqueued);
    throw;
  }
  take_up(running, enqueued);
}

template <class S>
void DeviceTrainer<S>::take_up(const std::vector<Trainee*>& running, Index enqueued) {
  std::vector<StepState> states(slots_.size());
  copy(states.data(), step_state_.data(), networks(), stream_);
  check_cuda(cudaStreamSynchronize(stream_), "the work on the GPU failed");
  for (Trainee* t : running) {
    t->reached = states[static_cast<std::size_t>(t->slot)];
    const Index done = t->reached.stopped != 0 ? t->reached.stopped_step : t->done + enqueued;
    t->state.step += done - t->done;
    t->state.optimizer_step += done - t->done;
    t->done = done;
    if (done == 0) {
      t->start = t->before;
    } else {
      t->learning_rate = t->epochs.learning_rate(t->epoch, done - 1);
    }
  }
}

template <class S>
void DeviceTrainer<S>::report(const std::vector<Trainee*>& running, Index enqueued) {
  for (Trainee* t : running) t->epochs.report(t->epoch, t->done + enqueued);
  if (on_tick_) on_tick_();
}

// --- Checkpoints of a network alone --------------------------------------------------------------

template <class S>
void DeviceTrainer<S>::offer_checkpoint() {
  Trainee& t = first();
  if (!t.epochs.wants_checkpoint()) return;
  std::vector<std::vector<float>> kept;
  const auto read = [&](const float* from) {
    std::vector<float>& values =
        kept.emplace_back(static_cast<std::size_t>(from == nullptr ? 0 : layout_.size));
    copy(values.data(), from, static_cast<Index>(values.size()), stream_);
    return Numbers{values.data(), static_cast<Index>(values.size())};
  };
  kept.reserve(4);  // their addresses are handed out
  const auto array = [&](std::size_t i) {
    return i < start_.arrays.size() ? start_.arrays[i] : nullptr;
  };
  Checkpoint c;
  c.step = t.start.step;
  c.optimizer_step = t.start.optimizer_step;
  c.parameters = read(array(0));
  c.moment1 = read(array(1));
  c.moment2 = read(array(2));
  c.best_parameters = read(t.epochs.kept_best() ? t.best.data() : nullptr);
  check_cuda(cudaStreamSynchronize(stream_), "the work on the GPU failed");
  t.epochs.hand_out(std::move(c));
}

template <class S>
void DeviceTrainer<S>::resume() {
  Trainee& t = first();
  const Checkpoint& c = *t.options.resume;
  t.epochs.resume(c);
  const auto take = [&](const Numbers& from, float* to, Index size, const char* what) {
    check(from.size == size, "fit: the checkpoint holds ", from.size, " ", what, ", not ", size);
    copy(to, static_cast<const float*>(from.data), size, stream_);
  };
  take(c.parameters, t.state.parameters.data(), t.state.parameters.size(), "parameters");
  take(c.moment1, t.state.moment1.data(), t.state.moment1.size(), "first moments");
  take(c.moment2, t.state.moment2.data(), t.state.moment2.size(), "second moments");
  if (c.best_parameters.size > 0) {
    take(c.best_parameters, t.best.data(), t.best.size(), "parameters of the best epoch");
  }
  check_cuda(cudaStreamSynchronize(stream_), "the work on the GPU failed");
  t.state.step = c.step;
  t.state.optimizer_step = c.optimizer_step;
}

// --- Back to a finite state ----------------------------------------------------------------------

template <class S>
void DeviceTrainer<S>::restore(Trainee& t) {
  for (std::size_t i = 0; i < live_.size(); ++i) {
    copy(live_[i] + at(t), start_.arrays[i] + at(t), layout_.size, stream_);
  }
  t.state.step = t.start.step;
  t.state.optimizer_step = t.start.optimizer_step;
  check_cuda(cudaStreamSynchronize(stream_), "the weights cannot be taken back");
}

template <class S>
void DeviceTrainer<S>::refuse_data(Trainee& t) {
  // Before the first step there is no snapshot, and nothing to take back.
  if (t.start.taken) restore(t);
  refuse_device_data("fit", t.given.x, t.options.rows, t.examples, stream_);
}

template <class S>
void DeviceTrainer<S>::look_at_parameters() {
  squares_.resize(slots_.size());
  sum_squares(live_[0], layout_.size, scratch_.data(), norms_.data(), networks(), stream_);
  copy(squares_.data(), norms_.data(), networks(), stream_);
  check_cuda(cudaStreamSynchronize(stream_), "the work on the GPU failed");
}

template <class S>
void DeviceTrainer<S>::replay(Trainee& t, Index epoch, Index steps) {
  restore(t);
  for (Trainee* other : slots_) other->runs = other == &t;
  t.done = 0;
  begin_epoch(t, epoch);
  run_steps(steps);
  look_at_parameters();
}

// --- The fit -------------------------------------------------------------------------------------

template <class S>
ops::LossSums DeviceTrainer<S>::validate(Trainee& t) {
  try {
    return validates_->evaluate(
        {.data = *t.validation, .parameters = t.state.parameters, .context = context_},
        options_.loss, "fit: validation_data");
  } catch (const std::invalid_argument&) {
    // Bad data is found in the first pass over it and leaves the weights as they were.
    if (t.epoch == 0) restore(t);
    throw;
  }
}

template <class S>
void DeviceTrainer<S>::end_steps(Trainee& t) {
  if (t.reached.bad_input != 0) refuse_data(t);
  const bool stopped = t.reached.stopped != 0, whole = t.left() == 0;
  if (!stopped && !whole) return;
  if (t.done > 0) offer_checkpoint();
  EpochRecord record = t.epochs.record(t.learning_rate);
  const auto finite = [&] { return std::isfinite(squares_[static_cast<std::size_t>(t.slot)]); };
  if (stopped || !finite()) {
    t.epochs.diverge(std::move(record), t.done, finite,
                     [&](Index epoch, Index steps) { replay(t, epoch, steps); });
    return;
  }
  if (options_.statistics) record.layers = take_statistics();
  ops::LossSums validation;
  if (t.validation != nullptr) validation = validate(t);
  const ops::LossSums sums{t.reached.loss, t.reached.correct, t.reached.weight};
  t.epochs.end(std::move(record), sums, t.validation == nullptr ? nullptr : &validation,
               [&] { copy(t.best.data(), t.state.parameters.data(), layout_.size, stream_); });
  t.done = 0;
}

template <class S>
void DeviceTrainer<S>::conclude(Trainee& t) {
  if (t.epochs.kept_best()) {
    copy(t.state.parameters.data(), t.best.data(), layout_.size, stream_);
  }
  bring_back(t);
  context_.stream().synchronize();
  t.training.reset();
}

template <class S>
void DeviceTrainer<S>::run(const std::function<void(Trainee&)>& on_finish,
                           const std::function<void()>& on_tick) {
  on_tick_ = on_tick;
  if (options_.resume.has_value()) resume();
  for (;;) {
    for (Trainee* t : slots_) {
      if (!t->training.has_value() || t->epochs.go_on()) continue;
      conclude(*t);
      if (on_finish) on_finish(*t);
    }
    move_together();
    Index count = std::numeric_limits<Index>::max();
    std::vector<Trainee*> running;
    for (Trainee* t : slots_) {
      t->runs = t->epochs.go_on();
      if (!t->runs) continue;
      running.push_back(t);
      if (t->done == 0) {
        t->epochs.begin();
        begin_epoch(*t, t->epochs.current());
      }
      count = std::min(count, t->left());
    }
    if (running.empty()) return;
    run_steps(count);
    look_at_parameters();
    for (Trainee* t : running) {
      t->name([&] { end_steps(*t); });
    }
  }
}

template class DeviceTrainer<float>;
template class DeviceTrainer<Bf16>;

}  // namespace dlcore::cuda
