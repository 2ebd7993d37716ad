#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "graph.h"
#include "ops/dense.h"
#include "ops/dropout.h"
#include "ops/loss.h"
#include "ops/optimizer.h"
#include "parallel.h"
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
  T* input(Index row = 0) { return values_.front().at(values_.front().y, {row, row}); }
  Index input_ld() const { return values_.front().ld; }
  Index input_rows() const { return values_.front().rows; }
  const T* output(Index row = 0) const { return values_.back().at(values_.back().y, {row, row}); }
  Index output_ld() const { return values_.back().ld; }
  /// Derivative of the loss by the output, to be written before backward.
  T* output_gradient(Index row = 0) { return values_.back().at(values_.back().dy, {row, row}); }
  ops::LossScratch<T> loss_scratch(Index row = 0) const {
    const Index at = row * values_.back().rows;
    return {loss_.value + at, loss_.correct + at, loss_.row_weight + at};
  }

  /// Pieces that a batch of m examples is best worked through in, each on one thread: everything
  /// but the gradients of parameters is done row by row, and what a piece of a small network
  /// touches stays in the caches of its core. 1 where the products had better be cut themselves.
  Index pieces(Index m) const;

  /// Slices of the input's features, from each of which a part of the first product of a batch of m
  /// examples is made; 1 where it is made whole. A thread that keeps to one slice has its own
  /// features of the batch and its own weights, from the gather to the update, in the caches of its
  /// core: what other threads are sent are the sums alone.
  Index slices(Index m) const;
  /// Features of the input in a slice; those of a part of them lie beside each other.
  Part slice_features(Index slice) const;
  /// Where the rows of a slice are to be written before forward_slice. Slices lie apart, and not as
  /// columns of one array: a core's prefetching of its rows would reach into the other's.
  T* slice_input(Index slice, Index row) { return of(slice).x + row * of(slice).ld; }
  Index slice_ld(Index slice) const { return of(slice).ld; }
  /// Sums of the first product over one slice; asks for what is wanted beside its rows.
  void forward_slice(const T* parameters, Index slice, Part rows, const Wanted& wanted);

  /// Values of all nodes for these rows of the plan's batch. Dropout drops where `dropout` is
  /// given, else it passes; first_row is the number of row 0 within a batch that is larger than
  /// the plan's. Where `sliced`, the sums of the first product have been made; else that product
  /// asks for what is wanted, if given.
  void forward(const T* parameters, int threads, Part rows,
               std::optional<ops::DropoutKey> dropout = {}, Index first_row = 0,
               bool sliced = false, const Wanted* wanted = nullptr);

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

  /// Derivatives by all values of these rows from output_gradient(), after forward with the same
  /// arguments. Rows may be worked on by several threads at a time; `piece` is the number of those
  /// at work here.
  void backward_values(const T* parameters, int threads, Part rows,
                       std::optional<ops::DropoutKey> dropout = {}, Index first_row = 0,
                       Index piece = 0);

  /// Gradients of all parameters from the values of m rows and the derivatives by them; where
  /// `sliced`, of all but the first product's weights.
  void backward_parameters(int threads, Index m, const Sink& sink, bool sliced = false);
  /// Gradients of the first product's weights of one slice.
  void backward_slice(int threads, Index slice, Index m, const Sink& sink);

 private:
  /// Buffers of a node: rows of ld elements. Nodes may share them (see the constructor).
  struct Value {
    T* y = nullptr;
    T* z = nullptr;  ///< argument of the activation where its derivative needs that
    T* dy = nullptr;
    Index ld = 0;
    Index rows = 1;  ///< of one example
    Index n = 0;
    bool kept = false;  ///< y is what its activation's derivative is worked out from

    /// Where the first of these rows lies in one of the buffers; null stays null.
    template <class P>
    P* at(P* buffer, Part part) const {
      return buffer == nullptr ? buffer : buffer + part.begin * rows * ld;
    }
  };
  struct Step {
    int node = 0;  ///< whose value it makes
    int op = 0;    ///< node that says what to do: itself, or the fused dense one
    Activation activation = Activation::identity;
    T alpha = 0;
    /// Backward, by input: whether another step has already written a contribution.
    std::array<bool, 2> adds = {false, false};
  };

  void forward_step(const Step& step, int threads, Part rows,
                    const std::optional<ops::DropoutKey>& dropout, Index first_row);
  /// What follows the first product once its slices are made.
  void finish_slices(const T* parameters, Part rows);
  void backward_step(const Step& step, const T* parameters, int threads, Part rows,
                     const std::optional<ops::DropoutKey>& dropout, Index first_row, Index piece);
  void forward_dense(const Step& step, const T* parameters, int threads, Part rows,
                     const Wanted* wanted);
  void backward_dense(const Step& step, const T* parameters, int threads, Part rows, Index piece);
  void weight_gradient(const Step& step, int threads, Index m, const Sink& sink);
  void bias_gradient(int threads, const Value& v, Index rows, const DenseSlot& slot,
                     const Sink& sink);
  template <class K>
  void weight_gradient(const K& products, int threads, const T* x, Index ldx, const T* dy,
                       Index ldy, Index rows, const DenseSlot& slot, Part features,
                       const Sink& sink);
  Value& value(int node) { return values_[static_cast<std::size_t>(node)]; }
  const Node& node(int index) const { return graph_->nodes[static_cast<std::size_t>(index)]; }
  const DenseSlot& slot_of(const Step& step) const {
    return layout_
        ->slots[static_cast<std::size_t>(layout_->slot_of_node[static_cast<std::size_t>(step.op)])];
  }
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
  // Scratch of each piece: of input gradients that transpose the batch, and of second contributions
  // to a gradient.
  T* transposed_dy_ = nullptr;
  T* transposed_dx_ = nullptr;
  T* sum_ = nullptr;
  Index transposed_dy_size_ = 0, transposed_dx_size_ = 0, sum_size_ = 0;
  T* bias_ = nullptr;  ///< gradient of one bias
  struct Slice {
    T* x = nullptr;
    Index ld = 0;
    T* sums = nullptr;  ///< of the first product over this slice; the first one's go into its y
  };
  static constexpr Index kSlices = 2;
  std::array<Slice, kSlices> slices_;
  const Slice& of(Index slice) const { return slices_[static_cast<std::size_t>(slice)]; }
  // bf16: one layer's factors, rounded by rows or by row pairs, and all layers' weights.
  T* rounded_ = nullptr;
  T* x_pairs_ = nullptr;
  T* dy_pairs_ = nullptr;
  std::vector<T*> weight_rows_, weight_pairs_;  ///< by slot
  Buffer<T> workspace_;
};

}  // namespace dlcore
