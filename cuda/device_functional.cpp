// Single operations on arrays of a GPU: what cpp/bindings/functional.cpp does for NumPy's.

#include <pybind11/stl.h>

#include <initializer_list>
#include <limits>
#include <optional>
#include <vector>

#include "arrays.h"
#include "bindings/arrays.h"
#include "check.h"
#include "device_network.h"
#include "functional.h"
#include "launches.h"
#include "lt.h"
#include "ops/dropout.h"
#include "ops/optimizer.h"

namespace py = pybind11;

namespace dlcore::cuda {
namespace {

/// A float32 argument of an operation.
DeviceArray argument(const py::object& given, const char* operation, const char* name) {
  DeviceArray array = view_of(given, operation, name);
  check_type(array.type() == ItemType::float32, operation, ": ", name,
             " must be float32 on a GPU, found ", name_of(array.type()));
  return array;
}

/// One that is written to.
DeviceArray writable(const py::object& given, const char* operation, const char* name) {
  DeviceArray array = argument(given, operation, name);
  check(!array.read_only(), operation, ": ", name, " is read-only");
  return array;
}

void check_one_device(const char* operation, int a, int b) {
  check_state(a == b, operation, ": all arrays must lie on one GPU, found cuda:", a,
              " and cuda:", b);
}
void check_one_device(const char* operation, const DeviceArray& a, const DeviceArray& b) {
  check_one_device(operation, a.device(), b.device());
}

/// `out` if given and fitting, else a new array.
DeviceArray result(const py::object& out, const Shape& shape, int device, const char* operation) {
  if (out.is_none()) return {ItemType::float32, shape, device};
  DeviceArray array = writable(out, operation, "out");
  check(array.shape() == shape, operation, ": out must be ", shape, ", found ", array.shape());
  check_one_device(operation, device, array.device());
  return array;
}

/// On the host, because it is looked at before it indexes memory or is added up.
py::object on_host(const py::object& array, const char* operation, const char* name) {
  if (!is_device_array(array)) return array;
  return py::cast(view_of(array, operation, name)).attr("numpy")();
}

/// Runs f(context) without the GIL and waits for what it enqueues.
template <class F>
void run(int device, F f) {
  const py::gil_scoped_release release;
  const auto context = Context::take(device);
  f(*context);
  context->stream().synchronize();
}

DeviceArray activation(const std::string& kind, const py::object& x, double alpha,
                       const py::object& out) {
  const Activation a = activation_named(kind);
  const DeviceArray from = argument(x, kind.c_str(), "x");
  DeviceArray y = result(out, from.shape(), from.device(), kind.c_str());
  run(from.device(), [&](Context& context) {
    activation_forward(a, static_cast<float>(alpha), from.as<float>(), y.as<float>(), from.size(),
                       context.stream());
  });
  return y;
}

DeviceArray activation_gradient(const std::string& kind, const py::object& dy,
                                const py::object& saved, double alpha, const py::object& out) {
  const Activation a = activation_named(kind);
  const std::string name = kind + "_backward";
  const char* saved_name = gradient_from_result(a) ? "y" : "x";
  const DeviceArray d = argument(dy, name.c_str(), "dy");
  const DeviceArray s = argument(saved, name.c_str(), saved_name);
  functional::check_same_shape(name.c_str(), "dy", d.shape(), saved_name, s.shape());
  check_one_device(name.c_str(), d, s);
  DeviceArray dx = result(out, d.shape(), d.device(), name.c_str());
  run(d.device(), [&](Context& context) {
    activation_backward(a, static_cast<float>(alpha), d.as<float>(), s.as<float>(), dx.as<float>(),
                        d.size(), context.stream());
  });
  return dx;
}

Index rows_before_last(const Shape& shape) {
  Index rows = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

/// Bytes that all of the pointers and rows of n floats are aligned to, at most 16.
std::uint32_t alignment_of(std::initializer_list<const void*> pointers,
                           std::initializer_list<Index> rows) {
  std::uintptr_t bits = 16;
  for (const void* pointer : pointers) bits |= reinterpret_cast<std::uintptr_t>(pointer);
  for (const Index n : rows) bits |= static_cast<std::uintptr_t>(n) * sizeof(float);
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

/// d = op(a) op(b), exact to float32.
void multiply(lt::Shape shape, const DeviceArray& a, const DeviceArray& b, const DeviceArray& d,
              Context& context) {
  if (shape.m * shape.n == 0) return;
  if (shape.k == 0) {  // a sum of nothing, which cuBLASLt does not take
    set_zero(d.as<float>(), d.size(), context.stream());
    return;
  }
  shape.precision = lt::Precision::fp32;
  shape.alignment = alignment_of({a.data(), b.data(), d.data()}, {shape.lda, shape.ldb, shape.ldd});
  const auto product = lt::Product::make(shape);
  product.run({.a = a.data(), .b = b.data(), .d = d.data()}, context.workspace(), context.stream());
}

DeviceArray dense(const py::object& x, const py::object& weight, const py::object& bias,
                  const py::object& out) {
  const DeviceArray from = argument(x, "dense", "x"), w = argument(weight, "dense", "weight");
  check_one_device("dense", from, w);
  std::optional<DeviceArray> b;
  if (!bias.is_none()) {
    b = argument(bias, "dense", "bias");
    check_one_device("dense", from, *b);
  }
  const Shape shape =
      functional::dense_shape(from.shape(), w.shape(), b.has_value() ? b->shape() : Shape{});
  DeviceArray y = result(out, shape, from.device(), "dense");
  const Index m = rows_before_last(shape), n = w.shape()[0], k = w.shape()[1];
  if (m * n == 0) return y;
  run(from.device(), [&](Context& context) {
    multiply({.m = m, .n = n, .k = k, .transpose_b = true, .lda = k, .ldb = k, .ldd = n}, from, w,
             y, context);
    if (b.has_value()) add_bias(b->as<float>(), y.as<float>(), n, m, n, {}, context.stream());
  });
  return y;
}

py::tuple dense_gradients(const py::object& dy, const py::object& x, const py::object& weight) {
  const char* operation = "dense_backward";
  const DeviceArray d = argument(dy, operation, "dy"), from = argument(x, operation, "x");
  const DeviceArray w = argument(weight, operation, "weight");
  functional::check_dense_backward(d.shape(), from.shape(), w.shape());
  check_one_device(operation, d, from);
  check_one_device(operation, d, w);
  const Index m = rows_before_last(from.shape()), n = w.shape()[0], k = w.shape()[1];
  DeviceArray dx(ItemType::float32, from.shape(), d.device());
  DeviceArray dw(ItemType::float32, w.shape(), d.device());
  DeviceArray db(ItemType::float32, {n}, d.device());
  run(d.device(), [&](Context& context) {
    multiply({.m = m, .n = k, .k = n, .lda = n, .ldb = k, .ldd = k}, d, w, dx, context);
    multiply({.m = n, .n = k, .k = m, .transpose_a = true, .lda = n, .ldb = k, .ldd = k}, d, from,
             dw, context);
    if (m * n == 0) {
      set_zero(db.as<float>(), n, context.stream());
      return;
    }
    DeviceMemory<float> chunks(column_sums_scratch(m, n));
    column_sums(d.as<float>(), n, db.as<float>(), m, n, false, chunks.data(), {}, context.stream());
    context.stream().synchronize();
  });
  return py::make_tuple(dx, dw, db);
}

DeviceArray softmax_array(const py::object& logits, const py::object& out) {
  const DeviceArray x = argument(logits, "softmax", "logits");
  check(!x.shape().empty(), "softmax: logits needs at least one axis, found ()");
  DeviceArray y = result(out, x.shape(), x.device(), "softmax");
  const Index n = x.shape().back();
  run(x.device(), [&](Context& context) {
    softmax_rows(x.as<float>(), n, y.as<float>(), rows_before_last(x.shape()), n, context.stream());
  });
  return y;
}

DeviceArray dropout_array(const py::object& x, double p, std::uint64_t seed, std::uint64_t step,
                          int layer, const py::object& out) {
  const DeviceArray from = argument(x, "dropout", "x");
  ops::dropout_shape(from.shape(), p);
  DeviceArray y = result(out, from.shape(), from.device(), "dropout");
  run(from.device(), [&](Context& context) {
    dropout_plain(seed, step, static_cast<std::uint32_t>(layer), p, from.as<float>(), y.as<float>(),
                  from.size(), context.stream());
  });
  return y;
}

/// Mean loss of m examples of n elements, and its gradient where dx is given.
double loss_of(const ops::Loss& loss, const DeviceArray& x, const std::int32_t* labels,
               const float* target, const py::object& sample_weight, Index m, Index n,
               const char* operation, DeviceArray* dx) {
  check(m <= std::numeric_limits<std::int32_t>::max(), operation,
        ": takes at most 2147483647 examples on a GPU, found ", m);
  std::vector<double> weight;
  if (!sample_weight.is_none()) {
    const py::object host = on_host(sample_weight, operation, "sample_weight");
    Shape shape;
    const auto* given = bindings::optional_data<double>(operation, "sample_weight", host, &shape);
    functional::check_sample_weight(operation, given, shape, m);
    weight.assign(given, given + m);
  }
  StepState state;
  if (m == 0) return 0;
  run(x.device(), [&](Context& context) {
    const cudaStream_t stream = context.stream();
    DeviceMemory<double> weights(static_cast<Index>(weight.size()));
    copy(weights.data(), weight.data(), weights.size(), stream);
    double total = static_cast<double>(m);
    if (!weight.empty()) {
      total = 0;
      for (const double w : weight) total += w;
    }
    const Targets targets{.loss = loss,
                          .shape = {.rows = 1, .features = n, .width = loss.has_labels() ? 1 : n}};
    const Source source{.labels = labels, .values = target, .weight = weights.data()};
    StepInput input;
    input.rows = static_cast<std::int32_t>(m);
    input.share = total > 0 ? 1 / (total * static_cast<double>(targets.shape.width)) : 0;
    DeviceMemory<StepInput> table(1);
    DeviceMemory<StepState> states(1);
    DeviceMemory<Source> sources(1);
    DeviceMemory<float> values(m), correct(m);
    copy(table.data(), &input, 1, stream);
    copy(states.data(), &state, 1, stream);
    copy(sources.data(), &source, 1, stream);
    const Step step{states.data(), table.data(), sources.data()};
    loss_rows<float>(step, targets, x.as<float>(), n, values.data(), correct.data(),
                     dx == nullptr ? nullptr : dx->as<float>(), n, m, stream);
    finish(step, targets, values.data(), correct.data(), m, stream);
    copy(&state, states.data(), 1, stream);
    context.stream().synchronize();
  });
  return state.weight > 0 ? state.loss / state.weight : 0;
}

py::object cross_entropy(const py::object& logits, const py::object& labels,
                         const py::object& weight, bool gradient, const py::object& out) {
  const char* operation = "cross_entropy";
  const DeviceArray x = argument(logits, operation, "logits");
  const py::object host = on_host(labels, operation, "labels");
  Shape shape;
  const auto* given = bindings::optional_data<std::int64_t>(operation, "labels", host, &shape);
  functional::check_cross_entropy(x.shape(), shape, {});
  const Index m = x.shape()[0], n = x.shape()[1];
  ops::check_labels(operation, given, m, n);
  std::vector<std::int32_t> narrow(given, given + m);
  DeviceArray on_device(ItemType::int32, {m}, x.device());
  run(x.device(), [&](Context& context) {
    copy(on_device.as<std::int32_t>(), narrow.data(), m, context.stream());
    context.stream().synchronize();
  });
  const ops::Loss loss{ops::LossKind::cross_entropy, 1};
  if (!gradient) {
    return py::float_(
        loss_of(loss, x, on_device.as<std::int32_t>(), nullptr, weight, m, n, operation, nullptr));
  }
  DeviceArray dx = result(out, x.shape(), x.device(), operation);
  loss_of(loss, x, on_device.as<std::int32_t>(), nullptr, weight, m, n, operation, &dx);
  return py::cast(dx);
}

py::object element_loss(const std::string& kind, const py::object& prediction,
                        const py::object& target, const py::object& weight, double delta,
                        bool gradient, const py::object& out) {
  const ops::Loss loss = ops::loss_named(kind, delta);
  const char* operation = kind.c_str();
  const char* name = loss.kind == ops::LossKind::binary_cross_entropy ? "logits" : "prediction";
  const DeviceArray x = argument(prediction, operation, name);
  const DeviceArray t = argument(target, operation, "target");
  functional::check_same_shape(operation, name, x.shape(), "target", t.shape());
  check_one_device(operation, x, t);
  check(!x.shape().empty(), operation, ": ", name, " needs at least one axis, found ()");
  const Index m = x.shape()[0], n = m == 0 ? 1 : x.size() / m;
  if (!gradient) {
    return py::float_(loss_of(loss, x, nullptr, t.as<float>(), weight, m, n, operation, nullptr));
  }
  DeviceArray dx = result(out, x.shape(), x.device(), operation);
  loss_of(loss, x, nullptr, t.as<float>(), weight, m, n, operation, &dx);
  return py::cast(dx);
}

void optimizer_step(const char* operation, const ops::Optimizer& optimizer,
                    const py::object& parameter, const py::object& gradient,
                    const std::vector<std::pair<const char*, py::object>>& states,
                    double learning_rate, Index step) {
  const DeviceArray w = writable(parameter, operation, "parameter");
  const DeviceArray dw = argument(gradient, operation, "gradient");
  functional::check_same_shape(operation, "parameter", w.shape(), "gradient", dw.shape());
  check_one_device(operation, w, dw);
  std::vector<DeviceArray> kept;
  float* moments[2] = {nullptr, nullptr};
  for (std::size_t i = 0; i < static_cast<std::size_t>(optimizer.states()); ++i) {
    const auto& [name, state] = states[i];
    kept.push_back(writable(state, operation, name));
    functional::check_same_shape(operation, "parameter", w.shape(), name, kept[i].shape());
    check_one_device(operation, w, kept[i]);
    moments[i] = kept[i].as<float>();
  }
  functional::check_step(operation, step);
  const Update<float> u = ops::update_of<float>(optimizer, learning_rate, 1, step);
  run(w.device(), [&](Context& context) {
    update_plain(u, w.as<float>(), dw.as<float>(), moments[0], moments[1], w.size(),
                 context.stream());
  });
}

}  // namespace

void bind_device_functional(py::module_& m) {
  m.def("activation_forward", &activation, py::arg("kind"), py::arg("x"), py::arg("alpha"),
        py::arg("out"));
  m.def("activation_backward", &activation_gradient, py::arg("kind"), py::arg("dy"),
        py::arg("saved"), py::arg("alpha"), py::arg("out"));
  m.def("dense_forward", &dense, py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("out"));
  m.def("dense_backward", &dense_gradients, py::arg("dy"), py::arg("x"), py::arg("weight"));
  m.def("softmax", &softmax_array, py::arg("logits"), py::arg("out"));
  m.def("dropout_forward", &dropout_array, py::arg("x"), py::arg("p"), py::arg("seed"),
        py::arg("step"), py::arg("layer"), py::arg("out"));
  m.def(
      "cross_entropy_forward",
      [](const py::object& logits, const py::object& labels, const py::object& weight) {
        return cross_entropy(logits, labels, weight, false, py::none());
      },
      py::arg("logits"), py::arg("labels"), py::arg("sample_weight"));
  m.def(
      "cross_entropy_backward",
      [](const py::object& logits, const py::object& labels, const py::object& weight,
         const py::object& out) { return cross_entropy(logits, labels, weight, true, out); },
      py::arg("logits"), py::arg("labels"), py::arg("sample_weight"), py::arg("out"));
  m.def(
      "loss_forward",
      [](const std::string& kind, const py::object& prediction, const py::object& target,
         const py::object& weight, double delta) {
        return element_loss(kind, prediction, target, weight, delta, false, py::none());
      },
      py::arg("kind"), py::arg("prediction"), py::arg("target"), py::arg("sample_weight"),
      py::arg("delta"));
  m.def(
      "loss_backward",
      [](const std::string& kind, const py::object& prediction, const py::object& target,
         const py::object& weight, double delta, const py::object& out) {
        return element_loss(kind, prediction, target, weight, delta, true, out);
      },
      py::arg("kind"), py::arg("prediction"), py::arg("target"), py::arg("sample_weight"),
      py::arg("delta"), py::arg("out"));
  m.def(
      "sgd_step",
      [](const py::object& parameter, const py::object& gradient, const py::object& velocity,
         double learning_rate, double momentum, bool nesterov, double weight_decay) {
        ops::Optimizer o{Rule::sgd, momentum, nesterov, weight_decay};
        optimizer_step("sgd_step", o, parameter, gradient, {{"velocity", velocity}}, learning_rate,
                       1);
      },
      py::arg("parameter"), py::arg("gradient"), py::arg("velocity"), py::arg("learning_rate"),
      py::arg("momentum"), py::arg("nesterov"), py::arg("weight_decay"));
  m.def(
      "adam_step",
      [](const py::object& parameter, const py::object& gradient, const py::object& first,
         const py::object& second, double learning_rate, double beta1, double beta2, double epsilon,
         double weight_decay, bool decoupled, Index step) {
        ops::Optimizer o{
            decoupled ? Rule::adamw : Rule::adam, 0, false, weight_decay, beta1, beta2, epsilon};
        optimizer_step("adam_step", o, parameter, gradient, {{"first", first}, {"second", second}},
                       learning_rate, step);
      },
      py::arg("parameter"), py::arg("gradient"), py::arg("first"), py::arg("second"),
      py::arg("learning_rate"), py::arg("beta1"), py::arg("beta2"), py::arg("epsilon"),
      py::arg("weight_decay"), py::arg("decoupled"), py::arg("step"));
}

}  // namespace dlcore::cuda
