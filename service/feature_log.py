"""Logs vectors as they are served: taken note of by the event loop, made into files by a thread.

A request costs one tuple in a queue. Where the thread falls behind, vectors are not logged and
counted; no request waits for it, and none fails by it.
"""

from __future__ import annotations

import logging
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from random import random
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from headwater.catalog import Catalog, LoggingPlan
from headwater.errors import HeadwaterError
from headwater.offline.feature_log import FeatureLog, Whole
from headwater.online.connect import connect
from headwater.online.progress import Place, Progress
from headwater.settings import Settings
from service.log_columns import LogColumns, Record
from service.metrics import Metrics
from service.requests import ViewRead

logger = logging.getLogger("headwater.service")
#: How often the thread takes what requests recorded, and looks at the state's progress; earlier
#: where a queue fills.
DRAIN_SECONDS, WAKE_SECONDS = 0.5, 0.05
#: The event loop gets Python back from the thread within this time (its default: 5 ms).
SWITCH_SECONDS = 0.0005
#: A plan that went out of use is kept for so long.
RETIRED_SECONDS = 30.0
#: Requests that are made into columns at once: the event loop waits for Python meanwhile.
RECORDS = 1000
#: Rows of one file.
ROWS = 50_000
#: Folder of vectors that were asked for without a feature service.
NO_SERVICE = "features"


