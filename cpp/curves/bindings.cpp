#include "curves/bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "curves/fan_out.h"
#include "curves/forms.h"
#include "curves/robust.h"
#include "curves/surface.h"
#include "parallel.h"

namespace py = pybind11;

namespace dlcore::curves {
namespace {

using Array = py::array_t<double, py::array::c_style>;

/// `array` as C-contiguous float64 with `dimensions` axes; refused, not copied, where it is not.
const double* doubles(const py::array& array, const char* name, Index dimensions) {
  if (!py::isinstance<Array>(array)) {
    throw py::type_error(std::string("curves: ") + name +
                         " needs C-contiguous float64; use numpy.ascontiguousarray(" + name +
                         ", float)");
  }
  if (array.ndim() != dimensions) {
    throw py::value_error(std::string("curves: ") + name + " needs " + std::to_string(dimensions) +
                          " axes but has " + std::to_string(array.ndim()));
  }
  return static_cast<const double*>(array.data());
}

void need(Index got, Index wanted, const char* what) {
  if (got != wanted) {
    throw py::value_error(std::string("curves: ") + what + " needs length " +
                          std::to_string(wanted) + " but has " + std::to_string(got));
  }
}

Loss loss_named(const std::string& name) {
  if (name == "huber") return Loss::huber;
  if (name == "lad") return Loss::absolute;
  if (name == "l2") return Loss::squares;
  throw py::value_error("curves: loss must be huber, lad or l2, not " + name);
}

Surface surface_named(const std::string& name) {
  if (name == "chinchilla") return Surface::chinchilla;
  if (name == "rosenfeld") return Surface::rosenfeld;
  throw py::value_error("curves: form must be chinchilla or rosenfeld, not " + name);
}

/// Workers for `threads`, or, where that is 0, as many as this process may use.
int workers_for(int threads) { return threads > 0 ? threads : default_threads(); }

/// fan_out with the GIL released, taken only to let Ctrl-C through.
void run(Index count, int threads, const std::function<void(int, Index)>& task) {
  const py::gil_scoped_release release;
  const bool done = fan_out(count, threads, task, [] {
    const py::gil_scoped_acquire acquire;
    return PyErr_CheckSignals() == 0;
  });
  if (!done) {
    const py::gil_scoped_acquire acquire;
    throw py::error_already_set();
  }
}

/// Descends from every start for every row of weights. `search`: steps over the exponents alone
/// before that, 0 to solve the coefficients only; below 0 the starts lie next to their minima
/// already.
py::tuple fit_surface(const std::string& form_name, bool in_logs, const std::string& loss_name,
                      double delta, const py::array& log_parameters, const py::array& log_examples,
                      const py::array& loss_values, const py::array& weights,
                      const py::array& starts, int search, int max_iterations, int threads) {
  const Surface form = surface_named(form_name);
  const Loss loss = loss_named(loss_name);
  const double* x = doubles(log_parameters, "log_parameters", 1);
  const double* y = doubles(log_examples, "log_examples", 1);
  const double* z = doubles(loss_values, "loss", 1);
  const double* w = doubles(weights, "weights", 2);
  const double* theta0 = doubles(starts, "starts", 2);
  const Index n = log_parameters.size(), p = form == Surface::chinchilla ? 5 : 6;
  need(log_examples.size(), n, "log_examples");
  need(loss_values.size(), n, "loss");
  need(weights.shape(1), n, "a row of weights");
  need(starts.shape(1), p, "a start");
  const Index rows = weights.shape(0), count = starts.shape(0);
  threads = workers_for(threads);
  py::array_t<double> theta({rows, count, p}), objective({rows, count});
  py::array_t<std::int32_t> iterations({rows, count});
  py::array_t<bool> converged({rows, count});
  double* theta_out = theta.mutable_data();
  double* objective_out = objective.mutable_data();
  std::int32_t* iterations_out = iterations.mutable_data();
  bool* converged_out = converged.mutable_data();
  struct Worker {
    Minimizer minimizer{Loss::squares, 0.0};
    std::vector<double> x, y, z, w;
  };
  std::vector<Worker> workers(threads);
  for (Worker& worker : workers) worker.minimizer = Minimizer(loss, delta);
  // A task is a few starts of one row of weights, without the observations that it leaves out.
  const Index chunk = std::min<Index>(count, 16), chunks = (count + chunk - 1) / chunk;
  run(rows * chunks, threads, [&](int number, Index task) {
    Worker& worker = workers[number];
    const Index row = task / chunks, first = task % chunks * chunk;
    for (auto* v : {&worker.x, &worker.y, &worker.z, &worker.w}) v->clear();
    for (Index i = 0; i < n; ++i) {
      if (w[row * n + i] == 0.0) continue;
      worker.x.push_back(x[i]);
      worker.y.push_back(y[i]);
      worker.z.push_back(z[i]);
      worker.w.push_back(w[row * n + i]);
    }
    SurfaceModel model(form, in_logs, static_cast<Index>(worker.x.size()), worker.x.data(),
                       worker.y.data(), worker.z.data());
    for (Index s = first; s < std::min(first + chunk, count); ++s) {
      const Index out = row * count + s;
      std::copy(theta0 + s * p, theta0 + (s + 1) * p, theta_out + out * p);
      model.enter(theta_out + out * p);
      if (search >= 0) model.approach(worker.w.data(), search, theta_out + out * p);
      const Descent descent = worker.minimizer.minimize(model, worker.w.data(), search >= 0, 1e-13,
                                                        max_iterations, theta_out + out * p);
      model.leave(theta_out + out * p);
      objective_out[out] = descent.objective;
      iterations_out[out] = descent.iterations;
      converged_out[out] = descent.converged;
    }
  });
  return py::make_tuple(theta, objective, iterations, converged);
}

const Form& form_named(const std::string& name) {
  const Form* form = find_form(name);
  if (form == nullptr) throw py::value_error("curves: no form is named " + name);
  return *form;
}

py::tuple fit_curves(const std::vector<std::string>& names, const std::string& loss_name,
                     double delta, const py::array& offsets, const py::array& log_x,
                     const py::array& log_y, const py::array& scale, const py::array& weight,
                     int starts, const py::array& warm, int max_iterations, int threads) {
  const Loss loss = loss_named(loss_name);
  std::vector<const Form*> wanted;
  for (const std::string& name : names) wanted.push_back(&form_named(name));
  const double* x = doubles(log_x, "log_x", 1);
  const double* y = doubles(log_y, "log_y", 1);
  const double* k = doubles(scale, "scale", 1);
  const double* w = doubles(weight, "weight", 1);
  const double* start = doubles(warm, "warm", 3);
  const Index total = log_x.size(), rows = static_cast<Index>(wanted.size());
  need(log_y.size(), total, "log_y");
  need(scale.size(), total, "scale");
  need(weight.size(), total, "weight");
  if (!py::isinstance<py::array_t<std::int64_t, py::array::c_style>>(offsets) ||
      offsets.ndim() != 1 || offsets.size() < 1) {
    throw py::type_error("curves: offsets needs one axis of int64");
  }
  const auto* offset = static_cast<const std::int64_t*>(offsets.data());
  const Index problems = offsets.size() - 1;
  if (offset[0] != 0 || offset[problems] != total) {
    throw py::value_error("curves: offsets must run from 0 to the number of points");
  }
  for (Index i = 0; i < problems; ++i) {
    if (offset[i + 1] <= offset[i]) throw py::value_error("curves: a problem has no points");
  }
  threads = workers_for(threads);
  const bool warmed = warm.shape(0) > 0;
  if (warmed) {
    need(warm.shape(0), rows, "warm");
    need(warm.shape(1), problems, "a row of warm");
    need(warm.shape(2), kMaxParameters, "a start");
  } else if (starts < 1) {
    throw py::value_error("curves: starts must be at least 1 without warm starts");
  }
  py::array_t<double> theta({rows, problems, kMaxParameters}), objective({rows, problems});
  py::array_t<std::int32_t> iterations({rows, problems});
  py::array_t<bool> converged({rows, problems});
  double* theta_out = theta.mutable_data();
  double* objective_out = objective.mutable_data();
  std::int32_t* iterations_out = iterations.mutable_data();
  bool* converged_out = converged.mutable_data();
  std::fill(theta_out, theta_out + theta.size(), 0.0);
  std::vector<Minimizer> minimizers(threads, Minimizer(loss, delta));
  run(rows * problems, threads, [&](int worker, Index task) {
    // The slowest forms come last in the list; threads that start with them even out better.
    const Index row = rows - 1 - task / problems, problem = task % problems;
    const Index first = offset[problem], out = row * problems + problem;
    const Descent best = fit_curve(*wanted[row], minimizers[worker], offset[problem + 1] - first,
                                   x + first, y + first, k + first, w + first, starts,
                                   warmed ? start + out * kMaxParameters : nullptr, max_iterations,
                                   theta_out + out * kMaxParameters);
    objective_out[out] = best.objective;
    iterations_out[out] = best.iterations;
    converged_out[out] = best.converged;
  });
  return py::make_tuple(theta, objective, iterations, converged);
}

py::array_t<double> curve_values(const std::string& name, const py::array& parameters,
                                 const py::array& log_x) {
  const Form& form = form_named(name);
  const double* theta = doubles(parameters, "parameters", 2);
  const double* x = doubles(log_x, "log_x", 1);
  const Index rows = parameters.shape(0), stride = parameters.shape(1), n = log_x.size();
  if (stride < form.parameters()) throw py::value_error("curves: too few parameters");
  py::array_t<double> values({rows, n});
  double* out = values.mutable_data();
  const py::gil_scoped_release release;
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < n; ++j) out[i * n + j] = form.log_value(theta + i * stride, x[j]);
  }
  return values;
}

