"""Columns for the service against the value-by-value reader that Feast's plugin uses."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import numpy as np
import pytest

from headwater.catalog import AggregationPlan, FieldPlan, JoinKeyPlan, ViewPlan
from headwater.codec import RowCodec, pack_sections
from headwater.online.columns import RowColumns, ViewColumns, columns_of
from headwater.online.provenance import Provenance
from headwater.online.values import ViewReader, ViewValues
from headwater.windows import Column, EventBatch, WindowProgram, source_id

NOW = time.time_ns() // 1000
HOUR = 3_600_000_000
TYPES = ["INT32", "INT64", "BOOL", "UNIX_TIMESTAMP", "FLOAT", "DOUBLE", "STRING"]
POOLS = [["DOUBLE"], ["FLOAT"], ["INT64"], TYPES[:6], TYPES]


def value(chance: random.Random, kind: str) -> Any:
    made: dict[str, Any] = {
        "INT32": chance.randint(-(2**31), 2**31 - 1),
        "INT64": chance.randint(-(2**63), 2**63 - 1),
        "BOOL": chance.random() < 0.5,
        "UNIX_TIMESTAMP": chance.randint(-(10**17), 10**17),
        "FLOAT": float(np.float32(chance.gauss(0, 1))),
        "DOUBLE": chance.gauss(0, 1),
        "STRING": "x" * chance.randint(0, 5),
    }
    return made[kind]


def check(new: ViewColumns, old: ViewValues, names: list[str]) -> None:
    for i in range(len(names)):
        mine, theirs = new.plain(i), old.values[i]
        assert [type(v) for v in mine] == [type(v) for v in theirs]
        for a, b in zip(mine, theirs, strict=True):
            near = isinstance(a, float) and math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
            assert a == b or near
        assert new.statuses(i) == old.statuses[i]
    assert list(new.event_us) == [max(0, t) for t in old.event_us]


def packed(chance: random.Random, codec: RowCodec, types: list[str]) -> list[bytes | None]:
    """Rows of a request: alike, or with nulls, missing, expired and foreign ones among them."""
    nulls, missing, expired = (chance.choice([0, 0, 0.2]) for _ in range(3))
    alike, created, stream = (chance.random() < 0.5 for _ in range(3))
    rows: list[bytes | None] = []
    for _ in range(chance.choice([1, 1, 5, 50])):
        if chance.random() < missing:
            rows.append(chance.choice([None, b"", b"abc", b"\0xyz" + bytes(100)]))
            continue
        if not alike:
            created, stream = chance.random() < 0.5, chance.random() < 0.5
        cells = [None if chance.random() < nulls else value(chance, kind) for kind in types]
        event_us = NOW - (2 * 10**12 if chance.random() < expired else 1000)
        rows.append(codec.pack(event_us, 5 if created else None, 3 if stream else -1, 9, cells))
    return rows


@pytest.mark.parametrize("seed", range(200))
def test_columns_of_rows_are_what_the_rows_say(seed: int) -> None:
    chance = random.Random(seed)
    pool = chance.choice(POOLS)
    types = [chance.choice(pool) for _ in range(chance.randint(1, 12))]
    fields = tuple(FieldPlan(f"f{i}", kind) for i, kind in enumerate(types))
    key = (JoinKeyPlan("k", "INT64"),)
    view = ViewPlan("v", "row", key, fields, ttl_us=chance.choice([0, 10**12]))
    rows = packed(chance, RowCodec.of(view), types)
    every = list(view.feature_names)
    names = chance.choice([every, chance.sample(every, chance.randint(1, len(every)))])
    reader = ViewReader("p", view)
    rows = [row if row and len(row) >= 12 else None for row in rows]  # the old reader's limit
    check(columns_of(reader, names).read(rows, NOW), reader.values(rows, names, NOW), names)


@pytest.mark.parametrize("seed", range(60))
def test_rows_in_parts_are_what_they_are_one_by_one(seed: int) -> None:
    chance = random.Random(seed)
    pool = chance.choice(POOLS[:4])
    types = [chance.choice(pool) for _ in range(chance.randint(1, 12))]
    fields = tuple(FieldPlan(f"f{i}", kind) for i, kind in enumerate(types))
    view = ViewPlan("v", "row", (JoinKeyPlan("k", "INT64"),), fields)
    created, partition = chance.choice([None, 5]), chance.choice([-1, 3])
    rows = [
        RowCodec.of(view).pack(NOW - i, created, partition, i, [value(chance, t) for t in types])
        for i in range(chance.randint(2, 40))
    ]
    names = chance.sample(view.feature_names, chance.randint(1, len(types)))
    columns = columns_of(ViewReader("p", view), names)
    assert isinstance(columns, RowColumns)
    cut = chance.randrange(1, len(rows))
    found, arrays = columns.of_parts([b"".join(rows[:cut]), memoryview(b"".join(rows[cut:]))])
    check(found, ViewReader("p", view).values(rows, names, NOW), names)
    provenance = Provenance(view, {})
    assert provenance.column_of_rows(arrays).equals(provenance.column(rows))


def test_a_row_cut_short_or_of_another_schema_is_absent() -> None:
    view = ViewPlan("v", "row", (), (FieldPlan("a", "DOUBLE"), FieldPlan("b", "INT64")))
    other = ViewPlan("v", "row", (), (FieldPlan("b", "INT64"), FieldPlan("a", "DOUBLE")))
    good = RowCodec.of(view).pack(NOW, None, -1, -1, [1.5, 2])
    foreign = RowCodec.of(other).pack(NOW, None, -1, -1, [2, 1.5])
    columns = columns_of(ViewReader("p", view), ["a", "b"])
    for bad in (b"", b"\0", good[:3], good[:20], good[:-1], foreign):
        for data in ([bad], [good, bad], [bad, good]):
            found = columns.read(data, NOW)
            at = data.index(bad)
            assert found.plain(0)[at] is None
            assert found.statuses(1)[at] == "NOT_FOUND"
            if len(data) > 1:
                assert found.plain(1)[1 - at] == 2


@pytest.mark.parametrize("seed", range(120))
def test_columns_of_windows_are_what_the_program_reads(seed: int) -> None:
    chance = random.Random(seed)
    kinds = {"a": chance.choice(["INT64", "DOUBLE"]), "b": "DOUBLE"}
    plans = []
    for i in range(chance.randint(1, 12)):
        column = chance.choice(["a", "b"])
        function = chance.choice(
            ["count", "sum", "mean", "min", "max", "std", "var", "first", "last"]
        )
        whole = function in {"count", "sum", "min"} and kinds[column] == "INT64"
        output = chance.choice(["INT64", "DOUBLE"]) if whole else "DOUBLE"
        window = chance.choice([None, HOUR, HOUR + HOUR // 60, 24 * HOUR, 168 * HOUR])
        hop = chance.choice([HOUR // 60, HOUR // 2, HOUR])
        plans.append(
            AggregationPlan(f"g{i}", column, function, window, hop, 0.0, kinds[column], output)
        )
    fields = tuple(FieldPlan(a.name, a.output_type) for a in plans)
    view = ViewPlan("v", "window", (), fields, aggregations=tuple(plans))
    program, n, keys = WindowProgram.of(view), chance.randint(1, 60), chance.choice([1, 4])
    rng = np.random.default_rng(seed)
    sections: list[list[bytes]] = [[] for _ in range(keys)]
    for partition in range(chance.choice([1, 2])):
        ts = np.sort(NOW - rng.integers(-HOUR, 200 * HOUR, n))
        source = np.full(n, source_id("t", partition))
        columns = {
            "a": Column(rng.integers(0, 9, n), rng.random(n) < 0.8),
            "b": Column(rng.normal(size=n), rng.random(n) < 0.8),
        }
        batch = EventBatch(rng.integers(0, keys, n), ts, np.arange(n), source, ts, columns)
        for k, section in enumerate(program.fold([None] * keys, batch, NOW)):
            sections[k].append(section)
    data = [pack_sections(parts) if chance.random() < 0.9 else None for parts in sections]
    names = [a.name for a in chance.sample(plans, chance.randint(1, len(plans)))]
    reader = ViewReader("p", view)
    for t in (NOW, NOW + HOUR // 2, NOW + 2 * HOUR):
        check(columns_of(reader, names).read(data, t), reader.values(data, names, t), names)


def test_bytes_that_are_no_windows_are_empty_windows() -> None:
    count = AggregationPlan("n", "", "count", HOUR, HOUR)
    view = ViewPlan("v", "window", (), (FieldPlan("n", "INT64"),), aggregations=(count,))
    columns = columns_of(ViewReader("p", view), ["n"])
    huge = pack_sections([np.array([1, 1, 1, 2**40, 0], np.int64).tobytes()])
    for bad in (b"", bytes(13), bytes(16), bytes(800), huge, huge[:-8], pack_sections([bytes(8)])):
        assert columns.read([bad, None], NOW).plain(0) == [0, 0]
