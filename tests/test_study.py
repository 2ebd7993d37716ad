"""Studies: fair runs, a record that survives anything, and answers that follow from the runs."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from dlcore import checkpoint
from dlcore.data import DataError, from_arrays, load
from dlcore.scaling import grid, learners, progress, runs, training
from dlcore.scaling.estimates import Estimate, estimate, ties
from dlcore.scaling.learners import Learner, choose
from dlcore.scaling.metrics import METRICS, Prediction, metric_for
from dlcore.scaling.runs import Result, execute
from dlcore.scaling.study import Study
from dlcore.scaling.summary import Summary
from dlcore.scaling.work import Trained, Work

TINY = {"sizes": [8], "learners": ["relu", "logistic"], "seeds": 2, "m": [20, 60]}


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def results_of(study: Study) -> dict[str, tuple[float, bytes, float]]:
    """What must be the same however a study was run."""
    return {
        result.run.key(): (result.score, result.contributions.tobytes(), result.facts["value"])
        for result in study.store.results(study.runs)
    }


# --------------------------------------------------------------------------------------------------
# Running


def test_small_study_from_arrays_to_answer(digits, tmp_path):
    study = Study(digits.x.reshape(-1, 64), digits.y, **TINY, store=tmp_path / "study.db")
    outcome = study.run()
    assert (outcome.made, outcome.found, outcome.left, outcome.stopped) == (8, 0, 0, "")
    assert outcome.failed == ()
    curves = study.curves
    assert list(curves) == ["logistic", "relu-8"]
    assert curves["logistic"].m.tolist() == [20, 60]
    assert (np.diff(curves["logistic"].value) < 0).all()
    advice = study.advice
    assert advice.m == 60 and advice.best in curves
    assert advice.sentence.startswith("With 60 labelled examples ")
    assert study.report(tmp_path / "report.html").exists()
    assert "logistic regression" in study.table()


def test_finished_runs_are_found_and_not_made_again(digits, tmp_path):
    first = Study(digits, **TINY, store=tmp_path / "study.db")
    first.run()
    before = results_of(first)
    again = Study(digits, **{**TINY, "m": [20, 40, 60]}, store=tmp_path / "study.db")
    outcome = again.run()
    assert (outcome.made, outcome.found) == (4, 8)
    assert {key: results_of(again)[key] for key in before} == before


def test_a_changed_part_of_a_run_is_another_run(digits, tmp_path):
    keys = {run.key() for run in Study(digits, **TINY, store=":memory:").runs}
    assert len(keys) == 8
    other = from_arrays(digits.x.reshape(-1, 64) ^ 1, digits.y)
    for study in (
        Study(other, **TINY, store=":memory:"),
        Study(digits, **TINY, metric="balanced_accuracy", store=":memory:"),
        Study(digits, **{**TINY, "seeds": [7, 8]}, store=":memory:"),
        Study(digits, **{**TINY, "m": [21, 61]}, store=":memory:"),
    ):
        assert not keys & {run.key() for run in study.runs}


def test_versions_and_tuning_are_part_of_a_runs_name(digits, monkeypatch):
    before = {run.learner: run.key() for run in Study(digits, **TINY, store=":memory:").runs}
    monkeypatch.setattr(learners, "_network_versions", lambda: {"dlcore": "another"})
    after = {run.learner: run.key() for run in Study(digits, **TINY, store=":memory:").runs}
    assert before["logistic"] == after["logistic"] and before["relu-8"] != after["relu-8"]


@pytest.fixture(scope="module")
def alone(digits):
    """Every run of the tiny study made by itself."""
    study = Study(digits, **TINY, store=":memory:")
    return {run.key(): execute(study.work, [run])[0] for run in study.runs}


def same_as(alone, results) -> bool:
    return len(results) == len(alone) and all(
        (score, contributions, value)
        == (alone[key].score, alone[key].contributions.tobytes(), alone[key].facts["value"])
        for key, (score, contributions, value) in results.items()
    )


@pytest.mark.parametrize("executor", ["one thread", "two threads", "processes"])
def test_the_same_numbers_wherever_runs_are_made(digits, alone, executor):
    study = Study(digits, **TINY, store=":memory:")
    if executor == "one thread":
        study.run(workers=1)
    else:
        spawn = multiprocessing.get_context("spawn")
        pool = (
            ThreadPoolExecutor(2)
            if executor == "two threads"
            else ProcessPoolExecutor(2, mp_context=spawn)
        )
        with pool:
            assert study.run(pool).made == 8
    assert same_as(alone, results_of(study))


def test_the_same_numbers_in_one_company(digits, alone):
    study = Study(digits, **TINY, store=":memory:")
    study.store.add(execute(study.work, study.runs))
    assert same_as(alone, results_of(study))


KILLED = [
    *("study", "--sizes", "8,16", "--learners", "relu,logistic,svm", "--seeds", "2"),
    *("--m", "20,40,80,160", "--quiet", "--workers", "2"),
]


# A job in the background ignores Ctrl-C, and its children inherit that.
COMMAND = """
import signal, sys
from dlcore.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[1:]))
"""


def start(folder) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *KILLED, "--out", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def rows(folder) -> dict[str, tuple[float, bytes, str]]:
    """What a study's file holds, or nothing if there is none yet."""
    path = folder / "study.db"
    if not path.exists():
        return {}
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
    try:
        found = connection.execute("SELECT key, score, contributions, finished FROM runs")
        return {key: (score, blob, when) for key, score, blob, when in found}
    except sqlite3.OperationalError:
        return {}
    finally:
        connection.close()


