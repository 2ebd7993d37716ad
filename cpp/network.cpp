#include "network.h"

#include <algorithm>
#include <cmath>

#include "check.h"
#include "kernels/select.h"
#include "ops/activation.h"
#include "ops/gather.h"
#include "trainer.h"

namespace dlcore {
namespace {

template <class T>
class NetworkOf final : public Network {
 public:
  explicit NetworkOf(Graph graph)
      : graph_(std::move(graph)), layout_(graph_), names_(parameter_names(graph_, layout_)) {
    state_.parameters = Buffer<T>(layout_.size);
  }

  DType dtype() const override { return sizeof(T) == 4 ? DType::float32 : DType::float64; }
  const Graph& graph() const override { return graph_; }
  const std::vector<ParameterName>& parameters() const override { return names_; }
  Index step() const override { return state_.step; }
  void set_step(Index step) override { state_.step = step; }
  bool training() const override { return training_.load(); }
  void set_precision(const std::string& name) override {
    check(name == "fp32", "network: precision \"", name, "\" needs a GPU");
  }

  void get(std::size_t i, void* value) const override {
    unpack(state_.parameters.data(), slot(i), names_[i].is_bias, static_cast<T*>(value));
  }
  void set(std::size_t i, const void* value) override {
    refuse_while_training("set_parameters");
    pack(static_cast<const T*>(value), slot(i), names_[i].is_bias, state_.parameters.data());
  }
  void get_gradient(std::size_t i, void* value) const override {
    unpack(gradients_.data(), slot(i), names_[i].is_bias, static_cast<T*>(value));
  }

  Memory memory(Index batch, const ops::Optimizer& optimizer, Index examples, bool clip,
                bool validation, bool early_stopping, bool bf16) const override {
    Memory m;
    const Index arena = layout_.size * static_cast<Index>(sizeof(T));
    m.parameters = arena;
    m.gradients = clip ? arena : 0;
    m.optimizer_state = arena * optimizer.states();
    m.snapshots = arena * (1 + optimizer.states() + (early_stopping ? 1 : 0));
    m.workspace = Plan<T>::bytes(graph_, layout_, batch, Plan<T>::Kind::training,
                                 bf16 ? bf16_kernels() : nullptr);
    if (validation) {
      m.workspace += Plan<T>::bytes(graph_, layout_, kEvaluationBatch, Plan<T>::Kind::inference);
    }
    m.permutation = examples * static_cast<Index>(sizeof(Index) + sizeof(std::uint32_t));
    return m;
  }

  void forward(const RowsView& x, double input_scale, Head head, Index batch, int threads,
               void* out) override {
    const Use use(*this, "predict");
    Plan<T>& plan = inference_plan(std::min(batch, x.rows));
    const auto& k = plan.kernels().template of<T>();
    const Index rows = graph_.output().rows(), n = graph_.output().features();
    T* y = static_cast<T*>(out);
    for (Index begin = 0; begin < x.rows; begin += plan.batch()) {
      const Index m = std::min(plan.batch(), x.rows - begin);
      if (!ops::gather(k, threads, x, {0, x.features}, nullptr, begin, static_cast<T>(input_scale),
                       plan.input(), plan.input_ld(), m, plan.input_rows())) {
        refuse_not_finite("predict", x, nullptr, x.rows);
      }
      plan.forward(state_.parameters.data(), threads, {0, m});
      T* to = y + begin * rows * n;
      for (Index i = 0; i < m * rows; ++i) {
        std::copy_n(plan.output() + i * plan.output_ld(), n, to + i * n);
      }
      if (head == Head::softmax) k.softmax(to, n, to, n, m * rows, n);
      if (head == Head::sigmoid) {
        ops::activation_forward<T>(k, threads, Activation::sigmoid, 0, to, to, m * rows * n);
      }
    }
  }

  ops::LossSums evaluate(const Dataset& data, const ops::Loss& loss, Index batch,
                         int threads) override {
    const Use use(*this, "evaluate");
    return evaluate_dataset(inference_plan(std::min(batch, data.x.rows)), state_.parameters.data(),
                            data, loss, ops::target_shape(loss, graph_.output().shape), threads,
                            "evaluate");
  }

