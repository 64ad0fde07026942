"""The running service: kinds of keys and values, names, pushes, catalogue changes, Arrow."""

from __future__ import annotations

import asyncio
import base64
import random
import subprocess
import sys
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater import catalog_cache
from headwater.client import AsyncClient, Client
from headwater.errors import BadRequestError
from tests.serving import project
from tests.serving.server import Running, serve
from tests.waiting import until

ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture(scope="module")
def running(repo: Path, redis_url: str) -> Iterator[Running]:
    with serve(repo, redis_url) as server:
        server.fill(project.frames())
        yield server


def test_views_without_an_entity_have_one_row_for_everybody(running: Running) -> None:
    found = running.features(["everywhere:rate", "doubles:d0"], {"user_id": [1, 2]}).columns()
    assert found["rate"]["values"] == [0.25, 0.25]
    alone = running.features(["everywhere:day"], {}).columns()
    assert alone["day"]["values"] == ["monday"]


def test_a_service_renames_its_views_in_full_names(running: Running) -> None:
    found = running.features("renamed", {"user_id": [1]}, full_feature_names=True).columns()
    assert list(found) == ["user_id", "other__d1", "other__d0", "numbers__i64"]


def test_features_come_in_the_order_asked_for(running: Running) -> None:
    asked = ["doubles:d3", "numbers:i32", "doubles:d0", "numbers:f64", "doubles:d1"]
    for users in ([1], [1, 2, 3]):
        found = running.features(asked, {"user_id": users}).columns()
        assert list(found) == ["user_id", "d3", "i32", "d0", "f64", "d1"]
        alone = running.features(["doubles:d0"], {"user_id": users}).columns()
        assert found["d0"] == alone["d0"]


def test_one_entity_is_answered_like_the_same_among_many(running: Running) -> None:
    asked = [f"{v}:{f}" for v in ("numbers", "doubles") for f in project.frames()[v]
             if f not in {"user_id", "event_timestamp"}]  # fmt: skip
    users = list(range(project.USERS))
    together = running.features(asked, {"user_id": users}).columns()
    for at, user in enumerate(users):
        alone = running.features(asked, {"user_id": [user]}).columns()
        for name, column in alone.items():
            for part in ("values", "statuses", "event_timestamps"):
                assert column[part] == [together[name][part][at]], (name, user)


def test_no_entity_is_an_answer_without_rows(running: Running) -> None:
    asked = ["doubles:d0", "texts:word", "by_row:twice"]
    found = running.features(asked, {"user_id": [], "session_id": []}).columns()
    empty: dict[str, list[Any]] = {"values": [], "statuses": [], "event_timestamps": []}
    assert all(column == empty for column in found.values())


def test_more_keys_than_one_mget_takes_come_back_in_order(running: Running) -> None:
    chance = random.Random(3)
    users = [chance.randrange(project.USERS) for _ in range(2500)]
    found = running.features(["doubles:d0", "numbers:i32"], {"user_id": users}).columns()
    few = running.features(["doubles:d0"], {"user_id": list(range(project.USERS))}).columns()
    assert found["d0"]["values"] == [few["d0"]["values"][u] for u in users]


def test_numbers_that_json_lacks_are_written_by_their_names(running: Running) -> None:
    frame = {"user_id": [900, 901], "event_timestamp": ["2024-01-01"] * 2}
    frame |= {f"d{i}": ["NaN", 1.5] for i in range(4)} | {"d4": ["Infinity", "-Infinity"]}
    body = {"feature_view_name": "doubles", "df": frame}
    assert running.post("/write-to-online-store", body).status == 200
    for users in ([900], [900, 901], [900, 7777]):
        found = running.features(["doubles:d0", "doubles:d4"], {"user_id": users}).columns()
        assert found["d0"]["values"][0] == "NaN"
        assert found["d4"]["values"][0] == "Infinity"
        assert found["d0"]["statuses"][0] == "PRESENT"


def test_a_mistake_in_an_on_demand_view_names_the_view(running: Running) -> None:
    answer = running.features(["by_mistake:broken"], {"user_id": [1], "amount": [13.0]})
    assert answer.status == 422
    assert "'by_mistake' failed: ZeroDivisionError" in answer.json["detail"]


