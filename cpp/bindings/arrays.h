#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "check.h"
#include "graph.h"
#include "tensor.h"

/// NumPy arrays as the core takes them: checked, never copied in silence.
namespace dlcore::bindings {

namespace py = pybind11;

inline Shape shape_of(const py::array& array) {
  return {array.shape(), array.shape() + array.ndim()};
}

inline std::string dtype_name(const py::array& array) { return py::str(array.dtype()); }

template <class T>
inline bool has_dtype(const py::array& array) {
  return array.dtype().is(py::dtype::of<T>()) || array.dtype().equal(py::dtype::of<T>());
}

/// Refuses an array that is not of T, C-contiguous and aligned: functional copies nothing in
/// silence. The sentence is made only where it is needed, because this is called for every
/// argument.
template <class T>
void check_array(const char* operation, const char* name, const py::array& array) {
  if (!has_dtype<T>(array)) {
    const std::string wanted = py::str(py::dtype::of<T>());
    check_type(false, operation, ": ", name, " must be ", wanted, ", found ", dtype_name(array),
               "; convert it, e.g. ", name, ".astype(numpy.", wanted, ")");
  }
  check_type((array.flags() & py::array::c_style) != 0, operation, ": ", name,
             " must be C-contiguous; pass numpy.ascontiguousarray(", name, ")");
  check_type((array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0, operation, ": ", name,
             " must lie at a multiple of its dtype's size; pass ", name, ".copy()");
}

template <class T>
const T* data(const py::array& array) {
  return static_cast<const T*>(array.data());
}

/// Calls f(float{}) or f(double{}) by the dtype of the first array of an operation.
template <class F>
auto with_floating(const char* operation, const char* name, const py::array& array, F f) {
  if (has_dtype<float>(array)) return f(float{});
  if (!has_dtype<double>(array)) {
    check_type(false, operation, ": ", name, " must be float32 or float64, found ",
               dtype_name(array), "; convert it, e.g. ", name, ".astype(numpy.float32)");
  }
  return f(double{});
}

/// A second array of an operation, which must have the first one's dtype.
template <class T>
void check_like(const char* operation, const char* first_name, const char* name,
                const py::array& array) {
  if (!has_dtype<T>(array)) {
    const std::string wanted = py::str(py::dtype::of<T>());
    check_type(false, operation, ": ", first_name, " is ", wanted, " but ", name, " is ",
               dtype_name(array), "; convert one, e.g. ", name, ".astype(numpy.", wanted, ")");
  }
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
inline RowsView rows_view(const char* operation, const py::array& x, const Graph& graph) {
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

}  // namespace dlcore::bindings
