#include "device.h"
#define DLCORE_SCALAR
#include "kernels/functors.h"
#include "population_launch.h"
#include "population_step.h"

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
