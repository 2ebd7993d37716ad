// The extension dlcore._core. Python is known in this folder and in curves/bindings.cpp only.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "check.h"
#include "cpus.h"
#include "curves/bindings.h"
#include "kernels/select.h"
#include "parallel.h"

namespace py = pybind11;
using namespace dlcore;

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
  m.def("cgroup_cpus", &cgroup_cpus, py::arg("root"));
  m.def("pool_threads", &pool_threads);

  bindings::bind_network(
      m,
      {.make = [](Graph graph, DType dtype, int) { return make_network(std::move(graph), dtype); },
       .rows = bindings::numpy_rows,
       .result = bindings::numpy_result,
       .train = train_fleet,
       .check_options =
           [](const FitOptions& options, DType dtype) {
             if (!options.bf16) return;
             check(dtype == DType::float32, "fit: precision=\"bf16\" needs a float32 network");
             check_state(bf16_kernels() != nullptr,
                         "fit: precision=\"bf16\" needs a CPU with AVX-512 BF16; use "
                         "precision=None");
           }});
  bindings::bind_functional(m);
  bind_curves(m);
}
