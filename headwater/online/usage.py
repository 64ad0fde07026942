"""Who asked for which features, how often and when last: a hash in Redis that services add to.

It is written seldom (a service adds what it counted once a minute), so the counts of services on
other machines may be that much behind, and so may a time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from headwater.online.connect import store_errors
from headwater.online.writer import OnlineWriter

#: What features were asked for: a vector, or the rows of a training set.
Purpose = Literal["online", "training"]
#: The field that says since when there is anything to count.
_SINCE = "since"


class User(NamedTuple):
    """One use of one feature.

    feature: "view:feature", "view:" for the view as a whole, or "view:*" where it is only known
    that some of its features were asked for. service: "" where features were named one by one.
    caller: the API key's name.
    """

    feature: str
    service: str
    caller: str
    purpose: Purpose = "online"


class Counts(NamedTuple):
    """Requests, the entities in them, and when the last one came (Unix seconds; 0: never)."""

    requests: int = 0
    entities: int = 0
    last: float = 0.0

    def plus(self, other: Counts) -> Counts:
        return Counts(
            self.requests + other.requests,
            self.entities + other.entities,
            max(self.last, other.last),
        )


class Usage(NamedTuple):
    """What was counted since a time (Unix seconds; 0: nothing was ever counted)."""

    counts: dict[User, Counts]
    since: float


def _key(project: str) -> str:
    return f"headwater:{project}:usage"


def add(writer: OnlineWriter, counts: Mapping[User, Counts]) -> None:
    """Add to what is held; one round trip. Raises StoreUnavailableError."""
    key = _key(writer.project)
    with store_errors():
        pipe: Any = writer.client.pipeline(transaction=False)
        pipe.hsetnx(key, _SINCE, repr(time.time()))
        for user, more in counts.items():
            name = json.dumps(user)
            pipe.hincrby(key, f"requests|{name}", more.requests)
            pipe.hincrby(key, f"entities|{name}", more.entities)
            pipe.hset(key, f"last|{name}", repr(more.last))
        pipe.execute()


def read(writer: OnlineWriter) -> Usage:
    """Everything that was counted. Raises StoreUnavailableError."""
    with store_errors():
        found: Any = writer.client.hgetall(_key(writer.project))
    since = float(found.pop(_SINCE.encode(), 0))
    parts: dict[User, dict[str, float]] = {}
    for field, value in found.items():
        number, _, name = field.decode().partition("|")
        parts.setdefault(User(*json.loads(name)), {})[number] = float(value)
    counts = {
        user: Counts(int(of.get("requests", 0)), int(of.get("entities", 0)), of.get("last", 0.0))
        for user, of in parts.items()
    }
    return Usage(counts, since)
