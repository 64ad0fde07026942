"""`headwater predictions`: how good models were, by version and day."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from headwater import catalog_cache
from headwater.cli import terminal
from headwater.cli.verify import micros


def predictions(
    model: Annotated[str, typer.Option(help="only this model")] = "",
    since: Annotated[
        str, typer.Option("--from", help="predicted since (ISO 8601, UTC); 30 days ago by default")
    ] = "",
    until: Annotated[str, typer.Option("--to", help="predicted before; now by default")] = "",
    repo: Annotated[
        Path, typer.Option(help="Feast project: the folder with feature_store.yaml")
    ] = Path("feature_repo"),
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """How good models' predictions were, by version and day, where their outcomes are known."""
    from headwater.offline.predictions import DAY_US, path_of, quality

    catalog = catalog_cache.load(repo.resolve())
    end = micros(until) or time.time_ns() // 1000 + 1
    days = quality(path_of(catalog), micros(since) or end - 30 * DAY_US, end, model)
    if as_json:
        typer.echo(json.dumps(days))
        return
    table = Table("model", "version", "day", "predictions", "outcomes", "task", "measures")
    for one in days:
        table.add_row(
            one["model"], one["version"], one["day"], f"{one['predictions']:,}",
            f"{one['outcomes']:,}", one["task"] or "-", _measures(one),
        )  # fmt: skip
    terminal.console().print(table if days else "no predictions of that time")


def _measures(day: dict[str, Any]) -> str:
    known = {"predictions", "outcomes", "pairs"}
    return ", ".join(
        f"{name} {value:.4g}"
        for name, value in day.items()
        if isinstance(value, int | float) and name not in known
    )
