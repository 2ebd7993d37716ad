// The graph engine's kernels on the CPU, by the emulated runtime, against the plain loops of
// cpp/kernels/reference.cpp: for sanitizers, which see what no result shows. Sizes are odd, so that
// tails and several blocks occur.

#include "kernels/kernels.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "device.h"
#include "divisor.h"
#include "launches.h"
#include "runtime.h"

using namespace dlcore;
using namespace dlcore::cuda;

namespace {

std::mt19937 generator(7);

std::vector<float> numbers(Index n) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = normal(generator);
  return values;
}

/// Values in device memory, exactly as many as asked for: a sanitizer sees the first one beyond.
template <class T>
struct OnDevice {
  OnDevice(const std::vector<T>& values, const Stream& stream)
      : memory(static_cast<Index>(values.size())) {
    copy(memory.data(), values.data(), memory.size(), stream);
    stream.synchronize();  // the values may go before the stream has come to them
  }
  operator T*() const { return memory.data(); }
  std::vector<T> read(const Stream& stream) const {
    std::vector<T> values(static_cast<std::size_t>(memory.size()));
    copy(values.data(), memory.data(), memory.size(), stream);
    stream.synchronize();
    return values;
  }
  DeviceMemory<T> memory;
};

void expect(const char* what, const std::vector<float>& found, const std::vector<float>& wanted,
            double tolerance) {
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double scale = std::max(1.0, std::abs(static_cast<double>(wanted[i])));
    if (!(std::abs(static_cast<double>(found[i]) - wanted[i]) <= tolerance * scale)) {
      std::printf("%s: %g instead of %g at %zu\n", what, found[i], wanted[i], i);
      std::exit(1);
    }
  }
}

/// Every quotient that a kernel may ask for, around multiples of what is divided by and the limits.
void divisions() {
  constexpr Index kWord = Index{1} << 32;
  std::vector<Index> numbers{1, 2, 3, 5, 7, 10, 641, 784, 1000, 65535, 65537};
  for (int bit = 2; bit < 36; ++bit) {
    for (const Index away : {-1, 0, 1}) numbers.push_back((Index{1} << bit) + away);
  }
  for (const Index n : numbers) {
    const Divisor divisor(n);
    const auto check = [&](Index i) {
      if (i < 0) return;
      const Place at = divisor.split(i);
      if (at.row == i / n && at.column == i % n && divisor.quotient(i) == i / n) return;
      std::printf("%lld is not %lld * %lld + %lld\n", static_cast<long long>(i),
                  static_cast<long long>(n), static_cast<long long>(at.row),
                  static_cast<long long>(at.column));
      std::exit(1);
    };
    for (const Index near : {Index{0}, kWord / 2, kWord, 3 * kWord, Index{1} << 50}) {
      for (Index i = -3; i <= 3; ++i) {
        check(near + i);
        check(near / n * n + i);
        check(near / 2 / n * n + i);
      }
    }
    for (int i = 0; i < 2000; ++i) check(static_cast<Index>(generator()));
  }
}

const KernelsOf<float>& plain = kReference.f32;

void activations(const Stream& stream) {
  const Index n = 1003;
  for (int kind = 0; kind <= static_cast<int>(Activation::softplus); ++kind) {
    const auto activation = static_cast<Activation>(kind);
    const std::vector<float> x = numbers(n), dy = numbers(n);
    std::vector<float> y(x), dx(x);
    plain.activation_forward(activation, 0.1f, x.data(), y.data(), n);
    const std::vector<float>& saved = gradient_from_result(activation) ? y : x;
    plain.activation_backward(activation, 0.1f, dy.data(), saved.data(), dx.data(), n);
    const OnDevice<float> input(x, stream), output(x, stream), kept(saved, stream), d(dy, stream);
    activation_forward<float>(activation, 0.1f, input, output, n, stream);
    expect("activation_forward", output.read(stream), y, 1e-6);
    activation_backward<float>(activation, 0.1f, d, kept, output, n, stream);
    expect("activation_backward", output.read(stream), dx, 1e-6);
  }
  const std::vector<float> a = numbers(n), b = numbers(n);
  std::vector<float> sum(b);
  plain.add(a.data(), sum.data(), n);
  const OnDevice<float> first(a, stream), second(b, stream);
  add<float>(first, second, second, n, stream);
  expect("add", second.read(stream), sum, 0);
}