def test_killed_at_any_instant_and_started_again(tmp_path):
    whole = Study(
        load("digits"),
        sizes=["8", "16"],
        learners=["relu", "logistic", "svm"],
        seeds=2,
        m=[20, 40, 80, 160],
        store=tmp_path / "study.db",
    )
    assert whole.run(workers=1).made == 32
    expected = rows(tmp_path)
    killed = tmp_path / "killed"
    for wanted in (3, 17):
        process = start(killed)
        while len(rows(killed)) < wanted and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    before = rows(killed)
    assert 17 <= len(before) < 32, "the kills came too late to show anything"
    process = start(killed)
    assert process.wait() == 0, process.stderr.read()
    process.stderr.close()
    after = rows(killed)
    assert {key: after[key] for key in before} == before  # not made again: the same time stamps
    assert {k: v[:2] for k, v in after.items()} == {k: v[:2] for k, v in expected.items()}
    told = json.loads((killed / "report.json").read_text())["advice"]
    assert told["sentence"] == whole.advice.sentence and told["steps"]["svm"]["gain"]["error"] == (
        whole.advice.steps["svm"].gain.error
    )


def test_ctrl_c_leaves_what_is_finished(tmp_path):
    process = start(tmp_path)
    while len(rows(tmp_path)) < 4 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130, process.stderr.read()
    process.stderr.close()
    assert 4 <= len(rows(tmp_path)) < 32
    assert json.loads((tmp_path / "report.json").read_text())["complete"] is False
    assert "Not complete" in (tmp_path / "report.html").read_text()


def test_budget_stops_between_runs_and_says_what_is_left(digits):
    study = Study(digits, **TINY, store=":memory:")
    outcome = study.run(budget_seconds=1e-9)
    assert (outcome.made, outcome.left, outcome.stopped) == (0, 8, "budget")
    assert study.run().made == 8


def test_budget_of_runs(digits):
    study = Study(digits, **TINY, store=":memory:")
    outcome = study.run(budget_runs=3)
    assert (outcome.made, outcome.left, outcome.stopped) == (3, 5, "budget")
    outcome = study.run(budget_runs=5)
    assert (outcome.made, outcome.found, outcome.left, outcome.stopped) == (5, 3, 0, "")
    with pytest.raises(DataError, match="a budget of runs needs at least 1, not 0"):
        study.run(budget_runs=0)


class Cut(BaseException):
    """As if the process ended here."""


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    """A folder of unfinished runs in which tries are written at once, trainings soon."""
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(checkpoint, "SECONDS", 0.002)
    folder = progress.Folder(tmp_path / "study.unfinished")
    folder.open(set())
    return folder


