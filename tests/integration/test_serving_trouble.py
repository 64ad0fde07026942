"""The service while something behind it, or in front of it, misbehaves. Its Redis is its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pyarrow.parquet as pq
import pytest
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headwater.errors import SettingError
from headwater.local import LocalRedis
from headwater.local.process import free_ports
from headwater.online.writer import clock_key
from headwater.settings import Settings
from service.access import Access, check_exposure
from tests.serving import project
from tests.serving.server import Answer, Running, call, serve
from tests.waiting import until

LIMIT = 0.5
ASKED = {"features": ["doubles:d0"], "entities": {"user_id": [1]}}


@pytest.fixture(scope="module")
def own_redis() -> Iterator[LocalRedis]:
    server = LocalRedis(append_only=True)
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, own_redis: LocalRedis) -> Path:
    made = project.write(tmp_path_factory.mktemp("trouble") / "repo", project.ours(own_redis.url))
    project.apply(made)
    return made


@pytest.fixture(scope="module")
def running(repo: Path, own_redis: LocalRedis) -> Iterator[Running]:
    with serve(
        repo,
        own_redis.url,
        HEADWATER_REDIS_TIMEOUT_SECONDS=str(LIMIT),
        HEADWATER_MAX_CONCURRENT_REQUESTS="8",
        HEADWATER_MAX_BODY_BYTES="100000",
        HEADWATER_MAX_ENTITIES="100",
    ) as server:
        write(server)
        yield server


def write(server: Running) -> None:
    frame = project.frames()["doubles"]
    body = {"feature_view_name": "doubles", "df": frame}
    assert server.post("/write-to-online-store", body).status == 200


def ask(server: Running, headers: dict[str, str] | None = None) -> Answer:
    return server.post("/get-online-features", ASKED, headers)


def answers(server: Running) -> bool:
    return ask(server).status == 200


def is_unavailable(answer: Answer) -> bool:
    return (
        answer.status == 503
        and answer.headers["Retry-After"] == "1"
        and "Redis" in answer.json["detail"]
    )


def test_a_killed_redis_is_a_503_at_once_and_its_return_is_found(
    running: Running, own_redis: LocalRedis
) -> None:
    assert answers(running)
    assert running.get("/ready").status == 200
    own_redis.kill()
    start = time.monotonic()
    assert is_unavailable(ask(running))
    assert time.monotonic() - start < LIMIT * 2
    assert running.get("/ready").status == 503
    assert running.get("/health").status == 200
    push = {"push_source_name": "numbers_push", "df": project.frames()["numbers"]}
    assert running.post("/push", push).status == 503
    own_redis.start()
    until(lambda: answers(running), 5)
    assert running.get("/ready").status == 200


def test_a_frozen_redis_is_a_503_within_the_limit(running: Running, own_redis: LocalRedis) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        pid = client.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(3):
            start = time.monotonic()
            assert is_unavailable(ask(running))
            assert time.monotonic() - start < LIMIT * 3
        assert running.get("/ready").status == 503
        assert running.get("/health").status == 200
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: answers(running), 5)


def test_a_redis_that_comes_back_empty_is_not_ready_until_it_is_loaded(
    running: Running, own_redis: LocalRedis
) -> None:
    assert running.get("/ready").status == 200
    with redis.Redis.from_url(own_redis.url) as client:
        client.flushall()
    lost = running.get("/ready")
    assert lost.status == 503
    assert "lost" in lost.json["detail"]
    assert ask(running).columns()["d0"]["statuses"] == ["NOT_FOUND"]
    write(running)
    assert running.get("/ready").status == 200
    assert ask(running).columns()["d0"]["statuses"] == ["PRESENT"]


@pytest.mark.parametrize(
    ("setting", "bad", "good", "word"),
    [
        ("maxmemory", "1", "0", "OOM"),
        ("min-replicas-to-write", "3", "0", "NOREPLICAS"),
    ],
)
def test_a_redis_that_takes_no_writes_still_serves_and_is_not_ready(
    running: Running, own_redis: LocalRedis, setting: str, bad: str, good: str, word: str
) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set(setting, bad)
        try:
            assert answers(running)
            assert word in running.get("/ready").json["detail"]
            frame = project.frames()["doubles"]
            body = {"feature_view_name": "doubles", "df": frame}
            refused = running.post("/write-to-online-store", body)
            assert refused.status == 503
            assert refused.headers["Retry-After"] == "1"
        finally:
            client.config_set(setting, good)
    until(lambda: running.get("/ready").status == 200, 5)
    write(running)


def test_a_read_only_replica_is_a_503_for_writes_that_says_so(
    running: Running, own_redis: LocalRedis
) -> None:
    with contextlib.closing(LocalRedis()) as other, redis.Redis.from_url(own_redis.url) as client:
        other.start()
        host, port = other.url.split("//")[1].split("/")[0].split(":")
        with redis.Redis.from_url(other.url) as primary:
            primary.hset("headwater:serving:clocks", "online|doubles", 1)
        client.replicaof(host, port)
        try:
            until(lambda: client.info("replication")["master_link_status"] == "up")
            assert "READONLY" in running.get("/ready").json["detail"]
            frame = project.frames()["doubles"]
            body = {"feature_view_name": "doubles", "df": frame}
            assert running.post("/write-to-online-store", body).status == 503
        finally:
            client.replicaof("NO", "ONE")
    write(running)
    assert running.get("/ready").status == 200


@contextlib.contextmanager
def cut_off(client: redis.Redis) -> Iterator[None]:
    """A replica without its primary that may not answer from what it has."""
    (nobody,) = free_ports(1)
    client.config_set("replica-serve-stale-data", "no")
    client.replicaof("127.0.0.1", nobody)
    try:
        yield
    finally:
        client.replicaof("NO", "ONE")


@contextlib.contextmanager
def busy(client: redis.Redis) -> Iterator[None]:
    """A script that does not end."""
    client.config_set("lua-time-limit", "50")
    with ThreadPoolExecutor(1) as one:
        endless = one.submit(client.eval, "while true do end", 0)
        try:
            until(lambda: answers_busy(client), 5)
            yield
        finally:
            client.script_kill()
        assert "killed" in str(endless.exception(10))


def answers_busy(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ResponseError as error:
        return str(error).startswith("BUSY")
    return False


@contextlib.contextmanager
def full(client: redis.Redis) -> Iterator[None]:
    """No place for the service's connections, which are broken off."""
    client.config_set("maxclients", "1")
    for connection in client.client_list():
        if connection["name"] == "headwater-serve":
            client.client_kill(connection["addr"])
    try:
        yield
    finally:
        client.config_set("maxclients", "1000")


