"""Vectors that were served equal what the log says; a build that is broken is found out."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dill
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from headwater.arrow import TIMESTAMP
from headwater.catalog import (
    BatchSourcePlan,
    CodePlan,
    FeatureRefPlan,
    FieldPlan,
    OnDemandPlan,
)
from headwater.codec import WINDOW_HEADER
from headwater.offline.recompute import AHEAD, CUT, NO_ROW
from headwater.offline.seen import Held
from headwater.offline.verify import Report
from headwater.online.columns import RowColumns
from headwater.rebuild import Rebuilder
from headwater.states import WindowStates
from headwater.windows import EventBatch, WindowProgram
from tests.proof.world import MINUTE, SECOND, USERS, World

Break = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture
def world(tmp_path: Path, redis_url: str) -> World:
    return World(tmp_path, redis_url, f"proof{uuid.uuid4().hex[:8]}")


def served(world: World, rounds: int = 4) -> Report:
    world.take_in(150)
    world.serve(rounds, lambda turn: world.take_in(40))
    return world.report()


def by_view(report: Report, what: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in report.features.values():
        found[one.view] = found.get(one.view, 0) + getattr(one, what)
    return found


def test_every_served_value_equals_the_recomputed_one(world: World) -> None:
    report = served(world)
    assert report.different == 0, [f.examples for f in report.features.values() if f.different]
    assert report.vectors == 4 * 3 * USERS
    compared = by_view(report, "compared")
    assert set(compared) == {"tiles", "sketches", "newest", "fresh", "profile"}
    assert min(compared.values()) > 0
    # What is not compared has its reason: half of the users were never loaded.
    reasons = sum((f.not_comparable for f in report.features.values()), Counter())
    assert set(reasons) == {NO_ROW}
    assert compared["tiles"] == 4 * 2 * USERS * 12


def test_what_a_function_makes_of_the_last_bit_of_a_sum_is_no_difference(world: World) -> None:
    """Sums agree to 1e-9; a threshold, a text or a list shows more than that."""

    def exact(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
        sums = inputs["sum_amount_1h"]
        return {"digits": [repr(x) for x in sums], "pair": [None if x is None else [x, 1.0]
                for x in sums]}  # fmt: skip

    plan = OnDemandPlan(
        "exact", (FieldPlan("digits", "STRING"), FieldPlan("pair", "DOUBLE_LIST")),
        (FeatureRefPlan("tiles", ("sum_amount_1h",)),), (),
        CodePlan("exact", "python", dill.dumps(exact, recurse=True)),
    )  # fmt: skip
    world.catalog = msgspec.structs.replace(world.catalog, on_demand={"exact": plan})
    report = served(world)
    assert by_view(report, "compared")["exact"] > 0
    assert by_view(report, "different")["exact"] == 0


def test_history_that_an_older_event_has_replaced_since_is_not_compared(
    world: World, redis_client: redis.Redis
) -> None:
    """What counts of it ends at the log's first event, which is not what it was."""
    now = time.time_ns() // 1000
    users = list(range(USERS))
    pq.write_table(pa.table({
        "user_id": users, "amount": [1.0] * USERS, "quantity": users, "page": ["h"] * USERS,
        "at": pa.array([now - 30 * MINUTE - u for u in users], TIMESTAMP),
    }), world.folder / "past.parquet")  # fmt: skip
    past = BatchSourcePlan("past", "parquet", str(world.folder / "past.parquet"), "at")
    stream = msgspec.structs.replace(world.stream, history=past)
    world.catalog = msgspec.structs.replace(world.catalog, streams={"clicks": stream})
    world.take([(1, now - MINUTE, 5.0)])
    assert Rebuilder(world.catalog, redis_client).run() > 0
    world.serve(5)
    before = world.report()
    assert before.different == 0
    assert before.features["tiles", "count_events_1h"].compared > 0

    world.take([(2, now - 40 * MINUTE, 7.0)])
    after = world.report()
    assert after.different == 0
    tiles = after.features["tiles", "count_events_1h"]
    assert (tiles.compared, tiles.not_comparable[CUT]) == (
        0, before.features["tiles", "count_events_1h"].compared
    )  # fmt: skip
    Rebuilder(world.catalog, redis_client).run()
    world.serve(5)
    after = world.report()
    assert after.different == 0
    assert after.features["tiles", "count_events_1h"].compared > 0


def test_what_the_log_does_not_hold_yet_is_not_compared(world: World) -> None:
    world.take_in(50)
    kept = world.log.append
    world.log.append = lambda *_: 0  # type: ignore[method-assign]
    world.serve(1, lambda turn: world.take_in(30))
    world.log.append = kept  # type: ignore[method-assign]
    tiles = world.report().features["tiles", "count_events_1h"]
    assert tiles.not_comparable[AHEAD] > 0
    assert tiles.different == 0


