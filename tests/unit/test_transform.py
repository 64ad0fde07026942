"""A `udf` may drop events, order them and make several rows of one: each row is of its event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dill
import pandas as pd
import pyarrow as pa
import pytest

from headwater.catalog import CodeMode, CodePlan
from headwater.errors import HeadwaterError
from headwater.transform import transform_events

EVENTS = pa.table({"x": [5, 1, 4, 1, 3, 2, 1]})


def made(mode: CodeMode, function: Callable[[Any], Any]) -> list[tuple[int, int]]:
    """(event's x, row's x) of each row."""
    table, rows = transform_events(CodePlan("f", mode, dill.dumps(function, recurse=True)), EVENTS)
    given = EVENTS["x"].to_pylist()
    return [(given[at], x) for at, x in zip(rows.tolist(), table["x"].to_pylist(), strict=True)]


def kept(events: dict[str, list[int]]) -> dict[str, list[int]]:
    return {"x": [x for x in events["x"] if x > 1]}


def thrice(events: dict[str, list[int]]) -> dict[str, list[int]]:
    return {"x": [x for x in events["x"] for _ in range(3)]}


def none(events: dict[str, list[int]]) -> dict[str, list[int]]:
    return {"x": []}


def sorted_and_kept(events: pd.DataFrame) -> pd.DataFrame:
    return events[events["x"] > 1].sort_values("x")


def kept_anew(events: pd.DataFrame) -> pd.DataFrame:
    return events[events["x"] > 1].reset_index(drop=True)


@pytest.mark.parametrize(
    ("mode", "function", "xs"),
    [
        ("python", kept, [5, 4, 3, 2]),
        ("python", thrice, [x for x in [5, 1, 4, 1, 3, 2, 1] for _ in range(3)]),
        ("python", none, []),
        ("pandas", sorted_and_kept, [5, 4, 3, 2]),
        ("pandas", kept_anew, [5, 4, 3, 2]),
    ],
)
def test_each_row_is_of_the_event_it_was_made_of(
    mode: CodeMode, function: Callable[[Any], Any], xs: list[int]
) -> None:
    assert made(mode, function) == [(x, x) for x in xs]


def by_x(events: pd.DataFrame) -> pd.DataFrame:
    return events.set_index("x", drop=False)


def test_an_index_that_names_no_event_is_refused() -> None:
    by_offset = EVENTS.set_column(0, "x", pa.array([50, 1, 4, 1, 3, 2, 1]))
    code = CodePlan("f", "pandas", dill.dumps(by_x, recurse=True))
    with pytest.raises(HeadwaterError, match="not that of the events; keep it"):
        transform_events(code, by_offset)
