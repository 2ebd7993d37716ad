"""What makes forecasts of a curve doubtful."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dlcore._core import curves as _native
from dlcore.scaling.intervals import OCTAVE, table

if TYPE_CHECKING:
    from dlcore.scaling.fits import CurveFit

Array = NDArray[np.float64]

FEWEST = 4  # points below which nothing can be forecast
FEW = 6  # points below which a warning is due
SHORT = 1.5  # octaves
RISE = 0.02  # of log y, below which a rise is not spoken of


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


def covariance(fit: CurveFit, place: int) -> tuple[Array, Array]:
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
    spread, _ = covariance(fit, place)
    for index in form.exponents:
        value = abs(float(fit.origins[0].parameters[place][index]))
        if form.name != "bnsl" and math.sqrt(max(spread[index, index], 0)) > value:
            return False
    return True
