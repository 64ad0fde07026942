"""Rows and window sections to and from the packed bytes that Redis holds; keys too. Pure.

A packed row is

    flags 1 · schema fingerprint 3 · event time 8 [· created 8] [· partition 4 · offset 8]
    [· null bits, one a feature] · fixed cells · msgpack list of the other values

all little-endian. A value of a windowed view is an 8-byte header and, for each partition, a frame:
section length 4, unused 4, section. The Lua scripts read the same layouts.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from headwater.catalog import ViewPlan
from headwater.errors import BadRequestError
from headwater.times import micros

HAS_NULLS, HAS_CREATED, HAS_OFFSET = 1, 2, 4
WINDOW_HEADER = b"\x80hwtile1"
#: Value types whose cells have one size, and how `struct` writes them.
FIXED_TYPES = {
    "INT32": "i",
    "INT64": "q",
    "BOOL": "?",
    "UNIX_TIMESTAMP": "q",
    "FLOAT": "f",
    "DOUBLE": "d",
}
_I64 = struct.Struct("<q")
_ORIGIN = struct.Struct("<iq")


class Row(NamedTuple):
    """An unpacked row. Times in microseconds; `partition` -1 for a row that no stream wrote."""

    event_us: int
    created_us: int | None
    partition: int
    offset: int
    values: tuple[Any, ...]


class StaleSchemaError(ValueError):
    """The row was written by another version of the view's schema: `fingerprint` names it."""

    def __init__(self, fingerprint: bytes) -> None:
        super().__init__(f"row written by schema {fingerprint.hex()}; materialize the view again")
        self.fingerprint = fingerprint


class RowCodec:
    """Packs rows of one view's features, in the order of the view."""

    def __init__(self, names: Sequence[str], types: Sequence[str], fingerprint: bytes) -> None:
        self.names = tuple(names)
        self.fingerprint = fingerprint
        self._fixed = [i for i, t in enumerate(types) if t in FIXED_TYPES]
        self._other = [i for i, t in enumerate(types) if t not in FIXED_TYPES]
        self._cells = struct.Struct("<" + "".join(FIXED_TYPES[types[i]] for i in self._fixed))
        self._zero = [False if types[i] == "BOOL" else 0 for i in self._fixed]
        self._bits = (len(names) + 7) // 8
        self._in_order = not self._other

    @classmethod
    def of(cls, view: ViewPlan) -> RowCodec:
        types = [field.type for field in view.features]
        return cls(view.feature_names, types, view.schema_fingerprint)

    def pack(
        self,
        event_us: int,
        created_us: int | None,
        partition: int,
        offset: int,
        values: Sequence[Any],
    ) -> bytes:
        """One row; values in feature order, None for null. Raises struct.error on a wrong type."""
        flags, parts = 0, [b"", self.fingerprint, _I64.pack(event_us)]
        if created_us is not None:
            flags |= HAS_CREATED
            parts.append(_I64.pack(created_us))
        if partition >= 0:
            flags |= HAS_OFFSET
            parts.append(_ORIGIN.pack(partition, offset))
        if None in values:
            flags |= HAS_NULLS
            bits = sum(1 << i for i, value in enumerate(values) if value is None)
            parts.append(bits.to_bytes(self._bits, "little"))
        cells = [
            zero if values[i] is None else values[i]
            for i, zero in zip(self._fixed, self._zero, strict=True)
        ]
        parts.append(self._cells.pack(*cells))
        if self._other:
            parts.append(msgspec.msgpack.encode([values[i] for i in self._other]))
        parts[0] = bytes((flags,))
        return b"".join(parts)

    def unpack(self, data: bytes) -> Row:
        """The row that was packed. Raises StaleSchemaError for another schema's row."""
        if data[1:4] != self.fingerprint:
            raise StaleSchemaError(data[1:4])
        flags = data[0]
        event_us = _I64.unpack_from(data, 4)[0]
        at, created, partition, offset, bits = 12, None, -1, -1, 0
        if flags & HAS_CREATED:
            created, at = _I64.unpack_from(data, at)[0], at + 8
        if flags & HAS_OFFSET:
            (partition, offset), at = _ORIGIN.unpack_from(data, at), at + 12
        if flags & HAS_NULLS:
            bits, at = int.from_bytes(data[at : at + self._bits], "little"), at + self._bits
        cells = self._cells.unpack_from(data, at)
        if self._in_order and not bits:
            return Row(event_us, created, partition, offset, cells)
        values: list[Any] = [None] * len(self.names)
        for i, cell in zip(self._fixed, cells, strict=True):
            values[i] = cell
        if self._other:
            rest = msgspec.msgpack.decode(data[at + self._cells.size :])
            for i, value in zip(self._other, rest, strict=True):
                values[i] = value
        for i in range(len(values)):
            if bits >> i & 1:
                values[i] = None
        return Row(event_us, created, partition, offset, tuple(values))


