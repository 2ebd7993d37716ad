"""Networks on a GPU against the reference: one batch, kept plans, and the network as an object."""

from __future__ import annotations

import copy
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
from gpus import (
    EMULATED,
    PRECISIONS,
    emulated_only,
    moved,
    needs_gpu,
    small_network,
    stored,
    taken,
)
from networks import ACTIVATIONS, LOSSES, architectures, bits, small_data, targets, twin
from networks import small_network as small_network_on_cpu
from tolerances import Bounds, assert_within

pytestmark = needs_gpu

if dlcore.info()["cuda"]:
    from dlcore import _cuda


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
    network.precision = "bf16"
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert other.device == "cuda"
        assert other.precision == "bf16"
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
