#include "population.h"

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <tuple>
#include <utility>

#include "check.h"
#include "device_network.h"
#include "epochs.h"
#include "ops/gather.h"
#include "population_launch.h"
#include "population_plan.h"
#include "trainer.h"

namespace dlcore::cuda {

namespace {

// Launches take this long, so that their start costs little and Ctrl-C is answered.
constexpr double kShortLaunch = 0.005, kLongLaunch = 0.02;
constexpr int kFirstSteps = 16, kMostSteps = 1 << 16;

DeviceNetwork& device_network(const Member& member) {
  return static_cast<DeviceNetwork&>(*member.network);
}

/// One dense layer after the other, each with at most one activation behind it; none, and *why says
/// what stands against it, where the graph is something else.
std::vector<PopulationDense> chain_of(const Graph& graph, std::string* why) {
  std::vector<PopulationDense> chain;
  bool closed = true;  // no activation may follow
  const auto refuse = [&](std::string reason) {
    *why = std::move(reason);
    return std::vector<PopulationDense>{};
  };
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if (node.rows() != 1) return refuse("an example has several rows");
    if (node.op == OpKind::add) return refuse("it has a residual connection");
    if (node.op == OpKind::dropout) return refuse("it has dropout");
    if (i > 0 && node.inputs[0] != static_cast<int>(i) - 1) return refuse("it is no chain");
    if (node.op == OpKind::dense) {
      const Node& input = graph.nodes[i - 1];
      chain.push_back({.in = input.features(), .out = node.units, .bias = node.bias});
      closed = false;
    }
    if (node.op == OpKind::activation) {
      if (closed) return refuse("an activation follows no dense layer");
      chain.back().activation = node.activation;
      chain.back().alpha = static_cast<float>(node.alpha);
      closed = true;
    }
  }
  if (chain.empty()) return refuse("it has no dense layer");
  if (chain.size() > static_cast<std::size_t>(kPopulationLayers)) {
    return refuse(sentence("it has more than ", kPopulationLayers, " dense layers"));
  }
  return chain;
}

/// Where the network goes on the current device.
PopulationLayout layout_of(const Member& member, const DeviceInfo& device, std::string* why) {
  const std::vector<PopulationDense> chain = chain_of(member.network->graph(), why);
  if (chain.empty()) return {};
  const lt::Precision precision = device_network(member).precision();
  const auto runs = [&](int cluster, int threads, Index bytes) {
    return device.major >= 9 &&
           active_population_clusters({precision, cluster, threads, bytes}) > 0;
  };
  return population_layout(chain, member.options.batch(member.data),
                           member.options.optimizer.states(), device.shared_memory, runs, why);
}

PopulationLoss loss_of(const ops::Loss& loss) {
  switch (loss.kind) {
    case ops::LossKind::cross_entropy: return PopulationLoss::cross_entropy;
    case ops::LossKind::binary_cross_entropy: return PopulationLoss::binary_cross_entropy;
    case ops::LossKind::mse: return PopulationLoss::mse;
    case ops::LossKind::huber: return PopulationLoss::huber;
  }
  return PopulationLoss::mse;
}

void describe_data(const DeviceData& data, PopulationNetwork* net) {
  net->x = data.x;
  net->x_dtype = data.view.dtype;
  net->x_aligned =
      data.view.features % 4 == 0 && reinterpret_cast<std::uintptr_t>(data.x) % 16 == 0;
  net->x_scale = static_cast<float>(data.input_scale);
  net->labels = data.labels.data();
  net->targets = data.values.data();
  net->weights = data.weight.data();
}

/// Arenas of a network: its parameters and their moments.
Index arenas_of(const Member& member) { return 1 + member.options.optimizer.states(); }

/// Copies of arenas that a fit keeps: two snapshots and the best parameters.
Index copies_of(const Member& member) {
  const auto& early = member.options.early_stopping;
  return 2 * arenas_of(member) + (early && early->restore_best ? 1 : 0);
}

/// Device memory for a network, what is kept of it, and the order and learning rates of an epoch.
Index bytes_of(const Member& member) {
  const FitOptions& options = member.options;
  const Index arena = device_network(member).layout().size * static_cast<Index>(sizeof(float));
  return (arenas_of(member) + copies_of(member)) * arena +
         options.examples(member.data) * static_cast<Index>(sizeof(int)) +
         options.steps_per_epoch(member.data) * static_cast<Index>(sizeof(PopulationRate));
}

/// Parameters, moments and counters at one point.
struct Snapshot {
  float* arena = nullptr;  ///< parameters, then the moments there are
  Index optimizer_step = 0, step = 0;
};

/// One network on its way through its epochs.
class Runner {
 public:
  Runner(std::size_t index, Member& member, const PopulationLayout& layout, const DeviceData& data,
         const DeviceData* validation)
      : index_(index),
        member_(member),
        options_(member.options),
        network_(device_network(member)),
        training_(network_, options_.optimizer),
        state_(network_.state()),
        layout_(layout),
        examples_(options_.examples(member.data)),
        batch_(options_.batch(member.data)),
        steps_per_epoch_(options_.steps_per_epoch(member.data)),
        epochs_(options_, examples_, steps_per_epoch_, "population"),
        last_(steps_per_epoch_),
        validates_(validation != nullptr) {
    PopulationNetwork& net = layout_.network;
    for (int i = 0; i < net.layers; ++i) {
      const DeviceSlot& slot = network_.layout().slots[static_cast<std::size_t>(i)];
      net.layer[i].weight = static_cast<int>(slot.weight);
      net.layer[i].ld = static_cast<int>(slot.ld);
      net.layer[i].bias = static_cast<int>(slot.bias);
    }
    net.parameters = state_.parameters.data();
    net.moment1 = state_.moment1.data();
    net.moment2 = state_.moment2.data();
    net.loss = loss_of(options_.loss);
    net.delta = static_cast<float>(options_.loss.delta);
    if (validation != nullptr) {
      validation_ = net;
      describe_data(*validation, &validation_);
      validation_.examples = static_cast<int>(validation->view.rows);
      validation_.steps = (validation_.examples + net.batch - 1) / net.batch;
      validation_.train = false;
    }
    describe_data(data, &net);
    net.train = true;
    const Index arena = network_.layout().size, snapshot = arenas_of(member) * arena;
    memory_ = DeviceMemory<float>(copies_of(member) * arena);
    start_ = {memory_.data()};
    before_ = {memory_.data() + snapshot};
    best_ = memory_.size() > 2 * snapshot ? memory_.data() + 2 * snapshot : nullptr;
    order_ = DeviceMemory<int>(examples_);
    rates_ = DeviceMemory<PopulationRate>(steps_per_epoch_);
    host_order_ = PinnedMemory<int>(examples_);
    host_rates_ = PinnedMemory<PopulationRate>(steps_per_epoch_);
  }

