"""CSV files of curves and surfaces: which column is which, and a sentence for each way to be wrong."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from dlcore.data import DataError

# Column names that are understood, in order of preference, and what they say.
X_COLUMNS = {
    "x": "data",
    "m": "data",
    "n": "data",
    "examples": "data",
    "n_train": "data",
    "train_size": "data",
    "samples": "data",
    "tokens": "data",
    "data": "data",
    "parameters": "parameters",
    "params": "parameters",
    "model_size": "parameters",
    "compute": "compute",
    "flops": "compute",
    "flop": "compute",
    "training_flop": "compute",
    "steps": "steps",
    "step": "steps",
    "epoch": "steps",
}
Y_COLUMNS = {
    "y": "loss",
    "error": "rate",
    "error_rate": "rate",
    "loss": "loss",
    "test_error": "rate",
    "test_loss": "loss",
    "val_error": "rate",
    "val_loss": "loss",
}
ACCURACY = {"accuracy", "acc", "test_accuracy", "val_accuracy", "score"}
SE_COLUMNS = ("se", "standard_error", "std_err", "stderr")


def plain_name(name: str) -> str:
    """A column's name in lower case, words joined by underscores."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def find_column(
    columns: Sequence[str], known: dict[str, str], path: str | Path, need: str
) -> tuple[str, str]:
    """The first known column, and what it means; or a sentence with what is needed."""
    plain = {plain_name(name): name for name in reversed(columns)}
    for name, meaning in known.items():
        if name in plain:
            return plain[name], meaning
    advice = "name it in the first line"
    if "loss" in known and ACCURACY & {plain_name(name) for name in columns}:
        advice = "write an accuracy as an error, 1 - accuracy"
    raise DataError(
        f"{path}: needs a column named {need}, found {', '.join(columns) or 'none'}; {advice}"
    )


def read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header, and the rows with their line numbers."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is not a CSV file in UTF-8 ({error})") from None
    if len(lines) < 2:
        raise DataError(f"{path}: needs a header line and at least one row of numbers")
    return [name.strip() for name in lines[0][1]], lines[1:]


def column_numbers(
    path: str | Path,
    columns: Sequence[str],
    rows: Sequence[tuple[int, list[str]]],
    names: Sequence[str],
) -> list[list[float]]:
    """Columns of a table as finite numbers, or a sentence with the line and the column."""
    places = [list(columns).index(name) for name in names]
    values: list[list[float]] = [[] for _ in names]
    for line, row in rows:
        for name, place, column in zip(names, places, values, strict=True):
            text = row[place].strip() if place < len(row) else ""
            try:
                value = float(text)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                found = repr(text) if text else "nothing"
                raise DataError(f"{path}: line {line}, column {name} needs a number, found {found}")
            column.append(value)
    return values
