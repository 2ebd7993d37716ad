"""More data or a larger network: marginal gains per unit cost on a fitted surface."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dlcore.scaling.intervals import OCTAVE
from dlcore.scaling.surface import SurfaceFit
from dlcore.scaling.views import misfit, slopes, views

Array = NDArray[np.float64]

# A gain below this share of the loss, for twice the data and twice the size, is not worth its cost.
FLOOR_GAIN = 0.02
_DRAWS = 300  # of each view of a surface
_STEP = 1e-4  # of a numerical derivative, in logarithms


class SurfaceAdvice(str):
    """What to buy next: the answer, a string, with what is behind it.

    The string is "more_data", "larger_network", "at_floor" or "undecided".

    Attributes
    ----------
    gain_data, gain_parameters : float
        Fall of the loss per unit cost of examples, and of parameters.
    log_ratio : tuple of float
        Logarithm of the first over the second: value, low, high (90 %).
    probability : float
        That examples are the better buy, as far as the data tell.
    remaining : tuple of float
        Relative fall of the loss for twice the data and twice the size: value, low, high (90 %).
    next_run : tuple of (float, float)
        Examples and parameters of the run that would tell most.
    warnings : tuple of str
    """

    gain_data: float
    gain_parameters: float
    log_ratio: tuple[float, float, float]
    probability: float
    remaining: tuple[float, float, float]
    next_run: tuple[float, float]
    warnings: tuple[str, ...]

    def __new__(cls, answer: str, **facts: Any) -> Self:
        advice = super().__new__(cls, answer)
        advice.__dict__.update(facts)
        return advice

    @property
    def answer(self) -> str:
        """The string itself."""
        return str(self)

    @property
    def status(self) -> str:
        """ "undetermined" where the answer is "undecided"."""
        return "undetermined" if self == "undecided" else "ok"

    def explain(self) -> str:
        """A sentence."""
        m, size = self.next_run
        said = {
            "more_data": "more data gains more per cost than a larger network",
            "larger_network": "a larger network gains more per cost than more data",
            "at_floor": "neither more data nor a larger network gains what matters",
            "undecided": "undecided",
        }[self.answer]
        said += f" (probability that data are the better buy {self.probability:.2f}"
        said += f"; twice of both gains {100 * self.remaining[0]:.1f} %)"
        if self == "undecided":
            said += f"; run {m:.3g} examples with {size:.3g} parameters next"
        return said


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

    Examples
    --------
    >>> from dlcore.scaling import LossSurface, fit_surface
    >>> size, data = (g.ravel() for g in np.meshgrid([1e3, 1e4, 1e5, 1e6], [1e2, 1e3, 1e4, 1e5]))
    >>> found = fit_surface(LossSurface(size, data, 0.1 + 2 / size**0.5 + 2 / data**0.3))
    >>> advise(found, m=1e4, parameters=1e6, cost_example=1e-4, cost_parameter=1e-6)
    'more_data'
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
    seen = views(fit, log_m, log_n, _DRAWS)
    own = _Marginal.of(fit, fit.vector, log_m, log_n)
    ratios, remains, loss_draws = [], [], []
    sides = []
    for view, draws in seen:
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
    if misfit(fit):
        # No smooth law holds here; the runs next to the question must say the same.
        slope, covariance = slopes(fit, log_m, log_n)
        direction = np.array([math.exp(prices), -1.0])
        better = -float(direction @ slope)
        spread = math.sqrt(max(float(direction @ covariance @ direction), 1e-30))
        agree = (
            agree
            and (better > 0) == sides[0]
            and abs(better) > NormalDist().inv_cdf(confidence) * spread
        )
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
