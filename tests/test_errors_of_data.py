"""Every sentence that wrong data or options of a call end in, and what these leave behind."""

import numpy as np
import pytest

import dlcore
from test_errors import (
    UNIQUE,
    X,
    Y,
    assert_sentence,
    layers,
    network,
    replaced,
)

NUMBERS = np.eye(3)[Y]
WRONG = X.copy()
WRONG[2, 1] = np.nan
ENDLESS = X.copy()
ENDLESS[5, 3] = -np.inf

# (what is called, the type of the error, its sentence)
CASES = [
    # x.
    (
        lambda: network().fit(X[:, :3], Y),
        ValueError,
        "fit: x needs shape (n, 4), found (6, 3)",
    ),
    (
        lambda: network()(X[0]),
        ValueError,
        "network: x needs shape (n, 4), found (4,); for a single example write x[None]",
    ),
    (
        lambda: network().predict(X.reshape(6, 2, 2)),
        ValueError,
        (
            "predict: x needs shape (n, 4), found (6, 2, 2); reshape x, or build the network with "
            "that input_shape"
        ),
    ),
    (
        lambda: layers(dlcore.Flatten(), input_shape=(2, 2)).evaluate(X, X),
        ValueError,
        (
            "evaluate: x needs shape (n, 2, 2), found (6, 4); reshape x, or build the network with "
            "that input_shape"
        ),
    ),
    (lambda: network().predict(3.0), ValueError, "predict: x needs shape (n, 4), found ()"),
    (
        lambda: network().fit(X[:0], Y[:0]),
        ValueError,
        "fit: x needs at least one example, found (0, 4)",
    ),
    (
        lambda: network().evaluate(X[:0], Y[:0]),
        ValueError,
        "evaluate: x needs at least one example, found (0, 4)",
    ),
    (
        lambda: network().loss_and_gradients(X[:0], Y[:0]),
        ValueError,
        "loss_and_gradients: x needs at least one example, found (0, 4)",
    ),
    (
        lambda: network().fit(WRONG, Y),
        ValueError,
        "fit: x holds nan at row 2, column 1; remove or replace such values first",
    ),
    (
        lambda: network().fit(ENDLESS, Y),
        ValueError,
        "fit: x holds -inf at row 5, column 3; remove or replace such values first",
    ),
    (
        lambda: network().fit(WRONG.astype(np.float16)[:, ::-1], Y, batch_size=2),
        ValueError,
        "fit: x holds nan at row 2, column 2; remove or replace such values first",
    ),
    (
        lambda: network().predict(WRONG),
        ValueError,
        "predict: x holds nan at row 2, column 1; remove or replace such values first",
    ),
    (
        lambda: network().evaluate(WRONG, Y),
        ValueError,
        "evaluate: x holds nan at row 2, column 1; remove or replace such values first",
    ),
    (
        lambda: network().loss_and_gradients(WRONG, Y),
        ValueError,
        "loss_and_gradients: x holds nan at row 2, column 1; remove or replace such values first",
    ),
    (
        lambda: network().fit(X.astype(float) * 1e300, Y),
        ValueError,
        "fit: x times input_scale overflows the network's dtype",
    ),
    (
        lambda: network().fit([["a"] * 4] * 6, Y),
        TypeError,
        f"fit: x needs numbers, found text (<U1); {UNIQUE}",
    ),
    (
        lambda: network().fit([[1, 2], [3]], Y),
        ValueError,
        "fit: x needs an array of numbers, found uneven rows",
    ),
    (
        lambda: network().fit(None, Y),
        TypeError,
        "fit: x needs an array of numbers, found None",
    ),
    (
        lambda: network().fit(X * 1j, Y),
        TypeError,
        "fit: x needs real numbers, found complex64",
    ),
    # y.
    (
        lambda: network().fit(X, Y + 1),
        ValueError,
        "fit: labels must lie in 0..2 for 3 classes, found 3 at index 2",
    ),
    (
        lambda: network().evaluate(X, Y - 1),
        ValueError,
        "evaluate: labels must lie in 0..2 for 3 classes, found -1 at index 0",
    ),
    (
        lambda: network().loss_and_gradients(X, Y + 1),
        ValueError,
        "loss_and_gradients: labels must lie in 0..2 for 3 classes, found 3 at index 2",
    ),
    (
        lambda: network().fit(X, Y.astype(np.uint64) + np.uint64(2**63)),
        ValueError,
        "fit: y holds 9223372036854775810, which is beyond the 64-bit integers",
    ),
    (
        lambda: network().fit(X, np.full(6, 3)),
        ValueError,
        "fit: y holds one class only (3); training needs examples of at least two",
    ),
    (
        lambda: network(1).fit(X, np.ones(6, bool)),
        ValueError,
        "fit: y holds one class only (1); training needs examples of at least two",
    ),
    (
        lambda: network(1).fit(X, np.zeros(6), "binary_cross_entropy"),
        ValueError,
        "fit: y holds one class only (0); training needs examples of at least two",
    ),
    (
        lambda: network().fit(X, Y[:5]),
        ValueError,
        "fit: y must be (6,) for 6 examples and a network output of (3,), found (5,)",
    ),
    (
        lambda: network().fit(X, NUMBERS[:5]),
        ValueError,
        "fit: y must be (6, 3) for 6 examples and a network output of (3,), found (5, 3)",
    ),
    (
        lambda: network().fit(X, NUMBERS[:, :2]),
        ValueError,
        "fit: y needs shape (n, 3) for mse, found (6, 2)",
    ),
    (
        lambda: network().fit(X, Y.astype(float)),
        ValueError,
        "fit: y needs shape (n, 3) for mse, found (6,); classes need to be integers, y.astype(int)",
    ),
    (
        lambda: network().fit(X, Y.astype(float), "cross_entropy"),
        TypeError,
        (
            "fit: y needs integer classes for cross_entropy, found float64; write y.astype(int) if "
            "these are classes"
        ),
    ),
    (
        lambda: network().fit(X, NUMBERS.astype(int)),
        ValueError,
        (
            "fit: y holds integers of shape (6, 3); say what they mean: "
            'loss="binary_cross_entropy" for several labels each, or y.argmax(axis=-1) for one-hot '
            "classes"
        ),
    ),
    (
        lambda: network().fit(X, NUMBERS.astype(int), "cross_entropy"),
        ValueError,
        (
            "fit: y needs integer classes of shape (n,) for cross_entropy, found (6, 3); "
            "y.argmax(axis=-1) turns one-hot classes into that"
        ),
    ),
    (
        lambda: layers(dlcore.Dense(3), input_shape=(2, 2)).fit(X.reshape(6, 2, 2), Y),
        ValueError,
        (
            "fit: y needs integer classes of shape (n, 2) for cross_entropy, found (6,); "
            "y.argmax(axis=-1) turns one-hot classes into that"
        ),
    ),
    (
        lambda: network().fit(X, 1),
        ValueError,
        (
            "fit: y needs integer classes of shape (n,) for cross_entropy, found (); "
            "y.argmax(axis=-1) turns one-hot classes into that"
        ),
    ),
    (
        lambda: network().fit(X, replaced(NUMBERS, (4, 2), np.nan)),
        ValueError,
        "fit: y holds nan at row 4, column 2; remove or replace such values first",
    ),
    (
        lambda: network().fit(X, replaced(NUMBERS, (4, 2), 1e300)),
        ValueError,
        "fit: y holds inf at row 4, column 2; remove or replace such values first",
    ),
    (
        lambda: network().fit(X, replaced(NUMBERS, (4, 2), 1.5), "binary_cross_entropy"),
        ValueError,
        "fit: y needs targets from 0 to 1 for binary_cross_entropy, found 1.5 at row 4",
    ),
    (
        lambda: network(1).fit(X, Y),
        ValueError,
        (
            "fit: y needs targets from 0 to 1 for binary_cross_entropy, found 2 at row 2; integers "
            "mean classes, y.astype(float) are numbers to predict"
        ),
    ),
    (
        lambda: network().fit(X, list("abcabc")),
        TypeError,
        f"fit: y needs numbers, found text (<U1); {UNIQUE}",
    ),
    (
        lambda: network().fit(X, np.array(["a", None] * 3)),
        TypeError,
        (
            "fit: y needs an array of numbers, found ndarray array(['a', None, 'a', None, 'a', None], "
            "dtype=object)"
        ),
    ),
    (
        lambda: network().fit(X, np.zeros(6, "M8[s]")),
        TypeError,
        "fit: y needs real numbers, found datetime64[s]",
    ),
    # Options of fit.
    (
        lambda: network().fit(X, Y, epochs=0),
        ValueError,
        "fit: epochs needs an integer of at least 1, found 0",
    ),
    (
        lambda: network().fit(X, Y, epochs=1.5),
        TypeError,
        "fit: epochs needs an integer of at least 1, found float 1.5",
    ),
    (
        lambda: network().fit(X, Y, batch_size=0),
        ValueError,
        "fit: batch_size needs an integer of at least 1, found 0",
    ),
    (
        lambda: network().fit(X, Y, batch_size=2**64),
        ValueError,
        "fit: batch_size needs an integer below 2**63, found a larger one",
    ),
    (
        lambda: network().fit(X, Y, seed=-1),
        ValueError,
        "fit: seed needs an integer from 0 to 18446744073709551615, found -1",
    ),
    (
        lambda: network().fit(X, Y, threads=0),
        ValueError,
        "fit: threads needs an integer from 1 to 1024, found 0",
    ),
    (
        lambda: network().predict(X, threads="all"),
        TypeError,
        "predict: threads needs an integer from 1 to 1024, found str 'all'",
    ),
    (
        lambda: network().fit(X, Y, clip_norm=0),
        ValueError,
        "fit: clip_norm needs a finite number above 0, found 0",
    ),
    (
        lambda: network().fit(X, Y, input_scale=-1),
        ValueError,
        "fit: input_scale needs a finite number above 0, found -1",
    ),
    (
        lambda: network().fit(X, Y, precision="fp8"),
        ValueError,
        'fit: precision needs to be None, "fp32" or "bf16", found str \'fp8\'',
    ),
    (
        lambda: network(dtype="float64").fit(X, Y, precision="fp32"),
        ValueError,
        "fit: precision needs to be None in a float64 network, found str 'fp32'",
    ),
    (
        lambda: network().fit(X, Y, on_epoch="print"),
        TypeError,
        "fit: on_epoch needs a callable, found str 'print'",
    ),
    (
        lambda: network().fit(X, Y, progress="bar"),
        TypeError,
        "fit: progress needs True, False or a callable, found str 'bar'",
    ),
    (
        lambda: network().fit(X, Y, early_stopping=5),
        TypeError,
        "fit: early_stopping needs an object such as dlcore.EarlyStopping(patience=5), found 5",
    ),
    (
        lambda: dlcore.EarlyStopping(0),
        ValueError,
        "EarlyStopping: patience needs an integer of at least 1, found 0",
    ),
    (
        lambda: dlcore.EarlyStopping(3, min_delta=-1),
        ValueError,
        "EarlyStopping: min_delta needs a finite number of at least 0, found -1",
    ),
    (
        lambda: network().loss_and_gradients(X, Y, dropout_seed=-1),
        ValueError,
        (
            "loss_and_gradients: dropout_seed needs an integer from 0 to 18446744073709551615, "
            "found -1"
        ),
    ),
    # Weights.
    (
        lambda: network().fit(X, Y, sample_weight=np.ones(5)),
        ValueError,
        "fit: sample_weight needs shape (6,), one per example, found (5,)",
    ),
    (
        lambda: network().fit(X, Y, sample_weight=[1, 1, 1, -1, 1, 1]),
        ValueError,
        "fit: sample_weight needs finite numbers of at least 0, found -1.0 at index 3",
    ),
    (
        lambda: network().evaluate(X, Y, sample_weight=[1, np.nan, 1, 1, 1, 1]),
        ValueError,
        "evaluate: sample_weight needs finite numbers of at least 0, found nan at index 1",
    ),
    (
        lambda: network().loss_and_gradients(X, Y, sample_weight=np.zeros(6)),
        ValueError,
        "loss_and_gradients: sample_weight needs at least one weight above 0, found zeros only",
    ),
    (
        lambda: network().fit(X, Y, class_weight=[1, 2, 3]),
        TypeError,
        'fit: class_weight needs a dict of weights or "balanced", found list [1, 2, 3]',
    ),
    (
        lambda: network().fit(X, Y, class_weight="even"),
        TypeError,
        "fit: class_weight needs a dict of weights or \"balanced\", found str 'even'",
    ),
    (
        lambda: network().fit(X, Y, class_weight={3: 1.0}),
        ValueError,
        "fit: class_weight: a class needs an integer from 0 to 2, found 3",
    ),
    (
        lambda: network().fit(X, Y, class_weight={1: -1.0}),
        ValueError,
        "fit: class_weight[1] needs a finite number of at least 0, found -1",
    ),
    (
        lambda: network().fit(X, Y, class_weight={0: 0, 1: 0, 2: 0}),
        ValueError,
        "fit: class_weight leaves no example with a weight above 0",
    ),
    (
        lambda: network().fit(X, NUMBERS, class_weight="balanced"),
        ValueError,
        "fit: class_weight needs one class per example in y; use sample_weight instead",
    ),
    (
        lambda: network().fit(X, Y + 1, class_weight="balanced"),
        ValueError,
        "fit: labels must lie in 0..2 for 3 classes, found 3 at index 2",
    ),
    # Validation data.
    (
        lambda: network().fit(X, Y, validation_data=X),
        TypeError,
        "fit: validation_data needs a tuple (x, y) or (x, y, sample_weight), found ndarray",
    ),
    (
        lambda: network().fit(X, Y, validation_data=(X,)),
        TypeError,
        "fit: validation_data needs a tuple (x, y) or (x, y, sample_weight), found 1 entries",
    ),
    (
        lambda: network().fit(X, Y, validation_data=(X[:, :2], Y)),
        ValueError,
        "fit: validation_data x needs shape (n, 4), found (6, 2)",
    ),
    (
        lambda: network().fit(X, Y, validation_data=(X[:0], Y[:0])),
        ValueError,
        "fit: validation_data x needs at least one example, found (0, 4)",
    ),
    (
        lambda: network().fit(X, Y, validation_data=(X, NUMBERS)),
        TypeError,
        (
            "fit: validation_data y needs integer classes for cross_entropy, found float64; write "
            "y.astype(int) if these are classes"
        ),
    ),
    (
        lambda: network().fit(X, Y, validation_data=(X, Y + 1)),
        ValueError,
        "fit: validation_data: labels must lie in 0..2 for 3 classes, found 3 at index 2",
    ),
    (
        lambda: network().fit(X, Y, validation_data=(X, Y[:3])),
        ValueError,
        (
            "fit: validation_data: y must be (6,) for 6 examples and a network output of (3,), "
            "found (3,)"
        ),
    ),
    (
        lambda: network().fit(X, Y, validation_data=(WRONG, Y)),
        ValueError,
        "fit: validation_data: x holds nan at row 2, column 1; remove or replace such values first",
    ),
    (
        lambda: network().fit(X, Y, validation_data=(X, Y, np.ones(2))),
        ValueError,
        "fit: validation_data sample_weight needs shape (6,), one per example, found (2,)",
    ),
    (
        lambda: network().fit(X, Y, validation_data=(X.astype(np.uint8), Y)),
        TypeError,
        (
            "fit: validation_data x is scaled otherwise than x because one of them is uint8; pass "
            "both in one dtype, or input_scale"
        ),
    ),
]


