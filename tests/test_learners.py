"""The learners of a study: the same chances for all, and no look at what is not theirs."""

from __future__ import annotations

import numpy as np
import pytest

from dlcore.data import DataError, from_arrays
from dlcore.scaling import grid, learners, runs, training
from dlcore.scaling.learners import Learner, choose
from dlcore.scaling.metrics import Prediction, metric_for
from dlcore.scaling.runs import execute
from dlcore.scaling.study import Study
from dlcore.scaling.work import Trained, Work

TINY = {"sizes": [8], "learners": ["relu", "logistic"], "seeds": 2, "m": [20, 60]}


def test_every_learner_has_the_same_tries_on_the_same_labels(digits):
    names = ["relu", "sigmoid", "logistic", "linear-svm", "svm"]
    study = Study(digits, sizes=[4, "6x5"], learners=names, seeds=1, m=[30], store=":memory:")
    study.run()
    results = list(study.store.results(study.runs))
    assert len(results) == 7
    for result in results:
        tries = result.facts["tries"]
        assert len(tries) == 4
        assert result.facts["validated_labels"] == 30  # five folds: fewer than 50 labels each
        best = min(tries, key=lambda entry: entry["score"])
        assert result.facts["value"] == best["value"] and result.validation == best["score"]
    rates = {
        tuple(sorted(e["value"] for e in r.facts["tries"])) for r in results if r.facts["epochs"]
    }
    assert rates == {tuple(sorted(learners.LEARNING_RATES))}  # for every size and activation alike


def test_the_learning_rate_is_chosen_for_every_size(digits, monkeypatch):
    """Each size gets the rate that is best for it, wherever that lies in the grid."""
    best = {8: 3e-4, 32: 1e-2, 128: 1e-3}

    def pretend(work, jobs, done):
        for k, job in enumerate(jobs):
            wrong_rate = job.value != best[job.learner.hidden[0]]

            def predict(x, wrong_rate=wrong_rate, job=job):
                y = work.data.y[job.validation] if job.validation is not None else x[:, 0]
                return Prediction(np.full(len(x), -1) if wrong_rate else y)

            done(k, Trained(predict, 3, frozenset(), 0.0, 10, 10, trained_epochs=5))

    monkeypatch.setattr(training, "train_networks", pretend)
    work = Study(digits, sizes=[8, 32, 128], learners=["relu"], store=":memory:").work
    for name, learner in work.learners.items():
        plan = runs._Plan(work, grid.Run(name, 60, 0, {}), None)
        for fold, job in plan.tries():
            training.train(work, [job], lambda _, t, p=plan, f=fold, j=job: p.judge(f, j, t))
        last = plan.last()
        assert last.value == best[learner.hidden[0]] and last.validation is None
        assert last.epochs == 6 and len(last.rows) == 60


def test_early_stopping_works_with_twenty_labels(digits):
    """One step an epoch: patience is counted in steps, so training does not end at once, and where
    it overfits it does not go on to the limit."""
    study = Study(digits, sizes=[32], learners=["relu"], seeds=2, m=[20], store=":memory:")
    study.run()
    for result in study.store.results(study.runs):
        assert min(n for t in result.facts["tries"] for n in t["trained_epochs"]) > 200
        assert result.score < 0.6  # guessing gives 0.9
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 6))
    y = (x[:, 0] + random.normal(size=400) > 0).astype(int)  # half of it is noise
    study = Study(x, y, sizes=[32], learners=["relu"], seeds=3, m=[20], store=":memory:")
    study.run()
    for result in study.store.results(study.runs):
        tries = result.facts["tries"]
        lengths = [n for entry in tries for n in entry["trained_epochs"]]
        assert len(lengths) == 20 and min(lengths) > 200
        assert np.median(lengths) < 1000 and max(entry["epochs"] for entry in tries) > 20
        assert result.score < 0.5


def test_nothing_outside_its_m_labels_reaches_a_run(digits):
    """Other rows of the pool, and the held-out answers, change no choice and no prediction."""
    study = Study(digits, **TINY, store=":memory:")
    run = study.runs[-1]
    rows_of_run = grid.subset(study.data, study.split.pool, run.m, run.seed)
    x, y = digits.x.reshape(-1, 64).copy(), digits.y.copy()
    outside = np.setdiff1d(study.split.pool, rows_of_run)
    x[outside] = 255 - x[outside]
    flipped = Work(from_arrays(x, digits.y), study.split, study.metric, study.learners)
    plain = Work(
        from_arrays(digits.x.reshape(-1, 64), y), study.split, study.metric, study.learners
    )
    for name in study.learners:
        run = grid.Run(name, 60, 1, {})
        one, other = execute(plain, [run])[0], execute(flipped, [run])[0]
        assert one.contributions.tobytes() == other.contributions.tobytes()
        assert one.facts["tries"] == other.facts["tries"]
    y[study.split.test] = (y[study.split.test] + 1) % 10
    relabelled = Work(
        from_arrays(digits.x.reshape(-1, 64), y), study.split, study.metric, study.learners
    )
    run = grid.Run("relu-8", 60, 1, {})
    one, other = execute(plain, [run])[0], execute(relabelled, [run])[0]
    assert one.facts["tries"] == other.facts["tries"] and one.validation == other.validation
    assert one.score != other.score


