"""Rows that clients push: columns of JSON to packed rows and to Arrow tables. Pure."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import orjson
import pyarrow as pa

from headwater.arrow import TIMESTAMP
from headwater.catalog import FieldPlan, ViewPlan
from headwater.codec import RowCodec
from headwater.errors import BadRequestError
from headwater.online.values import ViewReader
from headwater.times import FIRST_US, LAST_US, micros
from service.answer import ODD
from service.arrow import array_of

_RANGES = {"INT32": 31, "INT64": 63}


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
    """The rows of `df`, {column: [values]}.

    Raises BadRequestError for a missing column, ragged columns or a value of the wrong type.
    """
    if view.kind == "window":
        raise BadRequestError(
            f"view {view.name!r} has windows, folded from Kafka by `headwater ingest`; "
            "send the event to its topic instead"
        )
    if not isinstance(df, dict) or not all(isinstance(c, list) for c in df.values()):
        raise BadRequestError('"df" must map each column to a list of values')
    sizes = {name: len(column) for name, column in df.items()}
    if len(set(sizes.values())) > 1:
        raise BadRequestError(f"the columns of df differ in length: {sizes}")
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
        [_column(FieldPlan(k.name, k.type), df[k.name], False) for k in view.join_keys],
        [_column(field, df[field.name], True) for field in view.features],
    )


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
        time = micros(value)
        if not FIRST_US <= time <= LAST_US:
            raise ValueError
        return time
    except (ValueError, TypeError, OverflowError):
        raise BadRequestError(f"df[{column!r}] has {value!r}, which is no time") from None


def _column(field: FieldPlan, values: list[Any], nullable: bool) -> list[Any]:
    return [_cell(field, value, nullable) for value in values]


def _cell(field: FieldPlan, value: Any, nullable: bool) -> Any:
    if value is None:
        if nullable:
            return None
        raise BadRequestError(f"df[{field.name!r}] is a join key and has a null")
    try:
        return _parse(field, value)
    except (ValueError, TypeError, OverflowError, AttributeError):
        raise BadRequestError(
            f"df[{field.name!r}] has {value!r}, which is no {field.type}"
        ) from None


def _parse(field: FieldPlan, value: Any) -> Any:
    kind = field.type
    if kind.endswith(("_LIST", "_SET")):
        if not isinstance(value, list):
            raise TypeError
        inner = FieldPlan(field.name, kind.rsplit("_", 1)[0])
        return [_cell(inner, one, True) for one in value]
    if kind == "UNIX_TIMESTAMP":
        return _time(value, field.name)
    if kind in {"BYTES", "PDF_BYTES", "IMAGE_BYTES"}:
        return base64.b64decode(value, validate=True)
    if kind in _RANGES:
        if isinstance(value, str) or value != int(value):
            raise ValueError
        if int(value) >> _RANGES[kind] not in {0, -1}:
            raise OverflowError
        return int(value)
    if kind in {"FLOAT", "DOUBLE"}:
        # NaN and the infinities come as their names, as Feast writes them.
        number = float(value)
        if kind == "FLOAT" and abs(number) > 3.4028235677973366e38 and abs(number) != float("inf"):
            raise ValueError
        return number
    if kind == "BOOL" and isinstance(value, bool | int):
        return bool(value)
    if kind in ODD:
        return value if isinstance(value, bytes) else _odd(value, kind)
    reader = _TEXTS.get(kind)
    return reader(value) if reader else value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _uuid(value: Any) -> str:
    return str(uuid.UUID(_text(value)))


def _decimal(value: Any) -> str:
    """A number as a text, or one that is a text: JSON's numbers are no decimals."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError
    try:
        Decimal(str(value))
    except InvalidOperation:
        raise ValueError from None
    return str(value)


def _document(value: Any) -> str:
    """JSON in a text, or as it is."""
    if isinstance(value, str):
        orjson.loads(value)
        return value
    return orjson.dumps(value).decode()


def _mapping(value: Any) -> dict[str, Any]:
    """An object, or one as a text: Feast's remote client sends it so."""
    found = orjson.loads(value) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise TypeError
    return found


def _odd(value: Any, kind: str) -> bytes:
    from service.odd_values import from_json  # protobuf: not at the start

    return from_json(value, kind)


def _never(_: Any) -> Any:
    raise TypeError


#: How values come that JSON has no type of its own for.
_TEXTS: dict[str, Callable[[Any], Any]] = {
    "STRING": _text, "UUID": _uuid, "TIME_UUID": _uuid, "DECIMAL": _decimal, "JSON": _document,
    "MAP": _mapping, "STRUCT": _mapping, "BOOL": _never,
}  # fmt: skip
