#pragma once

#include <pybind11/pybind11.h>

/// The parts of the extension dlcore._core, one function a file of this folder.
namespace dlcore::bindings {

void bind_network(pybind11::module_& module);
void bind_functional(pybind11::module_& module);

}  // namespace dlcore::bindings
