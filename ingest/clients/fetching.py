"""kafka-python's fetcher, handing out whole record batches as columns instead of record objects."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from crc32c import crc32c
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError, OffsetOutOfRangeError
from kafka.protocol.consumer import IsolationLevel
from kafka.record import MemoryRecords, MemoryRecordsBuilder
from numpy.typing import NDArray

from ingest.clients import record_batch as rb
from ingest.clients.codecs import decompress
from ingest.records import Int64, Original, Records, TopicPartition

#: (partition, where we were, where we go on): messages between are lost to us.
Jumped = Callable[[TopicPartition, int, int], None]


@dataclass(frozen=True)
class BatchRecords(Records):
    """Records whose keys and headers still lie in the batches that the broker sent."""

    raw: bytes
    key_at: Int64
    key_size: Int64
    headers_at: Int64

    def original(self, i: int) -> Original:
        at, size = int(self.key_at[i]), int(self.key_size[i])
        key = None if size < 0 else self.raw[at : at + size]
        return Original(key, self.value(i), rb.headers(self.raw, int(self.headers_at[i])))

    def with_headers(self) -> list[int]:
        counts = np.frombuffer(self.raw, np.uint8)[self.headers_at]
        found: list[int] = np.flatnonzero(counts).tolist()
        return found


@dataclass(frozen=True)
class _Parsed:
    """Some batches' records: the bytes they lie in, and `record_batch.parse`'s columns."""

    raw: bytes
    columns: Int64
    next_offset: int

    def __len__(self) -> int:
        return self.columns.shape[1]

    def split(self, n: int) -> tuple[_Parsed, _Parsed]:
        left, right = self.columns[:, :n], self.columns[:, n:]
        next_offset = int(right[rb.OFFSET, 0])
        return _Parsed(self.raw, left, next_offset), _Parsed(self.raw, right, self.next_offset)

    def records(self, tp: TopicPartition, end_offset: int) -> BatchRecords:
        c = self.columns
        view = np.frombuffer(self.raw, np.uint8)
        text, places = rb.pack(view, c[rb.VALUE_AT], c[rb.VALUE_SIZE])
        return BatchRecords(
            tp, text.tobytes(), places, c[rb.VALUE_SIZE], c[rb.OFFSET], c[rb.TIMESTAMP],
            self.next_offset, end_offset, self.raw, c[rb.KEY_AT], c[rb.KEY_SIZE],
            c[rb.HEADERS_AT],
        )  # fmt: skip


class PartitionBatches:
    """What one fetch response holds of a partition; stands in for `Fetcher.PartitionRecords`.

    Raises CorruptRecordError where a checksum is wrong.
    """

    end_offset = -1

    def __init__(
        self, fetch_offset: int, tp: Any, records: MemoryRecords, *, check_crcs: bool,
        isolation_level: int, aborted_transactions: Any, on_drain: Any, **_: Any,
    ) -> None:  # fmt: skip
        self.topic_partition = tp
        self.next_fetch_offset = fetch_offset
        self.leader_epoch = -1
        self.bytes_read = self.records_read = 0
        self._on_drain = on_drain
        self._raw: bytes = records._buffer or b""
        self._rest: _Parsed | None = None
        self._first, self._end = fetch_offset, fetch_offset
        rows = rb.scan(np.frombuffer(self._raw, np.uint8))
        if check_crcs:
            self._check(rows)
        committed = isolation_level == IsolationLevel.READ_COMMITTED
        self._batches = deque(self._kept(rows, aborted_transactions if committed else ()))
        self._open = bool(len(rows)) and (bool(self._batches) or self._end > fetch_offset)

    def __bool__(self) -> bool:
        return self._open

    def take(self, n: int) -> list[Records]:
        """At most n records, as one `Records`; an empty one where only the position moves.

        Raises CorruptRecordError; the partition is then fetched again from where it is.
        """
        try:
            part = self._rest or self._parse(n)
        except (CorruptRecordError, ValueError):
            self.drain()
            raise
        self._rest = None
        if len(part) > n:
            part, self._rest = part.split(n)
        elif not self._batches:
            part = _Parsed(part.raw, part.columns, self._end)
        self.next_fetch_offset = part.next_offset
        self.records_read += len(part)
        if self._rest is None and not self._batches:
            self.drain()
        return [part.records(TopicPartition(*self.topic_partition), self.end_offset)]

    def drain(self) -> None:
        if self._open:
            self._open = False
            self._batches.clear()
            self._rest = None
            self.bytes_read = len(self._raw)
            self._on_drain(self)

    def _check(self, rows: NDArray[np.int64]) -> None:
        view = memoryview(self._raw)
        for row in rows[rows[:, rb.MAGIC] >= 2].tolist():
            if crc32c(view[row[rb.START] + rb.CHECKED_FROM : row[rb.END]]) != row[rb.CRC]:
                raise CorruptRecordError(
                    f"the checksum of {self.topic_partition}'s batch at {row[rb.BASE]} is wrong"
                )

    def _kept(self, rows: NDArray[np.int64], aborted: Any) -> Iterator[list[int]]:
        """The batches with messages for us: no markers, nothing aborted or already read."""
        waiting = deque(sorted((a.first_offset, a.producer_id) for a in aborted or ()))
        producers: set[int] = set()
        for row in rows.tolist():
            if row[rb.MAGIC] < 2:
                yield row
                continue
            last, attributes, producer = row[rb.LAST], row[rb.ATTRIBUTES], row[rb.PRODUCER]
            while waiting and waiting[0][0] <= last:
                producers.add(waiting.popleft()[1])
            self._end = max(self._end, last + 1)
            self.leader_epoch = row[rb.EPOCH]
            if attributes & rb.CONTROL:
                # A producer's marker ends its transaction: the aborted one, where it has one.
                producers.discard(producer)
            elif attributes & rb.TRANSACTIONAL and producer in producers:
                continue
            elif last >= self._first:
                yield row

    def _parse(self, n: int) -> _Parsed:
        """Batches up to n records or more."""
        if not self._batches:
            return _Parsed(b"", np.empty((7, 0), np.int64), self._end)
        if self._batches[0][rb.MAGIC] < 2:
            return self._old(self._batches.popleft())
        chosen: list[list[int]] = []
        count = 0
        while self._batches and count < n and self._batches[0][rb.MAGIC] >= 2:
            chosen.append(self._batches.popleft())
            count += chosen[-1][rb.COUNT]
        raw, starts, ends = _plain(self._raw, chosen)
        batches = np.array(chosen, np.int64)
        columns, bad = rb.parse(np.frombuffer(raw, np.uint8), starts, ends, batches)
        if bad >= 0:
            raise CorruptRecordError(
                f"{self.topic_partition}'s batch at {chosen[bad][rb.BASE]} is no sound one"
            )
        columns = columns[:, np.searchsorted(columns[rb.OFFSET], self._first) :]
        return _Parsed(raw, columns, chosen[-1][rb.LAST] + 1)

    def _old(self, batch: list[int]) -> _Parsed:
        """A message set of format 0 or 1, read by the library record by record."""
        messages = MemoryRecords(memoryview(self._raw)[batch[rb.START] : batch[rb.END]])
        found = [r for r in messages.next_batch() if r.offset >= self._first]
        raw, columns = bytearray(b"\0"), np.zeros((7, len(found)), np.int64)
        for i, record in enumerate(found):
            columns[rb.OFFSET, i], columns[rb.TIMESTAMP, i] = record.offset, record.timestamp or -1
            for row, part in ((rb.KEY_AT, record.key), (rb.VALUE_AT, record.value)):
                columns[row, i], columns[row + 1, i] = len(raw), -1 if part is None else len(part)
                raw += part or b""
        self._end = max(self._end, *(r.offset + 1 for r in found)) if found else self._end
        return _Parsed(bytes(raw), columns, self._end)


def _plain(raw: bytes, batches: list[list[int]]) -> tuple[bytes, Int64, Int64]:
    """(bytes, starts, ends): where the batches' records lie, decompressed where they must be."""
    if not any(row[rb.ATTRIBUTES] & rb.CODEC for row in batches):
        starts = np.array([row[rb.START] + rb.HEADER_BYTES for row in batches], np.int64)
        return raw, starts, np.array([row[rb.END] for row in batches], np.int64)
    view = memoryview(raw)
    pieces: list[bytes | memoryview] = []
    for row in batches:
        piece = view[row[rb.START] + rb.HEADER_BYTES : row[rb.END]]
        codec = row[rb.ATTRIBUTES] & rb.CODEC
        pieces.append(decompress(codec, piece) if codec else piece)
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    return b"".join(pieces), np.concatenate([[0], ends[:-1]]), ends


