"""Writes to Redis: newest-wins rows, versioned window sections, and the clocks of freshness."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import redis
from redis.cluster import RedisCluster

from headwater.interning import Texts
from headwater.online.cluster import SLICE, Cluster
from headwater.online.commands import CHUNK, Commands, each, evalsha, mget, msetnx, slots
from headwater.online.connect import Client, script, store_errors

SCRIPTS = ("write_rows", "write_sections", "raise_clock", "expire_sections")
#: Keys whose values are asked for before the first is read: they wait in the server's memory.
READ_AHEAD = 10_000


def clock_key(project: str) -> str:
    """The hash that holds the last event time of each view, fields `<stage>|<view>`."""
    return f"headwater:{project}:clocks"


class OnlineWriter:
    """Writes packed values. Every call is atomic for each key and may be repeated freely."""

    def __init__(self, client: Client, project: str) -> None:
        self.client = client
        self.project = project
        self._scripts = {name: client.register_script(script(name)) for name in SCRIPTS}
        self._cluster: Cluster | None = None
        if isinstance(client, RedisCluster):
            self._cluster = Cluster(client, *SCRIPTS)
        # A cluster takes a command only where all of its keys are in one slot.
        self._chunk = 1 if self._cluster else CHUNK

    def write_rows(self, keys: Sequence[bytes], rows: Sequence[bytes]) -> int:
        """Packed rows under their keys; an older row never replaces a newer. Returns rows taken."""
        if self._cluster:
            return sum(self._each("write_rows", keys, rows))
        taken = 0
        with store_errors():
            for at in range(0, len(keys), CHUNK):
                part = rows[at : at + CHUNK]
                taken += int(self._scripts["write_rows"](keys[at : at + CHUNK], part))
        return taken

    def load_rows(self, prefix: bytes, keys: Texts, rows: Texts) -> None:
        """Packed rows under distinct keys that Redis mostly does not hold yet.

        MSETNX takes a chunk whole where every key is new, at a fraction of the script's cost;
        the other chunks go through the script, where an older row never replaces a newer.
        """
        replies = self.run(self._keyed(msetnx(prefix, keys, rows, self._chunk), prefix, keys))
        if self._cluster and not all(map(int, replies)):
            self.run(self.rows(prefix, keys, rows))
            return
        for i in [i for i, taken in enumerate(replies) if not int(taken)]:
            cut = slice(i * CHUNK, (i + 1) * CHUNK + 1)
            self.run(self.rows(prefix, Texts(keys.data, keys.at[cut]),
                               Texts(rows.data, rows.at[cut])))  # fmt: skip

    def rows(self, prefix: bytes, keys: Texts, rows: Texts) -> Commands:
        """What writes packed rows under `<prefix>{<text>}`; each reply is how many were taken."""
        return self._evalsha("write_rows", prefix, keys, rows)

    def sections(self, prefix: bytes, keys: Texts, values: Texts) -> Commands:
        """What writes values of one section each; a reply lists what a higher offset refused."""
        return self._evalsha("write_sections", prefix, keys, values)

    def _evalsha(self, name: str, prefix: bytes, keys: Texts, values: Texts) -> Commands:
        calls = evalsha(self._scripts[name].sha, prefix, keys, values, self._chunk)
        return self._keyed(calls, prefix, keys)

    def _keyed(self, commands: Commands, prefix: bytes, keys: Texts) -> Commands:
        """For a cluster, with the slots of the keys."""
        return commands._replace(slots=slots(prefix, keys)) if self._cluster else commands

    def _each(self, name: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> list[Any]:
        """A script on each key, for a cluster."""
        sha = self._scripts[name].sha
        calls = [
            ("EVALSHA", sha, "1", key, argument)
            for key, argument in zip(keys, arguments, strict=True)
        ]
        return self.run(each(calls, keys))

    def run(self, commands: Commands) -> list[Any]:
        """Send commands in one go; their replies. Errors are raised after the last reply."""
        with store_errors():
            replies = self._cluster.run(commands) if self._cluster else self._run(commands)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies

    def _run(self, commands: Commands) -> list[Any]:
        """On the one server."""
        replies = self._sent(commands)
        if any(isinstance(reply, redis.exceptions.NoScriptError) for reply in replies):
            # A server that restarted has forgotten the scripts; what was written stays right.
            for script_ in self._scripts.values():
                self.client.script_load(script_.script)
            replies = self._sent(commands)
        return replies

    def _sent(self, commands: Commands) -> list[Any]:
        pool = self.client.connection_pool  # type: ignore[union-attr]
        connection = pool.get_connection()
        try:
            data = memoryview(commands.data)  # type: ignore[arg-type]
            # A time limit is one of a slice, not of however much there is.
            connection.send_packed_command(
                [data[at : at + SLICE] for at in range(0, len(data), SLICE)]
            )
            replies: list[Any] = []
            for _ in range(commands.replies):
                try:
                    replies.append(connection.read_response())
                except redis.ResponseError as error:
                    replies.append(error)
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)
        return replies

    def read_texts(self, prefix: bytes, keys: Texts) -> list[bytes | None]:
        """The values of the keys `<prefix>{<text>}`, None where there is none."""
        found: list[bytes | None] = []
        for at in range(0, len(keys), READ_AHEAD):
            part = Texts(keys.data, keys.at[at : at + READ_AHEAD + 1])
            for values in self.run(self._keyed(mget(prefix, part, self._chunk), prefix, part)):
                found += values
        return found

    def expire(self, keys: Sequence[bytes], cuts_us: Sequence[int]) -> int:
        """Delete windowed values all of whose tiles begin before a time each; returns how many."""
        if self._cluster:
            return sum(self._each("expire_sections", keys, [b"%d" % cut for cut in cuts_us]))
        gone = 0
        with store_errors():
            for at in range(0, len(keys), CHUNK):
                part: Any = cuts_us[at : at + CHUNK]
                gone += int(self._scripts["expire_sections"](keys[at : at + CHUNK], part))
        return gone

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys, None where there is none."""
        if self._cluster:
            return self.run(each([("GET", key) for key in keys], keys))
        found: list[bytes | None] = []
        with store_errors():
            for at in range(0, len(keys), CHUNK):
                part: Any = self.client.mget(keys[at : at + CHUNK])
                found.extend(part)
        return found

    def raise_clocks(self, times: Mapping[tuple[str, str], int]) -> None:
        """Move (stage, view) -> last event time forward, in microseconds; never back.

        A time ahead of the clock moves it to now: it would hide that nothing comes any more.
        """
        if times:
            now_us = time.time_ns() // 1000
            arguments: list[str | int] = []
            for (stage, view), event_us in times.items():
                arguments += [f"{stage}|{view}", min(int(event_us), now_us)]
            with store_errors():
                self._scripts["raise_clock"]([clock_key(self.project)], arguments)

    def clocks(self) -> dict[tuple[str, str], int]:
        """(stage, view) -> last event time in microseconds."""
        with store_errors():
            found: Any = self.client.hgetall(clock_key(self.project))
        clocks: dict[tuple[str, str], int] = {}
        for field, value in found.items():
            stage, view = field.decode().split("|", 1)
            clocks[stage, view] = int(value)
        return clocks

    def now_us(self) -> int:
        """The time at which it is late enough for anything, microseconds.

        A clock of this machine that is ahead must neither show nor delete anything before its
        time, so the servers' clocks have a say as well; the earliest counts.
        """
        with store_errors():
            told: list[Any] = [server.time() for server in self.scanned()]
        servers = min(int(seconds) * 1_000_000 + int(micros) for seconds, micros in told)
        return min(time.time_ns() // 1000, servers)

    def scanned(self) -> list[redis.Redis]:
        """A client of each server whose keys SCAN gives: the one, or all of a cluster's."""
        if self._cluster:
            with store_errors():
                return self._cluster.primaries()
        return [self.client]  # type: ignore[list-item]

    def delete_prefix(
        self, prefix: bytes, unlink: Callable[[Sequence[bytes]], int] | None = None
    ) -> int:
        """Delete every key of one view's prefix and no other; returns how many there were.

        unlink: deletes some keys and returns how many there were, in place of Redis's UNLINK.
        Raises StoreUnavailableError while a cluster moves slots: SCAN may miss keys on their way.
        """
        deleted = 0
        with store_errors():
            while True:
                before = self._cluster.settled() if self._cluster else []
                deleted += self._delete_prefix(prefix, unlink or self._unlink)
                if not self._cluster or self._cluster.settled() == before:
                    return deleted

    def _delete_prefix(self, prefix: bytes, unlink: Callable[[Sequence[bytes]], int]) -> int:
        deleted = 0
        for server in self.scanned():
            batch: list[bytes] = []
            for key in server.scan_iter(match=bytes(prefix) + b"{*", count=1000):
                batch.append(key)
                if len(batch) == CHUNK:
                    deleted += int(unlink(batch))
                    batch = []
            if batch:
                deleted += int(unlink(batch))
        return deleted

    def _unlink(self, keys: Sequence[bytes]) -> int:
        if self._cluster:
            return sum(self.run(each([("UNLINK", key) for key in keys], keys)))
        found: Any = self.client.unlink(*keys)
        return int(found)
