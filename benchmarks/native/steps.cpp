// Whole networks: training by the epoch as fit does it (gather, forward, loss, backward and update
// of every batch), prediction, and fleets. An example takes Graph::flops_per_example() operations;
// what is not a product counts as time without work.

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "bench.h"
#include "fleet.h"
#include "kernels/select.h"
#include "network.h"
#include "random.h"

namespace dlcore::bench {
namespace {

constexpr Index kExamples = 60'000;  ///< of 784 bytes, as Fashion-MNIST has
// Operations of one timed epoch, a quarter of a second on one core.
constexpr double kEpochOperations = 2.5e10;
// What the reference kernels may spend on a check.
constexpr double kCheckOperations = 2e8;

using Sizes = std::vector<Index>;

std::string name_of(const Sizes& sizes) {
  std::string name;
  for (const Index size : sizes) name.append(name.empty() ? "" : "-").append(std::to_string(size));
  return name;
}

Graph graph_of(const Sizes& sizes) {
  std::vector<Node> nodes;
  for (std::size_t i = 1; i < sizes.size(); ++i) {
    Node dense;
    dense.op = OpKind::dense;
    dense.inputs = {static_cast<int>(nodes.size())};
    dense.name = std::to_string(nodes.size());
    dense.units = sizes[i];
    dense.bias = true;
    nodes.push_back(dense);
    if (i + 1 == sizes.size()) break;
    Node relu;
    relu.op = OpKind::activation;
    relu.inputs = {static_cast<int>(nodes.size())};
    relu.activation = Activation::relu;
    nodes.push_back(relu);
  }
  return make_graph(std::move(nodes), {sizes.front()});
}

/// A network with weights from N(0, 2 / in_features); biases start at 0.
template <class T = float>
std::unique_ptr<Network> network_of(const Sizes& sizes, std::uint64_t seed) {
  constexpr DType kType = std::is_same_v<T, float> ? DType::float32 : DType::float64;
  auto network = make_network(graph_of(sizes), kType);
  for (std::size_t i = 0; i < network->parameters().size(); ++i) {
    const ParameterName& parameter = network->parameters()[i];
    if (parameter.is_bias) continue;
    const Index count = parameter.shape[0] * parameter.shape[1];
    const double scale = std::sqrt(2.0 / static_cast<double>(parameter.shape[1]));
    philox::Stream words(seed, philox::Purpose::weights, static_cast<std::uint32_t>(i), 0);
    std::vector<T> weight;
    while (static_cast<Index>(weight.size()) < count) {
      const philox::Normals pair = philox::normals(words);
      weight.push_back(static_cast<T>(scale * pair.first));
      weight.push_back(static_cast<T>(scale * pair.second));
    }
    network->set(i, weight.data());
  }
  return network;
}

/// Images of bytes whose class can be learnt: each class has its own bright tenth of the pixels.
struct Images {
  Buffer<std::uint8_t> pixels{kExamples * 784};  ///< in huge pages, as NumPy's
  std::vector<Index> labels;
  Dataset dataset(Index rows) const {
    Dataset data;
    data.x = {reinterpret_cast<const std::byte*>(pixels.data()), DType::uint8, rows, 784, 784, {}};
    data.labels = labels.data();
    data.input_scale = 1.0 / 255;
    return data;
  }
};

const Images& images() {
  static const Images made = [] {
    Images m;
    philox::Stream words(1, philox::Purpose::weights, 0, 0);
    std::uint8_t* to = m.pixels.data();
    for (Index i = 0; i < kExamples; ++i) {
      const Index label = words.next() % 10;
      m.labels.push_back(label);
      for (Index j = 0; j < 784; j += 4) {
        const std::uint32_t word = words.next();
        for (int byte = 0; byte < 4; ++byte) {
          const auto pixel = static_cast<std::uint8_t>(word >> (8 * byte));
          *to++ = (j + byte) % 10 == label ? static_cast<std::uint8_t>(pixel | 128) : pixel;
        }
      }
    }
    return m;
  }();
  return made;
}

/// Two operations a weight.
double operations_of_forward(const Sizes& sizes) {
  double sum = 0;
  for (std::size_t i = 1; i < sizes.size(); ++i) {
    sum += 2.0 * static_cast<double>(sizes[i - 1] * sizes[i]);
  }
  return sum;
}

FitOptions options_of(const ops::Optimizer& optimizer, Index batch, int threads) {
  FitOptions options;
  options.optimizer = optimizer;
  options.schedule.learning_rate = optimizer.rule == Rule::sgd ? 0.01 : 1e-3;
  options.batch_size = batch;
  options.threads = threads;
  return options;
}

double fit_seconds(const FitResult& result) {
  return std::accumulate(result.epochs.begin(), result.epochs.end(), 0.0,
                         [](double sum, const EpochRecord& epoch) { return sum + epoch.seconds; });
}

Index examples_of(const Sizes& sizes, double operations, Index least) {
  const auto each = static_cast<double>(graph_of(sizes).flops_per_example());
  return std::clamp(static_cast<Index>(operations / each), least, kExamples);
}

/// Final loss of a short fit with these kernels.
template <class T>
double short_fit(const std::string& kernels, const Sizes& sizes, FitOptions options) {
  const Index examples = std::min(examples_of(sizes, kCheckOperations, 2), 3 * options.batch_size);
  set_kernels(kernels);
  const auto network = network_of<T>(sizes, 1);
  const Dataset data = images().dataset(examples);
  options.batch_size = std::min(options.batch_size, examples / 2);
  network->fit(data, options);
  return network->evaluate(data, {}, examples, options.threads).mean_loss();
}

template <class T>
Prepared training(const Kernels& kernels, const Sizes& sizes, const FitOptions& options,
                  Index examples) {
  std::shared_ptr<Network> network = network_of<T>(sizes, 1);
  const auto check = [=, &kernels]() -> std::string {
    FitOptions plain = options;
    plain.bf16 = plain.statistics = false;
    const double expected = short_fit<T>(kReference.name, sizes, plain);
    const double found = short_fit<T>(kernels.name, sizes, options);
    // Sums in another order, amplified by Adam's first steps where a gradient is nearly 0; with
    // bfloat16 factors of eight bits.
    const double tolerance = options.bf16 ? 3e-2 : 0x1p13 * kEps<T>;
    if (std::abs(found - expected) <= tolerance * expected) return "";
    return "loss is " + std::to_string(found) + ", not " + std::to_string(expected);
  };
  return {check, [=](Index calls) {
            FitOptions repeated = options;
            repeated.epochs = calls;
            return fit_seconds(network->fit(images().dataset(examples), repeated));
          }};
}

Prepared prediction(const Kernels& kernels, const Sizes& sizes, Index batch, int threads) {
  std::shared_ptr<Network> network = network_of(sizes, 1);
  auto y = std::make_shared<std::vector<float>>(static_cast<std::size_t>(batch * sizes.back()));
  const auto predict = [=](const std::string& name, int count, float* to) {
    set_kernels(name);
    network->forward(images().dataset(batch).x, 1.0 / 255, Head::softmax, batch, count, to);
  };
  const auto check = [=, &kernels] {
    const Index rows = std::min(batch, examples_of(sizes, kCheckOperations, 1));
    std::vector<float> expected(y->size());
    set_kernels(kReference.name);
    network->forward(images().dataset(rows).x, 1.0 / 255, Head::softmax, rows, 1, expected.data());
    predict(kernels.name, threads, y->data());
    // A probability follows logits that are sums of thousands of terms.
    return compare(y->data(), expected.data(), rows * sizes.back(), 1e-3, 1e-6, "probability");
  };
  const RowsView x = images().dataset(batch).x;
  return {check, repeated([=] {
            network->forward(x, 1.0 / 255, Head::softmax, batch, threads, y->data());
          })};
}

Prepared fleet(const Kernels& kernels, const Sizes& sizes, Index count, Index examples, Index batch,
               int threads) {
  using Networks = std::vector<std::unique_ptr<Network>>;
  auto networks = std::make_shared<Networks>();
  const auto refill = [=] {
    networks->clear();
    for (Index i = 0; i < count; ++i) {
      networks->push_back(network_of(sizes, static_cast<std::uint64_t>(i + 1)));
    }
  };
  refill();
  const auto member = [=](Index i) {
    Member m{(*networks)[static_cast<std::size_t>(i)].get(), images().dataset(examples),
             options_of({.momentum = 0.9}, batch, 1)};
    m.options.seed = static_cast<std::uint64_t>(i);
    return m;
  };
  const auto train = [=] {
    std::vector<Member> members;
    for (Index i = 0; i < count; ++i) members.push_back(member(i));
    Call call(threads, static_cast<Index>(members.size()));
    return train_fleet(members, call, {});
  };
  const auto check = [=, &kernels]() -> std::string {
    set_kernels(kernels.name);
    const double together = train().back().epochs.back().loss;
    refill();
    const Member last = member(count - 1);
    const double alone = last.network->fit(last.data, last.options).epochs.back().loss;
    if (together == alone) return "";
    return "loss in the fleet is " + std::to_string(together) + ", alone " + std::to_string(alone);
  };
  return {check, repeated([=] { train(); })};
}

template <class T>
void add_training(const Kernels& kernels, const Sizes& sizes, const FitOptions& options,
                  const std::string& variant, std::vector<Case>* cases) {
  const Index batch = options.batch_size;
  const Index examples = examples_of(sizes, kEpochOperations, 4 * batch);
  const auto operations = static_cast<double>(graph_of(sizes).flops_per_example() * examples);
  cases->push_back({"train/" + name_of(sizes) + "/b" + std::to_string(batch) + variant + kSuffix<T>,
                    options.threads, kPeak<T>, operations, 0, static_cast<double>(examples),
                    [=, &kernels] { return training<T>(kernels, sizes, options, examples); }});
}

}  // namespace

void add_step_cases(const Kernels& kernels, const std::vector<int>& threads,
                    std::vector<Case>* cases) {
  const Sizes networks[] = {
      {784, 32, 10}, {784, 128, 10}, {784, 512, 512, 10}, {784, 2048, 2048, 2048, 10}};
  const ops::Optimizer momentum{.momentum = 0.9}, adam{.rule = Rule::adam};
  for (const Sizes& sizes : networks) {
    const double predicted = operations_of_forward(sizes);
    for (const int count : threads) {
      for (const Index batch : {Index{32}, Index{128}, Index{1024}}) {
        FitOptions options = options_of(momentum, batch, count);
        add_training<float>(kernels, sizes, options, "/momentum", cases);
        options.statistics = true;
        add_training<float>(kernels, sizes, options, "/momentum/statistics", cases);
        options.statistics = false;
        options.bf16 = true;
        // Its products run twice as fast as the multiply-add peak of float32 that they are
        // measured against, where the CPU has them.
        if (bf16_kernels() != nullptr && sizes[1] >= 512) {
          add_training<float>(kernels, sizes, options, "/momentum/bf16", cases);
        }
        options = options_of(adam, batch, count);
        add_training<float>(kernels, sizes, options, "/adam", cases);
        if (sizes == networks[1]) {
          add_training<double>(kernels, sizes, options, "/adam", cases);
          options = options_of(momentum, batch, count);
          add_training<double>(kernels, sizes, options, "/momentum", cases);
        }
      }
      for (const Index batch : {Index{1}, Index{32}, Index{1024}}) {
        cases->push_back({"predict/" + name_of(sizes) + "/m" + std::to_string(batch), count,
                          Yardstick::fma, predicted * static_cast<double>(batch), 0,
                          static_cast<double>(batch),
                          [=, &kernels] { return prediction(kernels, sizes, batch, count); }});
      }
    }
  }
  constexpr Index kNetworks = 64, kSubset = 5'952, kBatch = 64;
  const double examples = kNetworks * kSubset;
  for (const int count : threads) {
    cases->push_back({"fleet/64x784-32-10/b64", count, Yardstick::fma,
                      examples * static_cast<double>(graph_of(networks[0]).flops_per_example()), 0,
                      examples, [=, &kernels, sizes = networks[0]] {
                        return fleet(kernels, sizes, kNetworks, kSubset, kBatch, count);
                      }});
  }
}

}  // namespace dlcore::bench
