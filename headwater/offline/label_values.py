"""Labels as aggregations over the window after the label time, by the features' own operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.catalog import AggregationPlan, Catalog, FieldPlan, ViewPlan, column_kind
from headwater.errors import HeadwaterError
from headwater.offline.point_in_time import Labels, Past, features_at
from headwater.offline.scan import open_view
from headwater.offline.sources import EVENT
from headwater.offline.spec import LabelWindow
from headwater.sketches import is_sketch


def label_columns(
    catalog: Catalog, windows: Sequence[LabelWindow], labels: Labels, past: Past
) -> list[tuple[str, pa.Array]]:
    """Each label window's values [labels]. Raises HeadwaterError for what does not exist."""
    return [(window.name, _values(catalog, window, labels, past)) for window in windows]


def _values(catalog: Catalog, window: LabelWindow, labels: Labels, past: Past) -> pa.Array:
    view = catalog.views.get(window.view)
    if view is None:
        raise HeadwaterError(
            f"label {window.name!r}: there is no feature view {window.view!r}; "
            f"known: {', '.join(sorted(catalog.views))}"
        )
    column_type = _column_type(catalog, view, window)
    numeric = column_kind(column_type) != "object"
    if not numeric and window.function in {"sum", "mean", "std", "var"}:
        raise HeadwaterError(
            f"label {window.name!r}: {window.function} of {window.column!r} needs numbers, "
            f"and it is a {column_type}"
        )
    output = _output(window.function, column_type)
    # (t, t + window] is [t', t' - (window - 1)] at t' = t + window, to the microsecond.
    plan = AggregationPlan(
        window.name, window.column, window.function, window.window_us - 1 or 1, 1, 0.0,
        column_type, output,
    )  # fmt: skip
    after = ViewPlan(
        view.name, "window", view.join_keys, (FieldPlan(window.name, output),), stream=view.stream,
        batch=view.batch, aggregations=(plan,), udf=view.udf,
    )  # fmt: skip
    ends = labels.times + window.window_us
    keys = {key.name: key.name for key in view.join_keys}
    # What arrived when does not matter to a label: it is what came true.
    whole = Past(versions=past.versions, memory=past.memory, progress=past.progress)
    _, values = next(
        iter(features_at(catalog, after, Labels(labels.table, ends), keys, [window.name], whole))
    )
    newest = _newest(catalog, view, past)
    open_still = ends > newest if newest is not None else np.ones(len(ends), np.bool_)
    return pc.if_else(pa.array(open_still), pa.scalar(None, values.type), values)


def _column_type(catalog: Catalog, view: ViewPlan, window: LabelWindow) -> str:
    if window.column in {"", "*"}:
        if window.function != "count":
            raise HeadwaterError(f"label {window.name!r}: {window.function} needs a column")
        return "INT64"
    types = {f.name: f.type for f in view.features if not view.aggregations}
    if view.stream:
        stream = catalog.streams[view.stream]
        types |= {stream.field_mapping.get(f.name, f.name): f.type for f in stream.fields}
    if window.column not in types:
        raise HeadwaterError(
            f"label {window.name!r}: {window.view!r} has no column {window.column!r}; "
            f"it has {sorted(types)}"
        )
    return types[window.column]


def _output(function: str, column_type: str) -> str:
    if function in {"count", "count_distinct"}:
        return "INT64"
    if function in {"mean", "std", "var"}:
        return "DOUBLE"
    if function == "sum" and not is_sketch(function, column_kind(column_type)):
        return "INT64" if column_kind(column_type) == "int" else "DOUBLE"
    return column_type


def _newest(catalog: Catalog, view: ViewPlan, past: Past) -> int | None:
    """The newest event time of a view's source: until then its windows have closed."""
    scan = open_view(catalog, view, past.versions)
    known = scan.newest_us()
    if known is not None:
        return known
    newest = [pc.max(b.column(0).cast(pa.int64())) for b in scan.batches([EVENT])]
    times = [n.as_py() for n in newest if n.is_valid]
    return max(times) if times else None
