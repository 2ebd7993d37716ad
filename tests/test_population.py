"""Fleets that one kernel trains on a GPU: against the reference, the CPU, and each other's presence.

They run where ``device="cuda"`` works: on a GPU, or in the emulation (DLCORE_CUDA=EMULATE). The
kernel's memory accesses and barriers are tested without Python, in cuda_host/population.cpp.
"""

from __future__ import annotations

import gc
import itertools
import json
import re

import numpy as np
import pytest

import dlcore
import reference
from gpus import PRECISIONS, emulated_only, needs_gpu
from networks import (
    ACTIVATIONS,
    LOSSES,
    OPTIMIZERS,
    SCHEDULES,
    assert_parameters,
    bits,
    build,
    diverging,
    follow,
    small_data,
)
from tolerances import RoundedBounds, assert_within

pytestmark = needs_gpu

#: Between layers values stay float32 here, also where products take bfloat16.
BOUNDS = {**PRECISIONS, "bf16": RoundedBounds("float32", 2.0**-9)}


@pytest.fixture(autouse=True)
def _population(monkeypatch):
    """Populations of any number of networks."""
    monkeypatch.setenv("DLCORE_FLEET_ENGINE", "population")


def chain(kind="tanh", precision="fp32", seed=5, device="cuda"):
    """A network that the population engine takes."""
    activation = ACTIVATIONS[kind]
    layers = [
        dlcore.Dense(12),
        activation,
        dlcore.Dense(17, bias=False),
        activation,
        dlcore.Dense(3),
    ]
    network = build(layers, (7,), "float32", seed=seed).to(device)
    if device == "cuda":
        network.precision = precision
    return network


def train(network, *arguments, **options):
    """Its own history, from a population of one."""
    (history,) = dlcore.fit_many([network], *arguments, **options)
    assert (history.engine, history.engine_reason) == ("population", "")
    return history


# Against the reference ----------------------------------------------------------------------------


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_step(name, precision):
    network, (x, y) = chain(precision=precision), small_data("float32")
    arguments = {"epochs": 1, "batch_size": len(x), "seed": 2}
    bounds = BOUNDS[precision]
    (step,) = follow(network, x, y, optimizer=OPTIMIZERS[name], bounds=bounds, **arguments)
    history = train(network, x, y, optimizer=OPTIMIZERS[name], **arguments)
    assert_within(history.loss[0], step.loss.value, step.loss.error)
    if precision == "fp32":
        assert_parameters(network, step.parameters, "float32", 3e-4)
    for parameter, value in network.parameters.items():
        bounded = step.parameters[parameter]
        assert_within(value, bounded.value, bounded.error, name=parameter, dtype="float32")


def test_precisions_differ():
    x, y = small_data("float32")
    networks = [chain(precision=precision) for precision in BOUNDS]
    histories = dlcore.fit_many(networks, x, y, epochs=1)
    assert [h.precision for h in histories] == list(BOUNDS)
    values = [network.parameters["0.weight"] for network in networks]
    assert all((a != b).any() for a, b in itertools.combinations(values, 2))
    assert all(np.abs(a - b).max() < 1e-2 for a, b in itertools.combinations(values, 2))


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_every_activation_and_loss(kind, loss, precision):
    network, (x, y) = chain(kind, precision), small_data("float32", loss=loss)
    arguments = {"epochs": 1, "batch_size": 8, "seed": 2}
    optimizer, bounds = dlcore.SGD(0.1, momentum=0.5), BOUNDS[precision]
    steps = list(follow(network, x, y, loss=loss, optimizer=optimizer, bounds=bounds, **arguments))
    assert [len(step.rows) for step in steps] == [8, 8, 6]
    history = train(network, x, y, loss=LOSSES[loss], optimizer=optimizer, **arguments)
    share = np.array([8, 8, 6]) / 22
    mean = sum(w * s.loss.value for w, s in zip(share, steps, strict=True))
    error = sum(w * s.loss.error for w, s in zip(share, steps, strict=True))
    assert_within(history.loss[0], mean, error)
    for name, value in network.parameters.items():
        bounded = steps[-1].parameters[name]
        assert_within(value, bounded.value, bounded.error, name=name, dtype="float32")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_steps_one_by_one(schedule, loss):
    """Epochs of one step: weights of examples, learning rates, the loss before each update."""
    network, (x, y) = chain(), small_data("float32", count=9, loss=loss)
    weight = np.random.default_rng(1).integers(0, 3, len(x)).astype(np.float64)
    weight[0] = 1
    optimizer = dlcore.SGD(SCHEDULES[schedule], momentum=0.5)
    arguments = {"epochs": 3, "batch_size": 100, "seed": 2, "sample_weight": weight}
    bounds = BOUNDS["fp32"]
    steps = list(follow(network, x, y, loss=loss, optimizer=optimizer, bounds=bounds, **arguments))
    history = train(network, x, y, loss=LOSSES[loss], optimizer=optimizer, **arguments)
    rates = [step.learning_rate for step in steps]
    np.testing.assert_allclose(history.learning_rate, rates, rtol=1e-15)
    for value, step in zip(history.loss, steps, strict=True):
        assert_within(value, step.loss.value, step.loss.error)


