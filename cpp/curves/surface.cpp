#include "curves/surface.h"

#include <algorithm>
#include <cmath>

namespace dlcore::curves {
namespace {

// Exponents of a loss that falls are not negative.
constexpr double kLargestExponent = 8.0;
// A term this many e-folds below the loss is zero to rounding.
constexpr double kNegligible = 38.0;
// A term that least squares at fixed exponents does without starts this many e-folds below the
// loss: low enough to do no harm, high enough for a derivative to bring it back.
constexpr double kAsleep = 6.0;

double mean(Index n, const double* x) {
  double sum = 0.0;
  for (Index i = 0; i < n; ++i) sum += x[i];
  return sum / static_cast<double>(n);
}

}  // namespace

SurfaceModel::SurfaceModel(Surface form, bool in_logs, Index n, const double* log_parameters,
                           const double* log_examples, const double* loss)
    : form_(form),
      in_logs_(in_logs),
      n_(n),
      centre_parameters_(mean(n, log_parameters)),
      centre_examples_(mean(n, log_examples)),
      log_parameters_(log_parameters, log_parameters + n),
      log_examples_(log_examples, log_examples + n),
      target_(loss, loss + n),
      share_a_(n),
      share_b_(n),
      share_u_(n, 1.0),
      value_(n, 1.0) {
  for (double& x : log_parameters_) x -= centre_parameters_;
  for (double& x : log_examples_) x -= centre_examples_;
  const auto [least, most] = std::minmax_element(target_.begin(), target_.end());
  const double low = std::log(*least), high = std::log(*most);
  for (const int j : {0, 1, 2}) {
    lower_[j] = low - kNegligible;
    upper_[j] = high + 3.0;
  }
  for (const int j : {3, 4}) {
    lower_[j] = 0.0;
    upper_[j] = kLargestExponent;
  }
  lower_[5] = low - 3.0;
  upper_[5] = high + 0.5 * kNegligible;
  double spread_parameters = 0.0, spread_examples = 0.0;
  for (Index i = 0; i < n; ++i) {
    spread_parameters = std::max(spread_parameters, std::fabs(log_parameters_[i]));
    spread_examples = std::max(spread_examples, std::fabs(log_examples_[i]));
  }
  // A term may change by e^2, more than a linear view of it bears.
  for (const int j : {0, 1, 2, 5}) reach_[j] = 2.0;
  reach_[3] = 2.0 / std::max(spread_parameters, 0.1);
  reach_[4] = 2.0 / std::max(spread_examples, 0.1);
  if (in_logs) {
    for (double& y : target_) y = std::log(y);
  }
}

void SurfaceModel::enter(double* theta) const {
  theta[0] -= theta[3] * centre_parameters_;
  theta[1] -= theta[4] * centre_examples_;
}

void SurfaceModel::leave(double* theta) const {
  theta[0] += theta[3] * centre_parameters_;
  theta[1] += theta[4] * centre_examples_;
}

void SurfaceModel::linearize(const double* theta, double* residual, double* jacobian) {
  const Index n = n_;
  const bool saturating = form_ == Surface::rosenfeld;
  for (Index i = 0; i < n; ++i) {
    const double x = log_parameters_[i], y = log_examples_[i];
    const double za = theta[0] - theta[3] * x, zb = theta[1] - theta[4] * y, ze = theta[2];
    const double top = std::max(std::max(za, zb), ze);
    const double ea = std::exp(za - top), eb = std::exp(zb - top), ee = std::exp(ze - top);
    const double total = ea + eb + ee;
    double f = top + std::log(total);
    double slope = 1.0;  // d(fitted value) / d(log u)
    const double a = ea / total, b = eb / total, e = ee / total;
    if (saturating) {
      const double gap = 2.0 * (f - theta[5]);  // f = log u until here
      const double ratio = std::exp(-std::fabs(gap));
      slope = gap > 0.0 ? ratio / (1.0 + ratio) : 1.0 / (1.0 + ratio);
      f = std::min(f, theta[5]) - 0.5 * std::log1p(ratio);
      share_u_[i] = slope;
    }
    double ceiling = 1.0 - slope;
    if (!in_logs_) {
      value_[i] = f = std::exp(f);
      slope *= f;
      ceiling *= f;
    }
    share_a_[i] = a;
    share_b_[i] = b;
    residual[i] = f - target_[i];
    jacobian[i] = slope * a;
    jacobian[n + i] = slope * b;
    jacobian[2 * n + i] = slope * e;
    jacobian[3 * n + i] = -slope * a * x;
    jacobian[4 * n + i] = -slope * b * y;
    if (saturating) jacobian[5 * n + i] = ceiling;
  }
}

void SurfaceModel::curvature(const double* weight, double* hessian) {
  // With v = log u = log sum_k exp(z_k): v'' = sum_k share_k z_k' z_k'^T - v' v'^T. A function g of
  // v (and of the ceiling c) adds g_v v'' + g_vv v' v'^T.
  const Index p = parameters();
  std::fill(hessian, hessian + p * p, 0.0);
  double own[9] = {};       // sums over share_k z_k' z_k'^T
  double outer[5][5] = {};  // sums over v' v'^T
  double mixed[5] = {}, ceiling = 0.0;
  for (Index i = 0; i < n_; ++i) {
    const double x = log_parameters_[i], y = log_examples_[i];
    const double a = share_a_[i], b = share_b_[i], e = 1.0 - a - b;
    const double q = share_u_[i], l = value_[i], w = weight[i];
    const double g_v = w * l * q;
    double g_vv = -2.0 * w * l * q * (1.0 - q), g_vc = -g_vv, g_cc = g_vv;
    if (!in_logs_) {
      g_vv += w * l * q * q;
      g_vc += w * l * q * (1.0 - q);
      g_cc += w * l * (1.0 - q) * (1.0 - q);
    }
    const double v[5] = {a, b, e, -a * x, -b * y};
    const double wa = g_v * a, wb = g_v * b, both = g_vv - g_v;
    own[0] += wa;
    own[1] += wa * x;
    own[2] += wa * x * x;
    own[3] += wb;
    own[4] += wb * y;
    own[5] += wb * y * y;
    own[6] += g_v * e;
    for (int j = 0; j < 5; ++j) {
      for (int k = 0; k <= j; ++k) outer[j][k] += both * v[j] * v[k];
      mixed[j] += g_vc * v[j];
    }
    ceiling += g_cc;
  }
  outer[0][0] += own[0];
  outer[3][0] -= own[1];
  outer[3][3] += own[2];
  outer[1][1] += own[3];
  outer[4][1] -= own[4];
  outer[4][4] += own[5];
  outer[2][2] += own[6];
  for (int j = 0; j < 5; ++j) {
    for (int k = 0; k <= j; ++k) hessian[j * p + k] = hessian[k * p + j] = outer[j][k];
  }
  if (p == 6) {
    for (int j = 0; j < 5; ++j) hessian[5 * p + j] = hessian[j * p + 5] = mixed[j];
    hessian[35] = ceiling;
  }
}

/// Least squares over the coefficients at fixed exponents.
struct SurfaceModel::Projection {
  double value = 0.0;          // half the sum of squares
  double coefficient[3] = {};  // of N^-alpha, D^-beta, 1; none below zero
  double gradient[2] = {};     // of value over (alpha, beta)
  double hessian[3] = {};      // its Gauss-Newton form: (alpha, alpha), (alpha, beta), (beta, beta)
};

SurfaceModel::Projection SurfaceModel::project(const double* weight, double alpha,
                                               double beta) const {
  // Columns: N^-alpha, D^-beta, 1 and the derivatives of the first two; then L.
  double gram[6][6] = {};
  for (Index i = 0; i < n_; ++i) {
    const double x = log_parameters_[i], y = log_examples_[i], l = target_[i];
    const double scale = in_logs_ ? std::exp(-l) : 1.0;
    const double a = scale * std::exp(-alpha * x), b = scale * std::exp(-beta * y);
    const double column[6] = {a, b, scale, -x * a, -y * b, in_logs_ ? 1.0 : l};
    for (int j = 0; j < 6; ++j) {
      const double w = weight[i] * column[j];
      for (int k = 0; k <= j; ++k) gram[j][k] += w * column[k];
    }
  }
  for (int j = 0; j < 6; ++j) {
    for (int k = 0; k < j; ++k) gram[k][j] = gram[j][k];
  }
  // Of three columns the active ones are found by trying all subsets.
  Projection best;
  best.value = 0.5 * gram[5][5];
  for (int subset = 1; subset < 8; ++subset) {
    int index[3], count = 0;
    for (int j = 0; j < 3; ++j) {
      if (subset >> j & 1) index[count++] = j;
    }
    // Right-hand sides: L and the two derivative columns.
    double factor[3][3], solved[3][3];
    bool usable = true;
    for (int j = 0; j < count && usable; ++j) {
      const double* row = gram[index[j]];
      for (int k = 0; k <= j; ++k) {
        double sum = row[index[k]];
        for (int m = 0; m < k; ++m) sum -= factor[j][m] * factor[k][m];
        if (j == k) {
          usable = sum > 1e-13 * row[index[j]];
          factor[j][j] = usable ? std::sqrt(sum) : 1.0;
        } else {
          factor[j][k] = sum / factor[k][k];
        }
      }
      const double right[3] = {row[5], row[3], row[4]};
      for (int side = 0; side < 3; ++side) {
        double sum = right[side];
        for (int k = 0; k < j; ++k) sum -= factor[j][k] * solved[k][side];
        solved[j][side] = sum / factor[j][j];
      }
    }
    if (!usable) continue;
    double coefficient[3] = {}, value = gram[5][5];
    double projected[3] = {gram[3][3], gram[3][4], gram[4][4]};
    for (int j = 0; j < count; ++j) {
      value -= solved[j][0] * solved[j][0];
      projected[0] -= solved[j][1] * solved[j][1];
      projected[1] -= solved[j][1] * solved[j][2];
      projected[2] -= solved[j][2] * solved[j][2];
    }
    for (int j = count - 1; j >= 0; --j) {
      double sum = solved[j][0];
      for (int k = j + 1; k < count; ++k) sum -= factor[k][j] * coefficient[index[k]];
      coefficient[index[j]] = sum / factor[j][j];
      usable = usable && coefficient[index[j]] >= 0.0;
    }
    if (!usable || !(0.5 * value < best.value)) continue;
    best.value = 0.5 * std::max(value, 0.0);
    const double a = coefficient[0], b = coefficient[1];
    std::copy(coefficient, coefficient + 3, best.coefficient);
    for (int j = 0; j < 2; ++j) {
      best.gradient[j] = -gram[3 + j][5];
      for (int k = 0; k < 3; ++k) best.gradient[j] += coefficient[k] * gram[3 + j][k];
      best.gradient[j] *= coefficient[j];
    }
    best.hessian[0] = a * a * projected[0];
    best.hessian[1] = a * b * projected[1];
    best.hessian[2] = b * b * projected[2];
  }
  return best;
}

void SurfaceModel::approach(const double* weight, int steps, double* theta) const {
  double alpha = theta[3], beta = theta[4];
  Projection at = project(weight, alpha, beta);
  double lambda = 1e-2;
  int slow = 0;
  for (int step = 0; step < steps && slow < 3 && lambda < 1e6; ++step) {
    const double a = at.hessian[0] * (1.0 + lambda) + 1e-300, b = at.hessian[1],
                 c = at.hessian[2] * (1.0 + lambda) + 1e-300;
    const double determinant = a * c - b * b;
    const double down_a = determinant > 0.0
                              ? -(c * at.gradient[0] - b * at.gradient[1]) / determinant
                              : -at.gradient[0] / a;
    const double down_b = determinant > 0.0
                              ? -(a * at.gradient[1] - b * at.gradient[0]) / determinant
                              : -at.gradient[1] / c;
    const double next_alpha = std::min(
        std::max(alpha + std::min(std::max(down_a, -reach_[3]), reach_[3]), 0.0), upper_[3]);
    const double next_beta = std::min(
        std::max(beta + std::min(std::max(down_b, -reach_[4]), reach_[4]), 0.0), upper_[4]);
    const Projection next = project(weight, next_alpha, next_beta);
    if (next.value < at.value) {
      slow = at.value - next.value < 1e-2 * at.value ? slow + 1 : 0;
      alpha = next_alpha;
      beta = next_beta;
      at = next;
      lambda = std::max(0.1 * lambda, 1e-12);
    } else {
      slow += next.value - at.value < 1e-2 * at.value;
      lambda *= 10.0;
    }
  }
  const double asleep = lower_[0] + kNegligible - kAsleep;
  for (int j = 0; j < 3; ++j) {
    theta[j] = at.coefficient[j] > 0.0 ? std::max(std::log(at.coefficient[j]), lower_[j]) : asleep;
  }
  theta[3] = alpha;
  theta[4] = beta;
}

}  // namespace dlcore::curves
