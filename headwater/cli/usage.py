"""`headwater usage`: what views take in Redis, who asks for them, what can be dropped."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from headwater import catalog_cache
from headwater.amounts import size
from headwater.cli import terminal
from headwater.settings import Settings

REPO = Path("feature_repo")
console = terminal.console()


def usage(
    repo: Annotated[
        Path, typer.Option(help="Feast project: the folder with feature_store.yaml")
    ] = REPO,
    days: Annotated[float, typer.Option(help="unused for so long can be dropped", min=0.01)] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """What views cost in Redis, who asks for them, and what can be dropped.

    Services tell what they counted once a minute, and when they end.
    """
    from headwater.online import usage as held
    from headwater.online.connect import connect
    from headwater.online.sizes import sizes
    from headwater.online.writer import OnlineWriter
    from headwater.usage import usage_report

    settings = Settings.from_env(os.environ)
    catalog = catalog_cache.load(repo.resolve())
    writer = OnlineWriter(connect(settings.redis_url or catalog.redis_url), catalog.project)
    found = sizes(writer, catalog.views.values())
    report = usage_report(catalog, held.read(writer), found, time.time(), days)
    if as_json:
        typer.echo(json.dumps(report))
        return
    console.print(_table(report["views"]))
    _print_droppable(report)


def _table(rows: Iterable[Mapping[str, Any]]) -> Table:
    table = Table("view", "in Redis", "keys", "requests", "last asked for", "by")
    for row in rows:
        callers = sorted({user["caller"] for user in row["users"]})
        table.add_row(
            row["feature_view"], size(row["bytes"]) or "unknown", f"{row['keys']:,}",
            f"{row['requests']:,}", _utc(row["last"]), ", ".join(callers),
        )  # fmt: skip
    return table


def _print_droppable(report: Mapping[str, Any]) -> None:
    names = [
        f"{one['feature_view']}:{one['feature']}" if one["feature"] else str(one["feature_view"])
        for one in report["droppable"]
    ]
    console.print(
        f"In no service, unused for {report['days']:g} days: {', '.join(names) or 'none'}"
    )
    if names and not report["certain"]:
        console.print(f"Not certain: use is counted since {_utc(report['counted_since'])}.")


def _utc(seconds: float | None) -> str:
    if not seconds:
        return "never"
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="seconds")[:19]
