"""Answers a request for features: one MGET, decode, windows up to now, on-demand views."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import redis.asyncio

from headwater.catalog import OnDemandPlan
from headwater.errors import BadRequestError, StoreUnavailableError
from headwater.online.values import NULL_VALUE, PRESENT, ViewValues
from headwater.transform import load
from service.requests import FeaturePlan, ViewRead

MGET_KEYS = 1000


class Vectors(NamedTuple):
    """Columns of the answer in the order asked for, and what was read for the metrics."""

    names: list[str]
    values: list[list[Any]]
    statuses: list[list[str]]
    event_us: list[list[int]]
    reads: list[tuple[ViewRead, ViewValues]]


async def fetch(
    client: redis.asyncio.Redis, plan: FeaturePlan, entities: dict[str, list[Any]], n: int
) -> Vectors:
    """The features of n entities as of now. Raises StoreUnavailableError where Redis is down."""
    keys: list[bytes] = []
    for read in plan.reads:
        keys += read.reader.keys([entities[column] for column in read.columns], n)
    data = await _read(client, keys)
    now_us = time.time_ns() // 1000
    found = [
        read.reader.values(data[i * n : (i + 1) * n], read.features, now_us)
        for i, read in enumerate(plan.reads)
    ]
    made = [_on_demand(view, _inputs(plan, view, found, entities, n), n) for view in plan.on_demand]
    names, values, statuses, times = [], [], [], []
    for output in plan.outputs:
        names.append(output.name)
        if output.on_demand >= 0:
            column = made[output.on_demand][output.feature]
            values.append(column)
            statuses.append([NULL_VALUE if v is None else PRESENT for v in column])
            times.append([now_us] * n)
        else:
            view = found[output.read]
            values.append(view.values[output.at])
            statuses.append(view.statuses[output.at])
            times.append(view.event_us)
    return Vectors(names, values, statuses, times, list(zip(plan.reads, found, strict=True)))


async def _read(client: redis.asyncio.Redis, keys: Sequence[bytes]) -> list[bytes | None]:
    data: list[bytes | None] = []
    try:
        for at in range(0, len(keys), MGET_KEYS):
            found: Any = await client.mget(keys[at : at + MGET_KEYS])
            data += found
    except (redis.RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailableError(
            f"Redis does not answer ({type(error).__name__}); try again shortly"
        ) from error
    return data


def _inputs(
    plan: FeaturePlan,
    view: OnDemandPlan,
    found: Sequence[ViewValues],
    entities: dict[str, list[Any]],
    n: int,
) -> dict[str, list[Any]]:
    """What an on-demand view's function gets: its inputs' features and the request's own."""
    columns: dict[str, list[Any]] = {}
    for source in view.inputs:
        for read, values in zip(plan.reads, found, strict=True):
            if read.alias == source.name_to_use:
                for at, feature in enumerate(read.features):
                    columns[feature] = values.values[at]
                    columns[f"{read.alias}__{feature}"] = values.values[at]
    for field in view.request_fields:
        columns[field.name] = entities[field.name]
    return columns


def _on_demand(view: OnDemandPlan, columns: dict[str, list[Any]], n: int) -> dict[str, list[Any]]:
    function = load(view.code.body)
    try:
        if view.code.mode == "pandas":
            import pandas as pd

            frame = function(pd.DataFrame(columns))
            made = {
                name: [None if pd.isna(v) else v for v in frame[name].tolist()]
                for name in view.feature_names
            }
        elif view.singleton:
            rows = [function({k: v[i] for k, v in columns.items()}) for i in range(n)]
            made = {name: [row[name] for row in rows] for name in view.feature_names}
        else:
            out = function(columns)
            made = {name: list(out[name]) for name in view.feature_names}
    except Exception as error:
        raise BadRequestError(
            f"on-demand feature view {view.name!r} failed: {type(error).__name__}: {error}"
        ) from error
    short = [name for name, column in made.items() if len(column) != n]
    if short:
        raise BadRequestError(f"on-demand feature view {view.name!r} gave not {n} values: {short}")
    return made
