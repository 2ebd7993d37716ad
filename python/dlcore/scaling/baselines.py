"""Training the learners of scikit-learn.

A fit of scikit-learn cannot be interrupted and taken up again. Where one takes seconds it is made
of parts that can: logistic regression of runs of its solver, each beginning where the last ended; a
support vector machine of its pairs of classes, which are separate problems [1]_; a linear one of
its classes. Support vector regression and boosted trees are one part.

References
----------
.. [1] Chang and Lin, "LIBSVM: a library for support vector machines", ACM TIST 2, 2011, section 7.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from dlcore.scaling.metrics import Prediction
from dlcore.scaling.preprocessing import Preprocessing
from dlcore.scaling.progress import Kept
from dlcore.scaling.work import Array, Job, Trained, Work, constant, machine

LONGEST = 300  # iterations of logistic regression
# Beyond so many products an iteration, 300 of which take a second, the solver begins anew, from
# where it is, after so many iterations. Its memory of curvature is lost then: at m = 2,621 of
# Fashion-MNIST it needs up to two thirds more iterations, and ends at the same error.
ITERATION, RESTART = 2e7, 25
# From so many examples on, classes are told apart in parts; below, one call is faster.
PARTS_FROM = 2000
_ROWS = 500  # of a block of kernel values


def train_baseline(work: Work, job: Job) -> Trained:
    """Train a learner of scikit-learn.

    Parameters
    ----------
    work : Work
        The data and the metric.
    job : Job
        Of such a learner.

    Returns
    -------
    Trained
    """
    data, learner = work.data, job.learner
    preprocessing = Preprocessing.fit(data, job.rows)
    y = preprocessing.scaled_target(data.y[job.rows])
    if data.classes and len(np.unique(y)) == 1:
        return constant(int(y[0]), len(data.classes))
    x = preprocessing.transform(data.x[job.rows])
    model = _model(work, job, x, y)
    begun = hashlib.sha256(job.rows.tobytes()).hexdigest()
    kept = Kept(job.kept, f"{begun} {learner.name} {job.value} {job.seed} {machine()}")
    before = kept.facts.get("seconds", 0.0)
    started = time.perf_counter()

    def save() -> None:
        kept.facts["seconds"] = before + time.perf_counter() - started
        kept.save()
        work.check_stop()

    model.fit(x, y, kept, save)
    seconds = before + time.perf_counter() - started

    def predict(rows_of_x: Array) -> Prediction:
        given = preprocessing.transform(rows_of_x)
        if not data.classes:
            return Prediction(preprocessing.unscaled_target(model.predict(given)))
        probabilities = None
        if learner.probabilities:
            probabilities = np.zeros((len(given), len(data.classes)))
            probabilities[:, model.classes] = model.predict_proba(given)
        return Prediction(model.predict(given), probabilities)

    notes = frozenset() if model.converged else frozenset({"not_converged"})
    return Trained(predict, 0, notes, seconds, model.parameters)


class _Model(Protocol):
    """What can be trained in parts and then predicts."""

    converged: bool

    @property
    def classes(self) -> Array: ...
    @property
    def parameters(self) -> int | None: ...
    def fit(self, x: Array, y: Array, kept: Kept, save: Callable[[], None]) -> None: ...
    def predict(self, x: Array) -> Array: ...
    def predict_proba(self, x: Array) -> Array: ...


class _Whole:
    """An estimator of scikit-learn, trained in one part."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        self.converged = True

    @property
    def classes(self) -> Array:
        return np.asarray(self.estimator.classes_)

    @property
    def parameters(self) -> int | None:
        linear = getattr(self.estimator, "kernel", "linear") == "linear"
        if not linear or not hasattr(self.estimator, "coef_"):
            return None
        return int(np.size(self.estimator.coef_) + np.size(self.estimator.intercept_))

    def fit(self, x: Array, y: Array, kept: Kept, save: Callable[[], None]) -> None:
        self.estimator.fit(x, y)
        limit = getattr(self.estimator, "max_iter", -1)
        if hasattr(self.estimator, "coef_") and limit and limit > 0:
            self.converged = bool(np.max(self.estimator.n_iter_) < limit)

    def predict(self, x: Array) -> Array:
        return np.asarray(self.estimator.predict(x))

    def predict_proba(self, x: Array) -> Array:
        return np.asarray(self.estimator.predict_proba(x))


class _Restarted(_Whole):
    """Logistic regression whose solver begins anew now and then, from where it is."""

    def fit(self, x: Array, y: Array, kept: Kept, save: Callable[[], None]) -> None:
        model = self.estimator
        model.set_params(warm_start=True, max_iter=RESTART)
        done = int(kept.facts.get("iterations", 0))
        if done:
            model.coef_, model.intercept_ = kept.arrays["coef"], kept.arrays["intercept"]
        self.converged = False
        while not self.converged and done < LONGEST:
            model.fit(x, y)
            self.converged = bool(np.max(model.n_iter_) < RESTART)
            done += RESTART
            kept.facts["iterations"] = done
            kept.arrays.update(coef=model.coef_, intercept=model.intercept_)
            save()