@pytest.mark.parametrize("damage", [None, b"", b"\x08\0\0\0\0\0\0\0{}", b"not one of ours" * 99])
def test_a_run_goes_on_within(digits, alone, unfinished, monkeypatch, damage):
    """Cut off again and again: judged tries and finished epochs are not made again."""
    study = Study(digits, **TINY, store=":memory:")
    work = replace(study.work, progress=unfinished)
    judge, judged, limit = runs._Plan.judge, [], 7
    epochs: list[int] = []

    def counted(self, fold, job, trained):
        judge(self, fold, job, trained)
        judged.append((self.key, job.value, fold))
        if limit and len(judged) % limit == 0:
            raise Cut

    monkeypatch.setattr(runs._Plan, "judge", counted)
    write = checkpoint.Checkpoint._write

    def counted_write(self, state):
        write(self, state)
        epochs.append(state["epoch"])
        if limit and len(epochs) % 3 == 0:
            raise Cut

    monkeypatch.setattr(checkpoint.Checkpoint, "_write", counted_write)
    for run in (study.runs[0], study.runs[3]):
        assert study.learners[run.learner].is_network == (run is study.runs[3])
        judged.clear()
        cuts = 0
        while True:
            try:
                (result,) = execute(work, [run])
                break
            except Cut:
                cuts += 1
                for path in unfinished.path.glob("*-*-*" if damage is not None else "none"):
                    path.write_bytes(damage)  # trainings under way, not the tries
                if cuts == 3:
                    limit = 0
        assert cuts >= 2 and len(set(judged)) == len(judged) == 20  # each try of each fold once
        expected = alone[run.key()]
        assert result.score == expected.score and result.validation == expected.validation
        assert result.contributions.tobytes() == expected.contributions.tobytes()
        same = ("tries", "epochs", "value", "metrics", "flops", "flops_with_tries", "layers")
        assert {k: result.facts[k] for k in same} == {k: expected.facts[k] for k in same}
        limit = 7
    assert list(unfinished.path.iterdir())
    unfinished.clear({run.key() for run in study.runs})
    unfinished.close()
    assert not unfinished.path.exists()


def test_broken_tries_are_made_again(digits, alone, unfinished):
    study = Study(digits, **TINY, store=":memory:")
    work = replace(study.work, progress=unfinished)
    for run in (study.runs[0], study.runs[3]):
        execute(work, [run])
        for path in unfinished.path.glob("*tries"):
            path.write_bytes(path.read_bytes()[:-5])
        (result,) = execute(work, [run])
        assert result.contributions.tobytes() == alone[run.key()].contributions.tobytes()


def test_workers_that_see_another_folder_keep_nothing(digits, unfinished):
    study = Study(digits, **TINY, store=":memory:")
    stranger = progress.Folder(unfinished.path, "owner-of-something-else")
    before = sorted(unfinished.path.iterdir())
    execute(replace(study.work, progress=stranger), study.runs[:1])
    assert sorted(unfinished.path.iterdir()) == before


def test_a_failing_run_costs_no_other_and_is_tried_again(digits, monkeypatch):
    train = training.train_baseline

    def fails(work, job):
        if job.seed == 1:
            raise FloatingPointError("made to fail")
        return train(work, job)

    study = Study(digits, **TINY, store=":memory:")
    monkeypatch.setattr(training, "train_baseline", fails)
    outcome = study.run()
    assert (outcome.made, outcome.left, outcome.stopped) == (6, 2, "failures")
    assert outcome.failed[0] == "logistic, m = 20, seed 1: made to fail"
    monkeypatch.undo()
    assert study.run().made == 2


class Dying(Executor):
    """An executor that loses its processes after some runs."""

    def __init__(self, after: int) -> None:
        self.after = after

    def submit(self, function, /, *arguments, **options):
        from concurrent.futures import BrokenExecutor

        future: Future = Future()
        self.after -= 1
        if self.after < 0:
            future.set_exception(BrokenExecutor("a child process terminated abruptly"))
        else:
            future.set_result(function(*arguments, **options))
        return future


def test_an_executor_that_dies_loses_nothing(digits):
    study = Study(digits, **TINY, store=":memory:")
    outcome = study.run(Dying(3))
    assert (outcome.made, outcome.left, outcome.stopped, outcome.failed) == (3, 5, "workers", ())
    assert study.run().left == 0


def test_progress_is_told_every_result(digits, capsys):
    seen = []
    Study(digits, **TINY, store=":memory:").run(progress=seen.append)
    assert len(seen) == 8 and all(isinstance(result, Result) for result in seen)
    Study(digits, **TINY, store=":memory:").run(progress=True)
    assert "8/8 runs" in capsys.readouterr().err


