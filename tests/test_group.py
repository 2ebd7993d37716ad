"""Groups of networks that are alike, trained side by side on a GPU: each gets its own fit's bits.

They run where ``device="cuda"`` works: on a GPU, or in the emulation (DLCORE_CUDA=EMULATE).
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dlcore
from gpus import EMULATED, PRECISIONS, emulated_only, moved, needs_gpu, small_network, taken
from networks import (
    LOSSES,
    OPTIMIZERS,
    SCHEDULES,
    architectures,
    bits,
    fit_steps,
    small_data,
    targets,
)

pytestmark = needs_gpu

#: What of a history no two fits have in common.
OWN = ("seconds", "examples_per_second", "engine", "engine_reason", "message")


def seen(network, history):
    told = {name: value for name, value in history.to_dict().items() if name not in OWN}
    message = history.message.split(": ", 1)[-1]
    return bits(network), network._core.step, message, repr(told)


def clone(network):
    other = copy.deepcopy(network)
    other.precision = network.precision
    return other


def make(count, **arguments):
    """Networks of one graph, each with weights of its own."""
    networks = [small_network(**arguments) for _ in range(count)]
    for seed, network in enumerate(networks):
        rng = np.random.default_rng(seed)
        network.set_parameters(
            {name: 0.4 * rng.standard_normal(p.shape) for name, p in network.parameters.items()}
        )
    return networks


def member(options, i):
    """The options of network i of a fleet, for its own fit."""
    return {name: value[i] if isinstance(value, list) else value for name, value in options.items()}


def check_alone_and_together(networks, x, y, order=None, **options):
    """Trains copies of the networks in a group and alone, and returns the group's histories."""
    alone = [clone(network) for network in networks]
    expected = []
    for i, network in enumerate(alone):
        own = member(options, i)
        rows = own.pop("subsets", None)
        rows = np.arange(len(x))[slice(None) if rows is None else rows]
        weight = own.pop("sample_weight", None)
        weight = weight if weight is None else weight[rows]
        history = network.fit(x[rows], y[rows], sample_weight=weight, **own)
        assert history.engine == "graph"
        expected.append(seen(network, history))
    order = range(len(networks)) if order is None else order
    chosen = [networks[i] for i in order]
    lists = {
        name: [value[i] for i in order] if isinstance(value, list) else value
        for name, value in options.items()
    }
    histories = dlcore.fit_many(chosen, x, y, **lists)
    for i, network, history in zip(order, chosen, histories, strict=True):
        assert (history.engine, history.device) == ("group", "cuda")
        assert seen(network, history) == expected[i], f"network {i}"
    return histories


@pytest.fixture(params=["fused", "plain"])
def products(request, monkeypatch):
    """Products with every epilogue there is, and with none."""
    if request.param == "plain":
        if not EMULATED:
            pytest.skip("needs the emulation")
        monkeypatch.setenv("DLCORE_EMULATED_PLAIN_PRODUCTS", "1")
    return request.param


@emulated_only
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["relu", "tanh", "gelu"])
def test_random_networks_have_the_bits_of_their_own_fit(kind, loss, precision, products):
    @settings(max_examples=4)
    @given(
        architectures(kind),
        st.sampled_from([1, 2, 7, 16, 33]),
        st.sampled_from([1, 7, 40]),
        st.integers(2, 5),
        st.integers(0, 2**32 - 1),
    )
    def everywhere(architecture, count, batch, together, seed):
        layers, shape = architecture
        rng = np.random.default_rng(seed)
        networks = [
            moved(dlcore.Network(layers, shape, seed=seed + i), precision) for i in range(together)
        ]
        if not networks[0].parameters:
            return
        x = rng.standard_normal((count, *shape)).astype(np.float32)
        y = targets(rng, loss, count, networks[0].output_shape)
        y = y if loss == "cross_entropy" else y.astype(np.float32)
        check_alone_and_together(
            networks,
            x,
            y,
            loss=LOSSES[loss],
            optimizer=[dlcore.SGD(0.01 * (i + 1)) for i in range(together)],
            seed=list(range(together)),
            epochs=2,
            batch_size=batch,
        )

    everywhere()


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name, clip):
    x, y = small_data("float32", count=50)
    check_alone_and_together(
        make(3), x, y, optimizer=OPTIMIZERS[name], clip_norm=clip, epochs=3, batch_size=16
    )


