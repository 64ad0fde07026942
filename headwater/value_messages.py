"""Feast's `Value` messages to and from plain values, whatever class the messages are of. Pure.

The plugins use Feast's own class (`headwater.online.store`); the service, which has no time to
import Feast, one made from Feast's descriptors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SECOND_US = 1_000_000
#: What Feast's SDK makes of a pandas timestamp that is missing.
_NO_TIME = -(2**63)
#: Value types whose proto field is not their own name in lower case.
_FIELDS = {
    "PDF_BYTES": "bytes_val", "IMAGE_BYTES": "bytes_val", "LIST": "list_val",
    "VALUE_LIST": "list_val", "VALUE_SET": "set_val",
}  # fmt: skip
#: Fields for lists whose values are all of one type of Python's.
_LISTS = {
    bool: "bool_list_val", int: "int64_list_val", float: "double_list_val", str: "string_list_val",
    bytes: "bytes_list_val", dict: "map_list_val",
}  # fmt: skip
#: Ends of the fields that are messages.
_COMPOUND = ("list_val", "set_val", "map_val", "struct_val", "zoned_timestamp_val")


def to_plain(value: Any) -> Any:
    """A plain value of a Value; timestamps in microseconds, null as None."""
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


def fill(into: Any, value: Any, value_type: str) -> Any:
    """Set an empty Value to a plain value as its Feast type holds it; None leaves it empty."""
    if value is None:
        return into
    name = _FIELDS.get(value_type, f"{value_type.lower()}_val")
    if name == "unix_timestamp_val":
        into.unix_timestamp_val = value // SECOND_US
        return into
    if not name.endswith(_COMPOUND):
        setattr(into, name, value)
        return into
    held = getattr(into, name)
    held.SetInParent()
    if name in {"map_val", "struct_val"}:
        _fill_map(held, value)
    elif name in {"map_list_val", "struct_list_val"}:
        for one in value:
            _fill_map(held.val.add(), one)
    elif name in {"list_val", "set_val"}:
        for one in value:
            guess(held.val.add(), one)
    elif name in {"scalar_map_val", "zoned_timestamp_val"}:
        held.ParseFromString(value)
    elif name.startswith("unix_timestamp_"):
        held.val.extend(v // SECOND_US for v in value)
    else:
        held.val.extend(value)
    return into


def _fill_map(into: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        guess(into.val[key], value)


def guess(into: Any, value: Any) -> Any:
    """Set an empty Value whose type only Python knows (inside maps and nested lists)."""
    if isinstance(value, bool):
        into.bool_val = value
    elif isinstance(value, int):
        into.int64_val = value
    elif isinstance(value, float):
        into.double_val = value
    elif isinstance(value, bytes):
        into.bytes_val = value
    elif isinstance(value, str):
        into.string_val = value
    elif isinstance(value, Mapping):
        into.map_val.SetInParent()
        _fill_map(into.map_val, value)
    elif value is not None:
        _guess_list(into, value)
    return into


def _guess_list(into: Any, values: Sequence[Any]) -> None:
    """As Feast's SDK does: a list of one type where all values are of it."""
    kinds = set(map(type, values))
    name = _LISTS.get(kinds.pop()) if len(kinds) == 1 else None
    if name == "map_list_val":
        for one in values:
            _fill_map(into.map_list_val.val.add(), one)
    elif name is not None:
        getattr(into, name).val.extend(values)
    else:
        into.list_val.SetInParent()
        for one in values:
            guess(into.list_val.val.add(), one)
