// The products of a dense layer. An output of forward takes 2 k operations; a weight's gradient
// 2 m; an element of the input gradient 2 n. Bytes are few beside that: every case is measured
// against the multiply-add peak.

#include <algorithm>
#include <memory>

#include "bench.h"
#include "onednn.h"
#include "ops/dense.h"
#include "ops/optimizer.h"
#include "parameters.h"

namespace dlcore::bench {
namespace {

// Operations the reference may spend on a check: about 0.1 s. Rows are independent, so what is too
// large is checked in rows spread from the first to the last.
constexpr double kCheckOperations = 4e7;

struct Shape {
  Index k, n;               ///< in_features, out_features
  bool dense_rows = false;  ///< rows lie at distance k exactly, as in an array of the user
};

/// Data of one dense layer: x (m, k), w (k, n) in panels, y and dy (m, n).
template <class T>
struct Layer {
  Layer(const Shape& shape, Index rows)
      : m(rows),
        n(shape.n),
        k(shape.k),
        ldx(shape.dense_rows ? k : leading_dimension<T>(k)),
        ldy(shape.dense_rows ? padded<T>(n) : leading_dimension<T>(n)),
        ldt(leading_dimension<T>(m)),
        stride(panel_stride_of<T>(k)),
        panels(padded<T>(n) / kPanel<T> * stride),
        x(grid<T>(m * ldx, 1)),
        b(grid<T>(padded<T>(n), 2)),
        w(panels),
        dy(m * ldy) {
    const Buffer<T> plain = grid<T>(n * k, 3), gradient = grid<T>(m * n, 4);
    pack_weight(plain.data(), n, k, w.data(), stride);
    for (Index i = 0; i < m; ++i) std::copy_n(gradient.data() + i * n, n, dy.data() + i * ldy);
  }
  ops::DenseWeights<const T> weights() const { return {w.data(), stride, k, n}; }

