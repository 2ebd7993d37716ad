"""What a network says of itself: parameters, counts, summary, its repr, copies."""

import copy
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

import dlcore
from test_network import blobs, classifier, weights_equal


def test_parameters_are_a_read_only_snapshot():
    x, y = blobs()
    network = classifier()
    before = network.parameters
    values = {name: value.copy() for name, value in before.items()}
    with pytest.raises(TypeError):
        before["0.bias"] = np.zeros(16)
    with pytest.raises(ValueError, match="read-only"):
        before["0.bias"][0] = 1
    network.fit(x, y, epochs=1)
    for name, value in values.items():
        np.testing.assert_array_equal(before[name], value)
        assert not np.array_equal(network.parameters[name], value)
        assert value.dtype == np.float32


def test_set_parameters_takes_a_part_and_converts():
    network = classifier()
    before = network.parameters
    bias = list(range(16))
    network.set_parameters({"0.bias": bias})
    np.testing.assert_array_equal(network.parameters["0.bias"], bias)
    assert network.parameters["0.bias"].dtype == np.float32
    np.testing.assert_array_equal(network.parameters["0.weight"], before["0.weight"])
    weight = np.arange(64.0).reshape(4, 16).T  # not contiguous, float64
    network.set_parameters({"0.weight": weight})
    np.testing.assert_array_equal(network.parameters["0.weight"], weight)
    network.set_parameters(before)
    for name, value in before.items():
        np.testing.assert_array_equal(network.parameters[name], value)
    network.set_parameters({})


def test_set_parameters_sets_all_or_nothing():
    network = classifier()
    before = network.parameters
    bad = [
        {"0.bias": np.ones(16), "1.bias": np.ones(3)},
        {"0.bias": np.ones(16), "2.bias": np.ones(4)},
        {"0.bias": np.ones(16), "2.bias": [0, np.inf, 0]},
        {"0.bias": np.ones(16), "2.bias": [0, 1e39, 0]},  # beyond float32
    ]
    for parameters in bad:
        with pytest.raises(ValueError, match="^set_parameters: "):
            network.set_parameters(parameters)
        np.testing.assert_array_equal(network.parameters["0.bias"], before["0.bias"])


def test_set_parameters_takes_what_pytorch_gives():
    """nn.Linear computes x @ weight.T + bias, and so do we, with the same names."""
    state = {
        "0.weight": np.array([[1.0, 2.0], [0.0, -1.0], [3.0, 0.5]]),
        "0.bias": np.array([0.1, 0.2, 0.3]),
        "2.weight": np.array([[1.0, -1.0, 2.0]]),
        "2.bias": np.array([0.5]),
    }
    network = dlcore.Network(
        [dlcore.Dense(3), dlcore.ReLU(), dlcore.Dense(1)], input_shape=(2,), dtype="float64"
    )
    network.set_parameters(state)
    x = np.array([[0.3, -0.7], [1.0, 2.0]])
    hidden = np.maximum(x @ state["0.weight"].T + state["0.bias"], 0)
    np.testing.assert_allclose(network(x), hidden @ state["2.weight"].T + state["2.bias"])


def test_counts_of_parameters_and_operations():
    network = dlcore.Network(
        [dlcore.Dense(256), dlcore.ReLU(), dlcore.Dense(10, bias=False)], input_shape=(784,)
    )
    assert network.parameter_count == 784 * 256 + 256 + 256 * 10
    # forward and weight gradient of both layers, input gradient of the second only
    assert network.flops_per_example == 4 * 784 * 256 + 6 * 256 * 10
    rows = dlcore.Network([dlcore.Flatten(), dlcore.Dense(2)], input_shape=(3, 5))
    assert rows.flops_per_example == 4 * 15 * 2
    each = dlcore.Network([dlcore.Dense(2)], input_shape=(3, 5))
    assert each.flops_per_example == 3 * 4 * 5 * 2


def test_summary_is_a_table():
    network = dlcore.Network(
        [
            dlcore.Flatten(),
            [dlcore.Dense(32), dlcore.Tanh()],
            dlcore.Residual([dlcore.Dense(32, bias=False), dlcore.LeakyReLU(0.1)]),
            dlcore.Dense(10, initializer="lecun_normal"),
        ],
        input_shape=(28, 28),
    )
    expected = """\
name  layer                                  output shape  parameters
0     Flatten()                              (784,)                 0
1.0   Dense(32)                              (32,)             25,120
1.1   Tanh()                                 (32,)                  0
2     Residual                               (32,)
2.0   Dense(32, bias=False)                  (32,)              1,024
2.1   LeakyReLU(0.1)                         (32,)                  0
3     Dense(10, initializer='lecun_normal')  (10,)                330
26,474 parameters (105.9 kB in float32); 108,416 FLOP per example and training step"""
    assert str(network.summary()) == expected
    assert repr(network.summary()) == expected  # as an interactive session shows it


