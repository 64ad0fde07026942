"""What every decoder gives: the values of a source's fields as checked Arrow columns. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headwater.arrow import TIMESTAMP, arrow_type
from headwater.catalog import FieldPlan, StreamSourcePlan
from headwater.errors import DefinitionError
from ingest.decoders.times import WANTED as A_TIME
from ingest.decoders.times import Times, numbered, scaled, times
from ingest.records import Records

Int64 = NDArray[np.int64]
#: Values of one field, one for each message; None for null and for absent.
Cells = Sequence[Any]


class Instants(NamedTuple):
    """Times as whole numbers of a unit in `UNITS_NS`, or lists of such."""

    cells: Cells
    unit: str


class Epochs(NamedTuple):
    """Times as whole numbers, each of the unit that its magnitude tells: int64 [n], bool [n]."""

    values: Int64
    valid: NDArray[np.bool_]


class Spelled(NamedTuple):
    """Values that `convert` makes what their column holds, lists by their elements.

    `convert` may raise ValueError or OverflowError for a value that is none.
    """

    cells: Cells
    convert: Callable[[Any], Any]


TOMBSTONE = "tombstone: the message has no value"
_SHOWN = 80
#: What Python, numpy and Arrow raise for a value that is not of a column's type.
_FAULTS = (pa.ArrowException, ValueError, TypeError, OverflowError)
#: How a message may spell a float that no JSON number is: Feast's own texts.
NOT_FINITE = ("NaN", "Infinity", "-Infinity")
FLOAT_MAX = float(np.finfo(np.float32).max)
#: What a field's value must be, in words.
WANTED = {
    "INT32": f"a whole number from {-(2**31)} to {2**31 - 1}",
    "INT64": f"a whole number from {-(2**63)} to {2**63 - 1}",
    "FLOAT": f"a number of at most {FLOAT_MAX:.3g}, or 'NaN', 'Infinity', '-Infinity'",
    "DOUBLE": "a number, or 'NaN', 'Infinity', '-Infinity'",
    "BOOL": "true or false",
    "STRING": "text in UTF-8",
    "BYTES": "bytes (base64 in JSON)",
    "UNIX_TIMESTAMP": A_TIME,
}


class Decoded(NamedTuple):
    """Events as Arrow columns by the views' names, and what became of the others.

    columns: [events]. kept: int64 [events], each event's position in the records, ascending.
    rejected: (position, reason) of the other records, by position.
    """

    columns: pa.Table
    kept: Int64
    rejected: list[tuple[int, str]]


class Decoder(Protocol):
    """Reads one source's messages. What it says of a message never depends on the others."""

    @property
    def event_time_column(self) -> str: ...

    def decode(self, records: Records) -> Decoded:
        """Messages to columns; whatever a value's bytes are, it is kept or rejected.

        Raises StoreUnavailableError where a schema registry is needed and does not answer:
        nothing is decoded then, and the same call may succeed later.
        """
        ...


class EventColumns:
    """Builds the columns of one source, rejecting the rows that hold what a field cannot."""

    def __init__(self, stream: StreamSourcePlan) -> None:
        self.fields = stream.fields
        self.names = [stream.field_mapping.get(f.name, f.name) for f in stream.fields]
        self.schema = pa.schema(
            [pa.field(n, arrow_type(f.type)) for n, f in zip(self.names, self.fields, strict=True)]
        )
        found = [i for i, f in enumerate(self.fields)
                 if stream.timestamp_field in {f.name, self.names[i]}]  # fmt: skip
        if not found or self.fields[found[0]].type != "UNIX_TIMESTAMP":
            raise DefinitionError(
                f"Kafka source {stream.name!r}",
                f"its timestamp_field {stream.timestamp_field!r} is no time among its fields",
                f"Fields: {', '.join(f'{f.name} {f.type}' for f in self.fields)}",
            )
        self._event = found[0]

    @property
    def event_time_column(self) -> str:
        return self.names[self._event]

    def build(
        self,
        cells: Sequence[Cells | Instants | Epochs | Spelled | pa.Array],
        kept: Int64,
        rejected: list[tuple[int, str]],
    ) -> Decoded:
        """cells: for each field its values in the kept messages (an Arrow array is taken as it is);
        rejected: what is so already.
        """
        bad: dict[int, str] = {}
        arrays = [
            _column(field, column, bad) for field, column in zip(self.fields, cells, strict=True)
        ]
        event = arrays[self._event]
        if event.null_count:
            name = self.fields[self._event].name
            for row in np.flatnonzero(~np.asarray(event.is_valid())).tolist():
                bad.setdefault(row, f"event time {name!r} is missing; want {A_TIME}")
        table = pa.table(arrays, schema=self.schema)
        if bad:
            rejected = sorted([*rejected, *((int(kept[row]), why) for row, why in bad.items())])
            good = np.ones(len(kept), np.bool_)
            good[list(bad)] = False
            table, kept = table.filter(pa.array(good)).combine_chunks(), kept[good]
        return Decoded(table, kept, rejected)


