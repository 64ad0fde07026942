"""What is served past its objective: as it is, null, the declared default, or a refusal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest

from headwater import catalog_cache
from headwater.local.process import free_ports
from headwater.offline.feature_log import FeatureLog
from headwater.online.connect import connect
from headwater.online.values import ViewReader
from headwater.online.writer import OnlineWriter
from service.rpc.messages import SERVING, message
from tests.serving import project
from tests.serving.server import Running, serve
from tests.waiting import until

DEFINITIONS = """
from datetime import timedelta
import pandas as pd
from feast import (Entity, FeatureService, FeatureView, Field, FileSource, KafkaSource,
                   StreamFeatureView, ValueType)
from feast.aggregation import Aggregation
from feast.data_format import JsonFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Float64, Int64, String

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
rows = FileSource(name="rows", path="data/none.parquet", timestamp_field="event_timestamp")
DOUBLES = [Field(name="a", dtype=Float64), Field(name="b", dtype=Float64)]
MIXED = [
    Field(name="n", dtype=Int64, tags={"default": "-1"}),
    Field(name="x", dtype=Float64, tags={"default": "0.5"}),
    Field(name="flag", dtype=Bool, tags={"default": "true"}),
    Field(name="word", dtype=String, tags={"default": "unknown"}),
    Field(name="list", dtype=Array(Int64), tags={"default": "[1, 2]"}),
]


def view(name, schema, **tags):
    return FeatureView(name=name, entities=[user], ttl=timedelta(days=30), source=rows, tags=tags,
                       schema=[Field(name="user_id", dtype=Int64), *schema])


kept = view("kept", DOUBLES, freshness_slo="1h", past_freshness="serve")
nulled = view("nulled", DOUBLES, freshness_slo="1h", past_freshness="null")
nulled_mixed = view("nulled_mixed", MIXED, freshness_slo="1h", past_freshness="null")
defaulted = view("defaulted", MIXED, freshness_slo="1h", past_freshness="default")
refused = view("refused", DOUBLES, freshness_slo="1h", past_freshness="refuse")
returning = view("returning", DOUBLES, freshness_slo="1h", past_freshness="refuse")
aged = view("aged", DOUBLES, max_served_age="1h", past_served_age="null")
aged_mixed = view("aged_mixed", MIXED, max_served_age="1h", past_served_age="default")
both = view("both", DOUBLES, freshness_slo="3h", past_freshness="refuse", max_served_age="1h",
            past_served_age="default", default="9")
plain = view("plain", DOUBLES, freshness_slo="1h")
clicks = KafkaSource(
    name="clicks", topic="clicks", kafka_bootstrap_servers="127.0.0.1:1", timestamp_field="at",
    batch_source=rows, message_format=JsonFormat("user_id bigint, x double, at timestamp"),
)


def windows(name, **tags):
    return StreamFeatureView(
        name=name, entities=[user], source=clicks, timestamp_field="at",
        schema=[Field(name="user_id", dtype=Int64), Field(name="count_x", dtype=Int64),
                Field(name="mean_x", dtype=Float64)],
        tags={"freshness_slo": "1h", **tags},
        aggregations=[
            Aggregation(column="x", function=f, time_window=timedelta(hours=6), name=f"{f}_x")
            for f in ("count", "mean")
        ],
    )


clicked = windows("clicked", past_freshness="null")
clicked_default = windows("clicked_default", past_freshness="default", default="7")


@on_demand_feature_view(
    sources=[defaulted], schema=[Field(name="twice", dtype=Float64)], mode="python",
)
def doubled(inputs):
    return {"twice": [None if x is None else 2 * x for x in inputs["x"]]}


