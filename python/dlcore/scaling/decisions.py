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
from dlcore.scaling.forms import log_values
from dlcore.scaling.intervals import LARGEST_HORIZON, LARGEST_RATIO, OCTAVE, table
from dlcore.scaling.surface import FLOOR_GAIN, SurfaceAdvice

if TYPE_CHECKING:
    from dlcore.scaling.fits import CurveFit
    from dlcore.scaling.surface import SurfaceFit

Array = NDArray[np.float64]

FEWEST = 4  # points below which nothing can be forecast
FEW = 6  # points below which a warning is due
SHORT = 1.5  # octaves
RISE = 0.02  # of log y, below which a rise is not spoken of
_FAR = 40.0  # octaves beyond the data at which a curve has reached what it tends to


# What is wrong with a curve


def diagnose(fit: CurveFit) -> tuple[tuple[str, ...], bool]:
    """Find what makes forecasts of a curve doubtful.

    Parameters
    ----------
    fit : CurveFit

    Returns
    -------
    codes : tuple of str
        Of :data:`dlcore.scaling.WARNINGS`.
    hopeless : bool
        Whether nothing beyond the data can be forecast.
    """
    codes = list(fit.curve.warnings)
    hopeless = False
    n = len(fit.curve)
    if n < FEW:
        codes.append("TOO_FEW_POINTS")
        hopeless = n < FEWEST
    if fit.span < SHORT:
        codes.append("SHORT_SPAN")
    if n >= FEWEST:
        grain = 0.29 * fit.curve.resolution / float(np.median(fit.curve.positive))
        level = math.hypot(_local_noise(fit.log_x, fit.log_y), grain)
        rise, descent = _rises(fit.log_x, fit.log_y, max(RISE, 4 * level))
        if rise > 0:
            codes.append("RISING")
            hopeless = rise > 8 * level
        if descent:
            codes.append("DOUBLE_DESCENT")
            hopeless = hopeless or descent == "recent"
        place = _break(fit)
        if place is not None:
            late = place > fit.log_x[-1] - OCTAVE or (fit.log_x > place).sum() < 4
            codes.append("BREAK_AT_END" if late else "BREAK")
            hopeless = hopeless or late
        if fit.members and not _identified(fit):
            codes.append("EXPONENT_NOT_IDENTIFIED")
        ahead = np.array([fit.log_x[-1] + OCTAVE])
        _, features = fit.features(ahead)
        if features.parts[0, 1] > max(3 * features.parts[0, 0], 0.05):
            codes.append("FORMS_DISAGREE")
        if float(table().agreement(features.horizon, fit.backtests)[0]) > 3:
            codes.append("BACKTEST_FAILED")
    return tuple(dict.fromkeys(codes)), hopeless


