#include "functional.h"

#include <algorithm>
#include <cmath>

#include "check.h"
#include "kernels/select.h"
#include "ops/dense.h"
#include "parallel.h"
#include "parameters.h"

namespace dlcore::functional {
namespace {

/// A copy of rows with the padding that products need.
template <class T>
Buffer<T> padded_rows(const T* x, Index m, Index n, Index ld) {
  Buffer<T> rows(checked_product(m, ld, "dense"));
  for (Index i = 0; i < m; ++i) std::copy_n(x + i * n, n, rows.data() + i * ld);
  return rows;
}

template <class T>
Buffer<T> packed_weight(const T* weight, Index n, Index k, Index stride) {
  Buffer<T> panels(checked_product(padded<T>(n) / kPanel<T>, stride, "dense"));
  pack_weight(weight, n, k, panels.data(), stride);
  return panels;
}

}  // namespace

Shape dense_shape(const Shape& x, const Shape& weight, const Shape& bias) {
  check(!x.empty(), "dense: x needs at least one axis, found ()");
  check(weight.size() == 2, "dense: weight must be (out_features, in_features), found ", weight);
  check(x.back() == weight[1], "dense: x has ", x.back(), " features but weight expects ",
        weight[1], "; x ", x, ", weight ", weight);
  check(bias.empty() || (bias.size() == 1 && bias[0] == weight[0]), "dense: bias must be (",
        weight[0], ",) for weight ", weight, ", found ", bias);
  Shape y = x;
  y.back() = weight[0];
  return y;
}

void check_dense_backward(const Shape& dy, const Shape& x, const Shape& weight) {
  const Shape y = dense_shape(x, weight, {});
  check(dy == y, "dense_backward: dy must be ", y, " for x ", x, " and weight ", weight, ", found ",
        dy);
}

void check_same_shape(const char* operation, const char* a_name, const Shape& a, const char* b_name,
                      const Shape& b) {
  check(a == b, operation, ": ", a_name, " and ", b_name, " must have the same shape; ", a_name,
        " ", a, ", ", b_name, " ", b);
}

void check_cross_entropy(const Shape& logits, const Shape& labels, const Shape& weight) {
  check(logits.size() == 2 && logits[1] >= 1,
        "cross_entropy: logits must be (examples, classes), found ", logits);
  check(labels.size() == 1 && labels[0] == logits[0], "cross_entropy: labels must be (", logits[0],
        ",) for logits ", logits, ", found ", labels);
  check(weight.empty() || weight == labels, "cross_entropy: sample_weight must be ", labels,
        ", found ", weight);
}

void check_sample_weight(const char* operation, const double* weight, const Shape& shape, Index n) {
  check(shape.size() == 1 && shape[0] == n, operation, ": sample_weight must be (", n, ",), found ",
        shape);
  for (Index i = 0; i < n; ++i) {
    check(std::isfinite(weight[i]) && weight[i] >= 0, operation,
          ": sample_weight must be finite and not negative, found ", weight[i], " at index ", i);
  }
}

void check_step(const char* operation, Index step) {
  check(step >= 1, operation, ": step counts from 1, found ", step);
}

template <class T>
void dense_forward(const T* x, const T* weight, const T* bias, T* y, Index m, Index n, Index k) {
  const auto& kernels = dlcore::kernels().of<T>();
  const int threads = threads_for(m * n + n * k);
  const Index stride = panel_stride_of<T>(k), ldx = leading_dimension<T>(k);
  const Index ldy = leading_dimension<T>(n);
  const Buffer<T> rows = padded_rows(x, m, k, ldx), panels = packed_weight(weight, n, k, stride);
  Buffer<T> padded_bias(bias == nullptr ? 0 : padded<T>(n)),
      result(checked_product(m, ldy, "dense"));
  if (bias != nullptr) std::copy_n(bias, n, padded_bias.data());
  ops::dense_forward<T>(kernels, threads, rows.data(), ldx, {panels.data(), stride, k, n},
                        padded_bias.data(), Activation::identity, 0, nullptr, result.data(), ldy,
                        m);
  for (Index i = 0; i < m; ++i) std::copy_n(result.data() + i * ldy, n, y + i * n);
}

template <class T>
void dense_backward(const T* dy, const T* x, const T* weight, T* dx, T* dw, T* db, Index m, Index n,
                    Index k) {
  const auto& kernels = dlcore::kernels().of<T>();
  const int threads = threads_for(m * n + n * k);
  const Index stride = panel_stride_of<T>(k), ldx = leading_dimension<T>(k);
  const Index ldy = leading_dimension<T>(n), ldt = leading_dimension<T>(m);
  const Buffer<T> panels = packed_weight(weight, n, k, stride);
  const Buffer<T> x_rows = padded_rows(x, m, k, ldx), dy_rows = padded_rows(dy, m, n, ldy);
  const bool transposes = ops::transposes_batch(m, n, k);
  Buffer<T> dyt(transposes ? checked_product(n, ldt, "dense") : 0);
  Buffer<T> dxt(transposes ? checked_product(k, ldt, "dense") : 0);
  Buffer<T> dx_rows(checked_product(m, ldx, "dense")), dw_panels(panels.size());
  ops::dense_input_gradient<T>(kernels, kernels, threads, dy_rows.data(), ldy,
                               {panels.data(), stride, k, n}, {dyt.data(), dxt.data(), ldt}, false,
                               dx_rows.data(), ldx, m);
  for (Index i = 0; i < m; ++i) std::copy_n(dx_rows.data() + i * ldx, k, dx + i * k);
  ops::dense_weight_gradient<T>(kernels, threads, x_rows.data(), ldx, dy_rows.data(), ldy, false,
                                {dw_panels.data(), stride, k, n}, m);
  unpack_weight(dw_panels.data(), stride, n, k, dw);
  ops::dense_bias_gradient(kernels, threads, dy_rows.data(), ldy, db, m, n);
}

template <class T>
double loss(const ops::Loss& loss, const T* x, const Index* labels, const T* target,
            const double* weight, T* dx, Index m, Index n) {
  Buffer<T> scratch(checked_product(3, m, "loss"));
  ops::TargetShape shape;
  shape.features = n;
  shape.width = loss.has_labels() ? 1 : n;
  double total = static_cast<double>(m);
  if (weight != nullptr) {
    total = 0;
    for (Index i = 0; i < m; ++i) total += weight[i];
  }
  const ops::LossSums sums = ops::loss_forward_backward<T>(
      dlcore::kernels().of<T>(), threads_for(m * n), loss, shape, x, n, labels, target, n, weight,
      total, {scratch.data(), scratch.data() + m, scratch.data() + 2 * m}, dx, n, m);
  return sums.mean_loss();
}

template <class T>
void softmax(const T* x, T* y, Index m, Index n) {
  const auto& kernels = dlcore::kernels().of<T>();
  const Index tasks = std::max<Index>(1, std::min(m, m * n / (1 << 13)));
  parallel_for(threads_for(m * n), tasks, [&](Index task) {
    const Part r = part(task, tasks, m, 1);
    kernels.softmax(x + r.begin * n, n, y + r.begin * n, n, r.end - r.begin, n);
  });
}

#define DLCORE_INSTANTIATE(T)                                                                  \
  template void dense_forward(const T*, const T*, const T*, T*, Index, Index, Index);          \
  template void dense_backward(const T*, const T*, const T*, T*, T*, T*, Index, Index, Index); \
  template double loss(const ops::Loss&, const T*, const Index*, const T*, const double*, T*,  \
                       Index, Index);                                                          \
  template void softmax(const T*, T*, Index, Index);
DLCORE_INSTANTIATE(float)
DLCORE_INSTANTIATE(double)
#undef DLCORE_INSTANTIATE

}  // namespace dlcore::functional
