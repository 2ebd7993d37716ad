#pragma once

#include "kernels/kernels.h"
#include "tensor.h"

namespace dlcore::ops {

/// Elements of one task of an element-wise op over n elements: some microseconds of work, and whole
/// past-the-cache blocks once the result is larger than the caches.
Index elementwise_tasks(Index n);

/// The shape stays.
Shape activation_shape(const Shape& x);

/// y = activation(x); y may be x.
template <class T>
void activation_forward(const KernelsOf<T>& kernels, int threads, Activation activation, T alpha,
                        const T* x, T* y, Index n);

/// dx = dy * activation'(saved), saved being y or x (gradient_from_result); dx may be dy.
template <class T>
void activation_backward(const KernelsOf<T>& kernels, int threads, Activation activation, T alpha,
                         const T* dy, const T* saved, T* dx, Index n);

}  // namespace dlcore::ops
