"""The spaces distances are taken in: an encoded table, principal components of pixels, a domain classifier.

All are fitted on real rows only and turn a `Table` into a float64 matrix `(n, d)`.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reverie.metrics.arrays import FloatArray, IntArray
from reverie.metrics.marginals import Column

if TYPE_CHECKING:
    from reverie.data.schema import Field, Schema
    from reverie.data.table import Table

_CLIP_SD = 10.0
_MOST_LEVELS = 64
_MOST_COLUMNS = 200
_SIDE = 64
_FIT_ROWS = 2000


class FeatureSpace(ABC):
    """A named map from tables to feature vectors. `note` says how it was made."""

    name: str
    note: str = ""

    @abstractmethod
    def encode(self, table: Table) -> FloatArray:
        """Features `(n, d)`, finite."""


def scalar_columns(schema: Schema, table: Table) -> list[Column]:
    """The data fields that are numbers or categories as columns; array blocks become one column per number.

    number, integer, datetime -> float64 with NaN; category, boolean -> codes with -1. More than 200 columns are
    thinned evenly.
    """
    from reverie.data.table import NO_DATE

    out: list[Column] = []
    for field in schema.data_fields:
        if field.kind not in ("number", "integer", "datetime", "category", "boolean"):
            continue
        values = table[field.name]
        if field.kind in ("category", "boolean"):
            levels: int | None = 2 if field.kind == "boolean" else max(len(field.categories or ()), 1)
            values = values.astype(np.int64)
        else:
            levels, missing = None, values == NO_DATE if field.kind == "datetime" else None
            values = values.astype(np.float64)
            if missing is not None:
                values[missing] = np.nan
        flat = values.reshape(len(values), -1)
        for position in range(flat.shape[1]):
            name = field.name if not field.shape else f"{field.name}[{position}]"
            out.append(Column(name, flat[:, position], levels))
    if len(out) > _MOST_COLUMNS:
        keep = np.unique(np.linspace(0, len(out) - 1, _MOST_COLUMNS).astype(int))
        out = [out[i] for i in keep]
    return out


class TableSpace(FeatureSpace):
    """Numbers standardised, categories one-hot.

    A number is (x - mean) / sd of the real rows, clipped to +-10 so that one wild value cannot decide a distance;
    missing is 0 plus an indicator column. A category is a one-hot vector of its 64 commonest levels, the rest
    together, missing as a level. Two different levels lie at squared distance 2, as do two independent standard
    normals on average, so columns of either kind weigh the same.
    """

    name = "table"
    note = "numbers standardised, categories one-hot"

    def __init__(self, schema: Schema, real: Table) -> None:
        self._schema = schema
        self._steps: list[tuple[float, float, bool] | tuple[IntArray, int]] = []
        for column in scalar_columns(schema, real):
            if column.levels is None:
                seen = column.values[~np.isnan(column.values)]
                mean, sd = (float(seen.mean()), float(seen.std())) if len(seen) else (0.0, 1.0)
                self._steps.append((mean, sd if sd > 0 else 1.0, len(seen) < len(column.values)))
            else:
                counts = np.bincount(column.values + 1, minlength=column.levels + 1)
                common = np.sort(np.argsort(-counts, kind="stable")[:_MOST_LEVELS])
                slot = np.full(column.levels + 1, len(common), dtype=np.int64)
                slot[common] = np.arange(len(common))
                self._steps.append((slot, len(common) + 1))

    def encode(self, table: Table) -> FloatArray:
        parts: list[FloatArray] = []
        for column, step in zip(scalar_columns(self._schema, table), self._steps, strict=True):
            if len(step) == 3:
                mean, sd, indicator = step
                missing = np.isnan(column.values)
                scaled = np.clip((np.where(missing, mean, column.values) - mean) / sd, -_CLIP_SD, _CLIP_SD)
                parts.append(scaled[:, None])
                if indicator:
                    parts.append(missing[:, None].astype(np.float64))
            else:
                slot, width = step
                parts.append(np.eye(width)[slot[column.values + 1]])
        return np.concatenate(parts, axis=1)


def image_fields(schema: Schema) -> list[Field]:
    return [field for field in schema.data_fields if field.kind == "image"]


def pixels(schema: Schema, table: Table) -> NDArray[np.float32]:
    """All image fields as rows of numbers in 0..1 `(n, d)`; sides above 64 are reduced by averaging whole blocks.

    Both sides of a comparison go through this one function, in float, without rounding. Missing pixels stay NaN.
    """
    parts = []
    for field in image_fields(schema):
        images = table[field.name]
        low, high = field.low or 0.0, 1.0 if field.high is None else field.high
        factor = -(-max(field.shape[:2]) // _SIDE)
        height, width = (side // factor * factor for side in field.shape[:2])
        rows = []
        for start in range(0, len(images), 256):
            block = (images[start : start + 256, :height, :width].astype(np.float32) - low) / (high - low)
            if factor > 1:
                shape = (len(block), height // factor, factor, width // factor, factor, *block.shape[3:])
                block = block.reshape(shape).mean(axis=(2, 4))
            rows.append(block.reshape(len(block), -1))
        parts.append(np.concatenate(rows))
    return np.concatenate(parts, axis=1)


class PixelSpace(FeatureSpace):
    """The leading principal components of pixels (32 or fewer), scaled by one number so that their mean variance is 1.

    The axes keep their relative size. Fitted on at most 2000 real rows; missing pixels take the mean of theirs.
    """

    name = "pixel-pca"

    def __init__(self, schema: Schema, real: Table, components: int = 32, seed: int = 0) -> None:
        self._schema = schema
        if real.n > _FIT_ROWS:
            real = real.take(np.random.default_rng(seed).choice(real.n, _FIT_ROWS, replace=False))
        x = pixels(schema, real)
        seen = ~np.isnan(x)
        total = np.where(seen, x, 0).sum(axis=0, dtype=np.float64)
        self._mean = total / np.maximum(seen.sum(axis=0), 1)
        wide = self._centred(x)
        n, d = wide.shape
        if d <= n:
            values, vectors = np.linalg.eigh(wide.T @ wide)
        else:
            values, left = np.linalg.eigh(wide @ wide.T)
            vectors = wide.T @ left / np.sqrt(np.maximum(values, 1e-300))
        keep = min(components, int((values > 1e-10 * max(values[-1], 1e-300)).sum()), max(n // 4, 1))
        keep = max(keep, 1)
        axes, variance = vectors[:, ::-1][:, :keep], values[::-1][:keep] / max(n - 1, 1)
        self._axes = axes / max(float(np.sqrt(variance.mean())), 1e-12)
        share = float(values[::-1][:keep].sum() / max(values.sum(), 1e-300))
        self.note = f"{keep} principal components of the pixels, {share:.0%} of their variance"

    def _centred(self, x: NDArray[Any]) -> FloatArray:
        wide = x.astype(np.float64)
        return np.where(np.isnan(wide), 0.0, wide - self._mean)

    def encode(self, table: Table) -> FloatArray:
        rows = [
            self._centred(pixels(self._schema, table.take(slice(start, start + 1024)))) @ self._axes
            for start in range(0, table.n, 1024)
        ]
        return np.concatenate(rows)


class ClassifierSpace(FeatureSpace):
    """Hidden layer (32 rectified units) of a small network trained to tell the classes of the training images apart.

    Recipe 1: 64 principal components of pixels, one hidden layer, Adam, 60 passes over at most 5000 rows. Units are
    standardised on the training rows; dead ones are left out. Sees missing classes; hardly sees noise or collapse
    inside a class, which is why it stands beside `pixel-pca`.
    """

    name = "domain-classifier"

    def __init__(self, schema: Schema, train: Table, labels: IntArray, seed: int = 0) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        if train.n > 5000:
            rows = np.random.default_rng([seed, 11]).choice(train.n, 5000, replace=False)
            train, labels = train.take(rows), labels[rows]
        self._input = PixelSpace(schema, train, components=64, seed=seed)
        x = self._input.encode(train)
        network = MLPClassifier((32,), alpha=1e-3, learning_rate_init=5e-3, max_iter=60, random_state=seed % 2**31)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            network.fit(x, labels)
        self._network = network
        hidden = self._hidden(x)
        sd = hidden.std(axis=0)
        self._alive = sd > 1e-6
        self._mean, self._sd = hidden[:, self._alive].mean(axis=0), sd[self._alive]
        self.note = "hidden layer of a small classifier of the training labels"

    def _hidden(self, x: FloatArray) -> FloatArray:
        weights, bias = self._network.coefs_[0], self._network.intercepts_[0]
        hidden: FloatArray = np.maximum(x @ weights + bias, 0.0)
        return hidden

    def encode(self, table: Table) -> FloatArray:
        hidden = self._hidden(self._input.encode(table))[:, self._alive]
        scaled: FloatArray = (hidden - self._mean) / self._sd
        return scaled

    def classify(self, table: Table) -> IntArray:
        """The class code it gives each row `(n,)`."""
        codes: IntArray = self._network.predict(self._input.encode(table)).astype(np.int64)
        return codes


def row_bytes(schema: Schema, table: Table) -> NDArray[np.uint8]:
    """The data cells of each row as bytes `(n, b)`, for finding exact copies. NaN and -0.0 have one spelling each."""
    parts = []
    for field in schema.data_fields:
        values = table[field.name]
        if values.dtype == object:
            continue
        if values.dtype.kind == "f":
            values = np.where(np.isnan(values), np.nan, values.astype(np.float64)) + 0.0
        flat = np.ascontiguousarray(values).reshape(len(values), -1)
        parts.append(flat.view(np.uint8).reshape(len(values), -1))
    return np.concatenate(parts, axis=1)
