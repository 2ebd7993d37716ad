"""Memory of fit: what `Network.summary` states, what the process takes, and what it gives back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MEBIBYTE = 2**20
# Peak against statement, as promised; what is not counted is a few pages of code and stack.
MOST = 1.10
LEAST = 0.75  # a statement far above what is taken would be no statement

# Runs in a process of its own, where nothing else moves the peak. `growth` is by how much a call
# raised resident memory at its highest above what was resident before.
PRELUDE = """
import gc, json, re, sys
import numpy as np
import dlcore

def status(name):
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024

def growth(call):
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again from here
    before = status("VmRSS")
    call()
    return status("VmHWM") - before

def dense(*units, features=784, dtype="float32"):
    layers = []
    for size in units:
        layers += [dlcore.Dense(size), dlcore.ReLU()]
    return dlcore.Network([*layers, dlcore.Dense(10)], input_shape=(features,), dtype=dtype)

def stated(network, *args, part="takes", **settings):
    line = network.summary(*args, **settings).splitlines()[-1]
    number, unit = re.search(part + r" ([0-9.,]+) (bytes|kB|MB|GB)", line).groups()
    return float(number.replace(",", "")) * {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]

rng = np.random.default_rng(0)
x = rng.random((512, 784), dtype=np.float32)
y = rng.integers(0, 10, 512)
# Code and threads that every fit shares become resident here.
dense(4).fit(x, y, epochs=1, threads=2, validation_data=(x, y))
"""


def can_measure() -> str:
    """Why peaks cannot be measured here; empty where they can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        return f"the peak of resident memory cannot be reset: {error}"
    if "VmHWM:" not in Path("/proc/self/status").read_text():
        return "the system does not tell the peak of resident memory"
    return ""


pytestmark = pytest.mark.skipif(bool(can_measure()), reason=can_measure() or "measurable")


