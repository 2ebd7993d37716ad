// The population kernel on the CPU (hostsim.h), without Python, so that sanitizers can watch:
//   population           every check
//   population race      cases that have to need every barrier of a block, for ThreadSanitizer
//   population clusters  cases that have to need every barrier of a cluster
//
// Steps on small integers are exact in float32, tf32 and bfloat16 alike and must give the bits of
// the plain loops below, wherever the kernel keeps its arrays and however many threads a block has.
// On other numbers the bits must not depend on these things either, nor on the networks beside one.

#include "population.cu"

#include <cstdio>
#include <random>
#include <string>
#include <tuple>

#include "population_plan.h"

namespace {

using dlcore::Activation;
using dlcore::DType;
using dlcore::Index;
using dlcore::Rule;
using dlcore::Update;
using namespace dlcore::cuda;

int failures = 0;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failures;
}

struct Problem {
  std::string name;
  std::vector<PopulationDense> chain;
  PopulationLoss loss = PopulationLoss::mse;
  int batch = 16, examples = 40, steps = 3;
  DType dtype = DType::float32;
  bool weighted = false, train = true;
  Update<float> update;
  int states = 0;
  bool integers = false;
};

PopulationDense dense(Index in, Index out, bool bias = true,
                      Activation activation = Activation::identity, float alpha = 0) {
  return {in, out, bias, activation, alpha};
}

Update<float> rule(Rule kind, float rate, float momentum = 0, bool nesterov = false,
                   float decay = 0) {
  Update<float> u;
  u.rule = kind;
  u.learning_rate = rate;
  u.momentum = momentum;
  u.nesterov = nesterov;
  u.weight_decay = decay;
  u.beta1 = 0.9f;
  u.beta2 = 0.999f;
  u.complement1 = 0.1f;
  u.complement2 = 0.001f;
  u.epsilon = 1e-8f;
  u.step_size = rate / 0.1f;
  u.inverse_root = 1 / std::sqrt(0.001f);
  u.decay = rate * decay;
  return u;
}

/// A problem's arrays.
struct Arrays {
  std::vector<unsigned char> bytes;
  std::vector<float> x, targets;
  std::vector<int> labels, order;
  std::vector<double> weights;
  std::vector<PopulationRate> rates;
  std::vector<float> parameters, moment1, moment2;
  std::vector<int> weight, bias, ld;  ///< places of each layer
  PopulationResult result{};

  Arrays(const Problem& p, unsigned seed) {
    std::mt19937 random(seed);
    const auto integer = [&](int low, int high) {
      return static_cast<int>(random() % static_cast<unsigned>(high - low + 1)) + low;
    };
    const auto number = [&](double scale) {
      return static_cast<float>(scale * (static_cast<double>(random()) / 2147483648.0 - 1));
    };
    const Index in = p.chain.front().in, out = p.chain.back().out;
    // Rows that no batch reads, too: an index that is off by one then reads other numbers.
    const Index rows = p.examples + 3;
    for (Index i = 0; i < rows * in; ++i) {
      bytes.push_back(static_cast<unsigned char>(integer(0, p.integers ? 1 : 255)));
      x.push_back(p.integers ? static_cast<float>(integer(-1, 1)) : number(1));
    }
    for (Index i = 0; i < rows * out; ++i) {
      targets.push_back(p.integers ? static_cast<float>(integer(-2, 2)) : std::abs(number(1)));
    }
    for (Index i = 0; i < rows; ++i) {
      labels.push_back(integer(0, static_cast<int>(out) - 1));
      weights.push_back(p.integers ? 1 : integer(0, 3) / 2.0);
    }
    for (int i = 0; i < p.examples; ++i) order.push_back(integer(0, static_cast<int>(rows) - 1));
    for (int i = 0; i < p.steps; ++i) {
      rates.push_back(
          {p.update.learning_rate, p.update.step_size, p.update.inverse_root, p.update.decay});
    }
    for (const PopulationDense& d : p.chain) {
      ld.push_back(static_cast<int>((d.in + 7) / 8 * 8));
      weight.push_back(static_cast<int>(parameters.size()));
      for (Index i = 0; i < d.out; ++i) {
        for (Index j = 0; j < ld.back(); ++j) {
          const float w = p.integers ? static_cast<float>(integer(-1, 1))
                                     : number(1 / std::sqrt(static_cast<double>(d.in)));
          parameters.push_back(j < d.in ? w : 0);
        }
      }
      bias.push_back(d.bias ? static_cast<int>(parameters.size()) : -1);
      for (Index i = 0; d.bias && i < (d.out + 7) / 8 * 8; ++i) {
        parameters.push_back(i >= d.out   ? 0
                             : p.integers ? static_cast<float>(integer(-1, 1))
                                          : number(1));
      }
    }
    if (p.states > 0) moment1.assign(parameters.size(), 0);
    if (p.states > 1) moment2.assign(parameters.size(), 0);
  }