void rows_and_words(const Stream& stream) {
  const Index m = 9, n = 13, ld = line(n);
  const std::vector<float> x = numbers(m * ld);
  const OnDevice<float> input(x, stream), output(x, stream);
  std::vector<float> wanted(static_cast<std::size_t>(m * n));
  plain.softmax(x.data(), ld, wanted.data(), n, m, n);
  const OnDevice<float> dense(wanted, stream);
  softmax_rows(input, ld, dense, m, n, stream);
  expect("softmax_rows", dense.read(stream), wanted, 1e-6);
  for (Index i = 0; i < m; ++i) {
    for (Index j = 0; j < n; ++j) {
      wanted[static_cast<std::size_t>(i * n + j)] = x[static_cast<std::size_t>(i * ld + j)];
    }
  }
  identity_rows(input, ld, dense, m, n, stream);
  expect("identity_rows", dense.read(stream), wanted, 0);
  dropout_plain(5, 3, 2, 0.3, dense, dense, m * n, stream);
  plain.dropout(wanted.data(), wanted.data(), static_cast<uint32_t>(0.3 * 4294967296.0),
                static_cast<float>(1 / 0.7), 5, 3, 2, 0, m * n);
  expect("dropout_plain", dense.read(stream), wanted, 0);
  repack<float>(dense, n, n, output, n, ld, m * n, stream);
  identity_rows(output, ld, dense, m, n, stream);
  expect("repack", dense.read(stream), wanted, 0);
  const OnDevice<Bf16> narrow(std::vector<Bf16>(static_cast<std::size_t>(m * n)), stream);
  convert<float, Bf16>(dense, narrow, m * n, stream);
  convert<Bf16, float>(narrow, dense, m * n, stream);
  expect("convert", dense.read(stream), wanted, 1.0 / 256);
  const OnDevice<float> bias(numbers(n), stream);
  add_bias<float>(bias, output, ld, m, n, {}, stream);
  stream.synchronize();
}

void column_sums_of(Index m, const Stream& stream) {
  const Index n = 41, ld = line(n);
  const std::vector<float> dy = numbers(m * ld);
  std::vector<float> wanted(static_cast<std::size_t>(n));
  plain.column_sums(dy.data(), ld, wanted.data(), m, n);
  const OnDevice<float> input(dy, stream), sums(wanted, stream);
  const DeviceMemory<float> chunks(column_sums_scratch(m, n));
  column_sums<float>(input, ld, sums, m, n, false, chunks.data(), {}, stream);
  expect("column_sums", sums.read(stream), wanted, 1e-4);
  column_sums<float>(input, ld, sums, m, n, true, chunks.data(), {}, stream);
  for (float& value : wanted) value *= 2;
  expect("column_sums, added", sums.read(stream), wanted, 1e-4);
}

