#include "population_plan.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "check.h"

namespace dlcore::cuda {
namespace {

constexpr Index kFloat = sizeof(float);

Index eights(Index n) { return (n + 7) / 8 * 8; }

/// Hands out shared memory from the front, in floats, 16 bytes at a time.
class Space {
 public:
  int take(Index floats) {
    const Index at = used_;
    used_ += (floats + 3) / 4 * 4;
    return static_cast<int>(at);
  }
  Index used() const { return used_; }

 private:
  Index used_ = 0;
};

/// Gives every layer places for its values and derivatives.
void place_activations(PopulationNetwork* net, Space* space) {
  const int examples = population_tiled(net->batch);
  const auto size = [&](int i) { return Index{examples} * net->layer[i].y_ld; };
  // Buffers that a later part of the backward pass may use again: place, size.
  std::vector<std::pair<int, Index>> free;
  for (int i = 0; i < net->layers; ++i) {
    PopulationLayer& l = net->layer[i];
    l.y_ld = population_tiled(l.out) + 4;
    l.y = space->take(size(i));
    l.z = gradient_from_result(l.activation) ? l.y : space->take(size(i));
  }
  for (int i = net->layers - 1; i >= 0; --i) {
    PopulationLayer& l = net->layer[i];
    if (i == net->layers - 1) {
      l.dy = l.activation == Activation::identity ? l.y : space->take(size(i));
      continue;
    }
    // When dy of layer i is worked out from that of layer i + 1, nobody needs the latter's values
    // any more; and dy of layer i + 2 has served.
    const PopulationLayer& after = net->layer[i + 1];
    if (after.y != after.dy) free.emplace_back(after.y, size(i + 1));
    if (after.z != after.y) free.emplace_back(after.z, size(i + 1));
    if (i + 2 < net->layers) free.emplace_back(net->layer[i + 2].dy, size(i + 2));
    auto best = free.end();
    for (auto it = free.begin(); it != free.end(); ++it) {
      if (it->second >= size(i) && (best == free.end() || it->second < best->second)) best = it;
    }
    if (best == free.end()) {
      l.dy = space->take(size(i));
    } else {
      l.dy = best->first;
      free.erase(best);
    }
  }
}

/// Room for the pieces of factors that lie in global memory.
void place_pieces(PopulationNetwork* net, int threads, Space* space) {
  const int warps = threads / 32, examples = population_tiled(net->batch);
  const PopulationLayer& first = net->layer[0];
  const auto piece = [&](Index count, Index most, Index depth) {
    return std::pair{std::min(count, most), std::min<Index>(net->chunk, depth)};
  };
  // Examples by rows in the first layer's product, by columns in its weight gradient.
  PopulationSplit split = population_split(examples, first.out, warps);
  auto [count, depth] = piece(examples, split.rows(), eights(first.in));
  const Index a = count * (depth + 4);
  split = population_split(first.out, first.in, warps);
  std::tie(count, depth) = piece(eights(first.in), split.columns(), eights(net->batch));
  Index b = depth * (count + 4), b_beside_a = 0;
  for (int i = 0; i < net->layers && net->shared_parameters < 0; ++i) {
    const PopulationLayer& l = net->layer[i];
    split = population_split(examples, l.out, warps);
    std::tie(count, depth) = piece(eights(l.out), split.columns(), eights(l.in));
    b = std::max(b, count * (depth + 4));
    if (i == 0) {
      b_beside_a = count * (depth + 4);
      continue;
    }
    split = population_split(examples, l.in, warps);
    std::tie(count, depth) = piece(eights(l.in), split.columns(), eights(l.out));
    b = std::max(b, depth * (count + 4));
  }
  net->stage_b = space->take(std::max(b, b_beside_a + a));
  net->stage_a = net->stage_b + static_cast<int>(b_beside_a);
}

}  // namespace

Index population_place(const std::vector<PopulationDense>& chain, int batch, int copies, int chunk,
                       int threads, PopulationNetwork* network) {
  PopulationNetwork& net = *network;
  Space arena;
  net.layers = static_cast<int>(chain.size());
  net.batch = batch;
  net.chunk = chunk;
  for (int i = 0; i < net.layers; ++i) {
    const PopulationDense& dense = chain[static_cast<std::size_t>(i)];
    PopulationLayer& l = net.layer[i];
    l.in = static_cast<int>(dense.in);
    l.out = static_cast<int>(dense.out);
    l.activation = dense.activation;
    l.alpha = dense.alpha;
    l.shared_ld = population_ld(l.in);
    l.shared_weight = l.shared_bias = -1;
    if (copies > 0) {
      l.shared_weight = arena.take(eights(l.out) * l.shared_ld);
      l.shared_bias = arena.take(population_tiled(l.out));
    }
  }
  net.shared_arena = static_cast<int>(arena.used());
  Space space;
  net.sums = space.take(2 * kPopulationSums);
  const int examples = population_tiled(batch);
  for (int* numbers : {&net.row, &net.row_weight, &net.value, &net.correct}) {
    *numbers = space.take(examples);
  }
  int* const arenas[] = {&net.shared_parameters, &net.shared_moment1, &net.shared_moment2};
  for (int i = 0; i < 3; ++i) *arenas[i] = i < copies ? space.take(net.shared_arena) : -1;
  place_activations(&net, &space);
  place_pieces(&net, threads, &space);
  return space.used() * kFloat;
}

Index population_layout(const std::vector<PopulationDense>& chain, Index batch, int states,
                        int threads, Index limit, PopulationNetwork* network, std::string* why) {
  // Beyond these nothing fits, and below them nothing overflows.
  const Index most = limit / kFloat;
  Index weights = 0;
  for (const PopulationDense& dense : chain) {
    if (batch > most || dense.out > most || batch * dense.out > most) {
      *why = sentence("a layer's results, ", batch, " x ", dense.out,
                      " numbers, are more than the ", limit >> 10, " KB of a block");
      return -1;
    }
    if (dense.in > (Index{1} << 28) / dense.out) {
      *why = sentence("a layer has ", dense.out, " x ", dense.in, " weights");
      return -1;
    }
    weights += dense.in * dense.out;
  }
  Index least = 0;
  for (const int copies : {1 + states, 1, 0}) {
    if (copies > 0 && weights > most) continue;
    for (const int chunk : {64, 32}) {
      least = population_place(chain, static_cast<int>(batch), copies, chunk, threads, network);
      if (least <= limit) return least;
    }
  }
  *why = sentence("a batch of ", batch, " needs ", (least + 1023) >> 10,
                  " KB of shared memory, and a block has ", limit >> 10);
  return -1;
}

}  // namespace dlcore::cuda
