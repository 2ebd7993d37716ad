#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "graph.h"
#include "ops/dense.h"
#include "ops/dropout.h"
#include "ops/loss.h"
#include "ops/optimizer.h"
#include "parameters.h"

namespace dlcore {

/// A network at a fixed largest batch and kind of work: which buffers alias, which activations
/// are fused into which product, which gradients exist. Running it allocates nothing.
template <class T>
class Plan {
 public:
  enum class Kind { inference, training };

  /// With bf16, which needs T = float, products round their factors to bfloat16.
  Plan(const Graph& graph, const Layout<T>& layout, const Kernels& kernels, Index batch, Kind kind,
       const Bf16Kernels* bf16 = nullptr);

  /// Bytes a plan of this kind takes, without building it.
  static Index bytes(const Graph& graph, const Layout<T>& layout, Index batch, Kind kind,
                     const Bf16Kernels* bf16 = nullptr);

  Index batch() const { return batch_; }
  const Kernels& kernels() const { return *kernels_; }

  /// Where the rows of a batch are to be written before forward.
  T* input() { return values_.front().y; }
  Index input_ld() const { return values_.front().ld; }
  Index input_rows() const { return values_.front().rows; }
  const T* output() const { return values_.back().y; }
  Index output_ld() const { return values_.back().ld; }
  /// Derivative of the loss by the output, to be written before backward.
  T* output_gradient() { return values_.back().dy; }
  ops::LossScratch<T> loss_scratch() { return loss_; }

  /// Values of all nodes for m examples. Dropout drops where `dropout` is given, else it passes;
  /// first_row is the number of the first example within the batch (for a batch in pieces).
  void forward(const T* parameters, int threads, Index m,
               std::optional<ops::DropoutKey> dropout = {}, Index first_row = 0);

  /// What a dense node's fused activation gave for m examples.
  struct Result {
    Activation activation;
    const T* y;
    Index ld, rows, n;
  };
  Result result_of(int dense_node, Index m) const;

  /// What backward does with the gradient of a parameter.
  struct Sink {
    T* gradients = nullptr;  ///< written, or added to where `add`
    bool add = false;
    // Or, where gradients is null, the optimizer's step at once:
    const Update<T>* update = nullptr;
    T* parameters = nullptr;
    T* state1 = nullptr;
    T* state2 = nullptr;

    /// A state at an offset, or null where the optimizer has none.
    static T* state(T* base, Index offset) { return base == nullptr ? base : base + offset; }
  };

  /// Gradients of all parameters from output_gradient(), after forward with the same arguments.
  void backward(const T* parameters, int threads, Index m, const Sink& sink,
                std::optional<ops::DropoutKey> dropout = {}, Index first_row = 0);

 private:
  /// Buffers of a node: rows of ld elements. Nodes may share them (see the constructor).
  struct Value {
    T* y = nullptr;
    T* z = nullptr;  ///< argument of the activation where its derivative needs that
    T* dy = nullptr;
    Index ld = 0;
    Index rows = 1;  ///< of one example
    Index n = 0;
    bool kept = false;     ///< y is what its activation's derivative is worked out from
    bool written = false;  ///< backward: dy holds a first contribution
  };
  struct Step {
    int node = 0;  ///< whose value it makes
    int op = 0;    ///< node that says what to do: itself, or the fused dense one
    Activation activation = Activation::identity;
    T alpha = 0;
  };

  void forward_step(const Step& step, const T* parameters, int threads, Index m,
                    const std::optional<ops::DropoutKey>& dropout, Index first_row);
  void backward_step(const Step& step, const T* parameters, int threads, Index m, const Sink& sink,
                     const std::optional<ops::DropoutKey>& dropout, Index first_row);
  void forward_dense(const Step& step, const T* parameters, int threads, Index rows);
  void backward_dense(const Step& step, const T* parameters, int threads, Index m,
                      const Sink& sink);
  void bias_gradient(int threads, const Value& v, Index rows, const DenseSlot& slot,
                     const Sink& sink);
  template <class K>
  void input_gradient(const K& products, int threads, const T* dy, Index ldy, Index rows, int input,
                      const ops::DenseWeights<const T>& w);
  template <class K>
  void weight_gradient(const K& products, int threads, const T* x, Index ldx, const T* dy,
                       Index ldy, Index rows, const DenseSlot& slot, const Sink& sink);
  Value& value(int node) { return values_[static_cast<std::size_t>(node)]; }
  const Node& node(int index) const { return graph_->nodes[static_cast<std::size_t>(index)]; }
  /// Lays all buffers out from `base`; with a null base only their total size counts.
  Index assign(T* base);

  const Graph* graph_;
  const Layout<T>* layout_;
  const Kernels* kernels_;
  const KernelsOf<T>* k_;
  const Bf16Kernels* bf16_;
  Index batch_;
  Kind kind_;
  std::vector<Step> steps_;
  std::vector<Value> values_;
  ops::LossScratch<T> loss_{};
  T* transposed_dy_ = nullptr;  ///< of input gradients that transpose the batch
  T* transposed_dx_ = nullptr;
  T* sum_ = nullptr;   ///< second contributions to a gradient
  T* bias_ = nullptr;  ///< gradient of one bias
  // bf16: one layer's factors, rounded by rows or by row pairs, and all layers' weights.
  T* rounded_ = nullptr;
  T* x_pairs_ = nullptr;
  T* dy_pairs_ = nullptr;
  std::vector<T*> weight_rows_, weight_pairs_;  ///< by slot
  Buffer<T> workspace_;
};

}  // namespace dlcore
