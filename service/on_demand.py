"""On-demand views: functions from Feast's registry over the columns of one request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headwater.catalog import OnDemandPlan
from headwater.errors import BadRequestError
from headwater.online.columns import ViewColumns
from headwater.transform import load
from service.requests import FeaturePlan


def compute(
    view: OnDemandPlan,
    plan: FeaturePlan,
    found: Sequence[ViewColumns],
    entities: Mapping[str, Sequence[Any]],
    n: int,
) -> dict[str, list[Any]]:
    """The view's features as columns [n], by name. Raises BadRequestError naming the view."""
    columns = _inputs(view, plan, found, entities)
    try:
        function = load(view.code.body)
        made = _call(view, function, columns, n)
    except Exception as error:
        raise BadRequestError(
            f"on-demand feature view {view.name!r} failed: {type(error).__name__}: {error}"
        ) from error
    short = [name for name, column in made.items() if len(column) != n]
    if short:
        raise BadRequestError(f"on-demand feature view {view.name!r} gave not {n} values: {short}")
    return made


def _call(
    view: OnDemandPlan, function: Any, columns: dict[str, list[Any]], n: int
) -> dict[str, list[Any]]:
    if view.code.mode == "pandas":
        import pandas as pd

        frame = function(pd.DataFrame(columns))
        return {name: _without_nan(frame[name]) for name in view.feature_names}
    if view.singleton:
        rows = [function({k: v[i] for k, v in columns.items()}) for i in range(n)]
        return {name: [row[name] for row in rows] for name in view.feature_names}
    out = function(columns)
    return {name: list(out[name]) for name in view.feature_names}


def _without_nan(column: Any) -> list[Any]:
    missing = column.isna().tolist()
    return [None if gone else v for v, gone in zip(column.tolist(), missing, strict=True)]


def _inputs(
    view: OnDemandPlan,
    plan: FeaturePlan,
    found: Sequence[ViewColumns],
    entities: Mapping[str, Sequence[Any]],
) -> dict[str, list[Any]]:
    """What the function gets: its inputs' features and the request's own."""
    columns: dict[str, list[Any]] = {}
    for source in view.inputs:
        for read, values in zip(plan.reads, found, strict=True):
            if read.alias == source.name_to_use:
                for at, feature in enumerate(read.features):
                    columns[feature] = values.plain(at)
                    columns[f"{read.alias}__{feature}"] = columns[feature]
    for field in view.request_fields:
        columns[field.name] = list(entities[field.name])
    return columns
