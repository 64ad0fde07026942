"""The offline log read back in the order of its offsets, and its source's history, piece by piece.

Files hold several partitions and overlap after a compaction, so a partition is read window by
window: a plan of the whole log (one scan of three columns) cuts it into windows of bounded rows,
and each is read from the files that can hold it. Memory is bounded by one window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from headwater.arrow import TIMESTAMP
from headwater.catalog import StreamSourcePlan
from headwater.errors import HeadwaterError
from headwater.offline.data_files import ARRIVED, OFFSET, PARTITION, TOPIC
from headwater.offline.log import log_errors, log_schema
from headwater.offline.sources import connect, normalised, quoted, relation
from headwater.windows import Int64

#: A partition of a topic.
Part = tuple[str, int]
#: Offsets in one cell of the plan; windows are made of whole cells.
CELL = 50_000


class Window(NamedTuple):
    """Some rows of a partition: offsets [first, last], how many, their newest event time (us)."""

    first: int
    last: int
    rows: int
    newest_us: int


class Events(NamedTuple):
    """A window's events: their columns, and arrays [n] in offset order; times in microseconds.

    came: the event time, or when a worker took the event in, where that was before its time.
    """

    columns: pa.Table
    ts: Int64
    created: Int64 | None
    offsets: Int64
    came: Int64


@dataclass(frozen=True)
class _File:
    uri: str
    first: int | None
    last: int | None


class LogReader:
    """One version of a source's log; what is appended or compacted later does not show."""

    def __init__(self, stream: StreamSourcePlan, table: DeltaTable) -> None:
        self.stream, self.version = stream, table.version()
        self._table = table
        self._schema = log_schema(stream)
        self._event = stream.field_mapping.get(stream.timestamp_field, stream.timestamp_field)
        self._created = stream.field_mapping.get(stream.created_field, stream.created_field)
        self._files = _files(table)

    @classmethod
    def open(cls, stream: StreamSourcePlan) -> LogReader | None:
        """The log's newest version; None before the first event.

        Raises StoreUnavailableError where its disk or store fails.
        """
        with log_errors(stream.log_path):
            try:
                return cls(stream, DeltaTable(stream.log_path))
            except TableNotFoundError:
                return None

    def ends(self) -> dict[Part, int]:
        """Every partition in the log -> the offset before which the log is complete."""
        highest = _highest(self._table, PARTITION)
        if highest is None:  # a file of another writer, without statistics
            highest = max((partition for _, partition in self.plan(1)), default=-1)
        found: dict[Part, int] = {}
        for topic in self.stream.topics:
            for partition in range(highest + 1):
                last = self._table.transaction_version(f"{topic}-{partition}")
                if last is not None:
                    found[topic, partition] = int(last) + 1
        return found

    def first_event_us(self) -> int | None:
        """The least event time in the log; None without events."""
        if not self._files:
            return None
        first = self._query("replay_first", self._files)["first_us"][0].as_py()
        return None if first is None else int(first)

    def plan(self, rows: int) -> dict[Part, list[Window]]:
        """The windows of each partition, ascending, of about `rows` rows each."""
        if not self._files:
            return {}
        found: dict[Part, list[Window]] = {}
        cells = self._query("replay_plan", self._files, cell=CELL)
        columns = [column.to_pylist() for column in cells.columns]
        for topic, partition, first, last, count, newest in zip(*columns, strict=True):
            windows = found.setdefault((topic, partition), [])
            if windows and windows[-1].rows + count <= rows:
                held = windows.pop()
                first, count = held.first, held.rows + count
                newest = max(newest, held.newest_us)
            windows.append(Window(first, last, count, newest))
        return found

    def read(self, part: Part, window: Window) -> Events:
        """A window's events, in offset order."""
        able = [
            file for file in self._files
            if file.first is None or file.last is None
            or (file.first <= window.last and file.last >= window.first)
        ]  # fmt: skip
        table = self._query(
            "replay_rows", able, topic="'" + part[0].replace("'", "''") + "'", partition=part[1],
            first=window.first, last=window.last,
        )  # fmt: skip
        offsets = table[OFFSET].to_numpy()
        if len(offsets) and not bool((np.diff(offsets) > 0).all()):
            order = np.argsort(offsets, kind="stable")
            table, offsets = table.take(order), offsets[order]
        return self._events(table, offsets)

    def _events(self, table: pa.Table, offsets: Int64) -> Events:
        own = {OFFSET, PARTITION, TOPIC, ARRIVED}
        columns = _conformed(table, [f for f in self._schema if f.name not in own])
        events = _as_events(columns, self._event, self._created, offsets)
        return events._replace(came=np.minimum(events.ts, _micros(table, ARRIVED)))

    def _query(self, name: str, able: Sequence[_File], **values: Any) -> pa.Table:
        text = (files("headwater.offline") / f"{name}.sql").read_text()
        uris = [file.uri for file in able]
        sql = text.format(
            files=uris, event=quoted(self._event), topic_column=quoted(TOPIC),
            partition_column=quoted(PARTITION), offset=quoted(OFFSET), **values,
        )  # fmt: skip
        try:
            with connect() as connection:
                return normalised(connection.sql(sql).to_arrow_table())
        except duckdb.Error as error:
            raise HeadwaterError(
                f"the log of {self.stream.name!r} at {self.stream.log_path} cannot be read: "
                f"{error}; is it a table that Headwater's ingest worker writes?"
            ) from error


