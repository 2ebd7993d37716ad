// The products of a population's network: where their factors come from, and how the threads of a
// block share them. Included by population.cu after device.h.

#pragma once

#include "population_blocks.h"
#include "population_kernel.h"
#include "population_tiles.h"

namespace dlcore::cuda {
namespace {

__device__ __forceinline__ int thread_index() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int block_size() { return static_cast<int>(blockDim.x); }

/// Rows of the batch, converted; zero beyond the last example and beyond the last feature.
struct Examples {
  const PopulationNetwork& net;
  int count;  ///< examples of this step

  __device__ void operator()(int example, int feature, float (&v)[4]) const {
    DLCORE_SHARED_DYNAMIC(float, shared);
    const int features = net.layer[0].in;
#pragma unroll
    for (int s = 0; s < 4; ++s) v[s] = 0;
    if (example >= count || feature >= features) return;
    const Index row = reinterpret_cast<const int*>(shared + net.row)[example];
    const Index begin = row * features + feature;
    const float scale = net.x_scale;
    if (net.x_dtype == DType::float64) {
      const auto* x = static_cast<const double*>(net.x) + begin;
      for (int s = 0; s < 4 && feature + s < features; ++s) v[s] = static_cast<float>(x[s]) * scale;
    } else if (net.x_dtype == DType::uint8) {
      const auto* x = static_cast<const unsigned char*>(net.x) + begin;
      if (net.x_aligned) {
        const uchar4 four = *reinterpret_cast<const uchar4*>(x);
        v[0] = static_cast<float>(four.x) * scale;
        v[1] = static_cast<float>(four.y) * scale;
        v[2] = static_cast<float>(four.z) * scale;
        v[3] = static_cast<float>(four.w) * scale;
        return;
      }
      for (int s = 0; s < 4 && feature + s < features; ++s) v[s] = static_cast<float>(x[s]) * scale;
    } else {
      const auto* x = static_cast<const float*>(net.x) + begin;
      if (net.x_aligned) {
        const float4 four = *reinterpret_cast<const float4*>(x);
        v[0] = four.x * scale;
        v[1] = four.y * scale;
        v[2] = four.z * scale;
        v[3] = four.w * scale;
        return;
      }
      for (int s = 0; s < 4 && feature + s < features; ++s) v[s] = x[s] * scale;
    }
  }
};

/// Weights in global memory; zero beyond the last row.
struct Weights {
  const float* p;
  int ld, rows;

  __device__ void operator()(int row, int column, float (&v)[4]) const {
    float4 four = make_float4(0, 0, 0, 0);
    if (row < rows && column < ld) four = *reinterpret_cast<const float4*>(p + row * ld + column);
    v[0] = four.x;
    v[1] = four.y;
    v[2] = four.z;
    v[3] = four.w;
  }
};

/// Copies a rectangle into shared memory, its rows `across` + 4 floats apart; four(row, column,
/// values) fetches four neighbours.
template <class Four>
__device__ void copy_piece(int at, int down, int across, int row, int column, const Four& four) {
  DLCORE_SHARED_DYNAMIC(float, shared);
  for (int i = thread_index() / 16; i < down; i += block_size() / 16) {
    for (int j = thread_index() % 16 * 4; j < across; j += 64) {
      float v[4];
      four(row + i, column + j, v);
      *reinterpret_cast<float4*>(shared + at + i * (across + 4) + j) =
          make_float4(v[0], v[1], v[2], v[3]);
    }
  }
}

/// An array whose columns are the units of a layer, a slice in each block of the cluster; `p` is
/// this block's.
template <class Blocks>
struct UnitColumns {
  const float* p;
  int ld, slice;

  __device__ void operator()(int row, int column, float (&v)[4]) const {
    const int rank = column / slice;
    load_four(Blocks::in(p, rank) + row * ld + column - rank * slice, v);
  }
};

/// The same of an array whose rows are units.
template <class Blocks>
struct UnitRows {
  const float* p;
  int ld, slice;

  __device__ void operator()(int row, int column, float (&v)[4]) const {
    const int rank = row / slice;
    load_four(Blocks::in(p, rank) + (row - rank * slice) * ld + column, v);
  }
};

/// Where a factor of a product comes from: shared memory as it is, or pieces that are fetched
/// there, of the batch, of weights in global memory, or of columns or rows that lie in all blocks.
enum class Source { resident, examples, weights, unit_columns, unit_rows };

template <class Blocks, bool by_k>
struct Operand {
  Source source;
  int at = 0;                    ///< in shared memory: where it lies, or where its pieces come to
  int ld = 0;                    ///< of all but examples
  const float* there = nullptr;  ///< what is not resident, but for examples
  int rows = 0;                  ///< of weights
  int slice = 0;                 ///< of columns and rows of units
  int first = 0;                 ///< of a cluster's weights: what the product calls element 0

