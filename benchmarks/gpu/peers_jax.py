"""JAX on the cases of GPU evidence: one jitted scan an epoch, fleets by vmap."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from benchmarks.gpu.cases import Problem

Answer = tuple[list[float], list[float]] | str


def _train(problem: Problem) -> Answer:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        return "jax is not installed"
    if jax.default_backend() != "gpu":
        return "jax sees no GPU"
    from benchmarks.gpu.cases import LEARNING_RATE, MOMENTUM

    case = problem.case
    jax.config.update("jax_default_matmul_precision", "tensorfloat32")
    x = jnp.asarray(problem.x).astype(jnp.float32) / 255
    y = jnp.asarray(problem.y)
    stored = jnp.bfloat16 if case.precision == "bf16" else jnp.float32

    def loss_of(parameters: Any, rows: Any) -> Any:
        h = x[rows].astype(stored)
        for i, (weight, bias) in enumerate(parameters):
            h = jnp.matmul(h, weight.astype(stored).T, preferred_element_type=jnp.float32) + bias
            if i + 1 < len(parameters):
                h = jnp.maximum(h, 0).astype(stored)
        picked = jnp.take_along_axis(h, y[rows][:, None], axis=1)[:, 0]
        return (jax.nn.logsumexp(h, axis=1) - picked).mean()

    def step(state: Any, rows: Any) -> Any:
        parameters, velocity = state
        value, gradients = jax.value_and_grad(loss_of)(parameters, rows)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradients)
        parameters = jax.tree.map(lambda p, v: p - LEARNING_RATE * v, parameters, velocity)
        return (parameters, velocity), value

    def epoch(state: Any, rows: Any) -> Any:
        return jax.lax.scan(step, state, rows)

    weights = [[(jnp.asarray(w), jnp.asarray(b)) for w, b in layers] for layers in problem.weights]
    orders = jnp.asarray(problem.orders.astype(np.int32))
    if case.networks == 1:
        parameters, orders, run = weights[0], orders[0], jax.jit(epoch, donate_argnums=0)
        pick = lambda e: orders[e]
    else:
        parameters = jax.tree.map(lambda *p: jnp.stack(p), *weights)
        run = jax.jit(jax.vmap(epoch), donate_argnums=0)
        pick = lambda e: orders[:, e]
    state = (parameters, jax.tree.map(jnp.zeros_like, parameters))
    losses, seconds = [], []
    for e in range(case.epochs):
        rows = pick(e)
        jax.block_until_ready(rows)
        begin = time.perf_counter()
        state, values = run(state, rows)
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - begin)
        losses.append(float(values.mean()))
    return losses, seconds


RIVALS: dict[str, Callable[[Problem], Answer]] = {"jax scan": _train}
