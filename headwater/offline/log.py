"""The offline log: a Delta table for each Kafka source, each event in it exactly once.

A commit carries, for each (topic, partition), the last offset that the table holds (a Delta
transaction id), so an append that a crash or a second worker repeats is seen and left out.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.schema import PrimitiveType

from headwater.arrow import TIMESTAMP, arrow_type
from headwater.catalog import StreamSourcePlan
from headwater.errors import HeadwaterError, LogConflictError, StoreUnavailableError
from headwater.offline.data_files import (
    ARRIVED,
    OFFSET,
    PARTITION,
    TOPIC,
    DataFile,
    commit,
)

__all__ = [
    "ARRIVED", "OFFSET", "PARTITION", "TOPIC", "EventLog", "delta_files", "log_errors",
    "log_schema",
]  # fmt: skip

#: Commits between two checkpoints: a table is opened from the newest one and the commits after it.
CHECKPOINT_COMMITS = 100
#: A worker commits every second: what only says how the table came about is kept for a day.
PROPERTIES = {
    "delta.logRetentionDuration": "interval 1 days",
    "delta.deletedFileRetentionDuration": "interval 1 days",
}


def log_schema(stream: StreamSourcePlan) -> pa.Schema:
    """A log's columns: the source's fields by their names in the views, then the log's own."""
    fields = [
        pa.field(stream.field_mapping.get(f.name, f.name), arrow_type(f.type))
        for f in stream.fields
    ]
    own = [
        pa.field(TOPIC, pa.string()),
        pa.field(PARTITION, pa.int32()),
        pa.field(OFFSET, pa.int64()),
        pa.field(ARRIVED, TIMESTAMP),
    ]
    return pa.schema([*fields, *own])


class EventLog:
    """Appends to one source's log, and tidies it up."""

    def __init__(self, stream: StreamSourcePlan) -> None:
        self.path = stream.log_path
        self.schema = log_schema(stream)
        self._event = stream.field_mapping.get(stream.timestamp_field, stream.timestamp_field)
        self._opened: DeltaTable | None = None
        self._checkpointed = 0

    def append(self, events: pa.Table, offsets: Mapping[tuple[str, int], int]) -> int:
        """Append what the log does not hold yet; returns the rows written.

        events: in the log's schema. offsets: (topic, partition) -> the last offset that `events`
        covers, dead-lettered ones included. Raises LogConflictError where another writer
        appended one of these partitions meanwhile, and StoreUnavailableError where the disk is
        full or the store fails: nothing was appended then, and the same call may succeed later.
        """
        with log_errors(self.path):
            table = self._table()
            fresh, transactions = self._fresh(table, events, offsets)
            if not transactions or not fresh.num_rows:
                return 0
            self._commit(table, fresh, transactions)
        return int(fresh.num_rows)

    def _fresh(
        self, table: DeltaTable, events: pa.Table, offsets: Mapping[tuple[str, int], int]
    ) -> tuple[pa.Table, list[Transaction]]:
        """The events that the table does not hold, and the offsets to note beside them."""
        transactions = []
        for (topic, partition), last in offsets.items():
            held = table.transaction_version(f"{topic}-{partition}")
            if held is not None:
                old = pc.and_(
                    pc.and_(pc.equal(events[TOPIC], topic), pc.equal(events[PARTITION], partition)),
                    pc.less_equal(events[OFFSET], held),
                )
                if pc.any(old).as_py():
                    events = events.filter(pc.invert(old))
            if held is None or last > held:
                transactions.append(Transaction(f"{topic}-{partition}", last))
        return events, transactions

    def _commit(self, table: DeltaTable, events: pa.Table, transactions: list[Transaction]) -> None:
        file = DataFile(table)
        try:
            # Most columns of a second's events repeat little: compaction compresses harder.
            file.write(events, compression="snappy", use_dictionary=False)
            commit(table, events.schema, [file.added(self._event, True)], transactions)
        except BaseException as error:
            self._opened = None
            landed = self._landed(file)
            if landed:
                return
            if landed is False:
                file.delete()
            if isinstance(error, CommitFailedError):
                raise LogConflictError(
                    f"another worker appended to {self.path} for these partitions; "
                    "the batch is dropped and read again from the committed offset"
                ) from error
            raise

    def _landed(self, file: DataFile) -> bool | None:
        """Whether a commit that failed was made all the same; None where that is unknown."""
        try:
            return file.is_in(DeltaTable(self.path))
        except (OSError, DeltaError):
            return None  # the file stays; one that nothing refers to is vacuumed

    def last_offset(self, topic: str, partition: int) -> int | None:
        """The last offset of a partition that the log holds."""
        with log_errors(self.path):
            version: int | None = self._table().transaction_version(f"{topic}-{partition}")
            return version

    def _table(self) -> DeltaTable:
        """The newest version; what was read of older ones is kept."""
        if self._opened is None:
            self._opened = self._open()
            self._checkpointed = self._opened.version() // CHECKPOINT_COMMITS * CHECKPOINT_COMMITS
        else:
            self._opened.update_incremental()
        if self._opened.version() - self._checkpointed >= CHECKPOINT_COMMITS:
            self._checkpointed = self._opened.version()
            # Only quickens the next opening.
            with contextlib.suppress(OSError, DeltaError):
                self._opened.create_checkpoint()
        return self._opened

    def check(self) -> None:
        """Raises HeadwaterError where the log exists and has a column of another type."""
        with log_errors(self.path), contextlib.suppress(TableNotFoundError):
            self._refuse_other_types(DeltaTable(self.path))

    def _refuse_other_types(self, table: DeltaTable) -> None:
        """A file of other types than its table's would make the whole log unreadable."""
        own = {f.name: _primitive(f.type) for f in Schema.from_arrow(self.schema).fields}
        for field in table.schema().fields:
            held, wanted = _primitive(field.type), own.get(field.name, "")
            # Times with and without a zone, and lists with and without nulls, are read alike.
            if held and wanted and held != wanted and "timestamp" not in held + wanted:
                raise HeadwaterError(
                    f"the offline log {self.path} holds {field.name!r} as {held}, and the "
                    f"source now has it as {wanted}: give the field another name (field_mapping "
                    "does), or the source another log"
                )

    def _open(self) -> DeltaTable:
        try:
            table = DeltaTable(self.path)
        except TableNotFoundError:
            if "://" not in self.path:
                Path(self.path).mkdir(parents=True, exist_ok=True)
            return DeltaTable.create(
                self.path, schema=self.schema, mode="ignore", configuration=PROPERTIES
            )
        held = {field.name for field in table.schema().fields}
        self._refuse_other_types(table)
        new = [field for field in self.schema if field.name not in held]
        if new:
            # The source has come to have more fields; what is older is null in them.
            table.alter.add_columns(list(Schema.from_arrow(pa.schema(new)).fields))
        return table


def _primitive(kind: Any) -> str:
    """The name of a Delta type; "" for one that has parts."""
    return kind.type if isinstance(kind, PrimitiveType) else ""


@contextlib.contextmanager
def log_errors(path: str) -> Iterator[None]:
    """A disk's or store's failures, as the error that says to try again."""
    try:
        yield
    except (OSError, DeltaError) as error:
        words = " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())  # a drawing otherwise
        raise StoreUnavailableError(
            f"the offline log {path} did not take the request ({type(error).__name__}: {words}); "
            "check that its disk has room and can be written"
        ) from error


def delta_files(path: str) -> list[str]:
    """The Parquet files of a Delta table's newest version; none where there is no table."""
    try:
        files: list[str] = DeltaTable(path).file_uris()
    except TableNotFoundError:
        return []
    return files
