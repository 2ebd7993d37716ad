"""Layers: their settings, how they connect, the names of their parameters, initial weights."""

import copy
import pickle

import numpy as np
import pytest

import dlcore
from dlcore import initializers

ACTIVATIONS = [
    dlcore.ReLU(),
    dlcore.LeakyReLU(),
    dlcore.LeakyReLU(0.2),
    dlcore.Sigmoid(),
    dlcore.Tanh(),
    dlcore.GELU(),
    dlcore.GELU("tanh"),
    dlcore.SiLU(),
    dlcore.Softplus(),
]


def shapes(network):
    return {name: value.shape for name, value in network.parameters.items()}


# PyTorch's names: nn.Sequential numbers its modules, a module inside one gets "outer.inner".
@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (
            [dlcore.Dense(4), dlcore.ReLU(), dlcore.Dense(2)],
            {"0.weight": (4, 3), "0.bias": (4,), "2.weight": (2, 4), "2.bias": (2,)},
        ),
        ([dlcore.Identity(), dlcore.Dense(2, bias=False)], {"1.weight": (2, 3)}),
        (
            [dlcore.Dropout(0.1), dlcore.Flatten(), dlcore.Dense(1)],
            {"2.weight": (1, 3), "2.bias": (1,)},
        ),
        (
            [[dlcore.Dense(4), dlcore.ReLU()], dlcore.Dense(2)],
            {"0.0.weight": (4, 3), "0.0.bias": (4,), "1.weight": (2, 4), "1.bias": (2,)},
        ),
        (
            [dlcore.Dense(5), dlcore.Residual([dlcore.ReLU(), dlcore.Dense(5)]), dlcore.Dense(2)],
            {
                "0.weight": (5, 3),
                "0.bias": (5,),
                "1.1.weight": (5, 5),
                "1.1.bias": (5,),
                "2.weight": (2, 5),
                "2.bias": (2,),
            },
        ),
        (
            [dlcore.Residual([[dlcore.Dense(3)], dlcore.Residual([dlcore.Dense(3)])])],
            {
                "0.0.0.weight": (3, 3),
                "0.0.0.bias": (3,),
                "0.1.0.weight": (3, 3),
                "0.1.0.bias": (3,),
            },
        ),
    ],
)
def test_parameters_have_the_names_and_shapes_of_a_sequential(layers, expected):
    network = dlcore.Network(layers, input_shape=(3,))
    assert shapes(network) == expected
    assert list(network.parameters) == list(expected)
    assert network.parameter_count == sum(int(np.prod(shape)) for shape in expected.values())


def test_dense_maps_the_last_axis_and_flatten_joins_them():
    network = dlcore.Network([dlcore.Dense(5)], input_shape=(2, 3))
    assert shapes(network) == {"0.weight": (5, 3), "0.bias": (5,)}
    assert network.output_shape == (2, 5)
    x = np.random.default_rng(0).normal(size=(4, 2, 3))
    weight, bias = network.parameters["0.weight"], network.parameters["0.bias"]
    np.testing.assert_allclose(network(x), x @ weight.T + bias, rtol=1e-5, atol=1e-6)

    flat = dlcore.Network([dlcore.Flatten(), dlcore.Dense(5)], input_shape=(2, 3))
    assert shapes(flat) == {"1.weight": (5, 6), "1.bias": (5,)}
    weight, bias = flat.parameters["1.weight"], flat.parameters["1.bias"]
    np.testing.assert_allclose(flat(x), x.reshape(4, 6) @ weight.T + bias, rtol=1e-5, atol=1e-6)


def test_residual_adds_what_went_in():
    network = dlcore.Network([dlcore.Residual([dlcore.Dense(3), dlcore.Tanh()])], input_shape=(3,))
    x = np.random.default_rng(0).normal(size=(4, 3))
    weight, bias = network.parameters["0.0.weight"], network.parameters["0.0.bias"]
    np.testing.assert_allclose(network(x), x + np.tanh(x @ weight.T + bias), rtol=1e-5, atol=1e-6)


def test_residual_of_the_identity_doubles():
    network = dlcore.Network([dlcore.Residual([dlcore.Identity()])], input_shape=(2,))
    np.testing.assert_array_equal(network([[1.0, -2.0]]), [[2.0, -4.0]])


