"""The reference itself: published numbers, closed forms, and gradients against differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gradcheck
import reference
from cases import CASES

# Values and derivatives at POINTS, made with PyTorch 2.13 in float64 and its autograd.
POINTS = [-3.0, -0.5, 0.0, 0.75, 4.0]
ACTIVATIONS = {
    "relu": ([0, 0, 0, 0.75, 4], [0, 0, 0, 1, 1]),
    "leaky_relu": ([-0.3, -0.05, 0, 0.75, 4], [0.1, 0.1, 0.1, 1, 1]),
    "sigmoid": (
        [0.04742587317756678, 0.3775406687981454, 0.5, 0.679178699175393, 0.9820137900379085],
        [0.04517665973091214, 0.2350037122015945, 0.25, 0.21789499376181404, 0.017662706213291107],
    ),
    "tanh": (
        [-0.9950547536867305, -0.46211715726000974, 0, 0.6351489523872873, 0.999329299739067],
        [0.009866037165440166, 0.7864477329659274, 1, 0.5965858082813315, 0.0013409506830259165],
    ),
    "gelu": (
        [-0.00404969409489031, -0.15426876936299344, 0, 0.5800294857173489, 3.9998733150326675],
        [-0.01194564720418392, 0.13250487534383712, 0.5, 0.9992257217392352, 1.0005036496612265],
    ),
    "gelu_tanh": (
        [-0.0036373920817729943, -0.15428599017485606, 0, 0.5799605551656203, 3.9999297540518075],
        [-0.011584166630969648, 0.13263009646535764, 0.5, 0.9989382561374143, 1.000335123197122],
    ),
    "silu": (
        [-0.14227761953270035, -0.1887703343990727, 0, 0.5093840243815447, 3.928055160151634],
        [-0.08810410601516962, 0.2600388126973482, 0.5, 0.8425999444967536, 1.0526646148910728],
    ),
    "softplus": (
        [
            0.04858735157374206,
            0.4740769841801067,
            0.6931471805599453,
            1.1368710061148999,
            4.0181499279178094,
        ],
        [0.04742587317756679, 0.37754066879814546, 0.5, 0.679178699175393, 0.9820137900379085],
    ),
}


def close(actual, expected, tolerance=1e-12):
    """Equal but for a few roundings of float64."""
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_are_those_of_pytorch(kind):
    y, derivative = ACTIVATIONS[kind]
    x = np.array(POINTS)
    close(reference.activation_forward(kind, x, 0.1), y)
    saved = x if reference.ACTIVATIONS[kind].reads == "x" else np.array(y)
    close(reference.activation_backward(kind, 2.0, saved, 0.1), 2 * np.array(derivative))


@pytest.mark.parametrize("kind", sorted(reference.ACTIVATIONS))
def test_activations_at_the_ends(kind):
    """Limits at the infinities, no overflow before them, and NaN stays NaN."""
    x = np.array([-np.inf, -1e300, -1e3, 1e3, 1e300, np.inf, np.nan])
    low = {"identity": x[:3], "leaky_relu": 0.1 * x[:3], "tanh": -1.0}.get(kind, 0.0)
    high = {"sigmoid": 1.0, "tanh": 1.0}.get(kind, x[3:6])
    with np.errstate(over="ignore"):
        y = reference.activation_forward(kind, x, 0.1)
        np.testing.assert_array_equal(y[:3], np.broadcast_to(low, 3))
        np.testing.assert_array_equal(y[3:6], np.broadcast_to(high, 3))
        assert np.isnan(y[6])
        if reference.ACTIVATIONS[kind].reads == "x":
            derivative = reference.activation_backward(kind, 1.0, x)
            np.testing.assert_array_equal(derivative, [0, 0, 0, 1, 1, 1, np.nan])


def test_activations_keep_their_relative_accuracy_in_the_tails():
    scipy_special = pytest.importorskip("scipy.special")
    x = np.linspace(-30, 30, 2001)
    close(np.log(reference.activation_forward("sigmoid", x)), scipy_special.log_expit(x), 1e-13)
    negative = x[x < 0]
    gelu = reference.activation_forward("gelu", negative)
    close(np.log(gelu / negative), scipy_special.log_ndtr(negative), 1e-13)
    close(reference.erf(x), scipy_special.erf(x), 1e-15)
    assert reference.erf(np.zeros((0, 3))).shape == reference.erfc(np.zeros((0, 3))).shape == (0, 3)


LOGITS = np.array([[1.0, -2.0, 0.5], [3.0, 0.0, -1.0]])
# Made with PyTorch like the above; the target of each loss, its value and gradient by LOGITS.
LOSSES = {
    "cross_entropy": (
        [2, 0],
        0.5352404030498562,
        [
            [0.3018744480743129, 0.015029443784787011, -0.3169038918590999],
            [-0.03188022406174712, 0.023306311288986945, 0.008573912772760194],
        ],
    ),
    "binary_cross_entropy": (
        [[0.0, 1.0, 0.25], [1.0, 0.5, 0.0]],
        0.8907104837322019,
        [
            [0.12184309643833414, -0.14679951299631375, 0.0620765552003091],
            [-0.007904312196261106, 0.0, 0.04482357022833252],
        ],
    ),
    "mse": (
        [[0.0, 1.0, 0.25], [1.0, 2.5, -1.0]],
        3.3854166666666665,
        [[1 / 3, -1.0, 1 / 12], [2 / 3, -5 / 6, 0.0]],
    ),
    "huber": (
        [[0.0, 1.0, 0.25], [1.0, 2.5, -1.0]],
        1.4010416666666667,
        [[1 / 6, -0.25, 1 / 24], [0.25, -0.25, 0.0]],
    ),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_are_those_of_pytorch(kind):
    target, value, gradient = LOSSES[kind]
    target = np.array(target)
    close(reference.loss_forward(kind, LOGITS, target, delta=1.5), value)
    close(reference.loss_backward(kind, LOGITS, target, delta=1.5), gradient)


@pytest.mark.parametrize("kind", LOSSES)
def test_weighted_loss_is_a_weighted_mean(kind):
    target = np.array(LOSSES[kind][0])
    rows = [reference.loss_forward(kind, LOGITS[[i]], target[[i]]) for i in range(2)]
    weighted = reference.loss_forward(kind, LOGITS, target, np.array([1.0, 3.0]))
    close(weighted, (rows[0] + 3 * rows[1]) / 4)
    zero = np.zeros(2)
    assert reference.loss_forward(kind, LOGITS, target, zero) == 0
    assert not reference.loss_backward(kind, LOGITS, target, zero).any()


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_of_several_positions(kind):
    """Outputs of shape (positions, features): the mean over all, as one long batch."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 2, 3))
    labelled = kind == "cross_entropy"
    target = rng.integers(0, 3, (4, 2)) if labelled else rng.random((4, 2, 3))
    rows = x.reshape(8, 3), target.reshape(8) if labelled else target.reshape(8, 3)
    close(reference.loss_forward(kind, x, target), reference.loss_forward(kind, *rows))
    gradient = reference.loss_backward(kind, x, target)
    close(gradient.reshape(8, 3), reference.loss_backward(kind, *rows))
    weighted = reference.loss_backward(kind, x, target, np.array([0, 0, 2, 0]))
    close(weighted[2], 4 * gradient[2])
    assert not weighted[[0, 1, 3]].any()


