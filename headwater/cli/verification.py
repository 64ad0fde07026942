"""Runs of `headwater verify`: once over some times, or again and again, each from the last on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from headwater import catalog_cache
from headwater.catalog import Catalog
from headwater.errors import HeadwaterError, StoreUnavailableError
from headwater.offline.feature_log import FeatureLog
from headwater.offline.log_segments import first_us, folder_of, names
from headwater.offline.log_writer import left_over
from headwater.offline.verify import Report, counters, logs_of, utc, verify
from headwater.online import verified
from headwater.online.connect import Client, connect
from headwater.settings import Settings


@dataclass(frozen=True)
class Run:
    """What was found of the vectors served from `since_us` to `until_us` (None: no bound)."""

    report: Report
    since_us: int | None
    until_us: int | None
    seconds: float
    at: float

    def as_json(self) -> dict[str, Any]:
        def text(us: int | None) -> str | None:
            return None if us is None else utc(us)

        at = round(self.at * 1e6)
        return {
            "id": str(at), "at": utc(at), "seconds": round(self.seconds, 3),
            "since": text(self.since_us), "until": text(self.until_us), **self.report.as_json(),
        }  # fmt: skip


@dataclass(frozen=True)
class Verifier:
    """Verifies a project's feature logs: of one service, of the paths, or all of them."""

    repo: Path
    settings: Settings
    service: str = ""
    paths: Sequence[str] = ()
    skew: bool = False

    def run(
        self, since_us: int | None, until_us: int | None,
        progress: Callable[[int], None] = lambda vectors: None,
    ) -> Run:  # fmt: skip
        """Raises HeadwaterError where a log or a source cannot be read."""
        start = time.monotonic()
        catalog = self._catalog()
        logs = self._logs(catalog)
        for log in logs:
            left_over(folder_of(log.path))
        report = verify(catalog, logs, since_us, until_us, self.skew, progress)
        return Run(report, since_us, until_us, time.monotonic() - start, time.time())

    def note(self, run: Run) -> None:
        """Let the service show it, in its metrics and among the last reports.

        Raises StoreUnavailableError where Redis is down.
        """
        report = run.as_json() if run.report.vectors else None
        verified.add(self._redis(), self._project, counters(run.report), run.at, report)

    def again(self, every_seconds: float, console: Console) -> Iterator[Run]:
        """Each time what was served since the last time, up to a while ago; without end.

        The first time begins where the last process ended. What fails is tried again with the next.
        By when the next has to have ended is noted for the service to show, until `withdraw`.
        """
        # A vector's file, and its events' in the offline log, may come so late.
        behind = 2 * self.settings.feature_log_seconds + 5 * self.settings.log_flush_seconds
        since_us: int | None = None
        while True:
            try:
                began = time.monotonic()
                until_us = self._in_files(round((time.time() - behind) * 1e6))
                if since_us is None:
                    verified.promise(self._redis(), self._project, self._scope, every_seconds)
                    last = verified.reached(self._redis(), self._project, self._scope)
                    since_us = until_us - round(every_seconds * 1e6) if last is None else last + 1
                if since_us <= until_us:
                    run = self.run(since_us, until_us)
                    self.note(run)
                    # One that takes longer than the pause between two is slow, and not missing.
                    turn = every_seconds + time.monotonic() - began
                    verified.reach(self._redis(), self._project, self._scope, until_us, turn)
                    since_us = until_us + 1
                    yield run
            except HeadwaterError as error:
                console.print(f"[yellow]warning[/] not verified, is tried again: {error}")
            time.sleep(every_seconds)

    def withdraw(self) -> None:
        """Nobody waits for `again` any more. Raises StoreUnavailableError where Redis is down."""
        verified.withdraw(self._redis(), self._project, self._scope)

    def _logs(self, catalog: Catalog) -> list[FeatureLog]:
        return [FeatureLog(path) for path in self.paths] or logs_of(
            catalog, self.settings.feature_log, self.service
        )

    def _in_files(self, until_us: int) -> int:
        """The time, or an earlier one up to which all vectors are in files: on a machine that is
        busy, the service's writer may be behind."""
        for log in self._logs(self._catalog()):
            left_over(folder_of(log.path))
            for segment in names(folder_of(log.path)):
                until_us = min(until_us, first_us(segment))
        return until_us

    @property
    def _scope(self) -> str:
        """What it verifies: another process with the same goes on from where this one ended."""
        return "\n".join([self.service, *self.paths])

    @property
    def _project(self) -> str:
        return self._catalog().project

    def _catalog(self) -> Catalog:
        return catalog_cache.load(self.repo)

    def _redis(self) -> Client:
        url = self.settings.redis_url or self._catalog().redis_url
        return connect(url)


def noted(verifier: Verifier, run: Run, console: Console) -> None:
    """As `Verifier.note`; without Redis the metrics and the list of reports stay as they were."""
    try:
        verifier.note(run)
    except StoreUnavailableError as error:
        console.print(f"[yellow]warning[/] the metrics stay as they were: {error}")
