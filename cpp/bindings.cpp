// Python <-> C++: arrays become views, the GIL is released, exceptions become Python's.

#include "curves/bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <set>

#include "check.h"
#include "fleet.h"
#include "functional.h"
#include "kernels/select.h"
#include "network.h"
#include "ops/activation.h"
#include "ops/dropout.h"
#include "ops/gather.h"
#include "parallel.h"
#include "random.h"

namespace py = pybind11;
using namespace dlcore;

namespace {

// --- Arrays -------------------------------------------------------------------------------------

Shape shape_of(const py::array& array) { return {array.shape(), array.shape() + array.ndim()}; }

std::string dtype_name(const py::array& array) { return py::str(array.dtype()); }

template <class T>
bool has_dtype(const py::array& array) {
  return array.dtype().is(py::dtype::of<T>()) || array.dtype().equal(py::dtype::of<T>());
}

/// Refuses an array that is not of T and C-contiguous: functional copies nothing in silence.
template <class T>
void check_array(const char* operation, const char* name, const py::array& array) {
  check_type(has_dtype<T>(array), operation, ": ", name, " must be ",
             std::string(py::str(py::dtype::of<T>())), ", found ", dtype_name(array),
             "; convert it, e.g. ", name, ".astype(numpy.",
             std::string(py::str(py::dtype::of<T>())), ")");
  check_type((array.flags() & py::array::c_style) != 0, operation, ": ", name,
             " must be C-contiguous; pass numpy.ascontiguousarray(", name, ")");
}

template <class T>
const T* data(const py::array& array) {
  return static_cast<const T*>(array.data());
}

/// Calls f(float{}) or f(double{}) by the dtype of the first array of an operation.
template <class F>
auto with_floating(const char* operation, const char* name, const py::array& array, F f) {
  if (has_dtype<float>(array)) return f(float{});
  check_type(has_dtype<double>(array), operation, ": ", name, " must be float32 or float64, found ",
             dtype_name(array), "; convert it, e.g. ", name, ".astype(numpy.float32)");
  return f(double{});
}

/// A second array of an operation, which must have the first one's dtype.
template <class T>
void check_like(const char* operation, const char* first_name, const char* name,
                const py::array& array) {
  check_type(has_dtype<T>(array), operation, ": ", first_name, " is ",
             std::string(py::str(py::dtype::of<T>())), " but ", name, " is ", dtype_name(array),
             "; convert one, e.g. ", name, ".astype(numpy.",
             std::string(py::str(py::dtype::of<T>())), ")");
  check_array<T>(operation, name, array);
}

/// `out` if given and fitting, else a new array.
template <class T>
py::array result(const char* operation, const Shape& shape, const py::object& out) {
  if (out.is_none()) return py::array_t<T>(shape);
  check_type(py::isinstance<py::array>(out), operation, ": out must be a numpy.ndarray");
  auto array = py::reinterpret_borrow<py::array>(out);
  check_array<T>(operation, "out", array);
  check(shape_of(array) == shape, operation, ": out must be ", shape, ", found ", shape_of(array));
  check(array.writeable(), operation, ": out is read-only");
  return array;
}

template <class T>
T* writable(py::array& array) {
  return static_cast<T*>(array.mutable_data());
}

/// An optional array argument, contiguous and of T.
template <class T>
const T* optional_data(const char* operation, const char* name, const py::object& object,
                       Shape* shape) {
  if (object.is_none()) return nullptr;
  check_type(py::isinstance<py::array>(object), operation, ": ", name, " must be a numpy.ndarray");
  const auto array = py::reinterpret_borrow<py::array>(object);
  check_array<T>(operation, name, array);
  *shape = shape_of(array);
  return data<T>(array);
}

/// Rows of examples of any layout; the features' offsets are listed only where they are not even.
RowsView rows_view(const char* operation, const py::array& x, const Graph& graph) {
  RowsView view;
  const std::string dtype = dtype_name(x);
  if (dtype == "float32") {
    view.dtype = DType::float32;
  } else if (dtype == "float64") {
    view.dtype = DType::float64;
  } else if (dtype == "float16") {
    view.dtype = DType::float16;
  } else {
    check_type(dtype == "uint8", operation,
               ": x must be float32, float64, float16 or uint8, found ", dtype);
    view.dtype = DType::uint8;
  }
  Shape expected = graph.input_shape;
  const Shape found = shape_of(x);
  bool fits = found.size() == expected.size() + 1;
  for (std::size_t i = 0; fits && i < expected.size(); ++i) fits = found[i + 1] == expected[i];
  if (!fits) {
    check(found.size() != 2 || expected.size() != 1, operation, ": x has ",
          found.empty() ? 0 : found.back(), " features but the network expects ", expected[0],
          "; x ", found, ", input_shape ", expected);
    check(false, operation, ": x must be (examples, ...) with input_shape ", expected,
          " after the first axis, found ", found);
  }
  view.base = static_cast<const std::byte*>(x.data());
  view.rows = found[0];
  view.row_stride = x.strides(0);
  view.features = 1;
  bool even = true;
  Index stride = item_size(view.dtype);
  for (py::ssize_t axis = x.ndim() - 1; axis >= 1; --axis) {
    even = even && (x.shape(axis) == 1 || x.strides(axis) == stride);
    stride *= x.shape(axis);
    view.features = checked_product(view.features, x.shape(axis), operation);
  }
  if (even) return view;
  view.columns.assign(static_cast<std::size_t>(view.features), 0);
  for (Index j = 0; j < view.features; ++j) {
    Index rest = j;
    for (py::ssize_t axis = x.ndim() - 1; axis >= 1; --axis) {
      view.columns[static_cast<std::size_t>(j)] += rest % x.shape(axis) * x.strides(axis);
      rest /= x.shape(axis);
    }
  }
  return view;
}

// --- Settings -----------------------------------------------------------------------------------

template <class T>
T entry(const py::dict& settings, const char* key, T otherwise) {
  return settings.contains(key) ? settings[key].cast<T>() : otherwise;
}

ops::Loss loss_of(const py::dict& settings) {
  return ops::loss_named(settings["kind"].cast<std::string>(), entry(settings, "delta", 1.0));
}

ops::Optimizer optimizer_of(const py::dict& settings) {
  ops::Optimizer o;
  o.rule = ops::rule_named(settings["kind"].cast<std::string>());
  o.momentum = entry(settings, "momentum", 0.0);
  o.nesterov = entry(settings, "nesterov", false);
  o.weight_decay = entry(settings, "weight_decay", 0.0);
  o.beta1 = entry(settings, "beta1", 0.9);
  o.beta2 = entry(settings, "beta2", 0.999);
  o.epsilon = entry(settings, "epsilon", 1e-8);
  return o;
}

ops::Schedule schedule_of(const py::dict& settings) {
  ops::Schedule s;
  s.kind = ops::schedule_named(settings["kind"].cast<std::string>());
  s.learning_rate = settings["learning_rate"].cast<double>();
  s.epochs = entry(settings, "epochs", 0.0);
  s.factor = entry(settings, "factor", 0.1);
  s.final = entry(settings, "final", 0.0);
  s.warmup_epochs = entry(settings, "warmup_epochs", 0.0);
  return s;
}

std::vector<Node> nodes_of(const py::sequence& descriptions) {
  std::vector<Node> nodes;
  for (const py::handle& item : descriptions) {
    const auto description = item.cast<py::dict>();
    const auto op = description["op"].cast<std::string>();
    Node node;
    node.inputs = description["inputs"].cast<std::vector<int>>();
    if (op == "dense") {
      node.op = OpKind::dense;
      node.name = description["name"].cast<std::string>();
      node.units = description["units"].cast<Index>();
      node.bias = entry(description, "bias", true);
    } else if (op == "activation") {
      node.op = OpKind::activation;
      node.activation = activation_named(description["kind"].cast<std::string>());
      node.alpha = entry(description, "alpha", 0.0);
    } else if (op == "dropout") {
      node.op = OpKind::dropout;
      node.p = description["p"].cast<double>();
    } else if (op == "flatten") {
      node.op = OpKind::flatten;
    } else {
      check(op == "add", "network: \"", op,
            "\" is not one of dense, activation, dropout, flatten, add");
      node.op = OpKind::add;
    }
    nodes.push_back(std::move(node));
  }
  return nodes;
}

py::dict record_dict(const EpochRecord& r) {
  py::dict d;
  d["epoch"] = r.epoch;
  d["loss"] = r.loss;
  d["accuracy"] = r.accuracy;
  d["val_loss"] = r.val_loss;
  d["val_accuracy"] = r.val_accuracy;
  d["learning_rate"] = r.learning_rate;
  d["seconds"] = r.seconds;
  d["examples_per_second"] = r.examples_per_second;
  py::list layers;
  for (const LayerStatistics& layer : r.layers) {
    py::dict l;
    l["name"] = layer.name;
    l["gradient_norm"] = layer.gradient_norm;
    l["weight_norm"] = layer.weight_norm;
    l["update_ratio"] = layer.update_ratio;
    l["dead"] = layer.dead;
    l["saturated"] = layer.saturated;
    layers.append(l);
  }
  d["layers"] = layers;
  return d;
}

const char* name_of(Stop stop) {
  switch (stop) {
    case Stop::completed: return "completed";
    case Stop::early_stopping: return "early_stopping";
    case Stop::callback: return "callback";
    case Stop::diverged: return "diverged";
  }
  return "";
}

py::dict result_dict(const FitResult& fitted) {
  py::list records;
  for (const EpochRecord& record : fitted.epochs) records.append(record_dict(record));
  py::dict answer;
  answer["epochs"] = records;
  answer["stopped"] = name_of(fitted.stop);
  answer["message"] = fitted.message;
  answer["best_epoch"] = fitted.best_epoch;
  return answer;
}

// --- Network ------------------------------------------------------------------------------------

py::array new_array(DType dtype, const Shape& shape) {
  if (dtype == DType::float64) return py::array_t<double>(shape);
  return py::array_t<float>(shape);
}

void check_dtype(const char* operation, const char* name, DType dtype, const py::array& array) {
  if (dtype == DType::float64) {
    check_array<double>(operation, name, array);
  } else {
    check_array<float>(operation, name, array);
  }
}

class PyNetwork {
 public:
  PyNetwork(const py::sequence& nodes, const Shape& input_shape, const std::string& dtype) {
    check(dtype == "float32" || dtype == "float64", "network: dtype must be float32 or float64, ",
          "found ", dtype);
    network_ = make_network(make_graph(nodes_of(nodes), input_shape),
                            dtype == "float64" ? DType::float64 : DType::float32);
  }

