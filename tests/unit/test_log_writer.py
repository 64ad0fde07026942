"""The process behind the feature log says why vectors are not in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from headwater.catalog import Catalog, FieldPlan, JoinKeyPlan, ViewPlan
from headwater.offline.feature_log import LoggedRead, log_plan
from headwater.offline.log_segments import Head, Many, ReadRecord, Segment, folder_of, packed
from headwater.offline.log_writer import convert


def test_vectors_that_cannot_be_written_are_counted_with_the_reason(tmp_path: Path) -> None:
    view = ViewPlan("v", "row", (JoinKeyPlan("user", "INT64"),), (FieldPlan("x", "INT64"),))
    catalog = Catalog("p", "1", "", "", views={"v": view})
    plan = log_plan(catalog, "s", [LoggedRead("v", "v", ("x",), ("user",))], [])
    segment = Segment(folder_of(str(tmp_path)), 1, Head(plan, str(tmp_path), "", 0))
    numbers = np.array([1, 2], np.int64).tobytes()
    read = ReadRecord([((0,), "<i8", numbers)], {}, None, numbers, (b"", 0))
    segment.append([[packed(Many(1, 2, {"user": ["a", "b"]}, [read], [], {}))]])
    segment.close()
    done = convert(segment.path)
    assert (done.written, done.failed) == (0, 2)
    assert "'a'" in done.error
