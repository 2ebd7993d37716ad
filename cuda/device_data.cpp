#include "device_data.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "check.h"
#include "trainer.h"

namespace dlcore::cuda {
namespace {

void wait_for_data(cudaStream_t stream) {
  check_cuda(cudaStreamSynchronize(stream), "the data cannot be sent");
}

}  // namespace

void pack_rows(const RowsView& x, const Index* rows, Index first, Index count, std::byte* to) {
  const Index size = item_size(x.dtype);
  const Index bytes = x.features * size;
  for (Index i = 0; i < count; ++i, to += bytes) {
    const std::byte* from = x.base + (rows == nullptr ? first + i : rows[i]) * x.row_stride;
    if (x.columns.empty()) {
      std::memcpy(to, from, static_cast<std::size_t>(bytes));
      continue;
    }
    for (Index j = 0; j < x.features; ++j) {
      std::memcpy(to + j * size, from + x.columns[static_cast<std::size_t>(j)],
                  static_cast<std::size_t>(size));
    }
  }
}

void upload_rows(const RowsView& x, Index first, Index count, std::byte* to, cudaStream_t stream) {
  const Index bytes = x.features * item_size(x.dtype);
  if (x.on_device || (x.columns.empty() && x.row_stride == bytes)) {
    copy(to, x.base + first * x.row_stride, count * bytes, stream);
    return;
  }
  // In pieces that stay in the host's cache.
  const Index piece = std::max<Index>(1, (Index{1} << 22) / std::max<Index>(bytes, 1));
  std::vector<std::byte> packed(static_cast<std::size_t>(std::min(piece, count) * bytes));
  for (Index at = 0; at < count; at += piece) {
    const Index some = std::min(piece, count - at);
    pack_rows(x, nullptr, first + at, some, packed.data());
    copy(to + at * bytes, packed.data(), some * bytes, stream);
    wait_for_data(stream);  // before the next piece takes its place
  }
}

Source DeviceData::source(const std::uint32_t* order, std::uint64_t seed) const {
  return {.x = x,
          .order = order,
          .x_order = order,
          .labels = labels.data(),
          .values = values.data(),
          .weight = weight.data(),
          .scale = static_cast<float>(input_scale),
          .seed = seed};
}

DeviceData upload(const Dataset& data, const Graph& graph, const ops::Loss& loss, Index most,
                  cudaStream_t stream, DeviceData reused) {
  DeviceData d = std::move(reused);
  d.view = data.x;
  d.x = nullptr;
  d.input_scale = data.input_scale;
  const Index bytes =
      checked_product(data.x.rows, data.x.features * item_size(data.x.dtype), "data");
  if (data.x.on_device) {
    d.x = data.x.base;
  } else if (bytes <= most) {
    d.own_x.resize(bytes);
    upload_rows(data.x, 0, data.x.rows, d.own_x.data(), stream);
    d.x = d.own_x.data();
  }
  const ops::TargetShape target = ops::target_shape(loss, graph.output().shape);
  const Index rows = data.labels == nullptr ? 0 : data.x.rows * target.rows;
  std::vector<std::int32_t> labels(static_cast<std::size_t>(rows));
  std::transform(data.labels, data.labels + rows, labels.begin(),
                 [](Index label) { return static_cast<std::int32_t>(label); });
  d.labels.resize(rows);
  copy(d.labels.data(), labels.data(), rows, stream);
  d.values.resize(data.values == nullptr ? 0 : data.x.rows * target.rows * target.features);
  copy(d.values.data(), static_cast<const float*>(data.values), d.values.size(), stream);
  d.weight.resize(data.weight == nullptr ? 0 : data.x.rows);
  copy(d.weight.data(), data.weight, d.weight.size(), stream);
  if (rows > 0) wait_for_data(stream);  // our own copy of the labels goes
  return d;
}

const DeviceData& SharedData::of(const Dataset& data, const Graph& graph, const ops::Loss& loss,
                                 Index most) {
  const Key key{data.x.base, data.x.dtype, data.x.rows, data.x.columns,  data.x.row_stride,
                data.labels, data.values,  data.weight, data.input_scale};
  const auto found = shared_.find(key);
  if (found != shared_.end()) return found->second;
  return shared_.emplace(key, upload(data, graph, loss, most, stream_)).first->second;
}

HostRows::HostRows(const RowsView& x, cudaStream_t stream)
    : bytes_(static_cast<std::size_t>(x.rows * x.row_stride)), view_(x) {
  copy(bytes_.data(), x.base, x.rows * x.row_stride, stream);
  // Whatever failed before this copy, the sentence about the data is the better one.
  check_cuda(cudaStreamSynchronize(stream), "the data cannot be read back");
  view_.base = bytes_.data();
  view_.on_device = false;
}

void refuse_device_data(const char* operation, const RowsView& x, const Index* rows, Index count,
                        cudaStream_t stream) {
  if (!x.on_device) refuse_not_finite(operation, x, rows, count);
  refuse_not_finite(operation, HostRows(x, stream).view(), rows, count);
}

}  // namespace dlcore::cuda