@pytest.mark.parametrize(
    ("trouble", "word"), [(cut_off, "MASTERDOWN"), (busy, "BUSY"), (full, "max number of clients")]
)
def test_what_redis_says_in_place_of_values_is_a_503(
    running: Running, own_redis: LocalRedis, trouble: Any, word: str
) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        with trouble(client):
            until(lambda: not answers(running), 5)
            answer = ask(running)
            assert is_unavailable(answer)
            assert word in answer.json["detail"]
            assert running.get("/ready").status == 503
            assert running.get("/health").status == 200
        until(lambda: answers(running), 1)
        write(running)
        assert running.get("/ready").status == 200


def queue(running: Running, user: int, to: str) -> str:
    """Push a row without waiting for it; where its receipt is shown."""
    frame = {"user_id": [user], "i32": [1], "i64": [1], "f32": [1.0], "f64": [1.0], "flag": [True],
             "seen_at": ["2024-01-01T00:00:00Z"],
             "event_timestamp": [datetime.now(UTC).isoformat()]}  # fmt: skip
    pushed = {"push_source_name": "numbers_push", "df": frame, "to": to}
    queued = running.post("/push?wait=none", pushed)
    assert queued.status == 202
    return f"/api/v1/pushes/{queued.json['receipt']}"


def i32(running: Running, user: int) -> Any:
    found = running.features(["numbers:i32"], {"user_id": [user]}).columns()
    return found["i32"]["values"][0]