  double loss_and_gradients(const Dataset& data, const ops::Loss& loss, int threads,
                            double clip_norm, std::optional<std::uint64_t> dropout_seed) override {
    const Use use(*this, "loss_and_gradients");
    const Kernels& set = dlcore::kernels();
    const auto& k = set.of<T>();
    const ops::TargetShape target = ops::target_shape(loss, graph_.output().shape);
    // In pieces, so that any number of examples fits; sums go on from piece to piece.
    Plan<T> plan(graph_, layout_, set, std::min(kEvaluationBatch, data.x.rows),
                 Plan<T>::Kind::training);
    gradients_ = Buffer<T>(layout_.size);
    double total = static_cast<double>(data.x.rows);
    if (data.weight != nullptr) {
      total = 0;
      for (Index i = 0; i < data.x.rows; ++i) total += data.weight[i];
    }
    std::optional<ops::DropoutKey> dropout;
    if (dropout_seed) dropout = {*dropout_seed, static_cast<std::uint64_t>(state_.step)};
    ops::LossSums sums;
    const Index width = target.rows * target.features;
    for (Index begin = 0; begin < data.x.rows; begin += plan.batch()) {
      const Index m = std::min(plan.batch(), data.x.rows - begin);
      if (!ops::gather(k, threads, data.x, {0, data.x.features}, nullptr, begin,
                       static_cast<T>(data.input_scale), plan.input(), plan.input_ld(), m,
                       plan.input_rows())) {
        refuse_not_finite("loss_and_gradients", data.x, nullptr, data.x.rows);
      }
      const T* parameters = state_.parameters.data();
      plan.forward(parameters, threads, {0, m}, dropout, begin);
      const T* values = static_cast<const T*>(data.values);
      sums.add(ops::loss_forward_backward<T>(
          k, threads, loss, target, plan.output(), plan.output_ld(),
          data.labels == nullptr ? nullptr : data.labels + begin * target.rows,
          values == nullptr ? nullptr : values + begin * width, target.features,
          data.weight == nullptr ? nullptr : data.weight + begin, total, plan.loss_scratch(),
          plan.output_gradient(), leading_dimension<T>(target.features), m));
      plan.backward_values(parameters, threads, {0, m}, dropout, begin);
      plan.backward_parameters(threads, m, {gradients_.data(), begin > 0});
    }
    if (clip_norm > 0) {
      Buffer<double> pieces(ops::norm_pieces(gradients_.size()));
      const double length =
          ops::norm(k, threads, gradients_.data(), gradients_.size(), pieces.data());
      const T factor = static_cast<T>(ops::clip_factor(length, clip_norm));
      for (Index i = 0; i < gradients_.size(); ++i) gradients_.data()[i] *= factor;
    }
    return sums.mean_loss();
  }

  FitResult fit(const Dataset& data, const FitOptions& options) override {
    bool idle = false;
    check_state(training_.compare_exchange_strong(idle, true),
                "fit: this network is training already; wait for that fit or train a copy");
    trainer_thread_ = std::this_thread::get_id();
    struct Done {
      std::atomic<bool>& flag;
      ~Done() { flag.store(false); }
    } done{training_};
    if (!optimizer_.shares_state(options.optimizer) || state_.optimizer_step == 0) {
      const int states = options.optimizer.states();
      state_.moment1 = Buffer<T>(states > 0 ? layout_.size : 0);
      state_.moment2 = Buffer<T>(states > 1 ? layout_.size : 0);
      state_.optimizer_step = 0;
    }
    optimizer_ = options.optimizer;
    return Trainer<T>(graph_, layout_, state_, data, options).run();
  }

 private:
  /// Holds the plans for one call. Other threads are refused while a fit changes the weights; its
  /// own thread is not: it asks from a callback, between two epochs.
  class Use {
   public:
    Use(NetworkOf& network, const char* operation) {
      network.refuse_while_training(operation);
      lock_ = std::unique_lock(network.plans_);
    }

   private:
    std::unique_lock<std::recursive_mutex> lock_;
  };

  void refuse_while_training(const char* operation) const {
    check_state(!training_.load() || trainer_thread_ == std::this_thread::get_id(), operation,
                ": this network is training in another thread; wait for it or use a copy");
  }

  const DenseSlot& slot(std::size_t i) const {
    return layout_.slots[static_cast<std::size_t>(names_[i].slot)];
  }

  Plan<T>& inference_plan(Index batch) {
    const Kernels& set = dlcore::kernels();
    if (inference_ == nullptr || inference_->batch() != batch || &inference_->kernels() != &set) {
      inference_ = std::make_unique<Plan<T>>(graph_, layout_, set, batch, Plan<T>::Kind::inference);
    }
    return *inference_;
  }

  Graph graph_;
  Layout<T> layout_;
  std::vector<ParameterName> names_;
  State<T> state_;
  ops::Optimizer optimizer_;
  Buffer<T> gradients_;  ///< of the latest loss_and_gradients
  std::unique_ptr<Plan<T>> inference_;
  std::recursive_mutex plans_;
  std::atomic<bool> training_{false};
  std::thread::id trainer_thread_;
};

}  // namespace

std::unique_ptr<Network> make_network(Graph graph, DType dtype) {
  if (dtype == DType::float64) return std::make_unique<NetworkOf<double>>(std::move(graph));
  return std::make_unique<NetworkOf<float>>(std::move(graph));
}

}  // namespace dlcore
