// Networks and fleets: settings from dicts, datasets from arrays, callbacks under the GIL.

#include "network.h"

#include <pybind11/stl.h>

#include <set>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "fleet.h"
#include "functional.h"
#include "kernels/select.h"
#include "ops/dropout.h"
#include "ops/gather.h"
#include "parallel.h"

namespace dlcore::bindings {
namespace {

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

py::array new_array(DType dtype, const Shape& shape) {
  if (dtype == DType::float64) return py::array_t<double>(shape);
  return py::array_t<float>(shape);
}

EpochRecord record_of(const py::dict& d) {
  EpochRecord r;
  r.epoch = d["epoch"].cast<Index>();
  r.loss = d["loss"].cast<double>();
  r.accuracy = d["accuracy"].cast<double>();
  r.val_loss = d["val_loss"].cast<double>();
  r.val_accuracy = d["val_accuracy"].cast<double>();
  r.learning_rate = d["learning_rate"].cast<double>();
  r.seconds = d["seconds"].cast<double>();
  r.examples_per_second = d["examples_per_second"].cast<double>();
  for (const py::handle& item : d["layers"].cast<py::sequence>()) {
    const auto l = item.cast<py::dict>();
    r.layers.push_back({l["name"].cast<std::string>(), l["gradient_norm"].cast<double>(),
                        l["weight_norm"].cast<double>(), l["update_ratio"].cast<double>(),
                        l["dead"].cast<double>(), l["saturated"].cast<double>()});
  }
  return r;
}

py::list records_list(const std::vector<EpochRecord>& records) {
  py::list list;
  for (const EpochRecord& record : records) list.append(record_dict(record));
  return list;
}

/// The checkpoint as a dict of numbers and copied arrays.
py::dict checkpoint_dict(const Checkpoint& c, DType dtype) {
  py::dict d;
  d["epoch"] = c.epoch;
  d["step"] = c.step;
  d["optimizer_step"] = c.optimizer_step;
  d["best"] = c.best;
  d["waited"] = c.waited;
  d["best_epoch"] = c.best_epoch;
  d["epochs"] = records_list(c.epochs);
  const auto add = [&](const char* name, const Numbers& numbers) {
    py::array copy = new_array(dtype, {numbers.size});
    std::memcpy(copy.mutable_data(), numbers.data == nullptr ? copy.data() : numbers.data,
                static_cast<std::size_t>(numbers.size * item_size(dtype)));
    d[name] = copy;
  };
  add("parameters", c.parameters);
  add("moment1", c.moment1);
  add("moment2", c.moment2);
  add("best_parameters", c.best_parameters);
  return d;
}

/// The inverse; its numbers are those of the dict's arrays, which have to outlive it.
Checkpoint checkpoint_of(const py::dict& d, DType dtype) {
  Checkpoint c;
  c.epoch = d["epoch"].cast<Index>();
  c.step = d["step"].cast<Index>();
  c.optimizer_step = d["optimizer_step"].cast<Index>();
  c.best = d["best"].cast<double>();
  c.waited = d["waited"].cast<Index>();
  c.best_epoch = d["best_epoch"].cast<Index>();
  for (const py::handle& item : d["epochs"].cast<py::sequence>()) {
    c.epochs.push_back(record_of(item.cast<py::dict>()));
  }
  const auto take = [&](const char* name) {
    const auto array = d[name].cast<py::array>();
    const Shape shape = shape_of(array);
    const bool same = dtype == DType::float32 ? has_dtype<float>(array) : has_dtype<double>(array);
    check(same && shape.size() == 1 && (array.flags() & py::array::c_style) != 0,
          "fit: the checkpoint's ", name, " are not numbers of the network's dtype");
    return Numbers{array.data(), shape[0]};
  };
  c.parameters = take("parameters");
  c.moment1 = take("moment1");
  c.moment2 = take("moment2");
  c.best_parameters = take("best_parameters");
  return c;
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
  py::dict answer;
  answer["epochs"] = records_list(fitted.epochs);
  answer["stopped"] = name_of(fitted.stop);
  answer["message"] = fitted.message;
  answer["best_epoch"] = fitted.best_epoch;
  answer["engine"] = fitted.engine;
  answer["engine_reason"] = fitted.engine_reason;
  return answer;
}

// --- Network ------------------------------------------------------------------------------------

void check_dtype(const char* operation, const char* name, DType dtype, const py::array& array) {
  if (dtype == DType::float64) {
    check_array<double>(operation, name, array);
  } else {
    check_array<float>(operation, name, array);
  }
}

class PyNetwork {
 public:
  PyNetwork(const Backend& backend, const py::sequence& nodes, const Shape& input_shape,
            const std::string& dtype, int device)
      : backend_(&backend) {
    check(dtype == "float32" || dtype == "float64", "network: dtype must be float32 or float64, ",
          "found ", dtype);
    network_ = backend.make(make_graph(nodes_of(nodes), input_shape),
                            dtype == "float64" ? DType::float64 : DType::float32, device);
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
  Dataset dataset(const char* operation, const py::object& x, const py::array& y,
                  const ops::Loss& loss, const py::object& sample_weight,
                  double input_scale) const {
    Dataset d;
    d.x = backend_->rows(operation, x, graph());
    d.input_scale = input_scale;
    check(d.x.rows >= 1, operation, ": x holds no examples");
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

  py::object forward(const py::object& x, const std::string& head, double input_scale, Index batch,
                     int threads) {
    const RowsView view = backend_->rows("predict", x, graph());
    Shape shape = graph().output().shape;
    shape.insert(shape.begin(), view.rows);
    const auto [y, to] = backend_->result(network_->dtype(), shape, view);
    if (view.rows == 0) return y;
    const Head h =
        head == "softmax" ? Head::softmax : (head == "sigmoid" ? Head::sigmoid : Head::identity);
    check(batch >= 1, "predict: batch_size must be at least 1, found ", batch);
    {
      py::gil_scoped_release release;
      const Call call(threads);
      network_->forward(view, input_scale, h, batch, call.threads(), to);
    }
    return y;
  }

  std::pair<double, double> evaluate(const py::object& x, const py::array& y, const py::dict& loss,
                                     const py::object& sample_weight, double input_scale,
                                     Index batch, int threads) {
    const ops::Loss l = loss_of(loss);
    const Dataset d = dataset("evaluate", x, y, l, sample_weight, input_scale);
    check(batch >= 1, "evaluate: batch_size must be at least 1, found ", batch);
    py::gil_scoped_release release;
    const Call call(threads);
    const ops::LossSums sums = network_->evaluate(d, l, batch, call.threads());
    return {sums.mean_loss(), sums.mean_correct()};
  }

  std::pair<double, py::dict> loss_and_gradients(const py::object& x, const py::array& y,
                                                 const py::dict& loss,
                                                 const py::object& sample_weight,
                                                 double input_scale, int threads, double clip_norm,
                                                 std::optional<std::uint64_t> dropout_seed) {
    const ops::Loss l = loss_of(loss);
    const Dataset d = dataset("loss_and_gradients", x, y, l, sample_weight, input_scale);
    double value = 0;
    {
      py::gil_scoped_release release;
      const Call call(threads);
      value = network_->loss_and_gradients(d, l, call.threads(), clip_norm, dropout_seed);
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
  Member member(const py::object& x, const py::array& y, const py::dict& settings) {
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
    backend_->check_options(options, network_->dtype());
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
      options.validation = dataset("fit: validation_data", py::object(settings["validation_x"]),
                                   settings["validation_y"], options.loss,
                                   settings["validation_weight"], input_scale);
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
    if (settings.contains("on_checkpoint")) {
      options.on_checkpoint = [on_checkpoint = settings["on_checkpoint"].ptr(),
                               dtype = network_->dtype()](const Checkpoint& state) {
        py::gil_scoped_acquire acquire;
        const py::handle write = on_checkpoint;
        write(checkpoint_dict(state, dtype));
      };
      options.checkpoint_seconds = settings["checkpoint_seconds"].cast<double>();
    }
    if (settings.contains("resume")) {
      options.resume = checkpoint_of(settings["resume"].cast<py::dict>(), network_->dtype());
    }
    return member;
  }

  py::dict fit(const py::object& x, const py::array& y, const py::kwargs& settings) {
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
      const Call call(task.options.threads);
      task.options.threads = call.threads();
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

  const Backend* backend_;
  std::unique_ptr<Network> network_;
};

// --- Fleet --------------------------------------------------------------------------------------

/// Refuses values that are not finite before any member trains, so that an error leaves all of them
/// as they were. Each array is looked through once.
void refuse_not_finite_rows(const std::vector<Member>& members) {
  std::set<const std::byte*> seen;
  const auto look_through = [&](const RowsView& x, const char* what) {
    ops::Position at{};
    // What lies on a device is looked at there, in the first pass over it.
    if (x.on_device || !seen.insert(x.base).second) return;
    if (ops::find_not_finite(x, nullptr, x.rows, &at)) {
      check(false, "fit_many: ", what, "x holds ", at.value, " at row ", at.row, ", column ",
            at.column, "; remove or replace such values first");
    }
  };
  for (const Member& member : members) {
    look_through(member.data.x, "");
    if (member.options.validation) look_through(member.options.validation->x, "validation_data: ");
  }
}

py::list fit_many(const Backend& backend, const py::list& networks, const py::list& xs,
                  const py::list& ys, const py::list& settings, int threads,
                  const py::object& on_finish, const py::object& on_progress) {
  std::vector<Member> members;
  std::set<const Network*> seen;
  for (std::size_t i = 0; i < networks.size(); ++i) {
    auto& network = networks[i].cast<PyNetwork&>();
    check(seen.insert(&network.core()).second, "fit_many: network ", i,
          " is given twice; a network can train once at a time");
    name_member(i, [&] {
      members.push_back(
          network.member(py::object(xs[i]), ys[i].cast<py::array>(), settings[i].cast<py::dict>()));
    });
  }
  std::vector<FitResult> results;
  {
    py::gil_scoped_release release;
    refuse_not_finite_rows(members);
    Call call(threads, static_cast<Index>(members.size()));
    results = backend.train(members, call, [&](const FleetProgress& progress) {
      py::gil_scoped_acquire acquire;
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (!on_finish.is_none()) {
        for (const std::size_t i : progress.latest) {
          on_finish(i, result_dict(progress.results[i]));
        }
      }
      if (!on_progress.is_none()) on_progress(progress.finished, members.size());
    });
  }
  py::list answers;
  for (const FitResult& result : results) answers.append(result_dict(result));
  return answers;
}

}  // namespace

RowsView numpy_rows(const char* operation, const py::object& x, const Graph& graph) {
  check_type(py::isinstance<py::array>(x), operation, ": x must be a numpy.ndarray");
  return rows_view(operation, py::reinterpret_borrow<py::array>(x), graph);
}

std::pair<py::object, void*> numpy_result(DType dtype, const Shape& shape, const RowsView&) {
  py::array y = new_array(dtype, shape);
  void* const to = y.mutable_data();
  return {std::move(y), to};
}

void bind_network(py::module_& m, const Backend& given) {
  // Kept as long as the module, which is never unloaded.
  static const Backend backend = given;
  // Local to the module: _core and _cuda each have this class, made of the same source.
  py::class_<PyNetwork>(m, "Network", py::module_local())
      .def(py::init([](const py::sequence& nodes, const Shape& input_shape,
                       const std::string& dtype, int device) {
             return std::make_unique<PyNetwork>(backend, nodes, input_shape, dtype, device);
           }),
           py::arg("nodes"), py::arg("input_shape"), py::arg("dtype"), py::arg("device") = 0)
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
      .def(
          "set_precision",
          [](PyNetwork& n, const std::string& name) { n.core().set_precision(name); },
          py::arg("name"))
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

  m.def(
      "fit_many",
      [](const py::list& networks, const py::list& xs, const py::list& ys, const py::list& settings,
         int threads, const py::object& on_finish, const py::object& on_progress) {
        return fit_many(backend, networks, xs, ys, settings, threads, on_finish, on_progress);
      },
      py::arg("networks"), py::arg("xs"), py::arg("ys"), py::arg("settings"), py::arg("threads"),
      py::arg("on_finish"), py::arg("on_progress"));
}

}  // namespace dlcore::bindings
