"""Single operations on a GPU's arrays against the reference and the CPU."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dlcore
from cases import CASES, check
from dlcore import _core
from gpus import Foreign, emulated_only, needs_gpu
from networks import ACTIVATIONS, OPTIMIZERS

pytestmark = needs_gpu

if dlcore.info()["cuda"]:
    from dlcore import _cuda


def on_device(run):
    """An operation that takes NumPy arrays to the GPU and brings its results back."""

    def call(*arguments):
        placed = [
            dlcore.device_array(a) if isinstance(a, np.ndarray) and a.dtype == np.float32 else a
            for a in arguments
        ]
        results = run(*placed)
        several = isinstance(results, tuple)
        back = [
            r.numpy() if _cuda.is_device_array(r) else r
            for r in (results if several else [results])
        ]
        return tuple(back) if several else back[0]

    return call


DEVICE_CASES = [case for case in CASES if not case.name.endswith("_step")]


@pytest.mark.parametrize("case", DEVICE_CASES, ids=lambda case: case.name)
def test_operations_on_device_arrays(case):
    """Every operation of `functional` on every kind of value, as on the CPU."""
    case = dataclasses.replace(case, run=on_device(case.run), out=False)

    @settings(max_examples=12)
    @given(case.shapes, st.integers(0, 2**32 - 1), st.sampled_from(case.regimes))
    def everywhere(sizes, seed, regime):
        check(case, sizes, "float32", seed, regime)

    everywhere()


def ones(*shape):
    return np.ones(shape, np.float32)


def step(native, w, g, *moments, momentum=0.5, number=1):
    """One step of SGD, or of Adam where there are two moments."""
    if len(moments) == 1:
        native.sgd_step(w, g, *moments, 0.1, momentum, False, 0.0)
    else:
        native.adam_step(w, g, *moments, 0.1, 0.9, 0.99, 1e-8, 0.0, False, number)
    return w


LABELS = np.array([0, 2])
F = dlcore.functional

#: Operations on what their first argument, `put`, places; `native` is the extension of that place.
MISTAKES = {
    "adam_step: step counts from 1, found 0": lambda put, native: step(
        native, *map(put, (ones(3),) * 4), number=0
    ),
    "adam_step: parameter and second must have the same shape; parameter (3,), second (4,)": (
        lambda put, native: step(native, *map(put, (ones(3), ones(3), ones(3), ones(4))))
    ),
    "sgd_step: parameter and gradient must have the same shape; parameter (3,), gradient (4,)": (
        lambda put, native: step(native, *map(put, (ones(3), ones(4), ones(3))))
    ),
    "cross_entropy: labels must be int64, found int32; convert it, e.g. labels.astype(numpy.int64)": (
        lambda put, _: F.cross_entropy(put(ones(2, 3)), put(LABELS.astype(np.int32)))
    ),
    "cross_entropy: labels must be int64, found float64; convert it, e.g. labels.astype(numpy.int64)": (
        lambda put, _: F.cross_entropy_backward(put(ones(2, 3)), put(LABELS + 0.25))
    ),
    "cross_entropy: labels must be (2,) for logits (2, 3), found (1, 2)": (
        lambda put, _: F.cross_entropy(put(ones(2, 3)), put(LABELS[None]))
    ),
    "cross_entropy: labels must lie in 0..2 for 3 classes, found -1 at index 1": (
        lambda put, _: F.cross_entropy(put(ones(2, 3)), put(np.array([0, -1])))
    ),
    "cross_entropy: logits must be (examples, classes), found (2,)": (
        lambda put, _: F.cross_entropy(put(ones(2)), put(LABELS))
    ),
    "cross_entropy: sample_weight must be (2,), found (3,)": (
        lambda put, _: F.cross_entropy(put(ones(2, 3)), put(LABELS), put(np.ones(3)))
    ),
    "mse: sample_weight must be float64, found float32; convert it, e.g. "
    "sample_weight.astype(numpy.float64)": (
        lambda put, _: F.mse(put(ones(2, 3)), put(ones(2, 3)), put(ones(2)))
    ),
    "mse: sample_weight must be a numpy.ndarray": (
        lambda put, _: F.mse(put(ones(2, 3)), put(ones(2, 3)), [1.0, 1.0])
    ),
    "mse: sample_weight must be finite and not negative, found nan at index 1": (
        lambda put, _: F.mse(put(ones(2, 3)), put(ones(2, 3)), put(np.array([1, np.nan])))
    ),
    "huber: delta must be positive, found nan": (
        lambda put, native: native.loss_forward("huber", put(ones(2)), put(ones(2)), None, np.nan)
    ),
    "mse: prediction needs at least one axis, found ()": (
        lambda put, _: F.mse(put(ones()), put(ones()))
    ),
    "softmax: logits needs at least one axis, found ()": lambda put, _: F.softmax(put(ones())),
    "dense: x needs at least one axis, found ()": (
        lambda put, _: F.dense(put(ones()), put(ones(2, 3)))
    ),
    "dense: bias must be (2,) for weight (2, 3), found (3,)": (
        lambda put, _: F.dense(put(ones(4, 3)), put(ones(2, 3)), put(ones(3)))
    ),
    "dense_backward: dy must be (4, 2) for x (4, 3) and weight (2, 3), found (4, 3)": (
        lambda put, _: F.dense_backward(put(ones(4, 3)), put(ones(4, 3)), put(ones(2, 3)))
    ),
    "relu_backward: dy and y must have the same shape; dy (2,), y (3,)": (
        lambda put, _: F.relu_backward(put(ones(2)), put(ones(3)))
    ),
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_operations_refuse_what_the_cpu_refuses(sentence):
    for put, native in ((np.asarray, _core), (dlcore.device_array, _cuda)):
        with pytest.raises((TypeError, ValueError)) as error:
            MISTAKES[sentence](put, native)
        assert str(error.value) == sentence


#: What there is nothing of, and what is not looked at.
EDGES = {
    "dense, no inputs": lambda put, _: F.dense(put(ones(3, 0)), put(ones(2, 0))),
    "dense, a bias alone": lambda put, _: F.dense(put(ones(3, 0)), put(ones(2, 0)), put(ones(2))),
    "dense, no outputs": lambda put, _: F.dense(put(ones(3, 4)), put(ones(0, 4))),
    "dense, no rows": lambda put, _: F.dense(put(ones(0, 4)), put(ones(2, 4))),
    "dense_backward, no rows": lambda put, _: F.dense_backward(
        put(ones(0, 2)), put(ones(0, 4)), put(ones(2, 4))
    ),
    "dense_backward, no outputs": lambda put, _: F.dense_backward(
        put(ones(3, 0)), put(ones(3, 4)), put(ones(0, 4))
    ),
    "dense_backward, no inputs": lambda put, _: F.dense_backward(
        put(ones(3, 2)), put(ones(3, 0)), put(ones(2, 0))
    ),
    "softmax, no classes": lambda put, _: F.softmax(put(ones(3, 0))),
    "relu, one number": lambda put, _: F.relu(put(ones())),
    "dropout, one number": lambda put, _: F.dropout(put(ones()), 0.0, 0),
    "mse, no outputs": lambda put, _: F.mse(put(ones(3, 0)), put(ones(3, 0))),
    "cross_entropy, no rows": lambda put, _: F.cross_entropy(
        put(ones(0, 3)), put(LABELS[:0]), put(np.ones(0))
    ),
    "mse, weights": lambda put, _: F.mse(put(ones(2, 3)), put(ones(2, 3) * 3), put(np.ones(2))),
    "a velocity that is not used": lambda put, native: step(
        native, put(ones(3)), put(ones(3)), put(ones(4)), momentum=0.0
    ),
}


@pytest.mark.parametrize("name", EDGES)
def test_operations_on_edges_are_those_of_the_cpu(name):
    def taken_back(result):
        several = result if isinstance(result, tuple) else (result,)
        return [np.asarray(r.numpy() if _cuda.is_device_array(r) else r) for r in several]

    expected = taken_back(EDGES[name](np.copy, _core))
    for ours, theirs in zip(
        taken_back(EDGES[name](dlcore.device_array, _cuda)), expected, strict=True
    ):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_array_equal(ours, theirs)


@emulated_only
def test_arrays_of_an_operation_lie_on_one_gpu(monkeypatch):
    monkeypatch.setenv("DLCORE_EMULATED_DEVICES", "2")

    def here(*shape):
        return dlcore.device_array(ones(*shape))

    def there(*shape):
        return dlcore.device_array(ones(*shape), "cuda:1")

    for operation, call in {
        "relu": lambda: F.relu(here(3), out=there(3)),
        "dense": lambda: F.dense(here(2, 3), here(4, 3), there(4)),
        "dense_backward": lambda: F.dense_backward(here(2, 4), here(2, 3), there(4, 3)),
        "mse": lambda: F.mse_backward(here(2, 3), here(2, 3), out=there(2, 3)),
        "sgd_step": lambda: step(_cuda, here(3), there(3), here(3)),
        "adam_step": lambda: step(_cuda, here(3), here(3), here(3), there(3)),
    }.items():
        with pytest.raises(RuntimeError) as error:
            call()
        sentence = "all arrays must lie on one GPU, found cuda:0 and cuda:1"
        assert str(error.value) == f"{operation}: {sentence}"


def test_more_examples_than_a_loss_takes_on_a_gpu():
    small = dlcore.device_array(ones(1))
    many = Foreign(small, "interface", shape=(2**31, 0))
    with pytest.raises(ValueError, match="^mse: takes at most 2147483647 examples on a GPU, found"):
        F.mse(many, many)


@pytest.mark.parametrize("kind", [*ACTIVATIONS, "identity"])
def test_activations_have_the_bits_of_the_cpu(kind):
    """The formulas are the same source, and nothing is contracted."""
    if _core.kernels() == "reference":
        # They take the C library's exponential; functors.h is what a GPU shares with the others.
        pytest.skip("the plain loops have other formulas")
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal(5000) * s for s in (1e-3, 1, 10, 100)])
    x = np.concatenate([x, [0.0, -0.0, np.inf, -np.inf, np.nan]]).astype(np.float32)
    dy = rng.standard_normal(len(x)).astype(np.float32)
    y = _core.activation_forward(kind, x, 0.1, None)
    on_gpu = _cuda.activation_forward(kind, dlcore.device_array(x), 0.1, None).numpy()
    np.testing.assert_array_equal(on_gpu, y)
    saved = x if kind in ("gelu", "gelu_tanh", "silu") else y
    dx = _core.activation_backward(kind, dy, saved, 0.1, None)
    arguments = (dlcore.device_array(dy), dlcore.device_array(saved), 0.1, None)
    np.testing.assert_array_equal(_cuda.activation_backward(kind, *arguments).numpy(), dx)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_have_the_bits_of_the_cpu(name):
    rng = np.random.default_rng(1)
    native = OPTIMIZERS[name]._native()
    rate = 0.01
    arrays = [rng.standard_normal(1001).astype(np.float32) for _ in range(4)]
    arrays[3] = arrays[3] ** 2
    results = []
    for module, place in ((_core, np.copy), (_cuda, dlcore.device_array)):
        w, g, first, second = (place(a) for a in arrays)
        if native["kind"] == "sgd":
            settings_ = (native["momentum"], native["nesterov"], native["weight_decay"])
            module.sgd_step(w, g, first, rate, *settings_)
        else:
            settings_ = [native[k] for k in ("beta1", "beta2", "epsilon", "weight_decay")]
            module.adam_step(w, g, first, second, rate, *settings_, native["kind"] == "adamw", 3)
        results.append([a if isinstance(a, np.ndarray) else a.numpy() for a in (w, first, second)])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)