@emulated_only
@pytest.mark.parametrize("precision", PRECISIONS)
def test_everything_that_may_differ_does(precision):
    """Rows, weights, rates, schedules, seeds, epochs, scale, order: all in one recorded step."""
    x, y = small_data("float32", count=90)
    rng = np.random.default_rng(0)
    schedules = list(SCHEDULES.values())
    count = 6
    options = {
        "subsets": [None, rng.permutation(90)[:33], [3, 3, 7] * 8, range(17, 90), None, None],
        "optimizer": [
            dlcore.AdamW(schedules[i % len(schedules)], weight_decay=0.1 * i) for i in range(count)
        ],
        "seed": [5, 1, 5, 8, 9, 1],
        "epochs": [1, 7, 3, 4, 5, 2],
        "shuffle": [True, True, False, True, False, True],
        "sample_weight": [None, rng.random(90), None, rng.integers(0, 2, 90) + 0.5, None, None],
        "input_scale": [None, 0.5, None, 2.0, None, None],
        "batch_size": 8,
        "validation_data": (x[:20], y[:20]),
    }
    networks = make(count, precision=precision)
    first = [clone(network) for network in networks]
    check_alone_and_together(networks, x, y, **options)
    again = [clone(network) for network in first]
    check_alone_and_together(again, x, y, order=[4, 0, 2, 5, 1, 3], **options)
    pair = [clone(network) for network in first]
    histories = dlcore.fit_many(
        [pair[1], pair[3]],
        x,
        y,
        **{n: [v[1], v[3]] if isinstance(v, list) else v for n, v in options.items()},
    )
    assert {history.engine for history in histories} == {"group"}
    assert [bits(pair[1]), bits(pair[3])] == [bits(again[1]), bits(again[3])]


@emulated_only
def test_long_epochs_of_different_lengths():
    """Slices of many recorded steps, ends of epochs in the middle of the others' epochs."""
    x, y = small_data("float32", count=700)
    check_alone_and_together(
        make(5, kind="relu"),
        x,
        y,
        subsets=[slice(0, n) for n in (700, 3, 699, 130, 64)],
        optimizer=dlcore.Adam(0.01),
        epochs=[2, 20, 2, 7, 9],
        batch_size=3,
        seed=[0, 1, 2, 3, 4],
    )


@pytest.mark.parametrize("batch", [10, 100])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_one_that_diverges_stops_alone(name, batch):
    rng = np.random.default_rng(0)
    x = 100 * rng.standard_normal((100, 5)).astype(np.float32)
    y = rng.standard_normal((100, 2)).astype(np.float32)
    bad, good = {
        "sgd": (dlcore.SGD(30.0), dlcore.SGD(1e-9)),
        "momentum": (dlcore.SGD(30.0, momentum=0.9), dlcore.SGD(1e-9, momentum=0.5)),
        "adam": (dlcore.Adam(1e15), dlcore.Adam(1e-3)),
    }[name]
    layers = [dlcore.Dense(8), dlcore.ReLU(), dlcore.Dense(8), dlcore.ReLU(), dlcore.Dense(2)]
    networks = [moved(dlcore.Network(layers, 5, seed=seed)) for seed in range(4)]
    with pytest.warns(dlcore.DivergenceWarning):
        histories = check_alone_and_together(
            networks, x, y, optimizer=[good, bad, good, bad], epochs=8, batch_size=batch
        )
    assert [h.stopped for h in histories] == ["completed", "diverged", "completed", "diverged"]
    for network in networks:
        assert all(np.isfinite(p).all() for p in network.parameters.values())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_that_a_callback_sets_are_trained(precision):
    """Also where products read a copy of them."""
    x, y = small_data("float32", count=40)
    options = {"epochs": 3, "batch_size": 8, "optimizer": dlcore.SGD(0.1)}
    for count in (1, 2):
        networks, (other,) = make(count, precision=precision), make(1, precision=precision)
        fresh = dict(other.parameters)

        def put_back(record, networks=networks, fresh=fresh):
            if record["epoch"] == 2:
                networks[-1].set_parameters(fresh)

        dlcore.fit_many(networks, x, y, on_epoch=put_back, **options)
        other._core.step = networks[-1]._core.step - 5
        other.fit(x, y, **{**options, "epochs": 1})
        assert bits(networks[-1]) == bits(other)


