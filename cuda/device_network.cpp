#include "device_network.h"

#include <algorithm>

#include "check.h"
#include "device_pass.h"
#include "device_trainer.h"
#include "launches.h"

namespace dlcore::cuda {
namespace {

/// Plans that a network keeps: those of the calls between two fits, with room for another batch.
constexpr std::size_t kMostKept = 4;

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
  const std::string why = why_not(device);
  check_state(why.empty(), "network: device=\"cuda:", device, "\" ", why);
  // The same names as on the CPU, whatever the layout.
  const Layout<float> host(graph_);
  names_ = parameter_names(graph_, host);
  const auto context = Context::take(device);
  state_.parameters = Floats(layout_.size);
  set_zero(state_.parameters.data(), layout_.size, context->stream());
  context->stream().synchronize();
}

DeviceNetwork::~DeviceNetwork() = default;

void Floats::move_to(float* place, cudaStream_t stream) {
  copy(place, data(), size(), stream);
  place_ = place;
}

void Floats::bring_back(cudaStream_t stream) {
  if (place_ == nullptr) return;
  copy(own_.data(), place_, size(), stream);
  place_ = nullptr;
}

void DeviceNetwork::refuse_while_training(const char* operation) const {
  check_state(!training_.load() || trainer_thread_ == std::this_thread::get_id(), operation,
              ": this network is training in another thread; wait for it or use a copy");
}

void DeviceNetwork::check_place(const char* operation, const RowsView& x) const {
  if (!x.on_device || x.rows == 0) return;
  const int device = device_of(x.base);
  check_state(device == device_, operation, ": x lies on cuda:", device,
              " but the network on cuda:", device_);
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

void DeviceNetwork::read(const float* arena, std::size_t i, void* value) const {
  const ParameterName& name = names_[i];
  const DeviceSlot& slot = layout_.slots[static_cast<std::size_t>(name.slot)];
  const auto context = Context::take(device_);
  const Index count = name.is_bias ? slot.out_features : slot.out_features * slot.ld;
  std::vector<float> rows(static_cast<std::size_t>(count));
  copy(rows.data(), arena + (name.is_bias ? slot.bias : slot.weight), count, context->stream());
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

void DeviceNetwork::get(std::size_t i, void* value) const {
  read(state_.parameters.data(), i, value);
}

void DeviceNetwork::get_gradient(std::size_t i, void* value) const {
  read(gradients_.data(), i, value);
}

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

Index device_batch(Index rows) { return std::clamp<Index>(rows, 1, kDeviceBatch); }

KeptPass& DeviceNetwork::kept_pass(Index batch, bool trains, cudaStream_t stream) {
  const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& kept) {
    return kept.batch == batch && kept.trains == trains && kept.precision == precision_;
  });
  if (found != kept_.end()) {
    std::rotate(kept_.begin(), found, found + 1);
    return *kept_.front().pass;
  }
  const auto make = [&]() -> std::unique_ptr<KeptPass> {
    return with_storage(precision_, [&]<class S>() -> std::unique_ptr<KeptPass> {
      using Kind = typename DevicePass<S>::Kind;
      return std::make_unique<DevicePass<S>>(
          graph_, layout_, batch, trains ? Kind::training : Kind::inference, precision_, stream);
    });
  };
  if (kept_.size() == kMostKept) kept_.pop_back();
  std::unique_ptr<KeptPass> made;
  try {
    made = make();
  } catch (const OutOfMemory&) {
    kept_.clear();
    made = make();
  }
  kept_.insert(kept_.begin(), {batch, trains, precision_, std::move(made)});
  return *kept_.front().pass;
}

template <class F>
auto DeviceNetwork::with_pass(Index rows, bool trains, F f) {
  const auto context = Context::take(device_);
  try {
    return with_storage(precision_, [&]<class S>() {
      KeptPass& pass = kept_pass(device_batch(rows), trains, context->stream());
      return f(static_cast<DevicePass<S>&>(pass), *context);
    });
  } catch (...) {
    // Work that is under way may use the plan's memory, and the next call's stream is another one:
    // freed, it is waited for.
    kept_.clear();
    throw;
  }
}

void DeviceNetwork::forward(const RowsView& x, double input_scale, Head head, Index, int, void* y) {
  const Use use(*this, "predict");
  check_place("predict", x);
  const Node& output = graph_.output();
  const Index n = output.features();
  with_pass(x.rows, false, [&]<class S>(DevicePass<S>& pass, Context& context) {
    const cudaStream_t stream = context.stream();
    DevicePlan<S>& plan = pass.plan();
    pass.data.view = x;
    pass.data.x = x.on_device ? x.base : nullptr;
    pass.data.input_scale = input_scale;
    pass.result.resize(plan.batch() * output.rows() * n);
    float* const result = pass.result.data();
    float* to = static_cast<float*>(y);
    const typename DevicePass<S>::Call call{
        .data = pass.data, .parameters = state_.parameters, .context = context};
    pass.begin(call);
    for (Index i = 0; i < pass.count(); ++i) {
      pass.forward(i);
      const Index rows = pass.rows(i) * output.rows();
      switch (head) {
        case Head::identity:
          identity_rows(plan.output(), plan.output_ld(), result, rows, n, stream);
          break;
        case Head::sigmoid:
          sigmoid_rows(plan.output(), plan.output_ld(), result, rows, n, stream);
          break;
        case Head::softmax:
          softmax_rows(plan.output(), plan.output_ld(), result, rows, n, stream);
          break;
      }
      // Not counted by `finish`, which would need targets.
      count_step(pass.step(), stream);
      copy(to, result, rows * n, stream);
      to += rows * n;
    }
    pass.wait("predict");
  });
}

ops::LossSums DeviceNetwork::evaluate(const Dataset& data, const ops::Loss& loss, Index, int) {
  const Use use(*this, "evaluate");
  check_place("evaluate", data.x);
  return with_pass(data.x.rows, false, [&]<class S>(DevicePass<S>& pass, Context& context) {
    // Fetched batch by batch: it is used once.
    pass.data = upload(data, graph_, loss, 0, context.stream(), std::move(pass.data));
    return pass.evaluate({.data = pass.data, .parameters = state_.parameters, .context = context},
                         loss, "evaluate");
  });
}

double DeviceNetwork::loss_and_gradients(const Dataset& data, const ops::Loss& loss, int,
                                         double clip_norm,
                                         std::optional<std::uint64_t> dropout_seed) {
  const char* operation = "loss_and_gradients";
  const Use use(*this, operation);
  check_place(operation, data.x);
  double total = static_cast<double>(data.x.rows);
  if (data.weight != nullptr) {
    total = 0;
    for (Index i = 0; i < data.x.rows; ++i) total += data.weight[i];
  }
  const Targets targets = targets_of(graph_, loss);
  const double width = static_cast<double>(targets.shape.width);
  return with_pass(data.x.rows, true, [&]<class S>(DevicePass<S>& pass, Context& context) {
    const cudaStream_t stream = context.stream();
    gradients_.resize(layout_.size);
    set_zero(gradients_.data(), layout_.size, stream);
    pass.data = upload(data, graph_, loss, 0, stream, std::move(pass.data));
    const typename DevicePass<S>::Call call{.data = pass.data,
                                            .parameters = state_.parameters,
                                            .context = context,
                                            .share = total > 0 ? 1 / (total * width) : 0,
                                            .random_step = state_.step,
                                            .seed = dropout_seed.value_or(0),
                                            .drop = dropout_seed.has_value()};
    pass.begin(call);
    for (Index i = 0; i < pass.count(); ++i) {
      pass.forward(i);
      pass.loss(targets);
      pass.backward(i, gradients_.data());
    }
    if (clip_norm > 0) {
      pass.scratch.resize(squares_scratch(layout_.size));
      clip(pass.step(), gradients_.data(), layout_.size, clip_norm, pass.scratch.data(), stream);
      scale_gradients(pass.step(), gradients_.data(), layout_.size, stream);
    }
    const StepState state = pass.wait(operation);
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
    const std::lock_guard lock(network.calls_);
    network.kept_.clear();  // a fit takes the memory that there is
    DeviceState& state = network.state_;
    if (!network.optimizer_.shares_state(optimizer) || state.optimizer_step == 0) {
      const DeviceScope scope(network.device_);
      const Stream stream;
      const auto ready = [&](Floats* moment, bool wanted) {
        *moment = Floats(wanted ? network.layout_.size : 0);
        set_zero(moment->data(), moment->size(), stream);
      };
      ready(&state.moment1, optimizer.states() > 0);
      ready(&state.moment2, optimizer.states() > 1);
      stream.synchronize();
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
  check_place("fit", data.x);
  try {
    const auto context = Context::take(device_);
    SharedData shared(context->stream());
    Trainee trainee(*this, data, options, std::nullopt);
    with_storage(precision_, [&]<class S>() {
      DeviceTrainer<S>({&trainee}, shared, *context).run(nullptr, nullptr);
    });
    return trainee.epochs.take_result();
  } catch (const OutOfMemory& e) {
    const Index batch = options.batch(data);
    const Memory m = memory(batch, options.optimizer, options.examples(data), options.clip_norm > 0,
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
