"""JAX as a rival: the epoch is one jitted lax.scan over its batches; a fleet is vmapped.

JAX takes its number of threads from the process (train.py starts one for every count).
"""

from __future__ import annotations

import getpass
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import runner

# Compiled programs are kept on the disk, as PyTorch keeps its own.
CACHE = Path(tempfile.gettempdir()) / f"dlcore-benchmarks-jax-{getpass.getuser()}"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def logits(parameters: list[Any], x: Any) -> Any:
    """Parameters are w0, b0, w1, ..., weights (in, out)."""
    for i in range(0, len(parameters), 2):
        x = x @ parameters[i] + parameters[i + 1]
        x = x if i + 2 == len(parameters) else jax.nn.relu(x)
    return x


def mean_loss(parameters: list[Any], x: Any, y: Any) -> Any:
    log_p = jax.nn.log_softmax(logits(parameters, x))
    return -jnp.mean(jnp.take_along_axis(log_p, y[:, None], axis=1))


class Training(runner.Training):
    whole_epochs = True

    def variants(self) -> list[str]:
        return ["uint8", "uint8-unrolled"]

    def trial_examples(self) -> int:
        return self.examples  # another length would be another compilation

    def setup(self, variant: str) -> None:
        # Bytes, converted batch by batch: up to 18 % faster than data kept as float32.
        self.x = jnp.asarray(self.x_bytes[: self.examples])
        self.y = jnp.asarray(self.labels[: self.examples].astype(np.int32))
        parameters = []
        for weight, bias in self.layers:
            parameters += [jnp.asarray(np.swapaxes(weight, -1, -2)), jnp.asarray(bias)]
        first = [jnp.zeros_like(p) for p in parameters]
        second = [jnp.zeros_like(p) for p in parameters]
        self.state = (parameters, first, second, jnp.zeros(parameters[0].shape[:-2]))
        unroll = 4 if "unrolled" in variant else 1

        def epoch(state: Any, x: Any, y: Any, order: Any) -> Any:
            def step(state: Any, rows: Any) -> tuple[Any, None]:
                gradients = jax.grad(mean_loss)(state[0], self.pixels(x[rows]), y[rows])
                return self.update(state, gradients), None

            return jax.lax.scan(step, state, order.reshape(-1, self.batch), unroll=unroll)[0]

        self.run = jax.jit(self.many(epoch), donate_argnums=0)

    def update(self, state: Any, gradients: list[Any]) -> Any:
        parameters, first, second, count = state
        if self.optimizer == "sgd":
            first = [0.9 * m + g for m, g in zip(first, gradients, strict=True)]
            parameters = [p - self.rate * m for p, m in zip(parameters, first, strict=True)]
            return parameters, first, second, count
        count = count + 1
        # 1 - beta**count, which float32 would give no more than five digits of.
        scale1, scale2 = (-jnp.expm1(count * np.log(beta)) for beta in (0.9, 0.999))
        first = [m + 0.1 * (g - m) for m, g in zip(first, gradients, strict=True)]
        second = [v + 0.001 * (g * g - v) for v, g in zip(second, gradients, strict=True)]
        parameters = [
            p - self.rate / scale1 * m / (jnp.sqrt(v / scale2) + 1e-8)
            for p, m, v in zip(parameters, first, second, strict=True)
        ]
        return parameters, first, second, count

    def many(self, epoch: Callable[..., Any]) -> Callable[..., Any]:
        return epoch

    @staticmethod
    def pixels(x: Any) -> Any:
        return x if x.dtype == jnp.float32 else x.astype(jnp.float32) * (1 / 255)

    def epoch(self, order: np.ndarray) -> None:
        self.state = self.run(self.state, self.x, self.y, jnp.asarray(order.astype(np.int32)))
        jax.block_until_ready(self.state)

    def loss(self, count: int) -> list[float]:
        x, y = self.pixels(self.x[:count]), self.y[:count]
        return [float(mean_loss(self.state[0], x, y))]


class Fleet(Training):
    def many(self, epoch: Callable[..., Any]) -> Callable[..., Any]:
        return jax.vmap(epoch, in_axes=(0, None, None, 0))

    def order(self, count: int) -> np.ndarray:
        networks = range(self.case["networks"])
        return np.stack([self.rng.permutation(self.examples)[:count] for _ in networks])

    def loss(self, count: int) -> list[float]:
        x, y = self.pixels(self.x[:count]), self.y[:count]
        losses = jax.vmap(mean_loss, in_axes=(0, None, None))(self.state[0], x, y)
        return [float(loss) for loss in losses]


class ElementWise(runner.ElementWise):
    def ways(self) -> dict[str, Callable[[], tuple[Callable[[], object], Callable[[], Any]]]]:
        x, dy, y = (jnp.asarray(a) for a in (self.x, self.dy, self.y))
        functions: dict[tuple[str, str], tuple[Callable[..., Any], tuple[Any, ...]]] = {
            ("relu", "forward"): (jax.nn.relu, (x,)),
            ("sigmoid", "forward"): (jax.nn.sigmoid, (x,)),
            ("relu", "backward"): (lambda dy, y: jnp.where(y > 0, dy, 0), (dy, y)),
            ("sigmoid", "backward"): (lambda dy, y: dy * y * (1 - y), (dy, y)),
        }
        function, arguments = functions[self.op, self.direction]
        compiled = jax.jit(function)

        def work() -> Any:
            return compiled(*arguments).block_until_ready()

        return {"jit": lambda: (work, work)}


def prepare(case: dict[str, Any], threads: int, mode: str) -> runner.Case:
    jax.clear_caches()
    if case["kind"] == "elementwise":
        return ElementWise(case, threads)
    return (Fleet if case["kind"] == "fleet" else Training)(case, threads, mode)


if __name__ == "__main__":
    runner.serve(prepare, lambda: {"jax": jax.__version__, "numpy": np.__version__})
