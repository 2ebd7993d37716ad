"""Learners of scikit-learn in parts: the same answers as in one, and the same after an interruption."""

from __future__ import annotations

import numpy as np
import pytest

from dlcore.data import load
from dlcore.scaling import baselines, grid, progress
from dlcore.scaling.learners import choose
from dlcore.scaling.metrics import METRICS
from dlcore.scaling.runs import quiet_libraries
from dlcore.scaling.work import Job, Stopped, Work


@pytest.fixture(autouse=True)
def _quiet():
    with quiet_libraries():
        yield


@pytest.fixture(scope="module")
def work():
    data = load("digits")
    chosen = choose(["logistic", "linear-svm", "svm"], [], "classification", METRICS["error"])
    return Work(data, grid.split(data), METRICS["error"], chosen)


def job(work, name, value=1.0, kept=None):
    return Job(work.learners[name], value, 3, work.split.pool[:700], kept=kept)


def answers(work, made):
    said = made.predict(work.held_out()[0])
    return said.values, said.probabilities


@pytest.mark.parametrize("metric", ["error", "balanced_error"])
@pytest.mark.parametrize("name", ["svm", "linear-svm", "logistic"])
def test_parts_answer_as_the_whole(work, name, metric, monkeypatch):
    work = Work(work.data, work.split, METRICS[metric], work.learners)
    whole = baselines.train_baseline(work, job(work, name))
    monkeypatch.setattr(baselines, "PARTS_FROM", 0)
    monkeypatch.setattr(baselines, "ITERATION", 0)
    parts = baselines.train_baseline(work, job(work, name))
    one, other = answers(work, whole), answers(work, parts)
    assert parts.parameters == whole.parameters and parts.notes == whole.notes
    if name == "svm":
        assert np.array_equal(one[0], other[0])
    else:  # other ways to the same optimum
        assert np.mean(one[0] != other[0]) < 0.005
    if name == "logistic":
        assert np.abs(one[1] - other[1]).max() < 0.03


class Interrupting:
    """A work that is stopped after some parts."""

    def __init__(self, work, after):
        self.data, self.metric, self._after = work.data, work.metric, after

    def check_stop(self):
        self._after -= 1
        if self._after < 0:
            raise Stopped


@pytest.mark.parametrize("name", ["svm", "linear-svm", "logistic"])
def test_parts_that_are_done_are_not_made_again(work, name, tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "PARTS_FROM", 0)
    monkeypatch.setattr(baselines, "ITERATION", 0)
    monkeypatch.setattr(baselines, "RESTART", 5)
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    expected = answers(work, baselines.train_baseline(work, job(work, name)))
    path = tmp_path / "kept"
    for _ in range(2):
        with pytest.raises(Stopped):
            baselines.train_baseline(Interrupting(work, 2), job(work, name, kept=path))
    count = 0

    class Counting(Interrupting):
        def check_stop(self):
            nonlocal count
            count += 1

    made = baselines.train_baseline(Counting(work, 0), job(work, name, kept=path))
    parts = {"svm": 45, "linear-svm": 10}
    if name in parts:
        assert count == parts[name] - 6
    found = answers(work, made)
    assert np.array_equal(found[0], expected[0])
    if expected[1] is not None:
        assert np.array_equal(found[1], expected[1])  # to the bit
    # What was kept of another training is no use.
    count = 0
    baselines.train_baseline(Counting(work, 0), job(work, name, value=0.1, kept=path))
    assert count >= parts.get(name, 1)
    path.write_bytes(b"damaged")
    again = baselines.train_baseline(work, job(work, name, kept=path))
    assert np.array_equal(answers(work, again)[0], expected[0])
