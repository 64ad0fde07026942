"""Pages of one view and of one feature: what it is, where it comes from, how it has been."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fastapi import Request
from starlette.responses import Response

from headwater import registered
from headwater.catalog import AggregationPlan, Catalog, FieldPlan, OnDemandPlan, ViewPlan
from headwater.changes import span
from headwater.errors import BadRequestError
from headwater.quality.freshness import STAGES
from headwater.quality.objectives import objectives
from headwater.where import Definitions
from service.metrics import REASONS
from service.ui import charts, drawings, snippets
from service.ui.catalogue import Index, null_line, null_ratio, state_of
from service.ui.drift import Drift
from service.ui.examples import Examples
from service.ui.history import Counts, History
from service.ui.lineage import lineage, sources
from service.ui.pages import Pages

#: Reasons of a null that are told even where there was none.
_USUAL = 3
_KINDS = {"row": "latest row", "window": "windows over a stream"}


class Views:
    """What the pages of views and of features share."""

    def __init__(self, pages: Pages, history: History, examples: Examples) -> None:
        self.pages, self.history, self._examples = pages, history, examples
        self._index = Index(pages.catalog)
        self._places: Definitions | None = None

    def find(self, name: str) -> ViewPlan | OnDemandPlan:
        """Raises BadRequestError (404) for a view there is not."""
        catalog = self.pages.catalog
        found = catalog.views.get(name) or catalog.on_demand.get(name)
        if found is None:
            raise BadRequestError(
                f"there is no feature view {name!r}; search the catalogue for it", 404
            )
        if self._index.catalog is not catalog:
            self._index, self._places = Index(catalog), None
        return found

    def place(self, view: ViewPlan | OnDemandPlan, field: str = "") -> str:
        """ "FILE:LINE" of the definition, or that it was registered over HTTP; "" where unknown."""
        repo = self.pages.service.repo
        if view.name in registered.read(repo):
            return "registered over HTTP"
        if self._places is None:
            self._places = Definitions(repo)
        kind = "feature view" if isinstance(view, ViewPlan) else "on-demand feature view"
        return self._places.at(kind, view.name, field)

    def features(self, view: ViewPlan | OnDemandPlan) -> list[dict[str, Any]]:
        """A row for each feature: what it is, its nulls, who uses it."""
        served = self.pages.service.metrics.served()
        return [
            {
                "field": field, "definition": _definition(view, field),
                **self.nulls(served, view.name, field.name),
                "services": self._index.services.get((view.name, field.name), ()),
            }
            for field in view.features
        ]  # fmt: skip

    def nulls(
        self, served: Mapping[tuple[str, str], Counts], view: str, feature: str
    ) -> dict[str, Any]:
        ratio = null_ratio(served.get((view, feature)))
        if ratio is None:
            return {"nulls": None, "line": ""}
        looks = self.history.served(view, feature)[1]
        return {"nulls": ratio, "line": drawings.sparkline(null_line(looks))}

    def freshness(self, view: ViewPlan | OnDemandPlan) -> dict[str, Any]:
        """The state, the clocks, and their chart."""
        now, clocks = time.time(), self.pages.observed.clocks
        state = state_of(view, clocks, now)
        latest = np.array([clocks.get((stage, view.name), 0) for stage in STAGES], np.int64)
        times, before = self.history.clocks(view.name)
        chart = charts.ages(times, before, now, latest, state["slo_seconds"])
        seconds = now - self.history.started
        return {"state": state, "chart": charts.encoded(chart), "since_seconds": min(seconds, 7200)}

    def snippets(self, request: Request, asked: dict[str, Any]) -> dict[str, str]:
        url = f"{request.url.scheme}://{request.url.netloc}"
        keyed = bool(self.pages.service.access)
        return {
            "curl": snippets.curl(url, asked, keyed),
            "python": snippets.python(url, asked, keyed),
        }

    def asked(self, view: ViewPlan | OnDemandPlan, names: Sequence[str]) -> dict[str, Any]:
        """A request for some features of a view."""
        texts = [f"{view.name}:{name}" for name in names]
        plan = self.pages.service.planner.plan(None, texts, False)
        return {"features": texts, "entities": self._examples.entities(plan)}


def add(pages: Pages, history: History, drift: Drift, examples: Examples) -> None:
    """Add the routes of views and features."""
    views = Views(pages, history, examples)

    @pages.ui.get("/views/{view}")
    def view_page(request: Request, view: str) -> Response:
        """A view: its definition, lineage, freshness and features."""
        plan = views.find(view)
        first = plan.feature_names[:3]
        context = {
            "view": plan, "kind": _kind(plan), "place": views.place(plan),
            "facts": _facts(pages.catalog, plan), "features": views.features(plan),
            "windows": drawings.windows(_windows(plan)),
            "lineage": drawings.lineage(lineage(pages.catalog, plan), plan.name),
            "code": _code(plan), "at_request": isinstance(plan, OnDemandPlan),
            **views.freshness(plan),
            **views.snippets(request, views.asked(plan, first)),
        }  # fmt: skip
        return pages.render(request, "view.html", context)

    @pages.ui.get("/features/{view}/{feature:path}")
    def feature_page(request: Request, view: str, feature: str) -> Response:
        """A feature: its definition, lineage, nulls and freshness."""
        plan = views.find(view)
        field = next((f for f in plan.features if f.name == feature), None)
        if field is None:
            raise BadRequestError(
                f"view {view!r} has no feature {feature!r}; it has "
                f"{', '.join(plan.feature_names[:20])}", 404,
            )  # fmt: skip
        counts = pages.service.metrics.served().get(
            (view, feature), np.zeros(1 + len(REASONS), np.int64)
        )
        times, looks = history.served(view, feature)
        aggregation = _aggregation(plan, feature)
        marked = (aggregation.window_us or 0, aggregation.hop_us) if aggregation else None
        context = {
            "view": plan, "field": field, "kind": _kind(plan), "place": views.place(plan, feature),
            "definition": _definition(plan, field), "facts": _feature_facts(plan, field),
            "windows": drawings.windows(_windows(plan), marked),
            "lineage": drawings.lineage(lineage(pages.catalog, plan, feature), plan.name),
            "served": int(counts[0]), "ratio": null_ratio(counts),
            "reasons": [
                (*charts.NULLS[reason], int(counts[i + 1]), counts[i + 1] / max(counts[0], 1))
                for i, reason in enumerate(REASONS.values())
                if i < _USUAL or counts[i + 1]
            ],
            "limit": _null_limit(plan, feature),
            "compared": drift.of(plan, feature), "compared_at": drift.at,
            "at_request": isinstance(plan, OnDemandPlan), "inputs": _inputs(pages.catalog, plan),
            "code": _code(plan) if isinstance(plan, OnDemandPlan) else "",
            "nulls_chart": charts.encoded(charts.nulls(times, looks)),
            **views.freshness(plan), **views.snippets(request, views.asked(plan, [feature])),
        }  # fmt: skip
        return pages.render(request, "feature.html", context)


def _null_limit(view: ViewPlan | OnDemandPlan, feature: str) -> float | None:
    return objectives(view).null_ratios.get(feature) if isinstance(view, ViewPlan) else None


def _kind(view: ViewPlan | OnDemandPlan) -> str:
    return _KINDS[view.kind] if isinstance(view, ViewPlan) else "computed at request"


def _aggregation(view: ViewPlan | OnDemandPlan, feature: str) -> AggregationPlan | None:
    found = view.aggregations if isinstance(view, ViewPlan) else ()
    return next((a for a in found if a.name == feature), None)


def _windows(view: ViewPlan | OnDemandPlan) -> list[tuple[int, int]]:
    found = view.aggregations if isinstance(view, ViewPlan) else ()
    return [(a.window_us, a.hop_us) for a in found if a.window_us]


def _definition(view: ViewPlan | OnDemandPlan, field: FieldPlan) -> str:
    """One line that says what a value is."""
    if isinstance(view, OnDemandPlan):
        return f"computed by {view.code.name} when it is asked for"
    a = _aggregation(view, field.name)
    if a is None:
        return "the newest row's value"
    what = "events" if a.column in {"", "*"} else a.column
    parameter = f"{a.parameter:g}, " if a.function in {"quantile", "last_n", "first_n"} else ""
    over = "the whole history" if a.window_us is None else f"the last {span(a.window_us)}"
    return f"{a.function}({parameter}{what}) over {over}"


def _facts(catalog: Catalog, view: ViewPlan | OnDemandPlan) -> list[tuple[str, str]]:
    """Names and values, without those that are empty."""
    if isinstance(view, OnDemandPlan):
        inputs = [f"{s.view} ({', '.join(s.features) or 'all features'})" for s in view.inputs]
        request = [f"{f.name} ({f.type.lower()})" for f in view.request_fields]
        found = [("From", "; ".join(inputs)), ("And of the request", ", ".join(request))]
    else:
        keys = [f"{key.name} ({key.type.lower()})" for key in view.join_keys]
        promised = objectives(view)
        found = [
            ("Entity", ", ".join(keys) or "none: one row for everybody"),
            ("From", "; ".join(f"{node.kind} {node.name}" for node in sources(catalog, view))),
            ("TTL", span(view.ttl_us) if view.ttl_us else "no limit"),
            ("Freshness objective", span(int(promised.freshness * 1e6)) if promised.freshness
             else ""),
            ("Events are transformed by", view.udf.name if view.udf else ""),
        ]  # fmt: skip
    tags = ", ".join(f"{name}={value}" for name, value in view.tags.items())
    return [pair for pair in [*found, ("Owner", view.owner), ("Tags", tags)] if pair[1]]


def _feature_facts(view: ViewPlan | OnDemandPlan, field: FieldPlan) -> list[tuple[str, str]]:
    found = [("Type", field.type.lower())]
    a = _aggregation(view, field.name)
    if a is not None:
        length = "all events" if a.window_us is None else (
            f"{span(a.window_us)}; its start moves on in steps of {span(a.hop_us)}")  # fmt: skip
        found += [("Window", length), ("Without events", "0" if a.function == "count" else "null")]
    if isinstance(view, ViewPlan):
        promised = objectives(view)
        low, high = promised.ranges.get(field.name, (None, None))
        limit = promised.null_ratios.get(field.name)
        found += [
            ("Range", "" if low is None else f"{low:g} to {high:g}"),
            ("Categories", ", ".join(sorted(promised.categories.get(field.name, ())))),
            ("Null objective", "" if limit is None else f"at most {limit:.4g} of the values"),
        ]
    tags = ", ".join(f"{name}={value}" for name, value in field.tags.items())
    return [pair for pair in [*found, ("Owner", view.owner), ("Tags", tags)] if pair[1]]


def _inputs(catalog: Catalog, view: ViewPlan | OnDemandPlan) -> list[tuple[str, str]]:
    """(view, feature) of all that is computed from; nothing of a view that is stored."""
    sources = view.inputs if isinstance(view, OnDemandPlan) else ()
    return [
        (source.view, name)
        for source in sources
        for name in source.features or catalog.views[source.view].feature_names
    ]


def _code(view: ViewPlan | OnDemandPlan) -> str:
    """The text of what transforms a view's events or computes it, where the registry has it."""
    code = view.code if isinstance(view, OnDemandPlan) else view.udf
    return code.text if code else ""
