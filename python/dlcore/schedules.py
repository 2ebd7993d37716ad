"""Learning rates that change while a network trains.

A schedule is a function of time, counted in epochs from the start of one call of ``fit``: ``t =
step / steps_per_epoch``. The core evaluates it at every step; calling the object in Python gives
the same numbers.

Examples
--------
>>> schedule = Warmup(1, then=Cosine(0.1, epochs=10))
>>> [round(schedule(t), 4) for t in (0.5, 1, 5, 10)]
[0.0497, 0.0976, 0.05, 0.0]
"""

from __future__ import annotations

import math
from typing import Any

from dlcore._settings import Settings, describe, number


class Schedule(Settings):
    """Base of the schedules; use one of its subclasses."""

    def __call__(
        self, epoch: float, fit_epochs: float | None = None, steps_per_epoch: int | None = None
    ) -> float:
        """Return the learning rate at the time `epoch`.

        Parameters
        ----------
        epoch : float
            Time since the start of the fit, in epochs, at least 0.
        fit_epochs : float, optional
            Length of the fit; needed where a schedule spans the whole fit.
        steps_per_epoch : int, optional
            Batches in one epoch. With it `Warmup` gives the exact rate of each step; without
            it, the limit of many steps.

        Returns
        -------
        float
        """
        raise NotImplementedError

    def _native(self) -> dict[str, Any]:
        raise NotImplementedError


def _native(kind: str, **settings: float) -> dict[str, Any]:
    values: dict[str, Any] = {"epochs": 0.0, "factor": 1.0, "final": 0.0, "warmup_epochs": 0.0}
    return {"kind": kind, **values, **settings}


def _rate(owner: str, value: object) -> float:
    return number(f"{owner}: learning_rate", value, 0)


class Constant(Schedule):
    """The same learning rate throughout.

    Parameters
    ----------
    learning_rate : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        If it is not a finite number of at least 0.
    """

    learning_rate: float

    def __init__(self, learning_rate: float) -> None:
        super().__init__(learning_rate=_rate("Constant", learning_rate))

    def __call__(
        self, epoch: float, fit_epochs: float | None = None, steps_per_epoch: int | None = None
    ) -> float:
        """Return the learning rate at the time `epoch`; see `Schedule.__call__`."""
        return self.learning_rate

    def _native(self) -> dict[str, Any]:
        return _native("constant", learning_rate=self.learning_rate)


class Step(Schedule):
    """Multiply the learning rate by `factor` every `epochs` epochs.

    ``learning_rate * factor ** floor(t / epochs)``

    Parameters
    ----------
    learning_rate : float
        Rate at the start, at least 0.
    epochs : float
        Epochs between two drops, above 0.
    factor : float, default 0.1
        Above 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a finite number in its range.

    Examples
    --------
    >>> [Step(1.0, epochs=2, factor=0.5)(t) for t in (0, 1.9, 2, 4)]
    [1.0, 1.0, 0.5, 0.25]
    """

    learning_rate: float
    epochs: float
    factor: float

    def __init__(self, learning_rate: float, epochs: float, factor: float = 0.1) -> None:
        super().__init__(
            learning_rate=_rate("Step", learning_rate),
            epochs=number("Step: epochs", epochs, 0, include_low=False),
            factor=number("Step: factor", factor, 0, include_low=False),
        )

    def __call__(
        self, epoch: float, fit_epochs: float | None = None, steps_per_epoch: int | None = None
    ) -> float:
        """Return the learning rate at the time `epoch`; see `Schedule.__call__`."""
        return float(self.learning_rate * self.factor ** math.floor(epoch / self.epochs))

    def _native(self) -> dict[str, Any]:
        return _native("step", **self.settings)


class Cosine(Schedule):
    """Fall from `learning_rate` to `final` along half a cosine wave [1]_, then stay there.

    ``final + (learning_rate - final) * (1 + cos(pi * min(t / epochs, 1))) / 2``

    Parameters
    ----------
    learning_rate : float
        Rate at the start, at least 0.
    epochs : float, optional
        Length of the fall, above 0; left out, the whole fit.
    final : float, default 0.0
        Rate at the end, at least 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a finite number in its range.

    References
    ----------
    .. [1] Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR
       2017, eq. 5.

    Examples
    --------
    >>> [round(Cosine(1.0)(t, fit_epochs=4), 3) for t in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """

    learning_rate: float
    epochs: float | None
    final: float

    def __init__(
        self, learning_rate: float, epochs: float | None = None, final: float = 0.0
    ) -> None:
        if epochs is not None:
            epochs = number("Cosine: epochs", epochs, 0, include_low=False)
        super().__init__(
            learning_rate=_rate("Cosine", learning_rate),
            epochs=epochs,
            final=number("Cosine: final", final, 0),
        )

    def __call__(
        self, epoch: float, fit_epochs: float | None = None, steps_per_epoch: int | None = None
    ) -> float:
        """Return the learning rate at the time `epoch`; see `Schedule.__call__`.

        Raises
        ------
        ValueError
            If the schedule spans the whole fit and `fit_epochs` is not given.
        """
        length = fit_epochs if self.epochs is None else self.epochs
        if length is None:
            raise ValueError("Cosine: spans the whole fit, so its value needs fit_epochs")
        wave = (1 + math.cos(math.pi * min(epoch / length, 1.0))) / 2
        return self.final + (self.learning_rate - self.final) * wave

    def _native(self) -> dict[str, Any]:
        return _native("cosine", **{**self.settings, "epochs": self.epochs or 0.0})


class Warmup(Schedule):
    """Rise in a straight line over the first `epochs`, and follow `then` [1]_.

    ``then(t) * min(1, (step + 1) / (epochs * steps_per_epoch))``: the first step already moves.

    Parameters
    ----------
    epochs : float
        Length of the rise, above 0; may be a fraction.
    then : float or Schedule
        What the rise leads to; its time starts with the fit, not after the rise.

    Raises
    ------
    TypeError, ValueError
        If `epochs` is not a finite number above 0, or `then` is neither a rate nor a schedule,
        or is a `Warmup` itself.

    References
    ----------
    .. [1] Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 2.2.
    """

    epochs: float
    then: Schedule

    def __init__(self, epochs: float, then: float | Schedule) -> None:
        length = number("Warmup: epochs", epochs, 0, include_low=False)
        schedule = get(then, "Warmup: then")
        if isinstance(schedule, Warmup):
            raise TypeError("Warmup: then needs another kind of schedule, found a Warmup")
        super().__init__(epochs=length, then=schedule)

    def __call__(
        self, epoch: float, fit_epochs: float | None = None, steps_per_epoch: int | None = None
    ) -> float:
        """Return the learning rate at the time `epoch`; see `Schedule.__call__`."""
        reached = epoch if steps_per_epoch is None else epoch + 1 / steps_per_epoch
        rate = self.then(epoch, fit_epochs, steps_per_epoch)
        return rate * min(1.0, reached / self.epochs)

    def _native(self) -> dict[str, Any]:
        return {**self.then._native(), "warmup_epochs": self.epochs}


def get(schedule: object, what: str = "learning_rate") -> Schedule:
    """Return `schedule` itself, or a number as a `Constant`; `what` begins the error's sentence.

    Examples
    --------
    >>> get(0.1)
    Constant(0.1)
    """
    if isinstance(schedule, Schedule):
        return schedule
    if isinstance(schedule, type) or callable(schedule):
        raise TypeError(
            f"{what} needs a number or an object of dlcore.schedules, found {describe(schedule)}"
        )
    return Constant(number(what, schedule, 0))