  Network& core() { return *network_; }
  const Network& core() const { return *network_; }
  const Graph& graph() const { return network_->graph(); }

  std::string dtype() const { return network_->dtype() == DType::float64 ? "float64" : "float32"; }

  std::size_t index_of(const std::string& name) const {
    const auto& names = network_->parameters();
    std::string known;
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (names[i].name == name) return i;
      known += (known.empty() ? "\"" : ", \"") + names[i].name + "\"";
    }
    check(false, "set_parameters: there is no \"", name, "\"; the network has ",
          known.empty() ? "no parameters" : known);
    return 0;
  }

  py::array get_parameter(const std::string& name) const {
    const std::size_t i = index_of(name);
    py::array value = new_array(network_->dtype(), network_->parameters()[i].shape);
    network_->get(i, value.mutable_data());
    return value;
  }

  void set_parameter(const std::string& name, const py::array& value) {
    const std::size_t i = index_of(name);
    const Shape& shape = network_->parameters()[i].shape;
    check(shape_of(value) == shape, "set_parameters: \"", name, "\" needs ", shape, " but is ",
          shape_of(value));
    check_dtype("set_parameters", name.c_str(), network_->dtype(), value);
    network_->set(i, value.data());
  }

  /// Checks what an operation compares the output with, and the weights.
  Dataset dataset(const char* operation, const py::array& x, const py::array& y,
                  const ops::Loss& loss, const py::object& sample_weight,
                  double input_scale) const {
    Dataset d;
    d.x = rows_view(operation, x, graph());
    d.input_scale = input_scale;
    check(d.x.rows >= 1, operation, ": x holds no examples; x ", shape_of(x));
    const Shape& output = graph().output().shape;
    Shape expected{d.x.rows};
    expected.insert(expected.end(), output.begin(), output.end() - (loss.has_labels() ? 1 : 0));
    const Shape found = shape_of(y);
    check(found == expected, operation, ": y must be ", expected, " for ", d.x.rows,
          " examples and a network output of ", output, ", found ", found);
    if (loss.has_labels()) {
      check_array<std::int64_t>(operation, "y", y);
      d.labels = data<Index>(y);
      ops::check_labels(operation, d.labels, y.size(), output.back());
    } else {
      check_dtype(operation, "y", network_->dtype(), y);
      d.values = y.data();
      check_targets(operation, y);
    }
    Shape weight_shape;
    d.weight = optional_data<double>(operation, "sample_weight", sample_weight, &weight_shape);
    if (d.weight != nullptr) {
      functional::check_sample_weight(operation, d.weight, weight_shape, d.x.rows);
    }
    return d;
  }

