#include "curves/forms.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "curves/dual.h"

namespace dlcore::curves {
namespace {

// A term this many e-folds below the data is zero to rounding.
constexpr double kNegligible = 38.0;
// Gain per step, relative, at which a descent ends: of a start among others, of the best one.
constexpr double kScan = 1e-4;
constexpr double kFinish = 1e-7;
constexpr double kSteepest = 8.0;  // exponent
constexpr Index kSeen = 48;        // points that a start is judged by, at most

double span(const Scope& s) { return std::max(s.last_x - s.first_x, 0.1); }

/// Exponents to start from.
std::vector<double> exponents() { return {0.03, 0.08, 0.16, 0.3, 0.5, 0.8, 1.3, 2.2}; }

/// Places along the data, in shares of their span.
std::vector<double> places(const Scope& s, std::initializer_list<double> shares) {
  std::vector<double> at;
  for (const double share : shares) at.push_back(s.first_x + share * span(s));
  return at;
}

/// One parameter's box: [low, high], steps of at most `reach`.
struct Limit {
  double low, high, reach;
};
Limit level(const Scope& s) { return {s.least_y - kNegligible, s.most_y + 12.0, 2.0}; }
Limit exponent(const Scope& s) { return {0.0, kSteepest, 4.0 / span(s)}; }

/// Derivatives of a form written as `template <class T> static T value(const T*, double)`.
template <class Self, int P>
class FormOf : public Form {
 public:
  Index parameters() const override { return P; }
  double log_value(const double* theta, double t) const override {
    return Self::template value<double>(theta, t);
  }
  void derivatives(const double* theta, double t, double* value, double* first,
                   double* second) const override {
    std::array<Dual<P>, P> x;
    for (int j = 0; j < P; ++j) x[j] = Dual<P>::parameter(theta[j], j);
    const Dual<P> y = Self::template value<Dual<P>>(x.data(), t);
    *value = y.value;
    std::copy(y.first, y.first + P, first);
    std::copy(y.second, y.second + Dual<P>::kPairs, second);
  }
  void limits(const Scope& scope, double* lower, double* upper, double* reach) const override {
    const std::array<Limit, P> box = Self::box(scope);
    for (int j = 0; j < P; ++j) {
      lower[j] = box[j].low;
      upper[j] = box[j].high;
      reach[j] = box[j].reach;
    }
  }
  bool in_logs() const override { return false; }