  std::size_t index() const { return index_; }
  bool active() const { return epochs_.go_on(); }
  bool epoch_ended() const { return done_ == steps_per_epoch_; }
  bool validates() const { return validates_; }
  bool stopped() const { return stopped_; }
  const PopulationNetwork& validation() const { return validation_; }
  PopulationLaunch launch() const {
    return {network_.precision(), layout_.network.cluster, layout_.threads, layout_.bytes};
  }

  /// The next `most` steps, or what is left of the epoch.
  PopulationNetwork next(int most, cudaStream_t stream) {
    if (done_ == 0) begin_epoch(stream);
    PopulationNetwork net = layout_.network;
    const Index first = done_ * batch_;
    net.steps = static_cast<int>(std::min<Index>(most, last_ - done_));
    net.order = order_.data() + first;
    net.examples = static_cast<int>(std::min(examples_ - first, net.steps * batch_));
    net.rates = rates_.data() + done_;
    net.update = ops::update_of<float>(options_.optimizer, 0, 1, 1);
    asked_ = net.steps;
    return net;
  }

  /// Takes up what a launch of next() has left.
  void done(const PopulationResult& r) {
    sums_.add({r.loss, r.correct, r.weight});
    done_ += r.steps;
    state_.step += r.steps;
    state_.optimizer_step += r.steps;
    if (r.steps > 0) learning_rate_ = epochs_.learning_rate(epoch_, done_ - 1);
    finite_ = r.finite != 0;
    stopped_ = r.steps < asked_ || (epoch_ended() && !finite_);
  }

