"""Avro records to columns: plain, or framed with the id of the schema that wrote them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import product
from typing import Any

import numpy as np
from fastavro import schemaless_reader
from fastavro.schema import parse_schema

from headwater import avro_fields
from headwater.catalog import StreamSourcePlan
from headwater.errors import DefinitionError
from headwater.message_fields import Leaf
from ingest.decoders.columns import TOMBSTONE, Cells, Decoded, EventColumns, Instants, Spelled
from ingest.decoders.registry import FRAME_BYTES, SchemaRegistry, UnknownSchemaError
from ingest.decoders.times import UNITS_NS
from ingest.records import Records

Read = Callable[[BytesIO], Any]


class AvroDecoder:
    """Reads each record as its writer's schema says, resolved to the source's own schema."""

    def __init__(self, stream: StreamSourcePlan, registry: SchemaRegistry | None) -> None:
        self._columns = EventColumns(stream)
        self._registry = registry if stream.framing == "auto" else None
        offered = {leaf.name: leaf for leaf in avro_fields.leaves(stream.name, stream.avro_schema)}
        self._leaves = [offered[field.name] for field in stream.fields]
        named: dict[str, Any] = {}
        self._reader = parse_schema(_bare(json.loads(stream.avro_schema)), named_schemas=named)
        _read_defaults(named)
        self._plain: Read = lambda data: schemaless_reader(data, self._reader, None)
        #: Of each leaf, the paths where a writer's schema may have it.
        self._paths = [list(_paths(self._reader, named, leaf.path)) for leaf in self._leaves]
        self._readers: dict[int, Read | str] = {}

    @property
    def event_time_column(self) -> str:
        return self._columns.event_time_column

    def decode(self, records: Records) -> Decoded:
        """Messages to columns; see `Decoder.decode`."""
        messages: list[Any] = []
        kept: list[int] = []
        rejected: list[tuple[int, str]] = []
        for at in range(len(records)):
            message = self._message(records.value(at))
            if isinstance(message, str):
                rejected.append((at, message))
            else:
                messages.append(message)
                kept.append(at)
        cells = [_cells(messages, leaf) for leaf in self._leaves]
        return self._columns.build(cells, np.array(kept, np.int64), rejected)

    def _message(self, value: bytes | None) -> Any:
        """A record as a dict, or the reason why it is none."""
        if value is None:
            return TOMBSTONE
        read, start = self._plain, 0
        if self._registry is not None and value[:1] == b"\0":
            if len(value) < FRAME_BYTES:
                return f"the message is cut short: {len(value)} bytes of a schema id's frame"
            found = self._writer(int.from_bytes(value[1:FRAME_BYTES], "big"))
            if isinstance(found, str):
                return found
            read, start = found, FRAME_BYTES
        data = BytesIO(value)
        data.seek(start)
        try:
            message = read(data)
        except EOFError:
            return "no record of the Avro schema: the bytes end before it does"
        except Exception as error:  # fastavro raises whatever malformed bytes make it meet
            return f"no record of the Avro schema: {type(error).__name__} {error}"[:300]
        rest = len(value) - data.tell()
        return f"{rest} bytes are left over after the Avro record" if rest else message

    def _writer(self, schema_id: int) -> Read | str:
        """How a registered schema's records are read, or why they cannot be."""
        found = self._readers.get(schema_id)
        if found is None:
            assert self._registry is not None  # noqa: S101 (only framed values come here)
            try:
                written = self._registry.schema(schema_id)
            except UnknownSchemaError:
                return f"schema id {schema_id} is not in the registry"
            if written.kind != "AVRO":
                found = f"schema id {schema_id} is {written.kind}, want AVRO"
            else:
                found = self._resolve(schema_id, written.text, written.references)
            self._readers[schema_id] = found
        return found

    def _resolve(self, schema_id: int, text: str, references: tuple[str, ...]) -> Read | str:
        named: dict[str, Any] = {}
        try:
            for reference in references:
                parse_schema(_bare(json.loads(reference)), named_schemas=named)
            writer = parse_schema(_bare(json.loads(text)), named_schemas=named)
        except Exception as error:  # fastavro raises what it meets: KeyError, TypeError, its own
            return f"schema id {schema_id} is no Avro schema: {type(error).__name__}"
        reader = self._reader
        try:
            theirs = avro_fields.leaves(f"schema id {schema_id}", text, references)
            changed = _changed_units(theirs, self._leaves, self._paths)
        except (ValueError, DefinitionError) as error:
            return f"schema id {schema_id} does not fit the source's Avro schema: {error}"

        def read(data: BytesIO) -> Any:
            message = schemaless_reader(data, writer, reader)
            for path, factor, divisor in changed:
                message = _scale(message, path, factor, divisor)
            return message

        return read


