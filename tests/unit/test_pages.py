"""The frame of the pages: who is signed in, what is refused, found and shipped."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

from headwater import amounts
from headwater.catalog import (
    AggregationPlan,
    BatchSourcePlan,
    Catalog,
    FeatureRefPlan,
    FieldPlan,
    JoinKeyPlan,
    OnDemandPlan,
    ServicePlan,
    ViewPlan,
)
from headwater.catalog import CodePlan as Code
from headwater.online.drift_status import Found, Scored
from service.access import Access
from service.ui import drawings, texts
from service.ui.catalogue import Index
from service.ui.drift import Drift
from service.ui.lineage import lineage
from service.ui.session import LASTS, Sessions, cross_site

ROOT = Path(__file__).parents[2]


def access(*names: str) -> Access:
    entries = (f"{name}:read:{sha256(name.encode()).hexdigest()}" for name in names)
    return Access.parse(",".join(entries))


def test_a_cookie_names_its_key_until_it_is_too_old() -> None:
    sessions = Sessions(access("alice", "bob"), b"secret")
    bob = sessions.issue(access("bob").keys[0], now=1000.0)
    found = sessions.key_of(bob, now=1000.0 + LASTS - 1)
    assert found is not None
    assert found.name == "bob"
    assert sessions.key_of(bob, now=1000.0 + LASTS) is None


def test_no_cookie_holds_that_was_not_issued_here_for_a_key_there_is() -> None:
    sessions = Sessions(access("alice", "bob"), b"secret")
    bob = sessions.issue(access("bob").keys[0], now=1000.0)
    name, until, signature = bob.split(".")
    later = f"{name}.{int(until) + 1}.{signature}"
    other = Sessions(access("bob"), b"another").issue(access("bob").keys[0], now=1000.0)
    for forged in (later, other, "", ".", "..", f"{name}.²5.{signature}", f"{name}.{until}.é"):
        assert sessions.key_of(forged, now=1000.0) is None, forged
    assert Sessions(access("alice"), b"secret").key_of(bob, now=1000.0) is None


def test_what_another_site_sends_is_known_by_what_the_browser_says() -> None:
    here = (b"host", b"features.example:6566")
    assert cross_site([here, (b"sec-fetch-site", b"cross-site")])
    assert cross_site([here, (b"sec-fetch-site", b"same-site")])
    assert cross_site([here, (b"origin", b"https://elsewhere.example")])
    assert cross_site([here, (b"origin", b"null")])
    assert not cross_site([here, (b"sec-fetch-site", b"same-origin")])
    assert not cross_site([here, (b"origin", b"http://features.example:6566")])
    assert not cross_site([here])


def small_catalog() -> Catalog:
    orders = ViewPlan(
        "orders", "row", (JoinKeyPlan("customer", "STRING"),),
        (FieldPlan("amount", "DOUBLE", "What the last order cost"), FieldPlan("city", "STRING")),
        owner="shop@example", tags={"freshness_slo": "10m"},
    )  # fmt: skip
    amounts = ViewPlan("amounts", "row", (), (FieldPlan("mean", "DOUBLE"),))
    ratio = OnDemandPlan(
        "ratio", (FieldPlan("share", "DOUBLE"),), (FeatureRefPlan("orders", ("amount",)),), (),
        Code("ratio", "python", b""),
    )  # fmt: skip
    service = ServicePlan("model", (FeatureRefPlan("ratio", ()),))
    return Catalog(
        "shop", "1", "", "", views={"orders": orders, "amounts": amounts},
        on_demand={"ratio": ratio}, services={"model": service},
    )  # fmt: skip


def test_a_search_looks_everywhere_and_puts_names_first() -> None:
    index = Index(small_catalog())

    def found(text: str) -> list[str]:
        return [feature.field.name for feature in index.search(text)]

    assert found("") == ["mean", "amount", "city", "share"]
    assert found("AMOUNT") == ["amount", "mean"]
    assert found("last cost") == ["amount"]
    assert found("shop@ freshness_slo=10m") == ["amount", "city"]
    assert found("amount nothing") == []


def test_who_uses_a_feature_counts_on_demand_views_between() -> None:
    used = Index(small_catalog()).services
    assert used == {("ratio", "share"): ("model",), ("orders", "amount"): ("model",)}


def test_numbers_are_written_for_people() -> None:
    assert [amounts.lasting(s) for s in (None, 0.25, 59, 90, 7200, 86400 * 30)] == [
        "", "250 ms", "59 s", "1.5 min", "2 h", "30 d",
    ]  # fmt: skip
    assert [texts.ratio(r) for r in (None, 0.0, 0.0004, 0.123, 0.999, 1.0)] == [
        "", "0", "0.04 %", "12 %", "100 %", "100 %",
    ]  # fmt: skip
    assert [amounts.some(n, "view") for n in (0, 1, 2000)] == ["0 views", "1 view", "2,000 views"]
    assert [amounts.size(n) for n in (512, 1536, 5 << 30)] == ["512 B", "1.5 kB", "5 GB"]


def windowed_catalog() -> Catalog:
    """`small_catalog`, whose orders are windows over a column, and who is asked by a view."""
    spent = AggregationPlan("spent_1h", "amount", "sum", 3_600_000_000, 60_000_000)
    bills = BatchSourcePlan("bills", "parquet", "/bills.parquet", "at")
    customer, field = JoinKeyPlan("customer", "STRING"), FieldPlan("spent_1h", "DOUBLE")
    orders = ViewPlan("orders", "window", (customer,), (field,), aggregations=(spent,), batch=bills)
    demand = OnDemandPlan(
        "much", (FieldPlan("is_much", "BOOL"),), (FeatureRefPlan("orders", ()),),
        (FieldPlan("limit", "DOUBLE"),), Code("much", "python", b""),
    )  # fmt: skip
    return Catalog("shop", "1", "", "", views={"orders": orders}, on_demand={"much": demand})


def test_a_windowed_feature_drifts_where_the_column_that_it_is_made_of_does() -> None:
    def state(*checks: Scored) -> tuple[str, str]:
        catalog = windowed_catalog()
        found = Drift(lambda: Found(1.0, checks), lambda of: None)
        return found.feature(catalog.views["orders"], "spent_1h")

    steady = Scored("served", "orders", "spent_1h", "mean", 0.1, 0.2)
    moved = Scored("offline", "orders", "amount", "mean", 0.3, 0.2)
    assert state() == ("none", "")
    assert state(steady) == ("good", "steady")
    assert state(steady, moved) == ("bad", "amount: mean")
    assert state(moved, Scored("served", "orders", "spent_1h", "ks", 9.0, 0.2)) == ("bad", "ks")


def test_a_distribution_says_what_it_is_of_and_against_what() -> None:
    def view(service: str, baseline: dict[str, object], feature: str) -> dict[str, object]:
        bins = {"names": [1.0, 2.5], "baseline": [0.25, 0.75], "current": [1.0, 0.0]}
        about = {"feature": feature, "bins": bins, "checks": []}
        return {"feature_view": "orders", "service": service, "baseline": baseline,
                "features": [about]}  # fmt: skip

    hour = 3_600_000_000
    week = {"from_us": 500 * hour, "until_us": 668 * hour + 7}
    of_week = view("", week, "amount")
    month = view("", {"from_us": hour, "until_us": 668 * hour}, "spent_1h")
    pinned = view("model", {"manifest": "/models/eta.parquet.manifest.json"}, "spent_1h")
    report = {"from_us": 668 * hour, "until_us": 692 * hour}
    reports = {
        "offline": {**report, "views": [of_week]},
        "served": {**report, "views": [month, pinned]},
    }
    drift = Drift(lambda: Found(1.0, ()), reports.get)
    found = drift.of(windowed_catalog().views["orders"], "spent_1h")
    assert [(one["title"], one["against"]) for one in found] == [
        ("amount, before the windows, offline", "the week before"),
        ("Served", "1970-01-01 01:00:00 to 1970-01-28 20:00:00"),
        ("Served through model", "the training set eta.parquet"),
    ]
    (first, second) = found[0]["bins"]
    assert first[:3] == ("up to 1", 0.25, 1.0)
    assert 'class="now"' in first[3]
    assert 'class="now"' not in second[3], "a share of nothing has no bar"


def test_lineage_goes_from_the_sources_to_what_is_computed_at_request() -> None:
    catalog = windowed_catalog()
    columns = lineage(catalog, catalog.on_demand["much"])
    named = [[(box.kind, box.name) for box in column] for column in columns if column]
    assert named == [
        [("parquet source", "bills")],
        [("feature view", "orders"), ("request", "limit")],
        [("on-demand view", "much")],
    ]
    assert columns[1][0].inputs == ("parquet source:bills",)
    assert columns[2][0].inputs == ("feature view:orders", "request:limit")
    picture = drawings.lineage(columns, "much")
    assert picture.count("<path") == 3
    assert picture.count('class="node here"') == 1


def test_the_wheel_has_every_file_of_the_pages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        shipped = set(wheel.namelist())
    files = [f for part in ("templates", "static") for f in (ROOT / "service/ui" / part).rglob("*")]
    wanted = {str(file.relative_to(ROOT)) for file in files if file.is_file()}
    assert "service/ui/static/vendor/htmx.min.js" in wanted
    assert wanted <= shipped
