#include "arrays.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <utility>

#include "bindings/bindings.h"
#include "check.h"
#include "device_network.h"
#include "runtime.h"

namespace py = pybind11;

namespace dlcore::cuda {
namespace {

// --- DLPack, as its header lays it out (dmlc/dlpack 1.0) -----------------------------------------

constexpr std::int32_t kCuda = 2, kCudaManaged = 13;
constexpr std::uint8_t kInt = 0, kUnsigned = 1, kFloat = 2;
constexpr std::uint64_t kReadOnly = 1;

struct DLTensor {
  void* data;
  std::int32_t device_type, device_id;
  std::int32_t ndim;
  std::uint8_t code, bits;
  std::uint16_t lanes;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};
struct DLManagedTensorVersioned {
  std::uint32_t major, minor;
  void* context;
  void (*deleter)(DLManagedTensorVersioned*);
  std::uint64_t flags;
  DLTensor tensor;
};

struct TypeRow {
  ItemType type;
  const char* name;
  const char* typestr;  // of __cuda_array_interface__
  std::uint8_t code, bits;
};
constexpr std::array kTypes{
    TypeRow{ItemType::float32, "float32", "<f4", kFloat, 32},
    TypeRow{ItemType::float64, "float64", "<f8", kFloat, 64},
    TypeRow{ItemType::float16, "float16", "<f2", kFloat, 16},
    TypeRow{ItemType::uint8, "uint8", "|u1", kUnsigned, 8},
    TypeRow{ItemType::int32, "int32", "<i4", kInt, 32},
    TypeRow{ItemType::int64, "int64", "<i8", kInt, 64},
};

const TypeRow& row_of(ItemType type) { return kTypes[static_cast<std::size_t>(type)]; }

template <class F>
ItemType find_type(const char* operation, const char* name, F fits) {
  for (const TypeRow& row : kTypes) {
    if (fits(row)) return row.type;
  }
  check_type(false, operation, ": ", name,
             " on a GPU must be float32, float64, float16, uint8, int32 or int64");
  return ItemType::float32;
}

/// Refuses gaps and other orders: copying in silence is not ours to do.
void check_contiguous(const char* operation, const char* name, const Shape& shape,
                      const Index* strides) {
  for (const Index extent : shape) {
    check(extent >= 0, operation, ": ", name, " must have no negative extents, found ", shape);
  }
  Index expected = 1;
  bool good = true;
  for (std::size_t i = shape.size(); i-- > 0;) {
    good = good && (strides == nullptr || shape[i] == 1 || strides[i] == expected);
    expected *= shape[i];
  }
  check_type(good || expected == 0, operation, ": ", name,
             " on a GPU must be C-contiguous; make it so there, e.g. ", name, ".contiguous()");
}

// --- Other libraries' arrays in ------------------------------------------------------------------

// Streams by the numbers that both protocols, and CUDA itself, give them: 1 the legacy one, 2 that
// of the thread, else an address.
constexpr int kLegacyStream = 1;

/// A stream by its number, by the protocol __cuda_stream__ (version 0), or by CuPy's `ptr`.
cudaStream_t stream_of(const py::object& stream, const char* operation) {
  py::object number = stream;
  if (py::hasattr(stream, "__cuda_stream__")) {
    // A method in the protocol, and a property in some that came before it.
    const py::object given = stream.attr("__cuda_stream__");
    const auto pair = py::tuple(PyCallable_Check(given.ptr()) != 0 ? given() : given);
    check_type(pair.size() == 2 && pair[0].cast<int>() == 0, operation,
               ": dlcore knows version 0 of __cuda_stream__");
    number = pair[1];
  } else if (py::hasattr(stream, "ptr")) {
    number = stream.attr("ptr");
  }
  check_type(py::isinstance<py::int_>(number), operation,
             ": a stream needs to be an int or an object with __cuda_stream__");
  return reinterpret_cast<cudaStream_t>(number.cast<std::uintptr_t>());
}

/// Waits for what another library has enqueued; a stream is of the current device.
void wait_for(cudaStream_t stream) {
  check_cuda(cudaStreamSynchronize(stream), "the work that an array waits for failed");
}

/// Refuses an array on a GPU that dlcore does not run on.
void check_device(const char* operation, const char* name, int device) {
  const std::string why = why_not(device);
  check_state(why.empty(), operation, ": ", name, " lies on cuda:", device, ", which ", why);
}

DeviceArray from_dlpack(const py::object& array, const char* operation, const char* name) {
  py::object capsule;
  // The producer lets the legacy stream wait for its work, and the host waits for that stream.
  try {
    capsule = array.attr("__dlpack__")(py::arg("stream") = kLegacyStream,
                                       py::arg("max_version") = py::make_tuple(1, 0));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
    capsule = array.attr("__dlpack__")(py::arg("stream") = kLegacyStream);
  }
  PyObject* const raw = capsule.ptr();
  const bool versioned = PyCapsule_IsValid(raw, "dltensor_versioned") != 0;
  check_type(versioned || PyCapsule_IsValid(raw, "dltensor") != 0, operation, ": ", name,
             " gives no DLPack capsule");
  DLTensor* tensor = nullptr;
  bool read_only = false;  // what the older version cannot say, it may not give away
  std::shared_ptr<void> owner;
  if (versioned) {
    auto* managed =
        static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(raw, "dltensor_versioned"));
    check_type(managed->major == 1, operation, ": ", name, " comes by DLPack ", managed->major,
               ", and dlcore knows version 1");
    PyCapsule_SetName(raw, "used_dltensor_versioned");
    tensor = &managed->tensor;
    read_only = (managed->flags & kReadOnly) != 0;
    owner = {managed, [](void* held) {
               const py::gil_scoped_acquire acquire;
               auto* m = static_cast<DLManagedTensorVersioned*>(held);
               if (m->deleter != nullptr) m->deleter(m);
             }};
  } else {
    auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(raw, "dltensor"));
    PyCapsule_SetName(raw, "used_dltensor");
    tensor = &managed->tensor;
    owner = {managed, [](void* held) {
               const py::gil_scoped_acquire acquire;
               auto* m = static_cast<DLManagedTensor*>(held);
               if (m->deleter != nullptr) m->deleter(m);
             }};
  }
  check_type(tensor->device_type == kCuda || tensor->device_type == kCudaManaged, operation, ": ",
             name, " lies on no GPU");
  const ItemType type = find_type(operation, name, [&](const TypeRow& row) {
    return row.code == tensor->code && row.bits == tensor->bits && tensor->lanes == 1;
  });
  const Shape shape(tensor->shape, tensor->shape + tensor->ndim);
  check_contiguous(operation, name, shape, tensor->strides);
  check_device(operation, name, tensor->device_id);
  const DeviceScope scope(tensor->device_id);
  wait_for(nullptr);
  return {type,
          shape,
          tensor->device_id,
          static_cast<std::byte*>(tensor->data) + tensor->byte_offset,
          read_only,
          owner};
}

