"""The last dead letters of each topic, for whoever looks: a short list in Redis.

The dead-letter topic in Kafka has all of them, whole; `headwater dead-letters` reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from headwater.online.connect import store_errors
from headwater.online.writer import OnlineWriter

#: Letters that are kept of each topic, and bytes of a key or a value that are shown.
KEPT, SHOWN_BYTES = 100, 4096


class Letter(msgspec.Struct, frozen=True):
    """A message that was not applied. `key` and `value` are text where they are text, else
    "base64:..."; longer ones are cut to `SHOWN_BYTES`. bytes: of the whole value.

    time: when it was put aside, ISO 8601. kind: invalid, future, late or udf. source:
    which rejected it.
    """

    topic: str
    partition: int
    offset: int
    time: str
    kind: str
    reason: str
    key: str | None
    value: str | None
    bytes: int
    source: str = ""


def _key(project: str, topic: str) -> str:
    return f"headwater:{project}:dead-letters:{topic}"


def keep(writer: OnlineWriter, letters: Iterable[Letter]) -> None:
    """Put letters before those that are held; the oldest beyond `KEPT` go."""
    of: dict[str, list[bytes]] = {}
    for letter in letters:
        of.setdefault(letter.topic, []).append(msgspec.json.encode(letter))
    for topic, texts in of.items():
        key = _key(writer.project, topic)
        with store_errors():
            pipe: Any = writer.client.pipeline(transaction=False)
            pipe.lpush(key, *texts[-KEPT:])
            pipe.ltrim(key, 0, KEPT - 1)
            pipe.execute()


def read(writer: OnlineWriter, topics: Iterable[str], limit: int = KEPT) -> list[Letter]:
    """The last letters of some topics, the newest of each topic first."""
    found: list[Letter] = []
    for topic in topics:
        with store_errors():
            texts: Any = writer.client.lrange(_key(writer.project, topic), 0, limit - 1)
        found += [msgspec.json.decode(text, type=Letter) for text in texts]
    return found
