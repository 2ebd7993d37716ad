"""Learning curves as people have them, what can be wrong with them, and forecasts of them.

Everything below works on error measures: smaller is better, zero or more. An accuracy is passed as
one minus itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlcore.data import DataError
from dlcore.scaling.columns import (
    SE_COLUMNS,
    X_COLUMNS,
    Y_COLUMNS,
    column_numbers,
    find_column,
    plain_name,
    read_table,
)

Array = NDArray[np.float64]
Kind = Literal["data", "parameters", "compute", "steps"]
#: Of x, y and se: sums of squares of larger numbers, and scaled ones, would overflow.
LARGEST = 1e100

KINDS = ("data", "parameters", "compute", "steps")

# What a curve is measured against, in a sentence.
UNITS = {
    "data": "training examples",
    "parameters": "parameters",
    "compute": "FLOPs",
    "steps": "steps",
}

# Codes are stable; the sentence is for people.
WARNINGS = {
    "TOO_FEW_POINTS": "too few points to tell one form from another",
    "SHORT_SPAN": "the points span too small a range to show a trend",
    "FAR_EXTRAPOLATION": "the forecast goes further beyond the data than was ever checked",
    "RISING": "the error rises with x near the end of the data",
    "DOUBLE_DESCENT": "the error rises and falls again: no single law holds",
    "BREAK": "the slope changes inside the data; only what follows the break tells the future",
    "BREAK_AT_END": "the slope is changing at the end of the data; where it goes is not known yet",
    "EXPONENT_NOT_IDENTIFIED": "the data do not determine the exponent",
    "FORMS_DISAGREE": "forms that fit the data equally well forecast different things",
    "WIDE_INTERVAL": "the interval is too wide to act on",
    "BACKTEST_FAILED": "earlier parts of the curve forecast the later ones badly",
    "ZERO_ERROR": "errors of zero were raised to half the smallest positive one",
    "NOT_REACHABLE": "the target lies below what the curve tends to",
    "BEYOND_HORIZON": "the target lies further out than a forecast can be trusted",
    "NO_CROSSING": "the curves do not cross within the range of the forecast",
    "ISOFLOP_BIAS": "the vertex of an isoFLOP parabola is biased on this surface",
    "BOUNDARY": "a parameter ended at the edge of its possible range",
    "LOCAL_DISAGREEMENT": "the surface and the points next to the question disagree",
}


@dataclass(frozen=True, eq=False)
class Forecast:
    """Values at new x with intervals for the next measurement there.

    Attributes
    ----------
    x, value, low, high : array, (k,)
        Finite, and within the curve's bounds. Where the status is "undetermined" the interval is as
        wide as ignorance is, and ``value`` should not be shown as a forecast.
    interval : float
        Nominal coverage asked for, such as 0.9.
    coverage : float
        Share of measurements that such intervals held on curves kept out of their calibration.
    statuses : tuple of str, (k,)
        "ok" or "undetermined" for each x.
    warnings : tuple of str
        Codes of :data:`WARNINGS`.
    """

    x: Array
    value: Array
    low: Array
    high: Array
    interval: float
    coverage: float
    statuses: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """ "ok" if every x is determined, else "undetermined"."""
        return "ok" if all(status == "ok" for status in self.statuses) else "undetermined"

    def __len__(self) -> int:
        return len(self.x)

    def __iter__(self) -> Iterator[tuple[float, float, float, float, str]]:
        for row in zip(self.x, self.value, self.low, self.high, self.statuses, strict=True):
            yield float(row[0]), float(row[1]), float(row[2]), float(row[3]), row[4]

    def __repr__(self) -> str:
        share = f"{100 * self.interval:g} %"
        rows = [f"Forecast with {share} intervals (measured coverage {100 * self.coverage:.0f} %)"]
        for x, value, low, high, status in self:
            shown = f"{value:.4g}" if status == "ok" else "undetermined"
            rows.append(f"  x = {x:.4g}: {shown}, {low:.4g} to {high:.4g}")
        rows += [f"  {code}: {WARNINGS[code]}" for code in self.warnings]
        return "\n".join(rows)


class LearningCurve:
    """Error measured at several x.

    Parameters
    ----------
    x : array_like, (n,)
        Training examples, parameters, computation or steps; positive, in any order. An x that comes
        several times (several seeds) is averaged.
    y : array_like, (n,)
        Error at x, zero or more.
    se : array_like, (n,), optional
        Standard errors of ``y``. Where an x comes several times and ``se`` is missing, the spread of
        its values gives it.
    kind : {"data", "parameters", "compute", "steps"}
        What x is.
    bounds : pair of float or None, default (0, None)
        Possible values of y; (0, 1) for an error rate. No forecast leaves them.

    Attributes
    ----------
    x, y : array, (n,)
        Sorted by x, one row each.
    se : array, (n,), or None
    counts : array of int, (n,)
        How many values were averaged.
    raw : array, (k, 2)
        x and y as given, sorted.
    positive : array, (n,)
        y, zeros raised to half the smallest positive value.
    resolution : float
        Step that y is rounded to; 0 where none is seen.
    warnings : tuple of str
        Codes of :data:`WARNINGS`.

    Raises
    ------
    ValueError
        If x is not positive, y is negative or outside ``bounds``, or anything is not finite.

    Examples
    --------
    >>> curve = LearningCurve([100, 200, 400, 800], [0.40, 0.31, 0.25, 0.21], bounds=(0, 1))
    >>> len(curve), curve.bounds
    (4, (0.0, 1.0))
    """

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        se: ArrayLike | None = None,
        kind: Kind = "data",
        bounds: tuple[float | None, float | None] = (0, None),
    ) -> None:
        given_x = _column("x", x)
        given_y = _column("y", y)
        _same_length("y", given_y, given_x)
        if len(given_x) == 0:
            raise ValueError("LearningCurve: x and y need at least one point, found none")
        if kind not in KINDS:
            raise ValueError(f"LearningCurve: kind needs one of {', '.join(KINDS)}, found {kind!r}")
        self.bounds = _bounds(bounds)
        low, high = self.bounds
        for name, values, wrong, need in (
            ("x", given_x, ~(given_x > 0), "positive numbers"),
            ("y", given_y, ~(given_y >= 0), "errors of zero or more (1 - accuracy, say)"),
            ("y", given_y, (given_y < low) | (given_y > high), f"values in {low:g}..{high:g}"),
        ):
            if wrong.any():
                at = int(np.argmax(wrong))
                raise ValueError(
                    f"LearningCurve: {name} needs {need}, found {values[at]:g} at index {at}"
                )
        given_se = None
        if se is not None:
            given_se = _column("se", se)
            _same_length("se", given_se, given_x)
            if (given_se < 0).any():
                at = int(np.argmax(given_se < 0))
                raise ValueError(
                    f"LearningCurve: se needs zero or more, found {given_se[at]:g} at index {at}"
                )
        self.kind: str = kind
        self._gather(given_x, given_y, given_se)

    def _gather(self, x: Array, y: Array, se: Array | None) -> None:
        order = np.lexsort((y, x))
        x, y = x[order], y[order]
        self.raw = np.column_stack([x, y])
        self.x, start, self.counts = np.unique(x, return_index=True, return_counts=True)
        self.y = np.add.reduceat(y, start) / self.counts
        self.se: Array | None = None
        if se is not None:
            self.se = np.sqrt(np.add.reduceat(se[order] ** 2, start)) / self.counts
        elif (self.counts > 1).all():
            square = np.add.reduceat((y - np.repeat(self.y, self.counts)) ** 2, start)
            self.se = np.sqrt(square / (self.counts - 1) / self.counts)
        self.warnings: tuple[str, ...] = ()
        self.resolution = _resolution(y)
        # The fits work on logarithms.
        self.positive = self.y
        if not (self.y > 0).all():
            self.warnings = ("ZERO_ERROR",)
            above = self.y[self.y > 0]
            least = max(0.5 * above.min(), 1e-3 * float(np.median(above))) if len(above) else 1e-9
            self.positive = np.maximum(self.y, least)

    @classmethod
    def from_csv(
        cls, path: str | Path, bounds: tuple[float | None, float | None] | None = None
    ) -> LearningCurve:
        """Read a curve from a CSV file with a header.

        Parameters
        ----------
        path : str or Path
            The columns are x (or m, n, examples, parameters, compute, flops, steps, ...), y (or
            error, loss, ...) and, if known, se. Other columns are ignored.
        bounds : pair of float or None, optional
            As in the constructor; by default (0, 1) for a column named error or error_rate whose
            values lie there, else (0, None).

        Returns
        -------
        LearningCurve

        Raises
        ------
        dlcore.data.DataError
            With one sentence that names the file, the row and the column.
        """
        columns, rows = read_table(Path(path))
        x_name, kind = find_column(columns, X_COLUMNS, path, "x, m, parameters, compute or steps")
        y_name, measure = find_column(columns, Y_COLUMNS, path, "y, error or loss")
        se_name = next((name for name in columns if plain_name(name) in SE_COLUMNS), None)
        names = [x_name, y_name] + ([] if se_name is None else [se_name])
        values = column_numbers(path, columns, rows, names)
        if bounds is None:
            bounds = (0, 1) if measure == "rate" and max(values[1]) <= 1 else (0, None)
        try:
            return cls(
                values[0],
                values[1],
                None if se_name is None else values[2],
                kind=kind,  # type: ignore[arg-type]
                bounds=bounds,
            )
        except ValueError as error:
            raise DataError(f"{path}: {error}") from None

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return (
            f"LearningCurve({len(self)} points, {self.x[0]:.4g}..{self.x[-1]:.4g} "
            f"{UNITS[self.kind]}, error {self.y[0]:.4g} to {self.y[-1]:.4g})"
        )


def _resolution(y: Array) -> float:
    """Power of ten that all of y are multiples of, 0 below 1e-6."""
    above = y[y > 0]
    for digits in range(7):
        scaled = above * 10.0**digits
        near = np.round(scaled)
        if (np.abs(scaled - near) < 1e-6).all() and (near >= 1).all():
            return float(10.0**-digits)
    return 0.0


def _column(name: str, values: ArrayLike) -> Array:
    try:
        column = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"LearningCurve: {name} needs numbers, found {type(values).__name__}"
        ) from None
    if column.ndim != 1:
        raise ValueError(f"LearningCurve: {name} needs one axis, found shape {column.shape}")
    if not np.isfinite(column).all():
        at = int(np.argmax(~np.isfinite(column)))
        raise ValueError(
            f"LearningCurve: {name} needs finite numbers, found {column[at]} at index {at}"
        )
    if (np.abs(column) > LARGEST).any():
        at = int(np.argmax(np.abs(column) > LARGEST))
        raise ValueError(
            f"LearningCurve: {name} needs numbers up to {LARGEST:g}, found {column[at]:g} "
            f"at index {at}"
        )
    return column


def _same_length(name: str, values: Array, x: Array) -> None:
    if len(values) != len(x):
        raise ValueError(
            f"LearningCurve: {name} needs one value per x, found {len(values)} for {len(x)}"
        )


def _bounds(bounds: Any) -> tuple[float, float]:
    try:
        low, high = bounds
    except (TypeError, ValueError):
        raise ValueError(
            "LearningCurve: bounds needs two numbers or None, such as (0, 1)"
        ) from None
    low = 0.0 if low is None else float(low)
    high = math.inf if high is None else float(high)
    if not 0 <= low < high:
        raise ValueError(f"LearningCurve: bounds needs 0 <= low < high, found ({low:g}, {high:g})")
    return low, high
