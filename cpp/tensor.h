#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "types.h"

namespace dlcore {

using Shape = std::vector<Index>;

/// "(3, 4)", as NumPy prints a shape.
std::string to_string(const Shape& shape);

/// Rows of anything NumPy can index: element (i, j) of the flattened features lies at
/// `base + i * row_stride + (columns.empty() ? j * item_size : columns[j])`, offsets in bytes.
struct RowsView {
  const std::byte* base = nullptr;
  DType dtype = DType::float32;
  Index rows = 0;
  Index features = 0;
  Index row_stride = 0;
  std::vector<Index> columns;
  bool on_device = false;  ///< base lies on the network's GPU; rows have no gaps then
};

constexpr Index item_size(DType dtype) {
  switch (dtype) {
    case DType::float64: return 8;
    case DType::float32: return 4;
    case DType::float16: return 2;
    case DType::uint8: return 1;
  }
  return 0;
}

}  // namespace dlcore
