"""The latest row of each entity from the batch sources into Redis."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from headwater.arrow import arrow_type
from headwater.catalog import Catalog, ViewPlan
from headwater.codec import key_prefix
from headwater.errors import BadRequestError
from headwater.interning import Texts, entity_texts
from headwater.offline.point_in_time import newest_of_each
from headwater.offline.scan import open_view
from headwater.offline.sources import CREATED, EVENT
from headwater.online.job_status import MATERIALIZE, running
from headwater.online.rows import RowPacker
from headwater.online.writer import OnlineWriter

_WRITERS = 2
#: Rows that are packed at once, while those before are written.
_CUT = 50_000


def materialize(
    catalog: Catalog,
    writer: OnlineWriter,
    names: Sequence[str] | None = None,
    since_us: int | None = None,
    until_us: int | None = None,
) -> dict[str, int]:
    """Load views (all batch views, or those named); returns the entities written for each.

    Of rows with an event time from `since_us` to `until_us`, both included; None is no bound. A row
    that Redis already holds with a newer event time stays. Raises BadRequestError for a named view
    that does not exist, has windows or is not online.
    """
    views = [v for v in catalog.views.values() if v.kind == "row" and v.batch and not v.stream]
    if names is not None:
        unknown = sorted(set(names) - catalog.views.keys())
        if unknown:
            known = ", ".join(sorted(catalog.views))
            raise BadRequestError(f"there are no feature views {unknown}; there are: {known}", 404)
        views = [catalog.views[name] for name in names]
        away = [view.name for view in views if not view.online]
        if away:
            raise BadRequestError(
                f"feature views {away} are not online: they have online=False, or are disabled"
            )
    windowed = [view.name for view in views if view.kind == "window"]
    if windowed:
        raise BadRequestError(f"{windowed} have windows, which `headwater ingest` folds")
    done = {}
    for view in views:
        if view.online:
            with running(writer, MATERIALIZE, view.name) as run:
                run.rows = done[view.name] = _load(catalog, writer, view, since_us, until_us)
    return done


def _load(
    catalog: Catalog,
    writer: OnlineWriter,
    view: ViewPlan,
    since_us: int | None,
    until_us: int | None,
) -> int:
    scan = open_view(catalog, view)
    rows = newest_of_each(scan, view.join_keys, since_us, until_us)
    own = [EVENT, *([CREATED] if scan.has_created else [])]
    names = [*(k.name for k in view.join_keys), *view.feature_names, *own]
    packer, prefix = RowPacker(view), key_prefix(catalog.project, view)
    newest = None

    def packed() -> Iterator[tuple[Texts, Texts]]:
        nonlocal newest
        for batch in _cut(scan.pick(names, rows)):
            at = dict(zip(names, batch.columns, strict=True))
            keys = [at[k.name].cast(arrow_type(k.type)) for k in view.join_keys]
            events = at[EVENT].cast(pa.int64()).to_numpy()
            made = at[CREATED].cast(pa.int64()).fill_null(0).to_numpy() if CREATED in at else None
            cells = [_without_nan(at[f.name]) for f in view.features]
            newest = max(int(events.max()), newest or 0)
            yield entity_texts(keys, len(events)), packer.pack(events, made, cells)

    # Packing and Redis take turns on two connections, so that neither waits for the other.
    with ThreadPoolExecutor(_WRITERS) as threads:
        waiting: deque[Future[None]] = deque()
        for keys, values in packed():
            waiting.append(threads.submit(writer.load_rows, prefix, keys, values))
            if len(waiting) > _WRITERS:
                waiting.popleft().result()
        for future in waiting:
            future.result()
    if newest is not None:
        stages = ("source", "offline", "online")
        writer.raise_clocks({(stage, view.name): newest for stage in stages})
    return len(rows)


def _without_nan(column: pa.Array) -> pa.Array:
    """Not-a-number is null."""
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def _cut(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for at in range(0, batch.num_rows, _CUT):
            yield batch.slice(at, _CUT)
