"""Every sentence that a wrong argument ends in, read word by word."""

import re

import numpy as np
import pytest

import dlcore
from dlcore import functional, initializers, losses, schedules

X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4)
Y = np.array([0, 1, 2, 0, 1, 2])
NUMBERS = np.eye(3)[Y]
WRONG = X.copy()
WRONG[2, 1] = np.nan
ENDLESS = X.copy()
ENDLESS[5, 3] = -np.inf


def network(outputs=3, **options):
    return dlcore.Network(
        [dlcore.Dense(5), dlcore.ReLU(), dlcore.Dense(outputs)], input_shape=(4,), **options
    )


def layers(*given, input_shape=(4,)):
    return dlcore.Network(list(given), input_shape=input_shape)


def replaced(values, index, value):
    result = np.array(values, dtype=float)
    result[index] = value
    return result


UNIQUE = "encode it first, classes for example by numpy.unique(..., return_inverse=True)"
LOSSES = "cross_entropy, binary_cross_entropy, mse, huber"
INITIALIZERS = ", ".join(initializers.NAMES)

# (what is called, the type of the error, its sentence)
CASES = [
    # Layers.
    (
        lambda: dlcore.Dense(0),
        ValueError,
        "Dense: units needs an integer of at least 1, found 0",
    ),
    (
        lambda: dlcore.Dense(2.0),
        TypeError,
        "Dense: units needs an integer of at least 1, found float 2.0",
    ),
    (
        lambda: dlcore.Dense("2"),
        TypeError,
        "Dense: units needs an integer of at least 1, found str '2'",
    ),
    (
        lambda: dlcore.Dense(2**63),
        ValueError,
        "Dense: units needs an integer below 2**63, found a larger one",
    ),
    (
        lambda: dlcore.Dense(2, bias=1),
        TypeError,
        "Dense: bias needs True or False, found 1",
    ),
    (
        lambda: dlcore.Dense(2, initializer="he"),
        ValueError,
        f"Dense: initializer needs one of {INITIALIZERS}, found 'he'",
    ),
    (
        lambda: dlcore.Dense(2, initializer=None),
        TypeError,
        f"Dense: initializer needs one of {INITIALIZERS}, found None",
    ),
    (
        lambda: dlcore.LeakyReLU(-0.1),
        ValueError,
        "LeakyReLU: negative_slope needs a finite number of at least 0, found -0.1",
    ),
    (
        lambda: dlcore.LeakyReLU(np.nan),
        ValueError,
        "LeakyReLU: negative_slope needs a finite number of at least 0, found nan",
    ),
    (
        lambda: dlcore.LeakyReLU("0.1"),
        TypeError,
        "LeakyReLU: negative_slope needs a number of at least 0, found str '0.1'",
    ),
    (
        lambda: dlcore.GELU("exact"),
        ValueError,
        "GELU: approximate needs one of none, tanh, found 'exact'",
    ),
    (
        lambda: dlcore.Dropout(1),
        ValueError,
        "Dropout: p needs a finite number of at least 0 and below 1, found 1",
    ),
    (
        lambda: dlcore.Dropout(None),
        TypeError,
        "Dropout: p needs a number of at least 0 and below 1, found None",
    ),
    (
        lambda: dlcore.Residual([]),
        ValueError,
        "Residual: layers needs at least one layer, found an empty list",
    ),
    (
        lambda: dlcore.Residual(dlcore.ReLU()),
        TypeError,
        "Residual: layers needs a list of layers, found ReLU ReLU()",
    ),
    (
        lambda: initializers.draw("he_normal", 2, 0),
        ValueError,
        "draw: in_features needs an integer of at least 1, found 0",
    ),
    # Networks.
    (
        lambda: layers(),
        ValueError,
        "Network: layers needs at least one layer, found an empty list",
    ),
    (
        lambda: layers(dlcore.ReLU(), "relu"),
        TypeError,
        "Network: layers[1] needs a layer such as dlcore.ReLU(), found str 'relu'",
    ),
    (
        lambda: layers([dlcore.Dense(3), dlcore.ReLU]),
        TypeError,
        "Network: layers[0][1] is the class ReLU; make a layer of it, dlcore.ReLU(...)",
    ),
    (
        lambda: layers([]),
        ValueError,
        "Network: layers[0] needs at least one layer, found an empty list",
    ),
    (
        lambda: dlcore.Network(dlcore.Dense(3), (4,)),
        TypeError,
        "Network: layers needs a list of layers, found Dense Dense(3)",
    ),
    (
        lambda: layers(dlcore.Dense(3), input_shape=()),
        ValueError,
        "Network: input_shape needs at least one size, found ()",
    ),
    (
        lambda: layers(dlcore.Dense(3), input_shape=(4, 0)),
        ValueError,
        "Network: input_shape[1] needs an integer of at least 1, found 0",
    ),
    (
        lambda: layers(dlcore.Dense(3), input_shape=(4, None)),
        TypeError,
        "Network: input_shape[1] needs an integer of at least 1, found None",
    ),
    (
        lambda: layers(dlcore.Dense(3), input_shape="784"),
        TypeError,
        "Network: input_shape needs an integer of at least 1, found str '784'",
    ),
    (
        lambda: network(seed=-1),
        ValueError,
        "Network: seed needs an integer from 0 to 18446744073709551615, found -1",
    ),
    (
        lambda: network(seed=2**64),
        ValueError,
        "Network: seed needs an integer from 0 to 18446744073709551615, found 18446744073709551616",
    ),
    (
        lambda: network(seed=10**5000),
        ValueError,
        "Network: seed needs an integer from 0 to 18446744073709551615, found int",
    ),
    (
        lambda: network(seed=[0] * 1000),
        TypeError,
        "Network: seed needs an integer from 0 to 18446744073709551615, found list",
    ),
    (
        lambda: network(seed=None),
        TypeError,
        "Network: seed needs an integer from 0 to 18446744073709551615, found None",
    ),
    (
        lambda: network(dtype="float16"),
        ValueError,
        'Network: dtype needs to be "float32" or "float64", found str \'float16\'',
    ),
    (
        lambda: network(dtype=None),
        ValueError,
        'Network: dtype needs to be "float32" or "float64", found None',
    ),
    (
        lambda: network(dtype="double precision"),
        ValueError,
        'Network: dtype needs to be "float32" or "float64", found str \'double precision\'',
    ),
    (
        lambda: network(device="tpu"),
        ValueError,
        'Network: device needs to be "cpu" or "cuda", found str \'tpu\'',
    ),
    (
        lambda: network(device="cuda"),
        RuntimeError,
        (
            f'Network: device="cuda" is not available: {dlcore.info()["cuda_status"]}; '
            'use device="cpu"'
        ),
    ),
    (
        lambda: layers(dlcore.Residual([dlcore.Dense(3)])),
        ValueError,
        "residual: the block must keep its input's shape, but maps (4,) to (3,)",
    ),
    (
        lambda: layers(dlcore.Dense(2**62)),
        ValueError,
        "dense: the sizes 4 and 4611686018427387904 multiply to more than 2**63 - 1 elements",
    ),
    (
        lambda: layers(dlcore.ReLU(), input_shape=(2**40, 2**40)),
        ValueError,
        (
            "network: the sizes 1099511627776 and 1099511627776 multiply to more than 2**63 - 1 "
            "elements"
        ),
    ),
    (
        lambda: layers(dlcore.Dense(10**12, bias=False), input_shape=(10**5,)),
        MemoryError,
        "Network: 100,000,000,000,000,000 parameters in float32 do not fit into memory",
    ),
    # Parameters.
    (
        lambda: network().set_parameters({"3.bias": X}),
        ValueError,
        (
            'set_parameters: "3.bias" is not a parameter; there are "0.weight", "0.bias", '
            '"2.weight", "2.bias"'
        ),
    ),
    (
        lambda: layers(dlcore.ReLU()).set_parameters({"0.bias": X}),
        ValueError,
        'set_parameters: "0.bias" is not a parameter; there are none',
    ),
    (
        lambda: layers(*[dlcore.Dense(4)] * 10).set_parameters({"x": X}),
        ValueError,
        (
            'set_parameters: "x" is not a parameter; there are "0.weight", "0.bias", "1.weight", '
            '"1.bias", "2.weight", "2.bias", "3.weight", "3.bias", and 12 more'
        ),
    ),
    (
        lambda: network().set_parameters({"2.weight": np.zeros((5, 3))}),
        ValueError,
        'set_parameters: "2.weight" needs (3, 5) but is (5, 3)',
    ),
    (
        lambda: network().set_parameters({"0.weight": replaced(np.ones((5, 4)), (3, 2), np.nan)}),
        ValueError,
        'set_parameters: "0.weight" needs finite values, found nan at (3, 2)',
    ),
    (
        lambda: network().set_parameters({"2.bias": [1, 1e300, 1]}),
        ValueError,
        'set_parameters: "2.bias" needs finite values, found inf at (1,)',
    ),
    (
        lambda: network().set_parameters({"2.bias": ["a", "b", "c"]}),
        TypeError,
        f'set_parameters: "2.bias" needs numbers, found text (<U1); {UNIQUE}',
    ),
    (
        lambda: network().set_parameters([X]),
        TypeError,
        "set_parameters: parameters needs a mapping of names to arrays, found list",
    ),
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
    # Losses, optimizers, schedules.
    (
        lambda: network().fit(X, Y, "hinge"),
        ValueError,
        f"fit: loss needs one of {LOSSES}, found 'hinge'",
    ),
    (
        lambda: network().evaluate(X, Y, loss=3),
        TypeError,
        f"evaluate: loss needs one of the names {LOSSES} or an object of dlcore.losses, found 3",
    ),
    (
        lambda: network().predict(X, loss=losses.Huber),
        TypeError,
        (
            f"predict: loss needs one of the names {LOSSES} or an object of dlcore.losses, "
            "found the class Huber"
        ),
    ),
    (
        lambda: losses.Huber(0),
        ValueError,
        "Huber: delta needs a finite number above 0, found 0",
    ),
    (
        lambda: network().fit(X, Y, optimizer="adam"),
        TypeError,
        (
            "fit: optimizer needs an object such as dlcore.Adam(1e-3) or dlcore.SGD(0.1, "
            "momentum=0.9), found str 'adam'"
        ),
    ),
    (
        lambda: network().fit(X, Y, optimizer=0.1),
        TypeError,
        (
            "fit: optimizer needs an object such as dlcore.Adam(1e-3) or dlcore.SGD(0.1, "
            "momentum=0.9), found float 0.1"
        ),
    ),
    (
        lambda: network().fit(X, Y, optimizer=dlcore.Adam),
        TypeError,
        (
            "fit: optimizer needs an object such as dlcore.Adam(1e-3) or dlcore.SGD(0.1, "
            "momentum=0.9), found the class Adam"
        ),
    ),
    (
        lambda: dlcore.SGD(-0.1),
        ValueError,
        "SGD: learning_rate needs a finite number of at least 0, found -0.1",
    ),
    (
        lambda: dlcore.Adam("fast"),
        TypeError,
        "Adam: learning_rate needs a number of at least 0, found str 'fast'",
    ),
    (
        lambda: dlcore.AdamW(schedules.Cosine),
        TypeError,
        (
            "AdamW: learning_rate needs a number or an object of dlcore.schedules, "
            "found the class Cosine"
        ),
    ),
    (
        lambda: dlcore.SGD(0.1, momentum=1),
        ValueError,
        "SGD: momentum needs a finite number of at least 0 and below 1, found 1",
    ),
    (
        lambda: dlcore.SGD(0.1, nesterov=True),
        ValueError,
        "SGD: nesterov needs a momentum above 0, found 0",
    ),
    (
        lambda: dlcore.SGD(0.1, weight_decay=-1),
        ValueError,
        "SGD: weight_decay needs a finite number of at least 0, found -1",
    ),
    (
        lambda: dlcore.Adam(betas=0.9),
        TypeError,
        "Adam: betas needs two numbers, found float 0.9",
    ),
    (
        lambda: dlcore.Adam(betas=(0.9, 1.0)),
        ValueError,
        "Adam: betas[1] needs a finite number of at least 0 and below 1, found 1",
    ),
    (
        lambda: dlcore.AdamW(epsilon=-1e-8),
        ValueError,
        "AdamW: epsilon needs a finite number of at least 0, found -1e-08",
    ),
    (
        lambda: schedules.Step(0.1, 0),
        ValueError,
        "Step: epochs needs a finite number above 0, found 0",
    ),
    (
        lambda: schedules.Step(0.1, 1, factor=np.inf),
        ValueError,
        "Step: factor needs a finite number above 0, found inf",
    ),
    (
        lambda: schedules.Cosine(0.1, final=-0.1),
        ValueError,
        "Cosine: final needs a finite number of at least 0, found -0.1",
    ),
    (
        lambda: schedules.Warmup(1, schedules.Warmup(1, 0.1)),
        TypeError,
        "Warmup: then needs another kind of schedule, found a Warmup",
    ),
    (
        lambda: schedules.Warmup(1, None),
        TypeError,
        "Warmup: then needs a number of at least 0, found None",
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
    # summary and files.
    (
        lambda: network().summary(batch_size=0),
        ValueError,
        "summary: batch_size needs an integer of at least 1, found 0",
    ),
    (
        lambda: network().summary(16, "sgd"),
        TypeError,
        (
            "summary: optimizer needs an object such as dlcore.Adam(1e-3) or dlcore.SGD(0.1, "
            "momentum=0.9), found str 'sgd'"
        ),
    ),
    # functional converts nothing.
    (
        lambda: functional.relu([1.0]),
        TypeError,
        "relu: x must be a numpy.ndarray, found list [1.0]",
    ),
    (
        lambda: functional.relu(X.astype(np.float16)),
        TypeError,
        (
            "relu: x must be float32 or float64, found float16; convert it, e.g. "
            "x.astype(numpy.float32)"
        ),
    ),
    (
        lambda: functional.sigmoid(X.T),
        TypeError,
        "sigmoid: x must be C-contiguous; pass numpy.ascontiguousarray(x)",
    ),
    (
        lambda: functional.tanh(X, out=np.zeros(3, np.float32)),
        ValueError,
        "tanh: out must be (6, 4), found (3,)",
    ),
    (
        lambda: functional.silu(X, out=np.zeros((6, 4))),
        TypeError,
        "silu: out must be float32, found float64; convert it, e.g. out.astype(numpy.float32)",
    ),
    (
        lambda: functional.relu_backward(X, X.astype(float)),
        TypeError,
        "relu_backward: dy is float32 but y is float64; convert one, e.g. y.astype(numpy.float32)",
    ),
    (
        lambda: functional.gelu_backward(X, X[:2]),
        ValueError,
        "gelu_backward: dy and x must have the same shape; dy (6, 4), x (2, 4)",
    ),
    (
        lambda: functional.gelu(X, "fast"),
        ValueError,
        "gelu: approximate needs one of none, tanh, found 'fast'",
    ),
    (
        lambda: functional.leaky_relu(X, -1.0),
        ValueError,
        "leaky_relu: negative_slope needs a finite number of at least 0, found -1",
    ),
    (
        lambda: functional.dense(X, np.zeros((5, 3), np.float32)),
        ValueError,
        "dense: x has 4 features but weight expects 3; x (6, 4), weight (5, 3)",
    ),
    (
        lambda: functional.dense(X, np.zeros((5, 4))),
        TypeError,
        "dense: x is float32 but weight is float64; convert one, e.g. weight.astype(numpy.float32)",
    ),
    (
        lambda: functional.dense_backward(X, X, np.zeros((5, 4), np.float32)),
        ValueError,
        "dense_backward: dy must be (6, 5) for x (6, 4) and weight (5, 4), found (6, 4)",
    ),
    (
        lambda: functional.softmax(None),
        TypeError,
        "softmax: logits must be a numpy.ndarray, found None",
    ),
    (
        lambda: functional.cross_entropy(X, np.array([0, 1, 2, 3, 4, 0])),
        ValueError,
        "cross_entropy: labels must lie in 0..3 for 4 classes, found 4 at index 4",
    ),
    (
        lambda: functional.cross_entropy(X, Y.astype(np.int32)),
        TypeError,
        (
            "cross_entropy: labels must be int64, found int32; convert it, e.g. "
            "labels.astype(numpy.int64)"
        ),
    ),
    (
        lambda: functional.cross_entropy(X, Y[:5]),
        ValueError,
        "cross_entropy: labels must be (6,) for logits (6, 4), found (5,)",
    ),
    (
        lambda: functional.mse(X, X[:2]),
        ValueError,
        "mse: prediction and target must have the same shape; prediction (6, 4), target (2, 4)",
    ),
    (
        lambda: functional.binary_cross_entropy(X, X.astype(float)),
        TypeError,
        (
            "binary_cross_entropy: logits is float32 but target is float64; convert one, e.g. "
            "target.astype(numpy.float32)"
        ),
    ),
    (
        lambda: functional.huber(X, X, delta=0),
        ValueError,
        "huber: delta needs a finite number above 0, found 0",
    ),
    (
        lambda: functional.dropout(X, 1.0, seed=0),
        ValueError,
        "dropout: p needs a finite number of at least 0 and below 1, found 1",
    ),
    (
        lambda: functional.dropout_backward(X, 0.5, seed=-1),
        ValueError,
        "dropout_backward: seed needs an integer from 0 to 18446744073709551615, found -1",
    ),
]


@pytest.mark.parametrize(("call", "kind", "sentence"), CASES, ids=[case[2] for case in CASES])
def test_each_mistake_has_its_sentence(call, kind, sentence):
    with pytest.raises(kind, match=f"^{re.escape(sentence)}$") as caught:
        call()
    assert type(caught.value) is kind


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
