"""Logs vectors as they are served: taken note of by the event loop, kept on disk by a thread, made
into Parquet files by a process of low priority.

What a request was answered from is kept in a queue as it is, or as the bytes of a record
(`service.log_records`). The thread appends that to a segment twice a second
(`headwater.offline.log_segments`), and hands full segments to the process
(`headwater.offline.log_writer`). Where either falls behind, vectors are not logged and counted; no
request waits for it, and none fails by it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from random import random
from typing import Any, NamedTuple

from headwater.catalog import Catalog, LoggingPlan
from headwater.errors import HeadwaterError
from headwater.offline.log_segments import Head, Look, Segment, folder_of, wholes_of
from headwater.offline.log_writer import Done
from headwater.online.connect import connect
from headwater.online.progress import Place, Progress
from headwater.settings import Settings
from service.found import Found
from service.log_blocks import Part, RowsPart, Scratch
from service.log_process import LogProcess
from service.log_records import LogRecords
from service.metrics import Metrics
from service.requests import ViewRead
from service.single import Turn

logger = logging.getLogger("headwater.service")
#: How often the thread takes what requests recorded, and looks at the state's progress; earlier
#: where a queue fills.
TURN_SECONDS = 0.5
#: Bytes of a queue that wake the thread. It and the event loop take Python's lock from each other
#: each time, so it is woken seldom (docs/decisions.md has the figures).
WAKE_BYTES = 8_000_000
#: A plan that went out of use is kept for so long.
RETIRED_SECONDS = 30.0
#: Vectors, and bytes, of one segment, which becomes one file.
ROWS, BYTES = 100_000, 64_000_000
#: Folder of vectors that were asked for without a feature service.
NO_SERVICE = "features"


class Seen(NamedTuple):
    """What Redis said about its state at a time; epoch: None where it did not answer."""

    at_us: int
    epoch: bytes | None
    places: Mapping[Place, int]


class _Record(NamedTuple):
    """The bytes of a request's record."""

    now_us: int
    n: int
    data: bytes


