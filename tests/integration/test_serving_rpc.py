"""gRPC: Feast's own stubs get what HTTP answers, and the same refusals, keys and TLS."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from headwater.local.process import free_ports
from tests.serving import descriptors, project
from tests.serving.server import Running, serve
from tests.waiting import until

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from feast import proto_json
    from feast.protos.feast.serving import GrpcServer_pb2 as writing
    from feast.protos.feast.serving import GrpcServer_pb2_grpc as writing_stubs
    from feast.protos.feast.serving import ServingService_pb2 as serving
    from feast.protos.feast.serving import ServingService_pb2_grpc as serving_stubs
    from feast.protos.feast.types import Value_pb2 as types
proto_json.patch()


class Rpc(NamedTuple):
    http: Running
    channel: grpc.Channel

    def ask(self, features: Any, entities: dict[str, Any], **more: Any) -> Any:
        """GetOnlineFeatures; entities as plain lists."""
        asked = (
            {"feature_service": features}
            if isinstance(features, str)
            else {"features": serving.FeatureList(val=features)}
        )
        columns = {name: repeated(values) for name, values in entities.items()}
        request = serving.GetOnlineFeaturesRequest(**asked, entities=columns, **more)
        return serving_stubs.ServingServiceStub(self.channel).GetOnlineFeatures(request, timeout=30)


def value(plain: Any) -> types.Value:
    kinds = {bool: "bool_val", int: "int64_val", float: "double_val", str: "string_val"}
    return types.Value() if plain is None else types.Value(**{kinds[type(plain)]: plain})


def repeated(values: list[Any]) -> types.RepeatedValue:
    return types.RepeatedValue(val=[value(one) for one in values])


@pytest.fixture(scope="module")
def rpc(repo: Path, redis_url: str) -> Iterator[Rpc]:
    (port,) = free_ports(1)
    settings = {"HEADWATER_GRPC_PORT": str(port), "HEADWATER_MAX_ENTITIES": "500"}
    settings["HEADWATER_MAX_BODY_BYTES"] = "100000"
    with (
        serve(repo, redis_url, **settings) as server,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        server.fill(project.frames())
        yield Rpc(server, channel)


def columns_of(response: Any) -> dict[str, Any]:
    """An answer's columns as stock Feast's server would write them in JSON."""
    made = MessageToDict(response, preserving_proto_field_name=True)
    return dict(zip(made["metadata"]["feature_names"], made["results"], strict=True))


def close(mine: Any, theirs: Any) -> bool:
    """Protobuf's JSON writes a float32 with fewer digits."""
    if isinstance(mine, float) and isinstance(theirs, float):
        return mine == pytest.approx(theirs, rel=1e-6)
    return bool(mine == theirs)


def test_every_kind_of_value_is_what_http_answers(rpc: Rpc) -> None:
    chance = random.Random(5)
    frames = project.frames()
    names = {
        view: [n for n in frames[view] if n not in {"user_id", "session_id", "event_timestamp"}]
        for view in frames
    }
    every = [f"{view}:{name}" for view in names for name in names[view]]
    every += ["by_lists:ratio", "by_frame:total", "by_row:twice"]
    sessions = [*frames["texts"]["session_id"], "nobody"]
    seen = set()
    for n in (1, 2, 7, 40, *[chance.randint(0, 9) for _ in range(60)]):
        asked = chance.sample(every, chance.randint(1, len(every))) if n < 10 else every
        entities: dict[str, Any] = {
            "user_id": [chance.randrange(project.USERS) for _ in range(n)],
            "session_id": [chance.choice(sessions) for _ in range(n)],
            "amount": [float(chance.randint(1, 9)) for _ in range(n)],
        }
        full = chance.random() < 0.5
        http = rpc.http.features(asked, entities, full_feature_names=full).columns()
        response = rpc.ask(asked, entities, full_feature_names=full)
        given = list(response.metadata.feature_names.val)
        assert given[-len(asked) :] == list(http)[-len(asked) :]
        assert set(given) == set(http)
        if n == 0:
            assert all(not vector.values for vector in response.results)
            continue
        for name, mine in columns_of(response).items():
            theirs = http[name]
            assert mine["statuses"] == theirs["statuses"], name
            if name.split("__")[-1] not in {"ratio", "total", "twice"}:
                assert mine["event_timestamps"] == theirs["event_timestamps"], name
            for one, other in zip(mine["values"], theirs["values"], strict=True):
                if name.split("__")[-1] not in {"labels", "raw"}:
                    assert close(one, other), (name, one, other)
            seen.update(mine["statuses"])
    assert seen == {"PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"}


