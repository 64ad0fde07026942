"""The one row of a gRPC write as columns of JSON, as the routes over HTTP read them. Pure."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from headwater.catalog import ViewPlan
from headwater.errors import BadRequestError
from headwater.value_messages import to_plain

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def frame(request: Any, views: Sequence[ViewPlan]) -> dict[str, list[Any]]:
    """The row of a PushRequest or WriteToOnlineStoreRequest; texts are read by the views' types.

    Raises BadRequestError where it has both kinds of features, or a text that is no such value.
    """
    if request.features and request.typed_features:
        raise BadRequestError("give features or typed_features, not both")
    if request.typed_features:
        return {name: [_json(value)] for name, value in request.typed_features.items()}
    types = {key.name: key.type for view in views for key in view.join_keys}
    types |= {field.name: field.type for view in views for field in view.features}
    return {name: [_read(name, text, types.get(name))] for name, text in request.features.items()}


def _json(value: Any) -> Any:
    """A Value as JSON has it: times as texts, bytes in base64."""
    name, plain = value.WhichOneof("val"), to_plain(value)
    if plain is None:
        return None
    if name == "unix_timestamp_val":
        return _time(plain)
    if name in {"unix_timestamp_list_val", "unix_timestamp_set_val"}:
        return [_time(one) for one in plain]
    if name in {"scalar_map_val", "zoned_timestamp_val"}:
        return plain
    return _bytes_as_text(plain)


def _bytes_as_text(plain: Any) -> Any:
    if isinstance(plain, bytes):
        return base64.b64encode(plain).decode()
    if isinstance(plain, list):
        return [_bytes_as_text(one) for one in plain]
    return plain


def _time(micros: int) -> str:
    try:
        return (_EPOCH + timedelta(microseconds=micros)).isoformat()
    except OverflowError:
        raise BadRequestError(f"{micros} microseconds is no time") from None


def _read(name: str, text: str, kind: str | None) -> Any:
    if kind is None or kind in {
        "STRING",
        "BYTES",
        "UNIX_TIMESTAMP",
        "UUID",
        "TIME_UUID",
        "DECIMAL",
        "JSON",
        "ZONED_TIMESTAMP",
    }:
        return text
    try:
        return orjson.loads(text.lower() if kind == "BOOL" else text)
    except orjson.JSONDecodeError:
        raise BadRequestError(f"features[{name!r}] is {text!r}, which is no {kind}") from None