class Recorder:
    """Takes note of vectors of one plan. The event loop calls `take`, the thread all else.

    Each of the counts is written by one of them, so that none needs a lock.
    """

    def __init__(
        self, records: LogRecords, head: Head, rate: float, prefixes: Mapping[str, bytes],
        limit: int, lost: Callable[[str, int], None], wake: Callable[[], None], scratch: Scratch,
    ) -> None:  # fmt: skip
        """limit: vectors in the queue. lost: is told of vectors that are not logged, and why."""
        self._records, self._head, self._rate, self._prefixes = records, head, rate, prefixes
        self._limit, self._lost, self._wake, self._scratch = limit, lost, wake, scratch
        self._queue: deque[_Record | Part | RowsPart] = deque()
        self._vector_bytes = records.layout.vector_bytes if records.layout else 0
        self._taken = self._drained = 0
        self._bytes_taken = self._bytes_drained = 0
        self._segment: Segment | None = None
        self._since = 0.0
        #: Vectors in the segment.
        self.rows = 0
        #: The disk holds as much as it may.
        self.full = False
        #: When its plan went out of use.
        self.retired = 0.0

    def sample(self, n: int) -> Sequence[int]:
        """Which of the next n requests are in the sample."""
        if self._rate >= 1.0:
            return range(n)
        return [i for i in range(n) if random() < self._rate]  # noqa: S311 (a sample, no secret)

    def take(
        self, now_us: int, n: int, entities: Mapping[str, Sequence[Any]],
        data: Sequence[bytes | None], served: Found,
    ) -> None:  # fmt: skip
        """A served request."""
        if not self._has_room(n):
            return
        part = self._records.part(now_us, n, entities, served) if n > 1 else None
        if part is not None:
            self._keep(part, n * self._vector_bytes)
            return
        try:
            record = self._records.record(now_us, n, entities, data, served)
        except (TypeError, ValueError, OverflowError, NotImplementedError):
            self._lost("failed", n)
            return
        self._keep(_Record(now_us, n, record), len(record))

    @property
    def takes_turns(self) -> bool:
        """Whether `take_turn` is for this plan."""
        return self._records.layout is not None

    def take_turn(
        self, now_us: int, entities: Sequence[Mapping[str, Sequence[Any]]], turn: Turn
    ) -> None:
        """Served requests for one entity each."""
        n = len(entities)
        if self._has_room(n):
            self._keep(self._records.part_of_turn(now_us, entities, turn), n * self._vector_bytes)

    def _has_room(self, n: int) -> bool:
        """Whether so many vectors more may wait; they are counted where not."""
        if self._taken - self._drained + n > self._limit or self.full:
            self._lost("dropped", n)
            return False
        return True

    def _keep(self, kept: Part | RowsPart | _Record, size: int) -> None:
        self._taken += kept.n
        self._bytes_taken += size
        self._queue.append(kept)
        many = self._taken - self._drained > self._limit // 4
        if many or self._bytes_taken - self._bytes_drained > WAKE_BYTES:
            self._wake()

    # -- the thread's side -------------------------------------------------------------------------

    def drain(self, seen: Sequence[Seen]) -> None:
        """Append what waits to the segment. Raises OSError, and then it is gone.

        seen: looks that came before; a new segment begins with them.
        """
        taken = [self._queue.popleft() for _ in range(len(self._queue))]
        if not taken:
            return
        self._drained += sum(one.n for one in taken)
        self._bytes_drained = self._bytes_taken
        packed, vectors = self._packed(taken)
        try:
            if self._segment is None:
                self._open(taken[0].now_us, seen)
            assert self._segment is not None  # noqa: S101 (narrows the type for mypy)
            self._segment.append(packed)
        except OSError:
            self._lost("failed", vectors)
            raise
        finally:
            self._scratch.clear()
        self.rows += vectors

    def _packed(
        self, taken: Sequence[Part | RowsPart | _Record]
    ) -> tuple[list[Sequence[Any]], int]:
        """What was taken from the queue as `Segment.append` takes it, and how many vectors."""
        packed: list[Sequence[Any]] = []
        vectors = 0
        alike: dict[Any, list[Any]] = {}
        for one in taken:
            if isinstance(one, _Record):
                packed.append([one.data])
                vectors += one.n
            else:
                kind = one.turn if isinstance(one, Part) else one.sizes
                alike.setdefault(kind, []).append(one)
        for kind, parts in alike.items():
            n = sum(part.n for part in parts)
            assert self._records.layout is not None  # noqa: S101 (there are parts)
            pack = self._records.layout.packed_rows
            if isinstance(kind, bool):
                pack = partial(self._records.layout.packed, scratch=self._scratch)
            try:
                packed.append(pack(parts))
                vectors += n
            except (TypeError, ValueError, OverflowError):
                self._lost("failed", n)
        return packed, vectors

    def _open(self, first_us: int, seen: Sequence[Seen]) -> None:
        self._segment = Segment(folder_of(self._head.path), first_us, self._head)
        self._since = time.monotonic()
        for one in seen:
            self.look(one)

    def look(self, seen: Seen) -> None:
        """What was seen since the vectors were drained. Raises OSError."""
        if self._segment is not None:
            whole = wholes_of(seen.places, self._prefixes)
            self._segment.look(Look(seen.at_us, seen.epoch, whole))

    def due(self, seconds: float) -> bool:
        """Whether the segment was begun so long ago, or holds much."""
        return self._segment is not None and (
            self.rows >= ROWS
            or self._segment.bytes >= BYTES
            or time.monotonic() - self._since >= seconds
        )

    def finish(self) -> tuple[Segment, int]:
        """The segment, which is at its end, and its vectors."""
        segment, rows = self._segment, self.rows
        assert segment is not None  # noqa: S101 (it is due)
        self._segment, self.rows = None, 0
        segment.close()
        return segment, rows

    @property
    def bytes(self) -> int:
        """Bytes of the segment."""
        return self._segment.bytes if self._segment else 0

    @property
    def idle(self) -> bool:
        return not self._queue and self._segment is None


