"""How far each view's state in Redis goes: the answer to "is it whole, and up to which offset?".

A hash in Redis holds, for each (view, topic, partition), the offset before which every event is in
the view's state. It lies beside that state on purpose: what loses the state loses it too. A
worker moves it forward after each write; where it finds it behind (a new view, a Redis that came
back empty or from an old snapshot) the view is rebuilt from the offline log from there on.

The hash also holds an *epoch*, a random name that each rebuild renews: whoever builds on state that
it read before knows by it that the state may have been lost and made anew in between.

In a cluster the hash lies on one node and the state on all. There it has witnesses on the others
(headwater/online/witnesses.py): the hash never says more than they do, save where a node lost
state; whoever sees that puts the hash back, and then it is as if the hash had been lost with it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from redis.cluster import RedisCluster

from headwater.online.connect import Client, script, store_errors
from headwater.online.witnesses import EPOCH, Witnesses


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


Moves = Mapping[Place, tuple[int | None, int | None]]


class Progress:
    """Reads and moves the offsets. Every call raises StoreUnavailableError where Redis is down."""

    def __init__(self, client: Client, project: str) -> None:
        self._client: Any = client
        self._key = f"headwater:{project}:progress"
        self._move = client.register_script(script("move_progress"))
        self._witnesses: Witnesses | None = None
        if isinstance(client, RedisCluster):
            self._witnesses = Witnesses(client, self._key)

    def all(self) -> dict[Place, int]:
        """Every place and the offset it is whole up to (exclusive)."""
        with store_errors():
            found = self._client.hgetall(self._key)
            return self._true({Place.parse(f): int(v) for f, v in found.items() if f != EPOCH})

    def snapshot(self) -> tuple[bytes | None, dict[Place, int]]:
        """The epoch and every place's offset as they stand together; changes nothing."""
        with store_errors():
            found: dict[bytes, bytes] = self._client.hgetall(self._key)
        epoch = found.pop(EPOCH, None)
        return epoch, {Place.parse(field): int(value) for field, value in found.items()}

    def epoch(self) -> bytes:
        """The name of what Redis holds; another one after a loss or a rebuild."""
        with store_errors():
            self._client.hsetnx(self._key, EPOCH, secrets.token_bytes(8))
            found = bytes(self._client.hget(self._key, EPOCH))
            if self._witnesses and self._witnesses.epochs() != {found}:
                return self.renew()
        return found

    def renew(self) -> bytes:
        """Begin another epoch: state that was read before may not be what it was."""
        epoch = secrets.token_bytes(8)
        with store_errors():
            self._client.hset(self._key, EPOCH, epoch)
            if self._witnesses:
                self._witnesses.begin(epoch)
        return epoch

    def stands(self, epoch: bytes, places: Mapping[Place, int]) -> bool:
        """Whether the epoch is the same, and every place holds at least what is given for it."""
        fields = [EPOCH, *(place.field() for place in places)]
        with store_errors():
            held: list[list[bytes | None]] = [self._client.hmget(self._key, fields)]
            if self._witnesses:
                held += self._witnesses.read(fields)
        return all(
            one[0] == epoch
            and all(
                value is not None and int(value) >= at
                for value, at in zip(one[1:], places.values(), strict=True)
            )
            for one in held
        )

    def read(self, places: Sequence[Place]) -> dict[Place, int]:
        """The offsets of some places; a place without state is missing."""
        if not places:
            return {}
        with store_errors():
            found = self._client.hmget(self._key, [place.field() for place in places])
            held = {p: int(v) for p, v in zip(places, found, strict=True) if v is not None}
            return self._true(held)

    def move(self, moves: Moves) -> dict[Place, int | None]:
        """Place -> (what it is believed to hold, what it shall hold); None is absent.

        Returns the places that held something else, with what they hold; those were not moved.
        """
        if not moves:
            return {}
        with store_errors():
            if self._witnesses is None:
                return self._moved(moves)
            down = {p: m for p, m in moves.items() if _is_down(*m)}
            differ = self._move_down(self._witnesses, down)
            up = {p: m for p, m in moves.items() if p not in down}
            return differ | self._move_up(self._witnesses, up)

    def _moved(self, moves: Moves) -> dict[Place, int | None]:
        """As `move`, of the hash alone."""
        if not moves:
            return {}
        arguments: list[bytes] = []
        for place, (believed, new) in moves.items():
            arguments += [place.field(), _text(believed), _text(new)]
        found: Any = self._move([self._key], arguments)
        differ = zip(found[::2], found[1::2], strict=True)
        return {Place.parse(field): int(held) if held else None for field, held in differ}

    # -- with witnesses: they are never behind the hash, but where a node lost what it held

    def _move_up(self, witnesses: Witnesses, moves: Moves) -> dict[Place, int | None]:
        """First the witnesses, under the epoch in which what is believed was seen to hold."""
        if not moves:
            return {}
        fields = [EPOCH, *(place.field() for place in moves)]
        epoch, *texts = self._client.hmget(self._key, fields)
        held = dict(zip(moves, texts, strict=True))
        same = {p: m for p, m in moves.items() if (held[p] or b"") == _text(m[0])}
        differ = {p: int(v) if (v := held[p]) else None for p in moves if p not in same}
        told = {p.field(): (_text(old), _text(new)) for p, (old, new) in same.items()}
        lost = [Place.parse(f) for f in witnesses.move(epoch or b"", told)] if told else []
        true = self.read(lost)
        differ |= {place: true.get(place) for place in lost}
        return differ | self._moved({p: m for p, m in same.items() if p not in lost})

    def _move_down(self, witnesses: Witnesses, moves: Moves) -> dict[Place, int | None]:
        """First the hash."""
        differ = self._moved(moves)
        done = {p.field(): _text(new) for p, (_, new) in moves.items() if p not in differ}
        if done:
            witnesses.lower(done)
        return differ

    def _true(self, held: dict[Place, int]) -> dict[Place, int]:
        """What the hash says, as far as the witnesses say so too; else the hash is put back.

        The hash was read before the witnesses, so one that moves meanwhile is no loss.
        """
        if self._witnesses is None:
            return held
        least = self._witnesses.least([place.field() for place in held])
        lost: dict[Place, tuple[int | None, int | None]] = {
            place: (at, low)
            for (place, at), low in zip(held.items(), least, strict=True)
            if low is None or low < at
        }
        self._move_down(self._witnesses, lost)
        true = {p: lost[p][1] if p in lost else at for p, at in held.items()}
        return {p: at for p, at in true.items() if at is not None}

    def forget(self, prefix: bytes) -> None:
        """Drop what is known of one view's state; before the state itself is deleted."""
        left: dict[Place, int | None] = {p: v for p, v in self.all().items() if p.prefix == prefix}
        while left:
            held = self.move({place: (at, None) for place, at in left.items()})
            left = {place: at for place, at in held.items() if at is not None}


def _text(offset: int | None) -> bytes:
    return b"" if offset is None else b"%d" % offset


def _is_down(believed: int | None, new: int | None) -> bool:
    return new is None or (believed is not None and new < believed)