  // Most forms are y = e^theta[0] + e^theta[1] phi, theta[0] the floor.
  void set_coefficients(double constant, double slope, double* theta) const override {
    theta[0] = std::log(constant);
    theta[1] = std::log(slope);
  }
};

/// log y = a - c t
class Power final : public FormOf<Power, 2> {
 public:
  const char* name() const override { return "power"; }
  template <class T>
  static T value(const T* p, double t) {
    return p[0] - t * p[1];
  }
  void shift(double centre, double* p) const override { p[0] -= p[1] * centre; }
  static std::array<Limit, 2> box(const Scope& s) {
    const Limit free = level(s);
    return {free, {-kSteepest, kSteepest, 100.0}};
  }
  std::vector<std::vector<double>> grid(const Scope&) const override { return {}; }
  bool in_logs() const override { return true; }
  double basis(const double*, double t) const override { return -t; }
  void set_coefficients(double constant, double slope, double* p) const override {
    p[0] = constant;
    p[1] = slope;
  }
};

/// y = e^e + e^a x^-c
class PowerFloor final : public FormOf<PowerFloor, 3> {
 public:
  const char* name() const override { return "power_floor"; }
  template <class T>
  static T value(const T* p, double t) {
    return log_sum(p[0], p[1] - t * p[2]);
  }
  void shift(double centre, double* p) const override { p[1] -= p[2] * centre; }
  static std::array<Limit, 3> box(const Scope& s) { return {level(s), level(s), exponent(s)}; }
  std::vector<std::vector<double>> grid(const Scope&) const override {
    return {{}, {}, exponents()};
  }
  double basis(const double* p, double t) const override { return std::exp(-p[2] * t); }
};

/// y = e^a (1/x + e^g)^c
class Shifted final : public FormOf<Shifted, 3> {
 public:
  const char* name() const override { return "shifted"; }
  template <class T>
  static T value(const T* p, double t) {
    return p[0] + p[1] * log_sum(T(-t), p[2]);
  }
  void shift(double centre, double* p) const override {
    p[0] -= p[1] * centre;
    p[2] += centre;
  }
  static std::array<Limit, 3> box(const Scope& s) {
    return {{{s.least_y - kNegligible, s.most_y + kNegligible, 4.0},
             exponent(s),
             {-s.last_x - 12.0, -s.first_x + 6.0, 2.0}}};
  }
  std::vector<std::vector<double>> grid(const Scope& s) const override {
    std::vector<double> turn;
    for (const double at : places(s, {-0.4, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 2.0})) {
      turn.push_back(-at);
    }
    return {{}, {}, turn};
  }
  bool in_logs() const override { return true; }
  double basis(const double* p, double t) const override { return log_sum(-t, p[2]); }
  void set_coefficients(double constant, double slope, double* p) const override {
    p[0] = constant;
    p[1] = slope;
  }
};

/// y = e^e + e^a (x + e^d)^-c
class Pow4 final : public FormOf<Pow4, 4> {
 public:
  const char* name() const override { return "pow4"; }
  template <class T>
  static T value(const T* p, double t) {
    return log_sum(p[0], p[1] - p[2] * log_sum(T(t), p[3]));
  }
  void shift(double centre, double* p) const override {
    p[1] -= p[2] * centre;
    p[3] -= centre;
  }
  static std::array<Limit, 4> box(const Scope& s) {
    return {{level(s),
             {s.least_y - kNegligible, s.most_y + 60.0, 3.0},
             exponent(s),
             {s.first_x - 8.0, s.last_x + 3.0, 2.0}}};
  }
  std::vector<std::vector<double>> grid(const Scope& s) const override {
    return {{}, {}, exponents(), places(s, {-0.5, 0.0, 0.25, 0.5, 0.75, 1.0})};
  }
  double basis(const double* p, double t) const override {
    return std::exp(-p[2] * log_sum(t, p[3]));
  }
};

/// y = e^e + e^a s with log s - alpha log(1 - s) = b - c t (theta[4] = log alpha): form M4,
/// (y - e) / (e0 - y)^alpha = beta x^-c with e0 = e^e + e^a.
class M4 final : public FormOf<M4, 5> {
 public:
  const char* name() const override { return "m4"; }
  template <class T>
  static T log_share(const T* p, double t) {
    const T right = p[2] - t * p[3];
    return chain(p[4], right, solve(value_of(p[4]), value_of(right)));
  }
  template <class T>
  static T value(const T* p, double t) {
    return log_sum(p[0], p[1] + log_share(p, t));
  }
  void shift(double centre, double* p) const override { p[2] -= p[3] * centre; }
  static std::array<Limit, 5> box(const Scope& s) {
    const double wide = kSteepest * span(s) + 20.0;
    return {{level(s), level(s), {-wide, wide, 2.0}, exponent(s), {-2.5, 2.5, 0.7}}};
  }
  std::vector<std::vector<double>> grid(const Scope& s) const override {
    // The third is a place along x here; basis() makes it the offset b = c * place.
    return {
        {}, {}, places(s, {-0.5, 0.0, 0.35, 0.7, 1.0}), {0.06, 0.2, 0.5, 1.0, 2.0}, {-1.4, 1.2}};
  }
  double basis(const double* p, double t) const override {
    const double at[5] = {0.0, 0.0, p[2] * p[3], p[3], p[4]};
    return std::exp(log_share(at, t));
  }
  void set_coefficients(double constant, double slope, double* p) const override {
    FormOf::set_coefficients(constant, slope, p);
    p[2] *= p[3];
  }

