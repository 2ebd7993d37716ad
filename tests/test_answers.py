"""Metrics, estimates, and the answers that follow from the runs of a study."""

from __future__ import annotations

import numpy as np
import pytest

from dlcore.scaling import grid
from dlcore.scaling.estimates import Estimate, estimate, ties
from dlcore.scaling.learners import choose
from dlcore.scaling.metrics import METRICS, Prediction
from dlcore.scaling.runs import Result
from dlcore.scaling.study import Study
from dlcore.scaling.summary import Summary


def test_metrics_by_hand():
    y = np.array([0, 0, 0, 1])
    said = Prediction(np.array([0, 0, 1, 0]), np.array([[0.9, 0.1]] * 3 + [[1.0, 0.0]]))
    mean = {
        n: float(m.contributions(y, said, 2).mean()) for n, m in METRICS.items() if m.task[0] == "c"
    }
    assert mean["error"] == 0.5
    assert mean["balanced_error"] == pytest.approx((1 / 3 + 1) / 2)
    assert mean["log_loss"] == pytest.approx((3 * -np.log(0.9) - np.log(1e-4)) / 4)
    values = np.array([1.0, 2.0, 3.0, 6.0])
    said = Prediction(np.array([1.0, 2.0, 3.0, 2.0]))
    assert METRICS["rmse"].contributions(values, said, 0).mean() == pytest.approx(2.0)
    assert METRICS["mae"].contributions(values, said, 0).mean() == pytest.approx(1.0)
    assert METRICS["rmse"].contributions(values, Prediction(values), 0).tolist() == [0] * 4


def test_estimate_by_hand():
    table = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
    found = estimate(table)
    assert found.value == 3.0
    # Seeds: means 2 and 4, variance 2, over 2. Examples: means 2, 3, 4, variance 1, over 3.
    assert found.error == pytest.approx((2 / 2 + 1 / 3) ** 0.5)
    assert found.freedom == pytest.approx((4 / 3) ** 2 / (1 / 1 + (1 / 9) / 2))
    one = estimate(table[:1])
    assert one.low is None and one.interval(0.9) == (-np.inf, np.inf) and one.p_value() == 1.0
    grouped = estimate(table, groups=np.array([0, 0, 1]))
    # Groups: sums of residuals -1 and 1: 2 / 3^2 * 2 / 1.
    assert grouped.error == pytest.approx((1 + 4 / 9) ** 0.5)


def test_no_error_at_all_is_not_certainty():
    found = estimate(np.zeros((5, 100)), bounds=(0, 1))
    assert found.value == 0 and found.low == 0
    assert found.high == pytest.approx(1 - 0.05**0.01)


@pytest.mark.parametrize(("seeds", "examples"), [(3, 30), (5, 200), (10, 50)])
@pytest.mark.parametrize("shares", [(1.0, 1.0, 1.0), (3.0, 0.3, 1.0), (0.1, 3.0, 1.0)])
def test_intervals_cover_the_truth(seeds, examples, shares):
    """Two-way random effects: the 95 % interval holds the mean at least 93.5 % of the time."""
    random = np.random.default_rng([seeds, examples])
    by_seed, by_example, residual = shares
    inside = 0
    for _ in range(1000):
        table = (
            by_seed / 10 * random.normal(size=(seeds, 1))
            + by_example * random.normal(size=(1, examples))
            + residual * random.normal(size=(seeds, examples))
        )
        found = estimate(table)
        inside += found.low <= 0 <= found.high
    assert inside >= 935


def made_up(digits, errors: dict[tuple[str, int], float], seeds: int = 6, noise: float = 0.0):
    """A summary whose learners err on given shares of examples, independently."""
    chosen = choose(
        ["logistic", "svm", "relu-8", "relu-64"], [], "classification", METRICS["error"]
    )
    split = grid.split(digits)
    random = np.random.default_rng(3)
    results = []
    facts = {"seconds": 1.0, "train_seconds": 0.5, "parameters": 10, "flops": None, "notes": []}
    hard = random.random(len(split.test))
    for (name, m), error in errors.items():
        for seed in range(seeds):
            share = error + noise * random.normal()
            # Learners fail on the same hard examples, as real ones do, and each on some of its own.
            own = 0.9 * hard + 0.1 * random.random(len(hard))
            wrong = (own < np.quantile(own, min(max(share, 0.0), 1.0))).astype(np.float32)
            run = grid.Run(name, m, seed, {})
            results.append(Result(run, float(wrong.mean()), 0.0, wrong, facts))
    return Summary.of(results, digits, split, METRICS["error"], chosen)


