"""Largest error of dlcore's activations over all 2**32 float32 inputs.

    python benchmarks/accuracy/ulp.py                       # sigmoid and tanh, every input
    python benchmarks/accuracy/ulp.py --step 1009           # every 1009th: seconds
    python benchmarks/accuracy/ulp.py --function all --json errors.json
    DLCORE_KERNELS=avx2 python benchmarks/accuracy/ulp.py   # another instruction set

The inputs are all bit patterns from 0 to 2**32 - 1: both zeros, subnormals, infinities and every
NaN. The error is |result - truth| / ulp(truth), the truth in float64 by formulas that keep at least
45 bits everywhere, ulp(truth) the distance of float32 numbers in its binade and 2**-149 below the
normal ones. A correctly rounded function has 0.5. NaN must give NaN, and an infinite truth must be
met exactly; anything else counts as an infinite error.

The exit status is 1 if sigmoid or tanh exceeds 2 ulp.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

INPUTS = 2**32
PART = 2**24  # inputs handed to a process at once
CHUNK = 2**16  # inputs computed at once: the temporaries stay in the second-level cache
LIMITS = {"sigmoid": 2.0, "tanh": 2.0}

ROOT_HALF = math.sqrt(0.5)
ROOT_TWO_OVER_PI = math.sqrt(2 / math.pi)


def relu(x: Floats) -> Floats:
    return np.where(x < 0, 0.0, x)


def sigmoid(x: Floats) -> Floats:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


def gelu(x: Floats) -> Floats:
    """``x * Phi(x)``; math.erfc, a call per element, only where it matters.

    Below 2**-18 the series x/2 + x**2 / sqrt(2 pi) is complete in float64 but for x**4 / 15, and
    outside [-15, 9] the result in float32 is 0 or x.
    """
    y = x * (0.5 + 0.5 * ROOT_TWO_OVER_PI * np.clip(x, -1.0, 1.0))
    y[x > 9] = x[x > 9]
    y[x < -15] = -0.0
    middle = (np.abs(x) >= 2.0**-18) & (x >= -15) & (x <= 9)
    z = x[middle]
    y[middle] = 0.5 * z * np.fromiter(map(math.erfc, (z * -ROOT_HALF).tolist()), np.float64)
    return y


def gelu_tanh(x: Floats) -> Floats:
    """``x * (1 + tanh u) / 2 = x * sigmoid(2 u)``; the right form keeps its digits for x < 0."""
    z = np.clip(x, -30.0, 30.0)  # beyond, the result is 0 or x
    y = z * sigmoid(2 * ROOT_TWO_OVER_PI * z * (1.0 + 0.044715 * z * z))
    return np.where(x > 30, x, y)


def silu(x: Floats) -> Floats:
    return np.maximum(x, -800.0) * sigmoid(x)


def softplus(x: Floats) -> Floats:
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


TRUTHS: dict[str, Callable[[Floats], Floats]] = {
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "softplus": softplus,
    "relu": relu,
}


def kernel(name: str) -> Callable[[Singles], Singles]:
    """Return the function under test; dlcore is imported in the process that runs it."""
    from dlcore import functional

    if name == "gelu_tanh":
        return partial(functional.gelu, approximate="tanh")
    function: Callable[[Singles], Singles] = getattr(functional, name)
    return function


def ulp(truth: Floats) -> Floats:
    """Distance of neighbouring float32 numbers in the binade of each finite `truth`."""
    exponent = (truth.view(np.int64) >> 52 & 0x7FF) - 1023
    spacing: Floats = ((np.clip(exponent, -126, 127) - 23 + 1023) << 52).view(np.float64)
    return spacing


def errors(result: Singles, truth: Floats) -> Floats:
    """Error of each result in ulp; infinite where NaN or infinity is missed or made up."""
    y = result.astype(np.float64)
    error: Floats = np.abs(y - truth) / ulp(truth)
    # An infinite truth leaves NaN where it is met and infinity where it is not.
    met = (y == truth) | (np.isnan(y) & np.isnan(truth))
    error[np.isnan(error)] = np.inf
    error[met] = 0.0
    return error


@dataclass
class Worst:
    """Where the largest error occurs; `inputs` is how many were tried."""

    ulp: float
    input: float
    input_bits: str
    result: float
    truth: float
    inputs: int


def measure(name: str, step: int, start: int) -> Worst:
    """Try every `step`-th input from `start` up to the next multiple of PART."""
    function, truth_of = kernel(name), TRUTHS[name]
    stop = min((start // PART + 1) * PART, INPUTS)
    worst = Worst(-1.0, 0.0, "", 0.0, 0.0, 0)
    # Overflow to infinity, and the quiet answer to a signalling NaN, are what is asked for here.
    with np.errstate(all="ignore"):
        for first in range(start, stop, CHUNK * step):
            bits = np.arange(first, min(first + CHUNK * step, stop), step).astype(np.uint32)
            x = bits.view(np.float32)
            result, truth = function(x), truth_of(x.astype(np.float64))
            error = errors(result, truth)
            i = int(np.argmax(error))
            worst.inputs += x.size
            if error[i] > worst.ulp:
                worst.ulp, worst.input_bits = float(error[i]), hex(bits[i])
                worst.input, worst.result, worst.truth = map(float, (x[i], result[i], truth[i]))
    return worst


def starts(step: int) -> Iterator[int]:
    """First input of each part, such that all parts together are range(0, INPUTS, step)."""
    for part in range(0, INPUTS, PART):
        first = -(-part // step) * step
        if first < min(part + PART, INPUTS):
            yield first


def largest(name: str, step: int, pool: ProcessPoolExecutor) -> Worst:
    """Return the worst of all parts; of equal ones the first."""
    parts = list(pool.map(partial(measure, name, step), starts(step)))
    worst = max(parts, key=lambda part: part.ulp)
    worst.inputs = sum(part.inputs for part in parts)
    return worst


def record_of(worst: Worst) -> dict[str, float | str | None]:
    """Return its fields for JSON, which has no NaN or infinity: null; the bits tell."""
    fields: dict[str, float | str] = asdict(worst)
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in fields.items()
    }


def use_one_thread() -> None:
    """Keep the core's own threads out of the way of the other processes."""
    os.environ["DLCORE_NUM_THREADS"] = "1"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    def positive(text: str) -> int:
        value = int(text)
        if value < 1:
            raise argparse.ArgumentTypeError(f"must be at least 1, found {value}")
        return value

    parser = argparse.ArgumentParser(
        description="Largest error of dlcore's activations over all 2**32 float32 inputs, in ulp."
    )
    parser.add_argument(
        "--function",
        action="append",
        choices=[*TRUTHS, "all"],
        help="may be given several times (default: sigmoid and tanh)",
    )
    parser.add_argument("--step", type=positive, default=1, help="try every STEP-th input")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    parser.add_argument(
        "--processes",
        type=positive,
        default=len(os.sched_getaffinity(0)),
        help="how many work at once (default: the CPUs this process may use)",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    chosen = options.function or ["sigmoid", "tanh"]
    names = [name for name in TRUTHS if name in chosen or "all" in chosen]

    import dlcore

    info = dlcore.info()
    print(f"dlcore {info['version']}, kernels {info['kernels']}, inputs in steps of {options.step}")
    table: dict[str, Worst] = {}
    # Spawned, not forked: a fork would inherit this process's thread pool and its settings.
    with ProcessPoolExecutor(
        options.processes, multiprocessing.get_context("spawn"), use_one_thread
    ) as pool:
        for name in names:
            begin = time.perf_counter()
            worst = table[name] = largest(name, options.step, pool)
            print(
                f"{name:<10} {worst.ulp:7.3f} ulp at x = {worst.input!r} ({worst.input_bits}): "
                f"{worst.result!r} for {worst.truth!r} ({worst.inputs} inputs, "
                f"{time.perf_counter() - begin:.0f} s)",
                flush=True,
            )
    if options.json is not None:
        record = {
            "dlcore": info["version"],
            "kernels": info["kernels"],
            "step": options.step,
            "functions": {name: record_of(worst) for name, worst in table.items()},
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    over = [
        f"{name} exceeds {limit:g} ulp"
        for name, limit in LIMITS.items()
        if name in table and table[name].ulp > limit
    ]
    if over:
        print("; ".join(over), file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
