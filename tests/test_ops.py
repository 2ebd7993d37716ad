"""Every operation on every implementation of its kernels, against the reference."""

from __future__ import annotations

import numpy as np
import pytest

import reference
import tolerances
from cases import CASES, DTYPES, check, explore

EXAMPLES = 25
ACTIVATIONS = [kind for kind in reference.ACTIVATIONS if kind != "identity"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case, dtype, kernels):
    """Sizes around vectors, panels and blocks; any alignment; values from zero to infinity."""
    explore(case, dtype, EXAMPLES)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["relu_forward", "sigmoid_forward", "relu_backward"])
def test_large_arrays_take_the_other_path(name, dtype, kernels):
    """Around 1 MiB of results, from where they are stored past the caches, at any alignment."""
    case = next(case for case in CASES if case.name == name)
    items = 2**20 // np.dtype(dtype).itemsize
    for size, offset in ((items - 1, 0), (items, 1), (items + 3, 5)):
        check(case, (size,), dtype, offset=offset)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        # Several blocks of depth, and enough rows and columns for several tasks.
        ("dense_forward", (61, 70, 1537)),
        ("dense_forward", (300, 65, 512)),
        ("dense_backward", (1030, 33, 31)),
        # Two blocks, too large not to be asked for; ten outputs in turned tiles, inputs left over.
        ("dense_backward", (1100, 42, 409)),
        ("dense_backward", (61, 130, 513)),
        # Outputs past a block of depth, with the weights transposed and with the batch.
        ("dense_backward", (61, 1100, 33)),
        ("dense_backward", (20, 1100, 65)),
        # Few examples: pairs and dots, with rows left over.
        ("dense_backward", (7, 1601, 311)),
        ("dense_backward", (8, 33, 21)),
        ("dense_backward", (3, 1601, 311)),
        ("softmax", (257, 300)),
        ("cross_entropy_backward", (257, 300)),
        ("dropout_forward", (300, 65)),
        ("adam_step", (70_001,)),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_past_a_block(name, sizes, dtype, kernels):
    case = next(case for case in CASES if case.name == name)
    check(case, sizes, dtype, offset=3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_ulps(kind, dtype, kernels):
    """The tables of limits, where the result is a normal number, on arguments of every size."""
    if kernels == "reference" and dtype == "float64" and kind in ("gelu", "gelu_tanh"):
        pytest.skip("the plain loops round the argument of erf and tanh, which Bounds allows for")
    vector = tolerances.VECTOR_ULPS[np.dtype(dtype).type]
    limits = tolerances.PLAIN_ULPS if kernels == "reference" else vector
    rng = np.random.default_rng(3)
    x = np.concatenate(
        [
            rng.uniform(-100, 100, 20_000),
            rng.uniform(-2, 2, 20_000),
            rng.choice([-1.0, 1.0], 20_000) * 2.0 ** rng.uniform(-126, 7, 20_000),
        ]
    ).astype(dtype)
    case = next(case for case in CASES if case.name == f"{kind}_forward")
    y = case.run(x, 0.1)
    exact = x.astype(np.longdouble if dtype == "float64" else np.float64)
    expected = reference.activation_forward(kind, exact, np.longdouble(0.1))
    # Where sigmoid(x) is no longer normal it may be flushed, and silu loses |x| times as much.
    normal = np.abs(expected) >= float(np.finfo(dtype).tiny) * np.maximum(1, np.abs(x))
    if dtype == "float64" and kind in ("gelu", "gelu_tanh"):
        normal &= np.abs(x) < 1  # further out the reference rounds its own argument
    error = np.abs(y - expected) / tolerances.ulps(expected, 1, np.dtype(dtype).type)
    worst = int(np.argmax(np.where(normal, error, 0)))
    assert error[worst] <= limits[kind], f"{kind}({x[worst]!r}) is {error[worst]:.2f} ulp off"


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_in_place(kind, kernels):
    """An element-wise result may replace its argument."""
    case = next(case for case in CASES if case.name == f"{kind}_forward")
    x = np.random.default_rng(0).standard_normal(101).astype(np.float32)
    expected = case.run(x, 0.1)
    assert case.run(x, 0.1, out=x) is x
    assert x.tobytes() == expected.tobytes()
    backward = next(case for case in CASES if case.name == f"{kind}_backward")
    dy, saved = expected.copy(), np.abs(expected)
    expected = backward.run(dy, saved, 0.1)
    backward.run(dy, saved, 0.1, out=dy)
    assert dy.tobytes() == expected.tobytes()
