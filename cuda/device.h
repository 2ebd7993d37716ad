#pragma once

// The language of kernels: CUDA's, or its emulation on the CPU (emulated/). The first include of
// every .cu file.

#ifdef DLCORE_EMULATE
#include "emulated/cuda_runtime_api.h"
#include "hostsim.h"
#else
#include <cuda_runtime.h>
#endif

#include <algorithm>

#include "kernels/kernels.h"
#include "launches.h"
#include "runtime.h"
#include "types.h"

namespace dlcore::cuda {

/// How a kernel is started.
struct Launch {
  dim3 grid;
  dim3 block;
  std::size_t shared = 0;
  bool independent = false;  ///< its threads never meet: the emulation then runs them one by one
  int cluster = 1;           ///< blocks that run at the same time and read each other's memory
};

#ifdef DLCORE_EMULATE
inline int atomicOr(int* address, int bits) {
  return __atomic_fetch_or(address, bits, __ATOMIC_RELAXED);
}

template <class... P, class... A>
void launch(cudaStream_t stream, const Launch& how, void (*kernel)(P...), A... arguments) {
  emulated::enqueue(stream, [how, kernel, ... arguments = static_cast<P>(arguments)] {
    hostsim::run(how.grid, how.block, how.shared, how.independent, how.cluster,
                 [&] { kernel(arguments...); });
  });
}

/// Clusters of such a launch that the device can run at the same time.
template <class... P>
int active_clusters(const Launch& how, void (*)(P...)) {
  return how.cluster <= emulated::largest_cluster() ? 1 : 0;
}
#else
/// A launch in clusters; the attribute is borrowed by what is returned.
inline cudaLaunchConfig_t in_clusters(const Launch& how, cudaStream_t stream,
                                      cudaLaunchAttribute* attribute) {
  attribute->id = cudaLaunchAttributeClusterDimension;
  attribute->val.clusterDim = {static_cast<unsigned>(how.cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = how.grid;
  config.blockDim = how.block;
  config.dynamicSmemBytes = how.shared;
  config.stream = stream;
  config.attrs = attribute;
  config.numAttrs = 1;
  return config;
}

template <class... P>
int active_clusters(const Launch& how, void (*kernel)(P...)) {
  cudaLaunchAttribute attribute{};
  const cudaLaunchConfig_t config = in_clusters(how, nullptr, &attribute);
  int count = 0;
  if (cudaOccupancyMaxActiveClusters(&count, kernel, &config) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

template <class... P, class... A>
void launch(cudaStream_t stream, const Launch& how, void (*kernel)(P...), A... arguments) {
  if (how.cluster > 1) {
    cudaLaunchAttribute attribute{};
    const cudaLaunchConfig_t config = in_clusters(how, stream, &attribute);
    check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...),
               "a kernel cannot be started");
    return;
  }
  // clang-format off
  kernel<<<how.grid, how.block, how.shared, stream>>>(static_cast<P>(arguments)...);
  // clang-format on
  check_cuda(cudaGetLastError(), "a kernel cannot be started");
}

#define DLCORE_SHARED(T, name, count) __shared__ T name[count]
#define DLCORE_SHARED_DYNAMIC(T, name)                             \
  extern __shared__ __align__(16) unsigned char dlcore_dynamic_[]; \
  T* const name = reinterpret_cast<T*>(dlcore_dynamic_)
#endif

/// Threads of a block whose elements are all alike.
inline constexpr unsigned kSpreadThreads = 256;

__device__ __forceinline__ Index grid_index() {
  return static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ Index grid_size() { return static_cast<Index>(gridDim.x) * blockDim.x; }

/// Blocks for n independent pieces of work of each network: enough to fill any GPU, and then each
/// thread takes several. Loops over them are not unrolled (`#pragma unroll 1`): to know how many
/// rounds are left over each thread would divide 64 bits, and most threads take one round.
inline Launch spread(Index n, Index networks = 1) {
  const Index blocks = std::min<Index>((n + kSpreadThreads - 1) / kSpreadThreads, Index{1} << 15);
  return {.grid = dim3(static_cast<unsigned>(std::max<Index>(blocks, 1)), 1,
                       static_cast<unsigned>(networks)),
          .block = dim3(kSpreadThreads),
          .independent = true};
}

/// The network that a block works on.
__device__ __forceinline__ Index network_of_block() { return blockIdx.z; }
/// The step of network g that runs, or the one that `finish` has just counted.
__device__ __forceinline__ const StepInput& input_of(const Step& step, Index g, int counted = 0) {
  return step.table[(step.state[g].step - counted) * step.networks + g];
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(Bf16 x) {
  return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}

template <class S>
__device__ __forceinline__ S to_storage(float x);
template <>
__device__ __forceinline__ float to_storage<float>(float x) {
  return x;
}
/// Rounds to the nearest, ties to even; NaN stays NaN.
template <>
__device__ __forceinline__ Bf16 to_storage<Bf16>(float x) {
#ifdef DLCORE_EMULATE
  unsigned bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  bits += 0x7fffu + (bits >> 16 & 1u);
  return {static_cast<uint16_t>(bits >> 16)};
#else
  Bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#endif
}

}  // namespace dlcore::cuda
