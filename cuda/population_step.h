// One step of a population's network: its layers forward, losses, its layers backward with their
// updates. Included by population.cu after device.h.

#pragma once

#include "population_product.h"

namespace dlcore::cuda {
namespace {

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

}  // namespace
}  // namespace dlcore::cuda
