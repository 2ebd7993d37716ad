"""Bootstrap of a curve's fit: by cases, by residuals, or by clusters of seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlcore.scaling.curves import LearningCurve
from dlcore.scaling.forms import STRIDE, Form, Problem, fit_problems, log_values

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CurveBootstrap:
    """Parameters refitted to resamples.

    Attributes
    ----------
    parameters : dict of str to array
    kind : str
        "cases", "residuals" or "seeds".
    """

    parameters: dict[str, Array]
    kind: str

    @property
    def standard_errors(self) -> dict[str, float]:
        """Standard deviations."""
        return {name: float(values.std(ddof=1)) for name, values in self.parameters.items()}

    def interval(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Percentile intervals."""
        tail = 50 * (1 - level)
        return {
            name: (float(np.percentile(values, tail)), float(np.percentile(values, 100 - tail)))
            for name, values in self.parameters.items()
        }


def resample(
    curve: LearningCurve,
    problem: Problem,
    form: Form,
    parameters: Array,
    loss: str,
    delta: float,
    resamples: int,
    seed: int,
    kind: str,
    threads: int,
) -> CurveBootstrap:
    """Refit a form to resamples of a curve; see :meth:`dlcore.scaling.CurveFit.bootstrap`.

    Parameters
    ----------
    curve : LearningCurve
    problem : Problem
        What was fitted: every resample keeps how much each point counts.
    form : Form
    parameters : array, (STRIDE,)
        The point estimate, where every refit starts.
    loss, delta, resamples, seed, kind, threads
        As in ``CurveFit.bootstrap`` and ``fit``.

    Returns
    -------
    CurveBootstrap
    """
    if resamples < 2:
        raise ValueError(f"bootstrap: resamples needs at least 2, found {resamples}")
    n = len(curve)
    if kind == "auto":
        if curve.counts.min() >= 3:
            kind = "seeds"
        else:
            kind = "cases" if n >= 4 * form.size else "residuals"
    generator = np.random.default_rng(seed)
    log_x, log_y, scale, ones = problem.log_x, problem.log_y, problem.scale, problem.weight
    problems = []
    if kind == "cases":
        for _ in range(resamples):
            counts = np.bincount(generator.integers(0, n, n), minlength=n)
            kept = counts > 0
            problems.append(
                Problem(log_x[kept], log_y[kept], scale[kept], counts[kept].astype(float))
            )
    elif kind == "residuals":
        fitted = log_values(form.native, parameters, log_x)[0]
        # Scaled residuals are alike at every point, and drawn ones are scaled back where they land.
        residuals = scale * (log_y - fitted) * math.sqrt(n / max(n - form.size, 1))
        for _ in range(resamples):
            drawn = residuals[generator.integers(0, n, n)] / scale
            problems.append(Problem(log_x, fitted + drawn, scale, ones))
    elif kind == "seeds":
        if curve.counts.min() < 2:
            raise ValueError("bootstrap: kind 'seeds' needs at least two values at every x")
        groups = np.split(curve.raw[:, 1], np.cumsum(curve.counts)[:-1])
        for _ in range(resamples):
            means = np.array([generator.choice(group, len(group)).mean() for group in groups])
            means = np.maximum(means, curve.positive.min())
            problems.append(Problem(log_x, np.log(means), scale, ones))
    else:
        raise ValueError(f"bootstrap: kind needs auto, cases, residuals or seeds, found {kind!r}")
    warm = np.broadcast_to(parameters, (1, resamples, STRIDE))
    found, _ = fit_problems([form.native], problems, loss, delta, 0, warm, threads)
    published = [form.publish(row) for row in found[0]]
    return CurveBootstrap(
        {name: np.array([row[name] for row in published]) for name in published[0]}, kind
    )