class FeatureLogs:
    """The recorders of a service, the thread behind them, and the process behind that."""

    def __init__(self, settings: Settings, metrics: Metrics, url: str) -> None:
        self._settings, self._metrics, self._url = settings, metrics, url
        self._lock = threading.Lock()
        self._recorders: list[Recorder] = []
        self._read_us = int(1e6 * settings.redis_timeout_seconds) + 500_000
        self._seen: deque[Seen] = deque()
        self._process, self._scratch = LogProcess(), Scratch()
        self._awake, self._stopping = threading.Event(), False
        self._thread: threading.Thread | None = None
        self._progress: Progress | None = None

    def recorder(
        self, catalog: Catalog, service: str, records: LogRecords, reads: Sequence[ViewRead]
    ) -> Recorder | None:
        """What takes note of a plan's vectors; None where they are not logged."""
        place = self._place(catalog, service)
        if place is None or place.sample_rate <= 0 or not reads:
            return None
        recorder = Recorder(
            records, Head(records.log_plan, place.path, place.s3_endpoint, self._read_us),
            place.sample_rate, {read.reader.view.name: read.reader.prefix for read in reads},
            self._settings.feature_log_queue, self._lose, self._awake.set, self._scratch,
        )  # fmt: skip
        with self._lock:
            self._project = catalog.project
            self._recorders.append(recorder)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="feature-log", daemon=True)
                self._thread.start()
        return recorder

    def _place(self, catalog: Catalog, service: str) -> LoggingPlan | None:
        own = catalog.services[service].logging if service in catalog.services else None
        if own is not None:
            return own
        root = self._settings.feature_log
        if not root:
            return None
        folder = f"{root.rstrip('/')}/{service or NO_SERVICE}"
        return LoggingPlan(folder, self._settings.feature_log_sample)

    def retire(self) -> None:
        """The plans are no longer in use: what they recorded is written, and they are forgotten."""
        with self._lock:
            for recorder in self._recorders:
                recorder.retired = recorder.retired or time.monotonic()

    def close(self) -> None:
        """Write what is recorded, and end. Blocks until then, or until it took too long: what is
        in segments then is written by the process all the same, or by the next service."""
        self._stopping = True
        self._awake.set()
        if self._thread is not None:
            self._thread.join()

    def _lose(self, outcome: str, vectors: int) -> None:
        self._metrics.logged.labels(outcome).inc(vectors)

    def _run(self) -> None:
        self._look()
        while not self._process.ending:
            self._awake.wait(TURN_SECONDS)
            self._awake.clear()
            self._process.ending = self._stopping
            try:
                self._turn(0.0 if self._process.ending else self._settings.feature_log_seconds)
            except Exception:
                logger.exception("the feature log goes on after a failure")
        for done in self._process.close():
            self._count(done)

    def _turn(self, seconds: float) -> None:
        with self._lock:
            # Requests that were under way may still come to a plan that went out of use.
            until = time.monotonic() - RETIRED_SECONDS
            self._recorders = [r for r in self._recorders if not (0 < r.retired < until and r.idle)]
            recorders = list(self._recorders)
        for recorder in recorders:
            self._tried(partial(recorder.drain, self._seen))
        if time.time_ns() // 1000 - self._seen[-1].at_us >= 1e6 * TURN_SECONDS or seconds == 0:
            self._look()
            for recorder in recorders:
                self._tried(partial(recorder.look, self._seen[-1]))
        for recorder in recorders:
            if recorder.due(seconds):
                segment, rows = recorder.finish()
                self._process.send(segment.path, segment.bytes, rows)
        for done in self._process.done():
            self._count(done)
        most = self._settings.feature_log_disk_mb * 1_000_000
        full = self._process.bytes + sum(recorder.bytes for recorder in recorders) > most
        for recorder in recorders:
            recorder.full = full

    def _tried(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            logger.warning("vectors were not logged: %s", error)

    def _look(self) -> None:
        """What Redis says of the state now; what is older than any request is forgotten."""
        at_us = time.time_ns() // 1000
        try:
            if self._progress is None:
                self._progress = Progress(connect(self._url), self._project)
            self._seen.append(Seen(at_us, *self._progress.snapshot()))
        except HeadwaterError:
            self._seen.append(Seen(at_us, None, {}))
        needed = at_us - self._read_us - 2_000_000
        old = sum(1 for _ in takewhile(lambda seen: seen.at_us < needed, self._seen))
        for _ in range(old - 1):
            self._seen.popleft()

    def _count(self, done: Done) -> None:
        if done.error:
            logger.warning("%d vectors were not logged: %s", done.failed, done.error)
        self._lose("written", done.written)
        if done.failed:
            self._lose("failed", done.failed)
