"""Rows that clients push: columns of JSON to packed rows."""

from __future__ import annotations

import base64
from typing import Any

from headwater.catalog import FieldPlan, ViewPlan
from headwater.codec import RowCodec
from headwater.errors import BadRequestError
from headwater.online.values import ViewReader
from headwater.times import micros

_PARSERS: dict[str, Any] = {"INT32": int, "INT64": int, "FLOAT": float, "DOUBLE": float,
                            "BOOL": bool, "STRING": str}  # fmt: skip


def pack_frame(reader: ViewReader, frame: Any) -> tuple[list[bytes], list[bytes], int]:
    """Keys, packed rows and the newest event time of a frame {column: [values]}.

    Raises BadRequestError for a missing column, ragged columns or a value of the wrong type.
    """
    view = reader.view
    if view.kind == "window":
        raise BadRequestError(
            f"view {view.name!r} has windows, folded from Kafka by `headwater ingest`; "
            "send the event to its topic instead"
        )
    if not isinstance(frame, dict) or not all(isinstance(c, list) for c in frame.values()):
        raise BadRequestError('"df" must map each column to a list of values')
    sizes = {name: len(column) for name, column in frame.items()}
    if len(set(sizes.values())) > 1:
        raise BadRequestError(f"the columns of df differ in length: {sizes}")
    time_column = _time_column(view, frame)
    needed = [*(k.name for k in view.join_keys), *view.feature_names]
    missing = [name for name in needed if name not in frame]
    if missing:
        raise BadRequestError(f"df lacks {missing}, which view {view.name!r} has")
    n = next(iter(sizes.values()), 0)
    events = [_time(v, time_column) for v in frame[time_column]]
    made = _created_column(view, frame)
    created = [_time(v, made) if v is not None else None for v in frame[made]] if made else None
    keys = [_column(FieldPlan(k.name, k.type), frame[k.name], False) for k in view.join_keys]
    cells = [_column(field, frame[field.name], True) for field in view.features]
    codec = RowCodec.of(view)
    rows = [
        codec.pack(events[i], created[i] if created else None, -1, -1, [c[i] for c in cells])
        for i in range(n)
    ]
    return reader.keys(keys, n), rows, max(events, default=0)


def _time_column(view: ViewPlan, frame: dict[str, Any]) -> str:
    names = [view.batch.timestamp_field] if view.batch else []
    for name in (*names, "event_timestamp"):
        if name and name in frame:
            return name
    raise BadRequestError(f"df lacks its event time, column {(names or ['event_timestamp'])[0]!r}")


def _created_column(view: ViewPlan, frame: dict[str, Any]) -> str:
    names = [view.batch.created_field] if view.batch else []
    return next((name for name in (*names, "created") if name and name in frame), "")


def _time(value: Any, column: str) -> int:
    try:
        return micros(value)
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
        if field.type.endswith(("_LIST", "_SET")):
            inner = FieldPlan(field.name, field.type.rsplit("_", 1)[0])
            return [_cell(inner, one, True) for one in value]
        if field.type == "UNIX_TIMESTAMP":
            return micros(value)
        if field.type in {"BYTES", "PDF_BYTES", "IMAGE_BYTES"}:
            return base64.b64decode(value)
        parser = _PARSERS.get(field.type)
        if field.type == "STRING" and not isinstance(value, str):
            raise ValueError
        if field.type in {"INT32", "INT64"} and (isinstance(value, str) or value != int(value)):
            raise ValueError
        return parser(value) if parser else value
    except (ValueError, TypeError, OverflowError):
        raise BadRequestError(
            f"df[{field.name!r}] has {value!r}, which is no {field.type}"
        ) from None
