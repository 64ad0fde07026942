"""`headwater verify`: what was served against what the offline log says, feature by feature."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from headwater.cli import terminal
from headwater.errors import HeadwaterError
from headwater.settings import Settings

# DuckDB, Delta and Arrow come with the run, not with the command line.
if TYPE_CHECKING:
    from headwater.cli.verification import Run

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
    every: Annotated[
        float, typer.Option(help="verify what is new every so many seconds, without end")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Compute logged vectors again from the offline log and compare; exit code 1 if any differs."""
    from headwater.cli.verification import Verifier, noted

    settings = Settings.from_env(os.environ)
    verifier = Verifier(repo.resolve(), settings, service, log or (), skew)
    if every:
        if every < 0 or since or until:
            raise HeadwaterError(
                "--every goes on from where the last run ended: give it seconds, "
                "and neither --since nor --until"
            )
        try:
            for run in verifier.again(every, terminal.console(stderr=True)):
                _print(run, as_json)
        except KeyboardInterrupt:
            # Ctrl-C is a person's, who wants it no more; SIGTERM is a supervisor's.
            verifier.withdraw()
            raise
    columns = (TextColumn("vectors"), MofNCompleteColumn(), TimeElapsedColumn())
    with terminal.progress(*columns) as bar:
        task = bar.add_task("vectors", total=None)
        run = verifier.run(micros(since), micros(until), lambda n: bar.advance(task, n))
    if not run.report.vectors:
        raise HeadwaterError("the feature log has no vectors of that time; nothing was verified")
    noted(verifier, run, terminal.console(stderr=True))
    _print(run, as_json)
    if run.report.different:
        raise typer.Exit(1)


def _print(run: Run, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(run.as_json(), default=str))
        return
    _show(run.report, run.seconds)
    if run.report.skew:
        _show_skew(run.report)


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


def _show(report: Any, seconds: float) -> None:
    console = terminal.console()
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
    terminal.console().print(table)
