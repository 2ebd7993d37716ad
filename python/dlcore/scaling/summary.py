"""What a study's runs say: curves, paired comparisons, and the answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlcore.data import Dataset
from dlcore.scaling.estimates import Estimate, estimate, ties
from dlcore.scaling.grid import Split
from dlcore.scaling.learners import Learner
from dlcore.scaling.metrics import Metric, Prediction
from dlcore.scaling.notebook import interval, table_html
from dlcore.scaling.runs import Result

Array = NDArray[Any]
# A difference below it does not matter to most people: one point of an error rate, or one hundredth
# of what guessing without looking at x gives.
MARGIN = 0.01


@dataclass(frozen=True)
class Point:
    """One learner at one m."""

    m: int
    estimate: Estimate
    scores: Mapping[int, float]  # by seed
    seconds: float  # median of one whole run, tries included
    train_seconds: float  # median of the last training alone
    parameters: int | None
    flops: int | None


@dataclass(frozen=True)
class Curve:
    """A learner's error against the number of training examples.

    Attributes
    ----------
    learner : Learner
        Which.
    points : tuple of Point
        By increasing m.
    """

    learner: Learner
    points: tuple[Point, ...]

    @property
    def m(self) -> Array:
        """Numbers of training examples."""
        return np.array([point.m for point in self.points])

    @property
    def value(self) -> Array:
        """Mean error at each m."""
        return np.array([point.estimate.value for point in self.points])

    @property
    def se(self) -> Array | None:
        """Standard error at each m; None with a single seed."""
        errors = [point.estimate.error for point in self.points]
        return None if None in errors else np.array(errors, np.float64)

    def _repr_html_(self) -> str:
        return table_html(
            self.learner.label,
            ["m", "error", "95 % interval", "seeds", "seconds of a run"],
            [
                [
                    f"{p.m:,}",
                    f"{p.estimate.value:.3g}",
                    interval(p.estimate),
                    str(p.estimate.seeds),
                    f"{p.seconds:.2g}",
                ]
                for p in self.points
            ],
        )

    def learning_curve(self, bounds: tuple[float, float | None]) -> Any:
        """The same as a :class:`dlcore.scaling.LearningCurve`, to be fitted and forecast."""
        from dlcore import scaling

        return scaling.LearningCurve(self.m, self.value, se=self.se, kind="data", bounds=bounds)


@dataclass(frozen=True)
class Step:
    """What the last step in m gave one learner: its error at ``m_from`` less that at ``m_to``."""

    learner: str
    m_from: int
    m_to: int
    gain: Estimate
    verdict: str  # "helped", "flat", "hurt", "undecided"


@dataclass(frozen=True)
class Advice:
    """The answer of a study.

    Attributes
    ----------
    sentence : str
        One sentence for the top of the report.
    best : str
        Learner with the lowest error at the largest m.
    m : int
        That m.
    estimate : Estimate
        Its error.
    ties : tuple of str
        Learners that the study cannot tell from the best (Holm's correction, 5 %).
    simplest : str
        Simplest learner shown to be within ``margin`` of the best.
    steps : dict of str to Step
        What the last step in m gave each learner.
    network : str
        "worth it", "better", "not worth it", "undecided", or "" where there is nothing to compare.
    network_gain : Estimate or None
        Error of the best other learner less that of the best network.
    margin : float
        The smallest difference that matters.
    guess : float
        Error of guessing without looking at x.
    over_guess : Estimate
        That error less the best learner's.
    """

    sentence: str
    best: str
    m: int
    estimate: Estimate
    ties: tuple[str, ...]
    simplest: str
    steps: dict[str, Step]
    network: str
    network_gain: Estimate | None
    best_network: str | None
    best_other: str | None
    margin: float
    guess: float
    over_guess: Estimate

    @property
    def better_than_guessing(self) -> bool:
        """Whether the best learner is shown to be; True with a single seed, which shows nothing."""
        return self.over_guess.low is None or self.over_guess.low > 0

    def _repr_html_(self) -> str:
        rows = [
            [name, f"{step.m_from:,} to {step.m_to:,}", step.verdict, f"{step.gain.value:.3g}"]
            + [interval(step.gain)]
            for name, step in self.steps.items()
        ]
        head = ["learner", "last step in m", "verdict", "fall of the error", "95 % interval"]
        return table_html(self.sentence, head, rows)


@dataclass(frozen=True)
class Summary:
    """Everything that the table, the report and the files show, taken from the runs."""

    data: Dataset
    split: Split
    metric: Metric
    learners: Mapping[str, Learner]
    results: Mapping[tuple[str, int], Mapping[int, Result]] = field(repr=False)

    @classmethod
    def of(
        cls,
        results: Iterable[Result],
        data: Dataset,
        split: Split,
        metric: Metric,
        learners: Mapping[str, Learner],
    ) -> Summary:
        """Sort finished runs into cells.

        Parameters
        ----------
        results : iterable of Result
            The finished runs.
        data, split, metric, learners
            What they were made with.

        Returns
        -------
        Summary
        """
        cells: dict[tuple[str, int], dict[int, Result]] = {}
        for result in results:
            cells.setdefault((result.run.learner, result.run.m), {})[result.run.seed] = result
        return cls(data, split, metric, learners, cells)

    @property
    def sizes(self) -> tuple[int, ...]:
        """All m that have a run."""
        return tuple(sorted({m for _, m in self.results}))

    @property
    def groups(self) -> Array | None:
        """Group of every held-out example, where there are groups."""
        if self.data.groups is None or self.split.own_test:
            return None
        return np.asarray(self.data.groups[self.split.test])

    def table(self, learner: str, m: int, seeds: Sequence[int] | None = None) -> Array:
        """Contributions, (seeds, held-out examples)."""
        cell = self.results[learner, m]
        return np.stack(
            [cell[seed].contributions for seed in (sorted(cell) if seeds is None else seeds)]
        )

    def curves(self) -> dict[str, Curve]:
        """Curve of every learner that has a run."""
        found = {}
        for name, learner in self.learners.items():
            points = []
            for m in self.sizes:
                cell = self.results.get((name, m))
                if not cell:
                    continue
                facts = [result.facts for result in cell.values()]
                top = facts[0]
                points.append(
                    Point(
                        m,
                        estimate(self.table(name, m), self.groups, self.metric.bounds),
                        {seed: cell[seed].score for seed in sorted(cell)},
                        float(np.median([f["seconds"] for f in facts])),
                        float(np.median([f["train_seconds"] for f in facts])),
                        top["parameters"],
                        None
                        if top["flops"] is None
                        else int(np.median([f["flops"] for f in facts])),
                    )
                )
            if points:
                found[name] = Curve(learner, tuple(points))
        return found

    def difference(self, a: tuple[str, int], b: tuple[str, int]) -> Estimate:
        """Error of ``a`` less that of ``b``, paired over their common seeds and all examples."""
        seeds = sorted(set(self.results[a]) & set(self.results[b]))
        if not seeds:
            return Estimate(float(self.table(*a).mean() - self.table(*b).mean()), seeds=0)
        return estimate(self.table(*a, seeds) - self.table(*b, seeds), self.groups)

    def top(self) -> dict[str, int]:
        """The m at which learners are compared: the largest that all have, or a learner's own
        limit.

        A study that was cut short may lack its last sizes; a size that only some learners have
        reached would compare seeds and not learners.
        """
        names = [name for name in self.learners if any(k == name for k, _ in self.results)]
        unlimited = [name for name in names if self.learners[name].limit is None] or names
        most = max((len(cell) for cell in self.results.values()), default=0)
        for needed in (min(2, most), 1):
            common = [
                m
                for m in self.sizes
                if all(len(self.results.get((name, m), {})) >= needed for name in unlimited)
            ]
            if common:
                largest = common[-1]
                break
        else:
            largest = self.sizes[0]
        found = {}
        for name in names:
            reached = [m for m in self.sizes if m <= largest and (name, m) in self.results]
            if reached:
                found[name] = reached[-1]
        return found

    def guess(self) -> Array:
        """Contributions of answering without looking at x: the commonest class, or the mean."""
        y = self.data.y[self.split.pool]
        held_out = self.data.test_y if self.split.own_test else self.data.y[self.split.test]
        assert held_out is not None
        count = len(held_out)
        if self.data.classes:
            shares = np.bincount(y, minlength=len(self.data.classes)) / len(y)
            prediction = Prediction(np.full(count, shares.argmax()), np.tile(shares, (count, 1)))
        else:
            middle = np.median(y) if self.metric.name == "mae" else y.mean()
            prediction = Prediction(np.full(count, middle))
        return self.metric.contributions(held_out, prediction, len(self.data.classes))

    def advice(self, margin: float | None = None) -> Advice:
        """Answer the questions of a study.

        Parameters
        ----------
        margin : float, optional
            Smallest difference that matters; else one point of an error rate, or one hundredth of
            the error of guessing.

        Returns
        -------
        Advice

        Raises
        ------
        ValueError
            If there is no run.
        """
        if not self.results:
            raise ValueError("advice: needs at least one finished run, found none; call run first")
        guessed = self.guess()
        guess = float(guessed.mean())
        if margin is None:
            margin = MARGIN if self.metric.percent else MARGIN * guess
        top = self.top()
        curves = self.curves()
        at_top = {
            name: next(p.estimate for p in curves[name].points if p.m == m)
            for name, m in top.items()
        }
        best = min(at_top, key=lambda name: at_top[name].value)
        place = best, top[best]
        excess = {
            name: self.difference((name, m), place) for name, m in top.items() if name != best
        }
        simplest = next(
            name for name in top if name == best or excess[name].interval(0.9)[1] <= margin
        )
        networks = [name for name in top if self.learners[name].is_network]
        others = [name for name in top if not self.learners[name].is_network]
        best_network = min(networks, key=lambda name: at_top[name].value, default=None)
        best_other = min(others, key=lambda name: at_top[name].value, default=None)
        verdict, gain = "", None
        if best_network and best_other:
            gain = self.difference((best_other, top[best_other]), (best_network, top[best_network]))
            verdict = _network_verdict(gain, margin)
        advice = Advice(
            "",
            best,
            top[best],
            at_top[best],
            ties(excess),
            simplest,
            {name: step for name in top if (step := self._last_step(name, top[name], margin))},
            verdict,
            gain,
            best_network,
            best_other,
            margin,
            guess,
            estimate(guessed - self.table(*place), self.groups),
        )
        return Advice(**{**_shallow(advice), "sentence": self._sentence(advice)})

    def _last_step(self, name: str, m: int, margin: float) -> Step | None:
        smaller = [k for k in self.sizes if k < m and (name, k) in self.results]
        if not smaller:
            return None
        gain = self.difference((name, smaller[-1]), (name, m))
        return Step(name, smaller[-1], m, gain, _step_verdict(gain, margin))

    # ----------------------------------------------------------------------------------------------
    # Words

    def amount(self, value: float) -> str:
        """A value of the metric as text."""
        return f"{self.number(value)} %" if self.metric.percent else self.number(value)

    def number(self, value: float) -> str:
        """A value of the metric without its unit, in percent where it is a share."""
        if not self.metric.percent:
            return f"{value:.3g}"
        return f"{100 * value:.1f}" if value >= 0.0995 else f"{100 * value:.2f}"

    def change(self, value: float) -> str:
        """A difference of two values of the metric as text, without its sign."""
        if not self.metric.percent:
            return f"{abs(value):.2g}"
        points = abs(100 * value)
        text = f"{points:.2f}" if points < 1 else f"{points:.1f}"
        return f"{text} point{'' if text == '1.0' else 's'}"

    def span(self, found: Estimate) -> str:
        """The interval of a difference as text."""
        if found.low is None or found.high is None:
            return "one seed, no interval"
        factor, unit = (100, " points") if self.metric.percent else (1, "")
        low, high = factor * found.low, factor * found.high
        return f"95 % interval {_signed(low)} to {_signed(high)}{unit}"

    def _sentence(self, advice: Advice) -> str:
        label = self.learners[advice.best].label
        wrong = self.amount(advice.estimate.value)
        measured = {
            "error": f"is wrong on {wrong} of the held-out examples",
            "balanced_error": f"is wrong on {wrong} of the held-out examples, all classes equal",
        }.get(self.metric.name, f"has a {self.metric.label} of {wrong} on the held-out examples")
        parts = [f"With {advice.m:,} labelled examples {label} is best now and {measured}"]
        if advice.ties:
            tied = [self.label_at_top(name) for name in advice.ties]
            many = f"{len(tied)} other learners"
            parts[0] += f" ({many if len(tied) > 2 else ' and '.join(tied)} cannot be told from it)"
        if not advice.better_than_guessing:
            guess = self.amount(advice.guess)
            parts.append(f"no learner is shown to be better than guessing, which gives {guess}")
        step = advice.steps.get(advice.best)
        if step is not None:
            parts.append(self._step_clause(step, advice.margin))
        if advice.network:
            parts.append(self._network_clause(advice))
        return "; ".join(parts) + "."

    def _step_clause(self, step: Step, margin: float) -> str:
        times = step.m_to / step.m_from
        what = (
            "the last doubling of the data"
            if abs(times - 2) < 0.05
            else (f"going from {step.m_from:,} to {step.m_to:,} examples")
        )
        by = f"by {self.change(step.gain.value)}, {self.span(step.gain)}"
        if step.verdict == "helped":
            return f"{what} still helped it ({by})"
        if step.verdict == "hurt":
            return f"{what} made it worse ({by})"
        if step.verdict == "flat":
            return f"{what} changed its error by less than {self.change(margin)}"
        return f"whether {what} helped it is undecided ({self.span(step.gain)})"

    def label_at_top(self, name: str) -> str:
        """A learner's label, with its m where it was not given as much data as others."""
        top = self.top()
        label = self.learners[name].label
        return label if top[name] == max(top.values()) else f"{label} with {top[name]:,} examples"

    def _network_clause(self, advice: Advice) -> str:
        gain = advice.network_gain
        assert gain is not None and advice.best_network and advice.best_other
        network, other = (self.label_at_top(n) for n in (advice.best_network, advice.best_other))
        margin = self.change(advice.margin)
        if advice.network == "worth it":
            return f"a network is worth it: {network} beats {other} by {self.change(gain.value)}"
        if advice.network == "better":
            return (
                f"the best network, {network}, beats {other} by {self.change(gain.value)}, about "
                f"as much as matters ({margin})"
            )
        if advice.network == "not worth it":
            return (
                f"no network is worth it: the best, {network}, gains less than {margin} on {other}"
            )
        against = f"{network} against {other}: {self.span(gain)}"
        return f"whether a network is worth it is undecided ({against})"

    def to_dict(self, advice: Advice) -> dict[str, Any]:
        """All numbers of the report, ready for JSON."""
        curves = self.curves()
        return {
            "data": {
                "name": self.data.name,
                "task": self.data.task,
                "examples": len(self.data.y),
                "shape": list(self.data.x.shape[1:]),
                "classes": list(self.data.classes),
                "held_out": self.split.how,
                "notes": list(self.data.notes),
            },
            "metric": self.metric.name,
            "advice": asdict(advice),
            "curves": {
                name: [
                    {
                        "m": p.m,
                        **asdict(p.estimate),
                        "scores": {str(seed): score for seed, score in p.scores.items()},
                        "seconds": p.seconds,
                        "train_seconds": p.train_seconds,
                        "parameters": p.parameters,
                        "flops": p.flops,
                    }
                    for p in curve.points
                ]
                for name, curve in curves.items()
            },
        }


def cell(found: Estimate, percent: bool) -> str:
    """An estimate for a table: the mean and half of its interval, cut at what is possible."""
    factor = 100 if percent else 1
    text = f"{factor * found.value:.1f}" if percent else f"{found.value:.3g}"
    if found.low is None or found.high is None:
        return text
    half = factor * (found.high - found.low) / 2
    return f"{text}\N{PLUS-MINUS SIGN}" + (f"{half:.1f}" if percent else f"{half:.2g}")


def _shallow(advice: Advice) -> dict[str, Any]:
    return {name: getattr(advice, name) for name in advice.__dataclass_fields__}


def _step_verdict(gain: Estimate, margin: float) -> str:
    if gain.low is None or gain.high is None:
        return "undecided"
    if gain.low > 0:
        return "helped"
    if gain.high < 0:
        return "hurt"
    # Two one-sided tests at 5 % each: the 90 % interval lies within the margin.
    low, high = gain.interval(0.9)
    return "flat" if -margin < low and high < margin else "undecided"


def _network_verdict(gain: Estimate, margin: float) -> str:
    if gain.low is None or gain.high is None:
        return "undecided"
    if gain.low > margin:
        return "worth it"
    if gain.interval(0.9)[1] < margin:
        return "not worth it"
    return "better" if gain.low > 0 else "undecided"


def _signed(value: float) -> str:
    text = f"{value:.2g}" if abs(value) < 10 else f"{value:.0f}"
    return text.replace("-", "\N{MINUS SIGN}")
