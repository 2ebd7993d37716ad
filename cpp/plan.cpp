#include "plan.h"

#include <algorithm>
#include <type_traits>

#include "check.h"
#include "ops/activation.h"
#include "ops/add.h"
#include "ops/dense.h"
#include "ops/flatten.h"

namespace dlcore {

namespace {

/// Elements of one panel of weights rounded by row pairs.
Index pair_stride(const DenseSlot& slot) { return (slot.in_features + 1) / 2 * kPanel<float>; }

}  // namespace

template <class T>
Plan<T>::Plan(const Graph& graph, const Layout<T>& layout, const Kernels& kernels, Index batch,
              Kind kind, const Bf16Kernels* bf16)
    : graph_(&graph),
      layout_(&layout),
      kernels_(&kernels),
      k_(&kernels.of<T>()),
      bf16_(bf16),
      batch_(batch),
      kind_(kind),
      values_(graph.nodes.size()) {
  for (std::size_t i = 1; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    const int index = static_cast<int>(i);
    // An activation that alone reads a dense node is done in that product's last pass.
    if (node.op == OpKind::activation && !steps_.empty()) {
      const int from = node.inputs[0];
      Step& last = steps_.back();
      if (last.node == from && this->node(from).op == OpKind::dense && this->node(from).uses == 1) {
        last.node = index;
        last.activation = node.activation;
        last.alpha = static_cast<T>(node.alpha);
        continue;
      }
    }
    steps_.push_back({index, index, node.activation, static_cast<T>(node.alpha)});
  }
  workspace_ = Buffer<T>(assign(nullptr));
  assign(workspace_.data());
}

template <class T>
Index Plan<T>::bytes(const Graph& graph, const Layout<T>& layout, Index batch, Kind kind,
                     const Bf16Kernels* bf16) {
  // A plan of one example costs next to nothing and knows how its size grows.
  Plan plan(graph, layout, kReference, 1, kind, bf16);
  plan.batch_ = batch;
  return checked_product(plan.assign(nullptr), static_cast<Index>(sizeof(T)), "plan");
}

template <class T>
Index Plan<T>::assign(T* base) {
  Index used = 0;
  const auto take = [&](Index rows, Index ld) {
    const Index at = used;
    check(!__builtin_add_overflow(used, padded<T>(checked_product(rows, ld, "plan")), &used),
          "plan: its workspace is more than 2**63 - 1 elements");
    return base == nullptr ? nullptr : base + at;
  };
  const bool training = kind_ == Kind::training;
  for (std::size_t i = 0; i < values_.size(); ++i) {
    Value& v = values_[i];
    v.rows = graph_->nodes[i].rows();
    v.n = graph_->nodes[i].features();
    v.ld = leading_dimension<T>(v.n);
  }
  Value& input = values_.front();
  input.y = take(checked_product(batch_, input.rows, "plan"), input.ld);
  if (training && node(0).needs_gradient) input.dy = take(batch_ * input.rows, input.ld);
  Index most_dy = 0, most_dx = 0, most_sum = 0;
  for (const Step& step : steps_) {
    Value& v = value(step.node);
    const Node& op = node(step.op);
    const Value& x = value(op.inputs[0]);
    const bool alone = node(op.inputs[0]).uses == 1;
    const Index rows = checked_product(batch_, v.rows, "plan");
    // Dropout overwrites a value that nobody else reads; flattening a row changes nothing.
    const bool in_place = alone && ((op.op == OpKind::dropout && !(training && x.kept)) ||
                                    (op.op == OpKind::flatten && x.rows == 1));
    v.y = in_place ? x.y : take(rows, v.ld);
    v.kept = in_place
                 ? x.kept
                 : step.activation != Activation::identity && gradient_from_result(step.activation);
    const bool keeps_argument =
        training && op.op == OpKind::dense && !gradient_from_result(step.activation);
    v.z = keeps_argument ? take(rows, v.ld) : nullptr;
    if (!training || !node(step.node).needs_gradient) continue;
    v.dy = take(rows, v.ld);
    if (op.op == OpKind::dense && node(op.inputs[0]).needs_gradient) {
      // A smaller last batch may be transposed where a whole one is not.
      const Index transposed = std::min(rows, v.n * x.n / (v.n + x.n));
      most_dy = std::max(most_dy, checked_product(v.n, leading_dimension<T>(transposed), "plan"));
      most_dx = std::max(most_dx, checked_product(x.n, leading_dimension<T>(transposed), "plan"));
    }
    if (node(op.inputs[0]).needs_gradient && node(op.inputs[0]).uses > 1) {
      most_sum = std::max(most_sum, checked_product(batch_ * x.rows, x.ld, "plan"));
    }
  }
  if (training) {
    transposed_dy_ = take(most_dy, 1);
    transposed_dx_ = take(most_dx, 1);
    sum_ = take(most_sum, 1);
    Index most_bias = 0;
    for (const DenseSlot& slot : layout_->slots) {
      most_bias = std::max(most_bias, slot.out_features);
    }
    bias_ = take(padded<T>(most_bias), 1);
  }
  if (bf16_ != nullptr) {
    Index most_rounded = 0, most_x = 0, most_dy = 0;
    weight_rows_.clear();
    weight_pairs_.clear();
    for (const DenseSlot& slot : layout_->slots) {
      const Index rows = checked_product(batch_, node(slot.node).rows(), "plan");
      const Index longest = std::max(slot.in_features, slot.out_features);
      most_rounded = std::max(most_rounded, rows * leading_dimension<T>((longest + 1) / 2));
      most_x = std::max(most_x, (rows + 1) / 2 * leading_dimension<T>(slot.in_features));
      most_dy = std::max(most_dy, (rows + 1) / 2 * leading_dimension<T>(slot.out_features));
      weight_rows_.push_back(take(slot.panels, slot.panel_stride / 2));
      weight_pairs_.push_back(take(slot.panels, pair_stride(slot)));
    }
    rounded_ = take(most_rounded, 1);
    x_pairs_ = take(most_x, 1);
    dy_pairs_ = take(most_dy, 1);
  }
  const Index output_rows = batch_ * values_.back().rows;
  loss_ = {take(output_rows, 1), take(output_rows, 1), take(output_rows, 1)};
  return used;
}

template <class T>
void Plan<T>::forward(const T* parameters, int threads, Index m,
                      std::optional<ops::DropoutKey> dropout, Index first_row) {
  for (const Step& step : steps_) forward_step(step, parameters, threads, m, dropout, first_row);
}

template <class T>
void Plan<T>::forward_step(const Step& step, const T* parameters, int threads, Index m,
                           const std::optional<ops::DropoutKey>& dropout, Index first_row) {
  const Node& op = node(step.op);
  const Value& x = value(op.inputs[0]);
  const Value& v = value(step.node);
  const Index rows = m * v.rows, size = rows * v.ld;
  switch (op.op) {
    case OpKind::input: break;
    case OpKind::dense: forward_dense(step, parameters, threads, rows); break;
    case OpKind::activation:
      ops::activation_forward(*k_, threads, step.activation, step.alpha, x.y, v.y, size);
      break;
    case OpKind::dropout:
      if (dropout.has_value()) {
        ops::dropout(*k_, threads, op.p, *dropout, step.op, first_row * v.rows, x.y, v.y, v.ld,
                     rows, v.n);
      } else if (v.y != x.y) {
        std::copy_n(x.y, size, v.y);
      }
      break;
    case OpKind::flatten:
      if (v.y != x.y) ops::flatten_forward(x.y, x.ld, v.y, v.ld, m, x.rows, x.n);
      break;
    case OpKind::add: ops::add_forward(*k_, threads, x.y, value(op.inputs[1]).y, v.y, size); break;
  }
}

template <class T>
void Plan<T>::forward_dense(const Step& step, const T* parameters, int threads, Index rows) {
  const auto index =
      static_cast<std::size_t>(layout_->slot_of_node[static_cast<std::size_t>(step.op)]);
  const DenseSlot& slot = layout_->slots[index];
  const Value& x = value(node(step.op).inputs[0]);
  const Value& v = value(step.node);
  const Index n = slot.out_features, k = slot.in_features;
  const T* bias = slot.bias < 0 ? nullptr : parameters + slot.bias;
  if constexpr (std::is_same_v<T, float>) {
    if (bf16_ != nullptr) {
      const Index pairs = (k + 1) / 2, ld = leading_dimension<float>(pairs);
      ops::round_weights(*bf16_, threads, {parameters + slot.weight, slot.panel_stride, k, n},
                         weight_rows_[index], weight_pairs_[index], pair_stride(slot));
      ops::round_rows(*bf16_, threads, x.y, x.ld, rounded_, ld, rows, k);
      ops::dense_forward<float>(*bf16_, threads, rounded_, ld,
                                {weight_pairs_[index], pair_stride(slot), pairs, n}, bias,
                                step.activation, step.alpha, v.z, v.y, v.ld, rows);
      return;
    }
  }
  ops::dense_forward<T>(*k_, threads, x.y, x.ld,
                        {parameters + slot.weight, slot.panel_stride, k, n}, bias, step.activation,
                        step.alpha, v.z, v.y, v.ld, rows);
}

template <class T>
void Plan<T>::backward(const T* parameters, int threads, Index m, const Sink& sink,
                       std::optional<ops::DropoutKey> dropout, Index first_row) {
  for (Value& v : values_) v.written = false;
  for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
    if (node(step->node).needs_gradient) {
      backward_step(*step, parameters, threads, m, sink, dropout, first_row);
    }
  }
}

