#include "plan.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "check.h"
#include "ops/activation.h"
#include "ops/add.h"
#include "ops/dense.h"
#include "ops/flatten.h"

namespace dlcore {

namespace {

// Parameters of a network that is worked through in pieces: they and their panels fit beside a
// piece in the second-level cache.
constexpr Index kSmallNetwork = 1 << 18;
// A piece has rows enough for a register tile, and lasts about a microsecond or longer.
constexpr Index kPieceRows = 16;
constexpr Index kMostPieces = 32;
constexpr Index kPieceFlops = 1 << 18;

// Examples of a batch whose first product is made from slices: more of them keep the threads apart
// by themselves.
constexpr Index kMostSlicedRows = 256;
constexpr Index kLeastSlicedFeatures = 256;
// Features that slices are cut at, few enough for halves of nearly equal length.
constexpr Index kSliceUnit = 8;

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
  std::vector<bool> written(graph.nodes.size());
  for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
    const std::vector<int>& inputs = this->node(step->op).inputs;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const auto from = static_cast<std::size_t>(inputs[i]);
      step->adds[i] = written[from];
      written[from] = true;
    }
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
Index Plan<T>::pieces(Index m) const {
  // Products of rounded numbers round whole batches.
  if (bf16_ != nullptr || layout_->size > kSmallNetwork) return 1;
  const Index flops = checked_product(m, graph_->flops_per_example(), "plan");
  Index most = m / kPieceRows;
  // Of a network without its first and last products little is left but calls.
  if (slices(m) > 1) most = std::min(most, std::max(kSlices, most / 2));
  return std::clamp<Index>(std::min(most, flops / kPieceFlops), 1, kMostPieces);
}

template <class T>
Index Plan<T>::slices(Index m) const {
  if (steps_.empty()) return 1;  // a network that gives its input back
  const Step& first = steps_.front();
  const bool whole = bf16_ != nullptr || layout_->size > kSmallNetwork || m > kMostSlicedRows ||
                     node(first.op).op != OpKind::dense || node(0).uses > 1 || node(0).rows() > 1 ||
                     node(0).features() < kLeastSlicedFeatures;
  if (whole) return 1;
  // Less is one task, done faster than shared out.
  const Index flops = 2 * m * node(0).features() * node(first.op).units;
  return flops < kSlices * kPieceFlops ? 1 : kSlices;
}

template <class T>
Part Plan<T>::slice_features(Index slice) const {
  return part(slice, kSlices, node(0).features(), kSliceUnit);
}

template <class T>
void Plan<T>::forward_slice(const T* parameters, Index slice, Part rows, const Wanted& wanted) {
  const Step& step = steps_.front();
  const DenseSlot& slot = slot_of(step);
  const Value& v = value(step.node);
  const Part features = slice_features(slice);
  k_->dense_forward(slice_input(slice, rows.begin), slice_ld(slice),
                    parameters + slot.weight + features.begin * kPanel<T>, slot.panel_stride,
                    nullptr, Activation::identity, 0, nullptr,
                    v.at(slice == 0 ? v.y : of(slice).sums, rows), v.ld, rows.end - rows.begin,
                    slot.out_features, features.end - features.begin, &wanted);
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
  const Index sliced = std::min(batch_, kMostSlicedRows);
  if (training && slices(sliced) > 1) {
    for (Index i = 0; i < kSlices; ++i) {
      Slice& slice = slices_[static_cast<std::size_t>(i)];
      const Part features = slice_features(i);
      slice.ld = leading_dimension<T>(features.end - features.begin);
      slice.x = take(sliced, slice.ld);
      slice.sums = i == 0 ? nullptr : take(sliced, value(steps_.front().node).ld);
    }
  }
  if (training && node(0).needs_gradient) input.dy = take(batch_ * input.rows, input.ld);
  Index most_dy = 0, most_dx = 0, most_sum = 0;
  // A smaller batch may have larger pieces: of 95 rows, where 5 pieces become 2, one has 48.
  const Index count = pieces(batch_);
  const Index flops = std::max<Index>(graph_->flops_per_example(), 1);
  const Index piece = std::min(batch_, std::max({(batch_ + count - 1) / count, 3 * kPieceRows,
                                                 2 * kPieceFlops / flops + 1}));
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
      const Index transposed =
          std::min(checked_product(piece, v.rows, "plan"), ops::smaller_batch(v.n, x.n));
      most_dy = std::max(most_dy, checked_product(v.n, leading_dimension<T>(transposed), "plan"));
      most_dx = std::max(most_dx, checked_product(x.n, leading_dimension<T>(transposed), "plan"));
    }
    if (node(op.inputs[0]).needs_gradient && node(op.inputs[0]).uses > 1) {
      most_sum = std::max(most_sum, checked_product(piece * x.rows, x.ld, "plan"));
    }
  }
  if (training) {
    transposed_dy_size_ = padded<T>(most_dy);
    transposed_dx_size_ = padded<T>(most_dx);
    sum_size_ = padded<T>(most_sum);
    transposed_dy_ = take(count, transposed_dy_size_);
    transposed_dx_ = take(count, transposed_dx_size_);
    sum_ = take(count, sum_size_);
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
void Plan<T>::forward(const T* parameters, int threads, Part rows,
                      std::optional<ops::DropoutKey> dropout, Index first_row, bool sliced,
                      const Wanted* wanted) {
  for (const Step& step : steps_) {
    if (sliced && &step == &steps_.front()) {
      finish_slices(parameters, rows);
      wanted = nullptr;  // its sums have asked
    } else if (node(step.op).op == OpKind::dense) {
      forward_dense(step, parameters, threads, rows, std::exchange(wanted, nullptr));
    } else {
      forward_step(step, threads, rows, dropout, first_row);
    }
  }
}

template <class T>
void Plan<T>::finish_slices(const T* parameters, Part rows) {
  const Step& step = steps_.front();
  const DenseSlot& slot = slot_of(step);
  const Value& v = value(step.node);
  static_assert(kSlices == 2, "dense_finish adds one to the first");
  k_->dense_finish(v.at(of(1).sums, rows), slot.bias < 0 ? nullptr : parameters + slot.bias,
                   step.activation, step.alpha, v.at(v.z, rows), v.at(v.y, rows), v.ld,
                   rows.end - rows.begin, slot.out_features);
}

template <class T>
void Plan<T>::forward_step(const Step& step, int threads, Part rows,
                           const std::optional<ops::DropoutKey>& dropout, Index first_row) {
  const Node& op = node(step.op);
  const Value& x = value(op.inputs[0]);
  const Value& v = value(step.node);
  const Index m = rows.end - rows.begin, count = m * v.rows, size = count * v.ld;
  const T* from = x.at(x.y, rows);
  T* to = v.at(v.y, rows);
  switch (op.op) {
    case OpKind::input:
    case OpKind::dense: break;
    case OpKind::activation:
      ops::activation_forward(*k_, threads, step.activation, step.alpha, from, to, size);
      break;
    case OpKind::dropout:
      if (dropout.has_value()) {
        ops::dropout(*k_, threads, op.p, *dropout, step.op, (first_row + rows.begin) * v.rows, from,
                     to, v.ld, count, v.n);
      } else if (to != from) {
        std::copy_n(from, size, to);
      }
      break;
    case OpKind::flatten:
      if (to != from) ops::flatten_forward(from, x.ld, to, v.ld, m, x.rows, x.n);
      break;
    case OpKind::add: {
      const Value& other = value(op.inputs[1]);
      ops::add_forward(*k_, threads, from, other.at(other.y, rows), to, size);
      break;
    }
  }
}

template <class T>
void Plan<T>::forward_dense(const Step& step, const T* parameters, int threads, Part rows,
                            const Wanted* wanted) {
  const DenseSlot& slot = slot_of(step);
  const Value& x = value(node(step.op).inputs[0]);
  const Value& v = value(step.node);
  const Index n = slot.out_features, k = slot.in_features, count = (rows.end - rows.begin) * v.rows;
  const T* from = x.at(x.y, rows);
  T* to = v.at(v.y, rows);
  T* argument = v.at(v.z, rows);
  const T* bias = slot.bias < 0 ? nullptr : parameters + slot.bias;
  if constexpr (std::is_same_v<T, float>) {
    if (bf16_ != nullptr) {
      const auto index = static_cast<std::size_t>(&slot - layout_->slots.data());
      const Index pairs = (k + 1) / 2, ld = leading_dimension<float>(pairs);
      ops::round_weights(*bf16_, threads, {parameters + slot.weight, slot.panel_stride, k, n},
                         weight_rows_[index], weight_pairs_[index], pair_stride(slot));
      ops::round_rows(*bf16_, threads, from, x.ld, rounded_, ld, count, k);
      ops::dense_forward<float>(*bf16_, threads, rounded_, ld,
                                {weight_pairs_[index], pair_stride(slot), pairs, n}, bias,
                                step.activation, step.alpha, argument, to, v.ld, count, wanted);
      return;
    }
  }
  ops::dense_forward<T>(*k_, threads, from, x.ld,
                        {parameters + slot.weight, slot.panel_stride, k, n}, bias, step.activation,
                        step.alpha, argument, to, v.ld, count, wanted);
}

template <class T>
void Plan<T>::backward_values(const T* parameters, int threads, Part rows,
                              std::optional<ops::DropoutKey> dropout, Index first_row,
                              Index piece) {
  for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
    if (node(step->node).needs_gradient) {
      backward_step(*step, parameters, threads, rows, dropout, first_row, piece);
    }
  }
}

