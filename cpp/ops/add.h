#pragma once

#include "kernels/kernels.h"
#include "tensor.h"

namespace dlcore::ops {

/// Both summands of a residual connection have the same shape.
Shape add_shape(const Shape& a, const Shape& b);

/// y = a + b; a may be y.
template <class T>
void add_forward(const KernelsOf<T>& kernels, int threads, const T* a, const T* b, T* y, Index n);

/// dx = dy, or dx += dy.
template <class T>
void add_backward(const KernelsOf<T>& kernels, int threads, const T* dy, bool add, T* dx, Index n);

}  // namespace dlcore::ops
