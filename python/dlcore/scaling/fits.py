"""Fits of a learning curve, and what they forecast.

A fit of one form is that form. The fit "auto" is an ensemble: forms are weighted by Akaike's
criterion for small samples with a Laplace likelihood, and their mean is drawn to the last value by as
much as back-tests on earlier parts of the curve advise, because curves flatten more often than laws
that fit them. All forms are fitted to logarithms, natively (cpp/curves).
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlcore.scaling.curves import Forecast, LearningCurve
from dlcore.scaling.forms import (
    ENSEMBLE,
    FORMS,
    LAST,
    Form,
    Problem,
    fit_problems,
    form_named,
    log_values,
)
from dlcore.scaling.intervals import (
    LARGEST_HORIZON,
    LARGEST_RATIO,
    OCTAVE,
    Backtest,
    Features,
    Table,
    noise,
    recent_slope,
    roughness,
    table,
)
from dlcore.scaling.resampling import CurveBootstrap, resample

if TYPE_CHECKING:
    from dlcore.scaling.decisions import Crossing, Plateau, Requirement

Array = NDArray[np.float64]

LOSSES = ("huber", "lad", "l2")
STARTS = 2  # of each form of the ensemble
# A form that is asked for by name is searched for more widely, and followed to the end.
STARTS_ALONE, ITERATIONS_ALONE = 8, 250
_ORIGINS = 5
# The plain power law hardly ever holds to the end of a curve.
_PRIOR = {"power": 0.02}
# Evidence counts as that of at most so many points: neighbours on a dense curve are not independent.
_EVIDENCE = 20
_NEAR = 0.15  # octaves within which points tell of each other, where they lie so close
_LARGEST = 50.0  # of anything that a log of y may be off by
# The shrinkage expected before back-tests, and how much that counts.
_KEEP, _KEEP_WEIGHT = 0.5, 0.2


# What a fit works out once, and a member of it anew.
_CACHED = (
    "standard_errors",
    "backtests",
    "rough",
    "_diagnosis",
    "_global_residuals",
    "_usual_residual",
)


@dataclass(frozen=True, eq=False)
class Origin:
    """Fits of all forms to the first ``count`` points."""

    count: int
    parameters: Array  # (forms, STRIDE)
    residuals: Array  # (forms, count), of log y, scaled
    weights: Array  # (forms,)


def fit(
    curve: LearningCurve,
    form: str | Sequence[str] = "auto",
    loss: str = "huber",
    delta: float = 1e-3,
    *,
    threads: int | None = None,
) -> CurveFit:
    """Fit a learning curve.

    Parameters
    ----------
    curve : LearningCurve
    form : str or list of str, default "auto"
        A name of :data:`dlcore.scaling.FORMS` ("power", "power_floor", "shifted", "pow4", "m4",
        "mmf4", "wbl4", "exp4", "bnsl"), "last" for the last value, a list for an ensemble of these,
        or "auto" for the ensemble of all.
    loss : {"huber", "lad", "l2"}, default "huber"
        Of the residuals of log y: Huber's, absolute values, or squares.
    delta : float, default 1e-3
        Where the Huber loss turns from squares to absolute values.
    threads : int, optional
        At most so many; the results do not depend on it.

    Returns
    -------
    CurveFit

    Raises
    ------
    ValueError
        If an argument is unknown or out of range.

    Examples
    --------
    >>> x = [100, 200, 400, 800, 1600, 3200]
    >>> y = [0.05 + 2.0 * m**-0.5 for m in x]
    >>> found = fit(LearningCurve(x, y), form="power_floor", loss="l2")
    >>> round(found.parameters["c"], 6), round(found.parameters["e"], 6)
    (0.5, 0.05)
    """
    if not isinstance(curve, LearningCurve):
        raise TypeError(
            f"fit: curve needs a LearningCurve, found {type(curve).__name__}; "
            "make one of x and y with scaling.LearningCurve(x, y)"
        )
    if loss not in LOSSES:
        raise ValueError(f"fit: loss needs one of {', '.join(LOSSES)}, found {loss!r}")
    if not (isinstance(delta, (int, float)) and math.isfinite(delta) and delta > 0):
        raise ValueError(f"fit: delta needs a positive number, found {delta!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"fit: threads needs at least 1, found {threads}")
    asked = [form] if isinstance(form, str) else list(form)
    if not asked:
        raise ValueError("fit: form needs at least one name, found none")
    names: list[str] = []
    for name in asked:
        if name == "auto":
            names += ENSEMBLE
        elif name != LAST:
            names.append(form_named(name).name)
    label = asked[0] if isinstance(form, str) else "auto" if set(names) == set(ENSEMBLE) else "list"
    if label not in ("auto", "list", LAST):
        label = names[0]
    return CurveFit(
        curve, label, tuple(dict.fromkeys(names)), LAST in asked, loss, float(delta), threads or 0
    )


def _residual_scale(curve: LearningCurve) -> Array:
    """How much a residual of log y counts: less where its standard error is above the usual one."""
    ones = np.ones(len(curve))
    if curve.se is None:
        return ones
    relative = curve.se / curve.positive
    usual = float(np.median(relative))
    if not usual > 0:
        return ones
    result: Array = np.clip(usual / np.maximum(relative, 0.1 * usual), 0.05, 1.5)
    return result


class CurveFit:
    """A fitted learning curve; made by :func:`fit`.

    Attributes
    ----------
    curve : LearningCurve
    form : str
        The form's name, "auto", "list" or "last".
    loss : str
    delta : float
    weights : dict of str to float
        Share of each form in the forecast.
    shrinkage : float
        Share of the way from the last value to the forms' mean that the forecast goes; 1 for a form
        asked for by name.
    log_x, log_y : array, (n,)
        What was fitted.
    names : tuple of str
        All forms that were fitted, ``members`` those that make the forecast.
    """

    def __init__(
        self,
        curve: LearningCurve,
        label: str,
        names: tuple[str, ...],
        with_last: bool,
        loss: str,
        delta: float,
        threads: int,
    ) -> None:
        self.curve = curve
        self.loss = loss
        self.delta = delta
        self._threads = threads
        self.log_x = np.log(curve.x)
        self.log_y = np.log(curve.positive)
        self._problem = Problem(self.log_x, self.log_y, _residual_scale(curve), np.ones(len(curve)))
        spread = float(self.log_y.max() - self.log_y.min())
        low, high = curve.bounds
        self._least = float(self.log_y.min()) - 3 * spread - 2
        self._most = float(self.log_y.max()) + 0.3
        if low > 0:
            self._least = max(self._least, math.log(low))
        if math.isfinite(high):
            self._most = min(self._most, math.log(high))
        # The ensemble measures what any one form leaves open, so it is always fitted.
        self.names = tuple(dict.fromkeys([*ENSEMBLE, *names]))
        self.forms = tuple(FORMS[name] for name in self.names)
        self.origins = self._fit_origins()
        if len(names) == 1 and not with_last:
            self._fit_alone(names[0])
        self._choose(label, names, with_last)

    def _choose(self, label: str, members: tuple[str, ...], with_last: bool) -> None:
        """Say which of the fitted forms make the forecast."""
        self.form = label
        self.members = members
        self.alone = len(members) == 1 and not with_last
        self._chosen = np.array([name in members for name in self.names])
        if self.alone:
            self.shrinkage = 1.0
        elif not members:
            self.shrinkage = 0.0
        else:
            self.shrinkage = self._shrinkage()
        share = self.member_weights(self.origins[0])
        self.weights = {
            name: float(part)
            for name, part in zip(self.names, share * self.shrinkage, strict=True)
            if part > 0
        }
        if self.shrinkage < 1:
            self.weights[LAST] = 1 - self.shrinkage

    def member(self, name: str) -> CurveFit:
        """The same curve by one form of the ensemble, or by "last", without fitting again.

        :func:`fit` with the form's name searches more widely.

        Parameters
        ----------
        name : str

        Returns
        -------
        CurveFit

        Raises
        ------
        ValueError
            If the form was not fitted.
        """
        if name != LAST:
            name = form_named(name).name
            if name not in self.names:
                raise ValueError(
                    f"member: name needs one of {', '.join([*self.names, LAST])}, found {name!r}"
                )
        result = copy.copy(self)
        for cached in _CACHED:
            result.__dict__.pop(cached, None)
        result._choose(name, () if name == LAST else (name,), False)
        return result

    # Fitting

    def _fit_origins(self) -> list[Origin]:
        """Fits to the whole curve, and to its first parts."""
        octaves = self.log_x / OCTAVE
        n = len(octaves)
        counts = [n]
        if n >= 5:
            step = max(float(np.median(np.diff(octaves))), 0.11 * float(octaves[-1] - octaves[0]))
            for j in range(1, _ORIGINS + 1):
                count = int((octaves <= octaves[-1] - j * step + 1e-9).sum())
                if 4 <= count < counts[-1]:
                    counts.append(count)
        problems = [self._problem.first(count) for count in counts]
        natives = [form.native for form in self.forms]
        parameters, _ = fit_problems(
            natives, problems, self.loss, self.delta, STARTS, threads=self._threads
        )
        origins = []
        for j, count in enumerate(counts):
            values = self._values(parameters[:, j], self.log_x[:count])
            residuals = values - self.log_y[:count]
            origins.append(Origin(count, parameters[:, j], residuals, self._evidence(residuals)))
        return origins

    def _fit_alone(self, name: str) -> None:
        """Search for one form more widely, on the whole curve."""
        place = self.names.index(name)
        origin = self.origins[0]
        found, _ = fit_problems(
            [self.forms[place].native],
            [self._problem],
            self.loss,
            self.delta,
            STARTS_ALONE,
            origin.parameters[None, place : place + 1],
            self._threads,
            ITERATIONS_ALONE,
        )
        origin.parameters[place] = found[0, 0]
        origin.residuals[place] = self._values(origin.parameters, self.log_x)[place] - self.log_y

    def _values(self, parameters: Array, log_x: Array) -> Array:
        return np.concatenate(
            [log_values(form.native, parameters[i], log_x) for i, form in enumerate(self.forms)]
        )

    def forecasts(self, origin: Origin, log_x: Array) -> Array:
        """Log y of every form, within what is possible."""
        values = self._values(origin.parameters, log_x)
        values = np.where(np.isfinite(values), values, self._most)
        result: Array = np.clip(values, self._least, self._most)
        return result

    def _evidence(self, residuals: Array) -> Array:
        """Weights of the forms by AICc with a Laplace likelihood."""
        n = residuals.shape[1]
        size = np.array([form.size for form in self.forms], float)
        log_likelihood = -n * np.log(np.abs(residuals).mean(axis=1) + 1e-7)
        penalty = size + size * (size + 1) / np.maximum(n - size - 1, 0.3)
        prior = np.array(
            [
                math.log(_PRIOR.get(name, 1.0)) if name in ENSEMBLE else -math.inf
                for name in self.names
            ]
        )
        score = prior + (log_likelihood - penalty) / n * min(n, _EVIDENCE)
        weights = np.exp(score - score.max())
        result: Array = weights / weights.sum()
        return result

    def member_weights(self, origin: Origin) -> Array:
        """Weights among the forms that were asked for."""
        if not self._chosen.any():
            return self._chosen.astype(float)
        if self._chosen.sum() == 1:
            return self._chosen.astype(float)
        # Forms outside the ensemble have no evidence there; exp4 is wbl4 by another name.
        weights = np.where(self._chosen, origin.weights, 0.0)
        for i, name in enumerate(self.names):
            if self._chosen[i] and name not in ENSEMBLE:
                twin = next(
                    j for j, form in enumerate(self.forms) if form.native == self.forms[i].native
                )
                weights[i] = 0.0 if self._chosen[twin] else origin.weights[twin]
        total = weights.sum()
        if total <= 0:
            total, weights = self._chosen.sum(), self._chosen
        result: Array = weights / total
        return result

    def _shrinkage(self) -> float:
        """How much of a forecast move came true in the back-tests."""
        level = float(np.median(np.abs(self.origins[0].residuals), axis=1)[1:].min()) * 1.48 + 1e-5
        predicted = _KEEP_WEIGHT * _KEEP * 0.5
        possible = _KEEP_WEIGHT * 0.5
        for origin in self.origins[1:]:
            last = self.log_y[origin.count - 1]
            later = self.log_y[origin.count :] - last
            mean = self.member_weights(origin) @ self.forecasts(origin, self.log_x[origin.count :])
            move = mean - last
            weight = 1 / len(later) / (np.abs(move) + np.abs(later) + 1e-4 + level) ** 2
            predicted += float(weight @ (move * later))
            possible += float(weight @ (move * move))
        return min(max(predicted / possible, 0.0), 1.0)

    # What the forms say

    @property
    def leading(self) -> str:
        """The form with the largest weight; "last" where there is no other."""
        if not self.members:
            return LAST
        return self.names[int(np.argmax(self.member_weights(self.origins[0])))]

    def _leading(self) -> tuple[Form, Array]:
        if not self.members:
            raise ValueError('fit: the form "last" has no parameters')
        place = self.names.index(self.leading)
        return self.forms[place], self.origins[0].parameters[place]

    @property
    def parameters(self) -> dict[str, float]:
        """Parameters of the form; of the leading one in an ensemble. Empty for "last"."""
        if not self.members:
            return {}
        form, parameters = self._leading()
        return {name: float(value) for name, value in form.publish(parameters).items()}

    @functools.cached_property
    def standard_errors(self) -> dict[str, float]:
        """Bootstrap standard errors of :attr:`parameters`, 200 resamples."""
        return {} if not self.members else self.bootstrap(200).standard_errors

    def bootstrap(self, resamples: int = 1000, seed: int = 0, kind: str = "auto") -> CurveBootstrap:
        """Refit the leading form to resamples of the curve.

        Parameters
        ----------
        resamples : int, default 1000
        seed : int, default 0
        kind : {"auto", "cases", "residuals", "seeds"}
            Points are drawn again ("cases"); residuals are drawn again and put back on the fit
            ("residuals"); or the values that share an x are ("seeds": whole clusters of runs stay at
            their x). "auto" takes seeds where every x has at least three, else cases where there are
            at least four points per parameter, else residuals.

        Returns
        -------
        CurveBootstrap

        Raises
        ------
        ValueError
            If the curve has no parameters or not what the kind needs.
        """
        form, parameters = self._leading()
        return resample(
            self.curve,
            self._problem,
            form,
            parameters,
            self.loss,
            self.delta,
            resamples,
            seed,
            kind,
            self._threads,
        )

    # Forecasts

    def predict(self, x_new: ArrayLike, interval: float = 0.9) -> Forecast:
        """Forecast the error at new x.

        Parameters
        ----------
        x_new : array_like, (k,)
            Positive; inside the data or beyond.
        interval : float, default 0.9
            Nominal coverage of the intervals for the next measurement, above 0 and below 1.

        Returns
        -------
        Forecast

        Raises
        ------
        ValueError
            If x_new is not positive or ``interval`` not a share.

        Examples
        --------
        >>> x = [100 * 2**j for j in range(9)]
        >>> found = fit(LearningCurve(x, [0.05 + 2 * m**-0.5 for m in x], bounds=(0, 1)))
        >>> shown = found.predict([51200, 1e12])
        >>> round(float(shown.value[0]), 3), shown.statuses, shown.warnings[0]
        (0.059, ('ok', 'undetermined'), 'FAR_EXTRAPOLATION')
        """
        x = np.atleast_1d(np.asarray(x_new, np.float64))
        if x.ndim != 1 or not (np.isfinite(x) & (x > 0)).all():
            raise ValueError("predict: x_new needs one axis of positive finite numbers")
        if not 0 < interval < 1:
            raise ValueError(f"predict: interval needs a share between 0 and 1, found {interval}")
        log_x = np.log(x)
        shipped = table()
        value = self.log_forecast(log_x)
        scale = self.log_scale(log_x, shipped)
        below, above = shipped.limits(self.form, interval)
        beyond = log_x > self.log_x[-1]
        # Inside the data errors fall on both sides alike.
        both = 0.5 * (above - below)
        low, value, high = (
            np.exp(np.clip(part, -690, 690))
            for part in (
                value + np.where(beyond, below, -both) * scale,
                value,
                value + np.where(beyond, above, both) * scale,
            )
        )
        warnings, hopeless = self._diagnosis
        horizon = (log_x - self.log_x[-1]) / OCTAVE
        far = horizon > min(LARGEST_HORIZON, LARGEST_RATIO * self.span)
        wide = high > 4 * low
        undetermined = np.where(beyond, far | wide | hopeless, wide | (len(self.curve) < 3))
        found = list(warnings)
        if (far & beyond).any():
            found.append("FAR_EXTRAPOLATION")
        if (wide & beyond).any():
            found.append("WIDE_INTERVAL")
        least, most = self.curve.bounds
        top = max(float(self.curve.y.max()), float(self.curve.positive.max()))
        if "ZERO_ERROR" in warnings:
            low = np.full_like(low, least)
        low = np.where(undetermined & beyond, least, low)
        high = np.where(undetermined & beyond, np.maximum(high, top), high)
        value, low, high = (np.clip(part, least, min(most, 1e300)) for part in (value, low, high))
        return Forecast(
            x,
            value,
            np.minimum(low, value),
            np.maximum(high, value),
            float(interval),
            shipped.covered(self.form, interval),
            tuple("undetermined" if flag else "ok" for flag in undetermined),
            tuple(dict.fromkeys(found)),
        )

    @property
    def span(self) -> float:
        """Octaves between the first and the last point."""
        return max(float(self.log_x[-1] - self.log_x[0]) / OCTAVE, 0.1)

    def log_forecast(self, log_x: Array) -> Array:
        """Log of the forecast, before bounds."""
        value = self._global(log_x)
        inside = log_x <= self.log_x[-1]
        if not self.alone and inside.any():
            # Where the data say otherwise than every form, the data are right.
            mean, _, points = self._local_residuals(log_x[inside])
            own = self._usual_residual**2 / points
            value[inside] += mean * np.maximum(1 - own / np.maximum(mean**2, 1e-300), 0)
        return value

    def _global(self, log_x: Array) -> Array:
        origin = self.origins[0]
        mean = self.member_weights(origin) @ self.forecasts(origin, log_x)
        if self.alone:
            result: Array = np.clip(mean, self._least, self._most)
            return result
        return self._drawn(log_x, mean, origin)

    @functools.cached_property
    def _global_residuals(self) -> Array:
        result: Array = self.log_y - self._global(self.log_x)
        return result

    @functools.cached_property
    def _usual_residual(self) -> float:
        return 1.4826 * float(np.median(np.abs(self._global_residuals))) + 1e-9

    def _local_residuals(self, log_x: Array) -> tuple[Array, Array, Array]:
        """Mean and mean square of the residuals near each x, and of how many points."""
        away = np.abs(log_x[:, None] - self.log_x[None, :])
        second = np.sort(away, axis=1)[:, min(1, away.shape[1] - 1)]
        weight = np.exp(-0.5 * (away / np.maximum(second, _NEAR * OCTAVE)[:, None]) ** 2)
        weight /= weight.sum(axis=1, keepdims=True)
        mean = weight @ self._global_residuals
        return mean, weight @ self._global_residuals**2, 1 / (weight**2).sum(axis=1)

    def _drawn(self, log_x: Array, mean: Array, origin: Origin) -> Array:
        """The forms' mean, drawn to the last value; inside the data this fades within an octave."""
        last_x, last_y = self.log_x[origin.count - 1], self.log_y[origin.count - 1]
        beyond = self.shrinkage * mean + (1 - self.shrinkage) * last_y
        at_last = float(
            (self.member_weights(origin) @ self.forecasts(origin, np.array([last_x])))[0]
        )
        fade = np.exp2(np.minimum((log_x - last_x) / OCTAVE, 0) * 2)
        inside = mean + (1 - self.shrinkage) * (last_y - at_last) * fade
        if not self.members:
            inside = np.interp(log_x, self.log_x, self.log_y)
        result: Array = np.where(log_x > last_x, beyond, inside)
        return result

    def features(self, log_x: Array) -> tuple[Array, Features]:
        """Forecast of log y beyond the data, and what its error depends on (for the calibration)."""
        return self._features(self.origins[0], log_x)

    def _features(self, origin: Origin, log_x: Array) -> tuple[Array, Features]:
        """Forecast of an origin beyond its last point, and what its error depends on."""
        forecasts = self.forecasts(origin, log_x)
        member = self.member_weights(origin)
        mean = member @ forecasts
        last = self.log_y[origin.count - 1]
        if not self.members:
            mean = np.full(len(log_x), last)
        value = mean if self.alone else self._drawn(log_x, mean, origin)
        # Square roots, because evidence from a few dozen points overstates itself.
        share = np.sqrt(origin.weights)
        share /= share.sum()
        spread = np.sqrt(share @ (forecasts - mean) ** 2)
        residuals = (member if self.members else origin.weights) @ origin.residuals
        known_x, known_y = self.log_x[: origin.count], self.log_y[: origin.count]
        horizon = np.maximum((log_x - known_x[-1]) / OCTAVE, 1e-3)
        level = noise(residuals)
        if self.curve.se is not None:
            relative = self.curve.se[: origin.count] / self.curve.positive[: origin.count]
            level = max(level, 0.5 * float(np.median(relative)))
        # A rounded value says no more than its last digit.
        level = math.hypot(
            level, 0.29 * self.curve.resolution / self.curve.positive[origin.count - 1]
        )
        parts = np.column_stack(
            [
                np.full(len(log_x), level),
                spread,
                np.abs(mean - last),
                recent_slope(known_x, known_y) * horizon,
            ]
        )
        span = max(float(known_x[-1] - known_x[0]) / OCTAVE, 0.1)
        return value, Features(np.minimum(parts, _LARGEST), horizon, span, origin.count)

    @functools.cached_property
    def backtests(self) -> tuple[Backtest, ...]:
        """Errors of forecasts from earlier parts of the curve."""
        found = []
        for origin in self.origins[1:]:
            value, features = self._features(origin, self.log_x[origin.count :])
            found.append(Backtest(features, self.log_y[origin.count :] - value))
        return tuple(found)

    @functools.cached_property
    def rough(self) -> float:
        """Autocorrelation of the residuals."""
        origin = self.origins[0]
        weights = self.member_weights(origin) if self.members else origin.weights
        return roughness(weights @ origin.residuals)

    def log_scale(self, log_x: Array, shipped: Table) -> Array:
        """Scale of the error of log y at each x."""
        origin = self.origins[0]
        beyond = log_x > self.log_x[-1]
        result = np.empty(len(log_x))
        if beyond.any():
            _, features = self._features(origin, log_x[beyond])
            kappa = shipped.agreement(features.horizon, self.backtests)
            result[beyond] = shipped.scale(features, kappa, self.rough)
        if not beyond.all():
            _, features = self._features(origin, log_x[~beyond])
            parts = features.parts[:, :2]
            # A normal quantile at 90 % is 1.645; both sides together have 2 * 1.645 of scale.
            low, high = shipped.limits(self.form, 0.9)
            _, near, _ = self._local_residuals(log_x[~beyond])
            square = (parts**2).sum(axis=1) + np.maximum(near - self._usual_residual**2, 0)
            result[~beyond] = np.sqrt(square) * 2 * 1.645 / (high - low)
        return result

    # What is wrong with the curve

    @functools.cached_property
    def _diagnosis(self) -> tuple[tuple[str, ...], bool]:
        """Warning codes, and whether nothing can be forecast at all."""
        from dlcore.scaling.diagnosis import diagnose

        return diagnose(self)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Codes of :data:`dlcore.scaling.WARNINGS`."""
        return self._diagnosis[0]

    @property
    def status(self) -> str:
        """ "ok", or "undetermined" where no forecast beyond the data can be made."""
        return "undetermined" if self._diagnosis[1] else "ok"

    # Decisions

    def required(self, target: float, interval: float = 0.9) -> Requirement:
        """x that brings the error down to a target; see :func:`dlcore.scaling.decisions.required`."""
        from dlcore.scaling.decisions import required

        return required(self, target, interval)

    def plateau(self, relative_gain: float = 0.02, per: float = 2, level: float = 0.05) -> Plateau:
        """Whether more x has stopped to pay; see :func:`dlcore.scaling.decisions.plateau`."""
        from dlcore.scaling.decisions import plateau

        return plateau(self, relative_gain, per, level)

    def crossing(self, other: CurveFit, interval: float = 0.9) -> Crossing:
        """Where another curve is met; see :func:`dlcore.scaling.decisions.crossing`."""
        from dlcore.scaling.decisions import crossing

        return crossing(self, other, interval)

    def __repr__(self) -> str:
        if not self.members:
            return f"CurveFit(last value {self.curve.y[-1]:.4g})"
        shown = ", ".join(f"{name} {value:.4g}" for name, value in self.parameters.items())
        form = self.form if self.alone else f"{self.form}, leading {self.leading}"
        return f"CurveFit({form}: {shown})"