def test_rows_cannot_be_written_to_what_is_computed(running: Running) -> None:
    body = {"feature_view_name": "by_row", "df": {"user_id": [1], "twice": [2.0]}}
    answer = running.post("/write-to-online-store", body)
    assert answer.status == 422
    assert "computed when it is asked for" in answer.json["detail"]


def test_feasts_own_errors_are_json_in_a_json_text(running: Running) -> None:
    from feast.errors import FeastError, FeatureViewNotFoundException, PushSourceNotFoundException

    unknown = running.features(["nope:x"], {})
    assert unknown.status == 404
    error = FeastError.from_error_detail(unknown.json)
    assert isinstance(error, FeatureViewNotFoundException)
    assert "nope" in str(error)
    push = running.post("/push", {"push_source_name": "nope", "df": {}})
    assert push.status == 422
    assert isinstance(FeastError.from_error_detail(push.json), PushSourceNotFoundException)


def pushed(user: int, value: int) -> dict[str, Any]:
    return {
        "push_source_name": "numbers_push",
        "df": {"user_id": [user], "i32": [value], "i64": [2], "f32": [0.5], "f64": [0.25],
               "flag": [True], "seen_at": ["2024-01-01T00:00:00Z"],
               "event_timestamp": [project.frames()["numbers"]["event_timestamp"][0]]},
    }  # fmt: skip


def i32(server: Running, user: int) -> Any:
    return server.features(["numbers:i32"], {"user_id": [user]}).columns()["i32"]["values"][0]


def test_a_push_is_servable_when_it_is_answered(running: Running) -> None:
    for value in range(5):
        receipt = running.post("/push", pushed(500, value))
        assert receipt.status == 200
        assert receipt.json["rows"] == {"numbers": 1}
        assert receipt.json["state"] == "written"
        assert i32(running, 500) == value


def test_a_push_that_nobody_waits_for_can_be_asked_about(running: Running) -> None:
    answer = running.post("/push?wait=none", pushed(501, 7))
    assert answer.status == 202
    path = f"/api/v1/pushes/{answer.json['receipt']}"
    until(lambda: running.get(path).json["state"] == "written")
    assert i32(running, 501) == 7
    assert running.get("/api/v1/pushes/none").status == 404


def test_pushes_go_offline_too(running: Running, repo: Path) -> None:
    file = repo / "data" / "numbers.parquet"
    for to, user in (("offline", 502), ("online_and_offline", 503)):
        assert running.post("/push", {**pushed(user, 9), "to": to}).status == 200
    table = pq.read_table(file)
    assert table["user_id"].to_pylist() == [502, 503]
    assert i32(running, 502) is None
    assert i32(running, 503) == 9
    bad = running.post("/push", {**pushed(1, 1), "to": "sideways"})
    assert bad.status == 422
    assert "online_and_offline" in bad.json["detail"]


def test_arrow_has_what_json_has(running: Running) -> None:
    asked = ["numbers:i32", "numbers:f32", "numbers:seen_at", "doubles:d0", "texts:words",
             "texts:labels", "by_row:twice"]  # fmt: skip
    users = list(range(20))
    sessions = (project.frames()["texts"]["session_id"] * 2)[:20]
    body = {"features": asked, "entities": {"user_id": users, "session_id": sessions}}
    json_answer = running.post("/get-online-features", body).columns()
    answer = running.post("/get-online-features", body, {"Accept": ARROW})
    assert answer.headers["Content-Type"] == ARROW
    table = pa.ipc.open_stream(answer.body).read_all()
    assert table["user_id"].to_pylist() == users
    for name in ("i32", "d0", "words", "twice"):
        assert table[name].to_pylist() == json_answer[name]["values"], name
        assert table[f"{name}__status"].to_pylist() == json_answer[name]["statuses"]
    assert table.schema.field("f32").type == pa.float32()
    assert pa.types.is_timestamp(table.schema.field("seen_at").type)
    assert pa.types.is_timestamp(table.schema.field("numbers__event_timestamp").type)
    assert running.post("/get-online-features", b"{", {"Accept": ARROW}).status == 400


