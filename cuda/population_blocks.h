// Where a population's network lives: in one block, or in a cluster of blocks, each of which has a
// slice of every layer's units. The kernel is written for both. Included by population.cu after
// device.h.

#pragma once

namespace dlcore::cuda {
namespace {

struct OneBlock {
  static constexpr bool kMany = false;

  static __device__ int size() { return 1; }
  static __device__ int rank() { return 0; }
  /// Where an array of this block lies in that of a rank.
  static __device__ const float* in(const float* p, int) { return p; }
  /// After it each thread sees what any has written before. The emulation asks for the place of the
  /// call, so that tests can leave it out.
  static __device__ __forceinline__ void barrier(
      [[maybe_unused]] const char* file = __builtin_FILE(),
      [[maybe_unused]] int line = __builtin_LINE()) {
#ifdef DLCORE_EMULATE
    __syncthreads(file, line);
#else
    __syncthreads();
#endif
  }
};

/// Blocks that run at the same time and may read each other's shared memory (compute capability 9);
/// shared memory is laid out alike in all of them.
struct ClusterOfBlocks {
  static constexpr bool kMany = true;

  static __device__ __forceinline__ int size() {
#ifdef DLCORE_EMULATE
    return hostsim::cluster_size();
#else
    int size;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return size;
#endif
  }
  static __device__ __forceinline__ int rank() {
#ifdef DLCORE_EMULATE
    return hostsim::cluster_rank();
#else
    int rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
#endif
  }
  static __device__ __forceinline__ const float* in(const float* p, int rank) {
#ifdef DLCORE_EMULATE
    return hostsim::in_block(p, rank);
#else
    const float* there;
    asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(p), "r"(rank));
    return there;
#endif
  }
  static __device__ __forceinline__ void barrier(
      [[maybe_unused]] const char* file = __builtin_FILE(),
      [[maybe_unused]] int line = __builtin_LINE()) {
#ifdef DLCORE_EMULATE
    hostsim::cluster_barrier(file, line);
#else
    // Arriving releases and waiting acquires, in global memory too. Not `.aligned`, which asks for
    // warps whose lanes are known to be together.
    asm volatile("barrier.cluster.arrive;\n\tbarrier.cluster.wait;" ::: "memory");
#endif
  }
};

}  // namespace
}  // namespace dlcore::cuda
