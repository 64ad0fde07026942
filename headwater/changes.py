"""What another catalogue changes, object by object and feature by feature, and what it breaks.

A change is *safe*; or it needs a *backfill*: values are made again from the log or the batch
source, and until then they are missing; or it is *breaking*: requests for it fail, models get a
value that means something else under the same name, or stored values cannot be made again. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from headwater.catalog import (
    AggregationPlan,
    Catalog,
    FieldPlan,
    OnDemandPlan,
    ServicePlan,
    StreamSourcePlan,
    ViewPlan,
)

Verb = Literal["add", "change", "remove"]
Effect = Literal["safe", "backfill", "breaking"]
_RANK: dict[Effect, int] = {"safe": 0, "backfill": 1, "breaking": 2}
KINDS = {
    "entities": "entity",
    "streams": "Kafka source",
    "push_sources": "push source",
    "views": "feature view",
    "on_demand": "on-demand feature view",
    "services": "feature service",
}


class FeatureChange(msgspec.Struct, frozen=True):
    """One feature's part. `services`: those that a breaking change breaks."""

    change: Verb
    name: str
    effect: Effect
    reason: str
    services: tuple[str, ...] = ()


class Change(msgspec.Struct, frozen=True):
    """One object's part; `effect` is the worst of its own and of its features'."""

    change: Verb
    kind: str
    name: str
    effect: Effect = "safe"
    reasons: tuple[str, ...] = ()
    features: tuple[FeatureChange, ...] = ()

    @property
    def broken(self) -> list[str]:
        """What is broken, one line each."""
        lines = [
            f"{self.name}:{f.name}: {f.reason}"
            + (f" (feature services {', '.join(f.services)})" if f.services else "")
            for f in self.features
            if f.effect == "breaking"
        ]
        if self.effect == "breaking" and not lines:
            lines = [f"{self.kind} {self.name}: {', '.join(self.reasons)}"]
        return lines


def compare(current: Catalog | None, planned: Catalog) -> list[Change]:
    """Every difference, kind by kind; each kind's added, changed, then removed objects by name."""
    found: list[Change] = []
    users = _users(current) if current else {}
    by_kind: dict[str, Callable[[str, Any, Any], Change]] = {
        "views": lambda name, old, new: _view(name, old, new, users),
        "on_demand": lambda name, old, new: _on_demand(name, old, new, users),
        "services": _service,
        "streams": _stream,
    }
    for attribute, kind in KINDS.items():
        old = getattr(current, attribute) if current else {}
        new = getattr(planned, attribute)
        one = by_kind.get(attribute, _plain_object(kind))
        added, gone = new.keys() - old.keys(), old.keys() - new.keys()
        found += [one(name, None, new[name]) for name in sorted(added)]
        found += [
            one(name, old[name], new[name])
            for name in sorted(new.keys() & old.keys())
            if without_code(old[name]) != without_code(new[name])
        ]
        found += [one(name, old[name], None) for name in sorted(gone)]
    return found


def without_code(plan: Any) -> Any:
    """A plan without its code's payload, which differs from one pickling to the next."""
    data = msgspec.to_builtins(plan)
    for key in ("udf", "code"):
        if isinstance(data, dict) and data.get(key):
            data[key].pop("body", None)
    return data


def outdated_rows(old: ViewPlan, new: ViewPlan) -> bool:
    """Whether stored rows of a row view mean something else from now on, and are made again."""
    return new.kind == "row" and _meaning(old) != _meaning(new)


def _meaning(view: ViewPlan) -> tuple[object, ...]:
    code = (view.udf.text or view.udf.name) if view.udf else ""
    return view.kind, view.schema_fingerprint, view.stream, view.join_keys, code


# -- who uses what -----------------------------------------------------------------------------


def _users(catalog: Catalog) -> dict[tuple[str, str], tuple[str, ...]]:
    """(view, feature) -> the services that give it, by themselves or through on-demand views."""
    found: dict[tuple[str, str], set[str]] = {}
    for service in catalog.services.values():
        for view, feature in _reached(catalog, service):
            found.setdefault((view, feature), set()).add(service.name)
    return {key: tuple(sorted(names)) for key, names in found.items()}


def _reached(catalog: Catalog, service: ServicePlan) -> Iterator[tuple[str, str]]:
    for ref in service.features:
        yield from ((ref.view, feature) for feature in ref.features)
        if ref.view in catalog.on_demand:
            for inner in catalog.on_demand[ref.view].inputs:
                yield from ((inner.view, feature) for feature in inner.features)


# -- kinds of objects --------------------------------------------------------------------------


