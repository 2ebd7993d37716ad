"""What every operation means: NumPy, float64, a few lines each, as in the paper.

Names and arguments are those of the core. A network is a list of nodes (`Network`), so that whole
training runs can be followed step by step. Nothing here is fast, and nothing here is clever.

Sources: [HTF] Hastie, Tibshirani, Friedman, *The Elements of Statistical Learning*, 2nd ed.;
[GBC] Goodfellow, Bengio, Courville, *Deep Learning*; others are named where they are used.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PURPOSES = {"shuffle": 0, "dropout": 1, "weights": 2}

_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def erf(x):
    """Error function of every element, the C library's."""
    return _erf(x) if np.size(x) else np.zeros(np.shape(x))


def erfc(x):
    """Complement of the error function; keeps its relative accuracy in the right tail."""
    return _erfc(x) if np.size(x) else np.zeros(np.shape(x))


# Activations ------------------------------------------------------------------------------------


def _sigmoid(x):
    e = np.exp(-np.abs(x))  # never overflows
    return np.where(x < 0, e, 1) / (1 + e)


def _normal_density(x):
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def gelu_tanh_argument(x):
    """The u of gelu_tanh(x) = x (1 + tanh(u)) / 2 and du/dx (Hendrycks and Gimpel 2016)."""
    root, cubic = math.sqrt(2 / math.pi), 0.044715
    return root * x * (1 + cubic * x * x), root * (1 + 3 * cubic * x * x)


# x sigmoid(x) and its like have limits where the formula would multiply infinity by zero. Beyond
# this argument they are equal to their limits in float64.
_FLAT = 1e4


def _silu(x):
    x = np.maximum(x, -_FLAT)
    return x * _sigmoid(x)


def _silu_derivative(x):
    x = np.clip(x, -_FLAT, _FLAT)
    return _sigmoid(x) * (1 + x * _sigmoid(-x))


def _gelu(x):
    x = np.maximum(x, -_FLAT)
    return x * (erfc(-x / math.sqrt(2)) / 2)


def _gelu_derivative(x):
    x = np.clip(x, -_FLAT, _FLAT)
    return erfc(-x / math.sqrt(2)) / 2 + x * _normal_density(x)


def _gelu_tanh(x):
    x = np.maximum(x, -_FLAT)
    return x * _sigmoid(2 * gelu_tanh_argument(x)[0])


def _gelu_tanh_derivative(x):
    x = np.clip(x, -_FLAT, _FLAT)
    u, du = gelu_tanh_argument(x)
    s = _sigmoid(2 * u)  # (1 + tanh(u)) / 2 without its cancellation
    return s + x * s * _sigmoid(-2 * u) * 2 * du


def _step(y, below):
    """1 above zero, else `below`; NaN stays."""
    side = np.heaviside(y, 0)
    return np.where(side == 0, below, side)


@dataclass(frozen=True)
class Activation:
    """One row of the table: f(x, alpha), its derivative as a function of what backward reads."""

    forward: Callable[..., Any]
    derivative: Callable[..., Any]
    reads: str = "y"
    kink: bool = False


#: relu: Glorot, Bordes, Bengio 2011 (derivative 0 at 0). leaky_relu: Maas et al. 2013.
#: sigmoid, tanh, softplus: [GBC] section 3.10 and 6.3. gelu: Hendrycks and Gimpel 2016.
#: silu: Elfwing et al. 2017, eq. 5-6.
ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(lambda x, a: x, lambda y, a: np.ones_like(y)),
    "relu": Activation(lambda x, a: np.maximum(x, 0), lambda y, a: _step(y, 0.0), kink=True),
    "leaky_relu": Activation(
        lambda x, a: np.where(x > 0, x, a * x), lambda y, a: _step(y, a), kink=True
    ),
    "sigmoid": Activation(lambda x, a: _sigmoid(x), lambda y, a: y * (1 - y)),
    "tanh": Activation(lambda x, a: np.tanh(x), lambda y, a: (1 - y) * (1 + y)),
    "gelu": Activation(lambda x, a: _gelu(x), lambda x, a: _gelu_derivative(x), "x"),
    "gelu_tanh": Activation(lambda x, a: _gelu_tanh(x), lambda x, a: _gelu_tanh_derivative(x), "x"),
    "silu": Activation(lambda x, a: _silu(x), lambda x, a: _silu_derivative(x), "x"),
    # d/dx log(1 + e^x) = sigmoid(x) = 1 - e^-y
    "softplus": Activation(
        lambda x, a: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), lambda y, a: -np.expm1(-y)
    ),
}


