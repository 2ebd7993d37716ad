"""Products rounded to bfloat16: exact where nothing is rounded, within the bound where it is."""

import numpy as np
import pytest

import dlcore
from dlcore import _core

pytestmark = pytest.mark.skipif(not _core.has_bf16(), reason="this CPU has no AVX-512 BF16")

# Unit roundoff of bfloat16, which keeps 8 bits.
ROUNDING = 2.0**-8


def integers(rng, shape, limit=3):
    return rng.integers(-limit, limit + 1, shape).astype(np.float32)


def network_of_integers(sizes, seed):
    rng = np.random.default_rng(seed)
    layers = []
    for size in sizes[1:-1]:
        layers += [dlcore.Dense(size), dlcore.ReLU()]
    network = dlcore.Network([*layers, dlcore.Dense(sizes[-1])], input_shape=(sizes[0],))
    network.set_parameters(
        {name: integers(rng, value.shape, 1) for name, value in network.parameters.items()}
    )
    return network


@pytest.mark.parametrize("batch", [1, 2, 8, 16])
@pytest.mark.parametrize(
    "sizes", [(1, 1), (3, 2), (31, 2), (32, 4), (33, 8), (5, 7, 2), (6, 33, 4), (7, 40, 9, 1)]
)
def test_integers_give_the_bits_of_float32(sizes, batch):
    """Small integers and powers of two are exact in both, in any order of summation."""
    rng = np.random.default_rng(batch)
    x = integers(rng, (batch, sizes[0]), 2)
    single, rounded = (network_of_integers(sizes, 0) for _ in range(2))
    # Targets beside the outputs, so that residuals are small; batch * outputs is a power of two
    # or, with 9 hidden units, one output.
    y = single(x) + integers(rng, (batch, sizes[-1]), 2)
    options = {"loss": "mse", "optimizer": dlcore.SGD(0.5), "epochs": 1, "batch_size": batch}
    single.fit(x, y, **options)
    rounded.fit(x, y, precision="bf16", **options)
    for name, value in single.parameters.items():
        np.testing.assert_array_equal(rounded.parameters[name], value, err_msg=name)


@pytest.mark.parametrize(("batch", "inputs", "outputs"), [(1, 1, 1), (7, 33, 5), (64, 784, 40)])
def test_one_step_is_within_the_bound(batch, inputs, outputs):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, inputs)).astype(np.float32)
    y = rng.normal(size=(batch, outputs)).astype(np.float32)
    network = dlcore.Network([dlcore.Dense(outputs)], input_shape=(inputs,))
    weight = network.parameters["0.weight"].astype(np.float64)
    wide = x.astype(np.float64)
    share = 2 / y.size
    slope = share * (wide @ weight.T - y)
    gradient = slope.T @ wide
    # Each factor is off by one rounding, a product by two and a little; sums of float32 by less.
    two = 2 * ROUNDING + ROUNDING**2 + (inputs + batch + 8) * 2.0**-23
    slope_error = share * two * (np.abs(wide) @ np.abs(weight.T)) + 2.0**-22 * np.abs(slope)
    bound = slope_error.T @ np.abs(wide) + two * (np.abs(slope) + slope_error).T @ np.abs(wide)
    network.fit(
        x, y, loss="mse", optimizer=dlcore.SGD(1.0), epochs=1, batch_size=batch, precision="bf16"
    )
    moved = weight - network.parameters["0.weight"]
    assert (np.abs(moved - gradient) <= bound + 2.0**-23 * np.abs(weight)).all()
    assert np.abs(moved - gradient).max() > 0  # something was rounded


def test_the_bits_do_not_depend_on_threads():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 300)).astype(np.float32)
    y = rng.integers(0, 10, 600)
    results = []
    for threads in (1, 2, 3, 7):
        layers = [dlcore.Dense(257), dlcore.GELU(), dlcore.Dropout(0.2), dlcore.Dense(10)]
        network = dlcore.Network(layers, input_shape=(300,))
        network.fit(x, y, epochs=2, batch_size=200, precision="bf16", threads=threads)
        results.append(network.parameters)
    for other in results[1:]:
        for name, value in results[0].items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)


def test_a_float64_network_refuses():
    network = dlcore.Network([dlcore.Dense(2)], input_shape=(3,), dtype="float64")
    with pytest.raises(ValueError, match="needs to be None in a float64 network"):
        network.fit(np.ones((4, 3)), [0, 1, 0, 1], precision="bf16")
