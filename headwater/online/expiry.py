"""Deletes window state that no window can use any more, a little at a time.

State expires by event time. Redis's own expiry would have to be set again with every write, which
costs as much as the write.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from headwater.catalog import ViewPlan
from headwater.codec import key_prefix
from headwater.online.connect import store_errors
from headwater.online.writer import OnlineWriter
from headwater.windows import WindowProgram

#: Keys that are looked at in one step.
STEP = 1000
_PREFIX = 8


class Sweeper:
    """Walks over the keys; several may, since deleting is atomic and looks again."""

    def __init__(self, writer: OnlineWriter, views: Iterable[ViewPlan]) -> None:
        self._writer = writer
        self._server = self._cursor = 0
        self._reach: dict[bytes, int] = {}
        for view in views:
            reach = WindowProgram.of(view).reach_us if view.kind == "window" else None
            if reach is not None:
                self._reach[key_prefix(writer.project, view)] = reach

    def step(self, now_us: int) -> int:
        """Look at about STEP keys; returns how many were deleted."""
        if not self._reach:
            return 0
        servers = self._writer.scanned()
        server = servers[self._server % len(servers)]
        with store_errors():
            found: Any = server.scan(self._cursor, count=STEP)
        self._cursor, keys = found
        if not self._cursor:
            self._server += 1
        old = [key for key in keys if key[:_PREFIX] in self._reach]
        cuts = [now_us - self._reach[key[:_PREFIX]] for key in old]
        return self._writer.expire(old, cuts)
