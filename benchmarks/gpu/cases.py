"""The cases of GPU evidence: dlcore and its rivals on the same work, compared before any time counts.

All train by SGD with momentum from the same weights, on the same batches in the same order, from
data that lies on the device. A time is that of one step, or of one step of all networks: the median
over epochs, the first ones left out.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import dlcore
from dlcore import _core

LEARNING_RATE, MOMENTUM = 0.02, 0.9


@dataclass(frozen=True)
class Case:
    """One network, or `networks` of it, and how it is trained."""

    name: str
    hidden: tuple[int, ...]
    batch: int
    steps: int  # an epoch
    epochs: int
    precision: str = "tf32"
    networks: int = 1
    inputs: int = 784
    classes: int = 10

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.inputs, *self.hidden, self.classes)

    @property
    def work(self) -> str:
        shape = "-".join(map(str, self.sizes))
        several = f"{self.networks} networks " if self.networks > 1 else ""
        return f"{several}{shape}, batch {self.batch}, {self.precision}"

    def flops(self) -> int:
        """Of one step of all networks: forward, weight gradients, input gradients but the first."""
        products = [a * b for a, b in zip(self.sizes, self.sizes[1:], strict=False)]
        return self.networks * 2 * self.batch * (3 * sum(products) - products[0])


FULL = (
    Case("a", (128,), 128, 468, 12),
    Case("b", (512, 512), 1024, 58, 20),
    Case("c", (2048, 2048, 2048), 4096, 14, 12, precision="bf16"),
    Case("d", (128,), 128, 64, 6, networks=256),
    Case("f", (512, 512), 1024, 16, 6, networks=16),  # too large for a population
)
SMALL = (
    Case("a", (16,), 16, 6, 4, inputs=24),
    Case("b", (32, 24), 32, 4, 4, inputs=24),
    Case("c", (32, 32, 32), 64, 3, 4, precision="bf16", inputs=24),
    Case("d", (16,), 16, 4, 4, networks=9, inputs=24),
    Case("f", (32, 32), 32, 4, 4, networks=3, inputs=24),
)
#: How far losses may differ: tf32 keeps 10 bits, bfloat16 7, and hundreds of steps follow.
TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 3e-2}


@dataclass
class Problem:
    """What every rival gets."""

    case: Case
    x: np.ndarray  # uint8, (rows, inputs)
    y: np.ndarray
    weights: list[list[tuple[np.ndarray, np.ndarray]]]  # by network and layer, (out, in) and (out,)
    orders: np.ndarray  # (networks, epochs, steps, batch)


def make(case: Case) -> tuple[Problem, list[dlcore.Network]]:
    """Return the data and the networks; random pixels, labelled by a random linear map."""
    rng = np.random.default_rng(0)
    rows = case.batch * case.steps
    x = rng.integers(0, 256, (rows, case.inputs), dtype=np.uint8)
    y = (x.astype(np.float32) @ rng.standard_normal((case.inputs, case.classes))).argmax(axis=1)
    layers = [step for width in case.hidden for step in (dlcore.Dense(width), dlcore.ReLU())]
    networks = [
        dlcore.Network([*layers, dlcore.Dense(case.classes)], case.inputs, seed=k)
        for k in range(case.networks)
    ]
    weights = []
    for network in networks:
        values = list(network.parameters.values())
        weights.append(list(zip(values[::2], values[1::2], strict=True)))
    orders = np.stack(
        [
            np.stack(
                [
                    _core.random_permutation(k, epoch * case.steps, rows)
                    for epoch in range(case.epochs)
                ]
            ).reshape(case.epochs, case.steps, case.batch)
            for k in range(case.networks)
        ]
    )
    return Problem(case, x, y, weights, orders), networks


def least(call: Callable[[], object], times: int) -> float:
    """Seconds of the quickest of several calls that return when their work is done."""
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def torch_seconds(call: Callable[[], object], times: int) -> float:
    """Median seconds of a call on torch's stream, by its events."""
    import torch

    for _ in range(3):
        call()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    torch.cuda.synchronize()
    pairs = itertools.pairwise(marks)
    return statistics.median(a.elapsed_time(b) for a, b in pairs) / 1000


