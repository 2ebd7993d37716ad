"""Losses: what training makes small.

Each is a mean over all elements; with weights, ``sum(w_i l_i) / sum(w_i)`` where ``l_i`` is the
mean over the elements of example ``i``. Where no parameter is needed the name is enough:
``"cross_entropy"``, ``"binary_cross_entropy"``, ``"mse"``, ``"huber"``.
"""

from __future__ import annotations

from typing import Any, ClassVar

from dlcore._settings import Settings, describe, number


class Loss(Settings):
    """Base of the losses; use one of its subclasses.

    Attributes
    ----------
    name : str
        The loss's short name, as ``fit(loss=...)`` takes it.
    head : str
        What turns logits into predictions: "softmax", "sigmoid" or "identity".
    """

    name: ClassVar[str] = ""
    head: ClassVar[str] = "identity"

    def _native(self) -> dict[str, Any]:
        return {"kind": self.name, "delta": 1.0, **self.settings}


class CrossEntropy(Loss):
    """Softmax cross-entropy of logits and integer classes.

    ``l_i = log(sum_c exp(logits[i, c])) - logits[i, labels[i]]`` [1]_; labels lie in 0..C-1 for C
    outputs, and `Network.predict` returns ``softmax(logits)``.

    References
    ----------
    .. [1] Goodfellow, Bengio and Courville, "Deep Learning", 2016, section 6.2.2.3.
    """

    name = "cross_entropy"
    head = "softmax"

    def __init__(self) -> None:
        super().__init__()


class BinaryCrossEntropy(Loss):
    """Binary cross-entropy of logits and targets in [0, 1], element by element.

    ``l = max(z, 0) - z y + log(1 + exp(-|z|))`` [1]_, for one yes-or-no question or for several
    labels at once; `Network.predict` returns ``sigmoid(logits)``.

    References
    ----------
    .. [1] Goodfellow, Bengio and Courville, "Deep Learning", 2016, section 6.2.2.2.
    """

    name = "binary_cross_entropy"
    head = "sigmoid"

    def __init__(self) -> None:
        super().__init__()


class MeanSquaredError(Loss):
    """Mean squared error, ``l = (prediction - target) ** 2``, for regression."""

    name = "mse"

    def __init__(self) -> None:
        super().__init__()


class Huber(Loss):
    """Huber's loss: squared near zero, absolute beyond `delta`, so outliers pull less [1]_.

    ``0.5 r**2`` where ``|r| <= delta``, else ``delta * (|r| - delta / 2)``, with
    ``r = prediction - target``.

    Parameters
    ----------
    delta : float, default 1.0
        Residual, in the units of the target, at which the loss turns from squared to absolute.

    Raises
    ------
    TypeError, ValueError
        If `delta` is not a finite number above 0.

    References
    ----------
    .. [1] Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics
       35 (1964).

    Examples
    --------
    >>> Huber(delta=0.5)
    Huber(0.5)
    """

    name = "huber"
    delta: float

    def __init__(self, delta: float = 1.0) -> None:
        super().__init__(delta=number("Huber: delta", delta, 0, include_low=False))


#: The losses by name.
BY_NAME: dict[str, type[Loss]] = {
    loss.name: loss for loss in (CrossEntropy, BinaryCrossEntropy, MeanSquaredError, Huber)
}


def get(loss: str | Loss, operation: str = "losses.get") -> Loss:
    """Return the loss that `loss` names or is.

    Parameters
    ----------
    loss : str or Loss
    operation : str
        Begins the error's sentence.

    Raises
    ------
    TypeError
        If `loss` is neither.
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> get("huber")
    Huber()
    """
    if isinstance(loss, Loss):
        return loss
    names = ", ".join(BY_NAME)
    if not isinstance(loss, str):
        raise TypeError(
            f"{operation}: loss needs one of the names {names} or an object of dlcore.losses, "
            f"found {describe(loss)}"
        )
    if loss not in BY_NAME:
        raise ValueError(f"{operation}: loss needs one of {names}, found {loss!r}")
    return BY_NAME[loss]()
