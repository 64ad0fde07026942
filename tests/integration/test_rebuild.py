"""What is rebuilt from the log is what folding live gives, wherever the rebuild was stopped."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dill
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from deltalake import DeltaTable

from headwater.catalog import Catalog, CodePlan
from headwater.codec import key_prefix
from headwater.errors import HeadwaterError, RebuildBusyError
from headwater.offline.log import EventLog
from headwater.offline.point_in_time import Labels, Past, features_at
from headwater.online.expiry import Sweeper
from headwater.online.progress import Place, Progress, history
from headwater.online.sinks import Batch, make_sink, write
from headwater.online.values import ViewReader
from headwater.online.writer import OnlineWriter
from headwater.rebuild import Rebuilder, events_behind, missing
from headwater.rebuild.lock import RebuildLock
from tests.logs import FIELDS, TOPIC, append, catalog, fill_log, random_events

USERS = list(range(60))
Values = dict[str, list[Any]]


def online(client: redis.Redis, found: Catalog, name: str, now_us: int) -> Values:
    """Every feature of a view for every user, as the service reads it."""
    view = found.views[name]
    reader = ViewReader(found.project, view)
    data = OnlineWriter(client, found.project).read(reader.keys([USERS], len(USERS)))
    values = reader.values(data, view.feature_names, now_us).values
    return dict(zip(view.feature_names, values, strict=True))


def offline(found: Catalog, name: str, now_us: int) -> Values:
    """The same from the log and the history, as a training set has it."""
    view = found.views[name]
    labels = pa.table({"user": pa.array(USERS)})
    asked = Labels(labels, np.full(len(USERS), now_us))
    columns = features_at(found, view, asked, {"user": "user"}, view.feature_names, Past())
    return {name: column.to_pylist() for name, column in columns}


def assert_same(ours: Values, theirs: Values) -> None:
    assert any(
        value is not None for value in ours["amount" if "amount" in ours else "mean_amount_None"]
    )
    for name, column in ours.items():
        for mine, other in zip(column, theirs[name], strict=True):
            if isinstance(mine, float) and other is not None:
                assert mine == pytest.approx(other, rel=1e-9, abs=1e-9), name
            else:
                assert mine == other, name


def fold_live(client: redis.Redis, found: Catalog, tables: Sequence[pa.Table], seed: int) -> None:
    """As a worker does: batches of any size of each partition, one after the other."""
    chance = random.Random(seed)
    writer = OnlineWriter(client, found.project)
    names = [field.name for field in FIELDS]
    for view in found.views.values():
        sink = make_sink(found.project, view, writer)
        for table in tables:
            ts = table["at"].cast(pa.int64()).to_numpy()
            offsets, marks = table["_offset"].to_numpy(), np.maximum.accumulate(ts)
            partition, at = table["_partition"][0].as_py(), 0
            while at < table.num_rows:
                to = at + chance.randrange(1, 200)
                sink.apply(
                    Batch(TOPIC, partition, table.slice(at, to - at).select(names), ts[at:to],
                          None, offsets[at:to], marks[at:to]),
                    time.time_ns() // 1000,
                )  # fmt: skip
                write([sink], writer)
                at = to


def state(client: redis.Redis) -> dict[bytes, bytes]:
    return {key: client.get(key) for key in client.keys("*{*")}  # type: ignore[misc,union-attr]


@pytest.mark.parametrize("seed", range(4))
def test_a_rebuild_gives_what_folding_live_gives(
    tmp_path: Path, redis_client: redis.Redis, seed: int
) -> None:
    found = catalog(tmp_path)
    tables = fill_log(EventLog(found.streams["orders"]), seed, 700)
    fold_live(redis_client, found, tables, seed)
    now = time.time_ns() // 1000
    live = {name: online(redis_client, found, name, now) for name in found.views}
    redis_client.flushall()
    assert Rebuilder(found, redis_client, window_rows=97, write_rows=250).run() == 2 * 3 * 700
    for name in found.views:
        assert_same(online(redis_client, found, name, now), live[name])
        assert_same(live[name], offline(found, name, now))
    assert missing(found, Progress(redis_client, found.project)) == []
    assert Rebuilder(found, redis_client).run() == 0


class KilledError(Exception):
    """The process ends here."""


@pytest.mark.parametrize("step", ["write", "move"])
def test_a_rebuild_that_was_killed_anywhere_goes_on(
    tmp_path: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Killed after every write of state, or after every move of progress."""
    found = catalog(tmp_path)
    fill_log(EventLog(found.streams["orders"]), 5, 300)
    target, name = (OnlineWriter, "run") if step == "write" else (Progress, "move")
    real, now = getattr(target, name), time.time_ns() // 1000

    def done_then_killed(*arguments: Any) -> Any:
        real(*arguments)
        raise KilledError

    kills = 0
    while missing(found, Progress(redis_client, found.project)):
        # A step further each time: what was moved stays moved.
        calls = iter(range(100))
        with monkeypatch.context() as patch:

            def some(*arguments: Any, calls: Any = calls, spared: int = kills % 8) -> Any:
                return (done_then_killed if next(calls) >= spared else real)(*arguments)

            patch.setattr(target, name, some)
            try:
                Rebuilder(found, redis_client, window_rows=50, write_rows=100).run()
            except KilledError:
                kills += 1
        assert kills < 200
    assert kills >= 3
    for view in found.views:
        assert_same(online(redis_client, found, view, now), offline(found, view, now))


