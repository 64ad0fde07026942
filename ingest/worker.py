"""The worker's one loop: poll, decode, fold, write Redis, append to the log, commit.

Each step may be repeated after a crash: Redis keeps the higher offset, the log knows the offsets
that it holds, and what decides about an event (the watermark) is saved with the committed offset.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition

from headwater import catalog_cache
from headwater.arrow import TIMESTAMP
from headwater.catalog import Catalog, StreamSourcePlan
from headwater.errors import HeadwaterError, LogConflictError, StoreUnavailableError
from headwater.offline.log import ARRIVED, OFFSET, PARTITION, TOPIC, EventLog
from headwater.online.sinks import Batch, Sink, make_sink
from headwater.online.writer import OnlineWriter
from headwater.settings import Settings
from headwater.windows import WindowProgram
from ingest import broker
from ingest.decoders import Decoded, make_decoder
from ingest.metrics import Metrics
from ingest.records import PackedRecords
from ingest.records import TopicPartition as Place

logger = logging.getLogger("headwater.ingest")
NO_TIME = -(2**62)


class StreamRoute:
    """One Kafka source: how it is decoded, which views it feeds, where its log is."""

    def __init__(
        self, catalog: Catalog, stream: StreamSourcePlan, writer: OnlineWriter, settings: Settings
    ) -> None:
        self.stream = stream
        self.decoder = make_decoder(stream, settings)
        views = catalog.views_of_stream(stream.name)
        self.views = views
        self.sinks: list[Sink] = [
            make_sink(catalog.project, view, writer, settings.state_cache_keys)
            for view in views
            if view.online
        ]
        only_windows = bool(views) and all(view.kind == "window" for view in views)
        self.programs = [WindowProgram.of(view) for view in views] if only_windows else []
        self.log = EventLog(stream)
        self.buffer: list[pa.Table] = []
        self.newest_us = NO_TIME

    def late(self, ts: Any, watermark: Any) -> Any:
        """Which events are late: by the source's delay, or where no view can use them."""
        if self.stream.watermark_delay_us is not None:
            return ts < watermark - self.stream.watermark_delay_us
        late = np.full(len(ts), bool(self.programs))
        for program in self.programs:
            late &= program.is_late(ts, watermark)
        return late


