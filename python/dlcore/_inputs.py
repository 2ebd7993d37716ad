"""What people pass to a network, turned into what the core takes.

An array that is right already is never copied. `what` begins each error's sentence, as in
"fit: x".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcore import _device, losses
from dlcore._settings import describe, integer, number

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dlcore.losses import Loss

    Array = NDArray[Any]

# Dtypes that the core converts batch by batch; every other is converted once, here.
_NATIVE_DTYPES = ("float32", "float64", "float16", "uint8")


def numeric(value: ArrayLike, what: str) -> Array:
    """Return `value` as an array of numbers in the host's memory."""
    if _device.is_array(value):
        value = _device.as_array(value, what).numpy()
    try:
        array = np.asarray(value)
        if array.dtype.kind == "O":  # a column of Python numbers, as data frames give them
            array = np.asarray(array.tolist())
    except ValueError:
        raise ValueError(f"{what} needs an array of numbers, found uneven rows") from None
    if array.dtype.kind == "O":
        raise TypeError(f"{what} needs an array of numbers, found {describe(value)}")
    if array.dtype.kind in "SUT":
        raise TypeError(
            f"{what} needs numbers, found text ({array.dtype}); encode it first, classes for "
            "example by numpy.unique(..., return_inverse=True)"
        )
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{what} needs real numbers, found {array.dtype}")
    return array


def cast(array: Array, dtype: str) -> Array:
    """Convert to `dtype`; what overflows becomes infinite, which the core reports by its place."""
    with np.errstate(over="ignore"):
        converted: Array = array.astype(dtype, copy=False)
    return converted


def examples(
    x: ArrayLike,
    input_shape: tuple[int, ...],
    dtype: str,
    empty: bool,
    device: str = "cpu",
    *,
    what: str,
) -> Array:
    """Return `x` as one of the core's dtypes, of shape (n, *input_shape), in any layout.

    What lies on a GPU stays there, for a network that lives there too.
    """
    array: Array
    if _device.is_array(x) and device != "cpu":
        array = _device.as_array(x, what)
        if array.dtype.name not in _NATIVE_DTYPES:
            raise TypeError(
                f"{what} on a GPU needs to be {', '.join(_NATIVE_DTYPES)}, found {array.dtype}"
            )
    else:
        array = numeric(x, what)
        if array.dtype.name not in _NATIVE_DTYPES:
            array = cast(array, dtype)
        elif not (array.dtype.isnative and array.flags.aligned):
            array = array.astype(array.dtype.newbyteorder("="))
    if array.ndim != len(input_shape) + 1 or array.shape[1:] != input_shape:
        advice = ""
        if array.shape == input_shape:
            advice = "; for a single example write x[None]"
        elif array.ndim > 0 and math.prod(array.shape[1:]) == math.prod(input_shape):
            advice = "; reshape x, or build the network with that input_shape"
        raise ValueError(f"{what} needs shape {_with_n(input_shape)}, found {array.shape}{advice}")
    if not empty and len(array) == 0:
        raise ValueError(f"{what} needs at least one example, found {array.shape}")
    return array


def _with_n(shape: tuple[int, ...]) -> str:
    return f"(n, {', '.join(map(str, shape))})"


def targets(
    y: ArrayLike, loss: Loss | None, output_shape: tuple[int, ...], dtype: str, what: str
) -> tuple[Array, Loss]:
    """Return `y` as the loss needs it, and the loss; without one, the one that suits `y`.

    Classes become int64 of shape (n, *output_shape[:-1]), all else `dtype` of shape
    (n, *output_shape).
    """
    array = numeric(y, what)
    outputs = math.prod(output_shape)
    if loss is None:
        loss = _suitable_loss(array, output_shape, what)
    if isinstance(loss, losses.CrossEntropy):
        return _classes(array, output_shape[:-1], what), loss
    column = outputs == 1 and array.ndim == 1
    if not column and (array.ndim == 0 or array.shape[1:] != output_shape):
        advice = ""
        if array.ndim == 1 and array.dtype.kind == "f":
            advice = "; classes need to be integers, y.astype(int)"
        raise ValueError(
            f"{what} needs shape {_with_n(output_shape)} for {loss.name}, found "
            f"{array.shape}{advice}"
        )
    values = np.ascontiguousarray(cast(array, dtype)).reshape(len(array), *output_shape)
    # Smallest and largest first, which take no memory; NaN is left to the core.
    probable = isinstance(loss, losses.BinaryCrossEntropy) and values.size > 0
    if probable and (values.min() < 0 or values.max() > 1):
        wrong = np.argwhere((values < 0) | (values > 1))
        advice = ""
        if array.dtype.kind in "iu":
            advice = "; integers mean classes, y.astype(float) are numbers to predict"
        raise ValueError(
            f"{what} needs targets from 0 to 1 for {loss.name}, found "
            f"{values[tuple(wrong[0])]:g} at row {wrong[0][0]}{advice}"
        )
    return values, loss


