"""How the time of a training step grows with batch, width, depth, threads and size of a fleet.

Beside every measured time stands its floor: the operations of the products at the multiply-add peak
measured in the same run, plus the bytes that must come from memory at the read bandwidth measured
with it. Cost must grow as the floor does.

    python benchmarks/growth.py --json benchmarks/results/growth.json --picture docs/images/growth.svg
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import machine
import numpy as np

import dlcore

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
from dlcore_runner import network_of
from train import flops_per_example

FEATURES, CLASSES = 784, 10
EXAMPLES = 60_000
OPTIMIZER = dlcore.SGD(0.01, momentum=0.9)
FLEET_EXAMPLES, FLEET_BATCH = 5_952, 64


def points(series: str, threads: int) -> list[dict[str, Any]]:
    """What is measured along one axis."""
    base = {"layers": [FEATURES, 512, CLASSES], "batch": 128, "threads": threads, "networks": 0}
    match series:
        case "batch":
            return [{**base, "batch": 2**i, "at": 2**i} for i in range(13)]
        case "width":
            widths = [2**i for i in range(3, 12)]
            return [{**base, "layers": [FEATURES, w, CLASSES], "at": w} for w in widths]
        case "depth":
            depths = (1, 2, 4, 8, 16)
            return [
                {**base, "layers": [FEATURES, *[256] * depth, CLASSES], "at": depth}
                for depth in depths
            ]
        case "threads":
            layers = [FEATURES, 512, 512, CLASSES]
            counts = range(1, threads + 1)
            return [
                {**base, "layers": layers, "batch": 1024, "threads": n, "at": n} for n in counts
            ]
        case _:
            layers = [FEATURES, 32, CLASSES]
            small = {**base, "layers": layers, "batch": FLEET_BATCH}
            return [{**small, "networks": 2**i, "at": 2**i} for i in range(8)]


def parameters(layers: Sequence[int], rng: np.random.Generator) -> list[tuple[Any, Any]]:
    return [
        (
            (rng.standard_normal((n, k)) * np.sqrt(2 / k)).astype(np.float32),
            np.zeros(n, np.float32),
        )
        for k, n in pairwise(layers)
    ]


def floor(point: dict[str, Any], limits: dict[str, float], cache: int | None) -> float:
    """Seconds of one step (of one epoch of every member, for a fleet) at the machine's limits.

    Bytes: the batch, as uint8; and where parameters and velocity are larger than the last-level
    cache, reading the parameters forward and backward and reading and writing both in the update.
    """
    layers, batch = point["layers"], point["batch"]
    count = sum(k * n for k, n in pairwise(layers))
    steps = 1
    if point["networks"]:
        steps = point["networks"] * (FLEET_EXAMPLES // FLEET_BATCH)
    operations = steps * batch * flops_per_example(layers)
    moved = steps * batch * layers[0]
    if not point["networks"] and cache is not None and 2 * 4 * count > cache:
        moved += 6 * 4 * count
    return operations / limits["fma"] + moved / limits["read"]


def step_times(point: dict[str, Any], x: np.ndarray, y: np.ndarray, seconds: float) -> list[float]:
    """Seconds of a step, from the end of one epoch to that of the next."""
    network = network_of(point["layers"], parameters(point["layers"], np.random.default_rng(1)))
    batch, ends = point["batch"], []
    # An epoch long enough for the clock, and of whole batches.
    wanted = seconds / 8 * 5e10 / network.flops_per_example
    examples = max(1, int(min(len(x), max(4 * batch, wanted))) // batch) * batch
    begin = time.perf_counter()

    def ended(_: dict[str, Any]) -> bool:
        ends.append(time.perf_counter())
        return len(ends) < 4 or ends[-1] - begin < seconds

    network.fit(
        x[:examples],
        y[:examples],
        optimizer=OPTIMIZER,
        epochs=1_000_000,
        batch_size=batch,
        threads=point["threads"],
        on_epoch=ended,
    )
    return [(b - a) / (examples // batch) for a, b in pairwise(ends)]


def fleet_times(point: dict[str, Any], x: np.ndarray, y: np.ndarray, seconds: float) -> list[float]:
    """Seconds of one epoch of all members."""
    rng = np.random.default_rng(1)
    count = point["networks"]
    networks = [network_of(point["layers"], parameters(point["layers"], rng)) for _ in range(count)]
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        dlcore.fit_many(
            networks,
            x[:FLEET_EXAMPLES],
            y[:FLEET_EXAMPLES],
            optimizers=OPTIMIZER,
            epochs=1,
            batch_size=FLEET_BATCH,
            seed=range(count),
            threads=point["threads"],
        )
        times.append(time.perf_counter() - start)
    return times


def measure(
    series: str, options: argparse.Namespace, bench: str | None, x: np.ndarray, y: np.ndarray
) -> list[dict[str, Any]]:
    """Measure one axis, and around each point the limits, of which the higher ones count.

    A machine that gives two threads one processor for a moment has that as its limit then.
    """
    cache = machine.last_level_cache()
    measured = []
    for point in points(series, options.threads):
        threads = point["threads"]
        before = machine.limits(bench, [threads]).get(threads)
        run: Callable[..., list[float]] = fleet_times if point["networks"] else step_times
        times = run(point, x, y, options.seconds)
        median = statistics.median(times)
        record = {**point, "seconds": median, "least": min(times), "most": max(times)}
        text = f"{series:8} {point['at']:6} {median * 1e6:12.1f} us"
        if before is not None:
            after = machine.limits(bench, [threads])[threads]
            limits = {name: max(rate, after[name]) for name, rate in before.items()}
            record["floor"] = floor(point, limits, cache)
            record["limits"] = limits
            text += f"   floor {record['floor'] * 1e6:12.1f} us   {100 * record['floor'] / median:5.1f} %"
        print(text, flush=True)
        measured.append(record)
    return measured


TITLES = {
    "batch": ("examples in a batch", "784-512-10"),
    "width": ("hidden units", "784-w-10, batch 128"),
    "depth": ("hidden layers of 256", "batch 128"),
    "threads": ("threads", "784-512-512-10, batch 1024"),
    "fleet": ("networks 784-32-10", "one epoch of 5,952 examples, batch 64"),
}

EXPLANATION = """The floor is the arithmetic of the products at the
multiply-add peak and the bytes that must come
from memory at its bandwidth, both measured in
the same run.