audited = FeatureService(name="audited", features=[nulled, plain])
"""
VALUES: dict[str, Any] = {"a": 1.0, "b": 2.0, "n": 5, "x": 2.5, "flag": False, "word": "w",
                          "list": [9]}  # fmt: skip
DEFAULTS = {"n": -1, "x": 0.5, "flag": True, "word": "unknown", "list": [1, 2]}
MIXED, DOUBLES = ["n", "x", "flag", "word", "list"], ["a", "b"]
ROW_VIEWS = {
    "kept": DOUBLES, "nulled": DOUBLES, "nulled_mixed": MIXED, "defaulted": MIXED,
    "refused": DOUBLES, "returning": DOUBLES, "aged": DOUBLES, "aged_mixed": MIXED,
    "both": DOUBLES, "plain": DOUBLES,
}  # fmt: skip
#: Who has a row two hours old; who has none. FRESH has a new one in the views of `max_served_age`.
OLD, NOBODY, FRESH = 1, 99, 2


class Site:
    def __init__(self, server: Running, port: int, repo: Path, redis_url: str) -> None:
        self.server, self.repo = server, repo
        self.writer = OnlineWriter(connect(redis_url), "past")
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def write(self, view: str, features: list[str], user: int, age: timedelta) -> None:
        at = (datetime.now(UTC) - age).isoformat()
        columns = {name: [VALUES[name]] for name in features}
        self.server.fill({view: {"user_id": [user], "event_timestamp": [at], **columns}})

    def ask(self, view: str, features: list[str], users: list[int]) -> dict[str, Any]:
        names = [f"{view}:{f}" for f in features]
        return self.server.features(names, {"user_id": users}).columns()

    def arrow(self, view: str, features: list[str], users: list[int]) -> pa.Table:
        answer = self.server.post(
            "/get-online-features",
            {"features": [f"{view}:{f}" for f in features], "entities": {"user_id": users}},
            {"Accept": "application/vnd.apache.arrow.stream"},
        )
        assert answer.status == 200, answer.body
        return pa.ipc.open_stream(answer.body).read_all()

    def rpc(self, view: str, features: list[str], users: list[int]) -> Any:
        request = message("feast.serving.GetOnlineFeaturesRequest")()
        request.features.val.extend([f"{view}:{f}" for f in features])
        for one in users:
            request.entities["user_id"].val.add().int64_val = one
        call = self.channel.unary_unary(
            f"/{SERVING}/GetOnlineFeatures",
            request_serializer=lambda r: r.SerializeToString(),
            response_deserializer=message("feast.serving.GetOnlineFeaturesResponse").FromString,
        )
        return call(request, timeout=30)

    def count(self, metric: str, *labels: str) -> float:
        """The sum of a metric's series that have all of some labels."""
        lines = self.server.get("/metrics").body.decode().splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith(f"featurestore_{metric}{{") and all(one in line for one in labels)
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Site]:
    repo = project.write(tmp_path_factory.mktemp("past") / "repo", project.ours(redis_url), "past")
    (repo / "features.py").write_text(DEFINITIONS)
    project.apply(repo)
    (port,) = free_ports(1)
    with serve(
        repo,
        redis_url,
        HEADWATER_GRPC_PORT=str(port),
        HEADWATER_FEATURE_LOG=str(repo / "log"),
        HEADWATER_FEATURE_LOG_SECONDS="1",
    ) as server:
        made = Site(server, port, repo, redis_url)
        for view, features in ROW_VIEWS.items():
            made.write(view, features, OLD, timedelta(hours=2))
        for view in ("aged", "aged_mixed"):
            made.write(view, ROW_VIEWS[view], FRESH, timedelta(0))
        # Until the service has looked, a view that was never loaded is past its objective.
        until(lambda: made.server.features(["both:a"], {"user_id": [OLD]}).status == 200)
        yield made
        made.channel.close()


def statuses(columns: dict[str, Any], features: list[str]) -> set[tuple[str, ...]]:
    return {tuple(columns[f]["statuses"]) for f in features}