void one_step(ops::LossKind kind, const Stream& stream) {
  const Index m = 21, n = 11, ld = line(n), examples = 30, features = 8;
  const Index used = 19;  // a short batch: the rest becomes 0
  StepInput input;
  input.rows = static_cast<int32_t>(used);
  input.begin = 2;
  input.share = 1.0 / static_cast<double>(used);
  input.update.learning_rate = 0.1f;
  input.update.momentum = 0.9f;
  input.update.epsilon = 1.0f;
  const OnDevice<StepInput> table({input}, stream);
  const OnDevice<StepState> state({StepState{}}, stream);
  std::vector<uint32_t> order;
  for (uint32_t i = 0; i < examples; ++i) order.push_back(i * 7 % 30);
  const OnDevice<uint32_t> places(order, stream);
  std::vector<uint8_t> pixels;
  for (Index i = 0; i < examples * features; ++i) {
    pixels.push_back(static_cast<uint8_t>(generator() % 256));
  }
  const OnDevice<uint8_t> data(pixels, stream);
  const OnDevice<float> batch(numbers(m * features), stream);
  std::vector<int32_t> labels;
  std::vector<double> weights;
  for (Index i = 0; i < examples; ++i) {
    labels.push_back(static_cast<int32_t>(generator() % n));
    weights.push_back(static_cast<double>(generator() % 3));
  }
  const OnDevice<int32_t> classes(labels, stream);
  const OnDevice<double> shares(weights, stream);
  const std::vector<float> values = numbers(examples * n), outputs = numbers(m * ld);
  const OnDevice<float> target(values, stream), logits(outputs, stream);
  const Targets targets{.loss = {kind, 0.7},
                        .shape = {1, n, kind == ops::LossKind::cross_entropy ? 1 : n}};
  const OnDevice<Source> source({Source{.x = data,
                                        .order = places,
                                        .x_order = places,
                                        .labels = classes,
                                        .values = target,
                                        .weight = shares,
                                        .scale = 0.5f,
                                        .seed = 3}},
                                stream);
  const Step step{state, table, source};
  gather<float>(step, DType::uint8, batch, m, 1, features, features, stream);
  std::vector<float> wanted(static_cast<std::size_t>(m * features), 0.0f);
  for (Index i = 0; i < used; ++i) {
    for (Index j = 0; j < features; ++j) {
      const Index row = order[static_cast<std::size_t>(input.begin + i)];
      wanted[static_cast<std::size_t>(i * features + j)] =
          0.5f * static_cast<float>(pixels[static_cast<std::size_t>(row * features + j)]);
    }
  }
  expect("gather", batch.read(stream), wanted, 0);
  const std::vector<float> nothing(static_cast<std::size_t>(m), 0.0f);
  const OnDevice<float> loss(nothing, stream), correct(nothing, stream), dx(outputs, stream);
  loss_rows<float>(step, targets, logits, ld, loss, correct, dx, ld, m, stream);
  finish(step, targets, loss, correct, m, stream);
  const std::vector<float> each = loss.read(stream);
  double sum = 0, total = 0;
  for (Index i = 0; i < used; ++i) {
    const double w = weights[order[static_cast<std::size_t>(input.begin + i)]];
    sum += w * each[static_cast<std::size_t>(i)] / static_cast<double>(targets.shape.width);
    total += w;
  }
  const StepState after = state.read(stream)[0];
  if (std::abs(after.loss - sum) > 1e-9 || after.weight != total || after.step != 1) {
    std::printf("finish: loss %g instead of %g\n", after.loss, sum);
    std::exit(1);
  }

  const Index size = 4 * 503;
  const OnDevice<float> w(numbers(size), stream), g(numbers(size), stream),
      s1(numbers(size), stream);
  const OnDevice<float> s2(std::vector<float>(static_cast<std::size_t>(size), 1.0f), stream);
  const OnDevice<Bf16> rounded(std::vector<Bf16>(static_cast<std::size_t>(size)), stream);
  const DeviceMemory<double> scratch(squares_scratch(size)), norm(1);
  clip(step, g, size, 1.0, scratch.data(), stream);
  sum_squares(g, size, scratch.data(), norm.data(), 1, stream);
  update(step, Rule::sgd, w, g, s1, nullptr, rounded, size, stream);
  update(step, Rule::sgd, w, g, nullptr, nullptr, nullptr, size, stream);
  update(step, Rule::adamw, w, g, s1, s2, rounded, size, stream);
  keep_epoch_start(step, w, g, size, stream);
  expect("keep_epoch_start", g.read(stream), w.read(stream), 0);
  dropout<float>(step, true, 1, 0.5, logits, logits, m, 1, n, ld, stream);
  count_step(step, stream);
  stream.synchronize();
}

/// A part of values in device memory, read back.
std::vector<float> part_of(const OnDevice<float>& values, Index begin, Index count,
                           const Stream& stream) {
  const std::vector<float> all = values.read(stream);
  return {all.begin() + begin, all.begin() + begin + count};
}

