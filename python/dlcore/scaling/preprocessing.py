"""What is learned from data before training: means, scales, categories.

Fitted on training rows only, so that no held-out example has a say in it, and kept beside a network
as JSON, so that new data is treated the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlcore.data import Column, DataError, Dataset

Array = NDArray[Any]


@dataclass(frozen=True)
class _Numbers:
    """A column of numbers: gaps filled, mean taken off, divided by the standard deviation."""

    mean: float
    scale: float
    fill: float


@dataclass(frozen=True)
class _Categories:
    """A text column as one 0/1 column per category that the training rows have."""

    codes: tuple[int, ...]
    missing: bool


@dataclass(frozen=True)
class Preprocessing:
    """What turns a data set's rows into the numbers that a learner sees.

    Made by :meth:`fit` from training rows alone. Pixels are multiplied by a constant; arrays of
    more than two axes are brought to mean 0 and deviation 1 as a whole; every number column of a
    table is standardised by itself, and text columns become one 0/1 column per category.
    """

    shape: tuple[int, ...]
    scale: float | None
    shift: float
    columns: tuple[Column, ...]
    parts: tuple[_Numbers | _Categories, ...]
    classes: tuple[str, ...]
    target: str
    target_mean: float
    target_scale: float

    @classmethod
    def fit(cls, data: Dataset, rows: Array) -> Preprocessing:
        """Learn means, scales and categories from some rows.

        Parameters
        ----------
        data : Dataset
            Where the rows are.
        rows : array of int
            The training rows; no other row is looked at.

        Returns
        -------
        Preprocessing
        """
        x = data.x[rows]
        scale, shift = data.scale, 0.0
        parts: list[_Numbers | _Categories] = []
        if scale is None and x.ndim > 2:
            shift = float(x.mean(dtype=np.float64))
            scale = 1 / (float(x.std(dtype=np.float64)) or 1.0)
        elif scale is None:
            for j in range(x.shape[1]):
                values = np.asarray(x[:, j], np.float64)
                if data.columns and data.columns[j].categories is not None:
                    known = values[~np.isnan(values)].astype(np.int64)
                    parts.append(
                        _Categories(
                            tuple(int(c) for c in np.unique(known)), bool(np.isnan(values).any())
                        )
                    )
                    continue
                present = values[~np.isnan(values)]
                fill = float(np.median(present)) if present.size else 0.0
                filled = np.where(np.isnan(values), fill, values)
                mean = float(filled.mean())
                deviation = float(filled.std())
                # A constant column: what is left after the mean is rounding, not signal.
                if not deviation > 1e-9 * max(1.0, abs(mean)):
                    deviation = 1.0
                parts.append(_Numbers(mean, deviation, fill))
        mean, deviation = 0.0, 1.0
        if not data.classes:
            mean = float(data.y[rows].mean())
            deviation = float(data.y[rows].std()) or 1.0
        return cls(
            x.shape[1:],
            scale,
            shift,
            data.columns,
            tuple(parts),
            data.classes,
            data.target,
            mean,
            deviation,
        )

    @property
    def features(self) -> int:
        """How many numbers a learner sees per example."""
        if self.scale is not None:
            return int(np.prod(self.shape))
        return sum(1 if isinstance(p, _Numbers) else len(p.codes) + p.missing for p in self.parts)

    def transform(self, x: Array) -> NDArray[np.float32]:
        """Numbers for a learner.

        Parameters
        ----------
        x : array, (n, ...)
            Rows as in :attr:`Dataset.x`.

        Returns
        -------
        array of float32, (n, features)
        """
        if self.scale is not None:
            flat = x.reshape(len(x), -1).astype(np.float32)
            if self.shift:
                flat -= np.float32(self.shift)
            flat *= np.float32(self.scale)
            return flat
        out = np.zeros((len(x), self.features), np.float32)
        at = 0
        for j, part in enumerate(self.parts):
            values = np.asarray(x[:, j], np.float64)
            if isinstance(part, _Numbers):
                filled = np.where(np.isnan(values), part.fill, values)
                out[:, at] = (filled - part.mean) / part.scale
                at += 1
                continue
            for code in part.codes:
                out[:, at] = values == code
                at += 1
            if part.missing:
                out[:, at] = np.isnan(values)
                at += 1
        return out

    def takes_bytes(self, x: Array) -> bool:
        """Whether a network can be given these rows as the bytes they are."""
        return bool(x.dtype == np.uint8 and self.scale is not None and not self.shift)

    def network_input(self, x: Array) -> tuple[Array, float]:
        """As :meth:`transform`, but bytes stay bytes: a network scales them on its way.

        Parameters
        ----------
        x : array, (n, ...)
            Rows as in :attr:`Dataset.x`.

        Returns
        -------
        x : array of uint8 or float32, (n, features)
        input_scale : float
            What the network multiplies it by.
        """
        if self.takes_bytes(x) and self.scale is not None:
            return x.reshape(len(x), -1), self.scale
        return self.transform(x), 1.0

    def scaled_target(self, y: Array) -> Array:
        """Class numbers as they are; quantities with mean 0 and deviation 1, float32."""
        if self.classes:
            return y
        return ((y - self.target_mean) / self.target_scale).astype(np.float32)

    def unscaled_target(self, y: Array) -> Array:
        """Predicted quantities in their own unit."""
        return np.asarray(y, np.float64) * self.target_scale + self.target_mean

    def to_json(self) -> str:
        """Everything as JSON text; only categories that were seen are kept."""
        columns: list[dict[str, Any]] = []
        for j, part in enumerate(self.parts):
            name = self.columns[j].name if self.columns else None
            if isinstance(part, _Numbers):
                columns.append(
                    {"name": name, "mean": part.mean, "scale": part.scale, "fill": part.fill}
                )
            else:
                texts = self.columns[j].categories or ()
                seen = [texts[code] for code in part.codes]
                columns.append({"name": name, "categories": seen, "missing": part.missing})
        return json.dumps(
            {
                "format": "dlcore-preprocessing-1",
                "shape": self.shape,
                "scale": self.scale,
                "shift": self.shift,
                "columns": columns,
                "target": {
                    "name": self.target,
                    "classes": self.classes,
                    "mean": self.target_mean,
                    "scale": self.target_scale,
                },
            },
            indent=1,
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str) -> Preprocessing:
        """The inverse of :meth:`to_json`.

        Parameters
        ----------
        text : str
            What :meth:`to_json` gave.

        Returns
        -------
        Preprocessing

        Raises
        ------
        DataError
            If it is anything else.
        """
        try:
            content = json.loads(text)
            if content["format"] != "dlcore-preprocessing-1":
                raise DataError(f"the preprocessing is of the unknown kind {content['format']!r}")
            columns: list[Column] = []
            parts: list[_Numbers | _Categories] = []
            for entry in content["columns"]:
                name = entry["name"]
                if "categories" in entry:
                    texts = tuple(str(text) for text in entry["categories"])
                    parts.append(_Categories(tuple(range(len(texts))), bool(entry["missing"])))
                    columns.append(Column(str(name), texts))
                else:
                    parts.append(
                        _Numbers(float(entry["mean"]), float(entry["scale"]), float(entry["fill"]))
                    )
                    columns.append(Column("" if name is None else str(name)))
            target = content["target"]
            unnamed = all(not column.name for column in columns)
            return cls(
                tuple(int(size) for size in content["shape"]),
                None if content["scale"] is None else float(content["scale"]),
                float(content["shift"]),
                () if unnamed else tuple(columns),
                tuple(parts),
                tuple(str(name) for name in target["classes"]),
                str(target["name"]),
                float(target["mean"]),
                float(target["scale"]),
            )
        except DataError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"the preprocessing cannot be read: {error!r}") from None
