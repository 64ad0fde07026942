"""What was served, computed from what the topics hold: slow, obvious, and nothing of Headwater's.

Of Headwater's only the definitions are used, which stand in the feature log's files. The messages
come from a plain Kafka consumer, are judged by the rule of lateness (`truth`), and a window is
looked through event by event (`tests.oracle`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.catalog import Catalog, ViewPlan
from tests import oracle
from tests.faults import truth

#: Feast's numbers.
PRESENT, NULL, NOT_FOUND, OUTSIDE_MAX_AGE = 1, 2, 3, 4
#: The last offset of a (topic, partition) that was in some state.
Bounds = dict[tuple[str, int], int]


class Vector:
    """One logged vector and the definitions that it was served by."""

    def __init__(self, row: dict[str, Any], catalog: Catalog, wholes: list[Any]) -> None:
        self._row, self.catalog = row, catalog
        self._whole = {} if row["__whole"] is None else wholes[row["__whole"]]
        self.t: int = row["__log_timestamp"]

    def entity(self, view: ViewPlan) -> tuple[Any, ...]:
        return tuple(self._row[key.name] for key in view.join_keys)

    def made_of(self, view: ViewPlan) -> Any:
        return self._row[f"__provenance__{view.name}"]

    def whole(self, view: ViewPlan) -> Bounds:
        """What the state is known to have held at the least."""
        return {(t, p): before - 1 for t, p, before in self._whole.get(view.name, ())}

    def value(self, view: ViewPlan, feature: str) -> tuple[Any, int]:
        title = f"{view.name}__{feature}"
        return self._row[title], self._row[f"{title}__status"]


class Topics:
    """The accepted events of a project's sources, by view and entity."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._entities: dict[str, dict[tuple[Any, ...], list[truth.Event]]] = {}
        self._read = cache(lambda topic: truth.read_topic(self._bootstrap, topic))

    def of(self, catalog: Catalog, view: ViewPlan, entity: tuple[Any, ...]) -> list[truth.Event]:
        if view.name not in self._entities:
            stream = catalog.streams[view.stream]
            messages = [m for topic in stream.topics for m in self._read(topic)]
            verdict = truth.judge(stream, list(catalog.views_of_stream(stream.name)), messages)
            self._entities[view.name] = truth.of_entities(view, verdict.accepted)
        return self._entities[view.name].get(entity, [])


def compare_served(folder: Path, bootstrap: str, vectors: int, seed: int = 1) -> int:
    """Compare so many logged vectors, picked at random; returns how many values are right.

    Raises AssertionError with what differs.
    """
    topics, done, wrong = Topics(bootstrap), 0, []
    for vector in _picked(folder, vectors, seed):
        for view in vector.catalog.views.values():
            events = topics.of(vector.catalog, view, vector.entity(view))
            look = _row if view.kind == "row" else _windows
            for feature, found, wanted, right in look(vector, view, events):
                done += 1
                if not right:
                    wrong.append((view.name, vector.entity(view), feature, vector.t, "served",
                                  found, "wanted", wanted))  # fmt: skip
    shown = "\n  ".join(map(str, wrong[:5]))
    assert not wrong, f"{len(wrong)} of {done} served values differ, such as\n  {shown}"
    return done


def _picked(folder: Path, vectors: int, seed: int) -> Iterator[Vector]:
    files = sorted(folder.glob("*.parquet"))
    sizes = [pq.read_metadata(file).num_rows for file in files]
    picked = sorted(random.Random(seed).sample(range(sum(sizes)), min(vectors, sum(sizes))))
    for file, size in zip(files, sizes, strict=True):
        rows, picked = (
            [row for row in picked if row < size],
            [r - size for r in picked if r >= size],
        )
        table = pq.read_table(file)
        about = json.loads(table.schema.metadata[b"headwater"])
        catalog = msgspec.convert(about["plan"]["catalog"], Catalog)
        for row in _plain(table.take(pa.array(rows, pa.int64()))).to_pylist():
            yield Vector(row, catalog, about["wholes"])


def _plain(table: pa.Table) -> pa.Table:
    """Times as microseconds."""
    at = table.schema.get_field_index("__log_timestamp")
    return table.set_column(at, "__log_timestamp", table["__log_timestamp"].cast(pa.int64()))


def _known(events: list[truth.Event], bounds: Bounds) -> list[truth.Event]:
    return [
        e for e in events
        if e.message.offset <= bounds.get((e.message.topic, e.message.partition), -1)
    ]  # fmt: skip


def _windows(vector: Vector, view: ViewPlan, events: list[truth.Event]) -> Iterator[Any]:
    bounds = vector.whole(view)
    for section in vector.made_of(view):
        place = section["topic"], section["partition"]
        bounds[place] = max(bounds.get(place, -1), section["offset"])
    known = _known(events, bounds)
    for a in view.aggregations:
        found, status = vector.value(view, a.name)
        wanted = oracle.oracle(a, truth.timed(known, a.column), vector.t)
        right = oracle.agrees(a, found, wanted) and status == (NULL if wanted is None else PRESENT)
        yield a.name, found, wanted, right


def _row(vector: Vector, view: ViewPlan, events: list[truth.Event]) -> Iterator[Any]:
    made = vector.made_of(view)
    if made is not None and not made["readable"]:
        return  # of another version of the view's schema
    bounds = vector.whole(view)
    if made is not None:
        (own,) = [
            e.message for e in events
            if (e.message.partition, e.message.offset) == (made["partition"], made["offset"])
            and e.ts == round(made["event_timestamp"].timestamp() * 1e6)
        ]  # fmt: skip
        place = own.topic, own.partition
        bounds[place] = max(bounds.get(place, -1), own.offset)
    known = _known(events, bounds)
    newest = truth.newest(known) if known else None
    for name in view.feature_names:
        if newest is None:
            wanted = None, NOT_FOUND
        elif view.ttl_us and newest.ts < vector.t - view.ttl_us:
            wanted = None, OUTSIDE_MAX_AGE
        else:
            value = newest.fields[name]
            wanted = value, NULL if value is None else PRESENT
        found = vector.value(view, name)
        yield name, found, wanted, found == wanted
