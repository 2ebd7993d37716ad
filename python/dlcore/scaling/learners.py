"""The learners of a study: what they are called, what is tuned, how large m may be for them.

Every learner has the same four tries at its one most important setting: the learning rate of a
network, the penalty or rate of another.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from dlcore.data import DataError
from dlcore.scaling.metrics import Metric

# Tries are listed as they are preferred: equal validation scores go to the earlier one.
LEARNING_RATES = (3e-3, 1e-3, 1e-2, 3e-4)
# How networks are trained (training.py says why). An epoch at m = 20 is a single step, at
# m = 60,000 it is 1,875: length and patience are counted in steps, with a floor in epochs.
TRAINING = {
    "batch_size": 32,
    "steps": 2000,
    "epochs": 20,
    "patience_steps": 200,
    "patience_epochs": 4,
    "lengthened": 2,
}

ACTIVATIONS = {
    "relu": ("ReLU", "he_normal"),
    "sigmoid": ("Sigmoid", "glorot_normal"),
    "tanh": ("Tanh", "glorot_normal"),
    "gelu": ("GELU", "he_normal"),
    "silu": ("SiLU", "he_normal"),
    "leaky_relu": ("LeakyReLU", "he_normal"),
    "softplus": ("Softplus", "he_normal"),
    "identity": ("Identity", "glorot_normal"),
}
DEFAULT_SIZES = ("8", "32", "128")


@dataclass(frozen=True)
class Learner:
    """One thing that learns, with its tuning grid.

    Attributes
    ----------
    name : str
        "relu-32", "sigmoid-256x128", "logistic", ...
    label : str
        The same for a reader.
    family : str
        What its sizes have in common: the activation, or the name.
    setting : str
        The one thing that is tuned.
    values : tuple of float
        Its tries, the preferred one first.
    hidden : tuple of int
        Units of the hidden layers; empty for the learners of scikit-learn.
    limit : int or None
        Largest m that it is run with, because its cost grows faster than m.
    probabilities : bool
        Whether it gives probabilities.
    """

    name: str
    label: str
    family: str
    setting: str
    values: tuple[float, ...]
    hidden: tuple[int, ...] = ()
    limit: int | None = None
    probabilities: bool = True

    @property
    def is_network(self) -> bool:
        """Whether dlcore trains it."""
        return bool(self.hidden)

    def identity(self) -> dict[str, Any]:
        """What identifies its runs beside its name."""
        tuning: dict[str, Any] = {"setting": self.setting, "values": self.values}
        if self.is_network:
            return {"tuning": tuning, "training": TRAINING, "versions": _network_versions()}
        return {"tuning": tuning, "versions": _baseline_versions()}

    def at_edge(self, value: float) -> bool:
        """Whether the chosen setting is the smallest or largest that was tried."""
        return value in (min(self.values), max(self.values))


_BOOSTING = Learner(
    "boosting", "boosted trees", "boosting", "learning_rate", (0.1, 0.2, 0.05, 0.5), limit=30_000
)
# Simplest first: the order in which a cheaper learner is preferred to an equal one.
_BASELINES = {
    "classification": (
        Learner("logistic", "logistic regression", "logistic", "C", (1.0, 0.1, 10.0, 0.01)),
        Learner(
            "linear-svm",
            "linear SVM",
            "linear-svm",
            "C",
            (0.1, 0.01, 1.0, 0.001),
            limit=30_000,
            probabilities=False,
        ),
        _BOOSTING,
        Learner(
            "svm",
            "SVM (RBF)",
            "svm",
            "C",
            (10.0, 1.0, 100.0, 0.1),
            limit=10_000,
            probabilities=False,
        ),
    ),
    "regression": (
        Learner("ridge", "ridge regression", "ridge", "alpha", (1.0, 0.1, 10.0, 100.0)),
        Learner(
            "linear-svm", "linear SVM", "linear-svm", "C", (1.0, 0.1, 10.0, 0.01), limit=30_000
        ),
        _BOOSTING,
        Learner("svm", "SVM (RBF)", "svm", "C", (1.0, 10.0, 0.1, 100.0), limit=10_000),
    ),
}


def baselines(task: str) -> dict[str, Learner]:
    """The learners of scikit-learn for a task, simplest first."""
    return {learner.name: learner for learner in _BASELINES[task]}


def default_learners(task: str, metric: Metric) -> tuple[str, ...]:
    """Names that a study takes when it is told none."""
    simple = "logistic" if task == "classification" else "ridge"
    names: tuple[str, ...] = ("relu", "sigmoid", simple, "svm")
    if metric.probabilities:  # the SVM gives none
        names = tuple(name for name in names if name != "svm")
    return names


def choose(
    names: Sequence[str], sizes: Sequence[str | int | Sequence[int]], task: str, metric: Metric
) -> dict[str, Learner]:
    """Learners by name, networks in every size, simplest first.

    Parameters
    ----------
    names : sequence of str
        Activations ("relu": a network of every size), one network ("relu-256x128"), or learners of
        scikit-learn ("logistic", "ridge", "linear-svm", "svm", "boosting").
    sizes : sequence of str, int or sequences of int
        Units of the hidden layers: 32, "32" or "256x128".
    task : {"classification", "regression"}
        What is predicted.
    metric : Metric
        What counts.

    Returns
    -------
    dict of str to Learner

    Raises
    ------
    DataError
        If a name or size is unknown, or a learner does not suit the task or metric.
    """
    known = baselines(task)
    chosen: dict[str, Learner] = {}
    networks: dict[str, Learner] = {}
    for name in names:
        family, _, size = name.partition("-")
        if name in known:
            if metric.probabilities and not known[name].probabilities:
                raise DataError(
                    f"--learners {name}: {known[name].label} gives no probabilities, which "
                    f"{metric.name} needs; leave it out"
                )
            chosen[name] = known[name]
        elif family in ACTIVATIONS:
            for hidden in [size] if size else sizes:
                learner = _network(family, hidden)
                networks[learner.name] = learner
        else:
            elsewhere = {learner.name for group in _BASELINES.values() for learner in group}
            why = f"is not for {task}" if name in elsewhere else "is unknown"
            raise DataError(
                f"--learners: {name!r} {why}; choose among {', '.join((*ACTIVATIONS, *known))}"
            )
    ordered = {name: chosen[name] for name in known if name in chosen}
    by_size = sorted(networks.values(), key=lambda learner: _weights(learner.hidden))
    ordered.update({learner.name: learner for learner in by_size})
    if not ordered:
        raise DataError("--learners: at least one learner is needed")
    return ordered


def _network(activation: str, size: str | int | Sequence[int]) -> Learner:
    try:
        if isinstance(size, (str, int)):
            hidden = tuple(int(units) for units in str(size).split("x"))
        else:
            hidden = tuple(int(units) for units in size)
        if not hidden or min(hidden) < 1 or max(hidden) > 65536:
            raise ValueError
    except ValueError:
        raise DataError(
            f"--sizes: {size!r} is no network size; say the units of each hidden layer, such as 32 "
            "or 256x128"
        ) from None
    text = "x".join(map(str, hidden))
    label = f"{ACTIVATIONS[activation][0]} {text.replace('x', ' x ')}"
    return Learner(
        f"{activation}-{text}", label, activation, "learning rate", LEARNING_RATES, hidden
    )


def _weights(hidden: tuple[int, ...]) -> tuple[int, ...]:
    inner = sum(a * b for a, b in itertools.pairwise(hidden))
    return (inner + hidden[0], *hidden)


@cache
def _network_versions() -> dict[str, str]:
    import dlcore

    return {"dlcore": str(dlcore.info()["version"])}


@cache
def _baseline_versions() -> dict[str, str]:
    import scipy
    import sklearn

    return {"scikit-learn": sklearn.__version__, "scipy": scipy.__version__}
