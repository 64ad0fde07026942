"""Kafka messages to columns by a source's schema; what is rejected has its reason. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from headwater.arrow import arrow_type
from headwater.catalog import FieldPlan, StreamSourcePlan
from headwater.times import micros

_TYPES: dict[str, Any] = {
    "INT32": int,
    "INT64": int,
    "FLOAT": float,
    "DOUBLE": float,
    "BOOL": bool | int,
    "STRING": str,
    "BYTES": bytes,
    "UNIX_TIMESTAMP": int | float | str,
}


class Decoded(NamedTuple):
    """Events as Arrow columns by view names; `kept` are the positions of the messages they are.

    `rejected`: (position, reason) of the others.
    """

    columns: pa.Table
    kept: list[int]
    rejected: list[tuple[int, str]]


class JsonDecoder:
    """Decodes JSON objects with the fields of a source; a field may be null or absent."""

    def __init__(self, stream: StreamSourcePlan) -> None:
        self._fields = stream.fields
        self._names = [stream.field_mapping.get(f.name, f.name) for f in stream.fields]
        self._times = [i for i, f in enumerate(stream.fields) if f.type == "UNIX_TIMESTAMP"]
        self._event = next(
            (i for i, f in enumerate(stream.fields) if stream.timestamp_field in
             {f.name, self._names[i]}), -1
        )  # fmt: skip
        struct = msgspec.defstruct(
            "Event",
            [
                (f"f{i}", _python_type(field) | None, msgspec.field(default=None, name=field.name))
                for i, field in enumerate(stream.fields)
            ],
            gc=False,
        )
        self._one = msgspec.json.Decoder(struct)
        self._many = msgspec.json.Decoder(list[struct])  # type: ignore[valid-type]
        self._schema = pa.schema(
            [
                pa.field(n, arrow_type(f.type))
                for n, f in zip(self._names, self._fields, strict=True)
            ]
        )

    @property
    def event_time_column(self) -> str:
        return self._names[self._event]

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Messages' values to columns; a null value, bad JSON or a wrong type is rejected."""
        kept = list(range(len(values)))
        rejected: list[tuple[int, str]] = []
        try:
            events: list[Any] = self._many.decode(b"[" + b",".join(values) + b"]")  # type: ignore[arg-type]
            if len(events) != len(values):
                raise ValueError
        except (msgspec.DecodeError, ValueError, TypeError, UnicodeDecodeError):
            events, kept, rejected = self._one_by_one(values)
        cells = [[getattr(e, f"f{i}") for e in events] for i in range(len(self._fields))]
        bad: dict[int, str] = {}
        for i in self._times:
            cells[i] = self._micros(cells[i], bad, self._names[i])
        for row, value in enumerate(cells[self._event]):
            if value is None:
                bad.setdefault(row, f"event time {self._names[self._event]!r} is missing")
        self._check_ranges(cells, bad)
        if bad:
            rejected += [(kept[row], reason) for row, reason in bad.items()]
            good = [row for row in range(len(events)) if row not in bad]
            cells = [[column[row] for row in good] for column in cells]
            kept = [kept[row] for row in good]
        arrays = [
            pa.array(column, type=field.type)
            for column, field in zip(cells, self._schema, strict=True)
        ]
        return Decoded(pa.table(arrays, schema=self._schema), kept, rejected)

    def _one_by_one(
        self, values: Sequence[bytes | None]
    ) -> tuple[list[Any], list[int], list[tuple[int, str]]]:
        events, kept, rejected = [], [], []
        for at, value in enumerate(values):
            if value is None:
                rejected.append((at, "tombstone: the message has no value"))
                continue
            try:
                events.append(self._one.decode(value))
                kept.append(at)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                rejected.append((at, str(error)))
        return events, kept, rejected

    def _micros(self, column: list[Any], bad: dict[int, str], name: str) -> list[Any]:
        out: list[int | None] = []
        for row, value in enumerate(column):
            try:
                out.append(None if value is None else micros(value))
            except (ValueError, OverflowError):
                bad.setdefault(row, f"{name}={value!r} is no time; use ISO 8601 or an epoch number")
                out.append(None)
        return out

    def _check_ranges(self, cells: list[list[Any]], bad: dict[int, str]) -> None:
        for i, field in enumerate(self._fields):
            if field.type in {"INT32", "INT64"}:
                limit = 2**31 if field.type == "INT32" else 2**63
                for row, value in enumerate(cells[i]):
                    if value is not None and not -limit <= value < limit:
                        bad.setdefault(row, f"{field.name}={value} does not fit {field.type}")
                        cells[i][row] = None
            elif field.type == "BOOL":
                cells[i] = [None if v is None else bool(v) for v in cells[i]]


def _python_type(field: FieldPlan) -> Any:
    for suffix in ("_LIST", "_SET"):
        if field.type.endswith(suffix):
            inner = _TYPES.get(field.type.removesuffix(suffix), Any)
            return list[inner]  # type: ignore[valid-type]
    return _TYPES.get(field.type, Any)
