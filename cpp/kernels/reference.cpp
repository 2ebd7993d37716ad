// The plainest loops: what each kernel means, and what runs where no vector set does. Sums of
// float32 are kept in float32: the tests bound them like those of every other set.

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/kernels.h"
#include "random.h"

namespace dlcore {
namespace {

template <class T>
T half_as(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  T value;
  if (exponent == 31) {
    value =
        fraction == 0 ? std::numeric_limits<T>::infinity() : std::numeric_limits<T>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<T>(fraction), -24);
  } else {
    value = std::ldexp(static_cast<T>(1024 + fraction), exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

/// Element j of a row; memcpy because a row of a file may lie at any address.
template <class T>
T element_as(const void* x, DType dtype, Index j) {
  const auto read = [&]<class From>(From value) {
    std::memcpy(&value, static_cast<const char*>(x) + j * static_cast<Index>(sizeof(From)),
                sizeof(From));
    return value;
  };
  switch (dtype) {
    case DType::float32: return static_cast<T>(read(float{}));
    case DType::float64: return static_cast<T>(read(double{}));
    case DType::float16: return half_as<T>(read(uint16_t{}));
    case DType::uint8: return static_cast<T>(read(uint8_t{}));
  }
  return T{0};
}

template <class T>
bool convert_row(const void* x, DType dtype, T scale, T* y, Index k) {
  bool finite = true;
  for (Index j = 0; j < k; ++j) {
    y[j] = element_as<T>(x, dtype, j) * scale;
    finite = finite && std::isfinite(y[j]);
  }
  return finite;
}

template <class T>
T sigmoid(T x) {
  // Both branches take exp of a negative number, so nothing overflows.
  if (x >= 0) return T{1} / (T{1} + std::exp(-x));
  const T e = std::exp(x);
  return e / (T{1} + e);
}

template <class T>
constexpr T kRootHalf = T(0.70710678118654752440);
template <class T>
constexpr T kInverseRootTwoPi = T(0.39894228040143267794);
// Hendrycks and Gimpel, "Gaussian error linear units", 2016: tanh(sqrt(2/pi) (x + 0.044715 x^3)).
template <class T>
constexpr T kTanhScale = T(0.79788456080286535588);
template <class T>
constexpr T kTanhCube = T(0.044715);

// Both in double: the float functions of some libraries are off by more than 2 ulp, and a rounded
// argument of erfc or exp by hundreds.
double activate(Activation activation, double x, double alpha) {
  using T = double;
  switch (activation) {
    case Activation::identity: return x;
    case Activation::relu: return x < 0 ? T{0} : x;
    case Activation::leaky_relu: return x < 0 ? alpha * x : x;
    case Activation::sigmoid: return sigmoid(x);
    case Activation::tanh: return std::tanh(x);
    // The limits at -infinity would be -infinity * 0.
    case Activation::gelu:
      return std::isinf(x) ? (x > 0 ? x : -T{0}) : T(0.5) * x * std::erfc(-x * kRootHalf<T>);
    case Activation::gelu_tanh:
      // (1 + tanh u) / 2 = sigmoid(2 u), which keeps its digits where tanh is near -1.
      return std::isinf(x) ? (x > 0 ? x : -T{0})
                           : x * sigmoid(2 * kTanhScale<T> * (x + kTanhCube<T> * x * x * x));
    case Activation::silu: return std::isinf(x) ? (x > 0 ? x : -T{0}) : x * sigmoid(x);
    case Activation::softplus: return (x > 0 ? x : T{0}) + std::log1p(std::exp(-std::abs(x)));
  }
  return x;
}

/// The derivative; `s` is the result or the argument, as gradient_from_result says.
double derivative(Activation activation, double s, double alpha) {
  using T = double;
  switch (activation) {
    case Activation::identity: return T{1};
    case Activation::relu: return std::isnan(s) ? s : (s > 0 ? T{1} : T{0});
    case Activation::leaky_relu: return std::isnan(s) ? s : (s > 0 ? T{1} : alpha);
    case Activation::sigmoid: return s * (T{1} - s);
    case Activation::tanh: return (T{1} - s) * (T{1} + s);
    case Activation::gelu:
      if (std::isinf(s)) return s > 0 ? T{1} : T{0};
      return T(0.5) * std::erfc(-s * kRootHalf<T>) +
             s * kInverseRootTwoPi<T> * std::exp(T(-0.5) * s * s);
    case Activation::gelu_tanh: {
      // x sigmoid(2u): sigmoid(2u) + x 2 u' sigmoid(2u) sigmoid(-2u). Past 20 both terms are flat.
      if (std::abs(s) > 20) return s > 0 ? T{1} : T{0};
      const T u = kTanhScale<T> * (s + kTanhCube<T> * s * s * s);
      const T du = kTanhScale<T> * (T{1} + 3 * kTanhCube<T> * s * s);
      return sigmoid(2 * u) + s * 2 * du * sigmoid(2 * u) * sigmoid(-2 * u);
    }
    case Activation::silu:
      if (std::isinf(s)) return s > 0 ? T{1} : T{0};
      return sigmoid(s) * (T{1} + s * sigmoid(-s));
    case Activation::softplus: return -std::expm1(-s);
  }
  return T{1};
}

template <class T>
void dense_forward(const T* x, Index ldx, const T* w, Index panel_stride, const T* b,
                   Activation activation, T alpha, T* z, T* y, Index ldy, Index m, Index n, Index k,
                   const Wanted*) {
  for (Index i = 0; i < m; ++i) {
    for (Index j = 0; j < n; ++j) {
      const T* column = w + j / kPanel<T> * panel_stride + j % kPanel<T>;
      T sum = 0;
      for (Index d = 0; d < k; ++d) sum += x[i * ldx + d] * column[d * kPanel<T>];
      if (b != nullptr) sum += b[j];
      if (z != nullptr) z[i * ldy + j] = sum;
      y[i * ldy + j] = static_cast<T>(activate(activation, sum, alpha));
    }
  }
}

template <class T>
void dense_finish(const T* more, const T* b, Activation activation, T alpha, T* z, T* y, Index ldy,
                  Index m, Index n) {
  for (Index i = 0; i < m; ++i) {
    for (Index j = 0; j < n; ++j) {
      T sum = y[i * ldy + j] + more[i * ldy + j];
      if (b != nullptr) sum += b[j];
      if (z != nullptr) z[i * ldy + j] = sum;
      y[i * ldy + j] = static_cast<T>(activate(activation, sum, alpha));
    }
  }
}

template <class T>
void dense_input_gradient(const T* dy, Index ldy, const T* w, Index panel_stride, bool add, T* dx,
                          Index ldx, Index m, Index n, Index k) {
  for (Index i = 0; i < m; ++i) {
    for (Index d = 0; d < k; ++d) {
      T sum = add ? dx[i * ldx + d] : T{0};
      for (Index j = 0; j < n; ++j) {
        sum += dy[i * ldy + j] * w[j / kPanel<T> * panel_stride + d * kPanel<T> + j % kPanel<T>];
      }
      dx[i * ldx + d] = sum;
    }
  }
}

template <class T>
void dense_input_gradient_transposed(const T* dyt, Index ldt, const T* w, Index panel_stride,
                                     T* dxt, Index ldxt, Index m, Index n, Index k) {
  for (Index d = 0; d < k; ++d) {
    for (Index i = 0; i < m; ++i) {
      T sum = 0;
      for (Index j = 0; j < n; ++j) {
        sum += w[j / kPanel<T> * panel_stride + d * kPanel<T> + j % kPanel<T>] * dyt[j * ldt + i];
      }
      dxt[d * ldxt + i] = sum;
    }
  }
}

template <class T>
void dense_weight_gradient(const T* x, Index ldx, const T* dy, Index ldy, bool add, T* dw,
                           Index panel_stride, Index m, Index n, Index k) {
  for (Index j = 0; j < n; ++j) {
    T* column = dw + j / kPanel<T> * panel_stride + j % kPanel<T>;
    for (Index d = 0; d < k; ++d) {
      T sum = add ? column[d * kPanel<T>] : T{0};
      for (Index i = 0; i < m; ++i) sum += x[i * ldx + d] * dy[i * ldy + j];
      column[d * kPanel<T>] = sum;
    }
  }
}

template <class T>
void update_elements(const Update<T>& u, T* w, const T* dw, T* state1, T* state2, Index n) {
  for (Index i = 0; i < n; ++i) {
    T g = dw[i] * u.gradient_scale;
    if (u.rule == Rule::adamw) {
      w[i] -= u.decay * w[i];
    } else {
      g += u.weight_decay * w[i];
    }
    if (u.rule == Rule::sgd) {
      if (state1 != nullptr) {
        state1[i] = u.momentum * state1[i] + g;
        g = u.nesterov ? g + u.momentum * state1[i] : state1[i];
      }
      w[i] -= u.learning_rate * g;
    } else {
      state1[i] = u.beta1 * state1[i] + u.complement1 * g;
      state2[i] = u.beta2 * state2[i] + u.complement2 * g * g;
      w[i] -= u.step_size * state1[i] / (std::sqrt(state2[i]) * u.inverse_root + u.epsilon);
    }
  }
}

template <class T>
void dense_weight_update(const T* x, Index ldx, const T* dy, Index ldy, const Update<T>& update,
                         T* w, T* state1, T* state2, Index panel_stride, bool, Index m, Index n,
                         Index k) {
  for (Index d = 0; d < k; ++d) {
    for (Index j = 0; j < n; ++j) {
      T sum = 0;
      for (Index i = 0; i < m; ++i) sum += x[i * ldx + d] * dy[i * ldy + j];
      const Index at = j / kPanel<T> * panel_stride + d * kPanel<T> + j % kPanel<T>;
      update_elements(update, w + at, &sum, state1 == nullptr ? state1 : state1 + at,
                      state2 == nullptr ? state2 : state2 + at, 1);
    }
  }
}

template <class T>
void column_sums(const T* dy, Index ld, T* db, Index m, Index n) {
  for (Index j = 0; j < n; ++j) {
    T sum = 0;
    for (Index i = 0; i < m; ++i) sum += dy[i * ld + j];
    db[j] = sum;
  }
}

template <class T>
void transpose(const T* x, Index ldx, T* xt, Index ldt, Index m, Index n, Index m_padded) {
  for (Index j = 0; j < n; ++j) {
    for (Index i = 0; i < m_padded; ++i) xt[j * ldt + i] = i < m ? x[i * ldx + j] : T{0};
  }
}

template <class T>
void activation_forward(Activation activation, T alpha, const T* x, T* y, Index n) {
  for (Index i = 0; i < n; ++i) y[i] = static_cast<T>(activate(activation, x[i], alpha));
}

template <class T>
void activation_backward(Activation activation, T alpha, const T* dy, const T* saved, T* dx,
                         Index n) {
  for (Index i = 0; i < n; ++i)
    dx[i] = dy[i] * static_cast<T>(derivative(activation, saved[i], alpha));
}

template <class T>
T largest(const T* x, Index n) {
  T best = -std::numeric_limits<T>::infinity();
  for (Index j = 0; j < n; ++j) best = x[j] > best ? x[j] : best;
  return best;
}

template <class T>
void softmax(const T* x, Index ldx, T* y, Index ldy, Index m, Index n) {
  for (Index i = 0; i < m; ++i) {
    const T max = largest(x + i * ldx, n);
    T sum = 0;
    for (Index j = 0; j < n; ++j) sum += y[i * ldy + j] = std::exp(x[i * ldx + j] - max);
    for (Index j = 0; j < n; ++j) y[i * ldy + j] /= sum;
  }
}

template <class T>
void cross_entropy(const T* x, Index ldx, const Index* labels, const T* weight, T* loss, T* correct,
                   T* dx, Index lddx, Index m, Index n) {
  for (Index i = 0; i < m; ++i) {
    const T* row = x + i * ldx;
    const Index label = labels[i];
    const T max = largest(row, n);
    T sum = 0;
    for (Index j = 0; j < n; ++j) sum += std::exp(row[j] - max);
    bool right = row[label] >= max;
    for (Index j = 0; right && j < label; ++j) right = row[j] < max;
    correct[i] = right ? T{1} : T{0};
    loss[i] = (max - row[label]) + std::log(sum);
    for (Index j = 0; dx != nullptr && j < n; ++j) {
      dx[i * lddx + j] = (std::exp(row[j] - max) / sum - (j == label ? T{1} : T{0})) * weight[i];
    }
  }
}

template <class T>
void element_loss(ElementLoss kind, T delta, const T* x, Index ldx, const T* target, Index ldt,
                  const T* weight, T* loss, T* dx, Index lddx, Index m, Index n) {
  for (Index i = 0; i < m; ++i) {
    T sum = 0;
    for (Index j = 0; j < n; ++j) {
      const T p = x[i * ldx + j], t = target[i * ldt + j], r = p - t;
      T value = 0, slope = 0;
      switch (kind) {
        case ElementLoss::binary_cross_entropy:
          value = (p > 0 ? p : T{0}) - p * t + std::log1p(std::exp(-std::abs(p)));
          slope = sigmoid(p) - t;
          break;
        case ElementLoss::mse:
          value = r * r;
          slope = 2 * r;
          break;
        case ElementLoss::huber:
          value = std::abs(r) <= delta ? T(0.5) * r * r : delta * (std::abs(r) - T(0.5) * delta);
          slope = std::abs(r) <= delta ? r : std::copysign(delta, r);
          break;
      }
      sum += value;
      if (dx != nullptr) dx[i * lddx + j] = slope * weight[i];
    }
    loss[i] = sum;
  }
}

template <class T>
void add_elements(const T* x, T* y, Index n) {
  for (Index i = 0; i < n; ++i) y[i] += x[i];
}

template <class T>
double sum_squares(const T* x, Index n) {
  double sum = 0;
  for (Index i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

template <class T>
void dropout(const T* x, T* y, uint32_t threshold, T scale, uint64_t seed, uint64_t step,
             uint32_t layer, Index first, Index n) {
  for (Index i = 0; i < n; ++i) {
    const auto index = static_cast<uint64_t>(first + i);
    const philox::Block block =
        philox::block(seed, philox::counter(philox::Purpose::dropout, layer, step, index / 4));
    y[i] = block.word[index % 4] >= threshold ? x[i] * scale : T{0};
  }
}

template <class T>
constexpr KernelsOf<T> table() {
  return {.convert_row = convert_row<T>,
          .dense_forward = dense_forward<T>,
          .dense_finish = dense_finish<T>,
          .dense_input_gradient = dense_input_gradient<T>,
          .dense_input_gradient_transposed = dense_input_gradient_transposed<T>,
          .dense_weight_gradient = dense_weight_gradient<T>,
          .dense_weight_update = dense_weight_update<T>,
          .column_sums = column_sums<T>,
          .transpose = transpose<T>,
          .activation_forward = activation_forward<T>,
          .activation_backward = activation_backward<T>,
          .softmax = softmax<T>,
          .cross_entropy = cross_entropy<T>,
          .element_loss = element_loss<T>,
          .update = update_elements<T>,
          .add = add_elements<T>,
          .sum_squares = sum_squares<T>,
          .dropout = dropout<T>};
}

}  // namespace

const Kernels kReference{"reference", table<float>(), table<double>()};

}  // namespace dlcore
