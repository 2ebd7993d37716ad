"""Decisions from fitted curves: how much is needed, whether more pays, which learner to take.

Every answer may be "undetermined", with the reason as a code of :data:`dlcore.scaling.WARNINGS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dlcore._core import curves as _native
from dlcore.scaling.curves import UNITS, WARNINGS
from dlcore.scaling.diagnosis import FEWEST, covariance
from dlcore.scaling.forms import log_values
from dlcore.scaling.intervals import LARGEST_HORIZON, LARGEST_RATIO, OCTAVE, table

if TYPE_CHECKING:
    from dlcore.scaling.fits import CurveFit

Array = NDArray[np.float64]

_FAR = 40.0  # octaves beyond the data at which a curve has reached what it tends to


# How much is needed


@dataclass(frozen=True)
class Requirement:
    """Answer to "how much x for this error?".

    Attributes
    ----------
    target : float
    value : float or None
        The x at which the forecast meets the target; None where it never does.
    low, high : float or None
        Interval; None where that edge lies beyond what can be forecast.
    status : str
        "ok", "undetermined" or "not reachable".
    warnings : tuple of str
    kind : str
        What x is.
    """

    target: float
    value: float | None
    low: float | None
    high: float | None
    status: str
    warnings: tuple[str, ...]
    kind: str

    def __str__(self) -> str:
        unit = UNITS[self.kind]
        if self.status == "not reachable":
            return f"an error of {self.target:.4g} is not reachable: below the floor"
        low = "" if self.low is None or self.low < 1 else f", at least {self.low:.3g} {unit}"
        if self.status == "ok":
            return f"{self.value:.3g} {unit} ({self.low:.3g} to {self.high:.3g})"
        why = "; ".join(WARNINGS[code] for code in self.warnings)
        return f"undetermined{low}" + (f" ({why})" if why else "")


def required(fit: CurveFit, target: float, interval: float = 0.9) -> Requirement:
    """x that brings the error down to a target.

    Parameters
    ----------
    fit : CurveFit
    target : float
        Error to reach, within the curve's bounds.
    interval : float, default 0.9

    Returns
    -------
    Requirement
        "not reachable" where the target lies below what the curve tends to: below the interval as far
        as forecasts are trusted, and below the floors, with their errors, of the forms that fit.

    Raises
    ------
    ValueError
        If the target is not a positive number within the bounds.

    Examples
    --------
    >>> from dlcore.scaling import LearningCurve, fit
    >>> x = [100 * 2**j for j in range(9)]
    >>> found = fit(LearningCurve(x, [0.05 + 2 * m**-0.5 for m in x], bounds=(0, 1)))
    >>> need = required(found, 0.06)  # truly 40,000
    >>> need.status, round(need.value, -4), need.low < 40000 < need.high
    ('ok', 40000.0, True)
    >>> print(required(found, 0.01))
    an error of 0.01 is not reachable: below the floor
    """
    low_bound, high_bound = fit.curve.bounds
    if not (math.isfinite(target) and target > 0 and low_bound <= target <= high_bound):
        raise ValueError(
            f"required: target needs a positive number in {low_bound:g}..{high_bound:g}, "
            f"found {target!r}"
        )
    trusted = min(LARGEST_HORIZON, LARGEST_RATIO * fit.span) * OCTAVE
    last = fit.log_x[-1]
    inside = np.linspace(fit.log_x[0], last, 200)
    beyond = last + np.linspace(1e-6, trusted, 300)
    log_x = np.concatenate([inside, beyond])
    shipped = table()
    below, above = shipped.limits(fit.form, interval)
    value, scale = fit.log_forecast(log_x), fit.log_scale(log_x, shipped)
    half = np.where(log_x > last, 0.0, 0.5 * (above - below))
    lower = value + np.where(log_x > last, below, -half) * scale
    upper = value + np.where(log_x > last, above, half) * scale
    goal = math.log(target)
    reached = _first_below(log_x, value, goal)
    earliest = _first_below(log_x, lower, goal)
    latest = _first_below(log_x, upper, goal)
    codes, hopeless = list(fit.warnings), fit.status != "ok"
    if reached is None:
        far = last + np.linspace(trusted, _FAR * OCTAVE, 400)
        later = fit.log_forecast(far)
        reached = _first_below(far, later, goal)
        end = float(later.min()) + below * float(scale[-1])
        if not hopeless and end > goal and _above_for_ever(fit, goal) >= (1 + interval) / 2:
            codes.append("NOT_REACHABLE")
            return Requirement(
                target, None, None, None, "not reachable", tuple(codes), fit.curve.kind
            )
        codes.append("BEYOND_HORIZON")
        hopeless = True
    elif latest is None:
        codes.append("BEYOND_HORIZON")
    if reached is not None and reached <= last and latest is not None and latest <= last:
        hopeless = False  # the data themselves show it
    ok = not hopeless and reached is not None and latest is not None and earliest is not None

    def plain(value: float | None) -> float | None:
        return None if value is None else math.exp(min(value, 690.0))

    return Requirement(
        target,
        plain(reached),
        plain(earliest),
        plain(latest),
        "ok" if ok else "undetermined",
        tuple(dict.fromkeys(codes)),
        fit.curve.kind,
    )


def _above_for_ever(fit: CurveFit, goal: float) -> float:
    """Share of the forms, by their evidence, whose floor lies above the goal, with its error."""
    origin = fit.origins[0]
    share = np.sqrt(origin.weights)
    share /= share.sum()
    far = fit.log_x[-1:] + _FAR * OCTAVE
    total = 0.0
    for place, form in enumerate(fit.forms):
        if share[place] < 1e-3:
            continue
        parameters = np.ascontiguousarray(origin.parameters[place])
        value = float(log_values(form.native, parameters, far)[0, 0])
        spread, _ = covariance(fit, place)
        slope = _native.curve_derivatives(form.native, parameters, far)[0][0]
        error = math.sqrt(max(float(slope @ spread @ slope), 0.0) + 1e-12)
        total += float(share[place]) * NormalDist().cdf(max(min((value - goal) / error, 8), -8))
    return total


def _first_below(log_x: Array, values: Array, goal: float) -> float | None:
    """Where values first come down to the goal for good or for a while."""
    hits = np.nonzero(values <= goal)[0]
    if len(hits) == 0:
        return None
    i = int(hits[0])
    if i == 0:
        return float(log_x[0])
    drop = values[i - 1] - values[i]
    share = (values[i - 1] - goal) / drop if drop > 0 else 1.0
    return float(log_x[i - 1] + share * (log_x[i] - log_x[i - 1]))


# Whether more pays


@dataclass(frozen=True)
class Plateau:
    """Answer to "has more x stopped to pay?".

    Attributes
    ----------
    flat : bool or None
        True: the gain is shown to be below the one that matters. False: it is shown to be above. None:
        neither.
    gain : float
        Relative fall of the error over the last factor ``per`` of x.
    low, high : float
        Limits of the gain, each one-sided at ``level``.
    relative_gain, per, level : float
        What was asked.
    status : str
        "ok", or "undetermined" where ``flat`` is None.
    warnings : tuple of str
    """

    flat: bool | None
    gain: float
    low: float
    high: float
    relative_gain: float
    per: float
    level: float
    status: str
    warnings: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.flat is True

    def __str__(self) -> str:
        said = {True: "flat", False: "still falling", None: "undetermined"}[self.flat]
        return (
            f"{said}: {100 * self.gain:.1f} % less error over the last factor {self.per:g} "
            f"({100 * self.low:.1f} % to {100 * self.high:.1f} %; {100 * self.relative_gain:g} % matters)"
        )


def plateau(
    fit: CurveFit, relative_gain: float = 0.02, per: float = 2, level: float = 0.05
) -> Plateau:
    """Test whether the last factor of x gained less than what matters.

    An equivalence test: a curve is flat only if the data show that the gain is small, not if they
    fail to show that it is large. The gain is that of the forms' weighted mean, its variance that
    within and between the forms, enlarged by a factor calibrated on simulated curves.

    Parameters
    ----------
    fit : CurveFit
    relative_gain : float, default 0.02
        The smallest relative fall of the error that matters.
    per : float, default 2
        Factor of x over which it is measured, above 1.
    level : float, default 0.05
        Largest share of false alarms.

    Returns
    -------
    Plateau

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> from dlcore.scaling import LearningCurve, fit
    >>> x = [100 * 2**j for j in range(9)]
    >>> plateau(fit(LearningCurve(x, [0.2 + 30 / m for m in x]))).flat
    True
    >>> plateau(fit(LearningCurve(x, [3 * m**-0.3 for m in x]))).flat
    False
    """
    if not 0 < relative_gain < 1:
        raise ValueError(
            f"plateau: relative_gain needs a share between 0 and 1, found {relative_gain}"
        )
    if not (math.isfinite(per) and per > 1):
        raise ValueError(f"plateau: per needs a factor above 1, found {per}")
    if not 0 < level < 0.5:
        raise ValueError(f"plateau: level needs a share between 0 and 0.5, found {level}")
    gain, error = log_gain(fit, per)
    reach = NormalDist().inv_cdf(1 - level) * error
    shipped = table().plateau
    low, high = gain - shipped["low"] * reach, gain + shipped["high"] * reach
    enough = -math.log1p(-relative_gain)
    codes = [code for code in fit.warnings if code != "EXPONENT_NOT_IDENTIFIED"]
    flat: bool | None = None
    if len(fit.curve) >= FEWEST and math.log(per) <= fit.span * OCTAVE:
        if high < enough:
            flat = True
        elif low > enough:
            flat = False
    else:
        codes.append("TOO_FEW_POINTS" if len(fit.curve) < FEWEST else "SHORT_SPAN")
    return Plateau(
        flat,
        -math.expm1(-gain),
        -math.expm1(-low),
        -math.expm1(-high),
        relative_gain,
        per,
        level,
        "undetermined" if flat is None else "ok",
        tuple(dict.fromkeys(codes)),
    )


def log_gain(fit: CurveFit, per: float) -> tuple[float, float]:
    """Fall of log y over the last factor ``per``, and its standard error before calibration."""
    ends = np.array([fit.log_x[-1] - math.log(per), fit.log_x[-1]])
    origin = fit.origins[0]
    share = np.sqrt(origin.weights)
    share /= share.sum()
    mean, square = 0.0, 0.0
    for place, form in enumerate(fit.forms):
        if share[place] < 1e-3:
            continue
        parameters = np.ascontiguousarray(origin.parameters[place])
        values = log_values(form.native, parameters, ends)[0]
        spread, _ = covariance(fit, place)
        slopes, _ = _native.curve_derivatives(form.native, parameters, ends)
        direction = slopes[0] - slopes[1]
        fall = float(np.clip(values[0] - values[1], -5, 5))
        mean += share[place] * fall
        own = float(direction @ spread @ direction)
        square += share[place] * (min(max(own, 0.0), 25.0) + fall**2)
    variance = max(square - mean**2, 0.0)
    if fit.curve.se is not None:
        # The residuals of few points may be small by luck; their standard errors are not.
        relative = float(np.median(fit.curve.se[-4:] / fit.curve.positive[-4:]))
        near = (fit.log_x > ends[0] - math.log(per)).sum()
        variance = max(variance, min(0.5 * relative, 5.0) ** 2 / max(int(near), 1))
    return mean, math.sqrt(variance + 1e-12)


# Which learner


@dataclass(frozen=True)
class Crossing:
    """Where two curves meet.

    Attributes
    ----------
    exists : bool or None
        None where it cannot be told.
    value, low, high : float or None
        The x where they meet, and its interval; None where an edge lies outside what can be forecast.
    status : str
        "ok" or "undetermined".
    warnings : tuple of str
    better_before, better_after : str
        "first" or "second", the one whose error is smaller just before and from then on.
    """

    exists: bool | None
    value: float | None
    low: float | None
    high: float | None
    status: str
    warnings: tuple[str, ...]
    better_before: str
    better_after: str


def crossing(first: CurveFit, second: CurveFit, interval: float = 0.9) -> Crossing:
    """Find where two curves cross, the last time if they do so often.

    Parameters
    ----------
    first, second : CurveFit
        Over the same kind of x.
    interval : float, default 0.9

    Returns
    -------
    Crossing

    Raises
    ------
    ValueError
        If the curves are not over the same kind of x, or share no range.

    Examples
    --------
    >>> from dlcore.scaling import LearningCurve, fit
    >>> x = [100 * 2**j for j in range(9)]
    >>> simple = fit(LearningCurve(x, [0.2 + 2 / m for m in x]))
    >>> network = fit(LearningCurve(x, [0.1 + 4 * m**-0.5 for m in x]))
    >>> found = crossing(simple, network)  # truly near 1,570
    >>> found.exists, found.better_after, 1500 < found.value < 1650
    (True, 'second', True)
    """
    if first.curve.kind != second.curve.kind:
        raise ValueError(
            f"crossing: both curves need the same kind of x, found {first.curve.kind} and "
            f"{second.curve.kind}"
        )
    shipped = table()
    begin = max(first.log_x[0], second.log_x[0])
    end = min(
        fit.log_x[-1] + min(LARGEST_HORIZON, LARGEST_RATIO * fit.span) * OCTAVE
        for fit in (first, second)
    )
    if begin >= end:
        raise ValueError("crossing: the curves share no range of x")
    log_x = np.linspace(begin, end, 600)
    gap = first.log_forecast(log_x) - second.log_forecast(log_x)
    reach = np.zeros_like(gap)
    for fit in (first, second):
        below, above = shipped.limits(fit.form, interval)
        reach += (0.5 * (above - below) * fit.log_scale(log_x, shipped)) ** 2
    reach = np.sqrt(reach)
    codes = tuple(dict.fromkeys([*first.warnings, *second.warnings]))
    hopeless = first.status != "ok" or second.status != "ok"
    before = "first" if gap[0] < 0 else "second"
    after = "first" if gap[-1] < 0 else "second"
    signs = np.nonzero(np.sign(gap[1:]) * np.sign(gap[:-1]) < 0)[0]
    sure = np.abs(gap) > reach
    if len(signs) == 0:
        told = bool(sure[-1]) and not hopeless
        return Crossing(
            False if told else None,
            None,
            None,
            None,
            "ok" if told else "undetermined",
            (*codes, "NO_CROSSING"),
            before,
            after,
        )
    i = int(signs[-1])
    before = "first" if gap[i] < 0 else "second"
    at = log_x[i] + gap[i] / (gap[i] - gap[i + 1]) * (log_x[i + 1] - log_x[i])
    left = np.nonzero(sure[: i + 1])[0]
    right = np.nonzero(sure[i + 1 :])[0]
    low = math.exp(log_x[left[-1]]) if len(left) else None
    high = math.exp(log_x[i + 1 + right[0]]) if len(right) else None
    known = min(first.log_x[-1], second.log_x[-1])
    inside = high is not None and math.log(high) <= known
    ok = low is not None and high is not None and (inside or not hopeless)
    return Crossing(
        True if ok else None,
        math.exp(at),
        low,
        high,
        "ok" if ok else "undetermined",
        codes,
        before,
        after,
    )


@dataclass(frozen=True)
class Choice:
    """Which learner to take at some x.

    Attributes
    ----------
    x : float
    best : str
        The one with the smallest forecast.
    cheapest : str
        The cheapest that is within ``delta`` of the best.
    delta : float
    excess : dict of str to (value, low, high)
        Error above that of the best.
    status : str
        "undetermined" where a cheaper one may or may not be within delta.
    warnings : tuple of str
    """

    x: float
    best: str
    cheapest: str
    delta: float
    excess: dict[str, tuple[float, float, float]]
    status: str
    warnings: tuple[str, ...]


def cheapest(
    fits: Mapping[str, CurveFit],
    x: float | None = None,
    delta: float = 0.01,
    interval: float = 0.9,
) -> Choice:
    """Find the cheapest learner that is within ``delta`` of the best: is a network worth it?

    Parameters
    ----------
    fits : mapping of str to CurveFit
        The cheapest first.
    x : float, optional
        Where to compare, now or projected; by default the largest x that all were measured at.
    delta : float, default 0.01
        Error that does not matter.
    interval : float, default 0.9

    Returns
    -------
    Choice

    Raises
    ------
    ValueError
        If there is no fit.

    Examples
    --------
    >>> from dlcore.scaling import LearningCurve, fit
    >>> x = [100 * 2**j for j in range(9)]
    >>> simple = fit(LearningCurve(x, [0.2 + 2 / m for m in x]))
    >>> network = fit(LearningCurve(x, [0.1 + 4 * m**-0.5 for m in x]))
    >>> for m in (1600, 51200):
    ...     choice = cheapest({"simple": simple, "network": network}, m, delta=0.01)
    ...     print(choice.cheapest, choice.status)
    simple ok
    network ok
    """
    if not fits:
        raise ValueError("cheapest: fits needs at least one fit")
    at = float(min(fit.curve.x[-1] for fit in fits.values()) if x is None else x)
    shown = {name: fit.predict([at], interval) for name, fit in fits.items()}
    best = min(shown, key=lambda name: float(shown[name].value[0]))
    top = shown[best]
    excess = {}
    for name, forecast in shown.items():
        value = float(forecast.value[0] - top.value[0])
        down = math.hypot(forecast.value[0] - forecast.low[0], top.high[0] - top.value[0])
        up = math.hypot(forecast.high[0] - forecast.value[0], top.value[0] - top.low[0])
        excess[name] = (value, value - down, value + up) if name != best else (0.0, 0.0, 0.0)
    found = next(name for name in fits if excess[name][0] <= delta)
    undecided = excess[found][2] > delta and found != best
    for name in fits:
        if name == found:
            break
        undecided = undecided or excess[name][1] <= delta
    undecided = undecided or any(forecast.status != "ok" for forecast in shown.values())
    codes = [code for forecast in shown.values() for code in forecast.warnings]
    return Choice(
        at,
        best,
        found,
        delta,
        excess,
        "undetermined" if undecided else "ok",
        tuple(dict.fromkeys(codes)),
    )
