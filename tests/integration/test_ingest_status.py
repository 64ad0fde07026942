"""What `headwater status` says of partitions, from what workers left in Redis."""

from __future__ import annotations

import time

import numpy as np
import orjson

from headwater.catalog import (
    AggregationPlan,
    Catalog,
    FieldPlan,
    JoinKeyPlan,
    StreamSourcePlan,
    ViewPlan,
)
from headwater.codec import key_prefix
from headwater.online import ingest_status
from headwater.online.connect import connect
from headwater.online.ingest_status import PartitionStatus
from headwater.online.progress import Place, Progress
from headwater.online.writer import OnlineWriter
from headwater.settings import Settings
from headwater.times import NO_TIME
from ingest.metrics import Metrics
from ingest.records import PackedRecords, TopicPartition
from ingest.route import StreamRoute

FIELDS = (FieldPlan("amount", "INT64"),)


def _view(hours: int) -> ViewPlan:
    count = AggregationPlan("n", "", "count", hours * 3_600_000_000, 60_000_000)
    features = (FieldPlan("n", "INT64"),)
    return ViewPlan(
        "spent", "window", (JoinKeyPlan("user", "INT64"),), features, stream="orders",
        aggregations=(count,),
    )  # fmt: skip


def test_an_event_ahead_of_the_clock_does_not_hide_that_nothing_comes(redis_url: str) -> None:
    """It may come up to an hour early, and the view would be fresh for as long."""
    fields = (FieldPlan("user", "INT64"), FieldPlan("at", "UNIX_TIMESTAMP"))
    source = StreamSourcePlan("orders", ("orders",), "", "json", fields, "at")
    catalog = Catalog(
        "status_ahead", "1", redis_url, "", streams={"orders": source}, views={"spent": _view(1)}
    )
    writer = OnlineWriter(connect(redis_url), catalog.project)
    route = StreamRoute(catalog, source, writer, Settings(log="off"), Metrics())
    came = time.time_ns() // 1_000_000 - 60_000 + np.arange(4) * 1000
    ages_ms = [500, -1_800_000, 20_000, -7_200_000]  # the last one is too far ahead
    values = [
        orjson.dumps({"user": 1, "at": int(at) - age})
        for at, age in zip(came, ages_ms, strict=True)
    ]  # fmt: skip
    records = PackedRecords.of(TopicPartition("orders", 0), values, np.arange(4), came)
    before = time.time_ns() // 1000
    taken = route.take(records, NO_TIME)
    assert taken.batch is not None
    assert len(taken.batch.ts) == 3
    assert before <= route.newest_us <= time.time_ns() // 1000

    # A row that is loaded or pushed may lie ahead as well.
    writer.raise_clocks({("online", "spent"): time.time_ns() // 1000 + 3_600_000_000})
    assert writer.clocks()["online", "spent"] <= time.time_ns() // 1000


def test_a_view_is_behind_by_its_present_definition_alone(redis_url: str) -> None:
    view, before = _view(1), _view(24)
    source = StreamSourcePlan("orders", ("orders",), "", "json", FIELDS, "at")
    catalog = Catalog(
        "status_behind", "1", redis_url, "", streams={"orders": source}, views={"spent": view}
    )
    assert key_prefix(catalog.project, view) != key_prefix(catalog.project, before)
    writer = OnlineWriter(connect(redis_url), catalog.project)
    status = PartitionStatus("worker", position=500, end=500, committed=500, updated_at=1000.0)
    ingest_status.publish(writer, {("orders", 0): status})
    progress = Progress(writer.client, catalog.project)

    def behind(whole: int) -> int:
        place = Place(key_prefix(catalog.project, view), "orders", 0)
        progress.move({place: (progress.all().get(place), whole)})
        (row,) = ingest_status.partitions(catalog, writer, 1000.0)
        return int(row["behind"])

    progress.move({Place(key_prefix(catalog.project, before), "orders", 0): (None, 100)})
    assert behind(400) == 1
    assert behind(500) == 0
