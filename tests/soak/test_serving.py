"""Serving for long: bad input without end, and three times the load that it can carry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import project
from tests.serving.fuzz import fuzz
from tests.serving.server import Running, serve

TRIES = 100_000


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Path:
    made = project.write(tmp_path_factory.mktemp("soak") / "repo", project.ours(redis_url), "soak")
    project.apply(made)
    return made


@pytest.fixture(scope="module")
def running(repo: Path, redis_url: str) -> Iterator[Running]:
    with serve(repo, redis_url) as server:
        server.fill(project.frames())
        yield server


@pytest.mark.parametrize("seed", range(1, 11))
def test_no_body_makes_a_500(running: Running, seed: int) -> None:
    fuzz(running, seed, TRIES // 10)
    assert "Traceback" not in running.log.read_text()
