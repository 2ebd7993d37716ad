"""How far a result may lie from the reference: derived, never tuned, and all in this file.

`Bounds(dtype)` has the operations of `reference.py`, on `Bounded` arrays: the reference's value and
a bound of |computed - value|. It is a running error analysis (Wilkinson 1986; Higham, *Accuracy and
Stability of Numerical Algorithms*, 2nd ed., section 3.3): an operation adds the rounding of its own
arithmetic to what it passes on from its arguments. So one rule serves a kernel (exact arguments), a
network, a gradient and a whole training run alike.

A rounding is charged eps, twice the unit roundoff u = eps / 2: for float64 the second u is the
reference's own rounding; for float32 it pays for the same formula in another order. A bound is

* infinite where the computation may overflow before its result does,
* NaN where the result is undefined (the order of a sum decides between infinity and NaN).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

import reference

#: Largest error of an activation in units in the last place, where the result is normal: what the
#: vector kernels promise.
VECTOR_ULPS = {
    np.float32: {
        "relu": 0,
        "leaky_relu": 1.5,  # the slope and the product are rounded
        "sigmoid": 1,
        "tanh": 1,
        "gelu": 4,
        "gelu_tanh": 2,
        "silu": 2,
        "softplus": 2,
    },
    np.float64: {
        "relu": 0,
        "leaky_relu": 1.5,
        "sigmoid": 3,
        "tanh": 3,
        "gelu": 4,
        "gelu_tanh": 4,
        "silu": 4,
        "softplus": 3,
    },
}
#: The same for the plain loops, in either dtype: u for each operation of the formula and 2 u for one of the C
#: library's functions, where u can be a whole ulp. Also the C library's tanh is off by 2 ulp.
PLAIN_ULPS = {
    "identity": 0,
    "relu": 0,
    "leaky_relu": 2,
    "sigmoid": 4,  # e / (1 + e)
    "tanh": 3,
    "gelu": 4,
    "gelu_tanh": 5,
    "silu": 5,
    "softplus": 5,  # x + log1p(exp(-x))
}
#: The exponential and the logarithm inside softmax and the losses, in ulp.
EXP_ULPS = 2
LOG_ULPS = 4

#: kind -> largest |f'|, largest |f''|, largest |g'| where f'(x) = g(saved).
SMOOTH = {
    "identity": (1.0, 0.0, 0.0),
    "sigmoid": (0.25, 0.0963, 1.0),  # g = y - y^2, 0 <= y <= 1
    "tanh": (1.0, 0.77, 2.0),  # g = 1 - y^2
    "gelu": (1.13, 0.798, 0.798),  # f'' = (2 - x^2) density(x)
    "gelu_tanh": (1.13, 0.798, 0.798),
    "silu": (1.1, 0.5, 0.5),
    "softplus": (1.0, 0.25, 1.0),  # g = 1 - e^-y
}


def dot_bound(abs_terms, length, dtype):
    """Largest error of a sum of `length` products in any order (Higham 2002, section 3.1)."""
    info = np.finfo(dtype)
    # tiny: products may underflow
    return (length + 2) * (info.eps * abs_terms + float(info.tiny))


def ulps(value, count, dtype):
    """`count` units in the last place of `value` rounded to `dtype`."""
    with np.errstate(over="ignore", invalid="ignore"):
        return count * np.spacing(np.abs(value).astype(dtype)).astype(np.float64)


@dataclass(eq=False)
class Bounded(NDArrayOperatorsMixin):
    """A value of the reference and a bound of how far the computed one lies from it."""

    value: np.ndarray
    error: np.ndarray
    dtype: type

    @property
    def shape(self):
        return self.value.shape

    def __len__(self):
        return len(self.value)

    def __getitem__(self, index):
        return Bounded(self.value[index], self.error[index], self.dtype)

    def reshape(self, *shape):
        return Bounded(self.value.reshape(*shape), self.error.reshape(*shape), self.dtype)

    def sum(self):
        """Sum of all elements in any order."""
        terms = float(np.sum(np.abs(self.value) + self.error))
        error = np.sum(self.error) + self.value.size * np.finfo(self.dtype).eps * terms
        return Bounded(np.sum(self.value), error, self.dtype)

    def _of(self, a):
        """An argument; a number is rounded to the dtype unless it is one of it."""
        if isinstance(a, Bounded):
            return a
        with np.errstate(over="ignore"):
            exact = np.asarray(a, np.float64) == np.asarray(a).astype(self.dtype)
        error = np.where(exact, 0.0, np.finfo(self.dtype).eps * np.abs(a))
        return Bounded(np.asarray(a, np.float64), error, self.dtype)

    def __array_ufunc__(self, ufunc, method, *arguments, **keywords):
        rule = _RULES.get(ufunc)
        if method != "__call__" or keywords or rule is None:
            return NotImplemented
        with np.errstate(all="ignore"):
            operands = [self._of(a) for a in arguments]
            value = ufunc(*(a.value for a in operands))
            result = rounded(value, rule(value, *operands), self.dtype)
            # Where the reference overflows, another order of its operations may not.
            unknown = ~np.isfinite(value)
            for a in operands:
                unknown = (unknown & np.isfinite(a.value)) | np.isnan(a.error)
            result.error = np.where(unknown, np.nan, result.error)
        return result


def rounded(value, error, dtype):
    """`value` with the bound `error`, after one rounding; infinite where it may overflow."""
    info = np.finfo(dtype)
    value = np.asarray(value, np.float64)
    with np.errstate(all="ignore"):
        error = np.broadcast_to(error, value.shape)
        error = np.where(np.isnan(error), np.inf, error)  # 0 * inf
        reach = np.abs(value) + error
        error = np.where(reach > float(info.max), np.inf, error + info.eps * reach)
    return Bounded(value, error, dtype)


def _multiply(_, a, b):
    tiny = float(np.finfo(a.dtype).tiny)
    zero = ((a.value == 0) & (a.error == 0)) | ((b.value == 0) & (b.error == 0))
    error = np.abs(a.value) * b.error + np.abs(b.value) * a.error + a.error * b.error
    return np.where(zero, 0.0, error + tiny)


def _divide(value, a, b):
    least = np.abs(b.value) - b.error
    error = (a.error + np.abs(value) * b.error) / np.where(least > 0, least, 0.0)
    exact = (a.value == 0) & (a.error == 0) & (least > 0)
    return np.where(exact, 0.0, error + float(np.finfo(a.dtype).tiny))


def _sqrt(value, a):
    least = np.sqrt(np.maximum(a.value - a.error, 0))
    return np.where(a.error == 0, 0.0, a.error / (value + least))


_RULES = {
    np.add: lambda _, a, b: a.error + b.error,
    np.subtract: lambda _, a, b: a.error + b.error,
    np.multiply: _multiply,
    np.divide: _divide,
    np.sqrt: _sqrt,
}


class Bounds:
    """The operations of `reference.py` for numbers of `dtype`, on `Bounded` arrays."""

    def __init__(self, dtype):
        self.dtype = np.dtype(dtype).type
        info = np.finfo(self.dtype)
        self.eps, self.tiny, self.max = float(info.eps), float(info.tiny), float(info.max)

    def exact(self, a) -> Bounded:
        """An array both sides start from."""
        a = np.asarray(a, np.float64)
        return Bounded(a, np.zeros_like(a), self.dtype)

    def _bounded(self, a) -> Bounded:
        return a if isinstance(a, Bounded) else self.exact(a)

    # Layers ---------------------------------------------------------------------------------

    def _product(self, value, a, b, extra: Any = None) -> Bounded:
        """a @ b (+ extra): what the factors' errors pass on, and the sum's own."""
        with np.errstate(all="ignore"):
            finite = [np.where(np.isfinite(f.value), np.abs(f.value), 0.0) for f in (a, b)]
            passed = a.error @ (finite[1] + b.error) + finite[0] @ b.error
            terms = (finite[0] + a.error) @ (finite[1] + b.error)
            if extra is not None:
                offset = np.abs(extra.value)
                terms = terms + np.where(np.isfinite(offset), offset, 0.0) + extra.error
                passed = passed + extra.error
            error = passed + dot_bound(terms, a.value.shape[1], self.dtype)
            # A partial sum that overflows: infinity, or NaN after the next one, or neither.
            error = np.where(terms + error > self.max, np.nan, error)
        return Bounded(value, error, self.dtype)

    def dense_forward(self, x, weight, bias=None):
        x, weight = self._bounded(x), self._bounded(weight)
        bias = None if bias is None else self._bounded(bias)
        value = reference.dense_forward(x.value, weight.value, None if bias is None else bias.value)
        transposed = Bounded(weight.value.T, weight.error.T, self.dtype)
        return self._product(value, x, transposed, bias)

    def dense_backward(self, dy, x, weight):
        dy, x, weight = self._bounded(dy), self._bounded(x), self._bounded(weight)
        dx, dw, db = reference.dense_backward(dy.value, x.value, weight.value)
        transposed = Bounded(dy.value.T, dy.error.T, self.dtype)
        ones = self.exact(np.ones((1, len(dy))))
        sums = self._product(db[None], ones, dy)
        return self._product(dx, dy, weight), self._product(dw, transposed, x), sums[0]

    def add(self, a, b):
        return a + b

    def dropout(self, x, p, mask):
        """Two roundings: the scale and the product."""
        x = self._bounded(x)
        with np.errstate(all="ignore"):
            value = reference.dropout(x.value, p, mask)
            scale = self.eps * np.where(np.isfinite(value), np.abs(value), 0.0)
            error = np.where(mask, x.error / (1 - p) + scale + self.tiny, 0.0)
        return self._checked(value, error)

    def dropout_forward(self, x, p, seed, step, layer):
        return self.dropout(x, p, reference.dropout_mask(x.shape, p, seed, step, layer))

    def _checked(self, value, error) -> Bounded:
        """One rounding more, but none where the value is exactly zero, infinite or NaN."""
        result = rounded(value, error, self.dtype)
        special = ~np.isfinite(value) & np.isfinite(error)
        result.error = np.where(special, 0.0, result.error)
        return result

    def activation_forward(self, kind, x, alpha=0.0):
        x = self._bounded(x)
        with np.errstate(all="ignore"):
            value = np.asarray(reference.activation_forward(kind, x.value, alpha))
            if kind in SMOOTH:
                slope, curve, _ = SMOOTH[kind]
                local = np.abs(reference.activation_backward(kind, 1, self._read(kind, x, value)))
                passed = np.minimum(slope * x.error, (local + curve / 2 * x.error) * x.error)
                passed = np.where(x.error == 0, 0.0, passed)
            else:
                below = alpha if kind == "leaky_relu" else 0.0
                above = max(1.0, abs(below))
                passed = np.where(x.value + x.error > 0, above, abs(below)) * x.error
            # For float64 the reference itself is no better than the plain loops.
            count = PLAIN_ULPS[kind] * (2 if self.dtype is np.float64 else 1)
            error = passed + ulps(np.abs(value) + passed, count, self.dtype)
            if kind not in ("identity", "relu", "leaky_relu"):
                # An exponential below the normal numbers may be flushed to zero; where the
                # argument multiplies it, the loss is that much larger.
                error = error + self.tiny * np.maximum(1, np.abs(x.value) + x.error)
            if kind in ("gelu", "gelu_tanh"):
                # The argument of erf and tanh is rounded: x f'(x) per rounding.
                near = np.abs(x.value * reference.activation_backward(kind, 1, x.value))
                error = error + 4 * self.eps * np.where(np.isfinite(near), near, 0.0)
            reach = np.abs(value) + error
            overflow = np.isfinite(value) & ~(reach <= self.max)
            error = np.where(overflow, np.inf, np.where(np.isfinite(value), error, 0.0))
        return Bounded(value, error, self.dtype)

    @staticmethod
    def _read(kind, x, y):
        return y if reference.ACTIVATIONS[kind].reads == "y" else x.value

    def _derivative_rounding(self, kind, saved, derivative):
        """Rounding of f' evaluated from what backward reads, in units of eps.

        Where f' is a sum that cancels (it crosses zero), its terms count and not the result.
        """
        s = np.abs(saved)
        if kind in ("identity", "relu"):
            return 0.0 * s
        if kind == "leaky_relu":
            return np.abs(derivative)
        if kind == "sigmoid":  # y (1 - y)
            return 2 * np.abs(derivative)
        if kind == "tanh":  # 1 - y^2
            return saved * saved + np.abs(derivative)
        if kind == "softplus":  # 1 - e^-y
            return 4 * np.abs(derivative)
        if kind == "silu":  # s (1 + x (1 - s))
            sigmoid = reference.activation_forward("sigmoid", saved)
            return 6 * sigmoid * (1 + s * (1 - sigmoid))
        if kind == "gelu":  # P(x) + x p(x); an exponent x^2 / 2 is off by its own rounding
            cdf, x_pdf = reference.erfc(-saved / np.sqrt(2)) / 2, reference.ACTIVATIONS["gelu"]
            x_pdf = np.abs(x_pdf.derivative(saved, 0) - cdf)
            return (6 + saved * saved) * (cdf + x_pdf)
        u, du = reference.gelu_tanh_argument(saved)  # s + x s (1 - s) 2 u'
        sigmoid = reference.activation_forward("sigmoid", 2 * u)
        return (8 + 4 * np.abs(u)) * sigmoid * (1 + 2 * s * (1 - sigmoid) * du)

    def activation_backward(self, kind, dy, saved, alpha=0.0):
        dy, saved = self._bounded(dy), self._bounded(saved)
        with np.errstate(all="ignore"):
            derivative = reference.activation_backward(kind, 1.0, saved.value, alpha)
            error = self.eps * self._derivative_rounding(kind, saved.value, derivative)
            error = np.where(np.isnan(error), 0.0, error)
            if kind in SMOOTH:
                error = error + SMOOTH[kind][2] * saved.error
            else:  # the other side of the kink, unless the bound keeps clear of it
                jump = abs(1 - (alpha if kind == "leaky_relu" else 0.0))
                unsure = (saved.error > 0) & (np.abs(saved.value) <= saved.error)
                error = error + np.where(unsure, jump, 0.0)
            # Far out, where a derivative that is a function of x has faded, it may be cut to zero.
            if reference.ACTIVATIONS[kind].reads == "x":
                error = error + self.eps * self.eps
            elif kind in SMOOTH:
                error = error + self.tiny
            value = dy.value * derivative
            passed = np.abs(dy.value) * error + dy.error * (np.abs(derivative) + error)
            if kind in ("identity", "relu"):  # a copy, not a product
                return Bounded(value, passed, self.dtype)
            passed = np.where((dy.value == 0) & (dy.error == 0), 0.0, passed + self.tiny)
        return self._checked(value, passed)

    # Losses ---------------------------------------------------------------------------------

    def _softmax(self, logits):
        """softmax, a bound of each share's relative error, and the largest error of each row.

        A share's numerator is off by the rounding of x - max, which the exponential turns into a
        relative error, and by its own; the sum by the mean of its terms' errors and C roundings.
        If every logit is off by at most e, a share changes by a factor within exp(+-2 e).
        """
        x = logits.value
        largest = logits.error.max(axis=-1, keepdims=True)
        share = reference.softmax(x)
        distance = x.max(axis=-1, keepdims=True) - x
        term = self.eps * (np.where(np.isfinite(distance), distance, 0.0) + EXP_ULPS)
        mean = (share * term).sum(axis=-1, keepdims=True) + self.eps * x.shape[-1]
        return share, np.expm1(2 * largest) + term + mean + 2 * self.eps, mean, largest

    def softmax(self, logits):
        logits = self._bounded(logits)
        with np.errstate(all="ignore"):
            share, relative, _, _ = self._softmax(logits)
            error = share * relative + logits.shape[-1] * self.tiny
        return self._checked(share, error)

    def _weights(self, count, sample_weight):
        """Shares of the examples; normalising them takes a sum, a division and a product."""
        w = reference.example_weights(count, sample_weight)
        return w, self.eps * (3 if sample_weight is None else count + 3)

    def _rows(self, kind, x, target, delta):
        """Upper bounds of each example's loss, the sum of its terms, and of its error."""
        eps = self.eps
        if kind == "cross_entropy":
            share, _, mean, largest = self._softmax(x)
            mean, largest, label = mean[..., 0], largest[..., 0], np.asarray(target)[..., None]
            picked = np.take_along_axis(x.value, label, axis=-1)[..., 0]
            shifted = x.value.max(axis=-1) - picked
            loss = reference.cross_entropy_rows(x.value, target)
            # dl = sum_j p_j d_j - d_label
            passed = (share * x.error).sum(axis=-1)
            passed = passed + np.take_along_axis(x.error, label, axis=-1)[..., 0]
            passed = np.minimum(passed * np.exp(2 * largest), 2 * largest)
            log = np.abs(loss - shifted)
            error = passed + mean + LOG_ULPS * eps * log + 2 * eps * np.abs(shifted)
            return self._example_means(np.abs(loss), error)
        forward, backward = reference.ELEMENT_LOSSES[kind]
        v, e = x.value, x.error
        loss, slope = forward(v, target, delta), np.abs(backward(v, target, delta))
        if kind == "binary_cross_entropy":
            terms = np.abs(v) + np.abs(v * target) + np.log1p(np.exp(-np.abs(v)))
            error = (slope + e / 8) * e + LOG_ULPS * eps * terms
        elif kind == "mse":
            error = (slope + e) * e + 3 * eps * (np.abs(v - target) + e) ** 2
        else:
            r = np.abs(v - target) + e
            terms = np.where(r <= delta * (1 + 4 * eps), r * r, delta * (2 * r + delta))
            error = np.minimum(slope + e / 2, delta) * e + 3 * eps * terms
        error = np.where(np.abs(v - target) + e > self.max, np.inf, error)
        return self._example_means(np.abs(loss), error)

    def _example_means(self, loss, error):
        terms = (loss + error + self.tiny).reshape(len(loss), -1)
        mean, count = terms.mean(axis=1), terms.shape[1]
        return mean, error.reshape(len(loss), -1).mean(axis=1) + (count + 2) * self.eps * mean

    def loss_forward(self, kind, prediction, target, sample_weight=None, delta=1.0):
        x = self._bounded(prediction)
        with np.errstate(all="ignore"):
            value = reference.loss_forward(kind, x.value, target, sample_weight, delta)
            terms, errors = self._rows(kind, x, target, delta)
            w, relative = self._weights(len(terms), sample_weight)
            use = w > 0  # an infinite loss of weight zero does not count
            terms, errors, w = terms[use], errors[use], w[use]
            sums = w @ (terms + errors)
            error = w @ errors + (relative + (len(w) + 1) * self.eps) * sums + self.tiny
            # The sums before their division, over all examples
            reach = (terms + errors).max(initial=0) * x.value.size
            error = np.inf if not reach <= self.max else error
        return Bounded(np.asarray(value), np.asarray(error), self.dtype)

    def loss_backward(self, kind, prediction, target, sample_weight=None, delta=1.0):
        x = self._bounded(prediction)
        eps, e = self.eps, x.error
        with np.errstate(all="ignore"):
            if kind == "cross_entropy":
                share, relative, _, _ = self._softmax(x)
                derivative = reference.cross_entropy_derivative(x.value, target)
                error = share * relative + x.shape[-1] * self.tiny + eps * np.abs(derivative)
            else:
                derivative = reference.ELEMENT_LOSSES[kind][1](x.value, target, delta)
                if kind == "binary_cross_entropy":
                    sigmoid = derivative + target
                    error = np.minimum(1, e / 4) + 3 * eps * sigmoid + self.tiny
                elif kind == "mse":
                    error = 2 * e
                else:  # delta is rounded too
                    error = e + eps * np.abs(derivative)
                error = error + eps * (np.abs(derivative) + error)
            w, relative_weight = self._weights(len(x), sample_weight)
            w = w.reshape(-1, *[1] * (x.value.ndim - 1)) / math.prod(np.shape(target)[1:])
            value = np.where(w > 0, derivative, 0.0) * w
            reach = np.abs(derivative) + error
            error = np.where(reach <= self.max, w * error, np.inf)
            error = error + (relative_weight + eps) * w * reach + self.tiny
            error = np.where(w > 0, error, 0.0)
        return self._checked(value, error)

    # Optimizers: the reference's own formulas, on Bounded numbers ------------------------------

    def sgd_step(self, parameter, gradient, velocity, learning_rate, momentum=0.0, *settings):
        """A velocity that would be subnormal becomes 0."""
        if momentum:
            velocity = Bounded(velocity.value, velocity.error + self.tiny / momentum, self.dtype)
        return reference.sgd_step(parameter, gradient, velocity, learning_rate, momentum, *settings)

    def adam_step(self, parameter, gradient, first, second, *settings):
        """A mean may be moved by its distance to the gradient, which may overflow."""
        weight_decay = settings[4]
        with np.errstate(over="ignore"):
            reach = [np.abs(a.value) + a.error for a in (first, gradient, parameter)]
            far = reach[0] + reach[1] + weight_decay * reach[2] > self.max
        first = Bounded(first.value, np.where(far, np.inf, first.error), self.dtype)
        return reference.adam_step(parameter, gradient, first, second, *settings)

    def clip_by_norm(self, gradients, clip_norm):
        """The scale is min(1, c / norm), and min passes on no more than it gets."""
        squares = [(g * g).sum() for g in gradients]
        total = squares[0]
        for square in squares[1:]:
            total = total + square
        scale = clip_norm / (np.sqrt(total) + 1e-6)
        if scale.value - scale.error >= 1:
            return gradients
        scale.value = np.minimum(scale.value, 1.0)
        return [g * scale for g in gradients]


