"""Feature vectors as an Arrow stream, for batch scoring. Pure.

One record batch: the entity columns, then each feature under its name, null where it is not
PRESENT, and behind it `<name>__status`, a dictionary of Feast's names; then, for each view read,
`<view>__event_timestamp`, and last, where it is asked for, `__provenance__<view>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from headwater.arrow import TIMESTAMP, arrow_type
from headwater.online.columns import STATUS_NAMES, ViewColumns
from service.answer import to_json
from service.requests import FeaturePlan

MEDIA_TYPE = "application/vnd.apache.arrow.stream"


@cache
def _names() -> pa.Array:
    # Not at import: the first array that pyarrow makes loads pandas.
    return pa.array(STATUS_NAMES)


def stream(
    plan: FeaturePlan,
    entities: Mapping[str, Sequence[Any]],
    found: Sequence[ViewColumns],
    computed: Sequence[Mapping[str, list[Any]]],
    n: int,
    provenance: Mapping[str, pa.Array],
) -> bytes:
    """The stream's bytes. computed: the features of each on-demand view by name.

    provenance: of each view, where it was asked for.
    """
    columns: dict[str, pa.Array] = {}
    types = [{field.name: field.type for field in r.reader.view.features} for r in plan.reads]
    statuses: dict[bytes, pa.Array] = {}  # most columns have the same
    for name, values in entities.items():
        if name not in plan.request_types:
            kind = plan.key_types.get(name)
            columns[name] = pa.array(values, key_type(kind) if kind else None)
    for output in plan.outputs:
        if output.on_demand >= 0:
            view = plan.on_demand[output.on_demand]
            kind = next(f.type for f in view.features if f.name == output.feature)
            array = array_of(computed[output.on_demand][output.feature], kind)
            codes = np.asarray(array.is_null()).astype(np.int8)
        else:
            read = plan.reads[output.read]
            kind = types[output.read][read.features[output.at]]
            array, codes = feature_array(found[output.read], output.at, kind, n)
        columns[output.name] = array
        key = codes.tobytes()
        if key not in statuses:
            statuses[key] = pa.DictionaryArray.from_arrays(codes, _names())
        columns[f"{output.name}__status"] = statuses[key]
    for read, view_columns in zip(plan.reads, found, strict=True):
        times = np.asarray(view_columns.event_us, np.int64)
        columns[f"{read.alias}__event_timestamp"] = pa.array(times, mask=times == 0).cast(TIMESTAMP)
    columns |= {f"__provenance__{alias}": array for alias, array in provenance.items()}
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def feature_array(found: ViewColumns, at: int, kind: str, n: int) -> tuple[pa.Array, Any]:
    """One feature of n entities, null where it is not PRESENT, and the codes of its statuses."""
    codes = np.zeros(n, np.int8) if found.status is None else found.status[at].astype(np.int8)
    if at in found.lists:
        return array_of(found.lists[at], kind), codes
    block = next(block for block in found.blocks if at in block.at)
    numbers = block.numbers[block.at.index(at)]
    mask = None if found.status is None else codes != 0
    array = pa.array(numbers, mask=mask, from_pandas=False)
    target = arrow_type(kind)
    return array if array.type == target else array.cast(target, safe=False), codes


def array_of(values: list[Any], kind: str) -> pa.Array:
    """Plain values of a Feast value type; what Arrow has no type for is JSON in a text."""
    target = arrow_type(kind)
    if pa.types.is_timestamp(target):
        return pa.array(values, pa.int64()).cast(target)
    if pa.types.is_list(target):
        inner = kind.rsplit("_", 1)[0]
        if pa.types.is_timestamp(target.value_type):
            return pa.array(values, pa.list_(pa.int64())).cast(target)
        if target.value_type == pa.string():
            values = [None if v is None else [_text(one, inner) for one in v] for v in values]
    elif target == pa.string():
        values = [_text(v, kind) for v in values]
    return pa.array(values, target)


def _text(value: Any, kind: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    made = to_json(value, kind)
    return made if isinstance(made, str) else orjson.dumps(made).decode()


def key_type(kind: str) -> pa.DataType:
    """A key's Arrow type; a timestamp is a number, as in requests."""
    return pa.int64() if kind == "UNIX_TIMESTAMP" else arrow_type(kind)