  py::array forward(const py::array& x, const std::string& head, double input_scale, Index batch,
                    int threads) {
    const RowsView view = rows_view("predict", x, graph());
    Shape shape = graph().output().shape;
    shape.insert(shape.begin(), view.rows);
    py::array y = new_array(network_->dtype(), shape);
    if (view.rows == 0) return y;
    const Head h =
        head == "softmax" ? Head::softmax : (head == "sigmoid" ? Head::sigmoid : Head::identity);
    check(batch >= 1, "predict: batch_size must be at least 1, found ", batch);
    void* to = y.mutable_data();
    py::gil_scoped_release release;
    network_->forward(view, input_scale, h, batch, threads, to);
    return y;
  }

  std::pair<double, double> evaluate(const py::array& x, const py::array& y, const py::dict& loss,
                                     const py::object& sample_weight, double input_scale,
                                     Index batch, int threads) {
    const ops::Loss l = loss_of(loss);
    const Dataset d = dataset("evaluate", x, y, l, sample_weight, input_scale);
    check(batch >= 1, "evaluate: batch_size must be at least 1, found ", batch);
    py::gil_scoped_release release;
    const ops::LossSums sums = network_->evaluate(d, l, batch, threads);
    return {sums.mean_loss(), sums.mean_correct()};
  }