/// Three networks at once, the second of which rests: each gets what it gets alone.
void several_networks(const Stream& stream) {
  const Index networks = 3, m = 300, n = 13, ld = line(n), examples = 40, features = 9;
  const Index size = line(n * ld + n);  // of an arena: a weight (n, n), then a bias
  std::vector<StepInput> table;
  std::vector<Source> sources;
  std::vector<OnDevice<float>> data;
  std::vector<OnDevice<uint32_t>> orders;
  std::vector<int32_t> labels(examples, 1);
  const OnDevice<int32_t> classes(labels, stream);
  for (Index g = 0; g < networks; ++g) {
    StepInput input;
    input.rows = g == 1 ? 0 : static_cast<int32_t>(m - 7 * g);
    input.share = 1.0 / static_cast<double>(m);
    input.random_step = static_cast<uint64_t>(5 + g);
    input.update.learning_rate = 0.1f * static_cast<float>(g + 1);
    table.push_back(input);
    std::vector<uint32_t> order;
    for (Index i = 0; i < m; ++i) order.push_back(static_cast<uint32_t>((i * 7 + g) % examples));
    orders.emplace_back(order, stream);
    data.emplace_back(numbers(examples * features), stream);
    sources.push_back({.x = data.back(),
                       .order = orders.back(),
                       .x_order = orders.back(),
                       .labels = classes,
                       .scale = static_cast<float>(g + 1),
                       .seed = static_cast<uint64_t>(g)});
  }
  const Index x_size = m * line(features), y_size = m * ld;
  const std::vector<float> outputs = numbers(networks * y_size);
  const std::vector<float> w = numbers(networks * size), moments = numbers(networks * size);
  struct Values {
    OnDevice<float> x, y, dx, loss, correct, w, dw, moment, kept, bias;
  };
  const Targets targets{.loss = {ops::LossKind::cross_entropy, 1}, .shape = {1, n, 1}};
  // All at once, and then each alone, from the same numbers.
  const auto run = [&](Index first, Index count) {
    const auto cut = [&](const std::vector<float>& all, Index each) {
      return OnDevice<float>(
          std::vector<float>(all.begin() + first * each, all.begin() + (first + count) * each),
          stream);
    };
    const auto zeros = [&](Index each) {
      return OnDevice<float>(std::vector<float>(static_cast<std::size_t>(count * each), 0.0f),
                             stream);
    };
    Values v{zeros(x_size), cut(outputs, y_size), zeros(y_size),      zeros(m),    zeros(m),
             cut(w, size),  zeros(size),          cut(moments, size), zeros(size), zeros(y_size)};
    const OnDevice<StepInput> inputs(
        std::vector<StepInput>(table.begin() + first, table.begin() + first + count), stream);
    const OnDevice<Source> from(
        std::vector<Source>(sources.begin() + first, sources.begin() + first + count), stream);
    const OnDevice<StepState> states(std::vector<StepState>(static_cast<std::size_t>(count)),
                                     stream);
    const Step step{states, inputs, from, count};
    const Group group{count, size};
    const DeviceMemory<float> chunks(count * column_sums_scratch(m, n));
    const DeviceMemory<double> scratch(count * squares_scratch(size)), norms(count);
    rewind(step, stream);
    gather<float>(step, DType::float32, v.x, m, 1, features, line(features), stream);
    dropout<float>(step, false, 1, 0.5, v.y, v.y, m, 1, n, ld, stream);
    add_bias<float>(v.w + n * ld, v.y, ld, m, n, group, stream);
    copy<float>(v.bias, v.y, count * y_size, stream);
    loss_rows<float>(step, targets, v.y, ld, v.loss, v.correct, v.dx, ld, m, stream);
    finish(step, targets, v.loss, v.correct, m, stream);
    keep_epoch_start(step, v.w, v.kept, size, stream);
    column_sums<float>(v.dx, ld, v.dw + n * ld, m, n, false, chunks.data(), group, stream);
    clip(step, v.dw, size, 0.01, scratch.data(), stream);
    scale_gradients(step, v.dw, size, stream);
    update(step, Rule::sgd, v.w, v.dw, v.moment, nullptr, nullptr, size, stream);
    sum_squares(v.w, size, scratch.data(), norms.data(), count, stream);
    stream.synchronize();
    return v;
  };
  const Values together = run(0, networks);
  for (Index g = 0; g < networks; ++g) {
    const Values alone = run(g, 1);
    const auto same = [&](const char* what, OnDevice<float> Values::* values, Index each) {
      expect(what, part_of(together.*values, g * each, each, stream), (alone.*values).read(stream),
             0);
    };
    same("gather of several", &Values::x, x_size);
    same("add_bias of several", &Values::bias, y_size);
    same("loss_rows of several", &Values::dx, y_size);
    same("column_sums of several", &Values::dw, size);
    same("keep_epoch_start of several", &Values::kept, size);
    same("update of several", &Values::w, size);
    if (g == 1) {
      const std::vector<float> before(w.begin() + size, w.begin() + 2 * size);
      expect("update of one that rests", alone.w.read(stream), before, 0);
    }
  }
}

}  // namespace

int main() {
  const Stream stream;
  divisions();
  activations(stream);
  rows_and_words(stream);
  for (const Index m : {1, 100, 1100}) column_sums_of(m, stream);
  for (const auto kind : {ops::LossKind::cross_entropy, ops::LossKind::binary_cross_entropy,
                          ops::LossKind::mse, ops::LossKind::huber}) {
    one_step(kind, stream);
  }
  several_networks(stream);
  std::puts("every kernel of the graph engine agrees with the plain loops");
}