def test_softmax_and_cross_entropy_survive_large_logits():
    logits = np.array([[1e300, 0.0, -1e300], [-np.inf, 0.0, 0.0]])
    np.testing.assert_array_equal(reference.softmax(logits), [[1, 0, 0], [0, 0.5, 0.5]])
    close(reference.cross_entropy_rows(logits[1:], [1]), math.log(2))


def test_binary_cross_entropy_is_that_of_two_classes():
    x = np.linspace(-40, 40, 9)
    two = np.stack([np.zeros(9), x], axis=1)
    for label in (0, 1):
        rows = reference.cross_entropy_rows(two, np.full(9, label))
        binary = [
            reference.loss_forward("binary_cross_entropy", [[v]], [[float(label)]]) for v in x
        ]
        close(binary, rows, 1e-15)


@pytest.mark.parametrize("case", [case for case in CASES if case.gradient], ids=lambda c: c.name)
def test_backward_is_the_derivative_of_forward(case):
    """Every backward of `reference.py` along random directions, at three sizes."""
    rng = np.random.default_rng(7)
    for sizes in case.small:
        value, gradient, point, kinks = case.gradient(rng, *sizes)
        gradcheck.check(value, gradient, point, rng, kinks, directions=3)


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("kind", [k for k in sorted(reference.ACTIVATIONS) if k != "identity"])
def test_gradient_of_a_whole_network(kind, loss):
    """A graph with a residual block, dropout and a node that two others read."""
    rng = np.random.default_rng(11)
    activation = {"op": "activation", "kind": kind, "alpha": 0.1}
    nodes = [
        {"op": "dense", "inputs": [0], "name": "0", "units": 7, "bias": True},
        {**activation, "inputs": [1]},
        {"op": "dense", "inputs": [2], "name": "2.0", "units": 7, "bias": False},
        {**activation, "inputs": [3]},
        {"op": "dropout", "inputs": [4], "p": 0.25},
        {"op": "add", "inputs": [2, 5]},
        {"op": "flatten", "inputs": [6]},
        {"op": "dense", "inputs": [7], "name": "4", "units": 3, "bias": True},
    ]
    network = reference.Network(nodes, (5,))
    parameters = {n: rng.standard_normal(s) for n, s in network.parameter_shapes().items()}
    assert list(parameters) == ["0.weight", "0.bias", "2.0.weight", "4.weight", "4.bias"]
    x, settings = rng.standard_normal((6, 5)), {"kind": loss, "delta": 0.7}
    y = rng.integers(0, 3, 6) if loss == "cross_entropy" else rng.random((6, 3))
    weights, dropout = rng.random(6), (3, 2)

    def value(parameters):
        return network.loss_and_gradients(parameters, x, y, settings, weights, dropout)[0]

    def kinks(parameters):
        sides = network.kink_sides(parameters, x, dropout)
        r = np.abs(network.forward(parameters, x, dropout)[-1] - y) if loss == "huber" else sides
        return np.concatenate([sides, np.ravel(r > 0.7)])

    gradient = network.loss_and_gradients(parameters, x, y, settings, weights, dropout)[1]
    gradcheck.check(value, gradient, parameters, rng, kinks, directions=3)


