// The extension dlcore._cuda: networks that live on a GPU, by the bindings that _core uses too.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "arrays.h"
#include "bindings/bindings.h"
#include "check.h"
#include "device_fleet.h"
#include "device_network.h"
#include "fleet.h"
#include "lt.h"
#include "runtime.h"

namespace py = pybind11;
using namespace dlcore;

namespace {

std::unique_ptr<Network> make(Graph graph, DType dtype, int device) {
  check(dtype == DType::float32, "network: device \"cuda\" needs dtype float32, found float64");
  return std::make_unique<cuda::DeviceNetwork>(std::move(graph), device);
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "The GPU engines of dlcore.";
  m.attr("__version__") = DLCORE_VERSION;
#ifdef DLCORE_EMULATE
  m.attr("emulated") = true;
  cuda::bind_emulation(m);
#else
  m.attr("emulated") = false;
#endif

  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const TypeError& e) {
      py::set_error(PyExc_TypeError, e.what());
    }
  });

  m.def("probe", [] {
    const cuda::Status status = cuda::probe();
    return std::make_pair(status.usable, status.reason);
  });
  m.def("why_not", &cuda::why_not, py::arg("device"));
  m.def(
      "open_cublaslt",
      [](const std::string& wheel) {
        const cuda::lt::Status& status = cuda::lt::open(wheel);
        return std::make_tuple(status.usable, status.reason, status.own);
      },
      py::arg("wheel"));

  cuda::bind_arrays(m);
  cuda::bind_device_functional(m);
  bindings::bind_network(m, {.make = make,
                             .rows = cuda::rows_of,
                             .result = cuda::result_for,
                             .train = cuda::train_device_fleet,
                             .check_options = [](const FitOptions&, DType) {}});
}
