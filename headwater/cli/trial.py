"""`headwater test`: what a view's definition makes of sample events, at chosen times."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from headwater.cli import terminal
from headwater.cli.plan import REPO, AsJson, Repo
from headwater.errors import HeadwaterError


def test(
    view: Annotated[str, typer.Option(help="feature view")],
    events: Annotated[
        Path, typer.Option(help="sample events: .jsonl, .json, .csv or .parquet, as on the topic")
    ],
    at: Annotated[
        list[str] | None, typer.Option(help="time of the values; the last event's when not given")
    ] = None,
    entity: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE,KEY=VALUE: only this one; all in the events when not given"),
    ] = None,
    repo: Repo = REPO,
    as_json: AsJson = False,
) -> None:
    """Show a view's values on sample events at chosen times; needs no servers, writes nothing.

    Definitions are taken from the files as they are. `headwater.testing` does the same in pytest.
    """
    from rich.table import Table

    from headwater.testing import Project

    project = Project(repo)
    asked: list[Any] | None = list(at) if at else None
    if entity:
        if not at:
            raise HeadwaterError("--entity needs --at: say at which time")
        asked = [{**_entity(text), "event_timestamp": time} for text in entity for time in at]
    try:
        rows = project.values(view, events, asked)
    except ValueError as error:
        raise HeadwaterError(f"--at {at} is no ISO 8601 time: {error}") from error
    if as_json:
        typer.echo(json.dumps(rows, default=_plain))
        return
    keys = [key.name for key in project.catalog.views[view].join_keys]
    table = Table(*keys, "at", "feature", "value")
    for row in rows:
        first = [*(str(row[name]) for name in keys), _plain(row["event_timestamp"])]
        names = [name for name in row if name not in {*keys, "event_timestamp"}]
        for number, name in enumerate(names):
            lead = first if not number else [""] * len(first)
            table.add_row(*lead, name, _shown(row[name]), end_section=number == len(names) - 1)
    terminal.console().print(table)


def _entity(text: str) -> dict[str, Any]:
    """A key's value is text; where it must be a number it is read as one."""
    found: dict[str, Any] = {}
    for part in text.split(","):
        key, is_pair, value = part.partition("=")
        if not is_pair:
            raise HeadwaterError(f"--entity {text!r} is not KEY=VALUE, such as user_id=7")
        found[key.strip()] = value.strip()
    return found


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _shown(value: Any) -> str:
    if value is None:
        return "[dim]null[/]"
    return f"{value:,.6g}" if isinstance(value, float) else _plain(value)
