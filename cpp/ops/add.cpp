#include "ops/add.h"

#include <algorithm>

#include "check.h"
#include "ops/activation.h"
#include "parallel.h"

namespace dlcore::ops {

Shape add_shape(const Shape& a, const Shape& b) {
  check(a == b, "residual: the block must keep its input's shape, but maps ", a, " to ", b);
  return a;
}

template <class T>
void add_backward(const KernelsOf<T>& kernels, int threads, const T* dy, bool add, T* dx, Index n) {
  const Index tasks = elementwise_tasks(n);
  parallel_for(threads, tasks, [&](Index task) {
    const Part p = part(task, tasks, n, 1);
    if (add) {
      kernels.add(dy + p.begin, dx + p.begin, p.end - p.begin);
    } else {
      std::copy(dy + p.begin, dy + p.end, dx + p.begin);
    }
  });
}

template <class T>
void add_forward(const KernelsOf<T>& kernels, int threads, const T* a, const T* b, T* y, Index n) {
  const Index tasks = elementwise_tasks(n);
  parallel_for(threads, tasks, [&](Index task) {
    const Part p = part(task, tasks, n, 1);
    if (a != y) std::copy(a + p.begin, a + p.end, y + p.begin);
    kernels.add(b + p.begin, y + p.begin, p.end - p.begin);
  });
}

#define DLCORE_INSTANTIATE(T)                                                         \
  template void add_forward(const KernelsOf<T>&, int, const T*, const T*, T*, Index); \
  template void add_backward(const KernelsOf<T>&, int, const T*, bool, T*, Index);
DLCORE_INSTANTIATE(float)
DLCORE_INSTANTIATE(double)
#undef DLCORE_INSTANTIATE

}  // namespace dlcore::ops
