"""`headwater monitoring`: writes what watches a project from outside, or compares it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from headwater import catalog_cache
from headwater.errors import HeadwaterError
from headwater.monitoring.generate import differing, generate, write
from headwater.monitoring.options import Channel, Options

_D = Options()
Several = list[str] | None


def monitoring(
    repo: Annotated[
        Path, typer.Option(help="Feast project: the folder with feature_store.yaml")
    ] = Path("feature_repo"),
    out: Annotated[Path, typer.Option(help="folder to write to")] = Path("monitoring"),
    check: Annotated[
        bool, typer.Option("--check", help="write nothing; exit code 1 where a file differs")
    ] = False,
    interval: Annotated[
        float, typer.Option(help="seconds between scrapes; the rules' times are multiples of it")
    ] = _D.interval,
    service: Annotated[
        Several, typer.Option(help="HOST:PORT of the service, or dns:NAME:PORT; several")
    ] = None,
    worker: Annotated[
        Several, typer.Option(help="HOST:PORT of a worker's metrics, or dns:NAME:PORT; several")
    ] = None,
    alertmanager: Annotated[Several, typer.Option(help="HOST:PORT of Alertmanager")] = None,
    page: Annotated[
        Several, typer.Option(help="where pages go: webhook:URL, email:ADDRESS, telegram:CHAT")
    ] = None,
    ticket: Annotated[Several, typer.Option(help="where tickets go, as --page")] = None,
    smtp: Annotated[str, typer.Option(help="mail server, HOST:PORT")] = _D.smtp,
    sender: Annotated[str, typer.Option(help="address that mails come from")] = _D.sender,
    telegram_token: Annotated[
        str, typer.Option(help="file on Alertmanager's machine with the bot's token")
    ] = _D.telegram_token,
    runbooks: Annotated[
        str, typer.Option(help="URL under which docs/runbooks is published")
    ] = _D.runbooks,
    key_file: Annotated[
        str, typer.Option(help="file on Prometheus's machine with an API key of the service")
    ] = "",
    remote_write: Annotated[
        str, typer.Option(help="URL that Prometheus sends everything to, for long storage")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Write alert rules, their routing, scraping, dashboards and the logs' pipeline."""
    if interval <= 0:
        raise HeadwaterError(f"--interval is {interval:g}; it is a number of seconds above 0")
    options = _D._replace(
        interval=interval,
        services=tuple(service or _D.services),
        workers=tuple(worker or _D.workers),
        alertmanagers=tuple(alertmanager or _D.alertmanagers),
        page=tuple(map(Channel.parse, page or ())),
        ticket=tuple(map(Channel.parse, ticket or ())),
        smtp=smtp, sender=sender, telegram_token=telegram_token, runbooks=runbooks.rstrip("/"),
        key_file=key_file, remote_write=remote_write,
    )  # fmt: skip
    files = generate(catalog_cache.load(repo.resolve()), options)
    stale = differing(files, out)
    if not check:
        write(files, out)
    if as_json:
        typer.echo(json.dumps({"files": sorted(files), "changed": stale}))
    else:
        for name in stale:
            typer.echo(f"{out / name} {'differs' if check else 'written'}")
        if not stale:
            typer.echo(f"{out} is as it should be.")
    if check and stale:
        raise typer.Exit(1)
