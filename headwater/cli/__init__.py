"""The command line. Commands that need Feast import it themselves: it takes seconds."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from headwater import __version__, catalog_cache
from headwater.cli import terminal
from headwater.cli.drift import drift
from headwater.cli.explain import explain
from headwater.cli.init import init
from headwater.cli.monitoring import monitoring
from headwater.cli.plan import apply, plan
from headwater.cli.predictions import predictions
from headwater.cli.training_set import profile, training_set
from headwater.cli.trial import test
from headwater.cli.usage import usage
from headwater.cli.verify import verify
from headwater.errors import HeadwaterError
from headwater.quality.freshness import freshness
from headwater.settings import Settings

Repo = Annotated[Path, typer.Option(help="Feast project: the folder with feature_store.yaml")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for scripts")]
REPO = Path("feature_repo")
#: Kinds of dead letters.
KINDS = ("invalid", "future", "late", "udf")

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
console = terminal.console()


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headwater {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say it and exit."),
    ] = False,
) -> None:
    """Headwater: a feature store service on Feast definitions."""


app.command()(init)
app.command()(plan)
app.command()(apply)
app.command()(test)


@app.command()
def rebuild(
    repo: Repo = REPO,
    view: Annotated[list[str] | None, typer.Option(help="only these views")] = None,
    behind: Annotated[
        bool, typer.Option("--behind", help="fill only what is behind the log; delete nothing")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the state of stream views in Redis anew from the offline log."""
    from headwater.cli.rebuild import rebuild as run

    start = time.monotonic()
    catalog = catalog_cache.load(repo.resolve())
    done = run(catalog, Settings.from_env(os.environ), view or None, behind)
    seconds = time.monotonic() - start
    if as_json:
        typer.echo(json.dumps({**done._asdict(), "seconds": round(seconds, 3)}))
        return
    for name, events in sorted(done.views.items()):
        without = done.left_out.get(name, 0)
        more = f", {without:,} of them left out, since its udf fails on them" if without else ""
        console.print(f"{name}: {events:,} events{more}")
    console.print(f"{sum(done.views.values()):,} events in {seconds:.1f} s")


@app.command()
def compact(repo: Repo = REPO, as_json: AsJson = False) -> None:
    """Tidy up: the offline logs' small and old files, and state that no view uses any more."""
    from headwater.cli.rebuild import compact as run

    logs, keys = run(catalog_cache.load(repo.resolve()), Settings.from_env(os.environ))
    if as_json:
        typer.echo(json.dumps({"logs": {n: u._asdict() for n, u in logs.items()}, "keys": keys}))
        return
    for name, log in logs.items():
        console.print(
            f"{name}: {log.files_before:,} files became {log.files_after:,}; "
            f"{log.deleted:,} old ones deleted"
        )
    if keys is None:
        console.print(
            "Redis was busy or did not answer: unused state there is left to the next run"
        )
    else:
        console.print(f"Redis: {keys:,} keys of no view any more deleted")


@app.command()
def materialize(
    repo: Repo = REPO,
    view: Annotated[list[str] | None, typer.Option(help="only these views")] = None,
    as_json: AsJson = False,
) -> None:
    """Load the latest row of each entity from the batch sources into Redis."""
    from headwater.offline.materialize import materialize as run

    catalog, writer = _store(repo)
    rows = run(catalog, writer, view or None)
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for name, count in rows.items():
        console.print(f"{name}: {count:,} entities")


@app.command()
def ingest(
    repo: Repo = REPO,
    until_end: Annotated[
        bool,
        typer.Option("--until-end", help="stop, committed, at the end offsets seen at the start"),
    ] = False,
) -> None:
    """Run an ingest worker: Kafka to Redis and to the offline log."""
    more = ["--until-end"] if until_end else []
    os.execv(sys.executable, _program("ingest", repo, *more))  # noqa: S606 (no shell is involved)


