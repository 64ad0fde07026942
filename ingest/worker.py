"""The worker's one loop: poll, decode, judge, fold; and beside it write Redis, log, commit.

Each step may be repeated after a crash: Redis keeps the higher offset, the log knows the offsets
that it holds, and what decides about an event (the watermark) is saved with the committed offset.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from headwater import catalog_cache
from headwater.errors import (
    FencedError,
    HeadwaterError,
    LogConflictError,
    StateLostError,
    StoreUnavailableError,
)
from headwater.online.progress import Progress
from headwater.online.sinks import Batch
from headwater.online.writer import OnlineWriter
from headwater.settings import Settings
from headwater.times import NO_TIME
from ingest.checkpoint import Checkpoint, Jobs, Outcome, Written
from ingest.clients import open_consumer, read_options
from ingest.letters import bury, dead_letter, replayed_for
from ingest.metrics import Metrics
from ingest.records import Committed, Consumer, DeadLetter, Records, TopicPartition
from ingest.rounds import Rounds
from ingest.route import StreamRoute
from ingest.routes import Routes
from ingest.status import Status
from ingest.takeover import Takeover

logger = logging.getLogger("headwater.ingest")
#: How long the loop waits for messages before it looks at what else is to be done.
POLL_SECONDS = 0.05
#: Pause after a store failed.
BACK_OFF_SECONDS = 0.5
#: Time between two polls of a worker that has caught up: smaller batches cost more than they save.
GATHER_SECONDS = 0.005
#: Batches of fewer events are folded on the spot, for a thread would cost more than it saves.
FOLD_ASIDE = 2_000
#: More messages wait, and even what was just read is older than this: the worker is behind.
BEHIND_SECONDS = 0.25
#: Batches that may wait to be folded while the next are read and decoded.
FOLDS_AHEAD = 4
#: While the worker is behind, a write may wait for this part of the events' age, ...
PATIENCE = 0.2
#: ... but at most this many times as long as the settings say.
MOST_PATIENCE = 5.0


class Saved(msgspec.Struct):
    """What is saved beside a committed offset: the watermark of each source, microseconds; and what
    became of all messages before it, counted once whatever dies."""

    watermarks: dict[str, int] = {}
    counts: dict[str, int] = {}


class Worker:
    """Owns some partitions of the project's topics and takes their events in."""

    def __init__(self, repo: Path, settings: Settings, writer: OnlineWriter) -> None:
        self.repo, self.settings, self.writer = repo, settings, writer
        self.metrics = Metrics()
        self.stopping = False
        self.progress = Progress(writer.client, writer.project)
        self.takeover = Takeover(self.progress)
        self.status = Status(writer, self.metrics)
        #: Of each partition that this worker owns, the next offset to take in.
        self.positions: dict[TopicPartition, int] = {}
        #: Of each partition the watermark that each source has seen in it.
        self._watermarks: dict[TopicPartition, dict[str, int]] = {}
        #: Of each partition what became of the messages before its position.
        self._counts: dict[TopicPartition, Counter[str]] = {}
        #: Of each partition, when Kafka got its newest record, ms.
        self._clocks: dict[TopicPartition, int] = {}
        self._dead: list[tuple[TopicPartition, DeadLetter]] = []
        self._jobs = Jobs()
        self._folds: deque[Future[None]] = deque()
        self._written: Written | None = None
        self._checkpoint: Checkpoint | None = None
        self._clean = True
        self._subscribed = False
        self._behind = False
        #: Whether it was behind since memory was last given back.
        self.was_behind = False
        self._rows = 0
        self._record_ms: list[int] = []
        #: Of what was taken in since the last write, the age of the youngest record.
        self._age_seconds = math.inf
        self._wrote = self._saved = self._polled = time.monotonic()
        self.load()
        config = settings.kafka_config
        self.consumer: Consumer = open_consumer(
            settings.kafka_client,
            self.routes.servers,
            settings.group or f"headwater-{self.catalog.project}",
            read_options(Path(config)) if config else {},
        )
        self.rounds = Rounds(self)

    def load(self) -> None:
        """Use the catalogue as it is now. Raises HeadwaterError, and changes nothing, where it is
        no good.
        """
        fingerprint, catalog = catalog_cache.fingerprint(self.repo), catalog_cache.load(self.repo)
        self.routes = Routes(catalog, self.writer, self.settings, self.metrics)
        self.catalog, self.fingerprint = catalog, fingerprint
        self.metrics.declare(catalog)

    @property
    def caught_up(self) -> bool:
        """Whether it was behind since memory was last given back, and is no longer."""
        return self.was_behind and not self._behind

    def resubscribe(self) -> None:
        """Go by the catalogue that was loaded, from the committed offsets on."""
        self._subscribed = False
        self.restart()

    def restart(self) -> None:
        """Begin again at the committed offsets, with what Redis holds."""
        self._clean = False

    def look_for_losses(self) -> None:
        """Raises StateLostError where Redis no longer holds what this worker builds on."""
        if self.positions:
            _refuse_loss(self.takeover.basis().stands())

    # -- the loop --------------------------------------------------------------------------------

    def run(self, until_end: bool) -> None:
        """Take events in until `stopping` is set, or the end that was seen at the start."""
        ends: dict[TopicPartition, int] | None = None
        while not self.stopping:
            try:
                if not self._subscribed:
                    self.consumer.subscribe(self.routes.topics)
                    self._subscribed = True
                if until_end and ends is None:
                    ends = self._ends()
                if not self._clean:
                    self._start_over()
                self._turn()
                self.rounds.go()
                if ends is not None and self._reached(ends):
                    self.flush()
                    break
            except (FencedError, LogConflictError, StateLostError) as error:
                self._clean = False
                logger.warning("%s", error)
            except StoreUnavailableError as error:
                self._clean = False
                self.metrics.store_errors.labels("redis", "write", "unavailable").inc()
                logger.warning("%s; reading again from the committed offsets", error)
                time.sleep(BACK_OFF_SECONDS)
        if self.stopping:
            self._last_flush()
        self._jobs.wait()
        self.rounds.last()
        self._jobs.close()
        self.rounds.close()
        self.consumer.close()

    def _last_flush(self) -> None:
        """Commit what was taken in; after a failure nothing.

        What failed is gone from memory, dead letters among it, and a commit would pass it by: it is
        read again from the committed offsets.
        """
        if not self._clean:
            logger.warning("stopping without a last commit, for something failed just now")
            return
        try:
            self.flush()
        except HeadwaterError as error:
            # Whoever takes the partitions over reads again what is not committed.
            logger.warning("stopping without a last commit: %s", error)

    def _turn(self) -> None:
        if not self._behind:
            time.sleep(max(0.0, self._polled + GATHER_SECONDS - time.monotonic()))
        self._polled = time.monotonic()
        polled = self.consumer.poll(POLL_SECONDS, self.settings.batch_records)
        moved = self.consumer.moved()
        if moved.revoked:
            self._give_up(moved.revoked)
        for tp in sorted(moved.assigned):
            self._begin(tp)
        self._behind = False
        for records in polled:
            # A partition that came just now was read from another place than its position.
            if records.tp in self.positions and records.tp not in moved.assigned:
                self._take(records)
                self._behind |= _is_behind(records)
        self.was_behind |= self._behind
        self._hand_over()

    def _begin(self, tp: TopicPartition) -> None:
        """Take a partition over at its committed offset."""
        held = self.consumer.committed([tp])[tp]
        position = held.offset if held else self.consumer.beginnings([tp])[tp]
        self.takeover.begin(self.routes.log_ends(tp), position)
        self.consumer.seek(tp, position)
        saved = held.metadata if held else ""
        found = _read(saved)
        self._watermarks[tp], self._counts[tp] = found.watermarks, Counter(found.counts)
        self.positions[tp] = position
        committed = held.offset if held else None
        self.status.began(tp, position, committed, _newest(found.watermarks), found.counts)

    def _give_up(self, revoked: Collection[TopicPartition]) -> None:
        """Partitions are somebody else's: write what is pending (it is true), forget the rest."""
        self.write_now()
        if self._checkpoint is not None:
            self._checkpoint = self._checkpoint.without(revoked)
        for tp in revoked:
            self.positions.pop(tp, None)
            self._watermarks.pop(tp, None)
            self._counts.pop(tp, None)
            self.takeover.end(tp)
            self.status.gave_up(tp)
            self.routes.forget(tp)
        self._dead = [(tp, letter) for tp, letter in self._dead if tp in self.positions]

    def _start_over(self) -> None:
        """Forget what is not committed; the events are read again."""
        self._jobs.wait()
        self._folds.clear()
        self._written = self._checkpoint = None
        self._dead.clear()
        self.positions.clear()
        self._rows = 0
        self._record_ms = []
        self.routes.forget()
        self.takeover.clear()
        for tp in sorted(self.consumer.assignment()):
            self._begin(tp)
        self._clean = True

    def _take(self, records: Records) -> None:
        tp, watermarks = records.tp, self._watermarks[records.tp]
        if len(records):
            now_us = self._now_us(records)
            routes = self.routes.of(tp)
            replayed = replayed_for(records) if len(routes) > 1 else {}
            for route in routes:
                source = route.stream.name
                others = [at for at, meant in replayed.items() if meant != source]
                taken = route.take(records, watermarks.get(source, NO_TIME), others)
                watermarks[source] = taken.watermark
                for at, kind, reason in taken.rejected:
                    self._dead.append((tp, dead_letter(records, at, source, kind, reason)))
                if taken.batch is not None:
                    self._fold(route, taken.batch, now_us)
                    self._counts[tp]["applied"] += len(taken.batch.offsets)
                self._counts[tp]["rejected"] += len(taken.rejected)
                self.status.took(records, taken, route)
            self._rows += len(records)
            first_ms, last_ms = int(records.timestamp_ms[0]), int(records.timestamp_ms[-1])
            self._record_ms += [first_ms, last_ms]
            self._age_seconds = min(self._age_seconds, time.time() - last_ms / 1000)
        self.positions[tp] = records.next_offset
        self.status.reached(records, _newest(watermarks))

    def _now_us(self, records: Records) -> int:
        """The time up to which events may be folded into tiles: no reader's clock is behind it.

        A clock of this machine that is ahead must not show events before their time, so Kafka's
        has a say as well.
        """
        newest = int(records.timestamp_ms.max())
        if newest >= 0:
            self._clocks[records.tp] = max(newest, self._clocks.get(records.tp, 0))
        clock_us = time.time_ns() // 1000
        return min(clock_us, self._clocks.get(records.tp, clock_us // 1000) * 1000 + 999)

    def _fold(self, route: StreamRoute, batch: Batch, now_us: int) -> None:
        """Have a batch folded beside the loop: the kernels leave Python to the next decoding."""
        tp = TopicPartition(batch.topic, batch.partition)
        sinks = [sink for sink in route.sinks if self.takeover.live(sink.prefix, tp)]

        def job() -> None:
            with self.metrics.step("fold"):
                for sink in sinks:
                    sink.apply(batch, now_us)

        if len(batch.ts) < FOLD_ASIDE:
            self.folded()
            job()
        else:
            self._folds.append(self._jobs.fold(job))
            self.folded(ahead=FOLDS_AHEAD)

    def folded(self, ahead: int = 0) -> None:
        """Wait until at most `ahead` batches have yet to be folded; raises what a fold raised."""
        while len(self._folds) > ahead:
            self._folds.popleft().result()

    # -- writing ---------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        """Give the threads what is due, and commit what they have done."""
        now = time.monotonic()
        if self._written is not None and self._written.done:
            self._collect()
        if self._checkpoint is not None and self._checkpoint.done:
            self._commit()
        full, patience = self._rows >= self.settings.log_flush_rows, self._patience()
        if self._checkpoint is not None and self._rows >= 2 * self.settings.log_flush_rows:
            self._commit()  # waits: what is read may not outgrow what is written
        if self._checkpoint is None and (
            full or (self._rows and now - self._saved >= patience * self.settings.log_flush_seconds)
        ):
            self._save()
        elif self._written is None and (
            not self._behind or now - self._wrote >= patience * self.settings.write_seconds
        ):
            self._write()

    def _patience(self) -> float:
        """How many times longer than usual a write may wait.

        Events that are a minute late lose nothing by some seconds, and what comes of an entity
        between two writes is written once. Any recent record among them keeps the usual pace.
        """
        if not self._behind:
            return 1.0
        return min(max(1.0, PATIENCE * self._age_seconds), MOST_PATIENCE)

    def _write(self) -> None:
        """Let the writing thread bring Redis up to the positions."""
        self.folded()
        self._collect()
        self._wrote, self._age_seconds = time.monotonic(), math.inf
        moves = self.takeover.moves(self.positions)
        commands = self.routes.take()
        if not commands and not moves:
            return
        clocks = self.routes.clocks("online")

        basis = self.takeover.basis()

        def job() -> Outcome:
            with self.metrics.step("redis"):
                _refuse_loss(basis.stands())
                for one in commands:
                    self.writer.run(one)
                self.writer.raise_clocks(clocks)
                return Outcome(self.progress.move(moves), time.time())

        record_ms, self._record_ms = self._record_ms, []
        self._written = Written(moves, record_ms, self._jobs.redis(job))

    def _collect(self) -> None:
        """Wait for the write under way, and take note of what it found."""
        written, self._written = self._written, None
        if written is not None:
            done = written.result()
            for record_ms in written.record_ms:
                self.metrics.servable_seconds.observe(max(0.0, done.at - record_ms / 1000))
            _refuse_loss(self.takeover.moved(written.moves, done.differ))

    def write_now(self) -> None:
        """Bring Redis up to the positions, and wait for it."""
        self._write()
        self._collect()

    def _save(self) -> None:
        """Begin a checkpoint: Redis and the log brought up to the positions, then a commit."""
        self._write()
        self._saved = time.monotonic()
        positions = {
            tp: Committed(at, _saved(self._watermarks[tp], self._counts[tp]))
            for tp, at in self.positions.items()
        }
        jobs: list[Future[Any]] = [self._written.future] if self._written is not None else []
        appends = [route.appending(self.positions) for route in self.routes]
        clocks = self.routes.clocks("offline")

        def append() -> None:
            with self.metrics.step("log"):
                for one in appends:
                    one()
                self.writer.raise_clocks(clocks)

        jobs.append(self._jobs.log(append))
        self._checkpoint = Checkpoint(positions, self._dead, jobs)
        self._dead = []
        self._rows = 0

    def _commit(self) -> None:
        """Wait for the checkpoint under way, and commit it."""
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is None:
            return
        checkpoint.wait()
        self._collect()
        with self.metrics.step("commit"):
            if checkpoint.positions:
                dead = [letter for _, letter in checkpoint.dead]
                self.status.buried(bury(self.consumer, checkpoint.positions, dead))
        self.status.committed(
            {tp: (at.offset, _read(at.metadata).counts) for tp, at in checkpoint.positions.items()}
        )
        for route in self.routes:
            self.status.show(route, self._watermarks)

    def flush(self) -> None:
        """Write, log and commit everything that was taken in."""
        self._commit()
        self._save()
        self._commit()

    # -- ends ------------------------------------------------------------------------------------

    def _ends(self) -> dict[TopicPartition, int]:
        """The end offset of every partition of the project's topics."""
        partitions = [tp for topic in self.routes.topics for tp in self.consumer.partitions(topic)]
        return self.consumer.ends(partitions) if partitions else {}

    def _reached(self, ends: dict[TopicPartition, int]) -> bool:
        """Whether this worker, or for other partitions another one, has got to the ends."""
        if any(self.positions.get(tp, end) < end for tp, end in ends.items()):
            return False
        if self.takeover.pending:
            return False  # what Redis lost, or a new view lacks, has yet to come from the log
        others = [tp for tp in ends if tp not in self.positions]
        if not others:
            return True
        begins, committed = self.consumer.beginnings(others), self.consumer.committed(others)
        return all(
            ends[tp] <= begins[tp] or ((at := committed[tp]) is not None and at.offset >= ends[tp])
            for tp in others
        )


def _newest(watermarks: Mapping[str, int]) -> int:
    """The watermark of a partition, of whichever source saw most."""
    return max(watermarks.values(), default=NO_TIME)


def _saved(watermarks: dict[str, int], counts: Mapping[str, int]) -> str:
    return msgspec.json.encode(Saved(watermarks, dict(counts))).decode()


def _read(saved: str) -> Saved:
    """Anything may follow it: librdkafka copies its bytes, and its binding reads on to a zero."""
    return msgspec.convert(json.JSONDecoder().raw_decode(saved)[0], Saved) if saved else Saved()


def _is_behind(records: Records) -> bool:
    if records.next_offset >= records.end_offset or not len(records):
        return False
    return time.time() - int(records.timestamp_ms[-1]) / 1000 > BEHIND_SECONDS


def _refuse_loss(sound: bool) -> None:
    if not sound:
        raise StateLostError(
            "Redis has lost state, or it is being rebuilt; starting again from what it holds"
        )