@pytest.mark.parametrize("users", [[OLD], [OLD, NOBODY, OLD]])
def test_a_stale_views_values_are_null_where_its_tag_says_so(site: Site, users: list[int]) -> None:
    for view in ("nulled", "nulled_mixed"):
        features = ROW_VIEWS[view]
        got = site.ask(view, features, users)
        told = tuple("NOT_FOUND" if u == NOBODY else "OUTSIDE_MAX_AGE" for u in users)
        assert statuses(got, features) == {told}
        assert {v for f in features for v in got[f]["values"]} == {None}
        table = site.arrow(view, features, users)
        assert all(table[f].null_count == len(users) for f in features)
        assert table[f"{features[0]}__status"].to_pylist() == list(told)
        results = site.rpc(view, features, users).results[1:]
        assert [[v.WhichOneof("val") for v in r.values] for r in results] == [
            [None] * len(users)
        ] * len(features)


@pytest.mark.parametrize("users", [[OLD], [OLD, NOBODY]])
def test_a_stale_views_values_are_its_defaults_where_its_tag_says_so(
    site: Site, users: list[int]
) -> None:
    got = site.ask("defaulted", MIXED, users)
    told = ("PRESENT", "NOT_FOUND")[: len(users)]
    assert statuses(got, MIXED) == {told}
    assert {f: got[f]["values"][0] for f in MIXED} == DEFAULTS
    row = site.arrow("defaulted", MIXED, users).slice(0, 1).to_pylist()[0]
    assert {f: row[f] for f in MIXED} == DEFAULTS
    n, x, flag, word, several = (
        r.values[0] for r in site.rpc("defaulted", MIXED, users).results[1:]
    )
    assert (n.int64_val, x.double_val, flag.bool_val, word.string_val) == (-1, 0.5, True, "unknown")
    assert list(several.int64_list_val.val) == [1, 2]


def test_an_on_demand_view_computes_with_what_is_served(site: Site) -> None:
    assert site.ask("doubled", ["twice"], [OLD])["twice"]["values"] == [1.0]


@pytest.mark.parametrize("users", [[OLD], [OLD, NOBODY]])
def test_a_stale_view_is_refused_with_its_name_and_age(site: Site, users: list[int]) -> None:
    before = site.count("requests_refused_total", 'feature_view="refused"')
    asked = {"features": ["refused:a", "plain:b"], "entities": {"user_id": users}}
    answer = site.server.post("/get-online-features", {**asked, "full_feature_names": True})
    assert answer.status == 503
    assert answer.headers["Retry-After"]
    assert "feature view 'refused' has no newer event than one of 72" in answer.json["detail"]
    assert "freshness_slo allows 3600 s" in answer.json["detail"]
    with pytest.raises(grpc.RpcError) as error:
        site.rpc("refused", DOUBLES, users)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "'refused'" in error.value.details()
    assert site.count("requests_refused_total", 'feature_view="refused"') == before + 2
    # Who has no row has no value that could be old.
    assert site.ask("refused", DOUBLES, [NOBODY])["a"]["statuses"] == ["NOT_FOUND"]


def test_a_view_that_is_fresh_again_is_served(site: Site) -> None:
    asked = ["returning:a"], {"user_id": [OLD]}
    assert site.server.features(*asked).status == 503
    site.write("returning", DOUBLES, FRESH, timedelta(0))
    until(lambda: site.server.features(*asked).status == 200)


