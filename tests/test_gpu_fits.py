"""Fits on a GPU against the reference, the CPU and themselves."""

from __future__ import annotations

import numpy as np
import pytest

import dlcore
import reference
from gpus import PRECISIONS, emulated_only, needs_gpu, small_network
from networks import (
    LOSSES,
    OPTIMIZERS,
    SCHEDULES,
    assert_losses,
    assert_parameters,
    bits,
    diverging,
    fit_steps,
    follow,
    small_data,
)
from networks import small_network as small_network_on_cpu
from tolerances import Bounds, assert_within

pytestmark = needs_gpu

if dlcore.info()["cuda"]:
    from dlcore import _cuda


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
    assert_losses(history, steps, weight, per_epoch=3)
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
    x, y, optimizer = diverging(name)
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
    fit_steps(again, x, y, steps, **arguments)
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
