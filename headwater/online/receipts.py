"""Whether an event can be served yet: what a producer that needs to know waits for."""

from __future__ import annotations

import time

from headwater.catalog import Catalog
from headwater.codec import key_prefix
from headwater.errors import HeadwaterError
from headwater.online.progress import Place, Progress

#: Time between two looks.
LOOK_SECONDS = 0.01


def places(catalog: Catalog, topic: str, partition: int) -> list[Place]:
    """The states that an event of a topic's partition goes into.

    Raises HeadwaterError where no online view reads the topic.
    """
    found = [
        Place(key_prefix(catalog.project, view), topic, partition)
        for stream in catalog.streams.values()
        if topic in stream.topics
        for view in catalog.views_of_stream(stream.name)
        if view.online
    ]
    if not found:
        known = sorted({t for stream in catalog.streams.values() for t in stream.topics})
        raise HeadwaterError(f"no online view reads topic {topic!r}; topics: {', '.join(known)}")
    return found


def wait(
    catalog: Catalog, progress: Progress, topic: str, partition: int, offset: int, seconds: float
) -> bool:
    """Wait until every view has taken the event in, or rejected it; False when time is up.

    Raises HeadwaterError where no online view reads the topic.
    """
    wanted = places(catalog, topic, partition)
    until = time.monotonic() + seconds
    while True:
        held = progress.read(wanted)
        if all(held.get(place, 0) > offset for place in wanted):
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(LOOK_SECONDS)