def activation_forward(kind, x, alpha=0.0):
    """y = f(x); `alpha` is the slope of leaky_relu below zero. Keeps longdouble."""
    return ACTIVATIONS[kind].forward(np.asarray(x, np.result_type(x, np.float64)), alpha)


def activation_backward(kind, dy, saved, alpha=0.0):
    """dx = dy f'(x), where `saved` is y, or x for gelu, gelu_tanh and silu."""
    saved = np.asarray(saved, np.float64)
    return np.asarray(dy, np.float64) * ACTIVATIONS[kind].derivative(saved, alpha)


# Layers -----------------------------------------------------------------------------------------


def dense_forward(x, weight, bias=None):
    """y = x W^T + b, W of shape (out_features, in_features) ([GBC] eq. 6.3)."""
    y = np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T
    return y if bias is None else y + bias


def dense_backward(dy, x, weight):
    """dx = dy W, dW = dy^T x, db = sum of dy over the batch ([GBC] eq. 6.50)."""
    dy, x, weight = (np.asarray(a, np.float64) for a in (dy, x, weight))
    return dy @ weight, dy.T @ x, dy.sum(axis=0)


def add(a, b):
    """Residual connection (He et al. 2016, eq. 1)."""
    return a + b


def dropout_mask(shape, p, seed, step, layer):
    """Which elements stay; element i of the batch in C order reads word i of the stream."""
    count = math.prod(shape)
    words = random_words(seed, PURPOSES["dropout"], layer, step, count)
    return (words >= math.floor(p * 2**32)).reshape(shape)


def dropout(x, p, mask):
    """Inverted dropout (Srivastava et al. 2014, section 10), forward and backward alike."""
    return np.where(mask, np.asarray(x, np.float64) / (1 - p), 0.0)


def dropout_forward(x, p, seed, step, layer):
    """Dropout with the mask of this seed, step and layer."""
    return dropout(x, p, dropout_mask(np.shape(x), p, seed, step, layer))


# Losses: mean over all elements, weighted sum(w l) / sum(w) with l an example's mean --------------


def softmax(logits):
    """e^x / sum e^x by rows, shifted by the row's largest ([GBC] section 4.1)."""
    logits = np.asarray(logits, np.float64)
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def cross_entropy_rows(logits, labels):
    """-log softmax(x)[label] over the last axis ([HTF] eq. 11.10)."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    picked = np.take_along_axis(shifted, np.asarray(labels)[..., None], axis=-1)[..., 0]
    return np.log(np.exp(shifted).sum(axis=-1)) - picked


def cross_entropy_derivative(logits, labels):
    """softmax(x) - onehot(label) ([HTF] eq. 11.12 with a softmax output)."""
    return softmax(logits) - np.eye(np.shape(logits)[-1])[labels]


def _bce(x, t, delta):
    return np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x)))


def _huber(x, t, delta):
    r = np.abs(x - t)
    return np.where(r <= delta, r * r / 2, delta * (r - delta / 2))


#: kind -> l(x, t), dl/dx. Binary cross-entropy on logits: -t log s - (1 - t) log(1 - s) with
#: s = sigmoid(x). Huber 1964 with a quadratic part r^2 / 2.
ELEMENT_LOSSES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "binary_cross_entropy": (_bce, lambda x, t, delta: _sigmoid(x) - t),
    "mse": (lambda x, t, delta: (x - t) ** 2, lambda x, t, delta: 2 * (x - t)),
    "huber": (_huber, lambda x, t, delta: np.clip(x - t, -delta, delta)),
}


def example_weights(count, sample_weight):
    """Each example's share of the loss; they sum to one, or are all zero."""
    w = np.ones(count) if sample_weight is None else np.asarray(sample_weight, np.float64)
    total = w.sum()
    return w / total if total > 0 else np.zeros(count)


