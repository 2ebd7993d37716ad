#include "device_network.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "check.h"
#include "device_plan.h"
#include "device_trainer.h"
#include "launches.h"
#include "trainer.h"

namespace dlcore::cuda {
namespace {

/// Calls f with float or Bf16, what values are stored as at this precision.
template <class F>
auto with_storage(lt::Precision precision, F f) {
  if (precision == lt::Precision::bf16) return f.template operator()<Bf16>();
  return f.template operator()<float>();
}

/// What lies on a GPU has to lie on the network's.
void check_place(const char* operation, const RowsView& x, int device) {
  if (!x.on_device || x.rows == 0) return;
  cudaPointerAttributes attributes{};
  check_cuda(cudaPointerGetAttributes(&attributes, x.base), "an array's place cannot be found");
  check_state(attributes.device == device, operation, ": x lies on cuda:", attributes.device,
              " but the network on cuda:", device);
}

}  // namespace

DeviceLayout::DeviceLayout(const Graph& graph) : slot_of_node(graph.nodes.size(), -1) {
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if (node.op != OpKind::dense) continue;
    DeviceSlot slot;
    slot.node = static_cast<int>(i);
    slot.in_features = graph.nodes[static_cast<std::size_t>(node.inputs[0])].features();
    slot.out_features = node.units;
    slot.ld = line(slot.in_features);
    slot.weight = size;
    const Index weights = checked_product(slot.ld, node.units, "dense");
    const Index biases = node.bias ? line(node.units) : 0;
    check(!__builtin_add_overflow(size, line(weights) + biases, &size),
          "network: its parameters are more than 2**63 - 1 elements");
    if (node.bias) slot.bias = size - biases;
    slot_of_node[i] = static_cast<int>(slots.size());
    slots.push_back(slot);
  }
}

// --- Context -------------------------------------------------------------------------------------

std::vector<std::pair<int, std::unique_ptr<Context::Parts>>>& Context::idle() {
  // Never destroyed: at the end of the process the driver may be gone before us.
  static auto* const parts = new std::vector<std::pair<int, std::unique_ptr<Parts>>>;
  return *parts;
}

std::mutex& Context::mutex() {
  static auto* const mutex = new std::mutex;
  return *mutex;
}

Context::Context(int device) : device_(device), scope_(device) {
  {
    const std::lock_guard lock(mutex());
    auto& parts = idle();
    const auto found = std::find_if(parts.begin(), parts.end(),
                                    [&](const auto& entry) { return entry.first == device; });
    if (found != parts.end()) {
      parts_ = std::move(found->second);
      parts.erase(found);
    }
  }
  if (parts_ == nullptr) parts_ = std::make_unique<Parts>();
}

Context::~Context() {
  const std::lock_guard lock(mutex());
  idle().emplace_back(device_, std::move(parts_));
}

std::unique_ptr<Context> Context::take(int device) {
  return std::unique_ptr<Context>(new Context(device));
}

// --- Data ----------------------------------------------------------------------------------------

void pack_rows(const RowsView& x, const Index* rows, Index first, Index count, std::byte* to) {
  const Index size = item_size(x.dtype);
  const Index bytes = x.features * size;
  for (Index i = 0; i < count; ++i, to += bytes) {
    const std::byte* from = x.base + (rows == nullptr ? first + i : rows[i]) * x.row_stride;
    if (x.columns.empty()) {
      std::memcpy(to, from, static_cast<std::size_t>(bytes));
      continue;
    }
    for (Index j = 0; j < x.features; ++j) {
      std::memcpy(to + j * size, from + x.columns[static_cast<std::size_t>(j)],
                  static_cast<std::size_t>(size));
    }
  }
}

