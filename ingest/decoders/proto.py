"""Protobuf messages to columns, by the descriptors that the catalogue holds; no generated code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from headwater import proto_fields
from headwater.catalog import StreamSourcePlan
from headwater.message_fields import Leaf
from ingest.decoders.columns import TOMBSTONE, Decoded, EventColumns, Instants
from ingest.decoders.registry import FRAME_BYTES
from ingest.records import Records

Get = Callable[[Any], Any]


class ProtoDecoder:
    """Reads messages of one type, with or without Confluent's frame.

    A message cannot begin with a zero byte (there is no field 0), so the frame needs no setting
    and no registry: Protobuf's own field numbers say what is what.
    """

    def __init__(self, stream: StreamSourcePlan) -> None:
        self._columns = EventColumns(stream)
        self._class = proto_fields.message_class(stream.proto_descriptors, stream.proto_class)
        descriptor = self._class.DESCRIPTOR
        offered = {leaf.name: leaf for leaf in proto_fields.leaves(descriptor)}
        self._leaves = [offered[field.name] for field in stream.fields]
        self._getters = [_getter(descriptor, leaf) for leaf in self._leaves]
        event = self._columns.names.index(self._columns.event_time_column)
        if not self._leaves[event].unit:
            # A number without presence is 0 where it was never set, and that is no time.
            get = self._getters[event]
            self._getters[event] = lambda message: get(message) or None
        self._place = _place(descriptor)

    @property
    def event_time_column(self) -> str:
        return self._columns.event_time_column

    def decode(self, records: Records) -> Decoded:
        """Messages to columns; see `Decoder.decode`."""
        rows: list[list[Any]] = []
        kept: list[int] = []
        rejected: list[tuple[int, str]] = []
        for at in range(len(records)):
            row = self._row(records.value(at))
            if isinstance(row, str):
                rejected.append((at, row))
            else:
                rows.append(row)
                kept.append(at)
        columns = list(zip(*rows, strict=True)) or [() for _ in self._leaves]
        cells: list[Any] = [
            Instants(column, "us") if leaf.unit == "timestamp" else column
            for leaf, column in zip(self._leaves, columns, strict=True)
        ]
        return self._columns.build(cells, np.array(kept, np.int64), rejected)

    def _row(self, value: bytes | None) -> list[Any] | str:
        """The fields' values of one message, or the reason why it is none."""
        if value is None:
            return TOMBSTONE
        if value[:1] == b"\0":
            place, start = _framed(value)
            if place is None:
                return "the message is cut short in its schema id's frame"
            if place != self._place:
                return (
                    f"the frame says message {list(place)} of its schema, "
                    f"want {list(self._place)} ({self._class.DESCRIPTOR.full_name})"
                )
            value = value[start:]
        try:
            message = self._class.FromString(value)
            return [get(message) for get in self._getters]
        except (DecodeError, UnicodeDecodeError) as error:
            return f"no {self._class.DESCRIPTOR.full_name}: {error}"


def _getter(descriptor: Descriptor, leaf: Leaf) -> Get:
    """Reads one leaf of a message; None where it, or a message around it, is not set."""
    field = descriptor.fields_by_name[leaf.path[0]]
    name, present = field.name, field.has_presence
    if len(leaf.path) > 1:
        inner = _getter(field.message_type, leaf._replace(path=leaf.path[1:]))
        return lambda m: inner(getattr(m, name)) if m.HasField(name) else None
    one = _reader(field, leaf.unit)
    if field.is_repeated:
        if one is None:
            return lambda m: list(getattr(m, name))
        each = one
        return lambda m: [each(item) for item in getattr(m, name)]
    if one is None:
        if present:
            return lambda m: getattr(m, name) if m.HasField(name) else None
        return lambda m: getattr(m, name)
    read = one
    if present:
        return lambda m: read(getattr(m, name)) if m.HasField(name) else None
    return lambda m: read(getattr(m, name))


def _reader(field: FieldDescriptor, unit: str) -> Get | None:
    """How a value is read that is not its column's own."""
    if unit == "timestamp":
        return lambda stamp: stamp.seconds * 1_000_000 + stamp.nanos // 1000
    if unit == "wrapper":
        return lambda wrapper: wrapper.value
    if unit == "enum":
        # A number that the enum does not know, from a newer writer, is shown as it is. Of aliases
        # the first is its name, as in Protobuf's JSON: one that is added changes no values.
        names = {value.number: value.name for value in reversed(field.enum_type.values)}
        return lambda number: names.get(number) or str(number)
    return None


def _place(descriptor: Descriptor) -> tuple[int, ...]:
    """Where a message stands in its file, as the frame tells it: the indexes of nested types."""
    outer = descriptor.containing_type
    if outer is None:
        return (list(descriptor.file.message_types_by_name.values()).index(descriptor),)
    return (*_place(outer), list(outer.nested_types).index(descriptor))


def _framed(value: bytes) -> tuple[tuple[int, ...] | None, int]:
    """(the message's place in its schema, where the message begins); (None, 0) when cut short."""
    count, at = _varint(value, FRAME_BYTES)
    if at < 0 or count > len(value):
        return None, 0
    if count <= 0:
        return (0,), at  # the first message, in short
    place = []
    for _ in range(count):
        index, at = _varint(value, at)
        if at < 0:
            return None, 0
        place.append(index)
    return tuple(place), at


def _varint(value: bytes, at: int) -> tuple[int, int]:
    """(a zigzag varint, where it ends); the end is -1 when the bytes end before it does."""
    number = shift = 0
    while at < len(value) and shift < 64:
        byte = value[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at
    return 0, -1
