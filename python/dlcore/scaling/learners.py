"""The learners of a study, and how one run of each is made.

Every learner gets the same chance: the same four tries at its one most important setting (learning
rate, penalty), judged on the same validation folds inside the run's m labels, then one training
with the best setting on all m, then one look at the held-out examples.

A network's tries run at a constant learning rate with early stopping, which also finds how many
epochs are worth having. The last training has no validation labels to stop by: it takes twice those
epochs with a rate that falls to zero along a half cosine, so the sum of its rates is that of the
best try. On Fashion-MNIST (m = 8,839, 32 and 128 units) this took 1.0 to 1.8 points off the error
of stopping the last training at the best try's epoch with a constant rate, and on digits (m =
1,348) up to 1.7 points off that of a cosine over the best try's epochs.
"""

from __future__ import annotations

import contextlib
import itertools
import platform
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dlcore.data import DataError, Dataset
from dlcore.scaling.grid import Run, Split, folds, subset
from dlcore.scaling.metrics import METRICS, Metric, Prediction
from dlcore.scaling.preprocessing import Preprocessing

if TYPE_CHECKING:
    import dlcore

Array = NDArray[Any]

# Tries are listed as they are preferred: equal validation scores go to the earlier one.
LEARNING_RATES = (3e-3, 1e-3, 1e-2, 3e-4)
BATCH_SIZE = 32
# An epoch at m = 20 is a single step, at m = 60,000 it is 1,875: length and patience of a training
# are counted in steps, with a floor in epochs.
STEPS, EPOCHS = 2000, 20
PATIENCE_STEPS, PATIENCE_EPOCHS = 200, 4
# The mean of a half cosine is one half: twice the epochs have the same sum of learning rates.
LENGTHENED = 2

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
            training = [BATCH_SIZE, STEPS, EPOCHS, PATIENCE_STEPS, PATIENCE_EPOCHS]
            return {"tuning": tuning, "training": training, "versions": _network_versions()}
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


# --------------------------------------------------------------------------------------------------
# Runs


@dataclass(frozen=True)
class Result:
    """What one run gave.

    Attributes
    ----------
    run : Run
        What was run.
    score : float
        The metric on the held-out examples.
    validation : float
        The metric of the chosen setting on the run's own validation labels.
    contributions : array, (held-out examples,)
        The score, example by example.
    facts : dict
        Everything else, ready for JSON: tries, chosen setting, other metrics, seconds, FLOPs,
        warnings, machine.
    """

    run: Run
    score: float
    validation: float
    contributions: NDArray[np.float32]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What all runs of a study share."""

    data: Dataset
    split: Split
    metric: Metric
    learners: Mapping[str, Learner]
    stop: threading.Event | None = None

    def held_out(self) -> tuple[Array, Array]:
        """Held-out examples and their answers."""
        if self.split.own_test:
            assert self.data.test_x is not None and self.data.test_y is not None
            return self.data.test_x, self.data.test_y
        return self.data.x[self.split.test], self.data.y[self.split.test]


class Stopped(Exception):
    """A run was left unfinished because the study was told to stop."""


def execute(work: Work, runs: Sequence[Run]) -> list[Result]:
    """Make some runs, one after the other, on one thread.

    Parameters
    ----------
    work : Work
        Data, split, metric and learners.
    runs : sequence of Run
        Which.

    Returns
    -------
    list of Result
        In the same order, the same numbers wherever and in whatever company they are made.

    Raises
    ------
    Stopped
        If ``work.stop`` was set before the end.
    """
    _pin_libraries()
    return [_execute(work, run) for run in runs]


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """One thread per library while runs are made; what their warnings say is in the record."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    from dlcore.history import DivergenceWarning

    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", DivergenceWarning)
        yield


def _pin_libraries() -> None:
    # Threads of a library split sums by their number, so the last bits would depend on the machine.
    # OpenMP keeps the number per calling thread: each worker thread has to say it.
    _controller().limit(limits=1)


