"""On-demand views: what their functions are given, and what they make as the views' types have it.

Online and offline run a function through this alone, so that it sees the same of the same values:
what Feast's own server gives it. A time is a datetime in UTC, a UUID and a decimal are Python's,
JSON is read, a set is a set; in pandas mode columns have Arrow's types, whatever values are in
them. Beside its inputs it sees the keys and the request's data. Pure.
"""

from __future__ import annotations

import contextlib
import copy
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from headwater.arrow import array_of, arrow_type
from headwater.catalog import OnDemandPlan
from headwater.errors import HeadwaterError
from headwater.times import epoch_us, micros
from headwater.transform import load

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBERS = ("INT32", "INT64", "FLOAT", "DOUBLE")
#: Types of which a frame has columns of Arrow's types; other values are Python's.
_FRAMED = {*_NUMBERS, "BOOL", "UNIX_TIMESTAMP", "STRING", "BYTES", "UUID", "TIME_UUID"}

_TEXTS, _ARRAYS = (str, bytes), (pa.Array, pa.ChunkedArray)
#: A value of these that differs from itself is none.
_MAY_BE_NONE = (float, datetime)


class Column(NamedTuple):
    """One input. values: [n] plain values (times in microseconds) or an Arrow array."""

    kind: str
    values: Any


def plain_columns(view: OnDemandPlan, inputs: Mapping[str, Column], n: int) -> dict[str, list[Any]]:
    """The view's features as plain values [n], by name. Raises HeadwaterError naming the view."""
    kinds = {field.name: field.type for field in view.features}
    return {name: _plain(view, name, kinds[name], c) for name, c in _call(view, inputs, n).items()}


def arrow_columns(view: OnDemandPlan, inputs: Mapping[str, Column], n: int) -> dict[str, pa.Array]:
    """As `plain_columns`, as Arrow arrays; what Arrow has no type for is JSON in a text."""
    made = _call(view, inputs, n)
    return {field.name: _array(view, field.name, field.type, made[field.name])
            for field in view.features}  # fmt: skip


def _call(view: OnDemandPlan, inputs: Mapping[str, Column], n: int) -> dict[str, Any]:
    """What the function returned for each feature: something of n values."""
    try:
        function, names = load(view.code.body), view.feature_names
        if view.code.mode == "pandas":
            frame = function(_frame(inputs))
            made = {name: frame[name] for name in names}
        elif view.singleton:
            given = {name: _given(column) for name, column in inputs.items()}
            rows = [function({name: v[i] for name, v in given.items()}) for i in range(n)]
            kinds = {field.name: field.type for field in view.features}
            made = {name: [_single(row[name], kinds[name]) for row in rows] for name in names}
        else:
            out = function({name: _given(column) for name, column in inputs.items()})
            made = {name: _listed(out[name], n) for name in names}
        short = [name for name, column in made.items() if len(column) != n]
    except Exception as error:
        raise HeadwaterError(
            f"on-demand feature view {view.name!r} failed: {type(error).__name__}: {error}"
        ) from error
    if short:
        raise HeadwaterError(f"on-demand feature view {view.name!r} gave not {n} values: {short}")
    return made


# -- what a function is given ------------------------------------------------------------------


def _given(column: Column) -> list[Any]:
    """A column's values for a function, which may change them: nothing else has them."""
    kind, values = column
    read = _reader(kind)
    if isinstance(values, _ARRAYS):
        values = values.to_pylist()
    return list(values) if read is None else [None if v is None else read(v) for v in values]


@lru_cache
def _reader(kind: str) -> Callable[[Any], Any] | None:
    """What makes of a value what a function sees; None where that is the value itself."""
    if kind in {"VALUE_LIST", "VALUE_SET"}:
        return lambda value: [_document(one) for one in value]
    for suffix, make in (("_LIST", list), ("_SET", set)):
        if kind.endswith(suffix):
            inner = _reader(kind.removesuffix(suffix))
            return lambda v: make(
                v if inner is None else [None if one is None else inner(one) for one in v]
            )
    return _READERS.get(kind)


