#pragma once

#include <functional>
#include <string>
#include <vector>

#include "population_kernel.h"

namespace dlcore::cuda {

/// One dense layer of a chain and the activation after it.
struct PopulationDense {
  Index in, out;
  bool bias;
  Activation activation = Activation::identity;
  float alpha = 0;
};

/// A network's place in shared memory and how many threads its blocks have; bytes are -1 where it
/// has no place.
struct PopulationLayout {
  PopulationNetwork network{};
  int threads = 0;
  Index bytes = -1;  ///< of a block
};

/// Lays a network of this chain out in the shared memory of network->cluster blocks: fills in the
/// sizes and places of `network` (not its pointers, its data or its optimizer) and returns the
/// bytes a block needs. `copies` of its arena are in shared memory: of the weights and their
/// moments, of the weights, or none. Factors that are not there come in pieces of `chunk` along the
/// summed index, 32 or 64.
Index population_place(const std::vector<PopulationDense>& chain, int batch, int copies, int chunk,
                       int threads, PopulationNetwork* network);

/// The first that fits into `limit` bytes of shared memory: weights and moments there, or weights
/// alone, in one block or else in the smallest cluster; if nothing has room for the weights, they
/// stay where they are. `runs` says whether the device can run clusters of so many blocks, of so
/// many threads and bytes. Where nothing fits *why says what. `states` counts the optimizer's
/// moments.
PopulationLayout population_layout(
    const std::vector<PopulationDense>& chain, Index batch, int states, Index limit,
    const std::function<bool(int cluster, int threads, Index bytes)>& runs, std::string* why);

}  // namespace dlcore::cuda