template <class T>
void Plan<T>::backward_step(const Step& step, const T* parameters, int threads, Part rows,
                            const std::optional<ops::DropoutKey>& dropout, Index first_row,
                            Index piece) {
  const Node& op = node(step.op);
  if (op.op == OpKind::dense) return backward_dense(step, parameters, threads, rows, piece);
  const Value& v = value(step.node);
  const Index m = rows.end - rows.begin, count = m * v.rows, size = count * v.ld;
  const T* dy = v.at(v.dy, rows);
  for (std::size_t i = 0; i < op.inputs.size(); ++i) {
    const int from = op.inputs[i];
    if (!node(from).needs_gradient) continue;
    const Value& x = value(from);
    const bool add = step.adds[i];
    T* dx = x.at(x.dy, rows);
    // Ops without a sum of their own make their contribution apart and add it.
    T* sum = sum_ + piece * sum_size_;
    T* target = add ? sum : dx;
    switch (op.op) {
      case OpKind::activation:
        ops::activation_backward(
            *k_, threads, step.activation, step.alpha, dy,
            gradient_from_result(step.activation) ? v.at(v.y, rows) : x.at(x.y, rows), target,
            size);
        break;
      case OpKind::dropout:
        if (dropout.has_value()) {
          ops::dropout(*k_, threads, op.p, *dropout, step.op, (first_row + rows.begin) * v.rows, dy,
                       target, v.ld, count, v.n);
        } else {
          std::copy_n(dy, size, target);
        }
        break;
      case OpKind::flatten: ops::flatten_backward(dy, v.ld, add, dx, x.ld, m, x.rows, x.n); break;
      case OpKind::add: ops::add_backward(*k_, threads, dy, add, dx, size); break;
      case OpKind::input:
      case OpKind::dense: break;
    }
    if (add && (op.op == OpKind::activation || op.op == OpKind::dropout)) {
      // Row by row: the scratch's padding is not zero.
      for (Index r = 0; r < count; ++r) k_->add(sum + r * x.ld, dx + r * x.ld, x.n);
    }
  }
}

