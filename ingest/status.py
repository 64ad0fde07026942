"""How far the worker is: as metrics, as a hash in Redis for `headwater status`, as log lines."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence

from headwater.online import dead_letters
from headwater.online.ingest_status import PartitionStatus, publish
from headwater.online.writer import OnlineWriter
from headwater.times import NO_TIME
from ingest.letters import letter_of
from ingest.metrics import Metrics
from ingest.records import DeadLetter, Records, TopicPartition
from ingest.route import StreamRoute, Taken
from ingest.routes import Routes

logger = logging.getLogger("headwater.ingest")
SUMMARY_SECONDS = 60.0


class Status:
    """Takes note of what the loop does; shows it once a second."""

    def __init__(self, writer: OnlineWriter, metrics: Metrics) -> None:
        self._writer, self._metrics = writer, metrics
        self._of: dict[TopicPartition, PartitionStatus] = {}
        self._since = self._summed = time.monotonic()
        self._before: Counter[TopicPartition] = Counter()
        self._summary: Counter[str] = Counter()
        #: Of each partition and source, the offset before which every record was counted.
        self._counted: dict[tuple[TopicPartition, str], int] = {}
        self._jumps: Counter[TopicPartition] = Counter()
        #: (the dead letter, when it was put aside, ms): those that are yet to be shown.
        self._buried: dict[str, deque[tuple[DeadLetter, int]]] = {}

    def began(
        self, tp: TopicPartition, position: int, committed: int | None, watermark: int,
        taken: dict[str, int],
    ) -> None:  # fmt: skip
        """The partition is this worker's, whether or not there is anything to take in."""
        status = self._of.setdefault(tp, PartitionStatus(worker=_worker()))
        status.position, status.committed, status.taken = position, committed, taken
        status.end = max(status.end, position)
        status.watermark_us = _or_none(watermark)

    def took(self, records: Records, taken: Taken, route: StreamRoute) -> None:
        """Some records of a partition were judged for one source; each offset counts once."""
        tp = records.tp
        before = self._counted.get((tp, route.stream.name), 0)
        fresh = [(at, kind) for at, kind, _ in taken.rejected if records.offset[at] >= before]
        applied = 0 if taken.batch is None else int((taken.batch.offsets >= before).sum())
        self._counted[tp, route.stream.name] = max(before, records.next_offset)
        count = self._metrics.records.labels
        count(tp.topic, "applied").inc(applied)
        count(tp.topic, "rejected").inc(len(fresh))
        count(tp.topic, "duplicate").inc(int((records.offset < before).sum()))
        status = self._of.setdefault(tp, PartitionStatus(worker=_worker()))
        status.applied += applied
        for _, kind in fresh:
            status.rejected[kind] = status.rejected.get(kind, 0) + 1
            for view in route.views:
                self._metrics.rejected.labels(view.name, kind).inc()
                if kind == "late":
                    self._metrics.late.labels(view.name, "dead_letter").inc()
        self._summary["applied"] += applied
        self._summary["rejected"] += len(fresh)

    def reached(self, records: Records, watermark: int) -> None:
        """A partition is taken in up to the end of some records."""
        tp = records.tp
        status = self._of.setdefault(tp, PartitionStatus(worker=_worker()))
        status.position, status.end = records.next_offset, records.end_offset
        status.watermark_us = _or_none(watermark)
        if len(records):
            status.record_ms = int(records.timestamp_ms[-1])
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "batch",
                extra={"fields": {
                    "topic": tp.topic, "partition": tp.partition, "records": len(records),
                    "next_offset": records.next_offset, "end_offset": records.end_offset,
                    "watermark_us": status.watermark_us,
                }},
            )  # fmt: skip

    def gave_up(self, tp: TopicPartition) -> None:
        """The partition is another worker's."""
        self._of.pop(tp, None)
        self._before.pop(tp, None)
        # Its lag is shown by its new owner; a series cannot be removed in every mode of the client.
        for gauge in (self._metrics.lag_records, self._metrics.lag_seconds):
            gauge.labels(tp.topic, str(tp.partition)).set(0)

    def committed(self, of: Mapping[TopicPartition, tuple[int, dict[str, int]]]) -> None:
        """The offset that was committed, and what became of the messages before it."""
        for tp, (offset, taken) in of.items():
            status = self._of.setdefault(tp, PartitionStatus(worker=_worker()))
            status.committed, status.committed_at, status.taken = offset, time.time(), taken

    def buried(self, dead: Sequence[DeadLetter]) -> None:
        """Letters are in their topic for good; the last are shown with the next status."""
        now_ms = time.time_ns() // 1_000_000
        for letter in dead:
            last = self._buried.setdefault(letter.topic, deque(maxlen=dead_letters.KEPT))
            last.append((letter, now_ms))

    def show(
        self, route: StreamRoute, watermarks: Mapping[TopicPartition, Mapping[str, int]]
    ) -> None:
        """A source's clocks as metrics."""
        name = route.stream.name
        marks = [held[name] for held in watermarks.values() if held.get(name, NO_TIME) > NO_TIME]
        for view in route.views:
            if route.newest_us > NO_TIME:
                self._metrics.last_event.labels(view.name, "source").set(route.newest_us / 1e6)
            if marks:
                self._metrics.watermark.labels(view.name).set(max(marks) / 1e6)

    def jumped(self, jumps: Mapping[TopicPartition, int]) -> None:
        """How often, so far, messages of a partition were gone before they were read."""
        for tp, count in jumps.items():
            self._metrics.jumps.labels(tp.topic, str(tp.partition)).inc(count - self._jumps[tp])
            self._jumps[tp] = count

    def stopped(self, routes: Routes) -> None:
        """The worker ends as it was asked to, here; it holds no state and takes nothing in."""
        self._writer.raise_clocks(routes.clocks("source"))
        for status in self._of.values():
            status.stopped, status.updated_at, status.rate = True, time.time(), 0.0
            status.state_keys = status.state_bytes = 0
        self._say()

    def _say(self) -> None:
        publish(self._writer, {(tp.topic, tp.partition): s for tp, s in self._of.items()})
        last = [one for of_topic in self._buried.values() for one in of_topic]
        dead_letters.keep(self._writer, [letter_of(dead.original, at) for dead, at in last])
        self._buried.clear()

    def publish(self, routes: Routes) -> None:
        """Once a second: lag, rates and sources' clocks as metrics and for `headwater status`."""
        now, elapsed = time.time(), time.monotonic() - self._since
        self._since = time.monotonic()
        for tp, status in self._of.items():
            status.updated_at = now
            sizes = [s.held(tp) for r in routes if tp.topic in r.stream.topics for s in r.sinks]
            status.state_keys = sum(keys for keys, _ in sizes)
            status.state_bytes = sum(size for _, size in sizes)
            status.rate = (status.applied - self._before[tp]) / max(elapsed, 1e-3)
            self._before[tp] = status.applied
            labels = (tp.topic, str(tp.partition))
            self._metrics.lag_records.labels(*labels).set(status.lag_records)
            self._metrics.lag_seconds.labels(*labels).set(status.lag_seconds(now))
        self._writer.raise_clocks(routes.clocks("source"))
        self._say()
        self._metrics.turned.set_to_current_time()
        if time.monotonic() - self._summed >= SUMMARY_SECONDS:
            self._summed = time.monotonic()
            lag = sum(status.lag_records for status in self._of.values())
            fields = {"partitions": len(self._of), "lag_records": lag, **self._summary}
            logger.info("last minute", extra={"fields": fields})
            self._summary.clear()


def _or_none(watermark: int) -> int | None:
    return watermark if watermark > NO_TIME else None


def _worker() -> str:
    return f"{os.uname().nodename}-{os.getpid()}"
