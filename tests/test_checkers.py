"""The checkers must be able to fail: small errors, planted on purpose, are found."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

import gradcheck
import reference
import tolerances
from cases import CASES, Draw, check, explore
from tolerances import Bounds, assert_within, dot_bound

BY_NAME = {case.name: case for case in CASES}


# Gradients ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in CASES if case.gradient], ids=lambda c: c.name)
def test_a_gradient_wrong_by_a_thousandth_fails(case):
    rng = np.random.default_rng(5)
    value, gradient, point, kinks = case.gradient(rng, *case.small[-1])
    gradcheck.check(value, gradient, point, rng, kinks)
    wrong = {name: 1.001 * g for name, g in gradient.items()}
    with pytest.raises(AssertionError, match="wrong by 0.00"):
        gradcheck.check(value, wrong, point, rng, kinks)


def test_one_entry_wrong_by_a_thousandth_fails():
    case = BY_NAME["dense_backward"]
    rng = np.random.default_rng(5)
    value, gradient, point, _ = case.gradient(rng, 9, 2, 7)
    gradient["weight"][1, 3] *= 1.001
    with pytest.raises(AssertionError, match="gradient is wrong"):
        gradcheck.check(value, gradient, point, rng, directions=3)


def test_a_missing_gradient_fails():
    with pytest.raises(AssertionError, match="no direction|gradient is wrong"):
        gradcheck.check(
            lambda p: float(np.sum(p["x"] ** 2)),
            {"x": np.zeros(3)},
            {"x": np.ones(3)},
            np.random.default_rng(0),
        )


def test_steps_do_not_cross_a_kink():
    """|x| at 1e-6: the plain step would straddle zero and find no gradient at all."""
    point, gradient = {"x": np.array([1e-6])}, {"x": np.array([1.0])}

    def value(p):
        return float(np.abs(p["x"]).sum())

    rng = np.random.default_rng(0)
    gradcheck.check(value, gradient, point, rng, lambda p: p["x"] > 0)
    with pytest.raises(AssertionError, match="gradient is wrong"):
        gradcheck.check(value, gradient, point, rng)
    with pytest.raises(AssertionError, match="on a kink"):
        gradcheck.check(value, gradient, {"x": np.zeros(1)}, rng, lambda p: p["x"] > 0)


# Kernels ------------------------------------------------------------------------------------------


def forgets_its_tail(run, lanes=8):
    """`run`, but what is left after whole vectors along the last axis stays zero."""

    def wrong(*arguments, **keywords):
        result = run(*arguments, **keywords)
        if result.ndim:
            result[..., result.shape[-1] // lanes * lanes :] = 0
        return result

    return wrong


@pytest.mark.parametrize(
    "name", ["sigmoid_forward", "gelu_backward", "dense_forward", "softmax", "mse_backward"]
)
def test_a_kernel_that_forgets_its_tail_fails(name):
    case = replace(BY_NAME[name], run=forgets_its_tail(BY_NAME[name].run))
    with pytest.raises(AssertionError, match="outside the bound|other bits"):
        explore(case, "float32", 50)


def test_a_sum_that_forgets_its_tail_fails():
    case = BY_NAME["dense_forward"]

    def wrong(x, weight, bias, out=None):
        whole = x.shape[1] // 8 * 8
        parts = np.ascontiguousarray(x[:, :whole]), np.ascontiguousarray(weight[:, :whole])
        y = parts[0] @ parts[1].T + (0 if bias is None else bias)
        return y.astype(x.dtype)

    with pytest.raises(AssertionError, match="outside the bound"):
        explore(replace(case, run=wrong, out=False), "float32", 50)


def test_a_kernel_that_writes_past_its_end_fails():
    case = BY_NAME["relu_forward"]

    def wrong(x, alpha, out=None):
        y = case.run(x, alpha) if out is None else case.run(x, alpha, out=out)
        if out is not None and out.base is not None:
            out.base[-1] = 0
        return y

    with pytest.raises(AssertionError, match="wrote outside"):
        check(replace(case, run=wrong), (5,), "float32")


def test_a_kernel_that_changes_its_input_fails():
    case = BY_NAME["relu_forward"]

    def wrong(x, alpha, out=None):
        y = case.run(x, alpha)
        x[0] += 1
        return y

    with pytest.raises(AssertionError, match="changed its arguments"):
        check(replace(case, run=wrong), (5,), "float32")


# Bounds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_twice_the_bound_fails(case):
    """Every case: half its bound away passes; twice its bound and one bit away does not."""
    arguments = case.arguments(Draw(3), *case.small[-1])
    bounds = case.bound(Bounds("float32"), *arguments)
    for bound in bounds if isinstance(bounds, tuple) else (bounds,):
        assert np.all(np.isfinite(bound.error))
        assert_within(bound.value + 0.5 * bound.error, bound.value, bound.error)
        moved = bound.value + 2 * bound.error + np.spacing(np.abs(bound.value))
        with pytest.raises(AssertionError, match="outside the bound"):
            assert_within(moved, bound.value, bound.error)


def test_what_an_infinite_bound_forgives():
    assert_within(np.array([np.inf, 1e30]), np.array([1e39, 1e39]), np.inf)
    assert_within(np.array([np.inf, np.nan]), np.array([np.inf, np.nan]), 0.0)
    for actual, expected in ((np.inf, 1.0), (np.nan, 1.0), (1.0, np.nan), (-np.inf, np.inf)):
        with pytest.raises(AssertionError):
            assert_within(np.array([actual]), np.array([expected]), 1e300)
    with pytest.raises(AssertionError):
        assert_within(np.array([1.0]), np.array([np.inf]), np.inf)
    with pytest.raises(AssertionError, match="shape"):
        assert_within(np.zeros(2), np.zeros(3), 1.0)
    with pytest.raises(AssertionError, match="dtype"):
        assert_within(np.zeros(2), np.zeros(2), 1.0, dtype="float32")


def test_dot_bound_holds_and_is_no_wider_than_it_must():
    rng = np.random.default_rng(0)
    worst = 0.0
    for length in (1, 7, 64, 1000):
        a = rng.random((20, length), np.float32)
        b = rng.random(length).astype(np.float32)
        exact = a.astype(np.float64) @ b.astype(np.float64)
        total = np.zeros(20, np.float32)
        for k in range(length):  # one sum, the order with the largest bound
            total = total + a[:, k] * b[k]
        bound = dot_bound(exact, length, np.float32)
        assert_within(total, exact, bound)
        worst = max(worst, float(np.max(np.abs(total - exact) / bound)))
    assert worst > 0.02


@pytest.mark.parametrize("kind", sorted(tolerances.SMOOTH))
def test_constants_of_the_activations(kind):
    """Slopes and curvatures that propagate errors: upper bounds, and close ones."""
    x = np.linspace(-12, 12, 240_001)
    step = x[1] - x[0]
    y = reference.activation_forward(kind, x)
    saved = y if reference.ACTIVATIONS[kind].reads == "y" else x
    derivative = reference.activation_backward(kind, 1.0, saved)
    slope, curve, by_saved = tolerances.SMOOTH[kind]
    moved = np.diff(saved) > 1e-9
    measured = (
        np.abs(derivative).max(),
        np.abs(np.diff(derivative)).max() / step,
        np.max(np.abs(np.diff(derivative))[moved] / np.diff(saved)[moved]),
    )
    for value, limit in zip(measured, (slope, curve, by_saved), strict=True):
        assert value <= limit * (1 + 1e-6) + 1e-9
        assert value >= 0.98 * limit


class RoundedOps:
    """The reference, each result rounded to `bits` of mantissa: what a kernel may do at best."""

    def __init__(self, bits):
        self.bits = bits

    def _round(self, value):
        mantissa, exponent = np.frexp(value)
        return np.ldexp(np.round(np.ldexp(mantissa, self.bits)), exponent - self.bits)

    def __getattr__(self, name):
        def op(*arguments):
            result = getattr(sys.modules["reference"], name)(*arguments)
            if isinstance(result, (tuple, list)):
                return type(result)(self._round(r) for r in result)
            return self._round(result)

        return op


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mse", "huber"])
@pytest.mark.parametrize("kind", [k for k in reference.ACTIVATIONS if k != "identity"])
def test_bounds_of_networks_hold_and_can_fail(kind, loss):
    """24 bits of mantissa stay within the bounds of float32; 13 bits do not."""
    rng = np.random.default_rng(2)
    nodes = [
        {"op": "dense", "inputs": [0], "name": "0", "units": 9, "bias": True},
        {"op": "activation", "inputs": [1], "kind": kind, "alpha": 0.1},
        {"op": "dense", "inputs": [2], "name": "2", "units": 9, "bias": True},
        {"op": "add", "inputs": [2, 3]},
        {"op": "activation", "inputs": [4], "kind": kind, "alpha": 0.1},
        {"op": "dense", "inputs": [5], "name": "4", "units": 3, "bias": True},
    ]
    network = reference.Network(nodes, (8,))
    parameters = {
        name: rng.standard_normal(shape).astype(np.float32).astype(np.float64) / 2
        for name, shape in network.parameter_shapes().items()
    }
    x = rng.standard_normal((17, 8)).astype(np.float32).astype(np.float64)
    y = rng.integers(0, 3, 17) if loss == "cross_entropy" else rng.random((17, 3)).round(3)
    if loss != "cross_entropy":
        y = y.astype(np.float32).astype(np.float64)
    bounds = Bounds(np.float32)

    def run(ops, convert):
        network.ops = ops
        given = {name: convert(p) for name, p in parameters.items()}
        value, gradients = network.loss_and_gradients(given, convert(x), y, {"kind": loss})
        return [value, *gradients.values()]

    bounded = run(bounds, bounds.exact)
    for actual, expected in zip(run(RoundedOps(24), np.asarray), bounded, strict=True):
        assert_within(actual, expected.value, expected.error)
    with pytest.raises(AssertionError):
        for actual, expected in zip(run(RoundedOps(13), np.asarray), bounded, strict=True):
            assert_within(actual, expected.value, expected.error)