def steady(seconds: list[float]) -> tuple[float, float]:
    """Return the median and the distance of the quartiles of all but the first epochs."""
    rest = sorted(seconds[2:] or seconds)
    low, high = rest[len(rest) // 4], rest[3 * len(rest) // 4]
    return statistics.median(rest), high - low


def result_of(
    losses: list[float], seconds: list[float], case: Case, expected: list[float] | None
) -> dict[str, Any]:
    """Return a rival's entry: seconds of a step, and whether its losses are those of dlcore."""
    median, spread = steady(seconds)
    first = expected or losses
    worst = max(abs(a - b) / abs(b) for a, b in zip(losses[:2], first[:2], strict=True))
    return {
        "seconds": median / case.steps,
        "spread": spread / case.steps,
        "epochs": len(seconds),
        "loss": losses[:2] + losses[-1:],
        "difference": worst,
        "agrees": bool(worst <= TOLERANCE[case.precision]),
    }


def train_dlcore(
    problem: Problem, networks: list[dlcore.Network]
) -> tuple[dict[str, Any], list[float]]:
    """Train with dlcore; the first loss of some networks is compared with the CPU's float32."""
    case = problem.case
    optimizer = dlcore.SGD(LEARNING_RATE, momentum=MOMENTUM)
    data = problem.x, problem.y
    options: dict[str, Any] = {"optimizer": optimizer, "batch_size": case.batch}
    some = sorted({0, case.networks // 2, case.networks - 1})
    expected = {
        k: dlcore.Network(networks[k].layers, networks[k].input_shape, seed=k)
        .fit(*data, epochs=1, seed=k, **options)
        .loss[0]
        for k in some
    }
    options |= {"precision": case.precision, "epochs": case.epochs}
    if case.networks == 1:
        histories = [networks[0].to("cuda").fit(*data, seed=0, **options)]
        seconds = histories[0].seconds
    else:
        seeds = list(range(case.networks))
        seconds = []
        for _ in range(4):
            # Again from the same weights: a call's own preparations belong to its time.
            fleet = [dlcore.Network(n.layers, n.input_shape, seed=n.seed) for n in networks]
            fleet = [network.to("cuda") for network in fleet]
            begin = time.perf_counter()
            histories = dlcore.fit_many(fleet, *data, seed=seeds, **options)
            seconds.append((time.perf_counter() - begin) / case.epochs)
    losses = [float(np.mean([h.loss[e] for h in histories])) for e in range(case.epochs)]
    entry = result_of(losses, seconds, case, None)
    entry["difference"] = max(
        abs(histories[k].loss[0] - value) / abs(value) for k, value in expected.items()
    )
    entry["agrees"] = bool(entry["difference"] <= TOLERANCE[case.precision])
    return {**entry, "engine": histories[0].engine, "precision": case.precision}, losses


def elementwise(small: bool, copy_rate: float) -> Iterator[dict[str, Any]]:
    """ReLU and sigmoid forward and backward on 1e8 float32: what moves is what counts."""
    from dlcore import _cuda

    count = 10**4 if small else 10**8
    rng = np.random.default_rng(0)
    x = dlcore.device_array(rng.standard_normal(count, np.float32))
    dy = dlcore.device_array(rng.standard_normal(count, np.float32))
    y, dx = (dlcore.device_array(np.zeros(count, np.float32)) for _ in range(2))
    for kind in ("relu", "sigmoid"):

        def both(kind: str = kind) -> None:
            _cuda.activation_forward(kind, x, 0.0, y)
            _cuda.activation_backward(kind, dy, y, 0.0, dx)

        both()
        # As on the CPU, to the bit, on a part of it.
        part = slice(0, 10_000)
        expected = _core.activation_forward(kind, x.numpy()[part], 0.0, None)
        gradient = _core.activation_backward(kind, dy.numpy()[part], expected, 0.0, None)
        agrees = bool((y.numpy()[part] == expected).all() and (dx.numpy()[part] == gradient).all())
        seconds = least(both, 3 if small else 20)
        yield {
            "case": f"e-{kind}",
            "work": f"{kind} forward and backward, {count:.0e} float32",
            "unit": "a pair",
            "bytes": 20 * count,
            "floor_seconds": 20 * count / copy_rate if copy_rate else None,
            "dlcore": {
                "seconds": seconds,
                "agrees": agrees,
                "engine": "functional",
                "precision": "fp32",
            },
            "peers": torch_elementwise(kind, count),
        }


def torch_elementwise(kind: str, count: int) -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        return {"torch": {"absent": "torch is not installed"}}
    if not torch.cuda.is_available():
        return {"torch": {"absent": "torch sees no GPU"}}
    x, dy = torch.randn(count, device="cuda"), torch.randn(count, device="cuda")
    forward = torch.relu if kind == "relu" else torch.sigmoid
    backward = (
        torch.ops.aten.threshold_backward if kind == "relu" else torch.ops.aten.sigmoid_backward
    )

    def both() -> None:
        y = forward(x)
        backward(dy, y, 0.0) if kind == "relu" else backward(dy, y)

    return {"torch": {"seconds": torch_seconds(both, 20), "agrees": True}}


def measure(
    small: bool, ceilings: dict[str, float | None], deadline: float
) -> Iterator[dict[str, Any]]:
    """Yield the entry of every case; rivals that the time no longer allows are absent."""
    from benchmarks.gpu import peers_jax, peers_torch

    bf16 = ceilings.get("bf16_flops") or 0.0
    for case in SMALL if small else FULL:
        problem, networks = make(case)
        own, losses = train_dlcore(problem, networks)
        peers: dict[str, Any] = {}
        for name, train in {**peers_torch.RIVALS, **peers_jax.RIVALS}.items():
            if time.monotonic() > deadline:
                peers[name] = {"absent": "no time was left"}
                continue
            try:
                answer = train(problem)
            except Exception as error:  # noqa: BLE001 - a rival's failure is a result
                peers[name] = {"absent": f"{type(error).__name__}: {error}"[:300]}
                continue
            if isinstance(answer, str):
                peers[name] = {"absent": answer}
            else:
                peers[name] = result_of(*answer, case, losses)
        # tf32 runs at half of bfloat16's rate.
        rate = bf16 if case.precision == "bf16" else bf16 / 2
        yield {
            "case": case.name,
            "work": case.work,
            "unit": "a step" if case.networks == 1 else "a step of all",
            "flops": case.flops(),
            "floor_seconds": case.flops() / rate if rate else None,
            "dlcore": own,
            "peers": peers,
        }
    yield from elementwise(small, ceilings.get("copy_bytes_per_second") or 0.0)
