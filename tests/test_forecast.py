"""`dlcore forecast`: what it prints, its exit status, and one sentence for each wrong word."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dlcore import cli, scaling

CURVE = "m,error,se\n" + "".join(
    f"{100 * 2**j},{0.05 + 2 * (100 * 2**j) ** -0.5:.6f},0.001\n" for j in range(9)
)
FLAT = "m,error\n" + "".join(f"{100 * 2**j},{0.12 + 3 / (100 * 2**j):.6f}\n" for j in range(9))
DOCS = Path(__file__).parents[1] / "docs" / "forecast.md"


def runs(columns="parameters,examples,loss"):
    """A surface; the second column is compute where it is called so."""
    lines = [columns]
    generator = np.random.default_rng(0)
    for size in np.geomspace(1e7, 1e10, 6):
        for data in np.geomspace(1e8, 1e11, 6):
            loss = 1.69 + 406.4 / size**0.34 + 410.7 / data**0.28
            loss *= np.exp(generator.normal(0, 0.003))
            second = 6 * size * data if "compute" in columns else data
            lines.append(f"{size:.6g},{second:.6g},{loss:.6g}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("curve.csv").write_text(CURVE)
    Path("flat.csv").write_text(FLAT)
    Path("runs.csv").write_text(runs())
    return tmp_path


def said(arguments, capsys):
    assert cli.main(["forecast", *arguments]) == 0
    return capsys.readouterr().out


def found(arguments, capsys):
    """The JSON, every number finite."""

    def refuse(text):
        raise AssertionError(f"{text} in JSON")

    return json.loads(said([*arguments, "--json"], capsys), parse_constant=refuse)


def test_a_curve(here, capsys):
    text = said(["curve.csv", "--target-error", "0.057"], capsys)
    assert text.startswith("curve.csv: 9 points, 100 to 25,600 training examples, error 0.25 to ")
    assert re.search(r"51,200 +0\.05\d+ +0\.05\d+ to 0\.0\d+", text)
    assert "held 91 % of the measurements on curves kept out" in text
    assert "plateau: still falling" in text
    assert re.search(r"for an error of 0\.057: [\d.e+]+ training examples \(", text)


def test_json_says_the_same_as_the_library(here, capsys):
    answer = found(["curve.csv", "--at", "30000", "1e9", "--target-error", "0.057"], capsys)
    (curve,) = answer["curves"]
    fit = scaling.fit(scaling.LearningCurve.from_csv("curve.csv"))
    forecast = fit.predict([30000, 1e9])
    for row, ours in zip(curve["forecast"], forecast, strict=True):
        assert tuple(row.values()) == ours
    assert [row["status"] for row in curve["forecast"]] == ["ok", "undetermined"]
    assert curve["required"]["value"] == fit.required(0.057).value
    assert curve["plateau"]["flat"] is False
    assert curve["coverage"] == forecast.coverage and curve["warnings"] == list(forecast.warnings)
    assert sum(curve["weights"].values()) == pytest.approx(1)


def test_an_undetermined_value_is_not_printed(here, capsys):
    text = said(["curve.csv", "--at", "1e12"], capsys)
    assert re.search(r"1e\+12 +undetermined +0 to 0.25", text)
    assert "FAR_EXTRAPOLATION: the forecast goes further" in text


def test_one_form_and_other_bounds(here, capsys):
    options = ["curve.csv", "--form", "m2", "--loss", "l2", "--bounds", "0.01,0.3"]
    (curve,) = found(options, capsys)["curves"]
    assert curve["form"] == "power_floor"
    assert curve["parameters"]["c"] == pytest.approx(0.5, abs=1e-3)
    assert all(0.01 <= row["low"] <= row["high"] <= 0.3 for row in curve["forecast"])
    assert "power_floor: e 0.05" in said(options, capsys)


def test_several_curves_are_compared(here, capsys):
    text = said(["flat.csv", "curve.csv"], capsys)
    assert "which of flat, curve (the cheapest first" in text
    assert re.search(r"flat and curve cross at [\d,]+ training examples \([\d,?]+ to", text)
    assert "flat is better before, curve after" in text
    answer = found(["flat.csv", "curve.csv", "--delta", "0.2"], capsys)
    assert [choice["cheapest"] for choice in answer["cheapest"]] == ["flat", "flat"]
    assert answer["crossings"][0]["better_after"] == "second"


def test_a_surface(here, capsys):
    text = said(
        ["runs.csv", "--compute", "1e22", "--at", "1e10,1e12", "--target-error", "2.2"], capsys
    )
    assert text.startswith("runs.csv: LossSurface(36 runs, 1e+07..1e+10 parameters")
    assert re.search(r"chinchilla: A \d+.* \(s\.e\. .*alpha 0\.3\d+", text)
    assert "1e+22 FLOPs are best spent on" in text and "N* ~ C^0.4" in text
    assert "at 1e+10 parameters and 1e+12 examples: loss 2." in text
    assert "gains more per cost" in text and "the run that would tell most" in text
    assert re.search(r"for a loss of 2\.2: [\d.e+]+ FLOPs", text)
    answer = found(["runs.csv", "--compute", "1e22"], capsys)
    fit = scaling.fit_surface(scaling.LossSurface.from_csv("runs.csv"))
    assert answer["split"]["parameters"] == fit.optimal(1e22).parameters
    assert answer["advice"]["answer"] in ("more_data", "larger_network", "at_floor", "undecided")


def test_prices_and_place_of_a_surface(here, capsys):
    at = ["runs.csv", "--now", "1e9,1e10"]
    dear = found([*at, "--cost-example", "1", "--cost-parameter", "1e-9"], capsys)["advice"]
    cheap = found([*at, "--cost-example", "1e-9", "--cost-parameter", "1"], capsys)["advice"]
    assert (dear["answer"], cheap["answer"]) == ("larger_network", "more_data")


def test_examples_from_compute(here):
    Path("flops.csv").write_text(runs("model size,compute,loss"))
    ours = scaling.LossSurface.from_csv("flops.csv")
    assert ours.examples == pytest.approx(scaling.LossSurface.from_csv("runs.csv").examples, 1e-4)
    Path("short.csv").write_text("N,D,L,loss\n1e6,2e7,0,3.5\n")
    assert scaling.LossSurface.is_surface("short.csv")
    assert scaling.LossSurface.from_csv("short.csv").examples[0] == 2e7


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.csv"], "none.csv: cannot be read (No such file or directory)"),
        (["bad.csv"], "bad.csv: line 2, column error needs a number, found 'much'"),
        (["acc.csv"], "write an accuracy as an error, 1 - accuracy"),
        (["empty.csv"], "empty.csv: needs a header line and at least one row of numbers"),
        (["few.csv"], "form 'chinchilla' needs at least 5 rows, found 1"),
        (["curve.csv", "--target-error", "3"], "target needs a positive number in 0..1, found 3"),
        (["curve.csv", "--at", "0"], "x_new needs one axis of positive finite numbers"),
        (["curve.csv", "--at", "far"], "--at needs a number, found 'far'"),
        (["curve.csv", "--interval", "90"], "interval needs a share between 0 and 1, found 90"),
        (["curve.csv", "--form", "cubic"], "form needs one of power, "),
        (["curve.csv", "--bounds", "1"], "--bounds needs 2 numbers"),
        (["curve.csv", "--bounds", "0,0.1"], "y needs values in 0..0.1, found 0.25 at index 0"),
        (["curve.csv", "--compute", "1"], "--compute is for surfaces; curve.csv is none"),
        (["runs.csv", "--delta", "1"], "--delta is for curves; runs.csv is none"),
        (["runs.csv", "--at", "1e9"], "--at needs 2 numbers and a comma between, as N,D"),
        (
            ["runs.csv", "--cost-example", "1"],
            "--cost-example and --cost-parameter need each other",
        ),
        (["runs.csv", "--compute", "-1"], "compute needs a positive number, found -1"),
        (["runs.csv", "curve.csv"], "a surface, runs.csv, is forecast alone; found 2 files"),
        (["curve.csv", "./curve.csv"], "another file has the name curve already"),
        (["curve.csv", "--loss", "mse"], "invalid choice: 'mse'"),
        ([], "the following arguments are required: CURVE.csv"),
    ],
)
def test_wrong_words_are_one_sentence(here, capsys, arguments, sentence):
    Path("bad.csv").write_text("m,error\n10,much\n")
    Path("acc.csv").write_text("m,accuracy\n10,0.9\n")
    Path("empty.csv").write_text("m,error\n")
    Path("few.csv").write_text("parameters,examples,loss\n1,2,3\n")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["forecast", *arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1 and error.startswith("dlcore forecast: ")


CELLS = st.sampled_from(
    ["1", "10", "1e3", "0.5", "0", "-1", "nan", "inf", "1e308", "1e-300", "", "x", '"', "é"]
)
HEADS = st.sampled_from(["x,y", "m,error", "m,error,se", "parameters,examples,loss", "N,D,loss"])


@given(head=HEADS, rows=st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=8))
@example(head="x,y", rows=[["1", "1e308"], ["1", "1e308"]])
@example(head="m,error,se", rows=[["1", "1e-300", "1"]])
@example(head="m,error,se", rows=[["1", "0", "1"]])
@settings(max_examples=60)
def test_any_file_ends_in_numbers_or_a_sentence(tmp_path_factory, head, rows):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text("\n".join([head, *(",".join(row) for row in rows)]), encoding="utf-8")
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            status = cli.main(["forecast", str(path), "--json", "--target-error", "0.4"])
        except SystemExit as stopped:
            status = stopped.code
    if status == 0:
        assert not {"NaN", "Infinity", "-Infinity"} & set(re.findall(r"[A-Za-z-]+", out.getvalue()))
    else:
        assert status == 2 and error.getvalue().count("\n") == 1


def test_ctrl_c_says_so(here, capsys, monkeypatch):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("dlcore.scaling.forecast.fit", interrupt)
    assert cli.main(["forecast", "curve.csv"]) == 130
    assert capsys.readouterr().err == "dlcore forecast: interrupted\n"


def test_every_warning_is_documented():
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", DOCS.read_text(), re.MULTILINE)) == set(
        scaling.WARNINGS
    )
