"""The state of a fit in a file, from which the same fit goes on after it was interrupted."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcore import _core, files
from dlcore._settings import describe

if TYPE_CHECKING:
    from dlcore.network import Network

# A fit that is killed loses at most so much, the epoch under way, and what writing took.
SECONDS = 0.3
_ARRAYS = ("parameters", "moment1", "moment2", "best_parameters")
# What a fit's result depends on; its threads, listeners and checkpoint are none of it.
_PLAIN = (
    *("loss", "optimizer", "schedule", "epochs", "batch_size", "shuffle", "seed", "clip_norm"),
    *("input_scale", "early_stopping", "statistics", "bf16"),
)
_HASHED = ("rows", "sample_weight", "validation_y", "validation_weight")


class CheckpointError(ValueError):
    """A file that is there, but that the fit cannot go on from."""


class Checkpoint:
    """Where one fit keeps its state.

    Parameters
    ----------
    path : str or path-like
    operation : str
        Begins the sentence of every error.
    network : Network
        As it is before the fit.
    x, y : ndarray
        As the core takes them.
    settings : dict
        As the core takes them.
    place : tuple of str
        Device, and precision of products.

    Raises
    ------
    CheckpointError
        If the file is there but is damaged or of another fit.
    """

    def __init__(
        self,
        path: object,
        operation: str,
        network: Network,
        x: Any,
        y: Any,
        settings: dict[str, Any],
        place: tuple[str, str],
    ) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"{operation}: checkpoint needs a path, found {describe(path)}")
        self._path = Path(path)
        if not self._path.parent.is_dir():
            raise ValueError(f"{operation}: checkpoint needs a folder that exists, found {path}")
        self._fit = _identity(network, x, y, settings, place)
        self.settings: dict[str, Any] = {
            "on_checkpoint": self._write,
            "checkpoint_seconds": SECONDS,
        }
        if self._path.exists():
            self.settings["resume"] = self._read(operation)

    def _write(self, state: dict[str, Any]) -> None:
        numbers = {name: value for name, value in state.items() if name not in _ARRAYS}
        arrays = {name: state[name] for name in _ARRAYS}
        content = {"fit": self._fit, "state": _without_special(numbers)}
        content["sum"] = _sum(content, arrays)
        files.write(self._path, arrays, {"dlcore-checkpoint": json.dumps(content)})

    def _read(self, operation: str) -> dict[str, Any]:
        try:
            arrays, metadata = files.read(self._path)
            text = metadata.get("dlcore-checkpoint", "")
            content = files.parse_json(text.encode(), "the checkpoint")
            if content.pop("sum") != _sum(content, arrays):
                raise ValueError("it is damaged")
            if content["fit"] != self._fit:
                raise ValueError(
                    "it is of another fit: network, parameters, targets or settings were others"
                )
            state: dict[str, Any] = _with_special(content["state"])
            return {**state, **{name: arrays[name] for name in _ARRAYS}}
        except (KeyError, ValueError) as error:
            what = "it is no checkpoint" if isinstance(error, KeyError) else str(error)
            raise CheckpointError(
                f"{operation}: cannot go on from checkpoint {self._path}: {what}; remove the file "
                "to begin anew"
            ) from None

    def remove(self) -> None:
        """Take the file away: the fit is done."""
        self._path.unlink(missing_ok=True)


def _identity(
    network: Network, x: Any, y: Any, settings: dict[str, Any], place: tuple[str, str]
) -> str:
    """SHA-256 of what the result of a fit depends on, the examples themselves aside."""
    digest = hashlib.sha256()
    plain = {name: settings[name] for name in _PLAIN}
    known = [_core.__version__, _core.kernels(), network.input_shape, network.dtype, *place]
    shapes = [x.shape, str(x.dtype), y.shape, network._core.step]
    described = [known, network._graph.nodes, shapes, plain]
    digest.update(json.dumps(described, sort_keys=True, default=str).encode())
    arrays = [y, *network.parameters.values(), *(settings[name] for name in _HASHED)]
    for array in arrays:
        digest.update(b"none" if array is None else np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _sum(content: dict[str, Any], arrays: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name, array in arrays.items():
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _without_special(value: Any) -> Any:
    """Numbers that JSON lacks as texts."""
    if isinstance(value, dict):
        return {name: _without_special(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_special(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _with_special(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_special(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_special(part) for part in value]
    return float(value) if value in ("nan", "inf", "-inf") else value
