"""Networks on a GPU against the reference, the CPU and themselves.

They run where ``device="cuda"`` works: on a GPU, or in the emulation (DLCORE_CUDA=EMULATE), which
runs the kernels, the streams and the products on the CPU.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import threading
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dlcore
import reference
from cases import CASES, check
from dlcore import _core
from test_training import (
    ACTIVATIONS,
    LOSSES,
    OPTIMIZERS,
    SCHEDULES,
    architectures,
    assert_parameters,
    follow,
    small_data,
    targets,
    twin,
)
from test_training import small_network as small_network_on_cpu
from tolerances import Bounds, RoundedBounds, assert_within

pytestmark = pytest.mark.skipif(not dlcore.info()["cuda"], reason=dlcore.info()["cuda_status"])

if dlcore.info()["cuda"]:
    from dlcore import _cuda

    EMULATED = _cuda.emulated
else:
    EMULATED = False
emulated_only = pytest.mark.skipif(not EMULATED, reason="needs the emulation")

#: What each precision rounds: a kind of bounds.
PRECISIONS = {
    "fp32": Bounds("float32"),
    "tf32": RoundedBounds("float32", 2.0**-10),
    "bf16": RoundedBounds("float32", 2.0**-9, 2.0**-9),
}


def moved(network, precision="fp32"):
    """The network on the GPU."""
    network.to("cuda").precision = precision
    return network


def small_network(dropout=0.25, kind="tanh", precision="fp32"):
    return moved(small_network_on_cpu("float32", dropout, kind), precision)


def stored(bounds, x):
    return bounds.stored(x) if isinstance(bounds, RoundedBounds) else bounds.exact(x)


def bits(network):
    return {name: value.tobytes() for name, value in network.parameters.items()}


# One batch against the reference ------------------------------------------------------------------


@pytest.fixture(params=["fused", "plain"])
def products(request, monkeypatch):
    """Products with every epilogue there is, and with none."""
    if request.param == "plain":
        if not EMULATED:
            pytest.skip("needs the emulation")
        monkeypatch.setenv("DLCORE_EMULATED_PLAIN_PRODUCTS", "1")
    return request.param


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_random_networks(kind, loss, precision, products):
    """Outputs, loss and gradients of any graph, within the bound that is derived for it."""

    @settings(max_examples=4 if products == "fused" else 2)
    @given(
        architectures(kind),
        st.sampled_from([1, 2, 7, 16, 33, 65]),
        st.integers(0, 2**32 - 1),
        st.booleans(),
        st.booleans(),
    )
    def everywhere(architecture, count, seed, weighted, drop):
        layers, shape = architecture
        rng = np.random.default_rng(seed)
        network = dlcore.Network(layers, shape, seed=seed, device="cuda")
        network.precision = precision
        network.set_parameters(
            {
                name: 0.5 * rng.standard_normal(value.shape)
                for name, value in network.parameters.items()
                if name.endswith("bias")
            }
        )
        network._core.step = seed
        x = rng.standard_normal((count, *shape)).astype(np.float32)
        y = targets(rng, loss, count, network.output_shape)
        weight = rng.integers(0, 4, count).astype(np.float64) if weighted else None
        if weighted:
            weight[-1] = 1
        given_y = y if loss == "cross_entropy" else y.astype(np.float32)
        value, gradients = network.loss_and_gradients(
            x, given_y, LOSSES[loss], sample_weight=weight, dropout_seed=seed if drop else None
        )
        bounds = PRECISIONS[precision]
        model = twin(network, bounds)
        exact = {name: bounds.exact(p) for name, p in network.parameters.items()}
        y = y if loss == "cross_entropy" else given_y.astype(np.float64)
        dropout = (seed, seed) if drop else None
        arguments = LOSSES[loss]._native(), weight, dropout
        expected = model.loss_and_gradients(exact, stored(bounds, x), y, *arguments)
        assert_within(value, expected[0].value, expected[0].error, name="loss")
        assert list(gradients) == list(expected[1])
        for name, gradient in gradients.items():
            bounded = expected[1][name]
            assert_within(gradient, bounded.value, bounded.error, name=name, dtype="float32")
        output = model.forward(exact, stored(bounds, x))[-1]
        assert_within(network(x), output.value, output.error, name="output", dtype="float32")

    everywhere()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "sizes", [(1, 1), (3, 2), (31, 2), (32, 4), (33, 8), (6, 33, 4), (7, 129, 1)]
)
@pytest.mark.parametrize("batch", [1, 2, 8, 64])
def test_integers_are_exact(sizes, batch, precision):
    """Small integers and powers of two are exact in every precision and every order of sums."""
    rng = np.random.default_rng(batch)

    def integers(shape, limit):
        return rng.integers(-limit, limit + 1, shape).astype(np.float32)

    layers = [step for size in sizes[1:-1] for step in (dlcore.Dense(size), dlcore.ReLU())]
    network = dlcore.Network([*layers, dlcore.Dense(sizes[-1])], (sizes[0],), device="cuda")
    network.precision = precision
    parameters = {name: integers(p.shape, 1) for name, p in network.parameters.items()}
    network.set_parameters(parameters)
    x = integers((batch, sizes[0]), 2)
    exact = reference.Network(network._graph.nodes, network.input_shape)
    wide = {name: value.astype(np.float64) for name, value in parameters.items()}
    out = exact.forward(wide, x.astype(np.float64))[-1]
    np.testing.assert_array_equal(network(x), out)
    # Residuals of 1 and -1: with a power of two of them the gradient is exact too.
    y = out - rng.choice([-1.0, 1.0], out.shape)
    expected = exact.loss_and_gradients(wide, x.astype(np.float64), y, {"kind": "mse"})
    value, gradients = network.loss_and_gradients(x, y, "mse")
    assert value == expected[0] == 1
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, expected[1][name], err_msg=name)


@emulated_only
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("drops", [False, True])
def test_relu_lets_nan_through(drops, precision, monkeypatch):
    """Whatever the library's own ReLU makes of NaN: a hidden sum of inf and -inf is seen."""
    if drops:
        monkeypatch.setenv("DLCORE_EMULATED_RELU_DROPS_NAN", "1")
    layers = [dlcore.Dense(3), dlcore.ReLU(), dlcore.Dense(2)]
    x, y = np.full((20, 2), 4, np.float32), np.arange(20) % 2
    answers = []
    for device in ("cpu", "cuda"):
        network = dlcore.Network(layers, 2, device=device)
        if device == "cuda":
            network.precision = precision
        weight = np.zeros((3, 2), np.float32)
        weight[1] = [3e38, -3e38]
        network.set_parameters({"0.weight": weight})
        with pytest.warns(dlcore.DivergenceWarning):
            history = network.fit(x, y, epochs=2, batch_size=10)
        assert np.isnan(network.predict(x)).all()
        assert np.isnan(network.evaluate(x, y)["loss"])
        assert np.isnan(network.loss_and_gradients(x, y)[0])
        answers.append((history.stopped, history.message))
    assert answers[0] == answers[1]


