"""Serving for long: bad input without end, three times what it takes at once, outages of Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater.local import LocalRedis
from headwater.settings import Settings
from tests.benchmarks.serving import trouble
from tests.serving import project
from tests.serving.fuzz import fuzz
from tests.serving.server import Running, serve

TRIES = 100_000


@pytest.fixture(scope="module")
def running(repo: Path, redis_url: str) -> Iterator[Running]:
    with serve(repo, redis_url) as server:
        server.fill(project.frames())
        yield server


@pytest.mark.parametrize("seed", range(1, 11))
def test_no_body_makes_a_500(running: Running, seed: int) -> None:
    fuzz(running, seed, TRIES // 10)
    assert "Traceback" not in running.log.read_text()


@pytest.mark.parametrize("entities", [1, 10])
def test_at_three_times_the_load_who_is_let_in_waits_no_longer(
    running: Running, entities: int
) -> None:
    users = [at % project.USERS for at in range(entities)]
    body = {"features": [f"doubles:d{i}" for i in range(5)], "entities": {"user_id": users}}
    bound = Settings().max_concurrent_requests
    full = trouble.overload(running.url, body, bound, 20)
    triple = trouble.overload(running.url, body, 3 * bound, 20, 3 * full.accepted)
    assert full.refused == 0
    assert triple.refused > 0
    assert triple.accepted_p99_ms < 2 * full.accepted_p99_ms
    assert triple.refused_p99_ms < triple.accepted_p99_ms
    assert triple.accepted > 0.5 * full.accepted


def test_redis_is_found_again_within_a_second_of_its_start(repo: Path) -> None:
    own = LocalRedis()
    own.start()
    asked = {"features": ["doubles:d0"], "entities": {"user_id": [1]}}
    try:
        with serve(repo, own.url) as server:
            for _ in range(20):
                found = trouble.outage(server.url, json.dumps(asked).encode(), own)
                assert found.refused_ms < 2000 * Settings().redis_timeout_seconds
                assert found.back_ms < 1000
    finally:
        own.close()
