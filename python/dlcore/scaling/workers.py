"""Where runs are made: threads of this process, other processes, or a Dask cluster.

The data goes to a worker once: threads share it, processes map one file, Dask scatters it. A run is
a few hundred bytes in either direction. Only the process that owns the study writes its record.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dlcore.data import Column, Dataset
from dlcore.scaling.grid import Run, Split
from dlcore.scaling.learners import Learner
from dlcore.scaling.metrics import METRICS
from dlcore.scaling.progress import Folder
from dlcore.scaling.runs import Failure, Result, execute, quiet_libraries
from dlcore.scaling.work import Work

_ARRAYS = ("x", "y", "test_x", "test_y", "groups", "times")


class Placement:
    """Runs on an executor, with the work where its workers can reach it.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        Threads, processes, ``client.get_executor()`` of Dask, ``mpi4py.futures.MPIPoolExecutor``.
    work : Work
        What all runs share.
    """

    def __init__(self, executor: Executor, work: Work) -> None:
        self._executor = executor
        self._folder: str | None = None
        client = getattr(executor, "_client", None)
        self._handle: Any = work
        if isinstance(executor, ThreadPoolExecutor):
            return
        work = replace(work, stop=None)  # an event cannot leave its process
        if client is not None and hasattr(client, "scatter"):
            self._handle = client.scatter(work, broadcast=True, hash=False)
        else:
            self._folder = tempfile.mkdtemp(prefix="dlcore-study-")
            write_work(work, self._folder)
            self._handle = _Mapped(self._folder)

    def submit(self, runs: Sequence[Run]) -> Future[list[Result | Failure]]:
        """Start a chunk of runs; the results come in the same order."""
        return self._executor.submit(_execute_there, self._handle, tuple(runs))

    def close(self) -> None:
        """Take the data away again."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


@dataclass(frozen=True)
class _Mapped:
    """Work that lies in files of a folder."""

    folder: str


def _execute_there(handle: Work | _Mapped, runs: Sequence[Run]) -> list[Result | Failure]:
    work = read_work(handle.folder) if isinstance(handle, _Mapped) else handle
    with quiet_libraries() if work.stop is None else contextlib.nullcontext():
        return execute(work, runs)


def write_work(work: Work, folder: str) -> None:
    """Write what all runs share as arrays and JSON.

    Parameters
    ----------
    work : Work
        Without a stop event.
    folder : str
        An empty folder.
    """
    data = work.data
    for name in _ARRAYS:
        array = getattr(data, name)
        if array is not None:
            np.save(Path(folder) / f"{name}.npy", array)
    np.save(Path(folder) / "pool.npy", work.split.pool)
    np.save(Path(folder) / "test.npy", work.split.test)
    content = {
        "name": data.name,
        "classes": data.classes,
        "columns": [[column.name, column.categories] for column in data.columns],
        "scale": data.scale,
        "missing": data.missing,
        "target": data.target,
        "own_test": work.split.own_test,
        "metric": work.metric.name,
        "learners": [asdict(learner) for learner in work.learners.values()],
        "progress": work.progress and [str(work.progress.path), work.progress.token],
    }
    (Path(folder) / "work.json").write_text(json.dumps(content), "utf-8")


@lru_cache(maxsize=2)
def read_work(folder: str) -> Work:
    """Read what :func:`write_work` wrote; arrays are mapped, so workers of a machine share them.

    Parameters
    ----------
    folder : str
        The folder.

    Returns
    -------
    Work
    """
    root = Path(folder)
    content = json.loads((root / "work.json").read_text("utf-8"))
    arrays = {
        name: np.load(root / f"{name}.npy", mmap_mode="r")
        for name in (*_ARRAYS, "pool", "test")
        if (root / f"{name}.npy").exists()
    }
    data = Dataset(
        content["name"],
        arrays["x"],
        arrays["y"],
        classes=tuple(content["classes"]),
        columns=tuple(
            Column(name, None if texts is None else tuple(texts))
            for name, texts in content["columns"]
        ),
        scale=content["scale"],
        missing=content["missing"],
        target=content["target"],
        test_x=arrays.get("test_x"),
        test_y=arrays.get("test_y"),
        groups=arrays.get("groups"),
        times=arrays.get("times"),
    )
    learners = {
        entry["name"]: Learner(
            **{**entry, "values": tuple(entry["values"]), "hidden": tuple(entry["hidden"])}
        )
        for entry in content["learners"]
    }
    split = Split(arrays["pool"], arrays["test"], content["own_test"], "")
    progress = content["progress"]
    return Work(
        data,
        split,
        METRICS[content["metric"]],
        learners,
        progress=None if progress is None else Folder(Path(progress[0]), progress[1]),
    )
