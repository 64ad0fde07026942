"""Odd names and keys, from a registry in a database, by every way there is to a value."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
import uuid
import warnings
from collections.abc import Iterator
from contextlib import chdir
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from headwater.local.process import free_ports
from tests.serving import project
from tests.serving.server import Running, serve
from tests.waiting import until

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pandas as pd
    from fastapi.testclient import TestClient
    from feast import FeatureStore, RepoConfig
    from feast.feature_server import get_app
    from feast.protos.feast.serving import ServingService_pb2 as serving
    from feast.protos.feast.serving import ServingService_pb2_grpc as serving_stubs
    from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value

NAME = "2teams_é_" + "x" * 60
LONG, LONG_FEATURE = "v" * 200, "f" * 200
#: Relative: to the project's folder, wherever a command is started.
REGISTRY = "{registry_type: sql, path: 'sqlite:///data/registry-sql.db', cache_ttl_seconds: 5}"
MAC, ORDER, HOUR = b"\0\xff{}:", uuid.UUID(int=7, version=4), datetime(2024, 1, 1, 5, tzinfo=UTC)
EPOCH = int(HOUR.timestamp())
COLUMNS: dict[str, dict[str, list[Any]]] = {
    "user-stats-v2": {"user_id": [1, 2], "clicks-7d": [3, None], "7_day_rate": [0.5, None],
                      "é": ["ü", None], "a__b": [1, 2]},
    LONG: {"user_id": [1, 2], LONG_FEATURE: [7, 8]},
    "1_three-keys": {"merchant-id": [1, -1], "verified": [True, False],
                     "session_id": ["a:b{}", "é 日本"], "w": [1.5, 2.5]},
    "orders_": {"order_id": [str(ORDER)], "hour": [EPOCH], "sum": [3.5]},
    "devices": {"mac": [base64.b64encode(MAC).decode()], "seen": [9]},
}  # fmt: skip


class Question(NamedTuple):
    """Features asked for, of entities as JSON has them, and the values of each column."""

    features: list[str]
    entities: dict[str, list[Any]]
    found: dict[str, list[Any]]


QUESTIONS = [
    Question(
        ["user-stats-v2:clicks-7d", "user-stats-v2:7_day_rate", "user-stats-v2:é",
         "user-stats-v2:a__b", f"{LONG}:{LONG_FEATURE}", "on_demand__1:per-click"],
        {"user_id": [1, 2, 3], "amount-now": [6.0, 1.0, 1.0]},
        {"clicks-7d": [3, None, None], "7_day_rate": [0.5, None, None], "é": ["ü", None, None],
         "a__b": [1, 2, None], LONG_FEATURE: [7, 8, None], "per-click": [2.0, None, None]},
    ),
    Question(
        ["1_three-keys:w"],
        {"merchant-id": [1, -1, 1], "verified": [True, False, False],
         "session_id": ["a:b{}", "é 日本", "a:b{}"]},
        {"w": [1.5, 2.5, None]},
    ),
    # One entity, its keys in the order of their names.
    Question(
        ["1_three-keys:w"],
        {"merchant-id": [1], "session_id": ["a:b{}"], "verified": [True]}, {"w": [1.5]},
    ),
    Question(
        ["orders_:sum"], {"order_id": [str(ORDER)] * 2, "hour": [EPOCH, 0]}, {"sum": [3.5, None]}
    ),
    Question(
        ["user-stats-v2:a__b", "every-where:rate"], {"user_id": [2]}, {"a__b": [2], "rate": [0.25]}
    ),
]  # fmt: skip
ALONE = Question(["every-where:rate"], {}, {"rate": [0.25]})
BYTES = Question(["devices:seen"], {"mac": COLUMNS["devices"]["mac"]}, {"seen": [9]})


class Site(NamedTuple):
    repo: Path
    http: Running
    channel: grpc.Channel


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Site]:
    repo = tmp_path_factory.mktemp("names") / "repo"
    (repo / "data").mkdir(parents=True)
    shutil.copy(Path(project.__file__).with_name("odd_names.py"), repo / "features.py")
    config = project.config(NAME, project.ours(redis_url))
    config = config.replace("registry: data/registry.db", f"registry: {REGISTRY}")
    (repo / "feature_store.yaml").write_text(config, "utf-8")
    row = {"rate": [0.25], "event_timestamp": [datetime.now(UTC)]}
    pd.DataFrame(row).to_parquet(repo / "data" / "everywhere.parquet")  # loaded by `apply`
    apply(repo)
    (port,) = free_ports(1)
    with (
        serve(repo, redis_url, HEADWATER_GRPC_PORT=str(port)) as server,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        now = datetime.now(UTC).isoformat()
        for view, columns in COLUMNS.items():
            rows = len(next(iter(columns.values())))
            server.fill({view: {**columns, "event_timestamp": [now] * rows}})
        yield Site(repo, server, channel)


def apply(repo: Path) -> None:
    """From a folder that is not the project's."""
    command = [Path(sys.executable).parent / "headwater", "apply", "--repo", "repo"]
    done = subprocess.run(command, cwd=repo.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def here(site: Site) -> Iterator[None]:
    """Feast's SDK takes the registry's path from where it is started."""
    with chdir(site.repo), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def remote(site: Site) -> FeatureStore:
    return FeatureStore(
        config=RepoConfig(
            project=NAME, provider="local", entity_key_serialization_version=3,
            registry={"registry_type": "sql", "path": "sqlite:///data/registry-sql.db"},
            online_store={"type": "remote", "path": site.http.url},
        )
    )  # fmt: skip


def rows(entities: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Entities as Feast's SDK takes them, with keys in Python's types."""
    kinds = {"order_id": uuid.UUID, "hour": lambda at: datetime.fromtimestamp(at, UTC),
             "mac": base64.b64decode}  # fmt: skip
    columns = {n: [kinds.get(n, lambda v: v)(v) for v in vs] for n, vs in entities.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def asked(question: Question, found: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: found[name] for name in question.found}


@pytest.mark.parametrize("question", [*QUESTIONS, ALONE, BYTES])
def test_over_http(site: Site, question: Question) -> None:
    answer = site.http.features(question.features, question.entities).columns()
    assert {n: c["values"] for n, c in answer.items()} == {
        **{n: v for n, v in question.entities.items() if n != "amount-now"}, **question.found
    }  # fmt: skip
    full = site.http.features(question.features, question.entities, full_feature_names=True)
    assert list(full.columns())[-len(question.features) :] == [
        name.replace(":", "__") for name in question.features
    ]


@pytest.mark.parametrize("question", [*QUESTIONS, ALONE, BYTES])
def test_over_grpc(site: Site, question: Question) -> None:
    entities = {n: RepeatedValue(val=[message(n, v) for v in vs])
                for n, vs in question.entities.items()}  # fmt: skip
    request = serving.GetOnlineFeaturesRequest(
        features=serving.FeatureList(val=question.features), entities=entities
    )
    stub = serving_stubs.ServingServiceStub(site.channel)
    answer = stub.GetOnlineFeatures(request, timeout=30)
    found = {
        name: [plain(value) for value in vector.values]
        for name, vector in zip(answer.metadata.feature_names.val, answer.results, strict=True)
    }
    assert asked(question, found) == question.found


def message(name: str, value: Any) -> Value:
    if name == "mac":
        return Value(bytes_val=base64.b64decode(value))
    kinds = {
        "merchant-id": "int32_val", "verified": "bool_val", "hour": "unix_timestamp_val",
        "user_id": "int64_val", "amount-now": "double_val", "order_id": "uuid_val",
    }  # fmt: skip
    return Value(**{kinds.get(name, "string_val"): value})


def plain(value: Value) -> Any:
    kind = value.WhichOneof("val")
    return None if kind is None else getattr(value, kind)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("question", [*QUESTIONS, ALONE, BYTES])
def test_by_feasts_remote_client(site: Site, question: Question) -> None:
    """It sends keys as they are given, so they are what JSON has."""
    columns = question.entities
    given = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    found = remote(site).get_online_features(question.features, given or [{}])
    assert asked(question, found.to_dict()) == question.found


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("question", [*QUESTIONS, BYTES])
def test_by_feasts_sdk_on_the_plugin(question: Question) -> None:
    """It has no answer to entity-less features alone, on any store."""
    store = FeatureStore(repo_path=".")
    found = store.get_online_features(question.features, rows(question.entities))
    assert asked(question, found.to_dict()) == question.found


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("question", QUESTIONS)
def test_by_feasts_own_server_on_the_plugin(question: Question) -> None:
    """It makes no bytes of a text that is a key."""
    with TestClient(get_app(FeatureStore(repo_path="."), 3600)) as client:
        body = {"features": question.features, "entities": question.entities}
        answer = client.post("/get-online-features", json=body)
        assert answer.status_code == 200, answer.text
        names = answer.json()["metadata"]["feature_names"]
        found = zip(names, (c["values"] for c in answer.json()["results"]), strict=True)
    assert asked(question, dict(found)) == question.found


@pytest.mark.usefixtures("here")
def test_feasts_clients_write_what_http_reads(site: Site) -> None:
    now = pd.Timestamp.now("UTC")
    direct = FeatureStore(repo_path=".")
    for user, store in ((101, remote(site)), (102, direct)):
        pushed = {"user_id": [user], "clicks-7d": [5], "7_day_rate": [0.75], "é": ["p"],
                  "a__b": [8], "event_timestamp": [now]}  # fmt: skip
        store.push("user-push", pd.DataFrame(pushed))
        keys = {"merchant-id": [-user], "session_id": ["a"], "verified": [False]}
        written = {**keys, "w": [float(user)], "event_timestamp": [now]}
        store.write_to_online_store("1_three-keys", pd.DataFrame(written))
        found = site.http.features(["user-stats-v2:é"], {"user_id": [user]}).columns()
        assert found["é"]["values"] == ["p"]
        found = site.http.features(["1_three-keys:w"], keys).columns()
        assert found["w"]["values"] == [float(user)]
    # The remote client has no JSON for a key that is a time.
    written = {"order_id": [str(ORDER)], "hour": [HOUR.replace(hour=6)], "sum": [4.5],
               "event_timestamp": [now]}  # fmt: skip
    direct.write_to_online_store("orders_", pd.DataFrame(written))
    keys = {"order_id": [str(ORDER)], "hour": [EPOCH + 3600]}
    assert site.http.features(["orders_:sum"], keys).columns()["sum"]["values"] == [4.5]


def test_every_page_of_the_project_is_shown(site: Site) -> None:
    paths = ["/ui/", "/ui/views/user-stats-v2", f"/ui/views/{LONG}", "/ui/views/every-where",
             "/ui/features/user-stats-v2/%C3%A9", f"/ui/features/{LONG}/{LONG_FEATURE}",
             "/ui/lookup?of=view:every-where", "/ui/lookup/events?of=view:every-where",
             "/ui/lookup?of=view:devices&entity.mac=AP97fTo%3D"]  # fmt: skip
    for path in paths:
        assert site.http.get(path).status == 200, path


def test_a_change_in_the_database_comes_into_use(site: Site) -> None:
    definitions, ask = site.repo / "features.py", [f"{LONG}:new"]
    old = 'dtype=Int64)],\n    source=source("long")'
    new = old.replace("]", ', Field(name="new", dtype=Float64)]', 1)
    assert site.http.features(ask, {"user_id": [1]}).status == 422
    text = definitions.read_text("utf-8")
    assert old in text
    definitions.write_text(text.replace(old, new), "utf-8")
    apply(site.repo)
    until(lambda: site.http.features(ask, {"user_id": [1]}).status == 200)
    row = {"user_id": [1], LONG_FEATURE: [7], "new": [0.5]}
    site.http.fill({LONG: {**row, "event_timestamp": [datetime.now(UTC).isoformat()]}})
    assert site.http.features(ask, {"user_id": [1]}).columns()["new"]["values"] == [0.5]