def test_twenty_examples_with_a_class_missing():
    random = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [90, 90, 4])
    x = random.normal(size=(184, 2)) + 3 * np.eye(3)[y][:, :2]
    study = Study(x, y, sizes=[4], seeds=2, m=[8, 20], store=":memory:")
    outcome = study.run()
    assert outcome.left == 0 and outcome.failed == ()
    noted = {note for r in study.store.results(study.runs) for note in r.facts["notes"]}
    assert "class_missing" in noted
    assert all(0 <= r.score < 0.5 for r in study.store.results(study.runs) if r.run.m == 20)


def test_a_subset_of_one_class_predicts_it():
    y = np.repeat([0, 1], [190, 10])
    study = Study(
        np.arange(200.0)[:, None], y, sizes=[4], seeds=1, m=[5], metric="log_loss", store=":memory:"
    )
    assert study.run().failed == ()
    for result in study.store.results(study.runs):
        assert "one_class" in result.facts["notes"]
        assert result.facts["metrics"]["error"] == pytest.approx(2 / 50, abs=0.02)


def test_quantities():
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 3))
    y = 1000 + 50 * (x @ [1.0, -2.0, 0.5]) + random.normal(size=400)
    study = Study(x, y, sizes=[16], seeds=2, m=[100, 300], store=":memory:")
    assert study.run().failed == ()
    assert list(study.learners) == ["ridge", "svm", "relu-16", "sigmoid-16"]
    scores = {name: curve.value for name, curve in study.curves.items()}
    assert scores["ridge"][-1] < 1.5  # the noise is 1
    assert scores["relu-16"][-1] < 20  # the spread of y is 115: learned, in y's own unit
    assert study.advice.best == "ridge"


def test_balanced_metric_weighs_classes_in_training_too():
    random = np.random.default_rng(0)
    y = np.repeat([0, 1], [360, 40])
    x = random.normal(size=(400, 1)) + y[:, None]
    common = {"sizes": [4], "learners": ["relu", "logistic"], "seeds": 1, "m": [200]}
    plain = Study(x, y, **common, store=":memory:")
    balanced = Study(x, y, **common, metric="balanced_accuracy", store=":memory:")
    plain.run(), balanced.run()
    for name in ("logistic", "relu-4"):
        one = next(r for r in plain.store.results(plain.runs) if r.run.learner == name)
        other = next(r for r in balanced.store.results(balanced.runs) if r.run.learner == name)
        assert other.score < one.facts["metrics"]["balanced_error"] - 0.05


def test_time_and_group_splits_run(digits):
    x = digits.x.reshape(-1, 64)[:300]
    for extra in ({"times": np.arange(300)}, {"groups": np.arange(300) // 10}):
        data = from_arrays(x, digits.y[:300], **extra)
        study = Study(
            data, sizes=[4], learners=["logistic", "relu"], seeds=2, m=[60], store=":memory:"
        )
        assert study.run().failed == ()
        assert study.advice.estimate.high > study.advice.estimate.low


def test_log_loss_leaves_out_what_gives_no_probabilities(digits):
    study = Study(digits, metric="log_loss", store=":memory:")
    assert "svm" not in study.learners and "logistic" in study.learners


def test_learners_have_limits(digits, monkeypatch):
    small = Learner("svm", "SVM (RBF)", "svm", "C", (1.0, 2.0), limit=50, probabilities=False)
    monkeypatch.setitem(learners._BASELINES, "classification", (small,))
    study = Study(digits, **{**TINY, "learners": ["relu", "svm"]}, store=":memory:")
    assert {(r.learner, r.m) for r in study.runs} == {("relu-8", 20), ("relu-8", 60), ("svm", 20)}
    study.run()
    assert study.summary().top() == {"svm": 20, "relu-8": 60}
    assert study.advice.best in ("svm", "relu-8")


@pytest.mark.parametrize(
    ("names", "sizes", "task", "sentence"),
    [
        (
            ["forest"],
            [8],
            "classification",
            "--learners: 'forest' is unknown; choose among relu, sig",
        ),
        (["ridge"], [8], "classification", "--learners: 'ridge' is not for classification; choose"),
        (["logistic"], [8], "regression", "--learners: 'logistic' is not for regression; choose"),
        (["relu"], ["8x"], "classification", "--sizes: '8x' is no network size; say the units"),
        (["relu"], [0], "classification", "--sizes: 0 is no network size"),
        ([], [8], "classification", "--learners: at least one learner is needed"),
    ],
)
def test_learners_that_cannot_be_had(names, sizes, task, sentence):
    with pytest.raises(DataError, match=sentence):
        choose(names, sizes, task, metric_for(None, task))


def test_hidden_layers_are_ordered_by_size():
    metric = metric_for(None, "classification")
    chosen = choose(
        ["relu", "svm", "logistic", "tanh-9"], ["64x64", 8, (4, 4)], "classification", metric
    )
    assert list(chosen) == ["logistic", "svm", "relu-8", "tanh-9", "relu-4x4", "relu-64x64"]
