"""Zoned times and maps whose keys are no texts, between JSON and the bytes that are stored. Pure.

What is stored are Feast's own messages, ZonedTimestamp and ScalarMap; of a map's keys JSON has the
texts, and what a text says decides of what type the key is.
"""

from __future__ import annotations

import base64
import contextlib
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from headwater.value_messages import guess, to_plain
from service.rpc.protos import message

_NO_TIME = -(2**63)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_json(data: bytes, kind: str) -> Any:
    """A stored value as JSON has it; kind: SCALAR_MAP or ZONED_TIMESTAMP."""
    if kind == "ZONED_TIMESTAMP":
        return _zoned_text(message("feast.types.ZonedTimestamp").FromString(data))
    entries = message("feast.types.ScalarMap").FromString(data).val
    return {_key_text(entry.key): _plain_json(to_plain(entry.value)) for entry in entries}


def from_json(value: Any, kind: str) -> bytes:
    """What is stored of a JSON value. Raises ValueError, TypeError or OverflowError."""
    if kind == "ZONED_TIMESTAMP":
        moment = datetime.fromisoformat(value)
        zone = "" if moment.tzinfo is None else str(moment.tzinfo)
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - _EPOCH) // timedelta(seconds=1)
        made = message("feast.types.ZonedTimestamp")(unix_timestamp=seconds, zone=zone)
    else:
        made = message("feast.types.ScalarMap")()
        for text, one in value.items():
            entry = made.val.add()
            name, key = _key(text)
            setattr(entry.key, name, key)
            guess(entry.value, one)
    data: bytes = made.SerializeToString(deterministic=True)
    return data


def _zoned_text(zoned: Any) -> str | None:
    if zoned.unix_timestamp == _NO_TIME:
        return None
    moment = _EPOCH + timedelta(seconds=zoned.unix_timestamp)
    return moment.astimezone(_zone(zoned.zone)).isoformat()


def _zone(name: str) -> tzinfo:
    """By Feast's name of it: a zone's own, or an offset as in UTC+05:30; UTC without one."""
    with contextlib.suppress(ZoneInfoNotFoundError, ValueError, OSError):
        if name:
            return ZoneInfo(name)
    with contextlib.suppress(ValueError):
        offset = datetime.fromisoformat(f"2000-01-01T00:00:00{name.removeprefix('UTC')}").tzinfo
        return offset or UTC
    return UTC


def _key_text(key: Any) -> str:
    name = key.WhichOneof("key")
    held = getattr(key, name) if name else None
    if name == "bool_key":
        return "true" if held else "false"
    if isinstance(held, bytes):
        return base64.b64encode(held).decode()
    return str(held)


def _key(text: str) -> tuple[str, Any]:
    """The field of a MapKey, and its value."""
    if text in {"true", "false"}:
        return "bool_key", text == "true"
    readers: tuple[tuple[str, Callable[[str], Any]], ...] = (
        ("int64_key", int), ("double_key", float), ("uuid_key", lambda t: str(uuid.UUID(t))),
    )  # fmt: skip
    for name, read in readers:
        with contextlib.suppress(ValueError):
            return name, read(text)
    raise ValueError(text)


def _plain_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: _plain_json(one) for key, one in value.items()}
    return [_plain_json(one) for one in value] if isinstance(value, list) else value