  std::pair<double, py::dict> loss_and_gradients(const py::array& x, const py::array& y,
                                                 const py::dict& loss,
                                                 const py::object& sample_weight,
                                                 double input_scale, int threads, double clip_norm,
                                                 std::optional<std::uint64_t> dropout_seed) {
    const ops::Loss l = loss_of(loss);
    const Dataset d = dataset("loss_and_gradients", x, y, l, sample_weight, input_scale);
    double value = 0;
    {
      py::gil_scoped_release release;
      value = network_->loss_and_gradients(d, l, threads, clip_norm, dropout_seed);
    }
    py::dict gradients;
    const auto& names = network_->parameters();
    for (std::size_t i = 0; i < names.size(); ++i) {
      py::array gradient = new_array(network_->dtype(), names[i].shape);
      network_->get_gradient(i, gradient.mutable_data());
      gradients[py::str(names[i].name)] = gradient;
    }
    return {value, gradients};
  }

  /// What one fit needs; pointers are into the arrays of `settings` and x, y.
  Member member(const py::array& x, const py::array& y, const py::dict& settings) {
    Member member;
    member.network = network_.get();
    FitOptions& options = member.options;
    options.loss = loss_of(settings["loss"]);
    options.optimizer = optimizer_of(settings["optimizer"]);
    options.schedule = schedule_of(settings["schedule"]);
    options.epochs = settings["epochs"].cast<Index>();
    options.batch_size = settings["batch_size"].cast<Index>();
    options.shuffle = settings["shuffle"].cast<bool>();
    options.seed = settings["seed"].cast<std::uint64_t>();
    options.threads = settings["threads"].cast<int>();
    options.clip_norm = settings["clip_norm"].cast<double>();
    options.statistics = entry(settings, "statistics", false);
    options.bf16 = entry(settings, "bf16", false);
    if (options.bf16) {
      check(network_->dtype() == DType::float32, "fit: precision=\"bf16\" needs a float32 network");
      check_state(bf16_kernels() != nullptr,
                  "fit: precision=\"bf16\" needs a CPU with AVX-512 BF16; use precision=None");
    }
    const auto input_scale = settings["input_scale"].cast<double>();
    check(options.epochs >= 0, "fit: epochs must not be negative, found ", options.epochs);
    check(options.batch_size >= 1, "fit: batch_size must be at least 1, found ",
          options.batch_size);
    check(options.clip_norm >= 0, "fit: clip_norm must be positive, found ", options.clip_norm);
    member.data = dataset("fit", x, y, options.loss, settings["sample_weight"], input_scale);
    Shape rows_shape;
    options.rows = optional_data<Index>("fit", "rows", settings["rows"], &rows_shape);
    if (options.rows != nullptr) {
      check(rows_shape.size() == 1 && rows_shape[0] >= 1,
            "fit: rows must be one-dimensional and not empty, found ", rows_shape);
      options.row_count = rows_shape[0];
      for (Index i = 0; i < options.row_count; ++i) {
        check(options.rows[i] >= 0 && options.rows[i] < member.data.x.rows,
              "fit: rows must lie in 0..", member.data.x.rows - 1, ", found ", options.rows[i],
              " at index ", i);
      }
    }
    if (!settings["validation_x"].is_none()) {
      options.validation =
          dataset("fit: validation_data", settings["validation_x"], settings["validation_y"],
                  options.loss, settings["validation_weight"], input_scale);
    }
    if (!settings["early_stopping"].is_none()) {
      const auto early = settings["early_stopping"].cast<py::dict>();
      options.early_stopping =
          EarlyStopping{early["patience"].cast<Index>(), entry(early, "min_delta", 0.0),
                        entry(early, "restore_best", true)};
    }
    if (!settings["on_epoch"].is_none()) {
      options.on_epoch = [on_epoch = settings["on_epoch"].ptr()](const EpochRecord& record) {
        py::gil_scoped_acquire acquire;
        const py::object answer = py::handle(on_epoch)(record_dict(record));
        // Only False stops; a callback that returns nothing goes on.
        return !answer.is(py::bool_(false));
      };
    }
    return member;
  }

