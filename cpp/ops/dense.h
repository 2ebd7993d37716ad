#pragma once

#include "kernels/kernels.h"
#include "tensor.h"

namespace dlcore::ops {

/// (..., in_features) -> (..., units).
Shape dense_shape(const Shape& x, Index units);

/// Weights of a dense layer as they lie in the core (kernels.h) with their sizes.
template <class T>
struct DenseWeights {
  T* w;
  Index panel_stride;
  Index in_features, out_features;

  T* panel(Index column) const { return w + column / kPanel<T> * panel_stride; }
};

/// y = activation(x w + b); z, where not null, keeps the activation's argument.
template <class T>
void dense_forward(const KernelsOf<T>& kernels, int threads, const T* x, Index ldx,
                   const DenseWeights<const T>& w, const T* b, Activation activation, T alpha, T* z,
                   T* y, Index ldy, Index m);

/// dx = dy w^T. dyt and dxt are scratch of out_features and in_features rows of ldt; dx is added to
/// where `add` is set, by way of `sum`, scratch shaped like dx.
template <class T>
void dense_input_gradient(const KernelsOf<T>& kernels, int threads, const T* dy, Index ldy,
                          const DenseWeights<const T>& w, T* dyt, T* dxt, Index ldt, bool add,
                          T* sum, T* dx, Index ldx, Index m);

/// dw = x^T dy (or added to it).
template <class T>
void dense_weight_gradient(const KernelsOf<T>& kernels, int threads, const T* x, Index ldx,
                           const T* dy, Index ldy, bool add, const DenseWeights<T>& dw, Index m);

/// The same product and the optimizer's step on w in one pass; the states lie like w.
template <class T>
void dense_weight_update(const KernelsOf<T>& kernels, int threads, const T* x, Index ldx,
                         const T* dy, Index ldy, const Update<T>& update, const DenseWeights<T>& w,
                         T* state1, T* state2, Index m);

/// db = sum of dy over rows.
template <class T>
void dense_bias_gradient(const KernelsOf<T>& kernels, int threads, const T* dy, Index ldy, T* db,
                         Index m, Index n);

}  // namespace dlcore::ops