def count_history(stream: StreamSourcePlan, since_us: int, until_us: int) -> int:
    """Rows of a source's history with event times in [since, until)."""
    name = stream.field_mapping.get(stream.timestamp_field, stream.timestamp_field)
    total = 0
    for table in _history(stream, [name], 1_000_000):
        ts = _micros(table, name)
        total += int(((ts >= since_us) & (ts < until_us)).sum())
    return total


def read_history(stream: StreamSourcePlan, until_us: int, rows: int) -> Iterator[Events]:
    """A source's history before a time, in the order of the files.

    Offsets are row numbers, dropped rows counted, so that a row has the same one at each reading.
    """
    event = stream.field_mapping.get(stream.timestamp_field, stream.timestamp_field)
    created = stream.field_mapping.get(stream.created_field, stream.created_field)
    fields = list(log_schema(stream))[: len(stream.fields)]
    start = 0
    for table in _history(stream, None, rows):
        kept = np.flatnonzero(_micros(table, event) < until_us)
        columns = _conformed(table.take(kept), fields)
        yield _as_events(columns, event, created, start + kept)
        start += table.num_rows


def _history(
    stream: StreamSourcePlan, columns: Sequence[str] | None, rows: int
) -> Iterator[pa.Table]:
    source = stream.history
    assert source is not None  # noqa: S101 (narrows the type for mypy)
    with connect() as connection:
        try:
            found = connection.sql(f"SELECT * FROM {relation(source)}")  # noqa: S608
            renamed = {n: source.field_mapping.get(n, n) for n in found.columns}
            names = [n for n in found.columns if columns is None or renamed[n] in columns]
            selected = ", ".join(f"{quoted(n)} AS {quoted(renamed[n])}" for n in names)
            reader = found.select(selected).to_arrow_reader(rows)
            for batch in reader:
                yield normalised(pa.Table.from_batches([batch]))
        except duckdb.Error as error:
            raise HeadwaterError(f"source {source.name!r} cannot be read: {error}") from error


def _conformed(table: pa.Table, fields: Sequence[pa.Field]) -> pa.Table:
    """The fields as the source declares them; one that older files lack is null."""
    names = set(table.column_names)
    arrays = [
        table[f.name].cast(f.type) if f.name in names else pa.nulls(table.num_rows, f.type)
        for f in fields
    ]
    return pa.table(arrays, schema=pa.schema(fields))


def _as_events(columns: pa.Table, event: str, created: str, offsets: Int64) -> Events:
    made = None
    if created and created in columns.column_names:
        made = columns[created].cast(pa.int64()).fill_null(0).to_numpy()
    ts = _micros(columns, event)
    return Events(columns, ts, made, offsets, ts)


def _micros(table: pa.Table, name: str) -> Int64:
    if name not in table.column_names:
        raise HeadwaterError(f"there is no column {name!r}; there are {table.column_names}")
    ts: Int64 = table[name].cast(TIMESTAMP).cast(pa.int64()).to_numpy()
    return ts


def _files(table: DeltaTable) -> list[_File]:
    """The files of a version with their ranges of offsets, in the order of the offsets."""
    actions = pa.table(table.get_add_actions(flatten=True))
    if not actions.num_rows:
        return []
    uris = {uri.rsplit("/", 1)[-1]: uri for uri in table.file_uris()}
    nothing = [None] * actions.num_rows
    firsts, lasts = (
        actions[f"{edge}.{OFFSET}"].to_pylist() if f"{edge}.{OFFSET}" in actions.column_names
        else nothing
        for edge in ("min", "max")
    )  # fmt: skip
    found = [
        _File(uris[path.rsplit("/", 1)[-1]], first, last)
        for path, first, last in zip(actions["path"].to_pylist(), firsts, lasts, strict=True)
    ]
    return sorted(found, key=lambda file: (file.first or 0, file.last or 0))


def _highest(table: DeltaTable, column: str) -> int | None:
    """The greatest value of an integer column; -1 without files, None where a file says nothing."""
    actions = pa.table(table.get_add_actions(flatten=True))
    if not actions.num_rows:
        return -1
    name = f"max.{column}"
    known = actions[name].to_pylist() if name in actions.column_names else [None]
    return None if None in known else max(known)
