"""Compares every window, row, log row and dead letter with the truth; counts what it compared."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import redis

from headwater import catalog_cache
from headwater.catalog import Catalog, StreamSourcePlan, ViewPlan
from headwater.offline.log import OFFSET, PARTITION, TOPIC
from headwater.offline.sources import read_log
from headwater.online.values import ViewReader
from headwater.online.writer import OnlineWriter
from tests import oracle
from tests.faults import truth
from tests.faults.feed import HOUR, MINUTE

#: Windows are read now and at these later times: what lies ahead comes in, what is old goes out.
LATER_US = (0, 7 * MINUTE + 1, 2 * HOUR, 5 * HOUR + 30 * MINUTE)


@dataclass
class Compared:
    """How much was looked at and found right."""

    messages: int = 0
    accepted: int = 0
    rejected: int = 0
    windows: int = 0
    rows: int = 0
    logged: int = 0
    dead: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{name} {count:,}" for name, count in vars(self).items())


def compare(
    repo: Path, read_topic: Callable[[str], list[truth.Message]], client: redis.Redis
) -> Compared:
    """Everything that came of the topics' messages. Raises AssertionError with what differs."""
    catalog = catalog_cache.load(repo)
    done = Compared()
    for stream in catalog.streams.values():
        views = list(catalog.views_of_stream(stream.name))
        messages = [m for t in stream.topics for m in read_topic(t)]
        verdict = truth.judge(stream, views, messages)
        done.messages += len(messages)
        done.accepted += len(verdict.accepted)
        done.rejected += len(verdict.rejected)
        done.logged += _compare_log(stream, verdict)
        done.dead += _compare_dead(stream, verdict, read_topic)
        for view in views:
            entities = truth.of_entities(view, verdict.accepted)
            if not entities:
                continue
            if view.kind == "row":
                done.rows += _compare_rows(catalog, view, entities, client)
            else:
                done.windows += _compare_windows(catalog, view, entities, client)
    return done


def _fail(what: str, wrong: list[Any], of: int) -> None:
    shown = "\n  ".join(str(one) for one in wrong[:5])
    assert not wrong, f"{what}: {len(wrong)} of {of} differ, such as\n  {shown}"


def _compare_log(stream: StreamSourcePlan, verdict: truth.Verdict) -> int:
    """Each accepted event is in the log once, with its fields, and nothing else is."""
    log = read_log(stream)
    fields = [field.name for field in stream.fields]
    columns = [log[name] for name in (TOPIC, PARTITION, OFFSET)]
    for name in fields:
        column = log[name]
        columns.append(column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column)
    found = Counter(zip(*(column.to_pylist() for column in columns), strict=True))
    wanted = Counter(
        (*e.message.place, *(e.fields[name] for name in fields)) for e in verdict.accepted
    )
    _fail(f"log of {stream.name}, lost", list((wanted - found).items()), len(wanted))
    _fail(f"log of {stream.name}, doubled or wrong", list((found - wanted).items()), len(wanted))
    return log.num_rows


def _compare_dead(
    stream: StreamSourcePlan, verdict: truth.Verdict,
    read_topic: Callable[[str], list[truth.Message]],
) -> int:  # fmt: skip
    """Each rejected message is a dead letter once: its bytes, key and headers, and the reason."""
    found: Counter[Any] = Counter()
    for topic in stream.topics:
        for letter in read_topic(f"{topic}.dead-letter"):
            ours = {k: v.decode() for k, v in letter.headers if k.startswith("headwater-")}
            own = tuple((k, v) for k, v in letter.headers if not k.startswith("headwater-"))
            place = (ours["headwater-topic"], int(ours["headwater-partition"]),
                     int(ours["headwater-offset"]))  # fmt: skip
            kind, _, reason = ours["headwater-reason"].partition(": ")
            assert reason, f"a dead letter has no reason: {ours}"
            found[place, kind, letter.key, letter.value, own] += 1
    wanted = Counter((m.place, kind, m.key, m.value, m.headers) for m, kind in verdict.rejected)
    _fail(f"dead letters of {stream.name}, lost", list((wanted - found).items()), len(wanted))
    _fail(f"dead letters of {stream.name}, too many", list((found - wanted).items()), len(wanted))
    return sum(found.values())


def _read(
    catalog: Catalog, view: ViewPlan, entities: list[tuple[Any, ...]], client: redis.Redis
) -> tuple[ViewReader, list[bytes | None]]:
    reader = ViewReader(catalog.project, view)
    columns = [[entity[i] for entity in entities] for i in range(len(view.join_keys))]
    keys = reader.keys(columns, len(entities))
    return reader, OnlineWriter(client, catalog.project).read(keys)


def _compare_rows(
    catalog: Catalog, view: ViewPlan, entities: dict[Any, list[truth.Event]], client: redis.Redis
) -> int:
    names = list(view.feature_names)
    reader, data = _read(catalog, view, list(entities), client)
    found = reader.values(data, names, time.time_ns() // 1000)
    wrong = []
    for i, (entity, events) in enumerate(entities.items()):
        newest = truth.newest(events)
        wanted = (newest.ts, [newest.fields[name] for name in names])
        got = (found.event_us[i], [column[i] for column in found.values])
        if got != wanted:
            wrong.append((view.name, entity, "found", got, "wanted", wanted))
    _fail(f"rows of {view.name}", wrong, len(entities))
    return len(entities) * len(names)


def _compare_windows(
    catalog: Catalog, view: ViewPlan, entities: dict[Any, list[truth.Event]], client: redis.Redis
) -> int:
    reader, data = _read(catalog, view, list(entities), client)
    names = [a.name for a in view.aggregations]
    now, wrong = time.time_ns() // 1000, []
    for t in (now + later for later in LATER_US):
        found = reader.values(data, names, t).values
        for i, (entity, events) in enumerate(entities.items()):
            seen: dict[Any, list[Any]] = {}
            for a, column in zip(view.aggregations, found, strict=True):
                window = (a.column, a.window_us, a.hop_us)
                if window not in seen:
                    cells = truth.timed(events, a.column)
                    seen[window] = oracle.in_window(a.window_us, a.hop_us, cells, t)
                wanted = oracle.value(a, seen[window])
                if not oracle.agrees(a, column[i], wanted):
                    wrong.append((view.name, entity, a.name, t, "found", column[i],
                                  "wanted", wanted))  # fmt: skip
    total = len(LATER_US) * len(entities) * len(names)
    _fail(f"windows of {view.name}", wrong, total)
    return total
