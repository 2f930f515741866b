"""One pandas column into a `Field`, and its cells into a table column. `restoring` is the way back.

`column_field` decides once what a column is; `column_values` then reads it, and every later column of that name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reverie.data.forms.spelling import Spelling, parse_text, short_text, spelling_of
from reverie.data.schema import Field, Scalar
from reverie.data.table import NO_DATE, Array, hint
from reverie.errors import DataError

WHOLE = 2**53
"""The largest whole number below which every one is exact in float64."""

NATURAL = {
    "bool": "boolean",
    "int": "integer",
    "float": "number",
    "text": "category",
    "category": "category",
    "datetime": "datetime",
}
_POSSIBLE = {
    "bool": ("boolean", "integer", "number", "category"),
    "int": ("integer", "number", "category", "boolean"),
    "float": ("number", "integer", "category", "boolean"),
    "text": ("category", "text", "number", "integer", "datetime"),
    "category": ("category",),
    "datetime": ("datetime",),
}


def family(series: Any, name: str, error: type[DataError] = DataError) -> str:
    """What the cells are: bool, int, float, text, category, datetime, or empty (objects, none present)."""
    import pandas as pd

    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    if isinstance(dtype, pd.StringDtype):
        return "text"
    if isinstance(dtype, pd.SparseDtype):
        raise error(f"column {name!r} is sparse ({dtype}): give X.sparse.to_dense()")
    if isinstance(dtype, pd.PeriodDtype):
        raise error(f"column {name!r} holds periods: convert it with .dt.to_timestamp()")
    if isinstance(dtype, pd.IntervalDtype):
        raise error(f"column {name!r} holds intervals: make it a category with .astype('category')")
    if isinstance(dtype, pd.ArrowDtype):
        return _arrow_family(dtype, name, error)
    kind = getattr(dtype, "kind", "O")
    if kind == "m":
        raise error(f"column {name!r} holds time differences ({dtype}): convert it with .dt.total_seconds()")
    if kind == "c":
        raise error(f"column {name!r} holds complex numbers: give real and imaginary parts as two columns")
    if kind == "f" and getattr(dtype, "itemsize", 8) > 8:
        raise error(f"column {name!r} is {dtype}: convert it with .astype('float64')")
    if kind in "biufM":
        return {"b": "bool", "i": "int", "u": "int", "f": "float", "M": "datetime"}[kind]
    return _object_family(series, name, error)


def _arrow_family(dtype: Any, name: str, error: type[DataError]) -> str:
    found = {"b": "bool", "i": "int", "u": "int", "f": "float", "M": "datetime", "U": "text"}.get(dtype.kind)
    if found is None or (found == "datetime" and "timestamp" not in str(dtype)):
        raise error(
            f"column {name!r} is {dtype}: convert it with .astype('float64'), .astype(str) or pd.to_datetime first"
        )
    return found


def _object_family(series: Any, name: str, error: type[DataError]) -> str:
    import pandas as pd

    seen = pd.api.types.infer_dtype(series, skipna=True)
    plain = {"string": "text", "integer": "int", "floating": "float", "mixed-integer-float": "float", "boolean": "bool"}
    if seen in plain:
        return plain[seen]
    present = series.dropna()
    if seen == "empty" or not len(present):
        return "empty"
    first = present.iloc[0]
    advice = {
        "datetime": "convert it with pd.to_datetime",
        "datetime64": "convert it with pd.to_datetime",
        "date": "convert it with pd.to_datetime",
        "decimal": "convert it with .astype('float64')",
        "bytes": "decode it with .str.decode('utf-8')",
        "complex": "give real and imaginary parts as two columns",
        "timedelta": "convert it with pd.to_timedelta, then .dt.total_seconds()",
    }
    if seen in advice:
        raise error(f"column {name!r} holds objects of type {type(first).__name__}: {advice[seen]}")
    if isinstance(first, list | tuple | dict | set | np.ndarray):
        raise error(
            f"column {name!r} holds a {type(first).__name__} in each cell: spread it over several columns, or give the "
            "arrays as a list (images as one array, sequences as a list of arrays)"
        )
    types = [type(value) for value in present]
    second = next((value for value, kind in zip(present, types, strict=True) if kind is not types[0]), None)
    if second is None:
        raise error(f"column {name!r} holds {types[0].__name__} objects, such as {short_text(first)}: convert it first")
    raise error(
        f"column {name!r} mixes types, such as {short_text(first)} and {short_text(second)}: make it one type, "
        f"X[{name!r}].astype(str) for a category or pd.to_numeric(X[{name!r}], errors='coerce') for numbers"
    )


def dtype_text(dtype: Any) -> str:
    """The type as text that `restoring.to_dtype` turns into that type again."""
    import pandas as pd

    if isinstance(dtype, pd.ArrowDtype):
        return f"arrow:{dtype.pyarrow_dtype}"
    if isinstance(dtype, pd.StringDtype):
        usual = pd.StringDtype().storage
        return str(dtype) if dtype.storage == usual else f"{dtype}[{dtype.storage}]"
    return str(dtype)


def column_field(label: Any, series: Any, *, role: str = "data", kind: str | None = None) -> Field:
    """Describe a column: its kind (or the kind asked for), type, categories. Reads every cell once.

    Raises `DataError` for mixed types, no value at all, or a kind that does not fit the cells.
    """
    name = str(label)
    number = int(label) if isinstance(label, int | np.integer) else None
    if role == "ignore":
        return Field(name, "text", role, dtype=str(series.dtype), label=number)
    cells = family(series, name)
    missing = series.isna().to_numpy(dtype=bool)
    if cells == "empty" or bool(missing.all()):
        raise DataError(f'column {name!r} has no value in any row: drop it or give roles={{"{name}": "ignore"}}')
    marker = _marker(series, missing) if series.dtype == object else None
    nullable = bool(missing.any())
    base: dict[str, Any] = {"dtype": dtype_text(series.dtype), "nullable": nullable, "missing": marker, "label": number}
    spelling = spelling_of(series) if kind is None and cells == "text" and role in ("data", "target") else None
    if spelling is not None:
        return _spelled_field(name, series, role, base, spelling)
    if kind is None and role in ("id", "group"):
        return Field(name, "text", role, **base)
    chosen = kind or NATURAL[cells]
    if chosen not in _POSSIBLE[cells]:
        raise DataError(
            f"column {name!r} ({series.dtype}) cannot be of kind {chosen!r}: possible are {', '.join(_POSSIBLE[cells])}"
        )
    if cells == "text" and chosen in ("number", "integer", "datetime"):
        parsed = parse_text(series, name, chosen, DataError)
        text = dtype_text(parsed.dtype) if chosen == "datetime" else "float64"
        return Field(
            name, chosen, role, dtype=text, nullable=bool(parsed.isna().any()), parsed=True, label=base["label"]
        )
    if chosen == "category":
        return _category_field(name, series, role, base)
    if chosen == "datetime":
        _check_zone(series, name)
    return Field(name, chosen, role, **base)


def _spelled_field(name: str, series: Any, role: str, base: dict[str, Any], spelling: Spelling) -> Field:
    """A text column of numbers or dates: its kind is theirs, its type the one it has."""
    values = spelling.read(series)
    chosen = spelling.kind
    if chosen == "number" and not spelling.digits and not spelling.suffix.strip().startswith("%"):
        chosen = "integer"
    nullable = bool(values.isna().any())
    return Field(name, chosen, role, **{**base, "nullable": nullable}, spelling=spelling.pack())


def _category_field(name: str, series: Any, role: str, base: dict[str, Any]) -> Field:
    import pandas as pd

    if isinstance(series.dtype, pd.CategoricalDtype):
        raw = list(series.dtype.categories)
        categories = tuple(scalar(value, name) for value in raw)
        extra: dict[str, Any] = {
            "ordered": bool(series.dtype.ordered),
            "categories_dtype": dtype_text(series.dtype.categories.dtype),
        }
    else:
        categories = tuple(sorted({scalar(value, name) for value in pd.unique(series.dropna())}))
        extra = {}
    if len(set(categories)) != len(categories):
        raise DataError(f"column {name!r}: two categories are equal as text or number: rename one")
    return Field(name, "category", role, categories=categories, **base, **extra)


def _check_zone(series: Any, name: str) -> None:
    import pandas as pd

    dtype = series.dtype
    if isinstance(dtype, pd.DatetimeTZDtype):
        try:
            known = pd.api.types.pandas_dtype(str(dtype)) == dtype
        except (TypeError, ValueError):
            known = False
        if not known:
            raise DataError(f"column {name!r}: time zone {dtype.tz} has no name: convert it with .dt.tz_convert('UTC')")


def column_values(field: Field, series: Any, error: type[DataError], *, unseen: bool = False) -> Array:
    """The cells as a table column of this field, shape (n,). Raises `error` naming column, row and value; with `unseen`
    a category that was never seen is missing."""
    if field.kind == "text":
        return _text(field, series)
    if field.kind == "category":
        return category_codes(field, series, error, unseen=unseen)
    cells = family(series, field.name, error)
    if field.spelling is not None and cells == "text":
        series = _read_spelled(field, series, error)
        cells = "datetime" if field.kind == "datetime" else "float"
    if field.parsed and cells == "text":
        series = parse_text(series, field.name, field.kind, error)
        cells = "datetime" if field.kind == "datetime" else "float"
    if cells == "empty":
        if field.kind == "boolean":
            return np.full(len(series), -1, np.int8)
        return np.full(len(series), NO_DATE) if field.kind == "datetime" else np.full(len(series), np.nan)
    if field.kind == "datetime":
        return _nanoseconds(field, series, cells, error)
    if cells not in ("bool", "int", "float"):
        raise error(
            f"column {field.name!r} is of kind {field.kind} but holds {cells}, such as "
            f"{short_text(series.dropna().iloc[0])}: convert it, for instance with pd.to_numeric"
        )
    values = _floats(series, field.name, cells, error)
    if field.kind == "number":
        return values.astype(np.float32) if field.dtype.lower() in ("float32", "float16", "arrow:float") else values
    whole = (values == np.round(values)) | np.isnan(values)
    if field.kind == "integer" and not whole.all():
        row = int(np.argmin(whole))
        raise error(f"column {field.name!r} is of whole numbers, but row {row} has {values[row]:g}")
    if field.kind == "boolean":
        known = np.isnan(values) | (values == 0) | (values == 1)
        if not known.all():
            row = int(np.argmin(known))
            raise error(f"column {field.name!r} is true or false (1 or 0), but row {row} has {values[row]:g}")
        return np.where(np.isnan(values), -1, values).astype(np.int8)
    return values


def _read_spelled(field: Field, series: Any, error: type[DataError]) -> Any:
    """The numbers or dates of a spelled column. Raises `error` when most of its cells are none."""
    assert field.spelling is not None
    spelling = Spelling.unpack(field.spelling)
    values = spelling.read(series)
    odd = values.isna() & series.notna() & (series.astype(str).str.strip() != "")
    if len(series) > 0 and odd.mean() > 0.5:
        row = int(np.argmax(odd.to_numpy(dtype=bool)))
        raise error(
            f"column {field.name!r}, row {row}: {short_text(series.iloc[row])} is no {spelling.kind} as this column spelled them in "
            "training"
        )
    return values


def category_codes(
    field: Field, series: Any, error: type[DataError], *, what: str | None = None, unseen: bool = False
) -> Array:
    """int64 codes into `field.categories`, -1 where missing. An unseen value raises `error` naming it, or is missing
    with `unseen`."""
    import pandas as pd

    where = what or f"column {field.name!r}"
    codes, uniques = pd.factorize(series)
    lookup = {value: code for code, value in enumerate(field.categories or ())}
    table = np.full(len(uniques) + 1, -1, np.int64)
    for position, value in enumerate(uniques):
        key = scalar(value, field.name)
        # 1 == True == 1.0 in Python, which is wanted between int and float, but text never equals a number.
        if key not in lookup and unseen:
            continue
        if key not in lookup:
            row = int(np.argmax(codes == position))
            raise error(f"{where}: {short_text(key)} (row {row}) is not a known value{_known(field, key)}")
        table[position] = lookup[key]
    return np.asarray(table[codes])


def _known(field: Field, key: Scalar) -> str:
    known = field.categories or ()
    close = hint(str(key), [str(value) for value in known])
    shown = ", ".join(short_text(value) for value in known[:12]) + (
        f", ... {len(known)} in all" if len(known) > 12 else ""
    )
    return f"{close} Known: {shown}"


def scalar(value: Any, name: str) -> Scalar:
    """A category as a JSON scalar: dates and intervals become text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | bool | int | float):
        return str(value) if isinstance(value, str) else value
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    if type(value).__name__ == "Interval":
        return str(value)
    raise DataError(
        f"column {name!r}: a category may be text, number, bool, date or interval, but {short_text(value)} is a "
        f"{type(value).__name__}: convert it with .astype(str)"
    )