template <class T>
void Plan<T>::backward_step(const Step& step, const T* parameters, int threads, Index m,
                            const Sink& sink, const std::optional<ops::DropoutKey>& dropout,
                            Index first_row) {
  const Node& op = node(step.op);
  Value& v = value(step.node);
  const Index rows = m * v.rows, size = rows * v.ld;
  if (op.op == OpKind::dense) return backward_dense(step, parameters, threads, m, sink);
  for (const int from : op.inputs) {
    if (!node(from).needs_gradient) continue;
    Value& x = value(from);
    const bool add = x.written;
    // Ops without a sum of their own make their contribution apart and add it.
    T* target = add ? sum_ : x.dy;
    switch (op.op) {
      case OpKind::activation:
        ops::activation_backward(*k_, threads, step.activation, step.alpha, v.dy,
                                 gradient_from_result(step.activation) ? v.y : x.y, target, size);
        break;
      case OpKind::dropout:
        if (dropout.has_value()) {
          ops::dropout(*k_, threads, op.p, *dropout, step.op, first_row * v.rows, v.dy, target,
                       v.ld, rows, v.n);
        } else {
          std::copy_n(v.dy, size, target);
        }
        break;
      case OpKind::flatten:
        ops::flatten_backward(v.dy, v.ld, add, x.dy, x.ld, m, x.rows, x.n);
        break;
      case OpKind::add: ops::add_backward(*k_, threads, v.dy, add, x.dy, size); break;
      case OpKind::input:
      case OpKind::dense: break;
    }
    if (add && (op.op == OpKind::activation || op.op == OpKind::dropout)) {
      // Row by row: the scratch's padding is not zero.
      for (Index i = 0; i < rows; ++i) k_->add(sum_ + i * x.ld, x.dy + i * x.ld, x.n);
    }
    x.written = true;
  }
}

