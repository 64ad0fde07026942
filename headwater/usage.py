"""What features cost and who uses them: the catalogue, the counts and the sizes put together. Pure.

A feature view or a feature can be dropped where no feature service names it and nobody asked for it
within some days. What an on-demand view reads is used by whoever uses that view.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from headwater.catalog import Catalog, FeatureRefPlan, FieldPlan, ViewPlan
from headwater.online.sizes import Size
from headwater.online.usage import Counts, Usage, User

DAY_SECONDS = 86_400.0
#: "view:*", where it is only known that some of a view's features were asked for.
SOME = "*"


def with_views(features: Iterable[str]) -> list[str]:
    """Texts as "view:feature", and "view:" for each of their views."""
    known = list(features)
    return [*known, *dict.fromkeys(f"{text.partition(':')[0]}:" for text in known)]


class _Uses(NamedTuple):
    """(view, feature) -> services that give it; "view:feature" -> who asked for it."""

    services: Mapping[tuple[str, str], tuple[str, ...]]
    asked: Mapping[str, dict[User, Counts]]


def usage_report(
    catalog: Catalog, used: Usage, sizes: Mapping[str, Size], now: float, days: float
) -> dict[str, Any]:
    """One row for each view, dearest first, with its features; and what can be dropped.

    `certain`: whether use was counted for `days`, without which nobody knows who asked before.
    Times are Unix seconds (None: never).
    """
    uses = _Uses(used_by(catalog), _asked(catalog, used.counts))
    since = now - days * DAY_SECONDS
    rows = [_view(view, uses, sizes.get(view.name, Size())) for view in catalog.views.values()]
    rows += [
        _row(name, "on demand", plan.features, uses) for name, plan in catalog.on_demand.items()
    ]
    rows.sort(key=lambda row: (-(row["bytes"] or 0), row["feature_view"]))
    return {
        "counted_since": used.since or None,
        "days": days,
        "certain": bool(used.since) and used.since <= since,
        "views": rows,
        "droppable": list(_droppable(rows, since)),
    }


def used_by(catalog: Catalog) -> dict[tuple[str, str], tuple[str, ...]]:
    """(view, feature) -> the feature services that give it, directly or to an on-demand view."""
    found: dict[tuple[str, str], set[str]] = {}

    def note(service: str, reference: FeatureRefPlan) -> None:
        plan = catalog.on_demand.get(reference.view)
        view = plan or catalog.views.get(reference.view)
        for name in reference.features or (view.feature_names if view else ()):
            found.setdefault((reference.view, name), set()).add(service)
        for source in plan.inputs if plan else ():
            note(service, source)

    for service in catalog.services.values():
        for reference in service.features:
            note(service.name, reference)
    return {key: tuple(sorted(services)) for key, services in found.items()}


def _asked(catalog: Catalog, counts: Mapping[User, Counts]) -> dict[str, dict[User, Counts]]:
    """Feature ("view:" is the whole) -> its users; what was counted for some of a view counts for
    each of its features."""
    found: dict[str, dict[User, Counts]] = {}
    for user, of in counts.items():
        view, _, name = user.feature.partition(":")
        plan = catalog.views.get(view) or catalog.on_demand.get(view)
        names = plan.feature_names if plan and name == SOME else (name,)
        for each in names:
            one = user._replace(feature=f"{view}:{each}")
            users = found.setdefault(one.feature, {})
            users[one] = users.get(one, Counts()).plus(of)
    return found


def _view(view: ViewPlan, uses: _Uses, size: Size) -> dict[str, Any]:
    row = _row(view.name, view.kind, view.features, uses)
    row |= size._asdict()
    row["tiles_per_request"] = size.tiles * row["entities"] / max(row["requests"], 1)
    spans = {a.name: a.window_us // a.hop_us + 1 for a in view.aggregations if a.window_us}
    for feature in row["features"]:
        feature["hops"] = spans.get(feature["feature"])
    return row


def _row(name: str, kind: str, fields: Sequence[FieldPlan], uses: _Uses) -> dict[str, Any]:
    features = [_feature(name, field.name, uses) for field in fields]
    return {
        "feature_view": name,
        "kind": kind,
        **Size()._asdict(),
        "tiles_per_request": 0.0,
        "services": sorted({s for feature in features for s in feature["services"]}),
        **_used(uses.asked.get(f"{name}:", {})),
        "features": features,
    }


def _feature(view: str, name: str, uses: _Uses) -> dict[str, Any]:
    return {
        "feature": name,
        "services": list(uses.services.get((view, name), ())),
        **_used(uses.asked.get(f"{view}:{name}", {})),
    }


def _used(by: Mapping[User, Counts]) -> dict[str, Any]:
    """Who asked, the latest first; the sum of requests for vectors, and of training sets."""
    online = [of for user, of in by.items() if user.purpose == "online"]
    training = [of for user, of in by.items() if user.purpose == "training"]
    users = [
        {"service": u.service, "caller": u.caller, "purpose": u.purpose, **of._asdict()}
        for u, of in sorted(by.items(), key=lambda item: -item[1].last)
    ]
    return {
        "requests": sum(of.requests for of in online),
        "entities": sum(of.entities for of in online),
        "training_sets": sum(of.requests for of in training),
        "last": max((of.last for of in by.values()), default=None),
        "users": users,
    }


def _droppable(rows: Sequence[Mapping[str, Any]], since: float) -> Iterator[dict[str, Any]]:
    for row in rows:
        if all(_is_idle(one, since) for one in (row, *row["features"])):
            yield {
                "feature_view": row["feature_view"], "feature": None, "bytes": row["bytes"],
                "last": row["last"],
            }  # fmt: skip
            continue
        for feature in row["features"]:
            if _is_idle(feature, since):
                yield {
                    "feature_view": row["feature_view"], "feature": feature["feature"],
                    "bytes": None, "last": feature["last"],
                }  # fmt: skip


def _is_idle(row: Mapping[str, Any], since: float) -> bool:
    return not row["services"] and (row["last"] is None or row["last"] < since)
