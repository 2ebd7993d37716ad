"""What is done of runs that are not finished, so that a study that is killed loses little of them.

A run is a few seconds to many minutes of work. While it is made, its judged tries and the state of
the training under way lie in small files beside the study's record, written at most every 0.3 s,
and are taken up when the run is made again. The record alone counts: whatever is wrong with such a
file, the run is made without it.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dlcore import files
from dlcore.checkpoint import SECONDS

Array = NDArray[Any]
# Between two writings passes at least so many times what the first took.
PATIENCE = 19.0


class Kept:
    """Arrays of unfinished work in one file, with the facts that belong to them.

    Parameters
    ----------
    path : Path or None
        The file; None keeps nothing.
    identity : str
        What the arrays are of; a file of anything else counts as none.

    Attributes
    ----------
    arrays : dict of str to array
        What is kept. Change it, then call :meth:`save`.
    facts : dict
        The same for numbers and texts that JSON takes.
    """

    def __init__(self, path: Path | None, identity: str = "") -> None:
        self._path = path
        self._identity = identity
        self.arrays: dict[str, Array] = {}
        self.facts: dict[str, Any] = {}
        if path is None:
            return
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            arrays, metadata = files.read(path)
            content = json.loads(metadata["dlcore-progress"])
            if content["identity"] == identity:
                self.arrays, self.facts = dict(arrays), dict(content["facts"])
        self._next = time.monotonic() + SECONDS

    def save(self) -> None:
        """Write the file, unless it was written a moment ago or writing takes too long."""
        begin = time.monotonic()
        if self._path is None or begin < self._next:
            return
        content = json.dumps({"identity": self._identity, "facts": self.facts})
        # A full disk is the record's business, which cannot do without it.
        with contextlib.suppress(OSError):
            files.write(self._path, self.arrays, {"dlcore-progress": content})
        now = time.monotonic()
        self._next = now + max(SECONDS, PATIENCE * (now - begin))


class Folder:
    """The files of a study's unfinished runs.

    Workers elsewhere use it where they see the same folder, which a token in it tells.

    Parameters
    ----------
    path : Path
        Made by :meth:`open`, removed by :meth:`close` when it is empty.
    token : str, optional
        Name of a file that says whose the folder is; drawn by :meth:`open`.
    """

    def __init__(self, path: Path, token: str = "") -> None:
        self.path = path
        self.token = token

    def open(self, finished: Mapping[str, Any] | set[str]) -> None:
        """Make the folder ready; what is left of finished runs is removed."""
        self.path.mkdir(parents=True, exist_ok=True)
        for old in self.path.glob("owner-*"):
            old.unlink(missing_ok=True)
        self.token = f"owner-{secrets.token_hex(8)}"
        (self.path / self.token).touch()
        self.clear(finished)

    def close(self) -> None:
        """Leave; the folder stays while it holds work that another call can go on with."""
        (self.path / self.token).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def clear(self, keys: Mapping[str, Any] | set[str]) -> None:
        """Remove the files of runs whose results are in the record."""
        names = {_name(key) for key in keys}
        for path in list(self.path.iterdir()):
            if path.name.partition("-")[0] in names:
                path.unlink(missing_ok=True)

    def seen(self) -> bool:
        """Whether this process sees the folder of the study that it works for."""
        return bool(self.token) and (self.path / self.token).exists()

    def file(self, key: str, part: str) -> Path:
        """Where a part of an unfinished run is kept."""
        return self.path / f"{_name(key)}-{part}"


def _name(key: str) -> str:
    return key[:24]