def test_losses_that_are_not_finite_are_those_of_the_cpu():
    """Of one batch among several, too."""
    x, y = np.zeros((9000, 2), np.float32), np.zeros((9000, 1), np.float32)
    losses = []
    for row in (0, 5000, 8999):
        x[:] = 0
        x[row] = 3e38
        for device in ("cpu", "cuda"):
            network = dlcore.Network([dlcore.Dense(1)], 2, device=device)
            network.set_parameters({"0.weight": np.full((1, 2), 0.25, np.float32)})
            losses.append(network.evaluate(x, y, loss="mse")["loss"])
            losses.append(network.loss_and_gradients(x, y, "mse")[0])
    values = np.full((3, 2), np.inf, np.float32)
    for put in (np.copy, dlcore.device_array):
        losses.append(dlcore.functional.mse(put(values), put(np.zeros_like(values))))
    assert losses == [np.inf] * len(losses)


@emulated_only
@pytest.mark.parametrize("precision", PRECISIONS)
def test_who_applies_relu_changes_no_bit(precision, monkeypatch):
    x, y = small_data("float32", count=90)
    seen = []
    for drops in (False, True):
        if drops:
            monkeypatch.setenv("DLCORE_EMULATED_RELU_DROPS_NAN", "1")
        layers = [dlcore.Dense(9), dlcore.ReLU(), dlcore.Dense(6), dlcore.ReLU(), dlcore.Dense(3)]
        network = moved(dlcore.Network(layers, 7, seed=4), precision)
        history = network.fit(x, y, epochs=2, batch_size=16, validation_data=(x[:30], y[:30]))
        gradients = network.loss_and_gradients(x, y)[1]
        group = [dlcore.Network(layers, 7, seed=seed) for seed in range(3)]
        dlcore.fit_many(group, x, y, device="cuda", precision=precision, batch_size=16, epochs=2)
        seen.append(
            (
                [bits(n) for n in (network, *group)],
                (history.loss, history.val_loss),
                [g.tobytes() for g in gradients.values()],
            )
        )
    assert seen[0] == seen[1]


def test_more_rows_than_one_piece():
    """Gradients of any number of rows are summed in pieces; masks go on across them."""
    network = small_network()
    x, y = small_data("float32", count=4096 + 33)
    bounds = Bounds("float32")
    exact = {name: bounds.exact(p) for name, p in network.parameters.items()}
    arguments = {"kind": "cross_entropy"}, None, (9, 0)
    expected = twin(network, bounds).loss_and_gradients(exact, bounds.exact(x), y, *arguments)
    value, gradients = network.loss_and_gradients(x, y, dropout_seed=9)
    assert_within(value, expected[0].value, expected[0].error)
    for name, gradient in gradients.items():
        assert_within(gradient, expected[1][name].value, expected[1][name].error, name=name)


@pytest.mark.parametrize("clip", [0.01, 100.0])
def test_clipped_gradients(clip):
    cpu, gpu = small_network_on_cpu("float32"), small_network()
    x, y = small_data("float32")
    plain = gpu.loss_and_gradients(x, y)[1]
    clipped = gpu.loss_and_gradients(x, y, clip_norm=clip)[1]
    norm = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in plain.values()))
    factor = np.float32(min(1.0, clip / (norm + 1e-6)))
    for name, gradient in plain.items():
        np.testing.assert_allclose(clipped[name], gradient * factor, rtol=1e-6)
    assert set(cpu.loss_and_gradients(x, y)[1]) == set(plain)


# Plans that are kept ------------------------------------------------------------------------------


def taken(call):
    """What a call allocates on the GPU, and how many algorithms it asks cuBLASLt for."""
    before = _cuda.emulated_counts()
    call()
    after = _cuda.emulated_counts()
    return tuple(after[name] - before[name] for name in ("allocations", "choices"))