def _change(
    kind: str, name: str, old: Any, new: Any, effect: Effect, reasons: list[str],
    features: list[FeatureChange] | None = None,
) -> Change:  # fmt: skip
    verb: Verb = "add" if old is None else "remove" if new is None else "change"
    worst = max([effect, *(f.effect for f in features or ())], key=lambda e: _RANK[e])
    return Change(verb, kind, name, worst, tuple(reasons), tuple(features or ()))


def _plain_object(kind: str) -> Callable[[str, Any, Any], Change]:
    def one(name: str, old: Any, new: Any) -> Change:
        return _change(kind, name, old, new, "safe", _attributes(old, new))

    return one


def _attributes(old: Any, new: Any) -> list[str]:
    """Which attributes differ, by name; none where an object comes or goes."""
    if old is None or new is None:
        return []
    before, after = without_code(old), without_code(new)
    return [
        f"its {key.replace('_', ' ')} changes"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _stream(name: str, old: StreamSourcePlan | None, new: StreamSourcePlan | None) -> Change:
    kind = KINDS["streams"]
    if old is None or new is None:
        return _change(kind, name, old, new, "safe", [])
    before = {f.name: f.type for f in old.fields}
    after = {f.name: f.type for f in new.fields}
    both = sorted(before.keys() & after.keys())
    retyped = [f"{n} was {before[n]} and is {after[n]}" for n in both if before[n] != after[n]]
    reasons = [f"the stored events' {text}" for text in retyped]
    if old.timestamp_field != new.timestamp_field:
        reasons.append(f"event time was {old.timestamp_field} and is {new.timestamp_field}")
    if old.log_path != new.log_path:
        reasons.append("the events so far stay in another log")
    effect: Effect = "breaking" if reasons else "safe"
    moved = old.history != new.history
    if moved:
        reasons.append("its history changes: `headwater rebuild` folds the new one")
    if effect == "safe" and moved:
        effect = "backfill"
    return _change(kind, name, old, new, effect, reasons or _attributes(old, new))


def _service(name: str, old: ServicePlan | None, new: ServicePlan | None) -> Change:
    kind = KINDS["services"]
    if old is None or new is None:
        gone = new is None
        reasons = ["requests for it fail"] if gone else []
        return _change(kind, name, old, new, "breaking" if gone else "safe", reasons)
    before, after = _columns(old), _columns(new)
    lost, gained = sorted(before - after), sorted(after - before)
    reasons = [f"it no longer gives {', '.join(lost)}"] if lost else []
    reasons += [f"it gives {', '.join(gained)} besides"] if gained else []
    return _change(
        kind, name, old, new, "breaking" if lost else "safe", reasons or _attributes(old, new)
    )


def _columns(service: ServicePlan) -> set[str]:
    return {f"{ref.name_to_use}:{feature}" for ref in service.features for feature in ref.features}


Users = Mapping[tuple[str, str], tuple[str, ...]]


def _on_demand(
    name: str, old: OnDemandPlan | None, new: OnDemandPlan | None, users: Users
) -> Change:
    kind = KINDS["on_demand"]
    features = _come_and_gone(name, old, new, users, "safe", "computed at each request")
    if old is None or new is None:
        return _change(kind, name, old, new, "safe", [], features)
    causes = []
    if _text(old.code) != _text(new.code):
        causes.append("its function changes")
    if old.inputs != new.inputs:
        causes.append("its inputs change")
    if _types(old.request_fields) != _types(new.request_fields):
        causes.append("its request fields change")
    features += _kept(name, old, new, users, causes, {}, "safe")
    return _change(kind, name, old, new, "safe", causes or _attributes(old, new), features)


def _view(name: str, old: ViewPlan | None, new: ViewPlan | None, users: Users) -> Change:
    kind = KINDS["views"]
    refill, how = _refill(new) if new else ("safe", "")
    features = _come_and_gone(name, old, new, users, refill, how)
    if old is None or new is None:
        return _change(kind, name, old, new, "safe", [how] if how else [], features)
    keys_before = [f"{k.name} {k.type}" for k in old.join_keys]
    keys_after = [f"{k.name} {k.type}" for k in new.join_keys]
    if keys_before != keys_after:
        reason = f"its keys were {', '.join(keys_before)} and are {', '.join(keys_after)}"
        return _change(kind, name, old, new, "breaking", [reason], features)
    causes = []
    if old.kind != new.kind:
        causes.append(f"it was a {old.kind} view and is a {new.kind} view")
    if (old.stream, old.push) != (new.stream, new.push):
        causes.append(f"it was fed by {_fed(old)} and is fed by {_fed(new)}")
    if _text(old.udf) != _text(new.udf):
        causes.append("its function changes")
    redefined = {
        a.name: _redefinition(b, a)
        for a in new.aggregations
        for b in old.aggregations
        if b.name == a.name and _definition(b) != _definition(a)
    }
    features += _kept(name, old, new, users, causes, redefined, refill)
    effect, reasons = _whole(old, new, refill, how, causes)
    return _change(kind, name, old, new, effect, reasons or _attributes(old, new), features)


def _whole(
    old: ViewPlan, new: ViewPlan, refill: Effect, how: str, causes: list[str]
) -> tuple[Effect, list[str]]:
    """What happens to a view's stored values, beside its features' own changes."""
    reasons = list(causes)
    remade = causes or (
        old.window_fingerprint != new.window_fingerprint
        if new.kind == "window"
        else old.schema_fingerprint != new.schema_fingerprint
    )
    if remade:
        return refill, [*reasons, how]
    if old.batch != new.batch and new.batch is not None and not new.stream:
        return "backfill", [*reasons, how]
    if old.online and not new.online:
        return "breaking", [*reasons, "it is served no longer"]
    if not old.online and new.online:
        return refill, [*reasons, how]
    if old.ttl_us != new.ttl_us:
        reasons.append(f"its ttl was {span(old.ttl_us)} and is {span(new.ttl_us)}")
    return "safe", reasons


def _refill(view: ViewPlan) -> tuple[Effect, str]:
    """How a view's values are made anew, and what that means for those that are stored."""
    if not view.online:
        return "safe", ""
    if view.stream:
        return "backfill", f"filled from the log of {view.stream}"
    if view.push:
        return "breaking", "rows that were pushed are not found until they are pushed again"
    if view.batch is not None:
        return "backfill", f"loaded from {view.batch.name} by materialize"
    return "breaking", "its rows are not found until they are written again"


# -- features ----------------------------------------------------------------------------------


def _come_and_gone(
    name: str, old: ViewPlan | OnDemandPlan | None, new: ViewPlan | OnDemandPlan | None,
    users: Users, refill: Effect, how: str,
) -> list[FeatureChange]:  # fmt: skip
    before = set(old.feature_names) if old else set()
    after = set(new.feature_names) if new else set()
    # What is new has no values yet that could be lost.
    effect: Effect = "safe" if refill == "breaking" else refill
    how = how if effect == refill else ""
    found = [FeatureChange("add", f, effect, how) for f in sorted(after - before)]
    return found + [
        FeatureChange("remove", f, "breaking", "requests for it fail", users.get((name, f), ()))
        for f in sorted(before - after)
    ]


def _kept(
    name: str, old: ViewPlan | OnDemandPlan, new: ViewPlan | OnDemandPlan, users: Users,
    causes: list[str], redefined: Mapping[str, str], refill: Effect,
) -> list[FeatureChange]:  # fmt: skip
    """Features that are there before and after, and mean something else."""
    before, found = {f.name: f for f in old.features}, []
    for field in new.features:
        held = before.get(field.name)
        if held is None:
            continue
        reasons = list(causes)
        if held.type != field.type:
            reasons.append(f"it was {held.type} and is {field.type}")
        if field.name in redefined:
            reasons.append(redefined[field.name])
        if reasons:
            services = users.get((name, field.name), ())
            effect: Effect = "breaking" if services else refill
            found.append(FeatureChange("change", field.name, effect, "; ".join(reasons), services))
        elif held != field:
            text = "its description or tags change"
            found.append(FeatureChange("change", field.name, "safe", text))
    return found


def _definition(a: AggregationPlan) -> tuple[Any, ...]:
    return a.function, a.column, a.window_us, a.hop_us, a.parameter, a.column_type


def _redefinition(old: AggregationPlan, new: AggregationPlan) -> str:
    return f"it was {definition_text(old)} and is {definition_text(new)}"


def definition_text(a: AggregationPlan) -> str:
    """Such as "mean(dep_delay) over 1h in steps of 1m"."""
    column = "*" if a.column in {"", "*"} else a.column
    more = f", {a.parameter:g}" if a.parameter else ""
    if a.window_us is None:
        return f"{a.function}({column}{more}) over the whole past"
    return f"{a.function}({column}{more}) over {span(a.window_us)} in steps of {span(a.hop_us)}"


def span(us: int) -> str:
    """A length of time in the largest unit that divides it: "90s", "7d"; "none" for 0."""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        if us and us % (size * 1_000_000) == 0:
            return f"{us // (size * 1_000_000)}{unit}"
    return f"{us / 1e6:g}s" if us else "none"


def _types(fields: tuple[FieldPlan, ...]) -> dict[str, str]:
    return {field.name: field.type for field in fields}


def _text(code: Any) -> str:
    return (code.text or code.name) if code else ""


def _fed(view: ViewPlan) -> str:
    if view.stream:
        return f"the Kafka source {view.stream}"
    return f"the push source {view.push}" if view.push else "its batch source"
