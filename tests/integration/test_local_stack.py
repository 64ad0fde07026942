"""The local stack: what it starts really runs, keeps what it must, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from headwater.errors import HeadwaterError
from headwater.local import LocalKafka, LocalRedis, LocalStack, apache
from headwater.settings import Settings

STACK_THAT_WAITS = """
import time
from headwater.local import LocalStack
from headwater.settings import Settings

stack = LocalStack(Settings(kafka_bootstrap_servers="127.0.0.1:1"), lambda line: None)
with stack:
    print(stack.redis.url, stack.redis.folder, flush=True)
    time.sleep(60)
"""


def _send(bootstrap: str, topic: str, values: list[bytes]) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for value in values:
        producer.send(topic, value, partition=0)
    producer.flush(30)
    producer.close()


def _read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
    )
    consumer.assign([TopicPartition(topic, 0)])
    seen: list[bytes] = []
    deadline = time.monotonic() + 30
    while len(seen) < count and time.monotonic() < deadline:
        for records in consumer.poll(timeout_ms=500).values():
            seen.extend(record.value for record in records)
    consumer.close()
    return seen


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, retry=None) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


def _wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_redis_keeps_every_acknowledged_write_over_a_kill(tmp_path: Path) -> None:
    server = LocalRedis(folder=tmp_path, append_only=True)
    server.start()
    try:
        with redis.Redis.from_url(server.url) as client:
            for i in range(500):
                client.set(f"key-{i}", i)
        server.kill()
        assert not _answers(server.url)
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.dbsize() == 500
    finally:
        server.close()
    assert list(tmp_path.iterdir()), "a folder that was given stays"


def test_redis_without_a_log_of_appends_comes_back_empty_at_the_same_address() -> None:
    server = LocalRedis()
    server.start()
    try:
        with redis.Redis.from_url(server.url) as client:
            client.set("key", "value")
        server.restart()
        with redis.Redis.from_url(server.url) as client:
            assert client.dbsize() == 0
    finally:
        server.close()
    assert not server.folder.exists()


def test_a_given_redis_is_used_and_never_stopped(redis_url: str) -> None:
    server = LocalRedis(redis_url)
    server.start()
    with pytest.raises(HeadwaterError, match="not ours to stop"):
        server.stop()
    server.close()
    assert server.url == redis_url
    assert _answers(redis_url)


def test_a_password_in_a_given_url_is_not_shown() -> None:
    assert "hunter2" not in LocalRedis("redis://:hunter2@db:6379/0").description


def test_the_redis_tests_never_use_a_server_that_the_environment_names(redis_url: str) -> None:
    assert redis_url != os.environ.get("REDIS_URL")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_servers_and_their_folders_go_with_the_process_however_it_ends(how: signal.Signals) -> None:
    command = [sys.executable, "-c", STACK_THAT_WAITS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url, folder = process.stdout.readline().split()
        assert _answers(url)
        process.send_signal(how)
        process.wait(15)
    assert _wait_until(lambda: not _answers(url))
    assert _wait_until(lambda: not Path(folder).exists())


def test_a_server_that_cannot_start_says_what_its_log_says(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("a file where Redis wants a folder")
    server = LocalRedis(folder=tmp_path, append_only=True)
    with pytest.raises(
        HeadwaterError, match=r"(?s)local redis ended at once.*Can't open or create"
    ):
        server.start()


def test_kafka_keeps_every_acknowledged_event_over_a_restart_and_a_kill() -> None:
    try:
        broker = LocalKafka(allow_mock=False)
    except HeadwaterError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    try:
        broker.start()
        first, address = [b"%d" % i for i in range(100)], broker.bootstrap
        _send(address, "kept", first)
        broker.restart()
        assert broker.bootstrap == address
        assert _read(address, "kept", 100) == first
        second = [b"later-%d" % i for i in range(100)]
        _send(address, "kept", second)
        broker.kill()
        broker.start()
        assert _read(address, "kept", 200) == first + second
    finally:
        broker.close()


def test_kafka_makes_a_topic_of_four_partitions_when_it_is_first_named(kafka: LocalKafka) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    assert len(producer.partitions_for("first-named-here")) == 4
    producer.close()


def test_a_stack_says_what_it_is_and_hands_on_where(redis_url: str, kafka: LocalKafka) -> None:
    said: list[str] = []
    given = Settings(redis_url=redis_url, kafka_bootstrap_servers=kafka.bootstrap)
    with LocalStack(given, said.append) as stack:
        assert stack.env == {"REDIS_URL": redis_url, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap}
    assert len(said) == 2
    assert "REDIS_URL names" in said[0]
    assert kafka.bootstrap in said[1]


def test_without_java_a_mock_cluster_serves_and_says_that_it_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    assert apache.missing().startswith("there is no Java")
    mock = LocalKafka()
    mock.start()
    try:
        assert mock.kind == "mock"
        assert "not a real broker" in mock.description
        assert "there is no Java" in mock.description
        mock.create_topics({"mocked": 2})
        mock.create_topics({"mocked": 2})
        # Its dialect is that of Kafka 2.3, and it answers no question about versions.
        producer = KafkaProducer(bootstrap_servers=mock.bootstrap, api_version=(2, 3))
        assert producer.partitions_for("mocked") == {0, 1}
        producer.send("mocked", b"event").get(10)
        producer.close()
        with pytest.raises(HeadwaterError, match="only a local Apache Kafka can restart"):
            mock.restart()
    finally:
        mock.close()


def test_without_java_a_real_kafka_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(HeadwaterError, match="install 17 or newer"):
        LocalKafka(allow_mock=False)
