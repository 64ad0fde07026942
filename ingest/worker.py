"""The worker's one loop: poll, decode, judge, fold; and beside it write Redis, log, commit.

Each step may be repeated after a crash: Redis keeps the higher offset, the log knows the offsets
that it holds, and what decides about an event (the watermark) is saved with the committed offset.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Collection
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from headwater import catalog_cache
from headwater.errors import (
    FencedError,
    HeadwaterError,
    LogConflictError,
    RebuildBusyError,
    StoreUnavailableError,
)
from headwater.online.expiry import Sweeper
from headwater.online.progress import Place, Progress
from headwater.online.sinks import Batch
from headwater.online.writer import OnlineWriter
from headwater.rebuild.fill import Rebuilder
from headwater.rebuild.gaps import missing
from headwater.settings import Settings
from ingest.checkpoint import Checkpoint, Jobs, Outcome, Written
from ingest.chores import Chores
from ingest.clients import open_consumer, read_options
from ingest.judge import NO_TIME
from ingest.metrics import Metrics
from ingest.records import Committed, Consumer, DeadLetter, Original, Records, TopicPartition
from ingest.route import StreamRoute
from ingest.status import Status
from ingest.takeover import Takeover

logger = logging.getLogger("headwater.ingest")
#: How long the loop waits for messages before it looks at what else is to be done.
POLL_SECONDS = 0.05
#: Time for deleting expired state, each second.
SWEEP_SECONDS = 0.003
#: Pause after a store failed.
BACK_OFF_SECONDS = 0.5
#: Offsets that a rebuilt view may be behind to be brought up by the worker itself.
TAKEOVER_OFFSETS = 1_000_000
#: What fills larger gaps beside the worker.
REBUILD = ("rebuild", "--behind")
#: Time between two looks at the log's files and at the sources' histories.
UPKEEP_SECONDS = 120.0


class Saved(msgspec.Struct):
    """What is saved beside a committed offset."""

    watermark: int


class Worker:
    """Owns some partitions of the project's topics and takes their events in."""

    def __init__(self, repo: Path, settings: Settings, writer: OnlineWriter) -> None:
        self.repo, self.settings, self.writer = repo, settings, writer
        self.metrics = Metrics()
        self.stopping = False
        self._progress = Progress(writer.client, writer.project)
        self._takeover = Takeover(self._progress)
        self._positions: dict[TopicPartition, int] = {}
        self._watermarks: dict[TopicPartition, int] = {}
        self._dead: list[tuple[TopicPartition, DeadLetter]] = []
        self._jobs, self._chores = Jobs(), Chores(repo)
        self._written: Written | None = None
        self._checkpoint: Checkpoint | None = None
        self._clean = True
        self._behind = False
        self._rows = 0
        self._record_ms: list[int] = []
        self._wrote = self._saved = self._looked = time.monotonic()
        self._upkeep_at = time.monotonic() + UPKEEP_SECONDS
        self._load()
        self.status = Status(writer, self.metrics)
        config = settings.kafka_config
        self.consumer: Consumer = open_consumer(
            settings.kafka_client,
            self._servers,
            self._group,
            read_options(Path(config)) if config else {},
        )

    def _load(self) -> None:
        self._fingerprint = catalog_cache.fingerprint(self.repo)
        self.catalog = catalog = catalog_cache.load(self.repo)
        self._group = self.settings.group or f"headwater-{catalog.project}"
        routes: dict[str, list[StreamRoute]] = defaultdict(list)
        servers = {s.bootstrap_servers for s in catalog.streams.values()}
        for stream in catalog.streams.values():
            route = StreamRoute(catalog, stream, self.writer, self.settings, self.metrics)
            for topic in stream.topics:
                routes[topic].append(route)
        if not routes:
            raise HeadwaterError("the catalogue has no Kafka source; there is nothing to ingest")
        if len(servers) > 1 and not self.settings.kafka_bootstrap_servers:
            raise HeadwaterError(
                f"the Kafka sources name different brokers, {sorted(servers)}; one worker reads "
                "from one: set KAFKA_BOOTSTRAP_SERVERS"
            )
        self._servers = self.settings.kafka_bootstrap_servers or servers.pop()
        self._routes = dict(routes)
        self._sweeper = Sweeper(self.writer, catalog.views.values())

    @property
    def routes(self) -> list[StreamRoute]:
        """Every route once."""
        return list({id(r): r for routes in self._routes.values() for r in routes}.values())

    # -- the loop --------------------------------------------------------------------------------

    def run(self, until_end: bool) -> None:
        """Take events in until `stopping` is set, or the end that was seen at the start."""
        self.consumer.subscribe(sorted(self._routes))
        ends = self._ends() if until_end else {}
        self._fill_histories()
        while not self.stopping:
            try:
                if not self._clean:
                    self._start_over()
                self._turn()
                if until_end and self._reached(ends):
                    self.flush()
                    break
            except (FencedError, LogConflictError) as error:
                self._clean = False
                logger.warning("%s", error)
            except StoreUnavailableError as error:
                self._clean = False
                logger.warning("%s; reading again from the committed offsets", error)
                time.sleep(BACK_OFF_SECONDS)
        if self.stopping:
            self._last_flush()
        self._jobs.close()
        self._chores.close()
        self.consumer.close()

    def _last_flush(self) -> None:
        try:
            self.flush()
        except HeadwaterError as error:
            # Whoever takes the partitions over reads again what is not committed.
            logger.warning("stopping without a last commit: %s", error)

    def _turn(self) -> None:
        polled = self.consumer.poll(POLL_SECONDS, self.settings.batch_records)
        moved = self.consumer.moved()
        if moved.revoked:
            self._give_up(moved.revoked)
        for tp in sorted(moved.assigned):
            self._begin(tp)
        self._behind = False
        for records in polled:
            # A partition that came just now was read from another place than its position.
            if records.tp in self._positions and records.tp not in moved.assigned:
                self._take(records)
                self._behind |= records.next_offset < records.end_offset
        self._hand_over()
        if time.monotonic() - self._looked > 1.0:
            self._looked = time.monotonic()
            self._look_around()

    def _begin(self, tp: TopicPartition) -> None:
        """Take a partition over at its committed offset."""
        held = self.consumer.committed([tp])[tp]
        position = held.offset if held else self.consumer.beginnings([tp])[tp]
        places = {
            Place(sink.prefix, *tp): route.log_end(tp)
            for route in self._routes.get(tp.topic, ())
            for sink in route.sinks
        }
        self._takeover.begin(places, position)
        self.consumer.seek(tp, position)
        saved = held.metadata if held else ""
        self._watermarks[tp] = (
            msgspec.json.decode(saved, type=Saved).watermark if saved else NO_TIME
        )
        self._positions[tp] = position

    def _give_up(self, revoked: Collection[TopicPartition]) -> None:
        """Partitions are somebody else's: write what is pending (it is true), forget the rest."""
        self._write_now()
        if self._checkpoint is not None:
            self._checkpoint = self._checkpoint.without(revoked)
        for tp in revoked:
            self._positions.pop(tp, None)
            self._watermarks.pop(tp, None)
            self._takeover.end(tp)
            self.status.gave_up(tp)
            for route in self._routes.get(tp.topic, ()):
                route.forget(tp)
        self._dead = [(tp, letter) for tp, letter in self._dead if tp in self._positions]

    def _start_over(self) -> None:
        """Forget what is not committed; the events are read again."""
        self._jobs.wait()
        self._written = self._checkpoint = None
        self._dead.clear()
        self._positions.clear()
        self._rows = 0
        self._record_ms = []
        for route in self.routes:
            route.forget()
        for tp in sorted(self.consumer.assignment()):
            self._begin(tp)
        self._clean = True

    def _take(self, records: Records) -> None:
        tp, newest = records.tp, self._watermarks[records.tp]
        if len(records):
            now_us = time.time_ns() // 1000
            for route in self._routes[tp.topic]:
                taken = route.take(records, self._watermarks[tp])
                newest = max(newest, taken.watermark)
                for at, kind, reason in taken.rejected:
                    self._dead.append((tp, _dead_letter(records, at, kind, reason)))
                if taken.batch is not None:
                    self._fold(route, taken.batch, now_us)
                self.status.took(tp, taken)
            self._rows += len(records)
            self._record_ms += [int(records.timestamp_ms[0]), int(records.timestamp_ms[-1])]
        self._watermarks[tp] = newest
        self._positions[tp] = records.next_offset
        self.status.reached(records, newest)

    def _fold(self, route: StreamRoute, batch: Batch, now_us: int) -> None:
        tp = TopicPartition(batch.topic, batch.partition)
        with self.metrics.step("fold"):
            for sink in route.sinks:
                if self._takeover.live(sink.prefix, tp):
                    sink.apply(batch, now_us)

    # -- writing ---------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        """Give the threads what is due, and commit what they have done."""
        now = time.monotonic()
        if self._written is not None and self._written.done:
            self._collect()
        if self._checkpoint is not None and self._checkpoint.done:
            self._commit()
        full = self._rows >= self.settings.log_flush_rows
        if self._checkpoint is not None and self._rows >= 2 * self.settings.log_flush_rows:
            self._commit()  # waits: what is read may not outgrow what is written
        if self._checkpoint is None and (
            full or (self._rows and now - self._saved >= self.settings.log_flush_seconds)
        ):
            self._save()
        elif self._written is None and (
            not self._behind or now - self._wrote >= self.settings.write_seconds
        ):
            self._write()

    def _write(self) -> None:
        """Let the writing thread bring Redis up to the positions."""
        self._collect()
        self._wrote = time.monotonic()
        moves = self._takeover.moves(self._positions)
        commands = [c for route in self.routes for sink in route.sinks for c in sink.take()]
        if not commands and not moves:
            return
        clocks = {
            ("online", view.name): route.newest_us
            for route in self.routes
            for view in route.views
            if view.online and route.newest_us > NO_TIME
        }

        def job() -> Outcome:
            with self.metrics.step("redis"):
                for one in commands:
                    self.writer.run(one)
                self.writer.raise_clocks(clocks)
                return Outcome(self._progress.move(moves), time.time())

        record_ms, self._record_ms = self._record_ms, []
        self._written = Written(moves, record_ms, self._jobs.redis(job))

    def _collect(self) -> None:
        """Wait for the write under way, and take note of what it found."""
        written, self._written = self._written, None
        if written is not None:
            done = written.result()
            for record_ms in written.record_ms:
                self.metrics.servable_seconds.observe(max(0.0, done.at - record_ms / 1000))
            for place in self._takeover.moved(written.moves, done.differ):
                logger.warning(
                    "Redis has lost the state of view %s for %s-%d; it is rebuilt from the log",
                    self._view_of(place), place.topic, place.partition,
                )  # fmt: skip
                for route in self._routes.get(place.topic, ()):
                    for sink in route.sinks:
                        if sink.prefix == place.prefix:
                            sink.forget((place.topic, place.partition))

    def _view_of(self, place: Place) -> str:
        sinks = [sink for route in self.routes for sink in route.sinks]
        return next((s.view.name for s in sinks if s.prefix == place.prefix), "?")

    def _write_now(self) -> None:
        self._write()
        self._collect()

    def _save(self) -> None:
        """Begin a checkpoint: Redis and the log brought up to the positions, then a commit."""
        self._write()
        self._saved = time.monotonic()
        positions = {
            tp: Committed(at, msgspec.json.encode(Saved(self._watermarks[tp])).decode())
            for tp, at in self._positions.items()
        }
        jobs: list[Future[Any]] = [self._written.future] if self._written is not None else []
        appends = [route.appending(self._positions) for route in self.routes]
        clocks = {
            ("offline", view.name): route.newest_us
            for route in self.routes
            for view in route.views
            if route.newest_us > NO_TIME
        }

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
                self.consumer.commit(
                    checkpoint.positions, [letter for _, letter in checkpoint.dead]
                )
        self.status.committed(checkpoint.positions)
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
        partitions = [tp for topic in self._routes for tp in self.consumer.partitions(topic)]
        return self.consumer.ends(partitions) if partitions else {}

    def _reached(self, ends: dict[TopicPartition, int]) -> bool:
        """Whether this worker, or for other partitions another one, has got to the ends."""
        if any(self._positions.get(tp, end) < end for tp, end in ends.items()):
            return False
        others = [tp for tp in ends if tp not in self._positions]
        if not others:
            return True
        begins, committed = self.consumer.beginnings(others), self.consumer.committed(others)
        return all(
            ends[tp] <= begins[tp] or ((at := committed[tp]) is not None and at.offset >= ends[tp])
            for tp in others
        )

    # -- once a second -----------------------------------------------------------------------------

    def _look_around(self) -> None:
        self.status.jumped(self.consumer.jumps)
        self.status.publish(self.routes)
        self._bring_up()
        self._trim()
        self._sweep()
        if time.monotonic() >= self._upkeep_at:
            self._upkeep_at = time.monotonic() + UPKEEP_SECONDS
            self._fill_histories()
            if self.settings.log == "on":
                self._chores.start("compact")
        try:
            changed = catalog_cache.fingerprint(self.repo) != self._fingerprint
        except (HeadwaterError, OSError) as error:
            logger.warning("the catalogue stays as it was: %s", error)
            return
        if changed:
            self._reload()

    def _reload(self) -> None:
        """Use a new catalogue from the positions on."""
        self.flush()
        try:
            self._load()
        except (HeadwaterError, OSError) as error:
            logger.warning("the catalogue stays as it was: %s", error)
            return
        self.consumer.subscribe(sorted(self._routes))
        self._clean = False
        self._fill_histories()
        logger.info("catalogue %s is in use", self.catalog.version)

    def _trim(self) -> None:
        limit = self.settings.state_cache_bytes
        if any(sink.held()[1] > limit for route in self.routes for sink in route.sinks):
            self._write_now()
            for route in self.routes:
                for sink in route.sinks:
                    sink.trim(limit)

    def _sweep(self) -> None:
        """Delete expired state for a few milliseconds."""
        until = time.monotonic() + SWEEP_SECONDS
        while time.monotonic() < until:
            self._sweeper.step(time.time_ns() // 1000)

    def _fill_histories(self) -> None:
        """Have histories folded that are not, or up to another beginning of the log."""
        if any(route.stream.history is not None for route in self.routes):
            gaps = missing(self.catalog, self._progress)
            if any(gap.is_history for gap in gaps):
                self._chores.start(*REBUILD)

    def _bring_up(self) -> None:
        """Take over the pending views that were rebuilt so far that little is missing."""
        if not self._takeover.pending or self._chores.running(REBUILD[0]):
            return
        self.flush()
        gaps = self._gaps()
        if max(gaps.values()) > TAKEOVER_OFFSETS:
            self._chores.start(*REBUILD)
            return
        views = {self._view_of(place) for place, gap in gaps.items() if gap > 0}
        try:
            if views:
                Rebuilder(self.catalog, self.writer.client, sorted(views)).run()
        except RebuildBusyError:
            return  # another process is at it; look again in a second
        held = self._takeover.held()
        for place, gap in self._gaps().items():
            if gap <= 0:
                self._takeover.take(place, held.get(place))
                logger.info(
                    "view %s is whole for %s-%d",
                    self._view_of(place), place.topic, place.partition,
                )  # fmt: skip

    def _gaps(self) -> dict[Place, int]:
        """Of each pending view, the offsets that the log holds and its state lacks."""
        held = self._takeover.held()
        ends = {
            Place(sink.prefix, *tp): min(at, route.log_end(tp))
            for tp, at in self._positions.items()
            for route in self._routes.get(tp.topic, ())
            for sink in route.sinks
        }
        return {place: ends[place] - held.get(place, 0) for place in self._takeover.pending}


def _dead_letter(records: Records, at: int, kind: str, reason: str) -> DeadLetter:
    original = records.original(at)
    own = {
        "headwater-reason": f"{kind}: {reason}",
        "headwater-topic": records.tp.topic,
        "headwater-partition": str(records.tp.partition),
        "headwater-offset": str(records.offset[at]),
    }
    headers = [
        *[(name, value) for name, value in original.headers if name not in own],
        *[(name, text.encode()) for name, text in own.items()],
    ]
    topic = f"{records.tp.topic}.dead-letter"
    return DeadLetter(topic, Original(original.key, original.value, headers))
