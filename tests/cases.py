"""One entry per operation: what runs, what it means, which arguments, and how exact it must be.

`test_ops.py`, the gradient checks and the benchmarks all run every entry of `CASES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from dlcore import _core, functional
from tolerances import Bounds, assert_within

DTYPES = ("float32", "float64")

#: 0 and 1; odd and prime; one below, at and above the lanes of a vector (2 to 16), the rows of a
#: tile (6, 14), the columns of a panel (16, 32), their multiples, a block of the batch (256) and of
#: the depth (1024).
EDGES = (
    *(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 14, 15, 16, 17, 23, 27, 28, 29, 31, 32, 33, 47, 48, 49),
    *(63, 64, 65, 97, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025),
)


def extents(least=0, most=1025):
    """Sizes along one axis."""
    return st.sampled_from([size for size in EDGES if least <= size <= most])


def _wide(rng, shape, info):
    low, high = math.log2(float(info.smallest_subnormal)), math.log2(float(info.max))
    # The last bit of the mantissa of max lies below 2^high: stay one octave under it.
    return rng.choice([-1.0, 1.0], shape) * 2.0 ** rng.uniform(low, high - 1, shape)


def _mixed(rng, shape, info):
    values = rng.standard_normal(shape)
    for regime in ("zeros", "subnormal", "wide", "huge"):
        values = np.where(rng.random(shape) < 0.1, REGIMES[regime](rng, shape, info), values)
    return values


def _special(rng, shape, info):
    special = rng.choice([np.inf, -np.inf, np.nan], shape)
    return np.where(rng.random(shape) < 0.1, special, _mixed(rng, shape, info))


#: How the values of an array are drawn, from (rng, shape, numpy.finfo).
REGIMES: dict[str, Callable[..., Any]] = {
    "normal": lambda rng, shape, info: rng.standard_normal(shape),
    "large": lambda rng, shape, info: 25 * rng.standard_normal(shape),
    "zeros": lambda rng, shape, info: rng.choice([0.0, -0.0], shape),
    "subnormal": lambda rng, shape, info: float(info.tiny) * rng.uniform(-2, 2, shape),
    "huge": lambda rng, shape, info: float(info.max) * rng.uniform(-1, 1, shape),
    "wide": _wide,
    "mixed": _mixed,
    "special": _special,
}
FINITE = tuple(name for name in REGIMES if name != "special")


@dataclass
class Draw:
    """Arrays of one dtype: C-contiguous, `offset` items into a larger buffer."""

    seed: int
    dtype: str = "float32"
    regime: str = "normal"
    offset: int = 0

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)

    def place(self, values, dtype=None):
        """A copy of `values` that begins at any multiple of the item size."""
        values = np.asarray(values)
        dtype = values.dtype if dtype is None else np.dtype(dtype)
        buffer = np.empty(values.size + self.offset, dtype)
        view = buffer[self.offset :].reshape(values.shape)
        with np.errstate(over="ignore"):
            view[...] = values
        return view

    def values(self, *shape, regime=None):
        """Numbers of the regime."""
        info = np.finfo(self.dtype)
        return self.place(REGIMES[regime or self.regime](self.rng, shape, info), self.dtype)

    def positive(self, *shape):
        """Squares of numbers of the regime that do not overflow."""
        info = np.finfo(self.dtype)
        root = np.sqrt(np.abs(REGIMES[self.regime](self.rng, shape, info)))
        return self.place(np.minimum(root, math.sqrt(float(info.max)) / 2) ** 2, self.dtype)

    def unit(self, *shape):
        """Targets in [0, 1], both ends among them."""
        inner = self.rng.random(shape)
        return self.place(np.clip(1.5 * inner - 0.25, 0, 1), self.dtype)

    def labels(self, count, classes):
        """Class labels."""
        return self.place(self.rng.integers(0, classes, count))

    def weights(self, count):
        """Weights of examples, some of them zero, or none."""
        if self.rng.random() < 0.4:
            return None
        return self.place(self.rng.random(count) * (self.rng.random(count) < 0.8))


@dataclass(frozen=True)
class Case:
    """One operation.

    Attributes
    ----------
    run, reference
        What is tested, and what it means; they take the same arguments.
    shapes
        Strategy for the sizes that `arguments` and `flops` take.
    arguments
        (Draw, *sizes) -> arguments.
    bound
        (Bounds, *arguments) -> Bounded or a tuple of them, one for each result.
    flops
        *sizes -> arithmetic operations of one call, each elementary function counted as one.
    regimes
        Values for which the result is defined.
    out
        Whether `run` takes ``out=``.
    gradient
        For a backward: (rng, *sizes) -> scalar function of its arguments by name, its gradient by
        this backward, a point, and the sides of its kinks (or None).
    small
        Sizes at which gradients and checkers are checked.
    """

    name: str
    run: Callable[..., Any]
    reference: Callable[..., Any]
    shapes: st.SearchStrategy[tuple[int, ...]]
    arguments: Callable[..., tuple[Any, ...]]
    bound: Callable[..., Any]
    flops: Callable[..., int]
    small: Sequence[tuple[int, ...]]
    regimes: Sequence[str] = FINITE
    out: bool = False
    gradient: Callable[..., Any] | None = None


def _tuple(results):
    return results if isinstance(results, tuple) else (results,)


def check(case: Case, sizes, dtype, seed=0, regime="normal", offset=0) -> None:
    """Run a case once and compare it with its reference; the inputs must survive."""
    draw = Draw(seed, dtype, regime, offset)
    arguments = case.arguments(draw, *sizes)
    before = [a.tobytes() if isinstance(a, np.ndarray) else a for a in arguments]
    results = _tuple(case.run(*arguments))
    after = [a.tobytes() if isinstance(a, np.ndarray) else a for a in arguments]
    assert before == after, f"{case.name} changed its arguments"
    exact = [
        a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a
        for a in arguments
    ]
    with np.errstate(all="ignore"):
        expected = _tuple(case.reference(*exact))
        bounds = _tuple(case.bound(Bounds(dtype), *arguments))
    assert len(results) == len(expected) == len(bounds)
    for i, (result, value, bound) in enumerate(zip(results, expected, bounds, strict=True)):
        kind = dtype if isinstance(result, np.ndarray) else None
        assert_within(result, value, bound.error, name=f"{case.name}[{i}]", dtype=kind)
    if case.out:
        _check_out(case, draw, arguments, results[0])


def _check_out(case, draw, arguments, result) -> None:
    """``out=`` gives the same bits, is what is returned, and nothing around it is touched."""
    guard, size = 17, result.size
    buffer = np.full(size + 2 * guard + draw.offset, 123.0, result.dtype)
    start = guard + draw.offset
    out = buffer[start : start + size].reshape(result.shape)
    assert case.run(*arguments, out=out) is out
    assert out.tobytes() == result.tobytes(), f"{case.name}: out= gives other bits"
    around = np.concatenate([buffer[:start], buffer[start + size :]])
    assert np.all(around == 123), f"{case.name} wrote outside of out"


# Activations --------------------------------------------------------------------------------------


def _elementwise():
    return st.one_of(st.tuples(extents()), st.tuples(extents(most=33), extents(most=33)))


#: kind -> forward, backward of the public API, of (x, alpha) and (dy, saved, alpha).
_ACTIVATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "relu": (
        lambda x, alpha, **out: functional.relu(x, **out),
        lambda dy, y, alpha, **out: functional.relu_backward(dy, y, **out),
    ),
    "leaky_relu": (
        lambda x, alpha, **out: functional.leaky_relu(x, alpha, **out),
        lambda dy, y, alpha, **out: functional.leaky_relu_backward(dy, y, alpha, **out),
    ),
    "sigmoid": (
        lambda x, alpha, **out: functional.sigmoid(x, **out),
        lambda dy, y, alpha, **out: functional.sigmoid_backward(dy, y, **out),
    ),
    "tanh": (
        lambda x, alpha, **out: functional.tanh(x, **out),
        lambda dy, y, alpha, **out: functional.tanh_backward(dy, y, **out),
    ),
    "gelu": (
        lambda x, alpha, **out: functional.gelu(x, **out),
        lambda dy, x, alpha, **out: functional.gelu_backward(dy, x, **out),
    ),
    "gelu_tanh": (
        lambda x, alpha, **out: functional.gelu(x, "tanh", **out),
        lambda dy, x, alpha, **out: functional.gelu_backward(dy, x, "tanh", **out),
    ),
    "silu": (
        lambda x, alpha, **out: functional.silu(x, **out),
        lambda dy, x, alpha, **out: functional.silu_backward(dy, x, **out),
    ),
    "softplus": (
        lambda x, alpha, **out: functional.softplus(x, **out),
        lambda dy, y, alpha, **out: functional.softplus_backward(dy, y, **out),
    ),
}


def _slope(draw):
    return float(draw.rng.choice([0.0, 0.01, 0.25, 1.0]))


def _activation_backward_arguments(kind, draw, *shape):
    x = draw.values(*shape)
    if reference.ACTIVATIONS[kind].reads == "x":
        saved, alpha = x, 0.0
    else:
        alpha = _slope(draw)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            saved = draw.place(reference.activation_forward(kind, x, alpha), draw.dtype)
    finite = draw.regime if draw.regime in FINITE else "mixed"
    return draw.values(*shape, regime=finite), saved, alpha


def _activation_gradient(kind, rng, *shape):
    x, dy, alpha = rng.standard_normal(shape), rng.standard_normal(shape), 0.1
    x = np.where(np.abs(x) < 0.01, 0.5, x)  # off the kink
    y = reference.activation_forward(kind, x, alpha)
    saved = y if reference.ACTIVATIONS[kind].reads == "y" else x

    def value(point):
        return float(np.sum(dy * reference.activation_forward(kind, point["x"], alpha)))

    return value, {"x": reference.activation_backward(kind, dy, saved, alpha)}, {"x": x}, None


def _activation_cases():
    for kind, (forward, backward) in _ACTIVATIONS.items():
        yield Case(
            f"{kind}_forward",
            run=forward,
            reference=partial(reference.activation_forward, kind),
            shapes=_elementwise(),
            arguments=lambda draw, *shape: (draw.values(*shape), _slope(draw)),
            bound=lambda b, x, alpha, kind=kind: b.activation_forward(kind, x, alpha),
            flops=lambda *shape: math.prod(shape),
            small=[(1,), (7,), (5, 9)],
            regimes=tuple(REGIMES),
            out=True,
        )
        yield Case(
            f"{kind}_backward",
            run=backward,
            reference=partial(reference.activation_backward, kind),
            shapes=_elementwise(),
            arguments=partial(_activation_backward_arguments, kind),
            bound=lambda b, dy, s, alpha, kind=kind: b.activation_backward(kind, dy, s, alpha),
            flops=lambda *shape: 2 * math.prod(shape),
            small=[(1,), (7,), (5, 9)],
            regimes=tuple(REGIMES),
            out=True,
            gradient=partial(_activation_gradient, kind),
        )


# Dense, dropout, softmax --------------------------------------------------------------------------


@st.composite
def dense_shapes(draw, most_products=300_000):
    """Rows, out_features, in_features; every edge occurs, but not all at once."""
    sizes = [draw(extents(0, 513)), draw(extents(1, 513)), draw(extents(1, 1025))]
    # A size that would make the product too long is replaced by a smaller edge.
    for i in draw(st.permutations(range(3))):
        others = math.prod(max(s, 1) for j, s in enumerate(sizes) if j != i)
        if others * sizes[i] > most_products:
            sizes[i] = draw(extents(1, max(1, most_products // others)))
    return tuple(sizes)


def _dense_arguments(draw, m, n, k):
    bias = draw.values(n) if draw.rng.random() < 0.7 else None
    return draw.values(m, k), draw.values(n, k), bias


def _dense_gradient(rng, m, n, k):
    dy, x = rng.standard_normal((m, n)), rng.standard_normal((m, k))
    weight, bias = rng.standard_normal((n, k)), rng.standard_normal(n)
    names = ("x", "weight", "bias")

    def value(point):
        return float(np.sum(dy * reference.dense_forward(*(point[name] for name in names))))

    gradient = dict(zip(names, reference.dense_backward(dy, x, weight), strict=True))
    return value, gradient, dict(zip(names, (x, weight, bias), strict=True)), None


def _dropout_arguments(draw, m, n):
    p = float(draw.rng.choice([0.0, 0.1, 0.5, 0.999]))
    seed, step = int(draw.rng.integers(2**63)) * 2 + 1, int(draw.rng.integers(2**48))
    return draw.values(m, n), p, seed, step, int(draw.rng.integers(2**16))


def _dropout_gradient(rng, m, n):
    x, dy, settings = rng.standard_normal((m, n)), rng.standard_normal((m, n)), (0.4, 3, 2, 1)

    def value(point):
        return float(np.sum(dy * reference.dropout_forward(point["x"], *settings)))

    return value, {"x": reference.dropout_forward(dy, *settings)}, {"x": x}, None


def _layer_cases():
    yield Case(
        "dense_forward",
        run=functional.dense,
        reference=reference.dense_forward,
        shapes=dense_shapes(),
        arguments=_dense_arguments,
        bound=lambda b, x, weight, bias: b.dense_forward(x, weight, bias),
        flops=lambda m, n, k: 2 * m * n * k,
        small=[(1, 1, 1), (4, 3, 5), (9, 2, 7)],
        regimes=tuple(REGIMES),
        out=True,
    )
    yield Case(
        "dense_backward",
        run=functional.dense_backward,
        reference=reference.dense_backward,
        shapes=dense_shapes(),
        arguments=lambda draw, m, n, k: (
            draw.values(m, n),
            draw.values(m, k),
            draw.values(n, k),
        ),
        bound=lambda b, dy, x, weight: b.dense_backward(dy, x, weight),
        flops=lambda m, n, k: 4 * m * n * k,
        small=[(1, 1, 1), (4, 3, 5), (9, 2, 7)],
        regimes=tuple(REGIMES),
        gradient=_dense_gradient,
    )
    for name, run in (
        ("dropout_forward", functional.dropout),
        ("dropout_backward", functional.dropout_backward),
    ):
        yield Case(
            name,
            run=run,
            reference=reference.dropout_forward,
            shapes=st.tuples(extents(most=33), extents(least=1, most=129)),
            arguments=_dropout_arguments,
            bound=lambda b, *arguments: b.dropout_forward(*arguments),
            flops=lambda m, n: m * n,
            small=[(1, 5), (6, 7)],
            regimes=tuple(REGIMES),
            out=True,
            gradient=_dropout_gradient if name == "dropout_backward" else None,
        )
    yield Case(
        "softmax",
        run=functional.softmax,
        reference=reference.softmax,
        shapes=st.tuples(extents(most=33), extents(least=1)),
        arguments=lambda draw, m, n: (draw.values(m, n),),
        bound=lambda b, logits: b.softmax(logits),
        flops=lambda m, n: 4 * m * n,
        small=[(1, 2), (5, 3)],
        regimes=tuple(REGIMES),
        out=True,
    )


# Losses -------------------------------------------------------------------------------------------

#: kind -> forward, backward of the public API, of (prediction, target, weight, delta).
_LOSSES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "cross_entropy": (
        lambda x, t, w, delta: functional.cross_entropy(x, t, w),
        lambda x, t, w, delta, **out: functional.cross_entropy_backward(x, t, w, **out),
    ),
    "binary_cross_entropy": (
        lambda x, t, w, delta: functional.binary_cross_entropy(x, t, w),
        lambda x, t, w, delta, **out: functional.binary_cross_entropy_backward(x, t, w, **out),
    ),
    "mse": (
        lambda x, t, w, delta: functional.mse(x, t, w),
        lambda x, t, w, delta, **out: functional.mse_backward(x, t, w, **out),
    ),
    "huber": (
        lambda x, t, w, delta: functional.huber(x, t, delta, w),
        lambda x, t, w, delta, **out: functional.huber_backward(x, t, delta, w, **out),
    ),
}


def _loss_arguments(kind, draw, m, n):
    prediction = draw.values(m, n)
    if kind == "cross_entropy":
        target = draw.labels(m, n)
    elif kind == "binary_cross_entropy":
        target = draw.unit(m, n)
    else:
        target = draw.values(m, n)
    return prediction, target, draw.weights(m), float(draw.rng.choice([0.1, 1.0, 3.0]))


def _loss_gradient(kind, rng, m, n):
    x, weights, delta = rng.standard_normal((m, n)), rng.random(m), 0.7
    target = rng.integers(0, n, m) if kind == "cross_entropy" else rng.random((m, n))

    def value(point):
        return reference.loss_forward(kind, point["x"], target, weights, delta)

    def kinks(point):  # of huber's second derivative
        return np.abs(point["x"] - target) > delta if kind == "huber" else np.zeros(0)

    return value, {"x": reference.loss_backward(kind, x, target, weights, delta)}, {"x": x}, kinks


def _loss_cases():
    for kind, (forward, backward) in _LOSSES.items():
        # At least one example; one class has loss and gradient zero.
        shapes = st.tuples(extents(least=1, most=65), extents(least=1, most=513))
        regimes = FINITE if kind == "binary_cross_entropy" else tuple(REGIMES)
        yield Case(
            f"{kind}_forward",
            run=forward,
            reference=partial(reference.loss_forward, kind),
            shapes=shapes,
            arguments=partial(_loss_arguments, kind),
            bound=lambda b, x, t, w, delta, kind=kind: b.loss_forward(kind, x, t, w, delta),
            flops=lambda m, n: 3 * m * n,
            small=[(1, 2), (5, 3), (8, 10)],
            regimes=regimes,
        )
        yield Case(
            f"{kind}_backward",
            run=backward,
            reference=partial(reference.loss_backward, kind),
            shapes=shapes,
            arguments=partial(_loss_arguments, kind),
            bound=lambda b, x, t, w, delta, kind=kind: b.loss_backward(kind, x, t, w, delta),
            flops=lambda m, n: 4 * m * n,
            small=[(1, 2), (5, 3), (8, 10)],
            regimes=regimes,
            out=True,
            gradient=partial(_loss_gradient, kind),
        )


# Optimizers: the core's steps work in place, the cases on copies ----------------------------------


def _sgd_step(parameter, gradient, velocity, *settings):
    parameter, velocity = parameter.copy(), velocity.copy()
    _core.sgd_step(parameter, gradient, velocity, *settings)
    return parameter, velocity


def _adam_step(parameter, gradient, first, second, *settings):
    parameter, first, second = parameter.copy(), first.copy(), second.copy()
    _core.adam_step(parameter, gradient, first, second, *settings)
    return parameter, first, second


def _sgd_arguments(momentum, nesterov, draw, n):
    decay = float(draw.rng.choice([0.0, 0.01]))
    rate = float(10 ** draw.rng.uniform(-4, 0))
    return *(draw.values(n) for _ in range(3)), rate, momentum, nesterov, decay


def _adam_arguments(decoupled, draw, n):
    decay, step = float(draw.rng.choice([0.0, 0.01])), int(draw.rng.choice([1, 2, 10, 10**6]))
    rate, beta2 = float(10 ** draw.rng.uniform(-4, 0)), float(draw.rng.choice([0.9, 0.999]))
    arrays = *(draw.values(n) for _ in range(3)), draw.positive(n)
    return *arrays, rate, 0.9, beta2, 1e-8, decay, decoupled, step


def _arrays_bounded(b, method, count, *arguments):
    arrays = [b.exact(a) for a in arguments[:count]]
    return getattr(b, method)(*arrays, *arguments[count:])


def _optimizer_cases():
    for name, momentum, nesterov in (
        ("sgd_step", 0.0, False),
        ("momentum_step", 0.9, False),
        ("nesterov_step", 0.9, True),
    ):
        yield Case(
            name,
            run=_sgd_step,
            reference=reference.sgd_step,
            shapes=st.tuples(extents()),
            arguments=partial(_sgd_arguments, momentum, nesterov),
            bound=lambda b, *arguments: _arrays_bounded(b, "sgd_step", 3, *arguments),
            flops=lambda n, momentum=momentum: (8 if momentum else 4) * n,
            small=[(1,), (9,)],
        )
    for name, decoupled in (("adam_step", False), ("adamw_step", True)):
        yield Case(
            name,
            run=_adam_step,
            reference=reference.adam_step,
            shapes=st.tuples(extents()),
            arguments=partial(_adam_arguments, decoupled),
            bound=lambda b, *arguments: _arrays_bounded(b, "adam_step", 4, *arguments),
            flops=lambda n: 14 * n,
            small=[(1,), (9,)],
        )


CASES: tuple[Case, ...] = (
    *_activation_cases(),
    *_layer_cases(),
    *_loss_cases(),
    *_optimizer_cases(),
)


def explore(case: Case, dtype: str, examples: int) -> None:
    """Check a case at many sizes, values and alignments; hypothesis reports the smallest failure."""

    @settings(max_examples=examples, report_multiple_bugs=False)
    @given(
        case.shapes,
        st.integers(0, 2**32 - 1),
        st.sampled_from(list(case.regimes)),
        st.sampled_from([0, 1, 2, 3, 5, 8]),
    )
    def everywhere(sizes, seed, regime, offset):
        check(case, sizes, dtype, seed, regime, offset)

    everywhere()
