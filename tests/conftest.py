"""Real servers for the tests: a Redis and a Kafka of their own, whatever the environment names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from headwater.errors import HeadwaterError
from headwater.local import LocalKafka, LocalRedis


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of an embedded Redis; use `redis_client` for an empty one."""
    server = LocalRedis()
    server.start()
    yield server.url
    server.close()


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of the embedded Redis, which is empty when the test starts."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        yield client


@pytest.fixture(scope="module")
def repo(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_url: str
) -> Path:
    """The serving tests' project (tests/serving), applied, by the name of the tests' module."""
    from tests.serving import project  # pandas: only for those who need it

    name = f"{request.path.parent.name}_{request.path.stem}"
    made = project.write(tmp_path_factory.mktemp(name) / "repo", project.ours(redis_url), name)
    project.apply(made)
    return made


@pytest.fixture(scope="session")
def kafka() -> Iterator[LocalKafka]:
    """A real Apache Kafka, shared by all tests: give each test topics and groups of its own."""
    try:
        server = LocalKafka(allow_mock=False)
    except HeadwaterError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    try:
        server.start()
        yield server
    finally:
        server.close()