def _suitable_loss(y: Array, output_shape: tuple[int, ...], what: str) -> Loss:
    if y.dtype.kind == "f":
        return losses.MeanSquaredError()
    if math.prod(output_shape) == 1:
        return losses.BinaryCrossEntropy()
    if y.shape[1:] == output_shape:
        raise ValueError(
            f"{what} holds integers of shape {y.shape}; say what they mean: "
            'loss="binary_cross_entropy" for several labels each, or y.argmax(axis=-1) for '
            "one-hot classes"
        )
    return losses.CrossEntropy()


def _classes(y: Array, shape: tuple[int, ...], what: str) -> Array:
    """Return integer classes as int64 of shape (n, *shape); a column counts as (n,)."""
    if y.dtype.kind == "f":
        raise TypeError(
            f"{what} needs integer classes for cross_entropy, found {y.dtype}; write "
            "y.astype(int) if these are classes"
        )
    labels = y[..., 0] if y.ndim == len(shape) + 2 and y.shape[-1] == 1 else y
    if labels.ndim == 0 or labels.shape[1:] != shape:
        needed = _with_n(shape) if shape else "(n,)"
        raise ValueError(
            f"{what} needs integer classes of shape {needed} for cross_entropy, found {y.shape}; "
            "y.argmax(axis=-1) turns one-hot classes into that"
        )
    if labels.dtype == np.uint64 and labels.size and labels.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{what} holds {labels.max()}, which is beyond the 64-bit integers")
    return np.ascontiguousarray(labels, np.int64)


def single_classes(y: Array, loss: Loss) -> Array | None:
    """Return the class of each example, or None where an example has no single class."""
    if isinstance(loss, losses.CrossEntropy):
        return y if y.ndim == 1 else None
    if isinstance(loss, losses.BinaryCrossEntropy) and math.prod(y.shape[1:]) == 1:
        column = y.ravel()
        if np.logical_or(column == 0, column == 1).all():
            return column.astype(np.int64)
    return None


def check_several(labels: Array | None, what: str) -> None:
    """Refuse classes that are all the same: there is nothing to learn from them."""
    if labels is not None and labels.size and labels.min() == labels.max():
        raise ValueError(
            f"{what} holds one class only ({labels[0]}); training needs examples of at least two"
        )


def sample_weights(given: ArrayLike | None, count: int, what: str) -> Array | None:
    """Return weights as float64 of shape (count,), finite, not negative and not all zero."""
    if given is None:
        return None
    weights = numeric(given, what).astype(np.float64, order="C", copy=False)
    if weights.shape != (count,):
        raise ValueError(f"{what} needs shape ({count},), one per example, found {weights.shape}")
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if wrong.size:
        raise ValueError(
            f"{what} needs finite numbers of at least 0, found {weights[wrong[0]]} at "
            f"index {wrong[0]}"
        )
    if count and not weights.any():
        raise ValueError(f"{what} needs at least one weight above 0, found zeros only")
    return weights


def class_weights(
    given: object,
    labels: Array | None,
    weights: Array | None,
    rows: Array | None,
    classes: int,
    what: str,
) -> Array:
    """Multiply the weight of each example's class into its weight.

    "balanced" counts the classes of `rows`, those that are trained on; None means all.
    """
    if labels is None:
        raise ValueError(f"{what} needs one class per example in y; use sample_weight instead")
    known = np.clip(labels, 0, classes - 1)  # the core reports a label out of range, by its place
    used = known if rows is None else known[rows]
    by_class = np.ones(classes)
    if isinstance(given, Mapping):
        for key, value in given.items():
            label = integer(f"{what}: a class", key, 0, classes - 1)
            by_class[label] = number(f"{what}[{label}]", value, 0)
    elif isinstance(given, str) and given == "balanced":
        counts = np.bincount(used, minlength=classes)
        by_class = len(used) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    else:
        raise TypeError(f'{what} needs a dict of weights or "balanced", found {describe(given)}')
    result: Array = by_class[known] if weights is None else by_class[known] * weights
    check_some_weight(result, rows, f"{what} leaves")
    return result