def _floats(series: Any, name: str, cells: str, error: type[DataError]) -> Array:
    """float64 cells, NaN where missing. Refuses infinities and whole numbers beyond 2**53."""
    if cells == "int":
        present = series.dropna()
        if len(present) and max(int(present.max()), -int(present.min())) > WHOLE:
            row = int(
                np.argmax([abs(int(v)) > WHOLE if ok else False for v, ok in zip(series, series.notna(), strict=True)])
            )
            raise error(
                f"column {name!r}, row {row}: {series.iloc[row]} is beyond 2**53, where floats skip whole numbers: "
                f'scale it, or give roles={{"{name}": "id"}} if it names rows'
            )
    if series.dtype == object:
        missing = series.isna().to_numpy(dtype=bool)
        values = np.array([np.nan if m else float(v) for v, m in zip(series, missing, strict=True)], dtype=np.float64)
    else:
        values = np.asarray(series.to_numpy(dtype="float64", na_value=np.nan))
    if np.isinf(values).any():
        row = int(np.argmax(np.isinf(values)))
        raise error(
            f"column {name!r}, row {row} is {values[row]}: replace infinities, "
            f"for instance X[{name!r}].replace([np.inf, -np.inf], np.nan)"
        )
    return values


def _nanoseconds(field: Field, series: Any, cells: str, error: type[DataError]) -> Array:
    """int64 nanoseconds since 1970 in UTC, `NO_DATE` where missing."""
    import pandas as pd

    if cells != "datetime":
        raise error(
            f"column {field.name!r} held dates, but now holds {cells}, such as {short_text(series.dropna().iloc[0])}: "
            "convert it with pd.to_datetime"
        )
    if isinstance(series.dtype, pd.ArrowDtype):
        arrow = series.dtype.pyarrow_dtype
        plain = f"datetime64[{arrow.unit}" + (f", {arrow.tz}]" if arrow.tz else "]")
        series = series.astype(plain)
    aware, wanted = isinstance(series.dtype, pd.DatetimeTZDtype), is_aware(field.dtype)
    if aware != wanted:
        raise error(
            f"column {field.name!r} {'has' if wanted else 'had no'} time zone in the schema "
            f"{'but none' if wanted else 'but has one'} now: use .dt.tz_{'localize(...)' if wanted else 'localize(None)'}"
        )
    if aware:
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
    try:
        return np.asarray(series.dt.as_unit("ns").to_numpy().view(np.int64))
    except (ValueError, OverflowError):
        limit = pd.Timestamp.max.as_unit("s"), pd.Timestamp.min.as_unit("s")
        row = int(np.argmax(((series > limit[0]) | (series < limit[1])).to_numpy()))
        raise error(
            f"column {field.name!r}, row {row}: {series.iloc[row]} lies outside the years 1678 to 2261 that "
            "nanoseconds can hold: correct it or leave it missing"
        ) from None


def is_aware(dtype: str) -> bool:
    """Does this date type, as text, carry a time zone?"""
    return ", tz=" in dtype or (dtype.startswith("datetime64") and "," in dtype)


def _text(field: Field, series: Any) -> Array:
    out = np.empty(len(series), dtype=object)
    missing = series.isna().to_numpy(dtype=bool)
    for row, value in enumerate(series):
        out[row] = None if missing[row] else str(value)
    if field.role not in ("id", "ignore") and missing.any():
        raise DataError(
            f"column {field.name!r} ({field.role}, text) is missing in row {int(np.argmax(missing))}: fill it, "
            f"for instance X[{field.name!r}].fillna('')"
        )
    return out


def _marker(series: Any, missing: Array) -> str | None:
    """How the object column spells missing, judged by its first missing cell."""
    if not missing.any():
        return None
    value = series.iloc[int(np.argmax(missing))]
    return "None" if value is None else "nan" if isinstance(value, float) else "NA"
