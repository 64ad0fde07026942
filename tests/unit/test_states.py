"""State in memory: what was applied before changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from headwater.catalog import AggregationPlan
from headwater.windows import Column, EventBatch, WindowProgram

T = 1_700_000_000_000_000


@pytest.mark.parametrize("function", ["sum", "count_distinct"])
def test_a_batch_that_was_applied_before_leaves_a_section_as_it_is(function: str) -> None:
    program = WindowProgram(
        [AggregationPlan("f", "x", function, 3_600_000_000, 60_000_000, column_type="DOUBLE")]
    )
    batch = EventBatch(
        key=np.zeros(2, np.int64), ts=np.array([T, T + 1]), offset=np.array([4, 5]),
        source=np.array([7, 7]), watermark=np.array([T, T + 1]),
        columns={"x": Column(np.array([1.0, 2.0]), np.array([True, True]))},
    )  # fmt: skip
    (once,) = program.fold([None], batch, T + 2)
    assert program.fold([once], batch, T + 2) == [once]


@pytest.mark.parametrize("function", ["count", "count_distinct", "last_n"])
def test_every_row_that_a_udf_made_of_one_event_counts_once(function: str) -> None:
    program = WindowProgram(
        [
            AggregationPlan(
                "f",
                "x",
                function,
                3_600_000_000,
                60_000_000,
                3.0,
                "DOUBLE",
                "DOUBLE_LIST" if function == "last_n" else "INT64",
            )
        ]
    )
    batch = EventBatch(
        key=np.zeros(3, np.int64), ts=np.full(3, T), offset=np.array([4, 4, 5]),
        source=np.full(3, 7), watermark=np.full(3, T),
        columns={"x": Column(np.array([1.0, 2.0, 3.0]), np.ones(3, np.bool_))},
    )  # fmt: skip
    (once,) = program.fold([None], batch, T + 2)
    assert program.read([[once]], T + 2) == [[[1, 2, 3] if function == "last_n" else 3]]
    assert program.fold([once], batch, T + 2) == [once]
