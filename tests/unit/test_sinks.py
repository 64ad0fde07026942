"""What changed in memory as what Redis is sent."""

from __future__ import annotations

from typing import Any

import dill
import numpy as np
import pyarrow as pa
import redis

from headwater.catalog import CodePlan, FieldPlan, JoinKeyPlan, ViewPlan
from headwater.online.sinks import Batch, make_sink
from headwater.online.writer import OnlineWriter


def test_rows_of_batches_of_which_a_udf_made_other_types_are_written_together() -> None:
    code = CodePlan("same", "python", dill.dumps(lambda events: events))
    key, feature = JoinKeyPlan("user", "INT64"), FieldPlan("x", "DOUBLE")
    view = ViewPlan("v", "row", (key,), (feature,), udf=code)
    sink = make_sink("p", view, OnlineWriter(redis.Redis(), "p"))  # nothing is sent
    batches: list[list[Any]] = [[None, None], [1, 2], [1.5, None], ["2.5", "3.5"][:0]]
    for first, cells in zip(range(0, 8, 2), batches, strict=True):
        numbers = np.arange(first, first + len(cells))
        events = pa.table({"user": numbers, "x": pa.array(cells)})
        sink.apply(Batch("t", 0, events, numbers + 1, None, numbers, numbers + 1), 10)
    assert sink.dirty == 6
    assert len(sink.take()) == 1
    assert sink.dirty == 0
