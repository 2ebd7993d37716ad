"""Data as people have it, checked: arrays, npz, CSV, Parquet, idx files and image folders.

Everything ends in one :class:`Dataset`, and everything that can be wrong with a file is a
:class:`DataError` whose text is one sentence that names the place and what to do.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Missing = Literal["error", "drop", "impute"]
Task = Literal["auto", "classification", "regression"]

# Distinct whole numbers of a target that are surely classes; beyond it the user says which.
MOST_CLASSES = 50
SMALLEST_DATA = 40


class DataError(ValueError):
    """Data that cannot be used as it is; the text is one sentence for the person who has it."""


@dataclass(frozen=True)
class Column:
    """One input column of a table; ``categories`` is None where it holds numbers."""

    name: str
    categories: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples and what their numbers mean.

    Attributes
    ----------
    x : array, (n, ...)
        Pixels or features; a category is its position in ``columns[j].categories``, a missing value
        (only where ``missing`` is "impute") is NaN.
    y : array, (n,)
        int64 class numbers, or float64 values for regression.
    classes : tuple of str
        Name of every class; empty for regression.
    columns : tuple of Column
        For a table, one per column of ``x``; empty for arrays and images.
    scale : float or None
        Pixels are multiplied by it; None means features are standardised.
    test_x, test_y : array or None
        The user's own held-out examples.
    groups, times : array or None
        Per example: which group it belongs to, when it was taken (any sortable numbers).
    notes : tuple of str
        What reading did or noticed, for the report.
    """

    name: str
    x: Array
    y: Array
    classes: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    scale: float | None = None
    missing: Missing = "error"
    target: str = "y"
    test_x: Array | None = None
    test_y: Array | None = None
    groups: Array | None = None
    times: Array | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def task(self) -> Literal["classification", "regression"]:
        """What is predicted: one of ``classes``, or a number."""
        return "classification" if self.classes else "regression"

    def fingerprint(self) -> str:
        """SHA-256 of everything that a run on this data depends on."""
        digest = hashlib.sha256()
        meta = [
            self.classes,
            [[c.name, c.categories] for c in self.columns],
            self.scale,
            self.missing,
        ]
        digest.update(json.dumps(meta).encode())
        for array in (self.x, self.y, self.test_x, self.test_y, self.groups, self.times):
            if array is None:
                digest.update(b"none;")
                continue
            digest.update(f"{array.dtype.str}{array.shape};".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


# --------------------------------------------------------------------------------------------------
# Arrays


def from_arrays(
    x: Any,
    y: Any,
    *,
    name: str = "data",
    test: tuple[Any, Any] | None = None,
    groups: Any = None,
    times: Any = None,
    task: Task = "auto",
    missing: Missing = "error",
) -> Dataset:
    """Checked :class:`Dataset` of NumPy arrays.

    Parameters
    ----------
    x : array_like, (n, ...)
        uint8 means pixels (scaled by 1/255); anything else is made floating.
    y : array_like, (n,)
        Whole numbers, truth values or texts mean classes, floating numbers mean regression.
    name : str
        How the report calls the data.
    test : pair of array_like, optional
        Held-out ``(x, y)``; without it a part of the rows is held out by the study.
    groups, times : array_like, (n,), optional
        A held-out set then takes whole groups, or the latest examples.
    task : {"auto", "classification", "regression"}
        Overrules what the type of ``y`` says.
    missing : {"error", "drop", "impute"}
        What is done with NaN in ``x``.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        If shapes do not fit, values are missing or infinite, or there is nothing to learn.
    """
    x = features_of(x, "x", missing)
    y = _target(y, "y")
    if x.shape[0] != y.shape[0]:
        raise DataError(
            f"x has {x.shape[0]} rows but y has {y.shape[0]}; both need one per example"
        )
    test_x = test_y = None
    if test is not None:
        test_x, test_y = features_of(test[0], "test x", missing), _target(test[1], "test y")
        if test_x.shape[0] != test_y.shape[0]:
            raise DataError(
                f"the test x has {test_x.shape[0]} rows but the test y has {test_y.shape[0]}; both "
                "need one per example"
            )
        if test_x.shape[1:] != x.shape[1:]:
            raise DataError(
                f"one test example has shape {test_x.shape[1:]} but one training example "
                f"{x.shape[1:]}; both need the same features"
            )
    scale = 1 / 255 if x.dtype == np.uint8 else None
    if scale is None and x.ndim == 2 and missing == "drop":
        keep = ~np.isnan(x).any(axis=1)
        x, y = x[keep], y[keep]
        groups = None if groups is None else np.asarray(groups)[keep]
        times = None if times is None else np.asarray(times)[keep]
        if test_x is not None and test_y is not None:
            keep = ~np.isnan(test_x).any(axis=1)
            test_x, test_y = test_x[keep], test_y[keep]
    return finish(
        Dataset(name, x, y, scale=scale, missing="impute" if missing == "impute" else "error"),
        test_x,
        test_y,
        groups=groups,
        times=times,
        task=task,
    )


def features_of(x: Any, what: str, missing: Missing) -> Array:
    """Checked array of examples, float or uint8; a DataError names the place of what is wrong."""
    x = np.asarray(x)
    if x.ndim == 1:
        x = x[:, None]
    if x.ndim == 0 or x.size == 0:
        raise DataError(f"{what} is empty (shape {x.shape}); it needs one row per example")
    if x.dtype == np.uint8 or x.dtype == np.float32:
        pass
    elif x.dtype.kind in "biuf":
        x = x.astype(np.float32 if x.dtype == np.float16 else np.float64)
    else:
        raise DataError(
            f"{what} holds {x.dtype} values; numbers are needed, and texts belong in a CSV file, "
            "where they become categories"
        )
    if x.dtype.kind == "f":
        bad = ~np.isfinite(x) if missing == "error" else np.isinf(x)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            place = ", ".join(map(str, at))
            hint = " or choose a policy for missing values" if np.isnan(x[at]) else ""
            raise DataError(f"{what}[{place}] is {x[at]}; remove or replace it{hint}")
    return np.asarray(np.ascontiguousarray(x))


def _target(y: Any, what: str) -> Array:
    values: Array = np.asarray(y)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(
            f"{what} has shape {values.shape}; one number or class per example is needed, (n,)"
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        at = int(np.argmin(np.isfinite(values)))
        raise DataError(
            f"{what}[{at}] is {values[at]}; an example without its answer cannot be used"
        )
    if values.dtype.kind not in "biufUO":
        raise DataError(f"{what} holds {values.dtype} values; numbers or class names are needed")
    return values


def finish(
    data: Dataset,
    test_x: Array | None,
    test_y: Array | None,
    *,
    groups: Any = None,
    times: Any = None,
    task: Task = "auto",
) -> Dataset:
    """Turn the target into class numbers or floats and check that there is something to learn."""
    y, notes = data.y, list(data.notes)
    count = y.shape[0]
    needed = SMALLEST_DATA if test_x is None else SMALLEST_DATA // 2
    if count < needed:
        raise DataError(f"{data.name} has {count} examples; a study needs at least {needed}")
    if task == "classification" or (task == "auto" and y.dtype.kind != "f"):
        texts, y = _class_numbers(y)
        if len(texts) < 2:
            raise DataError(
                f"every example of {data.name} has the same {data.target}, {texts[0]!r}; there is "
                "nothing to tell apart"
            )
        if task == "auto" and len(texts) > max(MOST_CLASSES, count // 5):
            raise DataError(
                f"{data.target} has {len(texts)} different values in {count} examples; say "
                "--task regression if it is a quantity, --task classification if these are classes"
            )
        sizes = np.bincount(y)
        if sizes.max() > 4 * max(1, sizes.min()):
            notes.append(
                f"The classes are of unequal size: {_listing(texts, sizes)}. The plain error rate "
                "hides how rare classes fare; --metric balanced_accuracy counts every class alike."
            )
        if test_y is not None:
            test_y = _known_classes(test_y, texts, data.target)
        data = replace(data, classes=texts)
    else:
        try:
            y = y.astype(np.float64)
            test_y = None if test_y is None else test_y.astype(np.float64)
        except ValueError as error:
            raise DataError(
                f"{data.target} cannot be a quantity: {error}; use --task classification"
            ) from None
        if task == "auto" and np.unique(y).size <= 20 and (y == np.round(y)).all():
            notes.append(
                f"{data.target} holds floating numbers and is predicted as a quantity, though all "
                "are whole; integers, or --task classification, would make them classes."
            )
        if np.ptp(y) == 0:
            raise DataError(
                f"every example of {data.name} has {data.target} {y[0]:g}; there is nothing to "
                "predict"
            )
    extra: dict[str, Array | None] = {}
    for what, values in (("groups", groups), ("times", times)):
        if values is None:
            extra[what] = None
            continue
        values = np.asarray(values)
        if values.shape != (count,):
            raise DataError(
                f"{what} has shape {values.shape}; one per example is needed, ({count},)"
            )
        extra[what] = np.unique(values, return_inverse=True)[1].astype(np.int64)
    return replace(
        data,
        y=y,
        test_x=test_x,
        test_y=test_y,
        groups=extra["groups"],
        times=extra["times"],
        notes=tuple(notes),
    )


def _class_numbers(y: Array) -> tuple[tuple[str, ...], Array]:
    if y.dtype.kind == "f" and (y == np.round(y)).all():
        y = y.astype(np.int64)
    if y.dtype.kind == "O":
        y = np.array([str(value) for value in y])
    values, numbers = np.unique(y, return_inverse=True)
    return tuple(str(v) for v in values), numbers.astype(np.int64)


def _known_classes(y: Array, classes: Sequence[str], target: str) -> Array:
    known = {text: number for number, text in enumerate(classes)}
    if y.dtype.kind == "f" and (y == np.round(y)).all():
        y = y.astype(np.int64)
    texts = [str(value) for value in y]
    for row, text in enumerate(texts):
        if text not in known:
            raise DataError(
                f"row {row + 1} of the test data has {target} {text!r}, a class that the training "
                "data does not have"
            )
    return np.array([known[text] for text in texts], np.int64)


def _listing(texts: Sequence[str], sizes: Array) -> str:
    order = np.argsort(-sizes)
    shown = [f"{texts[k]} {sizes[k]}" for k in order[:3]]
    if len(texts) > 4:
        shown.append("...")
    if len(texts) > 3:
        shown.append(f"{texts[order[-1]]} {sizes[order[-1]]}")
    return ", ".join(shown)


# --------------------------------------------------------------------------------------------------
# Files


def load(
    data: str = "digits",
    *,
    data_dir: str | Path | None = None,
    target: str | None = None,
    test: str | Path | None = None,
    missing: Missing = "error",
    task: Task = "auto",
    drop: Sequence[str] = (),
    group: str | None = None,
    time: str | None = None,
) -> Dataset:
    """Read a data set by name or from a file.

    Parameters
    ----------
    data : str
        "digits" (comes with scikit-learn), "mnist" or "fashion-mnist" (four idx files in
        ``data_dir``), or the path of a ``.csv``, ``.tsv``, ``.parquet`` or ``.npz`` file, of a
        folder with four idx files, or of one with a folder of images per class.
    data_dir : path, optional
        Where the files of a named set are.
    target : str, optional
        Column to predict; needed for tables.
    test : path, optional
        Held-out examples in a file of the same kind.
    missing : {"error", "drop", "impute"}
        Missing values: an error, rows left out, or the median of the training rows (a category of
        their own in text columns).
    task : {"auto", "classification", "regression"}
        Overrules what the type of the target says.
    drop : sequence of str
        Columns to leave out.
    group, time : str, optional
        Columns that say which rows belong together, or when they were taken; no features.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        One sentence for whatever is wrong with it.
    """
    named = {"digits": _digits, "mnist": _idx_images, "fashion-mnist": _idx_images}
    path = Path(data)
    is_table = path.suffix != ".npz" and data not in named and not path.is_dir()
    if not is_table:
        for option, value in (("--target", target), ("--group", group), ("--time", time)):
            if value is not None:
                raise DataError(f"{option} names a column of a table, but {data} is not a table")
    if data in named:
        if test is not None:
            raise DataError(f"{data} brings its own held-out examples; leave --test out")
        return named[data](data, data_dir)
    if not path.exists():
        raise DataError(
            f"{data} does not exist; --data takes a file (.csv, .tsv, .parquet, .npz), a folder of "
            f"images, or one of {', '.join(named)}"
        )
    test = None if test is None else Path(test)
    if test is not None and not test.exists():
        raise DataError(f"the test file {test} does not exist")
    if path.is_dir() and any(path.glob("*-images-idx3-ubyte*")):
        if test is not None:
            raise DataError(f"{data} brings its own held-out examples; leave --test out")
        return _idx_images(path.name, path)
    if path.is_dir():
        return _image_folders(path, test)
    if path.suffix == ".npz":
        return _npz(path, test, task, missing)
    from dlcore.tables import load_table

    return load_table(path, test, target, missing, task, drop, group, time)


def _digits(name: str, data_dir: str | Path | None) -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Dataset(
        name,
        bunch.images.astype(np.uint8),  # whole numbers 0..16
        bunch.target.astype(np.int64),
        classes=tuple(str(k) for k in range(10)),
        scale=1 / 16,
        target="digit",
    )


def _idx_images(name: str, data_dir: str | Path | None) -> Dataset:
    if data_dir is None:
        raise DataError(
            f"{name} is read from its four idx files; say where they are: --data-dir DIR"
        )
    folder = Path(data_dir)
    inner = folder / name.replace("-", "_")
    if inner.is_dir():
        folder = inner
    parts = {}
    for part in ("train", "t10k"):
        images = read_idx(_either(folder / f"{part}-images-idx3-ubyte"), 3)
        labels = read_idx(_either(folder / f"{part}-labels-idx1-ubyte"), 1)
        if len(images) != len(labels):
            raise DataError(f"{folder}: {len(images)} {part} images but {len(labels)} labels")
        parts[part] = images, labels.astype(np.int64)
    names = tuple(str(k) for k in range(int(parts["train"][1].max()) + 1))
    if name.replace("_", "-") == "fashion-mnist" and len(names) == 10:
        names = (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        )
    return Dataset(
        name,
        *parts["train"],
        classes=names,
        scale=1 / 255,
        target="class",
        test_x=parts["t10k"][0],
        test_y=parts["t10k"][1],
    )


def _either(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    for candidate in (packed, path):
        if candidate.exists():
            return candidate
    raise DataError(f"{packed} does not exist; --data-dir must hold the four idx files")


def read_idx(path: str | Path, dimensions: int) -> Array:
    """Unsigned bytes of an idx file (LeCun's format), packed with gzip or not.

    Parameters
    ----------
    path : path
        The file.
    dimensions : int
        How many axes it must have: 3 for images, 1 for labels.

    Returns
    -------
    array of uint8

    Raises
    ------
    DataError
        If it is not such a file, or is cut off.
    """
    path = Path(path)
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    header = 4 + 4 * dimensions
    if len(raw) < header or raw[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(f"{path} is not an idx file of bytes with {dimensions} axes")
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", dimensions, 4))
    size = 1
    for length in shape:
        size *= length
    if len(raw) - header != size:
        raise DataError(
            f"{path} says {' x '.join(map(str, shape))} bytes but holds {len(raw) - header}; it is "
            "cut off or damaged"
        )
    return np.frombuffer(raw, np.uint8, size, header).reshape(shape)


X_NAMES = ("x", "X", "x_train", "train_x", "X_train", "data", "images")
_Y_NAMES = ("y", "Y", "y_train", "train_y", "labels", "target", "targets")
X_TEST_NAMES = ("x_test", "test_x", "X_test")
_Y_TEST_NAMES = ("y_test", "test_y", "Y_test")


def _npz(path: Path, test: Path | None, task: Task, missing: Missing) -> Dataset:
    arrays = read_npz(path)
    x, y = (pick(arrays, names, path) for names in (X_NAMES, _Y_NAMES))
    held_out = None
    if test is not None:
        if test.suffix != ".npz":
            raise DataError(f"--test must be an .npz file as --data is, not {test}")
        other = read_npz(test)
        held_out = (
            pick(other, X_TEST_NAMES + X_NAMES, test),
            pick(other, _Y_TEST_NAMES + _Y_NAMES, test),
        )
    elif any(name in arrays for name in X_TEST_NAMES):
        held_out = pick(arrays, X_TEST_NAMES, path), pick(arrays, _Y_TEST_NAMES, path)
    groups, times = arrays.get("groups"), arrays.get("times")
    try:
        return from_arrays(
            x,
            y,
            name=path.stem,
            test=held_out,
            groups=groups,
            times=times,
            task=task,
            missing=missing,
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def read_npz(path: Path) -> dict[str, Array]:
    """Arrays of an ``.npz`` file, by name; Python objects in it are refused.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict of str to array

    Raises
    ------
    DataError
        If it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DataError(f"{path} holds one bare array; an .npz with x and y is needed")
            return {name: archive[name] for name in archive.files}
    except DataError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error) or "Object arrays" in str(error):
            raise DataError(
                f"{path} holds Python objects, which are not read because reading them can run "
                "code; save plain number arrays"
            ) from None
        raise DataError(f"{path} cannot be read as .npz: {one_line(error)}") from None


def pick(arrays: dict[str, Array], names: Sequence[str], path: Path) -> Array:
    """The first of some names that an archive has; a DataError lists what it has instead."""
    for name in names:
        if name in arrays:
            return arrays[name]
    raise DataError(f"{path} has no array {names[0]!r}; it holds {', '.join(arrays) or 'nothing'}")


def _image_folders(path: Path, test: Path | None) -> Dataset:
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
    if len(folders) < 2:
        raise DataError(
            f"{path} holds {len(folders)} folders; a folder of images needs one folder per class, "
            "at least two, or the four idx files of a set"
        )
    classes = tuple(folder.name for folder in folders)
    x, y = _read_images(path, classes)
    held_out: tuple[Array | None, Array | None] = (None, None)
    if test is not None:
        if not test.is_dir():
            raise DataError(f"--test must be a folder of images as --data is, not {test}")
        for folder in sorted(folder.name for folder in test.iterdir() if folder.is_dir()):
            if folder not in classes:
                raise DataError(f"{test} has a class {folder!r} that {path} does not have")
        held_out = _read_images(test, classes)
        if held_out[0] is not None and held_out[0].shape[1:] != x.shape[1:]:
            raise DataError(
                f"images in {test} are {held_out[0].shape[1:]} but in {path} {x.shape[1:]}; both "
                "need one size"
            )
    finished = finish(Dataset(path.name, x, y, scale=1 / 255, target="class"), *held_out)
    return replace(finished, classes=classes)


_IMAGE_TYPES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".webp"}


def _read_images(path: Path, classes: Sequence[str]) -> tuple[Array, Array]:
    files: list[Path] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        found = image_files(path / name)
        files += found
        labels += [number] * len(found)
    if not files:
        raise DataError(f"{path} holds no images in its class folders")
    return read_images(files), np.array(labels, np.int64)


def image_files(folder: Path) -> list[Path]:
    """Files of a folder that are images by their names, in order."""
    return [file for file in sorted(folder.glob("*")) if file.suffix.lower() in _IMAGE_TYPES]


def read_images(files: Sequence[Path]) -> Array:
    """Pixels of images of one size.

    Parameters
    ----------
    files : sequence of Path
        At least one.

    Returns
    -------
    array of uint8, (n, height, width) or (n, height, width, 3)

    Raises
    ------
    DataError
        If Pillow is missing, a file is no image, or one differs from the first in size or colours.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise DataError("reading images needs pillow; install it: pip install pillow") from None
    images: list[Array] = []
    for file in files:
        try:
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("L" if image.mode in "1LI;16" else "RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{file} cannot be read: {one_line(error)}") from None
        if images and pixels.shape != images[0].shape:
            raise DataError(
                f"{file} is {pixels.shape} but {files[0]} is {images[0].shape} (height, width, "
                "colours); all images need one size"
            )
        images.append(pixels)
    return np.stack(images)


def one_line(error: BaseException) -> str:
    """The text of a library's error as a part of a sentence."""
    return " ".join(str(error).split()).rstrip(".")