def test_summary_states_the_memory_of_a_fit():
    network = classifier()
    sgd, adam = dlcore.SGD(0.1), dlcore.Adam()
    text = network.summary(batch_size=64, optimizer=sgd)
    last = text.splitlines()[-1]
    form = r"fit at batch_size=64 with SGD\(0\.1\) takes [\d.]+ kB beside the data: parameters [\d.]+ kB"
    assert re.match(form, last)
    assert " 0 bytes" not in last
    assert text.splitlines()[:-1] == network.summary().splitlines()
    # What None means before any fit, and afterwards.
    assert network.summary(batch_size=64) == network.summary(batch_size=64, optimizer=adam)
    x, y = blobs()
    network.fit(x, y, optimizer=sgd, epochs=1)
    assert network.summary(batch_size=64) == text
    # Everything that takes memory shows.
    for option, part in [
        ({"optimizer": adam}, "optimizer state"),
        ({"examples": 1000}, "permutation"),
        ({"clip_norm": True}, "gradients"),
    ]:
        assert part not in last
        assert part in network.summary(batch_size=64, **option)
    for option in ("validation", "early_stopping"):
        assert network.summary(batch_size=64, **{option: True}) != text


MEMORY = """
import resource
import numpy as np
import dlcore
network = dlcore.Network(
    [dlcore.Dense(1024), dlcore.ReLU(), dlcore.Dense(1024), dlcore.Tanh(), dlcore.Dense(10)],
    input_shape=(784,),
)
x = np.zeros((600, 784), np.float32)
x[:] = 0.5
y = np.arange(600) % 10
validation = x[:500], y[:500]
optimizer = dlcore.Adam()
small = dlcore.Network([dlcore.Dense(10)], input_shape=(784,))
small.fit(x, y, "cross_entropy", optimizer, epochs=1, batch_size=500, validation_data=validation)
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
network.fit(
    x, y, "cross_entropy", optimizer, epochs=1, batch_size=500, validation_data=validation,
    early_stopping=dlcore.EarlyStopping(5),
)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - start
stated = network._core.memory(500, optimizer._native(), True, True, 600, False)
print(grown, stated["total"] - stated["parameters"])
"""


def test_a_fit_takes_the_memory_that_is_stated():
    """The peak of a process of its own, from before the fit to after it."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=60, check=True
    )
    grown, stated = map(int, done.stdout.split())
    assert stated > 10_000_000
    assert grown <= 1.1 * stated


def test_repr_builds_the_network_again():
    network = dlcore.Network(
        [dlcore.Dense(4), [dlcore.ReLU()], dlcore.Residual([dlcore.Dense(4)]), dlcore.Dense(1)],
        input_shape=3,
        seed=7,
        dtype="float64",
    )
    text = repr(network)
    assert text == (
        "Network([Dense(4), [ReLU()], Residual([Dense(4)]), Dense(1)], input_shape=(3,), seed=7, "
        "dtype='float64')"
    )
    assert weights_equal(network, eval(text, vars(dlcore).copy()))
    assert repr(classifier()) == (
        "Network([Dense(16), ReLU(), Dense(3)], input_shape=(4,), seed=0)"
    )


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_is_equal_and_separate(duplicate):
    x, y = blobs()
    network = classifier()
    network.fit(x, y, optimizer=dlcore.SGD(0.1), epochs=2, batch_size=16, input_scale=0.5)
    twin = duplicate(network)
    assert repr(twin) == repr(network)
    assert weights_equal(twin, network)
    assert (twin.loss, twin.optimizer, twin.input_scale) == (
        network.loss,
        network.optimizer,
        network.input_scale,
    )
    np.testing.assert_array_equal(twin.predict(x), network.predict(x))
    twin.fit(x, y, epochs=1, batch_size=16)
    assert not weights_equal(twin, network)
    network.fit(x, y, epochs=1, batch_size=16)
    assert weights_equal(twin, network)


def test_attributes_describe_the_network():
    network = dlcore.Network(
        [dlcore.Flatten(), dlcore.Dense(5)], input_shape=[2, np.int64(3)], seed=np.uint64(2**64 - 1)
    )
    assert network.input_shape == (2, 3)
    assert network.output_shape == (5,)
    assert network.layers == (dlcore.Flatten(), dlcore.Dense(5))
    assert network.seed == 2**64 - 1
    assert (network.dtype, network.device) == ("float32", "cpu")
    assert dlcore.Network([dlcore.Dense(1)], 3, dtype=np.float64).dtype == "float64"


def test_a_network_without_parameters_computes():
    network = dlcore.Network([dlcore.Identity()], input_shape=(2,))
    assert dict(network.parameters) == {}
    assert network.parameter_count == network.flops_per_example == 0
    x = np.array([[1.0, -2.0]], np.float32)
    np.testing.assert_array_equal(network(x), x)
    assert network.output_shape == (2,)
    loss, gradients = network.loss_and_gradients(x, x + 1, "mse")
    assert (loss, dict(gradients)) == (1, {})
    assert network.fit(x, x + 1, "mse", epochs=1, batch_size=1).loss == [1]
    assert network.summary(batch_size=4)