# Three steps from START along GRADIENTS with learning rate 0.1, weight decay 0.01, momentum 0.9,
# betas (0.9, 0.99): made with PyTorch 2.13 in float64.
START = np.array([1.0, -2.0, 0.5])
GRADIENTS = np.array([[0.5, -1.0, 0.0], [0.25, 2.0, 1e-3], [-0.75, 0.5, 0.0]])
STEPS = {
    "sgd": [0.997127949, -2.144005898, 0.4984015995],
    "momentum": [0.8866097489999999, -2.147969498, 0.4970074995],
    "nesterov": [0.895369708191, -2.277336916382, 0.4957118115705],
    "adam": [0.8129505333321452, -1.975791922046121, 0.20376385492390794],
    "adamw": [0.8121358634047494, -1.9723225731303422, 0.366808858356457],
}


@pytest.mark.parametrize("name", STEPS)
def test_optimizers_are_those_of_pytorch(name):
    p, first, second = START, np.zeros(3), np.zeros(3)
    for step, gradient in enumerate(GRADIENTS, start=1):
        if name.startswith("adam"):
            settings = 0.1, 0.9, 0.99, 1e-8, 0.01, name == "adamw", step
            p, first, second = reference.adam_step(p, gradient, first, second, *settings)
        else:
            momentum = 0.0 if name == "sgd" else 0.9
            settings = 0.1, momentum, name == "nesterov", 0.01
            p, first = reference.sgd_step(p, gradient, first, *settings)
    close(p, STEPS[name])


def test_momentum_has_a_closed_form():
    p, v = np.zeros(1), np.zeros(1)
    for t in range(1, 20):
        p, v = reference.sgd_step(p, np.ones(1), v, 0.1, 0.8)
        close(v, (1 - 0.8**t) / 0.2)


