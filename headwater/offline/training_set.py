"""Training sets: features joined to labels as they stood at each label's time."""

from __future__ import annotations

import contextlib
import time as clock
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from headwater.arrow import TIMESTAMP, arrow_type
from headwater.catalog import Catalog, FeatureRefPlan, OnDemandPlan
from headwater.offline import bootstrap
from headwater.offline.checks import check, feature_names, stored_views, titles
from headwater.offline.label_values import label_columns
from headwater.offline.leaks import frame_warnings
from headwater.offline.point_in_time import Labels, Past, features_at
from headwater.offline.sources import normalised
from headwater.offline.spec import TIME_COLUMN, Request
from headwater.on_demand import Column, arrow_columns
from headwater.times import micros

#: (what is being done, parts done, parts in all)
Report = Callable[[str, int, int], None]
#: A feature's values, by the name its view goes by and its own.
Columns = dict[tuple[str, str], Any]


def build(
    catalog: Catalog,
    features: Sequence[FeatureRefPlan],
    labels: pa.Table,
    full_feature_names: bool = False,
    report: Report | None = None,
    time_column: str = TIME_COLUMN,
    past: Past = Past(),  # noqa: B008 (frozen)
) -> pa.Table:
    """The labels' columns and rows, in their order, and one column for each feature.

    labels: join keys, `time_column`, request inputs of on-demand views, anything else.
    Raises HeadwaterError for a missing or null key or time, and for an unknown view or feature.
    """
    request = Request(tuple(features), full_feature_names)
    return build_request(catalog, request, labels, report, time_column, past)


def build_request(
    catalog: Catalog, request: Request, labels: pa.Table, report: Report | None = None,
    time_column: str = TIME_COLUMN, past: Past = Past(),  # noqa: B008 (frozen)
) -> pa.Table:  # fmt: skip
    """As `build`, with label windows and logged features."""
    labels = prepare(catalog, request, labels, time_column, past)
    keyed = labels_of(labels, time_column)
    columns: Columns = {}
    steps = stored_views(catalog, request.features)
    for done, (reference, names) in enumerate(steps):
        if report:
            report(reference.view, done, len(steps))
        for name, array in view_columns(catalog, request, reference, names, keyed, past):
            columns[reference.name_to_use, name] = array
    for name, array in label_columns(catalog, request.label_windows, keyed, past):
        columns["", name] = array
    if report:
        report("done", len(steps), len(steps))
    return assemble(catalog, request, labels, columns)


def prepare(
    catalog: Catalog, request: Request, labels: pa.Table, time_column: str, past: Past
) -> pa.Table:
    """The labels with times in UTC microseconds, checked; warnings go to `past.warn`."""
    labels = normalised(labels)
    more = [window.name for window in request.label_windows]
    check(catalog, request.features, labels, time_column, request.full_feature_names, more)
    if past.warn:
        for warning in frame_warnings(labels, time_column, clock.time_ns() // 1000):
            past.warn(warning)
    return labels


def labels_of(labels: pa.Table, time_column: str) -> Labels:
    return Labels(labels, labels[time_column].cast(TIMESTAMP).cast(pa.int64()).to_numpy())


def view_columns(
    catalog: Catalog, request: Request, reference: FeatureRefPlan, names: Sequence[str],
    labels: Labels, past: Past,
) -> Iterator[tuple[str, pa.Array]]:  # fmt: skip
    """One view's features for each label, one by one; logged values where there are any."""
    view = catalog.views[reference.view]
    keys = {k.name: reference.join_key_map.get(k.name, k.name) for k in view.join_keys}
    if not request.bootstrap:
        yield from features_at(catalog, view, labels, keys, names, past)
        return
    logged = bootstrap.logged_features(
        request.bootstrap, reference.name_to_use, names, labels, list(keys.values())
    )
    missing = np.flatnonzero(~logged.found)
    rest = Labels(labels.table.take(pa.array(missing)), labels.times[missing])
    for name, array in features_at(catalog, view, rest, keys, names, past):
        yield name, logged.fill(name, array, missing)


def assemble(
    catalog: Catalog, request: Request, labels: pa.Table, columns: Mapping[tuple[str, str], Any]
) -> pa.Table:
    """Labels, label windows and features as one table: all rows, or a slice of everything."""
    columns = dict(columns)
    for reference in request.features:
        if reference.view in catalog.on_demand:
            made = on_demand_features(catalog, catalog.on_demand[reference.view], columns, labels)
            columns.update({(reference.name_to_use, name): made[name] for name in made})
    out = labels
    for window in request.label_windows:
        out = out.append_column(window.name, columns["", window.name])
    for title, alias, name in titles(catalog, request.features, request.full_feature_names):
        out = out.append_column(title, columns[alias, name])
    return out


def on_demand_features(
    catalog: Catalog, plan: OnDemandPlan, columns: Mapping[tuple[str, str], Any], labels: pa.Table
) -> dict[str, pa.Array]:
    """An on-demand view's features over all labels, by the same function as online."""
    keys = {key.name: key.type for view in catalog.views.values() for key in view.join_keys}
    keys |= {entity.join_key: entity.type for entity in catalog.entities.values()}
    inputs = {
        name: Column(kind, _as(labels[name], kind))
        for name, kind in keys.items()
        if name in labels.column_names
    }
    for source in plan.inputs:
        types = {field.name: field.type for field in catalog.views[source.view].features}
        for name in source.features or feature_names(catalog, source.view):
            column = Column(types[name], columns[source.name_to_use, name])
            for prefix in ("", f"{source.view}__", f"{source.name_to_use}__"):
                inputs[prefix + name] = column
    inputs |= {f.name: Column(f.type, _as(labels[f.name], f.type)) for f in plan.request_fields}
    return arrow_columns(plan, inputs, labels.num_rows)


def _as(column: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    """A column of the labels as its type has it; one that cannot be cast stays as it is."""
    if kind == "UNIX_TIMESTAMP" and pa.types.is_integer(column.type):
        # A key in the feature log is the number that was asked for.
        column = pa.chunked_array([[None if v is None else micros(v) for v in column.to_pylist()]])
    with contextlib.suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return column.cast(arrow_type(kind))
    return column
