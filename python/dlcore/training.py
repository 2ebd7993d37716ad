"""One fit of one network: its arguments checked, its data prepared, its result told.

`Network.fit` and `fit_many` both train what `Training` has prepared, so that nothing is decided
twice.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcore import _inputs, losses, optimizers
from dlcore._settings import describe, integer
from dlcore.checkpoint import Checkpoint
from dlcore.history import (
    DivergenceWarning,
    EarlyStopping,
    History,
    ProgressLine,
    layer_statistics,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dlcore._core import FitResult
    from dlcore.losses import Loss
    from dlcore.network import Network

    Array = NDArray[Any]


class Arrays:
    """Converts what fits are given; what several of them share is converted and kept once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    def once(self, convert: Callable[..., Any], given: Any, *arguments: Any, what: str) -> Any:
        """Return ``convert(given, *arguments, what=what)``, from memory where it was asked for."""
        key = (convert, id(given), *arguments)
        if key not in self._known:  # `given` is kept too, so that its id stays its own
            self._known[key] = given, convert(given, *arguments, what=what)
        return self._known[key][1]


class Training:
    """One fit of one network, ready for the core.

    Parameters
    ----------
    network : Network
    x, y : array_like
    operation : str
        Begins the sentence of every error.
    arrays : Arrays
        Shared by the fits of one call.
    subset : slice, array_like of int or bool, or None
        The rows of `x` and `y` to train on; None means all.
    line : ProgressLine or None
        Told of every epoch.
    **options
        Those of `Network.fit`, whose docstring explains them.

    Attributes
    ----------
    x, y : ndarray
        As the core takes them.
    settings : dict
        Everything else that the core takes, but for the threads and the listener to progress.
    """

    def __init__(
        self,
        network: Network,
        x: Any,
        y: Any,
        operation: str,
        arrays: Arrays,
        *,
        loss: Any,
        optimizer: Any,
        epochs: Any,
        batch_size: Any,
        validation_data: Any,
        seed: Any,
        shuffle: Any,
        sample_weight: Any,
        class_weight: Any,
        early_stopping: Any,
        on_epoch: Any,
        clip_norm: Any,
        precision: Any,
        input_scale: Any,
        statistics: Any,
        checkpoint: Any = None,
        subset: Any = None,
        line: ProgressLine | None = None,
    ) -> None:
        self._network, self._operation, self._arrays = network, operation, arrays
        self._on_epoch, self._line = on_epoch, line
        if optimizer is None:
            optimizer = network.optimizer or optimizers.Adam()
        self._optimizer = optimizers.check(optimizer, operation)
        self.settings: dict[str, Any] = {
            "optimizer": self._optimizer._native(),
            "schedule": self._optimizer.schedule._native(),
            "epochs": integer(f"{operation}: epochs", epochs, 1),
            "batch_size": integer(f"{operation}: batch_size", batch_size, 1),
            "seed": integer(f"{operation}: seed", seed, 0, 2**64 - 1),
            "shuffle": bool(shuffle),
            "clip_norm": _inputs.clip_norm(clip_norm, operation),
            "statistics": bool(statistics),
            "bf16": False,
        }
        self._choose_precision(precision)
        if early_stopping is not None and not isinstance(early_stopping, EarlyStopping):
            raise TypeError(
                f"{operation}: early_stopping needs an object such as "
                f"dlcore.EarlyStopping(patience=5), found {describe(early_stopping)}"
            )
        self.settings["early_stopping"] = early_stopping and early_stopping.settings
        if on_epoch is not None and not callable(on_epoch):
            raise TypeError(f"{operation}: on_epoch needs a callable, found {describe(on_epoch)}")
        watched = on_epoch is not None or line is not None
        self.settings["on_epoch"] = self._after_epoch if watched else None

        self.x = self._examples(x, "x")
        known = network.loss if loss is None else losses.get(loss, operation)
        self.y, self._loss = self._targets(y, known, "y")
        rows = arrays.once(_inputs.rows, subset, len(self.x), what=f"{operation}: subset")
        weights = self._weights(sample_weight, len(self.x), "sample_weight")
        if len(self.y) == len(self.x):  # else the core refuses them
            weights = self._weigh(rows, weights, class_weight)
        scale = _inputs.scale(self.x, input_scale, network.input_scale, operation)
        self._scale = None if input_scale is None else scale
        self.settings |= {
            "loss": self._loss._native(),
            "rows": rows,
            "sample_weight": weights,
            "input_scale": scale,
            **self._validation(validation_data, input_scale, scale),
        }
        self._measures = ["loss"]
        if has_accuracy(self._loss):
            self._measures.append("accuracy")
        if validation_data is not None:
            self._measures += [f"val_{name}" for name in self._measures]
        self._measures += ["learning_rate", "seconds", "examples_per_second"]
        self._checkpoint = None
        if checkpoint is not None:
            place = network.device, self._precision
            self._checkpoint = Checkpoint(
                checkpoint, operation, network, self.x, self.y, self.settings, place
            )
            self.settings |= self._checkpoint.settings

    def finish(self, result: FitResult) -> History:
        """Return the record of the fit."""
        layers = [name for name, _, _ in self._network._graph.dense]
        return History(
            result,
            self._measures,
            layers if self.settings["statistics"] else (),
            device=self._network.device,
            precision=self._precision,
        )

    def _choose_precision(self, given: object) -> None:
        """Take the precision of products, or refuse what the network cannot do."""
        network = self._network
        if network.device == "cpu":
            self.settings["bf16"] = _is_bf16(given, network.dtype, self._operation)
            self._precision = "bf16" if self.settings["bf16"] else "fp32"
            if network.dtype == "float64":
                self._precision = "fp64"
        elif given is None:
            self._precision = network.precision
        else:
            self._precision = network._check_precision(given, f"{self._operation}: precision")

    def forget(self) -> None:
        """Remove the checkpoint, which is no longer needed."""
        if self._checkpoint is not None:
            self._checkpoint.remove()

    def _examples(self, x: Any, what: str) -> Array:
        network = self._network
        settings = network.input_shape, network.dtype, False, network.device
        found: Array = self._arrays.once(
            _inputs.examples, x, *settings, what=f"{self._operation}: {what}"
        )
        return found

    def _targets(self, y: Any, loss: Loss | None, what: str) -> tuple[Array, Loss]:
        network = self._network
        settings = loss, network.output_shape, network.dtype
        found: tuple[Array, Loss] = self._arrays.once(
            _inputs.targets, y, *settings, what=f"{self._operation}: {what}"
        )
        return found

    def _weights(self, given: Any, count: int, what: str) -> Array | None:
        found: Array | None = self._arrays.once(
            _inputs.sample_weights, given, count, what=f"{self._operation}: {what}"
        )
        return found

    def _weigh(self, rows: Array | None, weights: Array | None, class_weight: Any) -> Array | None:
        """Return the weight of each example, from the classes too; refuse what teaches nothing."""
        labels = _inputs.single_classes(self.y, self._loss)
        used = labels if labels is None or rows is None else labels[rows]
        _inputs.check_several(used, f"{self._operation}: y")
        if class_weight is not None:
            return _inputs.class_weights(
                class_weight,
                labels,
                weights,
                rows,
                max(self._network.output_shape[-1], 2),
                f"{self._operation}: class_weight",
            )
        _inputs.check_some_weight(weights, rows, f"{self._operation}: sample_weight leaves")
        return weights

    def _validation(
        self, given: Any, input_scale: float | None, scale: float
    ) -> dict[str, Array | None]:
        if given is None:
            return {"validation_x": None, "validation_y": None, "validation_weight": None}
        several = isinstance(given, (tuple, list))
        if not several or len(given) not in (2, 3):
            raise TypeError(
                f"{self._operation}: validation_data needs a tuple (x, y) or "
                "(x, y, sample_weight), found "
                + (f"{len(given)} entries" if several else describe(given))
            )
        x = self._examples(given[0], "validation_data x")
        y, _ = self._targets(given[1], self._loss, "validation_data y")
        weights = self._weights(
            given[2] if len(given) == 3 else None, len(x), "validation_data sample_weight"
        )
        remembered = self._network.input_scale
        if _inputs.scale(x, input_scale, remembered, self._operation) != scale:
            raise TypeError(
                f"{self._operation}: validation_data x is scaled otherwise than x because one of "
                "them is uint8; pass both in one dtype, or input_scale"
            )
        return {"validation_x": x, "validation_y": y, "validation_weight": weights}

    def _after_epoch(self, record: Mapping[str, Any]) -> bool:
        """Tell the listeners about an epoch; return False where one of them says to stop."""
        # The core counts epochs from 0, people from 1.
        shown = {"epoch": record["epoch"] + 1, **{name: record[name] for name in self._measures}}
        if self.settings["statistics"]:
            shown["layers"] = layer_statistics(record)
        if self._line is not None:
            self._line.epoch(shown)
        answer = None if self._on_epoch is None else self._on_epoch(shown)
        return not (isinstance(answer, (bool, np.bool_)) and not answer)

    def _remember(self) -> None:
        network = self._network
        network.loss, network.optimizer = self._loss, self._optimizer
        if network.device != "cpu":
            network.precision = self._precision
        if self._scale is not None:
            network.input_scale = self._scale


