"""The benchmark tools run on tiny sizes, keep what they measure, and refuse what is wrong.

No time is asserted: only that results are compared before they are timed.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import dlcore
from dlcore import bench, functional

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
NATIVE = Path(dlcore.__file__).parent / "bin" / "dlcore-bench"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the tools are written for Linux")


def run(*command, **options):
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **options
    )


# --- dlcore bench -------------------------------------------------------------------------------


def test_bench_times_what_is_right(tmp_path, capsys):
    file = tmp_path / "bench.json"
    assert bench.main(["--seconds", "0.01", "--threads", "1", "--json", str(file)]) == 0
    kept = json.loads(file.read_text())
    assert kept["schema"] == 1
    assert kept["versions"]["dlcore"] == dlcore.__version__
    assert kept["machine"]["cpu"]
    assert len(kept["results"]) == bench._COUNT
    for result in kept["results"]:
        assert result["wrong"] == ""
        assert 0 < result["fastest"] <= result["seconds"]
        assert result["rate"] > 0
        assert result["share"] > 0
    shown = capsys.readouterr().out
    assert all(result["name"] in shown for result in kept["results"])
    units = {result["unit"] for result in kept["results"]}
    assert units == {"GFLOP/s", "GB/s", "samples/s"}


@pytest.mark.parametrize("operation", ["relu", "dense", "dense_backward"])
def test_bench_does_not_time_what_is_wrong(operation, monkeypatch, capsys):
    right = getattr(functional, operation)

    def wrong(*arguments, **keywords):
        result = right(*arguments, **keywords)
        array = result[1] if isinstance(result, tuple) else result
        array[-1] += np.float32(0.1)
        return result

    monkeypatch.setattr(functional, operation, wrong)
    assert bench.main(["--seconds", "0.01", "--threads", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if line.startswith(f"{operation},") or f"{operation} " in line]
    assert any("WRONG, not timed" in line for line in shown)


def test_bench_checks_gradients(monkeypatch, capsys):
    right = dlcore.Network.loss_and_gradients

    def wrong(self, *arguments, **keywords):
        loss, gradients = right(self, *arguments, **keywords)
        return loss, {name: value * np.float32(1.001) for name, value in gradients.items()}

    monkeypatch.setattr(dlcore.Network, "loss_and_gradients", wrong)
    assert bench.main(["--seconds", "0.01", "--threads", "1"]) == 1
    assert capsys.readouterr().out.count("WRONG, not timed: the gradient of") == 6


@pytest.mark.parametrize(
    "arguments",
    [["--seconds", "0"], ["--threads", "0"], ["--speed"], ["--json", "/nowhere/bench.json"]],
)
def test_bench_refuses_options(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main(arguments)
    assert stopped.value.code == 2
    assert "dlcore bench: error:" in capsys.readouterr().err


# --- dlcore-bench -------------------------------------------------------------------------------

native = pytest.mark.skipif(not NATIVE.exists(), reason="dlcore-bench is not installed")


@native
def test_native_checks_times_and_keeps(tmp_path):
    file = tmp_path / "native.json"
    names = "fork_join|activation_forward/relu/1000$|dense_.*/32x10/m8($|/)|gather/uint8/m32"
    names += "|dense_.*/(128x10|777x33)/m3[23]/(.*/)?f64$|activation_.*/1000/f64"
    names += "|optimizer_step/.*/25600/f64"
    command = [NATIVE, "--filter", names, "--seconds", "0.001", "--threads", "1,2"]
    answer = run(*command, "--json", file, "--revision", "here")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    kept = json.loads(file.read_text())
    assert (kept["schema"], kept["tool"], kept["revision"]) == (1, "dlcore-bench", "here")
    assert kept["versions"]["dlcore"] == dlcore.__version__
    assert kept["machine"]["cpu"]
    assert kept["kernels"] == dlcore.info()["available_kernels"][0]
    limits = {(limit["name"], limit["threads"]) for limit in kept["limits"]}
    assert limits == {
        (name, threads)
        for name in ("fma", "fma_f64", "read", "copy", "streaming_copy")
        for threads in (1, 2)
    }
    assert all(limit["rate"] > 1e8 for limit in kept["limits"])
    results = {(result["name"], result["threads"]): result for result in kept["results"]}
    assert ("fork_join", 2) in results
    forward = results["dense_forward/32x10/m8", 1]
    assert forward["unit"] == "GFLOP/s"
    assert forward["repetitions"] >= 5
    work = 2 * 32 * 10 * 8 * 1e-9
    assert forward["rate"] == pytest.approx(work / forward["seconds"]["median"], rel=1e-3)
    for result in results.values():
        assert "wrong" not in result
        assert 0 < result["seconds"]["min"] <= result["seconds"]["median"]


@native
@pytest.mark.parametrize("kernels", dlcore.info()["available_kernels"])
def test_native_takes_the_kernels_asked_for(kernels):
    answer = run(
        NATIVE, "--kernels", kernels, "--filter", "^(add|norm)/100000$|predict/784-32-10/m1$",
        "--seconds", "0.001", "--threads", "1", "--json", "-",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    kept = json.loads(answer.stdout)
    assert kept["kernels"] == kernels
    assert len(kept["results"]) == 3


@native
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--fast"], "unknown option --fast; --help lists all"),
        (["--seconds", "soon"], "--seconds needs a positive number, not soon"),
        (["--filter", "nothing-like-this"], "--filter nothing-like-this matches no case"),
        (["--filter", "("], "--filter is no regular expression"),
        (["--kernels", "avx9"], "avx9 is not available on this CPU"),
        (["--threads", "0"], "--threads needs counts such as 1,2, not 0"),
        (["--json", "/nowhere/x.json", "--limits"], "--json /nowhere/x.json cannot be written"),
    ],
)
def test_native_refuses_in_one_sentence(arguments, sentence):
    answer = run(NATIVE, *arguments)
    assert answer.returncode == 2
    assert sentence in answer.stderr
    assert answer.stderr.count("\n") == 1


# --- benchmarks/train.py ------------------------------------------------------------------------


def train(folder, *arguments, tool=BENCHMARKS / "train.py"):
    """Run the tool with this Python for every rival; its exit status and what it kept."""
    file = folder / "train.json"
    answer = run(
        sys.executable, tool, "--python", f"dlcore={sys.executable}", "--python",
        f"sklearn={sys.executable}", "--threads", "1", "--examples", "256", "--rounds", "2",
        "--seconds", "0.001", "--json", file, *arguments,
    )  # fmt: skip
    assert file.exists(), answer.stderr
    kept = json.loads(file.read_text())
    assert kept["schema"] == 1
    assert {"date", "command", "revision", "machine", "versions", "tolerances"} <= set(kept)
    return answer.returncode, kept


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_train_compares_losses_and_times(optimizer, tmp_path):
    status, kept = train(
        tmp_path, "--only", f"784-32-10/b32/{optimizer}", "--peers", "dlcore,dlcore-float32,numpy"
    )
    assert status == 0
    (case,) = kept["cases"]
    assert case["examples"] == 256
    assert [rival["name"] for rival in case["rivals"]] == ["dlcore", "dlcore-float32", "numpy"]
    for rival in case["rivals"]:
        assert len(rival["rates"]) == 2
        assert rival["median"] > 0
        assert rival.get("loss_difference", 0) <= kept["tolerances"][rival["name"]]
    assert case["rivals"][0]["loss"] < 2.3  # it learns: log(10) is chance
    assert set(case["ratios"]) == {"dlcore-float32/1", "numpy/1"}
    assert case["best_peer"] == "numpy/1"
    assert case["ratio_to_best_peer"] == case["ratios"]["numpy/1"]


def test_train_times_fleets(tmp_path):
    status, kept = train(tmp_path, "--only", "fleet", "--peers", "dlcore,numpy")
    assert status == 0
    (case,) = kept["cases"]
    assert case["networks"] == 64
    assert case["rivals"][1]["loss_difference"] <= kept["tolerances"]["numpy"]
    assert case["best_peer"] == "numpy/1"


@pytest.mark.parametrize("name", ["dlcore_runner", "numpy_runner"])
def test_train_counts_the_examples_of_all_networks(name, tmp_path, monkeypatch):
    for folder in (BENCHMARKS, BENCHMARKS / "peers"):
        monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("DLCORE_NUM_THREADS", "1")
    tool, rival = importlib.import_module("train"), importlib.import_module(name)
    tool.make_data(tmp_path, None, 128)
    case = next(c for c in tool.all_cases([1]) if c["kind"] == "fleet")
    tool.size_case(case, tool.parse(["--seconds", "0.001", "--threads", "1"]), 128)
    case |= {"folder": str(tmp_path), "data": str(tmp_path)}
    tool.write_start(case, tmp_path, steps=2)
    prepared = rival.prepare(case, 1, "uint8")
    prepared.check()
    seconds, work = prepared.time()
    assert seconds > 0
    assert work > 0
    assert work % (64 * 128) == 0


def test_train_times_functions(tmp_path):
    status, kept = train(tmp_path, "--only", "(relu|sigmoid)/.*/1000/", "--peers", "dlcore,numpy")
    assert status == 0
    assert len(kept["cases"]) == 4
    for case in kept["cases"]:
        for rival in case["rivals"]:
            assert rival["error"] <= 1e-5
            assert rival["gigabytes_per_second"] > 0
        assert case["rivals"][0]["max_ulp"] <= 3


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("rate = np.float32(self.rate)", "rate = np.float32(1.01 * self.rate)"),
        ("m *= np.float32(0.9)", "m *= np.float32(0.91)"),
        ("d /= np.float32(y.shape[-1])", "d /= np.float32(y.shape[-1] + 1)"),
    ],
)
def test_train_does_not_time_another_loss(right, wrong, tmp_path):
    copy = tmp_path / "benchmarks"
    shutil.copytree(BENCHMARKS, copy, ignore=shutil.ignore_patterns("results", "__pycache__"))
    source = copy / "peers" / "numpy_runner.py"
    text = source.read_text()
    assert text.count(right) == 1
    source.write_text(text.replace(right, wrong))
    status, kept = train(
        tmp_path, "--only", "784-32-10/b32/sgd", "--peers", "dlcore,numpy", tool=copy / "train.py"
    )
    assert status == 1
    rival = kept["cases"][0]["rivals"][1]
    assert "its loss is" in rival["refused"]
    assert "rates" not in rival
    assert "ratios" not in kept["cases"][0] or kept["cases"][0]["ratios"] == {}


def test_train_lists_the_table():
    answer = run(
        sys.executable, BENCHMARKS / "train.py", "--set", "table", "--list", "--threads", "1"
    )
    assert answer.returncode == 0
    assert len(answer.stdout.split()) == 11


def test_train_notices_that_the_machine_changed(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    tool = importlib.import_module("train")
    usual = {"fma": 5e11, "streaming_copy": 7e10}
    monkeypatch.setattr(tool, "LIMITS", {2: [dict(usual) for _ in range(5)]})
    assert not tool.other_machine([usual, usual], 2)
    assert not tool.other_machine([usual, {"fma": 4.6e11, "streaming_copy": 8e10}], 2)
    assert tool.other_machine([usual, {"fma": 2.6e11, "streaming_copy": 7e10}], 2)  # half a core
    assert tool.other_machine([{"fma": 5e11, "streaming_copy": 12e10}, usual], 2)  # far apart
    assert not tool.other_machine([{}, {}], 2)  # without dlcore-bench nobody knows


def test_load_counts_what_others_use(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    machine = importlib.import_module("machine")
    code = "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end: pass"
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    try:
        before = machine.Load(children[0].pid)
        time.sleep(0.5)
        own, others = machine.Load(children[0].pid).since(before)
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert 0.1 < own < 1.2
    assert others > 0.1


# --- benchmarks/growth.py -----------------------------------------------------------------------


def test_growth_measures_and_draws(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(BENCHMARKS)
    import growth

    base = {"layers": [784, 8, 10], "batch": 16, "threads": 1, "networks": 0}
    tiny = {
        "width": [{**base, "layers": [784, w, 10], "at": w} for w in (4, 8)],
        "fleet": [{**base, "batch": 64, "networks": k, "at": k} for k in (1, 2)],
    }
    monkeypatch.setattr(growth, "points", lambda series, threads: tiny[series])
    monkeypatch.setattr(growth, "EXAMPLES", 128)
    monkeypatch.setattr(growth, "FLEET_EXAMPLES", 128)
    monkeypatch.setattr(
        growth.machine, "limits", lambda bench, threads: {1: {"fma": 1e11, "read": 1e10}}
    )
    file, picture = tmp_path / "growth.json", tmp_path / "growth.svg"
    arguments = ["--series", "width,fleet", "--seconds", "0.001", "--threads", "1"]
    assert growth.main([*arguments, "--json", str(file), "--picture", str(picture)]) == 0
    kept = json.loads(file.read_text())
    assert kept["schema"] == 1
    for series in kept["series"].values():
        for point in series:
            assert point["least"] <= point["seconds"] <= point["most"]
            assert point["floor"] > 0
    drawn = picture.read_text()
    assert "hidden units" in drawn
    assert "networks 784-32-10" in drawn
    growth.draw(picture, kept["series"], kept["machine"]["cpu"])
    assert picture.read_text() == drawn  # the same numbers, the same file


def test_growth_floor():
    """By hand: 16 examples of 784-8-10, and a network larger than the cache."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import growth
    finally:
        sys.path.remove(str(BENCHMARKS))
    limits = {"fma": 1e9, "read": 1e9}
    point = {"layers": [784, 8, 10], "batch": 16, "networks": 0}
    operations = 16 * (4 * 784 * 8 + 6 * 8 * 10)
    assert growth.floor(point, limits, None) == pytest.approx((operations + 16 * 784) * 1e-9)
    weights = 784 * 8 + 8 * 10
    with_weights = operations + 16 * 784 + 24 * weights
    assert growth.floor(point, limits, 4 * weights) == pytest.approx(with_weights * 1e-9)


