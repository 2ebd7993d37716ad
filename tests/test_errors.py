"""Every sentence that a wrong argument ends in, read word by word."""

import re

import numpy as np
import pytest

import dlcore
from dlcore import functional, initializers, losses, schedules

X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4)
Y = np.array([0, 1, 2, 0, 1, 2])


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


def assert_sentence(call, kind, sentence):
    with pytest.raises(kind, match=f"^{re.escape(sentence)}$") as caught:
        call()
    assert type(caught.value) is kind


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
        lambda: functional.sigmoid(np.frombuffer(bytearray(4 * 6 + 1), np.float32, 6, offset=1)),
        TypeError,
        "sigmoid: x must lie at a multiple of its dtype's size; pass x.copy()",
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
if not dlcore.info()["cuda"]:
    CASES.append(
        (
            lambda: network(device="cuda"),
            RuntimeError,
            (
                f'Network: device="cuda" is not available: {dlcore.info()["cuda_status"]}; '
                'use device="cpu"'
            ),
        )
    )


@pytest.mark.parametrize(("call", "kind", "sentence"), CASES, ids=[case[2] for case in CASES])
def test_each_mistake_has_its_sentence(call, kind, sentence):
    assert_sentence(call, kind, sentence)