def test_a_layer_used_twice_has_two_sets_of_weights():
    dense = dlcore.Dense(3)
    network = dlcore.Network([dense, dense], input_shape=(3,))
    assert list(network.parameters) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert not np.array_equal(network.parameters["0.weight"], network.parameters["1.weight"])


@pytest.mark.parametrize(
    "layer",
    [
        *ACTIVATIONS,
        dlcore.Identity(),
        dlcore.Dropout(0.1),
        dlcore.Flatten(),
        dlcore.Residual([dlcore.Dense(8), dlcore.ReLU()]),
        [dlcore.Dense(8), dlcore.Tanh()],
    ],
    ids=repr,
)
def test_every_layer_trains_for_ten_steps(layer):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    network = dlcore.Network([dlcore.Dense(8), layer, dlcore.Dense(2)], input_shape=(4,), seed=1)
    before = network.parameters
    loss = network.evaluate(x, y)["loss"]
    history = network.fit(x, y, optimizer=dlcore.SGD(0.3), epochs=5, batch_size=32)
    assert history.stopped == "completed"
    assert network.evaluate(x, y)["loss"] < loss
    after = network.parameters
    assert all(not np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("layer", [*ACTIVATIONS, dlcore.Dropout(0.4)], ids=repr)
def test_dropout_and_activations_act_element_by_element(layer):
    network = dlcore.Network([layer], input_shape=(2, 3))
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    y = network(x)
    assert y.shape == x.shape
    np.testing.assert_array_equal(network(x[::-1, ::-1, ::-1]), y[::-1, ::-1, ::-1])
    assert not np.array_equal(y, x) or isinstance(layer, dlcore.Dropout)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (dlcore.Dense(3), "Dense(3)"),
        (dlcore.Dense(units=3, bias=True, initializer="he_normal"), "Dense(3)"),
        (dlcore.Dense(3, False), "Dense(3, bias=False)"),
        (dlcore.Dense(3, initializer="zeros"), "Dense(3, initializer='zeros')"),
        (dlcore.ReLU(), "ReLU()"),
        (dlcore.LeakyReLU(0.01), "LeakyReLU()"),
        (dlcore.LeakyReLU(0.2), "LeakyReLU(0.2)"),
        (dlcore.GELU("tanh"), "GELU('tanh')"),
        (dlcore.Dropout(), "Dropout()"),
        (dlcore.Dropout(0.2), "Dropout(0.2)"),
        (
            dlcore.Residual([dlcore.ReLU(), [dlcore.Dense(2)]]),
            "Residual([ReLU(), [Dense(2)]])",
        ),
    ],
)
def test_a_layer_shows_the_call_that_makes_it(layer, text):
    assert repr(layer) == text
    again = eval(text, vars(dlcore).copy())
    assert again == layer
    assert hash(again) == hash(layer)


def test_layers_compare_by_their_settings():
    assert dlcore.Dense(3) != dlcore.Dense(4)
    assert dlcore.ReLU() != dlcore.Tanh()
    assert dlcore.ReLU() == dlcore.ReLU()
    assert dlcore.Dense(3) != "Dense(3)"
    assert len({dlcore.Dense(3), dlcore.Dense(3), dlcore.Dense(4)}) == 2


@pytest.mark.parametrize("layer", [*ACTIVATIONS, dlcore.Residual([dlcore.Dense(2)])], ids=repr)
def test_layers_can_be_copied_and_pickled(layer):
    assert copy.deepcopy(layer) == layer
    assert pickle.loads(pickle.dumps(layer)) == layer


def test_layers_are_read_only():
    layer = dlcore.Dense(3)
    assert (layer.units, layer.bias, layer.initializer) == (3, True, "he_normal")
    with pytest.raises(AttributeError, match="^Dense is read-only; make a new one$"):
        layer.units = 4
    with pytest.raises(AttributeError, match="^Dense is read-only; make a new one$"):
        del layer.units


def test_numpy_numbers_are_settings_too():
    layer = dlcore.Dense(np.int32(3), bias=np.bool_(True))
    assert layer == dlcore.Dense(3)
    assert type(layer.units) is int
    assert type(layer.bias) is bool
    assert type(dlcore.Dropout(np.float32(0.5)).p) is float


