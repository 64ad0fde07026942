"""The process behind the feature log says why vectors are not in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.catalog import Catalog, FieldPlan, JoinKeyPlan, ViewPlan
from headwater.offline.feature_log import FeatureLog, LoggedRead, log_plan
from headwater.offline.log_segments import Head, Many, ReadRecord, Segment, folder_of, packed
from headwater.offline.log_writer import convert
from service import log_process
from service.log_process import LogProcess


def segment_of(folder: Path, users: list[Any]) -> Segment:
    """A segment of one request for two users."""
    view = ViewPlan("v", "row", (JoinKeyPlan("user", "INT64"),), (FieldPlan("x", "INT64"),))
    catalog = Catalog("p", "1", "", "", views={"v": view})
    plan = log_plan(catalog, "s", [LoggedRead("v", "v", ("x",), ("user",))], [])
    segment = Segment(folder_of(str(folder)), 1, Head(plan, str(folder), "", 0))
    numbers = np.array([1, 2], np.int64).tobytes()
    read = ReadRecord([((0,), "<i8", numbers)], {}, None, numbers, (b"", 0))
    segment.append([[packed(Many(1, 2, {"user": users}, [read], [], {}))]])
    segment.close()
    return segment


def test_vectors_that_cannot_be_written_are_counted_with_the_reason(tmp_path: Path) -> None:
    done = convert(segment_of(tmp_path, ["a", "b"]).path)
    assert (done.written, done.failed) == (0, 2)
    assert "'a'" in done.error


def test_a_service_that_ends_leaves_behind_what_it_has_no_time_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = [segment_of(tmp_path, [1, 2]) for _ in range(3)]

    def closed() -> list[int]:
        process = LogProcess()
        process.ending = True
        for segment in segments:
            process.send(segment.path, segment.bytes, 2)
        return [done.written for done in process.close()]

    with monkeypatch.context() as patched:
        patched.setattr(log_process, "CLOSE_SECONDS", -1.0)
        assert closed() == []
    assert all(segment.path.exists() for segment in segments)
    assert closed() == [2, 2, 2]
    assert not any(segment.path.exists() for segment in segments)


def test_statuses_say_that_they_are_never_null_and_files_of_before_are_read_with_them(
    tmp_path: Path,
) -> None:
    for _ in range(2):
        assert convert(segment_of(tmp_path, [1, 2]).path).written == 2
    first, _ = tmp_path.glob("*.parquet")
    known = pq.read_schema(first)
    assert not known.field("v__x__status").nullable
    assert known.field("v__x").nullable
    assert known.field("v__x__timestamp").nullable
    old = [field.with_nullable(True) for field in known]
    pq.write_table(pq.read_table(first).cast(pa.schema(old, known.metadata)), first)
    (part,) = FeatureLog(str(tmp_path)).read()
    assert part.table["v__x__status"].to_pylist() == [1, 1, 1, 1]