  /// Ends the epoch with what the validation has left, and begins the next one or stops.
  void end_epoch(const PopulationResult* validation, cudaStream_t stream) {
    ops::LossSums sums;
    if (validation != nullptr) {
      const bool whole = validation->steps == validation_.steps;
      sums = {whole ? validation->loss : kNone, whole ? validation->correct : kNone,
              whole ? validation->weight : 1};
    }
    epochs_.end(epochs_.record(learning_rate_), sums_, validation == nullptr ? nullptr : &sums,
                [&] { copy(best_, state_.parameters.data(), state_.parameters.size(), stream); });
    epoch_ = epochs_.current();
    done_ = 0;
  }

  /// After the last epoch.
  FitResult finish(cudaStream_t stream) {
    if (epochs_.kept_best()) {
      copy(state_.parameters.data(), best_, state_.parameters.size(), stream);
      check_cuda(cudaStreamSynchronize(stream), "the weights cannot be taken back");
    }
    return epochs_.take_result();
  }

  /// Ends the fit at the last weights that gave a finite loss. `run` takes this runner some steps
  /// on.
  template <class Run>
  void diverge(cudaStream_t stream, Run run) {
    EpochRecord record = epochs_.record(learning_rate_);
    refuse_bad_data(stream);
    const auto replay = [&](Index epoch, Index steps) {
      // Its first loss was not finite, so it is the epoch before that goes on.
      if (epoch != epoch_) std::swap(start_, before_);
      restore(stream);
      epoch_ = epoch;
      done_ = 0;
      last_ = steps;
      finite_ = true;
      for (bool moved = true; moved && done_ < last_;) {
        const Index before = done_;
        run();
        moved = done_ > before;
      }
    };
    epochs_.diverge(std::move(record), done_, [&] { return finite_; }, replay);
  }

  void report_progress() { epochs_.report(epoch_, done_); }

 private:
  void begin_epoch(cudaStream_t stream) {
    epochs_.begin();
    sums_ = {};
    std::swap(start_, before_);
    start_.step = state_.step;
    start_.optimizer_step = state_.optimizer_step;
    move_state([&](float* own, float* kept, Index n) { copy(kept, own, n, stream); });
    upload_epoch(stream);
  }

  /// Order and learning rates of the epoch that begins at the network's present step.
  void upload_epoch(cudaStream_t stream) {
    std::vector<Index> order(static_cast<std::size_t>(examples_));
    epochs_.order(state_.step, order.data());
    std::transform(order.begin(), order.end(), host_order_.data(),
                   [](Index row) { return static_cast<int>(row); });
    for (Index i = 0; i < steps_per_epoch_; ++i) {
      const Update<float> u = ops::update_of<float>(
          options_.optimizer, epochs_.learning_rate(epoch_, i), 1, state_.optimizer_step + i + 1);
      host_rates_.data()[i] = {u.learning_rate, u.step_size, u.inverse_root, u.decay};
    }
    copy(order_.data(), host_order_.data(), examples_, stream);
    copy(rates_.data(), host_rates_.data(), steps_per_epoch_, stream);
  }

  /// Calls f(the network's arena, its place in the snapshot, numbers) for each arena there is.
  template <class F>
  void move_state(F f) {
    const Index n = network_.layout().size;
    float* kept = start_.arena;
    for (float* own : {state_.parameters.data(), state_.moment1.data(), state_.moment2.data()}) {
      if (own == nullptr) continue;
      f(own, kept, n);
      kept += n;
    }
  }

  void restore(cudaStream_t stream) {
    move_state([&](float* own, float* kept, Index n) { copy(own, kept, n, stream); });
    state_.step = start_.step;
    state_.optimizer_step = start_.optimizer_step;
  }

  /// A loss that is not finite may come from data on the device, which nobody has looked through.
  void refuse_bad_data(cudaStream_t stream);