def measure(code: str, **values: Any) -> dict[str, float]:
    """Run PRELUDE and `code`, which prints one JSON object, with `values` as global names."""
    known = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    run = subprocess.run(
        [sys.executable, "-c", PRELUDE + known + code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    result: dict[str, float] = json.loads(run.stdout)
    return result


OPTIMIZERS = (
    "dlcore.SGD(0.01)",
    "dlcore.SGD(0.01, momentum=0.9)",
    "dlcore.SGD(0.01, momentum=0.9, nesterov=True)",
    "dlcore.Adam()",
    "dlcore.AdamW()",
)


# What a fit takes, the parameters that were there before it included, and what is stated.
FIT = """
optimizer = eval(optimizer)
states = {"validation": watched, "early_stopping": watched, "clip_norm": clip_norm is not None}
before = stated(network, 256, optimizer, part="parameters")
settings = {"clip_norm": clip_norm}
if watched:
    settings.update(validation_data=(x, y), early_stopping=dlcore.EarlyStopping(5))
grew = growth(
    lambda: network.fit(x, y, optimizer=optimizer, epochs=2, batch_size=256, threads=2, **settings)
)
total = stated(network, 256, optimizer, examples=len(x), **states)
print(json.dumps({"taken": grew + before, "stated": total}))
"""


@pytest.mark.parametrize("watched", [False, True], ids=["plain", "validation+early_stopping"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_summary_states_the_peak_of_a_wide_network(optimizer: str, watched: bool) -> None:
    result = measure(
        "network = dense(2048, 2048)" + FIT, optimizer=optimizer, watched=watched, clip_norm=None
    )
    assert LEAST * result["stated"] <= result["taken"] <= MOST * result["stated"], result


# Parameters of 0.2, 2.2, 2.6 and 3.7 MB: around and above the size of a huge page.
@pytest.mark.parametrize("units", [64, 660, 800, 1100])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_summary_states_the_peak_of_networks_of_a_few_megabytes(
    units: int, clip_norm: float | None
) -> None:
    result = measure(
        "network = dense(units)" + FIT,
        units=units,
        optimizer="dlcore.Adam()",
        watched=True,
        clip_norm=clip_norm,
    )
    assert LEAST * result["stated"] <= result["taken"] <= MOST * result["stated"], result


def test_summary_states_the_peak_in_float64() -> None:
    result = measure(
        "network = dense(1024, 512, dtype='float64')" + FIT,
        optimizer="dlcore.Adam()",
        watched=False,
        clip_norm=None,
    )
    assert LEAST * result["stated"] <= result["taken"] <= MOST * result["stated"], result


def test_summary_states_what_the_order_of_many_examples_takes() -> None:
    result = measure(
        """
x = rng.random((2_000_000, 3), dtype=np.float32)
y = rng.integers(0, 10, len(x))
network = dense(4, features=3)
fitting = growth(lambda: network.fit(x, y, epochs=1, batch_size=8192, threads=2))
print(json.dumps({"taken": fitting, "stated": stated(network, 8192, examples=len(x))}))
"""
    )
    assert LEAST * result["stated"] <= result["taken"] <= MOST * result["stated"], result


# Makes `x` of at least 24 MB, every page of it resident, and int64 labels.
LAYOUTS = {
    "float32": "x = rng.random((8192, 784), dtype=np.float32)",
    "float64": "x = rng.random((4096, 784))",
    "float16": "x = rng.random((16384, 784), dtype=np.float32).astype(np.float16)",
    "uint8": "x = rng.integers(0, 256, (32768, 784), dtype=np.uint8)",
    "Fortran order": "x = np.asfortranarray(rng.random((8192, 784), dtype=np.float32))",
    "every second column": "x = rng.random((8192, 2 * 784), dtype=np.float32)[:, ::2]",
    "rows backwards": "x = rng.random((8192, 784), dtype=np.float32)[::-1]",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_data_is_used_where_it_lies(layout: str) -> None:
    result = measure(
        LAYOUTS[layout]
        + """
y = rng.integers(0, 10, len(x))
assert x.nbytes >= 24e6
network = dense(32)
total = stated(network, 128, examples=len(x), validation=True, early_stopping=True)
fitting = growth(
    lambda: network.fit(
        x, y, epochs=2, threads=2, validation_data=(x, y), early_stopping=dlcore.EarlyStopping(5)
    )
)
evaluating = growth(lambda: network.evaluate(x, y, threads=2))
predicting = growth(lambda: network.predict(x, threads=2))
print(json.dumps({
    "fit": fitting, "evaluate": evaluating, "predict": predicting,
    "stated": total, "predictions": len(x) * 10 * 4,
}))
"""
    )
    assert result["fit"] <= MOST * result["stated"] + MEBIBYTE, result
    assert result["evaluate"] <= 2 * MEBIBYTE, result
    assert result["predict"] <= result["predictions"] + 2 * MEBIBYTE, result


def test_targets_of_many_values_are_used_where_they_lie() -> None:
    """Regression and many labels: y is as large as x."""
    result = measure(
        """
x = rng.random((8192, 784), dtype=np.float32)
grown = {}
for loss in ("mse", "binary_cross_entropy"):
    network = dlcore.Network([dlcore.Dense(16), dlcore.Dense(784)], input_shape=(784,))
    total = stated(network, 128, examples=len(x))
    grown[loss] = growth(lambda: network.fit(x, x, loss=loss, epochs=1, threads=2))
    grown[loss + " stated"] = total
print(json.dumps(grown))
"""
    )
    for loss in ("mse", "binary_cross_entropy"):
        assert result[loss] <= MOST * result[f"{loss} stated"] + MEBIBYTE, result


def test_a_memory_map_is_not_read_into_memory_of_its_own(tmp_path: Path) -> None:
    """The file's pages count as resident while they are read, once; a copy would count again."""
    result = measure(
        """
pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (32768, 784))
pixels[:] = 7
del pixels
x = np.load(path, mmap_mode="r")
y = rng.integers(0, 10, len(x))
network = dense(32)
total = stated(network, 128, examples=len(x))
private = []
fitting = growth(lambda: network.fit(
    x, y, epochs=2, threads=2, on_epoch=lambda record: private.append(status("RssAnon"))
))
print(json.dumps({"fit": fitting, "stated": total, "data": x.nbytes}))
""",
        path=str(tmp_path / "pixels.npy"),
    )
    assert result["fit"] <= result["data"] + MOST * result["stated"] + MEBIBYTE, result


# Cycles of everything that a network allocates, and cycles as in a loop over a grid.
LIVES = {
    "everything": (
        2000,
        """
    network.fit(x, y, epochs=2, batch_size=16, threads=2, validation_data=(x, y),
                early_stopping=dlcore.EarlyStopping(2))
    network.predict(x, threads=2)
    network.loss_and_gradients(x, y, threads=2)
""",
    ),
    "fit, predict and free": (
        10_000,
        """
    network.fit(x, y, epochs=1, batch_size=32)
    network.predict(x)
    del network
""",
    ),
}


@pytest.mark.parametrize("life", LIVES)
def test_thousands_of_networks_leave_nothing_behind(life: str) -> None:
    count, body = LIVES[life]
    result = measure(
        """
x, y = x[:64, :8], y[:64]

def cycle():
    network = dense(16, features=8)
"""
        + body
        + """

def cycles(count):
    for _ in range(count):
        cycle()
    gc.collect()
    return status("VmRSS")

before = cycles(200)
after = cycles(count)
print(json.dumps({"grew": after - before}))
""",
        count=count,
    )
    assert result["grew"] < MEBIBYTE, result


def test_the_measure_sees_a_copy() -> None:
    """The checker checked: a copy of the data, kept for a moment only, shows."""
    result = measure(
        """
x = rng.random((8192, 784), dtype=np.float32)
print(json.dumps({"grew": growth(lambda: x.copy().sum()), "data": x.nbytes}))
"""
    )
    assert result["grew"] >= 0.95 * result["data"], result
