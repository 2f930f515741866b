"""The figures of a report: samples beside real rows, closest pairs, columns, training curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from reverie.evaluation.features import image_fields
from reverie.evaluation.pages.pictures import Figure, curves, image_grid, marginal, scatter
from reverie.evaluation.rows import number

if TYPE_CHECKING:
    from reverie.data.schema import Field, Schema
    from reverie.data.table import Table
    from reverie.evaluation.protocol import Judged
    from reverie.evaluation.yardstick import View, Yardstick
    from reverie.metrics import Pairs

SHOWN_IMAGES, SHOWN_ROWS, SHOWN_PAIRS, SHOWN_COLUMNS, SHOWN_CELLS = 32, 6, 8, 12, 8


def figures(
    model: Judged, yardstick: Yardstick, tables: list[Table], views: list[View], pairs: Pairs | None
) -> list[Figure]:
    """All figures of one model's report, in reading order."""
    real = yardstick.test.table
    made = tables[0]
    out = sample_figures(yardstick, made, views[0], "Generated")
    if image_fields(yardstick.schema):
        out = [*real_figures(yardstick), *out]
    elif not out:
        out = _row_tables(yardstick.schema, real, made)
    if pairs is not None and yardstick.train is not None:
        out += _pair_figures(yardstick.schema, _joined(tables), yardstick.train.table, pairs)
    return [*out, *_column_figures(yardstick, views[0]), *curves(model.history)]


def real_figures(yardstick: Yardstick) -> list[Figure]:
    """Grids of real test images."""
    return [_grid(field, yardstick.test.table, "Real") for field in image_fields(yardstick.schema)]


def sample_figures(yardstick: Yardstick, made: Table, view: View, title: str) -> list[Figure]:
    """Grids of generated images, or the scatter plot of two numeric columns; nothing for other tables."""
    out = [_grid(field, made, title) for field in image_fields(yardstick.schema)]
    columns = yardstick.view_of_pool.columns
    if len(columns) == 2 and all(column.levels is None for column in columns):
        real = np.stack([column.values for column in columns], axis=1)[yardstick.reference(0)]
        points = np.stack([column.values for column in view.columns], axis=1)
        if np.isfinite(real).all(axis=1).any():
            out.append(scatter(real, points, (columns[0].name, columns[1].name)))
    return out


def _grid(field: Field, table: Table, title: str) -> Figure:
    images = table[field.name][:SHOWN_IMAGES]
    alt = f"Grid of {len(images)} {title.lower()} images of {field.shape[0]} by {field.shape[1]} pixels"
    return image_grid(images, field.high, section="samples", title=title, alt=alt, low=field.low or 0.0)


def _row_tables(schema: Schema, real: Table, made: Table) -> list[Figure]:
    header = _header(schema)
    out = []
    for title, table in (("Generated rows", made), ("Real rows", real)):
        cells = tuple(_cells(schema, table, row) for row in range(min(SHOWN_ROWS, table.n)))
        out.append(Figure("samples", title, title, _more(schema), header=header, cells=cells))
    return out


def _pair_figures(schema: Schema, made: Table, train: Table, pairs: Pairs) -> list[Figure]:
    """The generated rows that come closest to the training data, each with its nearest training row."""
    made, train = made.take(pairs.generated[:SHOWN_PAIRS]), train.take(pairs.train[:SHOWN_PAIRS])
    distances = [number(float(d)) for d in pairs.distance[:SHOWN_PAIRS]]
    shown = len(distances)
    images = image_fields(schema)
    if images:
        field = images[0]
        both = np.concatenate([made[field.name], train[field.name]])
        caption = f"Top: generated. Bottom: nearest training image. Distances {', '.join(distances)}."
        alt = f"{shown} generated images above the training images nearest to them"
        return [image_grid(both, field.high, section="pairs", title="Closest to the training data", alt=alt, columns=shown, caption=caption, low=field.low or 0.0)]  # fmt: skip
    header = ("distance", "row", *_header(schema))
    cells: list[tuple[str, ...]] = []
    for row in range(shown):
        cells.append((distances[row], "generated", *_cells(schema, made, row)))
        cells.append(("", "training", *_cells(schema, train, row)))
    title = "Closest to the training data"
    return [Figure("pairs", title, title, _more(schema), header=header, cells=tuple(cells))]


def _column_figures(yardstick: Yardstick, view: View) -> list[Figure]:
    """Marginal plots of the columns that differ most (12 at most)."""
    real = yardstick.view_of_pool.take(yardstick.reference(0)).columns
    if not real:
        return []
    from reverie.metrics import marginal_distance

    worst = sorted(range(len(real)), key=lambda i: -marginal_distance(real[i], view.columns[i]))[:SHOWN_COLUMNS]
    kinds = {field.name: field for field in yardstick.schema.data_fields}
    out = []
    for i in sorted(worst):
        field = kinds.get(real[i].name)
        levels = [str(level) for level in (field.categories or ())] if field is not None else []
        if field is not None and field.kind == "boolean":
            levels = ["false", "true"]
        out.append(marginal(real[i], view.columns[i], levels, dates=field is not None and field.kind == "datetime"))
    return out


def _header(schema: Schema) -> tuple[str, ...]:
    """Names of the first columns, a block of numbers taking one each."""
    names = [
        field.name if not _is_block(field) else f"{field.name}[{position}]"
        for field in schema.data_fields
        for position in range(field.width if _is_block(field) else 1)
    ]
    return tuple(names[:SHOWN_CELLS])


def _cells(schema: Schema, table: Table, row: int) -> tuple[str, ...]:
    """The first cells of a row as text, under `_header`."""
    out: list[str] = []
    for field in schema.data_fields:
        if len(out) >= SHOWN_CELLS:
            break
        value = table[field.name][row]
        out += (
            [_cell(field, item) for item in np.asarray(value).reshape(-1)]
            if _is_block(field)
            else [_cell(field, value)]
        )
    return tuple(out[:SHOWN_CELLS])


def _is_block(field: Field) -> bool:
    return bool(field.shape) and field.kind in ("number", "integer", "boolean", "category", "datetime")


def _cell(field: Field, value: Any) -> str:
    """One scalar cell as short text."""
    if field.kind == "category":
        return "–" if value < 0 else str((field.categories or ())[int(value)])
    if field.kind == "boolean":
        return {0: "false", 1: "true"}.get(int(value), "–")
    if field.kind == "datetime":
        date = np.datetime64(int(value), "ns")
        return "–" if np.isnat(date) else str(date.astype("datetime64[s]")).replace("T00:00:00", "")
    if field.kind in ("number", "integer"):
        as_float = float(value)
        whole = as_float.is_integer() and (abs(as_float) < 1e6 or field.kind == "integer")
        return f"{as_float:,.0f}".replace("-", "−") if whole else number(as_float)
    text = str(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _more(schema: Schema) -> str:
    hidden = sum(field.width if _is_block(field) else 1 for field in schema.data_fields) - SHOWN_CELLS
    return f"{hidden} more columns are not shown." if hidden > 0 else ""


def _joined(tables: list[Table]) -> Table:
    from reverie.data.table import Table

    return Table.concat(tables)
