#include "curves/robust.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dlcore::curves {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr Index kMax = kMaxParameters;

/// Solves a[p][p] x = b in place by Cholesky; false where `a` is not positive definite.
bool solve_positive(Index p, double* a, double* b) {
  for (Index j = 0; j < p; ++j) {
    double pivot = a[j * kMax + j];
    const double scale = pivot;
    for (Index k = 0; k < j; ++k) pivot -= a[j * kMax + k] * a[j * kMax + k];
    // Relative to what was there: what is left of a singular pivot is rounding.
    if (!(pivot > 1e-14 * scale) || !(pivot > 0.0)) return false;
    const double root = std::sqrt(pivot);
    a[j * kMax + j] = root;
    for (Index i = j + 1; i < p; ++i) {
      double sum = a[i * kMax + j];
      for (Index k = 0; k < j; ++k) sum -= a[i * kMax + k] * a[j * kMax + k];
      a[i * kMax + j] = sum / root;
    }
  }
  for (Index i = 0; i < p; ++i) {
    for (Index k = 0; k < i; ++k) b[i] -= a[i * kMax + k] * b[k];
    b[i] /= a[i * kMax + i];
  }
  for (Index i = p - 1; i >= 0; --i) {
    for (Index k = i + 1; k < p; ++k) b[i] -= a[k * kMax + i] * b[k];
    b[i] /= a[i * kMax + i];
  }
  return true;
}

double clip(double r, double delta) { return std::min(std::max(r, -delta), delta); }

}  // namespace

double Minimizer::objective(const double* weight, const double* residual, double delta) const {
  double sum = 0.0;
  if (delta == kInfinity) {
    for (Index i = 0; i < n_; ++i) sum += weight[i] * 0.5 * residual[i] * residual[i];
  } else {
    for (Index i = 0; i < n_; ++i) {
      const double c = clip(residual[i], delta);
      sum += weight[i] * c * (residual[i] - 0.5 * c);
    }
  }
  return std::isfinite(sum) ? sum : kInfinity;
}

