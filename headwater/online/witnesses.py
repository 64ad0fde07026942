"""Copies of a project's progress all over a Redis Cluster, so that no node loses state unnoticed.

Progress tells a loss because it lies beside the state and is written after it. In a cluster that
holds for one node only. So there is a witness in each 64th of the slots: a hash with the same
fields, moved forward after the state was written and before the progress itself. A node's replica
has a beginning of what the node was told, in order; so a node that lost state has witnesses that
are behind the progress, and a place is whole only as far as the least of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from redis.cluster import RedisCluster
from redis.crc import key_slot

from headwater.online.cluster import SLOTS, Cluster
from headwater.online.commands import each
from headwater.online.connect import script

logger = logging.getLogger("headwater.online")
#: A node that has 512 slots in a row has a witness for sure.
WITNESSES = 64
EPOCH = b"epoch"
#: Field -> (what it is believed to hold, what it shall hold), as texts; empty is absent.
Moves = Mapping[bytes, tuple[bytes, bytes]]


class Witnesses:
    """Reads and moves the witnesses of one project; errors are redis-py's own."""

    def __init__(self, client: RedisCluster, key: str) -> None:
        self._move = client.register_script(script("move_witness"))
        self._lower = client.register_script(script("lower_witness"))
        self._cluster = Cluster(client, "move_witness", "lower_witness")
        self._keys = [b"%b:{%d}" % (key.encode(), tag) for tag in _tags()]
        self._warned: list[int] = []

    def read(self, fields: Sequence[bytes]) -> list[list[bytes | None]]:
        """What each witness holds, field by field."""
        return self._on_each(("HMGET",), *fields)

    def least(self, fields: Sequence[bytes]) -> list[int | None]:
        """The least that any witness holds of each field; None where one holds nothing."""
        if not fields:
            return []
        held = zip(*self.read(fields), strict=True)
        return [None if None in of else min(map(int, of)) for of in held]

    def move(self, epoch: bytes, moves: Moves) -> set[bytes]:
        """Move fields forward; returns those that a witness holds less of than is believed."""
        flat = chain.from_iterable((field, *values) for field, values in moves.items())
        return set(chain(*self._on_each(("EVALSHA", self._move.sha, b"1"), epoch, *flat)))

    def lower(self, fields: Mapping[bytes, bytes]) -> None:
        """Let no witness hold more than this of a field; empty: let none hold any."""
        flat = chain.from_iterable(fields.items())
        self._on_each(("EVALSHA", self._lower.sha, b"1"), *flat)

    def epochs(self) -> set[bytes | None]:
        self._warn()
        return {held[0] for held in self.read([EPOCH])}

    def begin(self, epoch: bytes) -> None:
        """Every witness takes an epoch."""
        self._on_each(("HSET",), EPOCH, epoch)

    def _on_each(self, head: tuple[Any, ...], *rest: Any) -> list[Any]:
        """Run a request on every witness, whose key stands between head and rest."""
        replies = self._cluster.run(each([(*head, key, *rest) for key in self._keys], self._keys))
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _warn(self) -> None:
        """Say so where a node has no witness among its slots."""
        owners = self._cluster.slot_owners()
        blind = np.setdiff1d(owners, owners[[key_slot(key) for key in self._keys]]).tolist()
        if blind and blind != self._warned:
            logger.warning(
                "%d nodes of the Redis Cluster have so few slots that a loss of their data alone "
                "would go unnoticed; give each 512 slots in a row", len(blind)
            )  # fmt: skip
        self._warned = blind


def _tags() -> list[int]:
    """A number for each 64th of the slots whose text has its slot there."""
    found: dict[int, int] = {}
    tag = 0
    while len(found) < WITNESSES:
        found.setdefault(key_slot(b"%d" % tag) * WITNESSES // SLOTS, tag)
        tag += 1
    return [found[part] for part in range(WITNESSES)]
