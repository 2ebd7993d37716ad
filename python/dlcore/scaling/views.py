"""Other ways to see a loss surface than by its fit, to check advice against."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dlcore.scaling.surface import SURFACE_FORMS, SurfaceFit

Array = NDArray[np.float64]

_WINDOW = 0.25  # width of the plane's Gaussian window, as a share of the runs' range


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
    cells, counts = _cells(x, y)
    generator = np.random.default_rng(0)
    count = len(counts)
    # Cells are drawn whole: what the seeds of one have in common is no noise that averages out.
    weights = np.zeros((draws, n))
    for row in weights:
        chosen = generator.integers(0, count, count)
        np.add.at(row, np.arange(n), np.bincount(chosen, minlength=count)[cells].astype(float))
    near = _near(x, y, log_examples, log_parameters, 0.6, 0.5)
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
    cells, counts = _cells(fit.surface.parameters, fit.surface.examples)
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

    Where neighbouring cells lie off the fitted surface to different sides by more than their noise, there
    is structure as narrow as the grid, and the slopes are known no better than that lets them vary.

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
    weight = _near(x, y, log_examples, log_parameters, _WINDOW, 0.3)
    design = np.column_stack([np.ones_like(x), y - log_examples, x - log_parameters])
    gram = design.T @ (design * weight[:, None]) + 1e-9 * np.eye(3)
    inverse = np.linalg.inv(gram)
    log_loss = np.log(fit.surface.loss)
    found = inverse @ (design.T @ (weight * log_loss))
    residuals = log_loss - design @ found
    freedom = max(float(weight.sum() ** 2 / (weight**2).sum()) - 3, 1)
    noise = float(weight @ residuals**2) / float(weight.sum()) * (freedom + 3) / freedom
    middle = design.T @ (design * (weight**2)[:, None])
    covariance = (noise * inverse @ middle @ inverse)[1:, 1:]
    covariance += np.diag(_bends(fit, x, y, weight))
    return found[1:], covariance


def _bends(fit: SurfaceFit, x: Array, y: Array, weight: Array) -> tuple[float, float]:
    """Variance of a plane's slopes along examples and size by what the fit leaves over.

    That is the mean square slope between neighbours of what is left over, less that of the noise, over
    the number of neighbours that the plane averages.
    """
    cells, counts = _cells(x, y)
    first = np.unique(cells, return_index=True)[1]
    means = np.bincount(cells, fit.log_residuals) / counts
    within = float(((fit.log_residuals - means[cells]) ** 2).sum())
    variance = within / max(len(x) - len(counts), 1) / counts
    found = []
    for along, across in ((y[first], x[first]), (x[first], y[first])):
        order = np.lexsort((along, across))
        i, j = order[:-1], order[1:]
        pair = across[i] == across[j]
        i, j = i[pair], j[pair]
        if len(i) == 0:
            found.append(0.0)
            continue
        square = (means[i] - means[j]) ** 2 - variance[i] - variance[j]
        share = weight[first][i] * weight[first][j]
        mean = float(share @ (square / (along[j] - along[i]) ** 2)) / float(share.sum())
        # A Gaussian window of this many steps counts like 2 sqrt(pi) times as many equal ones.
        steps = _WINDOW * float(np.ptp(along)) / float(np.median(along[j] - along[i]))
        found.append(max(mean, 0.0) / max(2 * math.sqrt(math.pi) * steps, 1.0))
    return found[0], found[1]


def _cells(x: Array, y: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Number of each run's cell, and how many runs each cell has."""
    cells = np.unique(np.column_stack([x, y]), axis=0, return_inverse=True)[1].ravel()
    return cells, np.bincount(cells)


def _near(
    x: Array, y: Array, log_examples: float, log_parameters: float, share: float, least: float
) -> Array:
    """Weights of runs: a Gaussian whose width is a share of the range, one at the nearest run."""
    away = ((x - log_parameters) / max(share * float(np.ptp(x)), least)) ** 2
    away += ((y - log_examples) / max(share * float(np.ptp(y)), least)) ** 2
    result: Array = np.exp(-0.5 * (away - away.min()))
    return result
