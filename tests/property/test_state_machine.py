"""Workers crash, freeze, wake, lose partitions and win them, at any step and any cut of batches.

The workers, Redis and the log are real; the schedule is what hypothesis makes of it. At every
moment each section in Redis is a function of its partition's prefix, and in the end everything is
what a replay of the topics says.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)  # fmt: skip

from headwater import catalog as plans
from headwater import catalog_cache
from headwater.codec import section_source, split_sections
from headwater.local import LocalRedis
from headwater.online.values import ViewReader
from headwater.online.writer import OnlineWriter
from headwater.windows import WindowProgram, source_id
from ingest.records import TopicPartition
from tests import oracle
from tests.faults import truth
from tests.faults.compare import compare
from tests.faults.model import Broker, Killed, ModelWorker

MINUTE, HOUR = 60_000_000, 3_600_000_000
KEYS = 3
PARTS = [TopicPartition("t", 0), TopicPartition("t", 1)]
FIELDS = (
    plans.FieldPlan("user_id", "INT64"), plans.FieldPlan("x", "DOUBLE"),
    plans.FieldPlan("s", "STRING"), plans.FieldPlan("at", "UNIX_TIMESTAMP"),
)  # fmt: skip
KEY = (plans.JoinKeyPlan("user_id", "INT64", "user"),)


def aggregation(function: str, column: str, window: int, hop: int, output: str, n: float = 0.0):
    of = {"x": "DOUBLE", "s": "STRING"}[column]
    name = f"{function}_{column}"
    return plans.AggregationPlan(name, column, function, window, hop, n, of, output)


AGGREGATIONS = (
    aggregation("count", "x", HOUR, MINUTE, "INT64"),
    aggregation("sum", "x", HOUR, MINUTE, "DOUBLE"),
    aggregation("std", "x", 2 * HOUR, 7 * MINUTE, "DOUBLE"),
    aggregation("max", "x", 10 * MINUTE, MINUTE, "DOUBLE"),
    aggregation("last", "x", HOUR, MINUTE, "DOUBLE"),
    aggregation("count_distinct", "s", HOUR, MINUTE, "INT64"),
    aggregation("last_n", "s", HOUR, MINUTE, "STRING_LIST", 2.0),
)


def catalogue(log: Path) -> plans.Catalog:
    """A windowed view and a row view on one topic, no Feast needed."""
    stream = plans.StreamSourcePlan(
        "events", ("t",), "127.0.0.1:1", "json", FIELDS, "at",
        watermark_delay_us=HOUR, log_path=str(log),
    )  # fmt: skip
    windows = plans.ViewPlan(
        "windows", "window", KEY,
        tuple(plans.FieldPlan(a.name, a.output_type) for a in AGGREGATIONS),
        stream="events", aggregations=AGGREGATIONS,
    )  # fmt: skip
    rows = plans.ViewPlan("rows", "row", KEY, FIELDS[1:3], stream="events")
    return plans.Catalog(
        "model", "1", "", str(log), streams={"events": stream},
        views={"windows": windows, "rows": rows},
    )  # fmt: skip


def repository(folder: Path) -> Path:
    """A repository with that catalogue in its cache."""
    (folder / "data").mkdir(parents=True)
    (folder / "feature_store.yaml").write_text("project: model\nregistry: data/registry.db\n")
    (folder / "data" / "registry.db").write_bytes(b"")
    cached = folder / "data" / f".catalog-{catalog_cache.fingerprint(folder)}.json"
    cached.write_bytes(plans.encode(catalogue(folder / "data" / "log")))
    return folder


bodies = st.one_of(
    st.fixed_dictionaries(
        {
            "user_id": st.integers(0, KEYS - 1) | st.none(),
            # Ties, late ones, ones ahead of the clock and ones that are too far ahead.
            "at": st.sampled_from([0, -MINUTE, -30 * MINUTE, -61 * MINUTE, -2 * HOUR, 2 * HOUR])
            | st.integers(-3 * HOUR, 20 * MINUTE),
            "x": st.none() | st.integers(-8, 8).map(lambda n: n / 4),
            "s": st.none() | st.sampled_from("abc"),
        }
    ),
    st.sampled_from([None, b"", b"{", b'{"at": "soon"}', b"[1]"]),
)


class Engine(RuleBasedStateMachine):
    """Rules are what can happen; the schedule is everything."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="headwater-model-"))
        self.repo = repository(self.folder / "repo")
        self.catalog = catalog_cache.load(self.repo)
        self.client = redis.Redis.from_url(self.url)
        self.client.flushall()
        self.broker = Broker({tp: [] for tp in PARTS})
        self.workers: list[ModelWorker] = []
        self.members = 0
        self.now = time.time_ns() // 1000
        self.snapshot: dict[bytes, bytes] = {}
        self.lost = False

    @initialize(first=st.lists(bodies, min_size=2, max_size=8))
    def first_worker(self, first: list[Any]) -> None:
        for part in PARTS:
            self.produce(part, first)
        self.join(True)

    @rule(part=st.sampled_from(PARTS), several=st.lists(bodies, min_size=1, max_size=6))
    def produce(self, part: TopicPartition, several: list[Any]) -> None:
        for body in several:
            value = body
            if isinstance(body, dict):
                value = json.dumps({**body, "at": self.now + body["at"]}).encode()
            self.broker.produce(part, value)

    @precondition(lambda self: len(self.workers) < 3)
    @rule(takes_all=st.booleans())
    def join(self, takes_all: bool) -> None:
        self.members += 1
        self.workers.append(ModelWorker(self.repo, self.broker, self.members, self.client))
        self.broker.assign(dict.fromkeys(PARTS if takes_all else PARTS[:1], self.members))

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def rebalance(self, data: st.DataObject) -> None:
        """Sessions end and begin: whoever is not told goes on as a zombie."""
        self._drawn_rebalance(data)()

    def _drawn_rebalance(self, data: st.DataObject) -> Callable[[], None]:
        members = [w.member for w in self.workers]
        wanted = {tp: data.draw(st.sampled_from(members)) for tp in PARTS}
        return lambda: self.broker.assign(wanted)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), size=st.sampled_from([0, 1, 2, 3, 50]), turns=st.integers(1, 3))
    def turn(self, data: st.DataObject, size: int, turns: int) -> None:
        worker = data.draw(st.sampled_from(self.workers))
        for _ in range(turns):
            worker.turn(size)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), size=st.sampled_from([0, 1, 50]), stops=st.booleans())
    def rebalance_amid_a_turn(self, data: st.DataObject, size: int, stops: bool) -> None:
        """The group moves on before the worker commits; it may be asked to stop just then."""
        worker, then = data.draw(st.sampled_from(self.workers)), self._drawn_rebalance(data)
        if stops:
            self.workers.remove(worker)
            worker.stop(size, then)
        else:
            worker.turn(size, then)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), size=st.sampled_from([0, 1, 50]))
    def stop(self, data: st.DataObject, size: int) -> None:
        """As it is asked to: it commits what it has taken in."""
        worker = data.draw(st.sampled_from(self.workers))
        self.workers.remove(worker)
        worker.stop(size)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), size=st.sampled_from([1, 3, 50]), turns=st.integers(2, 4))
    def go_on(self, data: st.DataObject, size: int, turns: int) -> None:
        """Undisturbed for a while: something is committed."""
        worker = data.draw(st.sampled_from(self.workers))
        for _ in range(turns):
            worker.turn(size)
            worker.work("redis")
            worker.work("log")
        worker.look_around()

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), kind=st.sampled_from(["fold", "redis", "log"]))
    def work(self, data: st.DataObject, kind: str) -> None:
        data.draw(st.sampled_from(self.workers)).work(kind)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), left=st.integers(-1, 3))
    def crash(self, data: st.DataObject, left: int) -> None:
        """At once, or when it has written some of what it was to write."""
        worker = data.draw(st.sampled_from(self.workers))
        self.workers.remove(worker)
        worker.writer.left = left
        try:
            if left >= 0:
                worker.turn(50)
                worker.work("redis")
        except Killed:
            pass

    @precondition(lambda self: self.broker.committed)
    @rule()
    def redis_saves(self) -> None:
        self.snapshot = {key: self.client.dump(key) for key in self.client.scan_iter()}

    @precondition(lambda self: self.broker.committed and not self.lost)
    @rule(restored=st.booleans())
    def redis_loses(self, restored: bool) -> None:
        """It comes back empty, or as it was when it was saved last."""
        self.lost = True
        self.client.flushall()
        for key, value in self.snapshot.items() if restored else ():
            self.client.restore(key, 0, value)

    @invariant()
    def every_section_is_a_function_of_its_partitions_prefix(self) -> None:
        view = self.catalog.views["windows"]
        program, reader = WindowProgram.of(view), ViewReader("model", view)
        keys = list(range(KEYS))
        values = OnlineWriter(self.client, "model").read(reader.keys([keys], KEYS))
        held = [
            (key, section)
            for key, value in zip(keys, values, strict=True)
            for section in split_sections(value)
        ]
        # What was lost is whole again when it was rebuilt.
        if not held or self.lost:
            return
        t = time.time_ns() // 1000
        found = program.read([[section] for _, section in held], t)
        stream, views = self.catalog.streams["events"], list(self.catalog.views.values())
        for i, (key, section) in enumerate(held):
            applied = int.from_bytes(section[:8], "little", signed=True)
            (part,) = (p for p in PARTS if source_id(*p) == section_source(section))
            prefix = truth.judge(stream, views, self.broker.topics[part][: applied + 1])
            events = truth.of_entities(view, prefix.accepted).get((key,), [])
            assert events, (key, part, applied)
            assert events[-1].message.offset == applied
            for a, column in zip(view.aggregations, found, strict=True):
                wanted = oracle.oracle(a, truth.timed(events, a.column), t)
                assert oracle.agrees(a, column[i], wanted), (a.name, key, part, column[i], wanted)

    def teardown(self) -> None:
        """A clean worker takes everything in; then the zombies wake; and all is right, twice."""
        try:
            self._settle()
        finally:
            self.client.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _settle(self) -> None:
        zombies, self.workers = self.workers, []
        self.join(True)
        (last,) = self.workers
        last.turn(0)
        for _ in range(100):
            if self._caught_up() and not last.pending:
                break
            last.turn(7)
            last.work("redis")
            last.work("log")
            last.look_around()
        assert self._caught_up(), "the last worker does not get to the end"
        compare(self.repo, self.broker.read, self.client)
        for zombie in zombies:
            for _ in range(3):
                zombie.work("log")
                zombie.work("redis")
                zombie.turn(50)
        last.turn(1)
        self.every_section_is_a_function_of_its_partitions_prefix()
        compare(self.repo, self.broker.read, self.client)

    def _caught_up(self) -> bool:
        committed = self.broker.committed
        return all(
            not log or (tp in committed and committed[tp].offset == len(log))
            for tp, log in self.broker.topics.items()
        )


