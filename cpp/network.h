#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "graph.h"
#include "ops/loss.h"
#include "ops/optimizer.h"
#include "plan.h"

namespace dlcore {

inline constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
/// Examples worked on at a time where the caller sets no batch size.
inline constexpr Index kEvaluationBatch = 512;

/// Examples with what they are compared with; pointers are borrowed. Values have the network's
/// element type.
struct Dataset {
  RowsView x;
  const Index* labels = nullptr;   ///< (examples * rows,) for cross-entropy
  const void* values = nullptr;    ///< (examples * rows, features) for the other losses
  const double* weight = nullptr;  ///< (examples,) or null
  double input_scale = 1;
};

struct EarlyStopping {
  Index patience = 0;
  double min_delta = 0;
  bool restore_best = true;
};

/// One dense layer's health over an epoch; NaN where a measure does not apply.
struct LayerStatistics {
  std::string name;
  double gradient_norm = 0;  ///< of the weight's gradient
  double weight_norm = 0;
  double update_ratio = 0;  ///< norm of a step over the norm of the weight
  double dead = 0;          ///< share of ReLU units that are 0 for the whole batch
  double saturated = 0;     ///< share of sigmoid or tanh results within 1 % of their limits
};

struct EpochRecord {
  Index epoch = 0;
  double loss = kNone, accuracy = kNone;
  double val_loss = kNone, val_accuracy = kNone;
  double learning_rate = 0;  ///< of the epoch's last step
  double seconds = 0, examples_per_second = 0;
  std::vector<LayerStatistics> layers;  ///< where statistics were asked for
};

/// Numbers of the network's element type that belong to someone else.
struct Numbers {
  const void* data = nullptr;
  Index size = 0;
};

/// Where a fit stood at the beginning of an epoch: all that it needs to go on as if it had never
/// been interrupted. The numbers lie as the network keeps them, which differs between kernels.
struct Checkpoint {
  Index epoch = 0, step = 0, optimizer_step = 0;
  Numbers parameters, moment1, moment2, best_parameters;
  double best = std::numeric_limits<double>::infinity();  ///< what early stopping watches
  Index waited = 0, best_epoch = -1;
  std::vector<EpochRecord> epochs;  ///< those that are done
};

struct FitOptions {
  ops::Loss loss;
  ops::Optimizer optimizer;
  ops::Schedule schedule;
  Index epochs = 1;
  Index batch_size = 32;
  bool shuffle = true;
  bool statistics = false;
  bool bf16 = false;  ///< products of numbers rounded to bfloat16; weights stay float32
  std::uint64_t seed = 0;
  int threads = 1;
  double clip_norm = 0;         ///< 0: none
  const Index* rows = nullptr;  ///< examples to train on, null for all
  Index row_count = 0;
  std::optional<Dataset> validation;
  std::optional<EarlyStopping> early_stopping;  ///< watches val_loss, or loss without validation
  /// Called after every epoch; false stops.
  std::function<bool(const EpochRecord&)> on_epoch;
  /// Called between steps at most every 50 ms with (epoch, steps done, steps); may throw.
  std::function<void(Index, Index, Index)> on_progress;
  /// Called in an epoch with the state at its beginning, at most every checkpoint_seconds (0: in
  /// every epoch) and for at most a twentieth of the time.
  std::function<void(const Checkpoint&)> on_checkpoint;
  double checkpoint_seconds = 1;
  std::optional<Checkpoint> resume;  ///< where to go on, if not at the beginning

  /// Examples of the data that are trained on, in batches of as many, and steps of an epoch.
  Index examples(const Dataset& data) const { return rows == nullptr ? data.x.rows : row_count; }
  Index batch(const Dataset& data) const { return std::min(batch_size, examples(data)); }
  Index steps_per_epoch(const Dataset& data) const {
    return (examples(data) + batch(data) - 1) / batch(data);
  }
};

enum class Stop { completed, early_stopping, callback, diverged };

struct FitResult {
  std::vector<EpochRecord> epochs;
  Stop stop = Stop::completed;
  const char* engine = "cpu";  ///< what trained it
  std::string message;
  Index best_epoch = -1;
  std::string engine_reason;  ///< why none of a device's others did
};

/// Bytes that fit takes beside the data.
struct Memory {
  Index parameters = 0, gradients = 0, optimizer_state = 0, snapshots = 0, workspace = 0,
        permutation = 0;
};

enum class Head { identity, softmax, sigmoid };

/// One network of either element type: its parameters, optimizer state and plans.
class Network {
 public:
  virtual ~Network() = default;

  virtual DType dtype() const = 0;
  virtual const Graph& graph() const = 0;
  virtual const std::vector<ParameterName>& parameters() const = 0;
  /// Copies of parameter i, in the network's dtype and its public layout.
  virtual void get(std::size_t i, void* value) const = 0;
  virtual void set(std::size_t i, const void* value) = 0;
  virtual Index step() const = 0;
  virtual void set_step(Index step) = 0;
  virtual bool training() const = 0;
  /// How products are computed where fit's options do not say: "fp32", "tf32" or "bf16" on a GPU;
  /// the CPU knows "fp32" alone.
  virtual void set_precision(const std::string& name) = 0;
  virtual Memory memory(Index batch, const ops::Optimizer& optimizer, Index examples, bool clip,
                        bool validation, bool early_stopping, bool bf16) const = 0;

  /// y (examples, rows * features of the output) in the network's dtype.
  virtual void forward(const RowsView& x, double input_scale, Head head, Index batch, int threads,
                       void* y) = 0;
  virtual ops::LossSums evaluate(const Dataset& data, const ops::Loss& loss, Index batch,
                                 int threads) = 0;
  /// Mean loss; gradients stay with the network until get_gradient.
  virtual double loss_and_gradients(const Dataset& data, const ops::Loss& loss, int threads,
                                    double clip_norm,
                                    std::optional<std::uint64_t> dropout_seed) = 0;
  virtual void get_gradient(std::size_t i, void* value) const = 0;
  virtual FitResult fit(const Dataset& data, const FitOptions& options) = 0;
};

std::unique_ptr<Network> make_network(Graph graph, DType dtype);

}  // namespace dlcore
