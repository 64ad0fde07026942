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

from headwater import arrow
from headwater.arrow import TIMESTAMP, arrow_type, key_type
from headwater.codec import key_values
from headwater.online.arrays import feature_array
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
        if name in plan.echoed:
            kind = plan.echoed[name]
            if kind == "BYTES":  # JSON has them as base64
                values = key_values(kind, values)
            columns[name] = pa.array(values, key_type(kind))
    for output in plan.outputs:
        if output.on_demand >= 0:
            view = plan.on_demand[output.on_demand]
            kind = next(f.type for f in view.features if f.name == output.feature)
            array = array_of(computed[output.on_demand][output.feature], kind)
            codes = np.asarray(array.is_null()).astype(np.int8) if array.null_count else None
        else:
            read = plan.reads[output.read]
            kind = types[output.read][read.features[output.at]]
            array, codes = feature_array(found[output.read], output.at, kind, array_of)
        columns[output.name] = array
        key = b"" if codes is None else codes.tobytes()
        if key not in statuses:
            codes = np.zeros(n, np.int8) if codes is None else codes
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


def array_of(values: list[Any], kind: str) -> pa.Array:
    """Plain values of a Feast value type; what Arrow has no type for is JSON in a text."""
    return arrow.array_of(texts_of(values, kind), kind)


def texts_of(values: list[Any], kind: str) -> list[Any]:
    """Values of a type that Arrow has none for as texts; others as they are."""
    target = arrow_type(kind)
    if target == pa.string():
        return [_text(v, kind) for v in values]
    if pa.types.is_list(target) and target.value_type == pa.string():
        inner = kind.rsplit("_", 1)[0]
        return [None if v is None else [_text(one, inner) for one in v] for v in values]
    return values


def _text(value: Any, kind: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    made = to_json(value, kind)
    return made if isinstance(made, str) else orjson.dumps(made).decode()
