"""The estimators: scikit-learn's own checks, and what they add to a network."""

import copy
import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

import dlcore

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_sample_weight_equivalence_on_dense_data,
    parametrize_with_checks,
)

from dlcore.sklearn import NetworkClassifier, NetworkRegressor

X, SPECIES = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)
NAMES = np.array(["setosa", "versicolor", "virginica"])[SPECIES]

WEIGHTS = "check_sample_weight_equivalence_on_dense_data"


def expected_failures(estimator):
    """Examples repeated in one fit and weighted in the other have to agree to 1e-7.

    All of them are one batch here; the tests of weights below have the same in float64, and smaller
    batches, with which no method that learns from them can agree.
    """
    if estimator.early_stopping:
        return {WEIGHTS: "other examples are held out"}
    return {WEIGHTS: "float32 rounds to 6e-8 at every operation"}


@parametrize_with_checks(
    [
        NetworkClassifier(),
        NetworkRegressor(),
        NetworkClassifier(
            (),
            learning_rate=0.03,
            early_stopping=True,
            validation_fraction=0.3,
            class_weight="balanced",
        ),
    ],
    expected_failed_checks=expected_failures,
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture
def float64(monkeypatch):
    """Estimators have networks of float64."""
    monkeypatch.setattr(dlcore, "Network", partial(dlcore.Network, dtype="float64"))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("build", [NetworkClassifier, NetworkRegressor])
def test_weights_count_examples_where_a_batch_is_everything(build, optimizer, float64):
    """scikit-learn's check, to its 1e-7."""
    estimator = build(batch_size=10**6, optimizer=optimizer, learning_rate=0.01)
    check_sample_weight_equivalence_on_dense_data(build.__name__, estimator)


@pytest.mark.parametrize("build", [NetworkClassifier, NetworkRegressor])
def test_weights_do_not_count_examples_in_smaller_batches(build, float64):
    """Repeated examples make other batches, and more of them: that is no rounding error."""
    with pytest.raises(AssertionError, match="is not equivalent"):
        check_sample_weight_equivalence_on_dense_data(build.__name__, build(batch_size=8))


def test_classes_of_any_type_are_predicted():
    for y in (NAMES, SPECIES * 10 - 5, NAMES.astype(object), SPECIES == 1):
        model = NetworkClassifier(random_state=0, learning_rate=0.01, epochs=30).fit(X, y)
        np.testing.assert_array_equal(model.classes_, np.unique(y))
        probabilities = model.predict_proba(X)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_array_equal(
            model.predict(X), model.classes_[probabilities.argmax(axis=1)]
        )
        assert model.score(X, y) > 0.95


def test_an_estimator_is_a_network_with_its_settings():
    model = NetworkClassifier(
        (8, 5), activation="tanh", optimizer=dlcore.SGD(0.1), epochs=3, random_state=7
    ).fit(X, NAMES)
    layers = (dlcore.Dense(8), dlcore.Tanh(), dlcore.Dense(5), dlcore.Tanh(), dlcore.Dense(3))
    assert model.network_.layers == layers
    assert model.history_.epochs == 3
    seed = model.network_.seed
    network = dlcore.Network(layers, input_shape=4, seed=seed)
    network.fit(X, SPECIES, optimizer=dlcore.SGD(0.1), epochs=3, batch_size=32, seed=seed)
    np.testing.assert_array_equal(network.predict(X), model.predict_proba(X))
    assert NetworkRegressor(4, random_state=0, epochs=1).fit(X, SPECIES).network_.layers[0] == (
        dlcore.Dense(4)
    )


def test_the_random_state_decides():
    def fitted(state):
        return NetworkClassifier(random_state=state, epochs=2).fit(X, NAMES).predict_proba(X)

    np.testing.assert_array_equal(fitted(1), fitted(1))
    assert not np.array_equal(fitted(1), fitted(2))
    np.testing.assert_array_equal(
        fitted(np.random.RandomState(3)), fitted(np.random.RandomState(3))
    )


@pytest.mark.parametrize("build", [NetworkClassifier, NetworkRegressor])
def test_early_stopping_holds_examples_out(build):
    model = build(
        random_state=0, learning_rate=0.02, epochs=500, early_stopping=dlcore.EarlyStopping(3)
    )
    weight = np.linspace(1, 2, len(X))
    model.fit(X, SPECIES, sample_weight=weight)
    history = model.history_
    assert history.stopped == "early_stopping"
    assert history.epochs == history.best_epoch + 3 < 500
    assert model.score(X, SPECIES) > 0.85
    held = build(random_state=0, epochs=1, early_stopping=True, validation_fraction=0.4)
    assert "val_loss" in held.fit(X, SPECIES).history_


def test_class_weights_go_by_the_classes_names():
    options = {"random_state": 0, "epochs": 3}
    by_name = NetworkClassifier(class_weight={"versicolor": 5.0}, **options).fit(X, NAMES)
    by_example = NetworkClassifier(**options)
    by_example.fit(X, NAMES, sample_weight=np.where(NAMES == "versicolor", 5.0, 1.0))
    np.testing.assert_array_equal(by_name.predict_proba(X), by_example.predict_proba(X))
    with pytest.raises(ValueError, match="^NetworkClassifier: class_weight needs classes of y, fo"):
        NetworkClassifier(class_weight={"rose": 2.0}).fit(X, NAMES)


def test_several_targets_keep_their_shape():
    y = np.stack([X[:, 0], X[:, 1] * 2], axis=1)
    model = NetworkRegressor(random_state=0, learning_rate=0.01)
    assert model.fit(X, y).predict(X).shape == (150, 2)
    assert model.score(X, y) > 0.95
    assert model.fit(X, y[:, :1]).predict(X).shape == (150, 1)
    assert model.fit(X, y[:, 0]).predict(X).shape == (150,)


def test_small_integers_are_not_scaled():
    pixels = (X * 20 + 100).astype(np.uint8)
    model = NetworkClassifier(random_state=0, epochs=2)
    expected = clone(model).fit(pixels.astype(np.float32), NAMES).predict_proba(pixels)
    np.testing.assert_array_equal(model.fit(pixels, NAMES).predict_proba(pixels), expected)


def test_pipelines_searches_and_copies():
    data, y = load_diabetes(return_X_y=True)
    y = (y - y.mean()) / y.std()
    model = make_pipeline(
        StandardScaler(), NetworkRegressor((16,), random_state=0, epochs=30, learning_rate=0.003)
    )
    assert cross_val_score(model, data, y, cv=3).mean() > 0.3
    search = GridSearchCV(
        NetworkClassifier(random_state=0, learning_rate=0.02, epochs=20),
        {"hidden_layer_sizes": [(), (16,)], "activation": ["relu", "silu"]},
        cv=3,
    ).fit(X, NAMES)
    assert search.best_score_ > 0.9
    best = search.best_estimator_
    for twin in (copy.deepcopy(best), pickle.loads(pickle.dumps(best))):
        np.testing.assert_array_equal(twin.predict_proba(X), best.predict_proba(X))
    assert repr(clone(NetworkClassifier((3,), epochs=5))) == (
        "NetworkClassifier(epochs=5, hidden_layer_sizes=(3,))"
    )


def test_an_interrupted_fit_keeps_what_was_learnt():

    model = NetworkClassifier(random_state=0, epochs=10**6)
    with pytest.MonkeyPatch.context() as patch:
        fit = dlcore.Network.fit

        def interrupt(network, *args, **options):
            def stop(record):
                if record["epoch"] == 20:
                    raise KeyboardInterrupt

            return fit(network, *args, on_epoch=stop, **options)

        patch.setattr(dlcore.Network, "fit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, NAMES)
    assert model.score(X, NAMES) > 0.8


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        (
            {"activation": "swish"},
            ValueError,
            (
                "NetworkClassifier: activation needs one of relu, leaky_relu, sigmoid, tanh, gelu, "
                "silu, softplus, identity, found 'swish'"
            ),
        ),
        (
            {"optimizer": "lbfgs"},
            ValueError,
            "NetworkClassifier: optimizer needs one of adam, adamw, sgd, found 'lbfgs'",
        ),
        (
            {"optimizer": 0.1},
            TypeError,
            (
                "NetworkClassifier: optimizer needs an object such as dlcore.Adam(1e-3) or "
                "dlcore.SGD(0.1, momentum=0.9), found float 0.1"
            ),
        ),
        (
            {"hidden_layer_sizes": (3, 0)},
            ValueError,
            "NetworkClassifier: hidden_layer_sizes[1] needs an integer of at least 1, found 0",
        ),
        (
            {"early_stopping": 5},
            TypeError,
            (
                "NetworkClassifier: early_stopping needs True, False or an object such as "
                "dlcore.EarlyStopping(patience=5), found 5"
            ),
        ),
        (
            {"early_stopping": True, "validation_fraction": 1},
            ValueError,
            (
                "NetworkClassifier: validation_fraction needs a finite number above 0 and below 1, "
                "found 1"
            ),
        ),
    ],
)
def test_wrong_settings_are_said_in_a_sentence(options, error, sentence):
    with pytest.raises(error) as caught:
        NetworkClassifier(**options).fit(X, NAMES)
    assert str(caught.value) == sentence


def test_without_scikit_learn_there_is_one_sentence():
    code = """
import sys
sys.modules["sklearn"] = None
import dlcore
try:
    dlcore.sklearn
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        'dlcore.sklearn: scikit-learn 1.6 or later is needed; pip install "dlcore[lab]"'
    )
