"""Parquet files of a log's Delta table, and the commits that add and remove them.

pyarrow writes the files, and the commit is made with Delta's own conflict detection: half the time
that deltalake's writer takes.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake.exceptions import DeltaError
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction, RemoveAction
from pyarrow.fs import FileSystem, LocalFileSystem, PyFileSystem, SubTreeFileSystem

#: Columns that the log adds to a source's own: where an event came from and when it was applied.
TOPIC, PARTITION, OFFSET, ARRIVED = "_topic", "_partition", "_offset", "_arrived_at"
#: Rows of a row group: readers skip groups by their least and greatest values.
GROUP_ROWS = 200_000


class DataFile:
    """A new Parquet file beside a table; it counts when a commit has added it."""

    def __init__(self, table: DeltaTable) -> None:
        self.name = f"part-{uuid.uuid4()}.parquet"
        self._files, self._path = _place(table, self.name)
        self._rows = 0
        self._ranges: dict[str, tuple[Any, Any]] = {}

    def write(self, rows: pa.Table, **options: Any) -> None:
        self.write_all(rows.schema, [rows], **options)

    def write_all(self, schema: pa.Schema, parts: Iterable[pa.Table], **options: Any) -> None:
        """Write tables one after the other; options are those of `pyarrow.parquet`."""
        self._schema = schema
        with pq.ParquetWriter(self._path, schema, filesystem=self._files, **options) as writer:
            for rows in parts:
                writer.write_table(rows, GROUP_ROWS)
                self._rows += rows.num_rows
                self._note(rows)

    def _note(self, rows: pa.Table) -> None:
        for name in rows.column_names:
            kind = rows.schema.field(name).type
            if name in {OFFSET, PARTITION} or pa.types.is_timestamp(kind):
                found = pc.min_max(rows[name].cast(pa.int64())).as_py()
                if found["min"] is not None:
                    low, high = self._ranges.get(name, (found["min"], found["max"]))
                    self._ranges[name] = min(low, found["min"]), max(high, found["max"])

    def added(self, event: str, data_change: bool) -> AddAction:
        """The action that adds the file, with the ranges of `event` (its time) and the offsets."""
        low: dict[str, Any] = {}
        high: dict[str, Any] = {}
        for name in (PARTITION, OFFSET, event):
            if name in self._ranges:
                least, greatest = self._ranges[name]
                timed = name == event
                low[name] = _stamp(math.floor(least / 1000)) if timed else least
                high[name] = _stamp(math.ceil(greatest / 1000)) if timed else greatest
        stats = {"numRecords": self._rows, "minValues": low, "maxValues": high, "nullCount": {}}
        size = self._files.get_file_info(self._path).size
        now_ms = time.time_ns() // 1_000_000
        return AddAction(self.name, size, {}, now_ms, data_change, json.dumps(stats))

    def is_in(self, table: DeltaTable) -> bool:
        return any(uri.endswith(self.name) for uri in table.file_uris())

    def delete(self) -> None:
        """Take away what was written; nothing refers to it."""
        with contextlib.suppress(OSError, DeltaError):
            self._files.delete_file(self._path)


def commit(
    table: DeltaTable, schema: pa.Schema, actions: Sequence[AddAction | RemoveAction],
    transactions: Sequence[Transaction] = (), retries: int | None = None,
) -> None:  # fmt: skip
    """One commit on the version that `table` holds.

    Raises CommitFailedError where another one since conflicts: a transaction of the same
    partition, or a removal of the same file.
    """
    properties = CommitProperties(app_transactions=list(transactions), max_commit_retries=retries)
    table.create_write_transaction(
        list(actions), "append", schema, commit_properties=properties,
        # Hooks run after the commit: their failure would look like one of the commit.
        post_commithook_properties=PostCommitHookProperties(False, False),
    )  # fmt: skip


def dataset_of(table: DeltaTable) -> ds.Dataset:
    """A table's files, on this machine by Arrow's own file system.

    deltalake's is Python. A thread of Arrow's lets go of it some time after a scan, which aborts a
    process that is just ending.
    """
    folder = _folder(table)
    if folder is not None:
        found = table.to_pyarrow_dataset(filesystem=SubTreeFileSystem(folder, LocalFileSystem()))
        # A name that is not what the file is called (partitions of odd values) is left to Delta.
        if all((Path(folder) / name).exists() for name in found.files):
            return found
    return table.to_pyarrow_dataset()


def _folder(table: DeltaTable) -> str | None:
    """Where a table is, if it is on this machine."""
    uri = table.table_uri
    if uri.startswith("file://"):
        from urllib.parse import unquote, urlparse

        uri = unquote(urlparse(uri).path)
    return None if "://" in uri else uri


def _place(table: DeltaTable, name: str) -> tuple[FileSystem, str]:
    folder = _folder(table)
    if folder is not None:
        return LocalFileSystem(), str(Path(folder) / name)
    return PyFileSystem(DeltaStorageHandler.from_table(table._table)), name


def _stamp(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"
