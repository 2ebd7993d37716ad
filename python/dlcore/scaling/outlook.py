"""What more data, or larger networks, would bring: forecasts of a study's curves and surface.

The forms, fits and intervals are those of :func:`dlcore.scaling.fit` and
:func:`dlcore.scaling.fit_surface`; here a study's curves go in. A forecast that is undetermined is
never printed as a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dlcore.scaling.summary import Curve, Summary

FACTORS = (2, 4)
INTERVAL = 0.9
# A surface over (m, parameters) has five unknowns; fewer sizes or m than these say nothing of it.
FEWEST_SIZES, FEWEST_M = 3, 4


@dataclass(frozen=True)
class Ahead:
    """A forecast at one m; ``span`` is (value, low, high), None where it is undetermined."""

    m: int
    span: tuple[float, float, float] | None


@dataclass(frozen=True)
class Outlook:
    """Forecasts of one learner.

    Attributes
    ----------
    learner : str
        Whose.
    points : tuple of Ahead
        At multiples of its largest m.
    coverage : float
        Share of curves, kept out of the calibration, that such intervals held.
    reasons : tuple of str
        What makes it doubtful, in words.
    """

    learner: str
    points: tuple[Ahead, ...]
    coverage: float
    reasons: tuple[str, ...]


def outlooks(
    summary: Summary, curves: Mapping[str, Curve], names: Iterable[str]
) -> dict[str, Outlook]:
    """Forecast some learners at twice and four times their largest m.

    Parameters
    ----------
    summary : Summary
        The study.
    curves : mapping of str to Curve
        Its curves.
    names : iterable of str
        Which learners.

    Returns
    -------
    dict of str to Outlook
        Without those whose curve has fewer than three points or no error left.
    """
    from dlcore.scaling.curves import WARNINGS
    from dlcore.scaling.fits import fit

    found: dict[str, Outlook] = {}
    for name in names:
        curve = curves[name]
        if len(curve.points) < 3 or not (curve.value > 0).any():
            continue
        m = [factor * curve.points[-1].m for factor in FACTORS]
        forecast = fit(curve.learning_curve(summary.metric.bounds)).predict(m, INTERVAL)
        points = tuple(
            Ahead(int(at), (value, low, high) if status == "ok" else None)
            for at, value, low, high, status in forecast
        )
        reasons = tuple(WARNINGS[code] for code in forecast.warnings)
        found[name] = Outlook(name, points, float(forecast.coverage), reasons)
    return found


@dataclass(frozen=True)
class Exchange:
    """Whether networks of one kind gain more by data or by size.

    Attributes
    ----------
    family : str
        The activation.
    answer : str
        "more_data", "larger_network", "at_floor" or "undecided": where doubling the examples costs
        as much as doubling the parameters.
    probability : float
        That data gain more, as far as the runs tell.
    m, parameters : int
        Where the question is asked: the largest m, and the network that is best there.
    reasons : tuple of str
        What makes it doubtful, in words.
    """

    family: str
    answer: str
    probability: float
    m: int
    parameters: int
    reasons: tuple[str, ...]


def exchange(summary: Summary, curves: Mapping[str, Curve], best: str | None) -> Exchange | None:
    """Compare doubling the data with doubling the network, for the best network's kind.

    Parameters
    ----------
    summary : Summary
        The study.
    curves : mapping of str to Curve
        Its curves.
    best : str or None
        The best network.

    Returns
    -------
    Exchange or None
        None where the study has fewer than three sizes or four m, or layers that cannot be compared
        by their number of parameters.
    """
    if best is None:
        return None
    family = curves[best].learner.family
    group = [curve for curve in curves.values() if curve.learner.family == family]
    depths = {len(curve.learner.hidden) for curve in group}
    points = [
        (point.parameters, point.m, point.estimate.value)
        for curve in group
        for point in curve.points
        if point.parameters and point.estimate.value > 0
    ]
    sizes, m = {point[0] for point in points}, {point[1] for point in points}
    if len(depths) > 1 or len(sizes) < FEWEST_SIZES or len(m) < FEWEST_M:
        return None
    from dlcore.scaling.curves import WARNINGS
    from dlcore.scaling.surface import LossSurface, fit_surface

    surface = LossSurface(*zip(*points, strict=True))
    end = curves[best].points[-1]
    assert end.parameters is not None
    advice = fit_surface(surface).advise(
        end.m, end.parameters, cost_example=1 / end.m, cost_parameter=1 / end.parameters
    )
    reasons = tuple(WARNINGS[code] for code in advice.warnings)
    return Exchange(family, advice.answer, advice.probability, end.m, end.parameters, reasons)
