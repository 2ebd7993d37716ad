"""What the training of one model takes and gives."""

from __future__ import annotations

import platform
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dlcore.data import Dataset
from dlcore.scaling.grid import Split
from dlcore.scaling.learners import Learner
from dlcore.scaling.metrics import Metric, Prediction
from dlcore.scaling.progress import Folder

if TYPE_CHECKING:
    import dlcore
    from dlcore.scaling.preprocessing import Preprocessing

Array = NDArray[Any]


@dataclass(frozen=True)
class Work:
    """What all runs of a study share."""

    data: Dataset
    split: Split
    metric: Metric
    learners: Mapping[str, Learner]
    stop: threading.Event | None = None
    progress: Folder | None = None  # where what is done of unfinished runs is kept

    def held_out(self) -> tuple[Array, Array]:
        """Held-out examples and their answers."""
        if self.split.own_test:
            assert self.data.test_x is not None and self.data.test_y is not None
            return self.data.test_x, self.data.test_y
        return self.data.x[self.split.test], self.data.y[self.split.test]

    def check_stop(self) -> None:
        """Raise :class:`Stopped` if the study was told to stop."""
        if self.stop is not None and self.stop.is_set():
            raise Stopped


class Stopped(Exception):
    """A run was left unfinished because the study was told to stop."""


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes
    ----------
    learner : Learner
        What is trained.
    value : float
        Its setting.
    seed : int
        Draws initial weights and the order of the batches.
    rows : array of int
        Rows of the data to train on.
    validation : array of int or None
        Rows to stop by; None trains for ``epochs`` with a falling learning rate.
    epochs : int or None
        Length where nothing is validated on; networks only.
    kept : Path or None
        File for the state of the training, from which it goes on.
    """

    learner: Learner
    value: float
    seed: int
    rows: Array
    validation: Array | None = None
    epochs: int | None = None
    kept: Path | None = None


@dataclass(frozen=True)
class Trained:
    """A model and what its training was like.

    Attributes
    ----------
    predict : callable
        From rows as in :attr:`dlcore.data.Dataset.x` to a :class:`Prediction`.
    epochs : int
        The best epoch where there was validation, else all; 0 for other learners.
    trained_epochs : int
        All that were made.
    notes : set of str
        Codes of :data:`dlcore.scaling.page.NOTES`.
    seconds : float
        Of the training alone.
    layers : tuple of dict
        Health of each dense layer of a network that was not validated on: the norms of its
        gradient and of its updates beside its weights in the first epoch; the shares of dead and of
        saturated units after it in the last one.
    """

    predict: Any
    epochs: int
    notes: frozenset[str]
    seconds: float
    parameters: int | None = None
    flops: int | None = None
    diverged: bool = False
    layers: tuple[dict[str, Any], ...] = ()
    network: dlcore.Network | None = None
    preprocessing: Preprocessing | None = None
    trained_epochs: int = 0


def constant(label: int, classes: int) -> Trained:
    def predict(x: Array) -> Prediction:
        probabilities = np.zeros((len(x), classes))
        probabilities[:, label] = 1.0
        return Prediction(np.full(len(x), label), probabilities)

    return Trained(predict, 1, frozenset({"one_class"}), 0.0)


@cache
def machine() -> dict[str, Any]:
    """Where a run was made, for its record."""
    import dlcore

    found = {"system": platform.system(), "processor": platform.machine(), "host": platform.node()}
    found["python"] = platform.python_version()
    found["numpy"] = np.__version__
    info = dlcore.info()
    found.update(dlcore=str(info["version"]), kernels=str(info["kernels"]))
    return found
