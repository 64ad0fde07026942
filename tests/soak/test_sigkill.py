"""Many SIGKILLs of workers; run by `make soak`."""

from __future__ import annotations

import redis

from headwater.local import LocalKafka
from tests.integration.test_exactly_once import kill_and_compare, programs
from tests.processes import Programs

__all__ = ["programs"]


def test_fifty_sigkills_lose_and_double_nothing(
    programs: Programs,
    kafka: LocalKafka,
    redis_client: redis.Redis,
) -> None:
    assert kill_and_compare(programs, kafka, redis_client, 400_000, 50, 1.0) >= 40
