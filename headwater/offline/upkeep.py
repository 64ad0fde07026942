"""The log's upkeep: small files made into large ones, what nobody reads any more deleted.

Any number of processes may do it beside the workers that append: of two that compact the same
files Delta refuses the second, which then has nothing to do. A reader's files stay for as long as
the retention says.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import NamedTuple

import pyarrow as pa
from deltalake import DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, TableNotFoundError
from deltalake.transaction import RemoveAction

from headwater.catalog import StreamSourcePlan
from headwater.offline.data_files import (
    GROUP_ROWS,
    OFFSET,
    PARTITION,
    TOPIC,
    DataFile,
    commit,
)
from headwater.offline.log import PROPERTIES, log_errors
from headwater.offline.sources import connect, normalised, quoted

#: A file of this size is large enough.
TARGET_BYTES = 128 << 20
#: The Delta transaction that compactions are numbered by.
COMPACTION = "headwater-compaction"
#: So many small files are worth a compaction by the way.
MANY_FILES = 60


class LogFile(NamedTuple):
    """A file of a log as the policy sees it; `first` is its least offset."""

    path: str
    size: int
    first: int


class Upkeep(NamedTuple):
    """What was done to a log."""

    files_before: int
    files_after: int
    deleted: int


def to_compact(
    held: Sequence[LogFile], many: int, target: int = TARGET_BYTES
) -> list[list[LogFile]]:
    """Which files to make one of each: neighbours by offset, `many` or more, up to `target` bytes.

    A file that is larger than all that follow it in its group stays as it is: so each event is
    rewritten only when as much again has come behind it, a number of times that grows with the
    logarithm of a large file's size.
    """
    groups: list[list[LogFile]] = []
    group: list[LogFile] = []
    size = 0
    for file in sorted(held, key=lambda f: (f.first, f.path)):
        if file.size >= target // 2:
            continue
        if size + file.size > target:
            groups.append(group)
            group, size = [], 0
        group.append(file)
        size += file.size
    groups.append(group)
    return [worth for group in groups if len(worth := _without_large_head(group)) >= many]


def _without_large_head(group: list[LogFile]) -> list[LogFile]:
    rest = sum(file.size for file in group)
    for at, file in enumerate(group):
        rest -= file.size
        if file.size <= rest:
            return group[at:]
    return []


def maintain(stream: StreamSourcePlan, retention_hours: int, many: int = MANY_FILES) -> Upkeep:
    """Compact a source's log where `many` small files have gathered, and delete what is old.

    retention_hours: how long a file that no version needs any more stays for who still reads it,
    and one that no commit has added yet for who is about to; 0 only where nobody else is there.
    Raises StoreUnavailableError where the disk is full or the store fails.
    """
    with log_errors(stream.log_path):
        try:
            table = DeltaTable(stream.log_path)
        except TableNotFoundError:
            return Upkeep(0, 0, 0)
        _keep_properties(table)
        before = len(table.file_uris())
        while groups := to_compact(_held(table), many):
            if not _compact(stream, table, groups[0]):
                break
        deleted = _clean(table, retention_hours)
        return Upkeep(before, len(DeltaTable(stream.log_path).file_uris()), deleted)


def _held(table: DeltaTable) -> list[LogFile]:
    actions = pa.table(table.get_add_actions(flatten=True))
    name = f"min.{OFFSET}"
    known = name in actions.column_names
    firsts = actions[name].to_pylist() if known else [0] * actions.num_rows
    paths, sizes = actions["path"].to_pylist(), actions["size_bytes"].to_pylist()
    return [LogFile(p, s, f or 0) for p, s, f in zip(paths, sizes, firsts, strict=True)]


def _compact(stream: StreamSourcePlan, table: DeltaTable, group: Sequence[LogFile]) -> bool:
    """Make one file of several, its events by partition and offset; False when another did."""
    file = DataFile(table)
    event = stream.field_mapping.get(stream.timestamp_field, stream.timestamp_field)
    schema = pa.schema(table.schema().to_arrow())
    try:
        parts = _sorted(table, group, schema)
        file.write_all(schema, parts, compression="zstd", use_dictionary=True)
        actions = [file.added(event, False), *(_removed(f) for f in group)]
        # Delta lets two commits remove the same file; of two with one transaction it refuses one.
        mark = Transaction(COMPACTION, (table.transaction_version(COMPACTION) or 0) + 1)
        commit(table, schema, actions, [mark], retries=50)
    except CommitFailedError:
        # Another process compacts this log; what it makes is as good.
        file.delete()
        return False
    except BaseException:
        with contextlib.suppress(Exception):
            table.update_incremental()
            if not file.is_in(table):
                file.delete()
        raise
    table.update_incremental()
    return True


def _removed(file: LogFile) -> RemoveAction:
    return RemoveAction(file.path, False, time.time_ns() // 1_000_000, file.size, {})


def _sorted(table: DeltaTable, group: Sequence[LogFile], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of some files in the order of (topic, partition, offset), group by group."""
    uris = {uri.rsplit("/", 1)[-1]: uri for uri in table.file_uris()}
    text = (files("headwater.offline") / "compact.sql").read_text()
    sql = text.format(
        files=[uris[f.path.rsplit("/", 1)[-1]] for f in group],
        order=", ".join(quoted(n) for n in (TOPIC, PARTITION, OFFSET) if n in schema.names) or "1",
    )
    with connect() as connection:
        # Beside a worker: it needs the memory and the cores.
        connection.execute("SET memory_limit = '1GB'; SET threads = 1")
        for batch in connection.sql(sql).to_arrow_reader(GROUP_ROWS):
            rows = normalised(pa.Table.from_batches([batch]))
            names = set(rows.column_names)
            yield pa.table(
                [
                    rows[f.name].cast(f.type) if f.name in names
                    else pa.nulls(rows.num_rows, f.type)
                    for f in schema
                ],
                schema=schema,
            )  # fmt: skip


def _keep_properties(table: DeltaTable) -> None:
    """A log that an older Headwater made gets the times that its upkeep goes by."""
    held = table.metadata().configuration
    new = {name: value for name, value in PROPERTIES.items() if name not in held}
    if new:
        table.alter.set_table_properties(new)


def _clean(table: DeltaTable, retention_hours: int) -> int:
    """Checkpoint, delete old files and old commits; returns how many files were deleted."""
    table.update_incremental()
    deleted = table.vacuum(
        retention_hours=retention_hours, dry_run=False, enforce_retention_duration=False,
        full=True,
    )  # fmt: skip
    table.update_incremental()
    table.create_checkpoint()
    table.cleanup_metadata()
    return len(deleted)
