"""Training sets: a feature service joined to labels as the features stood at each label's time."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from headwater.arrow import TIMESTAMP, arrow_type
from headwater.catalog import Catalog, FeatureRefPlan, OnDemandPlan
from headwater.errors import HeadwaterError
from headwater.offline.point_in_time import Labels, Past, features_at
from headwater.offline.sources import normalised
from headwater.transform import load

#: (what is being done, parts done, parts in all)
Report = Callable[[str, int, int], None]
TIME_COLUMN = "event_timestamp"


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
    labels = normalised(labels)
    _check(catalog, features, labels, time_column)
    times = labels[time_column].cast(TIMESTAMP).cast(pa.int64()).to_numpy()
    keyed = Labels(labels, times)
    columns: dict[tuple[str, str], Any] = {}
    wanted = _wanted(catalog, features)
    for done, (reference, names) in enumerate(wanted):
        if report:
            report(reference.view, done, len(wanted))
        view = catalog.views[reference.view]
        keys = {k.name: reference.join_key_map.get(k.name, k.name) for k in view.join_keys}
        found = features_at(catalog, view, keyed, keys, names, past)
        columns.update({(reference.name_to_use, n): c for n, c in zip(names, found, strict=True)})
    for reference in features:
        if reference.view in catalog.on_demand:
            plan = catalog.on_demand[reference.view]
            made = _on_demand(plan, columns, labels)
            columns.update({(reference.name_to_use, name): made[name] for name in made})
    if report:
        report("done", len(wanted), len(wanted))
    out = labels
    for reference in features:
        for name in reference.features or _names(catalog, reference.view):
            title = f"{reference.name_to_use}__{name}" if full_feature_names else name
            if title in out.column_names:
                raise HeadwaterError(
                    f"two columns would be called {title!r}; use full feature names, "
                    "or rename it in the labels"
                )
            out = out.append_column(title, columns[reference.name_to_use, name])
    return out


def write(
    catalog: Catalog, service: str, entities: Path, out: Path, report: Report | None = None
) -> dict[str, Any]:
    """Build a service's training set from a Parquet file of labels; returns its manifest.

    The manifest (`<out>.manifest.json`) names what the set was made of, its counts and its hash.
    """
    plan = catalog.services.get(service)
    if plan is None:
        known = ", ".join(sorted(catalog.services))
        raise HeadwaterError(f"there is no feature service {service!r}; known: {known}")
    if not entities.exists():
        raise HeadwaterError(f"there is no file {entities}; give labels as Parquet")
    start = time.monotonic()
    table = build(catalog, plan.features, pq.read_table(entities), False, report)
    temporary = out.with_name(f".{out.name}.new")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(out)
    views = sorted({r.view for r in plan.features} | _inputs(catalog, plan.features))
    manifest = {
        "service": service,
        "catalog": catalog.version,
        "created_at": datetime.now(UTC).isoformat(),
        "seconds": round(time.monotonic() - start, 3),
        "rows": table.num_rows,
        "features": json.loads(msgspec.json.encode(plan.features)),
        "sources": {name: _source(catalog, name) for name in views if name in catalog.views},
        "null_counts": {n: table[n].null_count for n in table.column_names},
        "labels_sha256": _sha256(entities),
        "sha256": _sha256(out),
    }
    out.with_name(out.name + ".manifest.json").write_text(json.dumps(manifest, indent=2))
    return manifest


def _check(
    catalog: Catalog, features: Sequence[FeatureRefPlan], labels: pa.Table, time: str
) -> None:
    names = labels.column_names
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise HeadwaterError(f"the labels have {twice} twice; rename one of each")
    keys = set()
    for reference, _ in _wanted(catalog, features):
        view = catalog.views[reference.view]
        keys |= {reference.join_key_map.get(k.name, k.name) for k in view.join_keys}
    needed = {time} | keys
    for reference in features:
        if reference.view in catalog.on_demand:
            needed |= {f.name for f in catalog.on_demand[reference.view].request_fields}
    missing = sorted(needed - set(names))
    if missing:
        raise HeadwaterError(f"the labels lack {missing}; they have {sorted(names)}")
    for key in sorted(keys):
        nulls = labels[key].null_count
        if nulls:
            raise HeadwaterError(f"{key!r} is null in {nulls} labels; drop or fill them")
    if not pa.types.is_timestamp(labels[time].type):
        raise HeadwaterError(
            f"{time} is {labels[time].type}; it must be a timestamp (naive is UTC)"
        )
    if labels[time].null_count:
        raise HeadwaterError(
            f"{time} is null in {labels[time].null_count} labels; drop or fill them"
        )


def _wanted(
    catalog: Catalog, features: Sequence[FeatureRefPlan]
) -> list[tuple[FeatureRefPlan, list[str]]]:
    """Stored views to read, each once under its alias, with the features that anything needs."""
    found: dict[str, tuple[FeatureRefPlan, dict[str, None]]] = {}

    def want(reference: FeatureRefPlan) -> None:
        names = reference.features or _names(catalog, reference.view)
        unknown = sorted(set(names) - set(_names(catalog, reference.view)))
        if unknown:
            raise HeadwaterError(f"view {reference.view!r} has no features {unknown}")
        entry = found.setdefault(reference.name_to_use, (reference, {}))
        entry[1].update(dict.fromkeys(names))

    for reference in features:
        if reference.view in catalog.on_demand:
            for source in catalog.on_demand[reference.view].inputs:
                want(source)
        else:
            want(reference)
    return [(reference, list(names)) for reference, names in found.values()]


def _names(catalog: Catalog, view: str) -> tuple[str, ...]:
    found = catalog.views.get(view) or catalog.on_demand.get(view)
    if found is None:
        raise HeadwaterError(f"there is no feature view {view!r}")
    return found.feature_names


def _inputs(catalog: Catalog, features: Sequence[FeatureRefPlan]) -> set[str]:
    plans = [catalog.on_demand[r.view] for r in features if r.view in catalog.on_demand]
    return {source.view for plan in plans for source in plan.inputs}


def _on_demand(
    plan: OnDemandPlan, columns: dict[tuple[str, str], Any], labels: pa.Table
) -> dict[str, pa.Array]:
    """An on-demand view's features over all labels, by the same function as online."""
    inputs: dict[str, Any] = {f.name: labels[f.name] for f in plan.request_fields}
    for source in plan.inputs:
        for (alias, name), column in columns.items():
            if alias == source.name_to_use and (not source.features or name in source.features):
                inputs[name] = column
                inputs[f"{alias}__{name}"] = column
    function = load(plan.code.body)
    try:
        if plan.code.mode == "pandas":
            frame = function(pa.table(inputs).to_pandas())
            made = {n: pa.Array.from_pandas(frame[n]) for n in plan.feature_names}
        elif plan.singleton:
            rows = [function(row) for row in pa.table(inputs).to_pylist()]
            made = {n: [row[n] for row in rows] for n in plan.feature_names}
        else:
            out = function({name: column.to_pylist() for name, column in inputs.items()})
            made = {n: out[n] for n in plan.feature_names}
    except Exception as error:
        raise HeadwaterError(
            f"on-demand feature view {plan.name!r} failed: {type(error).__name__}: {error}"
        ) from error
    types = {f.name: arrow_type(f.type) for f in plan.features}
    return {
        name: column.cast(types[name]) if isinstance(column, pa.Array)
        else pa.array(np.asarray(column).tolist() if isinstance(column, np.ndarray) else column,
                      types[name])
        for name, column in made.items()
    }  # fmt: skip


def _source(catalog: Catalog, name: str) -> dict[str, Any]:
    """What a view was read from, and which version of it."""
    view = catalog.views[name]
    if view.stream:
        path = catalog.streams[view.stream].log_path
        try:
            return {"path": path, "delta_version": DeltaTable(path).version()}
        except TableNotFoundError:
            return {"path": path, "delta_version": None}
    path = view.batch.path if view.batch else ""
    if not Path(path).exists():
        return {"path": path}
    found = Path(path).stat()
    return {"path": path, "bytes": found.st_size, "modified_ns": found.st_mtime_ns}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
