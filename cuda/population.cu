#include "device.h"
#define DLCORE_SCALAR
#include "kernels/functors.h"
#include "population_blocks.h"
#include "population_kernel.h"
#include "population_launch.h"
#include "population_tiles.h"

// A block trains one network for the steps of a launch. Weights, moments and activations lie in
// shared memory (weights and moments that do not fit are read through the caches), and the only
// thing fetched again and again is the data, by row. Every sum is a chain or a fixed tree whose
// order depends on the network's own shape alone: not on the block's size, nor on the networks
// beside it.
//
// A cluster of blocks trains a network that is too large for one. Each block has a slice of every
// layer's units: their weights and moments, their values and derivatives. What a product needs of
// other blocks it fetches piece by piece from their shared memory, so that each sum is made in one
// place, in the same order as in one block, to the same bits. Nothing is written to another block.

namespace dlcore::cuda {
namespace {

constexpr int kBlock = 256;

__device__ __forceinline__ int thread_index() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int block_size() { return static_cast<int>(blockDim.x); }

__device__ float activate_any(Activation activation, float x, float alpha) {
  switch (activation) {
    case Activation::relu: return activate<Activation::relu, float>(x, alpha);
    case Activation::leaky_relu: return activate<Activation::leaky_relu, float>(x, alpha);
    case Activation::sigmoid: return activate<Activation::sigmoid, float>(x, alpha);
    case Activation::tanh: return activate<Activation::tanh, float>(x, alpha);
    case Activation::gelu: return activate<Activation::gelu, float>(x, alpha);
    case Activation::gelu_tanh: return activate<Activation::gelu_tanh, float>(x, alpha);
    case Activation::silu: return activate<Activation::silu, float>(x, alpha);
    case Activation::softplus: return activate<Activation::softplus, float>(x, alpha);
    default: return x;
  }
}

__device__ float activate_backward_any(Activation activation, float dy, float saved, float alpha) {
  switch (activation) {
    case Activation::relu: return activate_backward<Activation::relu, float>(dy, saved, alpha);
    case Activation::leaky_relu:
      return activate_backward<Activation::leaky_relu, float>(dy, saved, alpha);
    case Activation::sigmoid:
      return activate_backward<Activation::sigmoid, float>(dy, saved, alpha);
    case Activation::tanh: return activate_backward<Activation::tanh, float>(dy, saved, alpha);
    case Activation::gelu: return activate_backward<Activation::gelu, float>(dy, saved, alpha);
    case Activation::gelu_tanh:
      return activate_backward<Activation::gelu_tanh, float>(dy, saved, alpha);
    case Activation::silu: return activate_backward<Activation::silu, float>(dy, saved, alpha);
    case Activation::softplus:
      return activate_backward<Activation::softplus, float>(dy, saved, alpha);
    default: return dy;
  }
}

/// One array of parameters or of a moment of them; p is null where the rule has no such moment.
struct Parameters {
  float* p;
  int ld;

  __device__ float* at(int row, int column) const { return p + row * ld + column; }
};

/// A layer's weights, their moments and its bias, wherever they lie.
struct LayerParameters {
  Parameters weight[3];
  float* bias[3];
};

/// Those of units `first` and after, which are the block's.
__device__ LayerParameters parameters_of(const PopulationNetwork& net, const PopulationLayer& l,
                                         int first) {
  DLCORE_SHARED_DYNAMIC(float, shared);
  float* const global[] = {net.parameters, net.moment1, net.moment2};
  const int copy[] = {net.shared_parameters, net.shared_moment1, net.shared_moment2};
  LayerParameters of;
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    if (copy[i] >= 0) {
      of.weight[i] = {shared + copy[i] + l.shared_weight, l.shared_ld};
      of.bias[i] = shared + copy[i] + l.shared_bias;
    } else {
      const bool exists = global[i] != nullptr;
      of.weight[i] = {exists ? global[i] + l.weight + first * l.ld : nullptr, l.ld};
      of.bias[i] = exists && l.bias >= 0 ? global[i] + l.bias + first : nullptr;
    }
  }
  return of;
}

/// One optimizer step on one number.
__device__ void update_one(const Update<float>& update, float* w, float g, float* m1, float* m2) {
  float weight = *w;
  if (update.rule == Rule::sgd) {
    if (m1 == nullptr) {
      update_sgd<float>(update, weight, g);
    } else {
      float velocity = *m1;
      update_momentum<float>(update, weight, g, velocity);
      *m1 = velocity;
    }
  } else {
    float first = *m1, second = *m2;
    if (update.rule == Rule::adamw) {
      update_adam<true, float>(update, weight, g, first, second);
    } else {
      update_adam<false, float>(update, weight, g, first, second);
    }
    *m1 = first;
    *m2 = second;
  }
  *w = weight;
}

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

/// One step's work on one network.
template <class Tiles, class Blocks>
struct PopulationStep {
  const PopulationNetwork& net;
  int count;  ///< examples of this step

