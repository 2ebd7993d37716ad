#pragma once

#include <cstddef>

#include "kernels/kernels.h"
#include "types.h"

/// What the host tells the population kernel: one description a network, which one block of threads
/// trains, or a cluster of blocks.
/// Everything here is plain memory, the same on both sides.
namespace dlcore::cuda {

inline constexpr int kPopulationLayers = 12;

/// Blocks of the largest cluster; every device that has clusters has those of 8.
inline constexpr int kPopulationCluster = 8;

/// Rows of weights and of activations in shared memory lie an odd multiple of 4 floats apart, so
/// that the eight rows and four columns that a warp reads at once fall into 32 different banks.
constexpr int population_ld(int features) { return (features + 7) / 8 * 8 + 4; }

/// Numbers in whole tiles of 16.
constexpr int population_tiled(int rows) { return (rows + 15) / 16 * 16; }

/// A dense layer and the activation after it. Offsets count floats.
struct PopulationLayer {
  int in, out;
  int slice;  ///< units of a block, whole tiles; the last blocks of a cluster may have fewer or
              ///< none
  Activation activation;
  float alpha;
  int bias;         ///< in the network's arena in global memory, -1 without
  int weight, ld;   ///< there too; columns in .. round_up(in, 8) hold zero
  int shared_bias;  ///< in the arena's copy in shared memory: whole tiles, zero without a bias
  int shared_weight, shared_ld;
  int y, y_ld;  ///< in shared memory, a row an example, a column a unit of the block
  int z;        ///< argument of the activation where its derivative needs that, else y
  int dy;
};

/// The units of a layer that a block of a cluster has.
struct PopulationUnits {
  int first, count;
};
constexpr PopulationUnits population_units(const PopulationLayer& layer, int rank) {
  const int first = rank * layer.slice, left = layer.out - first;
  return {first, left < 0 ? 0 : left < layer.slice ? left : layer.slice};
}

/// How the optimizer's coefficients change from step to step.
struct PopulationRate {
  float learning_rate, step_size, inverse_root, decay;
};

/// What one launch did to one network.
struct PopulationResult {
  double loss, correct, weight;  ///< sums as of ops::LossSums over the steps done
  int steps;                     ///< done; less than asked for where a loss was not finite
  int finite;                    ///< whether all parameters are finite after them
};

enum class PopulationLoss { cross_entropy, binary_cross_entropy, mse, huber };

struct PopulationNetwork {
  int cluster;  ///< blocks
  int layers;
  PopulationLayer layer[kPopulationLayers];

  float* parameters;  ///< arenas in global memory; a moment is null where the rule has none
  float* moment1;
  float* moment2;
  int shared_arena;  ///< floats of a copy in shared memory
  // Where the copies begin, or -1 for an arena that is used where it lies: the cache holds it.
  int shared_parameters, shared_moment1, shared_moment2;

  // Shared memory that belongs to no layer.
  int stage_a, stage_b;                 ///< pieces of factors that lie elsewhere
  int chunk;                            ///< summed index of one piece
  int row, row_weight, value, correct;  ///< one number an example of the batch
  int sums;                             ///< kPopulationSums doubles; even

  const void* x;
  DType x_dtype;   ///< uint8, float32 or float64
  bool x_aligned;  ///< four neighbours can be read at once
  float x_scale;
  const int* labels;      ///< cross-entropy
  const float* targets;   ///< other losses: one number an output
  const double* weights;  ///< null: all 1
  const int* order;       ///< rows in the order of this launch's steps; null: 0, 1, ...
  int examples;           ///< in it
  int batch, steps;       ///< the last step has what is left

  PopulationLoss loss;
  float delta;
  bool train;  ///< else the loss is worked out and nothing changes
  Update<float> update;
  const PopulationRate* rates;  ///< one a step

  PopulationResult* result;
};

inline constexpr int kPopulationSums = 12;

/// How a block's warps share a product of m rows and n columns: each takes m_tiles x n_tiles tiles
/// of 16 x 8 at a time, warps_m x warps_n of these lie side by side.
struct PopulationSplit {
  int m_tiles, n_tiles, warps_m, warps_n;

  constexpr int rows() const { return warps_m * m_tiles * 16; }
  constexpr int columns() const { return warps_n * n_tiles * 8; }
};

/// The largest pieces that still give every warp something to do; `warps` is a power of two.
constexpr PopulationSplit population_split(int m, int n, int warps) {
  const auto of = [&](int m_tiles, int n_tiles) {
    PopulationSplit split{m_tiles, n_tiles, 1, 1};
    while (split.warps_m < warps && split.rows() < m) split.warps_m *= 2;
    split.warps_n = warps / split.warps_m;
    return split;
  };
  const auto pieces = [&](int m_tiles, int n_tiles) {
    return (m + 16 * m_tiles - 1) / (16 * m_tiles) * ((n + 8 * n_tiles - 1) / (8 * n_tiles));
  };
  if (pieces(2, 8) >= warps) return of(2, 8);
  return pieces(1, 8) >= warps ? of(1, 8) : of(1, 2);
}

}  // namespace dlcore::cuda
