"""Networks as their users see them: training, predicting, seeds, weights of examples and classes."""

import copy

import numpy as np
import pytest

import dlcore
from dlcore import losses


def blobs(n=120, classes=3, features=4, seed=0):
    """Gaussian clouds that a linear network tells apart."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centres = 3 * rng.normal(size=(classes, features))
    return (centres[y] + rng.normal(size=(n, features))).astype(np.float32), y


def classifier(classes=3, features=4, seed=0, dtype="float32"):
    return dlcore.Network(
        [dlcore.Dense(16), dlcore.ReLU(), dlcore.Dense(classes)],
        input_shape=(features,),
        seed=seed,
        dtype=dtype,
    )


def weights_equal(a, b):
    return all(np.array_equal(value, b.parameters[name]) for name, value in a.parameters.items())


# Training, predicting, evaluating.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_classes_are_learnt_and_predicted_as_probabilities(dtype):
    x, y = blobs()
    network = classifier(dtype=dtype)
    history = network.fit(x, y, optimizer=dlcore.Adam(0.02), epochs=20, batch_size=16)
    assert history.loss[-1] < history.loss[0] / 2
    assert history.accuracy[-1] > 0.95
    probabilities = network.predict(x)
    assert probabilities.shape == (120, 3)
    assert probabilities.dtype == dtype
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    logits = network(x)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)

    measured = network.evaluate(x, y)
    assert list(measured) == ["loss", "accuracy"]
    assert measured["accuracy"] == np.mean(probabilities.argmax(axis=1) == y)
    assert measured["loss"] == pytest.approx(-np.log(expected[np.arange(120), y]).mean(), rel=1e-4)


def test_one_output_and_classes_of_0_and_1_make_a_binary_classifier():
    x, y = blobs(classes=2)
    network = classifier(classes=1)
    network.fit(x, y, optimizer=dlcore.Adam(0.02), epochs=20, batch_size=16)
    assert network.loss == losses.BinaryCrossEntropy()
    probabilities = network.predict(x)
    assert probabilities.shape == (120, 1)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-network(x))), rtol=1e-5, atol=1e-7)
    accuracy = np.mean((probabilities[:, 0] > 0.5) == y)
    assert accuracy > 0.95
    assert network.evaluate(x, y)["accuracy"] == pytest.approx(accuracy)
    booleans = classifier(classes=1)
    booleans.fit(x, y == 1, optimizer=dlcore.Adam(0.02), epochs=20, batch_size=16)
    assert weights_equal(network, booleans)


def test_several_labels_at_once():
    x, _ = blobs()
    y = np.stack([x[:, 0] > 0, x[:, 1] > 0, x[:, 0] + x[:, 1] > 0], axis=1)
    network = classifier()
    network.fit(x, y, "binary_cross_entropy", dlcore.Adam(0.02), epochs=30, batch_size=16)
    probabilities = network.predict(x)
    assert ((0 <= probabilities) & (probabilities <= 1)).all()
    measured = network.evaluate(x, y)
    assert measured["accuracy"] == pytest.approx(np.mean((probabilities > 0.5) == y))
    assert measured["accuracy"] > 0.95
    integers = classifier()
    integers.fit(
        x, y.astype(np.int8), "binary_cross_entropy", dlcore.Adam(0.02), epochs=30, batch_size=16
    )
    assert weights_equal(network, integers)


def test_soft_targets_are_learnt():
    x = np.eye(3, dtype=np.float32)
    y = np.array([0.2, 0.5, 0.9])
    network = dlcore.Network([dlcore.Dense(1)], input_shape=(3,))
    network.fit(x, y, "binary_cross_entropy", dlcore.Adam(0.05), epochs=300, batch_size=3)
    np.testing.assert_allclose(network.predict(x)[:, 0], y, atol=0.02)


@pytest.mark.parametrize("loss", ["mse", "huber", losses.Huber(0.5)])
def test_numbers_are_learnt(loss):
    x = np.linspace(-1, 1, 60)[:, None]
    y = np.concatenate([2 * x, 1 - x], axis=1)
    network = dlcore.Network([dlcore.Dense(2)], input_shape=(1,), dtype="float64")
    history = network.fit(x, y, loss, dlcore.Adam(0.05), epochs=100, batch_size=20)
    assert "accuracy" not in history
    np.testing.assert_allclose(network.predict(x), y, atol=0.02)
    np.testing.assert_array_equal(network.predict(x), network(x))
    assert list(network.evaluate(x, y)) == ["loss"]


def test_a_single_output_takes_a_flat_target():
    x = np.linspace(-1, 1, 20)[:, None]
    flat, column = (dlcore.Network([dlcore.Dense(1)], input_shape=(1,)) for _ in range(2))
    flat.fit(x, x[:, 0], epochs=2, batch_size=4)
    column.fit(x, x, epochs=2, batch_size=4)
    assert weights_equal(flat, column)
    assert flat.evaluate(x, x[:, 0]) == column.evaluate(x, x)


def test_the_loss_follows_from_y_and_is_remembered():
    x, y = blobs()
    network = classifier()
    assert network.loss is None
    assert network.optimizer is None
    np.testing.assert_array_equal(network.predict(x), network(x))
    np.testing.assert_array_equal(
        network.predict(x, loss="cross_entropy"),
        dlcore.functional.softmax(network(x)),
    )
    assert network.loss is None
    network.fit(x, y, epochs=1)
    assert network.loss == losses.CrossEntropy()
    assert network.optimizer == dlcore.Adam()
    numbers = np.eye(3)[y]
    assert list(network.evaluate(x, numbers, loss="mse")) == ["loss"]
    assert network.loss == losses.CrossEntropy()
    network.fit(x, numbers, "mse", dlcore.SGD(0.01), epochs=1)
    assert network.loss == losses.MeanSquaredError()
    assert network.optimizer == dlcore.SGD(0.01)
    network.fit(x, numbers, epochs=1)
    assert network.optimizer == dlcore.SGD(0.01)


def test_a_refused_fit_changes_nothing():
    x, y = blobs()
    network = classifier()
    network.fit(x, y, epochs=1, input_scale=0.5)
    before = copy.deepcopy(network)
    broken = x.copy()
    broken[100, 2] = np.nan
    with pytest.raises(ValueError, match="^fit: x holds nan at row 100, column 2"):
        network.fit(
            broken, np.eye(3)[y], "mse", dlcore.SGD(1e-3), epochs=3, batch_size=16, input_scale=1.0
        )
    assert weights_equal(network, before)
    assert (network.loss, network.optimizer) == (losses.CrossEntropy(), dlcore.Adam())
    assert network.input_scale == 0.5


def test_shapes_with_several_axes_train():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2, 3)).astype(np.float32)
    y = (x.sum(axis=(1, 2)) > 0).astype(int)
    network = dlcore.Network(
        [dlcore.Dense(4), dlcore.Tanh(), dlcore.Flatten(), dlcore.Dense(2)], input_shape=(2, 3)
    )
    network.fit(x, y, optimizer=dlcore.Adam(0.05), epochs=20, batch_size=8)
    assert network.evaluate(x, y)["accuracy"] > 0.9

    # Without Flatten each of the two rows of an example has its own targets.
    rows = dlcore.Network([dlcore.Dense(3)], input_shape=(2, 3))
    target = x @ rng.normal(size=(3, 3))
    rows.fit(x, target, optimizer=dlcore.Adam(0.05), epochs=60, batch_size=8)
    assert rows.predict(x).shape == (40, 2, 3)
    np.testing.assert_allclose(rows.predict(x), target, atol=0.1)
    labels = x.argmax(axis=2)
    rows = dlcore.Network([dlcore.Dense(3)], input_shape=(2, 3))
    rows.fit(x, labels, optimizer=dlcore.Adam(0.05), epochs=60, batch_size=8)
    assert rows.predict(x).shape == (40, 2, 3)
    accuracy = np.mean(rows.predict(x).argmax(axis=2) == labels)
    assert accuracy > 0.9
    assert rows.evaluate(x, labels)["accuracy"] == pytest.approx(accuracy)


def test_a_batch_larger_than_the_data_is_the_data():
    x, y = blobs(30)
    exact, larger = classifier(), classifier()
    exact.fit(x, y, epochs=2, batch_size=30)
    larger.fit(x, y, epochs=2, batch_size=10**9)
    assert weights_equal(exact, larger)


def test_loss_and_gradients_change_nothing_and_agree_with_a_step():
    x, y = blobs()
    network = classifier(dtype="float64")
    before = network.parameters
    loss, gradients = network.loss_and_gradients(x, y)
    assert loss == pytest.approx(network.evaluate(x, y)["loss"], rel=1e-12)
    assert list(gradients) == list(before)
    again = network.parameters
    network.fit(x, y, optimizer=dlcore.SGD(0.5), epochs=1, batch_size=120, shuffle=False)
    for name, value in network.parameters.items():
        np.testing.assert_array_equal(before[name], again[name])
        assert gradients[name].shape == value.shape
        np.testing.assert_allclose(before[name] - value, 0.5 * gradients[name], atol=1e-14)


def test_parameters_are_replaced_all_or_none_and_shown_read_only():
    network = classifier()
    before = network.parameters
    ones = np.ones((16, 4))
    with pytest.raises(ValueError, match='"0.bias" needs'):
        network.set_parameters({"0.weight": ones, "0.bias": np.ones(15)})
    for name, value in network.parameters.items():
        np.testing.assert_array_equal(value, before[name])
        with pytest.raises(ValueError, match="read-only"):
            value[...] = 0
    network.set_parameters({"0.weight": ones})
    np.testing.assert_array_equal(network.parameters["0.weight"], ones)
    np.testing.assert_array_equal(network.parameters["2.weight"], before["2.weight"])


def test_dropout_acts_in_fit_and_with_a_seed_only():
    x, y = blobs()
    layers = [dlcore.Dense(16), dlcore.ReLU(), dlcore.Dropout(0.5), dlcore.Dense(3)]
    network = dlcore.Network(layers, input_shape=(4,))
    np.testing.assert_array_equal(network(x), network(x))
    still, _ = network.loss_and_gradients(x, y)
    assert still == pytest.approx(network.evaluate(x, y)["loss"], rel=1e-5)
    first, gradients = network.loss_and_gradients(x, y, dropout_seed=1)
    same, again = network.loss_and_gradients(x, y, dropout_seed=1)
    other, _ = network.loss_and_gradients(x, y, dropout_seed=2)
    assert first == same
    assert len({still, first, other}) == 3
    for name, value in gradients.items():
        np.testing.assert_array_equal(value, again[name])
    history = network.fit(
        x, y, optimizer=dlcore.SGD(0.0), epochs=1, batch_size=120, shuffle=False, seed=1
    )
    assert history.loss[0] == pytest.approx(first, rel=1e-6)


# Reproducibility.


def fitted(seed=0, fit_seed=0, threads=None, epochs=3, **options):
    x, y = blobs()
    network = dlcore.Network(
        [dlcore.Dense(16), dlcore.GELU(), dlcore.Dropout(0.2), dlcore.Dense(3)],
        input_shape=(4,),
        seed=seed,
    )
    network.fit(x, y, epochs=epochs, batch_size=16, seed=fit_seed, threads=threads, **options)
    return network


def test_the_same_seeds_give_the_same_bits_at_any_number_of_threads():
    x, _ = blobs()
    one = fitted(threads=1)
    for threads in (2, 3, 7, None):
        other = fitted(threads=threads)
        assert weights_equal(one, other)
        np.testing.assert_array_equal(one.predict(x, threads=1), other.predict(x, threads=threads))


def test_each_seed_matters():
    assert weights_equal(fitted(), fitted())
    assert not weights_equal(fitted(), fitted(seed=1))
    assert not weights_equal(fitted(), fitted(fit_seed=1))
    assert not weights_equal(fitted(), fitted(fit_seed=2**32))
    assert not weights_equal(fitted(), fitted(shuffle=False))


def test_without_shuffling_the_order_is_that_of_the_rows():
    x, y = blobs(32)
    network = classifier(dtype="float64")
    by_hand = classifier(dtype="float64")
    network.fit(x, y, optimizer=dlcore.SGD(0.1), epochs=1, batch_size=10, shuffle=False)
    for begin in range(0, 32, 10):
        rows = slice(begin, begin + 10)
        _, gradients = by_hand.loss_and_gradients(x[rows], y[rows], "cross_entropy")
        by_hand.set_parameters(
            {name: value - 0.1 * gradients[name] for name, value in by_hand.parameters.items()}
        )
    for name, value in network.parameters.items():
        np.testing.assert_allclose(value, by_hand.parameters[name], rtol=1e-12, atol=1e-15)


# Weights of examples and classes.


def test_examples_of_weight_zero_are_absent():
    x, y = blobs()
    weight = (np.arange(120) % 3 > 0).astype(float)
    kept = weight > 0
    network = classifier(dtype="float64")
    with_zeros, gradients = network.loss_and_gradients(x, y, sample_weight=weight)
    without, expected = network.loss_and_gradients(x[kept], y[kept])
    assert with_zeros == pytest.approx(without, rel=1e-12)
    for name, value in gradients.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-14)
    weighted = network.evaluate(x, y, sample_weight=weight)
    assert weighted == pytest.approx(network.evaluate(x[kept], y[kept]), rel=1e-12)


def test_weights_count_examples_and_their_scale_cancels():
    x, y = blobs()
    weight = np.arange(120) % 4
    network = classifier(dtype="float64")
    weighted = network.evaluate(x, y, sample_weight=weight)
    repeated = network.evaluate(np.repeat(x, weight, axis=0), np.repeat(y, weight))
    assert weighted == pytest.approx(repeated, rel=1e-12)
    assert network.evaluate(x, y, sample_weight=1e6 * weight) == pytest.approx(weighted, rel=1e-12)
    equal, plain = classifier(), classifier()
    equal.fit(x, y, epochs=2, batch_size=16, sample_weight=np.ones(120))
    plain.fit(x, y, epochs=2, batch_size=16)
    assert weights_equal(equal, plain)


def test_class_weights_are_sample_weights():
    x, y = blobs()
    sample = np.linspace(0.5, 2, 120)
    by_class = np.array([1.0, 3.0, 0.5])
    network, expected = classifier(), classifier()
    network.fit(x, y, epochs=2, batch_size=16, class_weight={1: 3, 2: 0.5}, sample_weight=sample)
    expected.fit(x, y, epochs=2, batch_size=16, sample_weight=sample * by_class[y])
    assert weights_equal(network, expected)


def test_balanced_class_weights_are_scikit_learns():
    x, y = blobs()
    keep = (y != 2) | (np.arange(120) < 30)
    x, y = x[keep], y[keep]
    counts = np.bincount(y)
    assert len(set(counts)) > 1
    network, expected = classifier(4), classifier(4)
    network.fit(x, y, epochs=2, batch_size=16, class_weight="balanced")
    # n / (classes present * count): the fourth class does not occur
    expected.fit(x, y, epochs=2, batch_size=16, sample_weight=(len(y) / (3 * counts))[y])
    assert weights_equal(network, expected)


def test_class_weights_of_a_binary_network():
    x, y = blobs(classes=2)
    network, expected = classifier(1), classifier(1)
    network.fit(x, y, epochs=2, batch_size=16, class_weight={0: 5.0})
    expected.fit(x, y, epochs=2, batch_size=16, sample_weight=np.where(y == 0, 5.0, 1.0))
    assert weights_equal(network, expected)
