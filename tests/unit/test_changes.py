"""What `plan` says of each kind of change: safe, a backfill, or breaking, and for whom."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from headwater.catalog import (
    AggregationPlan,
    BatchSourcePlan,
    Catalog,
    CodePlan,
    EntityPlan,
    FeatureRefPlan,
    FieldPlan,
    JoinKeyPlan,
    OnDemandPlan,
    ServicePlan,
    StreamSourcePlan,
    ViewPlan,
)
from headwater.changes import Change, compare

HOUR = 3_600_000_000
replace = msgspec.structs.replace


def window(name: str, hours: int = 1, kind: str = "INT64") -> AggregationPlan:
    return AggregationPlan(name, "amount", "sum", hours * HOUR, 60_000_000, 0.0, "INT64", kind)


def windows(*made: AggregationPlan) -> ViewPlan:
    fields = tuple(FieldPlan(a.name, a.output_type) for a in made)
    return ViewPlan(
        "spending", "window", (JoinKeyPlan("user_id", "INT64"),), fields, stream="orders",
        aggregations=made,
    )  # fmt: skip


PROFILE = ViewPlan(
    "profile", "row", (JoinKeyPlan("user_id", "INT64"),),
    (FieldPlan("country", "STRING"), FieldPlan("age", "INT64")), ttl_us=24 * HOUR,
    batch=BatchSourcePlan("users", "parquet", "users.parquet", "at"),
)  # fmt: skip
SEEN = ViewPlan(
    "seen", "row", (JoinKeyPlan("user_id", "INT64"),), (FieldPlan("page", "STRING"),), push="seen"
)
RATIO = OnDemandPlan(
    "ratio", (FieldPlan("share", "DOUBLE"),), (FeatureRefPlan("spending", ("day",)),), (),
    CodePlan("ratio", "python", b"1", "def ratio(x): ..."),
)  # fmt: skip
BASE = Catalog(
    "shop", "1", "", "",
    entities={"user": EntityPlan("user", "user_id", "INT64")},
    streams={
        "orders": StreamSourcePlan(
            "orders", ("orders",), "", "json",
            (FieldPlan("amount", "INT64"), FieldPlan("at", "UNIX_TIMESTAMP")), "at",
            log_path="log",
        )
    },
    views={
        "spending": windows(window("hour"), window("day", 24), window("idle", 2)),
        "profile": PROFILE,
        "seen": SEEN,
    },
    on_demand={"ratio": RATIO},
    services={
        "risk": ServicePlan(
            "risk", (FeatureRefPlan("spending", ("hour",)), FeatureRefPlan("ratio", ("share",)))
        )
    },
)  # fmt: skip


def with_view(view: ViewPlan) -> Catalog:
    return replace(BASE, views={**BASE.views, view.name: view})


def the_change(planned: Catalog) -> Change:
    (found,) = compare(BASE, planned)
    return found


def test_the_same_catalogue_changes_nothing_whatever_its_pickled_code() -> None:
    again = replace(RATIO, code=replace(RATIO.code, body=b"2"))
    assert compare(BASE, replace(BASE, on_demand={"ratio": again})) == []


def test_everything_is_added_to_nothing_and_nothing_of_it_breaks() -> None:
    found = compare(None, BASE)
    assert {c.change for c in found} == {"add"}
    assert "breaking" not in {c.effect for c in found}
    assert next(c for c in found if c.name == "spending").effect == "backfill"


def test_a_new_window_needs_a_backfill_of_its_view_and_breaks_nobody() -> None:
    more = (*BASE.views["spending"].aggregations, window("week", 168))
    change = the_change(with_view(windows(*more)))
    assert (change.change, change.effect) == ("change", "backfill")
    assert [(f.change, f.name, f.effect) for f in change.features] == [("add", "week", "backfill")]
    assert "orders" in change.reasons[0]


@pytest.mark.parametrize(
    ("name", "effect", "services"), [("hour", "breaking", ("risk",)), ("idle", "backfill", ())]
)
def test_another_window_under_the_same_name_breaks_the_services_that_use_it(
    name: str, effect: str, services: tuple[str, ...]
) -> None:
    held = BASE.views["spending"].aggregations
    change = the_change(
        with_view(windows(*(window(name, 5) if a.name == name else a for a in held)))
    )
    assert change.effect == effect
    assert [(f.name, f.effect, f.services) for f in change.features] == [(name, effect, services)]
    assert "over 5h" in change.features[0].reason


def test_a_service_is_broken_through_the_on_demand_view_that_it_uses() -> None:
    held = BASE.views["spending"].aggregations
    change = the_change(
        with_view(windows(*(window("day", 5) if a.name == "day" else a for a in held)))
    )
    assert change.features[0].services == ("risk",)
    assert change.broken == [
        "spending:day: it was sum(amount) over 1d in steps of 1m and is sum(amount) over 5h in "
        "steps of 1m (feature services risk)"
    ]


def test_a_removed_feature_breaks_even_where_no_service_uses_it() -> None:
    held = BASE.views["spending"].aggregations
    change = the_change(with_view(windows(*(a for a in held if a.name != "idle"))))
    assert change.effect == "breaking"
    assert change.broken == ["spending:idle: requests for it fail"]


def profile(**more: object) -> ViewPlan:
    return replace(PROFILE, **more)


@pytest.mark.parametrize(
    ("view", "effect", "said"),
    [
        (profile(description="who"), "safe", "its description changes"),
        (profile(ttl_us=HOUR), "safe", "its ttl was 1d and is 1h"),
        (profile(features=PROFILE.features[::-1]), "backfill", "loaded from users"),
        (profile(features=(*PROFILE.features, FieldPlan("tier", "STRING"))), "backfill", "users"),
        (profile(join_keys=(JoinKeyPlan("user", "INT64"),)), "breaking", "user_id INT64"),
        (profile(online=False), "breaking", "served no longer"),
        (replace(SEEN, features=(*SEEN.features, FieldPlan("n", "INT64"))), "breaking", "pushed"),
        (replace(SEEN, stream="orders", push=""), "backfill", "the push source seen"),
    ],
)
def test_a_view_as_a_whole(view: ViewPlan, effect: str, said: str) -> None:
    change = the_change(with_view(view))
    assert change.effect == effect
    assert said in "; ".join(change.reasons)


def stream(change: Callable[[StreamSourcePlan], StreamSourcePlan]) -> Catalog:
    return replace(BASE, streams={"orders": change(BASE.streams["orders"])})


@pytest.mark.parametrize(
    ("planned", "effect", "said"),
    [
        (stream(lambda s: replace(s, topics=("new",))), "safe", "its topics"),
        (stream(lambda s: replace(s, fields=(FieldPlan("amount", "DOUBLE"), s.fields[1]))),
         "breaking", "stored events' amount was INT64 and is DOUBLE"),
        (stream(lambda s: replace(s, timestamp_field="sent")), "breaking", "event time was at"),
        (stream(lambda s: replace(s, history=PROFILE.batch)), "backfill", "headwater rebuild"),
        (replace(BASE, services={}), "breaking", "requests for it fail"),
        (replace(BASE, services={"risk": replace(
            BASE.services["risk"], features=BASE.services["risk"].features[:1])}),
         "breaking", "it no longer gives ratio:share"),
        (replace(BASE, on_demand={"ratio": replace(
            RATIO, code=replace(RATIO.code, text="def ratio(y): ..."))}),
         "breaking", "its function changes"),
    ],
)  # fmt: skip
def test_sources_services_and_code(planned: Catalog, effect: str, said: str) -> None:
    change = the_change(planned)
    assert change.effect == effect
    assert said in "; ".join([*change.reasons, *(f.reason for f in change.features)])
