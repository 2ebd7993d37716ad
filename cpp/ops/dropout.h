#pragma once

#include "kernels/kernels.h"
#include "tensor.h"

namespace dlcore::ops {

/// Which elements a dropout layer drops in one step: a function of this and of nothing else.
struct DropoutKey {
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
};

/// The shape stays; p lies in [0, 1).
Shape dropout_shape(const Shape& x, double p);

/// y = x / (1 - p) where kept, else 0 (Srivastava et al., JMLR 2014, inverted). The same call on
/// dy is the backward pass: the mask is made again and not stored. Rows have n of ld elements;
/// element (i, j) has index (first_row + i) * n + j of the stream. y may be x.
template <class T>
void dropout(const KernelsOf<T>& kernels, int threads, double p, DropoutKey key, int layer,
             Index first_row, const T* x, T* y, Index ld, Index m, Index n);

}  // namespace dlcore::ops