 private:
  /// log s over (log alpha, right), from h(q) = alpha softplus(q) - softplus(-q) = right with
  /// q = log(s / (1 - s)), and implicit differentiation.
  static Taylor2 solve(double log_alpha, double right) {
    const double alpha = std::exp(log_alpha);
    double q = right < 0.0 ? right : right / alpha;  // where h goes far out
    double up = 0.0, rise = 0.0, slope = 1.0, least = -INFINITY, most = INFINITY;
    for (int k = 0; k < 100; ++k) {
      const double e = std::exp(-std::fabs(q)), tail = std::log1p(e);
      up = q > 0.0 ? 1.0 / (1.0 + e) : e / (1.0 + e);
      rise = std::max(q, 0.0) + tail;  // softplus(q)
      slope = (1.0 - up) + up * alpha;
      const double excess = alpha * rise - (rise - q) - right;
      (excess > 0.0 ? most : least) = q;
      double next = q - excess / slope;
      if (!(next >= least && next <= most)) next = 0.5 * (least + most);
      if (std::fabs(next - q) <= 1e-14 * (1.0 + std::fabs(q))) break;
      q = next;
    }
    // Derivatives of q over a = log alpha and right, then those of log s = -softplus(-q).
    const double bend = (alpha - 1.0) * up * (1.0 - up), cross = alpha * up;
    const double q_a = -alpha * rise / slope, q_r = 1.0 / slope;
    const double q_rr = -bend * q_r * q_r * q_r;
    const double q_ar = -(bend * q_a + cross) * q_r * q_r;
    const double q_aa = -(alpha * rise + 2.0 * cross * q_a + bend * q_a * q_a) * q_r;
    const double l_q = 1.0 - up, l_qq = -up * (1.0 - up);
    return {q - rise,
            l_q * q_a,
            l_q * q_r,
            l_q * q_aa + l_qq * q_a * q_a,
            l_q * q_ar + l_qq * q_a * q_r,
            l_q * q_rr + l_qq * q_r * q_r};
  }
};

/// y = e^e + e^a / (1 + x^c / e^b): form mmf4, a logistic curve in log x
class Mmf4 final : public FormOf<Mmf4, 4> {
 public:
  const char* name() const override { return "mmf4"; }
  template <class T>
  static T value(const T* p, double t) {
    return log_sum(p[0], p[1] - softplus(t * p[3] - p[2]));
  }
  void shift(double centre, double* p) const override { p[2] -= p[3] * centre; }
  static std::array<Limit, 4> box(const Scope& s) {
    const double wide = kSteepest * span(s) + 20.0;
    return {{level(s), level(s), {-wide, wide, 2.0}, exponent(s)}};
  }
  std::vector<std::vector<double>> grid(const Scope& s) const override {
    return {{}, {}, places(s, {-0.8, -0.4, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0}), exponents()};
  }
  double basis(const double* p, double t) const override {
    return std::exp(-softplus(p[3] * (t - p[2])));
  }
  void set_coefficients(double constant, double slope, double* p) const override {
    FormOf::set_coefficients(constant, slope, p);
    p[2] *= p[3];
  }
};

/// y = e^e + e^a exp(-e^g x^d): forms wbl4 and exp4
class Wbl4 final : public FormOf<Wbl4, 4> {
 public:
  const char* name() const override { return "wbl4"; }
  template <class T>
  static T value(const T* p, double t) {
    return log_sum(p[0], p[1] - exponential(p[2] + t * p[3]));
  }
  void shift(double centre, double* p) const override { p[2] += p[3] * centre; }
  static std::array<Limit, 4> box(const Scope& s) {
    const double wide = kSteepest * span(s) + 20.0;
    return {{level(s), level(s), {-wide, wide, 2.0}, {0.01, kSteepest, 2.0 / span(s)}}};
  }
  std::vector<std::vector<double>> grid(const Scope& s) const override {
    return {{},
            {},
            places(s, {-0.8, -0.4, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0}),
            {0.06, 0.13, 0.25, 0.45, 0.8, 1.4}};
  }
  double basis(const double* p, double t) const override {
    return std::exp(-exponential(p[3] * (t - p[2])));
  }
  void set_coefficients(double constant, double slope, double* p) const override {
    FormOf::set_coefficients(constant, slope, p);
    p[2] *= -p[3];
  }
};

/// y = e^a + e^b x^-c0 (1 + (x / e^d)^(1/f))^(-c1 f), theta[5] = log f: the broken neural scaling
/// law with one break
class Bnsl final : public FormOf<Bnsl, 6> {
 public:
  const char* name() const override { return "bnsl"; }
  template <class T>
  static T value(const T* p, double t) {
    const T sharpness = exponential(-p[5]);
    const T turn = softplus((t - p[4]) * sharpness) * reciprocal(sharpness);
    return log_sum(p[0], p[1] - t * p[2] - p[3] * turn);
  }
  void shift(double centre, double* p) const override {
    p[1] -= p[2] * centre;
    p[4] -= centre;
  }
  static std::array<Limit, 6> box(const Scope& s) {
    const double slope = 4.0 / span(s);
    return {{level(s),
             {s.least_y - kNegligible, s.most_y + 30.0, 2.0},
             {-2.0, kSteepest, slope},
             {-kSteepest, 2.0 * kSteepest, 2.0 * slope},
             {s.first_x - 0.2 * span(s), s.last_x + 0.5 * span(s), 0.3 * span(s)},
             {-5.0, 1.6, 1.0}}};
  }
  std::vector<std::vector<double>> grid(const Scope& s) const override {
    return {{},
            {},
            {0.0, 0.06, 0.2, 0.6},
            {-0.6, -0.15, 0.15, 0.5, 1.5, 5.0},
            places(s, {0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.1}),
            {-3.0, -1.2, 0.3}};
  }
  // A late break leaves the curve before it as it is: what is left to find is the break.
  const Form* simpler() const override;
  void refine(const double* p, std::vector<std::vector<double>>& grid) const override {
    grid[2].push_back(p[2]);
  }
  double basis(const double* p, double t) const override {
    return std::exp(value_without_floor(p, t));
  }

