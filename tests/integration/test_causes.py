"""Lateness and lag give the skew that they must, and a changed view is named as the cause."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import dill
import msgspec
import pytest

from headwater.catalog import CodePlan, FieldPlan, ViewPlan
from headwater.offline.causes import DEFINITION
from headwater.offline.skew import AHEAD, LAG, LATE
from headwater.offline.verify import NO_CODE
from headwater.rebuild import Rebuilder
from tests.proof.world import KEY, MINUTE, USERS, World, window_view

ROWS = ViewPlan("newest", "row", KEY, (FieldPlan("amount", "DOUBLE"),), stream="clicks")
#: Vectors of each user in a round.
ASKED = 2


def test_skew_is_as_often_and_as_far_as_events_are_late_and_lag(
    tmp_path: Path, redis_url: str
) -> None:
    tiles = window_view("tiles", [("count", "", "INT64"), ("sum", "amount", "DOUBLE")], (1,))
    world = World(tmp_path, redis_url, f"skew{uuid.uuid4().hex[:8]}", views=[tiles, ROWS])
    now = time.time_ns() // 1000
    world.take([(user, now - 10 * MINUTE + i, 1.0) for user in range(USERS) for i in range(3)])
    # User 7 has a row ahead of the clock; windows end at the request.
    world.take([(7, now + 20 * MINUTE, 9.0)])
    world.serve(1)
    # Four users have two late events, older than their newest row; a fifth has one that is newer.
    late = [(user, now - 30 * MINUTE + i, 5.0) for user in range(4) for i in range(2)]
    world.take([*late, (4, now - 1 * MINUTE, 5.0)])
    # What two others have done since has arrived and is in the log, and not in the state yet.
    since = time.time_ns() // 1000
    world.take([(user, since, 3.0) for user in (5, 6)], written=False)
    world.serve(1)
    world.write()

    report = world.report(skew=True)
    assert report.different == 0
    values = 2 * ASKED * USERS
    count, total = report.skew["tiles", "count_events_1h"], report.skew["tiles", "sum_amount_1h"]
    for one in (count, total):
        assert (one.values, one.differ) == (values, ASKED * (5 + 2))
        assert one.causes == {LATE: ASKED * 5, LAG: ASKED * 2}
    # In the first round 4 users lack two events, one lacks one; in the second two lack one each.
    assert count.mean_apart == pytest.approx((4 * 2 + 1 + 2) / 7)
    assert count.most == 2
    assert total.mean_apart == pytest.approx((4 * 10 + 5 + 2 * 3) / 7)
    assert total.most == 10
    row = report.skew["newest", "amount"]
    assert row.causes == {LATE: ASKED * 1, LAG: ASKED * 2, AHEAD: 2 * ASKED * 1}
    assert row.differ == row.causes.total()
    assert row.mean_apart == pytest.approx((4 + 2 * 2 + 2 * 8) / 5)
    assert row.as_json()["ratio"] == row.differ / values


def times(factor: float) -> CodePlan:
    """A transformation of the events; its text names the factor."""

    def scaled(events: Any) -> Any:
        amounts = [None if a is None else a * factor for a in events["amount"]]
        return {"user_id": events["user_id"], "amount": amounts}

    return CodePlan("scaled", "python", dill.dumps(scaled, recurse=True), f"times {factor}")


@pytest.mark.parametrize("before", [None, times(2.0)], ids=["no code", "other code"])
def test_what_an_other_definition_made_is_told_from_a_fault(
    tmp_path: Path, redis_url: str, before: CodePlan | None
) -> None:
    """Rows stay where they are when their view changes, until they are made again."""
    view = msgspec.structs.replace(ROWS, udf=before)
    world = World(tmp_path, redis_url, f"changed{uuid.uuid4().hex[:8]}", views=[view])
    now = time.time_ns() // 1000
    world.take([(user, now - user * MINUTE, 1.0 + user) for user in range(USERS - 2)])
    world.serve(1)
    old = world.catalog
    world.change(newest={"udf": times(3.0)})
    rebuilder = Rebuilder(world.catalog, world.client, ["newest"])
    rebuilder.put_back()
    world.serve(1)  # the service knows the new definition, the rows are still the old ones
    rebuilder.run()
    world.serve(1)
    new, world.catalog = world.catalog, old
    world.serve(1)  # a service that does not know yet, over rows that were made again
    world.catalog = new

    amount = world.report().features["newest", "amount"]
    wrong = ASKED * (USERS - 2)
    if before is None:
        assert amount.compared == 4 * ASKED * USERS
        assert amount.causes == {DEFINITION: 2 * wrong}
    else:  # the registry has only today's code
        assert amount.not_comparable == {NO_CODE: 2 * ASKED * USERS}
        assert amount.causes == {DEFINITION: wrong}
