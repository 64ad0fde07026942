"""Feast's JSON for feature vectors, written as bytes from columns. Pure.

Whole blocks of numbers are encoded in one call and cut into columns; the text between the columns,
which is most of an answer, is made once for each view. docs/decisions.md has the figures.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import orjson

from headwater.online.columns import STATUS_NAMES, ViewColumns
from headwater.times import FIRST_US, LAST_US

_EPOCH = datetime(1970, 1, 1)
EPOCH = b'"1970-01-01T00:00:00Z"'
_NUMPY = orjson.OPT_SERIALIZE_NUMPY
TIMES = _NUMPY | orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z
_MILLIS = re.compile(rb"(\.\d{3})000Z")
STATUS_TEXTS = [b'"' + name.encode() + b'"' for name in STATUS_NAMES]
#: Types whose values are stored as Feast's messages.
ODD = ("SCALAR_MAP", "ZONED_TIMESTAMP")


class Run(NamedTuple):
    """Features of the answer that stand side by side and come from one source.

    `source` is the place of a read, or after the reads that of an on-demand view; `at` are the
    features' positions in it, None for all of them in order.
    """

    source: int
    at: tuple[int, ...] | None


def head(names: bytes, entities: Sequence[bytes], n: int) -> list[bytes]:
    """An answer up to its features. names: JSON list; entities: JSON lists of the key columns."""
    parts = [b'{"metadata":{"feature_names":', names, b'},"results":[']
    if entities:
        tail = _key_tail(n)
        for column in entities:
            parts += (b'{"values":', column, tail)
    return parts


def close(parts: list[bytes], more: bytes = b"") -> bytes:
    """The whole answer; its last column has a comma behind. more: a member behind the results."""
    parts[-1] = parts[-1][:-1]
    parts += (b"]", more, b"}") if more else (b"]}",)
    return b"".join(parts)


@lru_cache(256)
def _key_tail(n: int) -> bytes:
    epochs = b",".join([EPOCH] * n)
    return b',"statuses":[%b],"event_timestamps":[%b]},' % (_repeat(0, n), epochs)


class Pieces:
    """The texts of one view's columns: values each, statuses and times once where they agree."""

    def __init__(self, values: list[bytes], statuses: bytes | list[bytes], times: bytes) -> None:
        self.values, self.statuses, self.times = values, statuses, times

    def write(self, at: tuple[int, ...] | None, into: list[bytes]) -> None:
        """Append the columns at some positions, each followed by a comma."""
        values, statuses = self.values, self.statuses
        if at is not None:
            values = [values[i] for i in at]
        parts = [b'{"values":['] * (3 * len(values))
        parts[1::3] = values
        if isinstance(statuses, bytes):
            parts[2::3] = [self._end(statuses)] * len(values)
        else:
            if at is not None:
                statuses = [statuses[i] for i in at]
            # Features of one window are null together.
            ends = {text: self._end(text) for text in set(statuses)}
            parts[2::3] = [ends[text] for text in statuses]
        into += parts

    def _end(self, statuses: bytes) -> bytes:
        return b'],"statuses":[%b],"event_timestamps":[%b]},' % (statuses, self.times)


def pieces(columns: ViewColumns, kinds: Sequence[str], any_time: bool) -> Pieces:
    """The texts of a view's columns; `kinds` are the features' Feast types."""
    values: list[bytes] = []
    if len(columns.blocks) == 1 and not columns.lists:
        values = _block(columns, columns.blocks[0].numbers, columns.blocks[0].at, kinds, any_time)
    else:
        values = [b""] * len(kinds)
        for at, numbers in columns.blocks:
            for i, text in zip(at, _block(columns, numbers, at, kinds, any_time), strict=True):
                values[i] = text
        for i, column in columns.lists.items():
            values[i] = orjson.dumps([to_json(v, kinds[i]) for v in column])[1:-1]
    n = len(columns.event_us)
    return Pieces(values, _statuses(columns, n), times(columns.event_us))


