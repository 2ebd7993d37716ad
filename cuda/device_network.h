#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "lt.h"
#include "network.h"
#include "runtime.h"

namespace dlcore::cuda {

/// Where one dense layer's parameters lie in the arena, in floats: weight (out, in) by rows that
/// lie ld apart, bias -1 where there is none. Padding is zero and stays zero.
struct DeviceSlot {
  int node = 0;
  Index in_features = 0, out_features = 0;
  Index ld = 0;
  Index weight = 0, bias = -1;
};

/// The arena of all parameters of a network on the device; gradients and moments lie alike.
struct DeviceLayout {
  explicit DeviceLayout(const Graph& graph);

  std::vector<DeviceSlot> slots;
  std::vector<int> slot_of_node;  ///< -1 where a node has none
  Index size = 0;
};

/// What a call needs of its device: a stream, and scratch that products of one stream share.
class Context {
 public:
  /// One that no other call uses, made or used again; the device stays current as long as it lives.
  static std::unique_ptr<Context> take(int device);
  ~Context();

  const Stream& stream() const { return parts_->stream; }
  std::byte* workspace() const { return parts_->workspace.data(); }

 private:
  struct Parts {
    Stream stream;
    DeviceMemory<std::byte> workspace{lt::kWorkspaceBytes};
  };
  explicit Context(int device);
  static std::vector<std::pair<int, std::unique_ptr<Parts>>>& idle();
  static std::mutex& mutex();

  int device_;
  DeviceScope scope_;
  std::unique_ptr<Parts> parts_;
};

/// A dataset's arrays on the device; x is borrowed where it came from there.
struct DeviceData {
  RowsView view;            ///< as given; where x is null it is fetched from here batch by batch
  const void* x = nullptr;  ///< (rows, features), contiguous
  double input_scale = 1;
  DeviceMemory<std::byte> own_x;
  DeviceMemory<std::int32_t> labels;
  DeviceMemory<float> values;
  DeviceMemory<double> weight;
  std::vector<double> host_weight;  ///< for the sums of each batch's weights
};

/// Copies a dataset to the current device; x only where it takes at most `most` bytes.
DeviceData upload(const Dataset& data, const Graph& graph, const ops::Loss& loss, Index most,
                  cudaStream_t stream);
/// Copies rows of x (of `rows`, or first + i where null) without gaps to `to`, on the host.
void pack_rows(const RowsView& x, const Index* rows, Index first, Index count, std::byte* to);

/// Parameters and moments of a network on the device, and its counters.
struct DeviceState {
  DeviceMemory<float> parameters, moment1, moment2;
  Index optimizer_step = 0, step = 0;
};

/// Examples worked on at a time where the call sets no batch.
inline constexpr Index kDeviceBatch = 4096;
Index device_batch(Index rows);

/// Throws as refuse_not_finite, for data that may lie on the device.
[[noreturn]] void refuse_device_data(const char* operation, const RowsView& x, const Index* rows,
                                     Index count, cudaStream_t stream);

/// A network whose parameters live on a GPU; every call runs there.
class DeviceNetwork final : public Network {
 public:
  DeviceNetwork(Graph graph, int device);
  ~DeviceNetwork() override;

  DType dtype() const override { return DType::float32; }
  const Graph& graph() const override { return graph_; }
  const std::vector<ParameterName>& parameters() const override { return names_; }
  void get(std::size_t i, void* value) const override;
  void set(std::size_t i, const void* value) override;
  Index step() const override { return state_.step; }
  void set_step(Index step) override { state_.step = step; }
  bool training() const override { return training_.load(); }
  void set_precision(const std::string& name) override;
  Memory memory(Index batch, const ops::Optimizer& optimizer, Index examples, bool clip,
                bool validation, bool early_stopping, bool bf16) const override;

  void forward(const RowsView& x, double input_scale, Head head, Index batch, int threads,
               void* y) override;
  ops::LossSums evaluate(const Dataset& data, const ops::Loss& loss, Index batch,
                         int threads) override;
  double loss_and_gradients(const Dataset& data, const ops::Loss& loss, int threads,
                            double clip_norm, std::optional<std::uint64_t> dropout_seed) override;
  void get_gradient(std::size_t i, void* value) const override;
  FitResult fit(const Dataset& data, const FitOptions& options) override;

  int device() const { return device_; }
  lt::Precision precision() const { return precision_; }
  const DeviceLayout& layout() const { return layout_; }
  DeviceState& state() { return state_; }

  /// Marks the network as training for as long as it lives, and readies the moments.
  class Training {
   public:
    Training(DeviceNetwork& network, const ops::Optimizer& optimizer);
    ~Training();
    Training(const Training&) = delete;
    Training& operator=(const Training&) = delete;

   private:
    DeviceNetwork& network_;
  };

 private:
  class Use;

  void refuse_while_training(const char* operation) const;
  void read(const DeviceMemory<float>& arena, std::size_t i, void* value) const;

  Graph graph_;
  int device_;
  DeviceLayout layout_;
  std::vector<ParameterName> names_;
  lt::Precision precision_ = lt::Precision::tf32;
  DeviceState state_;
  ops::Optimizer optimizer_;
  DeviceMemory<float> gradients_;  ///< of the latest loss_and_gradients
  mutable std::recursive_mutex calls_;
  std::atomic<bool> training_{false};
  std::thread::id trainer_thread_;
};

/// Measures a network's loss on a dataset again and again: its plan is made once.
class Evaluator {
 public:
  virtual ~Evaluator() = default;
  /// The data and the context are borrowed.
  static std::unique_ptr<Evaluator> make(DeviceNetwork& network, const DeviceData& data,
                                         const ops::Loss& loss, Context& context);
  /// Sums with the weights as they are; data that is not finite is refused as `operation`.
  virtual ops::LossSums run(const char* operation) = 0;
};

}  // namespace dlcore::cuda