def _moment(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    return _EPOCH + timedelta(microseconds=value)


def _document(value: Any) -> Any:
    """JSON in a text, or what it says."""
    if not isinstance(value, str):
        return copy.deepcopy(value)
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return value


#: By type. Offline, what Arrow has no type for comes as a text.
_READERS: dict[str, Callable[[Any], Any]] = {
    "UNIX_TIMESTAMP": _moment,
    "UUID": uuid.UUID, "TIME_UUID": uuid.UUID, "DECIMAL": Decimal,
    "JSON": _document, "MAP": _document, "STRUCT": _document, "SCALAR_MAP": _document,
    "ZONED_TIMESTAMP": lambda v: datetime.fromisoformat(v) if isinstance(v, str) else v,
}  # fmt: skip


def _frame(inputs: Mapping[str, Column]) -> Any:
    """A DataFrame whose columns' types come of the inputs' types."""
    import pandas as pd

    framed = {n: _arrow(c) for n, c in inputs.items() if _item(c.kind) in _FRAMED}
    frame = pa.table(framed).to_pandas()
    others = {n: pd.Series(_given(c), dtype=object)
              for n, c in inputs.items() if n not in framed}  # fmt: skip
    return frame.assign(**others)[list(inputs)] if others else frame


def _item(kind: str) -> str:
    return kind.removesuffix("_LIST").removesuffix("_SET")


def _arrow(column: Column) -> pa.Array:
    values = column.values
    if isinstance(values, _ARRAYS):
        return values
    return array_of(values, column.kind)


# -- what a function makes ---------------------------------------------------------------------


def _listed(made: Any, n: int) -> Any:
    """A column of what a python function made; of one entity its value will do, as in Feast."""
    if isinstance(made, list | tuple | np.ndarray) or hasattr(made, "isna"):
        return made
    if n == 1:
        return [made]
    raise TypeError(f"a {type(made).__name__} is no list of {n} values")


def _single(value: Any, kind: str) -> Any:
    """What a singleton made: the value, or as in Feast a list of it alone."""
    if isinstance(value, list) and len(value) == 1:
        is_list = kind.endswith(("_LIST", "_SET"))
        if not is_list or (isinstance(value[0], list) and not kind.startswith("VALUE_")):
            return value[0]
    return value


def _values(column: Any) -> Iterator[Any]:
    """The values of a list, an array or a pandas Series; None for every kind of missing."""
    if hasattr(column, "isna"):
        missing, values = column.isna().tolist(), column.tolist()
        return (None if gone else v for v, gone in zip(values, missing, strict=True))
    return iter(column)


def _plain(view: OnDemandPlan, name: str, kind: str, column: Any) -> list[Any]:
    made, typed, value = [], _typer(kind), None
    try:
        for value in _values(column):
            made.append(typed(value))
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        raise HeadwaterError(
            f"on-demand feature view {view.name!r} gave {value!r} for {name!r}, which is no "
            f"{kind}; return one, or None"
        ) from None
    return made


def _array(view: OnDemandPlan, name: str, kind: str, column: Any) -> pa.Array:
    """Numbers are cast together; one that cannot be is told by `_plain`."""
    if kind in _NUMBERS and (isinstance(column, np.ndarray) or hasattr(column, "isna")):
        with contextlib.suppress(pa.ArrowException):
            found = pa.Array.from_pandas(column)
            if pa.types.is_integer(found.type) or pa.types.is_floating(found.type):
                return found.cast(arrow_type(kind))
    values = _plain(view, name, kind, column)
    return array_of([_text(v, kind) for v in values], kind)


def _text(value: Any, kind: str) -> Any:
    """JSON of what Arrow has no type for."""
    target = arrow_type(kind)
    if value is None or isinstance(value, str):
        return value
    if target == pa.string():
        return msgspec.json.encode(value).decode()
    if pa.types.is_list(target) and target.value_type == pa.string():
        return [_text(one, _item(kind)) for one in value]
    return value


@lru_cache
def _typer(kind: str) -> Callable[[Any], Any]:
    """What makes a plain value of a type of any value. That raises TypeError, ValueError or
    OverflowError for another."""
    make = _items(kind) if kind.endswith(("_LIST", "_SET")) else _MAKERS.get(kind)

    def typed(value: Any) -> Any:
        if isinstance(value, np.datetime64):
            value = None if np.isnat(value) else value.astype("datetime64[us]").item()
        elif isinstance(value, np.generic):
            value = value.item()
        if value is None or (isinstance(value, _MAY_BE_NONE) and value != value):
            return None
        return value if make is None else make(value)

    return typed


def _items(kind: str) -> Callable[[Any], list[Any]]:
    one = list if kind.startswith("VALUE_") else _typer(_item(kind))

    def make(value: Any) -> list[Any]:
        if isinstance(value, (*_TEXTS, dict)):
            raise TypeError
        return [one(item) for item in value]

    return make


#: Of integers, without the sign.
BITS = {"INT32": 31, "INT64": 63}


def whole(value: Any, bits: int) -> int:
    """A whole number of so many bits beside its sign. Raises TypeError, ValueError or
    OverflowError."""
    if isinstance(value, _TEXTS) or value != int(value):
        raise TypeError
    if int(value) >> bits not in {0, -1}:
        raise OverflowError
    return int(value)


def _real(value: Any) -> float:
    if isinstance(value, _TEXTS):
        raise TypeError
    return float(value)


def _truth(value: Any) -> bool:
    if value not in (0, 1):
        raise TypeError
    return bool(value)


def _only(kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, kind):
            raise TypeError
        return value

    return read


def _mapping(value: Any) -> dict[str, Any]:
    found = dict(msgspec.json.decode(value) if isinstance(value, str) else value)
    if not all(isinstance(key, str) for key in found):
        raise TypeError
    return found


def _time(value: Any) -> int:
    if isinstance(value, datetime):
        return epoch_us(value)
    if isinstance(value, date):
        return epoch_us(datetime(value.year, value.month, value.day, tzinfo=UTC))
    return micros(value)


_MAKERS: dict[str, Callable[[Any], Any]] = {
    **{kind: partial(whole, bits=bits) for kind, bits in BITS.items()},
    "DOUBLE": _real, "FLOAT": lambda value: float(np.float32(_real(value))),
    "BOOL": _truth, "STRING": _only(str), "UNIX_TIMESTAMP": _time,
    "BYTES": _only(bytes), "PDF_BYTES": _only(bytes), "IMAGE_BYTES": _only(bytes),
    "UUID": lambda value: str(uuid.UUID(str(value))),
    "TIME_UUID": lambda value: str(uuid.UUID(str(value))),
    "DECIMAL": lambda value: str(Decimal(str(value))),
    "JSON": lambda v: v if isinstance(v, str) else msgspec.json.encode(v).decode(),
    "MAP": _mapping, "STRUCT": _mapping,
    "SCALAR_MAP": lambda value: {str(key): one for key, one in value.items()},
    "ZONED_TIMESTAMP": lambda v: v.isoformat() if isinstance(v, datetime) else v,
}  # fmt: skip
