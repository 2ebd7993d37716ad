"""A study: many runs over m, learners and seeds, recorded as they finish, and what they say."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import dlcore
from dlcore.data import DataError, Dataset, from_arrays
from dlcore.scaling import grid
from dlcore.scaling.grid import Run
from dlcore.scaling.learners import DEFAULT_SIZES, Learner, choose, default_learners
from dlcore.scaling.metrics import metric_for
from dlcore.scaling.notebook import table_html
from dlcore.scaling.progress import Folder
from dlcore.scaling.runs import Failure, Result, quiet_libraries
from dlcore.scaling.store import Store
from dlcore.scaling.summary import Advice, Curve, Summary
from dlcore.scaling.work import Stopped, Work
from dlcore.scaling.workers import Placement

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from dlcore.scaling.report import Findings

# Runs handed to an executor beyond those that can start at once: enough that no worker waits for
# us.
AHEAD = 2


@dataclass(frozen=True)
class Outcome:
    """What one call of :meth:`Study.run` did.

    Attributes
    ----------
    made : int
        Runs that were made now.
    found : int
        Runs that were in the store already.
    left : int
        Runs that are still to be made.
    failed : tuple of str
        One sentence per run that could not be made; tried again next time.
    stopped : str
        "" when the study is complete, else "budget", "interrupted", "failures", or "workers" (the
        executor lost its processes).
    seconds : float
        Wall-clock seconds.
    """

    made: int
    found: int
    left: int
    failed: tuple[str, ...]
    stopped: str
    seconds: float

    def _repr_html_(self) -> str:
        rows = [
            ["made now", f"{self.made:,} in {self.seconds:.0f} s"],
            ["found in the store", f"{self.found:,}"],
            ["left", f"{self.left:,}" + (f" ({self.stopped})" if self.stopped else "")],
            *([f"failed {number}", text] for number, text in enumerate(self.failed, 1)),
        ]
        return table_html("Runs of a study", ["", ""], rows)


class Study:
    """A grid of training runs over m, learner and seed, and the answer it gives.

    Parameters
    ----------
    x : array_like, (n, ...), or Dataset
        Examples; uint8 means pixels.
    y : array_like, (n,), optional
        Integers or texts for classes, floats for quantities. None if ``x`` is a
        :class:`dlcore.data.Dataset`.
    sizes : sequence, default (8, 32, 128)
        Networks: units of the hidden layers, 32 or "256x128".
    learners : sequence of str, optional
        Activations ("relu": a network of every size), single networks ("relu-64"), or
        scikit-learn's ("logistic", "ridge", "linear-svm", "svm", "boosting"). Default: ReLU and
        sigmoid networks, logistic (or ridge) regression and an SVM.
    seeds : int or sequence of int, default 5
        Repetitions; each draws its own nested subsets.
    m : sequence of int, optional
        Numbers of training examples; default log-spaced, ending with a doubling to all there are.
    metric : str, optional
        "error" (default), "balanced_error", "log_loss"; for quantities "rmse" (default), "mae".
    test : pair of array_like, optional
        Held-out ``(x, y)``; else a quarter of the examples, at most 10,000, is held out.
    groups, times : array_like, (n,), optional
        Whole groups are then held out, or the latest examples.
    margin : float, optional
        The smallest difference of the metric that matters; default 0.01 for error rates, one
        hundredth of the error of guessing otherwise.
    store : path, default "study.db"
        SQLite file of the finished runs.

    Raises
    ------
    DataError
        If data, learners, sizes or metric cannot be used.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> x, y = load_digits(return_X_y=True)
    >>> study = Study(x, y, learners=["relu", "logistic"], sizes=[16], seeds=2, m=[50, 100],
    ...               store=":memory:")
    >>> study.run().made
    8
    >>> sorted(study.curves)
    ['logistic', 'relu-16']
    """

    def __init__(
        self,
        x: ArrayLike | Dataset,
        y: ArrayLike | None = None,
        *,
        sizes: Sequence[str | int | Sequence[int]] = DEFAULT_SIZES,
        learners: Sequence[str] | None = None,
        seeds: int | Sequence[int] = 5,
        m: Sequence[int] | None = None,
        metric: str | None = None,
        test: tuple[ArrayLike, ArrayLike] | None = None,
        groups: ArrayLike | None = None,
        times: ArrayLike | None = None,
        margin: float | None = None,
        store: str | Path = "study.db",
    ) -> None:
        if isinstance(x, Dataset):
            self.data = x
        elif y is None:
            raise DataError("a study needs y, the answers, beside x")
        else:
            self.data = from_arrays(x, y, test=test, groups=groups, times=times)
        self.metric = metric_for(metric, self.data.task)
        names = default_learners(self.data.task, self.metric) if learners is None else learners
        self.learners: Mapping[str, Learner] = choose(names, sizes, self.data.task, self.metric)
        self.seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(map(int, seeds))
        if not self.seeds or min(self.seeds) < 0:
            raise DataError("a study needs at least one seed, and seeds are not negative")
        self.split = grid.split(self.data)
        pool = len(self.split.pool)
        if m is None:
            self.m = grid.sizes_of_m(pool, len(self.data.classes))
        else:
            self.m = grid.check_sizes([int(v) for v in m], pool)
        if margin is not None and not margin > 0:
            raise DataError(f"the smallest difference that matters must be above 0, not {margin}")
        self.margin = margin
        common = {
            "data": self.data.fingerprint(),
            "metric": self.metric.name,
            "held_out": [len(self.split.pool), len(self.split.test)],
        }
        self.runs: tuple[Run, ...] = tuple(
            grid.runs(
                {name: learner.identity() for name, learner in self.learners.items()},
                {n: learner.limit for n, learner in self.learners.items() if learner.limit},
                self.m,
                self.seeds,
                common,
            )
        )
        self.store = Store(store)
        self.outcome: Outcome | None = None
        self.work = Work(self.data, self.split, self.metric, self.learners)

    def run(
        self,
        executor: Executor | None = None,
        budget_seconds: float | None = None,
        *,
        budget_runs: int | None = None,
        workers: int | None = None,
        progress: bool | Callable[[Result], object] = False,
    ) -> Outcome:
        """Make the runs that are not in the store yet.

        Parameters
        ----------
        executor : concurrent.futures.Executor, optional
            Where runs are made; default threads of this process, one run at a time each.
        budget_seconds : float, optional
            No run is started after it; those under way are finished.
        budget_runs : int, optional
            No more runs than these are made.
        workers : int, optional
            Threads where no executor is given; default one per CPU that this process may use.
        progress : bool or callable, default False
            True shows a progress bar with the time left; a callable gets every result.

        Returns
        -------
        Outcome
            After Ctrl-C too (``stopped`` is "interrupted"): what is finished is in the store.
        """
        start = time.monotonic()
        finished = self.store.finished(self.runs)
        waiting = [run for run in self.runs if run.key() not in finished]
        if budget_runs is not None and budget_runs < 1:
            raise DataError(f"a budget of runs needs at least 1, not {budget_runs}")
        stop = threading.Event()
        own = None
        if executor is None:
            workers = workers or int(dlcore.info()["threads"])
            executor = own = ThreadPoolExecutor(workers, thread_name_prefix="dlcore-study")
        else:
            workers = workers or _workers_of(executor)
        interrupted = False
        with contextlib.ExitStack() as stack:
            stack.enter_context(quiet_libraries())
            folder = stack.enter_context(self._unfinished(finished))
            place = Placement(executor, replace(self.work, stop=stop, progress=folder))
            stack.enter_context(contextlib.closing(place))
            bar = None
            if progress is True:
                bar = _Bar(len(finished), waiting[:budget_runs], workers)
                stack.enter_context(contextlib.closing(bar))
            deadline = None if budget_seconds is None else start + budget_seconds
            queue = _Queue(place, waiting[:budget_runs], workers + AHEAD, deadline)

            def keep(results: Sequence[Result]) -> None:
                self.store.add(results)
                if folder is not None:
                    folder.clear({result.run.key() for result in results})

            try:
                while queue.fill():
                    results = queue.gather(0.25)
                    keep(results)
                    if bar is not None:
                        bar.update(results)
                    for result in results:
                        if callable(progress):
                            progress(result)
            except KeyboardInterrupt:
                interrupted = True
            finally:
                # A network ends at its next epoch; a learner of scikit-learn cannot be interrupted,
                # so nobody waits for it.
                stop.set()
                complete = queue.cancel()
                if own is not None:
                    own.shutdown(wait=complete, cancel_futures=True)
            keep(queue.gather(0))
        stopped = "interrupted" if interrupted else queue.stopped
        if not stopped and budget_runs is not None and budget_runs < len(waiting):
            stopped = "budget"
        left = len(self.runs) - len(self.store.finished(self.runs))
        self.outcome = Outcome(
            len(waiting) - left,
            len(self.runs) - len(waiting),
            left,
            tuple(queue.failed),
            stopped or ("failures" if left else ""),
            time.monotonic() - start,
        )
        return self.outcome

    @contextlib.contextmanager
    def _unfinished(self, finished: set[str]) -> Iterator[Folder | None]:
        """The folder where workers keep what is done of unfinished runs, beside the store."""
        if self.store.path.name == ":memory:":
            yield None
            return
        folder = Folder(self.store.path.absolute().with_suffix(".unfinished"))
        folder.open(finished)
        try:
            yield folder
        finally:
            folder.close()

    def summary(self) -> Summary:
        """All finished runs of this study, sorted for tables and figures."""
        return Summary.of(
            self.store.results(self.runs), self.data, self.split, self.metric, self.learners
        )

    @property
    def curves(self) -> dict[str, Curve]:
        """Error against m of every learner that has a finished run."""
        return self.summary().curves()

    @property
    def advice(self) -> Advice:
        """What is best now, whether the last data helped, whether a network is worth it."""
        return self.summary().advice(self.margin)

    def table(self, width: int = 100) -> str:
        """The errors as text for a terminal of some width."""
        from dlcore.scaling.report import text_table

        return text_table(self.summary(), width)

    def report(
        self, path: str | Path = "report.html", *, figures_to: str | Path | None = None
    ) -> Path:
        """Write the report: one HTML file that needs nothing else.

        The same numbers are written beside it, as ``.csv`` and ``.json``.

        Parameters
        ----------
        path : path, default "report.html"
            Where.
        figures_to : path, optional
            Folder in which every figure is written as an SVG file of its own.

        Returns
        -------
        Path
            The file.
        """
        from dlcore.scaling.report import write_report

        folder = None if figures_to is None else Path(figures_to)
        return write_report(self.findings(), Path(path), folder)

    def findings(self) -> Findings:
        """Everything that the report shows: summary, advice, forecasts, drawings."""
        from dlcore.scaling.report import Findings

        return Findings.of(self)

    def _repr_html_(self) -> str:
        from dlcore.scaling.page import fragment

        if not self.store.finished(self.runs):
            return "<p>This study has no finished run yet.</p>"
        return fragment(self.findings())


def _workers_of(executor: Executor) -> int:
    client = getattr(executor, "_client", None)
    if client is not None and hasattr(client, "ncores"):
        return max(1, int(sum(client.ncores().values())))
    return int(getattr(executor, "_max_workers", None) or 32)


class _Queue:
    """Runs on their way: a few handed out ahead, gathered as they finish."""

    def __init__(
        self, place: Placement, runs: Sequence[Run], ahead: int, deadline: float | None
    ) -> None:
        self._place = place
        self._runs = iter(runs)
        self._ahead = ahead
        self._deadline = deadline
        self._open = True
        self._pending: dict[Future[list[Result | Failure]], Run] = {}
        self.failed: list[str] = []
        self.stopped = ""

    def fill(self) -> bool:
        """Hand out runs; False when nothing is left to wait for."""
        if self._open and self._deadline is not None and time.monotonic() >= self._deadline:
            self._open, self.stopped = False, "budget"
            for future in [future for future in self._pending if future.cancel()]:
                del self._pending[future]
        while self._open and len(self._pending) < self._ahead:
            run = next(self._runs, None)
            if run is None:
                self._open = False
                break
            try:
                self._pending[self._place.submit([run])] = run
            except BrokenExecutor:
                self._open, self.stopped = False, "workers"
        return bool(self._pending)

    def gather(self, seconds: float) -> list[Result]:
        """Results of runs that have finished, waiting at most so long for the first."""
        done, _ = wait(self._pending, timeout=seconds, return_when=FIRST_COMPLETED)
        results: list[Result] = []
        for future in done:
            run = self._pending.pop(future)
            outcomes: list[Result | Failure] = []
            try:
                outcomes = future.result()
            except (CancelledError, Stopped):
                continue
            except BrokenExecutor:  # its processes died; the runs are as they were before
                self._open, self.stopped = False, "workers"
            except Exception as error:  # noqa: BLE001 - whatever one run dies of, others go on
                outcomes = [Failure(run, f"{type(error).__name__}: {error}")]
            for outcome in outcomes:
                if isinstance(outcome, Result):
                    results.append(outcome)
                    continue
                place = f"{run.learner}, m = {run.m:,}, seed {run.seed}"
                self.failed.append(f"{place}: {outcome.message}")
        return results

    def cancel(self) -> bool:
        """Take back what was handed out; True if nothing is under way."""
        for future in self._pending:
            future.cancel()
        return not self._pending


class _Bar:
    """Progress bar whose time left comes from what runs of the same kind took.

    A run with all the data takes a thousand times as long as one with a few examples, so the share
    of runs that are done says little about the time.
    """

    def __init__(self, found: int, waiting: Sequence[Run], workers: int) -> None:
        from tqdm import tqdm

        self._left: dict[tuple[str, int], int] = {}
        for run in waiting:
            place = run.learner, run.m
            self._left[place] = self._left.get(place, 0) + 1
        self._seconds: dict[tuple[str, int], list[float]] = {}
        self._workers = workers
        self._bar = tqdm(
            total=found + len(waiting),
            initial=found,
            dynamic_ncols=True,
            # A file or a pipe gets a line now and then instead of a moving bar.
            mininterval=0.1 if sys.stderr.isatty() else 10.0,
            bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} runs, {elapsed}{postfix}",
        )

    def update(self, results: Sequence[Result]) -> None:
        """Count finished runs and say how long the rest takes."""
        for result in results:
            place = result.run.learner, result.run.m
            self._left[place] -= 1
            self._seconds.setdefault(place, []).append(result.facts["seconds"])
        if self._seconds and results:
            text = (
                f"about {_duration(self.seconds_left())} left" if any(self._left.values()) else ""
            )
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(len(results))

    def seconds_left(self) -> float:
        """Seconds for the runs that are left, at the pace of those that are done."""
        total = 0.0
        for (learner, m), count in self._left.items():
            if count:
                total += count * self._cost(learner, m)
        return total / self._workers

    def _cost(self, learner: str, m: int) -> float:
        """Seconds of one run: measured, or drawn on from the nearest sizes that were measured."""
        known = {k: float(np.mean(s)) for (name, k), s in self._seconds.items() if name == learner}
        if not known:
            every: dict[int, list[float]] = {}
            for (_, k), seconds in self._seconds.items():
                every.setdefault(k, []).extend(seconds)
            known = {k: float(np.mean(s)) for k, s in every.items()}
        if m in known:
            return known[m]
        near = sorted(known, key=lambda k: abs(np.log(k / m)))[:2]
        power = 0.5  # between the fixed cost of few examples and the steady cost of many
        if len(near) == 2:
            power = float(np.log(known[near[0]] / known[near[1]]) / np.log(near[0] / near[1]))
        return float(known[near[0]] * (m / near[0]) ** min(max(power, 0.0), 2.0))

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
