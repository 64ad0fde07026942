"""What a feature service asks for is read from the views that it names, whatever it calls them."""

from __future__ import annotations

from headwater.catalog import (
    Catalog,
    FeatureRefPlan,
    FieldPlan,
    JoinKeyPlan,
    ServicePlan,
    ViewPlan,
)
from service.requests import Planner


def view(name: str, feature: str) -> ViewPlan:
    key = JoinKeyPlan("user_id", "INT64")
    return ViewPlan(name, "row", (key,), (FieldPlan(feature, "INT64"),))


def planned(*references: FeatureRefPlan) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Of each feature its name, the view that it is read from, as what, and by which columns."""
    views = {"a": view("a", "x"), "b": view("b", "y")}
    services = {"s": ServicePlan("s", references)}
    plan = Planner(Catalog("p", "", "", "", views=views, services=services)).plan("s", None, True)
    reads = [plan.reads[output.read] for output in plan.outputs]
    return [
        (output.name, read.reader.view.name, read.features[output.at], read.columns)
        for output, read in zip(plan.outputs, reads, strict=True)
    ]


def test_one_name_for_two_views_is_read_from_each() -> None:
    """One was looked up among the other's features."""
    assert planned(FeatureRefPlan("a", ("x",), "same"), FeatureRefPlan("b", ("y",), "same")) == [
        ("same__x", "a", "x", ("user_id",)),
        ("same__y", "b", "y", ("user_id",)),
    ]


def test_one_view_under_two_names_is_read_by_the_keys_of_each() -> None:
    first = FeatureRefPlan("a", ("x",), "one", {"user_id": "buyer"})
    second = FeatureRefPlan("a", ("x",), "two", {"user_id": "seller"})
    assert planned(first, second) == [
        ("one__x", "a", "x", ("buyer",)),
        ("two__x", "a", "x", ("seller",)),
    ]
