"""Writes to Redis: newest-wins rows, versioned window sections, and the clocks of freshness."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import redis

from headwater.errors import StoreUnavailableError
from headwater.interning import Texts
from headwater.online.commands import CHUNK, Commands, evalsha, mget, msetnx

SCRIPTS = ("write_rows", "write_sections", "raise_clock", "expire_sections")
#: Bytes sent under one time limit.
SLICE = 1 << 20
#: Keys whose values are asked for before the first is read: they wait in the server's memory.
READ_AHEAD = 10_000


def script(name: str) -> str:
    """The text of a Lua script of this package."""
    return (files("headwater.online") / f"{name}.lua").read_text()


def clock_key(project: str) -> str:
    """The hash that holds the last event time of each view, fields `<stage>|<view>`."""
    return f"headwater:{project}:clocks"


def connect(url: str, timeout_seconds: float = 5.0) -> redis.Redis:
    """A client with bounded waits. Raises StoreUnavailableError where nothing answers."""
    client = redis.Redis.from_url(
        url, socket_timeout=timeout_seconds, socket_connect_timeout=timeout_seconds
    )
    with store_errors():
        client.ping()
    return client


@contextmanager
def store_errors() -> Iterator[None]:
    """Redis's failures, as the error that says to try again."""
    try:
        yield
    except redis.RedisError as error:
        raise StoreUnavailableError(
            f"Redis did not take the request ({type(error).__name__}: {error}); "
            "check REDIS_URL and that the server is up"
        ) from error


class OnlineWriter:
    """Writes packed values. Every call is atomic for each key and may be repeated freely."""

    def __init__(self, client: redis.Redis, project: str) -> None:
        self.client = client
        self.project = project
        self._scripts = {name: client.register_script(script(name)) for name in SCRIPTS}

    def write_rows(self, keys: Sequence[bytes], rows: Sequence[bytes]) -> int:
        """Packed rows under their keys; an older row never replaces a newer. Returns rows taken."""
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
        replies = self.run(msetnx(prefix, keys, rows))
        for i in [i for i, taken in enumerate(replies) if not int(taken)]:
            cut = slice(i * CHUNK, (i + 1) * CHUNK + 1)
            self.run(self.rows(prefix, Texts(keys.data, keys.at[cut]),
                               Texts(rows.data, rows.at[cut])))  # fmt: skip

    def rows(self, prefix: bytes, keys: Texts, rows: Texts) -> Commands:
        """What writes packed rows under `<prefix>{<text>}`; each reply is how many were taken."""
        return evalsha(self._scripts["write_rows"].sha, prefix, keys, rows)

    def sections(self, prefix: bytes, keys: Texts, values: Texts) -> Commands:
        """What writes values of one section each; a reply lists what a higher offset refused."""
        return evalsha(self._scripts["write_sections"].sha, prefix, keys, values)

    def run(self, commands: Commands) -> list[Any]:
        """Send commands in one go; their replies. Errors are raised after the last reply."""
        with store_errors():
            replies = self._run(commands)
            if any(isinstance(reply, redis.exceptions.NoScriptError) for reply in replies):
                # A server that restarted has forgotten the scripts; what was written stays right.
                for script_ in self._scripts.values():
                    self.client.script_load(script_.script)
                replies = self._run(commands)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies

    def _run(self, commands: Commands) -> list[Any]:
        pool = self.client.connection_pool
        connection = pool.get_connection()
        try:
            data = memoryview(commands.data)  # type: ignore[arg-type]
            # A time limit is one of a slice, not of however much there is.
            connection.send_packed_command(  # type: ignore[no-untyped-call]
                [data[at : at + SLICE] for at in range(0, len(data), SLICE)]
            )
            replies: list[Any] = []
            for _ in range(commands.replies):
                try:
                    replies.append(connection.read_response())
                except redis.ResponseError as error:
                    replies.append(error)
        except BaseException:
            connection.disconnect()  # type: ignore[no-untyped-call]
            raise
        finally:
            pool.release(connection)
        return replies

    def read_texts(self, prefix: bytes, keys: Texts) -> list[bytes | None]:
        """The values of the keys `<prefix>{<text>}`, None where there is none."""
        found: list[bytes | None] = []
        for at in range(0, len(keys), READ_AHEAD):
            part = Texts(keys.data, keys.at[at : at + READ_AHEAD + 1])
            for values in self.run(mget(prefix, part)):
                found += values
        return found

    def expire(self, keys: Sequence[bytes], cuts_us: Sequence[int]) -> int:
        """Delete windowed values all of whose tiles begin before a time each; returns how many."""
        gone = 0
        with store_errors():
            for at in range(0, len(keys), CHUNK):
                part: Any = cuts_us[at : at + CHUNK]
                gone += int(self._scripts["expire_sections"](keys[at : at + CHUNK], part))
        return gone

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys, None where there is none."""
        found: list[bytes | None] = []
        with store_errors():
            for at in range(0, len(keys), CHUNK):
                part: Any = self.client.mget(keys[at : at + CHUNK])
                found.extend(part)
        return found

    def raise_clocks(self, times: Mapping[tuple[str, str], int]) -> None:
        """Move (stage, view) -> last event time forward, in microseconds; never back."""
        if times:
            arguments: list[str | int] = []
            for (stage, view), event_us in times.items():
                arguments += [f"{stage}|{view}", int(event_us)]
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

    def delete_prefix(
        self, prefix: bytes, unlink: Callable[[Sequence[bytes]], int] | None = None
    ) -> int:
        """Delete every key of one view's prefix and no other; returns how many there were.

        unlink: deletes some keys and returns how many there were, in place of Redis's UNLINK.
        """
        delete: Any = unlink or (lambda keys: self.client.unlink(*keys))
        deleted = 0
        with store_errors():
            batch: list[bytes] = []
            for key in self.client.scan_iter(match=bytes(prefix) + b"{*", count=1000):
                batch.append(key)
                if len(batch) == CHUNK:
                    deleted += int(delete(batch))
                    batch = []
            if batch:
                deleted += int(delete(batch))
        return deleted
