#include "ops/activation.h"

#include <algorithm>

#include "parallel.h"

namespace dlcore::ops {
namespace {

constexpr Index kSmallTask = Index{1} << 14;
// 1 MiB of float32: at least what body-inl.h stores past the caches.
constexpr Index kLargeTask = Index{1} << 18;
constexpr Index kUnit = 64;

}  // namespace

Index elementwise_tasks(Index n) {
  const Index task = n >= 8 * kLargeTask ? kLargeTask : kSmallTask;
  return std::clamp<Index>(n / task, 1, 1 << 16);
}

Shape activation_shape(const Shape& x) { return x; }

template <class T>
void activation_forward(const KernelsOf<T>& kernels, int threads, Activation activation, T alpha,
                        const T* x, T* y, Index n) {
  const Index tasks = elementwise_tasks(n);
  parallel_for(threads, tasks, [&](Index task) {
    const Part p = part(task, tasks, n, kUnit);
    kernels.activation_forward(activation, alpha, x + p.begin, y + p.begin, p.end - p.begin);
  });
}

template <class T>
void activation_backward(const KernelsOf<T>& kernels, int threads, Activation activation, T alpha,
                         const T* dy, const T* saved, T* dx, Index n) {
  const Index tasks = elementwise_tasks(n);
  parallel_for(threads, tasks, [&](Index task) {
    const Part p = part(task, tasks, n, kUnit);
    kernels.activation_backward(activation, alpha, dy + p.begin, saved + p.begin, dx + p.begin,
                                p.end - p.begin);
  });
}

#define DLCORE_INSTANTIATE(T)                                                                     \
  template void activation_forward(const KernelsOf<T>&, int, Activation, T, const T*, T*, Index); \
  template void activation_backward(const KernelsOf<T>&, int, Activation, T, const T*, const T*,  \
                                    T*, Index);
DLCORE_INSTANTIATE(float)
DLCORE_INSTANTIATE(double)
#undef DLCORE_INSTANTIATE

}  // namespace dlcore::ops
