"""A Feast project with every kind of streaming view, applied once and copied for each run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from headwater import catalog as plans
from headwater import catalog_cache
from tests.processes import Programs, feature_store

#: Stands for the run in the names of topics; no two runs share one.
RUN = "RUN-"
PARTITIONS = 4


def define(folder: Path, run: str = RUN, without: Sequence[str] = ()) -> None:
    """Write the definitions, for the topics of a run, without some of the views."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feature_store.yaml").write_text(feature_store("faults", "redis://127.0.0.1:1"))
    text = Path(__file__).with_name("definitions.py").read_text().replace(RUN, run)
    left_out = "".join(f"del {name}\n" for name in without)
    (folder / "definitions.py").write_text(text + left_out)


def applied(folder: Path) -> Path:
    """A repository whose registry holds the definitions."""
    define(folder)
    Programs(folder, {}).headwater("apply")
    catalog_cache.load(folder)
    return folder


def copy(template: Path, folder: Path, run: str) -> Path:
    """The applied repository again, with topics and logs of its own; takes milliseconds.

    `apply` costs seconds, and all that differs between two runs is names: they are changed where
    the programs read them, in the cached catalogue.
    """
    shutil.copytree(template, folder, ignore=shutil.ignore_patterns(".catalog-*"))
    found = plans.encode(catalog_cache.load(template)).decode()
    renamed = found.replace(RUN, f"{run}-").replace(str(template), str(folder))
    cached = folder / "data" / f".catalog-{catalog_cache.fingerprint(folder)}.json"
    cached.write_text(renamed)
    return folder