namespace {

/// Rows first .. first + count of x, without gaps, to `to` on the device.
void upload_rows(const RowsView& x, Index first, Index count, std::byte* to, cudaStream_t stream) {
  const Index bytes = x.features * item_size(x.dtype);
  if (x.on_device || (x.columns.empty() && x.row_stride == bytes)) {
    copy(to, x.base + first * x.row_stride, count * bytes, stream);
    return;
  }
  // In pieces that stay in the host's cache; the copy takes pageable memory before it returns.
  const Index piece = std::max<Index>(1, (Index{1} << 22) / std::max<Index>(bytes, 1));
  std::vector<std::byte> packed(static_cast<std::size_t>(std::min(piece, count) * bytes));
  for (Index at = 0; at < count; at += piece) {
    const Index some = std::min(piece, count - at);
    pack_rows(x, nullptr, first + at, some, packed.data());
    copy(to + at * bytes, packed.data(), some * bytes, stream);
  }
}

}  // namespace

DeviceData upload(const Dataset& data, const Graph& graph, const ops::Loss& loss, Index most,
                  cudaStream_t stream) {
  DeviceData d;
  d.view = data.x;
  d.input_scale = data.input_scale;
  const Index bytes =
      checked_product(data.x.rows, data.x.features * item_size(data.x.dtype), "data");
  if (data.x.on_device) {
    d.x = data.x.base;
  } else if (bytes <= most) {
    d.own_x = DeviceMemory<std::byte>(bytes);
    upload_rows(data.x, 0, data.x.rows, d.own_x.data(), stream);
    d.x = d.own_x.data();
  }
  const ops::TargetShape target = ops::target_shape(loss, graph.output().shape);
  if (data.labels != nullptr) {
    const Index count = data.x.rows * target.rows;
    std::vector<std::int32_t> labels(static_cast<std::size_t>(count));
    std::transform(data.labels, data.labels + count, labels.begin(),
                   [](Index label) { return static_cast<std::int32_t>(label); });
    d.labels = DeviceMemory<std::int32_t>(count);
    copy(d.labels.data(), labels.data(), count, stream);
  }
  if (data.values != nullptr) {
    const Index count = data.x.rows * target.rows * target.features;
    d.values = DeviceMemory<float>(count);
    copy(d.values.data(), static_cast<const float*>(data.values), count, stream);
  }
  if (data.weight != nullptr) {
    d.host_weight.assign(data.weight, data.weight + data.x.rows);
    d.weight = DeviceMemory<double>(data.x.rows);
    copy(d.weight.data(), data.weight, data.x.rows, stream);
  }
  return d;
}

// --- The network ---------------------------------------------------------------------------------

/// Holds the network for one call. Other threads are refused while a fit changes the weights; its
/// own thread is not: it asks from a callback, between two epochs.
class DeviceNetwork::Use {
 public:
  Use(const DeviceNetwork& network, const char* operation) {
    network.refuse_while_training(operation);
    lock_ = std::unique_lock(network.calls_);
  }

 private:
  std::unique_lock<std::recursive_mutex> lock_;
};

DeviceNetwork::DeviceNetwork(Graph graph, int device)
    : graph_(std::move(graph)), device_(device), layout_(graph_) {
  const int count = device_count();
  check_state(device >= 0 && device < count, "network: device \"cuda:", device,
              "\" does not exist; there ",
              count == 1 ? "is 1 GPU" : sentence("are ", count, " GPUs"), ", counted from 0");
  // The same names as on the CPU, whatever the layout.
  const Layout<float> host(graph_);
  names_ = parameter_names(graph_, host);
  const auto context = Context::take(device);
  state_.parameters = DeviceMemory<float>(layout_.size);
  set_zero(state_.parameters.data(), layout_.size, context->stream());
  context->stream().synchronize();
}

DeviceNetwork::~DeviceNetwork() = default;

void DeviceNetwork::refuse_while_training(const char* operation) const {
  check_state(!training_.load() || trainer_thread_ == std::this_thread::get_id(), operation,
              ": this network is training in another thread; wait for it or use a copy");
}

void DeviceNetwork::set_precision(const std::string& name) {
  if (name == "fp32") {
    precision_ = lt::Precision::fp32;
  } else if (name == "bf16") {
    precision_ = lt::Precision::bf16;
  } else {
    check(name == "tf32", "network: precision \"", name, "\" is not one of fp32, tf32, bf16");
    precision_ = lt::Precision::tf32;
  }
}