  const std::size_t index_;
  Member& member_;
  const FitOptions& options_;
  DeviceNetwork& network_;
  const DeviceNetwork::Training training_;
  DeviceState& state_;
  PopulationLayout layout_;
  PopulationNetwork validation_{};
  const Index examples_, batch_, steps_per_epoch_;
  Epochs epochs_;
  Index last_;  ///< step of the epoch before which to stop
  const bool validates_;
  DeviceMemory<float> memory_;  ///< of the snapshots and of the best parameters
  Snapshot start_, before_;     ///< of this epoch's start and of the one before
  float* best_ = nullptr;
  DeviceMemory<int> order_;
  DeviceMemory<PopulationRate> rates_;
  PinnedMemory<int> host_order_;
  PinnedMemory<PopulationRate> host_rates_;
  Index epoch_ = 0, done_ = 0;  ///< the epoch that it runs, and steps of it that have been done
  int asked_ = 0;
  bool stopped_ = false, finite_ = true;
  ops::LossSums sums_;
  double learning_rate_ = 0;
};

void Runner::refuse_bad_data(cudaStream_t stream) {
  const RowsView& x = member_.data.x;
  if (!x.on_device) return;
  const HostRows host(x, stream);
  ops::Position at{};
  if (!ops::find_not_finite(host.view(), options_.rows, examples_, &at)) return;
  restore(stream);
  check_cuda(cudaStreamSynchronize(stream), "the weights cannot be taken back");
  refuse_not_finite("fit", host.view(), options_.rows, examples_);
}

/// Launches for runners that may stand beside each other.
class Launcher {
 public:
  Launcher(cudaStream_t stream, Index count)
      : stream_(stream),
        networks_(count),
        host_networks_(count),
        results_(count),
        host_results_(count) {}
  ~Launcher() {
    // Nothing may be freed that work under way still uses.
    cudaStreamSynchronize(stream_);
  }

  /// Runs what `describe` makes of each runner and hands its result to `take`.
  template <class Describe, class Take>
  void run(const std::vector<Runner*>& runners, Describe describe, Take take) {
    if (runners.empty()) return;
    const auto count = static_cast<Index>(runners.size());
    PopulationLaunch how = runners.front()->launch();
    for (Index i = 0; i < count; ++i) {
      PopulationNetwork& net = host_networks_.data()[i];
      net = describe(*runners[static_cast<std::size_t>(i)]);
      net.result = results_.data() + i;
      how.shared_bytes =
          std::max(how.shared_bytes, runners[static_cast<std::size_t>(i)]->launch().shared_bytes);
    }
    copy(networks_.data(), host_networks_.data(), count, stream_);
    start_population(stream_, networks_.data(), static_cast<int>(count), how);
    copy(host_results_.data(), results_.data(), count, stream_);
    check_cuda(cudaStreamSynchronize(stream_), "the work on the GPU failed");
    for (Index i = 0; i < count; ++i) {
      take(*runners[static_cast<std::size_t>(i)], host_results_.data()[i]);
    }
  }

 private:
  cudaStream_t stream_;
  DeviceMemory<PopulationNetwork> networks_;
  PinnedMemory<PopulationNetwork> host_networks_;
  DeviceMemory<PopulationResult> results_;
  PinnedMemory<PopulationResult> host_results_;
};

}  // namespace

bool population_supports(const Member& member, const DeviceInfo& device, std::string* why) {
  const FitOptions& options = member.options;
  const auto refuse = [&](const char* reason) {
    *why = reason;
    return false;
  };
  if (options.statistics) return refuse("statistics are asked for");
  if (options.clip_norm > 0) return refuse("clip_norm needs all gradients at once");
  const DeviceNetwork& network = device_network(member);
  const auto fits_int = [](Index n) { return n <= std::numeric_limits<int>::max(); };
  const auto suits = [&](const Dataset& data) {
    if (data.x.dtype == DType::float16) return refuse("its data is float16");
    if (!fits_int(data.x.rows)) return refuse("it has more than 2**31 examples");
    const Index bytes = data.x.rows * data.x.features * item_size(data.x.dtype);
    if (!data.x.on_device && bytes > device.free_memory / 10 * 9) {
      return refuse("its data does not fit on the device");
    }
    return true;
  };
  if (!suits(member.data) || (options.validation && !suits(*options.validation))) return false;
  if (!fits_int(options.examples(member.data))) return refuse("it has more than 2**31 examples");
  if (!fits_int(network.layout().size)) return refuse("it has more than 2**31 parameters");
  const DeviceScope scope(network.device());
  return layout_of(member, device, why).bytes >= 0;
}

