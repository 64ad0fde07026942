"""`headwater training-set` and `headwater profile`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from headwater import catalog_cache
from headwater.cli import terminal
from headwater.errors import HeadwaterError
from headwater.settings import Settings

REPO = Path("feature_repo")
Repo = Annotated[Path, typer.Option(help="Feast project: the folder with feature_store.yaml")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for scripts")]


def training_set(
    service: Annotated[str, typer.Option(help="feature service")] = "",
    feature: Annotated[
        list[str] | None, typer.Option(help="view:feature, or view:* for all of a view")
    ] = None,
    entities: Annotated[
        Path | None, typer.Option(help="Parquet: keys, event_timestamp, anything else")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Parquet file to write; its manifest goes beside it")
    ] = None,
    as_of: Annotated[
        str, typer.Option(help="event: all that had happened; arrival: all that had arrived too")
    ] = "event",
    label_window: Annotated[
        list[str] | None,
        typer.Option(help="name=view:function(column):7d, over the window after the label time"),
    ] = None,
    bootstrap: Annotated[
        str, typer.Option(help="Parquet log of served features, used as they are")
    ] = "",
    full_feature_names: Annotated[
        bool, typer.Option("--full-feature-names", help="view__feature as names")
    ] = False,
    rows_per_file: Annotated[
        int, typer.Option(help="write a folder of files of so many rows", min=0)
    ] = 0,
    sample: Annotated[
        int, typer.Option(help="only so many of the labels, evenly spaced: a look before", min=0)
    ] = 0,
    engine: Annotated[
        str, typer.Option(help="local, or spark for more than one machine")
    ] = "local",
    reproduce: Annotated[
        Path | None, typer.Option(help="manifest of a training set to make again, to the byte")
    ] = None,
    repo: Repo = REPO,
    as_json: AsJson = False,
) -> None:
    """Join features to labels as they stood at each label's time.

    Ctrl-C stops; the same command goes on with what is there.
    """
    from headwater.offline.spec import Spec

    catalog = catalog_cache.load(repo.resolve())
    if out is None:
        raise HeadwaterError("give --out (a Parquet file)")
    if reproduce is not None:
        _reproduce(catalog, reproduce, out, as_json)
        return
    if entities is None:
        raise HeadwaterError("give --entities (a Parquet file)")
    if as_of not in {"event", "arrival"}:
        raise HeadwaterError(f"--as-of is event or arrival, not {as_of!r}")
    if not entities.exists():
        raise HeadwaterError(f"there is no file {entities}; give labels as Parquet")
    spec = Spec(
        str(entities.resolve()), str(out.resolve()), service, tuple(feature or ()),
        "arrival" if as_of == "arrival" else "event", full_feature_names,
        tuple(label_window or ()), bootstrap, rows_per_file, sample,
    )  # fmt: skip
    if engine == "spark":
        from headwater.offline.spark import training_set as on_spark

        manifest = on_spark(catalog, spec)
    elif engine == "local":
        manifest = _run(catalog, spec, {}).data
    else:
        raise HeadwaterError(f"--engine is local or spark, not {engine!r}")
    _print(manifest, out, as_json)


def _run(catalog: Any, spec: Any, versions: dict[str, int]) -> Any:
    from rich.progress import (
        BarColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from headwater.offline.jobs import Job
    from headwater.offline.spec import Status

    settings = Settings.from_env(os.environ)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn())  # fmt: skip
    warned: set[str] = set()
    with terminal.progress(*columns) as bar:
        task = bar.add_task("labels", total=None)

        def listen(status: Status) -> None:
            bar.update(task, description=status.step, completed=status.done,
                       total=status.total or None)  # fmt: skip
            for text in set(status.warnings) - warned:
                warned.add(text)
                bar.console.print(f"[yellow]warning[/] {text}")

        return Job(catalog, spec, settings.memory_bytes, listen, versions or None).run()


def _reproduce(catalog: Any, path: Path, out: Path, as_json: bool) -> None:
    import msgspec

    from headwater.offline.manifest import Manifest
    from headwater.offline.spec import Spec

    held = Manifest.read(path)
    gone = held.gone(catalog)
    if gone:
        raise HeadwaterError(f"it cannot be made again: {'; '.join(gone)}")
    spec = msgspec.convert(held.data["spec"], Spec)
    spec = msgspec.structs.replace(spec, out=str(out.resolve()))
    made = _run(catalog, spec, held.versions)
    if list(made.data["sha256"].values()) != list(held.data["sha256"].values()):
        raise HeadwaterError(
            f"{out} differs from what {path} describes, though nothing that it names has changed; "
            f"it was made by Headwater {held.data['headwater']} (this is {made.data['headwater']})"
        )
    _print({**made.data, "reproduced": str(path)}, out, as_json)


def _print(manifest: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(manifest))
        return
    same = ", the same bytes" if "reproduced" in manifest else ""
    terminal.console().print(
        f"{out}: {manifest['rows']:,} rows in {manifest['seconds']:.1f} s{same}"
    )


def profile(
    view: Annotated[list[str] | None, typer.Option(help="only these views")] = None,
    repo: Repo = REPO,
    as_json: AsJson = False,
) -> None:
    """Profile views' past: counts, nulls, distinct values, quantiles."""
    from rich.table import Table

    from headwater.offline.profile import profile_view

    catalog = catalog_cache.load(repo.resolve())
    unknown = sorted(set(view or ()) - catalog.views.keys())
    if unknown:
        known = ", ".join(sorted(catalog.views))
        raise HeadwaterError(f"there are no feature views {unknown}; there are: {known}")
    names = view or [n for n, v in catalog.views.items() if v.stream or v.batch]
    found = [profile_view(catalog, catalog.views[name]) for name in names]
    if as_json:
        typer.echo(json.dumps(found))
        return
    for one in found:
        table = Table("feature", "nulls", "distinct", "min", "median", "max",
                      title=f"{one['view']}: {one['rows']:,} rows")  # fmt: skip
        for name, result in one["features"].items():
            middle = result.get("quantiles", {}).get("0.5")
            shown = [result.get("min"), middle, result.get("max")]
            table.add_row(
                name, f"{result['null_ratio']:.2%}", f"{result['distinct']:,}",
                *("-" if value is None else f"{value:,.4g}" for value in shown),
            )  # fmt: skip
        terminal.console().print(table)
