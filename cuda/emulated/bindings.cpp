// What tests ask of the emulation: counts of what was done, and a stream as another library has it.

#include <pybind11/pybind11.h>

#include <algorithm>

#include "arrays.h"
#include "emulated/cuda_runtime_api.h"
#include "runtime.h"

namespace py = pybind11;

namespace dlcore::cuda {
namespace {

/// A stream with work that nobody has waited for yet.
class ForeignStream {
 public:
  void fill(const DeviceArray& array, float value) {
    emulated::enqueue(stream_,
                      [array, value] { std::fill_n(array.as<float>(), array.size(), value); });
  }
  std::uintptr_t number() const {
    return reinterpret_cast<std::uintptr_t>(static_cast<cudaStream_t>(stream_));
  }

 private:
  Stream stream_;
};

}  // namespace

void bind_emulation(py::module_& m) {
  m.def("emulated_counts", [] {
    const emulated::Counts& counts = emulated::counts();
    return py::dict(py::arg("used") = counts.used, py::arg("allocations") = counts.allocations,
                    py::arg("choices") = counts.choices, py::arg("products") = counts.products,
                    py::arg("started") = counts.started);
  });
  m.def("emulated_current_device", &current_device);
  py::class_<ForeignStream>(m, "EmulatedStream", py::module_local())
      .def(py::init<>())
      .def("fill", &ForeignStream::fill, py::arg("array"), py::arg("value"))
      .def_property_readonly("number", &ForeignStream::number);
}

}  // namespace dlcore::cuda
