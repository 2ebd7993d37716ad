#include "trainer.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "check.h"
#include "kernels/select.h"
#include "ops/gather.h"

namespace dlcore {
namespace {

/// Parts in which m examples are gathered and the sums over a slice of their features made.
Index gathered_parts(Index m) {
  constexpr Index kRows = 64;
  return std::max<Index>(m / kRows, 1);
}

template <class T>
void copy(const Buffer<T>& from, Buffer<T>* to) {
  if (to->size() != from.size()) *to = Buffer<T>(from.size());
  to->copy_from(from);
}

/// to[i] = from[rows[i]] for m rows of `width` numbers, where `known` more rows than these say what
/// comes next and is asked for. Element by element: a call of memcpy costs more than a label.
template <class N>
void copy_rows(const N* from, const Index* rows, Index width, Index m, Index known, N* to) {
  for (Index i = 0; i < m; ++i) {
    const N* row = from + rows[i] * width;
    for (Index j = 0; j < width; ++j) to[i * width + j] = row[j];
    if (i < known) __builtin_prefetch(from + rows[m + i] * width);
  }
}

/// Rows of the largest sum that a weight's gradient is for a batch of m examples.
Index most_rows(const Graph& graph, Index m) {
  Index most = 1;
  for (const Node& node : graph.nodes) {
    if (node.op == OpKind::dense) most = std::max(most, node.rows());
  }
  return checked_product(m, most, "fit");
}

template <class T>
bool all_finite(const KernelsOf<T>& kernels, const Buffer<T>& values) {
  // The square of a large float is no overflow in double.
  return std::isfinite(kernels.sum_squares(values.data(), values.size()));
}

}  // namespace

void refuse_not_finite(const char* operation, const RowsView& x, const Index* rows, Index count) {
  ops::Position at{};
  if (!ops::find_not_finite(x, rows, count, &at)) {
    check(false, operation, ": x times input_scale overflows the network's dtype");
  }
  check(false, operation, ": x holds ", at.value, " at row ", at.row, ", column ", at.column,
        "; remove or replace such values first");
  throw std::logic_error("unreachable");
}

template <class T>
void State<T>::copy_from(const State& other) {
  copy(other.parameters, &parameters);
  copy(other.moment1, &moment1);
  copy(other.moment2, &moment2);
  optimizer_step = other.optimizer_step;
  step = other.step;
}

template <class T>
ops::LossSums evaluate_dataset(Plan<T>& plan, const T* parameters, const Dataset& data,
                               const ops::Loss& loss, const ops::TargetShape& target, int threads,
                               const char* operation) {
  ops::LossSums sums;
  const auto& kernels = plan.kernels().template of<T>();
  const Index width = target.rows * target.features;
  for (Index begin = 0; begin < data.x.rows; begin += plan.batch()) {
    const Index m = std::min(plan.batch(), data.x.rows - begin);
    if (!ops::gather(kernels, threads, data.x, {0, data.x.features}, nullptr, begin,
                     static_cast<T>(data.input_scale), plan.input(), plan.input_ld(), m,
                     plan.input_rows())) {
      refuse_not_finite(operation, data.x, nullptr, data.x.rows);
    }
    plan.forward(parameters, threads, {0, m});
    const T* values = static_cast<const T*>(data.values);
    sums.add(ops::loss_forward_backward<T>(
        kernels, threads, loss, target, plan.output(), plan.output_ld(),
        data.labels == nullptr ? nullptr : data.labels + begin * target.rows,
        values == nullptr ? nullptr : values + begin * width, target.features,
        data.weight == nullptr ? nullptr : data.weight + begin, 0, plan.loss_scratch(), nullptr, 0,
        m));
  }
  return sums;
}

template <class T>
Trainer<T>::Trainer(const Graph& graph, const Layout<T>& layout, State<T>& state,
                    const Dataset& data, const FitOptions& options)
    : graph_(graph),
      layout_(layout),
      state_(state),
      data_(data),
      options_(options),
      kernels_(dlcore::kernels()),
      target_(ops::target_shape(options.loss, graph.output().shape)),
      examples_(options.examples(data)),
      batch_(options.batch(data)),
      steps_per_epoch_(options.steps_per_epoch(data)),
      epochs_(options, examples_, steps_per_epoch_, "cpu"),
      // Clipping needs the whole gradient before the first weight moves, a large batch its blocks.
      fused_(options.clip_norm == 0 && most_rows(graph, batch_) <= ops::kGradientRows),
      plan_(graph, layout, kernels_, batch_, Plan<T>::Kind::training,
            options.bf16 ? bf16_kernels() : nullptr),
      statistics_(options.statistics ? std::make_unique<Statistics<T>>(graph, layout) : nullptr),
      gradients_(fused_ && statistics_ == nullptr ? 0 : layout.size),
      norms_(options.clip_norm > 0 ? ops::norm_pieces(layout.size) : 0),
      order_(static_cast<std::size_t>(examples_)) {
  if (options.validation.has_value()) {
    const Index batch = std::min(kEvaluationBatch, options.validation->x.rows);
    validation_plan_ =
        std::make_unique<Plan<T>>(graph, layout, kernels_, batch, Plan<T>::Kind::inference);
  }
  if (data.labels != nullptr) labels_.resize(static_cast<std::size_t>(batch_ * target_.rows));
  if (data.values != nullptr) {
    targets_ = Buffer<T>(batch_ * target_.rows * target_.features);
  }
  if (data.weight != nullptr) weights_.resize(static_cast<std::size_t>(batch_));
  loss_sums_.resize(static_cast<std::size_t>(plan_.pieces(batch_)));
}

template <class T>
void Trainer<T>::refuse_data() {
  // Before the first step there is no snapshot, and nothing to take back.
  if (epoch_start_.parameters.size() > 0) state_.copy_from(epoch_start_);
  refuse_not_finite("fit", data_.x, options_.rows, examples_);
}

template <class T>
typename Trainer<T>::Batch Trainer<T>::batch_of(Index step_in_epoch) const {
  const Index begin = std::min(step_in_epoch * batch_, examples_);
  return {order_.data() + begin, examples_ - begin, std::min(batch_, examples_ - begin)};
}

template <class T>
bool Trainer<T>::gather(const Batch& batch, Part piece, Part features, T* y, Index ldy) {
  const Index begin = piece.begin;
  return ops::gather(kernels_.of<T>(), options_.threads, data_.x, features, batch.rows + begin, 0,
                     static_cast<T>(data_.input_scale), y, ldy, piece.end - begin,
                     plan_.input_rows());
}

template <class T>
Wanted Trainer<T>::after(const Batch& batch, Part piece, Part features) const {
  const Index size = piece.end - piece.begin;
  return ops::wanted(data_.x, features, batch.rows + piece.end,
                     std::min(size, batch.known - piece.end));
}

template <class T>
bool Trainer<T>::begin_slice(const Batch& batch, Index slice, Part rows) {
  const Part features = plan_.slice_features(slice);
  const bool finite =
      gather(batch, rows, features, plan_.slice_input(slice, rows.begin), plan_.slice_ld(slice));
  plan_.forward_slice(state_.parameters.data(), slice, rows, after(batch, rows, features));
  return finite;
}

template <class T>
bool Trainer<T>::begin_slices(const Batch& batch) {
  const Index slices = plan_.slices(batch.m);
  const Index parts = gathered_parts(batch.m);
  std::atomic<bool> finite{true};
  parallel_for(options_.threads, slices * parts, [&](Index i) {
    if (!begin_slice(batch, i / parts, part(i % parts, parts, batch.m, 1))) finite = false;
  });
  return finite;
}

template <class T>
void Trainer<T>::end_slices(const Batch& batch, const typename Plan<T>::Sink& sink,
                            const Batch& next) {
  const Index slices = plan_.slices(batch.m);
  if (options_.threads > slices) {
    plan_.backward_parameters(options_.threads, batch.m, sink, true);
    for (Index i = 0; i < slices; ++i) plan_.backward_slice(options_.threads, i, batch.m, sink);
    return;
  }
  const bool begins = plan_.slices(next.m) == slices;
  const Index parts = begins ? gathered_parts(next.m) : 0;
  std::atomic<bool> finite{true};
  parallel_for(options_.threads, slices, [&](Index i) {
    if (i == 0) plan_.backward_parameters(1, batch.m, sink, true);
    plan_.backward_slice(1, i, batch.m, sink);
    for (Index p = 0; p < parts; ++p) {
      if (!begin_slice(next, i, part(p, parts, next.m, 1))) finite = false;
    }
  });
  if (begins) begun_ = finite;
}

template <class T>
void Trainer<T>::forward_and_loss(const Batch& batch, Part piece, bool sliced, double weight,
                                  const ops::DropoutKey& dropout, ops::LossSums* sums) {
  const auto& k = kernels_.of<T>();
  const int threads = options_.threads;
  const Index begin = piece.begin, m = piece.end - piece.begin;
  const Index width = target_.rows * target_.features;
  Index* labels = data_.labels == nullptr ? nullptr : labels_.data() + begin * target_.rows;
  T* targets = data_.values == nullptr ? nullptr : targets_.data() + begin * width;
  double* weights = data_.weight == nullptr ? nullptr : weights_.data() + begin;
  const Index* rows = batch.rows + begin;
  const Index known = batch.known - piece.end;
  if (labels != nullptr) copy_rows(data_.labels, rows, target_.rows, m, known, labels);
  if (targets != nullptr) {
    copy_rows(static_cast<const T*>(data_.values), rows, width, m, known, targets);
  }
  if (weights != nullptr) copy_rows(data_.weight, rows, 1, m, known, weights);
  const Wanted wanted = after(batch, piece, {0, data_.x.features});
  plan_.forward(state_.parameters.data(), threads, piece, dropout, 0, sliced, &wanted);
  *sums = ops::loss_forward_backward<T>(
      k, threads, options_.loss, target_, plan_.output(begin), plan_.output_ld(), labels, targets,
      target_.features, weights, weight, plan_.loss_scratch(begin), plan_.output_gradient(begin),
      leading_dimension<T>(target_.features), m);
}

template <class T>
bool Trainer<T>::run_step(Index epoch, Index step_in_epoch, ops::LossSums* sums) {
  const auto& k = kernels_.of<T>();
  const int threads = options_.threads;
  const Batch batch = batch_of(step_in_epoch);
  const Index m = batch.m;
  double weight = static_cast<double>(m);
  if (data_.weight != nullptr) {
    weight = 0;
    for (Index i = 0; i < m; ++i) weight += data_.weight[batch.rows[i]];
  }
  T* parameters = state_.parameters.data();
  const ops::DropoutKey dropout{options_.seed, static_cast<std::uint64_t>(state_.step)};
  const Index pieces = plan_.pieces(m);
  const bool sliced = plan_.slices(m) > 1;
  std::atomic<bool> finite{true};
  if (sliced) finite = begun_.has_value() ? *begun_ : begin_slices(batch);
  begun_.reset();
  // Inside a piece the loops are serial; a batch of one piece leaves the threads to them.
  parallel_for(threads, pieces, [&](Index i) {
    const Part piece = part(i, pieces, m, 1);
    ops::LossSums& loss = loss_sums_[static_cast<std::size_t>(i)];
    const Part features{0, data_.x.features};
    if (!sliced && !gather(batch, piece, features, plan_.input(piece.begin), plan_.input_ld())) {
      finite = false;
    }
    forward_and_loss(batch, piece, sliced, weight, dropout, &loss);
    plan_.backward_values(parameters, threads, piece, dropout, 0, i);
  });
  if (!finite) refuse_data();
  ops::LossSums loss;
  for (Index i = 0; i < pieces; ++i) loss.add(loss_sums_[static_cast<std::size_t>(i)]);
  if (!std::isfinite(loss.loss)) return false;
  // Not before the epoch's first loss is known to be finite: until then the snapshot of the epoch
  // before can still take back its last update.
  if (step_in_epoch == 0) epoch_start_.copy_from(state_);
  sums->add(loss);

  learning_rate_ = epochs_.learning_rate(epoch, step_in_epoch);
  T* moment1 = state_.moment1.data();
  T* moment2 = state_.moment2.data();
  ++state_.optimizer_step;
  const bool sampled = statistics_ != nullptr && step_in_epoch % Statistics<T>::kEvery == 0;
  const auto backward = [&](const typename Plan<T>::Sink& sink, const Batch& next) {
    if (sliced) {
      end_slices(batch, sink, next);
    } else {
      plan_.backward_parameters(threads, m, sink);
    }
  };
  if (fused_ && !sampled) {
    const Update<T> update =
        ops::update_of<T>(options_.optimizer, learning_rate_, 1, state_.optimizer_step);
    backward({nullptr, false, &update, parameters, moment1, moment2}, batch_of(step_in_epoch + 1));
  } else {
    backward({gradients_.data()}, {});
    double factor = 1;
    if (options_.clip_norm > 0) {
      factor = ops::clip_factor(
          ops::norm(k, threads, gradients_.data(), gradients_.size(), norms_.data()),
          options_.clip_norm);
    }
    const Update<T> update =
        ops::update_of<T>(options_.optimizer, learning_rate_, factor, state_.optimizer_step);
    if (sampled) {
      statistics_->step(k, threads, update, parameters, gradients_.data(), moment1, moment2);
      statistics_->look_at_units(plan_, m);
    } else {
      ops::optimizer_step(k, threads, update, parameters, gradients_.data(), moment1, moment2,
                          layout_.size);
    }
  }
  ++state_.step;
  return true;
}

template <class T>
bool Trainer<T>::parameters_finite() const {
  return all_finite(kernels_.of<T>(), state_.parameters);
}

template <class T>
void Trainer<T>::replay(Index epoch, Index steps) {
  state_.copy_from(epoch_start_);
  epochs_.order(state_.step, order_.data());
  begun_.reset();
  // The old plan's padding may hold what the non-finite step left there.
  plan_ = Plan<T>(graph_, layout_, kernels_, batch_, Plan<T>::Kind::training,
                  options_.bf16 ? bf16_kernels() : nullptr);
  ops::LossSums sums;
  for (Index step = 0; step < steps; ++step) {
    run_step(epoch, step, &sums);
    epochs_.report(epoch, step + 1);
  }
}

template <class T>
void Trainer<T>::offer_checkpoint() {
  if (!epochs_.wants_checkpoint()) return;
  const auto numbers = [](const Buffer<T>& buffer) {
    return Numbers{buffer.data(), buffer.size()};
  };
  Checkpoint c;
  c.step = epoch_start_.step;
  c.optimizer_step = epoch_start_.optimizer_step;
  c.parameters = numbers(epoch_start_.parameters);
  c.moment1 = numbers(epoch_start_.moment1);
  c.moment2 = numbers(epoch_start_.moment2);
  c.best_parameters = numbers(best_.parameters);
  epochs_.hand_out(std::move(c));
}

template <class T>
void Trainer<T>::resume() {
  const Checkpoint& c = *options_.resume;
  const auto take = [](const Numbers& from, Buffer<T>* to, const char* what) {
    check(from.size == to->size(), "fit: the checkpoint holds ", from.size, " ", what, ", not ",
          to->size());
    if (from.size > 0) std::copy_n(static_cast<const T*>(from.data), from.size, to->data());
  };
  epochs_.resume(c);
  if (c.best_parameters.size > 0) best_.parameters = Buffer<T>(layout_.size);
  take(c.parameters, &state_.parameters, "parameters");
  take(c.moment1, &state_.moment1, "first moments");
  take(c.moment2, &state_.moment2, "second moments");
  take(c.best_parameters, &best_.parameters, "parameters of the best epoch");
  state_.step = c.step;
  state_.optimizer_step = c.optimizer_step;
}

template <class T>
void Trainer<T>::run_epoch() {
  const Index epoch = epochs_.current();
  epochs_.order(state_.step, order_.data());
  epochs_.begin();
  ops::LossSums sums;
  Index done = 0;
  bool finite = true;
  for (; finite && done < steps_per_epoch_; done += finite ? 1 : 0) {
    finite = run_step(epoch, done, &sums);
    // The snapshot that diverging needs is taken now: nothing before it is needed any more.
    if (finite && done == 0) offer_checkpoint();
    epochs_.report(epoch, done + 1);
  }
  EpochRecord record = epochs_.record(learning_rate_);
  if (!finite || !parameters_finite()) {
    epochs_.diverge(
        record, done, [&] { return parameters_finite(); },
        [&](Index of, Index steps) { replay(of, steps); });
    return;
  }
  if (statistics_ != nullptr) record.layers = statistics_->take();
  ops::LossSums validation;
  if (validation_plan_ != nullptr) validation = validate();
  epochs_.end(std::move(record), sums, validation_plan_ == nullptr ? nullptr : &validation,
              [&] { copy(state_.parameters, &best_.parameters); });
}

template <class T>
ops::LossSums Trainer<T>::validate() {
  try {
    return evaluate_dataset(*validation_plan_, state_.parameters.data(), *options_.validation,
                            options_.loss, target_, options_.threads, "fit: validation_data");
  } catch (const std::invalid_argument&) {
    // Bad data is found in the first pass over it and leaves the weights as they were.
    if (epochs_.current() == 0) state_.copy_from(epoch_start_);
    throw;
  }
}

template <class T>
FitResult Trainer<T>::run() {
  if (options_.resume.has_value()) resume();
  while (epochs_.go_on()) run_epoch();
  if (epochs_.kept_best()) state_.parameters.copy_from(best_.parameters);
  return epochs_.take_result();
}

#define DLCORE_INSTANTIATE(T)                                                                   \
  template struct State<T>;                                                                     \
  template class Trainer<T>;                                                                    \
  template ops::LossSums evaluate_dataset(Plan<T>&, const T*, const Dataset&, const ops::Loss&, \
                                          const ops::TargetShape&, int, const char*);
DLCORE_INSTANTIATE(float)
DLCORE_INSTANTIATE(double)
#undef DLCORE_INSTANTIATE

}  // namespace dlcore
