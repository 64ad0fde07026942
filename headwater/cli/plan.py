"""`headwater plan` and `headwater apply`: what changes, what that means, and doing it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from headwater.cli import terminal
from headwater.settings import Settings

if TYPE_CHECKING:
    from headwater.changes import Change
    from headwater.cli.apply import Plan

REPO = Path("feature_repo")
Repo = Annotated[Path, typer.Option(help="Feast project: the folder with feature_store.yaml")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for scripts")]
_SIGNS = {"add": ("+", "green"), "change": ("~", "yellow"), "remove": ("-", "red")}
#: Advice that is shown at once; a project without descriptions has much.
_SHOWN = 12


def plan(
    repo: Repo = REPO,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="print Markdown for a pull request's comment")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="exit code 1 where something breaks")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what apply would add, change and remove, what needs a backfill, and what breaks."""
    from headwater.cli.apply import plan as make
    from headwater.cli.rebuild import needs_backfill
    from headwater.errors import HeadwaterError

    found = make(repo.resolve())
    try:
        needs = needs_backfill(found.catalog, Settings.from_env(os.environ))
    except HeadwaterError as error:
        needs = {}
        _err().print(f"[yellow]note[/] how many events a backfill takes is unknown: {error}")
    if markdown:
        typer.echo(as_markdown(found.changes, needs))
    else:
        _show(found, needs, as_json)
    if check and any(change.broken for change in found.changes):
        raise typer.Exit(1)


def apply(
    repo: Repo = REPO,
    backfill: Annotated[
        bool, typer.Option(help="fill new and changed views before returning")
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", help="apply even what breaks services or stored values")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the definitions, show what changes, write Feast's registry, fill views."""
    from headwater.cli.apply import apply as run
    from headwater.cli.rebuild import after_apply

    found = run(repo.resolve(), force)
    _show(found, {}, as_json)
    console = _err() if as_json else terminal.console()
    after_apply(found, Settings.from_env(os.environ), backfill, console, repo)


def _err() -> Console:
    return terminal.console(stderr=True)


def _show(found: Plan, needs: Mapping[str, int], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([_row(change, needs) for change in found.changes]))
    else:
        console = terminal.console()
        for line in _lines(found.changes, needs):
            console.print(line, soft_wrap=True)
    _advise(found)


def _row(change: Change, needs: Mapping[str, int]) -> dict[str, Any]:
    import msgspec

    row: dict[str, Any] = msgspec.to_builtins(change)
    if change.kind == "feature view" and change.name in needs:
        row["backfill_events"] = needs[change.name]
    return row


def _lines(changes: Sequence[Change], needs: Mapping[str, int]) -> Iterator[str]:
    from rich.markup import escape

    if not changes:
        yield "Nothing changes."
    for change in changes:
        sign, colour = _SIGNS[change.change]
        meaning = ": ".join(filter(None, [_meaning(change, needs), "; ".join(change.reasons)]))
        yield (
            f"[{colour}]{sign}[/] {change.kind} {escape(change.name)}"
            + (f" ({escape(meaning)})" if meaning else "")
        )
        if change.change == "add":
            continue
        for feature in change.features:
            sign, colour = _SIGNS[feature.change]
            words = {"breaking": "[red]breaks[/] ", "backfill": "needs a backfill: ", "safe": ""}
            who = f"feature services {', '.join(feature.services)}: " if feature.services else ""
            text = escape(who + feature.reason)
            yield f"    [{colour}]{sign}[/] {escape(feature.name)}  {words[feature.effect]}{text}"


def _meaning(change: Change, needs: Mapping[str, int]) -> str:
    if change.kind == "feature view" and change.name in needs:
        return f"needs a backfill: {needs[change.name]:,} events"
    if change.change == "add":
        return ""
    return {"safe": "", "backfill": "needs a backfill", "breaking": "breaks"}[change.effect]


def _advise(found: Plan) -> None:
    from rich.markup import escape

    from headwater.catalog_files import describe

    err = _err()
    for where, problem in found.advice[:_SHOWN]:
        err.print(f"[yellow]advice[/] {escape(describe(where, problem))}", soft_wrap=True)
    if len(found.advice) > _SHOWN:
        err.print(f"[yellow]advice[/] and {len(found.advice) - _SHOWN} more of the kind")


def as_markdown(changes: Sequence[Change], needs: Mapping[str, int]) -> str:
    """A comment for a pull request: a verdict, and a table of the changes."""
    broken = sum(change.effect == "breaking" for change in changes)
    filled = sum(change.effect == "backfill" for change in changes)
    if not changes:
        return "### headwater plan\n\nNothing changes."
    many = f"{len(changes)} change{'s' * (len(changes) > 1)}"
    breaks = f"break{'s' * (broken == 1)}"
    verdict = f"**{broken} of {many} {breaks} what is served.** " if broken else ""
    rows = ["| | object | what it means |", "|---|---|---|"]
    for change in changes:
        meaning = ": ".join(filter(None, [_meaning(change, needs), "; ".join(change.reasons)]))
        rows.append(f"| {change.change} | {change.kind} `{change.name}` | {_cell(meaning)} |")
        if change.change == "add":
            continue
        for feature in change.features:
            who = f" (feature services {', '.join(feature.services)})" if feature.services else ""
            text = f"{feature.effect}{who}: {feature.reason}"
            rows.append(f"| {feature.change} | `{change.name}:{feature.name}` | {_cell(text)} |")
    return "\n".join(
        ["### headwater plan", "",
         f"{verdict}{many}, {filled} of them with a backfill.", "", *rows]
    )  # fmt: skip


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
