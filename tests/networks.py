"""Networks, data and optimizers that several tests train, and what they check alike."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import strategies as st

import dlcore
import reference
from tolerances import assert_within

ACTIVATIONS = {
    "relu": dlcore.ReLU(),
    "leaky_relu": dlcore.LeakyReLU(0.1),
    "sigmoid": dlcore.Sigmoid(),
    "tanh": dlcore.Tanh(),
    "gelu": dlcore.GELU(),
    "gelu_tanh": dlcore.GELU("tanh"),
    "silu": dlcore.SiLU(),
    "softplus": dlcore.Softplus(),
}
LOSSES = {
    "cross_entropy": dlcore.losses.CrossEntropy(),
    "binary_cross_entropy": dlcore.losses.BinaryCrossEntropy(),
    "mse": dlcore.losses.MeanSquaredError(),
    "huber": dlcore.losses.Huber(0.7),
}
OPTIMIZERS = {
    "sgd": dlcore.SGD(0.1),
    "sgd_decay": dlcore.SGD(0.1, weight_decay=0.01),
    "momentum": dlcore.SGD(0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": dlcore.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": dlcore.Adam(0.01),
    "adam_decay": dlcore.Adam(0.01, betas=(0.8, 0.99), epsilon=1e-6, weight_decay=0.01),
    "adamw": dlcore.AdamW(0.01, weight_decay=0.1),
}
SCHEDULES = {
    "constant": dlcore.schedules.Constant(0.1),
    "step": dlcore.schedules.Step(0.1, epochs=1, factor=0.5),
    "cosine": dlcore.schedules.Cosine(0.1, final=0.01),
    "warmup": dlcore.schedules.Warmup(1.5, dlcore.schedules.Cosine(0.1, epochs=1.5)),
}


def twin(network, ops=None):
    """The same network in the reference, on `ops`."""
    nodes = network._graph.nodes
    return reference.Network(nodes, network.input_shape, **({} if ops is None else {"ops": ops}))


def randomise(network, seed, scale=0.5):
    """Biases start at zero, where a wrong one would not be seen."""
    rng = np.random.default_rng(seed)
    shapes = {name: value.shape for name, value in network.parameters.items()}
    network.set_parameters(
        {n: scale * rng.standard_normal(s) for n, s in shapes.items() if n.endswith("bias")}
    )


def targets(rng, loss, count, shape):
    """Labels or values for a loss."""
    if loss == "cross_entropy":
        return rng.integers(0, shape[-1], (count, *shape[:-1]))
    return rng.random((count, *shape))


def build(layers, input_shape, dtype="float64", seed=0):
    """A network with biases that are not zero."""
    network = dlcore.Network(layers, input_shape, seed=seed, dtype=dtype)
    randomise(network, seed)
    return network


@st.composite
def architectures(draw, kind):
    """Layers and input shape: one or two axes, residual blocks, dropout, bare activations."""
    activation, widths = ACTIVATIONS[kind], st.sampled_from([1, 2, 7, 15, 16, 17, 31, 32, 33, 65])
    shape, layers = (draw(widths),), []
    if draw(st.integers(0, 3)) == 0:
        shape = (draw(st.integers(1, 4)), *shape)
        if draw(st.booleans()):
            layers += [dlcore.Dense(draw(widths)), activation]
            if draw(st.booleans()):
                layers += [dlcore.Residual([dlcore.Dense(layers[0].units), activation])]
        if draw(st.booleans()):  # else every position of an example has outputs of its own
            layers.append(dlcore.Flatten())
    width = None
    for block in draw(
        st.lists(st.sampled_from(["dense", "linear", "residual", "dropout", "bare"]), max_size=4)
    ):
        if block in ("dense", "linear") or (block == "residual" and width is None):
            width = draw(widths)
            layers.append(dlcore.Dense(width, bias=draw(st.booleans())))
            if block != "linear":
                layers.append(activation)
        elif block == "residual":
            inner = [dlcore.Dense(width), activation]
            if draw(st.booleans()):
                inner = [activation, dlcore.Dropout(0.25), dlcore.Dense(width, bias=False)]
            layers.append(dlcore.Residual(inner))
        else:
            layers.append(activation if block == "bare" else dlcore.Dropout(0.5))
    return [*layers, dlcore.Dense(draw(st.sampled_from([1, 2, 5, 10, 33])))], shape


def small_network(dtype, dropout=0.25, kind="tanh"):
    """Everything that training meets, small enough for its bounds to stay small."""
    layers = [
        dlcore.Dense(12),
        ACTIVATIONS[kind],
        dlcore.Dropout(dropout),
        dlcore.Residual([dlcore.Dense(12), ACTIVATIONS[kind]]),
        dlcore.Dense(3),
    ]
    return build(layers, (7,), dtype, seed=5)


def small_data(dtype, count=22, loss="cross_entropy"):
    rng = np.random.default_rng(8)
    x = rng.standard_normal((count, 7)).astype(dtype)
    y = targets(rng, loss, count, (3,))
    return x, y if loss == "cross_entropy" else y.astype(dtype)


def bits(network):
    """Digests of all parameters, by place, whatever their names."""
    return [hashlib.sha256(p.tobytes()).hexdigest() for p in network.parameters.values()]


def follow(network, x, y, *, loss="cross_entropy", optimizer, bounds, **settings):
    """Steps of the reference trainer from the network's parameters, with bounds."""
    model = twin(network, bounds)
    parameters = {name: bounds.exact(p) for name, p in network.parameters.items()}
    y = y if loss == "cross_entropy" else y.astype(np.float64)
    return reference.train(
        model,
        parameters,
        bounds.exact(x),
        y,
        loss=LOSSES[loss]._native(),
        optimizer=optimizer._native(),
        schedule=optimizer.schedule._native(),
        first_step=network._core.step,
        **settings,
    )


