"""`headwater explain`: what made each value of an entity's features at a time."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from headwater import catalog_cache
from headwater.cli import terminal
from headwater.cli.verify import micros
from headwater.errors import HeadwaterError
from headwater.settings import Settings

Repo = Annotated[Path, typer.Option(help="Feast project: the folder with feature_store.yaml")]
#: Events that are shown on a terminal; --json has more.
SHOWN = 20


def explain(
    service: Annotated[str, typer.Option(help="feature service")],
    entity: Annotated[
        list[str], typer.Option(help="name=value: join keys, inputs of on-demand views")
    ],
    at: Annotated[str, typer.Option(help="time (ISO 8601, UTC); now when not given")] = "",
    as_of: Annotated[
        str, typer.Option(help="arrival: what had arrived by then; event: all that had happened")
    ] = "arrival",
    repo: Repo = Path("feature_repo"),
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Show the events, tiles and rows that made each value of an entity's features at a time."""
    from headwater.offline.explain import explain as run
    from headwater.offline.explain import parse_entity

    Settings.from_env(os.environ)
    if as_of not in {"event", "arrival"}:
        raise HeadwaterError(f"--as-of is arrival or event, not {as_of!r}")
    moment = micros(at)
    found = run(
        catalog_cache.load(repo.resolve()), service, parse_entity(entity),
        time.time_ns() // 1000 if moment is None else moment,
        "event" if as_of == "event" else "arrival",
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(found, default=str))
        return
    console = terminal.console()
    for view in found["views"]:
        _show(view, console)


def _show(view: dict[str, Any], console: Console) -> None:
    table = Table("feature", "value", "from", "events", title=f"{view['view']} ({view['kind']})")
    for name, feature in view["features"].items():
        table.add_row(
            name, str(feature.get("value")), str(feature.get("from") or "-"),
            f"{feature['events']:,}" if "events" in feature else "-",
        )  # fmt: skip
    console.print(table)
    if view["kind"] == "row":
        for word, row in (("row", view["row"]), ("before it", view["previous"])):
            if row is not None:
                expired = " [red]expired[/]" if row["expired"] else ""
                console.print(f"  {word}: {_event(row)}{expired}")
        if view["row"] is None:
            console.print("  no row")
    elif view["kind"] == "window":
        tiles = [f"{tile['start'][:19]} ({tile['events']:,})" for tile in view["tiles"][-SHOWN:]]
        console.print(f"  tiles of {view['tile_seconds']:g} s: {', '.join(tiles) or 'none'}")
        left_out = view["events_in_all"] - len(view["events"][-SHOWN:])
        if left_out:
            console.print(f"  {left_out:,} older events, then")
        for event in view["events"][-SHOWN:]:
            console.print(f"  {_event(event)}")


def _event(event: dict[str, Any]) -> str:
    place = ""
    if "offset" in event:
        place = f" {event['topic']}-{event['partition']}@{event['offset']}"
        place += f" arrived {event['arrived_at']}"
    return f"{event['event_timestamp']}{place} {event['values']}"
