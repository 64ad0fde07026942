"""Objectives in tags, and a view's three clocks against them."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from headwater.catalog import FieldPlan, JoinKeyPlan, ViewPlan
from headwater.quality.budgets import budget_mistakes, budgets, default_value
from headwater.quality.freshness import freshness
from headwater.quality.objectives import mistakes, objectives, parse_duration

VIEW = ViewPlan(
    "trips",
    "row",
    (JoinKeyPlan("city", "STRING"),),
    (FieldPlan("fare", "DOUBLE"), FieldPlan("kind", "STRING")),
    owner="rides@example.org",
    tags={"freshness_slo": "10m"},
)
NOW = 1_700_000_000.0


def clocks(**ages: float) -> dict[tuple[str, str], int]:
    return {(stage, "trips"): round((NOW - age) * 1e6) for stage, age in ages.items()}


def tagged(field: dict[str, str] | None = None, **tags: str) -> ViewPlan:
    fields = (FieldPlan("fare", "DOUBLE", tags=field or {}), FieldPlan("kind", "STRING"))
    return msgspec.structs.replace(VIEW, tags=tags, features=fields)


@pytest.mark.parametrize(
    ("ages", "state", "fresh", "behind"),
    [
        ({"source": 5, "offline": 6, "online": 5}, "fresh", True, []),
        ({"source": 600, "offline": 600, "online": 600}, "fresh", True, []),
        ({"source": 601, "offline": 601, "online": 601}, "stale", False, ["source"]),
        ({"source": 5, "offline": 5, "online": 900}, "stale", False, ["online"]),
        ({"source": 5, "offline": 900, "online": 900}, "stale", False, ["offline", "online"]),
        ({"source": 5, "offline": 400, "online": 5}, "fresh", True, ["offline"]),
        ({"source": 5, "online": 5}, "fresh", True, ["offline"]),
        ({}, "never loaded", False, ["source"]),
        ({"online": 20}, "fresh", True, []),
    ],
)
def test_a_view_has_a_state_and_the_stage_that_is_at_fault(
    ages: dict[str, float], state: str, fresh: bool, behind: list[str]
) -> None:
    found = freshness(VIEW, clocks(**ages), NOW)
    assert (found["state"], found["fresh"], found["behind"]) == (state, fresh, behind)
    assert found["slo_seconds"] == 600
    assert found["owner"] == "rides@example.org"


def test_without_an_objective_a_view_is_neither_fresh_nor_stale() -> None:
    view = tagged()
    assert freshness(view, clocks(online=1e6), NOW)["state"] == "no objective"
    assert freshness(view, {}, NOW)["state"] == "never loaded"
    assert freshness(view, {}, NOW)["fresh"] is None


def test_objectives_are_read_from_the_views_and_the_fields_tags() -> None:
    view = tagged(
        {"max_null_ratio": "0", "min": "0", "categories": "a, b"},
        freshness_slo="1.5h", max_served_age="1d", max_null_ratio="0.2",
    )  # fmt: skip
    found = objectives(view)
    assert (found.freshness, found.served_age) == (5400, 86400)
    assert found.null_ratios == {"fare": 0.0, "kind": 0.2}
    assert found.ranges == {"fare": (0.0, float("inf"))}
    assert found.categories == {"fare": frozenset({"a", "b"})}


@pytest.mark.parametrize(
    ("field", "tags", "message"),
    [
        ({}, {"freshness_slo": "soon"}, "freshness_slo of view 'trips' is 'soon'"),
        ({}, {"max_served_age": "5"}, "max_served_age of view 'trips' is '5'"),
        ({}, {"max_null_ratio": "5%"}, "max_null_ratio of view 'trips' is '5%'"),
        ({"max_null_ratio": "1.2"}, {}, "max_null_ratio of feature trips:fare is 1.2"),
        ({"min": "3", "max": "1"}, {}, "min and max of feature trips:fare are 3 and 1"),
    ],
)
def test_a_tag_that_makes_no_sense_is_refused_by_apply_and_stops_nobody_else(
    field: dict[str, str], tags: dict[str, str], message: str
) -> None:
    view = tagged(field, **tags)
    (mistake,) = mistakes(view)
    assert re.search(message, mistake.text)
    assert mistake.field == ("fare" if field else "")
    assert objectives(view)[:2] == (None, None)
    assert freshness(view, clocks(online=5), NOW)["state"] == "no objective"


def test_budgets_are_read_with_the_defaults_that_they_put() -> None:
    view = tagged(
        {"default": "0.5"}, default="none", freshness_slo="10m", past_freshness="default",
        max_served_age="1h", past_served_age="refuse",
    )  # fmt: skip
    put, refuse = budgets(view)
    assert put == ("past_freshness", 600_000_000, "default", {"fare": 0.5, "kind": "none"})
    assert refuse == ("past_served_age", 3_600_000_000, "refuse", {})
    assert budgets(tagged(freshness_slo="10m")) == []


@pytest.mark.parametrize(
    ("field", "tags", "at", "message"),
    [
        ({}, {"freshness_slo": "10m", "past_freshness": "drop"}, "", "it is one of serve, null"),
        ({}, {"past_served_age": "null"}, "", "nothing to hold it to; give max_served_age"),
        ({}, {"freshness_slo": "1h", "past_freshness": "default", "default": "0"}, "", ""),
        ({"default": "0"}, {"freshness_slo": "1h", "past_freshness": "default"}, "kind",
         "trips:kind has no tag default"),
        ({"default": "x"}, {"freshness_slo": "1h", "past_freshness": "default", "default": ""},
         "fare", "is 'x', which is no DOUBLE"),
    ],
)  # fmt: skip
def test_a_budget_that_makes_no_sense_is_refused_and_enforces_nothing(
    field: dict[str, str], tags: dict[str, str], at: str, message: str
) -> None:
    view = tagged(field, **tags)
    found = budget_mistakes(view)
    assert [mistake.field for mistake in found] == ([at] if message else [])
    assert all(message in mistake.text for mistake in found)
    assert len(budgets(view)) == (not message)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("INT64", "-3", -3), ("INT32", "7", 7), ("DOUBLE", "1e3", 1000.0), ("BOOL", "True", True),
        ("FLOAT", "0.1", 0.10000000149011612), ("STRING", "", ""), ("BYTES", "YQ==", b"a"),
        ("UNIX_TIMESTAMP", "1970-01-01T00:00:01Z", 1_000_000), ("STRING_LIST", '["a"]', ["a"]),
        ("INT64_LIST", "[1, 2]", [1, 2]), ("BOOL_LIST", "[true]", [True]),
    ],
)  # fmt: skip
def test_a_default_is_of_its_features_type(kind: str, text: str, value: Any) -> None:
    assert default_value(FieldPlan("f", kind), text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [("INT32", "3000000000"), ("INT64", "1.5"), ("DOUBLE", "nan"), ("BOOL", "yes"), ("BYTES", "%"),
     ("UNIX_TIMESTAMP", "soon"), ("INT64_LIST", "3"), ("INT64_LIST", '["x"]'), ("MAP", "{}")],
)  # fmt: skip
def test_a_default_of_another_type_is_refused(kind: str, text: str) -> None:
    with pytest.raises(ValueError):
        default_value(FieldPlan("f", kind), text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86400), ("1w", 604800), ("1.5 h", 5400),
     ("", 0), ("5", 0), ("1.2.3s", 0), ("-5m", 0)],
)  # fmt: skip
def test_durations(text: str, seconds: Any) -> None:
    assert parse_duration(text) == seconds
