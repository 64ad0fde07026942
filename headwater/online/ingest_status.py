"""What workers say of themselves, partition by partition: a hash in Redis that anybody may read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from headwater.catalog import Catalog
from headwater.codec import key_prefix
from headwater.online.connect import store_errors
from headwater.online.progress import Progress
from headwater.online.writer import OnlineWriter

#: A worker speaks every second; one that was silent for so long is gone.
SILENT_SECONDS = 10.0


class PartitionStatus(msgspec.Struct):
    """One partition as its worker sees it. Times of the clock in seconds, others as named.

    position: the next offset to take in; end: the partition's end when it was last asked;
    record_ms: when Kafka got the last record taken in; rate: events a second; rejected: kind ->
    how many since the worker started; taken: what became of the messages before the committed
    offset ("applied", "rejected"), whichever workers took them in; state_keys, state_bytes: window
    states in the worker's memory. stopped: the worker ended as it was asked to.
    """

    worker: str
    position: int = 0
    end: int = 0
    committed: int | None = None
    committed_at: float | None = None
    record_ms: int | None = None
    watermark_us: int | None = None
    applied: int = 0
    rejected: dict[str, int] = {}
    taken: dict[str, int] = {}
    rate: float = 0.0
    updated_at: float = 0.0
    state_keys: int = 0
    state_bytes: int = 0
    stopped: bool = False

    @property
    def lag_records(self) -> int:
        return max(0, self.end - self.position)

    def lag_seconds(self, now: float) -> float:
        """Age of the last record taken in while there are newer ones; else 0."""
        if not self.lag_records or self.record_ms is None:
            return 0.0
        return max(0.0, now - self.record_ms / 1000)


def _key(project: str) -> str:
    return f"headwater:{project}:ingest"


def publish(writer: OnlineWriter, of: Mapping[tuple[str, int], PartitionStatus]) -> None:
    """Replace what is said of some (topic, partition)."""
    if of:
        fields: dict[Any, Any] = {
            f"{topic}|{partition}": msgspec.json.encode(status)
            for (topic, partition), status in of.items()
        }
        with store_errors():
            writer.client.hset(_key(writer.project), mapping=fields)


def read(writer: OnlineWriter) -> dict[tuple[str, int], PartitionStatus]:
    """What the workers last said of each (topic, partition)."""
    with store_errors():
        found: Any = writer.client.hgetall(_key(writer.project))
    status: dict[tuple[str, int], PartitionStatus] = {}
    for field, value in found.items():
        topic, partition = field.decode().rsplit("|", 1)
        status[topic, int(partition)] = msgspec.json.decode(value, type=PartitionStatus)
    return status


def partitions(catalog: Catalog, writer: OnlineWriter, now: float) -> list[dict[str, Any]]:
    """One row a (topic, partition) that a worker of the project has taken in.

    behind: how many of the views that read the topic are whole only up to an earlier offset than
    the worker has reached: they are being rebuilt, or wait for it.
    """
    progress = Progress(writer.client, catalog.project).all()
    known = {topic for stream in catalog.streams.values() for topic in stream.topics}
    # What a view's earlier definition had read stays noted until its state is thrown away.
    views = {key_prefix(catalog.project, view) for view in catalog.views.values()}
    rows = []
    for (topic, partition), status in sorted(read(writer).items()):
        if topic not in known:
            continue
        whole = [
            at for p, at in progress.items() if p.prefix in views and p[1:] == (topic, partition)
        ]
        rows.append(
            {
                "topic": topic,
                "partition": partition,
                "worker": status.worker,
                "running": not status.stopped and now - status.updated_at < SILENT_SECONDS,
                "stopped": status.stopped,
                "position": status.position,
                "lag_records": status.lag_records,
                "lag_seconds": round(status.lag_seconds(now), 3),
                "watermark_us": status.watermark_us,
                "events_per_second": round(status.rate, 1),
                "applied": status.applied,
                "rejected": status.rejected,
                "behind": sum(at < (status.committed or 0) for at in whole),
                "state_keys": status.state_keys,
                "state_bytes": status.state_bytes,
                "committed": status.committed,
                "committed_at": status.committed_at,
            }
        )
    return rows