  /// Points the description at them.
  void fill(const Problem& p, PopulationNetwork* net) {
    for (std::size_t i = 0; i < p.chain.size(); ++i) {
      net->layer[i].weight = weight[i];
      net->layer[i].ld = ld[i];
      net->layer[i].bias = bias[i];
    }
    net->parameters = parameters.data();
    net->moment1 = p.states > 0 ? moment1.data() : nullptr;
    net->moment2 = p.states > 1 ? moment2.data() : nullptr;
    net->x = p.dtype == DType::uint8 ? static_cast<const void*>(bytes.data()) : x.data();
    net->x_dtype = p.dtype;
    net->x_aligned = p.chain.front().in % 4 == 0;
    net->x_scale = p.integers ? 1 : 1.0f / 255;
    net->labels = labels.data();
    net->targets = targets.data();
    net->weights = p.weighted ? weights.data() : nullptr;
    net->order = order.data();
    net->examples = p.examples;
    net->batch = p.batch;
    net->steps = p.steps;
    net->loss = p.loss;
    net->delta = 0.7f;
    net->train = p.train;
    net->update = p.update;
    net->rates = rates.data();
    net->result = &result;
  }

  std::vector<float> state() const {
    std::vector<float> all = parameters;
    all.insert(all.end(), moment1.begin(), moment1.end());
    all.insert(all.end(), moment2.begin(), moment2.end());
    for (const double s : {result.loss, result.correct, result.weight}) {
      all.push_back(static_cast<float>(s));
    }
    return all;
  }
};

enum class Tiles { plain, tf32, bf16 };
constexpr Tiles kTiles[] = {Tiles::plain, Tiles::tf32, Tiles::bf16};

/// Where the kernel keeps its arrays and how many threads it has.
struct Variant {
  int copies;  ///< of the arena in shared memory
  int chunk, threads;
  Tiles tiles;
  int cluster = 1;
};

Index lay_out(const Problem& p, const Variant& v, PopulationNetwork* net) {
  net->cluster = v.cluster;
  return population_place(p.chain, p.batch, v.copies, v.chunk, v.threads, net);
}

void run(const PopulationNetwork* nets, int count, const Variant& v, Index bytes) {
  const PopulationKernel kernel =
      v.tiles == Tiles::bf16   ? kernel_with<TensorTiles<Bfloat16>>(v.cluster)
      : v.tiles == Tiles::tf32 ? kernel_with<TensorTiles<Tf32>>(v.cluster)
                               : kernel_with<PlainTiles>(v.cluster);
  dlcore::hostsim::run(dim3(static_cast<unsigned>(count * v.cluster)),
                       dim3(static_cast<unsigned>(v.threads)), static_cast<std::size_t>(bytes),
                       false, v.cluster, [=] { kernel(nets); });
}

std::vector<float> train(const Problem& p, unsigned seed, const Variant& v) {
  Arrays arrays(p, seed);
  PopulationNetwork net{};
  const Index bytes = lay_out(p, v, &net);
  arrays.fill(p, &net);
  run(&net, 1, v, bytes);
  expect(arrays.result.steps == p.steps && arrays.result.finite == 1, p.name + ": stopped");
  return arrays.state();
}