class Worker(ConsumerRebalanceListener):  # type: ignore[misc]
    """Owns some partitions of the project's topics and takes their events in."""

    def __init__(self, repo: Path, settings: Settings, writer: OnlineWriter) -> None:
        self.repo, self.settings, self.writer = repo, settings, writer
        self.metrics = Metrics()
        self.stopping = False
        self._moved = False
        self._servers = ""
        self._routes: dict[str, list[StreamRoute]] = {}
        self._watermarks: dict[TopicPartition, int] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._rows = 0
        self._flushed = time.monotonic()
        self._dead: Any = None
        self._load()
        self.consumer: KafkaConsumer = broker.consumer(
            self._servers, self._group, settings.batch_records
        )

    def _load(self) -> None:
        self._fingerprint = catalog_cache.fingerprint(self.repo)
        self.catalog = catalog = catalog_cache.load(self.repo)
        self._group = self.settings.group or f"headwater-{catalog.project}"
        routes: dict[str, list[StreamRoute]] = defaultdict(list)
        for stream in catalog.streams.values():
            route = StreamRoute(catalog, stream, self.writer, self.settings)
            for topic in stream.topics:
                routes[topic].append(route)
            self._servers = self.settings.kafka_bootstrap_servers or stream.bootstrap_servers
        if not routes:
            raise HeadwaterError("the catalogue has no Kafka source; there is nothing to ingest")
        self._routes = dict(routes)

    # -- the loop --------------------------------------------------------------------------------

    def run(self, until_end: bool) -> None:
        """Take events in until `stopping` is set, or the end that was seen at the start."""
        ends = self._ends() if until_end else {}
        self.consumer.subscribe(sorted(self._routes), listener=self)
        checked = time.monotonic()
        while not self.stopping:
            polled = self.consumer.poll(timeout_ms=100, max_records=self.settings.batch_records)
            try:
                if self._moved:
                    # Whoever owns a partition now starts at its committed offset; so do we.
                    self._moved = False
                    self._start_over()
                    continue
                for tp, records in polled.items():
                    self._take(tp, records)
                due = time.monotonic() - self._flushed >= self.settings.log_flush_seconds
                if due or self._rows >= self.settings.log_flush_rows:
                    self.flush()
            except StoreUnavailableError as error:
                logger.warning("%s; reading again from the committed offsets", error)
                time.sleep(0.5)
                self._start_over()
            if until_end and self._reached(ends):
                break
            if time.monotonic() - checked > 1.0:
                checked = time.monotonic()
                self._check_catalog()
        self.flush()
        self.consumer.close(autocommit=False)

    def _owned(self) -> set[TopicPartition]:
        return set(self.consumer.assignment())

    def _ends(self) -> dict[TopicPartition, int]:
        """The end offset of every partition of the project's topics."""
        parts = [
            TopicPartition(topic, partition)
            for topic in self._routes
            for partition in self.consumer.partitions_for_topic(topic) or ()
        ]
        return dict(self.consumer.end_offsets(parts)) if parts else {}

    def _reached(self, ends: dict[TopicPartition, int]) -> bool:
        """Whether this worker, or for other partitions another one, has got to the ends."""
        owned = self._owned()
        for tp, end in ends.items():
            at = self._positions.get(tp)
            if at is None and tp in owned:
                at = int(self.consumer.position(tp))
            elif at is None and end:
                at = self.consumer.committed(tp) or 0
            if end and (at or 0) < end:
                return False
        return True

    def _take(self, tp: TopicPartition, records: list[Any]) -> None:
        offsets = np.fromiter((r.offset for r in records), np.int64, len(records))
        stamps = np.fromiter((r.timestamp * 1000 for r in records), np.int64, len(records))
        start = self._watermark(tp)
        newest = start
        packed = PackedRecords.of(
            Place(tp.topic, tp.partition), [r.value for r in records], offsets, stamps // 1000
        )
        for route in self._routes[tp.topic]:
            with self.metrics.batch_seconds.labels("decode").time():
                decoded = route.decoder.decode(packed)
            newest = max(newest, self._apply(route, tp, records, offsets, stamps, decoded, start))
        self._watermarks[tp] = newest
        self._positions[tp] = int(offsets[-1]) + 1
        self._rows += len(records)
        self._show_lag(tp, records[-1].timestamp)

    def _apply(
        self, route: StreamRoute, tp: TopicPartition, records: list[Any], offsets: Any,
        stamps: Any, decoded: Decoded, start: int,
    ) -> int:  # fmt: skip
        """One source's part of a batch; returns the partition's watermark after it."""
        rejected = [(at, "invalid", reason) for at, reason in decoded.rejected]
        kept = decoded.kept
        ts = _micros(decoded.columns, route.decoder.event_time_column)
        ahead = ts > stamps[kept] + int(self.settings.max_future_seconds * 1e6)
        rejected += [
            (int(kept[i]), "future", f"event time {ts[i]} us is ahead of its record's timestamp")
            for i in np.flatnonzero(ahead)
        ]
        watermark = np.maximum.accumulate(np.where(ahead, NO_TIME, np.maximum(ts, start)))
        watermark = np.maximum(watermark, start)
        late = route.late(ts, watermark) & ~ahead
        rejected += [
            (int(kept[i]), "late", f"event time {ts[i]} us is behind the watermark {watermark[i]}")
            for i in np.flatnonzero(late)
        ]
        good = np.flatnonzero(~ahead & ~late)
        self._dead_letters(tp, records, rejected)
        if len(good):
            events = decoded.columns.take(good)
            created = _created(events, route.stream)
            batch = Batch(
                tp.topic, tp.partition, events, ts[good], created, offsets[kept[good]],
                watermark[good],
            )  # fmt: skip
            now_us = time.time_ns() // 1000
            with self.metrics.batch_seconds.labels("fold").time():
                for sink in route.sinks:
                    sink.apply(batch, now_us)
            route.buffer.append(_logged(route.log, batch, now_us))
            route.newest_us = max(route.newest_us, int(ts[good].max()))
            self.writer.raise_clocks(
                {("online", view.name): route.newest_us for view in route.views if view.online}
            )
        self.metrics.records.labels(tp.topic, "applied").inc(len(good))
        self.metrics.records.labels(tp.topic, "rejected").inc(len(rejected))
        return int(watermark[-1]) if len(watermark) else start

    def _dead_letters(
        self, tp: TopicPartition, records: list[Any], rejected: Iterable[tuple[int, str, str]]
    ) -> None:
        for at, kind, reason in rejected:
            if self._dead is None:
                self._dead = broker.producer(self._servers)
            record = records[at]
            headers = [
                *[(k, v) for k, v in record.headers or [] if not k.startswith("headwater-")],
                ("headwater-reason", f"{kind}: {reason}".encode()),
                ("headwater-topic", tp.topic.encode()),
                ("headwater-partition", str(tp.partition).encode()),
                ("headwater-offset", str(record.offset).encode()),
            ]
            self._dead.send(
                f"{tp.topic}.dead-letter", value=record.value, key=record.key, headers=headers
            )
            self.metrics.rejected.labels(tp.topic, kind).inc()

    def flush(self) -> None:
        """Append to the log, hand over dead letters, commit; in this order."""
        self._flushed = time.monotonic()
        if not self._positions:
            return
        routes = {id(r): r for routes in self._routes.values() for r in routes}
        clocks: dict[tuple[str, str], int] = {}
        try:
            with self.metrics.batch_seconds.labels("log").time():
                for route in routes.values():
                    self._append(route)
                    clocks.update({("offline", v.name): route.newest_us for v in route.views
                                   if route.newest_us > NO_TIME})  # fmt: skip
        except LogConflictError as error:
            logger.warning("%s", error)
            self._start_over()
            return
        if self._dead is not None:
            self._dead.flush()
        self.writer.raise_clocks(clocks)
        commit = {
            tp: OffsetAndMetadata(offset, json.dumps({"watermark": self._watermarks[tp]}), -1)
            for tp, offset in self._positions.items()
        }
        with self.metrics.batch_seconds.labels("commit").time():
            self.consumer.commit(commit)
        self._positions.clear()
        self._rows = 0
        self._show_clocks(routes.values())

    def _append(self, route: StreamRoute) -> None:
        if route.buffer:
            last = {
                (tp.topic, tp.partition): offset - 1
                for tp, offset in self._positions.items()
                if tp.topic in route.stream.topics
            }
            route.log.append(pa.concat_tables(route.buffer), last)
            route.buffer.clear()

    def _start_over(self) -> None:
        """Forget what is not committed; the events are read again."""
        self._forget()
        for tp in self._owned():
            held = self.consumer.committed(tp)
            if held is None:
                self.consumer.seek_to_beginning(tp)
            else:
                self.consumer.seek(tp, held)

    def _forget(self) -> None:
        self._positions.clear()
        self._watermarks.clear()
        self._rows = 0
        for routes in self._routes.values():
            for route in routes:
                route.buffer.clear()
                for sink in route.sinks:
                    sink.forget()

    # -- rebalances and catalogue changes ----------------------------------------------------------

    # The client runs these inside its own event loop, where it can be asked nothing: they only
    # take note, and the loop acts after the poll.

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._moved = self._moved or bool(list(revoked))

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._moved = self._moved or bool(list(assigned))

    def _watermark(self, tp: TopicPartition) -> int:
        """The partition's watermark; from its committed offset when it is new here."""
        if tp not in self._watermarks:
            held = self.consumer.committed(tp, metadata=True)
            text = held.metadata if held is not None else ""
            self._watermarks[tp] = json.loads(text)["watermark"] if text else NO_TIME
        return self._watermarks[tp]

    def _check_catalog(self) -> None:
        try:
            if catalog_cache.fingerprint(self.repo) == self._fingerprint:
                return
            self.flush()
            self._load()
        except (HeadwaterError, OSError) as error:
            logger.warning("the catalogue stays as it was: %s", error)
            return
        self.consumer.subscribe(sorted(self._routes), listener=self)
        logger.info("catalogue %s is in use", self.catalog.version)

    # -- what is shown ---------------------------------------------------------------------------

    def _show_lag(self, tp: TopicPartition, record_ms: int) -> None:
        end = self.consumer.highwater(tp)
        labels = (tp.topic, str(tp.partition))
        if end is not None:
            self.metrics.lag_records.labels(*labels).set(max(0, end - self._positions[tp]))
        self.metrics.lag_seconds.labels(*labels).set(max(0.0, time.time() - record_ms / 1000))

    def _show_clocks(self, routes: Iterable[StreamRoute]) -> None:
        for route in routes:
            marks = [w for tp, w in self._watermarks.items() if tp.topic in route.stream.topics]
            for view in route.views:
                if route.newest_us > NO_TIME:
                    seconds = route.newest_us / 1e6
                    self.metrics.last_event.labels(view.name, "source").set(seconds)
                    self.metrics.watermark.labels(view.name).set(max(marks) / 1e6)


def _micros(events: pa.Table, name: str) -> Any:
    return events[name].cast(pa.int64()).to_numpy()


def _created(events: pa.Table, stream: StreamSourcePlan) -> Any:
    if not stream.created_field:
        return None
    name = stream.field_mapping.get(stream.created_field, stream.created_field)
    if name not in events.column_names:
        return None
    return events[name].cast(pa.int64()).fill_null(0).to_numpy()


def _logged(log: EventLog, batch: Batch, now_us: int) -> pa.Table:
    n = len(batch.ts)
    own = {
        TOPIC: pa.array([batch.topic] * n, pa.string()),
        PARTITION: pa.array(np.full(n, batch.partition), pa.int32()),
        OFFSET: pa.array(batch.offsets),
        ARRIVED: pa.array(np.full(n, now_us), pa.int64()).cast(TIMESTAMP),
    }
    table = batch.events
    for name, column in own.items():
        table = table.append_column(name, column)
    return table.select(log.schema.names).cast(log.schema)
