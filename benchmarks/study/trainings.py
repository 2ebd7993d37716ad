"""A list of trainings, made by PyTorch or by dlcore in a process of its own, and timed.

Started by fashion_mnist.py; needs NumPy and the library. One JSON line comes in on the standard
input: the data's folder, the variant, the number of threads, and the trainings. The process gets
ready, says so, waits for a line, trains, and answers with its seconds and the losses at the end.
"""

from __future__ import annotations

import gzip
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH, CLASSES = 32, 10


def images(folder: str) -> tuple[np.ndarray, np.ndarray]:
    raw = gzip.decompress((Path(folder) / "train-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((Path(folder) / "train-labels-idx1-ubyte.gz").read_bytes())
    x = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 784)
    return x, np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)


def dlcore_trainings(spec: dict[str, Any]) -> Callable[[], list[float]]:
    """All trainings as one fleet, as a study makes them, on as many threads as are asked for."""
    import dlcore

    x, y = images(spec["folder"])
    todo = spec["trainings"]

    def fleet(epochs: list[int]) -> list[float]:
        networks = [
            dlcore.Network(
                [
                    dlcore.Dense(t["hidden"]),
                    dlcore.ReLU(),
                    dlcore.Dense(CLASSES, initializer="glorot_normal"),
                ],
                input_shape=784,
                seed=t["seed"],
            )
            for t in todo
        ]
        dlcore.fit_many(
            networks,
            x,
            y,
            subsets=[slice(t["examples"]) for t in todo],
            optimizers=[dlcore.Adam(t["rate"]) for t in todo],
            epochs=epochs,
            batch_size=BATCH,
            seed=[t["seed"] for t in todo],
            threads=spec["threads"],
        )
        rows = [slice(min(t["examples"], 2000)) for t in todo]
        losses = [n.evaluate(x[r], y[r])["loss"] for n, r in zip(networks, rows, strict=True)]
        return [float(loss) for loss in losses]

    fleet([1] * len(todo))
    return lambda: fleet([t["epochs"] for t in todo])


def torch_trainings(spec: dict[str, Any]) -> Callable[[], list[float]]:
    """One training after the other, each in the way that `variant` says."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(spec["threads"])
    bytes_, labels = images(spec["folder"])
    kind, todo = spec["variant"], spec["trainings"]
    x = torch.from_numpy(bytes_.copy())
    if kind != "compiled-uint8":
        x = x.float() / 255
    y = torch.from_numpy(labels)

    def start(hidden: int, seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        first = torch.randn(hidden, 784) * math.sqrt(2 / 784)
        last = torch.randn(CLASSES, hidden) * math.sqrt(2 / (hidden + CLASSES))
        return [first, torch.zeros(hidden), last, torch.zeros(CLASSES)]

    def logits(p: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.relu(F.linear(x, p[0], p[1])), p[2], p[3])

    def loss(p: list[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        batch = x[rows]
        if batch.dtype == torch.uint8:
            batch = batch.float() * (1 / 255)
        return F.cross_entropy(logits(p, batch), y[rows])

    def eager(p: list[torch.Tensor], rate: float) -> Callable[[torch.Tensor], None]:
        leaves = [tensor.requires_grad_() for tensor in p]
        rule = torch.optim.Adam(leaves, lr=rate, **{kind: True})

        def step(rows: torch.Tensor) -> None:
            rule.zero_grad(set_to_none=True)
            loss(leaves, rows).backward()
            rule.step()

        return step

    def update(p, first, second, count, rate, rows):
        gradients = torch.func.grad(loss)(p, rows)
        count.add_(1)
        scale1, scale2 = (-torch.expm1(count * math.log(beta)) for beta in (0.9, 0.999))
        for q, g, m, v in zip(p, gradients, first, second, strict=True):
            m.lerp_(g, 0.1)
            v.mul_(0.999).addcmul_(g, g, value=0.001)
            q.sub_(rate / scale1 * (m / ((v / scale2).sqrt_().add_(1e-8))))

    compiled: dict[int, Any] = {}

    def graph(p: list[torch.Tensor], rate: float) -> Callable[[torch.Tensor], None]:
        hidden = len(p[0])
        if hidden not in compiled:
            torch._dynamo.reset()
            compiled[hidden] = torch.compile(update, fullgraph=True, dynamic=False)
        state = [torch.zeros_like(q) for q in p], [torch.zeros_like(q) for q in p]
        count, pace = torch.zeros(()), torch.tensor(rate)
        return lambda rows: compiled[hidden](p, *state, count, pace, rows)

    def train(t: dict[str, Any], epochs: int, most: int | None = None) -> float:
        p = start(t["hidden"], t["seed"])
        step = graph(p, t["rate"]) if kind.startswith("compiled") else eager(p, t["rate"])
        with torch.set_grad_enabled(not kind.startswith("compiled")):
            for _ in range(epochs):
                order = torch.randperm(t["examples"])
                for rows in order.split(BATCH)[:most]:
                    step(rows)
        with torch.no_grad():
            rows = torch.arange(min(t["examples"], 2000))
            return float(loss(p, rows))

    for t in {t["hidden"]: t for t in todo}.values():
        train(t, 1, most=20)  # compiles
    return lambda: [train(t, t["epochs"]) for t in todo]


def main() -> int:
    spec = json.loads(sys.stdin.readline())
    make = dlcore_trainings if spec["variant"] == "dlcore" else torch_trainings
    run = make(spec)
    print("ready", flush=True)
    sys.stdin.readline()
    begin = time.perf_counter()
    losses = run()
    print(json.dumps({"seconds": time.perf_counter() - begin, "losses": losses}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