template <class T>
void Plan<T>::backward_dense(const Step& step, const T* parameters, int threads, Part rows,
                             Index piece) {
  const Value& v = value(step.node);
  const Value& x = value(node(step.op).inputs[0]);
  const DenseSlot& slot = slot_of(step);
  const Index count = (rows.end - rows.begin) * v.rows, n = slot.out_features, k = slot.in_features;
  T* dy = v.at(v.dy, rows);
  if (step.activation != Activation::identity) {
    const T* saved = gradient_from_result(step.activation) ? v.y : v.z;
    ops::activation_backward(*k_, threads, step.activation, step.alpha, dy, v.at(saved, rows), dy,
                             count * v.ld);
  }
  if (!node(node(step.op).inputs[0]).needs_gradient) return;
  const ops::TransposedBatch<T> scratch{transposed_dy_ + piece * transposed_dy_size_,
                                        transposed_dx_ + piece * transposed_dx_size_,
                                        leading_dimension<T>(count)};
  T* dx = x.at(x.dy, rows);
  if constexpr (std::is_same_v<T, float>) {
    if (bf16_ != nullptr) {
      const auto index = static_cast<std::size_t>(&slot - layout_->slots.data());
      const Index pairs = (n + 1) / 2, ld = leading_dimension<float>(pairs);
      ops::round_rows(*bf16_, threads, dy, v.ld, rounded_, ld, count, n);
      ops::dense_input_gradient<float>(*k_, *bf16_, threads, rounded_, ld,
                                       {weight_rows_[index], slot.panel_stride / 2, k, pairs},
                                       scratch, step.adds[0], dx, x.ld, count);
      return;
    }
  }
  ops::dense_input_gradient<T>(*k_, *k_, threads, dy, v.ld,
                               {parameters + slot.weight, slot.panel_stride, k, n}, scratch,
                               step.adds[0], dx, x.ld, count);
}