/// Minimises sum_i w_i loss(r_i + J_i d) + d' (S + damping) d / 2 over the free entries of d, where
/// S is curvature_; the fixed entries stay as given. Leaves r + J d in shifted_ and returns the
/// value reached, without damping.
double Minimizer::solve_step(const double* weight, double delta, const double* damping,
                             const bool* fixed, double* step) {
  const Index n = n_, p = p_;
  std::copy(residual_.begin(), residual_.begin() + n, shifted_.begin());
  for (Index j = 0; j < p; ++j) {
    if (!fixed[j]) step[j] = 0.0;
    if (step[j] == 0.0) continue;
    const double* column = &jacobian_[j * n];
    for (Index i = 0; i < n; ++i) shifted_[i] += step[j] * column[i];
  }
  double quadratic[kMax * kMax];
  for (Index j = 0; j < p; ++j) {
    for (Index k = 0; k < p; ++k) quadratic[j * kMax + k] = curvature_[j * p + k];
    quadratic[j * kMax + j] += damping[j];
  }
  const bool squares = delta == kInfinity;
  double extra = 0.0;  // more damping, while the Hessian is not positive definite
  double gained = 0.0;
  for (int round = 0; round < 60; ++round) {
    double hessian[kMax * kMax], gradient[kMax], newton[kMax];
    active_.clear();
    for (Index i = 0; i < n; ++i) {
      score_[i] = weight[i] * (squares ? shifted_[i] : clip(shifted_[i], delta));
    }
    for (Index i = 0; i < n; ++i) {
      if (squares || std::fabs(shifted_[i]) <= delta) active_.push_back(i);
    }
    for (Index j = 0; j < p; ++j) {
      const double* column = &jacobian_[j * n];
      double sum = 0.0;
      for (Index i = 0; i < n; ++i) sum += score_[i] * column[i];
      for (Index k = 0; k < p; ++k) sum += quadratic[j * kMax + k] * step[k];
      gradient[j] = sum;
      for (Index k = 0; k <= j; ++k) {
        const double* other = &jacobian_[k * n];
        double product = 0.0;
        for (const Index i : active_) product += weight[i] * column[i] * other[i];
        hessian[j * kMax + k] = product + quadratic[j * kMax + k];
      }
    }
    for (Index j = 0; j < p; ++j) {
      if (!fixed[j]) continue;
      gradient[j] = 0.0;
      for (Index k = 0; k < p; ++k) hessian[std::max(j, k) * kMax + std::min(j, k)] = 0.0;
      hessian[j * kMax + j] = 1.0;
    }
    bool solved = false;
    for (int attempt = 0; attempt < 40 && !solved; ++attempt) {
      double factor[kMax * kMax];
      std::copy(hessian, hessian + kMax * p, factor);
      for (Index j = 0; j < p; ++j) {
        if (!fixed[j]) factor[j * kMax + j] += extra * damping[j];
        newton[j] = -gradient[j];
      }
      solved = solve_positive(p, factor, newton);
      if (!solved) extra = extra == 0.0 ? 1.0 : extra * 8.0;
    }
    if (!solved) break;
    double slope = 0.0, bend = 0.0;  // of the quadratic part along the direction
    double along = 0.0;
    for (Index j = 0; j < p; ++j) {
      slope += gradient[j] * newton[j];
      for (Index k = 0; k < p; ++k) {
        bend += newton[j] * quadratic[j * kMax + k] * newton[k];
        along += newton[j] * quadratic[j * kMax + k] * step[k];
      }
    }
    if (!(slope < 0.0)) break;
    for (Index i = 0; i < n; ++i) direction_[i] = 0.0;
    for (Index j = 0; j < p; ++j) {
      const double* column = &jacobian_[j * n];
      const double d = newton[j];
      for (Index i = 0; i < n; ++i) direction_[i] += d * column[i];
    }
    double t = 1.0;
    if (!squares) {
      const auto derivative = [&](double at) {
        double sum = along + at * bend;
        for (Index i = 0; i < n; ++i) {
          sum += weight[i] * clip(shifted_[i] + at * direction_[i], delta) * direction_[i];
        }
        return sum;
      };
      // Zero of a monotone, piecewise linear derivative: bracket it, then Illinois.
      double low = 0.0, at_low = slope, high = 1.0, at_high = derivative(1.0);
      for (int k = 0; k < 12 && at_high < 1e-3 * slope; ++k) {
        low = high;
        at_low = at_high;
        high *= 2.0;
        at_high = derivative(high);
      }
      t = high;
      if (at_high > -1e-3 * slope) {
        for (int k = 0; k < 30; ++k) {
          t = low - at_low * (high - low) / (at_high - at_low);
          const double value = derivative(t);
          if (std::fabs(value) <= -1e-2 * slope) break;
          if (value < 0.0) {
            low = t;
            at_low = value;
            at_high *= 0.5;
          } else {
            high = t;
            at_high = value;
            at_low *= 0.5;
          }
        }
      }
    }
    for (Index j = 0; j < p; ++j) step[j] += t * newton[j];
    for (Index i = 0; i < n; ++i) shifted_[i] += t * direction_[i];
    if (squares) break;
    // Half of slope * t is about what this round gained.
    gained -= slope * t;
    if (-slope * t < 1e-6 * gained) break;
  }
  double value = objective(weight, shifted_.data(), delta);
  for (Index j = 0; j < p; ++j) {
    for (Index k = 0; k < p; ++k) {
      value += 0.5 * step[j] * curvature_[j * p + k] * step[k];
    }
  }
  return value;
}