def test_early_stopping_is_everyones_own():
    x, y = small_data("float32", count=60)
    histories = check_alone_and_together(
        make(5, dropout=0.0),
        x,
        y,
        optimizer=[dlcore.SGD(rate) for rate in (2.0, 0.1, 0.5, 1e-3, 1.0)],
        epochs=30,
        batch_size=20,
        validation_data=(x[:20], (y[:20] + 1) % 3),
        early_stopping=[
            dlcore.EarlyStopping(2),
            dlcore.EarlyStopping(5, restore_best=False),
            dlcore.EarlyStopping(1),
            None,
            dlcore.EarlyStopping(3, min_delta=0.1),
        ],
    )
    assert histories[3].stopped == "completed"
    assert {histories[i].stopped for i in (0, 2, 4)} == {"early_stopping"}


def test_callbacks_look_stop_and_set():
    """A callback sees its network as it is, may stop it alone, and may change it."""
    x, y = small_data("float32")
    networks, told_by = make(3), []

    def look(record):
        i = record["network"]
        told_by.append((i, networks[i].evaluate(x, y)["loss"], bits(networks[i])))
        if i == 1 and record["epoch"] == 2:
            return False
        if i == 2:
            networks[i].set_parameters(networks[0].parameters)
        return None

    finished = []
    histories = dlcore.fit_many(
        networks,
        x,
        y,
        epochs=4,
        batch_size=5,
        on_epoch=look,
        on_finish=lambda i, history: finished.append((i, history.stopped, bits(networks[i]))),
    )
    assert [history.stopped for history in histories] == ["completed", "callback", "completed"]
    assert [i for i, *_ in finished] == [1, 0, 2]
    assert [seen_ for *_, seen_ in finished] == [bits(networks[i]) for i in (1, 0, 2)]
    assert [i for i, *_ in told_by] == [0, 1, 2] * 2 + [0, 2] * 2
    assert bits(networks[2]) == bits(networks[0])


@pytest.mark.parametrize("where", ["callback", "progress"])
def test_an_error_leaves_whole_steps(where):
    """What Ctrl-C does: every network is at a whole step, in memory of its own, and goes on."""
    x, y = small_data("float32", count=400)
    calls = []

    def fail(*_):
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt

    networks = make(3)
    copies = [clone(network) for network in networks]
    options = {"optimizer": dlcore.Adam(0.01), "batch_size": 1, "shuffle": False}
    listener = {"on_epoch": fail} if where == "callback" else {"progress": fail}
    with pytest.raises(KeyboardInterrupt):
        dlcore.fit_many(networks, x, y, epochs=300, **options, **listener)
    for network, other in zip(networks, copies, strict=True):
        steps = network._core.step
        assert 0 < steps < 300 * 400
        assert not network._core.training
        fit_steps(other, x, y, steps, **options)
        assert bits(other) == bits(network)


def test_bad_values_name_the_network():
    x, y = small_data("float32", count=50)
    bad = x.copy()
    bad[33, 2] = np.inf
    networks = make(3)
    before = [bits(network) for network in networks]
    on_gpu = dlcore.device_array(bad)
    with pytest.raises(ValueError, match=r"network 1: x holds inf at row 33, column 2"):
        dlcore.fit_many(
            networks,
            on_gpu,
            y,
            subsets=[slice(0, 30), slice(20, 50), slice(0, 33)],
            epochs=2,
            batch_size=10,
        )
    assert bits(networks[1]) == before[1]
    for network in networks:
        network.fit(x, y, epochs=1)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float64"])