@pytest.mark.parametrize(("call", "kind", "sentence"), CASES, ids=[case[2] for case in CASES])
def test_each_mistake_has_its_sentence(call, kind, sentence):
    assert_sentence(call, kind, sentence)


@pytest.mark.parametrize(
    ("x", "y", "options"),
    [
        (WRONG, Y, {}),
        (X, Y + 1, {}),
        (X, replaced(NUMBERS, (5, 0), np.nan), {}),
        (X, Y, {"validation_data": (WRONG, Y)}),
        (X, Y, {"validation_data": (X, Y + 1)}),
    ],
)
def test_bad_data_leaves_the_weights_as_they_were(x, y, options):
    trained = network()
    trained.fit(X, Y, epochs=1)
    before = trained.parameters
    with pytest.raises(ValueError, match="^fit: "):
        trained.fit(x, y, loss=None if y.ndim == 1 else "mse", epochs=3, batch_size=2, **options)
    for name, value in trained.parameters.items():
        np.testing.assert_array_equal(value, before[name])
    trained.fit(X, Y, epochs=1)


def test_a_batch_beyond_all_sizes_is_the_data():
    assert network().fit(X, Y, batch_size=2**63 - 1, epochs=1).stopped == "completed"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_no_place_in_a_row_is_overlooked(dtype, kernels):
    """Four vectors of the widest kernels, the rest by one, and the elements behind them."""
    wide = dlcore.Network([dlcore.Dense(1)], 149)
    x = np.ones((2, 149), dtype)
    for column in range(149):
        x[1, column] = np.nan if column % 2 else np.inf
        with pytest.raises(ValueError, match=f"at row 1, column {column};"):
            wide.predict(x)
        x[1, column] = 1
