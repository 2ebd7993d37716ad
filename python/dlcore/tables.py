"""Tables (CSV, TSV, Parquet) as numbers: columns, categories, gaps, and what can be wrong."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dlcore.data import Column, DataError, Dataset, Missing, Task, finish, one_line

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]

# One-hot columns of one text column; beyond it a column is an identifier or free text.
MOST_CATEGORIES = 100


def load_table(
    path: Path,
    test: Path | None,
    target: str | None,
    missing: Missing,
    task: Task,
    drop: Sequence[str],
    group: str | None,
    time: str | None,
) -> Dataset:
    frame = read_table(path)
    names = list(frame.columns)
    if target is None:
        raise DataError(
            f"{path} is a table; say which column to predict: --target COLUMN, one of "
            f"{_some(names)}"
        )
    for option, name in (("--target", target), ("--group", group), ("--time", time)):
        if name is not None and name not in names:
            raise DataError(f"{option} {name}: {path} has no such column; it has {_some(names)}")
    for name in drop:
        if name not in names:
            raise DataError(f"--drop {name}: {path} has no such column; it has {_some(names)}")
    aside = {target, group, time, *drop}
    features = [name for name in names if name not in aside]
    if not features:
        raise DataError(f"{path} has no column left to predict {target} from")
    frames = [(frame, str(path))]
    if test is not None:
        other = read_table(test)
        for name in (*features, target):
            if name not in other.columns:
                raise DataError(f"the test file {test} has no column {name!r}, which {path} has")
        frames.append((other, str(test)))
    notes = []
    for k, (part, where) in enumerate(frames):
        if missing == "drop":
            kept = part.dropna(subset=[*features, target])
            if len(kept) < len(part):
                notes.append(
                    f"{len(part) - len(kept)} of {len(part)} rows of {Path(where).name} had "
                    "missing values and were left out."
                )
            frames[k] = (kept, where)
        else:
            _refuse_missing(part, [target], where, "an example without its answer cannot be used")
            if missing == "error":
                hint = "fill it in, or choose --missing impute or --missing drop"
                _refuse_missing(part, features, where, hint)
    frame = frames[0][0]
    columns = tuple(_column(frame, name, str(path)) for name in features)
    x = encode_table(frame, columns, str(path))
    y = _table_target(frame[target], str(path))
    test_x = test_y = None
    if test is not None:
        other = frames[1][0]
        test_x = encode_table(other, columns, str(test))
        test_y = _table_target(other[target], str(test))
        if test_y.shape[0] == 0:
            raise DataError(f"{test} has no rows to test on")
    _refuse_missing(frame, [name for name in (group, time) if name], str(path), "fill it in")
    return finish(
        Dataset(
            path.stem.removesuffix(".csv"),
            x,
            y,
            columns=columns,
            target=target,
            missing="impute" if missing == "impute" else "error",
            notes=tuple(notes),
        ),
        test_x,
        test_y,
        groups=None if group is None else frame[group].astype(str).to_numpy(object).astype(str),
        times=None if time is None else _times(frame[time], time, str(path)),
        task=task,
    )


def read_table(path: str | Path) -> pd.DataFrame:
    """Table of a CSV, TSV or Parquet file, its columns named by texts.

    Parameters
    ----------
    path : path
        The file; CSV may be packed (``.csv.gz``) and separated by comma, semicolon or tab.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    DataError
        If it cannot be read, is empty, or its first line does not name the columns.
    """
    import pandas as pd

    path = Path(path)
    kinds = path.name.lower().split(".")[1:]
    if not path.exists():
        raise DataError(f"{path} does not exist")
    try:
        if "parquet" in kinds:
            frame = pd.read_parquet(path)
        elif {"csv", "tsv", "txt", "data"} & set(kinds):
            head = pd.read_csv(path, nrows=0, sep="\x00", engine="c", header=0).columns
            line = str(head[0]) if len(head) else ""
            separator = max(",;\t", key=line.count)
            frame = pd.read_csv(path, sep=separator, skipinitialspace=True)
        else:
            raise DataError(f"{path} is of no known kind; use .csv, .tsv, .parquet or .npz")
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow; pip install pyarrow") from None
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}") from None
    except pd.errors.EmptyDataError:
        raise DataError(
            f"{path} is empty; a first line with the names of the columns is needed"
        ) from None
    except pd.errors.ParserError as error:
        raise DataError(f"{path} is not a regular table: {one_line(error)}") from None
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise DataError(f"{path} has two columns named {repeated[0]!r}; rename one")
    if len(frame) == 0:
        raise DataError(f"{path} names columns but has no rows")
    if all(_is_number(name) for name in frame.columns):
        raise DataError(
            f"the first line of {path} must name the columns, but it holds numbers: "
            f"{_some(list(frame.columns), 3)}"
        )
    return frame.reset_index(drop=True)


def encode_table(frame: pd.DataFrame, columns: Sequence[Column], where: str) -> Array:
    """Numbers of a table's columns; a category is its position, an unknown one -1.

    Parameters
    ----------
    frame : pandas.DataFrame
        The rows.
    columns : sequence of Column
        Which columns, in this order, and what their categories are.
    where : str
        Name of the file, for errors.

    Returns
    -------
    array of float64, (rows, columns)
        NaN where a value is missing.

    Raises
    ------
    DataError
        If a column is absent, or a column of numbers holds a text or an infinite value.
    """
    import pandas as pd

    x = np.empty((len(frame), len(columns)))
    for j, column in enumerate(columns):
        if column.name not in frame.columns:
            raise DataError(f"{where} has no column {column.name!r}")
        values = frame[column.name]
        if column.categories is not None:
            known = {text: code for code, text in enumerate(column.categories)}
            texts = values.astype(object)
            empty = values.isna().to_numpy()
            codes = [
                np.nan if gone else known.get(_text(value), -1)
                for value, gone in zip(texts, empty, strict=True)
            ]
            x[:, j] = codes
            continue
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
        broken = np.isnan(numbers) & values.notna().to_numpy()
        if broken.any():
            row = int(np.argmax(broken))
            raise DataError(
                f"row {_row(frame, row)}, column {column.name!r} of {where}: a number is needed, "
                f"not {str(values.iloc[row])!r}"
            )
        if np.isinf(numbers).any():
            row = int(np.argmax(np.isinf(numbers)))
            raise DataError(
                f"row {_row(frame, row)}, column {column.name!r} of {where} is infinite; remove or "
                "replace it"
            )
        x[:, j] = numbers
    return x


def _column(frame: pd.DataFrame, name: str, where: str) -> Column:
    import pandas as pd

    values = frame[name]
    if pd.api.types.is_bool_dtype(values) or pd.api.types.is_numeric_dtype(values):
        return Column(name)
    present = values.dropna()
    numbers = pd.to_numeric(present, errors="coerce")
    # A column of numbers with a few typing errors is not a column of categories.
    if len(present) and numbers.notna().mean() > 0.9:
        row = int(np.argmax(numbers.isna().to_numpy()))
        raise DataError(
            f"row {_row(present, row)}, column {name!r} of {where}: a number is needed, not "
            f"{str(present.iloc[row])!r}"
        )
    texts = sorted({_text(value) for value in present})
    if len(texts) > MOST_CATEGORIES and _are_dates(present):
        raise DataError(
            f"column {name!r} of {where} holds dates; leave it out (--drop {name}), or hold out "
            f"the latest rows by it (--time {name})"
        )
    if len(texts) > MOST_CATEGORIES:
        raise DataError(
            f"column {name!r} of {where} has {len(texts)} different texts in {len(frame)} rows, "
            f"too many for categories (at most {MOST_CATEGORIES}); leave it out: --drop {name}"
        )
    return Column(name, tuple(texts))


def _are_dates(values: pd.Series[Any]) -> bool:
    import pandas as pd

    return bool(pd.to_datetime(values, errors="coerce", format="mixed").notna().all())


def _table_target(values: pd.Series[Any], where: str) -> Array:
    import pandas as pd

    if pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        return np.array([_text(value) for value in values.astype(object)])
    if pd.api.types.is_integer_dtype(values):
        return values.to_numpy(np.int64)
    numbers = values.to_numpy(np.float64)
    if np.isinf(numbers).any():
        row = int(np.argmax(np.isinf(numbers)))
        raise DataError(f"row {_row(values, row)}, column {values.name!r} of {where} is infinite")
    return numbers


def _times(values: pd.Series[Any], name: str, where: str) -> Array:
    import pandas as pd

    if pd.api.types.is_numeric_dtype(values):
        return values.to_numpy(np.float64)
    moments = pd.to_datetime(values, errors="coerce", format="mixed")
    if moments.isna().any():
        row = int(np.argmax(moments.isna().to_numpy()))
        raise DataError(
            f"row {_row(values, row)}, column {name!r} of {where}: {str(values.iloc[row])!r} is no "
            "date or number"
        )
    return moments.to_numpy().astype("datetime64[ns]").astype(np.int64)


def _refuse_missing(frame: pd.DataFrame, names: Sequence[str], where: str, hint: str) -> None:
    gaps = frame[list(names)].isna().to_numpy()
    if gaps.any():
        row, column = (int(i) for i in np.argwhere(gaps)[0])
        raise DataError(
            f"row {_row(frame, row)}, column {names[column]!r} of {where} is missing "
            f"({int(gaps.sum())} missing in all); {hint}"
        )


def _row(frame: pd.DataFrame | pd.Series[Any], position: int) -> int:
    return int(frame.index[position]) + 1  # as a reader counts below the header


def _text(value: Any) -> str:
    # A column of whole numbers with a gap is read as floats; 3.0 and 3 are one category.
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _some(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(str(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"
