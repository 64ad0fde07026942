"""Views that are registered over HTTP: checked, served, filled, apart from the repository's own."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headwater import catalog_cache, cli
from tests.serving.server import Answer, Running, call, serve
from tests.waiting import until

PATH = "/api/v1/feature-views"
CUSTOMERS = ["ada", "bob", "cleo", "nobody"]
KEYS = {"writer": "write+read", "admin": "read+write+admin"}
MONTH = {
    "name": "customer_month",
    "description": "What a customer spent in a month",
    "owner": "shop@example.com",
    "entities": ["customer"],
    "source": {"stream": "orders"},
    "aggregations": [
        {"function": "sum", "column": "amount", "window": "7d", "name": "spent_7d"},
        {"function": "count", "window": "30d", "tags": {"min": "0"}},
    ],
    "tags": {"freshness_slo": "1d"},
}


def run(*words: str) -> str:
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("http") / "httpshop"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDIS_URL", redis_url)
        run("init", str(folder))
        run("apply", "--repo", str(folder / "feature_repo"))
        yield folder / "feature_repo"


@pytest.fixture(scope="module")
def running(repo: Path, redis_url: str) -> Iterator[Running]:
    entries = [f"{n}:{s}:{hashlib.sha256(n.encode()).hexdigest()}" for n, s in KEYS.items()]
    with serve(repo, redis_url, HEADWATER_API_KEYS=",".join(entries)) as server:
        yield server


def post(running: Running, body: Any, query: str = "", key: str = "admin") -> Answer:
    return running.post(PATH + query, body, {"X-API-Key": key})


def values(running: Running, *features: str) -> list[list[Any]]:
    body = {"features": list(features), "entities": {"customer_id": CUSTOMERS}}
    found = running.post("/get-online-features", body, {"X-API-Key": "admin"}).columns()
    return [found[name.partition(":")[2]]["values"] for name in features]


def test_a_registered_view_is_served_and_filled_like_the_repositorys_own(
    running: Running, repo: Path
) -> None:
    assert post(running, MONTH, key="writer").status == 403
    tried = post(running, MONTH, "?dry_run=true")
    assert (tried.status, tried.json["change"], tried.json["effect"]) == (200, "add", "backfill")
    assert "customer_month" not in catalog_cache.load(repo).views
    made = post(running, MONTH)
    assert made.status == 201, made.body
    assert [f["name"] for f in made.json["features"]] == ["count_30d", "spent_7d"]
    assert made.json["advice"] == []
    listed = running.get(PATH, {"X-API-Key": "writer"}).json
    origins = {view["name"]: view["registered"] for view in listed}
    assert origins == {
        "customer_orders": "by the repository",
        "customer_profile": "by the repository",
        "customer_month": "over HTTP",
    }
    run("rebuild", "--behind", "--repo", str(repo))
    ours, own, counts = values(
        running, "customer_month:spent_7d", "customer_orders:amount_sum_7d",
        "customer_month:count_30d",
    )  # fmt: skip
    assert ours == pytest.approx(own)
    assert counts[3] == 0
    assert all(n > 50 for n in counts[:3])


def test_rows_of_a_batch_source_of_the_repository_make_a_view(running: Running) -> None:
    body = {"name": "tiers", "entities": ["customer"], "source": {"batch": "customers"},
            "features": [{"name": "tier", "type": "STRING"}]}  # fmt: skip
    made = post(running, body)
    assert made.status == 201, made.body
    assert any("nobody owns it" in advice for advice in made.json["advice"])
    headers = {"X-API-Key": "admin"}
    assert running.post("/materialize", {"feature_views": ["tiers"]}, headers).status == 200
    (ours,), (own,) = values(running, "tiers:tier"), values(running, "customer_profile:tier")
    assert ours == own
    assert ours[0] is not None


def test_the_repository_neither_sees_nor_loses_them(running: Running, repo: Path) -> None:
    body = MONTH | {"name": "kept"}
    assert post(running, body).status == 201
    assert run("plan", "--repo", str(repo)) == "Nothing changes.\n"
    file = repo / "features.py"
    text = file.read_text()
    file.write_text(text.replace('name="orders",', 'name="purchases",'))
    rows = json.loads(run("plan", "--repo", str(repo), "--json"))
    file.write_text(text)
    gone = next(row for row in rows if row["name"] == "kept")
    assert (gone["change"], gone["effect"]) == ("remove", "breaking")
    assert "the repository uses no source 'orders'. Use purchases" in gone["reasons"][0]


def test_a_change_that_breaks_is_refused_and_so_is_a_deletion_without_force(
    running: Running, repo: Path
) -> None:
    body = MONTH | {"name": "short_lived"}
    assert post(running, body).status == 201
    assert post(running, body).json["change"] is None
    fewer = body | {"aggregations": MONTH["aggregations"][:1]}  # type: ignore[index]
    refused = post(running, fewer)
    assert refused.status == 409
    assert "short_lived:count_30d: requests for it fail" in refused.json["detail"]
    assert post(running, fewer, "?force=true").status == 200
    assert catalog_cache.load(repo).views["short_lived"].feature_names == ("spent_7d",)
    for query, status in (("", 409), ("?force=true", 204), ("?force=true", 404)):
        answer = delete(running, f"{PATH}/short_lived{query}")
        assert answer.status == status
    body = {"features": ["short_lived:spent_7d"], "entities": {"customer_id": ["ada"]}}
    asked = running.post("/get-online-features", body, {"X-API-Key": "admin"})
    assert asked.status == 404


def delete(running: Running, path: str) -> Answer:
    headers = {"X-API-Key": "admin"}
    return call(urllib.request.Request(running.url + path, None, headers, method="DELETE"), 30)


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"name": "customer_orders"}, 409, "is an object of the repository"),
        ({"name": "a b"}, 422, "Use letters, digits"),
        ({"name": "../a"}, 422, "Use letters, digits"),
        ({"entities": ["user"]}, 422, "there are no entities ['user']. Use customer"),
        ({"source": {"stream": "nope"}}, 422, "no source 'nope'. Use orders"),
        ({"source": {}}, 422, "source is not clear"),
        ({"features": [{"name": "amount"}]}, 422, "either features or aggregations"),
        ({"aggregations": [{"function": "total", "column": "amount"}]}, 422, "no aggregation"),
        ({"aggregations": [{"function": "sum", "column": "x"}]}, 422, "Columns: amount"),
        ({"aggregations": [{"function": "count", "window": "soon"}]}, 422, 'such as "7d"'),
        ({"aggregations": [{"function": "count", "name": "n"}] * 2}, 422, "['n'] twice"),
        ({"tags": {"freshness_slo": "daily"}}, 422, "it is a duration such as"),
        ({"udf": "import os"}, 422, "unknown field `udf`"),
        ({"entities": "customer"}, 422, "Expected `array`"),
    ],
)
def test_a_definition_that_makes_no_sense_is_refused_with_what_would_be_right(
    running: Running, change: dict[str, Any], status: int, said: str
) -> None:
    answer = post(running, MONTH | {"name": "wrong"} | change)
    assert (answer.status, said in answer.json["detail"]) == (status, True), answer.body


def test_a_definition_written_elsewhere_comes_into_use(running: Running, repo: Path) -> None:
    definition = json.dumps(MONTH | {"name": "elsewhere"})
    (repo / "data" / "registered" / "elsewhere.json").write_text(definition)
    body = {"features": ["elsewhere:spent_7d"], "entities": {"customer_id": ["ada"]}}
    until(lambda: running.post("/get-online-features", body, {"X-API-Key": "admin"}).status == 200)