def test_a_view_that_is_half_done_is_filled_from_where_it_is(
    tmp_path: Path, redis_client: redis.Redis
) -> None:
    found = catalog(tmp_path)
    log = EventLog(found.streams["orders"])
    append(log, random_events(1, 400, 0))
    Rebuilder(found, redis_client).run()
    append(log, random_events(2, 250, 0, 400))
    gaps = missing(found, Progress(redis_client, found.project))
    assert [(g.view, g.place.partition, g.held, g.end) for g in gaps] == [
        ("rows", 0, 400, 650),
        ("windows", 0, 400, 650),
    ]
    assert Rebuilder(found, redis_client).run() == 2 * 250
    now = time.time_ns() // 1000
    assert_same(online(redis_client, found, "windows", now), offline(found, "windows", now))


def test_only_the_named_views_are_filled(tmp_path: Path, redis_client: redis.Redis) -> None:
    found = catalog(tmp_path)
    append(EventLog(found.streams["orders"]), random_events(1, 40, 0))
    assert Rebuilder(found, redis_client, ["rows"]).run() == 40
    assert {g.view for g in missing(found, Progress(redis_client, found.project))} == {"windows"}
    with pytest.raises(HeadwaterError, match="there are: rows, windows"):
        Rebuilder(found, redis_client, ["row"])


def test_dead_letters_at_the_end_of_a_partition_are_no_gap(
    tmp_path: Path, redis_client: redis.Redis
) -> None:
    found = catalog(tmp_path)
    EventLog(found.streams["orders"]).append(random_events(1, 40, 2), {(TOPIC, 2): 55})
    Rebuilder(found, redis_client).run()
    place = Place(key_prefix(found.project, found.views["rows"]), TOPIC, 2)
    assert Progress(redis_client, found.project).read([place]) == {place: 56}


def test_a_reset_replaces_state_that_is_wrong(tmp_path: Path, redis_client: redis.Redis) -> None:
    found = catalog(tmp_path)
    tables = fill_log(EventLog(found.streams["orders"]), 3, 200)
    # Events that no log holds, under offsets that are higher than any in the log.
    fold_live(redis_client, found, [random_events(9, 50, 0, 10_000), *tables], 1)
    now = time.time_ns() // 1000
    with pytest.raises(AssertionError):
        assert_same(online(redis_client, found, "windows", now), offline(found, "windows", now))
    Rebuilder(found, redis_client).run(reset=True)
    for view in found.views:
        assert_same(online(redis_client, found, view, now), offline(found, view, now))


