#pragma once

#include <pybind11/pybind11.h>

/// Adds the submodule `curves` to the extension `dlcore._core`.
void bind_curves(pybind11::module_& module);