DeviceArray from_interface(const py::object& array, const char* operation, const char* name) {
  const py::dict given = array.attr("__cuda_array_interface__");
  const auto typestr = given["typestr"].cast<std::string>();
  const ItemType type =
      find_type(operation, name, [&](const TypeRow& row) { return typestr == row.typestr; });
  const auto shape = given["shape"].cast<Shape>();
  Shape strides;
  if (given.contains("strides") && !given["strides"].is_none()) {
    strides = given["strides"].cast<Shape>();
    check(strides.size() == shape.size(), operation, ": ", name, " has ", shape.size(),
          " axes but ", strides.size(), " strides");
    for (Index& stride : strides) stride /= item_bytes(type);
  }
  check_contiguous(operation, name, shape, strides.empty() ? nullptr : strides.data());
  const auto place = given["data"].cast<py::tuple>();
  void* const data = reinterpret_cast<void*>(place[0].cast<std::uintptr_t>());
  int device = 0;
  if (data != nullptr) {
    device = device_of(data);
    check_type(device >= 0, operation, ": ", name, " lies on no GPU");
    check_device(operation, name, device);
  }
  const DeviceScope scope(device);
  if (given.contains("stream") && !given["stream"].is_none()) {
    wait_for(stream_of(given["stream"], operation));
  }
  // Where the interface's version knows no streams, the array itself may.
  if (py::hasattr(array, "__cuda_stream__")) wait_for(stream_of(array, operation));
  const py::object kept = array;
  std::shared_ptr<void> owner(kept.inc_ref().ptr(), [](void* held) {
    const py::gil_scoped_acquire acquire;
    py::handle(static_cast<PyObject*>(held)).dec_ref();
  });
  return {type, shape, device, data, place[1].cast<bool>(), owner};
}

// --- Our own arrays out --------------------------------------------------------------------------

/// What a capsule keeps alive.
template <class Managed>
struct Exported {
  Managed managed{};
  Shape shape, strides;
  std::shared_ptr<void> owner;
};