def test_a_push_that_was_queued_outlives_an_outage(running: Running, own_redis: LocalRedis) -> None:
    own_redis.kill()
    receipt = queue(running, 900, "online")
    assert is_unavailable(ask(running))
    own_redis.start()
    until(lambda: running.get(receipt).json["state"] == "written")
    assert i32(running, 900) == 1


def test_a_queued_push_that_redis_fails_half_way_goes_offline_once(
    running: Running, own_redis: LocalRedis, repo: Path
) -> None:
    def waits() -> int:
        return running.log.read_text().count("a queued push waits: ")

    clocks, before = clock_key("serving"), waits()
    with redis.Redis.from_url(own_redis.url) as client:
        write(running)
        client.rename(clocks, "aside")
        client.set(clocks, "no hash, so that the last write of a push fails")
        receipt = queue(running, 901, "online_and_offline")
        until(lambda: waits() >= before + 2)
        assert i32(running, 901) == 1
        assert running.get(receipt).json["state"] == "queued"
        client.rename("aside", clocks)
    until(lambda: running.get(receipt).json["state"] == "written")
    assert pq.read_table(repo / "data" / "numbers.parquet")["user_id"].to_pylist() == [901]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_service_that_is_up_before_its_redis_finds_it(repo: Path, workers: str) -> None:
    own = LocalRedis()
    own.start()
    own.kill()
    (rpc_port,) = free_ports(1)
    settings = {"HEADWATER_WORKERS": workers, "HEADWATER_GRPC_PORT": str(rpc_port)}
    with (
        contextlib.closing(own),
        serve(repo, own.url, **settings) as server,
        grpc.insecure_channel(f"127.0.0.1:{rpc_port}") as channel,
    ):

        def call_status() -> str:
            health = health_pb2_grpc.HealthStub(channel)
            asked = health_pb2.HealthCheckRequest(service="feast.serving.ServingService")
            found = health.Check(asked, timeout=30, wait_for_ready=True).status
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(found))

        assert is_unavailable(ask(server))
        assert server.get("/ready").status == 503
        assert server.get("/health").status == 200
        assert call_status() == "NOT_SERVING"
        own.start()
        until(lambda: all(answers(server) for _ in range(8)), 2)
        assert server.get("/ready").status == 200
        until(lambda: call_status() == "SERVING", 5)


def test_a_broken_connection_is_tried_once_more_on_a_fresh_one(
    running: Running, own_redis: LocalRedis
) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        for _ in range(20):
            for connection in client.client_list():
                if connection["name"] == "headwater-serve":
                    client.client_kill(connection["addr"])
            assert answers(running)


def test_a_deadline_that_is_over_is_answered_without_redis(
    running: Running, own_redis: LocalRedis
) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        assert answers(running)  # what only the first request takes is over
        client.execute_command("CLIENT", "PAUSE", 300, "ALL")
        start = time.monotonic()
        late = ask(running, {"X-Request-Deadline-Ms": "1"})
        assert is_unavailable(late)
        assert "time limit" in late.json["detail"]
        assert time.monotonic() - start < 0.29
    until(lambda: answers(running), 5)


@pytest.mark.parametrize("path", ["/get-online-features", "/push", "/write-to-online-store"])
def test_a_body_over_the_bound_is_refused(running: Running, path: str) -> None:
    big = b'{"entities": {"user_id": [' + b"1," * 100_000 + b"1]}}"
    assert running.post(path, big).status == 413
    assert running.post(path, b"[1,").status == 400
    assert running.post(path, b"[1]").status == 400


def test_more_entities_than_the_bound_are_refused(running: Running) -> None:
    answer = running.features(["doubles:d0"], {"user_id": list(range(101))})
    assert answer.status == 413
    assert "at most 100" in answer.json["detail"]