def _warm() -> None:
    """Load (the first time ever: compile) the loops, for which the first message would wait."""
    builder = MemoryRecordsBuilder(magic=2, compression_type=0, batch_size=1024)
    builder.append(timestamp=0, key=None, value=b"{}")
    builder.close()
    batch = PartitionBatches(
        0, ("", 0), MemoryRecords(bytes(builder.buffer())), check_crcs=True,
        isolation_level=IsolationLevel.READ_COMMITTED, aborted_transactions=None,
        on_drain=lambda _: None,
    )  # fmt: skip
    batch.take(1)


class ColumnFetcher(Fetcher):
    """Fetches as the library does; `fetched_records` gives lists of `Records`."""

    PartitionRecords = PartitionBatches

    def __init__(self, client: Any, subscriptions: Any, jumped: Jumped, **configs: Any) -> None:
        super().__init__(client, subscriptions, **configs)
        _warm()
        self._jumped = jumped
        self._out_of_range: dict[Any, int] = {}

    def fetched_records(self, max_records: Any = None, update_offsets: bool = True) -> Any:
        drained, partial = super().fetched_records(max_records, update_offsets)
        # The next request goes out when all is handed out: one sent for the other partitions
        # would hold back the one with a rest until the broker has something for them.
        return drained, partial or bool(self._next_partition_records)

    def _append(self, drained: Any, part: Any, max_records: int, update_offsets: bool) -> int:
        before = part.records_read if part else 0
        super()._append(drained, part, max_records, update_offsets)
        return part.records_read - before

    def _parse_fetched_data(self, completed_fetch: Any) -> Any:
        tp, data = completed_fetch.topic_partition, completed_fetch.partition_data
        part = super()._parse_fetched_data(completed_fetch)
        if part is not None:
            stable = data.last_stable_offset
            part.end_offset = data.high_watermark if stable is None or stable < 0 else stable
        elif data.error_code == OffsetOutOfRangeError.errno and self._resets(tp):
            self._out_of_range[tp] = completed_fetch.fetched_offset
        return part

    def _reset_offset_if_needed(self, partition: Any, timestamp: Any, offset: int) -> None:
        super()._reset_offset_if_needed(partition, timestamp, offset)
        before = self._out_of_range.pop(partition, None)
        if before is not None and not self._resets(partition):
            self._jumped(TopicPartition(*partition), before, offset)

    def _resets(self, tp: Any) -> bool:
        subscriptions = self._subscriptions
        return subscriptions.is_assigned(tp) and subscriptions.is_offset_reset_needed(tp)