def _block(
    columns: ViewColumns, numbers: Any, at: Sequence[int], kinds: Sequence[str], any_time: bool
) -> list[bytes]:
    if any_time and numbers.dtype == np.int64:
        rows = [i for i, feature in enumerate(at) if kinds[feature] == "UNIX_TIMESTAMP"]
        numbers = numbers.copy()
        numbers[rows] //= 1_000_000
    one = numbers.shape[1] == 1
    text: bytes = orjson.dumps(numbers.ravel() if one else numbers, option=_NUMPY)
    # Only null has an "n". To look for one byte is quick, to count it less so.
    nulls = text.count(b"n") if columns.nulls else b"n" in text
    if numbers.dtype == np.float64 and nulls != columns.nulls:
        # A value that is NaN or an infinity: JSON has none, and Feast writes their names.
        return [orjson.dumps([to_json(v, kinds[i]) for v in columns.plain(i)])[1:-1] for i in at]
    return text[1:-1].split(b",") if one else [column[:-2] for column in text[2:].split(b"[")]


def _statuses(columns: ViewColumns, n: int) -> bytes | list[bytes]:
    status = columns.status
    if status is None:
        return _repeat(0, n)
    if n == 1:
        return [STATUS_TEXTS[code] for code in status[:, 0].tolist()]
    known: dict[bytes, bytes] = {}
    texts = []
    for row in status:
        codes = row.tobytes()
        text = known.get(codes)
        if text is None:
            text = codes
            for code, name in enumerate(STATUS_TEXTS):
                text = text.replace(bytes((code,)), name + b",")
            known[codes] = text = text[:-1]
        texts.append(text)
    return texts[0] if len(known) == 1 else texts


@lru_cache(1024)
def _repeat(code: int, n: int) -> bytes:
    return b",".join([STATUS_TEXTS[code]] * n)


def times(event_us: Any) -> bytes:
    """RFC 3339 with 0, 3 or 6 fraction digits, as protobuf writes it, in quotes and commas.

    Times that it cannot write are the first or last that it can.
    """
    if len(event_us) < 2:
        return time_text(int(event_us[0])) if len(event_us) else b""
    array = np.ascontiguousarray(event_us, np.int64)
    if (array == array[0]).all():
        return b",".join([time_text(int(array[0]))] * len(array))
    try:
        text: bytes = orjson.dumps(array.view("datetime64[us]"), option=TIMES)[1:-1]
    except orjson.JSONEncodeError:
        return b",".join(map(time_text, array.tolist()))
    return _MILLIS.sub(rb"\1Z", text) if b"000Z" in text else text


@lru_cache(256)
def time_text(event_us: int) -> bytes:
    """One of `times`."""
    moment = _EPOCH + timedelta(0, 0, min(max(event_us, FIRST_US), LAST_US))
    text: bytes = orjson.dumps(moment, option=TIMES)
    return _MILLIS.sub(rb"\1Z", text) if text.endswith(b'000Z"') else text


def computed(columns: Mapping[str, list[Any]], kinds: Mapping[str, str], now_us: int) -> Pieces:
    """The texts of an on-demand view's features, as of now."""
    values, statuses = [], []
    for name, column in columns.items():
        values.append(orjson.dumps([to_json(v, kinds[name]) for v in column])[1:-1])
        statuses.append(b",".join([STATUS_TEXTS[v is None] for v in column]))
    n = len(next(iter(columns.values()), []))
    return Pieces(values, statuses, b",".join([time_text(now_us)] * n))


def to_json(value: Any, kind: str) -> Any:
    """A plain value as Feast writes it: base64 bytes, named non-finite numbers, epoch seconds."""
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, np.generic):
        return to_json(value.item(), kind)
    if isinstance(value, int):
        return value // 1_000_000 if kind.startswith("UNIX_TIMESTAMP") else value
    if isinstance(value, bytes):
        return _odd(value, kind) if kind in ODD else base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: to_json(v, "") for key, v in value.items()}
    if isinstance(value, Sequence | np.ndarray | set):
        return [to_json(v, kind) for v in value]
    return str(value)


def _odd(value: bytes, kind: str) -> Any:
    from service.odd_values import to_json  # protobuf: not at the start

    return to_json(value, kind)
