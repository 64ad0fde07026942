"""Vectors of the feature log computed again from the offline log, as of their provenance.

Set-wise: the events of all vectors' entities are read once, each gets the time of the first vector
whose state held it as its time of arrival, and then the joins of training sets do the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import orjson
import pyarrow as pa

from headwater import label_kernels as kernels
from headwater.arrow import arrow_type
from headwater.catalog import Catalog, ViewPlan
from headwater.label_windows import EventPart, KeyedEvents, windows_at
from headwater.offline.feature_log import LoggedRead, Part, provenance_column
from headwater.offline.keys import LabelKeys
from headwater.offline.point_in_time import reach_us
from headwater.offline.replay import LogReader, count_history
from headwater.offline.scan import Scan, open_view
from headwater.offline.seen import HISTORY_SOURCE, Bounds, Grouped, Held
from headwater.offline.sources import CREATED, EVENT
from headwater.online.columns import NOT_FOUND, NULL_VALUE, OUTSIDE_MAX_AGE, PRESENT
from headwater.online.provenance import Sections
from headwater.windows import Bool, Int64, source_id

_NONE: Int64 = np.zeros(0, np.int64)
#: A history's progress is its cut once it is folded, and below this while it is being folded.
_FOLDED = -(2**62)

STALE = "a row of another version of the view's schema"
PUSHED = "the row was pushed: it is in no source"
NO_ROW = "no row online: nothing says when one was to be loaded"
NO_SOURCE = "the view has no source to read its past from"
AHEAD = "the offline log does not reach as far as the state yet"
FOLDING = "the view's history was still being folded, or how far it was is not known"
CUT = "older events than the log's first came since: that part of the history counts no longer"


@dataclass
class Values:
    """Features of one view, recomputed [vectors]: values, statuses; and why they are not, where so.

    reasons: number of the reason among `why`, 0 for a vector that can be compared.
    """

    values: dict[str, pa.Array]
    statuses: dict[str, Int64]
    reasons: Int64
    why: list[str] = field(default_factory=lambda: [""])
    #: Of each windowed sum what its terms' sizes are: `magnitude` asks for it.
    again: _Windows | None = None

    def magnitude(self, feature: str) -> Int64 | None:
        """Sum or mean of |x|, for std and var mean of x squared; None for other functions."""
        return self.again.magnitude(feature) if self.again else None


class Recompute:
    """Recomputes one view's features for the vectors of a part of the log."""

    def __init__(self, catalog: Catalog, part: Part, read: LoggedRead) -> None:
        self.catalog, self.part, self.read = catalog, part, read
        self.view: ViewPlan = catalog.views[read.view]
        self.t: Int64 = part.times()
        self.n = len(self.t)
        column = part.table[provenance_column(read)].combine_chunks()
        self._provenance: pa.Array = column
        #: Of rows: whether the state was not known to hold all events up to the row's.
        self.unsettled: Bool = np.zeros(self.n, np.bool_)
        self._reasons = np.zeros(self.n, np.int64)
        self._why = [""]

    def values(self, whole: bool = True) -> Values:
        """As of provenance and, with `whole`, of what the state was known to be whole up to."""
        self._reasons, self._why = np.zeros(self.n, np.int64), [""]
        view = self.view
        if view.stream:
            return self._streamed(whole)
        if view.batch is None:
            self._refuse(np.ones(self.n, np.bool_), NO_SOURCE)
            return self._nothing()
        return self._loaded()

    def _refuse(self, which: Bool, why: str) -> None:
        if which.any():
            if why not in self._why:
                self._why.append(why)
            self._reasons[which & (self._reasons == 0)] = self._why.index(why)

    def _nothing(self) -> Values:
        types = {f.name: arrow_type(f.type) for f in self.view.features}
        names = self.read.features
        return Values(
            {n: pa.nulls(self.n, types[n]) for n in names},
            {n: np.full(self.n, NOT_FOUND, np.int64) for n in names}, self._reasons, self._why,
        )  # fmt: skip

    # -- views of a stream -------------------------------------------------------------------------

    def _streamed(self, whole: bool) -> Values:
        view, stream = self.view, self.catalog.streams[self.view.stream]
        # Before the events: of those that come meanwhile it is not known whether they were read.
        ends = self._log_ends()
        scan = open_view(self.catalog, view)
        keys = self._keys()
        reach = reach_us(view)
        if view.kind == "window" and self.n:
            low = None if reach is None else int(self.t.min()) - reach
            scan.limit(low, int(self.t.max()))
        if view.kind == "window":
            held = Held.read(scan, keys, sorted({a.column for a in view.aggregations} - {"", "*"}))
            sections = Sections.of(self._provenance)
            bounds = self._bounds(sections, stream.topics)
        else:
            held = Held.read(scan, keys, [])
            bounds = self._bounds(self._row_sections(held, stream.topics), stream.topics)
            self.unsettled = np.asarray((bounds.state > bounds.whole).any(axis=1))
        last = np.maximum(bounds.state, bounds.whole) if whole else bounds.state
        end = np.array([ends.get(source, 0) for source in bounds.sources], np.int64)
        ahead = np.maximum(bounds.state, bounds.whole) >= end
        self._refuse(np.asarray(ahead.any(axis=1)), AHEAD)
        self._check_history(scan)
        labels = Grouped.of(keys.codes, self.t, last)
        event, group, arrived = labels.seen(held, bounds.column(held.source))
        if view.kind == "window":
            again = _Windows(self, held, labels, event, group, arrived)
            values = again.values()
            statuses = {
                n: np.where(np.asarray(v.is_null()), NULL_VALUE, PRESENT) for n, v in values.items()
            }
            return Values(values, statuses, self._reasons, self._why, again)
        best = np.full((self.n, 4), -1, np.int64)
        kernels.newest(
            group, held.ts[event], arrived, held.created[event] if len(held.created) else _NONE,
            held.sequence[event], 0, labels.at, labels.t, best, labels.at[:-1].copy(),
        )  # fmt: skip
        rows, place = np.full(self.n, -1, np.int64), np.full(self.n, -1, np.int64)
        kernels.settle(labels.at, labels.t, view.ttl_us, best, rows)
        place[labels.order] = rows
        found = np.where(place >= 0, held.row[event[np.maximum(place, 0)]], -1) if len(event) \
            else np.full(self.n, -1, np.int64)  # fmt: skip
        gone = np.where(place == -2, OUTSIDE_MAX_AGE, np.where(place == -1, NOT_FOUND, PRESENT))
        return self._taken(scan, found, gone)

    def _keys(self) -> LabelKeys:
        columns = [
            self.part.table[c].cast(arrow_type(k.type))
            for c, k in zip(self.read.columns, self.view.join_keys, strict=True)
        ]
        return LabelKeys(columns, self.n)

    def _bounds(self, sections: Sections, topics: Sequence[str]) -> Bounds:
        """The matrices of the last offsets, by the provenance and by the notes of `__whole`."""
        notes = self._notes()
        partitions = {(t, p) for note in notes for t, p, _ in note if t in topics}
        sources = sorted(
            {source_id(*place) for place in partitions}
            | set(np.unique(sections.source).tolist()) - {HISTORY_SOURCE}
        )
        at = {source: i for i, source in enumerate(sources)}
        state = np.full((self.n, len(sources)), -1, np.int64)
        kept = sections.source != HISTORY_SOURCE
        if kept.any():
            vector = np.repeat(np.arange(self.n), np.diff(sections.at))[kept]
            place = np.searchsorted(np.array(sources), sections.source[kept])
            state[vector, place] = sections.offset[kept]
        known = np.full((len(notes) + 1, len(sources)), -1, np.int64)
        for i, note in enumerate(notes):
            for topic, partition, before in note:
                if topic in topics:
                    known[i, at[source_id(topic, partition)]] = before - 1
        return Bounds(sources, state, known[self._note_of()])

    def _notes(self) -> list[list[tuple[str, int, int]]]:
        return [note.get(self.read.view, []) for note in self.part.wholes]

    def _note_of(self) -> Int64:
        number: Int64 = self.part.table["__whole"].combine_chunks().fill_null(-1).to_numpy()
        return number.astype(np.int64)

    def _row_sections(self, held: Held, topics: Sequence[str]) -> Sections:
        """A row's version as a section: it is the newest of all events up to its offset."""
        p = self._provenance
        present = np.asarray(p.is_valid())
        event = p.field("event_timestamp").cast(pa.int64()).fill_null(0).to_numpy()
        placed = present & np.asarray(p.field("partition").is_valid())
        partition = p.field("partition").fill_null(-1).to_numpy().astype(np.int64)
        offset = p.field("offset").fill_null(-1).to_numpy()
        readable = np.asarray(p.field("readable").fill_null(False))
        self._refuse(present & ~readable, STALE)
        self._refuse(present & ~placed, PUSHED)
        streamed = placed & (partition >= 0)
        source = np.full(self.n, -1, np.int64)
        if len(topics) == 1:
            first = source_id(topics[0], 0)
            source[streamed] = first | partition[streamed]
        else:
            source = held.topic_of(topics, partition, offset, event, streamed)
        at = np.zeros(self.n + 1, np.int64)
        np.cumsum(source >= 0, out=at[1:])
        return Sections(at, source[source >= 0], offset[source >= 0])

    def _log_ends(self) -> dict[int, int]:
        """Of each partition, by its source, the offset before which the log has all events."""
        reader = LogReader.open(self.catalog.streams[self.view.stream])
        return {source_id(*part): end for part, end in (reader.ends() if reader else {}).items()}

    def _check_history(self, scan: Scan) -> None:
        """Leave out vectors whose state held another part of the history than counts now."""
        stream = self.catalog.streams[self.view.stream]
        if stream.history is None:
            return
        cut = next((p.before_us for p in scan.pieces if p.kind == "history"), None)
        held = [next((at for topic, _, at in note if not topic), _FOLDED) for note in self._notes()]
        held.append(_FOLDED)  # of a vector of which nothing is known
        moved = {
            at: cut is not None and at != cut and count_history(stream, *sorted((at, cut))) > 0
            for at in set(held) if at > _FOLDED
        }  # fmt: skip
        note = self._note_of()
        self._refuse(np.array([at <= _FOLDED for at in held])[note], FOLDING)
        self._refuse(np.array([moved.get(at, False) for at in held])[note], CUT)

    # -- views of a batch source -------------------------------------------------------------------

    def _loaded(self) -> Values:
        """The row of the source with the provenance's times."""
        p = self._provenance
        present = np.asarray(p.is_valid())
        self._refuse(~present, NO_ROW)
        self._refuse(present & ~np.asarray(p.field("readable").fill_null(False)), STALE)
        scan = open_view(self.catalog, self.view)
        columns = [
            self.part.table[c].cast(arrow_type(k.type))
            for c, k in zip(self.read.columns, self.view.join_keys, strict=True)
        ]
        event = p.field("event_timestamp").cast(pa.int64()).fill_null(0)
        times = [event, *([p.field("created").cast(pa.int64()).fill_null(0)]
                          if scan.has_created else [])]  # fmt: skip
        keys = LabelKeys([*columns, *map(pa.chunked_array, ([t] for t in times))], self.n)
        best = np.full(max(keys.count, 1), -1, np.int64)
        own = [EVENT, *([CREATED] if scan.has_created else [])]
        names = [k.name for k in self.view.join_keys]
        base = 0
        for batch in scan.batches([*names, *own]):
            found = [c.cast(pa.int64()).fill_null(0) for c in batch.columns[len(names) :]]
            codes = keys.of([*batch.columns[: len(names)], *found], batch.num_rows)
            rows = np.flatnonzero(codes >= 0)
            best[codes[rows]] = rows + base  # the last one of equal times wins, as when loaded
            base += batch.num_rows
        rows = np.where(keys.codes >= 0, best[np.maximum(keys.codes, 0)], -1)
        self._refuse(rows < 0, PUSHED)
        ttl = self.view.ttl_us
        expired = present & (event.to_numpy() < self.t - ttl) if ttl else np.zeros(self.n, np.bool_)
        gone = np.where(expired, OUTSIDE_MAX_AGE, np.where(rows < 0, NOT_FOUND, PRESENT))
        return self._taken(scan, np.where(expired, -1, rows), gone)

    def _taken(self, scan: Scan, rows: Int64, gone: Int64) -> Values:
        """The features at rows of a scan; `gone` is the status of those without a value."""
        names = list(self.read.features)
        types = {f.name: arrow_type(f.type) for f in self.view.features}
        values = {
            n: _typed(c, types[n]) for n, c in zip(names, scan.take(names, rows), strict=True)
        }
        statuses = {
            n: np.where((gone == PRESENT) & np.asarray(v.is_null()), NULL_VALUE, gone)
            for n, v in values.items()
        }
        return Values(values, statuses, self._reasons, self._why)


