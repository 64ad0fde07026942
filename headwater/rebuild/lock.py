"""One rebuild of a project at a time: a key in Redis that expires unless its holder renews it."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import redis
from redis.cluster import RedisCluster

from headwater.errors import RebuildBusyError
from headwater.online.cluster import Cluster
from headwater.online.commands import each
from headwater.online.connect import Client, script, store_errors

#: How long a lock outlives a holder that was killed, milliseconds.
LIFE_MS = 15_000


class RebuildLock:
    """Entered, it is held, and a thread renews it; raises RebuildBusyError where another has it.

    Rebuilds beside each other would be right all the same; they would only do the work twice.
    Deleting state is what must not happen beside another's work, so `unlink` checks the lock: in a
    cluster, where it lies on another node than the keys, by lending them half of its life's rest.
    """

    def __init__(self, client: Client, project: str) -> None:
        self._client, self._key = client, f"headwater:{project}:rebuild"
        self._token = f"{socket.gethostname()} process {os.getpid()} {secrets.token_hex(4)}"
        self._extend = client.register_script(script("extend_lock"))
        self._unlink = client.register_script(script("unlink_held"))
        self._cluster: Cluster | None = None
        if isinstance(client, RedisCluster):
            self._lend = client.register_script(script("lend_lock"))
            self._before = client.register_script(script("unlink_before"))
            self._cluster = Cluster(client, "unlink_before")
        self._done = threading.Event()

    def __enter__(self) -> RebuildLock:
        with store_errors():
            if not self._client.set(self._key, self._token, nx=True, px=LIFE_MS):
                raise self._busy()
        self._done.clear()
        self._renewal = threading.Thread(target=self._renew, daemon=True)
        self._renewal.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._done.set()
        self._renewal.join()
        # Where Redis is down the lock ends by itself.
        with contextlib.suppress(redis.RedisError):
            self._extend([self._key], [self._token, 0])

    def unlink(self, keys: Sequence[bytes]) -> int:
        """Delete keys; returns how many there were. RebuildBusyError when the lock was lost."""
        with store_errors():
            if self._cluster:
                found = self._unlink_lent(self._cluster, keys)
            else:
                found = int(self._unlink([self._key, *keys], [self._token]))
        if found < 0:
            raise self._busy()
        return found

    def _unlink_lent(self, cluster: Cluster, keys: Sequence[bytes]) -> int:
        """As `unlink`; -1 when the lock was lost, or its time was over before a node heard."""
        until: Any = self._lend([self._key], [self._token])
        if until < 0:
            return -1
        calls = [("EVALSHA", self._before.sha, b"1", key, b"%d" % until) for key in keys]
        replies = cluster.run(each(calls, keys))
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return -1 if -1 in replies else sum(replies)

    def _renew(self) -> None:
        while not self._done.wait(LIFE_MS / 5000):
            try:
                self._extend([self._key], [self._token, LIFE_MS])
            except redis.RedisError:
                continue

    def _busy(self) -> RebuildBusyError:
        held = self._client.get(self._key)
        holder = " ".join(held.decode().split()[:-1]) if isinstance(held, bytes) else "another"
        return RebuildBusyError(
            f"a rebuild is running already ({holder}); wait for its end, or stop it: "
            f"its lock ends {LIFE_MS // 1000} s after it"
        )