void DeviceNetwork::read(const DeviceMemory<float>& arena, std::size_t i, void* value) const {
  const ParameterName& name = names_[i];
  const DeviceSlot& slot = layout_.slots[static_cast<std::size_t>(name.slot)];
  const auto context = Context::take(device_);
  const Index count = name.is_bias ? slot.out_features : slot.out_features * slot.ld;
  std::vector<float> rows(static_cast<std::size_t>(count));
  copy(rows.data(), arena.data() + (name.is_bias ? slot.bias : slot.weight), count,
       context->stream());
  context->stream().synchronize();
  auto* to = static_cast<float*>(value);
  if (name.is_bias) {
    std::copy(rows.begin(), rows.end(), to);
    return;
  }
  for (Index j = 0; j < slot.out_features; ++j) {
    std::copy_n(rows.data() + j * slot.ld, slot.in_features, to + j * slot.in_features);
  }
}

void DeviceNetwork::get(std::size_t i, void* value) const { read(state_.parameters, i, value); }

void DeviceNetwork::get_gradient(std::size_t i, void* value) const { read(gradients_, i, value); }

void DeviceNetwork::set(std::size_t i, const void* value) {
  const Use use(*this, "set_parameters");
  const ParameterName& name = names_[i];
  const DeviceSlot& slot = layout_.slots[static_cast<std::size_t>(name.slot)];
  const auto* from = static_cast<const float*>(value);
  const Index ld = name.is_bias ? slot.out_features : slot.ld;
  const Index count = name.is_bias ? ld : slot.out_features * ld;
  std::vector<float> rows(static_cast<std::size_t>(count));
  if (name.is_bias) {
    std::copy_n(from, count, rows.begin());
  } else {
    for (Index j = 0; j < slot.out_features; ++j) {
      std::copy_n(from + j * slot.in_features, slot.in_features, rows.data() + j * ld);
    }
  }
  const auto context = Context::take(device_);
  copy(state_.parameters.data() + (name.is_bias ? slot.bias : slot.weight), rows.data(), count,
       context->stream());
  context->stream().synchronize();
}

Memory DeviceNetwork::memory(Index batch, const ops::Optimizer& optimizer, Index examples, bool,
                             bool validation, bool early_stopping, bool bf16) const {
  Memory m;
  const Index arena = layout_.size * static_cast<Index>(sizeof(float));
  m.parameters = bf16 ? arena + arena / 2 : arena;
  m.gradients = arena;
  m.optimizer_state = arena * optimizer.states();
  m.snapshots = arena * (1 + optimizer.states() + (early_stopping ? 1 : 0));
  with_storage(bf16 ? lt::Precision::bf16 : precision_, [&]<class S>() {
    using Kind = typename DevicePlan<S>::Kind;
    m.workspace = DevicePlan<S>::bytes(graph_, layout_, batch, Kind::training);
    if (validation) {
      m.workspace += DevicePlan<S>::bytes(graph_, layout_, kDeviceBatch, Kind::inference);
    }
  });
  m.workspace += lt::kWorkspaceBytes;
  m.permutation = examples * static_cast<Index>(sizeof(std::uint32_t));
  return m;
}

namespace {

/// The weights as a precision's products read them; the bfloat16 copy is made anew.
template <class S>
class StoredWeights {
 public:
  StoredWeights(const DeviceMemory<float>& parameters, cudaStream_t stream) {
    weights_.single = parameters.data();
    if constexpr (std::is_same_v<S, float>) {
      weights_.stored = parameters.data();
    } else {
      copy_ = DeviceMemory<Bf16>(parameters.size());
      convert(parameters.data(), copy_.data(), parameters.size(), stream);
      weights_.stored = copy_.data();
    }
  }
  const Weights<S>& get() const { return weights_; }