def check_some_weight(weights: Array | None, rows: Array | None, what: str) -> None:
    """Refuse weights that are all zero in the rows that are trained on."""
    if weights is not None and not (weights if rows is None else weights[rows]).any():
        raise ValueError(f"{what} no example with a weight above 0")


def parameters(
    given: Mapping[str, ArrayLike],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    operation: str,
) -> dict[str, Array]:
    """Return values of parameters, each known by name, of its shape, in `dtype` and finite."""
    checked = {}
    for name, values in given.items():
        what = f'{operation}"{name}"'
        if name not in shapes:
            raise ValueError(f"{what} is not a parameter; there are {listing(list(shapes))}")
        value = numeric(values, what)
        if value.shape != shapes[name]:
            raise ValueError(f"{what} needs {shapes[name]} but is {value.shape}")
        value = np.ascontiguousarray(cast(value, dtype))
        finite = np.isfinite(value)
        if not finite.all():
            where = tuple(int(i) for i in np.argwhere(~finite)[0])
            raise ValueError(f"{what} needs finite values, found {value[where]} at {where}")
        checked[name] = value
    return checked


def listing(names: Sequence[str]) -> str:
    """Return names for an error's sentence, the first few where they are many."""
    shown = ", ".join(f'"{name[:40]}"' for name in names[:8])
    return f"{shown}, and {len(names) - 8} more" if len(names) > 8 else shown or "none"


def rows(given: object, count: int, what: str) -> Array | None:
    """Return the rows that a slice, a mask or integers choose of `count`, or None for all.

    Integers count from the end where they are negative, and may repeat, as in NumPy.
    """
    if given is None:
        return None
    if isinstance(given, slice):
        try:
            chosen = np.arange(count)[given]
        except TypeError:
            raise TypeError(f"{what} needs a slice of integers, found {describe(given)}") from None
    else:
        chosen = numeric(given, what)  # type: ignore[arg-type]
        if chosen.ndim != 1:
            raise ValueError(f"{what} needs one axis of row numbers, found shape {chosen.shape}")
        if chosen.dtype == bool:
            if len(chosen) != count:
                raise ValueError(
                    f"{what} needs {count} booleans, one per example, found {len(chosen)}"
                )
            chosen = np.flatnonzero(chosen)
        elif chosen.dtype.kind == "f" and chosen.size:
            raise TypeError(f"{what} needs integers or booleans, found {chosen.dtype}")
    wrong = np.flatnonzero((chosen < -count) | (chosen >= count))
    if wrong.size:
        raise ValueError(
            f"{what} needs rows from 0 to {count - 1}, found {chosen[wrong[0]]} at index {wrong[0]}"
        )
    if not chosen.size:
        raise ValueError(f"{what} needs at least one row, found none")
    chosen = chosen.astype(np.int64)
    return np.where(chosen < 0, chosen + count, chosen)


def scale(x: Array, given: float | None, remembered: float | None, operation: str) -> float:
    """Return the factor on every input: as given, else as remembered, else by the dtype."""
    if given is not None:
        return number(f"{operation}: input_scale", given, 0, include_low=False)
    if remembered is not None:
        return remembered
    return 1 / 255 if x.dtype == np.uint8 else 1.0


def threads(given: object, operation: str) -> int:
    """Return a number of threads as the core takes it: 0 means those that are free."""
    if given is None:
        return 0
    return integer(f"{operation}: threads", given, 1, 1024)


def clip_norm(given: object, operation: str) -> float:
    """Return the limit on the gradient's norm as the core takes it; None means 0, no limit."""
    if given is None:
        return 0.0
    return number(f"{operation}: clip_norm", given, 0, include_low=False)


def shape(given: object) -> tuple[int, ...]:
    """Return the shape of one example."""
    what = "Network: input_shape"
    if not isinstance(given, (tuple, list)):
        return (integer(what, given, 1),)
    if not given:
        raise ValueError(f"{what} needs at least one size, found {given!r}")
    return tuple(integer(f"{what}[{axis}]", size, 1) for axis, size in enumerate(given))


def float_dtype(given: object) -> str:
    """Return the name of a dtype that a network can have."""
    try:
        name = np.dtype(given).name  # type: ignore[call-overload]
    except (TypeError, ValueError):
        name = ""
    if given is None or name not in ("float32", "float64"):
        what = 'Network: dtype needs to be "float32" or "float64"'
        raise ValueError(f"{what}, found {describe(given)}")
    return str(name)
