// Everything that is not a product: its cost is moving bytes. Each case says how many bytes one
// element takes and is measured against a copy of an array of the same size, which moves eight.

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <span>

#include "bench.h"
#include "ops/activation.h"
#include "ops/add.h"
#include "ops/dense.h"
#include "ops/dropout.h"
#include "ops/gather.h"
#include "ops/loss.h"
#include "ops/optimizer.h"
#include "parallel.h"
#include "parameters.h"
#include "random.h"

namespace dlcore::bench {
namespace {

// Arguments up to 4: further out the plain loops lose digits of what is next to 0.
constexpr int kArgument = 4;

/// An activation and how far two implementations may lie apart, in eps: the limits of both in ulp
/// (tests/tolerances.py) added up, for gelu and its like with the rounding of an argument of exp
/// of up to 16; and as much of |dy| again for the sums in a derivative.
struct ActivationRow {
  const char* name;
  Activation activation;
  int ulps;
};
constexpr ActivationRow kActivations[] = {
    {"relu", Activation::relu, 0},       {"leaky_relu", Activation::leaky_relu, 4},
    {"sigmoid", Activation::sigmoid, 6}, {"tanh", Activation::tanh, 5},
    {"gelu", Activation::gelu, 24},      {"gelu_tanh", Activation::gelu_tanh, 32},
    {"silu", Activation::silu, 8},       {"softplus", Activation::softplus, 8},
};
/// The same in float64: one that moves memory and one that computes.
constexpr ActivationRow kActivationsFloat64[] = {{"relu", Activation::relu, 0},
                                                 {"sigmoid", Activation::sigmoid, 7}};

template <class T>
Prepared activation_forward(const KernelsOf<T>& k, const ActivationRow& row, int threads, Index n) {
  auto x = std::make_shared<Buffer<T>>(grid<T>(n, 1, kArgument));
  auto y = std::make_shared<Buffer<T>>(n);
  const auto run = [=, &k] {
    ops::activation_forward<T>(k, threads, row.activation, T(0.01), x->data(), y->data(), n);
  };
  const auto check = [=] {
    run();
    Buffer<T> expected(n);
    kReference.of<T>().activation_forward(row.activation, T(0.01), x->data(), expected.data(), n);
    return compare(y->data(), expected.data(), n, row.ulps * kEps<T>, 1e-37, "y");
  };
  return {check, repeated(run)};
}

template <class T>
Prepared activation_backward(const KernelsOf<T>& k, const ActivationRow& row, int threads,
                             Index n) {
  auto dy = std::make_shared<Buffer<T>>(grid<T>(n, 2));
  auto saved = std::make_shared<Buffer<T>>(grid<T>(n, 1, kArgument));
  auto dx = std::make_shared<Buffer<T>>(n);
  if (gradient_from_result(row.activation)) {
    kReference.of<T>().activation_forward(row.activation, T(0.01), saved->data(), saved->data(), n);
  }
  const auto run = [=, &k] {
    ops::activation_backward<T>(k, threads, row.activation, T(0.01), dy->data(), saved->data(),
                                dx->data(), n);
  };
  const auto check = [=] {
    run();
    Buffer<T> expected(n);
    kReference.of<T>().activation_backward(row.activation, T(0.01), dy->data(), saved->data(),
                                           expected.data(), n);
    return compare(dx->data(), expected.data(), n, row.ulps * kEps<T>, row.ulps * kEps<T>, "dx");
  };
  return {check, repeated(run)};
}

Prepared softmax_cross_entropy(const KernelsOf<float>& k, int threads, Index m, Index n) {
  struct Data {
    Buffer<float> x, dx, value, correct, row_weight;
    std::vector<Index> labels;
  };
  const Index ld = leading_dimension<float>(n);
  auto d = std::make_shared<Data>();
  d->x = grid(m * ld, 1, kArgument);
  for (Buffer<float>* rows : {&d->value, &d->correct, &d->row_weight}) *rows = Buffer<float>(m);
  d->dx = Buffer<float>(m * ld);
  for (Index i = 0; i < m; ++i) d->labels.push_back(i * 7 % n);
  const auto sums = [=](const KernelsOf<float>& kernels, int count, Buffer<float>* dx) {
    return ops::loss_forward_backward<float>(
        kernels, count, {}, {1, n, 1}, d->x.data(), ld, d->labels.data(), nullptr, 0, nullptr,
        static_cast<double>(m), {d->value.data(), d->correct.data(), d->row_weight.data()},
        dx->data(), ld, m);
  };
  const auto run = [=, &k] { sums(k, threads, &d->dx); };
  const auto check = [=, &k]() -> std::string {
    const double found = sums(k, threads, &d->dx).mean_loss();
    Buffer<float> expected(m * ld);
    const double loss = sums(kReference.f32, 1, &expected).mean_loss();
    if (!(std::abs(found - loss) <= 8 * kEps<float> * loss)) {
      return "loss is " + std::to_string(found) + ", not " + std::to_string(loss);
    }
    // n + 8: the sum of n exponentials.
    const double bound = static_cast<double>(n + 8) * kEps<float>;
    for (Index i = 0; i < m; ++i) {
      const std::string wrong = compare(d->dx.data() + i * ld, expected.data() + i * ld, n, bound,
                                        bound / static_cast<double>(m), "dx");
      if (!wrong.empty()) return wrong;
    }
    return "";
  };
  return {check, repeated(run)};
}

template <class T>
Prepared optimizer_update(const KernelsOf<T>& k, int threads, const ops::Optimizer& optimizer,
                          Index n) {
  struct Data {
    Buffer<T> w, dw, state1, state2;
  };
  auto d = std::make_shared<Data>();
  const int states = optimizer.states();
  d->dw = grid<T>(n, 2);
  const auto reset = [=](Data* data) {
    data->w = grid<T>(n, 1);
    data->state1 = Buffer<T>(states > 0 ? n : 0);
    data->state2 = Buffer<T>(states > 1 ? n : 0);
  };
  reset(d.get());
  const auto update = ops::update_of<T>(optimizer, 1e-3, 1, 1);
  const auto step = [=](const KernelsOf<T>& kernels, int count, Data* data) {
    ops::optimizer_step<T>(kernels, count, update, data->w.data(), d->dw.data(),
                           data->state1.data(), data->state2.data(), n);
  };
  const auto check = [=, &k] {
    Data expected;
    reset(&expected);
    reset(d.get());
    step(k, threads, d.get());
    step(kReference.of<T>(), 1, &expected);
    // Weights of at most 1 and a step of at most 1e-3: a unit or two each.
    return compare(d->w.data(), expected.w.data(), n, 0, 4 * kEps<T>, "w");
  };
  return {check, repeated([=, &k] { step(k, threads, d.get()); })};
}

/// A batch of m rows in random order out of 60,000 examples of 784 features, which no cache holds
/// and nobody has asked for.
Prepared gather(const KernelsOf<float>& k, int threads, DType dtype, Index m) {
  constexpr Index kRows = 60'000, kFeatures = 784;
  struct Data {
    std::vector<std::byte> x;
    std::vector<Index> order;
    Buffer<float> y;
    Index next = 0;
  };
  auto d = std::make_shared<Data>();
  const Index size = item_size(dtype), ld = leading_dimension<float>(kFeatures);
  d->x.resize(static_cast<std::size_t>(kRows * kFeatures * size));
  philox::Stream words(1, philox::Purpose::weights, 0, 0);
  for (Index i = 0; i < kRows * kFeatures; ++i) {
    std::byte* at = d->x.data() + i * size;
    const std::uint32_t word = words.next();
    if (dtype == DType::float32) {
      reinterpret_cast<float*>(at)[0] = static_cast<float>(word & 255);
    } else if (dtype == DType::float16) {
      reinterpret_cast<std::uint16_t*>(at)[0] = static_cast<std::uint16_t>(0x3c00 | (word & 1023));
    } else {
      at[0] = static_cast<std::byte>(word);
    }
  }
  d->order.resize(kRows);
  std::iota(d->order.begin(), d->order.end(), Index{0});
  philox::shuffle(1, 0, d->order.data(), kRows);
  d->y = Buffer<float>(m * ld);
  const RowsView view{d->x.data(), dtype, kRows, kFeatures, kFeatures * size, {}};
  const auto batch = [=](const KernelsOf<float>& kernels, int count, Index begin, float* y) {
    ops::gather<float>(kernels, count, view, {0, kFeatures}, d->order.data() + begin, 0, 1.0f / 255,
                       y, ld, m, 1);
  };
  const auto check = [=, &k] {
    Buffer<float> expected(m * ld);
    batch(k, threads, 0, d->y.data());
    batch(kReference.f32, 1, 0, expected.data());
    return compare(d->y.data(), expected.data(), m * ld, 0, 0, "y");
  };
  return {check, repeated([=, &k] {
            if (d->next + m > kRows) d->next = 0;
            batch(k, threads, d->next, d->y.data());
            d->next += m;
          })};
}

Prepared transpose(const KernelsOf<float>& k, Index m, Index n) {
  const Index ld = leading_dimension<float>(n), ldt = leading_dimension<float>(m);
  auto x = std::make_shared<Buffer<float>>(grid(m * ld, 1));
  auto xt = std::make_shared<Buffer<float>>(n * ldt);
  const auto run = [=, &k] { k.transpose(x->data(), ld, xt->data(), ldt, m, n, padded<float>(m)); };
  const auto check = [=] {
    run();
    Buffer<float> expected(n * ldt);
    kReference.f32.transpose(x->data(), ld, expected.data(), ldt, m, n, padded<float>(m));
    return compare(xt->data(), expected.data(), n * ldt, 0, 0, "xt");
  };
  return {check, repeated(run)};
}

Prepared dropout(const KernelsOf<float>& k, int threads, Index m, Index n) {
  const Index ld = leading_dimension<float>(n);
  auto x = std::make_shared<Buffer<float>>(grid(m * ld, 1));
  auto y = std::make_shared<Buffer<float>>(m * ld);
  const auto drop = [=](const KernelsOf<float>& kernels, int count, float* result) {
    ops::dropout<float>(kernels, count, 0.5, {7, 3}, 1, 0, x->data(), result, ld, m, n);
  };
  const auto check = [=, &k] {
    Buffer<float> expected(m * ld);
    drop(k, threads, y->data());
    drop(kReference.f32, 1, expected.data());
    return compare(y->data(), expected.data(), m * ld, 0, 0, "y");
  };
  return {check, repeated([=, &k] { drop(k, threads, y->data()); })};
}

Prepared bias_gradient(const KernelsOf<float>& k, int threads, Index m, Index n) {
  const Index ld = leading_dimension<float>(n);
  auto dy = std::make_shared<Buffer<float>>(grid(m * ld, 1));
  auto db = std::make_shared<Buffer<float>>(padded<float>(n));
  const auto run = [=, &k] {
    ops::dense_bias_gradient<float>(k, threads, dy->data(), ld, db->data(), m, n);
  };
  const auto check = [=] {
    run();
    Buffer<float> expected(padded<float>(n));
    kReference.f32.column_sums(dy->data(), ld, expected.data(), m, n);
    return compare(db->data(), expected.data(), n, 0, 0, "db");
  };
  return {check, repeated(run)};
}

Prepared add(const KernelsOf<float>& k, int threads, Index n) {
  auto a = std::make_shared<Buffer<float>>(grid(n, 1));
  auto b = std::make_shared<Buffer<float>>(grid(n, 2));
  auto y = std::make_shared<Buffer<float>>(n);
  const auto run = [=, &k] {
    ops::add_forward<float>(k, threads, a->data(), b->data(), y->data(), n);
  };
  const auto check = [=] {
    run();
    Buffer<float> expected(n);
    expected.copy_from(*a);
    kReference.f32.add(b->data(), expected.data(), n);
    return compare(y->data(), expected.data(), n, 0, 0, "y");
  };
  return {check, repeated(run)};
}

Prepared norm(const KernelsOf<float>& k, int threads, Index n) {
  auto x = std::make_shared<Buffer<float>>(grid(n, 1));
  auto pieces = std::make_shared<Buffer<double>>(ops::norm_pieces(n));
  auto value = std::make_shared<double>(0);
  const auto run = [=, &k] { *value = ops::norm<float>(k, threads, x->data(), n, pieces->data()); };
  const auto check = [=]() -> std::string {
    run();
    const double expected = std::sqrt(kReference.f32.sum_squares(x->data(), n));
    if (std::abs(*value - expected) <= 1e-12 * expected) return "";
    return "norm is " + std::to_string(*value) + ", not " + std::to_string(expected);
  };
  return {check, repeated(run)};
}

Prepared shuffle(Index n) {
  auto rows = std::make_shared<std::vector<Index>>(static_cast<std::size_t>(n));
  std::iota(rows->begin(), rows->end(), Index{0});
  const auto run = [=] { philox::shuffle(1, 0, rows->data(), n); };
  const auto check = [=]() -> std::string {
    run();
    std::vector<Index> sorted = *rows;
    std::sort(sorted.begin(), sorted.end());
    for (Index i = 0; i < n; ++i) {
      if (sorted[static_cast<std::size_t>(i)] != i) return "row " + std::to_string(i) + " is lost";
    }
    return "";
  };
  return {check, repeated(run)};
}

/// What handing out one task a thread and waiting for all costs, the pool awake.
Prepared fork_join(int threads) {
  auto count = std::make_shared<std::vector<Index>>(static_cast<std::size_t>(threads) * 16);
  const auto run = [=] {
    parallel_for(threads, threads, [&](Index i) { ++(*count)[static_cast<std::size_t>(i) * 16]; });
  };
  const auto check = [=]() -> std::string {
    std::fill(count->begin(), count->end(), 0);
    for (int i = 0; i < 1000; ++i) run();
    const Index done = std::accumulate(count->begin(), count->end(), Index{0});
    return done == 1000 * threads ? "" : std::to_string(done) + " tasks ran of 1000 a thread";
  };
  return {check, repeated(run)};
}

constexpr Index kSerial = Index{1} << 15;  ///< fewer elements run on one thread

struct UpdateRow {
  const char* name;
  ops::Optimizer optimizer;
  Index numbers;  ///< that an element moves: w and the states read and written, dw read
};
constexpr UpdateRow kUpdates[] = {{"sgd", {}, 3},
                                  {"momentum", {.momentum = 0.9}, 5},
                                  {"nesterov", {.momentum = 0.9, .nesterov = true}, 5},
                                  {"adam", {.rule = Rule::adam}, 7},
                                  {"adamw", {.rule = Rule::adamw, .weight_decay = 0.01}, 7}};

template <class T, class Add>
void add_activation_cases(const KernelsOf<T>& k, std::span<const ActivationRow> rows,
                          const Add& add_case) {
  for (const ActivationRow& row : rows) {
    for (const Index n : {Index{1'000}, Index{100'000}, Index{10'000'000}}) {
      const std::string end = std::string("/") + row.name + "/" + std::to_string(n) + kSuffix<T>;
      // x read, y written
      add_case("activation_forward" + end, n, 2 * sizeof(T), kSerial,
               [&k, row, n](int count) { return activation_forward(k, row, count, n); });
      // dy and the saved value read, dx written
      add_case("activation_backward" + end, n, 3 * sizeof(T), kSerial,
               [&k, row, n](int count) { return activation_backward(k, row, count, n); });
    }
  }
}

template <class T, class Add>
void add_update_cases(const KernelsOf<T>& k, const Add& add_case) {
  for (const UpdateRow& row : kUpdates) {
    for (const Index n : {Index{25'600}, Index{10'000'000}}) {
      const ops::Optimizer& optimizer = row.optimizer;
      add_case(std::string("optimizer_step/") + row.name + "/" + std::to_string(n) + kSuffix<T>, n,
               row.numbers * sizeof(T), 2 * kSerial,
               [&k, optimizer, n](int count) { return optimizer_update(k, count, optimizer, n); });
    }
  }
}

}  // namespace

void add_elementwise_cases(const Kernels& kernels, const std::vector<int>& threads,
                           std::vector<Case>* cases) {
  const KernelsOf<float>& k = kernels.f32;
  // bytes: what one element of `item` bytes moves; below `serial` elements all runs on one thread.
  const auto add_case = [&](const std::string& name, Index elements, Index bytes, Index serial,
                            auto prepare, Index item = 4) {
    for (const int count : threads) {
      if (count > 1 && elements < serial) continue;
      const auto moved = static_cast<double>(elements * bytes);
      cases->push_back({name, count, Yardstick::bandwidth, moved, item * elements, 0,
                        [=] { return prepare(count); }});
    }
  };
  const auto add_float64 = [&](const std::string& name, Index elements, Index bytes, Index serial,
                               auto prepare) {
    add_case(name, elements, bytes, serial, prepare, 8);
  };
  add_activation_cases(k, kActivations, add_case);
  add_activation_cases(kernels.f64, kActivationsFloat64, add_float64);
  const std::pair<Index, Index> logits[] = {{32, 10}, {128, 10}, {4096, 10}, {1024, 1000}};
  for (const auto& [m, n] : logits) {
    // a logit read, its gradient written
    add_case("softmax_cross_entropy/" + std::to_string(m) + "x" + std::to_string(n), m * n, 8,
             kSerial,
             [&k, m = m, n = n](int count) { return softmax_cross_entropy(k, count, m, n); });
  }
  add_update_cases(k, add_case);
  add_update_cases(kernels.f64, add_float64);
  const std::pair<Index, Index> matrices[] = {{128, 512}, {1024, 2048}};
  for (const auto& [m, n] : matrices) {
    const std::string size = std::to_string(m) + "x" + std::to_string(n);
    cases->push_back({"transpose/" + size, 1, Yardstick::bandwidth,
                      8.0 * static_cast<double>(m * n), 4 * m * n, 0,
                      [&k, m = m, n = n] { return transpose(k, m, n); }});
    // read and written; the mask is computed, ten rounds of two multiplications for four elements
    add_case("dropout/" + size, m * n, 8, kSerial,
             [&k, m = m, n = n](int count) { return dropout(k, count, m, n); });
    // read alone
    add_case("bias_gradient/" + size, m * n, 4, Index{1} << 21,
             [&k, m = m, n = n](int count) { return bias_gradient(k, count, m, n); });
  }
  for (const Index n : {Index{100'000}, Index{10'000'000}}) {
    add_case("add/" + std::to_string(n), n, 12, kSerial,
             [&k, n](int count) { return add(k, count, n); });
    add_case("norm/" + std::to_string(n), n, 4, 2 * kSerial,
             [&k, n](int count) { return norm(k, count, n); });
  }
  const std::pair<const char*, DType> dtypes[] = {
      {"uint8", DType::uint8}, {"float16", DType::float16}, {"float32", DType::float32}};
  for (const auto& [name, dtype] : dtypes) {
    for (const Index m : {Index{32}, Index{128}, Index{1024}}) {
      for (const int count : threads) {
        // The rows read; what is written stays in the cache.
        const auto bytes = static_cast<double>(m * 784 * item_size(dtype));
        cases->push_back({std::string("gather/") + name + "/m" + std::to_string(m), count,
                          Yardstick::read, bytes, 0, static_cast<double>(m),
                          [&k, dtype = dtype, m, count] { return gather(k, count, dtype, m); }});
      }
    }
  }
  cases->push_back(
      {"shuffle/60000", 1, Yardstick::none, 0, 0, 60'000, [] { return shuffle(60'000); }});
  for (const int count : threads) {
    if (count > 1) {
      cases->push_back(
          {"fork_join", count, Yardstick::none, 0, 0, 0, [count] { return fork_join(count); }});
    }
  }
}

}  // namespace dlcore::bench
