"""Values as JSON has them to plain values of Feast's types, in rows and in request data. Pure."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson

from headwater.errors import BadRequestError
from headwater.on_demand import BITS, whole
from headwater.times import FIRST_US, LAST_US, micros
from service.answer import ODD


def cell(where: str, name: str, kind: str, value: Any) -> Any:
    """A plain value (times in microseconds) of column `name` of a body's member `where`.

    Raises BadRequestError for a value of another type.
    """
    if value is None:
        return None
    try:
        return _parse(kind, value)
    except (ValueError, TypeError, OverflowError, AttributeError):
        raise BadRequestError(f"{where}[{name!r}] has {value!r}, which is no {kind}") from None


def moment(value: Any) -> int:
    """Microseconds of a time that RFC 3339 can write. Raises what `cell` says better."""
    time = micros(value)
    if not FIRST_US <= time <= LAST_US:
        raise ValueError
    return time


def _parse(kind: str, value: Any) -> Any:
    if kind.endswith(("_LIST", "_SET")):
        if not isinstance(value, list):
            raise TypeError
        inner = kind.rsplit("_", 1)[0]
        return [None if one is None else _parse(inner, one) for one in value]
    if kind == "UNIX_TIMESTAMP":
        return moment(value)
    if kind in {"BYTES", "PDF_BYTES", "IMAGE_BYTES"}:
        return value if isinstance(value, bytes) else base64.b64decode(value, validate=True)
    if kind in BITS:
        return whole(value, BITS[kind])
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
