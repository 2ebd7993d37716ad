"""Which runs a study has: held-out set, sizes of m, nested subsets, validation folds, identity.

Everything here is a function of the data and of seeds alone, so a run can be repeated anywhere from
its specification.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlcore.data import DataError, Dataset

Rows = NDArray[np.int64]

# Part of every run's identity: raise it when the way a run is made changes its numbers.
PROTOCOL = 2
TEST_FRACTION = 0.25
LARGEST_TEST = 10_000
SMALLEST_M = 20
# A choice made on fewer validated labels than this is a throw of dice; smaller m use more folds.
VALIDATED_LABELS = 50
FOLDS = 5


@dataclass(frozen=True)
class Run:
    """One cell of the grid: everything that its numbers depend on, and nothing else.

    Attributes
    ----------
    learner : str
        A name of :mod:`dlcore.scaling.learners`, such as "relu-32" or "logistic".
    m : int
        Labelled examples in the hands of the learner, those it validates on included.
    seed : int
        Draws the subset, the folds, the initial weights and the order of the batches.
    details : mapping
        Data fingerprint, metric, tuning grid, training settings and versions.
    """

    learner: str
    m: int
    seed: int
    details: Mapping[str, Any]

    def specification(self) -> str:
        """Canonical JSON of the run."""
        content = {
            "protocol": PROTOCOL,
            "learner": self.learner,
            "m": self.m,
            "seed": self.seed,
            **self.details,
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def key(self) -> str:
        """SHA-256 of the specification: the run's name in the store."""
        return hashlib.sha256(self.specification().encode()).hexdigest()


@dataclass(frozen=True)
class Split:
    """Rows to learn from and rows held out, as positions in the data's ``x`` (or ``test_x``)."""

    pool: Rows
    test: Rows
    own_test: bool  # the held-out rows are in test_x, given by the user
    how: str


def split(data: Dataset, fraction: float = TEST_FRACTION) -> Split:
    """Hold out the examples that every learner is tested on.

    Parameters
    ----------
    data : Dataset
        With a test set of its own, that is taken; with times, the latest examples; with groups,
        whole groups; else a stratified random part.
    fraction : float
        Held-out share of the rows; at most 10,000 rows are held out.

    Returns
    -------
    Split
    """
    count = len(data.y)
    everything = np.arange(count, dtype=np.int64)
    if data.test_y is not None:
        test = np.arange(len(data.test_y), dtype=np.int64)
        return Split(everything, test, True, f"a test file of {len(test):,} examples")
    size = max(1, min(round(fraction * count), LARGEST_TEST))
    if data.times is not None:
        order = np.argsort(data.times, kind="stable")
        first = data.times[order[-size]]
        pool, test = everything[data.times < first], everything[data.times >= first]
        if len(pool) < SMALLEST_M:
            raise DataError(
                f"{data.name}: only {len(pool)} examples are earlier than the {len(test)} latest; "
                "too many share one time"
            )
        return Split(pool, test, False, f"the {len(test):,} latest examples")
    random = np.random.default_rng([0, 1])
    if data.groups is not None:
        names = random.permutation(np.unique(data.groups))
        if len(names) < 4:
            raise DataError(
                f"{data.name} has {len(names)} groups; at least 4 are needed to hold some out"
            )
        sizes = np.bincount(data.groups, minlength=names.max() + 1)[names]
        taken = int(np.searchsorted(np.cumsum(sizes), size)) + 1
        held_out = names[: min(taken, len(names) - 2)]
        inside = np.isin(data.groups, held_out)
        pool, test = everything[~inside], everything[inside]
        how = f"{len(test):,} examples of {len(held_out)} groups that no learner sees"
        return Split(pool, test, False, how)
    order = nested_order(data, everything, random)
    # The front of a stratified order has every class in proportion; a class with a single example
    # stays in the pool, where it can be learned.
    test = np.sort(order[:size])
    how = f"{len(test):,} examples drawn at random" + (
        ", stratified by class" if data.classes else ""
    )
    if data.classes:
        single = np.flatnonzero(np.bincount(data.y, minlength=len(data.classes)) == 1)
        test = test[~np.isin(data.y[test], single)]
    return Split(np.setdiff1d(everything, test), test, False, how)


def nested_order(data: Dataset, rows: Rows, random: np.random.Generator) -> Rows:
    """Put rows into an order whose every beginning is a stratified random sample.

    Parameters
    ----------
    data : Dataset
        Where the classes are.
    rows : array of int
        The rows to order.
    random : numpy.random.Generator
        Draws the order.

    Returns
    -------
    array of int
        A permutation of ``rows``. For classes, any first k rows hold each class in proportion to
        within one example; quantities are in plain random order.
    """
    shuffled = random.permutation(rows)
    if not data.classes:
        return shuffled
    # Systematic sampling: the j-th of a class's n examples gets the place (j + u) / n.
    labels = data.y[shuffled]
    place = np.empty(len(shuffled))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[members] = (np.arange(len(members)) + random.random()) / len(members)
    return shuffled[np.argsort(place, kind="stable")]


