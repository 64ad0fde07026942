"""Event times as an answer has them."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from headwater.catalog import FieldPlan, ViewPlan
from headwater.errors import BadRequestError
from headwater.times import FIRST_US, LAST_US
from service import answer, writes

TIMES = st.integers(FIRST_US, LAST_US) | st.integers(-(10**6), 10**6).map(lambda s: s * 1000)


def as_protobuf_writes_it(event_us: int) -> bytes:
    moment = Timestamp()
    moment.FromMicroseconds(event_us)
    return b'"%b"' % moment.ToJsonString().encode()


@given(st.lists(TIMES, min_size=1, max_size=5))
def test_times_are_written_as_protobuf_writes_them(event_us: list[int]) -> None:
    expected = b",".join(map(as_protobuf_writes_it, event_us))
    assert answer.times(np.array(event_us)) == expected


@pytest.mark.parametrize("beyond", [2**61, -(2**61)])
def test_a_time_that_nobody_can_write_is_the_nearest_that_can_be(beyond: int) -> None:
    edge = as_protobuf_writes_it(LAST_US if beyond > 0 else FIRST_US)
    assert answer.time_text(beyond) == edge
    assert answer.times(np.array([beyond, 0])) == edge + b',"1970-01-01T00:00:00Z"'


def test_a_pushed_time_before_the_first_year_is_refused() -> None:
    view = ViewPlan("v", "row", (), (FieldPlan("x", "INT64"),))
    with pytest.raises(BadRequestError, match="no time"):
        writes.frame(view, {"x": [1], "event_timestamp": [-9e10]})