class Recorder:
    """Takes note of vectors of one plan. Only the event loop calls `take`, only the thread drains.

    Each of the two counts is written by one thread, so that neither needs a lock.
    """

    def __init__(
        self, columns: LogColumns, log: FeatureLog, rate: float, prefixes: Mapping[str, bytes],
        limit: int, lost: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.columns, self._log, self._rate, self._prefixes = columns, log, rate, prefixes
        self._limit, self._lost = limit, lost
        self._queue: deque[Record] = deque()
        self._taken = self._drained = 0
        self._tables: list[pa.Table] = []
        self._wholes: list[Whole] = []
        self._whole_of = 0
        #: Rows that wait for the next file.
        self.rows = 0
        self._since = time.monotonic()
        #: When its plan went out of use.
        self.retired = 0.0

    def take(
        self, now_us: int, n: int, entities: Mapping[str, Sequence[Any]],
        data: Sequence[bytes | None], served: Any,
    ) -> None:  # fmt: skip
        """A served request, if it is in the sample. Nothing given may change afterwards."""
        if self._rate < 1.0 and random() >= self._rate:  # noqa: S311 (a sample, no secret)
            return
        if self._taken - self._drained + n > self._limit:
            self._lost(n)
            return
        if not isinstance(served, bytes) and all(c.joined is not None for c in served.columns):
            data = ()
        self._taken += n
        self._queue.append(Record(now_us, n, entities, data, served))

    # -- the thread's side -------------------------------------------------------------------------

    def drain(self, known: Known, names: Callable[[int], pa.Array]) -> int:
        """Make tables of what waits; returns the vectors that no column can hold."""
        failed = 0
        for _ in range(-(-len(self._queue) // RECORDS)):
            records = [self._queue.popleft() for _ in range(min(RECORDS, len(self._queue)))]
            tables, lost = self.columns.tables(records, self._whole(known, records), names)
            failed += lost
            self._tables += tables
            self.rows += sum(table.num_rows for table in tables)
            self._drained += sum(record.n for record in records)
            time.sleep(0)  # the event loop goes first
        return failed

    def _whole(self, known: Known, records: Sequence[Record]) -> int | None:
        """The number of what is known to have been whole when these were read."""
        look = known.between(records[0].now_us, records[-1].now_us)
        if look is None:
            return None
        if look.at_us != self._whole_of:
            self._whole_of = look.at_us
            self._wholes.append(look.of(self._prefixes))
        return len(self._wholes) - 1

    def due(self, seconds: float) -> bool:
        """Whether the oldest row has waited for so long, or there are many."""
        if not self.rows:
            self._since = time.monotonic()
            return False
        return self.rows >= ROWS or time.monotonic() - self._since >= seconds

    @property
    def filling(self) -> bool:
        """Whether the queue should be emptied early."""
        return self._taken - self._drained > self._limit // 4

    @property
    def idle(self) -> bool:
        return not self._queue and not self.rows

    def write(self) -> None:
        """A file of what was drained, which is gone whether or not this fails."""
        tables, wholes = self._tables, self._wholes
        self._tables, self._wholes, self.rows, self._whole_of = [], [], 0, 0
        if tables:
            self._log.write(self.columns.log_plan, pa.concat_tables(tables), wholes)


class Look(NamedTuple):
    """What Redis said about its state at a time (wall clock, microseconds)."""

    at_us: int
    epoch: bytes | None
    places: dict[Place, int]

    def of(self, prefixes: Mapping[str, bytes]) -> Whole:
        """What was whole of some views, by the prefixes of their keys."""
        return {
            view: [(p.topic, p.partition, at) for p, at in self.places.items() if p.prefix == own]
            for view, own in prefixes.items()
        }


class Known:
    """How far the state was whole when requests read it, by looks before and after them.

    Progress moves after the state is written: what it said before a request read the state was in
    that state. A loss in between would make that untrue, so a look afterwards must say no less, and
    be of the same epoch.
    """

    def __init__(self, read_us: int) -> None:
        #: The longest time between a read of the state and the answer.
        self._read_us = read_us
        self._looks: deque[Look] = deque(maxlen=64)

    def look(self, progress: Progress) -> None:
        self._looks.append(Look(time.time_ns() // 1000, *progress.snapshot()))

    def forget(self) -> None:
        """Redis does not answer: nothing is known of what came before."""
        self._looks.clear()

    def between(self, first_us: int, last_us: int) -> Look | None:
        """What was whole all the while that requests were answered from `first_us` to `last_us`."""
        if not self._looks or last_us > self._looks[-1].at_us:
            return None
        after = self._looks[-1]
        before = next(
            (x for x in reversed(self._looks) if x.at_us < first_us - self._read_us), None
        )
        if before is None or before.epoch is None or before.epoch != after.epoch:
            return None
        kept = {p: at for p, at in before.places.items() if after.places.get(p, at - 1) >= at}
        return before._replace(places=kept)


class FeatureLogs:
    """The recorders of a service, and the thread behind them."""

    def __init__(self, settings: Settings, metrics: Metrics, url: str) -> None:
        self._settings, self._metrics, self._url = settings, metrics, url
        self._lock = threading.Lock()
        self._recorders: list[Recorder] = []
        self._known = Known(int(1e6 * settings.redis_timeout_seconds) + 500_000)
        self._boot, self._requests = secrets.token_hex(6), 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._progress: Progress | None = None

    def recorder(
        self, catalog: Catalog, service: str, columns: LogColumns, reads: Sequence[ViewRead]
    ) -> Recorder | None:
        """What takes note of a plan's vectors; None where they are not logged."""
        place = self._place(catalog, service)
        if place is None or place.sample_rate <= 0 or not reads:
            return None
        recorder = Recorder(
            columns, FeatureLog(place.path, place.s3_endpoint), place.sample_rate,
            {read.reader.view.name: read.reader.prefix for read in reads},
            self._settings.feature_log_queue, self._lose,
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
        """Write what is recorded, and end. Blocks until then."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _lose(self, vectors: int) -> None:
        self._metrics.logged.labels("dropped").inc(vectors)

    def _run(self) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        last = time.monotonic()
        while not self._stop.wait(WAKE_SECONDS):
            now = time.monotonic()
            if now - last >= DRAIN_SECONDS or any(r.filling for r in list(self._recorders)):
                last = now
                self._turn(self._settings.feature_log_seconds)
        self._turn(0.0)

    def _turn(self, seconds: float) -> None:
        with self._lock:
            # Requests that were under way may still come to a plan that went out of use.
            until = time.monotonic() - RETIRED_SECONDS
            self._recorders = [r for r in self._recorders if not (0 < r.retired < until and r.idle)]
            recorders = list(self._recorders)
        if recorders:
            self._look()
        for recorder in recorders:
            self._drain(recorder)
            if recorder.due(seconds):
                self._write(recorder)

    def _look(self) -> None:
        try:
            if self._progress is None:
                self._progress = Progress(connect(self._url), self._project)
            self._known.look(self._progress)
        except HeadwaterError:
            self._known.forget()

    def _drain(self, recorder: Recorder) -> None:
        try:
            failed = recorder.drain(self._known, self._names)
        except Exception:
            logger.exception("vectors were not logged")
            failed = 1
        if failed:
            self._metrics.logged.labels("failed").inc(failed)

    def _names(self, requests: int) -> pa.Array:
        """Ids of the next requests."""
        first, self._requests = self._requests + 1, self._requests + requests
        numbers = pa.array(range(first, self._requests + 1), pa.int64()).cast(pa.string())
        return pc.binary_join_element_wise(self._boot, numbers, "-")

    def _write(self, recorder: Recorder) -> None:
        rows = recorder.rows
        try:
            recorder.write()
        except (OSError, pa.ArrowException, HeadwaterError) as error:
            logger.warning("%d vectors were not logged: %s", rows, error)
            self._metrics.logged.labels("failed").inc(rows)
        else:
            self._metrics.logged.labels("written").inc(rows)