def _local_noise(log_x: Array, log_y: Array) -> float:
    """Noise of log y from how far points lie off the line between their neighbours."""
    if len(log_x) < 3:
        return 0.0
    left = (log_x[2:] - log_x[1:-1]) / (log_x[2:] - log_x[:-2])
    off = log_y[1:-1] - left * log_y[:-2] - (1 - left) * log_y[2:]
    off /= np.sqrt(1 + left**2 + (1 - left) ** 2)
    # Early on the curve itself bends between neighbours.
    return 1.4826 * float(np.median(np.abs(off[-max(5, len(off) // 2) :])))


def _smooth(log_y: Array) -> Array:
    """Mean of three neighbours."""
    padded = np.concatenate([log_y[:1], log_y, log_y[-1:]])
    result: Array = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    return result


def _rises(log_x: Array, log_y: Array, least: float) -> tuple[float, str]:
    """How far the error has risen at the end, and whether it rose and fell before ("past", "recent").

    Rises up to ``least`` do not count.
    """
    y = _smooth(log_y) if len(log_y) >= 8 else log_y
    lowest = np.minimum.accumulate(y)
    above = y - lowest
    if float(above.max()) <= least:
        return 0.0, ""
    if float(above[-1]) > least:
        # Still above where it began: rising, unless it has turned down again.
        turned = float(above.max() - above[-1]) > least
        return (0.0, "recent") if turned else (float(above[-1]), "")
    # The last rise is over once the curve is below where it began.
    top = int(np.max(np.nonzero(above > least)[0]))
    began = lowest[top]
    after = np.nonzero(y[top:] < began)[0]
    if len(after) == 0 or log_x[-1] - log_x[top + after[0]] < 1.5 * OCTAVE:
        return 0.0, "recent"
    return 0.0, "past"


def _break(fit: CurveFit) -> float | None:
    """Log x of a break that the data show beyond doubt."""
    origin = fit.origins[0]
    if origin.count < 10:
        return None
    place = fit.names.index("bnsl")
    smooth = [i for i, name in enumerate(fit.names) if name not in ("bnsl", "exp4")]
    misfit = np.abs(origin.residuals).mean(axis=1)
    broken, best = misfit[place] + 1e-9, misfit[smooth].min() + 1e-9
    # Evidence for it, in units of log likelihood, after its two more parameters.
    if origin.count * math.log(best / broken) < 10 + 4:
        return None
    parameters = origin.parameters[place]
    change, sharp = float(parameters[3]), math.exp(float(parameters[5]))
    # A broad bend is curvature, not a break.
    if abs(change) < 0.1 or sharp > 0.35 * fit.span * OCTAVE / 4:
        return None
    return float(parameters[4])


def _covariance(fit: CurveFit, place: int) -> tuple[Array, Array]:
    """Gauss-Newton covariance of a form's parameters at robust noise, and its Jacobian."""
    origin = fit.origins[0]
    form = fit.forms[place]
    jacobian, _ = _native.curve_derivatives(
        form.native, np.ascontiguousarray(origin.parameters[place]), fit.log_x
    )
    n = origin.count
    level = 1.2533 * float(np.abs(origin.residuals[place]).mean())
    level *= math.sqrt(n / max(n - form.size, 1))
    size = np.sqrt((jacobian**2).sum(axis=0)) + 1e-12
    scaled = jacobian / size
    # A direction that the data do not see must not blow up what they do see.
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    inverse = (vectors / np.maximum(values, 1e-8)) @ vectors.T
    # 1.57 is the price of absolute values under normal noise.
    factor = 1.57 if fit.loss != "l2" else 1.0
    return factor * level**2 * inverse / np.outer(size, size), jacobian


def _identified(fit: CurveFit) -> bool:
    """Whether the exponent of the leading form is known to within its own size."""
    place = fit.names.index(fit.leading)
    form = fit.forms[place]
    covariance, _ = _covariance(fit, place)
    for index in form.exponents:
        value = abs(float(fit.origins[0].parameters[place][index]))
        if form.name != "bnsl" and math.sqrt(max(covariance[index, index], 0)) > value:
            return False
    return True


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
        low = "" if self.low is None else f", at least {self.low:.3g}"
        if self.status == "ok":
            return f"{self.value:.3g} {unit} ({self.low:.3g} to {self.high:.3g})"
        why = "; ".join(WARNINGS[code] for code in self.warnings)
        return f"undetermined{low} {unit}" + (f" ({why})" if why else "")


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
        "not reachable" where the target lies below what the curve tends to by more than the interval.

    Raises
    ------
    ValueError
        If the target is not a positive number within the bounds.
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
        end = float(later.min())
        if reached is None and not hopeless and end + below * float(scale[-1]) > goal:
            codes.append("NOT_REACHABLE")
            return Requirement(
                target, None, None, None, "not reachable", tuple(codes), fit.curve.kind
            )
        codes.append("NOT_REACHABLE" if reached is None else "BEYOND_HORIZON")
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
        covariance, _ = _covariance(fit, place)
        slopes, _ = _native.curve_derivatives(form.native, parameters, ends)
        direction = slopes[0] - slopes[1]
        fall = float(np.clip(values[0] - values[1], -5, 5))
        mean += share[place] * fall
        own = float(direction @ covariance @ direction)
        square += share[place] * (min(max(own, 0.0), 25.0) + fall**2)
    variance = max(square - mean**2, 0.0)
    if fit.curve.se is not None:
        # The residuals of few points may be small by luck; their standard errors are not.
        relative = float(np.median(fit.curve.se[-4:] / fit.curve.positive[-4:]))
        near = (fit.log_x > ends[0] - math.log(per)).sum()
        variance = max(variance, (0.5 * relative) ** 2 / max(int(near), 1))
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
        "first" or "second", the one whose error is smaller.
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


# Data or size

_DRAWS = 300  # of each view of a surface
_STEP = 1e-4  # of a numerical derivative, in logarithms


def advise(
    fit: SurfaceFit,
    m: float,
    parameters: float,
    cost_example: float,
    cost_parameter: float,
    confidence: float = 0.9,
) -> SurfaceAdvice:
    """Compare what a unit of cost gains in examples and in parameters.

    The surface is looked at in three ways: as fitted, by the other form, and as fitted with the runs
    near the question counting most. Each is resampled; the answer is given where they agree.

    Parameters
    ----------
    fit : SurfaceFit
    m, parameters : float
        Where one is now.
    cost_example, cost_parameter : float
        Price of one more example and of one more parameter, in any common unit.
    confidence : float, default 0.9
        Probability needed for an answer.

    Returns
    -------
    SurfaceAdvice

    Raises
    ------
    ValueError
        If an argument is not positive, or ``confidence`` not above 0.5 and below 1.
    """
    for name, value in (
        ("m", m),
        ("parameters", parameters),
        ("cost_example", cost_example),
        ("cost_parameter", cost_parameter),
    ):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"advise: {name} needs a positive number, found {value!r}")
    if not 0.5 < confidence < 1:
        raise ValueError(
            f"advise: confidence needs a share between 0.5 and 1, found {confidence!r}"
        )
    log_m, log_n = math.log(m), math.log(parameters)
    prices = math.log(parameters * cost_parameter) - math.log(m * cost_example)
    views = fit.views(log_m, log_n, _DRAWS)
    own = _Marginal.of(fit, fit.vector, log_m, log_n)
    ratios, remains, loss_draws = [], [], []
    sides = []
    for view, draws in views:
        point = _Marginal.of(view, view.vector, log_m, log_n)
        sides.append(float(point.log_ratio[0]) + prices > 0)
        drawn = _Marginal.of(view, draws, log_m, log_n)
        ratios.append(drawn.log_ratio + prices)
        remains.append(drawn.remaining)
        loss_draws.append((view, draws))
    ratio = np.concatenate(ratios)
    remaining = np.concatenate(remains)
    probability = float(np.mean([np.mean(part > 0) for part in ratios]))
    low, high = (float(v) for v in np.percentile(ratio, [5, 95]))
    least, most = (float(v) for v in np.percentile(remaining, [5, 95]))
    codes = list(fit.warnings)
    agree = len(set(sides)) == 1
    if fit.misfit():
        # No smooth law holds here; the runs next to the question must say the same.
        slopes, covariance = fit.slopes(log_m, log_n)
        direction = np.array([math.exp(prices), -1.0])
        better = -float(direction @ slopes)
        spread = math.sqrt(max(float(direction @ covariance @ direction), 1e-30))
        agree = agree and (better > 0) == sides[0] and abs(better) > 1.645 * spread
    if not agree:
        codes.append("LOCAL_DISAGREEMENT")
    reach = math.log(16)
    for value, known in ((log_m, fit.surface.examples), (log_n, fit.surface.parameters)):
        if not math.log(known.min()) - reach <= value <= math.log(known.max()) + reach:
            codes.append("FAR_EXTRAPOLATION")
    if "FAR_EXTRAPOLATION" in codes:
        answer = "undecided"
    elif most < FLOOR_GAIN:
        answer = "at_floor"
    elif agree and probability >= confidence:
        answer = "more_data"
    elif agree and probability <= 1 - confidence:
        answer = "larger_network"
    else:
        answer = "undecided"
    value = math.exp(float(own.log_loss[0]))
    return SurfaceAdvice(
        answer,
        gain_data=value * float(own.by_data[0]) / (m * cost_example),
        gain_parameters=value * float(own.by_size[0]) / (parameters * cost_parameter),
        log_ratio=(float(own.log_ratio[0]) + prices, low, high),
        probability=probability,
        remaining=(float(own.remaining[0]), least, most),
        next_run=_most_telling(loss_draws, ratios, log_m, log_n),
        warnings=tuple(dict.fromkeys(codes)),
    )


@dataclass(frozen=True, eq=False)
class _Marginal:
    """Elasticities of the loss at a point, one per row of vectors."""

    log_loss: Array
    by_data: Array  # -dlog L / dlog m
    by_size: Array
    remaining: Array  # relative fall for twice of both

    @classmethod
    def of(cls, fit: SurfaceFit, vectors: Array, log_m: float, log_n: float) -> _Marginal:
        sizes = np.array([log_n, log_n, log_n, log_n + _STEP, log_n - _STEP, log_n + OCTAVE])
        data = np.array([log_m, log_m + _STEP, log_m - _STEP, log_m, log_m, log_m + OCTAVE])
        v = fit.log_loss(vectors, sizes, data)
        return cls(
            v[:, 0],
            np.maximum((v[:, 2] - v[:, 1]) / (2 * _STEP), 1e-9),
            np.maximum((v[:, 4] - v[:, 3]) / (2 * _STEP), 1e-9),
            -np.expm1(v[:, 5] - v[:, 0]),
        )

    @property
    def log_ratio(self) -> Array:
        """Of the elasticities."""
        result: Array = np.log(self.by_data) - np.log(self.by_size)
        return result


def _most_telling(
    draws: list[tuple[SurfaceFit, Array]], ratios: list[Array], log_m: float, log_n: float
) -> tuple[float, float]:
    """The next run whose loss says most about which is the better buy."""
    ratio = np.concatenate(ratios)
    best, choice = -1.0, (log_m, log_n)
    for more_m, more_n in ((OCTAVE, 0.0), (0.0, OCTAVE), (OCTAVE, OCTAVE)):
        at = np.array([log_n + more_n]), np.array([log_m + more_m])
        losses = np.concatenate([view.log_loss(vectors, *at)[:, 0] for view, vectors in draws])
        spread = float(losses.var()) + draws[0][0].noise ** 2
        told = float(np.mean((losses - losses.mean()) * (ratio - ratio.mean()))) ** 2 / spread
        if told > best:
            best, choice = told, (log_m + more_m, log_n + more_n)
    return math.exp(choice[0]), math.exp(choice[1])
