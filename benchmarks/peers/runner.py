"""One rival of benchmarks/train.py in a process of its own.

The process reads one JSON request a line and answers each with one: prepare a case, check it, time
it. What libraries print goes to the standard error stream.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

# The short fit in which the ways a library offers are compared: most steps, and operations that a
# core does in some tenths of a second.
TRIAL_STEPS, TRIAL_OPERATIONS, TRIAL_SECONDS = 12, 2e10, 0.3


class Unsupported(Exception):
    """This rival does not do this case; the sentence says why."""


class Case(ABC):
    """Prepared work of one rival."""

    variant: str
    trials: dict[str, float | str]  # seconds of each way, or why it does not work

    @abstractmethod
    def check(self) -> dict[str, Any]:
        """What the coordinator compares before it accepts a time."""

    @abstractmethod
    def time(self) -> tuple[float, float]:
        """Seconds, and the examples (training) or calls (element-wise) done in them."""


class Training(Case):
    """Epochs of minibatch training; subclasses say how in one library.

    The files `x.npy` (uint8) and `y.npy` of the data folder hold all examples, `start.npz` of the
    case's folder the initial parameters, `w0`, `b0`, `w1`, ... with weights (out, in), and the
    orders of the epochs of the check.
    """

    # Whether a library compiles for epochs of one length; others stop when their turn is over.
    whole_epochs = False

    def __init__(self, case: dict[str, Any], threads: int, mode: str) -> None:
        self.case, self.threads, self.mode = case, threads, mode
        self.batch: int = case["batch"]
        self.examples: int = case["examples"]
        self.optimizer: str = case["optimizer"]
        self.rate: float = case["learning_rate"]
        start = np.load(Path(case["folder"]) / "start.npz")
        self.orders = start["orders"]
        self.layers = [(start[f"w{i}"], start[f"b{i}"]) for i in range(len(case["layers"]) - 1)]
        self.rng = np.random.default_rng(0)
        self._choose()

    @property
    def x_bytes(self) -> np.ndarray:
        return np.load(Path(self.case["data"]) / "x.npy")

    @property
    def labels(self) -> np.ndarray:
        return np.load(Path(self.case["data"]) / "y.npy")

    def floats(self) -> np.ndarray:
        """The examples in float32, scaled to [0, 1], as libraries keep them."""
        return self.x_bytes.astype(np.float32) * np.float32(1 / 255)

    def variants(self) -> list[str]:
        """Ways to do the same; the fastest of a trial is taken."""
        return ["only"]

    @abstractmethod
    def setup(self, variant: str) -> None:
        """Get ready to train in this way from the initial parameters."""

    @abstractmethod
    def epoch(self, order: np.ndarray) -> None:
        """Train once on the examples in this order, in batches, and wait until it is done."""

    @abstractmethod
    def loss(self, count: int) -> list[float]:
        """Mean loss of the first `count` examples; one for each network."""

    def trial_examples(self) -> int:
        sizes = self.case["layers"]
        per_step = 6 * self.batch * sum(k * n for k, n in pairwise(sizes))
        steps = max(2, min(TRIAL_STEPS, int(TRIAL_OPERATIONS / per_step)))
        return min(self.examples, steps * self.batch)

    def order(self, count: int) -> np.ndarray:
        return self.rng.permutation(self.examples)[:count]

    def _choose(self) -> None:
        self.trials = {}
        names = self.variants()
        count = self.trial_examples()
        if self.case.get("way") in names:  # chosen in an earlier run
            self.variant = self.case["way"]
            return
        for name in names if len(names) > 1 else []:
            try:
                self.setup(name)
                self.trials[name] = self.trial(count)
            except Exception as error:  # noqa: BLE001 (a way that this version does not have)
                self.trials[name] = f"{type(error).__name__}: {error}"[:200]
        times = {name: t for name, t in self.trials.items() if not isinstance(t, str)}
        if len(names) > 1 and not times:
            raise Unsupported(f"no way of {names} works: {self.trials}")
        self.variant = min(times, key=lambda name: times[name]) if times else names[0]

    def trial(self, count: int) -> float:
        """Seconds for so many examples in the way that was set up."""
        self._seconds(count)  # compiles
        times = [self._seconds(count)]
        while len(times) < 3 and sum(times) < TRIAL_SECONDS:
            times.append(self._seconds(count))
        return min(times)

    def _seconds(self, count: int) -> float:
        order = self.order(count)
        begin = time.perf_counter()
        self.epoch(order)
        return time.perf_counter() - begin

    def check(self) -> dict[str, Any]:
        self.setup(self.variant)
        for order in self.orders:
            self.epoch(order)
        return {"losses": self.loss(self.orders.shape[-1])}

    def time(self) -> tuple[float, float]:
        # The first part after a pause is cold for everybody, and not timed for anybody.
        self.epoch(self.order(self.trial_examples()))
        seconds, examples = 0.0, 0
        part = self.examples if self.whole_epochs else self.trial_examples()
        while seconds < self.case["turn_seconds"]:
            # Orders are drawn before the clock starts.
            order = self.order(self.examples)
            for begin in range(0, self.examples, part):
                start = time.perf_counter()
                self.epoch(order[..., begin : begin + part])
                seconds += time.perf_counter() - start
                examples += min(part, self.examples - begin)
                if seconds >= self.case["turn_seconds"]:
                    break
        return seconds, examples * self.case.get("networks", 1)


class ElementWise(Case):
    """relu or sigmoid of an array, forward or backward, into a result that exists if possible.

    Subclasses give `ways`: functions of (x, dy) that return a function that does the work once
    and one that gives its result as a NumPy array.
    """

    # A turn is long against the clock and short against a change of the machine's speed.
    TURN = 0.05

    def __init__(self, case: dict[str, Any], threads: int) -> None:
        self.case, self.threads = case, threads
        self.op, self.direction, size = case["op"], case["direction"], case["size"]
        rng = np.random.default_rng(0)
        self.x = rng.uniform(-8, 8, size).astype(np.float32)
        self.dy = rng.uniform(-1, 1, size).astype(np.float32)
        self.y = self.reference(self.x).astype(np.float32)
        self.trials = {}
        prepared = {}
        for name, way in self.ways().items():
            try:
                prepared[name] = way()
                prepared[name][0]()
                self.trials[name] = min(self._run(prepared[name][0], 3)[0] for _ in range(3))
            except Exception as error:  # noqa: BLE001 (a way that this version does not have)
                self.trials[name] = f"{type(error).__name__}: {error}"[:200]
        times = {name: t for name, t in self.trials.items() if not isinstance(t, str)}
        if not times:
            raise Unsupported(f"{self.op} {self.direction}: {self.trials}")
        self.variant = min(times, key=lambda name: times[name])
        self.work, self.result = prepared[self.variant]
        self.calls = max(1, int(self.TURN / max(times[self.variant] / 3, 1e-9)))

    @abstractmethod
    def ways(self) -> dict[str, Callable[[], tuple[Callable[[], object], Callable[[], Any]]]]:
        """Ways to do the same; the fastest is taken."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        wide = x.astype(np.float64)
        return np.maximum(wide, 0) if self.op == "relu" else 1 / (1 + np.exp(-wide))

    def expected(self) -> np.ndarray:
        if self.direction == "forward":
            return self.reference(self.x)
        y, dy = self.y.astype(np.float64), self.dy.astype(np.float64)
        return dy * (y > 0) if self.op == "relu" else dy * y * (1 - y)

    def _run(self, work: Callable[[], object], calls: int) -> tuple[float, int]:
        begin = time.perf_counter()
        for _ in range(calls):
            work()
        return time.perf_counter() - begin, calls

    def check(self) -> dict[str, Any]:
        self.work()
        found, expected = np.asarray(self.result(), np.float64), self.expected()
        scale = np.abs(expected) + (0 if self.direction == "forward" else np.abs(self.dy))
        error = np.abs(found - expected)
        return {"error": float(np.max(np.where(error == 0, 0, error / np.maximum(scale, 1e-38))))}

    def time(self) -> tuple[float, float]:
        self._run(self.work, max(1, self.calls // 4))
        return self._run(self.work, self.calls)


def serve(
    prepare: Callable[[dict[str, Any], int, str], Case], versions: Callable[[], dict[str, str]]
) -> None:
    """Answer requests until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--mode", default="")
    options = parser.parse_args()
    # Our answers keep the real standard output; whatever else prints goes to the other stream.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    current: Case | None = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            match request["do"]:
                case "versions":
                    answer = {"versions": {"python": sys.version.split()[0], **versions()}}
                case "prepare":
                    current = None  # frees the last one's data first
                    current = prepare(request["case"], options.threads, options.mode)
                    answer = {"variant": current.variant, "trials": current.trials}
                case "check":
                    assert current is not None
                    answer = current.check()
                case "time":
                    assert current is not None
                    seconds, work = current.time()
                    answer = {"seconds": seconds, "work": work}
        except Unsupported as error:
            answer = {"unsupported": str(error)}
        except Exception as error:  # noqa: BLE001 (the coordinator reports it)
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