def test_a_catalogue_change_is_taken_up_and_no_byte_is_misread(
    running: Running, repo: Path
) -> None:
    """A feature of `numbers` gets another type under the running service, and its own again."""
    asked, user = ["numbers:f64", "numbers:i32"], {"user_id": [504]}
    assert running.post("/push", pushed(504, 3)).status == 200
    assert running.features(asked, user).columns()["f64"]["values"] == [0.25]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast import FeatureStore, Field
        from feast.types import Int64

        # Feast's registry itself: its command line would take most of the test's time.
        store = FeatureStore(repo_path=str(repo))
        view, changed = (store.get_feature_view("numbers") for _ in range(2))
        changed.features = [
            Field(name="f64", dtype=Int64) if field.name == "f64" else field
            for field in changed.features
        ]
        seen = set()

        def statuses() -> Any:
            found = running.features(asked, user).columns()
            seen.add((found["f64"]["values"][0], found["i32"]["values"][0]))
            return found["f64"]["statuses"]

        try:
            store.registry.apply_feature_view(changed, store.project)
            until(lambda: statuses() == ["NOT_FOUND"])
        finally:
            store.registry.apply_feature_view(view, store.project)
        until(lambda: statuses() == ["PRESENT"])
    assert seen == {(0.25, 3), (None, None)}


def test_many_who_need_a_catalogue_make_it_once(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, build = [], catalog_cache._build

    def counted(repo: Path, target: Path) -> None:
        made.append(target)
        build(repo, target)

    monkeypatch.setattr(catalog_cache, "_build", counted)
    for old in (repo / "data").glob(".catalog-*.json"):
        old.unlink()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(catalog_cache.load_own, [repo] * 4))
    assert len(made) == 1
    assert [one.version for one in found] == [found[0].version] * 4


def test_a_view_can_be_written_to_as_soon_as_it_is_registered(running: Running, repo: Path) -> None:
    """By who wants no cached registry, as Feast's remote client; others wait for two seconds."""
    frame = {"user_id": [1], "d0": [0.5], "event_timestamp": ["2024-01-01"]}
    body = {"feature_view_name": "made_now", "df": frame, "allow_registry_cache": False}
    assert running.post("/write-to-online-store", body).status == 404
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast import FeatureStore, FeatureView

        store = FeatureStore(repo_path=str(repo))
        doubles = store.get_feature_view("doubles")
        fields = [f for f in doubles.features if f.name == "d0"] + doubles.entity_columns
        made = FeatureView(
            name="made_now", source=doubles.batch_source, entities=[store.get_entity("user")],
            schema=fields,
        )  # fmt: skip
        try:
            store.registry.apply_feature_view(made, store.project)
            # The catalogue is made anew meanwhile, by a process that imports Feast.
            assert running.post("/write-to-online-store", body, timeout=180).status == 200
            found = running.features(["made_now:d0"], {"user_id": [1]}).columns()
            assert found["d0"]["values"] == [0.5]
        finally:
            store.registry.delete_feature_view("made_now", store.project)


def test_a_load_of_batch_sources_keeps_to_its_times(running: Running, repo: Path) -> None:
    days = [datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2, 3)]
    table = {"user_id": [700] * 3, "event_timestamp": days}
    table |= {f"d{i}": [1.0, 2.0, 3.0] for i in range(5)}
    pq.write_table(pa.table(table), repo / "data" / "doubles.parquet")

    def load(**body: Any) -> Any:
        answer = running.post("/materialize", {"feature_views": ["doubles"], **body})
        assert answer.status == 200, answer.body
        found = running.features(["doubles:d0"], {"user_id": [700]}).columns()
        return found["d0"]["values"][0]

    assert load(start_ts="2023-12-01", end_ts="2023-12-31T00:00:00Z") is None
    assert load(start_ts="2024-01-01", end_ts="2024-01-02T00:00:00+00:00") == 2.0
    assert load(end_ts="2024-01-01", disable_event_timestamp=True) == 3.0
    for wrong, says in (
        ({"start_ts": "soon"}, "no time"),
        ({"start_ts": "2024-01-02", "end_ts": "2024-01-01"}, "later"),
        ({"version": "v2"}, "latest version"),
    ):
        answer = running.post("/materialize", wrong)
        assert answer.status == 422
        assert says in answer.json["detail"]


