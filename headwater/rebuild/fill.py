"""Fills what the state of views lacks, from their logs, through the ingest worker's own sinks.

It may be stopped anywhere and may run beside workers. What makes that safe: state that was read is
written only if the progress under which it was read still stands, and state is deleted only after
its progress was put back. So whatever is written is the fold of a whole prefix of a partition.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from headwater.catalog import Catalog, StreamSourcePlan, ViewPlan
from headwater.codec import key_prefix
from headwater.offline.replay import (
    Events,
    LogReader,
    Part,
    Window,
    read_history,
)
from headwater.online.connect import Client
from headwater.online.progress import Place, Progress, history
from headwater.online.sinks import Batch, Sink, make_sink, write
from headwater.online.writer import OnlineWriter
from headwater.rebuild.gaps import (
    by_stream,
    history_cut,
    holds_still,
    missing,
    stream_views,
)
from headwater.rebuild.lock import RebuildLock
from headwater.times import NO_TIME
from headwater.windows import Int64

logger = logging.getLogger("headwater.rebuild")
#: A history's progress while it is being folded is this and its cut.
_BEGUN = -3 * 2**61
#: Rows read at once, and rows folded between two writes.
WINDOW_ROWS, WRITE_ROWS = 500_000, 1_000_000

#: (view, rows of it that are now whole since the last report).
Report = Callable[[str, int], None]


@dataclass
class _Target:
    """A view's state for one partition (or its history): what is believed, and folded since."""

    sink: Sink
    place: Place
    believed: int | None
    reached: int
    rows: int = 0
    #: (place, reason) of the events since on which the view's udf fails.
    failed: list[tuple[str, str]] = field(default_factory=list)
    newest_us: int = NO_TIME