@cache
def _controller() -> Any:
    import scipy.linalg  # noqa: F401 - loaded, so that its library is found
    import sklearn.ensemble  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _execute(work: Work, run: Run) -> Result:
    started, cpu = time.perf_counter(), time.thread_time()
    learner = work.learners[run.learner]
    rows = subset(work.data, work.split.pool, run.m, run.seed)
    parts = folds(work.data, rows, run.seed)
    train = train_network if learner.is_network else train_baseline
    tries: list[dict[str, Any]] = []
    for value in learner.values:
        wrong, epochs, failed, noted = [], [], False, set[str]()
        for fit_rows, validation_rows in parts:
            _check_stop(work)
            trained = train(work, learner, value, run.seed, fit_rows, validation_rows)
            prediction = trained.predict(work.data.x[validation_rows])
            wrong.append(_contributions(work, work.data.y[validation_rows], prediction))
            epochs.append(trained.epochs)
            failed |= trained.diverged
            noted |= trained.notes
        score = np.inf if failed else float(np.concatenate(wrong).mean())
        tries.append(
            {"value": value, "score": score, "epochs": float(np.median(epochs)), "notes": noted}
        )
    best = min(tries, key=lambda entry: entry["score"])
    if not np.isfinite(best["score"]):
        raise FloatingPointError(f"{run.learner}: training diverged with every {learner.setting}")
    _check_stop(work)
    final_started = time.perf_counter()
    epochs = LENGTHENED * max(1, round(best["epochs"]))
    final = train(work, learner, best["value"], run.seed, rows, None, epochs)
    train_seconds = time.perf_counter() - final_started
    x, y = work.held_out()
    prediction = final.predict(x)
    contributions = _contributions(work, y, prediction)
    if not np.isfinite(contributions).all():
        raise FloatingPointError(f"{run.learner}: the prediction is not finite")
    notes = final.notes | (best["notes"] & {"at_epoch_limit"})
    if learner.at_edge(best["value"]):
        notes.add("at_grid_edge")
    if work.data.classes and len(np.unique(work.data.y[rows])) < len(work.data.classes):
        notes.add("class_missing")
    others = {
        metric.name: float(metric.contributions(y, prediction, len(work.data.classes)).mean())
        for metric in METRICS.values()
        if metric.task == work.data.task
        and not (metric.probabilities and prediction.probabilities is None)
    }
    facts = {
        "setting": learner.setting,
        "value": best["value"],
        "epochs": final.epochs if learner.is_network else None,
        "tries": [
            {
                "value": entry["value"],
                "score": entry["score"] if np.isfinite(entry["score"]) else None,
                "epochs": entry["epochs"] if learner.is_network else None,
            }
            for entry in tries
        ],
        "metrics": others,
        "validated_labels": int(sum(len(part[1]) for part in parts)),
        "parameters": final.parameters,
        "flops": final.flops,
        "train_seconds": train_seconds,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.thread_time() - cpu,
        "notes": sorted(notes),
        "machine": machine(),
    }
    score = float(contributions.mean())
    return Result(run, score, best["score"], contributions.astype(np.float32), facts)


def _check_stop(work: Work) -> None:
    if work.stop is not None and work.stop.is_set():
        raise Stopped


def _contributions(work: Work, y: Array, prediction: Prediction) -> Array:
    return work.metric.contributions(y, prediction, len(work.data.classes))


@cache
def machine() -> dict[str, Any]:
    """Where a run was made, for its record."""
    import dlcore

    found = {"system": platform.system(), "processor": platform.machine(), "host": platform.node()}
    found["python"] = platform.python_version()
    found["numpy"] = np.__version__
    info = dlcore.info()
    found.update(dlcore=str(info["version"]), kernels=str(info["kernels"]))
    return found


# --------------------------------------------------------------------------------------------------
# Training


@dataclass(frozen=True)
class Trained:
    """A model and what its training was like."""

    predict: Any  # rows of Dataset.x -> Prediction
    epochs: int
    notes: set[str]
    parameters: int | None
    flops: int | None
    diverged: bool = False
    network: dlcore.Network | None = None
    preprocessing: Preprocessing | None = None