@pytest.fixture
def cluster(tmp_path):
    """A Dask scheduler and two workers, each a process of its own on the loopback device."""
    pytest.importorskip("distributed", reason="the dask extra is not installed")
    file = tmp_path / "scheduler.json"
    common = ["--no-dashboard", "--scheduler-file", str(file)]
    scheduler = ["dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    worker = ["dask_worker", "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{command[0]}", *command[1:], *common],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for command in (scheduler, worker, worker)
    ]
    try:
        yield str(file), processes[1:]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def test_on_dask_with_a_worker_killed(digits, cluster, tmp_path):
    """No run is lost and none counted twice; a worker gets the data once."""
    import distributed

    from dlcore.scaling.workers import Placement

    file, workers = cluster
    options = {**TINY, "seeds": 6, "sizes": [8, 32]}
    with distributed.Client(scheduler_file=file, timeout=60) as client:
        client.wait_for_workers(2, timeout=60)
        study = Study(digits, **options, store=tmp_path / "study.db")
        seen = []

        def kill_one(result):
            seen.append(result.run.key())
            if len(seen) == 4:
                workers[0].send_signal(signal.SIGKILL)

        outcome = study.run(client.get_executor(), progress=kill_one)
        assert workers[0].wait() == -signal.SIGKILL
        survivors = client.scheduler_info()["workers"]
        place = Placement(client.get_executor(), study.work)
        holders = client.who_has([place._handle])[place._handle.key]
        assert set(holders) == set(survivors) and len(survivors) == 1
        sent = len(pickle.dumps((place._handle.key, study.runs[:1])))
        assert sent < 5000 < digits.x.nbytes  # what goes along with a run
    assert (outcome.left, outcome.stopped, outcome.failed) == (0, "", ())
    assert outcome.made == len(study.runs) == len(study.store) == len(seen) == len(set(seen))
    here = Study(digits, **options, store=":memory:")
    here.run()
    assert results_of(here) == results_of(study)
    assert not (tmp_path / "study.unfinished").exists()


# --------------------------------------------------------------------------------------------------
# Fairness


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


def test_settings_that_cannot_be_had(digits):
    for options, sentence in (
        (
            {"metric": "rmse"},
            "--metric rmse: for classification choose one of error, balanced_error",
        ),
        ({"metric": "beauty"}, "--metric beauty: for classification choose one of"),
        ({"seeds": 0}, "a study needs at least one seed, and seeds are not negative"),
        ({"m": [3]}, "a study of m = 3 is not possible: there are 1348 examples to learn from"),
        ({"margin": 0}, "the smallest difference that matters must be above 0, not 0"),
        (
            {"learners": ["svm"], "metric": "log_loss"},
            "SVM .RBF. gives no probabilities, which log",
        ),
    ):
        with pytest.raises(DataError, match=sentence):
            Study(digits, **options, store=":memory:")
    with pytest.raises(DataError, match="a study needs y, the answers, beside x"):
        Study(digits.x, store=":memory:")


def test_a_file_that_is_no_study_is_left_alone(digits, tmp_path):
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE mine (a)")
    connection.close()
    with pytest.raises(DataError, match="is not the record of a study of this version"):
        Study(digits, **TINY, store=other)
    text = tmp_path / "text.db"
    text.write_text("not a database, but long enough to be looked at as one" * 30)
    with pytest.raises(DataError, match="cannot be used as the record of a study: file is not"):
        Study(digits, **TINY, store=text)
    assert text.read_text().startswith("not a database")


def test_hidden_layers_are_ordered_by_size():
    metric = metric_for(None, "classification")
    chosen = choose(
        ["relu", "svm", "logistic", "tanh-9"], ["64x64", 8, (4, 4)], "classification", metric
    )
    assert list(chosen) == ["logistic", "svm", "relu-8", "tanh-9", "relu-4x4", "relu-64x64"]


# --------------------------------------------------------------------------------------------------
# Metrics and estimates


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


# --------------------------------------------------------------------------------------------------
# Answers


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
        _ = Study(digits, **TINY, store=":memory:").advice


def test_holm_tells_the_clear_from_the_unclear():

    def found(z: float) -> Estimate:
        return Estimate(z, error=1.0, freedom=1e9, low=z - 2, high=z + 2, seeds=9)

    # p = 0.003, 0.02, 0.04: thresholds 0.0167, 0.025, 0.05, all told apart.
    assert ties({"a": found(2.97), "b": found(2.33), "c": found(2.06)}) == ()
    # p = 0.003, 0.03, 0.04: the second fails 0.025 and takes the third with it.
    assert ties({"a": found(2.97), "b": found(2.17), "c": found(2.06)}) == ("b", "c")
