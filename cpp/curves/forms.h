#pragma once

#include <memory>
#include <string>
#include <vector>

#include "curves/robust.h"

namespace dlcore::curves {

/// What the data say about where parameters can lie; x in logarithms, centred.
struct Scope {
  double first_x, last_x;
  double least_y, most_y;  // logarithms
};

/// A curve of log y over log x whose parameters are logarithms and exponents. `t` is log x.
class Form {
 public:
  virtual ~Form() = default;
  virtual const char* name() const = 0;
  virtual Index parameters() const = 0;
  virtual double log_value(const double* theta, double t) const = 0;

  /// log y, df/dtheta[p] and the lower triangle of d2f/dtheta2 at one t.
  virtual void derivatives(const double* theta, double t, double* value, double* first,
                           double* second) const = 0;

  /// Rewrites theta for t measured from `centre`: f_old(t) = f_new(t - centre).
  virtual void shift(double centre, double* theta) const = 0;

  /// Box of the parameters and how far one step may go.
  virtual void limits(const Scope& scope, double* lower, double* upper, double* reach) const = 0;

  /// Grid to look for starts on: the values of each parameter that is not linear, in order; empty
  /// where the parameter is found by linear least squares.
  virtual std::vector<std::vector<double>> grid(const Scope& scope) const = 0;

  /// A simpler form whose best fit refines the grid, or nullptr; and how it does.
  virtual const Form* simpler() const { return nullptr; }
  virtual void refine(const double* simpler_theta, std::vector<std::vector<double>>& grid) const {
    (void)simpler_theta, (void)grid;
  }

  /// How the remaining two parameters enter at fixed others: y = e^theta[i] + e^theta[j] phi, or,
  /// for `in_logs`, log y = theta[i] + theta[j] phi. Gives phi; sets theta from the two
  /// coefficients.
  virtual bool in_logs() const = 0;
  virtual double basis(const double* theta, double t) const = 0;
  virtual void set_coefficients(double constant, double slope, double* theta) const = 0;
};

/// All forms, in a fixed order.
const std::vector<const Form*>& forms();

/// The form of that name, or nullptr.
const Form* find_form(const std::string& name);

/// Residuals scale_i (f(theta; t_i) - log y_i).
class CurveModel final : public Model {
 public:
  CurveModel(const Form& form, Index n, const double* log_x, const double* log_y,
             const double* scale);

  Index parameters() const override { return form_.parameters(); }
  Index points() const override { return static_cast<Index>(t_.size()); }
  void linearize(const double* theta, double* residual, double* jacobian) override;
  void curvature(const double* weight, double* hessian) override;
  const double* lower() const override { return lower_; }
  const double* upper() const override { return upper_; }
  const double* reach() const override { return reach_; }
  double centre() const { return centre_; }

  /// Up to `count` starts[count][p], best first: the form's grid with its linear part solved.
  /// `simpler` is the best fit of form.simpler(), if there is one.
  Index starts(const double* weight, Index count, const double* simpler, double* theta) const;

 private:
  const Form& form_;
  double centre_;
  Scope scope_;
  std::vector<double> t_, log_y_, scale_, second_;
  double lower_[kMaxParameters], upper_[kMaxParameters], reach_[kMaxParameters];
};

/// The best descent of `form` from `count` starts of its grid and, if not nullptr, from `warm`[p].
/// Leaves the parameters, for x as given, in theta[p].
Descent fit_curve(const Form& form, Minimizer& minimizer, Index n, const double* log_x,
                  const double* log_y, const double* scale, const double* weight, Index count,
                  const double* warm, int max_iterations, double* theta);

}  // namespace dlcore::curves
