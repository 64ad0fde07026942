"""The latest row of each entity from the batch sources into Redis."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

import pyarrow as pa
import pyarrow.compute as pc

from headwater.arrow import TIMESTAMP, arrow_type
from headwater.catalog import Catalog, ViewPlan
from headwater.codec import RowCodec, key_prefix, redis_keys
from headwater.errors import BadRequestError
from headwater.offline.sources import CREATED, EVENT, SEQUENCE, connect, quoted, view_rows
from headwater.online.writer import OnlineWriter


def materialize(
    catalog: Catalog, writer: OnlineWriter, names: Sequence[str] | None = None
) -> dict[str, int]:
    """Load views (all batch views, or those named); returns the entities written for each.

    A row that Redis already holds with a newer event time stays. Raises BadRequestError for a
    view that does not exist or has windows.
    """
    views = [v for v in catalog.views.values() if v.kind == "row" and v.batch and not v.stream]
    if names is not None:
        unknown = sorted(set(names) - catalog.views.keys())
        if unknown:
            raise BadRequestError(f"there are no feature views {unknown}", 404)
        views = [catalog.views[name] for name in names]
    windowed = [view.name for view in views if view.kind == "window"]
    if windowed:
        raise BadRequestError(f"{windowed} have windows, which `headwater ingest` folds")
    return {view.name: _load(catalog, writer, view) for view in views if view.online}


def latest_rows(rows: pa.Table, view: ViewPlan) -> pa.Table:
    """The newest row of each entity by (event time, created, sequence)."""
    order = [f"{quoted(EVENT)} DESC"]
    if CREATED in rows.column_names:
        order.append(f"{quoted(CREATED)} DESC NULLS LAST")
    order.append(f"{quoted(SEQUENCE)} DESC")
    text = (files("headwater.offline") / "latest.sql").read_text()
    keys = ", ".join(quoted(key.name) for key in view.join_keys) or "1"
    with connect() as connection:
        connection.register("rows", rows)
        return connection.sql(text.format(keys=keys, order=", ".join(order))).to_arrow_table()


def _load(catalog: Catalog, writer: OnlineWriter, view: ViewPlan) -> int:
    rows = view_rows(catalog, view)
    for key in view.join_keys:
        rows = rows.filter(pc.is_valid(rows[key.name]))
    rows = latest_rows(rows, view)
    if not rows.num_rows:
        return 0
    events = rows[EVENT].cast(pa.int64()).to_pylist()
    made = rows[CREATED].cast(pa.int64()).to_pylist() if CREATED in rows.column_names else None
    cells = [plain_column(rows[f.name], f.type) for f in view.features]
    keys = [plain_column(rows[k.name], k.type) for k in view.join_keys]
    codec = RowCodec.of(view)
    packed = [
        codec.pack(events[i], made[i] if made else None, -1, -1, [c[i] for c in cells])
        for i in range(rows.num_rows)
    ]
    writer.write_rows(redis_keys(key_prefix(catalog.project, view), keys, rows.num_rows), packed)
    newest = max(events)
    writer.raise_clocks({("online", view.name): newest, ("offline", view.name): newest})
    return int(rows.num_rows)


def plain_column(column: pa.ChunkedArray, value_type: str) -> list[object]:
    """An Arrow column as plain values of a Feast type; not-a-number in it is null."""
    target = arrow_type(value_type)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    if column.type != target and not pa.types.is_nested(column.type):
        column = column.cast(target, safe=False)
    if target == TIMESTAMP:
        column = column.cast(pa.int64())
    values: list[object] = column.to_pylist()
    return values
