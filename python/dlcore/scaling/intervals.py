"""How far a forecast may be off: the scale of its error, from a table shipped with the package.

A naive bootstrap interval knows the noise of the points but not that the form is wrong. Here the
scale of the error of log y at a new x is

    s0^2 = sum_j w_j f_j^2 * (horizon / span)^(2 a) * (n / 15)^(2 b),

f_j the noise of the points, the disagreement of forms that fit about equally well, how far the
forecast moves from the last value, and how far the present slope would carry it. The curve then
corrects it: earlier parts of it forecast its later points (rolling origins), and the root mean square
kappa of those errors over their own s0 gives

    s = s0 * kappa^c * min(kappa, 1)^d * exp(e * r),

r the autocorrelation of the residuals. The weights, the exponents and the quantiles of error / s are
in ``intervals.json``, made by ``benchmarks/scaling/calibrate.py`` from public and simulated curves;
coverage is measured on curves and families that were kept out.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

OCTAVE = math.log(2.0)
# Beyond this many times the span of the data, or octaves, no back-test was ever made.
LARGEST_RATIO = 1.0
LARGEST_HORIZON = 5.0
_WIDTH = (
    1.0  # of the window, in log of the ratio of horizons, in which back-tests count for a horizon
)
_WORST = 100.0  # largest square of a back-test's error over its scale that counts


@dataclass(frozen=True, eq=False)
class Features:
    """What the scale of a forecast's errors is computed from; one row per x.

    Attributes
    ----------
    parts : array, (k, 4)
        Noise, disagreement of the forms, move from the last value, slope times horizon; all of log y.
    horizon : array, (k,)
        Octaves beyond the last point, above zero.
    span : float
        Octaves that the points span.
    points : int
    """

    parts: Array
    horizon: Array
    span: float
    points: int


@dataclass(frozen=True, eq=False)
class Backtest:
    """Errors of log y that an earlier part of the curve made on its later points."""

    features: Features
    errors: Array


@dataclass(frozen=True)
class Table:
    """The shipped calibration.

    Attributes
    ----------
    base : tuple of float
        Logarithms of the four weights, a, b.
    correction : tuple of float
        Constant, c, d, e.
    quantiles : dict
        Form -> nominal level -> (low, high) quantiles of error over scale.
    coverage : dict
        Form -> nominal level -> share of held-out measurements inside.
    plateau : dict
        Factors of the equivalence test's standard error.
    measured : list
        What was measured, for reports.
    """

    base: tuple[float, ...]
    correction: tuple[float, ...]
    quantiles: dict[str, dict[str, tuple[float, float]]]
    coverage: dict[str, dict[str, float]]
    plateau: dict[str, float]
    measured: list[dict[str, Any]]

    @classmethod
    def from_json(cls, text: str) -> Table:
        """Read what :meth:`to_json` wrote."""
        data = json.loads(text)
        return cls(
            tuple(data["base"]),
            tuple(data["correction"]),
            {
                form: {level: (pair[0], pair[1]) for level, pair in levels.items()}
                for form, levels in data["quantiles"].items()
            },
            data["coverage"],
            data["plateau"],
            data["measured"],
        )

    def to_json(self) -> str:
        """The table as text."""
        return json.dumps(vars(self), indent=1) + "\n"

    def base_scale(self, features: Features) -> Array:
        """s0 of each x."""
        weights = np.exp(np.array(self.base[:4]))
        square = features.parts**2 @ weights
        reach = self.base[4] * np.log(features.horizon / features.span)
        result: Array = np.sqrt(square) * np.exp(
            reach + self.base[5] * math.log(features.points / 15)
        )
        return result

    def agreement(self, horizon: Array, backtests: Sequence[Backtest]) -> Array:
        """Kappa for each horizon: back-tests at like horizons count most, and one is a prior."""
        total = np.ones_like(horizon)
        weight = np.ones_like(horizon)
        for test in backtests:
            square = np.minimum((test.errors / self.base_scale(test.features)) ** 2, _WORST)
            ratio = np.log(horizon[:, None] / test.features.horizon[None, :]) / _WIDTH
            near = np.exp(-0.5 * ratio**2) / len(test.errors)
            total += near @ square
            weight += near.sum(axis=1)
        result: Array = np.sqrt(total / weight)
        return result

    def scale(self, features: Features, kappa: Array, roughness: float) -> Array:
        """s of each x."""
        constant, slope, below, rough = self.correction
        log_kappa = np.log(kappa)
        result: Array = self.base_scale(features) * np.exp(
            constant + slope * log_kappa + below * np.minimum(log_kappa, 0) + rough * roughness
        )
        return result

    def limits(self, form: str, level: float) -> tuple[float, float]:
        """Quantiles of error over scale for a nominal level, between those of the table."""
        levels = self.quantiles.get(form, self.quantiles["auto"])
        at = np.array([_score(float(key)) for key in levels])
        low = np.array([pair[0] for pair in levels.values()])
        high = np.array([pair[1] for pair in levels.values()])
        where = _score(level)
        # Beyond the levels measured: in proportion, from the middle of the nearest.
        edge = min(max(where, at[0]), at[-1])
        middle = float(np.interp(edge, at, 0.5 * (low + high)))
        half = float(np.interp(edge, at, 0.5 * (high - low))) * where / edge
        return middle - half, middle + half

    def covered(self, form: str, level: float) -> float:
        """Measured coverage at a nominal level."""
        levels = self.coverage.get(form, self.coverage["auto"])
        nominal = np.array([float(key) for key in levels])
        return float(np.interp(level, [0.0, *nominal, 1.0], [0.0, *levels.values(), 1.0]))


def _score(level: float) -> float:
    """Where a central share lies on a scale on which the tails of most distributions are straight."""
    return math.log((1 + level) / (1 - level))


@functools.cache
def table() -> Table:
    """The calibration shipped with the package."""
    return Table.from_json(
        resources.files("dlcore.scaling").joinpath("intervals.json").read_text(encoding="utf-8")
    )


def roughness(residuals: Array) -> float:
    """Autocorrelation of neighbouring residuals, drawn to zero where there are few."""
    centred = residuals - residuals.mean()
    total = float(centred @ centred)
    if total <= 0 or len(centred) < 3:
        return 0.0
    return float(centred[1:] @ centred[:-1]) / total * len(centred) / (len(centred) + 8)


def noise(residuals: Array) -> float:
    """Standard deviation of the points' own noise, from the residuals of the later half."""
    n = len(residuals)
    later = np.abs(residuals[-max(3, n // 2) :])
    return 1.2533 * float(later.mean()) * math.sqrt(n / max(n - 4, 1)) + 1e-6


def recent_slope(log_x: Array, log_y: Array) -> float:
    """Steepness of log y per octave at the end of the data."""
    octaves = log_x / OCTAVE
    if len(octaves) < 2:
        return 0.0
    reach = max(1.0, 0.25 * (octaves[-1] - octaves[0]))
    count = int((octaves > octaves[-1] - reach).sum())
    if count < 3:
        return float(abs((log_y[-1] - log_y[-2]) / (octaves[-1] - octaves[-2])))
    t, y = octaves[-count:], log_y[-count:]
    centred = t - t.mean()
    return float(abs(centred @ (y - y.mean())) / (centred @ centred))