def subset(data: Dataset, pool: Rows, m: int, seed: int) -> Rows:
    """The m labelled examples of a run; those of a smaller m lie inside those of a larger one.

    Parameters
    ----------
    data : Dataset
        Where the rows are.
    pool : array of int
        Rows that may be learned from.
    m : int
        How many.
    seed : int
        Draws them.

    Returns
    -------
    array of int, (m,)
    """
    return nested_order(data, pool, np.random.default_rng([seed, 2]))[:m]


def folds(data: Dataset, rows: Rows, seed: int) -> list[tuple[Rows, Rows]]:
    """Split a run's labels into parts to train on and parts to validate on.

    Parameters
    ----------
    data : Dataset
        Where classes, groups and times are.
    rows : array of int, (m,)
        The labels that the run has.
    seed : int
        Draws the split.

    Returns
    -------
    list of (train, validation)
        One fifth is validated on. Where that is fewer than 50 labels, other fifths follow as folds,
        until 50 labels or all five folds are reached. With times, the latest fifth alone.
    """
    m = len(rows)
    random = np.random.default_rng([seed, m, 3])
    count = min(FOLDS, m)
    if data.times is not None:
        order = rows[np.argsort(data.times[rows], kind="stable")]
        cut = m - max(1, m // FOLDS)
        return [(order[:cut], order[cut:])]
    if data.groups is not None and len(np.unique(data.groups[rows])) >= count:
        names, member = np.unique(data.groups[rows], return_inverse=True)
        part = (random.permutation(len(names)) % count)[member]
    else:
        order = random.permutation(m)
        if data.classes:
            order = order[np.argsort(data.y[rows][order], kind="stable")]
        # Dealing cards class by class: every part gets its share of every class.
        part = np.empty(m, np.int64)
        part[order] = np.arange(m) % count
    needed = min(count, -(-VALIDATED_LABELS * FOLDS // m))
    return [(rows[part != k], rows[part == k]) for k in range(needed)]


def sizes_of_m(pool: int, classes: int = 0, count: int = 8) -> tuple[int, ...]:
    """Log-spaced numbers of training examples, the last two a doubling apart.

    Parameters
    ----------
    pool : int
        Examples there are.
    classes : int
        How many classes; the smallest m has two examples of each in mean.
    count : int
        At most so many sizes.

    Returns
    -------
    tuple of int, increasing
        Halves of the pool where these reach down far enough, else wider steps below the last
        doubling.

    Examples
    --------
    >>> sizes_of_m(1348, 10)
    (21, 42, 84, 168, 337, 674, 1348)
    >>> sizes_of_m(60000, 10)
    (20, 68, 229, 775, 2621, 8867, 30000, 60000)
    """
    smallest = max(SMALLEST_M, min(2 * classes, pool // 4))
    halves: list[int] = []
    m = pool
    while m >= smallest and len(halves) < count:
        halves.append(m)
        m //= 2
    if m < smallest:
        return tuple(reversed(halves)) or (pool,)
    spaced = np.geomspace(smallest, pool // 2, count - 1)
    return (*(int(v) for v in np.unique(np.round(spaced).astype(int))), pool)


def check_sizes(sizes: Sequence[int], pool: int) -> tuple[int, ...]:
    """Sizes of m that a user asked for, in order.

    Parameters
    ----------
    sizes : sequence of int
        As given.
    pool : int
        Examples there are.

    Returns
    -------
    tuple of int

    Raises
    ------
    DataError
        If there is none, or one is below 5 or above ``pool``.
    """
    if not sizes:
        raise DataError("at least one number of training examples is needed")
    for m in sizes:
        if not 5 <= m <= pool:
            raise DataError(
                f"a study of m = {m} is not possible: there are {pool} examples to learn from, and "
                "at least 5 are needed"
            )
    return tuple(sorted(set(sizes)))


def runs(
    learners: Mapping[str, Mapping[str, Any]],
    limits: Mapping[str, int],
    sizes: Sequence[int],
    seeds: Sequence[int],
    common: Mapping[str, Any],
) -> Iterator[Run]:
    """All runs, in the order in which they are worth having when a study is cut short.

    Parameters
    ----------
    learners : mapping
        What identifies each learner beside its name.
    limits : mapping
        Largest m of a learner that has one.
    sizes : sequence of int
        The numbers of training examples.
    seeds : sequence of int
        The repetitions.
    common : mapping
        What all runs share.

    Yields
    ------
    Run
        Seed by seed, each a whole (smaller) study; small m first.
    """
    for seed in seeds:
        for m in sizes:
            for name, details in learners.items():
                if m <= limits.get(name, m):
                    yield Run(name, m, seed, {**common, **details})
