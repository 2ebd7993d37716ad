"""A fit that was interrupted and called again ends with the bits of one that was not."""

from __future__ import annotations

import contextlib
import itertools
import warnings

import numpy as np
import pytest

import dlcore
from dlcore import checkpoint
from dlcore.history import DivergenceWarning

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(150, 6)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] > 0).astype(int)
QUANTITY = (X[:, 0] - X[:, 2]).astype(np.float32)

FITS = {
    "adam and a cosine": {"optimizer": dlcore.Adam(dlcore.schedules.Cosine(0.01))},
    "momentum and steps": {
        "optimizer": dlcore.SGD(dlcore.schedules.Step(0.1, 2), 0.9),
        "shuffle": False,
    },
    "plain descent": {"optimizer": dlcore.SGD(0.1), "batch_size": 150},
    "stopped early": {
        "optimizer": dlcore.Adam(0.05),
        "epochs": 60,
        "validation_data": (X[:40], Y[:40]),
        "early_stopping": dlcore.EarlyStopping(4),
    },
    "worse from the first epoch on": {
        "optimizer": dlcore.Adam(0.05),
        "validation_data": (X[:40], 1 - Y[:40]),
        "early_stopping": dlcore.EarlyStopping(6),
    },
    "clipped, weighted, measured": {
        "optimizer": dlcore.AdamW(0.02),
        "clip_norm": 0.5,
        "class_weight": "balanced",
        "statistics": True,
    },
}


@pytest.fixture(autouse=True)
def _every_epoch(monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)


def network(dtype="float32", outputs=2, seed=1):
    layers = [dlcore.Dense(16), dlcore.ReLU(), dlcore.Dropout(0.2), dlcore.Dense(outputs)]
    return dlcore.Network(layers, input_shape=(6,), seed=seed, dtype=dtype)


def interrupted_at(epoch):
    """A listener that ends the fit as Ctrl-C would, in the middle of the epoch after this one."""

    def listen(record):
        if record["epoch"] == epoch:
            raise KeyboardInterrupt

    return listen