def test_keys_of_every_type_and_values_of_the_rarer_ones(running: Running, repo: Path) -> None:
    """Bytes, times and UUIDs as keys: written over HTTP, read over HTTP and by Feast's SDK."""
    order, other = str(uuid.uuid4()), str(uuid.uuid4())
    values: dict[str, Any] = {
        "weight": 0.5, "words_set": ["a", "b"], "ids": [order, other], "maps": [{"a": 1}, {}],
        "nested": [[1, 2], []], "document": '{"k": [1]}', "price": "12.50",
    }  # fmt: skip
    frame = {"mac": [base64.b64encode(b"\x00\xff!").decode()], "hour": ["2024-01-01T00:00:00Z"],
             "order_id": [order], "event_timestamp": ["2024-01-01"]}  # fmt: skip
    frame |= {name: [value] for name, value in values.items()}
    body = {"feature_view_name": "odd_keys", "df": frame}
    assert running.post("/write-to-online-store", body).status == 200
    asked = [f"odd_keys:{name}" for name in values]
    seconds = 1704067200
    keys = {"mac": frame["mac"] * 3, "hour": [seconds, seconds * 10**6, seconds],
            "order_id": [order, order, other]}  # fmt: skip
    found = running.features(asked, keys).columns()
    for name, value in values.items():
        assert found[name]["values"] == [value, value, None], name
        assert found[name]["statuses"] == ["PRESENT", "PRESENT", "NOT_FOUND"]
    body = {"features": asked, "entities": keys}
    arrow = running.post("/get-online-features", body, {"Accept": ARROW})
    assert pa.ipc.open_stream(arrow.body).read_all()["mac"].to_pylist() == [b"\x00\xff!"] * 3
    wrong = running.features(asked, {**keys, "mac": ["~"] * 3})
    assert wrong.status == 422
    assert "base64" in wrong.json["detail"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast import FeatureStore

        rows = [{"mac": b"\x00\xff!", "hour": datetime.fromtimestamp(seconds, UTC),
                 "order_id": uuid.UUID(order)}]  # fmt: skip
        direct = FeatureStore(repo_path=str(repo)).get_online_features(asked, rows).to_dict()
    assert direct["weight"] == [0.5]
    assert set(direct["words_set"][0]) == {"a", "b"}
    assert [str(one) for one in direct["ids"][0]] == [order, other]
    assert direct["maps"] == [[{"a": 1}, {}]]
    assert str(direct["price"][0]) == "12.50"


def test_feasts_sdk_reads_rows_past_their_ttl_as_from_its_own_stores(
    running: Running, repo: Path
) -> None:
    frame = {"user_id": [910, 911], "i32": [7, 8], "i64": [1, 1], "f32": [1.0, 1.0],
             "f64": [1.0, 1.0], "flag": [True, True], "seen_at": [None, None],
             "event_timestamp": ["2020-01-01", "2020-01-01"]}  # fmt: skip
    body = {"feature_view_name": "numbers", "df": frame}
    assert running.post("/write-to-online-store", body).status == 200
    served = running.features(["numbers:i32"], {"user_id": [910, 911]}).columns()["i32"]
    assert served["statuses"] == ["OUTSIDE_MAX_AGE"] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast import FeatureStore

        rows = [{"user_id": 910}, {"user_id": 911}, {"user_id": 912}]
        direct = FeatureStore(repo_path=str(repo)).get_online_features(["numbers:i32"], rows)
    assert direct.to_dict()["i32"] == [7, 8, None]


def test_what_is_served_is_counted(running: Running) -> None:
    def count(name: str) -> float:
        lines = running.get("/metrics").body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    names = {
        'featurestore_online_values_total{feature="d1",feature_view="doubles"}': 4,
        'featurestore_online_nulls_total{feature="d1",feature_view="doubles",reason="absent"}': 4,
        "featurestore_online_entities_per_request_count": 2,
    }
    before = {name: count(name) for name in names}
    for users in ([9999], [9998, 9997, 9996]):
        running.features(["doubles:d1"], {"user_id": users})
    assert {name: count(name) - before[name] for name in names} == names


def test_what_the_project_shows_of_itself_is_on_every_scrape(running: Running) -> None:
    def text() -> str:
        return running.get("/metrics").body.decode()

    clock = 'featurestore_last_event_timestamp_seconds{feature_view="doubles",stage="online"}'
    until(lambda: clock in text())
    assert 'featurestore_store_up{store="redis"} 1.0' in text()
    assert 'featurestore_feature_view_info{feature_view="pairs",kind="row",owner="",' in text()
    running.get("/no/such/route")
    running.features(["doubles:d1"], {"user_id": [1]})
    reads = 'featurestore_store_operation_duration_seconds_count{op="read",store="redis"}'
    assert float(text().split(reads)[1].split()[0]) > 0
    (doubles,) = [
        row for row in running.get("/api/v1/freshness").json if row["feature_view"] == "doubles"
    ]
    assert doubles["state"] == "no objective"
    assert doubles["source_us"] == doubles["online_us"] > 0


def test_the_light_client_reads_and_pushes_without_feast(running: Running) -> None:
    with Client(running.url, timeout_seconds=10) as client:
        found = client.features({"user_id": [1, 5]}, features=["doubles:d2", "numbers:i64"])
        direct = running.features(["doubles:d2", "numbers:i64"], {"user_id": [1, 5]}).columns()
        assert found.to_dict() == {name: column["values"] for name, column in direct.items()}
        assert found.columns["d2"].statuses == ["PRESENT", "NOT_FOUND"]
        assert found.to_pandas()["user_id"].tolist() == [1, 5]
        table = client.arrow({"user_id": [1, 5]}, service="renamed")
        assert table["d1"].to_pylist()[1] is None
        rows = pushed(505, 4)["df"]
        assert client.push("numbers_push", rows)["state"] == "written"
        assert client.features({"user_id": [505]}, features=["numbers:i32"]).to_dict()["i32"] == [4]
        # Arrays and frames, as programs have them.
        frame = pd.DataFrame(rows).assign(i32=6, seen_at=[pd.NaT])
        frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"])
        client.push("numbers_push", frame)
        keys = pd.DataFrame({"user_id": [505]})
        pushed_frame = client.features(keys, features=["numbers:i32", "numbers:seen_at"])
        assert pushed_frame.to_dict() == {"user_id": [505], "i32": [6], "seen_at": [None]}
        users = {"user_id": [*np.array([505])]}
        assert client.arrow(users, features=["numbers:i32"])["i32"].to_pylist() == [6]
        with pytest.raises(BadRequestError, match="nope") as refused:
            client.features({}, features=["nope:x"])
        assert refused.value.status == 404
        with pytest.raises(BadRequestError, match="nope"):
            client.push("nope", {})

    async def alike() -> None:
        async with AsyncClient(running.url, timeout_seconds=10) as other:
            again = await other.features({"user_id": [1, 5]}, features=["doubles:d2"])
            assert again.columns["d2"] == found.columns["d2"]
            assert (await other.arrow({"user_id": [1]}, service="renamed")).num_rows == 1
            assert (await other.push("numbers_push", rows))["state"] == "written"

    asyncio.run(alike())
    script = (
        "import sys, headwater.client; sys.exit('feast' in sys.modules or 'numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-P", "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("accept", ["application/json", ARROW])
def test_columns_that_are_no_keys_and_keys_out_of_range_upset_no_form(
    running: Running, accept: str
) -> None:
    def ask(**entities: list[Any]) -> int:
        body = {"features": ["doubles:d0"], "entities": entities}
        return running.post("/get-online-features", body, {"Accept": accept}).status

    assert ask(user_id=[1, 2], anything=[1, {"x": "y"}], session_id=["s1", 7]) == 200
    for users in ([2**63], [1, -(2**63) - 1], [1, 1e300]):
        assert ask(user_id=users) == 422
