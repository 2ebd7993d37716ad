"""Optimizers: how a step moves the parameters against the gradient ``g``.

An object here holds settings only and may serve many networks; moments and step counts live with
the network and go on when ``fit`` is called again with the same kind of optimizer. Weight decay
acts on every parameter, biases included, as in PyTorch.
"""

from __future__ import annotations

from typing import Any

from dlcore import schedules
from dlcore._settings import Settings, describe, number
from dlcore.schedules import Schedule


class Optimizer(Settings):
    """Base of the optimizers; use one of its subclasses."""

    learning_rate: float | Schedule
    weight_decay: float

    @property
    def schedule(self) -> Schedule:
        """The learning rate as a schedule; a number is a `schedules.Constant`."""
        return schedules.get(self.learning_rate)

    def _native(self) -> dict[str, Any]:
        raise NotImplementedError


def _learning_rate(owner: str, value: object) -> float | Schedule:
    schedule = schedules.get(value, f"{owner}: learning_rate")
    return schedule if schedule is value else float(schedule(0))


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and Nesterov's variant of it.

    ``g = g + weight_decay * p``; ``v = momentum * v + g`` (the first ``v`` is ``g``);
    ``p = p - learning_rate * v``, with ``g + momentum * v`` in place of ``v`` for Nesterov [1]_.
    These are PyTorch's formulas.

    Parameters
    ----------
    learning_rate : float or Schedule
        At least 0.
    momentum : float, default 0.0
        From 0 to below 1.
    nesterov : bool, default False
        Needs a momentum above 0.
    weight_decay : float, default 0.0
        L2 penalty, at least 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of its range.

    References
    ----------
    .. [1] Sutskever et al., "On the importance of initialization and momentum in deep learning",
       ICML 2013.

    Examples
    --------
    >>> SGD(0.1, momentum=0.9)
    SGD(0.1, momentum=0.9)
    """

    momentum: float
    nesterov: bool

    def __init__(
        self,
        learning_rate: float | Schedule,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        rate = _learning_rate("SGD", learning_rate)
        momentum = number("SGD: momentum", momentum, 0, 1)
        if nesterov and momentum == 0:
            raise ValueError("SGD: nesterov needs a momentum above 0, found 0")
        super().__init__(
            learning_rate=rate,
            momentum=momentum,
            nesterov=bool(nesterov),
            weight_decay=number("SGD: weight_decay", weight_decay, 0),
        )

    def _native(self) -> dict[str, Any]:
        return {
            "kind": "sgd",
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "weight_decay": self.weight_decay,
        }


def _adam_settings(
    owner: str,
    learning_rate: object,
    betas: tuple[float, float],
    epsilon: object,
    weight_decay: object,
) -> dict[str, Any]:
    rate = _learning_rate(owner, learning_rate)
    try:
        beta1, beta2 = betas
    except (TypeError, ValueError):
        raise TypeError(f"{owner}: betas needs two numbers, found {describe(betas)}") from None
    return {
        "learning_rate": rate,
        "betas": (
            number(f"{owner}: betas[0]", beta1, 0, 1),
            number(f"{owner}: betas[1]", beta2, 0, 1),
        ),
        "epsilon": number(f"{owner}: epsilon", epsilon, 0),
        "weight_decay": number(f"{owner}: weight_decay", weight_decay, 0),
    }


class Adam(Optimizer):
    """Adam: steps scaled by running means of the gradient and of its square [1]_.

    ``g = g + weight_decay * p``; ``m = b1 m + (1 - b1) g``; ``v = b2 v + (1 - b2) g**2``;
    ``p = p - learning_rate * (m / (1 - b1**t)) / (sqrt(v / (1 - b2**t)) + epsilon)``.

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.001
        At least 0.
    betas : tuple of two floats, default (0.9, 0.999)
        Memory of the two means, each from 0 to below 1.
    epsilon : float, default 1e-8
        At least 0.
    weight_decay : float, default 0.0
        L2 penalty, at least 0, added to the gradient; `AdamW` decays the weights themselves.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of its range.

    References
    ----------
    .. [1] Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1.

    Examples
    --------
    >>> Adam()
    Adam()
    """

    betas: tuple[float, float]
    epsilon: float

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(**_adam_settings("Adam", learning_rate, betas, epsilon, weight_decay))

    def _native(self) -> dict[str, Any]:
        return _adam_native("adam", self.betas, self.epsilon, self.weight_decay)


class AdamW(Optimizer):
    """Adam with decoupled weight decay [1]_.

    ``p = p * (1 - learning_rate * weight_decay)``, then Adam's step without a penalty.

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.001
        At least 0.
    betas : tuple of two floats, default (0.9, 0.999)
        Memory of the two means, each from 0 to below 1.
    epsilon : float, default 1e-8
        At least 0.
    weight_decay : float, default 0.01
        At least 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of its range.

    References
    ----------
    .. [1] Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2.
    """

    betas: tuple[float, float]
    epsilon: float

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(**_adam_settings("AdamW", learning_rate, betas, epsilon, weight_decay))

    def _native(self) -> dict[str, Any]:
        return _adam_native("adamw", self.betas, self.epsilon, self.weight_decay)


def _adam_native(
    kind: str, betas: tuple[float, float], epsilon: float, weight_decay: float
) -> dict[str, Any]:
    return {
        "kind": kind,
        "beta1": betas[0],
        "beta2": betas[1],
        "epsilon": epsilon,
        "weight_decay": weight_decay,
    }


def check(optimizer: object, operation: str) -> Optimizer:
    """Return `optimizer` if it is one, or say how to make one; `operation` begins the sentence."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    raise TypeError(
        f"{operation}: optimizer needs an object such as dlcore.Adam(1e-3) or "
        f"dlcore.SGD(0.1, momentum=0.9), found {describe(optimizer)}"
    )
