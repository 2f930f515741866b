"""From the user's form to Schema and Table and back: `infer`, `read_table`, `restore_table`, by container."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from reverie.data.forms.arrays import array_column, array_field, as_array, restore_array
from reverie.data.forms.conditions import column_names, infer_y, read_y
from reverie.data.forms.frames import column_options, infer_frame, read_frame, restore_frame
from reverie.data.forms.labels import restore_condition
from reverie.data.forms.lists import list_form, restore_list, sequence_column, sequence_field, stack, text_column
from reverie.data.forms.long import read_long, restore_long, restore_long_labels
from reverie.data.forms.stepwise import restore_step_labels
from reverie.data.forms.wholes import restore_whole
from reverie.data.schema import STEPS, Field, Schema
from reverie.data.space import Unseen
from reverie.data.table import Array, Table
from reverie.errors import DataError, SchemaMismatch


def infer(
    X: Any,
    y: Any = None,
    *,
    roles: Mapping[Any, str] | None = None,
    kinds: Mapping[Any, str] | None = None,
    value_range: tuple[float, float] | None = None,
) -> tuple[Schema, Table]:
    """What X (and y) are, and their rows as a table that also holds y, weight, group, time and id columns.

    X: a DataFrame; an array or tensor (n,), (n, d), (n, H, W) or (n, H, W, C); a list of texts; a list of sequences,
    which are (T,) or (T, d) arrays or lists of text symbols; with kinds={"x": "sequence"} also n sequences of one length
    as one array (n, T, d) or (n, T). y: labels or numbers, one per row (for sequences also a list of labels per step,
    None where there is none), or the name of a column. `roles` and `kinds` override column by
    column; for arrays the data field is called `x`, the condition `y`. `value_range` is (low, high) of image pixels.
    Raises `DataError` for anything that cannot be read, naming column, row and value.
    """
    if is_frame(X):
        return infer_frame(X, y, roles=roles, kinds=kinds)
    if isinstance(y, str):
        raise DataError(f"y={y!r} names a column, but X is {_what(X)}: give the labels themselves")
    asked = column_options(kinds, "kinds", ["x", "y", *column_names(y)])
    column_options(roles, "roles", [])
    field, column, container = _block(X, asked.get("x"), value_range)
    fields, columns = [field], {field.name: column}
    if y is not None:
        own = {name: kind for name, kind in asked.items() if name != "x"}
        beside = infer_y(y, len(column), taken=[field.name], kinds=own, lengths=step_lengths(field, column))
        fields += beside
        columns |= {item.name: values for item, values in beside.items()}
    return Schema(tuple(fields), container), Table(columns, len(column))


def step_lengths(field: Field, column: Array) -> Array | None:
    """(n,) steps of each sequence or characters of each text; None for other kinds."""
    return np.array([len(item) for item in column], np.int64) if field.kind in ("sequence", "text") else None


def is_frame(X: Any) -> bool:
    """Is this a pandas DataFrame? (Asked without importing pandas.)"""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(X, pandas.DataFrame)


def is_texts(X: Any) -> bool:
    """A list of texts, or a one-axis array of them."""
    if isinstance(X, np.ndarray):
        return X.ndim == 1 and len(X) > 0 and (X.dtype.kind == "U" or _all_text(X))
    return False


def _all_text(X: Array) -> bool:
    return X.dtype == object and all(isinstance(value, str) for value in X)


def _block(X: Any, kind: str | None, value_range: tuple[float, float] | None) -> tuple[Field, Array, str]:
    """The one data field of what is no DataFrame: (field, column, container)."""
    X = _plain(X, DataError)
    if isinstance(X, list):
        if isinstance(X[0], str):
            if kind not in (None, "text"):
                raise DataError(
                    f"a list of texts cannot be of kind {kind!r}: for categories give pd.DataFrame({{'x': X}})"
                )
            return Field("x", "text", dtype="str"), text_column(X), "list"
        if kind not in (None, "sequence", *STEPS):
            raise DataError(f"a list of arrays is of kind 'sequence', not {kind!r}: give one array, np.stack(X)")
        field = sequence_field(X, kind=kind)
        return field, sequence_column(field, X), "list"
    if kind == "sequence":
        if X.ndim not in (2, 3) or not len(X):
            raise DataError(f"X has shape {tuple(X.shape)}: sequences as one array are (n, T) or (n, T, d)")
        field = sequence_field(list(X))
        return field, sequence_column(field, list(X)), "tensor" if isinstance(X, torch.Tensor) else "array"
    array, dtype = as_array(X)
    field = array_field(array, dtype=dtype, kind=kind, value_range=value_range)
    container = "tensor" if isinstance(X, torch.Tensor) else "images" if field.kind == "image" else "array"
    return field, array_column(field, array), container


def _plain(X: Any, error: type[DataError]) -> Any:
    """A tensor, a numeric ndarray, or a list of texts or arrays; other types are refused with advice."""
    if isinstance(X, torch.Tensor | np.ndarray):
        if isinstance(X, np.ndarray) and (is_texts(X) or (X.dtype == object and X.ndim == 1)):
            return _plain(X.tolist(), error)
        return X
    if isinstance(X, list | tuple | range):
        items = list(X)
        form = list_form(items)
        return stack(items) if form == "array" else items
    raise error(f"X is {_what(X)}: {_advice(X)}")


def _advice(X: Any) -> str:
    name = type(X).__name__
    if name in ("Series", "Index"):
        return "give X.to_frame() for one column"
    if hasattr(X, "toarray"):
        return "give X.toarray()"
    if hasattr(X, "to_pandas"):
        return "give X.to_pandas()"
    if isinstance(X, dict):
        return "give pd.DataFrame(X)"
    return "give a DataFrame, an array, a tensor, a list of texts or arrays, a path, or the name of a data set"


def _what(X: Any) -> str:
    if isinstance(X, np.ndarray):
        return f"an array of shape {X.shape}"
    if isinstance(X, torch.Tensor):
        return f"a tensor of shape {tuple(X.shape)}"
    return f"a {type(X).__module__.split('.')[0]} {type(X).__name__}".replace("a builtins ", "a ")


def read_table(schema: Schema, X: Any, y: Any = None, *, partial: bool = False, unseen: Unseen = "refuse") -> Table:
    """Later data against a known schema.

    A DataFrame's columns go by name, in any order. Data columns must all be there, unless `partial`, which fills
    absent ones with missing cells; condition, weight, group, time and id columns are read where they are; a column
    the schema has never seen is refused. `y` is labels or numbers for the condition (or its column's name), and
    wins over a column in X. Missing cells are allowed everywhere, in y for labels only (the codec refuses those
    that a family does not take). Unless `unseen` refuses it, a category of a sequence that was never seen is a missing
    step instead of an error.

    Raises `SchemaMismatch`: a renamed, absent or extra column, another shape, an unseen category, another type.
    """
    lenient = unseen != "refuse"
    if schema.container == "long":
        return read_long(schema, X, y, partial=partial, unseen=lenient)
    if schema.container == "dataframe":
        if not is_frame(X):
            columns = ", ".join(str(field.column_name) for field in schema.data_fields[:6])
            raise SchemaMismatch(f"X is {_what(X)}, where a DataFrame with the columns {columns} is wanted")
        return read_frame(schema, X, y, partial=partial, unseen=lenient)
    field = schema.data_fields[0]
    if is_frame(X):
        raise SchemaMismatch("X is a DataFrame, but the schema was made from an array: give X.to_numpy()")
    plain = _read_plain(field, X)
    if field.kind == "text":
        column = text_column(plain, SchemaMismatch)
    elif field.kind == "sequence":
        column = sequence_column(field, plain, SchemaMismatch, unseen=lenient)
    else:
        column = array_column(field, as_array(plain)[0], SchemaMismatch)
    columns_read = {field.name: column}
    if y is not None:
        columns_read |= read_y(schema, y, len(column), step_lengths(field, column)).columns
    return Table(columns_read, len(column))


def _read_plain(field: Field, X: Any) -> Any:
    if field.kind == "text" and isinstance(X, str):
        return [X]
    wants_list = field.kind in ("text", "sequence")
    if wants_list and isinstance(X, list | tuple) and len(X) == 0:
        return []
    if field.kind == "sequence" and field.form is not None and isinstance(X, list | tuple):
        return list(X)  # rows without a single known symbol are not nested lists of numbers
    try:
        plain = _plain(X, SchemaMismatch)
    except SchemaMismatch:
        raise
    except DataError as problem:
        raise SchemaMismatch(str(problem)) from None
    if field.kind == "sequence" and not isinstance(plain, list) and plain.ndim == len(field.shape) + 2:
        return list(plain)  # sequences of one length
    if wants_list != isinstance(plain, list):
        if field.kind == "sequence" and plain.ndim == len(field.shape) + 1:
            raise SchemaMismatch(f"X is {_what(plain)}, where a list of arrays is wanted: for one sequence give [X]")
        wanted = {"text": "a list of texts", "sequence": "a list of arrays"}.get(field.kind, "an array")
        raise SchemaMismatch(f"X is {_what(X)}, where {wanted} is wanted")
    if not wants_list and plain.ndim == 0:
        raise SchemaMismatch("X is a single number: give an array with one row per example")
    return plain


def restore_table(schema: Schema, table: Table, fields: Sequence[str] | None = None) -> Any:
    """The user's form of a table: DataFrame (columns, order, types), ndarray, tensor, images or list.

    A long data frame comes back in the order of the user's rows where the table knows it (`ROWS`), else sequence
    after sequence, numbered from 0 and timed from the earliest training time when the steps are regular.

    `fields` names the columns (default: the data fields). Whole-number types are rounded and clipped to their
    range; a missing cell in a plain int or bool column makes that column nullable (Int64, boolean).
    """
    chosen = schema.data_fields if fields is None else tuple(schema.field(name) for name in fields)
    if schema.container == "dataframe":
        return restore_frame(chosen, table)
    if schema.container == "long":
        return restore_long(schema, table, None if fields is None else chosen)
    if len(chosen) != 1:
        raise DataError(f"data that came as {schema.container} are restored one field at a time: {schema.names}")
    field = chosen[0]
    if field.role == "condition":
        return restore_y(schema, table)
    if field.kind in ("sequence", "text"):
        return restore_list(field, table[field.name], block=schema.container != "list")
    return restore_array(field, table[field.name])


def restore_y(schema: Schema, table: Table) -> Any:
    """The condition of a table in the user's form: Series, array, tensor or list; a DataFrame for several columns; for labels
    per step a list of lists or the like. None when there is no condition, or the table lacks it.
    """
    fields = schema.conditions
    if not fields or any(field.name not in table for field in fields):
        return None
    if len(fields) > 1:
        return restore_frame(fields, table)
    field = fields[0]
    if field.kind == "sequence" and not field.whole:
        return restore_step_labels(field, table[field.name]) if field.form else restore_long_labels(field, table)
    if field.kind in ("image", "sequence") or (field.kind == "text" and field.form == "list"):
        return restore_whole(field, table[field.name])
    return restore_condition(field, table[field.name])


def data_warnings(schema: Schema, table: Table) -> list[str]:
    """What is allowed but worth a look: constant columns, near-unique categories, dark images, crowds of classes."""
    out: list[str] = []
    constant: list[str] = []
    spelled: list[str] = []
    for field in schema.fields:
        if field.name not in table or field.role not in ("data", "target", "condition"):
            continue
        column = table[field.name]
        count = len(field.categories or ())
        if field.kind == "category" and not field.shape and table.n > FEW_ROWS and count > max(0.5 * table.n, FEW_ROWS):
            number = any(not isinstance(value, str) for value in field.categories or ())
            advice = (
                f"these may be {'numbers' if number else 'texts'}: kinds={{'y': {'number' if number else 'text'!r}}}"
                if field.role == "condition"
                else f"if it names rows, give roles={{{field.name!r}: 'id'}}; if it is prose, kinds={{{field.name!r}: 'text'}}"
            )
            out.append(f"column {field.name!r} has {count} categories in {table.n} rows: {advice}")
        if field.spelling is not None:
            what = "dates" if field.kind == "datetime" else "numbers"
            gone = int(field.is_missing(column).sum())
            spelled.append(f"{field.name!r} ({what}{f', {gone} cells without one' if gone else ''})")
        if field.kind == "image" and field.high is not None and column.dtype == np.uint8 and column.size:
            largest = int(column.max())
            if largest <= field.high / 4 and field.high > 1:
                advice = f"if that is white, give X / {largest}" if largest else "they are all black"
                out.append(f"no pixel is above {largest}, though {field.high:g} is possible: {advice}")
        if field.kind in ("number", "integer") and not field.shape and table.n > 1:
            present = column[~np.isnan(column)]
            if len(present) and present.min() == present.max():
                constant.append(f"{field.name!r} ({present[0]:g})")
    if spelled:
        out.append(
            f"text that is read as numbers or dates, and written back as text: {', '.join(spelled[:8])}"
            f"{f' and {len(spelled) - 8} more' if len(spelled) > 8 else ''}. kinds={{column: 'category'}} keeps texts as they are"
        )
    if constant:
        more = f" and {len(constant) - 8} more" if len(constant) > 8 else ""
        out.append(f"constant columns: {', '.join(constant[:8])}{more}")
    return out


FEW_ROWS = 50
