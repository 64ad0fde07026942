"""Views that are applied while a worker works: full windows at once, and no other view waits."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import redis

from headwater import catalog_cache
from headwater.codec import key_prefix
from headwater.local import LocalKafka
from headwater.online.progress import Place, Progress
from tests.faults import project, truth
from tests.faults.compare import compare
from tests.faults.crew import Crew
from tests.faults.feed import Feed
from tests.waiting import until

NEW = ["user_windows", "pair_windows", "large_windows", "pair_latest"]
OLD = ["device_windows", "doubled_windows", "halved_windows", "user_latest", "visit_windows"]


def test_new_views_get_every_earlier_event_while_events_come_and_the_others_go_on(
    tmp_path: Path, kafka: LocalKafka, redis_client: redis.Redis, redis_url: str
) -> None:
    run = f"n{uuid.uuid4().hex[:8]}"
    project.define(tmp_path, f"{run}-", without=NEW)
    crew = Crew(tmp_path, kafka.bootstrap, redis_url, run)
    with closing(crew), closing(Feed(kafka.bootstrap, run, 3)) as feed:
        crew.programs.headwater("apply")
        crew.start()
        feed.send(3000)
        _wait(tmp_path, kafka, redis_client, OLD)
        project.define(tmp_path, f"{run}-")
        seen: list[int] = []
        with ThreadPoolExecutor(1) as one:
            applying = one.submit(crew.programs.headwater, "apply")
            while not applying.done():
                feed.send(50)
                seen.append(_reached(tmp_path, redis_client))
        for view in NEW:
            assert f"{view}: servable after" in applying.result()
        assert len(set(seen)) > 3, "the other views waited"
        feed.send(50)
        _wait(tmp_path, kafka, redis_client, OLD + NEW)
        crew.check()
        found = compare(tmp_path, partial(truth.read_topic, kafka.bootstrap), redis_client)
    assert found.messages == feed.sent


def _reached(repo: Path, client: redis.Redis) -> int:
    """How far the old views are, all partitions of all of them together."""
    views = catalog_cache.load(repo).views
    prefixes = {key_prefix("faults", views[name]) for name in OLD}
    held = Progress(client, "faults").all()
    return sum(at for place, at in held.items() if place.prefix in prefixes)


def _wait(repo: Path, kafka: LocalKafka, client: redis.Redis, names: list[str]) -> None:
    """Until the state of the views holds every event of their topics."""
    catalog = catalog_cache.load(repo)
    ends: dict[Place, int] = {}
    for name in names:
        view = catalog.views[name]
        for topic in catalog.streams[view.stream].topics:
            for message in truth.read_topic(kafka.bootstrap, topic):
                place = Place(key_prefix("faults", view), topic, message.partition)
                ends[place] = message.offset + 1

    def whole() -> bool:
        held = Progress(client, "faults").all()
        return all(held.get(place, 0) >= end for place, end in ends.items())

    until(whole, 120, "views stay behind")