def test_what_comes_into_the_log_while_it_is_read_is_no_lost_write(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.take_in(50)
    kept, waiting = world.log.append, list[Any]()
    world.log.append = lambda *given: waiting.append(given) or 0  # type: ignore[method-assign]
    world.serve(1, lambda turn: world.take_in(30))
    read = Held.read

    def read_then_appended(*given: Any) -> Held:
        held = read(*given)
        while waiting:
            kept(*waiting.pop(0))
        return held

    monkeypatch.setattr(Held, "read", read_then_appended)
    report = world.report()
    assert not waiting
    assert report.different == 0
    assert by_view(report, "compared")["tiles"] > 0
    assert world.report().different == 0


def _longer_by_a_hop(patch: pytest.MonkeyPatch) -> None:
    """Windows begin one hop too early when they are read."""
    make = WindowProgram.__init__

    def off_by_one(self: WindowProgram, *given: Any) -> None:
        make(self, *given)
        self._windows = self._windows + np.array([MINUTE, 0])

    patch.setattr("headwater.online.columns.WindowProgram.__init__", off_by_one)


def _drops_an_event(patch: pytest.MonkeyPatch) -> None:
    """Of each batch the worker folds all but one event."""
    fold = WindowStates.fold

    def forgetful(self: WindowStates, key: Any, batch: EventBatch, now_us: int) -> None:
        kept = np.arange(len(batch)) != len(batch) // 2
        columns = {n: type(c)(np.asarray(c.values, object)[kept].tolist() if isinstance(
            c.values, list) else c.values[kept], c.valid[kept])
            for n, c in batch.columns.items()}  # fmt: skip
        fold(self, key[kept], EventBatch(key[kept], batch.ts[kept], batch.offset[kept],
             batch.source[kept], batch.watermark[kept], columns), now_us)  # fmt: skip

    patch.setattr(WindowStates, "fold", forgetful)


def _drops_the_newest_event(patch: pytest.MonkeyPatch) -> None:
    """The last event of the last batch is not in the state, which goes no further than before."""
    fold = WindowStates.fold

    def late(self: WindowStates, key: Any, batch: EventBatch, now_us: int) -> None:
        columns = {n: type(c)(c.values[:-9], c.valid[:-9]) for n, c in batch.columns.items()}
        fold(self, key[:-9], EventBatch(key[:-9], batch.ts[:-9], batch.offset[:-9],
             batch.source[:-9], batch.watermark[:-9], columns), now_us)  # fmt: skip

    patch.setattr(WindowStates, "fold", late)


def _doubles_tiles(patch: pytest.MonkeyPatch) -> None:
    """Tiles are merged twice when they are read."""
    joined = WindowProgram.joined

    def twice(data: Any) -> Any:
        return joined([v and v + v[len(WINDOW_HEADER) :] for v in data])

    patch.setattr(WindowProgram, "joined", staticmethod(twice))


def _ignores_ttl(patch: pytest.MonkeyPatch) -> None:
    make = RowColumns.__init__

    def without(self: Any, view: Any, names: Any) -> None:
        make(self, msgspec.structs.replace(view, ttl_us=0), names)

    patch.setattr(RowColumns, "__init__", without)


@pytest.mark.parametrize(
    ("breaks", "views", "cause"),
    [
        (_longer_by_a_hop, {"tiles"}, "doubled write"),
        (_drops_an_event, {"tiles", "sketches"}, "lost write"),
        (_drops_the_newest_event, {"tiles", "sketches"}, "lost write"),
        (_doubles_tiles, {"tiles"}, "doubled write"),
        (_ignores_ttl, {"fresh", "profile"}, "expired TTL"),
    ],
)
def test_a_broken_build_is_caught(
    world: World, monkeypatch: pytest.MonkeyPatch, breaks: Break, views: set[str], cause: str
) -> None:
    with monkeypatch.context() as patch:
        breaks(patch)
        world.take_in(150)
        # Where windows of an hour begin there are events, whenever this runs.
        edge = time.time_ns() // 1000 - 62 * MINUTE
        world.take([(u, edge + i * 10 * SECOND, 1.0) for u in range(USERS) for i in range(13)])
        world.serve(4, lambda turn: world.take_in(40) if turn < 2 else None)
    report = world.report()
    different = {view for view, n in by_view(report, "different").items() if n}
    assert different == views
    causes = {c for f in report.features.values() for c in f.causes}
    assert cause in causes
