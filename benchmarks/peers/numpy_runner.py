"""Plain NumPy as a rival: the formulas as they stand, its BLAS for the products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import runner


class Training(runner.Training):
    """One network, or a fleet along the first axis of everything."""

    def order(self, count: int) -> np.ndarray:
        if self.case["kind"] == "train":
            return super().order(count)
        networks = range(self.case["networks"])
        return np.stack([self.rng.permutation(self.examples)[:count] for _ in networks])

    def setup(self, variant: str) -> None:
        self.x, self.y = self.floats()[: self.examples], self.labels[: self.examples]
        self.parameters: list[np.ndarray] = []
        for weight, bias in self.layers:
            self.parameters += [np.swapaxes(weight, -1, -2).copy(), bias[..., None, :].copy()]
        self.first = [np.zeros_like(p) for p in self.parameters]
        self.second = [np.zeros_like(p) for p in self.parameters]
        self.steps = 0

    def forward(self, x: np.ndarray) -> list[np.ndarray]:
        values = [x]
        for i in range(0, len(self.parameters), 2):
            z = values[-1] @ self.parameters[i] + self.parameters[i + 1]
            values.append(z if i + 2 == len(self.parameters) else np.maximum(z, 0))
        return values

    def epoch(self, order: np.ndarray) -> None:
        for begin in range(0, order.shape[-1], self.batch):
            rows = order[..., begin : begin + self.batch]
            values, y = self.forward(self.x[rows]), self.y[rows]
            e = np.exp(values[-1] - values[-1].max(axis=-1, keepdims=True))
            d = e / e.sum(axis=-1, keepdims=True)
            right = np.take_along_axis(d, y[..., None], axis=-1)
            np.put_along_axis(d, y[..., None], right - 1, axis=-1)
            d /= np.float32(y.shape[-1])
            gradients: list[np.ndarray] = []
            for i in range(len(self.parameters) - 2, -1, -2):
                x = values[i // 2]
                gradients = [np.swapaxes(x, -1, -2) @ d, d.sum(axis=-2, keepdims=True), *gradients]
                if i > 0:
                    d = (d @ np.swapaxes(self.parameters[i], -1, -2)) * (x > 0)
            self.update(gradients)

    def update(self, gradients: list[np.ndarray]) -> None:
        self.steps += 1
        rate = np.float32(self.rate)
        for p, g, m, v in zip(self.parameters, gradients, self.first, self.second, strict=True):
            if self.optimizer == "sgd":
                m *= np.float32(0.9)
                m += g
                p -= rate * m
                continue
            m += np.float32(0.1) * (g - m)
            v += np.float32(0.001) * (g * g - v)
            scale1, scale2 = 1 - 0.9**self.steps, 1 - 0.999**self.steps
            p -= (
                np.float32(rate / scale1) * m / (np.sqrt(v / np.float32(scale2)) + np.float32(1e-8))
            )

    def loss(self, count: int) -> list[float]:
        z = self.forward(self.x[:count])[-1].astype(np.float64)
        z -= z.max(axis=-1, keepdims=True)
        right = z[..., np.arange(count), self.y[:count]]
        losses = np.mean(np.log(np.exp(z).sum(axis=-1)) - right, axis=-1)
        return [float(loss) for loss in np.atleast_1d(losses)]


class ElementWise(runner.ElementWise):
    def ways(self) -> dict[str, Callable[[], tuple[Callable[[], object], Callable[[], Any]]]]:
        x, dy, y = self.x, self.dy, self.y
        out = np.empty_like(x)

        def relu() -> object:
            return np.maximum(x, 0, out=out)

        def sigmoid() -> object:
            np.negative(x, out=out)
            np.exp(out, out=out)
            np.add(out, 1, out=out)
            return np.reciprocal(out, out=out)

        mask = np.empty(x.shape, bool)

        def relu_backward() -> object:
            np.greater(y, 0, out=mask)
            return np.multiply(dy, mask, out=out)

        def sigmoid_backward() -> object:
            np.subtract(1, y, out=out)
            np.multiply(out, y, out=out)
            return np.multiply(out, dy, out=out)

        works: dict[tuple[str, str], Callable[[], object]] = {
            ("relu", "forward"): relu,
            ("relu", "backward"): relu_backward,
            ("sigmoid", "forward"): sigmoid,
            ("sigmoid", "backward"): sigmoid_backward,
        }
        work = works[self.op, self.direction]
        return {"out": lambda: (work, lambda: out)}


def prepare(case: dict[str, Any], threads: int, mode: str) -> runner.Case:
    if case["kind"] == "elementwise":
        return ElementWise(case, threads)
    return Training(case, threads, mode)


if __name__ == "__main__":
    runner.serve(prepare, lambda: {"numpy": np.__version__})