/// Mean squared error, ReLU or nothing between, plain gradient descent: in loops, in double.
std::vector<float> train_exactly(const Problem& p, unsigned seed) {
  Arrays a(p, seed);
  std::vector<double> w(a.parameters.begin(), a.parameters.end());
  double loss = 0, weight = 0;
  for (int step = 0; step < p.steps; ++step) {
    const int begin = step * p.batch, m = std::min(p.batch, p.examples - begin);
    std::vector<std::vector<double>> y(p.chain.size() + 1);
    for (int i = 0; i < m; ++i) {
      const Index row = a.order[static_cast<std::size_t>(begin + i)];
      for (Index j = 0; j < p.chain[0].in; ++j) {
        const auto at = static_cast<std::size_t>(row * p.chain[0].in + j);
        y[0].push_back(p.dtype == DType::uint8 ? a.bytes[at] : static_cast<double>(a.x[at]));
      }
    }
    const auto weight_at = [&](std::size_t l, Index i, Index j) -> double& {
      return w[static_cast<std::size_t>(a.weight[l] + i * a.ld[l] + j)];
    };
    for (std::size_t l = 0; l < p.chain.size(); ++l) {
      const PopulationDense& d = p.chain[l];
      for (int i = 0; i < m; ++i) {
        for (Index o = 0; o < d.out; ++o) {
          double z = d.bias ? w[static_cast<std::size_t>(a.bias[l] + o)] : 0;
          for (Index j = 0; j < d.in; ++j) {
            z += y[l][static_cast<std::size_t>(i * d.in + j)] * weight_at(l, o, j);
          }
          y[l + 1].push_back(d.activation == Activation::relu ? std::max(z, 0.0) : z);
        }
      }
    }
    const Index out = p.chain.back().out;
    std::vector<double> dy;
    for (int i = 0; i < m; ++i) {
      const Index row = a.order[static_cast<std::size_t>(begin + i)];
      for (Index o = 0; o < out; ++o) {
        const double r = y.back()[static_cast<std::size_t>(i * out + o)] -
                         static_cast<double>(a.targets[static_cast<std::size_t>(row * out + o)]);
        loss += r * r / static_cast<double>(out);
        dy.push_back(2 * r / static_cast<double>(m * out));
      }
    }
    weight += m;
    for (std::size_t l = p.chain.size(); l-- > 0;) {
      const PopulationDense& d = p.chain[l];
      std::vector<double> before;
      for (int i = 0; i < m; ++i) {
        for (Index o = 0; o < d.out; ++o) {
          const auto at = static_cast<std::size_t>(i * d.out + o);
          if (d.activation == Activation::relu && y[l + 1][at] <= 0) dy[at] = 0;
        }
        for (Index j = 0; j < d.in; ++j) {
          double sum = 0;
          for (Index o = 0; o < d.out; ++o) {
            sum += dy[static_cast<std::size_t>(i * d.out + o)] * weight_at(l, o, j);
          }
          before.push_back(sum);
        }
      }
      for (Index o = 0; o < d.out; ++o) {
        double bias = 0;
        for (int i = 0; i < m; ++i) bias += dy[static_cast<std::size_t>(i * d.out + o)];
        for (Index j = 0; j < d.in; ++j) {
          double sum = 0;
          for (int i = 0; i < m; ++i) {
            sum += dy[static_cast<std::size_t>(i * d.out + o)] *
                   y[l][static_cast<std::size_t>(i * d.in + j)];
          }
          weight_at(l, o, j) -= static_cast<double>(p.update.learning_rate) * sum;
        }
        if (d.bias) {
          w[static_cast<std::size_t>(a.bias[l] + o)] -=
              static_cast<double>(p.update.learning_rate) * bias;
        }
      }
      dy = before;
    }
  }
  std::vector<float> all(w.begin(), w.end());
  expect(std::equal(w.begin(), w.end(), all.begin()), p.name + ": the test is not exact");
  all.push_back(static_cast<float>(loss));
  all.push_back(0);
  all.push_back(static_cast<float>(weight));
  return all;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// -0 and 0 are the same number here.
bool equal(const std::vector<float>& a, const std::vector<float>& b) { return a == b; }

std::vector<Problem> exact_problems() {
  const auto sgd = rule(Rule::sgd, 0.25f);
  const auto problem = [&](std::string name, std::vector<PopulationDense> chain, int batch,
                           int examples, int steps, DType dtype) {
    Problem p;
    p.name = std::move(name);
    p.chain = std::move(chain);
    p.batch = batch;
    p.examples = examples;
    p.steps = steps;
    p.dtype = dtype;
    p.update = sgd;
    p.integers = true;
    return p;
  };
  constexpr Activation kRelu = Activation::relu;
  return {
      problem("one layer", {dense(3, 2)}, 8, 16, 2, DType::uint8),
      problem("no bias", {dense(5, 4, false, kRelu), dense(4, 1, false)}, 4, 4, 1, DType::float32),
      problem("bytes in rows of 7", {dense(7, 9, true, kRelu), dense(9, 2)}, 8, 8, 1, DType::uint8),
      problem("many columns", {dense(261, 4)}, 16, 16, 1, DType::uint8),
      problem("more rows than a pass", {dense(4, 17, true, kRelu), dense(17, 2)}, 64, 64, 1,
              DType::float32),
      problem("more rows than warps", {dense(3, 1)}, 512, 512, 1, DType::uint8),
      problem("wide", {dense(6, 130, true, kRelu), dense(130, 4)}, 4, 4, 1, DType::float32),
      problem("whole tiles", {dense(64, 64, true, kRelu), dense(64, 8)}, 32, 32, 1, DType::uint8),
      problem("half a batch is left", {dense(10, 8, true, kRelu), dense(8, 4)}, 16, 24, 1,
              DType::float32),
  };
}

std::vector<Problem> random_problems() {
  std::vector<Problem> all;
  const auto add = [&](std::string name, std::vector<PopulationDense> chain, PopulationLoss loss,
                       Update<float> update, int states) -> Problem& {
    Problem p;
    p.name = std::move(name);
    p.chain = std::move(chain);
    p.loss = loss;
    p.update = update;
    p.states = states;
    all.push_back(std::move(p));
    return all.back();
  };
  add("relu, cross-entropy, momentum", {dense(20, 17, true, Activation::relu), dense(17, 10)},
      PopulationLoss::cross_entropy, rule(Rule::sgd, 0.1f, 0.9f), 1)
      .dtype = DType::uint8;
  add("deep, Adam",
      {dense(9, 24, true, Activation::gelu), dense(24, 19, false, Activation::tanh), dense(19, 8),
       dense(8, 30, true, Activation::leaky_relu, 0.1f), dense(30, 3, true, Activation::sigmoid)},
      PopulationLoss::mse, rule(Rule::adam, 0.01f), 2)
      .weighted = true;
  add("three linear layers, AdamW", {dense(33, 12), dense(12, 12), dense(12, 40), dense(40, 5)},
      PopulationLoss::huber, rule(Rule::adamw, 0.01f, 0, false, 0.1f), 2);
  add("silu, yes or no, Nesterov",
      {dense(12, 34, true, Activation::silu), dense(34, 9, true, Activation::gelu_tanh),
       dense(9, 4)},
      PopulationLoss::binary_cross_entropy, rule(Rule::sgd, 0.05f, 0.9f, true, 0.01f), 1);
  // More examples than a warp has lanes.
  all.back().batch = 40;
  all.back().examples = 90;
  add("softplus, no training", {dense(12, 20, true, Activation::softplus), dense(20, 6)},
      PopulationLoss::cross_entropy, rule(Rule::sgd, 0.1f), 0)
      .train = false;
  return all;
}

void check_exact() {
  for (const Problem& p : exact_problems()) {
    const std::vector<float> expected = train_exactly(p, 5);
    for (const Tiles tiles : kTiles) {
      for (const int copies : {0, 1}) {
        for (const auto& [chunk, threads, cluster] :
             {std::tuple{32, 64, 1}, {64, 128, 1}, {16, 256, 1}, {32, 64, 2}, {64, 32, 8}}) {
          const Variant v{copies, chunk, threads, tiles, cluster};
          expect(equal(train(p, 5, v), expected),
                 p.name + ": other numbers than the plain loops, copies " + std::to_string(copies) +
                     ", threads " + std::to_string(threads) + ", blocks " +
                     std::to_string(cluster) + ", tiles " +
                     std::to_string(static_cast<int>(tiles)));
        }
      }
    }
  }
}

void check_bits() {
  for (const Problem& p : random_problems()) {
    for (const Tiles tiles : kTiles) {
      const std::vector<float> first = train(p, 6, {0, 32, 128, tiles});
      expect(std::all_of(first.begin(), first.end(), [](float x) { return std::isfinite(x); }),
             p.name + ": not finite");
      for (int copies = 0; copies <= 1 + p.states; ++copies) {
        for (const auto& [chunk, threads, cluster] :
             {std::tuple{32, 32, 1}, {64, 128, 1}, {32, 256, 1}, {16, 64, 2}, {64, 32, 4}}) {
          const Variant v{copies, chunk, threads, tiles, cluster};
          expect(same(train(p, 6, v), first),
                 p.name + ": other bits, copies " + std::to_string(copies) + ", threads " +
                     std::to_string(threads) + ", blocks " + std::to_string(cluster));
        }
      }
    }
  }
}

/// All problems in one launch give what each gives alone; and one that diverges stops alone.
void check_neighbours() {
  const std::vector<Problem> problems = random_problems();
  const Variant v{1, 32, 64, Tiles::plain};
  std::vector<Arrays> arrays;
  std::vector<PopulationNetwork> nets;
  Index bytes = 0;
  for (int round = 0; round < 2; ++round) {
    for (const Problem& p : problems) arrays.emplace_back(p, 7 + static_cast<unsigned>(round));
  }
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    PopulationNetwork net{};
    bytes = std::max(bytes, lay_out(problems[i % problems.size()], v, &net));
    arrays[i].fill(problems[i % problems.size()], &net);
    nets.push_back(net);
  }
  arrays[1].parameters[0] = 3e38f;
  arrays[1].parameters[1] = 3e38f;
  arrays[2].rates[1].learning_rate = arrays[2].rates[1].decay = 1e30f;
  arrays[2].rates[1].step_size = 3e38f;
  run(nets.data(), static_cast<int>(nets.size()), v, bytes);
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    if (i == 1 || i == 2) continue;
    const Problem& p = problems[i % problems.size()];
    const unsigned seed = i < problems.size() ? 7 : 8;
    expect(same(arrays[i].state(), train(p, seed, v)), p.name + ": neighbours change its bits");
  }
  expect(arrays[2].result.steps == 2, "the network that diverges goes on");
}

