// Single operations, optimizer steps and random numbers on plain arrays.

#include "functional.h"

#include <pybind11/stl.h>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "kernels/select.h"
#include "ops/activation.h"
#include "ops/dropout.h"
#include "ops/optimizer.h"
#include "parallel.h"
#include "random.h"

namespace dlcore::bindings {
namespace {

py::array activation_forward(const std::string& kind, const py::array& x, double alpha,
                             const py::object& out) {
  const Activation activation = activation_named(kind);
  const char* operation = kind.c_str();
  return with_floating(operation, "x", x, [&]<class T>(T) {
    check_array<T>(operation, "x", x);
    py::array y = result<T>(operation, shape_of(x), out);
    const T* from = data<T>(x);
    T* to = writable<T>(y);
    py::gil_scoped_release release;
    ops::activation_forward(kernels().of<T>(), threads_for(x.size()), activation,
                            static_cast<T>(alpha), from, to, x.size());
    return y;
  });
}

py::array activation_backward(const std::string& kind, const py::array& dy, const py::array& saved,
                              double alpha, const py::object& out) {
  const Activation activation = activation_named(kind);
  const std::string name = kind + "_backward";
  const char* operation = name.c_str();
  const char* saved_name = gradient_from_result(activation) ? "y" : "x";
  return with_floating(operation, "dy", dy, [&]<class T>(T) {
    check_array<T>(operation, "dy", dy);
    check_like<T>(operation, "dy", saved_name, saved);
    functional::check_same_shape(operation, "dy", shape_of(dy), saved_name, shape_of(saved));
    py::array dx = result<T>(operation, shape_of(dy), out);
    const T *from = data<T>(dy), *with = data<T>(saved);
    T* to = writable<T>(dx);
    py::gil_scoped_release release;
    ops::activation_backward(kernels().of<T>(), threads_for(dy.size()), activation,
                             static_cast<T>(alpha), from, with, to, dy.size());
    return dx;
  });
}

Index rows_before_last(const Shape& shape) {
  Index rows = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

py::array dense_forward(const py::array& x, const py::array& weight, const py::object& bias,
                        const py::object& out) {
  return with_floating("dense", "x", x, [&]<class T>(T) {
    check_array<T>("dense", "x", x);
    check_like<T>("dense", "x", "weight", weight);
    Shape bias_shape;
    const T* b = optional_data<T>("dense", "bias", bias, &bias_shape);
    const Shape shape = functional::dense_shape(shape_of(x), shape_of(weight), bias_shape);
    py::array y = result<T>("dense", shape, out);
    const T *from = data<T>(x), *w = data<T>(weight);
    T* to = writable<T>(y);
    py::gil_scoped_release release;
    functional::dense_forward(from, w, b, to, rows_before_last(shape), weight.shape(0),
                              weight.shape(1));
    return y;
  });
}

py::tuple dense_backward(const py::array& dy, const py::array& x, const py::array& weight) {
  return with_floating("dense_backward", "dy", dy, [&]<class T>(T) {
    check_array<T>("dense_backward", "dy", dy);
    check_like<T>("dense_backward", "dy", "x", x);
    check_like<T>("dense_backward", "dy", "weight", weight);
    functional::check_dense_backward(shape_of(dy), shape_of(x), shape_of(weight));
    py::array dx = py::array_t<T>(shape_of(x)), dw = py::array_t<T>(shape_of(weight));
    py::array db = py::array_t<T>(Shape{weight.shape(0)});
    const T *d = data<T>(dy), *from = data<T>(x), *w = data<T>(weight);
    T *to_x = writable<T>(dx), *to_w = writable<T>(dw), *to_b = writable<T>(db);
    {
      py::gil_scoped_release release;
      functional::dense_backward(d, from, w, to_x, to_w, to_b, rows_before_last(shape_of(x)),
                                 weight.shape(0), weight.shape(1));
    }
    return py::make_tuple(dx, dw, db);
  });
}

py::array softmax(const py::array& logits, const py::object& out) {
  return with_floating("softmax", "logits", logits, [&]<class T>(T) {
    check_array<T>("softmax", "logits", logits);
    const Shape shape = shape_of(logits);
    check(!shape.empty(), "softmax: logits needs at least one axis, found ()");
    py::array y = result<T>("softmax", shape, out);
    const T* from = data<T>(logits);
    T* to = writable<T>(y);
    py::gil_scoped_release release;
    functional::softmax(from, to, rows_before_last(shape), shape.back());
    return y;
  });
}

py::array dropout_forward(const py::array& x, double p, std::uint64_t seed, std::uint64_t step,
                          int layer, const py::object& out) {
  return with_floating("dropout", "x", x, [&]<class T>(T) {
    check_array<T>("dropout", "x", x);
    ops::dropout_shape(shape_of(x), p);
    py::array y = result<T>("dropout", shape_of(x), out);
    const T* from = data<T>(x);
    T* to = writable<T>(y);
    py::gil_scoped_release release;
    ops::dropout(kernels().of<T>(), threads_for(x.size()), p, {seed, step}, layer, 0, from, to,
                 x.size(), 1, x.size());
    return y;
  });
}

/// Loss, and its gradient where `want_gradient`: cross-entropy of labels or an element-wise loss.
template <class T>
py::object loss_of_arrays(const ops::Loss& loss, const py::array& x, const Index* labels,
                          const T* target, const py::object& sample_weight, Index m, Index n,
                          const char* operation, bool want_gradient, const py::object& out) {
  Shape weight_shape;
  const double* weight =
      optional_data<double>(operation, "sample_weight", sample_weight, &weight_shape);
  if (weight != nullptr) functional::check_sample_weight(operation, weight, weight_shape, m);
  if (!want_gradient) {
    double value = 0;
    {
      py::gil_scoped_release release;
      value = functional::loss<T>(loss, data<T>(x), labels, target, weight, nullptr, m, n);
    }
    return py::float_(value);
  }
  py::array dx = result<T>(operation, shape_of(x), out);
  T* to = writable<T>(dx);
  py::gil_scoped_release release;
  functional::loss<T>(loss, data<T>(x), labels, target, weight, to, m, n);
  return std::move(dx);
}

py::object cross_entropy(const py::array& logits, const py::array& labels,
                         const py::object& sample_weight, bool want_gradient,
                         const py::object& out) {
  return with_floating("cross_entropy", "logits", logits, [&]<class T>(T) -> py::object {
    check_array<T>("cross_entropy", "logits", logits);
    check_array<std::int64_t>("cross_entropy", "labels", labels);
    functional::check_cross_entropy(shape_of(logits), shape_of(labels), {});
    const Index m = logits.shape(0), n = logits.shape(1);
    ops::check_labels("cross_entropy", data<Index>(labels), m, n);
    return loss_of_arrays<T>({ops::LossKind::cross_entropy, 1}, logits, data<Index>(labels),
                             nullptr, sample_weight, m, n, "cross_entropy", want_gradient, out);
  });
}

py::object element_loss(const std::string& kind, const py::array& prediction,
                        const py::array& target, const py::object& sample_weight, double delta,
                        bool want_gradient, const py::object& out) {
  const ops::Loss loss = ops::loss_named(kind, delta);
  const char* operation = kind.c_str();
  const char* name = loss.kind == ops::LossKind::binary_cross_entropy ? "logits" : "prediction";
  return with_floating(operation, name, prediction, [&]<class T>(T) -> py::object {
    check_array<T>(operation, name, prediction);
    check_like<T>(operation, name, "target", target);
    functional::check_same_shape(operation, name, shape_of(prediction), "target", shape_of(target));
    check(prediction.ndim() >= 1, operation, ": ", name, " needs at least one axis, found ()");
    const Index m = prediction.shape(0), n = m == 0 ? 1 : prediction.size() / m;
    return loss_of_arrays<T>(loss, prediction, nullptr, data<T>(target), sample_weight, m, n,
                             operation, want_gradient, out);
  });
}

// --- Optimizer steps on plain arrays ------------------------------------------------------------

template <class T>
T* state_data(const char* operation, const char* name, py::array& array, const py::array& like) {
  check_like<T>(operation, "parameter", name, array);
  functional::check_same_shape(operation, "parameter", shape_of(like), name, shape_of(array));
  check(array.writeable(), operation, ": ", name, " is read-only");
  return writable<T>(array);
}

void optimizer_step(const char* operation, const ops::Optimizer& optimizer, py::array parameter,
                    py::array gradient, std::vector<std::pair<const char*, py::array>> states,
                    double learning_rate, Index step) {
  with_floating(operation, "parameter", parameter, [&]<class T>(T) {
    T* w = state_data<T>(operation, "parameter", parameter, parameter);
    check_like<T>(operation, "parameter", "gradient", gradient);
    functional::check_same_shape(operation, "parameter", shape_of(parameter), "gradient",
                                 shape_of(gradient));
    T* moments[2] = {nullptr, nullptr};
    for (std::size_t i = 0; i < static_cast<std::size_t>(optimizer.states()); ++i) {
      moments[i] = state_data<T>(operation, states[i].first, states[i].second, parameter);
    }
    functional::check_step(operation, step);
    kernels().of<T>().update(ops::update_of<T>(optimizer, learning_rate, 1, step), w,
                             data<T>(gradient), moments[0], moments[1], parameter.size());
  });
}

// --- Random numbers -----------------------------------------------------------------------------

void check_count(Index count) {
  check(count >= 0, "random: count must not be negative, found ", count);
}

philox::Purpose purpose_of(int purpose) {
  check(purpose >= 0 && purpose <= 2, "random: purpose must be 0, 1 or 2, found ", purpose);
  return static_cast<philox::Purpose>(purpose);
}

py::array random_words(std::uint64_t seed, int purpose, std::uint32_t layer, std::uint64_t step,
                       Index count) {
  check_count(count);
  py::array_t<std::uint32_t> words(count);
  philox::Stream stream(seed, purpose_of(purpose), layer, step);
  for (Index i = 0; i < count; ++i) words.mutable_at(i) = stream.next();
  return words;
}

py::array random_uniform(std::uint64_t seed, int purpose, std::uint32_t layer, Index count) {
  check_count(count);
  py::array_t<double> values(count);
  philox::Stream stream(seed, purpose_of(purpose), layer, 0);
  double* v = values.mutable_data();
  py::gil_scoped_release release;
  for (Index i = 0; i < count; ++i) {
    const std::uint32_t high = stream.next();
    v[i] = philox::uniform(high, stream.next());
  }
  return values;
}

py::array random_normal(std::uint64_t seed, int purpose, std::uint32_t layer, Index count) {
  check_count(count);
  py::array_t<double> values(count);
  philox::Stream stream(seed, purpose_of(purpose), layer, 0);
  double* v = values.mutable_data();
  py::gil_scoped_release release;
  // Box and Muller, Annals of Mathematical Statistics 29, 1958: one block of words a pair.
  for (Index i = 0; i < count; i += 2) {
    const philox::Normals pair = philox::normals(stream);
    v[i] = pair.first;
    if (i + 1 < count) v[i + 1] = pair.second;
  }
  return values;
}

py::array random_permutation(std::uint64_t seed, std::uint64_t step, Index count) {
  check_count(count);
  py::array_t<Index> order(count);
  Index* rows = order.mutable_data();
  py::gil_scoped_release release;
  for (Index i = 0; i < count; ++i) rows[i] = i;
  philox::shuffle(seed, step, rows, count);
  return order;
}

}  // namespace

void bind_functional(py::module_& m) {
  m.def("activation_forward", &activation_forward, py::arg("kind"), py::arg("x"), py::arg("alpha"),
        py::arg("out"));
  m.def("activation_backward", &activation_backward, py::arg("kind"), py::arg("dy"),
        py::arg("saved"), py::arg("alpha"), py::arg("out"));
  m.def("dense_forward", &dense_forward, py::arg("x"), py::arg("weight"), py::arg("bias"),
        py::arg("out"));
  m.def("dense_backward", &dense_backward, py::arg("dy"), py::arg("x"), py::arg("weight"));
  m.def("softmax", &softmax, py::arg("logits"), py::arg("out"));
  m.def("dropout_forward", &dropout_forward, py::arg("x"), py::arg("p"), py::arg("seed"),
        py::arg("step"), py::arg("layer"), py::arg("out"));
  m.def(
      "cross_entropy_forward",
      [](const py::array& logits, const py::array& labels, const py::object& weight) {
        return cross_entropy(logits, labels, weight, false, py::none());
      },
      py::arg("logits"), py::arg("labels"), py::arg("sample_weight"));
  m.def(
      "cross_entropy_backward",
      [](const py::array& logits, const py::array& labels, const py::object& weight,
         const py::object& out) { return cross_entropy(logits, labels, weight, true, out); },
      py::arg("logits"), py::arg("labels"), py::arg("sample_weight"), py::arg("out"));
  m.def(
      "loss_forward",
      [](const std::string& kind, const py::array& prediction, const py::array& target,
         const py::object& weight, double delta) {
        return element_loss(kind, prediction, target, weight, delta, false, py::none());
      },
      py::arg("kind"), py::arg("prediction"), py::arg("target"), py::arg("sample_weight"),
      py::arg("delta"));
  m.def(
      "loss_backward",
      [](const std::string& kind, const py::array& prediction, const py::array& target,
         const py::object& weight, double delta, const py::object& out) {
        return element_loss(kind, prediction, target, weight, delta, true, out);
      },
      py::arg("kind"), py::arg("prediction"), py::arg("target"), py::arg("sample_weight"),
      py::arg("delta"), py::arg("out"));
  m.def(
      "sgd_step",
      [](const py::array& parameter, const py::array& gradient, const py::array& velocity,
         double learning_rate, double momentum, bool nesterov, double weight_decay) {
        ops::Optimizer o{Rule::sgd, momentum, nesterov, weight_decay};
        optimizer_step("sgd_step", o, parameter, gradient, {{"velocity", velocity}}, learning_rate,
                       1);
      },
      py::arg("parameter"), py::arg("gradient"), py::arg("velocity"), py::arg("learning_rate"),
      py::arg("momentum"), py::arg("nesterov"), py::arg("weight_decay"));
  m.def(
      "adam_step",
      [](const py::array& parameter, const py::array& gradient, const py::array& first,
         const py::array& second, double learning_rate, double beta1, double beta2, double epsilon,
         double weight_decay, bool decoupled, Index step) {
        ops::Optimizer o{
            decoupled ? Rule::adamw : Rule::adam, 0, false, weight_decay, beta1, beta2, epsilon};
        optimizer_step("adam_step", o, parameter, gradient, {{"first", first}, {"second", second}},
                       learning_rate, step);
      },
      py::arg("parameter"), py::arg("gradient"), py::arg("first"), py::arg("second"),
      py::arg("learning_rate"), py::arg("beta1"), py::arg("beta2"), py::arg("epsilon"),
      py::arg("weight_decay"), py::arg("decoupled"), py::arg("step"));

  m.def("random_words", &random_words, py::arg("seed"), py::arg("purpose"), py::arg("layer"),
        py::arg("step"), py::arg("count"));
  m.def("random_uniform", &random_uniform, py::arg("seed"), py::arg("purpose"), py::arg("layer"),
        py::arg("count"));
  m.def("random_normal", &random_normal, py::arg("seed"), py::arg("purpose"), py::arg("layer"),
        py::arg("count"));
  m.def("random_permutation", &random_permutation, py::arg("seed"), py::arg("step"),
        py::arg("count"));
}

}  // namespace dlcore::bindings