def _bare(schema: Any) -> Any:
    """A schema without logical types: values then come as they are written, which is faster."""
    if isinstance(schema, dict):
        return {key: _bare(value) for key, value in schema.items() if key != "logicalType"}
    return [_bare(item) for item in schema] if isinstance(schema, list) else schema


def _cells(messages: list[Any], leaf: Leaf) -> Cells | Instants | Spelled:
    """One field's values in all messages, and how they are spelled."""
    head, *rest = leaf.path
    cells = [message[head] for message in messages]
    for name in rest:
        cells = [None if cell is None else cell[name] for cell in cells]
    unit, _, scale = leaf.unit.partition(":")
    if unit in UNITS_NS:
        return Instants(cells, unit)
    convert: Callable[[bytes], Any] | None = None
    if unit == "decimal":
        divisor = 10 ** int(scale)
        convert = lambda value: int.from_bytes(value, "big", signed=True) / divisor  # noqa: E731
    elif unit == "uuid":
        convert = lambda value: str(uuid.UUID(bytes=value))  # noqa: E731
    return Spelled(cells, convert) if convert else cells


def _read_defaults(named: dict[str, Any]) -> None:
    """Make defaults of bytes what a datum has: JSON writes each byte as the character of its number
    (Avro 1.12, "Complex Types"), and fastavro takes them as they are written.
    """
    for schema in named.values():
        for field in schema.get("fields", ()):
            if "default" in field:
                field["default"] = _as_read(field["type"], field["default"], named)


def _as_read(kind: Any, default: Any, named: dict[str, Any]) -> Any:
    """A default value as a reader gives a value of its type."""
    if default is None:
        return None
    of = avro_fields.solid(kind, named)
    name = of["type"]
    if name in {"bytes", "fixed"} and isinstance(default, str):
        return default.encode("latin-1", "replace")
    if name == "array" and isinstance(default, list):
        return [_as_read(of["items"], one, named) for one in default]
    if name == "map" and isinstance(default, dict):
        return {key: _as_read(of["values"], one, named) for key, one in default.items()}
    if name == "record" and isinstance(default, dict):
        given = {f["name"]: default.get(f["name"], f.get("default")) for f in of["fields"]}
        return {f["name"]: _as_read(f["type"], given[f["name"]], named) for f in of["fields"]}
    return default


def _paths(schema: Any, named: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """A leaf's path by the names of its fields and by their aliases."""
    fields: list[list[str]] = []
    for name in path:
        field = next(field for field in schema["fields"] if field["name"] == name)
        fields.append([name, *field.get("aliases", ())])
        schema = avro_fields.solid(field["type"], named)
    return product(*fields)


def _changed_units(
    writer: list[Leaf], reader: list[Leaf], paths: list[list[tuple[str, ...]]]
) -> list[tuple[tuple[str, ...], int, int]]:
    """(path, factor, divisor) of the times that the writer counts in another unit.

    Raises ValueError for decimals of another scale, which Avro does not resolve.
    """
    written = {leaf.path: leaf for leaf in writer}
    found = []
    for leaf, known_as in zip(reader, paths, strict=True):
        theirs = next((written[path] for path in known_as if path in written), None)
        if theirs is None or theirs.unit == leaf.unit or not (theirs.unit and leaf.unit):
            continue
        if not {theirs.unit, leaf.unit} <= set(UNITS_NS):
            raise ValueError(f"{leaf.name!r} is a {theirs.unit}, want {leaf.unit}")
        found.append((leaf.path, UNITS_NS[theirs.unit], UNITS_NS[leaf.unit]))
    return found


def _scale(value: Any, path: tuple[str, ...], factor: int, divisor: int) -> Any:
    """A message (or a part of one) with the time at `path` counted in the reader's unit."""
    if value is None:
        return None
    if path:
        return {**value, path[0]: _scale(value[path[0]], path[1:], factor, divisor)}
    if isinstance(value, list):
        return [_scale(item, (), factor, divisor) for item in value]
    return value * factor // divisor