class RoundedBounds(Bounds):
    """Products whose factors are rounded first, and values that are rounded when they are stored.

    `factor` is the largest relative error of a factor: 2^-10 for tf32 (which may drop what its 10
    bits do not hold), 2^-9 for bfloat16; `stored` that of what flows between layers.
    """

    def __init__(self, dtype, factor, stored=0.0):
        super().__init__(dtype)
        self.factor, self.roundoff = factor, stored

    def stored(self, a) -> Bounded:
        """The same numbers after a rounding to what is stored."""
        a = self._bounded(a)
        with np.errstate(all="ignore"):
            error = a.error + self.roundoff * (np.abs(a.value) + a.error)
            error = error + (self.tiny if self.roundoff else 0.0)
        return Bounded(a.value, np.where(np.isfinite(a.value), error, a.error), self.dtype)

    def _rounded_factor(self, a) -> Bounded:
        error = a.error + self.factor * (np.abs(a.value) + a.error)
        return Bounded(a.value, np.where(np.isfinite(a.value), error, a.error), self.dtype)

    def _product(self, value, a, b, extra: Any = None) -> Bounded:
        extra = None if extra is None else self.stored(extra)
        return super()._product(value, self._rounded_factor(a), self._rounded_factor(b), extra)

    def dense_forward(self, x, weight, bias=None):
        return self.stored(super().dense_forward(x, weight, bias))

    def dense_backward(self, dy, x, weight):
        dx, dw, db = super().dense_backward(dy, x, weight)
        return self.stored(dx), dw, db

    def add(self, a, b):
        return self.stored(super().add(a, b))

    def dropout(self, x, p, mask):
        return self.stored(super().dropout(x, p, mask))

    def activation_forward(self, kind, x, alpha=0.0):
        return self.stored(super().activation_forward(kind, x, alpha))

    def activation_backward(self, kind, dy, saved, alpha=0.0):
        return self.stored(super().activation_backward(kind, dy, saved, alpha))

    def loss_backward(self, *arguments, **settings):
        return self.stored(super().loss_backward(*arguments, **settings))