template <class T>
void Plan<T>::backward_dense(const Step& step, const T* parameters, int threads, Index m,
                             const Sink& sink) {
  const Node& op = node(step.op);
  Value& v = value(step.node);
  const Value& x = value(op.inputs[0]);
  const auto index =
      static_cast<std::size_t>(layout_->slot_of_node[static_cast<std::size_t>(step.op)]);
  const DenseSlot& slot = layout_->slots[index];
  const Index rows = m * v.rows, n = slot.out_features, k = slot.in_features;
  if (step.activation != Activation::identity) {
    const T* saved = gradient_from_result(step.activation) ? v.y : v.z;
    ops::activation_backward(*k_, threads, step.activation, step.alpha, v.dy, saved, v.dy,
                             rows * v.ld);
  }
  if (slot.bias >= 0) bias_gradient(threads, v, rows, slot, sink);
  // The input gradient first: an update in place would change the weights it reads.
  const bool needs_dx = node(op.inputs[0]).needs_gradient;
  if constexpr (std::is_same_v<T, float>) {
    if (bf16_ != nullptr) {
      if (needs_dx) {
        const Index pairs = (n + 1) / 2, ld = leading_dimension<float>(pairs);
        ops::round_rows(*bf16_, threads, v.dy, v.ld, rounded_, ld, rows, n);
        input_gradient(*bf16_, threads, rounded_, ld, rows, op.inputs[0],
                       {weight_rows_[index], slot.panel_stride / 2, k, pairs});
      }
      ops::round_row_pairs(*bf16_, threads, x.y, x.ld, x_pairs_, x.ld, rows, k);
      ops::round_row_pairs(*bf16_, threads, v.dy, v.ld, dy_pairs_, v.ld, rows, n);
      weight_gradient(*bf16_, threads, x_pairs_, x.ld, dy_pairs_, v.ld, (rows + 1) / 2, slot, sink);
      return;
    }
  }
  if (needs_dx) {
    input_gradient(*k_, threads, v.dy, v.ld, rows, op.inputs[0],
                   {parameters + slot.weight, slot.panel_stride, k, n});
  }
  weight_gradient(*k_, threads, x.y, x.ld, v.dy, v.ld, rows, slot, sink);
}