def _typed(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column as the log has it: maps and other things of no type of their own are JSON."""
    if column.type == kind:
        return column
    if kind == pa.string() and pa.types.is_nested(column.type):
        texts = [v and orjson.dumps(v, default=str).decode() for v in column.to_pylist()]
        return pa.array(texts, kind)
    return column.cast(kind, safe=False)


@dataclass
class _Windows:
    """Windows of groups of vectors."""

    about: Recompute
    held: Held
    labels: Grouped
    event: Int64
    group: Int64
    arrived: Int64

    def values(self) -> dict[str, pa.Array]:
        made = {a.name: a for a in self.about.view.aggregations}
        wanted = [made[name] for name in self.about.read.features]
        found = windows_at(wanted, self._events({}), self.labels.at, self.labels.t)
        return {a.name: self._placed(v) for a, v in zip(wanted, found, strict=True)}

    def _events(self, change: Mapping[str, pa.Array]) -> KeyedEvents:
        rows = pa.array(self.event)
        columns = {n: c.take(rows) for n, c in {**self.held.columns, **change}.items()}
        part = EventPart(
            self.group, self.held.ts[self.event], columns,
            self.held.sequence[self.event], self.arrived,
        )  # fmt: skip
        kinds = {name: column.type for name, column in columns.items()}
        return KeyedEvents.sort([part], len(self.labels.at) - 1, kinds)

    def _placed(self, values: pa.Array) -> pa.Array:
        back = np.empty(len(self.labels.order), np.int64)
        back[self.labels.order] = np.arange(len(back))
        return values.take(pa.array(back))

    def magnitude(self, feature: str) -> Int64 | None:
        a = next(a for a in self.about.view.aggregations if a.name == feature)
        if a.function not in {"sum", "mean", "std", "var"}:
            return None
        x = self.held.columns[a.column].cast(pa.float64()).to_numpy(zero_copy_only=False)
        squares = a.function in {"std", "var"}
        sizes = pa.array(x * x if squares else np.abs(x), from_pandas=True)
        plan = msgspec.structs.replace(
            a, function="mean" if squares else a.function, column_type="DOUBLE",
            output_type="DOUBLE",
        )  # fmt: skip
        (found,) = windows_at(
            [plan], self._events({a.column: sizes}), self.labels.at, self.labels.t
        )
        return self._placed(found).fill_null(0).to_numpy(zero_copy_only=False)