 private:
  DeviceMemory<Bf16> copy_;
  Weights<S> weights_;
};

/// Steps through examples in order, batch by batch, from the device or the host.
template <class S>
class Pass {
 public:
  Pass(DevicePlan<S>& plan, const RowsView& view, const void* resident, double input_scale,
       double share, Index random_step, Context& context)
      : plan_(plan),
        view_(view),
        resident_(resident),
        scale_(static_cast<float>(input_scale)),
        context_(context),
        state_(1),
        table_((view.rows + plan.batch() - 1) / plan.batch()) {
    const Index batch = plan.batch();
    std::vector<StepInput> table(static_cast<std::size_t>(table_.size()));
    for (Index i = 0; i < table_.size(); ++i) {
      StepInput& input = table[static_cast<std::size_t>(i)];
      input.begin = i * batch;
      input.x_begin = resident == nullptr ? 0 : i * batch;
      input.first_row = i * batch;
      input.rows = static_cast<std::int32_t>(std::min(batch, view.rows - i * batch));
      input.share = share;
      input.random_step = static_cast<std::uint64_t>(random_step);
      input.number = i;
    }
    copy(table_.data(), table.data(), table_.size(), context.stream());
    begin();
    if (resident == nullptr) {
      chunk_ = DeviceMemory<std::byte>(batch * view.features * item_size(view.dtype));
    }
  }

  /// Back to the first batch.
  void begin() {
    const StepState state;
    copy(state_.data(), &state, 1, context_.stream());
  }

  Index count() const { return table_.size(); }
  Step step() const { return {state_.data(), table_.data()}; }

  /// Batch i into the plan's input.
  void fetch(Index i, const Graph& graph) {
    const Index begin = i * plan_.batch();
    const void* x = resident_;
    if (x == nullptr) {
      upload_rows(view_, begin, std::min(plan_.batch(), view_.rows - begin), chunk_.data(),
                  context_.stream());
      x = chunk_.data();
    }
    const Node& input = graph.input();
    gather(step(), x, view_.dtype, Rows{}, scale_, plan_.input(), plan_.batch(), input.rows(),
           input.features(), plan_.input_ld(), context_.stream());
  }

  /// What the steps have left, once all of them have run.
  StepState wait() {
    StepState state;
    copy(&state, state_.data(), 1, context_.stream());
    context_.stream().synchronize();
    return state;
  }

 private:
  DevicePlan<S>& plan_;
  const RowsView& view_;
  const void* resident_;
  float scale_;
  Context& context_;
  DeviceMemory<StepState> state_;
  DeviceMemory<StepInput> table_;
  DeviceMemory<std::byte> chunk_;
};

Targets targets_of(const DeviceData& data, const Graph& graph, const ops::Loss& loss) {
  return {.loss = loss,
          .shape = ops::target_shape(loss, graph.output().shape),
          .labels = data.labels.data(),
          .values = data.values.data(),
          .weight = data.weight.data(),
          .rows = {}};
}

}  // namespace

void refuse_device_data(const char* operation, const RowsView& x, const Index* rows, Index count,
                        cudaStream_t stream) {
  if (!x.on_device) refuse_not_finite(operation, x, rows, count);
  RowsView host = x;
  std::vector<std::byte> copied(static_cast<std::size_t>(x.rows * x.row_stride));
  copy(copied.data(), x.base, x.rows * x.row_stride, stream);
  // Whatever failed before this copy, the sentence about the data is the better one.
  check_cuda(cudaStreamSynchronize(stream), "the data cannot be read back");
  host.base = copied.data();
  host.on_device = false;
  refuse_not_finite(operation, host, rows, count);
}

Index device_batch(Index rows) { return std::clamp<Index>(rows, 1, kDeviceBatch); }

void DeviceNetwork::forward(const RowsView& x, double input_scale, Head head, Index, int, void* y) {
  const Use use(*this, "predict");
  check_place("predict", x, device_);
  const auto context = Context::take(device_);
  const cudaStream_t stream = context->stream();
  const Node& output = graph_.output();
  const Index n = output.features();
  with_storage(precision_, [&]<class S>() {
    DevicePlan<S> plan(graph_, layout_, device_batch(x.rows), DevicePlan<S>::Kind::inference,
                       precision_, stream);
    const StoredWeights<S> weights(state_.parameters, stream);
    Pass<S> pass(plan, x, x.on_device ? x.base : nullptr, input_scale, 0, 0, *context);
    DeviceMemory<float> result(plan.batch() * output.rows() * n);
    for (Index i = 0; i < pass.count(); ++i) {
      pass.fetch(i, graph_);
      plan.forward(pass.step(), weights.get(), *context, std::nullopt);
      const Index begin = i * plan.batch();
      const Index rows = std::min(plan.batch(), x.rows - begin) * output.rows();
      switch (head) {
        case Head::identity:
          identity_rows(plan.output(), plan.output_ld(), result.data(), rows, n, stream);
          break;
        case Head::sigmoid:
          sigmoid_rows(plan.output(), plan.output_ld(), result.data(), rows, n, stream);
          break;
        case Head::softmax:
          softmax_rows(plan.output(), plan.output_ld(), result.data(), rows, n, stream);
          break;
      }
      // Not counted by `finish`, which would need targets.
      count_step(pass.step(), stream);
      copy(static_cast<float*>(y) + begin * output.rows() * n, result.data(), rows * n, stream);
    }
    if (pass.wait().bad_input != 0) {
      refuse_device_data("predict", x, nullptr, x.rows, stream);
    }
  });
}

