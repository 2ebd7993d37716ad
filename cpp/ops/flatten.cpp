#include "ops/flatten.h"

#include <algorithm>

#include "check.h"

namespace dlcore::ops {

Shape flatten_shape(const Shape& x) {
  Index size = 1;
  for (const Index extent : x) size = checked_product(size, extent, "flatten");
  return {size};
}

template <class T>
void flatten_forward(const T* x, Index ldx, T* y, Index ldy, Index m, Index rows, Index features) {
  for (Index i = 0; i < m; ++i) {
    for (Index r = 0; r < rows; ++r) {
      std::copy_n(x + (i * rows + r) * ldx, features, y + i * ldy + r * features);
    }
  }
}

template <class T>
void flatten_backward(const T* dy, Index ldy, bool add, T* dx, Index ldx, Index m, Index rows,
                      Index features) {
  for (Index i = 0; i < m; ++i) {
    for (Index r = 0; r < rows; ++r) {
      const T* from = dy + i * ldy + r * features;
      T* to = dx + (i * rows + r) * ldx;
      for (Index j = 0; j < features; ++j) to[j] = add ? to[j] + from[j] : from[j];
    }
  }
}

#define DLCORE_INSTANTIATE(T)                                                     \
  template void flatten_forward(const T*, Index, T*, Index, Index, Index, Index); \
  template void flatten_backward(const T*, Index, bool, T*, Index, Index, Index, Index);
DLCORE_INSTANTIATE(float)
DLCORE_INSTANTIATE(double)
#undef DLCORE_INSTANTIATE

}  // namespace dlcore::ops
