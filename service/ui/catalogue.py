"""The catalogue: every feature, found as one types, with what is known of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from fastapi import Request
from starlette.responses import Response

from headwater.catalog import Catalog, FieldPlan, OnDemandPlan, ViewPlan
from headwater.quality.freshness import freshness
from headwater.usage import used_by
from service.access import PAGES
from service.ui import drawings
from service.ui.drift import Drift, State
from service.ui.history import Counts, History
from service.ui.pages import Entry, Pages

#: Features that are shown at once; more are a click away.
SHOWN = 100
#: Points of a sparkline.
_SPARKS = 24


class Feature(NamedTuple):
    """A feature as the catalogue lists it, and the words that a search finds it by."""

    view: ViewPlan | OnDemandPlan
    field: FieldPlan
    services: tuple[str, ...]
    words: str

    @property
    def key(self) -> tuple[str, str]:
        return self.view.name, self.field.name


class Index:
    """A catalogue's features, made once for each version of it."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.services = used_by(catalog)
        self.views: list[ViewPlan | OnDemandPlan] = [
            *catalog.views.values(), *catalog.on_demand.values()
        ]  # fmt: skip
        self.features = [
            _feature(view, field, self.services.get((view.name, field.name), ()))
            for view in sorted(self.views, key=lambda view: view.name)
            for field in view.features
        ]

    def search(self, text: str) -> list[Feature]:
        """Features that have every word; those that have them in their name come first."""
        words = text.lower().split()
        found = [f for f in self.features if all(word in f.words for word in words)]
        if not words:
            return found
        best: dict[str, int] = {}
        for feature in found:
            rank = _rank(feature, words)
            best[feature.view.name] = min(best.get(feature.view.name, rank), rank)
        return sorted(found, key=lambda f: (best[f.view.name], f.view.name, _rank(f, words)))


def _rank(feature: Feature, words: Sequence[str]) -> int:
    """0 where the feature's name has every word, 1 where with its view's, else 2."""
    if all(word in feature.field.name.lower() for word in words):
        return 0
    whole = f"{feature.view.name} {feature.field.name}".lower()
    return 1 if all(word in whole for word in words) else 2


def _feature(view: ViewPlan | OnDemandPlan, field: FieldPlan, services: tuple[str, ...]) -> Feature:
    tags = {**view.tags, **field.tags}
    keys = [key.name for key in view.join_keys] if isinstance(view, ViewPlan) else []
    words = [
        view.name, field.name, view.description, field.description, view.owner, field.type,
        *keys, *services, *(f"{name}={value}" for name, value in tags.items()),
    ]  # fmt: skip
    return Feature(view, field, services, " ".join(words).lower())


def state_of(
    view: ViewPlan | OnDemandPlan, clocks: Mapping[tuple[str, str], int], now: float
) -> dict[str, Any]:
    """A view's freshness: `freshness`'s fields, and `look`: good, bad or none."""
    if isinstance(view, OnDemandPlan):
        return {"state": "at request", "look": "none", "age_seconds": None, "slo_seconds": None,
                "behind": []}  # fmt: skip
    found = freshness(view, clocks, now)
    looks = {True: "good", False: "bad", None: "none"}
    return {**found, "look": looks[found["fresh"]]}


def null_ratio(counts: Counts | None) -> float | None:
    """The share of values that were null, of `Metrics.served`'s counts; None of none."""
    if counts is None or not counts[0]:
        return None
    return float(counts[1:].sum() / counts[0])


def null_line(counts: Counts) -> list[float | None]:
    """Null ratios [_SPARKS at most] of looks [n, counts] put together; None where none is."""
    parts = np.array_split(counts, min(_SPARKS, max(len(counts), 1)))
    return [null_ratio(part.sum(axis=0)) for part in parts]


def add(pages: Pages, history: History, drift: Drift) -> None:
    """Add the catalogue's routes."""
    pages.navigation.append(Entry(PAGES + "/", "Catalogue"))
    made: list[Index] = []

    def index() -> Index:
        if not made or made[-1].catalog is not pages.catalog:
            made[:] = [Index(pages.catalog)]
        return made[-1]

    @pages.ui.get("/")
    def catalogue(request: Request, q: str = "", only: str = "", start: int = 0) -> Response:
        """Features by name, description, owner or tag; `only` stale or unused ones."""
        clocks, served = pages.observed.clocks, pages.service.metrics.served()
        now = time.time()
        states = {view.name: state_of(view, clocks, now) for view in index().views}
        drifts = drift.features(index().views)
        kept = {
            "stale": lambda feature: states[feature.view.name]["look"] == "bad",
            "drifted": lambda feature: drifts[feature.key].look == "bad",
            "unused": lambda feature: not feature.services,
        }.get(only, lambda _: True)
        found = list(filter(kept, index().search(q)))
        start = max(0, start)
        shown = found[start : start + SHOWN]
        groups = [
            {
                "view": view, "state": states[view.name], "entity": _entity(pages.catalog, view),
                "drift": drift.rows(view.name),
                "rows": [_row(f, served, history, drifts) for f in features],
            }
            for view, features in _by_view(shown)
        ]  # fmt: skip
        context = {
            "q": q, "only": only, "groups": groups, "found": len(found),
            "total": len(index().features), "catalog": pages.catalog,
            "start": start, "next": start + SHOWN if start + SHOWN < len(found) else 0,
            "stale": sum(state["look"] == "bad" for state in states.values()),
            "compared": bool(drift.at), "drifted": sum(d.look == "bad" for d in drifts.values()),
        }  # fmt: skip
        part = request.headers.get("hx-target")
        template = {"found": "catalogue-part.html", "more": "catalogue-rows.html"}
        answer = pages.render(request, template.get(part or "", "catalogue.html"), context)
        answer.headers["Vary"] = "HX-Target"
        return answer


def _by_view(features: Sequence[Feature]) -> list[tuple[Any, list[Feature]]]:
    groups = groupby(features, key=lambda feature: feature.view.name)
    return [(found[0].view, found) for _, part in groups for found in [list(part)]]


def _entity(catalog: Catalog, view: ViewPlan | OnDemandPlan) -> str:
    """What a view has a value for; of one at request, what its request must name."""
    if isinstance(view, ViewPlan):
        return ", ".join(key.name for key in view.join_keys) or "everything"
    inputs = [catalog.views[source.view] for source in view.inputs if source.view in catalog.views]
    keys = [key.name for source in inputs for key in source.join_keys]
    return ", ".join(dict.fromkeys([*keys, *(field.name for field in view.request_fields)]))


def _row(
    feature: Feature, served: Mapping[tuple[str, str], Counts], history: History,
    drifts: Mapping[tuple[str, str], State],
) -> dict[str, Any]:  # fmt: skip
    nulls = null_ratio(served.get(feature.key))
    line = "" if nulls is None else drawings.sparkline(null_line(history.served(*feature.key)[1]))
    return {
        "field": feature.field, "services": feature.services, "nulls": nulls, "line": line,
        "drift": drifts[feature.key],
    }  # fmt: skip