def loss_forward(kind, prediction, target, sample_weight=None, delta=1.0):
    """The loss of a batch; `prediction` holds logits for the cross-entropies."""
    prediction = np.asarray(prediction, np.float64)
    if kind == "cross_entropy":
        elements = cross_entropy_rows(prediction, target)
    else:
        elements = ELEMENT_LOSSES[kind][0](prediction, np.asarray(target, np.float64), delta)
    rows = elements.reshape(len(elements), -1).mean(axis=1)
    w = example_weights(len(rows), sample_weight)
    return float(rows[w > 0] @ w[w > 0])


def loss_backward(kind, prediction, target, sample_weight=None, delta=1.0):
    """Derivative of `loss_forward` by the prediction."""
    prediction = np.asarray(prediction, np.float64)
    if kind == "cross_entropy":
        derivative = cross_entropy_derivative(prediction, target)
    else:
        derivative = ELEMENT_LOSSES[kind][1](prediction, np.asarray(target, np.float64), delta)
    w = example_weights(len(prediction), sample_weight) / math.prod(np.shape(target)[1:])
    w = w.reshape(-1, *[1] * (prediction.ndim - 1))
    return np.where(w > 0, derivative, 0.0) * w


# Optimizers: PyTorch's formulas; one step, functional ---------------------------------------------


def sgd_step(
    parameter, gradient, velocity, learning_rate, momentum=0.0, nesterov=False, weight_decay=0.0
):
    """Gradient descent, with momentum as in Sutskever et al. 2013; returns (parameter, velocity).

    The velocity starts at zero, so that the first one is the gradient.
    """
    gradient = gradient + weight_decay * parameter
    if momentum:
        velocity = momentum * velocity + gradient
        gradient = gradient + momentum * velocity if nesterov else velocity
    return parameter - learning_rate * gradient, velocity


def adam_step(
    parameter,
    gradient,
    first,
    second,
    learning_rate,
    beta1,
    beta2,
    epsilon,
    weight_decay,
    decoupled,
    step,
):
    """Adam (Kingma and Ba 2015, algorithm 1); decoupled: AdamW (Loshchilov and Hutter 2019).

    `step` counts from 1. Returns (parameter, first, second).
    """
    if decoupled:
        parameter = parameter * (1 - learning_rate * weight_decay)
    else:
        gradient = gradient + weight_decay * parameter
    first = beta1 * first + (1 - beta1) * gradient
    second = beta2 * second + (1 - beta2) * (gradient * gradient)
    ratio = (first / (1 - beta1**step)) / (np.sqrt(second / (1 - beta2**step)) + epsilon)
    return parameter - learning_rate * ratio, first, second


def clip_by_norm(gradients, clip_norm):
    """All gradients times min(1, c / (|g| + 1e-6)), |g| the norm of all of them (Pascanu 2013)."""
    norm = math.sqrt(sum(float(np.sum(g * g)) for g in gradients))
    return [g * min(1.0, clip_norm / (norm + 1e-6)) for g in gradients]


def learning_rate_at(schedule, step, steps_per_epoch, epochs):
    """Learning rate of a step (from 0) of a fit of `epochs` epochs.

    step: factor ** floor(t / epochs) (He et al. 2016). cosine: Loshchilov and Hutter 2017, eq. 5,
    without restarts. warmup_epochs: linear from 0 (Goyal et al. 2017), on top of any of them.
    """
    kind, rate, t = schedule["kind"], schedule["learning_rate"], step / steps_per_epoch
    if kind == "step":
        rate *= schedule["factor"] ** math.floor(t / schedule["epochs"])
    elif kind == "cosine":
        final, part = schedule["final"], min(t / (schedule["epochs"] or epochs), 1)
        rate = final + (rate - final) * (1 + math.cos(math.pi * part)) / 2
    warmup = schedule.get("warmup_epochs", 0) * steps_per_epoch
    return rate * min(1.0, (step + 1) / warmup) if warmup else rate


