#include "population_plan.h"

#include <algorithm>
#include <limits>
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
    l.y_ld = l.slice + 4;
    l.y = space->take(size(i));
    l.z = gradient_from_result(l.activation) ? l.y : space->take(size(i));
  }
  for (int i = net->layers - 1; i >= 0; --i) {
    PopulationLayer& l = net->layer[i];
    if (i == net->layers - 1) {
      // In a cluster others read y when dy is written.
      const bool in_place = l.activation == Activation::identity && net->cluster == 1;
      l.dy = in_place ? l.y : space->take(size(i));
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

/// Room for the pieces of factors that lie elsewhere, in whatever block of the cluster needs most.
void place_pieces(PopulationNetwork* net, int threads, Space* space) {
  const int warps = threads / 32, examples = population_tiled(net->batch);
  const bool sliced = net->cluster > 1, weights_elsewhere = net->shared_parameters < 0;
  // A piece by rows, and one by columns.
  const auto rows = [&](Index most, Index count, Index depth) {
    return std::min(count, most) * (std::min<Index>(net->chunk, depth) + 4);
  };
  const auto columns = [&](Index most, Index count, Index depth) {
    return std::min<Index>(net->chunk, depth) * (std::min(count, most) + 4);
  };
  Index a = 0, b_beside_a = 0, b_alone = 0;
  const auto make_room = [&](Index of_a, Index of_b) {
    a = std::max(a, of_a);
    Index& b = of_a > 0 ? b_beside_a : b_alone;
    b = std::max(b, of_b);
  };
  for (int i = 0; i < net->layers; ++i) {
    const PopulationLayer& l = net->layer[i];
    for (int rank = 0; rank < net->cluster; ++rank) {
      const Index in = eights(l.in), out = population_units(l, rank).count;
      PopulationSplit split = population_split(examples, static_cast<int>(out), warps);
      make_room(i == 0 || sliced ? rows(split.rows(), examples, in) : 0,
                weights_elsewhere ? rows(split.columns(), eights(out), in) : 0);
      split = population_split(static_cast<int>(out), l.in, warps);
      make_room(0, i == 0 || sliced ? columns(split.columns(), in, eights(net->batch)) : 0);
      if (i == 0) continue;
      const Index before = population_units(net->layer[i - 1], rank).count;
      split = population_split(examples, static_cast<int>(before), warps);
      make_room(sliced ? rows(split.rows(), examples, eights(l.out)) : 0,
                weights_elsewhere || sliced
                    ? columns(split.columns(), eights(before), eights(l.out))
                    : 0);
    }
  }
  net->stage_b = space->take(std::max(b_alone, b_beside_a + a));
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
    l.slice = population_tiled((l.out + net.cluster - 1) / net.cluster);
    l.activation = dense.activation;
    l.alpha = dense.alpha;
    l.shared_ld = population_ld(l.in);
    l.shared_weight = l.shared_bias = -1;
    if (copies > 0) {
      l.shared_weight = arena.take(std::min<Index>(eights(l.out), l.slice) * l.shared_ld);
      l.shared_bias = arena.take(l.slice);
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

PopulationLayout population_layout(
    const std::vector<PopulationDense>& chain, Index batch, int states, Index limit,
    const std::function<bool(int cluster, int threads, Index bytes)>& runs, std::string* why) {
  // Beyond these nothing fits, and below them nothing overflows.
  const Index most = kPopulationCluster * limit / kFloat;
  Index weights = 0, widest = 0;
  for (const PopulationDense& dense : chain) {
    if (batch > most || dense.out > most || batch * dense.out > most) {
      *why = sentence("a layer's results, ", batch, " x ", dense.out, " numbers, are more than ",
                      kPopulationCluster, " blocks of ", limit >> 10, " KB hold");
      return {};
    }
    if (dense.in > (Index{1} << 28) / dense.out) {
      *why = sentence("a layer has ", dense.out, " x ", dense.in, " weights");
      return {};
    }
    weights += dense.in * dense.out;
    widest = std::max(widest, dense.out);
  }
  Index least = std::numeric_limits<Index>::max();
  int in_blocks = 1;
  PopulationLayout layout;
  const auto fits = [&](int cluster, int copies) {
    const Index units = (widest + cluster - 1) / cluster;
    // Half the threads where the widest product would leave the others without a tile.
    layout.threads = (batch + 15) / 16 * ((units + 15) / 16) < 8 ? 128 : 256;
    layout.network.cluster = cluster;
    for (const int chunk : {64, 32, 16}) {
      layout.bytes = population_place(chain, static_cast<int>(batch), copies, chunk, layout.threads,
                                      &layout.network);
      // Asked of what does not fit too: the sentence below speaks of what could run.
      if (cluster > 1 && !runs(cluster, layout.threads, std::min(layout.bytes, limit))) break;
      if (layout.bytes < least) {
        least = layout.bytes;
        in_blocks = cluster;
      }
      if (layout.bytes <= limit) return true;
    }
    return false;
  };
  for (int cluster = 1; cluster <= kPopulationCluster; cluster *= 2) {
    if (weights > cluster * (limit / kFloat)) continue;
    if (fits(cluster, 1 + states) || (states > 0 && fits(cluster, 1))) return layout;
  }
  for (int cluster = 1; cluster <= kPopulationCluster; cluster *= 2) {
    if (fits(cluster, 0)) return layout;
  }
  *why = sentence("a batch of ", batch, " needs ", (least + 1023) >> 10, " KB of shared memory",
                  in_blocks > 1 ? sentence(" in each of ", in_blocks, " blocks") : "",
                  ", and a block has ", limit >> 10);
  return {};
}

}  // namespace dlcore::cuda
