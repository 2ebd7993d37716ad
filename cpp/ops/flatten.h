#pragma once

#include "tensor.h"

namespace dlcore::ops {

/// (a, b, ...) -> (a * b * ...,).
Shape flatten_shape(const Shape& x);

/// Joins every `rows` rows of x into one of y.
template <class T>
void flatten_forward(const T* x, Index ldx, T* y, Index ldy, Index m, Index rows, Index features);

/// dx = dy cut back into rows, or added to dx.
template <class T>
void flatten_backward(const T* dy, Index ldy, bool add, T* dx, Index ldx, Index m, Index rows,
                      Index features);

}  // namespace dlcore::ops
