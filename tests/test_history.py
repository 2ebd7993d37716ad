"""What a fit tells and how it ends: records, callbacks, early stopping, divergence, Ctrl-C."""

import copy
import json
import math
import pickle
import sys
import threading

import numpy as np
import pytest

import dlcore
from dlcore import losses
from interruption import least_delay
from test_network import blobs, classifier, weights_equal

# History, callbacks, early stopping, divergence.


def test_history_holds_what_was_measured():
    x, y = blobs()
    network = classifier()
    history = network.fit(x, y, epochs=3, batch_size=16, validation_data=(x[:50], y[:50]))
    names = [
        "loss",
        "accuracy",
        "val_loss",
        "val_accuracy",
        "learning_rate",
        "seconds",
        "examples_per_second",
    ]
    assert list(history) == names
    assert len(history) == 7
    for name in names:
        assert len(history[name]) == 3
        assert getattr(history, name) == history[name]
        assert all(type(value) is float and math.isfinite(value) for value in history[name])
    assert (history.epochs, history.stopped) == (3, "completed")
    assert history.message == "fit: completed 3 epochs"
    assert history.best_epoch == int(np.argmin(history.val_loss)) + 1
    last = network.evaluate(x[:50], y[:50])
    assert history.val_loss[-1] == pytest.approx(last["loss"], rel=1e-6)
    assert history.val_accuracy[-1] == pytest.approx(last["accuracy"])
    assert all(seconds > 0 for seconds in history.seconds)
    told = {"epochs", "stopped", "message", "best_epoch", "device", "precision", "engine"}
    assert {*told, *names} == set(history.to_dict())
    assert (history.device, history.precision, history.engine) == ("cpu", "fp32", "cpu")
    assert json.loads(json.dumps(history.to_dict())) == history.to_dict()
    assert repr(history).startswith("History(epochs=3, stopped='completed', loss=")
    for twin in (copy.deepcopy(history), pickle.loads(pickle.dumps(history))):
        assert twin.to_dict() == history.to_dict()


def test_history_has_only_what_applies():
    x, y = blobs()
    history = classifier().fit(x, np.eye(3)[y], epochs=1)
    assert list(history) == ["loss", "learning_rate", "seconds", "examples_per_second"]
    with pytest.raises(KeyError, match="history has no 'val_loss'; it has loss, learning_rate"):
        history["val_loss"]
    with pytest.raises(AttributeError, match="history has no 'accuracy'; it has loss, learning"):
        _ = history.accuracy


def test_a_callback_sees_every_epoch_and_can_stop():
    x, y = blobs()
    seen = []

    def watch(record):
        seen.append(record)
        return None if record["epoch"] < 3 else False

    network = classifier()
    history = network.fit(x, y, epochs=10, batch_size=16, on_epoch=watch)
    assert [record["epoch"] for record in seen] == [1, 2, 3]
    assert [record["loss"] for record in seen] == history.loss
    assert list(seen[0]) == ["epoch", *history]
    assert (history.epochs, history.stopped) == (3, "callback")
    other = classifier()
    other.fit(x, y, epochs=3, batch_size=16)
    assert weights_equal(network, other)
    # Only False stops, NumPy's too.
    for answer, epochs in ((0, 2), ("", 2), (True, 2), (np.False_, 1)):
        history = classifier().fit(x, y, epochs=2, on_epoch=lambda _, answer=answer: answer)
        assert history.epochs == epochs


def test_a_callback_may_use_the_network():
    x, y = blobs()
    network = classifier()
    accuracies = []

    def measure(record):
        accuracies.append(network.evaluate(x, y)["accuracy"])
        network.predict(x[:5])
        network.parameters  # noqa: B018 - must not raise

    network.fit(x, y, epochs=3, batch_size=16, on_epoch=measure)
    plain = classifier()
    plain.fit(x, y, epochs=3, batch_size=16)
    assert weights_equal(network, plain)
    assert accuracies[-1] == plain.evaluate(x, y)["accuracy"]


