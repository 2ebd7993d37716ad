#include "ops/dropout.h"

#include <algorithm>
#include <cmath>

#include "check.h"
#include "parallel.h"

namespace dlcore::ops {

Shape dropout_shape(const Shape& x, double p) {
  check(p >= 0 && p < 1, "dropout: p must lie in [0, 1), found ", p);
  return x;
}

template <class T>
void dropout(const KernelsOf<T>& kernels, int threads, double p, DropoutKey key, int layer,
             Index first_row, const T* x, T* y, Index ld, Index m, Index n) {
  const auto threshold = static_cast<std::uint32_t>(std::floor(p * 4294967296.0));
  const T scale = static_cast<T>(1 / (1 - p));
  const Index tasks = std::clamp<Index>(m * n / (1 << 12), 1, std::max<Index>(m, 1));
  parallel_for(threads, tasks, [&](Index task) {
    const Part r = part(task, tasks, m, 1);
    for (Index i = r.begin; i < r.end; ++i) {
      kernels.dropout(x + i * ld, y + i * ld, threshold, scale, key.seed, key.step,
                      static_cast<std::uint32_t>(layer), (first_row + i) * n, n);
    }
  });
}

template void dropout(const KernelsOf<float>&, int, double, DropoutKey, int, Index, const float*,
                      float*, Index, Index, Index);
template void dropout(const KernelsOf<double>&, int, double, DropoutKey, int, Index, const double*,
                      double*, Index, Index, Index);

}  // namespace dlcore::ops