# Random numbers -----------------------------------------------------------------------------------


def philox4x32(counter, key):
    """Philox4x32-10 of Salmon, Moraes, Dror, Shaw 2011 (SC11), section 3.3.

    `counter` is (..., 4) and `key` (2,), words of 32 bits; the result is (..., 4) uint32.
    """
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, np.uint64), -1, 0)
    k0, k1 = (int(k) for k in key)
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1 = (b >> half) ^ c1 ^ np.uint64(k0), b & low
        c2, c3 = (a >> half) ^ c3 ^ np.uint64(k1), a & low
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def random_words(seed, purpose, layer, step, count, first=0):
    """Words `first` .. `first + count` of a stream; word i is word i % 4 of block i // 4."""
    start, stop = first // 4, -(-(first + count) // 4)
    block = np.arange(start, stop, dtype=np.uint64)
    counter = np.empty((len(block), 4), np.uint64)
    counter[:, 0] = block & np.uint64(0xFFFFFFFF)
    counter[:, 1] = (block >> np.uint64(32)) & np.uint64(0xFFFFFF) | np.uint64(purpose << 24)
    counter[:, 2] = step & 0xFFFFFFFF
    counter[:, 3] = ((step >> 32) & 0xFFFF) | layer << 16
    words = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32)).reshape(-1)
    return words[first - 4 * start :][:count]


def _unit(a, b):
    """53-bit uniforms on [0, 1) from two words each."""
    a, b = a.astype(np.uint64) >> np.uint64(5), b.astype(np.uint64) >> np.uint64(6)
    return (a * 2.0**26 + b) * 2.0**-53


def random_uniform(seed, purpose, layer, count):
    """Uniforms on [0, 1)."""
    words = random_words(seed, purpose, layer, 0, 2 * count)
    return _unit(words[0::2], words[1::2])


