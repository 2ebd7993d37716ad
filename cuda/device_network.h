#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "device_data.h"
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

/// Numbers of a network on the device: in memory of their own, or in the arena of the group that
/// the network trains in.
class Floats {
 public:
  Floats() = default;
  explicit Floats(Index size) : own_(size) {}

  float* data() const { return place_ != nullptr ? place_ : own_.data(); }
  Index size() const { return own_.size(); }
  /// Copies them to a place for as many, where they are until they move on or come back.
  void move_to(float* place, cudaStream_t stream);
  void bring_back(cudaStream_t stream);

 private:
  DeviceMemory<float> own_;
  float* place_ = nullptr;
};

/// Parameters and moments of a network on the device, and its counters.
struct DeviceState {
  Floats parameters, moment1, moment2;
  Index optimizer_step = 0, step = 0;
};

/// A DevicePass of either storage (device_pass.h).
struct KeptPass {
  virtual ~KeptPass() = default;
};

/// Examples worked on at a time where the call sets no batch.
inline constexpr Index kDeviceBatch = 4096;
Index device_batch(Index rows);

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
  /// Refuses what lies on another GPU.
  void check_place(const char* operation, const RowsView& x) const;
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

  /// Plans of the latest calls, the last one first: building one takes longer than running it.
  struct Kept {
    Index batch;
    bool trains;
    lt::Precision precision;
    std::unique_ptr<KeptPass> pass;
  };

  void refuse_while_training(const char* operation) const;
  void read(const float* arena, std::size_t i, void* value) const;
  /// Calls f(pass, context) with the plan for as many rows, made or kept.
  template <class F>
  auto with_pass(Index rows, bool trains, F f);
  KeptPass& kept_pass(Index batch, bool trains, cudaStream_t stream);

  Graph graph_;
  int device_;
  DeviceLayout layout_;
  std::vector<ParameterName> names_;
  lt::Precision precision_ = lt::Precision::tf32;
  DeviceState state_;
  ops::Optimizer optimizer_;
  DeviceMemory<float> gradients_;  ///< of the latest loss_and_gradients
  std::vector<Kept> kept_;
  mutable std::recursive_mutex calls_;
  std::atomic<bool> training_{false};
  std::thread::id trainer_thread_;
};

}  // namespace dlcore::cuda
