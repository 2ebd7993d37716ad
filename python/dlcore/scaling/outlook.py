"""What more data would bring: forecasts of a study's curves, where they can be given.

The forms, fits and intervals are those of :func:`dlcore.scaling.fit`; here a study's curve goes in
and sentences come out. A forecast that is undetermined is never printed as a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dlcore.scaling.summary import Curve, Summary

FACTORS = (2, 4)
INTERVAL = 0.9


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
    from dlcore.scaling.intervals import table

    try:
        table()
    except OSError:  # intervals that nobody calibrated are not given
        return {}
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
