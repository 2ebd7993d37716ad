#pragma once

#include "kernels/kernels.h"
#include "parallel.h"
#include "tensor.h"

namespace dlcore::ops {

/// y = T(x[rows[i], features]) * scale for m rows of x (rows null: first + i), each cut into
/// `pieces` rows of y; false where a value is not finite.
template <class T>
bool gather(const KernelsOf<T>& kernels, int threads, const RowsView& x, Part features,
            const Index* rows, Index first, T scale, T* y, Index ldy, Index m, Index pieces);

/// The memory of these features of rows that are gathered next.
Wanted wanted(const RowsView& x, Part features, const Index* rows, Index count);

/// Row and column of the first value among rows 0..count (of `rows`, if given) that is NaN or
/// infinite; false if there is none.
struct Position {
  Index row, column;
  double value;
};
bool find_not_finite(const RowsView& x, const Index* rows, Index count, Position* position);

}  // namespace dlcore::ops