def test_state_lost_under_a_rebuild_is_noticed_before_it_writes(
    tmp_path: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis comes back empty between two writes: the half that is left would look whole."""
    found = catalog(tmp_path)
    fill_log(EventLog(found.streams["orders"]), 4, 300)
    real, calls = OnlineWriter.run, iter(range(1000))

    def lossy(self: OnlineWriter, *arguments: Any) -> list[Any]:
        refused = real(self, *arguments)
        if next(calls) in {1, 4}:
            redis_client.flushall()
        return refused

    monkeypatch.setattr(OnlineWriter, "run", lossy)
    # A cache of one key makes the sinks read their state again and again.
    Rebuilder(found, redis_client, cache_bytes=1, window_rows=40, write_rows=80).run()
    monkeypatch.undo()
    now = time.time_ns() // 1000
    for view in found.views:
        assert_same(online(redis_client, found, view, now), offline(found, view, now))


def test_windows_that_a_worker_wrote_after_their_beginning_was_lost_are_not_trusted(
    tmp_path: Path, redis_client: redis.Redis
) -> None:
    """It had not met some keys before, and folded their last events on nothing."""
    found = catalog(tmp_path)
    tables = fill_log(EventLog(found.streams["orders"]), 6, 200)
    fold_live(redis_client, found, [table.slice(150) for table in tables], 1)
    Rebuilder(found, redis_client).run()
    now = time.time_ns() // 1000
    for view in found.views:
        assert_same(online(redis_client, found, view, now), offline(found, view, now))


def test_a_worker_that_took_over_is_left_alone(
    tmp_path: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker folds the rest and moves the progress on while the rebuild still folds."""
    found = catalog(tmp_path)
    append(EventLog(found.streams["orders"]), random_events(1, 300, 0))
    progress = Progress(redis_client, found.project)
    place = Place(key_prefix(found.project, found.views["windows"]), TOPIC, 0)
    real = OnlineWriter.run

    def beside(self: OnlineWriter, *arguments: Any) -> list[Any]:
        monkeypatch.undo()
        Rebuilder(found, redis_client, ["windows"])._follow()
        assert progress.move({place: (300, 777)}) == {}
        return real(self, *arguments)

    monkeypatch.setattr(OnlineWriter, "run", beside)
    Rebuilder(found, redis_client, ["windows"], window_rows=50, write_rows=50).run()
    assert progress.read([place]) == {place: 777}
    now = time.time_ns() // 1000
    assert_same(online(redis_client, found, "windows", now), offline(found, "windows", now))


def test_a_clock_that_is_ahead_shows_and_deletes_nothing_before_its_time(
    tmp_path: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis has a clock as well."""
    found = catalog(tmp_path)
    soon = time.time_ns() // 1000 + 40 * 60_000_000
    append(EventLog(found.streams["orders"]), random_events(1, 300, 0, hours=3, until_us=soon))
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 30 * 3_600 * 10**9)
    Rebuilder(found, redis_client, window_rows=90, write_rows=100).run()
    writer = OnlineWriter(redis_client, found.project)
    sweeper = Sweeper(writer, found.views.values())
    assert sum(sweeper.step(writer.now_us()) for _ in range(3)) == 0
    monkeypatch.undo()
    for later in (0, 35 * 60_000_000, 2 * 3_600_000_000):
        now = time.time_ns() // 1000 + later
        assert_same(online(redis_client, found, "windows", now), offline(found, "windows", now))


def cheap(events: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """A udf that cannot bear some amounts."""
    return {**events, "amount": [x and x / (x < 60) for x in events["amount"]]}


def test_an_event_on_which_a_changed_udf_fails_is_left_out_and_counted(
    tmp_path: Path, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """As a worker would have rejected it; training sets are without it too."""
    plain = catalog(tmp_path)
    fill_log(EventLog(plain.streams["orders"]), 8, 200)
    udf = CodePlan("cheap", "python", dill.dumps(cheap, recurse=True))
    views = {n: msgspec.structs.replace(v, udf=udf) for n, v in plain.views.items()}
    found = msgspec.structs.replace(plain, views=views)
    job = Rebuilder(found, redis_client, window_rows=90, write_rows=150)
    assert job.run() == 2 * 600
    logged = pa.table(DeltaTable(found.streams["orders"].log_path).to_pyarrow_table())
    bad = sum(x is not None and x >= 60 for x in logged["amount"].to_pylist())
    assert job.left_out == {"rows": bad, "windows": bad}
    assert bad
    assert "windows is without" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    now = time.time_ns() // 1000
    for view in found.views:
        assert_same(online(redis_client, found, view, now), offline(found, view, now))


def test_two_rebuilds_do_not_do_the_same_work(tmp_path: Path, redis_client: redis.Redis) -> None:
    found = catalog(tmp_path)
    append(EventLog(found.streams["orders"]), random_events(1, 40, 0))
    with RebuildLock(redis_client, found.project):
        with pytest.raises(RebuildBusyError, match="running already"):
            Rebuilder(found, redis_client).run()
        assert state(redis_client) == {}
    assert Rebuilder(found, redis_client).run() == 80


def test_a_lost_lock_deletes_nothing(redis_client: redis.Redis) -> None:
    with RebuildLock(redis_client, "logs") as lock:
        redis_client.set("a", 1)
        redis_client.set("headwater:logs:rebuild", "somebody else")
        with pytest.raises(RebuildBusyError):
            lock.unlink([b"a"])
        assert redis_client.exists("a")
    assert redis_client.get("headwater:logs:rebuild") == b"somebody else"


def test_clocks_know_an_event_ahead_of_the_clock_by_when_it_came(
    tmp_path: Path, redis_client: redis.Redis
) -> None:
    """As they do of a worker's: else the log would seem to be behind after a rebuild."""
    found = catalog(tmp_path)
    table = random_events(1, 50, 0, hours=1)
    came = table["_arrived_at"].cast(pa.int64()).to_pylist()
    at = [*came[:-1], time.time_ns() // 1000 + 1_200_000_000]
    place = table.column_names.index("at")
    table = table.set_column(place, table.schema.field("at"), pa.array(at, table["at"].type))
    append(EventLog(found.streams["orders"]), table)
    Rebuilder(found, redis_client).run()
    clocks = OnlineWriter(redis_client, found.project).clocks()
    assert {clocks[stage, "windows"] for stage in ("source", "online")} == {max(came)}


# -- history -----------------------------------------------------------------------------------


def write_history(folder: Path, seed: int, n: int, until_us: int) -> pa.Table:
    """Rows older than the log, and some as old as its first ones, in no order of time."""
    table = random_events(seed, n, 1, hours=20, until_us=until_us)
    table = table.select([field.name for field in FIELDS])
    table = table.take(np.random.default_rng(seed).permutation(n))
    pq.write_table(table, folder / "past.parquet")
    return table


def first_time(log: EventLog) -> int:
    found = pa.table(DeltaTable(log.path).to_pyarrow_table())["at"].cast(pa.int64()).to_pylist()
    return min(found)


@pytest.mark.parametrize("seed", range(3))
def test_history_before_the_log_counts_online_as_it_does_offline(
    tmp_path: Path, redis_client: redis.Redis, seed: int
) -> None:
    found = catalog(tmp_path, history=True)
    log = EventLog(found.streams["orders"])
    tables = fill_log(log, seed, 300, partitions=2)
    first = first_time(log)
    # The two overlap by some hours, and meet in equal times.
    write_history(tmp_path, seed + 50, 500, first + 3 * 3_600_000_000)
    assert Rebuilder(found, redis_client, window_rows=90, write_rows=150).run() > 2 * 600 + 100
    now = time.time_ns() // 1000
    for view in found.views:
        assert_same(online(redis_client, found, view, now), offline(found, view, now))
    assert tables
    assert missing(found, Progress(redis_client, found.project)) == []


def test_history_is_whole_before_the_first_event_and_stays_so_after_it(
    tmp_path: Path, redis_client: redis.Redis
) -> None:
    found = catalog(tmp_path, history=True)
    now = time.time_ns() // 1000
    write_history(tmp_path, 1, 200, now - 30 * 3_600_000_000)
    assert Rebuilder(found, redis_client).run() == 2 * 200
    assert_same(online(redis_client, found, "windows", now), offline(found, "windows", now))
    append(EventLog(found.streams["orders"]), random_events(2, 100, 1, hours=10))
    gaps = missing(found, Progress(redis_client, found.project))
    assert events_behind(found, gaps) == {"rows": 100, "windows": 100}
    assert Rebuilder(found, redis_client).run() == 2 * 100, "no row of the history is read again"
    now = time.time_ns() // 1000
    assert_same(online(redis_client, found, "windows", now), offline(found, "windows", now))


def test_an_older_event_than_the_logs_first_takes_history_out_again(
    tmp_path: Path, redis_client: redis.Redis
) -> None:
    found = catalog(tmp_path, history=True)
    log, now = EventLog(found.streams["orders"]), time.time_ns() // 1000
    write_history(tmp_path, 1, 300, now - 3_600_000_000)
    append(log, random_events(2, 100, 1, hours=5))
    Rebuilder(found, redis_client).run()
    append(log, random_events(3, 100, 0, hours=15))
    Rebuilder(found, redis_client).run()
    assert missing(found, Progress(redis_client, found.project)) == []
    now = time.time_ns() // 1000
    for view in found.views:
        assert_same(online(redis_client, found, view, now), offline(found, view, now))


def test_a_history_that_was_cut_short_is_done_again(
    tmp_path: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = catalog(tmp_path, history=True)
    log, now = EventLog(found.streams["orders"]), time.time_ns() // 1000
    write_history(tmp_path, 1, 300, now - 3_600_000_000)
    append(log, random_events(2, 100, 1, hours=5))
    real, calls = OnlineWriter.run, iter(range(100))

    def killed(self: OnlineWriter, *arguments: Any) -> list[Any]:
        if next(calls) == 2:
            raise KilledError
        return real(self, *arguments)

    monkeypatch.setattr(OnlineWriter, "run", killed)
    with pytest.raises(KilledError):
        Rebuilder(found, redis_client, ["windows"], window_rows=50, write_rows=50).run()
    monkeypatch.undo()
    prefix = key_prefix(found.project, found.views["windows"])
    assert history(prefix) in {g.place for g in missing(found, Progress(redis_client, "logs"))}
    # Meanwhile the log has come to hold older events: the half that was folded is too much.
    append(log, random_events(3, 100, 0, hours=15))
    Rebuilder(found, redis_client, ["windows"], window_rows=50, write_rows=50).run()
    now = time.time_ns() // 1000
    assert_same(online(redis_client, found, "windows", now), offline(found, "windows", now))
