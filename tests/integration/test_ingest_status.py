"""What `headwater status` says of partitions, from what workers left in Redis."""

from __future__ import annotations

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

FIELDS = (FieldPlan("amount", "INT64"),)


def _view(hours: int) -> ViewPlan:
    count = AggregationPlan("n", "", "count", hours * 3_600_000_000, 60_000_000)
    features = (FieldPlan("n", "INT64"),)
    return ViewPlan(
        "spent", "window", (JoinKeyPlan("user", "INT64"),), features, stream="orders",
        aggregations=(count,),
    )  # fmt: skip


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
