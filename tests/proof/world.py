"""Plans, events, the worker's sinks and log, the service's vectors: all real, without Kafka."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import redis

from headwater.arrow import TIMESTAMP
from headwater.catalog import (
    AggregationPlan,
    BatchSourcePlan,
    Catalog,
    FieldPlan,
    JoinKeyPlan,
    StreamSourcePlan,
    ViewPlan,
)
from headwater.offline.data_files import ARRIVED, OFFSET, PARTITION, TOPIC
from headwater.offline.feature_log import FeatureLog
from headwater.offline.log import EventLog
from headwater.offline.materialize import materialize
from headwater.offline.verify import Report, verify
from headwater.online.cluster_link import open_link
from headwater.online.progress import Place, Progress
from headwater.online.sinks import Batch, make_sink, write
from headwater.online.writer import OnlineWriter
from headwater.settings import Settings
from service.feature_log import FeatureLogs
from service.metrics import Metrics
from service.vectors import Vectors, Wishes

SECOND, MINUTE, HOUR = 1_000_000, 60_000_000, 3_600_000_000
USERS, PARTITIONS = 12, 3
FIELDS = (
    FieldPlan("user_id", "INT64"), FieldPlan("amount", "DOUBLE"), FieldPlan("quantity", "INT64"),
    FieldPlan("page", "STRING"), FieldPlan("at", "UNIX_TIMESTAMP"),
)  # fmt: skip
KEY = (JoinKeyPlan("user_id", "INT64", "user"),)
WINDOWS = [
    ("count", "", "INT64"), ("sum", "amount", "DOUBLE"), ("mean", "amount", "DOUBLE"),
    ("std", "amount", "DOUBLE"), ("max", "quantity", "INT64"), ("last", "quantity", "INT64"),
]  # fmt: skip
SKETCHES = [("count_distinct", "page", "INT64"), ("last_n", "quantity", "INT64_LIST")]


def window_view(name: str, made: Sequence[tuple[str, str, str]], hours: Sequence[int]) -> ViewPlan:
    types = {f.name: f.type for f in FIELDS} | {"": "INT64"}
    plans = tuple(
        AggregationPlan(
            f"{function}_{column or 'events'}_{length}h", column, function, length * HOUR,
            MINUTE * length, 3.0 if function == "last_n" else 0.0, types[column], output,
        )
        for length in hours
        for function, column, output in made
    )  # fmt: skip
    fields = tuple(FieldPlan(a.name, a.output_type) for a in plans)
    return ViewPlan(name, "window", KEY, fields, stream="clicks", aggregations=plans)


def catalog(folder: Path, project: str) -> Catalog:
    stream = StreamSourcePlan(
        "clicks", (f"{project}-a", f"{project}-b"), "", "json", FIELDS, "at",
        log_path=str(folder / "log"),
    )  # fmt: skip
    loaded = BatchSourcePlan("loaded", "parquet", str(folder / "loaded.parquet"), "at")
    row = (FieldPlan("amount", "DOUBLE"), FieldPlan("quantity", "INT64"))
    views = (
        window_view("tiles", WINDOWS, (1, 6)), window_view("sketches", SKETCHES, (2,)),
        ViewPlan("newest", "row", KEY, (*row, FieldPlan("page", "STRING")), stream="clicks"),
        ViewPlan("fresh", "row", KEY, row, ttl_us=HOUR, stream="clicks"),
        ViewPlan("profile", "row", KEY, row, ttl_us=12 * HOUR, batch=loaded),
    )  # fmt: skip
    return Catalog(project, "v1", "", str(folder), streams={"clicks": stream},
                   views={view.name: view for view in views})  # fmt: skip


class World:
    """Events come in by `take_in`, vectors go out by `ask`; `report` says if they agree."""

    def __init__(
        self, folder: Path, url: str, project: str, seed: int = 1, users: int = USERS,
        views: Sequence[ViewPlan] = (), more: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """views: in place of all that `catalog` has. more: further numbers that each event has."""
        self.folder, self.url, self.chance = folder, url, random.Random(seed)
        self.users = users
        self.catalog = catalog(folder, project)
        if views:
            self.catalog = msgspec.structs.replace(self.catalog, views={v.name: v for v in views})
        wide = tuple(FieldPlan(name, "DOUBLE") for name in more)
        stream = msgspec.structs.replace(self.stream, fields=FIELDS + wide)
        self.catalog = msgspec.structs.replace(self.catalog, streams={stream.name: stream})
        self._more = more
        self.client = redis.Redis.from_url(url)
        self.writer = OnlineWriter(self.client, project)
        self.progress = Progress(self.client, project)
        self.sinks = [
            make_sink(project, v, self.writer) for v in self.catalog.views.values() if v.stream
        ]
        self.log = EventLog(self.stream)
        self._offsets = {(t, p): 0 for t in self.stream.topics for p in range(PARTITIONS)}
        self._marks = dict.fromkeys(self._offsets, -(2**62))
        self._load()
        self.progress.epoch()

    @property
    def stream(self) -> StreamSourcePlan:
        return self.catalog.streams["clicks"]

    def _load(self) -> None:
        """Some users have a row in the batch view; some of these are older than its ttl."""
        now = time.time_ns() // 1000
        if "profile" not in self.catalog.views:
            return
        users = list(range(0, self.users, 2))
        table = pa.table({
            "user_id": users, "amount": [u / 3 for u in users],
            "quantity": pa.array([None if u % 4 else u for u in users], pa.int64()),
            "at": pa.array([now - u * 2 * HOUR for u in users], TIMESTAMP),
        })  # fmt: skip
        pq.write_table(table, self.folder / "loaded.parquet")
        materialize(self.catalog, self.writer, ["profile"])

    def take_in(self, events: int, written: bool = True) -> None:
        """Random events on all partitions: in disorder by hours, with nulls and ties."""
        for place in self._offsets:
            self._apply(self._batch(place, events))
        if written:
            self.write()

    def take(self, events: Sequence[tuple[int, int, float]], written: bool = True) -> None:
        """The given events, (user, event time, amount), on one partition; the quantity is 1."""
        n = len(events)
        users, ts, amounts = (np.array(column) for column in zip(*events, strict=True))
        place = (self.stream.topics[0], 0)
        columns = {
            "user_id": users, "amount": amounts, "quantity": [1] * n, "page": ["p"] * n,
            "at": pa.array(ts, TIMESTAMP),
        }  # fmt: skip
        self._apply(self._made(place, columns, ts, np.arange(n)))
        if written:
            self.write()

    def _apply(self, batch: Batch) -> None:
        place = (batch.topic, batch.partition)
        self.log.append(self._logged(batch), {place: self._offsets[place] - 1})
        now = time.time_ns() // 1000
        for sink in self.sinks:
            sink.apply(batch, now)

    def write(self) -> None:
        write(self.sinks, self.writer)
        held = self.progress.all()
        places = [Place(s.prefix, *at) for s in self.sinks for at in self._offsets]
        self.progress.move({p: (held.get(p), self._offsets[p[1:]]) for p in places})

    def _batch(self, place: tuple[str, int], n: int) -> Batch:
        chance, now = self.chance, time.time_ns() // 1000

        def maybe(value: Any) -> Any:
            return None if chance.random() < 0.1 else value

        ts = np.array([
            now - chance.choice([chance.randrange(MINUTE), chance.randrange(HOUR),
                                 chance.randrange(6 * HOUR), chance.randrange(360) * MINUTE,
                                 -chance.randrange(20 * MINUTE)])
            for _ in range(n)
        ])  # fmt: skip
        users = np.array([chance.randrange(self.users - 2) for _ in range(n)])
        ts[users == 0] -= 2 * HOUR  # has nothing new
        # Two topics with an event of one time, partition and offset: which is newer is undefined.
        ts = ts // 2 * 2 + self.stream.topics.index(place[0])
        columns = {
            "user_id": pa.array(users, pa.int64()),
            "amount": pa.array([maybe(chance.choice([1e9, -1e9, 0.1, chance.random()]))
                                for _ in range(n)], pa.float64()),
            "quantity": pa.array([maybe(chance.randrange(50)) for _ in range(n)], pa.int64()),
            "page": pa.array([maybe(f"p{chance.randrange(9)}") for _ in range(n)]),
            "at": pa.array(ts, TIMESTAMP),
        }  # fmt: skip
        # Offsets have gaps: what was rejected, and a transaction's ends.
        steps = np.cumsum([chance.randrange(1, 4) for _ in range(n)])
        return self._made(place, columns, ts, steps)

    def _made(self, place: tuple[str, int], columns: Any, ts: Any, steps: Any) -> Batch:
        """Events as the next ones of a partition."""
        offsets = self._offsets[place] + steps
        self._offsets[place] = int(offsets[-1]) + 1
        marks = np.maximum.accumulate(np.maximum(ts, self._marks[place]))
        self._marks[place] = int(marks[-1])
        numbers = np.random.default_rng(int(offsets[0])).normal(size=(len(self._more), len(ts)))
        events = pa.table(columns | dict(zip(self._more, numbers, strict=True)))
        return Batch(*place, events, ts, None, offsets, marks)

    def _logged(self, batch: Batch) -> pa.Table:
        n = len(batch.ts)
        own = {
            TOPIC: pa.repeat(pa.scalar(batch.topic, pa.string()), n),
            PARTITION: pa.repeat(pa.scalar(batch.partition, pa.int32()), n),
            OFFSET: pa.array(batch.offsets),
            ARRIVED: pa.repeat(pa.scalar(time.time_ns() // 1000, TIMESTAMP), n),
        }
        table = batch.events
        for name, column in own.items():
            table = table.append_column(name, column)
        return table.select(self.log.schema.names).cast(self.log.schema)

    def serve(self, rounds: int, meanwhile: Any = lambda turn: None) -> None:
        """Log vectors of every user, together and alone; `meanwhile(round)` runs in between."""
        asyncio.run(self._serve(rounds, meanwhile))

    async def _serve(self, rounds: int, meanwhile: Any) -> None:
        metrics = Metrics()
        settings = Settings(feature_log=str(self.folder / "vectors"), redis_timeout_seconds=0.2)
        logs = FeatureLogs(settings, metrics, self.url)
        vectors = Vectors(settings, metrics, logs)
        vectors.use(self.catalog)
        vectors.link = open_link(self.url, 5.0)
        views = [*self.catalog.views.values(), *self.catalog.on_demand.values()]
        features = [f"{v.name}:{f}" for v in views for f in v.feature_names]
        alone = [
            f"{name}:{feature}" for name in ("fresh", "profile") if name in self.catalog.views
            for feature in ("amount", "quantity")
        ]  # fmt: skip
        for turn in range(rounds):
            meanwhile(turn)
            await self._ask(vectors, features, list(range(self.users)))
            for user in range(self.users):
                await self._ask(vectors, features, [user])
                if alone:
                    await self._ask(vectors, alone, [user])
            # What is known of a request's state was looked up before it was sent.
            await asyncio.sleep(0.5)
        await vectors.link.close()
        await asyncio.to_thread(logs.close)

    async def _ask(self, vectors: Vectors, features: Sequence[str], users: list[int]) -> None:
        body = {"features": list(features), "entities": {"user_id": users},
                "full_feature_names": True}  # fmt: skip
        reply = await vectors.answer(orjson.dumps(body), Wishes())
        assert reply.status == 200, reply.body

    @property
    def served(self) -> FeatureLog:
        return FeatureLog(str(self.folder / "vectors" / "features"))

    def report(self, skew: bool = False) -> Report:
        return verify(self.catalog, [self.served], skew=skew)

    def change(self, **views: Any) -> None:
        """Another version of some views' definitions."""
        changed = {n: msgspec.structs.replace(self.catalog.views[n], **c) for n, c in views.items()}
        self.catalog = msgspec.structs.replace(
            self.catalog, version=f"{self.catalog.version}+", views=self.catalog.views | changed
        )
