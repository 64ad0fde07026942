"""Makes the sketches of what came since the last time: of logs, of batch sources, of what was
served.

Of a stream's log it reads the events past the offsets that it has sketched, of a Delta table the
files that are new, of other files all of them when they have changed, of a feature log the files
that were written since. A windowed view's are those of its columns before the windows; what its
windows gave is in what was served.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from headwater.catalog import BatchSourcePlan, Catalog, ViewPlan
from headwater.errors import HeadwaterError, LogConflictError
from headwater.offline.feature_log import LOG_TIME, FeatureLog, Part, titled
from headwater.offline.files import delta_version, new_delta_files
from headwater.offline.log import OFFSET, PARTITION
from headwater.offline.manifest import stamp
from headwater.offline.prediction_sketches import sketch_predictions
from headwater.offline.scan import SOURCE, Scan, open_view
from headwater.offline.sketch_table import (
    ROWS,
    Key,
    Mark,
    Origin,
    Sketches,
    SketchTable,
    add_to,
    quoted,
)
from headwater.offline.sources import EVENT, SEQUENCE
from headwater.quality.feature_sketches import FeatureSketch, Hours

logger = logging.getLogger("headwater.offline")
#: Sketches that are held, some 2 KB each, until they are written.
_HELD = 200_000
_TRIES = 3
_OFFSET_BITS = (1 << 48) - 1
#: A feature log's file may show up so long after the time that it bears (object stores: a minute).
_SETTLE_US = 2_000_000
_SETTLE_REMOTE_US = 60_000_000
_DAY_US = 86_400_000_000


def columns_of(view: ViewPlan) -> list[str]:
    """The columns that are sketched of a view's past."""
    if view.kind == "window":
        return sorted({a.column for a in view.aggregations if a.column not in {"", "*"}})
    return list(view.feature_names)