def test_answer_where_data_still_helps_and_a_network_is_worth_it(digits):
    summary = made_up(
        digits,
        {
            ("logistic", 500): 0.20,
            ("logistic", 1000): 0.199,
            ("svm", 500): 0.18,
            ("svm", 1000): 0.16,
            ("relu-8", 500): 0.15,
            ("relu-8", 1000): 0.12,
            ("relu-64", 500): 0.12,
            ("relu-64", 1000): 0.05,
        },
    )
    advice = summary.advice()
    assert (advice.best, advice.network, advice.simplest) == ("relu-64", "worth it", "relu-64")
    assert advice.steps["relu-64"].verdict == "helped"
    assert advice.steps["logistic"].verdict == "flat"
    assert advice.ties == ()
    assert advice.steps["relu-64"].gain.value == pytest.approx(0.07, abs=0.004)
    assert "the last doubling of the data still helped it (by 6.9 points" in advice.sentence
    assert advice.network_gain.value == pytest.approx(0.11, abs=0.004)
    assert "a network is worth it: ReLU 64 beats SVM (RBF) by 10.9 points" in advice.sentence


def test_answer_where_a_simple_learner_suffices(digits):
    errors = {(n, m): 0.1 for n in ("logistic", "svm", "relu-8", "relu-64") for m in (500, 1000)}
    errors["relu-64", 1000] = 0.098
    advice = made_up(digits, errors).advice()
    assert (advice.network, advice.simplest) == ("not worth it", "logistic")
    assert advice.steps["logistic"].verdict == "flat"
    assert "no network is worth it" in advice.sentence
    assert "changed its error by less than 1.0 point" in advice.sentence or advice.ties


def test_no_better_than_guessing_is_said(digits):
    errors = {(n, m): 0.9 for n in ("logistic", "svm", "relu-8") for m in (500, 1000)}
    advice = made_up(digits, errors).advice()
    assert not advice.better_than_guessing
    assert "no learner is shown to be better than guessing, which gives 90.0 %" in advice.sentence
    errors = {name: 0.3 for name in errors}
    advice = made_up(digits, errors).advice()
    assert advice.better_than_guessing and "guessing" not in advice.sentence


def test_answer_where_noise_hides_it(digits):
    errors = {(n, m): 0.1 for n in ("logistic", "svm", "relu-8", "relu-64") for m in (500, 1000)}
    summary = made_up(digits, errors, noise=0.05)
    advice = summary.advice()
    assert advice.network == "undecided" and "is undecided" in advice.sentence
    assert advice.ties
    assert {step.verdict for step in advice.steps.values()} == {"undecided"}


def test_one_seed_decides_nothing(digits):
    errors = {(n, m): 0.1 if n == "svm" else 0.3 for n in ("svm", "relu-8") for m in (500, 1000)}
    advice = made_up(digits, errors, seeds=1).advice()
    assert advice.best == "svm" and advice.network == "undecided"
    assert advice.estimate.low is None and advice.ties == ("relu-8",)


def test_a_study_cut_short_compares_what_all_have(digits):
    errors = {("logistic", 500): 0.2, ("relu-8", 500): 0.1, ("logistic", 1000): 0.15}
    advice = made_up(digits, errors).advice()
    assert advice.m == 500 and advice.best == "relu-8"


def test_margin_of_a_metric_without_percent():
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 1))
    study = Study(
        x, 10 * x[:, 0], sizes=[4], learners=["ridge", "relu"], seeds=2, m=[50], store=":memory:"
    )
    study.run()
    advice = study.advice
    assert advice.margin == pytest.approx(advice.guess / 100) and 5 < advice.guess < 15
    assert study.summary().advice(2.5).margin == 2.5


def test_no_run_no_advice(digits):
    with pytest.raises(ValueError, match="advice: needs at least one finished run, found none"):
        _ = Study(digits, store=":memory:").advice


def test_holm_tells_the_clear_from_the_unclear():

    def found(z: float) -> Estimate:
        return Estimate(z, error=1.0, freedom=1e9, low=z - 2, high=z + 2, seeds=9)

    # p = 0.003, 0.02, 0.04: thresholds 0.0167, 0.025, 0.05, all told apart.
    assert ties({"a": found(2.97), "b": found(2.33), "c": found(2.06)}) == ()
    # p = 0.003, 0.03, 0.04: the second fails 0.025 and takes the third with it.
    assert ties({"a": found(2.97), "b": found(2.17), "c": found(2.06)}) == ("b", "c")