def test_data_of_any_kind(dtype):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 200, (50, 2, 6)).astype(dtype)
    y = rng.integers(0, 3, 50)
    layers = [dlcore.Flatten(), dlcore.Dense(5), dlcore.ReLU(), dlcore.Dense(3)]
    networks = [moved(dlcore.Network(layers, (2, 6), seed=seed)) for seed in range(2)]
    again = [clone(network) for network in networks]
    options = {"input_scale": 0.01, "epochs": 2, "batch_size": 8}
    check_alone_and_together(networks, x, y, **options)
    dlcore.fit_many(again, dlcore.device_array(x), y, **options)
    assert [bits(n) for n in again] == [bits(n) for n in networks]


# Who trains beside whom ---------------------------------------------------------------------------


def engines(networks, x, y, **options):
    histories = dlcore.fit_many(networks, x, y, epochs=1, **options)
    return [(history.engine, history.engine_reason) for history in histories]


def test_networks_that_differ_train_apart():
    x, y = small_data("float32", count=60)
    dropout, many = "it has dropout", [("group", "it has dropout")] * 2
    networks = [*make(2), *make(2, kind="relu"), *make(2, dropout=0.5), *make(1, precision="bf16")]
    found = engines(networks, x, y)
    assert found[:6] == many * 3
    assert found[6] == ("graph", dropout)
    assert engines(make(4), x, y, batch_size=[8, 9, 8, 60]) == [
        many[0],
        ("graph", dropout),
        many[0],
        ("graph", dropout),
    ]
    # A batch is no larger than the data.
    assert engines(make(2), x, y, batch_size=[60, 128]) == many
    for differs in (
        {"loss": ["cross_entropy", dlcore.losses.Huber(1.0)]},
        {"optimizer": [dlcore.SGD(0.1), dlcore.SGD(0.1, momentum=0.5)]},
        {"clip_norm": [1.0, 2.0]},
        {"validation_data": [(x[:9], y[:9]), None]},
        {"statistics": [True, False]},
    ):
        target = y if "loss" not in differs else None
        if target is None:
            continue
        assert {engine for engine, _ in engines(make(2), x, target, **differs)} == {"graph"}


def test_what_cannot_stand_beside_others(tmp_path, monkeypatch):
    x, y = small_data("float32", count=60)
    found = engines(make(2), x, y, statistics=True)
    assert (
        found == [("graph", "it has dropout; statistics are asked for")] * 2
        or found == [("graph", "statistics are asked for")] * 2
    )
    paths = [tmp_path / "a", tmp_path / "b"]
    assert engines(make(2), x, y, checkpoint=paths) == [("graph", "it keeps a checkpoint")] * 2
    monkeypatch.setenv("DLCORE_FLEET_ENGINE", "graph")
    assert engines(make(2), x, y) == [("graph", "")] * 2
    monkeypatch.setenv("DLCORE_FLEET_ENGINE", "group")
    layers = [dlcore.Dense(4), dlcore.ReLU(), dlcore.Dense(3)]
    small = [moved(dlcore.Network(layers, 7, seed=seed)) for seed in range(9)]
    assert engines(small, x, y) == [("group", "")] * 9


def test_progress_counts_whoever_trains_them(monkeypatch):
    monkeypatch.delenv("DLCORE_FLEET_ENGINE", raising=False)
    x, y = small_data("float32", count=60)
    layers = [dlcore.Dense(4), dlcore.ReLU(), dlcore.Dense(3)]
    small = [moved(dlcore.Network(layers, 7, seed=seed)) for seed in range(8)]
    networks = [*make(2), *small, *make(1, precision="bf16")]
    calls, finished = [], []
    histories = dlcore.fit_many(
        networks,
        x,
        y,
        epochs=2,
        progress=lambda *told: calls.append(told),
        on_finish=lambda i, history: finished.append((i, history.engine)),
    )
    assert [h.engine for h in histories] == ["group"] * 2 + ["population"] * 8 + ["graph"]
    assert sorted(finished) == [(i, h.engine) for i, h in enumerate(histories)]
    assert calls[-1] == (11, 11)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