def test_clipping_is_that_of_pytorch():
    gradients = [np.array([3.0, 0.0, 0.0]), np.array([4.0])]
    clipped = reference.clip_by_norm(gradients, 2.0)
    close(clipped[0], [1.199999760000048, 0, 0])
    close(clipped[1], [1.599999680000064])
    for unclipped, gradient in zip(reference.clip_by_norm(gradients, 6.0), gradients, strict=True):
        np.testing.assert_array_equal(unclipped, gradient)


def test_schedules():
    def rates(schedule, steps_per_epoch, epochs):
        steps = range(steps_per_epoch * epochs)
        return [reference.learning_rate_at(schedule, s, steps_per_epoch, epochs) for s in steps]

    assert rates({"kind": "constant", "learning_rate": 0.3}, 2, 2) == [0.3] * 4
    step = {"kind": "step", "learning_rate": 1.0, "epochs": 2, "factor": 0.5}
    assert rates(step, 1, 6) == [1, 1, 0.5, 0.5, 0.25, 0.25]
    cosine = {"kind": "cosine", "learning_rate": 1.0, "epochs": 0, "final": 0.2}
    close(rates(cosine, 2, 2), [1, 0.2 + 0.4 * (1 + math.sqrt(0.5)), 0.6, 0.6 - 0.4 * 0.5**0.5])
    close(rates({**cosine, "epochs": 1}, 2, 2), [1, 0.6, 0.2, 0.2])
    warm = {"kind": "constant", "learning_rate": 1.0, "warmup_epochs": 2}
    close(rates(warm, 2, 3), [0.25, 0.5, 0.75, 1, 1, 1])
    close(rates({**cosine, "warmup_epochs": 1}, 2, 2)[0], 0.5)


@pytest.mark.parametrize("initializer", sorted(reference.INITIALIZERS))
def test_initial_weights_have_their_variance(initializer):
    weight = reference.initial_weight(initializer, 5, 1, 300, 200)
    variance = {"he": 2 / 200, "glorot": 2 / 500, "lecun": 1 / 200}[initializer.split("_")[0]]
    # The variance of a sample of n: relative standard deviation sqrt((kurtosis - 1) / n).
    kurtosis = 3.0 if initializer.endswith("normal") else 1.8
    assert abs(weight.var() / variance - 1) < 5 * math.sqrt((kurtosis - 1) / weight.size)
    assert abs(weight.mean()) < 5 * math.sqrt(variance / weight.size)
    if initializer.endswith("uniform"):
        assert np.abs(weight).max() <= math.sqrt(3 * variance)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (3, 5), (16, 16)])
def test_orthogonal_weights_are(shape):
    weight = reference.initial_weight("orthogonal", 5, 1, *shape)
    product = weight @ weight.T if shape[0] <= shape[1] else weight.T @ weight
    close(product, np.eye(min(shape)), 1e-14)


def test_training_follows_the_steps_by_hand():
    """Two epochs of least squares in one weight, with a short last batch and a zero weight."""
    nodes = [{"op": "dense", "inputs": [0], "name": "0", "units": 1, "bias": False}]
    x, y = np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [1.0], [1.0]])
    steps = list(
        reference.train(
            reference.Network(nodes, (1,)),
            {"0.weight": np.zeros((1, 1))},
            x,
            y,
            loss={"kind": "mse"},
            optimizer={"kind": "sgd", "momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
            schedule={"kind": "step", "learning_rate": 0.1, "epochs": 1, "factor": 0.5},
            epochs=2,
            batch_size=2,
            shuffle=False,
            sample_weight=np.array([1.0, 0.0, 2.0]),
            first_step=40,
        )
    )
    w, expected = 0.0, []
    for rate in (0.1, 0.05):
        for value in (1.0, 3.0):  # the second example has no weight
            w -= rate * 2 * (w * value - 1) * value
            expected.append(w)
    close([float(s.parameters["0.weight"][0, 0]) for s in steps], expected)
    assert [s.step for s in steps] == [40, 41, 42, 43]
    assert [s.learning_rate for s in steps] == [0.1, 0.1, 0.05, 0.05]
    assert [len(s.rows) for s in steps] == [2, 1, 2, 1]
    close(steps[0].loss, 1.0)
