// Where a population's network lives: in one block, or in a cluster of blocks, each of which has a
// slice of every layer's units. The kernel is written for both. Included by population.cu after
// device.h.

#pragma once

namespace dlcore::cuda {
namespace {

// In the emulation a barrier knows the line it stands on, so that tests can leave it out.
#ifdef DLCORE_EMULATE
#define DLCORE_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#else
#define DLCORE_SITE
#endif

struct OneBlock {
  static constexpr bool kMany = false;

  static __device__ int size() { return 1; }
  static __device__ int rank() { return 0; }
  /// Where an array of this block lies in that of a rank.
  static __device__ const float* in(const float* p, int) { return p; }
  /// After it each thread sees what any has written before.
  static __device__ __forceinline__ void barrier(DLCORE_SITE) {
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

#ifdef DLCORE_EMULATE
  static int size() { return static_cast<int>(hostsim::current->block->cluster->blocks.size()); }
  static int rank() { return hostsim::current->block->rank; }
  static const float* in(const float* p, int rank) { return hostsim::in_block(p, rank); }
  static void barrier(DLCORE_SITE) { hostsim::cluster_barrier(file, line); }
#else
  static __device__ __forceinline__ int size() {
    int size;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return size;
  }
  static __device__ __forceinline__ int rank() {
    int rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
  }
  static __device__ __forceinline__ const float* in(const float* p, int rank) {
    const float* there;
    asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(p), "r"(rank));
    return there;
  }
  // Arriving releases and waiting acquires, in global memory too. Not `.aligned`, which asks for
  // warps whose lanes are known to be together.
  static __device__ __forceinline__ void barrier() {
    asm volatile(
        "barrier.cluster.arrive;\n\t"
        "barrier.cluster.wait;" ::
            : "memory");
  }
#endif
};

#undef DLCORE_SITE

}  // namespace
}  // namespace dlcore::cuda