  py::dict fit(const py::array& x, const py::array& y, const py::kwargs& settings) {
    Member task = member(x, y, settings);
    const py::object on_progress = settings["on_progress"];
    task.options.on_progress = [&on_progress](Index epoch, Index done, Index steps) {
      py::gil_scoped_acquire acquire;
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (!on_progress.is_none()) on_progress(epoch, done, steps);
    };
    FitResult fitted;
    {
      py::gil_scoped_release release;
      fitted = network_->fit(task.data, task.options);
    }
    return result_dict(fitted);
  }

  py::dict memory(Index batch, const py::dict& optimizer, bool validation, bool early_stopping,
                  Index examples, bool clip, bool bf16) const {
    check(batch >= 1, "summary: batch_size must be at least 1, found ", batch);
    const Memory m = network_->memory(batch, optimizer_of(optimizer), examples, clip, validation,
                                      early_stopping, bf16);
    py::dict d;
    d["parameters"] = m.parameters;
    d["gradients"] = m.gradients;
    d["optimizer_state"] = m.optimizer_state;
    d["snapshots"] = m.snapshots;
    d["workspace"] = m.workspace;
    d["permutation"] = m.permutation;
    d["total"] =
        m.parameters + m.gradients + m.optimizer_state + m.snapshots + m.workspace + m.permutation;
    return d;
  }