@pytest.mark.parametrize("sizes", [(1, 1), (3, 2), (33, 9, 4), (6, 130, 20, 5), (300, 20, 10)])
@pytest.mark.parametrize("batch", [1, 5, 16, 33, 128])
def test_sizes(sizes, batch):
    """One step of one epoch at the edges of tiles and of passes over them."""
    rng = np.random.default_rng(batch)
    layers = [step for size in sizes[1:-1] for step in (dlcore.Dense(size), dlcore.ReLU())]
    network = build([*layers, dlcore.Dense(sizes[-1])], sizes[:1], "float32").to("cuda")
    network.precision = "fp32"
    x = rng.standard_normal((batch, sizes[0])).astype(np.float32)
    y = rng.standard_normal((batch, sizes[-1])).astype(np.float32)
    arguments = {"epochs": 1, "batch_size": batch, "seed": 2}
    optimizer, bounds = dlcore.SGD(0.1), BOUNDS["fp32"]
    (step,) = follow(network, x, y, loss="mse", optimizer=optimizer, bounds=bounds, **arguments)
    train(network, x, y, loss="mse", optimizer=optimizer, **arguments)
    for name, value in network.parameters.items():
        bounded = step.parameters[name]
        assert_within(value, bounded.value, bounded.error, name=name, dtype="float32")


# Against the CPU ----------------------------------------------------------------------------------


def fleet(device, precisions=("fp32",) * 5):
    """Networks that differ in everything that may differ."""
    made = [
        [dlcore.Dense(3)],
        [dlcore.Dense(33), dlcore.ReLU(), dlcore.Dense(3)],
        [dlcore.Dense(8), dlcore.GELU(), dlcore.Dense(8), dlcore.SiLU(), dlcore.Dense(3)],
        [dlcore.Dense(64), dlcore.Softplus(), dlcore.Dense(3)],
        [dlcore.Flatten(), dlcore.Dense(5), dlcore.Sigmoid(), dlcore.Dense(3)],
    ]
    networks = []
    for seed, (layers, precision) in enumerate(zip(made, precisions, strict=True)):
        networks.append(dlcore.Network(layers, 7, seed=seed, device=device))
        if device == "cuda":
            networks[-1].precision = precision
    return networks


OPTIONS = {
    "subsets": [None, slice(10, 50), np.arange(60) % 3 > 0, [5, 5, -1, 7, 20], None],
    "optimizers": [
        dlcore.SGD(0.1),
        dlcore.SGD(0.05, momentum=0.9),
        dlcore.AdamW(dlcore.schedules.Cosine(0.01)),
        dlcore.Adam(0.01),
        dlcore.SGD(0.1, momentum=0.9, nesterov=True),
    ],
    "epochs": [3, 4, 1, 5, 2],
    "batch_size": [16, 7, 64, 2, 60],
    "seed": [1, 2, 2**40, 4, 5],
    "shuffle": [True, True, True, True, False],
    "class_weight": [None, "balanced", None, None, None],
}


def test_a_fleet_trains_as_on_the_cpu():
    x, y = small_data("float32", count=60)
    results = []
    for device in ("cpu", "cuda"):
        networks = fleet(device)
        results.append((networks, dlcore.fit_many(networks, x, y, **OPTIONS)))
    for cpu, gpu in zip(*[r[1] for r in results], strict=True):
        assert gpu.engine == "population"
        assert cpu.learning_rate == gpu.learning_rate
        np.testing.assert_allclose(cpu.loss, gpu.loss, rtol=1e-4)
        np.testing.assert_allclose(cpu.accuracy, gpu.accuracy, atol=0.05)
    for cpu, gpu in zip(*[r[0] for r in results], strict=True):
        assert cpu._core.step == gpu._core.step
        for name, value in cpu.parameters.items():
            np.testing.assert_allclose(gpu.parameters[name], value, atol=1e-4, err_msg=name)


