"""One Kafka source: how its messages are decoded and judged, which views they feed, its log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from headwater.arrow import TIMESTAMP
from headwater.catalog import Catalog, StreamSourcePlan
from headwater.errors import StoreUnavailableError
from headwater.offline.data_files import ARRIVED, OFFSET, PARTITION, TOPIC
from headwater.offline.log import EventLog
from headwater.online.sinks import Batch, Sink, make_sink, rehearse
from headwater.online.writer import OnlineWriter
from headwater.settings import Settings
from headwater.times import NO_TIME
from headwater.windows import Bool, Int64, WindowProgram
from ingest.decoders import make_decoder
from ingest.judge import Rejected, judge
from ingest.metrics import Metrics
from ingest.records import PackedRecords, Records, TopicPartition


class Taken(NamedTuple):
    """What became of some records: the accepted events, the others, the watermark after them."""

    batch: Batch | None
    rejected: list[Rejected]
    watermark: int


class StreamRoute:
    """Takes records of the source's topics in; keeps what the log has yet to be given."""

    def __init__(
        self, catalog: Catalog, stream: StreamSourcePlan, writer: OnlineWriter, settings: Settings,
        metrics: Metrics,
    ) -> None:  # fmt: skip
        self.stream, self._metrics = stream, metrics
        self._decoder = make_decoder(stream, settings)
        self.views = catalog.views_of_stream(stream.name)
        self.sinks: list[Sink] = [
            make_sink(catalog.project, view, writer) for view in self.views if view.online
        ]
        only_windows = bool(self.views) and all(view.kind == "window" for view in self.views)
        self._programs = [WindowProgram.of(view) for view in self.views] if only_windows else []
        self._max_future_us = int(settings.max_future_seconds * 1e6)
        self._log = EventLog(stream) if settings.log == "on" else None
        #: Events of each partition that were not handed over to the log yet.
        self._buffers: dict[TopicPartition, list[pa.Table]] = {}
        self.newest_us = NO_TIME

    def rehearse(self, project: str, writer: OnlineWriter) -> None:
        """Load (the first time ever: compile) the loops that the first message would wait for."""
        nowhere = TopicPartition("", 0)
        self._decoder.decode(PackedRecords.of(nowhere, [b"{}"], *np.zeros((2, 1), np.int64)))
        with suppress(StoreUnavailableError):  # then they are loaded when it is back
            for sink in self.sinks:
                rehearse(project, sink.view, writer)

    def take(self, records: Records, watermark: int, others: Sequence[int] = ()) -> Taken:
        """Decode and judge records, buffer what is accepted for the log.

        others: places of messages that are sent again for other sources of the topic.
        """
        with self._metrics.step("decode"):
            decoded = self._decoder.decode(records)
        rejected = [(at, "invalid", reason) for at, reason in decoded.rejected]
        events = decoded.columns
        ts = _micros(events[self._decoder.event_time_column])
        record_us = records.timestamp_ms[decoded.kept] * 1000
        verdict = judge(ts, record_us, watermark, self._max_future_us, self._late)
        rejected += [(int(decoded.kept[at]), kind, why) for at, kind, why in verdict.rejected]
        mark = int(verdict.watermark[-1]) if len(ts) else watermark
        batch: Batch | None = Batch(
            *records.tp, events, ts, _created(events, self.stream), records.offset[decoded.kept],
            verdict.watermark,
        )  # fmt: skip
        assert batch is not None  # noqa: S101 (narrows the type for mypy)
        accepted = verdict.accepted
        if others:
            rejected = [one for one in rejected if one[0] not in others]
            accepted = accepted[~np.isin(decoded.kept[accepted], others)]
        if len(accepted) < len(ts):
            batch = batch.take(accepted)
        batch, refused = self._checked(batch)
        place_of = {int(records.offset[at]): at for at in range(len(records))} if refused else {}
        rejected += [(place_of[offset], kind, reason) for offset, kind, reason in refused]
        if not len(batch.ts):
            return Taken(None, rejected, mark)
        now_us = time.time_ns() // 1000
        # An event that is ahead of the clock makes nothing newer than when it came.
        self.newest_us = max(self.newest_us, min(int(batch.ts.max()), now_us))
        if self._log is not None:
            logged = _logged(self._log, batch, now_us)
            self._buffers.setdefault(records.tp, []).append(logged)
        return Taken(batch, rejected, mark)

    def _late(self, ts: Int64, watermark: Int64) -> Bool:
        """Which events are late: by the source's delay, or where no view can use them."""
        if self.stream.watermark_delay_us is not None:
            return ts < watermark - self.stream.watermark_delay_us
        late = np.full(len(ts), bool(self._programs))
        for program in self._programs:
            late &= program.is_late(ts, watermark)
        return late

    def _checked(self, batch: Batch) -> tuple[Batch, list[Rejected]]:
        """The events without those that no view can take; (offset, kind, reason) of these."""
        refused: list[Rejected] = []
        for view in self.views:
            batch, bad = batch.without_failing(view)
            refused += [(offset, "udf", reason) for offset, reason in bad]
        keyless = self._keyless(batch)
        if keyless.any():
            names = sorted({key.name for view in self.views for key in view.join_keys})
            refused += [
                (int(offset), "invalid", f"no view can key it: null in {', '.join(names)}")
                for offset in batch.offsets[keyless]
            ]
            batch = batch.take(np.flatnonzero(~keyless))
        return batch, refused

    def _keyless(self, batch: Batch) -> Bool:
        """Events that have a null in the key of every view."""
        keyless = np.full(len(batch.ts), bool(self.views))
        for view in self.views:
            names = [key.name for key in view.join_keys]
            if view.udf is not None or not all(n in batch.events.column_names for n in names):
                return np.zeros(len(batch.ts), np.bool_)
            null = np.zeros(len(batch.ts), np.bool_)
            for column in (batch.events[name] for name in names):
                if column.null_count:
                    null |= np.asarray(column.combine_chunks().is_null())
            keyless &= null
        return keyless

    def appending(self, positions: Mapping[TopicPartition, int]) -> Callable[[], None]:
        """What appends the buffered events to the log; they count as handed over.

        positions: the offset before which each partition was taken in whole.
        """
        buffers, self._buffers = self._buffers, {}
        log = self._log
        if log is None or not buffers:
            return lambda: None
        events = [table for tp in sorted(buffers) for table in buffers[tp]]
        last = {(tp.topic, tp.partition): positions[tp] - 1 for tp in buffers}

        def append() -> None:
            log.append(pa.concat_tables(events), last)

        return append

    def forget(self, tp: TopicPartition | None = None) -> None:
        """Drop what waits of a partition, or of all; it is read again by whoever owns it."""
        if tp is None:
            self._buffers.clear()
        else:
            self._buffers.pop(tp, None)
        for sink in self.sinks:
            sink.forget(tp)

    def log_end(self, tp: TopicPartition) -> int:
        """The offset before which the log holds every event of a partition."""
        last = self._log.last_offset(*tp) if self._log is not None else None
        return 0 if last is None else last + 1


def _micros(times: pa.ChunkedArray) -> Int64:
    # Loops are compiled anew for arrays that are read-only, as Arrow's are.
    micros: Int64 = np.require(times.cast(pa.int64()).to_numpy(), requirements="W")
    return micros


def _created(events: pa.Table, stream: StreamSourcePlan) -> Int64 | None:
    if not stream.created_field:
        return None
    name = stream.field_mapping.get(stream.created_field, stream.created_field)
    if name not in events.column_names:
        return None
    return _micros(events[name].cast(pa.int64()).fill_null(0))


def _logged(log: EventLog, batch: Batch, now_us: int) -> pa.Table:
    n = len(batch.ts)
    own = {
        TOPIC: pa.repeat(pa.scalar(batch.topic, pa.string()), n),
        PARTITION: pa.repeat(pa.scalar(batch.partition, pa.int32()), n),
        OFFSET: pa.array(batch.offsets),
        ARRIVED: pa.repeat(pa.scalar(now_us, TIMESTAMP), n),
    }
    table = batch.events
    for name, column in own.items():
        table = table.append_column(name, column)
    return table.select(log.schema.names).cast(log.schema)