 private:
  void check_targets(const char* operation, const py::array& y) const {
    RowsView view;
    const Shape shape = shape_of(y);
    view.base = static_cast<const std::byte*>(y.data());
    view.dtype = network_->dtype();
    view.rows = shape[0];
    view.features = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) view.features *= shape[i];
    view.row_stride = view.features * item_size(view.dtype);
    ops::Position at{};
    if (ops::find_not_finite(view, nullptr, view.rows, &at)) {
      check(false, operation, ": y holds ", at.value, " at row ", at.row, ", column ", at.column,
            "; remove or replace such values first");
    }
  }

  std::unique_ptr<Network> network_;
};

// --- Fleet --------------------------------------------------------------------------------------

/// Refuses values that are not finite before any member trains, so that an error leaves all of them
/// as they were. Each array is looked through once.
void refuse_not_finite_rows(const std::vector<Member>& members) {
  std::set<const std::byte*> seen;
  for (const Member& member : members) {
    ops::Position at{};
    if (!seen.insert(member.data.x.base).second) continue;
    if (ops::find_not_finite(member.data.x, nullptr, member.data.x.rows, &at)) {
      check(false, "fit_many: x holds ", at.value, " at row ", at.row, ", column ", at.column,
            "; remove or replace such values first");
    }
  }
}

py::list fit_many(const py::list& networks, const py::list& xs, const py::list& ys,
                  const py::list& settings, int threads, const py::object& on_finish,
                  const py::object& on_progress) {
  std::vector<Member> members;
  std::set<const Network*> seen;
  for (std::size_t i = 0; i < networks.size(); ++i) {
    auto& network = networks[i].cast<PyNetwork&>();
    check(seen.insert(&network.core()).second, "fit_many: network ", i,
          " is given twice; a network can train once at a time");
    members.push_back(network.member(xs[i].cast<py::array>(), ys[i].cast<py::array>(),
                                     settings[i].cast<py::dict>()));
  }
  std::vector<FitResult> results;
  {
    py::gil_scoped_release release;
    refuse_not_finite_rows(members);
    results = train_fleet(members, threads, [&](const FleetProgress& progress) {
      py::gil_scoped_acquire acquire;
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (!on_finish.is_none()) {
        for (const std::size_t i : progress.latest) on_finish(i);
      }
      if (!on_progress.is_none()) on_progress(progress.finished, members.size());
    });
  }
  py::list answers;
  for (const FitResult& result : results) answers.append(result_dict(result));
  return answers;
}

