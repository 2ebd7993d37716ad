#pragma once

#include <cstdint>
#include <vector>

#include "tensor.h"

namespace dlcore::curves {

/// Largest number of parameters of any model here.
inline constexpr Index kMaxParameters = 8;

/// What is summed over the residuals r: squares r^2 / 2; Huber, r^2 / 2 up to delta and
/// delta (|r| - delta / 2) beyond; absolute values |r|.
enum class Loss { squares, huber, absolute };

/// A model f(theta) of n observations, with first and second derivatives.
class Model {
 public:
  virtual ~Model() = default;
  virtual Index parameters() const = 0;
  virtual Index points() const = 0;

  /// residual[n] = f(theta) - y and jacobian[p][n] = df/dtheta.
  virtual void linearize(const double* theta, double* residual, double* jacobian) = 0;

  /// hessian[p][p] = sum_i weight[i] d2f_i / dtheta2, at the theta last linearized.
  virtual void curvature(const double* weight, double* hessian) = 0;

  /// Box of the parameters; a descent never leaves it.
  virtual const double* lower() const = 0;
  virtual const double* upper() const = 0;

  /// How far one step may move each parameter: about as far as a derivative tells anything.
  virtual const double* reach() const = 0;
};

/// Where a descent ended.
struct Descent {
  double objective = 0.0;
  int iterations = 0;
  bool converged = false;
};

/// Minimises sum_i weight_i loss(r_i(theta)) from one start.
///
/// Each step solves the piecewise quadratic problem in which r is linear and the loss exact (its
/// kinks are what slows a quasi-Newton method down), plus the second derivatives of f, damped after
/// Levenberg and Marquardt. It evaluates f only once per step: the kinks are sorted out without it.
/// Deterministic; one object per thread, reused from fit to fit.
class Minimizer {
 public:
  Minimizer(Loss loss, double delta) : loss_(loss), delta_(delta) {}

  /// Improves theta[p] in place. `far`: theta may be anywhere, so squares come first and the loss
  /// is sharpened on the way; a descent that starts next to its minimum is quicker without. Ends
  /// after three steps in a row that gain less than the share `tolerance`, or after
  /// `max_iterations` evaluations of the model.
  Descent minimize(Model& model, const double* weight, bool far, double tolerance,
                   int max_iterations, double* theta);

 private:
  Descent descend(Model& model, const double* weight, double delta, double tolerance,
                  int max_iterations, double* theta);
  double objective(const double* weight, const double* residual, double delta) const;
  double solve_step(const double* weight, double delta, const double* damping, const bool* fixed,
                    double* step);

  Loss loss_;
  double delta_;
  Index n_ = 0;
  Index p_ = 0;
  std::vector<double> residual_, trial_residual_, jacobian_, trial_jacobian_, shifted_, direction_,
      score_;
  std::vector<Index> active_;
  double curvature_[kMaxParameters * kMaxParameters] = {};
};

}  // namespace dlcore::curves
