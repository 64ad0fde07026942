"""Runs the functions that Feast's registry holds: a stream view's `udf`, an on-demand view."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import dill
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.arrow import arrow_type
from headwater.catalog import CodePlan, ViewPlan
from headwater.errors import HeadwaterError


@lru_cache(maxsize=256)
def load(body: bytes) -> Any:
    """The function of a `CodePlan`; its payload comes from Feast's registry and nowhere else."""
    return dill.loads(body)  # noqa: S301 (the registry is the project's own code)


def _frame(events: pa.Table) -> Any:
    """Integers and booleans stay what they are: where some are null, all have pandas' types for
    that, and are no floats and no objects."""
    import pandas as pd

    types: dict[Any, Any] = {
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
    }
    some_null = any(c.null_count for c in events.columns if c.type in types)
    return events.to_pandas(types_mapper=types.get if some_null else None)


def columns_made(view: ViewPlan) -> dict[str, pa.DataType]:
    """What a windowed view's `udf` must make: the columns that are aggregated, and their types."""
    return {
        a.column: arrow_type(a.column_type) for a in view.aggregations if a.column not in {"", "*"}
    }


def transform_events(
    code: CodePlan, events: pa.Table, together: bool = False,
    makes: Mapping[str, pa.DataType] = MappingProxyType({}),
) -> tuple[pa.Table, Any]:  # fmt: skip
    """Decoded events through a view's `udf`.

    Pandas mode takes and returns a DataFrame; python mode a dict of equally long lists. A frame's
    events are null in the same columns (`_alike`), since a column with nulls has another type
    and is computed with otherwise (1 // 0, `.dt.hour.astype(str)`): what is made of an event must
    not depend on the events beside it. `together`: all in one frame. makes: `columns_made`.

    A function may drop events and make several rows of one. Pandas' index tells which event a row
    is of; where it does not (python mode, a new index), and there are not as many rows as events,
    fewer events are given at once, until it is plain. Returns the new columns in the order of the
    events and, for each of their rows, its position in `events` (int64 [rows], ascending). Raises
    HeadwaterError naming the function.
    """
    try:
        function = load(code.body)
        parts = [None] if together or code.mode != "pandas" else _alike(events)
        if len(parts) == 1:
            table, rows = _transformed(code, function, events)
        else:
            made = [_transformed(code, function, events.take(pa.array(part))) for part in parts]
            table = _joined([t for t, _ in made])
            rows = np.concatenate([part[at] for part, (_, at) in zip(parts, made, strict=True)])
        table = _of_types(table, makes)
        if (np.diff(rows) < 0).any():  # a state takes events in the order of their offsets
            order = np.argsort(rows, kind="stable")
            table, rows = table.take(pa.array(order)), rows[order]
        return table, rows
    except Exception as error:
        raise HeadwaterError(
            f"transformation {code.name!r} failed on {events.num_rows} events: "
            f"{type(error).__name__}: {error}"
        ) from error


def _of_types(table: pa.Table, makes: Mapping[str, pa.DataType]) -> pa.Table:
    """The table with its aggregated columns as the types that they are aggregated as."""
    for name, kind in makes.items() if table.num_rows else ():
        if name not in table.column_names:
            raise ValueError(f"it makes no column {name!r}; it makes {table.column_names}")
        at = table.column_names.index(name)
        column = table.column(at)
        if column.type == kind:
            continue
        if kind == pa.string() and pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)
        try:
            table = table.set_column(at, name, column.cast(kind))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(
                f"its column {name!r} is aggregated as {kind}, and is {column.type}: {error}. "
                "Declare in the view's schema what its features are"
            ) from error
    return table


def _joined(tables: list[pa.Table]) -> pa.Table:
    """One table of several; a column that is whole here and floating there is floating."""
    schema = pa.unify_schemas([table.schema for table in tables], promote_options="permissive")
    return pa.concat_tables(
        [table.select(schema.names).cast(schema, safe=False) for table in tables]
    )


def _alike(events: pa.Table) -> list[Any]:
    """The positions of the events that are null in the same columns, floats aside; integers and
    booleans count as one column (`_frame`)."""
    whole = np.zeros(events.num_rows, np.bool_)
    others = []
    for column in events.columns:
        kind = column.type
        if not column.null_count or pa.types.is_floating(kind):
            continue
        nulls = np.asarray(column.is_null())
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            whole |= nulls
        else:
            others.append(nulls)
    pattern = np.zeros(events.num_rows, np.int64)
    for nulls in (whole, *others):
        pattern = np.unique(2 * pattern + nulls, return_inverse=True)[1]
    order = np.argsort(pattern, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(pattern[order])) + 1)


def _transformed(code: CodePlan, function: Any, events: pa.Table) -> tuple[pa.Table, Any]:
    n = events.num_rows
    if code.mode == "pandas":
        frame = function(_frame(events))
        table, rows = pa.Table.from_pandas(frame, preserve_index=False), _labels(frame.index)
    else:
        table, rows = pa.table(function(events.to_pydict())), None
    if rows is None:
        made = table.num_rows
        if made not in {0, n} and n > 1:
            half = n // 2
            parts = [_transformed(code, function, events.slice(*at)) for at in ((0, half), (half,))]
            (low, first), (high, second) = parts
            table = pa.concat_tables([low, high], promote_options="permissive")
            return table, np.concatenate([first, second + half])
        rows = np.arange(made, dtype=np.int64) if made == n else np.zeros(made, np.int64)
    elif len(rows) and not 0 <= rows.min() <= rows.max() < n:
        raise ValueError("the index of its rows is not that of the events; keep it")
    return table, rows


def _labels(index: Any) -> Any:
    """The events that a frame's rows are of; None where the index only counts the rows."""
    import pandas as pd

    counts = isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1
    return None if counts else np.asarray(index, np.int64)


def failing(
    code: CodePlan, events: pa.Table, first: int = 0,
    makes: Mapping[str, pa.DataType] = MappingProxyType({}),
) -> list[tuple[int, str]]:  # fmt: skip
    """The events on which a function fails, each with the reason, found by halving."""
    try:
        transform_events(code, events, makes=makes)
    except HeadwaterError as error:
        n = events.num_rows
        if n == 1:
            return [(first, str(error))]
        half = n // 2
        low, high = events.slice(0, half), events.slice(half)
        return [*failing(code, low, first, makes), *failing(code, high, first + half, makes)]
    return []