@app.command()
def wait(
    topic: Annotated[str, typer.Option(help="Kafka topic")],
    partition: Annotated[int, typer.Option(help="its partition")],
    offset: Annotated[int, typer.Option(help="the event's offset")],
    repo: Repo = REPO,
    timeout: Annotated[float, typer.Option(help="longest wait, seconds")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Wait until an event can be served; exit code 1 when it takes too long."""
    from headwater.online import receipts
    from headwater.online.progress import Progress

    catalog, writer = _store(repo)
    start = time.monotonic()
    progress = Progress(writer.client, catalog.project)
    done = receipts.wait(catalog, progress, topic, partition, offset, timeout)
    seconds = time.monotonic() - start
    if as_json:
        typer.echo(json.dumps({"servable": done, "seconds": round(seconds, 3)}))
    elif done:
        console.print(f"{topic}-{partition}@{offset} is servable (waited {seconds:.2f} s).")
    else:
        console.print(f"{topic}-{partition}@{offset} is not servable after {seconds:.1f} s.")
    if not done:
        raise typer.Exit(1)


dead_letters = typer.Typer(help="What workers rejected: list it, send it again.")
app.add_typer(dead_letters, name="dead-letters")
Topic = Annotated[str, typer.Option(help="only of this source topic")]
Kind = Annotated[str, typer.Option(help=f"only of this kind: {', '.join(KINDS)}")]


@dead_letters.command("list")
def dead_letters_list(
    repo: Repo = REPO,
    topic: Topic = "",
    kind: Kind = "",
    limit: Annotated[int, typer.Option(help="at most so many; 0 is all")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show rejected messages with the reason; with --json one object a line."""
    _dead_letters("list", repo, topic, kind, as_json, "--limit", str(limit))


@dead_letters.command("replay")
def dead_letters_replay(
    repo: Repo = REPO, topic: Topic = "", kind: Kind = "", as_json: AsJson = False
) -> None:
    """Send rejected messages to their topics again, each exactly once."""
    _dead_letters("replay", repo, topic, kind, as_json)


def _dead_letters(
    action: str, repo: Path, topic: str, kind: str, as_json: bool, *more: str
) -> None:
    if kind and kind not in KINDS:
        raise HeadwaterError(f"--kind is one of {', '.join(KINDS)}, not {kind!r}")
    words = [action, *(["--topic", topic] if topic else []), *(["--kind", kind] if kind else [])]
    words += [*(["--json"] if as_json else []), *more]
    command = _program("ingest.dead_letters", repo, *words)
    os.execv(sys.executable, command)  # noqa: S606 (no shell is involved)


@app.command()
def serve(
    repo: Repo = REPO,
    host: Annotated[
        str | None, typer.Option("--host", "-h", help="address; HEADWATER_HOST, else 127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", "-p", help="HEADWATER_PORT, else 6566")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", help="processes; HEADWATER_WORKERS, else 1")
    ] = None,
) -> None:
    """Run the HTTP service (port 6566; its pages for browsers: 6580)."""
    given = {"HOST": host, "PORT": port, "WORKERS": workers}  # as `feast serve` has them
    os.environ |= {f"HEADWATER_{name}": str(v) for name, v in given.items() if v is not None}
    os.execv(sys.executable, _program("service", repo))  # noqa: S606 (no shell is involved)


def _program(module: str, repo: Path, *more: str) -> list[str]:
    return [sys.executable, "-P", "-m", module, "--repo", str(repo), *more]


app.command("training-set")(training_set)
app.command()(profile)
app.command()(verify)
app.command()(drift)
app.command()(predictions)
app.command()(explain)
app.command()(monitoring)
app.command()(usage)


@app.command()
def status(repo: Repo = REPO, as_json: AsJson = False) -> None:
    """Freshness of every view, and how far ingest is; exit code 1 when an objective is missed."""
    from headwater.cli import tables
    from headwater.online import ingest_status

    catalog, writer = _store(repo)
    now = time.time()
    views = [freshness(view, writer.clocks(), now) for view in catalog.views.values()]
    partitions = ingest_status.partitions(catalog, writer, now)
    if as_json:
        typer.echo(json.dumps({"views": views, "partitions": partitions}))
    else:
        console.print(tables.views_table(views))
        if partitions:
            console.print(tables.partitions_table(partitions))
    if any(row["fresh"] is False for row in views):
        raise typer.Exit(1)


def _store(repo: Path) -> tuple[Any, Any]:
    from headwater.online.connect import connect
    from headwater.online.writer import OnlineWriter

    settings = Settings.from_env(os.environ)
    catalog = catalog_cache.load(repo.resolve())
    client = connect(settings.redis_url or catalog.redis_url)
    return catalog, OnlineWriter(client, catalog.project)


@app.command()
def up(
    repo: Repo = REPO,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="first move aside what earlier runs left")
    ] = False,
) -> None:
    """Start Redis and Kafka, apply the definitions, run a worker and the service until Ctrl-C."""
    from headwater.demo.run import up as run

    run(repo.resolve(), fresh)


@app.command()
def demo(
    repo: Repo = REPO,
    once: Annotated[bool, typer.Option(help="end by itself instead of staying up")] = False,
) -> None:
    """The whole of Headwater on a year of real flights."""
    from headwater.demo.run import demo as run

    run(repo.resolve(), once)


def main() -> None:
    """Entry point: an error that the user can mend is one line and exit code 1."""
    try:
        app()
    except HeadwaterError as error:
        sys.stderr.write(f"headwater: {error}\n")
        sys.exit(1)
