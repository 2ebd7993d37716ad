"""What the scripts here share: where the public curves are, and how results are printed."""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1]))
import machine

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Case:
    """A curve's known part and what followed."""

    source: str
    name: str
    x: Array
    y: Array
    x_after: Array
    y_after: Array
    se: Array | None = None
    bounds: tuple[float, float | None] = (0, None)
    group: str = ""


def parser(description: str) -> argparse.ArgumentParser:
    """Parser with the folder of the data sets."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument(
        "--data-dir",
        default=os.environ.get("DLCORE_DATA"),
        help="folder with the subfolder scaling (default: $DLCORE_DATA)",
    )
    result.add_argument("--json", type=Path, metavar="FILE", help="keep the figures there")
    return result


def folder(options: argparse.Namespace) -> Path:
    """The subfolder, or a sentence."""
    if options.data_dir is None:
        raise SystemExit("say where the data sets are with --data-dir or DLCORE_DATA")
    path = Path(options.data_dir) / "scaling"
    if not path.is_dir():
        raise SystemExit(f"{path} is not a folder")
    return path


def rows(path: Path) -> list[dict[str, str]]:
    """A CSV file's rows."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def chinchilla(path: Path) -> tuple[Array, Array, Array]:
    """N, D and L of the 245 points read off the figure of Hoffmann et al. 2022."""
    table = rows(path / "svg_extracted_data.csv")
    size = np.array([float(row["Model Size"]) for row in table])
    flop = np.array([float(row["Training FLOP"]) for row in table])
    loss = np.array([float(row["loss"]) for row in table])
    return size, flop / 6 / size, loss


def language(path: Path) -> list[Case]:
    """The 20 curves of benchmark.lang, one row per x."""
    found: dict[tuple[str, str, str], dict[float, tuple[float, bool]]] = {}
    for row in rows(path / "benchmark.lang.csv"):
        key = (row["Domain"], row["Task"], row["Model"])
        found.setdefault(key, {})[float(row["Seen Examples"])] = (
            float(row["Loss"]),
            row["Training"] == "1",
        )
    cases = []
    for key, points in found.items():
        x = np.array(sorted(points))
        y = np.array([points[at][0] for at in x])
        known = np.array([points[at][1] for at in x])
        cases.append(
            Case("language", "|".join(key), x[known], y[known], x[~known], y[~known], group=key[0])
        )
    return cases


def lcdb(path: Path) -> dict[tuple[str, str], tuple[Array, Array, Array]]:
    """LCDB 1.1, visible part: (data set, learner) -> x, validation error, its standard error."""
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for row in rows(path / "lcdb11_visible.csv"):
        found.setdefault((row["name"], row["learner"]), []).append(
            (float(row["n_train"]), float(row["err_val"]), float(row["se_val"]))
        )
    return {
        key: tuple(np.array(column) for column in zip(*sorted(points), strict=True))
        for key, points in found.items()
    }


# (anchors left out, every how many of the rest are kept); eight anchors are a doubling of the data, and
# a study of one's own has about one point a doubling.
LCDB_DESIGNS = ((24, 1), (24, 4), (8, 8), (24, 8), (40, 8))


def lcdb_cases(path: Path, designs: Sequence[tuple[int, int]] = LCDB_DESIGNS) -> list[Case]:
    """LCDB curves without their last anchors."""
    cases = []
    for (name, learner), (x, y, se) in lcdb(path).items():
        for cut, thinning in designs:
            known = np.arange(len(x) - cut - 1, -1, -thinning)[::-1]
            after = np.arange(len(x) - cut + 3, len(x), 4)
            if len(known) >= 5:
                cases.append(
                    Case(
                        f"lcdb, every {thinning}",
                        f"{name}|{learner}|{cut}",
                        x[known],
                        y[known],
                        x[after],
                        y[after],
                        se[known],
                        (0, 1),
                        name,
                    )
                )
    return cases


def binomial_interval(share: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a share of ``count`` curves (means of shares included)."""
    from scipy.stats import beta

    hits = share * count
    tail = (1 - level) / 2
    low = 0.0 if hits <= 0 else float(beta.ppf(tail, hits, count - hits + 1))
    high = 1.0 if hits >= count else float(beta.ppf(1 - tail, hits + 1, count - hits))
    return low, high


class Checks:
    """Figures beside the published ones; what a script keeps of itself."""

    def __init__(self) -> None:
        self.failed = 0
        self.part = ""
        self.rows: list[dict[str, Any]] = []
        self.figures: dict[str, Any] = {}

    def heading(self, text: str) -> None:
        """Begin a part."""
        self.part = text
        print(f"\n{text}")

    def row(self, name: str, value: float, published: float, tolerance: float, how: str) -> None:
        """Print one line; ``how`` is "relative", "absolute", "at most" or "at least"."""
        if how == "relative":
            off = abs(value / published - 1)
        elif how == "absolute":
            off = abs(value - published)
        else:
            off = value - published if how == "at most" else published - value
        good = bool(off <= tolerance and math.isfinite(value))
        self.failed += not good
        row = (self.part, name, float(value), float(published), how, tolerance, good)
        names = ("part", "name", "value", "gate", "how", "tolerance", "ok")
        self.rows.append(dict(zip(names, row, strict=True)))
        print(
            f"{name:46s} {value:14.8g} {published:14.8g}  {how} {tolerance:<8.3g} "
            f"{off:9.2e} {'ok' if good else 'MISSED'}"
        )

    def figure(self, name: str, value: Any) -> None:
        """Keep something that has no gate."""
        self.figures[name] = value

    def finish(self, options: argparse.Namespace, tool: str) -> None:
        """Say how many were missed, write the JSON file that was asked for, and end."""
        print(f"\n{self.failed} missed")
        if options.json is not None:
            result = {**machine.header(f"benchmarks/scaling/{tool}.py"), "missed": self.failed}
            machine.write(options.json, {**result, "figures": self.figures, "checks": self.rows})
        raise SystemExit(self.failed > 0)
