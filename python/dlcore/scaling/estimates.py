"""Means over seeds and held-out examples, with intervals.

All learners meet the same seeds and the same held-out examples, so two learners are compared by
their difference on every (seed, example). Its mean has two sources of chance, the draw of the seeds
and the draw of the held-out examples; the interval adds both [1]_ and takes the degrees of freedom
from their shares [2]_.

References
----------
.. [1] Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1, 2007, section 3 (the sum of
   the two one-way variances, which errs on the safe side).
.. [2] Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics
   Bulletin 2, 1946.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and held-out examples.

    Attributes
    ----------
    value : float
        The mean.
    low, high : float or None
        Its 95 % interval; None with a single seed.
    error : float or None
        Standard error.
    freedom : float or None
        Degrees of freedom of ``error``.
    seeds : int
        How many seeds are behind it.
    """

    value: float
    low: float | None = None
    high: float | None = None
    error: float | None = None
    freedom: float | None = None
    seeds: int = 1

    def interval(self, level: float) -> tuple[float, float]:
        """Two-sided interval at another level; infinite with a single seed."""
        if self.error is None or self.freedom is None:
            return -np.inf, np.inf
        from scipy.stats import t

        reach = float(t.ppf((1 + level) / 2, self.freedom)) * self.error
        return self.value - reach, self.value + reach

    def p_value(self) -> float:
        """Two-sided p-value of the value being 0."""
        if self.error is None or self.freedom is None:
            return 1.0
        if self.error == 0:
            return 1.0 if self.value == 0 else 0.0
        from scipy.stats import t

        return float(2 * t.sf(abs(self.value) / self.error, self.freedom))


def estimate(
    contributions: Array,
    groups: Array | None = None,
    bounds: tuple[float | None, float | None] = (None, None),
) -> Estimate:
    """Mean of a seeds x examples table with an interval for both being samples.

    Parameters
    ----------
    contributions : array, (seeds, examples)
        A metric's contributions, or differences of them.
    groups : array of int, (examples,), optional
        Examples of one group are not independent; groups are then what was sampled.
    bounds : pair of float or None
        Possible values; the interval is cut there.

    Returns
    -------
    Estimate

    Examples
    --------
    >>> estimate(np.array([[0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]])).value
    0.375
    """
    table = np.asarray(contributions, np.float64)
    seeds, examples = table.shape
    value = float(table.mean())
    if seeds < 2 or examples < 2:
        return Estimate(value, seeds=seeds)
    by_seed = float(table.mean(axis=1).var(ddof=1)) / seeds
    residual = table.mean(axis=0) - value
    units = examples
    if groups is not None:
        residual = np.bincount(np.unique(groups, return_inverse=True)[1], residual)
        units = len(residual)
    by_example = float(np.square(residual).sum()) / examples**2 * units / max(1, units - 1)
    variance = by_seed + by_example
    if not table.any() and bounds == (0, 1):  # not one error: what a single binomial draw excludes
        return Estimate(0.0, 0.0, 1 - (1 - LEVEL) ** (1 / units), 0.0, float(seeds - 1), seeds)
    freedom = float(seeds - 1)
    if variance > 0:
        freedom = variance**2 / (by_seed**2 / (seeds - 1) + by_example**2 / max(1, units - 1))
    result = Estimate(value, error=variance**0.5, freedom=freedom, seeds=seeds)
    low, high = result.interval(LEVEL)
    low = low if bounds[0] is None else max(low, bounds[0])
    high = high if bounds[1] is None else min(high, bounds[1])
    return Estimate(value, low, high, variance**0.5, freedom, seeds)


def ties(excess: Mapping[str, Estimate]) -> tuple[str, ...]:
    """Learners whose excess over the best could be chance, by Holm's procedure at 5 %."""
    order = sorted(excess, key=lambda name: excess[name].p_value())
    for rank, name in enumerate(order):
        if excess[name].p_value() > (1 - LEVEL) / (len(order) - rank):
            return tuple(n for n in excess if n in order[rank:])
    return ()