/// Where networks go: how many blocks, and what of their arenas lies in shared memory.
void check_layouts() {
  constexpr Index kLimit = 227 * 1024;
  constexpr Activation kRelu = Activation::relu;
  const auto layout = [](const std::vector<PopulationDense>& chain, int largest_cluster) {
    std::string why;
    const auto runs = [&](int cluster, int, Index bytes) {
      expect(bytes <= kLimit, "a cluster is asked for that no block has room for");
      return cluster <= largest_cluster;
    };
    const PopulationLayout l = population_layout(chain, 128, 1, kLimit, runs, &why);
    expect(l.bytes <= kLimit && why.empty() == (l.bytes > 0), "a layout too large: " + why);
    return l;
  };
  const auto is = [](const PopulationLayout& l, int cluster, int copies) {
    const PopulationNetwork& net = l.network;
    return l.bytes > 0 && net.cluster == cluster && (net.shared_parameters >= 0) == (copies > 0) &&
           (net.shared_moment1 >= 0) == (copies > 1);
  };
  const auto chain = [](Index hidden) {
    return std::vector{dense(784, hidden, true, kRelu), dense(hidden, 10)};
  };
  expect(is(layout({dense(64, 32, true, kRelu), dense(32, 10)}, 8), 1, 2), "64-32-10 fits whole");
  expect(is(layout(chain(32), 8), 1, 1), "784-32-10 fits but for its moments");
  expect(is(layout(chain(128), 8), 4, 1), "784-128-10 fits into four blocks");
  expect(is(layout(chain(128), 2), 1, 0), "its weights else stay in global memory");
  expect(is(layout(chain(512), 8), 4, 0), "784-512-10 has room for its values alone");
  expect(layout(chain(512), 1).bytes < 0, "and that in no single block");
  expect(layout(chain(100000), 8).bytes < 0, "no cluster is large enough");
}

/// A few steps of shapes whose barriers all matter, in one block or in a cluster of two.
void check_races(int cluster) {
  for (const Problem& p : random_problems()) {
    for (int copies = 0; copies <= 1 + p.states; ++copies) {
      train(p, 9, {copies, 32, 64 / cluster, Tiles::plain, cluster});
    }
    train(p, 9, {0, 32, 64, Tiles::bf16, cluster});
  }
}

}  // namespace

int main(int count, char** arguments) {
  const std::string asked = count > 1 ? arguments[1] : "";
  if (asked == "race") {
    check_races(1);
  } else if (asked == "clusters") {
    check_races(2);
  } else {
    check_exact();
    check_bits();
    check_neighbours();
    check_layouts();
  }
  if (failures == 0) std::printf("population: all checks passed\n");
  return failures == 0 ? 0 : 1;
}
