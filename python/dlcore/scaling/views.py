"""Other ways to see a loss surface than by its fit, to check advice against."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dlcore.scaling.surface import SURFACE_FORMS, SurfaceFit

Array = NDArray[np.float64]


def views(
    fit: SurfaceFit, log_examples: float, log_parameters: float, draws: int
) -> list[tuple[SurfaceFit, Array]]:
    """Other ways to see the surface near a point, each with resampled vectors.

    Parameters
    ----------
    fit : SurfaceFit
    log_examples, log_parameters : float
        Logarithms of the point's coordinates.
    draws : int
        Resamples of each.

    Returns
    -------
    list of (SurfaceFit, array)
        As fitted, by the other form, and with the runs near the point counting most.
    """
    n = len(fit.surface)
    x, y = np.log(fit.surface.parameters), np.log(fit.surface.examples)
    cells = np.unique(np.column_stack([x, y]), axis=0, return_inverse=True)[1].ravel()
    generator = np.random.default_rng(0)
    count = int(cells.max()) + 1
    # Within a cell seeds are drawn again; cells too where there are enough of them.
    weights = np.zeros((draws, n))
    for row in weights:
        chosen = generator.integers(0, count, count)
        np.add.at(row, np.arange(n), np.bincount(chosen, minlength=count)[cells].astype(float))
    away = ((x - log_parameters) / max(0.6 * float(np.ptp(x)), 0.5)) ** 2
    away += ((y - log_examples) / max(0.6 * float(np.ptp(y)), 0.5)) ** 2
    near = np.exp(-0.5 * (away - away.min()))
    other = "rosenfeld" if fit.form == "chinchilla" else "chinchilla"
    found = [(fit, fit.refit(weights).vectors)]
    for form, focus in ((other, np.ones(n)), (fit.form, near)):
        if n < len(SURFACE_FORMS[form]) + 1:
            continue
        problem = replace(fit.problem, form=form)
        view = SurfaceFit(problem, *problem.best(focus))
        found.append((view, view.refit(weights * focus).vectors))
    return found


def misfit(fit: SurfaceFit) -> bool:
    """Whether means of repeated runs lie further off than their spread explains (F test, 0.1 %)."""
    cells = np.unique(
        np.column_stack([fit.surface.parameters, fit.surface.examples]),
        axis=0,
        return_inverse=True,
    )[1].ravel()
    counts = np.bincount(cells)
    within = int((counts - 1).sum())
    between = len(counts) - len(fit.vector)
    if within < 5 or between < 1:
        return False
    residuals = fit.log_residuals
    means = np.bincount(cells, residuals) / counts
    pure = float(((residuals - means[cells]) ** 2).sum()) / within
    lack = float((counts * means**2).sum()) / between
    # Wilson and Hilferty's approximation of F's quantile needs no table.
    a, b = 2 / (9 * between), 2 / (9 * within)
    ratio = (lack / max(pure, 1e-30)) ** (1 / 3)
    return bool(((1 - b) * ratio - (1 - a)) / math.sqrt(b * ratio**2 + a) > 3.09)


def slopes(fit: SurfaceFit, log_examples: float, log_parameters: float) -> tuple[Array, Array]:
    """Slopes of log loss over (log examples, log parameters) near a point, by a plane.

    Parameters
    ----------
    fit : SurfaceFit
    log_examples, log_parameters : float

    Returns
    -------
    slopes : array, (2,)
    covariance : array, (2, 2)
    """
    x, y = np.log(fit.surface.parameters), np.log(fit.surface.examples)
    away = ((x - log_parameters) / max(0.25 * float(np.ptp(x)), 0.3)) ** 2
    away += ((y - log_examples) / max(0.25 * float(np.ptp(y)), 0.3)) ** 2
    weight = np.exp(-0.5 * (away - away.min()))
    design = np.column_stack([np.ones_like(x), y - log_examples, x - log_parameters])
    gram = design.T @ (design * weight[:, None]) + 1e-9 * np.eye(3)
    inverse = np.linalg.inv(gram)
    log_loss = np.log(fit.surface.loss)
    found = inverse @ (design.T @ (weight * log_loss))
    residuals = log_loss - design @ found
    freedom = max(float(weight.sum() ** 2 / (weight**2).sum()) - 3, 1)
    noise = float(weight @ residuals**2) / float(weight.sum()) * (freedom + 3) / freedom
    middle = design.T @ (design * (weight**2)[:, None])
    covariance = noise * inverse @ middle @ inverse
    return found[1:], covariance[1:, 1:]
