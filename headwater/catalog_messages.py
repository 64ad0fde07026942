"""From a Kafka source's `message_format` to the fields of its messages, JSON, Avro or Protobuf."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from feast.data_format import AvroFormat, JsonFormat, ProtoFormat
from feast.data_source import KafkaSource
from google.protobuf.descriptor import Descriptor

from headwater import avro_fields, proto_fields
from headwater.catalog import FieldPlan, Framing, MessageFormat
from headwater.errors import DefinitionError
from headwater.message_fields import choose

#: Spark's DDL names, as `JsonFormat` uses them, and Feast's own.
JSON_TYPES = {
    "string": "STRING", "varchar": "STRING", "int": "INT32", "integer": "INT32", "int32": "INT32",
    "short": "INT32", "smallint": "INT32", "tinyint": "INT32", "byte": "INT32", "long": "INT64",
    "bigint": "INT64", "int64": "INT64", "float": "FLOAT", "real": "FLOAT", "float32": "FLOAT",
    "double": "DOUBLE", "float64": "DOUBLE", "boolean": "BOOL", "bool": "BOOL",
    "timestamp": "UNIX_TIMESTAMP", "datetime": "UNIX_TIMESTAMP", "date": "UNIX_TIMESTAMP",
    "unix_timestamp": "UNIX_TIMESTAMP", "binary": "BYTES", "bytes": "BYTES",
}  # fmt: skip
#: Types that can hold a time: epoch numbers, and text in ISO 8601.
_TIMES = {"UNIX_TIMESTAMP", "INT32", "INT64", "FLOAT", "DOUBLE", "STRING"}


class Messages(NamedTuple):
    """The part of a `StreamSourcePlan` that says how messages are read."""

    format: MessageFormat
    fields: tuple[FieldPlan, ...]
    timestamp_field: str
    avro_schema: str = ""
    proto_class: str = ""
    proto_descriptors: bytes = b""
    framing: Framing = "auto"


def plan_messages(source: KafkaSource, view: Any, repo: str) -> Messages:
    """How the messages of a view's source are read. Raises DefinitionError for what cannot be."""
    made = _by_format(source, view, repo)
    time = source.timestamp_field or getattr(view, "timestamp_field", "") or ""
    created = source.created_timestamp_column or ""
    mapping = dict(source.field_mapping or {})
    names = {name for f in made.fields for name in (f.name, mapping.get(f.name, f.name))}
    if time not in names:
        raise DefinitionError(
            f"Kafka source {source.name!r}",
            f"its messages have no {time!r}, which is its timestamp_field",
            f"Fields: {', '.join(sorted(names))}",
        )
    fields = tuple(
        _as_time(source.name, f) if {time, created} & {f.name, mapping.get(f.name, f.name)} else f
        for f in made.fields
    )
    return made._replace(fields=fields, timestamp_field=time, framing=_framing(source))


def _as_time(source: str, field: FieldPlan) -> FieldPlan:
    """A field that is used as a time is one, though its schema calls it a number or text."""
    if field.type in _TIMES:
        return msgspec.structs.replace(field, type="UNIX_TIMESTAMP")
    raise DefinitionError(
        f"Kafka source {source!r}",
        f"its time {field.name!r} is a {field.type}",
        "Use a timestamp, an epoch number, or text in ISO 8601",
    )


def _by_format(source: KafkaSource, view: Any, repo: str) -> Messages:
    form = source.kafka_options.message_format
    if isinstance(form, JsonFormat):
        return Messages("json", json_fields(source.name, form.schema_json), "")
    if isinstance(form, AvroFormat):
        offered = avro_fields.leaves(source.name, form.schema_json)
        fields = choose(source.name, offered, _needed(source, view))
        return Messages("avro", fields, "", avro_schema=form.schema_json)
    if isinstance(form, ProtoFormat):
        descriptor = _descriptor(source.name, form.class_path, repo)
        fields = choose(source.name, proto_fields.leaves(descriptor), _needed(source, view))
        packed = proto_fields.pack(descriptor)
        return Messages("proto", fields, "", "", descriptor.full_name, packed)
    raise DefinitionError(
        f"Kafka source {source.name!r}",
        f"its message format {type(form).__name__} cannot be read",
        "Use JsonFormat, AvroFormat or ProtoFormat",
    )


def _needed(source: KafkaSource, view: Any) -> Iterator[str]:
    """The message fields that a view and its source use by name."""
    back = {new: old for old, new in dict(source.field_mapping or {}).items()}
    yield from back.values()
    names = [source.timestamp_field, source.created_timestamp_column]
    names += [getattr(view, "timestamp_field", "")]
    names += [column.name for column in view.entity_columns]
    names += [a.column for a in getattr(view, "aggregations", None) or ()]
    if not getattr(view, "aggregations", None):
        names += [field.name for field in view.features]
    for name in names:
        if name:
            yield back.get(name, name)


def _framing(source: KafkaSource) -> Framing:
    text = (source.tags or {}).get("framing", "auto")
    if text not in {"auto", "none"}:
        raise DefinitionError(
            f"Kafka source {source.name!r}",
            f"its tag framing is {text!r}",
            "Use 'auto' (a leading zero byte begins a schema id) or 'none'",
        )
    return "none" if text == "none" else "auto"


def _descriptor(source: str, class_path: str, repo: str) -> Descriptor:
    """The descriptor of a generated class, which the Feast project can import."""
    module, _, name = class_path.rpartition(".")
    sys.path.insert(0, repo)
    try:
        found = getattr(importlib.import_module(module), name).DESCRIPTOR
    except Exception as error:  # importing runs the project's code, which may raise anything
        raise DefinitionError(
            f"Kafka source {source!r}",
            f"its Protobuf class {class_path!r} cannot be imported "
            f"({type(error).__name__}: {error})",
            "ProtoFormat wants the Python path of a class that protoc generated, "
            "such as 'rides_pb2.Ride', in the Feast project's folder",
        ) from error
    finally:
        sys.path.remove(repo)
    if not isinstance(found, Descriptor):
        raise DefinitionError(
            f"Kafka source {source!r}",
            f"{class_path!r} is no Protobuf message",
            "Name a message class that protoc generated, such as 'rides_pb2.Ride'",
        )
    return found


def json_fields(source: str, schema: str) -> tuple[FieldPlan, ...]:
    """Feast's "name type, name type" schema as fields."""
    fields = []
    for part in re.split(r",(?![^<(]*[>)])", schema):
        words = part.replace(":", " ").split()
        if not words:
            continue
        text = " ".join(words[1:]).lower()
        inner = re.fullmatch(r"array\s*<\s*(\w+)\s*>", text)
        base = re.sub(r"\(.*\)", "", inner[1] if inner else text).strip()
        if len(words) < 2 or base not in JSON_TYPES:
            raise DefinitionError(
                f"Kafka source {source!r}",
                f"its JSON schema has {part.strip()!r}, which is no 'name type'",
                f"Known types: {', '.join(sorted(JSON_TYPES))}, array<type>",
            )
        name = JSON_TYPES[base] + ("_LIST" if inner else "")
        fields.append(FieldPlan(words[0].strip("`"), name))
    return tuple(fields)
