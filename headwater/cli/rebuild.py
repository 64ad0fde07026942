"""`rebuild`, the backfill of `apply`, and `compact`: work between the offline log and Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from headwater.catalog import Catalog
from headwater.cli import terminal
from headwater.cli.apply import Plan
from headwater.errors import (
    BadRequestError,
    HeadwaterError,
    RebuildBusyError,
    StoreUnavailableError,
)
from headwater.offline.materialize import materialize
from headwater.offline.upkeep import Upkeep, maintain
from headwater.online.connect import Client, connect
from headwater.online.job_status import COMPACT, running
from headwater.online.progress import Progress as StateProgress
from headwater.online.writer import OnlineWriter
from headwater.rebuild import Rebuilder, Report, Retired, events_behind, missing
from headwater.rebuild.gaps import Gap
from headwater.settings import Settings

#: How long to wait before asking again whether another rebuild has ended.
LOOK_SECONDS = 0.5


class Rebuilt(NamedTuple):
    """View -> events folded; view -> those of them left out, since its udf fails on them."""

    views: dict[str, int]
    left_out: dict[str, int]


def open_redis(catalog: Catalog, settings: Settings) -> Client:
    """A client for bulk work: its waits are ten times those of a request."""
    url = settings.redis_url or catalog.redis_url
    return connect(url, 10 * settings.redis_timeout_seconds)


def rebuild(
    catalog: Catalog, settings: Settings, views: Sequence[str] | None, behind: bool
) -> Rebuilt:
    """Rebuild views, or fill only what they lack.

    Raises RebuildBusyError where another rebuild runs; with `behind` it is waited for.
    """
    client = open_redis(catalog, settings)
    done: dict[str, int] = {}
    gaps = missing(catalog, StateProgress(client, catalog.project), views)
    totals = events_behind(catalog, gaps) if behind else {}
    with _bar(sum(totals.values()) or None) as report:

        def count(view: str, rows: int) -> None:
            done[view] = done.get(view, 0) + rows
            report(view, rows)

        job = Rebuilder(catalog, client, views, count, settings.state_cache_bytes)
        if behind:
            _when_free(job)
        else:
            job.run(reset=True)
    return Rebuilt(done, job.left_out)


def _when_free(job: Rebuilder) -> None:
    """Run when no other rebuild does; what that one did is not done again."""
    while True:
        try:
            job.run()
        except RebuildBusyError:
            time.sleep(LOOK_SECONDS)
        else:
            return


def needs_backfill(catalog: Catalog, settings: Settings) -> dict[str, int]:
    """Views that have nothing yet of what their logs or histories hold -> the events they lack.

    Where Redis does not answer, nothing is taken to be there.
    """
    try:
        client = open_redis(catalog, settings)
        gaps = missing(catalog, StateProgress(client, catalog.project))
    except StoreUnavailableError:
        gaps = missing(catalog, None)
    counts = events_behind(catalog, [gap for gap in gaps if is_unfilled(gap)])
    return {name: events for name, events in counts.items() if events}


def is_unfilled(gap: Gap) -> bool:
    """Whether a gap is more than what a worker has on its way: nothing is there."""
    return not gap.held or gap.is_history


def after_apply(plan: Plan, settings: Settings, fill: bool, console: Console, repo: Path) -> None:
    """What a new catalogue asks of Redis: old state noted, new views filled.

    The registry is written by now: where Redis does not answer, this says what remains to be done.
    """
    catalog = plan.catalog
    try:
        client = open_redis(catalog, settings)
        Retired(catalog, client).note(time.time())
        if plan.outdated:
            Rebuilder(catalog, client, plan.outdated).put_back()
        if fill:
            _backfill(catalog, settings, needs_backfill(catalog, settings), console)
            _load(catalog, client, plan.to_load, console)
    except StoreUnavailableError as error:
        console.print(
            f"The registry is written, but {error}. Until then nothing is served; "
            f"a running worker fills the views by itself, or run "
            f"`headwater rebuild --behind --repo {repo}`"
        )


def _backfill(
    catalog: Catalog, settings: Settings, needs: Mapping[str, int], console: Console
) -> None:
    """Fill views one by one, so that the first is servable while the others are filled."""
    progress = StateProgress(open_redis(catalog, settings), catalog.project)
    for view, events in needs.items():
        console.print(f"{view}: filling from {events:,} events of the offline log")
        start = time.monotonic()
        rebuild(catalog, settings, [view], behind=True)
        if not any(map(is_unfilled, missing(catalog, progress, [view]))):
            console.print(f"{view}: servable after {time.monotonic() - start:.1f} s")


def _load(
    catalog: Catalog, client: Client, changed: Sequence[str], console: Console
) -> None:  # fmt: skip
    """Load batch views that are new or changed, or of which Redis holds nothing, one by one."""
    writer = OnlineWriter(client, catalog.project)
    clocks = writer.clocks()
    for name, view in sorted(catalog.views.items()):
        loadable = (
            view.kind == "row" and view.batch and view.online and not (view.stream or view.push)
        )
        if not loadable or not (name in changed or ("online", name) not in clocks):
            continue
        start = time.monotonic()
        try:
            rows = materialize(catalog, writer, [name])[name]
        except (StoreUnavailableError, BadRequestError):
            raise
        except HeadwaterError as error:
            console.print(f"{name}: not loaded yet, {error}; then run `headwater materialize`")
        else:
            seconds = time.monotonic() - start
            console.print(f"{name}: {rows:,} entities loaded; servable after {seconds:.1f} s")


def compact(catalog: Catalog, settings: Settings) -> tuple[dict[str, Upkeep], int | None]:
    """Upkeep of every source's log; then of Redis: keys deleted that no view uses any more.

    None for these where Redis does not answer or a rebuild runs: the next one does it.
    """
    logs = {}
    for name, stream in sorted(catalog.streams.items()):
        with _recorded(catalog, settings, COMPACT, name):
            logs[name] = maintain(stream, settings.log_retention_hours, many=2)
    try:
        return logs, Retired(catalog, open_redis(catalog, settings)).delete(time.time())
    except (StoreUnavailableError, RebuildBusyError):
        return logs, None


@contextmanager
def _recorded(catalog: Catalog, settings: Settings, job: str, subject: str) -> Iterator[None]:
    """Note in Redis how the work inside goes, where Redis answers; the work does without."""
    try:
        writer = OnlineWriter(open_redis(catalog, settings), catalog.project)
    except StoreUnavailableError:
        yield
        return
    with running(writer, job, subject):
        yield


class _Rate(ProgressColumn):
    """Rows per second so far."""

    def render(self, task: Task) -> Text:
        rate = task.completed / task.elapsed if task.elapsed else 0
        return Text(f"{task.completed:,.0f} events, {rate:,.0f}/s")


@contextmanager
def _bar(total: int | None) -> Iterator[Report]:
    columns = (TextColumn("{task.description}"), BarColumn(), _Rate(), TimeElapsedColumn())
    with terminal.progress(*columns) as bar:
        task = bar.add_task("reading the log", total=total)
        yield lambda view, rows: bar.update(task, description=view, advance=rows)
