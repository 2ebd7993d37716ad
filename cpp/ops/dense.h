#pragma once

#include "kernels/kernels.h"
#include "tensor.h"

namespace dlcore::ops {

/// (..., in_features) -> (..., units).
Shape dense_shape(const Shape& x, Index units);

// The products below take KernelsOf<T>, or Bf16Kernels with rounded factors and in_features (and so
// on) counted in elements, of which each holds two numbers of the summed index.

/// Weights of a dense layer as they lie in the core (kernels.h) with their sizes.
template <class T>
struct DenseWeights {
  T* w;
  Index panel_stride;
  Index in_features, out_features;

  T* panel(Index column) const { return w + column / kPanel<T> * panel_stride; }
};

/// y = activation(x w + b); z, where not null, keeps the activation's argument. Beside each row of
/// x one of `wanted` is asked for, if given.
template <class T, class K>
void dense_forward(const K& products, int threads, const T* x, Index ldx,
                   const DenseWeights<const T>& w, const T* b, Activation activation, T alpha, T* z,
                   T* y, Index ldy, Index m, const Wanted* wanted = nullptr);

/// Rows below which a batch has fewer elements, m (n + k), than the weights, n k.
Index smaller_batch(Index n, Index k);
/// Whether the input gradient transposes the batch, dy before the product and dx after it, and not
/// the weights within the product: whichever has fewer elements.
bool transposes_batch(Index m, Index n, Index k);

/// Scratch of the input gradient where it transposes the batch: n and k rows of ld elements.
template <class T>
struct TransposedBatch {
  T* dy = nullptr;
  T* dx = nullptr;
  Index ld = 0;
};

/// dx = dy w^T, or added to it, which never transposes the batch.
template <class T, class K>
void dense_input_gradient(const KernelsOf<T>& kernels, const K& products, int threads, const T* dy,
                          Index ldy, const DenseWeights<const T>& w,
                          const TransposedBatch<T>& scratch, bool add, T* dx, Index ldx, Index m);

/// Rows of a batch that a weight gradient is summed over at a time: those of x and dy stay in the
/// last cache while all of dw passes by.
inline constexpr Index kGradientRows = 1024;

/// dw = x^T dy (or added to it).
template <class T, class K>
void dense_weight_gradient(const K& products, int threads, const T* x, Index ldx, const T* dy,
                           Index ldy, bool add, const DenseWeights<T>& dw, Index m);

/// The same product and the optimizer's step on w in one pass, which is for at most kGradientRows
/// rows: more are slow, as they are summed at once. The states lie like w.
template <class T, class K>
void dense_weight_update(const K& products, int threads, const T* x, Index ldx, const T* dy,
                         Index ldy, const Update<T>& update, const DenseWeights<T>& w, T* state1,
                         T* state2, Index m);

/// db = sum of dy over rows.
template <class T>
void dense_bias_gradient(const KernelsOf<T>& kernels, int threads, const T* dy, Index ldy, T* db,
                         Index m, Index n);

// Rounding to bfloat16, shared out over threads (kernels.h: round_rows, round_row_pairs).
void round_rows(const Bf16Kernels& products, int threads, const float* x, Index ldx, float* y,
                Index ldy, Index m, Index n);
void round_row_pairs(const Bf16Kernels& products, int threads, const float* x, Index ldx, float* y,
                     Index ldy, Index m, Index n);

/// Both forms of a layer's weights: `rows` in panels of half the stride, `pairs` in panels of
/// pair_stride.
void round_weights(const Bf16Kernels& products, int threads, const DenseWeights<const float>& w,
                   float* rows, float* pairs, Index pair_stride);

}  // namespace dlcore::ops
