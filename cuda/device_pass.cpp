#include "device_pass.h"

#include <algorithm>
#include <type_traits>

namespace dlcore::cuda {

Targets targets_of(const Graph& graph, const ops::Loss& loss) {
  return {.loss = loss, .shape = ops::target_shape(loss, graph.output().shape)};
}

template <class S>
DevicePass<S>::DevicePass(const Graph& graph, const DeviceLayout& layout, Index batch, Kind kind,
                          lt::Precision precision, cudaStream_t stream)
    : graph_(&graph),
      trains_(kind == Kind::training),
      plan_(graph, layout, batch, kind, precision, stream),
      rounded_(std::is_same_v<S, Bf16> ? layout.size : 0),
      state_(1),
      source_(1) {}

template <class S>
void DevicePass<S>::begin(const Call& call) {
  call_ = &call;
  const cudaStream_t stream = call.context.stream();
  const DeviceData& d = call.data;
  weights_.single = call.parameters.data();
  if constexpr (std::is_same_v<S, float>) {
    weights_.stored = weights_.single;
  } else {
    convert(weights_.single, rounded_.data(), rounded_.size(), stream);
    weights_.stored = rounded_.data();
  }
  plan_.settle(weights_, call.context);
  const Index batch = plan_.batch();
  host_table_.assign(static_cast<std::size_t>(count()), {});
  for (Index i = 0; i < count(); ++i) {
    StepInput& input = host_table_[static_cast<std::size_t>(i)];
    input.begin = i * batch;
    input.x_begin = d.x == nullptr ? 0 : i * batch;
    input.first_row = i * batch;
    input.rows = static_cast<std::int32_t>(rows(i));
    input.share = call.share;
    input.random_step = static_cast<std::uint64_t>(call.random_step);
    input.number = i;
  }
  table_.resize(count());
  copy(table_.data(), host_table_.data(), table_.size(), stream);
  host_state_ = {};
  copy(state_.data(), &host_state_, 1, stream);
  host_source_ = d.source(nullptr, call.seed);
  if (d.x == nullptr) {
    chunk_.resize(batch * d.view.features * item_size(d.view.dtype));
    host_source_.x = chunk_.data();
  }
  copy(source_.data(), &host_source_, 1, stream);
}

template <class S>
Index DevicePass<S>::rows(Index i) const {
  return std::min(plan_.batch(), call_->data.view.rows - i * plan_.batch());
}

template <class S>
void DevicePass<S>::forward(Index i) {
  const DeviceData& d = call_->data;
  const cudaStream_t stream = call_->context.stream();
  if (d.x == nullptr) upload_rows(d.view, i * plan_.batch(), rows(i), chunk_.data(), stream);
  gather(step(), d.view.dtype, plan_.input(), plan_.batch(), graph_->input().rows(),
         graph_->input().features(), plan_.input_ld(), stream);
  plan_.forward(step(), weights_, call_->context, call_->drop);
}

template <class S>
void DevicePass<S>::loss(const Targets& targets) {
  const cudaStream_t stream = call_->context.stream();
  loss_rows<S>(step(), targets, plan_.output(), plan_.output_ld(), plan_.loss(), plan_.correct(),
               trains_ ? plan_.output_gradient() : nullptr, plan_.output_ld(), plan_.batch(),
               stream);
  finish(step(), targets, plan_.loss(), plan_.correct(), plan_.batch(), stream);
}

template <class S>
void DevicePass<S>::backward(Index i, float* gradients) {
  plan_.backward(step(), weights_, gradients, i > 0, call_->context, call_->drop);
}

template <class S>
StepState DevicePass<S>::wait(const char* operation) {
  const Stream& stream = call_->context.stream();
  StepState state;
  copy(&state, state_.data(), 1, stream);
  stream.synchronize();
  const RowsView& x = call_->data.view;
  if (state.bad_input != 0) refuse_device_data(operation, x, nullptr, x.rows, stream);
  return state;
}

template <class S>
ops::LossSums DevicePass<S>::evaluate(const Call& call, const ops::Loss& loss,
                                      const char* operation) {
  begin(call);
  const Targets targets = targets_of(*graph_, loss);
  for (Index i = 0; i < count(); ++i) {
    forward(i);
    this->loss(targets);
  }
  const StepState state = wait(operation);
  return {state.loss, state.correct, state.weight};
}

template class DevicePass<float>;
template class DevicePass<Bf16>;

}  // namespace dlcore::cuda