def http(method: str, path: str, body: bytes, *headers: bytes) -> bytes:
    """A request as it goes over the wire."""
    lines = [b"%b %b HTTP/1.1" % (method.encode(), path.encode()), b"Host: x", *headers]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])


def vector_request(user: int, *headers: bytes) -> bytes:
    asked = {"features": ["doubles:d0"], "entities": {"user_id": [user]}}
    return http("POST", "/get-online-features", json.dumps(asked).encode(), *headers)


def connected(server: Running) -> socket.socket:
    host, port = server.url.split("//")[1].split(":")
    return socket.create_connection((host, int(port)), 10)


def until_received(connection: socket.socket, what: bytes, times: int = 1) -> bytes:
    text = b""
    while text.count(what) < times:
        part = connection.recv(65536)
        assert part, text
        text += part
    return text


def test_two_requests_in_one_packet_are_answered_in_their_order(running: Running) -> None:
    with connected(running) as connection:
        health = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        connection.sendall(vector_request(1) + health + vector_request(2) + vector_request(3))
        text = until_received(connection, b'"user_id"', 3)
        assert text.count(b"HTTP/1.1 200") == 4
    found = [text.index(b'"values":[%d]' % user) for user in (1, 2, 3)]
    assert found == sorted(found)


def test_a_connection_that_sends_the_same_head_again_and_again(
    running: Running, own_redis: LocalRedis
) -> None:
    with connected(running) as connection, redis.Redis.from_url(own_redis.url) as client:
        for user in (1, 2, 3):
            connection.sendall(vector_request(user))
            assert b'"values":[%d]' % user in until_received(connection, b'Z"]}]}')
        whole = vector_request(4)
        for part in (whole[:30], whole[30:-10], whole[-10:] + vector_request(5)):
            connection.sendall(part)
        text = until_received(connection, b'Z"]}]}', 2)
        assert text.index(b'"values":[4]') < text.index(b'"values":[5]')
        hurried = vector_request(6, b"X-Request-Deadline-Ms: 100")
        for pause, answer in ((0, b'Z"]}]}'), (300, b"time limit"), (300, b"time limit")):
            if pause:
                client.execute_command("CLIENT", "PAUSE", pause, "ALL")
            connection.sendall(hurried)
            until_received(connection, answer)
    until(lambda: answers(running), 5)


def test_a_body_that_reads_like_a_known_request_is_a_body(running: Running) -> None:
    inner = vector_request(1)
    with connected(running) as connection:
        connection.sendall(inner)
        until_received(connection, b'Z"]}]}')
        # The service asks for the body, which so comes in a packet of its own.
        outer = http("POST", "/push", inner, b"Expect: 100-continue")
        connection.sendall(outer[: -len(inner)])
        until_received(connection, b"100 Continue")
        connection.sendall(inner)
        assert b"HTTP/1.1 400" in until_received(connection, b"}")


