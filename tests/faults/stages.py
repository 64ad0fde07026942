"""A stage of its own for each scenario; a plugin of the short and the long fault tests."""

from __future__ import annotations

import random
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
import redis

from headwater.local import LocalKafka, LocalRedis
from tests.faults import project, truth
from tests.faults.compare import Compared, compare
from tests.faults.crew import Crew
from tests.faults.feed import Feed
from tests.faults.scenarios import Stage

CLIENTS = ["kafka-python", "confluent-kafka"]


class MakeStage(Protocol):
    """Makes a stage from a seed: a repository, topics, a group and a Redis of its own."""

    def __call__(self, seed: int, client: str = CLIENTS[0]) -> Stage: ...


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The applied project that every run copies."""
    return project.applied(tmp_path_factory.mktemp("faults") / "template")


@pytest.fixture
def make_stage(template: Path, tmp_path: Path, kafka: LocalKafka) -> Iterator[MakeStage]:
    with ExitStack() as exits:

        def make(seed: int, client: str = CLIENTS[0]) -> Stage:
            run = f"f{uuid.uuid4().hex[:8]}"
            repo = project.copy(template, tmp_path / run, run)
            store = LocalRedis(append_only=True)
            exits.callback(store.close)
            store.start()
            feed = Feed(kafka.bootstrap, run, seed)
            exits.callback(feed.close)
            exits.callback(_unmount, repo / "data" / "log")
            settings = {"HEADWATER_KAFKA_CLIENT": client}
            crew = Crew(repo, kafka.bootstrap, store.url, run, settings)
            exits.callback(crew.close)
            return Stage(crew, feed, kafka, store, random.Random(seed))

        yield make


def _unmount(folder: Path) -> None:
    if folder.is_mount():
        subprocess.run(["umount", "-l", folder], check=True)


def compared(stage: Stage) -> Compared:
    """Everything that came of a stage's events, compared; what was counted is shown by `-rP`."""
    with redis.Redis.from_url(stage.redis.url) as client:
        found = compare(stage.crew.repo, partial(truth.read_topic, stage.kafka.bootstrap), client)
    print(f"kills {stage.crew.kills}, {found}")  # noqa: T201
    return found
