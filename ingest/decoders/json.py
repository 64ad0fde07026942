"""JSON objects to columns: compiled loops read what is plain, msgspec everything else.

msgspec reads a batch at once into a struct made from the schema; it decides what is right.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
from msgspec.structs import astuple

from headwater.catalog import FieldPlan, StreamSourcePlan
from ingest.decoders.columns import (
    FLOAT_MAX,
    TOMBSTONE,
    Decoded,
    EventColumns,
    shown,
    why_not,
)
from ingest.decoders.plain_json import PlainReader
from ingest.records import Int64, Records

_NotFinite = Literal["NaN", "Infinity", "-Infinity"]
_TYPES: dict[str, Any] = {
    "INT32": Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)],
    "INT64": Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
    "FLOAT": Annotated[float, msgspec.Meta(ge=-FLOAT_MAX, le=FLOAT_MAX)] | _NotFinite,
    "DOUBLE": float | _NotFinite,
    "BOOL": bool | int,
    "STRING": str,
    "BYTES": bytes,
    "UNIX_TIMESTAMP": int | float | str,
}
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
#: Messages read at once after all together have failed: one bad message costs so many single reads.
_CHUNK = 64
_NEWLINE, _OPEN, _CLOSE = (ord(sign) for sign in "\n{}")


class JsonDecoder:
    """Decodes JSON objects by a source's fields; others are ignored, and a field may be absent."""

    def __init__(self, stream: StreamSourcePlan) -> None:
        self._columns = EventColumns(stream)
        self._types = [_python_type(field) for field in stream.fields]
        members = [
            (f"f{i}", kind | None, msgspec.field(default=None, name=field.name))
            for i, (field, kind) in enumerate(zip(stream.fields, self._types, strict=True))
        ]
        self._plain = PlainReader(stream.fields)
        self._decoder = msgspec.json.Decoder(msgspec.defstruct("Event", members, gc=False))

    @property
    def event_time_column(self) -> str:
        return self._columns.event_time_column

    def decode(self, records: Records) -> Decoded:
        """Messages to columns; see `Decoder.decode`."""
        plain = self._plain.read(records)
        if plain is None:
            return self._whole(records)
        decoded = self._columns.build(plain.cells, plain.kept, [])
        if not plain.odd:
            return decoded
        events, places, rejected = list[Any](), list[int](), list[tuple[int, str]]()
        self._singly(records, plain.odd, events, places, rejected)
        return _merged(decoded, self._built(events, np.array(places, np.int64), rejected))

    def _whole(self, records: Records) -> Decoded:
        """A batch by msgspec, at once where nothing in it is wrong."""
        n = len(records)
        events = self._together(records, 0, n)
        if events is not None:
            return self._built(events, np.arange(n), [])
        events, places, rejected = [], list[int](), list[tuple[int, str]]()
        for low in range(0, n, _CHUNK):
            high = min(low + _CHUNK, n)
            part = self._together(records, low, high)
            if part is not None:
                events += part
                places += range(low, high)
            else:
                self._singly(records, range(low, high), events, places, rejected)
        return self._built(events, np.array(places, np.int64), rejected)

    def _singly(
        self, records: Records, which: Iterable[int], events: list[Any], places: list[int],
        rejected: list[tuple[int, str]],
    ) -> None:  # fmt: skip
        for at in which:
            event = self._alone(records.value(at))
            if isinstance(event, str):
                rejected.append((at, event))
            else:
                events.append(event)
                places.append(at)

    def _built(self, events: list[Any], kept: Int64, rejected: list[tuple[int, str]]) -> Decoded:
        width = len(self._types)
        # One flat list of all values, cut with a stride, is the fastest way to columns.
        flat = list(chain.from_iterable(map(astuple, events)))
        return self._columns.build([flat[i::width] for i in range(width)], kept, rejected)

    def _together(self, records: Records, low: int, high: int) -> list[Any] | None:
        """The events of the messages [low, high); None where one of them is not as it should be.

        Lines, not an array: a message that is two objects, and two that are halves of one, must
        not make up for each other. Each value begins with `{` and ends with `}`, and no JSON value
        goes on with a newline and `{` after a `}`; so each line holds one object at least, and as
        many objects as lines are one in each.
        """
        at, size = records.value_at[low:high], records.value_size[low:high]
        if not len(at):
            return []
        start, end = int(at[0]) - 1, int(at[-1] + size[-1])
        if size.min() < 2:
            return None
        text = np.frombuffer(records.data, np.uint8)[start:end].copy()
        at = at - start
        if (text[at] != _OPEN).any() or (text[at + size - 1] != _CLOSE).any():
            return None
        text[at - 1] = _NEWLINE
        try:
            events = self._decoder.decode_lines(text.data)
        except _FAULTS:
            return None
        return events if len(events) == high - low else None

    def _alone(self, value: bytes | None) -> Any:
        """One event, or the reason why it is none."""
        if value is None:
            return TOMBSTONE
        try:
            return self._decoder.decode(value)
        except _FAULTS as error:
            return self._reason(value, error)

    def _reason(self, value: bytes, error: Exception) -> str:
        """Names the first field whose value its type cannot hold."""
        try:
            document = msgspec.json.decode(value)
        except _FAULTS as fault:
            return f"no JSON: {fault}"
        if not isinstance(document, dict):
            return f"the message is {shown(document)}, want a JSON object"
        for field, kind in zip(self._columns.fields, self._types, strict=True):
            cell = document.get(field.name)
            try:
                msgspec.convert(cell, kind | None)
            except (msgspec.ValidationError, RecursionError):
                return why_not(field, cell)
        return str(error)


def _merged(one: Decoded, other: Decoded) -> Decoded:
    """What was decoded of some messages and of others of one batch, in the batch's order."""
    kept = np.concatenate([one.kept, other.kept])
    order = np.argsort(kept)
    columns = pa.concat_tables([one.columns, other.columns]).take(pa.array(order))
    return Decoded(columns.combine_chunks(), kept[order], sorted([*one.rejected, *other.rejected]))


def _python_type(field: FieldPlan) -> Any:
    for suffix in ("_LIST", "_SET"):
        if field.type.endswith(suffix):
            return list[_TYPES[field.type.removesuffix(suffix)]]  # type: ignore[misc]
    return _TYPES[field.type]