template <class T>
void Plan<T>::backward_parameters(int threads, Index m, const Sink& sink, bool sliced) {
  for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
    if (node(step->op).op != OpKind::dense) continue;
    const Value& v = value(step->node);
    if (slot_of(*step).bias >= 0) bias_gradient(threads, v, m * v.rows, slot_of(*step), sink);
    if (!sliced || &*step != &steps_.front()) weight_gradient(*step, threads, m, sink);
  }
}

template <class T>
void Plan<T>::backward_slice(int threads, Index slice, Index m, const Sink& sink) {
  const Step& step = steps_.front();
  const Value& v = value(step.node);
  weight_gradient(*k_, threads, of(slice).x, of(slice).ld, v.dy, v.ld, m, slot_of(step),
                  slice_features(slice), sink);
}

template <class T>
void Plan<T>::weight_gradient(const Step& step, int threads, Index m, const Sink& sink) {
  const Value& v = value(step.node);
  const Value& x = value(node(step.op).inputs[0]);
  const DenseSlot& slot = slot_of(step);
  const Index rows = m * v.rows;
  const Part features{0, slot.in_features};
  if constexpr (std::is_same_v<T, float>) {
    if (bf16_ != nullptr) {
      ops::round_row_pairs(*bf16_, threads, x.y, x.ld, x_pairs_, x.ld, rows, slot.in_features);
      ops::round_row_pairs(*bf16_, threads, v.dy, v.ld, dy_pairs_, v.ld, rows, slot.out_features);
      weight_gradient(*bf16_, threads, x_pairs_, x.ld, dy_pairs_, v.ld, (rows + 1) / 2, slot,
                      features, sink);
      return;
    }
  }
  weight_gradient(*k_, threads, x.y, x.ld, v.dy, v.ld, rows, slot, features, sink);
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
void Plan<T>::weight_gradient(const K& products, int threads, const T* x, Index ldx, const T* dy,
                              Index ldy, Index rows, const DenseSlot& slot, Part features,
                              const Sink& sink) {
  const bool fused = sink.gradients == nullptr;
  const Index at = slot.weight + features.begin * kPanel<T>;
  const ops::DenseWeights<T> w{(fused ? sink.parameters : sink.gradients) + at, slot.panel_stride,
                               features.end - features.begin, slot.out_features};
  if (fused) {
    ops::dense_weight_update<T>(products, threads, x, ldx, dy, ldy, *sink.update, w,
                                sink.state(sink.state1, at), sink.state(sink.state2, at), rows);
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
