"""What a worker looks after once a second, beside its events."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING

from headwater import catalog_cache
from headwater.errors import HeadwaterError, RebuildBusyError, StoreUnavailableError
from headwater.online.expiry import Sweeper
from headwater.online.progress import Place
from headwater.rebuild import Rebuilder, missing
from ingest import memory
from ingest.chores import Chores

if TYPE_CHECKING:
    from ingest.worker import Worker

logger = logging.getLogger("headwater.ingest")
#: Time for deleting expired state, each second.
SWEEP_SECONDS = 0.003
#: Offsets that a rebuilt view may be behind to be brought up by the worker itself.
TAKEOVER_OFFSETS = 1_000_000
#: The command that fills larger gaps beside the worker.
REBUILD = ("rebuild", "--behind")
#: Time between two looks at the log's files and at the sources' histories.
UPKEEP_SECONDS = 120.0
#: Least time between two times that memory is given back.
GIVE_BACK_SECONDS = 60.0


class Rounds:
    """Status, views that lack state, memory, expiry, the log's upkeep, a new catalogue."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._chores = Chores(worker.repo)
        self._looked = time.monotonic()
        self._upkeep = time.monotonic() + UPKEEP_SECONDS
        self._gave_back = float("-inf")
        self.begin()

    def begin(self) -> None:
        """A catalogue came into use."""
        worker = self._worker
        self._sweeper = Sweeper(worker.writer, worker.catalog.views.values())
        self.fill_histories()

    def last(self) -> None:
        """Say where the worker ended, and that it did."""
        with contextlib.suppress(StoreUnavailableError):
            self._worker.status.stopped(self._worker.routes)

    def close(self) -> None:
        self._chores.close()

    def go(self) -> None:
        """Once a second, between two batches."""
        now, worker = time.monotonic(), self._worker
        if now - self._looked < 1.0:
            return
        self._looked = now
        worker.folded()
        worker.status.jumped(worker.consumer.jumps)
        worker.status.publish(worker.routes)
        worker.look_for_losses()
        self._bring_up()
        self._trim()
        self._sweep()
        if now >= self._upkeep:
            self._upkeep = now + UPKEEP_SECONDS
            self.fill_histories()
            if worker.settings.log == "on":
                self._chores.start("compact")
        if worker.caught_up and now - self._gave_back >= GIVE_BACK_SECONDS:
            self._gave_back, worker.was_behind = now, False
            memory.give_back()
        self._look_at_catalog()

    def _look_at_catalog(self) -> None:
        worker = self._worker
        try:
            changed = catalog_cache.fingerprint(worker.repo) != worker.fingerprint
        except (HeadwaterError, OSError) as error:
            logger.warning("the catalogue stays as it was: %s", error)
            return
        if changed:
            worker.flush()
            try:
                worker.load()
            except (HeadwaterError, OSError) as error:
                logger.warning("the catalogue stays as it was: %s", error)
                return
            self.begin()
            worker.resubscribe()
            logger.info("catalogue %s is in use", worker.catalog.version)

    def fill_histories(self) -> None:
        """Have histories folded that are not, or up to another beginning of the log."""
        worker = self._worker
        if all(route.stream.history is None for route in worker.routes):
            return
        try:
            if any(gap.is_history for gap in missing(worker.catalog, worker.progress)):
                self._chores.start(*REBUILD)
        except HeadwaterError as error:
            logger.warning("it is not known whether the histories are whole: %s", error)

    def _trim(self) -> None:
        limit = self._worker.settings.state_cache_bytes
        if any(sink.held()[1] > limit for sink in self._worker.routes.sinks):
            self._worker.write_now()
            for sink in self._worker.routes.sinks:
                sink.trim(limit)

    def _sweep(self) -> None:
        """Delete expired state for a few milliseconds."""
        now_us, until = self._worker.writer.now_us(), time.monotonic() + SWEEP_SECONDS
        while time.monotonic() < until:
            self._sweeper.step(now_us)

    # -- views that lack state ---------------------------------------------------------------------

    def _bring_up(self) -> None:
        """Take over the pending views that were rebuilt so far that little is missing."""
        worker = self._worker
        if not worker.takeover.pending or self._chores.running(REBUILD[0]):
            return
        worker.flush()
        gaps = self._gaps()
        if max(gaps.values(), default=0) > TAKEOVER_OFFSETS:
            self._chores.start(*REBUILD)
            return
        views = sorted({worker.routes.view(place) for place, gap in gaps.items() if gap > 0})
        try:
            if views:
                Rebuilder(worker.catalog, worker.writer.client, views).run()
        except RebuildBusyError:
            return  # another process is at it; look again in a second
        except StoreUnavailableError:
            raise
        except HeadwaterError as error:
            # The other views go on; this is tried again in a second.
            logger.warning(
                "views stay without their state: %s; %s", ", ".join(sorted(views)), error
            )
            return
        logger.info("views are whole again: %s", ", ".join(views) or "as they were")
        worker.restart()

    def _gaps(self) -> dict[Place, int]:
        """Of each pending view, the offsets that the log holds and its state lacks."""
        worker = self._worker
        held = worker.takeover.held()
        ends: dict[Place, int] = {}
        for tp, position in worker.positions.items():
            found = worker.routes.log_ends(tp)
            ends.update({place: min(position, end) for place, end in found.items()})
        return {place: ends[place] - held.get(place, 0) for place in worker.takeover.pending}
