#include "ops/gather.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "parallel.h"

namespace dlcore::ops {
namespace {

/// Elements with offsets of their own go through this much memory at a time.
constexpr Index kChunkBytes = 2048;
// About a microsecond of copying.
constexpr Index kTaskElements = 1 << 12;

/// Columns begin .. begin + n of a row.
template <class T>
bool gather_piece(const KernelsOf<T>& kernels, const RowsView& x, Index row, Index begin, Index n,
                  T scale, T* y) {
  const std::byte* from = x.base + row * x.row_stride;
  const Index size = item_size(x.dtype);
  if (x.columns.empty()) return kernels.convert_row(from + begin * size, x.dtype, scale, y, n);
  alignas(8) std::byte chunk[kChunkBytes];
  const Index most = kChunkBytes / size;
  bool finite = true;
  for (Index j = 0; j < n; j += most) {
    const Index count = std::min(most, n - j);
    for (Index c = 0; c < count; ++c) {
      std::memcpy(chunk + c * size, from + x.columns[static_cast<std::size_t>(begin + j + c)],
                  static_cast<std::size_t>(size));
    }
    finite = kernels.convert_row(chunk, x.dtype, scale, y + j, count) && finite;
  }
  return finite;
}

}  // namespace

Wanted wanted(const RowsView& x, Part features, const Index* rows, Index count) {
  const Index size = item_size(x.dtype);
  return {reinterpret_cast<const char*>(x.base + features.begin * size), x.row_stride,
          (features.end - features.begin) * size, rows, x.columns.empty() ? count : 0};
}

template <class T>
bool gather(const KernelsOf<T>& kernels, int threads, const RowsView& x, Part features,
            const Index* rows, Index first, T scale, T* y, Index ldy, Index m, Index pieces) {
  const Index all = features.end - features.begin, n = all / pieces;
  const Index tasks = std::clamp<Index>(m * all / kTaskElements, 1, std::max<Index>(m, 1));
  std::atomic<bool> finite{true};
  parallel_for(threads, tasks, [&](Index task) {
    const Part r = part(task, tasks, m, 1);
    bool good = true;
    for (Index i = r.begin; i < r.end; ++i) {
      const Index row = rows == nullptr ? first + i : rows[i];
      for (Index p = 0; p < pieces; ++p) {
        good = gather_piece(kernels, x, row, features.begin + p * n, n, scale,
                            y + (i * pieces + p) * ldy) &&
               good;
      }
    }
    if (!good) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

bool find_not_finite(const RowsView& x, const Index* rows, Index count, Position* position) {
  if (x.dtype == DType::uint8) return false;
  double value = 0;
  for (Index i = 0; i < count; ++i) {
    const Index row = rows == nullptr ? i : rows[i];
    for (Index j = 0; j < x.features; ++j) {
      const std::byte* at =
          x.base + row * x.row_stride +
          (x.columns.empty() ? j * item_size(x.dtype) : x.columns[static_cast<std::size_t>(j)]);
      kReference.f64.convert_row(at, x.dtype, 1.0, &value, 1);
      if (!std::isfinite(value)) {
        *position = {row, j, value};
        return true;
      }
    }
  }
  return false;
}

template bool gather(const KernelsOf<float>&, int, const RowsView&, Part, const Index*, Index,
                     float, float*, Index, Index, Index);
template bool gather(const KernelsOf<double>&, int, const RowsView&, Part, const Index*, Index,
                     double, double*, Index, Index, Index);

}  // namespace dlcore::ops