  static __device__ PopulationUnits units_of(const PopulationLayer& l) {
    return Blocks::kMany ? population_units(l, Blocks::rank()) : PopulationUnits{0, l.out};
  }

  /// A layer's weights as factor of a product: this block's rows, or by columns those of all blocks
  /// from column `first` on.
  template <bool by_k>
  __device__ Operand<Blocks, by_k> weights_of(const PopulationLayer& l, int first) const {
    DLCORE_SHARED_DYNAMIC(float, shared);
    if (net.shared_parameters < 0) {
      const float* const weight = net.parameters + l.weight;
      return {Source::weights, net.stage_b, l.ld, weight, l.out, 0, first};
    }
    const int at = net.shared_parameters + l.shared_weight;
    if (Blocks::kMany && by_k) {
      return {Source::unit_rows, net.stage_b, l.shared_ld, shared + at, 0, l.slice, first};
    }
    return {Source::resident, at, l.shared_ld};
  }

  /// A layer's values, or derivatives by them, at `offset`: of all its units.
  template <bool by_k>
  __device__ Operand<Blocks, by_k> all_units(const PopulationLayer& l, int offset,
                                             int stage) const {
    DLCORE_SHARED_DYNAMIC(float, shared);
    if (!Blocks::kMany) return {Source::resident, offset, l.y_ld};
    return {Source::unit_columns, stage, l.y_ld, shared + offset, 0, l.slice};
  }

  /// What goes into layer `index`.
  template <bool by_k>
  __device__ Operand<Blocks, by_k> input_of(int index, int stage) const {
    if (index == 0) return {Source::examples, stage};
    const PopulationLayer& before = net.layer[index - 1];
    return all_units<by_k>(before, before.y, stage);
  }

  /// y = activation(x w + b) of layer `index`.
  __device__ void forward(int index) const {
    DLCORE_SHARED_DYNAMIC(float, shared);
    const PopulationLayer& l = net.layer[index];
    const PopulationUnits own = units_of(l);
    const LayerParameters p = parameters_of(net, l, own.first);
    const int rows = population_tiled(net.batch), out = own.count, ld = l.y_ld;
    float* const z = shared + l.z;
    const float* const bias = p.bias[0];
    const auto finish = [&](int row, int column, float first, float second) {
      const bool has = bias != nullptr;
      first += has && column < out ? bias[column] : 0.0f;
      second += has && column + 1 < out ? bias[column + 1] : 0.0f;
      *reinterpret_cast<float2*>(z + row * ld + column) = make_float2(first, second);
    };
    product<Tiles>(rows, out, l.in, Examples{net, count}, input_of<false>(index, net.stage_a),
                   weights_of<false>(l, own.first), finish);
    if (l.activation == Activation::identity) return;
    __syncthreads();
    for_each_element(rows, (out + 7) / 8 * 8, [&](int i, int j) {
      shared[l.y + i * ld + j] = activate_any(l.activation, z[i * ld + j], l.alpha);
    });
  }

