"""A value of every type that Feast has, written and read by every way that there is."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pyarrow as pa
import pytest

from headwater.local.process import free_ports
from tests.serving import project
from tests.serving.server import Running, serve

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from feast import FeatureStore, RepoConfig
    from feast.infra.online_stores.remote import RemoteOnlineStore
    from feast.protos.feast.serving import GrpcServer_pb2 as writing
    from feast.protos.feast.serving import GrpcServer_pb2_grpc as writing_stubs
    from feast.protos.feast.serving import ServingService_pb2 as serving
    from feast.protos.feast.serving import ServingService_pb2_grpc as serving_stubs
    from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value
    from feast.value_type import ValueType

    from tests.serving.values import NOON, VALUES, protos, write

ASKED = [f"every_type:{name}" for name in VALUES]


class Ways(NamedTuple):
    http: Running
    channel: grpc.Channel
    repo: Path

    def calls(self, user: int) -> dict[str, Value]:
        """The values of one user over gRPC."""
        request = serving.GetOnlineFeaturesRequest(
            features=serving.FeatureList(val=ASKED),
            entities={"user_id": RepeatedValue(val=[Value(int64_val=user)])},
        )
        stub = serving_stubs.ServingServiceStub(self.channel)
        answer = stub.GetOnlineFeatures(request, timeout=30)
        values = [vector.values[0] for vector in answer.results]
        return dict(zip(answer.metadata.feature_names.val, values, strict=True))

    def store(self, online: dict[str, Any] | None = None) -> FeatureStore:
        """Feast's SDK on the plugin, or on another online store."""
        if online is None:
            return FeatureStore(repo_path=str(self.repo))
        return FeatureStore(
            config=RepoConfig(
                project="values", provider="local", online_store=online,
                registry=str(self.repo / "data" / "registry.db"),
                entity_key_serialization_version=3,
            )
        )  # fmt: skip


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Ways]:
    folder = tmp_path_factory.mktemp("values") / "repo"
    repo = project.write(folder, project.ours(redis_url), "values")
    project.apply(repo)
    (port,) = free_ports(1)
    with (
        serve(repo, redis_url, HEADWATER_GRPC_PORT=str(port)) as server,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        columns = {name: [text] for name, (_, text) in VALUES.items()}
        # A time comes as a text as well as a number.
        columns |= {"user_id": [1], "event_timestamp": [datetime.now(UTC).isoformat()]}
        server.fill({"every_type": columns})
        yield Ways(server, channel, repo)


def test_no_type_that_feast_has_is_left_out() -> None:
    assert {kind.name.lower() for kind in ValueType} - {"unknown", "null"} == set(VALUES)


def test_what_http_writes_every_way_reads(ways: Ways) -> None:
    found = ways.http.features(ASKED, {"user_id": [1, 2]}).columns()
    for name, (_, text) in VALUES.items():
        assert found[name]["values"] == [text, None], name
        assert found[name]["statuses"] == ["PRESENT", "NOT_FOUND"], name
    expected = protos()
    assert {n: v for n, v in ways.calls(1).items() if n != "user_id"} == expected
    direct = ways.store().get_online_features(ASKED, [{"user_id": 1}]).to_dict()
    for name, (value, _) in VALUES.items():
        held = direct[name][0]
        if name.startswith("json"):
            value = json.loads(value) if name == "json" else [json.loads(one) for one in value]
        assert held == value or str(held) == str(value) or list(held) == value, name


@pytest.mark.parametrize("way", ["SDK", "gRPC"])
def test_what_feasts_messages_write_http_reads(ways: Ways, way: str) -> None:
    user = {"SDK": 3, "gRPC": 4}[way]
    if way == "SDK":
        write(ways.store(), user, protos())
    else:
        at = Value(unix_timestamp_val=int(datetime.now(UTC).timestamp()))
        request = writing.WriteToOnlineStoreRequest(
            feature_view_name="every_type",
            typed_features={**protos(), "user_id": Value(int64_val=user), "event_timestamp": at},
        )
        writing_stubs.GrpcFeatureServerStub(ways.channel).WriteToOnlineStore(request, timeout=30)
    found = ways.http.features(ASKED, {"user_id": [user]}).columns()
    for name, (_, text) in VALUES.items():
        assert found[name]["values"] == [text], name
    assert {n: v for n, v in ways.calls(user).items() if n != "user_id"} == protos()


def test_feasts_remote_client_reads_all_and_writes_what_it_can(ways: Ways) -> None:
    store = ways.store({"type": "remote", "path": ways.http.url})
    # It cannot tell the type of a list of lists.
    asked = [f"every_type:{name}" for name in VALUES if name not in {"value_list", "value_set"}]
    found = store.get_online_features(asked, [{"user_id": 1}, {"user_id": 2}]).to_dict()
    assert found["int64"] == [2**40, None]
    assert found["string_list"] == [["é", "é"], None]
    assert found["map"] == [{"a": 1, "b": "c"}, None]
    assert found["scalar_map"] == [{"1": "a", "2": "b"}, None]
    sendable = {n: v if can_be_sent(v) else Value() for n, v in protos().items()}
    assert sum(value != Value() for value in sendable.values()) > 25
    write(store, 5, sendable)
    answer = ways.http.features(ASKED, {"user_id": [5]}).columns()
    for name, (_, text) in VALUES.items():
        expected = text if sendable[name] != Value() else None
        assert answer[name]["values"] == [expected], name


def can_be_sent(value: Value) -> bool:
    """Whether the remote client's own JSON can hold a value: it cannot hold bytes, for one."""
    try:
        json.dumps(RemoteOnlineStore._proto_value_to_transport_value(value))
    except TypeError:
        return False
    return True


def test_arrow_holds_every_type(ways: Ways) -> None:
    body = {"features": ASKED, "entities": {"user_id": [1, 2]}}
    headers = {"Accept": "application/vnd.apache.arrow.stream"}
    answer = ways.http.post("/get-online-features", body, headers)
    table = pa.ipc.open_stream(answer.body).read_all()
    assert table["bytes"].to_pylist() == [b"\0\xff", None]
    assert table["unix_timestamp_list"].to_pylist() == [[NOON, NOON], None]
    assert table["map_list"].to_pylist() == [['{"a":1}', '{"b":0.5}'], None]
    assert table["value_list"].to_pylist() == [["[1,2]", "[3]"], None]
    assert table["scalar_map"].to_pylist() == ['{"1":"a","2":"b"}', None]
    assert table["zoned_timestamp"].to_pylist() == ["2024-01-01T17:30:00+05:30", None]


WRONG = {
    "uuid": "x", "decimal": "1,5", "json": "{", "map": [1], "map_list": ["[]"], "struct": 1,
    "scalar_map": {"word": 1}, "zoned_timestamp": "noon", "string": 5, "bool": "yes",
    "int32": 2**31, "bytes": "~", "value_list": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_such_value_is_refused(ways: Ways, name: str) -> None:
    columns: dict[str, list[Any]] = {n: [None] for n in VALUES} | {name: [WRONG[name]]}
    columns |= {"user_id": [9], "event_timestamp": ["2024-01-01"]}
    body = {"feature_view_name": "every_type", "df": columns}
    refused = ways.http.post("/write-to-online-store", body)
    assert refused.status == 422
    assert f"df[{name!r}]" in refused.json["detail"]