namespace {

template <class S>
class EvaluatorOf final : public Evaluator {
 public:
  EvaluatorOf(DeviceNetwork& network, const DeviceData& data, const ops::Loss& loss,
              Context& context)
      : network_(network),
        data_(data),
        context_(context),
        plan_(network.graph(), network.layout(), device_batch(data.view.rows),
              DevicePlan<S>::Kind::inference, network.precision(), context.stream()),
        pass_(plan_, data.view, data.x, data.input_scale, 0, 0, context),
        targets_(targets_of(data, network.graph(), loss)) {}

  ops::LossSums run(const char* operation) override {
    const cudaStream_t stream = context_.stream();
    const StoredWeights<S> weights(network_.state().parameters, stream);
    pass_.begin();
    for (Index i = 0; i < pass_.count(); ++i) {
      pass_.fetch(i, network_.graph());
      plan_.forward(pass_.step(), weights.get(), context_, std::nullopt);
      loss_rows<S>(pass_.step(), targets_, plan_.output(), plan_.output_ld(), plan_.loss(),
                   plan_.correct(), nullptr, 0, plan_.batch(), stream);
      finish(pass_.step(), targets_, plan_.loss(), plan_.correct(), stream);
    }
    const StepState state = pass_.wait();
    if (state.bad_input != 0) {
      refuse_device_data(operation, data_.view, nullptr, data_.view.rows, stream);
    }
    ops::LossSums sums;
    sums.loss = state.stopped != 0 ? kNone : state.loss;
    sums.correct = state.correct;
    sums.weight = state.weight;
    return sums;
  }

 private:
  DeviceNetwork& network_;
  const DeviceData& data_;
  Context& context_;
  DevicePlan<S> plan_;
  Pass<S> pass_;
  Targets targets_;
};

}  // namespace

std::unique_ptr<Evaluator> Evaluator::make(DeviceNetwork& network, const DeviceData& data,
                                           const ops::Loss& loss, Context& context) {
  return with_storage(network.precision(), [&]<class S>() -> std::unique_ptr<Evaluator> {
    return std::make_unique<EvaluatorOf<S>>(network, data, loss, context);
  });
}

ops::LossSums DeviceNetwork::evaluate(const Dataset& data, const ops::Loss& loss, Index, int) {
  const Use use(*this, "evaluate");
  check_place("evaluate", data.x, device_);
  const auto context = Context::take(device_);
  // Fetched batch by batch: it is used once.
  const DeviceData uploaded = upload(data, graph_, loss, 0, context->stream());
  return Evaluator::make(*this, uploaded, loss, *context)->run("evaluate");
}