@contextmanager
def remembering(trainings: Sequence[Training]) -> Iterator[None]:
    """Let the networks remember loss, optimizer and scale; where none was learnt, the old ones."""
    before = []
    for training in trainings:
        network = training._network
        if not network._core.training:  # else the core refuses, and what was remembered stays
            kept = network.loss, network.optimizer, network.input_scale
            before.append((network, network._core.step, kept))
            training._remember()
    try:
        yield
    except BaseException:
        for network, step, kept in reversed(before):
            if network._core.step == step:  # nothing was learnt
                network.loss, network.optimizer, network.input_scale = kept
        raise


def fit(network: Network, x: Any, y: Any, threads: Any, progress: Any, **options: Any) -> History:
    """Do what `Network.fit` promises."""
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(
            f"fit: progress needs True, False or a callable, found {describe(progress)}"
        )
    thread_count = _inputs.threads(threads, "fit")
    line = ProgressLine(options["epochs"]) if progress is True else None
    listener = line.step if line is not None else progress
    training = Training(network, x, y, "fit", Arrays(), line=line, **options)

    def between_steps(epoch: int, done: int, steps: int) -> None:
        if callable(listener):
            listener(epoch + 1, done, steps)  # the core counts from 0

    with remembering([training]):
        result = network._core.fit(
            training.x,
            training.y,
            **training.settings,
            threads=thread_count,
            on_progress=between_steps if callable(listener) else None,
        )
    history = training.finish(result)
    training.forget()
    if history.stopped == "diverged":
        warnings.warn(history.message, DivergenceWarning, stacklevel=3)
    return history


def has_accuracy(loss: Loss) -> bool:
    """Return whether the loss compares classes."""
    return isinstance(loss, (losses.CrossEntropy, losses.BinaryCrossEntropy))


def _is_bf16(precision: object, dtype: str, operation: str) -> bool:
    """Return whether products are to round to bfloat16; refuse what the network cannot do."""
    allowed = (None, "fp32", "bf16") if dtype == "float32" else (None,)
    if precision not in allowed:
        one = 'None, "fp32" or "bf16"' if dtype == "float32" else "None in a float64 network"
        raise ValueError(f"{operation}: precision needs to be {one}, found {describe(precision)}")
    return precision == "bf16"