def test_neighbours_do_not_matter():
    """A network's bits and history are those it has alone."""
    x, y = small_data("float32", count=60)
    precisions = ("fp32", "bf16", "tf32", "bf16", "bf16")
    together = fleet("cuda", precisions)
    histories = dlcore.fit_many(together, x, y, **OPTIONS)
    for i, network in enumerate(fleet("cuda", precisions)):
        options = {name: values[i : i + 1] for name, values in OPTIONS.items()}
        history = train(network, x, y, **options)
        assert bits(network) == bits(together[i])
        assert history.loss == histories[i].loss


@emulated_only
def test_the_order_of_threads_does_not_matter(monkeypatch):
    x, y = small_data("float32", count=60)
    seen = []
    for order in ("forward", "reverse"):
        monkeypatch.setenv("DLCORE_HOSTSIM_ORDER", order)
        networks = fleet("cuda")
        histories = dlcore.fit_many(networks, x, y, **OPTIONS)
        seen.append(([bits(n) for n in networks], [h.loss for h in histories]))
    assert seen[0] == seen[1]


def test_two_fits_are_one():
    x, y = small_data("float32")
    for name in OPTIMIZERS:
        arguments = {"optimizer": OPTIMIZERS[name], "batch_size": 8, "seed": 6}
        whole, halves = chain(), chain()
        train(whole, x, y, epochs=3, **arguments)
        train(halves, x, y, epochs=1, **arguments)
        train(halves, x, y, epochs=2, **arguments)
        assert bits(whole) == bits(halves), name


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "int32"])
@pytest.mark.parametrize("features", [8, 7])
def test_data_of_any_kind(dtype, features):
    x = np.random.default_rng(0).integers(0, 200, (50, features)).astype(dtype)
    y = np.arange(50) % 3
    networks = []
    for device, data in (("cpu", x), ("cuda", x), ("cuda", np.asfortranarray(x))):
        layers = [dlcore.Dense(5), dlcore.ReLU(), dlcore.Dense(3)]
        networks.append(dlcore.Network(layers, features, seed=1, device=device))
        if device == "cuda":
            networks[-1].precision = "fp32"
        options = {"epochs": 2, "batch_size": 8, "input_scale": 0.01}
        dlcore.fit_many(networks[-1:], data, y, optimizer=dlcore.SGD(0.1), **options)
    for name, value in networks[0].parameters.items():
        np.testing.assert_allclose(networks[1].parameters[name], value, atol=1e-5)
    assert bits(networks[1]) == bits(networks[2])


# Clusters of blocks -------------------------------------------------------------------------------


def test_weights_that_do_not_fit_into_a_block():
    """400 KB of them: a cluster holds them, or the cache where there are no clusters."""
    rng = np.random.default_rng(0)
    layers = [dlcore.Dense(128), dlcore.ReLU(), dlcore.Dense(10)]
    network = build(layers, (784,), "float32").to("cuda")
    network.precision = "fp32"
    x = rng.integers(0, 256, (32, 784)).astype(np.float32) / 255
    y = np.arange(32) % 10
    arguments = {"epochs": 1, "batch_size": 32, "seed": 2}
    optimizer, bounds = dlcore.SGD(0.1, momentum=0.9), BOUNDS["fp32"]
    (step,) = follow(network, x, y, optimizer=optimizer, bounds=bounds, **arguments)
    train(network, x, y, optimizer=optimizer, **arguments)
    for name, value in network.parameters.items():
        bounded = step.parameters[name]
        assert_within(value, bounded.value, bounded.error, name=name, dtype="float32")


#: A block's shared memory and the largest cluster, so that a network of `wide` takes just that.
BLOCKS = {"2 blocks": (68, 2), "4 blocks": (45, 4), "8 blocks": (33, 8)}


def wide(precision="fp32", seed=5):
    layers = [
        dlcore.Dense(100),
        dlcore.Tanh(),
        dlcore.Dense(130, bias=False),
        dlcore.GELU(),
        dlcore.Dense(5),
    ]
    network = build(layers, (9,), "float32", seed=seed).to("cuda")
    network.precision = precision
    return network


def limit(monkeypatch, kilobytes, cluster):
    monkeypatch.setenv("DLCORE_EMULATED_SHARED_MEMORY", str(kilobytes << 10))
    monkeypatch.setenv("DLCORE_EMULATED_CLUSTER", str(cluster))