def test_values_have_the_features_own_types(rpc: Rpc) -> None:
    now = datetime.now(UTC)
    frame = {"user_id": [700], "i32": [-5], "i64": [2**40], "f32": [0.1], "f64": ["NaN"],
             "flag": [False], "seen_at": ["2024-01-01T00:00:00Z"],
             "event_timestamp": [now.isoformat()]}  # fmt: skip
    body = {"feature_view_name": "numbers", "df": frame}
    assert rpc.http.post("/write-to-online-store", body).status == 200
    asked = [f"numbers:{n}" for n in frame if n not in {"user_id", "event_timestamp"}]
    for users in ([700], [700, 701]):
        found = [v.values[0] for v in rpc.ask(asked, {"user_id": users}).results]
        assert [v.WhichOneof("val") for v in found] == [
            "int64_val", "int32_val", "int64_val", "float_val", "double_val", "bool_val",
            "unix_timestamp_val",
        ]  # fmt: skip
        user, i32, i64, f32, f64, flag, seen_at = found
        assert (user.int64_val, i32.int32_val, i64.int64_val) == (700, -5, 2**40)
        assert f32.float_val == pytest.approx(0.1)
        assert f64.double_val != f64.double_val
        assert flag.bool_val is False
        assert seen_at.unix_timestamp_val == 1704067200


def test_the_stubs_of_feasts_python_server_read_alike(rpc: Rpc) -> None:
    request = serving.GetOnlineFeaturesRequest(
        feature_service="renamed", entities={"user_id": repeated([1, 5])}
    )
    python_server = writing_stubs.GrpcFeatureServerStub(rpc.channel)
    assert python_server.GetOnlineFeatures(request) == rpc.ask("renamed", {"user_id": [1, 5]})
    info = serving_stubs.ServingServiceStub(rpc.channel).GetFeastServingInfo(
        serving.GetFeastServingInfoRequest()
    )
    assert info.version.startswith("headwater ")
    context = serving.GetOnlineFeaturesRequest(
        features=serving.FeatureList(val=["by_lists:ratio"]),
        entities={"user_id": repeated([1])},
        request_context={"amount": repeated([2.0])},
    )
    assert len(python_server.GetOnlineFeatures(context).results) == 2


def test_rows_come_as_typed_values_or_as_texts(rpc: Rpc) -> None:
    stub = writing_stubs.GrpcFeatureServerStub(rpc.channel)
    now = int(datetime.now(UTC).timestamp())
    typed = {
        "user_id": value(600), "i32": types.Value(int32_val=7), "i64": value(8), "f32": value(0.5),
        "f64": value(0.25), "flag": value(True), "seen_at": types.Value(unix_timestamp_val=5),
        "event_timestamp": types.Value(unix_timestamp_val=now),
    }  # fmt: skip
    pushed = writing.PushRequest(
        stream_feature_view="numbers_push", typed_features=typed, to="online"
    )
    assert stub.Push(pushed).status is True
    texts = {"user_id": "601", "i32": "7", "i64": "8", "f32": "0.5", "f64": "0.25",
             "flag": "True", "seen_at": "1970-01-01T00:00:05Z",
             "event_timestamp": str(now)}  # fmt: skip
    written = writing.WriteToOnlineStoreRequest(feature_view_name="numbers", features=texts)
    assert stub.WriteToOnlineStore(written).status is True
    asked = [f"numbers:{name}" for name in ("i32", "i64", "f32", "f64", "flag", "seen_at")]
    found = rpc.http.features(asked, {"user_id": [600, 601]}).columns()
    assert [found[n]["values"] for n in ("i32", "i64", "f64", "flag", "seen_at")] == [
        [7, 7], [8, 8], [0.25, 0.25], [True, True], [5, 5]
    ]  # fmt: skip


CODES = grpc.StatusCode


