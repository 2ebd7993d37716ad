#include "device_plan.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "check.h"

namespace dlcore::cuda {
namespace {

/// Buffers begin at multiples of this, as cudaMalloc's do.
constexpr Index kAlignment = 256;

template <class S>
constexpr lt::Type kType = std::is_same_v<S, float> ? lt::Type::float32 : lt::Type::bfloat16;

bool is_nan(float x) { return std::isnan(x); }
bool is_nan(Bf16 x) { return (x.bits & 0x7fff) > 0x7f80; }

}  // namespace

template <class S>
DevicePlan<S>::DevicePlan(const Graph& graph, const DeviceLayout& layout, Index batch, Kind kind,
                          lt::Precision precision, cudaStream_t stream, Index networks)
    : graph_(&graph),
      layout_(&layout),
      batch_(batch),
      networks_(networks),
      kind_(kind),
      precision_(precision),
      values_(graph.nodes.size()) {
  for (std::size_t i = 1; i < graph.nodes.size(); ++i) {
    const dlcore::Node& node = graph.nodes[i];
    const int index = static_cast<int>(i);
    // An activation that alone reads a dense node is done with that product.
    if (node.op == OpKind::activation && !steps_.empty()) {
      Node& last = steps_.back();
      const int from = node.inputs[0];
      if (last.node == from && this->node(from).op == OpKind::dense && this->node(from).uses == 1) {
        last.node = index;
        last.activation = node.activation;
        last.alpha = static_cast<float>(node.alpha);
        continue;
      }
    }
    Node step;
    step.node = step.op = index;
    step.activation = node.activation;
    step.alpha = static_cast<float>(node.alpha);
    steps_.push_back(std::move(step));
  }
  const Index size = assign(nullptr);
  if (stream == nullptr) return;  // bytes() wants to know the size alone
  memory_ = DeviceMemory<std::byte>(size);
  // Padding is read and multiplied by nothing, but it has to be finite.
  set_zero(memory_.data(), size, stream);
  assign(memory_.data());
  describe_products();
}

template <class S>
Index DevicePlan<S>::bytes(const Graph& graph, const DeviceLayout& layout, Index batch, Kind kind,
                           Index networks) {
  DevicePlan plan(graph, layout, batch, kind, lt::Precision::fp32, nullptr, networks);
  return plan.assign(nullptr);
}

template <class S>
const DeviceSlot& DevicePlan<S>::slot(const Node& step) const {
  const int index = layout_->slot_of_node[static_cast<std::size_t>(step.op)];
  return layout_->slots[static_cast<std::size_t>(index)];
}

template <class S>
typename DevicePlan<S>::Node* DevicePlan<S>::reader_of(const Node& step) {
  if (node(step.node).uses != 1) return nullptr;
  for (Node& other : steps_) {
    if (node(other.op).op == OpKind::dense && node(other.op).inputs[0] == step.node) return &other;
  }
  return nullptr;
}

template <class S>
Index DevicePlan<S>::assign(std::byte* base) {
  Index used = 0;
  // As many elements for each network.
  const auto take = [&]<class T>(T*, Index each) -> T* {
    const Index at = used;
    const Index count = checked_product(each, networks_, "plan");
    const Index bytes = checked_product(count, static_cast<Index>(sizeof(T)), "plan");
    check(!__builtin_add_overflow(used, (bytes + kAlignment - 1) / kAlignment * kAlignment, &used),
          "plan: its workspace is more than 2**63 - 1 bytes");
    return base == nullptr || count == 0 ? nullptr : reinterpret_cast<T*>(base + at);
  };
  const auto take_rows = [&](const Value& v) {
    return take(static_cast<S*>(nullptr),
                checked_product(checked_product(batch_, v.rows, "plan"), v.ld, "plan"));
  };
  const bool training = kind_ == Kind::training;
  for (std::size_t i = 0; i < values_.size(); ++i) {
    Value& v = values_[i];
    v.rows = graph_->nodes[i].rows();
    v.n = graph_->nodes[i].features();
    v.ld = line(v.n);
  }
  Value& input = values_.front();
  input.y = take_rows(input);
  if (training && graph_->input().needs_gradient) input.dy = take_rows(input);
  Index most_sum = 0, most_chunks = 0;
  for (Node& step : steps_) {
    Value& v = value(step.node);
    const dlcore::Node& op = node(step.op);
    const Value& x = value(op.inputs[0]);
    const bool alone = node(op.inputs[0]).uses == 1;
    const bool dense = op.op == OpKind::dense;
    // Dropout overwrites a value that nobody else reads; flattening a row changes nothing.
    const bool in_place = alone && ((op.op == OpKind::dropout && !(training && x.kept)) ||
                                    (op.op == OpKind::flatten && x.rows == 1));
    v.y = in_place ? x.y : take_rows(v);
    v.kept = in_place ? x.kept
                      : step.activation != Activation::identity &&
                            (dense || op.op == OpKind::activation) &&
                            gradient_from_result(step.activation);
    v.z = training && dense && !gradient_from_result(step.activation) ? take_rows(v) : nullptr;
    if (!training || !node(step.node).needs_gradient) continue;
    v.dy = take_rows(v);
    const bool may_mask = dense && step.activation == Activation::relu;
    v.mask_ld = (v.n + lt::kMaskAlignment - 1) / lt::kMaskAlignment * lt::kMaskAlignment;
    if (may_mask && reader_of(step) != nullptr) {
      v.mask = take(static_cast<std::byte*>(nullptr), rows(v) * (v.mask_ld / 8));
    }
    if (dense) most_chunks = std::max(most_chunks, column_sums_scratch(rows(v), v.n));
    if (node(op.inputs[0]).needs_gradient && !alone) {
      most_sum = std::max(most_sum, rows(x) * x.ld);
    }
  }
  if (training) {
    sum_ = take(static_cast<S*>(nullptr), most_sum);
    chunks_ = take(static_cast<float*>(nullptr), most_chunks);
  }
  const Value& out = values_.back();
  if constexpr (std::is_same_v<S, float>) {
    output_ = out.y;
  } else {
    output_ = take(static_cast<float*>(nullptr), rows(out) * out.ld);
  }
  loss_ = take(static_cast<float*>(nullptr), rows(out));
  correct_ = take(static_cast<float*>(nullptr), rows(out));
  return used;
}

template <class S>
lt::Product DevicePlan<S>::input_gradient(const Node& step, lt::Epilogue epilogue) const {
  const DeviceSlot& s = slot(step);
  const Value &v = value(step.node), &x = value(node(step.op).inputs[0]);
  return lt::Product::make({.m = rows(v),
                            .n = s.in_features,
                            .k = s.out_features,
                            .lda = v.ld,
                            .ldb = s.ld,
                            .ldd = x.ld,
                            .type = kType<S>,
                            .result = kType<S>,
                            .precision = precision_,
                            .epilogue = epilogue,
                            .mask_ld = x.mask_ld,
                            .networks = networks_,
                            .stride_a = rows(v) * v.ld,
                            .stride_b = layout_->size,
                            .stride_d = rows(x) * x.ld,
                            .stride_mask = rows(x) * x.mask_ld});
}

template <class S>
void DevicePlan<S>::describe_forward(Node& step, bool may_rectify) {
  const DeviceSlot& s = slot(step);
  const Value &v = value(step.node), &x = value(node(step.op).inputs[0]);
  const bool bias = s.bias >= 0;
  // Logits stay float32.
  const bool logits = &v == &values_.back() && step.activation == Activation::identity;
  lt::Shape shape{.m = rows(v),
                  .n = s.out_features,
                  .k = s.in_features,
                  .transpose_b = true,
                  .lda = x.ld,
                  .ldb = s.ld,
                  .ldd = v.ld,
                  .type = kType<S>,
                  .result = logits ? lt::Type::float32 : kType<S>,
                  .precision = precision_,
                  .mask_ld = v.mask_ld,
                  .networks = networks_,
                  .stride_a = rows(x) * x.ld,
                  .stride_b = layout_->size,
                  .stride_d = rows(v) * v.ld,
                  .stride_bias = layout_->size,
                  .stride_mask = rows(v) * v.mask_ld};
  const auto attempt = [&](lt::Epilogue epilogue) {
    shape.epilogue = epilogue;
    step.product = lt::Product::make(shape);
    return !step.product.empty();
  };
  step.product = {};
  step.rectified = step.masks = step.biased = false;
  if (may_rectify && step.activation == Activation::relu) {
    Node* const reader = v.mask == nullptr ? nullptr : reader_of(step);
    if (reader != nullptr) {
      lt::Product unmasking = input_gradient(*reader, lt::Epilogue::relu_gradient);
      if (!unmasking.empty() &&
          attempt(bias ? lt::Epilogue::relu_mask_bias : lt::Epilogue::relu_mask)) {
        reader->input_gradient = std::move(unmasking);
        reader->unmasks = step.masks = true;
      }
    }
    step.rectified = step.masks || attempt(bias ? lt::Epilogue::relu_bias : lt::Epilogue::relu);
    step.biased = step.rectified && bias;
  }
  if (step.product.empty() && bias) step.biased = attempt(lt::Epilogue::bias);
  if (step.product.empty()) attempt(lt::Epilogue::none);
}

template <class S>
void DevicePlan<S>::describe_products() {
  const bool training = kind_ == Kind::training;
  const auto dense = [&](const Node& step) { return node(step.op).op == OpKind::dense; };
  for (Node& step : steps_) {
    if (!dense(step)) continue;
    describe_forward(step, true);
    if (!training) continue;
    const DeviceSlot& s = slot(step);
    const Value &v = value(step.node), &x = value(node(step.op).inputs[0]);
    step.weight_gradient = lt::Product::make({.m = s.out_features,
                                              .n = s.in_features,
                                              .k = rows(v),
                                              .transpose_a = true,
                                              .lda = v.ld,
                                              .ldb = x.ld,
                                              .ldd = s.ld,
                                              .type = kType<S>,
                                              .result = lt::Type::float32,
                                              .precision = precision_,
                                              .networks = networks_,
                                              .stride_a = rows(v) * v.ld,
                                              .stride_b = rows(x) * x.ld,
                                              .stride_d = layout_->size});
  }
  for (Node& step : steps_) {
    if (training && dense(step) && step.input_gradient.empty() &&
        node(node(step.op).inputs[0]).needs_gradient) {
      step.input_gradient = input_gradient(step, lt::Epilogue::none);
    }
  }
}

template <class S>
void DevicePlan<S>::settle(const Weights<S>& weights, Context& context) {
  if (std::exchange(settled_, true)) return;
  const Stream& stream = context.stream();
  bool asked = false;
  for (Node& step : steps_) {
    if (!step.rectified) continue;
    asked = true;
    const Value &v = value(step.node), &x = value(node(step.op).inputs[0]);
    // Each bit set is NaN in either storage, and NaN times any weight is NaN.
    set_bytes(x.y, 0xff, all(x) * static_cast<Index>(sizeof(S)), stream);
    forward_dense(step, weights, context);
    std::vector<S> row(static_cast<std::size_t>(v.n));
    copy(row.data(), v.y, v.n, stream);
    stream.synchronize();
    if (std::all_of(row.begin(), row.end(), [](S y) { return is_nan(y); })) continue;
    Node* const reader = step.masks ? reader_of(step) : nullptr;
    describe_forward(step, false);
    if (reader != nullptr) {
      reader->unmasks = false;
      reader->input_gradient = input_gradient(*reader, lt::Epilogue::none);
    }
  }
  if (asked) set_zero(memory_.data(), memory_.size(), stream);
}

template <class S>
void DevicePlan<S>::forward(const Step& step, const Weights<S>& weights, Context& context,
                            bool drop) {
  const cudaStream_t stream = context.stream();
  for (Node& s : steps_) {
    const dlcore::Node& op = node(s.op);
    const Value& x = value(op.inputs[0]);
    const Value& v = value(s.node);
    const Index size = all(v);
    switch (op.op) {
      case OpKind::input: break;
      case OpKind::dense: forward_dense(s, weights, context); break;
      case OpKind::activation:
        activation_forward(s.activation, s.alpha, x.y, v.y, size, stream);
        break;
      case OpKind::dropout:
        if (drop) {
          dropout(step, false, static_cast<std::uint32_t>(s.op), op.p, x.y, v.y, batch_, v.rows,
                  v.n, v.ld, stream);
        } else if (v.y != x.y) {
          copy(v.y, x.y, size, stream);
        }
        break;
      case OpKind::flatten:
        if (v.y != x.y) {
          repack(x.y, x.n, x.ld, v.y, v.n, v.ld, all_rows(v) * v.n, stream);
        }
        break;
      case OpKind::add: add(x.y, value(op.inputs[1]).y, v.y, size, stream); break;
    }
  }
  if constexpr (!std::is_same_v<S, float>) {
    const Node& last = steps_.back();
    const bool logits =
        node(last.op).op == OpKind::dense && last.activation == Activation::identity;
    const Value& out = values_.back();
    if (!logits) convert(out.y, output_, all(out), stream);
  }
}

template <class S>
void DevicePlan<S>::forward_dense(Node& step, const Weights<S>& weights, Context& context) {
  const cudaStream_t stream = context.stream();
  const DeviceSlot& s = slot(step);
  const Value& x = value(node(step.op).inputs[0]);
  const Value& v = value(step.node);
  const bool logits = &v == &values_.back() && step.activation == Activation::identity;
  S* const z = v.z != nullptr ? v.z : v.y;
  lt::Product::Arguments arguments{.a = x.y, .b = weights.stored + s.weight, .d = z};
  if (logits) arguments.d = output_;
  if (step.biased) {
    arguments.bias = logits ? static_cast<const void*>(weights.single + s.bias)
                            : static_cast<const void*>(weights.stored + s.bias);
  }
  if (step.masks) arguments.mask = v.mask;
  step.product.run(arguments, context.workspace(), stream);
  if (s.bias >= 0 && !step.biased) {
    if (logits) {
      add_bias(weights.single + s.bias, output_, v.ld, rows(v), v.n, group(), stream);
    } else {
      add_bias(weights.stored + s.bias, z, v.ld, rows(v), v.n, group(), stream);
    }
  }
  if (!step.rectified && step.activation != Activation::identity) {
    activation_forward(step.activation, step.alpha, z, v.y, all(v), stream);
  }
}

template <class S>
template <class F>
void DevicePlan<S>::contribute(Value& x, cudaStream_t stream, F f) {
  if (!x.written) {
    f(x.dy);
  } else {
    f(sum_);
    add(x.dy, sum_, x.dy, all(x), stream);
  }
  x.written = true;
}

template <class S>
void DevicePlan<S>::backward(const Step& step, const Weights<S>& weights, float* gradients,
                             bool add, Context& context, bool drop) {
  const cudaStream_t stream = context.stream();
  for (Value& v : values_) v.written = false;
  for (auto s = steps_.rbegin(); s != steps_.rend(); ++s) {
    if (!node(s->node).needs_gradient) continue;
    const dlcore::Node& op = node(s->op);
    Value& v = value(s->node);
    Value& x = value(op.inputs[0]);
    const Index size = all(v);
    if (op.op == OpKind::dense) {
      backward_dense(*s, weights, gradients, add, context);
      continue;
    }
    for (const int input : op.inputs) {
      if (!node(input).needs_gradient) continue;
      contribute(value(input), stream, [&](S* dx) {
        switch (op.op) {
          case OpKind::activation:
            activation_backward(s->activation, s->alpha, v.dy,
                                gradient_from_result(s->activation) ? v.y : x.y, dx, size, stream);
            break;
          case OpKind::dropout:
            if (drop) {
              dropout(step, true, static_cast<std::uint32_t>(s->op), op.p, v.dy, dx, batch_, v.rows,
                      v.n, v.ld, stream);
            } else {
              copy(dx, v.dy, size, stream);
            }
            break;
          case OpKind::flatten:
            repack(v.dy, v.n, v.ld, dx, x.n, x.ld, all_rows(v) * v.n, stream);
            break;
          default: copy(dx, v.dy, size, stream);
        }
      });
    }
  }
}

template <class S>
void DevicePlan<S>::backward_dense(Node& step, const Weights<S>& weights, float* gradients,
                                   bool add, Context& context) {
  const cudaStream_t stream = context.stream();
  const DeviceSlot& s = slot(step);
  Value& v = value(step.node);
  const int input = node(step.op).inputs[0];
  Value& x = value(input);
  if (step.activation != Activation::identity && !step.masks) {
    activation_backward(step.activation, step.alpha, v.dy,
                        gradient_from_result(step.activation) ? v.y : v.z, v.dy, all(v), stream);
  }
  if (s.bias >= 0) {
    column_sums(v.dy, v.ld, gradients + s.bias, rows(v), v.n, add, chunks_, group(), stream);
  }
  step.weight_gradient.run({.a = v.dy, .b = x.y, .d = gradients + s.weight, .add = add},
                           context.workspace(), stream);
  if (!node(input).needs_gradient) return;
  step.input_gradient.run({.a = v.dy,
                           .b = weights.stored + s.weight,
                           .d = x.dy,
                           .mask = step.unmasks ? x.mask : nullptr,
                           .add = x.written},
                          context.workspace(), stream);
  x.written = true;
}

template <class S>
typename DevicePlan<S>::Result DevicePlan<S>::result_of(int dense_node) const {
  const auto step =
      std::find_if(steps_.begin(), steps_.end(), [&](const Node& s) { return s.op == dense_node; });
  const Value& v = values_[static_cast<std::size_t>(step->node)];
  return {step->activation, v.y, v.ld, v.rows, v.n};
}

template class DevicePlan<float>;
template class DevicePlan<Bf16>;

}  // namespace dlcore::cuda
