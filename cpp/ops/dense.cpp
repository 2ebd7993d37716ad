#include "ops/dense.h"

#include <algorithm>

#include "check.h"
#include "parallel.h"

namespace dlcore::ops {
namespace {

// Work of one task, in floating-point operations: about a microsecond, ten times what claiming a
// task costs a spinning thread.
constexpr Index kTaskFlops = 1 << 18;
constexpr Index kMostTasks = 128;
// The same for rounding, in elements.
constexpr Index kTaskElements = 1 << 14;
// Rows are cut no finer: below this a tile has too few sums to hide the latency of an FMA. It is
// the height of the tallest tile, so parts of a weight gradient begin at multiples of it.
constexpr Index kLeastRows = 14;
// A batch of fewer rows does not fill the vectors it would be the columns of.
constexpr Index kFewRows = 12;
// Inputs that a task of a gradient of so few rows has at least: it lays out all of dy first.
constexpr Index kFewRowsInputs = 128;
// A weight update of so many examples asks for what its next tile updates where the layer's
// parameters and moments are more bytes than stay in the second-level cache. Fewer examples are
// fewer steps than there are lines to ask for, and slower for it.
constexpr Index kAskRows = 32;
constexpr Index kAskBytes = Index{3} << 19;
// Elements of x that stay in the second-level cache while a weight gradient takes them again for
// every panel: half of one of 1 MiB.
constexpr Index kCachedElements = 1 << 17;
// Elements of x and dy that a third-level cache hands out fast enough without that.
constexpr Index kSharedElements = 1 << 21;

/// Cuts a product over columns (whole panels) first, then over rows. Neighbouring tasks, which the
/// same thread does, lie beside each other along the shorter side: they share the longer factor.
/// Where no more than `most_rows` of a factor stay in a cache, which several columns take, it is
/// cut into so many, and all columns pass by one block before the next. Parts of a weight gradient
/// begin at multiples of `unit` rows.
struct Cut {
  Cut(Index rows, Index panels, Index flops, Index most_rows, Index unit) : unit(unit) {
    const Index tasks = std::clamp<Index>(flops / kTaskFlops, 1, kMostTasks);
    const Index blocks = panels > 1 && rows > most_rows ? (rows - 1) / most_rows + 1 : 1;
    columns = std::clamp<Index>(panels, 1, std::max<Index>(tasks / blocks, 1));
    const Index most = std::max<Index>(1, rows / unit);
    this->rows = blocks > 1 ? blocks : std::min((tasks + columns - 1) / columns, most);
    by_rows = blocks > 1 || rows > panels * kPanel<float>;
  }
  Cut(Index rows, Index panels, Index flops) : Cut(rows, panels, flops, rows, kLeastRows) {}
  Index count() const { return rows * columns; }
  Index row(Index task) const { return by_rows ? task / columns : task % rows; }
  Index column(Index task) const { return by_rows ? task % columns : task / rows; }
  Index rows, columns, unit;
  bool by_rows;
};

/// Cuts the weight gradient of m examples, n outputs and k features: into whole tiles, those of few
/// outputs as high as where they are turned (products-inl.h).
Cut cut_of_gradient(Index m, Index n, Index k) {
  const bool large = m * (n + k) > kSharedElements;
  const Index unit = n < kPanel<float> ? kPanel<float> : kLeastRows;
  return {k, padded<float>(n) / kPanel<float>, 2 * m * n * k,
          large ? std::max(kLeastRows, kCachedElements / m) : k, unit};
}

}  // namespace

Shape dense_shape(const Shape& x, Index units) {
  check(units >= 1, "dense: units must be at least 1, found ", units);
  checked_product(x.back(), units, "dense");
  Shape y = x;
  y.back() = units;
  Index size = 1;
  for (const Index extent : y) size = checked_product(size, extent, "dense");
  return y;
}

template <class T, class K>
void dense_forward(const K& products, int threads, const T* x, Index ldx,
                   const DenseWeights<const T>& w, const T* b, Activation activation, T alpha, T* z,
                   T* y, Index ldy, Index m, const Wanted* wanted) {
  const Index n = w.out_features, k = w.in_features;
  const Cut cut(m, padded<T>(n) / kPanel<T>, 2 * m * n * k);
  parallel_for(threads, cut.count(), [&](Index task) {
    const Part r = part(cut.row(task), cut.rows, m, 1);
    const Part c = part(cut.column(task), cut.columns, n, kPanel<T>);
    const Index at = r.begin * ldy + c.begin;
    const bool asks = wanted != nullptr && c.begin == 0;
    const Wanted beside = asks ? wanted->from(r.begin) : Wanted{};
    products.dense_forward(x + r.begin * ldx, ldx, w.panel(c.begin), w.panel_stride,
                           b == nullptr ? b : b + c.begin, activation, alpha,
                           z == nullptr ? z : z + at, y + at, ldy, r.end - r.begin, c.end - c.begin,
                           k, asks ? &beside : nullptr);
  });
}

Index smaller_batch(Index n, Index k) { return (n * k + n + k - 1) / (n + k); }

bool transposes_batch(Index m, Index n, Index k) { return m > kFewRows && m < smaller_batch(n, k); }

template <class T, class K>
void dense_input_gradient(const KernelsOf<T>& kernels, const K& products, int threads, const T* dy,
                          Index ldy, const DenseWeights<const T>& w,
                          const TransposedBatch<T>& scratch, bool add, T* dx, Index ldx, Index m) {
  const Index n = w.out_features, k = w.in_features;
  Cut cut(k, 1, 2 * m * n * k);
  if (m <= kFewRows) cut.rows = std::min(cut.rows, std::max<Index>(1, k / kFewRowsInputs));
  const auto part_of = [&](Index task) { return part(task, cut.rows, k, kPanel<T>); };
  if (add || !transposes_batch(m, n, k)) {
    parallel_for(threads, cut.rows, [&](Index task) {
      const Part r = part_of(task);
      products.dense_input_gradient(dy, ldy, w.w + r.begin * K::kRow, w.panel_stride, add,
                                    dx + r.begin, ldx, m, n, r.end - r.begin);
    });
    return;
  }
  const Index ldt = scratch.ld;
  const Index pieces = std::clamp<Index>(m * n / kTaskElements, 1, padded<T>(n) / kPanel<T>);
  parallel_for(threads, pieces, [&](Index task) {
    const Part c = part(task, pieces, n, kPanel<T>);
    kernels.transpose(dy + c.begin, ldy, scratch.dy + c.begin * ldt, ldt, m, c.end - c.begin,
                      padded<T>(m));
  });
  parallel_for(threads, cut.rows, [&](Index task) {
    const Part r = part_of(task);
    const Index rows = r.end - r.begin;
    T* dxt = scratch.dx + r.begin * ldt;
    products.dense_input_gradient_transposed(scratch.dy, ldt, w.w + r.begin * K::kRow,
                                             w.panel_stride, dxt, ldt, m, n, rows);
    kernels.transpose(dxt, ldt, dx + r.begin, ldx, rows, m, rows);
  });
}

template <class T, class K>
void dense_weight_gradient(const K& products, int threads, const T* x, Index ldx, const T* dy,
                           Index ldy, bool add, const DenseWeights<T>& dw, Index m) {
  const Index n = dw.out_features, k = dw.in_features;
  for (Index m0 = 0; m0 == 0 || m0 < m; m0 += kGradientRows) {
    const Index depth = std::min(kGradientRows, m - m0);
    const T *xs = x + m0 * ldx, *dys = dy + m0 * ldy;
    const Cut cut = cut_of_gradient(depth, n, k);
    parallel_for(threads, cut.count(), [&](Index task) {
      const Part r = part(cut.row(task), cut.rows, k, cut.unit);
      const Part c = part(cut.column(task), cut.columns, n, kPanel<T>);
      products.dense_weight_gradient(xs + r.begin, ldx, dys + c.begin, ldy, add || m0 > 0,
                                     dw.panel(c.begin) + r.begin * kPanel<T>, dw.panel_stride,
                                     depth, c.end - c.begin, r.end - r.begin);
    });
  }
}

template <class T, class K>
void dense_weight_update(const K& products, int threads, const T* x, Index ldx, const T* dy,
                         Index ldy, const Update<T>& update, const DenseWeights<T>& w, T* state1,
                         T* state2, Index m) {
  const Index n = w.out_features, k = w.in_features;
  const Index bytes = w.panel_stride * padded<T>(n) / kPanel<T> * static_cast<Index>(sizeof(T));
  const int states = (state1 != nullptr) + (state2 != nullptr);
  const bool ahead = m >= kAskRows && bytes * (1 + states) > kAskBytes;
  const Cut cut = cut_of_gradient(m, n, k);
  parallel_for(threads, cut.count(), [&](Index task) {
    const Part r = part(cut.row(task), cut.rows, k, cut.unit);
    const Part c = part(cut.column(task), cut.columns, n, kPanel<T>);
    const Index at = c.begin / kPanel<T> * w.panel_stride + r.begin * kPanel<T>;
    products.dense_weight_update(x + r.begin, ldx, dy + c.begin, ldy, update, w.w + at,
                                 state1 == nullptr ? state1 : state1 + at,
                                 state2 == nullptr ? state2 : state2 + at, w.panel_stride, ahead, m,
                                 c.end - c.begin, r.end - r.begin);
  });
}

template <class T>
void dense_bias_gradient(const KernelsOf<T>& kernels, int threads, const T* dy, Index ldy, T* db,
                         Index m, Index n) {
  // A sum over rows is one chain a column: cut by columns only.
  const Index tasks = std::clamp<Index>(m * n / kTaskFlops, 1, padded<T>(n) / kPanel<T>);
  parallel_for(threads, tasks, [&](Index task) {
    const Part c = part(task, tasks, n, kPanel<T>);
    kernels.column_sums(dy + c.begin, ldy, db + c.begin, m, c.end - c.begin);
  });
}

void round_rows(const Bf16Kernels& products, int threads, const float* x, Index ldx, float* y,
                Index ldy, Index m, Index n) {
  const Index tasks = std::clamp<Index>(m * n / kTaskElements, 1, std::max<Index>(m, 1));
  parallel_for(threads, tasks, [&](Index task) {
    const Part r = part(task, tasks, m, 1);
    products.round_rows(x + r.begin * ldx, ldx, y + r.begin * ldy, ldy, r.end - r.begin, n);
  });
}

void round_row_pairs(const Bf16Kernels& products, int threads, const float* x, Index ldx, float* y,
                     Index ldy, Index m, Index n) {
  const Index tasks = std::clamp<Index>(m * n / kTaskElements, 1, std::max<Index>(m / 2, 1));
  parallel_for(threads, tasks, [&](Index task) {
    const Part r = part(task, tasks, m, 2);
    products.round_row_pairs(x + r.begin * ldx, ldx, y + r.begin / 2 * ldy, ldy, r.end - r.begin,
                             n);
  });
}

void round_weights(const Bf16Kernels& products, int threads, const DenseWeights<const float>& w,
                   float* rows, float* pairs, Index pair_stride) {
  const Index panels = padded<float>(w.out_features) / kPanel<float>;
  parallel_for(threads, panels, [&](Index p) {
    const float* panel = w.w + p * w.panel_stride;
    const Index size = w.in_features * kPanel<float>;
    products.round_rows(panel, size, rows + p * w.panel_stride / 2, size / 2, 1, size);
    products.round_row_pairs(panel, kPanel<float>, pairs + p * pair_stride, kPanel<float>,
                             w.in_features, kPanel<float>);
  });
}

#define DLCORE_INSTANTIATE(T, K)                                                              \
  template void dense_forward(const K&, int, const T*, Index, const DenseWeights<const T>&,   \
                              const T*, Activation, T, T*, T*, Index, Index, const Wanted*);  \
  template void dense_input_gradient(const KernelsOf<T>&, const K&, int, const T*, Index,     \
                                     const DenseWeights<const T>&, const TransposedBatch<T>&, \
                                     bool, T*, Index, Index);                                 \
  template void dense_weight_gradient(const K&, int, const T*, Index, const T*, Index, bool,  \
                                      const DenseWeights<T>&, Index);                         \
  template void dense_weight_update(const K&, int, const T*, Index, const T*, Index,          \
                                    const Update<T>&, const DenseWeights<T>&, T*, T*, Index);
DLCORE_INSTANTIATE(float, KernelsOf<float>)
DLCORE_INSTANTIATE(double, KernelsOf<double>)
DLCORE_INSTANTIATE(float, Bf16Kernels)
#undef DLCORE_INSTANTIATE
template void dense_bias_gradient(const KernelsOf<float>&, int, const float*, Index, float*, Index,
                                  Index);
template void dense_bias_gradient(const KernelsOf<double>&, int, const double*, Index, double*,
                                  Index, Index);

}  // namespace dlcore::ops
