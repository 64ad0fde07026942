"""Rows that clients push: columns of JSON to packed rows and to Arrow tables. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import pyarrow as pa

from headwater.arrow import TIMESTAMP
from headwater.catalog import JoinKeyPlan, ViewPlan
from headwater.codec import RowCodec
from headwater.errors import BadRequestError
from headwater.online.values import ViewReader
from headwater.times import micros
from service.arrow import array_of
from service.cells import cell, moment


class Frame(NamedTuple):
    """Rows of one view as checked columns; times in microseconds, `created` None without them."""

    view: ViewPlan
    events: list[int]
    created: list[int | None] | None
    keys: list[list[Any]]
    cells: list[list[Any]]

    def packed(self, reader: ViewReader) -> tuple[list[bytes], list[bytes]]:
        """Redis keys and packed rows."""
        codec, n = RowCodec.of(self.view), len(self.events)
        made = self.created
        rows = [
            codec.pack(
                self.events[i], made[i] if made else None, -1, -1, [c[i] for c in self.cells]
            )
            for i in range(n)
        ]
        return reader.keys(self.keys, n), rows

    def table(self) -> pa.Table:
        """The rows as the view's batch source names and types them."""
        view, batch = self.view, self.view.batch
        named = [(key.name, key.type) for key in view.join_keys]
        named += [(field.name, field.type) for field in view.features]
        columns = {
            name: array_of(values, kind)
            for (name, kind), values in zip(named, (*self.keys, *self.cells), strict=True)
        }
        name = (batch.timestamp_field if batch else "") or "event_timestamp"
        columns[name] = pa.array(self.events, pa.int64()).cast(TIMESTAMP)
        if batch and batch.created_field:
            made = self.created or [None] * len(self.events)
            columns[batch.created_field] = pa.array(made, pa.int64()).cast(TIMESTAMP)
        return pa.table(columns)


def frame(view: ViewPlan, df: Any) -> Frame:
    """The rows of `df`, {column: [values]}, named as the view or as its batch source names them.

    Raises BadRequestError for a missing column, ragged columns or a value of the wrong type.
    """
    if view.kind == "window":
        raise BadRequestError(
            f"view {view.name!r} has windows, folded from Kafka by `headwater ingest`; "
            "send the event to its topic instead"
        )
    if not isinstance(df, dict) or not all(isinstance(c, list) for c in df.values()):
        raise BadRequestError('"df" must map each column to a list of values')
    df = _keys_once(view, df)
    sizes = {name: len(column) for name, column in df.items()}
    if len(set(sizes.values())) > 1:
        raise BadRequestError(f"the columns of df differ in length: {sizes}")
    for source, name in (view.batch.field_mapping if view.batch else {}).items():
        if source in df and name not in df:
            df = {**df, name: df[source]}
    time_column = _time_column(view, df)
    needed = [*(k.name for k in view.join_keys), *view.feature_names]
    missing = [name for name in needed if name not in df]
    if missing:
        raise BadRequestError(f"df lacks {missing}, which view {view.name!r} has")
    made = _created_column(view, df)
    return Frame(
        view,
        [_time(v, time_column) for v in df[time_column]],
        [None if v is None else _time(v, made) for v in df[made]] if made else None,
        [_key(k, df[k.name]) for k in view.join_keys],
        [[cell("df", f.name, f.type, v) for v in df[f.name]] for f in view.features],
    )


def _keys_once(view: ViewPlan, df: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Feast's remote client sends a stream view's keys twice over, as keys and as features."""
    n = len(df.get("event_timestamp", ()))
    names = [key.name for key in view.join_keys]
    if not n or not names or any(len(df.get(name, ())) != 2 * n for name in names):
        return df
    once = {name: df[name][::2] for name in names if df[name][::2] == df[name][1::2]}
    return {**df, **once}


class Materialize(NamedTuple):
    """What a request to materialize asks for; times in microseconds, None where unbounded."""

    names: list[str] | None
    since_us: int | None
    until_us: int | None


def materialize_of(body: dict[str, Any]) -> Materialize:
    """What `body` asks for, as Feast's feature server takes it. Raises BadRequestError."""
    names = body.get("feature_views")
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise BadRequestError('"feature_views" must be a list of names')
    if body.get("version") is not None:
        raise BadRequestError(
            '"version" is not supported: what is served is the latest version of a view'
        )
    if body.get("disable_event_timestamp") is True:
        return Materialize(names, None, None)
    bounds = [_bound(body, name) for name in ("start_ts", "end_ts")]
    if None not in bounds and bounds[0] > bounds[1]:  # type: ignore[operator]
        raise BadRequestError('"start_ts" is later than "end_ts"')
    return Materialize(names, *bounds)


def _bound(body: dict[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        return micros(value)
    except (ValueError, TypeError, OverflowError):
        raise BadRequestError(
            f'"{name}" is {value!r}, which is no time; give one such as "2026-01-31T12:00:00Z"'
        ) from None


def _time_column(view: ViewPlan, df: dict[str, Any]) -> str:
    names = [view.batch.timestamp_field] if view.batch else []
    for name in (*names, "event_timestamp"):
        if name and name in df:
            return name
    raise BadRequestError(f"df lacks its event time, column {(names or ['event_timestamp'])[0]!r}")


def _created_column(view: ViewPlan, df: dict[str, Any]) -> str:
    names = [view.batch.created_field] if view.batch else []
    return next((name for name in (*names, "created") if name and name in df), "")


def _time(value: Any, column: str) -> int:
    try:
        return moment(value)
    except (ValueError, TypeError, OverflowError):
        raise BadRequestError(f"df[{column!r}] has {value!r}, which is no time") from None


def _key(key: JoinKeyPlan, values: list[Any]) -> list[Any]:
    if None in values:
        raise BadRequestError(f"df[{key.name!r}] is a join key and has a null")
    found = [cell("df", key.name, key.type, value) for value in values]
    # A key is found under the text that it is asked for by, and that batch sources have.
    return values if key.type in {"UUID", "TIME_UUID"} else found