def assert_parameters(network, expected, dtype, largest):
    """Within the bounds, and nine in ten bounds are no larger than `largest`.

    Where a gradient is near zero, Adam divides its error by a root that is as small.
    """
    for name, value in network.parameters.items():
        bounded = expected[name]
        assert_within(value, bounded.value, bounded.error, name=name, dtype=dtype)
        typical = float(np.quantile(bounded.error, 0.9, method="higher"))
        assert typical <= largest, f"the bound of {name} says too little: {typical}"


def assert_losses(history, steps, weight, per_epoch, slack=0.0):
    """A history's losses are the steps' by their weight, within the bounds and `slack`."""
    for epoch, loss in enumerate(history.loss):
        part = steps[per_epoch * epoch : per_epoch * (epoch + 1)]
        share = np.array([len(s.rows) if weight is None else weight[s.rows].sum() for s in part])
        share = share / share.sum()
        mean = sum(w * s.loss.value for w, s in zip(share, part, strict=True))
        error = sum(w * s.loss.error for w, s in zip(share, part, strict=True))
        assert_within(loss, mean, error + slack)


def diverging(name):
    """Data and an optimizer with which a small network's numbers overflow."""
    rng = np.random.default_rng(0)
    x = 100 * rng.standard_normal((100, 5)).astype(np.float32)
    y = rng.standard_normal((100, 2)).astype(np.float32)
    optimizer = {
        "sgd": dlcore.SGD(30.0),
        "momentum": dlcore.SGD(30.0, momentum=0.9),
        "adam": dlcore.Adam(1e15),
    }[name]
    return x, y, optimizer


def fit_steps(network, x, y, steps, **options):
    """So many steps of one example each, as a fit without shuffling takes them."""
    whole, rest = divmod(steps, len(x))
    for _ in range(whole):
        network.fit(x, y, epochs=1, **options)
    if rest:
        network.fit(x[:rest], y[:rest], epochs=1, **options)