Numbers at the last points: floor / measured."""


def draw(path: Path, series: dict[str, list[dict[str, Any]]], cpu: str) -> None:
    """One panel an axis, measured times and floors, both axes in powers."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    # The same numbers give the same file; text stays text.
    settings = {"svg.hashsalt": "dlcore", "svg.fonttype": "none", "font.size": 9}
    with mpl.rc_context(settings):
        columns = 3 if len(series) > 2 else len(series)
        rows = -(-len(series) // columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(3.4 * columns, 2.9 * rows), squeeze=False
        )
        for axis in axes.flat[len(series) :]:
            axis.set_axis_off()
        if len(axes.flat) > len(series):
            axes.flat[-1].text(0, 0.95, EXPLANATION, va="top", transform=axes.flat[-1].transAxes)
        for axis, (name, measured) in zip(axes.flat, series.items(), strict=False):
            at = [point["at"] for point in measured]
            axis.plot(at, [1e3 * p["seconds"] for p in measured], "o-", ms=3, label="measured")
            if all("floor" in p for p in measured):
                axis.plot(
                    at, [1e3 * p["floor"] for p in measured], "--", color="0.4", label="floor"
                )
            last = measured[-1]
            if "floor" in last:
                share = f"{100 * last['floor'] / last['seconds']:.0f} %"
                place = (at[-1], 1e3 * last["seconds"])
                by = (-2, 8) if name == "threads" else (-9, -4)  # beside the line
                axis.annotate(share, place, by, textcoords="offset points", ha="right")
            axis.set_xscale("log", base=2)
            axis.set_xticks(at[:: -(-len(at) // 5)])
            plain = mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}")
            axis.xaxis.set_major_formatter(plain)
            axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())
            if name == "threads":  # too few times for powers
                axis.set_ylim(0, None)
            else:
                axis.set_yscale("log")
                subs = (1,) if measured[-1]["seconds"] > 100 * measured[0]["seconds"] else (1, 2, 5)
                axis.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=subs, numticks=6))
                axis.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
            axis.yaxis.set_major_formatter(plain)
            label, title = TITLES[name]
            axis.set_xlabel(label)
            axis.set_title(title, fontsize=9)
            axis.set_ylabel("ms" if name == "fleet" else "ms a step")
            axis.grid(alpha=0.25)
        axes.flat[0].legend(frameon=False)
        figure.suptitle(f"Time of a training step and its floor ({cpu})", fontsize=10)
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--series", default=",".join(TITLES), metavar="LIST", help="default all")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each point, default 2")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="the most"
    )
    parser.add_argument("--bench", metavar="FILE", help="dlcore-bench, which measures the limits")
    parser.add_argument("--json", metavar="FILE", help="where the numbers are kept")
    parser.add_argument("--picture", metavar="FILE", help="SVG to draw")
    parser.add_argument(
        "--draw", metavar="FILE", help="measure nothing: draw the numbers of an earlier run"
    )
    options = parser.parse_args(arguments)
    if options.draw:
        if not options.picture:
            parser.error("--draw needs --picture")
        kept = json.loads(Path(options.draw).read_text(encoding="utf-8"))
        draw(Path(options.picture), kept["series"], kept["machine"]["cpu"])
        return 0
    names = options.series.split(",")
    if unknown := [name for name in names if name not in TITLES]:
        parser.error(f"--series knows {', '.join(TITLES)}, not {', '.join(unknown)}")
    if options.seconds <= 0 or options.threads < 1:
        parser.error("--seconds and --threads must be positive")
    bench = machine.find_bench(options.bench, sys.executable)
    if bench is None:
        print("dlcore-bench was not found: floors are left out")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (EXAMPLES, FEATURES), dtype=np.uint8)
    y = rng.integers(0, CLASSES, EXAMPLES)
    result = machine.header("benchmarks/growth.py")
    info = dlcore.info()
    result["versions"] = {"dlcore": info["version"], "kernels": info["kernels"]}
    result["series"] = {}
    for name in names:
        result["series"][name] = measure(name, options, bench, x, y)
        if options.json:
            machine.write(Path(options.json), result)
    if options.picture:
        draw(Path(options.picture), result["series"], result["machine"]["cpu"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
