"""The offline log holds each event once, whatever crashes or competes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from headwater.catalog import FieldPlan, StreamSourcePlan
from headwater.errors import HeadwaterError, LogConflictError
from headwater.offline.log import EventLog, delta_files, log_schema


def stream(path: Path) -> StreamSourcePlan:
    fields = (FieldPlan("user", "STRING"), FieldPlan("event_timestamp", "UNIX_TIMESTAMP"))
    return StreamSourcePlan("s", ("t",), "", "json", fields, "event_timestamp", log_path=str(path))


def events(plan: StreamSourcePlan, offsets: range, partition: int = 0) -> pa.Table:
    n = len(offsets)
    columns = [["u"] * n, list(offsets), ["t"] * n, [partition] * n, list(offsets), [0] * n]
    schema = log_schema(plan)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)


def held(path: Path) -> list[int]:
    table = pa.table(DeltaTable(path).to_pyarrow_table())
    return sorted(table["_offset"].to_pylist())


def test_a_batch_appended_twice_is_held_once(tmp_path: Path) -> None:
    plan = stream(tmp_path / "log")
    log = EventLog(plan)
    assert log.append(events(plan, range(3)), {("t", 0): 2}) == 3
    assert log.append(events(plan, range(3)), {("t", 0): 2}) == 0
    assert held(tmp_path / "log") == [0, 1, 2]


def test_a_restart_with_a_longer_batch_adds_only_what_is_new(tmp_path: Path) -> None:
    plan = stream(tmp_path / "log")
    EventLog(plan).append(events(plan, range(3)), {("t", 0): 2})
    again = EventLog(plan)  # the worker crashed after the append and before its commit
    assert again.last_offset("t", 0) == 2
    assert again.append(events(plan, range(5)), {("t", 0): 4}) == 2
    assert held(tmp_path / "log") == [0, 1, 2, 3, 4]


def test_partitions_do_not_hide_each_others_events(tmp_path: Path) -> None:
    plan = stream(tmp_path / "log")
    log = EventLog(plan)
    log.append(events(plan, range(9)), {("t", 0): 8})
    assert log.append(events(plan, range(3), partition=1), {("t", 1): 2}) == 3
    assert held(tmp_path / "log") == sorted([*range(9), *range(3)])


def test_of_two_writers_from_one_version_the_second_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = stream(tmp_path / "log")
    first, second = EventLog(plan), EventLog(plan)
    first.append(events(plan, range(1)), {("t", 0): 0})
    stale = DeltaTable(plan.log_path)
    first.append(events(plan, range(1, 3)), {("t", 0): 2})
    monkeypatch.setattr(second, "_table", lambda: stale)  # it looked before the other wrote
    with pytest.raises(LogConflictError, match="another worker"):
        second.append(events(plan, range(1, 3)), {("t", 0): 2})
    assert held(tmp_path / "log") == [0, 1, 2]


def test_a_log_that_was_never_written_has_no_files(tmp_path: Path) -> None:
    assert delta_files(str(tmp_path / "none")) == []


def test_a_column_of_another_type_is_refused_before_it_makes_the_log_unreadable(
    tmp_path: Path,
) -> None:
    plan = stream(tmp_path / "log")
    EventLog(plan).check()  # there is none yet
    EventLog(plan).append(events(plan, range(3)), {("t", 0): 2})
    EventLog(plan).check()
    fields = (FieldPlan("user", "INT64"), *plan.fields[1:], FieldPlan("more", "DOUBLE"))
    other = EventLog(msgspec.structs.replace(plan, fields=fields))
    with pytest.raises(HeadwaterError, match=r"holds 'user' as string, .* has it as long"):
        other.check()
    with pytest.raises(HeadwaterError, match="holds 'user'"):
        other.last_offset("t", 0)
    more = EventLog(msgspec.structs.replace(plan, fields=(*plan.fields, fields[-1])))
    more.check()
    assert more.last_offset("t", 0) == 2
