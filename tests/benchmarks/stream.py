"""Headwater's stream engine under a benchmark: servers, a project, a worker's run, its values."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import redis

from headwater import catalog_cache
from headwater.errors import SettingError
from headwater.local import LocalKafka, LocalRedis
from headwater.local.process import free_ports
from headwater.offline.log import delta_files
from headwater.online.values import ViewReader
from headwater.settings import Settings
from tests.benchmarks import events, measure
from tests.benchmarks.cores import limited
from tests.benchmarks.events import HOUR_US, Events
from tests.processes import feature_store

TOPIC = "orders"
SAMPLE = 2_500
#: {suffix: (length, hop) in us}; the hops are the defaults of design.md (at most W/60).
WINDOWS = {"1h": (HOUR_US, HOUR_US // 60), "24h": (24 * HOUR_US, HOUR_US // 4)}
SOURCE = """
from datetime import timedelta
from feast import Entity, FeatureService, FileSource, Field, KafkaSource, StreamFeatureView
from feast import ValueType
from feast.aggregation import Aggregation
from feast.data_format import DeltaFormat, JsonFormat
from feast.types import Float64, Int64, String

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
orders = KafkaSource(
    name="orders", topic="orders", kafka_bootstrap_servers="127.0.0.1:1",
    timestamp_field="at", message_format=JsonFormat("{schema}"),
    batch_source=FileSource(name="orders_log", path="data/log/orders",
                            file_format=DeltaFormat(), timestamp_field="at"),
)
functions = [("count", Int64), ("sum", Float64), ("mean", Float64), ("min", Float64),
             ("max", Float64)]
windows = StreamFeatureView(
    name="user_windows", entities=[user], source=orders, timestamp_field="at",
    schema=[Field(name="user_id", dtype=Int64)]
    + [Field(name=f"{{f}}_{{h}}h", dtype=t) for h in (1, 24) for f, t in functions],
    aggregations=[
        Aggregation(column="amount", function=f, time_window=timedelta(hours=h),
                    name=f"{{f}}_{{h}}h")
        for h in (1, 24) for f, _ in functions
    ],
)
"""
ROW_VIEW = """
latest = StreamFeatureView(
    name="user_latest", entities=[user], source=orders, timestamp_field="at",
    schema=[Field(name="user_id", dtype=Int64), Field(name="amount", dtype=Float64),
            Field(name="quantity", dtype=Int64), Field(name="country", dtype=String),
            Field(name="device", dtype=String)],
)
everything = FeatureService(name="everything", features=[windows, latest])
"""


@dataclass(frozen=True)
class Servers:
    """A real broker and an embedded Redis, and a folder for what the runs write."""

    kafka: LocalKafka
    redis: LocalRedis
    folder: Path

    @property
    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis.url)


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Both on the benchmark's cores, for as long as the block runs."""
    measure.use_cores()
    kafka, store = LocalKafka(allow_mock=False, say=print), LocalRedis()
    try:
        store.start()
        kafka.start()
        yield Servers(kafka, store, folder)
    finally:
        kafka.close()
        store.close()