def assert_within(actual, expected, bound, *, name="result", dtype=None):
    """Fail unless |actual - expected| <= bound everywhere; infinities and NaN must agree.

    An infinite bound says that `expected` may have overflowed on the way, a NaN that nothing is
    known.
    """
    actual = np.asarray(actual)
    expected, bound = np.asarray(expected, np.float64), np.asarray(bound, np.float64)
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, not {expected.shape}"
    if dtype is not None:
        assert actual.dtype == dtype, f"{name}: dtype {actual.dtype}, not {np.dtype(dtype)}"
    actual = actual.astype(np.float64)
    with np.errstate(all="ignore"):
        error = np.abs(actual - expected)
        near = (error <= bound) | np.isinf(bound)
        same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
        good = np.where(np.isfinite(expected), near, same) | np.isnan(bound)
    if not np.all(good):
        at = tuple(int(i) for i in np.argwhere(~good)[0]) if good.ndim else ()
        with np.errstate(all="ignore"):
            share = np.max(np.where(good, 0, np.nan_to_num(error / np.maximum(bound, 5e-324))))
        raise AssertionError(
            f"{name}: {np.count_nonzero(~good)} of {good.size} values outside the bound (worst "
            f"{share:.3g} times it); at {at} {actual[at]!r} instead of {expected[at]!r}, "
            f"bound {np.broadcast_to(bound, expected.shape)[at]:.3g}"
        )
