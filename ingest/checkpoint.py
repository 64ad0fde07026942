"""What runs beside the loop: one thread folds, one writes Redis, one appends to the log."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from headwater.online.progress import Place
from ingest.records import Committed, DeadLetter, TopicPartition

T = TypeVar("T")


class Jobs:
    """The threads; the jobs of each are done in turn."""

    def __init__(self) -> None:
        self._fold = ThreadPoolExecutor(1, "fold")
        self._redis = ThreadPoolExecutor(1, "redis")
        self._log = ThreadPoolExecutor(1, "log")
        self._open: set[Future[Any]] = set()

    def fold(self, job: Callable[[], T]) -> Future[T]:
        return self._submit(self._fold, job)

    def redis(self, job: Callable[[], T]) -> Future[T]:
        return self._submit(self._redis, job)

    def log(self, job: Callable[[], T]) -> Future[T]:
        return self._submit(self._log, job)

    def _submit(self, thread: ThreadPoolExecutor, job: Callable[[], T]) -> Future[T]:
        future = thread.submit(job)
        self._open = {one for one in self._open if not one.done()} | {future}
        return future

    def wait(self) -> None:
        """Wait for every job, whatever comes of it."""
        wait(self._open)

    def close(self) -> None:
        self._fold.shutdown()
        self._redis.shutdown()
        self._log.shutdown()


class Outcome(NamedTuple):
    """differ: places whose progress was not what it was believed to be. at: when it ended."""

    differ: dict[Place, int | None]
    at: float


@dataclass(frozen=True)
class Written:
    """A write to Redis under way: the moves of progress that end it, and what it brings.

    record_ms: when Kafka got the oldest and the newest record of each batch in it.
    """

    moves: dict[Place, tuple[int | None, int | None]]
    record_ms: Sequence[int]
    future: Future[Outcome]

    @property
    def done(self) -> bool:
        return self.future.done()

    def result(self) -> Outcome:
        """Waits; raises what the write raised."""
        return self.future.result()


@dataclass(frozen=True)
class Checkpoint:
    """Positions that may be committed, with the dead letters before them, once `jobs` are done."""

    positions: Mapping[TopicPartition, Committed]
    dead: Sequence[tuple[TopicPartition, DeadLetter]]
    jobs: Sequence[Future[Any]]

    def without(self, gone: Collection[TopicPartition]) -> Checkpoint:
        """The rest, when partitions are somebody else's: they commit them, and bury their dead.

        That holds also when a partition has come back since: it begins at its commit again.
        """
        return Checkpoint(
            {tp: at for tp, at in self.positions.items() if tp not in gone},
            [(tp, letter) for tp, letter in self.dead if tp not in gone],
            self.jobs,
        )

    @property
    def done(self) -> bool:
        return all(job.done() for job in self.jobs)

    def wait(self) -> None:
        """Waits; raises what the first job that failed raised."""
        for job in self.jobs:
            job.result()