@emulated_only
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_second_call_allocates_nothing(precision):
    network, (x, y) = small_network(precision=precision), small_data("float32", count=90)
    weight = np.arange(90.0)
    calls = {
        "predict": lambda: network.predict(x),
        "evaluate": lambda: network.evaluate(x, y, sample_weight=weight),
        "gradients": lambda: network.loss_and_gradients(
            x, y, sample_weight=weight, clip_norm=0.1, dropout_seed=3
        ),
        "half": lambda: network.predict(x[:45]),
    }
    first = {name: taken(call) for name, call in calls.items()}
    assert first["predict"] > (0, 0)
    assert first["evaluate"][1] == 0, "predict's plan serves evaluate"
    assert first["gradients"] > (0, 0)
    for call in calls.values():
        assert taken(call) == (0, 0)
    # A fit takes the memory that there is; other rows and another precision have other plans.
    network.fit(x, y, epochs=1)
    assert taken(calls["predict"]) > (0, 0)
    assert taken(calls["predict"]) == (0, 0)
    network.precision = "fp32" if precision != "fp32" else "tf32"
    assert taken(calls["predict"]) > (0, 0)


@emulated_only
def test_few_plans_are_kept(monkeypatch):
    x = np.ones((8, 64), np.float32)
    layers = [dlcore.Dense(1000), dlcore.ReLU(), dlcore.Dense(3)]
    network = dlcore.Network(layers, 64, device="cuda")
    outputs = [network.predict(x[:rows]).tobytes() for rows in range(1, 6)]
    assert taken(lambda: network.predict(x[:5])) == (0, 0)
    assert taken(lambda: network.predict(x[:1])) > (0, 0), "five plans were kept"
    # Where there is no room for another one, those that are kept make it.
    big = np.ones((4000, 64), np.float32)
    for rows in (3999, 4000):
        network.predict(big[:rows])
    limit = _cuda.emulated_counts()["used"] + 10_000_000
    monkeypatch.setenv("DLCORE_EMULATED_MEMORY", str(limit))
    network.predict(big[:3998])
    assert [network.predict(x[:rows]).tobytes() for rows in range(1, 6)] == outputs


def test_kept_plans_see_new_weights_and_new_data():
    rng = np.random.default_rng(0)
    kept = small_network()
    for count in (30, 50, 30):
        x, y = small_data("float32", count=count)
        x = x + rng.standard_normal(x.shape).astype(np.float32)
        kept.set_parameters(
            {name: rng.standard_normal(p.shape) for name, p in kept.parameters.items()}
        )
        weight = rng.random(count) if count == 50 else None
        fresh = small_network()
        fresh.set_parameters(kept.parameters)
        seen = []
        for network in (kept, fresh):
            value, gradients = network.loss_and_gradients(x, y, sample_weight=weight)
            measured = network.evaluate(x, y, sample_weight=weight)
            bytes_ = [g.tobytes() for g in gradients.values()]
            seen.append((network.predict(x).tobytes(), measured, value, bytes_))
        assert seen[0] == seen[1]


# Training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_step(name, clip):
    network, (x, y) = small_network(), small_data("float32")
    optimizer = OPTIMIZERS[name]
    arguments = {"epochs": 1, "batch_size": len(x), "seed": 2}
    (step,) = follow(
        network,
        x,
        y,
        optimizer=optimizer,
        bounds=Bounds("float32"),
        clip_norm=clip or 0.0,
        **arguments,
    )
    history = network.fit(x, y, optimizer=optimizer, clip_norm=clip, **arguments)
    assert history.engine == "graph"
    assert_within(history.loss[0], step.loss.value, step.loss.error)
    assert_parameters(network, step.parameters, "float32", 3e-4)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("loss", LOSSES)
def test_whole_epochs(loss, schedule, weighted):
    """Two shuffled epochs with dropout, a short last batch, weights (one batch all zero)."""
    network, (x, y) = small_network(), small_data("float32", loss=loss)
    weight = None
    if weighted:
        weight = np.random.default_rng(1).random(len(x))
        network._core.step = 17
        weight[reference.random_permutation(2, 17, len(x))[8:16]] = 0
    optimizer = dlcore.SGD(SCHEDULES[schedule], momentum=0.5, weight_decay=0.01)
    arguments = {"epochs": 2, "batch_size": 8, "seed": 2, "sample_weight": weight}
    bounds = Bounds("float32")
    steps = list(follow(network, x, y, loss=loss, optimizer=optimizer, bounds=bounds, **arguments))
    history = network.fit(x, y, LOSSES[loss], optimizer, **arguments)
    np.testing.assert_allclose(
        history.learning_rate, [steps[2].learning_rate, steps[5].learning_rate], rtol=1e-15
    )
    for epoch in range(2):
        part = steps[3 * epoch : 3 * epoch + 3]
        share = np.array([len(s.rows) if weight is None else weight[s.rows].sum() for s in part])
        share = share / share.sum()
        mean = sum(w * s.loss.value for w, s in zip(share, part, strict=True))
        error = sum(w * s.loss.error for w, s in zip(share, part, strict=True))
        assert_within(history.loss[epoch], mean, error)
    for name, value in network.parameters.items():
        bounded = steps[-1].parameters[name]
        assert_within(value, bounded.value, bounded.error, name=name)