def same(one, other) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def told(history):
    return [
        (name, values)
        for name, values in history.items()
        if name not in ("seconds", "examples_per_second")
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fit", FITS)
def test_goes_on_with_the_same_bits(fit, dtype, tmp_path):
    options = {"epochs": 8, "batch_size": 32, "seed": 3, **FITS[fit]}
    whole = network(dtype)
    expected = whole.fit(X, Y, **options)
    path = tmp_path / "fit.checkpoint"
    for epoch in (2, 3, 5):
        twin = network(dtype)
        with pytest.raises(KeyboardInterrupt):
            twin.fit(X, Y, **options, checkpoint=path, on_epoch=interrupted_at(epoch))
        assert path.exists()
    seen = []
    twin = network(dtype)
    history = twin.fit(X, Y, **options, checkpoint=path, on_epoch=lambda r: seen.append(r["epoch"]))
    # The state is that of the beginning of an epoch: the one that was interrupted is done again.
    assert seen[0] == 5 and seen[-1] == expected.epochs
    assert same(whole.parameters, twin.parameters)
    assert told(history) == told(expected)
    assert str(history.layers) == str(expected.layers)  # NaN is as NaN was
    assert (history.stopped, history.best_epoch) == (expected.stopped, expected.best_epoch)
    assert not path.exists()
    whole.fit(X, Y, epochs=2), twin.fit(X, Y, epochs=2)
    assert same(whole.parameters, twin.parameters)  # the optimizer's moments and steps too


def test_quantities_and_several_calls_of_fit(tmp_path):
    whole, twin = network(outputs=1), network(outputs=1)
    for member in (whole, twin):
        member.fit(X, QUANTITY, epochs=2, optimizer=dlcore.Adam(0.01))
    whole.fit(X, QUANTITY, epochs=5)
    path = tmp_path / "fit.checkpoint"
    kept = twin.parameters
    with pytest.raises(KeyboardInterrupt):
        twin.fit(X, QUANTITY, epochs=5, checkpoint=path, on_epoch=interrupted_at(3))
    again = network(outputs=1)
    again.fit(X, QUANTITY, epochs=2, optimizer=dlcore.Adam(0.01))
    assert same(kept, again.parameters)
    again.fit(X, QUANTITY, epochs=5, checkpoint=path)
    assert same(whole.parameters, again.parameters)


@pytest.mark.parametrize("rate", [1.7, 1.8, 2.1])  # at step 4, 1 and 2 of an epoch
def test_a_fit_that_diverges_after_it_was_interrupted(rate, tmp_path):
    """It goes back to the same finite state, which the first step of an epoch finds one before."""
    options = {"epochs": 12, "batch_size": 32, "optimizer": dlcore.SGD(rate)}
    data = (X, QUANTITY)

    def line():
        return dlcore.Network([dlcore.Dense(1)], input_shape=(6,), seed=1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)
        whole = line()
        expected = whole.fit(*data, **options)
        assert expected.stopped == "diverged" and expected.epochs > 6
        for epoch in range(1, expected.epochs):
            path = tmp_path / f"{epoch}.checkpoint"
            with contextlib.suppress(KeyboardInterrupt):
                line().fit(*data, **options, checkpoint=path, on_epoch=interrupted_at(epoch))
            twin = line()
            history = twin.fit(*data, **options, checkpoint=path)
            assert history.message == expected.message
            assert same(whole.parameters, twin.parameters)


def test_a_fleet_goes_on(tmp_path):
    def fleet():
        return [network(seed=k) for k in range(3)]

    options = {"epochs": [3, 6, 9], "batch_size": 32, "seed": [4, 5, 6], "threads": 1}
    whole = fleet()
    dlcore.fit_many(whole, X, Y, **options)
    paths = [tmp_path / str(k) for k in range(3)]
    stop = [None, interrupted_at(4), None]  # the longest, 2, is done by then
    with pytest.raises(KeyboardInterrupt):
        dlcore.fit_many(fleet(), X, Y, **options, checkpoint=paths, on_epoch=stop)
    assert [path.exists() for path in paths] == [False, True, True]
    twins = fleet()
    epochs = []
    histories = dlcore.fit_many(
        twins,
        X,
        Y,
        **options,
        checkpoint=[None, *paths[1:]],
        on_epoch=lambda r: epochs.append((r["network"], r["epoch"])),
    )
    assert [h.epochs for h in histories] == [3, 6, 9]
    assert epochs == [(2, 9), (1, 4), (1, 5), (1, 6), (0, 1), (0, 2), (0, 3)]
    for one, other in zip(whole, twins, strict=True):
        assert same(one.parameters, other.parameters)
    assert not any(path.exists() for path in paths)
    with pytest.raises(TypeError, match="fit_many: checkpoint needs a list with one path for each"):
        dlcore.fit_many(fleet(), X, Y, checkpoint=tmp_path / "one")


def test_another_fit_or_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "fit.checkpoint"
    options = {"epochs": 5, "checkpoint": path}
    with pytest.raises(KeyboardInterrupt):
        network().fit(X, Y, **options, on_epoch=interrupted_at(2))
    whole = path.read_bytes()
    other = "fit: cannot go on from checkpoint .*: it is of another fit: network, param"
    for member, y, change in (
        (network(seed=2), Y, {}),
        (network(), 1 - Y, {}),
        (network(), Y, {"seed": 1}),
        (network(), Y, {"optimizer": dlcore.SGD(0.1)}),
        (network(), Y, {"batch_size": 7}),
        (network(), Y, {"epochs": 6}),
    ):
        before = member.parameters
        with pytest.raises(ValueError, match=other):
            member.fit(X, y, **{**options, **change})
        assert same(before, member.parameters)
    random = np.random.default_rng(1)
    for _ in range(60):
        broken = bytearray(whole)
        at = random.integers(len(broken))
        broken[at] ^= 1 << random.integers(8)
        path.write_bytes(bytes(broken[: random.integers(at, len(broken) + 1)]))
        with pytest.raises(ValueError, match=r"cannot go on from checkpoint .*; remove the file"):
            network().fit(X, Y, **options)
    path.write_bytes(whole)
    assert network().fit(X, Y, **options).epochs == 5


def test_paths_that_cannot_be_used(tmp_path):
    with pytest.raises(TypeError, match="fit: checkpoint needs a path, found 3"):
        network().fit(X, Y, checkpoint=3)
    with pytest.raises(ValueError, match="fit: checkpoint needs a folder that exists, found"):
        network().fit(X, Y, checkpoint=tmp_path / "none" / "fit.checkpoint")


def test_writing_takes_a_small_part_of_the_time(tmp_path, monkeypatch):
    """A slow disk is written to less often: 19 times what writing took passes before the next."""
    import time

    written = []

    def slow(*arguments):
        begin = time.monotonic()
        time.sleep(0.01)
        written.append((begin, time.monotonic()))

    monkeypatch.setattr(checkpoint, "SECONDS", 0.001)
    monkeypatch.setattr(checkpoint.files, "write", slow)
    stop_after = time.monotonic() + 2
    network().fit(
        X,
        Y,
        epochs=1_000_000,
        batch_size=8,
        checkpoint=tmp_path / "c",
        on_epoch=lambda record: time.monotonic() < stop_after or len(written) < 3,
    )
    for (begin, end), (following, _) in itertools.pairwise(written):
        assert following - end >= 19 * (end - begin)
