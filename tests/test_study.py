"""Studies: runs made anywhere, and a record that survives anything."""

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
from dlcore.scaling import learners, progress, runs, training
from dlcore.scaling.runs import Result, execute
from dlcore.scaling.study import Study

TINY = {"sizes": [8], "learners": ["relu", "logistic"], "seeds": 2, "m": [20, 60]}


def results_of(study: Study) -> dict[str, tuple[float, bytes, float]]:
    """What must be the same however a study was run."""
    return {
        result.run.key(): (result.score, result.contributions.tobytes(), result.facts["value"])
        for result in study.store.results(study.runs)
    }


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
