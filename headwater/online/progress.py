"""How far each view's state in Redis goes: the answer to "is it whole, and up to which offset?".

A hash in Redis holds, for each (view, topic, partition), the offset before which every event is in
the view's state. It lies beside that state on purpose: what loses the state loses it too. A
worker moves it forward after each write; where it finds it behind (a new view, a Redis that came
back empty or from an old snapshot) the view is rebuilt from the offline log from there on.

The hash also holds an *epoch*, a random name that each rebuild renews: whoever builds on state that
it read before knows by it that the state may have been lost and made anew in between.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import redis

from headwater.online.writer import script, store_errors


class Place(NamedTuple):
    """A view's state (by the prefix of its keys) as far as one partition feeds it."""

    prefix: bytes
    topic: str
    partition: int

    def field(self) -> bytes:
        return b"%b|%b|%d" % (self.prefix, self.topic.encode(), self.partition)

    @classmethod
    def parse(cls, field: bytes) -> Place:
        prefix, rest = field.split(b"|", 1)
        topic, partition = rest.rsplit(b"|", 1)
        return cls(prefix, topic.decode(), int(partition))


#: The batch source that counts before the log begins has no topic: its place is (prefix, "", 0).
def history(prefix: bytes) -> Place:
    return Place(prefix, "", 0)


_EPOCH = b"epoch"


class Progress:
    """Reads and moves the offsets. Every call raises StoreUnavailableError where Redis is down."""

    def __init__(self, client: redis.Redis, project: str) -> None:
        self._client = client
        self._key = f"headwater:{project}:progress"
        self._move = client.register_script(script("move_progress"))

    def all(self) -> dict[Place, int]:
        """Every place and the offset it is whole up to (exclusive)."""
        with store_errors():
            found: Any = self._client.hgetall(self._key)
        return {Place.parse(f): int(value) for f, value in found.items() if f != _EPOCH}

    def epoch(self) -> bytes:
        """The name of what Redis holds; another one after a loss or a rebuild."""
        with store_errors():
            self._client.hsetnx(self._key, _EPOCH, secrets.token_bytes(8))
            found: Any = self._client.hget(self._key, _EPOCH)
        return bytes(found)

    def renew(self) -> None:
        """Begin another epoch: state that was read before may not be what it was."""
        with store_errors():
            self._client.hset(self._key, _EPOCH, secrets.token_bytes(8))

    def stands(self, epoch: bytes, places: Mapping[Place, int]) -> bool:
        """Whether the epoch is the same, and every place holds at least what is given for it."""
        with store_errors():
            fields: Any = [_EPOCH, *(place.field() for place in places)]
            found: Any = self._client.hmget(self._key, fields)
        return found[0] == epoch and all(
            value is not None and int(value) >= at
            for value, at in zip(found[1:], places.values(), strict=True)
        )

    def read(self, places: Sequence[Place]) -> dict[Place, int]:
        """The offsets of some places; a place without state is missing."""
        if not places:
            return {}
        with store_errors():
            found: Any = self._client.hmget(self._key, [place.field() for place in places])
        return {p: int(v) for p, v in zip(places, found, strict=True) if v is not None}

    def move(self, moves: Mapping[Place, tuple[int | None, int | None]]) -> dict[Place, int | None]:
        """Place -> (what it is believed to hold, what it shall hold); None is absent.

        Returns the places that held something else, with what they hold; those were not moved.
        """
        if not moves:
            return {}
        arguments: list[bytes] = []
        for place, (believed, new) in moves.items():
            arguments += [place.field(), _text(believed), _text(new)]
        with store_errors():
            found: Any = self._move([self._key], arguments)
        differ = zip(found[::2], found[1::2], strict=True)
        return {Place.parse(field): int(held) if held else None for field, held in differ}

    def forget(self, prefix: bytes) -> None:
        """Drop what is known of one view's state; before the state itself is deleted."""
        left: dict[Place, int | None] = {p: v for p, v in self.all().items() if p.prefix == prefix}
        while left:
            held = self.move({place: (at, None) for place, at in left.items()})
            left = {place: at for place, at in held.items() if at is not None}


def _text(offset: int | None) -> bytes:
    return b"" if offset is None else b"%d" % offset