  /// Elements (i0, k0) to (i0 + count, k0 + depth) come into shared memory.
  __device__ void fetch(const Examples& examples, int i0, int count, int k0, int depth) const {
    if constexpr (Blocks::kMany) i0 += first;
    const int down = by_k ? depth : count, across = by_k ? count : depth;
    const int row = by_k ? k0 : i0, column = by_k ? i0 : k0;
    if (source == Source::examples) {
      copy_piece(at, down, across, row, column, examples);
    } else if (source == Source::weights) {
      copy_piece(at, down, across, row, column, Weights{there, ld, rows});
    } else if (Blocks::kMany && source == Source::unit_columns) {
      copy_piece(at, down, across, row, column, UnitColumns<Blocks>{there, ld, slice});
    } else if (Blocks::kMany && source == Source::unit_rows) {
      copy_piece(at, down, across, row, column, UnitRows<Blocks>{there, ld, slice});
    }
  }
  /// The factor from element (i0 + i, k0) on, after fetch with the same numbers.
  __device__ Factor<by_k> piece(int i0, int count, int i, int k0, int depth) const {
    if (source == Source::resident) return Factor<by_k>{at, ld}.from(i0 + i, k0);
    return Factor<by_k>{at, (by_k ? count : depth) + 4}.from(i, 0);
  }
};

/// c[m,n] = sum_k a[m,k] b[n,k], handed to finish(row, column, c[row,column], c[row,column + 1]).
/// The factors have zeros, or finite numbers that meet zeros, up to whole tiles. `chunk` is the
/// depth of a piece.
template <class Tiles, int kM, int kN, class A, class B, class Finish>
__device__ void product_of(const PopulationSplit& split, int m, int n, int k, int chunk,
                           const Examples& examples, const A& a, const B& b, Finish finish) {
  const int warp = thread_index() / 32, lane = thread_index() % 32;
  const int i_warp = warp % split.warps_m * kM * 16, j_warp = warp / split.warps_m * kN * 8;
  const int rows = population_tiled(m), columns = (n + 7) / 8 * 8, depth = (k + 7) / 8 * 8;
  const bool in_pieces = a.source != Source::resident || b.source != Source::resident;
  const int step = in_pieces ? chunk : depth;
  for (int j0 = 0; j0 < columns; j0 += split.columns()) {
    for (int i0 = 0; i0 < rows; i0 += split.rows()) {
      const int row_count = min(split.rows(), rows - i0);
      const int column_count = min(split.columns(), columns - j0);
      const int m_tiles = min((row_count - i_warp) / 16, kM);
      const int n_tiles = min((column_count - j_warp) / 8, kN);
      float c[kM][kN][4] = {};
      for (int k0 = 0; k0 < depth; k0 += step) {
        const int count = min(step, depth - k0);
        if (in_pieces) {
          __syncthreads();  // what is there has been read
          a.fetch(examples, i0, row_count, k0, count);
          b.fetch(examples, j0, column_count, k0, count);
          __syncthreads();
        }
        if (m_tiles <= 0 || n_tiles <= 0) continue;
        const auto a_piece = a.piece(i0, row_count, i_warp, k0, count);
        const auto b_piece = b.piece(j0, column_count, j_warp, k0, count);
        if (m_tiles == kM && n_tiles == kN) {
          Tiles::template add<true>(c, a_piece, b_piece, count, kM, kN);
        } else {
          Tiles::template add<false>(c, a_piece, b_piece, count, m_tiles, n_tiles);
        }
      }
#pragma unroll
      for (int i = 0; i < kM; ++i) {
#pragma unroll
        for (int j = 0; j < kN; ++j) {
          if (i >= m_tiles || j >= n_tiles) continue;
          const int row = i0 + i_warp + 16 * i + lane / 4;
          const int column = j0 + j_warp + 8 * j + lane % 4 * 2;
          finish(row, column, c[i][j][0], c[i][j][1]);
          finish(row + 8, column, c[i][j][2], c[i][j][3]);
        }
      }
    }
  }
}

template <class Tiles, class A, class B, class Finish>
__device__ void product(int m, int n, int k, const Examples& examples, const A& a, const B& b,
                        Finish finish) {
  const PopulationSplit split = population_split(m, n, block_size() / 32);
  const int chunk = examples.net.chunk;
  if (split.m_tiles == 2) {
    product_of<Tiles, 2, 8>(split, m, n, k, chunk, examples, a, b, finish);
  } else if (split.n_tiles == 8) {
    product_of<Tiles, 1, 8>(split, m, n, k, chunk, examples, a, b, finish);
  } else {
    product_of<Tiles, 1, 2>(split, m, n, k, chunk, examples, a, b, finish);
  }
}

/// f(row, column) for all elements of a batch's rows in whole tiles.
template <class F>
__device__ void for_each_element(int rows, int columns, F f) {
  for (int i = thread_index() / 32; i < rows; i += block_size() / 32) {
    for (int j = thread_index() % 32; j < columns; j += 32) f(i, j);
  }
}

}  // namespace
}  // namespace dlcore::cuda