@pytest.fixture(scope="module")
def store() -> Iterator[LocalRedis]:
    server = LocalRedis()
    server.start()
    yield server
    server.close()


def test_any_schedule_ends_in_what_a_replay_says(store: LocalRedis) -> None:
    Engine.url = store.url
    run_state_machine_as_test(
        Engine,
        settings=settings(
            max_examples=15, stateful_step_count=30, deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


def test_what_was_read_from_a_redis_that_had_lost_its_data_is_not_written(
    store: LocalRedis,
) -> None:
    """Its offset would keep the rebuild from adding what it lacks."""
    Engine.url = store.url
    engine = Engine()
    event = {"user_id": 0, "at": -MINUTE, "x": 1.0, "s": "a"}
    engine.join(True)
    engine.produce(PARTS[0], [event])
    (first,) = engine.workers
    _cycles(first, 4)
    engine.workers.remove(first)
    engine.join(True)
    (second,) = engine.workers
    second.turn(0)
    engine.produce(PARTS[0], [event])
    engine.redis_loses(False)
    _cycles(second, 4)
    engine.workers.remove(second)
    engine.teardown()


def test_what_a_zombie_writes_late_replaces_nothing_newer(store: LocalRedis) -> None:
    Engine.url = store.url
    engine = Engine()
    event = {"user_id": 0, "at": -MINUTE, "x": 1.0, "s": "a"}
    engine.join(True)
    engine.produce(PARTS[0], [event])
    (zombie,) = engine.workers
    zombie.turn(0)
    zombie.turn(50)
    engine.join(True)
    engine.produce(PARTS[0], [event])
    _cycles(engine.workers[1], 4)
    zombie.work("redis")
    engine.every_section_is_a_function_of_its_partitions_prefix()
    engine.teardown()


def _at_its_writes(store: LocalRedis) -> tuple[Engine, ModelWorker]:
    """A worker that took in an event and a dead letter of each partition: its checkpoint has begun,
    and waits for its writes."""
    Engine.url = store.url
    engine = Engine()
    engine.join(True)
    event = {"user_id": 0, "at": -MINUTE, "x": 1.0, "s": "a"}
    for part in PARTS:
        engine.produce(part, [event, b"{"])
    (first,) = engine.workers
    first.turn(0)
    first.turn(50)
    return engine, first


def test_a_checkpoint_commits_nothing_of_a_partition_that_was_revoked_meanwhile(
    store: LocalRedis,
) -> None:
    """The broker would take it: an older offset than the new owner's, and dead letters again."""
    engine, first = _at_its_writes(store)
    engine.join(False)
    _cycles(engine.workers[1], 4)
    first.work("redis")
    first.work("log")
    first.turn(0)
    assert engine.broker.committed[PARTS[0]].offset == 2
    assert len(engine.broker.dead) == 2
    engine.teardown()


def test_one_that_is_stopped_after_a_refused_commit_passes_no_dead_letter_by(
    store: LocalRedis,
) -> None:
    """It keeps its partitions, so the group would take its next commit, without their letters."""
    engine, first = _at_its_writes(store)
    first.work("redis")
    first.work("log")
    engine.workers.remove(first)
    first.stop(0, lambda: engine.broker.assign(dict.fromkeys(PARTS, first.member)))
    assert not engine.broker.committed
    engine.teardown()
    assert len(engine.broker.dead) == 2


@pytest.mark.parametrize("restored", [False, True])
def test_a_worker_without_events_finds_that_redis_lost_its_data_and_has_them_made_again(
    store: LocalRedis, restored: bool
) -> None:
    """Emptied, or rewound to a snapshot; nothing else would come upon it before the next event."""
    Engine.url = store.url
    engine = Engine()
    engine.join(True)
    for minutes in (3, 1):
        if minutes == 1:
            engine.redis_saves()
        for part in PARTS:
            engine.produce(part, [{"user_id": 0, "at": -minutes * MINUTE, "x": 1.0, "s": "a"}])
        (worker,) = engine.workers
        _cycles(worker, 4)
    engine.redis_loses(restored)
    for _ in range(6):
        worker.look_around()
        worker.turn(0)
        worker.work("redis")
    compare(engine.repo, engine.broker.read, engine.client)
    engine.teardown()


def _cycles(worker: ModelWorker, turns: int) -> None:
    for _ in range(turns):
        worker.turn(50)
        worker.work("redis")
        worker.work("log")
