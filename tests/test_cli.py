"""The command line: what it prints, its exit status, and one sentence for each wrong word."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest

from dlcore import cli
from dlcore.data import DataError, load
from dlcore.scaling.predict import load_model

QUICK = ["--sizes", "6", "--seeds", "2", "--m", "40,80", "--quiet", "--workers", "1"]
NETWORK = ["--sizes", "6", "--seeds", "1", "--m", "60", "--learners", "relu", "--quiet"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(rows: int = 160) -> str:
    random = np.random.default_rng(0)
    lines = ["width,colour,price,kind"]
    for _ in range(rows):
        kind = random.integers(3)
        width, colour = kind + 0.3 * random.normal(), ("red", "blue", "green")[kind]
        lines.append(f"{width:.3f},{colour},{10 * width:.2f},{'abc'[kind]}")
    return "\n".join(lines) + "\n"


def refused(arguments: list[str], capsys) -> str:
    """The one sentence of a refusal."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "Traceback" not in said.err
    return said.err.strip()


def test_study_of_the_digits_ends_in_a_report(here, capsys):
    assert cli.main(["study", *QUICK]) == 0
    said = capsys.readouterr().out
    assert said.startswith("digits: 1,797 examples of shape 8 x 8; held out: 449 examples drawn at")
    assert "4 learners, m = 40, 80, 2 seeds: 16 runs" in said
    assert "logistic regression" in said and "With 80 labelled examples" in said
    made = sorted(p.relative_to(here).as_posix() for p in here.rglob("*") if p.is_file())
    assert [name for name in made if "study.db-" not in name] == [
        *(f"study-digits/figures/{n}.svg" for n in ("cost", "data", "networks-relu")),
        *(f"study-digits/figures/{n}.svg" for n in ("networks-sigmoid", "steps")),
        *("study-digits/model/model.json", "study-digits/model/network.safetensors"),
        *("study-digits/model/preprocessing.json", "study-digits/report.csv"),
        *("study-digits/report.html", "study-digits/report.json", "study-digits/study.db"),
    ]
    stamp = (here / "study-digits/model/network.safetensors").stat().st_mtime_ns
    assert cli.main(["study", *QUICK]) == 0
    assert "0 runs made in 0 s, 16 found in study-digits/study.db" in capsys.readouterr().out
    assert (here / "study-digits/model/network.safetensors").stat().st_mtime_ns == stamp


