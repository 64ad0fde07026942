"""Windows against a slow, obvious oracle that keeps every event."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.catalog import AggregationPlan
from headwater.windows import Column, EventBatch, WindowProgram, source_id
from tests.oracle import agrees, oracle

MINUTE = 60_000_000
HOUR = 60 * MINUTE
T0 = 1_700_000_000_000_000
FUNCTIONS = [
    "count", "sum", "mean", "min", "max", "std", "var", "first", "last",
    "count_distinct", "quantile", "last_n", "first_n",
]  # fmt: skip
WINDOWS = [(HOUR, MINUTE), (6 * HOUR, 5 * MINUTE), (HOUR, 7 * MINUTE), (None, HOUR)]
COLUMNS = {"x": "DOUBLE", "i": "INT64", "s": "STRING"}


def aggregation(function: str, column: str, window: int | None, hop: int) -> AggregationPlan:
    output = {"count": "INT64", "count_distinct": "INT64", "mean": "DOUBLE", "std": "DOUBLE",
              "var": "DOUBLE", "quantile": "DOUBLE"}.get(function, COLUMNS[column])  # fmt: skip
    if function in {"last_n", "first_n"}:
        output = COLUMNS[column] + "_LIST"
    parameter = {"quantile": 0.5, "last_n": 3.0, "first_n": 2.0}.get(function, 0.0)
    return AggregationPlan(
        f"{function}_{column}_{window}_{hop}", column, function, window, hop, parameter,
        COLUMNS[column], output,
    )  # fmt: skip


ALL = [
    aggregation(f, c, w, h)
    for f in FUNCTIONS
    for c in COLUMNS
    for w, h in WINDOWS
    if c != "s" or f not in {"sum", "mean", "std", "var", "quantile"}
]
PROGRAM = WindowProgram(ALL)

Event = tuple[int, int, int, dict[str, Any]]  # key, ts, partition, values; offset is its place


def batch_of(events: list[tuple[int, Event]], keys: list[int], marks: list[int]) -> EventBatch:
    def column(name: str) -> Column:
        cells = [e[3][name] for _, e in events]
        valid = np.array([c is not None for c in cells], np.bool_)
        if name == "s":
            return Column(cells, valid)
        kind: Any = np.int64 if name == "i" else np.float64
        return Column(np.array([0 if c is None else c for c in cells], kind), valid)

    return EventBatch(
        key=np.array([keys.index(e[0]) for _, e in events], np.int64),
        ts=np.array([e[1] for _, e in events], np.int64),
        offset=np.array([o for o, _ in events], np.int64),
        source=np.array([source_id("t", e[2]) for _, e in events], np.int64),
        watermark=np.array(marks, np.int64),
        columns={name: column(name) for name in COLUMNS},
    )


values = st.fixed_dictionaries(
    {
        "x": st.none() | st.floats(-1e6, 1e6).map(lambda x: round(x, 3)),
        "i": st.none() | st.integers(-(2**40), 2**40),
        "s": st.none() | st.sampled_from(["a", "b", "cc", "ü"]),
    }
)
times = st.one_of(
    st.integers(T0 - 30 * HOUR, T0),
    st.integers(-400, 0).map(lambda m: T0 // MINUTE * MINUTE + m * MINUTE),
    st.integers(1, 30 * MINUTE).map(lambda d: T0 + d),
)
streams = st.lists(st.tuples(st.integers(0, 2), times, st.integers(0, 1), values), max_size=25)


@settings(max_examples=60, deadline=None)
@given(stream=streams, cut=st.integers(1, 6), replay=st.booleans(), later=st.integers(0, 3 * HOUR))
def test_folded_state_equals_a_replay_of_every_event(
    stream: list[Event], cut: int, replay: bool, later: int
) -> None:
    """Disorder, ties, nulls, future events, any batch cut and replays change nothing."""
    states: dict[tuple[int, int], bytes] = {}
    now = T0
    for partition in (0, 1):
        prefix = [(o, e) for o, e in enumerate(stream) if e[2] == partition]
        marks: list[int] = []
        for _, e in prefix:
            marks.append(max([e[1], *marks[-1:]]))
        for start in range(0, len(prefix), cut):
            part = slice(max(0, start - cut) if replay else start, start + cut)
            chunk, seen = prefix[part], marks[part]
            keys = sorted({e[0] for _, e in chunk})
            old = [states.get((partition, key)) for key in keys]
            new = PROGRAM.fold(old, batch_of(chunk, keys, seen), now)
            states.update({(partition, k): s for k, s in zip(keys, new, strict=True)})
    t = now + later
    sections = [[states[p, k] for p in (0, 1) if (p, k) in states] for k in range(3)]
    found = PROGRAM.read(sections, t)
    # The oracle sees the events in their places; state may have forgotten what no window reaches.
    for a, column in zip(ALL, found, strict=True):
        for key in range(3):
            events = [
                (e[1], source_id("t", e[2]) % 65536 << 48 | o, e[3][a.column])
                for o, e in enumerate(stream)
                if e[0] == key
            ]
            wanted = oracle(a, events, t)
            assert agrees(a, column[key], wanted), (a.name, key, column[key], wanted)


def test_an_entity_without_state_has_empty_windows() -> None:
    for a, column in zip(ALL, PROGRAM.read([[]], T0), strict=True):
        assert column == [0 if a.function in {"count", "count_distinct"} else None]


def test_elements_of_a_list_are_of_its_type() -> None:
    """An answer's JSON and the feature log tell true from 1."""
    flags = AggregationPlan("f", "b", "last_n", HOUR, MINUTE, 3.0, "BOOL", "BOOL_LIST")
    program = WindowProgram([flags])
    batch = EventBatch(
        np.zeros(2, np.int64), np.array([T0, T0 + 1]), np.arange(2), np.zeros(2, np.int64),
        np.array([T0, T0 + 1]), {"b": Column(np.array([1, 0]), np.ones(2, np.bool_))},
    )  # fmt: skip
    ((found,),) = program.read([program.fold([None], batch, T0 + 1)], T0 + 1)
    assert [type(flag) for flag in found] == [bool, bool]
    assert found == [True, False]


def test_state_is_bounded_by_the_windows_not_by_the_history() -> None:
    program = WindowProgram([aggregation("max", "x", HOUR, MINUTE)])
    state: bytes | None = None
    for minute in range(0, 10_000, 500):
        events: list[tuple[int, Event]] = [
            (m, (0, T0 + m * MINUTE, 0, {"x": 1.0, "i": 1, "s": "a"}))
            for m in range(minute, minute + 500)
        ]
        marks = [e[1] for _, e in events]
        (state,) = program.fold([state], batch_of(events, [0], marks), T0 + 20_000 * MINUTE)
    assert state is not None
    assert len(state) < 200 * 3 * 8


@pytest.mark.parametrize("wm_minutes", [0, 30])
def test_an_event_is_late_only_where_no_window_can_use_it(wm_minutes: int) -> None:
    program = WindowProgram([aggregation("count", "x", HOUR, MINUTE)])
    watermark = T0 // MINUTE * MINUTE + wm_minutes * MINUTE
    bound = watermark - HOUR
    late = program.is_late(np.array([bound - 1, bound]), np.array([watermark, watermark]))
    assert late.tolist() == [True, False]