  Index m, n, k, ldx, ldy, ldt, stride, panels;
  Buffer<T> x, b, w, dy;
};

/// Calls row(i) for rows spread over 0..rows until one says what is wrong.
template <class F>
std::string check_rows(Index rows, double operations, F row) {
  const auto most = static_cast<Index>(kCheckOperations / operations);
  const Index count = std::clamp<Index>(most, std::min<Index>(rows, 3), rows);
  for (Index c = 0; c < count; ++c) {
    const std::string wrong = row(count == 1 ? 0 : c * (rows - 1) / (count - 1));
    if (!wrong.empty()) return wrong;
  }
  return "";
}

/// Sets oneDNN beside a product of float32, where this build has it; `row` gives rows of our
/// result, which must be its. With one thread only: OpenMP's others would spin beside ours.
template <class T, class Row>
Prepared with_peer(Product product, int threads, const Layer<T>& d, Prepared prepared, Row row) {
  if constexpr (kHasOneDnn && std::is_same_v<T, float>) {
    if (threads > 1) return prepared;
    const auto data = std::make_shared<DenseData>(DenseData{d.m, d.n, d.k, Buffer<float>(d.m * d.k),
                                                            grid(d.n * d.k, 3), grid(d.n, 2),
                                                            grid(d.m * d.n, 4)});
    for (Index i = 0; i < d.m; ++i) {
      std::copy_n(d.x.data() + i * d.ldx, d.k, data->x.data() + i * d.k);
    }
    const OneDnnProduct onednn = onednn_product(product, data);
    prepared.peer = onednn.peer;
    prepared.check = [=, ours = prepared.check] {
      std::string wrong = ours();
      const Buffer<float> theirs = onednn.result();
      const Index columns = product == Product::input_gradient ? data->k : data->n;
      for (Index i = 0; wrong.empty() && i < theirs.size() / columns; ++i) {
        wrong = compare(theirs.data() + i * columns, row(i), columns, 0, 0, "the peer's result");
      }
      return wrong;
    };
  }
  return prepared;
}

template <class T>
Prepared forward(const KernelsOf<T>& k, const Shape& shape, Index m, int threads,
                 Activation activation) {
  auto d = std::make_shared<Layer<T>>(shape, m);
  auto y = std::make_shared<Buffer<T>>(m * d->ldy);
  const auto run = [=, &k] {
    ops::dense_forward<T>(k, threads, d->x.data(), d->ldx, d->weights(), d->b.data(), activation,
                          T(0.25), nullptr, y->data(), d->ldy, m);
  };
  // The sums are exact; an activation may be off by some units in the last place, and next to 0 by
  // as much of 1: there the plain loops round an argument of exp.
  const bool exact = activation == Activation::identity || activation == Activation::relu ||
                     activation == Activation::leaky_relu;
  const auto check = [=] {
    run();
    Buffer<T> expected(d->ldy);
    return check_rows(m, 2.0 * d->n * d->k, [&](Index i) {
      kReference.of<T>().dense_forward(d->x.data() + i * d->ldx, d->ldx, d->w.data(), d->stride,
                                       d->b.data(), activation, T(0.25), nullptr, expected.data(),
                                       d->ldy, 1, d->n, d->k, nullptr);
      return compare(y->data() + i * d->ldy, expected.data(), d->n, exact ? 0 : 10 * kEps<T>,
                     exact ? 0 : 10 * kEps<T>, "y");
    });
  };
  if (activation != Activation::relu) return {check, repeated(run)};
  return with_peer(Product::forward, threads, *d, {check, repeated(run)},
                   [=](Index i) { return y->data() + i * d->ldy; });
}

template <class T>
Prepared input_gradient(const KernelsOf<T>& k, const Shape& shape, Index m, int threads) {
  auto d = std::make_shared<Layer<T>>(shape, m);
  auto dyt = std::make_shared<Buffer<T>>(d->n * d->ldt);
  auto dxt = std::make_shared<Buffer<T>>(d->k * d->ldt);
  auto dx = std::make_shared<Buffer<T>>(m * d->ldx);
  const auto run = [=, &k] {
    ops::dense_input_gradient<T>(k, k, threads, d->dy.data(), d->ldy, d->weights(),
                                 {dyt->data(), dxt->data(), d->ldt}, false, dx->data(), d->ldx, m);
  };
  const auto check = [=] {
    run();
    Buffer<T> expected(d->k);
    return check_rows(m, 2.0 * d->n * d->k, [&](Index i) {
      kReference.of<T>().dense_input_gradient(d->dy.data() + i * d->ldy, d->ldy, d->w.data(),
                                              d->stride, false, expected.data(), d->k, 1, d->n,
                                              d->k);
      return compare(dx->data() + i * d->ldx, expected.data(), d->k, 0, 0, "dx");
    });
  };
  return with_peer(Product::input_gradient, threads, *d, {check, repeated(run)},
                   [=](Index i) { return dx->data() + i * d->ldx; });
}

/// Row r of panels as n values.
template <class T>
void panel_row(const Layer<T>& d, const Buffer<T>& panels, Index r, T* row) {
  for (Index j = 0; j < d.n; ++j) {
    const Index panel = j / kPanel<T>, column = j % kPanel<T>;
    row[j] = panels.data()[panel * d.stride + r * kPanel<T> + column];
  }
}

template <class T>
Prepared weight_gradient(const KernelsOf<T>& k, const Shape& shape, Index m, int threads) {
  auto d = std::make_shared<Layer<T>>(shape, m);
  auto dw = std::make_shared<Buffer<T>>(d->panels);
  const auto run = [=, &k] {
    ops::dense_weight_gradient<T>(k, threads, d->x.data(), d->ldx, d->dy.data(), d->ldy, false,
                                  {dw->data(), d->stride, d->k, d->n}, m);
  };
  const auto check = [=] {
    run();
    Buffer<T> reference(d->panels), found(d->n), expected(d->n);
    return check_rows(d->k, 2.0 * m * d->n, [&](Index r) {
      kReference.of<T>().dense_weight_gradient(d->x.data() + r, d->ldx, d->dy.data(), d->ldy, false,
                                               reference.data() + r * kPanel<T>, d->stride, m, d->n,
                                               1);
      panel_row(*d, *dw, r, found.data());
      panel_row(*d, reference, r, expected.data());
      return compare(found.data(), expected.data(), d->n, 0, 0, "dw");
    });
  };
  const auto row = std::make_shared<Buffer<T>>(d->n);
  return with_peer(Product::weight_gradient, threads, *d, {check, repeated(run)}, [=](Index r) {
    panel_row(*d, *dw, r, row->data());
    return row->data();
  });
}

template <class T>
Prepared weight_update(const KernelsOf<T>& k, const Shape& shape, Index m, int threads,
                       const ops::Optimizer& optimizer) {
  auto d = std::make_shared<Layer<T>>(shape, m);
  auto w = std::make_shared<Buffer<T>>(d->panels);
  auto state1 = std::make_shared<Buffer<T>>(d->panels);
  auto state2 = std::make_shared<Buffer<T>>(optimizer.rule == Rule::sgd ? 0 : d->panels);
  w->copy_from(d->w);
  // A power of two keeps the first step of SGD exact as well.
  const auto update = ops::update_of<T>(optimizer, 0x1p-10, 1, 1);
  const auto run = [=, &k] {
    ops::dense_weight_update<T>(k, threads, d->x.data(), d->ldx, d->dy.data(), d->ldy, update,
                                {w->data(), d->stride, d->k, d->n}, state1->data(), state2->data(),
                                m);
  };
  const auto check = [=] {
    w->copy_from(d->w);
    state1->fill_zero();
    state2->fill_zero();
    run();
    Buffer<T> reference(d->panels), first(d->panels), second(state2->size());
    Buffer<T> found(d->n), expected(d->n);
    reference.copy_from(d->w);
    // Adam divides by a root: some units in the last place of weights of at most 1.
    const double tolerance = optimizer.rule == Rule::sgd ? 0 : 8 * kEps<T>;
    return check_rows(d->k, 2.0 * m * d->n, [&](Index r) {
      const Index at = r * kPanel<T>;
      kReference.of<T>().dense_weight_update(d->x.data() + r, d->ldx, d->dy.data(), d->ldy, update,
                                             reference.data() + at, first.data() + at,
                                             second.size() == 0 ? nullptr : second.data() + at,
                                             d->stride, false, m, d->n, 1);
      panel_row(*d, *w, r, found.data());
      panel_row(*d, reference, r, expected.data());
      return compare(found.data(), expected.data(), d->n, 0, tolerance, "w");
    });
  };
  return {check, repeated(run)};
}

const char* name_of(Activation activation) {
  static const char* kNames[] = {"identity", "relu",      "leaky_relu", "sigmoid", "tanh",
                                 "gelu",     "gelu_tanh", "silu",       "softplus"};
  return kNames[static_cast<int>(activation)];
}

struct Sizes {
  std::vector<Shape> shapes;
  std::vector<Index> batches;
};

template <class T>
void add_cases(const KernelsOf<T>& k, const std::vector<int>& threads, const Sizes& sizes,
               std::vector<Case>* cases) {
  const ops::Optimizer momentum{.momentum = 0.5}, adam{.rule = Rule::adam};

  const auto add = [&](const std::string& op, const Shape& shape, Index m,
                       const std::string& variant, auto prepare) {
    const double work = 2.0 * static_cast<double>(m * shape.n * shape.k);
    for (const int count : threads) {
      // Less is one task for any number of threads.
      if (count > 1 && work < 4e6) continue;
      const std::string name = op + "/" + std::to_string(shape.k) + "x" + std::to_string(shape.n) +
                               "/m" + std::to_string(m) +
                               (shape.dense_rows ? "/ld" + std::to_string(shape.k) : "") + variant +
                               kSuffix<T>;
      cases->push_back(
          {name, count, kPeak<T>, work, 0, 0, [=] { return prepare(shape, m, count); }});
    }
  };
  const auto forward_with = [&k](Activation activation) {
    return [&k, activation](const Shape& shape, Index m, int count) {
      return forward(k, shape, m, count, activation);
    };
  };
  const auto update_with = [&k](const ops::Optimizer& optimizer) {
    return [&k, optimizer](const Shape& shape, Index m, int count) {
      return weight_update(k, shape, m, count, optimizer);
    };
  };
  for (const Shape& shape : sizes.shapes) {
    for (const Index batch : sizes.batches) {
      // Odd everywhere: every tail of every tile.
      const Index m = shape.k % 2 == 1 && batch > 1 ? batch + 1 : batch;
      add("dense_forward", shape, m, "", forward_with(Activation::relu));
      add("dense_input_gradient", shape, m, "", [&k](const Shape& s, Index rows, int count) {
        return input_gradient(k, s, rows, count);
      });
      add("dense_weight_gradient", shape, m, "", [&k](const Shape& s, Index rows, int count) {
        return weight_gradient(k, s, rows, count);
      });
      if (m > ops::kGradientRows) continue;
      add("dense_weight_update", shape, m, "/momentum", update_with(momentum));
      add("dense_weight_update", shape, m, "/adam", update_with(adam));
    }
  }
  for (int a = 0; a <= static_cast<int>(Activation::softplus); ++a) {
    const auto activation = static_cast<Activation>(a);
    if (activation == Activation::relu) continue;
    add("dense_forward", {512, 512}, 128, std::string("/") + name_of(activation),
        forward_with(activation));
  }
}

}  // namespace

void add_product_cases(const Kernels& kernels, const std::vector<int>& threads,
                       std::vector<Case>* cases) {
  const Sizes all{{{784, 32},
                   {784, 128},
                   {784, 512},
                   {784, 2048},
                   {32, 10},
                   {128, 10},
                   {512, 10},
                   {2048, 10},
                   {256, 32},
                   {512, 32},
                   {2048, 32},
                   {512, 512},
                   {1024, 1024},
                   {2048, 2048},
                   {1024, 1024, true},
                   {2048, 2048, true},
                   {2048, 32, true},
                   {100, 17},
                   {777, 33}},
                  {1, 8, 32, 64, 128, 512, 1024, 4096}};
  // The same loops: a tile of half as many columns, weights twice as large, few and many outputs.
  const Sizes some{{{784, 128}, {128, 10}, {512, 512}, {2048, 2048}, {777, 33}},
                   {1, 32, 128, 1024}};
  add_cases(kernels.f32, threads, all, cases);
  add_cases(kernels.f64, threads, some, cases);
}

}  // namespace dlcore::bench
