"""On-demand views over the columns of one request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headwater.catalog import FeatureRefPlan, OnDemandPlan
from headwater.codec import KEY_READERS
from headwater.errors import BadRequestError, HeadwaterError
from headwater.on_demand import Column, plain_columns
from headwater.online.columns import ViewColumns
from service.answer import ODD
from service.requests import FeaturePlan, ViewRead


def compute(
    view: OnDemandPlan,
    plan: FeaturePlan,
    found: Sequence[ViewColumns],
    entities: Mapping[str, Sequence[Any]],
    n: int,
) -> dict[str, list[Any]]:
    """The view's features as columns [n], by name. Raises BadRequestError naming the view."""
    try:
        return plain_columns(view, _inputs(view, plan, found, entities), n)
    except HeadwaterError as error:
        raise BadRequestError(str(error)) from error


def _inputs(
    view: OnDemandPlan,
    plan: FeaturePlan,
    found: Sequence[ViewColumns],
    entities: Mapping[str, Sequence[Any]],
) -> dict[str, Column]:
    """What the function gets: keys, its inputs' features, and what the request gives."""
    columns = {
        name: Column(kind, _keys(kind, entities[name]))
        for name, kind in plan.echoed.items()
        if name in entities
    }
    for source in view.inputs:
        for read, values in zip(plan.reads, found, strict=True):
            if _is_of(read, source):
                types = {field.name: field.type for field in read.reader.view.features}
                for at, feature in enumerate(read.features):
                    if source.features and feature not in source.features:
                        continue  # the request asks for it; another input may have its name
                    column = Column(types[feature], _plain(types[feature], values.plain(at)))
                    for prefix in ("", f"{source.view}__", f"{read.alias}__"):
                        columns[prefix + feature] = column
    for name, kind in plan.request_types.items():
        columns[name] = Column(kind, _plain(kind, entities[name]))
    return columns


def _is_of(read: ViewRead, source: FeatureRefPlan) -> bool:
    """Whether a read is that of an input: one alias may be read by several keys."""
    keys = [key.name for key in read.reader.view.join_keys]
    columns = tuple(source.join_key_map.get(key, key) for key in keys)
    return (read.alias, read.reader.view.name, read.columns) == (
        source.name_to_use, source.view, columns,
    )  # fmt: skip


def _keys(kind: str, values: Sequence[Any]) -> Sequence[Any]:
    read = KEY_READERS.get(kind)
    return values if read is None else [read(value) for value in values]


def _plain(kind: str, values: Sequence[Any]) -> Sequence[Any]:
    """With what is stored as Feast's messages as JSON has it."""
    if kind not in ODD:
        return values
    from service.odd_values import to_json  # protobuf: not at the start

    return [None if value is None else to_json(value, kind) for value in values]
