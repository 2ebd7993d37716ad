#pragma once

#include "kernels/kernels.h"
#include "ops/loss.h"
#include "tensor.h"

/// The ops on plain arrays: row-major, no padding, as Python hands them over. Shapes are checked
/// here, because no plan was built that did.
namespace dlcore::functional {

/// (..., in_features), (out_features, in_features), (out_features,) or () -> (..., out_features).
Shape dense_shape(const Shape& x, const Shape& weight, const Shape& bias);
/// dy must be what dense_shape says of x and weight.
void check_dense_backward(const Shape& dy, const Shape& x, const Shape& weight);
/// Two arrays that go together element by element.
void check_same_shape(const char* operation, const char* a_name, const Shape& a, const char* b_name,
                      const Shape& b);
/// logits (n, classes), labels (n,), weight (n,) or ().
void check_cross_entropy(const Shape& logits, const Shape& labels, const Shape& weight);
/// Sample weights (n,) for arrays whose first axis is n; finite, not negative.
void check_sample_weight(const char* operation, const double* weight, const Shape& shape, Index n);
/// The number of an optimizer's step, from which bias corrections follow.
void check_step(const char* operation, Index step);

template <class T>
void dense_forward(const T* x, const T* weight, const T* bias, T* y, Index m, Index n, Index k);

template <class T>
void dense_backward(const T* dy, const T* x, const T* weight, T* dx, T* dw, T* db, Index m, Index n,
                    Index k);

/// Weighted mean loss of m examples of n elements, and its gradient where dx is not null.
template <class T>
double loss(const ops::Loss& loss, const T* x, const Index* labels, const T* target,
            const double* weight, T* dx, Index m, Index n);

template <class T>
void softmax(const T* x, T* y, Index m, Index n);

}  // namespace dlcore::functional
