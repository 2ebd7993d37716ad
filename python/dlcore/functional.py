"""Single operations on NumPy arrays, forward and backward.

These are the network's own kernels, called directly. They take C-contiguous arrays of float32 or
float64, all of one dtype, and refuse anything else with a sentence (`dlcore.Network` converts,
these do not). Rows are examples. ``out=`` takes an array of the result's shape and dtype and
returns it; for the element-wise operations it may be the input itself.

Arrays on a GPU (CuPy's, PyTorch's, JAX's, `dlcore.device_array`) are taken where they lie, float32
alone, and so is what comes back: an array that other libraries take by DLPack.

A backward function gets ``dy``, the derivative of the loss by the result ``y``, and returns that by
the input ``x``. Which of ``x`` and ``y`` it needs beside ``dy`` is in its signature.

Examples
--------
>>> import numpy as np
>>> x = np.array([[-1.0, 2.0]], np.float32)
>>> relu(x)
array([[0., 2.]], dtype=float32)
>>> relu_backward(np.ones_like(x), relu(x))
array([[0., 1.]], dtype=float32)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dlcore import _core, _device
from dlcore._settings import choice, describe, integer, number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def _native(operation: str, **arrays: object) -> Any:
    """Return the extension that works where the arrays lie.

    What is no array at all is refused here, in words; the extension looks at dtypes, layouts and
    shapes.
    """
    if any(_device.is_array(value) for value in arrays.values()):
        return _device.engine("cuda", f"{operation}: device")
    for name, value in arrays.items():
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{operation}: {name} must be a numpy.ndarray, found {describe(value)}")
    return _core


def _activation(kind: str, x: Array, alpha: float, out: Array | None) -> Array:
    # The usual case first: for few elements the question takes longer than the answer.
    native = _core if type(x) is np.ndarray else _native(kind, x=x)
    result: Array = native.activation_forward(kind, x, alpha, out)
    return result


def _activation_backward(
    kind: str, dy: Array, saved: Array, alpha: float, out: Array | None
) -> Array:
    usual = type(dy) is np.ndarray and type(saved) is np.ndarray
    native = _core if usual else _native(f"{kind}_backward", dy=dy, saved=saved)
    result: Array = native.activation_backward(kind, dy, saved, alpha, out)
    return result


def relu(x: Array, out: Array | None = None) -> Array:
    """``max(x, 0)``; NaN stays NaN.

    Parameters
    ----------
    x : ndarray of any shape
    out : ndarray like `x`, optional

    Returns
    -------
    ndarray like `x`

    Raises
    ------
    TypeError
        If an array is not an aligned C-contiguous ndarray of float32 or float64, or they differ in
        dtype.
    ValueError
        If shapes differ.

    Notes
    -----
    The other element-wise functions take, return and raise the same.
    """
    return _activation("relu", x, 0.0, out)


def relu_backward(dy: Array, y: Array, out: Array | None = None) -> Array:
    """``dy`` where ``y > 0``, else 0, for the `y` that `relu` returned."""
    return _activation_backward("relu", dy, y, 0.0, out)


def leaky_relu(x: Array, negative_slope: float = 0.01, out: Array | None = None) -> Array:
    """``x`` where it is positive, else ``negative_slope * x``; the slope is at least 0."""
    slope = number("leaky_relu: negative_slope", negative_slope, 0)
    return _activation("leaky_relu", x, slope, out)


def leaky_relu_backward(
    dy: Array, y: Array, negative_slope: float = 0.01, out: Array | None = None
) -> Array:
    """``dy`` where ``y > 0``, else ``negative_slope * dy``, for the `y` of `leaky_relu`."""
    slope = number("leaky_relu_backward: negative_slope", negative_slope, 0)
    return _activation_backward("leaky_relu", dy, y, slope, out)


def sigmoid(x: Array, out: Array | None = None) -> Array:
    """``1 / (1 + exp(-x))``."""
    return _activation("sigmoid", x, 0.0, out)


def sigmoid_backward(dy: Array, y: Array, out: Array | None = None) -> Array:
    """``dy * y * (1 - y)``, for the `y` that `sigmoid` returned."""
    return _activation_backward("sigmoid", dy, y, 0.0, out)


def tanh(x: Array, out: Array | None = None) -> Array:
    """Hyperbolic tangent."""
    return _activation("tanh", x, 0.0, out)


def tanh_backward(dy: Array, y: Array, out: Array | None = None) -> Array:
    """``dy * (1 - y**2)``, for the `y` that `tanh` returned."""
    return _activation_backward("tanh", dy, y, 0.0, out)


def gelu(x: Array, approximate: str = "none", out: Array | None = None) -> Array:
    """``x * Phi(x)``, ``Phi`` the normal distribution function; see `dlcore.GELU`."""
    return _activation(_gelu("gelu", approximate), x, 0.0, out)


def gelu_backward(
    dy: Array, x: Array, approximate: str = "none", out: Array | None = None
) -> Array:
    """``dy * (Phi(x) + x * phi(x))``, ``phi`` the normal density, or the tanh form's derivative."""
    return _activation_backward(_gelu("gelu_backward", approximate), dy, x, 0.0, out)


