// The extension dlcore._cuda: networks that live on a GPU, by the bindings that _core uses too.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "check.h"
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

/// One after the other on the GPU, as fit would alone.
std::vector<FitResult> train(std::vector<Member>& members, int,
                             const std::function<void(const FleetProgress&)>& on_progress) {
  std::vector<FitResult> results(members.size());
  Index finished = 0;
  for (std::size_t i = 0; i < members.size(); ++i) {
    Member& member = members[i];
    const auto own = member.options.on_progress;
    member.options.on_progress = [&](Index epoch, Index done, Index steps) {
      if (own) own(epoch, done, steps);
      if (on_progress) on_progress({finished, {}, results});
    };
    name_member(i, [&] { results[i] = member.network->fit(member.data, member.options); });
    ++finished;
    if (on_progress) on_progress({finished, {i}, results});
  }
  return results;
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "The GPU engines of dlcore.";
  m.attr("__version__") = DLCORE_VERSION;
#ifdef DLCORE_EMULATE
  m.attr("emulated") = true;
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
  m.def("device_count", &cuda::device_count);
  m.def(
      "open_cublaslt",
      [](const std::string& wheel) {
        const cuda::lt::Status& status = cuda::lt::open(wheel);
        return std::make_tuple(status.usable, status.reason, status.own);
      },
      py::arg("wheel"));

  bindings::bind_network(m, {.make = make,
                             .rows = bindings::numpy_rows,
                             .train = train,
                             .check_options = [](const FitOptions&, DType) {}});
}
