"""`headwater drift`: each feature of a span of time against its baseline, from the sketches."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from headwater.catalog import Catalog, FieldPlan, OnDemandPlan, ViewPlan
from headwater.errors import HeadwaterError
from headwater.offline.manifest import Manifest
from headwater.offline.sketch_table import SketchTable
from headwater.quality import distances
from headwater.quality.drift import Check, Span, compare
from headwater.quality.feature_sketches import HOUR_US, FeatureSketch
from headwater.quality.volume import volume

DAY_US = 24 * HOUR_US
#: What a span is compared with where nothing else is asked for: so much before it.
BASELINE_US = 7 * DAY_US
#: The past that an hour's rows are held against.
PAST_US = 28 * DAY_US
#: An hour counts as over so long after its end.
GRACE_US = 300_000_000
#: The tag of a feature service with the path of its training set's manifest.
BASELINE_TAG = "baseline"
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

Of = Literal["offline", "served", "predictions"]


class Asked(msgspec.Struct, frozen=True):
    """What to compare. Times in microseconds, 0 is the default: the last day against the seven
    before. A whole hour counts where it begins in a span. Of predictions, a view is a model."""

    of: Of = "offline"
    view: str = ""
    service: str = ""
    from_us: int = 0
    until_us: int = 0
    baseline_from_us: int = 0
    baseline_until_us: int = 0
    baseline: str = ""


class Times(msgspec.Struct, frozen=True):
    """The span and its baseline, microseconds, each from whole hours on."""

    from_us: int
    until_us: int
    baseline_from_us: int
    baseline_until_us: int

    @classmethod
    def of(cls, asked: Asked, now_us: int) -> Times:
        """Raises HeadwaterError for a span that ends before it begins."""
        until = asked.until_us or now_us
        since = asked.from_us or until - DAY_US
        ends = asked.baseline_until_us or since
        begins = asked.baseline_from_us or ends - BASELINE_US
        if since >= until or begins >= ends:
            raise HeadwaterError("a span ends after it begins: check --from and --to")
        return cls(since // HOUR_US * HOUR_US, until, begins // HOUR_US * HOUR_US, ends)


def report(catalog: Catalog, table: SketchTable, asked: Asked, repo: Path) -> dict[str, Any]:
    """What was compared, as JSON can hold it:

    {of, made_at (s), from_us, until_us, baseline: {manifest | from_us, until_us}, compared,
     alarms: [check], views: [{feature_view, service, baseline, rows, baseline_rows,
     checks: [check], features: [{feature, type, kind, current, baseline, bins, checks: [check]}]}]}

    Of predictions, feature_view is the model and feature its version. What services with a
    baseline of their own served is there once more, with `service`. `repo` is where their tags'
    paths begin. A check is {feature_view, feature, check, score, threshold, noise, limit, alarm,
    detail}; `current` and `baseline` are {rows, nulls, null_ratio, mean, std, min, max, quantiles,
    distinct, top}; `bins` {names, baseline, current} are shares, by the bins' upper edges.
    """
    now_us = time.time_ns() // 1000
    times = Times.of(asked, now_us)
    manifest = _manifest(catalog, asked, repo)
    views = [
        _view(table, view, asked, times, manifest, now_us) for view in _views(catalog, table, asked)
    ]
    for service in _pinned(catalog, asked):
        of_service = msgspec.structs.replace(asked, service=service)
        views += report(catalog, table, of_service, repo)["views"]
    checks = [c for v in views for c in (*v["checks"], *_of_features(v))]
    return {
        "of": asked.of, "service": asked.service, "made_at": now_us / 1e6,
        "from_us": times.from_us, "until_us": times.until_us,
        "baseline": _baseline(times, manifest),
        "compared": len(checks), "alarms": [check for check in checks if check["alarm"]],
        "views": views,
    }  # fmt: skip


def _baseline(times: Times, manifest: tuple[Path, Any] | None) -> dict[str, Any]:
    if manifest is not None:
        return {"manifest": str(manifest[0])}
    return {"from_us": times.baseline_from_us, "until_us": times.baseline_until_us}


def _of_features(view: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for feature in view["features"]:
        yield from feature["checks"]


def _pinned(catalog: Catalog, asked: Asked) -> list[str]:
    """Services that are compared with their own training sets, where nothing else is asked."""
    if asked.of != "served" or asked.service or asked.baseline or asked.baseline_from_us:
        return []
    return [name for name, s in catalog.services.items() if s.tags.get(BASELINE_TAG)]


def _views(catalog: Catalog, table: SketchTable, asked: Asked) -> list[ViewPlan]:
    """Those asked for; on-demand views are there as what they give."""
    if asked.of == "predictions":
        models = table.views("predictions")
        return [ViewPlan(m, "row", (), ()) for m in models if not asked.view or m == asked.view]
    every = {**catalog.views, **{n: _as_view(v) for n, v in catalog.on_demand.items()}}
    if asked.view and asked.view not in every:
        raise HeadwaterError(f"there is no feature view {asked.view!r}; there are {sorted(every)}")
    if asked.service and asked.service not in catalog.services:
        known = sorted(catalog.services)
        raise HeadwaterError(f"there is no feature service {asked.service!r}; there are {known}")
    names = set(every)
    if asked.service:
        names = {reference.view for reference in catalog.services[asked.service].features}
        for name in names & catalog.on_demand.keys():
            names |= {reference.view for reference in catalog.on_demand[name].inputs}
    return [v for n, v in every.items() if n in names and (not asked.view or n == asked.view)]


def _as_view(plan: OnDemandPlan) -> ViewPlan:
    fields: tuple[FieldPlan, ...] = plan.features
    return ViewPlan(plan.name, "row", (), fields, owner=plan.owner, tags=plan.tags)


def _manifest(
    catalog: Catalog, asked: Asked, repo: Path
) -> tuple[Path, dict[str, dict[str, FeatureSketch]]] | None:
    """The training set that the baseline is pinned to, and its sketches by view and feature."""
    if asked.baseline_from_us or asked.baseline_until_us:
        if asked.baseline:
            raise HeadwaterError("give --baseline or its times, not both")
        return None
    if asked.of == "predictions":
        return None
    path = Path(asked.baseline) if asked.baseline else None
    if path is None and asked.service and asked.of == "served":
        tag = catalog.services[asked.service].tags.get(BASELINE_TAG, "")
        path = repo / tag if tag else None
    return None if path is None else (path, Manifest.read(path).sketches())


def _view(
    table: SketchTable, view: ViewPlan, asked: Asked, times: Times,
    manifest: tuple[Path, dict[str, dict[str, FeatureSketch]]] | None, now_us: int,
) -> dict[str, Any]:  # fmt: skip
    service = asked.service or None if asked.of == "served" else None
    current = table.span(asked.of, view.name, times.from_us, times.until_us, service)
    if manifest is not None:
        baseline = Span(manifest[1].get(view.name, {}))
    else:
        baseline = table.span(
            asked.of, view.name, times.baseline_from_us, times.baseline_until_us, service
        )
    checks = compare(view, baseline, current)
    of_view = _volume(table, view, current, times, now_us) if asked.of == "offline" else []
    by_feature: dict[str, list[Check]] = {}
    for check in checks:
        by_feature.setdefault(check.feature, []).append(check)
    return {
        "feature_view": view.name,
        "service": asked.service,
        "baseline": _baseline(times, manifest),
        "rows": sum(current.hours.values()),
        "baseline_rows": sum(baseline.hours.values()) or _most(baseline),
        "checks": [_check(view.name, check) for check in of_view],
        "features": [
            _feature(view.name, name, baseline.features[name], current.features[name], found)
            for name, found in by_feature.items()
        ],
    }


def _most(span: Span) -> int:
    return max((sketch.rows for sketch in span.features.values()), default=0)


def _volume(
    table: SketchTable, view: ViewPlan, current: Span, times: Times, now_us: int
) -> list[Check]:
    """Rows against the same hours of the past. A batch view's count up to its newest one: when
    the next are due, nothing says."""
    until = min(times.until_us, now_us - GRACE_US)
    if not view.stream:
        until = min(until, max(current.hours, default=0) + HOUR_US)
    past = table.hours("offline", view.name, times.from_us - PAST_US, times.from_us)
    return volume(past, current.hours, times.from_us, until)


def _check(view: str, check: Check) -> dict[str, Any]:
    return {"feature_view": view, **check.as_json()}


def _feature(
    view: str, name: str, baseline: FeatureSketch, current: FeatureSketch, checks: list[Check]
) -> dict[str, Any]:
    return {
        "feature": name, "type": current.type, "kind": current.kind,
        "current": summary(current), "baseline": summary(baseline),
        "bins": _bins(baseline, current), "checks": [_check(view, check) for check in checks],
    }  # fmt: skip


def summary(sketch: FeatureSketch) -> dict[str, Any]:
    """What a sketch tells, as JSON can hold it."""
    found: dict[str, Any] = {
        "rows": sketch.rows, "nulls": sketch.nulls, "null_ratio": sketch.null_ratio,
    }  # fmt: skip
    if sketch.kind == "number" and sketch.known:
        quantiles = sketch.quantiles(QUANTILES)
        found |= {
            "mean": sketch.mean, "std": sketch.std, "min": sketch.low, "max": sketch.high,
            "quantiles": {str(q): v for q, v in zip(QUANTILES, quantiles, strict=True)},
        }  # fmt: skip
    elif sketch.kind == "category":
        counts, _ = sketch.counts()
        most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        found |= {"distinct": sketch.distinct_values(), "top": [list(item) for item in most[:20]]}
    return found


def _bins(baseline: FeatureSketch, current: FeatureSketch) -> dict[str, Any] | None:
    """The shares that were compared, for a picture."""
    if baseline.kind != current.kind or not (baseline.known and current.known):
        return None
    if current.kind == "other":
        return None
    number = current.kind == "number"
    shares = (distances.number_shares if number else distances.category_shares)(baseline, current)
    return {
        "names": shares.names,
        "baseline": (shares.baseline / max(shares.baseline.sum(), 1)).tolist(),
        "current": (shares.current / max(shares.current.sum(), 1)).tolist(),
    }