  /// Loss of every example, and its derivative by the outputs of the last layer that the block has;
  /// zero rows where the tiles go on behind the last example. Every block of a cluster works out
  /// all losses, and so each knows by itself when to stop.
  __device__ void losses() const {
    DLCORE_SHARED_DYNAMIC(float, shared);
    const PopulationLayer& l = net.layer[net.layers - 1];
    const PopulationUnits own = units_of(l);
    const auto* rows = reinterpret_cast<const int*>(shared + net.row);
    for (int i = thread_index(); i < population_tiled(net.batch); i += block_size()) {
      const float* here = shared + l.y + i * l.y_ld;
      const auto y = [&](int j) {
        if (!Blocks::kMany) return here[j];
        const int rank = j / l.slice;
        return Blocks::in(here, rank)[j - rank * l.slice];
      };
      float* dy = shared + l.dy + i * l.y_ld;
      for (int j = i < count ? own.count : 0; j < l.y_ld; ++j) dy[j] = 0;
      if (i >= count) continue;
      const float weight = shared[net.row_weight + i];
      float value = 0, correct = 0;
      if (net.loss == PopulationLoss::cross_entropy) {
        cross_entropy(y, dy, own, l.out, net.labels[rows[i]], weight, &value, &correct);
      } else {
        const float* target = net.targets + Index{rows[i]} * l.out;
        for (int j = 0; j < l.out; ++j) {
          const float x = y(j), wanted = target[j];
          correct += (x > 0) == (wanted > 0.5f) ? 1.0f : 0.0f;
          const float derivative = element(x, wanted, &value);
          if (has(own, j)) dy[j - own.first] = derivative * weight;
        }
        correct = net.loss == PopulationLoss::binary_cross_entropy
                      ? correct / static_cast<float>(l.out)
                      : 0.0f;
      }
      // An example of weight 0 counts as absent, even where its loss is not finite.
      if (weight == 0) {
        for (int j = 0; j < own.count; ++j) dy[j] = 0;
      }
      shared[net.value + i] = value;
      shared[net.correct + i] = correct;
    }
  }

  static __device__ bool has(const PopulationUnits& own, int unit) {
    return !Blocks::kMany || (unit >= own.first && unit < own.first + own.count);
  }

  template <class Y>
  static __device__ void cross_entropy(const Y& y, float* dy, const PopulationUnits& own, int n,
                                       int label, float weight, float* value, float* correct) {
    // Read before dy, which may be y, is written.
    const float chosen = y(label);
    float largest = y(0);
    int first = 0;
    for (int j = 1; j < n; ++j) {
      if (y(j) > largest) {
        largest = y(j);
        first = j;
      }
    }
    float sum = 0;
    for (int j = 0; j < n; ++j) {
      const float e = exp<float>(y(j) - largest);
      sum += e;
      if (has(own, j)) dy[j - own.first] = e;
    }
    const float scale = weight / sum;
    for (int j = 0; j < own.count; ++j) dy[j] = dy[j] * scale;
    if (has(own, label)) dy[label - own.first] -= weight;
    *value = (largest - chosen) + log<float>(sum);
    *correct = first == label ? 1.0f : 0.0f;
  }

  /// Adds the loss of one output to *value and returns its derivative.
  __device__ float element(float x, float target, float* value) const {
    const float delta = net.delta;
    if (net.loss == PopulationLoss::binary_cross_entropy) {
      constexpr ElementLoss kLoss = ElementLoss::binary_cross_entropy;
      *value += element_value<kLoss, float>(x, target, delta);
      return element_gradient<kLoss, float>(x, target, delta);
    }
    if (net.loss == PopulationLoss::mse) {
      *value += element_value<ElementLoss::mse, float>(x, target, delta);
      return element_gradient<ElementLoss::mse, float>(x, target, delta);
    }
    *value += element_value<ElementLoss::huber, float>(x, target, delta);
    return element_gradient<ElementLoss::huber, float>(x, target, delta);
  }

  /// dy of layer `index`, so far by its result, becomes that by its argument.
  __device__ void activation_backward(int index) const {
    DLCORE_SHARED_DYNAMIC(float, shared);
    const PopulationLayer& l = net.layer[index];
    const bool identity = l.activation == Activation::identity;
    // In a cluster others may still read this layer's y, in `update` of the layer after it.
    if (identity && (!Blocks::kMany || index == net.layers - 1)) return;
    const int saved = gradient_from_result(l.activation) ? l.y : l.z;
    const int columns = identity ? 0 : (units_of(l).count + 7) / 8 * 8;
    for_each_element(population_tiled(net.batch), columns, [&](int i, int j) {
      float& dy = shared[l.dy + i * l.y_ld + j];
      dy = activate_backward_any(l.activation, dy, shared[saved + i * l.y_ld + j], l.alpha);
    });
    Blocks::barrier();
  }

