"""Many networks in one call: the same bits as each alone, and what happens to one stays its own."""

import copy
import json
import math
import re
import sys
import threading
import tracemalloc

import numpy as np
import pytest

import dlcore
from dlcore import losses
from interruption import least_delay


def blobs(n=120, classes=3, features=4, seed=0):
    """Gaussian clouds that a linear network tells apart."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centres = 3 * rng.normal(size=(classes, features))
    return (centres[y] + rng.normal(size=(n, features))).astype(np.float32), y


def classifier(width=16, seed=0, **options):
    return dlcore.Network(
        [dlcore.Dense(width), dlcore.ReLU(), dlcore.Dense(3)],
        input_shape=(4,),
        seed=seed,
        **options,
    )


def weights_equal(a, b):
    return all(np.array_equal(value, b.parameters[name]) for name, value in a.parameters.items())


def untimed(history):
    """A history without what differs from run to run."""
    values = history.to_dict()
    del values["seconds"], values["examples_per_second"]
    return json.dumps(values)  # as text, in which NaN equals NaN


VARIED = [  # (layers, options of the network, options of the fit, rows)
    ([dlcore.Dense(3)], {}, {"seed": 1}, None),
    (
        [dlcore.Dense(33), dlcore.ReLU(), dlcore.Dense(3)],
        {"seed": 1},
        {"optimizer": dlcore.SGD(0.05, momentum=0.9), "epochs": 5, "batch_size": 7},
        slice(10, 100),
    ),
    (
        [dlcore.Dense(8), dlcore.GELU(), dlcore.Dropout(0.3), dlcore.Dense(3)],
        {"seed": 2},
        {"optimizer": dlcore.AdamW(dlcore.schedules.Cosine(0.01)), "seed": 2**40},
        np.arange(0, 120, 2),
    ),
    (
        [
            dlcore.Dense(16),
            dlcore.Residual([dlcore.Dense(16), dlcore.Tanh()]),
            dlcore.Dropout(0.1),
            dlcore.Dense(3),
        ],
        {"dtype": "float64", "seed": 3},
        {"clip_norm": 0.5, "epochs": 2, "shuffle": False, "class_weight": "balanced"},
        np.arange(120) % 5 > 0,
    ),
    (
        [dlcore.Dense(64), dlcore.SiLU(), dlcore.Dense(3)],
        {"seed": 4},
        {
            "optimizer": dlcore.Adam(0.05),
            "epochs": 40,
            "early_stopping": dlcore.EarlyStopping(2),
            "batch_size": 1000,
        },
        [5, 5, -1, 7, 60, 61, 62, -120],
    ),
    (
        [dlcore.Dense(5), dlcore.Sigmoid(), dlcore.Dense(5), dlcore.LeakyReLU(), dlcore.Dense(3)],
        {"dtype": "float64", "seed": 5},
        {"input_scale": 0.5, "statistics": True, "loss": "cross_entropy"},
        None,
    ),
]
OPTIONS = {
    "loss": None,
    "optimizer": None,
    "epochs": 3,
    "batch_size": 16,
    "seed": 0,
    "shuffle": True,
    "class_weight": None,
    "early_stopping": None,
    "clip_norm": None,
    "input_scale": None,
    "statistics": False,
}


def varied():
    return [dlcore.Network(layers, input_shape=(4,), **made) for layers, made, _, _ in VARIED]


@pytest.mark.parametrize("threads", [1, 2, 5, None])
def test_each_member_gets_the_bits_of_its_own_fit(threads):
    x, y = blobs()
    validation = (x[:40], y[:40])
    weight = np.linspace(0.5, 2, 120)
    alone, fleet = varied(), varied()
    expected = []
    for network, (_, _, options, rows) in zip(alone, VARIED, strict=True):
        chosen = slice(None) if rows is None else rows
        expected.append(
            network.fit(
                x[chosen],
                y[chosen],
                **{**OPTIONS, **options},
                sample_weight=weight[chosen],
                validation_data=validation,
            )
        )
    histories = dlcore.fit_many(
        fleet,
        x,
        y,
        subsets=[rows for _, _, _, rows in VARIED],
        threads=threads,
        sample_weight=weight,
        validation_data=validation,
        **{
            name: [options.get(name, default) for _, _, options, _ in VARIED]
            for name, default in OPTIONS.items()
        },
    )
    assert {history.stopped for history in histories} == {"completed", "early_stopping"}
    for k, (a, b) in enumerate(zip(alone, fleet, strict=True)):
        assert weights_equal(a, b), k
        assert untimed(expected[k]) == untimed(histories[k]), k
        assert (a.loss, a.optimizer, a.input_scale) == (b.loss, b.optimizer, b.input_scale)
        # Moments and steps are those of the fit too: both go on alike.
        a.fit(x, y, epochs=1)
        b.fit(x, y, epochs=1)
        assert weights_equal(a, b), k


def test_regression_and_one_output():
    x, labels = blobs(classes=2)
    for y, loss in ((labels, losses.BinaryCrossEntropy()), (x[:, 0] + x[:, 1], "huber")):
        alone, fleet = (
            [
                dlcore.Network([dlcore.Dense(w), dlcore.ReLU(), dlcore.Dense(1)], 4, dtype=dtype)
                for w, dtype in ((3, "float32"), (40, "float64"))
            ]
            for _ in range(2)
        )
        for network in alone:
            network.fit(x, y, loss, epochs=2, batch_size=16)
        dlcore.fit_many(fleet, x, y, loss=loss, epochs=2, batch_size=16)
        assert all(map(weights_equal, alone, fleet))


def test_one_value_serves_all_and_any_sequence_is_one_each():
    x, y = blobs()
    alone = [classifier(seed=k) for k in range(3)]
    for k, network in enumerate(alone):
        network.fit(x, y, optimizer=dlcore.SGD(0.1), epochs=k + 1, batch_size=16, seed=k)
    for epochs, seed in (([1, 2, 3], range(3)), ((1, 2, 3), np.arange(3))):
        for optimizers in (dlcore.SGD(0.1), [dlcore.SGD(0.1)] * 3):
            fleet = [classifier(seed=k) for k in range(3)]
            dlcore.fit_many(
                fleet, x, y, optimizers=optimizers, epochs=epochs, batch_size=16, seed=seed
            )
            assert all(map(weights_equal, alone, fleet))
    fleet = [classifier(seed=k) for k in range(3)]
    dlcore.fit_many(
        fleet, x, y, optimizer=dlcore.SGD(0.1), epochs=[1, 2, 3], batch_size=16, seed=range(3)
    )
    assert all(map(weights_equal, alone, fleet))


def test_options_that_are_sequences_are_one_each_as_a_list():
    x, y = blobs()
    first, second = np.linspace(1, 2, 120), np.linspace(3, 1, 120)
    alone = [classifier() for _ in range(3)]
    expected = [
        alone[0].fit(x, y, epochs=2, sample_weight=first, validation_data=(x[:9], y[:9])),
        alone[1].fit(x, y, epochs=2, sample_weight=second),
        alone[2].fit(x, y, epochs=2, validation_data=(x[9:20], y[9:20], second[9:20])),
    ]
    fleet = [classifier() for _ in range(3)]
    histories = dlcore.fit_many(
        fleet,
        x,
        y,
        epochs=2,
        sample_weight=[first, second, None],
        validation_data=[(x[:9], y[:9]), None, (x[9:20], y[9:20], second[9:20])],
    )
    assert all(map(weights_equal, alone, fleet))
    assert list(map(untimed, histories)) == list(map(untimed, expected))
    fleet = [classifier() for _ in range(2)]
    dlcore.fit_many(fleet, x, y, subsets=np.arange(50), epochs=2, sample_weight=tuple(first))
    one = classifier()
    one.fit(x[:50], y[:50], epochs=2, sample_weight=first[:50])
    assert all(weights_equal(one, network) for network in fleet)


def test_balanced_classes_are_those_of_the_subset():
    x, y = blobs()
    rows = np.flatnonzero((y < 2) | (np.arange(120) < 30))
    one, fleet = classifier(), [classifier()]
    one.fit(x[rows], y[rows], epochs=2, batch_size=16, class_weight="balanced")
    dlcore.fit_many(fleet, x, y, subsets=rows, epochs=2, batch_size=16, class_weight="balanced")
    assert weights_equal(one, fleet[0])


def test_what_was_remembered_is_used():
    x, y = blobs()
    alone, fleet = ([classifier(seed=k) for k in range(2)] for _ in range(2))
    for network in (*alone, *fleet):
        network.fit(x, y, optimizer=dlcore.SGD(0.1 + network.seed), epochs=1, input_scale=0.5)
    for network in alone:
        network.fit(x, y, epochs=2)
    dlcore.fit_many(fleet, x, y, epochs=2)
    assert all(map(weights_equal, alone, fleet))
    assert [network.optimizer for network in fleet] == [dlcore.SGD(0.1), dlcore.SGD(1.1)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
def test_the_data_is_not_copied_for_each_network(dtype):
    x = np.ones((20_000, 16), dtype)
    x[::2] = 0
    y = np.arange(20_000) % 2
    networks = [dlcore.Network([dlcore.Dense(2)], 16, seed=k) for k in range(40)]
    dlcore.fit_many(networks[:1], x[:100], y[:100], epochs=1)
    tracemalloc.start()
    dlcore.fit_many(networks, x, y, subsets=[slice(k, k + 500) for k in range(40)], epochs=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # integers of 64 bits become float32 once, for all together
    assert peak < 20_000 * 16 * 4 + 1_000_000


def test_no_networks_give_no_histories():
    x, y = blobs()
    assert dlcore.fit_many([], x, y) == []


# Listeners.


def test_results_come_as_they_finish():
    x, y = blobs(600)
    networks = [classifier(width=32, seed=k) for k in range(4)]
    order, records = [], {}
    caller = threading.get_ident()

    def finished(index, history):
        assert threading.get_ident() == caller
        order.append(index)
        records[index] = history

    histories = dlcore.fit_many(
        networks, x, y, epochs=[1, 3, 400, 2], batch_size=8, threads=2, on_finish=finished
    )
    assert sorted(order) == [0, 1, 2, 3]
    assert order[-1] == 2  # begun first, as it takes longest
    assert [untimed(records[k]) for k in range(4)] == list(map(untimed, histories))
    assert [history.epochs for history in histories] == [1, 3, 400, 2]


def test_a_callback_sees_every_epoch_of_every_network_and_stops_one():
    x, y = blobs()
    seen = []

    def watch(record):
        seen.append((record["network"], record["epoch"], record["loss"]))
        return not (record["network"] == 1 and record["epoch"] == 2)

    histories = dlcore.fit_many([classifier(seed=k) for k in range(3)], x, y, on_epoch=watch)
    assert [history.stopped for history in histories] == ["completed", "callback", "completed"]
    for k, history in enumerate(histories):
        assert [loss for index, _, loss in seen if index == k] == history.loss
    calls = [[], []]
    dlcore.fit_many(
        [classifier(), classifier()],
        x,
        y,
        epochs=2,
        on_epoch=[lambda r: calls[0].append(r["epoch"]), None],
    )
    assert calls == [[1, 2], []]


@pytest.mark.parametrize("listener", ["on_epoch", "on_finish", "progress"])
def test_a_listeners_error_ends_the_call_and_leaves_usable_networks(listener):
    x, y = blobs()

    def fail(*_):
        raise ValueError("mine")

    networks = [classifier(seed=k) for k in range(4)]
    with pytest.raises(ValueError, match="^mine$"):
        dlcore.fit_many(networks, x, y, epochs=200, **{listener: fail})
    for network in networks:
        assert all(np.isfinite(value).all() for value in network.parameters.values())
        assert network.fit(x, y, epochs=1).stopped == "completed"


def test_progress(capsys, monkeypatch):
    x, y = blobs()
    calls = []
    networks = [classifier(seed=k) for k in range(5)]
    dlcore.fit_many(networks, x, y, epochs=2, progress=lambda *call: calls.append(call))
    assert calls[-1] == (5, 5)
    assert calls == sorted(calls)
    assert capsys.readouterr() == ("", "")
    dlcore.fit_many(networks, x, y, epochs=2, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"5 networks: \S+ s\n", err)
    from dlcore.history import FleetLine

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    line = FleetLine()
    line.step(1, 4)
    line.step(4, 4)
    line.step(4, 4)
    assert re.fullmatch(
        r"\r\x1b\[K1 of 4 networks \[#####---------------\], 0 s left"
        r"\r\x1b\[K4 networks: \S+ s\n",
        capsys.readouterr().err,
    )


def test_ctrl_c_returns_soon_and_leaves_usable_networks():
    build = """
