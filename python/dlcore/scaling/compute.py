"""How a computation is best split between network size and examples.

References
----------
.. [1] Hoffmann et al., "Training compute-optimal large language models", 2022 (approaches 2 and 3).
.. [2] Open-Athena, "Scaling law analysis", arXiv 2603.22339 (the bias of isoFLOP parabolas).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlcore.scaling.decisions import Requirement

if TYPE_CHECKING:
    from dlcore.scaling.surface import SurfaceFit

Array = NDArray[np.float64]

# Beyond so many times the largest computation that was run, or below the smallest, no split is trusted.
FARTHEST = 100.0


@dataclass(frozen=True)
class OptimalSplit:
    """The split of a computation between size and data with the smallest loss.

    Attributes
    ----------
    compute : float
    parameters, examples, loss : float
    parameters_interval, examples_interval, loss_interval : pair of float
    exponent : float
        a of N* ~ C^a; that of D* is 1 - a.
    exponent_interval : pair of float
    isoflop_bias : float
        Relative error of D* that the vertices of isoFLOP parabolas would give here, from five budgets
        over the data's range with points within 8 times of each optimum, without noise.
    status : str
        "undetermined" where an exponent is at its limit or not identified, or the computation is more than
        100 times what was run.
    warnings : tuple of str
    """

    compute: float
    parameters: float
    examples: float
    loss: float
    parameters_interval: tuple[float, float]
    examples_interval: tuple[float, float]
    loss_interval: tuple[float, float]
    exponent: float
    exponent_interval: tuple[float, float]
    isoflop_bias: float
    status: str
    warnings: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """Examples per parameter."""
        return self.examples / self.parameters


def optimal(
    fit: SurfaceFit, compute: float, flops_per_example_parameter: float = 6, interval: float = 0.9
) -> OptimalSplit:
    """Split a computation between size and data; see :meth:`dlcore.scaling.SurfaceFit.optimal`."""
    if not (math.isfinite(compute) and compute > 0):
        raise ValueError(f"optimal: compute needs a positive number, found {compute!r}")
    k = flops_per_example_parameter
    if not (math.isfinite(k) and k > 0):
        raise ValueError(
            f"optimal: flops_per_example_parameter needs a positive number, found {k!r}"
        )
    if not 0 < interval < 1:
        raise ValueError(f"optimal: interval needs a share between 0 and 1, found {interval}")
    product = math.log(compute / k)
    log_size, exponent = optimum(fit.vector, product)
    sizes, exponents = optimum(fit.draws.vectors, product)
    losses = fit.log_loss(fit.draws.vectors, sizes[:, None], product - sizes[:, None])[:, 0]
    tail = 50 * (1 - interval)

    def limits(values: Array) -> tuple[float, float]:
        low, high = np.percentile(values, [tail, 100 - tail])
        return float(low), float(high)

    codes = list(fit.warnings)
    used = k * fit.surface.parameters * fit.surface.examples
    if not used.min() / FARTHEST <= compute <= FARTHEST * used.max():
        codes.append("FAR_EXTRAPOLATION")
    bias = fit.isoflop_bias(compute, np.geomspace(used.min(), used.max(), 5), 8.0, k)
    if abs(bias) > 0.02:
        codes.append("ISOFLOP_BIAS")
    size = float(np.exp(np.clip(log_size[0], -690, 690)))
    data = float(np.exp(np.clip(product - log_size[0], -690, 690)))
    value = fit.log_loss(fit.vector, log_size, product - log_size)[0, 0]
    bounded = np.clip(sizes, -690, 690)
    return OptimalSplit(
        float(compute),
        size,
        data,
        float(np.exp(value)),
        limits(np.exp(bounded)),
        limits(np.exp(np.clip(product - bounded, -690, 690))),
        limits(np.exp(losses)),
        float(exponent[0]),
        limits(exponents),
        bias,
        "ok" if set(codes) <= {"ISOFLOP_BIAS"} else "undetermined",
        tuple(codes),
    )


def required(
    fit: SurfaceFit, target: float, flops_per_example_parameter: float = 6, interval: float = 0.9
) -> Requirement:
    """Computation that a loss takes; see :meth:`dlcore.scaling.SurfaceFit.required`."""
    if not (math.isfinite(target) and target > 0):
        raise ValueError(f"required: target needs a positive number, found {target!r}")
    k = flops_per_example_parameter
    if not (math.isfinite(k) and k > 0):
        raise ValueError(
            f"required: flops_per_example_parameter needs a positive number, found {k!r}"
        )
    if not 0 < interval < 1:
        raise ValueError(f"required: interval needs a share between 0 and 1, found {interval}")
    codes = list(fit.warnings)
    value = float(_log_product(fit, fit.vector, target)[0])
    draws = np.sort(_log_product(fit, fit.draws.vectors, target))
    count, tail = len(draws), (1 - interval) / 2
    earliest = draws[int(tail * (count - 1))]
    latest = draws[math.ceil((1 - tail) * (count - 1))]
    if math.isinf(value):
        codes.append("NOT_REACHABLE")
        status = "not reachable" if math.isinf(earliest) else "undetermined"
        return Requirement(target, None, None, None, status, tuple(codes), "compute")
    used = k * fit.surface.parameters * fit.surface.examples
    if max(value, latest) + math.log(k) > math.log(FARTHEST * used.max()):
        codes.append("FAR_EXTRAPOLATION")

    def plain(log_product: float) -> float | None:
        total = log_product + math.log(k)
        return math.exp(total) if total < 690 else None

    low, high = (plain(float(edge)) for edge in (earliest, latest))
    ok = not codes and high is not None
    return Requirement(
        target, plain(value), low, high, "ok" if ok else "undetermined", tuple(codes), "compute"
    )


def _log_product(fit: SurfaceFit, vectors: Array, target: float) -> Array:
    """Log (N D) at which the best split has the loss ``target``; infinite where none has.

    Along the best splits both terms fall as (N D)^-g, g = alpha beta / (alpha + beta).
    """
    rows = np.atleast_2d(vectors)
    alpha, beta = np.maximum(rows[:, 3], 1e-9), np.maximum(rows[:, 4], 1e-9)
    loss = np.full(len(rows), target)
    if fit.form == "rosenfeld":
        under = np.minimum(target / np.exp(rows[:, 5]), 1.0)
        with np.errstate(divide="ignore"):
            loss = target / np.sqrt(1 - under**2)
    log_size, _ = optimum(rows, 0.0)
    terms = np.logaddexp(rows[:, 0] - alpha * log_size, rows[:, 1] + beta * log_size)
    above = loss - np.exp(rows[:, 2])
    with np.errstate(divide="ignore", invalid="ignore"):
        result = (terms - np.log(above)) * (alpha + beta) / (alpha * beta)
    found: Array = np.where(above > 0, result, np.inf)
    return found


def optimum(vectors: Array, product: float) -> tuple[Array, Array]:
    """Log N* and the exponent a for log (N D) = product."""
    rows = np.atleast_2d(vectors)
    alpha, beta = np.maximum(rows[:, 3], 1e-9), np.maximum(rows[:, 4], 1e-9)
    exponent = beta / (alpha + beta)
    log_g = (np.log(alpha) + rows[:, 0] - np.log(beta) - rows[:, 1]) / (alpha + beta)
    return log_g + exponent * product, exponent


def isoflop_bias(
    fit: SurfaceFit,
    compute: float,
    budgets: ArrayLike,
    width: float,
    flops_per_example_parameter: float = 6,
    points: int = 15,
    offset: float = 1.0,
    drift: float = 1.0,
) -> float:
    """Relative error of D* by parabolas; see :meth:`dlcore.scaling.SurfaceFit.isoflop_bias`."""
    totals = np.log10(np.asarray(budgets, float))
    span = max(float(totals.max() - totals.min()), 1e-12)
    k = flops_per_example_parameter
    grids, losses = [], []
    for total in totals:
        product = float(total) * math.log(10) - math.log(k)
        best = (product - float(optimum(fit.vector, product)[0][0])) / math.log(10)
        centre = best + math.log10(offset)
        centre += math.log10(drift) * (float(total) - float(totals.min())) / span
        grid = np.linspace(centre - math.log10(width), centre + math.log10(width), points)
        log_data = grid * math.log(10)
        grids.append(grid)
        losses.append(np.exp(fit.log_loss(fit.vector, product - log_data, log_data)[0]))
    slope, intercept = isoflop_parabola(totals, grids, losses)
    product = math.log(compute / k)
    true = (product - float(optimum(fit.vector, product)[0][0])) / math.log(10)
    return float(10 ** np.clip(intercept + slope * math.log10(compute) - true, -300, 300)) - 1


def isoflop_parabola(
    log_compute: ArrayLike, log_examples: list[Array], losses: list[Array]
) -> tuple[float, float]:
    """Approach 2 of Hoffmann et al.: vertices of parabolas, and the line through them.

    The vertex of a parabola is not the minimum of the curve it is fitted to; :func:`isoflop_bias` says by how
    much. Fit the surface instead.

    Parameters
    ----------
    log_compute : array_like, (b,)
        log10 of each budget.
    log_examples, losses : list of array
        log10 D and the loss of each budget's runs.

    Returns
    -------
    slope, intercept : float
        log10 D* = intercept + slope * log10 C.
    """
    vertices = []
    for grid, loss in zip(log_examples, losses, strict=True):
        centre = float(np.mean(grid))
        second, first, _ = np.polyfit(np.asarray(grid) - centre, loss, 2)
        vertices.append(centre - first / (2 * second) if second > 0 else centre)
    slope, intercept = np.polyfit(np.asarray(log_compute, float), vertices, 1)
    return float(slope), float(intercept)
