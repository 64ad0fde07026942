"""Random catalogues' views and offline logs, for the tests of what is read from a log."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from headwater.arrow import arrow_type
from headwater.catalog import (
    AggregationPlan,
    BatchSourcePlan,
    Catalog,
    FieldPlan,
    JoinKeyPlan,
    StreamSourcePlan,
    ViewPlan,
)
from headwater.offline.log import EventLog, log_schema

TOPIC, HOUR = "orders", 3_600_000_000
FIELDS = (
    FieldPlan("user", "INT64"),
    FieldPlan("amount", "DOUBLE"),
    FieldPlan("items", "INT64"),
    FieldPlan("city", "STRING"),
    FieldPlan("at", "UNIX_TIMESTAMP"),
)
#: function, column, parameter, what it gives
FUNCTIONS = [
    ("count", "", 0.0, "INT64"), ("count", "city", 0.0, "INT64"), ("sum", "items", 0.0, "INT64"),
    ("sum", "amount", 0.0, "DOUBLE"), ("mean", "amount", 0.0, "DOUBLE"),
    ("min", "amount", 0.0, "DOUBLE"), ("max", "items", 0.0, "INT64"),
    ("std", "amount", 0.0, "DOUBLE"), ("var", "items", 0.0, "DOUBLE"),
    ("first", "amount", 0.0, "DOUBLE"), ("last", "items", 0.0, "INT64"),
    ("last", "city", 0.0, "STRING"), ("count_distinct", "city", 0.0, "INT64"),
    ("quantile", "amount", 0.5, "DOUBLE"), ("last_n", "city", 3.0, "STRING_LIST"),
    ("first_n", "items", 2.0, "INT64_LIST"),
]  # fmt: skip


def aggregations(windows: tuple[int | None, ...] = (2, 24, None)) -> tuple[AggregationPlan, ...]:
    """Every function over windows of so many hours (None: the whole history)."""
    types = {f.name: f.type for f in FIELDS}
    return tuple(
        AggregationPlan(
            f"{function}_{column or 'all'}_{hours}", column, function,
            None if hours is None else hours * HOUR, 60_000_000, parameter,
            types.get(column, "INT64"), gives,
        )
        for hours in windows
        for function, column, parameter, gives in FUNCTIONS
    )  # fmt: skip


def catalog(folder: Path, history: bool = False) -> Catalog:
    """A windowed and a row view of one Kafka source; with or without a Parquet history."""
    past = BatchSourcePlan("past", "parquet", str(folder / "past.parquet"), "at")
    stream = StreamSourcePlan(
        "orders", (TOPIC,), "", "json", FIELDS, "at", log_path=str(folder / "log"),
        history=past if history else None,
    )  # fmt: skip
    key = (JoinKeyPlan("user", "INT64"),)
    made = aggregations()
    windows = ViewPlan(
        "windows", "window", key, tuple(FieldPlan(a.name, a.output_type) for a in made),
        stream="orders", aggregations=made,
    )  # fmt: skip
    rows = ViewPlan("rows", "row", key, FIELDS[1:4], stream="orders")
    views = {"rows": rows, "windows": windows}
    return Catalog("logs", "1", "", "", streams={"orders": stream}, views=views)


def random_events(
    seed: int, n: int, partition: int, first_offset: int = 0, hours: float = 30.0,
    until_us: int | None = None, users: int = 12,
) -> pa.Table:  # fmt: skip
    """Events in a log's columns: disorder, ties of time, nulls; keys differ by partition."""
    chance = random.Random(seed)
    until = until_us if until_us is not None else time.time_ns() // 1000
    step = 1_000_000
    start = until // step - int(hours * 3600)
    ts = [
        (start + min(i * int(hours * 3600) // max(n, 1) + chance.randrange(-900, 900),
                     int(hours * 3600) - 1)) * step
        for i in range(n)
    ]  # fmt: skip
    columns = {
        "user": [chance.randrange(users) * 4 + partition % 4 for _ in range(n)],
        "amount": [None if chance.random() < 0.1 else chance.uniform(-50, 100) for _ in range(n)],
        "items": [None if chance.random() < 0.1 else chance.randrange(9) for _ in range(n)],
        "city": [chance.choice([None, "Ulm", "Bern", "Graz", "Lyon"]) for _ in range(n)],
        "at": ts,
    }
    arrays = [pa.array(columns[f.name], arrow_type(f.type)) for f in FIELDS]
    own = [
        pa.array([TOPIC] * n, pa.string()),
        pa.array([partition] * n, pa.int32()),
        pa.array(np.arange(first_offset, first_offset + n)),
        pa.array(ts, arrow_type("UNIX_TIMESTAMP")),
    ]
    stream = StreamSourcePlan("orders", (TOPIC,), "", "json", FIELDS, "at")
    return pa.table([*arrays, *own], schema=log_schema(stream))


def append(log: EventLog, table: pa.Table) -> None:
    """Append events of one partition."""
    partition = table["_partition"][0].as_py()
    log.append(table, {(TOPIC, partition): table["_offset"][-1].as_py()})


def fill_log(log: EventLog, seed: int, events: int, partitions: int = 3) -> list[pa.Table]:
    """A log of several appends, partitions taking turns; returns each partition's events."""
    chance = random.Random(seed)
    tables = [random_events(seed * 31 + p, events, p) for p in range(partitions)]
    at = [0] * partitions
    while any(at[p] < events for p in range(partitions)):
        p = chance.randrange(partitions)
        size = chance.randrange(1, max(2, events // 3))
        if at[p] < events:
            append(log, tables[p].slice(at[p], size))
            at[p] += size
    return tables