layers = [dlcore.Dense(256), dlcore.ReLU(), dlcore.Dense(10)]
networks = [dlcore.Network(layers, input_shape=(64,), seed=k) for k in range(5)]
"""
    train = "dlcore.fit_many(networks, x, y, epochs=100_000, batch_size=64, threads=2)"
    check = """
assert sorted(network.loss is None for network in networks) == [False, False, True, True, True]
assert all(np.isfinite(v).all() for network in networks for v in network.parameters.values())
dlcore.fit_many(networks, x, y, epochs=1)
"""
    assert least_delay(build, train, check) < 0.1


def test_those_that_diverge_stop_alone_and_one_warning_names_them():
    x = np.linspace(-10, 10, 64)[:, None]
    rates = [0.001, 3.0, 0.002, 5.0]

    def build():
        return [
            dlcore.Network([dlcore.Dense(8), dlcore.Dense(1)], input_shape=(1,), seed=k)
            for k in range(4)
        ]

    fleet, alone = build(), build()
    settings = {"epochs": 30, "batch_size": 16}
    with pytest.warns(dlcore.DivergenceWarning) as caught:
        histories = dlcore.fit_many(
            fleet, x, x, optimizers=[dlcore.SGD(r, momentum=0.9) for r in rates], **settings
        )
    assert len(caught) == 1
    assert caught[0].filename == __file__
    stopped = [history.stopped for history in histories]
    assert stopped == ["completed", "diverged", "completed", "diverged"]
    message = histories[1].message.removeprefix("fit: ")
    assert message.startswith("the loss is no longer finite")
    assert str(caught[0].message) == (
        f"fit_many: 2 of 4 networks diverged (1, 3); network 1: {message}"
    )
    for k, network in enumerate(alone):
        if k % 2 == 1:
            with pytest.warns(dlcore.DivergenceWarning):
                history = network.fit(x, x, optimizer=dlcore.SGD(rates[k], 0.9), **settings)
        else:
            history = network.fit(x, x, optimizer=dlcore.SGD(rates[k], 0.9), **settings)
        assert weights_equal(network, fleet[k])
        assert untimed(history) == untimed(histories[k])


# Errors.


def fleet_of(count=2):
    return [classifier(seed=k) for k in range(count)]


X, Y = blobs(12)
NUMBERS = np.eye(3)[Y]
WRONG = X.copy()
WRONG[2, 1] = np.nan
TWICE = fleet_of(1) * 2

CASES = [
    (
        lambda: dlcore.fit_many(classifier(), X, Y),
        TypeError,
        "fit_many: networks needs a list of them, found Network",
    ),
    (
        lambda: dlcore.fit_many([classifier(), None], X, Y),
        TypeError,
        "fit_many: networks needs dlcore.Network objects, found None at index 1",
    ),
    (
        lambda: dlcore.fit_many(TWICE, X, Y),
        ValueError,
        "fit_many: network 1 is given twice; a network can train once at a time",
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, epochs=[1, 2, 3]),
        ValueError,
        "fit_many: epochs needs one entry for each of the 2 networks, found 3",
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, sample_weight=[1.0] * 12),
        ValueError,
        (
            "fit_many: sample_weight needs one entry for each of the 2 networks, found 12; pass an "
            "array for one value for all"
        ),
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, epochs=[1, 0]),
        ValueError,
        "fit_many: network 1: epochs needs an integer of at least 1, found 0",
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, optimizers=["adam", None]),
        TypeError,
        (
            "fit_many: network 0: optimizer needs an object such as dlcore.Adam(1e-3) or "
            "dlcore.SGD(0.1, momentum=0.9), found str 'adam'"
        ),
    ),
    (
        lambda: dlcore.fit_many(
            fleet_of(), X, Y, optimizer=dlcore.Adam(), optimizers=dlcore.Adam()
        ),
        TypeError,
        "fit_many: optimizer and optimizers are one option; give one of them",
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, on_epoch="print"),
        TypeError,
        "fit_many: network 0: on_epoch needs a callable, found str 'print'",
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, on_finish="print"),
        TypeError,
        "fit_many: on_finish needs a callable, found str 'print'",
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, progress="bar"),
        TypeError,
        "fit_many: progress needs True, False or a callable, found str 'bar'",
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, threads=0),
        ValueError,
        "fit_many: threads needs an integer from 1 to 1024, found 0",
    ),
    (
        lambda: dlcore.fit_many([classifier(), dlcore.Network([dlcore.Dense(3)], 5)], X, Y),
        ValueError,
        "fit_many: network 1: x needs shape (n, 5), found (12, 4)",
    ),
    (
        lambda: dlcore.fit_many([classifier(), dlcore.Network([dlcore.Dense(2)], 4)], X, Y),
        ValueError,
        "fit_many: network 1: labels must lie in 0..1 for 2 classes, found 2 at index 2",
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y[:5], class_weight="balanced"),
        ValueError,
        (
            "fit_many: network 0: y must be (12,) for 12 examples and a network output of (3,), "
            "found (5,)"
        ),
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), WRONG, Y),
        ValueError,
        "fit_many: x holds nan at row 2, column 1; remove or replace such values first",
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), WRONG, Y, subsets=np.array([5, 2, 1])),
        ValueError,
        "fit_many: x holds nan at row 2, column 1; remove or replace such values first",
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, validation_data=(WRONG, Y)),
        ValueError,
        (
            "fit_many: validation_data: x holds nan at row 2, column 1; remove or replace such values "
            "first"
        ),
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, validation_data=[None, (X, Y + 1)]),
        ValueError,
        (
            "fit_many: network 1: validation_data: labels must lie in 0..2 for 3 classes, found 3 at "
            "index 2"
        ),
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, validation_data=[None, X]),
        TypeError,
        (
            "fit_many: network 1: validation_data needs a tuple (x, y) or (x, y, sample_weight), "
            "found ndarray"
        ),
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X.astype(float) * 1e300, Y, threads=1),
        ValueError,
        "fit_many: network 0: x times input_scale overflows the network's dtype",
    ),
    # Subsets.
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, subsets=[None, [0, 12]]),
        ValueError,
        "fit_many: network 1: subset needs rows from 0 to 11, found 12 at index 1",
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, subsets=[None, [0, -13]]),
        ValueError,
        "fit_many: network 1: subset needs rows from 0 to 11, found -13 at index 1",
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, subsets=[None, []]),
        ValueError,
        "fit_many: network 1: subset needs at least one row, found none",
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, subsets=slice(5, 5)),
        ValueError,
        "fit_many: network 0: subset needs at least one row, found none",
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, subsets=slice("a")),
        TypeError,
        "fit_many: network 0: subset needs a slice of integers, found slice slice(None, 'a', None)",
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, subsets=[np.ones(11, bool), None]),
        ValueError,
        "fit_many: network 0: subset needs 12 booleans, one per example, found 11",
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, subsets=np.zeros((2, 3), int)),
        ValueError,
        "fit_many: network 0: subset needs one axis of row numbers, found shape (2, 3)",
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, subsets=np.arange(3.0)),
        TypeError,
        "fit_many: network 0: subset needs integers or booleans, found float64",
    ),
    (
        lambda: dlcore.fit_many(fleet_of(), X, Y, subsets=[None, [0, 3, 6]]),
        ValueError,
        "fit_many: network 1: y holds one class only (0); training needs examples of at least two",
    ),
    (
        lambda: dlcore.fit_many(
            fleet_of(), X, Y, subsets=slice(6), sample_weight=(np.arange(12) > 5).astype(int)
        ),
        ValueError,
        "fit_many: network 0: sample_weight leaves no example with a weight above 0",
    ),
]


@pytest.mark.parametrize(("call", "error", "sentence"), CASES, ids=[case[2] for case in CASES])
def test_errors(call, error, sentence):
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        call()


def test_a_refused_call_changes_nothing():
    networks = fleet_of(3)
    networks[1].fit(X, Y, epochs=1, input_scale=0.5)
    before = copy.deepcopy(networks)
    for x, options in (
        (WRONG, {}),
        (X, {"validation_data": (WRONG, NUMBERS)}),
        (X, {"validation_data": [None, None, (X, NUMBERS[:3])]}),
    ):
        with pytest.raises(ValueError, match="^fit_many: "):
            dlcore.fit_many(
                networks,
                x,
                NUMBERS,
                loss="mse",
                optimizers=dlcore.SGD(1e-3),
                input_scale=1.0,
                **options,
            )
    with pytest.raises(ValueError, match="given twice"):
        dlcore.fit_many([*networks, networks[1]], X, NUMBERS, loss="mse", input_scale=1.0)
    for network, old in zip(networks, before, strict=True):
        assert weights_equal(network, old)
        assert (network.loss, network.optimizer, network.input_scale) == (
            old.loss,
            old.optimizer,
            old.input_scale,
        )


def test_a_network_that_is_training_is_refused():
    networks = fleet_of(3)
    sentence = "^fit_many: network 2 is training already; wait for that fit or train a copy$"
    with pytest.raises(RuntimeError, match=sentence):
        networks[2].fit(X, Y, on_epoch=lambda _: dlcore.fit_many(networks, X, Y))
    assert networks[0].loss is None
    dlcore.fit_many(networks, X, Y, epochs=1)


def test_statistics_are_per_network():
    x, y = blobs()
    networks = fleet_of(2)
    histories = dlcore.fit_many(networks, x, y, epochs=2, statistics=[True, False])
    assert histories[1].layers == {}
    assert list(histories[0].layers) == ["0", "2"]
    assert all(math.isfinite(value) for value in histories[0].layers["0"]["dead"])