@pytest.mark.parametrize(
    ("features", "entities", "code", "words"),
    [
        (["nope:x"], {"user_id": [1]}, CODES.NOT_FOUND, "nope"),
        ("nope", {"user_id": [1]}, CODES.NOT_FOUND, "nope"),
        (["doubles:d9"], {"user_id": [1]}, CODES.INVALID_ARGUMENT, "known: d0"),
        (["doubles:d0"], {}, CODES.INVALID_ARGUMENT, "user_id"),
        (["doubles:d0"], {"user_id": ["x"]}, CODES.INVALID_ARGUMENT, "no INT64"),
        (["doubles:d0"], {"user_id": list(range(501))}, CODES.RESOURCE_EXHAUSTED, "at most 500"),
        (["doubles:d0"], {"user_id": [2**40] * 40_000}, CODES.RESOURCE_EXHAUSTED, "100000"),
        (["by_mistake:broken"], {"user_id": [1], "amount": [13.0]}, CODES.INVALID_ARGUMENT,
         "ZeroDivisionError"),
    ],
)  # fmt: skip
def test_mistakes_have_a_code_and_say_what_would_be_right(
    rpc: Rpc, features: Any, entities: Any, code: grpc.StatusCode, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        rpc.ask(features, entities)
    assert refused.value.code() == code
    assert words in refused.value.details()


def test_bytes_that_are_no_message_are_refused(rpc: Rpc) -> None:
    for method in ("feast.serving.ServingService/GetOnlineFeatures", "GrpcFeatureServer/Push"):
        with pytest.raises(grpc.RpcError) as refused:
            rpc.channel.unary_unary(f"/{method}")(b"\xff\xff\xff", timeout=10)
        assert refused.value.code() == CODES.INVALID_ARGUMENT


def test_health_and_reflection_are_the_standard_ones(rpc: Rpc) -> None:
    health = health_pb2_grpc.HealthStub(rpc.channel)
    asked = health_pb2.HealthCheckRequest(service="feast.serving.ServingService")
    until(lambda: health.Check(asked).status == health_pb2.HealthCheckResponse.SERVING)
    shown = ProtoReflectionDescriptorDatabase(rpc.channel)
    assert set(shown.get_services()) == {
        "feast.serving.ServingService", "GrpcFeatureServer", "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }  # fmt: skip
    file = shown.FindFileContainingSymbol("feast.serving.ServingService")
    assert file.name == "feast/serving/ServingService.proto"
    assert shown.FindFileByName("feast/types/Value.proto").package == "feast.types"


def test_calls_are_counted_beside_requests(rpc: Rpc) -> None:
    rpc.ask("renamed", {"user_id": [1]})
    text = rpc.http.get("/metrics").body.decode()
    for line in (
        'featurestore_request_duration_seconds_count{method="gRPC",'
        'route="/feast.serving.ServingService/GetOnlineFeatures",status="2xx"}',
        'featurestore_request_duration_seconds_count{method="gRPC",route="/GrpcFeatureServer/Push",status="2xx"}',
    ):
        assert line in text


def test_keys_and_tls_hold_for_calls_too(repo: Path, redis_url: str, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert,
         "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    (port,) = free_ports(1)
    hashed = hashlib.sha256(b"reader").hexdigest()
    settings = {
        "HEADWATER_GRPC_PORT": str(port), "HEADWATER_API_KEYS": f"reader:read:{hashed}",
        "HEADWATER_TLS_CERT": str(cert), "HEADWATER_TLS_KEY": str(key),
    }  # fmt: skip
    trusted = grpc.ssl_channel_credentials(cert.read_bytes())
    with (
        serve(repo, redis_url, **settings) as server,
        grpc.secure_channel(f"127.0.0.1:{port}", trusted) as channel,
    ):
        stub = serving_stubs.ServingServiceStub(channel)
        request = serving.GetOnlineFeaturesRequest(
            feature_service="renamed", entities={"user_id": repeated([1])}
        )
        bearer = [("authorization", "Bearer reader")]
        assert len(stub.GetOnlineFeatures(request, metadata=bearer).results) == 4
        assert len(stub.GetOnlineFeatures(request, metadata=[("x-api-key", "reader")]).results) == 4
        for metadata in ([], [("x-api-key", "nobody")]):
            with pytest.raises(grpc.RpcError) as refused:
                stub.GetOnlineFeatures(request, metadata=metadata)
            assert refused.value.code() == CODES.UNAUTHENTICATED
        push = writing.PushRequest(stream_feature_view="numbers_push", to="online")
        with pytest.raises(grpc.RpcError) as refused:
            writing_stubs.GrpcFeatureServerStub(channel).Push(push, metadata=bearer)
        assert refused.value.code() == CODES.PERMISSION_DENIED
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        with pytest.raises(grpc.RpcError) as refused:
            list(ProtoReflectionDescriptorDatabase(channel).get_services())
        assert refused.value.code() == CODES.UNAUTHENTICATED
        assert "reader" not in server.log.read_text()


def test_the_descriptors_are_the_installed_feasts() -> None:
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c",
         "import sys; from tests.serving import descriptors as d; "
         "sys.exit(d.FILE.read_bytes() != d.of_feast())"],
        check=False,
    )  # fmt: skip
    assert made.returncode == 0, f"python -m tests.serving.descriptors makes {descriptors.FILE}"
