#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <string>

#include "graph.h"
#include "tensor.h"

/// Arrays on a GPU as Python sees them: other libraries' in, without a copy, and our own out, by
/// DLPack and by `__cuda_array_interface__`.
namespace dlcore::cuda {

enum class ItemType { float32, float64, float16, uint8, int32, int64 };
const char* name_of(ItemType type);
Index item_bytes(ItemType type);

/// A C-contiguous array; whoever made the memory frees it.
class DeviceArray {
 public:
  /// New memory on a device, its contents undefined.
  DeviceArray(ItemType type, Shape shape, int device);
  /// Somebody else's, held by `owner` for as long as it is needed.
  DeviceArray(ItemType type, Shape shape, int device, void* data, bool read_only,
              std::shared_ptr<void> owner)
      : type_(type),
        shape_(std::move(shape)),
        device_(device),
        data_(data),
        read_only_(read_only),
        owner_(owner) {}

  ItemType type() const { return type_; }
  const Shape& shape() const { return shape_; }
  int device() const { return device_; }
  Index size() const;
  void* data() const { return data_; }
  /// Whether its owner says that nobody may write to it.
  bool read_only() const { return read_only_; }
  const std::shared_ptr<void>& owner() const { return owner_; }

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  ItemType type_;
  Shape shape_;
  int device_;
  void* data_ = nullptr;
  bool read_only_ = false;
  std::shared_ptr<void> owner_;
};

/// A view of an array on a GPU, whoever made it, once what it waits for is done: the work that its
/// protocol tells of, and that of `stream` (a number, an object with __cuda_stream__, or None).
DeviceArray view_of(const pybind11::object& array, const char* operation, const char* name,
                    const pybind11::object& stream = pybind11::none());
/// Whether an object says that it lies on a GPU.
bool is_device_array(const pybind11::object& array);

/// Rows of examples: a NumPy array of any layout, or an array on the network's GPU.
RowsView rows_of(const char* operation, const pybind11::object& x, const Graph& graph);

/// A new array for outputs on these rows: on the GPU where the rows lie there, else NumPy's.
std::pair<pybind11::object, void*> result_for(DType dtype, const Shape& shape, const RowsView& x);

void bind_arrays(pybind11::module_& module);
void bind_device_functional(pybind11::module_& module);
#ifdef DLCORE_EMULATE
/// What tests look at and provoke (emulated/bindings.cpp).
void bind_emulation(pybind11::module_& module);
#endif

}  // namespace dlcore::cuda