class _ByClass(_Whole):
    """A linear support vector machine, one class against the rest at a time."""

    def __init__(self, make: Callable[[dict[int, float]], Any], weights: dict[int, float]) -> None:
        super().__init__(None)
        self._make, self._weights = make, weights

    @property
    def parameters(self) -> int | None:
        return int(self._coef.size + self._intercept.size)

    def fit(self, x: Array, y: Array, kept: Kept, save: Callable[[], None]) -> None:
        self._labels = np.unique(y)
        for label in self._labels:
            if f"coef-{label}" in kept.arrays:
                continue
            model = self._make({0: 1.0, 1: self._weights.get(int(label), 1.0)})
            model.fit(x, (y == label).astype(np.int64))
            kept.arrays[f"coef-{label}"] = model.coef_[0]
            kept.arrays[f"intercept-{label}"] = np.atleast_1d(model.intercept_)
            kept.facts[f"converged-{label}"] = bool(np.max(model.n_iter_) < model.max_iter)
            save()
        self._coef = np.stack([kept.arrays[f"coef-{label}"] for label in self._labels])
        self._intercept = np.concatenate([kept.arrays[f"intercept-{k}"] for k in self._labels])
        self.converged = all(kept.facts[f"converged-{label}"] for label in self._labels)

    def predict(self, x: Array) -> Array:
        return np.asarray(self._labels[(x @ self._coef.T + self._intercept).argmax(axis=1)])


class _ByPair(_Whole):
    """A support vector machine with an RBF kernel, one pair of classes at a time.

    The same problems as in :class:`sklearn.svm.SVC`, and the same votes.
    """

    def __init__(
        self, make: Callable[[float, dict[int, float]], Any], weights: dict[int, float]
    ) -> None:
        super().__init__(None)
        self._make, self._weights = make, weights

    @property
    def parameters(self) -> int | None:
        return None

    def fit(self, x: Array, y: Array, kept: Kept, save: Callable[[], None]) -> None:
        self._labels = np.unique(y)
        self._gamma = 1 / (x.shape[1] * float(x.var(dtype=np.float64)))  # SVC's "scale"
        self._pairs = list(itertools.combinations(range(len(self._labels)), 2))
        rows_of: dict[tuple[int, int], Array] = {}
        for i, j in self._pairs:
            one, other = self._labels[i], self._labels[j]
            rows = rows_of[i, j] = np.flatnonzero((y == one) | (y == other))
            if f"support-{i}-{j}" in kept.arrays:
                continue
            weights = {int(k): self._weights.get(int(k), 1.0) for k in (one, other)}
            model = self._make(self._gamma, weights).fit(x[rows], y[rows])
            kept.arrays[f"support-{i}-{j}"] = np.asarray(model.support_, np.int64)
            kept.arrays[f"dual-{i}-{j}"] = model.dual_coef_[0]
            kept.arrays[f"intercept-{i}-{j}"] = model.intercept_
            save()
        support = {(i, j): rows_of[i, j][kept.arrays[f"support-{i}-{j}"]] for i, j in self._pairs}
        used = np.unique(np.concatenate(list(support.values())))
        self._vectors = x[used].astype(np.float64)
        self._squares = np.square(self._vectors).sum(axis=1)
        self._machines = {
            (i, j): (
                np.searchsorted(used, support[i, j]),
                kept.arrays[f"dual-{i}-{j}"],
                float(kept.arrays[f"intercept-{i}-{j}"][0]),
            )
            for i, j in self._pairs
        }

    def predict(self, x: Array) -> Array:
        out = np.empty(len(x), np.int64)
        for begin in range(0, len(x), _ROWS):
            block = x[begin : begin + _ROWS].astype(np.float64)
            distances = np.square(block).sum(axis=1)[:, None] + self._squares
            distances -= 2 * block @ self._vectors.T
            kernel = np.exp(-self._gamma * np.maximum(distances, 0.0))
            votes = np.zeros((len(block), len(self._labels)), np.int64)
            rows = np.arange(len(block))
            for (i, j), (support, dual, intercept) in self._machines.items():
                votes[rows, np.where(kernel[:, support] @ dual + intercept < 0, i, j)] += 1
            out[begin : begin + _ROWS] = self._labels[votes.argmax(axis=1)]
        return out


def _model(work: Work, job: Job, x: Array, y: Array) -> _Model:
    name, value, task = job.learner.name, job.value, work.data.task
    balanced = "balanced" if work.metric.name == "balanced_error" else None
    count, classes = len(y), np.unique(y) if task == "classification" else np.zeros(0)
    if name == "logistic":
        from sklearn.linear_model import LogisticRegression

        logistic = LogisticRegression(C=value, max_iter=LONGEST, class_weight=balanced)
        outputs = len(classes) if len(classes) > 2 else 1
        return (_Restarted if x.size * outputs > ITERATION else _Whole)(logistic)
    if name == "boosting":
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        settings = {
            "learning_rate": value,
            "early_stopping": False,
            "min_samples_leaf": min(20, max(1, count // 10)),
            "random_state": job.seed,
        }
        if task == "regression":
            return _Whole(HistGradientBoostingRegressor(**settings))
        return _Whole(HistGradientBoostingClassifier(class_weight=balanced, **settings))
    if name == "ridge":
        from sklearn.linear_model import Ridge

        return _Whole(Ridge(alpha=value))
    from sklearn import svm

    if task == "regression":
        if name == "svm":
            return _Whole(svm.SVR(C=value))
        return _Whole(svm.LinearSVR(C=value, max_iter=5000, random_state=job.seed))
    weights: dict[int, float] = {}
    if balanced:
        weights = {int(k): count / (len(classes) * int((y == k).sum())) for k in classes}
    parts = count >= PARTS_FROM and len(classes) > 2

    def linear(weight: Any) -> Any:
        return svm.LinearSVC(C=value, max_iter=5000, class_weight=weight, random_state=job.seed)

    def radial(gamma: Any, weight: Any) -> Any:
        return svm.SVC(C=value, gamma=gamma, class_weight=weight, cache_size=400)

    if name == "svm":
        return _ByPair(radial, weights) if parts else _Whole(radial("scale", balanced))
    return _ByClass(linear, weights) if parts else _Whole(linear(balanced))