def why_not(field: FieldPlan, value: object) -> str:
    """The reason for a value that its field cannot hold."""
    inner = field.type.removesuffix("_LIST").removesuffix("_SET")
    wanted = WANTED[inner] if inner == field.type else f"a list, each {WANTED[inner]}"
    return f"{field.name}={shown(value)}: want {wanted}"


def shown(value: object) -> str:
    """A value's text, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; a very deep list
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _column(
    field: FieldPlan, cells: Cells | Instants | Epochs | Spelled | pa.Array, bad: dict[int, str]
) -> pa.Array:
    """One field's values as its Arrow column; a row that cannot be is null and in `bad`."""
    if isinstance(cells, pa.Array):
        return cells
    inner = field.type.removesuffix("_LIST").removesuffix("_SET")
    is_list = inner != field.type
    if isinstance(cells, Spelled):
        return _each(field, cells.cells, bad, cells.convert)
    if inner == "UNIX_TIMESTAMP":
        if isinstance(cells, Epochs):
            return _times(field, cells.values, numbered(cells.values, cells.valid), bad)
        raw: Cells = cells.cells if isinstance(cells, Instants) else cells
        unit = cells.unit if isinstance(cells, Instants) else ""
        if is_list:
            return _each(field, raw, bad, None, lambda value: _time_list(value, unit))
        return _times(field, raw, scaled(raw, unit) if unit else times(raw), bad)
    try:
        return pa.array(cells, arrow_type(field.type))
    except _FAULTS:
        return _each(field, cells, bad, _LOOSE.get(inner))


def _times(field: FieldPlan, raw: Cells | Int64, found: Times, bad: dict[int, str]) -> pa.Array:
    for row in np.flatnonzero(found.bad).tolist():
        cell = raw[row]
        bad.setdefault(row, why_not(field, int(cell) if isinstance(cell, np.integer) else cell))
    return pa.array(found.us, TIMESTAMP, mask=None if found.valid.all() else ~found.valid)


def _each(
    field: FieldPlan, cells: Cells, bad: dict[int, str],
    convert: Callable[[Any], Any] | None, whole: Callable[[Any], Any] | None = None,
) -> pa.Array:  # fmt: skip
    """Values converted one by one (or each list as a `whole`); what fails is null and in `bad`."""
    kind = arrow_type(field.type)
    if whole is None:
        whole = _whole(pa.types.is_list(kind), convert)
    out: list[Any] = []
    for row, cell in enumerate(cells):
        try:
            out.append(None if cell is None else whole(cell))
        except _FAULTS:
            bad.setdefault(row, why_not(field, cell))
            out.append(None)
    try:
        return pa.array(out, kind)
    except _FAULTS:
        pass
    for row, value in enumerate(out):
        try:
            pa.scalar(value, kind)
        except _FAULTS:
            bad.setdefault(row, why_not(field, cells[row]))
            out[row] = None
    return pa.array(out, kind)


def _whole(is_list: bool, convert: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    if convert is None:
        return lambda value: value
    return (lambda value: [convert(item) for item in value]) if is_list else convert


def _time_list(cell: Sequence[Any], unit: str) -> list[int]:
    found = scaled(cell, unit) if unit else times(cell)
    if not found.valid.all():
        raise ValueError
    moments: list[int] = found.us.tolist()
    return moments


def _number(value: Any) -> float:
    number = float(value)
    if isinstance(value, str) and value not in NOT_FINITE:
        raise ValueError(value)
    return number


def _narrow(value: Any) -> float:
    number = _number(value)
    if math.isfinite(number) and abs(number) > FLOAT_MAX:
        raise ValueError(value)
    return number


_LOOSE: dict[str, Callable[[Any], Any]] = {"BOOL": bool, "DOUBLE": _number, "FLOAT": _narrow}
