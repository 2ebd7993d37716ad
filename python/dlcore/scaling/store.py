"""The record of a study: one SQLite file, one row per finished run.

A row is written as soon as its run is done, in a transaction of its own, in SQLite's write-ahead
mode: a process that is killed leaves whole rows only, and the next one finds them by the runs'
keys.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from dlcore.data import DataError
from dlcore.scaling.grid import Run
from dlcore.scaling.runs import Result

FORMAT = 1  # PRAGMA user_version
_TABLE = """
CREATE TABLE IF NOT EXISTS runs (
  key TEXT PRIMARY KEY,         -- SHA-256 of specification
  specification TEXT NOT NULL,  -- canonical JSON of everything the numbers depend on
  learner TEXT NOT NULL,
  m INTEGER NOT NULL,
  seed INTEGER NOT NULL,
  score REAL NOT NULL,          -- the metric on the held-out examples
  validation REAL NOT NULL,
  contributions BLOB NOT NULL,  -- the score example by example: float32, little-endian, zlib
  facts TEXT NOT NULL,          -- JSON: tries, other metrics, seconds, FLOPs, notes, machine
  finished TEXT NOT NULL        -- UTC
) STRICT
"""


class Store:
    """Finished runs, by key.

    Parameters
    ----------
    path : path
        The SQLite file; made if it does not exist.

    Raises
    ------
    DataError
        If the file cannot be opened or is no study.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            # In WAL mode a killed process loses nothing and a power failure at most the last rows.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if version == 0 and tables == 0:
                self._connection.execute(_TABLE)
                self._connection.execute(f"PRAGMA user_version = {FORMAT}")
                version = FORMAT
        except sqlite3.Error as error:
            raise DataError(
                f"{self.path} cannot be used as the record of a study: {error}; name another place"
            ) from None
        if version != FORMAT:
            self._connection.close()
            raise DataError(
                f"{self.path} is not the record of a study of this version; name another place"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add(self, results: Iterable[Result]) -> None:
        """Commit finished runs; one that is there already is left as it is.

        Parameters
        ----------
        results : iterable of Result
            What was finished.
        """
        rows = [
            (
                result.run.key(),
                result.run.specification(),
                result.run.learner,
                result.run.m,
                result.run.seed,
                result.score,
                result.validation,
                zlib.compress(result.contributions.astype("<f4").tobytes(), 6),
                json.dumps(result.facts, sort_keys=True),
            )
            for result in results
        ]
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany(
                "INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, "
                "strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
                rows,
            )
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def finished(self, runs: Sequence[Run]) -> set[str]:
        """Which of some runs are there.

        Parameters
        ----------
        runs : sequence of Run
            The runs that are asked for.

        Returns
        -------
        set of str
            Keys.
        """
        wanted = {run.key() for run in runs}
        return {key for (key,) in self._connection.execute("SELECT key FROM runs") if key in wanted}

    def results(self, runs: Sequence[Run]) -> Iterator[Result]:
        """Read finished runs.

        Parameters
        ----------
        runs : sequence of Run
            The runs that are asked for; those that are not there are skipped.

        Yields
        ------
        Result
            In the order of `runs`.
        """
        query = "SELECT score, validation, contributions, facts FROM runs WHERE key = ?"
        for run in runs:
            row = self._connection.execute(query, (run.key(),)).fetchone()
            if row is None:
                continue
            score, validation, packed, facts = row
            contributions = np.frombuffer(zlib.decompress(packed), "<f4")
            yield Result(run, score, validation, contributions, json.loads(facts))

    def __len__(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM runs").fetchone()[0])


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a file beside its place and rename it there, so that no reader sees a half of it.

    Parameters
    ----------
    path : path
        Where it ends.
    content : str or bytes
        Text is written as UTF-8.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    # A file's name may hold bytes that are no text; they are shown and not stumbled over.
    raw = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        with open(beside, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