def test_kept_network_predicts_new_rows(here, capsys):
    (here / "train.csv").write_text(table())
    arguments = ["study", "--data", "train.csv", "--target", "kind", "--out", "s", *NETWORK]
    assert cli.main(arguments) == 0
    capsys.readouterr()
    new = "colour,price,width\nred,1,0.05\ngreen,21,2.1\nblue,9,0.9\nviolet,9,0.9\n"
    (here / "new.csv").write_text(new)  # other order, no target, one colour never seen
    assert cli.main(["predict", "--model", "s/model", "--data", "new.csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["kind"] for line in lines[:3]] == ["a", "c", "b"]
    for line in lines:
        shares = [float(line[f"probability of {name}"]) for name in "abc"]
        assert sum(shares) == pytest.approx(1, abs=1e-4)
        assert "abc"[int(np.argmax(shares))] == line["kind"]
    assert cli.main(["predict", "--model", "s/model", "--data", "new.csv", "--out", "p.csv"]) == 0
    assert len((here / "p.csv").read_text().splitlines()) == 5
    assert {path.name for path in (here / "s/model").iterdir()} == {
        *("network.safetensors", "preprocessing.json", "model.json"),
    }


def test_kept_network_is_the_one_of_the_record(here, capsys):
    assert cli.main(["study", *QUICK, "--m", "80", "--learners", "relu,sigmoid"]) == 0
    card = json.loads((here / "study-digits/model/model.json").read_text())
    data = load("digits")
    from dlcore.scaling.networks import network_prediction
    from dlcore.scaling.study import Study

    network, preprocessing = load_model(here / "study-digits/model")
    study = Study(
        data,
        sizes=[6],
        learners=["relu", "sigmoid"],
        seeds=2,
        m=[80],
        store=here / "study-digits/study.db",
    )
    x, y = study.work.held_out()
    wrong = network_prediction(network, preprocessing, x).values != y
    assert wrong.mean() == card["held_out"]["this_network"]
    result = next(r for r in study.store.results(study.runs) if r.run.key() == card["run"])
    assert np.array_equal(result.contributions, wrong)
    scores = {
        r.run.key(): r.validation
        for r in study.store.results(study.runs)
        if r.run.learner == card["learner"] and r.run.m == 80
    }
    assert scores[card["run"]] == min(scores.values())  # chosen by its own labels, not by the test


def test_regression_by_csv_and_prediction_in_its_own_unit(here, capsys):
    (here / "t.csv").write_text(table())
    arguments = ["study", "--data", "t.csv", "--target", "price", "--out", "s", *NETWORK]
    assert cli.main([*arguments, "--metric", "mae", "--margin", "0.5"]) == 0
    assert "mean absolute error" in capsys.readouterr().out
    assert cli.main(["predict", "--model", "s/model", "--data", "t.csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    truth = np.array([float(line["price"]) for line in csv.DictReader(io.StringIO(table()))])
    assert np.abs(truth - [float(line["price"]) for line in lines]).mean() < 4  # the spread is 9


def test_budget_is_obeyed_and_the_rest_is_told(here, capsys):
    assert cli.main(["study", *QUICK, "--budget", "0.000001"]) == 0
    said = capsys.readouterr().out
    assert "16 runs are left (the budget is spent); the same command goes on with the rest" in said
    assert "no run was finished within the budget; give it more seconds" in said
    assert not (here / "study-digits/report.html").exists()


def test_budget_of_runs_and_notes_on_the_terminal(here, capsys):
    (here / "t.csv").write_text(
        "x,y\n" + "".join(f"{k % 7},{int(k % 9 == 0)}\n" for k in range(90))
    )
    arguments = ["study", "--data", "t.csv", "--target", "y", "--out", "s", *NETWORK]
    assert cli.main([*arguments, "--seeds", "2", "--budget-runs", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("t: 90 examples with 1 columns; held out")
    assert "note: The classes are of unequal size: 0 80, 1 10." in said
    assert "1 run is left (the budget is spent)" in said
    assert "no learner is shown to be better than guessing" not in said  # one seed shows nothing


def test_images_in_folders_from_study_to_prediction(here, capsys):
    from PIL import Image

    for name, level in (("cat", 40), ("dog", 200)):
        (here / "pets" / name).mkdir(parents=True)
        for k in range(30):
            image = Image.fromarray(np.full((4, 4), level + k, np.uint8))
            image.save(here / "pets" / name / f"{k:02}.png")
    arguments = ["study", "--data", "pets", "--out", "s", *NETWORK, "--m", "30"]
    assert cli.main(arguments) == 0
    assert "pets: 60 examples of shape 4 x 4" in capsys.readouterr().out
    predict = ["predict", "--model", "s/model", "--data"]
    assert cli.main([*predict, "pets"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(lines) == 60 and lines[0]["file"] == "cat/00.png"
    assert all(line["file"].startswith(line["class"]) for line in lines)
    (here / "empty").mkdir()
    assert "empty holds no images" in refused([*predict, "empty"], capsys)


def test_failed_runs_give_status_one(here, capsys, monkeypatch):
    from dlcore.scaling import training

    def fails(*arguments):
        raise FloatingPointError("made to fail")

    monkeypatch.setattr(training, "train_baseline", fails)
    assert cli.main(["study", *NETWORK, "--learners", "relu,logistic"]) == 1
    said = capsys.readouterr()
    assert "dlcore study: failed: logistic, m = 60, seed 0: made to fail" in said.err
    assert "1 run is left (1 failed)" in said.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["study", "--seeds", "0"],
            "argument --seeds: a whole number of at least 1 is needed, not '0'",
        ),
        (
            ["study", "--seeds", "x"],
            "argument --seeds: a whole number of at least 1 is needed, not",
        ),
        (["study", "--m", "10,b"], "argument --m: a whole number of at least 1 is needed, not 'b'"),
        (["study", "--m", "9999"], "a study of m = 9999 is not possible: there are 1348 examples"),
        (["study", "--missing", "guess"], "argument --missing: invalid choice: 'guess'"),
        (["study", "--budget", "-1"], "--budget needs seconds above 0, not -1"),
        (["study", "--margin", "-1"], "the smallest difference that matters must be above 0"),
        (["study", "--colour"], "unrecognized arguments: --colour"),
        (["study", "--learners", "magic"], "--learners: 'magic' is unknown; choose among relu"),
        (["study", "--sizes", "many"], "--sizes: 'many' is no network size"),
        (["study", "--metric", "joy"], "--metric joy: for classification choose one of error"),
        (["study", "--data", "none.csv"], "none.csv does not exist; --data takes a file"),
        (["study", "--data", "mnist"], "mnist is read from its four idx files"),
        (["study", "--data", "mnist", "--data-dir", "none"], "--data-dir must hold the four idx"),
        (
            ["study", "--data", "t.csv"],
            "t.csv is a table; say which column to predict: --target COL",
        ),
        (
            ["study", "--data", "t.csv", "--target", "kin"],
            "--target kin: t.csv has no such column; it",
        ),
        (["study", "--out", "t.csv/x"], "--out t.csv/x cannot be made: Not a directory"),
        (["predict", "--data", "t.csv"], "the following arguments are required: --model"),
        (
            ["predict", "--model", "none", "--data", "t.csv"],
            "none holds no kept network: network.safet",
        ),
        (["dance"], "argument command: invalid choice: 'dance'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(here, capsys, arguments, sentence):
    (here / "t.csv").write_text(table())
    said = refused(arguments, capsys)
    assert said.startswith(("dlcore study: ", "dlcore predict: ", "dlcore: ")) and sentence in said


def test_broken_kept_network_is_one_sentence(here, capsys):
    assert cli.main(["study", *NETWORK]) == 0
    model = here / "study-digits/model"
    np.savez(here / "x.npz", x=load("digits").x[:3])
    arguments = ["predict", "--model", str(model), "--data", str(here / "x.npz")]
    capsys.readouterr()
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[0].startswith("digit,probability of 0,")
    np.savez(here / "wrong.npz", x=np.zeros((3, 5)))
    said = refused([*arguments[:-1], str(here / "wrong.npz")], capsys)
    assert "one example has shape (5,) but the network was trained on (8, 8)" in said
    whole = (model / "preprocessing.json").read_text()
    (model / "preprocessing.json").write_text(whole.replace("shape", "shade"))
    assert "the preprocessing cannot be read" in refused(arguments, capsys)
    changed = json.loads(whole)
    changed["shape"] = [4, 4]
    (model / "preprocessing.json").write_text(json.dumps(changed))
    assert "the files belong to different models" in refused(arguments, capsys)
    (model / "preprocessing.json").write_text(whole)
    weights = (model / "network.safetensors").read_bytes()
    (model / "network.safetensors").write_bytes(weights[:-9])
    assert "cannot be read as a kept network" in refused(arguments, capsys)


def test_prediction_names_the_row_that_is_wrong(here, capsys):
    (here / "t.csv").write_text(table())
    assert cli.main(["study", "--data", "t.csv", "--target", "kind", "--out", "s", *NETWORK]) == 0
    capsys.readouterr()
    arguments = ["predict", "--model", "s/model", "--data", "n.csv"]
    (here / "n.csv").write_text("width,colour,price\n1,red,2\nwide,red,2\n")
    assert "row 2, column 'width' of n.csv: a number is needed, not 'wide'" in refused(
        arguments, capsys
    )
    (here / "n.csv").write_text("width,colour\n1,red\n")
    assert "n.csv has no column 'price'" in refused(arguments, capsys)
    (here / "n.csv").write_text("width,colour,price\n1,red,\n")
    assert cli.main(arguments) == 0
    assert "1 missing values were filled in from the training data" in capsys.readouterr().err


def test_without_the_lab_extra_one_sentence_says_how_to_install_it(here, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_has", lambda name: name not in ("sklearn", "tqdm"))
    said = refused(["study"], capsys)
    assert said == (
        "dlcore study: scikit-learn, tqdm are not installed; install dlcore with its lab extra, in "
        "a checkout: pip install '.[lab]', or from a wheel file: pip install 'FILE.whl[lab]'"
    )
    assert "pip install dlcore" not in said


def test_help_version_and_info(capsys):
    import dlcore

    version = str(dlcore.info()["version"])
    assert cli.main([]) == 0
    assert "study" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"dlcore {version}"
    assert cli.main(["info"]) == 0
    assert "kernels" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        cli.main(["study", "--help"])
    assert stopped.value.code == 0
    assert "--learners LIST" in capsys.readouterr().out


def test_the_command_line_starts_light():
    """Help must not wait for scikit-learn, and a reader that goes away is no error."""
    program = (
        "import sys; from dlcore import cli; cli.main([]); "
        "print({'sklearn', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_data_errors_are_one_line_however_long_their_cause(capsys, monkeypatch):
    def fails(*arguments, **options):
        raise DataError("a cause\nof two lines")

    monkeypatch.setattr("dlcore.data.load", fails)
    assert refused(["study"], capsys) == "dlcore study: a cause of two lines"
