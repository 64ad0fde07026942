"""Commands while Redis or Kafka is away: one line that says so, soon, and exit code 1."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headwater.local.process import free_ports
from tests.processes import Programs, feature_store

DEFINITIONS = """
from feast import Entity, FeatureView, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.data_format import DeltaFormat, JsonFormat
from feast.types import Float64, Int64

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
schema = [Field(name="user_id", dtype=Int64), Field(name="amount", dtype=Float64)]
clicks = KafkaSource(
    name="clicks", topic="clicks", kafka_bootstrap_servers="127.0.0.1:1", timestamp_field="at",
    message_format=JsonFormat("user_id bigint, amount double, at timestamp"),
    batch_source=FileSource(name="clicks_log", path="data/log/clicks",
                            file_format=DeltaFormat(), timestamp_field="at"),
)
last = StreamFeatureView(name="last", entities=[user], source=clicks, timestamp_field="at",
                         schema=schema)
"""
#: Seconds, on a machine that is busy with other tests: what is waited for are at most ten of them.
SOON = 60
NEED_REDIS = (
    ("status",), ("usage",), ("rebuild",), ("rebuild", "--behind"), ("materialize",),
    ("drift", "--record"), ("wait", "--topic", "clicks", "--partition", "0", "--offset", "0"),
    ("ingest", "--until-end"),
)  # fmt: skip
NEED_KAFKA = (("dead-letters", "list"), ("dead-letters", "replay"))


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("away")
    (folder / "feature_store.yaml").write_text(feature_store("away", "redis://127.0.0.1:1/0"))
    (folder / "definitions.py").write_text(DEFINITIONS)
    said = Programs(folder, {"REDIS_URL": "redis://127.0.0.1:1/0"}).headwater("apply")
    assert "The registry is written, but Redis did not take the request" in said
    return folder


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections, behind which nobody answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        yield server.getsockname()[1]


def refusals(
    repo: Path, commands: tuple[tuple[str, ...], ...], **env: str
) -> list[tuple[str, str, int]]:
    """(command, standard error, exit code) of each, all of them soon."""
    programs = Programs(repo, {"HEADWATER_METRICS_PORT": "0", **env})

    def one(command: tuple[str, ...]) -> tuple[str, subprocess.CompletedProcess[str], float]:
        start = time.monotonic()
        return " ".join(command), programs.run(*command), time.monotonic() - start

    with ThreadPoolExecutor(2) as two:
        done = list(two.map(one, commands))
    assert {name: seconds for name, _, seconds in done if seconds > SOON} == {}
    return [(name, ended.stderr, ended.returncode) for name, ended, _ in done]


def test_without_redis_every_command_that_needs_it_says_so_in_a_line(repo: Path) -> None:
    (port,) = free_ports(1)
    for name, said, code in refusals(repo, NEED_REDIS, REDIS_URL=f"redis://127.0.0.1:{port}/0"):
        (line,) = said.splitlines()
        assert line.startswith("headwater"), name
        assert "Redis did not take the request" in line, name
        assert code == 1, name


def test_a_redis_that_does_not_answer_is_not_waited_for(repo: Path, silent: int) -> None:
    url = f"redis://127.0.0.1:{silent}/0"
    for name, said, code in refusals(repo, (("status",), ("drift", "--record")), REDIS_URL=url):
        (line,) = said.splitlines()
        assert "Redis did not take the request (Timeout" in line, name
        assert code == 1, name


def test_without_kafka_every_command_that_needs_it_says_so_in_a_line(
    repo: Path, redis_url: str
) -> None:
    (port,) = free_ports(1)
    broker = f"127.0.0.1:{port}"
    env = {"REDIS_URL": redis_url, "KAFKA_BOOTSTRAP_SERVERS": broker}
    for name, said, code in refusals(repo, (*NEED_KAFKA, ("ingest", "--until-end")), **env):
        line = said.splitlines()[-1]  # before it a worker's log says how it tried
        assert f"no Kafka broker answers at {broker}" in line, name
        assert "Traceback" not in said, name
        assert code == 1, name