double DeviceNetwork::loss_and_gradients(const Dataset& data, const ops::Loss& loss, int,
                                         double clip_norm,
                                         std::optional<std::uint64_t> dropout_seed) {
  const Use use(*this, "loss_and_gradients");
  check_place("loss_and_gradients", data.x, device_);
  const auto context = Context::take(device_);
  const cudaStream_t stream = context->stream();
  const DeviceData uploaded = upload(data, graph_, loss, 0, stream);
  double total = static_cast<double>(data.x.rows);
  if (data.weight != nullptr) {
    total = 0;
    for (Index i = 0; i < data.x.rows; ++i) total += data.weight[i];
  }
  gradients_ = DeviceMemory<float>(layout_.size);
  set_zero(gradients_.data(), layout_.size, stream);
  return with_storage(precision_, [&]<class S>() {
    DevicePlan<S> plan(graph_, layout_, device_batch(data.x.rows), DevicePlan<S>::Kind::training,
                       precision_, stream);
    const StoredWeights<S> weights(state_.parameters, stream);
    const Targets targets = targets_of(uploaded, graph_, loss);
    const double width = static_cast<double>(targets.shape.width);
    Pass<S> pass(plan, data.x, uploaded.x, data.input_scale, total > 0 ? 1 / (total * width) : 0,
                 state_.step, *context);
    for (Index i = 0; i < pass.count(); ++i) {
      pass.fetch(i, graph_);
      plan.forward(pass.step(), weights.get(), *context, dropout_seed);
      loss_rows(pass.step(), targets, plan.output(), plan.output_ld(), plan.loss(), plan.correct(),
                plan.output_gradient(), plan.output_ld(), plan.batch(), stream);
      finish(pass.step(), targets, plan.loss(), plan.correct(), stream);
      plan.backward(pass.step(), weights.get(), gradients_.data(), i > 0, *context, dropout_seed);
    }
    DeviceMemory<double> scratch;
    if (clip_norm > 0) {
      scratch = DeviceMemory<double>(squares_scratch(layout_.size));
      clip(pass.step(), gradients_.data(), layout_.size, clip_norm, scratch.data(), stream);
      scale_gradients(pass.step(), gradients_.data(), layout_.size, stream);
    }
    const StepState state = pass.wait();
    if (state.bad_input != 0) {
      refuse_device_data("loss_and_gradients", data.x, nullptr, data.x.rows, stream);
    }
    if (state.stopped != 0) return kNone;
    return state.weight > 0 ? state.loss / state.weight : 0;
  });
}

DeviceNetwork::Training::Training(DeviceNetwork& network, const ops::Optimizer& optimizer)
    : network_(network) {
  bool idle = false;
  check_state(network.training_.compare_exchange_strong(idle, true),
              "fit: this network is training already; wait for that fit or train a copy");
  network.trainer_thread_ = std::this_thread::get_id();
  try {
    DeviceState& state = network.state_;
    if (!network.optimizer_.shares_state(optimizer) || state.optimizer_step == 0) {
      const auto context = Context::take(network.device_);
      const auto ready = [&](DeviceMemory<float>* moment, bool wanted) {
        *moment = DeviceMemory<float>(wanted ? network.layout_.size : 0);
        set_zero(moment->data(), moment->size(), context->stream());
      };
      ready(&state.moment1, optimizer.states() > 0);
      ready(&state.moment2, optimizer.states() > 1);
      context->stream().synchronize();
      state.optimizer_step = 0;
    }
    network.optimizer_ = optimizer;
  } catch (...) {
    network.training_.store(false);
    throw;
  }
}

DeviceNetwork::Training::~Training() { network_.training_.store(false); }

FitResult DeviceNetwork::fit(const Dataset& data, const FitOptions& options) {
  check_place("fit", data.x, device_);
  const Training training(*this, options.optimizer);
  try {
    const auto context = Context::take(device_);
    return with_storage(precision_, [&]<class S>() {
      return DeviceTrainer<S>(*this, data, options, *context).run();
    });
  } catch (const OutOfMemory& e) {
    const Index examples = options.rows == nullptr ? data.x.rows : options.row_count;
    const Index batch = std::min(options.batch_size, examples);
    const Memory m = memory(batch, options.optimizer, examples, options.clip_norm > 0,
                            options.validation.has_value(), options.early_stopping.has_value(),
                            precision_ == lt::Precision::bf16);
    throw std::runtime_error(sentence("fit: ",
                                      megabytes(m.parameters + m.gradients + m.optimizer_state +
                                                m.snapshots + m.workspace + m.permutation),
                                      " for the weights, their copies and batches of ", batch,
                                      " do not fit on the GPU: ", e.what(),
                                      "; use a smaller batch_size"));
  }
}

}  // namespace dlcore::cuda