Descent Minimizer::descend(Model& model, const double* weight, double delta, double tolerance,
                           int max_iterations, double* theta) {
  const Index n = n_, p = p_;
  const double* lower = model.lower();
  const double* upper = model.upper();
  const double* reach = model.reach();
  for (Index j = 0; j < p; ++j) theta[j] = std::min(std::max(theta[j], lower[j]), upper[j]);
  Descent result;
  model.linearize(theta, residual_.data(), jacobian_.data());
  double value = objective(weight, residual_.data(), delta);
  result.iterations = 1;
  result.objective = value;
  if (value == kInfinity) return result;
  const bool squares = delta == kInfinity;
  double lambda = 1e-3;
  int small_steps = 0;
  while (result.iterations < max_iterations) {
    double scale[kMax];
    bool fixed[kMax];
    for (Index i = 0; i < n; ++i) {
      score_[i] = weight[i] * (squares ? residual_[i] : clip(residual_[i], delta));
    }
    for (Index j = 0; j < p; ++j) {
      const double* column = &jacobian_[j * n];
      double sum = 0.0, square = 0.0;
      for (Index i = 0; i < n; ++i) {
        sum += score_[i] * column[i];
        // Curvature of the parabola that touches the loss at r and lies above it.
        const double bend = squares ? 1.0 : delta / std::max(delta, std::fabs(residual_[i]));
        square += weight[i] * bend * column[i] * column[i];
      }
      scale[j] = square;
      fixed[j] = (theta[j] <= lower[j] && sum >= 0.0) || (theta[j] >= upper[j] && sum <= 0.0);
    }
    const double largest = *std::max_element(scale, scale + p);
    if (!(largest > 0.0) || value == 0.0) {
      result.converged = true;
      break;
    }
    for (Index j = 0; j < p; ++j) scale[j] = std::max(scale[j], 1e-14 * largest);
    model.curvature(score_.data(), curvature_);
    bool accepted = false;
    while (!accepted && result.iterations < max_iterations) {
      double damping[kMax], step[kMax], trial[kMax];
      for (Index j = 0; j < p; ++j) damping[j] = lambda * scale[j];
      bool held[kMax] = {};
      for (Index j = 0; j < p; ++j) {
        held[j] = fixed[j];
        step[j] = 0.0;
      }
      double predicted = 0.0;
      // What leaves the box or goes too far is held at its limit, and the rest solved again.
      for (Index round = 0; round <= p; ++round) {
        predicted = value - solve_step(weight, delta, damping, held, step);
        bool inside = true;
        for (Index j = 0; j < p; ++j) {
          if (held[j]) continue;
          const double least = std::max(lower[j] - theta[j], -reach[j]);
          const double most = std::min(upper[j] - theta[j], reach[j]);
          if (step[j] >= least && step[j] <= most) continue;
          step[j] = std::min(std::max(step[j], least), most);
          held[j] = true;
          inside = false;
        }
        if (inside) break;
      }
      for (Index j = 0; j < p; ++j) {
        trial[j] = std::min(std::max(theta[j] + step[j], lower[j]), upper[j]);
      }
      double relative = 0.0;
      for (Index j = 0; j < p; ++j) {
        relative = std::max(relative, std::fabs(trial[j] - theta[j]) / (1.0 + std::fabs(theta[j])));
      }
      if (!(relative > 1e-14) || std::fabs(predicted) <= 1e-15 * value) {
        result.converged = true;
        return result;
      }
      model.linearize(trial, trial_residual_.data(), trial_jacobian_.data());
      ++result.iterations;
      const double next = objective(weight, trial_residual_.data(), delta);
      const double ratio =
          predicted > 0.0 ? (value - next) / predicted : (next < value ? 0.5 : -1.0);
      if (next < value) {
        accepted = true;
        small_steps = value - next <= tolerance * value ? small_steps + 1 : 0;
        value = result.objective = next;
        std::copy(trial, trial + p, theta);
        residual_.swap(trial_residual_);
        jacobian_.swap(trial_jacobian_);
      }
      if (ratio > 0.75) {
        lambda = std::max(lambda * 0.1, 1e-16);
      } else if (ratio < 0.25) {
        lambda *= accepted ? 2.0 : 8.0;
      }
      if (lambda > 1e10 || small_steps >= 3) {
        result.converged = true;
        return result;
      }
    }
  }
  return result;
}

Descent Minimizer::minimize(Model& model, const double* weight, bool far, double tolerance,
                            int max_iterations, double* theta) {
  n_ = model.points();
  p_ = model.parameters();
  for (auto* v : {&residual_, &trial_residual_, &shifted_, &direction_, &score_}) v->resize(n_);
  for (auto* v : {&jacobian_, &trial_jacobian_}) v->resize(n_ * p_);
  active_.reserve(n_);
  // A kinked loss makes narrow, bent valleys far from its minimum, smooth ones do not.
  double stages[8];
  int count = 0;
  if (far) stages[count++] = kInfinity;
  if (loss_ == Loss::huber) {
    for (const double wider : {100.0, 10.0}) {
      if (far) stages[count++] = wider * delta_;
    }
    stages[count++] = delta_;
  } else if (loss_ == Loss::absolute) {
    // The limit of the Huber loss; at the last stage p residuals are zero to rounding.
    for (const double delta : {1e-1, 1e-2, 1e-3, 1e-5, 1e-7, 1e-9}) stages[count++] = delta;
  } else if (!far) {
    stages[count++] = kInfinity;
  }
  Descent result;
  for (int stage = 0; stage < count; ++stage) {
    const bool last = stage == count - 1;
    const int left = std::max(max_iterations - result.iterations, 5);
    const int allowed = last ? left : std::max(left / 3, 5);
    const Descent descent =
        descend(model, weight, stages[stage], last ? tolerance : 1e-2, allowed, theta);
    result.iterations += descent.iterations;
    result.converged = descent.converged;
    result.objective = descent.objective;
  }
  if (loss_ == Loss::absolute) {
    result.objective = 0.0;
    for (Index i = 0; i < n_; ++i) result.objective += weight[i] * std::fabs(residual_[i]);
  }
  return result;
}

}  // namespace dlcore::curves
