"""Optimizers and schedules: settings, the rate of each epoch, and that each one trains."""

import copy
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dlcore
from dlcore import _core, schedules

OPTIMIZERS = [
    dlcore.SGD(0.1),
    dlcore.SGD(0.05, momentum=0.9),
    dlcore.SGD(0.05, momentum=0.9, nesterov=True),
    dlcore.SGD(0.1, weight_decay=0.01),
    dlcore.Adam(0.05),
    dlcore.Adam(0.05, betas=(0.8, 0.9), epsilon=1e-6, weight_decay=0.01),
    dlcore.AdamW(0.05),
]


def line(n=64):
    x = np.linspace(-1, 1, n)[:, None]
    return x, 2 * x - 0.5


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_every_optimizer_fits_a_line(optimizer):
    x, y = line()
    network = dlcore.Network([dlcore.Dense(1)], input_shape=(1,), dtype="float64")
    history = network.fit(x, y, optimizer=optimizer, epochs=60, batch_size=16)
    assert history.stopped == "completed"
    # decay keeps the slope a little low; without it the line is met
    assert history.loss[-1] < (0.02 if optimizer.weight_decay == 0.01 else 1e-3)
    assert network.optimizer == optimizer


@pytest.mark.parametrize("second", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("first", OPTIMIZERS, ids=repr)
def test_moments_go_on_with_the_same_rule_alone(first, second):
    """Where the rule or its moments are others, the second fit is one of a network without."""
    x, y = line()
    arguments = {"epochs": 2, "batch_size": 64}
    network = dlcore.Network([dlcore.Dense(1)], input_shape=(1,), dtype="float64")
    network.fit(x, y, optimizer=first, **arguments)
    fresh = copy.deepcopy(network)
    network.fit(x, y, optimizer=second, **arguments)
    fresh.fit(x, y, optimizer=second, **arguments)
    same = all(
        np.array_equal(value, fresh.parameters[name]) for name, value in network.parameters.items()
    )
    states = [getattr(o, "momentum", None) != 0 for o in (first, second)]
    goes_on = type(first) is type(second) and states == [True, True]
    assert same == (not goes_on)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_moments_that_would_be_subnormal_are_zero(dtype, kernels):
    """An optimizer's memory of a gradient that stays 0 would slow the processor down."""
    if kernels == "reference":
        # They are the definition, and subnormal moments are 0 for speed alone (docs/decisions.md).
        pytest.skip("the plain loops keep them")
    smallest = np.finfo(dtype).tiny
    moments = np.array([smallest, 1.5 * smallest, -smallest, 0.0], dtype)
    parameter, gradient = np.ones(4, dtype), np.zeros(4, dtype)
    velocity, first, second = moments.copy(), moments.copy(), np.abs(moments)
    _core.sgd_step(parameter, gradient, velocity, 0.1, 0.9, False, 0.0)
    _core.adam_step(parameter, gradient, first, second, 0.1, 0.9, 0.9, 1e-8, 0.0, False, 1)
    for found, kept in ((velocity, moments), (first, moments), (second, np.abs(moments))):
        np.testing.assert_allclose(found[1], 0.9 * kept[1], rtol=1e-6)
        assert not found[[0, 2, 3]].any()


@pytest.mark.parametrize(
    ("optimizer", "text"),
    [
        (dlcore.SGD(0.1), "SGD(0.1)"),
        (
            dlcore.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
            "SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.0001)",
        ),
        (dlcore.Adam(), "Adam()"),
        (dlcore.Adam(0.01, betas=(0.8, 0.9)), "Adam(0.01, betas=(0.8, 0.9))"),
        (dlcore.AdamW(), "AdamW()"),
        (dlcore.AdamW(weight_decay=0.1, epsilon=1e-6), "AdamW(epsilon=1e-06, weight_decay=0.1)"),
        (
            dlcore.SGD(schedules.Warmup(2, schedules.Cosine(0.1, final=0.01))),
            "SGD(Warmup(2.0, then=Cosine(0.1, final=0.01)))",
        ),
    ],
)
def test_an_optimizer_shows_the_call_that_makes_it(optimizer, text):
    assert repr(optimizer) == text
    assert eval(text, {**vars(dlcore), **vars(schedules)}) == optimizer
    assert copy.deepcopy(optimizer) == optimizer
    assert pickle.loads(pickle.dumps(optimizer)) == optimizer
    with pytest.raises(AttributeError, match=r"is read-only; make a new one$"):
        optimizer.learning_rate = 1.0


def test_the_defaults_are_pytorchs():
    assert dlcore.Adam().settings == {
        "learning_rate": 1e-3,
        "betas": (0.9, 0.999),
        "epsilon": 1e-8,
        "weight_decay": 0.0,
    }
    assert dlcore.AdamW().settings == {**dlcore.Adam().settings, "weight_decay": 1e-2}
    assert dlcore.SGD(0.1).settings == {
        "learning_rate": 0.1,
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
    }


def test_a_number_is_a_constant_schedule():
    assert dlcore.Adam(0.01).schedule == schedules.Constant(0.01)
    assert dlcore.Adam(0.01).learning_rate == 0.01
    cosine = schedules.Cosine(0.1)
    assert dlcore.Adam(cosine).schedule is cosine


SCHEDULES = [
    schedules.Constant(0.05),
    schedules.Step(0.08, epochs=2),
    schedules.Step(0.08, epochs=1.5, factor=0.5),
    schedules.Cosine(0.08),
    schedules.Cosine(0.08, final=0.02),
    schedules.Cosine(0.08, epochs=3),
    schedules.Cosine(0.08, epochs=2.5, final=0.01),
    schedules.Warmup(2, then=0.05),
    schedules.Warmup(0.5, then=schedules.Step(0.08, epochs=2)),
    schedules.Warmup(2.5, then=schedules.Cosine(0.08, epochs=5)),
    schedules.Warmup(10, then=schedules.Cosine(0.08)),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_core_and_python_agree_about_the_rate_of_every_epoch(schedule):
    """The history holds the rate of an epoch's last step."""
    x, y = line(50)
    epochs, batch_size, steps = 6, 8, 7
    network = dlcore.Network([dlcore.Dense(1)], input_shape=(1,))
    history = network.fit(
        x, y, optimizer=dlcore.SGD(schedule), epochs=epochs, batch_size=batch_size
    )
    expected = [
        schedule((epoch * steps + steps - 1) / steps, epochs, steps) for epoch in range(epochs)
    ]
    np.testing.assert_allclose(history.learning_rate, expected, rtol=1e-14, atol=1e-17)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_every_step_follows_its_rate(schedule):
    """With one batch an epoch each record is a step; SGD's step divided by the gradient is the rate."""
    x, y = line(8)
    network = dlcore.Network([dlcore.Dense(1)], input_shape=(1,), dtype="float64")
    epochs = 7
    before = network.parameters
    _, gradient = network.loss_and_gradients(x, y, "mse")
    rates = []

    def measure(record):
        nonlocal before, gradient
        after = network.parameters
        rates.append((before["0.bias"] - after["0.bias"])[0] / gradient["0.bias"][0])
        before = after
        _, gradient = network.loss_and_gradients(x, y, "mse")

    network.fit(x, y, "mse", dlcore.SGD(schedule), epochs=epochs, batch_size=8, on_epoch=measure)
    expected = [schedule(step, epochs, 1) for step in range(epochs)]
    np.testing.assert_allclose(rates, expected, rtol=1e-9, atol=1e-12)


@given(
    st.floats(0, 10),
    st.floats(0.01, 20),
    st.floats(0, 1),
    st.floats(0, 30),
)
def test_cosine_falls_from_its_rate_to_its_end_and_stays(rate, epochs, share, time):
    final = rate * share
    schedule = schedules.Cosine(rate, epochs, final)
    assert schedule(0) == pytest.approx(rate, rel=1e-12, abs=1e-300)
    assert schedule(epochs) == schedule(epochs + time) == pytest.approx(final, rel=1e-9, abs=1e-15)
    assert final * (1 - 1e-12) <= schedule(time) <= rate * (1 + 1e-12)
    assert schedule(epochs / 2) == pytest.approx((rate + final) / 2, rel=1e-9)


@given(st.floats(0.001, 10), st.floats(0.1, 10), st.floats(0.01, 2), st.integers(0, 20))
def test_step_falls_by_its_factor_at_each_multiple(rate, epochs, factor, times):
    schedule = schedules.Step(rate, epochs, factor)
    # just past the drop, clear of the rounding of times * epochs / epochs
    assert schedule(times * epochs * (1 + 1e-9)) == pytest.approx(rate * factor**times)
    assert schedule((times + 0.99) * epochs) == pytest.approx(rate * factor**times)


def test_warmup_rises_by_the_step_and_leads_into_the_schedule():
    schedule = schedules.Warmup(2, then=0.4)
    assert [schedule(step / 4, 10, 4) for step in range(9)] == pytest.approx(
        [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.4]
    )
    assert schedule(1.0) == pytest.approx(0.2)  # the limit of many steps an epoch
    assert schedule.then == schedules.Constant(0.4)


def test_a_schedule_over_the_whole_fit_needs_its_length():
    schedule = schedules.Warmup(1, then=schedules.Cosine(1.0))
    with pytest.raises(
        ValueError, match="^Cosine: spans the whole fit, so its value needs fit_epochs$"
    ):
        schedule(0.5)
    assert schedule(0.5, fit_epochs=1) == pytest.approx(0.25)


def test_the_schedule_starts_again_with_every_fit():
    x, y = line()
    network = dlcore.Network([dlcore.Dense(1)], input_shape=(1,))
    optimizer = dlcore.SGD(schedules.Step(0.1, epochs=1, factor=0.5))
    for _ in range(2):
        history = network.fit(x, y, optimizer=optimizer, epochs=3, batch_size=64)
        assert history.learning_rate == pytest.approx([0.1, 0.05, 0.025])


def test_the_optimizers_state_goes_on_with_the_next_fit():
    """Two fits of one epoch are one fit of two, as long as nothing depends on the epoch."""
    x, y = line()
    for optimizer in (dlcore.SGD(0.05, momentum=0.9), dlcore.Adam(0.05), dlcore.AdamW(0.05)):
        whole = dlcore.Network([dlcore.Dense(1)], input_shape=(1,))
        parts = dlcore.Network([dlcore.Dense(1)], input_shape=(1,))
        whole.fit(x, y, optimizer=optimizer, epochs=2, batch_size=16)
        parts.fit(x, y, optimizer=optimizer, epochs=1, batch_size=16)
        parts.fit(x, y, epochs=1, batch_size=16)  # the same optimizer, remembered
        for name, value in whole.parameters.items():
            np.testing.assert_array_equal(parts.parameters[name], value)


def test_decay_of_adamw_does_not_pass_through_the_moments():
    """Where the gradient is zero AdamW shrinks the weights by exactly 1 - rate * decay a step."""
    network = dlcore.Network([dlcore.Dense(1, bias=False)], input_shape=(1,), dtype="float64")
    network.set_parameters({"0.weight": [[1.0]]})
    x = np.zeros((4, 1))
    network.fit(x, x, optimizer=dlcore.AdamW(0.1, weight_decay=0.5), epochs=3, batch_size=4)
    assert network.parameters["0.weight"][0, 0] == pytest.approx(0.95**3, rel=1e-15)


def test_clipping_bounds_the_step():
    x, y = line(8)
    network = dlcore.Network([dlcore.Dense(1)], input_shape=(1,), dtype="float64")
    before = network.parameters
    _, gradients = network.loss_and_gradients(x, y, "mse", clip_norm=0.01)
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
    assert norm == pytest.approx(0.01, rel=1e-3)
    network.fit(x, y, optimizer=dlcore.SGD(1.0), epochs=1, batch_size=8, clip_norm=0.01)
    for name, value in network.parameters.items():
        np.testing.assert_allclose(before[name] - value, gradients[name], rtol=1e-9)
    # A gradient that is short enough already stays as it is.
    free = network.loss_and_gradients(x, y, "mse")[1]
    loose = network.loss_and_gradients(x, y, "mse", clip_norm=1e6)[1]
    for name, value in free.items():
        np.testing.assert_array_equal(loose[name], value)


@pytest.mark.parametrize(
    ("features", "layers"),
    [
        # Several pieces of parameters; and a panel of weights without anything behind it.
        (300, [dlcore.Dense(250), dlcore.Tanh(), dlcore.Dense(16)]),
        (3, [dlcore.Dense(16, bias=False)]),
    ],
)
def test_clipping_measures_all_parameters(features, layers):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, features)), rng.normal(size=(8, 16))
    network = dlcore.Network(layers, input_shape=(features,), dtype="float64")
    free = network.loss_and_gradients(x, y, "mse")[1]
    norm = math.sqrt(sum(float((g**2).sum()) for g in free.values()))
    factor = 0.01 / (norm + 1e-6)
    assert factor < 0.5
    clipped = network.loss_and_gradients(x, y, "mse", clip_norm=0.01)[1]
    before = network.parameters
    network.fit(x, y, optimizer=dlcore.SGD(1.0), epochs=1, batch_size=8, clip_norm=0.01)
    for name, value in network.parameters.items():
        np.testing.assert_allclose(clipped[name], factor * free[name], rtol=1e-12)
        np.testing.assert_allclose(before[name] - value, factor * free[name], atol=1e-15)
