"""`dlcore bench`: check and time this installation in about a minute, with NumPy alone.

Every result is compared with the formula in NumPy float64 before it is timed. Rates are set beside
what the machine can do: the multiply-add peak and the copy bandwidth that the binary dlcore-bench
measures where the installation has it; otherwise the fastest product of this run and NumPy's copy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcore import functional
from dlcore.info import info
from dlcore.layers import Dense, ReLU
from dlcore.network import Network
from dlcore.optimizers import SGD, Adam

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_EPS = float(np.finfo(np.float32).eps)
_REPETITIONS = 5
_NOISY = 0.25  # spread of the typical case; a quiet machine has 1 to 5 %
# Largest error of an element-wise function, in ulp (measured over [-20, 20]; the kernels promise
# 4 at most), and for the sums of a product the bound of Higham 2002, section 3.1.
_ULPS = {"relu": 0, "sigmoid": 3, "tanh": 3, "gelu": 6}


@dataclass
class Result:
    """One line of the table."""

    name: str
    seconds: float = 0.0
    fastest: float = 0.0
    spread: float = 0.0
    rate: float = 0.0
    unit: str = ""
    share: float | None = None
    wrong: str = ""


@dataclass
class _Case:
    name: str
    unit: str  # GFLOP/s, GB/s or samples/s
    work: float  # operations or bytes of a call, the products' operations of an example
    check: Callable[[], str]
    # Seconds of one call, or of one example.
    measure: Callable[[float], list[float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `dlcore bench`.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the command's name; default those of the process.

    Returns
    -------
    int
        0, or 1 if a result was wrong; such a case is not timed.

    Raises
    ------
    SystemExit
        With status 2 and a sentence if an option is wrong.
    """
    parser = argparse.ArgumentParser(prog="dlcore bench", description=__doc__)
    parser.add_argument(
        "--seconds",
        type=float,
        default=40.0,
        help="time for all measurements, default 40; checks take 10 more",
    )
    parser.add_argument(
        "--threads", type=int, help='default: those that dlcore uses by itself, see "dlcore info"'
    )
    parser.add_argument("--json", metavar="FILE", help="also write the results there")
    options = parser.parse_args(arguments)
    if not options.seconds > 0:
        parser.error(f"--seconds must be above 0, not {options.seconds:g}")
    if options.threads is not None and not 1 <= options.threads <= 1024:
        parser.error(f"--threads must lie in 1..1024, not {options.threads}")
    if options.json is not None:
        try:  # now and not after a minute
            with open(options.json, "a", encoding="utf-8"):
                pass
        except OSError as error:
            parser.error(f"--json {options.json} cannot be written: {error.strerror}")
    given = options.threads or info()["threads"]
    before = os.environ.get("DLCORE_NUM_THREADS")
    os.environ["DLCORE_NUM_THREADS"] = str(given)  # functional has no argument for it
    try:
        allowed = info()["threads"]
        if given > allowed:
            print(f"--threads {given}: this process may use {allowed} CPUs, which are taken")
        return _run(options.seconds, min(given, allowed), options.json)
    finally:
        if before is None:
            del os.environ["DLCORE_NUM_THREADS"]
        else:
            os.environ["DLCORE_NUM_THREADS"] = before


def _run(seconds: float, threads: int, json_file: str | None) -> int:
    about = info()
    print(
        f"dlcore {about['version']}, {about['kernels']} kernels, {threads} "
        f"thread{'s'[: threads != 1]}, {_cpu()}; about {seconds * 1.3 + 3:.0f} s"
    )
    limits = _limits(threads)
    each = seconds / _COUNT
    print(
        f"{'time of a call, or of one example':38} {'median':>10} {'fastest':>10} {'spread':>7} "
        f"{'rate':>12} {'':9}   share"
    )
    results = []
    for case in _cases(threads, each):
        result = _measure(case, each)
        results.append(result)
        if "fma" not in limits and result.unit == "GFLOP/s":
            best = max(limits.get("product", 0.0), result.rate * 1e9)
            limits["product"] = best
        result.share = _share(case, result, limits)
        print(_line(result), flush=True)
    print(_explain(limits))
    if _median(result.spread for result in results if not result.wrong) > _NOISY:
        print(
            "Times of the same work differ much: other programs use this machine, and the figures "
            "are too low. Stop them and run this again."
        )
    wrong = sum(bool(result.wrong) for result in results)
    if json_file is not None:
        kept = {
            "schema": 1,
            "tool": "dlcore bench",
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "command": " ".join(["dlcore", "bench", *sys.argv[2:]]),
            "versions": {"dlcore": about["version"], "numpy": about["numpy"]},
            "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "kernels": about["kernels"]},
            "threads": threads,
            "limits": limits,
            "results": [asdict(result) for result in results],
        }
        Path(json_file).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if wrong:
        print(f"{wrong} of {len(results)} results are wrong", file=sys.stderr)
    return 1 if wrong else 0


