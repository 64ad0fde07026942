"""Windows at label times against the oracle that keeps every event, by event time and as served."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater import label_sketch_kernels, sketches
from headwater.catalog import AggregationPlan
from headwater.label_windows import EventPart, KeyedEvents, windows_at
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