 private:
  static double value_without_floor(const double* p, double t) {
    const double f = std::exp(p[5]);
    return -t * p[2] - p[3] * f * softplus((t - p[4]) / f);
  }
};

const Power kPower;
const PowerFloor kPowerFloor;
const Shifted kShifted;
const Pow4 kPow4;
const M4 kM4;
const Mmf4 kMmf4;
const Wbl4 kWbl4;
const Bnsl kBnsl;

const Form* Bnsl::simpler() const { return &kPowerFloor; }

double mean(Index n, const double* x) {
  return std::accumulate(x, x + n, 0.0) / static_cast<double>(n);
}

}  // namespace

const std::vector<const Form*>& forms() {
  static const std::vector<const Form*> all{&kPower, &kPowerFloor, &kShifted, &kPow4,
                                            &kM4,    &kMmf4,       &kWbl4,    &kBnsl};
  return all;
}

const Form* find_form(const std::string& name) {
  for (const Form* form : forms()) {
    if (name == form->name()) return form;
  }
  return nullptr;
}

CurveModel::CurveModel(const Form& form, Index n, const double* log_x, const double* log_y,
                       const double* scale)
    : form_(form),
      centre_(mean(n, log_x)),
      t_(log_x, log_x + n),
      log_y_(log_y, log_y + n),
      scale_(scale, scale + n),
      second_(n * (form.parameters() * (form.parameters() + 1) / 2)) {
  for (double& t : t_) t -= centre_;
  const auto [first, last] = std::minmax_element(t_.begin(), t_.end());
  const auto [least, most] = std::minmax_element(log_y_.begin(), log_y_.end());
  scope_ = {*first, *last, *least, *most};
  form_.limits(scope_, lower_, upper_, reach_);
}

void CurveModel::linearize(const double* theta, double* residual, double* jacobian) {
  const Index n = points(), p = parameters(), pairs = p * (p + 1) / 2;
  for (Index i = 0; i < n; ++i) {
    double value, first[kMaxParameters];
    form_.derivatives(theta, t_[i], &value, first, &second_[i * pairs]);
    residual[i] = scale_[i] * (value - log_y_[i]);
    for (Index j = 0; j < p; ++j) jacobian[j * n + i] = scale_[i] * first[j];
  }
}

void CurveModel::curvature(const double* weight, double* hessian) {
  const Index n = points(), p = parameters(), pairs = p * (p + 1) / 2;
  double sum[kMaxParameters * (kMaxParameters + 1) / 2] = {};
  for (Index i = 0; i < n; ++i) {
    const double w = weight[i] * scale_[i];
    for (Index k = 0; k < pairs; ++k) sum[k] += w * second_[i * pairs + k];
  }
  for (Index j = 0, pair = 0; j < p; ++j) {
    for (Index k = 0; k <= j; ++k, ++pair) hessian[j * p + k] = hessian[k * p + j] = sum[pair];
  }
}

Index CurveModel::starts(const double* weight, Index count, const double* simpler,
                         double* theta) const {
  const Index p = parameters(), n = points();
  std::vector<std::vector<double>> grid = form_.grid(scope_);
  if (simpler != nullptr) form_.refine(simpler, grid);
  // A start need not see every point.
  const Index stride = std::max<Index>(1, n / 24);
  struct Candidate {
    double value;
    std::array<int, kMaxParameters> at;
    std::array<double, kMaxParameters> theta;
  };
  std::vector<Candidate> candidates;
  std::array<int, kMaxParameters> at{};
  const bool in_logs = form_.in_logs();
  for (bool more = true; more;) {
    Candidate candidate{0.0, at, {}};
    double* x = candidate.theta.data();
    for (std::size_t j = 0; j < grid.size(); ++j) {
      if (!grid[j].empty()) x[j] = grid[j][at[j]];
    }
    // Weighted least squares of y = constant + slope phi, relative to y unless in logs. Measured
    // from the means, so that a nearly constant phi does no harm.
    double total = 0.0, mean_phi = 0.0, mean_y = 0.0;
    double phi[kSeen], y[kSeen], w[kSeen];
    Index used = 0;
    for (Index i = n - 1; i >= 0 && used < kSeen; i -= stride, ++used) {
      phi[used] = form_.basis(x, t_[i]);
      y[used] = in_logs ? log_y_[i] : std::exp(log_y_[i] - scope_.most_y);
      w[used] = weight[i] * scale_[i] * scale_[i] / (in_logs ? 1.0 : y[used] * y[used]);
      total += w[used];
      mean_phi += w[used] * phi[used];
      mean_y += w[used] * y[used];
    }
    mean_phi /= total;
    mean_y /= total;
    double spread = 0.0, product = 0.0, square = 0.0;
    for (Index i = 0; i < used; ++i) {
      const double dx = phi[i] - mean_phi, dy = y[i] - mean_y;
      spread += w[i] * dx * dx;
      product += w[i] * dx * dy;
      square += w[i] * dy * dy;
    }
    double slope = spread > 1e-28 * total * mean_phi * mean_phi ? product / spread : 0.0;
    double constant = mean_y - slope * mean_phi;
    candidate.value = square - slope * product;
    if (!in_logs) {
      const double tiny = 1e-12;
      if (constant < tiny * mean_y) {  // no floor: through zero
        const double about_zero = spread + total * mean_phi * mean_phi;
        slope = (product + total * mean_phi * mean_y) / about_zero;
        constant = tiny * mean_y;
        candidate.value =
            square + total * mean_y * mean_y - slope * (product + total * mean_phi * mean_y);
      }
      if (!(slope > 0.0)) {  // does not fall: all floor
        slope = 1e-6 * mean_y / std::max(mean_phi, 1e-300);
        constant = mean_y;
        candidate.value = square;
      }
      constant *= std::exp(scope_.most_y);
      slope *= std::exp(scope_.most_y);
    }
    if (std::isfinite(candidate.value) && std::isfinite(slope) && std::isfinite(constant)) {
      form_.set_coefficients(constant, slope, x);
      candidates.push_back(candidate);
    }
    more = false;
    for (std::size_t j = 0; j < grid.size() && !more; ++j) {
      if (grid[j].empty()) continue;
      if (++at[j] < static_cast<int>(grid[j].size())) {
        more = true;
      } else {
        at[j] = 0;
      }
    }
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.value < b.value; });
  // Neighbours on the grid lead to the same minimum: starts are at least two steps apart.
  std::vector<const Candidate*> chosen;
  for (const Candidate& candidate : candidates) {
    if (static_cast<Index>(chosen.size()) == count) break;
    bool near = false;
    for (const Candidate* other : chosen) {
      int steps = 0;
      for (Index j = 0; j < p; ++j) steps += std::abs(candidate.at[j] - other->at[j]);
      near = near || steps < 2;
    }
    if (near) continue;
    std::copy(candidate.theta.begin(), candidate.theta.begin() + p,
              theta + static_cast<Index>(chosen.size()) * p);
    chosen.push_back(&candidate);
  }
  return static_cast<Index>(chosen.size());
}

