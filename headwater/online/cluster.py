"""Runs commands on a Redis Cluster: each on the node that has its slot, all nodes at once.

Whatever is run here may be run again: what a node did not take, because its slots moved or it is
gone, is repeated at once and a few times more.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import hiredis
import numpy as np
import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    TryAgainError,
)

from headwater.errors import StoreUnavailableError
from headwater.interning import Int64
from headwater.online.commands import Commands, pick
from headwater.online.connect import ERRORS, script

SLOTS = 16384
#: Pauses before what failed is repeated, seconds: a failover takes longer, a moved slot does not.
PAUSES = (0.0, 0.02, 0.05, 0.1, 0.2)
#: Bytes sent under one time limit.
SLICE = 1 << 20
_ASKING = hiredis.pack_command((b"ASKING",))
#: Failures of a node or of one answer, after which the same command may succeed.
_PASSING = (
    redis.ConnectionError, redis.TimeoutError, AskError, BusyLoadingError, ClusterDownError,
    NoScriptError, ReadOnlyError, TryAgainError,
)  # fmt: skip


class Cluster:
    """The nodes of a cluster, as a client knows them, and the scripts that they are to know."""

    def __init__(self, client: RedisCluster, *scripts: str) -> None:
        self._client, self._scripts = client, [script(name) for name in scripts]
        self._layout: tuple[Int64, list[ClusterNode]] | None = None

    def run(self, commands: Commands) -> list[Any]:
        """The replies; those that are still errors after some attempts are exceptions."""
        replies: list[Any] = [None] * commands.replies
        left: Int64 = np.arange(commands.replies)
        waits = 0
        for pause in PAUSES:
            time.sleep(pause)
            self._round(commands, left, replies)
            left = _failed(left, replies)
            waits += any(isinstance(replies[i], redis.TimeoutError) for i in left)
            # A node that lets us wait is asked twice: its replica may be in its place by then.
            if not len(left) or waits > 1:
                break
            self._mend(commands, left, replies)
            left = _failed(left, replies)
        return replies

    def primaries(self) -> list[redis.Redis]:
        """A client of each node that has slots."""
        return [self._client.get_redis_connection(node) for node in self._nodes()[1]]

    def slot_owners(self) -> Int64:
        """A number for each slot's primary, -1 where it has none; [16384]."""
        return self._nodes()[0]

    def settled(self) -> list[bytes]:
        """What each primary says of its slots, from the nodes themselves.

        Raises StoreUnavailableError while slots are on their way from one node to another.
        """
        self._refresh()
        said = []
        for node in self.primaries():
            lines: Any = node.execute_command("CLUSTER", "NODES")  # type: ignore[no-untyped-call]
            own = next(line for line in lines.splitlines() if b"myself" in line)
            if b"[" in own:
                raise StoreUnavailableError(
                    "the Redis Cluster is moving slots; deleting a view's state waits for its end"
                )
            said.append(b" ".join(own.split()[:1] + own.split()[8:]))
        return sorted(said)

    # -- one attempt -----------------------------------------------------------------------------

    def _round(self, commands: Commands, left: Int64, replies: list[Any]) -> None:
        """Send what is left to its nodes, then read all answers."""
        owners, nodes = self._nodes()
        owner = owners[commands.slots[left]]  # type: ignore[index]
        order = np.argsort(owner, kind="stable")
        left, owner = left[order], owner[order]
        open_: list[tuple[Any, Any, list[int]]] = []
        for number in np.unique(owner).tolist():
            which = left[owner == number]
            if number < 0:
                _fail(replies, which.tolist(), ClusterDownError("no node has the slot"))
                continue
            pool = self._client.get_redis_connection(nodes[number]).connection_pool
            sent = self._send(pool, memoryview(pick(commands, which)))  # type: ignore[arg-type]
            if isinstance(sent, Exception):
                _fail(replies, which.tolist(), sent)
            else:
                open_.append((pool, sent, which.tolist()))
        for pool, connection, indexes in open_:
            _read(pool, connection, indexes, replies)

    def _send(self, pool: Any, data: memoryview[int]) -> Any:
        """The connection over which the data went, or what failed."""
        try:
            connection = pool.get_connection()
        except ERRORS as error:
            return error
        try:
            connection.send_packed_command(
                [data[at : at + SLICE] for at in range(0, len(data), SLICE)]
            )
        except ERRORS as error:
            connection.disconnect()
            pool.release(connection)
            return error
        except BaseException:
            connection.disconnect()
            pool.release(connection)
            raise
        return connection

    # -- between two attempts --------------------------------------------------------------------

    def _mend(self, commands: Commands, left: Int64, replies: list[Any]) -> None:
        """Do what the failures of an attempt ask for."""
        asked: dict[tuple[str, int], list[int]] = defaultdict(list)
        moved: dict[int, MovedError] = {}
        without: set[int] = set()
        lost = False
        owners = self._nodes()[0]
        for i in left.tolist():
            error = replies[i]
            if isinstance(error, MovedError):
                moved[error.slot_id] = error
            elif isinstance(error, AskError):
                asked[error.host, error.port].append(i)
            elif isinstance(error, NoScriptError):
                without.add(int(owners[commands.slots[i]]))  # type: ignore[index]
            else:
                lost = True
        if without:
            self._load(without)
        for (host, port), indexes in asked.items():
            self._ask(commands, host, port, indexes, replies)
        if lost:
            self._refresh()
        for error in moved.values():
            self._client.nodes_manager.move_slot(error)
        if lost or moved:
            self._layout = None

    def _load(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            with contextlib.suppress(*ERRORS):
                node = self._client.get_redis_connection(self._nodes()[1][number])
                for text in self._scripts:
                    node.script_load(text)

    def _ask(
        self, commands: Commands, host: str, port: int, indexes: Sequence[int], replies: list[Any]
    ) -> None:
        """A slot is on its way to a node, which takes these if it is asked to."""
        node = self._client.get_node(host, port)  # type: ignore[no-untyped-call]
        if node is None:
            self._refresh()
            return
        server = self._client.get_redis_connection(node)
        pool, at = server.connection_pool, commands.at
        data = b"".join(_ASKING + commands.data[at[i] : at[i + 1]].tobytes() for i in indexes)
        sent = self._send(pool, memoryview(data))
        if not isinstance(sent, Exception):
            both: list[Any] = [None] * (2 * len(indexes))
            _read(pool, sent, range(len(both)), both)
            for i, reply in zip(indexes, both[1::2], strict=True):
                replies[i] = reply
            if any(isinstance(replies[i], NoScriptError) for i in indexes):
                with contextlib.suppress(*ERRORS):
                    for text in self._scripts:
                        server.script_load(text)

    def _refresh(self) -> None:
        """Ask the nodes who has which slots."""
        with contextlib.suppress(*ERRORS):
            self._client.nodes_manager.initialize()
        self._layout = None

    def _nodes(self) -> tuple[Int64, list[ClusterNode]]:
        """The number of each slot's primary, and the primaries."""
        if self._layout is None:
            held = dict(self._client.nodes_manager.slots_cache)
            numbers: dict[str, int] = {}
            nodes: list[ClusterNode] = []
            owners: Int64 = np.full(SLOTS, -1)
            for slot, servers in held.items():
                if servers:
                    number = numbers.setdefault(servers[0].name, len(nodes))
                    if number == len(nodes):
                        nodes.append(servers[0])
                    owners[slot] = number
            self._layout = owners, nodes
        return self._layout


def _failed(left: Int64, replies: list[Any]) -> Int64:
    return np.array([i for i in left.tolist() if isinstance(replies[i], _PASSING)], np.int64)


def _read(pool: Any, connection: Any, indexes: Sequence[int], replies: list[Any]) -> None:
    """One reply for each index; after a broken connection all the others are its error."""
    try:
        for at, i in enumerate(indexes):
            try:
                replies[i] = connection.read_response()
            except redis.ResponseError as error:
                replies[i] = error
            except ERRORS as error:
                _fail(replies, indexes[at:], error)
                connection.disconnect()
                break
    except BaseException:
        connection.disconnect()
        raise
    finally:
        pool.release(connection)


def _fail(replies: list[Any], indexes: Sequence[int], error: Exception) -> None:
    for i in indexes:
        replies[i] = error