def update(
    catalog: Catalog, table: SketchTable, logs: Mapping[str, FeatureLog],
    views: Sequence[str] | None = None, keep_us: int = 0,
) -> dict[str, int]:  # fmt: skip
    """Sketch what is new; returns the rows of each view and feature log.

    keep_us: how long the sketches of an hour are kept, 0 is for ever.
    logs: feature service -> its log. A view whose past cannot be read is left out with a warning.
    """
    done: dict[str, int] = {}
    for name in views if views is not None else catalog.views:
        view = catalog.views[name]
        if view.stream or view.batch:
            done[name] = _tried(table, lambda now, v=view: _of_view(catalog, table, v, now))
    for service, log in logs.items():
        made = _tried(table, lambda now, s=service, g=log: _of_log(table, s, g, now))
        done[f"served:{service}"] = made
    done["predictions"] = _tried(table, lambda now: sketch_predictions(catalog, table, now))
    with contextlib.suppress(LogConflictError):  # another process tidies it
        table.tidy(time.time_ns() // 1000, keep_us)
    return done


def _tried(table: SketchTable, work: Any) -> int:
    """What another process does at the same time is done then: look again."""
    for left in reversed(range(_TRIES)):
        try:
            return int(work(time.time_ns() // 1000))
        except LogConflictError:
            if not left:
                raise
        except HeadwaterError as error:
            logger.warning("not sketched: %s", error)
            return 0
    return 0


# -- views -------------------------------------------------------------------------------------


def _of_view(catalog: Catalog, table: SketchTable, view: ViewPlan, now: int) -> int:
    rows = 0
    if view.stream:
        history = catalog.streams[view.stream].history
        if history is not None:
            rows += _of_batch(catalog, table, view, history, "history", now)
        return rows + _of_stream(catalog, table, view, now)
    assert view.batch is not None  # noqa: S101 (the caller asked)
    return _of_batch(catalog, table, view, view.batch, "batch", now)


def _of_stream(catalog: Catalog, table: SketchTable, view: ViewPlan, now: int) -> int:
    """The events of the log beyond the offsets that are sketched."""
    name = f"log:{view.name}"
    mark = table.mark(name)
    scan = open_view(catalog, view)
    scan.pieces = [piece for piece in scan.pieces if piece.kind == "log"]
    held = {int(source): last for source, last in mark.progress.items()}
    _skip_sketched(scan, held)
    counted = Counted(view.name)
    chunks = _chunks(counted, _fresh(scan, columns_of(view), held, mark.progress))
    first = next(chunks, None)
    if first is not None:
        table.add(name, mark, now, chain([first], chunks))
    return counted.rows


def _fresh(
    scan: Scan, columns: list[str], held: Mapping[int, int], progress: dict[str, int]
) -> Iterator[pa.RecordBatch]:
    """The events that are not held yet; `progress` is moved to the newest ones by the end. Files
    are in no order of offsets: what comes next may be older."""
    for batch in scan.batches([*columns, EVENT, SEQUENCE, SOURCE]):
        sources = batch.column(len(columns) + 2).to_numpy()
        offsets = batch.column(len(columns) + 1).to_numpy() & _OFFSET_BITS
        fresh = np.ones(batch.num_rows, bool)
        for source in np.unique(sources).tolist():
            mine = sources == source
            fresh &= ~mine | (offsets > held.get(source, -1))
            newest = int(offsets[mine].max())
            progress[str(source)] = max(progress.get(str(source), -1), newest)
        if fresh.any():
            yield batch.filter(pa.array(fresh)).select([*columns, EVENT])


def _skip_sketched(scan: Scan, held: Mapping[int, int]) -> None:
    """Leave out the row groups that hold nothing new by their statistics."""
    for piece in scan.pieces:
        names = piece.data.schema.names
        if not held or OFFSET not in names or not isinstance(piece.data, ds.FileSystemDataset):
            continue
        partition, offset = ds.field(PARTITION), ds.field(OFFSET)
        known: dict[int, int] = {}
        for source, last in held.items():  # the partition is the low half of its number
            at = source & 0xFFFF
            known[at] = min(known.get(at, last), last)
        new = ~partition.isin(pa.array(list(known), pa.int32()))
        for at, last in known.items():
            new |= (partition == at) & (offset > last)
        kept = piece.data.get_fragments(filter=new)
        piece.fragments = [f.subset(filter=new) if hasattr(f, "subset") else f for f in kept]


def _of_batch(
    catalog: Catalog, table: SketchTable, view: ViewPlan, source: BatchSourcePlan, kind: str,
    now: int,
) -> int:  # fmt: skip
    """A source's rows when it has changed: those of new files, or all of them anew."""
    name = f"{kind}:{view.name}"
    mark = table.mark(name)
    version = _version(source, now)
    before = mark.progress.get("version")
    if before == version:
        return 0
    scan = open_view(catalog, view)
    scan.pieces = [piece for piece in scan.pieces if piece.kind == kind]
    new = None
    if before is not None and source.format == "delta":
        new = new_delta_files(source.path, source.s3_endpoint, before, version)
    if before is not None and new is None and kind == "history":
        return 0  # what it held is sketched; it lies in the past and changes seldom
    if new is not None:
        for piece in scan.pieces:
            piece.fragments = [f for f in piece.data.get_fragments() if f.path in new]
    anew = ""
    if before is not None and new is None:
        anew = f"origin = 'offline' AND view = {quoted(view.name)}"
    counted = Counted(view.name)
    chunks = _chunks(counted, scan.batches([*columns_of(view), EVENT]))
    table.add(name, Mark({"version": version}, mark.table), now, chunks, anew)
    return counted.rows


def _version(source: BatchSourcePlan, now: int) -> int:
    """A number that changes with what a source holds; where nothing tells, the day."""
    if source.format == "delta":
        found = delta_version(source.path, source.s3_endpoint)
        return -1 if found is None else found
    text = stamp(source.path).get("stamp") if source.format != "query" else None
    if text is None:
        return now // _DAY_US
    return int(hashlib.blake2b(text.encode(), digest_size=7).hexdigest(), 16)


# -- what was served ---------------------------------------------------------------------------


def _of_log(table: SketchTable, service: str, log: FeatureLog, now: int) -> int:
    """The vectors of the files that were written since."""
    if not log.exists():
        return 0
    name = f"served:{service}"
    mark = table.mark(name)
    since = mark.progress.get("written", 0)
    until = now - (_SETTLE_REMOTE_US if "://" in log.path else _SETTLE_US)
    sketches: Sketches = {}
    rows, newest = 0, since
    for part, written in log.read_written(since, until):
        rows += _add_part(sketches, service, part)
        newest = max(newest, written)
    if newest > since:
        table.add(name, Mark({"written": newest}, mark.table), now, [sketches])
    return rows


def _add_part(sketches: Sketches, service: str, part: Part) -> int:
    times = part.table[LOG_TIME]
    for read in part.plan.reads:
        names = titled(read)
        _add_served(sketches, service, read.view, part.table, names, times)
    for view in part.plan.on_demand:
        names = {f: f"{view}__{f}" for f in part.plan.catalog.on_demand[view].feature_names}
        _add_served(sketches, service, view, part.table, names, times)
    return int(part.table.num_rows)


def _add_served(
    sketches: Sketches, service: str, view: str, rows: pa.Table, names: Mapping[str, str],
    times: pa.ChunkedArray,
) -> None:  # fmt: skip
    chosen = pa.table([*(rows[title] for title in names.values()), times], [*names, EVENT])
    for batch in chosen.combine_chunks().to_batches():
        _add(sketches, "served", service, view, batch, list(names))


@dataclass
class Counted:
    """A view whose rows are sketched, and how many were."""

    view: str
    rows: int = 0


def _chunks(counted: Counted, batches: Iterable[pa.RecordBatch]) -> Iterator[Sketches]:
    """The sketches of a view's rows, as many at once as may be held."""
    sketches: Sketches = {}
    for batch in batches:
        columns = [name for name in batch.schema.names if name != EVENT]
        counted.rows += _add(sketches, "offline", "", counted.view, batch, columns)
        if len(sketches) >= _HELD:
            yield sketches
            sketches = {}
    if sketches:
        yield sketches


# -- both --------------------------------------------------------------------------------------


def _add(
    sketches: Sketches, origin: Origin, service: str, view: str, batch: pa.RecordBatch,
    columns: Sequence[str],
) -> int:  # fmt: skip
    """Add a batch by its hours; rows without a time count nowhere."""
    times = batch.column(batch.schema.names.index(EVENT)).cast(pa.int64())
    if times.null_count:
        batch, times = batch.filter(times.is_valid()), pc.drop_null(times)
    hours = Hours(times.to_numpy(zero_copy_only=False))
    for hour, rows in hours.rows().items():
        count = FeatureSketch("", "other")
        count.add_rows(rows, 0)
        add_to(sketches, Key(origin, service, view, ROWS, hour), count)
    for name in columns:
        column = batch.column(batch.schema.names.index(name))
        for hour, sketch in hours.sketches(column).items():
            add_to(sketches, Key(origin, service, view, name, hour), sketch)
    return int(batch.num_rows)