def test_a_callbacks_error_ends_the_fit_and_leaves_a_usable_network():
    x, y = blobs()
    network = classifier()

    def fail(record):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="^mine$"):
        network.fit(x, y, epochs=3, batch_size=16, on_epoch=fail)
    assert network.loss == losses.CrossEntropy()
    plain = classifier()
    plain.fit(x, y, epochs=1, batch_size=16)
    assert weights_equal(network, plain)
    network.fit(x, y, epochs=1, batch_size=16)


def test_a_fit_inside_a_fit_is_refused():
    x, y = blobs()
    network = classifier()
    sentence = "^fit: this network is training already; wait for that fit or train a copy$"
    with pytest.raises(RuntimeError, match=sentence):
        network.fit(x, y, epochs=2, on_epoch=lambda _: network.fit(x, y, epochs=1))
    network.fit(x, y, epochs=1)


def test_a_second_thread_is_refused_while_a_network_trains():
    x, y = blobs()
    network = classifier()
    running, leave = threading.Event(), threading.Event()

    def wait(record):
        running.set()
        leave.wait(10)
        return False

    thread = threading.Thread(target=network.fit, args=(x, y), kwargs={"on_epoch": wait})
    thread.start()
    try:
        assert running.wait(10)
        with pytest.raises(RuntimeError, match="^fit: this network is training already;"):
            network.fit(x, np.eye(3)[y], "mse", dlcore.SGD(0.1), input_scale=3.0)
        assert (network.loss, network.optimizer) == (losses.CrossEntropy(), dlcore.Adam())
        assert network.input_scale is None
        with pytest.raises(RuntimeError, match="^set_parameters: this network is training in"):
            network.set_parameters({"0.bias": np.zeros(16)})
        other = classifier()  # another network is free to train meanwhile
        assert other.fit(x, y, epochs=1).stopped == "completed"
    finally:
        leave.set()
        thread.join(10)
    assert not thread.is_alive()
    network.fit(x, y, epochs=1)


def test_early_stopping_restores_the_best_weights():
    x, _ = blobs(60)
    rng = np.random.default_rng(1)
    noise = rng.integers(3, size=60)  # nothing to learn: validation gets worse soon
    network = dlcore.Network([dlcore.Dense(64), dlcore.ReLU(), dlcore.Dense(3)], input_shape=(4,))
    kept = {}

    def keep(record):
        kept[record["epoch"]] = network.parameters

    history = network.fit(
        x,
        noise,
        optimizer=dlcore.Adam(0.02),
        epochs=200,
        batch_size=16,
        validation_data=(x, rng.integers(3, size=60)),
        early_stopping=dlcore.EarlyStopping(4),
        on_epoch=keep,
    )
    assert history.stopped == "early_stopping"
    assert history.epochs == history.best_epoch + 4 < 200
    assert history.best_epoch == int(np.argmin(history.val_loss)) + 1
    for name, value in network.parameters.items():
        np.testing.assert_array_equal(value, kept[history.best_epoch][name])


def test_early_stopping_can_keep_the_last_weights():
    x, y = blobs(60)
    validation = (x, (y + 1) % 3)  # wrong on purpose: every epoch makes it worse
    settings = {"epochs": 30, "batch_size": 16, "validation_data": validation}
    network, plain = classifier(), classifier()
    history = network.fit(
        x, y, early_stopping=dlcore.EarlyStopping(2, restore_best=False), **settings
    )
    assert history.stopped == "early_stopping"
    settings["epochs"] = history.epochs
    plain.fit(x, y, **settings)
    assert weights_equal(network, plain)


def test_improvements_below_min_delta_do_not_count():
    x, y = blobs(60)
    settings = {
        "optimizer": dlcore.SGD(1e-4),
        "epochs": 10,
        "validation_data": (x, y),
    }
    small = dlcore.EarlyStopping(3, min_delta=10.0)
    network = classifier()
    history = network.fit(x, y, early_stopping=small, **settings)
    # the first epoch always counts, the next three do not
    assert (history.stopped, history.epochs) == ("early_stopping", 4)
    # the best weights are the best of all
    assert history.best_epoch == 4 and history.val_loss[3] < 0.999 * history.val_loss[2]
    assert network.evaluate(x, y)["loss"] == pytest.approx(history.val_loss[3], rel=1e-6)
    history = classifier().fit(x, y, early_stopping=dlcore.EarlyStopping(3), **settings)
    assert (history.stopped, history.epochs) == ("completed", 10)


