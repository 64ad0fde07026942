"""`headwater.training_set`: the notebook's way to a training set."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from headwater import catalog_cache
from headwater.errors import HeadwaterError
from headwater.offline.checks import references, service_features
from headwater.offline.frames import label_table, time_column, with_time
from headwater.offline.point_in_time import Past
from headwater.offline.spec import AsOf, LabelWindow, Request
from headwater.offline.training_set import build_request
from headwater.settings import Settings


def training_set(
    entities: Any,
    *,
    service: str = "",
    features: Sequence[str] = (),
    repo: str | Path = "feature_repo",
    as_of: AsOf = "event",
    label_windows: Sequence[str] = (),
    bootstrap: str = "",
    full_feature_names: bool = False,
    output: Literal["arrow", "pandas", "polars"] = "arrow",
) -> Any:
    """Labels with features as they stood at each label's time, in the labels' order.

    entities: pandas, polars, Arrow, a Parquet file's path, or SQL for DuckDB that may name views
    as tables; with join keys and `event_timestamp` (naive is UTC). service or features
    ("view:feature", "view:*"). as_of: "event", or "arrival" to know only what had arrived.
    label_windows: texts such as "spent=purchases:sum(amount):7d". Warnings go to `warnings`.
    Raises HeadwaterError for what is missing or wrong, before any work.
    """
    if bool(service) == bool(features):
        raise HeadwaterError("give a feature service or features, one of them")
    if as_of not in {"event", "arrival"}:
        raise HeadwaterError(f'as_of is "event" or "arrival", not {as_of!r}')
    if output not in {"arrow", "pandas", "polars"}:
        raise HeadwaterError(f'output is "arrow", "pandas" or "polars", not {output!r}')
    catalog = catalog_cache.load(Path(repo).resolve())
    wanted = service_features(catalog, service) if service else references(catalog, features)
    request = Request(
        tuple(wanted), full_feature_names,
        tuple(LabelWindow.parse(text) for text in label_windows), bootstrap,
    )  # fmt: skip
    labels = label_table(entities, catalog)
    time = time_column(labels)
    past = Past(
        as_of, memory=Settings.from_env(os.environ).memory_bytes,
        warn=_warn,
    )  # fmt: skip
    table = build_request(catalog, request, with_time(labels, time), None, time, past)
    if output == "pandas":
        return table.to_pandas()
    if output == "polars":
        import polars

        return polars.from_arrow(table)
    return table


def _warn(text: str) -> None:
    """A warning at the line that called us: only there can anybody do something about it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("headwater."):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)
