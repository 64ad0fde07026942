"""Runs the functions that Feast's registry holds: a stream view's `udf`, an on-demand view."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import dill
import numpy as np
import pyarrow as pa

from headwater.catalog import CodePlan
from headwater.errors import HeadwaterError


@lru_cache(maxsize=256)
def load(body: bytes) -> Any:
    """The function of a `CodePlan`; its payload comes from Feast's registry and nowhere else."""
    return dill.loads(body)  # noqa: S301 (the registry is the project's own code)


def _nullable(events: pa.Table) -> Any:
    """Integers and booleans that have nulls stay what they are, and are not made floats or objects.

    What a function sees of an event must not depend on the events beside it.
    """
    import pandas as pd

    types: dict[Any, Any] = {
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
    }
    with_nulls = {column.type for column in events.columns if column.null_count}
    return {kind: dtype for kind, dtype in types.items() if kind in with_nulls}.get


def transform_events(code: CodePlan, events: pa.Table) -> tuple[pa.Table, Any]:
    """Decoded events through a stream view's `udf`.

    Pandas mode takes and returns a DataFrame; python mode a dict of equally long lists. It may drop
    events and make several rows of one. Pandas' index tells which event a row is of; where it does
    not (python mode, a new index), and there are not as many rows as events, fewer events are given
    at once, until it is plain. Returns the new columns in the order of the events and, for each of
    their rows, its position in `events` (int64 [rows], ascending). Raises HeadwaterError naming the
    function.
    """
    try:
        table, rows = _transformed(code, load(code.body), events)
        if (np.diff(rows) < 0).any():  # a state takes events in the order of their offsets
            order = np.argsort(rows, kind="stable")
            table, rows = table.take(pa.array(order)), rows[order]
        return table, rows
    except Exception as error:
        raise HeadwaterError(
            f"transformation {code.name!r} failed on {events.num_rows} events: "
            f"{type(error).__name__}: {error}"
        ) from error


def _transformed(code: CodePlan, function: Any, events: pa.Table) -> tuple[pa.Table, Any]:
    n = events.num_rows
    if code.mode == "pandas":
        frame = function(events.to_pandas(types_mapper=_nullable(events)))
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


def failing(code: CodePlan, events: pa.Table, first: int = 0) -> list[tuple[int, str]]:
    """The events on which a function fails, each with the reason, found by halving."""
    try:
        transform_events(code, events)
    except HeadwaterError as error:
        n = events.num_rows
        if n == 1:
            return [(first, str(error))]
        half = n // 2
        low, high = events.slice(0, half), events.slice(half)
        return [*failing(code, low, first), *failing(code, high, first + half)]
    return []
