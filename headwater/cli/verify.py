"""`headwater verify`: what was served against what the offline log says, feature by feature."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from headwater import catalog_cache
from headwater.errors import HeadwaterError, StoreUnavailableError
from headwater.settings import Settings

Repo = Annotated[Path, typer.Option(help="Feast project: the folder with feature_store.yaml")]


def verify(
    service: Annotated[str, typer.Option(help="only this feature service's log")] = "",
    log: Annotated[
        list[str] | None, typer.Option(help="a feature log's folder or URI, in place of all")
    ] = None,
    since: Annotated[str, typer.Option(help="served at or after this time (ISO 8601, UTC)")] = "",
    until: Annotated[str, typer.Option(help="served at or before this time")] = "",
    skew: Annotated[
        bool, typer.Option("--skew", help="also against a training set by event time")
    ] = False,
    repo: Repo = Path("feature_repo"),
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Compute logged vectors again from the offline log and compare; exit code 1 if any differs."""
    from headwater.offline.feature_log import FeatureLog
    from headwater.offline.verify import logs_of
    from headwater.offline.verify import verify as run

    settings = Settings.from_env(os.environ)
    catalog = catalog_cache.load(repo.resolve())
    logs = [FeatureLog(path) for path in log or ()] or logs_of(
        catalog, settings.feature_log, service
    )
    start = time.monotonic()
    columns = (TextColumn("vectors"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("vectors", total=None)
        report = run(
            catalog, logs, micros(since), micros(until), skew, lambda n: bar.advance(task, n)
        )
    seconds = time.monotonic() - start
    if not report.vectors:
        raise HeadwaterError("the feature log has no vectors of that time; nothing was verified")
    _note(catalog, settings, report)
    if as_json:
        typer.echo(json.dumps({**report.as_json(), "seconds": round(seconds, 3)}, default=str))
    else:
        _show(report, seconds)
        if skew:
            _show_skew(report)
    if report.different:
        raise typer.Exit(1)


def micros(text: str) -> int | None:
    """A time as a user writes it, in microseconds; None for none. Raises HeadwaterError."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise HeadwaterError(f"{text!r} is no time: give ISO 8601, 2026-01-05T12:00") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1e6)


def _note(catalog: Any, settings: Settings, report: Any) -> None:
    """Add what was found to the metrics that the service shows; without Redis they stay."""
    from headwater.offline.verify import counters
    from headwater.online import verified
    from headwater.online.connect import connect

    try:
        client = connect(settings.redis_url or catalog.redis_url)
        verified.add(client, catalog.project, counters(report), time.time())
    except StoreUnavailableError as error:
        Console(stderr=True).print(f"[yellow]warning[/] the metrics stay as they were: {error}")


def _show(report: Any, seconds: float) -> None:
    console = Console(highlight=False)
    table = Table("view", "feature", "compared", "equal", "different", "not comparable")
    for one in report.features.values():
        why = ", ".join(f"{n:,} {why}" for why, n in one.not_comparable.most_common())
        causes = ", ".join(f"{n:,} {cause}" for cause, n in one.causes.most_common())
        table.add_row(
            one.view, one.feature, f"{one.compared:,}", f"{one.equal:,}",
            f"[red]{one.different:,}[/] ({causes})" if one.different else "0", why or "0",
        )  # fmt: skip
    console.print(table)
    for one in report.features.values():
        for example in one.examples:
            console.print(
                f"{one.view}:{one.feature} of {example['entity']} at {example['at']}: served "
                f"{example['served']} ({example['served_status']}), recomputed "
                f"{example['recomputed']} ({example['recomputed_status']}): {example['cause']}"
            )
    verdict = f"[red]{report.different:,} differ[/]" if report.different else "none differs"
    console.print(
        f"{report.vectors:,} vectors, {report.compared:,} values compared in {seconds:.1f} s: "
        f"{verdict}; {report.not_comparable:,} cannot be compared"
    )


def _show_skew(report: Any) -> None:
    table = Table(
        "view", "feature", "served", "not final", "mean difference", "largest", "because of",
        title="Skew: served values against a training set by event time",
    )  # fmt: skip
    for (view, feature), one in report.skew.items():
        table.add_row(
            view, feature, f"{one.values:,}",
            f"{one.differ:,} ({one.differ / max(one.values, 1):.2%})",
            f"{one.mean_apart:,.4g}" if one.numbers else "-",
            f"{one.most:,.4g}" if one.numbers else "-",
            ", ".join(f"{n:,} {cause}" for cause, n in one.causes.most_common()) or "-",
        )  # fmt: skip
    Console(highlight=False).print(table)
