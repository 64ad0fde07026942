"""A broker of lists, and real workers on it whose every step happens when it is told to.

The workers are the real ones, with the real Redis and the real log; of Kafka they see the protocol
that they are written against. Nothing runs by itself: a step that is left out is a frozen worker.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import redis

from headwater.errors import FencedError
from headwater.online.commands import Commands
from headwater.online.writer import OnlineWriter
from headwater.settings import Settings
from ingest import worker as worker_module
from ingest.records import Committed, DeadLetter, Moved, Original, Records, TopicPartition
from tests.faults.truth import Message


@dataclass
class Broker:
    """Topics as lists, committed offsets, and who owns which partition since which rebalance."""

    topics: dict[TopicPartition, list[Message]]
    committed: dict[TopicPartition, Committed] = field(default_factory=dict)
    dead: list[Message] = field(default_factory=list)
    owners: dict[TopicPartition, tuple[int, int]] = field(default_factory=dict)
    rebalances: int = 0

    def produce(self, tp: TopicPartition, value: bytes | None) -> None:
        log = self.topics[tp]
        log.append(Message(*tp, len(log), time.time_ns() // 1_000_000, b"k", value, ()))

    def assign(self, wanted: Mapping[TopicPartition, int]) -> None:
        """A rebalance; a partition that stays where it is is not touched (cooperative)."""
        self.rebalances += 1
        for tp, member in wanted.items():
            if self.owners.get(tp, (0, 0))[0] != member:
                self.owners[tp] = (member, self.rebalances)

    def read(self, topic: str) -> list[Message]:
        """All that a topic holds, as `compare` reads it."""
        if topic.endswith(".dead-letter"):
            return [m for m in self.dead if m.topic == topic]
        return [m for tp in sorted(self.topics) if tp.topic == topic for m in self.topics[tp]]


class Paused(BaseException):
    """The worker has done the turns that it was given."""


class ModelRecords(Records):
    """Records that remember the messages they are."""

    messages: Sequence[Message]

    def original(self, i: int) -> Original:
        message = self.messages[i]
        return Original(message.key, message.value, message.headers)


def columns(tp: TopicPartition, messages: Sequence[Message], end: int) -> ModelRecords:
    values = [m.value if m.value is not None else b"null" for m in messages]
    sizes = np.array([-1 if m.value is None else len(m.value) for m in messages], np.int64)
    at = np.cumsum([1, *(len(v) + 1 for v in values[:-1])], dtype=np.int64)
    records = ModelRecords(
        tp, b"[" + b",".join(values) + b"]", at, sizes,
        np.array([m.offset for m in messages], np.int64),
        np.array([m.timestamp_ms for m in messages], np.int64),
        messages[-1].offset + 1, end,
    )  # fmt: skip
    object.__setattr__(records, "messages", messages)
    return records


class ModelConsumer:
    """See `Consumer`. `polls` are the sizes of the next polls, each with what happens right after
    it, before the worker does anything; there is no other.
    """

    def __init__(self, broker: Broker, member: int) -> None:
        self._broker, self._member = broker, member
        #: The rebalance that this member has seen last; the broker knows a member by it alone.
        self._generation = 0
        self._known: dict[TopicPartition, tuple[int, int]] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._moved = Moved(frozenset(), frozenset())
        self.polls: deque[tuple[int, Callable[[], None]]] = deque()
        self.jumps: Counter[TopicPartition] = Counter()

    def subscribe(self, topics: Sequence[str]) -> None: ...

    def poll(self, timeout_seconds: float, max_records: int) -> list[Records]:
        if not self.polls:
            raise Paused
        size, then = self.polls.popleft()
        self._generation = self._broker.rebalances
        owned = {tp: o for tp, o in self._broker.owners.items() if o[0] == self._member}
        fresh = {tp for tp, o in owned.items() if self._known.get(tp) != o}
        gone = {tp for tp, o in self._known.items() if owned.get(tp) != o}
        self._moved = Moved(
            self._moved.assigned - gone | fresh, self._moved.revoked | (gone - self._moved.assigned)
        )
        self._known = owned
        self._positions = {tp: at for tp, at in self._positions.items() if tp not in gone}
        for tp in fresh:
            held = self._broker.committed.get(tp)
            self._positions[tp] = held.offset if held else 0
        found: list[Records] = []
        for tp, at in self._positions.items():
            log = self._broker.topics[tp]
            if messages := log[at : at + size]:
                self._positions[tp] = messages[-1].offset + 1
                found.append(columns(tp, messages, len(log)))
        then()
        return found

    def moved(self) -> Moved:
        moved, self._moved = self._moved, Moved(frozenset(), frozenset())
        return moved

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._known)

    def committed(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, Committed | None]:
        return {tp: self._broker.committed.get(tp) for tp in partitions}

    def position(self, partition: TopicPartition) -> int:
        return self._positions[partition]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._positions[partition] = offset

    def beginnings(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: len(self._broker.topics[tp]) for tp in partitions}

    def partitions(self, topic: str) -> list[TopicPartition]:
        return sorted(tp for tp in self._broker.topics if tp.topic == topic)

    def commit(
        self, positions: Mapping[TopicPartition, Committed], dead: Sequence[DeadLetter] = ()
    ) -> None:
        # As Kafka does: of partitions that a member does not own it takes offsets as well.
        if self._generation != self._broker.rebalances:
            # As librdkafka does: who keeps its partitions is in the new generation without a poll.
            if all(self._broker.owners.get(tp) == owner for tp, owner in self._known.items()):
                self._generation = self._broker.rebalances
            raise FencedError("the group moved on without this worker")
        self._broker.committed.update(positions)
        for letter in dead:
            original = letter.original
            headers = tuple((name, value or b"") for name, value in original.headers)
            self._broker.dead.append(
                Message(letter.topic, 0, 0, 0, original.key, original.value, headers)
            )

    def close(self) -> None: ...


class Job:
    """A future whose work is done when it is told to, or when somebody waits for it."""

    def __init__(self, queue: deque[Job], work: Callable[[], Any]) -> None:
        self._queue, self._work = queue, work
        self._outcome: Any = None
        self._error: Exception | None = None
        self._done = False
        queue.append(self)

    def done(self) -> bool:
        return self._done

    def run(self) -> None:
        while not self._done:
            first = self._queue.popleft()
            try:
                first._outcome = first._work()
            except Exception as error:
                first._error = error
            first._done = True

    def result(self) -> Any:
        self.run()
        if self._error is not None:
            raise self._error
        return self._outcome


class ModelJobs:
    """See `Jobs`."""

    def __init__(self) -> None:
        self.queues: dict[str, deque[Job]] = {"fold": deque(), "redis": deque(), "log": deque()}

    def fold(self, work: Callable[[], Any]) -> Job:
        return Job(self.queues["fold"], work)

    def redis(self, work: Callable[[], Any]) -> Job:
        return Job(self.queues["redis"], work)

    def log(self, work: Callable[[], Any]) -> Job:
        return Job(self.queues["log"], work)

    def wait(self) -> None:
        for queue in self.queues.values():
            while queue:
                queue[0].run()

    def close(self) -> None:
        self.wait()


class Killed(BaseException):
    """The worker is no more."""


class MortalWriter(OnlineWriter):
    """Dies before it runs the `left`-th of its next command buffers."""

    left = -1

    def run(self, commands: Commands) -> list[Any]:
        if self.left == 0:
            raise Killed
        self.left -= 1
        return super().run(commands)


def _nothing() -> None: ...


class ModelWorker:
    """A real worker, one step at a time."""

    def __init__(self, repo: Path, broker: Broker, member: int, client: redis.Redis) -> None:
        self.member = member
        self.consumer = ModelConsumer(broker, member)
        self.writer = MortalWriter(client, "model")
        settings = Settings(log_flush_seconds=1e-9, write_seconds=1e-9)
        opened = worker_module.open_consumer
        worker_module.open_consumer = lambda *_: self.consumer
        try:
            self.worker = worker_module.Worker(repo, settings, self.writer)
        finally:
            worker_module.open_consumer = opened
        self.worker._jobs.close()
        self.worker.rounds._upkeep = float("inf")  # compaction is a program of its own
        self.jobs = ModelJobs()
        self.worker._jobs = self.jobs  # type: ignore[assignment]

    def turn(self, size: int, then: Callable[[], None] = _nothing) -> None:
        """One turn of the loop, whose poll gives at most `size` messages a partition.

        then: what happens between the poll and all else.
        """
        self.consumer.polls.append((size, then))
        with suppress(Paused):
            self.worker.run(until_end=False)

    def stop(self, size: int, then: Callable[[], None] = _nothing) -> None:
        """A last turn, in which it is asked to stop; it ends by itself."""

        def asked() -> None:
            then()
            self.worker.stopping = True

        self.consumer.polls.append((size, asked))
        self.worker.run(until_end=False)

    def work(self, kind: str) -> None:
        """The first waiting job of a thread."""
        queue = self.jobs.queues[kind]
        if queue:
            queue[0].run()

    def look_around(self) -> None:
        """What is else to be done once a second is done in the next turn."""
        self.worker.rounds._looked = float("-inf")

    @property
    def pending(self) -> bool:
        """Whether some view's state is not whole."""
        return bool(self.worker.takeover.pending)
