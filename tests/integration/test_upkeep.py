"""The log's upkeep beside those who append and read."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

import headwater.offline.log
from headwater.catalog import FieldPlan, StreamSourcePlan
from headwater.errors import LogConflictError, StoreUnavailableError
from headwater.offline.data_files import DataFile
from headwater.offline.log import CHECKPOINT_COMMITS, EventLog, delta_files, log_schema
from headwater.offline.replay import LogReader
from headwater.offline.upkeep import LogFile, maintain, to_compact


def stream(folder: Path, *more: FieldPlan) -> StreamSourcePlan:
    fields = (FieldPlan("user", "STRING"), FieldPlan("at", "UNIX_TIMESTAMP"), *more)
    return StreamSourcePlan("s", ("t",), "", "json", fields, "at", log_path=str(folder / "log"))


def events(plan: StreamSourcePlan, offsets: range, partition: int = 0) -> pa.Table:
    columns: dict[str, Any] = {
        "user": "u", "at": 5, "_topic": "t", "_partition": partition, "_arrived_at": 0,
    }  # fmt: skip
    n, schema = len(offsets), log_schema(plan)
    arrays = [
        pa.array(list(offsets) if f.name == "_offset" else [columns.get(f.name)] * n, f.type)
        for f in schema
    ]
    return pa.table(arrays, schema=schema)


def append(plan: StreamSourcePlan, log: EventLog, offsets: range, partition: int = 0) -> int:
    return log.append(events(plan, offsets, partition), {("t", partition): offsets[-1]})


def offsets_of(plan: StreamSourcePlan) -> list[tuple[int, int]]:
    table = pa.table(DeltaTable(plan.log_path).to_pyarrow_table())
    return sorted(zip(table["_partition"].to_pylist(), table["_offset"].to_pylist(), strict=True))


def read(columns: str, plan: StreamSourcePlan) -> list[Any]:
    """Rows as DuckDB finds them in the files that are listed."""
    files_ = delta_files(plan.log_path)
    return duckdb.sql(f"SELECT {columns} FROM read_parquet({files_})").fetchall()  # noqa: S608


def files(*sizes: int) -> list[LogFile]:
    return [LogFile(str(i), size, i) for i, size in enumerate(sizes)]


def compacted(*sizes: int, many: int = 2) -> list[list[int]]:
    return [[file.size for file in group] for group in to_compact(files(*sizes), many, 100)]


def test_small_neighbours_are_compacted_when_there_are_many() -> None:
    assert compacted(1, 1, 1, many=4) == []
    assert compacted(1, 1, 1, 1, many=4) == [[1, 1, 1, 1]]
    assert compacted() == []


def test_large_files_are_left_alone_and_groups_end_at_the_target() -> None:
    assert compacted(50, 1, 1) == [[1, 1]]
    assert compacted(40, 40, 40, 40) == [[40, 40], [40, 40]]


def test_a_file_is_rewritten_only_when_as_much_has_come_behind_it() -> None:
    assert compacted(30, 10, 10) == [[10, 10]]
    assert compacted(30, 10, 10, 10) == [[30, 10, 10, 10]]
    written, held = 0, [1]
    for _ in range(40):
        held.append(1)
        for group in compacted(*held):
            written += sum(group)
            held = [sum(group)] if len(group) == len(held) else [*held[: -len(group)], sum(group)]
    assert written < 41 * 8, "a rewriting of all at each step would be 820"


def test_compaction_keeps_every_event_in_order_and_the_offsets_that_are_noted(
    tmp_path: Path,
) -> None:
    plan = stream(tmp_path)
    log = EventLog(plan)
    for i in range(6):
        append(plan, log, range(i * 10, i * 10 + 10), partition=i % 2)
    before = offsets_of(plan)
    done = maintain(plan, 24, many=2)
    assert (done.files_before, done.files_after) == (6, 1)
    assert offsets_of(plan) == before
    assert read("_partition, _offset", plan) == before
    assert log.last_offset("t", 0) == 49
    assert log.last_offset("t", 1) == 59
    assert append(plan, log, range(40, 55), partition=0) == 5, "what is held is seen"


def test_offsets_survive_checkpoints_and_vacuum(tmp_path: Path) -> None:
    plan = stream(tmp_path)
    log = EventLog(plan)
    append(plan, log, range(3), partition=7)
    for i in range(CHECKPOINT_COMMITS + 5):
        append(plan, log, range(i, i + 1))
    assert list((tmp_path / "log" / "_delta_log").glob("*.checkpoint*.parquet"))
    assert maintain(plan, 0, many=2).deleted == CHECKPOINT_COMMITS + 6
    again = EventLog(plan)
    assert again.last_offset("t", 7) == 2
    assert again.last_offset("t", 0) == CHECKPOINT_COMMITS + 4
    reader = LogReader.open(plan)
    assert reader is not None
    assert reader.ends() == {("t", 0): CHECKPOINT_COMMITS + 5, ("t", 7): 3}
    assert len(offsets_of(plan)) == CHECKPOINT_COMMITS + 8


def test_a_file_that_is_about_to_be_added_is_not_vacuumed_and_an_orphan_is(
    tmp_path: Path,
) -> None:
    plan = stream(tmp_path)
    log = EventLog(plan)
    append(plan, log, range(3))
    young, old = DataFile(DeltaTable(plan.log_path)), DataFile(DeltaTable(plan.log_path))
    for file in (young, old):
        file.write(events(plan, range(3, 6)))
    two_hours_ago = time.time() - 7200
    os.utime(tmp_path / "log" / old.name, (two_hours_ago, two_hours_ago))
    assert maintain(plan, 1).deleted == 1
    assert (tmp_path / "log" / young.name).exists()
    assert not (tmp_path / "log" / old.name).exists()


def test_of_two_compactions_one_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = stream(tmp_path)
    log = EventLog(plan)
    for i in range(5):
        append(plan, log, range(i, i + 1))
    from headwater.offline import upkeep

    real = upkeep.commit

    def beside(*arguments: Any, **more: Any) -> None:
        monkeypatch.undo()
        maintain(plan, 24, many=2)
        append(plan, log, range(5, 6))
        real(*arguments, **more)

    monkeypatch.setattr(upkeep, "commit", beside)
    maintain(plan, 24, many=2)
    assert offsets_of(plan) == [(0, i) for i in range(6)]


def test_an_append_between_does_not_stop_a_compaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = stream(tmp_path)
    log = EventLog(plan)
    for i in range(5):
        append(plan, log, range(i, i + 1))
    from headwater.offline import upkeep

    real = upkeep.commit

    def beside(*arguments: Any, **more: Any) -> None:
        append(plan, log, range(5, 6))
        real(*arguments, **more)

    monkeypatch.setattr(upkeep, "commit", beside)
    assert maintain(plan, 24, many=2).files_after == 2
    assert offsets_of(plan) == [(0, i) for i in range(6)]


def test_a_reader_sees_a_prefix_and_no_error_whatever_goes_on(tmp_path: Path) -> None:
    """It lists files and reads them, while others append, compact and vacuum."""
    plan = stream(tmp_path)
    failures: list[BaseException] = []
    done = threading.Event()

    def write() -> None:
        log = EventLog(plan)
        for i in range(150):
            append(plan, log, range(i * 3, i * 3 + 3))

    def tidy() -> None:
        while not done.is_set():
            maintain(plan, 1, many=4)

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)
            raise

    append(plan, EventLog(plan), range(1), partition=1)
    threads = [threading.Thread(target=guarded, args=[work]) for work in (write, tidy)]
    for thread in threads:
        thread.start()
    seen, reads = 0, 0
    while threads[0].is_alive() or reads < 20:
        rows = read("_offset, _partition", plan)
        found = [o for o, partition in rows if partition == 0]
        assert sorted(found) == list(range(len(found))), "a prefix, each once"
        assert len(found) % 3 == 0, "no half of a commit"
        assert len(found) >= seen
        seen, reads = len(found), reads + 1
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(offsets_of(plan)) == 451


def test_a_full_disk_is_no_loss_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = stream(tmp_path)
    log = EventLog(plan)
    append(plan, log, range(3))
    real = pq.ParquetWriter.write_table

    def full(self: Any, *arguments: Any) -> None:
        real(self, *arguments)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(StoreUnavailableError, match="has room"):
            append(plan, log, range(3, 6))
    assert len(list((tmp_path / "log").glob("*.parquet"))) == 1
    assert append(plan, log, range(3, 6)) == 3
    assert offsets_of(plan) == [(0, i) for i in range(6)]


@pytest.mark.parametrize("made", [False, True])
def test_a_commit_that_fails_is_looked_for_before_its_file_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: bool
) -> None:
    plan = stream(tmp_path)
    log = EventLog(plan)
    append(plan, log, range(3))
    real = headwater.offline.log.commit

    def failing(*arguments: Any) -> None:
        if made:
            real(*arguments)
        raise DeltaError("Generic LocalFileSystem error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(headwater.offline.log, "commit", failing)
        if made:
            assert append(plan, log, range(3, 6)) == 3
        else:
            with pytest.raises(StoreUnavailableError):
                append(plan, log, range(3, 6))
    assert append(plan, log, range(3, 7)) == (1 if made else 4)
    assert offsets_of(plan) == [(0, i) for i in range(7)]
    assert len(list((tmp_path / "log").glob("*.parquet"))) == (3 if made else 2)


def test_a_source_may_come_to_have_more_fields(tmp_path: Path) -> None:
    old, new = stream(tmp_path), stream(tmp_path, FieldPlan("amount", "DOUBLE"))
    append(old, EventLog(old), range(3))
    append(new, EventLog(new), range(3, 5))
    maintain(new, 24, many=2)
    table = pa.table(DeltaTable(new.log_path).to_pyarrow_table())
    assert table.num_rows == 5
    assert "amount" in table.column_names
    with pytest.raises(LogConflictError):
        stale = EventLog(new)
        stale._table()
        append(new, EventLog(new), range(5, 6))
        stale._table = lambda: stale._opened  # type: ignore[method-assign,assignment,return-value]
        append(new, stale, range(5, 6))