def random_normal(seed, purpose, layer, count):
    """Standard normals by Box and Muller 1958, a pair from each block."""
    words = random_words(seed, purpose, layer, 0, 4 * -(-count // 2)).reshape(-1, 4).T
    radius = np.sqrt(-2 * np.log1p(-_unit(words[0], words[1])))
    angle = 2 * math.pi * _unit(words[2], words[3])
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:count]


def random_permutation(seed, step, count):
    """Order of the examples in the epoch that starts at `step` (Fisher-Yates, Knuth vol. 2)."""
    order = np.arange(count)
    words = random_words(seed, PURPOSES["shuffle"], 0, step, count).astype(np.uint64)
    for i in range(count - 1, 0, -1):
        j = int(words[i]) * (i + 1) >> 32
        order[i], order[j] = order[j], order[i]
    return order


#: initializer -> (distribution, variance as a function of in_features, out_features).
#: He et al. 2015, eq. 10; Glorot and Bengio 2010, eq. 12 and 16; LeCun et al. 1998, eq. 16.
INITIALIZERS: dict[str, tuple[str, Callable[[int, int], float]]] = {
    "he_normal": ("normal", lambda i, o: 2 / i),
    "he_uniform": ("uniform", lambda i, o: 2 / i),
    "glorot_normal": ("normal", lambda i, o: 2 / (i + o)),
    "glorot_uniform": ("uniform", lambda i, o: 2 / (i + o)),
    "lecun_normal": ("normal", lambda i, o: 1 / i),
    "lecun_uniform": ("uniform", lambda i, o: 1 / i),
}


def initial_weight(initializer, seed, layer, out_features, in_features):
    """Weight (out_features, in_features); a uniform on [-a, a] has variance a^2 / 3.

    orthogonal: Saxe, McClelland, Ganguli 2014: Q of the QR decomposition of a normal matrix, the
    signs such that the diagonal of R is positive.
    """
    count, shape = out_features * in_features, (out_features, in_features)
    if initializer == "orthogonal":
        a = random_normal(seed, PURPOSES["weights"], layer, count).reshape(shape)
        q, r = np.linalg.qr(a if out_features >= in_features else a.T)
        q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
        return q if out_features >= in_features else q.T
    distribution, variance = INITIALIZERS[initializer]
    std = math.sqrt(variance(in_features, out_features))
    if distribution == "normal":
        return std * random_normal(seed, PURPOSES["weights"], layer, count).reshape(shape)
    uniform = random_uniform(seed, PURPOSES["weights"], layer, count).reshape(shape)
    return math.sqrt(3) * std * (2 * uniform - 1)


# A network and its training -----------------------------------------------------------------------


def _rows(a):
    """An array as a matrix: dense maps its last axis."""
    return a.reshape(-1, a.shape[-1])


@dataclass
class Network:
    """A graph of nodes 1, 2, ...; node 0 is the input, the last one the output.

    A node is {"op": "dense", "inputs": [i], "name", "units", "bias"}, {"op": "activation",
    "inputs", "kind", "alpha"}, {"op": "dropout", "inputs", "p"}, {"op": "flatten", "inputs"} or
    {"op": "add", "inputs": [i, j]}. Every number it works on goes through `ops`: this module, or
    `tolerances.Bounds`, which carries an error bound beside each value.
    """

    nodes: Sequence[Mapping[str, Any]]
    input_shape: Sequence[int]
    ops: Any = field(default_factory=lambda: sys.modules[__name__])

    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of one example at every node; dense maps the last axis."""
        shapes = [tuple(self.input_shape)]
        for node in self.nodes:
            shape = shapes[node["inputs"][0]]
            if node["op"] == "dense":
                shape = (*shape[:-1], node["units"])
            elif node["op"] == "flatten":
                shape = (math.prod(shape),)
            shapes.append(shape)
        return shapes

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters, in the order of the nodes."""
        sizes, shapes = self.shapes(), {}
        for node in self.nodes:
            if node["op"] == "dense":
                units, name = node["units"], node["name"]
                shapes[f"{name}.weight"] = (units, sizes[node["inputs"][0]][-1])
                if node.get("bias", True):
                    shapes[f"{name}.bias"] = (units,)
        return shapes

    def forward(self, parameters, x, dropout=None) -> list[Any]:
        """Values of all nodes; `dropout` is (seed, step) in training, else None."""
        ops, values = self.ops, [x]
        for index, node in enumerate(self.nodes, start=1):
            a = values[node["inputs"][0]]
            if node["op"] == "dense":
                weight = parameters[f"{node['name']}.weight"]
                bias = parameters.get(f"{node['name']}.bias")
                rows = ops.dense_forward(_rows(a), weight, bias)
                a = rows.reshape(*a.shape[:-1], node["units"])
            elif node["op"] == "activation":
                a = ops.activation_forward(node["kind"], a, node.get("alpha", 0.0))
            elif node["op"] == "dropout" and dropout is not None:
                a = ops.dropout(a, node["p"], dropout_mask(a.shape, node["p"], *dropout, index))
            elif node["op"] == "flatten":
                a = a.reshape(len(a), -1)
            elif node["op"] == "add":
                a = ops.add(a, values[node["inputs"][1]])
            values.append(a)
        return values

    def backward(self, parameters, values, dy, dropout=None) -> dict[str, Any]:
        """Gradients of all parameters; `dy` is the derivative by the last node ([GBC] alg. 6.4)."""
        ops, gradients = self.ops, {}
        derivatives: list[Any] = [None] * len(values)
        derivatives[-1] = dy
        for index in range(len(self.nodes), 0, -1):
            node, dy = self.nodes[index - 1], derivatives[index]
            if dy is None:  # nobody reads this node
                continue
            a, *others = node["inputs"]
            if node["op"] == "dense":
                name = node["name"]
                weight = parameters[f"{name}.weight"]
                dx, dw, db = ops.dense_backward(_rows(dy), _rows(values[a]), weight)
                dy = dx.reshape(*values[a].shape)
                gradients[f"{name}.weight"] = dw
                if f"{name}.bias" in parameters:
                    gradients[f"{name}.bias"] = db
            elif node["op"] == "activation":
                kind = node["kind"]
                saved = values[index] if ACTIVATIONS[kind].reads == "y" else values[a]
                dy = ops.activation_backward(kind, dy, saved, node.get("alpha", 0.0))
            elif node["op"] == "dropout" and dropout is not None:
                dy = ops.dropout(dy, node["p"], dropout_mask(dy.shape, node["p"], *dropout, index))
            elif node["op"] == "flatten":
                dy = dy.reshape(*values[a].shape)
            for i in (a, *others):
                derivatives[i] = dy if derivatives[i] is None else ops.add(derivatives[i], dy)
        return {name: gradients[name] for name in parameters}

    def loss_and_gradients(self, parameters, x, y, loss, sample_weight=None, dropout=None):
        """Loss of a batch and the gradients of all parameters."""
        values = self.forward(parameters, x, dropout)
        arguments = loss["kind"], values[-1], y, sample_weight, loss.get("delta", 1.0)
        dy = self.ops.loss_backward(*arguments)
        gradients = self.backward(parameters, values, dy, dropout)
        return self.ops.loss_forward(*arguments), gradients

    def kink_sides(self, parameters, x, dropout=None) -> np.ndarray:
        """Which side of its kink every argument of a relu or leaky_relu lies on."""
        values = self.forward(parameters, x, dropout)
        sides = [
            values[node["inputs"][0]].ravel() > 0
            for node in self.nodes
            if node["op"] == "activation" and ACTIVATIONS[node["kind"]].kink
        ]
        return np.concatenate([np.zeros(0, bool), *sides])


@dataclass
class Step:
    """One step of `train`: what it saw before its update, and the parameters after it."""

    step: int
    rows: np.ndarray
    loss: Any
    learning_rate: float
    parameters: dict[str, Any]


def train(
    network: Network,
    parameters: Mapping[str, Any],
    x: Any,
    y: np.ndarray,
    *,
    loss: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    schedule: Mapping[str, Any],
    epochs: int = 1,
    batch_size: int,
    shuffle: bool = True,
    seed: int = 0,
    sample_weight: np.ndarray | None = None,
    clip_norm: float = 0.0,
    first_step: int = 0,
) -> Iterator[Step]:
    """Train step by step; `first_step` is the network's step counter at the start.

    The last batch of an epoch holds what is left. `clip_norm` 0 means no clipping.
    """
    ops, n = network.ops, len(y)
    parameters = dict(parameters)
    state = {name: (0.0 * p, 0.0 * p) for name, p in parameters.items()}
    steps_per_epoch = -(-n // batch_size)
    for epoch in range(epochs):
        start = first_step + epoch * steps_per_epoch
        order = random_permutation(seed, start, n) if shuffle else np.arange(n)
        for batch in range(steps_per_epoch):
            rows = order[batch * batch_size : (batch + 1) * batch_size]
            value, gradients = network.loss_and_gradients(
                parameters,
                x[rows],
                y[rows],
                loss,
                None if sample_weight is None else sample_weight[rows],
                dropout=(seed, start + batch),
            )
            if clip_norm:
                clipped = ops.clip_by_norm(list(gradients.values()), clip_norm)
                gradients = dict(zip(gradients, clipped, strict=True))
            done = epoch * steps_per_epoch + batch
            rate = learning_rate_at(schedule, done, steps_per_epoch, epochs)
            for name, p in parameters.items():
                first, second = state[name]
                if optimizer["kind"] == "sgd":
                    p, first = ops.sgd_step(
                        p,
                        gradients[name],
                        first,
                        rate,
                        optimizer["momentum"],
                        optimizer["nesterov"],
                        optimizer["weight_decay"],
                    )
                else:
                    p, first, second = ops.adam_step(
                        p,
                        gradients[name],
                        first,
                        second,
                        rate,
                        optimizer["beta1"],
                        optimizer["beta2"],
                        optimizer["epsilon"],
                        optimizer["weight_decay"],
                        optimizer["kind"] == "adamw",
                        done + 1,
                    )
                parameters[name], state[name] = p, (first, second)
            yield Step(start + batch, rows, value, rate, dict(parameters))
