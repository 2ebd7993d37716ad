#pragma once

#include <memory>

#include "bench.h"

namespace dlcore::bench {

/// Whether this build has the functions below (CMake's DLCORE_BENCH_ONEDNN).
#ifdef DLCORE_BENCH_ONEDNN
inline constexpr bool kHasOneDnn = true;
#else
inline constexpr bool kHasOneDnn = false;
#endif

enum class Product { forward, input_gradient, weight_gradient };

/// What the products of a dense layer work on, rows without gaps: x (m, k), w (n, k), dy (m, n).
struct DenseData {
  Index m, n, k;
  Buffer<float> x, w, b, dy;
};

struct OneDnnProduct {
  Peer peer;
  /// Computes y (m, n), dx (m, k) or dw (k, n), rows without gaps.
  std::function<Buffer<float>()> result;
};

/// One product by oneDNN on one thread, in the way that is the fastest of all it has for this
/// shape: forward with bias and relu, weights in the layout it likes best.
OneDnnProduct onednn_product(Product product, std::shared_ptr<const DenseData> data);

}  // namespace dlcore::bench