template <class Managed>
Exported<Managed>* export_array(const DeviceArray& array) {
  auto* exported = new Exported<Managed>;
  exported->shape = array.shape();
  exported->strides.assign(array.shape().size(), 1);
  for (std::size_t i = array.shape().size(); i-- > 1;) {
    exported->strides[i - 1] = exported->strides[i] * exported->shape[i];
  }
  exported->owner = array.owner();
  DLTensor& t = exported->managed.tensor;
  t.data = array.data();
  t.device_type = kCuda;
  t.device_id = array.device();
  t.ndim = static_cast<std::int32_t>(array.shape().size());
  t.code = row_of(array.type()).code;
  t.bits = row_of(array.type()).bits;
  t.lanes = 1;
  t.shape = exported->shape.data();
  t.strides = exported->strides.data();
  exported->managed.context = exported;
  exported->managed.deleter = [](Managed* m) {
    delete static_cast<Exported<Managed>*>(m->context);
  };
  return exported;
}

py::capsule to_dlpack(const DeviceArray& array, const py::object&, const py::object& max_version,
                      const py::object& device, const py::object& copy) {
  // Every call returns when its work is done, so there is no stream to wait for.
  check_type(device.is_none() || device.equal(py::make_tuple(kCuda, array.device())),
             "__dlpack__: this array cannot move to another device; its numpy() copies it");
  check_type(copy.is_none() || !copy.cast<bool>(), "__dlpack__: this array is not copied");
  const bool versioned =
      !max_version.is_none() && max_version.cast<py::tuple>()[0].cast<int>() >= 1;
  if (versioned) {
    auto* exported = export_array<DLManagedTensorVersioned>(array);
    exported->managed.major = 1;
    exported->managed.flags = array.read_only() ? kReadOnly : 0;
    return py::capsule(&exported->managed, "dltensor_versioned", [](PyObject* capsule) {
      if (PyCapsule_IsValid(capsule, "dltensor_versioned") == 0) return;
      auto* m = static_cast<DLManagedTensorVersioned*>(
          PyCapsule_GetPointer(capsule, "dltensor_versioned"));
      m->deleter(m);
    });
  }
  check_type(!array.read_only(), "__dlpack__: this array is read-only, which versions below 1.0 ",
             "cannot say; its numpy() copies it");
  auto* exported = export_array<DLManagedTensor>(array);
  return py::capsule(&exported->managed, "dltensor", [](PyObject* capsule) {
    if (PyCapsule_IsValid(capsule, "dltensor") == 0) return;
    auto* m = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
    m->deleter(m);
  });
}

py::dict interface_of(const DeviceArray& array) {
  py::dict d;
  d["shape"] = py::tuple(py::cast(array.shape()));
  d["typestr"] = row_of(array.type()).typestr;
  d["data"] = py::make_tuple(reinterpret_cast<std::uintptr_t>(array.data()), array.read_only());
  d["strides"] = py::none();
  d["version"] = 3;
  return d;
}

py::array to_numpy(const DeviceArray& array) {
  py::array host(py::dtype(name_of(array.type())), array.shape());
  void* const to = host.mutable_data();
  const py::gil_scoped_release release;
  const auto context = Context::take(array.device());
  copy(static_cast<std::byte*>(to), array.as<std::byte>(), array.size() * item_bytes(array.type()),
       context->stream());
  context->stream().synchronize();
  return host;
}

DeviceArray from_numpy(const py::array& given, int device) {
  const std::string dtype = py::str(given.dtype());
  const ItemType type =
      find_type("device_array", "x", [&](const TypeRow& row) { return dtype == row.name; });
  check_type((given.flags() & py::array::c_style) != 0,
             "device_array: x must be C-contiguous; pass numpy.ascontiguousarray(x)");
  DeviceArray array(type, {given.shape(), given.shape() + given.ndim()}, device);
  const auto context = Context::take(device);
  copy(array.as<std::byte>(), static_cast<const std::byte*>(given.data()), given.nbytes(),
       context->stream());
  context->stream().synchronize();
  return array;
}

}  // namespace

const char* name_of(ItemType type) { return row_of(type).name; }
Index item_bytes(ItemType type) { return row_of(type).bits / 8; }

DeviceArray::DeviceArray(ItemType type, Shape shape, int device)
    : type_(type), shape_(std::move(shape)), device_(device) {
  const DeviceScope scope(device);
  auto memory =
      std::make_shared<DeviceMemory<std::byte>>(checked_product(size(), item_bytes(type), "array"));
  data_ = memory->data();
  owner_ = memory;
}

Index DeviceArray::size() const {
  Index count = 1;
  for (const Index extent : shape_) count = checked_product(count, extent, "array");
  return count;
}