template <class T>
void Plan<T>::bias_gradient(int threads, const Value& v, Index rows, const DenseSlot& slot,
                            const Sink& sink) {
  const bool direct = sink.gradients != nullptr && !sink.add;
  T* gradient = direct ? sink.gradients + slot.bias : bias_;
  ops::dense_bias_gradient(*k_, threads, v.dy, v.ld, gradient, rows, slot.out_features);
  if (sink.gradients == nullptr) {
    k_->update(*sink.update, sink.parameters + slot.bias, bias_, sink.state(sink.state1, slot.bias),
               sink.state(sink.state2, slot.bias), slot.out_features);
  } else if (sink.add) {
    k_->add(bias_, sink.gradients + slot.bias, slot.out_features);
  }
}

template <class T>
template <class K>
void Plan<T>::input_gradient(const K& products, int threads, const T* dy, Index ldy, Index rows,
                             int input, const ops::DenseWeights<const T>& w) {
  Value& x = value(input);
  ops::dense_input_gradient<T>(*k_, products, threads, dy, ldy, w,
                               {transposed_dy_, transposed_dx_, leading_dimension<T>(rows)},
                               x.written, x.dy, x.ld, rows);
  x.written = true;
}

template <class T>
template <class K>
void Plan<T>::weight_gradient(const K& products, int threads, const T* x, Index ldx, const T* dy,
                              Index ldy, Index rows, const DenseSlot& slot, const Sink& sink) {
  const bool fused = sink.gradients == nullptr;
  const ops::DenseWeights<T> w{(fused ? sink.parameters : sink.gradients) + slot.weight,
                               slot.panel_stride, slot.in_features, slot.out_features};
  if (fused) {
    ops::dense_weight_update<T>(products, threads, x, ldx, dy, ldy, *sink.update, w,
                                sink.state(sink.state1, slot.weight),
                                sink.state(sink.state2, slot.weight), rows);
  } else {
    ops::dense_weight_gradient<T>(products, threads, x, ldx, dy, ldy, sink.add, w, rows);
  }
}

template <class T>
typename Plan<T>::Result Plan<T>::result_of(int dense_node, Index m) const {
  const auto step =
      std::find_if(steps_.begin(), steps_.end(), [&](const Step& s) { return s.op == dense_node; });
  const Value& v = values_[static_cast<std::size_t>(step->node)];
  return {step->activation, v.y, v.ld, m * v.rows, v.n};
}

template class Plan<float>;
template class Plan<double>;

}  // namespace dlcore
