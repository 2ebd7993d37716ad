"""The best network of a study, kept with its preprocessing, and what it says about new data.

A kept model is a folder of three readable files and no code: ``network.safetensors``,
``preprocessing.json`` and ``model.json`` (where it comes from and how good it was).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dlcore.data import (
    X_NAMES,
    X_TEST_NAMES,
    Column,
    DataError,
    features_of,
    image_files,
    pick,
    read_idx,
    read_images,
    read_npz,
)
from dlcore.scaling.grid import subset
from dlcore.scaling.metrics import Prediction
from dlcore.scaling.networks import network_prediction
from dlcore.scaling.preprocessing import Preprocessing
from dlcore.scaling.store import write_atomically
from dlcore.scaling.training import train_one
from dlcore.scaling.work import Job
from dlcore.tables import encode_table, read_table

if TYPE_CHECKING:
    import dlcore
    from dlcore.scaling.study import Study

Array = NDArray[Any]
NETWORK, PREPROCESSING, CARD = "network.safetensors", "preprocessing.json", "model.json"


def keep_best_network(study: Study, folder: str | Path) -> Path | None:
    """Keep the best network of a study in a folder.

    The kind of network is the one with the lowest held-out error at the largest m; of its seeds the
    one with the lowest error on its own validation labels. It is trained again from its record,
    which gives the same bits.

    Parameters
    ----------
    study : Study
        With finished runs.
    folder : path
        Made if it does not exist.

    Returns
    -------
    Path or None
        The folder, or None if no network was trained.
    """
    folder = Path(folder)
    summary = study.summary()
    top = summary.top()
    networks = [name for name in top if summary.learners[name].is_network]
    if not networks:
        return None
    curves = summary.curves()
    errors = {
        name: next(p.estimate for p in curves[name].points if p.m == top[name]) for name in networks
    }
    best = min(networks, key=lambda name: errors[name].value)
    results = summary.results[best, top[best]]
    result = min(results.values(), key=lambda r: (r.validation, r.run.seed))
    card = {
        "format": "dlcore-model-1",
        "run": result.run.key(),
        "learner": best,
        "data": study.data.name,
        "trained_on": top[best],
        "metric": study.metric.name,
        "held_out": {
            "mean_over_seeds": errors[best].value,
            "low": errors[best].low,
            "high": errors[best].high,
            "this_network": result.score,
        },
    }
    text = json.dumps(card, indent=1)
    if (folder / CARD).exists() and (folder / CARD).read_text("utf-8") == text:
        return folder
    rows = subset(study.data, study.split.pool, result.run.m, result.run.seed)
    job = Job(
        summary.learners[best],
        result.facts["value"],
        result.run.seed,
        rows,
        epochs=result.facts["epochs"],
        kept=folder.with_name(f".{folder.name}.training"),
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    trained = train_one(study.work, job)
    if trained.network is None or trained.preprocessing is None:
        return None  # the m labels are of one class, which is then always predicted
    folder.mkdir(parents=True, exist_ok=True)
    # The card goes last and away first: while it is there, the folder is whole.
    (folder / CARD).unlink(missing_ok=True)
    trained.network.save(folder / NETWORK)
    write_atomically(folder / PREPROCESSING, trained.preprocessing.to_json())
    write_atomically(folder / CARD, text)
    return folder


def load_model(folder: str | Path) -> tuple[dlcore.Network, Preprocessing]:
    """Read what :func:`keep_best_network` wrote.

    Parameters
    ----------
    folder : path
        The folder.

    Returns
    -------
    network : dlcore.Network
    preprocessing : Preprocessing

    Raises
    ------
    DataError
        If the folder holds no whole model.
    """
    import dlcore

    folder = Path(folder)
    for name in (NETWORK, PREPROCESSING, CARD):
        if not (folder / name).is_file():
            raise DataError(f"{folder} holds no kept network: {name} is not there")
    try:
        network = dlcore.load(folder / NETWORK)
        preprocessing = Preprocessing.from_json((folder / PREPROCESSING).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} cannot be read as a kept network: {error}") from None
    if tuple(network.input_shape) != (preprocessing.features,):
        raise DataError(
            f"{folder}: the network takes {network.input_shape} but the preprocessing gives "
            f"{preprocessing.features} features; the files belong to different models"
        )
    return network, preprocessing


def predict(folder: str | Path, data: str | Path) -> tuple[Prediction, Preprocessing, int]:
    """Apply a kept network to a file.

    Parameters
    ----------
    folder : path
        What :func:`keep_best_network` wrote.
    data : path
        New examples: ``.csv``, ``.tsv``, ``.parquet``, ``.npz`` (array ``x``), idx images or a
        folder of images.

    Returns
    -------
    prediction : Prediction
    preprocessing : Preprocessing
    filled : int
        Missing values that were filled in as in training.
    """
    network, preprocessing = load_model(folder)
    x = load_features(data, preprocessing)
    filled = int(np.isnan(x).sum()) if x.dtype.kind == "f" else 0
    return network_prediction(network, preprocessing, x), preprocessing, filled


def names_of(path: str | Path) -> list[str]:
    """Names of the images in a folder and in the folders inside it; empty for a file."""
    path = Path(path)
    if not path.is_dir():
        return []
    inner = sorted(folder for folder in path.iterdir() if folder.is_dir())
    return [
        file.relative_to(path).as_posix()
        for folder in [path, *inner]
        for file in image_files(folder)
    ]


def write_predictions(
    out: IO[str],
    prediction: Prediction,
    preprocessing: Preprocessing,
    names: Sequence[str] = (),
) -> None:
    """Write one line per example: the prediction and, for classes, the probability of each.

    Parameters
    ----------
    out : text file
        Where.
    prediction : Prediction
        What the network said.
    preprocessing : Preprocessing
        Knows the names.
    names : sequence of str
        Of the examples, where they have any: images have those of their files.
    """
    writer = csv.writer(out, lineterminator="\n")
    classes = preprocessing.classes
    first = [[name] for name in names] or [[] for _ in prediction.values]
    head = ["file"] if names else []
    if prediction.probabilities is None:
        writer.writerow([*head, preprocessing.target])
        for name, value in zip(first, prediction.values, strict=True):
            writer.writerow([*name, f"{value:.9g}"])
        return
    writer.writerow([*head, preprocessing.target, *(f"probability of {name}" for name in classes)])
    for name, label, row in zip(first, prediction.values, prediction.probabilities, strict=True):
        writer.writerow([*name, classes[int(label)], *(f"{p:.6g}" for p in row)])


def load_features(path: str | Path, preprocessing: Preprocessing) -> Array:
    """Rows of new data, as :attr:`Dataset.x` has them, for a network that was kept.

    Parameters
    ----------
    path : path
        A ``.csv``, ``.tsv``, ``.parquet``, ``.npz`` (array ``x``) or idx file, or a folder of
        images.
    preprocessing : Preprocessing
        What the network was trained with.

    Returns
    -------
    array, (n, ...)

    Raises
    ------
    DataError
        If the file cannot be read or its columns or shapes are others.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.is_dir():
        images = names_of(path)
        if not images:
            raise DataError(f"{path} holds no images")
        x = read_images([path / name for name in images])
    elif path.suffix == ".npz":
        arrays = read_npz(path)
        x = features_of(pick(arrays, (*X_NAMES, *X_TEST_NAMES), path), "x", "impute")
    elif "idx3" in path.name:
        x = read_idx(path, 3)
    else:
        frame = read_table(path)
        if preprocessing.columns:
            return encode_table(frame, preprocessing.columns, str(path))
        count = int(np.prod(preprocessing.shape))
        if frame.shape[1] != count:
            raise DataError(
                f"{path} has {frame.shape[1]} columns but the network was trained on {count} "
                "features"
            )
        names = tuple(Column(str(name)) for name in frame.columns)
        x = encode_table(frame, names, str(path)).reshape(-1, *preprocessing.shape)
    if x.shape[1:] != preprocessing.shape:
        raise DataError(
            f"{path}: one example has shape {x.shape[1:]} but the network was trained on "
            f"{preprocessing.shape}"
        )
    if preprocessing.scale is not None and np.isnan(x).any():
        raise DataError(f"{path}: x[{int(np.argwhere(np.isnan(x))[0][0])}] has a missing value")
    return x