def test_windows_of_a_stale_view_are_past_it_and_of_a_fresh_one_empty(site: Site) -> None:
    """A window's end moves with the clock, so that without events it is empty, and wrong."""
    features = ["count_x", "mean_x"]
    got = site.ask("clicked", features, [OLD, NOBODY])
    assert statuses(got, features) == {("OUTSIDE_MAX_AGE",) * 2}
    got = site.ask("clicked_default", features, [OLD])
    assert [got[f]["values"] for f in features] == [[7], [7.0]]
    site.writer.raise_clocks({("online", "clicked_default"): time.time_ns() // 1000})
    until(lambda: site.ask("clicked_default", features, [OLD])["count_x"]["values"] == [0])
    assert site.ask("clicked_default", features, [OLD])["mean_x"]["statuses"] == ["NULL_VALUE"]


def test_the_age_of_each_value_counts_where_that_is_held(site: Site) -> None:
    got = site.ask("aged", DOUBLES, [OLD, FRESH, NOBODY])
    assert statuses(got, DOUBLES) == {("OUTSIDE_MAX_AGE", "PRESENT", "NOT_FOUND")}
    assert got["b"]["values"] == [None, 2.0, None]
    assert site.ask("aged", DOUBLES, [OLD])["a"]["statuses"] == ["OUTSIDE_MAX_AGE"]
    assert site.ask("aged", DOUBLES, [FRESH])["a"]["values"] == [1.0]
    got = site.ask("aged_mixed", MIXED, [FRESH, OLD])
    assert {f: got[f]["values"] for f in MIXED} == {f: [VALUES[f], DEFAULTS[f]] for f in MIXED}
    assert site.ask("both", DOUBLES, [OLD])["a"]["values"] == [9.0]


def test_what_was_done_is_counted_by_reason(site: Site) -> None:
    def past(view: str, objective: str, action: str) -> float:
        return site.count(
            "online_past_objective_total", f'feature_view="{view}"', f'objective="{objective}"',
            f'action="{action}"',
        )  # fmt: skip

    def nulls(reason: str) -> float:
        return site.count(
            "online_nulls_total", 'feature_view="nulled"', 'feature="a"', f'reason="{reason}"'
        )

    cases = (
        ("kept", "freshness_slo", "serve"), ("nulled", "freshness_slo", "null"),
        ("defaulted", "freshness_slo", "default"), ("aged", "max_served_age", "null"),
    )  # fmt: skip
    for view, objective, action in cases:
        features = ROW_VIEWS[view]
        before, gone = past(view, objective, action), (nulls("stale"), nulls("absent"))
        site.ask(view, features, [OLD, NOBODY])
        assert past(view, objective, action) == before + len(features)
        if view == "nulled":
            assert (nulls("stale"), nulls("absent")) == (gone[0] + 1, gone[1] + 1)
    assert site.ask("kept", DOUBLES, [OLD])["a"]["values"] == [1.0]
    assert site.count("online_past_objective_total", 'feature_view="plain"') == 0


def test_a_row_that_cannot_be_read_is_null_as_an_error(site: Site) -> None:
    def errors() -> float:
        return site.count("online_nulls_total", 'feature_view="plain"', 'reason="error"')

    site.write("plain", DOUBLES, 50, timedelta(0))
    catalog = catalog_cache.load(site.repo)
    (key,) = ViewReader(catalog.project, catalog.views["plain"]).keys([[50]], 1)
    client: Any = site.writer.client
    client.set(key, b"\x00other bytes")
    before = errors()
    assert site.ask("plain", DOUBLES, [50, OLD])["a"]["statuses"] == ["NOT_FOUND", "PRESENT"]
    assert site.ask("plain", DOUBLES, [50])["a"]["statuses"] == ["NOT_FOUND"]
    assert errors() == before + 4


def test_the_feature_log_says_which_vectors_were_replaced(site: Site) -> None:
    site.server.features("audited", {"user_id": [OLD, NOBODY]}, full_feature_names=True)
    log = FeatureLog(str(site.repo / "log" / "audited"))
    until(lambda: log.exists() and any(p.table.num_rows for p in log.read()))
    (part,) = log.read()
    assert part.table["__replaced__nulled"].to_pylist()[:2] == [True, False]
    assert part.table["nulled__a__status"].to_pylist()[:2] == [4, 3]
    assert "__replaced__plain" not in part.table.column_names
