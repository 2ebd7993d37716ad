#pragma once

#include "lt.h"
#include "population_kernel.h"
#include "runtime.h"

/// Starts the population kernel (population.cu).
namespace dlcore::cuda {

/// How networks are started; those that are started together agree in all of it, but that each may
/// need less shared memory.
struct PopulationLaunch {
  lt::Precision precision;
  int cluster;  ///< blocks of a network
  int threads;  ///< of a block
  Index shared_bytes;
};

/// Clusters that the current device can run at the same time; 0 where it cannot run any.
int active_population_clusters(const PopulationLaunch& launch);

void start_population(cudaStream_t stream, const PopulationNetwork* networks, int count,
                      const PopulationLaunch& how);

}  // namespace dlcore::cuda
