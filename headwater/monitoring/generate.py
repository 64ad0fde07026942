"""All files of a project's monitoring, by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from headwater.catalog import Catalog
from headwater.errors import HeadwaterError
from headwater.monitoring.dashboards import boards, dashboard
from headwater.monitoring.logs import alloy
from headwater.monitoring.options import Options
from headwater.monitoring.routing import routing
from headwater.monitoring.rules import rules
from headwater.monitoring.scraping import prometheus, vmagent

_HEAD = "# Written by `headwater monitoring`: change the definitions or its options, and run it.\n"


def generate(catalog: Catalog, options: Options) -> dict[str, str]:
    """Relative path -> text. Raises HeadwaterError without grafana-foundation-sdk."""
    files = {
        "prometheus.yml": _yaml(prometheus(catalog, options)),
        "rules.yml": _yaml(rules(catalog, options)),
        "alertmanager.yml": _yaml(routing(options)),
        "vmagent.yml": _yaml(vmagent(catalog, options)),
        "alloy.alloy": alloy(catalog),
    }
    for board in boards(catalog):
        files[f"dashboards/{board.name}.json"] = dashboard(board, catalog, options)
    return files


def write(files: dict[str, str], out: Path) -> None:
    """Write the files under a folder; dashboards that are no longer made are removed."""
    old = {path.relative_to(out).as_posix() for path in out.glob("dashboards/*.json")}
    for gone in old - files.keys():
        (out / gone).unlink()
    for name, text in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def differing(files: dict[str, str], out: Path) -> list[str]:
    """Names of the files that a folder lacks, has otherwise, or should no longer have."""
    old = {path.relative_to(out).as_posix() for path in out.glob("dashboards/*.json")}
    return sorted((old - files.keys()) | {n for n, text in files.items() if _read(out / n) != text})


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HeadwaterError(f"{path} cannot be read: {error}") from error


def _yaml(content: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(content, sort_keys=False, width=100)
    return _HEAD + text
