"""Windows at label times against the oracle that keeps every event, by event time and as served."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater import label_sketch_kernels, label_windows, sketches
from headwater.catalog import AggregationPlan
from headwater.label_windows import EventPart, KeyedEvents, windows_at
from headwater.offline.keys import LabelKeys
from tests.oracle import agrees, oracle
from tests.property.test_windows import ALL, HOUR, T0, Event, streams, times

TYPES = {"x": pa.float64(), "i": pa.int64(), "s": pa.string()}


def at_labels(
    plans: list[AggregationPlan],
    stream: list[Event],
    labels: list[tuple[int, int]],
    arrived: list[int] | None = None,
) -> list[list[Any]]:
    """One list an aggregation, in the order of `labels`, from events in any order."""
    key = np.array([e[0] for e in stream], np.int64)
    ts = np.array([e[1] for e in stream], np.int64)
    sequence = np.array([e[2] << 48 | o for o, e in enumerate(stream)], np.int64)
    columns = {n: pa.array([e[3][n] for e in stream], t) for n, t in TYPES.items()}
    late = None if arrived is None else np.array(arrived, np.int64)
    half = len(key) // 2  # as two batches of a scan
    parts = [
        EventPart(
            key[some], ts[some], {n: c.take(pa.array(some)) for n, c in columns.items()},
            sequence[some], None if late is None else late[some],
        )
        for some in (np.arange(half), np.arange(half, len(key)))
    ]  # fmt: skip
    events = KeyedEvents.sort(parts, 4, TYPES)
    order = sorted(range(len(labels)), key=lambda i: labels[i])
    label_key = np.array([labels[i][0] for i in order], np.int64)
    t = np.array([labels[i][1] for i in order], np.int64)
    found = windows_at(plans, events, np.searchsorted(label_key, np.arange(5)), t)
    place = {i: at for at, i in enumerate(order)}
    lists = [array.to_pylist() for array in found]
    return [[values[place[i]] for i in range(len(labels))] for values in lists]


def known(a: AggregationPlan, stream: list[Event], key: int, arrived: list[int], t: int) -> Any:
    events = [
        (e[1], e[2] << 48 | o, e[3][a.column])
        for o, e in enumerate(stream)
        if e[0] == key and arrived[o] <= t
    ]
    return oracle(a, events, t)


label_lists = st.lists(st.tuples(st.integers(0, 3), times), max_size=8)


@settings(max_examples=60, deadline=None)
@given(stream=streams, labels=label_lists)
def test_offline_values_equal_a_replay_at_any_label_time(
    stream: list[Event], labels: list[tuple[int, int]]
) -> None:
    found = at_labels(ALL, stream, labels)
    at_once = [e[1] for e in stream]
    for a, column in zip(ALL, found, strict=True):
        for (k, t), value in zip(labels, column, strict=True):
            assert agrees(a, value, known(a, stream, k, at_once, t)), (a.name, k, t)


@settings(max_examples=60, deadline=None)
@given(stream=streams, labels=label_lists, data=st.data())
def test_as_served_values_know_only_what_had_arrived(
    stream: list[Event], labels: list[tuple[int, int]], data: st.DataObject
) -> None:
    delays = data.draw(
        st.lists(st.sampled_from([0, 1, 3_000_000, HOUR, 9 * HOUR]),
                 min_size=len(stream), max_size=len(stream))
    )  # fmt: skip
    arrived = [e[1] + d for e, d in zip(stream, delays, strict=True)]
    found = at_labels(ALL, stream, labels, arrived)
    for a, column in zip(ALL, found, strict=True):
        for (k, t), value in zip(labels, column, strict=True):
            assert agrees(a, value, known(a, stream, k, arrived, t)), (a.name, k, t)


@pytest.mark.parametrize("function", ["sum", "max", "min", "var", "mean"])
def test_a_range_of_thousands_of_events_is_folded_as_one_of_three(function: str) -> None:
    chance = np.random.default_rng(3)
    values = chance.normal(size=5000)
    stream: list[Event] = [
        (0, T0 + i * 1000, 0, {"x": float(v), "i": i, "s": "a"}) for i, v in enumerate(values)
    ]
    plan = AggregationPlan("f", "x", function, 10 * HOUR, 1, 0.0, "DOUBLE", "DOUBLE")
    ends = [1, 15, 16, 17, 31, 32, 33, 255, 256, 257, 4095, 4999]
    found = at_labels([plan], stream, [(0, T0 + i * 1000) for i in ends])[0]
    for i, value in zip(ends, found, strict=True):
        seen = values[: i + 1]
        wanted = {"sum": math.fsum(seen), "max": seen.max(), "min": seen.min(),
                  "mean": math.fsum(seen) / len(seen),
                  "var": seen.var(ddof=1)}[function]  # fmt: skip
        assert value == pytest.approx(wanted, rel=1e-9), (function, i)


def test_distinct_counts_above_the_sketch_are_the_sketch_s_own() -> None:
    chance = np.random.default_rng(5)
    drawn = chance.integers(0, 6000, 9000)
    stream: list[Event] = [
        (0, T0 + i * 1000, 0, {"x": 0.0, "i": int(v), "s": "a"}) for i, v in enumerate(drawn)
    ]
    plan = AggregationPlan("d", "i", "count_distinct", 3_000_000, 1)
    ends = [100, 2500, 5000, 8999]
    found = at_labels([plan], stream, [(0, T0 + i * 1000) for i in ends])[0]
    for i, value in zip(ends, found, strict=True):
        seen = drawn[max(0, i - 3000) : i + 1].tolist()
        partial = sketches.lift("count_distinct", 0.0, [(0, 0, v) for v in seen])
        assert value == sketches.finalize("count_distinct", 0.0, partial)
    assert len(set(drawn[:5001].tolist())) > sketches.DISTINCT_HASHES


def test_quantile_buckets_are_the_sketch_s_to_the_bit() -> None:
    chance = np.random.default_rng(7)
    values = np.concatenate([
        chance.normal(size=2000), chance.lognormal(0, 20, 2000), [0.0, -0.0, 1.0, -1.0, 1e-300],
        [math.exp(i * sketches.LOG_GAMMA) for i in range(-500, 500)],
    ])  # fmt: skip
    found = np.empty(len(values), np.int64)
    label_sketch_kernels.log_buckets(values, sketches.LOG_GAMMA, sketches.ZERO_BUCKET, found)
    for value, bucket in zip(values.tolist(), found.tolist(), strict=True):
        assert [bucket] == list(sketches.lift("quantile", 0.5, [(0, 0, value)]))


@given(data=st.data(), run=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_events_are_put_in_their_places_slice_by_slice(data: st.DataObject, run: int) -> None:
    """Several slices and threads, events that are left out, and columns of every kind."""
    kinds = {"x": pa.float64(), "i": pa.int32(), "s": pa.string(), "t": pa.timestamp("us", "UTC")}
    cell = st.none() | st.integers(0, 9)
    rows = data.draw(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 9), cell), max_size=80))
    cut = data.draw(st.integers(0, len(rows)))
    parts = []
    for some in (rows[:cut], rows[cut:]):
        values = [r[2] for r in some]
        columns = {
            "x": pa.array([None if v is None else v / 2 for v in values], kinds["x"]),
            "i": pa.array(values, kinds["i"]), "t": pa.array(values, kinds["t"]),
            "s": pa.array([None if v is None else str(v) for v in values], kinds["s"]),
        }  # fmt: skip
        code, ts = (np.array([r[i] for r in some], np.int64) for i in (0, 1))
        parts.append(EventPart(code.astype(np.int32), ts, columns))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_windows, "_SLICE", run)
        found = KeyedEvents.sort(parts, 4, kinds)
    wanted = [sorted((r for r in rows if r[0] == k), key=lambda r: r[1]) for k in range(4)]
    assert np.diff(found.at).tolist() == [len(some) for some in wanted]
    flat = [r for some in wanted for r in some]
    assert found.ts.tolist() == [r[1] for r in flat]
    assert found.columns["i"].to_pylist() == [r[2] for r in flat]
    assert found.columns["x"].to_pylist() == [None if r[2] is None else r[2] / 2 for r in flat]
    assert found.columns["s"].to_pylist() == [None if r[2] is None else str(r[2]) for r in flat]
    assert found.columns["t"].cast(pa.int64()).to_pylist() == [r[2] for r in flat]


@pytest.mark.parametrize("late", [False, True])
def test_windows_that_do_not_hold_each_other_start_afresh(late: bool) -> None:
    """A window of 10 s that hops by 60 s can begin before one of 50 s that hops by 30 s."""
    chance, second = np.random.default_rng(11), 1_000_000
    stream: list[Event] = [
        (0, T0 + int(at) * second, 0, {"x": float(v), "i": int(at), "s": "a"})
        for at, v in zip(np.sort(chance.integers(0, 900, 400)), chance.normal(size=400),
                         strict=True)
    ]  # fmt: skip
    arrived = [e[1] + (int(chance.integers(0, 90)) * second if late else 0) for e in stream]
    plans = [
        AggregationPlan(f"{f}{length}", "x", f, length * second, hop * second, 0.0, "DOUBLE",
                        "DOUBLE")
        for f in ("sum", "max", "min", "mean") for length, hop in ((10, 60), (50, 30), (300, 1))
    ]  # fmt: skip
    labels = [(0, T0 + int(t) * second) for t in chance.integers(0, 1000, 3000)]
    found = at_labels(plans, stream, labels, arrived if late else None)
    for a, column in zip(plans, found, strict=True):
        for (k, t), value in zip(labels[:300], column, strict=False):
            assert agrees(a, value, known(a, stream, k, arrived, t)), (a.name, t)


@given(
    labels=st.lists(st.tuples(st.none() | st.integers(-3, 3), st.none() | st.integers(0, 2)),
                    max_size=12),
    rows=st.lists(st.tuples(st.none() | st.integers(-9, 9), st.none() | st.integers(-1, 9)),
                  max_size=12),
    far=st.booleans(),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_keys_have_one_number_each_in_labels_and_rows(
    labels: list[Any], rows: list[Any], far: bool
) -> None:
    """Integers close together, by a table, and far apart, without one."""
    step = 1 << 40 if far else 1

    def columns(tuples: list[Any], kind: pa.DataType) -> list[pa.Array]:
        return [
            pa.array([None if r[i] is None else r[i] * step for r in tuples], kind) for i in (0, 1)
        ]

    keys = LabelKeys([pa.chunked_array([c]) for c in columns(labels, pa.int64())], len(labels))
    number = {
        pair: code for pair, code in zip(labels, keys.codes.tolist(), strict=True) if code >= 0
    }
    assert set(number) == {pair for pair in labels if None not in pair}
    assert len(set(number.values())) == len(number)
    assert all(code < keys.count for code in number.values())
    found = keys.of(columns(rows, pa.int64()), len(rows)).tolist()
    numbers = set(number.values())  # another's may be one that no label has
    assert [c if c in numbers else -1 for c in found] == [number.get(pair, -1) for pair in rows]
