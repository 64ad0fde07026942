"""Feast's Value protobufs to and from plain values; only the plugins need it."""

from __future__ import annotations

from typing import Any

from feast.protos.feast.types.Value_pb2 import Map, Value

SECOND_US = 1_000_000
#: What Feast's SDK makes of a pandas timestamp that is missing.
_NO_TIME = -(2**63)
#: Value types whose proto field is not their own name in lower case.
_FIELDS = {"PDF_BYTES": "bytes_val", "IMAGE_BYTES": "bytes_val"}


def to_plain(value: Value) -> Any:
    """A plain value; timestamps in microseconds, null as None."""
    name = value.WhichOneof("val")
    if name is None or name == "null_val":
        return None
    held = getattr(value, name)
    if name == "unix_timestamp_val":
        return None if held == _NO_TIME else held * SECOND_US
    if name in {"map_val", "struct_val"}:
        return {key: to_plain(v) for key, v in held.val.items()}
    if name in {"map_list_val", "struct_list_val"}:
        return [{key: to_plain(v) for key, v in one.val.items()} for one in held.val]
    if name in {"list_val", "set_val"}:
        return [to_plain(v) for v in held.val]
    if name.startswith("unix_timestamp_"):
        return [second * SECOND_US for second in held.val]
    if name.endswith(("_list_val", "_set_val")):
        return list(held.val)
    if name in {"scalar_map_val", "zoned_timestamp_val"}:
        return held.SerializeToString()
    return held


def to_proto(value: Any, value_type: str) -> Value:
    """The Value of a plain value as its Feast type holds it; `Value()` for null."""
    proto = Value()
    if value is None:
        return proto
    name = _FIELDS.get(value_type, f"{value_type.lower()}_val")
    if value_type in {"LIST", "VALUE_LIST"}:
        name = "list_val"
    elif value_type == "VALUE_SET":
        name = "set_val"
    if name == "unix_timestamp_val":
        proto.unix_timestamp_val = value // SECOND_US
    elif name in {"map_val", "struct_val"}:
        getattr(proto, name).SetInParent()
        _fill(getattr(proto, name), value)
    elif name in {"map_list_val", "struct_list_val"}:
        getattr(proto, name).SetInParent()
        for one in value:
            _fill(getattr(proto, name).val.add(), one)
    elif name in {"list_val", "set_val"}:
        getattr(proto, name).SetInParent()
        getattr(proto, name).val.extend(guess(v) for v in value)
    elif name.startswith("unix_timestamp_"):
        getattr(proto, name).SetInParent()
        getattr(proto, name).val.extend(v // SECOND_US for v in value)
    elif name.endswith(("_list_val", "_set_val")):
        getattr(proto, name).SetInParent()
        getattr(proto, name).val.extend(value)
    elif name in {"scalar_map_val", "zoned_timestamp_val"}:
        getattr(proto, name).ParseFromString(value)
    else:
        setattr(proto, name, value)
    return proto


def _fill(into: Map, values: dict[str, Any]) -> None:
    for key, value in values.items():
        into.val[key].CopyFrom(guess(value))


def guess(value: Any) -> Value:
    """The Value of a plain value whose type only Python knows (inside maps and nested lists)."""
    if value is None:
        return Value()
    if isinstance(value, bool):
        return Value(bool_val=value)
    if isinstance(value, int):
        return Value(int64_val=value)
    if isinstance(value, float):
        return Value(double_val=value)
    if isinstance(value, bytes):
        return Value(bytes_val=value)
    if isinstance(value, str):
        return Value(string_val=value)
    proto = Value()
    if isinstance(value, dict):
        proto.map_val.SetInParent()
        _fill(proto.map_val, value)
    else:
        proto.list_val.SetInParent()
        proto.list_val.val.extend(guess(v) for v in value)
    return proto
