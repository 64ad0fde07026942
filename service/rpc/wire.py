"""Feature vectors as the bytes of Feast's GetOnlineFeaturesResponse, written from columns. Pure.

Blocks of numbers and times are written by compiled loops; a message object for each value would
cost more than all the rest (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from headwater import proto_kernels
from headwater.errors import BadRequestError
from headwater.online.columns import ViewColumns
from headwater.value_messages import fill, guess
from service.found import Found
from service.prepared import Prepared
from service.rpc.protos import message

#: Of each type whose values are numbers: the tag of its field in Value, how it is written.
_NUMBERS = {
    "INT32": (0x18, proto_kernels.WHOLE), "INT64": (0x20, proto_kernels.WHOLE),
    "DOUBLE": (0x29, proto_kernels.DOUBLE), "FLOAT": (0x35, proto_kernels.FLOAT),
    "UNIX_TIMESTAMP": (0x40, proto_kernels.SECONDS),
}  # fmt: skip
_NO_STATUS = np.zeros((0, 0), np.uint8)
_NULL = b"\x0a\x00"
_EPOCH = b"\x1a\x00"


def answer(
    prepared: Prepared, entities: Mapping[str, Sequence[Any]], data: Sequence[bytes | None], n: int,
    _: bool,
) -> bytes:  # fmt: skip
    """The body of the answer; Feast's message has no place for provenance.

    Raises BadRequestError (on demand), PastObjectiveError.
    """
    plan, found = prepared.plan, prepared.look(entities, data, n)
    echoed = [name for name in entities if name in plan.echoed]
    parts = [_names((*echoed, *(output.name for output in plan.outputs)))]
    for name in echoed:
        values = _listed(entities[name], plan.echoed[name])
        parts.append(_vector(values, _statuses(bytes(n)), _EPOCH * n))
    columns = [
        _view(view, read_types, n)
        for view, read_types in zip(found.columns, prepared.types, strict=True)
    ]
    computed = _computed(prepared, found, n)
    for output in plan.outputs:
        if output.on_demand >= 0:
            parts.append(computed[output.on_demand, output.feature])
        else:
            parts.append(columns[output.read][output.at])
    return b"".join(parts)


def _view(columns: ViewColumns, types: Sequence[str], n: int) -> list[bytes]:
    """One FeatureVector for each feature of a view."""
    event_us = np.array(columns.event_us, np.int64)
    room = np.empty(n * proto_kernels.TIME_BYTES, np.uint8)
    times = room[: proto_kernels.write_times(event_us, room)].tobytes()
    status = columns.status
    made = [b""] * len(types)
    for at, numbers in columns.blocks:
        for feature, values in zip(at, _block(numbers, at, types, status), strict=True):
            made[feature] = values
    for feature, column in columns.lists.items():
        made[feature] = _listed(column, types[feature])
    if status is None:
        codes = [_statuses(bytes(n))] * len(types)
    else:
        codes = [_statuses(row.tobytes()) for row in status]
    return [_vector(values, code, times) for values, code in zip(made, codes, strict=True)]


def _block(numbers: Any, at: Sequence[int], types: Sequence[str], status: Any) -> list[bytes]:
    """The values of each feature of a block."""
    words = np.array(numbers).view(np.int64)
    how = np.array([_NUMBERS[types[feature]] for feature in at], np.int64)
    room = np.empty(words.size * proto_kernels.VALUE_BYTES, np.uint8)
    ends = np.empty(len(at), np.int64)
    proto_kernels.write_values(
        words, how[:, 0], how[:, 1], np.array(at, np.int64),
        _NO_STATUS if status is None else status, room, ends,
    )  # fmt: skip
    written = room[: ends[-1]].tobytes()
    return [written[start:end] for start, end in pairwise((0, *ends.tolist()))]


def _computed(prepared: Prepared, found: Found, n: int) -> dict[tuple[int, str], bytes]:
    """FeatureVectors of the on-demand views, as of now."""
    made = {}
    room = np.empty(proto_kernels.TIME_BYTES, np.uint8)
    size = proto_kernels.write_times(np.array([found.now_us]), room)
    times = room[:size].tobytes() * n
    for i, (view, columns) in enumerate(zip(prepared.plan.on_demand, found.computed, strict=True)):
        for field in view.features:
            column = columns[field.name]
            try:
                values = _listed(column, field.type)
            except (TypeError, ValueError, OverflowError) as error:
                raise BadRequestError(
                    f"on-demand feature view {view.name!r} gave {field.name!r} values that are no "
                    f"{field.type}: {error}"
                ) from error
            codes = bytes(value is None for value in column)
            made[i, field.name] = _vector(values, _statuses(codes), times)
    return made


def _listed(column: Sequence[Any], kind: str) -> bytes:
    """Plain values, None for null; without a kind, by what Python knows of them."""
    if kind in _NUMBERS:
        kept = [0 if value is None else value for value in column]
        numbers = np.array([kept], np.float64 if kind in {"DOUBLE", "FLOAT"} else np.int64)
        return _block(numbers, (0,), (kind,), np.array([[v is None for v in column]], np.uint8))[0]
    return b"".join([_NULL if value is None else _value(value, kind) for value in column])


def _value(value: Any, kind: str) -> bytes:
    if kind == "STRING":
        text = value.encode()
        inner = b"\x12" + _varint(len(text)) + text
    elif kind == "BOOL":
        return b"\x0a\x02\x38\x01" if value else b"\x0a\x02\x38\x00"
    else:
        empty = message("feast.types.Value")()
        value = value.item() if isinstance(value, np.generic) else value
        inner = (fill(empty, value, kind) if kind else guess(empty, value)).SerializeToString()
    return b"\x0a" + _varint(len(inner)) + inner


def _vector(values: bytes, statuses: bytes, times: bytes) -> bytes:
    """A FeatureVector as one of the answer's `results`."""
    size = len(values) + len(statuses) + len(times)
    return b"".join((b"\x12", _varint(size), values, statuses, times))


@lru_cache(1024)
def _statuses(codes: bytes) -> bytes:
    """Packed statuses; Feast counts them from 1, since 0 is invalid."""
    return b"\x12" + _varint(len(codes)) + bytes(code + 1 for code in codes)


@lru_cache(256)
def _names(names: tuple[str, ...]) -> bytes:
    listed = message("feast.serving.FeatureList")(val=names)
    metadata = message("feast.serving.GetOnlineFeaturesResponseMetadata")(feature_names=listed)
    data = metadata.SerializeToString()
    return b"\x0a" + _varint(len(data)) + bytes(data)


def _varint(value: int) -> bytes:
    if value < 128:
        return bytes((value,))
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)