@pytest.mark.parametrize("kind", ["relu", "gelu"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_cpu_trains_alike(name, kind):
    """The same seed takes the same batches and drops the same elements: hundreds of steps."""
    histories, networks = [], []
    x, y = small_data("float32", count=300)
    for network in (small_network_on_cpu("float32", kind=kind), small_network(kind=kind)):
        arguments = {"optimizer": OPTIMIZERS[name], "epochs": 4, "batch_size": 16, "seed": 3}
        histories.append(network.fit(x, y, validation_data=(x[:70], y[:70]), **arguments))
        networks.append(network)
    for measure in ("loss", "val_loss"):
        np.testing.assert_allclose(histories[0][measure], histories[1][measure], rtol=2e-3)
    for parameter, value in networks[0].parameters.items():
        np.testing.assert_allclose(networks[1].parameters[parameter], value, atol=2e-2)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_bits_each_time(precision):
    x, y = small_data("float32", count=200)
    seen = []
    for _ in range(2):
        network = small_network(precision=precision, kind="relu")
        history = network.fit(x, y, epochs=3, batch_size=32, seed=1, clip_norm=1.0)
        seen.append((bits(network), history.loss, network.predict(x).tobytes()))
    assert seen[0] == seen[1]
    assert history.precision == precision
    assert f"precision='{precision}'" in repr(history)
    other = small_network(precision=precision, kind="relu")
    other.fit(x, y, epochs=3, batch_size=32, seed=2, clip_norm=1.0)
    assert bits(other) != seen[0][0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_fits_are_one(name):
    x, y = small_data("float32")
    arguments = {"optimizer": OPTIMIZERS[name], "batch_size": 8, "seed": 6}
    whole, halves = small_network(), small_network()
    whole.fit(x, y, epochs=4, **arguments)
    halves.fit(x, y, epochs=1, **arguments)
    halves.fit(x, y, epochs=3, **arguments)
    assert bits(whole) == bits(halves)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_long_epochs_are_many_short_fits(precision):
    """Recorded steps, several at a time and in slices, give the bits of single ones."""
    x, y = small_data("float32", count=300)
    arguments = {"optimizer": dlcore.Adam(0.01), "epochs": 1, "batch_size": 3, "shuffle": False}
    whole = small_network(precision=precision, kind="relu")
    parts = small_network(precision=precision, kind="relu")
    whole.fit(x, y, **arguments)
    for begin in range(0, 300, 60):
        part = slice(begin, begin + 60)
        parts.fit(x[part], y[part], **arguments)
    assert bits(whole) == bits(parts)


def test_rows_of_the_data():
    x, y = small_data("float32", count=60)
    rows = [3, 3, 59, *range(10, 30)]
    one, other = small_network(), small_network()
    one.fit(x[rows], y[rows], epochs=2, batch_size=7)
    (history,) = dlcore.fit_many([other], x, y, subsets=[rows], epochs=2, batch_size=7)
    assert bits(one) == bits(other)
    assert history.device == "cuda"


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64", "int32"])
@pytest.mark.parametrize("layout", ["c", "fortran", "strided", "sliced"])
def test_data_of_any_kind(dtype, layout):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 200, (50, 2, 6)).astype(dtype)
    y = rng.integers(0, 3, 50)
    same = np.ascontiguousarray(x)
    if layout == "fortran":
        x = np.asfortranarray(x)
    elif layout == "strided":
        x = np.repeat(x, 2, axis=0)[::2]
    elif layout == "sliced":
        x = np.concatenate([x, x], axis=2)[:, :, :6]
    layers = [dlcore.Flatten(), dlcore.Dense(5), dlcore.ReLU(), dlcore.Dense(3)]
    results = []
    for device, data in (("cpu", same), ("cuda", same), ("cuda", x)):
        network = dlcore.Network(layers, (2, 6), seed=1, device=device)
        network.precision = "fp32"
        options = {"input_scale": 0.01, "epochs": 2, "batch_size": 8}
        network.fit(data, y, optimizer=dlcore.SGD(0.1), **options)
        results.append((network(data), network.evaluate(data, y)["loss"], bits(network)))
    np.testing.assert_allclose(results[1][0], results[0][0], atol=1e-5)
    assert abs(results[1][1] - results[0][1]) < 1e-5
    assert results[1][2] == results[2][2]
    np.testing.assert_array_equal(results[1][0], results[2][0])


def test_outputs_at_every_position():
    """Rows of an example that stay apart, as many labels as rows."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 3, 5)), rng.integers(0, 4, (40, 3))
    layers = [dlcore.Dense(7), dlcore.ReLU(), dlcore.Dense(4)]
    losses = []
    for device in ("cpu", "cuda"):
        network = dlcore.Network(layers, (3, 5), device=device)
        network.precision = "fp32"
        history = network.fit(x, y, epochs=3, batch_size=16, optimizer=dlcore.SGD(0.1))
        losses.append((history.loss, history.accuracy, network.predict(x)))
    np.testing.assert_allclose(losses[0][0], losses[1][0], rtol=1e-5)
    assert losses[0][1] == pytest.approx(losses[1][1], abs=0.02)
    np.testing.assert_allclose(losses[0][2], losses[1][2], atol=1e-5)


@emulated_only
def test_data_that_does_not_fit_is_streamed(monkeypatch):
    """Slices of rows in order of use, while the slice before is trained on: the same bits."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 64)).astype(np.float32)
    y = rng.integers(0, 3, len(x))
    layers = [dlcore.Dense(4), dlcore.ReLU(), dlcore.Dense(3)]
    results = []
    for limited in (False, True):
        limit = _cuda.emulated_counts()["used"] + x.nbytes - 500_000
        monkeypatch.setenv("DLCORE_EMULATED_MEMORY", str(limit) if limited else "")
        network = dlcore.Network(layers, (64,), device="cuda")
        history = network.fit(x, y, epochs=2, batch_size=500, validation_data=(x[:300], y[:300]))
        results.append((bits(network), history.loss, history.val_loss))
    assert results[0] == results[1]


@emulated_only
def test_out_of_memory_is_a_sentence(monkeypatch):
    network = dlcore.Network([dlcore.Dense(1000), dlcore.ReLU(), dlcore.Dense(3)], (64,))
    network.to("cuda")
    x, y = np.ones((100_000, 64), np.float32), np.arange(100_000) % 3
    limit = _cuda.emulated_counts()["used"] + 17_000_000
    monkeypatch.setenv("DLCORE_EMULATED_MEMORY", str(limit))
    before = bits(network)
    sentence = r"fit: .* MB for .* do not fit on the GPU: .*; use a smaller batch_size"
    with pytest.raises(RuntimeError, match=sentence):
        network.fit(x, y, epochs=1, batch_size=50_000)
    assert bits(network) == before
    network.fit(x[:100], y[:100], epochs=1, batch_size=10)


# The end of a fit ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("batch", [10, 100])
def test_divergence_takes_back_the_last_steps(name, batch):
    rng = np.random.default_rng(0)
    x = 100 * rng.standard_normal((100, 5)).astype(np.float32)
    y = rng.standard_normal((100, 2)).astype(np.float32)
    optimizer = {
        "sgd": dlcore.SGD(30.0),
        "momentum": dlcore.SGD(30.0, momentum=0.9),
        "adam": dlcore.Adam(1e15),
    }[name]
    messages = []
    for device in ("cpu", "cuda"):
        layers = [dlcore.Dense(8), dlcore.ReLU(), dlcore.Dense(8), dlcore.ReLU(), dlcore.Dense(2)]
        network = dlcore.Network(layers, 5, seed=1, device=device)
        network.precision = "fp32"
        with pytest.warns(dlcore.DivergenceWarning):
            history = network.fit(x, y, optimizer=optimizer, epochs=8, batch_size=batch)
        assert history.stopped == "diverged"
        assert all(np.isfinite(p).all() for p in network.parameters.values())
        messages.append(history.message)
    assert messages[0].split(";")[1] == messages[1].split(";")[1]


def test_early_stopping_restores_the_best():
    x, y = small_data("float32", count=60)
    stop = dlcore.EarlyStopping(2)
    results = []
    for network in (small_network_on_cpu("float32", 0.0), small_network(0.0)):
        history = network.fit(
            x,
            y,
            optimizer=dlcore.SGD(2.0),
            epochs=50,
            batch_size=20,
            validation_data=(x[:20], (y[:20] + 1) % 3),
            early_stopping=stop,
        )
        results.append((history.stopped, history.epochs, history.best_epoch))
        best = network.evaluate(x[:20], (y[:20] + 1) % 3)["loss"]
        assert best == pytest.approx(min(history.val_loss), rel=1e-5)
    assert results[0] == results[1]
    assert results[0][0] == "early_stopping"


def test_callbacks_stop_and_look():
    x, y = small_data("float32")
    network, seen = small_network(), []

    def look(record):
        seen.append(network.evaluate(x, y)["loss"])
        return record["epoch"] < 3

    history = network.fit(x, y, epochs=9, on_epoch=look)
    assert (history.stopped, len(seen)) == ("callback", 3)

    def fail(record):
        raise ZeroDivisionError

    step = network._core.step
    with pytest.raises(ZeroDivisionError):
        network.fit(x, y, epochs=9, batch_size=4, on_epoch=fail)
    assert network._core.step == step + 6
    assert all(np.isfinite(p).all() for p in network.parameters.values())


def test_an_error_between_steps_leaves_whole_steps():
    """What Ctrl-C does: the exception of a progress callback, at any step of a long epoch."""
    x, y = small_data("float32", count=2000)
    calls = []

    def stop(epoch, done, steps):
        calls.append(done)
        if len(calls) == 2:
            raise KeyboardInterrupt

    network, again = small_network(), small_network()
    arguments = {"optimizer": dlcore.Adam(0.01), "batch_size": 1, "shuffle": False}
    with pytest.raises(KeyboardInterrupt):
        network.fit(x, y, epochs=100, progress=stop, **arguments)
    steps = network._core.step
    assert 0 < steps < 100 * 2000
    whole, rest = divmod(steps, 2000)
    for _ in range(whole):
        again.fit(x, y, epochs=1, **arguments)
    if rest:
        again.fit(x[:rest], y[:rest], epochs=1, **arguments)
    assert bits(again) == bits(network)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_fit_goes_on_from_its_checkpoint(tmp_path, monkeypatch, precision):
    monkeypatch.setattr("dlcore.checkpoint.SECONDS", 0)
    x, y = small_data("float32", count=100)
    arguments = {
        "optimizer": dlcore.Adam(0.01),
        "epochs": 6,
        "batch_size": 8,
        "validation_data": (x[:30], y[:30]),
        "early_stopping": dlcore.EarlyStopping(5),
    }
    whole, parts = small_network(precision=precision), small_network(precision=precision)
    expected = whole.fit(x, y, **arguments)
    path = tmp_path / "fit.checkpoint"

    def fail(record):
        if record["epoch"] == 4:
            raise ZeroDivisionError

    start = dict(parts.parameters)
    with pytest.raises(ZeroDivisionError):
        parts.fit(x, y, checkpoint=path, on_epoch=fail, **arguments)
    assert path.exists()
    parts.set_parameters(start)
    parts._core.step = 0
    other = small_network_on_cpu("float32")
    other.set_parameters(start)
    with pytest.raises(ValueError, match="it is of another fit"):
        other.fit(x, y, checkpoint=path, **arguments)
    seen = []
    history = parts.fit(x, y, checkpoint=path, on_epoch=seen.append, **arguments)
    assert len(seen) < 6
    assert not path.exists()
    assert bits(parts) == bits(whole)
    assert history.loss == expected.loss
    assert history.val_loss == expected.val_loss


def test_statistics_are_those_of_the_cpu():
    x, y = small_data("float32", count=600)
    layers = [dlcore.Dense(9), dlcore.ReLU(), dlcore.Dense(9), dlcore.Sigmoid(), dlcore.Dense(3)]
    seen, weights = [], []
    for device in ("cpu", "cuda", "cuda"):
        network = dlcore.Network(layers, 7, device=device)
        network.precision = "fp32"
        options = {"epochs": 2, "batch_size": 8, "optimizer": dlcore.SGD(0.1)}
        history = network.fit(x, y, statistics=len(seen) < 2, **options)
        seen.append(history.layers)
        weights.append(bits(network))
    assert weights[1] == weights[2], "measuring changes the weights"
    for name, measures in seen[0].items():
        for measure, values in measures.items():
            np.testing.assert_allclose(seen[1][name][measure], values, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("where", ["x", "validation"])
def test_bad_values_leave_the_weights(where):
    x, y = small_data("float32", count=200)
    bad = x.copy()
    bad[171, 3] = np.nan
    network = small_network()
    before = bits(network)
    data = {"x": (bad, None), "validation": (x, (bad, y))}[where]
    with pytest.raises(ValueError, match=r"holds nan at row 171, column 3"):
        network.fit(data[0], y, epochs=3, batch_size=16, validation_data=data[1])
    assert bits(network) == before
    with pytest.raises(ValueError, match=r"predict: x holds nan at row 171, column 3"):
        network.predict(bad)
    with pytest.raises(ValueError, match=r"evaluate: x holds nan at row 171, column 3"):
        network.evaluate(bad, y)
    with pytest.raises(ValueError, match=r"loss_and_gradients: x holds nan at row 171, column 3"):
        network.loss_and_gradients(bad, y)


# Arrays on the GPU, and single operations on them --------------------------------------------------


class Foreign:
    """Another library's array: it says where its memory is, in one of two ways."""

    def __init__(self, array, protocol, **changes):
        self._array = array
        if protocol == "interface":
            self.__cuda_array_interface__ = {**array.__cuda_array_interface__, **changes}
        else:
            versioned = protocol == "dlpack1"
            self.__dlpack_device__ = array.__dlpack_device__
            self.__dlpack__ = self._versioned if versioned else self._old

    def _versioned(self, *, stream=None, max_version=None):
        assert stream == 1
        return self._array.__dlpack__(stream=stream, max_version=max_version)

    def _old(self, *, stream=None):
        return self._array.__dlpack__(stream=stream)


@pytest.mark.parametrize("protocol", ["interface", "dlpack", "dlpack1"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int32", "int64"])
def test_arrays_go_in_and_out_without_a_copy(protocol, dtype):
    x = np.arange(24).reshape(4, 6).astype(dtype)
    array = dlcore.device_array(x)
    assert (array.shape, array.ndim, array.size, len(array)) == ((4, 6), 2, 24, 4)
    assert array.dtype == x.dtype
    assert array.device == "cuda:0"
    assert repr(array) == f"Array(shape=(4, 6), dtype={dtype}, device='cuda:0')"
    view = dlcore.device_array(Foreign(array, protocol))
    pointer = array.__cuda_array_interface__["data"][0]
    assert view.__cuda_array_interface__["data"][0] == pointer
    del array
    np.testing.assert_array_equal(view.numpy(), x)


class Streamed(Foreign):
    """An array whose values are still to be written by its library's stream."""

    def __init__(self, protocol, how):
        array = dlcore.device_array(np.zeros(5, np.float32))
        self.stream = _cuda.EmulatedStream()
        self.stream.fill(array, 3.0)
        number = self.stream.number
        changes = {}
        if how == "entry":
            changes = {"stream": number, "version": 3}
        elif how == "object in the entry":
            changes = {"stream": Stream(number), "version": 3}
        elif how == "method":
            self.__cuda_stream__ = lambda: (0, number)
        elif how == "property":
            self.__cuda_stream__ = (0, number)
        super().__init__(array, protocol, **changes)


class Stream:
    def __init__(self, number):
        self.number = number

    def __cuda_stream__(self):
        return 0, self.number


class CupyStream:
    def __init__(self, number):
        self.ptr = number


@emulated_only
@pytest.mark.parametrize(
    ("protocol", "how"),
    [
        ("dlpack", ""),
        ("dlpack1", ""),
        ("interface", "entry"),
        ("interface", "object in the entry"),
        ("interface", "method"),
        ("interface", "property"),
    ],
)
def test_what_a_stream_still_writes_is_waited_for(protocol, how):
    view = dlcore.device_array(Streamed(protocol, how))
    np.testing.assert_array_equal(view.numpy(), np.full(5, 3, np.float32))
    doubled = dlcore.functional.relu(Streamed(protocol, how))
    np.testing.assert_array_equal(doubled.numpy(), np.full(5, 3, np.float32))


@emulated_only
@pytest.mark.parametrize("kind", [int, Stream, CupyStream])
def test_a_stream_that_nobody_tells_can_be_given(kind):
    array = Streamed("interface", "")
    # Nobody has waited: what the tests above see is due to the streams.
    np.testing.assert_array_equal(dlcore.device_array(array).numpy(), np.zeros(5))
    view = dlcore.device_array(array, stream=kind(array.stream.number))
    np.testing.assert_array_equal(view.numpy(), np.full(5, 3, np.float32))
    own = Streamed("interface", "")
    dlcore.device_array(own._array, stream=kind(own.stream.number))
    np.testing.assert_array_equal(own._array.numpy(), np.full(5, 3, np.float32))


def test_what_is_no_stream():
    array = dlcore.device_array(np.zeros(3, np.float32))
    for stream in ("1", 1.0, object()):
        with pytest.raises(TypeError, match="device_array: a stream needs to be an int or an obj"):
            dlcore.device_array(array, stream=stream)

    class Later:
        def __cuda_stream__(self):
            return 1, 0

    with pytest.raises(TypeError, match="device_array: dlcore knows version 0 of __cuda_stream__"):
        dlcore.device_array(array, stream=Later())


def test_arrays_that_are_refused():
    array = dlcore.device_array(np.zeros((4, 6), np.float32))
    with pytest.raises(ValueError, match=r"must have no negative extents, found \(-4, 6\)"):
        dlcore.device_array(Foreign(array, "interface", shape=(-4, 6)))
    with pytest.raises(ValueError, match=r"has 2 axes but 1 strides"):
        dlcore.device_array(Foreign(array, "interface", strides=(4,)))
    for changes, sentence in (
        ({"strides": (48, 8)}, r"must be C-contiguous; make it so there"),
        ({"typestr": "<c8"}, r"must be float32, float64, float16, uint8, int32 or int64"),
    ):
        with pytest.raises(TypeError, match=sentence):
            dlcore.device_array(Foreign(array, "interface", **changes))
    dlcore.device_array(Foreign(array, "interface", strides=(24, 4), stream=1))
    with pytest.raises(TypeError, match="must be float32, float64"):
        dlcore.device_array(np.zeros(3, np.complex64))
    with pytest.raises(TypeError, match="relu_backward: y lies on no GPU"):
        dlcore.functional.relu_backward(array, np.zeros((4, 6), np.float32))
    with pytest.raises(TypeError, match="sigmoid: x must be float32 on a GPU, found float64"):
        dlcore.functional.sigmoid(dlcore.device_array(np.zeros(3)))
    with pytest.raises(ValueError, match=r"relu: out must be \(4, 6\), found \(3,\)"):
        dlcore.functional.relu(array, out=dlcore.device_array(np.zeros(3, np.float32)))
    with pytest.raises(ValueError, match='needs to be "cuda"'):
        dlcore.device_array(np.zeros(3), "cpu")


@pytest.mark.parametrize("protocol", ["interface", "dlpack1"])
def test_read_only_arrays_are_read_alone(protocol):
    """As JAX's are, which nobody may change; and what dlcore shows of them says so again."""
    x = np.linspace(-1, 1, 6, dtype=np.float32)
    array = dlcore.device_array(x)
    place = array.__cuda_array_interface__["data"][0]
    given = dlcore.device_array(Foreign(array, "interface", data=(place, True)))
    if protocol == "dlpack1":
        given = dlcore.device_array(Foreign(given, "dlpack1"))
        with pytest.raises(TypeError, match="__dlpack__: this array is read-only, which versions"):
            given.__dlpack__()
    assert given.__cuda_array_interface__["data"] == (place, True)
    np.testing.assert_array_equal(dlcore.functional.relu(given).numpy(), np.maximum(x, 0))
    with pytest.raises(ValueError, match="^relu: out is read-only$"):
        dlcore.functional.relu(array, out=given)
    with pytest.raises(ValueError, match="^sgd_step: parameter is read-only$"):
        _cuda.sgd_step(given, array, array, 0.1, 0.5, False, 0.0)
    np.testing.assert_array_equal(array.numpy(), x)


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


@pytest.mark.parametrize("protocol", ["own", "interface", "dlpack1"])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
def test_networks_take_arrays_where_they_lie(dtype, protocol):
    rng = np.random.default_rng(0)
    host = rng.integers(0, 200, (90, 6)).astype(dtype)
    y = rng.integers(0, 3, 90)
    array = dlcore.device_array(host)
    x = array if protocol == "own" else Foreign(array, protocol)
    results = []
    for data, labels in ((host, y), (x, dlcore.device_array(y))):
        layers = [dlcore.Dense(5), dlcore.ReLU(), dlcore.Dense(3)]
        network = dlcore.Network(layers, 6, seed=1, device="cuda")
        options = {"input_scale": 0.01, "epochs": 2, "batch_size": 8}
        history = network.fit(data, labels, optimizer=dlcore.SGD(0.1), **options)
        results.append(
            (
                history.loss,
                network.evaluate(data, labels),
                network.loss_and_gradients(data, labels)[0],
                bits(network),
                network.predict(data),
            )
        )
    assert results[0][:4] == results[1][:4]
    assert isinstance(results[0][4], np.ndarray)
    np.testing.assert_array_equal(results[1][4].numpy(), results[0][4])
    with pytest.raises(
        TypeError, match="needs to be float32, float64, float16, uint8, found int64"
    ):
        network.predict(dlcore.device_array(host.astype(np.int64)))
    with pytest.raises(ValueError, match="x needs shape"):
        network.predict(dlcore.device_array(host[:, :5]))
    # A network on the CPU copies it.
    network.to("cpu").predict(x)


def test_bad_values_on_the_device_are_named():
    x, y = small_data("float32", count=50)
    x[33, 2] = np.inf
    with pytest.raises(ValueError, match="fit: x holds inf at row 33, column 2"):
        small_network().fit(dlcore.device_array(x), y)


# Many networks ------------------------------------------------------------------------------------


def test_a_fleet_trains_as_each_alone():
    x, y = small_data("float32", count=80)
    widths = (3, 8, 21)

    def make(width):
        layers = [dlcore.Dense(width), dlcore.GELU(), dlcore.Dense(3)]
        return dlcore.Network(layers, 7, seed=width)

    seen, calls = [], []
    fleet = [make(width) for width in widths]
    histories = dlcore.fit_many(
        fleet,
        x,
        y,
        device="cuda",
        optimizers=[dlcore.SGD(0.1), dlcore.Adam(0.01), dlcore.SGD(0.1, momentum=0.9)],
        seed=[1, 2, 3],
        epochs=[1, 2, 3],
        batch_size=16,
        on_finish=lambda i, history: seen.append((i, history.epochs)),
        progress=lambda finished, networks: calls.append((finished, networks)),
    )
    assert sorted(seen) == [(0, 1), (1, 2), (2, 3)]
    assert calls[-1] == (3, 3)
    for i, width in enumerate(widths):
        optimizer = [dlcore.SGD(0.1), dlcore.Adam(0.01), dlcore.SGD(0.1, momentum=0.9)][i]
        alone = make(width).to("cuda")
        history = alone.fit(x, y, optimizer=optimizer, seed=i + 1, epochs=i + 1, batch_size=16)
        assert bits(alone) == bits(fleet[i])
        assert history.loss == histories[i].loss


def test_a_fleet_lives_in_one_place():
    x, y = small_data("float32")
    with pytest.raises(ValueError, match="on one device, found some on each of cpu, cuda"):
        dlcore.fit_many([small_network(), small_network_on_cpu("float32")], x, y)


# The network as an object -------------------------------------------------------------------------


def test_moving_keeps_bits():
    network = small_network_on_cpu("float32")
    before = bits(network)
    assert network.to("cuda") is network
    assert (network.device, network.precision) == ("cuda", "tf32")
    assert bits(network) == before
    assert "device='cuda'" in repr(network)
    network._core.step = 5
    assert network.to("cpu")._core.step == 5
    assert bits(network) == before
    assert network.precision == "fp32"


def test_copies_and_files(tmp_path):
    network = small_network()
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert other.device == "cuda"
        assert bits(other) == bits(network)
    path = tmp_path / "net.safetensors"
    network.save(path)
    assert bits(dlcore.load(path)) == bits(network)
    assert dlcore.load(path).device == "cpu"


def test_memory_is_told():
    line = small_network().summary(batch_size=32, optimizer=dlcore.Adam(), early_stopping=True)
    assert "workspace" in line


def test_errors():
    network = small_network()
    with pytest.raises(ValueError, match="needs dtype=\"float32\", found 'float64'"):
        dlcore.Network([dlcore.Dense(1)], 2, dtype="float64", device="cuda")
    with pytest.raises(ValueError, match="Network: device needs to be"):
        dlcore.Network([dlcore.Dense(1)], 2, device="cuda:x")
    with pytest.raises(RuntimeError, match=r'device="cuda:99" does not exist; there (is|are) \d'):
        dlcore.Network([dlcore.Dense(1)], 2, device="cuda:99")
    with pytest.raises(ValueError, match="needs one of tf32, fp32, bf16, found 'fp8'"):
        network.fit([[0.0] * 7] * 2, [0, 1], precision="fp8")
    with pytest.raises(ValueError, match="needs one of tf32, fp32, bf16, found 'fp8'"):
        network.precision = "fp8"


def test_a_network_that_trains_refuses():
    x, y = small_data("float32", count=500)
    network, errors, inside = small_network(), [], threading.Event()

    def look(record):
        inside.set()

    def train():
        network.fit(x, y, epochs=30, batch_size=8, on_epoch=look)

    thread = threading.Thread(target=train)
    thread.start()
    inside.wait(30)
    for call in (lambda: network.fit(x, y), lambda: network.predict(x), lambda: network.to("cpu")):
        try:
            call()
        except RuntimeError as error:
            errors.append(str(error))
    thread.join()
    assert len(errors) == 3
    assert all("training" in error for error in errors)


def test_two_networks_train_in_two_threads():
    x, y = small_data("float32", count=100)
    alone = small_network()
    alone.fit(x, y, epochs=3, batch_size=8, seed=4)
    networks = [small_network() for _ in range(3)]

    def train(network):
        with warnings.catch_warnings():
            network.fit(x, y, epochs=3, batch_size=8, seed=4)

    threads = [threading.Thread(target=train, args=(network,)) for network in networks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(bits(network) == bits(alone) for network in networks)


def test_info_tells():
    known = dlcore.info()
    assert known["cuda"] is True
    assert "CUDA 13" in known["cuda_status"] or os.environ.get("DLCORE_CUBLASLT")