def _epochs(m: int) -> tuple[int, int]:
    """Longest training and patience of early stopping, in epochs, for m examples."""
    steps = -(-m // BATCH_SIZE)
    return max(EPOCHS, -(-STEPS // steps)), max(PATIENCE_EPOCHS, -(-PATIENCE_STEPS // steps))


def train_network(
    work: Work,
    learner: Learner,
    learning_rate: float,
    seed: int,
    rows: Array,
    validation_rows: Array | None,
    epochs: int | None = None,
) -> Trained:
    """Train with early stopping on validation rows, or for so many epochs with a falling rate."""
    import dlcore

    data = work.data
    preprocessing = Preprocessing.fit(data, rows)
    if len(data.classes) and len(np.unique(data.y[rows])) == 1:
        return _constant(int(data.y[rows][0]), len(data.classes))
    x, scale = preprocessing.network_input(data.x[rows])
    network = build_network(learner, preprocessing, seed)
    longest, patience = _epochs(len(rows))
    balanced = work.metric.name == "balanced_error"
    validation: tuple[Array, ...] | None = None
    stopping = None
    rate: float | dlcore.schedules.Schedule = dlcore.schedules.Cosine(learning_rate)
    if validation_rows is not None:
        validation = (
            preprocessing.network_input(data.x[validation_rows])[0],
            preprocessing.scaled_target(data.y[validation_rows]),
        )
        if balanced:  # else training would be stopped by the loss of the common classes
            sizes = np.bincount(validation[1])
            validation += ((1 / sizes[validation[1]]).astype(np.float32),)
        stopping, rate = dlcore.EarlyStopping(patience), learning_rate
    history = network.fit(
        x,
        preprocessing.scaled_target(data.y[rows]),
        loss="cross_entropy" if data.classes else "mse",
        optimizer=dlcore.Adam(rate),
        epochs=epochs or longest,
        batch_size=BATCH_SIZE,
        validation_data=validation,
        seed=seed,
        threads=1,
        class_weight="balanced" if balanced else None,
        early_stopping=stopping,
        on_epoch=None if work.stop is None else lambda _: _check_stop(work),
        input_scale=scale,
    )
    notes = {"at_epoch_limit"} if epochs is None and history.best_epoch == longest else set()
    return Trained(
        lambda rows_of_x: network_prediction(network, preprocessing, rows_of_x),
        history.best_epoch if epochs is None else history.epochs,
        notes,
        network.parameter_count,
        3 * network.flops_per_example * len(rows) * history.epochs,
        history.stopped == "diverged",
        network,
        preprocessing,
    )


def build_network(learner: Learner, preprocessing: Preprocessing, seed: int) -> dlcore.Network:
    """Untrained network of a learner.

    Parameters
    ----------
    learner : Learner
        Activation and hidden layers.
    preprocessing : Preprocessing
        Says how many features and classes there are.
    seed : int
        Draws the initial weights.

    Returns
    -------
    dlcore.Network
    """
    import dlcore

    kind, initializer = ACTIVATIONS[learner.family]
    layers: list[Any] = []
    for units in learner.hidden:
        layers += [dlcore.Dense(units, initializer=initializer), getattr(dlcore, kind)()]
    layers.append(dlcore.Dense(max(1, len(preprocessing.classes)), initializer="glorot_normal"))
    return dlcore.Network(layers, input_shape=(preprocessing.features,), seed=seed)


def network_prediction(
    network: dlcore.Network, preprocessing: Preprocessing, x: Array
) -> Prediction:
    """What a trained network says about rows of data.

    Parameters
    ----------
    network : dlcore.Network
        The network.
    preprocessing : Preprocessing
        What it was trained with.
    x : array, (n, ...)
        Rows as in :attr:`dlcore.data.Dataset.x`.

    Returns
    -------
    Prediction
    """
    given, scale = preprocessing.network_input(x)
    out = network.predict(given, input_scale=scale, threads=1)
    if preprocessing.classes:
        return Prediction(out.argmax(axis=1), out)
    return Prediction(preprocessing.unscaled_target(out.reshape(len(x))))


def _constant(label: int, classes: int) -> Trained:
    def predict(x: Array) -> Prediction:
        probabilities = np.zeros((len(x), classes))
        probabilities[:, label] = 1.0
        return Prediction(np.full(len(x), label), probabilities)

    return Trained(predict, 1, {"one_class"}, None, None)


_ITERATING = ("logistic", "linear-svm")  # their solvers stop at max_iter, converged or not


def train_baseline(
    work: Work,
    learner: Learner,
    value: float,
    seed: int,
    rows: Array,
    validation_rows: Array | None,
    epochs: int | None = None,
) -> Trained:
    data = work.data
    preprocessing = Preprocessing.fit(data, rows)
    y = preprocessing.scaled_target(data.y[rows])
    if data.classes and len(np.unique(y)) == 1:
        return _constant(int(y[0]), len(data.classes))
    x = preprocessing.transform(data.x[rows])
    balanced = "balanced" if work.metric.name == "balanced_error" else None
    model = _estimator(learner.name, value, data.task, balanced, seed, len(rows))
    model.fit(x, y)
    notes = set()
    if learner.name in _ITERATING and np.max(model.n_iter_) >= model.max_iter:
        notes.add("not_converged")

    def predict(rows_of_x: Array) -> Prediction:
        given = preprocessing.transform(rows_of_x)
        if not data.classes:
            return Prediction(preprocessing.unscaled_target(model.predict(given)))
        probabilities = None
        if learner.probabilities:
            probabilities = np.zeros((len(given), len(data.classes)))
            probabilities[:, model.classes_] = model.predict_proba(given)
        return Prediction(model.predict(given), probabilities)

    parameters = None
    if hasattr(model, "coef_") and learner.name != "svm":
        parameters = int(np.size(model.coef_) + np.size(model.intercept_))
    return Trained(predict, 0, notes, parameters, None)


def _estimator(name: str, value: float, task: str, balanced: str | None, seed: int, m: int) -> Any:
    if name == "boosting":
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        settings = {
            "learning_rate": value,
            "early_stopping": False,
            "min_samples_leaf": min(20, max(1, m // 10)),
            "random_state": seed,
        }
        if task == "regression":
            return HistGradientBoostingRegressor(**settings)
        return HistGradientBoostingClassifier(class_weight=balanced, **settings)
    if name == "logistic":
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=value, max_iter=300, class_weight=balanced)
    if name == "ridge":
        from sklearn.linear_model import Ridge

        return Ridge(alpha=value)
    from sklearn import svm

    if name == "svm" and task == "regression":
        return svm.SVR(C=value)
    if name == "svm":
        return svm.SVC(C=value, class_weight=balanced, cache_size=400)
    if task == "regression":
        return svm.LinearSVR(C=value, max_iter=5000, random_state=seed)
    return svm.LinearSVC(C=value, max_iter=5000, class_weight=balanced, random_state=seed)