class Rebuilder:
    """Fills the state of some views (all that Kafka feeds, without names)."""

    def __init__(
        self, catalog: Catalog, client: Client, views: Iterable[str] | None = None,
        report: Report | None = None, cache_bytes: int = 512 << 20,
        window_rows: int = WINDOW_ROWS, write_rows: int = WRITE_ROWS,
    ) -> None:  # fmt: skip
        self._catalog, self._views = catalog, stream_views(catalog, views)
        self._writer = OnlineWriter(client, catalog.project)
        self._progress = Progress(client, catalog.project)
        self._lock = RebuildLock(client, catalog.project)
        self._report = report or (lambda view, rows: None)
        self._cache_bytes = cache_bytes
        self._window_rows, self._write_rows = window_rows, write_rows
        self._again = False
        #: View -> how many logged events it is without, since its udf fails on them.
        self.left_out: dict[str, int] = {}

    def run(self, reset: bool = False) -> int:
        """Fill what is missing, up to the ends of the logs; returns the rows folded.

        reset: first put the progress back to the beginning and delete the state. A log that grows
        meanwhile is followed while there is much to do; the little that is left is a running
        worker's. Raises RebuildBusyError where another rebuild runs, and StoreUnavailableError
        where Redis is down: what was written stays, and another run goes on from there.
        """
        with self._lock:
            if reset:
                self._reset(self._views)
            else:
                self._drop_remains()
            return self._follow()

    def _follow(self) -> int:
        total = 0
        while True:
            self._again, rows = False, 0
            names = {g.view for g in missing(self._catalog, self._progress, self._names())}
            if names:
                self._progress.renew()
            for stream, views in by_stream(self._catalog, self._views):
                rows += self._fill(stream, [view for view in views if view.name in names])
            total += rows
            if rows < self._window_rows and not self._again:
                return total

    def _names(self) -> list[str]:
        return [view.name for view in self._views]

    def put_back(self) -> None:
        """Put the views' progress back to the beginning: workers leave them to a rebuild then."""
        self._put_back(self._views)

    def _reset(self, views: Sequence[ViewPlan]) -> None:
        """Put the views' progress back to the beginning, then delete their state."""
        self._put_back(views)
        for view in views:
            self._writer.delete_prefix(self._prefix(view), self._lock.unlink)

    def _put_back(self, views: Sequence[ViewPlan]) -> None:
        prefixes = {self._prefix(view) for view in views}
        left: dict[Place, int | None] = {
            place: held for place, held in self._progress.all().items() if place.prefix in prefixes
        }
        while left:
            # 0 and not absent: a worker that finds nothing at a place may begin there by itself.
            left = self._progress.move(
                {place: (held, 0 if place.topic else None) for place, held in left.items()}
            )

    def _drop_remains(self) -> None:
        """Delete windows of which nothing is known to be whole, before they are filled.

        A worker may have written them after their beginning was lost: under a high offset, but
        without what was before. Rows are whole by themselves.
        """
        held = self._progress.all()
        known = {place.prefix for place, at in held.items() if at}
        windows = [v for v in self._views if v.kind == "window" and self._prefix(v) not in known]
        gaps = missing(self._catalog, self._progress, [view.name for view in windows])
        places = [gap.place for gap in gaps if not gap.is_history]
        self._progress.move({p: (held.get(p), 0) for p in places if p not in held})
        for view in windows:
            if any(gap.view == view.name for gap in gaps):
                self._writer.delete_prefix(self._prefix(view), self._lock.unlink)

    def _prefix(self, view: ViewPlan) -> bytes:
        return key_prefix(self._catalog.project, view)

    # -- one source --------------------------------------------------------------------------------

    def _fill(self, stream: StreamSourcePlan, views: Sequence[ViewPlan]) -> int:
        if not views:
            return 0
        log = LogReader.open(stream)
        cut, rows = history_cut(stream, log), 0
        if cut is not None:
            rows = sum(self._fill_history(stream, view, cut) for view in views)
        if log is not None:
            plan = log.plan(self._window_rows)
            for part, end in sorted(log.ends().items()):
                rows += self._fill_part(log, views, part, end, plan.get(part, []))
        return rows

    def _fill_part(
        self, log: LogReader, views: Sequence[ViewPlan], part: Part, end: int,
        windows: Sequence[Window],
    ) -> int:  # fmt: skip
        """One partition's rows for the views that lack some of them."""
        places = {view.name: Place(self._prefix(view), *part) for view in views}
        held = self._progress.read(list(places.values()))
        # Something must stand there for its loss to be seen.
        new = [place for place in places.values() if place not in held]
        self._again |= bool(self._progress.move(dict.fromkeys(new, (None, 0))))
        targets = [
            _Target(self._sink(view), places[view.name], at, at)
            for view in views
            if (at := held.get(places[view.name], 0)) < end
        ]
        total, unwritten, watermark = 0, 0, NO_TIME
        start = min((t.reached for t in targets), default=end)
        for window in windows:
            if window.last < start:
                watermark = max(watermark, window.newest_us)
        wanted = [w for w in windows if w.last >= start]
        for window, events in self._ahead(log, part, wanted):
            marks = np.maximum.accumulate(np.maximum(events.ts, watermark))
            watermark, now_us = int(marks[-1]), self._writer.now_us()
            for target in targets:
                unwritten += self._apply(target, part, events, marks, now_us)
                target.reached = max(target.reached, window.last + 1)
            if unwritten >= self._write_rows:
                targets = self._settle(targets)
                total, unwritten = total + unwritten, 0
        for target in targets:
            target.reached = max(target.reached, end)
        self._settle(targets)
        return total + unwritten

    def _ahead(
        self, log: LogReader, part: Part, windows: Sequence[Window]
    ) -> Iterator[tuple[Window, Events]]:
        """The windows' events; the next window is read while one is folded."""
        with ThreadPoolExecutor(1) as reader:
            coming = [reader.submit(log.read, part, window) for window in windows[:1]]
            for at, window in enumerate(windows):
                events = coming.pop().result()
                coming += [reader.submit(log.read, part, w) for w in windows[at + 1 : at + 2]]
                yield window, events

    def _apply(self, target: _Target, part: Part, events: Events, marks: Int64, now_us: int) -> int:
        """Fold the events from the target's place on."""
        low = int(np.searchsorted(events.offsets, target.reached))
        n = len(events.offsets) - low
        if n:
            created = None if events.created is None else events.created[low:]
            batch = Batch(
                *part, events.columns.slice(low), events.ts[low:], created,
                events.offsets[low:], marks[low:],
            )  # fmt: skip
            # What a worker would reject; its log has such an event where the udf has changed since.
            batch, failed = batch.without_failing(target.sink.view)
            where = f"{part[0]}-{part[1]}@" if part[0] else "history, row "
            target.failed += [(f"{where}{at}", why) for at, why in failed]
            target.sink.apply(batch, now_us)
            target.newest_us = max(target.newest_us, int(events.came[low:].max()))
            target.rows += n
        return n

    def _settle(self, targets: Sequence[_Target]) -> list[_Target]:
        """Write what was folded and move the progress; returns the targets that can go on."""
        held = self._progress.read([t.place for t in targets])
        sound = [t for t in targets if held.get(t.place) == t.believed]
        write([target.sink for target in sound], self._writer)
        moved = {t.place: (t.believed, t.reached) for t in sound}
        differ = self._progress.move(moved)
        clocks = {
            (stage, t.sink.view.name): t.newest_us
            for t in sound for stage in ("source", "online") if t.newest_us > NO_TIME
        }  # fmt: skip
        self._writer.raise_clocks(clocks)
        left: list[_Target] = []
        for target in targets:
            if target.place in moved and target.place not in differ:
                target.believed = target.reached
                target.sink.trim(self._cache_bytes)
                self._report(target.sink.view.name, target.rows)
                self._leave_out(target)
            else:
                # A worker has taken over, another rebuild was ahead, or the state was lost.
                now = differ.get(target.place, held.get(target.place))
                target.sink.forget()
                if now is None or now < target.reached:
                    self._again = True
                    continue
                target.believed, target.reached = now, now
            target.rows, target.failed = 0, []
            left.append(target)
        return left

    def _leave_out(self, target: _Target) -> None:
        """Say what the view's state is without."""
        if target.failed:
            name, (place, reason) = target.sink.view.name, target.failed[0]
            self.left_out[name] = self.left_out.get(name, 0) + len(target.failed)
            logger.warning(
                "view %s is without %d events of the log on which its udf fails; the first, %s: %s",
                name, len(target.failed), place, reason,
            )  # fmt: skip

    # -- history -----------------------------------------------------------------------------------

    def _fill_history(self, stream: StreamSourcePlan, view: ViewPlan, cut: int) -> int:
        """Fold a source's history into sections (or rows) of its own, apart from any partition."""
        place, begun = history(self._prefix(view)), _BEGUN + cut
        held = self._progress.read([place]).get(place)
        if held == cut:
            return 0
        if held is not None and held != begun:
            if holds_still(stream, held, cut):
                self._progress.move({place: (held, cut)})
                return 0
            # What was folded can be taken out again only with all the rest.
            self._reset([view])
            held = None
        if self._progress.move({place: (held, begun)}):
            self._again = True
            return 0
        targets = [_Target(self._sink(view), place, begun, begun)]
        total, unwritten, watermark = 0, 0, NO_TIME
        for events in read_history(stream, cut, self._window_rows):
            if len(events.ts) and targets:
                marks = np.maximum.accumulate(np.maximum(events.ts, watermark))
                watermark = int(marks[-1])
                now_us = self._writer.now_us()
                unwritten += self._apply(targets[0], ("", -1), events, marks, now_us)
            if unwritten >= self._write_rows:
                targets = self._settle(targets)
                total, unwritten = total + unwritten, 0
        for target in targets:
            target.reached = cut
        self._settle(targets)
        return total + unwritten

    def _sink(self, view: ViewPlan) -> Sink:
        return make_sink(self._catalog.project, view, self._writer)