# --- The machine ------------------------------------------------------------------------------


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _limits(threads: int) -> dict[str, float]:
    """FLOP/s and bytes/s of this machine; "fma" is there only where dlcore-bench is installed."""
    bench = Path(__file__).parent / "bin" / "dlcore-bench"
    if os.access(bench, os.X_OK):
        command = [str(bench), "--limits", "--threads", str(threads), "--json", "-"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            measured = {x["name"]: float(x["rate"]) for x in json.loads(answer.stdout)["limits"]}
            copy = max(measured["copy"], measured["streaming_copy"])
            return {"fma": measured["fma"], "copy": copy}
    x = np.ones(16 << 20, np.float32)
    y = np.empty_like(x)
    return {"copy": 2 * x.nbytes / min(_times(lambda: np.copyto(y, x), 0.3))}


def _share(case: _Case, result: Result, limits: dict[str, float]) -> float | None:
    if result.wrong:
        return None
    limit = limits.get("copy" if case.unit == "GB/s" else "fma", limits.get("product"))
    return None if limit is None else case.work / result.seconds / limit


def _explain(limits: dict[str, float]) -> str:
    copy = f"a copy in memory, {limits['copy'] * 1e-9:.1f} GB/s"
    if "fma" in limits:
        return (
            f"share: products and training of the multiply-add peak, {limits['fma'] * 1e-9:.0f} "
            f"GFLOP/s, functions of arrays of {copy}"
        )
    if "product" not in limits:
        return f"share: of {copy}"
    return (
        f"share: products and training of the fastest product up to there, in the end "
        f"{limits['product'] * 1e-9:.0f} GFLOP/s (dlcore-bench, which measures the machine's peak, is "
        f"not installed), functions of arrays of {copy}"
    )


# --- Measurement ------------------------------------------------------------------------------


def _times(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of a call, some repetitions of many calls each."""
    call()
    begin = time.perf_counter()
    call()
    once = max(time.perf_counter() - begin, 1e-7)
    calls = max(1, int(seconds / _REPETITIONS / once))
    times = []
    for _ in range(_REPETITIONS):
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - begin) / calls)
    return times


def _measure(case: _Case, seconds: float) -> Result:
    wrong = case.check()
    if wrong:
        return Result(case.name, wrong=wrong, unit=case.unit)
    times = sorted(case.measure(seconds))
    median = times[len(times) // 2]
    scale = 1.0 if case.unit == "samples/s" else case.work * 1e-9
    spread = (times[-1] - times[0]) / median
    return Result(case.name, median, times[0], spread, scale / median, case.unit)


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0.0


def _line(result: Result) -> str:
    if result.wrong:
        return f"{result.name:38} WRONG, not timed: {result.wrong}"
    share = "" if result.share is None else f"  {100 * result.share:5.1f} %"
    return (
        f"{result.name:38} {_time(result.seconds):>10} {_time(result.fastest):>10} "
        f"{100 * result.spread:5.1f} % {result.rate:12,.1f} {result.unit:9}{share}"
    )


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


# --- Cases ------------------------------------------------------------------------------------


_COUNT = 16  # cases, which share the time


def _cases(threads: int, seconds: float) -> Iterator[_Case]:
    rng = np.random.default_rng(0)
    for kind in _ULPS:
        yield _element_wise(kind, rng)
    for m, k, n in ((128, 784, 512), (512, 512, 512), (1024, 1024, 1024)):
        yield from _products(m, k, n, rng)
    x = rng.integers(0, 256, (8192, 784)).astype(np.uint8)
    y = rng.integers(0, 10, len(x))
    for sizes in ((32,), (128,), (512, 512)):
        for batch, optimizer in ((32, SGD(0.01, momentum=0.9)), (128, Adam())):
            yield _training(sizes, batch, optimizer, x, y, threads, seconds)


def _element_wise(kind: str, rng: np.random.Generator) -> _Case:
    x = rng.uniform(-20, 20, 4_000_000).astype(np.float32)
    out = np.empty_like(x)
    function = getattr(functional, kind)

    def check() -> str:
        some = x[:20_000]
        expected = _EXACT[kind](some.astype(np.float64))
        unit = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
        error = np.abs(function(some).astype(np.float64) - expected) / unit
        worst = int(np.argmax(error))
        if error[worst] <= _ULPS[kind]:
            return ""
        return f"{kind}({some[worst]}) is off by {error[worst]:.1f} ulp"

    # x read, out written
    return _Case(
        f"{kind}, {len(x):,} numbers",
        "GB/s",
        8.0 * x.size,
        check,
        lambda seconds: _times(lambda: function(x, out=out), seconds),
    )


def _erfc(x: Array) -> Array:
    import math

    return np.array([math.erfc(value) for value in x])


_EXACT: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "gelu": lambda x: 0.5 * x * _erfc(-x / np.sqrt(2)),
}


def _products(m: int, k: int, n: int, rng: np.random.Generator) -> Iterator[_Case]:
    x, dy = (rng.standard_normal((m, size)).astype(np.float32) for size in (k, n))
    weight, bias = (rng.standard_normal(size).astype(np.float32) for size in ((n, k), n))
    out = np.empty((m, n), np.float32)

    def forward() -> str:
        found = functional.dense(x, weight, bias)
        return _compare("y", found, x, weight.T, bias)

    def backward() -> str:
        dx, dweight, dbias = functional.dense_backward(dy, x, weight)
        ones = np.ones((1, m), np.float32)
        return (
            _compare("dx", dx, dy, weight)
            or _compare("dweight", dweight, dy.T, x)
            or _compare("dbias", dbias[None], ones, dy)
        )

    shape = f"{m} x {k} -> {n}"
    yield _Case(
        f"dense {shape}",
        "GFLOP/s",
        2.0 * m * k * n,
        forward,
        lambda seconds: _times(lambda: functional.dense(x, weight, bias, out=out), seconds),
    )
    yield _Case(
        f"dense_backward {shape}",
        "GFLOP/s",
        4.0 * m * k * n,
        backward,
        lambda seconds: _times(lambda: functional.dense_backward(dy, x, weight), seconds),
    )


def _compare(name: str, found: Array, a: Array, b: Array, bias: Array | None = None) -> str:
    """Compare some rows of a product with the same in float64."""
    rows = np.unique(np.linspace(0, len(a) - 1, 16).astype(int))
    wide = a[rows].astype(np.float64)
    expected, terms = wide @ b.astype(np.float64), np.abs(wide) @ np.abs(b.astype(np.float64))
    if bias is not None:
        expected, terms = expected + bias, terms + np.abs(bias)
    error = np.abs(found[rows].astype(np.float64) - expected) / ((a.shape[1] + 2) * _EPS * terms)
    if np.all(error <= 1):
        return ""
    return f"{name} is off by {float(np.max(error)):.1f} times the bound of its rounding"


def _training(
    hidden: tuple[int, ...],
    batch: int,
    optimizer: SGD | Adam,
    x: Array,
    y: Array,
    threads: int,
    seconds: float,
) -> _Case:
    layers: list[Dense | ReLU] = []
    for units in hidden:
        layers += [Dense(units), ReLU()]
    network = Network([*layers, Dense(10)], input_shape=(784,), seed=0)
    name = "-".join(map(str, (784, *hidden, 10)))
    # An epoch is a fraction of the case's time on a slow core, in whole batches.
    wanted = int(seconds / 8 * 5e10 / network.flops_per_example)
    examples = min(len(x), max(wanted, 4 * batch)) // batch * batch

    def check() -> str:
        loss, gradients = network.loss_and_gradients(x[:64], y[:64], "cross_entropy")
        expected_loss, expected = _gradients(network, x[:64], y[:64])
        if not abs(loss - expected_loss) <= 1e-4 * expected_loss:
            return f"the loss is {loss}, not {expected_loss}"
        for key, value in expected.items():
            # Sums of at most thousands of float32 terms, some hundred roundings deep.
            error = float(np.max(np.abs(gradients[key] - value)) / np.max(np.abs(value)))
            if not error <= 1e-4:
                return f"the gradient of {key} is off by {error:.1e} of its largest element"
        return ""

    def measure(seconds: float) -> list[float]:
        # From the end of one epoch to that of the next: what is done once per fit does not count.
        ends: list[float] = []
        begin = time.perf_counter()

        def ended(_: dict[str, Any]) -> bool:
            ends.append(time.perf_counter())
            return len(ends) <= _REPETITIONS or ends[-1] - begin < seconds

        network.fit(
            x[:examples],
            y[:examples],
            optimizer=optimizer,
            epochs=1_000_000,
            batch_size=batch,
            threads=threads,
            on_epoch=ended,
        )
        return [(b - a) / examples for a, b in pairwise(ends)]

    title = f"train {name}, batch {batch}, {type(optimizer).__name__}"
    return _Case(title, "samples/s", float(network.flops_per_example), check, measure)


def _gradients(network: Network, x: Array, y: Array) -> tuple[float, dict[str, Array]]:
    """Mean cross-entropy and its gradients in float64, as in the textbook."""
    parameters = {key: value.astype(np.float64) for key, value in network.parameters.items()}
    names = [key.removesuffix(".weight") for key in parameters if key.endswith(".weight")]
    values = [x / 255.0]
    for name in names:
        z = values[-1] @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]
        values.append(z if name == names[-1] else np.maximum(z, 0))
    z = values[-1] - values[-1].max(axis=1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    rows = np.arange(len(y))
    d = np.exp(log_p)
    d[rows, y] -= 1
    d /= len(y)
    gradients = {}
    for name, value in zip(reversed(names), reversed(values[:-1]), strict=True):
        gradients[f"{name}.weight"], gradients[f"{name}.bias"] = d.T @ value, d.sum(axis=0)
        d = (d @ parameters[f"{name}.weight"]) * (value > 0)
    return float(-log_p[rows, y].mean()), gradients
