"""Numbers of every size as features of every declared type: three ways to read, one answer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headwater.arrow import ARROW_TYPES
from headwater.catalog import AggregationPlan, column_kind
from headwater.codec import pack_sections
from headwater.label_windows import EventPart, KeyedEvents, windows_at
from headwater.times import FIRST_US, LAST_US
from headwater.windows import Column, EventBatch, WindowProgram, source_id

T0, HOUR = 1_700_000_000_000_000, 3_600_000_000
COLUMNS = {"i": "INT64", "j": "INT32", "x": "DOUBLE"}
DECLARED = ["INT32", "INT64", "DOUBLE", "BOOL", "UNIX_TIMESTAMP"]
RANGES = {
    "INT32": (-(2**31), 2**31 - 1), "INT64": (-(2**63), 2**63 - 1),
    "UNIX_TIMESTAMP": (FIRST_US, LAST_US),
}  # fmt: skip
NUMBERS = [
    AggregationPlan(f"{f}_{c}_{t}", c, f, w, HOUR, 0.0, COLUMNS[c], t)
    for f in ("count", "sum", "mean", "min", "max", "first", "last")
    for c in COLUMNS
    for t in DECLARED
    for w in (HOUR, None)
    if f != "mean" or t not in {"INT64", "UNIX_TIMESTAMP"}  # it is rounded, at their bounds as well
]
LISTS = [
    AggregationPlan(f"last_2_{c}_{t}", c, "last_n", HOUR, HOUR, 2.0, COLUMNS[c], f"{t}_LIST")
    for c in COLUMNS
    for t in ("INT32", "INT64", "DOUBLE")
]
Event = tuple[int, int | None, int | None, float | None]  # minutes before T0, i, j, x
events = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 50, 500]),
        st.none() | st.sampled_from([2**63 - 1, -(2**63), 2**53 + 1, 2**31, -1, 0, 5, 2**62]),
        st.none() | st.sampled_from([2**31 - 1, -(2**31), 7, 0]),
        st.none() | st.sampled_from(
            [math.inf, math.nan, 1e300, 1e19, -(2.0**63), 2.0**31, -0.5, 0.0, 1.5, -3e9]
        ),
    ),
    max_size=8,
)  # fmt: skip


def exact(a: AggregationPlan, stream: list[Event]) -> Any:
    """The aggregation's value at T0 in Python's own numbers, as its declared type holds it."""
    at = dict(zip("ijx", (1, 2, 3), strict=True))[a.column]
    low = -math.inf if a.window_us is None else (T0 - HOUR) // HOUR * HOUR
    seen = sorted((T0 - e[0] * 60_000_000, o, e[at]) for o, e in enumerate(stream)
                  if e[at] is not None and not math.isnan(e[at]))  # fmt: skip
    values = [v for ts, _, v in seen if ts >= low]
    if a.function == "count":
        return held(len(values), a.output_type)
    if not values:
        return None
    if a.function == "last_n":
        found = [held(v, a.output_type.removesuffix("_LIST")) for v in values[-2:]]
        return None if None in found else found
    made: Any = {
        "sum": sum(values), "mean": sum(values) / len(values), "min": min(values),
        "max": max(values), "first": values[0], "last": values[-1],
    }[a.function]  # fmt: skip
    return held(made, a.output_type)


def held(value: Any, kind: str) -> Any:
    if kind == "DOUBLE":
        return float(value)
    if kind == "BOOL":
        return value != 0
    if not math.isfinite(value):
        return None
    least, greatest = RANGES[kind]
    return int(value) if least <= int(value) <= greatest else None


def alike(a: AggregationPlan, found: Any, wanted: Any) -> bool:
    """Equal; means, and sums of floats, to 1e-9."""
    if a.output_type == "DOUBLE" and wanted is not None and found is not None:
        return math.isclose(found, wanted, rel_tol=1e-9) or (found != found and wanted != wanted)
    rounded = a.function == "mean" or (a.function == "sum" and a.column == "x")
    if rounded and found is not None and wanted is not None:
        return math.isclose(found, wanted, rel_tol=1e-9)
    return bool(found == wanted)


@settings(max_examples=80, deadline=None)
@given(stream=events)
@example(stream=[(1, 2**63 - 1, 0, 0.0), (50, 2**63 - 1, 0, 0.0), (500, -(2**63), 0, 0.0)])
@example(stream=[(1, -(2**63), 0, math.inf), (2, -1, 0, math.inf)])
def test_what_a_declared_type_cannot_hold_is_null_wherever_it_is_read(stream: list[Event]) -> None:
    n = len(stream)
    ts = np.array([T0 - e[0] * 60_000_000 for e in stream], np.int64)
    cells = {name: [e[1 + at] for e in stream] for at, name in enumerate(COLUMNS)}
    arrays = {name: pa.array(v, ARROW_TYPES[COLUMNS[name]]) for name, v in cells.items()}
    marks = np.maximum.accumulate(ts) if n else ts

    def online(plans: list[AggregationPlan]) -> tuple[WindowProgram, list[bytes]]:
        program = WindowProgram(plans)
        columns = {
            name: Column(
                np.array([0 if v is None else v for v in cells[name]],
                         np.float64 if name == "x" else np.int64),
                np.array([v is not None for v in cells[name]], np.bool_),
            )
            for name in COLUMNS
        }  # fmt: skip
        batch = EventBatch(
            np.zeros(n, np.int64), ts, np.arange(n), np.full(n, source_id("t", 0)), marks, columns
        )
        return program, program.fold([None], batch, T0)

    keyed = KeyedEvents.sort(
        [EventPart(np.zeros(n, np.int64), ts, arrays, np.arange(n))], 1,
        {name: array.type for name, array in arrays.items()},
    )  # fmt: skip
    for plans in (NUMBERS, LISTS):
        program, sections = online(plans)
        merged = [column[0] for column in program.read([sections], T0)]
        offline = windows_at(plans, keyed, np.array([0, 1]), np.array([T0]))
        for a, one, column in zip(plans, merged, offline, strict=True):
            past = column
            if pa.types.is_timestamp(column.type):
                past = column.cast(pa.int64())
            wanted = exact(a, stream)
            assert alike(a, one, wanted), (a.name, one, wanted)
            assert alike(a, past[0].as_py(), wanted), (a.name, past[0], wanted)
    program, sections = online(NUMBERS)
    table = program.result_table([(i, i) for i in range(len(NUMBERS))])
    words, sizes = program.joined([pack_sections(sections)])
    out, status, _, nulls = program.read_columns(words, sizes, table, T0)
    for i, a in enumerate(NUMBERS):
        wanted = exact(a, stream)
        word = out[i].view(np.float64) if column_kind(a.output_type) == "float" else out[i]
        found = None if status[i, 0] else word[0].item()
        assert alike(a, found, wanted), (a.name, found, wanted)
    assert nulls[0] == sum(exact(a, stream) is None for a in NUMBERS)