def test_without_validation_data_the_loss_is_watched():
    x, y = blobs(60)
    history = classifier().fit(
        x,
        y,
        optimizer=dlcore.SGD(0.0),
        epochs=10,
        batch_size=60,
        shuffle=False,
        early_stopping=dlcore.EarlyStopping(2),
    )
    assert (history.stopped, history.epochs, history.best_epoch) == ("early_stopping", 3, 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_diverging_fit_stops_warns_and_keeps_finite_weights(dtype):
    x = np.linspace(-10, 10, 64)[:, None]
    network = dlcore.Network([dlcore.Dense(8), dlcore.Dense(1)], input_shape=(1,), dtype=dtype)
    start = copy.deepcopy(network)
    with pytest.warns(dlcore.DivergenceWarning, match="the loss is no longer finite") as caught:
        history = network.fit(
            x, x, optimizer=dlcore.SGD(3.0, momentum=0.9), epochs=500, batch_size=16
        )
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert str(caught[0].message) == history.message
    assert "try a smaller learning rate" in history.message
    assert history.stopped == "diverged"
    assert history.epochs < 500
    assert not math.isfinite(history.loss[-1])
    assert all(np.isfinite(value).all() for value in network.parameters.values())
    assert not weights_equal(network, start)
    assert np.isfinite(network.predict(np.zeros((1, 1)))).all()


def test_progress_is_reported_between_steps(capsys):
    x, y = blobs(3000)
    calls = []
    network = dlcore.Network(
        [dlcore.Dense(400), dlcore.ReLU(), dlcore.Dense(400), dlcore.ReLU(), dlcore.Dense(3)],
        input_shape=(4,),
    )
    network.fit(x, y, epochs=3, batch_size=8, threads=1, progress=lambda *call: calls.append(call))
    assert calls
    assert calls == sorted(calls)
    assert all(1 <= epoch <= 3 and 0 <= done <= 375 == steps for epoch, done, steps in calls)
    assert capsys.readouterr() == ("", "")


def test_the_progress_line_names_every_epoch(capsys):
    x, y = blobs()
    classifier().fit(x, y, epochs=2, progress=True, validation_data=(x, y))
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    for word in ("loss", "accuracy", "val_loss", "val_accuracy", " s,", "examples/s"):
        assert word in lines[0]


def test_the_progress_line_moves_on_a_terminal(capsys, monkeypatch):
    from dlcore.history import ProgressLine

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    line = ProgressLine(4)
    line.step(2, 5, 10)
    line.epoch({"epoch": 2, "loss": 0.5, "seconds": 1.5, "examples_per_second": 1000.0})
    assert capsys.readouterr().err == (
        "\r\x1b[Kepoch 2/4 [##########----------], 0 s left"
        "\r\x1b[Kepoch 2/4: loss 0.5, 1.5 s, 1,000 examples/s\n"
    )


def test_ctrl_c_returns_soon_and_leaves_a_usable_network():
    build = """
layers = [dlcore.Dense(512), dlcore.ReLU(), dlcore.Dense(512), dlcore.ReLU(), dlcore.Dense(10)]
network = dlcore.Network(layers, input_shape=(64,))
"""
    check = """
assert all(np.isfinite(value).all() for value in network.parameters.values())
assert network.loss is not None
network.fit(x, y, epochs=1)
"""
    assert least_delay(build, "network.fit(x, y, epochs=100_000, batch_size=64)", check) < 0.1


# Health of the layers.


def test_statistics_are_what_they_say():
    """One step an epoch, by hand in NumPy."""
    x, y = blobs(40)
    network = dlcore.Network(
        [dlcore.Dense(6), dlcore.ReLU(), dlcore.Dense(5), dlcore.Tanh(), dlcore.Dense(3)],
        input_shape=(4,),
        dtype="float64",
    )
    # Two dead units, and a layer that is partly saturated.
    bias = np.where(np.arange(6) < 2, -100.0, 0.1)
    network.set_parameters({"0.bias": bias, "2.weight": 2 * network.parameters["2.weight"]})
    by_hand = copy.deepcopy(network)
    options = {"optimizer": dlcore.SGD(0.05), "batch_size": 40, "shuffle": False}
    records = []
    history = network.fit(
        x, y, epochs=3, statistics=True, clip_norm=0.5, on_epoch=records.append, **options
    )
    assert list(history.layers) == ["0", "2", "4"]
    measures = ["gradient_norm", "weight_norm", "update_ratio", "dead", "saturated"]
    for epoch in range(3):
        before = by_hand.parameters
        _, gradients = by_hand.loss_and_gradients(x, y, "cross_entropy")
        by_hand.fit(x, y, epochs=1, clip_norm=0.5, **options)
        hidden = np.maximum(x @ before["0.weight"].T + before["0.bias"], 0)
        squashed = np.tanh(hidden @ before["2.weight"].T + before["2.bias"])
        share = {"0": np.mean((hidden == 0).all(axis=0)), "2": np.mean(np.abs(squashed) > 0.98)}
        for name, values in history.layers.items():
            assert list(values) == measures
            weight, old = by_hand.parameters[f"{name}.weight"], before[f"{name}.weight"]
            norm = np.linalg.norm(weight)
            expected = [
                np.linalg.norm(gradients[f"{name}.weight"]),
                norm,
                np.linalg.norm(weight - old) / norm,
                share["0"] if name == "0" else np.nan,
                share["2"] if name == "2" else np.nan,
            ]
            found = [values[measure][epoch] for measure in measures]
            np.testing.assert_allclose(found, expected, rtol=1e-9)
            np.testing.assert_array_equal(list(records[epoch]["layers"][name].values()), found)
        assert share["0"] >= 2 / 6
        assert 0 < share["2"] < 1
    assert history.to_dict()["layers"]["0"] == history.layers["0"]
    assert list(history) == ["loss", "accuracy", "learning_rate", "seconds", "examples_per_second"]


def test_statistics_of_a_wide_layer():
    """Norms are of all weights, which are measured piece by piece."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 300)), np.arange(40) % 64
    network = dlcore.Network([dlcore.Dense(64)], input_shape=(300,), dtype="float64")
    before, gradients = network.parameters, network.loss_and_gradients(x, y)[1]
    options = {"optimizer": dlcore.SGD(0.05), "batch_size": 40, "statistics": True}
    values = network.fit(x, y, epochs=1, **options).layers["0"]
    weight = network.parameters["0.weight"]
    norm = np.linalg.norm(weight)
    change = np.linalg.norm(weight - before["0.weight"]) / norm
    assert values["gradient_norm"][0] == pytest.approx(
        np.linalg.norm(gradients["0.weight"]), rel=1e-12
    )
    assert values["weight_norm"][0] == pytest.approx(norm, rel=1e-12)
    assert values["update_ratio"][0] == pytest.approx(change, rel=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("clip_norm", [None, 0.3])
def test_statistics_change_no_bit(dtype, clip_norm):
    x, y = blobs(700)
    options = {"epochs": 3, "batch_size": 16, "clip_norm": clip_norm}
    plain, measured = classifier(dtype=dtype), classifier(dtype=dtype)
    assert plain.fit(x, y, **options).layers == {}
    history = measured.fit(x, y, statistics=True, **options)
    assert weights_equal(plain, measured)
    assert all(len(values) == 3 for values in history.layers["0"].values())
    assert "layers" not in classifier().fit(x, y, epochs=1).to_dict()


def test_statistics_of_a_diverging_fit_end_with_nan():
    x = np.linspace(-10, 10, 64)[:, None]
    network = dlcore.Network([dlcore.Dense(8), dlcore.Dense(1)], input_shape=(1,))
    with pytest.warns(dlcore.DivergenceWarning):
        history = network.fit(x, x, optimizer=dlcore.SGD(1.0, 0.9), batch_size=16, statistics=True)
    norms = history.layers["0"]["gradient_norm"]
    assert len(norms) == history.epochs == len(history.loss)
    assert math.isnan(norms[-1])