def _gelu(operation: str, approximate: str) -> str:
    kind = choice(f"{operation}: approximate", approximate, ("none", "tanh"))
    return "gelu" if kind == "none" else "gelu_tanh"


def silu(x: Array, out: Array | None = None) -> Array:
    """``x / (1 + exp(-x))``."""
    return _activation("silu", x, 0.0, out)


def silu_backward(dy: Array, x: Array, out: Array | None = None) -> Array:
    """``dy * s * (1 + x * (1 - s))`` with ``s = sigmoid(x)``."""
    return _activation_backward("silu", dy, x, 0.0, out)


def softplus(x: Array, out: Array | None = None) -> Array:
    """``log(1 + exp(x))``."""
    return _activation("softplus", x, 0.0, out)


def softplus_backward(dy: Array, y: Array, out: Array | None = None) -> Array:
    """``dy * (1 - exp(-y))``, for the `y` that `softplus` returned."""
    return _activation_backward("softplus", dy, y, 0.0, out)


def dense(x: Array, weight: Array, bias: Array | None = None, out: Array | None = None) -> Array:
    """``x @ weight.T + bias``.

    Parameters
    ----------
    x : ndarray, shape (n, in_features)
    weight : ndarray, shape (out_features, in_features)
    bias : ndarray, shape (out_features,), optional
    out : ndarray, shape (n, out_features), optional

    Returns
    -------
    ndarray, shape (n, out_features)

    Raises
    ------
    TypeError
        If an array is not an aligned C-contiguous ndarray of float32 or float64, or they differ in
        dtype.
    ValueError
        If shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> dense(np.ones((2, 3)), np.ones((1, 3)), np.array([0.5]))
    array([[3.5],
           [3.5]])
    """
    result: Array = _native("dense", x=x, weight=weight).dense_forward(x, weight, bias, out)
    return result


