"""What is wrong, or likely forgotten, in a catalogue's names, owners, tags and objectives. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from headwater.aggregations import natural_type
from headwater.catalog import Catalog, OnDemandPlan, ViewPlan, column_kind
from headwater.quality.budgets import BUDGET_TAGS, budget_mistakes
from headwater.quality.objectives import mistakes

#: Tags that Headwater reads, and on what.
FIELD_TAGS = {"max_null_ratio", "max_drift", "min", "max", "categories", "default"}
VIEW_TAGS = {
    "freshness_slo", "max_served_age", "max_null_ratio", "max_drift", "owner", "default",
    *BUDGET_TAGS,
}  # fmt: skip


class Problem(NamedTuple):
    """`wrong` stops `plan` and `apply`; else it is advice. `field` is "" for the object itself."""

    kind: str
    name: str
    field: str
    text: str
    remedy: str
    wrong: bool


def check(catalog: Catalog) -> list[Problem]:
    """Every problem, in the order of kinds and names."""
    found: list[Problem] = []
    for entity in catalog.entities.values():
        found += _object("entity", entity, set(), wants_owner=False)
    for view in catalog.views.values():
        found += _object("feature view", view, VIEW_TAGS)
        found += _view(view)
        found += _of_stream(catalog, view)
    for on_demand in catalog.on_demand.values():
        found += _object("on-demand feature view", on_demand, VIEW_TAGS)
        found += _computed(on_demand)
    for service in catalog.services.values():
        found += _object("feature service", service, {"owner", "baseline"})
    return found


def _object(kind: str, plan: Any, known: set[str], wants_owner: bool = True) -> Iterator[Problem]:
    if re.search(r"[\s:/?#%]", plan.name):
        yield Problem(
            kind, plan.name, "", "its name cannot be part of VIEW:FEATURE or of an address",
            "Use letters, digits, _ and -", True,
        )  # fmt: skip
    elif "__" in plan.name:
        yield Problem(
            kind, plan.name, "", "two underlines part view and feature in full feature names",
            "Use one", False,
        )  # fmt: skip
    if not plan.description:
        yield Problem(kind, plan.name, "", "it has no description", 'Add description="..."', False)
    owner = plan.owner or plan.tags.get("owner", "")
    if wants_owner and not owner:
        yield Problem(
            kind, plan.name, "", "nobody owns it",
            'Add owner="team@example.com", or the tag "owner"', False,
        )  # fmt: skip
    if "@" in owner and not re.fullmatch(r"[^@\s]+@[^@\s]+", owner):
        yield Problem(
            kind, plan.name, "", f"its owner {owner!r} is no address", "Use NAME@HOST, or a name",
            True,
        )  # fmt: skip
    yield from _near_misses(kind, plan.name, "", plan.tags, known)


def _view(view: ViewPlan) -> Iterator[Problem]:
    kind = "feature view"
    for field, text in (*mistakes(view), *budget_mistakes(view)):
        yield Problem(kind, view.name, field, text, "Correct the tag, or drop it", True)
    names = [feature.name for feature in view.features]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem(
            kind, view.name, name, "its schema has it twice", "Give one of them another name", True
        )
    for feature in view.features:
        yield from _near_misses(kind, view.name, feature.name, feature.tags, FIELD_TAGS)
        bounded = sorted({"min", "max"} & feature.tags.keys())
        if bounded and column_kind(feature.type) == "object":
            yield Problem(
                kind, view.name, feature.name,
                f"it is a {feature.type}, and {' and '.join(bounded)} bound numbers",
                'Name its values in the tag "categories"', True,
            )  # fmt: skip
        if re.search(r"[\s:]", feature.name):
            yield Problem(
                kind, view.name, feature.name, "its name cannot be part of VIEW:FEATURE",
                "Use letters, digits, _ and -", True,
            )  # fmt: skip


def _of_stream(catalog: Catalog, view: ViewPlan) -> Iterator[Problem]:
    """What messages must have: keys, and of a row view the features. A udf may still make them."""
    stream = catalog.streams.get(view.stream)
    if stream is None or view.udf is not None:
        return
    held = {stream.field_mapping.get(field.name, field.name) for field in stream.fields}
    remedy = f"Their fields: {', '.join(sorted(held))}"
    for key in view.join_keys:
        if key.name not in held:
            yield Problem(
                "feature view", view.name, "",
                f"messages of {view.stream} have no {key.name!r}, which is a key of its entities",
                remedy, True,
            )  # fmt: skip
    for feature in view.features if view.kind == "row" else ():
        if feature.name not in held:
            yield Problem(
                "feature view", view.name, feature.name,
                f"messages of {view.stream} have no such field", remedy, True,
            )  # fmt: skip
    for a in view.aggregations:
        natural = natural_type(a.function, a.column_type)
        if (column_kind(natural) == "object") != (column_kind(a.output_type) == "object"):
            yield Problem(
                "feature view", view.name, a.name,
                f"it is declared as {a.output_type}, and {a.function} of {a.column_type} gives "
                f"{natural}", "Correct its dtype", True,
            )  # fmt: skip


def _computed(view: OnDemandPlan) -> Iterator[Problem]:
    """What is computed at request time is as old as its inputs."""
    for tag in sorted(BUDGET_TAGS.keys() & view.tags.keys()):
        yield Problem(
            "on-demand feature view", view.name, "",
            f"tag {tag} has nothing to hold: its values are computed when they are asked for",
            "Give it to the views that it is computed from", True,
        )  # fmt: skip


def _near_misses(
    kind: str, name: str, field: str, tags: Mapping[str, str], known: set[str]
) -> Iterator[Problem]:
    for tag in sorted(tags.keys() - known):
        near = difflib.get_close_matches(tag, known, 1, 0.8)
        if near:
            yield Problem(
                kind, name, field, f"Headwater reads no tag {tag!r} here",
                f"{near[0]!r} may be meant", False,
            )  # fmt: skip
