#pragma once

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

/// Lays a network of this chain out in shared memory: fills in the sizes and places of `network`
/// (not its pointers, its data or its optimizer) and returns the bytes a block needs. `copies` of
/// its arena are in shared memory: of the weights and their moments, of the weights, or none.
/// Factors that are not there come in pieces of `chunk` along the summed index, 32 or 64.
Index population_place(const std::vector<PopulationDense>& chain, int batch, int copies, int chunk,
                       int threads, PopulationNetwork* network);

/// The first that fits into `limit` bytes: everything in shared memory, moments where they are,
/// weights too. Returns its bytes or -1, and then *why says what does not fit. `states` counts the
/// optimizer's moments.
Index population_layout(const std::vector<PopulationDense>& chain, Index batch, int states,
                        int threads, Index limit, PopulationNetwork* network, std::string* why);

}  // namespace dlcore::cuda