@emulated_only
def test_a_group_enqueues_the_products_of_one():
    from dlcore import _cuda

    x, y = small_data("float32", count=60)

    def enqueued(count):
        before = _cuda.emulated_counts()["products"]
        dlcore.fit_many(make(count), x, y, epochs=3, batch_size=10)
        return _cuda.emulated_counts()["products"] - before

    assert enqueued(2) == enqueued(7)


@emulated_only
def test_algorithms_are_those_of_one_alone(monkeypatch):
    """A group asks for them as often as one network; where they cannot serve it, for its own."""
    x, y = small_data("float32", count=60)
    choices = [taken(lambda n=n: dlcore.fit_many(make(n), x, y, epochs=1))[1] for n in (1, 2, 5)]
    assert choices[0] == choices[1] == choices[2] > 0
    monkeypatch.setenv("DLCORE_EMULATED_OTHER_ALGORITHMS", "1")
    own = taken(lambda: check_alone_and_together(make(2), x, y, epochs=2, batch_size=16))[1]
    assert own == 4 * choices[0]


@emulated_only
def test_groups_are_as_large_as_there_is_room_for(monkeypatch):
    from dlcore import _cuda

    x, y = small_data("float32", count=60)
    layers = [
        dlcore.Dense(400),
        dlcore.ReLU(),
        dlcore.Dropout(0.2),
        dlcore.Dense(400),
        dlcore.Dense(3),
    ]

    def train():
        networks = [moved(dlcore.Network(layers, 7, seed=seed)) for seed in range(9)]
        counts = _cuda.emulated_counts()
        limit = counts["used"] + room
        monkeypatch.setenv("DLCORE_EMULATED_MEMORY", str(limit) if room else "")
        try:
            histories = dlcore.fit_many(networks, x, y, epochs=2, batch_size=60)
        finally:
            monkeypatch.setenv("DLCORE_EMULATED_MEMORY", "")
        for history in histories:
            if history.engine == "graph":
                assert history.engine_reason.endswith(
                    "there is no room for it beside others like it"
                )
        return [bits(n) for n in networks], {h.engine for h in histories}

    room = 0
    whole = train()
    assert whole[1] == {"group"}
    # Each takes 5 MB in a group, 3 MB alone, and keeps 1.3 MB of moments.
    for room, engine in ((40_000_000, {"group"}), (20_000_000, {"group", "graph"})):
        assert train() == (whole[0], engine)
    room = 3_000_000
    with pytest.raises(RuntimeError, match=r"network 0: .* MB for .* do not fit on the GPU"):
        train()


@emulated_only
def test_no_memory_in_the_middle_is_a_sentence(monkeypatch):
    from dlcore import _cuda

    x, y = small_data("float32", count=1500)
    networks = make(2)

    def fill_up(*_):
        monkeypatch.setenv("DLCORE_EMULATED_MEMORY", str(_cuda.emulated_counts()["used"]))

    options = {"epochs": 1, "batch_size": 1, "validation_data": (x, y)}
    sentence = r"fit_many: 2 networks of 0\.\d+ MB each do not fit on the GPU: .* of .* free; train"
    with pytest.raises(RuntimeError, match=sentence):
        dlcore.fit_many(networks, x, y, progress=fill_up, **options)
    monkeypatch.setenv("DLCORE_EMULATED_MEMORY", "")
    assert [network._core.step for network in networks] == [1500, 1500]
    dlcore.fit_many(networks, x[:9], y[:9], **options)


@emulated_only
def test_memory_is_given_back():
    from dlcore import _cuda

    x, y = small_data("float32", count=60)
    networks = make(4)
    dlcore.fit_many(networks, x, y, epochs=1)
    before = _cuda.emulated_counts()["used"]
    dlcore.fit_many(networks, x, y, epochs=2)
    assert _cuda.emulated_counts()["used"] == before
    assert taken(lambda: networks[0].predict(x)) > (0, 0)
