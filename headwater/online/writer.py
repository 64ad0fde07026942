"""Writes to Redis: newest-wins rows, versioned window sections, and the clocks of freshness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import redis

from headwater.codec import WINDOW_HEADER
from headwater.errors import StoreUnavailableError

#: Keys in one Lua call: `unpack` in Redis holds 8,000 values, and a call blocks the server.
CHUNK = 1000


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
        self._rows = client.register_script(script("write_rows"))
        self._sections = client.register_script(script("write_sections"))
        self._clock = client.register_script(script("raise_clock"))

    def write_rows(self, keys: Sequence[bytes], rows: Sequence[bytes]) -> int:
        """Packed rows under their keys; an older row never replaces a newer. Returns rows taken."""
        taken = 0
        with store_errors():
            for at in range(0, len(keys), CHUNK):
                taken += int(self._rows(keys[at : at + CHUNK], rows[at : at + CHUNK]))
        return taken

    def write_sections(self, keys: Sequence[bytes], sections: Sequence[bytes]) -> list[int]:
        """Sections under their keys; returns the positions refused for a higher stored offset."""
        refused: list[int] = []
        with store_errors():
            for at in range(0, len(keys), CHUNK):
                part: Any = [WINDOW_HEADER, *sections[at : at + CHUNK]]
                found = self._sections(keys[at : at + CHUNK], part)
                refused.extend(at + int(position) - 1 for position in found)
        return refused

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
                self._clock([clock_key(self.project)], arguments)

    def clocks(self) -> dict[tuple[str, str], int]:
        """(stage, view) -> last event time in microseconds."""
        with store_errors():
            found: Any = self.client.hgetall(clock_key(self.project))
        clocks: dict[tuple[str, str], int] = {}
        for field, value in found.items():
            stage, view = field.decode().split("|", 1)
            clocks[stage, view] = int(value)
        return clocks

    def delete_prefix(self, prefix: bytes) -> int:
        """Delete every key of one view's prefix and no other; returns how many there were."""
        pattern = bytes(prefix) + b"{*"
        deleted = 0
        with store_errors():
            batch: list[bytes] = []
            for key in self.client.scan_iter(match=pattern, count=1000):
                batch.append(key)
                if len(batch) == CHUNK:
                    deleted += int(self.client.unlink(*batch))
                    batch = []
            if batch:
                deleted += int(self.client.unlink(*batch))
        return deleted
