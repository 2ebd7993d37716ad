"""dlcore as a rival.

The data are bytes or float32, whichever is faster, unless the mode says which. The mode "bf16"
rounds the factors of products to bfloat16, "statistics" asks for those of every layer.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import runner

import dlcore
from dlcore import functional


def network_of(sizes: list[int], parameters: list[tuple[np.ndarray, np.ndarray]]) -> dlcore.Network:
    """Dense layers with ReLU between them, and these parameters."""
    layers: list[Any] = [dlcore.Dense(sizes[1])]
    for size in sizes[2:]:
        layers += [dlcore.ReLU(), dlcore.Dense(size)]
    network = dlcore.Network(layers, input_shape=(sizes[0],))
    values = {}
    for i, (weight, bias) in enumerate(parameters):
        values[f"{2 * i}.weight"], values[f"{2 * i}.bias"] = weight, bias
    network.set_parameters(values)
    return network


def optimizer_of(case: dict[str, Any]) -> dlcore.optimizers.Optimizer:
    if case["optimizer"] == "adam":
        return dlcore.Adam(case["learning_rate"])
    return dlcore.SGD(case["learning_rate"], momentum=0.9)


class Training(runner.Training):
    def variants(self) -> list[str]:
        return [self.mode] if self.mode in ("uint8", "float32") else ["uint8", "float32"]

    def trial(self, count: int) -> float:
        self.time()  # learns how many epochs make a turn
        seconds, examples = self.time()
        return seconds / examples * count

    def _load(self, variant: str) -> None:
        x = self.floats() if variant == "float32" else self.x_bytes
        self.x, self.y = x[: self.examples], self.labels[: self.examples]

    def setup(self, variant: str) -> None:
        self._load(variant)
        self.network = network_of(self.case["layers"], self.layers)
        self.settings = {
            "loss": "cross_entropy",
            "optimizer": optimizer_of(self.case),
            "batch_size": self.batch,
            "threads": self.threads,
            "precision": "bf16" if self.mode == "bf16" else None,
            "statistics": self.mode == "statistics",
        }
        self.epochs = 1

    def epoch(self, order: np.ndarray) -> None:
        x, y = np.ascontiguousarray(self.x[order]), self.y[order]
        self.network.fit(x, y, epochs=1, shuffle=False, **self.settings)

    def loss(self, count: int) -> list[float]:
        x, y = self.x[:count], self.y[:count]
        return [self.network.evaluate(x, y, threads=self.threads)["loss"]]

    def time(self) -> tuple[float, float]:
        # Whole epochs from the end of one to the end of another: what a fit of many epochs costs,
        # with its shuffling and its snapshots, and without what is done once.
        ends: list[float] = []
        self.network.fit(
            self.x,
            self.y,
            epochs=1 + self.epochs,
            on_epoch=lambda _: ends.append(time.perf_counter()),
            **self.settings,
        )
        seconds = ends[-1] - ends[0]
        wanted = self.case["turn_seconds"] / (seconds / self.epochs)
        done, self.epochs = self.epochs, max(1, math.ceil(wanted))
        return seconds, done * self.examples


class Fleet(Training):
    """Many networks in one call, each with its own weights and its own order."""

    def setup(self, variant: str) -> None:
        self._load(variant)
        self.networks = [
            network_of(self.case["layers"], [(w[k], b[k]) for w, b in self.layers])
            for k in range(self.case["networks"])
        ]

    def _fit(self, **settings: Any) -> None:
        dlcore.fit_many(
            self.networks,
            self.x,
            self.y,
            loss="cross_entropy",
            optimizers=optimizer_of(self.case),
            epochs=1,
            batch_size=self.batch,
            threads=self.threads,
            **settings,
        )

    def epoch(self, order: np.ndarray) -> None:
        rows = order if order.ndim == 2 else np.tile(order, (len(self.networks), 1))
        self._fit(subsets=list(rows), shuffle=False)

    def loss(self, count: int) -> list[float]:
        x, y = self.x[:count], self.y[:count]
        return [network.evaluate(x, y, loss="cross_entropy")["loss"] for network in self.networks]

    def time(self) -> tuple[float, float]:
        # The whole call: there is nothing that a longer one would do once.
        count = len(self.networks)
        seconds, calls = 0.0, 0
        while seconds < self.case["turn_seconds"]:
            begin = time.perf_counter()
            self._fit(seed=range(count))
            seconds += time.perf_counter() - begin
            calls += 1
        return seconds, calls * count * self.examples


class ElementWise(runner.ElementWise):
    def ways(self) -> dict[str, Callable[[], tuple[Callable[[], object], Callable[[], Any]]]]:
        forward = getattr(functional, self.op)
        backward = getattr(functional, f"{self.op}_backward")
        out = np.empty_like(self.x)

        def way() -> tuple[Callable[[], object], Callable[[], Any]]:
            if self.direction == "forward":
                return lambda: forward(self.x, out=out), lambda: out
            return lambda: backward(self.dy, self.y, out=out), lambda: out

        return {"out": way}

    def check(self) -> dict[str, Any]:
        return {**super().check(), "max_ulp": ulps(getattr(functional, self.op), self.op)}


def ulps(function: Callable[[np.ndarray], np.ndarray], op: str) -> float:
    """Largest error over [-87, 88] in units in the last place."""
    x = np.linspace(-87, 88, 1_000_003).astype(np.float32)
    wide = x.astype(np.float64)
    expected = np.maximum(wide, 0) if op == "relu" else 1 / (1 + np.exp(-wide))
    unit = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
    return float(np.max(np.abs(function(x).astype(np.float64) - expected) / unit))


def prepare(case: dict[str, Any], threads: int, mode: str) -> runner.Case:
    # functional takes its number of threads from the environment.
    os.environ["DLCORE_NUM_THREADS"] = str(threads)
    if case["kind"] == "elementwise":
        return ElementWise(case, threads)
    return (Fleet if case["kind"] == "fleet" else Training)(case, threads, mode)


def versions() -> dict[str, str]:
    info = dlcore.info()
    return {"dlcore": info["version"], "kernels": info["kernels"], "numpy": np.__version__}


if __name__ == "__main__":
    runner.serve(prepare, versions)