# Variance of the weights by initializer, for in = 300 and out = 100.
VARIANCE = {
    "he_normal": 2 / 300,
    "he_uniform": 2 / 300,
    "glorot_normal": 2 / 400,
    "glorot_uniform": 2 / 400,
    "lecun_normal": 1 / 300,
    "lecun_uniform": 1 / 300,
    "orthogonal": 1 / 300,
    "zeros": 0.0,
}


@pytest.mark.parametrize("name", initializers.NAMES)
def test_initial_weights_have_the_variance_of_their_formula(name):
    network = dlcore.Network(
        [dlcore.Dense(100, initializer=name)], input_shape=(300,), dtype="float64"
    )
    weight = network.parameters["0.weight"]
    assert weight.shape == (100, 300)
    # 30,000 draws: the mean is known to s / 173, the variance to 0.8 %; five of those
    spread = np.sqrt(VARIANCE[name])
    assert abs(weight.mean()) <= 5 * spread / 173
    assert weight.var() == pytest.approx(VARIANCE[name], rel=0.041, abs=0)
    np.testing.assert_array_equal(network.parameters["0.bias"], np.zeros(100))


@pytest.mark.parametrize("scheme", ["he", "glorot", "lecun"])
def test_normal_and_uniform_weights_differ_in_their_tails(scheme):
    spread = np.sqrt(VARIANCE[f"{scheme}_normal"])
    uniform = initializers.draw(f"{scheme}_uniform", 100, 300)
    assert np.abs(uniform).max() <= np.sqrt(3) * spread
    assert np.abs(uniform).max() > 0.999 * np.sqrt(3) * spread
    normal = initializers.draw(f"{scheme}_normal", 100, 300)
    # P(|z| > sqrt(3)) = 0.0833 for a normal, none for a uniform; its standard error is 0.0016
    assert np.mean(np.abs(normal) > np.sqrt(3) * spread) == pytest.approx(0.0833, abs=0.008)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 3), (5, 2), (2, 5), (64, 32)])
def test_orthogonal_weights_are_orthonormal(rows, columns):
    weight = initializers.draw("orthogonal", rows, columns, seed=3)
    gram = weight @ weight.T if rows <= columns else weight.T @ weight
    np.testing.assert_allclose(gram, np.eye(min(rows, columns)), atol=1e-13)


def test_orthogonal_weights_are_uniform_over_rotations():
    # Without fixing the signs of QR, the diagonal of small matrices would have one sign only.
    signs = [np.sign(initializers.draw("orthogonal", 2, 2, seed=seed)[0, 0]) for seed in range(200)]
    assert 60 <= signs.count(1.0) <= 140


def test_initial_weights_follow_from_seed_and_place_alone():
    first = initializers.draw("he_normal", 4, 3, seed=1, layer=2)
    np.testing.assert_array_equal(first, initializers.draw("he_normal", 4, 3, seed=1, layer=2))
    assert not np.array_equal(first, initializers.draw("he_normal", 4, 3, seed=2, layer=2))
    assert not np.array_equal(first, initializers.draw("he_normal", 4, 3, seed=1, layer=3))
    # A seed above 32 bits is a different key.
    other = initializers.draw("he_normal", 4, 3, seed=1 + 2**32, layer=2)
    assert not np.array_equal(first, other)

    layers = [dlcore.Identity(), dlcore.Dense(4), dlcore.ReLU(), dlcore.Dense(2)]
    network = dlcore.Network(layers, input_shape=(3,), seed=1, dtype="float64")
    # The identity makes no node, so the dense layers are nodes 1 and 3.
    for name, rows, columns, node in (("1", 4, 3, 1), ("3", 2, 4, 3)):
        expected = initializers.draw("he_normal", rows, columns, seed=1, layer=node)
        np.testing.assert_array_equal(network.parameters[f"{name}.weight"], expected)


def test_float32_weights_are_the_float64_weights_rounded():
    double = dlcore.Network([dlcore.Dense(7)], input_shape=(5,), seed=9, dtype="float64")
    single = dlcore.Network([dlcore.Dense(7)], input_shape=(5,), seed=9)
    rounded = double.parameters["0.weight"].astype(np.float32)
    np.testing.assert_array_equal(single.parameters["0.weight"], rounded)
