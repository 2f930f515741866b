"""Table columns back into pandas columns of the type the user had."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from reverie.data.forms.series import WHOLE
from reverie.data.forms.spelling import Spelling
from reverie.data.schema import Field
from reverie.data.table import Array


def to_dtype(text: str) -> Any:
    """The pandas or numpy type that `series.dtype_text` wrote."""
    import pandas as pd

    if text.startswith("arrow:"):
        import pyarrow as pa

        return (
            pd.ArrowDtype(pa.string()) if text == "arrow:string" else pd.api.types.pandas_dtype(f"{text[6:]}[pyarrow]")
        )
    name, _, storage = text.partition("[")
    if name in ("str", "string"):
        option = {"storage": storage.rstrip("]")} if storage else {}
        if name == "string":
            return pd.StringDtype(**option)
        try:
            return pd.StringDtype(**option, na_value=np.nan)
        except TypeError:  # pandas < 2.3 has no such type
            return np.dtype(object)
    return pd.api.types.pandas_dtype(text)


def restore_column(field: Field, column: Array) -> Any:
    """A pandas Series of `field.dtype`. Whole numbers are rounded and clipped to the type's range."""
    import pandas as pd

    missing = field.is_missing(column)
    if field.spelling is not None:
        return _spelled(field, column, missing)
    if field.kind == "datetime":
        return _dates(field, column)
    if field.kind == "category":
        values = _from_codes(field, column, missing)
    elif field.kind == "text":
        values = _cast_text(field, column, missing)
    else:
        values = _cast(field, column.astype(np.float64) if field.kind == "boolean" else column, missing)
    # The type is given, or pandas would turn objects that happen to be text into str.
    return pd.Series(values, dtype=values.dtype)


def _spelled(field: Field, column: Array, missing: Array) -> Any:
    """Numbers and dates as the user's column spells them."""
    import pandas as pd

    assert field.spelling is not None
    spelling = Spelling.unpack(field.spelling)
    texts = np.empty(len(column), dtype=object)
    texts[:] = spelling.write(column, missing)
    values = _cast_text(field, texts, missing & (spelling.blank is None))
    return pd.Series(values, dtype=values.dtype)


def _cast(field: Field, values: Array, missing: Array) -> Any:
    """Numbers, integers and booleans into the type named by the field."""
    import pandas as pd

    dtype = to_dtype(field.dtype)
    filled = np.where(missing, 0, values)
    if dtype == np.dtype(object):
        plain = {"integer": np.rint(filled).astype(np.int64), "boolean": np.asarray(filled >= 0.5)}
        return _objects(plain.get(field.kind, filled.astype(np.float64)).tolist(), field, missing)
    kind_code = getattr(dtype, "kind", "O")
    if kind_code == "b":
        filled = filled >= 0.5
    elif kind_code in "iu":
        filled = whole(filled, np.dtype(getattr(dtype, "numpy_dtype", dtype)))
    elif isinstance(dtype, np.dtype):
        limit = float(np.finfo(dtype).max) if dtype.kind == "f" else np.inf
        return np.where(missing, np.nan, np.clip(filled, -limit, limit)).astype(dtype)
    if not missing.any():
        return pd.array(filled, dtype=dtype) if not isinstance(dtype, np.dtype) else filled.astype(dtype)
    if isinstance(dtype, np.dtype):
        # The plain type has no missing value; its nullable sister has.
        sister = "boolean" if kind_code == "b" else dtype.name.replace("uint", "UInt").replace("int", "Int")
        dtype = pd.api.types.pandas_dtype(sister)
    out = pd.array(filled, dtype=dtype)
    out[missing] = pd.NA
    return out


def whole(values: Array, dtype: np.dtype[Any]) -> Array:
    """Round to whole numbers and clip to the range of an integer type (and to 2**53, where floats stop being exact)."""
    info = np.iinfo(dtype)
    low, high = max(info.min, -WHOLE), min(info.max, WHOLE)
    return np.asarray(np.clip(np.rint(values.astype(np.float64)), low, high).astype(dtype))


def _from_codes(field: Field, codes: Array, missing: Array) -> Any:
    import pandas as pd

    values = field.categories or ()
    if field.dtype == "category":
        index = _categories(values, field.categories_dtype or "object")
        return pd.Categorical.from_codes(codes, categories=index, ordered=field.ordered)
    if field.dtype.split("[")[0] in ("str", "string", "object") or field.dtype == "arrow:string":
        lookup = np.empty(len(values) + 1, dtype=object)
        lookup[:-1] = values
        return _cast_text(field, lookup[codes], missing)
    numbers = np.array([*values, 0], dtype=np.float64)[codes]
    return _cast(field, numbers, missing)


def _categories(values: tuple[Any, ...], dtype: str) -> Any:
    import pandas as pd

    if dtype.startswith("interval"):
        found = re.match(r"interval\[(\w+), (\w+)\]", dtype)
        number = float if found is None or found[1].startswith("float") else int
        ends = [tuple(number(end) for end in str(value)[1:-1].split(",")) for value in values]
        return pd.IntervalIndex.from_tuples(ends, closed=found[2] if found else "right", dtype=dtype)
    if dtype == "object":
        return pd.Index(list(values), dtype=object)
    return pd.Index(list(values), dtype=to_dtype(dtype))


def _cast_text(field: Field, values: Array, missing: Array) -> Any:
    """Text cells (or category values) into str, string, object; for ids also whole numbers and the like."""
    import pandas as pd

    dtype = to_dtype(field.dtype)
    if dtype == np.dtype(object):
        return _objects(list(values), field, missing)
    if isinstance(dtype, np.dtype) and dtype.kind in "iu":
        return np.array([int(value) for value in values], dtype=dtype)
    if isinstance(dtype, np.dtype) and dtype.kind == "b":
        return np.array([value == "True" for value in values], dtype=dtype)
    text = pd.Series([None if m else v for v, m in zip(values, missing, strict=True)], dtype=object)
    if isinstance(dtype, pd.CategoricalDtype):
        return text.astype("category").array
    if getattr(dtype, "kind", "O") in "iuf":
        return pd.to_numeric(text).astype(dtype).array
    return text.astype(dtype).array


def _objects(values: list[Any], field: Field, missing: Array) -> Array:
    marker: Any = None
    if field.missing == "nan":
        marker = np.nan
    elif field.missing == "NA":
        import pandas as pd

        marker = pd.NA
    out = np.empty(len(values), dtype=object)
    for row, (value, absent) in enumerate(zip(values, missing, strict=True)):
        out[row] = marker if absent else value
    return out


def _dates(field: Field, column: Array) -> Any:
    import pandas as pd

    dtype = to_dtype(field.dtype)
    series = pd.Series(column.astype(np.int64).view("datetime64[ns]"))
    if isinstance(dtype, pd.ArrowDtype):
        arrow = dtype.pyarrow_dtype
        unit, zone = arrow.unit, arrow.tz
    else:
        unit = dtype.unit if isinstance(dtype, pd.DatetimeTZDtype) else np.datetime_data(dtype)[0]
        zone = dtype.tz if isinstance(dtype, pd.DatetimeTZDtype) else None
    series = series.dt.as_unit(unit)
    if zone is not None:
        series = series.dt.tz_localize("UTC").dt.tz_convert(zone)
    return series.astype(dtype) if isinstance(dtype, pd.ArrowDtype) else series