// --- Functional ---------------------------------------------------------------------------------

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
    ops::activation_forward(kernels().of<T>(), default_threads(), activation, static_cast<T>(alpha),
                            from, to, x.size());
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
    ops::activation_backward(kernels().of<T>(), default_threads(), activation,
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
    ops::dropout(kernels().of<T>(), default_threads(), p, {seed, step}, layer, 0, from, to,
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
    check(step >= 1, operation, ": step counts from 1, found ", step);
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

// By this symbol threadpoolctl knows the extension (python/dlcore/_threadpool.py).
extern "C" __attribute__((visibility("default"))) int dlcore_default_threads() {
  return default_threads();
}

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled core of dlcore.";
  m.attr("__version__") = DLCORE_VERSION;

  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const TypeError& e) {
      py::set_error(PyExc_TypeError, e.what());
    }
  });

  m.def("available_kernels", [] {
    std::vector<std::string> names;
    for (const Kernels* set : available_kernels()) names.emplace_back(set->name);
    return names;
  });
  m.def("kernels", [] { return kernels().name; });
  m.def("has_bf16", [] { return bf16_kernels() != nullptr; });
  m.def("set_kernels", &set_kernels, py::arg("name"));
  m.def("default_threads", &default_threads);
  m.def("set_threads", &set_threads, py::arg("threads"));
  m.def("pool_threads", &pool_threads);

  py::class_<PyNetwork>(m, "Network")
      .def(py::init<const py::sequence&, const Shape&, const std::string&>(), py::arg("nodes"),
           py::arg("input_shape"), py::arg("dtype"))
      .def_property_readonly("dtype", &PyNetwork::dtype)
      .def_property_readonly(
          "output_shape",
          [](const PyNetwork& n) { return py::tuple(py::cast(n.graph().output().shape)); })
      .def_property_readonly("node_shapes",
                             [](const PyNetwork& n) {
                               py::list shapes;
                               for (const Node& node : n.graph().nodes) {
                                 shapes.append(py::tuple(py::cast(node.shape)));
                               }
                               return shapes;
                             })
      .def_property_readonly("parameter_names",
                             [](const PyNetwork& n) {
                               std::vector<std::string> names;
                               for (const auto& p : n.core().parameters()) names.push_back(p.name);
                               return names;
                             })
      .def_property_readonly("parameter_count",
                             [](const PyNetwork& n) { return n.graph().parameter_count(); })
      .def_property_readonly("flops_per_example",
                             [](const PyNetwork& n) { return n.graph().flops_per_example(); })
      .def_property(
          "step", [](const PyNetwork& n) { return n.core().step(); },
          [](PyNetwork& n, Index step) { n.core().set_step(step); })
      .def_property_readonly("training", [](const PyNetwork& n) { return n.core().training(); })
      .def("parameter_shape",
           [](const PyNetwork& n, const std::string& name) {
             return py::tuple(py::cast(n.core().parameters()[n.index_of(name)].shape));
           })
      .def("get_parameter", &PyNetwork::get_parameter, py::arg("name"))
      .def("set_parameter", &PyNetwork::set_parameter, py::arg("name"), py::arg("value"))
      .def("memory", &PyNetwork::memory, py::arg("batch_size"), py::arg("optimizer"),
           py::arg("validation"), py::arg("early_stopping"), py::arg("examples") = 0,
           py::arg("clip") = false, py::arg("bf16") = false)
      .def("forward", &PyNetwork::forward, py::arg("x"), py::arg("head"), py::arg("input_scale"),
           py::arg("batch_size"), py::arg("threads"))
      .def("evaluate", &PyNetwork::evaluate, py::arg("x"), py::arg("y"), py::arg("loss"),
           py::arg("sample_weight"), py::arg("input_scale"), py::arg("batch_size"),
           py::arg("threads"))
      .def("loss_and_gradients", &PyNetwork::loss_and_gradients, py::arg("x"), py::arg("y"),
           py::arg("loss"), py::arg("sample_weight"), py::arg("input_scale"), py::arg("threads"),
           py::arg("clip_norm"), py::arg("dropout_seed"))
      .def("fit", &PyNetwork::fit);

  m.def("fit_many", &fit_many, py::arg("networks"), py::arg("xs"), py::arg("ys"),
        py::arg("settings"), py::arg("threads"), py::arg("on_finish"), py::arg("on_progress"));

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

  bind_curves(m);
}