@dataclass(frozen=True)
class Project:
    """A registered Feast project over the topic: the full job, or its windows alone ("tiles")."""

    servers: Servers
    rows: bool
    env: dict[str, str] = field(default_factory=dict)

    @property
    def repo(self) -> Path:
        return self.servers.folder / ("full" if self.rows else "tiles")

    def apply(self) -> Project:
        """Write and register the definitions."""
        self.repo.mkdir(parents=True)
        (self.repo / "feature_store.yaml").write_text(
            feature_store("bench", self.servers.redis.url)
        )
        text = SOURCE.format(schema=events.SCHEMA)
        (self.repo / "definitions.py").write_text(text + (ROW_VIEW if self.rows else ""))
        command = [sys.executable, "-P", "-m", "headwater.cli", "apply", "--repo", str(self.repo)]
        done = subprocess.run(
            command, env=self.environ(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"apply failed: {done.stderr[-2000:]}")
        return self

    def environ(self, **more: str) -> dict[str, str]:
        """The environment of a Headwater process on these servers."""
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")},
            "REDIS_URL": self.servers.redis.url,
            "KAFKA_BOOTSTRAP_SERVERS": self.servers.kafka.bootstrap,
            **self.env,
            **more,
        }

    def clear(self) -> None:
        """As if nothing had been taken in: an empty Redis, no log."""
        with self.servers.client as client:
            client.flushall()
        shutil.rmtree(self.repo / "data" / "log", ignore_errors=True)

    def worker(self, *words: str) -> list[str]:
        return [sys.executable, "-P", "-m", "ingest", "--repo", str(self.repo), *words]

    def ingest(
        self, total: int, settings: Mapping[str, str], workers: int = 1, cores: float = 0.0
    ) -> measure.Run:
        """Workers of a new group from the topic's start to its end, on empty stores.

        cores: how many each may use; 0: all. Raises OSError where they cannot be limited.
        """
        self.clear()
        ports, group = free_ports(workers), uuid.uuid4().hex
        commands = [self.worker("--until-end")] * workers
        with limited(commands, cores) if cores else nullcontext(commands) as started:
            return measure.run(
                started,
                [
                    self.environ(
                        HEADWATER_GROUP=group, HEADWATER_METRICS_PORT=str(port), **settings
                    )
                    for port in ports
                ],
                lambda: sum(applied(port) for port in ports),
                total,
                log=self.repo / "worker.log",
            )

    def check(self, sent: Events, *, logged: bool = True) -> int:
        """Compare windows and rows of a sample of users, and the log's rows, with the source.

        Returns the number of values compared. Raises AssertionError for a wrong one.
        """
        chance = np.random.default_rng(5)
        known = np.unique(sent.user)
        users = np.sort(chance.choice(known, min(SAMPLE, len(known)), replace=False)).tolist()
        source = sent.of(users)
        compared = 0
        for view, now_us, found in self._served(users):
            for i, user in enumerate(users):
                if view == "user_windows":
                    true = events.windows(source[user], WINDOWS, now_us)
                else:
                    true = events.latest(source[user])
                for name, value in true.items():
                    got = found[name][i]
                    assert same(got, value), f"{view}.{name} of user {user}: {got}, not {value}"
                    compared += 1
        if logged:
            rows = log_rows(self.repo)
            assert rows == sent.n, f"the log has {rows:,} rows of {sent.n:,} events"
        return compared

    def _served(self, users: list[int]) -> Iterator[tuple[str, int, dict[str, list[Any]]]]:
        catalog = catalog_cache.load(self.repo)
        with self.servers.client as client:
            for view in catalog.views.values():
                reader = ViewReader(catalog.project, view)
                data = client.mget(reader.keys([users], len(users)))
                now_us = time.time_ns() // 1000
                values = reader.values(data, view.feature_names, now_us).values
                yield view.name, now_us, dict(zip(view.feature_names, values, strict=True))


def applied(port: int) -> int:
    """Events that the worker with /metrics on this port has applied; 0 while it is not up."""
    return measure.counter(f"http://127.0.0.1:{port}/metrics", "featurestore_ingest_records_total")


def takes(name: str, value: str) -> bool:
    """Whether Headwater has the setting HEADWATER_name, with such a value."""
    try:
        Settings.from_env({f"HEADWATER_{name}": value})
    except SettingError:
        return False
    return True


def same(got: Any, wanted: Any) -> bool:
    """Equal, but for the order in which floats were added."""
    if isinstance(wanted, float) and isinstance(got, float):
        return abs(got - wanted) <= 1e-9 * max(1.0, abs(wanted))
    return bool(got == wanted)


def log_rows(repo: Path) -> int:
    """Rows in the offline log, from its files' footers."""
    (stream,) = catalog_cache.load(repo).streams.values()
    return sum(pq.read_metadata(path).num_rows for path in delta_files(stream.log_path))
