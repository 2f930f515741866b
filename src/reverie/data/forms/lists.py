"""Lists: texts, sequences of numbers or symbols, and plain nested lists of numbers (read as an array)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from reverie.data.forms.arrays import array_column, as_array, restore_array
from reverie.data.forms.series import WHOLE
from reverie.data.schema import Field
from reverie.data.table import Array, hint, pack, unpack
from reverie.errors import DataError

_NATURAL = {"b": "boolean", "i": "integer", "u": "integer", "f": "number", "M": "datetime"}
_POSSIBLE = {
    "b": ("boolean", "integer", "number", "category"),
    "i": ("integer", "number", "category", "boolean"),
    "u": ("integer", "number", "category", "boolean"),
    "f": ("number", "integer", "boolean"),
    "M": ("datetime",),
}


def list_form(X: Sequence[Any]) -> str:
    """`text`, `sequence` (arrays, or lists of symbols) or `array` (plain numbers, possibly nested), or a `DataError`."""
    if len(X) == 0:
        raise DataError("X is empty: there is nothing to learn from")
    kinds = [_item_kind(item) for item in X]
    first = kinds[0]
    odd = next((row for row, kind in enumerate(kinds) if kind != first), None)
    if odd is not None:
        raise DataError(f"X mixes types: item 0 is a {type(X[0]).__name__}, item {odd} a {type(X[odd]).__name__}")
    if first == "other":
        name = type(X[0]).__name__
        advice = "give pd.DataFrame(X)" if isinstance(X[0], dict) else "give an array, a DataFrame or a list of texts"
        raise DataError(f"X is a list of {name}: {advice}")
    if first == "sequence":
        deep = next((row for row, item in enumerate(X) if item.ndim not in (1, 2)), None)
        if deep is not None:
            raise DataError(
                f"item {deep} of the list has shape {tuple(X[deep].shape)}: a sequence is (T,) or (T, d); "
                "for images give one array, np.stack(X)"
            )
    if first == "row" and any(isinstance(value, str) for row in X for value in row):
        return "sequence"
    return "array" if first in ("number", "row") else first


def _item_kind(item: Any) -> str:
    if isinstance(item, str):
        return "text"
    if isinstance(item, torch.Tensor | np.ndarray) and item.ndim:
        return "sequence"
    if isinstance(item, list | tuple):
        return "row"
    return "number" if isinstance(item, bool | int | float | np.generic | torch.Tensor | np.ndarray) else "other"


def stack(X: Sequence[Any]) -> Array:
    """Nested lists of numbers as one array. Rows of different lengths or text raise `DataError`."""
    lengths = [len(row) if isinstance(row, list | tuple) else -1 for row in X]
    odd = next((row for row, length in enumerate(lengths) if length != lengths[0]), None)
    if odd is not None:
        raise DataError(
            f"rows have different lengths: row 0 has {lengths[0]} numbers, row {odd} has {lengths[odd]}. Make them equal, "
            "or for sequences give a list of arrays, [np.asarray(row) for row in X]"
        )
    try:
        array = np.array(X)
    except (ValueError, TypeError, OverflowError) as problem:
        raise DataError(f"X cannot be read as an array of numbers ({problem})") from None
    if array.dtype.kind not in "biuf":
        raise DataError("X is a list of rows that are not only numbers: give pd.DataFrame(X, columns=[...])")
    return array


def sequence_field(X: Sequence[Any], name: str = "x", kind: str | None = None) -> Field:
    """Describe a list of (T,) or (T, d) arrays, or of lists of symbols; `kind` is that of a step when it shall not be the
    natural one. Shape is () or (d,), dtype the common type of the items, categories the sorted distinct symbols."""
    kind = None if kind == "sequence" else kind
    if is_symbols(X[0]):
        return _symbol_field(X, name, kind)
    arrays = [_numbers(item, row, DataError) for row, item in enumerate(X)]
    first = arrays[0][0]
    for row, (array, _) in enumerate(arrays):
        if array.shape[1:] != first.shape[1:] or array.ndim != first.ndim:
            raise DataError(
                f"sequence {row} has shape {array.shape}, sequence 0 has {first.shape}: all need the same width d"
            )
    kinds = {text for _, text in arrays}
    if arrays[0][1].startswith("torch.") or any(text.startswith("torch.") for text in kinds):
        if len(kinds) > 1:
            raise DataError(f"sequences are of different types, {', '.join(sorted(kinds))}: convert them to one")
        dtype = kinds.pop()
    else:
        try:
            dtype = str(np.result_type(*(array.dtype for array, _ in arrays)))
        except TypeError:
            raise DataError(
                f"sequences are of different types, {', '.join(sorted(kinds))}: convert them to one"
            ) from None
    packed, lengths = _packed([array for array, _ in arrays], DataError)
    code = packed.dtype.kind
    chosen = kind or _NATURAL[code]
    if chosen not in _POSSIBLE[code]:
        raise DataError(f"sequences of {dtype} cannot be of kind {chosen!r}: possible are {', '.join(_POSSIBLE[code])}")
    absent = np.isnat(packed) if code == "M" else np.isnan(packed) if code == "f" else np.zeros(packed.shape, bool)
    if absent.all(axis=0).any():
        column = f"column {int(np.argmax(absent.all(axis=0)))} of the sequences" if packed.ndim == 2 else "X"
        raise DataError(f"{column} has no value in any step: drop it")
    categories = tuple(np.unique(packed).tolist()) if chosen == "category" else None
    field = Field(
        name,
        "sequence",
        shape=tuple(first.shape[1:]),
        dtype=dtype,
        categories=categories,
        nullable=bool(absent.any()),
        step=chosen,
    )
    _check(field, packed, lengths, DataError)
    return field


def _symbol_field(X: Sequence[Any], name: str, kind: str | None) -> Field:
    if kind not in (None, "category"):
        raise DataError(f"sequences of text cannot be of kind {kind!r}: give arrays of numbers, or leave kinds out")
    rows = [_symbols(item, row, DataError) for row, item in enumerate(X)]
    categories = tuple(sorted({value for row in rows for value in row if value is not None}))
    if not categories:
        raise DataError("X has no symbol in any step")
    form = "array" if isinstance(X[0], np.ndarray) else "tuple" if isinstance(X[0], tuple) else "list"
    return Field(
        name,
        "sequence",
        dtype="str",
        categories=categories,
        nullable=any(None in row for row in rows),
        form=form,
        step="category",
    )


def is_symbols(item: Any) -> bool:
    """A list or tuple, or an array of text."""
    if isinstance(item, np.ndarray):
        return item.dtype.kind == "U" or (item.dtype == object and any(isinstance(v, str) for v in item.flat))
    return isinstance(item, list | tuple)


def _symbols(item: Any, row: int, error: type[DataError]) -> list[str | None]:
    """One sequence of symbols, None where missing."""
    if isinstance(item, str) or not isinstance(item, list | tuple | np.ndarray):
        raise error(f"sequence {row} is a {type(item).__name__}, where a list of symbols is wanted")
    if np.ndim(item) > 1 and isinstance(item, np.ndarray):
        raise error(f"sequence {row} has shape {item.shape}: a sequence of symbols has one axis, (T,)")
    if len(item) == 0:
        raise error(f"sequence {row} is empty: drop it")
    out: list[str | None] = []
    for step, value in enumerate(item):
        if isinstance(value, str):
            out.append(str(value))
        elif value is None or (isinstance(value, float) and value != value):
            out.append(None)
        else:
            raise error(
                f"sequence {row}, step {step} is the {type(value).__name__} {value!r}, where text is wanted: make all "
                "symbols text, [str(v) for v in row]; for a table of mixed columns give pd.DataFrame(X, columns=[...])"
            )
    return out


def _numbers(item: Any, row: int, error: type[DataError]) -> tuple[Array, str]:
    """One sequence as an array (T,) or (T, d), and its type as text."""
    if not isinstance(item, np.ndarray | torch.Tensor):
        raise error(f"sequence {row} is a {type(item).__name__}, where an array of numbers is wanted")
    array, dtype = as_array(item)
    if array.dtype.kind not in "biufM" or (array.dtype.kind == "f" and array.dtype.itemsize > 8):
        raise error(f"sequence {row} is of type {dtype}: give numbers")
    if array.ndim not in (1, 2):
        raise error(f"sequence {row} has shape {array.shape}: a sequence is (T,) or (T, d)")
    return array, dtype


def _packed(arrays: Sequence[Array], error: type[DataError]) -> tuple[Array, Array]:
    lengths = np.array([len(array) for array in arrays], dtype=np.int64)
    if (lengths == 0).any():
        raise error(f"sequence {int(np.argmin(lengths))} is empty: drop it")
    return np.concatenate(list(arrays)), lengths


def place(wrong: Array, lengths: Array) -> str:
    """Where the first True of packed steps (N,) or (N, d) is: `sequence 1, step 4`."""
    at = int(np.argwhere(wrong)[0][0])
    ends = np.cumsum(lengths)
    row = int(np.searchsorted(ends, at, side="right"))
    return f"sequence {row}, step {at - int(ends[row] - lengths[row])}"


def _check(field: Field, packed: Array, lengths: Array, error: type[DataError]) -> None:
    """Refuse values that the kind of the steps cannot have, naming sequence and step."""
    if packed.dtype.kind == "M":
        return
    absent = np.isnan(packed) if packed.dtype.kind == "f" else np.zeros(packed.shape, bool)
    checks = [(np.isinf(packed) if packed.dtype.kind == "f" else absent & False, "infinite: replace it")]
    if packed.dtype.kind in "iu":
        checks.append(((packed > WHOLE) | (packed < -WHOLE), "beyond 2**53, where floats skip whole numbers: scale it"))
    if field.step == "integer":
        checks.append((~absent & (packed != np.rint(packed)) if packed.dtype.kind == "f" else absent, "not whole"))
    if field.step == "boolean":
        checks.append((~absent & (packed != 0) & (packed != 1), "neither true nor false (1 or 0)"))
    for wrong, what in checks:
        if wrong.any():
            raise error(f"{place(wrong, lengths)} is {packed[wrong].flat[0]}, {what}")


def sequence_column(field: Field, X: Any, error: type[DataError] = DataError, *, unseen: bool = False) -> Array:
    """Object array of arrays (T_i, *field.shape) with the cells of `field.one_step`. A category that is not known
    raises `error`, or with `unseen` is a missing step."""
    if field.categories is not None and field.form is not None:
        return _symbol_column(field, X, error, unseen)
    arrays = []
    for row, item in enumerate(X):
        array, _ = _numbers(item, row, error)
        if array.ndim != len(field.shape) + 1 or array.shape[1:] != field.shape:
            raise error(
                f"sequence {row} has shape {array.shape} and type {array.dtype}: "
                f"numbers (T{''.join(f', {size}' for size in field.shape)}) are wanted"
            )
        if (array.dtype.kind == "M") != (field.step == "datetime"):
            raise error(f"sequence {row} is of type {array.dtype} where {field.dtype} is wanted")
        arrays.append(array)
    if not arrays:
        return np.empty(0, dtype=object)
    packed, lengths = _packed(arrays, error)
    _check(field, packed, lengths, error)
    if field.step != "category":
        return unpack(array_column(field.one_step, packed, error), lengths)
    known = np.array(field.categories)
    codes = np.clip(np.searchsorted(known, packed), 0, len(known) - 1)
    wrong = known[codes] != packed
    if wrong.any() and not unseen:
        raise error(
            f"{place(wrong, lengths)} is {packed[wrong].flat[0]}, which is not a known value: {known[:20].tolist()}"
        )
    return unpack(np.where(wrong, -1, codes).astype(np.int64), lengths)


def _symbol_column(field: Field, X: Sequence[Any], error: type[DataError], unseen: bool) -> Array:
    lookup: dict[str | None, int] = {value: code for code, value in enumerate(field.categories or ())}  # type: ignore[misc]
    lookup[None] = -1
    out = np.empty(len(X), dtype=object)
    for row, item in enumerate(X):
        symbols = _symbols(item, row, error)
        if not unseen:
            step = next((at for at, value in enumerate(symbols) if value not in lookup), None)
            if step is not None:
                known = [str(value) for value in field.categories or ()]
                shown = ", ".join(map(repr, known[:12])) + (f", ... {len(known)} in all" if len(known) > 12 else "")
                raise error(
                    f"sequence {row}, step {step}: {symbols[step]!r} is not a known symbol"
                    f"{hint(str(symbols[step]), known)} Known: {shown}"
                )
        out[row] = np.array([lookup.get(value, -1) for value in symbols], dtype=np.int64)
    return out


def text_column(X: Sequence[Any], error: type[DataError] = DataError) -> Array:
    """Object array of str."""
    out = np.empty(len(X), dtype=object)
    for row, item in enumerate(X):
        if not isinstance(item, str):
            raise error(f"item {row} is a {type(item).__name__}, where text is wanted")
        out[row] = str(item)
    return out


def restore_list(field: Field, column: Array, *, block: bool = False) -> Any:
    """The user's list of texts, arrays, tensors or lists of symbols; with `block` one array of all sequences when they
    are of one length."""
    if field.kind == "text":
        return [None if value is None else str(value) for value in column]
    if len(column) == 0:
        return []
    packed, lengths = pack(column)
    if field.form is not None:
        return _restore_symbols(field, packed, lengths)
    values = restore_array(field.one_step, packed)
    if block and (lengths == lengths[0]).all():
        return values.reshape(len(lengths), int(lengths[0]), *values.shape[1:])
    if isinstance(values, torch.Tensor):
        return list(torch.split(values, lengths.tolist()))
    return list(unpack(values, lengths))


def _restore_symbols(field: Field, codes: Array, lengths: Array) -> list[Any]:
    lookup = np.array([*(field.categories or ()), None], dtype=object)
    rows = [item.tolist() for item in unpack(lookup[codes], lengths)]
    if field.form == "array":
        return [np.array(row, dtype=object if None in row else np.str_) for row in rows]
    return [tuple(row) for row in rows] if field.form == "tuple" else rows