# --- benchmarks/tables.py -----------------------------------------------------------------------


def test_tables_of_the_documents_are_those_of_the_results():
    """Nobody edits a table by hand, and new results come with new tables."""
    answer = run(sys.executable, BENCHMARKS / "tables.py", "--check")
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("change", ["figure", "results"])
def test_tables_notice_a_change(change, tmp_path):
    copy = tmp_path / "benchmarks"
    shutil.copytree(BENCHMARKS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- benchmarks: training -->\n<!-- end -->\n\nText.\n")
    command = [sys.executable, copy / "tables.py"]
    assert run(*command, "--check", page).returncode == 1
    assert run(*command, page).returncode == 0
    assert run(*command, "--check", page).returncode == 0
    text = page.read_text()
    assert "784-32-10" in text
    assert text.endswith("Text.\n")
    if change == "figure":
        page.write_text(text.replace(" k/s |", "0 k/s |", 1))
    else:
        file = copy / "results" / "train.json"
        kept = json.loads(file.read_text())
        case = next(c for c in kept["cases"] if c["name"] == "train/784-32-10/b32/sgd/t2")
        case["ratio_to_best_peer"] *= 1.5
        file.write_text(json.dumps(kept))
    answer = run(*command, "--check", page)
    assert answer.returncode == 1
    assert "stale: page.md" in answer.stdout


def test_table_of_products_shows_ratios_where_a_peer_was_timed(tmp_path):
    copy = tmp_path / "benchmarks"
    shutil.copytree(BENCHMARKS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    file = copy / "results" / "native-1-thread.json"
    kept = json.loads(file.read_text())
    names = [f"dense_forward/784x32/m{batch}" for batch in (8, 32)]
    kept["results"] = [
        {"name": names[0], "share": 0.94, "peer": "oneDNN 3.2.0", "ratio": 1.0349},
        {"name": names[1], "share": 0.5},
    ]
    file.write_text(json.dumps(kept))
    page = tmp_path / "page.md"
    page.write_text("<!-- benchmarks: products -->\n<!-- end -->\n")
    assert run(sys.executable, copy / "tables.py", page).returncode == 0
    text = page.read_text()
    assert "| 784x32 | forward | 94 % (1.03x) | 50 % |" in text
    assert f"{kept['revision']}; oneDNN 3.2.0. From" in text