  /// dy of the layer before `index` by its result.
  __device__ void input_gradient(int index) const {
    DLCORE_SHARED_DYNAMIC(float, shared);
    const PopulationLayer& l = net.layer[index];
    const PopulationLayer& before = net.layer[index - 1];
    const PopulationUnits own = units_of(before);
    const auto finish = [&](int row, int column, float first, float second) {
      *reinterpret_cast<float2*>(shared + before.dy + row * before.y_ld + column) =
          make_float2(first, second);
    };
    product<Tiles>(population_tiled(net.batch), own.count, l.out, Examples{net, count},
                   all_units<false>(l, l.dy, net.stage_a), weights_of<true>(l, own.first), finish);
    // The weights are read; dy is there.
    Blocks::barrier();
  }

  /// The gradient of layer `index`, each of its elements applied as soon as it is known.
  __device__ __forceinline__ void update(int index, const Update<float>& rule) const {
    DLCORE_SHARED_DYNAMIC(float, shared);
    const PopulationLayer& l = net.layer[index];
    const PopulationUnits own = units_of(l);
    const LayerParameters p = parameters_of(net, l, own.first);
    const Operand<Blocks, true> dy{Source::resident, l.dy, l.y_ld};
    const int in = l.in, out = own.count;
    const auto finish = [&](int row, int column, float first, float second) {
      if (row >= out) return;
      const float g[] = {first, second};
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const int j = column + s;
        if (j >= in) continue;
        const Parameters& m1 = p.weight[1];
        const Parameters& m2 = p.weight[2];
        update_one(rule, p.weight[0].at(row, j), g[s], m1.p == nullptr ? nullptr : m1.at(row, j),
                   m2.p == nullptr ? nullptr : m2.at(row, j));
      }
    };
    product<Tiles>(out, in, count, Examples{net, count}, dy, input_of<true>(index, net.stage_b),
                   finish);
    if (l.bias < 0) return;
    for (int j = thread_index(); j < out; j += block_size()) {
      float sum = 0;
      for (int i = 0; i < count; ++i) sum += shared[l.dy + i * l.y_ld + j];
      update_one(rule, p.bias[0] + j, sum, p.bias[1] == nullptr ? nullptr : p.bias[1] + j,
                 p.bias[2] == nullptr ? nullptr : p.bias[2] + j);
    }
  }
};

/// The sum of a double of every lane; the same for all lanes.
__device__ double warp_sum(double x) {
#pragma unroll
  for (int bits = 16; bits > 0; bits /= 2) x += __shfl_xor_sync(0xffffffffu, x, bits);
  return x;
}

/// Fetches which examples this step has and what each counts; leaves the weight of all in sums[0].
__device__ void fetch_rows(const PopulationNetwork& net, int begin, int count) {
  DLCORE_SHARED_DYNAMIC(float, shared);
  auto* rows = reinterpret_cast<int*>(shared + net.row);
  auto* sums = reinterpret_cast<double*>(shared + net.sums);
  const auto row_of = [&](int i) {
    return net.order == nullptr ? begin + i : net.order[begin + i];
  };
  for (int i = thread_index(); i < count; i += block_size()) rows[i] = row_of(i);
  if (thread_index() < 32) {
    double total = 0;
    for (int i = thread_index(); i < count; i += 32) {
      total += net.weights == nullptr ? 1.0 : net.weights[row_of(i)];
    }
    total = warp_sum(total);
    if (thread_index() == 0) sums[0] = total;
  }
}

__device__ void share_weights(const PopulationNetwork& net, int count) {
  DLCORE_SHARED_DYNAMIC(float, shared);
  const auto* rows = reinterpret_cast<const int*>(shared + net.row);
  const double total = reinterpret_cast<const double*>(shared + net.sums)[0];
  const int out = net.layer[net.layers - 1].out;
  const double width = net.loss == PopulationLoss::cross_entropy ? 1.0 : static_cast<double>(out);
  const double share = total > 0 ? 1 / (total * width) : 0.0;
  for (int i = thread_index(); i < count; i += block_size()) {
    const double weight = net.weights == nullptr ? 1.0 : net.weights[rows[i]];
    shared[net.row_weight + i] = static_cast<float>(weight * share);
  }
}

