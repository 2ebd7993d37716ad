#pragma once

#include <cmath>

namespace dlcore::curves {

/// A number with its exact first and second derivatives over P parameters, so that a form is
/// written once, as in the paper.
template <int P>
struct Dual {
  static constexpr int kPairs = P * (P + 1) / 2;
  double value = 0.0;
  double first[P] = {};
  double second[kPairs] = {};  // (0, 0), (1, 0), (1, 1), (2, 0), ...

  Dual() = default;
  Dual(double constant) : value(constant) {}  // NOLINT: numbers mix freely with duals
  static Dual parameter(double at, int index) {
    Dual x(at);
    x.first[index] = 1.0;
    return x;
  }
};

/// g(a), from g, g' and g'' at a.
template <int P>
Dual<P> chain(const Dual<P>& a, double value, double slope, double bend) {
  Dual<P> r(value);
  for (int j = 0, pair = 0; j < P; ++j) {
    r.first[j] = slope * a.first[j];
    const double bent = bend * a.first[j];
    for (int k = 0; k <= j; ++k, ++pair)
      r.second[pair] = slope * a.second[pair] + bent * a.first[k];
  }
  return r;
}

/// A function of two numbers, with its derivatives over them.
struct Taylor2 {
  double value, by_a, by_b, by_aa, by_ab, by_bb;
};

template <int P>
Dual<P> chain(const Dual<P>& a, const Dual<P>& b, const Taylor2& g) {
  Dual<P> r(g.value);
  for (int j = 0, pair = 0; j < P; ++j) {
    r.first[j] = g.by_a * a.first[j] + g.by_b * b.first[j];
    const double bent_a = g.by_aa * a.first[j] + g.by_ab * b.first[j];
    const double bent_b = g.by_ab * a.first[j] + g.by_bb * b.first[j];
    for (int k = 0; k <= j; ++k, ++pair) {
      r.second[pair] = g.by_a * a.second[pair] + g.by_b * b.second[pair] + bent_a * a.first[k] +
                       bent_b * b.first[k];
    }
  }
  return r;
}
inline double chain(double, double, const Taylor2& g) { return g.value; }

template <int P>
Dual<P> operator+(Dual<P> a, const Dual<P>& b) {
  a.value += b.value;
  for (int j = 0; j < P; ++j) a.first[j] += b.first[j];
  for (int j = 0; j < Dual<P>::kPairs; ++j) a.second[j] += b.second[j];
  return a;
}

template <int P>
Dual<P> operator-(Dual<P> a, const Dual<P>& b) {
  a.value -= b.value;
  for (int j = 0; j < P; ++j) a.first[j] -= b.first[j];
  for (int j = 0; j < Dual<P>::kPairs; ++j) a.second[j] -= b.second[j];
  return a;
}

template <int P>
Dual<P> operator*(const Dual<P>& a, const Dual<P>& b) {
  Dual<P> r(a.value * b.value);
  for (int j = 0, pair = 0; j < P; ++j) {
    r.first[j] = a.value * b.first[j] + b.value * a.first[j];
    for (int k = 0; k <= j; ++k, ++pair) {
      r.second[pair] = a.value * b.second[pair] + b.value * a.second[pair] +
                       a.first[j] * b.first[k] + a.first[k] * b.first[j];
    }
  }
  return r;
}

template <int P>
Dual<P> operator*(double a, const Dual<P>& b) {
  return chain(b, a * b.value, a, 0.0);
}
template <int P>
Dual<P> operator+(double a, Dual<P> b) {
  b.value += a;
  return b;
}
template <int P>
Dual<P> operator-(double a, const Dual<P>& b) {
  return chain(b, a - b.value, -1.0, 0.0);
}
template <int P>
Dual<P> operator-(Dual<P> a, double b) {
  a.value -= b;
  return a;
}
template <int P>
Dual<P> operator-(const Dual<P>& a) {
  return chain(a, -a.value, -1.0, 0.0);
}

inline double value_of(double x) { return x; }
template <int P>
double value_of(const Dual<P>& x) {
  return x.value;
}

// Beyond e^700 a double overflows; nothing that fits data comes near.
inline double exponential(double x) { return std::exp(x < 700.0 ? x : 700.0); }
template <int P>
Dual<P> exponential(const Dual<P>& x) {
  const double e = exponential(x.value);
  return chain(x, e, e, e);
}

template <int P>
Dual<P> reciprocal(const Dual<P>& x) {
  const double r = 1.0 / x.value;
  return chain(x, r, -r * r, 2.0 * r * r * r);
}
inline double reciprocal(double x) { return 1.0 / x; }

/// log(1 + e^x)
inline double softplus(double x) {
  return x > 0.0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}
template <int P>
Dual<P> softplus(const Dual<P>& x) {
  const double e = std::exp(-std::fabs(x.value));
  const double sigmoid = x.value > 0.0 ? 1.0 / (1.0 + e) : e / (1.0 + e);
  return chain(x, softplus(x.value), sigmoid, sigmoid * (1.0 - sigmoid));
}

/// log(e^a + e^b)
template <class T>
T log_sum(const T& a, const T& b) {
  return value_of(a) > value_of(b) ? a + softplus(b - a) : b + softplus(a - b);
}

}  // namespace dlcore::curves