def freeze(client: redis.Redis, stack: contextlib.ExitStack) -> int:
    """Stop a Redis until the stack ends or its process, the result, is told to go on."""
    pid = int(client.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    stack.callback(os.kill, pid, signal.SIGCONT)
    return pid


def test_who_is_refused_hears_it_before_those_let_in_are_answered(
    repo: Path, own_redis: LocalRedis
) -> None:
    let_in, asking = 40, 60
    limits = {
        "HEADWATER_MAX_CONCURRENT_REQUESTS": str(let_in),
        "HEADWATER_REDIS_TIMEOUT_SECONDS": "60",
    }
    with (
        serve(repo, own_redis.url, **limits) as server,
        redis.Redis.from_url(own_redis.url) as client,
        contextlib.ExitStack() as stack,
    ):
        connections = [stack.enter_context(connected(server)) for _ in range(asking)]
        for connection in connections:
            connection.sendall(vector_request(1))
            until_received(connection, b'Z"]}]}')
        pid = freeze(client, stack)
        for connection in connections:
            connection.sendall(vector_request(2))
        refused: set[socket.socket] = set()
        while len(refused) < asking - let_in:
            ready = select.select(set(connections) - refused, [], [], 30)[0]
            assert ready, "a refusal waits for Redis"
            refused |= set(ready)
        stranger = stack.enter_context(connected(server))
        stranger.sendall(vector_request(2, b"X-Request-Id: 1"))
        for connection in (*refused, stranger):
            text = until_received(connection, b"shortly")
            assert text.startswith(b"HTTP/1.1 503")
            assert b"\r\nretry-after: 1\r\n" in text
        metrics = server.get("/metrics").body.decode()
        route = 'route="/get-online-features"'
        assert f"featurestore_requests_in_flight{{{route}}} {let_in}.0" in metrics
        counted = [
            float(line.rsplit(" ", 1)[1])
            for line in metrics.splitlines()
            if line.startswith("featurestore_request_duration_seconds_count")
            and route in line
            and "5xx" in line
        ]
        assert counted == [asking - let_in + 1]
        os.kill(pid, signal.SIGCONT)
        for connection in set(connections) - refused:
            assert b'"values":[2]' in until_received(connection, b'Z"]}]}')
        for connection in refused:
            connection.sendall(vector_request(3))
            assert b'"values":[3]' in until_received(connection, b'Z"]}]}')


def test_a_request_behind_one_that_waits_for_its_refusal_is_answered_as_well(
    repo: Path, own_redis: LocalRedis
) -> None:
    limits = {"HEADWATER_MAX_CONCURRENT_REQUESTS": "1", "HEADWATER_REDIS_TIMEOUT_SECONDS": "60"}
    with (
        serve(repo, own_redis.url, **limits) as server,
        redis.Redis.from_url(own_redis.url) as client,
        contextlib.ExitStack() as stack,
    ):
        connections = [stack.enter_context(connected(server)) for _ in range(600)]
        for connection in connections:
            connection.sendall(vector_request(1))
            until_received(connection, b'Z"]}]}')
        pid = freeze(client, stack)
        first, *others = connections
        first.sendall(vector_request(1))
        # All of them come in one turn of the loop, which refuses some; while the others wait for
        # it, another request comes behind each.
        server.process.send_signal(signal.SIGSTOP)
        for connection in others:
            connection.sendall(vector_request(2))
        server.process.send_signal(signal.SIGCONT)
        for connection in others:
            connection.sendall(vector_request(3))
        for connection in others:
            text = until_received(connection, b"HTTP/1.1", 2)
            assert text.count(b"HTTP/1.1 503") == 2
        os.kill(pid, signal.SIGCONT)
        until_received(first, b'Z"]}]}')
        assert "Traceback" not in server.log.read_text()


def test_passwords_are_in_no_log(repo: Path, own_redis: LocalRedis) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("requirepass", "hunter2")
        try:
            wrong = own_redis.url.replace("//", "//:swordfish@")
            with serve(repo, wrong) as server:
                assert is_unavailable(ask(server))
                assert server.get("/ready").status == 503
                log = server.log.read_text()
                assert "Redis is away" in log
                assert "swordfish" not in log
            right = own_redis.url.replace("//", "//:hunter2@").replace("/0", "/3")
            with serve(repo, right) as server:
                assert ask(server).columns()["d0"]["statuses"] == ["NOT_FOUND"], "database 3"
        finally:
            client.config_set("requirepass", "")


KEYS = {"reader": "read", "writer": "read+write", "boss": "read+write+admin"}


def test_keys_open_what_their_scopes_say(repo: Path, own_redis: LocalRedis) -> None:
    listed = ",".join(
        f"{name}:{scopes}:{hashlib.sha256(name.encode()).hexdigest()}"
        for name, scopes in KEYS.items()
    )

    def bearer(name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {name}"}

    frame = {"feature_view_name": "doubles", "df": project.frames()["doubles"]}
    with serve(
        repo,
        own_redis.url,
        HEADWATER_API_KEYS=listed,
        HEADWATER_HOST="0.0.0.0",  # noqa: S104
    ) as server:
        assert ask(server).status == 401
        assert ask(server).headers["WWW-Authenticate"] == "Bearer"
        assert ask(server, bearer("nobody")).status == 401
        assert ask(server, bearer("reader")).status == 200
        assert ask(server, {"X-API-Key": "reader"}).status == 200
        assert server.get("/health").status == 200
        assert server.get("/ready").status == 200
        assert server.get("/metrics").status == 401
        assert server.get("/metrics", bearer("reader")).status == 200
        assert server.post("/write-to-online-store", frame, bearer("reader")).status == 403
        assert server.post("/write-to-online-store", frame, bearer("writer")).status == 200
        assert server.post("/materialize", {}, bearer("writer")).status == 403
        nothing = {"feature_views": []}
        assert server.post("/materialize", nothing, bearer("boss")).status == 200
        with connected(server) as connection:
            for name, status in ((b"reader", b"200"), (b"reader", b"200"), (b"nobody", b"401")):
                connection.sendall(vector_request(1, b"X-API-Key: " + name))
                assert b"HTTP/1.1 " + status in until_received(connection, b"}")
        assert "reader" not in server.log.read_text()


def test_nobody_listens_to_strangers_without_keys_or_a_word() -> None:
    far = {"HEADWATER_HOST": "0.0.0.0"}  # noqa: S104
    with pytest.raises(SettingError, match="HEADWATER_API_KEYS"):
        check_exposure(Settings.from_env(far), Access(()))
    check_exposure(Settings.from_env({**far, "HEADWATER_OPEN_ACCESS": "yes"}), Access(()))
    check_exposure(Settings.from_env({"HEADWATER_HOST": "::1"}), Access(()))


def test_a_key_that_is_not_hashed_is_refused_and_not_shown() -> None:
    with pytest.raises(SettingError, match="entry 1") as refused:
        Access.parse("model:read:my-plain-key")
    assert "my-plain-key" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "workers"), [("HEADWATER_PORT", "1"), ("HEADWATER_GRPC_PORT", "2")]
)
def test_a_port_that_is_taken_is_one_line_and_an_exit_code(
    repo: Path, variable: str, workers: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (other,) = free_ports(1)
        settings = {"HEADWATER_PORT": str(other), variable: str(port), "HEADWATER_WORKERS": workers}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "service", "--repo", str(repo)],
            env=os.environ | settings, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in line
    assert variable in line