def wide_data(count, loss="cross_entropy"):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, 9)).astype(np.float32)
    return x, np.arange(count) % 5 if loss == "cross_entropy" else rng.random((count, 5))


@emulated_only
@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_clusters(loss, precision, monkeypatch):
    """Steps within their bounds, and the bits of one block whatever the number of blocks."""
    x, y = wide_data(32, loss)
    optimizer = dlcore.SGD(0.1, momentum=0.5)
    arguments = {"epochs": 2, "batch_size": 32, "seed": 2, "optimizer": optimizer}
    network, bounds = wide(precision), BOUNDS[precision]
    steps = list(follow(network, x, y, loss=loss, bounds=bounds, **arguments))
    history = train(network, x, y, loss=LOSSES[loss], **arguments)
    for value, step in zip(history.loss, steps, strict=True):
        assert_within(value, step.loss.value, step.loss.error)
    for kilobytes, cluster in BLOCKS.values():
        limit(monkeypatch, kilobytes, cluster)
        again = wide(precision)
        assert train(again, x, y, loss=LOSSES[loss], **arguments).loss == history.loss
        assert bits(again) == bits(network)
        for name, value in again.parameters.items():
            bounded = steps[-1].parameters[name]
            assert_within(value, bounded.value, bounded.error, name=name, dtype="float32")
        limit(monkeypatch, kilobytes, cluster // 2)
        (other,) = dlcore.fit_many([wide()], x, y, epochs=1, batch_size=32, loss=LOSSES[loss])
        each = f" in each of {cluster // 2} blocks" if cluster > 2 else ""
        sentence = (
            rf"a batch of 32 needs \d+ KB of shared memory{each}, and a block has {kilobytes}"
        )
        assert re.fullmatch(sentence, other.engine_reason)


@emulated_only
@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_whole_fits_in_clusters(blocks, order, monkeypatch):
    """Networks of one block and of several beside each other, one of which diverges."""
    x, y = wide_data(60)
    options = {
        "epochs": 3,
        "batch_size": 32,
        "optimizers": [dlcore.SGD(0.1), dlcore.SGD(1e30), dlcore.AdamW(0.01), dlcore.Adam(0.01)],
        "validation_data": (x[:40], y[:40]),
        "early_stopping": dlcore.EarlyStopping(2),
    }
    seen = []
    for limits in ((227, 1), BLOCKS[blocks]):
        limit(monkeypatch, *limits)
        small = dlcore.Network([dlcore.Dense(8), dlcore.ReLU(), dlcore.Dense(5)], 9, device="cuda")
        networks = [wide(seed=1), wide(seed=2), wide("bf16", seed=3), small]
        with pytest.warns(dlcore.DivergenceWarning, match="1 of 4 networks diverged"):
            histories = dlcore.fit_many(networks, x, y, **options)
        assert {h.engine for h in histories} == {"population"}
        assert [h.stopped for h in histories] == ["completed", "diverged", "completed", "completed"]
        told = [repr((h.message, h.loss, h.val_loss, h.val_accuracy)) for h in histories]
        seen.append((told, [bits(network) for network in networks]))
        monkeypatch.setenv("DLCORE_HOSTSIM_ORDER", order)
    assert seen[0] == seen[1]


# The end of a fit ---------------------------------------------------------------------------------


def test_validation_and_early_stopping():
    x, y = small_data("float32", count=90)
    early = dlcore.EarlyStopping(2)
    histories, values = [], []
    for device in ("cpu", "cuda"):
        networks = [chain(seed=seed, device=device) for seed in range(3)]
        options = {"validation_data": (x[60:], y[60:]), "early_stopping": [early, None, early]}
        histories.append(
            dlcore.fit_many(
                networks, x[:60], y[:60], epochs=12, optimizers=dlcore.Adam(0.03), **options
            )
        )
        values.append([network.parameters for network in networks])
    for cpu, gpu in zip(*histories, strict=True):
        assert (cpu.stopped, cpu.epochs, cpu.best_epoch) == (
            gpu.stopped,
            gpu.epochs,
            gpu.best_epoch,
        )
        np.testing.assert_allclose(cpu.val_loss, gpu.val_loss, rtol=1e-3)
        np.testing.assert_allclose(cpu.val_accuracy, gpu.val_accuracy, atol=0.05)
    assert "early_stopping" in [history.stopped for history in histories[0]]
    for cpu, gpu in zip(*values, strict=True):
        for name, value in cpu.items():
            np.testing.assert_allclose(gpu[name], value, atol=1e-3)


@pytest.mark.parametrize("batch", [10, 100])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_a_network_that_diverges_stops_alone(name, batch):
    x, y, optimizer = diverging(name)
    optimizers = [dlcore.SGD(1e-6), optimizer, dlcore.SGD(1e-6)]
    results = []
    for device in ("cpu", "cuda"):
        layers = [dlcore.Dense(8), dlcore.ReLU(), dlcore.Dense(8), dlcore.ReLU(), dlcore.Dense(2)]
        networks = [dlcore.Network(layers, 5, seed=i, device=device) for i in range(3)]
        for network in networks:
            if device == "cuda":
                network.precision = "fp32"
        with pytest.warns(dlcore.DivergenceWarning, match="1 of 3 networks diverged"):
            histories = dlcore.fit_many(
                networks, x, y, optimizers=optimizers, epochs=8, batch_size=batch
            )
        assert [h.stopped for h in histories] == ["completed", "diverged", "completed"]
        for network in networks:
            assert all(np.isfinite(p).all() for p in network.parameters.values())
        results.append((histories, networks))
    for cpu, gpu in zip(*[r[0] for r in results], strict=True):
        assert cpu.epochs == gpu.epochs
        assert cpu.message.split(";")[1:] == gpu.message.split(";")[1:]
    assert results[0][1][1]._core.step == results[1][1][1]._core.step


def test_callbacks():
    x, y = small_data("float32", count=60)
    networks = [chain(seed=seed) for seed in range(3)]
    seen, finished, counts = [], [], []

    def stop(record):
        seen.append(record)
        return record["network"] != 1

    histories = dlcore.fit_many(
        networks,
        x,
        y,
        epochs=[2, 9, 4],
        on_epoch=stop,
        on_finish=lambda i, history: finished.append((i, history.stopped)),
        progress=lambda done, all_of_them: counts.append((done, all_of_them)),
    )
    assert [h.stopped for h in histories] == ["completed", "callback", "completed"]
    assert sorted(finished) == [(0, "completed"), (1, "callback"), (2, "completed")]
    assert finished[0][0] == 1
    assert counts[-1] == (3, 3)
    assert [r["network"] for r in seen].count(2) == 4


def test_an_error_in_a_callback_leaves_networks_usable():
    x, y = small_data("float32", count=60)
    networks = [chain(seed=seed) for seed in range(2)]

    def fail(record):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        dlcore.fit_many(networks, x, y, epochs=3, batch_size=10, on_epoch=[None, fail])
    for network in networks:
        assert not network._core.training
        assert network._core.step == 6
        assert all(np.isfinite(p).all() for p in network.parameters.values())
        train(network, x, y, epochs=1)


def leave_free(monkeypatch, megabytes):
    """Limit the device's memory to what is in use and a little more; the error tells what is."""
    gc.collect()  # networks of other tests, which would make room later
    monkeypatch.setenv("DLCORE_EMULATED_MEMORY", str(10**9))
    with pytest.raises(RuntimeError, match="MB of 1000 MB free") as error:
        dlcore.device_array(np.empty(10**9 // 4, np.float32))
    free = int(re.search(r"(\d+) MB of", str(error.value))[1])
    monkeypatch.setenv("DLCORE_EMULATED_MEMORY", str(10**6 * (1000 - free + megabytes)))


@emulated_only
@pytest.mark.parametrize("large", ["networks", "data"])
def test_out_of_memory_is_a_sentence(large, monkeypatch):
    rng = np.random.default_rng(0)
    units, rows = (300, 10) if large == "networks" else (10, 5000)
    x, y = rng.standard_normal((rows, 1000)).astype(np.float32), np.arange(rows) % 3
    networks = [
        dlcore.Network([dlcore.Dense(units), dlcore.Dense(3)], 1000, seed=seed, device="cuda")
        for seed in range(8)
    ]
    before = [bits(network) for network in networks]
    arguments = {"epochs": 1, "batch_size": 10, "optimizer": dlcore.Adam(0.01)}
    leave_free(monkeypatch, 30)
    needed = {"networks": "87 MB", "data": r"3\.\d\d MB"}[large]
    sentence = (
        f"fit_many: {needed} for 8 networks and their copies do not fit on the GPU beside their data: "
        r"\d+(\.\d\d)? MB wanted in one piece, \d\d?(\.\d\d)? MB of \d+ MB free; "
        "give fit_many fewer networks at a time"
    )
    with pytest.raises(RuntimeError, match=sentence):
        dlcore.fit_many(networks, x, y, validation_data=(x + 1, y), **arguments)
    assert [bits(network) for network in networks] == before
    monkeypatch.delenv("DLCORE_EMULATED_MEMORY")
    train(networks[0], x[:10], y[:10], **arguments)


# Which engine -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "options", "reason"),
    [
        ([dlcore.Dense(4), dlcore.Dropout(0.5), dlcore.Dense(3)], {}, "it has dropout"),
        ([dlcore.Residual([dlcore.Dense(7)]), dlcore.Dense(3)], {}, "it has a residual connection"),
        ([dlcore.ReLU(), dlcore.Dense(3)], {}, "an activation follows no dense layer"),
        ([dlcore.Dense(3)], {"clip_norm": 1.0}, "clip_norm needs all gradients at once"),
        ([dlcore.Dense(3)], {"statistics": True}, "statistics are asked for"),
        (
            [dlcore.Dense(6000), dlcore.ReLU(), dlcore.Dense(3)],
            {"batch_size": 60},
            r"a batch of 60 needs \d+ KB of shared memory( in each of 8 blocks)?, and a block has \d+",
        ),
        (
            [dlcore.Dense(20000), dlcore.ReLU(), dlcore.Dense(3)],
            {"batch_size": 60},
            r"a layer's results, 60 x 20000 numbers, are more than 8 blocks of \d+ KB hold",
        ),
        ([dlcore.Dense(1)] * 13, {"loss": "mse"}, "it has more than 12 dense layers"),
    ],
)
def test_what_it_leaves_to_the_graph_engine(layers, options, reason):
    x, y = small_data("float32", count=60)
    network = dlcore.Network(layers, 7, seed=1, device="cuda")
    target = y if network.output_shape == (3,) else y.astype(np.float32)[:, None]
    (history,) = dlcore.fit_many([network], x, target, epochs=1, **options)
    assert history.engine == "graph"
    assert re.fullmatch(reason, history.engine_reason)


def test_which_engine(monkeypatch):
    x, y = small_data("float32", count=60)
    monkeypatch.delenv("DLCORE_FLEET_ENGINE")
    few = dlcore.fit_many([chain(seed=seed) for seed in range(7)], x, y, epochs=1)
    assert {h.engine for h in few} == {"group"}
    assert few[0].engine_reason == "it is one of fewer than 8 that the population engine takes"
    many = [chain(seed=seed) for seed in range(8)]
    odd = dlcore.Network([dlcore.Dropout(0.1), dlcore.Dense(3)], 7, device="cuda")
    histories = dlcore.fit_many([*many, odd], x, y, epochs=1)
    assert [h.engine for h in histories] == ["population"] * 8 + ["graph"]
    assert json.loads(json.dumps(histories[0].to_dict()))["engine"] == "population"
    monkeypatch.setenv("DLCORE_FLEET_ENGINE", "graph")
    assert {h.engine for h in dlcore.fit_many(many, x, y, epochs=1)} == {"graph"}
    monkeypatch.setenv("DLCORE_FLEET_ENGINE", "fast")
    sentence = "DLCORE_FLEET_ENGINE=fast is not one of population, group, graph"
    with pytest.raises(ValueError, match=sentence):
        dlcore.fit_many(many, x, y, epochs=1)


def test_losses_agree_with_the_reference_over_epochs():
    """A population of the same network with its own seeds: each follows its own shuffles."""
    x, y = small_data("float32", count=40)
    networks = [chain(seed=1) for _ in range(3)]
    start = {name: p.astype(np.float64) for name, p in networks[0].parameters.items()}
    histories = dlcore.fit_many(
        networks, x, y, seed=[1, 2, 3], epochs=3, batch_size=16, optimizer=dlcore.SGD(0.05)
    )
    for seed, history in zip((1, 2, 3), histories, strict=True):
        model = reference.Network(networks[0]._graph.nodes, (7,))
        steps = list(
            reference.train(
                model,
                start,
                x.astype(np.float64),
                y,
                loss={"kind": "cross_entropy"},
                optimizer=dlcore.SGD(0.05)._native(),
                schedule=dlcore.SGD(0.05).schedule._native(),
                epochs=3,
                batch_size=16,
                seed=seed,
            )
        )
        for epoch in range(3):
            part = steps[3 * epoch : 3 * epoch + 3]
            mean = sum(len(s.rows) * s.loss for s in part) / 40
            assert abs(history.loss[epoch] - mean) < 1e-5
    assert len({tuple(h.loss) for h in histories}) == 3
