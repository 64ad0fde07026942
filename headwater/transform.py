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

    Pandas mode takes and returns a DataFrame and may drop rows by its index; python mode takes
    and returns a dict of equally long lists. Returns the new columns and, for each of their rows,
    its position in `events` (int64 [rows]). Raises HeadwaterError naming the function.
    """
    function = load(code.body)
    try:
        if code.mode == "pandas":
            frame = function(events.to_pandas(types_mapper=_nullable(events)))
            rows = np.asarray(frame.index, np.int64)
            return pa.Table.from_pandas(frame, preserve_index=False), rows
        columns = function(events.to_pydict())
        return pa.table(columns), np.arange(events.num_rows, dtype=np.int64)
    except Exception as error:
        raise HeadwaterError(
            f"transformation {code.name!r} failed on {events.num_rows} events: "
            f"{type(error).__name__}: {error}"
        ) from error


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
