"""PyTorch as a rival.

Mode "eager" is what a tutorial writes: indexing of resident tensors, autograd, the optimizer as it
comes (for a fleet: one network after the other). Mode "best" is the fastest of what else PyTorch
has: foreach and fused optimizers, a compiled step (forward, gradient and update in one graph),
each at every number of threads up to the given one (for a fleet: batched products).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import runner
import torch
import torch.nn.functional as F


class Training(runner.Training):
    def variants(self) -> list[str]:
        if self.mode == "eager":
            return [f"eager/{self.threads}"]
        counts = range(1, self.threads + 1)
        kinds = ["eager", "foreach", "fused", "compiled"]
        return [f"{kind}/{count}" for kind in kinds for count in counts]

    def setup(self, variant: str) -> None:
        self.kind, _, count = variant.partition("/")
        torch.set_num_threads(int(count))
        x = self.x_bytes[: self.examples]
        # A compiled step takes bytes, which is never slower; eager conversion would be.
        if self.kind != "compiled":
            x = x.astype(np.float32) * np.float32(1 / 255)
        self.x = torch.from_numpy(np.ascontiguousarray(x))
        self.y = torch.from_numpy(self.labels[: self.examples])
        self._initialize()

    def _initialize(self) -> None:
        modules: list[torch.nn.Module] = []
        for weight, bias in self.layers:
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(weight))
                linear.bias.copy_(torch.from_numpy(bias))
            modules += [linear, torch.nn.ReLU()]
        self.model = torch.nn.Sequential(*modules[:-1])
        if self.kind == "compiled":
            self.step = self._compiled(self._logits)
            return
        options = {"foreach": True} if self.kind == "foreach" else {}
        options |= {"fused": True} if self.kind == "fused" else {}
        parameters = self.model.parameters()
        if self.optimizer == "adam":
            self.rule = torch.optim.Adam(parameters, lr=self.rate, **options)
        else:
            self.rule = torch.optim.SGD(parameters, lr=self.rate, momentum=0.9, **options)
        self.step = self._eager

    def _eager(self, rows: torch.Tensor) -> None:
        self.rule.zero_grad(set_to_none=True)
        F.cross_entropy(self.model(self.x[rows]), self.y[rows]).backward()
        self.rule.step()

    @staticmethod
    def _logits(parameters: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        for i in range(0, len(parameters), 2):
            x = F.linear(x, parameters[i], parameters[i + 1])
            x = x if i + 2 == len(parameters) else F.relu(x)
        return x

    def _compiled(self, logits: Callable[..., torch.Tensor]) -> Callable[[torch.Tensor], None]:
        """One graph a step: rows, forward, gradient by torch.func, update in place."""
        torch._dynamo.reset()
        parameters = [p.detach() for p in self.model.parameters()]
        first = [torch.zeros_like(p) for p in parameters]
        second = [torch.zeros_like(p) for p in parameters]
        rate, adam, classes = self.rate, self.optimizer == "adam", self.case["layers"][-1]
        steps = torch.zeros((), dtype=torch.float32)

        def mean_loss(values: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            # The sum over networks of a fleet of each one's mean.
            z = logits(values, x)
            return (
                F.cross_entropy(z.reshape(-1, classes), y.reshape(-1), reduction="sum")
                / z.shape[-2]
            )

        def step(x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor) -> None:
            batch = x[rows]
            if batch.dtype == torch.uint8:
                batch = batch.float() * (1 / 255)
            gradients = torch.func.grad(mean_loss)(parameters, batch, y[rows])
            if adam:
                steps.add_(1)
                # 1 - beta**steps, which float32 would give no more than five digits of.
                scale1, scale2 = (-torch.expm1(steps * math.log(beta)) for beta in (0.9, 0.999))
            for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                if adam:
                    m.lerp_(g, 0.1)
                    v.mul_(0.999).addcmul_(g, g, value=0.001)
                    root = (v / scale2).sqrt_().add_(1e-8)
                    p.sub_(rate / scale1 * (m / root))
                else:
                    m.mul_(0.9).add_(g)
                    p.sub_(rate * m)

        compiled = torch.compile(step, fullgraph=True, dynamic=False)

        def run(rows: torch.Tensor) -> None:
            with torch.no_grad():
                compiled(self.x, self.y, rows)

        return run

    def epoch(self, order: np.ndarray) -> None:
        rows = torch.from_numpy(order)
        for begin in range(0, rows.shape[-1], self.batch):
            self.step(rows[..., begin : begin + self.batch])

    def _examples(self, count: int) -> torch.Tensor:
        x = self.x[:count]
        return x.float() * (1 / 255) if x.dtype == torch.uint8 else x

    @torch.no_grad()
    def loss(self, count: int) -> list[float]:
        return [float(F.cross_entropy(self.model(self._examples(count)), self.y[:count]))]


class Loop(Training):
    """A fleet as a loop over networks."""

    def setup(self, variant: str) -> None:
        self.members: list[tuple[torch.nn.Module, torch.optim.Optimizer]] = []
        super().setup(variant)

    def _initialize(self) -> None:
        every = self.layers
        for k in range(self.case["networks"]):
            self.layers = [(w[k], b[k]) for w, b in every]
            super()._initialize()
            self.members.append((self.model, self.rule))
        self.layers = every

    def _take(self, member: tuple[torch.nn.Module, torch.optim.Optimizer]) -> None:
        self.model, self.rule = member

    def epoch(self, order: np.ndarray) -> None:
        for k, member in enumerate(self.members):
            self._take(member)
            super().epoch(order[k] if order.ndim == 2 else order)

    def loss(self, count: int) -> list[float]:
        losses = []
        for member in self.members:
            self._take(member)
            losses += super().loss(count)
        return losses


class Batched(Training):
    """A fleet as batched products: weights (networks, in, out), own rows for every network."""

    def variants(self) -> list[str]:
        counts = range(1, self.threads + 1)
        kinds = ["eager", "fused", "compiled"]
        return [f"{kind}/{count}" for kind in kinds for count in counts]

    def order(self, count: int) -> np.ndarray:
        networks = range(self.case["networks"])
        return np.stack([self.rng.permutation(self.examples)[:count] for _ in networks])

    def _initialize(self) -> None:
        values = []
        for weight, bias in self.layers:
            values += [np.ascontiguousarray(weight.transpose(0, 2, 1)), bias[:, None, :].copy()]
        tensors = [torch.nn.Parameter(torch.from_numpy(value)) for value in values]
        self.model = torch.nn.ParameterList(tensors)
        if self.kind == "compiled":
            self.step = self._compiled(self._batched)
            return
        self.rule = torch.optim.SGD(
            self.model.parameters(), lr=self.rate, momentum=0.9, fused=self.kind == "fused" or None
        )
        self.step = self._eager_step

    @staticmethod
    def _batched(parameters: Any, x: torch.Tensor) -> torch.Tensor:
        parameters = list(parameters)
        for i in range(0, len(parameters), 2):
            x = torch.baddbmm(parameters[i + 1], x, parameters[i])
            x = x if i + 2 == len(parameters) else F.relu(x)
        return x

    def _eager_step(self, rows: torch.Tensor) -> None:
        self.rule.zero_grad(set_to_none=True)
        z = self._batched(self.model, self.x[rows])
        classes = z.shape[-1]
        loss = F.cross_entropy(z.view(-1, classes), self.y[rows].view(-1), reduction="sum")
        (loss / rows.shape[1]).backward()
        self.rule.step()

    @torch.no_grad()
    def loss(self, count: int) -> list[float]:
        x = self._examples(count)
        y = self.y[:count]
        networks = range(self.case["networks"])
        each = [[p[k : k + 1] for p in self.model] for k in networks]
        return [float(F.cross_entropy(self._batched(p, x[None])[0], y)) for p in each]


class ElementWise(runner.ElementWise):
    def ways(self) -> dict[str, Callable[[], tuple[Callable[[], object], Callable[[], Any]]]]:
        torch.set_num_threads(self.threads)
        x, dy, y = (torch.from_numpy(a) for a in (self.x, self.dy, self.y))
        out = torch.empty_like(x)
        aten = torch.ops.aten
        plain: dict[tuple[str, str], Callable[[], torch.Tensor]] = {
            ("relu", "forward"): lambda: torch.relu(x),
            ("sigmoid", "forward"): lambda: torch.sigmoid(x),
            ("relu", "backward"): lambda: aten.threshold_backward(dy, y, 0),
            ("sigmoid", "backward"): lambda: aten.sigmoid_backward(dy, y),
        }
        into: dict[tuple[str, str], Callable[[], torch.Tensor]] = {
            ("relu", "forward"): lambda: torch.clamp_min(x, 0, out=out),
            ("sigmoid", "forward"): lambda: torch.sigmoid(x, out=out),
            ("relu", "backward"): lambda: aten.threshold_backward.grad_input(
                dy, y, 0, grad_input=out
            ),
            ("sigmoid", "backward"): lambda: aten.sigmoid_backward.grad_input(
                dy, y, grad_input=out
            ),
        }
        key = (self.op, self.direction)
        return {
            "new": lambda: (plain[key], lambda: plain[key]().numpy()),
            "out": lambda: (into[key], lambda: out.numpy()),
        }


def prepare(case: dict[str, Any], threads: int, mode: str) -> runner.Case:
    if case["kind"] == "elementwise":
        return ElementWise(case, threads)
    if case["kind"] == "fleet":
        return (Loop if mode == "eager" else Batched)(case, threads, mode)
    return Training(case, threads, mode)


if __name__ == "__main__":
    runner.serve(prepare, lambda: {"torch": torch.__version__, "numpy": np.__version__})