/// Sums of the step's losses, right answers and weights into sums[1..3], by the first warp.
__device__ void sum_losses(const PopulationNetwork& net, int count) {
  DLCORE_SHARED_DYNAMIC(float, shared);
  if (thread_index() >= 32) return;
  const auto* rows = reinterpret_cast<const int*>(shared + net.row);
  auto* sums = reinterpret_cast<double*>(shared + net.sums);
  const int out = net.layer[net.layers - 1].out;
  const double width = net.loss == PopulationLoss::cross_entropy ? 1.0 : static_cast<double>(out);
  double loss = 0, correct = 0, total = 0;
  for (int i = thread_index(); i < count; i += 32) {
    const double weight = net.weights == nullptr ? 1.0 : net.weights[rows[i]];
    if (weight == 0) continue;
    loss += weight * static_cast<double>(shared[net.value + i]) / width;
    correct += weight * static_cast<double>(shared[net.correct + i]);
    total += weight;
  }
  loss = warp_sum(loss);
  correct = warp_sum(correct);
  total = warp_sum(total);
  if (thread_index() == 0) {
    sums[1] = loss;
    sums[2] = correct;
    sums[3] = total;
  }
}

/// Calls f(place in the arena, place in its copy in shared memory) for all weights and biases that
/// the block has.
template <class F>
__device__ void for_each_parameter(const PopulationNetwork& net, int rank, F f) {
  for (int index = 0; index < net.layers; ++index) {
    const PopulationLayer& l = net.layer[index];
    const PopulationUnits own = population_units(l, rank);
    const int weight = l.weight + own.first * l.ld, bias = l.bias + own.first;
    for_each_element(own.count, l.in, [&](int i, int j) {
      f(weight + i * l.ld + j, l.shared_weight + i * l.shared_ld + j);
    });
    for (int j = thread_index(); l.bias >= 0 && j < own.count; j += block_size()) {
      f(bias + j, l.shared_bias + j);
    }
  }
}

/// Copies an arena into shared memory, padding included, or back from there.
__device__ void load_arena(const PopulationNetwork& net, int rank, const float* global, int at) {
  DLCORE_SHARED_DYNAMIC(float, shared);
  for (int i = thread_index(); i < net.shared_arena; i += block_size()) shared[at + i] = 0;
  __syncthreads();
  for_each_parameter(net, rank, [&](int i, int copy) { shared[at + copy] = global[i]; });
}

__device__ void store_arena(const PopulationNetwork& net, int rank, float* global, int at) {
  DLCORE_SHARED_DYNAMIC(float, shared);
  for_each_parameter(net, rank, [&](int i, int copy) { global[i] = shared[at + copy]; });
}

/// Whether this thread sees a parameter that is not finite.
__device__ bool finds_not_finite(const PopulationNetwork& net, int rank) {
  DLCORE_SHARED_DYNAMIC(float, shared);
  bool found = false;
  const int at = net.shared_parameters;
  for_each_parameter(net, rank, [&](int i, int copy) {
    const float w = at >= 0 ? shared[at + copy] : net.parameters[i];
    found = found || !(abs(w) <= 3.402823466e+38f);
  });
  return found;
}

__device__ Update<float> update_at(const PopulationNetwork& net, int step) {
  Update<float> update = net.update;
  const PopulationRate rate = net.rates[step];
  update.learning_rate = rate.learning_rate;
  update.step_size = rate.step_size;
  update.inverse_root = rate.inverse_root;
  update.decay = rate.decay;
  return update;
}