py::tuple curve_derivatives(const std::string& name, const py::array& parameters,
                            const py::array& log_x) {
  const Form& form = form_named(name);
  const double* theta = doubles(parameters, "parameters", 1);
  const double* x = doubles(log_x, "log_x", 1);
  const Index p = form.parameters(), n = log_x.size(), pairs = p * (p + 1) / 2;
  if (parameters.size() < p) throw py::value_error("curves: too few parameters");
  py::array_t<double> first({n, p}), second({n, pairs});
  double value = 0.0;
  for (Index i = 0; i < n; ++i) {
    form.derivatives(theta, x[i], &value, first.mutable_data(i, 0), second.mutable_data(i, 0));
  }
  return py::make_tuple(first, second);
}

py::dict form_sizes() {
  py::dict sizes;
  for (const Form* form : forms()) sizes[form->name()] = form->parameters();
  return sizes;
}

}  // namespace
}  // namespace dlcore::curves

void bind_curves(py::module_& module) {
  using namespace dlcore::curves;
  py::module_ curves =
      module.def_submodule("curves", "Curve forms, surfaces and their robust fits.");
  curves.def("fit_surface", &fit_surface, py::arg("form"), py::arg("in_logs"), py::arg("loss"),
             py::arg("delta"), py::arg("log_parameters"), py::arg("log_examples"),
             py::arg("loss_values"), py::arg("weights"), py::arg("starts"), py::arg("search"),
             py::arg("max_iterations"), py::arg("threads"));
  curves.def("fit_curves", &fit_curves, py::arg("forms"), py::arg("loss"), py::arg("delta"),
             py::arg("offsets"), py::arg("log_x"), py::arg("log_y"), py::arg("scale"),
             py::arg("weight"), py::arg("starts"), py::arg("warm"), py::arg("max_iterations"),
             py::arg("threads"));
  curves.def("curve_values", &curve_values, py::arg("form"), py::arg("parameters"),
             py::arg("log_x"));
  curves.def("curve_derivatives", &curve_derivatives, py::arg("form"), py::arg("parameters"),
             py::arg("log_x"));
  curves.def("form_sizes", &form_sizes);
}
