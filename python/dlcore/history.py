"""What a fit leaves behind, and when it stops early."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dlcore._settings import Settings, integer, number

if TYPE_CHECKING:
    from dlcore._core import FitResult


# What `History.layers` holds of each layer, in this order.
LAYER_MEASURES = ("gradient_norm", "weight_norm", "update_ratio", "dead", "saturated")


class DivergenceWarning(RuntimeWarning):
    """A fit stopped as its loss was no longer finite; the network is at its last finite state."""


class EarlyStopping(Settings):
    """Stop a fit when the validation loss no longer falls [1]_.

    Without validation data the loss itself is watched.

    Parameters
    ----------
    patience : int
        Epochs without an improvement after which the fit stops, at least 1.
    min_delta : float, default 0.0
        How far the loss has to fall below the best one so far to count, at least 0.
    restore_best : bool, default True
        Whether the network ends with the weights of its best epoch, however the fit ends.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of its range.

    References
    ----------
    .. [1] Prechelt, "Early Stopping - But When?", Neural Networks: Tricks of the Trade, 1998.

    Examples
    --------
    >>> EarlyStopping(5, min_delta=0.001)
    EarlyStopping(5, min_delta=0.001)
    """

    patience: int
    min_delta: float
    restore_best: bool

    def __init__(self, patience: int, min_delta: float = 0.0, restore_best: bool = True) -> None:
        super().__init__(
            patience=integer("EarlyStopping: patience", patience, 1),
            min_delta=number("EarlyStopping: min_delta", min_delta, 0),
            restore_best=bool(restore_best),
        )


class History(Mapping[str, "list[float]"]):
    """The record of one call of ``fit``: a mapping from each measure to its values by epoch.

    The measures are "loss" and, for classes, "accuracy" (running means over the epoch's batches,
    while the weights move); with validation data "val_loss" and "val_accuracy" (after the epoch);
    "learning_rate" (of the epoch's last step), "seconds" (training and validation) and
    "examples_per_second". Each is an attribute too: ``history.loss`` is ``history["loss"]``.

    Attributes
    ----------
    epochs : int
        Number of epochs that were begun. A fit that diverged ends with one whose loss is NaN.
    stopped : str
        Why the fit ended: "completed", "early_stopping", "callback" or "diverged".
    message : str
        The same as a sentence, with advice where there is any.
    best_epoch : int
        The epoch, counted from 1, with the lowest validation loss, or the lowest loss without
        validation data; 0 where none was finite.
    device : str
        Where the network trained: "cpu" or "cuda".
    precision : str
        How products were computed: "fp64", "fp32", "tf32" or "bf16".
    engine : str
        What trained the network: "cpu", or on a GPU "population" (many small ones in one kernel),
        "group" (those that are alike side by side) or "graph" (one network at a time).
    engine_reason : str
        What stood against the engines named before, for a network of a fleet on a GPU; else empty.
    layers : dict of str to dict of str to list of float
        Health of each dense layer by epoch, where the fit was asked for `statistics`, else empty:
        ``history.layers["0"]["dead"][-1]``. See the notes.

    Notes
    -----
    The measures in `layers` are means over every 64th step of an epoch, its first one included;
    NaN where a measure does not apply, and in the epoch in which a fit diverged.

    ==================  ======================================================================
    gradient_norm       2-norm of the gradient of the layer's weight, before clipping
    weight_norm         2-norm of the weight after the step; the bias counts in none of these
    update_ratio        2-norm of the weight's change in the step, divided by ``weight_norm``;
                        about 1e-3 is healthy
    dead                with ReLU after the layer: share of units that are 0 for the whole batch
    saturated           with sigmoid or tanh after the layer: share of results that are within
                        1 % of the range's width of one of its ends
    ==================  ======================================================================

    Examples
    --------
    >>> import numpy as np
    >>> import dlcore
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> network = dlcore.Network([dlcore.Dense(1)], input_shape=(1,))
    >>> history = network.fit(x, 3 * x + 1, optimizer=dlcore.SGD(0.3), epochs=20, batch_size=16)
    >>> history.epochs, history.stopped, len(history.loss)
    (20, 'completed', 20)
    >>> history.loss[-1] < 0.001
    True
    """

    epochs: int
    stopped: str
    message: str
    best_epoch: int
    device: str
    precision: str
    engine: str
    engine_reason: str
    layers: dict[str, dict[str, list[float]]]

    def __init__(
        self,
        result: FitResult,
        names: Sequence[str],
        layers: Sequence[str] = (),
        device: str = "cpu",
        precision: str = "fp32",
    ) -> None:
        records: list[Mapping[str, Any]] = list(result["epochs"])
        self._values = {name: [float(record[name]) for record in records] for name in names}
        self.epochs = len(records)
        self.stopped = result["stopped"]
        self.device, self.precision, self.engine = device, precision, result["engine"]
        self.engine_reason = result["engine_reason"]
        self.message = result["message"] or f"fit: completed {self.epochs} epochs"
        watched = self._values.get("val_loss", self._values["loss"])
        finite = [(value, epoch) for epoch, value in enumerate(watched, 1) if math.isfinite(value)]
        self.best_epoch = min(finite)[1] if finite else 0
        by_epoch = [layer_statistics(record) for record in records]
        self.layers = {
            layer: {
                measure: [epoch.get(layer, {}).get(measure, math.nan) for epoch in by_epoch]
                for measure in LAYER_MEASURES
            }
            for layer in layers
        }

    def __getitem__(self, name: str) -> list[float]:
        try:
            return self._values[name]
        except KeyError:
            known = ", ".join(self._values)
            raise KeyError(f"history has no {name!r}; it has {known}") from None

    def __getattr__(self, name: str) -> list[float]:
        values = self.__dict__.get("_values", {})  # absent while a copy is being made
        if name in values:
            found: list[float] = values[name]
            return found
        raise AttributeError(f"history has no {name!r}; it has {', '.join(values)}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as numbers, strings and lists, ready for ``json.dump``."""
        statistics = {
            layer: {measure: list(values) for measure, values in measures.items()}
            for layer, measures in self.layers.items()
        }
        return {
            **{name: list(values) for name, values in self._values.items()},
            **({"layers": statistics} if statistics else {}),
            "epochs": self.epochs,
            "stopped": self.stopped,
            "best_epoch": self.best_epoch,
            "message": self.message,
            "device": self.device,
            "precision": self.precision,
            "engine": self.engine,
        }

    def __repr__(self) -> str:
        shown = [f"epochs={self.epochs}", f"stopped={self.stopped!r}"]
        if self.epochs:
            shown += [f"{name}={values[-1]:.4g}" for name, values in self._values.items()]
        if self.device != "cpu":
            shown += [f"device={self.device!r}", f"precision={self.precision!r}"]
            shown += [f"engine={self.engine!r}"]
        return f"History({', '.join(shown)})"


def layer_statistics(record: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the health of each layer in one of the core's records of an epoch, by name."""
    return {
        layer["name"]: {measure: float(layer[measure]) for measure in LAYER_MEASURES}
        for layer in record["layers"]
    }


class ProgressLine:
    """Shows a fit on the standard error stream: a line per epoch and a bar on a terminal."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._moving = sys.stderr.isatty()
        self._start = time.monotonic()

    def step(self, epoch: int, done: int, steps: int) -> None:
        """Draw the bar after `done` of the `steps` steps of `epoch`."""
        if self._moving:
            share = ((epoch - 1) + done / max(steps, 1)) / self._epochs
            left = _time_left(share, time.monotonic() - self._start)
            _write(f"\r\x1b[Kepoch {epoch}/{self._epochs} {_bar(done / max(steps, 1))}{left}")

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Write the line of a finished epoch."""
        shown = [
            f"{name} {record[name]:.4g}"
            for name in ("loss", "accuracy", "val_loss", "val_accuracy")
            if name in record
        ]
        shown.append(f"{record['seconds']:.2g} s")
        shown.append(f"{record['examples_per_second']:,.0f} examples/s")
        clear = "\r\x1b[K" if self._moving else ""
        _write(f"{clear}epoch {record['epoch']}/{self._epochs}: {', '.join(shown)}\n")


class FleetLine:
    """Shows many fits on the standard error stream: a bar on a terminal, and a line at the end."""

    def __init__(self) -> None:
        self._moving = sys.stderr.isatty()
        self._start = time.monotonic()
        self._ended = False

    def step(self, finished: int, networks: int) -> None:
        """Draw the bar after `finished` of the `networks`."""
        passed = time.monotonic() - self._start
        clear = "\r\x1b[K" if self._moving else ""
        if self._ended:
            return  # the core may report the last one twice
        if finished == networks:
            self._ended = True
            _write(f"{clear}{networks} networks: {passed:.2g} s\n")
        elif self._moving:
            share = finished / networks
            shown = f"{finished} of {networks} networks {_bar(share)}{_time_left(share, passed)}"
            _write(clear + shown)


def _bar(share: float) -> str:
    filled = round(20 * share)
    return f"[{'#' * filled}{'-' * (20 - filled)}]"


def _time_left(share: float, passed: float) -> str:
    return f", {passed / share - passed:.0f} s left" if share > 0 else ""


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
