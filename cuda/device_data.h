#pragma once

#include <map>
#include <tuple>
#include <vector>

#include "launches.h"
#include "network.h"
#include "runtime.h"

namespace dlcore::cuda {

/// A dataset's arrays on the device; x is borrowed where it came from there. What is not given has
/// no memory.
struct DeviceData {
  RowsView view;            ///< as given; where x is null it is fetched from here batch by batch
  const void* x = nullptr;  ///< (rows, features), contiguous
  double input_scale = 1;
  DeviceMemory<std::byte> own_x;
  DeviceMemory<std::int32_t> labels;
  DeviceMemory<float> values;
  DeviceMemory<double> weight;

  /// Where kernels find it, example by example in the order of `order`, or as it lies.
  Source source(const std::uint32_t* order, std::uint64_t seed) const;
};

/// Copies a dataset to the current device, x only where it takes at most `most` bytes. The memory
/// of `reused` is taken first.
DeviceData upload(const Dataset& data, const Graph& graph, const ops::Loss& loss, Index most,
                  cudaStream_t stream, DeviceData reused = {});
/// Copies rows first .. first + count of x without gaps to `to` on the device.
void upload_rows(const RowsView& x, Index first, Index count, std::byte* to, cudaStream_t stream);
/// Copies rows of x (of `rows`, or first + i where null) without gaps to `to`, on the host.
void pack_rows(const RowsView& x, const Index* rows, Index first, Index count, std::byte* to);

/// Datasets on the device; networks that were given the same arrays share them.
class SharedData {
 public:
  explicit SharedData(cudaStream_t stream) : stream_(stream) {}

  /// x stays on the host where it would take more than `most` bytes.
  const DeviceData& of(const Dataset& data, const Graph& graph, const ops::Loss& loss, Index most);

 private:
  using Key = std::tuple<const void*, DType, Index, std::vector<Index>, Index, const void*,
                         const void*, const void*, double>;
  cudaStream_t stream_;
  std::map<Key, DeviceData> shared_;
};

/// The rows of a view of the device, copied to the host.
class HostRows {
 public:
  HostRows(const RowsView& x, cudaStream_t stream);
  HostRows(const HostRows&) = delete;
  HostRows& operator=(const HostRows&) = delete;
  const RowsView& view() const { return view_; }

 private:
  std::vector<std::byte> bytes_;
  RowsView view_;
};

/// Throws as refuse_not_finite, for data that may lie on the device.
[[noreturn]] void refuse_device_data(const char* operation, const RowsView& x, const Index* rows,
                                     Index count, cudaStream_t stream);

}  // namespace dlcore::cuda
