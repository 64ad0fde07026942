"""What columns an Avro schema offers, and how its logical types are spelled in them. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from fastavro.schema import parse_schema

from headwater.errors import DefinitionError
from headwater.message_fields import Leaf

_SCALARS = {
    "boolean": "BOOL", "int": "INT32", "long": "INT64", "float": "FLOAT", "double": "DOUBLE",
    "bytes": "BYTES", "fixed": "BYTES", "string": "STRING", "enum": "STRING",
}  # fmt: skip
#: (Avro type, logical type) -> (Feast value type, how the value is spelled).
_LOGICAL = {
    ("int", "date"): ("UNIX_TIMESTAMP", "days"),
    ("long", "timestamp-millis"): ("UNIX_TIMESTAMP", "ms"),
    ("long", "timestamp-micros"): ("UNIX_TIMESTAMP", "us"),
    ("long", "timestamp-nanos"): ("UNIX_TIMESTAMP", "ns"),
    ("long", "local-timestamp-millis"): ("UNIX_TIMESTAMP", "ms"),
    ("long", "local-timestamp-micros"): ("UNIX_TIMESTAMP", "us"),
    ("long", "local-timestamp-nanos"): ("UNIX_TIMESTAMP", "ns"),
    ("bytes", "decimal"): ("DOUBLE", "decimal"),
    ("fixed", "decimal"): ("DOUBLE", "decimal"),
    ("fixed", "uuid"): ("STRING", "uuid"),
}


def _parse(source: str, schema_json: str, references: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """(schema, the named types) as fastavro reads with. Raises DefinitionError for no record."""
    named: dict[str, Any] = {}
    try:
        for reference in references:
            parse_schema(json.loads(reference), named_schemas=named)
        schema = parse_schema(json.loads(schema_json), named_schemas=named)
        if not (isinstance(schema, dict) and schema.get("type") == "record"):
            raise ValueError("it is no record")
    except Exception as error:  # fastavro raises what it meets: KeyError, TypeError, its own
        raise DefinitionError(
            f"Kafka source {source!r}",
            f"its Avro schema cannot be read ({type(error).__name__}: {error})",
            "AvroFormat wants the JSON of a record's schema",
        ) from error
    return schema, named


def leaves(source: str, schema_json: str, references: Sequence[str] = ()) -> list[Leaf]:
    """A record's fields in order, nested records flattened.

    references: the schemas that it names types of. Raises DefinitionError for what is no record.
    """
    schema, named = _parse(source, schema_json, references)
    return list(_record(schema, named, (), (schema["name"],)))


def _record(
    schema: Any, named: dict[str, Any], path: tuple[str, ...], above: tuple[str, ...]
) -> Iterator[Leaf]:
    for field in schema["fields"]:
        at = (*path, field["name"])
        kind = solid(field["type"], named)
        name = kind.get("type")
        if name == "record" and kind["name"] not in above:
            yield from _record(kind, named, at, (*above, kind["name"]))
        elif name == "array":
            item = _scalar(solid(kind["items"], named, nulls=False))
            yield Leaf(at, *item) if item[0] == "" else Leaf(at, f"{item[0]}_LIST", item[1])
        else:
            yield Leaf(at, *_scalar(kind))


def solid(kind: Any, named: dict[str, Any], nulls: bool = True) -> dict[str, Any]:
    """A type as a dict: names looked up, and a union of null and one type taken as that type."""
    if isinstance(kind, list):
        rest = [k for k in kind if k != "null"] if nulls else kind
        if len(rest) != 1:
            return {"type": "union"}
        kind = rest[0]
    while isinstance(kind, str) and kind in named:
        kind = named[kind]
    if isinstance(kind, str):
        return {"type": kind}
    inner = kind["type"]
    return kind if isinstance(inner, str) and inner not in named else solid(inner, named, nulls)


def _scalar(kind: dict[str, Any]) -> tuple[str, str, str]:
    """(Feast value type, unit, "") of a type, or ("", "", reason)."""
    name = kind["type"]
    if name in _SCALARS:
        value_type, unit = _LOGICAL.get((name, kind.get("logicalType", "")), (_SCALARS[name], ""))
        return value_type, f"decimal:{kind.get('scale', 0)}" if unit == "decimal" else unit, ""
    reasons = {
        "union": "it is a union of more than null and one type",
        "record": "it is a record in a list, or one that contains itself",
        "array": "it is a list of lists",
        "null": "it is always null",
    }
    return "", "", reasons.get(name, f"it is a {name}")
