"""One run: tries on validation folds, one training on all m, one look at the held-out set."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlcore.scaling.grid import Run, folds, subset
from dlcore.scaling.learners import TRAINING, Learner
from dlcore.scaling.metrics import METRICS, Prediction
from dlcore.scaling.progress import Folder, Kept
from dlcore.scaling.training import train
from dlcore.scaling.work import Job, Trained, Work, machine

Array = NDArray[Any]


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
class Failure:
    """A run that could not be made.

    Attributes
    ----------
    run : Run
        Which.
    message : str
        Why, as a sentence.
    """

    run: Run
    message: str


def execute(work: Work, runs: Sequence[Run]) -> list[Result | Failure]:
    """Make some runs on one thread; the networks among them are trained together.

    Parameters
    ----------
    work : Work
        Data, split, metric and learners.
    runs : sequence of Run
        Which.

    Returns
    -------
    list of Result or Failure
        In the same order, the same numbers wherever and in whatever company they are made.

    Raises
    ------
    Stopped
        If ``work.stop`` was set before the end.
    """
    _pin_libraries()
    folder = work.progress if work.progress is not None and work.progress.seen() else None
    plans = [_Plan(work, run, folder) for run in runs]
    tries = [(plan, *tried) for plan in plans for tried in plan.tries()]

    def judge(k: int, trained: Trained | Exception) -> None:
        plan, fold, job = tries[k]
        plan.judge(fold, job, trained)

    train(work, [job for _, _, job in tries], judge)
    last = [(plan, found) for plan in plans if (found := plan.last()) is not None]
    train(work, [job for _, job in last], lambda k, trained: last[k][0].test(trained))
    return [plan.outcome() for plan in plans]


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


@dataclass
class _Try:
    """One value of the setting: by fold, what was wrong and the epochs it took."""

    value: float
    wrong: dict[int, Array] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=dict)
    trained_epochs: dict[int, int] = field(default_factory=dict)
    flops: int = 0
    notes: set[str] = field(default_factory=set)
    diverged: bool = False

    @property
    def score(self) -> float:
        # In the folds' order, whichever was done first: sums keep their last bits.
        parts = [self.wrong[fold] for fold in sorted(self.wrong)]
        return np.inf if self.diverged else float(np.concatenate(parts).mean())

    @property
    def length(self) -> float:
        return float(np.median(list(self.epochs.values())))


class _Plan:
    """A run under way."""

    def __init__(self, work: Work, run: Run, folder: Folder | None) -> None:
        self.work = work
        self.run = run
        self.key = run.key()
        self.folder = folder
        self.learner: Learner = work.learners[run.learner]
        self.rows = subset(work.data, work.split.pool, run.m, run.seed)
        self.parts = folds(work.data, self.rows, run.seed)
        self._tries = {value: _Try(value) for value in self.learner.values}
        self._seconds = 0.0
        self._error: Exception | None = None
        self._result: Result | None = None
        self._kept = Kept(self._file("tries"), f"{self.key} {machine()}")
        for name, facts in self._kept.facts.items():
            value, fold = facts["value"], facts["fold"]
            self._count(self._tries[value], fold, self._kept.arrays[name], facts)

    def _file(self, part: str) -> Path | None:
        return None if self.folder is None else self.folder.file(self.key, part)

    def tries(self) -> list[tuple[int, Job]]:
        """Trainings, with their folds, that are left to find the best value of the setting."""
        return [
            (fold, Job(self.learner, value, self.run.seed, rows, validation, kept=file))
            for value, tried in self._tries.items()
            for fold, (rows, validation) in enumerate(self.parts)
            if fold not in tried.wrong
            for file in [self._file(f"try-{value:g}-{fold}")]
        ]

    def judge(self, fold: int, job: Job, trained: Trained | Exception) -> None:
        """Score a try on its validation labels."""
        if isinstance(trained, Exception):
            self._error = self._error or trained
            return
        assert job.validation is not None
        started = time.perf_counter()
        prediction = trained.predict(self.work.data.x[job.validation])
        wrong = self._contributions(self.work.data.y[job.validation], prediction)
        facts = {
            "value": job.value,
            "fold": fold,
            "epochs": trained.epochs,
            "trained_epochs": trained.trained_epochs,
            "flops": trained.flops or 0,
            "notes": sorted(trained.notes),
            "diverged": trained.diverged or not bool(np.isfinite(wrong).all()),
            "seconds": trained.seconds + time.perf_counter() - started,
        }
        self._count(self._tries[job.value], fold, wrong, facts)
        name = f"{job.value:g}-{fold}"
        self._kept.arrays[name], self._kept.facts[name] = wrong, facts
        self._kept.save()

    def _count(self, tried: _Try, fold: int, wrong: Array, facts: dict[str, Any]) -> None:
        tried.wrong[fold] = wrong
        tried.epochs[fold] = facts["epochs"]
        tried.trained_epochs[fold] = facts["trained_epochs"]
        tried.flops += facts["flops"]
        tried.notes.update(facts["notes"])
        tried.diverged |= facts["diverged"]
        self._seconds += facts["seconds"]

    def _best(self) -> _Try:
        return min(self._tries.values(), key=lambda tried: tried.score)

    def last(self) -> Job | None:
        """Training on all m labels with the best value; None if there was an error."""
        if self._error is None and not np.isfinite(self._best().score):
            self._error = FloatingPointError(
                f"training diverged with every {self.learner.setting}; none was small enough"
            )
        if self._error is not None:
            return None
        best = self._best()
        epochs = TRAINING["lengthened"] * max(1, round(best.length))
        return Job(
            self.learner,
            best.value,
            self.run.seed,
            self.rows,
            None,
            epochs,
            kept=self._file("last"),
        )

    def test(self, trained: Trained | Exception) -> None:
        """Look at the held-out examples, once."""
        if isinstance(trained, Exception):
            self._error = trained
            return
        work, learner, best = self.work, self.learner, self._best()
        x, y = work.held_out()
        started = time.perf_counter()
        prediction = trained.predict(x)
        self._seconds += trained.seconds + time.perf_counter() - started
        contributions = self._contributions(y, prediction)
        if not np.isfinite(contributions).all():
            self._error = FloatingPointError("the prediction is not finite")
            return
        notes = trained.notes | (best.notes & {"at_epoch_limit"})
        if learner.at_edge(best.value):
            notes |= {"at_grid_edge"}
        if work.data.classes and len(np.unique(work.data.y[self.rows])) < len(work.data.classes):
            notes |= {"class_missing"}
        self._result = Result(
            self.run,
            float(contributions.mean()),
            best.score,
            contributions.astype(np.float32),
            {
                "setting": learner.setting,
                "value": best.value,
                "epochs": trained.epochs if learner.is_network else None,
                "tries": [
                    {
                        "value": tried.value,
                        "score": tried.score if np.isfinite(tried.score) else None,
                        "epochs": tried.length if learner.is_network else None,
                        "trained_epochs": [tried.trained_epochs[k] for k in sorted(tried.wrong)]
                        if learner.is_network
                        else None,
                    }
                    for tried in self._tries.values()
                ],
                "metrics": self._all_metrics(y, prediction),
                "validated_labels": int(sum(len(part[1]) for part in self.parts)),
                "parameters": trained.parameters,
                "layers": list(trained.layers),
                "flops": trained.flops,
                "flops_with_tries": None
                if trained.flops is None
                else trained.flops + sum(tried.flops for tried in self._tries.values()),
                "train_seconds": trained.seconds,
                "seconds": self._seconds,
                "notes": sorted(notes),
                "machine": machine(),
            },
        )

    def outcome(self) -> Result | Failure:
        """The result, or why there is none."""
        if self._result is not None:
            return self._result
        error = self._error
        kind = "" if isinstance(error, ArithmeticError) else f"{type(error).__name__}: "
        return Failure(self.run, " ".join(f"{kind}{error}".split()))

    def _contributions(self, y: Array, prediction: Prediction) -> Array:
        work = self.work
        return work.metric.contributions(y, prediction, len(work.data.classes))

    def _all_metrics(self, y: Array, prediction: Prediction) -> dict[str, float]:
        data = self.work.data
        return {
            metric.name: float(metric.contributions(y, prediction, len(data.classes)).mean())
            for metric in METRICS.values()
            if metric.task == data.task
            and not (metric.probabilities and prediction.probabilities is None)
        }
