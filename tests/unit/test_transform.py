"""A `udf` may drop events, order them and make several rows of one: each row is of its event."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import dill
import pandas as pd
import pyarrow as pa
import pytest

from headwater.catalog import CodeMode, CodePlan
from headwater.errors import HeadwaterError
from headwater.transform import failing, transform_events

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


NULLABLE = {
    "a": [7, None, 0, 2**53, -7, None], "b": [0, None, 0, 3, 2, 5],
    "yes": [True, None, False, True, None, False], "word": ["abc", None, "d", None, "", "ef"],
    "at": [datetime(2024, 5, 1, 12), None, datetime(2024, 5, 2), None, datetime(2024, 5, 3), None],
    "x": [1.5, None, None, 0.0, -2.0, 3.0],
}  # fmt: skip
#: What turns on a column's type, which pandas takes from all of its values.
TELLTALES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "whole division": lambda e: e["a"] // e["b"],
    "remainder": lambda e: e["a"] % e["b"],
    "null or not": lambda e: (e["a"] / e["b"]).isna(),
    "filled": lambda e: (e["a"] / e["b"]).fillna(9),
    "mapped": lambda e: e["a"].map(repr),
    "truths": lambda e: e["yes"].astype(str),
    "length": lambda e: e["word"].str.len().astype(str),
    "hour": lambda e: e["at"].dt.hour.astype(str),
    "float": lambda e: e["x"].astype(str),
}


@pytest.mark.parametrize("what", TELLTALES)
def test_what_is_made_of_an_event_does_not_depend_on_the_events_beside_it(what: str) -> None:
    make = TELLTALES[what]
    code = CodePlan(
        "f", "pandas", dill.dumps(lambda e: pd.DataFrame({"made": make(e)}), recurse=True)
    )
    events = pa.table(NULLABLE)

    def made_of(table: pa.Table) -> list[str]:
        found, rows = transform_events(code, table)
        assert rows.tolist() == list(range(table.num_rows))
        numbers = not pa.types.is_string(found["made"].type)
        return [
            repr(float(v) if numbers and v is not None else v) for v in found["made"].to_pylist()
        ]

    alone = [made_of(events.slice(at, 1))[0] for at in range(events.num_rows)]
    assert made_of(events) == alone
    for at in range(events.num_rows - 1):
        assert made_of(events.slice(at, 2)) == alone[at : at + 2]


def test_large_numbers_beside_floating_ones_are_floating() -> None:
    def lengths(events: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame(
            {"sum": events["n"] + events["word"].str.len().astype(float).fillna(0.5)}
        )

    code = CodePlan("f", "pandas", dill.dumps(lengths, recurse=True))
    made, _ = transform_events(code, pa.table({"n": [2**62 + 1, 1], "word": ["ab", None]}))
    assert made["sum"].to_pylist() == [float(2**62), 1.5]


def test_the_udf_of_a_batch_view_gets_all_rows_at_once() -> None:
    code = CodePlan("f", "pandas", dill.dumps(lambda e: e.assign(n=len(e)), recurse=True))
    made, _ = transform_events(code, pa.table(NULLABLE), together=True)
    assert made["n"].to_pylist() == [6] * 6


def test_what_a_function_makes_is_of_the_types_that_are_aggregated() -> None:
    """A text where numbers are summed ended the worker; it is a fault of its events alone."""

    def named(events: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"key": events["x"], "made": events["word"]}

    code = CodePlan("f", "python", dill.dumps(named, recurse=True))
    makes = {"made": pa.float64()}
    events = pa.table({"x": [1, 2, 3, 4], "word": ["1.5", "L3", None, "x"]})
    assert [at for at, _ in failing(code, events, makes=makes)] == [1, 3]
    (_, why), _ = failing(code, events, makes=makes)
    assert "its column 'made' is aggregated as double, and is string" in why
    made, _ = transform_events(code, events.take(pa.array([0, 2])), makes=makes)
    assert made["made"].to_pylist() == [1.5, None]
    with pytest.raises(HeadwaterError, match="it makes no column 'other'"):
        transform_events(code, events, makes={"other": pa.float64()})


def test_numbers_that_are_only_counted_may_be_texts() -> None:
    code = CodePlan("f", "python", dill.dumps(lambda e: {"made": [0.5, float("nan"), None]}))
    made, _ = transform_events(code, pa.table({"x": [1, 2, 3]}), makes={"made": pa.string()})
    assert made["made"].to_pylist() == ["0.5", None, None]
