#pragma once

#include <vector>

#include "curves/robust.h"

namespace dlcore::curves {

/// Forms of the loss L over network size N and examples D; all parameters but the exponents are
/// logarithms, in the order a, b, e, alpha, beta (, c).
///   chinchilla: L = e^e + e^a / N^alpha + e^b / D^beta
///   rosenfeld:  L = (u^-2 + e^-2c)^(-1/2), u the chinchilla form: it saturates at e^c for small
///               N and D (Rosenfeld et al. 2020, with the redundant scale of their eta removed)
enum class Surface { chinchilla, rosenfeld };

/// Residuals of log L (`in_logs`) or of L itself.
class SurfaceModel final : public Model {
 public:
  SurfaceModel(Surface form, bool in_logs, Index n, const double* log_parameters,
               const double* log_examples, const double* loss);

  Index parameters() const override { return form_ == Surface::chinchilla ? 5 : 6; }
  Index points() const override { return n_; }
  void linearize(const double* theta, double* residual, double* jacobian) override;
  void curvature(const double* weight, double* hessian) override;
  const double* lower() const override { return lower_; }
  const double* upper() const override { return upper_; }
  const double* reach() const override { return reach_; }

  /// The descent runs on logarithms of the terms at the centre of the data, where exponents and
  /// coefficients hardly depend on each other. These convert to and from the order above.
  void enter(double* theta) const;
  void leave(double* theta) const;

  /// Moves theta, from anywhere, to near a minimum of the sum of squares, by variable projection:
  /// at fixed exponents L is linear in e^a, e^b and e^e, so that only the exponents are searched,
  /// for at most `steps` (0: the three coefficients are solved and the exponents stay). The valleys
  /// of all five together are long and bent. Residuals of log L are taken as relative ones, and the
  /// ceiling of the rosenfeld form as far away.
  void approach(const double* weight, int steps, double* theta) const;

 private:
  struct Projection;
  Projection project(const double* weight, double alpha, double beta) const;

  Surface form_;
  bool in_logs_;
  Index n_;
  double centre_parameters_, centre_examples_;
  double lower_[6], upper_[6], reach_[6];
  std::vector<double> log_parameters_, log_examples_;  // centred
  std::vector<double> target_;
  // Shares of the terms of u, share of u in L, and L, at the theta last linearized.
  std::vector<double> share_a_, share_b_, share_u_, value_;
};

}  // namespace dlcore::curves
