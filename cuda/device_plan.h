#pragma once

#include <vector>

#include "device_network.h"
#include "launches.h"
#include "lt.h"

namespace dlcore::cuda {

/// Calls f with float or Bf16, what values are stored as at this precision.
template <class F>
auto with_storage(lt::Precision precision, F f) {
  if (precision == lt::Precision::bf16) return f.template operator()<Bf16>();
  return f.template operator()<float>();
}

/// Weights as products read them: float32, or their bfloat16 copy of the same layout. Those of
/// several networks lie one after the other.
template <class S>
struct Weights {
  const float* single = nullptr;
  const S* stored = nullptr;
};

/// One network, or several of the same graph, at a fixed batch on the device: products described,
/// buffers in one piece. Each buffer holds the values of all networks, network by network, each
/// product multiplies for all of them, and no kernel lets one's numbers meet another's. S is what
/// values between layers are stored as. Enqueuing it allocates nothing, so it can be recorded.
template <class S>
class DevicePlan {
 public:
  enum class Kind { inference, training };

  DevicePlan(const Graph& graph, const DeviceLayout& layout, Index batch, Kind kind,
             lt::Precision precision, cudaStream_t stream, Index networks = 1);

  /// Bytes a plan of this kind takes, without building it.
  static Index bytes(const Graph& graph, const DeviceLayout& layout, Index batch, Kind kind,
                     Index networks = 1);

  Index batch() const { return batch_; }

  /// Where a batch is to be written before forward.
  S* input() { return values_.front().y; }
  Index input_ld() const { return values_.front().ld; }
  const float* output() const { return output_; }
  Index output_ld() const { return values_.back().ld; }
  /// Derivative of the loss by the output, to be written before backward.
  S* output_gradient() { return values_.back().dy; }
  float* loss() { return loss_; }
  float* correct() { return correct_; }

  /// Once before the first forward, and not while recording: sees whether a ReLU that the library's
  /// products apply lets NaN through, as its own documentation does not say. Where one does not, a
  /// kernel of ours does it. Waits, and leaves the buffers zero.
  void settle(const Weights<S>& weights, Context& context);
  /// Values of all nodes. Dropout drops or passes.
  void forward(const Step& step, const Weights<S>& weights, Context& context, bool drop);
  /// Gradients of all parameters, written or added to, after finish has counted the step.
  void backward(const Step& step, const Weights<S>& weights, float* gradients, bool add,
                Context& context, bool drop);

  /// What a dense node's fused activation gave, of the first network.
  struct Result {
    Activation activation;
    const S* y;
    Index ld, rows, n;  ///< rows of one example
  };
  Result result_of(int dense_node) const;

 private:
  struct Value {
    S* y = nullptr;
    S* z = nullptr;  ///< argument of the activation where its derivative needs that
    S* dy = nullptr;
    std::byte* mask = nullptr;  ///< of a ReLU whose derivative the next product applies
    Index ld = 0, rows = 1, n = 0, mask_ld = 0;
    bool kept = false;     ///< y is what its activation's derivative is worked out from
    bool written = false;  ///< backward: dy holds a first contribution
  };
  struct Node {
    int node = 0;  ///< whose value it makes
    int op = 0;    ///< node that says what to do: itself, or the fused dense one
    Activation activation = Activation::identity;
    float alpha = 0;
    // Dense:
    lt::Product product, input_gradient, weight_gradient;
    bool biased = false;     ///< the product adds the bias
    bool rectified = false;  ///< the product applies the ReLU
    bool masks = false;      ///< its own derivative is left to the product that reads its result
    bool unmasks = false;    ///< input_gradient applies the derivative of the ReLU before it
  };

  Value& value(int i) { return values_[static_cast<std::size_t>(i)]; }
  const Value& value(int i) const { return values_[static_cast<std::size_t>(i)]; }
  const dlcore::Node& node(int i) const { return graph_->nodes[static_cast<std::size_t>(i)]; }
  const DeviceSlot& slot(const Node& step) const;
  /// Rows of one network's batch.
  Index rows(const Value& v) const { return batch_ * v.rows; }
  /// Rows of all networks.
  Index all_rows(const Value& v) const { return networks_ * rows(v); }
  Index all(const Value& v) const { return all_rows(v) * v.ld; }
  Group group() const { return {networks_, layout_->size}; }
  /// Lays all buffers out from `base`; with a null base only their total size counts.
  Index assign(std::byte* base);
  void describe_products();
  /// The best that the library offers: with ReLU and its mask, with ReLU, with the bias, plain.
  void describe_forward(Node& step, bool may_rectify);
  lt::Product input_gradient(const Node& step, lt::Epilogue epilogue) const;
  /// Whether the product that alone reads this step's result can apply its ReLU's derivative.
  Node* reader_of(const Node& step);
  void forward_dense(Node& step, const Weights<S>& weights, Context& context);
  void backward_dense(Node& step, const Weights<S>& weights, float* gradients, bool add,
                      Context& context);
  /// dx = f(into) or dx += it, by way of scratch.
  template <class F>
  void contribute(Value& x, cudaStream_t stream, F f);

  const Graph* graph_;
  const DeviceLayout* layout_;
  Index batch_, networks_;
  Kind kind_;
  lt::Precision precision_;
  bool settled_ = false;
  std::vector<Node> steps_;
  std::vector<Value> values_;
  float* output_ = nullptr;
  float* loss_ = nullptr;
  float* correct_ = nullptr;
  S* sum_ = nullptr;         ///< second contributions to a gradient
  float* chunks_ = nullptr;  ///< scratch of bias gradients
  DeviceMemory<std::byte> memory_;
};

}  // namespace dlcore::cuda
