"""A value of every type that Feast has: in Python, in JSON and as Feast's messages."""

from __future__ import annotations

import base64
import uuid
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from feast import FeatureStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType

ORDER, NOON = uuid.UUID(int=7, version=4), datetime(2024, 1, 1, 12, tzinfo=UTC)
SCALARS: dict[str, tuple[Any, Any]] = {
    "bytes": (b"\0\xff", base64.b64encode(b"\0\xff").decode()),
    "string": ("é", "é"),
    "int32": (-5, -5),
    "int64": (2**40, 2**40),
    "double": (0.1, 0.1),
    "float": (0.5, 0.5),
    "bool": (True, True),
    "unix_timestamp": (NOON, int(NOON.timestamp())),
    "uuid": (ORDER, str(ORDER)),
    "time_uuid": (ORDER, str(ORDER)),
    "decimal": (Decimal("12.50"), "12.50"),
}
#: Of each type (in lower case) a value in Python, and what it is in JSON.
VALUES: dict[str, tuple[Any, Any]] = {
    **SCALARS,
    **{f"{name}_list": ([one, one], [text, text]) for name, (one, text) in SCALARS.items()},
    **{f"{name}_set": ({one}, [text]) for name, (one, text) in SCALARS.items()},
    "pdf_bytes": SCALARS["bytes"],
    "image_bytes": SCALARS["bytes"],
    "map": ({"a": 1, "b": "c"}, {"a": 1, "b": "c"}),
    "map_list": ([{"a": 1}, {"b": 0.5}], [{"a": 1}, {"b": 0.5}]),
    "json": ('{"k":[1]}', '{"k":[1]}'),
    "json_list": (["[1]", "{}"], ["[1]", "{}"]),
    "struct": ({"x": 1, "y": "z"}, {"x": 1, "y": "z"}),
    "struct_list": ([{"x": 1, "y": "z"}], [{"x": 1, "y": "z"}]),
    "value_list": ([[1, 2], [3]], [[1, 2], [3]]),
    "value_set": ([[1, 2], [3]], [[1, 2], [3]]),
    "scalar_map": ({1: "a", 2: "b"}, {"1": "a", "2": "b"}),
    "zoned_timestamp": (
        NOON.astimezone(timezone(timedelta(hours=5, minutes=30))), "2024-01-01T17:30:00+05:30",
    ),
}  # fmt: skip


def protos() -> dict[str, Value]:
    """The values as Feast's own SDK writes them."""
    return {
        name: python_values_to_proto_values([value], ValueType[name.upper()])[0]
        for name, (value, _) in VALUES.items()
    }


def write(
    store: FeatureStore, user: int, values: dict[str, Value], at: datetime | None = None
) -> None:
    """One row of `every_type`, by Feast's SDK; at: its event time, now by default."""
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=user)])
    row = key, values, (at or datetime.now(UTC)).replace(tzinfo=None), None
    view = store.get_feature_view("every_type")
    store._get_provider().online_write_batch(store.config, view, [row], None)