def test_no_request_waits_for_a_compiler(repo: Path, own_redis: LocalRedis, tmp_path: Path) -> None:
    def compiled() -> set[Path]:
        return set(tmp_path.rglob("*.nb?"))

    with serve(repo, own_redis.url, NUMBA_CACHE_DIR=str(tmp_path)) as server:
        before = compiled()
        write(server)
        names = ["doubles:d0", "doubles:d1", "numbers:i32", "numbers:f32", "numbers:flag"]
        for users in ([1], [1, 2, 3]):
            assert server.features(names, {"user_id": users}).status == 200
        after = compiled()
    assert before
    assert after == before


def test_tls(repo: Path, own_redis: LocalRedis, tmp_path: Path) -> None:
    import ssl
    import urllib.request

    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert,
         "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    files: dict[str, Any] = {"HEADWATER_TLS_CERT": str(cert), "HEADWATER_TLS_KEY": str(key)}
    with serve(repo, own_redis.url, **files) as server:
        context = ssl.create_default_context(cafile=str(cert))
        request = urllib.request.Request(
            server.url + "/get-online-features", json.dumps(ASKED).encode()
        )
        assert call(request, 10, context).status == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_browsers_are_served_on_a_second_port(
    repo: Path, own_redis: LocalRedis, workers: str
) -> None:
    (port,) = free_ports(1)
    settings = {"HEADWATER_UI_PORT": str(port), "HEADWATER_WORKERS": workers}
    with serve(repo, own_redis.url, **settings) as running:
        pages = Running(f"http://127.0.0.1:{port}", running.process, running.log)
        for one in (running, pages):
            assert one.get("/health").status == 200
            assert "<h1>Catalogue</h1>" in one.get("/ui/").body.decode()
