#pragma once

#include <pybind11/pybind11.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "fleet.h"
#include "network.h"

/// The parts of the extensions dlcore._core and dlcore._cuda, one function a file of this folder.
namespace dlcore::bindings {

/// What the networks of an extension are, and where they take examples from.
struct Backend {
  std::unique_ptr<Network> (*make)(Graph graph, DType dtype, int device);
  /// Examples of any kind that the backend takes as rows of a network's input.
  RowsView (*rows)(const char* operation, const pybind11::object& x, const Graph& graph);
  /// A new array for the network's outputs on these rows, and where its elements lie.
  std::pair<pybind11::object, void*> (*result)(DType dtype, const Shape& shape, const RowsView& x);
  /// Trains a fleet; what FitOptions ask for that the backend lacks has been refused before.
  std::vector<FitResult> (*train)(std::vector<Member>& members, Call& call,
                                  const std::function<void(const FleetProgress&)>& on_progress);
  /// Refuses what this backend cannot do.
  void (*check_options)(const FitOptions& options, DType dtype);
};

/// A new NumPy array.
std::pair<pybind11::object, void*> numpy_result(DType dtype, const Shape& shape, const RowsView& x);
/// Rows of a NumPy array of any layout.
RowsView numpy_rows(const char* operation, const pybind11::object& x, const Graph& graph);

void bind_network(pybind11::module_& module, const Backend& backend);
void bind_functional(pybind11::module_& module);

}  // namespace dlcore::bindings
