"""Feast's JSON for feature vectors. Pure."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from headwater.catalog import Catalog
from service.requests import FeaturePlan
from service.vectors import Vectors

EPOCH = "1970-01-01T00:00:00Z"


def answer(
    catalog: Catalog, plan: FeaturePlan, entities: dict[str, list[Any]], vectors: Vectors
) -> dict[str, Any]:
    """The response of `POST /get-online-features`: entity columns first, then as asked."""
    names, results = [], []
    for column, values in entities.items():
        if column not in plan.request_types:
            n = len(values)
            names.append(column)
            results.append(
                {"values": values, "statuses": ["PRESENT"] * n, "event_timestamps": [EPOCH] * n}
            )
    types = _types(catalog, plan)
    for name, values, statuses, times, kind in zip(
        vectors.names, vectors.values, vectors.statuses, vectors.event_us, types, strict=True
    ):
        names.append(name)
        results.append(
            {
                "values": [to_json(value, kind) for value in values],
                "statuses": statuses,
                "event_timestamps": [timestamp(t) for t in times],
            }
        )
    return {"metadata": {"feature_names": names}, "results": results}


def _types(catalog: Catalog, plan: FeaturePlan) -> list[str]:
    types = []
    for output in plan.outputs:
        if output.on_demand >= 0:
            fields = {f.name: f.type for f in plan.on_demand[output.on_demand].features}
            types.append(fields[output.feature])
        else:
            read = plan.reads[output.read]
            fields = {f.name: f.type for f in read.reader.view.features}
            types.append(fields[read.features[output.at]])
    return types


def to_json(value: Any, kind: str) -> Any:
    """A plain value as Feast writes it: base64 bytes, named non-finite numbers, epoch seconds."""
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value // 1_000_000 if kind.startswith("UNIX_TIMESTAMP") else value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Sequence):
        return [to_json(v, kind) for v in value]
    return value


def timestamp(event_us: int) -> str:
    """RFC 3339 with 0, 3 or 6 fraction digits, as protobuf writes it."""
    if not event_us:
        return EPOCH
    moment = datetime.fromtimestamp(event_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    micros = event_us % 1_000_000
    if not micros:
        return f"{moment}Z"
    return f"{moment}.{micros // 1000:03d}Z" if micros % 1000 == 0 else f"{moment}.{micros:06d}Z"