def dense_backward(dy: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Return the derivatives of the loss by `x`, `weight` and the bias.

    Parameters
    ----------
    dy : ndarray, shape (n, out_features)
    x : ndarray, shape (n, in_features)
    weight : ndarray, shape (out_features, in_features)

    Returns
    -------
    dx : ndarray, shape (n, in_features)
        ``dy @ weight``
    dweight : ndarray, shape (out_features, in_features)
        ``dy.T @ x``
    dbias : ndarray, shape (out_features,)
        ``dy.sum(axis=0)``

    Raises
    ------
    TypeError, ValueError
        As `dense`.
    """
    result: tuple[Array, Array, Array] = _native(
        "dense_backward", dy=dy, x=x, weight=weight
    ).dense_backward(dy, x, weight)
    return result


def softmax(logits: Array, out: Array | None = None) -> Array:
    """``exp(z) / sum(exp(z))`` over the last axis, without overflow.

    Parameters
    ----------
    logits : ndarray, shape (n, classes)
    out : ndarray like `logits`, optional

    Returns
    -------
    ndarray like `logits`
        Rows that sum to 1.

    Raises
    ------
    TypeError, ValueError
        As `relu`.
    """
    result: Array = _native("softmax", logits=logits).softmax(logits, out)
    return result


def dropout(
    x: Array, p: float, seed: int, step: int = 0, layer: int = 0, out: Array | None = None
) -> Array:
    """Zero each element with probability `p`, divide the others by ``1 - p``.

    Which elements go follows from the arguments alone: element ``i`` in C order is kept if word
    ``i`` of the Philox stream of (seed, layer, step) is at least ``floor(p * 2**32)``.

    Parameters
    ----------
    x : ndarray, shape (n, features)
    p : float
        From 0 to below 1.
    seed : int
        From 0 to 2**64 - 1.
    step : int, default 0
        Training step, from 0 to 2**48 - 1.
    layer : int, default 0
        From 0 to 2**16 - 1.
    out : ndarray like `x`, optional

    Returns
    -------
    ndarray like `x`

    Raises
    ------
    TypeError, ValueError
        As `relu`, and if a number is out of its range.
    """
    return _dropout("dropout", x, p, seed, step, layer, out)


def dropout_backward(
    dy: Array, p: float, seed: int, step: int = 0, layer: int = 0, out: Array | None = None
) -> Array:
    """Derivative of `dropout` with the same arguments: the same elements go."""
    return _dropout("dropout_backward", dy, p, seed, step, layer, out)


def _dropout(
    operation: str, x: Array, p: float, seed: int, step: int, layer: int, out: Array | None
) -> Array:
    result: Array = _native(operation, x=x).dropout_forward(
        x,
        number(f"{operation}: p", p, 0, 1),
        integer(f"{operation}: seed", seed, 0, 2**64 - 1),
        integer(f"{operation}: step", step, 0, 2**48 - 1),
        integer(f"{operation}: layer", layer, 0, 2**16 - 1),
        out,
    )
    return result


def cross_entropy(logits: Array, labels: Array, sample_weight: Array | None = None) -> float:
    """Mean of ``log(sum(exp(z))) - z[label]`` over the examples.

    Parameters
    ----------
    logits : ndarray, shape (n, classes)
    labels : ndarray of int64, shape (n,)
        From 0 to classes - 1.
    sample_weight : ndarray of float64, shape (n,), optional
        The mean becomes ``sum(w_i l_i) / sum(w_i)``; 0 where the weights sum to 0.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        If an array has the wrong dtype or layout.
    ValueError
        If shapes do not fit, or a label is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> round(cross_entropy(np.zeros((2, 4)), np.array([0, 3])), 4)  # log(4)
    1.3863
    """
    result: float = _native("cross_entropy", logits=logits, labels=labels).cross_entropy_forward(
        logits, labels, sample_weight
    )
    return result


def cross_entropy_backward(
    logits: Array,
    labels: Array,
    sample_weight: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Return the derivative of `cross_entropy` by the logits: ``(softmax - one_hot) / n``."""
    result: Array = _native(
        "cross_entropy_backward", logits=logits, labels=labels
    ).cross_entropy_backward(logits, labels, sample_weight, out)
    return result


def binary_cross_entropy(logits: Array, target: Array, sample_weight: Array | None = None) -> float:
    """Mean of ``max(z, 0) - z * target + log(1 + exp(-|z|))`` over all elements.

    Parameters
    ----------
    logits, target : ndarray, shape (n, outputs)
        Targets are meant to lie in [0, 1]; `dlcore.Network` checks that, this does not.
    sample_weight : ndarray of float64, shape (n,), optional
        The mean becomes ``sum(w_i l_i) / sum(w_i)``, ``l_i`` the mean of row i; 0 where the
        weights sum to 0.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        If an array has the wrong dtype or layout.
    ValueError
        If shapes differ.
    """
    result: float = _native("binary_cross_entropy", logits=logits, target=target).loss_forward(
        "binary_cross_entropy", logits, target, sample_weight, 1.0
    )
    return result


def binary_cross_entropy_backward(
    logits: Array,
    target: Array,
    sample_weight: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Return the derivative of `binary_cross_entropy`: ``(sigmoid(z) - target) / size``."""
    result: Array = _native(
        "binary_cross_entropy_backward", logits=logits, target=target
    ).loss_backward("binary_cross_entropy", logits, target, sample_weight, 1.0, out)
    return result


def mse(prediction: Array, target: Array, sample_weight: Array | None = None) -> float:
    """Mean of ``(prediction - target)**2`` over all elements.

    Parameters
    ----------
    prediction, target : ndarray, shape (n, outputs)
    sample_weight : ndarray of float64, shape (n,), optional
        As for `binary_cross_entropy`.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        If an array has the wrong dtype or layout.
    ValueError
        If shapes differ.
    """
    result: float = _native("mse", prediction=prediction, target=target).loss_forward(
        "mse", prediction, target, sample_weight, 1.0
    )
    return result


def mse_backward(
    prediction: Array,
    target: Array,
    sample_weight: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Return the derivative of `mse`: ``2 * (prediction - target) / size``."""
    result: Array = _native("mse_backward", prediction=prediction, target=target).loss_backward(
        "mse", prediction, target, sample_weight, 1.0, out
    )
    return result


def huber(
    prediction: Array, target: Array, delta: float = 1.0, sample_weight: Array | None = None
) -> float:
    """Mean of ``r**2 / 2`` where ``|r| <= delta``, else ``delta * (|r| - delta / 2)``.

    Here ``r = prediction - target``; `delta` is above 0. Arrays are as for `mse`.
    """
    delta = number("huber: delta", delta, 0, include_low=False)
    result: float = _native("huber", prediction=prediction, target=target).loss_forward(
        "huber", prediction, target, sample_weight, delta
    )
    return result


def huber_backward(
    prediction: Array,
    target: Array,
    delta: float = 1.0,
    sample_weight: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Return the derivative of `huber`: ``clip(prediction - target, -delta, delta) / size``."""
    delta = number("huber_backward: delta", delta, 0, include_low=False)
    result: Array = _native("huber_backward", prediction=prediction, target=target).loss_backward(
        "huber", prediction, target, sample_weight, delta, out
    )
    return result
