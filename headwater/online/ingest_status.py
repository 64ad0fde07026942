"""What workers say of themselves, partition by partition: a hash in Redis that anybody may read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from headwater.online.connect import store_errors
from headwater.online.writer import OnlineWriter


class PartitionStatus(msgspec.Struct):
    """One partition as its worker sees it. Times of the clock in seconds, others as named.

    position: the next offset to take in; end: the partition's end when it was last asked;
    record_ms: when Kafka got the last record taken in; rate: events a second; rejected: kind ->
    how many since the worker started; state_keys,
    state_bytes: window states in the worker's memory. stopped: the worker ended as it was asked to.
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
