"""The offline log: a Delta table for each Kafka source, each event in it exactly once.

A commit carries, for each (topic, partition), the last offset that the table holds (a Delta
transaction id), so an append that a crash or a second worker repeats is seen and left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, TableNotFoundError

from headwater.arrow import TIMESTAMP, arrow_type
from headwater.catalog import StreamSourcePlan
from headwater.errors import LogConflictError

#: Columns that the log adds to a source's own: where an event came from and when it was applied.
TOPIC, PARTITION, OFFSET, ARRIVED = "_topic", "_partition", "_offset", "_arrived_at"


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
    """Appends to, and lists the files of, one source's log."""

    def __init__(self, stream: StreamSourcePlan) -> None:
        self.path = stream.log_path
        self.schema = log_schema(stream)

    def append(self, events: pa.Table, offsets: Mapping[tuple[str, int], int]) -> int:
        """Append what the log does not hold yet; returns the rows written.

        events: in the log's schema. offsets: (topic, partition) -> the last offset that `events`
        covers, dead-lettered ones included. Raises LogConflictError where another writer
        appended one of these partitions meanwhile.
        """
        table = self._table()
        fresh, transactions = events, []
        for (topic, partition), last in offsets.items():
            held = table.transaction_version(f"{topic}-{partition}")
            if held is not None:
                old = pc.and_(
                    pc.and_(pc.equal(fresh[TOPIC], topic), pc.equal(fresh[PARTITION], partition)),
                    pc.less_equal(fresh[OFFSET], held),
                )
                fresh = fresh.filter(pc.invert(old))
            if held is None or last > held:
                transactions.append(Transaction(f"{topic}-{partition}", last))
        if not transactions or not fresh.num_rows:
            return 0
        try:
            write_deltalake(
                table,
                fresh,
                mode="append",
                commit_properties=CommitProperties(app_transactions=transactions),
            )
        except CommitFailedError as error:
            raise LogConflictError(
                f"another worker appended to {self.path} for these partitions; "
                "the batch is dropped and read again from the committed offset"
            ) from error
        return int(fresh.num_rows)

    def last_offset(self, topic: str, partition: int) -> int | None:
        """The last offset of a partition that the log holds."""
        version: int | None = self._table().transaction_version(f"{topic}-{partition}")
        return version

    def _table(self) -> DeltaTable:
        try:
            return DeltaTable(self.path)
        except TableNotFoundError:
            if "://" not in self.path:
                Path(self.path).mkdir(parents=True, exist_ok=True)
            return DeltaTable.create(self.path, schema=self.schema, mode="ignore")

    def compact(self) -> None:
        """Rewrite small files as large ones; readers keep the version that they opened."""
        self._table().optimize.compact()


def delta_files(path: str) -> list[str]:
    """The Parquet files of a Delta table's newest version; none where there is no table."""
    try:
        files: list[str] = DeltaTable(path).file_uris()
    except TableNotFoundError:
        return []
    return files