bool is_device_array(const py::object& array) {
  if (py::isinstance<DeviceArray>(array)) return true;
  if (py::isinstance<py::array>(array)) return false;
  if (py::hasattr(array, "__dlpack_device__")) {
    const auto place = array.attr("__dlpack_device__")().cast<py::tuple>();
    const auto kind = py::int_(place[0]).cast<int>();
    return kind == kCuda || kind == kCudaManaged;
  }
  return py::hasattr(array, "__cuda_array_interface__");
}

DeviceArray view_of(const py::object& array, const char* operation, const char* name,
                    const py::object& stream) {
  check_type(is_device_array(array), operation, ": ", name,
             " lies on no GPU; all arrays of a call "
             "lie in one place (dlcore.device_array)");
  DeviceArray view = py::isinstance<DeviceArray>(array) ? array.cast<DeviceArray>()
                     : py::hasattr(array, "__dlpack__") ? from_dlpack(array, operation, name)
                                                        : from_interface(array, operation, name);
  if (!stream.is_none()) {
    const DeviceScope scope(view.device());
    wait_for(stream_of(stream, operation));
  }
  return view;
}

RowsView rows_of(const char* operation, const py::object& x, const Graph& graph) {
  if (!py::isinstance<DeviceArray>(x)) return bindings::numpy_rows(operation, x, graph);
  const auto& array = x.cast<const DeviceArray&>();
  RowsView view;
  switch (array.type()) {
    case ItemType::float32: view.dtype = DType::float32; break;
    case ItemType::float64: view.dtype = DType::float64; break;
    case ItemType::float16: view.dtype = DType::float16; break;
    case ItemType::uint8: view.dtype = DType::uint8; break;
    default:
      check_type(false, operation, ": x must be float32, float64, float16 or uint8, found ",
                 name_of(array.type()));
  }
  Shape expected = graph.input_shape;
  expected.insert(expected.begin(), array.shape().empty() ? 0 : array.shape()[0]);
  check(array.shape() == expected, operation, ": x must be (examples, ...) with input_shape ",
        graph.input_shape, " after the first axis, found ", array.shape());
  view.base = array.as<const std::byte>();
  view.rows = expected[0];
  view.features = std::accumulate(graph.input_shape.begin(), graph.input_shape.end(), Index{1},
                                  std::multiplies<>());
  view.row_stride = view.features * item_size(view.dtype);
  view.on_device = true;
  return view;
}

std::pair<py::object, void*> result_for(DType dtype, const Shape& shape, const RowsView& x) {
  if (!x.on_device) return bindings::numpy_result(dtype, shape, x);
  DeviceArray y(ItemType::float32, shape, std::max(device_of(x.base), 0));
  void* const to = y.data();
  return {py::cast(std::move(y)), to};
}

void bind_arrays(py::module_& m) {
  py::class_<DeviceArray>(m, "Array", py::module_local(),
                          "An array on a GPU; other libraries take it by DLPack without a copy.")
      .def_property_readonly("shape",
                             [](const DeviceArray& a) { return py::tuple(py::cast(a.shape())); })
      .def_property_readonly("ndim", [](const DeviceArray& a) { return a.shape().size(); })
      .def_property_readonly("size", &DeviceArray::size)
      .def_property_readonly("dtype",
                             [](const DeviceArray& a) { return py::dtype(name_of(a.type())); })
      .def_property_readonly("device",
                             [](const DeviceArray& a) { return sentence("cuda:", a.device()); })
      .def("__len__",
           [](const DeviceArray& a) {
             check_type(!a.shape().empty(), "len: an array of no axes has no length");
             return a.shape()[0];
           })
      .def("__repr__",
           [](const DeviceArray& a) {
             return sentence("Array(shape=", a.shape(), ", dtype=", name_of(a.type()),
                             ", device='cuda:", a.device(), "')");
           })
      .def("numpy", &to_numpy, "A copy in the host's memory.")
      .def("__dlpack__", &to_dlpack, py::kw_only(), py::arg("stream") = py::none(),
           py::arg("max_version") = py::none(), py::arg("dl_device") = py::none(),
           py::arg("copy") = py::none())
      .def("__dlpack_device__",
           [](const DeviceArray& a) { return py::make_tuple(kCuda, a.device()); })
      .def_property_readonly("__cuda_array_interface__", &interface_of);

  m.def("is_device_array", &is_device_array, py::arg("array"));
  m.def(
      "as_array",
      [](const py::object& array, const std::string& what, const py::object& stream) {
        return view_of(array, what.c_str(), "it", stream);
      },
      py::arg("array"), py::arg("what"), py::arg("stream") = py::none());
  m.def("from_numpy", &from_numpy, py::arg("array"), py::arg("device"));
}

}  // namespace dlcore::cuda
