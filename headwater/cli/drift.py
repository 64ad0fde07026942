"""`headwater drift`: which features are no longer what they were, and by which check."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
import typer
from rich.progress import TextColumn, TimeElapsedColumn
from rich.table import Table

from headwater import catalog_cache
from headwater.cli import terminal
from headwater.cli.verify import micros
from headwater.errors import HeadwaterError
from headwater.quality.drift import CHECKS
from headwater.settings import Settings

Repo = Annotated[Path, typer.Option(help="Feast project: the folder with feature_store.yaml")]


def drift(
    view: Annotated[str, typer.Option(help="only this feature view")] = "",
    service: Annotated[str, typer.Option(help="only this feature service's features")] = "",
    of: Annotated[
        str, typer.Option(help="what is compared: offline, served or predictions; else all")
    ] = "",
    since: Annotated[
        str, typer.Option("--from", help="the span (ISO 8601, UTC); its last day by default")
    ] = "",
    until: Annotated[str, typer.Option("--to", help="its end; now by default")] = "",
    baseline: Annotated[
        str, typer.Option(help="manifest of the training set to compare with")
    ] = "",
    baseline_from: Annotated[
        str, typer.Option(help="the span to compare with; the week before by default")
    ] = "",
    baseline_to: Annotated[str, typer.Option(help="its end; the span's begin by default")] = "",
    record: Annotated[
        bool, typer.Option("--record", help="keep the result for the service's metrics")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="show every check, not only those that alarm")
    ] = False,
    repo: Repo = Path("feature_repo"),
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Compare what features hold now with what they held; exit code 1 where one has drifted."""
    from headwater.offline.drift import Asked, Of
    from headwater.offline.drift import report as run
    from headwater.offline.feature_log import named_logs
    from headwater.offline.predictions import DAY_US, path_of, quality
    from headwater.offline.sketch_table import SketchTable
    from headwater.offline.sketching import update

    if of not in {"", *get_args(Of)}:
        raise HeadwaterError(f"--of is one of {', '.join(get_args(Of))}, not {of!r}")
    settings = Settings.from_env(os.environ)
    catalog = catalog_cache.load(repo.resolve())
    times = [micros(text) or 0 for text in (since, until, baseline_from, baseline_to)]
    span = Asked("offline", view, service, times[0], times[1], times[2], times[3], baseline)
    asked = [msgspec.structs.replace(span, of=one) for one in get_args(Of) if of in {"", one}]
    table = SketchTable(catalog)
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with _noted(catalog, settings, record) as note, terminal.progress(*columns) as bar:
        task = bar.add_task("sketching what is new in the logs", total=None)
        logs, keep_us = named_logs(catalog, settings.feature_log), settings.sketch_days * DAY_US
        rows = update(catalog, table, logs, keep_us=round(keep_us))
        bar.update(task, description="comparing")
        reports = {one.of: run(catalog, table, one, repo.resolve()) for one in asked}
        week = time.time_ns() // 1000 - 7 * DAY_US
        note(reports, sum(rows.values()), quality(path_of(catalog), week, week + 7 * DAY_US))
    if as_json:
        typer.echo(json.dumps({"sketched": rows, **reports}))
    else:
        for one in reports.values():
            _show(one, every)
    if any(one["alarms"] for one in reports.values()) and not record:
        raise typer.Exit(1)


@contextmanager
def _noted(catalog: Any, settings: Settings, record: bool) -> Iterator[Callable[..., None]]:
    """How to take note of reports: for the service, with how the job went, or not at all."""
    if not record:
        yield lambda reports, rows, days: None
        return
    from headwater.online import drift_status, job_status
    from headwater.online.connect import connect
    from headwater.online.writer import OnlineWriter

    os.nice(10)  # it runs beside those that serve
    client = connect(settings.redis_url or catalog.redis_url)
    writer = OnlineWriter(client, catalog.project)
    with job_status.running(writer, job_status.DRIFT, catalog.project) as job:

        def note(reports: Mapping[str, Any], rows: int, days: list[dict[str, Any]]) -> None:
            job.rows = rows
            drift_status.put(client, catalog.project, time.time(), reports, days)

        yield note


def _show(report: Mapping[str, Any], every: bool) -> None:
    """What has drifted, check by check (`every`: the others as well), and a line a view."""
    console = terminal.console()
    baseline = report["baseline"]
    against = baseline.get("manifest") or _span(baseline["from_us"], baseline["until_us"])
    title = f"{report['of']}: {_span(report['from_us'], report['until_us'])} against {against}"
    checks = {id(view): _checks(view) for view in report["views"]}
    shown = [check for of_view in checks.values() for check in of_view if every or check["alarm"]]
    if shown:
        table = Table("view", "feature", "check", "score", "limit", "what", title=title)
        for check in sorted(shown, key=lambda c: not c["alarm"]):
            limit, score = check["limit"], f"{check['score']:.4g}"
            table.add_row(
                check["feature_view"], check["feature"] or "(rows)", check["check"],
                f"[red]{score}[/]" if check["alarm"] else score,
                "-" if limit is None else f"{limit:.4g}",
                check["detail"] or CHECKS[check["check"]],
            )  # fmt: skip
        console.print(table)
    for view in report["views"]:
        if of_view := checks[id(view)]:
            console.print(f"  {_line(view, of_view)}", soft_wrap=True)
    alarms = len(report["alarms"])
    verdict = f"[red]{alarms:,} alarms[/]" if alarms else "no alarm"
    told = f"{report['of']}: {report['compared']:,} checks, {verdict}"
    if not report["compared"]:
        told += f"; nothing to compare in {_span(report['from_us'], report['until_us'])}"
    console.print(told if shown else f"{told} ({title.partition(': ')[2]})")


def _checks(view: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*view["checks"], *(check for f in view["features"] for check in f["checks"])]


def _line(view: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]) -> str:
    """One view: its rows, and which of its features have drifted."""
    name = f"{view['feature_view']} (through {view['service']})" if view["service"] else ""
    drifted = dict.fromkeys(c["feature"] or "(rows)" for c in checks if c["alarm"])
    features = len(view["features"])
    told = f"[red]drifted: {', '.join(drifted)}[/]" if drifted else "as it was"
    return (
        f"{name or view['feature_view']}: {view['rows']:,} rows against "
        f"{view['baseline_rows']:,}, {features} feature{'s' if features != 1 else ''}, {told}"
    )


def _span(since: int, until: int) -> str:
    return " to ".join(
        datetime.fromtimestamp(us / 1e6, UTC).isoformat(sep=" ")[:16] for us in (since, until)
    )
