"""How wrong predictions are: every metric as a mean over held-out examples, lower is better.

A metric is kept example by example (its *contributions*), because the interval of a difference
between two learners needs to know on which examples they differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dlcore.data import DataError

Array = NDArray[Any]

# A class that a small subset lacks gets probability 0 from some learners; without a floor one such
# example would decide the mean.
SMALLEST_PROBABILITY = 1e-4


@dataclass(frozen=True)
class Prediction:
    """What a learner says about held-out examples.

    Attributes
    ----------
    values : array, (n,)
        Class numbers, or quantities.
    probabilities : array, (n, classes), or None
        Where the learner gives them.
    """

    values: Array
    probabilities: Array | None = None


@dataclass(frozen=True)
class Metric:
    """One way to be wrong.

    Attributes
    ----------
    name : str
        As in ``--metric``.
    label : str
        As in the report.
    task : str
        What it applies to.
    percent : bool
        Shown in percent, and bounded by 1.
    probabilities : bool
        Whether it needs them.
    """

    name: str
    label: str
    task: Literal["classification", "regression"]
    percent: bool
    probabilities: bool
    contributions: Callable[[Array, Prediction, int], Array]

    @property
    def bounds(self) -> tuple[float, float | None]:
        """Values it can take."""
        return (0.0, 1.0 if self.percent else None)


def _error(y: Array, prediction: Prediction, classes: int) -> Array:
    return np.asarray(prediction.values != y, np.float64)


def _balanced_error(y: Array, prediction: Prediction, classes: int) -> Array:
    sizes = np.bincount(y, minlength=classes)
    weight = len(y) / (np.count_nonzero(sizes) * np.maximum(sizes, 1))
    return np.asarray((prediction.values != y) * weight[y], np.float64)


def _log_loss(y: Array, prediction: Prediction, classes: int) -> Array:
    if prediction.probabilities is None:
        raise ValueError("log_loss: needs probabilities, came class numbers only")
    given = prediction.probabilities[np.arange(len(y)), y]
    return np.asarray(-np.log(np.clip(given.astype(np.float64), SMALLEST_PROBABILITY, 1.0)))


def _rmse(y: Array, prediction: Prediction, classes: int) -> Array:
    # The root of a mean is no mean. Its first-order expansion around this run's own value is, and
    # has that value as its mean.
    squares = np.square(prediction.values - y)
    root = float(np.sqrt(squares.mean()))
    return np.zeros_like(squares) if root == 0 else (squares + root * root) / (2 * root)


def _mae(y: Array, prediction: Prediction, classes: int) -> Array:
    return np.asarray(np.abs(prediction.values - y))


METRICS = {
    metric.name: metric
    for metric in (
        Metric("error", "error rate", "classification", True, False, _error),
        Metric(
            "balanced_error", "balanced error rate", "classification", True, False, _balanced_error
        ),
        Metric("log_loss", "log-loss", "classification", False, True, _log_loss),
        Metric("rmse", "root mean squared error", "regression", False, False, _rmse),
        Metric("mae", "mean absolute error", "regression", False, False, _mae),
    )
}
_OTHER_NAMES = {
    "accuracy": "error",
    "error_rate": "error",
    "balanced_accuracy": "balanced_error",
    "logloss": "log_loss",
    "cross_entropy": "log_loss",
}


def metric_for(name: str | None, task: str) -> Metric:
    """Metric by name, or the default of a task.

    Parameters
    ----------
    name : str or None
        "error" (or "accuracy"), "balanced_error" (or "balanced_accuracy"), "log_loss", "rmse",
        "mae".
    task : {"classification", "regression"}
        What is predicted.

    Returns
    -------
    Metric

    Raises
    ------
    DataError
        If there is no such metric for this task.
    """
    if name is None:
        return METRICS["error" if task == "classification" else "rmse"]
    known = name.lower().replace("-", "_")
    known = _OTHER_NAMES.get(known, known)
    metric = METRICS.get(known)
    if metric is None or metric.task != task:
        fitting = ", ".join(m.name for m in METRICS.values() if m.task == task)
        raise DataError(f"--metric {name}: for {task} choose one of {fitting}")
    return metric