Descent fit_curve(const Form& form, Minimizer& minimizer, Index n, const double* log_x,
                  const double* log_y, const double* scale, const double* weight, Index count,
                  const double* warm, int max_iterations, double* theta) {
  CurveModel model(form, n, log_x, log_y, scale);
  const Index p = form.parameters();
  std::vector<double> starts(p * (count + 1));
  Index found = 0;
  if (warm != nullptr) {
    std::copy(warm, warm + p, starts.begin());
    form.shift(model.centre(), starts.data());
    found = 1;
  }
  if (count > 0) {
    double simpler[kMaxParameters];
    if (form.simpler() != nullptr) {
      fit_curve(*form.simpler(), minimizer, n, log_x, log_y, scale, weight, 2, nullptr,
                max_iterations, simpler);
      form.simpler()->shift(model.centre(), simpler);
    }
    found += model.starts(weight, count, form.simpler() != nullptr ? simpler : nullptr,
                          starts.data() + found * p);
  }
  Descent best;
  int iterations = 0;
  for (Index s = 0; s < found; ++s) {
    double* x = &starts[s * p];
    const bool far = s > 0 || warm == nullptr;
    const Descent descent = minimizer.minimize(model, weight, far, kScan, max_iterations, x);
    iterations += descent.iterations;
    if (s == 0 || descent.objective < best.objective) {
      best = descent;
      std::copy(x, x + p, theta);
    }
  }
  // Only the best start is worth following to the end.
  const Descent last =
      minimizer.minimize(model, weight, false, kFinish, 12 * max_iterations, theta);
  best.objective = std::min(best.objective, last.objective);
  best.converged = last.converged;
  best.iterations = iterations + last.iterations;
  form.shift(-model.centre(), theta);
  return best;
}

}  // namespace dlcore::curves