void train_population(std::vector<Member>& members, const std::vector<std::size_t>& chosen,
                      std::vector<FitResult>* results,
                      const std::function<void(std::vector<std::size_t>)>& tell) {
  if (chosen.empty()) return;
  const int device = device_network(members[chosen.front()]).device();
  const auto context = Context::take(device);
  const cudaStream_t stream = context->stream();
  const DeviceInfo info = device_info(device);
  SharedData shared(stream);
  std::vector<std::unique_ptr<Runner>> runners;
  const auto set_up = [&](std::size_t i) {
    name_member(i, [&] {
      Member& member = members[i];
      const Graph& graph = member.network->graph();
      const auto on_device = [&](const Dataset& d) -> const DeviceData& {
        return shared.of(d, graph, member.options.loss, std::numeric_limits<Index>::max());
      };
      const auto& validation = member.options.validation;
      std::string why;
      runners.push_back(std::make_unique<Runner>(i, member, layout_of(member, info, &why),
                                                 on_device(member.data),
                                                 validation ? &on_device(*validation) : nullptr));
    });
  };
  std::unique_ptr<Launcher> launcher;
  try {
    std::for_each(chosen.begin(), chosen.end(), set_up);
    launcher = std::make_unique<Launcher>(stream, static_cast<Index>(runners.size()));
  } catch (const OutOfMemory& e) {
    Index bytes = 0;
    for (const std::size_t i : chosen) bytes += bytes_of(members[i]);
    throw std::runtime_error(sentence("fit_many: ", megabytes(bytes), " for ", chosen.size(),
                                      " networks and their copies",
                                      " do not fit on the GPU beside their data: ", e.what(),
                                      "; give fit_many fewer networks at a time"));
  }

  // Networks whose blocks are alike start together.
  const auto kind = [&](const Runner& r) {
    const PopulationLaunch how = r.launch();
    const Index beside = std::min<Index>(info.shared_memory / how.shared_bytes, 8);
    return std::tuple(how.precision, how.cluster, how.threads, beside);
  };
  using Kind = decltype(kind(*runners.front()));
  int steps = kFirstSteps;
  const auto advance = [&](const std::vector<Runner*>& group) {
    launcher->run(
        group, [&](Runner& r) { return r.next(steps, stream); },
        [](Runner& r, const PopulationResult& result) { r.done(result); });
  };
  std::vector<bool> finished(runners.size(), false);
  for (;;) {
    std::map<Kind, std::vector<Runner*>> groups;
    for (const auto& r : runners) {
      if (r->active()) groups[kind(*r)].push_back(r.get());
    }
    if (groups.empty()) break;
    const double begin = now();
    for (const auto& [_, group] : groups) advance(group);
    const double passed = now() - begin;
    if (passed < kShortLaunch) steps = std::min(2 * steps, kMostSteps);
    if (passed > kLongLaunch) steps = std::max(steps / 2, 1);

    for (const auto& [_, group] : groups) {
      std::vector<Runner*> validating;
      for (Runner* r : group) {
        if (r->stopped()) {
          name_member(r->index(), [&] { r->diverge(stream, [&] { advance({r}); }); });
        } else if (r->epoch_ended() && r->validates()) {
          validating.push_back(r);
        } else if (r->epoch_ended()) {
          r->end_epoch(nullptr, stream);
        }
      }
      launcher->run(
          validating, [](Runner& r) { return r.validation(); },
          [&](Runner& r, const PopulationResult& result) { r.end_epoch(&result, stream); });
      for (Runner* r : group) r->report_progress();
    }
    std::vector<std::size_t> latest;
    for (std::size_t i = 0; i < runners.size(); ++i) {
      if (finished[i] || runners[i]->active()) continue;
      finished[i] = true;
      (*results)[runners[i]->index()] = runners[i]->finish(stream);
      latest.push_back(runners[i]->index());
    }
    tell(std::move(latest));
  }
}

}  // namespace dlcore::cuda