/// The steps of a launch for one network; called by all of its blocks.
template <class Tiles, class Blocks>
__device__ __forceinline__ void train_network(const PopulationNetwork& net) {
  DLCORE_SHARED_DYNAMIC(float, shared);
  const int rank = Blocks::rank();
  const auto* sums = reinterpret_cast<const double*>(shared + net.sums);
  if (net.shared_parameters >= 0) load_arena(net, rank, net.parameters, net.shared_parameters);
  if (net.shared_moment1 >= 0) load_arena(net, rank, net.moment1, net.shared_moment1);
  if (net.shared_moment2 >= 0) load_arena(net, rank, net.moment2, net.shared_moment2);
  double loss = 0, correct = 0, weight = 0;
  int done = 0;
  for (; done < net.steps; ++done) {
    const int begin = done * net.batch;
    const PopulationStep<Tiles, Blocks> step{net, min(net.batch, net.examples - begin)};
    fetch_rows(net, begin, step.count);
    __syncthreads();
    share_weights(net, step.count);
    for (int index = 0; index < net.layers; ++index) {
      step.forward(index);
      Blocks::barrier();
    }
    step.losses();
    Blocks::barrier();
    sum_losses(net, step.count);
    __syncthreads();
    if (!(abs(sums[1]) <= 1.7976931348623157e308)) break;
    loss += sums[1];
    correct += sums[2];
    weight += sums[3];
    if (!net.train) continue;
    const Update<float> rule = update_at(net, done);
    for (int index = net.layers - 1; index >= 0; --index) {
      step.activation_backward(index);
      if (index > 0) step.input_gradient(index);
      step.update(index, rule);
      __syncthreads();
    }
  }
  const bool bad = finds_not_finite(net, rank);
  const bool bad_in_warp = __any_sync(0xffffffffu, bad ? 1 : 0) != 0;
  if (thread_index() % 32 == 0) shared[net.value + thread_index() / 32] = bad_in_warp ? 1.0f : 0.0f;
  if (net.train && net.shared_parameters >= 0) {
    store_arena(net, rank, net.parameters, net.shared_parameters);
  }
  if (net.train && net.shared_moment1 >= 0) {
    store_arena(net, rank, net.moment1, net.shared_moment1);
  }
  if (net.train && net.shared_moment2 >= 0) {
    store_arena(net, rank, net.moment2, net.shared_moment2);
  }
  Blocks::barrier();
  if (rank == 0 && thread_index() == 0) {
    bool finite = true;
    for (int r = 0; r < Blocks::size(); ++r) {
      const float* const found = Blocks::in(shared + net.value, r);
      for (int i = 0; i < block_size() / 32; ++i) finite = finite && found[i] == 0;
    }
    *net.result = {loss, correct, weight, done, finite ? 1 : 0};
  }
  // Shared memory that another block reads must outlive that.
  if (Blocks::kMany) Blocks::barrier();
}

/// A block a network.
template <class Tiles>
__global__ void __launch_bounds__(kBlock, 1) train_population(const PopulationNetwork* networks) {
  train_network<Tiles, OneBlock>(networks[blockIdx.x]);
}

/// A cluster a network.
template <class Tiles>
__global__ void __launch_bounds__(kBlock, 1)
    train_population_in_clusters(const PopulationNetwork* networks) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  const auto size = static_cast<unsigned>(ClusterOfBlocks::size());
  train_network<Tiles, ClusterOfBlocks>(networks[blockIdx.x / size]);
#endif
}

using PopulationKernel = void (*)(const PopulationNetwork*);

template <class Tiles>
PopulationKernel kernel_with(int cluster) {
  return cluster > 1 ? train_population_in_clusters<Tiles> : train_population<Tiles>;
}

/// The kernel of a launch, allowed to use the shared memory that it needs.
PopulationKernel kernel_of(const PopulationLaunch& launch) {
  const int cluster = launch.cluster;
  const auto kernel =
      launch.precision == lt::Precision::bf16   ? kernel_with<TensorTiles<Bfloat16>>(cluster)
      : launch.precision == lt::Precision::tf32 ? kernel_with<TensorTiles<Tf32>>(cluster)
                                                : kernel_with<PlainTiles>(cluster);
  // All there is, whatever this launch needs: another thread may be about to start one too.
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(largest_shared_memory())),
             "the population kernel's shared memory cannot be had");
  return kernel;
}

Launch how_to_start(const PopulationLaunch& launch, int networks) {
  return {.grid = dim3(static_cast<unsigned>(networks * launch.cluster)),
          .block = dim3(static_cast<unsigned>(launch.threads)),
          .shared = static_cast<std::size_t>(launch.shared_bytes),
          .cluster = launch.cluster};
}

}  // namespace

int active_population_clusters(const PopulationLaunch& launch) {
  return active_clusters(how_to_start(launch, 1), kernel_of(launch));
}

void start_population(cudaStream_t stream, const PopulationNetwork* networks, int count,
                      const PopulationLaunch& how) {
  launch(stream, how_to_start(how, count), kernel_of(how), networks);
}

}  // namespace dlcore::cuda