def pack_sections(sections: Sequence[bytes]) -> bytes:
    """The value of a windowed view's key from the sections of its partitions."""
    frames = [struct.pack("<II", len(section), 0) + section for section in sections]
    return WINDOW_HEADER + b"".join(frames)


def split_sections(data: bytes | None) -> list[bytes]:
    """The sections of a windowed view's value; none where there is no state."""
    sections: list[bytes] = []
    if not data or data[:8] != WINDOW_HEADER:
        return sections
    at = 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        sections.append(data[at + 8 : at + 8 + size])
        at += 8 + size
    return sections


def section_source(section: bytes) -> int:
    """The `windows.source_id` that a section belongs to."""
    return int.from_bytes(section[8:16], "little", signed=True)


def key_prefix(project: str, view: ViewPlan) -> bytes:
    """Eight characters that name (project, view) and what its keys mean; of a windowed view, what
    its state means."""
    parts = [project, view.name]
    if view.kind == "window":
        parts.append(view.window_fingerprint)
    else:
        # Values alone tell no user from a merchant, where a view gets other entities.
        parts += [key.name for key in view.join_keys]
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=6).digest()
    return base64.urlsafe_b64encode(digest)


def entity_text(values: Sequence[Any]) -> bytes:
    """An entity's key values, in join-key order, as unambiguous bytes (its Redis hash tag)."""
    if len(values) == 1:
        return key_text(values[0])
    return b"".join(b"%d:%b" % (len(text), text) for text in map(key_text, values))


def entity_parts(text: bytes, count: int) -> list[bytes]:
    """The texts of an entity's `count` key values, of which `entity_text` made one."""
    if count == 1:
        return [text]
    parts = []
    while text:
        size, _, rest = text.partition(b":")
        parts.append(rest[: int(size)])
        text = rest[int(size) :]
    return parts


def key_text(value: Any) -> bytes:
    """One key value as text; a timestamp is a number of microseconds."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return b"1" if value else b"0"
    return str(value).encode()


def _bytes_of(value: str | bytes) -> bytes:
    """Bytes, which JSON has as base64."""
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else value
    except ValueError:
        raise BadRequestError(f"{value!r} is no base64, as bytes of a key are sent") from None


def _time_of(value: int) -> int:
    """Microseconds of an epoch number in any unit."""
    try:
        return micros(value)
    except ValueError:
        raise BadRequestError(f"{value!r} is no time") from None


#: How key values of some types, as requests have them, become what keys are written with.
KEY_READERS: dict[str, Callable[[Any], Any]] = {
    # JSON writes a whole number without its point; the key's text is a float's.
    "FLOAT": float, "DOUBLE": float,
    "BYTES": _bytes_of, "UNIX_TIMESTAMP": _time_of,
}  # fmt: skip


def key_values(kind: str, values: Sequence[Any]) -> Sequence[Any]:
    """Values of a key of a type, as requests have them, as keys are written with.

    Raises BadRequestError.
    """
    read = KEY_READERS.get(kind)
    return values if read is None else [read(value) for value in values]


def redis_keys(prefix: bytes, columns: Sequence[Sequence[Any]], n: int) -> list[bytes]:
    """Redis keys of n entities from their key columns (plain values, join-key order)."""
    if not columns:
        return [prefix + b"{}"] * n
    if len(columns) == 1:
        first = columns[0][0] if n else None
        if type(first) is int:
            return [b"%b{%d}" % (prefix, value) for value in columns[0]]
        return [b"%b{%b}" % (prefix, key_text(value)) for value in columns[0]]
    # Entities repeat in a stream: each distinct one is written out once.
    known: dict[Any, bytes] = {}
    keys = []
    for row in zip(*columns, strict=True):
        key = known.get(row)
        if key is None:
            key = known[row] = b"%b{%b}" % (prefix, entity_text(row))
        keys.append(key)
    return keys


def entity_texts(columns: Sequence[Sequence[Any]], n: int) -> list[bytes]:
    """What follows the prefix in the Redis keys of n entities: their hash tags."""
    if len(columns) == 1 and n and type(columns[0][0]) is int:
        return [b"{%d}" % value for value in columns[0]]
    return redis_keys(b"", columns, n)


def plain(column: Any, valid: Any) -> list[Any]:
    """A column of values and validity as a list of plain Python values, None for null."""
    values = column.tolist() if isinstance(column, np.ndarray) else column
    return [v if ok else None for v, ok in zip(values, valid.tolist(), strict=True)]
